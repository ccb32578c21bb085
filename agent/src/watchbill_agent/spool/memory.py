"""The spool in memory: it survives a lost collector for as long as its bytes last, and nothing at all of the
agent's own end. The next process begins a new spool, and the collector closes this one and says how much is
missing.

When the bulk stream outgrows its bytes, the oldest records go, and a gap record takes their place: same
numbers, a count, the time span, the reason. Critical records are never dropped: when they are too many, the
producer is refused.
"""

import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from watchbill.codec import GapBody, number
from watchbill.limits import (
    CREDIT_BYTES_DEFAULT,
    GAPS_HELD_MAX,
    KIB,
    RECORD_BYTES_MAX,
    RETIRED_SPOOLS_KEPT,
    SPOOL_BYTES_DEFAULT,
)
from watchbill.protocol.accounting import GapPart
from watchbill.protocol.client import Fork, MarkLost, Release, Rewind
from watchbill.protocol.frames import (
    NO_DIGEST,
    SPOOL_ID_BYTES,
    GapReason,
    RetiredSpool,
    Stream,
    StreamState,
    digest_of,
)
from watchbill_agent.spool.records import (
    Draft,
    Record,
    SpoolFacts,
    SpoolFull,
    gap_record,
    merged,
    notice_body,
)

CRIT_BYTES_MAX = 4 * 1024 * KIB
"""Critical records kept in memory; beyond it producers are refused."""


