"""TLS contexts for connections to Vault, reloaded when their files change."""

import os
import ssl
import threading
from typing import TypeAlias

from loguru import logger

from vaultsync.config.connection import TlsFiles

_Stat: TypeAlias = tuple[int, int, int, int] | None
"""Changes when the file is written or replaced, also by a symlink in its path; None if the file is missing."""


class Tls:
    """The TLS context for new connections. For any thread."""

    def __init__(self, files: TlsFiles = TlsFiles()) -> None:  # noqa: B008 — it is immutable
        self._files = files
        self.server_name = files.server_name
        self._lock = threading.Lock()
        self._stats: list[_Stat] = []
        self._context: ssl.SSLContext | None = None

    @property
    def is_plain(self) -> bool:
        """Whether no file is set, so that the default context is used."""
        return not self._files.paths

    def context(self) -> ssl.SSLContext:
        """The context for the next connection: the same object as long as the files are the same.

        Files that can't be read, or do not match, may be half written: the last valid ones stay in use.

        Raises:
            OSError: there are no valid ones yet.
        """
        with self._lock:
            stats = [_stat(file) for file in self._files.paths]
            if self._context is not None and stats == self._stats:
                return self._context
            try:
                made = self._files.load()
            except OSError as error:
                if self._context is None:
                    raise
                reason = f"{type(error).__name__}: {error}"
                logger.warning("the TLS files for Vault are unusable: the last valid ones stay in use", reason=reason)
            else:
                if self._context is not None:
                    logger.info("the TLS files for Vault have changed: new connections use them")
                self._context = made
            self._stats = stats
            return self._context


def _stat(file: str) -> _Stat:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
