"""A plan is a tree of nodes; a node evaluates to a value at all steps of a grid at once.

`Run` is one evaluation: its storage, its budget, the bounds of the query, its annotations. Nodes are made
once per expression text and shared between threads, so they hold nothing of a run.

A node that is `invariant` gives the same at every step (everything below it stands still by `@`, or is a
constant): it is evaluated at one step and its arrays are stretched over the grid without being copied.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from watchbill_collector.labels import LabelFrame
from watchbill_collector.matching import Matcher
from watchbill_collector.promql import ast
from watchbill_collector.promql.budget import Budget
from watchbill_collector.promql.errors import BadQuery, TooMany
from watchbill_collector.promql.querymemory import POINT_BYTES
from watchbill_collector.promql.shared import SharedValues
from watchbill_collector.promql.storage import Hints, Ragged, SeriesSet, Storage, Windows
from watchbill_collector.promql.values import Grid, Notes, Scalar, Text, Value, Vector
from watchbill_collector.promql.windows import Floats, Ints, Mask


@dataclass(slots=True)
class Run:
    """One evaluation of one query. `end_ms` is the end that was asked for, which need not be a step."""

    storage: Storage
    budget: Budget
    grid: Grid
    end_ms: int
    lookback_ms: int
    default_step_ms: int
    notes: Notes = field(default_factory=Notes)
    shared: SharedValues | None = None
    _selected: dict[tuple[tuple[Matcher, ...], int, int, Hints], SeriesSet] = field(default_factory=dict)

    @property
    def instant(self) -> bool:
        """Whether this is an instant query, or a range query of a single step, which keeps the order too."""
        return self.grid.count == 1

    def at_ms(self, at: ast.At) -> int:
        """The time that an @ modifier means."""
        if isinstance(at, int):
            return at
        return self.grid.start_ms if at is ast.Side.START else self.end_ms

    def select(
        self, matchers: tuple[Matcher, ...], start_ms: int, end_ms: int, hints: Hints, expression: str
    ) -> SeriesSet:
        """Series from storage, read once however often a query names them."""
        key = (matchers, start_ms, end_ms, hints)
        found = self._selected.get(key)
        if found is None:
            found = self.storage.select(matchers, start_ms, end_ms, self.budget, hints)
            self.budget.check(expression)
            self._selected[key] = found
            for note in found.notes:
                self.notes.inform(note)
        return found


class Node(ABC):
    """A part of a plan."""

    invariant = False

    def __init__(self, expr: ast.Expr) -> None:
        self.expr = expr

    def evaluate(self, run: Run, grid: Grid) -> Value:
        """The value at every step; raises PromqlError."""
        budget = run.budget
        budget.check(str(self.expr) if not run.instant else "")
        if run.shared is not None and grid.count == 1:
            key = (self, grid.start_ms, run.end_ms, run.lookback_ms)
            known = run.shared.known(key)
            if known is None:
                known = self._evaluate(run, grid)
                run.shared.keep(key, known)
            return known
        mark = budget.mark()
        if not self.invariant or grid.count <= 1:
            value = self._evaluate(run, grid)
        else:
            value = stretched(self._evaluate(run, grid.first()), grid.count)
        if budget.shares_memory:
            budget.settle(mark, _size(value))
        return value

    def vector(self, run: Run, grid: Grid) -> Vector:
        """The value, where the parser has made sure that it is a vector."""
        value = self.evaluate(run, grid)
        assert isinstance(value, Vector)
        return value

    def scalar(self, run: Run, grid: Grid) -> Floats:
        """The numbers, where the parser has made sure that it is a scalar."""
        value = self.evaluate(run, grid)
        assert isinstance(value, Scalar)
        return value.values

    @abstractmethod
    def _evaluate(self, run: Run, grid: Grid) -> Value:
        """As `evaluate`, without the care for invariance and deadline."""


def _size(value: Value) -> int:
    """The bytes of a value's own arrays; a column that is stretched over all steps takes those of one."""
    if not isinstance(value, Vector):
        return 0
    points = value.values.size if 0 not in value.values.strides else len(value)
    return points * POINT_BYTES + value.labels.codes.nbytes


