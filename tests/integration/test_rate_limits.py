"""Rate limit quotas of Vault (429): vaultsync works at the allowed rate, and does not report an outage.

On its own testbed without external-secrets, as a quota applies to all clients of one address.
"""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.testbed.api import ApiError
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.place import Place
from tests.testbed.testbed import Testbed
from tests.testbed.vaultsync import Metrics, VaultsyncProcess

SEED = {"vaultsync.io/seed": "true"}
PATIENCE = 60.0
MANY = 60
RATE = 5
THREADS = 8


@pytest.fixture(scope="module")
def testbed() -> Iterator[Testbed]:
    with Testbed() as made:
        assert made.eso is not None
        made.eso.stop()
        yield made


@pytest.fixture(params=[True, False], ids=["with Retry-After", "without"])
def limits(testbed: Testbed, request: pytest.FixtureRequest) -> Iterator[str]:
    """A mount that accepts this many requests a second."""
    mount = "limited" if request.param else "strict"
    root = testbed.vault_root
    root.mount(mount, options={"version": "2"})
    root.api.request("POST", "/v1/sys/quotas/config", {"enable_rate_limit_response_headers": request.param})
    root.api.request("POST", "/v1/sys/quotas/rate-limit/test", {"path": mount, "rate": RATE})
    yield mount
    root.api.request("DELETE", "/v1/sys/quotas/rate-limit/test")


def is_lifted(testbed: Testbed) -> bool:
    """Removes the quota, unless the quota refuses the request."""
    try:
        testbed.vault_root.api.request("DELETE", "/v1/sys/quotas/rate-limit/test")
    except ApiError as error:
        if error.status != 429:
            raise
        return False
    return True


def refused(process: VaultsyncProcess) -> float:
    return Metrics(process)("vault_requests_total", code="429")


def test_all_paths_are_created_at_the_rate_of_a_quota_and_owned(
    place: Place, elsewhere: Place, vaultsync: VaultsyncFactory, testbed: Testbed, limits: str
) -> None:
    testbed.vault_root.policy(limits, testbed.vault_policy + re.sub('"secret/', f'"{limits}/', testbed.vault_policy))
    process = vaultsync({"VAULTSYNC_SEED_BUDGET": "0", "VAULT_TOKEN": testbed.vault_root.token([limits])})
    process.wait_until_ready()
    place.store("limited", limits)
    names = [f"app{number}" for number in range(MANY)]
    began = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        list(
            pool.map(
                lambda name: place.external_secret(name, {"p": (name, "p")}, annotations=SEED, store="limited"), names
            )
        )
    for number in range(5):
        elsewhere.external_secret(f"other{number}", {"p": (f"other{number}", "p")}, annotations=SEED)
        elsewhere.wait_for(lambda number=number: elsewhere.read(f"other{number}"), PATIENCE)  # type: ignore[misc]
        time.sleep(0.5)
    metrics = Metrics(process)
    assert metrics("seeds_total") < MANY, "paths of another mount do not wait for those of the limited one"
    place.wait_for(lambda: Metrics(process)("seeds_total") == MANY + 5, 3 * PATIENCE, "all paths are created")
    print(f"{MANY} paths in {time.monotonic() - began:.1f} s, {refused(process):.0f} requests refused with 429")
    assert refused(process) <= MANY / 2
    assert "[+] vault: answers" in process.health.text("/readyz")
    assert process.health.answers("/readyz")
    assert metrics("vault_reachable") == 1
    testbed.vault_root.api.request("DELETE", "/v1/sys/quotas/rate-limit/test")
    made = [testbed.vault_root.metadata(place.path(name), limits) for name in names]
    assert all(one and one["current_version"] == 1 for one in made)

    def all_are_marked() -> bool:
        found = [testbed.vault_root.metadata(place.path(name), limits) or {} for name in names]
        return all((one.get("custom_metadata") or {}).get("managed-by") == "vaultsync" for one in found)

    place.wait_for(all_are_marked, 2 * PATIENCE, "each is owned by vaultsync")
    output = process.output()
    assert output.count("WARNING") + output.count("ERROR") <= 3, output
    assert "Vault is unavailable" not in output
    assert output.count("Vault limits the rate of requests: they are spaced out") <= 3


def test_the_poll_and_the_login_respect_a_quota_on_all_of_vault(
    place: Place, vaultsync: VaultsyncFactory, testbed: Testbed
) -> None:
    root = testbed.vault_root
    names = [f"app{number}" for number in range(20)]
    for name in names:
        place.put(name, p="a person's")
        place.external_secret(name, {"p": (name, "p")}, annotations=SEED)
    place.external_secret("missing", {"p": ("missing", "p")}, annotations=SEED)
    root.api.request("POST", "/v1/sys/quotas/rate-limit/test", {"rate": RATE})
    try:
        process = vaultsync({"VAULTSYNC_SOURCE": "poll", "VAULTSYNC_POLL_INTERVAL": "5s"}, audit=False)
        process.wait_until_ready()
        process.wait_until(lambda: Metrics(process)("seeds_total") == 1, PATIENCE)
        time.sleep(15)
        assert refused(process) <= 40
        output = process.output()
        assert output.count("WARNING") + output.count("ERROR") <= 3, output
        assert "[+] vault: answers" in process.health.text("/readyz")
    finally:
        place.wait_for(lambda: is_lifted(testbed), PATIENCE, "the quota accepts its own removal")
    before = Metrics(process)("force_syncs_total")
    place.put("app3", p="another")
    process.wait_until(lambda: Metrics(process)("force_syncs_total") > before, 2 * PATIENCE)
