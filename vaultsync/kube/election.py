"""Leader election by a Lease: of several replicas one leads, the others stand by. Does not know what leading means.

The rules and timings are those of client-go's tools/leaderelection. A candidate takes the Lease when its record has not
changed for the leader's duration, measured by the candidate's own clock, and only if the Lease is unchanged since then.
The leader stops after a shorter time without a renewal, measured from when the last successful renewal was *sent*. No
time in the Lease is ever compared with a local clock.

As with client-go, a process that starts while the Lease is deleted, before the leader has created it again, leads at
once. The old leader notices at its next renewal and stops: two processes may act for Timing.retry, or for
Timing.deadline if the old one can't renew. Check-and-set keeps that harmless. Waiting instead would delay every first
start by 10 s, as a deleted Lease looks like one that never existed. An empty Lease among the manifests would be worse:
applied again after a deletion it looks released, and the standbys, which now wait for its leader to create it again,
would take it at once.

kubernetes.aio.leaderelection of the kubernetes package (37.0.2) is not sufficient: it depends on the wall clock; a
request that hangs exceeds its deadline; it can't release (its LeaseLock requires a holder), so a clean stop takes the
whole duration; it takes a Lease with a missing field at once; it polls every two seconds instead of watching; and it
writes local time as UTC.
"""

import asyncio
import math
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from loguru import logger

from vaultsync.core.errors import KubeConflict, KubeNotFound, VaultsyncError
from vaultsync.core.fence import Fence
from vaultsync.core.retry import Retry, jittered
from vaultsync.core.untrusted import mapping, text
from vaultsync.kube.client import KubeClient
from vaultsync.kube.informer import Informer

API: Final = "coordination.k8s.io/v1"
LONGEST_SECONDS: Final = 60.0
"""Upper limit of a Lease's duration: the record is untrusted."""
MAX_TRANSITIONS: Final = 2**31 - 1
RELEASE_SECONDS: Final = 1.0
"""Time limit for the API server at a stop."""
SHOWN: Final = 100
"""Maximum number of characters of a holder's name in the log."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of an election, in seconds. The defaults are client-go's.

    Attributes:
        duration: how long a candidate waits after the last change of the record that it has seen.
        deadline: how long after the last successful renewal a leader acts; its last request may take until `duration`.
        retry: between two renewals.
    """

    duration: float = 15.0
    deadline: float = 10.0
    retry: float = 2.0

    @property
    def request(self) -> float:
        """Time limit of one request: if it hangs, there is time for another attempt."""
        return self.deadline / 4


TIMING: Final = Timing()


@dataclass(frozen=True, slots=True)
class Release:
    """How a leader that stops releases the Lease.

    Attributes:
        seconds: time limit for the API server.
        refusal: why the Lease must expire instead, "" to release it.
    """

    seconds: float = RELEASE_SECONDS
    refusal: str = ""


class LeadershipLost(Exception):
    """The leadership ended without a request to stop; the message says why."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The Lease as it was read. Untrusted: a field of an unexpected type counts as missing.

    Attributes:
        version: its resourceVersion.
        holder: "" if it is free.
        seconds: the duration without a renewal after which it is free.
        transitions: the number of changes of the holder.
        spec: the whole record; a renewal changes it.
    """

    version: str
    holder: str
    seconds: float
    transitions: int
    spec: Mapping[str, Any]


def parse_lease(document: Mapping[str, Any]) -> Lease:
    """Parse a Lease of the API; never raises."""
    metadata, spec = mapping(document.get("metadata")), mapping(document.get("spec"))
    return Lease(
        version=str(metadata.get("resourceVersion", "")),
        holder=text(spec.get("holderIdentity")),
        seconds=min(_number(spec.get("leaseDurationSeconds")), LONGEST_SECONDS),
        transitions=_number(spec.get("leaseTransitions")),
        spec=spec,
    )