def stretched(value: Value, steps: int) -> Value:
    """A value of one step, the same at `steps` steps."""
    if isinstance(value, Vector):
        shape = (len(value), steps)
        return Vector(
            value.labels,
            np.broadcast_to(value.values, shape),
            np.broadcast_to(value.present, shape),
            value.drop_name,
            value.ordered,
        )
    if isinstance(value, Scalar):
        return Scalar(np.broadcast_to(value.values, (steps,)))
    return value


class NumberNode(Node):
    """A number literal."""

    invariant = True

    def __init__(self, expr: ast.Number) -> None:
        super().__init__(expr)
        self._value = expr.value

    def _evaluate(self, run: Run, grid: Grid) -> Value:  # noqa: ARG002
        return Scalar(np.full(grid.count, self._value))


class StringNode(Node):
    """A string literal."""

    invariant = True

    def __init__(self, expr: ast.String) -> None:
        super().__init__(expr)
        self._value = expr.value

    def _evaluate(self, run: Run, grid: Grid) -> Value:  # noqa: ARG002
        return Text(self._value)


class NegationNode(Node):
    """A unary minus."""

    def __init__(self, expr: ast.Negation, inner: Node) -> None:
        super().__init__(expr)
        self._inner = inner
        self.invariant = inner.invariant

    def _evaluate(self, run: Run, grid: Grid) -> Value:
        value = self._inner.evaluate(run, grid)
        if isinstance(value, Scalar):
            return Scalar(-value.values)
        assert isinstance(value, Vector)
        return Vector(value.labels, -value.values, value.present, drop_name=True)


class SelectorNode(Node):
    """An instant vector selector."""

    def __init__(self, expr: ast.Selector) -> None:
        super().__init__(expr)
        self.selector = expr
        self.invariant = expr.at is not None

    def _evaluate(self, run: Run, grid: Grid) -> Value:
        found, times = self._find(run, grid)
        values, present = found.instant(times, run.lookback_ms)
        return Vector(found.labels, values, present)

    def sample_times(self, run: Run, grid: Grid) -> Vector:
        """When the selected samples were taken, in seconds: what `timestamp()` answers for a selector."""
        found, times = self._find(run, grid)
        _, present = found.instant(times, run.lookback_ms)
        taken = found.instant_times(times, run.lookback_ms)
        return Vector(found.labels, taken / 1000, present, drop_name=True)

    def _find(self, run: Run, grid: Grid) -> tuple[SeriesSet, Ints]:
        selector = self.selector
        times = effective_times(run, grid, selector.at, selector.offset_ms)
        hints = Hints(step_ms=0 if grid.count == 1 else grid.step_ms)
        found = run.select(
            selector.matchers, int(times[0]) - run.lookback_ms, int(times[-1]), hints, str(selector)
        )
        run.budget.room(len(found) * grid.count, str(selector))
        return found, times


