"""One subscription to Vault's event stream, kept up as long as the process. Says what happened; decides nothing."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from loguru import logger
from pydantic import SecretStr
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, InvalidURI, WebSocketException

from vaultsync.core.backoff import backoff, jittered
from vaultsync.core.errors import RedirectRefused, VaultsyncError
from vaultsync.core.events import BadFrame, VaultEvent, parse_event
from vaultsync.core.paths import clean_namespace
from vaultsync.core.redirects import STATUSES
from vaultsync.vault import silent_stream as deafness
from vaultsync.vault.login import Login
from vaultsync.vault.metrics import SourceMetrics
from vaultsync.vault.silent_stream import Deafness
from vaultsync.vault.writes import OwnWrite

SUBSCRIBE: Final = "/v1/sys/events/subscribe/kv*"
"""https://developer.hashicorp.com/vault/api-docs/system/events: every event type of the KV engine, v1 and v2."""
QUERY: Final = "json=true&namespaces=*"
OPEN_SECONDS: Final = 10.0
PING_SECONDS: Final = 15.0
"""A ping this often, and this long for its answer: a silent stream counts as lost after twice that at most."""
MAX_FRAME: Final = 4 * 1024 * 1024
FIRST_WAIT, LONGEST_WAIT = 0.1, 10.0
"""Seconds between attempts to connect."""
REFUSED_SECONDS: Final = 60.0
"""Between attempts where Vault has answered that it has no such thing, or not for this token."""
DENIED: Final = 403
REFUSALS: Final = frozenset({400, DENIED, 404, 405, 501})
REMIND_SECONDS: Final = 3600.0
"""How often a reason is told for which an open stream ends, such as by a load balancer that lets none live long."""
MAX_TOLD: Final = 16
"""Reasons at most that are told in that time: a peer may put words of its own into them."""


