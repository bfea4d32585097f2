"""Results of checks: the texts that they share, and how they are printed."""

import json

from vaultsync.commands import output
from vaultsync.commands.check.report import Check, CheckResult, Status, invalid_settings


def test_every_check_is_not_asked_after_a_wrong_setting() -> None:
    lines = invalid_settings([("VAULT_ADDR", "is not set"), ("", "VAULTSYNC_AUDIT_TLS_KEY needs …")])
    assert [line.subject for line in lines if line.status is Status.FAILED] == ["VAULT_ADDR", ""]
    assert [line.check for line in lines if line.status is Status.NOT_ASKED] == [*Check][1:]


def test_a_line_can_not_break_the_table() -> None:
    text = output.check_table([CheckResult(Check.STORES, Status.WARNING, "a\nb\x1b[31m", "c\td")])
    assert text == "warning   stores   a\\nb\\x1b[31m. To do: c\\td\n\n0 ok, 0 failed, 1 warning, 0 not asked\n"


def test_json_has_the_documented_shape() -> None:
    lines = [
        CheckResult(Check.POLICY, Status.NOT_ASKED, "needs login", subject="mounts"),
        CheckResult(Check.VAULT, Status.FAILED, "a", "b"),
    ]
    assert json.loads(output.check_json(lines)) == {
        "checks": [
            {"check": "policy", "of": "mounts", "mark": "not asked", "found": "needs login", "fix": None},
            {"check": "vault", "of": None, "mark": "failed", "found": "a", "fix": "b"},
        ],
        "summary": {"ok": 0, "failed": 1, "warning": 0, "not_asked": 1},
    }
