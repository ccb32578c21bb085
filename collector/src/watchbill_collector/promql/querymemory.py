"""The memory of all running queries together: one sum, so that many queries cannot take what one may not.

Each query says through its budget what it is about to hold: samples read, matrices, the text of its answer. The figures
are estimates on the high side (see the constants), made before the arrays are, so the process stays near the maximum
whatever is asked, and however often at once.

What does not fit beside the others waits for them, up to its own deadline. It is refused where waiting is of no use:
when it would not fit alone, or when all other queries wait for memory too, and each holds what another needs.
"""

import threading
from collections.abc import Callable

QUERY_BYTES_MAX = 1024 * 1024 * 1024
"""What queries may hold together, unless configured otherwise."""
LARGE_READ_SHARE = 0.75
"""Of all memory, what one large read may take at most: the rest is for the small ones beside it."""

SAMPLE_BYTES = 24
"""A sample in memory: time, value, and a share of the copies that operators make of them."""
READ_BYTES = 64
"""A sample while it is being read: pieces, their concatenation, their order, and the result stand side by side."""
SMALL_READ_SAMPLES = 500_000
"""What is read without asking for more: almost every query is content with it."""
POINT_BYTES = 9
"""A point of a matrix: a float64 and a byte of presence."""
WORK_BYTES = 36
"""A point while an operator works on it: operands, result, and what is between them."""
STRING_BYTES = 160
"""A label value that a query made: the text, its code, its places in two tables."""

_LOOK_S = 0.05
"""How often who waits looks whether he is still wanted."""


class NoMemory(Exception):
    """So many bytes are not to be had. `alone` says that they would not be even without the other queries."""

    def __init__(self, wanted: int, maximum: int, *, alone: bool) -> None:
        super().__init__(wanted, maximum, alone)
        self.maximum = maximum
        self.alone = alone


class QueryMemory:
    """Bytes in use by queries. Threads share it; `peak`, `waited` and `refused` are for its metrics."""

    def __init__(self, maximum: int = QUERY_BYTES_MAX) -> None:
        self.maximum = maximum
        self.in_use = 0
        self.peak = 0
        self.waited = 0
        self.refused = 0
        self._holders = 0
        self._waiting = 0
        self._changed = threading.Condition()
        self._large = threading.Lock()

    def enter(self) -> None:
        """A query begins."""
        with self._changed:
            self._holders += 1

    def leave(self, held: int) -> None:
        """A query is over; what it held is free."""
        with self._changed:
            self._holders -= 1
            self.in_use -= held
            self._changed.notify_all()

    def take(self, wanted: int, own: int, check: Callable[[], None]) -> None:
        """Have `wanted` bytes more, for a query that holds `own`. While it waits it calls `check`, which may raise.

        Raises NoMemory.
        """
        with self._changed:
            if own + wanted > self.maximum:
                self.refused += 1
                raise NoMemory(wanted, self.maximum, alone=True)
            if self.in_use + wanted > self.maximum:
                self._wait(wanted, check)
            self.in_use += wanted
            self.peak = max(self.peak, self.in_use)

    def give(self, held: int) -> None:
        """These bytes are free again."""
        with self._changed:
            self.in_use -= held
            self._changed.notify_all()

    def large_read(self, check: Callable[[], None]) -> threading.Lock:
        """Wait for the turn to read much: one query at a time. The lock that is answered is held, and is to be
        released."""
        if self._large.acquire(blocking=False):
            return self._large
        # Who waits here may hold what the reader needs: he counts among those who wait.
        with self._changed:
            self._waiting += 1
        try:
            while not self._large.acquire(timeout=_LOOK_S):
                check()
        finally:
            with self._changed:
                self._waiting -= 1
        return self._large

    def _wait(self, wanted: int, check: Callable[[], None]) -> None:
        self.waited += 1
        while self.in_use + wanted > self.maximum:
            if self._waiting + 1 >= self._holders:
                self.refused += 1
                raise NoMemory(wanted, self.maximum, alone=False)
            self._waiting += 1
            try:
                self._changed.wait(_LOOK_S)
                self._changed.release()
                try:
                    check()
                finally:
                    self._changed.acquire()
            finally:
                self._waiting -= 1
