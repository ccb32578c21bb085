"""One line of a page of metrics, read strictly, in Prometheus' text format and in OpenMetrics.

`plain` knows nearly every sample by one search. `Scan` goes the long way, from left to right, and says what was wanted
where.
"""

import math
import re
from typing import Final, NoReturn

LINE_SHOWN_MAX: Final = 60
EXEMPLAR_CHARACTERS_MAX: Final = 128

Pairs = tuple[tuple[str, str], ...]

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*", re.ASCII)
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_PLAIN = re.compile(
    r"([a-zA-Z_:][a-zA-Z0-9_:]*)"
    r'(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="[^"\\]*",)*[a-zA-Z_][a-zA-Z0-9_]*="[^"\\]*")\})?'
    r" ([+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)",
    re.ASCII,
)
"""What nearly every line is, told by one search; the others go the long way, which also says what is wrong."""
PLAIN_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_PAIR = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="([^"\\]*)"')
_BLANKS = re.compile(r"[ \t]*")
_WORD = re.compile(r"[^ \t]+")
NUMBER = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|(?i:inf|infinity))|(?i:nan)", re.ASCII)
_MILLISECONDS = re.compile(r"-?\d{1,19}", re.ASCII)
_ESCAPES: Final = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


class BadMetrics(Exception):
    """A page that is none. `line` counts from 1."""

    def __init__(self, line: int, wanted: str, got: str = "") -> None:
        super().__init__(f"line {line}: got {got}, wanted {wanted}")
        self.line = line
        self.wanted = wanted


def plain(line: str) -> tuple[str, Pairs, float] | None:
    """Name, labels and value of a line that has nothing special; None for one that has, or that is wrong."""
    found = _PLAIN.fullmatch(line)
    if found is None:
        return None
    name, inner, text = found.groups()
    value = float(text)
    if math.isinf(value):
        return None
    if inner is None:
        return name, (), value
    if "__name__" in inner:
        return None
    pairs = _PAIR.findall(inner)
    if len(pairs) > 1:
        pairs.sort()
        if len(dict(pairs)) != len(pairs):
            return None
    if '""' in inner:
        pairs = [pair for pair in pairs if pair[1]]
    return name, tuple(pairs), value


