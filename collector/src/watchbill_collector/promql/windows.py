"""Samples of many series in flat arrays, and what range functions ask of windows over them.

`Ragged` holds m samples of n series one series after the other. `Windows` is one range selector at all steps:
for each series and each step t the samples in `(t - range, t]`, as positions `[lo, hi)` in the flat arrays.
Everything is computed for all windows at once; nothing here loops over series or samples in Python.

A subclass of `Windows` may answer any method in its own way (the head does, from running sums), and gets the
rest from here, which reads the ragged samples only when it has to.
"""

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from watchbill_collector.promql.sums import segment_means, segment_sums

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_KEY_MAX = 1 << 62
"""Room of the combined (series, time) search key; beyond it series are searched one by one."""


class Ragged:
    """m samples of n series: `times[m]` and `values[m]`, series i at `offsets[i]:offsets[i + 1]`, times
    ascending.
    """

    __slots__ = ("_times_padded", "_values_padded", "offsets", "times", "values")

    def __init__(self, times: Ints, values: Floats, offsets: Ints) -> None:
        assert times.shape == values.shape
        assert offsets[0] == 0
        assert offsets[-1] == len(times)
        self.times = times
        self.values = values
        self.offsets = offsets
        self._times_padded: Ints | None = None
        self._values_padded: Floats | None = None

    def values_padded(self) -> Floats:
        """The values and a NaN behind them, so that position m, or -1, can be read. Computed once."""
        if self._values_padded is None:
            self._values_padded = np.append(self.values, np.nan)
        return self._values_padded

    def times_padded(self) -> Ints:
        """The times and a 0 behind them. Computed once."""
        if self._times_padded is None:
            self._times_padded = np.append(self.times, 0)
        return self._times_padded

    def select(self, keep: Mask) -> "Ragged":
        """Only the samples where `keep[m]`; the same object if that is all."""
        if keep.all():
            return self
        counts = np.concatenate(([0], np.cumsum(keep, dtype=np.int64)))
        return Ragged(self.times[keep], self.values[keep], counts[self.offsets])

    def up_to(self, times_ms: Ints) -> Ints:
        """For each series and each t, the position behind its last sample with time <= t: int64[n, s]."""
        n, m, s = len(self.offsets) - 1, len(self.times), len(times_ms)
        if m == 0 or n == 0 or s == 0:
            return np.zeros((n, s), np.int64)
        base, top = int(self.times.min()), int(self.times.max())
        if s == 1:  # Storage usually gives just the samples up to t.
            if top <= int(times_ms[0]):
                return self.offsets[1:, None]
            if base > int(times_ms[0]):
                return self.offsets[:-1, None]
        span = top - base + 2
        if span * n >= _KEY_MAX:
            return self._up_to_one_by_one(times_ms)
        rows = np.arange(n, dtype=np.int64) * span
        keys = self.times - base
        keys += np.repeat(rows, np.diff(self.offsets))
        wanted = np.clip(times_ms - base, -1, span - 2)
        found: Ints = np.searchsorted(keys, rows[:, None] + wanted[None, :], side="right").astype(np.int64)
        return found

    def _up_to_one_by_one(self, times_ms: Ints) -> Ints:
        out = np.empty((len(self.offsets) - 1, len(times_ms)), np.int64)
        for row in range(len(out)):
            lo, hi = self.offsets[row], self.offsets[row + 1]
            out[row] = lo + np.searchsorted(self.times[lo:hi], times_ms, side="right")
        return out


def last_at(ragged: Ragged, times_ms: Ints, lookback_ms: int) -> tuple[Ints, Mask]:
    """The flat position of the newest sample in `(t - lookback, t]`, and whether there is one: both [n, s].

    Where there is none the position is m, which the padded arrays can be read at.
    """
    index = ragged.up_to(times_ms) - 1
    present = index >= ragged.offsets[:-1, None]
    index = np.where(present, index, len(ragged.times))
    present &= ragged.times_padded()[index] > (times_ms - lookback_ms)[None, :]
    return index, present


