"""Runs all checks of `vaultsync check`, in order. Writes to neither Kubernetes nor Vault, and reads no value."""

from collections.abc import Awaitable, Callable

from vaultsync.commands.check.audit_devices import check_audit
from vaultsync.commands.check.kubernetes_checks import KubernetesChecks
from vaultsync.commands.check.login_checks import check_vault_and_login
from vaultsync.commands.check.mounts_in_use import MountsInUse
from vaultsync.commands.check.object_checks import count_stores, explain_all
from vaultsync.commands.check.policy_checks import PolicyChecks
from vaultsync.commands.check.report import RETRY, Check, CheckReport, CheckResult, cut
from vaultsync.commands.check.source_checks import probe_source
from vaultsync.commands.planner import DryRunPlanner
from vaultsync.config.settings import Settings
from vaultsync.core.errors import VaultUnavailable
from vaultsync.core.paths import Mount
from vaultsync.kube.client import KubeClient
from vaultsync.runtime import factory
from vaultsync.runtime.metrics import Metrics
from vaultsync.vault.client import VaultClient
from vaultsync.vault.login import Login
from vaultsync.vault.stream import EventStream


async def run_checks(settings: Settings, connect: Callable[[], Awaitable[KubeClient]]) -> CheckReport:
    """Run all checks; one that depends on a failed one does not run.

    Args:
        settings: of `vaultsync run`.
        connect: returns a read-only client, as kube.client.connect does.
    """
    login = factory.create_login(settings)
    vault = VaultClient(login, waits=True)
    try:
        return await _Preflight(settings, login, vault).run(connect)
    finally:
        await login.close()
        await vault.close()


class _Preflight:
    def __init__(self, settings: Settings, login: Login, vault: VaultClient) -> None:
        self._settings = settings
        self._login = login
        self._vault = vault
        self._report = CheckReport()
        self._index = factory.create_index(settings)
        self._planner = DryRunPlanner(self._index, vault, settings.seedable_paths, settings.seed)
        self._kubernetes = KubernetesChecks(settings, self._report, self._planner)
        self._mounts = MountsInUse(settings, vault, self._index)
        self._policy = PolicyChecks(settings, vault, self._index, self._mounts, self._report)

    async def run(self, connect: Callable[[], Awaitable[KubeClient]]) -> CheckReport:
        report = self._report
        await self._kubernetes.run(connect)
        await check_vault_and_login(self._settings, self._vault, self._login, report)
        report.mounts = await self._find_mounts()
        report.add(await self._source())
        report.add(*await check_audit(self._settings, self._vault, has_token=report.token is not None))
        report.add(self._stores())
        await self._policy.run()
        report.add(await self._external_secrets())
        return report

    async def _find_mounts(self) -> tuple[Mount, ...]:
        if self._report.token is None:
            return self._mounts.guess()
        if self._report.listing_needs:
            return ()
        try:
            return await self._mounts.find()
        except VaultUnavailable as error:  # sys/health succeeded before
            self._report.add(Check.VAULT.failed(error, RETRY))
            self._report.token = None
            return self._mounts.guess()

    async def _source(self) -> CheckResult:
        token, version = self._report.token, self._report.version
        if token is None:
            return Check.SOURCE.not_asked(Check.LOGIN)
        stream = EventStream(self._login, Metrics())
        return await probe_source(self._settings, self._login, stream, version, self._policy.fix(token))

    def _stores(self) -> CheckResult:
        if error := self._kubernetes.listing_error:
            return Check.STORES.failed(cut(error), RETRY)
        if needs := self._report.listing_needs:
            return Check.STORES.not_asked(needs)
        return count_stores(self._settings, self._index)

    async def _external_secrets(self) -> CheckResult:
        report = self._report
        if report.listing_needs or report.token is None:
            return Check.EXTERNAL_SECRETS.not_asked(report.listing_needs or Check.LOGIN)
        return await explain_all(self._settings, self._planner, self._index, report)
