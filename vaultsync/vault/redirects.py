"""Follows Vault's redirects by the rules of core.redirects, for requests and the event stream alike. For any thread."""

import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from vaultsync.core.errors import RedirectRefused
from vaultsync.core.redirects import Address, choose, parse_address, parse_addresses, target, unknown

LEADER_SECONDS: Final = 2.0
"""The longest wait to connect for that, and between two parts of the answer."""
MAX_LEADER: Final = 16 * 1024
"""Bytes of the answer that are read."""
KEEP_SECONDS: Final = 60.0
"""How long an announced address is taken for Vault's without another question."""
PAUSE_SECONDS: Final = 1.0
"""Between two questions at least, so that redirects to unknown addresses cost Vault little."""


class Redirects:
    """Knows the addresses to which Vault may redirect.

    Args:
        address: VAULT_ADDR.
        servers: VAULTSYNC_STORE_SERVERS.
        ask_leader: sends GET sys/leader to VAULT_ADDR, without a token and without following a redirect, and returns
            the body, b"" where there is none.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        address: str,
        servers: Iterable[str],
        ask_leader: Callable[[], bytes],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._home = parse_address(address)
        self._configured = parse_addresses((address, *servers))
        self._ask_leader = ask_leader
        self._clock = clock
        self._lock = threading.Lock()
        self._announced: frozenset[Address] = frozenset()
        self._asked = float("-inf")

    def start(self) -> list[Address]:
        """The trail of a request that is sent to VAULT_ADDR; empty where that is no plain address."""
        return [] if self._home is None else [self._home]

    def follow(self, method: str, trail: list[Address], path: str, status: int, locations: Sequence[str]) -> Address:
        """Where to send the request next. May ask Vault, and wait for that.

        Args:
            method: of the request, in capitals.
            trail: of `start`, then what this returned; the next address is appended.
            path: that was asked for, from /v1/ on.
            status: of the redirect.
            locations: its headers `Location`.

        Raises:
            RedirectRefused: nowhere.
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
        with self._lock:  # threads that are redirected together ask once
            found = choose(wanted, self._announced)
            age = self._clock() - self._asked
            if age < PAUSE_SECONDS or (found is not None and age < KEEP_SECONDS):
                return found
            try:
                self._announced = _leader(self._ask_leader())
            finally:
                self._asked = self._clock()
            return choose(wanted, self._announced)


def _leader(body: bytes) -> frozenset[Address]:
    """The active node's API address. `leader_cluster_address` is the port between the nodes, which has no API."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return frozenset()
    told = document.get("leader_address") if isinstance(document, dict) else None
    return parse_addresses([told] if isinstance(told, str) else [])
