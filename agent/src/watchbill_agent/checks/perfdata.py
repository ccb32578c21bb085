"""What a monitoring plugin prints: a line for people, more text, and performance data, in base units.

    DISK OK - free space: / 61 GiB | /=42834329600B;243497277849;257024904396;0;270552530944
    more text
    still more | 'inodes /'=45%;@10:20

Times become seconds, `B KB MB ...` bytes (1000 each, as Icinga reads them; `KiB MiB ...` 1024 each), `%` a ratio where
1 is the whole. Other units stay as they are. A range says when to alert: `10` outside 0 to 10, `10:` below 10, `~:10`
above 10, `10:20` outside, `@10:20` inside.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from watchbill_agent.checks.check import Samples

LABEL_CHARACTERS_MAX: Final = 256
UNIT_CHARACTERS_MAX: Final = 16
PERFDATA_MAX: Final = 500
"""Of one answer; what is beyond is dropped and counted."""

VALUE: Final = "watchbill_check_perfdata"
TOTAL: Final = "watchbill_check_perfdata_total"

_SECONDS: Final = {"ns": 1e9, "us": 1e6, "µs": 1e6, "ms": 1e3}
_LONGER: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PREFIXES: Final = ("", "k", "m", "g", "t", "p", "e")
_OTHERS: Final = {"a": "amperes", "v": "volts", "w": "watts", "ohm": "ohms", "ohms": "ohms"}
_WORD = re.compile(r"\S+")
_QUOTED = re.compile(rf"'((?:[^']|''){{1,{LABEL_CHARACTERS_MAX}}})'=(\S*)")
_PLAIN = re.compile(rf"([^\s'=]{{1,{LABEL_CHARACTERS_MAX}}})=(\S*)")
_NUMBER: Final = r"[-+]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][-+]?\d{1,3})?"
_VALUE = re.compile(rf"({_NUMBER})([^\d\s,;.+-][^\d\s;]{{0,{UNIT_CHARACTERS_MAX - 1}}})?", re.ASCII)
_RANGE = re.compile(rf"(@?)(?:(~|{_NUMBER})?:)?({_NUMBER})?", re.ASCII)
UNKNOWN_VALUE: Final = "U"


@dataclass(frozen=True, slots=True)
class Range:
    """When to alert: outside of it, or `inside`. Bounds belong to it."""

    low: float
    high: float
    inside: bool = False


@dataclass(frozen=True, slots=True)
class Perf:
    """One value. `unit` is a base unit or the plugin's own word; `counter`: it only grows. `value` is None where the
    plugin did not know it."""

    label: str
    value: float | None
    unit: str = ""
    counter: bool = False
    warn: Range | None = None
    crit: Range | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a plugin printed. `malformed` words of performance data could not be read, or were too many."""

    line: str
    more: tuple[str, ...]
    perfs: tuple[Perf, ...]
    malformed: int = 0


def read_answer(text: str) -> Answer:
    """Never raises: a plugin may print anything."""
    first, *lines = text.split("\n")
    line, _, perf = first.partition("|")
    perfs, more = [perf], []
    for number, other in enumerate(lines):
        words, bar, rest = other.partition("|")
        more.append(words)
        if bar:
            perfs += [rest, *lines[number + 1 :]]
            break
    found, malformed = read_perfdata("\n".join(perfs))
    return Answer(
        line.strip(), tuple(stripped for one in more if (stripped := one.strip())), found, malformed
    )


def read_perfdata(text: str) -> tuple[tuple[Perf, ...], int]:
    """Every value once, and how much could not be read."""
    found: dict[tuple[str, str, bool], Perf] = {}
    malformed = 0
    for said in _words(text):
        perf, faults = _perf(*said) if said is not None else (None, 1)
        malformed += faults
        if perf is None:
            continue
        key = (perf.label, perf.unit, perf.counter)
        if key in found or len(found) >= PERFDATA_MAX:
            malformed += 1
        else:
            found[key] = perf
    return tuple(found.values()), malformed


def _words(text: str) -> Iterator[tuple[str, str] | None]:
    """Labels and what is said of them; None for a word that is none of it."""
    at = 0
    while (word := _WORD.search(text, at)) is not None:
        match = (_QUOTED if word[0][0] == "'" else _PLAIN).match(text, word.start())
        if match is None:
            at = word.end()
            yield None
        else:
            at = match.end()
            yield match[1].replace("''", "'"), match[2]


