"""Receives the entries of Vault's audit devices: over UDP, TCP or a unix socket, or from a file.

https://developer.hashicorp.com/vault/docs/audit. Entries are untrusted input: each is at most a hint to read a path,
none is kept or logged, and the sender never has to wait. Vault hashes the values in them.

A sender counts as Vault only after it has delivered the entry of a canary (see vault.canary) or of an own write. Until
then its hints pass at a low rate, and it changes nothing else.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Final

from loguru import logger

from vaultsync.config.change_source import AuditAccess, ChangeSource, Transport
from vaultsync.core.callbacks import ignore
from vaultsync.core.events import AuditEntry, MountChange, VaultEvent, may_matter, parse_audit_entry
from vaultsync.core.paths import VaultPath
from vaultsync.core.rate_limit import TokenBucket
from vaultsync.vault.audit_hints import Hint, HintQueue, Sender
from vaultsync.vault.audit_stream import Connection, Lines, StreamListener, Tail
from vaultsync.vault.audit_udp import Batch, Peer, UdpReceiver
from vaultsync.vault.canary import Canary, CanaryResult
from vaultsync.vault.limited_log import LimitedLog
from vaultsync.vault.metrics import ReportedChanges, SourceMetrics

FOLLOW_SECONDS: Final = 0.02
"""Between two reads at the end of the file."""
WRITE_SECONDS: Final = 2.0
"""Maximum delay of the entry of an own write after Vault's response."""
MISSED_WRITES: Final = 3
"""So many own writes in a row without an entry, while canaries are delivered: a filter excludes entries of KV."""
VERIFIED: Final = 64
"""Verified senders that are remembered."""
RECENT_WRITES: Final = 4096
"""Entries whose request IDs are remembered: an entry arrives before the response with its ID."""
RATE, BURST, CAPACITY = 500.0, 5000.0, 10_000
"""Hints of verified senders: per second, at once, and queued. The address of a datagram can be forged."""
UNVERIFIED_RATE, UNVERIFIED_BURST, UNVERIFIED_CAPACITY = 1.0, 10.0, 1000
UNVERIFIED_PARSED, UNVERIFIED_PARSED_BURST = 100.0, 2000.0
"""Entries of unverified senders that are parsed: per second, and at once."""
_FILE: Final = "file"
"""The audit file as a sender: it is trusted without verification, but it must deliver."""


class Delivery(Enum):
    """Whether an audit device delivers; the texts are public."""

    NOT_CONFIGURED = "no audit device is configured"
    UNKNOWN = "whether the audit device delivers is not known yet"
    DELIVERS = "the audit device delivers"
    SILENT = "the audit device does not deliver"


