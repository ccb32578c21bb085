"""One segment as the spool knows it, and reading it whole.

The spool remembers a few numbers of every segment and nothing of its records: what the spool holds in memory
does not grow with its records. `read_records` turns one file into records again; numbers that have no good
frame become gaps with reason CORRUPT, counted from the frames around them.
"""

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from watchbill.codec import GapBody, Schema, decode_gap, number
from watchbill.errors import Unreadable
from watchbill.limits import DICTIONARY_BYTES_MAX, DICTIONARY_PARTS_MAX
from watchbill.protocol.frames import GapReason, digest_of
from watchbill_agent.spool.format import FRAME_BYTES, NUMBERED, Bad, Fault, Frame, Kind, encode_frame, scan
from watchbill_agent.spool.records import Record, gap_record

SUFFIX = ".seg"
NUMBER_DIGITS = 20
NAME_CHARS_MAX = 40

_DICTIONARY = struct.Struct("<QIHH")
_LENGTH = struct.Struct("<I")
DICTIONARY_PIECE_BYTES = 256 * 1024
"""A dictionary larger than this, compressed, takes several frames."""
UNKNOWN = -1
"""Samples of which nobody can say how many there were: the segment's header is damaged."""
COMPRESSION_LEVEL = 1
"""Dictionaries are text that repeats itself: the quickest level makes them a tenth already."""


def segment_name(first: int, generation: int = 0) -> str:
    """The name of a segment that begins with that number; the higher generation replaces the lower."""
    return f"{first:0{NUMBER_DIGITS}d}{f'-{generation}' if generation else ''}{SUFFIX}"


def parse_name(name: str) -> tuple[int, int] | None:
    """First number and generation; None for any other name."""
    stem, dot, _ = name.partition(SUFFIX)
    first, dash, generation = stem.partition("-")
    plain = dot and name.endswith(SUFFIX) and len(name) <= NAME_CHARS_MAX and name.isascii()
    if not plain or len(first) != NUMBER_DIGITS or not first.isdigit() or (dash and not generation.isdigit()):
        return None
    found = (int(first), int(generation or 0))
    return found if segment_name(*found) == name and 0 < found[0] < 2**63 else None


@dataclass(slots=True, eq=False)
class Segment:
    """`first` and `last` are the numbers that it stands for, `last == first - 1` when it has none yet; `size` are
    the bytes in use, `room` those on the disk. `shift_ms` turns its times into those of this boot.
    """

    path: Path
    first: int
    last: int
    size: int
    room: int
    samples_before: int
    boottime_ms: int
    this_boot: bool
    shift_ms: int = 0
    handle: int = 0
    dictionaries: set[int] | None = None
    """While it is written: the dictionaries it has."""
    dictionary_bytes: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a reader found in a segment, in the file's own order."""

    numbered: list[Frame]
    notes: list[bytes]
    schemas: dict[int, Schema]
    bad: list[Bad]
    trailing: list[Bad]
    end: int
    """Where the last good frame ends."""


def last_number(frame: Frame) -> int:
    """The last number that a frame stands for."""
    return decode_gap(frame.payload)[1] if frame.kind is Kind.GAP else frame.first


def examine(data: bytes, seed: int) -> Found:
    """Read the frames of a segment, whatever state it is in."""
    found = Found([], [], {}, [], [], 0)
    pieces: dict[int, list[bytes]] = {}
    end = 0
    for one, ends in scan(data, seed):
        if isinstance(one, Bad):
            found.bad.append(one)
            found.trailing.append(one)
            continue
        if one.kind is Kind.GAP and not _is_gap(one.payload):
            bad = Bad(Fault.DAMAGED, ends - FRAME_BYTES - len(one.payload), FRAME_BYTES + len(one.payload))
            found.bad.append(bad)
            found.trailing.append(bad)
            continue
        end = ends
        if one.kind is Kind.CHECKPOINT:
            found.notes.append(one.payload)
        elif one.kind is Kind.DICTIONARY:
            _collect(one.payload, pieces, found.schemas)
        else:
            found.trailing.clear()
            found.numbered.append(one)
    return Found(found.numbered, found.notes, found.schemas, found.bad, found.trailing, end)


def _is_gap(payload: bytes) -> bool:
    try:
        first, last, _ = decode_gap(payload)
    except Unreadable:
        return False
    return 0 < first <= last


def dictionary_frames(schema: Schema, seed: int) -> bytes:
    """A dictionary as frames."""
    whole = b"".join(_LENGTH.pack(len(frame)) + frame for frame in schema.frames)
    packed = zlib.compress(whole, COMPRESSION_LEVEL)
    pieces = [
        packed[at : at + DICTIONARY_PIECE_BYTES] for at in range(0, len(packed), DICTIONARY_PIECE_BYTES)
    ]
    return b"".join(
        encode_frame(
            Frame(
                Kind.DICTIONARY,
                0,
                0,
                0,
                0,
                0,
                (),
                _DICTIONARY.pack(schema.schema_id, schema.series, part, len(pieces)) + piece,
            ),
            seed,
        )
        for part, piece in enumerate(pieces)
    )


