"""status: what /readyz says of each part. The parts are real; what they have seen is set, as no server is asked."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.unit.build import run, sample
from tests.unit.servers import unused_port
from vaultsync.config.change_source import ChangeSource
from vaultsync.config.selection import Selection
from vaultsync.config.settings import Settings
from vaultsync.core.annotations import Result
from vaultsync.kube.client import connect
from vaultsync.kube.informer_manager import EXTERNAL_SECRETS, NAMESPACES, RESOURCES, InformerManager
from vaultsync.runtime.app import App
from vaultsync.runtime.health import Part
from vaultsync.runtime.lifecycle import Stop
from vaultsync.runtime.metrics import Metrics
from vaultsync.runtime.status import LISTING, REFUSED, UNANSWERED, WATCHED, Status

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


def with_status(
    kubeconfig: str, test: Callable[[Status, InformerManager], Awaitable[None]], *, audit_listen: str = ""
) -> None:
    """All parts, wired and not started; and watches of which nothing is listed."""

    async def main() -> None:
        settings = Settings(
            vault_addr=f"http://127.0.0.1:{unused_port()}",
            vault_token="t0ken",
            kubeconfig=kubeconfig,
            audit_listen=audit_listen,
        )
        kube = await connect(kubeconfig, 1.0)
        app = App(settings, kube, Stop(), Metrics())
        try:
            async with asyncio.TaskGroup() as tasks:
                watches = InformerManager(tasks, kube, "v1", Selection(), app.term.controller)
                starting = tasks.create_task(watches.start())
                await asyncio.sleep(0)
                try:
                    await test(app.term.status, watches)
                finally:
                    starting.cancel()
                    for _, task in watches._running.values():
                        task.cancel()
        finally:
            await app.close()

    run(main())


def gauge(status: Status, name: str, **labels: str) -> float | None:
    metrics = Metrics()
    status.report(metrics)
    return sample(metrics, name, **labels)


def told(status: Status) -> dict[str, Part]:
    return {part.name: part for part in status.parts()}


def test_until_kubernetes_is_listed_it_is_not_ready(kubeconfig: str) -> None:
    async def test(status: Status, watches: InformerManager) -> None:
        status.unserved = "no CRDs"
        parts = told(status)
        assert parts.keys() == {"role", "kubernetes", "vault", "source"}
        assert parts["kubernetes"] == Part("kubernetes", "no CRDs", is_well=False, is_needed=True)
        status.watches = watches
        parts = told(status)
        assert parts.keys() == {"role", *RESOURCES, "vault", "source"}
        assert parts[NAMESPACES] == Part(NAMESPACES, LISTING, is_well=False, is_needed=True)
        for informer, _ in watches._running.values():
            informer.synced.set()
        assert told(status)[NAMESPACES] == Part(NAMESPACES, WATCHED)

    with_status(kubeconfig, test)


def test_a_standby_says_so_and_nothing_of_vault_which_it_does_not_ask(kubeconfig: str) -> None:
    async def test(status: Status, watches: InformerManager) -> None:
        status.watches = watches
        assert told(status)["role"] == Part("role", "leading")
        status.is_leading = lambda: False
        assert told(status)["role"] == Part("role", "standby")
        assert told(status).keys() == {"role", *RESOURCES}
        assert gauge(status, "leading") == 0

    with_status(kubeconfig, test)


def test_what_is_lost_after_that_is_told_and_counted_and_leaves_it_ready(kubeconfig: str) -> None:
    async def test(status: Status, watches: InformerManager) -> None:
        status.watches, watches._started = watches, True
        informer, _ = watches._running[EXTERNAL_SECRETS, ""]
        for result, says in ((Result.REFUSED, REFUSED), (Result.UNAVAILABLE, UNANSWERED)):
            informer.trouble = result
            assert told(status)[EXTERNAL_SECRETS] == Part(EXTERNAL_SECRETS, says, is_well=False)
            lost_watches = {resource: gauge(status, "watches_lost", resource=resource) for resource in RESOURCES}
            assert lost_watches == {**dict.fromkeys(RESOURCES, 0), EXTERNAL_SECRETS: 1}

    with_status(kubeconfig, test)


def test_vault_and_the_source_are_told_of_and_never_needed(kubeconfig: str) -> None:
    async def test(status: Status, watches: InformerManager) -> None:
        assert told(status)["vault"] == Part("vault", "answers")
        assert told(status)["source"] == Part("source", "not chosen yet", is_well=False)
        status.vault._requester.failures.outage = "it returns 503"
        assert told(status)["vault"] == Part("vault", "it returns 503; waiting for it", is_well=False)
        assert gauge(status, "vault_reachable") == 0
        status.vault._requester.failures.outage, status.stream.is_unanswered = "", True
        assert told(status)["vault"] == Part("vault", "no answer; waiting for it", is_well=False)
        status.vault._requester.failures.outage, status.stream.is_connected = "it returns 503", True
        assert told(status)["vault"].is_well
        for source, says in ((ChangeSource.EVENTS, "events"), (ChangeSource.POLL, "poll")):
            status.sources._current = source
            assert told(status)["source"] == Part("source", says)
        active = {source: gauge(status, "source", source=source) for source in ("events", "audit", "poll")}
        assert active == {"events": 0, "audit": 0, "poll": 1}
        status.sources._current = ChangeSource.AUDIT
        assert told(status)["source"] == Part("source", "audit, which is not connected", is_well=False)

    with_status(kubeconfig, test)


def test_an_audit_device_that_does_not_deliver_is_told_whatever_the_source_is(kubeconfig: str) -> None:
    async def test(status: Status, watches: InformerManager) -> None:
        assert gauge(status, "audit_configured") == 1
        status.sources._current, status.stream.is_connected = ChangeSource.EVENTS, True
        assert told(status)["audit"] == Part("audit", "whether the audit device delivers is not known yet")
        status.audit._is_silence_logged = True
        says = "the audit device does not deliver"
        assert told(status)["audit"] == Part("audit", f"{says}; deletions are noticed late", is_well=False)
        assert told(status)["source"].is_well
        status.sources._current = ChangeSource.POLL
        assert told(status)["audit"] == Part("audit", says, is_well=False)
        status.audit._verified["file"] = None
        assert told(status)["audit"] == Part("audit", "the audit device delivers")

    with_status(kubeconfig, test, audit_listen=f"udp:127.0.0.1:{unused_port()}")


def test_without_an_audit_device_nothing_is_told_of_one(kubeconfig: str) -> None:
    async def test(status: Status, watches: InformerManager) -> None:
        assert "audit" not in told(status)
        assert gauge(status, "audit_configured") == 0

    with_status(kubeconfig, test)


def test_another_replica_may_lead(kubeconfig: str) -> None:
    async def test(status: Status, watches: InformerManager) -> None:
        assert gauge(status, "leading") == 1
        status.is_leading = lambda: False
        assert gauge(status, "leading") == 0

    with_status(kubeconfig, test)
