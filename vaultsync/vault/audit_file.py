"""Follows the file of a file audit device."""

import os
from pathlib import Path
from typing import BinaryIO

from vaultsync.vault.audit_stream import CHUNK


class Tail:
    """The end of a file that is written, rotated and truncated by others. Blocks, as disks do.

    Attributes:
        is_open: whether the file was there at the last read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._was_there = False
        self.is_open = False

    def read(self) -> bytes:
        """What was written since the last read, at most a chunk; b"" for nothing."""
        if self._file is None:
            self._open()
        if self._file is None:
            return b""
        try:
            return self._file.read(CHUNK) or self._at_the_end(self._file)
        except OSError:  # such as a network's disk that is gone: opened anew
            self.close()
            return b""

    def _at_the_end(self, file: BinaryIO) -> bytes:
        try:
            now, own = os.stat(self._path), os.fstat(file.fileno())
        except OSError:  # moved away, and still written to until the next one is there
            return b""
        if (now.st_ino, now.st_dev) == (own.st_ino, own.st_dev):
            if now.st_size < file.tell():  # truncated
                file.seek(0)
            return b""
        rest = file.read(CHUNK)  # written between the read and the look at the path
        if not rest and now.st_size:  # as long as the next one is empty, the old one may still be written to
            self.close()
        return rest

    def close(self) -> None:
        """Let go of the file; the next read opens the one that is there then."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        """What is there before the first look is old; a file that comes later is new from its start."""
        try:
            self._file = open(self._path, "rb", buffering=0)  # noqa: SIM115 — stays open
        except OSError:
            self.is_open = False
        else:
            if not self._was_there:
                self._file.seek(0, os.SEEK_END)
            self.is_open = True
        self._was_there = True
