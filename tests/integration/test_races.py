"""Fifty clients and two vaultsyncs write one path at the same moment: vaultsync never replaces a client's value."""

import json
import random
import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from tests.testbed.api import ApiError
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.identity import POLICY
from tests.testbed.place import Place
from tests.testbed.testbed import Testbed

SEED = {"vaultsync.io/seed": "true"}
WRITERS = 50
PROPERTIES = ("alpha", "beta", "gamma")
HEX = re.compile(r"[0-9a-f]{64}")
DELAYS = (0.0, 0.02, 0.04, 0.08, 0.16, 0.32)
"""Delays of a round's writers: from all before vaultsync's first write to all after it."""
SPREAD = 0.05
MOST_ROUNDS = 4 * len(DELAYS)
MERGE_PATCH = "application/merge-patch+json"
AUDIT = "races"

Values = dict[str, Any]


class Person:
    """One writer at a path; each kind of write has its method."""

    def __init__(self, place: Place, name: str, number: int) -> None:
        self._vault = place.vault
        self._path = place.path(name)
        ways = (self._create, self._edit, self._patch, self._put, self._create)
        self._way = ways[number % len(ways)]
        # every fifth writes its own value for a property that vaultsync would generate
        key = PROPERTIES[0] if number % len(ways) == len(ways) - 1 else f"person{number}"
        self.values: Values = {key: f"written by {number}"}

    def write(self) -> int | None:
        """Writes; returns the number of the created version, None if there is none."""
        try:
            return self._way()
        except ApiError as error:
            if error.status in (400, 404):  # another client was first, or there was nothing to patch
                return None
            raise

    def _create(self) -> int:
        """`vault kv put -cas=0`."""
        return self._write("POST", self.values, {"cas": 0})

    def _edit(self) -> int:
        """Vault's web page: writes the displayed values with a change, with check-and-set on the displayed version."""
        version = self._vault.version(self._path)
        shown = self._vault.get(self._path) or {}
        return self._write("POST", {**shown, **self.values}, {"cas": version})

    def _patch(self) -> int:
        """`vault kv patch`."""
        return self._write("PATCH", self.values, {}, MERGE_PATCH)

    def _put(self) -> int:
        """`vault kv put`: replaces the live values, on purpose."""
        return self._write("POST", self.values, {})

    def _write(
        self, method: str, values: Values, options: Mapping[str, int], content_type: str = "application/json"
    ) -> int:
        body = {"options": options, "data": values}
        answer = self._vault.api.request(method, f"/v1/secret/data/{self._path}", body, content_type=content_type)
        return int(answer["data"]["version"])


@dataclass(frozen=True)
class History:
    """Every version of a path.

    Attributes:
        values: by version, as they were written.
        deleted: the deleted versions, each deleted while it was the latest: Vault deletes no other.
    """

    values: Mapping[int, Values]
    deleted: frozenset[int]

    def live_before(self, version: int) -> Values:
        """The live values when the version was written, {} if there were none."""
        return {} if version - 1 in self.deleted else self.values.get(version - 1, {})


@dataclass
class Tries:
    """The writes of the vaultsyncs at a path, by Vault's audit log."""

    taken: int = 0
    refused: int = 0


@pytest.fixture
def audit_log(testbed: Testbed) -> Iterator[Path]:
    """Enables Vault's audit log of refused writes, and lets it keep every version instead of ten."""
    path = testbed.work / "logs" / f"{AUDIT}.log"
    vault = testbed.vault_root
    vault.api.request("POST", "/v1/secret/config", {"max_versions": 1000})
    vault.audit(AUDIT, "file", file_path=str(path))
    yield path
    vault.unaudit(AUDIT)
    vault.api.request("POST", "/v1/secret/config", {"max_versions": 0})


