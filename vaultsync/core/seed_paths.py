"""Where vaultsync may create values: VAULTSYNC_SEED_PATHS parsed, and asked for one path and Kubernetes namespace.

vaultsync's token reaches further than the author of an ExternalSecret may. Authors choose the key and their
SecretStore (path, KV version, Vault namespace), not the Namespace's name and labels: only the latter fill globs in.
Pure; what a mount is and what a key stands for comes from core.paths.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from vaultsync.core.external_secret import Namespace
from vaultsync.core.paths import Mount, VaultPath, clean, clean_namespace, logical, unsafe_reason, v2_path

VARIABLE: Final = "VAULTSYNC_SEED_PATHS"
DEFAULT: Final = ("*/{namespace}/**", "*/{namespace}")

_STAR, _DEEP = "*", "**"
_PLACEHOLDER = re.compile(r"(\{[^{}]*\})")
_LABEL_KEY = re.compile(r"([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
_RIGHT = "a segment is ** alone, or ASCII text with *, {namespace} and {label:KEY} in it"

Pieces: TypeAlias = tuple[str, ...]
"""One segment to match: the literals between its `*`s."""
Pattern: TypeAlias = tuple[Pieces | None, ...]
"""Segments to match; None is `**`: any number of segments."""
_ANY: Final[Pieces] = ("", "")


class _Unfilled(Exception):
    """A glob that stands for nothing in this namespace; the message says why."""


@dataclass(frozen=True, slots=True)
class _Placeholder:
    """The Namespace's name, or the value of one of its labels."""

    text: str
    label: str | None = None

    def value(self, namespace: Namespace) -> str:
        """What stands in its place.

        Raises:
            _Unfilled: there is nothing, or nothing that is part of one segment.
        """
        value = namespace.name if self.label is None else namespace.labels.get(self.label)
        what = "name" if self.label is None else f"label {self.label}"
        if value is None:
            raise _Unfilled(f"the namespace has no {what}")
        if not value:
            raise _Unfilled(f"the namespace's {what} is empty")
        if unsafe_reason(value) or "/" in value:  # Kubernetes lets none through
            raise _Unfilled(f"the namespace's {what} can't be part of a path")
        return value


_Token: TypeAlias = str | _Placeholder
"""Text without wildcards, _STAR, _DEEP or a placeholder."""


@dataclass(frozen=True, slots=True)
class _Filled:
    """A glob for one namespace."""

    text: str
    of_mount: bool
    pattern: Pattern

    def matches(self, mount: Sequence[str], inner: Sequence[str]) -> bool:
        """Whether it matches the path with these segments of the mount and within it."""
        return _matches(self.pattern, inner if self.of_mount else [*mount, *inner])


@dataclass(frozen=True, slots=True)
class Shape:
    """A glob for namespaces of any name and labels: each placeholder is as a `*`.

    Attributes:
        text: as it was written.
        vault_namespace: the one it is for, "" for the root.
    """

    text: str
    vault_namespace: str
    _of_mount: bool
    _pattern: Pattern

    def inside(self, mount: str) -> frozenset[Pattern]:
        """What it lets follow on a mount's path, for each way in which its beginning can stand for the mount."""
        if self._of_mount:
            return frozenset({self._pattern})
        rests = {self._pattern}
        for segment in mount.strip("/").split("/"):
            rests = {rest for before in rests for rest in _rests(before, segment)}
        return frozenset(rests - {()})


@dataclass(frozen=True, slots=True)
class _Glob:
    """One glob; `vault_namespace` None: vaultsync's own."""

    text: str
    vault_namespace: str | None
    segments: tuple[tuple[_Token, ...], ...]

    def filled(self, namespace: Namespace) -> _Filled:
        """The glob for this namespace.

        Raises:
            _Unfilled: it stands for nothing there.
        """
        tokens = [token for segment in self.segments for token in segment]
        values = {token.text: token.value(namespace) for token in tokens if isinstance(token, _Placeholder)}
        text = _PLACEHOLDER.sub(lambda found: values[found[0]], self.text)
        pattern = self._pattern(lambda token: (values[token.text],))
        if pattern[-1] is None:
            pattern.insert(-1, _ANY)  # at the end at least one segment
        return _Filled(text, self._of_mount, tuple(pattern))

    def shape(self, own_namespace: str) -> Shape:
        """The glob for any namespace."""
        where = own_namespace if self.vault_namespace is None else self.vault_namespace
        return Shape(self.text, where, self._of_mount, tuple(self._pattern(lambda _: _ANY)))

    @property
    def _of_mount(self) -> bool:
        return self.segments[0] == (_STAR,)

    def _pattern(self, meant: Callable[[_Placeholder], Pieces]) -> list[Pieces | None]:
        return [_pieces(segment, meant) for segment in self.segments[1 if self._of_mount else 0 :]]