class Edges(NamedTuple):
    """How many samples each window has, its first, its last; [n, s], meaningless where `samples` is 0."""

    samples: Ints
    first_ms: Ints
    first: Floats
    last_ms: Ints
    last: Floats


class LastTwo(NamedTuple):
    """The last two samples of each window, all [n, s]; meaningless where `samples` is under 2."""

    samples: Ints
    before_ms: Ints
    before: Floats
    last_ms: Ints
    last: Floats


class Spans(NamedTuple):
    """Windows as ranges of flat arrays: samples `[lo, hi)` of `times` and `values`; lo and hi are [n, s]."""

    times: Ints
    values: Floats
    lo: Ints
    hi: Ints


class Windows:
    """The windows `(t - range, t]` of n series at s steps. Stale markers are no samples here.

    `times_ms` are the ends of the windows after offset and @ were applied. Results are [n, s] arrays; where a
    window has too few samples they hold something meaningless, `count` says where.
    """

    check: Callable[[], None] = staticmethod(lambda: None)
    """Called between pieces of long work: raises when the query's time is up."""

    def __init__(self, ragged: Callable[[], Ragged], rows: int, times_ms: Ints, range_ms: int) -> None:
        self.rows = rows
        self.times_ms = times_ms
        self.range_ms = range_ms
        self._source = ragged

    @property
    def shape(self) -> tuple[int, int]:
        """(n, s)."""
        return self.rows, len(self.times_ms)

    @cached_property
    def _spans(self) -> tuple[Ragged, Ints, Ints]:
        ragged = self._source()
        hi = ragged.up_to(self.times_ms)
        lo = ragged.up_to(self.times_ms - self.range_ms)
        return ragged, lo, hi

    def between(self, rows: tuple[int, int], steps: tuple[int, int]) -> "Windows":
        """The windows of some series at some steps only: large work is done in blocks that fit the processor's cache,
        and between which the query can be ended.
        """
        first, behind = rows

        def part() -> Ragged:
            ragged = self._source()
            lo, hi = ragged.offsets[first], ragged.offsets[behind]
            return Ragged(ragged.times[lo:hi], ragged.values[lo:hi], ragged.offsets[first : behind + 1] - lo)

        out = Windows(part, behind - first, self.times_ms[slice(*steps)], self.range_ms)
        out.check = self.check
        return out

    def gathered(self) -> "Iterator[tuple[Ints, Ints, Ints]]":
        """All samples of all windows, some windows at a time: see `gathered`."""
        _, lo, hi = self._spans
        for piece in gathered(lo, hi):
            self.check()
            yield piece

    def spans(self) -> Spans:
        """The samples themselves, for functions that need all of them."""
        ragged, lo, hi = self._spans
        return Spans(ragged.times, ragged.values, lo, hi)

    def count(self) -> Ints:
        """How many samples."""
        _, lo, hi = self._spans
        return hi - lo

    def edges(self) -> Edges:
        """First and last sample: what `delta` needs, and `rate` with `drops`."""
        ragged, lo, hi = self._spans
        last = hi - 1
        times, values = ragged.times_padded(), ragged.values_padded()
        return Edges(hi - lo, times[lo], values[lo], times[last], values[last])

    def last_two(self) -> LastTwo:
        """What `irate` and `idelta` need."""
        ragged, lo, hi = self._spans
        last, before = hi - 1, hi - 2
        before = np.maximum(before, -1)
        times, values = ragged.times_padded(), ragged.values_padded()
        return LastTwo(hi - lo, times[before], values[before], times[last], values[last])

    def drops(self) -> Floats:
        """The sum of the values just before each decrease within the window: a counter's correction for
        resets.
        """
        ragged, lo, hi = self._spans
        values = ragged.values
        fell = np.zeros(len(values), np.bool_)
        fell[1:] = values[1:] < values[:-1]
        fell[ragged.offsets[:-1][ragged.offsets[:-1] < len(values)]] = False
        at = np.flatnonzero(fell)
        if not len(at):
            return np.zeros(self.shape)
        # Resets are rare, so the sums run over the resets alone. One at the first sample of a window is
        # outside it.
        first = np.searchsorted(at, lo, side="right")
        behind = np.searchsorted(at, hi, side="left")
        return segment_sums(np.append(values[at - 1], 0.0), first, np.maximum(first, behind))

    def sum(self) -> Floats:
        """The sum, compensated."""
        ragged, lo, hi = self._spans
        return segment_sums(ragged.values_padded(), lo, hi)

    def mean(self) -> Floats:
        """The arithmetic mean; does not overflow where the sum would."""
        ragged, lo, hi = self._spans
        return segment_means(ragged.values_padded(), lo, hi)

    def minimum(self) -> Floats:
        """The least value; NaN only where all are."""
        return self._reduce(np.fmin)

    def maximum(self) -> Floats:
        """The greatest value; NaN only where all are."""
        return self._reduce(np.fmax)

    def resets(self) -> Ints:
        """How often the value fell."""
        ragged, lo, hi = self._spans
        return _steps_within(ragged, lo, hi, ragged.values[1:] < ragged.values[:-1])

    def changes(self) -> Ints:
        """How often the value changed; NaN to NaN is no change."""
        ragged, lo, hi = self._spans
        before, after = ragged.values[:-1], ragged.values[1:]
        return _steps_within(ragged, lo, hi, (before != after) & ~(np.isnan(before) & np.isnan(after)))

    @np.errstate(all="ignore")
    def variance(self) -> Floats:
        """The population variance, by two passes: means, then squared distances."""
        ragged, lo, hi = self._spans
        padded = ragged.values_padded()
        mean = self.mean()
        if self.shape[1] == 1:  # Each sample is in one window at most: no gathering.
            own = np.repeat(mean[:, 0], np.diff(ragged.offsets))
            return segment_means(np.append((ragged.values - own) ** 2, np.nan), lo, hi)
        return _by_window(
            lo.shape,
            self.gathered(),
            lambda positions, window: (padded[positions] - mean.flat[window]) ** 2,
        )

    @np.errstate(all="ignore")
    def line(self, at_ms: Ints) -> tuple[Floats, Floats]:
        """The least-squares line through each window: slope per second, and its value at `at_ms` (int64[n,
        s]).

        A window of equal values has slope 0 and that value; equal infinities have no line (NaN).
        """
        ragged, lo, hi = self._spans
        count = hi - lo
        first = ragged.values_padded()[lo]
        # Sums are taken about the window's first sample and moved to `at_ms` afterwards: small numbers cancel
        # less.
        origin_ms = ragged.times_padded()[lo]
        if self.shape[1] == 1:
            lengths = np.diff(ragged.offsets)
            x = (ragged.times - np.repeat(origin_ms[:, 0], lengths)) / 1000
            y = ragged.values - np.repeat(first[:, 0], lengths)
            sums = [
                segment_sums(np.append(term, 0.0), lo, hi) for term in (x, y, x * y, x * x, (y != 0) * 1.0)
            ]
        else:
            times, values = ragged.times_padded(), ragged.values_padded()

            def centred(positions: Ints, window: Ints) -> tuple[Floats, Floats]:
                return (
                    (times[positions] - origin_ms.flat[window]) / 1000,
                    values[positions] - first.flat[window],
                )

            sums = _line_sums(lo.shape, self.gathered(), centred)
        sum_x, sum_y, sum_xy, sum_xx, differing = sums
        covariance = sum_xy - sum_x * sum_y / count
        variance = sum_xx - sum_x * sum_x / count
        slope = covariance / variance
        at = (at_ms - origin_ms) / 1000
        intercept = first + (sum_y / count - slope * sum_x / count) + slope * at
        constant = differing == 0
        flat_slope = np.where(np.isinf(first), np.nan, 0.0)
        flat_value = np.where(np.isinf(first), np.nan, first)
        return np.where(constant, flat_slope, slope), np.where(constant, flat_value, intercept)

    def _reduce(self, ufunc: Any) -> Floats:
        ragged, lo, hi = self._spans
        return segment_reduce(ufunc, ragged.values_padded(), lo, hi)


