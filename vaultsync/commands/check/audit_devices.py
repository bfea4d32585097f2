"""What `vaultsync check` reports about Vault's audit devices: which can block Vault, and which deliver to vaultsync.

Pure: gets what sys/audit has returned. That is written by Vault's admins, and is quoted before it is printed.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final

from vaultsync.commands.check.report import Check, CheckResult, Hearing, Status, cut, some
from vaultsync.config.audit_address import (
    ENABLE,
    SERVICE_IP,
    WRITE_TIMEOUT,
    AuditAddress,
    Transport,
    parse_audit_address,
)
from vaultsync.core.durations import parse_duration
from vaultsync.vault.api import SYS_AUDIT

NEEDED: Final = frozenset({"read", "sudo"})
"""The capabilities that reading sys/audit takes."""
LONGEST_TIMEOUT: Final = 0.1
"""Seconds of write_timeout about which nothing is said."""
FILE: Final = "vault audit enable file file_path=/vault/logs/audit.log"
LIST: Final = "`vault audit list -detailed`"
DECLARED: Final = "where OpenBao's configuration declares the device, change that instead"
"""OpenBao refuses to enable a device by its API, unless it is configured to."""
_NOT_READABLE: Final = (
    f"`read` and `sudo` on {SYS_AUDIT}, which vaultsync has no other use for. {LIST} shows the same: a socket device "
    "blocks Vault if its socket_type is tcp or missing, and its address is another machine's"
)
_THIS_MACHINE: Final = ("", "0.0.0.0", "::", "localhost")  # noqa: S104 — where Vault dials them
_SERVICE_NAME: Final = re.compile(r"address=vaultsync-audit\.([a-z0-9-]{1,63})(?:\.svc(?:\.cluster\.local)?)?\.?:(\d+)")
_KEPT: Final = ("hmac_accessor", "elide_list_responses")
"""Options that a new device gets from the old one. The others change what arrives, or where."""


@dataclass(frozen=True, slots=True)
class AuditDevice:
    """An audit device of Vault.

    Attributes:
        path: where it is enabled, without a slash at its end.
        kind: socket, file, syslog or http.
        options: as they were given when it was enabled.
        description: a person's words.
        is_local: whether it is of one cluster alone, and not replicated.
    """

    path: str
    kind: str
    options: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    is_local: bool = False

    @property
    def address(self) -> AuditAddress | None:
        """Where a socket device sends its entries, None of any other, or where it can't be understood."""
        if self.kind != "socket":
            return None
        transport = self.options.get("socket_type", "").rstrip("46") or "tcp"
        try:
            return parse_audit_address(f"{transport}:{self.options.get('address', '')}")
        except ValueError:
            return None

    @property
    def can_block(self) -> bool:
        """Whether Vault waits for another machine: TCP that does not end on this one."""
        address = self.address
        if address is None or address.transport is not Transport.TCP:
            return False
        return not self.is_on_loopback

    @property
    def is_on_loopback(self) -> bool:
        """Whether it sends to Vault's own machine."""
        address = self.address
        return address is not None and (address.is_loopback or address.host in _THIS_MACHINE)

    @property
    def is_udp_elsewhere(self) -> bool:
        """Whether it sends to another machine by UDP."""
        address = self.address
        return address is not None and address.transport is Transport.UDP and not self.is_on_loopback

    @property
    def is_named_by_dns(self) -> bool:
        """Whether Vault looks a receiver of UDP up by DNS, each time it dials again."""
        address = self.address
        if address is None or not self.is_udp_elsewhere:
            return False
        try:
            ip_address(address.host)
        except ValueError:
            return True
        return False

    @property
    def waits_long(self) -> bool:
        """Whether Vault can wait for a UDP device longer than need be: its write_timeout is long, missing or wrong."""
        if not self.is_udp_elsewhere:
            return False
        try:
            return not 0 < parse_duration(self.options.get("write_timeout", "")) <= LONGEST_TIMEOUT  # 0: sends nothing
        except ValueError:
            return True

    def is_for(self, hearing: Hearing) -> bool:
        """Whether it delivers, or is meant to deliver, to the vaultsync of these settings."""
        if self.kind == "file":
            return bool(hearing.file) and self.options.get("file_path") == hearing.file
        listen, address = listener(hearing), self.address
        if listen is not None and address is not None:
            return (address.port, address.path) == (listen.port, listen.path) or self.is_named_so
        return self.kind == "socket" and self.is_named_so

    @property
    def is_named_so(self) -> bool:
        """Whether its path or address names vaultsync."""
        return "vaultsync" in self.path or "vaultsync" in self.options.get("address", "")

    def again(self, listen: AuditAddress | None = None) -> str:
        """The commands that enable it again, or what to do where its texts are none for a terminal.

        Args:
            listen: as for `enable`.
        """
        enable = self.enable(listen)
        if not f"{self.path}{enable}".isprintable():
            return f"disable the device and enable it with socket_type=udp; {LIST} shows it"
        return f"vault audit disable {shlex.quote(self.path)} && {enable}"

    def enable(self, listen: AuditAddress | None) -> str:
        """The command that enables a device like it, which delivers to vaultsync.

        Args:
            listen: where vaultsync listens, None where that is not set. On Vault's own machine it sends there; to
                another machine it sends by UDP.
        """
        options = {name: self.options[name] for name in _KEPT if name in self.options}
        new = {"address": self.options.get("address", ""), "socket_type": "udp", "write_timeout": WRITE_TIMEOUT}
        if listen is not None and listen.is_loopback and listen.transport is not Transport.UDP:
            new = {"address": listen.path or str(listen).partition(":")[2], "socket_type": listen.transport.value}
        options = new | options
        flags = ["-local"] if self.is_local else []
        flags += [f"-description={self.description}"] if self.description else []
        words = ["-path=" + self.path, *flags, "socket", *(f"{name}={value}" for name, value in options.items())]
        return f"vault audit enable {_with_service_ip(words)}"