class Scan:
    """One line, from left to right."""

    __slots__ = ("_at", "_blank", "_line", "_number", "_open")

    def __init__(self, number: int, line: str, at: int, openmetrics: bool) -> None:
        self._number = number
        self._line = line
        self._at = at
        self._open = openmetrics

    def fail(self, wanted: str) -> NoReturn:
        """Here something else was wanted."""
        got = shown(self._line[self._at :]) if self._at < len(self._line) else "the end of the line"
        raise BadMetrics(self._number + 1, f"{wanted} in column {self._at + 1}", got)

    @property
    def ended(self) -> bool:
        """Whether nothing is left."""
        return self._at >= len(self._line)

    def at(self, text: str) -> bool:
        """Whether this comes next."""
        return self._line.startswith(text, self._at)

    def rest(self) -> str:
        """All that is left, behind one blank or several."""
        if self.ended:
            return ""
        self._space()
        return self._line[self._at :]

    def _space(self) -> None:
        """One blank, or in 0.0.4 any that there are."""
        if self._open:
            if not self.at(" "):
                self.fail("a blank")
            self._at += 1
        else:
            found = _BLANKS.match(self._line, self._at)
            assert found is not None, "it matches nothing, too"
            self._at = found.end()

    def _skip(self) -> None:
        if not self._open:
            self._space()

    def _take(self, pattern: "re.Pattern[str]", wanted: str) -> str:
        found = pattern.match(self._line, self._at)
        if found is None:
            self.fail(wanted)
        self._at = found.end()
        return found[0]

    def meta_name(self) -> str:
        """Of a family, quoted or not."""
        name = self._quoted() if self.at('"') else self._take(NAME, "the name of a metric")
        if not name:
            self.fail("the name of a metric")
        if not self.ended and not (self.at(" ") or (self.at("\t") and not self._open)):
            self.fail("a blank behind the name")
        return name

    def _quoted(self) -> str:
        start = self._at
        found = _QUOTED.match(self._line, start)
        if found is None:
            self.fail("a text in quotes, and its end")
        text = found[1]
        if "\\" in text:
            self._at = start + 1
            text = self._unescaped(text)
        self._at = found.end()
        return text

    def _unescaped(self, text: str) -> str:
        def one(found: "re.Match[str]") -> str:
            plain = _ESCAPES.get(found[0])
            if plain is None:
                self._at += found.start()
                self.fail('\\\\, \\" or \\n')
            return plain

        return re.sub(r"\\.", one, text, flags=re.DOTALL)

    def series(self) -> tuple[str, Pairs]:
        """A name and its labels, sorted. The name may be quoted, and inside the braces."""
        name = "" if self.at("{") else self._take(NAME, "the name of a metric")
        self._skip()
        if not self.at("{"):
            return name, ()
        name, labels = self.labels(name)
        if not name:
            self.fail("the name of a metric")
        return name, labels

    def labels(self, name: str, *, named: bool = True) -> tuple[str, Pairs]:
        """`{...}`, in which a quoted name may stand instead of one in front."""
        self._at += 1
        found: dict[str, str] = {}
        while True:
            self._skip()
            if self.at("}") and (not found or not self._open):
                break
            label = self._quoted() if (quoted := self.at('"')) else self._take(LABEL, "the name of a label")
            self._skip()
            if quoted and named and not name and not self.at("="):
                name = label
                if not name:
                    self.fail("a name that is not empty")
            else:
                if not label:
                    self.fail("the name of a label")
                self._equal(label, found)
            self._skip()
            if self.at("}"):
                break
            if not self.at(","):
                self.fail('"," or "}"')
            self._at += 1
        self._at += 1
        return name, tuple(sorted((label, value) for label, value in found.items() if value))

    def _equal(self, label: str, found: dict[str, str]) -> None:
        if not self.at("="):
            self.fail('"="')
        self._at += 1
        self._skip()
        if not self.at('"'):
            self.fail("a value in quotes")
        if label in found or label == "__name__":
            self.fail(f"another label than {label} again")
        found[label] = self._quoted()

    def value(self) -> float:
        """The number behind a series."""
        if self.ended or not (self.at(" ") or self.at("\t") or not self._open):
            self.fail("a blank and a value")
        self._space()
        return self._float("a value")

    def _float(self, wanted: str) -> float:
        start = self._at
        text = self._take(_WORD, wanted)
        right = NUMBER.fullmatch(text) is not None
        value = float(text) if right else 0.0
        if not right or (math.isinf(value) and "n" not in text.lower()):
            self._at = start
            self.fail(f"{wanted}, a number")
        self._skip()
        return value

    def timestamp(self) -> None:
        """Milliseconds in 0.0.4, seconds in OpenMetrics."""
        if self._open:
            self._space()
            if self.at("#"):
                return
            value = self._float("a timestamp")
            if not math.isfinite(value):
                self.fail("a finite timestamp")
            if not self.ended:
                self._space()
            return
        start = self._at
        if not _MILLISECONDS.fullmatch(self._take(_WORD, "a timestamp")):
            self._at = start
            self.fail("a timestamp in whole milliseconds")
        self._skip()

    def exemplar(self) -> None:
        """`# {labels} value [timestamp]`."""
        self._at += 2
        _, labels = self.labels("", named=False)
        if sum(len(name) + len(value) for name, value in labels) > EXEMPLAR_CHARACTERS_MAX:
            self.fail(f"at most {EXEMPLAR_CHARACTERS_MAX} characters of labels before")
        self._space()
        self._float("the value of an exemplar")
        if not self.ended:
            self._space()
            self._float("a timestamp")
            if not self.ended:
                self.fail("the end of the line")


def unescaped(number: int, text: str, openmetrics: bool) -> str:
    """A help text as it was meant. Raises BadMetrics."""

    def one(found: "re.Match[str]") -> str:
        plain = _ESCAPES.get(found[0])
        if plain is None or (plain == '"' and not openmetrics):
            raise BadMetrics(number + 1, "\\\\ or \\n in a help text", shown(found[0]))
        return plain

    return re.sub(r"\\.?", one, text) if "\\" in text else text


def shown(text: str) -> str:
    """Foreign text for a message: short and printable."""
    short = text[:LINE_SHOWN_MAX].encode("unicode_escape").decode("ascii")[:LINE_SHOWN_MAX]
    return f'"{short}{"..." if len(text) > LINE_SHOWN_MAX else ""}"'
