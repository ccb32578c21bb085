"""A dispatcher over a real store, a memory channel, given alerts and a clock that is moved by hand."""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from watchbill.clock import ManualClock
from watchbill_collector.dispatch.dispatcher import ABSENT_MS, Dispatcher, Setup
from watchbill_collector.dispatch.given import GivenAlerts
from watchbill_collector.dispatch.matchers import read_match
from watchbill_collector.dispatch.outbox import Outbox, OutboxRows, StoreRows
from watchbill_collector.dispatch.plan import Planner
from watchbill_collector.dispatch.routing import Route, Routing
from watchbill_collector.dispatch.silencebook import SilenceBook
from watchbill_collector.notifiers.channel_set import ChannelSet
from watchbill_collector.notifiers.memory import MemoryChannel
from watchbill_collector.store import Store


def route(match: str = "", channels: tuple[str, ...] = ("ops",), name: str = "all", **more: Any) -> Route:
    return Route(name=name, match=read_match(match), channels=channels, **more)


class Least:
    """No jitter: the longest wait, so that a clock moved past it is past every wait."""

    def uniform(self, a: float, b: float, /) -> float:
        return b


@dataclass
class Desk:
    """One collector's dispatch; `restart` is a kill and a new life on the same store."""

    directory: Path
    clock: ManualClock
    alerts: GivenAlerts
    channels: dict[str, MemoryChannel]
    routing: Routing
    rows: Callable[[OutboxRows], OutboxRows] = lambda rows: rows
    service_of: Any = None
    service: Any = None
    stamp: str = "as it was"
    """What stands for the configuration and the secrets of channels."""
    store: Store = field(init=False)
    dispatcher: Dispatcher = field(init=False)
    silences: SilenceBook = field(init=False)

    async def open(self) -> None:
        self.store = Store.open(self.directory, "main")
        self.silences = SilenceBook(self.store, self.clock)
        self.silences.load()
        outbox = Outbox(self.rows(StoreRows(self.store)))
        outbox.load()
        self.dispatcher = Dispatcher(
            outbox,
            self.silences,
            self.clock,
            ChannelSet(self.channels).send,
            jitter=Least(),
            stamp=lambda _: self.stamp,
        )
        self.silences.changed = self.dispatcher.look
        await self.configure(self.routing)
        self.dispatcher.begin(self.alerts)

    async def configure(self, routing: Routing) -> None:
        self.routing = routing
        more = {"service_of": self.service_of, "service": self.service} if self.service_of else {}
        planner = Planner(self.alerts.describe, external_url="http://collector", **more)
        wanted = {name: channel.alerts_wanted for name, channel in self.channels.items()}
        await self.dispatcher.configure(
            Setup(routing, frozenset(self.channels), planner, alerts_wanted=wanted)
        )

    async def restart(self) -> None:
        self.store.close()
        await self.open()

    async def turn(self, seconds: float = 0.0) -> None:
        """Time passes, then everything that can be planned and sent is."""
        self.clock.advance(seconds)
        await self.dispatcher.turn()
        await self.dispatcher.drain()
        await self.dispatcher.turn()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what a running dispatcher does."""
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110 - The channel twin has no event to wait for.
                await asyncio.sleep(0.01)

    def told(self, channel: str = "ops") -> list[str]:
        return [notice.kind.value for notice in self.channels[channel].accepted]


SETTLED_S = ABSENT_MS / 1000 + 1


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("migrated")
    Store.open(directory, "main").close()
    return directory


@pytest.fixture
def desk(tmp_path: Path, migrated: Path) -> Iterator[Callable[..., Desk]]:
    made: list[Desk] = []

    def make(*routes: Route, channels: tuple[str, ...] = ("ops",), **more: Any) -> Desk:
        directory = tmp_path / f"desk{len(made)}"
        shutil.copytree(migrated, directory)
        routing = more.pop("routing", None) or Routing(routes or (route(),))
        ready = {name: MemoryChannel() for name in channels}
        one = Desk(directory, ManualClock(), GivenAlerts(), ready, routing, **more)
        made.append(one)
        return one

    yield make
    for one in made:
        if hasattr(one, "store"):
            one.store.close()


@pytest.fixture
def a_route() -> Callable[..., Route]:
    return route
