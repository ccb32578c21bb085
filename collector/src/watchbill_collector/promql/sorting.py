"""sort, sort_desc, sort_by_label, sort_by_label_desc: the order of an instant query's answer.

A range query's answer is always in the order of its labels; there these functions do nothing but warn.
"""

import re
from abc import abstractmethod
from functools import cmp_to_key

import numpy as np

from watchbill_collector.promql import ast
from watchbill_collector.promql.frames import label_order
from watchbill_collector.promql.nodes import Node, Run
from watchbill_collector.promql.values import Grid, Value, Vector

_CHUNK = re.compile(r"[0-9]+|[^0-9]+")


class _SortingNode(Node):
    def __init__(self, expr: ast.Call, vector: Node, *, descending: bool) -> None:
        super().__init__(expr)
        self.call = expr
        self._vector, self._descending = vector, descending
        self.invariant = vector.invariant

    def _evaluate(self, run: Run, grid: Grid) -> Value:
        vector = self._vector.vector(run, grid)
        if grid.count != 1:
            run.notes.warn(
                "sort is ineffective for range queries since results are always ordered by labels",
                ast.place(self.call),
            )
            return vector
        vector = vector.take(vector.present[:, 0])
        vector = vector.take(np.array(self._order(vector), np.int64))
        return Vector(vector.labels, vector.values, vector.present, vector.drop_name, ordered=True)

    @abstractmethod
    def _order(self, vector: Vector) -> list[int]:
        """The rows of the vector, in the order wanted."""


class SortNode(_SortingNode):
    """By value, NaN last."""

    def _order(self, vector: Vector) -> list[int]:
        values = vector.values[:, 0]
        missing = np.isnan(values)
        key = np.where(missing, 0.0, -values if self._descending else values)
        order: list[int] = np.lexsort((key, missing)).tolist()
        return order


class SortByLabelNode(_SortingNode):
    """By labels in natural order (`x9` before `x10`), then by all labels."""

    def _order(self, vector: Vector) -> list[int]:
        assert isinstance(self.expr, ast.Call)
        names = [arg.value for arg in map(ast.bare, self.expr.args[1:]) if isinstance(arg, ast.String)]
        labels = vector.labels.dicts()
        rank = np.empty(len(labels), np.int64)
        rank[label_order(vector.labels)] = np.arange(len(labels))

        def compare(first: int, second: int) -> int:
            for name in names:
                left, right = labels[first].get(name, ""), labels[second].get(name, "")
                if left != right:
                    return -1 if naturally_before(left, right) else 1
            return int(rank[first] - rank[second])

        return sorted(range(len(labels)), key=cmp_to_key(compare), reverse=self._descending)


def naturally_before(left: str, right: str) -> bool:
    """Whether a text comes before another when runs of digits count as numbers."""
    left_chunks, right_chunks = _CHUNK.findall(left), _CHUNK.findall(right)
    for one, other in zip(left_chunks, right_chunks, strict=False):
        if one == other:
            continue
        if one[0].isdigit() and other[0].isdigit() and _number(one) != _number(other):
            return _number(one) < _number(other)
        return bool(one < other)
    return len(left_chunks) < len(right_chunks)


def _number(digits: str) -> tuple[int, str]:
    """Orders digits as the number that they are, however long it is."""
    digits = digits.lstrip("0")
    return len(digits), digits
