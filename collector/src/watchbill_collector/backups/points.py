"""Which points in time can be restored: the word of the repositories, and of runs where no repository contradicts.

The job's word proves the job, the repository's the copy. A run counts until the repositories that it may have written
to were looked at after its end and show nothing of it. A partial run's snapshot looks like any other to a repository,
so it is the run's word that leaves it out. Times of the future prove nothing.
"""

from typing import Final

import msgspec

from watchbill.backups.definition import Definition
from watchbill.backups.record import Outcome
from watchbill_collector.backups.evidence import CopySeen, Evidence
from watchbill_collector.backups.runs import Run

SAME_MOMENT_MS: Final = 5 * 60_000
"""How far a snapshot's time may lie before its run's beginning, where a repository goes by a clock of its own."""
CONFIRMED_WITHIN_MS: Final = 3_600_000
"""How long after a run its repository may take to show it: objects appear late, a copy is brought up to date after
it."""
ID_CHARACTERS_MIN: Final = 8
"""Tools print the beginning of a snapshot's id: so much of it names one."""
_OK: Final = Outcome.OK
_UNNAMED: Final = ("",)


class Points(msgspec.Struct, gc=False):
    """`newest_ms` is 0 when nothing can be restored. `snapshots`: how many the fullest copy holds. `copies`: the
    newest of each copy of which something is known.

    `unconfirmed` is the newest good run by its own word, when no repository shows it; `contradicted`
    when it has had the time to. `unrestorable`: copies whose
    repository was read, and holds nothing that can be restored."""

    newest_ms: int = 0
    seen_ms: int = 0
    made_ms: int = 0
    snapshots: int = 0
    copies: dict[str, int] = msgspec.field(default_factory=dict)
    unconfirmed: Run | None = None
    contradicted: bool = False
    unrestorable: list[str] = msgspec.field(default_factory=list)


def points_of(definition: Definition, evidence: Evidence) -> Points:
    """What can be restored, as far as known. `made_ms` is the newest snapshot that a repository shows, `seen_ms` when
    one was read last."""
    if not evidence.copies:
        return _by_word(definition, evidence)
    points = Points()
    for name, copy in evidence.copies.items():
        seen = copy.seen
        if seen is None:
            continue
        points.seen_ms = max(points.seen_ms, seen.at_ms)
        if seen.outcome is Outcome.FAILED:
            points.unrestorable.append(name)
        points.copies[name] = point_ms = _point_of(copy, evidence)
        points.newest_ms = max(points.newest_ms, point_ms)
        points.made_ms = max(points.made_ms, seen.made_ms)
        if copy.ledger is not None:
            points.snapshots = max(points.snapshots, copy.ledger.count)
    for run in reversed(evidence.runs):
        if run.outcome is _OK and not run.ahead and _said_by(run, definition, evidence, points):
            break
    else:
        if evidence.good_before is not None:
            _said_by(evidence.good_before, definition, evidence, points)
    return points


def _by_word(definition: Definition, evidence: Evidence) -> Points:
    """Where no repository was ever looked at: the newest good run's word."""
    for run in reversed(evidence.runs):
        if run.outcome is _OK and not run.ahead:
            break
    else:
        if evidence.good_before is None:
            return Points()
        run = evidence.good_before
    places = _places(run, definition)
    return Points(run.point_ms, copies={places[0]: run.point_ms} if len(places) == 1 else {})


def _said_by(run: Run, definition: Definition, evidence: Evidence, points: Points) -> bool:
    """Take in the word of a good run; False when the repositories contradict it."""
    places = _places(run, definition)
    looked_ms = 1 << 62
    refuted = True
    for name in places:
        copy = evidence.copies.get(name)
        if copy is None or copy.seen is None or copy.seen.began_ms <= run.finished_ms:
            # Nobody has looked since, so its word stands: but where there are several, not for one of them.
            refuted = False
            if len(places) == 1:
                points.copies[name] = max(points.copies.get(name, 0), run.point_ms)
        elif _shows(copy, run):
            refuted = False
        else:
            looked_ms = min(looked_ms, copy.seen.began_ms)
    if refuted:
        if points.unconfirmed is None and not any(name in points.unrestorable for name in places):
            points.unconfirmed = run
            points.contradicted = looked_ms >= run.finished_ms + CONFIRMED_WITHIN_MS
        return False
    points.newest_ms = max(points.newest_ms, run.point_ms)
    return True


def _places(run: Run, definition: Definition) -> tuple[str, ...]:
    """The copies that a run may have written to."""
    if run.copy:
        return (run.copy,)
    return tuple(copy.name for copy in definition.copies) if definition.copies else _UNNAMED


def _shows(copy: CopySeen, run: Run) -> bool:
    seen = copy.seen
    if seen is None or seen.outcome is Outcome.FAILED:
        return False
    return seen.made_ms >= run.point_ms - SAME_MOMENT_MS


def _point_of(copy: CopySeen, evidence: Evidence) -> int:
    """The newest point that can be restored from a copy that was read."""
    seen, ledger = copy.seen, copy.ledger
    assert seen is not None
    if seen.outcome is Outcome.FAILED:
        return 0
    point_ms = seen.point_ms
    if seen.future_ms and ledger is not None:
        point_ms = ledger.newest_not_after(seen.at_ms)
    partial = [run for run in evidence.runs if run.outcome is Outcome.PARTIAL]
    if not partial or not any(_made(run, point_ms) for run in partial):
        return point_ms
    if ledger is None:
        return 0
    whole = (
        time_ms
        for name, time_ms in ledger.times.items()
        if time_ms <= point_ms and not any(_made(run, time_ms, name) for run in partial)
    )
    return max(whole, default=0)


def _made(run: Run, time_ms: int, name: str = "") -> bool:
    """Whether this snapshot is a run's."""
    if name and len(run.snapshot_id) >= ID_CHARACTERS_MIN:
        return name.startswith(run.snapshot_id)
    return run.began_ms - SAME_MOMENT_MS <= time_ms <= (run.finished_ms or run.at_ms)
