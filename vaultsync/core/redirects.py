"""The rules by which redirects of Vault are followed. Pure; vault.redirects sends the requests that they need.

A redirect may only name another node for the same request. Therefore a `Location` only selects one of the known
addresses: the next request is built from that address and the original path, never from the text of the `Location`.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

from vaultsync.core.errors import RedirectRefused

STATUSES: Final = frozenset({301, 302, 303, 307, 308})
KEEPS_METHOD: Final = frozenset({307, 308})
"""Vault sends 307. After other statuses clients replace a write by GET, which would read a value."""
READS: Final = frozenset({"GET", "LIST"})
MAX_HOPS: Final = 3
"""Redirects of one request: to the active node, and from it to the next one if it has just stepped down."""
_URL: Final = re.compile(r"[!-\[\]-~]{1,4096}")
"""Printable ASCII without backslash: urlsplit removes tabs and newlines, and clients treat a backslash as a slash."""
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_PORTS: Final = {"http": 80, "https": 443}
_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_ALLOW: Final = (
    "it is neither VAULT_ADDR, nor in VAULTSYNC_STORE_SERVERS, nor announced by Vault (sys/leader): "
    "if it is this Vault, add it to VAULTSYNC_STORE_SERVERS, or set api_addr of Vault's nodes to it"
)


class Address(NamedTuple):
    """One address of Vault.

    Attributes:
        scheme: http or https.
        host: in lower case, without brackets.
        port: explicit.
        base: the path before /v1/, without a slash at the end; mostly "".
    """

    scheme: str
    host: str
    port: int
    base: str

    def __str__(self) -> str:
        return f"{self.origin}{self.base}"

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def parse_address(text: str) -> Address | None:
    """Parse an address; None if it is not valid, or contains credentials.

    Args:
        text: untrusted, such as https://vault:8200; the schemes ws and wss are treated as http and https.
    """
    if not _URL.fullmatch(text):
        return None
    try:
        url = urlsplit(text)
        scheme, host, port = _SCHEMES.get(url.scheme, ""), url.hostname, url.port
    except ValueError:
        return None
    if not scheme or not host or port == 0 or "@" in url.netloc:
        return None
    return Address(scheme, host, port or _PORTS[scheme], url.path.rstrip("/"))


def parse_addresses(texts: Iterable[str]) -> frozenset[Address]:
    """The valid addresses among the texts."""
    return frozenset(found for found in map(parse_address, texts) if found is not None)


def target(method: str, trail: Sequence[Address], path: str, status: int, locations: Sequence[str]) -> Address:
    """The target address of a redirect; `choose` decides whether it is known.

    Args:
        method: of the request, in capitals.
        trail: the addresses that were requested, the redirecting one last.
        path: of each request, starting with /v1/.
        status: one of STATUSES.
        locations: the `Location` headers of the answer.

    Raises:
        RedirectRefused: the redirect is invalid, is a loop, changes path or scheme, or turns a write into a read.
    """
    asked = trail[-1]
    if len(locations) != 1 or not locations[0]:
        raise refused(asked, status, "", "it names no address")
    found = _resolve(locations[0], f"{asked}{path}")
    if found is None:
        raise refused(asked, status, "", "it names no address of HTTP")
    where = found.origin
    if status not in KEEPS_METHOD and (method not in READS or (status == 303 and method != "GET")):
        raise refused(asked, status, where, f"it would turn a {method} into a GET")
    if (asked.scheme, found.scheme) == ("https", "http"):
        raise refused(asked, status, where, "it leaves TLS: set api_addr of Vault's nodes to an address of https")
    wanted, base = unquote(path.partition("?")[0]).rstrip("/"), unquote(found.base)
    if not base.endswith(wanted):
        raise refused(asked, status, where, "it names another path than the one that was asked for")
    found = found._replace(base=base.removesuffix(wanted))
    if found in trail or len(trail) > MAX_HOPS:
        raise refused(asked, status, where, "redirects lead in a circle, or are too many")
    return found


def choose(wanted: Address, known: Iterable[Address]) -> Address | None:
    """The known address of a redirect's target, None if it is not known.

    Args:
        wanted: of `target`; its base must be a known one or "".
        known: the addresses that are configured or announced by Vault.
    """
    at_origin = [one for one in known if one.origin == wanted.origin]
    if wanted in at_origin:
        return wanted
    return wanted if at_origin and not wanted.base else None


def unknown(trail: Sequence[Address], wanted: Address, status: int) -> RedirectRefused:
    """The error for a redirect to an unknown address."""
    return refused(trail[-1], status, wanted.origin, _ALLOW)


def refused(asked: Address, status: int, where: str, why: str) -> RedirectRefused:
    """The error for a redirect that is not followed. It quotes no path, query or credential of the `Location`."""
    shown = where if re.fullmatch(r"https?://[a-z0-9._:\[\]-]{1,100}", where) else ""
    to = f" to {shown}" if shown else ""
    return RedirectRefused(f"the redirect ({status}) from {asked.origin}{to} is not followed: {why}", status)


def _resolve(location: str, asked: str) -> Address | None:
    """The address in a `Location`, which may be relative to the requested URL; None if it is not valid."""
    if not _URL.fullmatch(location) or _SCHEME.match(location):
        return parse_address(location)
    try:
        return parse_address(urljoin(asked, location))
    except ValueError:
        return None
