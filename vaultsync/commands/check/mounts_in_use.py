"""The KV mounts in use and the paths in them: from Vault, or guessed from the stores if the login failed."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from vaultsync.commands.check.report import RETRY, Check, CheckReport, CheckResult, cut
from vaultsync.commands.policy import PLACEHOLDER, parse_mounts
from vaultsync.config.settings import Settings
from vaultsync.controller.index import Index
from vaultsync.core.annotation_parser import SeedChoice
from vaultsync.core.errors import VaultNamespaceUnavailable, VaultRejected, VaultRequestFailed, VaultUnavailable
from vaultsync.core.external_secret import Store
from vaultsync.core.paths import Mount, VaultPath, guessed_mount, secret_path, v2_path
from vaultsync.vault.client import VaultClient

FIX: Final = "set the store's spec.provider.vault.path to a KV mount, and spec.provider.vault.version to its version"

Uses: TypeAlias = dict[tuple[str, Mount], dict[str, bool]]
"""By Vault namespace and mount: each path within the mount that is read, and whether vaultsync may create it."""


@dataclass(slots=True)
class MountsInUse:
    """The mounts that stores and ExternalSecrets name.

    Attributes:
        uses: found by `find`.
        failures: results for paths that are in no KV mount.
    """

    settings: Settings
    vault: VaultClient
    index: Index
    report: CheckReport
    uses: Uses = field(default_factory=dict)
    failures: list[CheckResult] = field(default_factory=list)

    async def find(self) -> tuple[Mount, ...]:
        """The mounts from Vault; guessed by the paths if the login failed, none if nothing could be listed."""
        if self.report.token is not None and not self.report.listing_needs:
            try:
                await self._find()
            except VaultUnavailable as error:  # sys/health succeeded before
                self.report.add(Check.VAULT.failed(error, RETRY))
                self.report.token = None
        return self._guess() if self.report.token is None else tuple(sorted({mount for _, mount in self.uses}))

    async def _find(self) -> None:
        for path, kv in sorted(self.index.paths_with_kv()):
            await self._add(path, kv, by_name=True)
        for prefix in self.index.prefixes():
            await self._add(VaultPath(prefix.namespace, prefix.prefix + PLACEHOLDER), prefix.kv, by_name=False)
        for store in self._own_stores():
            await self._mount(
                VaultPath(store.vault_namespace, secret_path(store.path, store.kv, PLACEHOLDER)), store.kv
            )

    def _guess(self) -> tuple[Mount, ...]:
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
        mount = await self._mount(path, kv)
        if mount is not None and (inner := _inner(mount, path)):
            may_create = by_name and self._may_create(path, mount)
            self.uses[path.namespace, mount].setdefault(inner, may_create)

    async def _mount(self, path: VaultPath, kv: int) -> Mount | None:
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


def _inner(mount: Mount, path: VaultPath) -> str:
    """A path within its mount, "" if it is the path of no secret."""
    return (v2_path(mount, path.path) or "") if mount.kv == 2 else path.path.removeprefix(mount.path)
