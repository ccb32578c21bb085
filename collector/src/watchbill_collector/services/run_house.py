"""Runbooks and their runs, put together: what the app hands in, what it gets, and the tasks that keep it alive."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from watchbill.actions.outcomes import Breakglass
from watchbill.actions.roster import Roster
from watchbill.clock import Clock
from watchbill.errors import Busy, StorageError
from watchbill.logs import fields
from watchbill_collector.hosts import ChangeKind, HostChange, HostRegistry
from watchbill_collector.runbooks.expression import Facts
from watchbill_collector.runbooks.expressions import NO_FACTS
from watchbill_collector.runbooks.lint import OFFLINE, Around
from watchbill_collector.runbooks.run.words import RunState
from watchbill_collector.scopes import Bindings
from watchbill_collector.services.run_book import RunBook
from watchbill_collector.services.run_fleet import FleetView
from watchbill_collector.services.run_intake import Committed, Inventories, RunDoor
from watchbill_collector.services.run_orders import OrderDesk, Orders
from watchbill_collector.services.run_pause import Restraints
from watchbill_collector.services.run_rights import Rights
from watchbill_collector.services.runbook_desk import RunbookDesk
from watchbill_collector.services.runbook_shelf import Shelf
from watchbill_collector.services.runs import Runs, Telling
from watchbill_collector.store import Store, inventories, runs
from watchbill_collector.store.runs import RunSummary

if TYPE_CHECKING:
    from watchbill.daemon import Daemon, Stamp

log = logging.getLogger("watchbill.runs")

TIDY_EVERY_S: Final = 6 * 3600.0
STALLED_S: Final = 120.0
"""A turn that takes longer is stuck: each waits for the store, for the disk, or for nobody."""
RETRY_S: Final = 2.0
BROKEN_S: Final = 3_600.0
"""How long it stays an alert that a host did something without the collector."""
BROKEN_MAX: Final = 1_000
"""Of those counted for it; more are as many."""


class RunHouse:
    """See the module. Made on the loop; `seed` is the collector's command key, `connected` says whether an agent is,
    `disabled` who was let out, in small letters: when that is another, `runs.changed`.

    `publish` is told `run` and a document, `tell` hands messages of runs over.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        registry: HostRegistry,
        bindings: Bindings,
        seed: bytes,
        orders: Orders,
        *,
        connected: Callable[[str], bool],
        facts: Callable[[], Facts] = lambda: NO_FACTS,
        roster: Callable[[], Roster | None] = lambda: None,
        disabled: Callable[[], frozenset[str]] = frozenset,
        around: Around = OFFLINE,
        tell: Telling = lambda run, channel, text: None,  # noqa: ARG005 - Nobody to tell.
        publish: Callable[[str, object], None] = lambda kind, document: None,  # noqa: ARG005 - Nobody follows.
    ) -> None:
        self.door = RunDoor(store, clock)
        self.inventories = Inventories(store)
        self.restraints = Restraints(store, clock)
        self.orders = OrderDesk(store, clock, store.site, seed, orders)
        self.book = RunBook(store)
        self.shelf = Shelf(store, clock, self.book)
        self.fleet = FleetView(
            store.site,
            registry,
            self.inventories,
            connected=connected,
            facts=facts,
            roster=roster,
            paused=lambda: self.restraints.paused,
            disabled=disabled,
        )
        self.runs = Runs(
            store,
            clock,
            self.book,
            self.orders,
            world=self.fleet,
            tell=tell,
            publish=lambda summary: publish("run", event_of(summary)),
        )
        self.desk = RunbookDesk(
            store, clock, self.shelf, self.runs, self.fleet, self.restraints, Rights(bindings), around
        )
        self.broken = 0
        """Steps that were carried out without the collector, as hosts told since the start."""
        self._broken_s: deque[float] = deque(maxlen=BROKEN_MAX)
        self._publish = publish
        self._store = store
        self._clock = clock
        self._loop = asyncio.get_running_loop()

    # ------------------------------------------------------------ what happens

    def told(self, committed: Committed) -> None:
        """Hosts said something, and it is committed. From any thread."""
        with contextlib.suppress(RuntimeError):  # A loop that is closing takes nothing more.
            self._loop.call_soon_threadsafe(self._take, committed)

    def _take(self, committed: Committed) -> None:
        self.inventories.take(committed.inventories)
        for agent_id, event in committed.told:
            self.runs.told(agent_id, [event])
        for agent_id, glass in committed.glass:
            self._loud(agent_id, glass)

    def _loud(self, agent_id: str, glass: Breakglass) -> None:
        """Something was done on a host without us: it is in the audit, and whoever looks is told."""
        self.broken += 1
        self._broken_s.append(self._clock.monotonic_s())
        host = self.fleet.name_of(agent_id) or agent_id
        log.critical(
            "a step was carried out without the collector",
            extra=fields(host=host, runbook=glass.runbook, step=glass.accepted.step, reason=glass.reason),
        )
        document = {
            "host": host,
            "runbook": glass.runbook,
            "step": glass.accepted.step,
            "reason": glass.reason,
        }
        self._publish("breakglass", document)

    @property
    def broken_lately(self) -> int:
        """Of those, how many were told within BROKEN_S: for the alert."""
        since_s = self._clock.monotonic_s() - BROKEN_S
        return sum(told_s >= since_s for told_s in self._broken_s)

    def connected(self, agent_id: str) -> None:
        """A host is there again. On the loop."""
        self.runs.connected(agent_id)

    def host_changed(self, change: HostChange) -> None:
        """A host is forgotten: what it allowed goes with it."""
        if change.kind is ChangeKind.FORGOTTEN:
            agent_id = change.after.agent_id
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self.inventories.forget, agent_id)
            with contextlib.suppress(Busy, StorageError):
                self._store.submit(lambda connection: inventories.remove(connection, agent_id))

    def spawn(self, house: "Daemon") -> None:
        """Begin."""
        house.spawn("runs", self.run(house.progress.watch("runs", STALLED_S)))
        house.spawn("runs-tidy", self.tidy_for_ever())

    async def run(self, stamp: "Stamp") -> None:
        """Fold what is open, and go on with it."""
        await self.begin()
        await self.runs.run(stamp.made)

    async def begin(self) -> int:
        """Fold what is open; how many runs there are. A store that cannot be read is asked again."""
        while True:
            try:
                count = await self.runs.load()
                await self.runs.resume()
            except (Busy, StorageError) as exc:
                log.error("runs cannot be read back", extra=fields(why=exc))
                await asyncio.sleep(RETRY_S)
            else:
                if count:
                    log.info("open runs go on", extra=fields(runs=count))
                return count

    async def tidy_for_ever(self) -> None:
        """Now and then."""
        while True:
            await asyncio.sleep(TIDY_EVERY_S)
            await self.tidy()

    async def tidy(self) -> int:
        """Let go of runs that ended long ago, or are too many; how many."""
        site, now_ms, total = self._store.site, self._clock.wall_ms(), 0
        try:
            while True:
                found = await asyncio.to_thread(
                    self._store.read, lambda connection: runs.surplus(connection, site, now_ms)
                )
                if not found:
                    return total
                await self._store.write(lambda connection, found=found: runs.remove(connection, found))  # type: ignore[misc]
                total += len(found)
        except (Busy, StorageError) as exc:
            log.error("runs could not be tidied", extra=fields(why=exc))
            return total


