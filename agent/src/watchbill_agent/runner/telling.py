"""What waits to be told.

Refusals have cells of their own on the disk; answers to questions are kept in memory, for they are asked again.
"""

import contextlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final

from watchbill.actions.outcomes import COMMAND_REFUSED
from watchbill_agent.runner import bounds
from watchbill_agent.runner.cells import Cells, Disk
from watchbill_agent.runner.event import Event
from watchbill_agent.runner.rooms import opened

NOTES: Final = "notes"


class Allowance:
    """So many at once, then one every so often; `spend` says whether this one may be."""

    def __init__(self, burst: int, every_s: float, monotonic_s: Callable[[], float]) -> None:
        self._burst = burst
        self._every_s = every_s
        self._monotonic_s = monotonic_s
        self._left = float(burst)
        self._at_s = monotonic_s()

    def spend(self) -> bool:
        """One more."""
        now_s = self._monotonic_s()
        self._left = min(self._burst, self._left + (now_s - self._at_s) / self._every_s)
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Notes:
    """Refusals until they are fetched. Raises OSError where the disk fails."""

    def __init__(self, cells: Cells) -> None:
        self._cells = cells
        self._waiting: dict[int, Event] = {}
        for place, cell in enumerate(cells.read_all()):
            if isinstance(cell, bytes):
                self._waiting[place] = Event(COMMAND_REFUSED, cell)

    @staticmethod
    def open(disk: Disk, directory: Path) -> "Notes":
        """What is there, or new ones."""
        return Notes(opened(disk, directory / NOTES, bounds.NOTE_BYTES, bounds.NOTES))

    def close(self) -> None:
        """Give the file back."""
        self._cells.close()

    def waiting(self) -> list[Event]:
        """What was not fetched yet."""
        return list(self._waiting.values())

    def add(self, event: Event) -> bool:
        """Keep one, durable when this returns; whether there was room. One that waits already is not kept twice."""
        if event in self._waiting.values():
            return True
        free = next((place for place in range(self._cells.count) if place not in self._waiting), None)
        if free is None:
            return False
        self._cells.write(free, event.payload)
        self._cells.sync()
        self._waiting[free] = event
        return True

    def confirm(self, event_id: bytes) -> None:
        """It was fetched. Not synced: what comes back is told again, under the same name."""
        for place, event in list(self._waiting.items()):
            if event.id == event_id:
                del self._waiting[place]
                with contextlib.suppress(OSError):
                    self._cells.write(place, b"")


class Answers:
    """In memory, the oldest dropped."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[bytes, Event] = OrderedDict()
        self.dropped = 0

    def waiting(self) -> list[Event]:
        """What was not fetched yet."""
        return list(self._waiting.values())

    def add(self, event: Event) -> None:
        """Keep one."""
        self._waiting[event.id] = event
        while len(self._waiting) > bounds.MEMORY_EVENTS_MAX:
            self._waiting.popitem(last=False)
            self.dropped += 1

    def confirm(self, event_id: bytes) -> None:
        """It was fetched."""
        self._waiting.pop(event_id, None)
