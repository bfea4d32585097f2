"""How a request gets to Vault: hvac's own adapter, over urllib3's connection pool alone. Knows no path of Vault's API.

hvac's usual adapter goes through requests, which costs as much processor time again as the request itself.
"""

import json
import re
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import hvac
import urllib3
from hvac.adapters import Adapter

from vaultsync.vault.tls import Tls

REDIRECTS: Final = 5
"""At most so many, such as from a standby node to the active one."""


@dataclass(frozen=True, slots=True)
class VaultAccess:
    """Where Vault is and how it is spoken to.

    Attributes:
        address: such as https://vault:8200.
        namespace: the token's Vault namespace, "" for the root.
        timeout: seconds to connect, and seconds between two parts of an answer.
        tls: for an address of https.
    """

    address: str
    namespace: str = ""
    timeout: float = 10.0
    tls: Tls = field(default_factory=Tls)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        status: the HTTP status.
        document: the JSON of the body, None where it is none.
    """

    status: int
    document: object


class Pools:
    """The pool of connections: a new one when the TLS context is, so that no connection of the old one is used again.

    Args:
        access: where to.
        connections: kept open at most.
    """

    def __init__(self, access: VaultAccess, connections: int) -> None:
        self._access = access
        self._connections = connections
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._pool: urllib3.PoolManager | None = None

    def current(self) -> urllib3.PoolManager:
        """The one for a request that is sent now.

        Raises:
            OSError: as for Tls.context.
            ValueError: the address is none.
        """
        tls = self._access.tls
        is_secure = urlsplit(self._access.address).scheme == "https" or not tls.is_plain
        context = tls.context() if is_secure else None
        with self._lock:
            if self._pool is None or context is not self._context:
                old, self._pool, self._context = self._pool, self._made(context), context
                if old is not None:
                    old.clear()
            return self._pool

    def clear(self) -> None:
        """Close the connections that no request uses."""
        with self._lock:
            if self._pool is not None:
                self._pool.clear()

    def _made(self, context: ssl.SSLContext | None) -> urllib3.PoolManager:
        proxy = _proxy(self._access.address)
        make = (
            urllib3.PoolManager
            if proxy is None
            else partial(urllib3.ProxyManager, proxy, proxy_headers=_login(proxy), proxy_ssl_context=context)
        )
        return make(
            num_pools=2,
            maxsize=self._connections,
            timeout=urllib3.Timeout(connect=self._access.timeout, read=self._access.timeout),
            retries=urllib3.Retry(total=REDIRECTS, connect=0, read=0, status=0, other=0),
            ssl_context=context,
            server_hostname=self._access.tls.server_name,
        )


class PoolAdapter(Adapter):  # type: ignore[misc]  # hvac has no types
    """hvac's adapter (https://hvac.readthedocs.io/en/stable/advanced_usage.html) over a pool; it raises for no status.

    Args:
        pools: take the connections.
        arguments: hvac's own.
    """

    def __init__(self, *, pools: Pools, **arguments: object) -> None:
        super().__init__(**arguments)
        self._pools = pools

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
        """
        body = arguments.get("json")
        own = {"X-Vault-Token": self.token, "X-Vault-Namespace": self.namespace}
        response = self._pools.current().request(
            method.upper(),
            self.urljoin(self.base_uri, re.sub("//+", "/", url)),  # as Vault's CLI does, and hvac
            headers={
                "X-Vault-Request": "true",
                **{name: text for name, text in own.items() if text},
                **(headers or {}),
            },
            body=None if body is None else json.dumps(body).encode(),
        )
        return Answer(response.status, _document(response.data))

    def get_login_token(self, response: Answer) -> str:
        """The token in the answer to a login."""
        return str(cast(dict[str, Any], response.document)["auth"]["client_token"])

    def close(self) -> None:
        """Close the connections that no request uses."""
        self._pools.clear()


def client(access: VaultAccess, connections: int, token: str = "", namespace: str = "") -> hvac.Client:
    """Make hvac use a pool of connections.

    Args:
        access: where to.
        connections: kept open at most.
        token: of requests that name none.
        namespace: Vault's, of requests that name none.
    """
    pools = Pools(access, connections)
    return hvac.Client(url=access.address, token=token, namespace=namespace, adapter=partial(PoolAdapter, pools=pools))


def _proxy(address: str) -> str | None:
    """The proxy that the environment names for an address (http_proxy, https_proxy, no_proxy)."""
    url = urlsplit(address)
    return None if proxy_bypass(url.netloc) else getproxies().get(url.scheme)


def _login(proxy: str) -> Mapping[str, str]:
    account = urlsplit(proxy)
    if account.username is None:
        return {}
    return urllib3.make_headers(proxy_basic_auth=f"{unquote(account.username)}:{unquote(account.password or '')}")


def _document(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
