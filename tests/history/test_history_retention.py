"""Retention's idea of time, and what it lets go of."""

from watchbill_collector.history.retention import (
    CATCH_UP,
    JUMP_MS,
    PATIENCE_MS,
    Reference,
    hour_is_over,
    over_size,
    too_old,
)
from watchbill_collector.history.values import DAY_MS, HOUR_MS, MINUTE_MS

NOW = 20_000 * DAY_MS
YEAR_MS = 365 * DAY_MS


def run(reference: Reference, wall_ms: int, newest_ms: int, hours: float) -> Reference:
    """Look at standing clocks every minute of uptime."""
    for _ in range(round(hours * 60)):
        reference = reference.moved(wall_ms, newest_ms, reference.boottime_ms + MINUTE_MS)
        wall_ms += MINUTE_MS
        newest_ms += MINUTE_MS
    return reference


def test_the_reference_follows_an_honest_clock() -> None:
    reference = run(Reference(NOW, 0), NOW + MINUTE_MS, NOW + MINUTE_MS, 24)
    assert abs(reference.at_ms - (NOW + DAY_MS)) <= MINUTE_MS
    assert reference.doubted_since_ms is None


def test_the_reference_is_never_ahead_of_the_newest_reading() -> None:
    assert Reference(NOW, 0).moved(NOW + DAY_MS, NOW + HOUR_MS, 1000).at_ms == NOW + HOUR_MS


def test_a_clock_ten_years_ahead_deletes_nothing() -> None:
    for newest in (NOW, NOW + 10 * YEAR_MS):
        reference = run(Reference(NOW, 0), NOW + 10 * YEAR_MS, newest, 12)
        assert reference.at_ms <= NOW + 12 * HOUR_MS + MINUTE_MS
        back = reference.moved(NOW + 12 * HOUR_MS, NOW + 12 * HOUR_MS, reference.boottime_ms + MINUTE_MS)
        assert back.doubted_since_ms is None


def test_a_clock_ten_years_back_deletes_nothing_and_does_not_move_it() -> None:
    reference = run(Reference(NOW, 0), NOW - 10 * YEAR_MS, NOW, 12)
    assert reference.at_ms == NOW


def test_a_jump_that_stands_is_believed_slowly() -> None:
    jumped = NOW + 60 * DAY_MS
    doubting = run(Reference(NOW, 0), jumped, jumped, PATIENCE_MS / HOUR_MS)
    assert doubting.doubted_since_ms is not None
    assert doubting.at_ms <= NOW + PATIENCE_MS + MINUTE_MS
    moving = run(doubting, jumped + PATIENCE_MS, jumped + PATIENCE_MS, 1)
    assert moving.at_ms - doubting.at_ms <= (CATCH_UP + 1) * HOUR_MS
    there = run(moving, jumped + PATIENCE_MS + HOUR_MS, jumped + PATIENCE_MS + HOUR_MS, 70)
    assert there.doubted_since_ms is None


def test_a_weekend_switched_off_is_no_jump() -> None:
    later = NOW + JUMP_MS - MINUTE_MS
    assert Reference(NOW, 0).moved(later, later, MINUTE_MS).at_ms == later


def test_only_whole_days_beyond_what_is_kept_go() -> None:
    days = [10, 11, 12, 13]
    assert too_old(days, DAY_MS, 13 * DAY_MS) == [10]
    assert too_old(days, DAY_MS, 13 * DAY_MS + 1) == [10, 11]
    assert too_old(days, 0, 10_000 * DAY_MS) == []


def test_the_size_cap_spares_the_newest_two_days() -> None:
    sizes = {1: 10, 2: 10, 3: 10, 4: 10}
    assert over_size(sizes, 40, 4) == []
    assert over_size(sizes, 25, 4) == [1, 2]
    assert over_size(sizes, 0, 4) == [1, 2]


def test_an_hour_is_merged_when_its_readings_can_be_expected() -> None:
    assert not hour_is_over(5, 6 * HOUR_MS + 5 * MINUTE_MS)
    assert hour_is_over(5, 6 * HOUR_MS + 6 * MINUTE_MS)
