"""`vaultsync policy`: the smallest Vault policy for the settings, which deploy/vault/policy.hcl ships. No I/O.

No block may grant `read` on values. Vault's language has no wildcard for a mount:
https://developer.hashicorp.com/vault/docs/concepts/policies
"""

import shlex
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Final, TypeAlias

from vaultsync.commands import console, exit_codes
from vaultsync.config.auth import Auth
from vaultsync.config.settings import LOGIN, Settings
from vaultsync.core.paths import Mount, unsafe_reason
from vaultsync.core.seed_paths import VARIABLE, Glob, Pattern, Pieces, SeedPaths
from vaultsync.vault.api import CAPABILITIES

DEFAULT_MOUNTS: Final = (Mount("secret/", 2),)
PLACEHOLDER: Final = "vaultsync-check"
"""In place of an unknown name; vaultsync never writes there."""

SETTINGS: Final[Mapping[str, Any]] = {
    "VAULT_ADDR": "https://not-asked.invalid",
    **{name: Settings.model_fields[name].default for name, ways in LOGIN.items() if Auth.TOKEN not in ways},
    "vault_auth": Auth.TOKEN,
    "VAULT_TOKEN_FILE": "",
    "VAULT_TOKEN": "not-asked",
    "audit_listen": "unix:/not-asked",
}
"""Replace the required settings, which the policy does not depend on."""

_Inner: TypeAlias = tuple[str, ...]
"""Segments of a policy's path within a mount: `+` is any one, and only the last may end in `*`: anything."""
_WHOLE: Final[_Inner] = ("*",)
_ORDER: Final = ("create", "read", "update", "patch", "list", "subscribe")
_VERSIONS: Final = {"v1": 1, "v2": 2}
_VAULTS_OWN: Final = ("sys", "auth", "identity", "cubbyhole")
_MOUNT: Final = "it must be the path of a KV v2 mount, or PATH=v1 for one of KV v1"

_STREAM: Final = """\
The event stream (community 1.13 to 1.15, Enterprise from 1.16). Vault sends a token the events of those paths only
to which it may `subscribe` (from 1.15). Vault before 1.15, and OpenBao, do not know that word: for these print a
policy with VAULTSYNC_SOURCE=audit or poll."""
_SEED: Final = """\
KV v2: create a missing value and add a missing key, always with check-and-set.
Vault requires `update` for the version after a deleted one. `update` also allows to replace a live version; the
check-and-set of vaultsync's writes prevents that, or for all clients Vault's option cas_required, such as by
`vault write secret/config cas_required=true`."""
_EVENTS: Final = "KV v2: the events of writes, which hold no values"
_KEYS: Final = "the names of a secret's keys, its version and its time, without values"
_FOLDERS: Final = "the names under a folder, for dataFrom.find; changes of custom metadata, for metadataPolicy: Fetch"
_OWNERSHIP: Final = "`patch`: the ownership metadata, by which vaultsync recognizes the paths that it created"
_SEED_V1: Final = "KV v1 has no check-and-set: without `update` Vault itself refuses to replace a value."
_LIST_V1: Final = "KV v1 shows the existing paths by `list` alone: all other requests read values."
_NARROW: Final = (
    "Vault applies the most specific block that matches a path: it repeats the capabilities of the wider one."
)
_PASSWORDS: Final = """\
Vault's own password policies, for rules such as {format: policy, name: ops}; leave it out if no rule uses one."""
_OWN: Final = """\
The token itself: look it up, renew it, and revoke it when vaultsync ends, if vaultsync has logged in.
(Vault's policy "default", which most tokens have, grants these too.)"""
_CHECK: Final = 'The capabilities of the token, for `vaultsync check`; "default" grants this, too.'
_WRITES: Final = frozenset({"create", "update", "patch"})


