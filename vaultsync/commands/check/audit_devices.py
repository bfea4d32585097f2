"""Vault's audit devices: parsed from sys/audit, and the commands that enable them. No I/O.

Vault's admins write paths, options and descriptions: every text is quoted before it is printed.
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from vaultsync.commands.check.audit_commands import PORT, SERVICE_IP, WRITE_TIMEOUT, enable_to_service
from vaultsync.commands.check.report import cut
from vaultsync.config.change_source import (
    AuditAddress,
    Transport,
    parse_audit_address,
)
from vaultsync.config.settings import Settings
from vaultsync.core.durations import parse_duration
from vaultsync.core.untrusted import mapping, text

MAX_WRITE_TIMEOUT: Final = 0.1
"""Seconds: a longer write_timeout is a warning."""
LIST: Final = "`vault audit list -detailed`"
_LOCAL_HOSTS: Final = ("", "0.0.0.0", "::", "localhost")  # noqa: S104 — Vault connects to itself there
_SERVICE_NAME: Final = re.compile(r"vaultsync-audit\.([a-z0-9-]{1,63})(?:\.svc(?:\.cluster\.local)?)?\.?:(\d+)")
_TO_TUNNEL: Final = (
    "vault audit enable -path=vaultsync socket address=127.0.0.1:PORT socket_type=tcp # PORT is that of the TLS proxy "
    "on Vault's machine, which connects to vaultsync"
)
_KEPT: Final = ("hmac_accessor", "elide_list_responses")
"""Options that a new device takes from the old one. The others change the entries or their receiver."""


@dataclass(frozen=True, slots=True)
class AuditDevice:
    """An audit device of Vault.

    Attributes:
        path: without a slash at its end.
        kind: socket, file, syslog or http.
        options: of `vault audit enable`.
        is_local: whether it belongs to one cluster, and is not replicated.
    """

    path: str
    kind: str
    options: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    is_local: bool = False

    @property
    def address(self) -> AuditAddress | None:
        """Where a socket device sends its entries, None for other devices and for an invalid address."""
        if self.kind != "socket":
            return None
        transport = self.options.get("socket_type", "").rstrip("46") or "tcp"
        try:
            return parse_audit_address(f"{transport}:{self.options.get('address', '')}")
        except ValueError:
            return None

    @property
    def can_block(self) -> bool:
        """Whether Vault waits for another machine: the device sends to it by TCP."""
        address = self.address
        return address is not None and address.can_block() and not self.is_on_loopback

    @property
    def is_on_loopback(self) -> bool:
        """Whether it sends to Vault's own machine."""
        address = self.address
        return address is not None and (address.is_loopback or address.host in _LOCAL_HOSTS)

    @property
    def is_remote_udp(self) -> bool:
        """Whether it sends to another machine by UDP."""
        address = self.address
        return address is not None and address.transport is Transport.UDP and not self.is_on_loopback

    @property
    def dns_name(self) -> str:
        """The host name of another machine, "" for an IP address or Vault's own machine."""
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
        """Whether Vault can wait long for another machine by UDP: write_timeout is long, missing or invalid."""
        if not self.is_remote_udp:
            return False
        try:
            seconds = parse_duration(self.options.get("write_timeout", ""))
        except ValueError:
            return True
        return not 0 < seconds <= MAX_WRITE_TIMEOUT  # with 0 Vault sends nothing

    def is_for(self, settings: Settings) -> bool:
        """Whether it delivers to the vaultsync of these settings, or is meant to: then its path or address names it."""
        if self.kind == "file":
            return bool(settings.audit_file) and self.options.get("file_path") == settings.audit_file
        is_named = "vaultsync" in self.path or "vaultsync" in self.options.get("address", "")
        listen, address = listener(settings), self.address
        if listen is not None and address is not None:
            return (address.port, address.path) == (listen.port, listen.path) or is_named
        return self.kind == "socket" and is_named

    def replace(self, listen: AuditAddress | None = None) -> str:
        """The commands that enable it again, or an instruction if its texts are not printable; see `enable`."""
        enable = self.enable(listen)
        if not f"{self.path}{enable}".isprintable():
            return f"disable the device and enable it with socket_type=udp; {LIST} shows it"
        return f"vault audit disable {shlex.quote(self.path)} && {enable}"

    def enable(self, listen: AuditAddress | None) -> str:
        """The command that enables a device with its path and description that delivers to vaultsync.

        Args:
            listen: where vaultsync listens, None if it does not listen. To a loopback address the device sends
                directly, to another machine by UDP.
        """
        flags = ["-local"] if self.is_local else []
        flags += [f"-description={self.description}"] if self.description else []
        kept = [f"{name}={self.options[name]}" for name in _KEPT if name in self.options]
        words = [shlex.join([f"-path={self.path}", *flags, "socket"]), *self._receiver(listen)]
        return " ".join(["vault audit enable", *words, *map(shlex.quote, kept)])

    def placeholder(self, listen: AuditAddress | None) -> str:
        """The placeholder in the command of `enable`, explained; "" if there is none."""
        if (listen is not None and listen.is_loopback) or not self._unknown_name:
            return ""
        name = shlex.quote(cut(self._unknown_name))  # an interactive zsh does not ignore comments
        return f"IP is the IP address of {name if name.isprintable() else f'the name that {LIST} shows'}"

    def _receiver(self, listen: AuditAddress | None) -> list[str]:
        """The options of the receiver, quoted for a shell; the address comes first."""
        if listen is not None and listen.is_loopback:
            address = listen.path or str(listen).partition(":")[2]
            return [shlex.quote(f"address={address}"), f"socket_type={listen.transport.value}"]
        return [self._remote_address(), "socket_type=udp", f"write_timeout={WRITE_TIMEOUT}"]

    def _remote_address(self) -> str:
        """An IP address instead of a name: the shell looks up that of the Service, a person fills in any other."""
        address = self.options.get("address", "")
        service = _SERVICE_NAME.fullmatch(address)
        if service is not None:
            return f'address="{SERVICE_IP.replace("-n vaultsync", f"-n {service[1]}")}:{service[2]}"'
        if self.address is not None and self._unknown_name:
            return f"address=IP:{self.address.port}"
        return shlex.quote(f"address={address}")

    @property
    def _unknown_name(self) -> str:
        """Its DNS name, unless that of the Service: perhaps only Vault's machine resolves it."""
        return "" if _SERVICE_NAME.fullmatch(self.options.get("address", "")) else self.dns_name


