"""Kubernetes Events, deduplicated as client-go's recorder does (tools/record/events_cache.go).

The same event again raises the count of the first, and one object can't flood the namespace. Best effort: a lost Event
harms nothing.
"""

import asyncio
import socket
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from loguru import logger

from vaultsync.core.annotations import EventReason
from vaultsync.core.errors import KubeNotFound, VaultsyncError
from vaultsync.core.external_secret import ExternalSecret
from vaultsync.kube.client import KubeClient

REMEMBERED: Final = 4096
SIMILAR: Final = 10
SIMILAR_SECONDS: Final = 600.0
"""client-go's aggregator: from the 10th different message of one reason on one object within 10 minutes, one Event."""
COMBINED: Final = "(combined from similar events): "
BURST: Final = 25
REFILL_SECONDS: Final = 300.0
"""client-go's spam filter: an object has 25 Events at once, and one more every 5 minutes."""
WAITING: Final = 10_000
BEHIND_SECONDS: Final = 0.2
PACE_SECONDS: Final = 0.02
"""How long after the fact Events are written, and the pause before each: the value's way goes first."""
MESSAGE_BYTES: Final = 1024
"""The API's limit for an Event's message."""


class _Key(NamedTuple):
    uid: str
    reason: str
    message: str


@dataclass(slots=True)
class _Seen:
    """An Event that was created: its name, and how often it has happened."""

    name: str
    count: int


class Aggregator:
    """Tells when an object has too many Events that differ in their messages alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._groups: OrderedDict[tuple[str, str], tuple[set[str], float]] = OrderedDict()

    def is_one_too_many(self, uid: str, reason: str, message: str) -> bool:
        """Count a message; True if it should be combined with the similar ones before it."""
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


class SpamFilter:
    """A token bucket for each object, forgetting the ones not used longest."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, uid: str) -> bool:
        """Take one token of the object's bucket; False when it is empty."""
        now = self._clock()
        tokens, since = self._buckets.pop(uid, (float(BURST), now))
        tokens = min(float(BURST), tokens + (now - since) / REFILL_SECONDS)
        allowed = tokens >= 1
        self._buckets[uid] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        return allowed


class EventRecorder:
    """Takes Events at once and writes them in the background, one after another."""

    def __init__(
        self, client: KubeClient, filter: SpamFilter | None = None, aggregator: Aggregator | None = None
    ) -> None:
        self._client = client
        self._filter = filter or SpamFilter()
        self._aggregator = aggregator or Aggregator()
        self._seen: OrderedDict[_Key, _Seen] = OrderedDict()
        self._waiting: deque[tuple[ExternalSecret, _Key, str]] = deque(maxlen=WAITING)
        self._news = asyncio.Event()
        self._host = socket.gethostname()

    def record(self, external_secret: ExternalSecret, reason: EventReason, message: str) -> None:
        """Record an Event on the ExternalSecret; a Warning if the reason is a failure."""
        uid = external_secret.uid
        combined = self._aggregator.is_one_too_many(uid, reason, message)
        key = _Key(uid, reason, COMBINED if combined else message)
        if self._filter.allows(uid):
            shown = (COMBINED + message if combined else message).encode()[:MESSAGE_BYTES].decode(errors="ignore")
            self._waiting.append((external_secret, key, shown))
            self._news.set()

    async def run(self) -> None:
        """Write what was recorded, until cancelled."""
        while True:
            await self._news.wait()
            await asyncio.sleep(BEHIND_SECONDS)
            self._news.clear()
            while self._waiting:
                await asyncio.sleep(PACE_SECONDS)
                external_secret, key, message = self._waiting.popleft()
                try:
                    await self._write(external_secret, key, message)
                except VaultsyncError as error:
                    logger.warning("an Event could not be written", on=str(external_secret.name), reason=str(error))

    async def _write(self, external_secret: ExternalSecret, key: _Key, message: str) -> None:
        seen = self._seen.get(key)
        path = f"/api/v1/namespaces/{external_secret.name.namespace}/events"
        if seen is not None:
            seen.count += 1
            self._seen.move_to_end(key)
            patch = {"count": seen.count, "lastTimestamp": _now(), "message": message}
            try:
                await self._client.merge_patch(f"{path}/{seen.name}", patch)
                return
            except KubeNotFound:  # the API server drops Events after an hour
                pass
        body = self._event(external_secret, key, message)
        await self._client.post(path, body)
        self._seen[key] = _Seen(body["metadata"]["name"], 1)
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)

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
            "type": "Warning" if key.reason == EventReason.SEED_FAILED else "Normal",
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": "vaultsync", "host": self._host},
            "reportingComponent": "vaultsync",
            "reportingInstance": self._host,
        }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
