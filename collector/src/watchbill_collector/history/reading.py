"""Answering: which places hold a series, and what is in them.

Readings move from memory to mini-blocks to day files while queries run. A query therefore notes first what
waits, then which lists there are, then reads mini-blocks, then day files: what moves on in between is found
further down, and when a mini-block has gone before it could be read, its hour may have got a list that was
not known yet, so the query begins again.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from watchbill.errors import Unreadable
from watchbill_collector.history import steps
from watchbill_collector.history.catalogue import Catalogue
from watchbill_collector.history.database import storing
from watchbill_collector.history.days import READINGS, Days, day_of, hour_of, hours_of
from watchbill_collector.history.gather import SINGLE_COLUMNS_MAX, Gather
from watchbill_collector.history.lists import MIXED, ListBook, SeriesList
from watchbill_collector.history.recent import Recent
from watchbill_collector.history.tail import MiniRow, Tail, mini_data
from watchbill_collector.history.tiers import STATISTICS, condense_ragged
from watchbill_collector.history.values import TIME_MS_MAX, Piece, Samples, Tier, TierSamples
from watchbill_collector.history.waiting import Waiting
from watchbill_collector.labels import Indices
from watchbill_collector.series import SeriesIds, SeriesTable, Values

Answer = TypeVar("Answer")

ATTEMPTS = 5
"""Merges that may overtake one query; after so many it answers with what it has."""
MINIS_AT_ONCE = 256
"""Mini-blocks asked for in one query."""
IN_MINIS, IN_MEMORY = 1, 2
"""Ranks: what is in a day file was committed first."""
FEW = 16
"""Up to so many series a search is cheaper than a table of all."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a query wants of one list: columns, and the places of those series in the answer."""

    each: SeriesList
    columns: list[int]
    positions: list[int]