def parse_devices(listed: object) -> tuple[AuditDevice, ...]:
    """The devices in the response of sys/audit, without invalid ones."""
    found = mapping(listed)
    return tuple(_device(path, found[path]) for path in sorted(found) if isinstance(found[path], dict))


def _device(path: str, given: Mapping[str, object]) -> AuditDevice:
    return AuditDevice(
        path=path.strip("/"),
        kind=text(given.get("type")),
        options={str(name): str(value) for name, value in mapping(given.get("options")).items()},
        description=text(given.get("description")),
        is_local=given.get("local") is True,
    )


def listener(settings: Settings) -> AuditAddress | None:
    """VAULTSYNC_AUDIT_LISTEN, None if it is not set."""
    return parse_audit_address(settings.audit_listen) if settings.audit_listen else None


def enable_device(settings: Settings) -> str:
    """The command that enables a device for the vaultsync of these settings, with a comment on other environments.

    Without VAULTSYNC_AUDIT_LISTEN and VAULTSYNC_AUDIT_FILE, the device sends to the address of deploy/base.
    """
    listen = listener(settings)
    if listen is None and settings.audit_file:
        return f"vault audit enable -path=vaultsync file file_path={shlex.quote(settings.audit_file)}"
    if listen is not None and listen.is_loopback:
        return AuditDevice("vaultsync", "socket").enable(listen)
    if listen is not None and listen.transport is Transport.TCP and settings.audit_tls_cert:
        return _TO_TUNNEL
    return enable_to_service(listen.port if listen is not None else PORT)
