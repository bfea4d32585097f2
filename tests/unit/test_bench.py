"""tests/bench: figures become a table, plots, and the page docs/benchmarks.md, and are kept in a file between."""

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench import states
from tests.bench.document import PAGE, PLOTS, beyond, merged, page, write
from tests.bench.figures import Figure, Run, Sample, load, markdown, save
from tests.bench.idle import processor_time, processor_time_of_group
from tests.bench.measures import AT_SIZES, BESIDE, IN_STATES, columns
from tests.bench.scale import each_more, kube_requests, rows

PEERS = [
    Figure(
        "seed",
        "created → value",
        "< 35 ms",
        {
            "vaultsync": Sample((0.02, 0.03, 0.04)),
            "talk": Sample((1.05,)),
            "eso": Sample(lost=2, patience=15),
            "push": Sample((0.05, 1.5), lost=1, patience=15, note="(once late)"),
        },
    ),
    Figure("rotations", "400 rotations", "all arrive", {"vaultsync": Sample((0.1,), text="400 of 400")}),
]


def at_sizes() -> list[Figure]:
    """Every row that there is, of two sizes."""
    made = rows()
    for number, figure in enumerate(made.values()):
        figure.samples = {"100": Sample(value=number, text="x"), "10000": Sample(value=2 * number, text="y")}
    made["memory"].samples = {"100": Sample(value=80.0, text="80 MB"), "10000": Sample(value=140.0, text="140 MB")}
    made["force-sync"].samples = {size: Sample(tuple(n / 1000 for n in range(1, 201))) for size in ("100", "10000")}
    return list(made.values())


def a_run() -> Run:
    return Run({"date": "today", "commit": "abc"}, {BESIDE: PEERS, AT_SIZES: at_sizes()})


def test_each_contender_has_a_column_and_never_is_a_result() -> None:
    lines = markdown(columns(BESIDE, PEERS), PEERS).splitlines()
    assert lines == [
        "| measure | vaultsync | the talk's bash, ESO at 5 s | ESO polling at 5 s | PushSecret and ESO at 5 s "
        "| target |",
        "| --- | --- | --- | --- | --- | --- |",
        "| created → value | median 30.0 ms; max 40.0 ms (n=3) | 1.05 s | 2 of 2 did not arrive within 15 s "
        "| median 0.78 s; max 1.50 s (n=2); (once late); 1 of 3 did not arrive within 15 s | < 35 ms |",
        "| 400 rotations | 400 of 400 | – | – | – | all arrive |",
    ]


def test_who_was_not_measured_has_no_column() -> None:
    head, *_ = markdown(columns(BESIDE, PEERS[1:]), PEERS[1:]).splitlines()
    assert head == "| measure | vaultsync | target |"


def test_sizes_are_columns_in_their_order() -> None:
    figures = at_sizes()
    for figure in figures:
        figure.samples = dict(reversed(figure.samples.items()))
    head, *_ = markdown(columns(AT_SIZES, figures), figures).splitlines()
    assert head == "| measure | 100 | 10,000 | target |"


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (1, "0.001 s"),
        (3, "median 2.0 ms\nmax 3.0 ms (n=3)"),
        (20, "median 10.5 ms\np95 19.0 ms, max 20.0 ms (n=20)"),
        (200, "median 0.10 s\np95 0.19 s, p99 0.20 s, max 0.20 s (n=200)"),
    ],
)
def test_only_quantiles_are_told_for_which_there_are_figures_enough(number: int, shown: str) -> None:
    assert str(Sample([n / 1000 for n in range(1, number + 1)])) == shown


def test_the_page_has_every_table_and_picture_and_the_circumstances(tmp_path: Path) -> None:
    write(a_run(), tmp_path)
    text = (tmp_path / PAGE).read_text()
    assert text == page(a_run())
    assert "| commit | abc |" in text
    for title, figures in a_run().figures.items():
        assert markdown(columns(title, figures), figures) in text
    pictures = re.findall(r"!\[([^\]]+)\]\((\S+)\)", text)
    assert [title for title, _ in pictures] == [plot.title for plots in PLOTS.values() for plot in plots]
    assert {name for _, name in pictures} == {file.name for file in tmp_path.glob("*.svg")}
    for _, name in pictures:
        words = "".join(ElementTree.parse(tmp_path / name).getroot().itertext())  # noqa: S314 — our own
        assert "No data" not in words
        assert "script" not in (tmp_path / name).read_text()


def test_the_same_figures_make_the_same_pictures(tmp_path: Path) -> None:
    for folder in ("one", "other"):
        write(a_run(), tmp_path / folder)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "other" / file.name).read_bytes()


