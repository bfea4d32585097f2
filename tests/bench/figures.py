"""The measured figures, and how they are shown: on a terminal, as markdown, as JSON and back."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

VAULTSYNC = "vaultsync"


@dataclass(frozen=True, slots=True)
class Sample:
    """One contender's figures for one measure, or vaultsync's at one size.

    Attributes:
        seconds: one for each repeat that arrived.
        lost: repeats that did not arrive at all.
        patience: seconds after which one counts as lost.
        value: the plotted number if the figure is not a time; its unit is the figure's.
        text: shown instead of statistics.
        note: shown in addition.
    """

    seconds: Sequence[float] = ()
    lost: int = 0
    patience: float = 0.0
    value: float | None = None
    text: str = ""
    note: str = ""

    def __str__(self) -> str:
        return "\n".join(part for part in (self.text or self._statistics(), self.note, self._losses()) if part)

    def quantile(self, share: float) -> float:
        """A quantile of the seconds; 0.5 is the median."""
        if share == 0.5:
            return statistics.median(self.seconds)
        ordered = sorted(self.seconds)
        return ordered[round(share * (len(ordered) - 1))]

    def _statistics(self) -> str:
        if not self.seconds:
            return ""
        number, most = len(self.seconds), max(self.seconds)
        if number == 1:
            return f"{most:.3g} s"
        tails = [f"p{share:.0%}"[:-1] + f" {short(self.quantile(share))}" for share in _tails(number)]
        shown = ", ".join([*tails, f"max {short(most)}"])
        return f"median {short(self.quantile(0.5))}\n{shown} (n={number})"

    def _losses(self) -> str:
        if not self.lost:
            return ""
        within = f" within {self.patience:g} s" if self.patience else ""
        return f"{self.lost} of {self.lost + len(self.seconds)} did not arrive{within}"


NOTHING = Sample(text="–")


@dataclass(slots=True)
class Figure:
    """One row of a table: a sample for each column of it."""

    name: str
    measure: str
    target: str
    samples: dict[str, Sample] = field(default_factory=dict)


class Columns(NamedTuple):
    """A kind of table: what its samples are of, by the key that they have in a figure, and a title."""

    title: str
    headings: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Run:
    """One or several runs of `make bench`, as they are kept in a file.

    Attributes:
        about: date, machine, commit, versions, …, as they are shown.
        figures: by the title of their table.
    """

    about: dict[str, str]
    figures: dict[str, list[Figure]]


def show(columns: Columns, figures: Sequence[Figure], console: Console) -> None:
    """A table on a terminal; markdown where the output goes to a file or another program."""
    if not console.is_terminal:
        console.print(markdown(columns, figures), markup=False, highlight=False, soft_wrap=True)
        return
    head, *rows = _rows(columns, figures)
    table = Table(*head, title=columns.title, show_lines=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def markdown(columns: Columns, figures: Sequence[Figure]) -> str:
    head, *rows = _rows(columns, figures)
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("\n", "; ") for cell in line) + " |" for line in lines)


def save(run: Run, file: Path) -> None:
    """Every single figure as JSON, for further computation."""
    file.write_text(json.dumps(asdict(run), indent=2) + "\n")


def load(files: Iterable[Path]) -> Run:
    """Reads files written by `save`; the samples of later files take precedence."""
    about: dict[str, str] = {}
    merged: dict[str, dict[str, Figure]] = {}
    for file in files:
        document = json.loads(file.read_text())
        about |= document["about"]
        for title, rows in document["figures"].items():
            for row in map(_figure, rows):
                known = merged.setdefault(title, {}).setdefault(row.measure, row)
                known.samples |= row.samples
    return Run(about, {title: list(rows.values()) for title, rows in merged.items()})


def machine() -> str:
    """The machine: its number of cores, and their load."""
    return f"{os.cpu_count()} cores, load {', '.join(f'{load:.1f}' for load in os.getloadavg())} (1, 5, 15 min)"


def short(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds:.2f} s"


def _rows(columns: Columns, figures: Sequence[Figure]) -> list[tuple[str, ...]]:
    keys = [key for key in columns.headings if any(key in figure.samples for figure in figures)]
    head = ("measure", *(columns.headings[key] for key in keys), "target")
    cells = ((str(figure.samples.get(key, NOTHING)) for key in keys) for figure in figures)
    return [head, *((figure.measure, *row, figure.target) for figure, row in zip(figures, cells, strict=True))]


def _tails(number: int) -> Sequence[float]:
    """The quantiles that a sample of this size supports."""
    if number >= 100:
        return 0.95, 0.99
    return (0.95,) if number >= 20 else ()


def _figure(document: dict[str, Any]) -> Figure:
    samples = {key: Sample(**{**one, "seconds": tuple(one["seconds"])}) for key, one in document["samples"].items()}
    return Figure(document["name"], document["measure"], document["target"], samples)
