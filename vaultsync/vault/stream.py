"""One subscription to Vault's event stream, kept up as long as it is needed. It reports events; it decides nothing."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from loguru import logger
from pydantic import SecretStr
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, InvalidURI, WebSocketException

from vaultsync.config.change_source import ChangeSource
from vaultsync.core.callbacks import ignore
from vaultsync.core.errors import RedirectRefused, VaultsyncError
from vaultsync.core.events import BadFrame, VaultEvent, parse_event
from vaultsync.core.paths import clean_namespace
from vaultsync.core.retry import Retry, jittered
from vaultsync.vault import silent_stream
from vaultsync.vault.clock import loop_time
from vaultsync.vault.login import Login
from vaultsync.vault.metrics import ReportedChanges, SourceMetrics
from vaultsync.vault.redirects import STATUSES
from vaultsync.vault.silent_stream import SilenceDetector

SUBSCRIBE: Final = "/v1/sys/events/subscribe/kv*"
"""https://developer.hashicorp.com/vault/api-docs/system/events: every event type of the KV engine, v1 and v2."""
QUERY: Final = "json=true&namespaces=*"
OPEN_SECONDS: Final = 10.0
PING_SECONDS: Final = 15.0
"""Interval of the pings, and the timeout for each response: a dead connection is found within twice that."""
MAX_FRAME: Final = 4 * 1024 * 1024
FIRST_WAIT, LONGEST_WAIT = 0.1, 10.0
"""Seconds between attempts to connect."""
REFUSED_SECONDS: Final = 60.0
"""The same after Vault has responded that it has no event stream, or not for this token."""
DENIED: Final = 403
REFUSALS: Final = frozenset({400, DENIED, 404, 405, 501})
REMIND_SECONDS: Final = 3600.0
"""How often the same end of an open stream is logged, such as by a load balancer that limits a connection's life."""
MAX_REASONS: Final = 16
"""Reasons that are logged in that time: the text of a reason may come from a peer."""


@dataclass(frozen=True, slots=True)
class _End:
    """How an attempt to subscribe ended."""

    reason: str
    was_open: bool
    is_refused: bool = False
    is_unanswered: bool = False


