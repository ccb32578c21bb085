"""Blocks: many readings of many series in few bytes, readable series by series.

    limits   65,535 ticks, 2^24 series; k ticks share one list of times; a series may be absent at some of
    them
    cost     about 0.7 bytes a sample for an hour of host metrics, 0.015 CPU-seconds per million samples
    written reading  one series of an hour block: the heads, and one frame of at most 16 series

What makes it small is not clever mathematics but the observation that almost everything a host reports is a
*decimal*: a count of bytes, seconds with two digits, degrees with three. Such a series is a list of integers
once it is multiplied by a power of ten, and the steps between them are small: one or two bytes each. The
bytes of the steps are put in order of weight (all lowest bytes of a series, then all second lowest), so that
zstd sees long runs. What is no decimal is kept as the XOR of neighbouring bit patterns, the same way. A
series that does not change costs its first value.

Exactness is not argued but checked: a series goes the decimal way only when the very computation that a
reader makes (integer / power of ten) gives back every bit. So -0.0 and NaN fail it. When a handful of values
in a series fail (a stale marker at its end, one NaN) they become *patches*: the value before them stands in
the decimals and the true bits are written beside. More of them, and the series goes the XOR way. Either way
what comes out is what went in, bit for bit.

Layout, all little-endian; `docs/block-format.md` is the full specification:

    0   2  "WB"
    2   1  version, 1
    3   1  0
    4   4  CRC-32 of everything from byte 8 to the end of the times
    8   4  number of series n
    12  2  number of ticks k
    14  2  series in a frame, at most; 0: no frames, the planes end the heads
    16  4  length of the heads, compressed
    20  2  number of frames f
    22  1  width of the times' second differences: 0, 1, 2, 4 or 8
    23  1  0
    24  8  first time, UTC ms
    32  8  first step, ms; 0 when k is 1
    40  4f end of each frame, counted from the first frame's begin
        .. times: k-2 second differences, `width` bytes each
        .. heads, one zstd frame with checksum
        .. frames, each one zstd frame with checksum

Heads, decompressed: n kinds (u8), n exponents (u8), n firsts (8 planes of n bytes), patches, presence, and in
a block without frames the planes. Planes go through the kinds in ascending order and through the series of
one kind in block order; a frame holds one kind. In it each series takes width * (k-1) bytes: the bytes of its
steps by weight, lowest first.

    kind 0   constant: the first is its bits
    kind 1-4 decimal, steps of 1, 2, 4, 8 bytes: the first is the integer, value = integer / 10^exponent
    kind 5   XOR: the first is the bits, a step is the XOR with the bits before, 8 bytes

Arrays here are [tick, series], as readings come: sums and comparisons along the short axis of a mini-block
would cost numpy more than the arithmetic does.
"""

import struct
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import zstandard

from watchbill.errors import Unreadable
from watchbill_collector.labels import Indices
from watchbill_collector.series import Times, Values

VERSION = 1
TICKS_MAX = 65_535
SERIES_MAX = 1 << 24
FRAME_SERIES = 16
"""Series in a frame of an hour block: more is smaller on disk, fewer is less to read for one series."""
NO_FRAMES = 0
"""For small blocks: everything in one piece."""
LEVEL = 3
"""zstd's level for hour blocks."""
LEVEL_FAST = 1
"""zstd's level for blocks that live an hour."""
EXPONENT_MAX = 12
"""Decimals tried: nanoseconds in seconds need 9. A float holds powers of ten exactly up to 10^22."""
COMMON_EXPONENTS = 4
"""Integers to thousandths are tried one after another, finer decimals all at once."""
PATCHES_PER_SERIES_MAX = 8
"""More odd values than this in one series of one block, and the series goes the XOR way."""
CHUNK_VALUES = 1 << 22
"""Values taken apart at a time: bounds the memory for what is computed on the way."""
PART_BYTES_MAX = 1 << 30
"""What a reader believes of a length before it allocates."""

CONSTANT, XOR = 0, 5
WIDTHS = (0, 1, 2, 4, 8, 8)
"""Bytes of a step, by kind."""

