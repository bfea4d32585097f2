"""`orphans`: lists paths that vaultsync created and no ExternalSecret reads, and deletes them on request; no others."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Mapping

import pytest

from tests.testbed.api import Json
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.identity import NAMESPACE, PROJECT
from tests.testbed.kube import MERGE_PATCH
from tests.testbed.place import Place
from tests.testbed.servers import ROOT_TOKEN
from tests.testbed.vaultsync import FOREIGN, VaultsyncProcess

SEED = {"vaultsync.io/seed": "true"}
VALUE = "not-to-be-seen"
OPERATOR = {"VAULT_TOKEN": ROOT_TOKEN}
QUESTION = "Type yes: "
END_OF_FILE = "\x04"
NONE = "0 paths that vaultsync created and no ExternalSecret reads\n"


class Command:
    """A running `vaultsync orphans`, optionally with a terminal for the confirmation.

    The place is its own cluster, so that objects of other tests do not count.
    """

    def __init__(
        self, place: Place, *arguments: str, env: Mapping[str, str] | None = None, terminal: bool = True
    ) -> None:
        own = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        given = {**place.testbed.identity.env, "VAULTSYNC_CLUSTER": place.name, **(env or {})}
        self._keyboard, screen = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "vaultsync", "orphans", *arguments],
            env=own | given,
            cwd=PROJECT,
            text=True,
            stdin=screen if terminal else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        os.close(screen)

    def wait_for_question(self) -> None:
        assert self._process.stderr is not None
        said = ""
        while not said.endswith(QUESTION):
            letter = self._process.stderr.read(1)
            assert letter, said
            said += letter

    def answer(self, text: str) -> None:
        os.write(self._keyboard, text.encode())

    def end(self) -> tuple[int, str, str]:
        """Exit code, output and errors; asserts that they have no value."""
        try:
            out, err = self._process.communicate(timeout=60)
        finally:
            self._process.kill()
            os.close(self._keyboard)
        assert VALUE not in out + err
        assert "Traceback" not in err
        return self._process.returncode, out, err


def orphans(place: Place, *arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Runs the command to its end, without a terminal."""
    return Command(place, *arguments, env=env, terminal=False).end()


def listed(place: Place, **env: str) -> dict[str, Json]:
    """The rows by path below the place's prefix."""
    code, out, err = orphans(place, "-o", "json", env=env)
    assert (code, err) == (0, "")
    prefix = f"secret/{place.name}/"
    return {one["path"].removeprefix(prefix): one for one in json.loads(out)["orphans"]}


def run(place: Place, vaultsync: VaultsyncFactory) -> VaultsyncProcess:
    return vaultsync({"VAULTSYNC_CLUSTER": place.name, "VAULTSYNC_NAMESPACES": place.name})


def make(place: Place, vaultsync: VaultsyncFactory, *paths: str) -> None:
    """Lets vaultsync create a password at each path for an ExternalSecret that is then deleted."""
    before = {path: place.version(path) for path in paths}
    data = {f"k{number}": (path, "password") for number, path in enumerate(paths)}
    place.external_secret("maker", data, annotations=SEED)
    process = run(place, vaultsync)
    place.wait_for(lambda: all(place.version(path) > old for path, old in before.items()), 30)
    process.stop()  # writes the ownership
    place.delete("maker")


def keep(place: Place, name: str, **source: Json) -> None:
    """An ExternalSecret that reads by spec.dataFrom."""
    place.external_secret(name, dataFrom=[source])


def test_only_paths_without_readers_are_listed(place: Place, elsewhere: Place, vaultsync: VaultsyncFactory) -> None:
    place.put("part", user=VALUE)
    make(place, vaultsync, "gone", "named", "whole", "folder/deep/found", "far", "later", "theirs", "deleted", "part")
    assert {*listed(place)} == {"gone", "named", "whole", "folder/deep/found", "far", "later", "theirs", "deleted"}

    place.external_secret("named", {"p": ("named", "password")})
    keep(place, "whole", extract={"key": place.path("whole")})
    keep(place, "find", find={"path": place.path("folder"), "name": {"regexp": ".*"}})
    keep(elsewhere, "far", extract={"key": f"secret/data/{place.path('far')}"})
    place.put("later", password=VALUE)
    place.vault.delete(place.path("deleted"))
    change = {"custom_metadata": {"vaultsync-cluster": f"not-{place.name}"}}
    where = f"/v1/secret/metadata/{place.path('theirs')}"
    place.vault.api.request("PATCH", where, change, content_type=MERGE_PATCH)
    found = listed(place, VAULTSYNC_NAMESPACES=place.name, VAULTSYNC_SELECTOR="no=such")
    assert {*found} == {"gone"}
    gone = found["gone"]
    assert (gone["version"], gone["made_for"], gone["properties"]) == (1, f"{place.name}/maker", ["password"])
    assert gone["written"].startswith("20")
    assert {*listed(place, VAULTSYNC_CLUSTER=f"not-{place.name}")} == {"theirs"}


