"""Aggregations over series: `sum by (...)` and its kin, at all steps at once.

Groups come from the labels alone and are cached on the frame. Rows are brought into the order of their groups
once, and `reduceat` along them does the rest; what is absent is made neutral first.
"""

import math
from typing import Any

import numpy as np

from watchbill_collector.labels import METRIC_NAME, LabelFrame
from watchbill_collector.promql import ast
from watchbill_collector.promql.errors import ExecutionFailed, NotSupported
from watchbill_collector.promql.frames import Grouping, grouped, only, without
from watchbill_collector.promql.frames import grouping as group_rows
from watchbill_collector.promql.nodes import Node, Run, all_invariant
from watchbill_collector.promql.quantiles import best_in_segments, segment_quantiles
from watchbill_collector.promql.sums import group_means, group_sums
from watchbill_collector.promql.text import float_text, general_text, quoted, valid_label_name
from watchbill_collector.promql.values import Grid, Text, Value, Vector, any_present
from watchbill_collector.promql.windows import Floats, Mask

_INT64_MAX = 9223372036854774784.0
_INT64_MIN = -9223372036854775808.0


def aggregate_node(expr: ast.Aggregate, inner: Node, param: Node | None) -> Node:
    """The node of an aggregation; raises NotSupported."""
    if expr.op in _REDUCERS:
        return ReduceNode(expr, inner)
    assert param is not None
    if expr.op == "quantile":
        return QuantileNode(expr, inner, param)
    if expr.op in ("topk", "bottomk"):
        return TopNode(expr, inner, param)
    if expr.op == "count_values":
        return CountValuesNode(expr, inner, param)
    raise NotSupported(f"the aggregation {expr.op!r}", str(expr))


class _AggregateNode(Node):
    """What all aggregations share."""

    def __init__(self, expr: ast.Aggregate, inner: Node, param: Node | None = None) -> None:
        super().__init__(expr)
        self.aggregate = expr
        self._inner, self._param = inner, param
        self._names = tuple(sorted(set(expr.labels)))
        self._without = expr.without
        self.invariant = all_invariant((inner, param))

    def _groups(self, vector: Vector) -> Grouping:
        return grouped(vector.labels, self._names, exclude=self._without)

    def _drop(self, vector: Vector, groups: Grouping) -> bool | Mask:
        """A group's name goes when any of its samples' would; it only has one when grouped by it."""
        if not set(groups.labels.names) & {METRIC_NAME, "__type__", "__unit__"}:
            return False
        if isinstance(vector.drop_name, bool):
            return vector.drop_name
        # Rows without a sample have no say.
        drops = vector.drop_name & any_present(vector.present)
        return np.logical_or.reduceat(drops[groups.order], groups.starts)


def _sum(values: Floats, present: Mask, groups: Grouping) -> Floats:
    return group_sums(_neutral(values, present, 0.0)[groups.order], groups.starts)


def _avg(values: Floats, present: Mask, groups: Grouping) -> Floats:
    counts = _count(values, present, groups)
    return group_means(_neutral(values, present, 0.0)[groups.order], groups.starts, counts)


def _min(values: Floats, present: Mask, groups: Grouping) -> Floats:
    out: Floats = np.fmin.reduceat(_neutral(values, present, np.nan)[groups.order], groups.starts, axis=0)
    return out


def _max(values: Floats, present: Mask, groups: Grouping) -> Floats:
    out: Floats = np.fmax.reduceat(_neutral(values, present, np.nan)[groups.order], groups.starts, axis=0)
    return out


def _count(values: Floats, present: Mask, groups: Grouping) -> Floats:  # noqa: ARG001
    return np.add.reduceat(present[groups.order], groups.starts, axis=0, dtype=np.float64)


def _group(values: Floats, present: Mask, groups: Grouping) -> Floats:  # noqa: ARG001
    return np.ones((len(groups), present.shape[1]))


def _stdvar(values: Floats, present: Mask, groups: Grouping) -> Floats:
    means = _avg(values, present, groups)
    delta = values - means[groups.number]
    # A group that holds an infinity has no variance.
    squares = np.where(np.isfinite(values), delta * delta, np.nan)
    total = _sum(squares, present, groups)
    return total / _count(values, present, groups)


def _stddev(values: Floats, present: Mask, groups: Grouping) -> Floats:
    return np.sqrt(_stdvar(values, present, groups))


def _neutral(values: Floats, present: Mask, neutral: float) -> Floats:
    return values if present.all() else np.where(present, values, neutral)


_REDUCERS: dict[str, Any] = {
    "sum": _sum,
    "avg": _avg,
    "min": _min,
    "max": _max,
    "count": _count,
    "group": _group,
    "stddev": _stddev,
    "stdvar": _stdvar,
}


class ReduceNode(_AggregateNode):
    """sum, avg, min, max, count, group, stddev, stdvar."""

    def __init__(self, expr: ast.Aggregate, inner: Node) -> None:
        super().__init__(expr, inner)
        self._reduce = _REDUCERS[expr.op]

    def _evaluate(self, run: Run, grid: Grid) -> Value:
        vector = self._inner.vector(run, grid)
        if not len(vector):
            return Vector.empty(grid.count)
        groups = self._groups(vector)
        values = self._reduce(vector.values, vector.present, groups)
        present = np.logical_or.reduceat(vector.present[groups.order], groups.starts, axis=0)
        return Vector(groups.labels, values, present, self._drop(vector, groups))


