"""What is to be said of a job: a pure function of its definition, its records, what was heard, and the time.

Nothing is stored that could rot: the same evidence at the same moment gives the same word, so any history can be played
again. The word comes from the facet that matters most; what is bad comes before what is unknown, that before a warning.
"""

from collections.abc import Callable, Sequence
from typing import Final

from watchbill.backups.definition import Definition
from watchbill_collector.backups.due import NEVER_MS, DueTimes
from watchbill_collector.backups.evidence import Evidence
from watchbill_collector.backups.facet_copies import copies
from watchbill_collector.backups.facet_fresh import fresh
from watchbill_collector.backups.facet_ledger import ledger
from watchbill_collector.backups.facet_run import run
from watchbill_collector.backups.facet_size import sizes
from watchbill_collector.backups.facet_verify import verified_point, verify
from watchbill_collector.backups.points import Points, points_of
from watchbill_collector.backups.sight import Sight
from watchbill_collector.backups.texts import ADVICE, moment, plain
from watchbill_collector.backups.words import (
    BAD,
    COPIES,
    FRESH,
    LEDGER,
    OK,
    QUIET,
    RUN,
    SIZE,
    UNKNOWN,
    VERIFY,
    WARN,
    Facet,
    FacetName,
    Standing,
    State,
    Word,
    severity_of,
)

_BAD: Final = (
    (LEDGER, Word.SUSPECT),
    (FRESH, Word.STALE),
    (RUN, Word.FAILED),
    (VERIFY, Word.UNVERIFIED),
    (SIZE, Word.SUSPECT),
    (COPIES, Word.PARTIAL),
)
"""Of facets that are bad, the first gives the word: what may be an attack, then what cannot be restored any more."""
_WORDS: Final = {
    "missed": Word.MISSED,
    "partial": Word.PARTIAL,
    "late": Word.LATE,
    "running": Word.RUNNING,
}
_LOOKS: Final[Sequence[tuple[FacetName, Callable[[Sight, Points], Facet]]]] = (
    (RUN, run),
    (FRESH, fresh),
    (SIZE, sizes),
    (VERIFY, verify),
    (COPIES, copies),
    (LEDGER, ledger),
)
_GOOD: Final = Word.OK
_ALL_WELL: Final = [OK] * len(FacetName)
_NOTHING_YET: Final = ("no-run", "no-record")


def judge(
    definition: Definition,
    evidence: Evidence,
    watermark_ms: int,
    now_ms: int,
    standing: Standing,
    *,
    listening_ms: int = 0,
    dues: DueTimes | None = None,
    before: State | None = None,
) -> State:
    """The state at `now_ms`, when everything is known that its host told until `watermark_ms`.

    `listening_ms`: nobody could be heard before. `dues` saves working out the same due times again; `before`, an
    earlier state by the same definition, evidence and standing, those facets that still hold.
    """
    if evidence.copies:
        evidence = evidence.about(definition.copies)
    sight = Sight(
        definition,
        evidence,
        standing,
        watermark_ms,
        now_ms,
        listening_ms,
        dues or DueTimes(definition.schedule),
    )
    points = points_of(definition, evidence)
    facets, holds_ms = _facets(sight, points, before)
    word, name = _word(facets, evidence)
    facet = facets[name]
    why, advice = facet.text, ADVICE.get(facet.reason, "")
    if advice:
        advice = advice.replace("{job}", definition.name)
    if standing.retired:
        word, why, advice = Word.RETIRED, "its host is retired; its backups stay under their retention", ""
    elif standing.paused(now_ms):
        sight.later(standing.paused_until_ms)
        because = f": {plain(standing.paused_why)}" if standing.paused_why else ""
        word, advice = Word.PAUSED, ""
        why = (
            f"until {moment(standing.paused_until_ms)} by {plain(standing.paused_by) or 'somebody'}{because}"
        )
    wrong = (facet.level is BAD or facet.level is WARN) and word not in QUIET
    # By position, as runs are made: by name it takes five times as long.
    return State(
        word,
        facets,
        why,
        advice,
        0 if sight.next_ms == NEVER_MS or standing.retired else sight.next_ms,
        points.newest_ms,
        verified_point(evidence, points) if evidence.copies else 0,
        evidence.runs[-1] if evidence.runs else None,
        points.snapshots,
        severity_of(definition, name) if wrong else "",
        0 if sight.wants_ms == NEVER_MS else sight.wants_ms,
        sight.silent,
        holds_ms,
    )


def _facets(
    sight: Sight, points: Points, before: State | None
) -> tuple[dict[FacetName, Facet], tuple[int, ...]]:
    """Every facet, and until when it holds if nothing more is told: 0 where it waits for its host to be heard. What
    holds of those before is not looked at again: time alone changes one of them, as a rule."""
    facets: dict[FacetName, Facet] = {} if before is None else {**before.facets}
    holds_ms = [0] * len(_LOOKS) if before is None else [*before.holds_ms]
    now_ms, next_ms, wants_ms, silent = sight.now_ms, NEVER_MS, NEVER_MS, False
    for place, (name, look) in enumerate(_LOOKS):
        until_ms = holds_ms[place]
        if until_ms <= now_ms:
            sight.next_ms = sight.wants_ms = NEVER_MS
            facets[name] = look(sight, points)
            until_ms = holds_ms[place] = sight.next_ms
            if sight.wants_ms != NEVER_MS:
                holds_ms[place] = 0
                wants_ms, silent = min(wants_ms, sight.wants_ms), silent or sight.silent
                sight.silent = False
        if until_ms < next_ms:
            next_ms = until_ms
    sight.next_ms, sight.wants_ms, sight.silent = next_ms, wants_ms, silent
    return facets, tuple(holds_ms)


def _word(facets: dict[FacetName, Facet], evidence: Evidence) -> tuple[Word, FacetName]:
    """The word, and the facet that it comes from."""
    levels = [facet.level for facet in facets.values()]
    if levels == _ALL_WELL and evidence.records:
        return _GOOD, RUN
    for name, word in _BAD if BAD in levels else ():
        if facets[name].level is BAD:
            return _WORDS.get(facets[name].reason, word) if name is RUN else word, name
    run_facet, fresh_facet = facets[RUN], facets[FRESH]
    if not evidence.records and run_facet.reason not in ("late", "silent"):
        return Word.NEW, RUN
    if UNKNOWN in levels:
        for name, facet in ((RUN, run_facet), (FRESH, fresh_facet)):
            if facet.level is UNKNOWN and facet.reason not in _NOTHING_YET:
                return Word.UNKNOWN, name
        if facets[LEDGER].reason == "unreadable":
            return Word.UNKNOWN, LEDGER
        if run_facet.level is UNKNOWN and fresh_facet.level is UNKNOWN:
            return Word.NEW, RUN
    if WARN not in levels:
        return _GOOD, RUN
    if run_facet.reason in ("partial", "late"):
        return _WORDS[run_facet.reason], RUN
    if facets[VERIFY].level is WARN:
        return Word.UNVERIFIED, VERIFY
    if run_facet.reason == "running":
        return Word.RUNNING, RUN
    return _GOOD, next(name for name, facet in facets.items() if facet.level is WARN)
