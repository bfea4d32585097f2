"""One subscription to Vault's event stream, kept up as long as the process. Says what happened; decides nothing."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from loguru import logger
from pydantic import SecretStr
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, InvalidURI, WebSocketException

from vaultsync.core.backoff import backoff, jittered
from vaultsync.core.events import BadFrame, VaultEvent, parse_event
from vaultsync.core.paths import clean_namespace
from vaultsync.vault.login import Login

SUBSCRIBE: Final = "/v1/sys/events/subscribe/kv*"
"""https://developer.hashicorp.com/vault/api-docs/system/events: every event type of the KV engine, v1 and v2."""
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


class EventStream:
    """The subscription.

    Args:
        login: where Vault is, and the token.
        on_connect: called after each successful subscription: events before it may be lost.
        on_event: called for each event, in the order of arrival; must not block.

    Attributes:
        tried: set once it was subscribed, or Vault has refused it.
        is_connected: whether it is subscribed now.
        is_refused: whether Vault's last answer was that it has no such thing, or not for this token.
        reason: why it is not subscribed, "" as long as it is or was not tried.
        on_change: called when one of these changes.
    """

    def __init__(
        self,
        login: Login,
        on_connect: Callable[[], None],
        on_event: Callable[[VaultEvent], None],
    ) -> None:
        self._login = login
        self._access = login.access
        self._on_connect = on_connect
        self._on_event = on_event
        self._bad_frames = 0
        self.tried = asyncio.Event()
        self.is_connected = False
        self.is_refused = False
        self.reason = ""
        self.on_change: Callable[[], None] = _nothing

    async def run(self) -> None:
        """Subscribe, and subscribe again whenever the stream is lost. Ends only by cancellation."""
        waits = backoff(FIRST_WAIT, LONGEST_WAIT)
        said = ""
        flaps = False
        while True:
            token = await self._login.first()
            started, is_open, refused = time.monotonic(), False, False
            try:
                async with await self._connect(token) as connection, self._closed_without(token, connection):
                    is_open = True
                    if not flaps:
                        logger.info("subscribed to Vault's event stream", vault=self._access.address)
                    self._is(connected=True)
                    self._on_connect()
                    await self._read(connection)
            except (OSError, TimeoutError, WebSocketException, ValueError) as error:
                reason = _reason(error)
                refused = isinstance(error, InvalidStatus) and error.response.status_code in REFUSALS
                if isinstance(error, InvalidStatus) and error.response.status_code == DENIED:
                    await self._login.replaces(token)
            else:
                reason = "Vault closed the stream"
            if self._login.token is not token:
                waits, said, flaps = backoff(FIRST_WAIT, LONGEST_WAIT), "", False
                self._is(connected=False, reason="the token is replaced")
                continue
            lasted = is_open and time.monotonic() - started > LONGEST_WAIT
            flaps = is_open and not lasted
            if lasted:
                waits, said = backoff(FIRST_WAIT, LONGEST_WAIT), ""
            wait = next(waits)
            if refused:
                wait = jittered(REFUSED_SECONDS)
            self._is(connected=False, refused=refused, reason=reason)
            if reason != said:  # the same reason again and again is one line
                logger.warning(
                    "no event stream from Vault",
                    vault=self._access.address,
                    reason=reason,
                    retry_s=round(wait, 2),
                )
                said = reason
            with suppress(TimeoutError):
                await asyncio.wait_for(self._login.until_replaced(token), wait)

    def _is(self, *, connected: bool, refused: bool = False, reason: str = "") -> None:
        self.is_connected, self.is_refused, self.reason = connected, refused, reason
        if connected or refused:
            self.tried.set()
        self.on_change()

    async def _read(self, connection: ClientConnection) -> None:
        async for frame in connection:
            try:
                event = parse_event(frame, self._access.namespace)
            except BadFrame as error:
                self._bad_frames += 1
                if self._bad_frames.bit_count() == 1:  # 1, 2, 4, 8 … so that garbage can't fill the log
                    logger.warning("an event was not understood", reason=str(error), so_far=self._bad_frames)
                continue
            self._on_event(event)

    @asynccontextmanager
    async def _closed_without(self, token: SecretStr, connection: ClientConnection) -> AsyncIterator[None]:
        """Close the connection when its token is replaced.

        Vault looks at a revoked token's subscription every 5 minutes only, and until then keeps it open and half deaf:
        of the paths that it has not told of before it tells nothing (1.15.1).
        """

        async def close() -> None:
            await self._login.until_replaced(token)
            await connection.close()

        task = asyncio.create_task(close())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _connect(self, token: SecretStr) -> connect:
        headers = {"X-Vault-Token": token.get_secret_value()}
        if namespace := clean_namespace(self._access.namespace):
            headers["X-Vault-Namespace"] = namespace
        uri, tls = stream_uri(self._access.address), self._access.tls
        secure: dict[str, Any] = {}
        if uri.startswith("wss:"):
            secure["ssl"] = await asyncio.to_thread(tls.context)
            if tls.server_name is not None:
                secure["server_hostname"] = tls.server_name
        return _Connect(
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


def _nothing() -> None:
    """Nobody wants to know."""


class _Connect(connect):
    """Follows a standby node, which names the active one by an address of HTTP."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """See websockets."""
        if isinstance(exc, InvalidStatus) and (location := exc.response.headers.get("Location", "")).startswith("http"):
            del exc.response.headers["Location"]
            exc.response.headers["Location"] = location.replace("http", "ws", 1)
        return super().process_redirect(exc)


def stream_uri(address: str) -> str:
    """The websocket address of the subscription at a Vault address."""
    url = urlsplit(address)
    scheme = "wss" if url.scheme == "https" else "ws"
    return urlunsplit((scheme, url.netloc, url.path.rstrip("/") + SUBSCRIBE, "json=true&namespaces=*", ""))


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
        return "the address, or one that Vault redirects to, is no websocket's"
    return f"{type(error).__name__}: {error}"
