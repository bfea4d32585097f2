"""Only selected objects are watched: namespaces by name or label, ExternalSecrets by label.

Mostly with an account that has only the rights of deploy/namespaced: a watch on anything
else would be refused, and logged.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest
import yaml

from tests.integration.test_deploy import Kubectl, one
from tests.testbed.api import Json
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.identity import DEPLOY, NAMESPACE
from tests.testbed.place import Place
from tests.testbed.testbed import Testbed
from tests.testbed.vaultsync import VaultsyncProcess

SEED = {"vaultsync.io/seed": "true"}
PATIENCE = 60.0
MOMENT = 0.5
"""Seconds in which nothing must happen, after a later event was processed."""
LABEL = "vaultsync-test"
RBAC = "rbac.authorization.k8s.io/v1"
SHIPPED = "team-a"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""The namespace that deploy/namespaced names."""

DRY_RUN = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-")

Rights = Callable[..., dict[str, str]]


@pytest.fixture(scope="module")
def kubectl(testbed: Testbed) -> Kubectl:
    return Kubectl(testbed)


@pytest.fixture(scope="module")
def manifests(kubectl: Kubectl) -> list[Json]:
    return list(yaml.safe_load_all(kubectl.quietly("kustomize", DEPLOY / "namespaced")))


@pytest.fixture
def rights(testbed: Testbed, manifests: list[Json]) -> Iterator[Rights]:
    """`rights(place, …)` makes an account with deploy/namespaced's rights there, and returns how to log in with it.

    With `by_label` it may also list all namespaces, but read objects in no other.
    """
    made: list[str] = []

    def make(*places: Place, by_label: bool = False) -> dict[str, str]:
        assert testbed.identity  # creates the ClusterRole vaultsync
        account = f"only-{places[0].name}"
        made.append(account)
        names = [place.name for place in places]
        for item in account_of(manifests, account, names, by_label=by_label):
            testbed.kube.apply(item)
        token = testbed.kube.token_for(account, NAMESPACE)
        kubeconfig = testbed.kube_apiserver.kubeconfig(testbed.work / f"{account}.kubeconfig", token)
        return {"KUBECONFIG": str(kubeconfig)}

    yield make
    for account in made:
        testbed.kube.delete(RBAC, "ClusterRoleBinding", account)
        testbed.kube.delete(RBAC, "ClusterRole", account)
        testbed.kube.delete("v1", "ServiceAccount", account, NAMESPACE)


def account_of(manifests: list[Json], account: str, namespaces: list[str], *, by_label: bool) -> Iterator[Json]:
    """The manifests' rights for another account and other namespaces."""
    metadata = {"name": account, "namespace": NAMESPACE}
    yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
    subjects = [{"kind": "ServiceAccount", **metadata}]
    binding = one(manifests, "ClusterRoleBinding")
    [role] = [item for item in of_kind(manifests, "ClusterRole") if item["metadata"]["name"] == bound(binding)]
    rules = json.loads(json.dumps(role["rules"]).replace(f'["{SHIPPED}"]', json.dumps(namespaces)))
    if by_label:
        rules = [{key: value for key, value in rule.items() if key != "resourceNames"} for rule in rules]
    yield {**role, "metadata": {"name": account}, "rules": rules}
    reference = {**binding["roleRef"], "name": account}
    yield {**binding, "metadata": {"name": account}, "roleRef": reference, "subjects": subjects}
    for namespace in namespaces:
        yield {
            **one(bindings_inside(manifests), "RoleBinding"),
            "metadata": {"name": account, "namespace": namespace},
            "subjects": subjects,
        }


def of_kind(manifests: list[Json], kind: str) -> list[Json]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def bindings_inside(manifests: list[Json]) -> list[Json]:
    """The bindings in the selected namespaces, without the one for the Lease in vaultsync's own namespace."""
    return [item for item in of_kind(manifests, "RoleBinding") if item["metadata"]["namespace"] != NAMESPACE]


def bound(binding: Json) -> str:
    name: str = binding["roleRef"]["name"]
    return name


def label(place: Place, value: str | None) -> None:
    place.kube.patch("v1", "Namespace", place.name, {"metadata": {"labels": {LABEL: value}}})


def app(place: Place, name: str) -> None:
    """Creates an ExternalSecret that requests seeding."""
    place.external_secret(name, {"p": (name, "password")}, annotations=SEED)