@dataclass(frozen=True, slots=True)
class _Block:
    """The capabilities on a path in Vault's policy language, with comments."""

    path: str
    capabilities: frozenset[str]
    why: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """The block in HCL, without comments."""
        quoted = ", ".join(f'"{capability}"' for capability in _ORDER if capability in self.capabilities)
        yield 'path "{}" {{'.format(self.path.replace('"', '\\"'))
        if "subscribe" in self.capabilities:
            yield f"  capabilities          = [{quoted}]"
            yield '  subscribe_event_types = ["*"]'
        else:
            yield f"  capabilities = [{quoted}]"
        yield "}"


@dataclass(frozen=True, slots=True)
class PathCapabilities:
    """The capabilities of vaultsync on one path of Vault's API.

    Attributes:
        needed: the capabilities that vaultsync uses.
        most: the capabilities that the printed policy grants.
    """

    path: str
    needed: frozenset[str]
    most: frozenset[str]


def execute(arguments: Namespace) -> int:
    """Print the policy; returns the exit code."""
    settings = console.load_settings(SETTINGS)
    try:
        mounts = parse_mounts(arguments.mount)
        text = policy(settings.seedable_paths, mounts, seeds=settings.seeds, streams=settings.source.streams)
    except ValueError as error:
        raise exit_codes.InputError(str(error)) from error
    print(text, end="")
    return 0


def parse_mounts(given: Sequence[str]) -> tuple[Mount, ...]:
    """Parse the arguments of --mount, such as `secret`, `team/kv`, `kv1=v1`; none: DEFAULT_MOUNTS.

    Raises:
        ValueError: with the error and the valid form, on one line.
    """
    if not given:
        return DEFAULT_MOUNTS
    mounts = tuple(dict.fromkeys(_mount(text) for text in given))
    for one, other in combinations(sorted(mounts), 2):
        if one.path == other.path:
            raise ValueError(f"--mount {other.path[:-1]} is given as v1 and as v2; a mount is one of them")
        if other.path.startswith(one.path):
            raise ValueError(f"--mount {other.path[:-1]} is within --mount {one.path[:-1]}, which Vault does not allow")
    return mounts


def policy(seed_paths: SeedPaths, mounts: Sequence[Mount], *, seeds: bool, streams: bool = True) -> str:
    """The policy in HCL, for the token's own Vault namespace.

    Args:
        seed_paths: where values may be created.
        mounts: assumed to be the same in each Vault namespace that a glob names.
        seeds: whether values are created at all.
        streams: whether the event stream may be used.

    Raises:
        ValueError: the policy can't express a glob; with the fix, on one line.
    """
    globs, own = seed_paths.globs, seed_paths.own_namespace
    if seeds:
        for glob in globs:
            _check(glob, mounts, own)
    areas = {"": own} | {area: glob.vault_namespace for glob in globs if (area := _area(glob, own)) is not None}
    groups = [[_block("sys/events/subscribe/*", "read", why=(_STREAM,))]] if streams else []
    passwords = []
    for area, namespace in areas.items():
        here = [glob for glob in globs if seeds and glob.vault_namespace == namespace]
        groups += [_kv(area, mount, _seeded(here, mount)) for mount in mounts]
        passwords += [_block(f"{area}sys/policies/password/+/generate", "read", why=(_PASSWORDS,))] if here else []
    lease = [
        _block("auth/token/lookup-self", "read", why=(_OWN,)),
        _block("auth/token/renew-self", "update", why=(_OWN,)),
        _block("auth/token/revoke-self", "update", why=(_OWN,)),
        _block(CAPABILITIES, "update", why=(_CHECK,)),
    ]
    found = [*groups, passwords, lease]
    if not streams:
        without = [[replace(one, capabilities=one.capabilities - {"subscribe"}) for one in group] for group in found]
        found = [[block for block in group if block.capabilities] for group in without]
    return "\n".join(_text(_header(seed_paths, mounts, seeds=seeds, streams=streams), found))