_HEADER = struct.Struct("<2sBBIIHHIHBBqq")
_POWERS = 10.0 ** np.arange(EXPONENT_MAX + 1)
_NEGATIVE_ZERO = np.iinfo(np.int64).min
_PATCH = np.dtype([("series", "<u4"), ("tick", "<u2"), ("bits", "<u8")])

Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
Patches = npt.NDArray[np.void]


class DamagedBlock(Unreadable):
    """A block that does not hold what was written."""


class NewerBlock(Unreadable):
    """A block of a format version that this program does not know."""


# Writing.


@dataclass(frozen=True, slots=True, eq=False)
class _Apart:
    """Series taken apart: what `encode` writes, for as many blocks at once as the caller likes."""

    kinds: Bytes
    exponents: Bytes
    firsts: Integers
    planes: list[tuple[Indices, Bytes]]  # For kinds 1 to 5: series ascending; [series, width * (k - 1)].
    patches: Patches


def encode(
    times: Sequence[Times],
    values: Values,
    counts: Sequence[int],
    *,
    present: Mask | None = None,
    frame_series: int = FRAME_SERIES,
    level: int = LEVEL,
) -> list[bytes]:
    """Blocks of the same number of ticks, one for each of `times`.

    `values[tick, series]` holds the series of all blocks one after another, `counts` says how many belong to
    each. Many small blocks in one call cost far less than one call each. `present[tick, series]` is False
    where a series has no value; the value there is not kept.
    """
    ticks = len(values)
    assert 1 <= ticks <= TICKS_MAX
    assert len(times) == len(counts)
    assert sum(counts) == values.shape[1] <= SERIES_MAX
    if present is not None:
        values = _filled(values, present)
    apart = _take_apart(values)
    compress = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True).compress
    clocks = _packed_times(np.stack(times))
    blocks = []
    begin = 0
    for clock, count in zip(clocks, counts, strict=True):
        end = begin + count
        heads = _heads(apart, begin, end, None if present is None else present[:, begin:end])
        frames = []
        for series, planes in apart.planes:
            first, last = series.searchsorted((begin, end)).tolist()
            if frame_series == NO_FRAMES:
                heads += planes[first:last].tobytes()
            else:
                cuts = range(first, last, frame_series)
                frames += [compress(planes[at : min(at + frame_series, last)].tobytes()) for at in cuts]
        blocks.append(_assemble(clock, count, ticks, frame_series, compress(heads), frames))
        begin = end
    return blocks


@dataclass(frozen=True, slots=True)
class _Clock:
    first: int
    step: int
    width: int
    packed: bytes


def _packed_times(times: Times) -> list[_Clock]:
    """Times as first, first step and second differences; `times[block, tick]`."""
    firsts = times[:, 0].tolist()
    if times.shape[1] == 1:
        return [_Clock(first, 0, 0, b"") for first in firsts]
    steps = np.diff(times)
    seconds = np.diff(steps)
    widths = np.where(seconds.any(axis=1), np.array(WIDTHS)[_kinds(seconds.T)], 0).tolist()
    return [
        _Clock(first, step, width, row.astype(f"<i{width}").tobytes() if width else b"")
        for first, step, width, row in zip(firsts, steps[:, 0].tolist(), widths, seconds, strict=True)
    ]


def _assemble(
    clock: _Clock, count: int, ticks: int, frame_series: int, heads: bytes, frames: list[bytes]
) -> bytes:
    sizes = (count, ticks, frame_series, len(heads), len(frames), clock.width, 0)
    header = _HEADER.pack(b"WB", VERSION, 0, 0, *sizes, clock.first, clock.step)
    ends = np.cumsum([len(frame) for frame in frames], dtype="<u4").tobytes() if frames else b""
    checked = header[8:] + ends + clock.packed
    return b"".join((header[:4], struct.pack("<I", zlib.crc32(checked)), checked, heads, *frames))


def _heads(apart: _Apart, begin: int, end: int, present: Mask | None) -> bytes:
    patches = apart.patches
    if len(patches):
        first, last = np.searchsorted(patches["series"], (begin, end)).tolist()
        patches = patches[first:last].copy()
        patches["series"] -= begin
    partial = np.zeros(0, np.int64) if present is None else np.flatnonzero(~present.all(axis=0))
    planes = apart.firsts[begin:end].astype("<i8").view(np.uint8).reshape(-1, 8).T
    parts = [apart.kinds[begin:end].tobytes(), apart.exponents[begin:end].tobytes(), planes.tobytes()]
    parts.append(struct.pack("<II", len(patches), len(partial)))
    parts.append(patches.tobytes())
    if present is not None:
        parts.append(partial.astype("<u4").tobytes())
        parts.append(np.packbits(present[:, partial].T, axis=1, bitorder="little").tobytes())
    return b"".join(parts)


