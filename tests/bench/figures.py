"""What was measured, and how it is shown: on a terminal, as markdown, as JSON."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

HEADERS = ("measure", "vaultsync", "the talk's bash", "target")


@dataclass(frozen=True, slots=True)
class Sample:
    """One contender's figures for one measure.

    Attributes:
        seconds: one for each repeat that arrived.
        lost: repeats that did not arrive at all.
        text: what is shown in place of statistics, where the figure is none of time.
        note: what is shown besides.
    """

    seconds: Sequence[float] = ()
    lost: int = 0
    text: str = ""
    note: str = ""

    def __str__(self) -> str:
        shown = self.text or self._statistics()
        lost = f"{self.lost} NOT ARRIVED" if self.lost else ""
        return "\n".join(part for part in (shown, self.note, lost) if part)

    def _statistics(self) -> str:
        if not self.seconds:
            return ""
        if len(self.seconds) == 1:
            return f"{self.seconds[0]:.3g} s"
        ordered = sorted(self.seconds)
        p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
        tail = f"p95 {_short(p95)}, max" if len(ordered) >= 20 else "max"
        return f"median {_short(statistics.median(ordered))}\n{tail} {_short(ordered[-1])} (n={len(ordered)})"


@dataclass(slots=True)
class Figure:
    """One row of the table."""

    name: str
    measure: str
    target: str
    vaultsync: Sample = field(default_factory=Sample)
    talk: Sample = field(default_factory=lambda: Sample(text="–"))

    @property
    def cells(self) -> tuple[str, str, str, str]:
        return self.measure, str(self.vaultsync), str(self.talk), self.target


def show(figures: Sequence[Figure], console: Console) -> None:
    """A table on a terminal; markdown where the output goes to a file or another program."""
    if not console.is_terminal:
        console.print(markdown(figures), markup=False, highlight=False, soft_wrap=True)
        return
    table = Table(*HEADERS, show_lines=True)
    for figure in figures:
        table.add_row(*figure.cells)
    console.print(table)


def markdown(figures: Sequence[Figure]) -> str:
    rows = [HEADERS, ("---",) * len(HEADERS), *(figure.cells for figure in figures)]
    return "\n".join("| " + " | ".join(cell.replace("\n", "; ") for cell in row) + " |" for row in rows)


def save(figures: Sequence[Figure], file: Path) -> None:
    """Every single figure, for those who want to compute with them."""
    document = {"machine": machine(), "figures": [asdict(figure) for figure in figures]}
    file.write_text(json.dumps(document, indent=2) + "\n")


def machine() -> str:
    """What the figures depend on: cores, and how busy they are with other things."""
    return f"{os.cpu_count()} cores, load {', '.join(f'{load:.1f}' for load in os.getloadavg())} (1, 5, 15 min)"


def _short(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds:.2f} s"