class EventStream:
    """The subscription.

    Args:
        login: where Vault is, and the token.
        metrics: counts the events.

    Attributes:
        tried: set once Vault has accepted or refused a subscription.
        is_connected: whether it is subscribed now, and not known to be silent.
        is_refused: whether Vault's last response was that it has no event stream, or not for this token.
        is_unanswered: whether the last attempt found no server at Vault's address.
        reason: why it is not subscribed, "" if it is or was not tried.
        on_change: called when one of these changes.
        on_connect: called after each successful subscription: events before it may be lost.
        on_event: called for each event, in the order of arrival; must not block.
        silence: detects that the subscription delivers nothing.
    """

    def __init__(self, login: Login, metrics: SourceMetrics) -> None:
        self._login = login
        self._access = login.access
        self._metrics = metrics
        self._changes = ReportedChanges(metrics, ChangeSource.EVENTS)
        self.silence = SilenceDetector(metrics)
        self._not_understood = 0
        self.on_connect: Callable[[], None] = ignore
        self.on_event: Callable[[VaultEvent], None] = ignore
        self.on_change: Callable[[], None] = ignore
        self.tried = asyncio.Event()
        self.is_connected = False
        self.is_refused = False
        self.is_unanswered = False
        self.reason = ""

    async def run(self) -> None:
        """Subscribe, and subscribe again whenever the stream ends. Returns only by cancellation."""
        retry = Retry(FIRST_WAIT, LONGEST_WAIT)
        losses, failures = _LoggedReasons(REMIND_SECONDS), _LoggedReasons()
        is_logged = True  # whether to log the end of this outage, as its start was logged
        while True:
            token = await self._login.first()
            started = loop_time()
            end = await self._subscribe(token, is_logged=is_logged)
            is_silent = self.silence.unsubscribed()
            if self._login.token is not token:
                retry.start_over()
                failures = _LoggedReasons()
                is_logged = True
                self._set_state(connected=False, reason="the token is replaced")
                continue
            if end.was_open:
                failures = _LoggedReasons()
                if loop_time() - started > LONGEST_WAIT:
                    retry.start_over()
            reason = silent_stream.REASON if is_silent else end.reason
            is_new = not is_silent and (losses if end.was_open else failures).is_new(reason)
            is_logged = is_new or (is_logged and not end.was_open)
            wait = jittered(REFUSED_SECONDS) if end.is_refused else retry.failed(reason).wait
            self.is_unanswered = end.is_unanswered
            self._set_state(connected=False, refused=end.is_refused, reason=reason)
            logger.log(
                "WARNING" if is_new else "DEBUG",
                "no event stream from Vault",
                vault=self._access.address,
                reason=reason,
                retry_s=round(wait, 2),
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._login.until_replaced(token)

    async def _subscribe(self, token: SecretStr, *, is_logged: bool) -> _End:
        """Subscribe, and read events until the stream ends."""
        is_open = False
        try:
            async with await self._connect(token) as connection, self._closed_when_useless(token, connection):
                is_open = True
                self.silence.subscribed()
                line = "subscribed to Vault's event stream"
                logger.log("INFO" if is_logged else "DEBUG", line, vault=self._access.address)
                self._set_state(connected=True)
                self.on_connect()
                await self._read(connection)
        except InvalidStatus as error:
            status = error.response.status_code
            if status == DENIED:
                await self._login.replaces(token)
            return _End(_reason(error), is_open, is_refused=status in REFUSALS)
        except (OSError, TimeoutError, WebSocketException, ValueError, RedirectRefused) as error:
            # a timeout may be the fault of a proxy that forwards no websocket
            is_unanswered = isinstance(error, OSError) and not isinstance(error, TimeoutError)
            return _End(_reason(error), is_open, is_unanswered=is_unanswered)
        return _End("Vault closed the stream", is_open)

    def _set_state(self, *, connected: bool, refused: bool = False, reason: str = "") -> None:
        self.is_connected, self.is_refused, self.reason = connected, refused, reason
        if connected:
            self.is_unanswered = False
        if connected and self.silence.is_unproven:
            self.is_connected, self.reason = False, silent_stream.REASON
        if connected or refused:
            self.tried.set()
        self.on_change()

    async def _read(self, connection: ClientConnection) -> None:
        async for frame in connection:
            try:
                event = parse_event(frame, self._access.namespace)
            except BadFrame as error:
                self._metrics.events_not_understood.inc()
                self._not_understood += 1
                if self._not_understood.bit_count() == 1:  # 1, 2, 4, 8 … so that garbage can't fill the log
                    logger.warning("an event was not understood", reason=str(error), so_far=self._not_understood)
                continue
            self._changes.count()
            if self.silence.received(event):
                logger.info("Vault's event stream delivers events again", vault=self._access.address)
                self._set_state(connected=True)
                self.on_connect()
            self.on_event(event)

    @asynccontextmanager
    async def _closed_when_useless(self, token: SecretStr, connection: ClientConnection) -> AsyncIterator[None]:
        """Close the connection when its token is replaced, or when the subscription is silent.

        Vault keeps the subscription of a token that is revoked or expired, and reports nothing more in it but paths
        that it has reported in the 5 minutes before (measured on 1.15.1).
        """

        async def close_after(end: Callable[[], Awaitable[object]]) -> None:
            await end()
            await connection.close()

        ends = (lambda: self._login.until_replaced(token), self.silence.found.wait)
        tasks = [asyncio.create_task(close_after(end)) for end in ends]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _connect(self, token: SecretStr) -> ClientConnection:
        """Open the websocket; follows redirects, such as from a standby node to the active one.

        Raises:
            RedirectRefused: a redirect is not followed.
        """
        headers = {"X-Vault-Token": token.get_secret_value()}
        if namespace := clean_namespace(self._access.namespace):
            headers["X-Vault-Namespace"] = namespace
        redirects = self._login.redirects
        address, trail = self._access.address, redirects.start()
        while True:
            try:
                return await self._connect_to(address, headers)
            except InvalidStatus as error:
                status, locations = error.response.status_code, error.response.headers.get_all("Location")
                if status not in STATUSES:
                    raise
            follow = partial(redirects.follow, "GET", trail, f"{SUBSCRIBE}?{QUERY}", status, locations)
            address = str(await asyncio.to_thread(follow))

    async def _connect_to(self, address: str, headers: Mapping[str, str]) -> ClientConnection:
        uri, tls = stream_uri(address), self._access.tls
        secure: dict[str, Any] = {}
        if uri.startswith("wss:"):
            secure["ssl"] = await asyncio.to_thread(tls.context)
            if tls.server_name is not None:
                secure["server_hostname"] = tls.server_name
        return await _Connect(
            uri,
            additional_headers=headers,
            **secure,
            open_timeout=OPEN_SECONDS,
            ping_interval=PING_SECONDS,
            ping_timeout=PING_SECONDS,
            close_timeout=1.0,
            max_size=MAX_FRAME,
            user_agent_header="vaultsync",
        )


class _LoggedReasons:
    """The reasons that were logged lately.

    Args:
        seconds: after this time a reason is new again.
    """

    def __init__(self, seconds: float = float("inf")) -> None:
        self._seconds = seconds
        self._logged_at: dict[str, float] = {}

    def is_new(self, reason: str) -> bool:
        """Whether to log the reason; if so, it counts as logged."""
        now = loop_time()
        self._logged_at = {one: at for one, at in self._logged_at.items() if now - at < self._seconds}
        if reason in self._logged_at or len(self._logged_at) >= MAX_REASONS:
            return False
        self._logged_at[reason] = now
        return True


class _Connect(connect):
    """Follows no redirect: websockets would send the token to any address."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """See websockets."""
        return exc


def stream_uri(address: str) -> str:
    """The websocket address of the subscription at a Vault address."""
    url = urlsplit(address)
    scheme = "wss" if url.scheme == "https" else "ws"
    return url._replace(scheme=scheme, path=url.path.rstrip("/") + SUBSCRIBE, query=QUERY, fragment="").geturl()


def _reason(error: Exception) -> str:
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        hint = {
            403: "; the token's policy needs read on sys/events/subscribe/*",
            404: "; this Vault has no event stream (community 1.13 to 1.15 and Enterprise from 1.16 have it)",
            503: "; Vault is sealed or starting",
        }.get(status, "")
        return f"Vault returned {status}{hint}"
    if isinstance(error, InvalidURI):
        return "the address is no websocket's"
    if isinstance(error, VaultsyncError):
        return str(error)
    return f"{type(error).__name__}: {error}"