class EventStream:
    """The subscription.

    Args:
        login: where Vault is, and the token.
        on_connect: called after each successful subscription: events before it may be lost.
        on_event: called for each event, in the order of arrival; must not block.

    Attributes:
        tried: set once it was subscribed, or Vault has refused it.
        is_connected: whether it is subscribed now, and not known to be deaf.
        is_refused: whether Vault's last answer was that it has no such thing, or not for this token.
        is_unanswered: whether the last attempt found nobody at Vault's address.
        reason: why it is not subscribed, "" as long as it is or was not tried.
        on_change: called when one of these changes.
    """

    def __init__(
        self,
        login: Login,
        on_connect: Callable[[], None],
        on_event: Callable[[VaultEvent], None],
        metrics: SourceMetrics,
    ) -> None:
        self._login = login
        self._access = login.access
        self._on_connect = on_connect
        self._on_event = on_event
        self._metrics = metrics
        self._deafness = Deafness(metrics)
        self._not_understood = 0
        self.tried = asyncio.Event()
        self.is_connected = False
        self.is_refused = False
        self.is_unanswered = False
        self.reason = ""
        self.on_change: Callable[[], None] = _nothing

    @property
    def is_unproven(self) -> bool:
        """Whether a subscription was deaf, and no event has arrived since."""
        return self._deafness.is_unproven

    def wrote(self, own: OwnWrite) -> None:
        """Vault has accepted an own write: the stream has to report it."""
        self._deafness.wrote(own)

    async def run(self) -> None:
        """Subscribe, and subscribe again whenever the stream is lost. Ends only by cancellation."""
        waits = backoff(FIRST_WAIT, LONGEST_WAIT)
        losses, failures = _Told(REMIND_SECONDS), _Told(float("inf"))
        is_told = True  # whether the end of this outage is told, as its beginning was
        while True:
            token = await self._login.first()
            started, is_open, refused, unanswered = time.monotonic(), False, False, False
            try:
                async with await self._connect(token) as connection, self._closed_when_useless(token, connection):
                    is_open = True
                    self._deafness.subscribed()
                    line = "subscribed to Vault's event stream"
                    logger.log("INFO" if is_told else "DEBUG", line, vault=self._access.address)
                    self._is(connected=True)
                    self._on_connect()
                    await self._read(connection)
            except (OSError, TimeoutError, WebSocketException, ValueError, RedirectRefused) as error:
                reason = _reason(error)
                refused = isinstance(error, InvalidStatus) and error.response.status_code in REFUSALS
                if isinstance(error, InvalidStatus) and error.response.status_code == DENIED:
                    await self._login.replaces(token)
                # a time-out may be a proxy's that lets no websocket through
                unanswered = isinstance(error, OSError) and not isinstance(error, TimeoutError)
            else:
                reason = "Vault closed the stream"
            is_deaf = self._deafness.unsubscribed()
            if self._login.token is not token:
                waits, is_told = backoff(FIRST_WAIT, LONGEST_WAIT), True
                failures.clear()
                self._is(connected=False, reason="the token is replaced")
                continue
            if is_open:
                failures.clear()
                if time.monotonic() - started > LONGEST_WAIT:
                    waits = backoff(FIRST_WAIT, LONGEST_WAIT)
            if is_deaf:
                reason = deafness.REASON
            is_news = not is_deaf and (losses if is_open else failures).is_news(reason)
            is_told = is_news or (is_told and not is_open)
            wait = jittered(REFUSED_SECONDS) if refused else next(waits)
            self.is_unanswered = unanswered
            self._is(connected=False, refused=refused, reason=reason)
            logger.log(
                "WARNING" if is_news else "DEBUG",
                "no event stream from Vault",
                vault=self._access.address,
                reason=reason,
                retry_s=round(wait, 2),
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._login.until_replaced(token)

    def _is(self, *, connected: bool, refused: bool = False, reason: str = "") -> None:
        self.is_connected, self.is_refused, self.reason = connected, refused, reason
        if connected:
            self.is_unanswered = False
        if connected and self.is_unproven:
            self.is_connected, self.reason = False, deafness.REASON
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
            self._metrics.events.labels("events").inc()
            self._metrics.last_event_timestamp.labels("events").set_to_current_time()
            if self._deafness.received(event):
                logger.info("Vault's event stream delivers events again", vault=self._access.address)
                self._is(connected=True)
                self._on_connect()
            self._on_event(event)

    @asynccontextmanager
    async def _closed_when_useless(self, token: SecretStr, connection: ClientConnection) -> AsyncIterator[None]:
        """Close the connection when its token is replaced, or when nothing arrives any more.

        Vault keeps the subscription of a token that is revoked or over, for ever, and reports nothing more in it but
        paths that it has reported in the 5 minutes before (measured on 1.15.1).
        """

        async def close_after(end: Callable[[], Awaitable[None]]) -> None:
            await end()
            await connection.close()

        ends = (lambda: self._login.until_replaced(token), self._deafness.found)
        tasks = [asyncio.create_task(close_after(end)) for end in ends]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _connect(self, token: SecretStr) -> ClientConnection:
        """Subscribe, also where redirects lead to, such as from a standby node to the active one.

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


class _Told:
    """The reasons that were told lately.

    Args:
        seconds: after which one is news again.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._told: dict[str, float] = {}

    def is_news(self, reason: str) -> bool:
        """Whether it is to be told; then it counts as told."""
        now = time.monotonic()
        self._told = {one: at for one, at in self._told.items() if now - at < self._seconds}
        if reason in self._told or len(self._told) >= MAX_TOLD:
            return False
        self._told[reason] = now
        return True

    def clear(self) -> None:
        """All is news again."""
        self._told.clear()


def _nothing() -> None:
    """Nobody wants to know."""


class _Connect(connect):
    """Follows no redirect by itself: websockets would send the token to any address."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """See websockets."""
        return exc


def stream_uri(address: str) -> str:
    """The websocket address of the subscription at a Vault address."""
    url = urlsplit(address)
    scheme = "wss" if url.scheme == "https" else "ws"
    return urlunsplit((scheme, url.netloc, url.path.rstrip("/") + SUBSCRIBE, QUERY, ""))


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
