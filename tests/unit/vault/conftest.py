"""What the tests of vault/ have in common."""

import pytest

from vaultsync.vault import audit_udp


@pytest.fixture(autouse=True)
def _udp_receivers_stop_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_udp, "WAIT_SECONDS", 0.01)
