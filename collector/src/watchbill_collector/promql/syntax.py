"""Where an expression that the parser refused goes wrong.

The parser says `invalid promql query` of most of what it cannot read, and never where. Prometheus says
`1:5: parse error: unexpected identifier "bar"`, which is what somebody needs who looks at a rule of six lines. So a
refused expression is read once more, by Prometheus' grammar: the first token that may not stand where it does is the
one to look at (here), in braces too (`braces.py`); and where every token may, the first piece that is of another kind
than what stands around it wants (`kinds.py`). What is wrong in another way is not found here.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from watchbill_collector.promql import numerals
from watchbill_collector.promql.ast import Kind
from watchbill_collector.promql.braces import Braces, Found, meant, shown, unfinished
from watchbill_collector.promql.errors import BadQuery, TooLarge
from watchbill_collector.promql.kinds import (
    COMPARISONS,
    Fault,
    Form,
    Operator,
    Piece,
    aggregated,
    arguments_wanted,
    called,
    combined,
    repeated,
    signed,
)
from watchbill_collector.promql.lexer import (
    AGGREGATIONS,
    BINARY_WORDS,
    NESTING_MAX,
    OPERATOR_WORDS,
    Token,
    duration_ms,
    has_odd_underscores,
    is_time,
    milliseconds,
    place,
)
from watchbill_collector.promql.text import quoted

_GROUPING: Final = ("by", "without")
_MATCHING: Final = ("on", "ignoring")
_GROUP_SIDES: Final = ("group_left", "group_right")
_SIGNS: Final = ("+", "-")
_NO_NAMES: Final = ("atan2", "bool", *_MATCHING, *_GROUP_SIDES)
"""Words that are no names of metrics. The other operators are, where an operand must stand."""
_NOT_FINITE: Final = ("inf", "nan")
_SYMBOLS: Final = "+-*/%^<>"
_BINDING: Final = {
    "or": 1,
    **dict.fromkeys(("and", "unless"), 2),
    **dict.fromkeys(COMPARISONS, 3),
    **dict.fromkeys(("+", "-"), 4),
    **dict.fromkeys(("*", "/", "%", "atan2"), 5),
    "^": 6,
}
"""How closely operators bind; a sign does as `*`."""
_SIGN: Final = 5
_DURATION: Final = re.compile("".join(f"(?:[0-9]+{unit})?" for unit in ("y", "w", "d", "h", "m", "s", "ms")))


def fault(text: str, tokens: Sequence[Token], unknown: str = "") -> str:
    """`1:5: parse error: unexpected ..., wanted ...`, or nothing when all is as it may be. `unknown` is the name of a
    function that the parser does not know. Raises TooLarge."""
    reader = _Reader(tokens, text, unknown)
    try:
        faults = reader.run().faults
    except Found as found:
        faults = [found.fault]
    return said(text, faults[0]) if faults else ""


def said(text: str, wrong: Fault) -> str:
    """What is wrong with a text, as Prometheus puts it."""
    return f"{place(text, wrong.at)}: parse error: {wrong.words}"


@dataclass(slots=True)
class _Pending:
    """An operator whose right side is still being read, or a sign (`operator` is None)."""

    at: int
    binding: int
    operator: Operator | None


class _Reader:
    """Once through the tokens, from the left; only brackets recurse."""

    def __init__(self, tokens: Sequence[Token], text: str, unknown: str) -> None:
        self._tokens = tokens
        self._whole = text
        self._end = len(text)
        self._unknown = unknown
        self._number = 0
        self._depth = 0

    def run(self) -> Piece:
        """The whole expression. Raises Found."""
        if not self._tokens:
            raise Found(0, "no expression found in input")
        piece = self._expression()
        if self._number < len(self._tokens):
            raise self._unexpected("an operator")
        return piece

    # ------------------------------------------------------------ tokens

    def _text(self, ahead: int = 0) -> str:
        """A token's text in lower case; empty behind the last, and for strings, which are no words."""
        number = self._number + ahead
        if number >= len(self._tokens) or self._tokens[number].kind == "string":
            return ""
        return self._tokens[number].text.lower()

    def _kind(self) -> str:
        return self._tokens[self._number].kind if self._number < len(self._tokens) else ""

    def _at(self) -> int:
        return self._tokens[self._number].at if self._number < len(self._tokens) else self._end

    def _joined(self) -> bool:
        """Whether the next token follows this one without a space."""
        first, second = self._number, self._number + 1
        return second < len(self._tokens) and self._tokens[second].at == self._tokens[first].at + 1

    def _unexpected(self, wanted: str) -> Found:
        if self._number >= len(self._tokens):
            return Found(self._end, f"unexpected end of input, wanted {wanted}")
        token = self._tokens[self._number]
        return Found(token.at, unfinished(token) or f"unexpected {shown(token)}, wanted {wanted}")

    def _take(self, wanted: str) -> None:
        """The token that must come next."""
        if self._text() != wanted:
            raise self._unexpected(f'"{wanted}"')
        self._number += 1

    # ------------------------------------------------------------ expressions

    def _expression(self) -> Piece:
        """Operands with operators between them, until a token that is neither."""
        self._depth += 1
        if self._depth > NESTING_MAX + 1:
            raise TooLarge(f"the expression is nested deeper than {NESTING_MAX} brackets")
        pieces: list[Piece] = []
        pending: list[_Pending] = []
        while True:
            while self._text() in _SIGNS:
                pending.append(_Pending(self._at(), _SIGN, None))
                self._number += 1
            pieces.append(self._behind(self._operand()))
            operator = self._operator()
            binding = 0 if operator is None else _BINDING[operator.text]
            while pending and (
                pending[-1].binding > binding or (pending[-1].binding == binding and binding != _BINDING["^"])
            ):
                _reduce(pieces, pending.pop())
            if operator is None:
                self._depth -= 1
                return pieces.pop()
            pending.append(_Pending(operator.at, binding, operator))

    def _operand(self) -> Piece:
        """A number, a string, a selector, brackets or a call."""
        text, kind, at = self._text(), self._kind(), self._at()
        if text == "(":
            self._number += 1
            piece = self._expression()
            self._close()
            return Piece(at, piece.kind, piece.faults)
        if text in AGGREGATIONS and self._text(1) in (*_GROUPING, "("):
            return self._aggregation()
        if kind == "word" and self._text(1) == "(" and text not in OPERATOR_WORDS:
            return self._call()
        if kind == "string":
            meant(self._tokens[self._number].text, at)
            self._number += 1
            return Piece(at, Kind.STRING)
        if kind in ("number", "duration") or text in _NOT_FINITE:
            return self._literal()
        if (kind == "word" and text not in _NO_NAMES) or text == "{":
            return self._selector()
        raise self._unexpected("an expression")

    def _literal(self) -> Piece:
        """A number, which may be written as a duration."""
        token = self._tokens[self._number]
        self._numeral(token)
        if token.kind == "duration":
            _judge(token)
        elif has_odd_underscores(token):
            raise Found(token.at, f"bad number or duration syntax: {quoted(token.text)}")
        self._number += 1
        return Piece(token.at, Kind.SCALAR)

    def _numeral(self, token: Token) -> None:
        """Raises Found for digits that are no number."""
        words = numerals.fault(self._whole, token.at) if token.kind in ("number", "duration") else ""
        if words:
            raise Found(token.at, words)

    def _close(self) -> None:
        if self._text() != ")":
            raise self._unexpected('an operator or ")"')
        self._number += 1

    def _selector(self) -> Piece:
        at, name, matchers = self._at(), "", []
        if self._kind() == "word":
            name = self._tokens[self._number].text
            self._number += 1
        if self._text() == "{":
            braces = Braces(self._tokens, self._number, self._end)
            braces.read()
            self._number, matchers = braces.number, braces.matchers
        piece = Piece(at, Kind.VECTOR, form=Form.SELECTOR)
        named = [matcher.value for matcher in matchers if matcher.name == "__name__"]
        if name and named:
            words = f"metric name must not be set twice: {quoted(name)} or {quoted(named[0])}"
            piece.faults.append(Fault(at, words))
        elif not name and all(matcher.matches("") for matcher in matchers):
            piece.faults.append(Fault(at, "vector selector must contain at least one non-empty matcher"))
        return piece

    # ------------------------------------------------------------ calls

    def _call(self) -> Piece:
        at, name = self._at(), self._tokens[self._number].text
        self._number += 1
        args = self._arguments()
        if name == self._unknown:
            raise Found(at, f"unknown function with name {quoted(name)}")
        return called(name, at, args)

    def _aggregation(self) -> Piece:
        at, op = self._at(), self._text()
        self._number += 1
        before = self._text() in _GROUPING
        if before:
            self._number += 1
            self._labels()
        args = self._arguments()
        if not before and self._text() in _GROUPING:
            self._number += 1
            self._labels()
        if not args:
            raise Found(at, "no arguments for aggregate expression provided")
        wanted = arguments_wanted(op)
        if len(args) != wanted:
            words = "wrong number of arguments for aggregate expression provided"
            raise Found(at, f"{words}, expected {wanted}, got {len(args)}")
        return aggregated(op, at, args)

    def _arguments(self) -> list[Piece]:
        self._take("(")
        args: list[Piece] = []
        if self._text() == ")":
            self._number += 1
            return args
        while True:
            args.append(self._expression())
            if self._text() != ",":
                self._close()
                return args
            if not self._begins(1):
                raise Found(self._at(), "trailing commas not allowed in function call args")
            self._number += 1

    def _begins(self, ahead: int) -> bool:
        """Whether a token may begin an expression; behind the last one may always come another."""
        text, number = self._text(ahead), self._number + ahead
        if text in ("(", "{", *_SIGNS) or number >= len(self._tokens):
            return True
        return self._tokens[number].kind in ("word", "string", "number", "duration") and text not in _NO_NAMES

    def _labels(self) -> tuple[str, ...]:
        """A list of labels in brackets."""
        self._take("(")
        found = []
        while self._text() != ")":
            if self._kind() not in ("word", "string") or self._text() in _NOT_FINITE:
                raise self._unexpected("a label")
            token = self._tokens[self._number]
            found.append(meant(token.text, token.at))
            self._number += 1
            if self._text() == ",":
                self._number += 1
            elif self._text() != ")":
                raise self._unexpected('"," or ")"')
        self._number += 1
        return tuple(found)

    # ------------------------------------------------------------ operators

    def _operator(self) -> Operator | None:
        """An operator with its modifiers, if one stands here."""
        text, at = self._text(), self._at()
        if text in ("=", "!", "<", ">") and self._text(1) == "=" and self._joined():
            text += "="
            self._number += 2
        elif text in BINARY_WORDS or (text and text in _SYMBOLS):
            self._number += 1
        else:
            return None
        operator = Operator(text, at)
        if self._text() == "bool":
            operator.returns_bool = True
            self._number += 1
        if self._text() in _MATCHING:
            operator.on = self._text() == "on"
            self._number += 1
            operator.labels = self._labels()
            if self._text() in _GROUP_SIDES:
                operator.grouped = True
                self._number += 1
                # A bracket behind it is its list where labels stand in it, and else the operand.
                if self._text() == "(" and self._is_list():
                    operator.include = self._labels()
        return operator

    def _is_list(self) -> bool:
        ahead = 1
        while self._text(ahead) not in (")", ""):
            ahead += 1
        rest = self._text(ahead + 1)
        return bool(rest) and rest not in BINARY_WORDS and rest not in (")", ",", *_SYMBOLS, "=", "!")

    # ------------------------------------------------------------ behind an operand

    def _behind(self, piece: Piece) -> Piece:
        """The ranges, offsets and times behind an operand."""
        while True:
            text = self._text()
            if text == "[":
                piece = self._range(piece)
            elif text == "offset":
                self._number += 1
                self._signs()
                self._duration("a duration")
                words = (
                    "offset modifier must be preceded by an instant vector selector or range vector selector"
                )
                self._modified(piece, "offset", f"{words} or a subquery", again=piece.offset)
                piece.offset = True
            elif text == "@":
                self._number += 1
                self._time(piece)
                words = "@ modifier must be preceded by an instant vector selector or range vector selector"
                self._modified(piece, "@ <timestamp>", f"{words} or a subquery", again=piece.pinned)
                piece.pinned = True
            else:
                return piece

    def _modified(self, piece: Piece, what: str, words: str, *, again: bool) -> None:
        if piece.form is Form.OTHER:
            raise Found(piece.at, words)
        if again:
            raise Found(piece.at, f"{what} may not be set multiple times")

    def _range(self, piece: Piece) -> Piece:
        at = self._at()
        self._number += 1
        self._inside("a duration")
        if self._text() == ":":
            self._number += 1
            if self._text() != "]":
                self._inside('a duration or "]"')
            self._take("]")
            return repeated(piece)
        self._take("]")
        if piece.form is not Form.SELECTOR:
            raise Found(at, "ranges only allowed for vector selectors")
        if piece.offset:
            raise Found(at, "no offset modifiers allowed before range")
        if piece.pinned:
            raise Found(at, "no @ modifiers allowed before range")
        return Piece(piece.at, Kind.MATRIX, piece.faults, Form.RANGE)

    def _time(self, piece: Piece) -> None:
        """What follows `@`."""
        if self._text() in ("start", "end"):
            self._number += 1
            self._take("(")
            self._take(")")
            return
        self._signs()
        if self._kind() not in ("number", "duration") and self._text() not in _NOT_FINITE:
            raise self._unexpected('a time, "start()" or "end()"')
        token = self._tokens[self._number]
        self._numeral(token)
        if not is_time(token):
            raise Found(piece.at, f"timestamp out of bounds for @ modifier: {token.text}")
        self._number += 1

    def _signs(self) -> None:
        while self._text() in _SIGNS:
            self._number += 1

    def _inside(self, wanted: str) -> None:
        """A duration in a range."""
        self._duration(wanted, in_range=True)
        if self._kind() == "word":
            what = self._tokens[self._number].text
            raise Found(self._at(), f"unexpected {what!r} in a range, wanted a duration such as 5m")

    def _duration(self, wanted: str, *, in_range: bool = False) -> None:
        if self._kind() not in ("number", "duration"):
            raise self._unexpected(wanted)
        token, behind = self._tokens[self._number], self._tokens[self._number + 1 : self._number + 2]
        if not (in_range and behind and behind[0].kind == "word"):
            self._numeral(token)
        _judge(token)
        self._number += 1


def _judge(duration: Token) -> None:
    """Raises Found when it is none: units that do not fall, nothing at all, or more than there is time."""
    if duration.kind == "duration" and not _DURATION.fullmatch(duration.text):
        raise Found(duration.at, f"not a valid duration string: {quoted(duration.text)}")
    try:
        size_ms = duration_ms(duration.text) if duration.kind == "duration" else milliseconds(duration)
    except BadQuery as error:
        raise Found(duration.at, str(error)) from None
    if size_ms == 0:
        raise Found(duration.at, "duration must be greater than 0")


def _reduce(pieces: list[Piece], pending: _Pending) -> None:
    """Put the last piece, or the last two, together."""
    right = pieces.pop()
    if pending.operator is None:
        pieces.append(signed(pending.at, right))
    else:
        pieces.append(combined(pieces.pop(), pending.operator, right))
