"""A group commit as bytes: the readings of many senders and their watermarks in few compressed rows, mostly one.

What makes thousands of small commits cheap is that each is one row: the watermarks travel inside it and are put into a
table of their own only when the row goes. A large one is cut into rows that the processor's cache holds. Values are
transposed by bytes before zstd sees them, which makes it both faster and better on floats.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
import zstandard

from watchbill.errors import Unreadable
from watchbill_collector.history.values import Mark
from watchbill_collector.series import Times, Values

LEVEL = -3
"""Fast: these rows live for minutes."""
BYTES_MAX = 1 << 30
"""What a reader believes of a length before it allocates."""

ROW_BYTES = 1 << 20
"""About so many bytes of values make a row: the whole burst of a fleet in one cost half as much again, and tens of
megabytes of fresh pages."""
SCRATCH_BYTES_MAX = 2 * ROW_BYTES
"""What is larger than this, a single sender's message, is packed in memory that goes again."""

_LENGTH = struct.Struct("<I")


class _Header(msgspec.Struct, array_like=True):
    lists: list[tuple[int, int, int]]  # List id, ticks, series.
    marks: list[tuple[str, bytes, int, int, int]]


_HEADER = msgspec.msgpack.Decoder(_Header)


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """Readings of one list: its id in the file, times, `values[tick, series]`."""

    list_id: int
    times: Times
    values: Values


class Packer:
    """Makes rows. It keeps two buffers, since fresh pages for every commit cost as much as the packing does; so it is
    for one thread."""

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
        self._values = np.empty(0)
        self._row = np.empty(0, np.uint8)

    def rows(self, entries: Sequence[Entry], marks: Sequence[Mark]) -> Iterator[tuple[slice, bytes]]:
        """Which entries make a row together, in order, and its content. The watermarks are in the first, which may
        have no entries."""
        for part in _parts(entries):
            yield part, self._pack(entries[part], () if part.start else marks)

    def _pack(self, entries: Sequence[Entry], marks: Sequence[Mark]) -> bytes:
        header = msgspec.msgpack.encode(
            _Header(
                [(entry.list_id, *entry.values.shape) for entry in entries],
                [(mark.agent_id, mark.spool_id, mark.stream, mark.seq, mark.digest) for mark in marks],
            )
        )
        total = sum(entry.values.size for entry in entries)
        times = sum(len(entry.times) for entry in entries)
        begin = _LENGTH.size + len(header)
        planes = begin + 8 * times
        values, row = self._room(total, planes + 8 * total)
        row[:begin] = np.frombuffer(_LENGTH.pack(len(header)) + header, np.uint8)
        if entries:
            stamps = np.concatenate([entry.times for entry in entries]).astype("<i8", copy=False)
            row[begin:planes] = stamps.view(np.uint8)
            np.concatenate([entry.values.reshape(-1) for entry in entries], out=values)
            row[planes:].reshape(8, total)[:] = values.view(np.uint8).reshape(total, 8).T
        return self._compressor.compress(row.data)

    def _room(self, values: int, size: int) -> tuple[Values, npt.NDArray[np.uint8]]:
        if size > SCRATCH_BYTES_MAX:
            return np.empty(values), np.empty(size, np.uint8)
        if values > len(self._values):
            self._values = np.empty(values + values // 4)
        if size > len(self._row):
            self._row = np.empty(size + size // 4, np.uint8)
        return self._values[:values], self._row[:size]


def _parts(entries: Sequence[Entry]) -> Iterator[slice]:
    begin = size = 0
    for at, entry in enumerate(entries):
        size += entry.values.nbytes
        if size >= ROW_BYTES:
            yield slice(begin, at + 1)
            begin, size = at + 1, 0
    if size or not begin:
        yield slice(begin, len(entries))


def unpack(data: bytes) -> tuple[list[Entry], list[Mark]]:
    """Raises Unreadable when it is not what `pack` made."""
    try:
        if zstandard.frame_content_size(data) > BYTES_MAX:
            raise Unreadable("a commit claims to be larger than any")
        content = zstandard.ZstdDecompressor().decompress(data)
        (size,) = _LENGTH.unpack_from(content)
        header = _HEADER.decode(content[4 : 4 + size])
        ticks = sum(each[1] for each in header.lists)
        total = sum(each[1] * each[2] for each in header.lists)
        at = 4 + size
        times = np.frombuffer(content, "<i8", ticks, at)
        planes = np.frombuffer(content, np.uint8, 8 * total, at + 8 * ticks).reshape(8, total)
    except (zstandard.ZstdError, msgspec.MsgspecError, struct.error, ValueError) as exc:
        raise Unreadable(f"a commit cannot be read: {exc}") from exc
    values = np.ascontiguousarray(planes.T).view("<f8").reshape(total)
    entries = []
    tick = place = 0
    for list_id, rows, columns in header.lists:
        part = values[place : place + rows * columns].reshape(rows, columns)
        entries.append(Entry(list_id, times[tick : tick + rows], part))
        tick += rows
        place += rows * columns
    return entries, [Mark(*mark) for mark in header.marks]
