"""Opening the tail: whatever a crash, a bad disk or a bad copy left behind.

1. A tail of a newer version is refused: this program must not touch it.
2. A tail that SQLite cannot read is moved to `quarantine/` with its companions; every row that can be read is
   copied into a new one, and a gap row says that something may be missing. Starting is never blocked.
   Damage that shows only when the tail is written (nothing is taken then) is noted in a file beside it, and the
   next start does the same.
3. Raw rows are read back into memory, but for readings that are in mini-blocks already.
4. Single rows that are damaged are named, counted and get a gap row; the rest is served.
"""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from watchbill.errors import StorageError, Unreadable
from watchbill.files import make_directory, sync_directory
from watchbill.protocol.frames import GapReason
from watchbill_collector.history import commits
from watchbill_collector.history.catalogue import Catalogue
from watchbill_collector.history.database import ForeignFile, NewerFile, transaction
from watchbill_collector.history.lists import MIXED, ListBook, SeriesList
from watchbill_collector.history.tail import SUSPECT, MiniRow, Tail, salvage
from watchbill_collector.history.values import GapRow, Mark, Piece
from watchbill_collector.series import SeriesTable

QUARANTINE_MAX = 100
"""Files kept in quarantine; with more of them there the start is refused, for a person to look."""


@dataclass(slots=True)
class Opened:
    """A tail and what was in it."""

    tail: Tail
    catalogue: Catalogue
    marks: list[Mark] = field(default_factory=list)
    pieces: list[tuple[int, Piece, int]] = field(default_factory=list)  # Owner, piece, raw row.
    minis: list[tuple[int, MiniRow]] = field(default_factory=list)  # Owner, row.
    newest_ms: int = 0
    quarantined: int = 0


def open_tail(
    directory: Path, table: SeriesTable, book: ListBook, now_ms: int, damaged: Callable[[str], None]
) -> Opened:
    """Raises StorageError for what a person has to decide, sqlite3.Error when even a new tail fails."""
    path = directory / "tail.db"
    suspect = directory / SUSPECT
    try:
        if suspect.exists() and path.exists():
            raise sqlite3.DatabaseError("it was found damaged while it was written")
        return _read(path, table, book, now_ms, damaged)
    except NewerFile as exc:
        raise StorageError(str(exc)) from exc
    except (sqlite3.DatabaseError, ForeignFile) as exc:
        if isinstance(exc, sqlite3.OperationalError) and not _is_damage(exc):
            raise
        damaged(f"{path}: {exc}: moved to quarantine")
        kept = _quarantine(path)
        lost = _salvaged(kept, path)
        opened = _read(path, table, book, now_ms, damaged)
        with transaction(opened.tail.connection):
            opened.tail.add_gaps([_gap(0, now_ms, now_ms)])
        for what in lost:
            damaged(f"{kept}: not recovered: {what}")
        opened.quarantined = 1
        suspect.unlink(missing_ok=True)
        return opened


def _is_damage(error: sqlite3.OperationalError) -> bool:
    """Whether an operational error is about the file's content: a table or column that should be there."""
    return "no such" in str(error) or getattr(error, "sqlite_errorname", "") == "SQLITE_ERROR"


def _quarantine(path: Path) -> Path:
    place = path.parent / "quarantine"
    make_directory(place)
    for number in range(QUARANTINE_MAX):
        target = place / f"{path.name}.{number}"
        if not target.exists():
            break
    else:
        raise StorageError(f"{place}: {QUARANTINE_MAX} damaged files already: look at them and remove them")
    for suffix in ("", "-wal", "-shm"):
        companion = path.with_name(path.name + suffix)
        if companion.exists():
            companion.rename(target.with_name(target.name + suffix))
    sync_directory(place)
    sync_directory(path.parent)
    return target


def _salvaged(kept: Path, path: Path) -> list[str]:
    try:
        return salvage(kept, path)
    except (sqlite3.Error, Unreadable) as exc:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return [f"anything: {exc}"]


