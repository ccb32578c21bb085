"""The facet of runs: due, late, missed, running, how it ended. A silent host is unknown, never missed."""

import pytest

from watchbill.backups.record import Outcome, Source
from watchbill.backups.schedule import Schedule
from watchbill_collector.backups import FacetName, Level, Standing, Word, due_ms_of

from .histories import DUE, MIN, T0, D, H, History, S, job

RUN = "ab" * 16


def told(history: History, now_ms: int, **how: int) -> tuple[str, str, str]:
    """Word, level and reason."""
    state = history.state(now_ms, **how)
    facet = state.facets[FacetName.RUN]
    return state.word.value, facet.level.value, facet.reason


def test_a_run_that_ended_well_is_ok_until_the_next_is_due():
    history = History()
    history.ran(DUE + S)
    assert told(history, DUE + 11 * MIN) == ("OK", "ok", "ok")
    assert told(history, DUE + D) == ("OK", "ok", "ok")
    assert told(history, DUE + D + 59 * S) == ("OK", "ok", "ok")
    assert told(history, DUE + D + MIN) == ("LATE", "warn", "late")


@pytest.mark.parametrize(
    ("after", "heard", "wanted"),
    [
        (30 * S, 30 * S, ("NEW", "unknown", "no-run")),
        (MIN, MIN, ("LATE", "warn", "late")),
        (30 * MIN - S, 30 * MIN - S, ("LATE", "warn", "late")),
        (30 * MIN, 30 * MIN, ("MISSED", "bad", "missed")),
        (30 * MIN + 10 * S, 30 * MIN - S, ("LATE", "warn", "late")),
        (34 * MIN, 30 * MIN - S, ("LATE", "warn", "late")),
        (35 * MIN, 30 * MIN - S, ("UNKNOWN", "unknown", "silent")),
        (20 * H, -1 * H, ("UNKNOWN", "unknown", "silent")),
        (20 * H, 30 * MIN - S, ("UNKNOWN", "unknown", "silent")),
        (20 * H, 30 * MIN, ("MISSED", "bad", "missed")),
    ],
)
def test_missed_needs_the_host_heard_past_the_grace(after, heard, wanted):
    """`heard`: the watermark, both from when it was due."""
    assert told(History(), DUE + after, heard_ms=DUE + heard) == wanted


def test_what_arrives_days_late_is_judged_by_when_it_happened():
    history = History()
    history.ran(DUE + S, arrived_ms=DUE + 12 * H)
    assert told(history, DUE + 6 * H) == ("MISSED", "bad", "missed")
    assert told(history, DUE + 12 * H) == ("OK", "ok", "ok")


def test_a_silent_host_that_comes_back_tells_whether_it_missed():
    history = History()
    history.ran(DUE + S)
    away = DUE + D + H
    assert told(history, away, heard_ms=DUE + H)[0] == "UNKNOWN"
    assert told(history, away, heard_ms=away)[0] == "MISSED"
    history.ran(DUE + D, arrived_ms=away)
    assert told(history, away, heard_ms=away)[0] == "OK"


def test_nothing_was_missed_before_the_job_was_there():
    history = History()
    assert told(history, T0 + H) == ("NEW", "unknown", "no-run")


def test_a_wrapped_run_is_running_while_it_is_heard_and_lost_when_it_is_not():
    history = History()
    for minute in range(20):
        history.goes_on(DUE, DUE + minute * MIN, RUN)
    assert told(history, DUE + 20 * MIN) == ("RUNNING", "warn", "running")
    assert told(history, DUE + 24 * MIN) == ("FAILED", "bad", "no-end")
    assert told(history, DUE + 23 * MIN, heard_ms=DUE + 20 * MIN) == ("RUNNING", "warn", "running")
    assert told(history, DUE + 30 * MIN, heard_ms=DUE + 20 * MIN) == ("UNKNOWN", "unknown", "silent")
    history.ran(DUE, DUE + 30 * MIN, run_id=RUN)
    state = history.state(DUE + 31 * MIN)
    assert state.word is Word.OK
    assert state.last_run is not None
    assert state.last_run.duration_ms == 30 * MIN


def test_a_run_that_tells_no_heartbeats_is_given_a_day():
    history = History()
    history.goes_on(DUE, DUE, RUN, source=Source.PING)
    assert told(history, DUE + 23 * H)[2] == "running"
    assert told(history, DUE + 24 * H)[2] == "no-end"


