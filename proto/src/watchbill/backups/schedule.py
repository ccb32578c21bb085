"""When a job is due: by a cron line, by a systemd calendar event, or so long after its last run. Pure.

cronsim and oncalendar are imported when the first schedule is looked at: most hosts have none.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

if TYPE_CHECKING:
    from watchbill.calendar_events import CalendarEvent
    from watchbill.cron import Cron

ZONE_DEFAULT: Final = "UTC"
WITHIN_MS: Final = 5 * 366 * 86_400_000
"""How far a due time is looked for; a line that does not come round in this time never does."""
READ_MAX: Final = 4096
"""Schedules that are kept read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """At most one of the three is set; none of them: nothing is ever due, and only the age of what there is counts."""

    cron: str = ""
    calendar: str = ""
    every_s: float = 0.0
    zone: str = ZONE_DEFAULT

    @property
    def by_the_clock(self) -> bool:
        """Whether due times do not depend on the runs before."""
        return bool(self.cron or self.calendar)

    def latest(self, now_ms: int, within_ms: int = WITHIN_MS) -> int:
        """The newest due time in (now - within, now] in UTC ms; 0 if there is none, or it does not go by the clock."""
        if not self.by_the_clock:
            return 0
        line, zone = _read(self.cron, self.calendar, self.zone)
        return line.latest(zone, now_ms, within_ms)

    def next(self, after_ms: int, within_ms: int = WITHIN_MS) -> int:
        """The first due time in (after, after + within] in UTC ms; 0 if there is none, or not by the clock."""
        if not self.by_the_clock:
            return 0
        line, zone = _read(self.cron, self.calendar, self.zone)
        return line.next(zone, after_ms, within_ms)

    def fault(self) -> str:
        """What is wrong with it; "" when nothing is."""
        if sum((bool(self.cron), bool(self.calendar), bool(self.every_s))) > 1:
            return "more than one of cron, calendar and every"
        if not self.by_the_clock:
            return ""
        try:
            _read(self.cron, self.calendar, self.zone)
        except ValueError as exc:
            return str(exc)
        return ""


NO_SCHEDULE: Final = Schedule()


@lru_cache(READ_MAX)
def _read(cron: str, calendar: str, zone: str) -> "tuple[Cron | CalendarEvent, ZoneInfo]":
    """Raises ValueError, also of the two readers."""
    try:
        read_zone = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise ValueError(f"{zone[:40]!r} is no time zone") from exc
    if cron:
        from watchbill.cron import read_cron

        return read_cron(cron), read_zone
    from watchbill.calendar_events import read_calendar_event

    return read_calendar_event(calendar), read_zone
