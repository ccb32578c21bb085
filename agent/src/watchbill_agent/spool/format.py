"""Segment files, byte by byte: docs/spool-format.md is the specification, this is the one place that knows it.

A segment is a header and then frames, nothing of which is ever changed once it is written. A frame carries its
own numbers, so a reader that meets bad bytes looks for the next good frame and knows exactly what is missing
between the two: how many records, and how many samples.

Checksums are CRC-32 (zlib's, at C speed; the standard library has no CRC-32C), begun with the id of the store:
a frame that was copied from another store is as wrong as one with a flipped bit.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

MAGIC = b"WBSP"
VERSION = 1
STORE_ID_BYTES = 16
AGENT_ID_BYTES = 16
BOOT_ID_BYTES = 16

_HEADER = struct.Struct("<4sBBH16s16sQQqq16sI")
HEADER_BYTES = _HEADER.size + 4
_CHECKSUM = struct.Struct("<I")

MARKER = b"\xd7WBr"
_FRAME = struct.Struct("<4sIIQQIqIBBH")
FRAME_BYTES = _FRAME.size + 4
_SIZES = struct.Struct("<4sII")
_ID = struct.Struct("<Q")

PAYLOAD_BYTES_MAX = 1 << 20
"""No frame is larger: a length beyond it is not believed."""
SPAN_MS_MAX = 2**32 - 1
U64 = 2**64 - 1

assert HEADER_BYTES == 96
assert FRAME_BYTES == 52


class Kind(IntEnum):
    """What a frame holds; the numbers are stored."""

    DATA = 1
    GAP = 2
    DICTIONARY = 3
    CHECKPOINT = 4


NUMBERED = frozenset({Kind.DATA, Kind.GAP})
"""Frames that stand for records; the others only help to read them."""


@dataclass(frozen=True, slots=True)
class Header:
    """The beginning of a segment. `samples_before` are those of the stream in all records before `first`."""

    stream: int
    store_id: bytes
    agent_id: bytes
    first: int
    samples_before: int
    wall_ms: int
    boottime_ms: int
    boot_id: bytes


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. `total` are the samples of the stream up to and with this one; times are CLOCK_BOOTTIME in ms of
    the boot that the segment names."""

    kind: Kind
    first: int
    total: int
    samples: int
    first_boottime_ms: int
    last_boottime_ms: int
    schema_ids: tuple[int, ...]
    payload: bytes


class Fault(IntEnum):
    """What is wrong with bytes that are no frame."""

    TORN = 1
    """The file ends inside the frame: it was never written whole."""
    DAMAGED = 2
    """Bytes are not those that were written."""


@dataclass(frozen=True, slots=True)
class Bad:
    """Bytes that are no frame. Where the frame's own header is good, `kind`, `first` and `total` are known."""

    fault: Fault
    offset: int
    size: int
    kind: Kind | None = None
    first: int = 0
    total: int = 0


def encode_header(header: Header) -> bytes:
    """The first HEADER_BYTES of a segment."""
    packed = _HEADER.pack(
        MAGIC,
        VERSION,
        header.stream,
        0,
        header.store_id,
        header.agent_id,
        header.first,
        header.samples_before,
        header.wall_ms,
        header.boottime_ms,
        header.boot_id,
        0,
    )
    return packed + _CHECKSUM.pack(zlib.crc32(packed))


class NewerVersion(ValueError):
    """A sound header of a version that this program does not know."""


def decode_header(data: bytes) -> Header | None:
    """The header of a segment; None when it is none, or damaged. Raises NewerVersion."""
    if len(data) < HEADER_BYTES or data[:4] != MAGIC:
        return None
    packed = data[: _HEADER.size]
    if _CHECKSUM.unpack_from(data, _HEADER.size)[0] != zlib.crc32(packed):
        return None
    _, version, stream, _, store_id, agent_id, first, samples, wall_ms, boottime_ms, boot_id, _ = (
        _HEADER.unpack(packed)
    )
    if version != VERSION:
        raise NewerVersion(f"spool format {version}, this program knows {VERSION}")
    return Header(stream, store_id, agent_id, first, samples, wall_ms, boottime_ms, boot_id)


def sixteen(uuid: str) -> bytes:
    """The 16 bytes of an id that is written in hexadecimal digits."""
    digits = "".join(one for one in uuid if one in "0123456789abcdefABCDEF")[:32]
    return bytes.fromhex(digits.ljust(32, "0"))