def test_over_its_longest_duration_it_is_bad_while_it_runs_and_a_warning_once_it_ended_well():
    history = History(job(max_duration_s=3600.0))
    for minute in range(75):
        history.goes_on(DUE, DUE + minute * MIN, RUN)
    assert told(history, DUE + 59 * MIN) == ("RUNNING", "warn", "running")
    assert told(history, DUE + 61 * MIN) == ("FAILED", "bad", "over-max-duration")
    history.ran(DUE, DUE + 75 * MIN, run_id=RUN)
    assert told(history, DUE + 76 * MIN) == ("OK", "warn", "took-too-long")


@pytest.mark.parametrize(
    ("outcome", "given", "wanted", "says"),
    [
        (Outcome.FAILED, {"exit_code": 3}, ("FAILED", "bad", "failed"), "exit code 3"),
        (Outcome.FAILED, {"signal": 9}, ("FAILED", "bad", "failed"), "signal 9"),
        (Outcome.FAILED, {"errors": ("disk full",)}, ("FAILED", "bad", "failed"), "disk full"),
        (Outcome.PARTIAL, {"files_failed": 7}, ("PARTIAL", "warn", "partial"), "7 files failed"),
        (Outcome.UNKNOWN, {}, ("UNKNOWN", "unknown", "outcome-unknown"), "does not say"),
    ],
)
def test_how_it_ended_is_said(outcome, given, wanted, says):
    history = History()
    history.ran(DUE - D, arrived_ms=T0 + S)
    history.ran(DUE, outcome=outcome, **given)
    assert told(history, DUE + H) == wanted
    assert says in history.state(DUE + H).facets[FacetName.RUN].text


def test_a_failed_run_inside_the_rpo_is_minor_and_one_outside_is_critical():
    history = History()
    history.ran(DUE)
    history.ran(DUE + D, outcome=Outcome.FAILED)
    state = history.state(DUE + D + H)
    assert (state.word, state.severity) == (Word.FAILED, "minor")
    state = history.state(DUE + 26 * H + S)
    assert (state.word, state.severity) == (Word.STALE, "critical")


def test_a_later_run_that_ended_well_makes_good_for_one_that_failed():
    history = History()
    history.ran(DUE, outcome=Outcome.FAILED)
    history.ran(DUE + H)
    assert told(history, DUE + 2 * H) == ("OK", "ok", "ok")


def test_what_failed_or_was_missed_is_not_late_again_but_still_that():
    history = History()
    history.ran(DUE, outcome=Outcome.FAILED)
    assert told(history, DUE + D + 10 * MIN)[2] == "failed"
    assert told(history, DUE + D + 30 * MIN)[2] == "missed"
    for minute in (1, 10, 31):
        assert told(history, DUE + 2 * D + minute * MIN)[2] == "missed"


def test_every_counts_from_the_beginning_of_the_last_run():
    history = History(job(schedule=Schedule(every_s=6 * 3600.0), start_grace_s=600.0))
    assert told(history, T0 + 6 * H) == ("NEW", "unknown", "no-run")
    assert told(history, T0 + 6 * H + MIN) == ("LATE", "warn", "late")
    assert told(history, T0 + 6 * H + 10 * MIN) == ("MISSED", "bad", "missed")
    history.ran(T0 + 7 * H)
    assert told(history, T0 + 13 * H)[0] == "OK"
    assert told(history, T0 + 13 * H + 9 * MIN)[0] == "LATE"


def test_a_calendar_event_is_a_schedule_too():
    history = History(job(schedule=Schedule(calendar="Mon..Fri 02:15")))
    history.ran(DUE)
    assert told(history, DUE + D + H)[0] == "MISSED"


def test_without_a_schedule_nothing_is_ever_missed():
    history = History(job(schedule=Schedule(), rpo_s=0.0))
    history.ran(DUE)
    assert told(history, DUE + 365 * D) == ("OK", "ok", "ok")


def test_a_run_may_begin_a_little_before_it_was_due_by_another_clock():
    history = History()
    history.ran(DUE - 4 * MIN)
    assert told(history, DUE + H)[0] == "OK"
    early = History()
    early.ran(DUE - 6 * MIN, DUE - 4 * MIN)
    assert told(early, DUE + H)[0] == "MISSED"


def test_a_changed_schedule_asks_for_nothing_that_was_due_before_it():
    history = History(job(schedule=Schedule(cron="0 20 * * *")))
    history.ran(DUE)
    assert told(history, DUE + 10 * H)[0] == "OK"
    assert told(history, DUE + 19 * H)[0] == "MISSED"
    history.standing = Standing(defined_ms=T0, scheduled_ms=T0 + 32 * H + 1)
    assert told(history, DUE + 19 * H)[0] == "OK"


