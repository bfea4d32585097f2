"""The dry-run planner on a fake Vault decides as the controller does; the output of `explain` and `plan`."""

import json
from collections.abc import Mapping
from datetime import timedelta

import pytest
from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration

from tests.unit.build import ADDRESS, NOON, Anything, entry, external_secret, namespace, path, run, store
from tests.unit.fakes import FakeObjects, FakeVault
from tests.unit.servers import answer, http_server
from vaultsync.cli import main
from vaultsync.commands import output
from vaultsync.commands.help_text import describe_value
from vaultsync.commands.planner import Action, DryRunPlanner, Explanation, ReferenceStatus, Summary, summarise
from vaultsync.controller.heal_limit import HealLimit
from vaultsync.controller.index import Index, server_identity
from vaultsync.controller.ownership_writer import OwnershipWriter
from vaultsync.controller.path_reconciler import PathReconciler, create_budget
from vaultsync.controller.path_state import PathStates
from vaultsync.controller.sync_state import SyncStates
from vaultsync.core.annotation_parser import SeedChoice, SeedMode
from vaultsync.core.durations import age
from vaultsync.core.errors import VaultDenied, VaultUnavailable
from vaultsync.core.external_secret import ExternalSecret, ObjectName, Store
from vaultsync.core.rate_limit import TokenBuckets
from vaultsync.core.seed_paths import SeedPaths
from vaultsync.core.vault_state import Presence
from vaultsync.generation.plan import Encoding, PropertyPlan
from vaultsync.generation.rule_parser import parse_rules
from vaultsync.kube.client import KubeClient
from vaultsync.runtime.metrics import Metrics

SEED = {"vaultsync.io/seed": "true"}
MINE = SeedPaths.parse(("*/{namespace}/**",))
UNLIMITED = HealLimit(0, lambda _: ())
HERE = "dev-1/a"
API = path("secret/data/dev-1/a")
VALUE = "hunter2"


def ruled(rules: str) -> dict[str, str]:
    return SEED | {"vaultsync.io/generate": rules}


class Cluster:
    """What is listed, and Vault."""

    def __init__(self, mode: SeedMode = SeedMode.ANNOTATED) -> None:
        self.vault = FakeVault()
        self.index = Index(frozenset({server_identity(ADDRESS)}), mode)
        self.survey = DryRunPlanner(self.index, self.vault, MINE, mode)
        self.survey.namespace_changed(namespace())
        self.survey.store_changed(store())

    def explain(self, *external_secrets: ExternalSecret, stores: tuple[Store, ...] = ()) -> list[Explanation]:
        for made in stores:
            self.survey.store_changed(made)
        for one in external_secrets:
            self.survey.external_secret_changed(one)
        found = run(self.survey.explain())
        assert not self.vault.creates
        return found

    def status(self, *keys: str | tuple[str, str], **fields: Anything) -> ReferenceStatus:
        """What is told of the one entry of an ExternalSecret."""
        [explained] = self.explain(external_secret(*keys, **fields))
        [status] = explained.references
        return status


def test_a_missing_path_is_to_be_seeded_by_its_rule() -> None:
    found = Cluster().status(HERE, annotations=ruled("{password: {format: password, length: 40}}"))
    assert (found.action, found.why) == (Action.SEED, "password, 40 characters")
    assert (found.path, found.property, found.field) == ("secret/dev-1/a", "password", "spec.data[0].remoteRef")
    assert (found.store, found.presence, found.version) == ("SecretStore dev-1/vault", Presence.MISSING, 0)


def test_a_deleted_path_is_to_be_seeded_again() -> None:
    cluster = Cluster()
    cluster.vault.write(API, password=VALUE)
    cluster.vault.delete(API)
    found = cluster.status(HERE, annotations=SEED)
    assert (found.action, found.why) == (Action.SEED, "32 random bytes in hex, re-created")
    assert found.version == 1


def test_a_missing_property_is_to_be_added() -> None:
    cluster = Cluster()
    cluster.vault.write(API, user=VALUE)
    found = cluster.status(HERE, annotations=SEED)
    assert (found.action, found.presence, found.version) == (Action.ADD, Presence.MISSING, 1)
    assert found.written is not None


def test_an_extract_names_each_generated_value() -> None:
    rules = "{a: {format: uuid}, b: {value: hunter2}}"
    extract = {"extract": {"key": HERE}}
    found = Cluster().status(data_from=[extract], annotations=ruled(rules))
    assert (found.action, found.why) == (Action.SEED, "a: random UUID; b: fixed text")