def seed_of(store_id: bytes) -> int:
    """What every checksum of a store begins with."""
    return zlib.crc32(store_id)


def encode_frame(frame: Frame, seed: int) -> bytes:
    """A frame as bytes."""
    payload = frame.payload
    if frame.schema_ids:
        payload = b"".join(map(_ID.pack, frame.schema_ids)) + payload
    span_ms = min(max(0, frame.last_boottime_ms - frame.first_boottime_ms), SPAN_MS_MAX)
    head = _FRAME.pack(
        MARKER,
        len(payload),
        zlib.crc32(payload, seed),
        frame.first,
        frame.total & U64,
        frame.samples,
        frame.first_boottime_ms,
        span_ms,
        frame.kind,
        len(frame.schema_ids),
        0,
    )
    return b"".join((head, _CHECKSUM.pack(zlib.crc32(head, seed)), payload))


def _frame_at(data: bytes, at: int, seed: int) -> tuple[Frame | Bad, int]:
    """What begins at `at`, and how many bytes it takes, 0 when nobody can say."""
    left = len(data) - at
    if left < FRAME_BYTES:
        return Bad(Fault.TORN, at, left), 0
    (checksum,) = _CHECKSUM.unpack_from(data, at + _FRAME.size)
    if data[at : at + 4] != MARKER or zlib.crc32(data[at : at + _FRAME.size], seed) != checksum:
        return Bad(Fault.DAMAGED, at, left), 0
    _, size, checksum, first, total, samples, first_ms, span_ms, kind_, ids, _ = _FRAME.unpack_from(data, at)
    try:
        kind = Kind(kind_)
    except ValueError:
        return Bad(Fault.DAMAGED, at, left), 0
    if size > PAYLOAD_BYTES_MAX or ids * _ID.size > size:
        return Bad(Fault.DAMAGED, at, left), 0
    whole = FRAME_BYTES + size
    if whole > left:
        return Bad(Fault.TORN, at, left, kind, first, total), 0
    payload = data[at + FRAME_BYTES : at + whole]
    if zlib.crc32(payload, seed) != checksum:
        return Bad(Fault.DAMAGED, at, whole, kind, first, total), whole
    begin = ids * _ID.size
    schema_ids = tuple(one for (one,) in _ID.iter_unpack(payload[:begin]))
    return Frame(
        kind, first, total, samples, first_ms, first_ms + span_ms, schema_ids, payload[begin:]
    ), whole


def scan(data: bytes, seed: int, start: int = HEADER_BYTES) -> Iterator[tuple[Frame | Bad, int]]:
    """Frames and bad stretches between them, each with where it ends. Zeros to the end are room not used yet."""
    at = start
    while at < len(data):
        found, size = _frame_at(data, at, seed)
        if isinstance(found, Frame):
            at += size
            yield found, at
            continue
        if data[at] == 0 and data.count(0, at) == len(data) - at:
            return
        if size == 0:
            # Where the next frame begins, nobody says: the next marker that a good header follows.
            beyond = _next_frame(data, at + 1, seed)
            if beyond is not None:
                found = Bad(Fault.DAMAGED, at, beyond - at, found.kind, found.first, found.total)
            size = found.size
        at += size
        yield found, at


def bad_stretches(data: bytes, seed: int) -> list[Bad]:
    """What is bad in a segment, and nothing else: a few times as fast as `scan` where nothing is."""
    view, crc32, sizes, checksum_of = memoryview(data), zlib.crc32, _SIZES.unpack_from, _CHECKSUM.unpack_from
    at, end = HEADER_BYTES, len(data)
    while at + FRAME_BYTES <= end:
        marker, size, checksum = sizes(data, at)
        begins = at + FRAME_BYTES
        ends = begins + size
        if (
            marker != MARKER
            or ends > end
            or crc32(view[at : at + _FRAME.size], seed) != checksum_of(data, at + _FRAME.size)[0]
            or crc32(view[begins:ends], seed) != checksum
        ):
            break
        at = ends
    return [found for found, _ in scan(data, seed, at) if isinstance(found, Bad)]


def _next_frame(data: bytes, at: int, seed: int) -> int | None:
    while (at := data.find(MARKER, at)) >= 0:
        found, size = _frame_at(data, at, seed)
        if isinstance(found, Frame) or size:
            return at
        at += 1
    return None
