"""How an RPO was kept over a time, by a job or by all jobs of a service: for how long the newest point was older than
it may be, and what is left of the time for which it may.

Worked out from the records by when things happened, not by when they were heard of: what a host tells days late counts
as done in time. What a repository shows was there since it was made, whenever somebody looked. What was true in between
is asked of the same function that judges (`points_of`), after each record. Of the time through which a host was not
heard, or its repository not read, nothing is claimed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from watchbill.backups.definition import Definition
from watchbill.backups.record import Kind, Record
from watchbill_collector.backups.evidence import Evidence
from watchbill_collector.backups.points import points_of

OBJECTIVE_DEFAULT: Final = 0.999
"""The share of a time in which the RPO is to be kept, where nobody says otherwise: 43 minutes of a month may be
missed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Of the time from `from_ms` to `until_ms`, in which something is known: `over_ms` of it were beyond the RPO, in
    the stretches `spans`. `worst_ms` is how old the newest point became, at least. `unknown_ms` follows, in which
    nothing is known."""

    rpo_ms: int
    from_ms: int
    until_ms: int
    over_ms: int
    spans: tuple[tuple[int, int], ...]
    worst_ms: int
    unknown_ms: int

    @property
    def known_ms(self) -> int:
        """How long something is known."""
        return self.until_ms - self.from_ms

    @property
    def share(self) -> float | None:
        """The share of the time in which the RPO was kept; None when nothing is known of any."""
        return 1 - self.over_ms / self.known_ms if self.known_ms else None

    def allowed_ms(self, objective: float) -> int:
        """For how long it may be missed so that this share is kept: the budget."""
        return round((1 - objective) * self.known_ms)


def rpo_kept(
    definition: Definition,
    told: Iterable[tuple[Record, int, int]],
    *,
    defined_ms: int,
    from_ms: int,
    until_ms: int,
    known_ms: int,
    told_from_ms: int = 0,
) -> Kept | None:
    """None for a job without an RPO.

    `told` are records with their arrival and shift, in any order: all that happened since the RPO before `from_ms`, or
    since `told_from_ms` where that is later. The job was there from `defined_ms`, its host is known through `known_ms`.
    """
    rpo_ms = round(definition.rpo_s * 1000)
    if not rpo_ms:
        return None
    evidence = Evidence()
    base_ms = max(defined_ms, from_ms - rpo_ms, told_from_ms)
    start_ms = max(from_ms, defined_ms, told_from_ms + rpo_ms if told_from_ms else 0)
    over: list[list[int]] = []
    worst_ms = point_ms = 0
    before_ms = base_ms
    for at_ms, record, received_ms, shift_ms in _by_time(told, until_ms):
        deadline_ms = (point_ms or base_ms) + rpo_ms
        if deadline_ms < at_ms:
            _add(over, max(deadline_ms, before_ms), at_ms)
        evidence.add(record, received_ms, shift_ms)
        newest_ms = points_of(definition, evidence.about(definition.copies)).newest_ms
        there_ms = at_ms
        if newest_ms > point_ms and record.kind is Kind.OBSERVE:
            there_ms = min(max(newest_ms, before_ms), at_ms)
            _cut(over, there_ms)
            if newest_ms + rpo_ms < at_ms:
                _add(over, max(newest_ms + rpo_ms, there_ms), at_ms)
        if there_ms > start_ms:
            worst_ms = max(worst_ms, there_ms - (point_ms or base_ms))
        point_ms, before_ms = newest_ms, at_ms
    end_ms = max(min(until_ms, _known_ms(definition, evidence, known_ms)), start_ms)
    deadline_ms = (point_ms or base_ms) + rpo_ms
    if deadline_ms < end_ms:
        _add(over, max(deadline_ms, before_ms), end_ms)
    if end_ms > start_ms:
        worst_ms = max(worst_ms, end_ms - (point_ms or base_ms))
    spans = [(max(a, start_ms), min(b, end_ms)) for a, b in over if a < end_ms and b > start_ms]
    return Kept(
        rpo_ms=rpo_ms,
        from_ms=start_ms,
        until_ms=end_ms,
        over_ms=sum(b - a for a, b in spans),
        spans=tuple(spans),
        worst_ms=worst_ms,
        unknown_ms=max(until_ms - end_ms, 0),
    )


def service_kept(parts: Sequence[Kept], until_ms: int) -> Kept | None:
    """Of a service, from how each of its jobs kept the service's RPO: whatever is beyond it of one is of all, since the
    service is as old as its oldest part. Known is what is known of every one. None for no jobs."""
    if not parts:
        return None
    from_ms = min(part.from_ms for part in parts)
    end_ms = max(min(part.until_ms for part in parts), from_ms)
    over: list[list[int]] = []
    for began_ms, ended_ms in sorted(span for part in parts for span in part.spans):
        if over and began_ms <= over[-1][1]:
            over[-1][1] = max(over[-1][1], ended_ms)
        else:
            over.append([began_ms, ended_ms])
    spans = tuple((a, min(b, end_ms)) for a, b in over if a < end_ms)
    return Kept(
        rpo_ms=parts[0].rpo_ms,
        from_ms=from_ms,
        until_ms=end_ms,
        over_ms=sum(b - a for a, b in spans),
        spans=spans,
        worst_ms=max(part.worst_ms for part in parts),
        unknown_ms=max(until_ms - end_ms, 0),
    )


def _by_time(told: Iterable[tuple[Record, int, int]], until_ms: int) -> list[tuple[int, Record, int, int]]:
    """Runs and looks by when they ended, none of the future."""
    found = [
        (
            min((record.finished_ms or record.observed_ms) + shift_ms, received_ms),
            record,
            received_ms,
            shift_ms,
        )
        for record, received_ms, shift_ms in told
        if record.kind in (Kind.RUN, Kind.OBSERVE)
    ]
    return sorted((one for one in found if one[0] <= until_ms), key=lambda one: (one[0], one[1].record_id))


def _known_ms(definition: Definition, evidence: Evidence, known_ms: int) -> int:
    """Of a job that only its repository tells of nothing is known after the last look at it."""
    if definition.observed and not evidence.runs:
        return min(known_ms, max((copy.seen_ms for copy in evidence.copies.values()), default=0))
    return known_ms


def _add(over: list[list[int]], from_ms: int, until_ms: int) -> None:
    if over and over[-1][1] == from_ms:
        over[-1][1] = until_ms
    elif from_ms < until_ms:
        over.append([from_ms, until_ms])


def _cut(over: list[list[int]], at_ms: int) -> None:
    """Nothing was over after this."""
    while over and over[-1][0] >= at_ms:
        over.pop()
    if over:
        over[-1][1] = min(over[-1][1], at_ms)