@pytest.mark.parametrize(
    ("annotations", "mode", "why"),
    [
        ({}, SeedMode.ANNOTATED, 'not requested: no vaultsync.io/seed: "true" on it or its Namespace'),
        ({"vaultsync.io/seed": "false"}, SeedMode.ALL, 'opted out: vaultsync.io/seed: "false"'),
        (SEED, SeedMode.OFF, "VAULTSYNC_SEED is off"),
        ({"vaultsync.io/seed": "yes"}, SeedMode.ANNOTATED, 'it must be "true" or "false"'),
        (ruled("{password: {format: no}}"), SeedMode.ANNOTATED, "password.format"),
    ],
)
def test_a_missing_value_that_is_not_seeded_has_a_reason(
    annotations: Mapping[str, str], mode: SeedMode, why: str
) -> None:
    found = Cluster(mode).status(HERE, annotations=annotations)
    assert (found.action, found.presence) == (Action.NOTHING, Presence.MISSING)
    assert why in found.why


def test_a_forbidden_path_has_the_controllers_message() -> None:
    found = Cluster().status("else/a", annotations=SEED)
    [problem] = found.problems
    assert problem.startswith("spec.data[0].remoteRef: secret/else/a may not be created for namespace dev-1")
    assert (found.action, found.why) == (Action.NOTHING, "")


def test_problems_stand_at_the_entry_that_has_them() -> None:
    one = external_secret(HERE, "else/a", annotations=SEED)
    [explained] = Cluster().explain(one)
    assert [bool(status.problems) for status in explained.references] == [False, True]


@pytest.mark.parametrize(
    ("stores", "problem"),
    [
        ((), "there is no SecretStore dev-1/other"),
        ((store("other", server="http://else:8200"),), "SecretStore dev-1/other is in another Vault, http://else:8200"),
        ((store("other", server=None),), "SecretStore dev-1/other is not of Vault"),
    ],
)
def test_an_unusable_store_is_reported(stores: tuple[Store, ...], problem: str) -> None:
    one = external_secret(data=[entry(HERE, "password", {"name": "other"})], annotations=SEED)
    [explained] = Cluster().explain(one, stores=stores)
    [status] = explained.references
    assert status.problems[0].startswith(problem)
    assert (status.path, status.key, status.presence) == ("", HERE, None)


def test_a_refused_read_is_in_its_row_and_the_others_continue() -> None:
    cluster = Cluster()
    cluster.vault.errors[API] = [VaultDenied("Vault returned 403: permission denied")]
    [explained] = cluster.explain(external_secret(HERE, "dev-1/b", annotations=SEED))
    denied, other = explained.references
    assert denied.problems == ("Vault returned 403: permission denied",)
    assert denied.presence is None
    assert other.action is Action.SEED
    assert summarise([explained]) == Summary(1, seed=1, add=0, rotate=0, force_sync=0, problems=1, unseen=1)


def test_without_vault_there_is_no_answer() -> None:
    cluster = Cluster()
    cluster.vault.down = VaultUnavailable("no answer")
    with pytest.raises(ExceptionGroup) as caught:
        cluster.explain(external_secret(HERE))
    assert caught.value.subgroup(VaultUnavailable) is not None


def test_a_version_newer_than_the_last_refresh_is_force_synced() -> None:
    cluster = Cluster()
    cluster.vault.write(API, password=VALUE)
    late = {"refreshTime": (NOON + timedelta(hours=1)).isoformat()}
    ignoring = {"syncedResourceVersion": "1"}
    found = cluster.explain(
        external_secret(HERE, name="a-stale"),
        external_secret(HERE, name="b-fresh", status=late),
        external_secret(HERE, name="c-opted-out", annotations={"vaultsync.io/force-sync": "false"}),
        external_secret(HERE, name="d-ignoring", spec={"refreshInterval": "0"}, status=ignoring),
    )
    actions = [one.references[0].action for one in found]
    assert actions == [Action.FORCE_SYNC, Action.NOTHING, Action.NOTHING, Action.NOTHING]
    assert found[1].references[0].why == "exists"
    assert "opted out" in found[2].references[0].why
    assert "ignores it" in found[3].references[0].why
    assert summarise(found).force_sync == 1


def test_a_value_that_another_external_secret_requests_names_it() -> None:
    asking = external_secret(HERE, name="asking", annotations=SEED)
    found = Cluster().explain(asking, external_secret(HERE, name="other"))
    assert [one.choice for one in found] == [SeedChoice.WANTED, SeedChoice.NOT_ASKED]
    assert found[1].references[0].why == "32 random bytes in hex, requested by dev-1/asking"
    assert summarise(found).seed == 1, "one path"


