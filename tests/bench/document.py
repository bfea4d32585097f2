"""Generates docs/benchmarks.md and its plots from the measured figures only."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from tests.bench.figures import Figure, Run, Sample, markdown
from tests.bench.measures import AT_SIZES, BESIDE, CONTENDERS, IN_STATES, columns
from tests.bench.scale import ROWS
from tests.bench.svg import pygal
from tests.testbed import pins
from tests.testbed.identity import PROJECT

DOCS = PROJECT / "docs"
PAGE = "benchmarks.md"
HEAD = """\
# Benchmarks
`make bench` writes this page. It uses the real servers of the tests, all of them on one machine. The figures of a row
are of the same run. Each time starts just before a request and ends when a separate watch reports the value in the
Kubernetes Secret, except where the row has another definition. For limits and settings see [at scale](scale.md), for
the other tools [comparison](comparison.md).

"""
TEXTS = {
    BESIDE: """\
All tools have the same ExternalSecrets on the same servers, vaultsync with `refreshInterval: 1h`, the others with `5s`,
as each is designed to run. The talk's bash is [its script](../tests/bench/talk.sh); PushSecret has the generator
Password and `updatePolicy: IfNotExists`. After two repeats without a result the measurement stops. At rest, requests to
Vault are those of all clients, and the processor time is that of the tool, external-secrets and Vault together.
""",
    AT_SIZES: """\
vaultsync has the event stream and an audit device. All ExternalSecrets are Ready, and each reads its own path. The
servers' own audit logs count the requests; "its own count" is that of vaultsync's metrics. At the largest size
external-secrets has more workers and a higher rate limit for the API server than its defaults (`--concurrent`,
`--client-qps`).
""",
    IN_STATES: """\
The time that a client waits for a KV write. Vault is on one machine, vaultsync on another: two network namespaces of
this machine. All rows but the first have a healthy file audit device. One run alternates between writes without
vaultsync's audit device and as many with it, for each state and in several rounds; the ratio compares these two.
Each further audit device costs Vault the processor time of encoding and hashing each entry, independently of its
receiver: see the row of the second file. In the overloaded state, both halves are measured during the flood. With TCP
each state is measured for 8 s, or until the writes that have begun end; the timeout of a client is a minute.
""",
}
PAPER = 100_000
ON_PAPER = """\
These figures are not measured, but extrapolated on a straight line through the two largest sizes above. Costs that
grow only with events, such as the time and the requests of a force-sync, are not included. See
[at scale](scale.md#past-that) for what to do.
"""
GROWING = {ROWS[name][0]: unit for name, unit in (("start", "s"), ("memory", "MB"), ("resync", "s"))}
"""The rows that go with the number, and their units."""
STYLE = pygal.style.Style(
    background="white",
    plot_background="white",
    font_family="sans-serif",
    value_font_size=11,
    colors=("#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd"),
)


class Plot(NamedTuple):
    """A picture of a table: its file's name, the text in its place, and how it is drawn of the rows by measure."""

    name: str
    title: str
    chart: Callable[[Mapping[str, Figure]], pygal.graph.graph.Graph]


def write(run: Run, folder: Path) -> None:
    """The page and its plots, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PAGE).write_text(page(run))
    for title, figures in run.figures.items():
        rows = {figure.measure: figure for figure in figures}
        for plot in PLOTS[title]:
            chart = plot.chart(rows)
            chart.uuid = plot.name  # a random one would change the file for the same figures
            chart.title = plot.title
            (folder / f"{plot.name}.svg").write_bytes(_svg(chart))


def page(run: Run) -> str:
    """The text of docs/benchmarks.md."""
    return HEAD + "\n".join(_sections(run))


def merge(run: Run, folder: Path) -> None:
    """Merges a run's rows into the existing page, each marked with its run; the rest and the plots are kept."""
    file = folder / PAGE
    file.write_text(merged(file.read_text(), run))


def merged(text: str, run: Run) -> str:
    """The page's text with the rows of another run in place of those of the same measures, and its new ones."""
    mark = f"(run {run.about['commit']})"
    head, *parts = re.split(r"^(?=## )", text.rstrip("\n") + "\n", flags=re.MULTILINE)
    about = f"| run {run.about['commit']} | {run.about['date']}; {run.about['machine']} |"
    if about not in head:
        head = head.rstrip("\n") + f"\n{about}\n\n"
    for title, figures in run.figures.items():
        marked = [replace(figure, measure=f"{figure.measure} {mark}") for figure in figures]
        place = next((at for at, part in enumerate(parts) if part.startswith(f"## {title}\n")), None)
        if place is None:
            parts.append(f"\n## {title}\n{TEXTS[title]}\n{markdown(columns(title, figures), marked)}\n")
        else:
            parts[place] = _with_rows(parts[place], title, marked)
    body = "".join(parts)
    return "".join(line for line in head.splitlines(keepends=True) if _is_of(line, body)) + body


def _is_of(line: str, body: str) -> bool:
    """Whether a line of the head still says something of the body: all do, but that of a run which has no rows left."""
    found = re.match(r"\| run (\S+) \|", line)
    return found is None or f"(run {found[1]})" in body


def _with_rows(section: str, title: str, figures: Sequence[Figure]) -> str:
    """A section whose table has these rows too, under the headings that it has."""
    lines = section.split("\n")
    first = next(at for at, line in enumerate(lines) if line.startswith("| measure |"))
    last = first + len(list(takewhile(lambda line: line.startswith("|"), lines[first:])))
    headings = _cells(lines[first])
    rows = {_unmarked(_cells(line)[0]): line for line in lines[first + 2 : last]}
    own_headings, _, *own_rows = map(_cells, markdown(columns(title, figures), figures).splitlines())
    for row in own_rows:
        cells = dict(zip(own_headings, row, strict=True))
        rows[_unmarked(row[0])] = "| " + " | ".join(cells.get(heading, "–") for heading in headings) + " |"
    return "\n".join([*lines[: first + 2], *rows.values(), *lines[last:]])


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("| ").split(" | ")]


