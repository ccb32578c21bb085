"""When what has to be looked at again.

Deadlines are kept by the second, and only the seconds are in order: out of one heap of a hundred thousand each costs
5 us, most of it waiting for memory. A deadline that does not hold any more stays until its second comes.
"""

import heapq
from typing import Final, Generic, Protocol, TypeVar

SECOND_MS: Final = 1000


class Waits(Protocol):
    """Something with a deadline; 0 for none."""

    next_ms: int


W = TypeVar("W", bound=Waits)


class Moments(Generic[W]):
    """Things by their deadlines. Whoever changes a deadline adds the thing once more."""

    def __init__(self) -> None:
        self._of_second: dict[int, list[W]] = {}
        self._seconds: list[int] = []
        self._count = 0

    def add(self, one: W) -> None:
        """Something whose deadline is new."""
        second = one.next_ms // SECOND_MS
        some = self._of_second.get(second)
        if some is None:
            self._of_second[second] = [one]
            heapq.heappush(self._seconds, second)
        else:
            some.append(one)
        self._count += 1

    def passed(self, now_ms: int) -> list[W]:
        """What has come to its deadline since this was asked last, some of it more than once; all of it is let go."""
        found: list[W] = []
        later: list[W] = []
        last = now_ms // SECOND_MS
        while self._seconds and self._seconds[0] <= last:
            second = heapq.heappop(self._seconds)
            for one in self._let_go(second):
                if one.next_ms > now_ms:
                    if one.next_ms // SECOND_MS == second:
                        later.append(one)
                elif one.next_ms:
                    found.append(one)
        for one in later:
            self.add(one)
        return found

    def next_ms(self) -> int:
        """The next deadline; 0 for none."""
        while self._seconds:
            second = self._seconds[0]
            held = [one.next_ms for one in self._of_second[second] if one.next_ms // SECOND_MS == second]
            if held:
                return min(held)
            self._let_go(heapq.heappop(self._seconds))
        return 0

    def __len__(self) -> int:
        return self._count

    def _let_go(self, second: int) -> list[W]:
        some = self._of_second.pop(second)
        self._count -= len(some)
        return some
