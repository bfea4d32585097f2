"""Check of the change source: which one of event stream, audit device and poll `vaultsync run` will use, and why."""

import asyncio
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vaultsync.commands.check.audit_devices import PORT, enable_to_service
from vaultsync.commands.check.report import Check, CheckReport, CheckResult, Status, cut
from vaultsync.config.change_source import ChangeSource
from vaultsync.config.settings import Settings
from vaultsync.core.durations import age
from vaultsync.core.errors import VaultsyncError
from vaultsync.runtime.metrics import Metrics
from vaultsync.vault.api import Token, has_event_stream
from vaultsync.vault.login import Login
from vaultsync.vault.stream import EventStream

STREAM_SECONDS: Final = 5.0
"""Longest wait for the event stream's response."""
FILE_READS, FILE_SECONDS = 20, 0.05
"""How often, and after which pause, the audit file is read again."""
AUDIT_FIX: Final = (
    f"set VAULTSYNC_AUDIT_LISTEN, such as udp:0.0.0.0:{PORT}, and in Vault, beside another audit device: "
    f"{enable_to_service()}; on Vault's own machine: udp:127.0.0.1:{PORT} and address=127.0.0.1:{PORT}"
)
CHECK_NETWORK: Final = "allow websockets from here to Vault in proxies and load balancers"


@dataclass(frozen=True, slots=True)
class StreamProbe:
    """Result of a subscription to Vault's event stream.

    Attributes:
        connected: whether it succeeded.
        refused: whether Vault responded that it has no event stream, or none for this token.
        reason: why it failed, "" if it succeeded or was not attempted.
    """

    connected: bool = False
    refused: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class FileProbe:
    """Why VAULTSYNC_AUDIT_FILE can't be read, "" if it can, and whether a request of the check appeared in it."""

    problem: str = ""
    grew: bool = False


async def probe_source(
    settings: Settings, login: Login, report: CheckReport, policy_fix: Callable[[Token], str]
) -> CheckResult:
    """Try the configured sources, then check them; `policy_fix` returns the command that writes the policy."""
    if report.token is None:
        return Check.SOURCE.not_asked(Check.LOGIN)
    stream = await _probe_stream(EventStream(login, Metrics())) if settings.source.streams else StreamProbe()
    file = await _probe_file(settings.audit_file, login) if settings.audit_file else FileProbe()
    return check_source(settings, stream, file, report.version, policy_fix(report.token))


async def _probe_stream(stream: EventStream) -> StreamProbe:
    """Subscribe, and end the subscription."""
    changed = asyncio.Event()
    stream.on_change = changed.set
    running = asyncio.create_task(stream.run())
    try:
        async with asyncio.timeout(STREAM_SECONDS):
            await changed.wait()
        return StreamProbe(stream.is_connected, stream.is_refused, stream.reason)
    except TimeoutError:
        return StreamProbe(reason=f"no answer within {STREAM_SECONDS:g} s")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _probe_file(path: str, login: Login) -> FileProbe:
    """Send Vault a request, and wait until the file grows."""
    try:
        before = await asyncio.to_thread(_size, path)
        await login.look_up()
        for _ in range(FILE_READS):
            if await asyncio.to_thread(_size, path) != before:
                return FileProbe(grew=True)
            await asyncio.sleep(FILE_SECONDS)
    except OSError as error:
        return FileProbe(problem=error.strerror or type(error).__name__)
    except VaultsyncError:
        pass
    return FileProbe()


def _size(path: str) -> int:
    with open(path, "rb") as file:  # os.stat would not need the permission to read
        return os.fstat(file.fileno()).st_size


def check_source(
    settings: Settings, stream: StreamProbe, file: FileProbe, version: str, policy_fix: str
) -> CheckResult:
    """Which source `vaultsync run` will use; `policy_fix` is the command that writes the policy."""
    check, wanted = Check.SOURCE, settings.source
    because = f"as VAULTSYNC_SOURCE is {wanted.value}"
    poll = f"the poll, every {age(settings.poll_interval)}"
    if wanted is ChangeSource.POLL:
        return check.ok(f"{poll}, {because}")
    audit, audit_fix = _audit(settings, file)
    if wanted is ChangeSource.AUDIT:
        status = Status.FAILED if file.problem and not settings.audit_listen else Status.WARNING
        return CheckResult(check, status if audit_fix else Status.OK, f"{audit}, {because}", audit_fix)
    if stream.connected:
        found = "the event stream; deletions, which Vault sends to root tokens only,"
        if audit and not audit_fix:
            return check.ok(f"{found} come from {audit}")
        return check.warning(f"{found} are noticed late: {audit or 'there is no audit device'}", audit_fix or AUDIT_FIX)
    offered = has_event_stream(version)
    unavailable = f"no event stream: {cut(stream.reason)}" if offered else f"Vault {version} has no event stream"
    fix = (policy_fix if stream.refused else CHECK_NETWORK) if offered else ""
    if wanted is ChangeSource.EVENTS:
        return check.failed(f"{unavailable}, and {because}", fix or "set VAULTSYNC_SOURCE=auto")
    if audit and not audit_fix:
        found = f"{audit}; {unavailable}"
        return check.warning(found, fix) if fix else check.ok(found)
    found = f"{poll}; {unavailable}; and {audit or 'there is no audit device'}"
    return check.warning(found, fix or audit_fix or AUDIT_FIX)


def _audit(settings: Settings, file: FileProbe) -> tuple[str, str]:
    """The audit device in the settings, "" if there is none, and how to fix it, "" if it works."""
    if settings.audit_listen:
        unknown = "`vault audit list` shows whether Vault has a device for it"
        return f"an audit device that writes to {settings.audit_listen} ({unknown})", ""
    if not settings.audit_file:
        return "", ""
    path = shlex.quote(settings.audit_file)
    if file.problem:
        return f"the audit file {path} can't be read: {file.problem}", f"make {path} readable here, as Vault writes it"
    if not file.grew:
        silent = f"the audit file {path}, in which a request of this check does not appear"
        return silent, f"vault audit list; vault audit enable file file_path={path}"
    return f"the audit file {path}", ""
