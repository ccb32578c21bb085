"""Function calls: which node each function becomes, and the functions of instant vectors and scalars."""

from collections.abc import Callable
from typing import Any

import numpy as np

from watchbill_collector.labels import METRIC_NAME, STRINGS, LabelFrame
from watchbill_collector.matching import MatchOp
from watchbill_collector.promql import ast
from watchbill_collector.promql.aggregates import warn_bad_quantiles
from watchbill_collector.promql.dates import DATE_FUNCTIONS
from watchbill_collector.promql.errors import NotSupported
from watchbill_collector.promql.histograms import HistogramFractionNode, HistogramQuantileNode
from watchbill_collector.promql.labelling import LabelJoinNode, LabelReplaceNode
from watchbill_collector.promql.nodes import Node, RangeSource, Run, SelectorNode, all_invariant
from watchbill_collector.promql.ranging import RANGE_FUNCTIONS, Arguments, RangeFunction
from watchbill_collector.promql.sorting import SortByLabelNode, SortNode
from watchbill_collector.promql.text import quoted
from watchbill_collector.promql.values import UNLABELLED, Grid, Scalar, Value, Vector
from watchbill_collector.promql.windows import Floats, Mask, Windows

_COUNTER_SUFFIXES = ("_total", "_sum", "_count", "_bucket")

Arg = Node | RangeSource


