"""The client of the Kubernetes API: plain JSON over the asyncio client of the kubernetes package.

The package provides credentials, TLS and the connection pool. Its models are not used, as objects are parsed at once.
"""

import copy
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final

import aiohttp
import yaml
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from vaultsync.config.connection import environment_proxy
from vaultsync.core import errors
from vaultsync.core.callbacks import CountRequest, ignore
from vaultsync.core.fence import Fence
from vaultsync.core.untrusted import mapping, parse_json, text

CONNECT_SECONDS: Final = 5.0

_BY_STATUS: Final[Mapping[int, type[errors.VaultsyncError]]] = {
    400: errors.KubeRejected,
    401: errors.KubeDenied,
    403: errors.KubeDenied,
    404: errors.KubeNotFound,
    405: errors.KubeNotFound,
    409: errors.KubeConflict,
    410: errors.KubeGone,
    422: errors.KubeRejected,
}
"""All other statuses of errors are KubeUnavailable."""
_CONTENT_TYPES: Final = {"POST": "application/json", "PATCH": "application/merge-patch+json"}


class NoKubeConfig(Exception):
    """There is no usable kubeconfig and no in-cluster configuration; the message says what is wrong with which."""


async def connect(
    kubeconfig: str | None, timeout: float, read_only: bool = False, count_request: CountRequest = ignore
) -> "KubeClient":
    """Create a client from a kubeconfig file, or without one from in-cluster credentials or else ~/.kube/config.

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
        raise NoKubeConfig(f"{kubeconfig or '~/.kube/config'} is not YAML") from None  # which quotes the file
    except (ConfigException, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise NoKubeConfig(f"{type(error).__name__}: {error}") from error
    # 0 is no limit: each watch uses one, two for each selected namespace; the number of workers limits the others
    configuration.connection_pool_maxsize = 0
    # look up the environment's proxy once: aiohttp would do so, and read ~/.netrc in a thread, at every request
    configuration.proxy = configuration.proxy or environment_proxy(configuration.host)
    configuration.client_session_kwargs = {"trust_env": False}
    return KubeClient(ApiClient(configuration), timeout, read_only, count_request)


async def _load(configuration: Configuration, kubeconfig: str | None) -> None:
    if kubeconfig is None:
        with suppress(ConfigException):
            load_incluster_config(client_configuration=configuration)
            return
    await load_kube_config(config_file=kubeconfig, client_configuration=configuration)


class KubeClient:
    """Sends requests to the API server; errors are core.errors' Kube errors with the server's message.

    Args:
        api: the package's client.
        timeout: seconds for one request.
        read_only: nothing that writes is sent.
        count_request: counts each request.
    """

    def __init__(
        self, api: ApiClient, timeout: float, read_only: bool = False, count_request: CountRequest = ignore
    ) -> None:
        self._api = api
        self._read_only = read_only
        self._fence: Fence | None = None
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_SECONDS)
        self.server = str(api.configuration.host)
        self._count_request = count_request

    async def close(self) -> None:
        """Close every connection."""
        await self._api.close()

    def fenced(self, fence: Fence | None) -> "KubeClient":
        """The same client, whose requests that write raise NotLeading while the fence is closed."""
        made = copy.copy(self)
        made._fence = fence
        return made

    def unfenced(self, timeout: float) -> "KubeClient":
        """A client with the same connections, no fence and another time-out, for the Lease and the leader's label."""
        return KubeClient(self._api, timeout)

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        """GET a resource or a list."""
        return await self._request("GET", path, query=query)

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object."""
        return await self._write("POST", path, body)

    async def merge_patch(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Patch an object by JSON merge patch (RFC 7386)."""
        return await self._write("PATCH", path, body)

    async def review(self, api_version: str, kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """Send a review, such as a SelfSubjectAccessReview. A read-only client sends it, too, as it creates nothing."""
        body = {"apiVersion": api_version, "kind": kind, **content}
        return await self._request("POST", f"/apis/{api_version}/{kind.lower()}s", body)

    @asynccontextmanager
    async def watch(
        self, path: str, query: Mapping[str, str], silence: float
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """Watch the list at a path, with resourceVersion etc. in the query.

        Yields the watch events, of any size, until the server ends the watch or sends no data for `silence` seconds.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=silence)
        with self._translated_errors():
            response = await self._send("GET", path, {**query, "watch": "true"}, None, timeout)
            try:
                if response.status != 200:
                    raise _error(response.status, await response.read(), path)
                with suppress(TimeoutError):  # the connection is dead or there is no event: the next watch shows which
                    yield _watch_events(response)
            finally:
                response.close()

    async def _write(self, method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return {} if self._read_only else await self._request(method, path, body)

    async def _request(
        self, method: str, path: str, body: object = None, query: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        with self._translated_errors():
            response = await self._send(method, path, query or {}, body, self._timeout)
            content = await response.read()
        if response.status >= 300:
            raise _error(response.status, content, path)
        document = parse_json(content)
        if document is None:
            raise errors.KubeUnavailable(f"the answer of {self.server}{path} is not JSON")
        return mapping(document)

    async def _send(
        self, method: str, path: str, query: Mapping[str, str], body: object, timeout: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": "application/json"}
        if method in _CONTENT_TYPES:
            headers["Content-Type"] = _CONTENT_TYPES[method]
        status = 0
        try:
            # param_serialize is where the package refreshes and adds the credentials
            _, url, headers, _, _ = await self._api.param_serialize(
                method, path, query_params=list(query.items()), header_params=headers, auth_settings=["BearerToken"]
            )
            if self._fence is not None and method != "GET":
                self._fence.check()
            answer = await self._api.call_api(method, url, headers, body, _request_timeout=timeout)
            response: aiohttp.ClientResponse = answer.response
            status = response.status
            return response
        finally:
            self._count_request("WATCH" if "watch" in query else method, status)

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Raise the errors of a connection as KubeUnavailable."""
        try:
            yield
        except (aiohttp.ClientError, OSError) as error:
            reason = f"no answer from the API server {self.server}: {type(error).__name__}: {error}"
            raise errors.KubeUnavailable(reason[:300]) from error


async def _watch_events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """JSON documents, one per line. Read in chunks, as large objects exceed the limit of aiohttp's line reader."""
    rest = bytearray()
    async for chunk in response.content.iter_any():
        rest += chunk
        if b"\n" in chunk:
            *lines, rest = rest.split(b"\n")
            for line in lines:
                if line.strip():
                    event = parse_json(bytes(line))
                    if not isinstance(event, dict):
                        raise errors.KubeUnavailable("a line of the watch is not a JSON object")
                    yield event


def watch_error(status: Mapping[str, Any]) -> errors.VaultsyncError:
    """The error of a watch event of type ERROR, whose object is a metav1.Status."""
    code = status.get("code")
    kind = _BY_STATUS.get(code if isinstance(code, int) else 0, errors.KubeUnavailable)
    return kind(f"the API server ended the watch with {code}: {str(status.get('message', ''))[:300]}")


def _error(status: int, content: bytes, path: str) -> errors.VaultsyncError:
    message = text(mapping(parse_json(content)).get("message"))
    kind = _BY_STATUS.get(status, errors.KubeUnavailable)
    return kind(f"the API server returned {status}: {message[:300] or 'no reason given'} ({path})")
