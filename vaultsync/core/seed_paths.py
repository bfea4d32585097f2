"""VAULTSYNC_SEED_PATHS: the globs that limit where vaultsync creates values for a Kubernetes namespace. Pure.

vaultsync's token can write more than the author of an ExternalSecret may. Authors choose the key and the SecretStore
(path, KV version, Vault namespace), but not the name and labels of the Namespace: only these are inserted into globs.
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
"""Pattern of a segment: the literals between its `*`s."""
Pattern: TypeAlias = tuple[Pieces | None, ...]
"""Patterns of segments; None is `**`: any number of segments."""
_ANY: Final[Pieces] = ("", "")


class _Unfilled(Exception):
    """A glob does not apply to this namespace; the message says why."""


@dataclass(frozen=True, slots=True)
class _Placeholder:
    """The Namespace's name, or the value of one of its labels."""

    text: str
    label: str | None = None

    def value(self, namespace: Namespace) -> str:
        """The value for a namespace.

        Raises:
            _Unfilled: there is none, or it can't be part of a segment.
        """
        value = namespace.name if self.label is None else namespace.labels.get(self.label)
        what = "name" if self.label is None else f"label {self.label}"
        if value is None:
            raise _Unfilled(f"the namespace has no {what}")
        if not value:
            raise _Unfilled(f"the namespace's {what} is empty")
        if unsafe_reason(value) or "/" in value:  # Kubernetes rejects such names and values
            raise _Unfilled(f"the namespace's {what} can't be part of a path")
        return value


_Part: TypeAlias = str | _Placeholder
"""Literal text, _STAR, _DEEP or a placeholder."""


@dataclass(frozen=True, slots=True)
class _Filled:
    """A glob for one namespace."""

    text: str
    of_mount: bool
    pattern: Pattern

    def matches(self, mount: Sequence[str], inner: Sequence[str]) -> bool:
        """Whether it matches the path with these segments of the mount's path and within the mount."""
        return _matches(self.pattern, inner if self.of_mount else [*mount, *inner])


@dataclass(frozen=True, slots=True)
class Shape:
    """A glob for all namespaces: each placeholder matches like a `*`.

    Attributes:
        text: of the setting.
        vault_namespace: "" for the root.
    """

    text: str
    vault_namespace: str
    _of_mount: bool
    _pattern: Pattern

    def inside(self, mount: str) -> frozenset[Pattern]:
        """The remaining patterns within a mount, for each way in which the beginning of the glob matches it."""
        if self._of_mount:
            return frozenset({self._pattern})
        rests = {self._pattern}
        for segment in mount.strip("/").split("/"):
            rests = {rest for before in rests for rest in _rests(before, segment)}
        return frozenset(rests - {()})


