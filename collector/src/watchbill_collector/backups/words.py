"""What is said of a backup: a word for the job, and a level for each facet of it, with the reason."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from watchbill.backups.definition import Definition, Retention, Severity
from watchbill_collector.backups.runs import Run

NONE_ASKED: Final = Retention()


class JobKey(NamedTuple):
    """A job of a host."""

    agent_id: str
    job: str


class Word(StrEnum):
    """The one word for a job."""

    NEW = "NEW"
    OK = "OK"
    LATE = "LATE"
    RUNNING = "RUNNING"
    PARTIAL = "PARTIAL"
    FAILED = "FAILED"
    MISSED = "MISSED"
    STALE = "STALE"
    SUSPECT = "SUSPECT"
    UNVERIFIED = "UNVERIFIED"
    UNKNOWN = "UNKNOWN"
    PAUSED = "PAUSED"
    RETIRED = "RETIRED"


class Level(StrEnum):
    """How a facet stands."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"
    UNKNOWN = "unknown"


OK: Final = Level.OK
WARN: Final = Level.WARN
BAD: Final = Level.BAD
UNKNOWN: Final = Level.UNKNOWN
"""Looked up once: finding a member of an enumeration takes 100 ns, and a judgement would do it fifty times."""


class FacetName(StrEnum):
    """What a job is judged for: its runs, the age of its newest good point, its size and duration, its proofs, its
    copies, and what became of its snapshots."""

    RUN = "run"
    FRESH = "fresh"
    SIZE = "size"
    VERIFY = "verify"
    COPIES = "copies"
    LEDGER = "ledger"


RUN, FRESH, SIZE, VERIFY, COPIES, LEDGER = FacetName


class Facet(msgspec.Struct, frozen=True, gc=False):
    """`reason` is a word in the manner of `over-max-duration`, documented in docs/backups.md; `text` says it to a
    person. Times in it are moments, never ages, so that it stays true while nothing changes.

    A msgspec.Struct, as `State` is: made in a fifth of the time of a frozen dataclass, a million times at a start.
    """

    level: Level
    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a job beside what its host says.

    `defined_ms`: since when there is this job. `scheduled_ms`: since when it has the schedule that it has now; nothing
    that was due before is asked for. A pause that is over stays here: what was due while it lasted is not asked for
    either. What vanished from a repository before `reviewed_ms` was looked at by a person. A host that loosens its
    own retention is held to `retention_before` for snapshots that vanish until `retention_before_until_ms`.
    """

    defined_ms: int
    paused_until_ms: int = 0
    paused_by: str = ""
    paused_why: str = ""
    retired: bool = False
    scheduled_ms: int = 0
    reviewed_ms: int = 0
    retention_before: Retention = NONE_ASKED
    retention_before_until_ms: int = 0

    def paused(self, now_ms: int) -> bool:
        """Whether nobody wants to hear of it now."""
        return now_ms < self.paused_until_ms

    @property
    def asked_from_ms(self) -> int:
        """What was due until then is not asked for; of a pause only once it is over."""
        return max(self.defined_ms, self.scheduled_ms)


class State(msgspec.Struct, frozen=True, gc=False):
    """What is to be said of a job. Nothing in it can lead back to it, so nobody has to look for that.

    `why` and `advice` are of the facet that the word comes from; `severity` is that facet's, "" when nothing is
    wrong. `next_ms`: when this may change though nothing is heard, 0 for never. `wants_ms`: what its host has to be
    heard through for this to change, 0 for nothing. `point_ms` and `verified_point_ms`: the newest point that can be
    restored, and the newest that was proven; 0 for none. `silent`: something is unknown because the host is silent.
    `holds_ms`: until when each facet, in their order, holds if nothing more is told; 0 where that depends on how far
    the host is heard.
    """

    word: Word
    facets: Mapping[FacetName, Facet]
    why: str
    advice: str
    next_ms: int
    point_ms: int
    verified_point_ms: int
    last_run: Run | None
    snapshots: int
    severity: str
    wants_ms: int = 0
    silent: bool = False
    holds_ms: tuple[int, ...] = ()

    @property
    def quiet(self) -> bool:
        """Whether nobody is to be told, whatever the facets say."""
        return self.word in QUIET

    @property
    def level(self) -> Level:
        """The worst of all facets."""
        return worst(facet.level for facet in self.facets.values())

    def says(self) -> tuple[object, ...]:
        """All but when it may change; what differs most often comes first."""
        return (
            self.last_run,
            self.word,
            self.point_ms,
            self.facets,
            self.why,
            self.verified_point_ms,
            self.snapshots,
            self.severity,
        )


class Change(msgspec.Struct, frozen=True, gc=False):
    """A job of which something else is to be said than before; `before` is None the first time."""

    key: JobKey
    before: State | None
    after: State


QUIET: Final = (Word.PAUSED, Word.RETIRED)
"""Words of jobs that nobody is to be told of."""
WORSE: Final = {Level.OK: 0, Level.UNKNOWN: 1, Level.WARN: 2, Level.BAD: 3}
SEVERER: Final[Mapping[str, int]] = {"": 0, "info": 1, "minor": 2, "major": 3, "critical": 4}


def worst(levels: Iterable[Level]) -> Level:
    """Of some."""
    return max(levels, key=WORSE.__getitem__, default=Level.OK)


def severity_of(definition: Definition, facet: FacetName) -> Severity:
    """How bad the job calls it when this facet is bad."""
    severity = definition.severity
    if facet is FRESH:
        return severity.rpo
    if facet is RUN:
        return severity.failed
    if facet is SIZE:
        return severity.anomaly
    if facet is VERIFY:
        return severity.verify
    return severity.copies if facet is COPIES else severity.ledger
