"""What rules ask of the rings, for all series of a selector at once, at one moment.

Two ways. A window that begins after the last hole, stale marker and reset of its row (nearly every one) is
answered from its first and last cell, and from the times of its clock, which were looked up once for all
its rows. The few others are named (`odd`), and the caller reads their samples in full (`ragged`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from watchbill_collector.head.pool import HOLE_BITS, NEVER, Floats, Ints, Mask, Pool
from watchbill_collector.labels import LabelFrame
from watchbill_collector.series import STALE, STALE_BITS, SeriesIds

_HOLE = np.uint64(HOLE_BITS)
_STALE = np.uint64(STALE_BITS)


@dataclass(frozen=True, slots=True, eq=False)
class _Share:
    """The series of a selector that are in one pool: `where` is their place in the selection."""

    pool: Pool
    where: Ints | slice
    rows: Ints
    columns: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Ends:
    """The first and last sample of each series' window, all [n]; meaningless where `count` is 0 or the row
    is odd.

    `odd` are the positions whose windows have holes or stale markers in them; `fell` those with a reset in
    them.
    """

    count: Ints
    first_ms: Ints
    first: Floats
    last_ms: Ints
    last: Floats
    odd: Ints
    fell: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Newest:
    """The newest sample of each series at a moment, all [n]."""

    values: Floats
    present: Mask
    times_ms: Ints


class Selection:
    """The series of one selector. Series without a row have no samples."""

    def __init__(self, ids: SeriesIds, frame: LabelFrame) -> None:
        self.ids = ids
        self.frame = frame
        self.version = -1
        self._shares: list[_Share] = []

    def __len__(self) -> int:
        return len(self.ids)

    def place(
        self, pools: Sequence[Pool], pool_of: npt.NDArray[np.int16], row_of: Ints, version: int
    ) -> None:
        """Look up the rows again, after some have come, gone or moved."""
        numbers, rows = pool_of[self.ids], row_of[self.ids]
        self._shares = []
        for number in np.unique(numbers).tolist():
            if number < 0:
                continue
            where = np.flatnonzero(numbers == number)
            everything = len(where) == len(self.ids)
            pool, mine = pools[number], rows[where]
            columns = pool.column[mine].astype(np.int64)
            self._shares.append(_Share(pool, slice(None) if everything else where, mine, columns))
        self.version = version

    def newest(self, time_ms: int, lookback_ms: int) -> Newest:
        """What an instant selector gives at `time_ms`."""
        count = len(self)
        found = Newest(np.zeros(count), np.zeros(count, np.bool_), np.zeros(count, np.int64))
        for share in self._shares:
            pool = share.pool
            tick = (pool.behind(time_ms) - 1)[share.columns]
            slot = tick % pool.depth
            times = pool.times.reshape(-1).take(share.columns * pool.depth + slot)
            values = pool.values.reshape(-1).take(share.rows * pool.depth + slot)
            present = (tick >= pool.base[share.columns]) & (times > time_ms - lookback_ms)
            bits = values.view(np.uint64)
            holes: Mask | None = None
            if np.isnan(values).any():
                present &= bits != _STALE
                holes = (bits == _HOLE) & (times != NEVER)
            if pool.some_ended:
                over = pool.ended[share.rows] <= time_ms
                present &= ~over
                if holes is not None:
                    holes &= ~over
            if holes is not None and holes.any():
                present &= ~holes
                self._behind_holes(share, np.flatnonzero(holes), time_ms, lookback_ms, values, present, times)
            found.values[share.where], found.present[share.where] = values, present
            found.times_ms[share.where] = times
        return found

    @staticmethod
    def _behind_holes(
        share: _Share, which: Ints, time_ms: int, lookback_ms: int, values: Floats, present: Mask, times: Ints
    ) -> None:
        """Find the newest sample of rows whose newest cell is a hole."""
        pool, rows, columns = share.pool, share.rows[which], share.columns[which]
        tick = pool.behind(time_ms)[columns][:, None] - 1 - np.arange(pool.depth)[None, :]
        slot = tick % pool.depth
        cells = pool.values[rows[:, None], slot]
        real = (tick >= pool.base[columns][:, None]) & (cells.view(np.uint64) != _HOLE)
        at = real.argmax(axis=1)
        line = np.arange(len(which))
        value, when = cells[line, at], pool.times[columns, slot[line, at]]
        values[which], times[which] = value, when
        stale = value.view(np.uint64) == _STALE
        present[which] = real[line, at] & ~stale & (when > time_ms - lookback_ms)

    def ends(self, time_ms: int, range_ms: int) -> Ends:
        """The edges of the windows `(time - range, time]`."""
        n = len(self)
        count, first_ms, last_ms = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
        first, last = np.zeros(n), np.zeros(n)
        odd, fell = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for share in self._shares:
            pool = share.pool
            hi_of, lo_of = pool.behind(time_ms), pool.behind(time_ms - range_ms)
            times, columns = pool.times.reshape(-1), np.arange(len(hi_of)) * pool.depth
            lo_slot, hi_slot = lo_of % pool.depth, (hi_of - 1) % pool.depth
            # Times are looked up once a clock and then handed to its rows.
            mine, cells = share.columns, pool.values.reshape(-1)
            row = share.rows * pool.depth
            count[share.where] = (hi_of - lo_of)[mine]
            first_ms[share.where] = times.take(columns + lo_slot)[mine]
            last_ms[share.where] = times.take(columns + hi_slot)[mine]
            first[share.where] = cells.take(row + lo_slot[mine])
            last[share.where] = cells.take(row + hi_slot[mine])
            lo = lo_of[mine]
            where = np.arange(n) if isinstance(share.where, slice) else share.where
            odd.append(where[pool.special[share.rows] >= lo])
            fell.append(where[pool.reset[share.rows] > lo])
        return Ends(count, first_ms, first, last_ms, last, np.concatenate(odd), np.concatenate(fell))

    def before_last(self, time_ms: int) -> tuple[Ints, Floats]:
        """The sample before the last one of each series, at or before `time_ms`: time and value, [n]."""
        when, values = np.zeros(len(self), np.int64), np.zeros(len(self))
        for share in self._shares:
            pool = share.pool
            slot = (pool.behind(time_ms) - 2)[share.columns] % pool.depth
            when[share.where] = pool.times.reshape(-1).take(share.columns * pool.depth + slot)
            values[share.where] = pool.values.reshape(-1).take(share.rows * pool.depth + slot)
        return when, values

    def matrix(self, time_ms: int, range_ms: int, fill: float | Floats) -> tuple[Floats, Ints]:
        """All values of the windows, [n, widest], in no particular order and with `fill` (one, or one a series) between
        them; and the counts.

        Holes and stale markers are in it: rows that `ends` calls odd are not to be used.
        """
        spans = [_Span(share.pool, time_ms, range_ms) for share in self._shares]
        widest = max((span.width for span in spans), default=0)
        found, count = np.empty((len(self), widest)), np.zeros(len(self), np.int64)
        filling = np.broadcast_to(np.asarray(fill, np.float64), len(self))[:, None]
        if sum(len(share.rows) for share in self._shares) < len(self):
            found[:] = filling
        for share, span in zip(self._shares, spans, strict=True):
            inside = span.inside[share.columns]
            found[share.where, : span.width] = np.where(inside, span.cells(share), filling[share.where])
            if span.width < widest:
                found[share.where, span.width :] = filling[share.where]
            count[share.where] = span.count[share.columns]
        return found, count

    def sums(self, time_ms: int, range_ms: int, values: Floats) -> "Sums":
        """For fitting lines: sums over the windows of `values`, made from `matrix`, and of the times of their
        samples, in seconds after the first of each window."""
        n = len(self)
        found = Sums(*(np.zeros(n) for _ in range(4)))
        for share in self._shares:
            span = _Span(share.pool, time_ms, range_ms)
            y = values[share.where, : span.width]
            # The times are those of a clock: what needs no values is worked out once for all its rows.
            x = span.offsets_s()
            mine = share.columns
            found.x[share.where] = x.sum(axis=1)[mine]
            found.xx[share.where] = np.einsum("ij,ij->i", x, x)[mine]
            found.y[share.where] = y.sum(axis=1)
            found.xy[share.where] = np.einsum("ij,ij->i", x[mine], y)
        return found

    def ragged(self, start_ms: int, end_ms: int, which: Ints | None = None) -> tuple[Ints, Floats, Ints]:
        """The samples in `(start, end]`, stale markers among them: times, values, and offsets [n + 1].

        With `which`, only of these positions, in their order.
        """
        n = len(self) if which is None else len(which)
        place = np.full(len(self), -1, np.int64)
        place[np.arange(n) if which is None else which] = np.arange(n)
        lines: list[Ints] = []
        times: list[Ints] = []
        values: list[Floats] = []
        for share in self._shares:
            line = place[share.where]
            rows, columns = share.rows[line >= 0], share.columns[line >= 0]
            line = line[line >= 0]
            if not len(rows):
                continue
            pool = share.pool
            lo, hi = pool.behind(start_ms)[columns], pool.behind(end_ms)[columns]
            width = int((hi - lo).max())
            tick = lo[:, None] + np.arange(width)
            slot = tick % pool.depth
            cells = pool.values[rows[:, None], slot]
            real = (tick < hi[:, None]) & (cells.view(np.uint64) != _HOLE)
            of_row, of_slot = np.nonzero(real)
            lines.append(line[of_row])
            times.append(pool.times[columns[of_row], slot[of_row, of_slot]])
            values.append(cells[of_row, of_slot])
            if pool.some_ended:
                ended = pool.ended[rows]
                over = np.flatnonzero((ended > start_ms) & (ended <= end_ms))
                lines.append(line[over])
                times.append(ended[over])
                values.append(np.full(len(over), STALE))
        if not lines:
            return np.empty(0, np.int64), np.empty(0), np.zeros(n + 1, np.int64)
        return _in_order(np.concatenate(lines), np.concatenate(times), np.concatenate(values), n)


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Sums over each window, all [n]: of seconds x, values y, their product, and the squares of x."""

    x: Floats
    y: Floats
    xy: Floats
    xx: Floats


