"""Finds the KV mounts in use, and checks the token's Vault policy: it grants what vaultsync needs there, and no more.

The capabilities come from sys/capabilities-self; no value is read.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from vaultsync.commands.check.login_checks import obtain_token
from vaultsync.commands.check.report import MAX_NAMES, RETRY, Check, CheckReport, CheckResult, cut
from vaultsync.commands.policy import (
    DEFAULT_MOUNTS,
    PLACEHOLDER,
    PathCapabilities,
    command,
    needed_capabilities,
    parse_mounts,
    placeholder_paths,
)
from vaultsync.config.auth import AuthConfig
from vaultsync.config.settings import Settings
from vaultsync.controller.index import Index
from vaultsync.core.annotation_parser import SeedChoice
from vaultsync.core.errors import (
    VaultFailure,
    VaultNamespaceUnavailable,
    VaultRejected,
    VaultRequestFailed,
    VaultsyncError,
    VaultUnavailable,
)
from vaultsync.core.external_secret import Store
from vaultsync.core.paths import Mount, VaultPath, clean_namespace, guessed_mount, secret_path, v2_path
from vaultsync.generation.rules import PasswordPolicyRule
from vaultsync.vault.api import (
    CAPABILITIES,
    LOOK_UP,
    POLICY_NAME,
    Token,
    has_event_stream,
    has_subscribe_capability,
)
from vaultsync.vault.client import VaultClient

MAX_PATHS: Final = 200
"""Paths of one mount whose capabilities are checked; the others are alike."""
BATCH: Final = 100
"""Paths per request."""
FIX: Final = "set the store's spec.provider.vault.path to a KV mount, and spec.provider.vault.version to its version"
SYSTEM: Final = "sys/ and auth/"
"""Subject of the result for the paths outside of mounts."""
_NOTHING: Final[frozenset[str]] = frozenset()
_Uses: TypeAlias = dict[tuple[str, Mount], dict[str, bool]]


@dataclass(slots=True)
class PolicyChecks:
    """What the token may do outside of mounts, and in each mount that stores and ExternalSecrets name.

    Attributes:
        uses: by Vault namespace and mount, each path within it that is read, and whether vaultsync may create it.
        failures: results for paths that are in no KV mount.
        has_capabilities: whether Vault has answered which capabilities the token has.
    """

    settings: Settings
    vault: VaultClient
    index: Index
    report: CheckReport
    uses: _Uses = field(default_factory=dict)
    failures: list[CheckResult] = field(default_factory=list)
    has_capabilities: bool = False

    async def find_mounts(self) -> tuple[Mount, ...]:
        """The mounts from Vault; guessed by the paths if the login failed, none if nothing could be listed."""
        if self.report.token is not None and not self.report.listing_needs:
            try:
                await self._find_mounts()
            except VaultUnavailable as error:  # sys/health succeeded before
                self.report.add(Check.VAULT.failed(error, RETRY))
                self.report.token = None
        return self._guess_mounts() if self.report.token is None else tuple(sorted({mount for _, mount in self.uses}))

    async def _find_mounts(self) -> None:
        for path, kv in sorted(self.index.paths_with_kv()):
            await self._add(path, kv, by_name=True)
        for prefix in self.index.prefixes():
            await self._add(VaultPath(prefix.namespace, prefix.prefix + PLACEHOLDER), prefix.kv, by_name=False)
        for store in self._own_stores():
            path = VaultPath(store.vault_namespace, secret_path(store.path, store.kv, PLACEHOLDER))
            await self._mount_of(path, store.kv)

    def _guess_mounts(self) -> tuple[Mount, ...]:
        named = [guessed_mount(path.path, kv) for path, kv in self.index.paths_with_kv()]
        named += [Mount(f"{store.path}/", store.kv) for store in self._own_stores()]
        found: dict[str, Mount] = {}
        for mount in sorted(set(named)):
            with suppress(ValueError):  # owners of stores can write any path
                for one in parse_mounts([f"{mount.path}=v{mount.kv}"]):
                    found.setdefault(one.path, one)
        return tuple(found.values())

    def _own_stores(self) -> Iterator[Store]:
        return (store for store in self.index.stores() if store.path and self.index.is_ours(store))

    async def _add(self, path: VaultPath, kv: int, *, by_name: bool) -> None:
        """Note a path in its mount; vaultsync creates only paths that an ExternalSecret reads by name."""
        mount = await self._mount_of(path, kv)
        if mount is None:
            return
        inner = v2_path(mount, path.path) if mount.kv == 2 else path.path.removeprefix(mount.path)
        if inner:  # else it is the path of no secret
            may_create = by_name and self._may_create(path, mount)
            self.uses[path.namespace, mount].setdefault(inner, may_create)

    async def _mount_of(self, path: VaultPath, kv: int) -> Mount | None:
        """The path's mount, None if it is in none; each mount is requested once."""
        known = (where for where in self.uses if where[0] == path.namespace and path.path.startswith(where[1].path))
        try:
            mount = next((mount for _, mount in known), None) or await self.vault.mount(path, kv)
        except (VaultRejected, VaultRequestFailed, VaultNamespaceUnavailable) as error:
            self.failures.append(Check.POLICY.failed(error, FIX, cut(str(path))))
            return None
        self.uses.setdefault((path.namespace, mount), {})
        return mount

    def _may_create(self, path: VaultPath, mount: Mount) -> bool:
        """Whether the settings and a reader allow vaultsync to create the path."""
        if not self.settings.seeds:
            return False
        seed_paths = self.settings.seedable_paths
        names = {reader.name.namespace for reader in self.index.readers(path) if reader.choice is SeedChoice.WANTED}
        namespaces = (self.index.namespace(name) for name in names)
        return any(one and not seed_paths.refusal(path, mount, one) for one in namespaces)

    async def run(self) -> None:
        """Run the checks."""
        report, token = self.report, self.report.token
        if token is None or token.is_root:
            report.add(Check.POLICY.not_asked(Check.LOGIN))
            return
        fix, namespace = self.fix(token), clean_namespace(self.settings.vault_namespace)
        report.add(await self._check(namespace, SYSTEM, self._system_paths(token), fix))
        for (namespace, mount), paths in sorted(self.uses.items()):
            subject = f"{namespace}:{mount.path}" if namespace else mount.path
            if self.has_capabilities:
                wanted = self._mount_paths(namespace, mount, paths)
                report.add(await self._check(namespace, subject, wanted, fix, len(paths)))
            else:
                report.add(Check.POLICY.not_asked(f"{Check.POLICY} {SYSTEM}", subject))
        report.add(*self.failures[:MAX_NAMES])
        if report.listing_needs:
            report.add(Check.POLICY.not_asked(report.listing_needs, "mounts"))

    def fix(self, token: Token) -> str:
        """The command that writes the policy."""
        mounts = self.report.mounts or DEFAULT_MOUNTS
        return policy_fix(mounts, token, self.settings.auth, streams=self._streams)

    @property
    def _streams(self) -> bool:
        return self.settings.source.streams and has_event_stream(self.report.version)

    async def _check(
        self, namespace: str, subject: str, wanted: Sequence[PathCapabilities], fix: str, paths: int = 0
    ) -> CheckResult:
        granted: dict[str, frozenset[str]] = {}
        try:
            for start in range(0, len(wanted), BATCH):
                batch = [one.path for one in wanted[start : start + BATCH]]
                granted |= await self.vault.capabilities(batch, namespace)
        except VaultFailure as error:
            return Check.POLICY.failed(error, RETRY, subject)
        except VaultsyncError as error:  # the policy may be sufficient all the same
            return Check.POLICY.warning(error, f"grant `update` on {CAPABILITIES}: {fix}", subject)
        self.has_capabilities = True
        return check_policy(subject, wanted, granted, fix, paths)

    def _system_paths(self, token: Token) -> list[PathCapabilities]:
        """The paths outside of mounts: those that vaultsync uses, and those that would extend its own permissions."""
        used = {
            LOOK_UP: ("read", True),
            "auth/token/renew-self": ("update", token.ttl > 0),
            "auth/token/revoke-self": ("update", self.settings.auth.issues),
            CAPABILITIES: ("update", True),
            **{f"sys/policies/password/{name}/generate": ("read", True) for name in sorted(self._password_policies())},
        }
        if self._streams:
            used["sys/events/subscribe/kv*"] = ("read", True)
        paths = [
            PathCapabilities(path, frozenset({capability}) if is_needed else _NOTHING, frozenset({capability}))
            for path, (capability, is_needed) in used.items()
        ]
        forbidden = (f"sys/policies/acl/{token.policy or POLICY_NAME}", "auth/token/create")
        return paths + [PathCapabilities(path, _NOTHING, _NOTHING) for path in forbidden]

    def _password_policies(self) -> frozenset[str]:
        """Vault password policies that the generation rules name."""
        if not self.settings.seeds:
            return frozenset()
        index = self.index
        entries = [entry for name in index.names() if (entry := index.entry(name)) is not None]
        rules = [entry.rules for entry in entries if index.choice(entry)[0] is SeedChoice.WANTED]
        written = (rule for one in (*rules, *([index.defaults.rules] if rules else [])) for _, rule in one.written)
        return frozenset(rule.name for rule in written if isinstance(rule, PasswordPolicyRule))

    def _mount_paths(self, namespace: str, mount: Mount, paths: Mapping[str, bool]) -> list[PathCapabilities]:
        """The paths to check in a mount: those in use, and a stand-in for future ones that need more."""
        used = sorted(paths.items(), key=lambda item: not item[1])[:MAX_PATHS]  # those to create first
        seeds = self.settings.seeds
        future = [
            (inner, creates)
            for inner, creates in placeholder_paths(self.settings.seedable_paths, mount, namespace).items()
            if not used or (creates and seeds and not used[0][1])
        ]
        streams = self._streams and has_subscribe_capability(self.report.version)
        found: dict[str, PathCapabilities] = {}
        for inner, creates in (*used, *future):
            for one in needed_capabilities(mount, inner, creates=creates and seeds, seeds=seeds, streams=streams):
                known = found.get(one.path, one)
                found[one.path] = replace(one, needed=one.needed | known.needed)
        return list(found.values())


