"""commands/orphans on a fake Vault: which paths are orphans; its output, arguments and requests."""

import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import cast

import pytest
from aiohttp import web

from tests.unit.build import (
    ADDRESS,
    LONG_AGO,
    NOON,
    Anything,
    Json,
    entry,
    external_secret,
    external_secret_json,
    login,
    namespace,
    path,
    run,
    store,
)
from tests.unit.fakes import FakeVault
from tests.unit.servers import answer, http_server, raw_server
from tests.unit.vault.test_client import listing
from vaultsync.cli import main
from vaultsync.commands import output
from vaultsync.commands.orphan_finder import CHANGED, READ, Orphan, OrphanFinder, OrphanReport
from vaultsync.controller.index import Index, server_identity
from vaultsync.core.annotation_parser import SeedMode
from vaultsync.core.errors import VaultDenied, VaultRejected, VaultsyncError, VaultUnavailable
from vaultsync.core.external_secret import ExternalSecret, Store, StoreCondition, parse_external_secret
from vaultsync.core.ownership import Ownership, render_ownership
from vaultsync.core.paths import FindPrefix, Mount, VaultPath
from vaultsync.vault.client import VaultClient

A = path("secret/data/dev-1/a")
VALUE = "hunter2"
DENIED = VaultDenied("Vault returned 403: permission denied")


class FlatVault(FakeVault):
    """Such as Community: it shows the same mounts whatever Vault namespace is named."""

    async def mounts(self, namespace: str) -> dict[str, Mount]:
        return await super().mounts("")


class Cluster:
    """What is listed, and Vault."""

    def __init__(self, vault: FakeVault | None = None, *, cluster: str = "", namespaces: tuple[str, ...] = ()) -> None:
        self.vault = vault or FakeVault()
        self.cluster = cluster
        self.namespaces = ("dev-1", *namespaces)
        self.stores = [store("vault", name) for name in self.namespaces]
        self.objects: list[ExternalSecret] = []

    def make(
        self, where: VaultPath = A, *, cluster: str = "", only: frozenset[str] | None = None, **values: str
    ) -> None:
        """A version of which vaultsync has made all values, or only some."""
        self.vault.write(where, **(values or {"password": VALUE}))
        state = run(self.vault.look(where, 2))
        mark = Ownership(state.fingerprint(metadata=False), NOON, only, "dev-1/app", cluster)
        run(self.vault.mark(where, render_ownership(mark, state.managed_by)))

    def listed(self) -> OrphanFinder:
        """As a run of the command lists them."""
        index, vault = Index(frozenset({server_identity(ADDRESS)}), SeedMode.OFF), cast(VaultClient, self.vault)
        made = OrphanFinder(index, vault, "")
        made.cluster = self.cluster
        for name in self.namespaces:
            made.namespace_changed(namespace(name))
        for one in self.objects:
            made.external_secret_changed(one)
        for known in self.stores:
            made.store_changed(known)
        return made

    def find(self, *objects: ExternalSecret) -> OrphanReport:
        self.objects += objects
        return run(self.listed().find())

    def paths(self, *objects: ExternalSecret) -> list[VaultPath]:
        """The orphans' paths, where nothing is in doubt."""
        found = self.find(*objects)
        assert not found.uncertain + found.refused
        return [one.path for one in found.orphans]

    def delete(self, *orphans: Orphan) -> list[str]:
        async def delete() -> list[str]:
            return [why async for _, why in self.listed().delete(orphans)]

        return run(delete())


def test_a_created_path_without_a_reader_is_an_orphan() -> None:
    cluster = Cluster()
    cluster.make(user=VALUE, password=VALUE)
    [found] = cluster.find().orphans
    assert (found.path, found.where, found.version) == (A, "secret/dev-1/a", 1)
    assert (found.external_secret, found.properties) == ("dev-1/app", ("password", "user"))
    assert (found.made, found.written) == (NOON, NOON + timedelta(seconds=1))
    assert not cluster.vault.creates


