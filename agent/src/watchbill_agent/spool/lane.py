"""One stream on the disk: its segments, what is not durable yet, and the gaps before both.

    gaps | segments ............................ | tail
    1..40  41..500  501..980  981..1200 (active)   1150..1204

Numbers are those of the wire; `base` makes them those of the files. The tail has the newest records in memory:
those that are not durable, and as many more as make a live session read no file. Older ones are read a segment
at a time.

What may go wrong, and what then happens:

- A write fails: the segment is left as it is, the next record begins another one. When the disk is full, the
  oldest bulk segments go first, counted; a critical record takes room from the reserve, or is refused.
- A sync fails: the file is never synced again, for the kernel may have forgotten what it could not write. What
  was not durable is written to a new file from memory.
- That fails too: records stay in memory, bounded, and are sent from there (`failing`); it is tried again with
  every sync.
- The agent is killed: what was written is there, the next process syncs it and goes on.
- The power goes: what was not synced may be gone. It was not sent either, so its numbers are free.

This file decides; the others do: `tail` holds the newest records, `gaps` what became of dropped ones,
`segment_files` the files and what leaves them, `segment_writer` and `segment_reader` what is in them, `reserve` the
spare files, `lane_job` what a sync does in its thread.
"""

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from errno import EDQUOT, ENOSPC

from watchbill.codec import GapBody, number
from watchbill.limits import MIB, RECORD_BYTES_MAX
from watchbill.logs import fields
from watchbill.protocol.frames import NO_DIGEST, GapReason, Stream, StreamState, digest_of
from watchbill_agent.spool import gaps
from watchbill_agent.spool.lane_job import LaneJob
from watchbill_agent.spool.note import DROPPED_MAX, GapNote
from watchbill_agent.spool.place import Limits, Place
from watchbill_agent.spool.records import Draft, Record, SpoolFull, gap_record, notice_body
from watchbill_agent.spool.segment import Found, Segment
from watchbill_agent.spool.segment_files import SegmentFiles
from watchbill_agent.spool.segment_reader import SegmentReader
from watchbill_agent.spool.segment_writer import SegmentWriter
from watchbill_agent.spool.tail import Kept, Tail, kept_again, kept_data, kept_gap

__all__ = ["UNSYNCED_BYTES_MAX", "Lane", "LaneCounters", "LaneJob"]

log = logging.getLogger("watchbill.spool")

UNSYNCED_BYTES_MAX = 4 * MIB
"""Records that are not durable are kept in memory, to be written anew if a sync fails; beyond this, appending syncs."""
FULL = frozenset({ENOSPC, EDQUOT})


@dataclass(slots=True, eq=False)
class LaneCounters:
    """What happened on the disk; grows for as long as the process lives."""

    appended_records: int = 0
    appended_bytes: int = 0
    dropped_records: int = 0
    dropped_samples: int = 0
    syncs: int = 0
    sync_failures: int = 0
    write_failures: int = 0
    refused: int = 0
    damaged: int = 0


