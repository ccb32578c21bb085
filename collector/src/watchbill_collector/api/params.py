"""Request parameters as Prometheus reads them: times, durations, limits, form bodies.

Forms and wordings follow Prometheus' HTTP API (its `docs/querying/api.md`); what is refused there is refused
here with the same `errorType`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import parse_qsl

from watchbill_collector.promql.errors import BadQuery

FIELDS_MAX = 20_000
"""Parameters in one request: ten thousand selectors are a storm, not a question."""

STEPS_MAX = 11_000
"""Points a series in one answer, as in Prometheus."""

TIME_MS_MAX = 253_402_300_799_999
"""The end of the year 9999, the last moment that RFC 3339 can write; times reach as far into the past."""

_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)([.,]\d{1,9})?(Z|[+-]\d\d:\d\d)",
    re.ASCII,
)
_DURATION = re.compile(
    r"(?:(\d+)y)?(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?", re.ASCII
)
_DURATION_UNITS_MS = (365 * 86_400_000, 7 * 86_400_000, 86_400_000, 3_600_000, 60_000, 1_000, 1)

_OPEN_TIMES = {
    "-292273086-05-16T16:47:06Z": -TIME_MS_MAX,
    "+292309607-05-16T07:12:55.999999999Z": TIME_MS_MAX,
    "292309607-05-16T07:12:55.999999999Z": TIME_MS_MAX,
}
"""What Prometheus' own client sends for "since ever" and "for ever"."""


def quoted(text: str) -> str:
    """Text in double quotes, escaped and cut: errors repeat what was sent, which may be a megabyte of
    anything.
    """
    shown = text if len(text) <= 120 else text[:117] + "..."
    escaped = shown.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    return f'"{escaped}"'


def bad_parameter(name: str, reason: str) -> BadQuery:
    """Prometheus' wording for a parameter that does not say what it should."""
    return BadQuery(f'invalid parameter "{name}": {reason}')


@dataclass(frozen=True, slots=True)
class Fields:
    """The parameters of a request: those of a form body before those of the URL."""

    values: Mapping[str, Sequence[str]]

    def one(self, name: str) -> str:
        """The first value, empty when there is none."""
        values = self.values.get(name)
        return values[0] if values else ""

    def all(self, name: str) -> Sequence[str]:
        """Every value."""
        return self.values.get(name, ())


def read_fields(query_string: bytes, form: bytes = b"") -> Fields:
    """Parse a query string and a form body. Raises BadQuery for text that is neither."""
    values: dict[str, list[str]] = {}
    for part in (form, query_string):
        try:
            pairs = parse_qsl(
                part.decode("utf-8"), keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="strict"
            )
        except UnicodeDecodeError as exc:
            raise BadQuery("error parsing form values: not UTF-8") from exc
        except ValueError as exc:
            raise BadQuery(f"error parsing form values: {exc}") from exc
        for name, value in pairs:
            values.setdefault(name, []).append(value)
    return Fields(values)


def parse_time(text: str) -> int:
    """Unix seconds with a fraction, or RFC 3339, as UTC milliseconds. Raises ValueError."""
    if text in _OPEN_TIMES:
        return _OPEN_TIMES[text]
    time_ms = _unix_ms(text) if _FLOAT.fullmatch(text) else _rfc3339_ms(text)
    if time_ms is None or abs(time_ms) > TIME_MS_MAX:
        raise ValueError(f"cannot parse {quoted(text)} to a valid timestamp")
    return time_ms


def _unix_ms(text: str) -> int | None:
    seconds = float(text)
    return round(seconds * 1000) if math.isfinite(seconds) else None


def _rfc3339_ms(text: str) -> int | None:
    match = _RFC3339.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(match[group]) for group in range(1, 7))
    fraction_ms = int(match[7][1:].ljust(3, "0")[:3]) if match[7] else 0
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=_zone(match[8]))
    except ValueError:
        return None
    whole = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (whole.days * 86_400 + whole.seconds) * 1000 + fraction_ms


def _zone(text: str) -> timezone:
    if text == "Z":
        return UTC
    offset = timedelta(hours=int(text[1:3]), minutes=int(text[4:6]))
    return timezone(-offset if text[0] == "-" else offset)


def parse_duration_ms(text: str) -> int:
    """Seconds with a fraction, or a duration such as `1h30m`, as milliseconds. Raises ValueError."""
    if _FLOAT.fullmatch(text):
        seconds = float(text)
        if abs(seconds) > TIME_MS_MAX / 1000:
            raise ValueError(f"cannot parse {quoted(text)} to a valid duration. It overflows int64")
        return round(seconds * 1000)
    match = _DURATION.fullmatch(text)
    if match is None or not text or len(text) > 64:
        raise ValueError(f"cannot parse {quoted(text)} to a valid duration")
    total = sum(int(part) * unit for part, unit in zip(match.groups("0"), _DURATION_UNITS_MS, strict=True))
    if total > TIME_MS_MAX:
        raise ValueError(f"cannot parse {quoted(text)} to a valid duration")
    return total


def time_field(fields: Fields, name: str, default: int | None) -> int | None:
    """A moment, or the default where the parameter is absent or empty. Raises BadQuery."""
    text = fields.one(name)
    if not text:
        return default
    try:
        return parse_time(text)
    except ValueError as exc:
        raise bad_parameter(name, f"invalid time value for '{name}': {exc}") from exc


def needed_time_field(fields: Fields, name: str) -> int:
    """A moment that has to be there. Raises BadQuery."""
    try:
        return parse_time(fields.one(name))
    except ValueError as exc:
        raise bad_parameter(name, str(exc)) from exc


def duration_field(fields: Fields, name: str, default: int | None) -> int | None:
    """A duration in ms, or the default where the parameter is absent or empty. Raises BadQuery."""
    text = fields.one(name)
    if not text:
        return default
    try:
        return parse_duration_ms(text)
    except ValueError as exc:
        raise bad_parameter(name, str(exc)) from exc


def limit_field(fields: Fields) -> int:
    """How many are wanted, 0 for all. Raises BadQuery."""
    text = fields.one("limit")
    if not text:
        return 0
    if not re.fullmatch(r"[+-]?\d{1,18}", text, re.ASCII):
        raise bad_parameter("limit", f"cannot parse {quoted(text)} to a number")
    if int(text) < 0:
        raise bad_parameter("limit", "limit must be non-negative")
    return int(text)


def steps_between(start_ms: int, end_ms: int, step_ms: int) -> int:
    """How many points a range query asks for, checked. Raises BadQuery."""
    if end_ms < start_ms:
        raise bad_parameter("end", "end timestamp must not be before start time")
    if step_ms <= 0:
        raise bad_parameter(
            "step",
            "zero or negative query resolution step widths are not accepted. Try a positive integer",
        )
    steps = (end_ms - start_ms) // step_ms
    if steps > STEPS_MAX:
        raise BadQuery(
            "exceeded maximum resolution of 11,000 points per timeseries. "
            "Try decreasing the query resolution (?step=XX)"
        )
    return steps + 1
