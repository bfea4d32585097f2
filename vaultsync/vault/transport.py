"""How a request gets to Vault: hvac's own adapter, over urllib3's connection pool alone. Knows no path of Vault's API.

hvac's usual adapter goes through requests, which costs as much processor time again as the request itself.
"""

import json
import re
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import hvac
import urllib3
from hvac.adapters import Adapter
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from vaultsync.core.redirects import STATUSES
from vaultsync.vault.api import LEADER
from vaultsync.vault.redirects import LEADER_SECONDS, MAX_LEADER, Redirects
from vaultsync.vault.tls import Tls

BEHIND: Final = 412
"""A standby node that answers by itself has not seen the index yet that was asked for, or the token."""
TRIES_BEHIND, FIRST_WAIT_BEHIND = 3, 0.05
"""How often such a node is asked again: at once, then after twice as many seconds, then after four times as many."""
BEHIND_SECONDS: Final = 10.0
"""An index that no node has for so long is not waited for any more, as after Vault was restored from a backup."""
INDEX: Final = "X-Vault-Index"
MAX_INDEX: Final = 1024
"""Characters."""
MAX_RETRY_AFTER: Final = 60.0
"""Seconds that a response may ask to wait."""


@dataclass(frozen=True, slots=True)
class VaultAccess:
    """Where Vault is and how it is spoken to.

    Attributes:
        address: such as https://vault:8200.
        namespace: the token's Vault namespace, "" for the root.
        timeout: seconds to connect, and seconds between two parts of an answer.
        tls: for an address of https.
        servers: further addresses of the same Vault, to which it may redirect.
    """

    address: str
    namespace: str = ""
    timeout: float = 10.0
    tls: Tls = field(default_factory=Tls)
    servers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        status: the HTTP status.
        document: the JSON of the body, None where it is none.
        retry_after: seconds to wait before the next request, 0.0 where the response names none.
        date: the header `Date`, "" without one.
    """

    status: int
    document: object
    retry_after: float = 0.0
    date: str = field(default="", compare=False)


class Pools:
    """The pools of connections, one an address: new ones with a new TLS context, so that no old connection is used.

    Args:
        access: which Vault.
        connections: kept open at most, to each address.
    """

    def __init__(self, access: VaultAccess, connections: int) -> None:
        self._access = access
        self._connections = connections
        self._lock = threading.Lock()
        self._pools: dict[str, tuple[urllib3.PoolManager, ssl.SSLContext | None]] = {}

    def current(self, address: str) -> urllib3.PoolManager:
        """The one for a request that is sent now; it follows no redirect.

        Args:
            address: VAULT_ADDR, or one that it may redirect to.

        Raises:
            OSError: as for Tls.context.
            ValueError: the address is none.
        """
        tls = self._access.tls
        is_secure = urlsplit(address).scheme == "https" or not tls.is_plain
        context = tls.context() if is_secure else None
        with self._lock:
            pool, old = self._pools.get(address, (None, None))
            if pool is None or context is not old:
                if pool is not None:
                    pool.clear()
                pool = self._made(address, context)
                self._pools[address] = pool, context
            return pool

    def clear(self) -> None:
        """Close the connections that no request uses."""
        with self._lock:
            for pool, _ in self._pools.values():
                pool.clear()

    def _made(self, address: str, context: ssl.SSLContext | None) -> urllib3.PoolManager:
        proxy = _proxy(address)
        make = (
            urllib3.PoolManager
            if proxy is None
            else partial(urllib3.ProxyManager, proxy, proxy_headers=_login(proxy), proxy_ssl_context=context)
        )
        return make(
            num_pools=2,
            maxsize=self._connections,
            timeout=urllib3.Timeout(connect=self._access.timeout, read=self._access.timeout),
            retries=urllib3.Retry(
                total=TRIES_BEHIND,
                connect=0,
                read=0,
                redirect=0,
                status=TRIES_BEHIND,
                other=0,
                status_forcelist={BEHIND},
                allowed_methods=None,  # no node that is behind has done anything
                backoff_factor=FIRST_WAIT_BEHIND,
                raise_on_status=False,
                respect_retry_after_header=False,  # who asks decides about that; and no answer may hold up a thread
            ),
            ssl_context=context,
            server_hostname=self._access.tls.server_name,
        )


class PoolAdapter(Adapter):  # type: ignore[misc]  # hvac has no types
    """hvac's adapter (https://hvac.readthedocs.io/en/stable/advanced_usage.html) over a pool; it raises for no status.

    What it has written it sees in its next request, whichever node of the cluster answers: see `_Seen`.

    Args:
        pools: take the connections.
        redirects: says which are followed.
        arguments: hvac's own.
    """

    def __init__(self, *, pools: Pools, redirects: Redirects, **arguments: object) -> None:
        super().__init__(**arguments)
        self._pools = pools
        self._redirects = redirects
        self._seen = _Seen()

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        raise_exception: bool = False,
        **arguments: object,
    ) -> Answer:
        """Send one request, and wait for all of its answer.

        Args:
            method: of HTTP, in any case; Vault's LIST too.
            url: the path, from /v1 on.
            headers: besides Vault's own.
            raise_exception: hvac's; a status never raises here.
            arguments: `json`, the body.

        Raises:
            urllib3.exceptions.HTTPError: there is no answer.
            OSError: the connection can't be made, such as for want of a CA file.
            RedirectRefused: the answer is a redirect that is not followed.
        """
        body = arguments.get("json")
        ask = partial(
            self._ask,
            method.upper(),
            "/" + re.sub("//+", "/", url).strip("/"),  # as Vault's CLI does, and hvac
            None if body is None else json.dumps(body).encode(),
        )
        named = {"X-Vault-Token": self.token, "X-Vault-Namespace": self.namespace}
        own = {"X-Vault-Request": "true", **{name: text for name, text in named.items() if text}, **(headers or {})}
        seen = self._seen.headers()
        response = ask(headers=own | seen)
        if seen and response.status == 400:  # for what those headers say? nothing was done
            response = ask(headers=own)
            if response.status != 400:
                self._seen.refused()
        self._seen.answered(method.upper(), response.status, response.headers.get(INDEX, ""), seen.get(INDEX, ""))
        return Answer(
            response.status,
            _document(response.data),
            _seconds(response.headers.get("Retry-After", "")),
            response.headers.get("Date", ""),
        )

    def _ask(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> BaseHTTPResponse:
        """Send a request, again to each address that redirects lead to: the same method, path, body and headers."""
        address, trail = self.base_uri.rstrip("/"), self._redirects.start()
        while True:
            pool = self._pools.current(address)
            response = pool.request(method, address + path, body=body, headers=headers, redirect=False)
            if response.status not in STATUSES:
                return response
            locations = response.headers.getlist("Location")
            address = str(self._redirects.follow(method, trail, path, response.status, locations))

    def get_login_token(self, response: Answer) -> str:
        """The token in the answer to a login."""
        return str(cast(dict[str, Any], response.document)["auth"]["client_token"])

    def close(self) -> None:
        """Close the connections that no request uses."""
        self._pools.clear()


class _Seen:
    """How far a node must have followed the active one, to answer us.

    Vault Enterprise (https://developer.hashicorp.com/vault/docs/enterprise/consistency) and OpenBao
    (https://openbao.org/docs/next/concepts/consistency/) name it in the answer to a write, in words of their own: what
    was named last goes with each request. A node that is behind then asks the active one. Where Vault's configuration
    does not allow that, which is its default, it refuses every such request (400): there it is asked to answer 412.
    """

    def __init__(self) -> None:
        self._index = ""
        self._forwards = True
        self._behind_since: float | None = None

    def headers(self) -> dict[str, str]:
        """Those of a request that must see what we have written; none where no node has named an index."""
        if not self._index:
            return {}
        return {INDEX: self._index, **({"X-Vault-Inconsistent": "forward-active-node"} if self._forwards else {})}

    def refused(self) -> None:
        """These headers, or one of them, are wrong."""
        if self._forwards:
            self._forwards = False
        else:
            self._index = ""  # another's, such as of the Vault that was here before

    def answered(self, method: str, status: int, named: str, asked: str) -> None:
        """Take note of an answer.

        Args:
            method: of the request, in capitals.
            status: of the answer.
            named: the index in the answer, "" for none.
            asked: that in the request.
        """
        now = time.monotonic()
        if asked and status in (BEHIND, 429):  # OpenBao's, where it does not forward
            self._behind_since = self._behind_since or now
            if now - self._behind_since >= BEHIND_SECONDS:
                self._index, self._behind_since = "", None
            return
        self._behind_since = None
        if method not in ("GET", "LIST") and re.fullmatch(f"[!-~]{{1,{MAX_INDEX}}}", named):
            self._index = named


def redirects(access: VaultAccess) -> Redirects:
    """The rules by which this Vault's redirects are followed; for requests and the event stream together."""
    return Redirects(access.address, access.servers, partial(_ask_leader, access))


def client(
    access: VaultAccess, connections: int, token: str = "", namespace: str = "", follows: Redirects | None = None
) -> hvac.Client:
    """Make hvac use a pool of connections.

    Args:
        access: where to.
        connections: kept open at most, to each address.
        token: of requests that name none.
        namespace: Vault's, of requests that name none.
        follows: of `redirects`; by default its own.
    """
    adapter = partial(PoolAdapter, pools=Pools(access, connections), redirects=follows or redirects(access))
    return hvac.Client(url=access.address, token=token, namespace=namespace, adapter=adapter)


def _ask_leader(access: VaultAccess) -> bytes:
    """What VAULT_ADDR answers to GET sys/leader, b"" for no answer."""
    address = access.address.rstrip("/")
    pools = Pools(access, 1)
    try:
        response = pools.current(address).request(
            "GET",
            f"{address}/v1/{LEADER}",
            headers={"X-Vault-Request": "true"},
            redirect=False,
            retries=False,
            timeout=urllib3.Timeout(connect=LEADER_SECONDS, read=LEADER_SECONDS),
            preload_content=False,
        )
        try:
            return response.read(MAX_LEADER) if response.status == 200 else b""
        finally:
            response.close()
    except (HTTPError, OSError, ValueError):
        return b""
    finally:
        pools.clear()


def _proxy(address: str) -> str | None:
    """The proxy that the environment names for an address (http_proxy, https_proxy, no_proxy)."""
    url = urlsplit(address)
    return None if proxy_bypass(url.netloc) else getproxies().get(url.scheme)


def _login(proxy: str) -> Mapping[str, str]:
    account = urlsplit(proxy)
    if account.username is None:
        return {}
    return urllib3.make_headers(proxy_basic_auth=f"{unquote(account.username)}:{unquote(account.password or '')}")


def _seconds(retry_after: str) -> float:
    """The header Retry-After, which is seconds or a date: RFC 9110, section 10.2.3. Untrusted."""
    if re.fullmatch("[0-9]{1,9}", retry_after):
        seconds = float(retry_after)
    else:
        try:
            date = parsedate_to_datetime(retry_after)
            seconds = date.timestamp() - time.time() if date.tzinfo else 0.0
        except (ValueError, OverflowError):
            seconds = 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def _document(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
