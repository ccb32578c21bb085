"""Binary operators: arithmetic, comparison, vector matching, set operators.

The fast path knows from the labels alone, worked out once per pair of frames, which row meets which; the
operator is then one numpy call. Only where the labels leave it open (a group with several rows, of which
perhaps only one has a sample at a step) are the samples looked at.
"""

from typing import Any, NoReturn

import numpy as np

from watchbill_collector.labels import METRIC_NAME, LabelFrame
from watchbill_collector.promql import ast
from watchbill_collector.promql.errors import ExecutionFailed, TooMany
from watchbill_collector.promql.frames import (
    PAIRS_MAX,
    Match,
    grouping,
    match_groups,
    matched,
    present_rows,
)
from watchbill_collector.promql.merging import merge_equal_rows
from watchbill_collector.promql.nodes import Node, Run, all_invariant
from watchbill_collector.promql.text import series_text
from watchbill_collector.promql.values import Grid, Scalar, Value, Vector, any_present
from watchbill_collector.promql.windows import Ints, Mask

_ARITHMETIC: dict[str, Any] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    # As C and Go: the result has the sign of the dividend.
    "%": np.fmod,
    # Not np.power: for a single exponent of 0.5 it takes the square root, which differs for -Inf and -0.
    "^": np.float_power,
    "atan2": np.arctan2,
}
_COMPARISON: dict[str, Any] = {
    "==": np.equal,
    "!=": np.not_equal,
    ">": np.greater,
    "<": np.less,
    ">=": np.greater_equal,
    "<=": np.less_equal,
}
SET_OPERATORS = ("and", "or", "unless")


class ScalarsNode(Node):
    """An operator between two scalars."""

    def __init__(self, expr: ast.Binary, lhs: Node, rhs: Node) -> None:
        super().__init__(expr)
        self._lhs, self._rhs = lhs, rhs
        self._ufunc = _ARITHMETIC.get(expr.op) or _COMPARISON[expr.op]
        self.invariant = all_invariant((lhs, rhs))

    def _evaluate(self, run: Run, grid: Grid) -> Value:
        out = self._ufunc(self._lhs.scalar(run, grid), self._rhs.scalar(run, grid))
        return Scalar(out.astype(np.float64))


class VectorScalarNode(Node):
    """An operator between a vector and a scalar, in either order."""

    def __init__(self, expr: ast.Binary, vector: Node, scalar: Node, *, swapped: bool) -> None:
        super().__init__(expr)
        self._vector, self._scalar, self._swapped = vector, scalar, swapped
        self._returns_bool = expr.returns_bool
        self._compare = expr.op in _COMPARISON
        self._ufunc = _COMPARISON[expr.op] if self._compare else _ARITHMETIC[expr.op]
        self.invariant = all_invariant((vector, scalar))

    def _evaluate(self, run: Run, grid: Grid) -> Value:
        vector, scalar = self._vector.vector(run, grid), self._scalar.scalar(run, grid)
        operands = (scalar, vector.values) if self._swapped else (vector.values, scalar)
        out = self._ufunc(*operands)
        if not self._compare:
            return Vector(vector.labels, out, vector.present, drop_name=True)
        if self._returns_bool:
            return Vector(vector.labels, out.astype(np.float64), vector.present, drop_name=True)
        # A filter keeps the vector's own values, even where it is the right side.
        return Vector(vector.labels, vector.values, vector.present & out, vector.drop_name)


class VectorsNode(Node):
    """Arithmetic or comparison between two vectors."""

    def __init__(self, expr: ast.Binary, lhs: Node, rhs: Node) -> None:
        super().__init__(expr)
        assert expr.matching is not None
        self._lhs, self._rhs = lhs, rhs
        self._matching = expr.matching
        self._returns_bool = expr.returns_bool
        self._compare = expr.op in _COMPARISON
        self._ufunc = _COMPARISON[expr.op] if self._compare else _ARITHMETIC[expr.op]
        self._flipped = expr.matching.card is ast.Card.ONE_TO_MANY
        self.invariant = all_invariant((lhs, rhs))

    def _evaluate(self, run: Run, grid: Grid) -> Value:
        lhs, rhs = self._lhs.vector(run, grid), self._rhs.vector(run, grid)
        many, one = (rhs, lhs) if self._flipped else (lhs, rhs)
        rename = not self._compare
        match = matched(many.labels, one.labels, self._matching, rename=rename)
        if match is None or not match.exact:
            many, one = _present_only(many), _present_only(one)
            match = matched(many.labels, one.labels, self._matching, rename=rename)
        if match is None:
            _check_one_side(many, one, self._matching)
            raise TooMany(f"more than {PAIRS_MAX} pairs of series match", str(self.expr))
        if not match.exact:
            _check_one_side(many, one, self._matching)
        out = self._apply(run, many, one, match)
        # Over several steps the results are series at once, so equal labels fail here; an instant query's may still
        # be told apart, or added up, by what stands around it.
        return out if match.exact else merge_equal_rows(out, strict=grid.count > 1)

    def _apply(self, run: Run, many: Vector, one: Vector, match: Match) -> Vector:
        run.budget.room(len(match.labels) * many.values.shape[1], str(self.expr))
        many_values, one_values = _rows(many.values, match.many), _rows(one.values, match.one)
        present = _rows(many.present, match.many) & _rows(one.present, match.one)
        if not match.exact:
            _check_many_side(match, present, self._matching)
        lhs, rhs = (one_values, many_values) if self._flipped else (many_values, one_values)
        out = self._ufunc(lhs, rhs)
        if not self._compare:
            return Vector(match.labels, out, present, drop_name=False)
        if self._returns_bool:
            return Vector(match.labels, out.astype(np.float64), present, drop_name=True)
        drop = many.drop_name
        if not isinstance(drop, bool) and match.many is not None:
            drop = drop[match.many]
        return Vector(match.labels, lhs, present & out, drop)


