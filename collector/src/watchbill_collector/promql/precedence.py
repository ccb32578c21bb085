"""Who computes first: the evaluation of rules before queries.

Python runs one thread at a time, so two queries at work would leave a third of the machine to an evaluation. A query
asks its budget wherever it might end, between operators and between reads; there it also gives way, and sleeps while
an evaluation is running. That takes milliseconds of every 15 s, so queries hardly notice; one that takes long holds
them up for no more than `GIVE_WAY_S_MAX` each time they ask.
"""

import contextlib
import threading
from collections.abc import Iterator

GIVE_WAY_S_MAX = 0.5
"""The longest that a query sleeps at one place."""


class Precedence:
    """Shared by those that go first and those that give way. `given_way` counts how often somebody had to wait."""

    def __init__(self) -> None:
        self.given_way = 0
        self._free = threading.Event()
        self._free.set()

    @contextlib.contextmanager
    def first(self) -> Iterator[None]:
        """Go first until the end of the block."""
        self._free.clear()
        try:
            yield
        finally:
            self._free.set()

    def give_way(self) -> None:
        """Wait while somebody goes first."""
        if not self._free.is_set():
            self.given_way += 1
            self._free.wait(GIVE_WAY_S_MAX)
