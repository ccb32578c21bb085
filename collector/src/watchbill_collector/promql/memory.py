"""A storage in plain Python lists: for `promql --json-lines`, for tests, and as the shortest example of the
seam.

It keeps the promises of `storage.Storage`, the identity of label frames among them.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping

import numpy as np

from watchbill_collector.labels import LabelFrame
from watchbill_collector.matching import Matcher
from watchbill_collector.promql.budget import Budget
from watchbill_collector.promql.storage import Hints, Ragged, SeriesSet, empty_set
from watchbill_collector.series import STALE_BITS

_FRAMES_MAX = 256
"""Selections whose label frame is remembered; all are forgotten together when there are more."""


class MemoryStorage:
    """Series by their labels, samples in order of time."""

    def __init__(self) -> None:
        self._labels: list[dict[str, str]] = []
        self._rows: dict[tuple[tuple[str, str], ...], int] = {}
        self._times: list[list[int]] = []
        self._bits: list[list[int]] = []
        self._frames: dict[tuple[Matcher, ...], tuple[list[int], LabelFrame]] = {}

    def __len__(self) -> int:
        return len(self._labels)

    def add(self, labels: Mapping[str, str], samples: Iterable[tuple[int, float]]) -> None:
        """Add samples (UTC milliseconds, value) to one series; one with a time that is there already replaces
        it.
        """
        self.add_bits(labels, ((time, int(np.float64(value).view(np.uint64))) for time, value in samples))

    def add_stale(self, labels: Mapping[str, str], time_ms: int) -> None:
        """End a series with a stale marker."""
        self.add_bits(labels, [(time_ms, STALE_BITS)])

    def add_bits(self, labels: Mapping[str, str], samples: Iterable[tuple[int, int]]) -> None:
        """As `add`, with the bits of each float64: the form in which a stale marker survives everything."""
        key = tuple(sorted((name, value) for name, value in labels.items() if value))
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = len(self._labels)
            self._labels.append(dict(key))
            self._times.append([])
            self._bits.append([])
            self._frames.clear()
        times, bits = self._times[row], self._bits[row]
        for time, value in samples:
            at = bisect_left(times, time)
            if at < len(times) and times[at] == time:
                bits[at] = value
            else:
                times.insert(at, time)
                bits.insert(at, value)

    def select(
        self,
        matchers: tuple[Matcher, ...],
        start_ms: int,
        end_ms: int,
        budget: Budget,
        hints: Hints,  # noqa: ARG002  # Nothing here depends on what the samples are for.
    ) -> SeriesSet:
        """As `Storage.select`."""
        rows, frame = self._selection(matchers)
        if not rows:
            return empty_set()
        ranges = [
            (bisect_right(self._times[row], start_ms), bisect_right(self._times[row], end_ms)) for row in rows
        ]
        offsets = np.concatenate(([0], np.cumsum([hi - lo for lo, hi in ranges]))).astype(np.int64)
        budget.spend(int(offsets[-1]))
        times, bits = np.empty(offsets[-1], np.int64), np.empty(offsets[-1], np.uint64)
        for position, (row, (lo, hi)) in enumerate(zip(rows, ranges, strict=True)):
            times[offsets[position] : offsets[position + 1]] = self._times[row][lo:hi]
            bits[offsets[position] : offsets[position + 1]] = self._bits[row][lo:hi]
        return SeriesSet(frame, Ragged(times, bits.view(np.float64), offsets))

    def _selection(self, matchers: tuple[Matcher, ...]) -> tuple[list[int], LabelFrame]:
        found = self._frames.get(matchers)
        if found is None:
            rows = [
                row
                for row, labels in enumerate(self._labels)
                if all(matcher.matches(labels.get(matcher.name, "")) for matcher in matchers)
            ]
            found = rows, LabelFrame.of([self._labels[row] for row in rows])
            if len(self._frames) >= _FRAMES_MAX:
                self._frames.clear()
            self._frames[matchers] = found
        return found