def test_possibly_read_paths_are_left_out_and_reported(place: Place, vaultsync: VaultsyncFactory) -> None:
    make(place, vaultsync, "gone", "lost")
    place.external_secret("lost", {"p": ("lost", "password")}, store="nowhere")
    code, out, err = orphans(place)
    assert code == 0
    assert err == (
        f"vaultsync: 1 path left out: {place.name}/lost may read it: there is no SecretStore {place.name}/nowhere\n"
    )
    header, row, _, last = out.splitlines()
    assert header.split() == ["PATH", "VERSION", "AGE", "MADE", "FOR", "PROPERTIES"]
    assert row.startswith(f"secret/{place.name}/gone ")
    assert last == "1 path that vaultsync created and no ExternalSecret reads"


@pytest.mark.parametrize("answer", ["no\n", "\n", "YES\n", END_OF_FILE])
def test_without_confirmation_nothing_is_deleted(place: Place, vaultsync: VaultsyncFactory, answer: str) -> None:
    make(place, vaultsync, "gone")
    command = Command(place, "--delete", env=OPERATOR)
    command.wait_for_question()
    command.answer(answer)
    code, out, err = command.end()
    assert (code, err) == (1, "vaultsync: nothing is deleted\n")
    assert f"secret/{place.name}/gone " in out
    assert place.read("gone")


@pytest.mark.parametrize("asks", [True, False])
def test_a_deleted_orphan_can_be_undeleted(place: Place, vaultsync: VaultsyncFactory, asks: bool) -> None:
    make(place, vaultsync, "gone", "too")
    before = place.read("gone")
    if asks:
        command = Command(place, "--delete", env=OPERATOR)
        command.wait_for_question()
        command.answer("yes\n")
        code, out, err = command.end()
    else:
        code, out, err = orphans(place, "--delete", "--yes", env=OPERATOR)
    assert (code, err) == (0, "vaultsync: deleted 2 of 2\n")
    assert out.endswith("2 paths that vaultsync created and no ExternalSecret reads\n")
    assert (place.read("gone"), place.read("too")) == (None, None)
    assert listed(place) == {}
    place.vault.undelete(place.path("gone"), [1])
    assert place.read("gone") == before
    assert {*listed(place)} == {"gone"}


def test_with_nothing_to_delete_there_is_no_prompt(place: Place) -> None:
    assert orphans(place, "--delete", "--yes", env=OPERATOR) == (0, NONE, "")
    assert Command(place, "--delete", env=OPERATOR).end() == (0, NONE, "")


def test_an_orphan_that_changes_before_the_confirmation_is_kept(place: Place, vaultsync: VaultsyncFactory) -> None:
    make(place, vaultsync, "gone", "read", "written")
    command = Command(place, "--delete", env=OPERATOR)
    command.wait_for_question()
    place.put("written", password=VALUE)
    keep(place, "reads", extract={"key": place.path("read")})
    command.answer("yes\n")
    code, _, err = command.end()
    assert code == 1
    assert err.splitlines() == [
        f"vaultsync: secret/{place.name}/read is not deleted: an ExternalSecret reads it now",
        f"vaultsync: secret/{place.name}/written is not deleted: it has changed since it was listed",
        "vaultsync: deleted 1 of 3",
    ]
    assert place.read("gone") is None
    assert place.read("read")
    assert place.read("written") == {"password": VALUE}