def _perf(label: str, said: str) -> tuple[Perf | None, int]:
    value, *bounds = said.split(";")
    if value == UNKNOWN_VALUE:
        return Perf(label, None), 0
    match = _VALUE.fullmatch(value)
    if match is None or not math.isfinite(float(match[1])):
        return None, 1
    scale, unit, counter = _unit(match[2] or "")
    faults = 0

    def scaled(number: float) -> float:
        # Divided, never multiplied by a fraction: 7 ms are 0.007 s.
        return number * scale if scale >= 1 else number / round(1 / scale)

    def number(at: int) -> float | None:
        nonlocal faults
        word = bounds[at] if at < len(bounds) else ""
        if not word:
            return None
        if re.fullmatch(_NUMBER, word, re.ASCII) is None or not math.isfinite(float(word)):
            faults += 1
            return None
        return scaled(float(word))

    def range_(at: int) -> Range | None:
        nonlocal faults
        word = bounds[at] if at < len(bounds) else ""
        read = read_range(word)
        if read is None:
            faults += bool(word)
            return None
        return Range(scaled(read.low), scaled(read.high), read.inside)

    return Perf(
        label, scaled(float(match[1])), unit, counter, range_(0), range_(1), number(2), number(3)
    ), faults + (len(bounds) > 4)


def read_range(word: str) -> Range | None:
    """None for none, and for what is no range."""
    match = _RANGE.fullmatch(word) if word.strip("@") else None
    if match is None:
        return None
    if ":" not in word:
        low, high = 0.0, float(match[3])
    else:
        low = -math.inf if match[2] == "~" else float(match[2] or 0)
        high = float(match[3]) if match[3] else math.inf
    return Range(low, high, bool(match[1])) if low <= high else None


def _unit(word: str) -> tuple[float, str, bool]:
    """By what to multiply, the base unit, and whether it is a counter."""
    if word in _SECONDS:
        return 1 / _SECONDS[word], "seconds", False
    if word in _LONGER:
        return _LONGER[word], "seconds", False
    if word == "%":
        return 0.01, "ratio", False
    if word == "c":
        return 1.0, "", True
    if word[-1:] in ("B", "b") and word != "b":
        prefix = word[:-1].lower()
        of_two = prefix.endswith("i")
        if prefix.removesuffix("i") in _PREFIXES and prefix != "i":
            power = _PREFIXES.index(prefix.removesuffix("i"))
            return float((1024 if of_two else 1000) ** power), "bits" if word[-1] == "b" else "bytes", False
    if word == "b":
        return 1.0, "bits", False
    return 1.0, _OTHERS.get(word.lower(), word), False


# ---------------------------------------------------------------- as series


def put_perfdata(found: Samples, perfs: tuple[Perf, ...]) -> None:
    """The values and their bounds. A bound that is infinite is none."""
    for perf in perfs:
        if perf.value is None:
            continue
        if perf.counter:
            found.counter(TOTAL, "A counter of the plugin's.", perf.value, label=perf.label)
        else:
            found.gauge(
                VALUE,
                "A value of the plugin's, in base units; % as a ratio.",
                perf.value,
                label=perf.label,
                unit=perf.unit,
            )
        for name, help_, value in _bounds(perf):
            if value is not None and math.isfinite(value):
                found.gauge(f"{VALUE}_{name}", help_, value, label=perf.label, unit=perf.unit)


def _bounds(perf: Perf) -> Iterator[tuple[str, str, float | None]]:
    for name, words, range_ in (("warn", "warns", perf.warn), ("crit", "is critical", perf.crit)):
        if range_ is None:
            continue
        if range_.inside:
            yield (
                f"{name}_inside_low",
                f"The plugin {words} from here to its partner, both included.",
                range_.low,
            )
            yield f"{name}_inside_high", f"The plugin {words} up to here from its partner.", range_.high
        else:
            yield f"{name}_below", f"The plugin {words} below this.", range_.low
            yield f"{name}_above", f"The plugin {words} above this.", range_.high
    yield "min", "The least that the value can be, as the plugin says.", perf.low
    yield "max", "The most that the value can be, as the plugin says.", perf.high
