"""What an expression reads: its selectors, and how far back each looks. The head keeps just that."""

from collections.abc import Iterator

from watchbill_collector.head import LOOKBACK_MS, Watch
from watchbill_collector.labels import METRIC_NAME
from watchbill_collector.promql import ast
from watchbill_collector.promql.engine import SUBQUERY_STEP_MS
from watchbill_collector.series import Matcher, MatchOp

WINDOW_MS_MAX = 31 * 86_400_000
"""The longest window that a rule may look back over."""


def watches(expr: ast.Expr) -> list[Watch]:
    """The selectors of an expression that is evaluated at one moment."""
    return list(_watches(expr, 0, many=False))


def _watches(expr: ast.Expr, before_ms: int, *, many: bool) -> Iterator[Watch]:
    if isinstance(expr, ast.Selector):
        # Every step of a subquery looks back on its own; a single step needs only the newest sample.
        lookback_ms = LOOKBACK_MS if many else 0
        yield Watch(expr.matchers, max(0, before_ms + expr.offset_ms + lookback_ms))
    elif isinstance(expr, ast.Range):
        yield Watch(expr.selector.matchers, max(0, before_ms + expr.selector.offset_ms + expr.range_ms))
    elif isinstance(expr, ast.Subquery):
        step_ms = expr.step_ms or SUBQUERY_STEP_MS
        yield from _watches(expr.expr, before_ms + expr.offset_ms + expr.range_ms + step_ms, many=True)
    else:
        for child in children(expr):
            yield from _watches(child, before_ms, many=many)


def children(expr: ast.Expr) -> tuple[ast.Expr, ...]:
    """The expressions directly inside another."""
    if isinstance(expr, ast.Call):
        return expr.args
    if isinstance(expr, ast.Aggregate):
        return (expr.expr,) if expr.param is None else (expr.expr, expr.param)
    if isinstance(expr, ast.Binary):
        return (expr.lhs, expr.rhs)
    if isinstance(expr, ast.Range):
        return (expr.selector,)
    if isinstance(expr, ast.Subquery | ast.Negation | ast.Paren):
        return (expr.expr,)
    return ()


def every(expr: ast.Expr) -> Iterator[ast.Expr]:
    """The expression and all expressions inside it."""
    yield expr
    for child in children(expr):
        yield from every(child)


def pinned(expr: ast.Expr) -> ast.Expr | None:
    """The first part that is pinned to a time by `@`: rules are judged now, and the head holds no other
    time."""
    for part in every(expr):
        if isinstance(part, ast.Selector | ast.Subquery) and isinstance(part.at, int):
            return part
    return None


def judges_absence(expr: ast.Expr) -> bool:
    """Whether something may come out because data is missing: then it means nothing before the data is
    there."""
    for part in every(expr):
        if isinstance(part, ast.Call) and part.function in ("absent", "absent_over_time", "vector", "scalar"):
            return True
        if isinstance(part, ast.Aggregate):
            return True
        if isinstance(part, ast.Binary) and part.op in ("unless", "or"):
            return True
    return False


def asks_absence(expr: ast.Expr) -> bool:
    """Whether the expression itself asks if data is missing or old: then missing data is an answer, not a doubt."""
    for part in every(expr):
        if isinstance(part, ast.Call) and part.function in ("absent", "absent_over_time", "timestamp"):
            return True
        if isinstance(part, ast.Binary) and part.op == "unless":
            return True
    return False


def made_here(matchers: tuple[Matcher, ...]) -> bool:
    """Whether a selector reads what the collector says by itself, whatever a host sends."""
    return any(
        matcher.name == METRIC_NAME and matcher.op is MatchOp.EQUAL and matcher.value in _MADE_HERE
        for matcher in matchers
    )


_MADE_HERE = frozenset(["up", "ALERTS", "ALERTS_FOR_STATE"])


def metric_names(expr: ast.Expr) -> frozenset[str]:
    """The metric names that the selectors ask for by equality."""
    return frozenset(
        matcher.value
        for part in every(expr)
        if isinstance(part, ast.Selector)
        for matcher in part.matchers
        if matcher.name == METRIC_NAME and matcher.op is MatchOp.EQUAL
    )