@pytest.mark.parametrize(
    "fields",
    [
        {"data": [entry("dev-1/a", "password")]},
        {"data": [entry("secret/data/dev-1/a", "other")]},
        {"data": [entry("dev-1/../dev-1/a")]},
        {"data": [entry("dev-1/a", version="1")]},
        {"data": [entry("dev-1/a", metadataPolicy="Fetch")]},
        {"data_from": [{"extract": {"key": "dev-1/a"}}]},
        {"data_from": [{"find": {"path": "dev-1", "name": {"regexp": "nothing"}}}]},
        {"data_from": [{"find": {"tags": {"a": "b"}}}]},
    ],
)
@pytest.mark.parametrize("where", ["dev-1", "not-selected"])
def test_a_path_with_any_reader_is_no_orphan(fields: dict[str, Anything], where: str) -> None:
    cluster = Cluster(namespaces=("not-selected",))
    cluster.make()
    assert cluster.paths(external_secret(namespace=where, **fields)) == []


@pytest.mark.parametrize("key", ["dev-1/ab", "dev-1/a/b", "dev-1", "dev-2/a"])
def test_a_reader_of_another_path_does_not_count(key: str) -> None:
    cluster = Cluster()
    cluster.make()
    find = {"find": {"path": "dev"}}
    assert cluster.paths(external_secret(key, data_from=[find])) == [A]


def test_an_external_secret_in_deletion_reads_nothing() -> None:
    cluster = Cluster()
    cluster.make()
    leaving = external_secret_json(data=[entry("dev-1/a", "password")])
    leaving["metadata"]["deletionTimestamp"] = LONG_AGO
    assert cluster.paths(parse_external_secret(leaving)) == [A]


def test_a_path_that_another_client_has_written_is_no_orphan() -> None:
    cluster = Cluster()
    cluster.make(path("secret/data/part"), only=frozenset({"password"}), password=VALUE, user=VALUE)
    cluster.make(path("secret/data/later"))
    cluster.vault.write(path("secret/data/later"), password=VALUE)
    cluster.make(path("secret/data/deleted"))
    cluster.vault.delete(path("secret/data/deleted"))
    cluster.make(path("secret/data/theirs"), cluster="other")
    cluster.make(path("secret/data/managed"))
    cluster.vault.secrets[path("secret/data/managed")].custom_metadata["managed-by"] = "external-secrets"
    cluster.vault.write(path("secret/data/unmarked"), password=VALUE)
    cluster.make(path("secret/data/empty"), only=frozenset(), password=VALUE)
    assert cluster.paths() == []


def test_each_cluster_has_its_own() -> None:
    cluster = Cluster(cluster="east")
    cluster.make(path("secret/data/east"), cluster="east")
    cluster.make(path("secret/data/west"), cluster="west")
    cluster.make(path("secret/data/none"))
    assert cluster.paths() == [path("secret/data/east")]


# -- in doubt


CLOSED = StoreCondition(("elsewhere",), (), None)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"data": [entry("dev-1/a", "x", {"name": "lost"})]}, "there is no SecretStore dev-1/lost"),
        ({"data": [entry("secret/data/dev-1/a", "x", {"name": "lost"})]}, "there is no SecretStore dev-1/lost"),
        ({"data_from": [{"find": {"path": "dev-1"}}], "store": {"name": "lost"}}, "there is no SecretStore"),
        ({"data_from": [{"find": {}}], "store": {"name": "lost"}}, "there is no SecretStore dev-1/lost"),
        ({"data": [entry("dev-1/a", "x", {"name": "far"})]}, "in another Vault, http://far:8200"),
        ({"data": [entry("dev-1/a", "x", {"name": "c", "kind": "ClusterSecretStore"})]}, "not open to namespace dev-1"),
    ],
)
def test_a_path_that_may_be_read_is_left_out_and_reported(fields: dict[str, Anything], problem: str) -> None:
    cluster = Cluster()
    cluster.make()
    closed = store("c", kind="ClusterSecretStore")
    cluster.stores += [
        store("far", server="http://far:8200"),
        Store(closed.name, closed.server, closed.path, closed.kv, closed.vault_namespace, (CLOSED,)),
    ]
    found = cluster.find(external_secret(**fields))
    assert found.orphans == ()
    [told] = found.uncertain
    assert told.startswith("dev-1/app may read it: ")
    assert problem in told