def test_a_find_shows_how_many_paths_it_lists() -> None:
    find = [{"find": {"path": "dev-1"}}]
    empty = Cluster().status(data_from=find, annotations=SEED)
    assert empty.path == "secret/data/dev-1/*"
    assert "dataFrom.find: there is nothing under" in empty.problems[0]
    cluster = Cluster()
    cluster.vault.write(API, password=VALUE)
    found = cluster.status(data_from=find)
    assert (found.action, found.presence, found.problems) == (Action.FORCE_SYNC, Presence.PRESENT, ())


def test_one_is_explained_and_all_readers_count() -> None:
    cluster = Cluster()
    old = external_secret(HERE, name="a-old", annotations=ruled("password: {format: uuid}"))
    young = external_secret(HERE, name="b-young", annotations=SEED)
    cluster.survey.external_secret_changed(old)
    cluster.survey.external_secret_changed(young)
    [found] = run(cluster.survey.explain(ObjectName("dev-1", "b-young")))
    assert found.references[0].why == "random UUID"
    assert run(cluster.survey.explain(ObjectName("dev-1", "no"))) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"annotations": SEED},
        {"annotations": ruled("{password: {template: '{{ .user }}'}, user: {format: uuid}}")},
        {"annotations": {}},
        {"annotations": SEED, "data": [entry("else/a", "password")]},
        {"annotations": SEED, "data": [entry(HERE, "password", version="3")]},
        {"annotations": SEED, "data": [entry(HERE, "a.#.b")]},
        {"annotations": SEED, "data": [entry(HERE)]},
    ],
)
@pytest.mark.parametrize("there", [{}, {"user": VALUE}, {"password": VALUE}])
def test_the_plan_is_what_the_reconciler_does(fields: Mapping[str, Anything], there: Mapping[str, str]) -> None:
    cluster = Cluster()
    if there:
        cluster.vault.write(API, **there)
    one = external_secret(HERE, **fields)
    [explained] = cluster.explain(one)
    [status] = explained.references
    syncs = SyncStates()
    reconciler = reconciler_of(cluster, syncs, create_budget(0, lambda: 0.0))
    [where] = cluster.index.paths()
    run(reconciler.reconcile(where))
    assert (status.action in (Action.SEED, Action.ADD)) == bool(cluster.vault.creates)
    failures = syncs.of(one).failures.get(where, [])
    assert list(status.problems) == [failure.message for failure in failures]


def reconciler_of(
    cluster: Cluster, syncs: SyncStates, budget: TokenBuckets[str] | None, *, dry_run: bool = False
) -> PathReconciler:
    paths = PathStates()
    return PathReconciler(
        cluster.index,
        paths,
        syncs,
        cluster.vault,
        MINE,
        budget,
        UNLIMITED,
        FakeObjects(cluster.index),
        OwnershipWriter(paths, cluster.vault),
        Metrics(),
        dry_run=dry_run,
    )


def test_a_dry_run_creates_nothing_and_spends_nothing() -> None:
    cluster = Cluster()
    one = external_secret(HERE, annotations=SEED)
    cluster.index.put(one)
    budget, syncs = create_budget(1, lambda: 0.0), SyncStates()
    reconciler = reconciler_of(cluster, syncs, budget, dry_run=True)
    assert run(reconciler.reconcile(API)) == ({one.name}, 0)
    assert not cluster.vault.creates
    assert not syncs.of(one).events
    assert budget is not None
    assert budget.take("dev-1") == 0


def test_a_client_that_only_reads_sends_nothing_else() -> None:
    async def asks() -> list[str]:
        asked: list[str] = []

        async def handler(request: web.Request) -> web.Response:
            asked.append(request.method)
            return answer(200, {"kind": "Thing"})

        async with http_server(handler) as address:
            configuration = Configuration()
            configuration.host = address
            client = KubeClient(ApiClient(configuration), 5.0, read_only=True)
            try:
                assert await client.post("/things", {}) == await client.merge_patch("/things/a", {}) == {}
                assert await client.get("/things/a") == {"kind": "Thing"}
            finally:
                await client.close()
        return asked

    assert run(asks()) == ["GET"]


RULES = {
    "{format: password, length: 40}": "password, 40 characters",
    "{format: base64, bytes: 48}": "48 random bytes in base64",
    "{format: uuid}": "random UUID",
    "{format: policy, name: ops}": "Vault's password policy ops",
    "{format: rsa, bits: 2048}": "rsa private key, 2048 bits, the public one in p_public",
    "{format: ed25519}": "ed25519 private key, the public one in p_public",
    "{value: hunter2}": "fixed text",
    "{template: '{{ .user }}:{{ .a }}'}": "template of a, user",
}


