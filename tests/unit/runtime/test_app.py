"""runtime/app: what /readyz and /metrics return. The parts are real, and their state is set: there are no servers."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.unit.build import path, run, sample
from tests.unit.servers import unused_port
from vaultsync.config.change_source import ChangeSource
from vaultsync.config.selection import Selection
from vaultsync.config.settings import Settings
from vaultsync.core.annotations import Result
from vaultsync.core.errors import KubeUnavailable, VaultUnavailable
from vaultsync.kube.client import connect
from vaultsync.kube.informer_manager import EXTERNAL_SECRETS, NAMESPACES, RESOURCES, InformerManager
from vaultsync.runtime.app import LISTED, NOT_LISTED, REFUSED, UNAVAILABLE, App
from vaultsync.runtime.health import PartStatus
from vaultsync.runtime.lifecycle import Stop
from vaultsync.runtime.metrics import Metrics

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: x
contexts: [{name: x, context: {cluster: x, user: x}}]
clusters: [{name: x, cluster: {server: "http://127.0.0.1:%d"}}]
users: [{name: x, user: {token: t0ken}}]
"""


@pytest.fixture
def kubeconfig(tmp_path: Path) -> str:
    """Of an API server that is not there."""
    file = tmp_path / "kubeconfig"
    file.write_text(KUBECONFIG % unused_port())
    return str(file)


def with_app(
    kubeconfig: str, test: Callable[[App, InformerManager], Awaitable[None]], *, audit_listen: str = "", lease: str = ""
) -> None:
    """All parts, connected and not started; and informers that have listed nothing."""

    async def main() -> None:
        settings = Settings(
            vault_addr=f"http://127.0.0.1:{unused_port()}",
            vault_token="t0ken",
            kubeconfig=kubeconfig,
            audit_listen=audit_listen,
            lease=lease,
        )
        metrics = Metrics()
        kube = await connect(kubeconfig, 1.0, count_request=metrics.count_kube_request)
        app = App(settings, kube, Stop(), metrics)
        try:
            async with asyncio.TaskGroup() as tasks:
                informers = InformerManager(tasks, kube, "v1", Selection(), app.term.controller)
                starting = tasks.create_task(informers.start())
                await asyncio.sleep(0)
                try:
                    await test(app, informers)
                finally:
                    starting.cancel()
                    for _, task in informers._running.values():
                        task.cancel()
        finally:
            await app.close()

    run(main())


def metric(app: App, name: str, **labels: str) -> float | None:
    app.metrics_text()
    return sample(app._metrics, name, **labels)


def statuses(app: App) -> dict[str, PartStatus]:
    return {status.name: status for status in app.statuses()}


def test_it_is_not_ready_until_kubernetes_is_listed(kubeconfig: str) -> None:
    async def test(app: App, informers: InformerManager) -> None:
        app._discovery = "no CRDs"
        parts = statuses(app)
        assert parts.keys() == {"role", "kubernetes", "vault", "source"}
        assert parts["kubernetes"] == PartStatus("kubernetes", "no CRDs", is_healthy=False, is_required=True)
        app._informers = informers
        parts = statuses(app)
        assert parts.keys() == {"role", *RESOURCES, "vault", "source"}
        assert parts[NAMESPACES] == PartStatus(NAMESPACES, NOT_LISTED, is_healthy=False, is_required=True)
        for informer, _ in informers._running.values():
            informer.synced.set()
        assert statuses(app)[NAMESPACES] == PartStatus(NAMESPACES, LISTED)

    with_app(kubeconfig, test)


def test_a_leader_and_a_standby_report_their_role_and_a_standby_nothing_about_vault(kubeconfig: str) -> None:
    async def leader(app: App, informers: InformerManager) -> None:
        assert statuses(app)["role"] == PartStatus("role", "leading")
        assert metric(app, "leading") == 1

    async def standby(app: App, informers: InformerManager) -> None:
        app._informers = informers
        assert statuses(app)["role"] == PartStatus("role", "standby")
        assert statuses(app).keys() == {"role", *RESOURCES}
        assert metric(app, "leading") == 0

    with_app(kubeconfig, leader)
    with_app(kubeconfig, standby, lease="vaultsync/vaultsync")


