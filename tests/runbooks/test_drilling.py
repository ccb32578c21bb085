"""How rehearsals stand: what counts as one, when the next is due, and when it begins by itself."""

from collections.abc import Sequence

import pytest

from watchbill_collector.runbooks.drilling import Held, Standing, begins, quantile, standing
from watchbill_collector.runbooks.model import Runbook
from watchbill_collector.runbooks.reading import read_runbook
from watchbill_collector.runbooks.run.words import RunState

DAY = 86_400_000
SINCE = 100 * DAY


def _book(drill: str = "{every: 30d}", objectives: str = "objectives: {rto: 10m}") -> Runbook:
    text = f"runbook: r\n{objectives}\ndrill: {drill}\nsteps:\n  - check: 'true'\n"
    runbook, problems = read_runbook("r.yaml", text.encode())
    assert runbook is not None, problems
    return runbook


BOOK = _book()


def _held(
    day: int, state: RunState = RunState.SUCCEEDED, took_s: float | None = None, digest: str = BOOK.digest
) -> Held:
    at_ms = SINCE + day * DAY
    return Held(
        run_id=f"r{day:03d}",
        digest=digest,
        requester="ann",
        state=state,
        started_ms=at_ms,
        ended_ms=at_ms + 1 if state is not RunState.HELD else 0,
        recovery_ms=None if took_s is None else round(took_s * 1000),
    )


def _standing(held: Sequence[Held], day: float, book: Runbook = BOOK) -> Standing:
    return standing(book, held, SINCE, SINCE + round(day * DAY))


def test_a_runbook_that_was_never_rehearsed_is_due_one_period_after_it_came() -> None:
    assert not _standing((), 29.9).overdue
    found = _standing((), 30)
    assert (found.overdue, found.last, found.p90_s, found.kept) == (True, None, None, None)


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.UNDONE, RunState.CANCELLED, RunState.HELD])
def test_only_a_drill_that_succeeded_was_a_rehearsal(state: RunState) -> None:
    found = _standing([_held(1), _held(20, state)], 31)
    assert found.overdue
    assert found.due_ms == SINCE + 31 * DAY
    assert found.failed is (state in {RunState.FAILED, RunState.UNDONE})
    assert not _standing([_held(1), _held(20, state), _held(21)], 31).failed


def test_recovery_times_are_of_drills_that_succeeded_and_the_newest_is_held_against_the_objective() -> None:
    held = [_held(1, took_s=700), _held(2, took_s=100), _held(3, RunState.FAILED, took_s=9000), _held(4)]
    found = _standing(held, 5)
    assert (found.recovery_s, found.p50_s, found.p90_s, found.kept) == (100, 100, 700, True)
    assert (found.count, found.succeeded) == (4, 3)
    assert _standing([_held(1, took_s=601)], 5).kept is False
    assert _standing([_held(1, took_s=601)], 5, _book(objectives="")).kept is None


def test_quantiles_are_times_that_were_measured() -> None:
    assert quantile((), 0.9) is None
    assert [quantile(range(1, 11), share) for share in (0.0, 0.5, 0.9, 1.0)] == [1, 5, 9, 10]


def test_another_text_than_the_rehearsed_one_is_told() -> None:
    assert not _standing([_held(1)], 5).other_text
    assert _standing([_held(1, digest="0" * 64)], 5).other_text


def test_a_drill_begins_by_itself_only_where_the_runbook_says_so_and_once_a_period() -> None:
    auto = _book("{every: 30d, auto: true}")

    def asked(held: Sequence[Held], day: float, *, book: Runbook = auto, in_earnest: bool = False) -> bool:
        return begins(_standing(held, day, book), SINCE + round(day * DAY), in_earnest=in_earnest)

    assert asked((), 30)
    assert not asked((), 29)
    assert not asked((), 30, in_earnest=True)
    assert not asked((), 30, book=BOOK)
    # One that failed is for people to look at; after a period it is tried again.
    assert not asked([_held(30, RunState.FAILED)], 31)
    assert asked([_held(30, RunState.FAILED)], 60)
    assert not asked([_held(30, RunState.HELD)], 90), "it still goes on"


@pytest.mark.parametrize("drill", ["{auto: true}", "{every: 30d, auto: sometimes}"])
def test_auto_needs_every_and_is_a_truth(drill: str) -> None:
    text = f"runbook: r\ndrill: {drill}\nsteps:\n  - check: 'true'\n"
    _, problems = read_runbook("r.yaml", text.encode())
    assert [one.key for one in problems] == ["drill.auto"]