def _with_service_ip(words: Sequence[str]) -> str:
    """Quoted for a shell, which then asks for the address of the Service where its name was given."""
    found = [(word, _SERVICE_NAME.fullmatch(word)) for word in words]
    return " ".join(
        f'address="{SERVICE_IP.replace("-n vaultsync", f"-n {match[1]}")}:{match[2]}"' if match else shlex.quote(word)
        for word, match in found
    )


def parse_devices(listed: Mapping[str, Any]) -> tuple[AuditDevice, ...]:
    """The devices in Vault's answer; what is none is left out."""
    return tuple(_device(path, given) for path, given in sorted(listed.items()) if isinstance(given, dict))


def _device(path: str, given: Mapping[str, Any]) -> AuditDevice:
    options = given.get("options")
    return AuditDevice(
        path=path.strip("/"),
        kind=str(given.get("type", "")),
        options={str(name): str(value) for name, value in options.items()} if isinstance(options, dict) else {},
        description=str(given.get("description") or ""),
        is_local=given.get("local") is True,
    )


def listener(hearing: Hearing) -> AuditAddress | None:
    """VAULTSYNC_AUDIT_LISTEN, None where it is not set."""
    return parse_audit_address(hearing.listen) if hearing.listen else None


def unread(reason: str = "") -> CheckResult:
    """The devices could not be listed: that is no failure, as few tokens may.

    Args:
        reason: Vault's answer, "" if the token lacks the capabilities.
    """
    found = f"needs {_NOT_READABLE}" + (f" ({cut(reason)})" if reason else "")
    return CheckResult(Check.AUDIT, Status.NOT_ASKED, found)


def listening(hearing: Hearing) -> list[CheckResult]:
    """Whether vaultsync itself listens for what can block Vault. TLS is for a tunnel that Vault reaches on loopback."""
    listen = listener(hearing)
    if listen is None or listen.transport is not Transport.TCP or listen.is_loopback or hearing.has_tls:
        return []
    udp = AuditAddress(Transport.UDP, listen.host, listen.port)
    found = f"takes entries by TCP from other machines ({listen}): Vault waits while vaultsync can't be reached"
    fix = f"VAULTSYNC_AUDIT_LISTEN={udp}, UDP for that port in Service, container and NetworkPolicy, and in Vault: "
    return [CheckResult(Check.AUDIT, Status.WARNING, found, fix + ENABLE, "VAULTSYNC_AUDIT_LISTEN")]


