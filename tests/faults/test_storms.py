"""Many keys fail at once: each is retried by its own backoff, and no other key waits for them."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tests.faults import history
from tests.faults.environment import MOUNTS, denial
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.place import Place
from tests.testbed.testbed import Testbed

SEED = {"vaultsync.io/seed": "true"}
PATIENCE = 60.0
FAILING = 80
STORM_SECONDS = 12.0
PASSES = 9
"""Maximum passes of a key in that time: the backoff starts at 0.05 s or more and doubles."""
REQUESTS = 4
"""Maximum requests of a pass: a read, a refused write, a read for a conflict; and a mount's."""
LATE_PASSES = 3
"""Maximum in the second half of that time: a pass may begin late on a busy machine."""
HEALTHY = 10


def test_failing_keys_keep_their_backoff_and_delay_no_other_key(
    place: Place, vaultsync: VaultsyncFactory, testbed: Testbed
) -> None:
    place.vault.policy("storm", testbed.vault_policy + denial(place.name))
    env = {"VAULT_TOKEN": place.vault.token(["storm"]), "VAULTSYNC_SEED_BUDGET": "0"}
    process = vaultsync(env)
    process.wait_until_ready()
    failing = [f"denied/app{number}" for number in range(FAILING)]
    healthy = [f"app{number}" for number in range(HEALTHY)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: ask(place, path), failing))
    began = time.time()
    for path in healthy:
        ask(place, path)
        place.wait_for(lambda path=path: place.read(path), PATIENCE, f"{path} is seeded during the storm")  # type: ignore[misc]
        time.sleep(max(0.0, 0.7 * STORM_SECONDS / HEALTHY))
    time.sleep(max(0.0, began + STORM_SECONDS - time.time()))
    lines = (testbed.work / "logs" / "audit.log").read_bytes().splitlines()
    requests = [one for one in history.read(lines, "storm") if one.own]
    assert sum(f"{place.name}/denied/" in one.path and one.failed for one in requests) >= FAILING
    for path in failing:
        about = [one for one in requests if (at := MOUNTS.split(one.path)) and at[1].path == place.path(path)]
        assert history.busiest(about, STORM_SECONDS) <= PASSES * REQUESTS, Counter(one.operation for one in about)
        late = [one for one in about if began + STORM_SECONDS / 2 < one.at < began + STORM_SECONDS]
        assert len(late) <= LATE_PASSES * REQUESTS
    place.vault.api.request("PUT", "/v1/sys/policies/acl/storm", {"policy": testbed.vault_policy})
    place.wait_for(lambda: all(place.read(path) for path in failing), PATIENCE, "allowed paths are created")


def ask(place: Place, path: str) -> None:
    """Creates an ExternalSecret that reads the path."""
    place.external_secret(path.replace("/", "-"), {"p": (path, "p")}, annotations=SEED)