def _read(
    path: Path, table: SeriesTable, book: ListBook, now_ms: int, damaged: Callable[[str], None]
) -> Opened:
    fresh = not path.exists()
    tail = Tail(path)
    if fresh:
        sync_directory(path.parent)
    try:
        catalogue = Catalogue(table, book, lambda what: damaged(f"{path}: {what}"))
        catalogue.load(tail.connection)
        opened = Opened(tail, catalogue)
        gaps = _read_minis(opened, now_ms, damaged)
        gaps += _read_raw(opened, now_ms, damaged)
        if gaps:
            with transaction(tail.connection):
                tail.add_gaps(gaps)
    except BaseException:
        tail.close()
        raise
    return opened


def _read_minis(opened: Opened, now_ms: int, damaged: Callable[[str], None]) -> list[GapRow]:
    sources = opened.catalogue.source_of_set()
    bad: list[tuple[int, int, int]] = []
    for row in opened.tail.minis():
        if isinstance(row, int):
            bad.append((row, 0, 0))
            continue
        owner = MIXED if row.owner == MIXED else sources.get(row.owner)
        if owner is None or row.list_id not in opened.catalogue.lists:
            bad.append((row.id, row.first_ms, row.last_ms))
            continue
        opened.minis.append((owner, row))
        opened.newest_ms = max(opened.newest_ms, row.last_ms)
    for number, _, _ in bad:
        damaged(f"{opened.tail.path}: mini-block {number}: its row is damaged, or its list's labels are")
    if bad:  # They would be found again at every start.
        with transaction(opened.tail.connection):
            opened.tail.remove_minis([number for number, _, _ in bad])
    return [_gap(first, last, now_ms) for _, first, last in bad]


def _read_raw(opened: Opened, now_ms: int, damaged: Callable[[str], None]) -> list[GapRow]:
    tail, lists = opened.tail, opened.catalogue.lists
    through: dict[int, int] = {}
    sources = opened.catalogue.source_of_set()
    for owner_id, last in tail.flushed().items():
        owner = MIXED if owner_id == MIXED else sources.get(owner_id)
        if owner is not None:
            through[owner] = last
    marks = {(mark.agent_id, mark.spool_id, mark.stream): mark for mark in tail.marks()}
    bad: list[int] = []
    gaps: list[GapRow] = []
    for number, data in tail.raw():
        try:
            entries, of_row = commits.unpack(data)
        except (Unreadable, TypeError) as exc:  # A damaged row may hold anything.
            damaged(f"{tail.path}: raw row {number}: {exc}")
            bad.append(number)
            gaps.append(_gap(0, now_ms, now_ms))
            continue
        marks.update(((mark.agent_id, mark.spool_id, mark.stream), mark) for mark in of_row)
        for entry in entries:
            each = lists.get(entry.list_id)
            if each is None or len(each.ids) != entry.values.shape[1]:
                damaged(f"{tail.path}: raw row {number}: the labels of list {entry.list_id} are missing")
                gaps.append(_gap(int(entry.times[0]), int(entry.times[-1]), now_ms))
            elif through.get(each.owner, 0) < number:
                _keep(opened, each, entry, number)
    if bad:
        with transaction(tail.connection):
            tail.connection.executemany("DELETE FROM raw WHERE id = ?", [(number,) for number in bad])
    opened.marks = list(marks.values())
    return gaps


def _keep(opened: Opened, each: SeriesList, entry: commits.Entry, number: int) -> None:
    # A copy: the entry is a view of a whole group commit, which must not stay in memory for one sender's
    # sake.
    piece = Piece(each.ids, np.array(entry.times), np.array(entry.values))
    opened.pieces.append((each.owner, piece, number))
    opened.newest_ms = max(opened.newest_ms, int(piece.times.max()))


def _gap(first_ms: int, last_ms: int, now_ms: int) -> GapRow:
    return GapRow("", b"", 0, 0, 0, 1, 0, first_ms, last_ms, GapReason.CORRUPT, now_ms)
