"""Where calls and aggregations, and their arguments, stand in the text of an expression.

Prometheus ends a warning with `(line:column)`. The parser gives no positions, so they are found in the tokens: the
calls of a tree, walked from the left, are the calls of the text in the same order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from watchbill_collector.promql import ast
from watchbill_collector.promql.lexer import AGGREGATIONS, OPERATOR_WORDS, Token, place

_GROUPING = ("by", "without")


@dataclass(slots=True)
class Site:
    """A call: the number of its first token, and of the first token of each argument."""

    first: int
    args: list[int] = field(default_factory=list)


class Sites:
    """The calls of one text, in order."""

    def __init__(self, text: str, tokens: Sequence[Token]) -> None:
        self._text = text
        self._tokens = tokens
        self._sites: Iterator[Site] = iter(_found(tokens))

    def take(self) -> Site | None:
        """The next call."""
        return next(self._sites, None)

    def at(self, site: Site | None, args: Sequence[ast.Expr]) -> tuple[str, ...]:
        """`line:column` of a call and of each argument, parentheses around it left out; nothing if unknown."""
        if site is None or len(site.args) != len(args):
            return ()
        return (self._place(site.first), *map(self._place, map(_inside, site.args, args)))

    def is_plus(self, first: int, expr: ast.Expr) -> bool:
        """Whether the expression that begins at a token has a plus before all else: the parser drops it."""
        while isinstance(expr, ast.Paren) and self._tokens[first].text != "+":
            first, expr = first + 1, expr.expr
        return self._tokens[first].text == "+"

    def _place(self, token: int) -> str:
        return place(self._text, self._tokens[token].at)


def first_word(text: str, tokens: Sequence[Token], words: Sequence[str], *, in_braces: bool) -> str:
    """`line:column` of the first of some words, in braces or outside; empty when there is none."""
    depth = 0
    for token in tokens:
        if token.kind == "other" and token.text in "{}":
            depth += 1 if token.text == "{" else -1
        elif token.kind == "word" and token.text.lower() in words and (depth > 0) == in_braces:
            return place(text, token.at)
    return ""


def _inside(first: int, expr: ast.Expr) -> int:
    """The first token behind the parentheses around an expression."""
    while isinstance(expr, ast.Paren):
        first, expr = first + 1, expr.expr
    return first


def _found(tokens: Sequence[Token]) -> list[Site]:
    sites: list[Site] = []
    opened: dict[int, Site] = {}  # by the number of the bracket before the first argument
    stack: list[Site | None] = []
    for number, token in enumerate(tokens):
        if token.kind == "word":
            bracket = _bracket(tokens, number)
            if bracket is not None:
                sites.append(Site(number))
                opened[bracket] = sites[-1]
        elif token.kind != "other":
            continue
        elif token.text in "([{":
            site = opened.get(number)
            stack.append(site)
            if site is not None and _text(tokens, number + 1) != ")":
                site.args.append(number + 1)
        elif token.text in ")]}":
            if stack:
                stack.pop()
        elif (
            token.text == ","
            and stack
            and (site := stack[-1]) is not None
            and _text(tokens, number + 1) != ")"
        ):
            site.args.append(number + 1)
    return sites


def _bracket(tokens: Sequence[Token], number: int) -> int | None:
    """Where the arguments of a call open whose name is this word; None if it is no call."""
    word = tokens[number].text.lower()
    if number and tokens[number - 1].text == "@":
        return None
    if word in AGGREGATIONS and _text(tokens, number + 1) in _GROUPING and _text(tokens, number + 2) == "(":
        closing = number + 3
        while closing < len(tokens) and tokens[closing].text != ")":
            closing += 1
        return closing + 1 if _text(tokens, closing + 1) == "(" else None
    if word in OPERATOR_WORDS or _text(tokens, number + 1) != "(":
        return None
    return number + 1


def _text(tokens: Sequence[Token], number: int) -> str:
    return tokens[number].text.lower() if number < len(tokens) else ""
