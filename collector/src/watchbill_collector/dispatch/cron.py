"""When a cron line comes round in a time zone, for windows of maintenance.

Five fields: minute, hour, day of month, month, day of week (0 and 7 are Sunday), each `*`, a number, a range
`1-5`, a list `1,3`, with a step `*/15`; months and days also by their English three letters. As in Vixie's cron,
a day has to satisfy one of the two day fields when both are restricted, else both.

Where clocks change: a time that a spring night skips comes as much later as the clock jumped (02:30 is then
03:30). A time that an autumn night has twice comes once, the first time, when the hour is fixed; a line whose
hour is `*` goes by real time and comes in both hours.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

LINE_CHARACTERS_MAX = 200
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 7, _DAYS),
)


class BadCron(ValueError):
    """A line that is no cron line; the message names the field."""


@dataclass(frozen=True, slots=True)
class Cron:
    """A line, read. The day of week counts from Sunday, 0."""

    text: str
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either_day: bool
    every_hour: bool

    def starts(self, zone: ZoneInfo, after_ms: int, until_ms: int) -> Iterator[int]:
        """The moments in (after, until], in UTC milliseconds; in order but for what a clock change repeats."""
        # A day more on both sides: zones differ from UTC by up to 14 hours.
        day = datetime.fromtimestamp(after_ms / 1000, UTC).date() - timedelta(days=1)
        last = datetime.fromtimestamp(until_ms / 1000, UTC).date() + timedelta(days=1)
        while day <= last:
            if self._day(day):
                for at_ms in self._of_day(day, zone):
                    if after_ms < at_ms <= until_ms:
                        yield at_ms
            day += timedelta(days=1)

    def _day(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        by_date, by_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return by_date or by_week if self.either_day else by_date and by_week

    def _of_day(self, day: date, zone: ZoneInfo) -> Iterator[int]:
        for hour in self.hours:
            for minute in self.minutes:
                local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone)
                first = round(local.timestamp() * 1000)
                if not self.every_hour or _exists(local):
                    yield first
                again = local.replace(fold=1)
                # Of a skipped time the second reading lies before the first: it is no second coming.
                if self.every_hour and round(again.timestamp() * 1000) > first:
                    yield round(again.timestamp() * 1000)


def _exists(local: datetime) -> bool:
    """Whether clocks show this time at all on that day."""
    return local.astimezone(UTC).astimezone(local.tzinfo).replace(tzinfo=None) == local.replace(tzinfo=None)


def read_cron(text: str) -> Cron:
    """Read a line. Raises BadCron."""
    if len(text) > LINE_CHARACTERS_MAX:
        raise BadCron(f"{len(text)} characters, at most {LINE_CHARACTERS_MAX}")
    parts = text.lower().split()
    if len(parts) != len(_FIELDS):
        raise BadCron(f"{len(parts)} fields, wanted 5: minute hour day-of-month month day-of-week")
    values = [
        _field(part, name, low, high, words)
        for part, (name, low, high, words) in zip(parts, _FIELDS, strict=True)
    ]
    minutes, hours, days, months, weekdays = values
    return Cron(
        text=" ".join(parts),
        minutes=tuple(sorted(minutes)),
        hours=tuple(sorted(hours)),
        days=frozenset(days),
        months=frozenset(months),
        weekdays=frozenset(day % 7 for day in weekdays),
        either_day=not parts[2].startswith("*") and not parts[4].startswith("*"),
        every_hour=parts[1].startswith("*"),
    )


def _field(part: str, name: str, low: int, high: int, words: tuple[str, ...]) -> set[int]:
    found: set[int] = set()
    for item in part.split(","):
        span, slash, step_text = item.partition("/")
        step = _number(step_text, name, 1, high, ()) if slash else 1
        if span == "*":
            first, last = low, high
        else:
            start, dash, end = span.partition("-")
            first = _number(start, name, low, high, words)
            last = _number(end, name, low, high, words) if dash else (high if slash else first)
        if first > last:
            raise BadCron(f"{name}: the range {span} runs backwards")
        found.update(range(first, last + 1, step))
    return found


def _number(text: str, name: str, low: int, high: int, words: tuple[str, ...]) -> int:
    if text in words:
        return words.index(text) + low
    if not text.isascii() or not text.isdigit() or len(text) > 2 or not low <= int(text) <= high:
        raise BadCron(f"{name}: {text[:20]!r} is not a number from {low} to {high}")
    return int(text)
