"""Logins: each auth method, short-lived and revoked tokens, and TLS files that change.

On its own Vault with two additional TLS listeners: one requires a client certificate, the other does not. Its
kubernetes auth method uses the real API server (TokenReview).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from tests.testbed.api import ApiError, Json
from tests.testbed.certificates import Authority, MountedFolder, Pair
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.identity import NAMESPACE, POLICY, PROJECT, SERVICE_ACCOUNT
from tests.testbed.place import Place
from tests.testbed.processes import free_port
from tests.testbed.testbed import Options, Testbed
from tests.testbed.vault import VaultRoot
from tests.testbed.vaultsync import FOREIGN, VaultsyncProcess

SEED = {"vaultsync.io/seed": "true"}
PATIENCE = 30.0
SOON = 4.0
"""Seconds for an immediate reaction on a busy machine; far less than any noticeable backoff."""
AUDIENCE = "vault"
SERVER_NAME = "vault.example"
ISSUING = ("kubernetes", "approle", "jwt")
STREAMS = "subscribed to Vault's event stream"


@dataclass
class Listeners:
    """Vault's TLS listeners, and the files they read."""

    folder: MountedFolder
    plain: int
    mutual: int

    @staticmethod
    def files(authority: Authority, clients: Authority) -> dict[str, str]:
        """The CA of Vault's certificate, which is for SERVER_NAME and not for the address."""
        pair = authority.issue(SERVER_NAME)
        return {"tls.crt": pair.certificate, "tls.key": pair.key, "clients.crt": clients.pem}

    def config(self) -> Json:
        common = {"tls_cert_file": str(self.folder / "tls.crt"), "tls_key_file": str(self.folder / "tls.key")}
        mutual = {"tls_client_ca_file": str(self.folder / "clients.crt"), "tls_require_and_verify_client_cert": True}
        return {
            "listener": [
                {"tcp": {"address": f"127.0.0.1:{self.plain}", **common}},
                {"tcp": {"address": f"127.0.0.1:{self.mutual}", **common, **mutual}},
            ]
        }


@dataclass(frozen=True)
class Secure:
    """The TLS set-up of this module."""

    authority: Authority
    clients: Authority
    listeners: Listeners


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Secure:
    authority, clients = Authority("of Vault"), Authority("of clients")
    folder = MountedFolder(tmp_path_factory.mktemp("listeners") / "tls", Listeners.files(authority, clients))
    return Secure(authority, clients, Listeners(folder, free_port(), free_port()))


@pytest.fixture(scope="module")
def testbed(secure: Secure, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    """Overrides the session's."""
    config = tmp_path_factory.mktemp("vault") / "listeners.json"
    config.write_text(json.dumps(secure.listeners.config()))
    with Testbed(Options(vault_extra=(f"-config={config}",))) as made:
        yield made


# -- auth methods


def reviewer(testbed: Testbed) -> Json:
    """The configuration of the kubernetes method for a Vault outside of the cluster."""
    kube, server = testbed.kube, testbed.kube_apiserver
    account = {"name": "vault", "namespace": NAMESPACE}
    kube.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    kube.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "vault-reviews-tokens"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "system:auth-delegator",
            },
            "subjects": [{"kind": "ServiceAccount", **account}],
        }
    )
    return {
        "kubernetes_host": server.address,
        "kubernetes_ca_cert": server.ca.read_text(),
        "token_reviewer_jwt": kube.token_for("vault", NAMESPACE),
        "disable_local_ca_jwt": True,
    }


def signers(testbed: Testbed) -> Json:
    """The configuration of the jwt method: the signing keys of ServiceAccount tokens."""
    key = load_pem_private_key(testbed.kube_apiserver.key.read_bytes(), None).public_key()
    public = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return {"jwt_validation_pubkeys": [public]}


