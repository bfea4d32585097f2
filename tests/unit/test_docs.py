"""The manual (README.md, docs/) is whole and true of what is there: links, pictures, reasons, messages, rights, names.

Its commands are run by tests/e2e and tests/integration/test_docs.py.
"""

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import yaml

from vaultsync.config.settings import Settings, variable
from vaultsync.config.variables import REMOVED
from vaultsync.core import annotations
from vaultsync.core.annotations import CreatedReason, EventReason

PROJECT = Path(__file__).parents[2]
DOCS = sorted((PROJECT / "docs").glob("*.md"))
MANUAL = [PROJECT / "README.md", PROJECT / "CHANGELOG.md", *DOCS]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
TROUBLESHOOTING = PROJECT / "docs" / "troubleshooting.md"
each_page = pytest.mark.parametrize("page", MANUAL, ids=lambda page: page.name)


@cache
def prose(page: Path) -> str:
    """Without blocks of code."""
    return re.sub(r"^( *)```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def links(page: Path) -> list[str]:
    """Those that stay in the repository."""
    return [link for link in LINK.findall(prose(page)) if "://" not in link]


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them: https://docs.github.com/en/get-started/writing-on-github."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", LINK.sub("", heading).lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.is_relative_to(PROJECT), link
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_the_readme_leads_to_every_page_and_some_page_shows_every_picture() -> None:
    targets = {(page.parent / link.partition("#")[0]).resolve(): page for page in MANUAL for link in links(page)}
    from_readme = {(PROJECT / link.partition("#")[0]).resolve() for link in links(PROJECT / "README.md")}
    assert {*DOCS} <= from_readme
    pictures = {file for kind in ("png", "svg") for file in (PROJECT / "docs").glob(f"*.{kind}")}
    assert pictures <= targets.keys()


def test_every_picture_has_a_text() -> None:
    assert [page.name for page in MANUAL if "![](" in prose(page)] == []


@each_page
def test_it_names_only_settings_annotations_and_targets_that_there_are(page: Path) -> None:
    text = page.read_text()
    settings = {variable(name) for name in Settings.model_fields}
    removed = {*REMOVED} if page.name == "CHANGELOG.md" else set()
    assert set(re.findall(r"VAULTSYNC_[A-Z_]*[A-Z]", text)) <= settings | removed
    assert set(re.findall(r"vaultsync\.io/[a-z-]+", text)) <= {*annotations.READ_ANNOTATIONS, annotations.LEADER_LABEL}
    phony = re.search(r"^\.PHONY:(.*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= set(phony.group(1).split())


def test_every_reason_is_explained() -> None:
    text = TROUBLESHOOTING.read_text()
    headings = set(re.findall(r"^### `(\w+)`$", text, re.MULTILINE))
    assert headings == {str(reason) for reason in CreatedReason}
    events = text.split("\n## Events\n")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", events, re.MULTILINE)) == {str(reason) for reason in EventReason}
    concepts = (PROJECT / "docs" / "concepts.md").read_text()
    assert [reason for reason in (*CreatedReason, *EventReason) if f"`{reason}`" not in concepts] == []


def test_what_it_quotes_is_what_vaultsync_says() -> None:
    """The first column of its tables, of which `…` stands for what differs."""
    sources = (file.read_text() for file in sorted((PROJECT / "vaultsync").rglob("*.py")))
    said = "\n".join(re.sub(r'"\s*\n\s*f?"', "", source).replace('\\"', '"') for source in sources)
    rows = re.findall(r"^\| (`.*?) \|", TROUBLESHOOTING.read_text(), re.MULTILINE)
    quoted = [part.strip() for row in rows for quote in re.findall(r"`([^`]+)`", row) for part in quote.split("…")]
    assert len(quoted) > 50
    assert [part for part in quoted if part not in said] == []


def test_the_rights_are_those_of_the_cluster_role() -> None:
    text = (PROJECT / "docs" / "least-privilege.md").read_text()
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) on `([\w/]+)` \|", text, re.MULTILINE)
    told = {(resource, verb) for verbs, resource in rows for verb in re.findall(r"\w+", verbs)}
    role = yaml.safe_load((PROJECT / "deploy" / "base" / "clusterrole.yaml").read_text())
    granted = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    assert told == granted
