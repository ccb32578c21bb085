"""What the HTTP side needs from the roster, and the values that cross; see `ports.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from watchbill.errors import Refused
from watchbill_collector.api.ports import Caller
from watchbill_collector.scopes import View


@dataclass(frozen=True, slots=True)
class RosterDocument:
    """The newest roster as it was signed (`watchbill.actions.roster`); None before the first. `disabled` are people on
    it who are disabled on the collector."""

    roster: dict[str, Any] | None
    published: datetime | None = None
    author: str = ""
    disabled: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class NewRoster:
    """A signed roster, base64."""

    signed: str


@dataclass(frozen=True, slots=True)
class Published:
    """What was published, and to how many connected hosts it was sent at once."""

    roster: dict[str, Any]
    sent: int


@dataclass(frozen=True, slots=True)
class HostBehind:
    """A host that has a runner and not the newest roster. `serial` 0: none; `told`: when it last said so."""

    name: str
    serial: int
    why: str
    told: datetime


@dataclass(frozen=True, slots=True)
class Behind:
    """Hosts by name."""

    serial: int
    hosts: Sequence[HostBehind]


class RosterService(Protocol):
    """The roster, as the collector carries it. Nothing here can make one: hosts believe their own `roster.pub`."""

    async def roster(self) -> RosterDocument:
        """The newest."""

    async def publish(self, signed: bytes, by: Caller) -> Published:
        """Take a newer one and send it on. Raises Refused with why not."""

    async def behind(self, sees: View) -> Behind:
        """Which hosts do not have it."""


class NoRoster:
    """A collector that carries none."""

    async def roster(self) -> RosterDocument:
        """None."""
        return RosterDocument(None)

    async def publish(self, signed: bytes, by: Caller) -> Published:  # noqa: ARG002 - The protocol's.
        """Not here."""
        raise Refused("rosters are not carried here")

    async def behind(self, sees: View) -> Behind:  # noqa: ARG002 - The protocol's.
        """Nobody."""
        return Behind(0, ())
