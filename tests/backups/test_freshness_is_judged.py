"""The facet of freshness: the newest point that can be restored, against the RPO. The job's word proves the job, the
repository's the copy."""

import pytest

from watchbill.backups.definition import Copy, SizeLimits
from watchbill.backups.record import Outcome
from watchbill_collector.backups import FacetName, Standing, Word

from .histories import DUE, MIN, T0, D, H, History, S, job

OBSERVED = {"tool": "restic", "observed": True, "observe_every_s": 3600.0}


def told(history: History, now_ms: int, **how: int) -> tuple[str, str]:
    """Level and reason."""
    facet = history.state(now_ms, **how).facets[FacetName.FRESH]
    return facet.level.value, facet.reason


@pytest.mark.parametrize(
    ("age", "wanted"),
    [
        (20 * H, ("ok", "ok")),
        (int(20.8 * H) - 1, ("ok", "ok")),
        (int(20.8 * H), ("warn", "near-rpo")),
        (26 * H - 1, ("warn", "near-rpo")),
        (26 * H, ("bad", "over-rpo")),
    ],
)
def test_the_newest_point_ages(age, wanted):
    """The point is the beginning of the run, whatever was read later."""
    history = History()
    history.ran(DUE, DUE + 3 * H)
    assert history.state(DUE + 4 * H).point_ms == DUE
    assert told(history, DUE + age) == wanted


def test_stale_needs_the_host_heard_past_the_rpo_and_stays_when_it_falls_silent_after():
    history = History()
    history.ran(DUE)
    over = DUE + 26 * H
    assert told(history, over + H, heard_ms=over - 1) == ("unknown", "silent")
    assert history.state(over + H, heard_ms=over - 1).word is Word.MISSED
    assert history.state(over + H, heard_ms=DUE + D).word is Word.UNKNOWN
    assert told(history, over + 9 * D, heard_ms=over) == ("bad", "over-rpo")
    assert history.state(over + 9 * D, heard_ms=over).word is Word.STALE


def test_a_young_point_is_young_whether_its_host_is_heard_or_not():
    history = History()
    history.ran(DUE)
    assert told(history, DUE + 10 * H, heard_ms=DUE + H) == ("ok", "ok")


def test_a_job_that_never_made_a_point_has_its_rpo_to_make_one():
    history = History()
    assert told(history, T0 + 26 * H - 1) == ("unknown", "no-record")
    assert told(history, T0 + 26 * H) == ("bad", "no-point")
    assert told(history, T0 + 30 * H, heard_ms=T0 + 26 * H - 1) == ("unknown", "silent")


@pytest.mark.parametrize("outcome", [Outcome.PARTIAL, Outcome.FAILED, Outcome.UNKNOWN, Outcome.RUNNING])
def test_only_a_run_that_ended_well_makes_a_point(outcome):
    history = History()
    history.ran(DUE)
    history.ran(DUE + D, outcome=outcome)
    assert history.state(DUE + D + H).point_ms == DUE


def test_without_an_rpo_a_point_never_ages():
    history = History(job(rpo_s=0.0))
    history.ran(DUE)
    assert told(history, DUE + 900 * D) == ("ok", "not-asked")


def test_the_repository_proves_the_copy_of_a_run_that_failed():
    history = History(job(**OBSERVED))
    history.ran(DUE, outcome=Outcome.FAILED)
    history.saw(DUE + H, DUE + MIN)
    state = history.state(DUE + 2 * H)
    assert state.point_ms == DUE + MIN
    assert (state.word, state.severity) == (Word.FAILED, "minor")


