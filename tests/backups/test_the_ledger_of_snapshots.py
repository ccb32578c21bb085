"""The facet of the ledger: what vanished from a repository, and whether retention explains it."""

from dataclasses import replace

import msgspec
import pytest

from watchbill.backups.definition import Copy, Retention
from watchbill.backups.record import PARTS_MAX, Kind, Snapshots
from watchbill.backups.schedule import Schedule
from watchbill_collector.backups import FacetName, Standing, Word
from watchbill_collector.backups.evidence import COPIES_KEPT
from watchbill_collector.backups.ledger import VANISHINGS_KEPT

from .histories import DUE, T0, D, H, History, job

MONTH = Retention(keep_s=30 * 86400.0, min_copies=3)


def made(retention: Retention = MONTH, every_s: float = 0.0) -> History:
    """A job that is only looked at; now and then, unless `every_s` says how often."""
    return History(
        job(retention=retention, observed=True, observe_every_s=every_s, rpo_s=0.0, schedule=Schedule())
    )


def days(*numbers: int) -> list[int]:
    return [DUE + number * D for number in numbers]


def told(history: History, now_ms: int) -> tuple[str, str]:
    facet = history.state(now_ms).facets[FacetName.LEDGER]
    return facet.level.value, facet.reason


def daily(history: History, last: int, *, keep: int = 30) -> None:
    """A snapshot a day, looked at an hour later, kept so many days."""
    for day in range(last + 1):
        history.saw(DUE + day * D + H, *days(*range(max(0, day - keep + 1), day + 1)))


