"""How old the proofs are: that the repository hangs together, that its data is whole, that it was restored.

A proof that read a part counts as that part: parts are counted back until they make a whole, and the whole is as old as
the oldest part it needs. A proof that failed is taken back by whole proofs after it, not by other parts. A proof of all
data is also one of the structure. Proofs of any copy count, failures of any copy too.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from watchbill.backups.record import Level as Depth
from watchbill_collector.backups.evidence import CopySeen, Evidence, Proven
from watchbill_collector.backups.points import Points
from watchbill_collector.backups.sight import Passed, Sight
from watchbill_collector.backups.texts import moment, said, span
from watchbill_collector.backups.words import BAD, OK, UNKNOWN, WARN, WORSE, Facet, Level

WHOLE: Final = 0.999
"""Parts that add up to so much are all of it: thirds do not add up to 1."""
DEPTHS: Final = (Depth.STRUCTURE, Depth.DATA, Depth.RESTORE)
_PROVES: Final = {
    Depth.STRUCTURE: (Depth.STRUCTURE, Depth.DATA),
    Depth.DATA: (Depth.DATA,),
    Depth.RESTORE: (Depth.RESTORE,),
}

NOT_ASKED: Final = Facet(OK, "not-asked", "no proofs are asked for")


def verify(sight: Sight, _: Points) -> Facet:
    """The worst of all proofs that are asked for, and bad when more than one is overdue. One that failed counts also
    when it was not asked for."""
    failed = _failed(sight.evidence) if sight.evidence.copies else None
    if failed is not None:
        return failed
    ages = sight.definition.verify
    if not (ages.structure_s or ages.data_s or ages.restore_s):
        return NOT_ASKED
    asked = [
        (depth, age_s)
        for depth, age_s in zip(DEPTHS, (ages.structure_s, ages.data_s, ages.restore_s), strict=True)
        if age_s
    ]
    found = [_of_depth(sight, depth, age_s) for depth, age_s in asked]
    overdue = [facet for facet in found if facet.level is WARN]
    if len(overdue) > 1:
        return Facet(BAD, "overdue", "; ".join(facet.text for facet in overdue))
    return max(found, key=lambda facet: WORSE[facet.level])


def verified_point(evidence: Evidence, points: Points) -> int:
    """The newest point whose data was read whole, or restored, and that is still there; 0 for none."""
    newest_ms = 0
    for name, copy in evidence.copies.items():
        for depth in (Depth.DATA, Depth.RESTORE):
            proofs = copy.proofs.get(depth)
            if not proofs:
                continue
            whole = _whole(proofs)
            if whole is None or _doubted(copy, whole):
                continue
            point_ms = whole.point_ms or _point_at(copy, evidence, whole.at_ms)
            if not point_ms and not name:
                # A restore that names no copy was of any of them.
                point_ms = max(_point_at(other, evidence, whole.at_ms) for other in evidence.copies.values())
            oldest_ms = copy.ledger.oldest_ms if copy.ledger is not None else 0
            if point_ms >= oldest_ms and (name not in points.copies or point_ms <= points.copies[name]):
                newest_ms = max(newest_ms, point_ms)
    return newest_ms


def _of_depth(sight: Sight, depth: Depth, age_s: float) -> Facet:
    name, age_ms = depth.value, round(age_s * 1000)
    whole_ms = max((_newest_whole(copy, depth) for copy in sight.evidence.copies.values()), default=0)
    if not whole_ms:
        until_ms = sight.standing.defined_ms + age_ms
        begun = any(copy.proofs.get(depth) for copy in sight.evidence.copies.values())
        text = f"{name}: {'not yet whole' if begun else 'never proven'}{_unproven(sight.evidence)}"
        if sight.passed(until_ms) is Passed.YES:
            return Facet(
                _overdue(sight, until_ms, age_ms), "never-proven", f"{text}; asked for every {span(age_s)}"
            )
        return Facet(UNKNOWN, "never-proven", f"{text}; wanted by {moment(until_ms)}")
    text = f"{name}: proven {moment(whole_ms)}, asked for every {span(age_s)}"
    passed = sight.passed(whole_ms + age_ms)
    if passed is Passed.YES:
        level = _overdue(sight, whole_ms + age_ms, age_ms)
        return Facet(level, "overdue", f"{text}{_unproven(sight.evidence)}")
    if passed is Passed.SILENT:
        return Facet(UNKNOWN, "silent", f"{text}; its host is silent")
    return Facet(OK, "ok", text)


def _overdue(sight: Sight, since_ms: int, age_ms: int) -> Level:
    """A warning; bad once it is as late again as it may be old."""
    return BAD if sight.passed(since_ms + age_ms) is Passed.YES else WARN


def _failed(evidence: Evidence) -> Facet | None:
    """The newest failure that no whole proof has taken back."""
    newest: tuple[Proven, Depth, str] | None = None
    for name, copy in evidence.copies.items():
        for depth, proofs in copy.proofs.items():
            failure = _standing_failure(copy, depth, proofs)
            if failure is not None and (newest is None or failure.at_ms > newest[0].at_ms):
                newest = failure, depth, name
    if newest is None:
        return None
    failure, depth, name = newest
    what = f"{depth.value} of {name}" if name else depth.value
    found = f", {failure.bad} bad" if failure.bad else ""
    return Facet(
        BAD, "proof-failed", f"{what}: failed {moment(failure.at_ms)}{found}{said('', failure.error)}"
    )


def _standing_failure(copy: CopySeen, depth: Depth, proofs: Sequence[Proven]) -> Proven | None:
    failure = next((proof for proof in reversed(proofs) if not proof.ok), None)
    if failure is None:
        return None
    for other, by in copy.proofs.items():
        proves = other in _PROVES[depth]
        if proves and _added(proof for proof in by if proof.at_ms > failure.at_ms and proof.ok) >= WHOLE:
            return None
    return failure


def _doubted(copy: CopySeen, whole: Proven) -> bool:
    """Whether a proof of data or a restore failed since."""
    return any(
        not proof.ok and proof.at_ms >= whole.at_ms
        for depth in (Depth.DATA, Depth.RESTORE)
        for proof in copy.proofs.get(depth, ())
    )


def _newest_whole(copy: CopySeen, depth: Depth) -> int:
    """When the newest whole proof of this was made; 0 for never."""
    found = (_whole(copy.proofs.get(by, ())) for by in _PROVES[depth])
    return max((whole.at_ms for whole in found if whole is not None), default=0)


def _whole(proofs: Sequence[Proven]) -> Proven | None:
    """The oldest part of the newest whole."""
    added = 0.0
    for proof in reversed(proofs):
        if not proof.ok:
            return None
        added += proof.fraction
        if added >= WHOLE:
            return proof
    return None


def _added(proofs: Iterable[Proven]) -> float:
    return sum(proof.fraction for proof in proofs)


def _point_at(copy: CopySeen, evidence: Evidence, at_ms: int) -> int:
    """The newest point that was there at a moment."""
    listed_ms = copy.ledger.newest_not_after(at_ms) if copy.ledger is not None else 0
    if listed_ms:
        return listed_ms
    if copy.seen is not None and copy.seen.point_ms and copy.seen.point_ms <= at_ms:
        return copy.seen.point_ms
    runs = [*evidence.runs, *([evidence.good_before] if evidence.good_before is not None else [])]
    return max((run.point_ms for run in runs if run.good and run.finished_ms <= at_ms), default=0)


def _unproven(evidence: Evidence) -> str:
    """Why a verification came to nothing, if the newest did."""
    for copy in evidence.copies.values():
        if copy.unproven is not None:
            return said(copy.unproven.reason, copy.unproven.error)
    return ""