class RangeCallNode(Node):
    """A function of a range vector."""

    def __init__(self, expr: ast.Call, function: RangeFunction, args: list[Arg]) -> None:
        super().__init__(expr)
        self.call = expr
        self._function = function
        self._name = expr.function
        source = args[function.range_arg]
        assert isinstance(source, RangeSource)
        self._source = source
        self._scalars = [arg for arg in args if isinstance(arg, Node)]
        # Predictions start from the time of evaluation, which moves even where the window stands still.
        self.invariant = all_invariant(args) and expr.function != "predict_linear"

    def _evaluate(self, run: Run, grid: Grid) -> Value:
        scalars = tuple(scalar.scalar(run, grid) for scalar in self._scalars)
        found = self._source.ranges(run, grid, self._name)
        values, present = self._in_blocks(run, found.windows, grid, scalars)
        if self._name == "quantile_over_time" and present.any():
            warn_bad_quantiles(run, scalars[0], ast.place(self.call, 0))
        if self._function.counter:
            _inform_of_gauges(run, found.labels, present, ast.place(self.call, 0))
        drop = found.drop_name if self._function.keeps_name else True
        return Vector(found.labels, values, present, drop)

    def _in_blocks(
        self, run: Run, windows: Windows, grid: Grid, scalars: tuple[Floats, ...]
    ) -> tuple[Floats, Mask]:
        """Evaluate a range query some series and steps at a time: temporary arrays stay small, the deadline is seen.

        An instant query is left whole: a storage may answer it without touching samples.
        """
        times = grid.times_ms()
        windows.check = lambda: run.budget.check(str(self.expr))
        if grid.count == 1:
            return self._function.evaluate(Arguments(windows, times, scalars))
        block = max(1, _BLOCK_POINTS // grid.count)
        values = np.empty(windows.shape)
        present = np.empty(windows.shape, np.bool_)
        every = (0, grid.count)
        blocks = [
            ((first, min(first + block, windows.rows)), every) for first in range(0, windows.rows, block)
        ]
        while blocks:
            rows, steps = blocks.pop()
            run.budget.check(str(self.expr))
            part = windows.between(rows, steps)
            if part.rows * len(part.times_ms) > 1 and int(part.count().sum()) > _BLOCK_SAMPLES:
                blocks += _halves(rows, steps)
                continue
            own = tuple(scalar[slice(*steps)] for scalar in scalars)
            here = (slice(*rows), slice(*steps))
            values[here], present[here] = self._function.evaluate(Arguments(part, times[slice(*steps)], own))
        return values, present


_Bounds = tuple[int, int]


def _halves(rows: _Bounds, steps: _Bounds) -> list[tuple[_Bounds, _Bounds]]:
    """A block in two: half of its series each, or half of the steps of a single one."""
    if rows[1] - rows[0] > 1:
        middle = sum(rows) // 2
        return [((rows[0], middle), steps), ((middle, rows[1]), steps)]
    middle = sum(steps) // 2
    return [(rows, (steps[0], middle)), (rows, (middle, steps[1]))]


_BLOCK_POINTS = 1 << 17
"""Points evaluated at a time in range queries: a megabyte an array."""
_BLOCK_SAMPLES = 1 << 24
"""Samples in all their windows, evaluated at a time: tens of milliseconds."""


def _inform_of_gauges(run: Run, frame: LabelFrame, present: Mask, at: str) -> None:
    """Say which metrics under rate or increase do not look like counters."""
    suspicious = frame.derived("not counters", lambda: _not_counters(frame))
    if suspicious is None:
        return
    rows = suspicious >= 0
    rows &= present.any(axis=1)
    for row in np.unique(suspicious[rows]).tolist():
        one = frame.take(np.array([row])).dicts()[0]
        name, kind = one.get(METRIC_NAME, ""), one.get("__type__")
        if kind is None:
            run.notes.inform(
                "metric might not be a counter, name does not end in _total/_sum/_count/_bucket: "
                f"{quoted(name)}",
                at,
            )
        else:
            run.notes.inform(
                'metric might not be a counter, __type__ label is not set to "counter" or "histogram", '
                f"got {quoted(kind)}: {quoted(name)}",
                at,
            )


def _not_counters(frame: LabelFrame) -> Any:
    """For each row the first row of its name and type if these are no counter's, else -1; None if all are
    counters.
    """
    names, kinds = frame.column(METRIC_NAME), frame.column("__type__")
    _, first, which = np.unique(names.astype(np.int64) << 32 | kinds, return_index=True, return_inverse=True)
    verdicts = []
    for row in first.tolist():
        name, kind = STRINGS.text(int(names[row])), STRINGS.text(int(kinds[row]))
        fine = kind in ("counter", "histogram") if kind else name.endswith(_COUNTER_SUFFIXES)
        fine = fine or not name
        verdicts.append(-1 if fine else row)
    if max(verdicts, default=-1) < 0:
        return None
    return np.array(verdicts, np.int64)[which.reshape(-1)]


class ElementwiseNode(Node):
    """A function of each value alone, with scalars: abs, clamp, round, sin, ..."""

    def __init__(self, expr: ast.Call, function: Callable[..., Floats], args: list[Node]) -> None:
        super().__init__(expr)
        self._function = function
        self._vector, self._scalars = args[0], args[1:]
        self.invariant = all_invariant(args)

    def _evaluate(self, run: Run, grid: Grid) -> Value:
        vector = self._vector.vector(run, grid)
        scalars = [scalar.scalar(run, grid) for scalar in self._scalars]
        return Vector(vector.labels, self._function(vector.values, *scalars), vector.present, drop_name=True)


class ClampNode(ElementwiseNode):
    """clamp(v, min, max): nothing where max is below min."""

    def _evaluate(self, run: Run, grid: Grid) -> Value:
        low, high = (scalar.scalar(run, grid) for scalar in self._scalars)
        out = super()._evaluate(run, grid)
        assert isinstance(out, Vector)
        return Vector(out.labels, out.values, out.present & ~(high < low), out.drop_name)


def _round(values: Floats, nearest: Floats | float = 1.0) -> Floats:
    # The inverse causes fewer rounding errors than a division; ties go up.
    inverse = 1.0 / nearest
    out: Floats = np.floor(values * inverse + 0.5) / inverse
    return out


def _least(first: Floats, second: Floats) -> Floats:
    # As Go's math.Min: -Inf is less than anything, NaN too.
    out: Floats = np.where(np.isneginf(first) | np.isneginf(second), -np.inf, np.minimum(first, second))
    return out


def _greatest(first: Floats, second: Floats) -> Floats:
    # As Go's math.Max: +Inf is more than anything, NaN too.
    out: Floats = np.where(np.isposinf(first) | np.isposinf(second), np.inf, np.maximum(first, second))
    return out


_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "abs": np.abs,
    "acos": np.arccos,
    "acosh": np.arccosh,
    "asin": np.arcsin,
    "asinh": np.arcsinh,
    "atan": np.arctan,
    "atanh": np.arctanh,
    "ceil": np.ceil,
    "clamp_max": _least,
    "clamp_min": _greatest,
    "cos": np.cos,
    "cosh": np.cosh,
    "deg": lambda values: values * 180 / np.pi,
    "exp": np.exp,
    "floor": np.floor,
    "ln": np.log,
    "log10": np.log10,
    "log2": np.log2,
    "rad": lambda values: values * np.pi / 180,
    "round": _round,
    "sgn": np.sign,
    "sin": np.sin,
    "sinh": np.sinh,
    "sqrt": np.sqrt,
    "tan": np.tan,
    "tanh": np.tanh,
}