class Ways:
    """The auth methods of Vault, each with a role `vaultsync`, and vaultsync's settings for them."""

    def __init__(self, testbed: Testbed, folder: Path) -> None:
        self.testbed = testbed
        self.folder = folder
        self.secrets: list[str] = []
        """Credentials that must not be logged."""

    @property
    def root(self) -> VaultRoot:
        return self.testbed.vault_root

    def enable(self) -> None:
        """Enables all methods."""
        assert self.testbed.identity  # creates policy and ServiceAccount
        self.enable_kubernetes()
        for way in ("approle", "jwt"):
            self.root.api.request("POST", f"/v1/sys/auth/{way}", {"type": way})
        self.root.api.request("POST", "/v1/auth/jwt/config", signers(self.testbed))
        for way in ("approle", "jwt"):
            self.role(way)

    def enable_kubernetes(self) -> None:
        self.root.api.request("POST", "/v1/sys/auth/kubernetes", {"type": "kubernetes"})
        self.root.api.request("POST", "/v1/auth/kubernetes/config", reviewer(self.testbed))
        self.role("kubernetes")

    def role(self, way: str, name: str = "vaultsync", **fields: object) -> None:
        """A role with vaultsync's policy; `fields` set the lifetime of its tokens."""
        account = {"bound_service_account_names": SERVICE_ACCOUNT, "bound_service_account_namespaces": NAMESPACE}
        subject = f"system:serviceaccount:{NAMESPACE}:{SERVICE_ACCOUNT}"
        own: dict[str, Json] = {
            "kubernetes": {**account, "audience": AUDIENCE},
            "approle": {},
            "jwt": {
                "role_type": "jwt",
                "user_claim": "sub",
                "bound_audiences": [AUDIENCE],
                "bound_subject": subject,
            },
        }
        common = {"token_policies": [POLICY], "token_no_default_policy": True, "token_ttl": "1h", **fields}
        self.root.api.request("POST", f"/v1/auth/{way}/role/{name}", {**own[way], **common})

    def file(self, name: str, text: str) -> str:
        """A file that another process maintains, ending in a newline."""
        self.secrets.append(text)
        self.folder.mkdir(exist_ok=True)
        (self.folder / name).write_text(text + "\n")
        return str(self.folder / name)

    def env(self, way: str, role: str = "vaultsync") -> dict[str, str]:
        """The settings for this auth method."""
        given = {"VAULT_TOKEN": "", "VAULTSYNC_VAULT_AUTH": way}
        if way == "approle":
            path = f"/v1/auth/approle/role/{role}"
            role_id = self.root.api.request("GET", f"{path}/role-id")["data"]["role_id"]
            secret_id = self.root.api.request("POST", f"{path}/secret-id", {})["data"]["secret_id"]
            given["VAULTSYNC_VAULT_ROLE_ID"] = role_id
            given["VAULTSYNC_VAULT_SECRET_ID_FILE"] = self.file("secret-id", secret_id)
            return given
        jwt = self.testbed.kube.token_for(SERVICE_ACCOUNT, NAMESPACE, 600, [AUDIENCE])
        return given | {"VAULTSYNC_VAULT_ROLE": role, "VAULTSYNC_VAULT_JWT_FILE": self.file("jwt", jwt)}

    def tokens(self, way: str) -> list[Json]:
        """Vault's entries for the valid tokens that a method has issued."""
        found = []
        for accessor in self.root.api.request("GET", "/v1/auth/token/accessors?list=true")["data"]["keys"]:
            try:
                found_token = self.root.api.request("POST", "/v1/auth/token/lookup-accessor", {"accessor": accessor})
            except ApiError as error:
                if error.status not in (403, 404):  # it has expired in the meantime
                    raise
                continue
            if found_token["data"]["path"] == f"auth/{way}/login":
                found.append(found_token["data"])
        return found

    def revoke_all(self, way: str) -> int:
        """Revokes every token that a method has issued; returns how many."""
        found = self.tokens(way)
        for token in found:
            self.root.api.request("POST", "/v1/auth/token/revoke-accessor", {"accessor": token["accessor"]})
        return len(found)

    def assert_nothing_secret_in(self, output: str) -> None:
        assert not re.search(r"hv[sb]\.\w", output)
        assert "eyJ" not in output  # how every JWT begins
        for secret in self.secrets:
            assert secret not in output


