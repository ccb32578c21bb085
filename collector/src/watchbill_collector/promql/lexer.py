"""A first look at an expression's text, before the parser has it.

The parser (promql-parser 0.12.0) panics on some numbers (it prints a stack to stderr and raises something
that is not an Exception), ends the process on deep nesting and on long chains of operators, and answers
"invalid promql query" to the experimental syntax of newer Prometheus. So the text is cut into tokens first:

1. length, nesting and the number of operators are bounded;
2. what is experimental syntax is refused by its name;
3. `@ <number>` becomes `@ <index>`, and the table says which time each index means: negative times and
   milliseconds come through unharmed;
4. durations given as bare numbers become milliseconds, and underscores between digits go;
5. strings are read here and stand as places in what the parser gets (`literals.py`);
6. where calls and their arguments stand is noted: the parser does not tell, and annotations say it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from watchbill_collector.promql.errors import BadQuery, NotSupported, TooLarge
from watchbill_collector.promql.literals import Places

EXPRESSION_CHARS_MAX = 64 * 1024
NESTING_MAX = 100
OPERATORS_MAX = 200
DURATION_MS_MAX = 2**63 // 1_000_000
"""Go's durations are nanoseconds in 63 bits: 292 years."""
AT_MS_MAX = 2**62

_PIECES = r"""(?P<space>\s+|\#[^\n]*)
      | (?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`[^`]*`)
      | (?P<duration>(?:[0-9]+(?:ms|[ywdhms]))+(?![A-Za-z0-9_]))
      | (?P<number>0[xX][0-9a-fA-F_]+|(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9_]+)?)
      | (?P<word>WORD)
      | (?P<trim></|>/)
      | (?P<other>.)"""
