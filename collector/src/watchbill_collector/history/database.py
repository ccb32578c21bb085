"""SQLite as history uses it: one writer, many readers, and errors in our own words.

Files are in WAL mode with synchronous=FULL: a COMMIT that has returned survives a power cut. Their
`application_id` says which kind of file they are and `user_version` which version of it, so that a file that
is not ours, or is newer than this program, is recognised before anything in it is believed.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from watchbill.errors import StorageError, Unreadable
from watchbill.files import PRIVATE_FILE
from watchbill_collector.history.values import StorageBroken, StorageFull

BUSY_MS = 10_000
READERS_MAX = 16
"""Idle reading connections kept for one file."""


class NewerFile(Unreadable):
    """A file written by a later version of this program."""


class ForeignFile(Unreadable):
    """A file that is not what its name says."""


@contextmanager
def storing(what: str) -> Iterator[None]:
    """Turn what SQLite raises into StorageError, or StorageFull when the disk is."""
    try:
        yield
    except sqlite3.OperationalError as exc:
        name = getattr(exc, "sqlite_errorname", "")
        kind: type[StorageError] = StorageError
        if name in ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"):  # No room for the log's index is no room.
            kind = StorageFull
        elif name.startswith("SQLITE_IOERR"):
            kind = StorageBroken
        raise kind(f"{what}: {exc} ({name or 'sqlite'})") from exc
    except sqlite3.Error as exc:
        raise StorageError(f"{what}: {exc}") from exc
    except OSError as exc:
        raise StorageError(f"{what}: {exc}") from exc


def create_or_open(
    path: Path, application: int, version: int, schema: str, page_bytes: int
) -> sqlite3.Connection:
    """A writing connection. Raises NewerFile, ForeignFile, and sqlite3.Error for what is damaged."""
    # Made by us first, so that it is private; SQLite gives its companions the same mode.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, PRIVATE_FILE))
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.text_factory = _text
    try:
        connection.execute(f"PRAGMA busy_timeout={BUSY_MS:d}")
        empty = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
        if empty:
            connection.execute(f"PRAGMA page_size={page_bytes:d}")
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        if empty:
            connection.executescript(
                f"BEGIN IMMEDIATE; {schema}; PRAGMA application_id={application:d};"
                f" PRAGMA user_version={version:d}; COMMIT"
            )
        check(connection, path, application, version)
    except BaseException:
        connection.close()
        raise
    return connection


def _text(data: bytes) -> str:
    """Damaged text becomes other text, which fails its checksum, and not an error that hides the whole table."""
    return data.decode("utf-8", "replace")


def check(connection: sqlite3.Connection, path: Path, application: int, version: int) -> None:
    """Whether the file is ours and not newer. Raises ForeignFile or NewerFile."""
    found = connection.execute("PRAGMA application_id").fetchone()[0]
    if found != application:
        raise ForeignFile(f"{path}: not a file of this kind (application id {found:#x})")
    newer = connection.execute("PRAGMA user_version").fetchone()[0]
    if newer > version:
        raise NewerFile(f"{path}: written by a newer version (format {newer}, this program knows {version})")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing. The lock is taken at the start, so that it cannot be missing at the end."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def reading(connection: sqlite3.Connection) -> Iterator[None]:
    """One view of the file for several queries."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        # Nothing was written: where ending it fails, the file is damaged, and what is missing has been named.
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


class Readers:
    """Reading connections to one file, one for each thread that reads at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """A connection for the time of a `with`."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            uri = f"{self._path.absolute().as_uri()}?mode=rw"  # A reader of a WAL file writes its index.
            connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
            connection.text_factory = _text
            connection.execute(f"PRAGMA busy_timeout={BUSY_MS:d}")
            connection.execute("PRAGMA query_only=ON")
        try:
            yield connection
        finally:
            with self._lock:
                keep = not self._closed and len(self._idle) < READERS_MAX
                if keep:
                    self._idle.append(connection)
            if not keep:
                connection.close()

    def close(self) -> None:
        """Close what is idle; what is in use is closed when it comes back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
