"""What a running collector does from time to time, whatever comes: merging and trimming history, its own metrics,
memory, and a look at the clock.

Each is a loop of its own that tells the watchdog that it goes on; what fails is said, and tried again at its next turn.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from watchbill import daemon
from watchbill.clock import SteadyClock
from watchbill.errors import StorageError
from watchbill.logs import fields
from watchbill.protocol.frames import Stream
from watchbill_collector import clockwatch, memory

if TYPE_CHECKING:
    from watchbill_collector.history import History
    from watchbill_collector.ingest.ingest import Ingest
    from watchbill_collector.services.condition import OwnSamples
    from watchbill_collector.services.registry import StoreCritSink

log = logging.getLogger("watchbill.collector")

OWN_SAMPLES_S = 15.0
"""How often the collector's own metrics go into its history."""
MERGE_S = 2.0
"""How often history is asked whether there is something to merge."""
RETAIN_S = 300.0
MARKS_S = 3600.0
"""How often watermarks that nobody will ask for again are removed: history writes out what waits before it."""
STALLED_TURNS = 20
"""A loop that missed so many of its turns, and for STALLED_MIN_S, stands still."""
STALLED_MIN_S = 60.0


class Upkeep:
    """See the module. `historian` is the thread in which history is merged and trimmed."""

    def __init__(
        self,
        house: daemon.Daemon,
        clock: SteadyClock,
        history: "History",
        historian: Executor,
        ingest: "Ingest",
        crit: "StoreCritSink",
        own: "OwnSamples",
    ) -> None:
        self._house = house
        self._clock = clock
        self._clock_watch = clockwatch.ClockWatch()
        self._history = history
        self._historian = historian
        self._ingest = ingest
        self._crit = crit
        self._own = own
        self._giving_back = memory.GivingBack(clock.monotonic_s())

    def spawn(self) -> None:
        """Begin all of it."""
        self.every("own metrics", OWN_SAMPLES_S, self._sample_own)
        self.every("merge", MERGE_S, self._merge)
        self.every("retain", RETAIN_S, self._retain)
        self.every("memory", memory.GIVE_BACK_LOOK_S, self._give_memory_back)
        self.every("marks", MARKS_S, self._forget_marks)
        self.every("clock", clockwatch.LOOK_EVERY_S, self._watch_clock)

    def every(self, name: str, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        """Begin a loop: `work` so many seconds after it was last done."""
        self._house.spawn(name, self._repeat(name, seconds, work))

    async def _repeat(self, name: str, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        stamp = self._house.progress.watch(name, max(STALLED_MIN_S, STALLED_TURNS * seconds))
        while True:
            await asyncio.sleep(seconds)
            await work()
            stamp.made()

    async def _give_memory_back(self) -> None:
        if self._giving_back.due(self._clock.monotonic_s(), self._ingest.counters.message_bytes):
            memory.give_back()

    async def _sample_own(self) -> None:
        self._ingest.commits.add_own([self._own.tick(self._clock.wall_ms())])

    async def _merge(self) -> None:
        try:
            more = True
            while more and not self._house.stopping.is_set():
                more = await asyncio.get_running_loop().run_in_executor(
                    self._historian, self._history.merge, self._clock.wall_ms()
                )
        except StorageError as exc:
            log.error("history could not be merged", extra=fields(why=exc))

    async def _retain(self) -> None:
        try:
            gone = await asyncio.get_running_loop().run_in_executor(
                self._historian, self._history.retain, self._clock.wall_ms()
            )
            await asyncio.to_thread(self._crit.trim)
        except StorageError as exc:
            log.error("history could not be tidied", extra=fields(why=exc))
            return
        for name in gone:
            log.info("history removed", extra=fields(file=name))

    async def _forget_marks(self) -> None:
        marks = self._ingest.take_surplus()
        if not marks:
            return
        crit = [mark for mark in marks if mark.stream == Stream.CRIT]
        bulk = [mark for mark in marks if mark.stream == Stream.BULK]
        try:
            await asyncio.get_running_loop().run_in_executor(
                self._historian, self._history.remove_marks, bulk
            )
            await asyncio.to_thread(self._crit.remove_marks, crit)
        except StorageError as exc:
            # They are found again at the next start, or when their agents come again.
            log.error("watermarks could not be removed", extra=fields(why=exc))

    async def _watch_clock(self) -> None:
        stepped_ms = self._clock.stepped_ms()
        if self._clock_watch.stands(stepped_ms):
            log.warning("the clock was set: the collector begins anew", extra=fields(by_s=stepped_ms / 1000))
            self._house.ask_restart()
