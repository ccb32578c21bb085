"""When a job was due last, and is next: asked again and again of the same schedules, so it is remembered."""

from dataclasses import dataclass
from typing import Final

from watchbill.backups.schedule import Schedule

NEVER_MS: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Around:
    """Due times around a moment: the last two, and the next one (NEVER_MS if there is none). 0 for none."""

    before_ms: int
    due_ms: int
    next_ms: int


class DueTimes:
    """Of one schedule that goes by the clock. Remembers the last answer: moments come in order, and many jobs share a
    schedule."""

    __slots__ = ("_around", "_schedule")

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._around: Around | None = None

    def around(self, now_ms: int) -> Around:
        """The due times around this moment."""
        known = self._around
        if known is not None and known.due_ms <= now_ms:
            if now_ms < known.next_ms:
                return known
            after_ms = self._schedule.next(known.next_ms) or NEVER_MS
            if now_ms < after_ms:
                self._around = known = Around(known.due_ms, known.next_ms, after_ms)
                return known
        due_ms = self._schedule.latest(now_ms)
        before_ms = self._schedule.latest(due_ms - 1) if due_ms else 0
        self._around = known = Around(before_ms, due_ms, self._schedule.next(now_ms) or NEVER_MS)
        return known
