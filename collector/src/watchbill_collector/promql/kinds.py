"""What may stand where: kinds of arguments and operands, in Prometheus' words and at Prometheus' places.

An expression that the parser refused is read again by `syntax.py`, piece by piece. Each piece knows where it begins
and what it evaluates to, and carries what is wrong in it, in the order in which Prometheus would come upon it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain
from typing import Final

from watchbill_collector.promql.ast import Kind
from watchbill_collector.promql.signatures import SIGNATURES, Signature
from watchbill_collector.promql.text import quoted

SET_OPERATORS: Final = ("and", "or", "unless")
COMPARISONS: Final = ("==", "!=", "<", ">", "<=", ">=")
_PARAMS: Final = {
    **dict.fromkeys(("topk", "bottomk", "quantile", "limitk", "limit_ratio"), Kind.SCALAR),
    "count_values": Kind.STRING,
}
"""Aggregations with a parameter, and its kind."""
_OPERANDS: Final = (Kind.SCALAR, Kind.VECTOR, None)


class Form(Enum):
    """What ranges, offsets and times ask of the piece before them."""

    SELECTOR = "selector"
    RANGE = "range"
    SUBQUERY = "subquery"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, and the number of the character where."""

    at: int
    words: str


@dataclass(slots=True)
class Piece:
    """A part of an expression. `kind` is None where only the parser knows it."""

    at: int
    kind: Kind | None
    faults: list[Fault] = field(default_factory=list)
    form: Form = Form.OTHER
    offset: bool = False
    pinned: bool = False


@dataclass(slots=True)
class Operator:
    """A binary operator with its modifiers."""

    text: str
    at: int
    returns_bool: bool = False
    on: bool = False
    labels: tuple[str, ...] = ()
    grouped: bool = False
    include: tuple[str, ...] = ()


def called(name: str, at: int, args: Sequence[Piece]) -> Piece:
    """A call of a function."""
    signature = SIGNATURES.get(name)
    if signature is None:
        return Piece(at, None, _faults(args))
    faults = _count(name, at, signature, len(args))
    for number, arg in enumerate(args):
        faults += arg.faults
        faults += _expected(arg, signature.wanted(number), f"call to function {quoted(name)}")
    return Piece(at, signature.returns, faults)


def _count(name: str, at: int, signature: Signature, got: int) -> list[Fault]:
    least, most = signature.least, signature.most
    if got >= least and (most is None or got <= most):
        return []
    how, wanted = ("at least ", least) if got < least else ("at most ", most)
    how = how if signature.more else ""
    return [Fault(at, f"expected {how}{wanted} argument(s) in call to {quoted(name)}, got {got}")]


def aggregated(op: str, at: int, args: Sequence[Piece]) -> Piece:
    """An aggregation with as many arguments as it takes."""
    faults = args[-1].faults + _expected(args[-1], Kind.VECTOR, "aggregation expression")
    for param in args[:-1]:
        faults += param.faults + _expected(param, _PARAMS.get(op), "aggregation parameter")
    return Piece(at, Kind.VECTOR, faults)


def arguments_wanted(op: str) -> int:
    """How many arguments an aggregation takes."""
    return 2 if op in _PARAMS else 1


def signed(at: int, piece: Piece) -> Piece:
    """A piece with a sign before it."""
    faults = list(piece.faults)
    if piece.kind not in _OPERANDS:
        words = "unary expression only allowed on expressions of type scalar or instant vector"
        faults.append(Fault(at, f'{words}, got "{_named(piece.kind)}"'))
    return Piece(at, piece.kind, faults)


def combined(lhs: Piece, operator: Operator, rhs: Piece) -> Piece:
    """Two pieces with an operator between them."""
    kinds = (lhs.kind, rhs.kind)
    faults = [*lhs.faults, *rhs.faults, *_modifiers(operator, kinds)]
    for side in (lhs, rhs):
        if side.kind not in _OPERANDS:
            words = "binary expression must contain only scalar and instant vector types"
            faults.append(Fault(side.at, words))
    if None not in kinds:
        faults += _matching(lhs.at, operator, kinds)
    kind = Kind.SCALAR if kinds == (Kind.SCALAR, Kind.SCALAR) else None if None in kinds else Kind.VECTOR
    return Piece(lhs.at, kind, faults)


def _modifiers(operator: Operator, kinds: tuple[Kind | None, Kind | None]) -> list[Fault]:
    faults = []
    compares = operator.text in COMPARISONS
    if operator.returns_bool and not compares:
        faults.append("bool modifier can only be used on comparison operators")
    if compares and not operator.returns_bool and kinds == (Kind.SCALAR, Kind.SCALAR):
        faults.append("comparisons between scalars must use BOOL modifier")
    faults += [
        f"label {quoted(label)} must not occur in ON and GROUP clause at once"
        for label in operator.labels
        if operator.on and label in operator.include
    ]
    return [Fault(operator.at, words) for words in faults]


def _matching(at: int, operator: Operator, kinds: tuple[Kind | None, Kind | None]) -> list[Fault]:
    faults = []
    sets = operator.text in SET_OPERATORS
    if kinds != (Kind.VECTOR, Kind.VECTOR):
        if operator.labels:
            faults.append("vector matching only allowed between instant vectors")
    elif sets and operator.grouped:
        faults.append(f"no grouping allowed for {quoted(operator.text)} operation")
    if sets and Kind.SCALAR in kinds:
        faults.append(f"set operator {quoted(operator.text)} not allowed in binary scalar expression")
    return [Fault(at, words) for words in faults]


def repeated(piece: Piece) -> Piece:
    """A piece evaluated over a range: a subquery."""
    faults = list(piece.faults)
    if piece.kind not in (Kind.VECTOR, None):
        words = f"subquery is only allowed on instant vector, got {_named(piece.kind)} instead"
        faults.append(Fault(piece.at, words))
    return Piece(piece.at, Kind.MATRIX, faults, Form.SUBQUERY)


def _expected(piece: Piece, wanted: Kind | None, where: str) -> list[Fault]:
    if None in (wanted, piece.kind) or piece.kind is wanted:
        return []
    return [Fault(piece.at, f"expected type {_named(wanted)} in {where}, got {_named(piece.kind)}")]


def _named(kind: Kind | None) -> str:
    assert kind is not None, "what is not known is not judged"
    return kind.value


def _faults(pieces: Sequence[Piece]) -> list[Fault]:
    return list(chain.from_iterable(piece.faults for piece in pieces))
