"""Collecting readings of many series from many places into flat arrays.

A query of one metric over a fleet wants one series of each of ten thousand small blocks. Python's cost there is one
step per block, so the step is small: the header is looked at, the heads decompressed, and the planes of the wanted
series noted. Numpy's cost is one step per kind, number of ticks and width of times: rows that are alike in these
are decoded together, wherever they came from, some at a time, which bounds the memory. Blocks of which much is
wanted, or whose wanted series have odd values or holes, are decoded by `block`.

In the end segments (one series in one block) are laid out by series and time. Where they overlap (a reader saw a
block in the middle of being merged, or a sender sent something again) readings are sorted, and of equal times the
one of the lowest rank stays, of equal ranks the one that was added first.
"""

import sqlite3
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from watchbill.errors import Unreadable
from watchbill_collector.history import block
from watchbill_collector.history.block import (
    EXPONENT_MAX,
    NO_FRAMES,
    WIDTHS,
    XOR,
    Block,
    DamagedBlock,
    decompressed,
)
from watchbill_collector.history.values import Samples, TooManySamples
from watchbill_collector.labels import Indices
from watchbill_collector.series import Times, Values

SINGLE_COLUMNS_MAX = 24
"""Of a block of which more series are wanted, all are decoded."""
PENDING_VALUES = 1 << 19
"""Values noted before they are decoded: 4 MB, and some times as much on the way."""
FRONT_BYTES = 4096
"""What is read first of a block in a file: header, times and heads of 300 series are 3 kB."""
RANKS = 1 << 40
"""Segments of one rank."""

_HEADER = struct.Struct("<2sBBIIHHIHBBqq")
_ODD = struct.Struct("<II")
_PATCH_BYTES = 14


@dataclass(frozen=True, slots=True)
class Singles:
    """Some series of a block, not decoded yet: of each its kind, exponent, first and planes."""

    ticks: int
    width: int
    first_ms: int
    step_ms: int
    seconds: bytes
    rows: list[tuple[int, int, bytes, bytes]]


@dataclass(frozen=True, slots=True)
class _Places:
    """Where things are in a block."""

    count: int
    ticks: int
    in_frame: int
    planes: int
    frames: int
    first_frame: int


@dataclass(slots=True)
class _Clocks:
    """Times of blocks with the same number of ticks and width of differences."""

    firsts: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    seconds: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class _Alike:
    """Rows that are decoded together."""

    clocks: list[int] = field(default_factory=list)  # Which of the _Clocks.
    positions: list[int] = field(default_factory=list)
    sequence: list[int] = field(default_factory=list)
    firsts: list[bytes] = field(default_factory=list)
    exponents: list[int] = field(default_factory=list)
    planes: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class _Chunk:
    """Segments one after another."""

    positions: Indices
    sequence: Indices
    lengths: Indices
    times: Times
    values: Values


