"""Leader election by a Lease: of several replicas one acts, the others stand by. Knows nothing of what leading means.

The rules and times are those of client-go's tools/leaderelection: a candidate waits until it has seen no change of the
record for as long as the leader's duration, by its own clock, and takes the Lease only if it is still as it was seen;
the leader gives up after a shorter time without a renewal, counted from when the last good one was *sent*. No time that
stands in the Lease is ever compared with a clock here.

As with client-go, a process that starts after a person has deleted the Lease, and before its leader has made it anew,
knows of no leader and leads at once. The old leader finds another's Lease at its next renewal and stops: two may act
for Timing.retry, or for Timing.deadline where it can't renew. Check-and-set keeps that harmless. To wait instead would
cost every first start those 10 s, as a Lease that was deleted looks like one that never was. To ship an empty one, so
that only a deleted one is missing, would be worse: applied again after a deletion it looks released, and then the
standbys too, who wait now for its leader to make it anew, would take it at once.

Why kubernetes.aio.leaderelection of the kubernetes package (37.0.2), whose client this uses, is not enough: it goes by
the wall clock; a request that hangs outlasts its deadline; it can't release (its LeaseLock asserts a holder), so that a
clean stop costs the whole duration; it takes a Lease at once in which a field is missing; it asks every two seconds
where a watch tells at once; and it writes local times as if they were UTC.
"""

import asyncio
import math
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Final, NoReturn

from loguru import logger

from vaultsync.core.backoff import jittered
from vaultsync.core.errors import KubeConflict, KubeNotFound, VaultsyncError
from vaultsync.core.fence import Fence
from vaultsync.kube.client import KubeClient
from vaultsync.kube.informer import Informer

API: Final = "coordination.k8s.io/v1"
LONGEST_SECONDS: Final = 60.0
"""A Lease that claims to last longer is not believed: anybody may have written it."""
MAX_TRANSITIONS: Final = 2**31 - 1
RELEASE_SECONDS: Final = 1.0
"""The longest that a stop waits for the API server."""
SHOWN: Final = 100
"""Of a holder's name in the log."""


@dataclass(frozen=True, slots=True)
class Timing:
    """client-go's defaults, in seconds.

    Attributes:
        duration: how long a candidate waits after the last change that it has seen.
        deadline: how long after the last good renewal a leader acts; shorter by the time that what it sent last may be
            on its way.
        retry: between two renewals.
    """

    duration: float = 15.0
    deadline: float = 10.0
    retry: float = 2.0

    @property
    def request(self) -> float:
        """The longest wait for one answer: one that hangs leaves time for another try."""
        return self.deadline / 4


TIMING: Final = Timing()


@dataclass(frozen=True, slots=True)
class Release:
    """How a leader that ends lets go of the Lease.

    Attributes:
        seconds: the longest wait for the API server.
        refusal: why the Lease is left to expire instead, "" if it is released.
    """

    seconds: float = RELEASE_SECONDS
    refusal: str = ""


class LeadershipLost(Exception):
    """The leadership ended without anybody having asked for it; the message says why."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The Lease as it was seen. Untrusted: a field that is none of the API's types counts as missing.

    Attributes:
        version: its resourceVersion.
        holder: "" where it is free.
        seconds: how long it is held without a renewal.
        transitions: how often it has changed hands.
        spec: all of it; what has not changed in it was not renewed.
    """

    name: str
    version: str
    holder: str
    seconds: float
    transitions: int
    spec: Mapping[str, Any] = field(default_factory=dict)


def parse_lease(document: Mapping[str, Any]) -> Lease:
    """Cut a Lease down; never raises."""
    metadata, spec = _mapping(document.get("metadata")), _mapping(document.get("spec"))
    holder = spec.get("holderIdentity")
    return Lease(
        name=str(metadata.get("name", "")),
        version=str(metadata.get("resourceVersion", "")),
        holder=holder if isinstance(holder, str) else "",
        seconds=min(_number(spec.get("leaseDurationSeconds")), LONGEST_SECONDS),
        transitions=_number(spec.get("leaseTransitions")),
        spec=spec,
    )


