"""vault/audit_stream: the end of a file, and what makes up a line."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultsync.vault import audit_stream
from vaultsync.vault.audit_stream import CHUNK, MAX_LINE, Lines, Tail

# -- chunks


@given(st.lists(st.binary(max_size=6) | st.just(b"\n"), max_size=20))
def test_lines_are_what_newlines_end_however_they_were_cut(chunks: list[bytes]) -> None:
    lines = Lines()
    found = [line for chunk in chunks for line in lines.feed(chunk)]
    assert found == b"".join(chunks).split(b"\n")[:-1]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=30), st.integers(1, 20))
def test_whatever_is_sent_little_is_kept_and_no_short_line_is_lost(lengths: list[int], cut: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(audit_stream, "MAX_LINE", 16)
        text = b"".join(b"%c" % (97 + number) * length + b"\n" for number, length in enumerate(lengths))
        lines, found = Lines(), []
        for start in range(0, len(text), cut):
            found += lines.feed(text[start : start + cut])
            assert len(lines._rest) <= 16
        sent = text.split(b"\n")[:-1]
        assert [line for line in found if len(line) <= 16] == [line for line in sent if len(line) <= 16]
        assert all(line in sent for line in found)


def test_a_line_without_an_end_takes_no_memory() -> None:
    lines = Lines()
    for _ in range(100):
        assert lines.feed(b"x" * CHUNK) == []
        assert len(lines._rest) <= MAX_LINE
    assert lines.feed(b"x\nshort\nrest") == [b"short"]
    assert lines.feed(b"\n") == [b"rest"]


# -- the file


def append(file: Path, *texts: bytes) -> None:
    with file.open("ab") as opened:
        for text in texts:
            opened.write(text)


def rotate(file: Path, text: bytes) -> None:
    file.rename(file.with_suffix(".1"))
    append(file, text)


def rest(tail: Tail) -> bytes:
    """All that it has to tell now."""
    chunks = [tail.read() for _ in range(4)]
    while any(chunks[-3:]):
        chunks.append(tail.read())
    return b"".join(chunks)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "audit.log"
    append(made, b"old\n")
    return made


@pytest.fixture
def tail(file: Path) -> Iterator[Tail]:
    """At the end of the file."""
    made = Tail(file)
    assert rest(made) == b""
    yield made
    made.close()


def test_it_begins_at_the_end_and_follows(file: Path, tail: Tail) -> None:
    assert tail.is_open
    append(file, b"a\n", b"b")
    assert rest(tail) == b"a\nb"
    append(file, b"c\n" + b"x" * 3 * CHUNK)
    assert rest(tail) == b"c\n" + b"x" * 3 * CHUNK


@pytest.mark.parametrize("is_made_empty", [True, False])
def test_a_rotation_by_renaming_loses_nothing(file: Path, tail: Tail, is_made_empty: bool) -> None:
    """Vault writes to the renamed file until a HUP; logrotate may make the next one before that (`create`)."""
    moved = file.with_suffix(".1")
    append(file, b"a\n")
    file.rename(moved)
    append(moved, b"b\n")
    assert rest(tail) == b"a\nb\n"
    append(moved, b"c\n")
    if is_made_empty:
        append(file)
        assert rest(tail) == b"c\n"
        append(moved, b"d\n")
    assert tail.is_open
    append(file, b"e\n")
    assert rest(tail) == (b"d\ne\n" if is_made_empty else b"c\ne\n")
    append(file, b"f\n")
    assert rest(tail) == b"f\n"


def test_what_is_written_between_the_read_and_the_look_at_the_path_is_read(
    file: Path, tail: Tail, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = os.stat

    def meanwhile(path: Path) -> os.stat_result:
        monkeypatch.setattr(os, "stat", stat)
        append(file, b"a\n" * CHUNK)
        rotate(file, b"b\n")
        return stat(path)

    monkeypatch.setattr(os, "stat", meanwhile)
    assert rest(tail) == b"a\n" * CHUNK + b"b\n"


def test_a_file_that_is_copied_and_truncated_is_read_on_from_its_start(file: Path, tail: Tail) -> None:
    append(file, b"a\nb\n")
    assert rest(tail) == b"a\nb\n"
    shutil.copy(file, file.with_suffix(".1"))
    os.truncate(file, 0)
    assert rest(tail) == b""
    append(file, b"c\n")
    assert rest(tail) == b"c\n"


def test_a_file_that_comes_later_is_read_from_its_start(tmp_path: Path) -> None:
    file = tmp_path / "later.log"
    tail = Tail(file)
    assert (rest(tail), tail.is_open) == (b"", False)
    append(file, b"a\n")
    assert (rest(tail), tail.is_open) == (b"a\n", True)
    tail.close()


def test_a_file_that_is_removed_is_read_on_until_the_next_one_comes(file: Path, tail: Tail) -> None:
    """Its writer has it open too."""
    with file.open("ab", buffering=0) as writer:
        file.unlink()
        writer.write(b"a\n")
        assert rest(tail) == b"a\n"
        append(file, b"b\n")
        writer.write(b"c\n")
        assert rest(tail) == b"c\nb\n"
