"""All channels of a running collector by name, replaced as a whole at reload.

Who sends asks for a channel by its name each time, so that a reload counts from the next notice on. A channel
that was replaced is closed once nothing is being sent through it any more, never under somebody's hands.
"""

import asyncio
import logging
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from watchbill.logs import fields
from watchbill_collector.notifiers.channel import Channel
from watchbill_collector.notifiers.notice import Delivered, Notice, Notifier, SendFailed

log = logging.getLogger("watchbill.notifiers")

DEADLINE_S: Final = 150.0
"""Beyond every channel's own timeout: what is still sending then is cut off from here."""


@dataclass(slots=True, eq=False)
class _Generation:
    """The channels of one configuration, and how many notices are on their way through them."""

    channels: Mapping[str, Notifier]
    number: int = 0
    sending: int = 0
    retired: bool = False


class ChannelSet:
    """Channel by name. For one event loop."""

    def __init__(self, channels: Mapping[str, Notifier] | None = None) -> None:
        self._now = _Generation(dict(channels or {}))
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """The channels there are, sorted."""
        return tuple(sorted(self._now.channels))

    def kind(self, name: str) -> str:
        """The kind of a channel; "" when there is none of that name."""
        return str(getattr(self._now.channels.get(name), "kind", ""))

    def stamp(self, name: str) -> object:
        """Another one whenever the channel's configuration or one of its secret files has changed. Blocks for a look at
        the files.
        """
        channel = self._now.channels.get(name)
        return (self._now.number, channel.secrets_stamp() if isinstance(channel, Channel) else None)

    def refresh_s(self, name: str) -> float | None:
        """Seconds within which a notice that still fires has to be sent again, for channels whose peer forgets
        (alertmanager); None for all others.
        """
        found: float | None = getattr(self._now.channels.get(name), "refresh_s", None)
        return found

    def alerts_wanted(self, name: str) -> int:
        """Alerts that a notice has to list for that channel, should its route list fewer; 0 as a rule."""
        found: int = getattr(self._now.channels.get(name), "alerts_wanted", 0)
        return found

    async def send(self, name: str, notice: Notice) -> Delivered:
        """Send through the channel of that name. Raises SendFailed, and nothing else."""
        generation = self._now
        channel = generation.channels.get(name)
        if channel is None:
            raise SendFailed(f"there is no channel {name!r} any more", transient=True, unwelcome=True)
        generation.sending += 1
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await channel.send(notice)
        except TimeoutError as exc:
            raise SendFailed(f"channel {name}: no end within {DEADLINE_S:.0f} s", transient=True) from exc
        except SendFailed:
            raise
        except Exception as exc:
            # A channel's mistake costs this attempt. The place is logged and not the message, which may hold
            # what the peer or a secret file said.
            place = traceback.extract_tb(exc.__traceback__)[-1]
            at = f"{Path(place.filename).name}:{place.lineno}"
            log.error(
                "channel failed by mistake", extra=fields(channel=name, error=type(exc).__name__, at=at)
            )
            why = f"channel {name} failed by mistake ({type(exc).__name__}): see the collector's log"
            raise SendFailed(why, transient=True) from exc
        finally:
            generation.sending -= 1
            self._close_if_done(generation)

    def swap(self, channels: Mapping[str, Notifier]) -> None:
        """Take these from the next notice on; the old ones are closed when they are done."""
        before, self._now = self._now, _Generation(dict(channels), self._now.number + 1)
        before.retired = True
        self._close_if_done(before)

    def _close_if_done(self, generation: _Generation) -> None:
        if generation.retired and not generation.sending:
            generation.retired = False
            task = asyncio.get_running_loop().create_task(_close(generation), name="close channels")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close all. Call it when nobody sends any more."""
        self.swap({})
        while self._closing:
            await asyncio.gather(*self._closing)


async def _close(generation: _Generation) -> None:
    for name, channel in generation.channels.items():
        try:
            await channel.close()
        except Exception:  # noqa: BLE001 - One channel must not keep the others open.
            log.warning("channel could not be closed", extra=fields(channel=name))