def test_a_failed_watch_is_reported_and_counted_and_does_not_change_readiness(kubeconfig: str) -> None:
    async def test(app: App, informers: InformerManager) -> None:
        app._informers, informers._started = informers, True
        informer, _ = informers._running[EXTERNAL_SECRETS, ""]
        for result, says in ((Result.REFUSED, REFUSED), (Result.UNAVAILABLE, UNAVAILABLE)):
            informer.trouble = result
            assert statuses(app)[EXTERNAL_SECRETS] == PartStatus(EXTERNAL_SECRETS, says, is_healthy=False)
            lost_watches = {resource: metric(app, "watches_lost", resource=resource) for resource in RESOURCES}
            assert lost_watches == {**dict.fromkeys(RESOURCES, 0), EXTERNAL_SECRETS: 1}

    with_app(kubeconfig, test)


def test_vault_and_the_source_are_reported_and_never_required(kubeconfig: str) -> None:
    async def test(app: App, informers: InformerManager) -> None:
        assert statuses(app)["vault"] == PartStatus("vault", "answers")
        assert statuses(app)["source"] == PartStatus("source", "not selected yet", is_healthy=False)
        app.term._vault._requester.failures.outage = "it returns 503"
        assert statuses(app)["vault"] == PartStatus("vault", "it returns 503; waiting for it", is_healthy=False)
        assert metric(app, "vault_reachable") == 0
        app.term._vault._requester.failures.outage, app.term._stream.is_unanswered = "", True
        assert statuses(app)["vault"] == PartStatus("vault", "no answer; waiting for it", is_healthy=False)
        app.term._vault._requester.failures.outage, app.term._stream.is_connected = "it returns 503", True
        assert statuses(app)["vault"].is_healthy
        for source, says in ((ChangeSource.EVENTS, "events"), (ChangeSource.POLL, "poll")):
            app.term._sources.current = source
            assert statuses(app)["source"] == PartStatus("source", says)
        active = {source: metric(app, "source", source=source) for source in ("events", "audit", "poll")}
        assert active == {"events": 0, "audit": 0, "poll": 1}
        app.term._sources.current = ChangeSource.AUDIT
        assert statuses(app)["source"] == PartStatus("source", "audit, not connected", is_healthy=False)

    with_app(kubeconfig, test)


def test_a_silent_audit_device_is_reported_for_every_source(kubeconfig: str) -> None:
    async def test(app: App, informers: InformerManager) -> None:
        assert metric(app, "audit_configured") == 1
        app.term._sources.current, app.term._stream.is_connected = ChangeSource.EVENTS, True
        assert statuses(app)["audit"] == PartStatus("audit", "whether the audit device delivers is not known yet")
        app.term._audit._is_silence_logged = True
        says = "the audit device does not deliver"
        assert statuses(app)["audit"] == PartStatus("audit", f"{says}; deletions are noticed late", is_healthy=False)
        assert statuses(app)["source"].is_healthy
        app.term._sources.current = ChangeSource.POLL
        assert statuses(app)["audit"] == PartStatus("audit", says, is_healthy=False)
        app.term._audit._verified["file"] = None
        assert statuses(app)["audit"] == PartStatus("audit", "the audit device delivers")

    with_app(kubeconfig, test, audit_listen=f"udp:127.0.0.1:{unused_port()}")


def test_without_an_audit_device_its_status_is_absent(kubeconfig: str) -> None:
    async def test(app: App, informers: InformerManager) -> None:
        assert "audit" not in statuses(app)
        assert metric(app, "audit_configured") == 0

    with_app(kubeconfig, test)


def test_a_new_term_resets_no_counter_and_its_requests_are_counted(kubeconfig: str) -> None:
    async def test(app: App, informers: InformerManager) -> None:
        former, metrics, app._informers = app.term, app._metrics, informers
        metrics.resyncs.inc(3)
        metrics.last_event_timestamp.labels("audit").set(12.5)
        await app._begin_term()
        assert app.term is not former
        assert informers.handler is app.term.controller
        app.term.controller.enqueue_all()
        assert metric(app, "resyncs_total") == 4
        assert metric(app, "last_event_timestamp_seconds", source="audit") is None
        before = metric(app, "kube_requests_total", method="GET", code="none") or 0
        with pytest.raises(KubeUnavailable):
            await app.term._kube.get("/api/v1/namespaces")
        assert (metric(app, "kube_requests_total", method="GET", code="none") or 0) > before
        app.term._login.token = SecretStr("t0ken")
        with pytest.raises(VaultUnavailable):
            await app.term._vault.look(path("secret/data/a"), 2)
        assert metric(app, "vault_requests_total", method="GET", code="none")

    with_app(kubeconfig, test)
