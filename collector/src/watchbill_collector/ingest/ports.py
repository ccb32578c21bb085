"""What ingest needs of the rest of the collector, and the in-memory twins of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, TypeAlias

from watchbill.errors import StorageError  # noqa: TC001 - The twins' attribute has its type at run time.
from watchbill.leaving import Leaving
from watchbill_collector.history.values import GapRow, Mark
from watchbill_collector.series import Ticks

__all__ = [
    "Admission",
    "CritEvent",
    "CritSink",
    "GapRow",
    "Host",
    "Mark",
    "MemoryAdmission",
    "MemoryCritSink",
    "MemorySink",
    "Reach",
    "Sink",
    "Spool",
    "Standing",
]


class Sink(Protocol):
    """Where samples become durable."""

    def commit(self, ticks: Sequence[Ticks], marks: Sequence[Mark], gaps: Sequence[GapRow]) -> None:
        """Store all of it in one transaction. Blocks; called by one thread. Raises StorageError: nothing is
        stored."""


class Reach(Enum):
    """Whether a host could be asked for something."""

    ASKED = "asked"
    AWAY = "away"
    TOO_OLD = "too old"


@dataclass(frozen=True, slots=True)
class CritEvent:
    """One record of the crit stream. `shift_ms` is what is to be added to times by its host's wall clock; `content` is
    what was read of the payload already, where somebody knows its kind.
    """

    seq: int
    event_id: bytes
    kind: str
    boottime_ms: int
    wall_ms: int
    payload: bytes
    shift_ms: int = 0
    content: object | None = None


Spool: TypeAlias = tuple[str, bytes]
"""An agent's id, and the id of a spool that it wrote: numbers count within it."""


class CritSink(Protocol):
    """Where critical events become durable."""

    def commit(self, marks: Sequence[Mark], events: Mapping[Spool, Sequence[CritEvent]]) -> None:
        """Store events together with the marks, in one transaction; every spool with events has a mark. What is not
        above the mark that is stored, and an event that its agent sent before under another number, is left out.
        Blocks; called by one thread. Raises StorageError: nothing is stored."""


class Standing(Enum):
    """Whether a host may connect."""

    ACTIVE = "active"
    PENDING = "pending"
    RETIRED = "retired"
    REVOKED = "revoked"
    FORGOTTEN = "forgotten"


@dataclass(frozen=True, slots=True)
class Host:
    """What the registry says of an agent. `labels` were bound at enrolment: they win over what the host
    says."""

    agent_id: str
    instance: str
    labels: Mapping[str, str] = field(default_factory=dict)
    standing: Standing = Standing.ACTIVE


class Admission(Protocol):
    """The registry of hosts, as ingest sees it. Nothing here may block: it is asked at every Hello."""

    def host(self, agent_id: str) -> Host | None:
        """The host with this identity, None when there is none."""

    def seen(self, agent_id: str, labels: Mapping[str, str], beat_interval_ms: int) -> None:
        """A session began; the host's series carry these labels, and it beats this seldom. Remembered, so that a host
        that was there before a restart of the collector counts as down, not as unknown, and not too early."""

    def left(self, agent_id: str, leaving: Leaving) -> None:
        """The host announced its stop: it is neither up nor down, until it should have been back."""

    def leaving(self, agent_id: str) -> Leaving | None:
        """How the host said goodbye; None while it has not, or when it came back since."""

    def expected(self) -> Sequence[tuple[Host, Mapping[str, str], int]]:
        """Active hosts that were seen and did not say goodbye, with the labels of their series and how seldom they
        beat in ms, 0 where that is not known."""

    def promised(self) -> Sequence[tuple[Host, Mapping[str, str], Leaving]]:
        """Active hosts that said goodbye and that they would be back."""


# ---------------------------------------------------------------- twins


class MemorySink:
    """A sink in memory. `fail` makes every commit fail until it is cleared."""

    def __init__(self) -> None:
        self.ticks: list[Ticks] = []
        self.marks: dict[tuple[str, bytes, int], Mark] = {}
        self.gaps: list[GapRow] = []
        self.commits = 0
        self.fail: StorageError | None = None

    def commit(self, ticks: Sequence[Ticks], marks: Sequence[Mark], gaps: Sequence[GapRow]) -> None:
        """Keep it."""
        if self.fail is not None:
            raise self.fail
        self.commits += 1
        self.ticks += ticks
        self.gaps += gaps
        for mark in marks:
            self.marks[mark.agent_id, mark.spool_id, mark.stream] = mark


class MemoryCritSink:
    """A crit sink in memory. `fail` makes every commit fail until it is cleared."""

    def __init__(self) -> None:
        self.events: list[tuple[str, CritEvent]] = []
        self._known: set[tuple[str, bytes]] = set()
        self.marks: dict[tuple[str, bytes], Mark] = {}
        self.fail: StorageError | None = None

    def commit(self, marks: Sequence[Mark], events: Mapping[Spool, Sequence[CritEvent]]) -> None:
        """Keep it."""
        if self.fail is not None:
            raise self.fail
        for mark in marks:
            spool = (mark.agent_id, mark.spool_id)
            before = self.marks.get(spool)
            for event in events.get(spool, ()):
                key = (mark.agent_id, event.event_id)
                if key not in self._known and (before is None or event.seq > before.seq):
                    self._known.add(key)
                    self.events.append((mark.agent_id, event))
            if before is None or mark.seq > before.seq:
                self.marks[spool] = mark


class MemoryAdmission:
    """A registry in memory."""

    def __init__(self, hosts: Sequence[Host] = ()) -> None:
        self.hosts = {host.agent_id: host for host in hosts}
        self.labels: dict[str, Mapping[str, str]] = {}
        self.beats: dict[str, int] = {}
        self.leavings: dict[str, Leaving] = {}

    def host(self, agent_id: str) -> Host | None:
        """The host with this identity."""
        return self.hosts.get(agent_id)

    def seen(self, agent_id: str, labels: Mapping[str, str], beat_interval_ms: int) -> None:
        """Remember that it was here."""
        self.labels[agent_id] = dict(labels)
        self.beats[agent_id] = beat_interval_ms
        self.leavings.pop(agent_id, None)

    def left(self, agent_id: str, leaving: Leaving) -> None:
        """Remember how it went."""
        self.leavings[agent_id] = leaving

    def leaving(self, agent_id: str) -> Leaving | None:
        """How it went."""
        return self.leavings.get(agent_id)

    def expected(self) -> Sequence[tuple[Host, Mapping[str, str], int]]:
        """Hosts that were here and did not say goodbye."""
        return [
            (host, labels, self.beats[host.agent_id])
            for host, labels in self._came()
            if host.agent_id not in self.leavings
        ]

    def promised(self) -> Sequence[tuple[Host, Mapping[str, str], Leaving]]:
        """Hosts that said when they would be back."""
        return [
            (host, labels, self.leavings[host.agent_id])
            for host, labels in self._came()
            if host.agent_id in self.leavings and self.leavings[host.agent_id].back_by_ms
        ]

    def _came(self) -> list[tuple[Host, Mapping[str, str]]]:
        known = [(self.hosts[key], labels) for key, labels in self.labels.items() if key in self.hosts]
        return [(host, labels) for host, labels in known if host.standing is Standing.ACTIVE]
