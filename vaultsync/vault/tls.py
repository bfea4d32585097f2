"""TLS towards Vault: whom to trust, what to show, which name to expect. From files, which may change at any time."""

import os
import ssl
import threading
from typing import TypeAlias

from loguru import logger

from vaultsync.config.tls import TlsFiles

_Print: TypeAlias = tuple[int, int, int, int] | None
"""What changes when a file is written or replaced, also by the swap of a symlink above it; None: there is none."""


class Tls:
    """Makes the context of new connections, anew when one of its files has changed. For any thread.

    Args:
        files: whom to trust, and what to show.
    """

    def __init__(self, files: TlsFiles = TlsFiles()) -> None:  # noqa: B008 — it is immutable
        self._files = files
        self.server_name = files.server_name
        self._lock = threading.Lock()
        self._prints: list[_Print] = []
        self._context: ssl.SSLContext | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it says no more than any connection would do by itself."""
        return not self._files.paths

    def context(self) -> ssl.SSLContext:
        """The one for a connection that is made now: the same object as long as the files are the same.

        Files that can't be read, or do not belong together, may be half written: the last good ones stay in force.

        Raises:
            OSError: there are no good ones yet.
        """
        with self._lock:
            prints = [_print(file) for file in self._files.paths]
            if self._context is not None and prints == self._prints:
                return self._context
            try:
                made = self._files.load()
            except OSError as error:
                if self._context is None:
                    raise
                reason = f"{type(error).__name__}: {error}"
                logger.warning("the TLS files for Vault are unusable, the last good ones stay", reason=reason)
            else:
                if self._context is not None:
                    logger.info("the TLS files for Vault have changed, new connections use them")
                self._context = made
            self._prints = prints
            return self._context


def _print(file: str) -> _Print:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
