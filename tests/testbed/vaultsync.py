"""The vaultsync under test: a process of its own (`python -m vaultsync run`), logged in only as deploy/ allows."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.testbed.api import Api
from tests.testbed.identity import PROJECT, Identity
from tests.testbed.processes import Process, accepts, free_port, receives

# Variables of the user that must not reach the process: addresses and tokens of other servers, and settings.
FOREIGN = ("VAULT_", "BAO_", "VAULTSYNC_", "KUBE")


class VaultsyncProcess(Process):
    """One running vaultsync.

    Args:
        identity: None if all credentials and settings are in `env`.
    """

    def __init__(
        self,
        identity: Identity | None,
        work: Path,
        name: str = "vaultsync",
        env: Mapping[str, str] | None = None,
        arguments: Sequence[str] = ("run",),
    ) -> None:
        self.health_port = free_port()
        self.audit_port = free_port()
        self.audit_name = f"vaultsync-{self.audit_port}"
        own = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        login = {**self._listen(), **identity.env} if identity else {}
        given = {"HOME": str(work), "PYTHONUNBUFFERED": "1", **login, **(env or {})}
        super().__init__(
            name,
            [sys.executable, "-m", "vaultsync", *arguments],
            log=work / "logs" / f"{name}-{self.health_port}.log",
            env={**own, **given},
            cwd=PROJECT,
        )

    @property
    def audit_address(self) -> str:
        """The default settings for Vault's audit device."""
        return f"udp:127.0.0.1:{self.audit_port}"

    @property
    def health(self) -> Api:
        """Its own health endpoint (/livez and /readyz)."""
        return Api(f"http://127.0.0.1:{self.health_port}")

    def wait_until_ready(self, timeout: float = 15.0) -> None:
        self.wait_until(lambda: self.health.answers("/readyz"), timeout)

    def wait_until_listening(self, timeout: float = 15.0) -> None:
        """Waits until Vault's audit device can send to it."""
        self.wait_until(lambda: receives(self.audit_port) or accepts(self.audit_port), timeout)

    def _listen(self) -> dict[str, str]:
        return {
            "VAULTSYNC_HEALTH_LISTEN": f"127.0.0.1:{self.health_port}",
            "VAULTSYNC_AUDIT_LISTEN": self.audit_address,
        }


class Metrics:
    """One scrape: `metrics("seeds_total")`, `metrics("refusals_total", reason="annotation")`; 0 if there is none."""

    def __init__(self, process: VaultsyncProcess) -> None:
        self.text = process.health.text("/metrics")
        self._samples = [one for family in text_string_to_metric_families(self.text) for one in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of all samples that have these labels."""
        return sum(
            sample.value
            for sample in self._samples
            if sample.name == f"vaultsync_{name}" and labels.items() <= sample.labels.items()
        )