class Gather:
    """Segments of readings in (start, end]. `add*` raise TooManySamples when there are more than may be."""

    def __init__(self, start_ms: int, end_ms: int, samples_max: int) -> None:
        self._start = start_ms
        self._end = end_ms
        self._samples_max = samples_max
        self.clear()

    def clear(self) -> None:
        """Begin again."""
        self._samples = 0
        self._added = 0
        self._chunks: list[_Chunk] = []
        self._pending = 0
        self._clocks: dict[tuple[int, int], _Clocks] = {}
        self._alike: dict[tuple[int, int, int], _Alike] = {}

    def add(
        self, positions: Sequence[int], columns: Sequence[int], times: Times, values: Values, rank: int = 0
    ) -> None:
        """Some columns of readings as they are: `values[tick, series]`, times ascending."""
        first, last = times.searchsorted((self._start, self._end), side="right").tolist()
        if first < last:
            picked = values[first:last].take(columns, axis=1)
            self._put(positions, times[first:last], picked, None, self._sequence(rank, None))

    def add_block(
        self,
        data: bytes | sqlite3.Blob,
        series: int,
        columns: Sequence[int],
        positions: Sequence[int],
        rank: int = 0,
        order: int | None = None,
    ) -> Singles | None:
        """Some series of a block that should have so many. Raises Unreadable and, where the data is read from a
        file as it is needed, sqlite3.Error; nothing is added then.

        `order` takes the place of the order of adding within the rank. The answer, if there is one, can be added
        again in place of the block.
        """
        singles = singled(data, series, columns) if len(columns) <= SINGLE_COLUMNS_MAX else None
        if singles is None:
            self._add_whole(
                Block(part_of(data, 0, None)), series, columns, positions, self._sequence(rank, order)
            )
        else:
            self.add_singles(singles, positions, rank, order)
        return singles

    def _sequence(self, rank: int, order: int | None) -> int:
        self._added += 1
        return rank * RANKS + (self._added if order is None else order)

    def add_singles(
        self, singles: Singles, positions: Sequence[int], rank: int = 0, order: int | None = None
    ) -> None:
        """What was taken from a block before."""
        sequence = self._sequence(rank, order)
        ticks, width = singles.ticks, singles.width
        clocks = self._clocks.get((ticks, width))
        if clocks is None:
            clocks = self._clocks[ticks, width] = _Clocks()
        clocks.firsts.append(singles.first_ms)
        clocks.steps.append(singles.step_ms)
        clocks.seconds.append(singles.seconds)
        clock = len(clocks.firsts) - 1
        for position, (kind, exponent, first, planes) in zip(positions, singles.rows, strict=True):
            alike = self._alike.get((kind, ticks, width))
            if alike is None:
                alike = self._alike[kind, ticks, width] = _Alike()
            alike.clocks.append(clock)
            alike.positions.append(position)
            alike.sequence.append(sequence)
            alike.firsts.append(first)
            alike.exponents.append(exponent)
            alike.planes.append(planes)
        self._pending += ticks * len(singles.rows)
        if self._pending > PENDING_VALUES:
            self._decode()

    def _decode(self) -> None:
        """Decode what was noted."""
        clocks = {key: _times(*key, of_key) for key, of_key in self._clocks.items()}
        for (kind, ticks, width), alike in self._alike.items():
            firsts = np.frombuffer(b"".join(alike.firsts), "<i8").astype(np.int64)
            exponents = np.array(alike.exponents, np.uint8)
            values = block.joined(kind, ticks, firsts, exponents, b"".join(alike.planes)).T
            times = clocks[ticks, width][alike.clocks]
            self._keep(np.array(alike.positions), np.array(alike.sequence), times, values, None)
        self._clocks.clear()
        self._alike.clear()
        self._pending = 0

    # As a whole.

    def _add_whole(
        self, each: Block, series: int, columns: Sequence[int], positions: Sequence[int], sequence: int
    ) -> None:
        if each.count != series:
            raise Unreadable(f"it has {each.count} series and its list {series}")
        times = each.times
        first, last = times.searchsorted((self._start, self._end), side="right").tolist()
        values = block.decode([each])
        present = None
        if each.partial:
            holes = np.ones((len(columns), each.ticks), np.bool_)
            for row, column in enumerate(columns):
                there = each.partial.get(column)
                if there is not None:
                    holes[row] = there
            present = holes[:, first:last]
        if first < last:
            self._put(
                positions, times[first:last], values[first:last].take(columns, axis=1), present, sequence
            )

    def _put(
        self,
        positions: Sequence[int],
        times: Times,
        values: Values,
        present: npt.NDArray[np.bool_] | None,
        sequence: int,
    ) -> None:
        together = np.broadcast_to(times, (len(positions), len(times)))
        self._keep(np.array(positions), np.full(len(positions), sequence), together, values.T, present)

    # Laying out.

    def _keep(
        self,
        positions: Indices,
        sequence: Indices,
        times: Times,
        values: Values,
        present: npt.NDArray[np.bool_] | None,
    ) -> None:
        """Rows `[segment, tick]`, of which some are wanted."""
        segments, ticks = values.shape
        wanted = present
        if ticks and (int(times[:, 0].min()) <= self._start or int(times[:, -1].max()) > self._end):
            inside = (times > self._start) & (times <= self._end)
            wanted = inside if present is None else inside & present
        if wanted is None:
            lengths = np.full(segments, ticks)
            chunk = _Chunk(positions, sequence, lengths, times.reshape(-1), values.reshape(-1))
        else:
            chunk = _Chunk(positions, sequence, wanted.sum(axis=1), times[wanted], values[wanted])
        self._samples += len(chunk.times)
        if self._samples > self._samples_max:
            raise TooManySamples(self._samples_max)
        if len(chunk.times):
            self._chunks.append(chunk)

    def finish(self, series: int, damaged: tuple[str, ...] = ()) -> Samples:
        """Everything that was added, for positions 0 to series - 1."""
        self._decode()
        if not self._chunks:
            return Samples(np.zeros(0, np.int64), np.zeros(0), np.zeros(series + 1, np.int64), damaged)
        positions = np.concatenate([chunk.positions for chunk in self._chunks])
        sequence = np.concatenate([chunk.sequence for chunk in self._chunks])
        lengths = np.concatenate([chunk.lengths for chunk in self._chunks])
        times = np.concatenate([chunk.times for chunk in self._chunks])
        values = np.concatenate([chunk.values for chunk in self._chunks])
        self._chunks.clear()
        begins = np.cumsum(lengths) - lengths
        some = np.flatnonzero(lengths)
        order = some[np.lexsort((times[begins[some]], positions[some]))]
        rows = np.repeat(positions[order], lengths[order])
        shift = begins[order] - (np.cumsum(lengths[order]) - lengths[order])
        at = np.arange(len(times)) + np.repeat(shift, lengths[order])
        laid = times[at]
        again = (laid[1:] <= laid[:-1]) & (rows[1:] == rows[:-1])
        if again.any():
            rank = np.repeat(sequence[order], lengths[order])
            sort = np.lexsort((rank, laid, rows))
            at, laid, rows = at[sort], laid[sort], rows[sort]
            fresh = np.ones(len(laid), np.bool_)
            fresh[1:] = (laid[1:] != laid[:-1]) | (rows[1:] != rows[:-1])
            at, laid, rows = at[fresh], laid[fresh], rows[fresh]
        offsets = np.zeros(series + 1, np.int64)
        np.cumsum(np.bincount(rows, minlength=series), out=offsets[1:])
        return Samples(laid, values[at], offsets, damaged)


