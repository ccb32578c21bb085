"""Day files: one SQLite file for each UTC day and tier, complete in itself.

    raw/2026-05-09.db    readings of lists that are read often, one block for each owner's list and hour
    1m/2026-05-09.db     the same hours at a minute's resolution; readings of slower lists
    1h/2026-05-09.db     the day at an hour's

A block's row says which list it holds (`catalogue`), its hour, and the merge that wrote it: a merge that is
repeated after a crash finds its own mark in `merged` and leaves everything as it is. Retention unlinks whole
files. A file that is damaged, or newer than this program, is named and left alone; if its day still has to be
written, that goes into a further part beside it (`2026-05-09.1.db`) and both are read.
"""

import contextlib
import re
import sqlite3
import threading
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from watchbill.errors import Unreadable
from watchbill.files import make_directory, sync_directory
from watchbill_collector.history import catalogue
from watchbill_collector.history.catalogue import Catalogue
from watchbill_collector.history.database import Readers, check, create_or_open, reading, transaction
from watchbill_collector.history.lists import ListBook
from watchbill_collector.history.values import DAY_MS, HOUR_MS
from watchbill_collector.series import SeriesTable

APPLICATION = 0x57424459  # "WBDY"
VERSION = 2
"""1: lists read every 10 seconds or more slowly had their readings in raw files too. Both are read, and a file that
is written becomes version 2: who knows only 1 must not take what raw files hold for all there is."""
PAGE_BYTES = 4096
READINGS, STATISTICS = 0, 1
"""What a block holds: readings, or six rows of statistics for each series."""
SCHEMA = (
    catalogue.SCHEMA
    + """;
CREATE TABLE blocks (id INTEGER PRIMARY KEY, list INTEGER NOT NULL, hour INTEGER NOT NULL,
                     batch INTEGER NOT NULL, part INTEGER NOT NULL, kind INTEGER NOT NULL,
                     checksum INTEGER NOT NULL, data BLOB NOT NULL);
CREATE UNIQUE INDEX blocks_of_list ON blocks (list, hour, batch, part);
CREATE TABLE merged (tail BLOB NOT NULL, owner INTEGER NOT NULL, hour INTEGER NOT NULL,
                     through INTEGER NOT NULL, PRIMARY KEY (tail, owner, hour)) WITHOUT ROWID
"""
)
PARTS_MAX = 16
"""Parts of one day; after so many damaged files something else is wrong."""
_NAME = re.compile(r"(\d{4}-\d{2}-\d{2})(?:\.(\d{1,2}))?\.db", re.ASCII)


@dataclass(frozen=True, slots=True)
class BlockKey:
    """Where a block belongs: list (the file's number), hour, the merge that wrote it, and which part of
    it.
    """

    list_id: int
    hour: int
    batch: int
    part: int = 0


@dataclass(frozen=True, slots=True)
class BlockRow:
    """One stored block."""

    id: int
    list_id: int
    hour: int
    kind: int
    data: bytes | sqlite3.Blob
    """All of it, or for reading parts of it until the next row is asked for."""

    @property
    def whole(self) -> bytes:
        """All of it."""
        data = self.data[:]
        assert isinstance(data, bytes)
        return data


def hour_of(time_ms: int) -> int:
    """The hour that a reading belongs to, counted from 1970.

    Hours are open on the left, like PromQL's ranges: a reading at exactly 13:00:00.000 is the last of the
    hour before. So a range query up to a full hour, or a step of a tier, never needs two blocks for one
    reading.
    """
    return (time_ms - 1) // HOUR_MS


def day_of(hour: int) -> int:
    """The UTC day of an hour, counted from 1970."""
    return hour // HOURS


HOURS = DAY_MS // HOUR_MS


def day_name(day: int) -> str:
    """The date of a day number."""
    return datetime.fromtimestamp(day * DAY_MS / 1000, UTC).strftime("%Y-%m-%d")


