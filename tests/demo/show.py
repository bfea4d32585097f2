"""One showing of the demo: servers, sources and timeline put together, then the acts in their order."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from types import TracebackType

from rich.console import Console
from rich.table import Table

from tests.bench.running import audit_log, vaultsync
from tests.bench.watching import watch_ready, watch_secrets
from tests.demo.example import NAMESPACES, apply, examples
from tests.demo.observer import Observer
from tests.demo.story import Outcome, Story
from tests.demo.tail import Tail
from tests.demo.timeline import Timeline
from tests.testbed.__main__ import how_to_use
from tests.testbed.place import Place
from tests.testbed.servers import ROOT_TOKEN
from tests.testbed.testbed import Options, Testbed

NEW = "billing"
LOOK = """\
kubectl get externalsecrets -A
kubectl describe externalsecret postgres -n dev-1    # its Events say what was done
{cli} kv delete secret/dev-1/postgres                # and watch it heal, here
{cli} kv metadata delete secret/dev-2/redis
{cli} kv put secret/dev-3/grafana password=my-own    # yours is brought, never replaced"""
WEB = (
    """In a browser: {address}/ui/ , method Token, token {token}; then secret, dev-1, postgres: delete it, and watch."""
)


class Show:
    """The demo as a context manager that stops everything it started.

    Args:
        console: where the timeline is shown.
        openbao: instead of Vault; it has a web page, which the testbed's Vault does not have.
    """

    def __init__(self, console: Console, *, openbao: bool = False) -> None:
        self._console = console
        self._openbao = openbao
        self._started = time.monotonic()
        self._stack = ExitStack()

    def __enter__(self) -> Show:
        self._title(f"{'OpenBao' if self._openbao else 'Vault'}, etcd, kube-apiserver and external-secrets start")
        try:
            self._set_up()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave processes behind
        self._title("everything stops")
        self._stack.close()

    def acts(self) -> list[Outcome]:
        """Runs all acts; each outcome says whether its value arrived."""
        places = self._apply_example()
        outcomes = [self._start_vaultsync()]
        if outcomes[0].seconds is None:
            return outcomes  # the following acts depend on it
        by_name = {str(one.name): one for one in examples()}
        self._title("an operator deletes, another one rotates; times count from when Vault got the request")
        self._observer.shows_objects = True
        outcomes.append(self._story.deletion(by_name["dev-1/postgres"]))
        outcomes.append(self._story.complete_deletion(by_name["dev-2/redis"]))
        outcomes.append(self._story.rotation(by_name["dev-3/grafana"]))
        outcomes.append(self._story.creation(places["dev-1"], NEW))
        self._tell_events()
        return outcomes

    def summary(self, outcomes: Sequence[Outcome]) -> None:
        """Prints how long each took until the value was in the Kubernetes Secret."""
        self._title("until the value was in the Kubernetes Secret")
        table = Table(box=None, show_header=False, padding=(0, 2))
        for outcome in outcomes:
            table.add_row(outcome.act, _figure(outcome.seconds))
        self._console.print(table)
        if any(outcome.seconds is None for outcome in outcomes):
            self._console.print(f"vaultsync{self._vaultsync.tail_for_errors()}", markup=False, soft_wrap=True)

    def stay(self) -> None:
        """Shows what happens until Ctrl-C."""
        self._title("now it is yours; in another terminal:")
        print(f"{how_to_use(self._testbed)}\n\n{LOOK.format(cli=self._testbed.cli.name)}\n", flush=True)
        if self._openbao:
            print(f"{WEB.format(address=self._testbed.vault.address, token=ROOT_TOKEN)}\n", flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()

    # -- inner

    def _set_up(self) -> None:
        enter = self._stack.enter_context
        self._testbed = enter(Testbed(Options(vault="openbao" if self._openbao else "1.15")))
        self._timeline = enter(Timeline(self._console))
        self._observer = Observer(self._timeline, {one.path: one.name for one in examples()})
        values = enter(watch_secrets(self._testbed, self._observer.secret_seen))
        ready = enter(watch_ready(self._testbed, self._observer.ready_seen))
        self._story = Story(self._testbed, self._timeline, self._observer, values, ready)

    def _apply_example(self) -> dict[str, Place]:
        self._title(f"the example: ExternalSecrets in {', '.join(NAMESPACES)}; Vault is empty")
        places = apply(self._testbed)
        ready = self._story.wait_for_errors()
        self._console.print(f"{len(list(examples()))} ExternalSecrets, {ready} of them Ready: SecretSyncedError")
        return places

    def _start_vaultsync(self) -> Outcome:
        self._title("vaultsync starts; times count from there")
        started = self._observer.vaultsync_started = time.time()
        self._vaultsync = self._stack.enter_context(vaultsync(self._testbed))
        self._stack.enter_context(Tail(self._vaultsync.log, self._observer.vaultsync_line))
        self._stack.enter_context(Tail(audit_log(self._testbed), self._observer.audit_line))
        return self._story.seeding(started)

    def _tell_events(self) -> None:
        self._title("what `kubectl describe externalsecret postgres -n dev-1` says of it")
        for event in self._testbed.kube.events_of("postgres", "dev-1"):
            if (event.get("source") or {}).get("component") == "vaultsync":
                self._console.print(f"{event['type']:<8} {event['reason']:<12} {event['message']}", markup=False)

    def _title(self, text: str) -> None:
        self._console.print(f"\n[bold]{time.monotonic() - self._started:5.1f} s  {text}", soft_wrap=True)


def _figure(seconds: float | None) -> str:
    return "[bold red]did not arrive" if seconds is None else f"[bold green]{seconds * 1000:,.0f} ms"
