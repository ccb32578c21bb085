"""Group commit: what all agents send goes to the disk in few transactions.

The first thing that waits starts a commit within START_WITHIN_S; under load one begins at most every EVERY_S.
After one of at most FEW hosts the next may come sooner, EARLY_MAX times in a row: a host that begins has its first
samples acknowledged 200 ms earlier, because its `up` was committed just before.

A commit runs in one named thread, whatever is added meanwhile waits for the next. After it, the samples go to
the head, the watermarks move, and those who wait for acknowledgements are told.

When it fails, nothing was promised: what agents sent and was not committed is forgotten here, also what
already waits for the next commit, because it continues what was lost; the agents still have it and are asked
to wait. For `RETRY_AFTER_S` nothing is accepted.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeAlias

from watchbill.errors import StorageError
from watchbill.limits import MIB, PENDING_BYTES_MAX
from watchbill.protocol.frames import Stream, StreamMark
from watchbill.protocol.server import Watermark
from watchbill_collector.ingest.agents import Agent, Bucket
from watchbill_collector.ingest.counters import IngestCounters
from watchbill_collector.ingest.ports import CritEvent, CritSink, GapRow, Mark, Sink, Spool
from watchbill_collector.series import Ticks, Times

log = logging.getLogger("watchbill.commit")

START_WITHIN_S = 0.02
EVERY_S = 0.2
RETRY_AFTER_S = 10.0
FEW = 4
EARLY_MAX = 3

OWN_BYTES_MAX = 8 * MIB
"""Samples that the collector makes itself and that wait through failed commits; the oldest go, counted."""


Covered: TypeAlias = Sequence[tuple[Agent, Times]]


@dataclass(slots=True)
class _Group:
    """What goes into one transaction."""

    ticks: list[Ticks] = field(default_factory=list)
    own: list[Ticks] = field(default_factory=list)
    gaps: list[GapRow] = field(default_factory=list)
    events: dict[Spool, list[CritEvent]] = field(default_factory=dict)
    touched: dict[Watermark, Agent] = field(default_factory=dict)
    covered: list[tuple[Agent, Times]] = field(default_factory=list)
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Marks:
    """The watermarks of one transaction, by stream."""

    of: dict[Watermark, StreamMark]
    bulk: list[Mark]
    crit: list[Mark]


class GroupCommit:
    """Gathers and commits. Everything but the commit itself runs in the event loop's thread.

    `appended` gets committed samples (the head); `committed` and `failed` get the agents whose watermarks a
    transaction held, or lost with how many seconds to stay away; `settled` gets whose readings of which times, and
    which gaps, are committed.
    """

    def __init__(
        self,
        sink: Sink,
        counters: IngestCounters,
        *,
        crit: CritSink | None = None,
        appended: Callable[[Sequence[Ticks]], None] = lambda _: None,
        committed: Callable[[Sequence[Agent]], None] = lambda _: None,
        failed: Callable[[Sequence[Agent], float], None] = lambda _agents, _seconds: None,
        settled: Callable[[Covered, Sequence[GapRow]], None] = lambda _covered, _gaps: None,
    ) -> None:
        self._settled = settled
        self._sink = sink
        self._crit = crit
        self._counters = counters
        self._appended = appended
        self.committed = committed
        self.failed = failed
        self._group = _Group()
        self._running: _Group | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._thread = ThreadPoolExecutor(1, "watchbill-commit")
        self._began_s = 0.0
        self._blocked_until_s = 0.0
        self._judged: set[int] = set()
        """The collector's own ticks that wait to be committed again and are in the head already, by id."""
        self._few = True
        self._early = Bucket(1 / EVERY_S, EARLY_MAX, time.monotonic())
        self._room = PENDING_BYTES_MAX
        self.full = False
        """Whether nothing more may be accepted from agents now: too much waits, or commits fail."""
        self._finished = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    @property
    def takes_crit(self) -> bool:
        """Whether there is a place for critical events."""
        return self._crit is not None

    @property
    def pending_bytes(self) -> int:
        """Bytes accepted and not yet committed."""
        return self._group.bytes + (self._running.bytes if self._running is not None else 0)

    @property
    def pending_batches(self) -> int:
        """Records accepted and not yet committed."""
        return len(self._group.ticks) + (len(self._running.ticks) if self._running is not None else 0)

    def oldest_s(self) -> float:
        """For how many seconds the transaction that runs has been running; 0 when none does."""
        return time.monotonic() - self._began_s if self._running is not None else 0.0

    def busy_s(self) -> float:
        """Seconds to ask an agent to wait while `full` is set."""
        return max(1.0, self._blocked_until_s - time.monotonic())

    # ------------------------------------------------------------ adding

    def add(self, ticks: Ticks, size: int) -> None:
        """Samples of an agent; the watermark that covers them is touched next."""
        group = self._group
        group.ticks.append(ticks)
        group.bytes += size

    def cover(self, agent: Agent, times: Times) -> None:
        """The times of samples that were just added."""
        self._group.covered.append((agent, times))

    def touch(self, watermark: Watermark, agent: Agent) -> None:
        """A watermark has moved, and its records were added."""
        group = self._group
        group.touched[watermark] = agent
        if group.bytes > self._room:
            self.full = True
        if self._timer is None:
            self._schedule()

    def add_gap(self, row: GapRow) -> None:
        """A gap row; it belongs to a watermark that is touched next."""
        self._counters.gaps += 1
        self._group.gaps.append(row)

    def add_events(self, spool: Spool, events: Sequence[CritEvent]) -> None:
        """Critical events of an agent's spool; the watermark that covers them is touched next."""
        self._group.events.setdefault(spool, []).extend(events)
        self._group.bytes += sum(len(event.payload) for event in events)

    def add_own(self, ticks: Sequence[Ticks]) -> None:
        """Samples that the collector makes itself: `up`, ALERTS, recorded series, its own metrics."""
        group = self._group
        group.own += ticks
        group.bytes += sum(tick.values.nbytes for tick in ticks)
        if self._timer is None:
            self._schedule()

    # ------------------------------------------------------------ committing

    def _schedule(self) -> None:
        if self._timer is not None or self._running is not None:
            return
        now_s = time.monotonic()
        early = self._few and not self._blocked_until_s and self._early.level(now_s) >= 1
        wait_s = START_WITHIN_S if early else max(START_WITHIN_S, self._began_s + EVERY_S - now_s)
        self._timer = self._loop.call_later(wait_s, self._begin)

    def begin(self) -> None:
        """Nothing more will come for a moment: what waits is committed now, unless the last commit was just before."""
        if self._timer is not None and time.monotonic() >= self._began_s + EVERY_S:
            self._timer.cancel()
            self._begin()

    def _begin(self) -> None:
        self._timer = None
        group, self._group = self._group, _Group()
        self._running = group
        self._room = PENDING_BYTES_MAX - group.bytes
        self._began_s = time.monotonic()
        self._few = len(group.touched) <= FEW
        self._early.take(1, self._began_s)
        marks = _marks(group)
        future = self._loop.run_in_executor(self._thread, self._commit, group, marks)
        future.add_done_callback(lambda done: self._done(group, marks, done.result()))

    def _commit(self, group: _Group, marks: _Marks) -> tuple[StorageError | None, StorageError | None]:
        """In the thread: store the samples, then what is critical. Neither waits for the other's luck, but for gaps of
        the crit stream: their rows are stored with the samples, so its watermark may not pass them before.
        """
        crit_error: StorageError | None = None
        bulk_error: StorageError | None = None
        if group.ticks or group.own or marks.bulk or group.gaps:
            try:
                self._sink.commit([*group.ticks, *group.own], marks.bulk, group.gaps)
            except StorageError as exc:
                bulk_error = exc
                if any(row.stream == Stream.CRIT for row in group.gaps):
                    return bulk_error, bulk_error
        if marks.crit and self._crit is not None:
            try:
                self._crit.commit(marks.crit, group.events)
            except StorageError as exc:
                crit_error = exc
        return crit_error, bulk_error

    def _done(
        self, group: _Group, marks: _Marks, errors: tuple[StorageError | None, StorageError | None]
    ) -> None:
        self._running = None
        self._room = PENDING_BYTES_MAX
        self.full = self._group.bytes > self._room
        counters = self._counters
        counters.commit_seconds += time.monotonic() - self._began_s
        crit_error, bulk_error = errors
        if bulk_error is None:
            counters.commits += 1
            own = [ticks for ticks in group.own if id(ticks) not in self._judged]
            if group.ticks or own:
                self._appended([*group.ticks, *own])
            self._settled(group.covered, group.gaps)
            if group.own:
                self._judged = set()
                group.own = []  # Done with, should only the critical events have failed.
        if crit_error is None:
            for events in group.events.values():
                counters.took_events(event.kind for event in events)
        for watermark, mark in marks.of.items():
            if (crit_error if watermark.stream is Stream.CRIT else bulk_error) is None:
                watermark.commit(mark)
        if bulk_error is None and crit_error is None:
            if self._blocked_until_s:
                log.info("commits succeed again")
                self._blocked_until_s = 0.0
            self.committed(list(dict.fromkeys(group.touched.values())))
        else:
            self._lost(group, bulk_error or crit_error)
        if self._group.touched or self._group.own or self._group.gaps:
            self._schedule()
        self._finished.set()

    def _lost(self, group: _Group, error: StorageError | None) -> None:
        """A transaction failed: forget what was accepted since the last good one."""
        if not self._blocked_until_s:
            log.error("commits fail, nothing is acknowledged and agents keep their records: %s", error)
        self._counters.commit_failures += 1
        self._blocked_until_s = time.monotonic() + RETRY_AFTER_S
        agents = list(dict.fromkeys([*group.touched.values(), *self._group.touched.values()]))
        for agent in agents:
            agent.ledger.forget()
        own = [*group.own, *self._group.own]
        # What the collector says of itself is judged all the same: it says that its disk is full.
        self._appended([ticks for ticks in own if id(ticks) not in self._judged])
        self._group = _Group()
        size = 0
        for ticks in reversed(own):
            size += ticks.values.nbytes
            if size > OWN_BYTES_MAX:
                self._counters.samples_lost += ticks.values.size
            else:
                self._group.own.insert(0, ticks)
        self._judged = {id(ticks) for ticks in self._group.own}
        self._group.bytes = min(size, OWN_BYTES_MAX)
        self._began_s = self._blocked_until_s - EVERY_S  # The next attempt, if only for our own samples.
        self.full = True
        self._loop.call_later(RETRY_AFTER_S, self._try_again)
        self.failed(agents, RETRY_AFTER_S)

    def _try_again(self) -> None:
        """Accept again after a failure: whether commits succeed is seen by what comes then."""
        self.full = self._group.bytes > self._room

    async def flush(self) -> None:
        """Wait until everything that was added is committed, or lost."""
        while self._group.touched or self._group.own or self._running is not None:
            if self._timer is not None:
                self._timer.cancel()
                self._begin()
            self._finished.clear()
            await self._finished.wait()
            if time.monotonic() < self._blocked_until_s:
                return

    async def close(self) -> None:
        """Commit what waits, and end the thread."""
        await self.flush()
        if self._timer is not None:
            self._timer.cancel()
        await self._loop.run_in_executor(None, self._thread.shutdown)


def _marks(group: _Group) -> _Marks:
    """What the transaction has to say about watermarks: each as far as it is accepted now."""
    of = {watermark: watermark.pending() for watermark in group.touched}
    bulk: list[Mark] = []
    crit: list[Mark] = []
    for watermark, mark in of.items():
        agent_id = group.touched[watermark].agent_id
        row = Mark(agent_id, watermark.spool_id, int(mark.stream), mark.committed, mark.digest)
        (crit if mark.stream is Stream.CRIT else bulk).append(row)
    return _Marks(of, bulk, crit)
