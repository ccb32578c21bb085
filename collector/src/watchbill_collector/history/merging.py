"""From mini-blocks to day files.

One slice takes some owners of one hour: their mini-blocks, and what day files have of that hour already, are
put together, encoded, and written; only then do the mini-blocks leave the tail. Readings of lists that are
read often go to the raw file and their statistics to the minute's; lists read every 10 seconds or more slowly
have no smaller statistics, so the minute's file is where their readings are, once. The order of the commits is

    1. the raw file        readings of fast lists; what has a place elsewhere now goes
    2. the hour's file     statistics; the same again is harmless: equal keys replace
    3. the minute's file   readings of slow lists, statistics of fast ones, and a note of which mini-blocks
                           these files hold now (`merged`)
    4. the tail            the mini-blocks go

A crash before 3 repeats all of it: what is written already joins with the same mini-blocks to the same again. A
crash after 3 finds the note, writes nothing again, and does 4.

Late readings, for an hour that was merged before, join the block that is there and the joint block replaces
it. A reading that was there first stays. They may make a list fast that was slow, or the other way round: its
readings are written where they go before they leave where they were. A block that cannot be read is left where
it is and named; what is new is written beside it.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from watchbill.errors import Unreadable
from watchbill_collector.history import block
from watchbill_collector.history.block import Block, DamagedBlock
from watchbill_collector.history.catalogue import Catalogue
from watchbill_collector.history.days import (
    READINGS,
    STATISTICS,
    BlockKey,
    DayFile,
    Days,
    day_of,
    hours_of,
)
from watchbill_collector.history.lists import ListBook, SeriesList
from watchbill_collector.history.pieces import unite
from watchbill_collector.history.tail import MiniRow, Tail
from watchbill_collector.history.tiers import condense, keeps_readings
from watchbill_collector.history.values import Piece, Tier
from watchbill_collector.labels import METRIC_NAME, STRINGS
from watchbill_collector.series import SeriesTable, Values

DECODE_VALUES = 1 << 16
"""Values decoded in one go: many small blocks together, but not more than the processor's cache holds."""
_POWERS: Values = np.float64(10.0) ** np.arange(block.EXPONENT_MAX + 1, dtype=np.float64)


@dataclass(slots=True)
class Slice:
    """What one slice did: mini-blocks that are done with, and what of them could not be read."""

    done: dict[int, list[MiniRow]] = field(default_factory=dict)
    lost: list[MiniRow] = field(default_factory=list)
    blocks: int = 0
    late: int = 0


@dataclass(slots=True)
class _Work:
    """One owner's hour: the old rows that are replaced, and the parts that take their place."""

    owner: int
    through: int
    parts: list["_Part"] = field(default_factory=list)
    old_raw: list[int] = field(default_factory=list)
    old_minute: list[int] = field(default_factory=list)
    old_lists: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Part:
    """Readings of one list, encoded. `slow` ones are the minute tier's."""

    piece: Piece
    blocks: list[bytes]
    slow: bool


