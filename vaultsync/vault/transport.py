"""Transport of requests to Vault: an adapter for hvac over urllib3's connection pools. Knows no path but sys/leader.

hvac's default adapter uses the library requests, which doubles the processor time of a request.
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

import hvac
import urllib3
from hvac.adapters import Adapter
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from vaultsync.config.connection import environment_proxy
from vaultsync.core.untrusted import parse_json
from vaultsync.vault.api import LEADER
from vaultsync.vault.redirects import LEADER_SECONDS, MAX_LEADER, STATUSES, Redirects
from vaultsync.vault.replication import BEHIND, INDEX, ReplicationIndex
from vaultsync.vault.tls import Tls

TRIES_BEHIND, FIRST_WAIT_BEHIND = 3, 0.05
"""Retries after status 412: at once, then after twice as many seconds, then after four times as many."""
MAX_RETRY_AFTER: Final = 60.0
"""Maximum seconds of a Retry-After header."""


@dataclass(frozen=True, slots=True)
class VaultAccess:
    """Where Vault is and how to connect to it.

    Attributes:
        address: such as https://vault:8200.
        namespace: the token's Vault namespace, "" for the root.
        timeout: seconds to connect, and seconds between two parts of a response.
        tls: for an address of https.
        servers: further addresses of the same Vault, to which it may redirect.
    """

    address: str
    namespace: str = ""
    timeout: float = 10.0
    tls: Tls = field(default_factory=Tls)
    servers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Response:
    """A response of Vault, or of a proxy before it.

    Attributes:
        status: the HTTP status.
        document: the parsed JSON body, None if it is no JSON.
        retry_after: seconds to wait before the next request, 0.0 if the header is missing.
        date: the header `Date`, "" if it is missing.
    """

    status: int
    document: object
    retry_after: float = 0.0
    date: str = field(default="", compare=False)


class Pools:
    """One pool of connections for each address. A new TLS context means a new pool: no old connection is used again."""

    def __init__(self, access: VaultAccess, connections: int) -> None:
        self._access, self._connections = access, connections
        self._lock = threading.Lock()
        self._pools: dict[str, tuple[urllib3.PoolManager, ssl.SSLContext | None]] = {}

    def current(self, address: str) -> urllib3.PoolManager:
        """The pool for the next request to this address; it follows no redirect.

        Raises:
            OSError: as for Tls.context.
            ValueError: the address is invalid.
        """
        tls = self._access.tls
        context = tls.context() if urlsplit(address).scheme == "https" or not tls.is_plain else None
        with self._lock:
            pool, old = self._pools.get(address, (None, None))
            if pool is None or context is not old:
                if pool is not None:
                    pool.clear()
                pool = self._create(address, context)
                self._pools[address] = pool, context
            return pool

    def clear(self) -> None:
        """Close idle connections."""
        with self._lock:
            for pool, _ in self._pools.values():
                pool.clear()

    def _create(self, address: str, context: ssl.SSLContext | None) -> urllib3.PoolManager:
        proxy = environment_proxy(address)
        make = (
            urllib3.PoolManager
            if proxy is None
            else partial(urllib3.ProxyManager, proxy, proxy_headers=_credentials(proxy), proxy_ssl_context=context)
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
                allowed_methods=None,  # a node that is behind has executed nothing
                backoff_factor=FIRST_WAIT_BEHIND,
                raise_on_status=False,
                respect_retry_after_header=False,  # the caller does; and no response may hold up a thread
            ),
            ssl_context=context,
            server_hostname=self._access.tls.server_name,
        )


class PoolAdapter(Adapter):  # type: ignore[misc]  # hvac has no types
    """hvac's adapter over connection pools; it raises for no status.

    https://hvac.readthedocs.io/en/stable/advanced_usage.html. A request sees the writes of earlier ones, whichever
    node of the cluster responds: see ReplicationIndex.
    """

    def __init__(self, *, pools: Pools, redirects: Redirects, **arguments: object) -> None:
        super().__init__(**arguments)
        self._pools, self._redirects = pools, redirects
        self._index = ReplicationIndex()

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        raise_exception: bool = False,
        **arguments: object,
    ) -> Response:
        """Send one request, and read the whole response.

        Args:
            method: of HTTP, in any case; Vault's LIST too.
            url: the path, from /v1 on.
            headers: in addition to token and namespace.
            raise_exception: hvac's; ignored.
            arguments: `json`, the body.

        Raises:
            urllib3.exceptions.HTTPError: there is no response.
            OSError: the connection can't be made, such as without the CA file.
            RedirectRefused: the response is a redirect that is not followed.
        """
        body = None if arguments.get("json") is None else json.dumps(arguments["json"]).encode()
        path = "/" + re.sub("//+", "/", url).strip("/")  # as Vault's CLI does, and hvac
        send = partial(self._send, method.upper(), path, body)
        named = {"X-Vault-Token": self.token, "X-Vault-Namespace": self.namespace}
        own = {"X-Vault-Request": "true", **{name: text for name, text in named.items() if text}, **(headers or {})}
        index = self._index.headers()
        response = send(headers=own | index)
        if index and response.status == 400:  # maybe because of these headers; Vault has executed nothing
            response = send(headers=own)
            if response.status != 400:
                self._index.refused()
        self._index.responded(method.upper(), response.status, response.headers.get(INDEX, ""), index.get(INDEX, ""))
        return Response(
            response.status,
            parse_json(response.data),
            _seconds(response.headers.get("Retry-After", "")),
            response.headers.get("Date", ""),
        )

    def _send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> BaseHTTPResponse:
        """Send a request, and send it again unchanged to each address that redirects lead to."""
        address, trail = self.base_uri.rstrip("/"), self._redirects.start()
        while True:
            pool = self._pools.current(address)
            response = pool.request(method, address + path, body=body, headers=headers, redirect=False)
            if response.status not in STATUSES:
                return response
            locations = response.headers.getlist("Location")
            address = str(self._redirects.follow(method, trail, path, response.status, locations))

    def get_login_token(self, response: Response) -> str:
        """The token in the response to a login; required by hvac."""
        return str(cast(dict[str, Any], response.document)["auth"]["client_token"])

    def close(self) -> None:
        """Close idle connections."""
        self._pools.clear()


def redirects(access: VaultAccess) -> Redirects:
    """The rules for redirects of this Vault, shared by requests and the event stream."""
    return Redirects(access.address, access.servers, partial(_read_leader, access))


def client(
    access: VaultAccess, connections: int, token: str = "", namespace: str = "", follows: Redirects | None = None
) -> hvac.Client:
    """An hvac client over connection pools; token and namespace are those of requests that name none.

    Args:
        access: where Vault is.
        connections: maximum number of open connections to each address.
        token: "" for none.
        namespace: "" for none.
        follows: the rules for redirects; None creates them.
    """
    adapter = partial(PoolAdapter, pools=Pools(access, connections), redirects=follows or redirects(access))
    return hvac.Client(url=access.address, token=token, namespace=namespace, adapter=adapter)


def _read_leader(access: VaultAccess) -> bytes:
    """The response of VAULT_ADDR to GET sys/leader, b"" if there is none."""
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


def _credentials(proxy: str) -> Mapping[str, str]:
    if (account := urlsplit(proxy)).username is None:
        return {}
    return urllib3.make_headers(proxy_basic_auth=f"{unquote(account.username)}:{unquote(account.password or '')}")


def _seconds(retry_after: str) -> float:
    """Parse Retry-After, which is seconds or a date (RFC 9110, section 10.2.3). Untrusted."""
    if re.fullmatch("[0-9]{1,9}", retry_after):
        seconds = float(retry_after)
    else:
        try:
            date = parsedate_to_datetime(retry_after)
            seconds = date.timestamp() - time.time() if date.tzinfo else 0.0
        except (ValueError, OverflowError):
            seconds = 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)
