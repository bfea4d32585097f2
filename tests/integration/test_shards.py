"""Three vaultsyncs share a cluster and a Vault: each has its own namespaces, Lease, replicas, account and token.

They are releases of the Helm chart with the values of docs/scale.md, with the rendered rights and settings.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
import yaml

from tests.chart import CHART
from tests.integration.test_failover import PATIENCE, Replicas, all_writes, ask, audit_lines, leads, lease_of
from tests.integration.test_healing import another
from tests.integration.test_helm import Helm, environment_of
from tests.testbed import build, pins
from tests.testbed.identity import NAMESPACE, PROJECT, RBAC_KINDS
from tests.testbed.place import Place
from tests.testbed.testbed import Testbed
from tests.testbed.vaultsync import VaultsyncProcess

NAMES = ("a", "b", "c")
NAMESPACES_EACH = 2
APPS = [f"app{number}" for number in range(11)]
"""ExternalSecrets in each namespace."""
TIMES = [2 if number < 3 else 1 for number in range(len(APPS))]
"""Number of writes of each: the first three are deleted."""
LABEL = "vaultsync-shard"
SELECTOR = "VAULTSYNC_NAMESPACE_SELECTOR"
PAGE = PROJECT / "docs" / "scale.md"
TERM = ("holderIdentity", "acquireTime")
"""The fields of a Lease that are constant while the same replica leads."""


@dataclass
class Shard:
    """One shard, in which the first replica leads, and its namespaces."""

    name: str
    replicas: Replicas
    leader: VaultsyncProcess
    standby: VaultsyncProcess
    places: list[Place]

    def wait_until_whole(self) -> None:
        for place in self.places:
            for app in APPS:
                place.wait_for_secret(app, PATIENCE)


def release_of(shard: str) -> str:
    return f"vaultsync-{shard}"


@pytest.fixture
def shards(testbed: Testbed, request: pytest.FixtureRequest) -> Iterator[list[Shard]]:
    assert testbed.identity  # creates vaultsync's namespace and policy
    helm = Helm(testbed, build.ensure([pins.HELM])["helm"])
    with ExitStack() as stack:
        made = [_shard(testbed, helm, name, stack) for name in NAMES]
        yield made
        for shard in made:
            for number, process in enumerate(shard.replicas.all):
                request.node.add_report_section("teardown", f"{shard.name} {number}", process.output())


def _shard(testbed: Testbed, helm: Helm, name: str, stack: ExitStack) -> Shard:
    release = release_of(name)
    text = helm.quietly("template", release, CHART, f"--namespace={NAMESPACE}", values=values_of(name))
    manifests = [item for item in yaml.safe_load_all(text) if item]
    for item in manifests:
        if item["kind"] in RBAC_KINDS:
            testbed.kube.apply(item)
            where = item["metadata"].get("namespace")
            stack.callback(testbed.kube.delete, item["apiVersion"], item["kind"], item["metadata"]["name"], where)
    env = {key: value for key, value in environment_of(manifests).items() if key in ("VAULTSYNC_LEASE", SELECTOR)}
    assert env["VAULTSYNC_LEASE"] == f"{NAMESPACE}/{release}"
    token = testbed.kube.token_for(release, NAMESPACE)
    env["KUBECONFIG"] = str(testbed.kube_apiserver.kubeconfig(testbed.work / f"{release}.kubeconfig", token))
    # the shipped policy under its own name, by which Vault's audit log distinguishes the shards
    testbed.vault_root.policy(release, testbed.vault_policy)
    env["VAULT_TOKEN"] = testbed.vault_root.token([release])
    replicas = Replicas(testbed, release, env)
    stack.callback(replicas.stop)
    leader, standby = replicas.pair()
    replicas.audit()
    places = [stack.enter_context(Place(testbed)) for _ in range(NAMESPACES_EACH)]
    for place in places:
        place.kube.patch("v1", "Namespace", place.name, {"metadata": {"labels": {LABEL: name}}})
    return Shard(name, replicas, leader, standby, places)


def values_of(shard: str) -> dict[str, object]:
    """The values of docs/scale.md for the first shard."""
    (text,) = re.findall(rf"```yaml\n([^`]*{SELECTOR}.*?)```", PAGE.read_text(), re.DOTALL)
    values: dict[str, object] = yaml.safe_load(text.replace(f"{LABEL}=a", f"{LABEL}={shard}"))
    return values


def writes_of(testbed: Testbed, shard: str, since: int) -> Counter[str]:
    """Number of attempted writes of each value with the shard's token, by Vault's audit log."""
    written = (path for path, _ in all_writes(testbed, since, release_of(shard)))
    return Counter(path for path in written if "/data/" in path)  # the others are ownership writes


def places_of(shards: list[Shard]) -> list[Place]:
    return [place for shard in shards for place in shard.places]


def heal(shards: list[Shard], app: str) -> None:
    """Deletes a value in each namespace, and waits for the new ones."""
    gone = [(place, delete(place, app)) for place in places_of(shards)]
    for place, before in gone:
        wait_until_healed(place, app, before)


def delete(place: Place, app: str) -> dict[str, str] | None:
    """Deletes a value in Vault; returns the current values of the Secret."""
    before = place.secret(app)
    place.vault.delete(place.path(app))
    return before


def wait_until_healed(place: Place, app: str, before: dict[str, str] | None) -> None:
    assert before is not None
    place.wait_for(lambda: another(place, app, before), PATIENCE, f"{place.name}/{app} is healed")


def test_each_of_three_shards_seeds_heals_and_fails_over_independently(testbed: Testbed, shards: list[Shard]) -> None:
    began = len(audit_lines(testbed))
    for place in places_of(shards):
        for app in APPS:
            ask(place, app)
    for shard in shards:
        shard.wait_until_whole()

    for app in APPS[:2]:
        heal(shards, app)

    first, second, third = shards
    held = [lease_of(testbed, release_of(shard.name)) for shard in (first, third)]
    second.leader.kill()
    orphaned = [(place, delete(place, APPS[2])) for place in second.places]
    heal([first, third], APPS[2])
    second.replicas.wait_until_led(second.standby)
    for place, before in orphaned:
        wait_until_healed(place, APPS[2], before)
    for shard, before in zip((first, third), held, strict=True):
        now = lease_of(testbed, release_of(shard.name))
        assert [now[key] for key in TERM] == [before[key] for key in TERM]
        assert leads(shard.leader)
        assert not leads(shard.standby)

    for place in places_of(shards):
        assert [place.version(app) for app in APPS] == TIMES
    for shard in shards:
        paths = {place: [f"secret/data/{place.path(app)}" for app in APPS] for place in shard.places}
        expected = {path: times for each in paths.values() for path, times in zip(each, TIMES, strict=True)}
        assert writes_of(testbed, shard.name, began) == expected