def test_the_level_of_the_whole_is_that_of_the_worst_facet():
    history = History()
    assert history.state(DUE + H).level is Level.BAD


def test_what_was_due_while_the_one_before_still_ran_was_not_missed():
    history = History(job(rpo_s=0.0))
    history.ran(DUE, DUE + 26 * H)
    assert told(history, DUE + 27 * H) == ("OK", "ok", "ok")
    assert told(history, DUE + 2 * D + H) == ("MISSED", "bad", "missed")


# What was bad when a run began stays bad until one ended well.

AGAIN = "cd" * 16


def going_on(history: History, start_ms: int, minutes: int = 20, run: str = AGAIN) -> None:
    for minute in range(minutes):
        history.goes_on(start_ms, start_ms + minute * MIN, run)


@pytest.mark.parametrize(
    ("outcome", "wanted"),
    [
        (Outcome.FAILED, ("FAILED", "bad", "failed")),
        (Outcome.PARTIAL, ("PARTIAL", "warn", "partial")),
        (Outcome.OK, ("RUNNING", "warn", "running")),
        (Outcome.UNKNOWN, ("RUNNING", "warn", "running")),
    ],
)
def test_while_it_is_tried_again_it_is_what_it_was(outcome, wanted):
    history = History()
    history.ran(DUE - D, arrived_ms=T0 + S)
    history.ran(DUE, outcome=outcome)
    going_on(history, DUE + H)
    assert told(history, DUE + H + 10 * MIN) == wanted
    text = history.state(DUE + H + 10 * MIN).facets[FacetName.RUN].text
    assert text.endswith("running since 2026-06-02 03:15 UTC")
    history.ran(DUE + H, DUE + H + 20 * MIN, run_id=AGAIN)
    assert told(history, DUE + H + 21 * MIN) == ("OK", "ok", "ok")


def test_one_failure_after_the_other_is_one_alert():
    history = History()
    for number in range(4):
        history.ran(DUE + number * H, outcome=Outcome.FAILED)
        going_on(history, DUE + number * H + 30 * MIN, 5, f"{number:032x}")
    for minute in range(11, 240):
        assert told(history, DUE + minute * MIN)[0] == "FAILED", minute


def test_what_was_missed_is_missed_until_a_late_run_ended_well():
    history = History(job(rpo_s=0.0))
    history.ran(DUE)
    assert told(history, DUE + D + 30 * MIN)[0] == "MISSED"
    going_on(history, DUE + D + 2 * H)
    assert told(history, DUE + D + 2 * H + MIN) == ("MISSED", "bad", "missed")
    # Heard only until before it could be missed, nobody may say so.
    silent = history.state(DUE + D + 2 * H + MIN, heard_ms=DUE + D + 29 * MIN)
    assert silent.facets[FacetName.RUN].reason != "missed"
    history.ran(DUE + D + 2 * H, DUE + D + 2 * H + 20 * MIN, run_id=AGAIN)
    assert told(history, DUE + D + 3 * H)[0] == "OK"


def test_what_was_missed_is_missed_while_the_next_one_that_is_due_runs():
    history = History(job(rpo_s=0.0))
    history.ran(DUE)
    going_on(history, DUE + 2 * D + S)
    assert told(history, DUE + 2 * D + 10 * MIN) == ("MISSED", "bad", "missed")
    # Also once another one was due: a run of many days.
    for hour in range(60):
        history.goes_on(DUE + 2 * D + S, DUE + 2 * D + hour * H, AGAIN)
    assert told(history, DUE + 4 * D + 11 * H + MIN) == ("MISSED", "bad", "missed")


def test_a_run_within_its_grace_was_not_missed():
    history = History(job(rpo_s=0.0))
    history.ran(DUE)
    going_on(history, DUE + D + 29 * MIN)
    assert told(history, DUE + D + 35 * MIN) == ("RUNNING", "warn", "running")


def test_every_that_came_too_late_was_missed():
    history = History(job(schedule=Schedule(every_s=6 * 3600.0), start_grace_s=600.0))
    going_on(history, T0 + 6 * H + 10 * MIN)
    assert told(history, T0 + 6 * H + 11 * MIN) == ("MISSED", "bad", "missed")
    history.standing = Standing(defined_ms=T0, paused_until_ms=T0 + H)
    assert told(history, T0 + 6 * H + 11 * MIN)[0] == "RUNNING"