def command(mounts: Sequence[Mount]) -> str:
    """The command that prints the policy for these mounts."""
    named = (mount.path[:-1] + ("=v1" if mount.kv == 1 else "") for mount in mounts)
    return shlex.join(["vaultsync", "policy", *(word for name in named for word in ("--mount", name))])


def needed_capabilities(
    mount: Mount, inner: str, *, creates: bool, seeds: bool, streams: bool
) -> list[PathCapabilities]:
    """The capabilities for the secret at a path within a mount, which vaultsync may create, by path in Vault's API.

    `seeds`: values are created at all; `streams`: the event stream is used, and Vault knows `subscribe`.
    """
    found = []
    folder = inner.rpartition("/")[0]
    without = (frozenset() if creates else _WRITES) | (frozenset() if streams else {"subscribe"})
    for block in _kv("", mount, [_WHOLE]):
        root, needed = block.path[:-1], block.capabilities - without
        most = block.capabilities - (frozenset() if seeds else _WRITES)
        found.append(PathCapabilities(root + inner, needed - {"list"}, most))
        if "list" in needed:
            found.append(PathCapabilities(root + (f"{folder}/" if folder else ""), frozenset({"list"}), most))
    return found


def placeholder_paths(seed_paths: SeedPaths, mount: Mount, vault_namespace: str) -> dict[str, bool]:
    """Paths within a mount in place of unknown ones, and whether vaultsync may create each."""
    globs = [glob for glob in seed_paths.globs if glob.vault_namespace == vault_namespace]
    seeded = [
        "/".join(PLACEHOLDER if segment == "+" else segment.replace("*", PLACEHOLDER) for segment in inner)
        for inner in _seeded(globs, mount)
    ]
    return dict.fromkeys(seeded, True) or {PLACEHOLDER: False}


def _mount(text: str) -> Mount:
    path, equals, version = text.partition("=")
    path = path.strip("/")
    shown = f"--mount {text[:200]!r}"
    if equals and version not in _VERSIONS:
        raise ValueError(f"{shown} has no version v1 or v2 after =; {_MOUNT}")
    problem = unsafe_reason(path, shown)
    odd = next((char for char in "+:" if char in path), "")
    if problem or odd:
        raise ValueError(f"{problem or f'{shown} holds {odd}'}; {_MOUNT}")
    if path.split("/", 1)[0] in _VAULTS_OWN:
        raise ValueError(f"{shown} is Vault's own; {_MOUNT}")
    return Mount(path + "/", _VERSIONS.get(version, 2))


# -- where it may seed


def _area(glob: Glob, own: str) -> str | None:
    """The prefix of a glob's paths in a policy of the own Vault namespace, None if they are outside of it."""
    if glob.vault_namespace == own:
        return ""
    within = glob.vault_namespace.startswith(f"{own}/" if own else "")
    return glob.vault_namespace.removeprefix(f"{own}/") + "/" if within else None


def _check(glob: Glob, mounts: Sequence[Mount], own: str) -> None:
    where = f"{VARIABLE}: {glob.text}"
    area = _area(glob, own)
    if area is None:
        raise ValueError(
            f"{where} is for a Vault namespace outside VAULT_NAMESPACE {own}, where no policy of it reaches"
        )
    if "+" in area:
        raise ValueError(f"{where} is for a Vault namespace with +, which is a wildcard in policies")
    if not any(glob.inside(mount.path) for mount in mounts):
        named = ", ".join(mount.path[:-1] for mount in mounts)
        raise ValueError(f"{where} is for none of the mounts {named}; name its mount with --mount")


def _seeded(globs: Iterable[Glob], mount: Mount) -> list[_Inner]:
    """The paths within the mount that cover all paths that may be created; none covers another."""
    found = {_inner(pattern) for glob in globs for pattern in glob.inside(mount.path)}
    return sorted(one for one in found if not any(other != one and _covers(other, one) for other in found))


