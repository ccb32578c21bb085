"""Whether what is saved is as large as it should be, and takes as long as it must.

A size that falls below the usual one by more than the limit is a warning once and bad twice: one clean-up is no
reason to wake anybody, an emptied share stays empty. The usual size is the median of the runs before it fell, so a
fall does not explain itself; once it has filled the whole window it is the usual size.
"""

from typing import Final

from watchbill.backups.record import Outcome
from watchbill_collector.backups.evidence import CopySeen
from watchbill_collector.backups.points import Points
from watchbill_collector.backups.sight import Sight
from watchbill_collector.backups.texts import moment, size, span
from watchbill_collector.backups.words import BAD, OK, UNKNOWN, WARN, WORSE, Facet

HISTORY_MIN: Final = 3
"""Sizes that a median needs."""
PER_CENT: Final = 100
_OK: Final = Outcome.OK

NOT_ASKED: Final = Facet(OK, "not-asked", "no limits of its size are asked for")


def sizes(sight: Sight, _: Points) -> Facet:
    """Of the newest good run; of the newest point of each copy where runs do not say."""
    limits = sight.definition.size
    fast = _too_fast(sight)
    if fast is not None:
        return fast
    if not limits.min_bytes and not limits.drop:
        return NOT_ASKED
    if (newest := _as_usual(sight)) is not None:
        return Facet(OK, "ok", f"{size(newest)}, as usual")
    count = 2 * max(limits.window, HISTORY_MIN)
    told = sight.evidence.good_sizes(count)
    if told:
        return _judged(sight, told)
    observed = [copy for copy in sight.evidence.copies.values() if copy.sizes is not None]
    if not observed:
        return Facet(UNKNOWN, "no-size", "no size was told yet")
    return max((_of_copy(sight, copy, count) for copy in observed), key=lambda facet: WORSE[facet.level])


def _of_copy(sight: Sight, copy: CopySeen, count: int) -> Facet:
    assert copy.sizes is not None
    return _judged(sight, copy.sizes.newest(count))


def _as_usual(sight: Sight) -> int | None:
    """The newest size when it is so large that no median can make it a fall: nearly always, and known without looking
    at the others."""
    evidence, limits = sight.evidence, sight.definition.size
    last = evidence.runs[-1] if evidence.runs else None
    if last is None or last.outcome is not _OK or not limits.drop:
        return None
    newest = last.bytes_stored if last.bytes_source is None else last.bytes_source
    if newest is None or newest < limits.min_bytes or newest < (1 - limits.drop) * evidence.size_max:
        return None
    return newest if evidence.sizes and len(evidence.sizes) >= HISTORY_MIN - 1 else None


def _too_fast(sight: Sight) -> Facet | None:
    least_s = sight.definition.min_duration_s
    if not least_s:
        return None
    for last in reversed(sight.evidence.runs):
        if last.outcome is _OK and not last.ahead:
            break
    else:
        return None
    if not last.started_ms or last.duration_ms >= least_s * 1000:
        return None
    took = f"took {span(last.duration_ms / 1000)}, {span(least_s)} at least"
    return Facet(BAD, "too-fast", f"the run of {moment(last.began_ms)} {took}")


def _judged(sight: Sight, told: list[int]) -> Facet:
    """By the newest sizes, oldest first."""
    limits, newest = sight.definition.size, told[-1]
    if newest < limits.min_bytes:
        return Facet(BAD, "below-min", f"{size(newest)}, {size(limits.min_bytes)} at least")
    if not limits.drop:
        return Facet(OK, "ok", f"{size(newest)}, {size(limits.min_bytes)} at least")
    if len(told) < HISTORY_MIN:
        return Facet(
            UNKNOWN,
            "little-history",
            f"{size(newest)}; {HISTORY_MIN} runs are needed to know what is usual",
        )
    fallen, usual = _fall(told, 1 - limits.drop, limits.window)
    if not fallen:
        return Facet(OK, "ok", f"{size(newest)}, as usual")
    text = f"{size(newest)}, usually {size(usual)}: more than {limits.drop * PER_CENT:.3g} % less"
    if fallen == 1:
        return Facet(WARN, "dropped", text)
    return Facet(BAD, "dropped", f"{text}, {fallen} times now")


def _fall(told: list[int], share: float, window: int) -> tuple[int, float]:
    """How many of the newest have fallen below that share of the usual size before them, and that size; 0 for none."""
    if told[-1] >= share * max(told):
        return 0, 0.0
    longest, usual = 0, 0.0
    settled = max(window, HISTORY_MIN)
    for fallen in range(1, min(settled, len(told) - HISTORY_MIN + 1) + 1):
        median = _median(told[-fallen - window : -fallen])
        if all(one < share * median for one in told[-fallen:]):
            longest, usual = fallen, median
    return (longest, usual) if longest < settled else (0, 0.0)


def _median(some: list[int]) -> float:
    """As of statistics.median, which takes ten times as long for a few whole numbers."""
    ordered = sorted(some)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
