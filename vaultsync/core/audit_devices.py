"""What `vaultsync check` reports about Vault's audit devices: which can block Vault, and which deliver to vaultsync.

Pure: gets what sys/audit has returned. That is written by Vault's admins, and is quoted before it is printed.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final

from vaultsync.core.audit_address import (
    PORT,
    SERVICE_IP,
    WRITE_TIMEOUT,
    AuditAddress,
    Transport,
    enable_to_service,
    parse_audit_address,
)
from vaultsync.core.check import Hearing, Line, Mark, Name, cut, some
from vaultsync.core.durations import parse_duration

SYS_AUDIT: Final = "sys/audit"
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
_SERVICE_NAME: Final = re.compile(r"vaultsync-audit\.([a-z0-9-]{1,63})(?:\.svc(?:\.cluster\.local)?)?\.?:(\d+)")
_TO_TUNNEL: Final = (
    "vault audit enable -path=vaultsync socket address=127.0.0.1:PORT socket_type=tcp # PORT is that of the TLS proxy "
    "on Vault's machine, which connects to vaultsync"
)
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
        return address is not None and address.can_block() and not self.is_on_loopback

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
        return self.is_udp_elsewhere and bool(self.dns_name)

    @property
    def dns_name(self) -> str:
        """The name of another machine to which it sends, "" where it has an IP address, or is on this machine."""
        address = self.address
        if address is None or self.is_on_loopback:
            return ""
        try:
            ip_address(address.host)
        except ValueError:
            return address.host
        return ""

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
        flags = ["-local"] if self.is_local else []
        flags += [f"-description={self.description}"] if self.description else []
        kept = [f"{name}={self.options[name]}" for name in _KEPT if name in self.options]
        words = [shlex.join([f"-path={self.path}", *flags, "socket"]), *self._receiver(listen)]
        return " ".join(["vault audit enable", *words, *map(shlex.quote, kept)])

    def remark(self, listen: AuditAddress | None) -> str:
        """What is to be filled into the command of `enable`, "" if nothing is.

        Args:
            listen: as for `enable`.
        """
        if (listen is not None and listen.is_loopback) or not self._unknown_name:
            return ""
        name = shlex.quote(cut(self._unknown_name))  # a shell may take a comment for words, as zsh does
        return f"IP is the IP address of {name if name.isprintable() else f'the name that {LIST} shows'}"

    def _receiver(self, listen: AuditAddress | None) -> list[str]:
        """The options that tell where to send, quoted for a shell; the address comes first."""
        if listen is not None and listen.is_loopback:
            address = listen.path or str(listen).partition(":")[2]
            return [shlex.quote(f"address={address}"), f"socket_type={listen.transport.value}"]
        return [self._address_elsewhere(), "socket_type=udp", f"write_timeout={WRITE_TIMEOUT}"]

    def _address_elsewhere(self) -> str:
        """An IP address in place of a name: the shell asks for that of the Service, a person fills in any other."""
        address = self.options.get("address", "")
        service = _SERVICE_NAME.fullmatch(address)
        if service is not None:
            return f'address="{SERVICE_IP.replace("-n vaultsync", f"-n {service[1]}")}:{service[2]}"'
        if self.address is not None and self._unknown_name:
            return f"address=IP:{self.address.port}"
        return shlex.quote(f"address={address}")

    @property
    def _unknown_name(self) -> str:
        """Its DNS name if only a person can tell the address: it may be known to Vault's machine alone."""
        return "" if _SERVICE_NAME.fullmatch(self.options.get("address", "")) else self.dns_name


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


def unread(reason: str = "") -> Line:
    """The devices could not be listed: that is no failure, as few tokens may.

    Args:
        reason: Vault's answer, "" if the token lacks the capabilities.
    """
    found = f"needs {_NOT_READABLE}" + (f" ({cut(reason)})" if reason else "")
    return Line(Name.AUDIT, Mark.NOT_ASKED, found)


