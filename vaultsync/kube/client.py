"""The client of the Kubernetes API: plain JSON over the asyncio client of the kubernetes package.

The package provides credentials, TLS and the connection pool. Its models are not used, as objects are parsed at once.
"""

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import aiohttp
import yaml
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from vaultsync.config.proxy import environment_proxy
from vaultsync.core.callbacks import CountRequest, ignore
from vaultsync.core.errors import (
    KubeConflict,
    KubeDenied,
    KubeGone,
    KubeNotFound,
    KubeRejected,
    KubeUnavailable,
    VaultsyncError,
)
from vaultsync.core.fence import Fence

CONNECTIONS: Final = 0
"""No limit: each watch uses one, two for each selected namespace; the number of workers limits the others."""
CONNECT_SECONDS: Final = 5.0

_BY_STATUS: Final[Mapping[int, type[VaultsyncError]]] = {
    400: KubeRejected,
    401: KubeDenied,
    403: KubeDenied,
    404: KubeNotFound,
    405: KubeNotFound,
    409: KubeConflict,
    410: KubeGone,
    422: KubeRejected,
}
"""All other statuses of errors are KubeUnavailable."""


class NoKubeConfig(Exception):
    """There is no usable kubeconfig and no in-cluster configuration; the message says what is wrong with which."""


