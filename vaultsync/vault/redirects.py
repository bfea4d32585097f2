"""Follows the redirects of Vault, for requests and the event stream.

A redirect may only name another node for the same request. Therefore a `Location` only selects one of the known
addresses: the next request is built from that address and the original path, never from the text of the `Location`.
"""

import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

from vaultsync.core.errors import RedirectRefused
from vaultsync.core.untrusted import mapping, parse_json, text

STATUSES: Final = frozenset({301, 302, 303, 307, 308})
KEEPS_METHOD: Final = frozenset({307, 308})
"""Vault sends 307. After other statuses clients replace a write by GET, which would read a value."""
READS: Final = frozenset({"GET", "LIST"})
MAX_HOPS: Final = 3
"""Redirects of one request: to the active node, and from it to the next one if it has just stepped down."""
LEADER_SECONDS: Final = 2.0
"""Timeout of sys/leader, to connect and between two parts of the response."""
MAX_LEADER: Final = 16 * 1024
"""Bytes of its response that are read."""
KEEP_SECONDS: Final = 60.0
"""How long an announced address is trusted without another request."""
PAUSE_SECONDS: Final = 1.0
"""Minimum time between two requests, so that redirects to unknown addresses cost Vault little."""
_URL: Final = re.compile(r"[!-\[\]-~]{1,4096}")
"""Printable ASCII without backslash: urlsplit removes tabs and newlines, and clients treat a backslash as a slash."""
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


class Redirects:
    """Knows the addresses to which Vault may redirect. For any thread.

    Args:
        address: VAULT_ADDR.
        servers: VAULTSYNC_STORE_SERVERS.
        read_leader: sends GET sys/leader to VAULT_ADDR, without a token and without following a redirect, and returns
            the body, b"" if there is none.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        address: str,
        servers: Iterable[str],
        read_leader: Callable[[], bytes],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._home = parse_address(address)
        self._configured = _parse_addresses((address, *servers))
        self._read_leader = read_leader
        self._clock = clock
        self._lock = threading.Lock()
        self._announced: frozenset[Address] = frozenset()
        self._read_at = float("-inf")

    def start(self) -> list[Address]:
        """The trail of a request to VAULT_ADDR; empty if that is no plain address."""
        return [] if self._home is None else [self._home]

    def follow(self, method: str, trail: list[Address], path: str, status: int, locations: Sequence[str]) -> Address:
        """The address to send the request to next, which is appended to the trail. May send a request, and block.

        The other arguments are as for `target`.

        Raises:
            RedirectRefused: the redirect is not followed.
        """
        if not trail:
            raise RedirectRefused(f"a redirect ({status}) is not followed: VAULT_ADDR is not a plain address", status)
        wanted = target(method, trail, path, status, locations)
        found = choose(wanted, self._configured) or self._find_announced(wanted)
        if found is None:
            raise _refused(trail[-1], status, wanted.origin, _ALLOW)
        trail.append(found)
        return found

    def _find_announced(self, wanted: Address) -> Address | None:
        with self._lock:  # threads that are redirected together send one request
            found = choose(wanted, self._announced)
            age = self._clock() - self._read_at
            if age < PAUSE_SECONDS or (found is not None and age < KEEP_SECONDS):
                return found
            try:
                self._announced = _parse_leader(self._read_leader())
            finally:
                self._read_at = self._clock()
            return choose(wanted, self._announced)


# -- pure


def parse_address(url: str) -> Address | None:
    """Parse an untrusted address; None if it is not valid, or has credentials. Websocket schemes become http(s)."""
    if not _URL.fullmatch(url):
        return None
    try:
        parts = urlsplit(url)
        scheme, host, port = _SCHEMES.get(parts.scheme, ""), parts.hostname, parts.port
    except ValueError:
        return None
    if not scheme or not host or port == 0 or "@" in parts.netloc:
        return None
    return Address(scheme, host, port or _PORTS[scheme], parts.path.rstrip("/"))


def target(method: str, trail: Sequence[Address], path: str, status: int, locations: Sequence[str]) -> Address:
    """The target address of a redirect; `choose` decides whether it is known.

    Args:
        method: of the request, in capitals.
        trail: the addresses that were requested, the redirecting one last.
        path: of each request, starting with /v1/.
        status: one of STATUSES.
        locations: the `Location` headers of the response.

    Raises:
        RedirectRefused: the redirect is invalid, is a loop, changes path or scheme, or turns a write into a read.
    """
    origin = trail[-1]
    if len(locations) != 1 or not locations[0]:
        raise _refused(origin, status, "", "it names no address")
    found = _resolve(locations[0], f"{origin}{path}")
    if found is None:
        raise _refused(origin, status, "", "it names no address of HTTP")
    where = found.origin
    if status not in KEEPS_METHOD and (method not in READS or (status == 303 and method != "GET")):
        raise _refused(origin, status, where, f"it would turn a {method} into a GET")
    if (origin.scheme, found.scheme) == ("https", "http"):
        raise _refused(origin, status, where, "it leaves TLS: set api_addr of Vault's nodes to an address of https")
    wanted, base = unquote(path.partition("?")[0]).rstrip("/"), unquote(found.base)
    if not base.endswith(wanted):
        raise _refused(origin, status, where, "it names another path than the one that was requested")
    found = found._replace(base=base.removesuffix(wanted))
    if found in trail or len(trail) > MAX_HOPS:
        raise _refused(origin, status, where, "redirects lead in a circle, or are too many")
    return found


def choose(wanted: Address, known: Iterable[Address]) -> Address | None:
    """A redirect's target if it is known, else None; its base must be a known one or ""."""
    at_origin = [one for one in known if one.origin == wanted.origin]
    return wanted if wanted in at_origin or (at_origin and not wanted.base) else None


def _refused(origin: Address, status: int, where: str, why: str) -> RedirectRefused:
    """The error for a redirect that is not followed. It quotes no path, query or credential of the `Location`."""
    to = f" to {where}" if re.fullmatch(r"https?://[a-z0-9._:\[\]-]{1,100}", where) else ""
    return RedirectRefused(f"the redirect ({status}) from {origin.origin}{to} is not followed: {why}", status)


def _resolve(location: str, requested: str) -> Address | None:
    """The address in a `Location`, which may be relative to the requested URL; None if it is not valid."""
    if not _URL.fullmatch(location) or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", location):
        return parse_address(location)
    try:
        return parse_address(urljoin(requested, location))
    except ValueError:
        return None


def _parse_addresses(urls: Iterable[str]) -> frozenset[Address]:
    return frozenset(found for found in map(parse_address, urls) if found is not None)


def _parse_leader(body: bytes) -> frozenset[Address]:
    """The active node's API address. `leader_cluster_address` is the port between the nodes, which has no API."""
    return _parse_addresses([text(mapping(parse_json(body)).get("leader_address"))])
