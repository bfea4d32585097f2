"""tests/supply, `vaultsync version`, and that each place that names vaultsync's version names the same."""

import json
import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.version import Version

from tests.supply.audit import FOUND, NONE_KNOWN, UNKNOWN, verdict
from tests.supply.bill import bill
from tests.supply.licences import LICENCES, problems, table
from tests.supply.locked import LOCK, Package, locked
from vaultsync import __version__
from vaultsync.cli import main

PROJECT = Path(__file__).parents[2]
DIRECT = {"aiohttp", "cryptography", "hvac", "kubernetes", "loguru", "prometheus-client", "pydantic"}


def test_everything_locked_is_known_with_its_hashes() -> None:
    packages, elsewhere = locked()
    text = LOCK.read_text()
    pinned = re.findall("^([a-z0-9-]+)==", text, re.MULTILINE)
    assert sorted(pinned) == sorted([one.name for one in packages] + [pin.name for pin in elsewhere])
    assert all(package.hashes for package in packages)
    assert {pin.name for pin in elsewhere} == {"colorama", "win32-setctime"}


def test_the_list_of_licences_is_of_today_and_all_are_permitted() -> None:
    packages, elsewhere = locked()
    assert LICENCES.read_text() == table(packages, elsewhere), "run `make licences`"
    assert problems(packages) == []


@pytest.mark.parametrize(
    ("name", "licence", "is_permitted"),
    [
        ("a", "MIT", True),
        ("a", "Apache-2.0 OR BSD-3-Clause", True),
        ("a", "(MIT AND ISC)", True),
        ("a", "MIT AND GPL-3.0-only", False),
        ("a", "MPL-2.0", False),
        ("certifi", "MPL-2.0", True),
        ("certifi", "GPL-3.0-only", False),
        ("a", "BSD", False),
        ("a", "unknown", False),
        ("a", "", False),
    ],
)
def test_a_licence_that_is_not_on_the_list_is_refused(name: str, licence: str, is_permitted: bool) -> None:
    assert (problems([Package(name, "1", (), licence, ())]) == []) is is_permitted


def test_the_bill_names_every_package_with_its_licence_and_hashes_and_who_needs_it() -> None:
    packages, _ = locked()
    document = json.loads(bill(packages))
    components = {one["name"]: one for one in document["components"]}
    assert components.keys() == {package.name for package in packages}
    for package in packages:
        component = components[package.name]
        assert component["purl"] == f"pkg:pypi/{package.name}@{package.version}"
        [files] = component["externalReferences"]
        assert {one["content"] for one in files["hashes"]} == set(package.hashes)
        assert component["licenses"]
    needs = {one["ref"]: set(one.get("dependsOn", ())) for one in document["dependencies"]}
    root = document["metadata"]["component"]["bom-ref"]
    assert root == f"pkg:pypi/vaultsync@{__version__}"
    assert {components[name]["bom-ref"] for name in DIRECT} < needs[root]
    needed = set[str]().union(*needs.values())
    assert needed == {one["bom-ref"] for one in components.values()}, "nothing is locked that nobody needs"


def test_the_bill_is_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    packages, _ = locked()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert bill(packages) == bill(packages)
    assert json.loads(bill(packages))["metadata"]["timestamp"].startswith("2023-11-14T22:13:20")


WELL = {"name": "a", "version": "1", "vulns": []}
ILL = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"], "aliases": []}]}
SKIPPED = {"name": "c", "skip_reason": "Dependency not found on PyPI and could not be audited: c (3)"}


@pytest.mark.parametrize(
    ("answer", "code", "told"),
    [
        (json.dumps({"dependencies": [WELL]}), NONE_KNOWN, "1 packages"),
        (json.dumps({"dependencies": [WELL, ILL, SKIPPED]}), FOUND, "b 2: PYSEC-1, fixed in 2.1"),
        (json.dumps({"dependencies": [WELL, SKIPPED]}), UNKNOWN, "1 of 2 packages could not be looked up"),
        (json.dumps({"dependencies": []}), UNKNOWN, "it is unknown here"),
        ("", UNKNOWN, "ConnectionError: no such host"),
    ],
)
def test_an_audit_takes_no_silence_for_good_news(answer: str, code: int, told: str) -> None:
    found, lines = verdict(answer, "Traceback\nConnectionError: no such host\n")
    assert found == code
    assert told in "\n".join(lines)


def test_version_comes_first_and_what_it_runs_on_after_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert first == f"vaultsync {__version__}"
    told = dict(line.split(" ") for line in others)
    assert told.keys() > DIRECT | {"python"}
    assert "pytest" not in told
    assert told["hvac"] == metadata.version("hvac")
    assert main(["version", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"vaultsync": __version__, **told}


def test_every_place_names_the_same_version() -> None:
    assert str(Version(__version__)) == __version__
    assert metadata.version("vaultsync") == __version__
    readme = (PROJECT / "README.md").read_text()
    assert set(re.findall(r"REGISTRY/vaultsync:(\S+)", readme)) == {__version__}
    overlay = (PROJECT / "docs" / "install.md").read_text()
    assert set(re.findall(r"newTag: (\S+)", overlay)) == {__version__}
    released = re.findall(r"^## \[(\d[^\]]*)\]", (PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == __version__
