"""The metric history on this machine's disk.

    commit   ->  tail.db: one row a group commit, marks and gaps in the same transaction; readings wait in
    memory
    minis    ->  30 ticks or 5 minutes of a sender become one small block in tail.db; the raw rows go
    merge    ->  an hour that is over becomes one block a sender in raw/DATE.db, and in 1m/ and 1h/
    retain   ->  day files that are too old are unlinked

A reading is always in exactly one committed place, or, between two transactions of a merge, in two; whoever
reads looks in the order in which readings move (memory, mini-blocks, day files), so none is missed, and what
was seen twice is dropped.

Threads: everything that writes (`commit`, `merge`, `retain`, `close`) is for one named writer thread and is
guarded by a lock besides. `select` and its kin are for any thread at any time, with SQLite connections of
their own. A thread of this object's own, `history-checkpoint`, moves the tail's write-ahead log into the
file, so that no commit waits for that.

When the disk is nearly full nothing more is taken (`StorageFull`, so nothing is acknowledged), reading goes
on, and merges still run: they make the tail smaller. When it is quite full the ballast file is given up to
let them. After a failed write or sync nothing more is taken until the process starts again (`StorageBroken`).
"""

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from watchbill.clock import Clock
from watchbill.errors import StorageError
from watchbill.files import Lock, make_directory
from watchbill.protocol.frames import GapReason
from watchbill_collector.history import commits, minis, retention
from watchbill_collector.history.catalogue import Catalogue
from watchbill_collector.history.checkpoint import Checkpointer
from watchbill_collector.history.database import storing, transaction
from watchbill_collector.history.days import Days, day_of, hour_of
from watchbill_collector.history.disk import Disk
from watchbill_collector.history.expiry import Expiry
from watchbill_collector.history.lists import MIXED, ListBook, SeriesList
from watchbill_collector.history.merging import Merger
from watchbill_collector.history.pieces import between, unite
from watchbill_collector.history.presence import Present, present
from watchbill_collector.history.reading import Reader
from watchbill_collector.history.recovery import open_tail
from watchbill_collector.history.tail import MiniRow, Tail  # noqa: TC001
from watchbill_collector.history.values import (
    DAY_MS,
    HOUR_MS,
    TIME_MS_MAX,
    GapRow,
    HistoryCounters,
    HistoryOptions,
    Mark,
    Piece,
    Samples,
    StorageBroken,
    StorageFull,
    Tier,
    TierSamples,
)
from watchbill_collector.history.waiting import Waiting
from watchbill_collector.series import SeriesIds, SeriesTable, Ticks

log = logging.getLogger(__name__)

FLUSH_OWNERS = 16
"""So many senders' readings become mini-blocks in one go: in numpy a call costs as much as the arithmetic."""
FLUSH_WAIT_S = 6.0
"""Fewer wait for so long."""
TRIM_S = 60.0
"""How often raw rows that are no longer needed are deleted."""
SLICE_OWNERS = 16
"""Senders merged in one transaction: a commit waits for at most this."""
SLICE_MINIS = 96
"""And about so many of their mini-blocks."""
LATE_QUIET_S = 120.0
"""Late readings of an hour are merged when no more came for so long,"""
LATE_WAIT_S = 1800.0
"""or at the latest after this."""
COMPACT_SAMPLES = 4_000_000
"""Statistics joined in one slice of the daily tidying."""
COMPACT_DELAY_MS = 2 * HOUR_MS
TAIL_LISTS_IDLE_MAX = 1_000
"""Series lists in the tail that nothing needs any more, before they are removed."""
PROBLEMS_MAX = 1_000
"""Damaged things remembered by name; more are only counted."""
IDLE_LOOK_MS = HOUR_MS
"""How often memory of old day files that nobody asked for is given back."""


@dataclass(frozen=True, slots=True)
class HistoryStatus:
    """What `doctor` and the metrics show."""

    state: str  # ok, full, broken
    reason: str
    tail_bytes: int
    pending_bytes: int
    minis: int
    day_files: int
    day_bytes: int
    oldest_day: int | None
    retention_doubted: bool
    problems: tuple[str, ...]


