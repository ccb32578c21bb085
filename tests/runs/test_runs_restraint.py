"""Which runs may begin, from rows alone."""

import pytest

from watchbill_collector.runbooks.model import Limits
from watchbill_collector.runbooks.run.restraint import Past, breaker_open, limited, why_queued
from watchbill_collector.runbooks.run.words import RunState

HOUR_MS = 3_600_000


def past(run_id: str, state: str = "succeeded", at: int = 0, **more: object) -> Past:
    values: dict[str, object] = {
        "run_id": run_id,
        "runbook": "r",
        "lock": "l",
        "state": RunState(state),
        "drill": False,
        "created_ms": at,
        "queued_ms": at,
        "started_ms": at + 1,
        "ended_ms": at + 2,
    }
    return Past(**(values | more))  # type: ignore[arg-type]


@pytest.mark.parametrize("state", ["running", "waiting", "held", "undoing", "cancelling"])
def test_who_runs_waits_or_is_held_keeps_the_lock(state: str) -> None:
    mine = past("b", "queued", 5)
    assert "has the lock l" in why_queued(mine, [mine, past("a", state)])
    assert why_queued(mine, [mine, past("a", state, lock="other")]) == ""
    assert why_queued(past("b", "queued", lock=""), [past("a", state, lock="")]) == ""


@pytest.mark.parametrize("state", ["succeeded", "failed", "undone", "cancelled", "expired", "proposed"])
def test_what_has_ended_or_is_only_proposed_has_no_lock(state: str) -> None:
    assert why_queued(past("b", "queued"), [past("a", state)]) == ""


def test_the_lock_goes_to_who_asked_first_and_of_two_at_once_to_one() -> None:
    first, second, third = past("z", "queued", 1), past("y", "queued", 2), past("x", "queued", 2)
    every = [third, second, first]
    assert [why_queued(one, every) == "" for one in (first, second, third)] == [True, False, False]
    every.remove(first)
    assert [why_queued(one, every) == "" for one in (second, third)] == [False, True]


def test_cooldown_and_runs_per_time_count_what_began_and_no_drills() -> None:
    limits = Limits(cooldown_s=3600, max_runs=2, max_within_s=86_400)
    now_ms = 30 * HOUR_MS
    assert limited(limits, "r", "l", [past("a", at=now_ms - HOUR_MS - 10)], now_ms) == []
    (why,) = limited(limits, "r", "l", [past("a", at=now_ms - 1000)], now_ms)
    assert "ended less than 3600 s ago" in why
    (why,) = limited(limits, "r", "l", [past("a", "running", ended_ms=0)], now_ms)
    assert "ended less" in why, "one that still runs has not ended long ago"
    two = [past("a", at=now_ms - 20 * HOUR_MS), past("b", at=now_ms - 10 * HOUR_MS)]
    (why,) = limited(limits, "r", "l", two, now_ms)
    assert "2 runs in the last" in why
    for other in ({"drill": True}, {"runbook": "s"}, {"lock": "m"}, {"started_ms": 0}):
        assert limited(limits, "r", "l", [past("a", at=now_ms - 1000, **other)], now_ms) == []


def test_a_breaker_counts_bad_ends_in_a_row_since_a_person_reset_it() -> None:
    limits = Limits(breaker=2)
    bad = [past("a", "failed", 1), past("b", "held", 2)]
    assert breaker_open(limits, "r", bad, 0)
    assert not breaker_open(limits, "r", bad, 2), "counted from the reset on"
    assert not breaker_open(limits, "r", [bad[0], past("aa", "succeeded", 1), bad[1]], 0)
    assert not breaker_open(limits, "r", [past("a", "failed", 1, drill=True), bad[1]], 0)
    assert not breaker_open(Limits(), "r", bad, 0)
