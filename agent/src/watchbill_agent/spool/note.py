"""Notes: what a stream has to remember beside its records, written among them.

A side file can be lost, or be older than what it speaks of. So every segment begins with a note, and another
one follows whenever something changed that the next process could not find out by itself: what was dropped, how
far the collector had come, which name this spool goes by. Losing the newest costs exactness, never a record.

All numbers in a note are those of the files; see `Base` in docs/spool-format.md.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from watchbill.limits import GAPS_HELD_MAX, RETIRED_SPOOLS_KEPT
from watchbill.protocol.accounting import GapPart
from watchbill.protocol.frames import NO_DIGEST, SPOOL_ID_BYTES, GapReason, RetiredSpool, Stream

VERSION = 1
PARTS_MAX = 4_096
"""Parts of all gaps together that a note holds; what is beyond them is told as unknown."""
DROPPED_MAX = 8_192
"""Digests that are kept of records that were sent, then dropped, and may yet be acknowledged."""


@dataclass(frozen=True, slots=True)
class GapNote:
    """A gap over `first`..`last`, numbers of the files, times in ms of the boot that the segment names."""

    first: int
    last: int
    reason: GapReason
    samples: int
    first_boottime_ms: int
    last_boottime_ms: int
    parts: tuple[GapPart, ...] = ()


@dataclass(frozen=True, slots=True)
class Note:
    """`epoch` grows with every fork; the highest one's name, bases and retired spools count. Everything up to
    `through` is acknowledged or in `gaps`, and `total` are the stream's samples up to there.
    """

    epoch: int
    spool_id: bytes
    bases: Mapping[Stream, int]
    retired: tuple[RetiredSpool, ...]
    acked: int
    acked_digest: int
    through: int
    total: int
    durable: int
    gaps: tuple[GapNote, ...] = ()
    dropped: Mapping[int, int] | None = None


def encode_note(note: Note) -> bytes:
    """As compact JSON."""
    parts = PARTS_MAX
    gaps: list[list[object]] = []
    for gap in note.gaps[:GAPS_HELD_MAX]:
        kept = gap.parts[:parts]
        parts -= len(kept)
        gaps.append(
            [
                gap.first,
                gap.last,
                int(gap.reason),
                gap.samples,
                gap.first_boottime_ms,
                gap.last_boottime_ms,
                [[part.records, part.samples] for part in kept],
            ]
        )
    document = {
        "v": VERSION,
        "epoch": note.epoch,
        "spool": note.spool_id.hex(),
        "base": {str(int(stream)): base for stream, base in note.bases.items()},
        "retired": [[one.spool_id.hex(), int(one.stream), one.last_seq] for one in note.retired],
        "acked": note.acked,
        "digest": note.acked_digest,
        "through": note.through,
        "total": note.total,
        "durable": note.durable,
        "gaps": gaps,
        "dropped": list((note.dropped or {}).items())[:DROPPED_MAX],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def decode_note(payload: bytes) -> Note | None:
    """A note; None for what is none. Its checksum was good, so only another version can be the reason."""
    try:
        document = json.loads(payload)
        return _note(document) if document["v"] == VERSION else None
    except (ValueError, KeyError, TypeError, IndexError):
        return None


def _note(document: dict[str, Any]) -> Note:
    spool_id = bytes.fromhex(document["spool"])
    if len(spool_id) != SPOOL_ID_BYTES:
        raise ValueError("a spool id has 16 bytes")
    return Note(
        epoch=int(document["epoch"]),
        spool_id=spool_id,
        bases={Stream(int(key)): int(base) for key, base in document["base"].items()},
        retired=tuple(
            RetiredSpool(bytes.fromhex(one), Stream(stream), int(last))
            for one, stream, last in document["retired"][-RETIRED_SPOOLS_KEPT:]
        ),
        acked=int(document["acked"]),
        acked_digest=int(document["digest"]) or NO_DIGEST,
        through=int(document["through"]),
        total=int(document["total"]),
        durable=int(document["durable"]),
        gaps=tuple(
            GapNote(
                first,
                last,
                GapReason(reason),
                samples,
                first_ms,
                last_ms,
                tuple(GapPart(records, part_samples) for records, part_samples in parts),
            )
            for first, last, reason, samples, first_ms, last_ms, parts in document["gaps"]
        ),
        dropped={int(seq): int(digest) for seq, digest in document["dropped"]},
    )
