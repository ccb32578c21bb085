"""histogram_quantile and histogram_fraction over classic histograms: series of cumulative buckets with an
`le` label.

Series that differ only in `le` are one histogram. The layout (which series is which bucket of which
histogram) comes from the labels and is worked out once per frame; the counts are then one array [bucket,
histogram, step], bounds ascending, and the work is one pass over the buckets for all histograms and steps at
once.
"""

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from watchbill_collector.labels import METRIC_NAME, STRINGS, LabelFrame
from watchbill_collector.promql import ast
from watchbill_collector.promql.aggregates import warn_bad_quantiles
from watchbill_collector.promql.frames import Grouping, grouping, without
from watchbill_collector.promql.nodes import Node, Run, all_invariant
from watchbill_collector.promql.text import general_text, quoted
from watchbill_collector.promql.values import Grid, Value, Vector
from watchbill_collector.promql.windows import Floats, Ints, Mask

BUCKET = "le"
_SMALL_DELTA = 1e-12
"""Counts that differ relatively by less are equal: bucket counts are sums of rates."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Which row is which bucket. `slot[r]` is the bucket of row `rows[r]` within its histogram, bounds
    ascending.
    """

    rows: Ints
    slot: Ints
    histogram: Ints
    bounds: Floats  # (buckets, histograms); NaN where a histogram has fewer
    labels: LabelFrame
    malformed: tuple[tuple[int, str, str], ...]  # row, metric name, the bad bound


def layout(frame: LabelFrame) -> Layout:
    """The layout of a frame, worked out once."""
    return frame.derived("buckets", lambda: _layout(frame))


def _layout(frame: LabelFrame) -> Layout:
    codes, which = np.unique(frame.column(BUCKET), return_inverse=True)
    parsed = np.array([_bound(STRINGS.text(code)) for code in codes.tolist()])
    bound = parsed[which.reshape(-1)] if len(frame) else np.zeros(0)
    rows = np.flatnonzero(~np.isnan(bound))
    good = without(frame.take(rows), (BUCKET,))
    groups: Grouping = grouping(good, good)
    number, own = groups.number, bound[rows]
    order = np.lexsort((own, number))
    ordered_number, ordered = number[order], own[order]
    same = (ordered_number[1:] == ordered_number[:-1]) & (ordered[1:] == ordered[:-1])
    fresh = np.concatenate(([True], ~same)) if len(order) else np.zeros(0, np.bool_)
    running = np.cumsum(fresh) - 1
    firsts = np.searchsorted(ordered_number, np.arange(len(groups)))
    slot_ordered = running - (running[firsts][ordered_number] if len(order) else running)
    slot = np.empty(len(order), np.int64)
    slot[order] = slot_ordered
    bounds = np.full((int(slot.max(initial=-1)) + 1, len(groups)), np.nan)
    bounds[slot, number] = own
    malformed = []
    for row in np.flatnonzero(np.isnan(bound)).tolist():
        labels = frame.take(np.array([row])).dicts()[0]
        malformed.append((row, labels.get(METRIC_NAME, ""), labels.get(BUCKET, "")))
    return Layout(rows, slot, number, bounds, groups.labels, tuple(malformed))


def _bound(text: str) -> float:
    """A bucket's upper bound as Go reads it; NaN if it is none."""
    if "_" in text or text != text.strip():
        return np.nan
    try:
        return float(text)
    except ValueError:
        return np.nan


class _BucketsNode(Node):
    """What both functions share: the counts of all buckets."""

    def __init__(self, expr: ast.Call, args: tuple[Node, ...]) -> None:
        super().__init__(expr)
        self.call = expr
        self._scalars, self._vector = args[:-1], args[-1]
        self.invariant = all_invariant(args)

    def _evaluate(self, run: Run, grid: Grid) -> Value:
        scalars = [scalar.scalar(run, grid) for scalar in self._scalars]
        vector = self._vector.vector(run, grid)
        self._check(run, scalars)
        found = layout(vector.labels)
        for row, name, bound in found.malformed:
            if vector.present[row].any():
                of = f" for metric name {quoted(name)}" if name else ""
                text = f'bucket label "le" is missing or has a malformed value of {quoted(bound)}{of}'
                run.notes.warn(text, ast.place(self.call, len(self._scalars)))
        if not len(found.labels):
            return Vector.empty(grid.count)
        run.budget.room(found.bounds.size * grid.count, str(self.expr))
        counts = np.zeros((*found.bounds.shape, grid.count))
        there = np.zeros(counts.shape, np.bool_)
        values, present = vector.values[found.rows], vector.present[found.rows]
        # Buckets with equal bounds (`1` and `1.0`) add up.
        np.add.at(counts, (found.slot, found.histogram), np.where(present, values, 0.0))
        np.logical_or.at(there, (found.slot, found.histogram), present)
        out = self._answer(run, grid, found, counts, there, scalars)
        return Vector(found.labels, out, np.asarray(there.any(axis=0)), drop_name=True)

    def _check(self, run: Run, scalars: list[Floats]) -> None:
        """Warn of bad arguments."""

    @abstractmethod
    def _answer(
        self, run: Run, grid: Grid, found: Layout, counts: Floats, there: Mask, scalars: list[Floats]
    ) -> Floats:
        """The value of each histogram at each step, [histograms, steps]; `counts[slot, histogram, step]`."""


