"""Follows Vault's redirects by the rules of core.redirects, for requests and the event stream. For any thread."""

import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from vaultsync.core.errors import RedirectRefused
from vaultsync.core.redirects import Address, choose, parse_address, parse_addresses, target, unknown
from vaultsync.core.untrusted import mapping, text

LEADER_SECONDS: Final = 2.0
"""Timeout of sys/leader, to connect and between two parts of the response."""
MAX_LEADER: Final = 16 * 1024
"""Bytes of its response that are read."""
KEEP_SECONDS: Final = 60.0
"""How long an announced address is trusted without another request."""
PAUSE_SECONDS: Final = 1.0
"""Minimum time between two requests, so that redirects to unknown addresses cost Vault little."""


class Redirects:
    """Knows the addresses to which Vault may redirect.

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
        self._configured = parse_addresses((address, *servers))
        self._read_leader = read_leader
        self._clock = clock
        self._lock = threading.Lock()
        self._announced: frozenset[Address] = frozenset()
        self._read_at = float("-inf")

    def start(self) -> list[Address]:
        """The trail of a request to VAULT_ADDR; empty if that is no plain address."""
        return [] if self._home is None else [self._home]

    def follow(self, method: str, trail: list[Address], path: str, status: int, locations: Sequence[str]) -> Address:
        """The address to send the request to next. May send a request to Vault, and block.

        Args:
            method: of the request, in capitals.
            trail: of `start`; the next address is appended.
            path: of the request, from /v1/ on.
            status: of the redirect.
            locations: its headers `Location`.

        Raises:
            RedirectRefused: the redirect is not followed.
        """
        if not trail:
            raise RedirectRefused(f"a redirect ({status}) is not followed: VAULT_ADDR is not a plain address", status)
        wanted = target(method, trail, path, status, locations)
        found = choose(wanted, self._configured) or self._find_announced(wanted)
        if found is None:
            raise unknown(trail, wanted, status)
        trail.append(found)
        return found

    def _find_announced(self, wanted: Address) -> Address | None:
        with self._lock:  # threads that are redirected together send one request
            found = choose(wanted, self._announced)
            age = self._clock() - self._read_at
            if age < PAUSE_SECONDS or (found is not None and age < KEEP_SECONDS):
                return found
            try:
                self._announced = _leader(self._read_leader())
            finally:
                self._read_at = self._clock()
            return choose(wanted, self._announced)


def _leader(body: bytes) -> frozenset[Address]:
    """The active node's API address. `leader_cluster_address` is the port between the nodes, which has no API."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return frozenset()
    return parse_addresses([text(mapping(document).get("leader_address"))])
