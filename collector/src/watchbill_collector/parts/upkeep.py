"""What looks at the clock from time to time, whatever comes: merging and trimming history, certificates and tokens that
end, the collector's own metrics, memory, and whether somebody set the clock.

Each is a loop of its own that tells the watchdog that it goes on; what fails is said, and tried again at its next turn.
"""

import asyncio
import contextlib
import logging

from watchbill.errors import StorageError
from watchbill.identity import RefusalReason
from watchbill.logs import fields
from watchbill.protocol.frames import Stream
from watchbill_collector import clockwatch, memory
from watchbill_collector.parts.doors import Doors
from watchbill_collector.parts.front import Front
from watchbill_collector.parts.ground import Ground, Part
from watchbill_collector.parts.intake import Intake
from watchbill_collector.parts.past import Past
from watchbill_collector.parts.state import State
from watchbill_collector.services.departures import retire_decommissioned

log = logging.getLogger("watchbill.collector")

OWN_SAMPLES_S = 15.0
"""How often the collector's own metrics go into its history."""
MERGE_S = 2.0
"""How often history is asked whether there is something to merge."""
TIDY_S = 60.0
"""How often certificates, tokens and the audit are looked at."""
RETAIN_S = 300.0
MARKS_S = 3600.0
"""How often watermarks that nobody will ask for again are removed: history writes out what waits before it."""


class Upkeep(Part):
    """See the module."""

    def __init__(
        self, ground: Ground, state: State, past: Past, intake: Intake, doors: Doors, front: Front
    ) -> None:
        self._ground = ground
        self._state = state
        self._doors = doors
        self._house = ground.house
        self._clock = ground.clock
        self._clock_watch = clockwatch.ClockWatch()
        self._history = past.history
        self._historian = past.historian
        self._ingest = intake.ingest
        self._crit = intake.crit
        self._own = front.own
        self._giving_back = memory.GivingBack(self._clock.monotonic_s())

    def begin(self) -> None:
        """Begin all of it."""
        every = self._ground.every
        every("own metrics", OWN_SAMPLES_S, self._sample_own)
        every("merge", MERGE_S, self._merge)
        every("retain", RETAIN_S, self._retain)
        every("memory", memory.GIVE_BACK_LOOK_S, self._give_memory_back)
        every("marks", MARKS_S, self._forget_marks)
        every("clock", clockwatch.LOOK_EVERY_S, self._watch_clock)
        every("tidy", TIDY_S, self._tidy)

    async def _tidy(self) -> None:
        """Certificates that end, sessions whose certificate has expired, hosts that left for good, tokens that ended;
        signing the audit.
        """
        state, ingest = self._state, self._ingest
        if state.renew_server_certificate() and self._doors.mqtt is not None:
            self._doors.mqtt.certificate_renewed()
        for host in state.registry.hosts():
            expired = state.registry.standing(host.agent_id) is RefusalReason.EXPIRED
            if expired and ingest.connected(host.agent_id):
                ingest.revoke(host.agent_id)
        state.auditing.tidy()
        await asyncio.to_thread(state.auditing.sign)
        await retire_decommissioned(state.registry)
        with contextlib.suppress(StorageError):
            await self._doors.enrolment.tidy()

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
