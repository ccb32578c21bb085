"""Quantiles and ranks within many segments at once.

Values lie flat, `segment[p]` says which segment value p belongs to. NaN counts as the least value, as in
Prometheus.
"""

import numpy as np

from watchbill_collector.promql.windows import Floats, Ints


def sorted_by_segment(values: Floats, segment: Ints) -> Ints:
    """The order of values by segment, then by value, NaN first."""
    missing = np.isnan(values)
    if missing.any():
        return np.lexsort((np.where(missing, 0.0, values), ~missing, segment))
    return np.lexsort((values, segment))


def segment_quantiles(values: Floats, segment: Ints, q: Floats) -> Floats:
    """The quantile q[i] of segment i, interpolated between neighbours; NaN where a segment is empty.

    Below 0 it is -Inf, above 1 +Inf, for NaN it is NaN.
    """
    counts = np.bincount(segment, minlength=len(q))
    ends = np.cumsum(counts)
    ordered = values[sorted_by_segment(values, segment)]
    with np.errstate(all="ignore"):
        rank = np.where((q >= 0) & (q <= 1), q, 0.0) * (counts - 1)
        floor = np.maximum(0.0, np.floor(rank))
        lower = floor.astype(np.int64)
        upper = np.minimum(counts - 1, lower + 1)
        weight = rank - np.floor(rank)
        some = counts > 0
        starts = np.where(some, ends - counts, 0)
        at_lower = np.zeros(len(q))
        at_upper = np.zeros(len(q))
        at_lower[some] = ordered[(starts + lower)[some]]
        at_upper[some] = ordered[(starts + upper)[some]]
        out = at_lower * (1 - weight) + at_upper * weight
    out[q < 0] = -np.inf
    out[q > 1] = np.inf
    out[np.isnan(q) | ~some] = np.nan
    return out


def best_in_segments(values: Floats, segment: Ints, *, largest: bool) -> tuple[Ints, Ints]:
    """Order values by segment, best first, NaN last, the earlier of equals first; and the rank of each in
    that order.
    """
    missing = np.isnan(values)
    key = np.where(missing, 0.0, -values if largest else values)
    order = np.lexsort((key, missing, segment))
    ordered = segment[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    lengths = np.diff(np.append(starts, len(ordered)))
    rank = np.arange(len(ordered)) - np.repeat(starts, lengths)
    return order, rank
