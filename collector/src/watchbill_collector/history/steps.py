"""Statistics of steps that come from several places, put together.

A step that is over has its statistics in a day file, the newest ones are made on the way from readings that wait,
and a late reading belongs to a step that has both: statistics that do not know of it yet, and itself. Such a step
is made anew from all of its readings. Only where those are gone already (late by more than raw history goes back)
the two are added up, and the answer says so, because a reading that was sent twice is counted twice there.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from watchbill_collector.history.tiers import STATISTICS, offsets_of
from watchbill_collector.history.values import Samples, Tier, TierSamples
from watchbill_collector.labels import Indices
from watchbill_collector.series import Times, Values

Mask = npt.NDArray[np.bool_]

NAMES = ("minimum", "maximum", "total", "count", "last", "increase")


def of_rows(stored: Samples, tier: Tier, series: int) -> TierSamples:
    """Statistics as blocks have them, six rows for each series one after another, as steps."""
    if not series:
        return _steps(tier, np.zeros(0, np.int64), [np.zeros(0)] * STATISTICS, np.zeros(1, np.int64))
    lengths = np.diff(stored.offsets).reshape(series, STATISTICS)[:, 0]
    at = np.repeat(stored.offsets[:-1:STATISTICS], lengths)
    at += np.arange(len(at)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    step = np.repeat(lengths, lengths)
    columns = [stored.values[at + row * step] for row in range(STATISTICS)]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return _steps(tier, stored.times[at], columns, offsets, stored.damaged)


def joined(parts: Sequence[TierSamples], start_ms: int, end_ms: int, damaged: tuple[str, ...]) -> TierSamples:
    """The steps that end in (start, end]; where several parts have one, the first part's stays."""
    series = len(parts[0].offsets) - 1
    rows = np.concatenate([_rows(part) for part in parts])
    times = np.concatenate([part.times for part in parts])
    order = np.lexsort((times, rows))
    rows, times = rows[order], times[order]
    keep = (times > start_ms) & (times <= end_ms)
    keep[1:] &= (times[1:] != times[:-1]) | (rows[1:] != rows[:-1])
    order, rows, times = order[keep], rows[keep], times[keep]
    columns = [np.concatenate([getattr(part, name) for part in parts])[order] for name in NAMES]
    return _steps(parts[0].tier, times, columns, offsets_of(rows, series), damaged)


def shared(stored: TierSamples, made: TierSamples) -> Indices:
    """Which of the made steps have stored statistics too."""
    return np.flatnonzero(np.isin(_keys(made), _keys(stored)))


def renewed(stored: TierSamples, made: TierSamples, anew: TierSamples) -> tuple[TierSamples, int]:
    """The steps that both have, as they are with all readings; and how many of them had to be added up.

    `anew` is made from all readings there are, of all series of the other two.
    """
    both = shared(stored, made)
    rows, times, keys = _rows(made)[both], made.times[both], _keys(made)[both]
    of_stored = np.searchsorted(_keys(stored), keys)
    all_keys = _keys(anew)
    at = np.minimum(np.searchsorted(all_keys, keys), max(len(all_keys) - 1, 0))
    whole = np.zeros(len(keys), np.bool_)
    if len(all_keys):
        # Fewer than were counted: some readings are gone.
        whole = (all_keys[at] == keys) & (anew.count[at] >= stored.count[of_stored])
    columns = []
    for name in NAMES:
        old, late = getattr(stored, name)[of_stored], getattr(made, name)[both]
        column = _added(name, old, late)
        if whole.any():
            column[whole] = getattr(anew, name)[at[whole]]
        if name == "increase":
            column[np.isnan(old)] = np.nan  # A gauge.
        columns.append(column)
    series = len(made.offsets) - 1
    return _steps(made.tier, times, columns, offsets_of(rows, series)), int((~whole).sum())


def _steps(
    tier: Tier, times: Times, columns: Sequence[Values], offsets: Indices, damaged: tuple[str, ...] = ()
) -> TierSamples:
    minimum, maximum, total, count, last, increase = columns
    return TierSamples(tier, times, minimum, maximum, total, count, last, increase, offsets, damaged)


def _added(name: str, old: Values, late: Values) -> Values:
    if name in ("total", "count"):
        return old + late
    if name in ("minimum", "maximum"):
        return np.fmin(old, late) if name == "minimum" else np.fmax(old, late)
    return old.copy()  # Nobody knows whether the late reading was the step's last.


def _rows(steps: TierSamples) -> Indices:
    rows: Indices = np.repeat(np.arange(len(steps.offsets) - 1), np.diff(steps.offsets))
    return rows


def _keys(steps: TierSamples) -> Times:
    """One number for series and step, ascending. Times before the year 10000 leave 2^28 minutes a series."""
    keys: Times = (_rows(steps) << 33) | (steps.times // steps.tier.value)
    return keys
