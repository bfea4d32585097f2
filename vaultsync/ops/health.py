"""/livez and /readyz for the kubelet, /metrics for Prometheus.

Vault's state is not in the first two: without Vault vaultsync waits, it is not broken.
"""

from collections.abc import Callable, Mapping

from aiohttp import web

from vaultsync.ops.metrics import CONTENT_TYPE


class Health:
    """The HTTP endpoint.

    Args:
        ready: by name, whether each part is ready.
        metrics: in Prometheus' text format.
        role: what this replica is, said by one that is ready: to be a standby is to be ready.
    """

    def __init__(
        self,
        ready: Callable[[], Mapping[str, bool]],
        metrics: Callable[[], bytes],
        role: Callable[[], str] = lambda: "leading",
    ) -> None:
        self._ready = ready
        self._read_metrics = metrics
        self._role = role
        self._runner: web.AppRunner | None = None

    async def start(self, listen: str) -> None:
        """Serve on host:port.

        Raises:
            OSError: the address can't be had.
        """
        app = web.Application()
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        host, _, port = listen.rpartition(":")
        await web.TCPSite(self._runner, host or None, int(port)).start()

    async def stop(self) -> None:
        """Stop serving."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._read_metrics(), headers={"Content-Type": CONTENT_TYPE})

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")  # answering at all shows that the loop turns

    async def _readyz(self, _: web.Request) -> web.Response:
        waiting = [name for name, ready in self._ready().items() if not ready]
        if waiting:
            return web.Response(status=503, text=f"waiting for {', '.join(waiting)}\n")
        return web.Response(text=f"ok, {self._role()}\n")
