"""Breaks one heal down by vaultsync's own log lines between the request and the value's arrival."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.bench.watching import Name


@dataclass(frozen=True, slots=True)
class Span:
    """One measured repeat: the object it was about, when the request was sent, when the value was there."""

    name: Name
    sent: float
    arrived: float


def explain(spans: Sequence[Span], log: str) -> list[str]:
    """Lines such as `sent → seeded 8.1 ms (of which the write in Vault 3.2 ms)`, medians over the repeats."""
    lines = [line for line in log_lines(log) if line["message"] in ("seeded", "force-synced")]
    steps = [list(_steps(span, lines)) for span in spans]
    names = dict.fromkeys(name for step in steps for name, _ in step)
    return [f"{name}: median {_median(name, steps)} ms" for name in names]


def log_lines(log: str) -> Iterator[dict[str, Any]]:
    """The JSON lines of vaultsync's log, each with its time in seconds as `at`."""
    for line in log.splitlines():
        if line.startswith("{"):
            document: dict[str, Any] = json.loads(line)
            yield {**document, "at": datetime.fromisoformat(document["time"]).timestamp()}


def _steps(span: Span, lines: Iterable[dict[str, Any]]) -> Iterator[tuple[str, float]]:
    before, before_name = span.sent, "request sent"
    for line in lines:
        # the log's times are cut to milliseconds
        if span.sent - 0.001 <= line["at"] <= span.arrived + 0.05 and str(span.name) in _objects(line):
            duration = float(line["duration_ms"])
            request = "write in Vault" if line["message"] == "seeded" else "force-sync patch"
            yield f"{before_name} → {line['message']}", (line["at"] - before) * 1000
            yield f"  of it the {request}", duration
            before, before_name = line["at"], str(line["message"])
    yield f"{before_name} → value in the Secret", (span.arrived - before) * 1000


def _objects(line: dict[str, Any]) -> list[str]:
    return [line.get("external_secret", ""), *line.get("external_secrets", ())]


def _median(name: str, steps: Sequence[Sequence[tuple[str, float]]]) -> str:
    figures = [value for step in steps for other, value in step if other == name]
    return f"{statistics.median(figures):.1f} (n={len(figures)})"