def _collect(payload: bytes, pieces: dict[int, list[bytes]], schemas: dict[int, Schema]) -> None:
    """Take one piece of a dictionary. A dictionary of which a piece is damaged is not there."""
    if len(payload) < _DICTIONARY.size:
        return
    schema_id, series, part, parts = _DICTIONARY.unpack_from(payload)
    row = pieces.setdefault(schema_id, [])
    if part == 0:
        row.clear()
    if part != len(row):
        return
    row.append(payload[_DICTIONARY.size :])
    if len(row) == parts:
        frames = _unpacked(b"".join(row))
        del pieces[schema_id]
        if frames is not None:
            schemas[schema_id] = Schema(schema_id, series, frames)


def _unpacked(packed: bytes) -> tuple[bytes, ...] | None:
    whole_max = DICTIONARY_BYTES_MAX + DICTIONARY_PARTS_MAX * 64
    try:
        whole = zlib.decompressobj().decompress(packed, whole_max)
    except zlib.error:
        return None
    frames: list[bytes] = []
    at = 0
    while at + _LENGTH.size <= len(whole):
        (size,) = _LENGTH.unpack_from(whole, at)
        at += _LENGTH.size
        frames.append(whole[at : at + size])
        at += size
    return tuple(frames)


def read_records(
    found: Found, segment: Segment, base: int, total_after: int, known: dict[int, Schema]
) -> list[Record]:
    """The records of a segment: every number from its first to its last, as data or in a gap.

    `base` is what its numbers in the file are ahead of those on the wire; `total_after` the stream's samples up
    to its last number; `known` are dictionaries that may stand in for damaged ones.
    """
    records: list[Record] = []
    expected, total = segment.first, segment.samples_before
    for frame in found.numbered:
        first, last = frame.first - base, last_number(frame) - base
        if first < expected or last > segment.last:
            continue  # Another generation has these.
        before = frame.total - frame.samples
        if last < 1:  # From before a fork: nobody asks for it.
            expected, total = last + 1, frame.total
            continue
        if first > expected:
            records.append(_hole(expected, first - 1, samples_between(total, before), segment, records))
        record = _record(frame, first, last, segment, found.schemas, known)
        records.append(record)
        expected, total = last + 1, frame.total
    if expected <= segment.last:
        records.append(_hole(expected, segment.last, samples_between(total, total_after), segment, records))
    return records


def samples_between(before: int, after: int) -> int:
    """The samples between two totals; 0, which is read as unknown, where one of them is."""
    return max(0, after - before) if before >= 0 else 0


def _hole(first: int, last: int, samples: int, segment: Segment, before: Sequence[Record]) -> Record:
    first_ms = before[-1].last_boottime_ms if before else segment.boottime_ms + segment.shift_ms
    return gap_record(first, last, GapBody(GapReason.CORRUPT, samples, first_ms, first_ms))


def _record(
    frame: Frame,
    first: int,
    last: int,
    segment: Segment,
    schemas: dict[int, Schema],
    known: dict[int, Schema],
) -> Record:
    shift = segment.shift_ms
    if frame.kind is Kind.GAP:
        _, _, body = decode_gap(frame.payload)
        begin_ms, end_ms = (t + shift if t else 0 for t in (body.first_boottime_ms, body.last_boottime_ms))
        moved = replace(body, first_boottime_ms=begin_ms, last_boottime_ms=end_ms)
        return gap_record(first, last, moved)
    first_ms, last_ms = frame.first_boottime_ms + shift, frame.last_boottime_ms + shift
    used: list[Schema] = []
    for schema_id in frame.schema_ids:
        schema = schemas.get(schema_id) or known.get(schema_id)
        if schema is None:  # Numbers whose names are lost.
            return gap_record(first, last, GapBody(GapReason.CORRUPT, frame.samples, first_ms, last_ms))
        used.append(schema)
    content = number(first, frame.payload)
    return Record(first, last, content, digest_of(content), frame.samples, first_ms, last_ms, tuple(used))


def numbers_used(found: Found, before: int) -> int:
    """The last number that a segment shows to have been used, `before` when it shows none: of damaged frames at
    its end too, which must not be used again for something else. A torn one was never promised to anybody.
    """
    last = max([before, *(last_number(frame) for frame in found.numbered)])
    for bad in _damaged(found.trailing):
        last = max(last + 1, bad.first) if bad.kind is None else max(last, bad.first)
    return last


def total_after(found: Found, before: int) -> int:
    """The samples of the stream up to the last number that a segment shows."""
    total = found.numbered[-1].total if found.numbered else before
    return max([total, *(bad.total for bad in _damaged(found.trailing))])


def _damaged(trailing: Iterable[Bad]) -> Iterable[Bad]:
    """Damaged frames that stood, or may have stood, for records."""
    return (
        bad for bad in trailing if bad.fault is Fault.DAMAGED and (bad.kind is None or bad.kind in NUMBERED)
    )