def devices(hearing: Hearing, found: Sequence[AuditDevice]) -> list[CheckResult]:
    """One line for each device that is wrong, and one for all of them.

    Args:
        hearing: what is set about hearing of changes.
        found: all devices of Vault.
    """
    lines = [line for device in found if (line := _line(hearing, device)) is not None]
    return [*lines, _all(hearing, found, [device for device in found if device.is_for(hearing)])]


def _line(hearing: Hearing, device: AuditDevice) -> CheckResult | None:
    of = f"{cut(device.path)}/"
    if device.can_block:
        address = cut(device.options.get("address", ""))
        found = f"sends by TCP to {address}: while that can't be reached, each request of each client of Vault waits"
        if device.is_for(hearing) or not hearing.listen:
            return CheckResult(Check.AUDIT, Status.FAILED, found, f"{device.again(listener(hearing))} # {DECLARED}", of)
        fix = "send to that receiver, which is not vaultsync's, by UDP, or from a file by an agent"
        return CheckResult(Check.AUDIT, Status.WARNING, found, fix, of)
    problems = [*_problems(hearing, device)] if device.is_for(hearing) else []
    if not problems:
        return None
    found, fix = "; ".join(problems), f"{device.again(listener(hearing))} # {DECLARED}"
    if device.kind == "file":
        fix = f"disable and enable it without these options; {DECLARED}"
    return CheckResult(Check.AUDIT, Status.WARNING, found, fix, of)


def _problems(hearing: Hearing, device: AuditDevice) -> Iterator[str]:
    """Why entries do not arrive as vaultsync needs them."""
    options, address, listen = device.options, device.address, listener(hearing)
    if options.get("format", "json") != "json":
        yield f"its format is {cut(options['format'])}: vaultsync reads JSON alone"
    if options.get("prefix"):
        yield "it has a prefix: vaultsync reads entries without one alone"
    if options.get("filter"):
        yield "it has a filter: vaultsync does not see what that leaves out"
    if options.get("log_raw", "false").lower() not in ("false", "0", "f"):
        yield "it has log_raw: Vault hashes no values, and sends them as they are"
    if device.waits_long:
        shown = cut(options.get("write_timeout", "")) or "missing, which means 2s"
        yield f"its write_timeout is {shown}: Vault can wait for a machine that is gone from its own subnet"
    if device.is_named_by_dns:
        yield "its address is a name: Vault waits for DNS while nothing listens; give it an IP address"
    if address is not None and listen is not None and address.transport is not listen.transport:
        yield f"it sends by {address.transport.value}, and vaultsync listens at {listen}"


def _enable(hearing: Hearing) -> str:
    """The command that enables a device which delivers to vaultsync."""
    listen = listener(hearing)
    if listen is None:
        return f"vault audit enable -path=vaultsync file file_path={shlex.quote(hearing.file)}"
    if listen.is_loopback and listen.transport is not Transport.UDP:
        return AuditDevice("vaultsync", "socket").enable(listen)
    return ENABLE


def _all(hearing: Hearing, found: Sequence[AuditDevice], ours: Sequence[AuditDevice]) -> CheckResult:
    number = f"{len(found)} device{'' if len(found) == 1 else 's'}"
    if not ours and (hearing.listen or hearing.file):
        at = hearing.listen or hearing.file
        return CheckResult(Check.AUDIT, Status.WARNING, f"{number}, none of which writes to {at}", _enable(hearing))
    if len(found) == 1 and ours:
        alone = f"{cut(ours[0].path)}/ is the only device: Vault refuses each request that it can't log there"
        return CheckResult(Check.AUDIT, Status.WARNING, alone, FILE)
    delivers = f"; {some([f'{device.path}/' for device in ours])} for vaultsync" if ours else ""
    return CheckResult(Check.AUDIT, Status.OK, number + delivers)
