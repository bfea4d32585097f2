"""/livez and /readyz for the kubelet, /metrics for Prometheus: short answers to strangers, each within a few seconds.

/livez says that the loop turns, and nothing else: no outage of others is mended by a restart.

/readyz tells of every part in words, and is 503 only until all that there was in Kubernetes is listed. What is lost
after that changes the words alone. vaultsync is on no deployment's critical path and no traffic is routed to it, so
that "not ready" would protect nobody; it would only hold up a rollout (a better configuration, say) for as long as
Vault or the API server is away, and vaultsync waits for them and catches up by itself. To be told of outages is what
/metrics and the alerts in deploy/monitoring are for.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from vaultsync.runtime.metrics import CONTENT_TYPE

CONNECTION_SECONDS: Final = 10.0
"""A connection ends after this long, whatever its client still wants to send or to read."""
MAX_CONNECTIONS: Final = 32
"""At once; one more is closed. Each is for one request: neither the kubelet nor Prometheus minds."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of vaultsync, as /readyz tells of it.

    Attributes:
        says: how it is, in words that may be read by anybody.
        is_well: whether that is as it should be.
        is_needed: whether vaultsync is not ready as long as it is not.
    """

    name: str
    says: str
    is_well: bool = True
    is_needed: bool = False


class Health:
    """The HTTP endpoint.

    Args:
        parts: how each part is now.
        metrics: in Prometheus' text format.
    """

    def __init__(self, parts: Callable[[], Iterable[Part]], metrics: Callable[[], bytes]) -> None:
        self._parts = parts
        self._read_metrics = metrics
        self._runner: web.ServerRunner | None = None

    async def start(self, listen: str) -> None:
        """Serve on host:port.

        Raises:
            OSError: the address can't be had.
        """
        self._runner = web.ServerRunner(_Server(self._answer), shutdown_timeout=1.0)
        await self._runner.setup()
        host, _, port = listen.rpartition(":")
        await web.TCPSite(self._runner, host or None, int(port)).start()

    async def stop(self) -> None:
        """Stop serving."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        answers = {"/livez": self._livez, "/readyz": self._readyz, "/metrics": self._metrics}
        answer = answers.get(request.path)
        if answer is None:
            response = web.Response(status=404, text="there are /livez, /readyz and /metrics\n")
        elif request.method not in ("GET", "HEAD"):
            response = web.Response(status=405, text="only GET\n", headers={"Allow": "GET, HEAD"})
        else:
            response = answer()
        response.force_close()
        return response

    def _livez(self) -> web.Response:
        return web.Response(text="ok\n")  # answering at all shows that the loop turns

    def _readyz(self) -> web.Response:
        parts = list(self._parts())
        waits = any(part.is_needed and not part.is_well for part in parts)
        lines = [f"[{'+' if part.is_well else '-'}] {part.name}: {part.says}" for part in parts]
        text = "\n".join(["not ready" if waits else "ok", *lines])
        return web.Response(status=503 if waits else 200, text=text + "\n")

    def _metrics(self) -> web.Response:
        return web.Response(body=self._read_metrics(), headers={"Content-Type": CONTENT_TYPE})


class _Server(web.Server):
    """Ends what takes too long: aiohttp itself waits for a slow sender's request, and for a slow reader, without end.

    What one sends is bounded by aiohttp (8 KiB a line and header), and no body is read.
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
