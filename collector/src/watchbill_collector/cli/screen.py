"""What people see: tables, times, sizes, colours on a terminal alone.

Host names, labels and annotations come from machines that may be hostile, and a terminal obeys what it is
shown; so everything that is printed goes through `clean`.
"""

import json
import math
import os
import re
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

CELL_CHARACTERS_MAX = 120
PIPED_CHARACTERS_MAX = 4096
"""Characters of a cell that goes to a program or a file, where no line is too long."""

_COLOURS = {"green": "32", "yellow": "33", "red": "31", "dim": "2", "bold": "1"}
_OURS = frozenset(f"\x1b[{code}m" for code in ("0", *_COLOURS.values()))
_STEERING = re.compile(
    "\x1b\\[[0-9]{1,2}m|[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters, line separators and turns of the reading direction; of colours the whole sequence."""
STATE_COLOURS = {
    "up": "green",
    "ok": "green",
    "healthy": "green",
    "degraded": "yellow",
    "critical": "red",
    "warning": "yellow",
    "inactive": "green",
    "resolved": "green",
    "open": "green",
    "down": "red",
    "firing": "red",
    "fail": "red",
    "err": "red",
    "revoked": "red",
    "pending": "yellow",
    "never": "yellow",
    "unknown": "yellow",
    "warn": "yellow",
    "retired": "dim",
    "used": "dim",
    "withdrawn": "dim",
    "dead": "red",
    "expired": "dim",
    "OK": "green",
    "RUNNING": "green",
    "STALE": "red",
    "MISSED": "red",
    "FAILED": "red",
    "SUSPECT": "red",
    "UNVERIFIED": "yellow",
    "UNKNOWN": "yellow",
    "PARTIAL": "yellow",
    "LATE": "yellow",
    "PAUSED": "dim",
    "RETIRED": "dim",
    "bad": "red",
    "failed": "red",
    "partial": "yellow",
    "ready": "green",
    "not ready": "red",
    "broken": "red",
    "succeeded": "green",
    "proposed": "yellow",
    "waiting": "yellow",
    "held": "red",
    "undone": "yellow",
    "cancelled": "dim",
    "skipped": "dim",
}
SPARKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Screen:
    """Where output goes. `colour`: it is a terminal and nobody asked for plain text."""

    out: TextIO
    colour: bool

    @staticmethod
    def here() -> "Screen":
        """Standard output."""
        dumb = os.environ.get("TERM") == "dumb"
        plain = bool(os.environ.get("NO_COLOR")) or dumb or not sys.stdout.isatty()
        return Screen(sys.stdout, not plain)

    def line(self, text: str = "") -> None:
        """One line. The caller has cleaned what is foreign in it; should he have forgotten, no terminal obeys it."""
        self.out.write(_obeyed_by_nobody(text) + "\n")

    def json(self, document: Any) -> None:
        """One document. Everything beyond ASCII is escaped, so that no byte of it can steer a terminal."""
        self.out.write(json.dumps(document, indent=2 if self.out.isatty() else None) + "\n")

    def painted(self, text: str, colour: str) -> str:
        """Text in a colour, where there are colours."""
        if not self.colour or not colour or not text:
            return text
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"

    def state(self, state: str) -> str:
        """A state in its colour; what follows a colon says more of it."""
        return self.painted(clean(state), STATE_COLOURS.get(state.partition(":")[0], ""))

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
        """Aligned columns; those whose numbers are in `right` are aligned to the right. States get their
        colour.
        """
        most = CELL_CHARACTERS_MAX if self.out.isatty() else PIPED_CHARACTERS_MAX
        cells = [[clean(cell, most) for cell in row] for row in rows]
        widths = [max([_width(title)] + [_width(row[at]) for row in cells]) for at, title in enumerate(head)]
        titles = [
            _padded(title, width, at in right)
            for at, (title, width) in enumerate(zip(head, widths, strict=True))
        ]
        self.line(self.painted("  ".join(titles).rstrip(), "bold"))
        for row in cells:
            shown = [
                self.painted(
                    _padded(cell, widths[at], at in right), STATE_COLOURS.get(cell.partition(":")[0], "")
                )
                for at, cell in enumerate(row)
            ]
            self.line("  ".join(shown).rstrip())


def _obeyed_by_nobody(text: str) -> str:
    """The text with everything spelled out that a terminal would act on, but for the colours that are ours."""
    return text if text.isascii() and text.isprintable() else _STEERING.sub(_spelled, text)


def _spelled(found: re.Match[str]) -> str:
    return (
        found[0] if found[0] in _OURS else found[0].encode("unicode_escape", "surrogatepass").decode("ascii")
    )


def clean(text: str, characters_max: int = CELL_CHARACTERS_MAX) -> str:
    """Foreign text made harmless: what is not printable is spelled out, what is long is cut."""
    if text.isascii() and text.isprintable():
        safe = text
    else:
        safe = "".join(
            character
            if character.isprintable() and unicodedata.category(character) not in ("Cf", "Zl", "Zp")
            else character.encode("unicode_escape", "surrogatepass").decode("ascii")
            for character in text[: 4 * characters_max]
        )
    return safe if len(safe) <= characters_max else safe[: characters_max - 1] + "…"


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def _padded(text: str, width: int, right: bool) -> str:
    room = " " * (width - _width(text))
    return room + text if right else text + room


def moment(text: str | None) -> datetime | None:
    """An RFC 3339 time of the API."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def clock(text: str | None) -> str:
    """A moment by the clock of this place, with its date unless that is today."""
    if not text:
        return "-"
    moment = datetime.fromisoformat(text).astimezone()
    today = datetime.now(UTC).astimezone().date() == moment.date()
    return moment.strftime("%H:%M" if today else "%Y-%m-%d %H:%M")


def ago(text: str | None, now: datetime | None = None) -> str:
    """How long since, for people: `3m12s`, `-` when never."""
    then = moment(text)
    if then is None or then.year < 1971:
        return "-"
    seconds = ((now or datetime.now(UTC)) - then).total_seconds()
    return ("in " if seconds < -1 else "") + span(abs(seconds))


def span(seconds: float) -> str:
    """A duration in its two largest units."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    units = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))
    for at, (size, unit) in enumerate(units[:-1]):
        if whole >= size:
            smaller, name = units[at + 1]
            rest = whole % size // smaller
            return f"{whole // size}{unit}" + (f"{rest}{name}" if rest else "")
    raise AssertionError("less than a minute was answered above")


def number(value: float) -> str:
    """A value for people: six digits that count."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value)}"
    return f"{value:.6g}"


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """A row of bars, the mean of each piece; a space where there is nothing."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    low, high = min(finite), max(finite)
    pieces = min(width, len(values))
    bars = []
    for piece in range(pieces):
        part = values[piece * len(values) // pieces : (piece + 1) * len(values) // pieces]
        known = [value for value in part if math.isfinite(value)]
        if not known:
            bars.append(" ")
            continue
        share = (sum(known) / len(known) - low) / (high - low) if high > low else 0.0
        bars.append(SPARKS[min(len(SPARKS) - 1, int(share * len(SPARKS)))])
    return "".join(bars)


def labels_text(labels: dict[str, str]) -> str:
    """A label set in PromQL's spelling."""
    name = labels.get("__name__", "")
    rest = ", ".join(
        f"{key}={json.dumps(value, ensure_ascii=False)}"
        for key, value in sorted(labels.items())
        if key != "__name__"
    )
    return f"{name}{{{rest}}}" if rest or not name else name
