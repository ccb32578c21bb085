"""Dispatch put together: what the daemon opens, configures at every reload, and runs."""

import asyncio
from collections.abc import Callable, Mapping

from watchbill.clock import Clock
from watchbill.daemon import Daemon
from watchbill_collector.config import CollectorConfig
from watchbill_collector.dispatch.dispatcher import Dispatcher, Setup
from watchbill_collector.dispatch.options import read_routing
from watchbill_collector.dispatch.outbox import Outbox, StoreRows
from watchbill_collector.dispatch.plan import Hush, Planner
from watchbill_collector.dispatch.routing import Routing
from watchbill_collector.dispatch.silencebook import SilenceBook
from watchbill_collector.dispatch.snapshot import Snapshot
from watchbill_collector.dispatch.values import Service, fingerprint_of
from watchbill_collector.dispatch.watchdog import WatchdogPing, read_headers
from watchbill_collector.notifiers.channel_set import ChannelSet
from watchbill_collector.notifiers.configured import without_digest
from watchbill_collector.rules import Rulebook
from watchbill_collector.servicebook import Belonging
from watchbill_collector.servicebook import Service as ServiceFile
from watchbill_collector.store import Store

STALE_S = 60.0
"""How long the dispatcher may take for a turn before it counts as standing still."""
WATCHED = "dispatch"


class Dispatching:
    """One collector's dispatch. Made on the loop, after the store and the channels."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        book: Rulebook,
        channels: ChannelSet,
        belonging: Belonging,
        external_url: str,
        stalled: Callable[[], list[str]],
    ) -> None:
        """`stalled` answers which parts stand still."""
        self.silences = SilenceBook(store, clock, bindings=belonging.bindings)
        self.outbox = Outbox(StoreRows(store))
        self.dispatcher = Dispatcher(self.outbox, self.silences, clock, channels.send, stamp=channels.stamp)
        self.silences.changed = self.dispatcher.look
        self.routing = Routing()
        self.watchdog: WatchdogPing | None = None
        self._clock = clock
        self._book = book
        self._channels = channels
        self._belonging = belonging
        self._external_url = external_url
        self._snapshot = Snapshot(book, external_url)
        self._stalled = stalled

    async def open(self, config: CollectorConfig) -> None:
        """Take up what a former life left. Raises StorageError."""
        await asyncio.to_thread(self.silences.load)
        await asyncio.to_thread(self.outbox.load)
        await self.configure(config)
        if config.watchdog.url:
            headers = await asyncio.to_thread(read_headers, config.watchdog.headers_file)
            self.watchdog = WatchdogPing(config.watchdog, headers, self._stalled)

    async def configure(self, config: CollectorConfig, *, before_channels: bool = False) -> None:
        """Use this configuration, which has been judged, and the channels that are there, from now.

        A reload calls it twice: `before_channels` takes away the channels that are about to go, so that nothing is
        sent where nobody is any more.
        """
        names = [str(table.values.get("name", "")) for table in config.channel]
        self.routing, problems = read_routing(
            config.route, config.maintenance, names, config.digest, without_digest(config.channel)
        )
        assert not problems, "the configuration was judged when it was read"
        planner = Planner(
            self._snapshot.describe,
            service_of=self._service_of,
            service=self._service_named,
            external_url=self._external_url,
        )
        there = frozenset(self._channels.names)
        if before_channels:
            there &= frozenset(names)
        refresh = {name: self._channels.refresh_s(name) for name in there}
        await self.dispatcher.configure(
            Setup(
                self.routing,
                there,
                planner,
                {name: round(each * 1000) for name, each in refresh.items() if each},
                {name: wanted for name in there if (wanted := self._channels.alerts_wanted(name))},
            )
        )

    def begin(self) -> None:
        """The rules have taken up their alerts."""
        self.dispatcher.begin(self._snapshot, lambda: self._book.keep(self._clock.wall_ms()))

    def spawn(self, house: Daemon) -> None:
        """Run, and ping the outside watchdog if one is configured."""
        stamp = house.progress.watch(WATCHED, STALE_S)
        house.spawn("dispatch", self.dispatcher.run(stamp))
        if self.watchdog is not None:
            house.spawn("watchdog ping", self.watchdog.run())

    async def close(self) -> None:
        """Before channels and store close."""
        await self.dispatcher.close()

    def failing(self) -> Mapping[str, str]:
        """Why channels fail, by name."""
        return {one.name: one.last_error for one in self.dispatcher.health() if not one.ok}

    def hush_of(self, labels: Mapping[str, str]) -> Hush | None:
        """Why an alert that fires tells nobody anew; None when it does."""
        hushed = self.dispatcher.hushed
        return hushed.get(fingerprint_of(tuple(sorted(labels.items())))) if hushed else None

    def _service_of(self, labels: Mapping[str, str]) -> Service | None:
        return _service(self._belonging.of(labels))

    def _service_named(self, name: str) -> Service | None:
        return _service(self._belonging.book().named(name))


def _service(found: ServiceFile | None) -> Service | None:
    if found is None:
        return None
    return Service(found.name, found.owner, tuple(found.depends), found.channel)
