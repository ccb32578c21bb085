"""Text to tree: the only module that knows promql-parser.

What the parser lets through and we do not evaluate is refused here, by name. Its own panics cannot happen on
what `lexer.prepare` passes; should one, it is reported as a bad query and not as a crash.
"""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import promql_parser as parser

from watchbill_collector.labels import METRIC_NAME
from watchbill_collector.matching import InvalidRegex, Matcher, MatchOp
from watchbill_collector.promql import ast
from watchbill_collector.promql.errors import BadQuery, NotSupported, TooLarge
from watchbill_collector.promql.lexer import Prepared, Token, prepare, tokens, told
from watchbill_collector.promql.positions import Sites, first_word
from watchbill_collector.promql.syntax import fault
from watchbill_collector.promql.wording import worded

DEPTH_MAX = 150
"""Levels of the tree; evaluation takes a few Python frames for each."""

_CARDS = {
    "OneToOne": ast.Card.ONE_TO_ONE,
    "ManyToOne": ast.Card.MANY_TO_ONE,
    "OneToMany": ast.Card.ONE_TO_MANY,
    "ManyToMany": ast.Card.MANY_TO_MANY,
}
_KINDS = {
    "Scalar": ast.Kind.SCALAR,
    "Vector": ast.Kind.VECTOR,
    "Matrix": ast.Kind.MATRIX,
    "String": ast.Kind.STRING,
}
_MATCH_OPS = {
    "Equal": MatchOp.EQUAL,
    "NotEqual": MatchOp.NOT_EQUAL,
    "Re": MatchOp.REGEX,
    "NotRe": MatchOp.NOT_REGEX,
}

_FILLS = ("fill", "fill_left", "fill_right")
_UNKNOWN = re.compile(r"unknown function with name '(\w+)'")
_OF_SIGNS = "unary expression only allowed on expressions of type scalar or instant vector"


def parse(text: str) -> ast.Expr:
    """The tree of an expression; raises BadQuery, or NotSupported for what we refuse."""
    try:
        prepared = prepare(text)
    except (NotSupported, TooLarge):
        raise
    except BadQuery as error:
        raise _refused(text, told(tokens(text)), str(error)) from None
    try:
        parsed = parser.parse(prepared.text)
        return _Converter(text, prepared).tree(parsed)
    except ValueError as error:
        words = f"parse error: {prepared.places.named(worded(str(error)))}"
        raise _refused(text, prepared.tokens, words) from None
    except BaseException as error:
        # The binding's PanicException is no Exception and has no importable name.
        if type(error).__name__ != "PanicException":
            raise
        raise BadQuery(f"the parser cannot read this expression: {error}", text) from None


def _refused(text: str, seen: Sequence[Token], error: str) -> BadQuery:
    """What is wrong with a text and where; `error` if nothing is found."""
    unknown = _UNKNOWN.search(error)
    return BadQuery(fault(text, seen, unknown[1] if unknown else "") or error, text)


def _name(member: Any) -> str:
    """`Equal` of `MatchOp.Equal`: the binding's enums are neither hashable nor iterable."""
    return str(member).rpartition(".")[2]


