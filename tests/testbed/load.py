"""Clients of Vault, each a plain HTTP connection of its own, and what they waited for each KV write."""

from __future__ import annotations

import http.client
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from tests.testbed.netns import Namespace
from tests.testbed.servers import ROOT_TOKEN, Vault

HEADERS = {"X-Vault-Token": ROOT_TOKEN, "Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Written:
    """What became of the writes.

    Attributes:
        seconds: how long each took, in the order of each client; those that failed too.
        failures: why those failed that did.
    """

    seconds: Sequence[float]
    failures: Sequence[str] = ()

    @property
    def longest(self) -> float:
        return max(self.seconds)


@dataclass(frozen=True, slots=True)
class Clients:
    """So many clients, in a namespace from which they reach Vault.

    Args:
        patience: seconds after which a client gives up a request.
    """

    namespace: Namespace
    vault: Vault
    number: int
    patience: float = 5.0

    def write(self, seconds: float, most: int = 10**9) -> Written:
        """Each writes one secret after another for so long, or at most so many; at least one."""
        ends_at = time.monotonic() + seconds
        with self.namespace.threads(self.number) as threads:
            found = list(threads.map(lambda number: self._write(number, ends_at, most), range(self.number)))
        return Written(
            list(chain.from_iterable(one.seconds for one in found)),
            list(chain.from_iterable(one.failures for one in found)),
        )

    def _write(self, number: int, ends_at: float, most: int) -> Written:
        path = f"/v1/secret/data/load/{number}"
        waits: list[float] = []
        failures: list[str] = []
        connection = http.client.HTTPConnection(self.vault.host, self.vault.port, timeout=self.patience)
        try:
            while not waits or (len(waits) < most and time.monotonic() < ends_at):
                body = json.dumps({"data": {"value": secrets.token_hex(16)}})
                started = time.perf_counter()
                try:
                    connection.request("POST", path, body, HEADERS)
                    answer = connection.getresponse()
                    answer.read()
                except OSError as error:
                    connection.close()  # the next request connects anew
                    failures.append(f"{type(error).__name__} after {time.perf_counter() - started:.1f} s")
                else:
                    if answer.status != http.client.OK:
                        failures.append(f"HTTP {answer.status}")
                waits.append(time.perf_counter() - started)
        finally:
            connection.close()
        return Written(waits, failures)
