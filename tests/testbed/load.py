"""Clients of Vault, each with its own plain HTTP connection, and the duration of each KV write."""

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
    """The results of the writes.

    Attributes:
        seconds: the duration of each, in the order of each client; failed ones included.
        failures: the reasons of the failed writes.
    """

    seconds: Sequence[float]
    failures: Sequence[str] = ()

    @property
    def longest(self) -> float:
        return max(self.seconds)


@dataclass(frozen=True, slots=True)
class Clients:
    """A number of clients, in a network namespace that reaches Vault.

    Args:
        patience: request timeout of a client, in seconds.
    """

    namespace: Namespace
    vault: Vault
    number: int
    patience: float = 5.0

    def write(self, seconds: float, most: int = 10**9) -> Written:
        """Each client writes one secret after another until the time or the number is reached; at least one."""
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
                    connection.close()  # the next request connects again
                    failures.append(f"{type(error).__name__} after {time.perf_counter() - started:.1f} s")
                else:
                    if answer.status != http.client.OK:
                        failures.append(f"HTTP {answer.status}")
                waits.append(time.perf_counter() - started)
        finally:
            connection.close()
        return Written(waits, failures)