class QuantileNode(_AggregateNode):
    """quantile(q, ...)."""

    def _evaluate(self, run: Run, grid: Grid) -> Value:
        assert self._param is not None
        q = self._param.scalar(run, grid)
        vector = self._inner.vector(run, grid)
        warn_bad_quantiles(run, q, ast.place(self.aggregate, 0))
        if not len(vector):
            return Vector.empty(grid.count)
        groups = self._groups(vector)
        rows, steps = np.nonzero(vector.present)
        segment = groups.number[rows] * grid.count + steps
        values = segment_quantiles(vector.values[rows, steps], segment, np.tile(q, len(groups)))
        present = np.logical_or.reduceat(vector.present[groups.order], groups.starts, axis=0)
        shaped = values.reshape(len(groups), grid.count)
        return Vector(groups.labels, shaped, present, self._drop(vector, groups))


def warn_bad_quantiles(run: Run, q: Floats, at: str) -> None:
    """Warn of quantiles outside 0 to 1: of the greatest, of the least, and of NaN."""
    known = q[~np.isnan(q)]
    bad = [math.nan] if len(known) < len(q) else []
    if len(known):
        bad += [float(known.max())] if known.max() > 1 else []
        bad += [float(known.min())] if known.min() < 0 else []
    for value in bad:
        run.notes.warn(f"quantile value should be between 0 and 1, got {general_text(value)}", at)


class TopNode(_AggregateNode):
    """topk(k, ...) and bottomk(k, ...): whole series stay, at the steps where they are among the best."""

    def _evaluate(self, run: Run, grid: Grid) -> Value:
        assert self._param is not None
        assert isinstance(self.expr, ast.Aggregate)
        k = self._param.scalar(run, grid)
        vector = self._inner.vector(run, grid)
        if not np.fmax.reduce(k, initial=-np.inf) >= 1 and not np.isnan(k).any():
            return Vector.empty(grid.count)
        if np.isnan(k).any():
            raise ExecutionFailed("Parameter value is NaN", str(self.expr))
        if k.min() <= _INT64_MIN:
            raise ExecutionFailed(f"Scalar value {general_text(k.min())} underflows int64", str(self.expr))
        if k.max() >= _INT64_MAX:
            raise ExecutionFailed(f"Scalar value {general_text(k.max())} overflows int64", str(self.expr))
        groups = self._groups(vector)
        rows, steps = np.nonzero(vector.present)
        largest = self.expr.op == "topk"
        segment = steps * max(1, len(groups)) + groups.number[rows]
        order, rank = best_in_segments(vector.values[rows, steps], segment, largest=largest)
        chosen = order[rank < np.trunc(k)[steps[order]]]
        if run.instant and grid.count == 1:
            best = vector.take(rows[chosen])
            return Vector(best.labels, best.values, best.present, best.drop_name, ordered=True)
        present = np.zeros(vector.present.shape, np.bool_)
        present[rows[chosen], steps[chosen]] = True
        return Vector(vector.labels, vector.values, present, vector.drop_name)


class CountValuesNode(_AggregateNode):
    """count_values("label", ...): a series for each value, counting how many have it."""

    def _evaluate(self, run: Run, grid: Grid) -> Value:
        assert self._param is not None
        param = self._param.evaluate(run, grid)
        assert isinstance(param, Text)
        label = param.value
        if not valid_label_name(label):
            raise ExecutionFailed(f"invalid label name {quoted(label)}", str(self.expr))
        vector = self._inner.vector(run, grid)
        rows, steps = np.nonzero(vector.present)
        if not len(rows):
            return Vector.empty(grid.count)
        # Sorting, numbering and pairing take some more than the matrix itself.
        run.budget.room(2 * len(rows), str(self.expr))
        bits, which = np.unique(vector.values[rows, steps].view(np.uint64), return_inverse=True)
        run.budget.check(str(self.expr))
        codes = np.array(
            [run.budget.code(float_text(value, plain=True)) for value in bits.view(np.float64).tolist()],
            np.int32,
        )[which.reshape(-1)]
        pairs, pair = np.unique(np.stack((rows, codes), axis=1), axis=0, return_inverse=True)
        frame = vector.labels.take(pairs[:, 0]).with_column(label, pairs[:, 1].astype(np.int32))
        groups = self._value_groups(frame, label)
        run.budget.room(len(groups) * grid.count, str(self.expr))
        counts = np.zeros((len(groups), grid.count))
        np.add.at(counts, (groups.number[pair.reshape(-1)], steps), 1.0)
        return Vector(groups.labels, counts, counts > 0)

    def _value_groups(self, frame: LabelFrame, label: str) -> Grouping:
        if self._without:
            return group_rows(frame, without(frame, (*self._names, METRIC_NAME)))
        return group_rows(frame, only(frame, (*self._names, label)))
