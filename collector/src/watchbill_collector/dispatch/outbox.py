"""The outbox: threads and waiting notices in memory, and the same in the store, in this order.

A change is taken into memory, written, and only then acted on; nobody sees it between, because the dispatcher
holds a lock. When the store cannot be written at all, which its
reserve is there to prevent, the change is taken all the same and written as soon as that is possible again: a
page about a full disk is worth more than the promise that it comes once. That time is counted.
"""

import logging
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from watchbill.errors import Busy, StorageError
from watchbill.logs import fields
from watchbill_collector.dispatch.decide import accepted, refused
from watchbill_collector.dispatch.noticetext import packed_notice, unpacked_notice
from watchbill_collector.dispatch.plan import Plan
from watchbill_collector.dispatch.thread import Thread, packed, unpacked
from watchbill_collector.notifiers.notice import Notice
from watchbill_collector.store import Store, outbox
from watchbill_collector.store.outbox import QUEUED, NoticeRow, OutboxChange, ThreadRow

log = logging.getLogger("watchbill.dispatch")

DELIVERED: Final = "delivered"
REFUSED: Final = "refused"
GIVEN_UP: Final = "given_up"
OVERTAKEN: Final = "overtaken"
UNREADABLE: Final = "unreadable"
"""How a notice ends. Overtaken: before it could be sent, there was something newer to say instead."""
OUTCOMES: Final = (DELIVERED, REFUSED, GIVEN_UP, OVERTAKEN)
DETAIL_CHARACTERS_MAX: Final = 500


class OutboxRows(Protocol):
    """Where the outbox is kept."""

    def load(self) -> tuple[list[ThreadRow], list[NoticeRow]]:
        """Every thread, and every notice that waits. Raises StorageError."""

    async def write(self, change: OutboxChange) -> None:
        """All of it or nothing, durable when this returns. Raises StorageError, Busy."""

    async def prune(self, now_ms: int) -> None:
        """Forget notices that ended long ago. Raises StorageError, Busy."""


