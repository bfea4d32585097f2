"""How a request gets to Vault: hvac's own adapter, over urllib3's connection pool alone. Knows no path of Vault's API.

hvac's usual adapter goes through requests, which costs as much processor time again as the request itself.
"""

import json
import re
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

    Args:
        pool: takes the connections.
        arguments: hvac's own.
    """

    def __init__(self, *, pool: urllib3.PoolManager, **arguments: object) -> None:
        super().__init__(**arguments)
        self._pool = pool

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
        response = self._pool.request(
            method.upper(),
            self.urljoin(self.base_uri, re.sub("//+", "/", url)),  # as Vault's CLI does, and hvac
            headers={"X-Vault-Request": "true", "X-Vault-Token": self.token, **(headers or {})},
            body=None if body is None else json.dumps(body).encode(),
        )
        return Answer(response.status, _document(response.data))

    def get_login_token(self, response: Answer) -> str:
        """The token in the answer to a login."""
        return str(cast(dict[str, Any], response.document)["auth"]["client_token"])

    def close(self) -> None:
        """Close the connections that no request uses."""
        self._pool.clear()


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
        retries=urllib3.Retry(total=REDIRECTS, connect=0, read=0, status=0, other=0),
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
