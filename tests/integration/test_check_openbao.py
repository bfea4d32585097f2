"""`check` on OpenBao: without an event stream, and in a Vault namespace."""

import json
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.integration.test_check import LISTENS, SEED, FromNothing, check, marked, receiver, run, sh
from tests.testbed.identity import POLICY
from tests.testbed.place import Place
from tests.testbed.servers import ROOT_TOKEN, OpenBao, Vault
from tests.testbed.testbed import Testbed

NO_LISTENER = {"VAULTSYNC_AUDIT_LISTEN": ""}


@pytest.fixture(scope="module")
def testbed(openbao: Testbed) -> Testbed:
    return openbao


@pytest.mark.parametrize(
    ("source", "env", "code", "mark", "words"),
    [
        ("auto", {}, 0, "ok", "an audit device that writes to 127.0.0.1:1"),
        ("auto", NO_LISTENER, 0, "warning", "has no event stream; and there is no audit device"),
        ("poll", NO_LISTENER, 0, "ok", "the poll, every 1m"),
        ("events", {}, 1, "failed", "and as VAULTSYNC_SOURCE is events"),
    ],
)
def test_the_source_and_its_reason_are_reported(
    place: Place, source: str, env: Mapping[str, str], code: int, mark: str, words: str
) -> None:
    line = check(place, code=code, env={**env, "VAULTSYNC_SOURCE": source})["source", None]
    assert line["mark"] == mark
    assert words in line["found"]
    if mark == "failed":
        assert line["fix"].startswith("set VAULTSYNC_SOURCE=auto")


def test_a_correct_setup_passes_and_openbao_accepts_the_fix(place: Place) -> None:
    """OpenBao rejects a policy with the capability `subscribe`."""
    place.external_secret("app", {"a": ("new", "password")}, annotations=SEED)
    assert marked(check(place, code=0), "failed") == set()
    place.vault.policy("vaultsync-less", 'path "auth/token/lookup-self" { capabilities = ["read"] }')
    token = place.vault.token(["vaultsync-less"], default=True)
    lines = check(place, code=1, env={"VAULT_TOKEN": token})
    line = lines["policy", "secret/"]
    assert line["mark"] == "failed"
    assert line["found"].startswith("may not create, patch, update on secret/data/")
    done = sh(place.testbed, line["fix"].replace("vault policy", "bao policy"), place.testbed.env)
    assert done.returncode == 0, done.stderr
    assert check(place, code=0, env={"VAULT_TOKEN": token})["policy", "secret/"]["mark"] == "ok"


def test_the_printed_commands_for_a_vault_namespace_make_the_check_pass(place: Place) -> None:
    root, name = place.vault.api, place.name
    root.request("POST", f"/v1/sys/namespaces/{name}")
    admin = {**place.testbed.env, "VAULT_NAMESPACE": name, "BAO_NAMESPACE": name, "VAULTSYNC_NAMESPACES": name}
    mounted = sh(place.testbed, "bao secrets enable -path=secret -version=2 kv", admin)
    assert mounted.returncode == 0, mounted.stderr
    place.store("inside", namespace=name)
    place.external_secret("app", {"a": ("new", "password")}, annotations=SEED, store="inside")
    printed = run(place.testbed, "--print-setup", env=admin)
    assert f'"${{VAULT_NAMESPACE:={name}}}"' in printed.stdout
    done = sh(
        place.testbed, printed.stdout.replace("vault policy", "bao policy").replace("vault token", "bao token"), admin
    )
    assert done.returncode == 0, done.stderr
    made = place.kube.secret_values("vaultsync-vault-token", "vaultsync")
    assert made is not None
    own = {"VAULT_NAMESPACE": name, "VAULT_TOKEN": made["token"]}
    lines = check(place, code=0, env=own)
    assert lines["policy", f"{name}:secret/"]["mark"] == "ok"
    assert marked(lines, "warning") == {"policy secret/"}, "the store in the root, where the token is not valid"
    assert lines["externalsecrets", None]["found"] == "1 reads this Vault, 1 to be seeded; none is blocked"


@pytest.mark.parametrize("method", ["kubernetes", "approle", "jwt"])
def test_the_printed_commands_set_up_the_login_to_openbao(place: Place, tmp_path: Path, method: str) -> None:
    testbed = place.testbed
    assert testbed.identity  # creates its rights in Kubernetes
    try:
        way = FromNothing(testbed, tmp_path, method, f"{place.name}/login")
        admin = {**testbed.env, **LISTENS, "VAULT_TOKEN": "", "VAULTSYNC_NAMESPACES": place.name, **way.settings}
        printed = run(testbed, "--print-setup", env=admin).stdout
        done = way.run(printed)
        assert done.returncode == 0, done.stderr
        way.mint()
        way.configure()
        lines = check(place, code=0, env={"VAULT_TOKEN": "", **way.settings})
        assert (marked(lines, "failed"), marked(lines, "warning")) == (set(), set())
        before = way.state()
        assert way.run(printed).returncode == 0
        assert way.state() == before
    finally:
        place.vault.policy(POLICY, testbed.vault_policy)


class Declared(OpenBao):
    """OpenBao with an audit device that its configuration declares, as OpenBao requires."""

    def __init__(self, work: Path, binary: Path, port: int) -> None:
        super().__init__(work, binary)
        self.audit_port = port

    def command(self) -> list[str]:
        config = self.work / "declared.json"
        options = {"address": f"{socket.gethostname()}:{self.audit_port}", "socket_type": "tcp"}
        file = {"file_path": str(self.work / "audit.log")}
        devices = [
            {"type": "file", "path": "file", "options": file},
            {"type": "socket", "path": "vaultsync", "options": options},
        ]
        config.write_text(json.dumps({"audit": devices}))
        return [*Vault.command(self), f"-config={config}"]


def test_a_device_declared_in_the_configuration_fails_too(place: Place, tmp_path: Path) -> None:
    with receiver() as port:
        declared = Declared(tmp_path, place.testbed.cli, port)
        declared.start()
        try:
            env = {"VAULT_ADDR": declared.address, "VAULT_TOKEN": ROOT_TOKEN}
            lines = check(place, code=1, env={**env, "VAULTSYNC_AUDIT_LISTEN": f"udp:127.0.0.1:{port}"})
            line = lines["audit", "vaultsync/"]
            assert line["mark"] == "failed"
            assert "if OpenBao's configuration declares the device, change that" in line["fix"]
            done = sh(
                place.testbed, line["fix"].replace("vault audit", "bao audit"), {**env, "BAO_ADDR": declared.address}
            )
            assert done.returncode != 0, "it rejects devices by its API"
        finally:
            declared.stop()