@dataclass(frozen=True, slots=True)
class SeedPaths:
    """The globs of VAULTSYNC_SEED_PATHS.

    A glob is matched exactly, segment by segment, with the logical path: the mount's path and the one within, without
    the API's `data/`. `*` is one segment or a part of one, `**` any number of segments, at the end at least one.
    A first segment `*` stands for the whole mount, however many segments its path has, and for nothing else: else a
    namespace `kv` would own all of the mount `team/kv/` by `*/{namespace}/**`, as it does by `**/{namespace}/**` or
    `team/{namespace}/**`: any other first segment is matched with the mount's own segments. `{namespace}` is the
    Kubernetes namespace's name, `{label:KEY}` the value of a label of the Namespace; both are put in as text, never as
    a glob.
    A glob is for vaultsync's own Vault namespace, or for the one that stands before its first colon (`team-a:*/x`;
    from the root down, and `root` is the root).
    """

    globs: tuple[_Glob, ...]
    own_namespace: str

    @classmethod
    def parse(cls, globs: Sequence[str], own_namespace: str = "") -> "SeedPaths":
        """Read the globs.

        Args:
            globs: one or more.
            own_namespace: vaultsync's own Vault namespace, "" for the root.

        Raises:
            ValueError: what is wrong, in which glob and segment (by number), and what would be right.
        """
        if not globs:
            raise ValueError("must hold at least one glob; to create nothing set VAULTSYNC_SEED to off")
        parsed = tuple(_parse(glob, f"glob {number}") for number, glob in enumerate(globs, 1))
        return cls(parsed, clean_namespace(own_namespace))

    def refusal(self, path: VaultPath, mount: Mount, namespace: Namespace) -> str:
        """Why the path may not be created for the Kubernetes namespace, "" if it may.

        Args:
            path: the secret, as external-secrets requests it.
            mount: the mount that Vault names for it.
            namespace: the ExternalSecret's namespace.
        """
        shown = self._shown(path, mount)
        inner = _inside(path.path, mount)
        if inner is None:
            return (
                f"{shown} may not be created: it is no secret's path in the KV v{mount.kv} mount {mount.path}, which "
                "Vault names for it; a Vault namespace belongs in the store's spec.provider.vault.namespace"
            )
        allowed: list[str] = []
        unfilled: list[str] = []
        for glob in self.globs:
            try:
                filled = glob.filled(namespace)
            except _Unfilled as reason:
                unfilled.append(f"{glob.text} stands for nothing, as {reason}")
                continue
            if self._is_for(glob, path) and filled.matches(mount.path.strip("/").split("/"), inner):
                return ""
            allowed.append(filled.text)
        return (
            f"{shown} may not be created for namespace {namespace.name}: {VARIABLE} allows it to create "
            + "; ".join([" and ".join(allowed) + self._whose(path) if allowed else "nothing", *unfilled])
        )

    def shapes(self) -> tuple[Shape, ...]:
        """The globs as they are before any namespace is known."""
        return tuple(glob.shape(self.own_namespace) for glob in self.globs)

    def _is_for(self, glob: _Glob, path: VaultPath) -> bool:
        where = self.own_namespace if glob.vault_namespace is None else glob.vault_namespace
        return where == path.namespace

    def _shown(self, path: VaultPath, mount: Mount) -> str:
        place = "" if path.namespace == self.own_namespace else f"{path.namespace or 'root'}:"
        return place + logical(mount, path.path)

    def _whose(self, path: VaultPath) -> str:
        own = path.namespace == self.own_namespace
        return "" if own else " (a glob without a colon is for vaultsync's own Vault namespace)"


def _inside(api_path: str, mount: Mount) -> list[str] | None:
    """The segments within the mount, None where the path is not plainly a secret of it.

    Vault takes a Vault namespace in the path too (https://developer.hashicorp.com/vault/docs/enterprise/namespaces)
    and then names the mount from the root down (pathInternalUIMountRead in vault/logical_system.go): asked from below
    the root, such a path does not start with it. Asked from the root it does: nothing in Vault's answer tells
    `team-a/` + `secret/` from a mount `team-a/secret/`.
    """
    if clean(api_path) != api_path or not api_path.startswith(mount.path):
        return None
    inner = v2_path(mount, api_path) if mount.kv == 2 else api_path[len(mount.path) :]
    return inner.split("/") if inner else None


