"""Messages of all streams, handed over together.

A message that is judged alone, right after the wake-up that it caused, finds cold caches and costs about three times
what it costs as one of a row. Agents send on a common grid, so many come within milliseconds: they wait here for a
moment and are then judged one after the other, and the commit that they make begins at once.
"""

import asyncio
from collections.abc import Callable

from watchbill.limits import MIB

GATHER_S = 0.02
"""The longest that a message waits, where its port wants no other time."""
GATHER_BYTES_MAX = 4 * MIB
"""As much may wait; then all of it is handed over at once."""


class Inlet:
    """Where the messages of one stream go: `receive` answers for how many seconds nothing more should be read."""

    __slots__ = ("receive", "throttle_s")

    def __init__(self, receive: Callable[[bytes, float], float]) -> None:
        self.receive = receive
        self.throttle_s = 0.0

    def throttle(self) -> float:
        """Seconds to read nothing, as the last message had it; asked once."""
        seconds, self.throttle_s = self.throttle_s, 0.0
        return seconds


class Gather:
    """Keeps messages for a moment, in the order they came, `wait_s` at most. `done` is called after each row."""

    def __init__(
        self, now_s: Callable[[], float], done: Callable[[], None], wait_s: float = GATHER_S
    ) -> None:
        self._wait_s = wait_s
        self._now_s = now_s
        self._done = done
        self._waiting: list[tuple[Inlet, bytes]] = []
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, inlet: Inlet, message: bytes) -> None:
        """Take a message."""
        self._waiting.append((inlet, message))
        self._bytes += len(message)
        if self._bytes > GATHER_BYTES_MAX:
            self.hand_over()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._wait_s, self.hand_over)

    def hand_over(self) -> None:
        """Hand over everything that waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        now_s = self._now_s()
        done = 0
        try:
            for inlet, message in waiting:
                done += 1
                inlet.throttle_s = max(inlet.throttle_s, inlet.receive(message, now_s))
        finally:
            # Whatever one sender brought about, the others' messages are not lost.
            for inlet, message in waiting[done:]:
                self.add(inlet, message)
        if waiting:
            self._done()