@pytest.mark.parametrize(
    "one",
    [
        entry("dev-1/b", "x", {"name": "lost"}),
        entry("dev-1/a", "x", {"name": "far"}),
        entry("dev-1/a", "x", {"name": "cloud"}),
    ],
)
def test_a_store_that_cannot_be_used_leads_to_no_more_than_its_paths(one: Json) -> None:
    cluster = Cluster()
    cluster.make()
    cluster.stores += [store("far", server="http://far:8200", path="else"), store("cloud", server=None)]
    assert cluster.paths(external_secret(data=[one])) == [A]


# -- Vault namespaces


def test_the_vault_namespaces_that_stores_name_are_walked() -> None:
    cluster = Cluster()
    there, read = (path(f"secret/data/dev-1/{name}", "team") for name in ("a", "read"))
    cluster.make(there)
    cluster.make(read)
    cluster.make(path("secret/data/dev-1/a", "nobody"))
    cluster.make(path("secret/data/dev-1/read"))
    cluster.stores.append(store("team", vault_namespace="team"))
    reads = external_secret("dev-1/read", store={"name": "team"})
    assert cluster.paths(reads) == [path("secret/data/dev-1/read"), there]


def test_a_vault_namespace_may_stand_in_the_path() -> None:
    cluster = Cluster()
    cluster.make(path("secret/data/dev-1/a", "team"))
    cluster.stores += [store("team", vault_namespace="team"), store("root", path="team/secret")]
    assert cluster.paths(external_secret("dev-1/a", store={"name": "root"})) == []


def test_where_vault_knows_no_namespaces_they_do_not_count() -> None:
    cluster = Cluster(FlatVault())
    cluster.make()
    cluster.stores.append(store("team", vault_namespace="team"))
    assert cluster.paths() == [A], "once"
    assert cluster.paths(external_secret("dev-1/a", store={"name": "team"})) == []


# -- refusals


def test_a_refused_read_is_reported_and_the_other_orphans_are_found() -> None:
    cluster = Cluster()
    cluster.make(path("secret/data/b"))
    cluster.make()
    cluster.vault.errors[A] = [DENIED]
    found = cluster.find()
    assert [one.path.path for one in found.orphans] == ["secret/data/b"]
    assert found.refused == (str(DENIED),)


class ClosedVault(FakeVault):
    """Refuses what it is told to."""

    def __init__(self, **refuse: VaultsyncError) -> None:
        super().__init__()
        self.refuse = refuse

    async def mounts(self, namespace: str) -> dict[str, Mount]:
        if namespace in self.refuse:
            raise self.refuse[namespace]
        return {"team": Mount("team/kv/", 2)} if self.refuse.get("empty") is None else {}

    async def find(
        self, prefix: FindPrefix, limit: int = 0, may_list: Callable[[], Awaitable[bool]] | None = None
    ) -> set[VaultPath]:
        raise self.refuse["find"]


def test_a_mount_that_may_not_be_listed_is_reported() -> None:
    assert Cluster(ClosedVault(find=DENIED)).find() == OrphanReport((), (), (str(DENIED),))


def test_a_missing_vault_namespace_is_reported() -> None:
    gone = VaultRejected("Vault returned 404: namespace not found")
    cluster = Cluster(ClosedVault(team=gone, find=DENIED))
    cluster.stores.append(store("team", vault_namespace="team"))
    assert cluster.find().refused == (str(gone), str(DENIED))


