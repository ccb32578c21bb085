"""Trees to plans, and plans by the text of their expression.

A plan depends on the text alone: times, bounds and storage come with each run. So a rule or a dashboard panel
is parsed and planned once.
"""

from dataclasses import dataclass

from watchbill_collector.promql import ast
from watchbill_collector.promql.aggregates import aggregate_node
from watchbill_collector.promql.binary import (
    SET_OPERATORS,
    ScalarsNode,
    SetNode,
    VectorScalarNode,
    VectorsNode,
)
from watchbill_collector.promql.errors import BadQuery
from watchbill_collector.promql.functions import call_node
from watchbill_collector.promql.nodes import (
    NegationNode,
    Node,
    NumberNode,
    RangeNode,
    RangeSource,
    SelectorNode,
    StringNode,
    SubqueryNode,
)
from watchbill_collector.promql.parse import parse

PLANS_MAX = 2_048
"""Plans remembered; the least lately used goes."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """An expression, ready to run. `root` is a RangeSource where the whole expression is a range vector."""

    text: str
    expr: ast.Expr
    root: Node | RangeSource

    @property
    def kind(self) -> ast.Kind:
        """What it evaluates to."""
        return self.expr.kind


class Plans:
    """Plans by text. Threads may share it: a race costs a plan made twice."""

    def __init__(self, maximum: int = PLANS_MAX) -> None:
        self._maximum = maximum
        self._plans: dict[str, Plan] = {}

    def __len__(self) -> int:
        return len(self._plans)

    def plan(self, text: str) -> Plan:
        """The plan of an expression; raises BadQuery."""
        found = self._plans.pop(text, None)
        if found is None:
            found = plan(text)
            while len(self._plans) >= self._maximum:
                self._plans.pop(next(iter(self._plans)), None)
        self._plans[text] = found
        return found


Made = dict[ast.Expr, Node]
"""Nodes by what they evaluate: plans that are made with the same ones share equal parts."""


def plan(text: str, made: Made | None = None) -> Plan:
    """Parse and plan an expression; raises BadQuery."""
    expr = parse(text)
    return Plan(text, expr, _Planner(made).any(expr))


class _Planner:
    """Trees to nodes."""

    def __init__(self, made: Made | None) -> None:
        self._made = made

    def any(self, expr: ast.Expr) -> Node | RangeSource:
        """Whatever the expression is."""
        expr = ast.bare(expr)
        if isinstance(expr, ast.Range):
            return RangeNode(expr)
        if isinstance(expr, ast.Subquery):
            return SubqueryNode(expr, self._node(expr.expr))
        return self._node(expr)

    def _node(self, expr: ast.Expr) -> Node:
        expr = ast.bare(expr)
        if self._made is None:
            return self._new(expr)
        found = self._made.get(expr)
        if found is None:
            found = self._made[expr] = self._new(expr)
        return found

    def _new(self, expr: ast.Expr) -> Node:
        if isinstance(expr, ast.Number):
            return NumberNode(expr)
        if isinstance(expr, ast.String):
            return StringNode(expr)
        if isinstance(expr, ast.Selector):
            return SelectorNode(expr)
        if isinstance(expr, ast.Negation):
            return NegationNode(expr, self._node(expr.expr))
        if isinstance(expr, ast.Call):
            return call_node(expr, [self.any(arg) for arg in expr.args])
        if isinstance(expr, ast.Aggregate):
            param = None if expr.param is None else self._node(expr.param)
            return aggregate_node(expr, self._node(expr.expr), param)
        if isinstance(expr, ast.Binary):
            return self._binary(expr)
        raise BadQuery(f"expected an instant vector or a scalar, got a {expr.kind.value}", str(expr))

    def _binary(self, expr: ast.Binary) -> Node:
        lhs, rhs = self._node(expr.lhs), self._node(expr.rhs)
        left, right = expr.lhs.kind, expr.rhs.kind
        if left is ast.Kind.SCALAR and right is ast.Kind.SCALAR:
            return ScalarsNode(expr, lhs, rhs)
        if left is ast.Kind.SCALAR:
            return VectorScalarNode(expr, rhs, lhs, swapped=True)
        if right is ast.Kind.SCALAR:
            return VectorScalarNode(expr, lhs, rhs, swapped=False)
        if expr.op in SET_OPERATORS:
            return SetNode(expr, lhs, rhs)
        return VectorsNode(expr, lhs, rhs)
