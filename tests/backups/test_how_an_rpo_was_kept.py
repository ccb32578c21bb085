"""The RPO measured over a time: worked out from records alone, and the same as what was said all the while."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchbill.backups.record import Outcome
from watchbill_collector.backups import FacetName
from watchbill_collector.backups.objective import OBJECTIVE_DEFAULT, Kept, rpo_kept, service_kept
from watchbill_collector.backups.words import BAD, OK

from .histories import DUE, MIN, T0, D, H, History, S, job

RPO = 26 * H


def kept(history: History, from_ms: int = T0, until_ms: int = T0 + 30 * D, **given: int) -> Kept:
    asked = {"defined_ms": T0, "from_ms": from_ms, "until_ms": until_ms, "known_ms": until_ms} | given
    told = [(record, arrived_ms, history.shift_ms) for record, arrived_ms in history.told]
    found = rpo_kept(history.definition, told, **asked)
    assert found is not None
    return found


def nightly(days: int, *missing: int, **given: object) -> History:
    history = History(job(**given))
    for day in range(days):
        if day not in missing:
            history.ran(DUE + day * D)
    return history


def test_a_month_of_nights_is_kept_whole():
    found = kept(nightly(30))
    assert (found.over_ms, found.spans, found.share) == (0, (), 1.0)
    assert found.worst_ms == 24 * H + 10 * MIN, "until the end of the next run"
    assert found.allowed_ms(OBJECTIVE_DEFAULT) == round(30 * D / 1000)


def test_a_night_that_is_missed_costs_from_the_rpo_to_the_end_of_the_next_run():
    found = kept(nightly(30, 10))
    wanted = (DUE + 9 * D + RPO, DUE + 11 * D + 10 * MIN)
    assert found.spans == (wanted,)
    assert found.over_ms == 22 * H + 10 * MIN
    assert found.share == pytest.approx(1 - (22 * H + 10 * MIN) / (30 * D))
    assert found.worst_ms == 48 * H + 10 * MIN


def test_two_nights_are_one_stretch_and_failures_in_between_make_nothing_good():
    history = nightly(30, 10, 11)
    history.ran(DUE + 10 * D, outcome=Outcome.FAILED)
    history.ran(DUE + 11 * D, outcome=Outcome.PARTIAL)
    found = kept(history)
    assert found.spans == ((DUE + 9 * D + RPO, DUE + 12 * D + 10 * MIN),)


def test_what_is_told_late_counts_by_when_it_happened():
    history = nightly(30, 10)
    history.ran(DUE + 10 * D, arrived_ms=DUE + 25 * D)
    assert kept(history).over_ms == 0


def test_a_period_begins_with_what_there_was_before_it():
    history = nightly(30, 9, 10)
    found = kept(history, DUE + 10 * D, DUE + 12 * D)
    assert found.spans == ((DUE + 10 * D, DUE + 11 * D + 10 * MIN),)
    assert kept(history, DUE + 13 * D, DUE + 20 * D).over_ms == 0
    # Only what happened since the RPO before the period is needed.
    whole = kept(history, DUE + 13 * D, DUE + 20 * D)
    history.told = [one for one in history.told if one[1] >= DUE + 13 * D - RPO]
    assert kept(history, DUE + 13 * D, DUE + 20 * D) == whole


def test_of_a_time_before_the_job_and_after_its_host_was_heard_nothing_is_claimed():
    found = kept(nightly(5), T0 - 20 * D, T0 + 30 * D, known_ms=T0 + 10 * D)
    assert (found.from_ms, found.until_ms) == (T0, T0 + 10 * D)
    assert found.unknown_ms == 20 * D
    assert found.spans == ((DUE + 4 * D + RPO, T0 + 10 * D),)
    nothing = kept(nightly(5), T0 + 15 * D, T0 + 30 * D, known_ms=T0 + 10 * D)
    assert (nothing.share, nothing.over_ms, nothing.unknown_ms) == (None, 0, 15 * D)


def test_where_older_records_are_not_at_hand_the_period_begins_later():
    found = kept(nightly(30), told_from_ms=DUE + 5 * D)
    assert found.from_ms == DUE + 5 * D + RPO
    assert found.over_ms == 0


def test_a_job_that_never_ran_is_over_once_its_first_point_was_wanted():
    found = kept(History(), T0, T0 + 3 * D)
    assert found.spans == ((T0 + RPO, T0 + 3 * D),)
    assert rpo_kept(job(rpo_s=0.0), (), defined_ms=0, from_ms=0, until_ms=9, known_ms=9) is None


def test_what_a_repository_shows_was_there_before_somebody_looked():
    history = History(job(observed=True))
    history.saw(DUE + H, DUE)
    history.saw(DUE + 3 * D, DUE, DUE + D + H)
    found = kept(history, T0, T0 + 9 * D)
    assert found.until_ms == DUE + 3 * D, "nobody looked since"
    assert found.spans == ((DUE + D + H + RPO, DUE + 3 * D),)
    assert found.worst_ms == 3 * D - D - H


def test_a_point_that_a_repository_takes_back_counts_from_that_look():
    history = nightly(3)
    history.saw(DUE + 2 * D + 2 * H, DUE + D)
    found = kept(history, T0, DUE + 3 * D)
    assert found.spans == ((DUE + D + RPO, DUE + 3 * D),)


# The same as was said all the while.

ENDS = st.tuples(
    st.integers(1, 24 * 12),
    st.integers(1, 90),
    st.sampled_from([Outcome.OK, Outcome.OK, Outcome.PARTIAL, Outcome.FAILED]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ENDS, max_size=9), st.lists(st.integers(0, 24 * 14), min_size=1, max_size=8), st.booleans())
def test_over_is_when_it_was_said_to_be(ends, hours, looked):
    history = History(job(observed=looked))
    for number, (hour, minutes, outcome) in enumerate(ends):
        at = T0 + hour * H + number
        if looked and minutes % 2:
            history.saw(at, at - 2 * H)
        else:
            history.ran(at, at + minutes * MIN, outcome=outcome)
    found = kept(history, T0, T0 + 14 * D)
    for hour in hours:
        now = T0 + hour * H + 30 * MIN + 30 * S
        level = history.state(now).facets[FacetName.FRESH].level
        over = any(a <= now < b for a, b in found.spans)
        if not looked:
            assert over == (level is BAD and now < found.until_ms)
        elif level is OK:
            assert not over


# ---------------------------------------------------------------- of a service


def of_part(from_h: int, until_h: int, *spans: tuple[int, int]) -> Kept:
    return Kept(
        rpo_ms=RPO,
        from_ms=T0 + from_h * H,
        until_ms=T0 + until_h * H,
        over_ms=sum(b - a for a, b in spans) * H,
        spans=tuple((T0 + a * H, T0 + b * H) for a, b in spans),
        worst_ms=max((b - a for a, b in spans), default=0) * H,
        unknown_ms=(100 - until_h) * H,
    )


def test_a_service_is_beyond_its_rpo_while_any_of_its_jobs_is_and_known_as_far_as_all_of_them_are():
    end_ms = T0 + 100 * H
    found = service_kept(
        [of_part(0, 100, (10, 20), (50, 60), (90, 95)), of_part(30, 80, (55, 70)), of_part(0, 90)], end_ms
    )
    assert found is not None
    assert [((a - T0) // H, (b - T0) // H) for a, b in found.spans] == [(10, 20), (50, 70)]
    assert (found.from_ms, found.until_ms) == (T0, T0 + 80 * H)
    assert (found.over_ms, found.unknown_ms, found.worst_ms) == (30 * H, 20 * H, 15 * H)
    assert found.share == pytest.approx(1 - 30 / 80)
    assert service_kept([], end_ms) is None


PARTS = st.lists(
    st.builds(
        lambda from_h, length, cuts: of_part(
            from_h,
            from_h + length,
            *(
                (a, b)
                for a, b in zip(cuts[::2], cuts[1::2], strict=False)
                if from_h <= a and b <= from_h + length
            ),
        ),
        st.integers(0, 40),
        st.integers(1, 60),
        st.lists(st.integers(0, 100), unique=True, max_size=8).map(sorted),
    ),
    min_size=1,
    max_size=4,
)


@given(PARTS)
def test_hour_by_hour_a_service_is_as_its_worst_job(parts):
    found = service_kept(parts, T0 + 100 * H)
    assert found is not None
    for hour in range(100):
        now = T0 + hour * H + 30 * MIN
        over = any(a <= now < b for part in parts for a, b in part.spans)
        assert any(a <= now < b for a, b in found.spans) == (over and now < found.until_ms)
    assert found.over_ms == sum(b - a for a, b in found.spans)
    assert found.until_ms - found.from_ms + found.unknown_ms == T0 + 100 * H - found.from_ms
