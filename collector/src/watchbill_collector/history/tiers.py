"""Coarser copies: what a step of a minute or an hour held.

A step (t - length, t] keeps six numbers for each series: smallest, largest, sum, number, last, and by how
much a counter grew, resets taken into account (after a reset the new value is the growth, as `increase` has
it). The growth from the last reading before the step belongs to it, so the sum over steps is the growth over
all of them. Stale markers are no readings. NaN is one: smallest and largest pass over it, sums do not.

A minute of a series read every 10 seconds or more slowly holds no more readings than statistics. For such
lists the minute tier keeps the readings themselves: nothing is computed twice and nothing is lost.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from watchbill_collector.history.values import Piece, Samples, Tier, TierSamples
from watchbill_collector.labels import Indices
from watchbill_collector.series import Times, Values, is_stale

STATISTICS = 6
"""Rows of a statistics block for each series: smallest, largest, sum, number, last, increase."""
READINGS_PER_STEP_MAX = 6
"""Up to as many readings as statistics, a tier keeps readings."""
NOISE = 1e-12
"""A sum of decimals is rounded to their digits when that moves it by less than this share."""


@dataclass(frozen=True, slots=True, eq=False)
class Condensed:
    """Statistics of one list: `ends[step]`; `statistics[step, row * series + s]`; presence likewise or
    None.
    """

    ends: Times
    statistics: Values
    present: npt.NDArray[np.bool_] | None


def keeps_readings(piece: Piece, step_ms: int) -> bool:
    """Whether a tier of this step had better keep the readings."""
    steps = len(np.unique(_ends(piece.times, step_ms)))
    return len(piece.times) <= READINGS_PER_STEP_MAX * steps


def condense(
    piece: Piece, step_ms: int, powers: Values, gauges: npt.NDArray[np.bool_], before: Values
) -> Condensed:
    """Statistics of a list's readings.

    `powers` is ten to the number of decimals of each series, `gauges` says which have no increase, `before`
    is the last value before these, NaN where there was none.
    """
    values = piece.values
    finite = piece.present is None and bool(np.isfinite(values).all())
    made = _regular(piece, step_ms, before) if finite else _irregular(piece, step_ms, before)
    rows = made.statistics.reshape(len(made.ends), STATISTICS, len(piece.ids))
    for row in (2, 5):
        with np.errstate(all="ignore"):
            rounded = np.rint(rows[:, row] * powers) / powers
            noise = np.abs(rounded - rows[:, row]) <= NOISE * np.abs(rows[:, row])
        np.copyto(rows[:, row], rounded, where=noise)
    rows[:, 5, gauges] = np.nan
    return made


def _ends(times: Times, step_ms: int) -> Times:
    """The end of the step that each time is in."""
    return -(-times // step_ms) * step_ms


def _regular(piece: Piece, step_ms: int, before: Values) -> Condensed:
    """Every series has every tick, and every value is finite."""
    values = piece.values
    ends = _ends(piece.times, step_ms)
    begins = np.flatnonzero(np.concatenate([[True], ends[1:] != ends[:-1]]))
    counts = np.diff(np.append(begins, len(ends)))
    grown = np.empty_like(values)
    np.subtract(values[1:], values[:-1], out=grown[1:])
    known = np.isfinite(before)
    grown[0] = np.where(known, values[0] - np.where(known, before, 0.0), 0.0)
    resets = grown < 0
    if resets.any():
        np.copyto(grown, values, where=resets)
    parts = [
        np.minimum.reduceat(values, begins, axis=0),
        np.maximum.reduceat(values, begins, axis=0),
        np.add.reduceat(values, begins, axis=0),
        np.broadcast_to(counts[:, None].astype(np.float64), (len(begins), values.shape[1])),
        values[begins + counts - 1],
        np.add.reduceat(grown, begins, axis=0),
    ]
    return Condensed(ends[begins], np.concatenate(parts, axis=1), None)


def _irregular(piece: Piece, step_ms: int, before: Values) -> Condensed:
    """The same where readings are missing or odd."""
    series = len(piece.ids)
    present = np.ones(piece.values.shape, np.bool_) if piece.present is None else piece.present
    rows, ticks = np.nonzero(present.T)
    offsets = np.zeros(series + 1, np.int64)
    np.cumsum(present.sum(axis=0), out=offsets[1:])
    samples = Samples(piece.times[ticks], piece.values[ticks, rows], offsets)
    made = condense_ragged(samples, Tier(step_ms), before)
    ends = np.unique(made.times)
    step = np.searchsorted(ends, made.times)
    of = np.repeat(np.arange(series), np.diff(made.offsets))
    statistics = np.zeros((len(ends), STATISTICS, series))
    for row, values in enumerate(
        (made.minimum, made.maximum, made.total, made.count, made.last, made.increase)
    ):
        statistics[step, row, of] = values
    known = np.zeros((len(ends), series), np.bool_)
    known[step, of] = True
    return Condensed(
        ends,
        statistics.reshape(len(ends), STATISTICS * series),
        None if known.all() else np.tile(known, (1, STATISTICS)),
    )


def condense_ragged(samples: Samples, tier: Tier, before: Values | None = None) -> TierSamples:
    """Statistics of ragged readings."""
    series = len(samples.offsets) - 1
    rows = np.repeat(np.arange(series), np.diff(samples.offsets))
    live = ~is_stale(samples.values)
    times, values, rows = samples.times[live], samples.values[live], rows[live]
    if not len(times):
        none = np.zeros(0)
        offsets = np.zeros(series + 1, np.int64)
        return TierSamples(
            tier, np.zeros(0, np.int64), none, none, none, none, none, none, offsets, samples.damaged
        )
    ends = _ends(times, tier.value)
    fresh_series = np.concatenate([[True], rows[1:] != rows[:-1]])
    begins = np.flatnonzero(fresh_series | np.concatenate([[True], ends[1:] != ends[:-1]]))
    counts = np.diff(np.append(begins, len(times)))
    with np.errstate(invalid="ignore"):
        grown = np.concatenate([[0.0], values[1:] - values[:-1]])
        grown[fresh_series] = 0.0
        if before is not None:
            first = rows[fresh_series]
            grown[fresh_series] = np.where(
                np.isfinite(before[first]), values[fresh_series] - before[first], 0.0
            )
        grown = np.where(grown < 0, values, grown)
        grown = np.where(np.isnan(grown), 0.0, grown)
        return TierSamples(
            tier,
            ends[begins],
            np.fmin.reduceat(values, begins),
            np.fmax.reduceat(values, begins),
            np.add.reduceat(values, begins),
            counts.astype(np.float64),
            values[begins + counts - 1],
            np.add.reduceat(grown, begins),
            offsets_of(rows[begins], series),
            samples.damaged,
        )


def offsets_of(rows: Indices, series: int) -> Indices:
    """Where each series' run begins in ascending rows."""
    offsets = np.zeros(series + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=series), out=offsets[1:])
    return offsets