@pytest.mark.parametrize("rule", RULES)
def test_rules_in_words(rule: str) -> None:
    found = parse_rules(f"p: {rule}").rule_for("p")
    assert found is not None
    assert describe_value(PropertyPlan(found)) == RULES[rule]
    assert describe_value(PropertyPlan(found, Encoding.BASE64URL)) == f"{RULES[rule]}, in base64url"


def test_a_public_part_in_words() -> None:
    found = parse_rules("p: {format: ed25519}").rule_for("p_public")
    assert found is not None
    assert describe_value(PropertyPlan(found)) == "public key of p"


FINDINGS = (
    ReferenceStatus(
        "spec.data[0].remoteRef", "SecretStore dev-1/vault", "a", "secret/a", "", "p", 3, NOON, Presence.PRESENT, "me"
    ),
    ReferenceStatus(
        "spec.data[1].remoteRef",
        "SecretStore dev-1/vault",
        "b",
        "secret/b\x1b[31m",
        "team",
        presence=Presence.MISSING,
        action=Action.SEED,
        why="random UUID",
        problems=("a problem",),
    ),
)
EXPLAINED = Explanation(ObjectName("dev-1", "app"), SeedChoice.WANTED, "requested", "", FINDINGS)


def test_the_table_of_one() -> None:
    text = output.explain_table(EXPLAINED, NOON + timedelta(hours=50))
    assert text.splitlines() == [
        "ExternalSecret:   dev-1/app",
        "Seeding:          wanted (requested)",
        "",
        "PATH                    PROPERTY   VERSION   AGE   IN VAULT   MADE BY   ACTION    FIELD                    "
        "STORE                     WHY",
        "secret/a                p          3         2d    present    me        nothing   spec.data[0].remoteRef   "
        "SecretStore dev-1/vault",
        "team:secret/b\\x1b[31m   <all>      -         -     missing    -         seed      spec.data[1].remoteRef   "
        "SecretStore dev-1/vault   random UUID; a problem",
    ]


def test_the_table_of_one_that_reads_nothing() -> None:
    text = output.explain_table(Explanation(EXPLAINED.name, SeedChoice.WANTED, "requested", "", ()), NOON)
    assert text.splitlines()[-1] == "Reads:            nothing from a store"


def test_the_table_of_all_ends_with_a_sum() -> None:
    lines = output.plan_table([EXPLAINED], summarise([EXPLAINED]), NOON).splitlines()
    assert lines[0].split() == [
        "NAMESPACE",
        "NAME",
        "PATH",
        "PROPERTY",
        "VERSION",
        "AGE",
        "IN",
        "VAULT",
        "MADE",
        "BY",
        "ACTION",
        "WHY",
    ]
    assert lines[-1] == (
        "Plan: 1 path to seed, 0 to add to, 0 to rotate, 0 ExternalSecrets to force-sync; "
        "1 ExternalSecret in all, 1 with problems."
    )
    idle = output.plan_table([], summarise([]), NOON)
    assert idle == "Plan: nothing to do; 0 ExternalSecrets in all.\n"


def test_json_holds_the_same() -> None:
    document = json.loads(output.plan_json([EXPLAINED], summarise([EXPLAINED])))
    assert document["summary"]["seed"] == 1
    [one] = document["external_secrets"]
    assert one == json.loads(output.explain_json(EXPLAINED))
    assert (one["namespace"], one["name"], one["seeding"], one["problem"]) == ("dev-1", "app", "wanted", None)
    there, missing = one["reads"]
    assert (there["version"], there["written"], there["in_vault"]) == (3, NOON.isoformat(), "present")
    assert (missing["version"], missing["property"], missing["action"]) == (None, None, "seed")


@pytest.mark.parametrize(("seconds", "told"), [(-5, "0s"), (59, "59s"), (61, "1m"), (7300, "2h"), (90000, "1d")])
def test_ages(seconds: float, told: str) -> None:
    assert age(seconds) == told


@pytest.mark.parametrize("name", ["app", "", "/", "dev-1/", "/app", "a/b/c", "UPPER/app"])
def test_an_invalid_name_is_one_line_and_exit_2(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", name]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert "NAMESPACE/NAME" in printed.err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["plan", "all"], 64), (["plan", "-o", "xml"], 64), (["explain"], 2), (["explain", "a/b", "c"], 2)],
)
def test_wrong_arguments_of_plan_have_another_exit_code_than_changes(
    arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == code
    assert f"usage: vaultsync {arguments[0]}" in capsys.readouterr().err


def test_wrong_settings_are_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("VAULT_ADDR", "vault")
    assert (main(["plan"]), main(["explain", "a/b"])) == (64, 2)
    assert capsys.readouterr().err.count("VAULT_ADDR must be") == 2
