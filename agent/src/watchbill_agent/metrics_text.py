"""Pages of metrics, read strictly: Prometheus' text format 0.0.4 and OpenMetrics 1.0.

A page seldom changes but for its values. So what one page was found to be (`Shape`) is kept with what stands before the
value on each of its lines; as long as the next page has the same, its values are all that is read, by loops of Python's
own: 0.4 us a line, where reading a line in full takes 8. Anything else is read in full, in steps, so that whoever
shares a process with it gets a turn; lines that the last page had as well are known by what stands before their value,
and their series stay the same objects.

What is wrong raises BadMetrics with the line and what was wanted there. As Prometheus does, the first of two samples of
one series counts. Timestamps and exemplars are read and left out: a sample counts as of when it was read.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn

from watchbill_agent.reading import MetricType

STEP_LINES: Final = 500
"""Read in full between two turns of others."""
LINES_MAX: Final = 200_000
LINE_SHOWN_MAX: Final = 60
EXEMPLAR_CHARACTERS_MAX: Final = 128
END: Final = "# EOF"

Pairs = tuple[tuple[str, str], ...]

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*", re.ASCII)
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_PLAIN = re.compile(
    r"([a-zA-Z_:][a-zA-Z0-9_:]*)"
    r'(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="[^"\\]*",)*[a-zA-Z_][a-zA-Z0-9_]*="[^"\\]*")\})?'
    r" ([+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)",
    re.ASCII,
)
"""What nearly every line is, told by one search; the others go the long way, which also says what is wrong."""
_PLAIN_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_PAIR = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="([^"\\]*)"')
_BLANKS = re.compile(r"[ \t]*")
_WORD = re.compile(r"[^ \t]+")
_NUMBER = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|(?i:inf|infinity))|(?i:nan)", re.ASCII)
_MILLISECONDS = re.compile(r"-?\d{1,19}", re.ASCII)
_VALUE_BYTES: Final = b"0123456789.+-eEInfNa"
_ESCAPES: Final = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}
_TEXT_TYPES: Final = ("counter", "gauge", "histogram", "summary", "untyped")
_OPEN_TYPES: Final = (
    "counter",
    "gauge",
    "histogram",
    "gaugehistogram",
    "stateset",
    "info",
    "summary",
    "unknown",
)
_OPEN_SUFFIXES: Final = {
    "counter": ("_total", "_created"),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum", "_created"),
    "gaugehistogram": ("_bucket", "_gcount", "_gsum"),
    "stateset": ("",),
    "info": ("_info",),
    "summary": ("", "_count", "_sum", "_created"),
    "unknown": ("",),
}
_TEXT_SUFFIXES: Final = {"histogram": ("_bucket", "_count", "_sum"), "summary": ("", "_count", "_sum")}
_COUNTED: Final = {
    "counter": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("_sum", "_count"),
}
_UNTYPED: Final = ("", "untyped", "unknown")
_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_:]", re.ASCII)
_NOT_IN_A_LABEL = re.compile(r"[^a-zA-Z0-9_]", re.ASCII)
_EXEMPLARS: Final = ("_bucket", "_total")


def type_of(found: "Found") -> MetricType:
    """Of a series that gets a family of its own: what counts in a histogram or summary is a counter."""
    if found.type in _UNTYPED:
        return MetricType.UNTYPED
    counted = _COUNTED.get(found.type, ())
    created = found.name.endswith("_created")
    return (
        MetricType.COUNTER if counted and found.name.endswith(counted) and not created else MetricType.GAUGE
    )


def plain_name(name: str) -> str:
    """A metric's name without what has to be quoted: underscores stand for it."""
    name = _NOT_IN_A_NAME.sub("_", name)
    return f"_{name}" if name[:1].isdigit() else name


def plain_labels(pairs: Pairs, taken: Iterable[str]) -> Pairs:
    """The same for labels; those in `taken` become `exported_...`."""
    if not any(label in taken or label.startswith("__") or not _LABEL.fullmatch(label) for label, _ in pairs):
        return pairs
    return tuple(sorted({_plain_label(label, taken): value for label, value in pairs}.items()))


def _plain_label(label: str, taken: Iterable[str]) -> str:
    name = _NOT_IN_A_LABEL.sub("_", label)
    if name[0].isdigit():
        name = f"_{name}"
    if name.startswith("__"):
        name = f"_{name.lstrip('_')}"
    return f"exported_{name}" if name in taken else name


