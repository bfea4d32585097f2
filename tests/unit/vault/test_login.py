"""vault/login: what a real Vault can't be made to do on cue, against a small server; the rest is the integration's."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from pydantic import SecretStr

from tests.unit.build import eventually, live, logged, path, run_ahead
from tests.unit.servers import all_that_an_error_holds, answer, http_server, unused_port
from vaultsync.config.auth import Auth, AuthConfig
from vaultsync.core.errors import NoCredential, VaultRejected, VaultUnavailable
from vaultsync.vault import login as module
from vaultsync.vault import token_api
from vaultsync.vault.api import Token
from vaultsync.vault.client import VaultClient
from vaultsync.vault.login import Login
from vaultsync.vault.token_api import parse_lease, parse_token, read_credential
from vaultsync.vault.transport import VaultAccess

LOGIN, LOOK_UP, RENEW, REVOKE = "approle/login", "token/lookup-self", "token/renew-self", "token/revoke-self"
ROLE_ID, SECRET_ID = "r0le-id", "5ecret-id"
BOTH_IDS = {"role_id": "j", "secret_id": "j"}
APPROLE = AuthConfig(Auth.APPROLE, role_id=SecretStr(ROLE_ID), secret_id=SecretStr(SECRET_ID))


class Vault:
    """Issues the tokens t1, t2 …, and knows those that are in `alive`.

    Attributes:
        asked: every path, and with which token.
        refuses: status and words of some paths' answers.
    """

    def __init__(self, *alive: str, ttl: int = 3600, renewable: bool = True) -> None:
        self.alive = set(alive)
        self.ttl = ttl
        self.renewable = renewable
        self.asked: list[tuple[str, str]] = []
        self.refuses: dict[str, tuple[int, str]] = {}

    def count(self, where: str) -> int:
        return sum(asked == where for asked, _ in self.asked)

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        where, token = request.path.removeprefix("/v1/auth/"), request.headers.get("X-Vault-Token", "")
        self.asked.append((where, token))
        if where in self.refuses:
            status, words = self.refuses[where]
            return answer(status, {"errors": [words]})
        if where == LOGIN:
            token = f"t{self.count(LOGIN)}"
            self.alive.add(token)
        elif token not in self.alive:
            return answer(403, {"errors": ["permission denied"]})
        lease = {"ttl": self.ttl, "lease_duration": self.ttl, "renewable": self.renewable, "client_token": token}
        return answer(200, {"data": lease, "auth": lease})


@asynccontextmanager
async def running(vault: Vault, method: AuthConfig = APPROLE) -> AsyncIterator[Login]:
    """One that keeps its token, once it has one."""
    async with http_server(vault) as address:
        login = Login(VaultAccess(address, timeout=2.0), method)
        task = asyncio.create_task(login.run())
        try:
            await login.tried.wait()
            yield login
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await login.close()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(module, "LONGEST_WAIT", 0.1)
    monkeypatch.setattr(module, "FILE_SECONDS", 0.02)
    monkeypatch.setattr(module, "TRUST_SECONDS", 0.1)


def text_of(token: SecretStr | None) -> str:
    return token.get_secret_value() if token else ""


def given(token: str) -> AuthConfig:
    return AuthConfig(token=SecretStr(token))


@pytest.mark.parametrize("odd", [{}, {"policies": 5, "identity_policies": None}])
def test_a_token_is_told_without_itself(odd: dict[str, object]) -> None:
    data = {
        "id": "t0ken",
        "accessor": "acc3ssor",
        "policies": ["default", "vaultsync"],
        "identity_policies": ["team", "default"],
        "ttl": 60,
        "period": 120,
        "renewable": True,
        "orphan": True,
        "num_uses": 0,
    }

    async def tell(request: web.Request) -> web.StreamResponse:
        await request.read()
        return answer(200, {"data": data | odd})

    async def test() -> None:
        async with http_server(tell) as address:
            login = Login(VaultAccess(address, timeout=2.0), given("t0ken"))
            try:
                token = await login.look_up()
            finally:
                await login.close()
            policies = () if odd else ("default", "vaultsync", "team")
            assert token == Token(policies, 60.0, True, 120.0, 0.0, True, 0)
            assert "t0ken" not in repr(token)

    run_ahead(test())


def test_many_refusals_are_one_question_and_one_login() -> None:
    async def main() -> None:
        vault = Vault()
        async with running(vault) as login:
            old = await login.first()
            await asyncio.sleep(0.15)
            vault.alive.clear()
            assert await asyncio.gather(*(login.replaces(old) for _ in range(100))) == [True] * 100
            assert text_of(login.token) == "t2"
            assert (vault.count(LOGIN), vault.count(LOOK_UP)) == (2, 2)  # the second: whether a new token may ask

    run_ahead(main())


def test_a_refusal_just_after_vault_has_told_is_asked_about_later() -> None:
    async def main() -> None:
        vault = Vault()
        async with running(vault) as login:
            old = await login.first()
            vault.alive.clear()
            assert not await login.replaces(old)
            assert vault.count(LOOK_UP) == 0
            async with asyncio.timeout(2):
                await login.until_replaced(old)

    run_ahead(main())


def test_a_refused_request_is_sent_again_with_the_new_token() -> None:
    async def main() -> None:
        vault = Vault()
        async with running(vault) as login:
            await asyncio.sleep(0.15)
            vault.alive.clear()
            client = VaultClient(login)
            with pytest.raises(VaultUnavailable, match="a response that is not Vault's"):  # so it has come that far
                await client.create(path("secret/data/a"), live("q"), {"p": SecretStr("x")})
            assert [token for where, token in vault.asked if where == "/v1/secret/data/a"] == ["t1", "t2"]
            await client.close()

    run_ahead(main())


def test_nothing_is_sent_without_a_token_but_the_question_how_vault_is() -> None:
    async def main() -> None:
        vault = Vault()
        vault.refuses[LOGIN] = (400, "invalid secret id")
        async with running(vault) as login:
            client = VaultClient(login)
            with pytest.raises(VaultUnavailable, match="not logged in"):
                await client.look(path("secret/data/a"), 2)
            assert {where for where, _ in vault.asked} == {LOGIN}
            with pytest.raises(VaultUnavailable, match="is not Vault"):  # so it was asked
                await client.health()
            assert vault.asked[-1] == ("/v1/sys/health", "")
            await client.close()

    run_ahead(main())


@pytest.mark.parametrize(
    ("status", "words"), [(503, "sealed"), (403, "denied"), (400, "invalid role ID"), (500, "odd")]
)
def test_a_login_that_fails_is_tried_again_and_told_once(status: int, words: str) -> None:
    async def main() -> None:
        vault = Vault()
        vault.refuses[LOGIN] = (status, words)
        async with running(vault) as login:
            await eventually(lambda: vault.count(LOGIN) >= 4)
            vault.refuses.clear()
            assert text_of(await login.first())

    with logged("WARNING") as lines:
        run_ahead(main())
    [line] = lines
    assert "not logged in to Vault" in line
    assert words in line
    assert SECRET_ID not in line


def test_at_rest_nothing_is_asked(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("mine\n")

    async def main() -> None:
        for method in (given("mine"), AuthConfig(token_file=str(tmp_path / "token")), APPROLE):
            vault = Vault("mine")
            async with running(vault, method):
                await asyncio.sleep(0.3)
                assert len(vault.asked) == 1

    run_ahead(main())


def test_the_end_of_a_token_is_known_and_put_off_by_each_renewal() -> None:
    async def main() -> None:
        vault = Vault(ttl=1)
        async with running(vault) as login:
            before, told = time.time(), login.ends_at
            assert told is not None
            assert told <= before + vault.ttl
            await eventually(lambda: login.ends_at != told)
            assert login.ends_at is not None
            assert login.ends_at > told
        async with running(Vault("mine", ttl=0), given("mine")) as login:
            assert login.ends_at is None

    run_ahead(main())


def test_a_token_is_renewed_at_half_of_its_life() -> None:
    async def main() -> None:
        vault = Vault(ttl=1)
        async with running(vault) as login:
            await asyncio.sleep(1.7)  # the jitter is 10 %: after three renewals, before the fourth
            assert (vault.count(LOGIN), vault.count(RENEW)) == (1, 3)
            assert text_of(login.token) == "t1"

    run_ahead(main())


@pytest.mark.parametrize(
    ("status", "words", "logs_in"),
    [
        (500, "past the max TTL, cannot renew", True),
        (400, "lease is not renewable", True),
        (403, "permission denied", True),
        (503, "Vault is sealed", False),
        (429, "too many", False),
    ],
)
def test_what_a_renewal_is_refused_for(status: int, words: str, logs_in: bool) -> None:
    async def main() -> None:
        vault = Vault(ttl=1)
        vault.refuses[RENEW] = (status, words)
        async with running(vault):
            await eventually(lambda: vault.count(LOGIN) == 2 if logs_in else vault.count(RENEW) >= 3)
            assert vault.count(LOGIN) == 1 + logs_in

    with logged("WARNING") as warned, logged() as told:
        run_ahead(main())
    assert sum(words in line for line in told) == logs_in  # that Vault is away is told elsewhere
    assert len(warned) == (logs_in and status != 500)  # each token has a longest life


def test_a_token_that_comes_near_its_longest_life_is_replaced_while_it_is_good() -> None:
    async def main() -> None:
        vault = Vault(ttl=2)
        async with running(vault) as login:
            old = await login.first()
            vault.ttl = 1  # what a renewal brings
            async with asyncio.timeout(3):
                await login.until_replaced(old)
            assert (vault.count(RENEW), vault.count(LOGIN)) == (1, 2)

    with logged("WARNING") as lines:
        run_ahead(main())
    assert lines == []


def test_a_given_token_that_is_known_again_counts_as_another() -> None:
    """Such as after a restore: whoever was refused must try again."""

    async def main() -> None:
        vault = Vault()
        async with running(vault, given("mine")) as login:
            old = await login.first()
            vault.alive.add("mine")
            async with asyncio.timeout(3):
                await login.until_replaced(old)
            assert text_of(login.token) == "mine"

    with logged("WARNING") as lines:
        run_ahead(main())
    [line] = lines
    assert "set a new VAULT_TOKEN" in line


def test_a_token_in_the_last_moment_of_its_life_is_not_taken_for_an_endless_one() -> None:
    """Vault tells of 0 seconds until it has forgotten it."""

    async def main() -> None:
        vault = Vault("given", ttl=1, renewable=False)
        async with running(vault, given("given")):
            vault.ttl = 0
            await eventually(lambda: vault.count(LOOK_UP) >= 3, 6.0)
            vault.alive.clear()
            await eventually(lambda: any("not logged in" in line for line in lines))

    with logged("WARNING") as lines:
        run_ahead(main())


def test_a_login_without_a_token_is_no_login() -> None:
    async def main() -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            return answer(200, {"auth": {"client_token": "", "mfa_requirement": {"mfa_request_id": "x"}}})

        async with http_server(handler) as address:
            login = Login(VaultAccess(address), APPROLE)
            with pytest.raises(VaultUnavailable, match="without a token on auth/approle/login"):
                await login.log_in()
            assert login.token is None
            await login.close()

    run_ahead(main())


@pytest.mark.parametrize("is_there", [True, False])
def test_what_was_issued_is_given_back_and_what_was_given_is_not(is_there: bool) -> None:
    async def main() -> None:
        for method, gives_back in ((APPROLE, True), (given("mine"), False)):
            vault = Vault("mine")
            if not is_there:
                vault.refuses[REVOKE] = (503, "sealed")
            async with running(vault, method):
                pass
            assert vault.count(REVOKE) == gives_back

    run_ahead(main())


def test_a_stop_does_not_wait_long_for_a_vault_that_hangs() -> None:
    async def main() -> None:
        vault = Vault()

        async def handler(request: web.Request) -> web.StreamResponse:
            if request.path.endswith(REVOKE):
                await asyncio.sleep(0.5)
            return await vault(request)

        async with http_server(handler) as address:
            login = Login(VaultAccess(address), APPROLE)
            await login.log_in()
            async with asyncio.timeout(0.4):
                await login.close(0.05)

    run_ahead(main())


def with_jwt(config: AuthConfig, jwt: str, folder: Path) -> AuthConfig:
    (folder / "jwt").write_text(jwt)
    return replace(config, jwt_file=str(folder / "jwt"))


@pytest.mark.parametrize(
    "method",
    [
        APPROLE,
        AuthConfig(Auth.KUBERNETES, role="r"),
        AuthConfig(Auth.JWT, role="r"),
    ],
    ids=lambda method: method.auth.value,
)
@pytest.mark.parametrize("is_there", [True, False])
def test_an_error_holds_nothing_of_what_was_sent(method: AuthConfig, is_there: bool, tmp_path: Path) -> None:
    method = with_jwt(method, SECRET_ID, tmp_path)

    async def refuse(request: web.Request) -> web.StreamResponse:
        return answer(400, {"errors": ["no"]})

    async def main() -> None:
        async with http_server(refuse) as address:
            login = Login(VaultAccess(address if is_there else f"http://127.0.0.1:{unused_port()}"), method)
            with pytest.raises(VaultRejected if is_there else VaultUnavailable) as caught:
                await login.log_in()
            held = all_that_an_error_holds(caught.value)
            assert SECRET_ID not in held
            assert ROLE_ID not in held
            await login.close()

    run_ahead(main())


@pytest.mark.parametrize(
    ("method", "where", "body"),
    [
        (
            AuthConfig(Auth.APPROLE, "a/b", role_id=SecretStr("r")),
            "/v1/auth/a/b/login",
            {"role_id": "r", "secret_id": None},
        ),
        (AuthConfig(Auth.APPROLE, role_id_file="jwt", secret_id_file="jwt"), "/v1/auth/approle/login", BOTH_IDS),
        (AuthConfig(Auth.KUBERNETES, "k8s 1", "r"), "/v1/auth/k8s 1/login", {"role": "r", "jwt": "j"}),
        (AuthConfig(Auth.KUBERNETES, role="r"), "/v1/auth/kubernetes/login", {"role": "r", "jwt": "j"}),
        (AuthConfig(Auth.JWT, "oidc", "r"), "/v1/auth/oidc/login", {"role": "r", "jwt": "j"}),
    ],
    ids=lambda value: value.auth.value if isinstance(value, AuthConfig) else "",
)
def test_mount_and_vault_namespace_count(
    method: AuthConfig, where: str, body: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = with_jwt(method, "j", tmp_path)
    monkeypatch.chdir(tmp_path)

    async def main() -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            assert (request.path, json.loads(await request.read())) == (where, body)
            assert request.headers["X-Vault-Namespace"] == "team"
            assert "X-Vault-Token" not in request.headers
            return answer(200, {"auth": {"client_token": "t", "lease_duration": 60, "renewable": True}})

        async with http_server(handler) as address:
            login = Login(VaultAccess(address, "team"), method)
            await login.log_in()
            assert text_of(login.token) == "t"
            login.token = None  # nothing to give back
            await login.close()

    run_ahead(main())


def test_without_a_file_the_jwt_is_the_service_accounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_api, "SERVICE_ACCOUNT_TOKEN", str(tmp_path / "none"))

    async def main() -> None:
        login = Login(VaultAccess(f"http://127.0.0.1:{unused_port()}"), AuthConfig(Auth.KUBERNETES, role="r"))
        with pytest.raises(NoCredential, match=str(tmp_path / "none")):
            await login.log_in()
        await login.close()

    run_ahead(main())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" \n",
        b"5ecret\nother",
        b"5ecret\x00",
        "5ecretü".encode(),
        b"\xff5ecret",
        b"5ecret\x1b[0m",
        b"5ecret" * 20_000,
    ],
)
def test_a_file_that_holds_no_credential_is_not_quoted(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(NoCredential) as caught:
        read_credential(None, str(tmp_path / "file"))
    assert str(tmp_path / "file") in str(caught.value)
    assert "5ecret" not in all_that_an_error_holds(caught.value)


@pytest.mark.parametrize("make", [lambda file: None, lambda file: file.mkdir()], ids=["missing", "a folder"])
def test_a_file_that_cannot_be_read_is_named(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "file")
    with pytest.raises(NoCredential, match="can't be read"):
        read_credential(None, str(tmp_path / "file"))


def test_a_token_file_that_comes_late_is_taken_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT", 60.0)
    monkeypatch.setattr(module, "LONGEST_WAIT", 60.0)
    file = tmp_path / "token"

    async def main() -> None:
        async with running(Vault("mine"), AuthConfig(token_file=str(file))) as login:
            assert login.token is None
            file.write_text("mine\n")
            async with asyncio.timeout(2):
                assert text_of(await login.first()) == "mine"

    run_ahead(main())


def test_it_ends_when_cancelled_at_whatever_it_does() -> None:
    async def cancelled_while(
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]], method: AuthConfig
    ) -> None:
        async with http_server(handler) as address:
            login = Login(VaultAccess(address, timeout=1.0), method)
            task = asyncio.create_task(login.run())
            await asyncio.sleep(0.05)
            task.cancel()
            async with asyncio.timeout(0.5):
                with pytest.raises(asyncio.CancelledError):
                    await task
            login.token = None
            await login.close()

    async def hangs(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.3)
        raise AssertionError("nobody waits for it")

    run_ahead(cancelled_while(Vault("mine"), given("mine")))
    run_ahead(cancelled_while(Vault(), APPROLE))
    run_ahead(cancelled_while(hangs, APPROLE))


@pytest.mark.parametrize("odd", ["abc", [1], -1, 10**400, {"a": 1}])
def test_an_answer_with_odd_numbers_is_not_vaults(odd: object) -> None:
    """It must not end the process: it is an error like any other of Vault's, and is tried again."""
    for read, name in ((parse_token, "num_uses"), (parse_token, "ttl"), (parse_lease, "lease_duration")):
        with pytest.raises(VaultUnavailable):
            read({name: odd})
