"""Histories of jobs, told shortly: days, hours and minutes from a Monday noon."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from watchbill.backups.definition import Definition
from watchbill.backups.record import Kind, Level, Outcome, Proof, Record, Snapshots, Source
from watchbill.backups.schedule import Schedule
from watchbill_collector.backups import Evidence, Standing, State, judge

S = 1000
MIN = 60 * S
H = 60 * MIN
D = 24 * H
T0 = 1_780_315_200_000
"""2026-06-01 12:00 UTC, a Monday."""
NIGHTLY = Schedule(cron="15 2 * * *")
DUE = T0 + 14 * H + 15 * MIN
"""The first time that NIGHTLY comes round."""


def job(**given: Any) -> Definition:
    """A nightly job with an RPO of 26 hours."""
    return Definition(
        **{"name": "nightly", "tool": "wrap", "schedule": NIGHTLY, "rpo_s": 26 * 3600.0} | given
    )


@dataclass
class History:
    """One job's. Records are made with their arrival; `state` judges what has arrived by then."""

    definition: Definition = field(default_factory=job)
    standing: Standing = field(default_factory=lambda: Standing(defined_ms=T0))
    told: list[tuple[Record, int]] = field(default_factory=list)
    shift_ms: int = 0

    def tell(self, kind: Kind, at_ms: int, *, arrived_ms: int = 0, **given: Any) -> Record:
        """One record."""
        record = Record(
            **{
                "record_id": f"{len(self.told) + 1:032x}",
                "job": self.definition.name,
                "kind": kind,
                "source": Source.REPO if kind is Kind.OBSERVE else Source.WRAP,
                "outcome": Outcome.OK,
                "observed_ms": at_ms - self.shift_ms,
            }
            | given
        )
        self.told.append((record, arrived_ms or at_ms + S))
        return record

    def ran(self, start_ms: int, end_ms: int = 0, **given: Any) -> Record:
        """A run from its end record alone; ten minutes long."""
        end_ms = end_ms or start_ms + 10 * MIN
        shift = self.shift_ms
        return self.tell(
            Kind.RUN, end_ms, **{"started_ms": start_ms - shift, "finished_ms": end_ms - shift} | given
        )

    def goes_on(self, start_ms: int, at_ms: int, run: str, **given: Any) -> Record:
        """A run that had not ended at this moment."""
        return self.tell(Kind.RUN, at_ms, started_ms=start_ms, run_id=run, outcome=Outcome.RUNNING, **given)

    def saw(self, at_ms: int, *snapshots: int, listed: bool = True, **given: Any) -> Record:
        """An observation of a repository that holds snapshots of these times; their ids are these times."""
        ordered = tuple(sorted(snapshots))
        found = Snapshots(
            count=len(ordered),
            oldest_ms=min(ordered, default=0),
            newest_ms=max(ordered, default=0),
            ids_digest=str(hash(ordered)),
            parts=1 if listed and ordered else 0,
            listed=tuple((f"snapshot-{time_ms}", time_ms) for time_ms in ordered) if listed else (),
        )
        return self.tell(
            Kind.OBSERVE, at_ms, **{"snapshots": found, "point_ms": max(ordered, default=0)} | given
        )

    def unread(self, at_ms: int, reason: str = "repository-locked", **given: Any) -> Record:
        """An observation that could not read the repository."""
        return self.tell(Kind.OBSERVE, at_ms, outcome=Outcome.UNKNOWN, reason=reason, **given)

    def proved(
        self, at_ms: int, level: Level, *, ok: bool = True, fraction: float = 1.0, **given: Any
    ) -> Record:
        """A verification."""
        outcome = Outcome.OK if ok else Outcome.FAILED
        proof = Proof(level=level, ok=ok, fraction=fraction, bad=0 if ok else 1)
        return self.tell(Kind.VERIFY, at_ms, **{"verify": proof, "outcome": outcome} | given)

    def evidence(self, until_ms: int) -> Evidence:
        """What has arrived by then, in that order."""
        return folded((one for one in self.told if one[1] <= until_ms), self.shift_ms)

    def state(self, now_ms: int, *, heard_ms: int | None = None, listening_ms: int = 0) -> State:
        """At a moment, the host heard through it or through another."""
        heard_ms = now_ms if heard_ms is None else heard_ms
        return judge(
            self.definition, self.evidence(now_ms), heard_ms, now_ms, self.standing, listening_ms=listening_ms
        )


def folded(told: Iterable[tuple[Record, int]], shift_ms: int = 0) -> Evidence:
    """In the order of arrival."""
    evidence = Evidence()
    for record, arrived_ms in sorted(told, key=lambda one: one[1]):
        evidence.add(record, arrived_ms, shift_ms)
    return evidence