def event_of(summary: RunSummary) -> dict[str, str]:
    """What followers are told of a run."""
    return {
        "id": summary.run_id,
        "runbook": summary.runbook,
        "state": summary.state,
        "detail": summary.state_detail[:200],
    }


class RunMetrics:
    """Metrics of its own, for a prometheus_client registry."""

    def __init__(self, house: RunHouse) -> None:
        self._house = house

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are given when they are collected."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Read."""
        house = self._house
        counters, orders = house.runs.counters, house.orders
        states: dict[str, int] = {state.value: 0 for state in RunState}
        for live in house.runs.open():
            states[live.run.state.value] += 1
        gauge = GaugeMetricFamily("watchbill_runbook_runs", "Runs that are open.", labels=["state"])
        for state, count in states.items():
            gauge.add_metric([state], float(count))
        yield gauge
        yield GaugeMetricFamily(
            "watchbill_runbook_breakglass_recent",
            "Steps that hosts carried out without the collector, told in the last hour.",
            float(house.broken_lately),
        )
        yield GaugeMetricFamily(
            "watchbill_collector_epoch", "The collector's epoch, which hosts hold on to.", float(orders.epoch)
        )
        for name, text, value in (
            ("journal_rows", "Rows written into journals of runs.", counters.rows),
            ("commands", "Commands that were to be sent.", counters.commands),
            ("breakglass", "Steps that hosts carried out without the collector.", self._house.broken),
            ("asked", "Questions to hosts about commands without an answer.", counters.asked),
            ("orders_sent", "Orders handed over to a host's link.", orders.sent),
            ("orders_unsent", "Orders whose host was away.", orders.unsent),
            ("inbox_lost", "Events of commands that were read back for want of room.", counters.inbox_lost),
            (
                "refolded",
                "Runs that were folded again: their rows could not be written.",
                counters.thrown_away,
            ),
            ("unreadable", "Runs that could not go on.", counters.unreadable),
            ("events_refused", "Events of commands that were refused.", house.door.refused),
        ):
            yield CounterMetricFamily(f"watchbill_runbook_{name}", text, float(value))
