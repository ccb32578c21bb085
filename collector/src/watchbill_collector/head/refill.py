"""Filling the head from history: after a start, and when new rules look at series or at times that were not
kept.

Samples come from history series by series; the series of one sender that were read together have the same
times, so they are given one clock again. A series that was missing now and then goes with them, with holes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from watchbill.errors import WatchbillError
from watchbill_collector.head.head import Head
from watchbill_collector.head.pool import HOLE, Floats, Ints
from watchbill_collector.series import SeriesIds, Ticks


class PastSamples(Protocol):
    """Ragged samples: those of series i are `times[offsets[i]:offsets[i+1]]`, ascending, and `values`
    likewise."""

    @property
    def times(self) -> Ints:
        """UTC milliseconds."""

    @property
    def values(self) -> Floats:
        """The values, stale markers among them."""

    @property
    def offsets(self) -> Ints:
        """Where the samples of each series begin."""


class Past(Protocol):
    """What the head asks of history; `history.History` is one."""

    def know(self, start_ms: int, end_ms: int) -> None:
        """Make sure that the series table knows every series with samples in (start, end]."""

    def select(self, ids: SeriesIds, start_ms: int, end_ms: int, samples_max: int) -> PastSamples:
        """Samples of distinct series in (start, end]."""


SERIES_AT_ONCE = 20_000
"""Series that are read from history in one go."""
SAMPLES_AT_ONCE_MAX = 50_000_000
"""Samples of one such go; windows that need more are not filled."""
CELLS_AT_ONCE = 100_000
"""Cells that go into the rings in one go: more of them fit no cache, and take twice the time each."""


@dataclass(frozen=True, slots=True)
class Filled:
    """What a refill did. `newest_ms` is the latest sample found, 0 if none; `failed` says why it ended
    early."""

    series: int = 0
    samples: int = 0
    newest_ms: int = 0
    failed: str = ""


def refill(head: Head, past: Past, now_ms: int) -> Filled:
    """Read what the head lacks, up to `now_ms`. A failure to read ends it: what came before is kept."""
    series = samples = newest = 0
    with head.lock:
        try:
            past.know(now_ms - head.longest_ms, now_ms)
        except WatchbillError as error:
            return Filled(failed=str(error) or type(error).__name__)
        for window_ms, lacking in head.lacking():
            ids = lacking[np.argsort(head.table.sources_of(lacking), kind="stable")]
            for at in range(0, len(ids), SERIES_AT_ONCE):
                some = ids[at : at + SERIES_AT_ONCE]
                try:
                    found = past.select(some, now_ms - window_ms, now_ms, SAMPLES_AT_ONCE_MAX)
                except WatchbillError as error:
                    return Filled(series, samples, newest, str(error) or type(error).__name__)
                for blocks in _in_pieces(_together(head, some, found.times, found.values, found.offsets)):
                    head.restore(blocks)
                series, samples = series + len(some), samples + len(found.times)
                newest = max(newest, int(found.times.max(initial=0)))
    return Filled(series, samples, newest)


def _together(head: Head, ids: SeriesIds, times: Ints, values: Floats, offsets: Ints) -> list[Ticks]:
    """Samples as ticks again: one block for the series of a sender that share their times."""
    sources = head.table.sources_of(ids)
    blocks: list[Ticks] = []
    begins = np.flatnonzero(np.concatenate(([True], sources[1:] != sources[:-1])))
    for begin, end in zip(begins.tolist(), [*begins[1:].tolist(), len(ids)], strict=True):
        blocks.extend(_of_source(ids, times, values, offsets, begin, end))
    return blocks


def _in_pieces(blocks: Iterable[Ticks]) -> Iterator[list[Ticks]]:
    piece: list[Ticks] = []
    cells = 0
    for block in blocks:
        if piece and cells + block.values.size > CELLS_AT_ONCE:
            yield piece
            piece, cells = [], 0
        piece.append(block)
        cells += block.values.size
    if piece:
        yield piece


@dataclass(slots=True)
class _Block:
    """Series of one sender with the same times, or with some of them: `columns[i]` are the values of the series in
    `rows[i]`, a row each."""

    times: Ints
    rows: list[Ints]
    columns: list[Floats]

    def takes(self, times: Ints) -> Ints | None:
        """Where times lie among those of the block; None if one is not among them."""
        at = np.searchsorted(self.times, times)
        return at if at[-1] < len(self.times) and np.array_equal(self.times[at], times) else None


def _of_source(
    ids: SeriesIds, times: Ints, values: Floats, offsets: Ints, begin: int, end: int
) -> list[Ticks]:
    """The blocks of one sender. Series with equal times are found together, so that what is done one by one is done
    once for each set of times: there are few, for a sender reads most of its series at once."""
    blocks: list[_Block] = []
    length = np.diff(offsets[begin : end + 1])
    for count in np.unique(length)[::-1].tolist():
        if not count:
            break
        rows = begin + np.flatnonzero(length == count)
        cells = offsets[rows][:, None] + np.arange(count)
        while len(rows):
            mine = times[cells[0]]
            same = (times[cells] == mine).all(axis=1)
            _put(blocks, mine, rows[same], values[cells[same]])
            rows, cells = rows[~same], cells[~same]
    return [
        Ticks(ids[np.concatenate(block.rows)], block.times, np.concatenate(block.columns).T)
        for block in blocks
    ]


def _put(blocks: list[_Block], times: Ints, rows: Ints, values: Floats) -> None:
    """Add series with equal times to a block that has these times, with holes where it has more; or make one."""
    for block in blocks:
        at = block.takes(times)
        if at is not None:
            if len(at) < len(block.times):
                wider = np.full((len(rows), len(block.times)), HOLE)
                wider[:, at] = values
                values = wider
            block.rows.append(rows)
            block.columns.append(values)
            return
    blocks.append(_Block(times, [rows], [values]))