def boottime() -> float:
    """Monotonic seconds including the time that the machine is suspended, which time.monotonic excludes on Linux."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


class Election:
    """One candidate.

    Args:
        client: not fenced, with Timing.request as its time-out.
        namespace, name: of the Lease. It is created if it does not exist.
        identity: unique to the process. A Lease that it holds already is taken at once.
        fence: is opened while this process leads.
        clock: the fence's.

    Attributes:
        previous_holder: the last other holder of the Lease that was seen, "" if none was. Untrusted.
    """

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        name: str,
        identity: str,
        fence: Fence,
        clock: Callable[[], float] = boottime,
        timing: Timing = TIMING,
    ) -> None:
        self._client = client
        self._leases = f"/apis/{API}/namespaces/{namespace}/leases"
        self._where = f"{namespace}/{name}"
        self._name = name
        self._identity = identity
        self._fence = fence
        self._clock = clock
        self._timing = timing
        self._seen: Lease | None = None
        self._free_at = float("-inf")
        self._changed = asyncio.Event()
        self.previous_holder = ""

    async def run(self, lead: Callable[[], Awaitable[None]], release: Callable[[], Release] = Release) -> NoReturn:
        """Stand by, lead, and release the Lease when cancelled.

        Args:
            lead: acts until cancelled. The Lease is released after it has finished its cleanup.
            release: called when `lead` has ended and the fence is closed.

        Raises:
            LeadershipLost: in a group; `lead` was cancelled.
        """
        await self._stand_by()
        logger.info("this process leads", lease=self._where, identity=self._identity)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep())
                await lead()
        finally:
            holds = self._fence.is_open
            self._fence.close()
            if holds:
                await self._release(release())
        raise AssertionError("leading ends by cancellation")

    # -- standing by

    async def _stand_by(self) -> None:
        """Watch the Lease until it is free, and take it."""
        watch: Informer[Lease] = Informer(
            self._client,
            self._leases,
            "Lease",
            parse_lease,
            self._observe,
            self._vanished,
            silence=2 * self._timing.duration,  # a leader renews more often
            query={"fieldSelector": f"metadata.name={self._name}"},  # RBAC by `resourceNames` allows this query
        )
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(watch.run())
            await watch.synced.wait()
            await self._acquire()
            watching.cancel()

    async def _acquire(self) -> None:
        holder, retry = "", Retry(self._timing.retry, self._timing.retry)
        while True:
            self._changed.clear()
            if (wait := self._free_at - self._clock()) > 0:
                now = self._seen.holder if self._seen else ""
                if now and now != holder:
                    logger.info("this process stands by", lease=self._where, leader=now[:SHOWN])
                holder = now or holder
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._changed.wait()
                continue
            try:
                if await self._take():
                    return
            except VaultsyncError as error:
                level = retry.failed(str(error)).level
                logger.log(level, "the Lease can't be taken", lease=self._where, reason=str(error))
                await asyncio.sleep(jittered(self._timing.retry))

    async def _take(self) -> bool:
        """Try to take the Lease; returns False if another candidate was faster."""
        try:
            await self._write(self._identity)
        except (KubeConflict, KubeNotFound) as error:
            if self._seen is None and isinstance(error, KubeNotFound):  # the namespace is gone
                raise
            await self._read()
            return False
        return True

    def _observe(self, lease: Lease) -> None:
        """Process the state of the Lease. Only a change of the record, not one of the labels, counts as a renewal."""
        renewed = self._seen is None or self._seen.spec != lease.spec
        self._seen = lease
        if lease.holder in ("", self._identity):
            self._free_at = float("-inf")
        elif renewed:
            self.previous_holder = lease.holder
            self._free_at = self._clock() + max(self._timing.duration, lease.seconds)
        self._changed.set()

    def _vanished(self, _: Lease | None = None) -> None:
        """Process the deletion of the Lease. Its leader may have renewed it just before, and may create it again."""
        if self._seen is not None and self._free_at > float("-inf"):
            self._free_at = self._clock() + self._timing.duration
        self._seen = None
        self._changed.set()

    # -- leading

    async def _keep(self) -> NoReturn:
        """Renew the Lease.

        Raises:
            LeadershipLost: another process holds the Lease, or the deadline has passed.
        """
        retry = Retry(self._timing.retry, self._timing.retry)
        while True:
            await asyncio.sleep(min(self._timing.retry, self._fence.left))
            if not self._fence.is_open:  # even if a frozen process could renew now: another one may lead
                self._lose("it could not be renewed in time")
            try:
                async with asyncio.timeout(self._fence.left):
                    await self._update(self._identity)
            except TimeoutError:
                self._lose("it could not be renewed in time")
            except VaultsyncError as error:
                level = retry.failed(str(error)).level
                logger.log(level, "the Lease can't be renewed", lease=self._where, reason=str(error))
            else:
                retry.succeeded()

    def _lose(self, why: str) -> NoReturn:
        self._fence.close()  # first: cancelled tasks must not write during cleanup
        raise LeadershipLost(f"Lease {self._where}: {why}")

    async def _release(self, how: Release) -> None:
        """Release the Lease if the API server answers in time."""
        reason = how.refusal
        if not reason:
            try:
                async with asyncio.timeout(how.seconds):
                    await self._update("")
            except (TimeoutError, VaultsyncError, LeadershipLost) as error:
                reason = str(error) or "no answer in time"
        if reason:
            logger.warning("the Lease is left to expire", lease=self._where, reason=reason)

    async def _update(self, holder: str) -> None:
        """Renew or release the own Lease.

        Raises:
            LeadershipLost: another process holds it.
            VaultsyncError: it may succeed later.
        """
        try:
            await self._write(holder)
        except (KubeConflict, KubeNotFound):
            # a lost answer, a change of labels, a deletion, or another leader
            lease = await self._read()
            if lease is not None and lease.holder != self._identity:
                self._lose(f"it is held by {lease.holder[:SHOWN] or 'nobody'}")
            await self._write(holder)

    # -- requests

    async def _read(self) -> Lease | None:
        """Read and process the Lease; None if it is deleted."""
        try:
            lease = parse_lease(await self._client.get(f"{self._leases}/{self._name}"))
        except KubeNotFound:
            self._vanished()
            return None
        self._observe(lease)
        return lease

    async def _write(self, holder: str) -> None:
        """Write the record if the Lease has not changed since it was read; opens the fence for the holder.

        Raises:
            KubeConflict: it has changed.
            KubeNotFound: it is deleted.
            VaultsyncError: the outcome is unknown.
        """
        sent, seen, spec = self._clock(), self._seen, self._record(holder)
        if seen is None:
            body = {"apiVersion": API, "kind": "Lease", "metadata": {"name": self._name}, "spec": spec}
            document = await self._client.post(self._leases, body)
        else:
            body = {"metadata": {"resourceVersion": seen.version}, "spec": spec}
            document = await self._client.merge_patch(f"{self._leases}/{self._name}", body)
        self._seen = parse_lease(document)
        if holder:
            self._fence.open(sent + self._timing.deadline)

    def _record(self, holder: str) -> dict[str, Any]:
        seen, now = self._seen, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        # client-go releases like this: some candidates consider the duration only
        record = {
            "holderIdentity": holder,
            "leaseDurationSeconds": math.ceil(self._timing.duration) if holder else 1,
            "renewTime": now,
        }
        if seen is None or seen.holder != holder:
            record["acquireTime"] = now
            if seen is not None and holder:
                record["leaseTransitions"] = seen.transitions + 1 if seen.transitions < MAX_TRANSITIONS else 0
        return record


def _number(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