def test_no_mount_at_all_is_no_answer() -> None:
    with pytest.raises(VaultDenied, match="no KV v2 mount"):
        Cluster(ClosedVault(empty=DENIED)).find()


def test_without_vault_there_is_no_answer() -> None:
    cluster = Cluster()
    cluster.vault.down = VaultUnavailable("no answer")
    with pytest.raises(VaultUnavailable):
        cluster.find()


# -- deletion


def test_a_deletion_takes_the_latest_version_alone() -> None:
    cluster = Cluster()
    cluster.make()
    cluster.make(path("secret/data/b"))
    [b, a] = cluster.find().orphans
    assert cluster.delete(a) == [""]
    assert cluster.vault.values(A) is None
    assert cluster.vault.values(b.path) is not None
    assert cluster.find().orphans == (b,)


def test_a_path_that_has_changed_is_not_deleted() -> None:
    cluster = Cluster()
    for name in "abc":
        cluster.make(path(f"secret/data/{name}"))
    orphans = cluster.find().orphans
    cluster.vault.write(orphans[0].path, password="theirs")
    cluster.make(orphans[1].path)
    cluster.vault.delete(orphans[2].path)
    assert cluster.delete(*orphans) == [CHANGED, CHANGED, CHANGED]
    assert cluster.vault.values(orphans[0].path) == {"password": "theirs"}
    assert cluster.vault.values(orphans[1].path) is not None


def test_a_path_that_is_or_may_be_read_now_is_not_deleted() -> None:
    cluster = Cluster()
    cluster.make()
    cluster.make(path("secret/data/b"))
    orphans = cluster.find().orphans
    cluster.objects.append(external_secret(data=[entry("dev-1/a", "x"), entry("b", "x", {"name": "lost"})]))
    lost, read = cluster.delete(*orphans)
    assert read == READ
    assert "there is no SecretStore dev-1/lost" in lost
    assert cluster.vault.values(A) is not None


def test_a_refused_deletion_names_the_capability_and_the_others_continue() -> None:
    cluster = Cluster()
    for name in "abcd":
        cluster.make(path(f"secret/data/{name}"))
    orphans = cluster.find().orphans
    cluster.vault.denied_writes = {orphans[0].path: DENIED, orphans[1].path: VaultRejected("Vault returned 400")}
    cluster.vault.errors[orphans[2].path] = [DENIED]
    first, second, third, last = cluster.delete(*orphans)
    assert first == f"{DENIED}, where your token needs `update`"
    assert (second, third, last) == ("Vault returned 400", str(DENIED), "")


# -- Vault's API


def with_client(
    handler: Callable[[web.Request], Awaitable[web.Response]], test: Callable[[VaultClient], Awaitable[None]]
) -> None:
    async def whole() -> None:
        async with http_server(handler) as address:
            client = VaultClient(login(address))
            try:
                await test(client)
            finally:
                await client.close()

    run(whole())


def test_the_mounts_are_those_of_kv_v2() -> None:
    def mount(type: str, version: str | None, accessor: str | None) -> Json:
        return {"type": type, "options": version and {"version": version}, "accessor": accessor}

    mounts = {
        "secret/": mount("kv", "2", "kv_1"),
        "team/kv/": mount("kv", "2", None),
        "kv1/": mount("kv", "1", "kv_3"),
        "old/": mount("kv", None, "kv_4"),
        "sys/": mount("system", None, "system_1"),
        "odd/": "odd",
    }

    async def handler(request: web.Request) -> web.Response:
        assert (request.path, request.headers.get("X-Vault-Namespace")) == ("/v1/sys/internal/ui/mounts", "team")
        return answer(200, {"data": {"secret": mounts, "auth": {}}})

    async def test(client: VaultClient) -> None:
        assert await client.mounts("team") == {"kv_1": Mount("secret/", 2), "team/team/kv/": Mount("team/kv/", 2)}

    with_client(handler, test)


