"""The README is complete: its tables have exactly the settings and annotations. Its commands are tested elsewhere."""

import re

from tests.manual import section
from tests.testbed.identity import PROJECT
from vaultsync.config.settings import Settings, variable
from vaultsync.core import annotations

MAKE_TARGETS = {"demo", "test", "test-unit", "lint", "bench", "soak"}


def first_column(text: str, heading: str) -> set[str]:
    table = text.split(f"| {heading} |")[1].split("\n\n", maxsplit=1)[0]
    return {name for row in table.splitlines()[2:] for name in re.findall(r"`([^`]+)`", row.split("|")[1])}


def test_every_setting_is_in_the_table() -> None:
    assert first_column(section("Settings"), "variable") == {variable(name) for name in Settings.model_fields}


def test_every_annotation_is_in_the_table() -> None:
    documented = {name.split(":")[0] for name in first_column(section("Settings"), "annotation")}
    assert documented == {*annotations.READ_ANNOTATIONS, annotations.FORCE_SYNC}


def test_the_make_targets_that_it_names_exist() -> None:
    named = set(re.findall(r"make ([a-z-]+)", section("See it")))
    assert named == MAKE_TARGETS
    phony = re.search(r"^\.PHONY:(.*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert named <= set(phony.group(1).split())