class BadMetrics(Exception):
    """A page that is none. `line` counts from 1."""

    def __init__(self, line: int, wanted: str, got: str = "") -> None:
        super().__init__(f"line {line}: got {got}, wanted {wanted}")
        self.line = line
        self.wanted = wanted


@dataclass(slots=True)
class Described:
    """What a page says of a family."""

    name: str
    type: str = ""
    help: str = ""
    unit: str = ""
    sampled: bool = False
    said: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Found:
    """One series of a page, in the page's own words. `type` and `help` are those of its family."""

    name: str
    labels: Pairs
    type: str
    help: str


@dataclass(frozen=True, slots=True)
class Shape:
    """A page without its values."""

    series: tuple[Found, ...]
    duplicates: int
    heads: list[bytes]
    """Of each line, what stands before its last blank."""
    tails: list[bytes]
    """Behind it, of the lines that are no samples."""
    spoken: list[int]
    """The numbers of those."""
    sampled: list[int]
    """The numbers of the lines whose values are those of `series`."""
    timestamp_line: int
    """The first that has a timestamp, from 1; 0 for none."""


class Reader:
    """Reads the pages of one endpoint, one after the other."""

    def __init__(self) -> None:
        self._shape: Shape | None = None
        self._kind = False
        self._known: dict[str, Found] = {}
        self.shape: Shape | None = None
        """Of the page that was read last."""
        self.values: Sequence[float] = ()
        """Its values, in the order of the shape's series."""

    def read(self, body: bytes, *, openmetrics: bool, series_max: int) -> Iterator[None]:
        """Read a page, in steps. Raises BadMetrics; TooMany beyond `series_max` series."""
        lines = body.split(b"\n")
        values = self._as_before(lines) if openmetrics == self._kind else None
        if values is None:
            page = _Page(openmetrics, series_max, self._known)
            yield from page.read(body)
            self._shape, values = page.shape(lines), page.values
            self._known = page.plain
            self._kind = openmetrics
        self.shape, self.values = self._shape, values

    def _as_before(self, lines: list[bytes]) -> list[float] | None:
        """The values of a page that has its lines in common with the last one."""
        shape = self._shape
        if shape is None or len(lines) != len(shape.heads):
            return None
        parts = [line.rpartition(b" ") for line in lines]
        if [part[0] for part in parts] != shape.heads:
            return None
        if [parts[number][2] for number in shape.spoken] != shape.tails:
            return None
        texts = [parts[number][2] for number in shape.sampled]
        joined = b" ".join(texts)
        if joined.translate(None, _VALUE_BYTES).strip(b" ") or b"+N" in joined or b"-N" in joined:
            return None
        try:
            values = [*map(float, texts)]
        except ValueError:
            return None
        # Infinite: said so, or too large a number, which the long way tells apart.
        return values if math.isfinite(sum(values)) or not any(map(math.isinf, values)) else None


class TooMany(Exception):
    """More series than are taken."""


