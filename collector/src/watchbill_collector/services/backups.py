"""The backups of all hosts: kept, judged, told. The life of the desk, on the loop.

What a host says is kept by the sink of critical events, which then says of whom (`told`). A turn follows soon after,
and one every LOOK_EVERY_S, since a backup may become late by itself. Turns happen in a thread: reading back everything
at a start, or judging a fleet whose night has ended, takes seconds.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from watchbill.clock import Clock
from watchbill.errors import Busy, StorageError
from watchbill.logs import fields
from watchbill_collector.api.backup_port import BackupChange, backup_id, event_of
from watchbill_collector.api.events import RESYNC
from watchbill_collector.api.ports import at
from watchbill_collector.hosts import ChangeKind, HostChange, HostRegistry
from watchbill_collector.series import SeriesTable, Ticks
from watchbill_collector.servicebook import Belonging
from watchbill_collector.services.backup_desk import BackupDesk, Turn
from watchbill_collector.services.backup_intake import BackupDoor
from watchbill_collector.services.backup_requests import VerifyRequests
from watchbill_collector.services.backup_series import BackupSeries
from watchbill_collector.services.service_budgets import ServiceBudgets
from watchbill_collector.store import Store
from watchbill_collector.store import backups as rows
from watchbill_collector.store.backup_notes import ChangeRow

if TYPE_CHECKING:
    from watchbill.daemon import Daemon, Stamp

log = logging.getLogger("watchbill.backups")

LOOK_EVERY_S: Final = 5.0
GATHER_S: Final = 0.25
"""How long what is told is gathered: hosts that come back tell much at once."""
TIDY_EVERY_S: Final = 6 * 3600.0
EVENTS_MAX: Final = 200
"""Words that change in one turn and are told one by one; of more, followers are told to read all again."""
BEGUN_WITHIN_S: Final = 30.0
STALLED_S: Final = 600.0
"""A start that reads back a year of a large fleet takes minutes."""

BUDGETS_STALLED_S: Final = 3 * 3600.0
"""A service of a thousand jobs with a month of many records each takes a minute, and waits fifty for it."""

T = TypeVar("T")


class Backups:
    """See the module. `through_ms` says how far hosts are known, `emit` takes samples, `publish` events: all on the
    loop that this is made in.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        registry: HostRegistry,
        belonging: Belonging,
        table: SeriesTable,
        *,
        through_ms: Callable[[], Mapping[str, int]],
        emit: Callable[[Sequence[Ticks]], None],
        publish: Callable[[str, object], None],
    ) -> None:
        self.desk = BackupDesk(store, clock, registry, belonging, BackupSeries(table))
        self.requests = VerifyRequests(clock)
        self.budgets = ServiceBudgets(self, store, clock)
        jobs = store.read(lambda connection: rows.jobs(connection, store.site))
        self.door = BackupDoor(jobs, self.requests.answered)
        self.ready = asyncio.Event()
        """Everything is read back and judged."""
        self._clock = clock
        self._registry = registry
        self._through_ms = through_ms
        self._emit = emit
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "backups")
        self._told: set[str] = set()
        self._arrived = False
        self._news = asyncio.Event()
        self._closed = False
        self._ended = False
        self._failing = False
        self._tidy_s = clock.monotonic_s() + TIDY_EVERY_S

    # ------------------------------------------------------------ what happens

    def told(self, agent_ids: Iterable[str]) -> None:
        """Something new is committed; of these hosts something is other than it was. From any thread."""
        with contextlib.suppress(RuntimeError):  # A loop that is closing takes nothing more.
            self._loop.call_soon_threadsafe(self._note, frozenset(agent_ids))

    def host_changed(self, change: HostChange) -> None:
        """A host has another name, was retired or is forgotten."""
        agent_id = change.after.agent_id
        if change.kind is ChangeKind.FORGOTTEN:
            self.door.forget(agent_id)
        self.told((agent_id,))

    def services_changed(self) -> None:
        """Which service a backup belongs to may be another now."""
        self.told(self.desk.hosts())

    def _note(self, agent_ids: frozenset[str]) -> None:
        self._told |= agent_ids
        self._arrived = True
        self._news.set()

    def spawn(self, house: "Daemon") -> None:
        """Begin."""
        house.spawn("backups", self.run(house.progress.watch("backups", STALLED_S)))
        house.spawn("budgets", self.budgets.run(house.progress.watch("budgets", BUDGETS_STALLED_S)))

    async def begun(self) -> None:
        """Wait until everything is read back, for as long as others may be kept waiting: rules that look before would
        find nothing said of backups."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ready.wait(), BEGUN_WITHIN_S)

    async def run(self, stamp: "Stamp") -> None:
        """Read everything back, and go on from there."""
        await self.work(self.desk.load)
        await self.turn()
        self.ready.set()
        while True:
            stamp.made()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), LOOK_EVERY_S)
                await asyncio.sleep(GATHER_S)
            self._news.clear()
            await self.turn()
            if self._clock.monotonic_s() >= self._tidy_s:
                self._tidy_s = self._clock.monotonic_s() + TIDY_EVERY_S
                await self._tidy()

    async def turn(self) -> None:
        """One turn now. A store that cannot be read is asked again at the next one."""
        if self._closed:
            return
        # How far hosts are known is asked first: what it claims is committed by then, and is read after it.
        through_ms = self._through_ms()
        told, self._told = self._told, set()
        arrived, self._arrived = self._arrived, False
        try:
            made = await self.work(self.desk.turn, told, arrived, through_ms)
        except (Busy, StorageError) as exc:
            self._told |= told
            self._arrived = True
            if not self._failing:
                log.error("backups cannot be read", extra=fields(why=exc))
            self._failing = True
            return
        self._failing = False
        self._hand_on(made)

    def _hand_on(self, made: Turn) -> None:
        if self._closed:
            return
        if made.ticks:
            self._emit(made.ticks)
        if len(made.changes) > EVENTS_MAX:
            self._publish(RESYNC, {})
            return
        for row in made.changes:
            self._publish("backup", event_of(self.change_of(row)))

    def change_of(self, row: ChangeRow) -> BackupChange:
        """A change as it is told."""
        host = self._registry.get(row.agent_id)
        name = host.instance if host is not None else ""
        job_id = backup_id(row.agent_id, row.job)
        return BackupChange(job_id, row.job, name, at(row.at_ms), row.before, row.after, row.why)

    async def _tidy(self) -> None:
        try:
            gone = await self.work(self.desk.tidy)
        except (Busy, StorageError) as exc:
            log.error("backups could not be tidied", extra=fields(why=exc))
            return
        for key in gone:
            self.door.forget(key.agent_id, (key.job,))
        self._note(frozenset(key.agent_id for key in gone))

    async def work(self, call: Callable[..., T], *arguments: object) -> T:
        """Have something done in the desk's thread, after what is being done there. Raises CancelledError when that has
        ended: whoever asks then is about to end, too."""
        if self._ended:
            raise asyncio.CancelledError
        return await self._loop.run_in_executor(self._thread, call, *arguments)

    async def close(self) -> None:
        """Note what is not noted yet. Before the store closes."""
        if self._closed:
            return
        self._closed = True
        await self.work(self.desk.save)
        self._ended = True
        self._thread.shutdown(wait=True)


class BackupMetrics:
    """Metrics of its own, for a prometheus_client registry."""

    def __init__(self, backups: Backups) -> None:
        self._backups = backups

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are given when they are collected."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Read."""
        desk = self._backups.desk
        counters, book = desk.counters, desk.book
        gauges = {
            "jobs": ("Backups that are known, those that are gone included.", desk.count),
            "undefined": ("Backups whose host has not said what they are judged by.", counters.undefined),
            "budgets_left_out": (
                "Services of too many backups for their error budget to be worked out.",
                self._backups.budgets.left_out,
            ),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"watchbill_collector_backup_{name}", text, float(value))
        totals = {
            "records": ("Records of backups taken into account.", counters.records),
            "judgements": ("Times that a backup was judged.", book.judged),
            "changes": ("Times that the word for a backup changed.", counters.changes),
            "changes_lost": (
                "Changes that were told and not noted, for want of a store.",
                counters.changes_lost,
            ),
            "services_refused": (
                "Definitions that named one service more than those of a host may.",
                counters.services_refused,
            ),
            "refused": ("Records and definitions of backups beyond what a host may have.", book.refused),
        }
        for name, (text, value) in totals.items():
            yield CounterMetricFamily(f"watchbill_collector_backup_{name}", text, float(value))
