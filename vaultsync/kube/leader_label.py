"""Labels the leader's pod, so that the Service of the audit port selects it. Patroni and Vault's chart do the same.

GitOps tools do not remove the label: they manage the Deployment, whose pod template does not contain it. RBAC can't
limit `patch` on pods to labels or to one pod; see docs/least-privilege.md.
"""

import asyncio
from contextlib import suppress
from typing import Final, NoReturn

from loguru import logger

from vaultsync.config.formats import is_pod_name
from vaultsync.core.annotations import LEADER_LABEL
from vaultsync.core.errors import KubeDenied, KubeNotFound, VaultsyncError
from vaultsync.core.fence import Fence
from vaultsync.core.retry import Retry
from vaultsync.kube.client import KubeClient

FIRST_WAIT, LONGEST_WAIT = 0.2, 30.0
"""Seconds between attempts."""
RENEW_SECONDS: Final = 60.0
"""Interval at which the leader writes its label again, in case it was removed. An unchanged label is not stored."""
WITHDRAW_SECONDS: Final = 0.5
"""Time limit for the API server at a stop."""


def pod_of(identity: str) -> str:
    """The pod's name in an identity `<pod>_<uuid>` of the election, "" if there is none. The identity is untrusted."""
    name, _, _ = identity.rpartition("_")
    return name if is_pod_name(name) else ""


class LeaderLabel:
    """Sets the label on this process's pod while the process leads, and removes it otherwise.

    A single task sends the requests, so that they arrive in order.

    Args:
        client: not fenced, as a process that does not lead removes its own label; with a short time-out.
        namespace, pod: of this process.
    """

    def __init__(self, client: KubeClient, namespace: str, pod: str) -> None:
        self._client = client
        self._namespace = namespace
        self._pod = pod
        self._fence: Fence | None = None
        self._previous = ""
        self._changed = asyncio.Event()
        self._written = asyncio.Event()

    async def run(self) -> NoReturn:
        """Write changes until cancelled. The first write removes the label of an earlier process of the pod."""
        retry = Retry(FIRST_WAIT, LONGEST_WAIT)
        while True:
            self._changed.clear()
            try:
                await self._write()
            except VaultsyncError as error:
                failed = retry.failed(str(error))
                self._warn(error, failed.level)
                wait: float | None = failed.wait
            else:
                retry.succeeded()
                wait = RENEW_SECONDS if self._fence else None
                if not self._changed.is_set():
                    self._written.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()

    def lead(self, fence: Fence, previous_holder: str) -> None:
        """Point the Service at this pod, and no longer at that of the previous leader.

        A frozen leader keeps its label, and the Service would send it half of the audit entries. The label is set only
        while the fence is open. `previous_holder` is the identity that held the Lease before, "" if none is known.
        """
        pod = pod_of(previous_holder)
        self._set(fence, "" if pod == self._pod else pod)

    async def withdraw(self) -> None:
        """Stop pointing the Service at this pod, if the API server answers in time."""
        self._set(None)
        with suppress(TimeoutError):
            async with asyncio.timeout(WITHDRAW_SECONDS):
                await self._written.wait()

    def _set(self, fence: Fence | None, previous: str = "") -> None:
        self._fence, self._previous = fence, previous
        self._written.clear()
        self._changed.set()

    async def _write(self) -> None:
        leads, previous = self._fence is not None and self._fence.is_open, self._previous
        if leads:
            await self._patch(self._pod, "true")
        else:
            with suppress(KubeNotFound):  # the pod is deleted, and so is its label
                await self._patch(self._pod, None)
        if leads and previous:
            with suppress(KubeNotFound):
                await self._patch(previous, None)
            self._previous = ""

    async def _patch(self, pod: str, value: str | None) -> None:
        path = f"/api/v1/namespaces/{self._namespace}/pods/{pod}"
        await self._client.merge_patch(path, {"metadata": {"labels": {LEADER_LABEL: value}}})

    def _warn(self, error: VaultsyncError, level: str) -> None:
        fix = "none: it is tried again"
        if isinstance(error, KubeDenied):
            fix = f"grant `patch` on pods in the namespace {self._namespace}, as deploy/base/role.yaml does"
        elif isinstance(error, KubeNotFound):
            fix = "set VAULTSYNC_POD_NAME to metadata.name, and VAULTSYNC_LEASE to a Lease in the pod's namespace"
        logger.log(level, "the Service of the audit port can't follow the leader", reason=str(error), to_do=fix)
