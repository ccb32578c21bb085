"""Where an expression that the parser refused goes wrong.

The parser says `invalid promql query` of most of what it cannot read, and never where. Prometheus says
`1:5: parse error: unexpected identifier "bar"`, which is what somebody needs who looks at a rule of six lines. So the
tokens of a refused expression are walked once more: between operands stand operators, and the first token that may
not stand where it does is the one to look at. What is wrong in another way is not found here.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from watchbill_collector.promql.lexer import AGGREGATIONS, BINARY_WORDS, OPERATOR_WORDS, Token, place

_GROUPING: Final = ("by", "without")
_MATCHING: Final = ("on", "ignoring")
_GROUP_SIDES: Final = ("group_left", "group_right")
_SIGNS: Final = ("+", "-")
_SYMBOLS: Final = "+-*/%^<>"
_COMPARISONS: Final = ("=", "!", "<", ">")
"""The first half of `==`, `!=`, `<=` and `>=`."""
_KINDS: Final = {"word": "identifier ", "number": "number ", "duration": "duration "}


class _Found(Exception):
    """The answer: the number of the token that is in the wrong place, and what might stand there."""

    def __init__(self, number: int, wanted: str) -> None:
        super().__init__(number, wanted)
        self.number = number
        self.wanted = wanted


def unexpected(text: str, tokens: Sequence[Token]) -> str:
    """`1:5: parse error: unexpected ..., wanted ...`, or nothing when every token stands where it may."""
    try:
        _Walk(tokens).run()
    except _Found as found:
        where, what = len(text), "end of input"
        if found.number < len(tokens):
            token = tokens[found.number]
            where = token.at
            what = token.text if token.kind == "string" else f'{_KINDS.get(token.kind, "")}"{token.text}"'
        return f"{place(text, where)}: parse error: unexpected {what}, wanted {found.wanted}"
    return ""


def place_of_call(text: str, tokens: Sequence[Token], name: str) -> str:
    """`line:column` of the one call of a function; nothing when there are several, or none."""
    calls = [
        token.at
        for token, behind in pairwise(tokens)
        if token.kind == "word" and token.text == name and behind.text == "("
    ]
    return place(text, calls[0]) if len(calls) == 1 else ""


class _Walk:
    """Operand, operator, operand: once through the tokens."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._number = 0
        self._open: list[str] = []
        """The name before each open bracket; empty for one that only groups."""

    def run(self) -> None:
        self._operand()
        while self._number < len(self._tokens) or self._open:
            self._after_operand()

    def _text(self, ahead: int = 0) -> str:
        """A token's text in lower case; empty behind the last, and for strings, which are no words."""
        number = self._number + ahead
        if number >= len(self._tokens) or self._tokens[number].kind == "string":
            return ""
        return self._tokens[number].text.lower()

    def _kind(self) -> str:
        return self._tokens[self._number].kind if self._number < len(self._tokens) else ""

    def _take(self, wanted: str) -> None:
        """The token that must come next."""
        if self._text() != wanted:
            raise _Found(self._number, f'"{wanted}"')
        self._number += 1

    def _operand(self) -> None:
        """Signs and brackets, then a number, a string, a selector, or the beginning of a call."""
        while True:
            text, kind = self._text(), self._kind()
            if text in _SIGNS:
                self._number += 1
            elif text == "(":
                self._opened("")
            elif text in AGGREGATIONS and self._text(1) in (*_GROUPING, "("):
                self._number += 1
                if self._text() in _GROUPING:
                    self._number += 1
                    self._labels()
                self._opened(text, wanted='"("')
            elif kind == "word" and self._text(1) == "(" and text not in OPERATOR_WORDS:
                self._number += 1
                self._opened(text)
                if self._text() == ")":
                    return
            else:
                break
        # Operators are names of metrics too where an operand must stand.
        if kind in ("number", "duration", "string", "word"):
            self._number += 1
            if kind == "word" and self._text() == "{":
                self._skip("{", "}")
        elif text == "{":
            self._skip("{", "}")
        else:
            raise _Found(self._number, "an expression")

    def _after_operand(self) -> None:
        text = self._text()
        if text == ")" and self._open:
            self._number += 1
            if self._open.pop() in AGGREGATIONS and self._text() in _GROUPING:
                self._number += 1
                self._labels()
        elif text == "," and self._open and self._open[-1]:
            self._number += 1
            self._operand()
        elif text == "[":
            self._skip("[", "]")
        elif text == "offset":
            self._number += 1
            self._signed("a duration")
        elif text == "@":
            self._number += 1
            self._time()
        elif not self._operator(text):
            raise _Found(self._number, 'an operator or ")"' if self._open else "an operator")

    def _operator(self, text: str) -> bool:
        """Over an operator with its modifiers to the next operand; False where none stands."""
        if text in _COMPARISONS and self._text(1) == "=":
            self._number += 2
        elif text in BINARY_WORDS or (text and text in _SYMBOLS):
            self._number += 1
        else:
            return False
        if self._text() == "bool":
            self._number += 1
        if self._text() in _MATCHING:
            self._number += 1
            self._labels()
            if self._text() in _GROUP_SIDES:
                self._number += 1
                # A bracket behind it is its list where labels stand in it, and else the operand.
                if self._text() == "(" and self._is_list():
                    self._labels()
        self._operand()
        return True

    def _is_list(self) -> bool:
        ahead = 1
        while self._text(ahead) not in (")", ""):
            ahead += 1
        rest = self._text(ahead + 1)
        return bool(rest) and rest not in BINARY_WORDS and rest not in (")", ",", *_SYMBOLS, *_COMPARISONS)

    def _labels(self) -> None:
        """A list of labels in brackets."""
        self._take("(")
        while self._text() != ")":
            if self._kind() not in ("word", "string"):
                raise _Found(self._number, "a label")
            self._number += 1
            if self._text() == ",":
                self._number += 1
            elif self._text() != ")":
                raise _Found(self._number, '"," or ")"')
        self._number += 1

    def _time(self) -> None:
        """What follows `@`."""
        if self._text() in ("start", "end"):
            self._number += 1
            self._take("(")
            self._take(")")
        else:
            self._signed('a time, "start()" or "end()"')

    def _signed(self, wanted: str) -> None:
        while self._text() in _SIGNS:
            self._number += 1
        if self._kind() not in ("number", "duration"):
            raise _Found(self._number, wanted)
        self._number += 1

    def _opened(self, name: str, *, wanted: str = "an expression") -> None:
        if self._text() != "(":
            raise _Found(self._number, wanted)
        self._number += 1
        self._open.append(name)

    def _skip(self, opening: str, closing: str) -> None:
        """Over braces or a range, which the parser has its own words for."""
        self._take(opening)
        while self._text() != closing:
            if self._number >= len(self._tokens):
                raise _Found(self._number, f'"{closing}"')
            self._number += 1
        self._number += 1
