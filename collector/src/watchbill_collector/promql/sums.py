"""Sums and means of many segments at once, as exact as compensated summation.

Prometheus adds with Kahan's compensation, in Neumaier's variant. Doing that sample by sample is slow in
numpy, so the sum is taken in extended precision (80 bits on x86-64) together with the sum of magnitudes; that
times the square root of the count is the size its rounding errors add up to. Segments where it is too large
(heavy cancellation) are added again exactly with `math.fsum`; those where the sum of magnitudes overflows are
added again one by one, for there the result depends on the order.
"""

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_EXTENDED_EPSILON = float(np.finfo(np.longdouble).eps)
_RELATIVE_ERROR_MAX = 1e-15
"""An extended sum is good enough under this error; float64 itself has 1.1e-16."""


def segment_sums(padded: Floats, lo: Ints, hi: Ints) -> Floats:
    """The sum of `padded[lo:hi]` for every pair, 0 where one is empty. `padded` has one value to spare."""
    return _segments(padded, lo, hi, mean=False)


def segment_means(padded: Floats, lo: Ints, hi: Ints) -> Floats:
    """The mean of `padded[lo:hi]` for every pair, 0 where one is empty. `padded` has one value to spare."""
    return _segments(padded, lo, hi, mean=True)


def _segments(padded: Floats, lo: Ints, hi: Ints, *, mean: bool) -> Floats:
    out = np.zeros(lo.shape)
    some = hi > lo
    if not some.any():
        return out
    first, behind = lo[some], hi[some]
    pairs = np.empty(2 * len(first), np.int64)
    pairs[::2] = first
    pairs[1::2] = behind
    with np.errstate(all="ignore"):
        total = np.add.reduceat(padded.astype(np.longdouble), pairs)[::2]
        magnitude = np.add.reduceat(np.abs(padded), pairs)[::2]
        count = behind - first
        result = (total / count if mean else total).astype(np.float64)
        suspect = magnitude * np.sqrt(count) * _EXTENDED_EPSILON > np.abs(total) * _RELATIVE_ERROR_MAX
        # NaN compares false: a NaN among the values is NaN in the sum, which needs no second look.
    for position in np.flatnonzero(suspect).tolist():
        values = padded[first[position] : behind[position]].tolist()
        result[position] = exact_mean(values) if mean else exact_sum(values)
    out[some] = result
    return out


def exact_sum(values: list[float]) -> float:
    """The sum, without loss unless something overflows on the way; then in order, as Prometheus adds."""
    if all(map(math.isfinite, values)):
        try:
            return math.fsum(values)
        except OverflowError:
            pass
    total, lost = 0.0, 0.0
    for value in values:
        total, lost = kahan_add(value, total, lost)
    return total if math.isinf(total) else total + lost


def exact_mean(values: list[float]) -> float:
    """The mean; when the sum overflows, by the incremental formula."""
    total = exact_sum(values)
    if not math.isinf(total) or not all(map(math.isfinite, values)):
        return total / len(values)
    mean, lost = 0.0, 0.0
    for count, value in enumerate(values, start=1):
        share = (count - 1) / count
        mean, lost = kahan_add(value / count, share * mean, share * lost)
    return mean + lost


def kahan_add(value: float, total: float, lost: float) -> tuple[float, float]:
    """Add `value` to a compensated sum: the new total, and what rounding has lost so far."""
    new = total + value
    if math.isinf(new):
        return new, 0.0
    if abs(total) >= abs(value):
        return new, lost + ((total - new) + value)
    return new, lost + ((value - new) + total)


_BLOCK_POINTS = 1 << 20
"""Points summed in extended precision at a time: they take twice the memory."""


def group_sums(rows: Floats, starts: Ints) -> Floats:
    """The sums of runs of rows, per column: `rows[n, s]`, group g begins at row `starts[g]`, none empty."""
    return _grouped(rows, starts, None)


def group_means(rows: Floats, starts: Ints, counts: Floats) -> Floats:
    """As `group_sums`, divided by `counts[g, s]`; absent rows are zeros and not counted."""
    return _grouped(rows, starts, counts)


def _grouped(rows: Floats, starts: Ints, counts: Floats | None) -> Floats:
    out = np.empty((len(starts), rows.shape[1]))
    width = max(1, _BLOCK_POINTS // max(1, len(rows)))
    for first in range(0, rows.shape[1], width):
        block = slice(first, first + width)
        out[:, block] = _grouped_block(rows[:, block], starts, None if counts is None else counts[:, block])
    return out


def _grouped_block(rows: Floats, starts: Ints, counts: Floats | None) -> Floats:
    with np.errstate(all="ignore"):
        total = np.add.reduceat(rows.astype(np.longdouble), starts, axis=0)
        magnitude = np.add.reduceat(np.abs(rows), starts, axis=0)
        result = (total if counts is None else total / counts).astype(np.float64)
        ends = np.append(starts[1:], len(rows))
        bound = magnitude * np.sqrt(ends - starts)[:, None] * _EXTENDED_EPSILON
        suspect = bound > np.abs(total) * _RELATIVE_ERROR_MAX
    for group, column in zip(*(index.tolist() for index in np.nonzero(suspect)), strict=True):
        values = rows[starts[group] : ends[group], column].tolist()
        total_here = exact_sum(values)
        if counts is None:
            result[group, column] = total_here
        elif math.isfinite(total_here):
            result[group, column] = total_here / counts[group, column]
    return result
