"""When a systemd calendar event comes round in a time zone: `Mon..Fri 02:15`, `*-*-01 03:00`, `weekly`.

The words are those of systemd.time(7), seconds and years included; an expression may end with its zone. oncalendar
reads them and knows the calendar. As with cron lines it is asked for times on a clock without a zone, and
`watchbill.cron` decides what happens in the nights that clocks are changed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from oncalendar import OnCalendar, OnCalendarError

from watchbill.cron import AGAIN, MARGIN, moments, shown

EVENT_CHARACTERS_MAX: Final = 200
SECONDS_APART_MIN: Final = 60
"""Nothing that is watched here happens more than once a minute; a finer event would cost a search its bound."""
_LOOKS_BACK: Final = tuple(
    timedelta(hours=hours) for hours in (1, 26, 8 * 24, 33 * 24, 370 * 24, 5 * 370 * 24)
)
_ANY_DAY: Final = datetime(2001, 1, 1)
_HOURS_A_DAY: Final = 24


class BadCalendarEvent(ValueError):
    """Not a calendar event; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class CalendarEvent:
    """An event, read. `zone` is what the expression itself names; `every_hour`: it goes by real time where clocks
    change."""

    text: str
    zone: ZoneInfo | None
    every_hour: bool

    def latest(self, zone: ZoneInfo, now_ms: int, within_ms: int) -> int:
        """The newest moment in (now - within, now] in UTC milliseconds; 0 if there is none."""
        zone = self.zone or zone
        now = shown(now_ms, zone)
        for back in _LOOKS_BACK:
            found = 0
            for local in _locals(self.text, now - back):
                if local > now + MARGIN:
                    break
                for at_ms in moments(local, zone, every_hour=self.every_hour):
                    if now_ms - within_ms < at_ms <= now_ms:
                        found = max(found, at_ms)
            if found or back >= timedelta(milliseconds=within_ms) + MARGIN:
                return found
        return 0

    def next(self, zone: ZoneInfo, after_ms: int, within_ms: int) -> int:
        """The first moment in (after, after + within] in UTC milliseconds; 0 if there is none."""
        zone = self.zone or zone
        found = 0
        last = shown(after_ms + within_ms, zone) + MARGIN
        for local in _locals(self.text, shown(after_ms, zone) - AGAIN):
            if local > last:
                break
            for at_ms in moments(local, zone, every_hour=self.every_hour):
                if after_ms < at_ms <= after_ms + within_ms and (not found or at_ms < found):
                    found = at_ms
                    last = min(last, local + AGAIN)
        return found


def read_calendar_event(text: str) -> CalendarEvent:
    """Read an event. Raises BadCalendarEvent."""
    if len(text) > EVENT_CHARACTERS_MAX:
        raise BadCalendarEvent(f"{len(text)} characters, at most {EVENT_CHARACTERS_MAX}")
    body, zone = _zone_apart(" ".join(text.split()))
    try:
        first = next(_locals(body, _ANY_DAY), None)
    except OnCalendarError as exc:
        raise BadCalendarEvent(str(exc)) from exc
    if first is None:
        raise BadCalendarEvent("it never comes")
    return CalendarEvent(body, zone, _every_hour(body))


def _zone_apart(text: str) -> tuple[str, ZoneInfo | None]:
    body, _, last = text.rpartition(" ")
    if body and last[:1].isalpha() and (last == "UTC" or "/" in last):
        try:
            return body, ZoneInfo(last)
        except (ZoneInfoNotFoundError, ValueError) as exc:
            raise BadCalendarEvent(f"{last[:40]!r} is no time zone") from exc
    return text, None


def _every_hour(body: str) -> bool:
    """Whether it comes in each hour of its first day. Raises BadCalendarEvent when it comes too often."""
    hours: set[int] = set()
    first: datetime | None = None
    before: datetime | None = None
    for local in _locals(body, _ANY_DAY):
        if before is not None and (local - before).total_seconds() < SECONDS_APART_MIN:
            raise BadCalendarEvent(f"it comes more than once in {SECONDS_APART_MIN} s")
        first, before = first or local, local
        if local - first >= timedelta(days=1):
            break
        hours.add(local.hour)
    return len(hours) == _HOURS_A_DAY


def _locals(text: str, after: datetime) -> Iterator[datetime]:
    """What a clock shows when it comes, after what one shows then: oncalendar is told that they are UTC, where no clock
    is ever changed."""
    return (local.replace(tzinfo=None) for local in OnCalendar(text, after.replace(tzinfo=UTC)))