def test_a_plot_shows_each_contender_whose_values_arrive(tmp_path: Path) -> None:
    write(Run({}, {BESIDE: PEERS}), tmp_path)
    words = "".join(ElementTree.parse(tmp_path / "benchmarks-peers.svg").getroot().itertext())  # noqa: S314
    assert all(value in words for value in ("0.03", "1.05", "0.775"))
    assert [file.name for file in tmp_path.glob("*.svg")] == ["benchmarks-peers.svg"]


def test_parts_that_were_measured_in_several_runs_make_one(tmp_path: Path) -> None:
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    seed = Figure(PEERS[0].name, PEERS[0].measure, PEERS[0].target, {"vaultsync": Sample((0.5,))})
    save(a_run(), one)
    save(Run({"date": "later"}, {BESIDE: [seed]}), other)
    assert load([one]) == a_run()
    merged = load([one, other])
    assert merged.about == {"date": "later", "commit": "abc"}
    [first, second] = merged.figures[BESIDE]
    assert first.samples == PEERS[0].samples | seed.samples
    assert second == PEERS[1]
    assert merged.figures[AT_SIZES] == at_sizes()


def test_rows_of_a_later_run_are_put_into_the_page_and_say_so() -> None:
    """What an hour has measured need not be measured again for one more row."""
    text = page(a_run())
    about = {"commit": "def", "date": "later", "machine": "2 cores"}
    row = Figure("rotations", "400 rotations", "all arrive", {"vaultsync": Sample((0.2,), text="399 of 400")})
    new = Figure("lost", "entries", "–", {"vaultsync": Sample((0.2,), text="none")})
    once = merged(text, Run(about, {BESIDE: [row, new]}))
    lines = once.splitlines()
    assert "| run def | later; 2 cores |" in lines
    assert "| 400 rotations (run def) | 399 of 400 | – | – | – | all arrive |" in lines
    assert "| entries (run def) | none | – | – | – | – |" in lines
    kept = [line for line in text.splitlines() if "400 rotations" not in line]
    assert [line for line in lines if line in kept] == kept
    assert merged(once, Run(about, {BESIDE: [row, new]})) == once


def test_a_table_of_a_later_run_is_put_after_the_others() -> None:
    figures = [figure for name, figure in states.rows().items() if name in (states.WITHOUT, "lost")]
    for figure in figures:
        figure.samples = {"vault-1": Sample((0.002,)), "openbao-8": Sample((0.02,))}
    about = {"commit": "def", "date": "later", "machine": "2 cores"}
    found = merged(page(a_run()), Run(about, {IN_STATES: figures}))
    section = found.split(f"## {IN_STATES}\n")[1]
    assert "| measure | Vault, 1 client | OpenBao, 8 clients | target |" in section.splitlines()
    assert "without vaultsync: a file audit device alone (run def) | 0.002 s | 0.02 s |" in section


def test_the_ratio_is_to_the_same_moments_without_vaultsync() -> None:
    pair = states.Pair([0.012] * 200, [0.010] * 200)
    assert "p99 1.20 × without (10.0 ms)" in str(pair.sample())
    assert pair.sample().lost == 0


def test_past_what_was_measured_a_straight_line_is_told() -> None:
    assert beyond({100: 1.0, 1_000: 10.0, 2_000: 30.0}, 10_000) == 190.0
    lines = page(a_run()).splitlines()
    assert "| memory at rest after the start | 685 MB | 140 MB |" in lines
    assert "On paper" not in page(Run({}, {BESIDE: PEERS}))


def test_what_each_more_takes_is_the_slope_from_the_smallest() -> None:
    found = each_more({10_100: Sample(value=180.0), 100: Sample(value=80.0), 1_100: Sample(value=85.0)})
    assert {size: round(sample.value or 0, 2) for size, sample in found.items()} == {1_100: 5.12, 10_100: 10.24}
    assert each_more({100: Sample(value=80.0)}) == {}


def test_the_processor_time_of_a_group_has_that_of_children_who_have_ended() -> None:
    child = f"{sys.executable} -c 'sum(range(10**7))'"
    with subprocess.Popen(
        ["sh", "-c", f"{child}; echo done; read line"],
        start_new_session=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as shell:
        assert shell.stdin
        assert shell.stdout
        assert shell.stdout.readline() == b"done\n"
        assert processor_time_of_group(shell.pid) > processor_time(shell.pid) + 0.05
        shell.stdin.close()


def test_requests_are_counted_from_where_the_log_was(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    lines = [
        {"verb": "patch", "objectRef": {"resource": "externalsecrets"}},
        {"verb": "patch", "objectRef": {"resource": "externalsecrets", "subresource": "status"}},
        {"verb": "get", "requestURI": "/version"},
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"verb": "half')
    assert kube_requests(log, 0) == {"patch externalsecrets": 1, "patch externalsecrets/status": 1, "get /version": 1}
    assert kube_requests(log, len(json.dumps(lines[0])) + 1).total() == 2
