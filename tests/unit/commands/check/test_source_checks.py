"""Results of the check of the change source."""

from dataclasses import replace

import pytest

from tests.unit.build import settings
from vaultsync.commands.check.report import Status
from vaultsync.commands.check.source_checks import FileProbe, StreamProbe, check_source
from vaultsync.config.change_source import ChangeSource

FIX = "vaultsync policy | vault policy write vaultsync -"


AWAY = StreamProbe(connected=False, refused=True, reason="Vault returned 404")
THERE = StreamProbe(connected=True)


READ, SILENT, GONE = FileProbe(grew=True), FileProbe(), FileProbe(problem="No such file")


@pytest.mark.parametrize(
    ("wanted", "listen", "file", "stream", "version", "mark", "first", "fix"),
    [
        ("poll", "", None, AWAY, "2.7.2", Status.OK, "the poll, every 1m, as VAULTSYNC_SOURCE is poll", ""),
        ("auto", ":1", None, THERE, "1.15.1", Status.OK, "the event stream", ""),
        ("auto", "", READ, THERE, "1.15.1", Status.OK, "the event stream", ""),
        ("auto", "", None, THERE, "1.15.1", Status.WARNING, "the event stream", "set VAULTSYNC_AUDIT_LISTEN"),
        ("auto", "", GONE, THERE, "1.15.1", Status.WARNING, "the event stream", "make /audit readable"),
        ("auto", ":1", None, AWAY, "2.7.2", Status.OK, "an audit device that writes to :1", ""),
        ("auto", "", READ, AWAY, "2.7.2", Status.OK, "the audit file /audit", ""),
        ("auto", "", SILENT, AWAY, "2.7.2", Status.WARNING, "the poll, every 1m", "vault audit list"),
        ("auto", "", None, AWAY, "2.7.2", Status.WARNING, "the poll, every 1m", "set VAULTSYNC_AUDIT_LISTEN"),
        ("auto", ":1", None, AWAY, "1.15.1", Status.WARNING, "an audit device", FIX),
        ("auto", "", None, AWAY, "1.15.1", Status.WARNING, "the poll, every 1m", FIX),
        ("auto", "", None, replace(AWAY, refused=False), "1.15.1", Status.WARNING, "the poll", "allow websockets"),
        ("events", "", None, THERE, "1.15.1", Status.WARNING, "the event stream", "set VAULTSYNC_AUDIT_LISTEN"),
        ("events", ":1", None, AWAY, "1.15.1", Status.FAILED, "no event stream: Vault returned 404", FIX),
        (
            "events",
            ":1",
            None,
            AWAY,
            "2.7.2",
            Status.FAILED,
            "Vault 2.7.2 has no event stream",
            "set VAULTSYNC_SOURCE=auto",
        ),
        ("audit", ":1", None, AWAY, "1.15.1", Status.OK, "an audit device", ""),
        ("audit", "", READ, AWAY, "1.15.1", Status.OK, "the audit file /audit, as VAULTSYNC_SOURCE is audit", ""),
        ("audit", "", SILENT, AWAY, "1.15.1", Status.WARNING, "the audit file /audit, in which", "vault audit list"),
        (
            "audit",
            "",
            GONE,
            AWAY,
            "1.15.1",
            Status.FAILED,
            "the audit file /audit can't be read",
            "make /audit readable",
        ),
    ],
)
def test_sources(
    wanted: str,
    listen: str,
    file: FileProbe | None,
    stream: StreamProbe,
    version: str,
    mark: Status,
    first: str,
    fix: str,
) -> None:
    given = settings(source=ChangeSource(wanted), audit_listen=listen, audit_file="/audit" if file else "")
    line = check_source(given, stream, file or FileProbe(), version, FIX)
    assert line.status is mark
    assert line.found.startswith(first)
    assert line.fix.startswith(fix) if fix else not line.fix
