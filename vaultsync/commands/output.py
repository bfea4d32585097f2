"""The output of `explain`, `plan`, `orphans` and `check`: columns as kubectl aligns them, or JSON. Decides nothing.

Text from the cluster may contain control characters, which are escaped.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from vaultsync.commands.check.report import CheckResult, Status
from vaultsync.commands.orphan_finder import Orphan, OrphanReport
from vaultsync.commands.planner import Explanation, ReferenceStatus, Summary
from vaultsync.core.durations import age

_COLUMNS: Final = ("PATH", "PROPERTY", "VERSION", "AGE", "IN VAULT", "MADE BY", "ACTION")


def explain_table(explained: Explanation, now: datetime) -> str:
    """One ExternalSecret: its seeding, then a line for each reference; ages are computed from `now`."""
    head = [["ExternalSecret:", str(explained.name)], ["Seeding:", f"{explained.choice.value} ({explained.why})"]]
    if not explained.references:
        return columns([*head, ["Reads:", "nothing from a store"]])
    header = [*_COLUMNS, "FIELD", "STORE", "WHY"]
    rows = [[*_cells(one, now), one.field, one.store, _why(one)] for one in explained.references]
    return columns(head) + "\n" + columns([header, *rows])


def plan_table(all_explained: Sequence[Explanation], summary: Summary, now: datetime) -> str:
    """A line for each reference of each ExternalSecret, and a summary line."""
    header = ["NAMESPACE", "NAME", *_COLUMNS, "WHY"]
    rows = [
        [one.name.namespace, one.name.name, *_cells(status, now), _why(status)]
        for one in all_explained
        for status in one.references
    ]
    return (columns([header, *rows]) + "\n" if rows else "") + summary_line(summary) + "\n"


def summary_line(summary: Summary) -> str:
    """Such as `Plan: 2 paths to seed, 0 to add to, 0 to rotate, 1 ExternalSecret to force-sync; …`."""
    force = _count(summary.force_sync, "ExternalSecret")
    paths = f"{_count(summary.seed, 'path')} to seed, {summary.add} to add to, {summary.rotate} to rotate"
    todo = f"{paths}, {force} to force-sync"
    rest = [f"{_count(summary.external_secrets, 'ExternalSecret')} in all"]
    if summary.problems:
        rest.append(f"{summary.problems} with problems")
    if summary.unseen:
        rest.append(f"{_count(summary.unseen, 'reference')} that Vault refused to read")
    idle = "nothing to do in what Vault lets read" if summary.unseen else "nothing to do"
    return f"Plan: {idle if summary.is_idle else todo}; {', '.join(rest)}."


def explain_json(explained: Explanation) -> str:
    """The same as JSON."""
    return _json(_document(explained))


def plan_json(all_explained: Sequence[Explanation], summary: Summary) -> str:
    """The same as JSON."""
    return _json({"external_secrets": [_document(one) for one in all_explained], "summary": asdict(summary)})


def orphans_table(found: OrphanReport, now: datetime) -> str:
    """A line for each path, and a summary line."""
    header = ["PATH", "VERSION", "AGE", "MADE FOR", "PROPERTIES"]
    rows = [
        [
            _place(one.path.namespace, one.where),
            str(one.version),
            _age(one.written, now),
            one.external_secret or "-",
            ", ".join(one.properties),
        ]
        for one in found.orphans
    ]
    last = f"{_count(len(rows), 'path')} that vaultsync created and no ExternalSecret reads\n"
    return (columns([header, *rows]) + "\n" if rows else "") + last


def orphans_json(found: OrphanReport) -> str:
    """The same as JSON."""
    orphans = [
        {
            "vault_namespace": orphan.path.namespace,
            "path": orphan.where,
            "version": orphan.version,
            "written": _time(orphan.written),
            "made": _time(orphan.made),
            "made_for": orphan.external_secret or None,
            "properties": orphan.properties,
        }
        for orphan in found.orphans
    ]
    summary = {"orphans": len(orphans), "left_out": len(found.uncertain), "refused": len(found.refused)}
    return _json({"orphans": orphans, "summary": summary})


def gaps(found: OrphanReport) -> list[str]:
    """Why paths are left out, and that Vault refused requests, a line each."""
    lines = [f"{_count(count, 'path')} left out: {why}" for why, count in Counter(found.uncertain).items()]
    if found.refused:
        lines.append(f"Vault refused {_count(len(found.refused), 'request')}, such as: {found.refused[0]}")
    return [_printable(line) for line in lines]


def not_deleted(orphan: Orphan, why: str) -> str:
    """The message about a path that is not deleted."""
    return _printable(f"{_place(orphan.path.namespace, orphan.where)} is not deleted: {why}")


def check_table(results: Sequence[CheckResult]) -> str:
    """A line for each check with its fix, and a summary line."""
    rows = []
    for one in results:
        fix = f". To do: {one.fix}" if one.fix else ""
        rows.append([one.status.value, f"{one.check.value} {one.subject}".rstrip(), one.found + fix])
    counts = Counter(result.status for result in results)
    last = ", ".join(f"{counts[status]} {status.value}" for status in Status)
    return f"{columns(rows)}\n{last}\n"


def check_json(results: Sequence[CheckResult]) -> str:
    """The same as JSON."""
    counts = Counter(result.status for result in results)
    checks = [
        {
            "check": result.check.value,
            "of": result.subject or None,
            "mark": result.status.value,
            "found": result.found,
            "fix": result.fix or None,
        }
        for result in results
    ]
    summary = {status.value.replace(" ", "_"): counts[status] for status in Status}
    return _json({"checks": checks, "summary": summary})


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, each column as wide as its widest cell; the last one is not padded."""
    cells = [[_printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    widths[-1] = 0
    lines = ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join(lines) + "\n"


def _cells(status: ReferenceStatus, now: datetime) -> list[str]:
    return [
        _place(status.vault_namespace, status.path or status.key),
        status.property or "<all>",
        str(status.version) if status.version else "-",
        _age(status.written, now),
        status.presence.value if status.presence else "-",
        status.made_by or "-",
        str(status.action),
    ]


def _place(vault_namespace: str, path: str) -> str:
    return f"{vault_namespace}:{path}" if vault_namespace else path


def _age(written: datetime | None, now: datetime) -> str:
    return age((now - written).total_seconds()) if written else "-"


def _time(written: datetime | None) -> str | None:
    return written.astimezone(UTC).isoformat() if written else None


def _why(status: ReferenceStatus) -> str:
    return "; ".join(part for part in (status.why, *status.problems) if part)


def _document(explained: Explanation) -> dict[str, Any]:
    return {
        "namespace": explained.name.namespace,
        "name": explained.name.name,
        "seeding": explained.choice.value,
        "why": explained.why,
        "problem": explained.problem or None,
        "reads": [_status(status) for status in explained.references],
    }


def _status(status: ReferenceStatus) -> dict[str, Any]:
    return {
        "field": status.field,
        "store": status.store,
        "key": status.key,
        "vault_namespace": status.vault_namespace,
        "path": status.path or None,
        "property": status.property or None,
        "version": status.version or None,
        "written": _time(status.written),
        "in_vault": status.presence.value if status.presence else None,
        "made_by": status.made_by or None,
        "action": status.action.value,
        "why": status.why,
        "problems": status.problems,
    }


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2) + "\n"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