def test_fifty_writers_and_two_replicas_lose_nothing(
    place: Place, vaultsync: VaultsyncFactory, audit_log: Path
) -> None:
    vaultsync(name="one").wait_until_ready()
    vaultsync(name="two").wait_until_ready()
    won = lost = 0
    for number, delay in enumerate(islice(cycle(DELAYS), MOST_ROUNDS), start=1):
        name = f"round{number}"
        people = race(place, name, delay)
        wait_until_settled(place, name)
        history = read_history(place, name)
        check_that_nothing_is_lost(history, people)
        tries = tries_at(place, name, audit_log)
        assert tries.taken == len(history.values) - len(people)
        won += 1 not in people
        lost += tries.refused
        print(f"{number} rounds: vaultsync was first in {won}, and refused {lost} times")
        if won and lost and number >= len(DELAYS):
            return
    pytest.fail(f"in {MOST_ROUNDS} rounds vaultsync was first {won} times and refused {lost} times: no race")


def race(place: Place, name: str, delay: float) -> dict[int, Values]:
    """Starts all writers on a missing path; returns the operators' values by version."""
    start = Barrier(WRITERS + len(PROPERTIES) + 1)
    people = [Person(place, name, number) for number in range(WRITERS)]

    def write(person: Person) -> int | None:
        start.wait()
        time.sleep(delay + random.uniform(0, SPREAD))
        return person.write()

    def read(wanted: str) -> None:
        start.wait()
        place.external_secret(f"{name}-{wanted}", {"value": (name, wanted)}, annotations=SEED)

    def delete() -> None:
        """`vault kv delete` during the race."""
        start.wait()
        time.sleep(delay + SPREAD / 2)
        place.vault.delete(place.path(name))

    with ThreadPoolExecutor(start.parties) as pool:
        others = [pool.submit(delete), *(pool.submit(read, wanted) for wanted in PROPERTIES)]
        versions = list(pool.map(write, people))
    for other in others:
        other.result()
    return {version: person.values for version, person in zip(versions, people, strict=True) if version is not None}


def wait_until_settled(place: Place, name: str) -> None:
    """Waits until Vault has every property, and each Secret has Vault's value."""

    def is_settled() -> bool:
        live = place.read(name) or {}
        found = {wanted: (place.secret(f"{name}-{wanted}") or {}).get("value") for wanted in PROPERTIES}
        return None not in found.values() and found == {wanted: live.get(wanted) for wanted in PROPERTIES}

    place.wait_for(is_settled, 30, f"{name} has {PROPERTIES} in Vault and in the Secrets")


def read_history(place: Place, name: str) -> History:
    """Reads every version, the deleted ones too, by undeleting them."""
    versions = (place.vault.metadata(place.path(name)) or {})["versions"]
    deleted = frozenset(int(version) for version, about in versions.items() if about["deletion_time"])
    if deleted:
        place.vault.undelete(place.path(name), sorted(deleted))
    url = f"/v1/secret/data/{place.path(name)}?version="
    values = {int(version): place.vault.api.request("GET", url + version)["data"]["data"] for version in versions}
    return History(values, deleted)


def check_that_nothing_is_lost(history: History, people: Mapping[int, Values]) -> None:
    """Asserts that operators' versions are unchanged, and that vaultsync's versions only add to the live values."""
    assert sorted(history.values) == list(range(1, len(history.values) + 1))
    for version, values in history.values.items():
        if version in people:
            assert people[version].items() <= values.items()
            continue
        before = history.live_before(version)
        assert before.items() <= values.items(), f"version {version} replaced {before} by {values}"
        added = values.keys() - before.keys()
        assert added
        assert added <= set(PROPERTIES)
        assert all(HEX.fullmatch(values[key]) for key in added)


def tries_at(place: Place, name: str, audit_log: Path) -> Tries:
    """The results of the vaultsyncs' writes at the path."""
    tries = Tries()
    for line in audit_log.read_text().splitlines():
        entry = json.loads(line)
        request = entry["request"]
        if (
            entry["type"] == "response"
            and request["operation"] in ("create", "update", "patch")
            and POLICY in entry["auth"].get("policies", [])  # not hashed in the log, as the token is
            and request["path"] == f"secret/data/{place.path(name)}"
        ):
            # only an accepted write returns a version: a patch of a deleted version is no error, but a 404
            taken = "version" in ((entry.get("response") or {}).get("data") or {})
            tries.taken += taken
            tries.refused += not taken
    return tries
