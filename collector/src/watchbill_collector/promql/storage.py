"""The seam between the engine and whatever holds samples: the head's windows, history's files, a test's
lists.

A `Storage` answers a selector with a `SeriesSet`; the engine asks the set for what an operator needs, always
for all its series and all steps at once:

- `instant(times, lookback)`: the value of each series at each step (an instant selector);
- `windows(times, range)`: a `Windows` object, whose methods answer what range functions ask of `(t - range,
  t]`.

The base classes answer everything from ragged samples (all samples of all series in flat arrays, and
offsets). A storage that can do better overrides methods: `rate` asks only for `edges()` and `drops()`,
`avg_over_time` only for `count()` and `mean()`, which the head keeps as running sums; it never builds the
ragged arrays for them.

What a storage has to keep to:

1. `labels` is the identical LabelFrame object for as long as the same series are selected. The engine hangs
   what it works out of labels (groups, matches of binary operators, result labels) on the frame itself
   (`LabelFrame.derived`), so a new frame object for an unchanged selection costs all of that again, each
   time.
2. Rows without any sample in the range are allowed: presence is a mask everywhere, rows are never dropped for
   it.
3. Samples of a series ascend in time, one a millisecond. Stale markers are kept in (STALE_BITS): instant
   selection ends a series there, windows skip them.
4. Samples outside the range asked for may be there too; they are ignored.
5. Reading is counted in the budget before it is done (`budget.spend`).

Shapes: n series, s steps, m samples; times are UTC milliseconds, int64. A value where nothing is present is
meaningless (though never a trap: any float).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from watchbill_collector.labels import LabelFrame
from watchbill_collector.matching import Matcher
from watchbill_collector.promql.budget import Budget
from watchbill_collector.promql.windows import Floats, Ints, Mask, Ragged, Windows, last_at
from watchbill_collector.series import is_stale

__all__ = ["Hints", "Ragged", "SeriesSet", "Storage", "Windows"]


@dataclass(frozen=True, slots=True)
class Hints:
    """What the engine will do with the samples: lets a storage choose a tier, or a running sum to keep.

    `step_ms` is 0 for instant queries. `range_ms` is 0 for instant selectors. `function` is the range
    function directly around the selector ("rate"), empty if there is none. A storage may ignore all of it.
    """

    step_ms: int = 0
    range_ms: int = 0
    function: str = ""


class SeriesSet:
    """The series that a selector found, with their samples: the base class answers from ragged arrays.

    `notes` are sentences for the answer's `infos`, such as which tier was read.
    """

    def __init__(self, labels: LabelFrame, ragged: Ragged | None = None, notes: Sequence[str] = ()) -> None:
        assert ragged is None or len(ragged.offsets) == len(labels) + 1
        self.labels = labels
        self.notes = tuple(notes)
        self._ragged = ragged
        self._without_stale: Ragged | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def ragged(self) -> Ragged:
        """All samples, stale markers among them. A subclass that passes none to the constructor overrides
        this.
        """
        assert self._ragged is not None, "a SeriesSet without samples has to override ragged()"
        return self._ragged

    def ragged_without_stale(self) -> Ragged:
        """All samples but the stale markers: what windows see. Computed once."""
        if self._without_stale is None:
            self._without_stale = self.ragged().select(~is_stale(self.ragged().values))
        return self._without_stale

    def instant(self, times_ms: Ints, lookback_ms: int) -> tuple[Floats, Mask]:
        """The newest sample of each series in `(t - lookback, t]` for each t: values[n, s] and presence[n,
        s].

        A stale marker as the newest sample means that the series is absent.
        """
        ragged = self.ragged()
        index, present = last_at(ragged, times_ms, lookback_ms)
        values = ragged.values_padded()[index]
        present &= ~is_stale(values)
        return values, present

    def instant_times(self, times_ms: Ints, lookback_ms: int) -> Ints:
        """When the samples that `instant` gives were taken: int64[n, s], meaningless where absent."""
        ragged = self.ragged()
        index, _ = last_at(ragged, times_ms, lookback_ms)
        return ragged.times_padded()[index]

    def windows(self, times_ms: Ints, range_ms: int) -> Windows:
        """What range functions ask of the windows `(t - range, t]`."""
        return Windows(self.ragged_without_stale, len(self.labels), times_ms, range_ms)


class Storage(Protocol):
    """Where samples are."""

    def select(
        self, matchers: tuple[Matcher, ...], start_ms: int, end_ms: int, budget: Budget, hints: Hints
    ) -> SeriesSet:
        """The series that satisfy all matchers, with their samples in `(start, end]`.

        Raises what `budget.spend` raises, and StorageError when the disk fails.
        """


def empty_set() -> SeriesSet:
    """No series."""
    nothing = Ragged(np.zeros(0, np.int64), np.zeros(0), np.zeros(1, np.int64))
    return SeriesSet(LabelFrame.empty(), nothing)


def series_set(labels: LabelFrame, samples: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]]) -> SeriesSet:
    """A set from (times, values) pairs, one a series: for tests and small sets."""
    assert len(labels) == len(samples)
    times = [np.asarray(time, np.int64) for time, _ in samples]
    values = [np.asarray(value, np.float64) for _, value in samples]
    offsets = np.concatenate(([0], np.cumsum([len(time) for time in times], dtype=np.int64)))
    if not samples:
        return empty_set()
    return SeriesSet(labels, Ragged(np.concatenate(times), np.concatenate(values), offsets.astype(np.int64)))