def _parse(glob: str, where: str) -> _Glob:
    head, path = _halves(glob, where)
    segments: list[list[_Token]] = [[]]
    for part in _PLACEHOLDER.split(path):
        if part.startswith("{") and part.endswith("}"):
            segments[-1].append(_placeholder(part, f"{where}, segment {len(segments)}"))
            continue
        first, *others = part.split("/")
        segments[-1] += _tokens(first)
        segments += [_tokens(other) for other in others]
    for number, segment in enumerate(segments, 1):
        problem = _problem(segment, f"{where}, segment {number}")
        if problem:
            raise ValueError(f"{problem}; {_RIGHT}")
    if len(segments) == 1 and segments[0] != [_DEEP]:
        raise ValueError(f"{where} names a mount alone; it must go on with what may be created in it, such as */**")
    return _Glob(glob, head, tuple(tuple(segment) for segment in segments))


def _halves(glob: str, where: str) -> tuple[str | None, str]:
    """The Vault namespace before the first colon that is not in braces, None where there is none; and the rest."""
    colon = _PLACEHOLDER.sub(lambda found: "-" * len(found[0]), glob).find(":")
    if colon < 0:
        return None, glob
    head = glob[:colon]
    problem = unsafe_reason(head, f"{where}, Vault namespace")
    if problem:
        raise ValueError(f"{problem}; before a colon stands a Vault namespace by name, or root")
    return clean_namespace(head), glob[colon + 1 :]


def _placeholder(part: str, where: str) -> _Placeholder:
    if part == "{namespace}":
        return _Placeholder(part)
    kind, _, key = part[1:-1].partition(":")
    if kind != "label":
        raise ValueError(f"{where} holds an unknown placeholder; there are {{namespace}} and {{label:KEY}}")
    if not _LABEL_KEY.fullmatch(key):
        raise ValueError(
            f"{where} holds a placeholder without a label's key; it must be such as {{label:example.com/team}}"
        )
    return _Placeholder(part, key)


def _tokens(text: str) -> list[_Token]:
    return [part for part in re.split(r"(\*+)", text) if part]


def _problem(segment: Sequence[_Token], where: str) -> str:
    """What is wrong with a segment, "" if nothing."""
    stars = [token for token in segment if isinstance(token, str) and token.startswith(_STAR)]
    if segment != [_DEEP] and any(token != _STAR for token in stars):
        return f"{where} holds ** glued to something else"
    plain = "".join(token if isinstance(token, str) and not token.startswith(_STAR) else "x" for token in segment)
    return unsafe_reason(plain, where)


def _pieces(segment: Sequence[_Token], meant: Callable[[_Placeholder], Pieces]) -> Pieces | None:
    if segment == (_DEEP,):
        return None
    pieces = [""]
    for token in segment:
        if isinstance(token, str):
            first, *others = _ANY if token == _STAR else (token,)
        else:
            first, *others = meant(token)
        pieces[-1] += first
        pieces += others
    return tuple(pieces)


def _rests(pattern: Pattern, segment: str) -> Iterator[Pattern]:
    """What may follow in a path once the pattern's beginning has matched the segment."""
    for number, wanted in enumerate(pattern):
        if wanted is not None:
            if _fits(wanted, segment):
                yield pattern[number + 1 :]
            return
        yield pattern[number:]  # ** goes on, or stands for nothing


def _matches(pattern: Pattern, segments: Sequence[str]) -> bool:
    """Row by row, without going back: `fits[n]` is whether the first n of the pattern match the segments so far."""
    fits = [True]
    for wanted in pattern:
        fits.append(fits[-1] and wanted is None)
    for segment in segments:
        before, fits = fits, [False]
        for number, wanted in enumerate(pattern):
            if wanted is None:
                fits.append(before[number + 1] or fits[number])
            else:
                fits.append(before[number] and _fits(wanted, segment))
    return fits[-1]


def _fits(pieces: Pieces, segment: str) -> bool:
    """Whether the segment is the pieces with anything between them; the leftmost find of each is enough."""
    first, *others = pieces
    if not others:
        return segment == first
    if not segment.startswith(first):
        return False
    at, last = len(first), others.pop()
    for piece in others:
        found = segment.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return len(segment) - at >= len(last) and segment.endswith(last)
