"""tail.db: what was committed and is not in a day file yet.

    raw      a row, or a few, per group commit (`commits`): the readings as they came, with the watermarks
    minis    small blocks of one owner, list and hour, made of raw readings; merged hourly into day files
    flushed  owner -> the last raw row whose readings of this owner are in minis
    marks    watermarks of raw rows that went
    gaps     records that will never come

A raw row is deleted when every reading in it is in a mini-block; opening reads the rest back and skips what
`flushed` says is in minis. So a reading is at every moment in exactly one committed place, and a crash
between any two transactions changes nothing. Row numbers are given out by the program and never again, also
not when a table has been empty: `flushed` and the day files speak of them.
"""

import contextlib
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from watchbill.files import PRIVATE_FILE, sync_directory
from watchbill.protocol.frames import GapReason, Stream
from watchbill_collector.history import catalogue
from watchbill_collector.history.block import DamagedBlock
from watchbill_collector.history.database import Readers, create_or_open, transaction
from watchbill_collector.history.values import GapRow, Mark

APPLICATION = 0x57425441  # "WBTA"
VERSION = 1
PAGE_BYTES = 4096
SCHEMA = (
    catalogue.SCHEMA
    + """;
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE raw (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE minis (id INTEGER PRIMARY KEY, owner INTEGER NOT NULL, list INTEGER NOT NULL,
                    hour INTEGER NOT NULL, first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL,
                    checksum INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE flushed (owner INTEGER PRIMARY KEY, through INTEGER NOT NULL);
CREATE TABLE marks (agent TEXT NOT NULL, spool BLOB NOT NULL, stream INTEGER NOT NULL, seq INTEGER NOT NULL,
                    digest INTEGER NOT NULL, PRIMARY KEY (agent, spool, stream)) WITHOUT ROWID;
CREATE TABLE gaps (id INTEGER PRIMARY KEY, agent TEXT NOT NULL, spool BLOB NOT NULL, stream INTEGER NOT NULL,
                   from_seq INTEGER NOT NULL, to_seq INTEGER NOT NULL, count INTEGER NOT NULL,
                   samples INTEGER NOT NULL, first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL,
                   reason INTEGER NOT NULL, recorded_ms INTEGER NOT NULL);
CREATE INDEX gaps_of_agent ON gaps (agent, id)
"""
)
TABLES = ("sets", "columns", "lists", "meta", "raw", "minis", "flushed", "marks", "gaps")
KEYED_TABLES = ("meta", "marks")
"""Those without row numbers: read up to the first damaged page."""
SUSPECT = "rebuild-tail"
"""A file of this name beside the tail: it was found damaged while it was written."""
CHECKPOINT_FALLBACK_PAGES = 16_384
"""The writer checkpoints by itself at this size of the log, if the thread that should do so does not."""
_REASONS = frozenset(map(int, GapReason))
VACUUM_PAGES = 512
"""Free pages given back to the file system in one go."""
GAPS_MAX = 100_000
"""Gap rows kept; the oldest go."""


@dataclass(frozen=True, slots=True)
class MiniRow:
    """Where a mini-block is and what it covers; `owner` and `list_id` are the file's numbers."""

    id: int
    owner: int
    list_id: int
    hour: int
    first_ms: int
    last_ms: int


