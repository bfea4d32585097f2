"""vault/redirects: where a redirect of Vault may lead. Without servers."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from vaultsync.core.errors import RedirectRefused, VaultRejected
from vaultsync.vault import redirects
from vaultsync.vault.redirects import MAX_HOPS, Address, Redirects, parse_address

HOME, OTHER, PATH = "http://vault.test:8200", "http://node-2.test:8200", "/v1/secret/subkeys/a"


def made(
    address: str = HOME, servers: tuple[str, ...] = (OTHER,), ask_leader: Callable[[], bytes] = lambda: b""
) -> Redirects:
    return Redirects(address, servers, ask_leader)


def follow(
    location: str | list[str],
    *,
    rules: Redirects | None = None,
    method: str = "GET",
    path: str = PATH,
    status: int = 307,
) -> str:
    rules = rules or made()
    locations = location if isinstance(location, list) else [location]
    return str(rules.follow(method, rules.start(), path, status, locations))


def refusal(location: str | list[str], **options: object) -> str:
    with pytest.raises(RedirectRefused) as caught:
        follow(location, **options)  # type: ignore[arg-type]
    assert isinstance(caught.value, VaultRejected)
    assert caught.value.retryable
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("http://Vault.TEST", Address("http", "vault.test", 80, "")),
        ("https://vault.test/", Address("https", "vault.test", 443, "")),
        ("https://v:8200/a/b/", Address("https", "v", 8200, "/a/b")),
        ("wss://[::1]:8200", Address("https", "::1", 8200, "")),
        ("ws://v", Address("http", "v", 80, "")),
    ],
)
def test_an_address_is_read(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", "v:8200", "ftp://v", "file:///etc/passwd", "javascript:x", "http://", "http:v", "http://v:0"),
        *("http://v:99999", "http://v:x", "http://[::1", "http://a@v:8200", "http://a:b@v", "http://v\\@w"),
        *("http://v\t:8200", "http://v w", "http://v\n", "http://é.test", "http://v/" + "x" * 5000),
    ],
)
def test_what_is_no_address(text: str) -> None:
    assert parse_address(text) is None


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("method", ["GET", "LIST", "POST", "PATCH", "DELETE"])
def test_a_redirect_to_a_configured_address_is_followed(method: str, status: int) -> None:
    assert follow(f"{OTHER}{PATH}", method=method, status=status) == OTHER


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_that_would_turn_a_write_into_a_read_is_refused(status: int) -> None:
    assert follow(f"{OTHER}{PATH}", status=status) == OTHER
    assert "it would turn a POST into a GET" in refusal(f"{OTHER}{PATH}", method="POST", status=status)
    assert "it would turn a PATCH into a GET" in refusal(f"{OTHER}{PATH}", method="PATCH", status=status)


def test_a_list_keeps_its_method() -> None:
    assert follow(f"{OTHER}{PATH}", method="LIST", status=302) == OTHER
    assert "LIST into a GET" in refusal(f"{OTHER}{PATH}", method="LIST", status=303)


def test_the_case_of_a_host_and_a_default_port_do_not_matter() -> None:
    rules = made("https://vault.test", ("https://node.test:443",))
    assert follow(f"https://NODE.test{PATH}", rules=rules) == "https://node.test:443"


def test_tls_may_begin_but_not_end() -> None:
    up = made("http://vault.test:8200", ("https://vault.test:8200",))
    assert follow(f"https://vault.test:8200{PATH}", rules=up) == "https://vault.test:8200"
    down = made("https://vault.test:8200", ("http://vault.test:8200",))
    for scheme in ("http", "ws"):
        assert "it leaves TLS" in refusal(f"{scheme}://vault.test:8200{PATH}", rules=down)


@pytest.mark.parametrize(
    "where",
    [
        *("http://evil.test:8200", "http://vault.test:8201", "http://vault.test", "https://vault.test:8200"),
        *("//evil.test", "http://node-2.test.evil.test:8200", "http://node-2.test.:8200", "http://[::1]:8200"),
    ],
)
def test_an_unknown_origin_is_refused_and_it_is_said_what_would_allow_it(where: str) -> None:
    said = refusal(f"{where}{PATH}")
    assert said.startswith(f"the redirect (307) from {HOME} to http")
    assert "add it to VAULTSYNC_STORE_SERVERS, or set api_addr" in said


@pytest.mark.parametrize(
    "location",
    [
        f"{OTHER}/v1/secret/data/a",
        f"{OTHER}/v1/secret/subkeys/b",
        f"{OTHER}/v1/secret/subkeys/a/../../data/a",
        f"{OTHER}/",
        OTHER,
        f"{OTHER}?x={PATH}",
        f"{OTHER}#{PATH}",
        f"{OTHER}/v1/auth/approle/login",
        "/v1/secret/data/a",
        "a/b",
        "::::",
    ],
)
def test_another_path_is_refused(location: str) -> None:
    """A redirect from subkeys/ to data/ would fetch the values."""
    assert "another path" in refusal(location)


@pytest.mark.parametrize(
    "location",
    [
        *("", " ", "http://", "http://[::1", "//[::1", "javascript:alert(1)", "file:///v1/secret/subkeys/a"),
        *(f"http://t0ken@node-2.test:8200{PATH}", f"http://node-2.test:8200\\@evil.test{PATH}", f"\t{OTHER}{PATH}"),
        *(f"http:\n//node-2.test:8200{PATH}", f"http://nöde.test{PATH}", f"{OTHER}{PATH}" + "x" * 5000),
    ],
)
def test_garbage_is_refused_and_not_quoted(location: str) -> None:
    said = refusal(location)
    assert said.startswith(f"the redirect (307) from {HOME} is not followed: it names no address")
    assert "t0ken" not in said


@pytest.mark.parametrize("locations", [[], [f"{OTHER}{PATH}", f"{OTHER}{PATH}"]])
def test_a_redirect_with_no_location_or_with_two_is_refused(locations: list[str]) -> None:
    assert "it names no address" in refusal(locations)


def test_no_path_or_query_is_quoted() -> None:
    said = refusal("http://evil.test:1/5ecret?x=5ecret#5ecret")
    assert "5ecret" not in said
    said = refusal(f"http://{'x' * 200}.test:1{PATH}?x=5ecret")
    assert "xxx" not in said


def test_vault_writes_the_path_in_its_own_way() -> None:
    """Go escapes other characters than Python does."""
    path = "/v1/sys/events/subscribe/kv*?json=true&namespaces=*"
    location = f"{OTHER}/v1/sys/events/subscribe/kv%2A?json=true&namespaces=*"
    assert follow(location, path=path) == OTHER
    assert follow(f"{OTHER}/v1/secret/subkeys/a%20b", path="/v1/secret/subkeys/a b") == OTHER


def test_a_path_before_v1_must_be_known() -> None:
    rules = made("http://vault.test:8200/proxied", ("http://node-2.test:8200/x/", OTHER))
    assert follow(f"{OTHER}{PATH}", rules=rules) == OTHER
    assert follow(f"{OTHER}/x{PATH}", rules=rules) == f"{OTHER}/x"
    assert "neither VAULT_ADDR" in refusal(f"{OTHER}/y{PATH}", rules=rules)
    assert follow(f"http://vault.test:8200{PATH}", rules=rules) == "http://vault.test:8200"
    assert "circle" in refusal(f"/proxied{PATH}", rules=rules)


def test_circles_and_long_ways_end() -> None:
    nodes = [f"http://node-{number}.test:8200" for number in range(MAX_HOPS + 1)]
    rules = made(servers=tuple(nodes))
    trail = rules.start()
    for node in nodes[:MAX_HOPS]:
        assert str(rules.follow("GET", trail, PATH, 307, [f"{node}{PATH}"])) == node
    for node in (nodes[0], nodes[-1], HOME):
        with pytest.raises(RedirectRefused, match="in a circle, or are too many"):
            rules.follow("GET", trail, PATH, 307, [f"{node}{PATH}"])
    assert "in a circle" in refusal(f"{HOME}{PATH}")


def test_an_address_with_an_account_follows_no_redirect() -> None:
    said = refusal(f"{OTHER}{PATH}", rules=made("http://me:5ecret@vault.test"))
    assert "VAULT_ADDR is not a plain address" in said
    assert "5ecret" not in said


# -- what Vault announces


class Vault:
    """Answers GET sys/leader."""

    def __init__(self, leader: object = OTHER) -> None:
        self.leader = leader
        self.asked = 0

    def __call__(self) -> bytes:
        self.asked += 1
        return json.dumps({"leader_address": self.leader, "leader_cluster_address": "http://rpc.test:8201"}).encode()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_an_announced_leader_is_followed_and_asked_for_once() -> None:
    vault, clock = Vault(), Clock()
    rules = Redirects(HOME, (), vault, clock)
    for _ in range(5):
        assert follow(f"{OTHER}{PATH}", rules=rules) == OTHER
    assert vault.asked == 1
    clock.now += redirects.KEEP_SECONDS + 1
    follow(f"{OTHER}{PATH}", rules=rules)
    assert vault.asked == 2


def test_a_new_leader_is_asked_for_at_once() -> None:
    vault, clock = Vault(), Clock()
    rules = Redirects(HOME, (), vault, clock)
    follow(f"{OTHER}{PATH}", rules=rules)
    clock.now += redirects.PAUSE_SECONDS
    vault.leader = "http://node-3.test:8200"
    assert follow(f"http://node-3.test:8200{PATH}", rules=rules) == "http://node-3.test:8200"
    assert "node-2" in refusal(f"{OTHER}{PATH}", rules=rules), "it leads no more"


def test_redirects_to_unknown_addresses_cost_one_question_a_second() -> None:
    vault, clock = Vault(), Clock()
    rules = Redirects(HOME, (), vault, clock)
    for _ in range(20):
        refusal(f"http://evil.test{PATH}", rules=rules)
        clock.now += redirects.PAUSE_SECONDS / 10
    assert vault.asked in (2, 3)


def test_the_port_between_the_nodes_is_no_api() -> None:
    refusal(f"http://rpc.test:8201{PATH}", rules=made(servers=(), ask_leader=Vault()))


def test_an_announced_address_without_tls_is_refused_after_one_with_it() -> None:
    vault = Vault()
    assert "it leaves TLS" in refusal(f"{OTHER}{PATH}", rules=made("https://vault.test", (), vault))
    assert vault.asked == 0


@pytest.mark.parametrize("leader", [None, "", 5, ["http://node-2.test:8200"], {}, "http://a@node-2.test:8200", "x"])
def test_garbage_is_no_announcement(leader: object) -> None:
    refusal(f"{OTHER}{PATH}", rules=made(servers=(), ask_leader=Vault(leader)))


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"[" * 100_000, b"\xff", b"null"])
def test_an_answer_that_is_no_vaults_announces_nothing(body: bytes) -> None:
    refusal(f"{OTHER}{PATH}", rules=made(servers=(), ask_leader=lambda: body))


def test_threads_that_are_redirected_together_ask_once() -> None:
    vault, waiting = Vault(), threading.Event()

    def slowly() -> bytes:
        waiting.wait(1)
        return vault()

    rules = made(servers=(), ask_leader=slowly)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(follow, f"{OTHER}{PATH}", rules=rules) for _ in range(8)]
        waiting.set()
        assert {one.result() for one in asked} == {OTHER}
    assert vault.asked == 1
