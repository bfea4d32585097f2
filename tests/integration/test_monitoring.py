"""Compares deploy/monitoring with the metrics of a real vaultsync, by Prometheus' promtool; and tests the runbook."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.manual import commands, section
from tests.testbed import build, pins
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.identity import PROJECT
from tests.testbed.place import Place
from tests.testbed.testbed import Testbed

MONITORING = PROJECT / "deploy" / "monitoring"
ALERTS, DASHBOARD = MONITORING / "alerts.yaml", MONITORING / "grafana-dashboard.json"
ALERTS_TEST = PROJECT / "tests" / "integration" / "alerts_test.yaml"
RUNBOOK = PROJECT / "docs" / "runbook.md"
TARGET_LABELS = {"job", "instance", "namespace"}
"""The labels that Prometheus itself adds."""
SEED = {"vaultsync.io/seed": "true"}


@pytest.fixture(scope="module")
def promtool() -> Path:
    return build.ensure([pins.PROMTOOL])["promtool"]


def checked(promtool: Path, *arguments: object, given: str = "") -> str:
    """The output of promtool, which must succeed."""
    command = [str(promtool), *map(str, arguments)]
    done = subprocess.run(command, input=given, text=True, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression with its location; Grafana's variables are replaced."""
    for panel in panels():
        for target in panel["targets"]:
            expr = target["expr"].replace("$__rate_interval", "5m").replace('job=~"$job"', 'job=~"vaultsync"')
            yield panel["title"], expr
    for rule in rules():
        yield rule["alert"], rule["expr"]


def scrape(text: str) -> dict[str, dict[str, set[str]]]:
    """By sample name, the values of each label."""
    found: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, defaultdict(set))
            for name, value in sample.labels.items():
                labels[name].add(value)
    return found


def test_every_expression_names_what_a_real_vaultsync_exports(
    place: Place, vaultsync: VaultsyncFactory, promtool: Path
) -> None:
    process = vaultsync()
    process.wait_until_ready()
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    place.wait_for_secret("app")
    place.wait_for(lambda: 'last_event_timestamp_seconds{source="events"}' in process.health.text("/metrics"))
    text = process.health.text("/metrics")
    exported = scrape(text)
    used: set[str] = set()
    for where, expr in expressions():
        names = re.findall(r"\b(?:vaultsync|process)_[a-z_]+", expr)
        assert names, where
        used |= set(names)
        for name in names:
            assert name in exported, f"{where}: {name}"
        for name, matchers in re.findall(r"\b((?:vaultsync|process)_[a-z_]+)\{([^}]*)\}", expr):
            for label, value in re.findall(r'(\w+)(?:=|!=|=~|!~)"([^"]*)"', matchers):
                if label in TARGET_LABELS:
                    continue
                assert label in exported[name], f"{where}: {name} has no {label}"
                # codes appear on demand; all other labels exist from the start
                assert label == "code" or set(value.split("|")) <= exported[name][label], f"{where}: {label}={value}"
        grouped = {one for group in re.findall(r"\bby \(([^)]*)\)", expr) for one in re.split(r",\s*", group)}
        known = {label for name in names for label in exported[name]}
        assert grouped <= known | TARGET_LABELS, where
    own = {re.sub("_(bucket|sum|count)$", "", name) for name in exported if name.startswith("vaultsync_")}
    assert own - {re.sub("_(bucket|sum|count)$", "", name) for name in used} == set(), "exported, but not shown"


def test_what_it_exports_follows_prometheus_conventions(vaultsync: VaultsyncFactory, promtool: Path) -> None:
    process = vaultsync(audit=False)
    process.wait_until_ready()
    assert checked(promtool, "check", "metrics", given=process.health.text("/metrics")) == ""


def test_every_expression_parses(promtool: Path, tmp_path: Path) -> None:
    records = [{"record": f"x:{number}", "expr": expr} for number, (_, expr) in enumerate(expressions())]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "x", "rules": records}]}))
    assert f"{len(records)} rules found" in checked(promtool, "check", "rules", "--lint=none", file)