@pytest.fixture(scope="module")
def enabled(testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Ways:
    made = Ways(testbed, tmp_path_factory.mktemp("ways"))
    made.enable()
    return made


@pytest.fixture
def ways(enabled: Ways, tmp_path: Path) -> Ways:
    """With the test's own files."""
    enabled.folder = tmp_path / "credentials"
    return enabled


def seed(place: Place, *names: str, timeout: float = PATIENCE) -> None:
    """Creates ExternalSecrets with seeding, and waits for their Secrets."""
    for name in names:
        place.external_secret(name, {"p": (name, "password")}, annotations=SEED)
    for name in names:
        place.wait_for_secret(name, timeout)


def wait_until_streaming(place: Place, process: VaultsyncProcess, times: int = 1, timeout: float = PATIENCE) -> None:
    place.wait_for(lambda: process.output().count(STREAMS) >= times, timeout, f"subscribed {times} times")


def wait_until_logged(place: Place, process: VaultsyncProcess, *words: str, timeout: float = PATIENCE) -> str:
    """Waits for a line of the log with all these words."""

    def probe() -> str:
        lines = process.output().splitlines()
        return next((line for line in lines if all(word in line for word in words)), "")

    return place.wait_for(probe, timeout, f"the log says {words}")


def command(testbed: Testbed, env: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs vaultsync to its end."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return subprocess.run(
        [sys.executable, "-m", "vaultsync", *arguments],
        env={**own, **testbed.identity.env, **env},
        cwd=PROJECT,
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("way", ISSUING)
def test_each_way_to_log_in(place: Place, vaultsync: VaultsyncFactory, ways: Ways, way: str) -> None:
    process = vaultsync(ways.env(way), audit=False)
    seed(place, "app")
    wait_until_streaming(place, process)
    place.put("app", password="a person's")
    place.wait_for_secret("app", SOON, p="a person's")
    [token] = ways.tokens(way)
    assert token["policies"] == [POLICY]
    assert process.stop() == 0
    assert ways.tokens(way) == []  # revoked at the end
    ways.assert_nothing_secret_in(process.output())
    assert "WARNING" not in process.output()


def test_openbao_accepts_the_same_logins(openbao: Testbed, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    ways = Ways(openbao, tmp_path / "credentials")
    ways.enable()
    started = VaultsyncFactory(openbao)
    request.addfinalizer(started.stop)
    with Place(openbao) as place:
        for way in ISSUING:
            process = started(ways.env(way))
            seed(place, way)
            assert ways.revoke_all(way) == 1
            seed(place, f"{way}-again")
            assert len(ways.tokens(way)) == 1
            assert process.stop() == 0
            assert ways.tokens(way) == []
            ways.assert_nothing_secret_in(process.output())


@pytest.mark.parametrize("way", ISSUING)
def test_commands_log_in_and_revoke_their_token(place: Place, ways: Ways, way: str) -> None:
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    env = {**ways.env(way), "VAULTSYNC_NAMESPACES": place.namespace}
    explained = command(place.testbed, env, "explain", f"{place.namespace}/app")
    assert (explained.returncode, explained.stderr) == (0, "")
    planned = command(place.testbed, env, "plan", "-o", "json")
    assert (planned.returncode, planned.stderr) == (2, "")
    assert ways.tokens(way) == []
    ways.assert_nothing_secret_in(explained.stdout + planned.stdout)


def test_a_command_that_may_not_log_in_says_so_on_one_line(place: Place, ways: Ways) -> None:
    ended = command(place.testbed, ways.env("kubernetes") | {"VAULTSYNC_VAULT_ROLE": "nobody"}, "plan")
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    assert "on auth/kubernetes/login" in ended.stderr
    ways.assert_nothing_secret_in(ended.stderr)


def test_the_policy_is_printed_with_every_auth_method(place: Place, ways: Ways) -> None:
    for way in ISSUING:
        assert command(place.testbed, ways.env(way), "policy").returncode == 0


def test_a_refused_login_is_logged_once_and_retried(place: Place, vaultsync: VaultsyncFactory, ways: Ways) -> None:
    process = vaultsync({**ways.env("kubernetes"), "VAULTSYNC_VAULT_ROLE": "late"})
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    wait_until_logged(place, process, "not logged in to Vault", "on auth/kubernetes/login")
    time.sleep(2)
    lines = process.output().splitlines()
    assert sum("on auth/kubernetes/login" in line for line in lines) == 1
    assert sum("Vault is unavailable" in line for line in lines) <= 1
    ways.role("kubernetes", "late")
    place.wait_for_secret("app", PATIENCE)
    ways.assert_nothing_secret_in(process.output())


def test_a_missing_file_is_waited_for(place: Place, vaultsync: VaultsyncFactory, ways: Ways) -> None:
    env = ways.env("kubernetes")
    file = Path(env["VAULTSYNC_VAULT_JWT_FILE"])
    jwt = file.read_text()
    file.unlink()
    process = vaultsync(env)
    wait_until_logged(place, process, "not logged in to Vault", str(file))
    ways.file("jwt", jwt)
    seed(place, "app")


# -- tokens that expire


@pytest.mark.parametrize(
    "life",
    [
        {"token_ttl": "2s", "token_max_ttl": "5s"},  # renewed, then replaced
        {"token_ttl": "3s", "token_max_ttl": "3s"},  # can't be renewed beyond max_ttl
        {"token_ttl": "3s", "token_type": "batch"},  # can't be renewed
        {"token_period": "2s"},  # renewed without end
    ],
    ids=lambda life: " ".join(f"{name}={value}" for name, value in life.items()),
)
def test_work_continues_over_many_short_token_lifetimes(
    place: Place, vaultsync: VaultsyncFactory, ways: Ways, life: dict[str, str]
) -> None:
    ways.role("kubernetes", place.name, **life)
    process = vaultsync(ways.env("kubernetes", place.name))
    started, number = time.monotonic(), 0
    while time.monotonic() - started < 11:
        number += 1
        seed(place, f"app{number}")
        place.put("app1", password=f"a person's {number}")
        place.wait_for_secret("app1", PATIENCE, p=f"a person's {number}")
        time.sleep(0.3)
    logins = process.output().count("logged in to Vault")
    assert logins == 1 if "token_period" in life else logins >= 3
    assert process.output().count(STREAMS) == logins
    assert "WARNING" not in process.output()  # no pass ever failed
    assert not any(reason == "SeedFailed" for name in ("app1", f"app{number}") for reason, _ in place.events(name))
    ways.assert_nothing_secret_in(process.output())


def test_a_token_revoked_during_work_is_replaced(place: Place, vaultsync: VaultsyncFactory, ways: Ways) -> None:
    process = vaultsync({**ways.env("approle"), "VAULTSYNC_SEED_BUDGET": "0"})
    seed(place, "first")
    wait_until_streaming(place, process)
    time.sleep(5)  # Vault has just confirmed the token: it would not be checked again
    for number in range(200):
        place.external_secret(f"app{number}", {"p": (f"app{number}", "password")}, annotations=SEED)
        if number == 60:
            assert ways.revoke_all("approle") == 1
    for number in range(200):
        place.wait_for_secret(f"app{number}", PATIENCE)
        assert place.version(f"app{number}") == 1
    wait_until_logged(place, process, "Vault no longer accepts the token")
    wait_until_streaming(place, process, 2)  # the stream is connected again
    place.put("first", password="a person's")
    place.wait_for_secret("first", SOON, p="a person's")
    failed = [name for name in (f"app{n}" for n in range(200)) if ("SeedFailed" in dict(place.events(name)))]
    assert failed == []  # no failure was reported on an ExternalSecret
    assert len(ways.tokens("approle")) == 1
    ways.assert_nothing_secret_in(process.output())


def test_a_token_revoked_at_rest_is_detected_at_the_renewal(
    place: Place, vaultsync: VaultsyncFactory, ways: Ways
) -> None:
    """No earlier request is refused: there is nothing to create, and no ownership to write later.

    The renewal comes before login.TRUST_SECONDS, after which the canary's refusal would replace the token, too.
    Vault's event stream no longer delivers events, and is not closed.
    """
    ways.role("kubernetes", place.name, token_ttl="6s")
    place.put("app", password="given")
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    place.wait_for_secret("app", PATIENCE, p="given")
    process = vaultsync(ways.env("kubernetes", place.name), audit=False)
    wait_until_streaming(place, process)
    assert ways.revoke_all("kubernetes") == 1
    wait_until_logged(place, process, "the Vault token is not renewed, but replaced", timeout=5.5 + SOON)
    wait_until_streaming(place, process, 2, timeout=SOON)
    place.put("app", password="a person's")
    place.wait_for_secret("app", SOON, p="a person's")


def test_a_token_that_expires_while_vault_is_down_is_replaced(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """On a Vault with persistent storage; it is killed while values are created."""
    with Testbed(Options(vault_storage="file")) as testbed, Place(testbed) as place:
        ways = Ways(testbed, tmp_path / "credentials")
        ways.enable()
        ways.role("kubernetes", "short", token_ttl="2s", token_max_ttl="4s")
        started = VaultsyncFactory(testbed)
        request.addfinalizer(started.stop)
        process = started(ways.env("kubernetes", "short"), audit=False)
        seed(place, "first")
        wait_until_streaming(place, process)
        names = [f"app{number}" for number in range(40)]
        for name in names:
            place.external_secret(name, {"p": (name, "password")}, annotations=SEED)
            if name == "app20":
                testbed.vault.kill()
        time.sleep(6)
        logins = process.output().count("logged in to Vault")
        testbed.vault.start()
        for name in names:
            place.wait_for_secret(name, 2 * PATIENCE)
            assert place.version(name) == 1
        place.put("first", password="a person's")
        place.wait_for_secret("first", PATIENCE, p="a person's")
        assert process.output().count("logged in to Vault") > logins
        assert process.stop() == 0
        ways.assert_nothing_secret_in(process.output())


def test_refusals_of_a_policy_do_not_question_the_token_forever(
    place: Place, vaultsync: VaultsyncFactory, ways: Ways
) -> None:
    """The token is checked at Vault occasionally, not after each refusal; and it is not replaced."""
    ways.root.policy("none-of-it", 'path "auth/token/lookup-self" { capabilities = ["read"] }')
    ways.role("approle", "none-of-it", token_policies=["none-of-it"])
    process = vaultsync(ways.env("approle", "none-of-it"), audit=False)
    process.wait_until_ready(PATIENCE)
    ways.root.audit("counted", "file", file_path=str(ways.folder / "audit.log"))
    try:
        for number in range(30):
            place.external_secret(f"app{number}", {"p": (f"app{number}", "password")}, annotations=SEED)
        place.wait_until_reported("app29", "Vault returned 403", "permission denied")
        time.sleep(3)
    finally:
        ways.root.unaudit("counted")
    lines = [json.loads(line) for line in (ways.folder / "audit.log").read_text().splitlines()]
    asked = [line["request"]["path"] for line in lines if line["type"] == "request"]
    assert len([path for path in asked if "subkeys" in path]) >= 60
    assert asked.count("auth/token/lookup-self") <= 3
    assert process.output().count("logged in to Vault") == 1


def test_a_policy_without_lookup_does_not_cause_a_login_loop(
    place: Place, vaultsync: VaultsyncFactory, ways: Ways
) -> None:
    ways.root.policy("blind", 'path "secret/subkeys/*" { capabilities = ["read"] }')
    ways.role("approle", "blind", token_policies=["blind"])
    process = vaultsync(ways.env("approle", "blind"))
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    wait_until_logged(place, process, "the policy lacks read on auth/token/lookup-self")
    time.sleep(8)
    assert process.output().count("logged in to Vault") == 2


# -- a token from a file


def test_a_changed_token_file_is_read_again(
    place: Place, vaultsync: VaultsyncFactory, ways: Ways, tmp_path: Path
) -> None:
    """Like a mounted Secret; the old token is revoked after vaultsync has read the new one, or before."""
    tokens = [ways.root.token([POLICY]) for _ in range(3)]
    folder = MountedFolder(tmp_path / "mounted", {"token": tokens[0] + "\n"})
    process = vaultsync({"VAULT_TOKEN": "", "VAULT_TOKEN_FILE": str(folder / "token")})
    seed(place, "first")
    wait_until_streaming(place, process)
    folder.replace({"token": tokens[1] + "\n"})
    wait_until_logged(place, process, "the token in VAULT_TOKEN_FILE is used")
    wait_until_streaming(place, process, 2)
    ways.root.revoke(tokens[0])
    seed(place, "second")
    assert "WARNING" not in process.output()
    folder.replace({"token": tokens[2] + "\n"})
    ways.root.revoke(tokens[1])
    seed(place, "third", timeout=SOON)
    wait_until_streaming(place, process, 3)
    place.put("first", password="a person's")
    place.wait_for_secret("first", SOON, p="a person's")
    assert process.stop() == 0
    assert ways.root.api.request("POST", "/v1/auth/token/lookup", {"token": tokens[2]})  # vaultsync must not revoke it
    assert not any(token in process.output() for token in tokens)


def test_a_wrong_token_in_the_file_does_not_replace_the_valid_one(
    place: Place, vaultsync: VaultsyncFactory, ways: Ways, tmp_path: Path
) -> None:
    token = ways.root.token([POLICY])
    folder = MountedFolder(tmp_path / "mounted", {"token": token})
    process = vaultsync({"VAULT_TOKEN": "", "VAULT_TOKEN_FILE": str(folder / "token")})
    seed(place, "first")
    folder.replace({"token": "hvs.none-of-vaults"})
    wait_until_logged(place, process, "no new token from Vault", "403")
    folder.replace({"token": ""})
    seed(place, "second")
    assert process.output().count("no new token from Vault") == 1
    ways.assert_nothing_secret_in(process.output())


def test_a_revoked_token_of_a_file_is_replaced_by_the_next(
    place: Place, vaultsync: VaultsyncFactory, ways: Ways, tmp_path: Path
) -> None:
    tokens = [ways.root.token([POLICY]) for _ in range(2)]
    folder = MountedFolder(tmp_path / "mounted", {"token": tokens[0]})
    process = vaultsync({"VAULT_TOKEN": "", "VAULT_TOKEN_FILE": str(folder / "token")})
    seed(place, "first")
    wait_until_streaming(place, process)
    ways.root.revoke(tokens[0])
    place.external_secret("second", {"p": ("second", "password")}, annotations=SEED)
    wait_until_logged(place, process, "not logged in to Vault", "write a new one into its file")
    place.wait_until_reported("second", "Vault returned 403")
    folder.replace({"token": tokens[1]})
    place.wait_for_secret("second", 5 + SOON)
    place.wait_until_healthy("second")
    wait_until_streaming(place, process, 2)


def test_a_token_that_will_expire_is_logged_with_the_time_and_the_fix(
    place: Place, vaultsync: VaultsyncFactory, ways: Ways
) -> None:
    body = {"policies": [POLICY], "no_default_policy": True, "ttl": "15s", "renewable": False}
    token = ways.root.api.request("POST", "/v1/auth/token/create", body)["auth"]["client_token"]
    process = vaultsync({"VAULT_TOKEN": token})
    said = wait_until_logged(place, process, "the Vault token expires")
    assert "set a new VAULT_TOKEN and restart vaultsync" in said
    wait_until_logged(place, process, "not logged in to Vault", "the token is revoked or expired")
    assert token not in process.output()


# -- TLS


@dataclass(frozen=True)
class Client:
    """vaultsync's TLS files, in a mounted folder."""

    folder: MountedFolder
    address: str

    @staticmethod
    def files(authority: Authority, pair: Pair) -> dict[str, str]:
        return {"ca.crt": authority.pem, "tls.crt": pair.certificate, "tls.key": pair.key}

    def env(self, testbed: Testbed) -> dict[str, str]:
        return {
            "VAULT_ADDR": self.address,
            "VAULT_CACERT": str(self.folder / "ca.crt"),
            "VAULT_CLIENT_CERT": str(self.folder / "tls.crt"),
            "VAULT_CLIENT_KEY": str(self.folder / "tls.key"),
            "VAULT_TLS_SERVER_NAME": SERVER_NAME,
            "VAULTSYNC_STORE_SERVERS": testbed.vault.address,
        }


@pytest.fixture
def client(secure: Secure, tmp_path: Path) -> Client:
    """Files that the listener with client certificates accepts."""
    files = Client.files(secure.authority, secure.clients.issue("vaultsync"))
    return Client(MountedFolder(tmp_path / "tls", files), f"https://127.0.0.1:{secure.listeners.mutual}")


def without(env: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in env.items() if name not in names}


def test_with_a_client_certificate_all_traffic_is_tls(
    place: Place, vaultsync: VaultsyncFactory, ways: Ways, client: Client
) -> None:
    process = vaultsync({**ways.env("kubernetes"), **client.env(place.testbed)}, audit=False)
    seed(place, "app")
    wait_until_streaming(place, process)
    place.put("app", password="a person's")
    place.wait_for_secret("app", SOON, p="a person's")
    assert "WARNING" not in process.output()


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        (("VAULT_CACERT",), "CERTIFICATE_VERIFY_FAILED"),
        (("VAULT_TLS_SERVER_NAME",), "CERTIFICATE_VERIFY_FAILED"),
        (("VAULT_CLIENT_CERT", "VAULT_CLIENT_KEY"), "CERTIFICATE_REQUIRED"),
    ],
    ids=str,
)
def test_without_a_part_of_the_certificate_nothing_is_sent_and_the_log_says_why(
    place: Place, vaultsync: VaultsyncFactory, client: Client, left_out: tuple[str, ...], said: str
) -> None:
    process = vaultsync(without(client.env(place.testbed), *left_out), audit=False)
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    wait_until_logged(place, process, "Vault is unavailable", said)
    wait_until_logged(place, process, "no event stream from Vault")
    assert place.read("app") is None


def test_certificates_change_under_a_running_vaultsync(
    place: Place, vaultsync: VaultsyncFactory, ways: Ways, secure: Secure, client: Client, tmp_path: Path
) -> None:
    """Like cert-manager renews a client certificate in a mounted Secret; first only half of the pair."""
    process = vaultsync(client.env(place.testbed), audit=False)
    seed(place, "first")
    wait_until_streaming(place, process)
    log = tmp_path / "audit.log"
    ways.root.audit("serials", "file", file_path=str(log))

    def serials() -> set[str]:
        """The client certificates of the reads since the last call."""
        lines = [json.loads(line)["request"] for line in log.read_text().splitlines()]
        log.write_text("")
        place.testbed.vault.process.hang_up()  # it opens its audit files again
        return {line["client_certificate_serial_number"] for line in lines if "subkeys" in line["path"]}

    try:
        old, new = secure.clients.issue("old"), secure.clients.issue("new")
        client.folder.replace(Client.files(secure.authority, old))
        seed(place, "second")
        assert serials() == {old.serial}
        client.folder.replace({**Client.files(secure.authority, old), "tls.crt": new.certificate})
        seed(place, "third")
        wait_until_logged(place, process, "the TLS files for Vault are unusable", "KEY_VALUES_MISMATCH")
        assert serials() == {old.serial}
        client.folder.replace(Client.files(secure.authority, new))
        seed(place, "fourth")
        assert serials() == {new.serial}
    finally:
        ways.root.unaudit("serials")
    assert process.output().count("the TLS files for Vault are unusable") == 1
    assert "Vault is unavailable" not in process.output()
    assert "pass failed" not in process.output()


def test_vaults_own_authority_changes(
    place: Place, vaultsync: VaultsyncFactory, secure: Secure, client: Client, testbed: Testbed
) -> None:
    """The new CA reaches vaultsync after Vault: until then vaultsync does not trust it."""
    process = vaultsync(client.env(testbed), audit=False)
    seed(place, "first")
    wait_until_streaming(place, process)
    other = Authority("another")
    secure.listeners.folder.replace(Listeners.files(other, secure.clients))
    try:
        testbed.vault.process.hang_up()
        testbed.restart_vault_empty()
        wait_until_logged(place, process, "no event stream from Vault", "CERTIFICATE_VERIFY_FAILED")
        client.folder.replace(Client.files(other, secure.clients.issue("vaultsync")))
        wait_until_streaming(place, process, 2)
        seed(place, "second")
    finally:
        secure.listeners.folder.replace(Listeners.files(secure.authority, secure.clients))
        testbed.restart_vault_empty()
