"""The notification channels, for the HTTP side."""

import secrets
from collections.abc import Sequence

from watchbill.clock import Clock
from watchbill.errors import Busy
from watchbill_collector.api.channel_port import ChannelTrial, ChannelView
from watchbill_collector.api.ports import Caller, NoSuch
from watchbill_collector.notifiers.channel_set import ChannelSet
from watchbill_collector.notifiers.notice import SendFailed
from watchbill_collector.notifiers.trial import next_step, trial_notice

TRIALS_MAX = 4
"""Tests on their way at once: each may take as long as its channel's timeout."""


class ChannelService:
    """`api.channel_port.ChannelsService` over `notifiers.channel_set.ChannelSet`."""

    def __init__(self, channels: ChannelSet, clock: Clock, external_url: str) -> None:
        self._channels = channels
        self._clock = clock
        self._external_url = external_url
        self._running = 0

    async def channels(self) -> Sequence[ChannelView]:
        """Every channel, by name."""
        return [ChannelView(name, self._channels.kind(name)) for name in self._channels.names]

    async def test(self, name: str, by: Caller) -> ChannelTrial:
        """Send a test notice now."""
        if name not in self._channels.names:
            known = ", ".join(self._channels.names) or "none: write a [[channel]] into collector.toml"
            raise NoSuch(f"there is no channel {name[:64]!r}; there are: {known}")
        if self._running >= TRIALS_MAX:
            raise Busy(f"{TRIALS_MAX} tests are on their way already", retry_after_s=5.0)
        nonce = secrets.token_hex(8)
        notice = trial_notice(name, self._clock.wall_ms(), self._external_url, by.name, nonce)
        kind = self._channels.kind(name)
        began_s = self._clock.monotonic_s()
        self._running += 1
        try:
            detail, failure = (await self._channels.send(name, notice)).detail, None
        except SendFailed as exc:
            detail, failure = exc.why, exc
        finally:
            self._running -= 1
        return ChannelTrial(
            channel=name,
            kind=kind,
            delivered=failure is None,
            detail=detail,
            transient=failure is not None and failure.transient,
            hint=next_step(failure.why) if failure is not None else "",
            took_s=round(self._clock.monotonic_s() - began_s, 3),
        )