def test_vaultsyncs_own_token_may_not_delete(place: Place, vaultsync: VaultsyncFactory) -> None:
    make(place, vaultsync, "gone", "too")
    code, _, err = orphans(place, "--delete", "--yes")
    assert code == 1
    refusal = f"secret/{place.name}/{{0}} is not deleted: Vault returned 403: permission denied on secret/delete/"
    assert err.splitlines() == [
        *(
            f"vaultsync: {refusal}{place.name}/{{0}}, where your token needs `update`".format(x)
            for x in ("gone", "too")
        ),
        "vaultsync: deleted 0 of 2",
    ]
    assert place.read("gone")
    assert place.read("too")


def test_a_running_vaultsync_creates_a_deleted_orphan_again_for_a_new_reader(
    place: Place, vaultsync: VaultsyncFactory
) -> None:
    make(place, vaultsync, "gone")
    before = place.read("gone")
    run(place, vaultsync).wait_until_ready()
    assert orphans(place, "--delete", "--yes", env=OPERATOR)[0] == 0
    place.external_secret("late", {"p": ("gone", "password")}, annotations=SEED)
    assert place.wait_for(lambda: place.read("gone"), 30) != before


def test_without_the_right_to_list_the_cluster_the_refusal_is_reported(place: Place) -> None:
    account = f"none-{place.name}"
    metadata = {"name": account, "namespace": NAMESPACE}
    assert place.testbed.identity  # creates the namespace
    place.kube.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    token = place.kube.token_for(account, NAMESPACE)
    kubeconfig = place.testbed.kube_apiserver.kubeconfig(place.testbed.work / f"{account}.kubeconfig", token)
    env = {"KUBECONFIG": str(kubeconfig), "VAULTSYNC_NAMESPACES": place.name}
    code, out, err = orphans(place, env=env)
    place.kube.delete("v1", "ServiceAccount", account, NAMESPACE)
    assert (code, out) == (1, "")
    [line] = err.splitlines()
    assert line.startswith("vaultsync: orphans can be found only with the permission to list all")
    assert "the API server returned 403" in line


def test_an_unknown_token_is_one_line(place: Place) -> None:
    code, out, err = orphans(place, env={"VAULT_TOKEN": "wrong"})
    assert (code, out) == (1, "")
    [line] = err.splitlines()
    assert "Vault returned 403" in line


def cluster_of(place: Place, path: str) -> str:
    """The cluster in the ownership metadata, "" if there is none."""
    metadata = (place.vault.metadata(place.path(path)) or {}).get("custom_metadata") or {}
    return str(metadata.get("vaultsync-cluster", ""))


def test_each_cluster_has_a_name_by_default_and_takes_over_what_an_earlier_release_made(
    place: Place, vaultsync: VaultsyncFactory
) -> None:
    nobody = {"VAULTSYNC_CLUSTER": "", "VAULTSYNC_NAMESPACES": place.name}
    namespace = place.kube.get("v1", "Namespace", "kube-system")
    assert namespace is not None
    uid = namespace["metadata"]["uid"]
    data = {"a": ("used", "password"), "b": ("unused", "password")}
    place.external_secret("maker", data, annotations=SEED)
    process = vaultsync(nobody)
    place.wait_for(lambda: place.version("used") and place.version("unused"), 30)
    process.stop()  # writes the ownership
    assert cluster_of(place, "used") == cluster_of(place, "unused") == uid

    place.delete("maker")
    place.external_secret("user", {"a": ("used", "password")}, annotations=SEED)
    for path in ("used", "unused"):  # as an earlier release without VAULTSYNC_CLUSTER has written it
        maker = "maker" if path == "unused" else "user"
        change = {"vaultsync-cluster": None, "vaultsync-external-secret": f"{place.name}/{maker}"}
        where = f"/v1/secret/metadata/{place.path(path)}"
        place.vault.api.request("PATCH", where, {"custom_metadata": change}, content_type=MERGE_PATCH)
    process = vaultsync(nobody)
    place.wait_for(lambda: cluster_of(place, "used") == uid, 20)
    process.stop()
    assert cluster_of(place, "unused") == ""
    prefix = f"secret/{place.name}/"
    code, out, _ = orphans(place, "-o", "json", env={"VAULTSYNC_CLUSTER": ""})
    assert code == 0
    assert prefix not in out, "another cluster may have made it"
    code, out, _ = orphans(place, "--unnamed", "-o", "json", env={"VAULTSYNC_CLUSTER": ""})
    assert code == 0
    assert f"{prefix}unused" in [one["path"] for one in json.loads(out)["orphans"]]
