"""Whether an expression judges every host by that host's data alone.

    sum by (instance) (rate(errors_total[5m])) > 1            each host alone
    node_load1 > on (job) group_left avg by (job) (node_load1)    each host beside all of its job
    count(up == 0) > 3                                        all of them together

After a start hosts come back one after the other. What is judged of each alone can be judged as soon as that host is
heard again; the rest must wait for everybody. In doubt the answer is no.
"""

from watchbill_collector.promql import ast

INSTANCE = "instance"

_RELABELS = frozenset(["label_replace", "label_join"])
_CONSTANT = frozenset(["time", "pi", "vector"])
"""Functions whose answer is the same for every host, if what they are given is."""
_EVERYBODY = frozenset(["scalar", "info"])
"""Functions that bring the data of other hosts in."""


def judges_each_alone(expr: ast.Expr) -> bool:
    """Whether a result with an `instance` comes from series with that `instance` and from nothing else."""
    if isinstance(expr, ast.Number | ast.String | ast.Selector | ast.Range):
        return True
    if isinstance(expr, ast.Subquery | ast.Negation | ast.Paren):
        return judges_each_alone(expr.expr)
    if isinstance(expr, ast.Aggregate):
        return _keeps_hosts_apart(expr) and judges_each_alone(expr.expr)
    if isinstance(expr, ast.Binary):
        return _meets_itself(expr) and judges_each_alone(expr.lhs) and judges_each_alone(expr.rhs)
    return _is_of_one_host(expr) and all(judges_each_alone(arg) for arg in expr.args)


def reads_nothing(expr: ast.Expr) -> bool:
    """Whether there is no series in it: then there is no data to wait for."""
    if isinstance(expr, ast.Number | ast.String):
        return True
    if isinstance(expr, ast.Subquery | ast.Negation | ast.Paren):
        return reads_nothing(expr.expr)
    if isinstance(expr, ast.Aggregate):
        return reads_nothing(expr.expr) and (expr.param is None or reads_nothing(expr.param))
    if isinstance(expr, ast.Binary):
        return reads_nothing(expr.lhs) and reads_nothing(expr.rhs)
    if isinstance(expr, ast.Call):
        return all(reads_nothing(arg) for arg in expr.args)
    return False


def _keeps_hosts_apart(expr: ast.Aggregate) -> bool:
    if expr.param is not None and not reads_nothing(expr.param):
        return False
    named = isinstance(expr.param, ast.String) and expr.param.value == INSTANCE
    return not named and (INSTANCE in expr.labels) is not expr.without


def _meets_itself(expr: ast.Binary) -> bool:
    matching = expr.matching
    if matching is None:
        return True  # A scalar beside a vector; `scalar()` of a vector is refused on its own.
    if INSTANCE in matching.include:
        return False
    return (INSTANCE in matching.labels) is matching.on


def _is_of_one_host(expr: ast.Call) -> bool:
    if expr.function in _EVERYBODY:
        return reads_nothing(expr)
    if expr.function in _RELABELS:
        target = expr.args[1]
        return isinstance(target, ast.String) and target.value != INSTANCE
    if expr.function in _CONSTANT:
        return reads_nothing(expr)
    return True
