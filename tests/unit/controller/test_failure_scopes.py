"""A failure delays only the keys of its scope, and each scope has one line in the log."""

import asyncio

from tests.unit.build import external_secret, logged, path, run_ahead, store
from tests.unit.controller.harness import APP, SEED, A, B, Engine
from vaultsync.controller.controller import LONGEST_RETRY
from vaultsync.controller.failure_scopes import FIRST_ATTEMPT, LOGGED_KEYS, LONGEST_ABSENCE, REPORTED_SECONDS
from vaultsync.core.errors import (
    RequestImpossible,
    VaultFailure,
    VaultNamespaceUnavailable,
    VaultRejected,
    VaultRequestFailed,
    VaultsyncError,
    VaultThrottled,
    VaultUnavailable,
)
from vaultsync.core.external_secret import CreatedCondition, ExternalSecret, ObjectName
from vaultsync.core.paths import FindPrefix, VaultPath
from vaultsync.core.seed_paths import SeedPaths
from vaultsync.core.vault_state import SecretState
from vaultsync.vault.client import MAX_LISTED

TEAM = "team"
MANY = 40


class Failing(Engine):
    """Some paths fail; where `namespace` is away, all of it does."""

    def __init__(self, error: VaultsyncError, namespace: str | None = None) -> None:
        super().__init__(seed_paths=SeedPaths.parse(("**", f"{TEAM}:**")))
        self.error: VaultsyncError | None = error
        self.failing_namespace = namespace
        self.takes = 0.0
        self._look, self._find = self.vault.look, self.vault.find
        self.vault.look = self.look  # type: ignore[method-assign, assignment]
        self.vault.find = self.find  # type: ignore[method-assign, assignment]
        self.index.put_store(store("team", vault_namespace=TEAM))

    def fails(self, where: VaultPath | FindPrefix) -> bool:
        if self.failing_namespace is not None:
            return where.namespace == self.failing_namespace
        return "odd" in str(where)

    async def look(self, where: VaultPath, kv: int) -> SecretState:
        if self.error is not None and self.fails(where):
            self.vault.looks[where] += 1
            await asyncio.sleep(self.takes)
            raise type(self.error)(*self.error.args, *self.more())
        return await self._look(where, kv)

    def more(self) -> list[object]:
        if isinstance(self.error, VaultNamespaceUnavailable):
            return [self.error.namespace]
        if isinstance(self.error, VaultFailure):
            return [self.error.status]
        if isinstance(self.error, VaultThrottled):
            return [self.error.wait]
        return []

    async def find(self, prefix: FindPrefix, limit: int = MAX_LISTED) -> set[VaultPath]:
        if self.error is not None and self.fails(prefix):
            raise type(self.error)(*self.error.args, *self.more())
        return await self._find(prefix)

    def asked(self, *names: str) -> int:
        return sum(count for where, count in self.vault.looks.items() if any(name in str(where) for name in names))

    def report(self, name: ObjectName = APP) -> CreatedCondition:
        """The last one on an ExternalSecret."""
        return [report for one, _, report in self.writer.writes if one == name and report is not None][-1]


def odd(store_name: str = "vault") -> ExternalSecret:
    keys = [f"odd{number}" for number in range(MANY)]
    return external_secret(*keys, annotations=SEED, store={"kind": "SecretStore", "name": store_name})


async def assert_nobody_waits(engine: Engine) -> None:
    for number in range(20):
        name, where = f"app{number}", path(f"secret/data/other{number}")
        engine.controller.external_secret_changed(external_secret(f"other{number}", name=name, annotations=SEED))
        await asyncio.sleep(0.2)
        assert engine.vault.creates[where] == 1
        assert engine.writer.force_syncs(ObjectName("dev-1", name))


def test_paths_on_which_vault_fails_wait_by_themselves_and_are_reported_once_it_lasts() -> None:
    async def test() -> None:
        engine = Failing(VaultRequestFailed("Vault returned 500: no reason given on secret/data/odd1", 500))
        engine.index.put(odd())
        async with engine.working():
            await engine.controller.caught_up.wait()
            assert engine.writer.reports() == [], "it may be over in a moment"
            await assert_nobody_waits(engine)
            await asyncio.sleep(60)
            assert MANY * 6 <= engine.asked("odd") <= MANY * 12
            assert engine.controller.failing() == MANY
            report = engine.report()
            assert "Vault returned 500" in report.message
            assert "vaultsync tries again by itself" in report.message
            assert engine.syncs.blocked()["vault_failed"] == 1
            engine.error = None
            await asyncio.sleep(61)
            assert engine.report().ok
            assert engine.syncs.blocked()["vault_failed"] == engine.controller.failing() == 0

    with logged() as lines:
        run_ahead(test())
    said = [line.partition(" {")[0] for line in lines]
    assert said.count("pass failed") == said.count("pass succeeds again") == MANY
    assert "Vault is unavailable" not in said


def test_a_folder_without_answers_is_asked_by_one_key_at_a_time() -> None:
    """Each attempt occupies a thread until its time-out, 10 s later."""

    async def test() -> None:
        engine = Failing(VaultRequestFailed("no answer from Vault"))
        engine.takes = 10.0
        engine.index.put(external_secret(*(f"odd/{number}" for number in range(MANY)), annotations=SEED))
        async with engine.working():
            await engine.controller.caught_up.wait()
            await asyncio.sleep(30)
            before = engine.asked("odd")
            await assert_nobody_waits(engine)
            await asyncio.sleep(60)
            assert engine.asked("odd") - before <= 64 / 10 + 1
            assert "no answer from Vault" in engine.report().message
            assert engine.controller.failing() >= MANY
            engine.error = None
            await asyncio.sleep(LONGEST_ABSENCE + 61)
            assert len(engine.vault.creates) == MANY + 20
            assert engine.controller.failing() == 0

    run_ahead(test())


