"""Which runs may begin, and how: locks, cooldown, runs per time, breakers. All of it follows from rows of runs.

Limits bind what starts by itself: a trigger that may not act proposes instead. A person who starts a run is told, and
not kept from it: he sees what the limits do not. Locks and the number of hosts bind everybody. A run that waits or is
held keeps its lock; those who want it come one after the other, as they asked.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from watchbill_collector.runbooks.model import Limits
from watchbill_collector.runbooks.run.words import HOLDS_LOCK, RunState

_BAD_ENDS = frozenset({RunState.FAILED, RunState.HELD, RunState.UNDONE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """A run as far as others are bound by it. A moment that has not come is 0. `held`: it is, or was, held."""

    run_id: str
    runbook: str
    lock: str
    state: RunState
    drill: bool
    created_ms: int
    queued_ms: int = 0
    started_ms: int = 0
    ended_ms: int = 0


def why_queued(run: Past, others: Iterable[Past]) -> str:
    """Why a run that waits for its turn may not begin yet, or ""."""
    if not run.lock:
        return ""
    for other in others:
        if other.run_id == run.run_id or other.lock != run.lock:
            continue
        if other.state in HOLDS_LOCK:
            return f"run {other.run_id} has the lock {run.lock}"
        if other.state is RunState.QUEUED and (other.queued_ms, other.run_id) < (run.queued_ms, run.run_id):
            return f"run {other.run_id} waits for the lock {run.lock}, too, and came first"
    return ""


def limited(limits: Limits, runbook: str, lock: str, past: Iterable[Past], now_ms: int) -> list[str]:
    """Which limits a further run would go beyond. Drills count for nothing."""
    found: list[str] = []
    same = [
        one
        for one in past
        if one.runbook == runbook and one.lock == lock and not one.drill and one.started_ms
    ]
    cooldown_ms = round(limits.cooldown_s * 1000)
    last_ms = max((one.ended_ms or now_ms for one in same), default=None)
    if cooldown_ms and last_ms is not None and now_ms < last_ms + cooldown_ms:
        left_s = (last_ms + cooldown_ms - now_ms) // 1000
        found.append(f"the last run ended less than {limits.cooldown_s:g} s ago: {left_s} s are left")
    if limits.max_runs:
        since_ms = now_ms - round(limits.max_within_s * 1000)
        count = sum(one.started_ms >= since_ms for one in same)
        if count >= limits.max_runs:
            found.append(
                f"{count} runs in the last {limits.max_within_s:g} s, limits.max is {limits.max_runs}"
            )
    return found


def breaker_open(limits: Limits, runbook: str, past: Iterable[Past], since_ms: int) -> bool:
    """Whether so many runs since a person last reset it did not end well, one after the other, that triggers only
    propose."""
    if not limits.breaker:
        return False
    same = [one for one in past if one.runbook == runbook and not one.drill and one.created_ms >= since_ms]
    same.sort(key=lambda one: (one.created_ms, one.run_id))
    bad = 0
    for one in same:
        if one.state in _BAD_ENDS:
            bad += 1
            if bad >= limits.breaker:
                return True
        elif one.state is RunState.SUCCEEDED:
            bad = 0
    return False


def in_turn(queued: Sequence[Past]) -> list[Past]:
    """Those who wait, in the order in which they asked."""
    return sorted(queued, key=lambda one: (one.queued_ms, one.run_id))
