"""VAULTSYNC_SEED_PATHS: the globs that limit where vaultsync creates values for a Kubernetes namespace. Pure.

vaultsync's token can write more than the author of an ExternalSecret may. Authors choose the key and the SecretStore
(path, KV version, Vault namespace), but not the name and labels of the Namespace: only these are inserted into globs.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from vaultsync.core.external_secret import Namespace
from vaultsync.core.paths import Mount, VaultPath, clean, clean_namespace, logical, unsafe_reason, v2_path

VARIABLE: Final = "VAULTSYNC_SEED_PATHS"
DEFAULT: Final = ("*/{namespace}/**", "*/{namespace}")

_DEEP, _NAME = "**", "{namespace}"
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_SEGMENT = re.compile(r"(?:^|/)((?:\{[^{}]*\}|[^/])*)")
"""A label's key may contain a slash."""
_LABEL_KEY = re.compile(r"([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")

Pieces: TypeAlias = tuple[str, ...]
"""Pattern of a segment: the literals between its `*`s."""
Pattern: TypeAlias = tuple[Pieces | None, ...]
"""Patterns of segments; None is `**`: any number of segments."""


class _Unfilled(Exception):
    """A glob does not apply to this namespace; the message says why."""


@dataclass(frozen=True, slots=True)
class Glob:
    """A glob of the setting.

    Attributes:
        text: of the setting.
        vault_namespace: where it applies, "" for the root.
        segments: with placeholders.
    """

    text: str
    vault_namespace: str
    segments: tuple[str, ...]

    def inside(self, mount: str) -> frozenset[Pattern]:
        """The remaining patterns within a mount, for each way in which the beginning of the glob matches it.

        A placeholder matches like a `*`.
        """
        pattern = self._pattern(lambda segment: tuple(_PLACEHOLDER.sub("*", segment).split("*")))
        if self._of_mount:
            return frozenset({pattern})
        matched = _matched(pattern, mount.strip("/").split("/"))
        rests = {pattern[number - (pattern[number - 1] is None) :] for number in matched}  # ** may match more segments
        return frozenset(rests - {()})

    def values(self, namespace: Namespace) -> dict[str, str]:
        """The values of its placeholders.

        Raises:
            _Unfilled: it does not apply to the namespace.
        """
        return {found: _value(found, namespace) for found in _PLACEHOLDER.findall(self.text)}

    def matches(self, values: Mapping[str, str], mount: Sequence[str], inner: Sequence[str]) -> bool:
        """Whether it matches the path with these segments of the mount's path and within the mount."""
        pattern = self._pattern(lambda segment: tuple(_fill(piece, values) for piece in segment.split("*")))
        if pattern[-1] is None:
            pattern = (*pattern[:-1], ("", ""), None)  # at the end it matches at least one segment
        return len(pattern) in _matched(pattern, inner if self._of_mount else [*mount, *inner])

    @property
    def _of_mount(self) -> bool:
        return self.segments[0] == "*"

    def _pattern(self, pieces: Callable[[str], Pieces]) -> Pattern:
        within = self.segments[1:] if self._of_mount else self.segments
        return tuple(None if segment == _DEEP else pieces(segment) for segment in within)


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

    globs: tuple[Glob, ...]
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
        own = clean_namespace(own_namespace)
        return cls(tuple(_parse(glob, f"glob {number}", own) for number, glob in enumerate(globs, 1)), own)

    def refusal(self, path: VaultPath, mount: Mount, namespace: Namespace) -> str:
        """Why the path may not be created for a Kubernetes namespace, "" if it may.

        Args:
            path: that external-secrets requests.
            mount: of the path, as Vault reports it.
            namespace: the ExternalSecret's.
        """
        is_own = path.namespace == self.own_namespace
        shown = ("" if is_own else f"{path.namespace or 'root'}:") + logical(mount, path.path)
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
                values = glob.values(namespace)
            except _Unfilled as reason:
                unfilled.append(f"{glob.text} stands for nothing, as {reason}")
                continue
            if glob.vault_namespace == path.namespace and glob.matches(values, mount.path.strip("/").split("/"), inner):
                return ""
            allowed.append(_fill(glob.text, values))
        whose = "" if is_own else " (a glob without a colon is for vaultsync's own Vault namespace)"
        return (
            f"{shown} may not be created for namespace {namespace.name}: {VARIABLE} allows it to create "
            + "; ".join([" and ".join(allowed) + whose if allowed else "nothing", *unfilled])
        )


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


def _parse(text: str, where: str, own_namespace: str) -> Glob:
    head, path = _halves(text, where)
    segments = tuple(_SEGMENT.findall(path))
    for number, segment in enumerate(segments, 1):
        here = f"{where}, segment {number}"
        for placeholder in _PLACEHOLDER.findall(segment):
            _check_placeholder(placeholder, here)
        plain = _PLACEHOLDER.sub("x", segment)
        is_glued = segment != _DEEP and _DEEP in plain
        problem = (
            f"{here} holds ** glued to something else" if is_glued else unsafe_reason(plain.replace("*", "x"), here)
        )
        if problem:
            raise ValueError(
                f"{problem}; a segment is ** alone, or ASCII text with *, {{namespace}} and {{label:KEY}} in it"
            )
    if len(segments) == 1 and segments[0] != _DEEP:
        raise ValueError(f"{where} names a mount alone; it must go on with what may be created in it, such as */**")
    return Glob(text, own_namespace if head is None else head, segments)


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


def _check_placeholder(placeholder: str, where: str) -> None:
    kind, _, key = placeholder[1:-1].partition(":")
    if placeholder != _NAME and kind != "label":
        raise ValueError(f"{where} holds an unknown placeholder; there are {_NAME} and {{label:KEY}}")
    if kind == "label" and not _LABEL_KEY.fullmatch(key):
        raise ValueError(
            f"{where} holds a placeholder without a label's key; it must be such as {{label:example.com/team}}"
        )


def _value(placeholder: str, namespace: Namespace) -> str:
    """The value of a placeholder.

    Raises:
        _Unfilled: there is none, or it can't be part of a segment.
    """
    if placeholder == _NAME:
        what, value = "name", namespace.name
    else:
        key = placeholder[1:-1].removeprefix("label:")
        if key not in namespace.labels:
            raise _Unfilled(f"the namespace has no label {key}")
        what, value = f"label {key}", namespace.labels[key]
    if not value:
        raise _Unfilled(f"the namespace's {what} is empty")
    if unsafe_reason(value) or "/" in value:  # Kubernetes rejects such names and values
        raise _Unfilled(f"the namespace's {what} can't be part of a path")
    return value


def _fill(text: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: values[found[0]], text)


def _matched(pattern: Pattern, segments: Sequence[str]) -> list[int]:
    """Each n for which the first n patterns match all segments; at least one segment.

    It matches without backtracking: `fits[n]` is whether the first n patterns match the segments so far.
    """
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
    return [number for number, fit in enumerate(fits) if fit]


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
