"""Records Kubernetes Events, deduplicated as by client-go's recorder (tools/record/events_cache.go).

A repeated Event raises the count of the first, and one object can't flood its namespace. Best effort: an Event that
can't be written is dropped.
"""

import asyncio
import socket
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from loguru import logger

from vaultsync.core.annotations import EventReason
from vaultsync.core.errors import KubeNotFound, VaultsyncError
from vaultsync.core.external_secret import ExternalSecret
from vaultsync.core.rate_limit import TokenBuckets
from vaultsync.kube.client import KubeClient

REMEMBERED: Final = 4096
"""Maximum number of Events, groups of similar Events, and objects that are remembered."""
SIMILAR: Final = 10
SIMILAR_SECONDS: Final = 600.0
"""client-go's aggregator: the 10th and later messages of one reason on one object within 10 minutes are combined."""
COMBINED: Final = "(combined from similar events): "
BURST: Final = 25
REFILL_SECONDS: Final = 300.0
"""client-go's spam filter: a burst of 25 Events for an object, then one every 5 minutes."""
WAITING: Final = 10_000
"""Maximum number of Events in the queue."""
DELAY_SECONDS, PAUSE_SECONDS = 0.2, 0.02
"""Delay before Events are written, and pause before each: writes of values and force-syncs go first."""
MESSAGE_BYTES: Final = 1024
"""The API's limit for an Event's message."""


class _Key(NamedTuple):
    uid: str
    reason: str
    message: str


_WARNINGS: Final = (EventReason.SEED_FAILED, EventReason.NOT_HEALED, EventReason.OTHER_OWNER)


@dataclass(slots=True)
class _Created:
    """An Event that was created, and its count."""

    name: str
    count: int = 1


class EventRecorder:
    """Queues Events and writes them in the background, one after another.

    Args:
        delay, pause: seconds, see DELAY_SECONDS.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        client: KubeClient,
        delay: float = DELAY_SECONDS,
        pause: float = PAUSE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._delay, self._pause = delay, pause
        self._limits: TokenBuckets[str] = TokenBuckets(1 / REFILL_SECONDS, BURST, clock, REMEMBERED)
        self._clock = clock
        self._groups: OrderedDict[tuple[str, str], tuple[set[str], float]] = OrderedDict()
        """By object and reason: messages, and the time of the last one."""
        self._created: OrderedDict[_Key, _Created] = OrderedDict()
        self._waiting: deque[tuple[ExternalSecret, _Key, str]] = deque(maxlen=WAITING)
        self._recorded = asyncio.Event()
        self._host = socket.gethostname()

    def record(self, external_secret: ExternalSecret, reason: EventReason, message: str) -> None:
        """Record an Event on the ExternalSecret, of type Warning if the reason is a failure."""
        uid, key_message = external_secret.uid, message
        if self._is_combined(uid, reason, message):
            key_message, message = COMBINED, COMBINED + message
        if self._limits.take(uid) == 0.0:
            shown = message.encode()[:MESSAGE_BYTES].decode(errors="ignore")
            self._waiting.append((external_secret, _Key(uid, reason, key_message), shown))
            self._recorded.set()

    def _is_combined(self, uid: str, reason: str, message: str) -> bool:
        """Count a message; returns whether it is combined with the similar ones before it."""
        now = self._clock()
        messages, since = self._groups.pop((uid, reason), (set(), now))
        if now - since > SIMILAR_SECONDS:
            messages = set()
        messages.add(message)
        combined = len(messages) >= SIMILAR
        if combined:
            messages.pop()
        self._groups[uid, reason] = (messages, now)
        if len(self._groups) > REMEMBERED:
            self._groups.popitem(last=False)
        return combined

    async def run(self) -> None:
        """Write recorded Events until cancelled."""
        while True:
            await self._recorded.wait()
            await asyncio.sleep(self._delay)
            self._recorded.clear()
            while self._waiting:
                await asyncio.sleep(self._pause)
                external_secret, key, message = self._waiting.popleft()
                try:
                    await self._write(external_secret, key, message)
                except VaultsyncError as error:
                    logger.warning("an Event could not be written", on=str(external_secret.name), reason=str(error))

    async def _write(self, external_secret: ExternalSecret, key: _Key, message: str) -> None:
        created = self._created.get(key)
        path = f"/api/v1/namespaces/{external_secret.name.namespace}/events"
        if created is not None:
            created.count += 1
            self._created.move_to_end(key)
            patch = {"count": created.count, "lastTimestamp": _now(), "message": message}
            with suppress(KubeNotFound):  # the API server deletes Events after an hour
                await self._client.merge_patch(f"{path}/{created.name}", patch)
                return
        body = self._event(external_secret, key, message)
        await self._client.post(path, body)
        self._created[key] = _Created(body["metadata"]["name"])
        if len(self._created) > REMEMBERED:
            self._created.popitem(last=False)

    def _event(self, external_secret: ExternalSecret, key: _Key, message: str) -> dict[str, Any]:
        name, now = external_secret.name, _now()
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{name.name[:220]}.{uuid.uuid4().hex[:16]}", "namespace": name.namespace},
            "involvedObject": {
                "apiVersion": external_secret.api_version,
                "kind": "ExternalSecret",
                "namespace": name.namespace,
                "name": name.name,
                "uid": external_secret.uid,
                "resourceVersion": external_secret.resource_version,
            },
            "reason": key.reason,
            "message": message,
            "type": "Warning" if key.reason in _WARNINGS else "Normal",
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": "vaultsync", "host": self._host},
            "reportingComponent": "vaultsync",
            "reportingInstance": self._host,
        }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
