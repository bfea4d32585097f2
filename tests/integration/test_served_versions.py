"""All kinds of served CRDs of external-secrets: v1, only v1beta1, with the condition `Created` allowed, none yet.

On its own testbed without external-secrets; each test installs the CRDs that it needs. No Kubernetes Secret
is created here: the tests check vaultsync's own writes.
"""

import itertools
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import pytest

from tests.testbed import build, pins
from tests.testbed.api import Json
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.identity import DEPLOY, POLICY
from tests.testbed.testbed import Options, Testbed, wait_for

GROUP = "external-secrets.io"
CRD = ("apiextensions.k8s.io/v1", "CustomResourceDefinition")
KINDS = {
    "ExternalSecret": "externalsecrets",
    "SecretStore": "secretstores",
    "ClusterSecretStore": "clustersecretstores",
}
READY = {
    "type": "Ready",
    "status": "False",
    "reason": "SecretSyncedError",
    "message": "could not get secret data from provider",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}
PATIENCE = 60.0
MISSING_SECONDS = 15.0


@pytest.fixture(scope="module")
def testbed() -> Iterator[Testbed]:
    """Overrides the session's."""
    build.ensure([pins.EXTERNAL_SECRETS])  # for its CRDs
    with Testbed(Options(eso=False)) as made:
        yield made


def serve(testbed: Testbed, *versions: str, change: Callable[[Json], None] = lambda crd: None) -> None:
    """Installs the CRDs that vaultsync reads, with these served versions; `change` applies to ExternalSecret's."""
    for crd in build.documents_of(pins.EXTERNAL_SECRETS, "crds"):
        if crd["metadata"]["name"] not in {f"{plural}.{GROUP}" for plural in KINDS.values()}:
            continue
        served = deepcopy(crd)
        served["spec"].pop("conversion", None)
        for version in served["spec"]["versions"]:
            version["served"] = version["name"] in versions
        if served["spec"]["names"]["kind"] == "ExternalSecret":
            change(served)
        testbed.kube.apply(served)
    for plural in KINDS.values():
        for version in ("v1", "v1beta1"):
            status = 200 if version in versions else 404
            path = f"/apis/{GROUP}/{version}/{plural}?limit=1"
            wait_for(partial(testbed.kube.api.answers, path, status), PATIENCE, path)


def serve_nothing(testbed: Testbed) -> None:
    for plural in KINDS.values():
        testbed.kube.delete(*CRD, f"{plural}.{GROUP}")
    wait_for(lambda: testbed.kube.api.answers(f"/apis/{GROUP}", 404), PATIENCE, f"{GROUP} is gone")


def allow_every_condition(crd: Json) -> None:
    for version in crd["spec"]["versions"]:
        status = version["schema"]["openAPIV3Schema"]["properties"]["status"]
        status["properties"]["conditions"]["items"]["properties"]["type"].pop("enum", None)


class Corner:
    """A namespace with a SecretStore, in one version of external-secrets' API."""

    _numbers = itertools.count(1)

    def __init__(self, testbed: Testbed, version: str = "v1") -> None:
        self.testbed, self.kube, self.vault = testbed, testbed.kube, testbed.vault_root
        self.api_version = f"{GROUP}/{version}"
        self.name = f"corner{next(self._numbers)}"
        self.kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name}})
        auth = {"tokenSecretRef": {"name": "vault-token", "key": "token"}}
        vault = {"server": testbed.vault.address, "path": "secret", "version": "v2", "auth": auth}
        self._create("SecretStore", "vault", {"provider": {"vault": vault}})

    def external_secret(self, name: str, seed: str = "true", **remote: str) -> None:
        ref = {"key": f"{self.name}/{name}", "property": "password"} | remote
        spec = {
            "secretStoreRef": {"name": "vault", "kind": "SecretStore"},
            "data": [{"secretKey": "p", "remoteRef": ref}],
        }
        self._create("ExternalSecret", name, spec, {"vaultsync.io/seed": seed})

    def _create(self, kind: str, name: str, spec: Json, annotations: Mapping[str, str] | None = None) -> None:
        metadata = {"name": name, "namespace": self.name, "annotations": dict(annotations or {})}
        self.kube.create({"apiVersion": self.api_version, "kind": kind, "metadata": metadata, "spec": spec})

    def patch(self, name: str, change: Mapping[str, Any], *, status: bool = False) -> None:
        self.kube.patch(self.api_version, "ExternalSecret", name, change, self.name, status=status)

    def annotations(self, name: str) -> dict[str, str]:
        found = self.kube.get(self.api_version, "ExternalSecret", name, self.name)
        assert found is not None
        return dict(found["metadata"].get("annotations") or {})

    def conditions(self, name: str) -> dict[str, Json]:
        """The conditions by type."""
        found = self.kube.get(self.api_version, "ExternalSecret", name, self.name)
        assert found is not None
        return {one["type"]: one for one in (found.get("status") or {}).get("conditions") or ()}

    def value(self, name: str) -> Json | None:
        return self.vault.get(f"{self.name}/{name}")

    def wait_for_condition(self, name: str, status: str, reason: str, message: str = "") -> None:
        def is_it() -> bool:
            found = self.conditions(name).get("Created", {})
            return (found.get("status"), found.get("reason")) == (status, reason) and message in found["message"]

        try:
            wait_for(is_it, PATIENCE, f"Created={status} {reason}")
        except AssertionError:
            pytest.fail(f"{name} says {self.conditions(name)}, not {(status, reason, message)}")

    def wait_for_seeded(self, name: str) -> None:
        wait_for(lambda: self.value(name), PATIENCE, f"{name} is seeded")
        wait_for(lambda: self.annotations(name).get("force-sync"), PATIENCE, f"{name} is force-synced")


