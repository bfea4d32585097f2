"""Keeps the UUIDs of the KV mounts with live values in an annotation on the Lease, for the next process."""

import asyncio
import json
from collections import UserDict
from typing import Final, NoReturn

from loguru import logger

from vaultsync.core.annotations import MOUNTS, Result
from vaultsync.core.errors import KubeNotFound, VaultsyncError
from vaultsync.core.retry import Retry
from vaultsync.core.untrusted import mapping, parse_json, text, text_fields
from vaultsync.kube.client import KubeClient

BEHIND_SECONDS: Final = 2.0
"""Delay of a write, so that a scan of many mounts causes one."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
MAX_BYTES: Final = 64 * 1024
"""Of the annotation; the API server limits all annotations to 256 KiB."""


async def read_mounts(client: KubeClient, lease: str) -> dict[str, str]:
    """The UUIDs that `run` has written on the Lease NAMESPACE/NAME; none if there is no Lease.

    Raises:
        VaultsyncError: the API server does not answer, or refuses.
    """
    try:
        found = await client.get(_path(lease))
    except KubeNotFound:
        return {}
    written = text(mapping(mapping(found.get("metadata")).get("annotations")).get(MOUNTS))
    return text_fields(parse_json(written))


def _path(lease: str) -> str:
    namespace, _, name = lease.partition("/")
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}"


class MountRecord(UserDict[str, str]):
    """UUIDs by Vault namespace and mount; `run` writes each change.

    Args:
        client: with a fence, as only the leader writes.
        lease: NAMESPACE/NAME, which the leader has created.
    """

    def __init__(self, client: KubeClient, lease: str) -> None:
        super().__init__()
        self._client = client
        self._lease = lease
        self._changed = asyncio.Event()

    def __setitem__(self, mount: str, uuid: str) -> None:
        if self.data.get(mount) != uuid:
            super().__setitem__(mount, uuid)
            self._changed.set()

    async def load(self) -> None:
        """Read what an earlier process has written, before anything is created; a refusal is logged.

        While the API server does not answer, it tries again: without the record, replaced mounts would count as known.
        """
        retry = Retry(FIRST_WAIT, LONGEST_WAIT)
        while True:
            try:
                self.data = {**await read_mounts(self._client, self._lease), **self.data}
                return
            except VaultsyncError as error:
                failed = retry.failed(str(error))
                logger.log(failed.level, "the record of Vault's mounts can't be read", reason=str(error))
                if error.result is not Result.UNAVAILABLE:
                    return
            await asyncio.sleep(failed.wait)

    async def run(self) -> NoReturn:
        """Write changes until cancelled."""
        retry = Retry(FIRST_WAIT, LONGEST_WAIT)
        while True:
            await self._changed.wait()
            await asyncio.sleep(BEHIND_SECONDS)
            self._changed.clear()
            content = json.dumps(self.data, sort_keys=True, separators=(",", ":"))
            if len(content) > MAX_BYTES:
                reason = f"{len(self.data)} mounts need more than {MAX_BYTES} bytes"
                logger.log(retry.failed(reason).level, "the record of Vault's mounts can't be written", reason=reason)
                continue
            try:
                await self._client.merge_patch(_path(self._lease), {"metadata": {"annotations": {MOUNTS: content}}})
            except VaultsyncError as error:
                failed = retry.failed(str(error))
                logger.log(failed.level, "the record of Vault's mounts can't be written", reason=str(error))
                self._changed.set()
                await asyncio.sleep(failed.wait)
            else:
                retry.succeeded()