class TimeNode(Node):
    """time(): the step itself, in seconds."""

    def _evaluate(self, run: Run, grid: Grid) -> Value:  # noqa: ARG002
        return Scalar(grid.times_ms() / 1000)


class PiNode(Node):
    """pi()."""

    invariant = True

    def _evaluate(self, run: Run, grid: Grid) -> Value:  # noqa: ARG002
        return Scalar(np.full(grid.count, np.pi))


class VectorNode(Node):
    """vector(s): a scalar as a vector without labels."""

    def __init__(self, expr: ast.Call, scalar: Node) -> None:
        super().__init__(expr)
        self._scalar = scalar
        self.invariant = scalar.invariant

    def _evaluate(self, run: Run, grid: Grid) -> Value:
        values = self._scalar.scalar(run, grid)[None, :]
        return Vector(UNLABELLED, values, np.ones(values.shape, np.bool_))


class ScalarNode(Node):
    """scalar(v): the value of the only series, NaN where there is none or more than one."""

    def __init__(self, expr: ast.Call, vector: Node) -> None:
        super().__init__(expr)
        self._vector = vector
        self.invariant = vector.invariant

    def _evaluate(self, run: Run, grid: Grid) -> Value:
        vector = self._vector.vector(run, grid)
        if not len(vector):
            return Scalar(np.full(grid.count, np.nan))
        only = np.take_along_axis(vector.values, vector.present.argmax(axis=0)[None, :], axis=0)[0]
        return Scalar(np.where(vector.present.sum(axis=0) == 1, only, np.nan))


class TimestampNode(Node):
    """timestamp(v): of a selector when its samples were taken, of anything else when it was evaluated."""

    def __init__(self, expr: ast.Call, vector: Node) -> None:
        super().__init__(expr)
        self._vector = vector

    def _evaluate(self, run: Run, grid: Grid) -> Value:
        if isinstance(self._vector, SelectorNode):
            return self._vector.sample_times(run, grid)
        vector = self._vector.vector(run, grid)
        values = np.broadcast_to(grid.times_ms() / 1000, vector.values.shape)
        return Vector(vector.labels, values, vector.present, drop_name=True)


class AbsentNode(Node):
    """absent(v) and absent_over_time(r): 1 where there is nothing, with the labels that the selector asks
    for.
    """

    def __init__(self, expr: ast.Call, arg: Arg) -> None:
        super().__init__(expr)
        self._arg = arg
        self._frame = LabelFrame.of([_absent_labels(ast.bare(expr.args[0]))])
        self.invariant = arg.invariant

    def _evaluate(self, run: Run, grid: Grid) -> Value:
        if isinstance(self._arg, RangeSource):
            present = self._arg.ranges(run, grid, "absent_over_time").windows.count() > 0
        else:
            present = self._arg.vector(run, grid).present
        absent = ~np.asarray(present.any(axis=0))[None, :]
        # As Prometheus has it: what the selector pins of type and unit goes with absent_over_time, and not with absent.
        return Vector(self._frame, np.ones(absent.shape), absent, isinstance(self._arg, RangeSource))


