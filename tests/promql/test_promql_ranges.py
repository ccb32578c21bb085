"""Range functions against a slow reference in plain Python, window edges, stale markers."""

import itertools
import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from watchbill_collector.labels import LabelFrame
from watchbill_collector.promql import windows
from watchbill_collector.promql.budget import Budget
from watchbill_collector.promql.engine import Engine, InstantVector, Matrix
from watchbill_collector.promql.errors import TimedOut
from watchbill_collector.promql.memory import MemoryStorage
from watchbill_collector.promql.storage import series_set
from watchbill_collector.promql.windows import Ragged
from watchbill_collector.series import STALE

Sample = tuple[int, float]
ENGINE = Engine()


def _increase(samples: list[Sample], start: int, end: int, *, counter: bool) -> float | None:
    """As Prometheus documents it, sample by sample."""
    if len(samples) < 2:
        return None
    (first_ms, first), (last_ms, last) = samples[0], samples[-1]
    result = last - first
    if counter:
        for (_, before), (_, after) in pairwise(samples):
            if after < before:
                result += before
    sampled = (last_ms - first_ms) / 1000
    average = sampled / (len(samples) - 1)
    to_start, to_end = (first_ms - start) / 1000, (end - last_ms) / 1000
    if to_start >= average * 1.1:
        to_start = average / 2
    if counter and result > 0 and first >= 0:
        to_start = min(to_start, sampled * (first / result))
    if to_end >= average * 1.1:
        to_end = average / 2
    return result * ((sampled + to_start + to_end) / sampled)


def _rate(samples: list[Sample], start: int, end: int) -> float | None:
    grown = _increase(samples, start, end, counter=True)
    return None if grown is None else grown / ((end - start) / 1000)


def _irate(samples: list[Sample]) -> float | None:
    if len(samples) < 2:
        return None
    (before_ms, before), (last_ms, last) = samples[-2:]
    return (last if last < before else last - before) / ((last_ms - before_ms) / 1000)


def _line(samples: list[Sample], at_ms: int) -> tuple[float, float] | None:
    if len(samples) < 2:
        return None
    if all(value == samples[0][1] for _, value in samples):
        return 0.0, samples[0][1]
    xs = [(time - at_ms) / 1000 for time, _ in samples]
    ys = [value for _, value in samples]
    n = len(xs)
    covariance = math.fsum(x * y for x, y in zip(xs, ys, strict=True)) - math.fsum(xs) * math.fsum(ys) / n
    variance = math.fsum(x * x for x in xs) - math.fsum(xs) ** 2 / n
    slope = covariance / variance
    return slope, math.fsum(ys) / n - slope * math.fsum(xs) / n


def _quantile(q: float, values: list[float]) -> float:
    ordered = sorted(values)
    rank = q * (len(ordered) - 1)
    low = math.floor(rank)
    high = min(len(ordered) - 1, low + 1)
    return ordered[low] * (1 - (rank - low)) + ordered[high] * (rank - low)


def _values(function: Callable[[list[float]], float]) -> Callable[[list[Sample], int, int], float | None]:
    return lambda samples, start, end: function([value for _, value in samples]) if samples else None


def _steps(condition: Callable[[float, float], bool]) -> Callable[[list[float]], float]:
    return lambda values: float(sum(condition(a, b) for a, b in pairwise(values)))


