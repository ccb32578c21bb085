"""The query engine: expressions and times in, results out.

    engine = Engine()
    result = engine.instant('sum by (instance) (rate(node_cpu_seconds_total[5m]))', now_ms, storage)
    for series in result.vector(): ...

Evaluation is plain computation in the calling thread: it takes no lock, starts nothing, knows no clock but
the budget's. An engine may be shared by threads; each evaluation has its own budget. See `render.py` for the
HTTP API's JSON.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from watchbill_collector.labels import LabelFrame
from watchbill_collector.promql import ast
from watchbill_collector.promql.budget import STEPS_MAX, Budget
from watchbill_collector.promql.errors import BadQuery, ExecutionFailed
from watchbill_collector.promql.frames import label_order
from watchbill_collector.promql.merging import with_final_labels
from watchbill_collector.promql.nodes import Node, RangeSource, Run
from watchbill_collector.promql.plan import Plan, Plans
from watchbill_collector.promql.shared import SharedValues
from watchbill_collector.promql.storage import Storage
from watchbill_collector.promql.values import UNLABELLED, Grid, Scalar, Vector, any_present
from watchbill_collector.promql.windows import Floats, Ints, Mask

LOOKBACK_MS = 300_000
"""How old the newest sample of a series may be, as in Prometheus."""
SUBQUERY_STEP_MS = 60_000
"""The step of subqueries that name none: Prometheus' default evaluation interval."""


@dataclass(frozen=True, slots=True)
class Options:
    """What an engine is set up with. Times in milliseconds."""

    lookback_ms: int = LOOKBACK_MS
    subquery_step_ms: int = SUBQUERY_STEP_MS
    steps_max: int = STEPS_MAX


@dataclass(frozen=True, slots=True, eq=False)
class InstantVector:
    """Label sets and a value each, at one time; row i of all three belongs together. Only what is present."""

    time_ms: int
    labels: LabelFrame
    values: Floats  # (n,)

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[tuple[dict[str, str], float]]:
        return zip(self.labels.dicts(), self.values.tolist(), strict=True)


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """Label sets with samples each: series i has `times_ms` and `values` from `offsets[i]` to `offsets[i +
    1]`.
    """

    labels: LabelFrame
    times_ms: Ints
    values: Floats
    offsets: Ints

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Number:
    """A scalar at a time."""

    time_ms: int
    value: float


@dataclass(frozen=True, slots=True)
class Words:
    """A string at a time."""

    time_ms: int
    value: str