def test_without_crds_it_logs_what_is_missing_and_continues_once_they_exist(
    testbed: Testbed, vaultsync: VaultsyncFactory
) -> None:
    serve_nothing(testbed)
    process = vaultsync()
    process.wait_until(lambda: "install external-secrets' CRDs" in process.output(), PATIENCE)
    assert process.health.answers("/livez")
    assert process.health.answers("/readyz", 503)
    serve(testbed, "v1")
    corner = Corner(testbed)
    corner.external_secret("app")
    corner.wait_for_seeded("app")
    process.wait_until_ready()
    said = [line for line in process.output().splitlines() if "waiting for Kubernetes" in line]
    assert len(said) == 1


def test_v1_is_preferred_and_reports_are_annotations_there(testbed: Testbed, vaultsync: VaultsyncFactory) -> None:
    serve(testbed, "v1", "v1beta1")
    process = vaultsync()
    corner = Corner(testbed)
    corner.external_secret("app")
    corner.wait_for_seeded("app")
    wait_for(lambda: corner.annotations("app").get("vaultsync.io/created") == "True Success", PATIENCE, "the report")
    assert corner.conditions("app") == {}
    assert '"external_secrets_version": "v1"' in process.output()


def test_where_only_v1beta1_is_served_it_is_used(testbed: Testbed, vaultsync: VaultsyncFactory) -> None:
    serve(testbed, "v1beta1")
    process = vaultsync()
    corner = Corner(testbed, "v1beta1")
    corner.external_secret("app")
    corner.wait_for_seeded("app")
    first = corner.value("app")
    corner.wait_for_condition("app", "True", "Success", f"created secret/{corner.name}/app version 1 with password")
    corner.vault.delete(f"{corner.name}/app")
    wait_for(lambda: corner.value("app") not in (None, first), PATIENCE, "it is healed")
    corner.wait_for_condition("app", "True", "Success", f"re-created secret/{corner.name}/app version 2")
    events = wait_for(lambda: corner.kube.events_of("app", corner.name), PATIENCE, "an Event")
    assert {event["involvedObject"]["apiVersion"] for event in events} == {f"{GROUP}/v1beta1"}
    assert '"external_secrets_version": "v1beta1"' in process.output()


def test_when_another_version_is_served_it_continues_with_that(testbed: Testbed, vaultsync: VaultsyncFactory) -> None:
    """As after an upgrade of external-secrets without a restart of vaultsync."""
    serve(testbed, "v1beta1")
    process = vaultsync()
    corner = Corner(testbed, "v1beta1")
    corner.external_secret("before")
    corner.wait_for_seeded("before")
    serve(testbed, "v1")
    corner = Corner(testbed, "v1")
    corner.external_secret("after")
    corner.wait_for_seeded("after")
    (said,) = [json.loads(line) for line in process.output().splitlines() if "restarting the informers" in line]
    assert "404" in said["reason"]
    assert f"/apis/{GROUP}/v1beta1/" in said["reason"]


def test_while_a_crd_is_missing_the_others_are_listed_with_backoff(
    testbed: Testbed, vaultsync: VaultsyncFactory
) -> None:
    """The group is served, but one of its resources is not: each attempt lists the other resources."""
    serve(testbed, "v1")
    process = vaultsync()
    corner = Corner(testbed)
    corner.external_secret("before")
    corner.wait_for_seeded("before")
    before = lists_of(testbed, "externalsecrets")
    testbed.kube.delete(*CRD, f"clustersecretstores.{GROUP}")
    try:
        process.wait_until(lambda: "restarting the informers" in process.output(), PATIENCE)
        time.sleep(MISSING_SECONDS)
        lists = lists_of(testbed, "externalsecrets") - before
        said = sum("restarting the informers" in line for line in process.output().splitlines())
        assert process.health.answers("/livez")
        assert process.health.answers("/readyz", 503)
    finally:
        serve(testbed, "v1")
    print(f"in {MISSING_SECONDS:g} s there were {lists} lists and {said} lines")
    assert 1 <= lists <= 6  # after 0.5 to 1 s, then twice as long each time
    assert said == 1
    corner.external_secret("after")
    corner.wait_for_seeded("after")
    process.wait_until_ready(PATIENCE)
    assert process.alive


