"""Whether there are as many copies as asked for, and of which kind.

A copy counts while its newest point is inside the RPO. A copy that could not be looked at is neither counted nor
missed.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from watchbill.backups.definition import Copy, Requirement
from watchbill.backups.record import Outcome
from watchbill_collector.backups.evidence import CopySeen
from watchbill_collector.backups.points import Points
from watchbill_collector.backups.sight import Passed, Sight
from watchbill_collector.backups.texts import moment, said
from watchbill_collector.backups.words import BAD, OK, UNKNOWN, WARN, Facet

NOT_ASKED: Final = Facet(OK, "not-asked", "no copies are asked for")


class Held(Enum):
    """How a copy stands."""

    GOOD = "good"
    STALE = "stale"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class _Held:
    copy: Copy
    held: Held
    text: str


def copies(sight: Sight, points: Points) -> Facet:
    """bad when the requirement is not met, whatever those are like that cannot be seen."""
    require = sight.definition.require
    if not sight.definition.copies:
        return _unnamed(sight)
    every = [_held(sight, points, copy) for copy in sight.definition.copies]
    good = [one.copy for one in every if one.held is Held.GOOD]
    lacking = _lacking(require, good)
    if lacking:
        unseen = [one.copy for one in every if one.held is Held.UNKNOWN]
        rest = "; ".join(one.text for one in every if one.held is not Held.GOOD)
        if unseen and not _lacking(require, [*good, *unseen]):
            return Facet(UNKNOWN, "copy-unreadable", f"{lacking}, if these are not whole: {rest}")
        return Facet(BAD, "copies-missing", f"{lacking}{': ' if rest else ''}{rest}")
    stale = [one.text for one in every if one.held is Held.STALE]
    if stale:
        return Facet(WARN, "copy-stale", "; ".join(stale))
    unknown = [one.text for one in every if one.held is Held.UNKNOWN]
    if unknown:
        return Facet(UNKNOWN, "copy-unreadable", "; ".join(unknown))
    broken = [
        _not_whole(copy.name, seen)
        for copy in sight.definition.copies
        if (seen := _seen_partial(sight, copy.name))
    ]
    if broken:
        return Facet(WARN, "not-whole", "; ".join(broken))
    return Facet(OK, "ok", f"{len(good)} of {len(every)} copies")


def _unnamed(sight: Sight) -> Facet:
    """A job that names no copies: all there is to say is whether its one repository is whole."""
    seen = _seen_partial(sight, "")
    if seen is not None:
        return Facet(WARN, "not-whole", _not_whole("the repository", seen))
    return NOT_ASKED


def _held(sight: Sight, points: Points, copy: Copy) -> _Held:
    seen = sight.evidence.copies.get(copy.name)
    name = copy.name
    point_ms = points.copies.get(name)
    unread = seen.unreadable if seen is not None else None
    if point_ms is None:
        why = said(unread.reason, unread.error) if unread is not None else ""
        return _Held(copy, Held.UNKNOWN, f"{name} was never seen{why}")
    if not point_ms:
        return _Held(copy, Held.STALE, f"{name} holds nothing that can be restored")
    text = f"{name} has {moment(point_ms)}"
    rpo_ms = round(sight.definition.rpo_s * 1000)
    if not rpo_ms:
        return _Held(copy, Held.GOOD, text)
    passed = _outdated(sight, seen, point_ms + rpo_ms)
    if passed is Passed.NO:
        return _Held(copy, Held.GOOD, text)
    if passed is Passed.YES:
        return _Held(copy, Held.STALE, text)
    why = said(unread.reason, unread.error) if unread is not None else ""
    return _Held(copy, Held.UNKNOWN, f"{text} and was not seen since{why}")


def _outdated(sight: Sight, seen: CopySeen | None, deadline_ms: int) -> Passed:
    passed = sight.passed(deadline_ms)
    if passed is Passed.YES and seen is not None and seen.seen is not None:
        return sight.seen_after(deadline_ms, seen.seen.at_ms)
    return passed


def _lacking(require: Requirement, have: list[Copy]) -> str:
    """What is missing to meet the requirement, to say; "" for nothing."""
    counts = (
        ("copies", len(have), require.copies),
        ("media", len({copy.media for copy in have if copy.media}), require.media),
        ("off-site", sum(copy.offsite for copy in have), require.offsite),
        ("immutable", sum(copy.immutable for copy in have), require.immutable),
    )
    return ", ".join(f"{count} of {wanted} {name}" for name, count, wanted in counts if count < wanted)


def _seen_partial(sight: Sight, name: str) -> CopySeen | None:
    seen = sight.evidence.copies.get(name)
    if seen is None or seen.seen is None or seen.seen.outcome is not Outcome.PARTIAL:
        return None
    return seen


def _not_whole(name: str, copy: CopySeen) -> str:
    assert copy.seen is not None
    return f"{name}: something of it is not whole{said(copy.seen.reason, copy.seen.error)}"
