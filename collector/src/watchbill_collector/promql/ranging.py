"""Functions over range vectors: `rate`, `*_over_time` and the rest, for all series and steps at once.

A `RangeFunction` gets the windows, and its scalar arguments per step, and gives values and presence. What it
asks of the windows decides what a storage has to provide: see the table at the end.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from watchbill_collector.promql.errors import ExecutionFailed
from watchbill_collector.promql.quantiles import segment_quantiles
from watchbill_collector.promql.windows import Floats, Ints, Mask, Windows


@dataclass(frozen=True, slots=True, eq=False)
class Arguments:
    """What a range function may use: its windows, the evaluation times, and its scalars, one value a step
    each.
    """

    windows: Windows
    times_ms: Ints
    scalars: tuple[Floats, ...]


Answer = tuple[Floats, Mask]
Evaluate = Callable[[Arguments], Answer]


def _extrapolated(windows: Windows, *, counter: bool, per_second: bool) -> Answer:
    """rate, increase, delta: the difference of the ends, stretched to the window's edges as far as that is
    plausible.

    Between an edge and the first (or last) sample the series is taken to go on if the gap is less than 1.1
    average intervals, else for half an interval. A counter is not taken below zero at the start.
    """
    count, first_ms, first, last_ms, last = windows.edges()
    present = count >= 2
    ends = windows.times_ms
    result = last - first
    if counter:
        result = result + windows.drops()
    to_start = (first_ms - (ends - windows.range_ms)) / 1000
    to_end = (ends - last_ms) / 1000
    sampled = (last_ms - first_ms) / 1000
    average = sampled / (count - 1)
    threshold = average * 1.1
    half = average / 2
    to_start = np.where(to_start >= threshold, half, to_start)
    if counter:
        to_zero = np.where((result > 0) & (first >= 0), sampled * (first / result), to_start)
        to_start = np.where(to_zero < to_start, to_zero, to_start)
    to_end = np.where(to_end >= threshold, half, to_end)
    factor = (sampled + to_start + to_end) / sampled
    if per_second:
        factor = factor / (windows.range_ms / 1000)
    return result * factor, present


def _rate(args: Arguments) -> Answer:
    return _extrapolated(args.windows, counter=True, per_second=True)


def _increase(args: Arguments) -> Answer:
    return _extrapolated(args.windows, counter=True, per_second=False)


def _delta(args: Arguments) -> Answer:
    return _extrapolated(args.windows, counter=False, per_second=False)


def _irate(args: Arguments) -> Answer:
    count, before_ms, before, last_ms, last = args.windows.last_two()
    step = np.where(last < before, last, last - before)
    return step / ((last_ms - before_ms) / 1000), (count >= 2) & (last_ms != before_ms)


def _idelta(args: Arguments) -> Answer:
    count, before_ms, before, last_ms, last = args.windows.last_two()
    return last - before, (count >= 2) & (last_ms != before_ms)


def _some(windows: Windows) -> Mask:
    return windows.count() > 0


def _sum(args: Arguments) -> Answer:
    return args.windows.sum(), _some(args.windows)


def _avg(args: Arguments) -> Answer:
    return args.windows.mean(), _some(args.windows)


def _min(args: Arguments) -> Answer:
    return args.windows.minimum(), _some(args.windows)


def _max(args: Arguments) -> Answer:
    return args.windows.maximum(), _some(args.windows)


def _count(args: Arguments) -> Answer:
    count = args.windows.count()
    return count.astype(np.float64), count > 0


def _present(args: Arguments) -> Answer:
    some = _some(args.windows)
    return np.ones(some.shape), some


def _last(args: Arguments) -> Answer:
    edges = args.windows.edges()
    return edges.last, edges.samples > 0


def _first(args: Arguments) -> Answer:
    edges = args.windows.edges()
    return edges.first, edges.samples > 0


def _last_time(args: Arguments) -> Answer:
    edges = args.windows.edges()
    return edges.last_ms / 1000, edges.samples > 0


def _first_time(args: Arguments) -> Answer:
    edges = args.windows.edges()
    return edges.first_ms / 1000, edges.samples > 0


def _changes(args: Arguments) -> Answer:
    return args.windows.changes().astype(np.float64), _some(args.windows)


def _resets(args: Arguments) -> Answer:
    return args.windows.resets().astype(np.float64), _some(args.windows)


def _deriv(args: Arguments) -> Answer:
    windows = args.windows
    count, first_ms, _, _, _ = windows.edges()
    slope, _ = windows.line(first_ms)
    return slope, count >= 2


def _predict_linear(args: Arguments) -> Answer:
    windows = args.windows
    at_ms = np.broadcast_to(args.times_ms, windows.shape)
    slope, intercept = windows.line(at_ms)
    return slope * args.scalars[0] + intercept, windows.count() >= 2


def _stdvar(args: Arguments) -> Answer:
    return args.windows.variance(), _some(args.windows)


def _stddev(args: Arguments) -> Answer:
    return np.sqrt(args.windows.variance()), _some(args.windows)


def _quantile(args: Arguments) -> Answer:
    windows, q = args.windows, args.scalars[0]
    _, values, lo, _ = windows.spans()
    out = np.full(lo.size, np.nan)
    wanted = np.broadcast_to(q, windows.shape).reshape(-1)
    for number, positions, segment in windows.gathered():
        out[number] = segment_quantiles(values[positions], segment, wanted[number])
    return out.reshape(windows.shape), _some(windows)


def _mad(args: Arguments) -> Answer:
    windows = args.windows
    _, values, lo, _ = windows.spans()
    out = np.full(lo.size, np.nan)
    for number, positions, segment in windows.gathered():
        half = np.full(len(number), 0.5)
        median = segment_quantiles(values[positions], segment, half)
        out[number] = segment_quantiles(np.abs(values[positions] - median[segment]), segment, half)
    return out.reshape(windows.shape), _some(windows)


def _time_of(args: Arguments, extreme: Floats) -> Answer:
    """When the extreme was reached last; the last sample's time if all are NaN."""
    windows = args.windows
    times, values, _, _ = windows.spans()
    wanted = extreme.reshape(-1)
    out = np.full(len(wanted), -np.inf)
    for number, positions, segment in windows.gathered():
        reached = values[positions] == wanted[number][segment]
        np.maximum.at(out, number[segment[reached]], times[positions[reached]].astype(np.float64))
    edges = windows.edges()
    shaped = out.reshape(windows.shape)
    return np.where(np.isinf(shaped), edges.last_ms, shaped) / 1000, edges.samples > 0