def boottime() -> float:
    """Seconds, monotonic, that go on while the machine sleeps; on Linux those of time.monotonic do not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


class Election:
    """One candidate.

    Args:
        client: not fenced, and with Timing.request as its time-out.
        namespace, name: of the Lease. It is made where there is none.
        identity: no other process has it, and the process that has it has no other. Its own Lease it takes at once.
        fence: is open while this process leads.
        clock: the fence's.

    Attributes:
        previous_holder: the last other holder of the Lease that was seen, "" if none was. It is untrusted text.
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
        """Stand by, lead, and let go of the Lease when cancelled, for the next one to take it at once.

        Args:
            lead: acts until cancelled. What it does at its end is done before the Lease is free.
            release: asked when `lead` has ended, and the fence is closed.

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
        """Wait until the Lease is free, and take it; meanwhile a watch tells of each change."""
        watch: Informer[Lease] = Informer(
            self._client,
            self._leases,
            "Lease",
            parse_lease,
            attrgetter("name"),
            self._observe,
            lambda _: self._vanished(),
            silence=2 * self._timing.duration,  # a leader is heard of more often; one that is not is followed before
            query={"fieldSelector": f"metadata.name={self._name}"},  # which RBAC by `resourceNames` allows
        )
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(watch.run())
            await watch.synced.wait()
            await self._acquire()
            watching.cancel()

    async def _acquire(self) -> None:
        holder, said = "", ""
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
                if str(error) != said:
                    logger.warning("the Lease can't be taken", lease=self._where, reason=str(error))
                said = str(error)
                await asyncio.sleep(jittered(self._timing.retry))

    async def _take(self) -> bool:
        """Whether the Lease is ours now; False if somebody else was quicker."""
        try:
            await self._write(self._identity)
        except (KubeConflict, KubeNotFound) as error:
            if self._seen is None and isinstance(error, KubeNotFound):  # the namespace is gone
                raise
            await self._read()
            return False
        return True

    def _observe(self, lease: Lease) -> None:
        """Take in what the Lease is; only a change of its record, not of its labels, puts off when it is free."""
        renewed = self._seen is None or self._seen.spec != lease.spec
        self._seen = lease
        if lease.holder in ("", self._identity):
            self._free_at = float("-inf")
        elif renewed:
            self.previous_holder = lease.holder
            self._free_at = self._clock() + max(self._timing.duration, lease.seconds)
        self._changed.set()

    def _vanished(self) -> None:
        """Somebody has deleted the Lease. When it is free stays as it was: its leader may be making it anew."""
        self._seen = None
        self._changed.set()

    # -- leading

    async def _keep(self) -> NoReturn:
        """Renew for as long as that works.

        Raises:
            LeadershipLost: somebody else has the Lease, or the deadline has gone by.
        """
        said = ""
        while True:
            await asyncio.sleep(min(self._timing.retry, self._fence.left))
            if not self._fence.is_open:  # also if it was frozen, and could renew now: another one may lead already
                self._lose("it could not be renewed in time")
            try:
                async with asyncio.timeout(self._fence.left):
                    await self._update(self._identity)
            except TimeoutError:
                self._lose("it could not be renewed in time")
            except VaultsyncError as error:
                if str(error) != said:
                    logger.warning("the Lease can't be renewed", lease=self._where, reason=str(error))
                said = str(error)
            else:
                said = ""

    def _lose(self, why: str) -> NoReturn:
        self._fence.close()  # before what acts is cancelled, which may have a last wish
        raise LeadershipLost(f"Lease {self._where}: {why}")

    async def _release(self, how: Release) -> None:
        """Let go of the Lease, as far as the API server answers."""
        if how.refusal:
            logger.warning("the Lease is left to expire", lease=self._where, reason=how.refusal)
            return
        try:
            async with asyncio.timeout(how.seconds):
                await self._update("")
        except TimeoutError:
            logger.warning("the Lease is left to expire", lease=self._where, reason="no answer in time")
        except (VaultsyncError, LeadershipLost) as error:
            logger.warning("the Lease is left to expire", lease=self._where, reason=str(error))

    async def _update(self, holder: str) -> None:
        """Renew or release the own Lease.

        Raises:
            LeadershipLost: somebody else has it.
            VaultsyncError: it may work later.
        """
        try:
            await self._write(holder)
        except (KubeConflict, KubeNotFound):
            # an answer that was lost, a label of somebody's, a deletion, or another leader
            lease = await self._read()
            if lease is not None and lease.holder != self._identity:
                self._lose(f"it is held by {lease.holder[:SHOWN] or 'nobody'}")
            await self._write(holder)

    # -- the Lease itself

    async def _read(self) -> Lease | None:
        """The Lease as it is, taken in; None if it is gone."""
        try:
            lease = parse_lease(await self._client.get(f"{self._leases}/{self._name}"))
        except KubeNotFound:
            self._vanished()
            return None
        self._observe(lease)
        return lease

    async def _write(self, holder: str) -> None:
        """Write the record, only if the Lease is as it was last seen; opens the fence for its holder.

        Raises:
            KubeConflict: it is not.
            KubeNotFound: it is gone.
            VaultsyncError: it may or may not be written.
        """
        sent, seen = self._clock(), self._seen
        spec = self._record(holder, seen)
        if seen is None:
            body = {"apiVersion": API, "kind": "Lease", "metadata": {"name": self._name}, "spec": spec}
            document = await self._client.post(self._leases, body)
        else:
            body = {"metadata": {"resourceVersion": seen.version}, "spec": spec}
            document = await self._client.merge_patch(f"{self._leases}/{self._name}", body)
        self._seen = parse_lease(document)
        if holder:
            self._fence.open(sent + self._timing.deadline)

    def _record(self, holder: str, seen: Lease | None) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        # released as client-go does it, for candidates that go by the duration alone
        record = {
            "holderIdentity": holder,
            "leaseDurationSeconds": math.ceil(self._timing.duration) if holder else 1,
            "renewTime": now,
        }
        if seen is None or seen.holder != holder:
            record["acquireTime"] = now
        if seen is not None and holder and seen.holder != holder:
            record["leaseTransitions"] = seen.transitions + 1 if seen.transitions < MAX_TRANSITIONS else 0
        return record


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