def _absent_labels(expr: ast.Expr) -> dict[str, str]:
    """The labels that a selector pins to one value each."""
    if isinstance(expr, ast.Range):
        expr = expr.selector
    if not isinstance(expr, ast.Selector):
        return {}
    labels: dict[str, str] = {}
    seen: set[str] = set()
    for matcher in expr.matchers:
        if matcher.name == METRIC_NAME:
            continue
        if matcher.op is MatchOp.EQUAL and matcher.name not in seen:
            labels[matcher.name] = matcher.value
            seen.add(matcher.name)
        else:
            # Asked for in two ways: no single value to answer with.
            labels.pop(matcher.name, None)
    return labels


class DateNode(Node):
    """hour(), month(), ...: of a vector's values, or of the time of evaluation."""

    def __init__(self, expr: ast.Call, function: Callable[[Floats], Floats], vector: Node | None) -> None:
        super().__init__(expr)
        self._function, self._vector = function, vector

    def _evaluate(self, run: Run, grid: Grid) -> Value:
        if self._vector is None:
            values = self._function(np.floor(grid.times_ms() / 1000))[None, :]
            return Vector(UNLABELLED, values, np.ones(values.shape, np.bool_))
        vector = self._vector.vector(run, grid)
        return Vector(vector.labels, self._function(vector.values), vector.present, drop_name=True)


_NATIVE_ONLY = {
    "histogram_avg",
    "histogram_count",
    "histogram_stddev",
    "histogram_stdvar",
    "histogram_sum",
}


def call_node(expr: ast.Call, args: list[Arg]) -> Node:
    """The node of a function call; raises NotSupported, naming the function."""
    name = expr.function
    if name in RANGE_FUNCTIONS:
        return RangeCallNode(expr, RANGE_FUNCTIONS[name], args)
    if name in ("absent", "absent_over_time"):
        return AbsentNode(expr, args[0])
    nodes = [arg for arg in args if isinstance(arg, Node)]
    if name in _ELEMENTWISE:
        return ElementwiseNode(expr, _ELEMENTWISE[name], nodes)
    if name in DATE_FUNCTIONS:
        return DateNode(expr, DATE_FUNCTIONS[name], nodes[0] if nodes else None)
    if name in _NATIVE_ONLY:
        raise NotSupported(f"{name}(), which needs native histograms,", str(expr), "".join(expr.at[:1]))
    builder = _BUILDERS.get(name)
    if builder is None:
        raise NotSupported(f"the function {name}()", str(expr), "".join(expr.at[:1]))
    return builder(expr, nodes)


_BUILDERS: dict[str, Callable[[ast.Call, list[Node]], Node]] = {
    "clamp": lambda expr, nodes: ClampNode(
        expr, lambda values, low, high: _greatest(low, _least(high, values)), nodes
    ),
    "histogram_fraction": lambda expr, nodes: HistogramFractionNode(expr, *nodes),
    "histogram_quantile": lambda expr, nodes: HistogramQuantileNode(expr, *nodes),
    "label_join": lambda expr, nodes: LabelJoinNode(expr, nodes[0]),
    "label_replace": lambda expr, nodes: LabelReplaceNode(expr, nodes[0]),
    "pi": lambda expr, _: PiNode(expr),
    "scalar": lambda expr, nodes: ScalarNode(expr, nodes[0]),
    "sort": lambda expr, nodes: SortNode(expr, nodes[0], descending=False),
    "sort_desc": lambda expr, nodes: SortNode(expr, nodes[0], descending=True),
    "sort_by_label": lambda expr, nodes: SortByLabelNode(expr, nodes[0], descending=False),
    "sort_by_label_desc": lambda expr, nodes: SortByLabelNode(expr, nodes[0], descending=True),
    "time": lambda expr, _: TimeNode(expr),
    "timestamp": lambda expr, nodes: TimestampNode(expr, nodes[0]),
    "vector": lambda expr, nodes: VectorNode(expr, nodes[0]),
}