class Tail:
    """The file. All writing is the writer thread's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connection = create_or_open(path, APPLICATION, VERSION, SCHEMA, PAGE_BYTES)
        self.connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_FALLBACK_PAGES}")
        self.connection.execute(f"PRAGMA journal_size_limit={CHECKPOINT_FALLBACK_PAGES * PAGE_BYTES}")
        self.readers = Readers(path)
        self.identity = self._identity()
        self.raw_next = 1 + self._number(
            "SELECT max(coalesce((SELECT max(id) FROM raw), 0),"
            " coalesce((SELECT max(through) FROM flushed), 0))"
        )
        self.mini_next = 1 + max(
            self._number("SELECT coalesce(max(id), 0) FROM minis"), int(self.meta("minis_through") or 0)
        )

    def _identity(self) -> bytes:
        """Which tail this is: numbers in day files count only for the tail that wrote them."""
        known = self.meta("identity")
        if isinstance(known, bytes):
            return known
        made = os.urandom(16)
        with transaction(self.connection):
            self.set_meta("identity", made)
        return made

    def _number(self, query: str) -> int:
        return int(self.connection.execute(query).fetchone()[0])

    def meta(self, name: str) -> bytes | str | int | None:
        """One remembered value."""
        row = self.connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def set_meta(self, name: str, value: bytes | str | int) -> None:
        """Remember a value, inside a transaction."""
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def suspect(self) -> None:
        """Let the next start rebuild it from what can be read."""
        with contextlib.suppress(OSError):
            (self.path.parent / SUSPECT).touch(PRIVATE_FILE)
            sync_directory(self.path.parent)

    # Writing, inside a transaction.

    def add_raw(self, data: bytes) -> int:
        """One group commit; its number."""
        number = self.raw_next
        self.raw_next += 1
        self.connection.execute("INSERT INTO raw VALUES (?, ?)", (number, data))
        return number

    def add_gaps(self, gaps: Sequence[GapRow]) -> None:
        """Gap rows. Those of the crit stream may come again: their watermark is another file's, written after them."""
        self.connection.executemany(
            "INSERT INTO gaps (agent, spool, stream, from_seq, to_seq, count, samples, first_ms, last_ms,"
            " reason, recorded_ms) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11 WHERE ?3 <> ?12 OR NOT EXISTS"
            " (SELECT 1 FROM gaps WHERE agent = ?1 AND spool = ?2 AND stream = ?3 AND from_seq = ?4 AND to_seq = ?5"
            " AND reason = ?10)",
            [
                (
                    gap.agent_id,
                    gap.spool_id,
                    gap.stream,
                    *map(_signed, (gap.from_seq, gap.to_seq, gap.count, gap.samples)),
                    gap.first_ms,
                    gap.last_ms,
                    int(gap.reason),
                    gap.recorded_ms,
                    int(Stream.CRIT),
                )
                for gap in gaps
            ],
        )

    def add_mini(
        self, owner: int, list_id: int, hour: int, first_ms: int, last_ms: int, data: bytes
    ) -> MiniRow:
        """One mini-block."""
        row = MiniRow(self.mini_next, owner, list_id, hour, first_ms, last_ms)
        self.mini_next += 1
        self.connection.execute(
            "INSERT INTO minis VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (row.id, owner, list_id, hour, first_ms, last_ms, _checksum(row), data),
        )
        return row

    def set_flushed(self, owners: Iterable[int], through: int) -> None:
        """These owners' readings up to a raw row are in minis."""
        self.connection.executemany(
            "INSERT OR REPLACE INTO flushed VALUES (?, ?)", [(owner, through) for owner in owners]
        )

    def remove_raw(self, before: int, marks: Iterable[Mark]) -> None:
        """Drop raw rows below a number; their watermarks go into the table."""
        self.connection.executemany(
            "INSERT OR REPLACE INTO marks VALUES (?, ?, ?, ?, ?)",
            [
                (mark.agent_id, mark.spool_id, mark.stream, _signed(mark.seq), _signed(mark.digest))
                for mark in marks
            ],
        )
        self.connection.execute("DELETE FROM raw WHERE id < ?", (before,))
        self.connection.execute("DELETE FROM flushed WHERE through < ?", (before,))

    def remove_minis(self, ids: Sequence[int]) -> None:
        """Drop mini-blocks that a day file holds. One whose pages are damaged stays where it is."""
        for number in ids:
            try:
                self.connection.execute("DELETE FROM minis WHERE id = ?", (number,))
            except sqlite3.DatabaseError as exc:
                if isinstance(exc, sqlite3.OperationalError):
                    raise
        self.set_meta("minis_through", self.mini_next - 1)

    def remove_mark(self, mark: Mark) -> None:
        """Forget a watermark."""
        key = (mark.agent_id, mark.spool_id, mark.stream)
        self.connection.execute("DELETE FROM marks WHERE agent = ? AND spool = ? AND stream = ?", key)

    def trim_gaps(self) -> None:
        """Keep the newest gap rows."""
        self.connection.execute("DELETE FROM gaps WHERE id <= (SELECT max(id) FROM gaps) - ?", (GAPS_MAX,))

    def give_back(self) -> None:
        """Return some free pages to the file system when a quarter of the file is free; outside
        transactions.
        """
        free = self._number("PRAGMA freelist_count")
        if free > VACUUM_PAGES and free * 4 > self._number("PRAGMA page_count"):
            self.connection.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()

    # Reading.

    def raw(self) -> Iterator[tuple[int, bytes]]:
        """Group commits in order."""
        yield from self.connection.execute("SELECT id, data FROM raw ORDER BY id")

    def mini(self, number: int) -> bytes | None:
        """One mini-block's data; None when it is gone. Raises DamagedBlock."""
        return mini_data(self.connection, number)

    def minis(self) -> Iterator[MiniRow | int]:
        """Every mini-block without its data; of one with a wrong checksum only the number."""
        for *fields, checksum in self.connection.execute(
            "SELECT id, owner, list, hour, first_ms, last_ms, checksum FROM minis ORDER BY id"
        ):
            row = MiniRow(*fields)
            yield row if _checksum(row) == checksum else row.id

    def flushed(self) -> dict[int, int]:
        """Owner (the file's number) -> last raw row in minis."""
        rows = self.connection.execute("SELECT owner, through FROM flushed")
        return {owner: through for owner, through in rows if isinstance(through, int)}

    def marks(self) -> list[Mark]:
        """Watermarks of the table; those of raw rows are newer."""
        rows = self.connection.execute("SELECT agent, spool, stream, seq, digest FROM marks")
        return [
            Mark(agent, spool, stream, _unsigned(seq), _unsigned(digest))
            for agent, spool, stream, seq, digest in rows
            if _are(agent, spool, stream, seq, digest, types=(str, bytes, int, int, int))
        ]

    def gaps(self, agent_id: str | None, limit: int) -> list[GapRow]:
        """Newest first."""
        with self.readers.connection() as connection:
            rows = connection.execute(
                "SELECT agent, spool, stream, from_seq, to_seq, count, samples, first_ms, last_ms, reason,"
                " recorded_ms FROM gaps WHERE ?1 IS NULL OR agent = ?1 ORDER BY id DESC LIMIT ?2",
                (agent_id, limit),
            ).fetchall()
        types = (str, bytes, *[int] * 9)
        return [_gap(row) for row in rows if _are(*row, types=types)]

    def close(self) -> None:
        """Checkpoint and close."""
        self.readers.close()
        with contextlib.suppress(sqlite3.Error):  # Opening does it otherwise.
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.connection.close()