@dataclass(frozen=True, slots=True)
class _Glob:
    """A glob; `vault_namespace` is None for vaultsync's own."""

    text: str
    vault_namespace: str | None
    segments: tuple[tuple[_Part, ...], ...]

    def filled(self, namespace: Namespace) -> _Filled:
        """The glob for a namespace.

        Raises:
            _Unfilled: it does not apply to it.
        """
        parts = [part for segment in self.segments for part in segment]
        values = {part.text: part.value(namespace) for part in parts if isinstance(part, _Placeholder)}
        text = _PLACEHOLDER.sub(lambda found: values[found[0]], self.text)
        pattern = self._pattern(lambda part: (values[part.text],))
        if pattern[-1] is None:
            pattern.insert(-1, _ANY)  # at the end it matches at least one segment
        return _Filled(text, self._of_mount, tuple(pattern))

    def shape(self, own_namespace: str) -> Shape:
        """The glob for all namespaces."""
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

    A glob matches the logical path segment by segment: the mount's path and the path within it, without the API's
    `data/`. `*` matches one segment or a part of one, `**` any number of segments, and at least one at the end. A first
    segment `*` matches the whole path of the mount, however many segments it has, and nothing else; otherwise a
    namespace `kv` would own all of the mount `team/kv/` by `*/{namespace}/**`. Any other first segment matches segments
    of the mount's path. `{namespace}` is the name of the Kubernetes namespace, `{label:KEY}` the value of its label;
    both are inserted as literal text.
    A glob applies to vaultsync's own Vault namespace, or to the one before its first colon (`team-a:*/x`; relative to
    the root, and `root` is the root).
    """

    globs: tuple[_Glob, ...]
    own_namespace: str

    @classmethod
    def parse(cls, globs: Sequence[str], own_namespace: str = "") -> "SeedPaths":
        """Parse the globs.

        Args:
            globs: at least one.
            own_namespace: vaultsync's own Vault namespace, "" for the root.

        Raises:
            ValueError: a glob is not valid; the message names the glob, the segment (by number), and what is valid.
        """
        if not globs:
            raise ValueError("must hold at least one glob; to create nothing set VAULTSYNC_SEED to off")
        parsed = tuple(_parse(glob, f"glob {number}") for number, glob in enumerate(globs, 1))
        return cls(parsed, clean_namespace(own_namespace))

    def refusal(self, path: VaultPath, mount: Mount, namespace: Namespace) -> str:
        """Why the path may not be created for a Kubernetes namespace, "" if it may.

        Args:
            path: that external-secrets requests.
            mount: of the path, as Vault reports it.
            namespace: the ExternalSecret's.
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
        """The globs for all namespaces."""
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
    """The segments within the mount, None if the path is not certainly a secret of it.

    Vault also accepts a Vault namespace in the path (https://developer.hashicorp.com/vault/docs/enterprise/namespaces),
    and then returns the mount relative to the root (pathInternalUIMountRead in vault/logical_system.go). Requested in
    another namespace than the root, such a path does not start with the mount. Requested in the root it does: Vault's
    answer does not distinguish `team-a/` + `secret/` from a mount `team-a/secret/`.
    """
    if clean(api_path) != api_path or not api_path.startswith(mount.path):
        return None
    inner = v2_path(mount, api_path) if mount.kv == 2 else api_path[len(mount.path) :]
    return inner.split("/") if inner else None


def _parse(glob: str, where: str) -> _Glob:
    head, path = _halves(glob, where)
    segments: list[list[_Part]] = [[]]
    for part in _PLACEHOLDER.split(path):
        if part.startswith("{") and part.endswith("}"):
            segments[-1].append(_placeholder(part, f"{where}, segment {len(segments)}"))
            continue
        first, *others = part.split("/")
        segments[-1] += _split_stars(first)
        segments += [_split_stars(other) for other in others]
    for number, segment in enumerate(segments, 1):
        problem = _problem(segment, f"{where}, segment {number}")
        if problem:
            raise ValueError(f"{problem}; {_RIGHT}")
    if len(segments) == 1 and segments[0] != [_DEEP]:
        raise ValueError(f"{where} names a mount alone; it must go on with what may be created in it, such as */**")
    return _Glob(glob, head, tuple(tuple(segment) for segment in segments))


def _halves(glob: str, where: str) -> tuple[str | None, str]:
    """The Vault namespace before the first colon outside of braces, None if there is none; and the rest."""
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


def _split_stars(text: str) -> list[_Part]:
    return [part for part in re.split(r"(\*+)", text) if part]


def _problem(segment: Sequence[_Part], where: str) -> str:
    """What is wrong with a segment, "" if nothing."""
    stars = [part for part in segment if isinstance(part, str) and part.startswith(_STAR)]
    if segment != [_DEEP] and any(part != _STAR for part in stars):
        return f"{where} holds ** glued to something else"
    plain = "".join(part if isinstance(part, str) and not part.startswith(_STAR) else "x" for part in segment)
    return unsafe_reason(plain, where)


def _pieces(segment: Sequence[_Part], meant: Callable[[_Placeholder], Pieces]) -> Pieces | None:
    if segment == (_DEEP,):
        return None
    pieces = [""]
    for part in segment:
        if isinstance(part, str):
            first, *others = _ANY if part == _STAR else (part,)
        else:
            first, *others = meant(part)
        pieces[-1] += first
        pieces += others
    return tuple(pieces)


def _rests(pattern: Pattern, segment: str) -> Iterator[Pattern]:
    """The remaining patterns after the beginning of the pattern has matched a segment."""
    for number, wanted in enumerate(pattern):
        if wanted is not None:
            if _fits(wanted, segment):
                yield pattern[number + 1 :]
            return
        yield pattern[number:]  # ** continues, or matches no segment


def _matches(pattern: Pattern, segments: Sequence[str]) -> bool:
    """Match without backtracking: `fits[n]` is whether the first n patterns match the segments so far."""
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
    """Whether the segment consists of the pieces with any text between them; the leftmost occurrence is sufficient."""
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