def test_the_dashboard_can_be_imported_anywhere_and_every_panel_is_described() -> None:
    board = json.loads(DASHBOARD.read_text())
    assert board["id"] is None
    assert board["uid"]
    assert board["schemaVersion"] >= 41
    source, job = board["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    assert job["definition"] == "label_values(vaultsync_build_info, job)"
    every = board["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    taken: set[tuple[int, int]] = set()
    for panel in every:
        position = panel["gridPos"]
        cells = {
            (position["x"] + column, position["y"] + line)
            for column in range(position["w"])
            for line in range(position["h"])
        }
        assert not cells & taken, f"{panel['title']} overlaps another"
        assert position["x"] + position["w"] <= 24
        taken |= cells
    for panel in panels():
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        variable = {"type": "prometheus", "uid": "${datasource}"}
        assert [target["datasource"] for target in panel["targets"]] == [variable] * len(panel["targets"])
        assert panel["datasource"] == variable


def test_the_alerts_are_valid_and_fire_when_they_should(promtool: Path) -> None:
    checked(promtool, "check", "rules", "--lint=all", "--lint-fatal", ALERTS)
    checked(promtool, "test", "rules", ALERTS_TEST)
    fired = set(re.findall(r'alertname="(\w+)"', ALERTS_TEST.read_text()))
    assert fired == {rule["alert"] for rule in rules()}


def test_no_alert_pages_for_a_restart() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "info")
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        # a bug has no duration to wait for
        assert rule["alert"] == "VaultsyncBug" or re.fullmatch(r"([5-9]|\d\d)m|1h", rule["for"])


def test_the_runbook_has_a_paragraph_for_each_alert_and_its_commands_are_valid() -> None:
    text = RUNBOOK.read_text()
    headings = re.findall(r"^## (\w+)$", text, re.MULTILINE)
    assert headings == [rule["alert"] for rule in rules()]
    assert [rule["annotations"]["runbook_url"] for rule in rules()] == [
        f"docs/runbook.md#{heading.lower()}" for heading in headings
    ]
    for part in text.split("\n## ")[1:]:
        assert "Affected: " in part
        assert commands(part), part.splitlines()[0]
    for anchor in re.findall(r"\]\(#(\w+)\)", text):
        assert anchor in {heading.lower() for heading in headings}
    for command in commands(text):
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), command


LOOKS = re.compile(r"(kubectl( -n vaultsync)? (get|auth|logs -l)|vault (audit list|policy read|status)) (?!--raw)")
"""Commands that need no pod, because there is none here, and change nothing; `logs` finds no pod and prints nothing."""


def test_the_read_only_commands_of_the_runbook_work(testbed: Testbed, place: Place) -> None:
    place.external_secret("app", {"p": ("app", "password")})
    path = os.pathsep.join(str(testbed.binaries[name].parent) for name in ("vault", "kubectl"))
    env = {**os.environ, **testbed.env, "PATH": path + os.pathsep + os.environ["PATH"]}
    lines = [line for command in commands(RUNBOOK.read_text()) for line in command.splitlines() if LOOKS.match(line)]
    assert len(lines) >= 20
    for line in lines:
        done = subprocess.run(["bash", "-c", line], env=env, capture_output=True, text=True, timeout=60, check=False)
        # grep without a match and can-i without the right both exit with 1
        assert done.returncode == 0 or re.search("grep|can-i", line), f"{line}\n{done.stderr}"
        assert not re.search("(?i)error|unknown|invalid", done.stderr), f"{line}\n{done.stderr}"


def test_the_alerts_become_a_prometheus_rule_as_the_readme_says(tmp_path: Path) -> None:
    [command] = commands(section("Monitoring"))
    shown = command.replace("| kubectl apply -f -", "")
    assert shown != command
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", shown], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    made = yaml.safe_load(done.stdout)
    assert (made["apiVersion"], made["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert made["metadata"] == {"name": "vaultsync", "namespace": "vaultsync"}
    assert made["spec"] == yaml.safe_load(ALERTS.read_text())