def check_policy(
    subject: str, wanted: Sequence[PathCapabilities], granted: Mapping[str, frozenset[str]], fix: str, paths: int
) -> CheckResult:
    """Whether the token may do what vaultsync needs, and no more.

    Args:
        subject: the mount, or SYSTEM.
        wanted: the paths that were checked.
        granted: Vault's response, by path.
        fix: the command that writes the policy.
        paths: number of secrets in use, of which at most MAX_PATHS were checked.
    """
    missing = {one.path: lacking for one in wanted if (lacking := one.needed - granted[one.path])}
    if missing:
        return Check.POLICY.failed(f"may not {_capabilities(missing)}", fix, subject)
    excess = {one.path: more for one in wanted if (more := granted[one.path] - one.most)}
    if excess:
        return Check.POLICY.warning(f"all that is needed, but it may also {_capabilities(excess)}", fix, subject)
    some_of = f"{MAX_PATHS} of " if paths > MAX_PATHS else ""
    used = f" (checked for {some_of}{paths} path{'' if paths == 1 else 's'} in use)" if paths else ""
    return Check.POLICY.ok(f"all that is needed, and no more{used}", subject)


def policy_fix(mounts: Sequence[Mount], token: Token, auth: AuthConfig, *, streams: bool) -> str:
    """The command that writes the policy; with `streams` for a Vault that has an event stream."""
    source = "" if streams else "VAULTSYNC_SOURCE=poll "
    write = f"{source}{command(mounts)} | vault policy write {shlex.quote(token.policy or POLICY_NAME)} -"
    return write if token.policy else f"{write}, and have {obtain_token(auth, POLICY_NAME)}"


def _capabilities(found: Mapping[str, frozenset[str]]) -> str:
    """Such as `create, patch on secret/data/a, list on secret/metadata/ and on 3 more`."""
    first = [f"{', '.join(sorted(listed))} on {cut(path)}" for path, listed in list(found.items())[:MAX_NAMES]]
    rest = len(found) - len(first)
    return ", ".join(first) + (f" and on {rest} more" if rest > 0 else "")
