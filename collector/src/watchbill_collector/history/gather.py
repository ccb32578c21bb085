"""Collecting readings of many series from many places into flat arrays.

Python's cost is one step per segment (one series in one block), numpy's one step per kind and length: rows of
the same kind and number of ticks are decoded together, wherever they came from. Segments are then laid out by
series and time. Where segments overlap (a reader saw a block in the middle of being merged, or a sender sent
something again) the readings are sorted, and of equal times the one that was added first stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from watchbill_collector.history.block import WIDTHS, Block, joined
from watchbill_collector.history.values import Samples, TooManySamples
from watchbill_collector.series import Times, Values


@dataclass(slots=True)
class _Alike:
    """Rows that are decoded together."""

    segments: list[int] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)
    exponents: list[int] = field(default_factory=list)
    planes: list[bytes] = field(default_factory=list)


class Gather:
    """Segments of readings in (start, end], added in order of precedence. `add*` raise TooManySamples."""

    def __init__(self, start_ms: int, end_ms: int, samples_max: int) -> None:
        self._start = start_ms
        self._end = end_ms
        self._samples_max = samples_max
        self._samples = 0
        self._positions: list[int] = []
        self._times: list[Times] = []
        self._values: list[Values] = []
        self._cuts: dict[int, tuple[int, int]] = {}
        self._alike: dict[tuple[int, int], _Alike] = {}
        self._odd: list[tuple[Block, int, int]] = []  # Block, series in it, segment.

    def add(self, positions: Sequence[int], columns: Sequence[int], times: Times, values: Values) -> None:
        """Some columns of readings as they are: `values[tick, series]`, times ascending."""
        first, last = self._range(times)
        if first < last:
            self._count((last - first) * len(columns))
            times, values = times[first:last], values[first:last]
            self._positions += positions
            self._times += [times] * len(columns)
            self._values += [values[:, column] for column in columns]

    def add_block(self, block: Block, columns: Sequence[int], positions: Sequence[int]) -> None:
        """Some series of a block. Raises DamagedBlock before anything of it is added."""
        first, last = self._range(block.times)
        if first == last:
            return
        kinds, ticks = block.kinds, block.ticks
        rows = [(kinds[column], *block.head(column)) for column in columns]
        planes = [block.planes(column) if row[0] else b"" for column, row in zip(columns, rows, strict=True)]
        odd = set(block.patches["series"].tolist()) | block.partial.keys()
        self._count((last - first) * len(columns))
        whole = last - first == ticks
        for column, position, (kind, exponent, head), part in zip(
            columns, positions, rows, planes, strict=True
        ):
            segment = len(self._positions)
            alike = self._alike.get((kind, ticks))
            if alike is None:
                alike = self._alike[kind, ticks] = _Alike()
            alike.segments.append(segment)
            alike.firsts.append(head)
            alike.exponents.append(exponent)
            alike.planes.append(part)
            self._positions.append(position)
            self._times.append(block.times)
            self._values.append(_PENDING)
            if not whole:
                self._cuts[segment] = (first, last)
            if column in odd:
                self._odd.append((block, column, segment))

    def _range(self, times: Times) -> tuple[int, int]:
        if self._start < times[0] and times[-1] <= self._end:
            return 0, len(times)
        first, last = times.searchsorted((self._start, self._end), side="right").tolist()
        return first, last

    def _count(self, samples: int) -> None:
        self._samples += samples
        if self._samples > self._samples_max:
            raise TooManySamples(self._samples_max)

    def finish(self, series: int, damaged: tuple[str, ...] = ()) -> Samples:
        """Everything that was added, for positions 0 to series - 1."""
        self._decode()
        if not self._positions:
            return Samples(np.zeros(0, np.int64), np.zeros(0), np.zeros(series + 1, np.int64), damaged)
        positions = np.array(self._positions)
        lengths = np.array([len(times) for times in self._times])
        begins = np.array([times[0] if len(times) else 0 for times in self._times])
        order = np.lexsort((begins, positions))
        times = np.concatenate([self._times[segment] for segment in order.tolist()])
        rows = np.repeat(positions[order], lengths[order])
        if ((times[1:] <= times[:-1]) & (rows[1:] == rows[:-1])).any():
            return self._sorted(series, positions, lengths, damaged)
        values = np.concatenate([self._values[segment] for segment in order.tolist()])
        return Samples(times, values, _offsets(rows, series), damaged)

    def _sorted(self, series: int, positions: Times, lengths: Times, damaged: tuple[str, ...]) -> Samples:
        times, values = np.concatenate(self._times), np.concatenate(self._values)
        rows = np.repeat(positions, lengths)
        order = np.lexsort((times, rows))  # Stable: what was added first comes first.
        times, rows = times[order], rows[order]
        fresh = np.ones(len(times), np.bool_)
        fresh[1:] = (times[1:] != times[:-1]) | (rows[1:] != rows[:-1])
        return Samples(times[fresh], values[order[fresh]], _offsets(rows[fresh], series), damaged)

    def _decode(self) -> None:
        for (kind, ticks), alike in self._alike.items():
            firsts = np.array(alike.firsts, np.int64)
            exponents = np.array(alike.exponents, np.uint8)
            assert all(len(part) == WIDTHS[kind] * (ticks - 1) for part in alike.planes)
            together = joined(kind, ticks, firsts, exponents, b"".join(alike.planes))
            for segment, row in zip(alike.segments, np.array(together.T, order="C"), strict=True):
                self._values[segment] = row
        for block, column, segment in self._odd:
            for _, tick, bits in block.patches[block.patches["series"] == column].tolist():
                self._values[segment].view(np.uint64)[tick] = bits
        for segment, (first, last) in self._cuts.items():
            self._times[segment] = self._times[segment][first:last]
            self._values[segment] = self._values[segment][first:last]
        for block, column, segment in self._odd:
            present = block.partial.get(column)
            if present is not None:
                first, last = self._cuts.get(segment, (0, block.ticks))
                self._times[segment] = self._times[segment][present[first:last]]
                self._values[segment] = self._values[segment][present[first:last]]


def _offsets(rows: Times, series: int) -> Times:
    offsets = np.zeros(series + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=series), out=offsets[1:])
    return offsets


_PENDING: Values = np.zeros(0)
