"""What a spool is given, what it holds, and what the sender needs of any spool.

`DiskSpool` and `MemorySpool` are the two there are; the contract suite runs against both.
"""

from dataclasses import dataclass, replace
from typing import Protocol

from watchbill.codec import GapBody, Schema, encode_gap
from watchbill.errors import Transient
from watchbill.protocol.accounting import GapPart, joined
from watchbill.protocol.client import Fork, Log, MarkLost, Release, Rewind
from watchbill.protocol.frames import NOTICES, GapReason, RetiredSpool, Stream, digest_of

RECORD_OVERHEAD_BYTES = 400
"""What a record costs in memory beside its bytes: counted, so that many small records keep the bound too."""


class SpoolFull(Transient):
    """A critical record cannot be kept now; the producer has to know."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the producer of a critical record is told: its number, and whether it survives a power cut. Where it does
    not, `why` says so in words."""

    seq: int
    durable: bool
    why: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """A record before it has a number. `body` comes from `codec.encode_ticks` or `encode_event`.

    `samples` counts its values; the times are CLOCK_BOOTTIME in ms of its first and last tick; `schemas` are
    the dictionaries that its blocks refer to, the same objects as long as nothing appears or vanishes.
    """

    body: bytes
    samples: int
    first_boottime_ms: int
    last_boottime_ms: int
    schemas: tuple[Schema, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One thing held: a record with data, or a gap over `first`..`last`."""

    first: int
    last: int
    content: bytes
    digest: int
    samples: int
    first_boottime_ms: int
    last_boottime_ms: int
    schemas: tuple[Schema, ...]
    gap: GapReason | None = None
    parts: tuple[GapPart, ...] = ()

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return len(self.content)

    @property
    def cost(self) -> int:
        """Bytes in memory, nearly."""
        return len(self.content) + RECORD_OVERHEAD_BYTES

    @property
    def notice(self) -> bool:
        """Whether this gap lost no record: it only says that nothing ran."""
        return self.gap in NOTICES

    @property
    def unknown(self) -> bool:
        """Whether nobody knows how many samples this gap lost."""
        return self.gap is not None and not self.notice and self.samples == 0


@dataclass(frozen=True, slots=True)
class SpoolFacts:
    """How full the spool is, for status and self-metrics. Counters grow for as long as the spool object
    lives."""

    records: int
    bytes: int
    bytes_max: int
    oldest_boottime_ms: int | None
    dropped_records: int
    dropped_samples: int
    appended_records: int
    acked: int
    kind: str = "memory"
    durable: bool = False
    segments: int = 0
    syncs: int = 0
    sync_failures: int = 0
    write_failures: int = 0
    written_bytes: int = 0
    refused_records: int = 0
    damaged: int = 0
    quarantined: int = 0
    reserve_short: int = 0
    error: str = ""


class Spool(Log, Protocol):
    """What the sender and the batcher need of a spool."""

    def append(self, stream: Stream, draft: Draft) -> int:
        """Keep a record and return its number. Raises SpoolFull for critical ones that do not fit."""

    def notice(self, reason: GapReason, first_boottime_ms: int, last_boottime_ms: int) -> int:
        """Say in the bulk stream that nothing ran in that time, where known; returns the record's number."""

    def held_after(self, stream: Stream, seq: int) -> Record | None:
        """The first thing held that reaches beyond `seq`."""

    def last(self, stream: Stream) -> int:
        """The number given out last, durable or not."""

    def sent(self, stream: Stream, through: int) -> None:
        """Records up to `through` have left the host at least once."""

    def obey(self, order: Release | Rewind | MarkLost | Fork) -> None:
        """Do what the protocol decided."""

    def farewell(self) -> tuple[RetiredSpool, ...]:
        """What the next process has to report as retired."""

    def facts(self) -> SpoolFacts:
        """How full it is."""

    def close(self) -> None:
        """Give back what it holds of the machine."""


def gap_record(first: int, last: int, body: GapBody) -> Record:
    """A gap as a record. Its digest is the one it carries: its own bytes change when it is merged with another."""
    notice = body.reason in NOTICES
    return Record(
        first,
        last,
        encode_gap(first, last, body, notice=notice),
        body.digest,
        body.samples,
        body.first_boottime_ms,
        body.last_boottime_ms,
        (),
        body.reason,
        body.parts,
    )


def notice_body(reason: GapReason, seq: int, first_boottime_ms: int, last_boottime_ms: int) -> GapBody:
    """What a notice says. It replaces no record, so its digest is one of its own: whoever holds this notice is told
    from who holds something else under its number."""
    assert reason in NOTICES
    said = GapBody(reason, 0, first_boottime_ms, last_boottime_ms)
    return replace(said, digest=digest_of(encode_gap(seq, seq, said, notice=True)))


def merged(earlier: Record, later: Record, *, divisible: bool, alike: bool = True) -> Record:
    """Two neighbouring gaps as one. `divisible` when a collector may hold the earlier and not the later, `alike` when
    it may hold some of the later too."""
    assert earlier.gap is not None
    assert earlier.last + 1 == later.first
    times = [t for t in (earlier.first_boottime_ms, later.first_boottime_ms) if t]
    body = GapBody(
        # With a notice in it, what was the notice's place counts as a lost record too: it is one.
        GapReason.OVERFLOW if earlier.notice or later.notice else earlier.gap,
        # Where one does not know, nobody does.
        0 if earlier.unknown or later.unknown else earlier.samples + later.samples,
        min(times, default=0),
        max(earlier.last_boottime_ms, later.last_boottime_ms),
        joined(
            earlier.parts, earlier.last - earlier.first + 1, later.parts, divisible=divisible, alike=alike
        ),
        later.digest,
    )
    return gap_record(earlier.first, later.last, body)