class _Span:
    """The windows `(time - range, time]` of all clocks of a pool.

    Wide ones are read as the ring lies in memory, whole rows at a time, with `inside` to say what belongs to them: that
    is far quicker than picking cells in the order of their times. Narrow ones are picked.
    """

    def __init__(self, pool: Pool, time_ms: int, range_ms: int) -> None:
        self._pool = pool
        lo, hi = pool.behind(time_ms - range_ms), pool.behind(time_ms)
        self.count = hi - lo
        self._first = lo % pool.depth
        widest = int(self.count.max(initial=0))
        self._whole = 2 * widest > pool.depth
        self.width = pool.depth if self._whole else widest
        number = np.arange(self.width)
        if self._whole:
            number = number - self._first[:, None]
            number[number < 0] += pool.depth
            self._slot = np.empty((0, 0), np.int64)
        else:
            self._slot = number + self._first[:, None]
            self._slot[self._slot >= pool.depth] -= pool.depth
        self.inside: Mask = number < self.count[:, None]

    def cells(self, share: _Share) -> Floats:
        """What the rings have there, [rows, width]."""
        if self._whole:
            return self._pool.values[share.rows]
        place = (share.rows * self._pool.depth)[:, None] + self._slot[share.columns]
        return self._pool.values.reshape(-1).take(place)

    def offsets_s(self) -> Floats:
        """Seconds of the samples after the first of their window, [clocks, width]; 0 outside."""
        clock = np.arange(len(self.count))
        times = self._pool.times
        seconds = times[: len(clock)] if self._whole else times[clock[:, None], self._slot]
        first = times[clock, self._first]
        offsets: Floats = np.where(self.inside, seconds - first[:, None], 0) / 1000
        return offsets


def _in_order(lines: Ints, times: Ints, values: Floats, n: int) -> tuple[Ints, Floats, Ints]:
    """Sort samples by series and time; where two have one time, the later given (the end of a series)
    stands."""
    order = np.lexsort((np.arange(len(lines)), times, lines))
    lines, times, values = lines[order], times[order], values[order]
    if len(lines) > 1:
        again = np.flatnonzero((lines[1:] == lines[:-1]) & (times[1:] == times[:-1]))
        if len(again):
            lines, times, values = np.delete(lines, again), np.delete(times, again), np.delete(values, again)
    return times, values, np.searchsorted(lines, np.arange(n + 1)).astype(np.int64)
