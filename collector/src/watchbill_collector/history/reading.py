"""Answering: which places hold a series, and what is in them.

Readings move from memory to mini-blocks to day files while queries run. A query therefore notes first what
waits, then which lists there are, then reads mini-blocks, then day files: what moves on in between is found
further down, and when a mini-block has gone before it could be read, its hour may have got a list that was
not known yet, so the query begins again.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from watchbill.errors import Unreadable
from watchbill_collector.history.block import Block
from watchbill_collector.history.catalogue import Catalogue
from watchbill_collector.history.database import storing
from watchbill_collector.history.days import READINGS, Days, day_of, hour_of, hours_of
from watchbill_collector.history.gather import Gather
from watchbill_collector.history.lists import MIXED, ListBook, SeriesList
from watchbill_collector.history.tail import MiniRow, Tail
from watchbill_collector.history.tiers import STATISTICS, condense_ragged, offsets_of
from watchbill_collector.history.values import TIME_MS_MAX, Piece, Samples, Tier, TierSamples
from watchbill_collector.history.waiting import Waiting
from watchbill_collector.series import SeriesIds, SeriesTable, Values

Answer = TypeVar("Answer")

ATTEMPTS = 5
"""Merges that may overtake one query; after so many it answers with what it has."""
FEW = 16
"""Up to so many series a search is cheaper than a table of all."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a query wants of one list: columns, and the places of those series in the answer."""

    each: SeriesList
    columns: list[int]
    positions: list[int]