def _time_of_max(args: Arguments) -> Answer:
    return _time_of(args, args.windows.maximum())


def _time_of_min(args: Arguments) -> Answer:
    return _time_of(args, args.windows.minimum())


def _smoothing(args: Arguments) -> Answer:
    """Holt-Winters double exponential smoothing: the level after the last sample."""
    windows, (smoothing, trend) = args.windows, args.scalars
    for name, factor in (("smoothing", smoothing), ("trend", trend)):
        bad = factor[(factor <= 0) | (factor >= 1)]  # NaN is let through, as Prometheus does.
        if len(bad) and bool((windows.count() > 0).any()):
            raise ExecutionFailed(
                f"invalid {name} factor. Expected: 0 < {name[0]}f < 1, got: {float(bad[0]):f}"
            )
    _, values, lo, hi = windows.spans()
    count = hi - lo
    padded = np.append(values, 0.0)
    level = padded[np.minimum(lo, len(values))]
    before = np.zeros(level.shape)
    slope = padded[np.minimum(lo + 1, len(values))] - level
    # One pass a sample of the longest window: the recurrence has no closed form.
    for position in range(1, int(count.max(initial=0))):
        windows.check()
        goes_on = count > position
        if position > 1:
            slope = np.where(goes_on, trend * (level - before) + (1 - trend) * slope, slope)
        value = padded[np.where(goes_on, lo + position, len(values))]
        following = smoothing * value + (1 - smoothing) * (level + slope)
        before = np.where(goes_on, level, before)
        level = np.where(goes_on, following, level)
    return level, count >= 2


@dataclass(frozen=True, slots=True)
class RangeFunction:
    """A function of a range vector. `range_arg` is the position of the range among its arguments."""

    evaluate: Evaluate
    range_arg: int = 0
    keeps_name: bool = False
    counter: bool = False


RANGE_FUNCTIONS: dict[str, RangeFunction] = {
    # edges() and drops()
    "rate": RangeFunction(_rate, counter=True),
    "increase": RangeFunction(_increase, counter=True),
    "delta": RangeFunction(_delta),
    # last_two()
    "irate": RangeFunction(_irate),
    "idelta": RangeFunction(_idelta),
    # count() and one more
    "avg_over_time": RangeFunction(_avg),
    "count_over_time": RangeFunction(_count),
    "max_over_time": RangeFunction(_max),
    "min_over_time": RangeFunction(_min),
    "present_over_time": RangeFunction(_present),
    "sum_over_time": RangeFunction(_sum),
    "changes": RangeFunction(_changes),
    "resets": RangeFunction(_resets),
    "stddev_over_time": RangeFunction(_stddev),
    "stdvar_over_time": RangeFunction(_stdvar),
    # edges()
    "first_over_time": RangeFunction(_first, keeps_name=True),
    "last_over_time": RangeFunction(_last, keeps_name=True),
    "ts_of_first_over_time": RangeFunction(_first_time),
    "ts_of_last_over_time": RangeFunction(_last_time),
    # line()
    "deriv": RangeFunction(_deriv),
    "predict_linear": RangeFunction(_predict_linear),
    # spans(): every sample
    "double_exponential_smoothing": RangeFunction(_smoothing),
    "mad_over_time": RangeFunction(_mad),
    "quantile_over_time": RangeFunction(_quantile, range_arg=1),
    "ts_of_max_over_time": RangeFunction(_time_of_max),
    "ts_of_min_over_time": RangeFunction(_time_of_min),
}