def _rows(matrix: Any, rows: Ints | None) -> Any:
    return matrix if rows is None else matrix[rows]


def _present_only(vector: Vector) -> Vector:
    """The vector without the rows that have no sample at any step; frames stay the same for the same rows."""
    rows = any_present(vector.present)
    frame = present_rows(vector.labels, rows)
    if frame is vector.labels:
        return vector
    drop = vector.drop_name if isinstance(vector.drop_name, bool) else vector.drop_name[rows]
    return Vector(frame, vector.values[rows], vector.present[rows], drop)


def _check_one_side(many: Vector, one: Vector, matching: ast.Matching) -> None:
    """Fail on two samples of the "one" side in one match group, at steps where both sides have samples."""
    steps = many.present.any(axis=0) & one.present.any(axis=0)
    if not steps.any():
        return
    _, group, groups = match_groups(many.labels, one.labels, matching)
    present = one.present & steps
    counts = _count_by(group, groups, present)
    if counts.max(initial=0) <= 1:
        return
    step = int(np.argmax((counts > 1).any(axis=0)))
    clash = int(np.argmax(counts[:, step] > 1))
    rows = np.flatnonzero((group == clash) & present[:, step])
    _found_duplicates(one.labels, rows, matching)


def _count_by(group: Ints, groups: int, present: Mask) -> Ints:
    counts = np.zeros((groups, present.shape[1]), np.int64)
    np.add.at(counts, group, present)
    return counts


def _found_duplicates(frame: LabelFrame, rows: Ints, matching: ast.Matching) -> NoReturn:
    both = frame.take(rows[:2]).dicts()
    first, second = sorted(map(series_text, both))
    wanted = {
        name: value
        for name, value in both[0].items()
        if ((name in matching.labels) if matching.on else (name not in (*matching.labels, METRIC_NAME)))
    }
    side = "left" if matching.card is ast.Card.ONE_TO_MANY else "right"
    raise ExecutionFailed(
        f"found duplicate series for the match group {series_text(wanted)} on the {side} hand-side "
        f"of the operation: [{first}, {second}]"
        ";many-to-many matching not allowed: matching labels must be unique on one side"
    )


def _check_many_side(match: Match, present: Mask, matching: ast.Matching) -> None:
    if matching.card is ast.Card.ONE_TO_ONE:
        if (
            len(match.group)
            and _count_by(match.group, int(match.group.max()) + 1, present).max(initial=0) > 1
        ):
            raise ExecutionFailed(
                "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)"
            )
        return
    same = grouping(match.labels, match.labels)
    # Within one match group the result's labels have to tell the results apart.
    number = same.number * (int(match.group.max(initial=0)) + 1) + match.group
    _, number = np.unique(number, return_inverse=True)
    number = number.reshape(-1)
    if len(number) and _count_by(number, int(number.max()) + 1, present).max(initial=0) > 1:
        raise ExecutionFailed("multiple matches for labels: grouping labels must ensure unique matches")


class SetNode(Node):
    """`and`, `or`, `unless`."""

    def __init__(self, expr: ast.Binary, lhs: Node, rhs: Node) -> None:
        super().__init__(expr)
        assert expr.matching is not None
        self._lhs, self._rhs = lhs, rhs
        self._op = expr.op
        self._matching = expr.matching
        self.invariant = all_invariant((lhs, rhs))

    def _evaluate(self, run: Run, grid: Grid) -> Value:
        lhs, rhs = self._lhs.vector(run, grid), self._rhs.vector(run, grid)
        left, right, groups = match_groups(lhs.labels, rhs.labels, self._matching)
        if self._op == "or":
            there = _any_by(left, groups, lhs.present)
            rest = Vector(rhs.labels, rhs.values, rhs.present & ~there[right], rhs.drop_name)
            return _union(lhs, rest)
        there = _any_by(right, groups, rhs.present)[left]
        present = lhs.present & (there if self._op == "and" else ~there)
        return Vector(lhs.labels, lhs.values, present, lhs.drop_name)


def _any_by(group: Ints, groups: int, present: Mask) -> Mask:
    """Whether a group has any sample, per step: bool[groups, s]."""
    out = np.zeros((groups, present.shape[1]), np.bool_)
    if present.shape[1] == 1:
        out[group[present[:, 0]], 0] = True
        return out
    np.logical_or.at(out, group, present)
    return out


def _union(lhs: Vector, rhs: Vector) -> Vector:
    """All rows of both; rows of equal labels become one, for at no step do both have a sample."""
    if not rhs.present.any():
        return Vector(lhs.labels, lhs.values, lhs.present, lhs.drop_name)
    if not lhs.present.any():
        return rhs
    labels = lhs.labels.derived(("union", rhs.labels), lambda: LabelFrame.concat((lhs.labels, rhs.labels)))
    drop: bool | Mask
    if isinstance(lhs.drop_name, bool) and lhs.drop_name is rhs.drop_name:
        drop = lhs.drop_name
    else:
        drop = np.concatenate((lhs.drop_mask(), rhs.drop_mask()))
    both = Vector(
        labels,
        np.concatenate((lhs.values, rhs.values)),
        np.concatenate((lhs.present, rhs.present)),
        drop,
    )
    return merge_equal_rows(both)
