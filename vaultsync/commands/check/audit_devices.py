"""Checks of Vault's audit devices: which can block Vault, which deliver to vaultsync; and the commands to enable them.

Vault's admins write paths, options and descriptions: every text is quoted before it is printed.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from vaultsync.commands.check.report import Check, CheckResult, cut, some
from vaultsync.config.change_source import AuditAddress, Transport, parse_audit_address
from vaultsync.config.settings import Settings
from vaultsync.core.durations import parse_duration
from vaultsync.core.errors import VaultsyncError
from vaultsync.core.paths import clean_namespace
from vaultsync.core.untrusted import mapping, text
from vaultsync.vault.api import SYS_AUDIT
from vaultsync.vault.client import VaultClient

CAPABILITIES: Final = frozenset({"read", "sudo"})
"""Required on sys/audit."""
MAX_WRITE_TIMEOUT: Final = 0.1
"""Seconds: a longer write_timeout is a warning."""
WRITE_TIMEOUT: Final = "10ms"
"""Vault's maximum wait for a UDP socket whose buffer is full, as Linux keeps the packets to an unreachable machine of
its own subnet until ARP gives up. The default is 2 s."""
SERVICE_IP: Final = "$(kubectl -n vaultsync get service vaultsync-audit -o jsonpath='{.spec.clusterIP}')"
"""Not the name of the Service: while the port is closed, the device reconnects for each entry, and waits for DNS."""
OUTSIDE: Final = "a Vault outside the cluster needs the address of the load balancer in its place: docs/install.md"
"""A note on SERVICE_IP."""
PORT: Final = 8220
"""The port of deploy/base."""
FILE: Final = "vault audit enable file file_path=/vault/logs/audit.log"
LIST: Final = "`vault audit list -detailed`"
DECLARED: Final = "if OpenBao's configuration declares the device, change that instead"
"""By default OpenBao refuses to enable a device through its API."""
_NOT_PERMITTED: Final = (
    f"`read` and `sudo` on {SYS_AUDIT}, which vaultsync does not need otherwise. {LIST} shows the same: a socket "
    "device blocks Vault if its socket_type is tcp or missing, and its address is another machine's"
)
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
    def remote_address(self) -> AuditAddress | None:
        """The address if it is of another machine than Vault's."""
        address = self.address
        return None if address is None or address.is_loopback or address.host in _LOCAL_HOSTS else address

    @property
    def can_block(self) -> bool:
        """Whether Vault waits for another machine: the device sends to it by TCP."""
        return self.remote_address is not None and self.remote_address.transport is Transport.TCP

    @property
    def dns_name(self) -> str:
        """The host name of another machine, "" for an IP address or Vault's own machine."""
        host = self.remote_address.host if self.remote_address else ""
        try:
            ip_address(host)
        except ValueError:
            return host
        return ""

    @property
    def waits_long(self) -> bool:
        """Whether Vault can wait long for another machine by UDP: write_timeout is long, missing or invalid."""
        if self.remote_address is None or self.can_block:
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
        if listen is not None and listen.is_loopback:
            address = listen.path or str(listen).partition(":")[2]
            receiver = [shlex.quote(f"address={address}"), f"socket_type={listen.transport.value}"]
        else:
            receiver = [self._address_option(), "socket_type=udp", f"write_timeout={WRITE_TIMEOUT}"]
        kept = [shlex.quote(f"{name}={self.options[name]}") for name in _KEPT if name in self.options]
        return " ".join(["vault audit enable", shlex.join([f"-path={self.path}", *flags, "socket"]), *receiver, *kept])

    def placeholder(self, listen: AuditAddress | None) -> str:
        """The placeholder in the command of `enable`, explained; "" if there is none."""
        if (listen is not None and listen.is_loopback) or not self._unknown_name:
            return ""
        name = shlex.quote(cut(self._unknown_name))  # an interactive zsh does not ignore comments
        return f"IP is the IP address of {name if name.isprintable() else f'the name that {LIST} shows'}"

    def _address_option(self) -> str:
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
    return tuple(
        AuditDevice(
            path=path.strip("/"),
            kind=text(given.get("type")),
            options={str(name): str(value) for name, value in mapping(given.get("options")).items()},
            description=text(given.get("description")),
            is_local=given.get("local") is True,
        )
        for path, given in sorted(mapping(listed).items())
        if isinstance(given, dict)
    )


def listener(settings: Settings) -> AuditAddress | None:
    """VAULTSYNC_AUDIT_LISTEN, None if it is not set."""
    return parse_audit_address(settings.audit_listen) if settings.audit_listen else None


def enable_to_service(port: int = PORT) -> str:
    """The command that enables a device for a port of the Service `vaultsync-audit`, with a note on its address."""
    return (
        f'vault audit enable -path=vaultsync socket address="{SERVICE_IP}:{port}" '
        f"socket_type=udp write_timeout={WRITE_TIMEOUT} # {OUTSIDE}"
    )


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