class _Page:
    """One page, read in full."""

    def __init__(self, openmetrics: bool, series_max: int, known: "dict[str, Found]") -> None:
        self._open = openmetrics
        self._known = known
        self._before: list[Found | None] = []
        self._heads: list[str] = []
        self.plain: dict[str, Found] = {}
        """By what stands before the value, of lines that hold nothing else; filled by `shape`."""
        self._series_max = series_max
        self._described: dict[str, Described] = {}
        self._now: Described | None = None
        self._places: dict[tuple[str, Pairs], int] = {}
        self._families: list[Described] = []
        self._numbers: list[int] = []
        self._duplicates: int = 0
        self._ended = False
        self._timestamp_line = 0
        self._suffixed: dict[str, Described] = {}
        self.values: list[float] = []

    def read(self, body: bytes) -> Iterator[None]:
        """In steps. Raises BadMetrics, TooMany."""
        try:
            text = body.decode()
        except UnicodeDecodeError as exc:
            broken = body.count(b"\n", 0, exc.start) + 1
            raise BadMetrics(broken, "UTF-8", f"byte 0x{body[exc.start]:02x}") from None
        lines = text.split("\n")
        last = lines.pop()
        if last:
            if not self._open or last != END:
                raise BadMetrics(len(lines) + 1, "a line end behind the last line", _shown(last))
            lines.append(last)
        if len(lines) > LINES_MAX:
            raise BadMetrics(LINES_MAX + 1, f"at most {LINES_MAX} lines", f"{len(lines)} lines")
        for number, line in enumerate(lines):
            self._line(number, line)
            if number % STEP_LINES == STEP_LINES - 1:
                yield
        if self._open and not self._ended:
            raise BadMetrics(len(lines) + 1, f'"{END}" as the last line', "the end")

    def shape(self, lines: Sequence[bytes]) -> Shape:
        """What to compare the next page with."""
        parts = [line.rpartition(b" ") for line in lines]
        sampled = set(self._numbers)
        spoken = [number for number in range(len(lines)) if number not in sampled]
        series = tuple(
            before
            if before is not None and before.type == family.type and before.help == family.help
            else Found(name, labels, family.type, family.help)
            for (name, labels), family, before in zip(self._places, self._families, self._before, strict=True)
        )
        self.plain = {head: found for head, found in zip(self._heads, series, strict=True) if head}
        return Shape(
            series,
            self._duplicates,
            [part[0] for part in parts],
            [parts[number][2] for number in spoken],
            spoken,
            self._numbers,
            self._timestamp_line,
        )

    # ------------------------------------------------------------ lines

    def _line(self, number: int, line: str) -> None:
        if self._ended:
            raise BadMetrics(number + 1, f'nothing behind "{END}"', _shown(line))
        if line.startswith("#"):
            self._comment(number, line)
            return
        if self._open:
            if not line:
                raise BadMetrics(number + 1, "a sample or a comment", "an empty line")
        else:
            line = line.strip(" \t")
            if line.startswith("#"):
                self._comment(number, line)
                return
            if not line:
                return
        self._sample(number, line)

    def _comment(self, number: int, line: str) -> None:
        if self._open:
            if line == END:
                self._ended = True
                return
            hash_, _, rest = line.partition(" ")
            word, _, rest = rest.partition(" ")
            if hash_ != "#" or word not in ("HELP", "TYPE", "UNIT"):
                raise BadMetrics(number + 1, "# HELP, # TYPE, # UNIT or # EOF", _shown(line))
        else:
            found = re.match(r"#[ \t]+(HELP|TYPE)(?:[ \t]+|$)", line)
            if found is None:
                return  # A comment for people.
            word, rest = found[1], line[found.end() :]
        scan = _Scan(number, line, len(line) - len(rest), self._open)
        name = scan.meta_name()
        text = scan.rest()
        described = self._describe(number, name, word)
        if word == "TYPE":
            kinds = _OPEN_TYPES if self._open else _TEXT_TYPES
            # The parsers of the field take the types of 0.0.4 in any case.
            kind = text if self._open else text.strip(" \t").lower()
            if kind not in kinds:
                raise BadMetrics(number + 1, f"one of {', '.join(kinds)}", _shown(text))
            described.type = kind
            for suffix in self._suffixes(kind):
                self._suffixed[name + suffix] = described
        elif word == "HELP":
            described.help = _unescaped(number, text, self._open)
        else:
            if text and not name.endswith(f"_{text}"):
                raise BadMetrics(number + 1, "a unit that the name ends with", _shown(text))
            described.unit = text

    def _describe(self, number: int, name: str, word: str) -> Described:
        described = self._described.setdefault(name, Described(name))
        if word in described.said:
            raise BadMetrics(number + 1, f"one {word} of {name}", "a second one")
        if described.sampled and (self._open or word == "TYPE"):
            raise BadMetrics(number + 1, f"{word} of {name} before its samples", "it behind them")
        if self._open:
            self._enter(number, described)
        described.said.add(word)
        return described

    def _suffixes(self, kind: str) -> Sequence[str]:
        return _OPEN_SUFFIXES[kind] if self._open else _TEXT_SUFFIXES.get(kind, ("",))

    def _enter(self, number: int, described: Described) -> None:
        """In OpenMetrics a family is in one piece."""
        if self._now is not described:
            if described.sampled or described.said:
                raise BadMetrics(number + 1, f"all of {described.name} together", "more of it later")
            self._now = described

    # ------------------------------------------------------------ samples

    def _sample(self, number: int, line: str) -> None:
        head, _, text = line.rpartition(" ")
        known = self._known.get(head)
        if known is not None and _PLAIN_NUMBER.fullmatch(text) and not math.isinf(value := float(text)):
            name, labels = known.name, known.labels
        elif (plain := _plain(line)) is not None:
            name, labels, value = plain
        else:
            name, labels, value = self._scanned(number, line)
            head = ""
        family = self._family(number, name, labels)
        place = self._places.setdefault((name, labels), len(self.values))
        if place < len(self.values):
            self._duplicates += 1
            return
        if place >= self._series_max:
            raise TooMany
        self.values.append(value)
        self._numbers.append(number)
        self._families.append(family)
        self._before.append(known)
        self._heads.append(head)

    def _scanned(self, number: int, line: str) -> tuple[str, Pairs, float]:
        """Piece by piece."""
        scan = _Scan(number, line, 0, self._open)
        name, labels = scan.series()
        value = scan.value()
        if not scan.ended:
            self._behind(number, scan, name)
        return name, labels, value

    def _behind(self, number: int, scan: "_Scan", name: str) -> None:
        """A timestamp and, in OpenMetrics, an exemplar."""
        if not (self._open and scan.at("#")):
            scan.timestamp()
            self._timestamp_line = self._timestamp_line or number + 1
        if scan.ended:
            return
        if not self._open or not scan.at("# {"):
            scan.fail("the end of the line")
        if not name.endswith(_EXEMPLARS):
            scan.fail("an exemplar on buckets and counters alone")
        scan.exemplar()

    def _family(self, number: int, name: str, labels: Pairs) -> Described:
        family = self._suffixed.get(name)
        if family is None:
            family = self._described.get(name)
            if family is None or (self._open and family.type):
                if family is not None:
                    wanted = " or ".join(name + suffix for suffix in self._suffixes(family.type))
                    raise BadMetrics(number + 1, f"{wanted}, as a {family.type} has", name)
                family = self._described[name] = Described(name)
            self._suffixed[name] = family
        if self._open:
            self._enter(number, family) if self._now is not family else None
        family.sampled = True
        self._needs(number, name, family, labels)
        return family

    def _needs(self, number: int, name: str, family: Described, labels: Pairs) -> None:
        """Labels that give a sample its meaning."""
        wanted = ""
        if family.type in ("histogram", "gaugehistogram") and name.endswith("_bucket"):
            wanted = "le"
        elif family.type == "summary" and name == family.name:
            wanted = "quantile"
        elif family.type == "stateset":
            wanted = family.name
        if not wanted:
            return
        value = next((value for label, value in labels if label == wanted), None)
        if value is None:
            raise BadMetrics(number + 1, f"a label {wanted} on {name}", "none")
        if wanted in ("le", "quantile") and family.type != "stateset" and not _NUMBER.fullmatch(value):
            raise BadMetrics(number + 1, f"a number as {wanted}", _shown(value))


