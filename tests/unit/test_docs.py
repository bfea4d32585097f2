"""The manual (README.md, docs/) is whole and true of what is there: links, pictures, reasons, messages, rights, names.

Its commands are run by tests/e2e and tests/integration/test_docs.py.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest
import yaml

from vaultsync.config.settings import REMOVED, Settings, variable
from vaultsync.core import annotations
from vaultsync.core.annotations import CreatedReason, EventReason

PROJECT = Path(__file__).parents[2]
DOCS = sorted((PROJECT / "docs").glob("*.md"))
MANUAL = [PROJECT / "README.md", PROJECT / "CHANGELOG.md", *DOCS]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SETTINGS = {variable(name) for name in Settings.model_fields}
VARIABLE = re.compile(r"(?<![A-Z_])VAULT(?:SYNC)?_[A-Z_]*[A-Z]")
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
    removed = {*REMOVED} if page.name == "CHANGELOG.md" else set()
    assert {*VARIABLE.findall(text)} <= SETTINGS | removed
    known = {*annotations.READ_ANNOTATIONS, annotations.LEADER_LABEL, annotations.MOUNTS}
    assert set(re.findall(r"vaultsync\.io/[a-z-]+", text)) <= known
    phony = re.search(r"^\.PHONY:(.*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= set(phony.group(1).split())


def test_the_pages_for_developers_name_only_modules_that_there_are() -> None:
    """As `controller/index`, or with `*` in the name."""
    pages = (PROJECT / "CONTRIBUTING.md", PROJECT / "docs" / "architecture.md")
    packages = "|".join(sorted(folder.name for folder in (PROJECT / "vaultsync").iterdir() if folder.is_dir()))
    named = {name for page in pages for name in re.findall(rf"`((?:{packages})/[a-z_*/]+)`", page.read_text())}
    assert len(named) > 20
    assert {
        name for name in named if not list(PROJECT.glob(f"vaultsync/{name}{'' if name[-1] == '/' else '.py'}"))
    } == set()


def test_manifests_and_messages_name_only_settings_that_there_are() -> None:
    kinds = ("deploy/**/*.yaml", "deploy/**/*.txt", "deploy/**/*.tpl", "deploy/**/*.json", "deploy/**/*.hcl")
    named = {name for kind in kinds for file in PROJECT.glob(kind) for name in VARIABLE.findall(file.read_text())}
    assert named - SETTINGS == {"VAULTSYNC_PORT"}  # which Kubernetes would set
    said = (name for file in PROJECT.glob("vaultsync/**/*.py") for name in VARIABLE.findall(file.read_text()))
    assert {name for name in said if name.startswith("VAULTSYNC_")} <= SETTINGS | {*REMOVED}


@each_page
def test_its_commands_read_the_logs_of_every_replica(page: Path) -> None:
    """`logs deploy/vaultsync` reads one pod's; with a selector kubectl shows the last 10 lines without `--tail`."""
    deployment = yaml.safe_load((PROJECT / "deploy" / "base" / "deployment.yaml").read_text())
    [(label, value)] = deployment["spec"]["template"]["metadata"]["labels"].items()
    read = re.findall(r"kubectl -n vaultsync logs .*", page.read_text())
    reads_all = f"kubectl -n vaultsync logs -l {label}={value} --tail=-1"
    assert [line for line in read if not line.startswith(reads_all)] == []


def test_every_reason_is_explained() -> None:
    text = TROUBLESHOOTING.read_text()
    headings = set(re.findall(r"^### `(\w+)`$", text, re.MULTILINE))
    assert headings == {str(reason) for reason in CreatedReason}
    events = text.split("\n## Events\n")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", events, re.MULTILINE)) == {str(reason) for reason in EventReason}
    concepts = (PROJECT / "docs" / "concepts.md").read_text()
    assert [reason for reason in (*CreatedReason, *EventReason) if f"`{reason}`" not in concepts] == []


def quotes() -> list[str]:
    """The first column of the tables in Troubleshooting."""
    rows = re.findall(r"^\| (`.*?) \|", TROUBLESHOOTING.read_text(), re.MULTILINE)
    return [quote for row in rows for quote in re.findall(r"`([^`]+)`", row)]


def test_what_it_quotes_is_what_vaultsync_says() -> None:
    """Of a quote `…` stands for what differs."""
    sources = (file.read_text() for file in sorted((PROJECT / "vaultsync").rglob("*.py")))
    said = "\n".join(re.sub(r'"\s*\n\s*f?"', "", source).replace('\\"', '"') for source in sources)
    quoted = [part.strip() for quote in quotes() for part in quote.split("…")]
    assert len(quoted) > 50
    assert [part for part in quoted if part not in said] == []


def test_every_warning_of_the_log_has_a_row() -> None:
    warned = {*warnings()}
    assert len(warned) > 40
    told = tuple(quote.rstrip("…").rstrip() for quote in quotes())
    assert sorted(text for text in warned if not text.startswith(told)) == []


def warnings() -> Iterator[str]:
    """The messages of log lines that are, or may be, of WARNING or above; of f-strings the beginning."""
    trees = {file: ast.parse(file.read_text()) for file in sorted((PROJECT / "vaultsync").rglob("*.py"))}
    assigned = [node for tree in trees.values() for node in tree.body if isinstance(node, ast.AnnAssign)]
    constants = {ast.unparse(node.target): node.value for node in assigned if node.value is not None}
    for file, tree in trees.items():
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                message = message_of(call, call.func)
                if message is not None:
                    yield from texts_of(message, constants, f"{file.name}:{call.lineno}")


def message_of(call: ast.Call, function: ast.Attribute) -> ast.expr | None:
    """That of a call that logs a warning, or something worse."""
    of_logger = "logger" in ast.unparse(function.value)
    if of_logger and function.attr in ("warning", "error", "critical", "exception"):
        return call.args[0]
    if function.attr == "_lose" and len(call.args) == 2:  # of Audit, which logs its words
        return call.args[1]
    if (of_logger and function.attr == "log") or function.attr == "_log":
        level, message = call.args[:2]
        levels = {node.value for node in ast.walk(level) if isinstance(node, ast.Constant)}
        is_passed_on = isinstance(message, ast.Name) and message.id in ("message", "words")
        may_warn = "WARNING" in levels or isinstance(level, ast.Name)
        return message if may_warn and not is_passed_on else None
    return None


def texts_of(message: ast.expr, constants: Mapping[str, ast.expr], where: str) -> Iterator[str]:
    if isinstance(message, ast.IfExp):
        yield from texts_of(message.body, constants, where)
        yield from texts_of(message.orelse, constants, where)
    elif isinstance(message, ast.JoinedStr):
        yield from texts_of(message.values[0], constants, where)
    elif isinstance(message, ast.Name) and message.id in constants:
        yield from texts_of(constants[message.id], constants, where)
    elif isinstance(message, ast.Constant):
        yield str(message.value)
    else:
        raise AssertionError(f"{where}: its text can't be told: {ast.unparse(message)}")


def test_the_rights_are_those_of_the_cluster_role() -> None:
    text = (PROJECT / "docs" / "least-privilege.md").read_text()
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) on `([\w/]+)` \|", text, re.MULTILINE)
    told = {(resource, verb) for verbs, resource in rows for verb in re.findall(r"\w+", verbs)}
    role = yaml.safe_load((PROJECT / "deploy" / "base" / "clusterrole.yaml").read_text())
    granted = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    assert told == granted
