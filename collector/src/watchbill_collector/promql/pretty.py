"""`format_query`: an expression on one line if it fits, else split as Prometheus' formatter splits it."""

from watchbill_collector.promql import ast
from watchbill_collector.promql.parse import parse

COLUMNS_MAX = 100
_INDENT = "  "


def format_query(text: str) -> str:
    """The expression in its canonical layout; raises BadQuery."""
    return pretty(parse(text))


def pretty(expr: ast.Expr, level: int = 0) -> str:
    """The layout of an expression, `level` indents deep."""
    indent = _INDENT * level
    line = str(expr)
    if isinstance(expr, ast.Subquery):
        return pretty(expr.expr, level) + expr.suffix()
    if isinstance(expr, ast.Negation):
        return f"{indent}-{pretty(expr.expr, level).strip()}"
    if len(line) <= COLUMNS_MAX:
        return indent + line
    if isinstance(expr, ast.Paren):
        return f"{indent}(\n{pretty(expr.expr, level + 1)}\n{indent})"
    if isinstance(expr, ast.Binary):
        lhs, rhs = pretty(expr.lhs, level + 1), pretty(expr.rhs, level + 1)
        return f"{lhs}\n{indent}{expr.middle()}\n{rhs}"
    if isinstance(expr, ast.Call) and expr.args:
        args = ",\n".join(pretty(arg, level + 1) for arg in expr.args)
        return f"{indent}{expr.function}(\n{args}\n{indent})"
    if isinstance(expr, ast.Aggregate):
        param = "" if expr.param is None else f"{pretty(expr.param, level + 1)},\n"
        return f"{indent}{expr.head()}(\n{param}{pretty(expr.expr, level + 1)}\n{indent})"
    return indent + line
