"""vault/client: what each answer of Vault becomes, and that no value or token leaves by an error.

Against a small local server that answers as real ones seldom do; the real Vault is in tests/integration.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from tests.unit.build import V1, V2, Json, gone, live, logged, login, path, run_ahead
from tests.unit.servers import all_that_an_error_holds, answer, http_server, raw_server, unused_port
from vaultsync.config.auth import AuthConfig
from vaultsync.config.connection import TlsFiles
from vaultsync.core.callbacks import CountRequest, ignore
from vaultsync.core.errors import (
    VaultDenied,
    VaultRejected,
    VaultRequestFailed,
    VaultsyncError,
    VaultThrottled,
    VaultUnavailable,
    WriteConflict,
)
from vaultsync.core.paths import FindPrefix, VaultPath
from vaultsync.core.vault_state import SecretState
from vaultsync.vault.client import OLD_SECONDS, VaultClient
from vaultsync.vault.login import Login
from vaultsync.vault.tls import Tls
from vaultsync.vault.transport import VaultAccess

A = path("secret/data/a")
MOUNTS = {"secret/": "2", "team/kv/": "2", "kv1/": "1"}
WORKS = {"initialized": True, "sealed": False, "standby": False, "version": "1.15.1"}
VALUE, TOKEN = "5ecret-value", "t0ken"


class Counted(Counter[tuple[str, int]]):
    """Requests, by method and status."""

    def count(self, method: str, status: int) -> None:
        self[method, status] += 1


def with_client(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    test: Callable[[VaultClient], Awaitable[Any]],
    timeout: float = 5.0,
    count_request: CountRequest = ignore,
) -> None:
    async def main() -> None:
        async with http_server(handler) as address:
            client = VaultClient(login(address, timeout=timeout), None, count_request)
            try:
                await test(client)
            finally:
                await client.close()

    run_ahead(main())


def vault(respond: Callable[[web.Request], web.Response]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A server that knows its mounts and answers the rest by the function."""

    async def handler(request: web.Request) -> web.StreamResponse:
        await request.read()
        if request.path == "/v1/sys/health":
            return answer(200, WORKS)
        mount = request.path.removeprefix("/v1/sys/internal/ui/mounts/")
        if mount != request.path:
            for name, version in MOUNTS.items():
                if mount.startswith(name):
                    return answer(200, {"data": {"path": name, "type": "kv", "options": {"version": version}}})
            return answer(403, {"errors": ["preflight capability check returned 403"]})
        return respond(request)

    return handler


def test_its_clock_is_the_one_of_vaults_last_response() -> None:
    """A write whose response is lost is recognised by Vault's time of it."""
    ahead = 0.0

    def respond(request: web.Request) -> web.Response:
        found = answer(404, {"errors": []})
        found.headers["Date"] = format_datetime(datetime.now(UTC) + timedelta(seconds=ahead), usegmt=True)
        return found

    async def test(client: VaultClient) -> None:
        nonlocal ahead
        for ahead in (3600.0, -90.0, 0.0):
            await client.look(A, 2)
            found = (client.clock() - datetime.now(UTC)).total_seconds()
            assert abs(found - ahead) < 2

    with_client(vault(respond), test)


def test_requests_are_counted() -> None:
    said = [200, 404, 403, 503, 500]
    counted = Counted()

    async def test(client: VaultClient) -> None:
        for _ in said:
            with suppress(VaultsyncError):
                await client.look(A, 2)
            assert client.outage == "", "Vault itself works"
        assert (
            counted
            == {
                ("GET", 200): 3,  # the mount, and sys/health once for both failures
                **{("GET", status): 1 for status in said[1:]},
            }
        )

    answers = [answer(status, SUBKEYS if status == 200 else {"errors": []}) for status in said]
    known = answer(200, {"data": {"ttl": 0}})
    with_client(
        vault(lambda request: known if "lookup-self" in request.path else answers.pop(0)),
        test,
        count_request=counted.count,
    )