def enable(hearing: Hearing) -> str:
    """The command that enables a device which delivers to the vaultsync of these settings, and who needs another one.

    Args:
        hearing: where nothing is set, it is for the address that deploy/base sets.
    """
    listen = listener(hearing)
    if listen is None and hearing.file:
        return f"vault audit enable -path=vaultsync file file_path={shlex.quote(hearing.file)}"
    if listen is not None and listen.is_loopback:
        return AuditDevice("vaultsync", "socket").enable(listen)
    if listen is not None and listen.transport is Transport.TCP and hearing.has_tls:
        return _TO_TUNNEL
    return enable_to_service(listen.port if listen is not None else PORT)


def listening(hearing: Hearing) -> list[Line]:
    """Whether vaultsync itself listens for what can block Vault."""
    listen = listener(hearing)
    if listen is None or not listen.can_block(has_tls=hearing.has_tls):
        return []
    udp = AuditAddress(Transport.UDP, listen.host, listen.port)
    found = f"takes entries by TCP from other machines ({listen}): Vault waits while vaultsync can't be reached"
    fix = f"VAULTSYNC_AUDIT_LISTEN={udp}, UDP for that port in Service, container and NetworkPolicy, and in Vault: "
    return [Line(Name.AUDIT, Mark.WARNING, found, fix + enable_to_service(listen.port), "VAULTSYNC_AUDIT_LISTEN")]


def devices(hearing: Hearing, found: Sequence[AuditDevice]) -> list[Line]:
    """One line for each device that is wrong, and one for all of them.

    Args:
        hearing: what is set about hearing of changes.
        found: all devices of Vault.
    """
    lines = [line for device in found if (line := _line(hearing, device)) is not None]
    return [*lines, _all(hearing, found, [device for device in found if device.is_for(hearing)])]


def _line(hearing: Hearing, device: AuditDevice) -> Line | None:
    of = f"{cut(device.path)}/"
    if device.can_block:
        address = cut(device.options.get("address", ""))
        found = f"sends by TCP to {address}: while that can't be reached, each request of each client of Vault waits"
        if device.is_for(hearing) or not hearing.listen:
            return Line(Name.AUDIT, Mark.FAILED, found, _mend(hearing, device), of)
        fix = "send to that receiver, which is not vaultsync's, by UDP, or from a file by an agent"
        return Line(Name.AUDIT, Mark.WARNING, found, fix, of)
    problems = [*_problems(hearing, device)] if device.is_for(hearing) else []
    if not problems:
        return None
    found, fix = "; ".join(problems), _mend(hearing, device)
    if device.kind == "file":
        fix = f"disable and enable it without these options; {DECLARED}"
    return Line(Name.AUDIT, Mark.WARNING, found, fix, of)


def _mend(hearing: Hearing, device: AuditDevice) -> str:
    """The commands that enable it as it should be, and what a person has to know about them."""
    listen = listener(hearing)
    remarks = [remark for remark in (device.remark(listen), DECLARED) if remark]
    return f"{device.again(listen)} # {'; '.join(remarks)}"


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


def _all(hearing: Hearing, found: Sequence[AuditDevice], ours: Sequence[AuditDevice]) -> Line:
    number = f"{len(found)} device{'' if len(found) == 1 else 's'}"
    if not ours and (hearing.listen or hearing.file):
        at = hearing.listen or hearing.file
        return Line(Name.AUDIT, Mark.WARNING, f"{number}, none of which writes to {at}", enable(hearing))
    if len(found) == 1 and ours:
        alone = f"{cut(ours[0].path)}/ is the only device: Vault refuses each request that it can't log there"
        return Line(Name.AUDIT, Mark.WARNING, alone, FILE)
    delivers = f"; {some([f'{device.path}/' for device in ours])} for vaultsync" if ours else ""
    return Line(Name.AUDIT, Mark.OK, number + delivers)