def _plain(line: str) -> tuple[str, Pairs, float] | None:
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


class _Scan:
    """One line, from left to right."""

    __slots__ = ("_at", "_blank", "_line", "_number", "_open")

    def __init__(self, number: int, line: str, at: int, openmetrics: bool) -> None:
        self._number = number
        self._line = line
        self._at = at
        self._open = openmetrics

    def fail(self, wanted: str) -> NoReturn:
        """Here something else was wanted."""
        got = _shown(self._line[self._at :]) if self._at < len(self._line) else "the end of the line"
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
        name = self._quoted() if self.at('"') else self._take(_NAME, "the name of a metric")
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
        name = "" if self.at("{") else self._take(_NAME, "the name of a metric")
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
            label = self._quoted() if (quoted := self.at('"')) else self._take(_LABEL, "the name of a label")
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
        right = _NUMBER.fullmatch(text) is not None
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


def _unescaped(number: int, text: str, openmetrics: bool) -> str:
    def one(found: "re.Match[str]") -> str:
        plain = _ESCAPES.get(found[0])
        if plain is None or (plain == '"' and not openmetrics):
            raise BadMetrics(number + 1, "\\\\ or \\n in a help text", _shown(found[0]))
        return plain

    return re.sub(r"\\.?", one, text) if "\\" in text else text


def _shown(text: str) -> str:
    short = text[:LINE_SHOWN_MAX].encode("unicode_escape").decode("ascii")[:LINE_SHOWN_MAX]
    return f'"{short}{"..." if len(text) > LINE_SHOWN_MAX else ""}"'
