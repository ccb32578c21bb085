"""What samplers saw happen, on its way into the host's timeline: bounded, since a host that goes mad must not fill the
store for what must not be lost.

Of one minute so many are taken, so many wait while the disk is slow, and what is beyond is dropped and counted: the
series of the sampler say how often all the same.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final

from watchbill.clock import Clock
from watchbill_agent.reading import Happening

PER_MINUTE_MAX: Final = 60
WAITING_MAX: Final = 256
MINUTE_S: Final = 60.0


class Happenings:
    """Waiting to be told. `told` and `dropped` count since the start."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: deque[Happening] = deque()
        self._minute_s = -MINUTE_S
        self._in_minute = 0
        self.told = 0
        self.dropped = 0

    def add(self, happenings: Iterable[Happening]) -> None:
        """Take what the minute and the place allow."""
        for happening in happenings:
            now_s = self._clock.monotonic_s()
            if now_s - self._minute_s >= MINUTE_S:
                self._minute_s, self._in_minute = now_s, 0
            if self._in_minute >= PER_MINUTE_MAX or len(self._waiting) >= WAITING_MAX:
                self.dropped += 1
                continue
            self._in_minute += 1
            self._waiting.append(happening)

    def take(self) -> list[Happening]:
        """All that wait, in the order in which they came."""
        taken = list(self._waiting)
        self._waiting.clear()
        self.told += len(taken)
        return taken