class _Converter:
    """Turns the binding's nodes into ours."""

    def __init__(self, text: str, prepared: Prepared) -> None:
        self._refused = partial(_refused, text, prepared.tokens)
        self._first = partial(first_word, text, prepared.tokens)
        self._at_ms = prepared.at_ms
        self._text = prepared.places.text
        self._sites = Sites(text, prepared.tokens)
        self._depth = 0

    def tree(self, node: Any) -> ast.Expr:
        """The whole tree."""
        out = self.expr(node)
        self._check_plus(0, out)
        return out

    def expr(self, node: Any) -> ast.Expr:
        """Any node."""
        convert = getattr(self, "_" + type(node).__name__, None)
        if convert is None:
            raise NotSupported(f"{type(node).__name__}")
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise BadQuery(f"the expression has more than {DEPTH_MAX} levels")
        out: ast.Expr = convert(node)
        self._depth -= 1
        return out

    def _NumberLiteral(self, node: Any) -> ast.Expr:  # noqa: N802  # Methods are named after the node's class.
        return ast.Number(float(node.val))

    def _StringLiteral(self, node: Any) -> ast.Expr:  # noqa: N802
        return ast.String(self._text(node.val))

    def _ParenExpr(self, node: Any) -> ast.Expr:  # noqa: N802
        return ast.Paren(self.expr(node.expr))

    def _UnaryExpr(self, node: Any) -> ast.Expr:  # noqa: N802
        return ast.Negation(self.expr(node.expr))

    def _VectorSelector(self, node: Any) -> ast.Selector:  # noqa: N802
        if node.matchers.or_matchers:
            raise NotSupported("'or' between label matchers", at=self._first(("or",), in_braces=True))
        matchers = [
            Matcher(self._text(matcher.name), _MATCH_OPS[_name(matcher.op)], self._text(matcher.value))
            for matcher in node.matchers.matchers
        ]
        for matcher in matchers:
            if matcher.op in (MatchOp.REGEX, MatchOp.NOT_REGEX):
                _check_regex(matcher)
        name = self._text(node.name or "")
        if name and not any(matcher.name == METRIC_NAME for matcher in matchers):
            matchers.insert(0, Matcher(METRIC_NAME, MatchOp.EQUAL, name))
        return ast.Selector(name, tuple(matchers), _ms(node.offset), self._at(node.at))

    def _MatrixSelector(self, node: Any) -> ast.Expr:  # noqa: N802
        return ast.Range(self._VectorSelector(node.vector_selector), _ms(node.range))

    def _SubqueryExpr(self, node: Any) -> ast.Expr:  # noqa: N802
        step_ms = None if node.step is None else _ms(node.step)
        return ast.Subquery(
            self.expr(node.expr), _ms(node.range), step_ms, _ms(node.offset), self._at(node.at)
        )

    def _Call(self, node: Any) -> ast.Expr:  # noqa: N802
        site = self._sites.take()
        args = tuple(self.expr(arg) for arg in node.args)
        for first, arg in zip(site.args if site else (), args, strict=False):
            self._check_plus(first, arg)
        kind = _KINDS[_name(node.func.return_type)]
        return ast.Call(node.func.name, args, kind, self._sites.at(site, args))

    def _AggregateExpr(self, node: Any) -> ast.Expr:  # noqa: N802
        site = self._sites.take()
        modifier = node.modifier
        without = modifier is not None and _name(modifier.type) == "Without"
        labels = () if modifier is None else tuple(map(self._text, modifier.labels))
        param = None if node.param is None else self.expr(node.param)
        inner = self.expr(node.expr)
        at = self._sites.at(site, (inner,) if param is None else (param, inner))
        return ast.Aggregate(str(node.op), inner, param, without, labels, at)

    def _check_plus(self, first: int, expr: ast.Expr) -> None:
        if expr.kind in (ast.Kind.STRING, ast.Kind.MATRIX) and self._sites.is_plus(first, expr):
            raise self._refused(f'parse error: {_OF_SIGNS}, got "{expr.kind.value}"')

    def _BinaryExpr(self, node: Any) -> ast.Expr:  # noqa: N802
        lhs, rhs = self.expr(node.lhs), self.expr(node.rhs)
        modifier = node.modifier
        returns_bool = modifier is not None and bool(modifier.return_bool)
        if modifier is not None:
            fill = modifier.fill_values
            if fill is not None and (fill.lhs is not None or fill.rhs is not None):
                raise NotSupported("the 'fill' modifier", at=self._first(_FILLS, in_braces=False))
        matching = None
        op = str(node.op)
        if lhs.kind is ast.Kind.VECTOR and rhs.kind is ast.Kind.VECTOR:
            matching = self._matching(op, modifier)
        return ast.Binary(op, lhs, rhs, returns_bool, matching)

    def _at(self, at: Any) -> ast.At | None:
        if at is None:
            return None
        kind = _name(at.type)
        if kind == "Start":
            return ast.Side.START
        if kind == "End":
            return ast.Side.END
        # The lexer has replaced the time by its index.
        index: int = round(at.at.timestamp())
        return self._at_ms[index]

    def _matching(self, op: str, modifier: Any) -> ast.Matching:
        card = ast.Card.MANY_TO_MANY if op in ("and", "or", "unless") else ast.Card.ONE_TO_ONE
        if modifier is None:
            return ast.Matching(card, on=False, labels=())
        if card is not ast.Card.MANY_TO_MANY:
            card = _CARDS[_name(modifier.card)]
        on = False
        labels: tuple[str, ...] = ()
        if modifier.matching is not None:
            on = _name(modifier.matching.type) == "Include"
            labels = tuple(map(self._text, modifier.matching.labels))
        include = tuple(map(self._text, modifier.group_labels or ()))
        return ast.Matching(card, on=on, labels=labels, include=include)


def _check_regex(matcher: Matcher) -> None:
    """The parser checks regexes by Rust's syntax; what counts is whether RE2 takes them."""
    try:
        matcher.check()
    except InvalidRegex as error:
        raise BadQuery(f"parse error: {error}", f"{matcher.name}{matcher.op.value}{matcher.value}") from None


def _ms(duration: Any) -> int:
    """A timedelta in whole milliseconds; None is 0."""
    if duration is None:
        return 0
    total: int = duration.days * 86_400_000 + duration.seconds * 1000 + duration.microseconds // 1000
    return total
