"""What a rule compares with what: its value and its limits, for drawing them.

    100 * (1 - avail / size) > 90 or ... > 85 and ignoring (...) ALERTS{...}

has the value `100 * (1 - avail / size)`, the limit `> 90`, and `> 85` as the limit at which it clears. A comparison of
two vectors has the other side in place of a limit. What cannot be taken apart is a value without limits: a chart then
shows the expression as it is.

`narrowed` is the value for one host: its `instance` as a matcher in every selector. That is done where it cannot change
the value, and nowhere else: `count(up)` of one host is another number than `count(up)`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from watchbill_collector.matching import Matcher, MatchOp
from watchbill_collector.promql import ast
from watchbill_collector.rules.needs import every

ALERTS = "ALERTS"
LIMITS_MAX = 6
"""Limits that are drawn; a rule with more of them has no picture that says anything."""

_FLIPPED = {">": "<", "<": ">", ">=": "<=", "<=": ">=", "==": "==", "!=": "!="}
_JOINS = frozenset({"and", "unless"})
_LOOKS_AT_ALL = frozenset({"absent", "absent_over_time", "scalar", "label_replace", "label_join", "vector"})
"""Functions whose answer for one host is not the part of their answer that is the host's."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A number that the value is compared with. `clears`: it holds for what fires already alone."""

    op: str
    value: float
    clears: bool = False


@dataclass(frozen=True, slots=True)
class Compared:
    """A value, the numbers it is compared with, and the expression that it is compared with, empty if there is none."""

    value: ast.Expr
    limits: tuple[Limit, ...] = ()
    against: ast.Expr | None = None


def compared(expr: ast.Expr) -> Compared:
    """What an alerting rule's expression compares."""
    found = list(_comparisons(expr, clears=False))
    if not found:
        return Compared(_subject(expr))
    first, against, _ = found[0]
    same = [limit for value, _, limit in found if limit is not None and str(value) == str(first)]
    limits = tuple(dict.fromkeys(same))
    return Compared(first, limits if len(limits) <= LIMITS_MAX else (), against)


def _comparisons(expr: ast.Expr, *, clears: bool) -> Iterator[tuple[ast.Expr, ast.Expr | None, Limit | None]]:
    """Its comparisons, in their order: the value, what else it is compared with, or the limit."""
    expr = ast.bare(expr)
    if not isinstance(expr, ast.Binary):
        return
    if expr.op == "or":
        yield from _comparisons(expr.lhs, clears=clears)
        yield from _comparisons(expr.rhs, clears=clears)
    elif expr.op in _JOINS:
        yield from _comparisons(expr.lhs, clears=clears or _remembers(expr))
    elif expr.op in _FLIPPED and not expr.returns_bool:
        left, right = constant(expr.lhs), constant(expr.rhs)
        if right is not None and left is None:
            yield ast.bare(expr.lhs), None, Limit(expr.op, right, clears)
        elif left is not None and right is None:
            yield ast.bare(expr.rhs), None, Limit(_FLIPPED[expr.op], left, clears)
        elif left is None:
            yield ast.bare(expr.lhs), ast.bare(expr.rhs), None


def _remembers(expr: ast.Binary) -> bool:
    """Whether it holds for what fires already: the other side of an `and` is the rules' own memory."""
    parts = every(expr.rhs)
    return expr.op == "and" and any(isinstance(part, ast.Selector) and part.name == ALERTS for part in parts)


def _subject(expr: ast.Expr) -> ast.Expr:
    """What an expression without any comparison is about."""
    expr = ast.bare(expr)
    while isinstance(expr, ast.Binary) and expr.op in _JOINS:
        expr = ast.bare(expr.lhs)
    return expr


def constant(expr: ast.Expr) -> float | None:
    """The number that an expression is, worked out; None if it is not one."""
    expr = ast.bare(expr)
    if isinstance(expr, ast.Number):
        return expr.value
    if isinstance(expr, ast.Negation):
        inner = constant(expr.expr)
        return None if inner is None else -inner
    if isinstance(expr, ast.Binary) and expr.op in "+-*/":
        left, right = constant(expr.lhs), constant(expr.rhs)
        if left is None or right is None or (expr.op == "/" and right == 0):
            return None
        return {"+": left + right, "-": left - right, "*": left * right, "/": left / (right or 1.0)}[expr.op]
    return None


def narrowed(expr: ast.Expr, label: str, value: str) -> ast.Expr | None:
    """The same for the series of one label's value alone; None where that could change what comes out."""
    if not all(_keeps(part, label) for part in every(expr)):
        return None
    return _with(expr, Matcher(label, MatchOp.EQUAL, value))


def _keeps(part: ast.Expr, label: str) -> bool:
    if isinstance(part, ast.Aggregate):
        return (label in part.labels) != part.without and part.op != "count_values"
    if isinstance(part, ast.Call):
        return part.function not in _LOOKS_AT_ALL
    if isinstance(part, ast.Binary) and part.matching is not None:
        return (label in part.matching.labels) == part.matching.on
    return True


def _with(expr: ast.Expr, matcher: Matcher) -> ast.Expr:
    """With the matcher in every selector."""
    if isinstance(expr, ast.Selector):
        more = () if matcher in expr.matchers else (matcher,)
        return replace(expr, matchers=(*expr.matchers, *more))
    if isinstance(expr, ast.Range):
        selector = _with(expr.selector, matcher)
        assert isinstance(selector, ast.Selector), "a selector with a matcher more is a selector"
        return replace(expr, selector=selector)
    if isinstance(expr, ast.Call):
        return replace(expr, args=tuple(_with(each, matcher) for each in expr.args))
    if isinstance(expr, ast.Binary):
        return replace(expr, lhs=_with(expr.lhs, matcher), rhs=_with(expr.rhs, matcher))
    if isinstance(expr, ast.Aggregate | ast.Subquery | ast.Negation | ast.Paren):
        return replace(expr, expr=_with(expr.expr, matcher))
    return expr
