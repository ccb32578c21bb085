"""How old the newest point is that can be restored: the RPO, measured."""

from functools import lru_cache
from typing import Final

from watchbill_collector.backups.points import Points
from watchbill_collector.backups.sight import Passed, Sight
from watchbill_collector.backups.texts import MINUTE_MS, moment, said, span
from watchbill_collector.backups.words import BAD, OK, UNKNOWN, WARN, Facet

NEAR: Final = 0.8
"""The share of the RPO after which there is a warning."""
YOUNG_REMEMBERED: Final = 16_384
"""Most jobs are fresh, and many have a point of the same minute: they have one facet."""


def fresh(sight: Sight, points: Points) -> Facet:
    """ok while it is young enough; bad once it is certain that there is nothing younger."""
    rpo_s = sight.definition.rpo_s
    rpo_ms = round(rpo_s * 1000)
    point_ms = points.newest_ms
    if not point_ms and points.unrestorable:
        return Facet(BAD, "not-restorable", f"what the repository holds cannot be restored{_why(sight)}")
    if not point_ms:
        if not rpo_s:
            return Facet(UNKNOWN, "no-record", "no point is known that could be restored")
        passed = _passed(sight, points, sight.standing.defined_ms + rpo_ms)
        if passed is Passed.YES:
            return Facet(BAD, "no-point", f"nothing can be restored; wanted within {span(rpo_s)}")
        if passed is Passed.SILENT:
            return _unheard(sight, "no point is known that could be restored")
        return Facet(UNKNOWN, "no-record", "no point is known yet that could be restored")
    if not rpo_s:
        return Facet(OK, "not-asked", f"newest point {moment(point_ms)}; no RPO is asked for")
    deadline_ms = point_ms + rpo_ms
    passed = _passed(sight, points, deadline_ms)
    if passed is Passed.NO:
        if sight.later(point_ms + round(NEAR * rpo_ms)):
            return _young(point_ms // MINUTE_MS, rpo_s)
        return _near(point_ms // MINUTE_MS, rpo_s, deadline_ms // MINUTE_MS)
    text = f"newest point {moment(point_ms)}, RPO {span(rpo_s)}"
    if passed is Passed.YES:
        return Facet(BAD, "over-rpo", f"{text}: over since {moment(deadline_ms)}")
    return _unheard(sight, text)


@lru_cache(YOUNG_REMEMBERED)
def _young(minute: int, rpo_s: float) -> Facet:
    return Facet(OK, "ok", f"newest point {moment(minute * MINUTE_MS)}, RPO {span(rpo_s)}")


@lru_cache(YOUNG_REMEMBERED)
def _near(minute: int, rpo_s: float, over: int) -> Facet:
    text = f"newest point {moment(minute * MINUTE_MS)}, RPO {span(rpo_s)}"
    return Facet(WARN, "near-rpo", f"{text}: over at {moment(over * MINUTE_MS)}")


def _passed(sight: Sight, points: Points, deadline_ms: int) -> Passed:
    """A job whose runs are told is known through its host's watermark; one that only its repository tells of, only as
    far as that was read."""
    passed = sight.passed(deadline_ms)
    if passed is Passed.YES and sight.definition.observed and not sight.evidence.runs:
        return sight.seen_after(deadline_ms, points.seen_ms)
    return passed


def _unheard(sight: Sight, text: str) -> Facet:
    if sight.silent:
        return Facet(UNKNOWN, "silent", f"{text}; its host was heard through {heard(sight)}")
    return Facet(UNKNOWN, "unreadable", f"{text}; the repository was not read since{_why(sight)}")


def heard(sight: Sight) -> str:
    """Through when the host was heard, to say."""
    return moment(sight.known_ms) if sight.known_ms > 0 else "no moment yet"


def _why(sight: Sight) -> str:
    """What stands against reading a copy, or is wrong with it."""
    for copy in sight.evidence.copies.values():
        unread = copy.unreadable
        if unread is not None:
            return said(unread.reason, unread.error)
        if copy.seen is not None and copy.seen.reason:
            return said(copy.seen.reason, copy.seen.error)
    return ""