class Merger:
    """Writes slices. Lives in the writer thread."""

    def __init__(
        self,
        table: SeriesTable,
        book: ListBook,
        raw: Days,
        tiers: dict[Tier, Days],
        damaged: Callable[[str], None],
    ) -> None:
        self._table = table
        self._book = book
        self._raw = raw
        self._tiers = tiers
        self._damaged = damaged
        self._last: dict[int, tuple[int, Values]] = {}  # List -> hour, last value of each series.
        self._gauges: tuple[int, npt.NDArray[np.int32]] = (-1, np.zeros(0, np.int32))

    def merge(self, tail: Tail, catalogue: Catalogue, hour: int, rows: dict[int, list[MiniRow]]) -> Slice:
        """Bring some owners' mini-blocks of an hour into the day files. Raises sqlite3.Error, OSError."""
        made = Slice(done={owner: list(of_owner) for owner, of_owner in rows.items()})
        minute = self._tiers[Tier.MINUTE].for_writing(day_of(hour))
        fresh: dict[int, list[MiniRow]] = {}
        for owner, of_owner in rows.items():
            known = minute.merged_through(tail.identity, of_owner[0].owner, hour)
            left = [row for row in of_owner if row.id > known]
            if left:
                fresh[owner] = left
        pieces = self._minis(tail, catalogue, fresh, made)
        work = [self._work(minute, hour, owner, fresh[owner], pieces.get(owner, [])) for owner in fresh]
        self._write_raw(minute, hour, work)
        self._write_hour(hour, work)
        with minute.writing() as writer:
            for each in work:
                minute.remove(writer, each.old_minute)
                self._remove_statistics(minute, writer, hour, each.old_lists)
                self._put(minute, writer, hour, each, slow=True)
                for part in each.parts:
                    if not part.slow:
                        self._put_statistics(minute, writer, Tier.MINUTE, hour, each, part.piece)
                minute.set_merged(writer, tail.identity, fresh[each.owner][0].owner, hour, each.through)
        self._remember(hour, work)
        made.blocks = sum(len(part.blocks) for each in work for part in each.parts)
        made.late = sum(bool(each.old_raw or each.old_minute) for each in work)
        return made

    def settle(self, day: int) -> None:
        """Fold the logs of a day's files into them."""
        for days in (self._raw, *self._tiers.values()):
            for file in days.files(day, day):
                file.settle()

    # Reading what is to be merged.

    def _minis(
        self, tail: Tail, catalogue: Catalogue, rows: dict[int, list[MiniRow]], made: Slice
    ) -> dict[int, list[Piece]]:
        """The content of mini-blocks by owner, in the order they were made."""
        found: list[tuple[int, MiniRow, Block]] = []
        for owner, of_owner in rows.items():
            for row in of_owner:
                try:
                    data = tail.mini(row.id)
                    if data is None or row.list_id not in catalogue.lists:
                        raise DamagedBlock("it is gone, or its list is")
                    each = Block(data)
                    if each.count != len(catalogue.lists[row.list_id].ids):
                        raise DamagedBlock("it does not fit its list")
                    _ = each.heads  # All there is in a block without frames, under one checksum.
                    found.append((owner, row, each))
                except Unreadable as exc:
                    self._damaged(f"{tail.path}: mini-block {row.id}: {exc}")
                    made.lost.append(row)
        try:
            decoded = _decoded([each for _, _, each in found])
        except Unreadable:  # One of them says what no writer says: find it.
            found = [(owner, row, each) for owner, row, each in found if self._sound(tail, row, each, made)]
            decoded = _decoded([each for _, _, each in found])
        pieces: dict[int, list[Piece]] = {}
        for (owner, row, each), values in zip(found, decoded, strict=True):
            pieces.setdefault(owner, []).append(_piece(catalogue.lists[row.list_id], each, values))
        return pieces

    def _sound(self, tail: Tail, row: MiniRow, each: Block, made: Slice) -> bool:
        try:
            _read_through(each)
            block.decode([each])
        except Unreadable as exc:
            self._damaged(f"{tail.path}: mini-block {row.id}: {exc}")
            made.lost.append(row)
            return False
        return True

    def _work(
        self, minute: DayFile, hour: int, owner: int, rows: Sequence[MiniRow], pieces: list[Piece]
    ) -> _Work:
        """Put what files have already in front: it was committed first."""
        work = _Work(owner, rows[-1].id)
        mine = [each for each in self._book.owned_by([owner]) if each.owner == owner]
        old: list[Piece] = []
        raw = self._raw.written(day_of(hour))
        if raw is not None:
            old += self._old(raw, hour, mine, work.old_raw, work.old_lists)
        old += self._old(minute, hour, mine, work.old_minute, work.old_lists)
        for part in unite([*old, *pieces]) if pieces or old else []:
            work.parts.append(_Part(part, self._encoded(part), keeps_readings(part, Tier.MINUTE.value)))
        return work

    def _old(
        self,
        file: DayFile,
        hour: int,
        mine: Sequence[SeriesList],
        old_rows: list[int],
        old_lists: set[int],
    ) -> list[Piece]:
        """What a file has of these lists' readings in an hour; where it is goes into the last two."""
        in_file = file.catalogue.in_file
        known = {in_file[each.number]: each for each in mine if each.number in in_file}
        found: list[Piece] = []
        for row in file.blocks(known, hour, hour, READINGS):
            try:
                each = Block(row.whole)
                _read_through(each)
                found.append(_piece(known[row.list_id], each, block.decode([each])))
            except Unreadable as exc:
                self._damaged(f"{file.path}: block {row.id}: {exc}")
                continue
            old_rows.append(row.id)
            old_lists.add(known[row.list_id].number)
        return found

    # Writing.

    @staticmethod
    def _encoded(part: Piece) -> list[bytes]:
        """One block, or more when there are more ticks than fit one."""
        blocks: list[bytes] = []
        for begin in range(0, len(part.times), block.TICKS_MAX):
            end = begin + block.TICKS_MAX
            present = None if part.present is None else part.present[begin:end]
            blocks += block.encode(
                [part.times[begin:end]], part.values[begin:end], [len(part.ids)], present=present
            )
        return blocks

    def _write_raw(self, minute: DayFile, hour: int, work: Sequence[_Work]) -> None:
        """Readings of fast lists; then readings that have a place in the minute's file leave this one."""
        changed = [each for each in work if each.old_raw or not all(part.slow for part in each.parts)]
        if not changed:
            return
        if any(each.old_raw for each in changed):
            with minute.writing() as writer:
                for each in changed:
                    self._put(minute, writer, hour, each, slow=True)
        file = self._raw.for_writing(day_of(hour))
        with file.writing() as writer:
            for each in changed:
                file.remove(writer, each.old_raw)
                self._put(file, writer, hour, each, slow=False)
        if any(each.old_raw or each.old_minute for each in changed):
            self._book.epoch += 1  # A query that was here before these came looks again.

    def _put(self, file: DayFile, writer: sqlite3.Connection, hour: int, each: _Work, *, slow: bool) -> None:
        """Readings of an owner's slow lists, or of the others."""
        for part in each.parts:
            if part.slow == slow:
                list_id = file.catalogue.write(writer, self._book.of(part.piece.ids))
                for number, data in enumerate(part.blocks):
                    file.put(writer, BlockKey(list_id, hour, each.through, number), READINGS, data)

    def _write_hour(self, hour: int, work: Sequence[_Work]) -> None:
        file = self._tiers[Tier.HOUR].for_writing(day_of(hour))
        with file.writing() as writer:
            for each in work:
                self._remove_statistics(file, writer, hour, each.old_lists)
                for part in each.parts:
                    self._put_statistics(file, writer, Tier.HOUR, hour, each, part.piece)

    def _put_statistics(
        self,
        file: DayFile,
        writer: sqlite3.Connection,
        tier: Tier,
        hour: int,
        work: _Work,
        piece: Piece,
    ) -> None:
        each = self._book.of(piece.ids)
        list_id = file.catalogue.write(writer, each)
        data = self._condensed(tier, hour, each, piece)
        query = "SELECT count(*) FROM blocks WHERE list = ? AND hour = ? AND kind = ? AND batch != ?"
        if writer.execute(query, (list_id, hour, STATISTICS, work.through)).fetchone()[0]:
            self._damaged(
                f"{file.path}: readings of hour {hour} came when its other readings were gone: where both have a "
                "step, it has the statistics of the earlier ones"
            )
        file.put(writer, BlockKey(list_id, hour, work.through), STATISTICS, data)

    def _remember(self, hour: int, work: Sequence[_Work]) -> None:
        """The last values, for the growth in the hour that comes."""
        for each in work:
            for part in each.parts:
                last = part.piece.values[-1].copy()
                if part.piece.present is not None:
                    last[~part.piece.present[-1]] = np.nan
                self._last[self._book.of(part.piece.ids).number] = (hour, last)

    @staticmethod
    def _remove_statistics(file: DayFile, writer: sqlite3.Connection, hour: int, lists: set[int]) -> None:
        """Statistics of lists whose readings are all in the new blocks."""
        for number in lists:
            list_id = file.catalogue.in_file.get(number)
            if list_id is not None:
                writer.execute(
                    "DELETE FROM blocks WHERE list = ? AND hour = ? AND kind = ?", (list_id, hour, STATISTICS)
                )

    def _condensed(self, tier: Tier, hour: int, each: SeriesList, part: Piece) -> bytes:
        powers: Values = _POWERS[block.decimals(part.values)]
        made = condense(part, tier.value, powers, self._gauges_of(each), self._before(each, hour))
        count = made.statistics.shape[1]
        frames = block.NO_FRAMES if len(made.ends) == 1 else block.FRAME_SERIES
        # A block without frames lives a day, until `compact`.
        level = block.LEVEL if frames else block.LEVEL_FAST
        (data,) = block.encode(
            [made.ends], made.statistics, [count], present=made.present, frame_series=frames, level=level
        )
        return data

    def _gauges_of(self, each: SeriesList) -> npt.NDArray[np.bool_]:
        """Which series are known to be gauges."""
        known, codes = self._gauges
        if known != len(self._table.metadata):
            names = [name for name, (kind, _) in list(self._table.metadata.items()) if kind == "gauge"]
            codes = np.array([STRINGS.code(name) for name in names], np.int32)
            self._gauges = (len(self._table.metadata), codes)
        return np.isin(self._table.column(METRIC_NAME, each.ids), codes)

    def _before(self, each: SeriesList, hour: int) -> Values:
        """The last values of the hour before, NaN where unknown."""
        known = self._last.get(each.number)
        if known is not None and known[0] == hour - 1:
            return known[1]
        day = day_of(hour - 1)
        for file in [*self._tiers[Tier.MINUTE].files(day, day), *self._raw.files(day, day)]:
            list_id = file.catalogue.in_file.get(each.number)
            for row in file.blocks([] if list_id is None else [list_id], hour - 1, hour - 1, READINGS):
                try:
                    last: Values = block.decode([Block(row.whole)])[-1]
                    return last
                except Unreadable as exc:
                    self._damaged(f"{file.path}: block {row.id}: {exc}")
        return np.full(len(each.ids), np.nan)

    def forget(self, before_hour: int) -> None:
        """Let go of last values that no later hour will ask for."""
        self._last = {number: each for number, each in self._last.items() if each[0] >= before_hour}

    # Once a day.

    def compact(self, day: int, samples_max: int) -> bool:
        """Join the 24 hour blocks of each list in the hour tier's file into one; True when there is more."""
        left = samples_max
        for file in self._tiers[Tier.HOUR].files(day, day):
            first, last = hours_of(day)
            todo: list[tuple[int, list[int], list[Block]]] = []
            for list_id, each in list(file.catalogue.lists.items()):
                if left <= 0:
                    break
                rows = [row for row in file.blocks([list_id], first, last) if row.kind == STATISTICS]
                try:
                    blocks = [Block(row.whole) for row in rows]
                except Unreadable:
                    continue  # Named whenever it is read.
                blocks = [b for b in blocks if b.count == 6 * len(each.ids)]
                if len(blocks) == len(rows) > 1:
                    todo.append((list_id, [row.id for row in rows], blocks))
                    left -= sum(b.count * b.ticks for b in blocks)
            self._join(file, first, todo)
            if not todo:
                continue
            if left > 0:
                file.compact()
                file.settle()
        return left <= 0

    def _join(self, file: DayFile, hour: int, todo: list[tuple[int, list[int], list[Block]]]) -> None:
        if not todo:
            return
        with file.writing() as writer:
            for list_id, rows, blocks in todo:
                try:
                    ids = np.arange(blocks[0].count, dtype=np.uint32)
                    parts = unite([_piece_of(ids, b, block.decode([b])) for b in blocks])
                except Unreadable as exc:
                    self._damaged(f"{file.path}: list {list_id}: {exc}")
                    continue
                (part,) = parts
                file.remove(writer, rows)
                data = block.encode([part.times], part.values, [len(ids)], present=part.present)[0]
                file.put(writer, BlockKey(list_id, hour, 0), STATISTICS, data)


