"""A thin JSON client for the testbed's own requests as admin or root; it shares no code with vaultsync."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import urllib3

Json = dict[str, Any]


class ApiError(Exception):
    """A response of a server that is not a success."""

    def __init__(self, method: str, url: str, status: int, body: str) -> None:
        super().__init__(f"{method} {url}: {status} {body[:500]}")
        self.status = status
        self.body = body


class Api:
    """One server's API; safe to use from several threads."""

    def __init__(
        self, address: str, headers: Mapping[str, str] | None = None, ca: Path | None = None, timeout: float = 15
    ) -> None:
        self.address = address.rstrip("/")
        self.headers = dict(headers or {})
        self._pool = urllib3.PoolManager(
            maxsize=16,
            ca_certs=str(ca) if ca else None,
            timeout=urllib3.Timeout(timeout),
            retries=urllib3.Retry(False),
        )

    def request(self, method: str, path: str, body: object = None, *, content_type: str = "application/json") -> Json:
        """Sends JSON, returns JSON ({} for an empty response); raises ApiError if it is not a success."""
        headers = {} if body is None else {"Content-Type": content_type}
        data = self.send(method, path, None if body is None else json.dumps(body).encode(), headers)
        answer: Json = json.loads(data) if data else {}
        return answer

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """Sends and returns any content; raises ApiError if the response is not a success."""
        url, own = self.address + path, {**self.headers, **(headers or {})}
        response = self._pool.request(method, url, body=body, headers=own)
        if response.status >= 400:
            raise ApiError(method, path, response.status, response.data.decode(errors="replace"))
        return response.data

    def find(self, path: str) -> Json | None:
        """GET, or None if the object does not exist."""
        try:
            return self.request("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def text(self, path: str) -> str:
        """The unparsed body of a GET."""
        return self._pool.request("GET", self.address + path, headers=self.headers).data.decode()

    def lines(self, path: str) -> Iterator[bytes]:
        """The lines of a response that goes on, such as a watch."""
        response = self._pool.request("GET", self.address + path, headers=self.headers, preload_content=False)
        try:
            if response.status >= 400:
                raise ApiError("GET", path, response.status, response.data.decode(errors="replace"))
            rest = b""
            for chunk in response.stream():
                *lines, rest = (rest + chunk).split(b"\n")
                yield from lines
        finally:
            response.close()

    def answers(self, path: str, *statuses: int) -> bool:
        """Whether a GET returns one of these statuses (200 by default) within a second."""
        try:
            response = self._pool.request(
                "GET",
                self.address + path,
                headers=self.headers,
                timeout=urllib3.Timeout(1),
                retries=urllib3.Retry(False),
            )
        except (urllib3.exceptions.HTTPError, OSError):
            return False
        return response.status in (statuses or (200,))
