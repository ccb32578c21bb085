"""What a heartbeat's silence means: late, missed, failed, too long, and nobody knows."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchbill.backups.schedule import Schedule
from watchbill_agent.checks.beats import (
    FAILED,
    GAPS_MAX,
    LATE,
    MISSED,
    NEW,
    ON_TIME,
    TOO_LONG,
    UNHEARD,
    WORDS,
    Heart,
    Terms,
    judge,
)

H = 3_600_000
M = 60_000
DAY0 = 1_700_006_400_000  # A midnight, UTC.
EVERY = Terms(Schedule(every_s=3600), 10 * M, 20 * M)
CRON = Terms(Schedule(cron="0 2 * * *"), 30 * M, 60 * M)


def heart(*heard, since_ms=DAY0, listened=True):
    made = Heart(since_ms=since_ms)
    made.listen(since_ms, H)
    for what, at_ms, *code in heard:
        if listened:
            made.listened_ms = at_ms
        made.hear(what, code[0] if code else None, at_ms)
    return made


@pytest.mark.parametrize(
    ("heard", "terms", "after_ms", "wanted"),
    [
        ([], EVERY, 59 * M, NEW),
        ([], EVERY, 69 * M, NEW),
        ([], EVERY, 71 * M, MISSED),
        ([("success", DAY0)], EVERY, 60 * M, ON_TIME),
        ([("success", DAY0)], EVERY, 61 * M, LATE),
        ([("success", DAY0)], EVERY, 70 * M, LATE),
        ([("success", DAY0)], EVERY, 71 * M, MISSED),
        ([("success", DAY0), ("fail", DAY0 + M, 3)], EVERY, 2 * M, FAILED),
        ([("fail", DAY0), ("success", DAY0 + M)], EVERY, 2 * M, ON_TIME),
        ([("fail", DAY0), ("start", DAY0 + M)], EVERY, 2 * M, FAILED),
        ([("success", DAY0), ("log", DAY0 + 50 * M)], EVERY, 71 * M, MISSED),
        ([("start", DAY0)], EVERY, 20 * M, ON_TIME),
        ([("start", DAY0)], EVERY, 21 * M, TOO_LONG),
        ([("success", DAY0), ("start", DAY0 + 65 * M)], EVERY, 80 * M, ON_TIME),
        ([("success", DAY0), ("start", DAY0 + 65 * M)], EVERY, 86 * M, TOO_LONG),
        ([("success", DAY0 + H)], CRON, 2 * H, ON_TIME),
        ([("success", DAY0 + H)], CRON, 2 * H + 1, LATE),
        ([("success", DAY0 + H)], CRON, 2 * H + 31 * M, MISSED),
        ([("success", DAY0 + 2 * H + M)], CRON, 26 * H, ON_TIME),
        ([("success", DAY0 + 2 * H + M)], CRON, 26 * H + 31 * M, MISSED),
    ],
)
def test_silence_is_judged_by_the_schedule(heard, terms, after_ms, wanted):
    made = heart(*heard)
    assert judge(made, terms, DAY0 + after_ms).reason == wanted


@pytest.mark.parametrize(
    ("gap", "now_ms", "wanted"),
    [
        ((H + 50 * M, 2 * H + 40 * M), 2 * H + 45 * M, UNHEARD),  # It may have come while nobody listened.
        ((H + 50 * M, 2 * H + 10 * M), 2 * H + 20 * M, LATE),  # It may come still.
        ((H + 50 * M, 2 * H + 10 * M), 2 * H + 45 * M, UNHEARD),
        ((H + 50 * M, 2 * H + 10 * M), 26 * H + 30 * M, UNHEARD),
        ((H + 50 * M, 2 * H + 10 * M), 26 * H + 31 * M, MISSED),  # It had another chance.
        ((2 * H + 31 * M, 3 * H), 3 * H, MISSED),  # It was missed before.
        ((20 * M, 40 * M), 2 * H + 31 * M, MISSED),  # It has been heard since.
    ],
)
def test_silence_while_nobody_listened_is_unknown_and_not_missed(gap, now_ms, wanted):
    made = Heart(since_ms=DAY0)
    made.listen(DAY0 + gap[0], 5 * M)
    if gap[0] < H:
        made.listen(DAY0 + gap[1], 5 * M)
        made.listened_ms = DAY0 + H
    made.hear("success", None, DAY0 + H)
    if gap[0] >= H:
        made.listen(DAY0 + gap[1], 5 * M)
    made.listened_ms = DAY0 + now_ms
    made.listen(DAY0 + now_ms, 5 * M)
    assert judge(made, CRON, DAY0 + now_ms).reason == wanted


def test_a_run_says_how_long_it_took():
    made = heart(("start", DAY0), ("success", DAY0 + 90_000, 0))
    assert (made.duration_ms, made.code, made.started_ms) == (90_000, 0, 0)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["look", *WORDS]), st.integers(0, 3 * H)), max_size=30
    )
)  # fmt: skip
def test_what_is_remembered_judges_as_what_was(steps):
    made, now_ms = Heart(), DAY0
    for what, after_ms in steps:
        now_ms += after_ms
        made.listen(now_ms, 5 * M)
        if what != "look":
            made.hear(what, None, now_ms)
        assert len(made.gaps) <= GAPS_MAX
        again = Heart.of(made.document())
        assert judge(again, EVERY, now_ms) == judge(made, EVERY, now_ms)


def test_a_memory_that_does_not_fit_is_left():
    odd = {
        "ok_ms": "x",
        "since_ms": -1,
        "pings": {"start": "many", "odd": 1},
        "gaps": [1, [2], [3, 4]],
        "code": None,
    }
    made = Heart.of(odd)
    assert (made.ok_ms, made.since_ms, made.gaps, made.pings["start"]) == (0, 0, [(3, 4)], 0)