def assert_untouched(place: Place, *names: str) -> None:
    time.sleep(MOMENT)
    for name in names:
        assert place.annotations(name) == SEED
        assert place.events(name, "vaultsync") == []


def assert_nothing_was_refused(process: VaultsyncProcess) -> None:
    assert [line for line in process.output().splitlines() if "returned 403" in line] == []


def test_only_the_named_namespaces_are_watched(
    place: Place, elsewhere: Place, vaultsync: VaultsyncFactory, rights: Rights
) -> None:
    elsewhere.put("given", password="first")
    for name in ("before", "given"):
        app(elsewhere, name)
    elsewhere.wait_for_secret("given", PATIENCE, p="first")
    app(place, "before")
    process = vaultsync(rights(place) | {"VAULTSYNC_NAMESPACES": place.name})
    process.wait_until_ready(PATIENCE)
    elsewhere.put("given", password="second")
    app(elsewhere, "after")
    app(place, "after")
    for name in ("before", "after"):
        place.wait_for_secret(name, PATIENCE)
    assert_untouched(elsewhere, "before", "after", "given")
    assert elsewhere.secret("given") == {"p": "first"}
    assert (elsewhere.read("before"), elsewhere.read("after")) == (None, None)
    first = place.secret("before")
    place.vault.delete(place.path("before"))
    place.wait_for(lambda: place.secret("before") not in (None, first), PATIENCE, "it is healed")
    place.wait_for(lambda: place.events("before", "vaultsync"), PATIENCE, "Events are written there")
    assert_nothing_was_refused(process)


def test_the_same_account_cannot_watch_everything(place: Place, vaultsync: VaultsyncFactory, rights: Rights) -> None:
    """Control: with these rights a watch of all namespaces is refused."""
    process = vaultsync(rights(place))
    process.wait_until(lambda: process.output().count("waiting for the API server") == 4, PATIENCE)
    assert process.health.answers("/readyz", 503)


def test_a_named_namespace_may_be_created_later(testbed: Testbed, vaultsync: VaultsyncFactory) -> None:
    later = Place(testbed)
    process = vaultsync({"VAULTSYNC_NAMESPACES": later.name})
    process.wait_until_ready(PATIENCE)
    later.create()
    try:
        app(later, "app")
        later.wait_for_secret("app", PATIENCE)
    finally:
        later.clean()


def test_only_namespaces_with_the_label_are_watched(
    place: Place, elsewhere: Place, vaultsync: VaultsyncFactory, rights: Rights
) -> None:
    label(place, place.name)
    env = rights(place, elsewhere, by_label=True) | {"VAULTSYNC_NAMESPACE_SELECTOR": f"{LABEL}={place.name},!nowhere"}
    app(elsewhere, "early")
    process = vaultsync(env)
    app(place, "witness-1")
    place.wait_for_secret("witness-1", PATIENCE)
    assert_untouched(elsewhere, "early")
    assert elsewhere.read("early") is None

    label(elsewhere, place.name)
    app(elsewhere, "later")
    for name in ("early", "later"):
        elsewhere.wait_for_secret(name, PATIENCE)
    elsewhere.put("early", password="rotated")
    elsewhere.wait_for_secret("early", PATIENCE, p="rotated")
    elsewhere.wait_for(lambda: "2@" in elsewhere.annotations("early").get("vaultsync.io/versions", ""), PATIENCE)

    label(elsewhere, None)
    process.wait_until(lambda: "a namespace is no longer watched" in process.output(), PATIENCE)
    before = elsewhere.annotations("early")
    elsewhere.put("early", password="again")
    app(elsewhere, "late")
    app(place, "witness-2")
    place.wait_for_secret("witness-2", PATIENCE)
    assert_untouched(elsewhere, "late")
    assert elsewhere.read("late") is None
    assert elsewhere.annotations("early") == before
    assert elsewhere.secret("early") == {"p": "rotated"}

    label(elsewhere, place.name)
    elsewhere.wait_for_secret("late", PATIENCE)
    elsewhere.wait_for_secret("early", PATIENCE, p="again")
    assert_nothing_was_refused(process)