class History:
    """See the module. Open it with `History.open`."""

    def __init__(self, directory: Path, table: SeriesTable, clock: Clock, options: HistoryOptions) -> None:
        self.directory = directory
        self.counters = HistoryCounters()
        self._table = table
        self._clock = clock
        self._options = options
        self._problems: dict[str, int] = {}
        self._disk = Disk(directory, clock, options.free_share_min, options.ballast_bytes)
        self._writing = threading.RLock()
        self._closed = False
        make_directory(directory)
        self._lock = Lock(directory / "lock")
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise
        self._checkpointer = Checkpointer(self._tail.path, self._damaged)

    @classmethod
    def open(
        cls, directory: Path, table: SeriesTable, clock: Clock, options: HistoryOptions | None = None
    ) -> Self:
        """Open, with everything that a crash left put right, and read back what is recent.

        Raises Refused when another process has the directory, StorageError when it cannot be written.
        """
        return cls(directory, table, clock, options or HistoryOptions())

    def _open(self) -> None:
        self._book = ListBook(self._table)
        self._waiting = Waiting()
        self._packer = commits.Packer()
        with storing(str(self.directory)):
            opened = open_tail(self.directory, self._table, self._book, self._clock.wall_ms(), self._damaged)
            self._tail: Tail = opened.tail
            self._catalogue: Catalogue = opened.catalogue
            self.counters.files_quarantined += opened.quarantined
            self._raw = Days(self.directory / "raw", self._table, self._book, self._damaged)
            self._tiers = {
                tier: Days(self.directory / tier.label, self._table, self._book, self._damaged)
                for tier in (Tier.MINUTE, Tier.HOUR)
            }
        self._marks = {_key(mark): mark for mark in opened.marks}
        self._dirty_marks = set(self._marks)
        now_s = self._clock.monotonic_s()
        for owner, piece, raw in opened.pieces:
            self._waiting.add([(owner, piece)], raw, now_s)
        self._waiting.flushed((), opened.minis)
        self._newest_ms = max(
            [opened.newest_ms, *((day + 1) * DAY_MS for days in self._all_days() for day in days.days[-1:])]
        )
        self._readings = (self._raw, self._tiers[Tier.MINUTE])
        self._merger = Merger(self._table, self._book, self._raw, self._tiers, self._damaged)
        tail = (self._tail, self._catalogue)
        self._reader = Reader(self._table, self._book, self._waiting, tail, self._damaged)
        self._late: dict[int, tuple[float, float]] = {}
        self._merged_hours: set[int] = set()
        self._recent: set[int] = set()  # Lists of commits since the tail's labels were last looked at.
        self._unsettled: set[int] = set()
        self._compacted = 0
        self._trimmed_s = self._flush_wait_s = now_s - 3600.0
        self._idle_ms = self._clock.boottime_ms()
        self._expiry = Expiry(
            self._options,
            self._tail,
            self._raw,
            self._tiers,
            believed_ms=min(self._clock.wall_ms(), self._newest_ms or TIME_MS_MAX),
            boottime_ms=self._clock.boottime_ms(),
        )
        today = day_of(hour_of(min(self._clock.wall_ms(), TIME_MS_MAX)))
        for days in self._readings:
            days.files(today - 1, today)
        self._disk.set_ballast()

    def _all_days(self) -> list[Days]:
        return [self._raw, *self._tiers.values()]

    # Writing.

    def commit(self, ticks: Sequence[Ticks], marks: Sequence[Mark], gaps: Sequence[GapRow]) -> None:
        """Make readings, watermarks and gap rows durable together.

        Raises StorageFull, StorageBroken or StorageError; then nothing of it is kept and nothing may be
        acknowledged. Readings with times that no day file can hold are counted and left out.
        """
        with self._writing:
            try:
                self._commit(ticks, marks, gaps)
            except StorageFull:
                self.counters.refused_full += 1
                raise
            self._disk.taken()

    def _commit(self, ticks: Sequence[Ticks], marks: Sequence[Mark], gaps: Sequence[GapRow]) -> None:
        self._disk.require()
        began = self._clock.monotonic_s()
        kept = [each for each in map(self._kept, ticks) if each is not None]
        with self._disk.guard(), self._tail_transaction() as connection:
            in_file, write = self._catalogue.in_file, self._catalogue.write
            entries = [
                commits.Entry(in_file.get(of.number) or write(connection, of), piece.times, piece.values)
                for of, piece in kept
            ]
            raws: list[tuple[int, slice]] = []
            for part, data in self._packer.rows(entries, marks) if entries or marks else ():
                raws.append((self._tail.add_raw(data), part))
                self.counters.bytes_raw += len(data)
                self._checkpointer.wrote(len(data))
            if gaps:
                self._tail.add_gaps(gaps)
        for raw, part in raws:
            self._waiting.add([(of.owner, piece) for of, piece in kept[part]], raw, began)
        for of, piece in kept:
            self._recent.add(of.number)
            self.counters.samples += piece.values.size
            if piece.times[-1] > self._newest_ms:
                self._newest_ms = int(piece.times[-1])
        for mark in marks:
            key = (mark.agent_id, mark.spool_id, mark.stream)
            self._marks[key] = mark
            self._dirty_marks.add(key)
        self.counters.commits += 1
        self._tend(began)
        self.counters.commit_seconds += self._clock.monotonic_s() - began

    def _kept(self, ticks: Ticks) -> tuple[SeriesList, Piece] | None:
        times, values = ticks.times_ms, ticks.values
        if not values.size:
            return None
        of = self._book.of(ticks.series)
        if of.take is not None:
            values = values[:, of.take]
        first, last = (times[0], times[-1]) if len(times) == 1 else (times.min(), times.max())
        if first < 1 or last > TIME_MS_MAX:
            fits = (times >= 1) & (times <= TIME_MS_MAX)
            self.counters.samples_out_of_range += int((~fits).sum()) * len(of.ids)
            times, values = times[fits], values[fits]
        return (of, Piece(of.ids, times, values)) if len(times) else None

    def _tend(self, now_s: float) -> None:
        """Small tidying between commits. What fails here fails no commit: it is tried again."""
        due = self._due(now_s)
        try:
            if due:
                self._flush(due)
            if now_s - self._trimmed_s >= TRIM_S:
                self._trimmed_s = now_s
                self._trim()
        except StorageError as exc:
            self._damaged(f"making mini-blocks: {exc}")

    def _due(self, now_s: float) -> list[int]:
        """Owners whose mini-blocks should be made now, in one go with others'."""
        due = self._waiting.due(now_s)
        if len(due) < FLUSH_OWNERS and now_s - self._flush_wait_s < FLUSH_WAIT_S:
            return []
        self._flush_wait_s = now_s
        return due

    def _flush(self, owners: Sequence[int]) -> None:
        """Make mini-blocks of all that waits of some owners."""
        work: list[tuple[int, int, SeriesList, Piece]] = []
        for owner in owners:
            for part in unite(self._waiting.take(owner)):
                of = self._book.of(part.ids)
                for hour in np.unique((part.times - 1) // HOUR_MS).tolist():
                    piece = between(part, hour * HOUR_MS, (hour + 1) * HOUR_MS)
                    assert piece is not None
                    work.append((owner, hour, of, piece))
        encoded = minis.encoded([piece for *_, piece in work])
        rows: list[tuple[int, MiniRow]] = []
        with self._disk.guard(), self._tail_transaction(synced=False) as connection:
            for (owner, hour, of, piece), data in zip(work, encoded, strict=True):
                place = (self._owner_id(connection, owner), self._catalogue.write(connection, of), hour)
                row = self._tail.add_mini(*place, int(piece.times[0]), int(piece.times[-1]), data)
                rows.append((owner, row))
                self._checkpointer.wrote(len(data))
            ids = [self._owner_id(connection, owner) for owner in owners]
            self._tail.set_flushed(ids, self._tail.raw_next - 1)
        now_s = self._clock.monotonic_s()
        for _, row in rows:
            if row.hour in self._merged_hours:
                self._late[row.hour] = (self._late.get(row.hour, (now_s, now_s))[0], now_s)
        self._waiting.flushed(owners, rows)
        self.counters.minis += len(rows)

    def _owner_id(self, connection: sqlite3.Connection, owner: int) -> int:
        return MIXED if owner == MIXED else self._catalogue.set_of_source(connection, owner)

    def _trim(self) -> None:
        oldest = self._waiting.oldest_raw()
        dirty = [self._marks[key] for key in self._dirty_marks if key in self._marks]
        with self._disk.guard(), self._tail_transaction(synced=False):
            self._tail.remove_raw(self._tail.raw_next if oldest is None else oldest, dirty)
        self._dirty_marks.clear()

    def merge(self, now_ms: int) -> bool:
        """One slice of periodic work; True when there is more to do at once.

        First readings that waited long enough become mini-blocks, then hours that are over go to day files,
        then yesterday is tidied. Raises StorageError; trying again is harmless.
        """
        with self._writing:
            self._disk.require(room=False)
            began = self._clock.monotonic_s()
            due = self._due(began)
            if due:
                self._flush(due)
            chosen = self._ripe(now_ms, began)
            if chosen is None:
                return self._tidy(now_ms)
            try:
                self._merge_slice(chosen)
            except StorageFull:
                self._disk.drop_ballast()
                raise
            self.counters.merge_seconds += self._clock.monotonic_s() - began
            return True

    def _ripe(self, now_ms: int, now_s: float) -> int | None:
        """The oldest hour that should be merged now."""
        for hour in self._waiting.hours():
            if not retention.hour_is_over(hour, now_ms):
                continue
            first_s, last_s = self._late.get(hour, (0.0, 0.0))
            if hour not in self._late or now_s - last_s >= LATE_QUIET_S or now_s - first_s >= LATE_WAIT_S:
                return hour
        return None

    def _merge_slice(self, hour: int) -> None:
        of_hour = self._waiting.minis_of(hour)
        # What came for this hour and waits in memory still (after a start, say) had better come along.
        behind = [
            owner
            for owner in list(of_hour)[:SLICE_OWNERS]
            if self._waiting.begins_before(owner, (hour + 1) * HOUR_MS)
        ]
        if behind:
            self._flush(behind)
        rows: dict[int, list[MiniRow]] = {}
        number = 0
        for owner in list(of_hour)[:SLICE_OWNERS]:
            if number >= SLICE_MINIS:
                break
            rows[owner] = list(of_hour[owner])
            number += len(rows[owner])
        with self._disk.guard():
            made = self._merger.merge(self._tail, self._catalogue, hour, rows)
            done = [row for of_owner in made.done.values() for row in of_owner]
            with self._tail_transaction():
                self._tail.remove_minis([row.id for row in done])
                self._tail.add_gaps([self._corrupt(row.first_ms, row.last_ms) for row in made.lost])
        self._waiting.merged(hour, made.done)
        self.counters.blocks += made.blocks
        self.counters.merges += 1
        self.counters.late_merges += made.late
        self._unsettled.add(day_of(hour))
        if hour not in self._waiting.hours():
            self._late.pop(hour, None)
            self._merged_hours.add(hour)

    def _corrupt(self, first_ms: int, last_ms: int) -> GapRow:
        now = self._clock.wall_ms()
        return GapRow("", b"", 0, 0, 0, 1, 0, first_ms, last_ms, GapReason.CORRUPT, now)

    def _tidy(self, now_ms: int) -> bool:
        """When there is nothing to merge."""
        with self._disk.guard():
            for day in self._unsettled:
                self._merger.settle(day)
            self._unsettled.clear()
            self._tail.give_back()
            over = day_of(hour_of(max(now_ms - COMPACT_DELAY_MS, 1))) - 1
            if over > self._compacted and not any(day_of(hour) <= over for hour in self._waiting.hours()):
                if self._merger.compact(over, COMPACT_SAMPLES):
                    return True
                self._compacted = over
        self._merged_hours = {hour for hour in self._merged_hours if day_of(hour) >= over}
        self._merger.forget(hour_of(max(now_ms, 1)) - 3)
        return False

    # Reading.

    def marks(self) -> list[Mark]:
        """Every stream's watermark as committed."""
        return list(self._marks.values())

    def remove_marks(self, marks: Sequence[Mark]) -> None:
        """Forget watermarks of spools that will never speak again."""
        with self._writing, self._disk.guard():
            # Their last word may still be in a raw row, and would be read back: those rows go first.
            self._flush(self._waiting.owners())
            self._trim()
            with self._tail_transaction():
                for mark in marks:
                    self._tail.remove_mark(mark)
                    self._marks.pop(_key(mark), None)

    def gaps(self, agent_id: str | None = None, limit: int = 1000) -> list[GapRow]:
        """Gap rows, newest first. `agent_id` "" is the collector's own."""
        with storing("gaps"):
            return self._tail.gaps(agent_id, limit)

    def know(self, start_ms: int, end_ms: int) -> None:
        """Make sure that the series table knows every series with readings in (start, end].

        Ask before selecting by labels in the past: label tables of old days are read on first need.
        """
        self._reader.know(self._readings, start_ms, end_ms)

    def present(self, start_ms: int, end_ms: int) -> Present:
        """Which series, by number, have readings in (start, end]: to within an hour, in coarser tiers a day."""
        begins = [days.days[0] * DAY_MS for days in self._readings if days.days]
        waiting = self._waiting, self._catalogue
        begins_ms = min(begins, default=TIME_MS_MAX)
        by_day = self._tiers[Tier.HOUR]
        return present(self._table, self._readings, by_day, begins_ms, waiting, start_ms, end_ms)

    def know_tier(self, start_ms: int, end_ms: int, tier: Tier) -> None:
        """The same for a tier, which reaches further back."""
        self._reader.know([self._tiers[tier], *self._readings], start_ms, end_ms)

    def select(self, ids: SeriesIds, start_ms: int, end_ms: int, samples_max: int) -> Samples:
        """Readings of distinct series in (start, end], stale markers among them. Raises TooManySamples.

        None are older than `oldest_ms()`: what the minute tier keeps of slow lists beyond that is its own.
        """
        start_ms = max(start_ms, self._expiry.raw_from * DAY_MS)
        return self._reader.select(self._readings, ids, start_ms, end_ms, samples_max)

    def select_tier(
        self, ids: SeriesIds, start_ms: int, end_ms: int, tier: Tier, samples_max: int
    ) -> TierSamples:
        """Statistics of the steps that end in (start, end]. Raises TooManySamples.

        What is not merged yet is condensed on the way, so the newest step may still be growing.
        """
        return self._reader.select_tier(
            self._readings, self._tiers[tier], tier, ids, start_ms, end_ms, samples_max
        )

    @property
    def newest_ms(self) -> int:
        """Time of the newest reading ever committed, as far as it is known."""
        return self._newest_ms

    def oldest_ms(self, tier: Tier | None = None) -> int | None:
        """Where a tier (None: the readings themselves) begins; None when it is empty."""
        kept = [self._tiers[tier]] if tier else self._readings
        begins = [days.days[0] * DAY_MS for days in kept if days.days]
        oldest = min(begins + [hour * HOUR_MS for hour in self._waiting.hours()[:1]], default=None)
        return oldest if oldest is None or tier else max(oldest, self._expiry.raw_from * DAY_MS)

    def status(self) -> HistoryStatus:
        """What is there, and what is wrong."""
        days = self._all_days()
        return HistoryStatus(
            self._disk.state,
            self._disk.reason,
            tail_bytes=self._tail_bytes(),
            pending_bytes=self._waiting.bytes,
            minis=self._waiting.minis,
            day_files=sum(len(each) for each in days),
            day_bytes=sum(each.size() for each in days),
            oldest_day=min((each.days[0] for each in days if each.days), default=None),
            retention_doubted=self._expiry.doubted,
            problems=tuple(self._problems),
        )

    def _tail_bytes(self) -> int:
        total = 0
        for suffix in ("", "-wal"):
            with contextlib.suppress(OSError):
                total += self._tail.path.with_name(f"tail.db{suffix}").stat().st_size
        return total

    # Retention.

    def retain(self, now_ms: int) -> list[str]:
        """Unlink what is too old or too much, never because a clock jumped; the names of what went.

        Call it every few minutes. Raises StorageError.
        """
        with self._writing, self._disk.guard():
            boottime = self._clock.boottime_ms()
            gone = self._expiry.unlink(now_ms, self._newest_ms, boottime)
            self.counters.retention_held += self._expiry.doubted
            self.counters.files_removed += len(gone)
            self._forget_idle(boottime)
            self._disk.look()
            if self._disk.state == "ok":
                with self._tail_transaction():
                    self._expiry.note(self._tail)
                    self._tail.trim_gaps()
                self._disk.set_ballast()
            return gone

    def _forget_idle(self, boottime_ms: int) -> None:
        if boottime_ms - self._idle_ms < IDLE_LOOK_MS:
            return
        self._idle_ms = boottime_ms
        self._book.epoch += 1
        self._prune_tail()
        today = day_of(hour_of(max(self._newest_ms, 1)))
        used = {each.number for each in self._catalogue.lists.values()}
        for days in self._all_days():
            days.forget_idle(today - 1)
            used |= days.lists()
        self._book.keep(used)

    def _prune_tail(self) -> None:
        """Forget labels that neither what waits nor what came lately needs."""
        recent, self._recent = self._recent, set()
        rows = [
            row for of_hour in map(self._waiting.minis_of, self._waiting.hours()) for row in of_hour.values()
        ]
        keep = {row.list_id for of_owner in rows for row in of_owner}
        keep |= {self._catalogue.in_file[n] for n in recent if n in self._catalogue.in_file}
        if len(self._catalogue.lists) - len(keep) < TAIL_LISTS_IDLE_MAX:
            return
        self._flush(self._waiting.owners())
        self._trim()  # Now no raw row names a list.
        keep |= {row.list_id for row in self._tail.minis() if not isinstance(row, int)}
        with self._tail_transaction() as connection:
            self._catalogue.prune(connection, keep)
        fresh = Catalogue(self._table, self._book, lambda what: self._damaged(f"{self._tail.path}: {what}"))
        fresh.load(self._tail.connection)
        self._catalogue = self._reader.catalogue = fresh

    # The disk.

    @contextlib.contextmanager
    def _tail_transaction(self, *, synced: bool = True) -> Iterator[sqlite3.Connection]:
        """All or nothing in the tail. What only moves readings that are durable already need not be `synced`: the log
        keeps the order of transactions, so a power cut takes back the move, or less."""
        connection = self._tail.connection
        try:
            if not synced:
                connection.execute("PRAGMA synchronous = NORMAL")
            try:
                with transaction(connection):
                    yield connection
            finally:
                if not synced:
                    connection.execute("PRAGMA synchronous = FULL")
        except BaseException as exc:
            self._catalogue.rolled_back()
            if getattr(exc, "sqlite_errorname", "").startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
                self._tail.suspect()
                raise StorageBroken(f"{self._tail.path}: {exc}: the next start rebuilds it") from exc
            raise
        self._catalogue.committed()

    def _damaged(self, what: str) -> None:
        self.counters.damaged_parts += 1
        if what in self._problems:
            self._problems[what] += 1
        elif len(self._problems) < PROBLEMS_MAX:
            self._problems[what] = 1
            log.error("history: %s", what)

    def close(self) -> None:
        """Stop. Everything committed is on disk already; this makes the files tidy."""
        with self._writing:
            if self._closed:
                return
            self._closed = True
            self._checkpointer.close()
            for days in self._all_days():
                days.close()
            self._tail.close()
            self._lock.release()


def _key(mark: Mark) -> tuple[str, bytes, int]:
    return mark.agent_id, mark.spool_id, mark.stream
