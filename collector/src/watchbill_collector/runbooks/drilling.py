"""How a runbook's rehearsals stand: the last one, how long recovery takes, and when the next is due.

Only a drill that succeeded was a rehearsal: until one does, what was due stays due. A runbook that was never rehearsed
is due one period after its first text was seen. Recovery times are the newest RECOVERIES_MAX of drills that succeeded,
with nearest-rank quantiles: each is a time that was measured, also of few.

A drill that is due is told; it begins by itself only where the runbook says `drill: {auto: true}`, since it changes
hosts, if only those for drills: at most once a period however it ends, never beside a run in earnest.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from watchbill_collector.runbooks.model import Runbook
from watchbill_collector.runbooks.run.words import ENDED, RunState

RECOVERIES_MAX: Final = 20
_FAILED: Final = frozenset({RunState.FAILED, RunState.UNDONE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A drill. `ended_ms` is 0 while it goes on; `recovery_ms` None when its clock never stopped."""

    run_id: str
    digest: str
    requester: str
    state: RunState
    started_ms: int
    ended_ms: int = 0
    recovery_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How the drills of one runbook stand. `kept`: whether the newest recovery time kept the objective, None where
    nobody knows. `other_text`: the last one that succeeded followed another text than the one in force."""

    every_s: float
    auto: bool
    rto_s: float
    count: int
    succeeded: int
    last: Held | None
    last_good: Held | None
    failed: bool
    other_text: bool
    recovery_s: float | None
    p50_s: float | None
    p90_s: float | None
    kept: bool | None
    due_ms: int
    overdue: bool


def standing(runbook: Runbook, held: Sequence[Held], since_ms: int, now_ms: int) -> Standing:
    """See the module. `since_ms`: when its first text was seen."""
    drill = runbook.drill
    every_s = drill.every_s if drill is not None else 0.0
    newest = sorted(held, key=lambda one: (one.started_ms, one.run_id), reverse=True)
    ended = [one for one in newest if one.state in ENDED]
    good = [one for one in ended if one.state is RunState.SUCCEEDED]
    times = [one.recovery_ms / 1000 for one in good if one.recovery_ms is not None][:RECOVERIES_MAX]
    from_ms = good[0].started_ms if good else since_ms
    due_ms = from_ms + round(every_s * 1000) if every_s else 0
    # A drill that somebody called off says nothing of the runbook.
    told = next((one for one in ended if one.state is RunState.SUCCEEDED or one.state in _FAILED), None)
    return Standing(
        every_s=every_s,
        auto=drill is not None and drill.auto,
        rto_s=runbook.rto_s,
        count=len(ended),
        succeeded=len(good),
        last=newest[0] if newest else None,
        last_good=good[0] if good else None,
        failed=told is not None and told.state in _FAILED,
        other_text=bool(good) and good[0].digest != runbook.digest,
        recovery_s=times[0] if times else None,
        p50_s=quantile(times, 0.5),
        p90_s=quantile(times, 0.9),
        kept=times[0] <= runbook.rto_s if times and runbook.rto_s else None,
        due_ms=due_ms,
        overdue=bool(due_ms) and now_ms >= due_ms,
    )


def begins(found: Standing, now_ms: int, *, in_earnest: bool) -> bool:
    """Whether a drill begins by itself now. `in_earnest`: a run that is no drill is open somewhere."""
    if not (found.auto and found.overdue) or in_earnest:
        return False
    return found.last is None or (
        found.last.state in ENDED and now_ms >= found.last.started_ms + found.every_s * 1000
    )


def quantile(values: Sequence[float], share: float) -> float | None:
    """The nearest-rank quantile; None of nothing."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values) - 1e-9) - 1)]