def test_a_run_counts_until_the_repository_is_seen_without_it():
    history = History(job(**OBSERVED))
    history.saw(DUE - H, DUE - D)
    history.ran(DUE)
    assert history.state(DUE + 20 * MIN).point_ms == DUE
    history.saw(DUE + 20 * MIN, DUE - D, started_ms=DUE + 5 * MIN)
    assert history.state(DUE + 21 * MIN).point_ms == DUE, "it was looked at while the run went on"
    history.saw(DUE + H, DUE - D)
    state = history.state(DUE + H + MIN)
    assert state.point_ms == DUE - D
    assert (state.word, state.facets[FacetName.LEDGER].reason) == (Word.OK, "unconfirmed")
    history.saw(DUE + 90 * MIN, DUE - D)
    state = history.state(DUE + 2 * H)
    assert (state.word, state.facets[FacetName.LEDGER].reason) == (Word.SUSPECT, "unconfirmed")
    history.saw(DUE + 3 * H, DUE - D, DUE + MIN)
    state = history.state(DUE + 4 * H)
    assert state.point_ms == DUE + MIN
    assert state.word is Word.OK


def test_a_run_is_not_contradicted_by_one_copy_while_another_may_have_it():
    copies = (Copy(name="nas"), Copy(name="cloud", location="offsite"))
    history = History(job(copies=copies, **OBSERVED))
    history.ran(DUE)
    history.saw(DUE + H, DUE - D, copy="cloud")
    assert history.state(DUE + 2 * H).point_ms == DUE
    history.saw(DUE + H, DUE - D, copy="nas")
    assert history.state(DUE + 2 * H).point_ms == DUE - D
    named = History(job(copies=copies, **OBSERVED))
    named.ran(DUE, copy="nas")
    named.saw(DUE + H, DUE - D, copy="nas")
    assert named.state(DUE + 2 * H).point_ms == DUE - D


def test_a_partial_runs_snapshot_is_no_good_point_though_the_repository_shows_it():
    history = History(job(**OBSERVED))
    history.ran(DUE)
    history.ran(DUE + D, outcome=Outcome.PARTIAL)
    history.saw(DUE + D + H, DUE + MIN, DUE + D + MIN)
    assert history.state(DUE + D + 2 * H).point_ms == DUE + MIN
    named = History(job(**OBSERVED))
    named.ran(DUE + D, outcome=Outcome.PARTIAL, snapshot_id=f"snapshot-{DUE + MIN}")
    named.saw(DUE + D + H, DUE + MIN, DUE + 2 * MIN)
    assert named.state(DUE + D + 2 * H).point_ms == DUE + 2 * MIN


def test_a_time_of_the_future_is_no_freshness():
    history = History(job(**OBSERVED))
    history.saw(DUE + H, DUE, DUE + 400 * D)
    state = history.state(DUE + 2 * H)
    assert state.point_ms == DUE
    assert state.facets[FacetName.LEDGER].reason == "future"
    assert (state.word, state.severity) == (Word.SUSPECT, "critical")
    ahead = History()
    ahead.tell(history.told[0][0].kind.RUN, DUE, started_ms=DUE + 365 * D, observed_ms=DUE + 365 * D)
    state = ahead.state(DUE + H)
    assert state.point_ms == 0
    assert state.word is Word.SUSPECT


def test_a_clock_that_is_a_year_wrong_is_corrected_where_that_is_known():
    for years in (-1, 1):
        history = History(shift_ms=years * 365 * D)
        history.ran(DUE)
        state = history.state(DUE + H)
        assert (state.word, state.point_ms) == (Word.OK, DUE)


def test_what_cannot_be_restored_is_stale_at_once():
    history = History(job(**OBSERVED))
    history.ran(DUE)
    history.saw(DUE + H, DUE, outcome=Outcome.FAILED, reason="wal-missing", point_ms=0)
    state = history.state(DUE + 2 * H)
    assert (state.word, state.facets[FacetName.FRESH].reason) == (Word.STALE, "not-restorable")
    assert "wal-missing" in state.why


def test_a_repository_that_cannot_be_read_takes_nothing_back_and_its_age_is_unknown_later():
    history = History(job(**OBSERVED))
    history.saw(DUE + H, DUE)
    for hour in range(2, 60):
        history.unread(DUE + hour * H)
    assert told(history, DUE + 20 * H) == ("ok", "ok")
    assert told(history, DUE + 29 * H) == ("unknown", "unreadable")
    state = history.state(DUE + 40 * H)
    assert state.word is Word.UNKNOWN
    assert "repository-locked" in state.facets[FacetName.FRESH].text
    assert "unreadable" in state.facets[FacetName.RUN].reason


