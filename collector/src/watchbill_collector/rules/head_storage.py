"""The head as the query engine sees it: instant questions answered from the rings, without building sample
arrays.

Rules are judged at one moment, so nearly every question has one step. Those with more (subqueries) and
functions that need all samples go the general way, over the ragged samples of the range that was asked for.
"""

from collections.abc import Callable
from functools import cached_property

import numpy as np

from watchbill_collector.head import Ends, Head, Selection
from watchbill_collector.promql.budget import Budget
from watchbill_collector.promql.storage import Hints, SeriesSet
from watchbill_collector.promql.windows import Edges, Floats, Ints, LastTwo, Mask, Ragged, Windows
from watchbill_collector.series import Matcher, is_stale


class HeadStorage:
    """A `promql.storage.Storage` over the head. To be used under the head's lock, after `fold`."""

    def __init__(self, head: Head) -> None:
        self._head = head

    def select(
        self,
        matchers: tuple[Matcher, ...],
        start_ms: int,
        end_ms: int,
        budget: Budget,
        hints: Hints,  # noqa: ARG002  # The rings hold what rules ask for, and nothing to choose from.
    ) -> SeriesSet:
        """As `Storage.select`: what the rings hold of the series, which is all that the loaded rules ask
        for."""
        selection = self._head.select(matchers)
        budget.spend(len(selection))
        return HeadSet(selection, start_ms, end_ms, budget)


class HeadSet(SeriesSet):
    """A selection of the head."""

    def __init__(self, selection: Selection, start_ms: int, end_ms: int, budget: Budget) -> None:
        super().__init__(selection.frame)
        self._selection = selection
        self._start_ms = start_ms
        self._end_ms = end_ms
        self._budget = budget

    def ragged(self) -> Ragged:
        """All samples of the range, with stale markers. Computed once."""
        if self._ragged is None:
            times, values, offsets = self._selection.ragged(self._start_ms, self._end_ms)
            self._budget.spend(len(times))
            self._ragged = Ragged(times, values, offsets)
        return self._ragged

    def instant(self, times_ms: Ints, lookback_ms: int) -> tuple[Floats, Mask]:
        """As the base class, from the newest cells."""
        if len(times_ms) != 1:
            return super().instant(times_ms, lookback_ms)
        newest = self._selection.newest(int(times_ms[0]), lookback_ms)
        return newest.values[:, None], newest.present[:, None]

    def instant_times(self, times_ms: Ints, lookback_ms: int) -> Ints:
        """As the base class, from the times of the clocks."""
        if len(times_ms) != 1:
            return super().instant_times(times_ms, lookback_ms)
        return self._selection.newest(int(times_ms[0]), lookback_ms).times_ms[:, None]

    def windows(self, times_ms: Ints, range_ms: int) -> Windows:
        """As the base class, from the edges of the rings."""
        if len(times_ms) != 1:
            return super().windows(times_ms, range_ms)
        return HeadWindows(self._selection, times_ms, range_ms, self._budget)


