"""What the HTTP side needs from the notification channels, and the values that cross; see `ports.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from watchbill_collector.api.ports import Caller


@dataclass(frozen=True, slots=True)
class ChannelView:
    """One configured channel."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class ChannelTrial:
    """What became of a test notice. `detail` is the peer's answer, or why there was none; `hint` the next step
    after a failure; `transient` whether the same again may help.
    """

    channel: str
    kind: str
    delivered: bool
    detail: str
    transient: bool
    hint: str
    took_s: float


class ChannelsService(Protocol):
    """The channels that notices go through."""

    async def channels(self) -> Sequence[ChannelView]:
        """Every channel, by name."""

    async def test(self, name: str, by: Caller) -> ChannelTrial:
        """Send a test notice now and say what came of it. Raises NoSuch; Busy when too many run."""
