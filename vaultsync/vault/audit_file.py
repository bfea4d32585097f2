"""Follows the file of a file audit device."""

import os
from pathlib import Path
from typing import BinaryIO

from vaultsync.vault.audit_stream import CHUNK


class Tail:
    """Reads the end of a file that others write, rotate and truncate. Its calls block.

    Attributes:
        is_open: whether the file was there at the last read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._was_there = False
        self.is_open = False

    def read(self) -> bytes:
        """Read what was written since the last read, at most a chunk; b"" for nothing."""
        if self._file is None:
            self._open()
        if self._file is None:
            return b""
        try:
            return self._file.read(CHUNK) or self._at_the_end(self._file)
        except OSError:  # such as a network disk that is gone
            self.close()
            return b""

    def _at_the_end(self, file: BinaryIO) -> bytes:
        try:
            now, own = os.stat(self._path), os.fstat(file.fileno())
        except OSError:  # moved, and still written to until the next file exists
            return b""
        if (now.st_ino, now.st_dev) == (own.st_ino, own.st_dev):
            if now.st_size < file.tell():  # truncated
                file.seek(0)
            return b""
        rest = file.read(CHUNK)  # written between the read and the stat
        if not rest and now.st_size:  # while the next file is empty, the old one may still be written to
            self.close()
        return rest

    def close(self) -> None:
        """Close the file; the next read opens the current one."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        """Open the file at its end the first time, later files at their start."""
        try:
            self._file = open(self._path, "rb", buffering=0)  # noqa: SIM115 — stays open
        except OSError:
            self.is_open = False
        else:
            if not self._was_there:
                self._file.seek(0, os.SEEK_END)
            self.is_open = True
        self._was_there = True