class HeadWindows(Windows):
    """The windows of a selection at one moment."""

    def __init__(self, selection: Selection, times_ms: Ints, range_ms: int, budget: Budget) -> None:
        super().__init__(self._read, len(selection), times_ms, range_ms)
        self._selection = selection
        self._budget = budget
        self._end_ms = int(times_ms[0])

    def _read(self, which: Ints | None = None) -> Ragged:
        times, values, offsets = self._selection.ragged(self._end_ms - self.range_ms, self._end_ms, which)
        self._budget.spend(len(times))
        ragged = Ragged(times, values, offsets)
        return ragged.select(~is_stale(values))

    @cached_property
    def _ends(self) -> Ends:
        return self._selection.ends(self._end_ms, self.range_ms)

    @cached_property
    def _odd(self) -> Windows | None:
        """The windows of the odd rows alone, in full."""
        odd = self._ends.odd
        return self._in_full(odd) if len(odd) else None

    def _in_full(self, which: Ints) -> Windows:
        return Windows(lambda: self._read(which), len(which), self.times_ms, self.range_ms)

    def count(self) -> Ints:
        """As the base class."""
        counts = self._ends.count
        if self._odd is not None:
            counts[self._ends.odd] = self._odd.count()[:, 0]
        return counts[:, None]

    def edges(self) -> Edges:
        """As the base class."""
        ends = self._ends
        if self._odd is not None:
            odd = self._odd.edges()
            ends.count[ends.odd] = odd.samples[:, 0]
            ends.first_ms[ends.odd], ends.first[ends.odd] = odd.first_ms[:, 0], odd.first[:, 0]
            ends.last_ms[ends.odd], ends.last[ends.odd] = odd.last_ms[:, 0], odd.last[:, 0]
        return Edges(
            ends.count[:, None],
            ends.first_ms[:, None],
            ends.first[:, None],
            ends.last_ms[:, None],
            ends.last[:, None],
        )

    def last_two(self) -> LastTwo:
        """As the base class."""
        before_ms, before = self._selection.before_last(self._end_ms)
        edges = self.edges()
        found = LastTwo(edges.samples, before_ms[:, None], before[:, None], edges.last_ms, edges.last)
        if self._odd is not None:
            odd, at = self._odd.last_two(), self._ends.odd
            found.before_ms[at], found.before[at] = odd.before_ms, odd.before
        return found

    def drops(self) -> Floats:
        """As the base class: nothing but for the rows that had a reset."""
        ends = self._ends
        found = np.zeros(self.shape)
        which = np.union1d(ends.odd, ends.fell)
        if len(which):
            found[which] = self._in_full(which).drops()
        return found

    def sum(self) -> Floats:
        """As the base class."""
        values, _ = self._selection.matrix(self._end_ms, self.range_ms, 0.0)
        with np.errstate(invalid="ignore", over="ignore"):
            return self._mended(values.sum(axis=1), lambda windows: windows.sum())

    def mean(self) -> Floats:
        """As the base class."""
        values, count = self._selection.matrix(self._end_ms, self.range_ms, 0.0)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            means = values.sum(axis=1) / count
        # A sum that overflows, or has infinities in it, is left to the careful way.
        return self._mended(means, lambda windows: windows.mean(), ~np.isfinite(means) & (count > 0))

    def minimum(self) -> Floats:
        """As the base class."""
        values, _ = self._selection.matrix(self._end_ms, self.range_ms, np.nan)
        return self._mended(_reduced(np.fmin, values), lambda windows: windows.minimum())

    def maximum(self) -> Floats:
        """As the base class."""
        values, _ = self._selection.matrix(self._end_ms, self.range_ms, np.nan)
        return self._mended(_reduced(np.fmax, values), lambda windows: windows.maximum())

    def line(self, at_ms: Ints) -> tuple[Floats, Floats]:
        """As the base class, from the windows laid out as a matrix."""
        ends, end_ms = self._ends, self._end_ms
        first_ms, first = ends.first_ms.copy(), ends.first.copy()
        y, count = self._selection.matrix(end_ms, self.range_ms, first)
        with np.errstate(all="ignore"):
            y -= first[:, None]
            sums = self._selection.sums(end_ms, self.range_ms, y)
            slope = (sums.xy - sums.x * sums.y / count) / (sums.xx - sums.x * sums.x / count)
            at = (at_ms[:, 0] - first_ms) / 1000
            value = first + (sums.y / count - slope * sums.x / count) + slope * at
            constant = ~(y != 0).any(axis=1)
            infinite = np.where(np.isinf(first), np.nan, 0.0)
            slope = np.where(constant, infinite, slope)
            value = np.where(constant, first + infinite, value)
        if self._odd is not None:
            odd = ends.odd
            slopes, values = self._odd.line(at_ms[odd])
            slope[odd], value[odd] = slopes[:, 0], values[:, 0]
        return slope[:, None], value[:, None]

    def _mended(self, values: Floats, ask: Callable[[Windows], Floats], more: Mask | None = None) -> Floats:
        """`values`, with the odd rows (and `more`) answered from their samples in full."""
        which = self._ends.odd
        if more is not None and more.any():
            which = np.union1d(which, np.flatnonzero(more))
        if len(which):
            values[which] = ask(self._in_full(which))[:, 0]
        return values[:, None]


def _reduced(reduce: np.ufunc, values: Floats) -> Floats:
    """The least or greatest of each row; NaN where there is none."""
    if not values.shape[1]:
        return np.full(len(values), np.nan)
    reduced: Floats = reduce.reduce(values, axis=1)
    return reduced