def _read_through(each: Block) -> None:
    """Touch everything in a block, so that damage shows before anything is built on it."""
    _ = each.times, each.patches, each.partial
    for kind in range(1, len(block.WIDTHS)):
        each.planes_of(kind)


def _decoded(blocks: Sequence[Block]) -> list[Values]:
    """Values of each block; those with the same number of ticks are decoded together."""
    decoded: list[Values] = [np.zeros((0, 0))] * len(blocks)
    by_ticks: dict[int, list[int]] = {}
    for position, each in enumerate(blocks):
        by_ticks.setdefault(each.ticks, []).append(position)
    for ticks, every in by_ticks.items():
        for positions in _portions(every, [blocks[position].count * ticks for position in every]):
            together = block.decode([blocks[position] for position in positions])
            begin = 0
            for position in positions:
                end = begin + blocks[position].count
                decoded[position] = together[:, begin:end]
                begin = end
    return decoded


def _portions(positions: Sequence[int], sizes: Sequence[int]) -> Iterator[list[int]]:
    """Runs of positions of about DECODE_VALUES each."""
    portion: list[int] = []
    size = 0
    for position, more in zip(positions, sizes, strict=True):
        portion.append(position)
        size += more
        if size >= DECODE_VALUES:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def _piece(each: SeriesList, read: Block, values: Values) -> Piece:
    return _piece_of(each.ids, read, values)


def _piece_of(ids: npt.NDArray[np.uint32], read: Block, values: Values) -> Piece:
    if not read.partial:
        return Piece(ids, read.times, values)
    present = np.ones(values.shape, np.bool_)
    for column, there in read.partial.items():
        present[:, column] = there
    return Piece(ids, read.times, values, present)