def test_no_answer_is_counted_as_none() -> None:
    async def main() -> None:
        counted = Counted()
        client = VaultClient(login(f"http://127.0.0.1:{unused_port()}"), None, counted.count)
        with pytest.raises(VaultUnavailable):
            await client.look(A, 2)
        assert counted == {("GET", 0): 2}  # and sys/health
        assert client.outage == "no answer"
        await client.close()

    run_ahead(main())


SUBKEYS = {
    "data": {
        "subkeys": {"a": None, "b": {"c": None}},
        "metadata": {"version": 3, "created_time": "2025-06-01T12:00:00.123456789Z", "custom_metadata": {"x": "y"}},
    }
}


def test_a_look_at_a_v2_path_asks_for_names_only() -> None:
    asked = []

    def respond(request: web.Request) -> web.Response:
        asked.append((request.method, request.path))
        return answer(200, SUBKEYS)

    async def test(client: VaultClient) -> None:
        state = await client.look(path("team/kv/data/a b/c"), 2)
        assert (state.exists, state.version, state.subkeys) == (True, 3, {"a": None, "b": {"c": None}})
        assert state.written is not None
        assert state.metadata_digest
        assert asked == [("GET", "/v1/team/kv/subkeys/a b/c")]

    with_client(vault(respond), test)


@pytest.mark.parametrize(
    ("document", "version"),
    [
        ({"errors": []}, 0),
        ({"data": {"subkeys": None, "metadata": {"version": 4, "deletion_time": "x", "destroyed": False}}}, 4),
    ],
)
def test_missing_and_deleted(document: Json, version: int) -> None:
    async def test(client: VaultClient) -> None:
        state = await client.look(A, 2)
        assert (state.exists, state.version) == (False, version)

    with_client(vault(lambda _: answer(404, document)), test)


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (400, {"errors": ["bad request"]}, VaultRejected, ["400", "bad request", "secret/subkeys/a"]),
        (401, {"errors": ["no"]}, VaultDenied, ["401"]),
        (403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}, VaultDenied, ["403: permission denied on"]),
        (404, {"errors": ["no handler for route"]}, VaultRejected, ["404", "no handler"]),
        (405, {"errors": ["unsupported operation"]}, VaultRejected, ["405", "unsupported"]),
        (412, {"errors": ["required index state not present"]}, VaultRequestFailed, ["required index"]),
        (429, {"errors": ["request path is rate limited"]}, VaultThrottled, ["429"]),
        (500, {"errors": ["internal error"]}, VaultRequestFailed, ["500"]),
        (502, {"errors": []}, VaultRequestFailed, ["502"]),
        (503, {"errors": ["Vault is sealed"]}, VaultRequestFailed, ["503", "sealed"]),
        (500, [], VaultRequestFailed, []),
        (500, {"errors": 5}, VaultRequestFailed, []),
        (500, {"errors": [{"a": 1}]}, VaultRequestFailed, []),
        (500, {"errors": "text"}, VaultRequestFailed, ["text"]),
        (200, {}, VaultRequestFailed, []),
        (200, [], VaultRequestFailed, []),
    ],
)
def test_what_an_answer_means(status: int, body: object, kind: type[VaultsyncError], words: list[str]) -> None:
    async def test(client: VaultClient) -> None:
        with pytest.raises(VaultsyncError) as caught:
            await client.look(A, 2)
        assert type(caught.value) is kind
        assert all(word in str(caught.value) for word in words)

    with_client(vault(lambda _: answer(status, body)), test)


@pytest.mark.parametrize("status", [200, 403, 404, 500, 503])
def test_what_is_no_json_is_no_answer_of_vault(status: int) -> None:
    """Such as a proxy's page: it must never be taken for a path that is missing."""

    async def test(client: VaultClient) -> None:
        with pytest.raises((VaultRequestFailed, VaultDenied)):
            await client.look(A, 2)

    with_client(vault(lambda _: web.Response(status=status, text="<html>", content_type="text/html")), test)