class _Lane:
    """The records of one stream in memory: gaps at the front, then records in an unbroken row."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.gaps: list[Record] = []
        self.records: deque[Record] = deque()
        self.last = 0
        self.acked = 0
        self.acked_digest = NO_DIGEST
        self.sent = 0
        self.bytes = 0
        # Digests of records that were sent, then dropped, and may yet be acknowledged: a collector that holds
        # one of them must not look like one that holds somebody else's. What was never sent needs none, so
        # the collector's credit bounds this.
        self.dropped: dict[int, int] = {}

    @property
    def first(self) -> int:
        if self.gaps:
            return self.gaps[0].first
        return self.records[0].first if self.records else self.last + 1

    def after(self, seq: int) -> Record | None:
        for gap in self.gaps:
            if gap.last > seq:
                return gap
        if not self.records or self.last <= seq:
            return None
        return self.records[max(0, seq + 1 - self.records[0].first)]

    def release(self, through: int, digest: int) -> None:
        self.acked = through
        self.acked_digest = digest
        while self.gaps and self.gaps[0].last <= through:
            self.bytes -= self.gaps.pop(0).cost
        while self.records and self.records[0].last <= through:
            self.bytes -= self.records.popleft().cost
        for seq in [seq for seq in self.dropped if seq <= through]:
            del self.dropped[seq]

    def put_gap(self, gap: Record) -> None:
        """Put a gap behind the ones at the front, merged with its neighbour when the reason is the same."""
        if self.gaps:
            before = self.gaps[-1]
            self.remember(before)
            if (before.gap is gap.gap and not gap.notice) or len(self.gaps) >= GAPS_HELD_MAX:
                self.bytes -= self.gaps.pop().cost
                gap = merged(before, gap, divisible=before.last <= self.sent, alike=gap.first <= self.sent)
        self.gaps.append(gap)
        self.bytes += gap.cost

    def remember(self, gap: Record) -> None:
        """The digest of a gap that may be merged: a collector may hold it as it was."""
        if gap.digest != NO_DIGEST and gap.last <= self.sent:
            self.dropped[gap.last] = gap.digest

    def put_first(self, gap: Record) -> None:
        """Put a gap before everything, merged with the first when the reason is the same."""
        if self.gaps and self.gaps[0].gap is gap.gap:
            first = self.gaps.pop(0)
            self.bytes -= first.cost
            gap = merged(gap, first, divisible=True)
        self.gaps.insert(0, gap)
        self.bytes += gap.cost


class MemorySpool:
    """A spool in memory, of at most `bytes_max` bytes of bulk records.

    `retired` are spools of earlier processes whose end is known; see `farewell`.
    """

    def __init__(
        self,
        bytes_max: int = SPOOL_BYTES_DEFAULT,
        retired: Sequence[RetiredSpool] = (),
        new_id: Callable[[], bytes] = lambda: os.urandom(SPOOL_ID_BYTES),
    ) -> None:
        assert bytes_max >= 2 * RECORD_BYTES_MAX, "the largest record has to fit, with room for the next"
        self._bytes_max = bytes_max
        self._new_id = new_id
        self._spool_id = new_id()
        self._retired = tuple(retired)[-RETIRED_SPOOLS_KEPT:]
        self._lanes = {stream: _Lane(stream) for stream in Stream}
        self._appended = 0
        self._dropped_records = 0
        self._dropped_samples = 0
        self.trouble = ""
        """Why this is in memory, where it was to be on disk."""

    @property
    def spool_id(self) -> bytes:
        """16 random bytes."""
        return self._spool_id

    @property
    def retired(self) -> tuple[RetiredSpool, ...]:
        """Spools used before this one."""
        return self._retired

    def state(self, stream: Stream) -> StreamState:
        """Where the stream stands; in memory everything counts as durable."""
        lane = self._lanes[stream]
        return StreamState(stream, lane.first, lane.last, lane.acked, lane.acked_digest)

    def digest(self, stream: Stream, seq: int) -> int | None:
        """The digest of a record that is held or was sent and dropped; None for others."""
        lane = self._lanes[stream]
        dropped = lane.dropped.get(seq)
        if dropped is not None:
            return dropped
        held = lane.after(seq - 1)
        if held is None or not held.first <= seq <= held.last:
            return None
        if held.gap is GapReason.OVERFLOW and seq > lane.sent:
            return (
                None  # Dropped without ever having been sent: whoever holds data there has it from elsewhere.
            )
        return held.digest if seq == held.last else NO_DIGEST

    def held_after(self, stream: Stream, seq: int) -> Record | None:
        """The first thing held that reaches beyond `seq`."""
        return self._lanes[stream].after(seq)

    def append(self, stream: Stream, draft: Draft) -> int:
        """Keep a record; the oldest bulk records make room. Raises SpoolFull (critical records only)."""
        lane = self._lanes[stream]
        seq = lane.last + 1
        content = number(seq, draft.body)
        assert len(content) <= RECORD_BYTES_MAX, "the batcher splits what is larger"
        record = Record(
            seq,
            seq,
            content,
            digest_of(content),
            draft.samples,
            draft.first_boottime_ms,
            draft.last_boottime_ms,
            draft.schemas,
        )
        if stream is Stream.CRIT and lane.bytes + record.cost > CRIT_BYTES_MAX:
            raise SpoolFull(f"{lane.bytes} bytes of critical records wait already; the collector is away")
        self._append(lane, record)
        while lane.bytes > self._bytes_max and stream is Stream.BULK and self._drop_oldest(lane):
            pass
        return seq

    def _append(self, lane: _Lane, record: Record) -> None:
        lane.records.append(record)
        lane.last = record.last
        lane.bytes += record.cost
        self._appended += 1

    def notice(self, reason: GapReason, first_boottime_ms: int, last_boottime_ms: int) -> int:
        """Say that nothing ran in that time."""
        lane = self._lanes[Stream.BULK]
        seq = lane.last + 1
        body = notice_body(reason, seq, first_boottime_ms, last_boottime_ms)
        self._append(lane, gap_record(seq, seq, body))
        return seq

    def _drop_oldest(self, lane: _Lane) -> bool:
        """Turn the oldest record into part of a gap; False when only the newest is left."""
        while len(lane.records) > 1:
            oldest = lane.records.popleft()
            lane.bytes -= oldest.cost
            if oldest.gap is not None:
                lane.put_gap(oldest)
                continue
            if oldest.last <= lane.sent:
                lane.dropped[oldest.last] = oldest.digest
            self._dropped_records += 1
            self._dropped_samples += oldest.samples
            body = GapBody(
                GapReason.OVERFLOW,
                oldest.samples,
                oldest.first_boottime_ms,
                oldest.last_boottime_ms,
                (GapPart(1, oldest.samples),),
                oldest.digest,
            )
            lane.put_gap(gap_record(oldest.first, oldest.last, body))
            return True
        return False

    def sent(self, stream: Stream, through: int) -> None:
        """Remember how far records have left the host."""
        lane = self._lanes[stream]
        lane.sent = max(lane.sent, through)

    def obey(self, order: Release | Rewind | MarkLost | Fork) -> None:
        """Do what the protocol decided."""
        if isinstance(order, Fork):
            self._fork(order.retired)
            return
        lane = self._lanes[order.stream]
        if isinstance(order, Release):
            lane.release(order.through, order.digest)
        elif isinstance(order, Rewind):
            lane.acked = order.through
            lane.acked_digest = order.digest
        else:
            assert order.last + 1 == lane.first, "a gap leaves no hole before what is held"
            lane.put_first(gap_record(order.first, order.last, GapBody(order.reason)))

    def _fork(self, retired: Sequence[RetiredSpool]) -> None:
        """Begin a new spool with what is held, numbered from 1."""
        self._retired = (*self._retired, *retired)[-RETIRED_SPOOLS_KEPT:]
        self._spool_id = self._new_id()
        for stream, old in self._lanes.items():
            lane = self._lanes[stream] = _Lane(stream)
            for record in (*old.gaps, *old.records):
                moved = self._renumbered(record, lane.last + 1)
                if moved.gap is not None and not lane.records:
                    lane.put_gap(moved)
                else:
                    lane.records.append(moved)
                    lane.bytes += moved.cost
                lane.last = moved.last

    @staticmethod
    def _renumbered(record: Record, first: int) -> Record:
        last = first + record.last - record.first
        if record.gap is not None:
            times = record.first_boottime_ms, record.last_boottime_ms
            return gap_record(
                first, last, GapBody(record.gap, record.samples, *times, record.parts, record.digest)
            )
        body = record.content[len(number(record.first, b"")) :]
        content = number(first, body)
        return replace(record, first=first, last=last, content=content, digest=digest_of(content))

    def last(self, stream: Stream) -> int:
        """The number given out last."""
        return self._lanes[stream].last

    def close(self) -> None:
        """Nothing to give back."""

    def farewell(self) -> tuple[RetiredSpool, ...]:
        """What the next process should report as retired, so that what is lost with this one is counted
        exactly.

        Keep it where the next process finds it, when this one ends in order. Streams that were delivered
        whole are named too: else the collector would suspect that something after its last record is missing.
        """
        ended = [
            RetiredSpool(self._spool_id, stream, lane.last)
            for stream, lane in self._lanes.items()
            if lane.last
        ]
        return (*self._retired, *ended)[-RETIRED_SPOOLS_KEPT:]

    def facts(self) -> SpoolFacts:
        """How full it is; bytes and records of both streams, the oldest record's time of bulk."""
        bulk = self._lanes[Stream.BULK]
        oldest = next((record for record in (*bulk.gaps, *bulk.records) if not record.notice), None)
        return SpoolFacts(
            records=sum(len(lane.records) for lane in self._lanes.values()),
            bytes=sum(lane.bytes for lane in self._lanes.values()),
            bytes_max=self._bytes_max,
            oldest_boottime_ms=None if oldest is None else oldest.first_boottime_ms or None,
            dropped_records=self._dropped_records,
            dropped_samples=self._dropped_samples,
            appended_records=self._appended,
            acked=bulk.acked,
            error=self.trouble,
        )


assert SPOOL_BYTES_DEFAULT >= CREDIT_BYTES_DEFAULT, "a spool holds at least what may be in flight"