async def check_audit(settings: Settings, vault: VaultClient, *, has_token: bool) -> list[CheckResult]:
    """Check the listener of the settings, and the devices as far as the token may list them."""
    results = check_listener(settings)
    if not has_token:
        return [*results, Check.AUDIT.not_asked(Check.LOGIN)]
    namespace = clean_namespace(settings.vault_namespace)
    try:
        granted = (await vault.capabilities([SYS_AUDIT], namespace))[SYS_AUDIT]
        if "root" not in granted and not granted >= CAPABILITIES:  # do not cause a refusal in the audit log
            return [*results, devices_unknown()]
        devices = parse_devices(await vault.audit_devices(namespace))
    except VaultsyncError as error:
        return [*results, devices_unknown(str(error))]
    return [*results, *check_devices(settings, devices)]


def devices_unknown(reason: str = "") -> CheckResult:
    """No failure: few tokens may list the devices. The reason is Vault's, "" if the token lacks the capabilities."""
    return Check.AUDIT.not_asked(_NOT_PERMITTED + (f" ({cut(reason)})" if reason else ""))


def check_listener(settings: Settings) -> list[CheckResult]:
    """A warning if a device that sends to vaultsync's listener can block Vault."""
    listen = listener(settings)
    if listen is None or not listen.can_block(has_tls=bool(settings.audit_tls_cert)):
        return []
    udp = AuditAddress(Transport.UDP, listen.host, listen.port)
    found = f"accepts entries by TCP from other machines ({listen}): Vault waits while vaultsync is unreachable"
    fix = f"VAULTSYNC_AUDIT_LISTEN={udp}, UDP for that port in Service, container and NetworkPolicy, and in Vault: "
    return [Check.AUDIT.warning(found, fix + enable_to_service(listen.port), "VAULTSYNC_AUDIT_LISTEN")]


def check_devices(settings: Settings, devices: Sequence[AuditDevice]) -> list[CheckResult]:
    """One result for each device with a problem, and one for all devices."""
    results = [result for device in devices if (result := _check_device(settings, device)) is not None]
    return [*results, _check_all(settings, devices)]


def _check_device(settings: Settings, device: AuditDevice) -> CheckResult | None:
    subject = f"{cut(device.path)}/"
    if device.can_block:
        address = cut(device.options.get("address", ""))
        found = f"sends by TCP to {address}: while that is unreachable, each request of each client of Vault waits"
        if device.is_for(settings) or not settings.audit_listen:
            return Check.AUDIT.failed(found, _fix(settings, device), subject)
        fix = "send to that receiver, which is not vaultsync's, by UDP, or from a file by an agent"
        return Check.AUDIT.warning(found, fix, subject)
    problems = "; ".join(_problems(settings, device)) if device.is_for(settings) else ""
    return Check.AUDIT.warning(problems, _fix(settings, device), subject) if problems else None


def _fix(settings: Settings, device: AuditDevice) -> str:
    if device.kind == "file":
        return f"disable and enable it without these options; {DECLARED}"
    listen = listener(settings)
    comments = [comment for comment in (device.placeholder(listen), DECLARED) if comment]
    return f"{device.replace(listen)} # {'; '.join(comments)}"


def _problems(settings: Settings, device: AuditDevice) -> Iterator[str]:
    """Why vaultsync can't read the entries, or Vault may wait for them."""
    options, address, listen = device.options, device.address, listener(settings)
    if options.get("format", "json") != "json":
        yield f"its format is {cut(options['format'])}: vaultsync reads only JSON"
    if options.get("prefix"):
        yield "it has a prefix: vaultsync reads only entries without one"
    if options.get("filter"):
        yield "it has a filter: vaultsync misses the entries that the filter drops"
    if options.get("log_raw", "false").lower() not in ("false", "0", "f"):
        yield "it has log_raw: Vault sends values in plain text instead of hashes"
    if device.waits_long:
        shown = cut(options.get("write_timeout", "")) or "missing, which means 2s"
        yield f"its write_timeout is {shown}: Vault can wait for a machine that has left its own subnet"
    if device.dns_name:
        yield "its address is a name: Vault waits for DNS while nothing listens; give it an IP address"
    if address is not None and listen is not None and address.transport is not listen.transport:
        yield f"it sends by {address.transport.value}, and vaultsync listens at {listen}"


def _check_all(settings: Settings, devices: Sequence[AuditDevice]) -> CheckResult:
    number = f"{len(devices)} device{'' if len(devices) == 1 else 's'}"
    own = [f"{device.path}/" for device in devices if device.is_for(settings)]
    receiver = settings.audit_listen or settings.audit_file
    if not own and receiver:
        return Check.AUDIT.warning(f"{number}, none of which writes to {receiver}", enable_device(settings))
    if len(devices) == 1 and own:
        found = f"{cut(devices[0].path)}/ is the only device: Vault refuses each request that it can't log there"
        return Check.AUDIT.warning(found, FILE)
    return Check.AUDIT.ok(number + (f"; {some(own)} for vaultsync" if own else ""))