def _variance(values: list[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / len(values)


REFERENCE: dict[str, Callable[[list[Sample], int, int], float | None]] = {
    "rate(m[R])": _rate,
    "increase(m[R])": lambda samples, start, end: _increase(samples, start, end, counter=True),
    "delta(m[R])": lambda samples, start, end: _increase(samples, start, end, counter=False),
    "irate(m[R])": lambda samples, start, end: _irate(samples),
    "idelta(m[R])": lambda samples, start, end: samples[-1][1] - samples[-2][1] if len(samples) > 1 else None,
    "deriv(m[R])": lambda samples, start, end: (
        _line(samples, samples[0][0]) if len(samples) > 1 else (None,)
    )[0],
    "sum_over_time(m[R])": _values(math.fsum),
    "avg_over_time(m[R])": _values(lambda values: math.fsum(values) / len(values)),
    "min_over_time(m[R])": _values(min),
    "max_over_time(m[R])": _values(max),
    "count_over_time(m[R])": _values(lambda values: float(len(values))),
    "last_over_time(m[R])": _values(lambda values: values[-1]),
    "first_over_time(m[R])": _values(lambda values: values[0]),
    "present_over_time(m[R])": _values(lambda values: 1.0),
    "stdvar_over_time(m[R])": _values(_variance),
    "stddev_over_time(m[R])": _values(lambda values: math.sqrt(_variance(values))),
    "changes(m[R])": _values(_steps(lambda a, b: a != b)),
    "resets(m[R])": _values(_steps(lambda a, b: b < a)),
    "quantile_over_time(0.3, m[R])": _values(lambda values: _quantile(0.3, values)),
    "mad_over_time(m[R])": _values(
        lambda values: _quantile(0.5, [abs(value - _quantile(0.5, values)) for value in values])
    ),
}


@st.composite
def _series(draw: st.DrawFn) -> list[Sample]:
    """Samples at odd distances: runs, gaps, resets, repeats."""
    times, time = [], draw(st.integers(0, 40_000))
    for gap in draw(st.lists(st.sampled_from([1, 999, 5_000, 10_000, 15_000, 15_001, 90_000]), max_size=25)):
        times.append(time)
        time += gap
    values = draw(
        st.lists(
            st.one_of(st.integers(0, 20).map(float), st.floats(-1e6, 1e6)),
            min_size=len(times),
            max_size=len(times),
        )
    )
    return list(zip(times, values, strict=True))


def _window(samples: list[Sample], start: int, end: int) -> list[Sample]:
    return [(time, value) for time, value in samples if start < time <= end]


def _storage(many: list[list[Sample]]) -> MemoryStorage:
    storage = MemoryStorage()
    for number, samples in enumerate(many):
        storage.add({"__name__": "m", "i": str(number)}, samples)
    return storage


@pytest.mark.parametrize("expression", REFERENCE)
@settings(max_examples=60, deadline=None)
@given(
    many=st.lists(_series(), min_size=1, max_size=4),
    range_ms=st.sampled_from([5_000, 15_000, 60_000, 300_000]),
    start_ms=st.integers(0, 200_000),
    step_ms=st.sampled_from([1_000, 7_000, 15_000, 60_000]),
    steps=st.integers(1, 12),
)
@example(
    many=[[(0, 1.0), (15_000, 2.0), (30_000, 3.0)]], range_ms=15_000, start_ms=15_000, step_ms=15_000, steps=3
)
def test_a_range_function_is_what_the_reference_says(
    expression: str, many: list[list[Sample]], range_ms: int, start_ms: int, step_ms: int, steps: int
) -> None:
    storage = _storage(many)
    text = expression.replace("R", f"{range_ms}ms")
    end_ms = start_ms + (steps - 1) * step_ms
    times = range(start_ms, end_ms + 1, step_ms)
    want = {
        (str(number), time): value
        for number, samples in enumerate(many)
        for time in times
        if (value := REFERENCE[expression](_window(samples, time - range_ms, time), time - range_ms, time))
        is not None
    }
    answer = ENGINE.range(text, start_ms, end_ms, step_ms, storage).data
    assert isinstance(answer, Matrix)
    _assert_close(_points(answer), want)
    single = ENGINE.instant(text, start_ms, storage).data
    assert isinstance(single, InstantVector)
    got = {(labels["i"], start_ms): value for labels, value in single}
    _assert_close(got, {key: value for key, value in want.items() if key[1] == start_ms})


def _points(answer: Matrix) -> dict[tuple[str, int], float]:
    out = {}
    for row, labels in enumerate(answer.labels.dicts()):
        for at in range(int(answer.offsets[row]), int(answer.offsets[row + 1])):
            out[labels["i"], int(answer.times_ms[at])] = float(answer.values[at])
    return out


def _assert_close(got: dict[tuple[str, int], float], want: dict[tuple[str, int], float]) -> None:
    assert got.keys() == want.keys()
    for key, value in want.items():
        assert got[key] == pytest.approx(value, rel=1e-9, abs=1e-6), key


def _instant(expression: str, time_ms: int, storage: MemoryStorage) -> dict[str, float]:
    answer = ENGINE.instant(expression, time_ms, storage).data
    assert isinstance(answer, InstantVector)
    return {labels.get("i", ""): value for labels, value in answer}


def test_a_window_is_open_at_its_start_and_closed_at_its_end() -> None:
    storage = _storage([[(0, 1.0), (60_000, 2.0), (120_000, 3.0)]])
    assert _instant("count_over_time(m[1m])", 60_000, storage) == {"0": 1.0}
    assert _instant("count_over_time(m[1m])", 59_999, storage) == {"0": 1.0}
    assert _instant("sum_over_time(m[2m])", 120_000, storage) == {"0": 5.0}
    assert _instant("rate(m[1m])", 120_000, storage) == {}


def test_an_instant_looks_back_five_minutes_and_not_a_millisecond_more() -> None:
    storage = _storage([[(0, 7.0)]])
    assert _instant("m", 299_999, storage) == {"0": 7.0}
    assert _instant("m", 300_000, storage) == {}
    assert _instant("m", -1, storage) == {}
    answer = ENGINE.instant("m", 299_999, storage, lookback_ms=60_000)
    assert len(answer.vector()) == 0


def test_a_stale_marker_ends_a_series_for_selectors_and_is_no_sample_for_windows() -> None:
    storage = _storage([[(0, 1.0), (60_000, STALE), (120_000, 5.0)]])
    assert _instant("m", 59_999, storage) == {"0": 1.0}
    assert _instant("m", 60_000, storage) == {}
    assert _instant("m", 119_999, storage) == {}
    assert _instant("m", 120_000, storage) == {"0": 5.0}
    assert _instant("count_over_time(m[10m])", 120_000, storage) == {"0": 2.0}
    assert _instant("delta(m[2m1s])", 120_000, storage) == {"0": pytest.approx(4 * 121 / 120)}


def test_a_plain_nan_is_a_value_and_no_stale_marker() -> None:
    storage = _storage([[(0, math.nan), (60_000, 1.0), (120_000, math.nan)]])
    assert math.isnan(_instant("m", 120_000, storage)["0"])
    assert _instant("count_over_time(m[5m])", 120_000, storage) == {"0": 3.0}
    assert _instant("max_over_time(m[5m])", 120_000, storage) == {"0": 1.0}
    assert math.isnan(_instant("sum_over_time(m[5m])", 120_000, storage)["0"])
    assert math.isnan(_instant("min_over_time(m[1m])", 120_000, storage)["0"])


@pytest.mark.parametrize(
    ("values", "total", "mean"),
    [
        ([1.0, 1e100, 1.0, -1e100], 2.0, 0.5),
        ([0.1] * 10, 1.0, 0.1),
        ([1e308, 1e308, 1e308], math.inf, 1e308),
        ([9.988465674311579e307, -9.988465674311579e307], 0.0, 0.0),
        ([math.inf, 1.0], math.inf, math.inf),
        ([-math.inf, 1.0], -math.inf, -math.inf),
        ([math.inf, -math.inf], math.nan, math.nan),
        ([1e16, 1.0, -1e16], 1.0, 1 / 3),
    ],
)
def test_sums_and_means_lose_nothing_to_cancellation_or_overflow(
    values: list[float], total: float, mean: float
) -> None:
    in_time = _storage([[(number * 1000, value) for number, value in enumerate(values)]])
    in_space = _storage([[(0, value)] for value in values])
    for expression, want in (
        ("sum_over_time(m[1m])", total),
        ("avg_over_time(m[1m])", mean),
        ("sum(m)", total),
        ("avg(m)", mean),
    ):
        storage = in_time if "time" in expression else in_space
        answer = ENGINE.instant(expression, 20_000, storage).vector().values
        assert answer[0] == pytest.approx(want, nan_ok=True, rel=1e-15), expression


def test_smoothing_weighs_level_and_trend() -> None:
    storage = _storage([[(number * 10_000, float(number * 10)) for number in range(1, 101)]])
    # A straight line is its own smoothing.
    got = _instant("double_exponential_smoothing(m[1h], 0.01, 0.1)", 1_000_000, storage)
    assert got == {"0": pytest.approx(1000)}


def test_subquery_steps_are_multiples_of_the_step_whatever_the_query_starts_at() -> None:
    storage = _storage([[(number * 1000, float(number)) for number in range(101)]])
    assert _instant("count_over_time(m[30s:10s])", 95_000, storage) == {"0": 3.0}
    assert _instant("max_over_time(m[30s:10s])", 95_000, storage) == {"0": 90.0}
    assert _instant("min_over_time(m[30s:10s])", 100_000, storage) == {"0": 80.0}
    assert _instant("max_over_time(m[30s:10s] offset 20s)", 95_000, storage) == {"0": 70.0}
    assert _instant("max_over_time(m[30s:10s] @ 50)", 95_000, storage) == {"0": 50.0}


def test_searching_windows_falls_back_when_times_are_too_far_apart() -> None:
    far = 1 << 61
    ragged = Ragged(np.array([0, far, 0, far]), np.arange(4.0), np.array([0, 2, 4]))
    assert ragged.up_to(np.array([-1, 0, far])).tolist() == [[0, 1, 2], [2, 3, 4]]


def test_samples_outside_the_range_asked_for_are_ignored() -> None:
    found = series_set(LabelFrame.of([{"a": "1"}]), [([0, 10, 20, 30], [1.0, 2.0, 3.0, 4.0])])
    windows = found.windows(np.array([20]), 15)
    assert windows.count().tolist() == [[2]]
    assert windows.sum().tolist() == [[5.0]]
    slope, value = windows.line(np.array([[20]]))
    assert slope.tolist() == [[pytest.approx(100.0)]]
    assert value.tolist() == [[pytest.approx(3.0)]]
    assert windows.variance().tolist() == [[0.25]]


@pytest.mark.parametrize(
    "function",
    [
        "quantile_over_time(0.5, {})",
        "mad_over_time({})",
        "stdvar_over_time({})",
        "deriv({})",
        "ts_of_max_over_time({})",
    ],
)
def test_long_work_on_one_series_sees_that_its_time_is_up(
    function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "_GATHERED_MAX", 100)
    storage = _storage([[(number * 1000, float(number)) for number in range(600)]])
    ticks = itertools.count()
    budget = Budget(deadline_s=100, monotonic=lambda: next(ticks))
    with pytest.raises(TimedOut):
        Engine().range(function.format("m[1m]"), 0, 600_000, 1_000, storage, budget)
