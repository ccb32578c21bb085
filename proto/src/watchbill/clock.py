"""Time as an argument: the kernel's clocks, and a clock that tests move by hand.

Wall time is for people, monotonic time for durations, boot time for stamping samples: CLOCK_BOOTTIME goes on
while a machine sleeps and never jumps when somebody sets the date.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """What a part of the house may know about time."""

    def wall_ms(self) -> int:
        """UTC milliseconds since 1970, as the system believes; may jump."""

    def boottime_ms(self) -> int:
        """Milliseconds since boot, sleep included; never jumps."""

    def monotonic_s(self) -> float:
        """Seconds for measuring durations; never jumps."""


class SystemClock:
    """The kernel's clocks."""

    def wall_ms(self) -> int:
        """CLOCK_REALTIME."""
        return time.time_ns() // 1_000_000

    def boottime_ms(self) -> int:
        """CLOCK_BOOTTIME."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

    def monotonic_s(self) -> float:
        """CLOCK_MONOTONIC."""
        return time.monotonic()


class SteadyClock(SystemClock):
    """Wall time as it was when the process began, carried on by CLOCK_BOOTTIME: nobody who asks sees a jump.

    A daemon that stamps, judges and removes by wall time must not do so by two clocks at once. It looks at
    `stepped_ms` and begins anew when somebody has set the date.
    """

    def __init__(self) -> None:
        self._ahead_ms = super().wall_ms() - self.boottime_ms()

    def wall_ms(self) -> int:
        """CLOCK_REALTIME, as if it had never been set since."""
        return self.boottime_ms() + self._ahead_ms

    def stepped_ms(self) -> int:
        """How far the system's wall clock has been set forward since, or back."""
        return super().wall_ms() - self.wall_ms()


class ManualClock:
    """A clock that stands still until it is moved; the supported twin of SystemClock."""

    def __init__(self, wall_ms: int = 1_700_000_000_000, boottime_ms: int = 1_000_000) -> None:
        self._wall_ms = wall_ms
        self._boottime_ms = boottime_ms

    def wall_ms(self) -> int:
        """What was set, moved on by every advance."""
        return self._wall_ms

    def boottime_ms(self) -> int:
        """What was set, moved on by every advance."""
        return self._boottime_ms

    def monotonic_s(self) -> float:
        """Boot time in seconds."""
        return self._boottime_ms / 1000

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        assert seconds >= 0, "time does not go backwards; step the wall clock with set_wall_ms"
        self._wall_ms += round(seconds * 1000)
        self._boottime_ms += round(seconds * 1000)

    def set_wall_ms(self, wall_ms: int) -> None:
        """Let somebody set the date."""
        self._wall_ms = wall_ms