def lists_of(testbed: Testbed, resource: str) -> int:
    """Number of list requests for these resources."""
    text = testbed.kube_apiserver.api.text("/metrics")
    pattern = rf'^apiserver_request_total\{{.*resource="{resource}".*verb="LIST".*\}} (\d+)$'
    return sum(int(number) for number in re.findall(pattern, text, re.MULTILINE))


class TestConditionIsAllowed:
    """Asserts that external-secrets' own condition is kept."""

    @pytest.fixture
    def corner(self, testbed: Testbed, vaultsync: VaultsyncFactory) -> Corner:
        if not allows_every_condition(testbed):
            serve(testbed, "v1", change=allow_every_condition)
            wait_for(lambda: allows_every_condition(testbed), PATIENCE, "the schema is published")
        vaultsync().wait_until_ready()
        return Corner(testbed)

    def test_success(self, corner: Corner) -> None:
        corner.external_secret("app")
        corner.wait_for_condition("app", "True", "Success", f"created secret/{corner.name}/app version 1")
        first = corner.value("app")
        corner.patch("app", {"status": {"conditions": [READY, corner.conditions("app")["Created"]]}}, status=True)
        corner.vault.delete(f"{corner.name}/app")
        wait_for(lambda: corner.value("app") not in (None, first), PATIENCE, "it is healed")
        corner.wait_for_condition("app", "True", "Success", f"re-created secret/{corner.name}/app version 2")
        assert corner.conditions("app")["Ready"] == READY
        assert corner.annotations("app").keys() >= {"force-sync", "vaultsync.io/versions"}
        assert not corner.annotations("app").keys() & {"vaultsync.io/created", "vaultsync.io/message"}

    def test_error_creating_then_exists(self, corner: Corner) -> None:
        corner.external_secret("app", property="a.#.b")
        corner.patch("app", {"status": {"conditions": [READY]}}, status=True)
        corner.wait_for_condition("app", "False", "ErrorCreating", "has no key 'a.#.b'")
        # if the report was written first, the other condition has replaced it, and external-secrets must write its own
        corner.patch("app", {"status": {"conditions": [READY, corner.conditions("app")["Created"]]}}, status=True)
        corner.vault.put(f"{corner.name}/app", a=[{"b": "a person's"}])
        corner.wait_for_condition("app", "True", "Exists", "everything that it reads exists in Vault")
        assert corner.conditions("app")["Ready"] == READY

    def test_error_annotation_then_success(self, corner: Corner) -> None:
        corner.external_secret("app", seed="yes")
        corner.wait_for_condition("app", "False", "ErrorAnnotation", "it must be")
        corner.patch("app", {"status": {"conditions": [READY, corner.conditions("app")["Created"]]}}, status=True)
        corner.patch("app", {"metadata": {"annotations": {"vaultsync.io/seed": "true"}}})
        corner.wait_for_condition("app", "True", "Success", "created")
        assert corner.conditions("app")["Ready"] == READY

    def test_recreating_then_success(self, corner: Corner) -> None:
        shipped = (DEPLOY / "vault" / "policy.hcl").read_text()
        corner.external_secret("app")
        corner.wait_for_condition("app", "True", "Success")
        corner.patch("app", {"status": {"conditions": [READY, corner.conditions("app")["Created"]]}}, status=True)
        rule = f'path "secret/data/{corner.name}/app" {{ capabilities = ["deny"] }}'
        corner.vault.policy(POLICY, f"{shipped}\n{rule}")
        try:
            corner.vault.delete(f"{corner.name}/app")
            corner.wait_for_condition("app", "False", "Recreating", "Vault returned 403: permission denied on secret/")
        finally:
            corner.vault.policy(POLICY, shipped)
        corner.wait_for_condition("app", "True", "Success", "re-created")
        assert corner.conditions("app")["Ready"] == READY

    def test_the_transition_time_is_when_the_status_changed(self, corner: Corner) -> None:
        corner.external_secret("app")
        corner.wait_for_condition("app", "True", "Success", "version 1")
        old = "2026-01-01T00:00:00Z"
        before = {**corner.conditions("app")["Created"], "lastTransitionTime": old}
        corner.patch("app", {"status": {"conditions": [before]}}, status=True)
        corner.vault.delete(f"{corner.name}/app")
        corner.wait_for_condition("app", "True", "Success", "re-created")
        assert corner.conditions("app")["Created"]["lastTransitionTime"] == old


def allows_every_condition(testbed: Testbed) -> bool:
    """Whether the published schema, which follows the CRD with a delay, has no list of condition types."""
    document = testbed.kube.api.find(f"/openapi/v3/apis/{GROUP}/v1")
    if document is None:
        return False
    status = document["components"]["schemas"]["io.external-secrets.v1.ExternalSecret"]["properties"]["status"]
    return "enum" not in status["properties"]["conditions"]["items"]["properties"]["type"]
