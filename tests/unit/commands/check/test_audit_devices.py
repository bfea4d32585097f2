"""Audit devices as sys/audit may return them: the results of their checks, and the commands that fix them."""

import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.build import settings
from vaultsync.commands.check.audit_devices import (
    AuditDevice,
    check_devices,
    check_listener,
    devices_unknown,
    enable_device,
    parse_devices,
)
from vaultsync.commands.check.report import Status
from vaultsync.config.change_source import parse_audit_address
from vaultsync.config.settings import Settings

UDP = "udp:0.0.0.0:8220"
FILE = AuditDevice("file", "file", {"file_path": "/vault/logs/audit.log"})


def configured(listen: str = UDP, file: str = "", *, has_tls: bool = False) -> Settings:
    return settings(audit_listen=listen, audit_file=file, audit_tls_cert="cert.pem" if has_tls else "")


def sends_to(address: str, socket_type: str = "tcp", path: str = "vaultsync", **options: str) -> AuditDevice:
    more = {"socket_type": socket_type} if socket_type else {}
    return AuditDevice(path, "socket", {"address": address, "write_timeout": "10ms", **more, **options})


def marked(listen: str, *found: AuditDevice) -> dict[str, Status]:
    return {line.subject: line.status for line in check_devices(configured(listen), found)}


@pytest.mark.parametrize(
    ("address", "socket_type", "blocks"),
    [
        ("vaultsync-audit.vaultsync:8220", "tcp", True),
        ("vaultsync-audit.vaultsync:8220", "", True),
        ("10.1.2.3:8220", "tcp4", True),
        ("[2001:db8::7]:8220", "tcp6", True),
        ("vaultsync-audit.vaultsync:8220", "udp", False),
        ("[2001:db8::7]:8220", "udp6", False),
        ("127.0.0.1:8220", "tcp", False),
        ("127.8.8.8:8220", "tcp", False),
        ("[::1]:8220", "tcp", False),
        ("localhost:8220", "tcp", False),
        (":8220", "tcp", False),
        ("0.0.0.0:8220", "tcp", False),
        ("/run/vaultsync/audit", "unix", False),
    ],
)
def test_tcp_to_another_machine_can_block_vault(address: str, socket_type: str, blocks: bool) -> None:
    device = sends_to(address, socket_type)
    assert device.can_block == blocks
    assert (marked(UDP, device, FILE).get("vaultsync/") is Status.FAILED) == blocks


@pytest.mark.parametrize(
    ("listen", "address", "path", "mark"),
    [
        (UDP, "10.1.2.3:8220", "a", Status.FAILED),  # its port
        (UDP, "10.1.2.3:9000", "vaultsync-west", Status.FAILED),
        (UDP, "vaultsync.example:9000", "a", Status.FAILED),
        (UDP, "siem.example:9000", "a", Status.WARNING),
        ("", "siem.example:9000", "a", Status.FAILED),  # whose it is, can't be told
    ],
)
def test_a_blocking_device_of_another_receiver_is_a_warning(listen: str, address: str, path: str, mark: Status) -> None:
    assert marked(listen, sends_to(address, path=path), FILE)[f"{path}/"] is mark


def test_devices_without_problems_are_one_line() -> None:
    [line] = check_devices(configured(), [FILE, sends_to("10.1.2.3:8220", "udp")])
    assert (line.status, line.found, line.fix) == (Status.OK, "2 devices; vaultsync/ for vaultsync", "")
    [line] = check_devices(configured("", "/vault/logs/audit.log"), [FILE, AuditDevice("syslog", "syslog")])
    assert (line.status, line.found) == (Status.OK, "2 devices; file/ for vaultsync")
    [line] = check_devices(configured("unix:/run/a"), [FILE, sends_to("/run/a", "unix", "a")])
    assert (line.status, line.found) == (Status.OK, "2 devices; a/ for vaultsync")
    [line] = check_devices(configured(""), [])
    assert (line.status, line.found) == (Status.OK, "0 devices")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "jsonx"}, "its format is jsonx"),
        ({"prefix": "x"}, "it has a prefix"),
        ({"filter": "mount_type == kv"}, "it has a filter"),
        ({"log_raw": "true"}, "it has log_raw"),
        ({"log_raw": "1"}, "it has log_raw"),
        ({"write_timeout": "2s"}, "its write_timeout is 2s"),
        ({"write_timeout": ""}, "its write_timeout is missing"),
        ({"write_timeout": "soon"}, "its write_timeout is soon"),
        ({"write_timeout": "0"}, "its write_timeout is 0"),
    ],
)
def test_options_by_which_nothing_or_too_much_arrives_are_warnings(options: dict[str, str], words: str) -> None:
    first, _ = check_devices(configured(), [FILE, sends_to("10.1.2.3:8220", "udp", **options)])
    assert (first.subject, first.status) == ("vaultsync/", Status.WARNING)
    assert words in first.found
    assert "socket_type=udp" in first.fix
    [(name, value)] = options.items()
    assert f"{name}={value} " not in first.fix.partition("#")[0]
    other = sends_to("siem.example:9000", "udp", "siem", **options)
    assert [line.subject for line in check_devices(configured(), [FILE, other])] == [""]
    if "write_timeout" in options:  # of a socket alone
        return
    file = AuditDevice("file", "file", {"file_path": "/a", **options})
    first, _ = check_devices(configured("", "/a"), [file, AuditDevice("syslog", "syslog")])
    assert (first.subject, first.status) == ("file/", Status.WARNING)


