"""The label on the leader's pod that the Service of the audit port selects, as Patroni and Vault's own chart do it.

GitOps tools leave the label alone: they manage the Deployment, and a pod's own labels are no part of its template.
RBAC can't limit `patch` on pods to labels or to one pod; docs/least-privilege.md says what that means.
"""

import asyncio
from contextlib import suppress
from typing import Final, NoReturn

from loguru import logger

from vaultsync.config.kube_syntax import is_pod_name
from vaultsync.core.annotations import LEADER_LABEL
from vaultsync.core.backoff import backoff
from vaultsync.core.errors import KubeDenied, KubeNotFound, VaultsyncError
from vaultsync.core.fence import Fence
from vaultsync.kube.client import KubeClient

FIRST_WAIT, LONGEST_WAIT = 0.2, 30.0
"""Seconds between attempts."""
RENEW_SECONDS: Final = 60.0
"""The leader writes its label this often, in case somebody has removed it. The API server stores nothing then."""
WITHDRAW_SECONDS: Final = 0.5
"""The longest that a stop waits for the API server."""


def pod_of(identity: str) -> str:
    """The pod's name in an identity `<pod>_<uuid>` of the election, "" if it has none. The text is untrusted."""
    name, _, _ = identity.rpartition("_")
    return name if is_pod_name(name) else ""


class LeaderLabel:
    """Keeps the label of this process's pod in step with whether the process leads.

    One task writes, so that no two requests overtake each other.

    Args:
        client: not fenced: a process that does not lead removes its own label. It needs a short time-out.
        namespace: of the pods.
        pod: this process's.
    """

    def __init__(self, client: KubeClient, namespace: str, pod: str) -> None:
        self._client = client
        self._namespace = namespace
        self._pod = pod
        self._fence: Fence | None = None
        self._previous = ""
        self._changed = asyncio.Event()
        self._written = asyncio.Event()
        self._reported = ""

    async def run(self) -> NoReturn:
        """Write what changes, until cancelled. The first write removes a label from an earlier life of the pod."""
        waits = backoff(FIRST_WAIT, LONGEST_WAIT)
        while True:
            self._changed.clear()
            try:
                await self._write()
            except VaultsyncError as error:
                self._report(error)
                wait: float | None = next(waits)
            else:
                waits, self._reported = backoff(FIRST_WAIT, LONGEST_WAIT), ""
                wait = RENEW_SECONDS if self._fence else None
                if not self._changed.is_set():
                    self._written.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()

    def lead(self, fence: Fence, previous_holder: str) -> None:
        """Have the Service select this pod, and no longer that of the previous leader.

        A leader that is frozen keeps its label, and the Service would send half of the entries to it.

        Args:
            fence: of this term: the label is set only while it is open.
            previous_holder: the identity that held the Lease before, "" if none is known.
        """
        pod = pod_of(previous_holder)
        self._set(fence, "" if pod == self._pod else pod)

    async def withdraw(self) -> None:
        """Have the Service select this pod no more, as far as the API server answers in time."""
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
            with suppress(KubeNotFound):  # the pod is gone, and its label with it
                await self._patch(self._pod, None)
        if leads and previous:
            with suppress(KubeNotFound):
                await self._patch(previous, None)
            self._previous = ""

    async def _patch(self, pod: str, value: str | None) -> None:
        path = f"/api/v1/namespaces/{self._namespace}/pods/{pod}"
        await self._client.merge_patch(path, {"metadata": {"labels": {LEADER_LABEL: value}}})

    def _report(self, error: VaultsyncError) -> None:
        """Log the same reason once, until a request succeeds."""
        reason, fix = str(error), "none: it is tried again"
        if isinstance(error, KubeDenied):
            fix = f"grant `patch` on pods in the namespace {self._namespace}, as deploy/base/role.yaml does"
        elif isinstance(error, KubeNotFound):
            fix = "set VAULTSYNC_POD_NAME to metadata.name, and VAULTSYNC_LEASE to a Lease in the pod's namespace"
        if reason != self._reported:
            logger.warning("the Service of the audit port can't follow the leader", reason=reason, to_do=fix)
        self._reported = reason
