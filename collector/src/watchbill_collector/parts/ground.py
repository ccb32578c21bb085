"""What every part stands on: configuration, clock, loop, the stack of what is to be closed, events, metrics."""

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from prometheus_client import CollectorRegistry

from watchbill.clock import SteadyClock
from watchbill.config import Homes
from watchbill.daemon import Daemon
from watchbill_collector.api.events import EventBus
from watchbill_collector.config import CollectorConfig
from watchbill_collector.configured import bracketed, external_url

STALLED_TURNS: Final = 20
"""A loop that missed so many of its turns, and for STALLED_MIN_S, stands still."""
STALLED_MIN_S: Final = 60.0


class Ground:
    """Made on the loop. `config` is the one in force: a reload puts another in its place."""

    def __init__(
        self, homes: Homes, config: CollectorConfig, house: Daemon, stack: contextlib.AsyncExitStack
    ) -> None:
        self.homes = homes
        self.config = config
        self.house = house
        self.stack = stack
        """What was opened, closed in reverse."""
        self.clock = SteadyClock()
        self.loop = asyncio.get_running_loop()
        self.directory = homes.var
        self.host_name = config.address or socket.gethostname()
        self.host = bracketed(self.host_name)
        """As it stands before a port."""
        self.external_url = external_url(config, self.host_name)
        self.bus = EventBus(secrets.token_hex(8))
        """What followers of the API are told."""
        self.metrics = CollectorRegistry(auto_describe=False)
        """The collector's own: what `/metrics` shows and the history keeps."""

    def on_loop(self, call: Callable[..., object], *arguments: object) -> None:
        """From any thread; a loop that is closing takes nothing more."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(call, *arguments)

    def every(self, name: str, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        """Begin a loop: `work` so many seconds after it was last done, and the watchdog told that it goes on."""
        self.house.spawn(name, self._repeat(name, seconds, work))

    async def _repeat(self, name: str, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        stamp = self.house.progress.watch(name, max(STALLED_MIN_S, STALLED_TURNS * seconds))
        while True:
            await asyncio.sleep(seconds)
            await work()
            stamp.made()


class Part:
    """One subsystem, between its making and its closing; see the package."""

    async def open(self) -> None:
        """What of its opening waits. Raises what keeps the collector from starting."""

    def begin(self) -> None:
        """All parts are open: start loops."""
