"""What may be deleted, decided apart from deleting it.

A clock that jumps must never cost history. So retention does not go by the wall clock but by a reference of
its own, which follows the wall clock only as far as three witnesses agree:

1. readings: nothing is older than the newest committed reading says;
2. progress: the reference moves no faster than time since boot passes, with some room to catch up;
3. patience: when the wall is far ahead of the reference, the jump has to stand for a day of uptime before the
   reference begins to follow, and then at a pace of one day an hour.

A collector that was off for a month therefore starts deleting a day later than it might. That is the price.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from watchbill_collector.history.values import DAY_MS, HOUR_MS

JUMP_MS = 2 * DAY_MS
"""The wall may be ahead of the reference by this much before it is doubted: a weekend switched off."""
PATIENCE_MS = DAY_MS
"""For so long a jump has to stand."""
CATCH_UP = 24
"""Then the reference moves at this many times the pace of the clock: one day file an hour."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Retention's idea of now. `doubted_since_ms` is the boot time at which a jump was first seen, or
    None.
    """

    at_ms: int
    boottime_ms: int
    doubted_since_ms: int | None = None

    def moved(self, wall_ms: int, newest_ms: int, boottime_ms: int) -> "Reference":
        """The reference after looking at the clocks and at the newest committed reading again."""
        elapsed = max(boottime_ms - self.boottime_ms, 0)
        goal = min(wall_ms, newest_ms)
        ahead = goal - self.at_ms
        if ahead <= 0:
            return Reference(self.at_ms, boottime_ms)
        if ahead - elapsed <= JUMP_MS:
            return Reference(goal, boottime_ms)
        since = self.doubted_since_ms if self.doubted_since_ms is not None else boottime_ms
        patient = boottime_ms - since >= PATIENCE_MS
        return Reference(self.at_ms + elapsed * (CATCH_UP if patient else 1), boottime_ms, since)


def too_old(days: Sequence[int], keep_ms: int, reference_ms: int) -> list[int]:
    """Days that end before what is kept begins; nothing when `keep_ms` is 0."""
    if not keep_ms:
        return []
    return [day for day in days if day < first_kept(keep_ms, reference_ms)]


def first_kept(keep_ms: int, reference_ms: int) -> int:
    """The first day that does not end before what is kept begins."""
    return max(-(-(reference_ms - keep_ms) // DAY_MS) - 1, 0)


def over_size(sizes: Mapping[int, int], bytes_max: int, newest_day: int) -> list[int]:
    """The oldest days to let go until the rest fits; never the newest two, which are being written."""
    total = sum(sizes.values())
    gone = []
    for day in sorted(sizes):
        if total <= bytes_max or day >= newest_day - 1:
            break
        gone.append(day)
        total -= sizes[day]
    return gone


MERGE_DELAY_MS = 6 * 60_000
"""An hour is merged when it is over for this long: by then what was sent in it is in mini-blocks."""


def hour_is_over(hour: int, now_ms: int) -> bool:
    """Whether an hour's readings can be expected to be complete."""
    return (hour + 1) * HOUR_MS + MERGE_DELAY_MS <= now_ms
