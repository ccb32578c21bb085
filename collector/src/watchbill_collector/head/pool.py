"""Rings of samples: a row per series, a column of times per clock, all of one depth.

A *clock* is the run of ticks that some series share, because one sender reads them together; its n-th tick
lies in slot n % depth of every ring. So the time of a tick is stored once, not once a series, and where a
window begins is looked up once a host. A cell of a row is one of

- a value (any float; NaN is a legal one),
- STALE_BITS: the series ended at this tick,
- HOLE_BITS: the series had no sample at this tick (it began later, or the tick came without it).

Two notes a row make the usual case fast. `special` is the latest tick at which the cell is no value,
`reset` the latest at which the value was lower than the one before. A window that begins after both is
answered from its first and last cell; any other is read in full.

Rows are never zeroed before they are used, so a pool that has room to spare costs address space, not memory.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from watchbill_collector.series import STALE_BITS

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

HOLE_BITS = 0x7FF0000000000003
"""A signalling NaN that no sender can store: appending turns these bits into a plain NaN."""
HOLE = np.array([HOLE_BITS], np.uint64).view(np.float64)[0]

NEVER = np.iinfo(np.int64).max
"""The time of a slot that holds no tick, and the end of a series that has not ended."""

_STALE = np.uint64(STALE_BITS)
_HOLE = np.uint64(HOLE_BITS)


def is_hole(values: Floats) -> Mask:
    """Which cells hold nothing."""
    holes: Mask = values.view(np.uint64) == _HOLE
    return holes


class Pool:
    """All rings of one depth. Rows and columns are numbers that stay the same until they are freed."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.values: Floats = np.empty((0, depth))
        self.series: npt.NDArray[np.uint32] = np.empty(0, np.uint32)
        self.column: npt.NDArray[np.int32] = np.empty(0, np.int32)
        self.special: Ints = np.empty(0, np.int64)
        self.reset: Ints = np.empty(0, np.int64)
        self.ended: Ints = np.empty(0, np.int64)
        self.times: Ints = np.empty((0, depth), np.int64)
        self.count: Ints = np.empty(0, np.int64)
        self.base: Ints = np.empty(0, np.int64)
        self.need_ms: Ints = np.empty(0, np.int64)
        self.rows_used = 0
        self.columns_used = 0
        self.some_ended = False
        self._free_rows: list[int] = []
        self._free_columns: list[int] = []
        self._behind: dict[int, Ints] = {}

    # Room.

    @property
    def rows_live(self) -> int:
        """Rows that belong to a series."""
        return self.rows_used - len(self._free_rows)

    @property
    def bytes_used(self) -> int:
        """Memory of what is in use, bookkeeping included."""
        row = 8 * self.depth + 4 + 4 + 8 + 8 + 8
        return self.rows_used * row + self.columns_used * (8 * self.depth + 24)

    def add_column(self, count: int = 0) -> int:
        """Room for one more clock; its next tick will have the number `count`, and none before it is here."""
        if self._free_columns:
            column = self._free_columns.pop()
        else:
            column = self.columns_used
            self.columns_used += 1
            if column == len(self.count):
                size = max(16, 2 * column)
                self.times = _grown(self.times, size)
                self.count, self.base = _grown(self.count, size), _grown(self.base, size)
                self.need_ms = _grown(self.need_ms, size)
        self.times[column] = NEVER
        self.count[column] = self.base[column] = count
        self.need_ms[column] = 0
        self._behind.clear()
        return column

    def add_rows(self, series: npt.NDArray[np.uint32], column: int) -> Ints:
        """Room for more series of one clock, all cells holes."""
        wanted = len(series)
        reused = [self._free_rows.pop() for _ in range(min(wanted, len(self._free_rows)))]
        fresh = wanted - len(reused)
        if self.rows_used + fresh > len(self.series):
            size = max(64, 2 * len(self.series), self.rows_used + fresh)
            self.values = _grown(self.values, size)
            self.series, self.column = _grown(self.series, size), _grown(self.column, size)
            self.special, self.reset = _grown(self.special, size), _grown(self.reset, size)
            self.ended = _grown(self.ended, size)
        rows = np.array([*reused, *range(self.rows_used, self.rows_used + fresh)], np.int64)
        self.rows_used += fresh
        self.values[rows] = HOLE
        self.series[rows] = series
        self.column[rows] = column
        self.special[rows] = self.count[column] - 1
        self.reset[rows] = -1
        self.ended[rows] = NEVER
        return rows

    def free_rows(self, rows: Ints) -> None:
        """The rows belong to nobody any more."""
        self.column[rows] = -1
        self._free_rows.extend(rows.tolist())
        if not self.rows_live:
            # A ring that was only the first guess of many senders is not needed again soon.
            self._free_rows, self.rows_used = [], 0
            self.values, self.series = np.empty((0, self.depth)), np.empty(0, np.uint32)
            self.column = np.empty(0, np.int32)
            self.special, self.reset, self.ended = (np.empty(0, np.int64) for _ in range(3))

    def free_column(self, column: int) -> None:
        """The clock is gone; its rows have been freed before."""
        self.times[column] = NEVER
        self._free_columns.append(column)
        self._behind.clear()

    # Writing.

    def write(
        self, columns: Ints, ticks: Ints, times_ms: Ints, rows: Ints, tick: Ints, values: Floats
    ) -> None:
        """Write ticks of several clocks: each (column, tick number, time), and each cell (row, tick number,
        value).

        Tick numbers of one clock ascend, at most depth - 1 of them in one call.
        """
        slots = ticks % self.depth
        self.times[columns, slots] = times_ms
        # In order, so that the last tick of a clock is what stays.
        self.base[columns] = np.maximum(self.base[columns], ticks + 1 - self.depth)
        self.count[columns] = ticks + 1
        self._behind.clear()
        self.set_cells(rows, tick, values)

    def write_times(self, columns: Ints, first: Ints, times_ms: Ints) -> None:
        """The next ticks of distinct clocks: `first` is the number of each one's first, `times_ms[clock,
        tick]`."""
        ticks = times_ms.shape[1]
        self.times[columns[:, None], (first[:, None] + np.arange(ticks)) % self.depth] = times_ms
        self.base[columns] = np.maximum(self.base[columns], first + ticks - self.depth)
        self.count[columns] = first + ticks
        self._behind.clear()

    def write_rows(self, rows: Ints, sender: Ints, first: Ints, values: Floats) -> None:
        """The values of the next ticks, `values[row, tick]`, fewer than the depth: row i is of `sender[i]`,
        whose first tick has the number `first[sender[i]]`. Holes are not taken: they become plain NaNs."""
        flat, start = self.values.reshape(-1), rows * self.depth
        before = flat.take(start + ((first - 1) % self.depth).take(sender))
        odd: Mask | None = None
        if np.isnan(values).any():
            bits = values.view(np.uint64)
            values[bits == _HOLE] = np.nan
            odd = values.view(np.uint64) == _STALE
        slots = (first[:, None] + np.arange(values.shape[1])) % self.depth
        if values.shape[1] == 1:
            flat[start + slots[:, 0].take(sender)] = values[:, 0]
            fell = values[:, 0] < before
            if fell.any():
                self.reset[rows[fell]] = first[sender[fell]]
        else:
            flat[start[:, None] + slots[sender]] = values
            falls = np.empty(values.shape, np.bool_)
            np.less(values[:, 0], before, out=falls[:, 0])
            np.less(values[:, 1:], values[:, :-1], out=falls[:, 1:])
            self._note_latest(self.reset, rows, first.take(sender), falls)
        if odd is not None:
            self._note_latest(self.special, rows, first.take(sender), odd)
        if self.some_ended:
            self.ended[rows] = NEVER

    @staticmethod
    def _note_latest(notes: Ints, rows: Ints, first: Ints, where: Mask) -> None:
        """Note for each row the last tick at which something was so."""
        some = np.flatnonzero(where.any(axis=1))
        if len(some):
            latest = where.shape[1] - 1 - where[some, ::-1].argmax(axis=1)
            notes[rows[some]] = first[some] + latest

    def set_cells(self, rows: Ints, tick: Ints, values: Floats) -> None:
        """Write values into ticks that are there, and keep the notes of the rows."""
        flat = self.values.reshape(-1)
        start = rows * self.depth
        flat[start + tick % self.depth] = values
        if self.some_ended:
            self.ended[rows] = NEVER
        if np.isnan(values).any():
            bits = values.view(np.uint64)
            odd = (bits == _STALE) | (bits == _HOLE)
            if odd.any():
                self.special[rows[odd]] = tick[odd]
        with np.errstate(invalid="ignore"):
            fell = values < flat[start + (tick - 1) % self.depth]
        if fell.any():
            self.reset[rows[fell]] = tick[fell]

    def set_holes(self, rows: Ints, tick: Ints) -> None:
        """These rows have no sample at these ticks."""
        self.values.reshape(-1)[rows * self.depth + tick % self.depth] = HOLE
        self.special[rows] = tick

    def rewind(self, column: int, count: int) -> None:
        """Forget the newest ticks of a clock, down to `count` of them."""
        depth, before = self.depth, int(self.count[column])
        self.base[column] = min(max(int(self.base[column]), before - depth), count)
        for tick in range(max(count, before - depth), before):
            self.times[column, tick % depth] = NEVER
        self.count[column] = count
        self._behind.clear()

    def end(self, rows: Ints, time_ms: int) -> None:
        """The series of these rows ended at `time_ms`."""
        self.ended[rows] = np.minimum(self.ended[rows], time_ms)
        self.some_ended = True

    # Reading.

    def behind(self, time_ms: int) -> Ints:
        """For each clock, the number of the tick behind its last one with time <= `time_ms`. Kept until
        written to."""
        known = self._behind.get(time_ms)
        if known is None:
            times = self.times[: self.columns_used]
            later = np.count_nonzero((times > time_ms) & (times != NEVER), axis=1)
            known = np.maximum(self.count[: self.columns_used] - later, self.base[: self.columns_used])
            self._behind[time_ms] = known
        return known

    def newest_ms(self, rows: Ints) -> Ints:
        """When each row's newest sample or stale marker was; far in the past where the ring has none."""
        columns = self.column[rows].astype(np.int64)
        tick = self.count[columns][:, None] - 1 - np.arange(self.depth)[None, :]
        slot = tick % self.depth
        real = (tick >= self.base[columns][:, None]) & ~is_hole(self.values[rows[:, None], slot])
        at = real.argmax(axis=1)
        line = np.arange(len(rows))
        return np.where(real[line, at], self.times[columns, slot[line, at]], -NEVER)

    def unreachable(self, now_ms: int, keep_ms: int) -> Ints:
        """Rows that no window reaches: their clock, or they themselves, ended long ago, or the ring is all
        holes."""
        rows = np.flatnonzero(self.column[: self.rows_used] >= 0)
        columns = self.column[rows].astype(np.int64)
        used = slice(0, self.columns_used)
        latest = self.times[np.arange(self.columns_used), (self.count[used] - 1) % self.depth]
        latest[self.count[used] == self.base[used]] = -NEVER
        oldest = now_ms - np.maximum(self.need_ms[used], keep_ms)
        gone = (latest < oldest)[columns] | (self.ended[rows] < oldest[columns])
        silent = np.flatnonzero((self.special[rows] == self.count[columns] - 1) & ~gone)
        if len(silent):
            gone[silent] = is_hole(self.values[rows[silent]]).all(axis=1)
        return rows[gone]

    def ticks_of(self, column: int) -> tuple[Ints, Ints]:
        """The tick numbers and times that a clock still has, ascending."""
        numbers = np.arange(int(self.base[column]), int(self.count[column]))
        return numbers, self.times[column, numbers % self.depth]

    def times_since(self, column: int, since_ms: int) -> list[int]:
        """The times of a clock's newest ticks, from `since_ms` on, ascending. There are few, as a rule none."""
        base, tick = int(self.base[column]), int(self.count[column]) - 1
        times = self.times[column]
        found: list[int] = []
        while tick >= base and (time := int(times[tick % self.depth])) >= since_ms:
            found.append(time)
            tick -= 1
        return found[::-1]

    def copy_rows(self, source: "Pool", rows: Ints, column: int) -> Ints:
        """Take over rows of another pool under the same clock, with what both rings can hold."""
        old_column = int(source.column[rows[0]])
        new = self.add_rows(source.series[rows], column)
        numbers, times = source.ticks_of(old_column)
        numbers, times = numbers[-self.depth :], times[-self.depth :]
        if len(numbers) and int(self.base[column]) > int(numbers[0]):
            self.times[column, numbers % self.depth] = times
            self.base[column] = numbers[0]
            self._behind.clear()
        self.values[new[:, None], (numbers % self.depth)[None, :]] = source.values[
            rows[:, None], (numbers % source.depth)[None, :]
        ]
        # Ticks that this ring has and the other has no longer are holes.
        lost = int(numbers[0]) - 1 if len(numbers) and int(self.base[column]) < int(numbers[0]) else -1
        self.special[new] = np.maximum(source.special[rows], lost)
        self.reset[new] = source.reset[rows]
        self.ended[new] = source.ended[rows]
        self.some_ended = self.some_ended or source.some_ended
        return new


def _grown(array: npt.NDArray[np.generic], size: int) -> npt.NDArray:  # type: ignore[type-arg]  # Any element type.
    wider = np.empty((size, *array.shape[1:]), array.dtype)
    wider[: len(array)] = array
    return wider


def depth_for(window_ms: int, interval_ms: int, depths: Sequence[int]) -> int:
    """The least depth that holds `window_ms` of ticks every `interval_ms`; the greatest when none does."""
    wanted = window_ms // max(interval_ms, 1) + 2
    return next((depth for depth in depths if depth >= wanted), depths[-1])