class Audit:
    """The receiving end of audit devices.

    Args:
        access: where entries come from.
        canary_interval: seconds.
        read: sends a read of a path to Vault, for canaries.
        knows: whether an ExternalSecret reads a path; hints about other paths are dropped.
        is_only: no other source takes over while nothing is delivered.

    Attributes:
        on_gap: called when entries may have been missed, with whether more may be missed in the next moments.
        on_event: called for each change that an entry may report; must not block.
        on_change: called when `is_connected` changes.
        on_mounts: called for each changed mount that a verified sender reports; must not block.
        canary: proves that entries arrive.
    """

    def __init__(
        self,
        access: AuditAccess,
        canary_interval: float,
        read: Callable[[str], Awaitable[None]],
        knows: Callable[[VaultPath], bool],
        metrics: SourceMetrics,
        *,
        is_only: bool = False,
    ) -> None:
        self._access = access
        self._knows = knows
        self._is_only = is_only
        self._log = LimitedLog()
        self._listener: StreamListener | UdpReceiver | None = None
        self._verified: OrderedDict[Sender, None] = OrderedDict()
        self._recent: OrderedDict[str, Sender] = OrderedDict()
        self._recent_unverified: OrderedDict[str, Sender] = OrderedDict()
        """Apart, so that a flood of unverified senders displaces no entry of Vault."""
        self._awaited: dict[str, asyncio.TimerHandle] = {}
        self._unreported = self._missed_in_a_row = 0
        self._has_new_sender = self._is_silence_logged = self._was_connected = False
        self._hints = HintQueue(self._pass_on, TokenBucket(RATE, BURST, time.monotonic), CAPACITY)
        low = TokenBucket(UNVERIFIED_RATE, UNVERIFIED_BURST, time.monotonic)
        self._unverified_hints = HintQueue(self._pass_on_unverified, low, UNVERIFIED_CAPACITY)
        self._parses = TokenBucket(UNVERIFIED_PARSED, UNVERIFIED_PARSED_BURST, time.monotonic)
        self._metrics = metrics
        self._changes = ReportedChanges(metrics, ChangeSource.AUDIT)
        self.canary = Canary(read, canary_interval, self._canary_ended, metrics)
        self.on_gap: Callable[[bool], None] = ignore
        self.on_event: Callable[[VaultEvent], None] = ignore
        self.on_change: Callable[[], None] = ignore
        self.on_mounts: Callable[[MountChange], None] = ignore

    @property
    def is_configured(self) -> bool:
        """Whether entries may come at all."""
        return self._access.is_configured

    @property
    def is_connected(self) -> bool:
        """Whether Vault is known to deliver its entries."""
        return bool(self._verified) and self._missed_in_a_row < MISSED_WRITES

    @property
    def delivery(self) -> Delivery:
        """Whether entries arrive."""
        if not self.is_configured:
            return Delivery.NOT_CONFIGURED
        if self.is_connected:
            return Delivery.DELIVERS
        return Delivery.SILENT if self._is_silence_logged or self._verified else Delivery.UNKNOWN

    async def start(self) -> None:
        """Listen, if that is configured.

        Raises:
            OSError: the address is not available, or the certificate can't be read.
        """
        address = self._access.address
        if address is None:
            return
        if address.transport is Transport.UDP:
            self._listener = UdpReceiver(
                address, self._access.allows, lambda: self.canary.nonces, self._process_batch, self._log
            )
        else:
            self._listener = StreamListener(self._access, self._log, self._verified, self._process_lines, self._closed)
        await self._listener.start()
        logger.info("listening for Vault's audit device", address=str(address))
        self.canary.request()  # an earlier one could not arrive
        if address.can_block(has_tls=bool(self._access.certificate)):
            logger.warning(
                "an audit device that sends over TCP to another machine can block Vault: it waits for this address "
                "when packets are dropped. Use UDP",
                fix=f"VAULTSYNC_AUDIT_LISTEN=udp:{str(address).removeprefix('tcp:')}, and in Vault socket_type=udp",
            )

    async def stop(self) -> None:
        """Stop listening, and close the connections."""
        listener, self._listener = self._listener, None
        if listener is not None:
            await listener.stop()
        self._hints.close()
        self._unverified_hints.close()
        for timer in self._awaited.values():
            timer.cancel()
        self._awaited.clear()
        self._verified.clear()
        self._update()

    async def run(self) -> None:
        """Follow the file and send canaries, until cancelled."""
        if not self.is_configured:
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.canary.run())
            if self._access.file:
                tasks.create_task(self._follow_file())

    async def _follow_file(self) -> None:
        lines, was_open = Lines(), None
        with closing(Tail(Path(self._access.file))) as tail:
            while True:
                chunk = await asyncio.to_thread(tail.read)
                if tail.is_open != was_open:
                    was_open = tail.is_open
                    self._file_changed(is_open=was_open)
                if chunk:
                    self._process_lines(_FILE, lines.feed(chunk))
                await asyncio.sleep(0 if chunk else FOLLOW_SECONDS)

    def _file_changed(self, *, is_open: bool) -> None:
        if is_open:
            logger.info("following Vault's audit file", file=self._access.file)
            self.canary.request()
        else:
            logger.warning("Vault's audit file is not there", file=self._access.file)
            self._forget(_FILE)

    def _update(self) -> None:
        """Pass the verified senders on to the receiver, and report a change of `is_connected`."""
        if isinstance(self._listener, UdpReceiver):
            self._listener.verified = frozenset(peer.address for peer in self._verified if isinstance(peer, Peer))
        if self.is_connected != self._was_connected:
            self._was_connected = self.is_connected
            self.on_change()

    # -- entries

    def _process_batch(self, batch: Batch) -> None:
        """Process what the UDP receiver has read."""
        for peer, entry in batch.entries:
            self._process_lines(peer, (entry,))
        if batch.lost:
            self._lose(batch.lost, "audit entries are lost: the receive buffer has overflowed; rescanning everything")
        if batch.refused:
            self._log("WARNING", "audit sender refused: not in VAULTSYNC_AUDIT_ALLOW", datagrams=batch.refused)
        if batch.strangers:
            self.canary.request()

    def _process_lines(self, sender: Sender, lines: Sequence[bytes]) -> None:
        for line in lines:
            if may_matter(line) and (self._is_trusted(sender) or self._is_worth_parsing(line)):
                self._process_entry(sender, parse_audit_entry(line))
        if not (sender in self._verified and self.is_connected) and any(line.startswith(b"{") for line in lines):
            self.canary.request()

    def _is_trusted(self, sender: Sender) -> bool:
        return sender is _FILE or sender in self._verified

    def _is_worth_parsing(self, line: bytes) -> bool:
        return any(nonce in line for nonce in self.canary.nonces) or not self._parses.take()

    def _process_entry(self, sender: Sender, entry: AuditEntry) -> None:
        if entry.nonce:
            if self.canary.arrived(entry.nonce):
                self._verify(sender)
            return
        self._match_own_write(sender, entry)
        is_trusted = self._is_trusted(sender)
        if entry.mounts is not None and is_trusted:
            self.on_mounts(entry.mounts)
        if entry.events and is_trusted:  # one change, though it may have an event for each version of KV
            self._changes.count()
        events = tuple(event for event in entry.events if self._knows(event.path))
        if not is_trusted:  # the state of a path in KV v1 does not show whether a write took place
            events = tuple(event for event in events if not event.is_unversioned_write)
        if not events:
            return
        if is_trusted:
            if not self._hints.put(Hint(sender, events)):
                self._lose(1, "audit entries are lost: the queue is full; rescanning everything")
        elif not self._unverified_hints.put(Hint(sender, events)):
            self._log("WARNING", "entries of unverified audit senders are dropped: there are too many")

    def _pass_on(self, hint: Hint) -> None:
        for event in hint.events:
            self.on_event(event)

    def _pass_on_unverified(self, hint: Hint) -> None:
        for event in hint.events:
            self.on_event(replace(event, is_verified=False))

    # -- own writes

    def wrote(self, request_id: str) -> None:
        """Expect the entry of an own write that Vault has accepted; it may have arrived already."""
        if not request_id or not self.is_configured:
            return
        sender = self._recent.pop(request_id, None) or self._recent_unverified.pop(request_id, None)
        if sender is not None:
            self._reported(sender)
        elif self._verified:
            timer = asyncio.get_running_loop().call_later(WRITE_SECONDS, self._missed, request_id)
            self._awaited[request_id] = timer

    def _match_own_write(self, sender: Sender, entry: AuditEntry) -> None:
        if not entry.request_id or not entry.events:
            return
        timer = self._awaited.pop(entry.request_id, None)
        if timer is not None:
            timer.cancel()
            self._reported(sender)
            return
        recent = self._recent if self._is_trusted(sender) else self._recent_unverified
        recent[entry.request_id] = sender
        if len(recent) > RECENT_WRITES:
            recent.popitem(last=False)

    def _reported(self, sender: Sender) -> None:
        was_filtered, self._missed_in_a_row = self._missed_in_a_row >= MISSED_WRITES, 0
        self._verify(sender)
        if was_filtered:
            self.on_gap(False)
            self._update()

    def _missed(self, request_id: str) -> None:
        """Find out by a canary whether only this entry is missing."""
        del self._awaited[request_id]
        self._unreported += 1
        self.canary.request()

    # -- verification

    def _verify(self, sender: Sender) -> None:
        """Verify a sender: it has delivered what only Vault can know."""
        if sender in self._verified:
            self._verified.move_to_end(sender)
            return
        self._verified[sender] = None
        self._has_new_sender, self._is_silence_logged = True, False
        if len(self._verified) > VERIFIED:
            self._verified.popitem(last=False)
        self._log("INFO", "Vault's audit device is connected", sender=str(sender))
        for hint in self._unverified_hints.remove(sender):
            self._hints.put(hint)
        self.on_gap(False)
        self._update()

    def _closed(self, connection: Connection) -> None:
        """Send a canary after a connection has ended: Vault connects again when it has an entry to send."""
        if self._forget(connection):
            logger.info("Vault's audit device is disconnected", sender=str(connection))
            self.canary.request()

    def _forget(self, sender: Sender) -> bool:
        """Remove a sender; returns whether it was verified."""
        if sender not in self._verified:
            return False
        del self._verified[sender]
        self._update()
        return True

    def _canary_ended(self, result: CanaryResult, missed: int) -> bool:
        has_new_sender, self._has_new_sender = self._has_new_sender, False
        if result is CanaryResult.MISSING:
            self._unreported = 0
            self._fall_silent()
        elif result is CanaryResult.DELIVERED:
            unreported, self._unreported = self._unreported, 0
            was_connected = self.is_connected
            self._missed_in_a_row += unreported > 0
            lost = unreported + (0 if has_new_sender else missed)  # nothing could arrive before it was connected
            if lost:
                self._lose(lost, "audit entries are lost: own requests were not reported; rescanning everything")
            if was_connected and not self.is_connected:
                logger.warning("Vault's audit device does not report writes: does a filter exclude them?")
                self._update()
        return has_new_sender

    def _fall_silent(self) -> None:
        """Distrust all senders, as nothing is delivered. The next entry causes a canary, which verifies its sender."""
        was_connected = self.is_connected
        self._verified.clear()
        if not self._is_silence_logged:
            logger.warning(
                "Vault's audit device does not deliver: a request of our own did not arrive. Is the device enabled, "
                "without a prefix or filter, and with format=json?"
            )
        self._is_silence_logged = True
        if was_connected or self._is_only:
            self.on_gap(False)
        self._update()

    def _lose(self, number: int, message: str) -> None:
        self._metrics.audit_lost.inc(number)
        self._log("WARNING", message, lost=number)
        self.on_gap(True)