class Lane:
    """One stream. `note` makes the note that a segment begins with."""

    def __init__(self, stream: Stream, place: Place, limits: Limits, note: Callable[["Lane"], bytes]) -> None:
        self.stream = stream
        self.place = place
        self.limits = limits
        self.counters = LaneCounters()
        self.gaps: list[Record] = []
        self.tail = Tail()
        self.files = SegmentFiles(stream, place, limits)
        self.reader = SegmentReader(self.files, self.tail)
        self._writer = SegmentWriter(self.files, lambda: note(self), self.reader.remember)
        self.last = 0
        self.total = 0
        self.durable = 0
        self.acked = 0
        self.acked_digest = NO_DIGEST
        self.sent_through = 0
        self.dropped: dict[int, int] = {}
        """Digests of records that were sent and then dropped, by number, and those of gaps that were sent and then
        joined with what came behind them, by their last."""
        self.uncertain: list[tuple[int, int]] = []
        """Numbers of which an earlier process left no word: they may have been sent."""
        self.failing = False
        self.error: OSError | None = None
        self._rewriting = False

    # ------------------------------------------------------------ how it stands

    @property
    def base(self) -> int:
        """What the numbers in the files are ahead of those on the wire."""
        return self.files.base

    @property
    def segments(self) -> list[Segment]:
        """Its files, oldest first."""
        return self.files.segments

    @property
    def first(self) -> int:
        """The first number that is held, as data or in a gap."""
        if self.gaps:
            return self.gaps[0].first
        for segment in self.segments:
            if segment.last >= segment.first:
                return max(1, segment.first)
        return self.tail.first.record.first if self.tail else self.last + 1

    @property
    def sendable(self) -> int:
        """What may be sent: what is durable; everything, while nothing can be made durable."""
        return self.last if self.failing else self.durable

    @property
    def disk_bytes(self) -> int:
        """Bytes of its segments."""
        return sum(one.room for one in self.segments)

    @property
    def waiting_bytes(self) -> int:
        """Bytes of segments that hold something unacknowledged, and of what no file has."""
        return sum(one.size for one in self.segments if one.last > self.acked) + self.tail.unwritten_bytes

    @property
    def unsynced(self) -> bool:
        """Whether something waits for a sync."""
        return self.durable < self.last or self.files.note_due or self.failing

    @property
    def reserve_short(self) -> int:
        """Spare files that are still missing."""
        return self.files.reserve_short(self.acked)

    def state(self) -> StreamState:
        """Where the stream stands."""
        return StreamState(
            self.stream, min(self.first, self.sendable + 1), self.sendable, self.acked, self.acked_digest
        )

    def digest(self, seq: int) -> int | None:
        """The digest of a record that is held or was sent and dropped; None for what never left this host."""
        found = self.dropped.get(seq)
        if found is not None:
            return found
        held = self.after(seq - 1)
        if held is None or not held.first <= seq <= held.last:
            return None
        if seq == held.last and (held.gap is not GapReason.OVERFLOW or seq <= self.sent_through):
            return held.digest
        if held.gap is GapReason.OVERFLOW and not self._may_have_been_sent(seq):
            return None
        return NO_DIGEST

    def _may_have_been_sent(self, seq: int) -> bool:
        """Of a dropped record whose digest was not kept: every one that was sent has its digest kept, but for those
        that were too many and those of which nothing is known."""
        too_many = len(self.dropped) >= DROPPED_MAX and seq <= self.sent_through
        return too_many or any(first <= seq <= last for first, last in self.uncertain)

    def after(self, seq: int) -> Record | None:
        """The first thing held that reaches beyond `seq`, of what may be sent."""
        if seq >= self.sendable:
            return None
        for gap in self.gaps:
            if gap.last > seq:
                # Over records that were dropped before they were durable: should the power go now, their numbers
                # will be used again, and the collector must not have heard of them.
                return gap if gap.last <= self.sendable else None
        if self.tail and self.tail.first.record.first <= seq + 1:
            record = self.tail.after(seq)
            return record if record.last <= self.sendable else None
        found = self.reader.after(seq, self.total)
        if found is None and self.tail:
            return self.tail.first.record
        return found

    def digests(self) -> Iterator[tuple[int, int]]:
        """Digests that no file can tell, for a note: of the gaps here, and of what was dropped."""
        yield from ((gap.last, gap.digest) for gap in self.gaps if gap.digest != NO_DIGEST)
        yield from self.dropped.items()

    def gap_notes(self) -> tuple[GapNote, ...]:
        """The gaps, for a note."""
        return gaps.notes_of(self.gaps, self.base)

    # ------------------------------------------------------------ records in

    def append(self, draft: Draft) -> int:
        """Keep a record. A critical one that cannot be written is refused (SpoolFull), and leaves no trace."""
        seq = self.last + 1
        content = number(seq, draft.body)
        assert len(content) <= RECORD_BYTES_MAX, "the batcher splits what is larger"
        times = (draft.first_boottime_ms, draft.last_boottime_ms)
        record = Record(seq, seq, content, digest_of(content), draft.samples, *times, draft.schemas)
        total = self.total + draft.samples
        self._keep(kept_data(record, draft.body, total, self.base, self.place.seed))
        return seq

    def notice(self, reason: GapReason, first_boottime_ms: int, last_boottime_ms: int) -> int:
        """Keep a gap that lost no record."""
        seq = self.last + 1
        body = notice_body(reason, seq, first_boottime_ms, last_boottime_ms)
        self._keep(kept_gap(gap_record(seq, seq, body), self.total, self.base, self.place.seed))
        return seq

    def _keep(self, kept: Kept) -> None:
        critical = self.stream is Stream.CRIT
        if critical and self.waiting_bytes + len(kept.frame) > self.limits.bytes_max:
            self.counters.refused += 1
            raise SpoolFull(
                f"{self.waiting_bytes} bytes of critical records wait already; the collector is away"
            )
        # Behind records that no file has, this one has to wait for the file that they get.
        if not self.failing and not self.tail.waits:
            try:
                self._write(kept)
            except OSError as exc:
                self.counters.write_failures += 1
                if critical:
                    self.counters.refused += 1
                    raise SpoolFull(f"the disk takes no critical record: {exc.strerror or exc}") from exc
                self._fail(exc)
        self.tail.append(kept)
        self.last, self.total = kept.record.last, kept.total
        self.counters.appended_records += 1
        self.counters.appended_bytes += len(kept.frame)
        self._keep_memory_small()

    def _keep_memory_small(self) -> None:
        """And the files: after every record."""
        self.tail.shrink(self.durable)
        if self.failing and not self._rewriting and self.stream is not Stream.CRIT:
            self.tail.shrink_ring(self._lost, self.sent_through, self.base, self.place.seed)
        if self.files.grown:
            self._keep_the_bound()
        if self.tail.bytes > UNSYNCED_BYTES_MAX and not self.files.busy and not self.failing:
            self._sync_now()

    def _write(self, kept: Kept) -> None:
        """Write a record behind the others. Raises OSError when there is no room to be made."""
        while True:
            try:
                self._writer.write(kept, self.total)
                return
            except OSError as exc:
                self.files.abandon()
                if exc.errno not in FULL or not self._make_room():
                    raise

    def _fail(self, error: OSError) -> None:
        if not self.failing:
            log.error(
                "the spool's disk takes nothing; records stay in memory",
                extra=fields(stream=self.stream.name.lower(), reason=error.strerror or error),
            )
        self.failing = True
        self.error = error

    # ------------------------------------------------------------ what has no room

    def _make_room(self) -> bool:
        """On a full disk: give the oldest away. False when there is nothing to give."""
        leaving = self.files.leaving
        if leaving:
            self.files.give_back(leaving.pop(0))
            return True
        if self.stream is Stream.CRIT:
            return self.files.give_retained(self.acked)
        if len(self.segments) <= 1:
            return False  # The newest records are worth more in one file than nowhere.
        self._drop_oldest()
        if self.files.leaving:
            self.files.give_back(self.files.leaving.pop())
        return True

    def _keep_the_bound(self) -> None:
        """The oldest segments go while there is too much; asked whenever a segment began."""
        self.files.grown = False
        if self.stream is Stream.CRIT:
            return
        while self.files.over_the_bound:
            self._drop_oldest()
        self.files.hurry_the_leaving()

    def _drop_oldest(self) -> None:
        """The oldest segment leaves; what the collector lacks of it becomes gaps."""
        segment = self.segments[0]
        records = self.reader.read(segment, self.total) if segment.last > self.acked else []
        self.files.let_go(segment)
        self._drop([record for record in records if record.last > self.acked])
        self.tail.forget(segment.last)

    def _drop(self, records: list[Record]) -> None:
        """Gaps in the place of records: one for each row of records, told so that a collector that holds the
        first of them can say what is missing beyond."""
        for are_gaps, row in itertools.groupby(records, key=lambda record: record.gap is not None):
            for gap in row if are_gaps else [self._overflow(list(row))]:
                self._put_gap(gap)

    def _overflow(self, row: list[Record]) -> Record:
        """Count records as lost; the gap in their place."""
        sent = [record for record in row if record.last <= self.sent_through]
        for record in sent[: DROPPED_MAX - len(self.dropped)]:
            self.dropped[record.last] = record.digest
        self.counters.dropped_records += len(row)
        self.counters.dropped_samples += sum(record.samples for record in row)
        return gaps.overflow(row, len(sent))

    def _put_gap(self, gap: Record) -> None:
        """Put a gap behind the others."""
        if self.gaps:
            self._remember(self.gaps[-1])
        gaps.put_behind(self.gaps, gap, self.sent_through)

    def _remember(self, gap: Record) -> None:
        """The digest of a gap that may be joined with another: a collector may hold it as it was."""
        if gap.digest != NO_DIGEST and gap.last <= self.sent_through and len(self.dropped) < DROPPED_MAX:
            self.dropped[gap.last] = gap.digest

    def _lost(self, record: Record) -> Record:
        gap = record if record.gap is not None else self._overflow([record])
        self._remember(gap)
        return gap

    # ------------------------------------------------------------ making it durable

    def begin_sync(self) -> LaneJob | None:
        """What a sync has to do now; None when there is nothing. `end_sync` has to follow."""
        assert not self.files.busy, "one sync at a time"
        unwritten = self.tail.unwritten
        if self.files.note_due and not unwritten:
            self._write_note()
        rewrite = self._writer.anew(unwritten) if unwritten else None
        through = self.tail.written_through(self.durable)
        job = self.files.begin_job(through, rewrite, self.acked, spares=not self.failing)
        self._rewriting = job is not None and rewrite is not None
        return job

    def end_sync(self, job: LaneJob) -> bool:
        """Take note of what a sync did. True when everything written before it is durable."""
        self._rewriting = False
        self.files.end_job(job)
        if job.error is not None:
            self._sync_failed(job)
            return False
        self.counters.syncs += 1
        self.files.synced(job)
        self._is_durable(job.through)
        if job.rewrite is not None:
            self._rewritten(job)
        if self.failing and not self.tail.unwritten:
            log.info("the spool's disk takes records again", extra=fields(stream=self.stream.name.lower()))
            self.failing = False
            self.error = None
        return True

    def _sync_now(self) -> None:
        """Whoever appends faster than anybody syncs waits for the disk himself: memory is bounded."""
        job = self.begin_sync()
        if job is not None:
            job.run()
            self.end_sync(job)

    def _write_note(self) -> None:
        """The note alone. A disk that refuses it costs exactness only."""
        try:
            self._writer.write_note(self.last, self.total)
        except OSError:
            self.counters.write_failures += 1
            self.files.abandon()

    def _is_durable(self, through: int) -> None:
        self.durable = max(self.durable, through)
        self.tail.is_durable(self.durable)
        self.tail.shrink(self.durable)

    def _sync_failed(self, job: LaneJob) -> None:
        """Nothing that was not durable can be trusted to be in these files: it is written anew."""
        assert job.error is not None
        self.counters.sync_failures += 1
        self._fail(job.error)
        self.files.distrust(job, self.durable)
        self.tail.distrust(self.durable)
        if job.error.errno in FULL:
            self._make_room()

    def _rewritten(self, job: LaneJob) -> None:
        assert job.rewrite is not None
        through = job.rewrite.through
        anew = [kept for kept in self.tail.unwritten if kept.record.last <= through]
        for kept in anew:
            kept.written = True
        self.files.add_rewritten(job.rewrite, anew)
        if anew:
            self._is_durable(through)

    # ------------------------------------------------------------ what the protocol orders

    def release(self, through: int, digest: int) -> None:
        """Everything up to `through` is the collector's."""
        self.acked, self.acked_digest = through, digest
        while self.gaps and self.gaps[0].last <= through:
            self.gaps.pop(0)
        for seq in [seq for seq in self.dropped if seq <= through]:
            del self.dropped[seq]
        self.durable = max(self.durable, min(through, self.last))
        self.tail.is_acknowledged(through)
        self.tail.shrink(self.durable)
        self.retire()

    def retire(self) -> None:
        """Let go of acknowledged segments, critical ones after a while."""
        self.files.retire(self.acked)

    def rewind(self, through: int, digest: int) -> None:
        """The collector holds less than it acknowledged."""
        self.acked, self.acked_digest = through, digest
        self.files.note_due = True

    def put_first(self, first: int, last: int, reason: GapReason) -> None:
        """What a rewound collector lacks is not here any more."""
        assert last + 1 == self.first, "a gap leaves no hole before what is held"
        gaps.put_before(self.gaps, gap_record(first, last, GapBody(reason)))
        self.files.note_due = True

    def fork(self) -> None:
        """Number what is retained and not acknowledged from 1."""
        shift = self.acked
        self.retire()
        self.files.renumber(shift)
        self.gaps = [moved for gap in self.gaps if (moved := gaps.moved(gap, shift)) is not None]
        self.tail.renumber(shift)
        self.reader.forget()
        self.last -= shift
        self.durable = max(0, self.durable - shift)
        self.acked, self.acked_digest, self.sent_through = 0, NO_DIGEST, 0
        self.dropped.clear()
        self.uncertain = [(first - shift, last - shift) for first, last in self.uncertain if last > shift]
        self.files.note_due = True

    # ------------------------------------------------------------ opening and closing

    def adopt_tail(self, records: list[Record], totals: list[int]) -> None:
        """Records of a segment that could not be synced at the start: they go to a new one."""
        for record, total in zip(records, totals, strict=True):
            self.tail.append(kept_again(record, total, self.base, self.place.seed))

    def go_on_with(self, segment: Segment, found: Found) -> None:
        """Write on in the newest segment of the process before."""
        segment.dictionaries = set(found.schemas)
        self.files.active = segment

    def close(self) -> None:
        """Give every handle back. What is not synced by now is not durable."""
        self.files.close_all()