def test_a_mount_that_is_no_kv_mount_is_never_written() -> None:
    written = []

    async def handler(request: web.Request) -> web.StreamResponse:
        if "/ui/mounts/" in request.path:
            return answer(200, {"data": {"path": "database/", "type": "database", "options": None}})
        written.append(request.method)
        return answer(404, {"errors": []})

    async def test(client: VaultClient) -> None:
        with pytest.raises(VaultRejected):
            await client.look(path("database/roles/a"), 1)
        assert "POST" not in written

    with_client(handler, test)


def test_without_the_right_to_ask_for_mounts_they_are_guessed() -> None:
    asked = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        if "/ui/mounts/" in request.path:
            return answer(403, {"errors": ["denied"]})
        return answer(200, SUBKEYS)

    async def test(client: VaultClient) -> None:
        assert (await client.look(path("team/kv/data/a"), 2)).mount.path == "team/kv/"
        assert asked[-1] == "/v1/team/kv/subkeys/a"

    with_client(handler, test)


def test_a_mount_is_asked_for_once_until_it_is_forgotten() -> None:
    asked = []
    inner = vault(lambda _: answer(200, SUBKEYS))

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append("/ui/mounts/" in request.path)
        return await inner(request)

    async def test(client: VaultClient) -> None:
        for _ in range(3):
            await client.look(A, 2)
        assert sum(asked) == 1
        client.forget_mounts()
        await client.look(A, 2)
        assert sum(asked) == 2

    with_client(handler, test)


# -- Vault namespaces: OpenBao's own are in tests/integration/test_vault_namespaces.py

NAMESPACES = {
    "": {"secret/": "kv_1", "team/kv/": "kv_2"},
    "a": {"secret/": "kv_3", "team/kv/": "kv_4"},
    "a/b": {"secret/": "kv_5"},
}


async def enterprise(request: web.Request) -> web.StreamResponse:
    """A Vault that takes a namespace in the header, in the path or half in each."""
    where = request.headers.get("X-Vault-Namespace", "")
    asked = request.path.removeprefix("/v1/sys/internal/ui/mounts/")
    if asked == request.path:
        return answer(200, SUBKEYS)
    if where not in NAMESPACES:
        return answer(403, {"errors": ["namespace not found"]})
    full = f"{where}/{asked}" if where else asked
    for namespace in sorted(NAMESPACES, key=len, reverse=True):
        within = full.removeprefix(f"{namespace}/") if namespace else full
        for mount, accessor in NAMESPACES[namespace].items():
            if within.startswith(mount) and (within != full or not namespace):
                told = mount if namespace == where else f"{namespace}/{mount}"
                data = {"path": told, "accessor": accessor, "type": "kv", "options": {"version": "2"}}
                return answer(200, {"data": data})
    return answer(403, {"errors": ["preflight capability check returned 403"]})


@pytest.mark.parametrize(
    ("namespace", "where"),
    [("", "secret/data/x"), ("", "team/kv/data/x"), ("a", "team/kv/data/x"), ("a/b", "secret/data/x")],
)
def test_a_mount_is_found_in_its_vault_namespace(namespace: str, where: str) -> None:
    async def test(client: VaultClient) -> None:
        found = await client.look(VaultPath(namespace, where), 2)
        assert found.mount.path == where.removesuffix("data/x")

    with_client(enterprise, test)


@pytest.mark.parametrize(
    ("namespace", "where", "inner"),
    [
        ("", "a/secret/data/x", "a"),
        ("", "a/team/kv/data/x", "a"),
        ("", "a/b/secret/data/x", "a/b"),
        ("a", "b/secret/data/x", "a/b"),
    ],
)
def test_a_vault_namespace_in_the_path_is_told_and_nothing_is_asked_there(
    namespace: str, where: str, inner: str
) -> None:
    async def test(client: VaultClient) -> None:
        with pytest.raises(VaultRejected, match=f"is in the Vault namespace {inner}, which its path names"):
            await client.look(VaultPath(namespace, where), 2)

    with_client(enterprise, test)