def part_of(data: bytes | sqlite3.Blob, begin: int, end: int | None) -> bytes:
    """Some bytes of a block. Raises sqlite3.Error."""
    part = data[begin:end]
    assert isinstance(part, bytes)
    return part


def singled(data: bytes | sqlite3.Blob, series: int, columns: Sequence[int]) -> Singles | None:
    """What there is of some series in a block; None when it needs a closer look. Raises DamagedBlock."""
    front = data if isinstance(data, bytes) else part_of(data, 0, FRONT_BYTES)
    if len(front) < _HEADER.size:
        return None
    magic, version, _, crc, count, ticks, in_frame, size, frames, width, _, first_ms, step_ms = (
        _HEADER.unpack_from(front)
    )
    heads_at = _HEADER.size + 4 * frames + width * max(ticks - 2, 0)
    if heads_at + size > len(front):
        front = part_of(data, 0, heads_at + size)
    # What is wrong is for `Block` to say.
    if magic != b"WB" or version != 1 or count != series or zlib.crc32(front[8:heads_at]) != crc:
        return None
    heads = decompressed(front[heads_at : heads_at + size])
    if len(heads) < 10 * count + 8:
        return None
    patches, partial = _ODD.unpack_from(heads, 10 * count)
    if (patches or partial) and not _plain(heads, count, patches, partial, columns):
        return None
    planes_at = 10 * count + 8 + patches * _PATCH_BYTES + partial * (4 + -(-ticks // 8))
    places = _Places(count, ticks, in_frame, planes_at, frames, heads_at + size)
    rows = [_row(data, front, heads, column, places) for column in columns]
    seconds = front[heads_at - width * (ticks - 2) : heads_at] if width else b""
    return Singles(ticks, width, first_ms, step_ms, seconds, rows)


def _plain(heads: bytes, count: int, patches: int, partial: int, columns: Sequence[int]) -> bool:
    """Whether the wanted series have neither patches nor holes."""
    at = 10 * count + 8
    if len(heads) < at + patches * _PATCH_BYTES + 4 * partial:
        return False
    odd = set(np.ndarray(patches, "<u4", heads, at, (_PATCH_BYTES,)).tolist()) if patches else set()
    odd.update(np.frombuffer(heads, "<u4", partial, at + patches * _PATCH_BYTES).tolist())
    return odd.isdisjoint(columns)


def _row(
    data: bytes | sqlite3.Blob, front: bytes, heads: bytes, column: int, at: _Places
) -> tuple[int, int, bytes, bytes]:
    """Kind, exponent, first and planes of one series. Raises DamagedBlock."""
    count = at.count
    kind, exponent = heads[column], heads[count + column]
    first = heads[2 * count + column : 10 * count : count]
    if kind > XOR or exponent > EXPONENT_MAX:
        raise DamagedBlock("a block has a series of a kind that no writer uses")
    if not kind:
        return kind, exponent, first, b""
    size = WIDTHS[kind] * (at.ticks - 1)
    place = heads.count(kind, 0, column)
    lower = [(heads.count(below, 0, count), WIDTHS[below]) for below in range(1, kind)]
    if at.in_frame == NO_FRAMES:
        begin = at.planes + (at.ticks - 1) * sum(number * width for number, width in lower) + place * size
        planes = heads[begin : begin + size]
    else:
        number = sum(-(-of_kind // at.in_frame) for of_kind, _ in lower) + place // at.in_frame
        if number >= at.frames:
            raise DamagedBlock("a block's frames do not fit its series")
        ends = struct.unpack_from("<II" if number else "<I", front, _HEADER.size + 4 * max(number - 1, 0))
        begin, end = ends if number else (0, ends[0])
        within = place % at.in_frame * size
        frame = part_of(data, at.first_frame + begin, at.first_frame + end)
        planes = decompressed(frame)[within : within + size]
    if len(planes) != size:
        raise DamagedBlock("a block's frame is shorter than its series need")
    return kind, exponent, first, planes


def _times(ticks: int, width: int, clocks: _Clocks) -> Times:
    """Times of blocks, `[block, tick]`."""
    firsts = np.array(clocks.firsts, np.int64)[:, None]
    steps = np.array(clocks.steps, np.int64)[:, None]
    times: Times
    if not width:
        times = firsts + steps * np.arange(ticks)
        return times
    times = np.empty((len(firsts), ticks), np.int64)
    times[:, :1], times[:, 1:2] = firsts, steps
    times[:, 2:] = np.frombuffer(b"".join(clocks.seconds), f"<i{width}").reshape(-1, ticks - 2)
    np.cumsum(times[:, 1:], axis=1, out=times[:, 1:])
    return np.cumsum(times, axis=1, out=times)