def test_a_job_that_only_its_repository_tells_of_is_missed_when_the_repository_was_read_without_it():
    history = History(job(**OBSERVED))
    history.saw(DUE + H, DUE)
    at = DUE + D
    for hour in range(1, 30):
        history.saw(DUE + hour * H, DUE)
    assert history.state(at + 20 * MIN).facets[FacetName.RUN].reason == "seen-in-repository"
    assert history.state(at + 40 * MIN).facets[FacetName.RUN].reason == "late"
    assert history.state(at + 89 * MIN).facets[FacetName.RUN].reason == "late"
    assert history.state(at + 2 * H + MIN).facets[FacetName.RUN].reason == "missed"


def test_a_backup_that_was_not_told_of_is_found_in_the_repository():
    history = History(job(**OBSERVED))
    history.ran(DUE, outcome=Outcome.FAILED)
    history.saw(DUE + D + H, DUE + D + 10 * MIN)
    facet = history.state(DUE + D + 2 * H).facets[FacetName.RUN]
    assert facet.reason == "seen-in-repository"


def test_a_repository_that_is_written_to_says_that_it_is_running():
    history = History(job(**OBSERVED))
    history.saw(DUE + 20 * MIN, DUE - D, outcome=Outcome.RUNNING)
    state = history.state(DUE + 25 * MIN)
    assert state.word is Word.RUNNING
    assert history.state(DUE + 10 * H).word is not Word.RUNNING


def test_a_late_observation_does_not_hide_a_newer_one():
    history = History(job(**OBSERVED))
    history.saw(DUE + D + H, DUE, DUE + D)
    history.saw(DUE + H, DUE, arrived_ms=DUE + 3 * D)
    assert history.state(DUE + 3 * D + H).point_ms == DUE + D
    assert history.evidence(DUE + 4 * D).late == 1


def test_a_pause_and_what_was_due_in_it():
    history = History(job(rpo_s=0.0))
    history.ran(DUE)
    until = DUE + 2 * D + H
    history.standing = Standing(T0, paused_until_ms=until, paused_by="ann", paused_why="moving the NAS")
    state = history.state(DUE + D + H)
    assert (state.word, state.quiet, state.severity) == (Word.PAUSED, True, "")
    assert "ann" in state.why
    assert "moving the NAS" in state.why
    assert state.next_ms <= until
    assert history.state(until).word is Word.OK
    assert history.state(DUE + 3 * D + H).word is Word.MISSED


def test_a_retired_hosts_job_asks_for_nothing_more():
    history = History()
    history.ran(DUE)
    history.standing = Standing(T0, retired=True)
    state = history.state(DUE + 90 * D)
    assert (state.word, state.quiet, state.next_ms) == (Word.RETIRED, True, 0)


def test_seconds_do_not_matter_to_a_host_that_lags():
    history = History()
    history.ran(DUE)
    over = DUE + 26 * H
    state = history.state(over + S, heard_ms=over - S)
    assert state.facets[FacetName.FRESH].reason == "near-rpo"
    assert state.wants_ms == over


def test_logs_that_are_stored_make_the_point_newer_and_no_backup_of_it():
    """As pgBackRest says it: the base backups are the snapshots, the point follows the log."""
    history = History(job(size=SizeLimits(drop=0.3), **OBSERVED))
    for hour in range(1, 30):
        history.saw(DUE + hour * H, DUE, point_ms=DUE + hour * H - MIN, bytes_source=100)
    state = history.state(DUE + 29 * H + MIN)
    assert state.point_ms == DUE + 29 * H - MIN
    assert state.facets[FacetName.FRESH].reason == "ok"
    assert state.word is Word.MISSED
    assert state.facets[FacetName.SIZE].reason == "little-history", "one backup was seen, however often"
    history.ran(DUE + 30 * H)
    history.saw(DUE + 33 * H, DUE, point_ms=DUE + 32 * H)
    assert history.state(DUE + 34 * H).facets[FacetName.LEDGER].reason == "unconfirmed"