def _inner(pattern: Pattern) -> _Inner:
    """A glob in Vault's language: never narrower than the glob, and the whole mount if it does not begin with a name.

    Vault would ignore `secret/data/+/x/*` besides `secret/data/*`: it prefers the path with fewer `+`.
    """
    segments: list[str] = []
    for number, pieces in enumerate(pattern, 1):
        if pieces is None:
            segments.append("*")
            break
        segments.append(_segment(pieces, is_last=number == len(pattern)))
    return _WHOLE if segments[0] in ("+", "*") else tuple(segments)


def _segment(pieces: Pieces, *, is_last: bool) -> str:
    name, *others = pieces
    if not name or name.startswith("+"):  # in Vault's language no name may begin so
        return "+"
    if not others:
        return name
    return f"{name}*" if is_last and others == [""] and not name.endswith("+") else "+"  # `+*` is forbidden


def _covers(wide: _Inner, narrow: _Inner) -> bool:
    """Whether the wide path matches all that the narrow one matches."""
    *folders, last = wide
    if len(narrow) < len(wide) or any(one not in ("+", other) for one, other in zip(folders, narrow, strict=False)):
        return False
    there = narrow[len(folders)]
    if last.endswith("*"):
        return there.startswith(last[:-1])
    return len(narrow) == len(wide) and last in ("+", there) and not there.endswith("*")


# -- blocks


def _block(path: str, *capabilities: str, why: tuple[str, ...]) -> _Block:
    return _Block(path, frozenset(capabilities), why)


def _kv(area: str, mount: Mount, seeded: Sequence[_Inner]) -> list[_Block]:
    root = area + mount.path
    if mount.kv == 1:
        listed = _block(root, "list", "subscribe", why=(_LIST_V1,))
        return _narrowed(listed, _block(root, "create", why=(_SEED_V1, _LIST_V1)), seeded)
    values = _block(f"{root}data/", "subscribe", why=(_EVENTS,))
    metadata = _block(f"{root}metadata/", "list", "subscribe", why=(_FOLDERS,))
    return [
        *_narrowed(values, _block(values.path, "create", "update", "patch", why=(_SEED,)), seeded),
        _block(f"{root}subkeys/*", "read", why=(_KEYS,)),
        *_narrowed(metadata, _block(metadata.path, "patch", why=(*metadata.why, _OWNERSHIP)), seeded),
    ]


def _narrowed(base: _Block, more: _Block, seeded: Sequence[_Inner]) -> list[_Block]:
    """The block of a whole path, and blocks with more capabilities where vaultsync may seed."""
    both = base.capabilities | more.capabilities
    if _WHOLE in seeded:
        return [_Block(f"{base.path}*", both, more.why)]
    why = (*more.why, _NARROW)
    narrow = [_Block(base.path + "/".join(inner), both, why) for inner in seeded]
    return [_Block(f"{base.path}*", base.capabilities, base.why), *narrow]


# -- text


def _header(seed_paths: SeedPaths, mounts: Sequence[Mount], *, seeds: bool, streams: bool) -> str:
    globs = f"{VARIABLE}={','.join(glob.text for glob in seed_paths.globs)}"
    lines = [
        f"The Vault policy of vaultsync, as printed by: {command(mounts)}",
        f"with {globs if seeds else 'VAULTSYNC_SEED=off or VAULTSYNC_DRY_RUN=true: nothing is written'}",
        *([] if streams else ["and VAULTSYNC_SOURCE=audit or poll: without the event stream"]),
        "It does not allow to read a value: no path grants read on data. Print your own for other mounts and settings.",
    ]
    return "\n".join(lines)


def _text(header: str, groups: Iterable[Sequence[_Block]]) -> Iterator[str]:
    printed: set[str] = set()
    yield from _comment(header)
    for group in groups:
        if group:
            yield ""
        for block in group:
            for why in block.why:
                if why not in printed:
                    yield from _comment(why)
            printed.update(block.why)
            yield from block.lines()
    yield ""


def _comment(text: str) -> Iterator[str]:
    return (f"# {line}" for line in text.splitlines())
