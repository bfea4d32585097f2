"""An HTTP proxy in front of Vault that answers some paths itself, like a broken or misconfigured one."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

import urllib3

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "upgrade", "accept-encoding"}


@dataclass(frozen=True, slots=True)
class Reply:
    """A response of the proxy instead of Vault's.

    Attributes:
        within: applies to every request whose path contains this text.
        status: 0 closes the connection instead.
    """

    within: str
    status: int
    body: str = "<html>a proxy's page</html>"
    content_type: str = "text/html"


@dataclass(frozen=True, slots=True)
class Request:
    """One request that was answered."""

    at: float
    method: str
    path: str
    status: int


class HttpProxy:
    """Forwards requests to a port of this machine; `with HttpProxy(port) as proxy`. Without websockets.

    Attributes:
        replies: its own responses.
        requests: the received requests, in order.
    """

    def __init__(self, target: int) -> None:
        self.replies: list[Reply] = []
        self.requests: list[Request] = []
        self._pool = urllib3.PoolManager(num_pools=1, maxsize=16, retries=False)
        self._target = f"http://127.0.0.1:{target}"
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="http-proxy", daemon=True)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> HttpProxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
        self._pool.clear()

    def count(self, within: str = "", status: int = 0, since: float = 0.0) -> int:
        """Number of answered requests, optionally filtered."""
        return sum(within in one.path and status in (0, one.status) and one.at >= since for one in list(self.requests))

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Handles one request."""
        if "upgrade" in {name.lower() for name in headers}:
            return 404, {"Content-Type": "text/html"}, b"no websockets here"
        for reply in self.replies:
            if reply.within in path:
                return reply.status, {"Content-Type": reply.content_type}, reply.body.encode()
        passed = {name: text for name, text in headers.items() if name.lower() not in HOP_BY_HOP}
        answer = self._pool.request(method, self._target + path, headers=passed, body=body, redirect=False)
        kept = {name: text for name, text in answer.headers.items() if name.lower() not in HOP_BY_HOP}
        return answer.status, kept, answer.data

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _handle(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                try:
                    status, headers, data = proxy.answer(self.command, self.path, dict(self.headers.items()), body)
                except urllib3.exceptions.HTTPError:
                    status, headers, data = 502, {"Content-Type": "text/html"}, b"Vault does not answer"
                proxy.requests.append(Request(time.monotonic(), self.command, self.path, status))
                if not status:
                    self.close_connection = True
                    return
                self.send_response_only(status)
                for name, text in headers.items():
                    self.send_header(name, text)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_LIST = _handle  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                """Logs to `requests` instead of stderr."""

        return Handler
