"""Moving the tail's write-ahead log into its file, in a thread of its own, so that no commit waits for it."""

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

CHECKPOINT_BYTES = 4 << 20
"""Bytes written after which it is done."""
COMMIT_BYTES = 5 * 4096
"""Pages that a commit touches besides its data, about."""


class Checkpointer:
    """The thread `history-checkpoint`."""

    def __init__(self, path: Path, damaged: Callable[[str], None]) -> None:
        self._path = path
        self._damaged = damaged
        self._written = 0
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="history-checkpoint", daemon=True)
        self._thread.start()

    def wrote(self, data_bytes: int) -> None:
        """The writer has committed so much."""
        self._written += data_bytes + COMMIT_BYTES
        if self._written >= CHECKPOINT_BYTES:
            self._written = 0
            self._wake.set()

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._closed:
                break
            try:
                if connection is None:
                    connection = sqlite3.connect(self._path, isolation_level=None)
                # PASSIVE: what readers still need stays in the log, and nobody is made to wait.
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            except sqlite3.Error as exc:
                self._damaged(f"{self._path}: checkpoint: {exc}")
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Stop and wait for the thread."""
        self._closed = True
        self._wake.set()
        self._thread.join()