def _filled(values: Values, present: Mask) -> Values:
    """Absent values replaced by the one before (else the one after): steps of nothing."""
    ticks = np.arange(len(values))[:, None]
    last = np.maximum.accumulate(np.where(present, ticks, -1), axis=0)
    return np.take_along_axis(values, np.where(last < 0, present.argmax(axis=0), last), axis=0)


def _take_apart(values: Values) -> _Apart:
    """Find each series' kind and steps, some series at a time."""
    ticks, count = values.shape
    stride = max(CHUNK_VALUES // ticks, 1)
    if count <= stride:
        return _apart(np.ascontiguousarray(values))
    begins = range(0, count, stride)
    parts = [_apart(np.ascontiguousarray(values[:, begin : begin + stride])) for begin in begins]
    for begin, part in zip(begins, parts, strict=True):
        part.patches["series"] += begin
    planes = []
    for kind in range(len(WIDTHS) - 1):
        series = [part.planes[kind][0] + begin for begin, part in zip(begins, parts, strict=True)]
        planes.append((np.concatenate(series), np.concatenate([part.planes[kind][1] for part in parts])))
    return _Apart(
        np.concatenate([part.kinds for part in parts]),
        np.concatenate([part.exponents for part in parts]),
        np.concatenate([part.firsts for part in parts]),
        planes,
        np.concatenate([part.patches for part in parts]),
    )


def _apart(values: Values) -> _Apart:
    count = values.shape[1]
    kinds, exponents = np.zeros(count, np.uint8), np.zeros(count, np.uint8)
    bits = values.view(np.int64)
    firsts = bits[0].copy()
    moving = np.flatnonzero((bits[1:] != bits[0]).any(axis=0))
    integers, of_moving, exact, patches = _integers(values.take(moving, axis=1))
    patches["series"] = moving[patches["series"]]
    exponents[moving] = of_moving
    decimal, other = moving[exact], moving[~exact]
    if len(other):
        integers = integers.compress(exact, axis=1)
    firsts[decimal] = integers[0]
    differences = integers[1:] - integers[:-1]
    kinds[decimal] = _kinds(differences)
    planes: list[tuple[Indices, Bytes]] = []
    for kind in (1, 2, 3, 4):
        chosen = np.flatnonzero(kinds[decimal] == kind)
        narrow = differences.take(chosen, axis=1).astype(f"<i{WIDTHS[kind]}")
        planes.append((decimal[chosen], _planes(narrow)))
    kinds[other] = XOR
    exponents[other] = 0
    odd = bits.take(other, axis=1)
    planes.append((other, _planes(odd[1:] ^ odd[:-1])))
    return _Apart(kinds, exponents, firsts, planes, patches)


def _planes(steps: npt.NDArray[np.signedinteger]) -> Bytes:
    """Bytes by weight within each series: [series, width * ticks]."""
    ticks, series = steps.shape
    width = steps.dtype.itemsize
    weights = steps.view(np.uint8).reshape(ticks, series, width)
    planes: Bytes = weights.transpose(1, 2, 0).reshape(series, width * ticks)
    return planes


def _kinds(steps: Integers) -> Bytes:
    """The narrowest kind that holds all steps of each series."""
    if not steps.size:
        return np.ones(steps.shape[1], np.uint8)
    # ~x is -x - 1, so this is the larger of what the sign bit leaves room for on either side.
    size = np.maximum(steps.max(axis=0), ~steps.min(axis=0))
    bounds = np.array([1 << 7, 1 << 15, 1 << 31], np.int64)
    kinds: Bytes = (np.searchsorted(bounds, size, side="right") + 1).astype(np.uint8)
    return kinds


def _integers(values: Values) -> tuple[Integers, Bytes, Mask, Patches]:
    """Integers and exponents of each series, which series they describe exactly, and the patches needed."""
    with np.errstate(all="ignore"):
        exponents, possible = _exponents(values)
        integers, exact = _scaled(values, exponents)
        exact &= possible
        failed = np.flatnonzero(~exact)
        if not len(failed):
            return integers, exponents, exact, np.zeros(0, _PATCH)
        mended, odd = _without_odd(values.take(failed, axis=1))
        hope = possible[failed] | odd.any(axis=0)  # The others are no decimals whatever one does.
        failed, mended, odd = failed[hope], mended.compress(hope, axis=1), odd[:, hope]
        found, found_exponents, right = _search(mended)
        good = failed[right]
        integers[:, good], exponents[good], exact[good] = found[:, right], found_exponents[right], True
        series, tick = np.nonzero(odd.T & right[:, None])
        patches = np.zeros(len(series), _PATCH)
        patches["series"], patches["tick"] = failed[series], tick
        patches["bits"] = values.view(np.uint64)[tick, failed[series]]
        return integers, exponents, exact, patches


def decimals(values: Values) -> Bytes:
    """How many decimals the values of each series seem to have, judged by a few of them; 0 where none fit."""
    with np.errstate(all="ignore"):
        return _exponents(values)[0]


def _exponents(values: Values) -> tuple[Bytes, Mask]:
    """For each series the decimals that its first, last and two middle values need; False where none do."""
    ticks, series = values.shape
    probes = values[[0, ticks // 3, 2 * ticks // 3, ticks - 1]]
    exponents = np.zeros(series, np.uint8)
    possible = np.ones(series, np.bool_)
    left = np.arange(series)
    for exponent, power in enumerate(_POWERS[:COMMON_EXPONENTS]):
        fits = (np.rint(probes * power) / power == probes).all(axis=0)
        exponents[left[fits]] = exponent
        left, probes = left[~fits], probes[:, ~fits]
        if not len(left):
            return exponents, possible
    powers = _POWERS[COMMON_EXPONENTS:, None, None]  # The rare ones in one go.
    fits = (np.rint(probes * powers) / powers == probes).all(axis=1)
    exponents[left] = COMMON_EXPONENTS + fits.argmax(axis=0)
    possible[left] = fits.any(axis=0)
    return exponents, possible


def _scaled(values: Values, exponents: Bytes) -> tuple[Integers, Mask]:
    """Each series times its power of ten, and whether dividing again gives every bit back."""
    powers = _POWERS[exponents]
    integers = np.rint(values * powers).astype(np.int64)
    again = integers / powers
    return integers, (again.view(np.int64) == values.view(np.int64)).all(axis=0)


def _without_odd(values: Values) -> tuple[Values, Mask]:
    """A few odd values (not finite, or -0.0) replaced by their neighbours, and where they were."""
    odd = ~np.isfinite(values) | (values.view(np.int64) == _NEGATIVE_ZERO)
    odd[:, odd.sum(axis=0) > min(PATCHES_PER_SERIES_MAX, len(values) - 1)] = False
    return _filled(values, ~odd), odd


def _search(values: Values) -> tuple[Integers, Bytes, Mask]:
    """The exponent that is right for a whole series, from the one that its probes need upwards."""
    exponents, possible = _exponents(values)
    integers, exact = _scaled(values, exponents)
    left = np.flatnonzero(possible & ~exact)
    while len(left):
        exponents[left] += 1
        left = left[exponents[left] <= EXPONENT_MAX]
        integers[:, left], exact[left] = _scaled(values.take(left, axis=1), exponents[left])
        left = left[~exact[left]]
    return integers, exponents, exact & possible


# Reading.


class Block:
    """One block, read only as far as it is asked. Raises DamagedBlock anywhere, NewerBlock at once."""

    def __init__(self, data: bytes) -> None:
        try:
            fields = _HEADER.unpack_from(data)
        except struct.error as exc:
            raise DamagedBlock(f"a block of {len(data)} bytes is shorter than its header") from exc
        magic, version, _, crc, self.count, self.ticks, self._frame_series, heads, frames, self._width = (
            fields[:10]
        )
        self.first_ms, self._step_ms = fields[11:]
        if magic != b"WB":
            raise DamagedBlock("not a block: it does not begin with WB")
        if version != VERSION:
            raise NewerBlock(f"block format version {version}; this program reads version {VERSION}")
        self._times_at = _HEADER.size + 4 * frames
        self._heads_at = self._times_at + self._width * max(self.ticks - 2, 0)
        self._frames_at = self._heads_at + heads
        if zlib.crc32(memoryview(data)[8 : self._heads_at]) != crc:
            raise DamagedBlock("a block's header does not match its checksum")
        self._data = data

    @cached_property
    def times(self) -> Times:
        """UTC ms of each tick, ascending."""
        times: Times
        if not self._width:
            times = self.first_ms + self._step_ms * np.arange(self.ticks)
            return times
        times = np.empty(self.ticks, np.int64)
        times[0], times[1] = self.first_ms, self._step_ms
        times[2:] = np.frombuffer(self._data, f"<i{self._width}", self.ticks - 2, self._times_at)
        np.cumsum(times[1:], out=times[1:])
        return np.cumsum(times, out=times)

    @cached_property
    def heads(self) -> bytes:
        """Kinds, exponents, firsts, patches, presence, and planes when there are no frames."""
        heads = decompressed(self._data[self._heads_at : self._frames_at])
        if len(heads) < 10 * self.count + 8:
            raise DamagedBlock("a block's heads are shorter than they say")
        return heads

    @cached_property
    def kinds(self) -> bytes:
        """The kind of each series."""
        return self.heads[: self.count]

    @cached_property
    def counts(self) -> list[int]:
        """The number of series of each kind."""
        counts = [self.kinds.count(kind) for kind in range(len(WIDTHS))]
        if sum(counts) != self.count:
            raise DamagedBlock("a block has series of a kind that no writer uses")
        return counts

    def head(self, series: int) -> tuple[int, int]:
        """Exponent and first of one series."""
        count = self.count
        first = self.heads[2 * count + series : 10 * count : count]
        return self.heads[count + series], int.from_bytes(first, "little", signed=True)

    def planes(self, series: int) -> bytes:
        """The planes of one series."""
        kind = self.kinds[series]
        place = self.kinds.count(kind, 0, series)
        size = WIDTHS[kind] * (self.ticks - 1)
        if self._frame_series == NO_FRAMES:
            planes, place = self.planes_of(kind), place * size
        else:
            number = self._first_frame(kind) + place // self._frame_series
            planes, place = self._frame(number), place % self._frame_series * size
        if len(planes) < place + size:
            raise DamagedBlock("a block's frame is shorter than its series need")
        return planes[place : place + size]

    def planes_of(self, kind: int) -> bytes:
        """The planes of all series of one kind."""
        size = self.counts[kind] * WIDTHS[kind] * (self.ticks - 1)
        if self._frame_series == NO_FRAMES:
            at = self._presence_end + (self.ticks - 1) * sum(
                self.counts[lower] * WIDTHS[lower] for lower in range(kind)
            )
            planes = self.heads[at : at + size]
        else:
            begin, end = self._first_frame(kind), self._first_frame(kind + 1)
            planes = b"".join(self._frame(number) for number in range(begin, end))
        if len(planes) != size:
            raise DamagedBlock("a block's frame is shorter than its series need")
        return planes

    def _first_frame(self, kind: int) -> int:
        return sum(-(-count // self._frame_series) for count in self.counts[1:kind])

    def _frame(self, number: int) -> bytes:
        cached = self._frames.get(number)
        if cached is None:
            at = _HEADER.size + 4 * number
            if at + 4 > self._times_at:
                raise DamagedBlock("a block's frames do not fit its series")
            begin = struct.unpack_from("<I", self._data, at - 4)[0] if number else 0
            end = struct.unpack_from("<I", self._data, at)[0]
            cached = decompressed(self._data[self._frames_at + begin : self._frames_at + end])
            self._frames[number] = cached
        return cached

    @cached_property
    def _frames(self) -> dict[int, bytes]:
        return {}

    @cached_property
    def _odd_counts(self) -> tuple[int, int]:
        patches, partial = struct.unpack_from("<II", self.heads, 10 * self.count)
        return patches, partial

    @property
    def _presence_end(self) -> int:
        patches, partial = self._odd_counts
        size = patches * _PATCH.itemsize + partial * (4 + -(-self.ticks // 8))
        return int(10 * self.count + 8 + size)

    @cached_property
    def patches(self) -> Patches:
        """Series, ticks and bits of the odd values."""
        try:
            return np.frombuffer(self.heads, _PATCH, self._odd_counts[0], 10 * self.count + 8)
        except ValueError as exc:
            raise DamagedBlock("a block's patches are cut short") from exc

    @cached_property
    def partial(self) -> dict[int, Mask]:
        """Series that are absent at some ticks: where they are present."""
        patches, number = self._odd_counts
        if not number:
            return {}
        at = 10 * self.count + 8 + patches * _PATCH.itemsize
        size = -(-self.ticks // 8)
        try:
            series = np.frombuffer(self.heads, "<u4", number, at).tolist()
            packed = np.frombuffer(self.heads, np.uint8, number * size, at + 4 * number).reshape(number, size)
        except ValueError as exc:
            raise DamagedBlock("a block's presence is cut short") from exc
        present = np.unpackbits(packed, axis=1, count=self.ticks, bitorder="little").view(np.bool_)
        return dict(zip(series, present, strict=True))


def decode(blocks: Sequence[Block]) -> Values:
    """All values of blocks with the same number of ticks: [tick, series of all blocks one after another].

    Where a series is absent stands a value without meaning.
    """
    ticks = blocks[0].ticks
    starts = np.cumsum([0, *(block.count for block in blocks)])
    kinds = np.frombuffer(b"".join(block.kinds for block in blocks), np.uint8)
    exponents = np.frombuffer(
        b"".join(block.heads[block.count : 2 * block.count] for block in blocks), np.uint8
    )
    firsts = np.concatenate([_firsts(block) for block in blocks])
    values = np.empty((ticks, int(starts[-1])), np.float64)
    for kind in range(len(WIDTHS)):
        series = np.flatnonzero(kinds == kind)
        if len(series):
            planes = b"".join(block.planes_of(kind) for block in blocks) if kind else b""
            values[:, series] = joined(kind, ticks, firsts[series], exponents[series], planes)
    bits = values.view(np.uint64)
    for start, block in zip(starts.tolist(), blocks, strict=False):
        patches = block.patches
        if len(patches):
            bits[patches["tick"], patches["series"] + start] = patches["bits"]
    return values


def _firsts(block: Block) -> Integers:
    planes = np.frombuffer(block.heads, np.uint8, 8 * block.count, 2 * block.count).reshape(8, block.count)
    return np.ascontiguousarray(planes.T).view("<i8").reshape(block.count)


def joined(kind: int, ticks: int, firsts: Integers, exponents: Bytes, planes: bytes) -> Values:
    """Values of series of one kind, [tick, series], from their firsts and their planes one after another."""
    series = len(firsts)
    if kind == CONSTANT:
        return np.broadcast_to(firsts.view(np.float64), (ticks, series))
    width = WIDTHS[kind]
    weights = np.frombuffer(planes, np.uint8).reshape(series, width, ticks - 1)
    whole = np.empty((ticks, series), np.int64)
    whole[0] = firsts
    whole[1:] = np.ascontiguousarray(weights.transpose(2, 0, 1)).view(f"<i{width}").reshape(ticks - 1, series)
    if kind == XOR:
        return np.bitwise_xor.accumulate(whole, axis=0).view(np.float64)
    np.cumsum(whole, axis=0, out=whole)
    if series and int(exponents.max()) > EXPONENT_MAX:
        raise DamagedBlock("a block names a power of ten that no writer uses")
    values: Values = whole / _POWERS[exponents]
    return values


class _Decompressors(threading.local):
    """One for each thread: they may not be shared, and making one costs as much as using it."""

    def __init__(self) -> None:
        self.here = zstandard.ZstdDecompressor()


_decompressor = _Decompressors()


def decompressed(part: bytes) -> bytes:
    """One zstd frame of a block. Raises DamagedBlock."""
    try:
        if zstandard.frame_content_size(part) > PART_BYTES_MAX:
            raise DamagedBlock("a block's part claims to be larger than any")
        return _decompressor.here.decompress(part)
    except zstandard.ZstdError as exc:
        raise DamagedBlock(f"a part of a block does not decompress: {exc}") from exc