class HistogramQuantileNode(_BucketsNode):
    """histogram_quantile(q, buckets)."""

    def __init__(self, expr: ast.Call, q: Node, buckets: Node) -> None:
        super().__init__(expr, (q, buckets))

    def _check(self, run: Run, scalars: list[Floats]) -> None:
        warn_bad_quantiles(run, scalars[0], ast.place(self.call, 0))

    def _answer(
        self, run: Run, grid: Grid, found: Layout, counts: Floats, there: Mask, scalars: list[Floats]
    ) -> Floats:
        q = scalars[0]
        forced = _make_monotonic(found.bounds, counts, there)
        infinite = _has_infinite_bucket(found.bounds, there)
        self._inform(run, grid, found, forced, infinite & (q >= 0) & (q <= 1))
        out = _quantiles(found.bounds, counts, there, q)
        out = np.where(infinite & (there.sum(axis=0) >= 2), out, np.nan)
        out = np.where(q < 0, -np.inf, np.where(q > 1, np.inf, out))
        return np.where(np.isnan(q), np.nan, out)

    def _inform(self, run: Run, grid: Grid, found: Layout, forced: "Forced", answered: Mask) -> None:
        """Say which metrics' counts had to be raised: one sentence a metric, with how much and when."""
        where = forced.anywhere & answered
        rows = np.flatnonzero(where.any(axis=1)).tolist()
        of_metric: dict[str, list[int]] = {}
        for row, labels in zip(rows, found.labels.take(np.array(rows, np.int64)).dicts(), strict=True):
            of_metric.setdefault(labels.get(METRIC_NAME, ""), []).append(row)
        for name, own in of_metric.items():
            here = where[own]
            times = grid.times_ms()[here.any(axis=0)]
            of = f" for metric name {quoted(name)}" if name else ""
            run.notes.inform(
                "input to histogram_quantile needed to be fixed for monotonicity (see "
                f"https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile){of}, from "
                f"buckets {general_text(forced.lowest[own][here].min())} to "
                f"{general_text(forced.highest[own][here].max())}, with a max diff of "
                f"{forced.most[own][here].max():.2g}, over {int(here.sum())} samples from "
                f"{_second(times[0])} to {_second(times[-1])}",
                ast.place(self.call, 1),
            )


def _second(time_ms: int) -> str:
    return f"{np.datetime64(int(time_ms) // 1000, 's')}Z"


@dataclass(frozen=True, slots=True, eq=False)
class Forced:
    """Where counts were raised, [histograms, steps]: from which bucket to which, and the most that was added."""

    anywhere: Mask
    lowest: Floats
    highest: Floats
    most: Floats


def _has_infinite_bucket(bounds: Floats, there: Mask) -> Mask:
    return np.asarray((there & np.isposinf(bounds)[:, :, None]).any(axis=0))


def _make_monotonic(bounds: Floats, counts: Floats, there: Mask) -> Forced:
    """Raise counts that fall below an earlier bucket's, in place; says where one really fell."""
    shape = counts.shape[1:]
    accepted, most = np.zeros(shape), np.zeros(shape)
    begun, forced = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    lowest, highest = np.full(shape, np.inf), np.full(shape, -np.inf)
    for bound, count, here in zip(bounds, counts, there, strict=True):
        close = _almost_equal(accepted, count)
        falls = count < accepted
        correct = here & begun & (close | falls)
        fell = correct & falls & ~close
        if fell.any():
            forced |= fell
            lowest = np.where(fell, np.minimum(lowest, bound[:, None]), lowest)
            highest = np.where(fell, np.maximum(highest, bound[:, None]), highest)
            most = np.where(fell, np.maximum(most, accepted - count), most)
        count[correct] = accepted[correct]
        accepted = np.where(here & ~correct, count, accepted)
        begun |= here
    return Forced(forced, lowest, highest, most)