def test_a_run_that_was_killed_is_failed_while_it_is_tried_again():
    history = History()
    going_on(history, DUE, 3, RUN)
    assert told(history, DUE + 8 * MIN) == ("FAILED", "bad", "no-end")
    going_on(history, DUE + 20 * MIN)
    assert told(history, DUE + 21 * MIN) == ("FAILED", "bad", "no-end")
    history.ran(DUE + 20 * MIN, DUE + 40 * MIN, run_id=AGAIN)
    assert told(history, DUE + 41 * MIN)[0] == "OK"


def test_what_two_runs_at_once_found_bad_stays_bad():
    history = History()
    history.ran(DUE, outcome=Outcome.FAILED)
    history.goes_on(DUE + H, DUE + H, RUN, source=Source.PING)
    going_on(history, DUE + 2 * H)
    assert told(history, DUE + 2 * H + MIN) == ("FAILED", "bad", "failed")


def test_a_failed_run_stays_failed_while_its_host_falls_silent_in_the_next():
    history = History()
    history.ran(DUE, outcome=Outcome.FAILED)
    going_on(history, DUE + H, 2)
    assert told(history, DUE + 2 * H, heard_ms=DUE + H + MIN) == ("FAILED", "bad", "failed")


def test_a_snapshot_that_nobody_told_of_makes_good_for_a_failed_run_and_ones_own_does_not():
    history = History(job(observed=True))
    history.saw(DUE - H, DUE - D)
    history.ran(DUE, outcome=Outcome.FAILED)
    going_on(history, DUE + 2 * H, 60)
    history.saw(DUE + 2 * H + 30 * MIN, DUE - D, DUE + 2 * H + MIN)
    assert told(history, DUE + 2 * H + 31 * MIN) == ("FAILED", "bad", "failed")
    history.saw(DUE + 2 * H + 40 * MIN, DUE - D, DUE + H, DUE + 2 * H + MIN)
    assert told(history, DUE + 2 * H + 41 * MIN) == ("RUNNING", "warn", "running")


def test_of_a_repository_alone_what_was_missed_stays_missed_while_a_late_run_is_seen():
    history = History(job(rpo_s=0.0, observed=True, observe_every_s=3600.0, start_grace_s=1800.0))
    history.saw(DUE + H, DUE)
    history.saw(DUE + D + H, DUE)
    history.saw(DUE + D + 2 * H, DUE)
    assert told(history, DUE + D + 2 * H + MIN) == ("MISSED", "bad", "missed")
    history.saw(DUE + D + 3 * H, DUE, outcome=Outcome.RUNNING)
    assert told(history, DUE + D + 3 * H + MIN) == ("MISSED", "bad", "missed")
    in_time = History(history.definition)
    in_time.saw(DUE + H, DUE)
    for hour in (1, 2, 3):
        in_time.saw(DUE + D + hour * H, DUE, outcome=Outcome.RUNNING)
    assert told(in_time, DUE + D + 3 * H + MIN) == ("RUNNING", "warn", "running")


@pytest.mark.parametrize(
    ("schedule", "runs", "wanted"),
    [
        (Schedule(every_s=6 * 3600.0), [], T0 + 6 * H),
        (Schedule(every_s=6 * 3600.0), [DUE], DUE + 6 * H),
        (Schedule(every_s=6 * 3600.0), [DUE, DUE - H], DUE + 6 * H),
        (Schedule(cron="15 2 * * *"), [DUE], DUE + D),
        (Schedule(), [DUE], 0),
    ],
)
def test_when_it_is_to_run_next(schedule, runs, wanted):
    history = History(job(schedule=schedule))
    for start_ms in runs:
        history.ran(start_ms)
    now = DUE + 9 * H
    assert due_ms_of(history.definition, history.evidence(now), history.standing, now) == wanted


def test_every_counts_from_a_snapshot_and_from_the_end_of_a_pause_too():
    history = History(job(schedule=Schedule(every_s=6 * 3600.0), observed=True))
    history.saw(DUE + 2 * H, DUE + H)
    evidence = history.evidence(DUE + 3 * H)
    assert due_ms_of(history.definition, evidence, history.standing, DUE + 3 * H) == DUE + 7 * H
    paused = Standing(defined_ms=T0, paused_until_ms=DUE + 4 * H)
    assert due_ms_of(history.definition, evidence, paused, DUE + 3 * H) == DUE + 10 * H