def test_no_other_namespace_is_read(
    place: Place, elsewhere: Place, vaultsync: VaultsyncFactory, rights: Rights
) -> None:
    """A label on a namespace without rights: logged once per resource, and the others are still watched."""
    label(place, place.name)
    process = vaultsync(
        rights(place, by_label=True) | {"VAULTSYNC_NAMESPACE_SELECTOR": f"{LABEL} in ({place.name}, x)"}
    )
    process.wait_until_ready(PATIENCE)
    label(elsewhere, place.name)
    process.wait_until(lambda: process.output().count("waiting for the API server") == 3, PATIENCE)
    app(place, "app")
    place.wait_for_secret("app", PATIENCE)
    assert process.health.answers("/readyz")


def test_names_and_labels_must_both_match(
    place: Place, elsewhere: Place, vaultsync: VaultsyncFactory, rights: Rights
) -> None:
    label(place, place.name)
    app(elsewhere, "app")
    process = vaultsync(
        rights(place, elsewhere)
        | {
            "VAULTSYNC_NAMESPACES": f"{place.name},{elsewhere.name}",
            "VAULTSYNC_NAMESPACE_SELECTOR": f"{LABEL}={place.name}",
        }
    )
    app(place, "app")
    place.wait_for_secret("app", PATIENCE)
    assert_untouched(elsewhere, "app")
    label(elsewhere, place.name)
    elsewhere.wait_for_secret("app", PATIENCE)
    assert_nothing_was_refused(process)


def test_external_secrets_are_selected_by_label(place: Place, vaultsync: VaultsyncFactory) -> None:
    def set_label(name: str, value: str | None) -> None:
        place.patch(name, {"metadata": {"labels": {LABEL: value}}})

    vaultsync({"VAULTSYNC_SELECTOR": f"{LABEL} in ({place.name})"}).wait_until_ready(PATIENCE)
    for name in ("other", "chosen"):
        app(place, name)
    set_label("chosen", place.name)
    place.wait_for_secret("chosen", PATIENCE)
    assert_untouched(place, "other")
    assert place.read("other") is None

    set_label("other", place.name)
    place.wait_for_secret("other", PATIENCE)
    place.wait_for(lambda: "vaultsync.io/versions" in place.annotations("other"), PATIENCE)

    set_label("other", None)
    time.sleep(MOMENT)
    before, value = place.annotations("other"), place.secret("other")
    for name in ("other", "chosen"):
        place.put(name, password="rotated")
    place.wait_for_secret("chosen", PATIENCE, p="rotated")
    time.sleep(MOMENT)
    assert place.annotations("other") == before
    assert place.secret("other") == value
    place.vault.delete(place.path("other"))
    time.sleep(MOMENT)
    assert place.read("other") is None


class TestManifests:
    def test_api_server_accepts_them_all_without_a_warning(
        self, testbed: Testbed, kubectl: Kubectl, manifests: list[Json]
    ) -> None:
        assert testbed.identity  # creates the namespace vaultsync
        testbed.kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SHIPPED}})
        binding = one(manifests, "ClusterRoleBinding")
        installable = [item for item in manifests if item is not binding]
        installable.append({**binding, "metadata": {**binding["metadata"], "name": "not-there-yet"}})
        taken = kubectl(*DRY_RUN, given=yaml.safe_dump_all(installable))
        # the README's test may have applied some of them in another way, which kubectl reports
        complaints = [line for line in taken.stderr.splitlines() if f"failed to migrate {LAST_APPLIED}" not in line]
        assert (taken.returncode, complaints) == (0, [])
        assert len(taken.stdout.splitlines()) == len(manifests)

    def test_on_top_of_the_base_it_is_refused_and_replaces_the_rights(
        self, testbed: Testbed, kubectl: Kubectl, manifests: list[Json]
    ) -> None:
        assert testbed.identity
        refused = kubectl(*DRY_RUN, given=yaml.safe_dump(one(manifests, "ClusterRoleBinding")))
        assert "cannot change roleRef" in refused.stderr

    def test_rights_and_settings_have_the_same_namespaces(self, manifests: list[Json]) -> None:
        bindings = bindings_inside(manifests)
        bound_in = {item["metadata"]["namespace"] for item in bindings}
        named = {
            name
            for role in of_kind(manifests, "ClusterRole")
            for rule in role["rules"]
            for name in rule.get("resourceNames", ())
            if name != "kube-system"  # for its UID alone
        }
        set_to = one(manifests, "ConfigMap")["data"]["VAULTSYNC_NAMESPACES"].split(",")
        assert bound_in == named == set(set_to) == {SHIPPED}
        assert {bound(item) for item in bindings} == {"vaultsync"}
