"""The proxy of the tests, on real sockets."""

import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from tests.testbed.processes import free_port
from tests.testbed.proxy import Fault, Proxy
from tests.testbed.testbed import wait_for

MOMENT = 0.3
"""Seconds in which something would have come."""


class Echo(socketserver.BaseRequestHandler):
    """Sends back what comes, and `bye` at its end; notes it on the server."""

    def handle(self) -> None:
        assert isinstance(self.server, Server)
        while chunk := self.request.recv(65536):
            self.server.heard += chunk
            self.request.sendall(chunk)
        self.request.sendall(b"bye")


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    heard = b""

    def handle_error(self, request: object, client_address: object) -> None:
        """A reset is no news here."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Echo) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.server_address[1]) as made:
        yield made


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), 10)


def echoed(line: socket.socket, text: bytes) -> bytes:
    line.sendall(text)
    got = b""
    while len(got) < len(text):
        got += line.recv(65536)
    return got


def is_silent(line: socket.socket) -> bool:
    line.settimeout(MOMENT)
    try:
        return line.recv(1) is None
    except TimeoutError:
        return True
    finally:
        line.settimeout(10)


def test_it_passes_on_both_ways_and_the_end_of_one(proxy: Proxy) -> None:
    with connect(proxy) as line, connect(proxy) as other:
        assert echoed(line, b"x" * 1_000_000) == b"x" * 1_000_000
        assert echoed(other, b"y") == b"y"
        assert proxy.connections == 2
        line.shutdown(socket.SHUT_WR)
        assert line.recv(10) == b"bye"
        assert line.recv(10) == b""


def test_latency_counts_in_both_directions_and_once_for_what_is_sent_together(proxy: Proxy) -> None:
    with connect(proxy) as line:
        proxy.set(Fault(latency=0.2))
        started = time.monotonic()
        assert echoed(line, b"x") == b"x"
        assert time.monotonic() - started >= 0.4
        proxy.heal()
        assert echoed(line, b"y") == b"y"


def test_a_rate_is_kept_to(proxy: Proxy) -> None:
    with connect(proxy) as line:
        proxy.set(Fault(rate=200_000))
        started = time.monotonic()
        assert echoed(line, b"x" * 100_000) == b"x" * 100_000
        assert time.monotonic() - started >= 0.5


def test_what_was_stalled_goes_on(proxy: Proxy) -> None:
    with connect(proxy) as line:
        assert echoed(line, b"x") == b"x"
        proxy.set(Fault(stalled=True))
        line.sendall(b"y")
        assert is_silent(line)
        proxy.heal()
        assert line.recv(10) == b"y"


def test_what_was_silent_stays_so_and_new_connections_do_not(proxy: Proxy, server: Server) -> None:
    with connect(proxy) as old:
        assert echoed(old, b"x") == b"x"
        proxy.set(Fault(silent=True))
        with connect(proxy) as made_meanwhile:
            old.sendall(b"lost")
            made_meanwhile.sendall(b"lost")
            wait_for(lambda: proxy.connections == 2, 10, "the proxy has taken it")
            proxy.heal()
            assert is_silent(old)
            assert is_silent(made_meanwhile)
        with connect(proxy) as new:
            assert echoed(new, b"y") == b"y"
    assert b"lost" not in server.heard


def test_who_is_refused_sees_a_reset_and_who_is_connected_goes_on(proxy: Proxy) -> None:
    with connect(proxy) as old:
        assert echoed(old, b"x") == b"x"
        proxy.set(Fault(refused=True))
        with pytest.raises(ConnectionResetError), connect(proxy) as line:
            line.recv(1)
        assert echoed(old, b"y") == b"y"


def test_a_reset_cuts_what_is_there_and_nothing_else(proxy: Proxy) -> None:
    with connect(proxy) as line:
        assert echoed(line, b"x") == b"x"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            line.recv(1)
    with connect(proxy) as line:
        assert echoed(line, b"y") == b"y"
        assert proxy.connections == 1


def test_the_answer_to_one_request_is_lost(proxy: Proxy, server: Server) -> None:
    with connect(proxy) as line:
        proxy.set(Fault(lost=b"POST"))
        assert echoed(line, b"GET") == b"GET"
        line.sendall(b"POST")
        with pytest.raises(ConnectionResetError):
            line.recv(1)
    assert server.heard == b"GETPOST"
    assert proxy.lost == 1


def test_where_nobody_listens_the_connection_ends() -> None:
    with Proxy(free_port()) as proxy, pytest.raises(ConnectionResetError), connect(proxy) as line:
        line.recv(1)
