"""Series quotas, clock offsets and byte buckets, with a clock that is moved by hand."""

import numpy as np
import pytest

from watchbill.limits import NEW_SERIES_PER_MINUTE_MAX, SERIES_PER_AGENT_MAX
from watchbill_collector.ingest.agents import Agent, Bucket
from watchbill_collector.ingest.dictionaries import HostSeries

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000


def keys(first: int, count: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.arange(first, first + count, dtype=np.int32)


def keep(agent: Agent, name: bytes, some: np.ndarray) -> None:  # type: ignore[type-arg]
    agent.keep_series(name, HostSeries(len(some), some.astype(np.uint32), None, some))


def test_the_first_dictionaries_count_against_the_number_of_series_alone() -> None:
    agent = Agent("a", 0)
    assert agent.allowance(keys(0, 9_000), 0) == (None, [])
    keep(agent, b"1", keys(0, 9_000))
    assert agent.allowance(keys(9_000, 9_000), 30) == (None, [])


def test_new_series_later_are_limited_to_so_many_a_minute() -> None:
    agent = Agent("a", 0)
    agent.allowance(keys(0, 100), 0)
    keep(agent, b"1", keys(0, 100))
    allowed, refused = agent.allowance(keys(0, 3_100), 100)
    assert refused == [("new_series_rate", 1_000)]
    assert allowed is not None
    assert int(allowed.sum()) == 100 + NEW_SERIES_PER_MINUTE_MAX
    assert bool(allowed[:100].all()), "what it had stays"
    assert agent.allowance(keys(10_000, 10), 100)[1] == [("new_series_rate", 10)]
    assert agent.allowance(keys(10_000, 10), 130) == (None, [])


def test_series_beyond_the_quota_are_refused_and_the_old_ones_kept() -> None:
    agent = Agent("a", 0)
    agent.allowance(keys(0, 19_990), 0)
    keep(agent, b"1", keys(0, 19_990))
    allowed, refused = agent.allowance(keys(19_980, 30), 1)
    assert refused == [("series_quota", 10)]
    assert allowed is not None
    assert allowed.tolist() == [True] * 20 + [False] * 10
    assert agent.series_count() <= SERIES_PER_AGENT_MAX


def test_series_that_are_known_are_never_new_again() -> None:
    agent = Agent("a", 0)
    agent.allowance(keys(0, 5_000), 0)
    keep(agent, b"1", keys(0, 5_000))
    assert agent.allowance(keys(0, 5_000), 1_000) == (None, [])


@pytest.mark.parametrize(
    ("skew_ms", "believed"), [(0, True), (999, True), (-999, True), (5_000, False), (-(10**12), False)]
)
def test_a_hosts_clock_is_believed_when_it_agrees(skew_ms: int, believed: bool) -> None:
    agent = Agent("a", 0)
    now_ms = 1_700_000_000_000
    offset = agent.offset("boot", now_ms + skew_ms, 50_000, now_ms)
    assert offset + 50_000 == (now_ms + skew_ms if believed else now_ms)
    assert agent.skew_s == skew_ms / 1000


def test_a_date_that_is_set_in_the_middle_of_a_session_shows() -> None:
    agent = Agent("a", 0)
    agent.offset("boot", 1_700_000_000_400, 50_000, 1_700_000_000_000)
    assert agent.skew_s == 0.4
    agent.clock_ms = 1_700_003_600_400 - 50_000
    assert agent.skew_s == 3600.4
    agent.tell_clock(1_700_000_010_000, 60_000, 1_700_000_010_000)
    assert agent.skew_s == 0


def test_a_boot_keeps_its_offset_over_sessions_so_that_a_repeated_record_has_the_same_time() -> None:
    agent = Agent("a", 0)
    first = agent.offset("boot", 1_000_000, 50_000, 1_000_000)
    assert agent.offset("boot", 1_060_400, 110_000, 1_060_300) == first
    assert agent.offset("other", 1_000_000, 10, 1_000_000) != first
    assert agent.offset_of_boot("boot") == first
    assert agent.offset_of_boot("never seen") is None


@pytest.mark.parametrize(
    ("clock_now_ms", "wall_then_ms", "taken_at_ms"),
    [
        # A clock that is an hour slow, before the machine was switched off as after it.
        (NOW_MS - HOUR_MS, NOW_MS - 9 * HOUR_MS, NOW_MS - 8 * HOUR_MS),
        # One that begins in 1970 at every boot: when it was, nobody knows, and it was not in this boot.
        (60_000, 3_000_000, 3_000_000),
        # One that was right then, and has lost its battery since.
        (60_000, NOW_MS - 9 * HOUR_MS, NOW_MS - 9 * HOUR_MS),
    ],
)
def test_readings_of_a_boot_that_was_never_seen_do_not_land_in_the_present_one(
    clock_now_ms: int, wall_then_ms: int, taken_at_ms: int
) -> None:
    agent = Agent("a", 0)
    booted_ms = agent.offset("boot", clock_now_ms, 60_000, NOW_MS)
    assert booted_ms == NOW_MS - 60_000
    assert agent.time_by_wall(wall_then_ms, booted_ms) == taken_at_ms


def test_a_bucket_may_be_overdrawn_once_and_then_says_how_long_to_wait() -> None:
    bucket = Bucket(100, 1_000, 0)
    assert bucket.take(1_500, 0) == -500
    assert bucket.wait_s(0) == 5
    assert bucket.wait_s(6) == 0
    assert bucket.level(1_000) == 1_000
