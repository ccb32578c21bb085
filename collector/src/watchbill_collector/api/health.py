"""What is said of the checks and the applications of hosts, and of what hosts told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from watchbill.errors import UsageError


@dataclass(frozen=True, slots=True)
class AppStanding:
    """An application of a host. `state` is healthy, degraded, down or unknown, since `since`, which is None where
    nobody knows; `checks` are those that belong to it."""

    name: str
    state: str
    since: datetime | None
    checks: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class CheckStanding:
    """A check of a host. `verdict` is ok, warning, critical or unknown; `since`, `reason` and `detail` are what the
    host told of that verdict, empty where it has told nothing of it."""

    name: str
    app: str
    kind: str
    essential: bool
    verdict: str
    since: datetime | None = None
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class HostEvent:
    """Something that a host told once: when it was by its own clock, when it came, its kind and what belongs to it."""

    at: datetime
    received: datetime
    kind: str
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class HostEvents:
    """A host's newest events, newest first; `more` is what to ask for `before` to go on, empty at the end."""

    events: Sequence[HostEvent]
    more: str


class HealthService(Protocol):
    """How checks of hosts are, and what hosts have told."""

    async def checks(self, agent_id: str) -> Sequence[CheckStanding]:
        """A host's checks, by name."""

    async def timeline(self, agent_id: str, limit: int, before: str) -> HostEvents:
        """A host's newest events but those of backups and commands, which are shown where those are. Raises UsageError
        for a `before` that is none of its own."""


class HealthTwin:
    """In memory: checks and events by agent id, newest first."""

    def __init__(self) -> None:
        self.of_hosts: dict[str, Sequence[CheckStanding]] = {}
        self.told: dict[str, Sequence[HostEvent]] = {}

    async def checks(self, agent_id: str) -> Sequence[CheckStanding]:
        """Those that were put in."""
        return self.of_hosts.get(agent_id, ())

    async def timeline(self, agent_id: str, limit: int, before: str) -> HostEvents:
        """Those that were put in; `before` is how many were given already."""
        if before and not before.isdecimal():
            raise UsageError("`before` has to be the `more` of an earlier answer")
        start = int(before or 0)
        told = self.told.get(agent_id, ())
        more = str(start + limit) if len(told) > start + limit else ""
        return HostEvents(told[start : start + limit], more)