_FLAGS = re.VERBOSE | re.DOTALL
_TOKEN = re.compile(_PIECES.replace("WORD", "[A-Za-z_:][A-Za-z0-9_:]*"), _FLAGS)
_RANGE_TOKEN = re.compile(_PIECES.replace("WORD", "[A-Za-z_][A-Za-z0-9_]*"), _FLAGS)
"""Between square brackets a colon parts range and step; elsewhere it may be in a metric name."""
BINARY_WORDS = {"and", "or", "unless", "atan2"}
OPERATOR_WORDS = frozenset(
    {
        *("and", "or", "unless", "atan2", "by", "without", "on", "ignoring", "group_left", "group_right"),
        *("bool", "offset", "fill", "fill_left", "fill_right"),
    }
)
"""Words that may stand before a bracket without being calls."""
AGGREGATIONS = frozenset(
    {
        *("sum", "avg", "min", "max", "count", "group", "stddev", "stdvar", "topk", "bottomk", "quantile"),
        *("count_values", "limitk", "limit_ratio"),
    }
)
_ODD_UNDERSCORES = re.compile(r"_\b|__|_[.eE]|[.eExX]_")
"""Underscores that do not stand between digits."""
_DURATION_FUNCTIONS = {"step", "range", "min", "max", "min_of", "max_of"}


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the text; `kind` is a group of the token pattern."""

    kind: str
    text: str
    at: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """Text that the parser can be given. `at_ms[i]` is the time that `@ i` means."""

    text: str
    at_ms: tuple[int, ...]
    places: Places
    tokens: tuple[Token, ...]  # without spaces and comments


def tokens(text: str) -> list[Token]:
    """All tokens, spaces and comments among them."""
    found = []
    position, in_range = 0, False
    while position < len(text):
        match = (_RANGE_TOKEN if in_range else _TOKEN).match(text, position)
        assert match is not None
        assert match.lastgroup is not None
        token = Token(match.lastgroup, match.group(), position)
        found.append(token)
        position = match.end()
        if token.kind == "other" and token.text in "[]":
            in_range = token.text == "["
    return found


def told(every: Iterable[Token]) -> tuple[Token, ...]:
    """The tokens that say something: no spaces, no comments."""
    return tuple(token for token in every if token.kind != "space")


def place(text: str, at: int) -> str:
    """`line:column` of a character, both from one; columns are bytes, as in Prometheus."""
    before = text[:at].encode("utf-8", "surrogatepass")
    line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
    return f"{line}:{column}"


def prepare(text: str) -> Prepared:
    """Check and rewrite an expression for the parser; raises BadQuery or NotSupported."""
    if len(text) > EXPRESSION_CHARS_MAX:
        raise TooLarge(f"the expression has {len(text)} characters, more than {EXPRESSION_CHARS_MAX}")
    return _Rewriter(text).run()


class _Rewriter:
    """Walks the tokens once, keeping the stack of open brackets."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tokens(text)
        self._out: list[str] = []
        self._at_ms: list[int] = []
        self._places = Places()
        self._brackets: list[str] = []
        self._name = ""
        self._position = 0
        self._operators = 0

    def run(self) -> Prepared:
        while self._position < len(self._tokens):
            token = self._tokens[self._position]
            self._position += 1
            self._step(token)
        return Prepared("".join(self._out), tuple(self._at_ms), self._places, told(self._tokens))

    def _step(self, token: Token) -> None:
        if self._brackets[-1:] != ["{"] and (
            (token.kind == "other" and token.text in "+-*/%^=<>") or token.text.lower() in BINARY_WORDS
        ):
            self._operators += 1
            if self._operators > OPERATORS_MAX:
                raise TooLarge(f"the expression has more than {OPERATORS_MAX} operators")
        if token.text == "(" and self._brackets and self._brackets[-1] == "[":
            raise self._unsupported(token, "a duration expression in a range")
        if token.kind == "other" and token.text in "([{":
            self._brackets.append(token.text)
            self._name = ""
            if len(self._brackets) > NESTING_MAX:
                raise TooLarge(f"the expression is nested deeper than {NESTING_MAX} brackets")
        elif token.kind == "other" and token.text in ")]}":
            if self._brackets:
                self._brackets.pop()
        elif token.kind == "trim":
            raise self._unsupported(token, f"the histogram trim operator {token.text!r}")
        elif token.kind == "other" and token.text == "@":
            if self._at_number():
                return
        elif self._brackets and self._brackets[-1] == "[":
            self._inside_range(token)
            return
        elif token.kind == "word" and self._is_modifier(token):
            if token.text.lower() == "offset":
                self._offset(token)
                return
            raise self._unsupported(token, f"the {token.text.lower()!r} modifier")
        self._emit(token)

    def _emit(self, token: Token) -> None:
        text = token.text
        if token.kind == "string":
            before = self._beside(-1)
            self._check_name(before, text)
            regex = before is not None and before.text == "~"
            text = self._places.put(text, regex=regex)
        elif token.kind == "duration":
            duration_ms(text)
        elif text.lower() == "or" and self._is_label():
            # The parser would see an alternative between matchers in it.
            text = f'"{text}"'
        elif text[:1] == "#":
            text = " "  # What is in a comment is nobody's business, be it text or not.
        if token.kind == "number" and "_" in text and not has_odd_underscores(token):
            text = text.replace("_", "")
        self._out.append(text)

    def _check_name(self, before: Token | None, literal: str) -> None:
        """A string in braces that is no label's value or name is the metric's name."""
        after = self._beside(1)
        if self._brackets[-1:] != ["{"] or before is None or before.text not in "{,":
            return
        if after is not None and after.text in ",}":
            if self._name:
                raise BadQuery(f"parse error: metric name must not be set twice: {self._name} or {literal}")
            self._name = literal

    def _is_label(self) -> bool:
        """Whether a word in braces is a label's name."""
        after = self._beside(1)
        return (
            self._brackets[-1:] == ["{"]
            and after is not None
            and after.kind == "other"
            and after.text in "=!"
        )

    def _is_modifier(self, token: Token) -> bool:
        """Whether a word stands where a modifier may: behind a selector, not as a metric or label name."""
        word = token.text.lower()
        if word not in ("offset", "anchored", "smoothed") or (self._brackets and self._brackets[-1] == "{"):
            return False
        before = self._beside(-1)
        if before is None or not (before.kind in ("word", "duration", "number") or before.text in ")]}"):
            return False
        # In `by (offset)` and `on (a, offset)` it follows a bracket or a comma, and never comes here.
        if before.kind == "word" and before.text.lower() in OPERATOR_WORDS | AGGREGATIONS:
            return self._is_name(self._before(self._position - 1))
        return True

    def _is_name(self, position: int) -> bool:
        """Whether a word stands where an operand must: operators are names of metrics there."""
        behind = self._before(position)
        if behind < 0:
            return True
        token = self._tokens[behind]
        if token.kind == "word" and token.text.lower() in BINARY_WORDS:
            return not self._is_name(behind)
        return token.text.lower() == "bool" or (token.kind == "other" and token.text in "([,+-*/%^<>=!")

    def _before(self, position: int) -> int:
        """The number of the token before one, spaces left out; negative before the first."""
        position -= 1
        while position >= 0 and self._tokens[position].kind == "space":
            position -= 1
        return position

    def _offset(self, token: Token) -> None:
        self._out.append(token.text)
        self._signed_duration()

    def _signed_duration(self) -> None:
        """Copy spaces and a sign, rewrite a number to milliseconds, leave anything else to the parser."""
        while (token := self._peek()) is not None:
            if token.kind == "space" or token.text in "+-":
                self._out.append(token.text)
                self._position += 1
                continue
            if token.kind == "number":
                self._out.append(f"{milliseconds(token)}ms")
                self._position += 1
            elif token.kind == "word" and token.text.lower() in ("inf", "nan"):
                raise BadQuery(f"duration out of range: {token.text}")
            elif token.text == "(" or (token.kind == "word" and token.text.lower() in _DURATION_FUNCTIONS):
                raise self._unsupported(token, "a duration expression", "offset ...")
            return

    def _inside_range(self, token: Token) -> None:
        if token.kind == "number":
            self._out.append(f"{milliseconds(token)}ms")
        elif token.kind == "duration":
            self._emit(token)
        elif token.kind == "word" or token.text in "+-*/%^":
            if token.kind == "word" and token.text.lower() not in _DURATION_FUNCTIONS:
                raise BadQuery(f"unexpected {token.text!r} in a range, wanted a duration such as 5m")
            raise self._unsupported(token, "a duration expression in a range")
        else:
            self._emit(token)

    def _at_number(self) -> bool:
        """Rewrite `@ [sign] number` to `@ index`; False when something else follows."""
        position, sign = self._position, 1.0
        while position < len(self._tokens):
            token = self._tokens[position]
            position += 1
            if token.kind == "space":
                continue
            if token.text in "+-":
                sign = -sign if token.text == "-" else sign
                continue
            if token.kind not in ("number", "duration") and token.text.lower() not in ("inf", "nan"):
                return False
            if not is_time(token):
                raise BadQuery(f"timestamp out of bounds for @ modifier: {token.text}")
            seconds = sign * _seconds(token)
            # Prometheus rounds half away from zero.
            time_ms = int(abs(seconds) * 1000 + 0.5) * (1 if seconds >= 0 else -1)
            self._out.append(f"@ {len(self._at_ms)} ")  # What follows may be written close to the time.
            self._at_ms.append(time_ms)
            self._position = position
            return True
        return False

    def _unsupported(self, token: Token, feature: str, expression: str = "") -> NotSupported:
        return NotSupported(feature, expression, place(self._text, token.at))

    def _peek(self) -> Token | None:
        return self._tokens[self._position] if self._position < len(self._tokens) else None

    def _beside(self, direction: int) -> Token | None:
        position = self._position - 1 + direction
        while 0 <= position < len(self._tokens):
            if self._tokens[position].kind != "space":
                return self._tokens[position]
            position += direction
        return None


