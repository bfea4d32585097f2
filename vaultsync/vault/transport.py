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

from vaultsync.vault.tls import Tls

REDIRECTS: Final = 5
"""At most so many, such as from a standby node to the active one."""
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
        retry_after: seconds to wait before the next request, 0.0 where the response names none.
    """

    status: int
    document: object
    retry_after: float = 0.0


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
            retries=urllib3.Retry(
                total=REDIRECTS,
                connect=0,
                read=0,
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
        arguments: hvac's own.
    """

    def __init__(self, *, pools: Pools, **arguments: object) -> None:
        super().__init__(**arguments)
        self._pools = pools
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
        """
        body = arguments.get("json")
        ask = partial(
            self._pools.current().request,
            method.upper(),
            self.urljoin(self.base_uri, re.sub("//+", "/", url)),  # as Vault's CLI does, and hvac
            body=None if body is None else json.dumps(body).encode(),
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
        return Answer(response.status, _document(response.data), _seconds(response.headers.get("Retry-After", "")))

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