def effective_times(run: Run, grid: Grid, at: ast.At | None, offset_ms: int) -> Ints:
    """The times that a selector looks at, one a step, after its @ and offset."""
    if at is None:
        return grid.times_ms() - offset_ms
    return np.full(grid.count, run.at_ms(at) - offset_ms, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class RangeVector:
    """What a range function works on: the windows of n series at all steps."""

    labels: LabelFrame
    drop_name: bool | Mask
    windows: Windows


class RangeSource(ABC):
    """Where a range function's windows come from."""

    invariant = False

    def __init__(self, expr: ast.Range | ast.Subquery) -> None:
        self.expr = expr

    @abstractmethod
    def ranges(self, run: Run, grid: Grid, function: str) -> RangeVector:
        """The windows at every step."""

    @abstractmethod
    def samples(self, run: Run, time_ms: int) -> tuple[RangeVector, Ragged]:
        """The samples of one window, for a query that is nothing but a range vector."""


class RangeNode(RangeSource):
    """A range vector selector."""

    def __init__(self, expr: ast.Range) -> None:
        super().__init__(expr)
        self.range = expr
        self.invariant = expr.selector.at is not None

    def ranges(self, run: Run, grid: Grid, function: str) -> RangeVector:
        """The windows at every step."""
        found, times = self._find(run, grid, function)
        return RangeVector(found.labels, False, found.windows(times, self.range.range_ms))

    def samples(self, run: Run, time_ms: int) -> tuple[RangeVector, Ragged]:
        """The samples of one window."""
        found, times = self._find(run, Grid.instant(time_ms), "")
        windows = found.windows(times, self.range.range_ms)
        return RangeVector(found.labels, False, windows), found.ragged_without_stale()

    def _find(self, run: Run, grid: Grid, function: str) -> tuple[SeriesSet, Ints]:
        selector, range_ms = self.range.selector, self.range.range_ms
        times = effective_times(run, grid, selector.at, selector.offset_ms)
        hints = Hints(0 if grid.count == 1 else grid.step_ms, range_ms, function)
        found = run.select(
            selector.matchers, int(times[0]) - range_ms, int(times[-1]), hints, str(self.range)
        )
        run.budget.room(len(found) * grid.count, str(self.range))
        return found, times


class SubqueryNode(RangeSource):
    """A subquery: the inner expression at every multiple of its step, whatever the steps of the query are."""

    def __init__(self, expr: ast.Subquery, inner: Node) -> None:
        super().__init__(expr)
        self.subquery = expr
        self._inner = inner
        self.invariant = expr.at is not None

    def ranges(self, run: Run, grid: Grid, function: str) -> RangeVector:  # noqa: ARG002
        """The windows at every step."""
        times = effective_times(run, grid, self.subquery.at, self.subquery.offset_ms)
        vector, ragged = self._inner_samples(run, times)
        found = SeriesSet(vector.labels, ragged)
        return RangeVector(vector.labels, vector.drop_name, found.windows(times, self.subquery.range_ms))

    def samples(self, run: Run, time_ms: int) -> tuple[RangeVector, Ragged]:
        """The samples of one window."""
        times = effective_times(run, Grid.instant(time_ms), self.subquery.at, self.subquery.offset_ms)
        vector, ragged = self._inner_samples(run, times)
        windows = SeriesSet(vector.labels, ragged).windows(times, self.subquery.range_ms)
        return RangeVector(vector.labels, vector.drop_name, windows), ragged

    def _inner_samples(self, run: Run, times: Ints) -> tuple[Vector, Ragged]:
        subquery = self.subquery
        step_ms = subquery.step_ms or run.default_step_ms
        first = int(times[0]) - subquery.range_ms
        # The first multiple of the step after the window's open start.
        grid = Grid.spanning((first // step_ms + 1) * step_ms, int(times[-1]), step_ms)
        if grid.count > SUBQUERY_STEPS_MAX:
            raise TooMany(
                f"the subquery has {grid.count} steps, more than {SUBQUERY_STEPS_MAX}", str(subquery)
            )
        if grid.count == 0:
            return Vector.empty(0), Ragged(np.zeros(0, np.int64), np.zeros(0), np.zeros(1, np.int64))
        value = self._inner.evaluate(run, grid)
        if isinstance(value, Scalar):
            raise BadQuery("a subquery needs an instant vector, got a scalar", str(subquery))
        assert isinstance(value, Vector)
        run.budget.spend(int(value.present.sum()), str(subquery))
        return value, flattened(value, grid)


SUBQUERY_STEPS_MAX = 1_000_000
"""Steps of one subquery; the points of the query itself are bounded by the engine."""


def flattened(value: Vector, grid: Grid) -> Ragged:
    """The present points of a matrix as samples."""
    counts = np.concatenate(([0], np.cumsum(value.present.sum(axis=1)))).astype(np.int64)
    times = np.broadcast_to(grid.times_ms(), value.present.shape)
    return Ragged(times[value.present], value.values[value.present], counts)


def all_invariant(nodes: Sequence[Node | RangeSource | None]) -> bool:
    """Whether all of the nodes that there are stand still."""
    return all(node is None or node.invariant for node in nodes)