def test_the_first_look_knows_nothing_of_what_was_there():
    history = made(Retention())
    history.saw(DUE, *days(0))
    assert told(history, DUE + H // 2) == ("unknown", "first-observation")
    history.saw(DUE + H, *days(0), listed=False)
    assert told(history, DUE + 2 * H) == ("ok", "ok")


def test_snapshots_leave_by_retention_day_after_day():
    history = made()
    daily(history, 70)
    assert told(history, DUE + 70 * D + 2 * H) == ("ok", "ok")


@pytest.mark.parametrize(
    ("left", "wanted"),
    [
        (range(2, 40), ("ok", "ok")),
        (range(12, 40), ("bad", "vanished")),
        (range(38, 40), ("bad", "vanished")),
        ([*range(10, 20), *range(21, 40)], ("bad", "vanished")),
        ([], ("bad", "vanished")),
        (range(10, 39), ("bad", "vanished")),
    ],
)
def test_what_vanishes_before_retention_allows_is_a_security_alarm(left, wanted):
    """After 40 daily snapshots of which the last 30 are kept: the youngest that may go is 29 days old, within slack."""
    history = made()
    daily(history, 39, keep=40)
    history.saw(DUE + 39 * D + 2 * H, *days(*left))
    state = history.state(DUE + 39 * D + 3 * H)
    assert told(history, DUE + 39 * D + 3 * H) == wanted
    if wanted[0] == "bad":
        assert (state.word, state.severity) == (Word.SUSPECT, "critical")
        assert "vanished" in state.why
        assert "attack" in state.advice


def test_the_alarm_stays_though_the_repository_is_quiet_again_and_until_retention_would_have_taken_them():
    history = made()
    daily(history, 39)
    history.saw(DUE + 39 * D + 2 * H, *days(*range(10, 30), *range(31, 40)))
    for day in range(40, 90):
        kept = [number for number in range(day - 29, day + 1) if number != 30]
        history.saw(DUE + day * D + H, *days(*kept))
    assert told(history, DUE + 60 * D + 2 * H) == ("bad", "vanished")
    assert told(history, DUE + 71 * D) == ("ok", "ok")


def test_a_review_settles_what_vanished_before_it():
    history = made()
    daily(history, 39)
    at = DUE + 39 * D + 2 * H
    history.saw(at, *days(*range(20, 40)))
    history.standing = Standing(T0, reviewed_ms=at + H)
    assert told(history, at + 2 * H) == ("ok", "ok")
    history.saw(at + 3 * H, *days(*range(30, 40)))
    assert told(history, at + 4 * H) == ("bad", "vanished")


def test_snapshots_that_come_back_had_not_vanished():
    history = made()
    daily(history, 39)
    at = DUE + 39 * D
    history.saw(at + 2 * H, *days(*range(20, 40)))
    assert told(history, at + 150 * 60_000) == ("bad", "vanished")
    history.saw(at + 3 * H, *days(*range(10, 40)))
    assert told(history, at + 4 * H) == ("ok", "ok")


def test_where_no_retention_is_stated_the_newest_never_leaves():
    history = made(Retention())
    history.saw(DUE + D, *days(0, 1))
    history.saw(DUE + 2 * D, *days(1, 2))
    history.saw(DUE + 2 * D + H, *days(2))
    assert told(history, DUE + 3 * D) == ("ok", "ok")
    history.saw(DUE + 3 * D + H)
    assert told(history, DUE + 3 * D + 2 * H) == ("bad", "vanished")


def test_one_file_that_is_written_over_is_no_vanished_snapshot():
    history = made(Retention())
    for day in range(5):
        history.saw(DUE + day * D + H, *days(day))
    assert told(history, DUE + 5 * D) == ("ok", "ok")


def test_an_hour_less_in_spring_is_within_slack():
    history = made(Retention(keep_s=7 * 86400.0, min_copies=1))
    daily(history, 8, keep=20)
    history.saw(DUE + 8 * D, *days(*range(1, 9)))
    assert told(history, DUE + 8 * D + 2 * H)[0] != "bad"


def test_few_are_a_warning_until_there_are_enough_and_when_nothing_new_comes():
    history = made(Retention(keep_s=10 * 86400.0, min_copies=3))
    history.saw(DUE + H, *days(0))
    assert told(history, DUE + 2 * H) == ("warn", "few")
    assert history.state(DUE + 2 * H).word is Word.OK
    daily(history, 5)
    assert told(history, DUE + 5 * D + 2 * H) == ("ok", "ok")
    assert told(history, DUE + 13 * D - H) == ("ok", "ok")
    assert told(history, DUE + 13 * D) == ("warn", "few")


def test_another_repository_in_its_place_is_told_as_that():
    history = made()
    history.saw(DUE + H, *days(0, 1), repo_id="aaaa")
    history.saw(DUE + 2 * H, DUE + H, repo_id="bbbb")
    assert told(history, DUE + 3 * H) == ("bad", "repository-replaced")


def test_a_host_that_sets_its_clock_ahead_does_not_age_its_snapshots():
    """What is corrected counts: the snapshot was a day old when it went, whatever the host says."""
    history = made()
    daily(history, 39)
    late = DUE + 39 * D + 2 * H
    kept = tuple((f"snapshot-{at}", at + 365 * D) for at in days(39))
    found = Snapshots(
        count=1, oldest_ms=kept[0][1], newest_ms=kept[0][1], ids_digest="new", parts=1, listed=kept
    )
    record = history.saw(late)
    history.told.pop()
    evidence = history.evidence(late)
    evidence.add(
        msgspec.structs.replace(record, observed_ms=late + 365 * D, snapshots=found, point_ms=kept[0][1]),
        late + 1000,
        -365 * D,
    )
    gone = evidence.copies[""].ledger.vanishings[-1]
    assert gone.age_ms == late - DUE - 38 * D


def parts(history: History, at_ms: int, times: list[int], count: int, order: list[int]) -> None:
    """A list in parts."""
    size = -(-len(times) // count)
    for part in order:
        listed = tuple((f"snapshot-{time_ms}", time_ms) for time_ms in times[part * size : (part + 1) * size])
        history.tell(
            Kind.OBSERVE,
            at_ms,
            point_ms=max(times),
            snapshots=Snapshots(
                count=len(times),
                oldest_ms=min(times),
                newest_ms=max(times),
                ids_digest=f"{at_ms}",
                part=part,
                parts=count,
                listed=listed,
            ),
        )


def test_a_list_in_parts_is_compared_once_it_is_whole():
    history = made(Retention())
    parts(history, DUE, days(*range(-30, 0)), 3, [0, 1])
    assert told(history, DUE + H) == ("unknown", "list-not-told")
    parts(history, DUE, days(*range(-30, 0)), 3, [2])
    parts(history, DUE + H, days(*range(-30, 1)), 3, [2, 0, 1])
    assert told(history, DUE + 2 * H) == ("ok", "ok")
    parts(history, DUE + 2 * H, days(*range(-30, -1)), 3, [1, 1, 0])
    assert told(history, DUE + 3 * H) == ("unknown", "list-not-told")
    parts(history, DUE + 2 * H, days(*range(-30, -1)), 3, [2])
    assert told(history, DUE + 3 * H) == ("bad", "vanished")
    assert PARTS_MAX >= 3


def test_of_more_snapshots_than_are_listed_those_beyond_the_list_did_not_vanish():
    history = made()
    times = days(*range(-40, 0))
    for at, known in ((DUE, times[-30:]), (DUE + H, times[-20:])):
        history.tell(
            Kind.OBSERVE,
            at,
            snapshots=Snapshots(
                count=40,
                oldest_ms=times[0],
                newest_ms=times[-1],
                ids_digest=f"{at}",
                parts=1,
                listed=tuple((f"s{time_ms}", time_ms) for time_ms in known),
            ),
        )
    assert told(history, DUE + 2 * H) == ("ok", "ok")


def test_ten_thousand_snapshots_are_a_ledger_like_any_other():
    history = made(Retention())
    times = [DUE - number * H for number in range(10_000)]
    parts(history, DUE, times, 10, list(range(10)))
    parts(history, DUE + H, [DUE + H // 2, *times], 11, list(range(11)))
    state = history.state(DUE + 2 * H)
    assert state.facets[FacetName.LEDGER].level.value == "ok"
    assert state.snapshots == 10_001


def test_what_is_remembered_of_vanishings_is_bounded_and_keeps_the_worst():
    history = made()
    daily(history, 39)
    history.saw(DUE + 39 * D + 2 * H, *days(*range(10, 38), 39))
    for day in range(40, 60):
        history.saw(DUE + day * D + H, *days(*(n for n in range(day - 29, day + 1) if n != 38)))
    evidence = history.evidence(DUE + 60 * D)
    assert len(evidence.copies[""].ledger.vanishings) == VANISHINGS_KEPT
    assert told(history, DUE + 60 * D) == ("bad", "vanished")


def test_copies_beyond_the_bound_are_left_out_and_counted():
    history = made()
    for number in range(COPIES_KEPT + 5):
        history.saw(DUE + number, *days(0), copy=f"copy-{number}")
    evidence = history.evidence(DUE + H)
    assert len(evidence.copies) == COPIES_KEPT
    assert evidence.strange == 5


def test_a_repository_that_cannot_be_read_is_unknown_though_its_runs_end_well():
    history = History(job(observed=True, observe_every_s=3600.0))
    history.ran(DUE)
    history.saw(DUE + H, DUE)
    history.saw(DUE + 2 * H, DUE)
    for hour in range(3, 12):
        history.unread(DUE + hour * H, "needs-runner")
    assert told(history, DUE + 4 * H) == ("ok", "ok")
    state = history.state(DUE + 5 * H)
    assert (state.word, state.facets[FacetName.LEDGER].reason) == (Word.UNKNOWN, "unreadable")
    assert "needs-runner" in state.why
    assert state.point_ms == DUE
    history.saw(DUE + 12 * H, DUE)
    assert history.state(DUE + 13 * H).word is Word.OK
    state = history.state(DUE + 20 * H, heard_ms=DUE + 13 * H)
    assert (state.word, state.facets[FacetName.LEDGER].reason) == (Word.OK, "silent")


def test_a_lock_that_is_always_there_is_a_warning():
    history = made(Retention())
    for hour in range(1, 27):
        history.saw(DUE + hour * H, *days(0), repo_locked=True)
    assert told(history, DUE + 25 * H - 1) == ("ok", "ok")
    assert told(history, DUE + 26 * H) == ("warn", "locked")
    history.saw(DUE + 27 * H, *days(0), repo_locked=False)
    assert told(history, DUE + 28 * H) == ("ok", "ok")


def test_a_copy_that_the_job_does_not_have_any_more_is_not_asked_for():
    nas, cloud = Copy(name="nas"), Copy(name="cloud")
    history = made(Retention(), 3600.0)
    history.saw(DUE - D, *days(-9))
    history.saw(DUE, *days(-2), copy="old")
    for hour in range(1, 9):
        history.saw(DUE + hour * H, *days(0), copy="nas")
    assert history.state(DUE + 9 * H).word is Word.UNKNOWN
    history.definition = replace(history.definition, copies=(nas, cloud))
    assert told(history, DUE + 9 * H) == ("ok", "ok")
    assert history.state(DUE + 9 * H).word is Word.OK