def test_a_deletion_names_its_version() -> None:
    sent: list[Json] = []

    async def handler(request: web.Request) -> web.Response:
        if "/ui/mounts/" in request.path:
            return answer(200, {"data": {"path": "team/kv/", "type": "kv", "options": {"version": "2"}}})
        sent.append({"method": request.method, "path": request.path, **json.loads(await request.read())})
        return web.Response(status=204)

    async def test(client: VaultClient) -> None:
        await client.delete_version(path("team/kv/data/dev-1/a"), 3)

    with_client(handler, test)
    assert sent == [{"method": "POST", "path": "/v1/team/kv/delete/dev-1/a", "versions": [3]}]


def test_a_walk_ends_at_its_limit() -> None:
    folders = {f"secret/metadata/{name}": ["x", "y"] for name in "abc"}

    async def whole() -> int:
        async with raw_server(listing({"secret/metadata": ["a/", "b/", "c/"], **folders})) as where:
            client = VaultClient(login(f"http://{where}"))
            found = await client.find(FindPrefix("", "secret/data/", 2), 3)
            await client.close()
        return len(found)

    assert run(whole()) == 4, "whole folders"


# -- words and arguments


ORPHANS = (
    Orphan(A, "secret/dev-1/a", 3, NOON, NOON - timedelta(days=1), "dev-1/app", ("password", "user")),
    Orphan(path("secret/data/b\x1b[31m", "team"), "secret/b\x1b[31m", 1, None, NOON, "", ("x",)),
)
FOUND = OrphanReport(ORPHANS, ("dev-1/app may read it: lost", "dev-1/app may read it: lost"), (str(DENIED), "another"))


def test_the_table_ends_with_a_count() -> None:
    assert output.orphans_table(FOUND, NOON + timedelta(hours=50)).splitlines() == [
        "PATH                    VERSION   AGE   MADE FOR    PROPERTIES",
        "secret/dev-1/a          3         2d    dev-1/app   password, user",
        "team:secret/b\\x1b[31m   1         -     -           x",
        "",
        "2 paths that vaultsync created and no ExternalSecret reads",
    ]
    none = output.orphans_table(OrphanReport(()), NOON)
    assert none == "0 paths that vaultsync created and no ExternalSecret reads\n"


def test_json_holds_the_same() -> None:
    document = json.loads(output.orphans_json(FOUND))
    assert document["summary"] == {"orphans": 2, "left_out": 2, "refused": 2}
    assert document["orphans"][0] == {
        "vault_namespace": "",
        "path": "secret/dev-1/a",
        "version": 3,
        "written": "2025-06-01T12:00:00+00:00",
        "made": "2025-05-31T12:00:00+00:00",
        "made_for": "dev-1/app",
        "properties": ["password", "user"],
    }


def test_gaps_are_reported_in_few_lines() -> None:
    assert output.gaps(FOUND) == [
        "2 paths left out: dev-1/app may read it: lost",
        f"Vault refused 2 requests, such as: {DENIED}",
    ]
    assert output.gaps(OrphanReport(())) == []
    assert output.not_deleted(ORPHANS[1], READ) == f"team:secret/b\\x1b[31m is not deleted: {READ}"


@pytest.mark.parametrize(
    ("arguments", "problem"), [(["--yes"], "--yes is for --delete"), (["--delete"], "on a terminal"), (["-o", "x"], "")]
)
def test_wrong_arguments(arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["orphans", *arguments])
    assert caught.value.code == 2
    assert problem in capsys.readouterr().err


def test_a_dry_run_deletes_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("VAULT_ADDR", ADDRESS)
    monkeypatch.setenv("VAULT_TOKEN", "t")
    monkeypatch.setenv("VAULTSYNC_DRY_RUN", "true")
    assert main(["orphans", "--delete", "--yes"]) == 2
    assert capsys.readouterr().err == "vaultsync: VAULTSYNC_DRY_RUN is true: nothing is deleted\n"
