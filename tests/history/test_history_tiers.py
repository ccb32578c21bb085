"""Statistics of steps agree with counting by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchbill_collector.history.tiers import condense, condense_ragged, keeps_readings
from watchbill_collector.history.values import Piece, Samples, Tier
from watchbill_collector.series import STALE, STALE_BITS

MINUTE = Tier.MINUTE.value


def by_hand(times: list[int], values: list[float], before: float = math.nan) -> dict[int, list[float]]:
    steps: dict[int, list[float]] = {}
    last = before
    for time, value in zip(times, values, strict=True):
        if np.float64(value).view(np.uint64) == STALE_BITS:
            continue
        end = -(-time // MINUTE) * MINUTE
        grown = 0.0 if math.isnan(last) or math.isnan(value) else (value - last if value >= last else value)
        known = steps.get(end)
        if known is None:
            steps[end] = [value, value, value, 1.0, value, grown]
        else:
            known[0] = np.fmin(known[0], value)
            known[1] = np.fmax(known[1], value)
            known[2] += value
            known[3] += 1
            known[4] = value
            known[5] += grown
        last = value
    return steps


VALUE = st.one_of(st.integers(0, 1000).map(float), st.just(math.nan), st.just(float(STALE)), st.just(0.25))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 400_000), VALUE), unique_by=lambda pair: pair[0], max_size=30))
def test_ragged_statistics_agree_with_counting(drawn: list[tuple[int, float]]) -> None:
    times, values = [t for t, _ in sorted(drawn)], [v for _, v in sorted(drawn)]
    samples = Samples(np.array(times, np.int64), np.array(values, np.float64), np.array([0, 0, len(times)]))
    made = condense_ragged(samples, Tier.MINUTE)
    wanted = by_hand(times, values)
    assert made.offsets.tolist() == [0, 0, len(wanted)]
    assert made.times.tolist() == sorted(wanted)
    columns = [made.minimum, made.maximum, made.total, made.count, made.last, made.increase]
    for row, end in enumerate(sorted(wanted)):
        np.testing.assert_allclose([column[row] for column in columns], wanted[end])


@pytest.mark.parametrize("odd", [False, True])
def test_rectangular_statistics_agree_with_counting(odd: bool) -> None:
    random = np.random.default_rng(5)
    times = 1_000_000 + np.cumsum(random.integers(500, 1500, 400))
    values = np.round(random.random((400, 4)) * 50, 2)
    values[:, 1] = np.cumsum(random.integers(0, 9, 400)) % 700
    present = None
    if odd:
        values[7, 2] = math.nan
        values[399, 3] = STALE
        present = random.random(values.shape) < 0.7
        present[:150, 0] = False
    before = np.array([3.0, math.nan, 1.0, 2.0])
    piece = Piece(np.arange(4, dtype=np.uint32), times, values, present)
    made = condense(piece, MINUTE, np.array([100.0, 1.0, 100.0, 100.0]), np.zeros(4, np.bool_), before)
    rows = made.statistics.reshape(len(made.ends), 6, 4)
    known = np.ones((len(made.ends), 24), np.bool_) if made.present is None else made.present
    for series in range(4):
        there = np.ones(400, np.bool_) if present is None else present[:, series]
        wanted = by_hand(times[there].tolist(), values[there, series].tolist(), before[series])
        step = np.flatnonzero(known[:, series])
        assert made.ends[step].tolist() == sorted(wanted)
        for at in step.tolist():
            np.testing.assert_allclose(rows[at, :, series], wanted[int(made.ends[at])], rtol=1e-9, atol=1e-9)


def test_a_reading_at_the_full_minute_ends_its_step() -> None:
    samples = Samples(np.array([60_000, 60_001]), np.array([1.0, 2.0]), np.array([0, 2]))
    assert condense_ragged(samples, Tier.MINUTE).times.tolist() == [60_000, 120_000]


def test_a_gauge_has_no_increase_and_sums_of_decimals_stay_decimals() -> None:
    piece = Piece(np.arange(2, dtype=np.uint32), np.array([1000, 2000, 3000]), np.array([[0.1, 5.0]] * 3))
    gauges = np.array([True, False])
    made = condense(piece, MINUTE, np.array([10.0, 1.0]), gauges, np.full(2, math.nan))
    assert made.statistics[0, 4] == 0.3
    assert math.isnan(made.statistics[0, 10])
    assert made.statistics[0, 11] == 0.0


def test_slow_lists_keep_their_readings() -> None:
    def every(seconds: int) -> Piece:
        times = np.arange(1, 3_600_001, seconds * 1000)
        return Piece(np.arange(1, dtype=np.uint32), times, np.zeros((len(times), 1)))

    assert keeps_readings(every(15), MINUTE)
    assert keeps_readings(every(10), MINUTE)
    assert not keeps_readings(every(1), MINUTE)
