"""The expression tree: small, typed, frozen, and ours; nothing here knows the parser.

Times and durations are whole milliseconds. Every node knows its `kind` and prints itself as Prometheus prints
it (`str(node)`), which errors quote and `format_query` builds on.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from watchbill_collector.labels import METRIC_NAME
from watchbill_collector.matching import Matcher, MatchOp
from watchbill_collector.promql.text import duration_text, float_text, label_text, quoted


class Kind(Enum):
    """What an expression evaluates to, in the words of Prometheus' error messages."""

    SCALAR = "scalar"
    VECTOR = "instant vector"
    MATRIX = "range vector"
    STRING = "string"


class Side(Enum):
    """The `start()` and `end()` of an `@` modifier: the query's own bounds."""

    START = "start"
    END = "end"


At = int | Side
"""Where an `@` modifier points: UTC milliseconds, or a side of the query."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number literal."""

    value: float
    kind = Kind.SCALAR

    def __str__(self) -> str:
        return float_text(self.value, plain=True)


@dataclass(frozen=True, slots=True)
class String:
    """A string literal."""

    value: str
    kind = Kind.STRING

    def __str__(self) -> str:
        return quoted(self.value)


@dataclass(frozen=True, slots=True)
class Selector:
    """An instant vector selector. `matchers` hold the metric name too, as a matcher on `__name__`."""

    name: str
    matchers: tuple[Matcher, ...]
    offset_ms: int = 0
    at: At | None = None
    kind = Kind.VECTOR

    def __str__(self) -> str:
        return self.bare() + time_suffix(self.at, self.offset_ms)

    def bare(self) -> str:
        """Without @ and offset."""
        shown = sorted(
            f"{label_text(matcher.name)}{matcher.op.value}{quoted(matcher.value)}"
            for matcher in self.matchers
            if not (
                matcher.name == METRIC_NAME
                and matcher.op is MatchOp.EQUAL
                and matcher.value == self.name
                and self.name
            )
        )
        return self.name + ("{" + ",".join(shown) + "}" if shown else "")


@dataclass(frozen=True, slots=True)
class Range:
    """A range vector selector; @ and offset are the selector's."""

    selector: Selector
    range_ms: int
    kind = Kind.MATRIX

    def __str__(self) -> str:
        selector = self.selector
        return (
            f"{selector.bare()}[{duration_text(self.range_ms)}]{time_suffix(selector.at, selector.offset_ms)}"
        )


@dataclass(frozen=True, slots=True)
class Subquery:
    """A range vector made by evaluating `expr` at every `step_ms`; None is the engine's default step."""

    expr: "Expr"
    range_ms: int
    step_ms: int | None
    offset_ms: int = 0
    at: At | None = None
    kind = Kind.MATRIX

    def __str__(self) -> str:
        return f"{self.expr}{self.suffix()}"

    def suffix(self) -> str:
        """What stands behind the inner expression."""
        step = "" if self.step_ms is None else duration_text(self.step_ms)
        return f"[{duration_text(self.range_ms)}:{step}]{time_suffix(self.at, self.offset_ms)}"


@dataclass(frozen=True, slots=True)
class Call:
    """A function call; `returns` is the function's kind. `at`: where it stands, and each argument (`1:15`)."""

    function: str
    args: tuple["Expr", ...]
    returns: Kind
    at: tuple[str, ...] = field(default=(), compare=False)

    @property
    def kind(self) -> Kind:
        """What the function returns."""
        return self.returns

    def __str__(self) -> str:
        return f"{self.function}({', '.join(map(str, self.args))})"


@dataclass(frozen=True, slots=True)
class Aggregate:
    """An aggregation, `by` the labels or `without` them. `param` is k, the quantile or the label's name."""

    op: str
    expr: "Expr"
    param: "Expr | None"
    without: bool
    labels: tuple[str, ...]
    at: tuple[str, ...] = field(default=(), compare=False)
    kind = Kind.VECTOR

    def __str__(self) -> str:
        param = "" if self.param is None else f"{self.param}, "
        return f"{self.head()}({param}{self.expr})"

    def head(self) -> str:
        """The operator with its grouping."""
        if not self.without and not self.labels:
            return self.op
        return f"{self.op} {'without' if self.without else 'by'} ({label_list(self.labels)}) "


class Card(Enum):
    """Which side of a binary operator may have several series for one of the other side."""

    ONE_TO_ONE = "one-to-one"
    MANY_TO_ONE = "many-to-one"
    ONE_TO_MANY = "one-to-many"
    MANY_TO_MANY = "many-to-many"


@dataclass(frozen=True, slots=True)
class Matching:
    """How series of two vectors find each other. `include` are the labels of group_left or group_right."""

    card: Card
    on: bool
    labels: tuple[str, ...]
    include: tuple[str, ...] = ()

    def __str__(self) -> str:
        grouped = self.card in (Card.MANY_TO_ONE, Card.ONE_TO_MANY)
        out = ""
        if self.labels or self.on or grouped:
            out = f" {'on' if self.on else 'ignoring'} ({label_list(self.labels)})"
        if grouped:
            side = "left" if self.card is Card.MANY_TO_ONE else "right"
            out += f" group_{side} ({label_list(self.include)})"
        return out


@dataclass(frozen=True, slots=True)
class Binary:
    """A binary operator; `matching` is None unless both sides are vectors."""

    op: str
    lhs: "Expr"
    rhs: "Expr"
    returns_bool: bool
    matching: Matching | None

    @property
    def kind(self) -> Kind:
        """Scalar if both sides are."""
        both = self.lhs.kind is Kind.SCALAR and self.rhs.kind is Kind.SCALAR
        return Kind.SCALAR if both else Kind.VECTOR

    def __str__(self) -> str:
        return f"{self.lhs} {self.middle()} {self.rhs}"

    def middle(self) -> str:
        """The operator with its modifiers."""
        return f"{self.op}{' bool' if self.returns_bool else ''}{self.matching or ''}"


@dataclass(frozen=True, slots=True)
class Negation:
    """A unary minus."""

    expr: "Expr"

    @property
    def kind(self) -> Kind:
        """The operand's."""
        return self.expr.kind

    def __str__(self) -> str:
        return f"-{self.expr}"


@dataclass(frozen=True, slots=True)
class Paren:
    """Parentheses, kept for printing."""

    expr: "Expr"

    @property
    def kind(self) -> Kind:
        """The content's."""
        return self.expr.kind

    def __str__(self) -> str:
        return f"({self.expr})"


Expr = Number | String | Selector | Range | Subquery | Call | Aggregate | Binary | Negation | Paren


def place(expr: "Call | Aggregate", arg: int | None = None) -> str:
    """Where an expression stands, or one of its arguments; empty if that is not known."""
    number = 0 if arg is None else arg + 1
    return expr.at[number] if number < len(expr.at) else ""


def bare(expr: Expr) -> Expr:
    """The expression without the parentheses around it."""
    while isinstance(expr, Paren):
        expr = expr.expr
    return expr


def label_list(labels: Iterable[str]) -> str:
    """Label names as they stand in a grouping."""
    return ", ".join(map(label_text, labels))


def time_suffix(at: At | None, offset_ms: int) -> str:
    """The @ and offset modifiers, as they stand behind a selector."""
    out = ""
    if isinstance(at, Side):
        out = f" @ {at.value}()"
    elif at is not None:
        out = f" @ {at / 1000:.3f}"
    if offset_ms:
        out += f" offset {duration_text(offset_ms)}"
    return out
