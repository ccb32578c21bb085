"""What goes on around runbooks without anybody asking: triggers, preflights, drills, and what is said of all of it.

The app makes one, hands it what changes (`alerts_changed`, `run_changed`, `reloaded`), and spawns
it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, Metric

from watchbill.clock import Clock
from watchbill.errors import Busy, StorageError
from watchbill.logs import fields
from watchbill_collector.rules import AlertChange
from watchbill_collector.runbooks.run import restraint
from watchbill_collector.runbooks.run.restraint import Past
from watchbill_collector.runbooks.run.words import ENDED, RunState
from watchbill_collector.series import SeriesTable, Ticks
from watchbill_collector.services import runbook_series as series
from watchbill_collector.services.run_drills import Drills
from watchbill_collector.services.run_house import RunHouse
from watchbill_collector.services.run_preflight import Preflights
from watchbill_collector.services.run_triggers import Triggers
from watchbill_collector.services.runbook_series import Reading, RunbookSeries
from watchbill_collector.services.trigger_sight import Quiet, Seen
from watchbill_collector.store import Store, runbooks
from watchbill_collector.store.runbooks import PreflightRow

if TYPE_CHECKING:
    from watchbill.daemon import Daemon, Stamp

log = logging.getLogger("watchbill.runs")

SAY_EVERY_S: Final = 30.0
"""Between two times that everything is said: within it a run that is held pages people."""
NEWS_S: Final = 5.0
"""After a run changed: several do at once, and all runs are read for it."""
STALLED_S: Final = 180.0
FAILED_TOLD_MS: Final = 86_400_000
"""How long a run that failed is told."""
_BAD: Final = frozenset({RunState.FAILED, RunState.UNDONE})


class RunbookWatch:
    """See the module. On the loop; `emit` takes samples."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        house: RunHouse,
        table: SeriesTable,
        *,
        alerts: Callable[[Collection[str]], Seen],
        emit: Callable[[Sequence[Ticks]], None],
        quiet: Quiet = lambda _: [],
    ) -> None:
        self.triggers = Triggers(store, clock, house, alerts=alerts, quiet=quiet)
        self.preflights = Preflights(clock, house)
        self.drills = Drills(store, clock, house)
        house.desk.standing = self.drills.standing
        self._store = store
        self._clock = clock
        self._house = house
        self._series = RunbookSeries(table)
        self._emit = emit
        self._news = asyncio.Event()
        self._failing = False

    def alerts_changed(self, changes: Sequence[AlertChange]) -> None:
        """`Judging.follow`. In the rules' thread."""
        self.triggers.alerts_changed(changes)

    def run_changed(self) -> None:
        """A run is in another state now. On the loop."""
        self._news.set()

    def reloaded(self) -> None:
        """Other runbooks are in force now. On the loop."""
        self.triggers.wake()
        self._news.set()

    def spawn(self, house: "Daemon") -> None:
        """Begin."""
        watch = house.progress.watch
        house.spawn("runbook-triggers", self.triggers.run(watch("runbook-triggers", STALLED_S)))
        house.spawn("runbook-preflights", self.preflights.run(watch("runbook-preflights", STALLED_S)))
        house.spawn("runbook-watch", self.run(watch("runbook-watch", STALLED_S)))

    async def run(self, stamp: "Stamp") -> None:
        """Look at drills, and say how everything stands, for ever."""
        await self._house.runs.ready.wait()
        while True:
            stamp.made()
            await self.turn()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), SAY_EVERY_S)
                await asyncio.sleep(NEWS_S)
            self._news.clear()

    async def turn(self) -> None:
        """Once. A store that cannot be asked is asked again at the next turn."""
        try:
            await self.drills.turn()
            readings = await self.readings()
        except (Busy, StorageError) as exc:
            if not self._failing:
                log.error("runbooks cannot be watched", extra=fields(why=exc))
            self._failing = True
            return
        self._failing = False
        self._emit(self._series.say(readings, self._clock.wall_ms()))

    # ------------------------------------------------------------ what is said

    async def readings(self) -> dict[Reading, float]:
        """How each runbook stands. Raises Busy, StorageError."""
        past: dict[str, list[Past]] = {}
        for one in await self._house.runs.past():
            past.setdefault(one.runbook, []).append(one)
        site = self._store.site
        looked = await asyncio.to_thread(
            self._store.read, lambda connection: runbooks.last_preflights(connection, site)
        )
        found: dict[Reading, float] = {}
        stopped = self._stopped()
        for name in self._house.shelf.books:
            label = ("runbook", name)
            for metric, value in self._of(name, looked.get(name), past.get(name, [])).items():
                found[metric, (label,)] = value
            found[series.STOPPED, (label,)] = float(stopped.get(name, 0))
        for name, runs in past.items():
            for state in {one.state for one in runs if one.state not in ENDED}:
                count = sum(one.state is state for one in runs)
                found[series.OPEN, (("runbook", name), ("state", state.value))] = float(count)
        return found

    def _of(self, name: str, looked: PreflightRow | None, past: Sequence[Past]) -> dict[str, float]:
        shelf = self._house.shelf
        book = shelf.books[name]
        found = {
            series.HELD: float(sum(one.state is RunState.HELD for one in past)),
            series.ACCEPTED: float(shelf.acceptance(book.digest) is not None),
        }
        runbook = book.runbook
        if runbook is None:
            return found | {series.READY: 0.0}
        if looked is not None and looked.digest == runbook.digest:
            found[series.READY] = float(looked.ready)
        since_ms = self._house.restraints.since_ms(name)
        found[series.BREAKER] = float(restraint.breaker_open(runbook.limits, name, past, since_ms))
        found[series.FAILED] = float(self._failed(past))
        if runbook.rto_s:
            found[series.OBJECTIVE] = runbook.rto_s
        held = self.drills.standing(name)
        if held is None:
            return found
        if held.last is not None:
            found[series.DRILL_LAST] = held.last.started_ms / 1000
            found[series.DRILL_FAILED] = float(held.failed)
        if held.every_s:
            found[series.DRILL_OVERDUE] = float(held.overdue)
        if held.p90_s is not None:
            found[series.RECOVERY] = held.p90_s
        return found

    def _failed(self, past: Sequence[Past]) -> bool:
        ended = [one for one in past if not one.drill and one.ended_ms and one.started_ms]
        newest = max(ended, key=lambda one: one.ended_ms, default=None)
        if newest is None or newest.state not in _BAD:
            return False
        return self._clock.wall_ms() - newest.ended_ms < FAILED_TOLD_MS

    def _stopped(self) -> dict[str, int]:
        """Proposals of triggers that act by themselves, by runbook."""
        found: dict[str, int] = {}
        for live in self._house.runs.open():
            created = live.run.created
            book = self._house.runs.book.by_digest(created.digest)
            automatic = book is not None and book.trigger is not None and book.trigger.auto
            if automatic and created.trigger and live.run.state is RunState.PROPOSED:
                found[created.runbook] = found.get(created.runbook, 0) + 1
        return found


class WatchMetrics:
    """Metrics of its own, for a prometheus_client registry."""

    def __init__(self, watch: RunbookWatch) -> None:
        self._watch = watch

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are given when they are collected."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Read."""
        watch = self._watch
        triggers = watch.triggers.counters
        for name, text, value in (
            ("triggers_started", "Runs that triggers began.", triggers.started),
            ("triggers_proposed", "Runs that triggers proposed.", triggers.proposed),
            ("triggers_refused", "Runs that triggers asked for in vain.", triggers.refused),
            ("triggers_ended", "Proposals that ended with their alerts.", triggers.ended),
            (
                "triggers_beyond",
                "Times that an alert was not looked at, since so many fire.",
                triggers.beyond,
            ),
            ("preflights", "Times that a runbook was looked at.", watch.preflights.looked),
            ("preflights_failed", "Times that one was not ready.", watch.preflights.failed),
            ("drills_begun", "Drills that began because they were due.", watch.drills.begun),
            ("drills_refused", "Drills that were due and could not begin.", watch.drills.refused),
        ):
            yield CounterMetricFamily(f"watchbill_runbook_{name}", text, float(value))