def _steps_within(ragged: Ragged, lo: Ints, hi: Ints, stepped: Mask) -> Ints:
    """Count, per window, the neighbours for which `stepped[m - 1]`; a window's first sample has none before
    it.
    """
    # The first sample of a series may count here, for it is never inside a window but as its first.
    total = np.zeros(len(ragged.values) + 1, np.int64)
    if len(stepped):
        np.cumsum(stepped, out=total[2:])
    return total[hi] - total[np.minimum(lo + 1, np.maximum(hi, lo))]


def segment_reduce(ufunc: Any, padded: Floats, lo: Ints, hi: Ints) -> Floats:
    """Reduce `padded[lo:hi]` for every pair at once; NaN where a pair is empty. `padded` has one value to
    spare.
    """
    out = np.full(lo.shape, np.nan)
    some = hi > lo
    if not some.any():
        return out
    pairs = np.empty(2 * int(some.sum()), np.int64)
    pairs[::2] = lo[some]
    pairs[1::2] = hi[some]
    out[some] = ufunc.reduceat(padded, pairs)[::2]
    return out


_GATHERED_MAX = 1 << 22
"""Samples gathered at a time where overlapping windows each need their own view of them."""


def gathered(lo: Ints, hi: Ints) -> Iterator[tuple[Ints, Ints, Ints]]:
    """All samples of all windows, some windows at a time.

    Yields the flat numbers of the windows (row-major), the positions of their samples one window after the
    other, and for each position which of these windows it belongs to.
    """
    lo, hi = lo.reshape(-1), hi.reshape(-1)
    counts = np.maximum(hi - lo, 0)
    total = np.cumsum(counts)
    first = 0
    while first < len(lo):
        used = int(total[first - 1]) if first else 0
        behind = max(first + 1, int(np.searchsorted(total, used + _GATHERED_MAX, side="right")))
        windows = np.arange(first, min(behind, len(lo)), dtype=np.int64)
        here = counts[windows]
        owner = np.repeat(np.arange(len(windows)), here)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(here) - here, here)
        yield windows, lo[windows][owner] + within, owner
        first = behind