def duration_ms(text: str) -> int:
    """A duration with units, such as `1h30m`, in milliseconds; raises BadQuery."""
    units = {"y": 31_536_000_000, "w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000}
    total = 0
    for count, unit in re.findall(r"([0-9]+)(ms|[ywdhms])", text):
        total += int(count) * units.get(unit, 1)
    if total > DURATION_MS_MAX:
        raise BadQuery(f"duration out of range: {text}")
    return total


def is_time(token: Token) -> bool:
    """Whether a number or a duration can stand behind `@`; raises BadQuery for no number."""
    return token.kind != "word" and abs(_seconds(token) * 1000) < AT_MS_MAX


def _seconds(token: Token) -> float:
    return _number(token) if token.kind == "number" else duration_ms(token.text) / 1000


def has_odd_underscores(token: Token) -> bool:
    """Whether a number has underscores that do not stand between digits."""
    return _ODD_UNDERSCORES.search(token.text) is not None


def _number(token: Token) -> float:
    text = token.text.replace("_", "")
    try:
        if text[:2].lower() == "0x":
            return float(int(text, 16))
        return float(text)
    except (ValueError, OverflowError):
        raise BadQuery(f"bad number or duration syntax: {token.text!r}") from None


def milliseconds(token: Token) -> int:
    """A bare number where a duration stands: seconds. Raises BadQuery."""
    value = _number(token) * 1000
    if not value <= DURATION_MS_MAX:
        raise BadQuery(f"duration out of range: {token.text}")
    return int(value)