def test_a_path_without_an_answer_in_a_folder_of_all_hardly_delays_the_others() -> None:
    async def test() -> None:
        engine = Failing(VaultRequestFailed("no answer from Vault"))
        engine.index.put(external_secret("odd", annotations=SEED))
        async with engine.working():
            await engine.controller.caught_up.wait()
            await assert_nobody_waits(engine)

    run_ahead(test())


def test_many_failing_paths_are_not_a_line_each() -> None:
    async def test() -> None:
        engine = Failing(VaultRequestFailed("Vault returned 500", 500))
        for number in range(3 * LOGGED_KEYS):
            engine.index.put(external_secret(f"odd{number}", name=f"app{number}", annotations=SEED))
        async with engine.working():
            await asyncio.sleep(30)
            engine.error = None
            await asyncio.sleep(61)

    with logged("WARNING") as lines:
        run_ahead(test())
    assert sum(line.startswith("pass failed") for line in lines) == LOGGED_KEYS


def test_a_request_that_cannot_be_built_is_made_once_and_reported_at_once() -> None:
    async def test() -> None:
        engine = Failing(RequestImpossible("spec.provider.vault.namespace of the store holds '€'"))
        engine.index.put(odd())
        find = external_secret(name="list", annotations=SEED, data_from=[{"find": {"path": "odd"}}])
        engine.index.put(find)
        async with engine.working():
            await engine.controller.caught_up.wait()
            await assert_nobody_waits(engine)
            assert engine.asked("odd") == MANY
            messages = [report.message for report in engine.writer.reports() if not report.ok]
            assert len(messages) == 2
            assert all("spec.provider.vault.namespace" in message for message in messages)
            assert "dataFrom.find" in messages[0] + messages[1]

    run_ahead(test())


def test_a_vault_namespace_that_is_away_is_asked_seldom_for_all_its_keys_and_delays_no_other() -> None:
    async def test() -> None:
        engine = Failing(VaultNamespaceUnavailable("the Vault namespace team is sealed", TEAM), TEAM)
        engine.index.put(odd("team"))
        async with engine.working():
            await engine.controller.caught_up.wait()
            await assert_nobody_waits(engine)
            before = engine.asked("odd")
            await asyncio.sleep(60)
            assert engine.asked("odd") - before <= 60 / (LONGEST_ABSENCE / 2) + 1
            assert engine.controller.failing() >= MANY
            assert "the Vault namespace team is sealed" in engine.report().message
            await asyncio.sleep(REPORTED_SECONDS)
            reports = len(engine.writer.reports())
            await asyncio.sleep(60)
            assert len(engine.writer.reports()) == reports
            engine.error = None
            await asyncio.sleep(LONGEST_ABSENCE + 61)
            assert sum(engine.vault.creates[path(f"secret/data/odd{n}", TEAM)] for n in range(MANY)) == MANY
            assert engine.report().ok
            assert engine.controller.failing() == 0

    with logged() as lines:
        run_ahead(test())
    said = [line.partition(" {")[0] for line in lines]
    assert said.count("a Vault namespace is unavailable") == said.count("the Vault namespace answers again") == 1
    assert "pass failed" not in said
    assert "Vault is unavailable" not in said


def test_while_all_of_vault_is_away_nothing_else_is_reported() -> None:
    async def test() -> None:
        engine = Failing(VaultUnavailable("Vault is sealed", 503), "")
        engine.index.put(external_secret("a", annotations=SEED))
        async with engine.working():
            await asyncio.sleep(30)
            assert not engine.controller.caught_up.is_set()
            assert engine.writer.reports() == []
            engine.error = None
            await asyncio.sleep(LONGEST_RETRY)
            assert engine.controller.caught_up.is_set()
            assert engine.vault.creates[A] == 1

    with logged() as lines:
        run_ahead(test())
    said = [line.partition(" {")[0] for line in lines]
    assert said.count("Vault is unavailable") == said.count("Vault answers again") == 1


def test_a_key_that_vaultsync_itself_refuses_ends_no_outage() -> None:
    """It is not known whether Vault received the request."""

    async def test() -> None:
        engine = Failing(VaultRejected("the store says version v1"))
        engine.index.put(external_secret("odd", annotations=SEED))
        engine.index.put(external_secret("b", name="other", annotations=SEED))
        engine.vault.errors[B] = [VaultUnavailable("away")] * 1000
        async with engine.working():
            await asyncio.sleep(60)
            assert engine.vault.looks[B] <= 60 / (LONGEST_ABSENCE / 2) + 10
            assert not engine.controller.caught_up.is_set()

    with logged() as lines:
        run_ahead(test())
    assert not any(line.startswith("Vault answers again") for line in lines)


def test_a_limited_rate_is_no_failure_and_each_path_comes_back_at_its_turn() -> None:
    async def test() -> None:
        engine = Failing(VaultThrottled("Vault returned 429", 7.0))
        engine.index.put(odd())
        async with engine.working():
            await engine.controller.caught_up.wait()
            await assert_nobody_waits(engine)
            assert engine.asked("odd") == MANY
            await asyncio.sleep(7.0 - 4.0 + FIRST_ATTEMPT)
            assert engine.asked("odd") == 2 * MANY
            assert engine.controller.failing() == 0
            assert engine.count("reconciles_total", kind="path", result="put_off") == 2 * MANY
            assert engine.syncs.of(engine.index._entries[APP].object).failures == {}
            engine.error = None
            await asyncio.sleep(7.1)
            assert engine.report().ok

    with logged("WARNING") as lines:
        run_ahead(test())
    assert lines == []