def listing(tree: dict[str, list[str]]) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """A server that lists folders; by hand, since aiohttp's parser refuses the method LIST."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, where, _ = (await reader.readuntil(b"\r\n\r\n")).decode().split(" ", 2)
        folder = where.removeprefix("/v1/").rstrip("/")
        status, document = 404, json.dumps({"errors": []})
        if "/ui/mounts/" in where:
            name = where.partition("/ui/mounts/")[2].split("/")[0] + "/"
            found = {"path": name, "type": "kv", "options": {"version": MOUNTS[name]}}
            status, document = 200, json.dumps({"data": found})
        elif method == "LIST" and folder in tree:
            status, document = 200, json.dumps({"data": {"keys": tree[folder]}})
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Length: {len(document)}\r\n\r\n{document}".encode())
        await writer.drain()

    return talk


def test_a_v1_path_exists_if_its_folder_lists_it() -> None:
    async def main() -> None:
        async with raw_server(listing({"kv1/x": ["b", "c/"]})) as where:
            client = VaultClient(login(f"http://{where}"))
            assert (await client.look(path("kv1/x/b"), 1)).exists
            assert not (await client.look(path("kv1/x/c"), 1)).exists
            assert not (await client.look(path("kv1/b"), 1)).exists
            await client.close()

    run_ahead(main())


def test_the_names_beside_a_path_are_one_list() -> None:
    tree = {"kv1": ["a", "x/"], "kv1/x": ["b"], "secret/metadata": ["a"]}

    async def main() -> None:
        async with raw_server(listing(tree)) as where:
            client = VaultClient(login(f"http://{where}"))
            assert await client.siblings(path("kv1/b"), 1) == {"a", "x/"}
            assert await client.siblings(path("kv1/x/c"), 1) == {"b"}
            assert await client.siblings(path("secret/data/b"), 2) == {"a"}
            assert await client.siblings(path("secret/data/none/b"), 2) == set()
            await client.close()

    run_ahead(main())


def test_a_read_for_the_audit_devices_is_in_the_tokens_own_namespace() -> None:
    seen: list[tuple[str, str | None]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append((request.path, request.headers.get("X-Vault-Namespace")))
        return answer(200, {"data": {}})

    async def main() -> None:
        async with http_server(handler) as address:
            client = VaultClient(login(address, namespace="team-a"))
            await client.read_for_audit("sys/internal/ui/mounts/sys/vaultsync-canary/abc")
            await client.close()

    run_ahead(main())
    assert seen == [("/v1/sys/internal/ui/mounts/sys/vaultsync-canary/abc", "team-a")]


@pytest.mark.parametrize("enabled", [True, False])
def test_vault_is_asked_once_whether_it_has_standby_nodes(enabled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[web.Request] = []

    def respond(request: web.Request) -> web.Response:
        asked.append(request)
        return web.json_response({"ha_enabled": enabled, "is_self": True})

    async def test(client: VaultClient) -> None:
        assert [await client.is_clustered() for _ in range(3)] == [enabled] * 3
        assert [request.path for request in asked] == ["/v1/sys/leader"]
        assert "X-Vault-Token" not in asked[0].headers, "it needs none"
        monkeypatch.setattr("vaultsync.vault.client.CLUSTER_SECONDS", 0.0)
        client._clustered_until = 0.0
        await client.is_clustered()
        await client.is_clustered()
        assert len(asked) == 3

    with_client(vault(respond), test)


@pytest.mark.parametrize(
    ("status", "said"),
    [(503, {"errors": ["sealed"]}), (403, {"errors": []}), (200, {}), (200, {"ha_enabled": "no"}), (200, [])],
)
def test_a_vault_that_does_not_say_so_may_have_standby_nodes(status: int, said: object) -> None:
    async def test(client: VaultClient) -> None:
        with pytest.raises(VaultUnavailable):
            await client.is_clustered()

    with_client(vault(lambda _: web.json_response(said, status=status)), test)


def test_a_creation_is_a_check_and_set() -> None:
    sent: list[Any] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        sent.append(
            (request.method, request.path, request.headers.get("Content-Type"), json.loads(await request.read()))
        )
        return answer(200, {"data": {"version": 4, "created_time": "2025-06-01T12:00:00Z"}})

    async def test(client: VaultClient) -> None:
        made = await client.create(A, just_seen(gone(3)), {"x": SecretStr(VALUE)})
        assert (made.exists, made.version, made.subkeys) == (True, 4, {"x": None})
        added = await client.create(A, live("y", version=3), {"x": SecretStr(VALUE)})
        assert added.subkeys == {"x": None, "y": None}
        assert [one[0] for one in sent] == ["POST", "PATCH"]
        assert all(one[3] == {"options": {"cas": 3}, "data": {"x": VALUE}} for one in sent)
        assert sent[1][2] == "application/merge-patch+json"
        assert VALUE not in repr((made, added))

    with_client(handler, test)


@pytest.mark.parametrize("deletion_time", ["", "2025-06-01T12:00:00Z"])
def test_after_an_old_look_it_is_asked_whether_what_was_deleted_still_is(deletion_time: str) -> None:
    """An undeletion makes no new version."""
    sent: list[str] = []

    def respond(request: web.Request) -> web.Response:
        sent.append(request.method)
        metadata = {"version": 3, "created_time": "2025-06-01T11:00:00Z", "deletion_time": deletion_time}
        if request.method == "POST":
            return answer(200, {"data": {**metadata, "version": 4}})
        subkeys = None if deletion_time else {"p": None}
        return answer(404 if deletion_time else 200, {"data": {"subkeys": subkeys, "metadata": metadata}})

    async def test(client: VaultClient) -> None:
        state = replace(gone(3), read_at=time.monotonic() - 2 * OLD_SECONDS)
        with nullcontext() if deletion_time else pytest.raises(WriteConflict):
            await client.create(A, state, {"p": SecretStr(VALUE)})
        assert sent == (["GET", "POST"] if deletion_time else ["GET"])

    with_client(vault(respond), test)


def just_seen(state: SecretState) -> SecretState:
    return replace(state, read_at=time.monotonic())


def test_a_v1_creation_is_the_plain_values() -> None:
    sent: list[Any] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            sent.append((request.path, json.loads(await request.read())))
            return web.Response(status=204)
        return await vault(lambda _: answer(404, {"errors": []}))(request)

    async def test(client: VaultClient) -> None:
        assert (await client.create(path("kv1/a"), gone(mount=V1), {"x": SecretStr(VALUE)})).exists
        assert sent == [("/v1/kv1/a", {"x": VALUE})]

    with_client(handler, test)


def test_the_namespace_and_the_token_are_sent_and_special_characters_arrive() -> None:
    seen = []

    def respond(request: web.Request) -> web.Response:
        seen.append((request.path, request.headers.get("X-Vault-Namespace"), request.headers["X-Vault-Token"]))
        return answer(200, SUBKEYS)

    async def test(client: VaultClient) -> None:
        await client.look(VaultPath("team/a", "secret/data/a?b#c%2e ü"), 2)
        await client.look(A, 2)
        assert seen == [("/v1/secret/subkeys/a?b#c%2e ü", "team/a", TOKEN), ("/v1/secret/subkeys/a", None, TOKEN)]

    with_client(vault(respond), test)


def test_a_listing_goes_through_all_folders() -> None:
    async def main() -> None:
        tree = {"secret/metadata/dev": ["a", "b/"], "secret/metadata/dev/b": ["c"]}
        async with raw_server(listing(tree)) as where:
            client = VaultClient(login(f"http://{where}"))
            found = await client.find(FindPrefix("", "secret/data/dev/", 2))
            assert found == {path("secret/data/dev/a"), path("secret/data/dev/b/c")}
            assert await client.find(FindPrefix("", "secret/data/none/", 2)) == set()
            await client.close()

    run_ahead(main())


def test_a_listing_asks_before_each_folder_and_can_be_ended() -> None:
    async def main() -> None:
        tree = {"secret/metadata/dev": ["a", "b/", "c/"], "secret/metadata/dev/c": ["d"]}
        left = 2
        async with raw_server(listing(tree)) as where:

            async def may_list() -> bool:
                nonlocal left
                left -= 1
                return left >= 0

            client = VaultClient(login(f"http://{where}"))
            found = await client.find(FindPrefix("", "secret/data/dev/", 2), may_list=may_list)
            assert found == {path("secret/data/dev/a"), path("secret/data/dev/c/d")}
            assert left == -1
            await client.close()

    run_ahead(main())


def test_a_listing_that_is_too_long_is_told_once() -> None:
    async def main() -> None:
        tree = {"secret/metadata/dev": ["a", "b", "c/"]}
        async with raw_server(listing(tree)) as where:
            client = VaultClient(login(f"http://{where}"))
            for _ in range(3):
                assert len(await client.find(FindPrefix("", "secret/data/dev/", 2), 2)) == 2
            await client.close()

    with logged("WARNING") as lines:
        run_ahead(main())
    assert len(lines) == 1


# -- nothing secret in an error


async def failing(client: VaultClient, kind: type[VaultsyncError]) -> str:
    with pytest.raises(kind) as caught:
        await client.create(A, gone(), {"x": SecretStr(VALUE)})
    held = all_that_an_error_holds(caught.value)
    assert VALUE not in str(caught.value)
    return held


@pytest.mark.parametrize(("status", "kind"), [(400, VaultRejected), (403, VaultDenied), (500, VaultRequestFailed)])
def test_a_refused_write_holds_no_value(status: int, kind: type[VaultsyncError]) -> None:
    async def test(client: VaultClient) -> None:
        held = await failing(client, kind)
        assert VALUE not in held
        assert TOKEN not in held

    with_client(vault(lambda _: answer(status, {"errors": ["no"]})), test)


def test_a_refused_connection_holds_no_value() -> None:
    async def test() -> None:
        client = VaultClient(login(f"http://127.0.0.1:{unused_port()}"))
        held = await failing(client, VaultUnavailable)
        assert VALUE not in held
        assert TOKEN not in held
        assert "refused" in held
        await client.close()

    run_ahead(test())


def test_a_silent_vault_times_out_and_holds_no_value() -> None:
    async def test() -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(100_000)
            await asyncio.sleep(1)

        async with raw_server(silent) as where:
            client = VaultClient(login(f"http://{where}", timeout=0.1))
            held = await failing(client, VaultUnavailable)
            assert VALUE not in held
            await client.close()

    run_ahead(test())


@pytest.mark.parametrize("said", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", b""])
def test_a_broken_answer_is_no_answer(said: bytes) -> None:
    async def test() -> None:
        async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(said)
            await writer.drain()

        async with raw_server(broken) as where:
            client = VaultClient(login(f"http://{where}"))
            await failing(client, VaultUnavailable)
            with pytest.raises(VaultUnavailable):
                await client.look(A, 2)
            await client.close()

    run_ahead(test())


@pytest.mark.parametrize("token", ["t0ken\n", " t0ken", "t0ken\r\nX: y", "t0kenü\u2028"])
def test_a_token_that_is_no_header_is_not_quoted_in_the_error(token: str) -> None:
    async def test() -> None:
        client = VaultClient(login(f"http://127.0.0.1:{unused_port()}", token=token))
        with pytest.raises(VaultsyncError) as caught:
            await client.look(A, 2)
        assert "t0ken" not in str(caught.value)
        await client.close()

    run_ahead(test())


def test_a_missing_ca_file_is_an_error_of_ours() -> None:
    async def test() -> None:
        access = VaultAccess("https://127.0.0.1:1", tls=Tls(TlsFiles("/does/not/exist")))
        client = VaultClient(Login(access, AuthConfig(token=SecretStr("x"))))
        with pytest.raises(VaultsyncError):
            await client.look(A, 2)
        await client.close()

    run_ahead(test())


def test_the_state_of_a_v2_mount_is_of_that_mount() -> None:
    async def test(client: VaultClient) -> None:
        assert (await client.look(A, 1)).mount == V2
        with pytest.raises(VaultRejected):
            await client.look(path("secret/a"), 1)

    with_client(vault(lambda _: answer(200, SUBKEYS)), test)
