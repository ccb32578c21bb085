"""What the HTTP side needs to say who was told of an alert, and the values that cross; see `ports.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from watchbill_collector.api.ports import Alert


@dataclass(frozen=True, slots=True)
class ToldNotice:
    """A notice that speaks of an alert, and what came of it. `said` is how the alert stands in it, firing or resolved;
    empty: it counts the alert and does not list it. `outcome` is queued, delivered, refused, given_up or overtaken;
    `detail` what the peer answered, or why it did not.
    """

    key: str
    channel: str
    route: str
    kind: str
    said: str
    outcome: str
    attempts: int
    created: datetime
    changed: datetime
    detail: str


@dataclass(frozen=True, slots=True)
class ToldWait:
    """What is still to come by a channel. `waits_for` is turn, retry, mending, group, repeat, digest or channel; `due`
    when, as far as anybody can say; `why` what failed last.
    """

    channel: str
    route: str
    waits_for: str
    due: datetime | None
    attempts: int
    why: str


@dataclass(frozen=True, slots=True)
class Told:
    """Who was told of an alert, newest first, and what waits. `nobody` says why nobody is told of one that fires:
    none (there is no channel), hushed, no_route, or way (its severity, rule or route says so); empty where somebody was
    or will be. `truncated`: there are older notices.
    """

    notices: Sequence[ToldNotice] = ()
    waiting: Sequence[ToldWait] = ()
    nobody: str = ""
    truncated: bool = False


class TellingService(Protocol):
    """Who was told of what."""

    async def told(self, alert: Alert) -> Told:
        """Of one alert. Raises StorageError."""


class NoTelling:
    """The twin of a collector without notifications."""

    async def told(self, alert: Alert) -> Told:  # noqa: ARG002 - The protocol's.
        """Nobody."""
        return Told(nobody="none")
