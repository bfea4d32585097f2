"""How a request gets to Vault: hvac's own adapter, over urllib3's connection pool alone. Knows no path of Vault's API.

hvac's usual adapter goes through requests, which costs as much processor time again as the request itself.
"""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import hvac
import urllib3
from hvac.adapters import Adapter

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


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        status: the HTTP status.
        document: the JSON of the body, None where it is none.
    """

    status: int
    document: object


class PoolAdapter(Adapter):  # type: ignore[misc]  # hvac has no types
    """hvac's adapter (https://hvac.readthedocs.io/en/stable/advanced_usage.html) over a pool; it raises for no status.

    What it has written it sees in its next request, whichever node of the cluster answers: see `_Seen`.

    Args:
        pool: takes the connections.
        arguments: hvac's own.
    """

    def __init__(self, *, pool: urllib3.PoolManager, **arguments: object) -> None:
        super().__init__(**arguments)
        self._pool = pool
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
            self._pool.request,
            method.upper(),
            self.urljoin(self.base_uri, re.sub("//+", "/", url)),  # as Vault's CLI does, and hvac
            body=None if body is None else json.dumps(body).encode(),
        )
        own = {"X-Vault-Request": "true", "X-Vault-Token": self.token, **(headers or {})}
        seen = self._seen.headers()
        response = ask(headers=own | seen)
        if seen and response.status == 400:  # for what those headers say? nothing was done
            response = ask(headers=own)
            if response.status != 400:
                self._seen.refused()
        self._seen.answered(method.upper(), response.status, response.headers.get(INDEX, ""), seen.get(INDEX, ""))
        return Answer(response.status, _document(response.data))

    def get_login_token(self, response: Answer) -> str:
        """The token in the answer to a login."""
        return str(cast(dict[str, Any], response.document)["auth"]["client_token"])

    def close(self) -> None:
        """Close the connections that no request uses."""
        self._pool.clear()


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


def client(address: str, token: str, ca_file: str | None, timeout: float, connections: int) -> hvac.Client:
    """Make hvac use a pool of connections.

    Args:
        address: such as https://vault:8200. The proxies of the environment are read once, here.
        token: Vault's.
        ca_file: PEM bundle to trust, None for the system's.
        timeout: seconds to connect, and seconds between two parts of an answer.
        connections: kept open at most.
    """
    proxy = _proxy(address)
    make = urllib3.PoolManager if proxy is None else partial(urllib3.ProxyManager, proxy, proxy_headers=_login(proxy))
    pool = make(
        num_pools=2,
        maxsize=connections,
        timeout=urllib3.Timeout(connect=timeout, read=timeout),
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
        cert_reqs="CERT_REQUIRED",
        ca_certs=ca_file,
    )
    return hvac.Client(url=address, token=token, adapter=partial(PoolAdapter, pool=pool))


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
