"""config/change_source: VAULTSYNC_AUDIT_LISTEN."""

import pytest

from vaultsync.config.change_source import AuditAddress, Transport, parse_audit_address

UDP, TCP, UNIX = Transport.UDP, Transport.TCP, Transport.UNIX


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("udp:10.0.0.1:8220", AuditAddress(UDP, "10.0.0.1", 8220)),
        ("udp::8220", AuditAddress(UDP, "", 8220)),
        ("udp:[::1]:8220", AuditAddress(UDP, "::1", 8220)),
        ("tcp:127.0.0.1:1", AuditAddress(TCP, "127.0.0.1", 1)),
        ("127.0.0.1:65535", AuditAddress(TCP, "127.0.0.1", 65535)),
        (":8220", AuditAddress(TCP, "", 8220)),
        ("[::]:8220", AuditAddress(TCP, "::", 8220)),
        ("vault.example:8220", AuditAddress(TCP, "vault.example", 8220)),
        ("unix:/run/vaultsync/audit", AuditAddress(UNIX, path="/run/vaultsync/audit")),
    ],
)
def test_addresses(text: str, address: AuditAddress) -> None:
    assert parse_audit_address(text) == address
    assert parse_audit_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["", "udp", "udp:8220", "tcp:8220", "unix:8220", "unix:/", "unix:run", "udp:a b:1", "a:70000", "udp:a:", "8220"],
)
def test_all_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be udp:HOST:PORT, tcp:HOST:PORT or unix:/PATH"):
        parse_audit_address(text)


@pytest.mark.parametrize(
    ("text", "is_loopback"),
    [
        ("127.0.0.1:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("udp:127.8.9.1:1", True),
        ("unix:/x", True),
        ("0.0.0.0:1", False),
        (":1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("vault.example:1", False),
    ],
)
def test_what_only_this_machine_reaches(text: str, is_loopback: bool) -> None:
    address = parse_audit_address(text)
    assert address.is_loopback is is_loopback
    assert address.can_block() is (address.transport is TCP and not is_loopback)
    assert not address.can_block(has_tls=True)
