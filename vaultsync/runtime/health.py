"""The HTTP endpoint: /livez and /readyz for the kubelet, /metrics for Prometheus. Clients are not trusted.

/livez shows that the event loop runs, and nothing else: a restart does not end an outage of Vault or the API server.

/readyz lists the status of each part. It returns 503 only until all objects in Kubernetes are listed; a later outage
changes the text alone. No traffic is routed to vaultsync, so "not ready" would protect nothing. It would only block a
rollout (of a better configuration, for example) during an outage of Vault or the API server, which vaultsync survives
and then catches up. /metrics and the alerts in deploy/monitoring report outages.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from vaultsync.runtime.metrics import CONTENT_TYPE

CONNECTION_SECONDS: Final = 10.0
"""Maximum duration of a connection, in seconds: slow clients are disconnected."""
MAX_CONNECTIONS: Final = 32
"""Maximum number of concurrent connections; each serves one request."""


@dataclass(frozen=True, slots=True)
class PartStatus:
    """The status of one part, as a line of /readyz.

    Attributes:
        message: its state. It quotes no other system, as the endpoint is public.
        is_required: whether /readyz returns 503 while the part does not work.
    """

    name: str
    message: str
    is_healthy: bool = True
    is_required: bool = False


class HealthServer:
    """Serves the endpoint; calls `statuses` for each request to /readyz, `metrics_text` for each to /metrics."""

    def __init__(self, statuses: Callable[[], Iterable[PartStatus]], metrics_text: Callable[[], bytes]) -> None:
        self._statuses = statuses
        self._metrics_text = metrics_text
        self._runner: web.ServerRunner | None = None

    async def start(self, listen: str) -> None:
        """Serve on host:port.

        Raises:
            OSError: the address is not available.
        """
        self._runner = web.ServerRunner(_Server(self._respond), shutdown_timeout=1.0)
        await self._runner.setup()
        host, _, port = listen.rpartition(":")
        await web.TCPSite(self._runner, host or None, int(port)).start()

    async def stop(self) -> None:
        """Stop serving."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _respond(self, request: web.BaseRequest) -> web.Response:
        handlers = {"/livez": lambda: web.Response(text="ok\n"), "/readyz": self._readyz, "/metrics": self._metrics}
        handler = handlers.get(request.path)
        if handler is None:
            response = web.Response(status=404, text="there are /livez, /readyz and /metrics\n")
        elif request.method not in ("GET", "HEAD"):
            response = web.Response(status=405, text="only GET\n", headers={"Allow": "GET, HEAD"})
        else:
            response = handler()
        response.force_close()
        return response

    def _readyz(self) -> web.Response:
        statuses = list(self._statuses())
        is_ready = all(status.is_healthy or not status.is_required for status in statuses)
        lines = [f"[{'+' if status.is_healthy else '-'}] {status.name}: {status.message}" for status in statuses]
        text = "\n".join(["ok" if is_ready else "not ready", *lines])
        return web.Response(status=200 if is_ready else 503, text=text + "\n")

    def _metrics(self) -> web.Response:
        return web.Response(body=self._metrics_text(), headers={"Content-Type": CONTENT_TYPE})


class _Server(web.Server):
    """Disconnects slow clients, for which aiohttp itself waits without a limit.

    aiohttp bounds the size of a request (8 KiB per line and header), and no body is read.
    """

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
        super().__init__(handler, access_log=None)
        self._ends: dict[RequestHandler, asyncio.TimerHandle] = {}

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """See aiohttp."""
        super().connection_made(handler, transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
            return
        self._ends[handler] = self._loop.call_later(CONNECTION_SECONDS, transport.abort)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """See aiohttp."""
        super().connection_lost(handler, exc)
        if (end := self._ends.pop(handler, None)) is not None:
            end.cancel()