_Pieces = Iterator[tuple[Ints, Ints, Ints]]
_Shape = tuple[int, ...]


def _by_window(shape: _Shape, pieces: _Pieces, term: Callable[[Ints, Ints], Floats]) -> Floats:
    """The mean over each window of a term of (positions, window numbers)."""
    out = np.zeros(math.prod(shape))
    for windows, positions, owner in pieces:
        ends = np.cumsum(np.bincount(owner, minlength=len(windows)))
        starts = np.concatenate(([0], ends[:-1]))
        out[windows] = segment_means(np.append(term(positions, windows[owner]), 0.0), starts, ends)
    return out.reshape(shape)


def _line_sums(
    shape: _Shape, pieces: _Pieces, centred: Callable[[Ints, Ints], tuple[Floats, Floats]]
) -> list[Floats]:
    out = [np.zeros(math.prod(shape)) for _ in range(5)]
    for windows, positions, owner in pieces:
        ends = np.cumsum(np.bincount(owner, minlength=len(windows)))
        starts = np.concatenate(([0], ends[:-1]))
        x, y = centred(positions, windows[owner])
        for total, term in zip(out, (x, y, x * y, x * x, (y != 0) * 1.0), strict=True):
            total[windows] = segment_sums(np.append(term, 0.0), starts, ends)
    return [total.reshape(shape) for total in out]
