"""What was taken out of mini-blocks lately, for who asks the same again: a page, a dashboard, every few seconds.

A mini-block is one compressed piece, so one series of it costs as much as all. Over a thousand hosts and an hour
these are twelve thousand pieces; what the query wanted of them is a fiftieth of what they hold.
"""

import threading
from collections import OrderedDict

from watchbill_collector.history.gather import Singles

BYTES_MAX = 32 << 20
"""Bound of the memory, by estimate; what was not asked for the longest goes."""
ENTRY_BYTES = 500
ROW_BYTES = 200
"""About what the objects around the bytes take."""


class Recent:
    """By mini-block and columns. Mini-blocks never change and their numbers are never given again."""

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._lock = threading.Lock()
        self._bytes_max = bytes_max
        self._kept: OrderedDict[tuple[int, tuple[int, ...]], Singles] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, mini: int, columns: tuple[int, ...]) -> Singles | None:
        """What is kept of these columns."""
        key = (mini, columns)
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, mini: int, columns: tuple[int, ...], singles: Singles) -> None:
        """Keep it."""
        key = (mini, columns)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = singles
                self.bytes += _size(singles)
            while self.bytes > self._bytes_max:
                self.bytes -= _size(self._kept.popitem(last=False)[1])


def _size(singles: Singles) -> int:
    rows = sum(ROW_BYTES + len(planes) for *_, planes in singles.rows)
    return ENTRY_BYTES + len(singles.seconds) + rows
