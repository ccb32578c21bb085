"""When a check is due, and what of its looks is published."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchbill_agent.checks.check import Outcome, Verdict
from watchbill_agent.checks.course import (
    TELLING_EVERY_S,
    TELLINGS_AT_ONCE,
    Course,
    Telling,
    phase_of,
)

OK, WARNING, CRITICAL, UNKNOWN = (Outcome(verdict) for verdict in Verdict)


@given(
    interval_s=st.floats(1, 86_400),
    phase=st.floats(0, 0.999),
    now_s=st.floats(0, 1e7),
    waits=st.lists(st.floats(0, 1e5), max_size=20),
)
def test_a_check_is_always_due_again_within_its_interval_and_a_little(interval_s, phase, now_s, waits):
    course = Course(interval_s, phase, now_s)
    for wait_s in waits:
        assert now_s < course.due_s <= now_s + 1.11 * interval_s
        now_s = max(now_s, course.due_s) + wait_s
        assert course.ended(OK, now_s)


def test_checks_of_one_interval_are_spread_over_it_and_stay_where_they_are():
    phases = [phase_of("host", f"check-{number}") for number in range(200)]
    dues = [Course(10, phase, 1000.0).due_s % 10 for phase in phases]
    assert all(sum(low <= due < low + 1 for due in dues) in range(8, 40) for low in range(10))
    assert phases == [phase_of("host", f"check-{number}") for number in range(200)]


def test_a_look_that_began_on_time_is_followed_by_the_next_point_of_the_grid():
    course = Course(10, 0.5, 0.0)
    assert course.due_s == 5.0
    course.ended(OK, 5.2)
    assert course.due_s == pytest.approx(15.0)
    course.ended(OK, 24.0)  # It took long: the point at 25 is too close to be a look of its own.
    assert course.due_s == pytest.approx(25.0)
    course.ended(OK, 34.9)
    assert course.due_s == pytest.approx(45.0)


def test_a_look_that_came_to_nothing_is_followed_by_the_next_of_the_grid():
    course = Course(10, 0.0, 0.0)
    course.skip(10.1)
    assert course.due_s == pytest.approx(20.0)


@pytest.mark.parametrize("bad", [CRITICAL, UNKNOWN])
def test_what_was_well_is_looked_at_again_before_it_is_called_failed(bad):
    course = Course(60, 0.0, 0.0, retries=2, retry_every_s=1.0)
    assert course.ended(OK, 60.0)
    assert not course.ended(bad, 120.0)
    assert course.due_s == 121.0
    assert not course.ended(bad, 121.5)
    assert course.ended(bad, 122.5)
    assert course.due_s == pytest.approx(180.0)
    assert course.ended(bad, 180.0), "what is failed needs no proof that it still is"
    assert course.ended(OK, 240.0), "what looks well is well at once"


def test_one_look_that_is_well_ends_the_looking_again():
    course = Course(60, 0.0, 0.0, retries=2)
    assert not course.ended(CRITICAL, 60.0)
    assert course.ended(OK, 61.0)
    assert not course.ended(CRITICAL, 120.0)
    assert not course.ended(CRITICAL, 121.0)
    assert course.ended(CRITICAL, 122.0)


def test_a_warning_is_published_at_once():
    assert Course(60, 0.0, 0.0, retries=5).ended(WARNING, 60.0)


def test_what_an_earlier_process_called_failed_is_not_looked_at_again_first():
    assert Course(60, 0.0, 0.0, retries=5, known=Verdict.CRITICAL).ended(CRITICAL, 1.0)
    assert not Course(60, 0.0, 0.0, retries=5, known=None).ended(CRITICAL, 1.0)


def test_changes_are_told_once_with_what_was_told_before():
    telling = Telling()
    assert telling.change(Verdict.OK, "", 0.0) == ("", True)
    assert telling.change(Verdict.OK, "", 1.0) == ("ok", False)
    assert telling.change(Verdict.CRITICAL, "timeout", 2.0) == ("ok", True)
    assert telling.change(Verdict.CRITICAL, "refused", 3.0) == ("critical", True)
    assert Telling((Verdict.CRITICAL, "refused")).change(Verdict.OK, "", 0.0) == ("critical", True)


@given(st.lists(st.sampled_from(list(Verdict)), min_size=1, max_size=500))
def test_what_flaps_is_told_a_bounded_number_of_times_and_how_it_stands_in_the_end_is_told(verdicts):
    telling = Telling()
    told = sum(telling.change(verdict, "", float(second))[1] for second, verdict in enumerate(verdicts))
    assert told <= TELLINGS_AT_ONCE + len(verdicts) / TELLING_EVERY_S + 1
    later = len(verdicts) + 2 * TELLING_EVERY_S
    telling.change(verdicts[-1], "", later)
    assert telling.told == (verdicts[-1], "")