@pytest.mark.parametrize("value", ["false", "False", "0", "f"])
def test_log_raw_may_be_switched_off_in_words(value: str) -> None:
    assert [
        line.status for line in check_devices(configured(), [FILE, sends_to("192.0.2.1:8220", "udp", log_raw=value)])
    ] == [Status.OK]


@pytest.mark.parametrize("timeout", ["10ms", "0.1s"])
def test_a_short_write_timeout_is_ok(timeout: str) -> None:
    assert not sends_to("10.1.2.3:8220", "udp", write_timeout=timeout).waits_long


@pytest.mark.parametrize("address", ["127.0.0.1:8220", "localhost:8220", ":8220"])
def test_on_loopback_no_write_timeout_is_needed(address: str) -> None:
    assert not sends_to(address, "udp", write_timeout="").waits_long


text = st.text(st.characters(exclude_categories=["C", "Z"]) | st.sampled_from(" '\"$`;&|\\"), max_size=20)


@given(path=text, address=text, timeout=text, description=text, is_local=st.booleans())
def test_whatever_stands_in_a_device_is_one_word_of_the_command(
    path: str, address: str, timeout: str, description: str, is_local: bool
) -> None:
    options = {"address": address, "write_timeout": timeout, "prefix": "x"}
    command = AuditDevice(path, "socket", options, description, is_local).replace()
    words = shlex.split(command)
    assert words[:3] == ["vault", "audit", "disable"]
    assert words[3:8] == [path, "&&", "vault", "audit", "enable"]
    flags = (["-local"] if is_local else []) + ([f"-description={description}"] if description else [])
    name = AuditDevice(path, "socket", options).dns_name
    wanted = f"IP:{address.rpartition(':')[2].lstrip('0') or '0'}" if name else address
    given_options = [f"address={wanted}", "socket_type=udp", "write_timeout=10ms"]
    assert words[8:] == [f"-path={path}", *flags, "socket", *given_options]


def test_a_device_without_a_write_timeout_gets_one() -> None:
    """A UDP device needs it where vaultsync's machine is gone from Vault's own subnet."""
    again = sends_to("192.0.2.1:1", write_timeout="").replace()
    assert again.endswith("socket address=192.0.2.1:1 socket_type=udp write_timeout=10ms")


@pytest.mark.parametrize("odd", ["\x1b[2J", "a\nb", "\u202e"])
def test_unprintable_characters_are_not_printed(odd: str) -> None:
    for device in (sends_to("a:1", path=odd), sends_to(odd), AuditDevice("a", "socket", {}, odd)):
        assert odd not in device.replace()
        assert "vault audit list -detailed" in device.replace()


@pytest.mark.parametrize(
    "listed",
    [{}, {"a/": None}, {"a/": {}}, {"a/": {"type": 1, "options": []}}, {"a/": {"type": "socket", "options": {"x": 1}}}],
)
def test_whatever_vault_returns_is_read(listed: dict[str, Any]) -> None:
    assert check_devices(configured(), parse_devices(listed))


def test_a_device_is_read_from_vaults_answer() -> None:
    options = {"address": "a:1", "socket_type": "tcp"}
    given_device = {"type": "socket", "options": options, "description": "d", "local": True, "path": "a/"}
    assert parse_devices({"a/": given_device}) == (AuditDevice("a", "socket", options, "d", is_local=True),)