Data = InstantVector | Matrix | Number | Words


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What a query answers, with its annotations (without the positions that Prometheus appends to them)."""

    data: Data
    warnings: tuple[str, ...] = ()
    infos: tuple[str, ...] = ()
    samples: int = field(default=0)

    def vector(self) -> InstantVector:
        """The data of an instant query for rules: a scalar is a vector of one without labels."""
        if isinstance(self.data, InstantVector):
            return self.data
        if isinstance(self.data, Number):
            return InstantVector(self.data.time_ms, UNLABELLED, np.array([self.data.value]))
        raise ExecutionFailed("rule result is not a vector or scalar")


class Engine:
    """Evaluates PromQL over a storage."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self._plans = Plans()

    def plan(self, text: str) -> Plan:
        """Parse and plan, or remember: for checking an expression, and before a loop; raises BadQuery."""
        return self._plans.plan(text)

    def instant(
        self,
        query: str | Plan,
        time_ms: int,
        storage: Storage,
        budget: Budget | None = None,
        *,
        lookback_ms: int | None = None,
        shared: SharedValues | None = None,
    ) -> Result:
        """Evaluate at one time; raises PromqlError. `shared`: what other expressions of this moment have worked out."""
        plan = self.plan(query) if isinstance(query, str) else query
        run = self._run(storage, budget, Grid.instant(time_ms), time_ms, lookback_ms)
        run.shared = shared
        with np.errstate(all="ignore"):
            if isinstance(plan.root, RangeSource):
                return _result(run, _samples(plan.root, run, time_ms))
            value = plan.root.evaluate(run, run.grid)
            if isinstance(value, Vector):
                return _result(run, _instant_vector(value, time_ms))
        if isinstance(value, Scalar):
            return _result(run, Number(time_ms, float(value.values[0])))
        return _result(run, Words(time_ms, value.value))

    def range(
        self,
        query: str | Plan,
        start_ms: int,
        end_ms: int,
        step_ms: int,
        storage: Storage,
        budget: Budget | None = None,
        *,
        lookback_ms: int | None = None,
    ) -> Result:
        """Evaluate from start to end, both included, every step; raises PromqlError."""
        plan = self.plan(query) if isinstance(query, str) else query
        if plan.kind not in (ast.Kind.SCALAR, ast.Kind.VECTOR):
            raise BadQuery(
                f'invalid expression type "{plan.kind.value}" for range query, '
                "must be Scalar or instant Vector",
                str(plan.expr),
            )
        if step_ms <= 0:
            raise BadQuery(
                "zero or negative query resolution step widths are not accepted. Try a positive integer"
            )
        if end_ms < start_ms:
            raise BadQuery("end timestamp must not be before start time")
        grid = Grid.spanning(start_ms, end_ms, step_ms)
        if grid.count > self.options.steps_max:
            raise BadQuery(
                f"exceeded maximum resolution of {self.options.steps_max:,} points per timeseries. "
                "Try decreasing the query resolution (?step=XX)"
            )
        run = self._run(storage, budget, grid, end_ms, lookback_ms)
        assert isinstance(plan.root, Node)
        with np.errstate(all="ignore"):
            value = plan.root.evaluate(run, grid)
            if isinstance(value, Scalar):
                every = np.ones((1, grid.count), np.bool_)
                value = Vector(UNLABELLED, value.values[None, :], every)
            assert isinstance(value, Vector)
            run.budget.room(value.values.size, str(plan.expr))
            return _result(run, _matrix(value, grid))

    def _run(
        self, storage: Storage, budget: Budget | None, grid: Grid, end_ms: int, lookback_ms: int | None
    ) -> Run:
        return Run(
            storage,
            budget or Budget(),
            grid,
            end_ms,
            lookback_ms or self.options.lookback_ms,
            self.options.subquery_step_ms,
        )


def _result(run: Run, data: Data) -> Result:
    return Result(data, tuple(run.notes.warnings), tuple(run.notes.infos), run.budget.samples)


def _instant_vector(value: Vector, time_ms: int) -> InstantVector:
    final = with_final_labels(value)
    rows = final.present[:, 0]
    if rows.all():
        return InstantVector(time_ms, final.labels, final.values[:, 0])
    return InstantVector(time_ms, final.labels.take(rows), final.values[rows, 0])


def _matrix(value: Vector, grid: Grid) -> Matrix:
    final = with_final_labels(value)
    rows = _in_order(final.labels, any_present(final.present))
    frame = final.labels.take(rows)
    present = final.present[rows]
    times = np.broadcast_to(grid.times_ms(), present.shape)
    offsets = np.concatenate(([0], np.cumsum(present.sum(axis=1)))).astype(np.int64)
    return Matrix(frame, times[present], final.values[rows][present], offsets)


def _in_order(frame: LabelFrame, wanted: Mask) -> Ints:
    """The wanted rows in the order of their labels."""
    rows = np.flatnonzero(wanted)
    if len(rows) * _FEW < len(frame):
        return rows[label_order(frame.take(rows))]
    # The whole frame's order is remembered with the frame.
    order = label_order(frame)
    return order[wanted[order]]


_FEW = 4
"""A quarter of a frame or less is cheaper to sort by itself than to pick from the order of all."""


def _samples(root: RangeSource, run: Run, time_ms: int) -> Matrix:
    """A range vector as the answer itself: the samples of its window, as they are."""
    found, ragged = root.samples(run, time_ms)
    spans = found.windows.spans()
    lo, hi = spans.lo[:, 0], spans.hi[:, 0]
    counts = hi - lo
    labels = with_final_labels(
        Vector(found.labels, np.zeros((len(counts), 1)), (counts > 0)[:, None], found.drop_name)
    ).labels
    assert len(labels) == len(counts)
    rows = _in_order(labels, counts > 0)
    frame = labels.take(rows)
    lengths = counts[rows]
    positions = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    positions = positions + np.repeat(lo[rows], lengths)
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    return Matrix(frame, ragged.times[positions], ragged.values[positions], offsets)