class StoreRows:
    """`OutboxRows` in the control state."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def load(self) -> tuple[list[ThreadRow], list[NoticeRow]]:
        """As the protocol."""
        site = self._store.site
        return self._store.read(
            lambda connection: (outbox.all_threads(connection, site), outbox.queued_notices(connection, site))
        )

    async def write(self, change: OutboxChange) -> None:
        """As the protocol."""
        await self._store.write(lambda connection: outbox.write(connection, self._store.site, change))

    async def prune(self, now_ms: int) -> None:
        """As the protocol."""
        await self._store.write(lambda connection: outbox.prune(connection, self._store.site, now_ms))


@dataclass(frozen=True, slots=True)
class Waiting:
    """A notice that is queued. `attempts` counts those begun, `number` is its place in the order of queueing."""

    notice: Notice
    thread_key: str
    attempts: int
    number: int
    changed_ms: int
    detail: str = ""


@dataclass(slots=True)
class OutboxCounters:
    """Since the start. `outcomes` by channel and outcome."""

    outcomes: dict[tuple[str, str], int] = field(default_factory=dict)
    attempts: int = 0
    writes: int = 0
    write_failures: int = 0
    unreadable: int = 0
    abandoned: int = 0

    def ended(self, channel: str, outcome: str) -> None:
        """A notice ended so."""
        self.outcomes[channel, outcome] = self.outcomes.get((channel, outcome), 0) + 1


class Outbox:
    """All threads and all waiting notices. Not for several tasks at once: the dispatcher holds a lock."""

    def __init__(self, rows: OutboxRows) -> None:
        self.threads: dict[str, Thread] = {}
        self.waiting: dict[str, Waiting] = {}
        self.counters = OutboxCounters()
        self.undurable = ""
        """Why the newest change is not in the store yet; empty as a rule."""
        self._rows = rows
        self._number = 0
        self._threads_dirty: set[str] = set()
        self._notices_dirty: dict[str, NoticeRow] = {}

    def load(self) -> None:
        """Take up what a former life left. Blocks. Raises StorageError."""
        threads, notices = self._rows.load()
        for row in threads:
            try:
                thread = unpacked(row.thread_key, row.channel, row.changed_ms, row.state)
            except ValueError as exc:
                self._unreadable("thread", row.thread_key, exc)
                continue
            self.threads[thread.key] = thread
        for notice in notices:
            self._take(notice)
        for thread in list(self.threads.values()):
            if thread.queued is not None and thread.queued.key not in self.waiting:
                self.threads[thread.key] = replace(thread, queued=None)

    def _take(self, row: NoticeRow) -> None:
        thread = self.threads.get(row.thread_key)
        try:
            notice = unpacked_notice(row.body)
        except ValueError as exc:
            self._unreadable("notice", row.notice_key, exc)
            self._notices_dirty[row.notice_key] = replace(row, outcome=UNREADABLE)
            return
        if row.thread_key and (
            thread is None or thread.queued is None or thread.queued.key != row.notice_key
        ):
            self._notices_dirty[row.notice_key] = replace(row, outcome=OVERTAKEN)
            return
        self._number += 1
        self.waiting[row.notice_key] = Waiting(
            notice, row.thread_key, row.attempts, self._number, row.changed_ms, row.detail
        )

    def _unreadable(self, what: str, key: str, error: ValueError) -> None:
        self.counters.unreadable += 1
        log.error(
            "the outbox holds something that cannot be read", extra=fields(what=what, key=key, why=error)
        )

    # Changing. Each of these returns once the change is durable, or has been counted as not.

    async def apply(self, plan: Plan, now_ms: int) -> None:
        """Take a plan."""
        for key in plan.overtaken:
            waiting = self.waiting.get(key)
            if waiting is not None:
                self._finish(waiting, OVERTAKEN, "", now_ms)
        for key in plan.gone:
            self.threads.pop(key, None)
            self._threads_dirty.add(key)
        for thread in plan.threads.values():
            self._put(thread)
        places = {one.queued.key: one.key for one in plan.threads.values() if one.queued is not None}
        for notice in plan.notices:
            self._queue(notice, places[notice.key], now_ms)
        self.counters.abandoned += plan.abandoned
        await self.flush()

    async def queue(self, notice: Notice, now_ms: int) -> None:
        """Queue a notice that belongs to no thread."""
        self._queue(notice, "", now_ms)
        await self.flush()

    async def begin(self, key: str, now_ms: int) -> Waiting | None:
        """Write down that an attempt begins; None when the notice does not wait any more."""
        waiting = self.waiting.get(key)
        if waiting is None:
            return None
        self.counters.attempts += 1
        waiting = replace(waiting, attempts=waiting.attempts + 1, changed_ms=now_ms)
        self.waiting[key] = waiting
        self._notices_dirty[key] = _row(waiting, QUEUED)
        await self.flush()
        return waiting

    async def failed(self, key: str, detail: str, now_ms: int) -> None:
        """An attempt failed, and there will be another."""
        waiting = self.waiting.get(key)
        if waiting is not None:
            self.waiting[key] = replace(waiting, detail=_short(detail), changed_ms=now_ms)
            # Not worth a write of its own: it goes with the next attempt's.

    async def end(self, key: str, outcome: str, detail: str, now_ms: int) -> None:
        """A notice ended: delivered, refused or given up."""
        waiting = self.waiting.get(key)
        if waiting is None:
            return
        self._finish(waiting, outcome, detail, now_ms)
        thread = self.threads.get(waiting.thread_key)
        if thread is not None and thread.queued is not None and thread.queued.key == key:
            if outcome == DELIVERED:
                self._put(accepted(thread, thread.queued, now_ms))
            else:
                # A final no says that this attempt was not heard; what earlier ones did nobody knows.
                doubt = waiting.attempts > (1 if outcome == REFUSED else 0)
                self._put(refused(thread, thread.queued, now_ms, attempted_unknown=doubt))
        await self.flush()

    async def prune(self, now_ms: int) -> None:
        """Forget notices that ended long ago."""
        try:
            await self._rows.prune(now_ms)
        except (StorageError, Busy):
            self.counters.write_failures += 1

    async def flush(self) -> bool:
        """Write what is not written; whether everything is now."""
        if not (self._threads_dirty or self._notices_dirty):
            self.undurable = ""
            return True
        gone = [key for key in self._threads_dirty if key not in self.threads]
        kept = [self.threads[key] for key in self._threads_dirty if key in self.threads]
        rows = dict(self._notices_dirty)
        change = OutboxChange(
            tuple(
                ThreadRow(
                    thread_key=one.key, channel=one.channel, changed_ms=one.changed_ms, state=packed(one)
                )
                for one in kept
            ),
            tuple(gone),
            tuple(rows.values()),
        )
        try:
            await self._rows.write(change)
        except (StorageError, Busy) as exc:
            self.counters.write_failures += 1
            if not self.undurable:
                log.error("the outbox cannot be written; notices go out all the same", extra=fields(why=exc))
            self.undurable = str(exc)
            return False
        self.counters.writes += 1
        self._threads_dirty.difference_update(gone, [one.key for one in kept])
        for key, row in rows.items():
            if self._notices_dirty.get(key) is row:
                del self._notices_dirty[key]
        if self.undurable:
            self.undurable = ""
            log.warning("the outbox is written again")
        return True

    def _put(self, thread: Thread) -> None:
        self.threads[thread.key] = thread
        self._threads_dirty.add(thread.key)

    def _queue(self, notice: Notice, thread_key: str, now_ms: int) -> None:
        self._number += 1
        waiting = Waiting(notice, thread_key, 0, self._number, now_ms)
        self.waiting[notice.key] = waiting
        self._notices_dirty[notice.key] = _row(waiting, QUEUED)

    def _finish(self, waiting: Waiting, outcome: str, detail: str, now_ms: int) -> None:
        del self.waiting[waiting.notice.key]
        self.counters.ended(waiting.notice.channel, outcome)
        ended = replace(waiting, detail=_short(detail), changed_ms=now_ms)
        self._notices_dirty[waiting.notice.key] = _row(ended, outcome)

    # Asking.

    def of_channel(self, channel: str) -> list[Waiting]:
        """What waits for a channel, in the order of queueing."""
        return [one for one in self.waiting.values() if one.notice.channel == channel]

    def attempted(self) -> frozenset[str]:
        """The keys of waiting notices that were tried."""
        return frozenset(key for key, one in self.waiting.items() if one.attempts)


def _row(waiting: Waiting, outcome: str) -> NoticeRow:
    notice = waiting.notice
    return NoticeRow(
        notice_key=notice.key,
        channel=notice.channel,
        thread_key=waiting.thread_key,
        kind=notice.kind.value,
        outcome=outcome,
        attempts=waiting.attempts,
        created_ms=notice.created_ms,
        changed_ms=waiting.changed_ms,
        detail=waiting.detail,
        body=packed_notice(notice),
    )


def _short(text: str) -> str:
    kept = "".join(char if char.isprintable() else " " for char in text[:DETAIL_CHARACTERS_MAX])
    return kept.encode("utf-8", "replace").decode()


__all__ = [
    "DELIVERED",
    "GIVEN_UP",
    "OUTCOMES",
    "OVERTAKEN",
    "REFUSED",
    "Outbox",
    "OutboxRows",
    "StoreRows",
    "Waiting",
]