def salvage(damaged: Path, path: Path) -> list[str]:
    """Copy every row that can be read from a damaged tail into a new one; what could not be, in words."""
    lost: list[str] = []
    fresh = create_or_open(path, APPLICATION, VERSION, SCHEMA, PAGE_BYTES)
    old = sqlite3.connect(f"{damaged.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)
    old.text_factory = lambda data: data.decode("utf-8", "replace")
    try:
        for table in TABLES:
            with transaction(fresh):
                for row in _readable(old, table, lost):
                    blanks = ", ".join("?" * len(row))
                    fresh.execute(f"INSERT OR IGNORE INTO {table} VALUES ({blanks})", row)  # noqa: S608
    finally:
        old.close()
        fresh.close()
    return lost


def _readable(connection: sqlite3.Connection, table: str, lost: list[str]) -> Iterator[tuple[Any, ...]]:
    """Every row that can be read; what cannot is noted in `lost`."""
    if table in KEYED_TABLES:
        try:
            yield from connection.execute(f"SELECT * FROM {table}")  # noqa: S608  # A name of ours.
        except sqlite3.Error as exc:
            lost.append(f"{table}: {exc}")
        return
    numbers = []
    try:
        for (number,) in connection.execute(f"SELECT rowid FROM {table}"):  # noqa: S608
            numbers.append(number)
    except sqlite3.Error as exc:
        lost.append(f"{table}: {exc}")
    for number in numbers:
        try:
            row = connection.execute(f"SELECT * FROM {table} WHERE rowid = ?", (number,)).fetchone()  # noqa: S608
        except sqlite3.Error as exc:
            lost.append(f"{table} {number}: {exc}")
            continue
        if row is not None:
            yield row


def _gap(row: Sequence[Any]) -> GapRow:
    agent, spool, stream, *numbers, first_ms, last_ms, reason, recorded_ms = row
    from_seq, to_seq, count, samples = map(_unsigned, numbers)
    known = GapReason(reason) if reason in _REASONS else GapReason.UNSPECIFIED
    return GapRow(
        agent, spool, stream, from_seq, to_seq, count, samples, first_ms, last_ms, known, recorded_ms
    )


def mini_data(connection: sqlite3.Connection, number: int) -> bytes | None:
    """One mini-block's data; None when it is gone. Raises DamagedBlock, and sqlite3.Error for what is no damage."""
    try:
        row = connection.execute("SELECT data FROM minis WHERE id = ?", (number,)).fetchone()
    except sqlite3.DatabaseError as exc:
        if isinstance(exc, sqlite3.OperationalError):
            raise
        raise DamagedBlock(str(exc)) from exc
    if row is None or isinstance(row[0], bytes):
        return None if row is None else bytes(row[0])
    raise DamagedBlock("its row holds no block")


def _are(*values: object, types: Sequence[type]) -> bool:
    """Whether a row holds what was written into it: a damaged one may hold anything."""
    return all(isinstance(value, kind) for value, kind in zip(values, types, strict=True))


def _checksum(row: MiniRow) -> int:
    text = f"{row.id}:{row.owner}:{row.list_id}:{row.hour}:{row.first_ms}:{row.last_ms}"
    return zlib.crc32(text.encode())


def _signed(number: int) -> int:
    """An unsigned 64-bit number as SQLite stores integers."""
    return number - (1 << 64) if number >= 1 << 63 else number


def _unsigned(number: int) -> int:
    return number + (1 << 64) if number < 0 else number
