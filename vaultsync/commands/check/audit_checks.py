"""Checks of Vault's audit devices: which can block Vault, and which deliver to vaultsync."""

from collections.abc import Iterator, Sequence
from typing import Final

from vaultsync.commands.check.audit_commands import enable_to_service
from vaultsync.commands.check.audit_devices import LIST, AuditDevice, enable_device, listener, parse_devices
from vaultsync.commands.check.report import Check, CheckResult, cut, some
from vaultsync.config.change_source import AuditAddress, Transport
from vaultsync.config.settings import Settings
from vaultsync.core.errors import VaultsyncError
from vaultsync.core.paths import clean_namespace
from vaultsync.vault.api import SYS_AUDIT
from vaultsync.vault.client import VaultClient

CAPABILITIES: Final = frozenset({"read", "sudo"})
"""Required on sys/audit."""
FILE: Final = "vault audit enable file file_path=/vault/logs/audit.log"
DECLARED: Final = "if OpenBao's configuration declares the device, change that instead"
"""By default OpenBao refuses to enable a device through its API."""
_NOT_PERMITTED: Final = (
    f"`read` and `sudo` on {SYS_AUDIT}, which vaultsync does not need otherwise. {LIST} shows the same: a socket "
    "device blocks Vault if its socket_type is tcp or missing, and its address is another machine's"
)


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
    """The devices could not be listed. That is no failure: few tokens may list them.

    Args:
        reason: Vault's response, "" if the token lacks the capabilities.
    """
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
    if device.is_remote_udp and device.dns_name:
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