@dataclass(frozen=True, slots=True)
class _Waits:
    """What is not in a day file: mini-blocks read, pieces of memory."""

    wanted: dict[int, _Wanted]
    minis: list[tuple[_Wanted, Block]]
    pieces: list[tuple[_Wanted, Piece]]


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

    def know(self, all_days: Iterable[Days], start_ms: int, end_ms: int) -> None:
        """Load the label tables of day files in (start, end]."""
        first, last = _hours(start_ms, end_ms)
        for days in all_days:
            days.files(day_of(first), day_of(last))

    def select(self, days: Days, ids: SeriesIds, start_ms: int, end_ms: int, samples_max: int) -> Samples:
        """Readings in (start, end]."""
        return self._steadily(lambda: self._select(days, ids, start_ms, end_ms, samples_max))

    def _steadily(self, query: Callable[[], Answer]) -> Answer:
        """Ask again when lists were forgotten meanwhile."""
        for _ in range(ATTEMPTS):
            epoch = self._book.epoch
            answer = query()
            if epoch == self._book.epoch:
                break
        return answer

    def _select(self, days: Days, ids: SeriesIds, start_ms: int, end_ms: int, samples_max: int) -> Samples:
        first, last = _hours(start_ms, end_ms)
        self.know([days], start_ms, end_ms)
        gather = Gather(start_ms, end_ms, samples_max)
        damage: list[str] = []
        waits = self._waits(ids, first, last, damage)
        self._days(days, waits.wanted, first, last, damage, gather, None)
        _add(gather, waits)
        return gather.finish(len(ids), tuple(damage))

    def select_tier(
        self, raw: Days, days: Days, tier: Tier, ids: SeriesIds, start_ms: int, end_ms: int, samples_max: int
    ) -> TierSamples:
        """Statistics of the steps that end in (start, end]."""
        return self._steadily(lambda: self._select_tier(raw, days, tier, ids, start_ms, end_ms, samples_max))

    def _select_tier(
        self, raw: Days, days: Days, tier: Tier, ids: SeriesIds, start_ms: int, end_ms: int, samples_max: int
    ) -> TierSamples:
        # One step more, for the reading before the first: growth is counted from there.
        from_ms = max(start_ms // tier.value - 1, 0) * tier.value
        end_ms = min(end_ms, TIME_MS_MAX)
        first, last = _hours(from_ms, end_ms)
        if tier is Tier.HOUR:  # A tidied day is one block under its first hour.
            first = hours_of(day_of(first))[0]
        self.know([days, raw], from_ms, end_ms)
        readings = Gather(from_ms, -(-end_ms // tier.value) * tier.value, samples_max)
        statistics = Gather(from_ms, end_ms, samples_max * STATISTICS)
        damage: list[str] = []
        waits = self._waits(ids, first, last, damage)
        self._days(days, waits.wanted, first, last, damage, readings, statistics)
        _add(readings, waits)
        of_statistics = statistics.finish(STATISTICS * len(ids))
        fresh = readings.finish(len(ids))
        of_readings = condense_ragged(fresh, tier, _before(of_statistics, fresh))
        return _joined(of_statistics, of_readings, len(ids), start_ms, end_ms, tuple(damage))

    def _waits(self, ids: SeriesIds, first: int, last: int, damage: list[str]) -> _Waits:
        owners = {*np.unique(self._table.sources_of(ids)).tolist(), MIXED}
        for attempt in range(ATTEMPTS):
            pieces, rows = self._waiting.snapshot(owners, first, last)
            wanted = self._wanted(ids, owners)
            minis = self._minis(rows, wanted, damage, tolerant=attempt == ATTEMPTS - 1)
            if minis is not None:
                break
        assert minis is not None
        by_ids = {id(each.each.ids): each for each in wanted.values()}
        found = [(by_ids[id(piece.ids)], piece) for piece in pieces if id(piece.ids) in by_ids]
        return _Waits(wanted, minis, found)

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
        self, rows: list[MiniRow], wanted: dict[int, _Wanted], damage: list[str], *, tolerant: bool
    ) -> list[tuple[_Wanted, Block]] | None:
        """Mini-blocks read; None when one of them has gone and that is not tolerated."""
        found = []
        with storing(str(self._tail.path)), self._tail.readers.connection() as connection:
            for row in rows:
                each = self.catalogue.lists.get(row.list_id)
                mine = None if each is None else wanted.get(each.number)
                if mine is None:
                    continue
                data = connection.execute("SELECT data FROM minis WHERE id = ?", (row.id,)).fetchone()
                if data is None:
                    if tolerant:
                        continue
                    return None
                try:
                    found.append((mine, _fitting(Block(data[0]), len(mine.each.ids))))
                except Unreadable as exc:
                    self._note(damage, f"{self._tail.path}: mini-block {row.id}: {exc}")
        return found

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
            for row in file.blocks(mine, first, last):
                each = mine[row.list_id]
                series = len(each.each.ids)
                try:
                    block = Block(row.data)
                    if row.kind == READINGS:
                        readings.add_block(_fitting(block, series), each.columns, each.positions)
                    elif statistics is not None:
                        columns = [
                            at * series + column for at in range(STATISTICS) for column in each.columns
                        ]
                        places = [STATISTICS * p + at for at in range(STATISTICS) for p in each.positions]
                        statistics.add_block(_fitting(block, STATISTICS * series), columns, places)
                except Unreadable as exc:
                    self._note(damage, f"{file.path}: block {row.id}: {exc}")
        damage += days.unusable(day_of(first), day_of(last))

    def _note(self, damage: list[str], what: str) -> None:
        damage.append(what)
        self._damaged(what)


def _fitting(block: Block, series: int) -> Block:
    if block.count != series:
        raise Unreadable(f"it has {block.count} series and its list {series}")
    return block


def _add(gather: Gather, waits: _Waits) -> None:
    for mine, block in waits.minis:
        gather.add_block(block, mine.columns, mine.positions)
    for mine, piece in waits.pieces:
        times, values = piece.times, piece.values
        if len(times) > 1 and not (times[1:] > times[:-1]).all():
            order = np.argsort(times, kind="stable")
            times, values = times[order], values[order]
        gather.add(mine.positions, mine.columns, times, values)


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


def _joined(
    stored: Samples,
    made: TierSamples,
    series: int,
    start_ms: int,
    end_ms: int,
    damage: tuple[str, ...],
) -> TierSamples:
    """Stored statistics and those made on the way; where both have a step, the stored one stays."""
    lengths = np.diff(stored.offsets).reshape(series, STATISTICS)[:, 0] if series else np.zeros(0, np.int64)
    rows = np.repeat(np.arange(series), lengths)
    at = np.repeat(stored.offsets[:-1:STATISTICS], lengths)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    places = [at + within + row * np.repeat(lengths, lengths) for row in range(STATISTICS)]
    rows = np.concatenate([rows, np.repeat(np.arange(series), np.diff(made.offsets))])
    times = np.concatenate([stored.times[places[0]], made.times])
    order = np.lexsort((times, rows))
    rows, times = rows[order], times[order]
    keep = (times > start_ms) & (times <= end_ms)
    keep[1:] &= (times[1:] != times[:-1]) | (rows[1:] != rows[:-1])
    order, rows, times = order[keep], rows[keep], times[keep]

    def both(row: int, more: Values) -> Values:
        return np.concatenate([stored.values[places[row]], more])[order]

    return TierSamples(
        tier=made.tier,
        times=times,
        minimum=both(0, made.minimum),
        maximum=both(1, made.maximum),
        total=both(2, made.total),
        count=both(3, made.count),
        last=both(4, made.last),
        increase=both(5, made.increase),
        offsets=offsets_of(rows, series),
        damaged=damage,
    )


def _hours(start_ms: int, end_ms: int) -> tuple[int, int]:
    """The hours of readings in (start, end]; times that cannot be stored are cut off."""
    return hour_of(min(max(start_ms + 1, 1), TIME_MS_MAX)), hour_of(min(max(end_ms, 1), TIME_MS_MAX))