def test_tls_is_for_a_tunnel_and_no_reason_to_warn() -> None:
    assert [line.status for line in check_listener(configured("0.0.0.0:8220"))] == [Status.WARNING]
    assert check_listener(configured("0.0.0.0:8220", has_tls=True)) == []


def test_unreadable_devices_are_reported_with_vaults_reason() -> None:
    assert devices_unknown("Vault returned 400").found.endswith("(Vault returned 400)")


def test_a_device_that_names_the_service_gets_its_address() -> None:
    """The former manual had one give the name, and Vault would wait for DNS while nothing listens."""
    again = sends_to("vaultsync-audit.sync-1.svc:8220", "tcp").replace()
    ip = "$(kubectl -n sync-1 get service vaultsync-audit -o jsonpath='{.spec.clusterIP}')"
    assert again.endswith(f'socket address="{ip}:8220" socket_type=udp write_timeout=10ms')
    line = check_devices(configured(), [FILE, sends_to("vaultsync-audit.vaultsync:8220", "udp")])[0]
    assert "its address is a name" in line.found


@pytest.mark.parametrize(
    ("listen", "options"),
    [
        ("unix:/run/vaultsync/audit", "address=/run/vaultsync/audit socket_type=unix"),
        ("tcp:127.0.0.1:8220", "address=127.0.0.1:8220 socket_type=tcp"),
        ("udp:127.0.0.1:8220", "address=127.0.0.1:8220 socket_type=udp"),
        ("udp:0.0.0.0:8220", "address=192.0.2.1:1 socket_type=udp write_timeout=10ms"),
    ],
)
def test_a_device_is_enabled_again_as_vaultsync_listens(listen: str, options: str) -> None:
    assert sends_to("192.0.2.1:1").replace(parse_audit_address(listen)).endswith(f"socket {options}")


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("vaultsync.example", "vaultsync.example"),
        ("$(id)'`id`;vaultsync", shlex.quote("$(id)'`id`;vaultsync")),
        ("\x1b[2Jvaultsync", "the name that `vault audit list -detailed` shows"),
    ],
)
def test_the_fix_for_a_dns_name_is_an_ip_address(transport: str, name: str, shown: str) -> None:
    line = check_devices(configured(), [FILE, sends_to(f"{name}:9000", transport)])[0]
    assert line.subject == "vaultsync/"
    command, _, remark = line.fix.partition(" # ")
    assert command.endswith(" socket address=IP:9000 socket_type=udp write_timeout=10ms")
    assert remark.startswith(f"IP is the IP address of {shown}; ")


def test_beside_vault_no_address_has_to_be_filled_in() -> None:
    line = check_devices(configured("unix:/run/audit"), [FILE, sends_to("vaultsync.example:9000")])[0]
    assert " socket address=/run/audit socket_type=unix # " in line.fix
    assert "IP" not in line.fix


SERVICE = "$(kubectl -n vaultsync get service vaultsync-audit -o jsonpath='{.spec.clusterIP}')"


@pytest.mark.parametrize(
    ("listen", "receiver"),
    [
        ("", f'address="{SERVICE}:8220" socket_type=udp write_timeout=10ms'),
        ("udp:0.0.0.0:9220", f'address="{SERVICE}:9220" socket_type=udp write_timeout=10ms'),
        ("udp:127.0.0.1:9220", "address=127.0.0.1:9220 socket_type=udp"),
        ("tcp:127.0.0.1:9220", "address=127.0.0.1:9220 socket_type=tcp"),
        ("unix:/run/audit", "address=/run/audit socket_type=unix"),
    ],
)
def test_a_device_is_enabled_as_vaultsync_listens(listen: str, receiver: str) -> None:
    command, _, remark = enable_device(configured(listen)).partition(" # ")
    assert command == f"vault audit enable -path=vaultsync socket {receiver}"
    assert ("outside the cluster" in remark) == ("kubectl" in receiver)
    if listen:
        assert check_devices(configured(listen), [FILE])[0].fix == enable_device(configured(listen))


def test_a_listener_with_tls_gets_a_device_that_sends_to_a_proxy_on_vaults_machine() -> None:
    assert "address=127.0.0.1:PORT socket_type=tcp" in enable_device(configured("0.0.0.0:8220", has_tls=True))