class Reader:
    """For any thread."""

    def __init__(
        self,
        table: SeriesTable,
        book: ListBook,
        waiting: Waiting,
        tail: tuple[Tail, Catalogue],
        damaged: Callable[[str], None],
    ) -> None:
        self._table = table
        self._book = book
        self._waiting = waiting
        self._tail, self.catalogue = tail
        self._damaged = damaged
        self._recent = Recent()

    def know(self, all_days: Iterable[Days], start_ms: int, end_ms: int) -> None:
        """Load the label tables of day files in (start, end]."""
        first, last = _hours(start_ms, end_ms)
        for days in all_days:
            days.files(day_of(first), day_of(last))

    def select(
        self, all_days: Sequence[Days], ids: SeriesIds, start_ms: int, end_ms: int, samples_max: int
    ) -> Samples:
        """Readings in (start, end], wherever they are in these files."""
        return self._steadily(lambda: self._select(all_days, ids, start_ms, end_ms, samples_max))

    def _steadily(self, query: Callable[[], Answer]) -> Answer:
        """Ask again when lists were forgotten meanwhile."""
        for _ in range(ATTEMPTS):
            epoch = self._book.epoch
            answer = query()
            if epoch == self._book.epoch:
                break
        return answer

    def _select(
        self, all_days: Sequence[Days], ids: SeriesIds, start_ms: int, end_ms: int, samples_max: int
    ) -> Samples:
        first, last = _hours(start_ms, end_ms)
        self.know(all_days, start_ms, end_ms)
        gather = Gather(start_ms, end_ms, samples_max)
        damage: list[str] = []
        wanted = self._waits(ids, start_ms, end_ms, damage, gather)
        for days in all_days:
            self._days(days, wanted, first, last, damage, gather, None)
        return gather.finish(len(ids), tuple(damage))

    def select_tier(
        self,
        all_days: Sequence[Days],
        days: Days,
        tier: Tier,
        ids: SeriesIds,
        start_ms: int,
        end_ms: int,
        samples_max: int,
    ) -> TierSamples:
        """Statistics of the steps that end in (start, end]."""
        return self._steadily(
            lambda: self._select_tier(all_days, days, tier, ids, start_ms, end_ms, samples_max)
        )

    def _select_tier(
        self,
        all_days: Sequence[Days],
        days: Days,
        tier: Tier,
        ids: SeriesIds,
        start_ms: int,
        end_ms: int,
        samples_max: int,
    ) -> TierSamples:
        # One step more, for the reading before the first: growth is counted from there.
        from_ms = max(start_ms // tier.value - 1, 0) * tier.value
        end_ms = min(end_ms, TIME_MS_MAX)
        first, last = _hours(from_ms, end_ms)
        if tier is Tier.HOUR:  # A tidied day is one block under its first hour.
            first = hours_of(day_of(first))[0]
        self.know([days, *all_days], from_ms, end_ms)
        whole_ms = -(-end_ms // tier.value) * tier.value
        readings = Gather(from_ms, whole_ms, samples_max)
        statistics = Gather(from_ms, end_ms, samples_max * STATISTICS)
        damage: list[str] = []
        wanted = self._waits(ids, from_ms, whole_ms, damage, readings)
        self._days(days, wanted, first, last, damage, readings, statistics)
        of_statistics = statistics.finish(STATISTICS * len(ids))
        fresh = readings.finish(len(ids))
        stored = steps.of_rows(of_statistics, tier, len(ids))
        made = condense_ragged(fresh, tier, _before(of_statistics, fresh))
        parts = [stored, made]
        late = steps.shared(stored, made)
        if len(late):
            times = made.times[late]
            rows = np.unique(np.searchsorted(made.offsets, late, side="right") - 1)
            begin_ms, last_ms = int(times.min()) - 2 * tier.value, int(times.max())
            some = self._select(all_days, ids[rows], max(begin_ms, 0), last_ms, samples_max)
            damage += [what for what in some.damaged if what not in damage]
            renewed, added = steps.renewed(stored, made, _spread(condense_ragged(some, tier), rows, len(ids)))
            parts.insert(0, renewed)
            if added:
                damage.append(
                    f"{added} steps of the {tier.label} tier had late readings whose fellows are gone: both are "
                    "added up"
                )
        return steps.joined(parts, start_ms, end_ms, tuple(damage))

    def _waits(
        self, ids: SeriesIds, start_ms: int, end_ms: int, damage: list[str], gather: Gather
    ) -> dict[int, _Wanted]:
        """Gather what is not in day files yet; which lists hold some of these series, by list number."""
        first, last = _hours(start_ms, end_ms)
        owners = {*np.unique(self._table.sources_of(ids)).tolist(), MIXED}
        for attempt in range(ATTEMPTS):
            gather.clear()
            pieces, rows = self._waiting.snapshot(owners, first, last)
            wanted = self._wanted(ids, owners)
            rows = [row for row in rows if row.last_ms > start_ms and row.first_ms <= end_ms]
            if self._minis(rows, wanted, damage, gather, tolerant=attempt == ATTEMPTS - 1):
                break
        self._pieces(pieces, wanted, start_ms, end_ms, gather)
        return wanted

    @staticmethod
    def _pieces(
        pieces: list[Piece], wanted: dict[int, _Wanted], start_ms: int, end_ms: int, gather: Gather
    ) -> None:
        """Gather pieces of memory. Those of one list come together where no other list can have its series."""
        by_ids = {id(each.each.ids): each for each in wanted.values()}
        of_list: dict[int, list[Piece]] = {}
        chosen: list[Piece] = []
        for piece in pieces:
            times = piece.times
            if id(piece.ids) in by_ids and (len(times) > 1 or start_ms < times[0] <= end_ms):
                of_list.setdefault(id(piece.ids), []).append(piece)
                chosen.append(piece)
        owners = [by_ids[number].each.owner for number in of_list]
        if MIXED in owners or len(set(owners)) < len(owners):
            groups = [[piece] for piece in chosen]
        else:
            groups = list(of_list.values())
        for some in groups:
            mine = by_ids[id(some[0].ids)]
            times = np.concatenate([piece.times for piece in some])
            values = np.concatenate([piece.values for piece in some])
            if not (times[1:] > times[:-1]).all():
                order = np.argsort(times, kind="stable")  # Of equal times the first one stays.
                times = times[order]
                fresh = np.concatenate([[True], times[1:] > times[:-1]])
                times, values = times[fresh], values[order[fresh]]
            gather.add(mine.positions, mine.columns, times, values, IN_MEMORY)

    def _wanted(self, ids: SeriesIds, owners: set[int]) -> dict[int, _Wanted]:
        """Which lists hold some of these series, by list number."""
        lists = self._book.owned_by(owners)
        if not lists or not len(ids):
            return {}
        every = np.concatenate([each.ids for each in lists])
        if len(ids) < FEW:
            order = np.argsort(ids)
            at = order[np.minimum(np.searchsorted(ids, every, sorter=order), len(ids) - 1)]
            position = np.where(ids[at] == every, at, -1)
        else:
            place = np.full(max(int(every.max()), int(ids.max())) + 1, -1, np.int64)
            place[ids] = np.arange(len(ids))
            position = place[every]
        hits = np.flatnonzero(position >= 0)
        starts = np.cumsum([0, *(len(each.ids) for each in lists)])
        cuts = np.searchsorted(hits, starts).tolist()
        wanted = {}
        for each, start, begin, end in zip(lists, starts.tolist(), cuts, cuts[1:], strict=False):
            if begin < end:
                mine = hits[begin:end]
                wanted[each.number] = _Wanted(each, (mine - start).tolist(), position[mine].tolist())
        return wanted

    def _minis(
        self,
        rows: list[MiniRow],
        wanted: dict[int, _Wanted],
        damage: list[str],
        gather: Gather,
        *,
        tolerant: bool,
    ) -> bool:
        """Gather mini-blocks; False when one of them has gone and that is not tolerated."""
        of_lists = self.catalogue.lists
        mine = {
            row.id: wanted[of_lists[row.list_id].number]
            for row in rows
            if row.list_id in of_lists and of_lists[row.list_id].number in wanted
        }
        keys = {number: tuple(each.columns) for number, each in wanted.items()}
        ids = []
        for number, each in mine.items():
            known = self._recent.get(number, keys[each.each.number])
            if known is None:
                ids.append(number)
            else:
                gather.add_singles(known, each.positions, IN_MINIS, number)
        with storing(str(self._tail.path)), self._tail.readers.connection() as connection:
            for begin in range(0, len(ids), MINIS_AT_ONCE):
                some = ids[begin : begin + MINIS_AT_ONCE]
                found = 0
                for number, data in self._data(connection, some, damage):
                    found += 1
                    if data is None:
                        continue  # It is damaged.
                    each = mine[number]
                    try:
                        singles = gather.add_block(
                            data, len(each.each.ids), each.columns, each.positions, IN_MINIS, number
                        )
                    except Unreadable as exc:
                        self._note(damage, f"{self._tail.path}: mini-block {number}: {exc}")
                        continue
                    if singles is not None:
                        self._recent.put(number, keys[each.each.number], singles)
                if found < len(some) and not tolerant:
                    return False
        return True

    def _data(
        self, connection: sqlite3.Connection, ids: list[int], damage: list[str]
    ) -> Iterator[tuple[int, bytes | None]]:
        """Mini-blocks that are still there, with their data; None stands for data that cannot be read."""
        query = "SELECT id, data FROM minis WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id"
        try:
            found = connection.execute(query, (json.dumps(ids),)).fetchall()
        except sqlite3.DatabaseError as exc:
            if isinstance(exc, sqlite3.OperationalError):
                raise
        else:
            yield from found
            return
        for number in ids:  # Somewhere in these is a damaged page.
            try:
                data = mini_data(connection, number)
            except Unreadable as exc:
                self._note(damage, f"{self._tail.path}: mini-block {number}: {exc}")
                yield number, None
                continue
            if data is not None:
                yield number, data

    def _days(
        self,
        days: Days,
        wanted: dict[int, _Wanted],
        first: int,
        last: int,
        damage: list[str],
        readings: Gather,
        statistics: Gather | None,
    ) -> None:
        """Blocks of day files, statistics apart."""
        for file in days.files(day_of(first), day_of(last)):
            in_file = file.catalogue.in_file
            mine = {in_file[number]: each for number, each in wanted.items() if number in in_file}
            rows = 1 if statistics is None else STATISTICS
            few = {number for number, each in mine.items() if rows * len(each.columns) <= SINGLE_COLUMNS_MAX}
            kind = READINGS if statistics is None else None
            for row in file.blocks(mine, first, last, kind, partly=few):
                each = mine[row.list_id]
                series = len(each.each.ids)
                try:
                    if row.kind == READINGS:
                        readings.add_block(row.data, series, each.columns, each.positions)
                    else:
                        assert statistics is not None
                        columns = [
                            at * series + column for at in range(STATISTICS) for column in each.columns
                        ]
                        places = [STATISTICS * p + at for at in range(STATISTICS) for p in each.positions]
                        statistics.add_block(row.data, STATISTICS * series, columns, places)
                except (Unreadable, sqlite3.Error) as exc:
                    self._note(damage, f"{file.path}: block {row.id}: {exc}")
        damage += days.unusable(day_of(first), day_of(last))

    def _note(self, damage: list[str], what: str) -> None:
        damage.append(what)
        self._damaged(what)


def _before(stored: Samples, fresh: Samples) -> Values:
    """The last value in statistics of each series whose readings all come after them, else NaN."""
    before = np.full(len(fresh.offsets) - 1, np.nan)
    ends = stored.offsets[5::STATISTICS]  # Of the rows that hold the last values: number 4 of 6.
    both = (ends > stored.offsets[4::STATISTICS][: len(ends)]) & (fresh.offsets[1:] > fresh.offsets[:-1])
    chosen = np.flatnonzero(both)
    at = ends[chosen] - 1
    after = fresh.times[fresh.offsets[:-1][chosen]] > stored.times[at]
    before[chosen[after]] = stored.values[at[after]]
    return before


def _spread(some: TierSamples, rows: Indices, series: int) -> TierSamples:
    """Steps of a few series as steps of all."""
    lengths = np.zeros(series, np.int64)
    lengths[rows] = np.diff(some.offsets)
    return replace(some, offsets=np.concatenate([[0], np.cumsum(lengths)]))


def _hours(start_ms: int, end_ms: int) -> tuple[int, int]:
    """The hours of readings in (start, end]; times that cannot be stored are cut off."""
    return hour_of(min(max(start_ms + 1, 1), TIME_MS_MAX)), hour_of(min(max(end_ms, 1), TIME_MS_MAX))