def _unmarked(measure: str) -> str:
    return re.sub(r" \(run \S+\)$", "", measure)


def _sections(run: Run) -> Iterator[str]:
    yield from ("| | |", "| --- | --- |", *(f"| {name} | {text} |" for name, text in run.about.items()))
    for title, figures in run.figures.items():
        yield f"\n## {title}\n{TEXTS[title]}"
        yield markdown(columns(title, figures), figures) + "\n"
        yield from (f"![{plot.title}]({plot.name}.svg)\n" for plot in PLOTS[title])
        if title == AT_SIZES and len(columns(title, figures).headings) > 1:
            yield from _on_paper(figures)


def _on_paper(figures: Sequence[Figure]) -> Iterator[str]:
    """The figures that grow with the number, extrapolated to a size that was not measured."""
    yield f"## On paper: {PAPER:,} ExternalSecrets\n{ON_PAPER}"
    yield f"| measure | {PAPER:,} in one | in ten shards, each |\n| --- | --- | --- |"
    for figure in figures:
        if figure.measure in GROWING and len(known := _numbers(figure)) > 1:
            unit = GROWING[figure.measure]
            one, each = (beyond(known, size) for size in (PAPER, PAPER // 10))
            yield f"| {figure.measure} | {one:,.0f} {unit} | {each:,.0f} {unit} |"


def beyond(known: Mapping[int, float], size: int) -> float:
    """Extrapolates to a size on a straight line through the two largest measured sizes."""
    (less, low), (more, high) = sorted(known.items())[-2:]
    return high + (high - low) / (more - less) * (size - more)


def _numbers(figure: Figure) -> dict[int, float]:
    return _values(figure) or {int(size): one.seconds[0] for size, one in figure.samples.items() if one.seconds}


def about() -> dict[str, str]:
    """The versions that were measured."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": _commit(),
        "Python": platform.python_version(),
        "Vault": pins.VAULT_VERSION,
        "kube-apiserver": pins.KUBERNETES_VERSION,
        "external-secrets": pins.EXTERNAL_SECRETS_VERSION,
    }


def _commit() -> str:
    """The commit of this checkout, and whether the files differ from it."""
    git = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "none: no git checkout"


def _peers(rows: Mapping[str, Figure]) -> pygal.graph.graph.Graph:
    """The median of each contender; without a bar where nothing ever arrived."""
    labels = {figure.measure: _label(figure) for figure in rows.values() if len(figure.samples) > 2}
    chosen = [measure for measure, label in labels.items() if label]
    chart = pygal.Bar(logarithmic=True, height=420, **_LOOK, range=(0.01, 100), zero=0.01, truncate_label=-1)
    chart.y_title, chart.y_labels = "seconds", (0.01, 0.1, 1, 10, 100)
    chart.x_labels = [labels[measure] for measure in chosen]
    chart.value_formatter = _seconds
    for key, title in CONTENDERS.items():
        chart.add(title, [_median(rows[measure].samples.get(key)) for measure in chosen])
    return chart


def _label(figure: Figure) -> str:
    """A label short enough for an axis; "" for a figure that is not drawn."""
    if figure.name == "burst":
        many, _, what = figure.measure.partition(" at once → ")
        return f"{many} to Ready" if what == "all Ready" else ""
    return {"seed": "path missing to value", "heal": "deleted to new value", "write": "written to there"}.get(
        figure.name, ""
    )


def _memory(rows: Mapping[str, Figure]) -> pygal.graph.graph.Graph:
    [figure] = [figure for figure in rows.values() if figure.measure.startswith("memory at rest")]
    values = sorted(_values(figure).items())
    sizes = [size for size, _ in values]
    most = max(value for _, value in values)
    chart = pygal.XY(height=320, **_LOOK, show_legend=False, range=(0, 1.2 * most), xrange=(0, 1.1 * sizes[-1]))
    chart.x_title, chart.y_title, chart.x_labels = "ExternalSecrets", "MB", sizes
    chart.x_value_formatter = "{:,.0f}".format
    chart.add("MB", [{"value": value, "formatter": _megabytes} for value in values])
    return chart


def _force_syncs(rows: Mapping[str, Figure]) -> pygal.graph.graph.Graph:
    [figure] = [figure for figure in rows.values() if "force-sync seen" in figure.measure]
    chart = pygal.Bar(height=320, **_LOOK)
    chart.y_title = "ms"
    sizes = sorted(figure.samples, key=int)
    chart.x_labels = [f"{int(size):,} ExternalSecrets" for size in sizes]
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        samples = [figure.samples[size] for size in sizes]
        chart.add(name, [round(one.quantile(share) * 1000, 1) if one.seconds else None for one in samples])
    return chart


def _svg(chart: pygal.graph.graph.Graph) -> bytes:
    """The SVG without scripts, which no page would run."""
    root: ElementTree.Element = chart.render_tree()
    for parent in list(root.iter()):
        for script in parent.findall("script"):
            parent.remove(script)
    text: bytes = ElementTree.tostring(root, "utf-8", xml_declaration=True)
    return text + b"\n"


def _median(sample: Sample | None) -> float | None:
    return round(sample.quantile(0.5), 4) if sample and sample.seconds else None


def _values(figure: Figure) -> dict[int, float]:
    return {int(size): round(one.value, 1) for size, one in figure.samples.items() if one.value is not None}


def _megabytes(point: tuple[float, float]) -> str:
    return f"{point[1]:.0f} MB"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


_LOOK = {"style": STYLE, "js": (), "legend_at_bottom": True, "width": 900, "print_values": True}
PLOTS: Mapping[str, Sequence[Plot]] = {
    IN_STATES: [],
    BESIDE: [Plot("benchmarks-peers", "How soon, beside the others (median; no bar: never)", _peers)],
    AT_SIZES: [
        Plot("benchmarks-memory", "Resident memory at rest", _memory),
        Plot("benchmarks-force-syncs", "From Vault's answer to a write to the force-sync", _force_syncs),
    ],
}