async def connect(
    kubeconfig: str | None, timeout: float, read_only: bool = False, count_request: CountRequest = ignore
) -> "KubeClient":
    """Create a client.

    Args:
        kubeconfig: path of a kubeconfig file; None: in-cluster credentials first, then ~/.kube/config.
        timeout: seconds for one request.
        read_only: nothing that writes is sent.
        count_request: counts each request.

    Raises:
        NoKubeConfig: there is no usable configuration.
    """
    configuration = Configuration()
    files = kubeconfig.split(os.pathsep) if kubeconfig is not None else []
    if files and not any(os.access(file, os.R_OK) for file in files):
        raise NoKubeConfig(f"{kubeconfig} can't be read")
    try:
        await _load(configuration, kubeconfig)
    except yaml.YAMLError:
        raise NoKubeConfig(f"{kubeconfig or '~/.kube/config'} is no YAML") from None  # its message would quote the file
    except (ConfigException, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise NoKubeConfig(f"{type(error).__name__}: {error}") from error
    configuration.connection_pool_maxsize = CONNECTIONS
    # look up the environment's proxy once: aiohttp would do so, and read ~/.netrc in a thread, at every request
    configuration.proxy = configuration.proxy or environment_proxy(configuration.host)
    configuration.client_session_kwargs = {"trust_env": False}
    return KubeClient(ApiClient(configuration), timeout, read_only, count_request=count_request)


async def _load(configuration: Configuration, kubeconfig: str | None) -> None:
    if kubeconfig is not None:
        await load_kube_config(config_file=kubeconfig, client_configuration=configuration)
        return
    try:
        load_incluster_config(client_configuration=configuration)
    except ConfigException:
        await load_kube_config(client_configuration=configuration)


class KubeClient:
    """Sends requests to the API server; errors are core.errors' Kube errors with the server's message.

    Args:
        api: the package's client.
        timeout: seconds for one request.
        read_only: nothing that writes is sent.
        fence: while it is closed, requests that write raise NotLeading.
        count_request: counts each request.
    """

    def __init__(
        self,
        api: ApiClient,
        timeout: float,
        read_only: bool = False,
        fence: Fence | None = None,
        count_request: CountRequest = ignore,
    ) -> None:
        self._api = api
        self._read_only = read_only
        self._fence = fence
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_SECONDS)
        self.server = str(api.configuration.host)
        self._count_request = count_request

    async def close(self) -> None:
        """Close every connection."""
        await self._api.close()

    def fenced(self, fence: Fence | None) -> "KubeClient":
        """The same client with a fence; its requests are counted together."""
        made = KubeClient(self._api, 0, self._read_only, fence, self._count_request)
        made._timeout = self._timeout
        return made

    def unfenced(self, timeout: float) -> "KubeClient":
        """A client with the same connections, no fence and another time-out, for the Lease and the leader's label."""
        return KubeClient(self._api, timeout)

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        """GET a resource or a list."""
        return await self._json("GET", path, query=query)

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object."""
        return await self._json("POST", path, body=body, content_type="application/json")

    async def review(self, api_version: str, kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """Send a review. It is a POST that creates nothing, so a read-only client sends it, too.

        Args:
            api_version: group and version.
            kind: such as SelfSubjectAccessReview.
            content: the other fields.
        """
        body = {"apiVersion": api_version, "kind": kind, **content}
        path = f"/apis/{api_version}/{kind.lower()}s"
        return await self._json("POST", path, body=body, content_type="application/json", writes=False)

    async def merge_patch(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Patch an object by JSON merge patch (RFC 7386)."""
        return await self._json("PATCH", path, body=body, content_type="application/merge-patch+json")

    @asynccontextmanager
    async def watch(
        self, path: str, query: Mapping[str, str], silence: float
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """Watch a list.

        Args:
            path: of the list.
            query: resourceVersion etc.; `watch` is added.
            silence: seconds without data after which the watch ends.

        Yields:
            The watch events, of any size, until the server ends the watch.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=silence)
        response = await self._send("GET", path, {**query, "watch": "true"}, None, None, timeout)
        try:
            if response.status != 200:
                raise _error(response.status, await response.read(), path)
            with suppress(TimeoutError):  # the connection is dead or there is no event: the next watch shows which
                yield _lines(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unavailable(self.server, error) from error
        finally:
            response.close()

    async def _json(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str | None = None,
        writes: bool = True,
    ) -> dict[str, Any]:
        if self._read_only and writes and method != "GET":
            return {}
        response = await self._send(method, path, query, body, content_type, self._timeout)
        try:
            content = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unavailable(self.server, error) from error
        if response.status >= 300:
            raise _error(response.status, content, path)
        try:
            document = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise KubeUnavailable(f"the answer of {self.server}{path} is no JSON") from error
        return document if isinstance(document, dict) else {}

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: object,
        content_type: str | None,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": "application/json"} | ({"Content-Type": content_type} if content_type else {})
        kind, status = "WATCH" if "watch" in (query or {}) else method, 0
        try:
            # param_serialize is where the package refreshes and adds the credentials
            method, url, headers, _, _ = await self._api.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params=headers,
                auth_settings=["BearerToken"],
            )
            if self._fence is not None and method != "GET":
                self._fence.check()
            answer = await self._api.call_api(method, url, headers, body, _request_timeout=timeout)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unavailable(self.server, error) from error
        else:
            response: aiohttp.ClientResponse = answer.response
            status = response.status
            return response
        finally:
            self._count_request(kind, status)


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """JSON documents, one per line. Read in chunks, as large objects exceed the limit of aiohttp's line reader."""
    rest = bytearray()
    async for chunk in response.content.iter_any():
        rest += chunk
        if b"\n" not in chunk:
            continue
        *lines, tail = rest.split(b"\n")
        rest = bytearray(tail)
        for line in lines:
            if line.strip():
                yield _watch_event(line)


def _watch_event(line: bytes | bytearray) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise KubeUnavailable("a line of the watch is no JSON") from error
    if not isinstance(event, dict):
        raise KubeUnavailable("a line of the watch is no JSON object")
    return event


def watch_error(status: Mapping[str, Any]) -> VaultsyncError:
    """The error of a watch event of type ERROR, whose object is a metav1.Status."""
    code = status.get("code")
    kind = _BY_STATUS.get(code if isinstance(code, int) else 0, KubeUnavailable)
    return kind(f"the API server ended the watch with {code}: {str(status.get('message', ''))[:300]}")


def _error(status: int, content: bytes, path: str) -> VaultsyncError:
    try:
        message = str(json.loads(content).get("message", ""))
    except (ValueError, RecursionError, AttributeError):
        message = ""
    kind = _BY_STATUS.get(status, KubeUnavailable)
    return kind(f"the API server returned {status}: {message[:300] or 'no reason given'} ({path})")


def _unavailable(server: str, error: BaseException) -> KubeUnavailable:
    return KubeUnavailable(f"no answer from the API server {server}: {type(error).__name__}: {error}"[:300])
