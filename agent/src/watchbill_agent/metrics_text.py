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
from typing import Final

from watchbill_agent.metrics_line import (
    LABEL,
    NUMBER,
    PLAIN_NUMBER,
    BadMetrics,
    Pairs,
    Scan,
    plain,
    shown,
    unescaped,
)
from watchbill_agent.reading import MetricType

STEP_LINES: Final = 500
"""Read in full between two turns of others."""
LINES_MAX: Final = 200_000
END: Final = "# EOF"

_VALUE_BYTES: Final = b"0123456789.+-eEInfNa"
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
    if not any(label in taken or label.startswith("__") or not LABEL.fullmatch(label) for label, _ in pairs):
        return pairs
    return tuple(sorted({_plain_label(label, taken): value for label, value in pairs}.items()))


def _plain_label(label: str, taken: Iterable[str]) -> str:
    name = _NOT_IN_A_LABEL.sub("_", label)
    if name[0].isdigit():
        name = f"_{name}"
    if name.startswith("__"):
        name = f"_{name.lstrip('_')}"
    return f"exported_{name}" if name in taken else name


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
                raise BadMetrics(len(lines) + 1, "a line end behind the last line", shown(last))
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
            raise BadMetrics(number + 1, f'nothing behind "{END}"', shown(line))
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
                raise BadMetrics(number + 1, "# HELP, # TYPE, # UNIT or # EOF", shown(line))
        else:
            found = re.match(r"#[ \t]+(HELP|TYPE)(?:[ \t]+|$)", line)
            if found is None:
                return  # A comment for people.
            word, rest = found[1], line[found.end() :]
        scan = Scan(number, line, len(line) - len(rest), self._open)
        name = scan.meta_name()
        text = scan.rest()
        described = self._describe(number, name, word)
        if word == "TYPE":
            kinds = _OPEN_TYPES if self._open else _TEXT_TYPES
            # The parsers of the field take the types of 0.0.4 in any case.
            kind = text if self._open else text.strip(" \t").lower()
            if kind not in kinds:
                raise BadMetrics(number + 1, f"one of {', '.join(kinds)}", shown(text))
            described.type = kind
            for suffix in self._suffixes(kind):
                self._suffixed[name + suffix] = described
        elif word == "HELP":
            described.help = unescaped(number, text, self._open)
        else:
            if text and not name.endswith(f"_{text}"):
                raise BadMetrics(number + 1, "a unit that the name ends with", shown(text))
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
        if known is not None and PLAIN_NUMBER.fullmatch(text) and not math.isinf(value := float(text)):
            name, labels = known.name, known.labels
        elif (said := plain(line)) is not None:
            name, labels, value = said
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
        scan = Scan(number, line, 0, self._open)
        name, labels = scan.series()
        value = scan.value()
        if not scan.ended:
            self._behind(number, scan, name)
        return name, labels, value

    def _behind(self, number: int, scan: "Scan", name: str) -> None:
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
        if wanted in ("le", "quantile") and family.type != "stateset" and not NUMBER.fullmatch(value):
            raise BadMetrics(number + 1, f"a number as {wanted}", shown(value))
