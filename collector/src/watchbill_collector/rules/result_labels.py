"""Which labels a result of an expression can have, as far as its text says.

A threshold's `where` and overrides are matchers on the result. A label that the expression sums away can never match
there, and a threshold that can never fire is a mistake to be told of when the file is read.
"""

from dataclasses import dataclass

from watchbill_collector.promql import ast

_NONE_CALLS = frozenset(["vector", "scalar", "time", "pi"])
_PICKS = frozenset(["topk", "bottomk", "limitk", "limit_ratio"])


@dataclass(frozen=True, slots=True)
class Possible:
    """A set of label names: those in `names`, or with `all_but` every other."""

    names: frozenset[str]
    all_but: bool

    def __contains__(self, name: object) -> bool:
        return (name in self.names) is not self.all_but

    def only(self, names: frozenset[str]) -> "Possible":
        """What is also in `names`."""
        return Possible(frozenset(name for name in names if name in self), all_but=False)

    def without(self, names: frozenset[str]) -> "Possible":
        """What is not in `names`."""
        return Possible(self.names | names if self.all_but else self.names - names, self.all_but)

    def plus(self, names: frozenset[str]) -> "Possible":
        """And these too."""
        return Possible(self.names - names if self.all_but else self.names | names, self.all_but)


_EVERY = Possible(frozenset(), all_but=True)
_NO_LABEL = Possible(frozenset(), all_but=False)


def possible_labels(expr: ast.Expr) -> Possible:
    """The labels that a result may have; too many rather than too few."""
    expr = ast.bare(expr)
    if isinstance(expr, ast.Negation | ast.Subquery):
        return possible_labels(expr.expr)
    if isinstance(expr, ast.Aggregate):
        return _of_aggregate(expr)
    if isinstance(expr, ast.Binary):
        return _of_binary(expr)
    if isinstance(expr, ast.Call):
        vectors = [arg for arg in expr.args if arg.kind in (ast.Kind.VECTOR, ast.Kind.MATRIX)]
        if expr.function in _NONE_CALLS:
            return _NO_LABEL
        if expr.function.startswith(("absent", "label_")) or not vectors:
            return _EVERY
        return possible_labels(vectors[0])
    return _NO_LABEL if expr.kind is ast.Kind.SCALAR else _EVERY


def _of_aggregate(expr: ast.Aggregate) -> Possible:
    inner = possible_labels(expr.expr)
    if expr.op in _PICKS:
        return inner
    labels = frozenset(expr.labels)
    kept = inner.without(labels) if expr.without else inner.only(labels)
    if isinstance(expr.param, ast.String):
        return kept.plus(frozenset([expr.param.value]))
    return kept


def _of_binary(expr: ast.Binary) -> Possible:
    left, right = possible_labels(expr.lhs), possible_labels(expr.rhs)
    if expr.matching is None:
        return left if expr.lhs.kind is ast.Kind.VECTOR else right
    if expr.op in ("and", "unless"):
        return left
    if expr.op == "or":
        return _EVERY if left.all_but or right.all_but else left.plus(right.names)
    matching = expr.matching
    labels = frozenset(matching.labels)
    if matching.card is ast.Card.ONE_TO_ONE:
        return left.only(labels) if matching.on else left.without(labels)
    many = left if matching.card is ast.Card.MANY_TO_ONE else right
    return many.plus(frozenset(matching.include))