def _almost_equal(first: Floats, second: Floats) -> Mask:
    """Equal within a relative _SMALL_DELTA of their sum, as Prometheus compares them."""
    total = np.abs(first) + np.abs(second)
    difference = np.abs(first - second)
    least = np.finfo(np.float64).tiny
    tiny = (first == 0) | (second == 0) | (total < least)
    near = np.where(tiny, difference < _SMALL_DELTA * least, difference / total < _SMALL_DELTA)
    out: Mask = (first == second) | near | (np.isnan(first) & np.isnan(second))
    return out


def _quantiles(bounds: Floats, counts: Floats, there: Mask, q: Floats) -> Floats:
    """Linear interpolation in the bucket that holds the rank; of the highest bucket, its lower bound."""
    steps = np.arange(len(counts))[:, None, None]
    last = np.where(there, steps, -1).max(axis=0)
    observations = np.take_along_axis(counts, np.maximum(last, 0)[None], axis=0)[0]
    rank = q * observations
    out = np.full(rank.shape, np.nan)
    found = np.zeros(rank.shape, np.bool_)
    below_bound = np.zeros(rank.shape)
    below_count = np.zeros(rank.shape)
    first = np.ones(rank.shape, np.bool_)
    for position, (bound, count, here) in enumerate(zip(bounds, counts, there, strict=True)):
        top = np.broadcast_to(bound[:, None], rank.shape)
        hit = here & ~found & (count >= rank) & (position < last)
        inside = below_bound + (top - below_bound) * ((rank - below_count) / (count - below_count))
        # The lowest bucket starts at 0, unless it ends at or below it.
        inside = np.where(first & (top <= 0), top, inside)
        out = np.where(hit, inside, out)
        found |= hit
        # In the highest bucket there is nothing to interpolate with.
        highest = here & ~found & (position == last)
        out = np.where(highest, below_bound, out)
        below_bound = np.where(here, top, below_bound)
        below_count = np.where(here, count, below_count)
        first &= ~here
    return np.where(observations == 0, np.nan, out)


class HistogramFractionNode(_BucketsNode):
    """histogram_fraction(lower, upper, buckets): the share of observations between two values."""

    def __init__(self, expr: ast.Call, lower: Node, upper: Node, buckets: Node) -> None:
        super().__init__(expr, (lower, upper, buckets))

    def _answer(
        self,
        run: Run,  # noqa: ARG002  # There is nothing to say.
        grid: Grid,  # noqa: ARG002
        found: Layout,
        counts: Floats,
        there: Mask,
        scalars: list[Floats],
    ) -> Floats:
        lower, upper = scalars
        steps = np.arange(len(counts))[:, None, None]
        last = np.where(there, steps, -1).max(axis=0)
        total = np.take_along_axis(counts, np.maximum(last, 0)[None], axis=0)[0]
        out = (
            _rank_of(found.bounds, counts, there, upper) - _rank_of(found.bounds, counts, there, lower)
        ) / total
        out = np.where(lower >= upper, 0.0, out)
        fine = _has_infinite_bucket(found.bounds, there) & (total != 0) & ~np.isnan(lower) & ~np.isnan(upper)
        return np.where(fine, out, np.nan)


def _rank_of(bounds: Floats, counts: Floats, there: Mask, value: Floats) -> Floats:
    """How many observations are at or below a value, interpolated."""
    shape = counts.shape[1:]
    out = np.full(shape, np.nan)
    rank = np.zeros(shape)
    bottom = np.zeros(shape)
    first = np.ones(shape, np.bool_)
    for bound, count, here in zip(bounds, counts, there, strict=True):
        top = np.broadcast_to(bound[:, None], shape)
        bottom = np.where(first & (top <= 0), -np.inf, bottom)
        inside = np.where(
            np.isneginf(bottom), count, rank + (count - rank) * (value - bottom) / (top - bottom)
        )
        out = np.where(here & np.isnan(out) & (bottom >= value), rank, out)
        out = np.where(here & np.isnan(out) & (bottom < value) & (top > value), inside, out)
        rank = np.where(here, count, rank)
        bottom = np.where(here, top, bottom)
        first &= ~here
    return np.where(np.isnan(out) | (out > rank), rank, out)
