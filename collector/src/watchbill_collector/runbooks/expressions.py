"""What an expression comes to, given what the run knows and what the facts say.

Nothing here raises for what a host may have printed: kinds that cannot be compared, a part that is not there, a
division by nothing are UNKNOWN. Texts are compared for being equal alone, because "10" < "9" helps nobody. What is
neither true nor false is UNKNOWN where a truth is wanted.
"""

import math
import operator
from collections.abc import Callable
from typing import Final

from watchbill_collector.runbooks.expression import UNKNOWN, Expression, Facts, Scope, Unknown, Value
from watchbill_collector.runbooks.expression_parser import BadExpression, parse
from watchbill_collector.runbooks.expression_tree import (
    All,
    Ask,
    Chain,
    Compare,
    Field,
    Index,
    Literal,
    Minus,
    Name,
    Node,
    Not,
    Path,
    Some,
    written,
)

__all__ = ["NO_FACTS", "BadExpression", "NoFacts", "evaluate", "holds", "parse", "show", "tree_of", "truth"]

WHOLE_MAX: Final = 2**63
"""Beyond it a whole number is reckoned with as a fraction, so that no product grows without end."""

_ORDERS: Final[dict[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class NoFacts:
    """Nobody to ask: every fact is UNKNOWN."""

    def metric(self, host: str, name: str) -> Value:  # noqa: ARG002 - The protocol's.
        """Unknown."""
        return UNKNOWN

    def alert(self, name: str, host: str) -> Value:  # noqa: ARG002 - The protocol's.
        """Unknown."""
        return UNKNOWN

    def backup(self, job: str) -> Value:  # noqa: ARG002 - The protocol's.
        """Unknown."""
        return UNKNOWN

    def host(self, name: str) -> Value:  # noqa: ARG002 - The protocol's.
        """Unknown."""
        return UNKNOWN


NO_FACTS: Final = NoFacts()


def evaluate(expression: Expression, scope: Scope, facts: Facts = NO_FACTS) -> Value:
    """The value; UNKNOWN where something that it needs is missing."""
    return _Reckoning(scope, facts).value(tree_of(expression))


def holds(value: Value) -> bool:
    """Whether a value satisfies a check: only true does."""
    return value is True


def truth(value: Value) -> bool | Unknown:
    """A value where a truth is wanted."""
    return value if isinstance(value, bool) else UNKNOWN


def show(expression: Expression) -> str:
    """An expression in its one spelling, which is read back as the same."""
    return written(tree_of(expression))


def tree_of(expression: Expression) -> Node:
    """What `parse` made, for who looks into expressions."""
    assert isinstance(expression.tree, Node), "made by parse"
    return expression.tree


class _Reckoning:
    def __init__(self, scope: Scope, facts: Facts) -> None:
        self._scope = scope
        self._facts = facts

    def value(self, node: Node) -> Value:
        match node:
            case Literal(value):
                return value
            case Name(name):
                return _clean(self._scope.get(name, UNKNOWN))
            case Path(base, steps):
                return self._path(self.value(base), steps)
            case Ask(function, arguments):
                return self._ask(function, [self.value(one) for one in arguments])
            case Not(of):
                fact = truth(self.value(of))
                return UNKNOWN if isinstance(fact, Unknown) else not fact
            case Minus(of):
                number = _number(self.value(of))
                return UNKNOWN if isinstance(number, Unknown) else _clean(-number)
            case All(parts):
                return self._joined(parts, decisive=False)
            case Some(parts):
                return self._joined(parts, decisive=True)
            case Compare(sign, left, right):
                return _compared(sign, self.value(left), self.value(right))
            case Chain(first, rest):
                found = self.value(first)
                for sign, one in rest:
                    found = _reckoned(sign, found, self.value(one))
                return found

    def _joined(self, parts: tuple[Node, ...], *, decisive: bool) -> Value:
        """`and` is decided by what is false, `or` by what is true, whatever is unknown beside it."""
        found = [truth(self.value(one)) for one in parts]
        if any(one is decisive for one in found):
            return decisive
        return UNKNOWN if UNKNOWN in found else not decisive

    def _path(self, found: Value, steps: tuple[Field | Index, ...]) -> Value:
        for step in steps:
            key: Value = step.name if isinstance(step, Field) else self.value(step.of)
            if isinstance(found, dict) and isinstance(key, str):
                found = found.get(key, UNKNOWN)
            elif isinstance(found, list) and isinstance(key, int) and not isinstance(key, bool):
                found = found[key] if 0 <= key < len(found) else UNKNOWN
            else:
                return UNKNOWN
        return _clean(found)

    def _ask(self, function: str, arguments: list[Value]) -> Value:
        texts = [one for one in arguments if isinstance(one, str)]
        if len(texts) < len(arguments):
            return UNKNOWN
        match function, texts:
            case "metric", [host, name]:
                return _clean(self._facts.metric(host, name))
            case "alert", [name, host]:
                return _clean(self._facts.alert(name, host))
            case "backup", [job]:
                return _clean(self._facts.backup(job))
            case "host", [name]:
                return _clean(self._facts.host(name))
            case _:
                raise AssertionError(f"no function {function}")


def _clean(value: Value) -> Value:
    """A value without what nothing can be done with: JSON's null, and numbers that are none."""
    if value is None:
        return UNKNOWN
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _number(value)
    return value


def _number(value: Value) -> int | float | Unknown:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return UNKNOWN
    if isinstance(value, int) and abs(value) <= WHOLE_MAX:
        return value
    try:
        number = float(value)
    except OverflowError:
        return UNKNOWN
    return number if math.isfinite(number) else UNKNOWN


def _compared(sign: str, left: Value, right: Value) -> Value:
    a, b = _number(left), _number(right)
    if not isinstance(a, Unknown) and not isinstance(b, Unknown):
        if sign in _ORDERS:
            return _ORDERS[sign](a, b)
        return (a == b) is (sign == "==")
    same_kind = (isinstance(left, str) and isinstance(right, str)) or (
        isinstance(left, bool) and isinstance(right, bool)
    )
    if sign in _ORDERS or not same_kind:
        return UNKNOWN
    return (left == right) is (sign == "==")


def _reckoned(sign: str, left: Value, right: Value) -> Value:
    a, b = _number(left), _number(right)
    if isinstance(a, Unknown) or isinstance(b, Unknown):
        return UNKNOWN
    try:
        match sign:
            case "+":
                return _number(a + b)
            case "-":
                return _number(a - b)
            case "*":
                return _number(a * b)
            case _:
                whole = isinstance(a, int) and isinstance(b, int) and b != 0 and a % b == 0
                return _number(a // b if whole else a / b)
    except (OverflowError, ZeroDivisionError):
        return UNKNOWN
