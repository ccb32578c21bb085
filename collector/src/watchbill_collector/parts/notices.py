"""Channels, and the dispatch that decides what goes out through them."""

import asyncio
import logging

from watchbill import __version__
from watchbill.logs import fields
from watchbill_collector.config import CollectorConfig
from watchbill_collector.configured import channel_faults
from watchbill_collector.dispatch.metrics import DispatchMetrics
from watchbill_collector.notifiers.channel import Surroundings
from watchbill_collector.notifiers.channel_set import ChannelSet
from watchbill_collector.notifiers.configured import build_all
from watchbill_collector.parts.ground import Ground, Part
from watchbill_collector.parts.intake import Intake
from watchbill_collector.parts.judging import Judging
from watchbill_collector.parts.state import State
from watchbill_collector.services.dispatching import Dispatching

log = logging.getLogger("watchbill.collector")


class Notices(Part):
    """See the module. `channels` and `dispatching` are there once it is open."""

    channels: ChannelSet
    dispatching: Dispatching

    def __init__(self, ground: Ground, state: State, intake: Intake, judging: Judging) -> None:
        self._ground = ground
        self._state = state
        self._intake = intake
        self._judging = judging
        self._surroundings = Surroundings(__version__, ground.clock)

    async def open(self) -> None:
        """Build the channels, take up what a former life left to be sent."""
        ground, judging = self._ground, self._judging
        made = await asyncio.to_thread(build_all, ground.config.channel, self._surroundings)
        self.channels = ChannelSet(made)
        ground.stack.push_async_callback(self.channels.close)
        # A secret that is missing must not keep the collector from starting: the other channels work.
        for problem in await asyncio.to_thread(channel_faults, ground.config):
            log.error("channel cannot send", extra=fields(problem=problem))
        self.dispatching = Dispatching(
            self._state.store,
            ground.clock,
            judging.book,
            self.channels,
            self._state.belonging,
            ground.external_url,
            self._stalled,
        )
        await self.dispatching.open(ground.config)
        dispatcher = self.dispatching.dispatcher
        judging.follow(lambda _: dispatcher.wake())
        ground.metrics.register(DispatchMetrics(dispatcher, self.dispatching.watchdog, ground.clock))
        ground.stack.push_async_callback(self.dispatching.close)
        # The rules end before it: what they say last is still looked at.
        ground.stack.callback(judging.end)

    def begin(self) -> None:
        """Send what waits, and what comes."""
        self.dispatching.spawn(self._ground.house)

    async def load_channels(self, config: CollectorConfig) -> None:
        """Swap the channels as a whole; what is on its way goes out through the old ones."""
        self.channels.swap(await asyncio.to_thread(build_all, config.channel, self._surroundings))

    def _stalled(self) -> list[str]:
        """Which of ingest, evaluation and outbox stand still: what withholds the ping of the watchdog."""
        stalled = self._ground.house.progress.wedged()
        if self._intake.stalled():
            stalled.append("ingest")
        if self._judging.stalled():
            stalled.append("evaluation")
        if self.dispatching.outbox.undurable:
            stalled.append("outbox")
        return stalled