class DayFile:
    """One file. Reading is for any thread, writing for the writer thread."""

    def __init__(
        self, path: Path, table: SeriesTable, book: ListBook, damaged: Callable[[str], None]
    ) -> None:
        self.path = path
        self.readers = Readers(path)
        self.unusable: str | None = None
        """Why nothing of it is read or written."""
        self._writer: sqlite3.Connection | None = None
        self._damaged = damaged
        self._lock = threading.Lock()
        self._loaded = False
        self._blank = False
        self._table = table
        self._book = book
        self.catalogue = self._new_catalogue()
        self.touched = False
        """Whether anybody asked for it since this was last set to False."""

    def _new_catalogue(self) -> Catalogue:
        return Catalogue(self._table, self._book, lambda what: self._damaged(f"{self.path}: {what}"))

    def know(self) -> bool:
        """Make its series known, once; False when the file cannot be used."""
        self.touched = True
        if not self._loaded and not self.unusable:
            with self._lock:
                self._load()
        return self._loaded

    def forget(self) -> None:
        """Give back the memory of its label numbers; they are read again when it is asked for. The
        writer's.
        """
        with self._lock:
            self.close()
            self.readers = Readers(self.path)
            self._loaded = False
            self.catalogue = self._new_catalogue()

    def _load(self) -> None:
        if self._loaded or self.unusable:
            return  # Another thread was faster.
        try:
            with self.readers.connection() as connection:
                # A file without any table: whoever made it was killed before it said anything.
                self._blank = not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
                if not self._blank:
                    check(connection, self.path, APPLICATION, VERSION)
                    self.catalogue.load(connection)
            self._loaded = True
        except (sqlite3.Error, Unreadable) as exc:
            text = str(exc)
            self.unusable = text if str(self.path) in text else f"{self.path}: {text}"
            self._damaged(self.unusable)

    def blocks(
        self,
        list_ids: Iterable[int],
        first_hour: int,
        last_hour: int,
        kind: int | None = None,
        *,
        partly: Container[int] = (),
    ) -> Iterator[BlockRow]:
        """The blocks of some lists in some hours, the ones written first in front; damaged rows are named.

        With a `kind` only those of this kind. Of the lists in `partly` blocks are opened and not read: of 58 kB
        one series needs 3.
        """
        if self._blank:
            return
        # One transaction: a merge that replaces a block by another list's must not fall between.
        with contextlib.ExitStack() as stack:
            try:
                connection = stack.enter_context(self.readers.connection())
                stack.enter_context(reading(connection))
            except sqlite3.Error as exc:
                self._damaged(f"{self.path}: {exc}")
                return
            for list_id in list_ids:
                try:
                    yield from self._of_list(
                        connection, (list_id, first_hour, last_hour, kind), list_id in partly
                    )
                except sqlite3.Error as exc:
                    self._damaged(f"{self.path}: {exc}")

    def _of_list(
        self, connection: sqlite3.Connection, wanted: tuple[int, int, int, int | None], partly: bool
    ) -> Iterator[BlockRow]:
        data = "NULL" if partly else "data"
        rows = connection.execute(
            f"SELECT id, list, hour, batch, part, kind, checksum, {data} FROM blocks"  # noqa: S608  # Ours.
            " WHERE list = ?1 AND hour BETWEEN ?2 AND ?3 AND (?4 IS NULL OR kind = ?4) ORDER BY hour, id",
            wanted,
        )
        for number, of_list, hour, batch, part, kind, checksum, content in (
            rows.fetchall() if partly else rows
        ):
            if _checksum(of_list, hour, batch, part, kind) != checksum:
                self._damaged(f"{self.path}: block {number}: its row does not match its checksum")
            elif partly:
                try:
                    blob = connection.blobopen("blocks", "data", number, readonly=True)
                except sqlite3.Error as exc:
                    self._damaged(f"{self.path}: block {number}: {exc}")
                    continue
                with blob:
                    yield BlockRow(number, of_list, hour, kind, blob)
            elif isinstance(content, bytes):
                yield BlockRow(number, of_list, hour, kind, content)
            else:
                self._damaged(f"{self.path}: block {number}: its row holds no block")

    # Writing.

    def open_writer(self) -> sqlite3.Connection:
        """Raises sqlite3.Error or Unreadable when the file cannot be written."""
        if self._writer is None:
            fresh = not self.path.exists()
            writer = create_or_open(self.path, APPLICATION, VERSION, SCHEMA, PAGE_BYTES)
            if writer.execute("PRAGMA user_version").fetchone()[0] < VERSION:
                writer.execute(f"PRAGMA user_version={VERSION:d}")
            if fresh:
                sync_directory(self.path.parent)
            self._writer = writer
            if not self.know():
                raise Unreadable(self.unusable or str(self.path))
            self._blank = False
        return self._writer

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction."""
        writer = self.open_writer()
        try:
            with transaction(writer):
                yield writer
        except BaseException:
            self.catalogue.rolled_back()
            raise
        self.catalogue.committed()

    def merged_through(self, tail: bytes, owner: int, hour: int) -> int:
        """The last mini-block of this owner and hour that is in here already."""
        query = "SELECT through FROM merged WHERE tail = ? AND owner = ? AND hour = ?"
        row = self.open_writer().execute(query, (tail, owner, hour)).fetchone()
        return 0 if row is None else int(row[0])

    @staticmethod
    def set_merged(writer: sqlite3.Connection, tail: bytes, owner: int, hour: int, through: int) -> None:
        """Inside a transaction: mini-blocks up to this one are in here."""
        writer.execute("INSERT OR REPLACE INTO merged VALUES (?, ?, ?, ?)", (tail, owner, hour, through))

    @staticmethod
    def put(writer: sqlite3.Connection, key: BlockKey, kind: int, data: bytes) -> None:
        """Inside a transaction: one block; the same key again replaces it."""
        place = (key.list_id, key.hour, key.batch, key.part, kind)
        writer.execute(
            "INSERT OR REPLACE INTO blocks (list, hour, batch, part, kind, checksum, data)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*place, _checksum(*place), data),
        )

    @staticmethod
    def remove(writer: sqlite3.Connection, ids: Sequence[int]) -> None:
        """Inside a transaction: blocks that another one replaces."""
        writer.executemany("DELETE FROM blocks WHERE id = ?", [(number,) for number in ids])

    def settle(self) -> None:
        """Move the write-ahead log into the file, so that the file alone is complete."""
        if self._writer is not None:
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def compact(self) -> None:
        """Give back the room of removed blocks."""
        if self._writer is not None:
            self._writer.execute("VACUUM")

    def size(self) -> int:
        """Bytes on disk."""
        total = 0
        for path in _with_companions(self.path):
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def close(self) -> None:
        """Let go of all connections; the last one folds the log into the file."""
        self.readers.close()
        if self._writer is not None:
            with contextlib.suppress(sqlite3.Error):
                self.settle()
            self._writer.close()
            self._writer = None

    def unlink(self) -> None:
        """Remove it for good. Readers that have it open finish what they are at."""
        self.close()
        for path in _with_companions(self.path):
            path.unlink(missing_ok=True)
        sync_directory(self.path.parent)


class Days:
    """All files of one tier."""

    def __init__(
        self, directory: Path, table: SeriesTable, book: ListBook, damaged: Callable[[str], None]
    ) -> None:
        self.directory = directory
        self._table = table
        self._book = book
        self._damaged = damaged
        self._files: dict[int, list[DayFile]] = {}
        self._lock = threading.Lock()
        make_directory(directory)
        for path in sorted(directory.iterdir()):
            match = _NAME.fullmatch(path.name)
            day = _parsed(match[1]) if match else None
            if day is not None:
                self._files.setdefault(day, []).append(DayFile(path, table, book, damaged))

    def __len__(self) -> int:
        return len(self._files)

    @property
    def days(self) -> list[int]:
        """Days that have a file, oldest first."""
        with self._lock:
            return sorted(self._files)

    def files(self, first_day: int, last_day: int) -> list[DayFile]:
        """The usable files of some days, oldest first, their series known."""
        with self._lock:
            chosen = [
                file
                for day in sorted(self._files)
                if first_day <= day <= last_day
                for file in self._files[day]
            ]
        return [file for file in chosen if file.know()]

    def unusable(self, first_day: int, last_day: int) -> list[str]:
        """Why some files of these days are not read."""
        with self._lock:
            chosen = [
                file for day, files in self._files.items() if first_day <= day <= last_day for file in files
            ]
        return [file.unusable for file in chosen if file.unusable]

    def lists(self) -> set[int]:
        """Numbers of the lists that loaded files speak of."""
        return {each.number for file in self.every() for each in list(file.catalogue.lists.values())}

    def forget_idle(self, before_day: int) -> None:
        """Give back the memory of files of older days that nobody asked for since the last time."""
        with self._lock:
            old = [file for day, files in self._files.items() if day < before_day for file in files]
        for file in old:
            if file.touched:
                file.touched = False
            else:
                file.forget()

    def every(self) -> list[DayFile]:
        """All files, usable or not."""
        with self._lock:
            return [file for day in sorted(self._files) for file in self._files[day]]

    def for_writing(self, day: int) -> DayFile:
        """The file that a day's blocks go to, made when there is none. Raises sqlite3.Error, OSError."""
        for part in range(PARTS_MAX):
            with self._lock:
                parts = self._files.get(day, [])
                file = parts[part] if part < len(parts) else None
            if file is None:
                suffix = f".{part}" if part else ""
                path = self.directory / f"{day_name(day)}{suffix}.db"
                file = DayFile(path, self._table, self._book, self._damaged)
                file.open_writer()
                with self._lock:
                    self._files.setdefault(day, []).append(file)
                return file
            if file.know():
                try:
                    file.open_writer()
                except (sqlite3.DatabaseError, Unreadable) as exc:
                    if isinstance(exc, sqlite3.OperationalError):
                        raise  # A full disk or a lock says nothing about the file.
                    file.unusable = f"{file.path}: {exc}"
                    self._damaged(file.unusable)
                    continue
                return file
        raise sqlite3.DatabaseError(f"{self.directory}: {PARTS_MAX} damaged parts of {day_name(day)}")

    def written(self, day: int) -> DayFile | None:
        """The file that a day's blocks go to if there is one. Raises sqlite3.Error, OSError."""
        with self._lock:
            known = day in self._files
        return self.for_writing(day) if known else None

    def unlink(self, day: int) -> list[str]:
        """Remove a day; the names of the files that went."""
        with self._lock:
            files = self._files.pop(day, [])
        for file in files:
            file.unlink()
        return [str(file.path) for file in files]

    def size(self, day: int | None = None) -> int:
        """Bytes on disk, of one day or of all."""
        if day is None:
            return sum(file.size() for file in self.every())
        with self._lock:
            files = list(self._files.get(day, []))
        return sum(file.size() for file in files)

    def close(self) -> None:
        """Close every file."""
        for file in self.every():
            file.close()


def hours_of(day: int) -> tuple[int, int]:
    """First and last hour number of a day."""
    return day * HOURS, day * HOURS + HOURS - 1


def _parsed(name: str) -> int | None:
    try:
        return int(datetime.strptime(name, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()) * 1000 // DAY_MS
    except ValueError:
        return None


def _with_companions(path: Path) -> list[Path]:
    return [path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")]


def _checksum(list_id: int, hour: int, batch: int, part: int, kind: int) -> int:
    return zlib.crc32(f"{list_id}:{hour}:{batch}:{part}:{kind}".encode())
