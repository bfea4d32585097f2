"""Several vaultsyncs, of which one leads: it stops, is killed, frozen or cut off, and another one takes over.

Most have a Lease of 4 s instead of 15 (tests/testbed/fast_lease.py); tests of the real timings use the real Lease.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from threading import Event

import pytest
import yaml
from urllib3.exceptions import HTTPError

from tests.bench.idle import connections
from tests.integration.test_deploy import Kubectl
from tests.manual import run
from tests.testbed.api import Json
from tests.testbed.fast_lease import DURATION
from tests.testbed.identity import DEPLOY, NAMESPACE, POLICY, PROJECT
from tests.testbed.place import Place
from tests.testbed.processes import free_port
from tests.testbed.proxy import Fault, Proxy
from tests.testbed.servers import kubeconfig_text
from tests.testbed.testbed import Testbed, wait_for
from tests.testbed.vaultsync import VaultsyncProcess
from vaultsync.core.annotations import LEADER_LABEL

SEED = {"vaultsync.io/seed": "true"}
LEASES = "coordination.k8s.io/v1"
RBAC = "rbac.authorization.k8s.io/v1"
CHANGELOG = (PROJECT / "CHANGELOG.md").read_text()
PATIENCE = 60.0
CLEAN_SECONDS = 2.0
KILLED_SECONDS = 20.0
FAILOVERS = 50


class Replicas:
    """Processes with one Lease, and with one address for Vault's audit device: only the leader listens there."""

    def __init__(self, testbed: Testbed, lease: str = "vaultsync", env: Mapping[str, str] | None = None) -> None:
        self.testbed = testbed
        self.lease = lease
        self.env = dict(env or {})
        self.audit_port = free_port()
        self.all: list[VaultsyncProcess] = []

    def start(self, *, is_fast: bool = True, **env: str) -> VaultsyncProcess:
        """Starts one more replica."""
        settings = {
            "VAULTSYNC_LEASE": f"{NAMESPACE}/{self.lease}",
            "VAULTSYNC_AUDIT_LISTEN": f"127.0.0.1:{self.audit_port}",
            "VAULTSYNC_SEED_BUDGET": "0",
            **self.env,
            **env,
        }
        process = VaultsyncProcess(self.testbed.identity, self.testbed.work, self.lease, settings)
        if is_fast:
            process.command = [sys.executable, "-m", "tests.testbed.fast_lease", "run"]
        self.all.append(process)
        process.start()
        return process

    def pair(self, *, is_fast: bool = True, **env: str) -> tuple[VaultsyncProcess, VaultsyncProcess]:
        """The leader, and a standby."""
        first = self.start(is_fast=is_fast, **env)
        self.wait_until_led(first)
        second = self.start(is_fast=is_fast, **env)
        second.wait_until_ready(PATIENCE)
        return first, second

    def wait_until_led(self, *by: VaultsyncProcess, timeout: float = PATIENCE) -> VaultsyncProcess:
        """Waits until one of these (or of all) leads; returns it."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for process in by or self.all:
                if leads(process):
                    return process
            time.sleep(0.05)
        raise AssertionError(f"no replica leads within {timeout:g} s")

    def audit(self) -> None:
        """Enables an audit device to the leader, and a file."""
        self.testbed.audit_to(self.lease, f"127.0.0.1:{self.audit_port}")

    def stop(self) -> None:
        self.testbed.no_audit_to(self.lease)
        for process in self.all:
            process.stop()
        self.testbed.kube.delete(LEASES, "Lease", self.lease, NAMESPACE)  # a killed replica has not released it


def leads(process: VaultsyncProcess) -> bool:
    """Whether it reports that it leads."""
    try:
        return process.alive and process.health.text("/readyz").startswith("ok\n[+] role: leading\n")
    except (HTTPError, OSError):
        return False


def lease_of(testbed: Testbed, name: str = "vaultsync") -> Json:
    found = testbed.kube.get(LEASES, "Lease", name, NAMESPACE)
    assert found is not None
    spec: Json = found["spec"]
    return spec


@pytest.fixture
def replicas(testbed: Testbed, request: pytest.FixtureRequest) -> Iterator[Replicas]:
    assert testbed.identity  # creates the rights
    made = Replicas(testbed)
    yield made
    made.stop()
    for number, process in enumerate(made.all):
        request.node.add_report_section("teardown", f"{process.name} {number}", process.output())


def ask(place: Place, name: str) -> None:
    place.external_secret(name, {"p": (name, "password")}, annotations=SEED)


def test_one_leads_and_the_other_is_ready_and_sends_vault_nothing(place: Place, replicas: Replicas) -> None:
    leader, standby = replicas.pair()
    ask(place, "app")
    place.wait_for_secret("app", PATIENCE)
    assert standby.health.text("/readyz").startswith("ok\n[+] role: standby\n")
    assert connections(standby.pid, place.testbed.vault.port) == []
    assert connections(leader.pid, place.testbed.vault.port)
    assert lease_of(place.testbed)["leaseDurationSeconds"] == DURATION


def test_when_the_leader_stops_the_other_takes_over_within_two_seconds(place: Place, replicas: Replicas) -> None:
    leader, standby = replicas.pair(is_fast=False)
    for number in range(20):  # some of these have no ownership yet when it stops
        ask(place, f"before{number}")
    place.wait_for(lambda: all(place.read(f"before{number}") for number in range(20)), PATIENCE)
    ask(place, "app")
    os.kill(leader.pid, signal.SIGTERM)
    started = time.monotonic()
    replicas.wait_until_led(standby, timeout=CLEAN_SECONDS)
    place.wait_for(lambda: place.read("app"), CLEAN_SECONDS - (time.monotonic() - started))
    assert leader.wait(5) == 0
    assert "Traceback" not in leader.output()
    marks = [place.vault.metadata(place.path(f"before{number}")) for number in range(20)]
    assert all(mark and mark["custom_metadata"]["managed-by"] == "vaultsync" for mark in marks)


def test_when_the_leader_is_killed_the_other_takes_over_within_twenty_seconds(place: Place, replicas: Replicas) -> None:
    leader, standby = replicas.pair(is_fast=False)
    leader.kill()
    started = time.monotonic()
    ask(place, "app")
    place.wait_for(lambda: place.read("app"), KILLED_SECONDS)
    assert time.monotonic() - started > 5  # not before the killed leader would have stopped by itself
    assert leads(standby)


def test_a_leader_without_the_api_server_stops_acting_before_the_other_starts(
    place: Place, replicas: Replicas, tmp_path: Path
) -> None:
    """With the real timings. The connection to the API server is open but silent."""
    server = place.testbed.kube_apiserver
    with Proxy(server.port) as proxy:
        kubeconfig = tmp_path / "kubeconfig"
        token = place.testbed.identity.kubernetes_token
        kubeconfig.write_text(kubeconfig_text(f"https://127.0.0.1:{proxy.port}", server.ca, token, NAMESPACE))
        cut_off = replicas.start(is_fast=False, KUBECONFIG=str(kubeconfig))
        replicas.wait_until_led(cut_off)
        other = replicas.start(is_fast=False)
        other.wait_until_ready(PATIENCE)
        proxy.set(Fault(stalled=True))
        started = time.monotonic()
        ended = began = 0.0
        while not began and time.monotonic() < started + KILLED_SECONDS:
            now = time.monotonic()
            if not ended and not leads(cut_off):
                ended = now
            if leads(other):
                began = now
            time.sleep(0.02)
        assert 0 < ended < began
        assert ended - started < 10.5
        place.wait_for(lambda: "leadership lost: this replica is now a standby" in cut_off.output(), PATIENCE)
        ask(place, "app")
        place.wait_for_secret("app", PATIENCE)
        proxy.heal()
        cut_off.wait_until_ready(PATIENCE)
        assert leads(other)
        assert not leads(cut_off)
        replicas.stop()  # while the API server is still reachable


def test_no_replica_acts_while_the_api_server_hangs_and_one_does_afterwards(place: Place, replicas: Replicas) -> None:
    both = replicas.pair()
    ask(place, "app")
    place.wait_for_secret("app", PATIENCE)
    place.testbed.kube_apiserver.freeze()
    try:
        place.wait_for(lambda: not any(map(leads, both)), PATIENCE)
        place.vault.delete(place.path("app"))
        time.sleep(2 * DURATION)
        assert place.read("app") is None
    finally:
        place.testbed.kube_apiserver.thaw()
    place.wait_for(lambda: place.read("app"), PATIENCE)
    assert sum(map(leads, both)) == 1


def test_a_leader_frozen_in_the_middle_of_a_pass_does_not_continue_it(
    place: Place, replicas: Replicas, testbed: Testbed
) -> None:
    """It has read and would write next; the other one has written in between."""
    leader, standby = replicas.pair()
    replicas.audit()
    testbed.vault.freeze()
    try:
        ask(place, "app")
        time.sleep(0.5)  # it waits for Vault's response
        leader.freeze()
    finally:
        testbed.vault.thaw()
    replicas.wait_until_led(standby)
    written = place.wait_for_secret("app", PATIENCE)
    leader.thaw()
    place.wait_for(lambda: "leadership lost" in leader.output(), PATIENCE)
    leader.wait_until_ready(PATIENCE)
    assert "seeded" not in leader.output()
    assert writes_at(testbed, place.path("app")) == [True]
    assert (place.version("app"), place.secret("app")) == (1, written)
    assert leads(standby)
    assert not leads(leader)


def test_a_leader_whose_lease_is_taken_stops_and_later_leads_again(place: Place, replicas: Replicas) -> None:
    leader = replicas.start()
    replicas.wait_until_led(leader)
    change = {"spec": {"holderIdentity": "a person", "leaseDurationSeconds": 4}}
    place.kube.patch(LEASES, "Lease", "vaultsync", change, NAMESPACE)
    leader.wait_until(lambda: "it is held by a person" in leader.output(), PATIENCE)
    leader.wait_until_ready(PATIENCE)
    ask(place, "app")
    replicas.wait_until_led(leader)  # in the same process
    place.wait_for_secret("app", PATIENCE)


LISTS = re.compile(r'^apiserver_request_total\{.*resource="(\w+)".*verb="LIST".*\} (\d+)$', re.MULTILINE)
RISING = re.compile(r"^(vaultsync_\w+_(?:total|count|bucket)\S*) (\S+)$", re.MULTILINE)


def lists(testbed: Testbed) -> Counter[str]:
    """Number of list requests to the API server, by resource."""
    found: Counter[str] = Counter()
    for resource, number in LISTS.findall(testbed.kube_apiserver.api.text("/metrics")):
        found[resource] += int(number)
    return found


def counted(process: VaultsyncProcess) -> dict[str, float]:
    """All counters of /metrics."""
    return {sample: float(value) for sample, value in RISING.findall(process.health.text("/metrics"))}


def test_a_former_leader_lists_nothing_again_and_keeps_its_metrics_and_health(
    place: Place, replicas: Replicas, testbed: Testbed
) -> None:
    leader = replicas.start()
    ask(place, "app")
    before_value = place.wait_for_secret("app", PATIENCE)
    place.wait_for(lambda: counted(leader)["vaultsync_force_syncs_total"] >= 1, PATIENCE)
    testbed.eso.freeze() if testbed.eso else None  # it lists from time to time too
    ended, answers = Event(), list[tuple[bool, dict[str, float]]]()

    def observe() -> None:
        while not ended.wait(0.02):
            answers.append((leader.health.answers("/readyz"), counted(leader)))

    try:
        before = lists(testbed)
        with ThreadPoolExecutor(1) as thread:
            observing = thread.submit(observe)
            try:
                change = {"spec": {"holderIdentity": "a person", "leaseDurationSeconds": 4}}
                place.kube.patch(LEASES, "Lease", "vaultsync", change, NAMESPACE)
                leader.wait_until(lambda: "it is held by a person" in leader.output(), PATIENCE)
                leader.wait_until(lambda: not leads(leader), PATIENCE)
                ask(place, "meanwhile")
                place.vault.delete(place.path("app"))
                replicas.wait_until_led(leader)
                place.wait_for(lambda: place.read("app") and place.read("meanwhile"), PATIENCE)
            finally:
                ended.set()
            observing.result(PATIENCE)
        after = lists(testbed)
    finally:
        testbed.eso.thaw() if testbed.eso else None
    place.wait_for(lambda: place.secret("app") not in (None, before_value), PATIENCE)
    for resource in ("namespaces", "secretstores", "clustersecretstores", "externalsecrets"):
        assert after[resource] == before[resource], resource
    assert len(answers) > 50
    assert all(is_ready for is_ready, _ in answers)
    for (_, one), (_, other) in pairwise(answers):
        assert all(other.get(sample, -1.0) >= value for sample, value in one.items())
    place.wait_for(lambda: counted(leader)["vaultsync_seeds_total"] >= 2, PATIENCE)  # one in each term
    assert "Traceback" not in leader.output()


def test_a_dry_run_takes_no_lease(place: Place, replicas: Replicas) -> None:
    process = replicas.start(VAULTSYNC_DRY_RUN="true")
    process.wait_until_ready(PATIENCE)
    ask(place, "app")
    process.wait_until(lambda: "would seed" in process.output(), PATIENCE)
    assert place.kube.get(LEASES, "Lease", "vaultsync", NAMESPACE) is None


def test_without_the_right_to_the_lease_it_is_ready_and_logs_why_it_does_not_lead(replicas: Replicas) -> None:
    process = replicas.start(VAULTSYNC_LEASE=f"{NAMESPACE}/another")
    process.wait_until(lambda: 'leases.coordination.k8s.io \\"another\\" is forbidden' in process.output(), PATIENCE)
    process.wait_until_ready(PATIENCE)
    assert process.health.text("/readyz").startswith("ok\n[+] role: standby\n")


def selected(testbed: Testbed) -> list[str]:
    """The pods that the Service of the audit port selects, as deploy/base ships it."""
    service = yaml.safe_load((DEPLOY / "base" / "service.yaml").read_text())
    wanted = service["spec"]["selector"].items()
    pods = testbed.kube.items("v1", "Pod", NAMESPACE)
    return [pod["metadata"]["name"] for pod in pods if wanted <= pod["metadata"]["labels"].items()]


PODS = ("vaultsync-5d8f9c7b6-aaaaa", "vaultsync-5d8f9c7b6-bbbbb")


class TestTheLeadersLabel:
    """The pod that the Service of the audit port selects. The pods are empty: the processes run outside of them."""

    @pytest.fixture(autouse=True)
    def pods(self, testbed: Testbed) -> Iterator[None]:
        assert testbed.identity  # creates the namespace
        template = yaml.safe_load((DEPLOY / "base" / "deployment.yaml").read_text())["spec"]["template"]
        for name in PODS:
            metadata = {**template["metadata"], "name": name, "namespace": NAMESPACE}
            testbed.kube.create({"apiVersion": "v1", "kind": "Pod", **template, "metadata": metadata})
        yield
        for name in PODS:
            testbed.kube.delete("v1", "Pod", name, NAMESPACE)

    @staticmethod
    def start(replicas: Replicas, pod: str) -> VaultsyncProcess:
        """A replica in this pod, which has its own address."""
        return replicas.start(VAULTSYNC_POD_NAME=pod, VAULTSYNC_AUDIT_LISTEN=f"127.0.0.1:{free_port()}")

    @staticmethod
    def label(testbed: Testbed, pod: str) -> None:
        change = {"metadata": {"labels": {LEADER_LABEL: "true"}}}
        testbed.kube.patch("v1", "Pod", pod, change, NAMESPACE)

    @staticmethod
    def wait_for(testbed: Testbed, *pods: str) -> None:
        wait_for(lambda: selected(testbed) == [*pods], PATIENCE, f"the Service selects {pods}")

    def test_it_follows_the_leader(self, testbed: Testbed, replicas: Replicas) -> None:
        assert selected(testbed) == []
        one = self.start(replicas, PODS[0])
        self.wait_for(testbed, PODS[0])
        other = self.start(replicas, PODS[1])
        other.wait_until_ready(PATIENCE)
        assert selected(testbed) == [PODS[0]]
        one.kill()  # its label is kept
        self.wait_for(testbed, PODS[1])
        assert other.stop() == 0
        assert selected(testbed) == []

    def test_a_leader_that_stops_removes_it_before_the_lease_is_free(
        self, testbed: Testbed, replicas: Replicas
    ) -> None:
        one = self.start(replicas, PODS[0])
        self.wait_for(testbed, PODS[0])
        os.kill(one.pid, signal.SIGTERM)
        wait_for(lambda: lease_of(testbed)["holderIdentity"] == "", PATIENCE, "the Lease is free")
        assert selected(testbed) == []

    def test_a_standby_removes_what_an_earlier_process_left_on_its_pod(
        self, testbed: Testbed, replicas: Replicas
    ) -> None:
        self.start(replicas, PODS[0])
        self.wait_for(testbed, PODS[0])
        self.label(testbed, PODS[1])
        assert selected(testbed) == [*PODS]
        self.start(replicas, PODS[1])
        self.wait_for(testbed, PODS[0])

    def test_a_container_that_starts_again_in_its_pod_keeps_the_label(
        self, testbed: Testbed, replicas: Replicas
    ) -> None:
        """The previous holder of the Lease and the next one are in the same pod."""
        one = self.start(replicas, PODS[0])
        self.wait_for(testbed, PODS[0])
        one.kill()
        again = self.start(replicas, PODS[0])
        self.wait_for(testbed)  # it is a standby until the Lease has expired
        replicas.wait_until_led(again)
        self.wait_for(testbed, PODS[0])
        time.sleep(1)
        assert selected(testbed) == [PODS[0]]

    def test_a_new_leader_removes_it_from_one_that_is_frozen(self, testbed: Testbed, replicas: Replicas) -> None:
        frozen = self.start(replicas, PODS[0])
        self.wait_for(testbed, PODS[0])
        other = self.start(replicas, PODS[1])
        other.wait_until_ready(PATIENCE)
        frozen.freeze()
        try:
            self.wait_for(testbed, PODS[1])
        finally:
            frozen.thaw()
        frozen.wait_until(lambda: "leadership lost" in frozen.output(), PATIENCE)
        frozen.wait_until_ready(PATIENCE)
        time.sleep(1)
        assert selected(testbed) == [PODS[1]]

    def test_a_holder_that_is_not_a_pod_is_ignored(self, testbed: Testbed, replicas: Replicas) -> None:
        """A client that may write the Lease chooses this text."""
        self.label(testbed, PODS[1])
        for holder in (f"{PODS[1]}/status_1", f"../pods/{PODS[1]}_1", f"{PODS[1].upper()}_1"):
            spec = {"holderIdentity": holder, "leaseDurationSeconds": 1}
            metadata = {"name": "vaultsync", "namespace": NAMESPACE}
            testbed.kube.apply({"apiVersion": LEASES, "kind": "Lease", "metadata": metadata, "spec": spec})
            process = self.start(replicas, PODS[0])
            self.wait_for(testbed, *PODS)
            process.stop()
            assert "can't follow the leader" not in process.output()

    def test_without_the_right_it_leads_anyway_and_logs_the_fix_once(
        self, testbed: Testbed, place: Place, replicas: Replicas
    ) -> None:
        role = testbed.kube.get(RBAC, "Role", "vaultsync", NAMESPACE)
        assert role is not None
        fewer = [rule for rule in role["rules"] if rule["resources"] != ["pods"]]
        assert len(fewer) == len(role["rules"]) - 1
        testbed.kube.patch(RBAC, "Role", "vaultsync", {"rules": fewer}, NAMESPACE)
        try:
            process = self.start(replicas, PODS[0])
            ask(place, "app")
            place.wait_for_secret("app", PATIENCE)
            time.sleep(2)  # several attempts
            [warning] = [line for line in process.output().splitlines() if "can't follow the leader" in line]
            assert f'pods \\"{PODS[0]}\\" is forbidden' in warning
            assert f"grant `patch` on pods in the namespace {NAMESPACE}" in warning
        finally:
            testbed.kube.patch(RBAC, "Role", "vaultsync", {"rules": role["rules"]}, NAMESPACE)
        self.wait_for(testbed, PODS[0])

    def test_the_service_of_the_previous_version_is_upgraded(self, testbed: Testbed) -> None:
        """With both kinds of apply; the objects that version left behind can be deleted by name."""
        new = (DEPLOY / "base" / "service.yaml").read_text()
        kubectl = Kubectl(testbed)
        for how in ((), ("--server-side", "--force-conflicts")):
            kubectl.quietly("apply", *how, "-f", "-", given=VERSION_BEFORE)
            kubectl.quietly("apply", *how, "-f", "-", given=new)
            service = testbed.kube.get("v1", "Service", "vaultsync-audit", NAMESPACE)
            assert service is not None
            [port] = service["spec"]["ports"]
            assert (port["port"], port["protocol"], port["targetPort"]) == (8220, "UDP", "audit")
            assert service["spec"]["selector"] == yaml.safe_load(new)["spec"]["selector"]
            testbed.kube.delete("v1", "Service", "vaultsync-audit", NAMESPACE)
            [command] = re.findall(r"kubectl -n vaultsync delete endpointslice .*", CHANGELOG)
            run(testbed, command.strip("` .,"))
            assert testbed.kube.items("discovery.k8s.io/v1", "EndpointSlice", NAMESPACE) == []


VERSION_BEFORE = """
apiVersion: v1
kind: Service
metadata: {name: vaultsync-audit, namespace: vaultsync}
spec: {ports: [{name: audit, port: 8220}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: vaultsync-audit-ipv4
  namespace: vaultsync
  labels: {kubernetes.io/service-name: vaultsync-audit, endpointslice.kubernetes.io/managed-by: vaultsync}
addressType: IPv4
endpoints: []
ports: []
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: vaultsync-audit-ipv6
  namespace: vaultsync
  labels: {kubernetes.io/service-name: vaultsync-audit, endpointslice.kubernetes.io/managed-by: vaultsync}
addressType: IPv6
endpoints: []
ports: []
"""


@dataclass
class Load:
    """Creates ExternalSecrets and deletes values until it is stopped.

    Attributes:
        names: of the ExternalSecrets so far; each reads a path of its own.
        deletions: how often each one's value was deleted.
    """

    place: Place
    names: list[str] = field(default_factory=list)
    deletions: Counter[str] = field(default_factory=Counter)
    ended: Event = field(default_factory=Event)

    def create(self) -> None:
        while not self.ended.wait(random.uniform(0.2, 0.8)):
            name = f"app{len(self.names)}"
            ask(self.place, name)
            self.names.append(name)

    def delete(self) -> None:
        """Deletes only existing values, so that the expected number of versions is known."""
        while not self.ended.wait(random.uniform(0.2, 0.6)):
            name = random.choice(self.names or ["none"])
            if self.place.read(name) is not None:
                self.place.vault.delete(self.place.path(name))
                self.deletions[name] += 1


@contextmanager
def load_on(place: Place) -> Iterator[Load]:
    made = Load(place)
    with ThreadPoolExecutor(2) as threads:
        running: list[Future[None]] = [threads.submit(made.create), threads.submit(made.delete)]
        try:
            yield made
        finally:
            made.ended.set()
        for one in running:
            one.result()


def stopped(process: VaultsyncProcess) -> None:
    process.stop()


def killed(process: VaultsyncProcess) -> None:
    process.kill()


def frozen(process: VaultsyncProcess) -> None:
    """Waits until another replica leads."""
    process.freeze()


@pytest.mark.timeout(900)
def test_over_fifty_failovers_under_load_nothing_is_seeded_twice_or_lost(
    testbed: Testbed, place: Place, replicas: Replicas
) -> None:
    ways: list[Callable[[VaultsyncProcess], None]] = [killed, stopped, frozen, stopped, killed]
    leader, _ = replicas.pair()
    replicas.start().wait_until_ready(PATIENCE)
    replicas.audit()
    began = len(audit_lines(testbed))
    leaders = [leader]
    with load_on(place) as load:
        for number in range(FAILOVERS):
            time.sleep(random.uniform(0.1, 0.5))
            ways[number % len(ways)](leader)
            others = [one for one in replicas.all if one is not leader and one.alive]
            if not leader.alive:
                replicas.all.remove(leader)
                replicas.start()
            following = replicas.wait_until_led(*others, *replicas.all[-1:])
            if leader.alive:
                leader.thaw()
            leader = following
            leaders.append(leader)
        during = len(load.names)
    left = set(load.names)

    def is_whole(name: str) -> bool:
        value, got = place.read(name), place.secret(name)
        return value is not None and got is not None and value == {"password": got["p"]}

    def none_is_left() -> bool:
        left.difference_update([name for name in left if is_whole(name)])
        time.sleep(0.5)  # many requests, on a busy machine
        return not left

    place.wait_for(none_is_left, 3 * PATIENCE, "all values are created and delivered")
    for name in load.names:
        assert place.version(name) == 1 + load.deletions[name], name
        for before, after in pairwise(versions_of(place, name)):
            assert before.deleted is not None, name
            assert before.deleted <= after.created, name
    taken = Counter(path for path, is_taken in all_writes(testbed, began) if is_taken)
    for name in load.names:
        assert taken[f"secret/data/{place.path(name)}"] == 1 + load.deletions[name], name
    assert len(leaders) == FAILOVERS + 1
    assert during > FAILOVERS
    assert sum(load.deletions.values()) > FAILOVERS
    for name in load.names:  # one request for all would take the API server too long
        place.delete(name)


@dataclass(frozen=True)
class Version:
    created: datetime
    deleted: datetime | None


def versions_of(place: Place, name: str) -> list[Version]:
    """The history of a path as far as Vault keeps it (ten versions), oldest first."""
    metadata = place.vault.metadata(place.path(name))
    assert metadata is not None
    return [
        Version(moment(one["created_time"]), moment(one["deletion_time"]) if one["deletion_time"] else None)
        for _, one in sorted(metadata["versions"].items(), key=lambda item: int(item[0]))
    ]


def moment(text: str) -> datetime:
    """RFC 3339 with more digits than Python reads."""
    seconds, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{seconds}.{fraction[:6]:0<6}+00:00")


def audit_lines(testbed: Testbed) -> list[bytes]:
    return (testbed.work / "logs" / "audit.log").read_bytes().splitlines()


def all_writes(testbed: Testbed, since: int = 0, policy: str = POLICY) -> Iterator[tuple[str, bool]]:
    """The writes of tokens with the policy: the path, and whether Vault accepted it."""
    for text in audit_lines(testbed)[since:]:
        line = json.loads(text)
        request, policies = line.get("request") or {}, (line.get("auth") or {}).get("policies") or ()
        if line["type"] == "response" and policy in policies and request["operation"] in ("create", "update", "patch"):
            yield (
                request["path"],
                not line.get("error") and "errors" not in str((line.get("response") or {}).get("data")),
            )


def writes_at(testbed: Testbed, path: str) -> list[bool]:
    """For each of vaultsync's own writes to a path, whether Vault accepted it."""
    return [is_taken for where, is_taken in all_writes(testbed) if where == f"secret/data/{path}"]
