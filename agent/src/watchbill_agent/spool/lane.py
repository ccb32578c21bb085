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
"""

import bisect
import contextlib
import errno
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from watchbill.codec import GapBody, Schema, encode_gap, number
from watchbill.limits import GAPS_HELD_MAX, KIB, MIB, RECORD_BYTES_MAX
from watchbill.logs import fields
from watchbill.protocol.accounting import GapPart, joined, samples_beyond
from watchbill.protocol.frames import NO_DIGEST, GapReason, Stream, StreamState, digest_of
from watchbill_agent.spool.filesystem import Filesystem
from watchbill_agent.spool.format import (
    HEADER_BYTES,
    Frame,
    Header,
    Kind,
    encode_frame,
    encode_header,
)
from watchbill_agent.spool.note import DROPPED_MAX, GapNote
from watchbill_agent.spool.records import Draft, Record, SpoolFull, gap_record, merged
from watchbill_agent.spool.segment import (
    Found,
    Segment,
    dictionary_frames,
    examine,
    parse_name,
    read_records,
    segment_name,
)

log = logging.getLogger("watchbill.spool")

TAIL_BYTES_MAX = 256 * KIB
"""Records kept in memory although they are durable, so that a live session reads no file."""
UNSYNCED_BYTES_MAX = 4 * MIB
"""Records that are not durable are kept in memory, to be written anew if a sync fails; beyond this, appending syncs."""
RING_BYTES_MAX = 1 * MIB
"""Records kept in memory because the disk takes none; beyond it the oldest go, counted."""
SEGMENTS_MAX = 4_096
"""Files of one stream; beyond it the oldest goes as if the bytes were used up."""
SEGMENT_READ_BYTES_MAX = 16 * MIB
"""No segment of ours is larger; of a stranger's file under such a name no more is read."""
SCHEMAS_KEPT = 16
BORROW_FROM = 4
"""Segments on each side in which a damaged dictionary is looked for."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
SPARE = "spare-{}.free"


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a stream may become. `reserve` are spare files kept on the disk, none for bulk."""

    bytes_max: int
    segment_bytes: int
    reserve: int = 0
    retained_bytes: int = 0
    retained_ms: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """What all segments of a store have in common, and the boot that writes them."""

    filesystem: Filesystem
    directory: Path
    store_id: bytes
    agent_id: bytes
    boot_id: bytes
    seed: int
    now_ms: Callable[[], tuple[int, int]]
    """Wall clock and boot time."""


@dataclass(slots=True, eq=False)
class _Kept:
    """A record in the tail. `frame` are its bytes on the disk, kept until they are durable."""

    record: Record
    frame: bytes
    total: int
    written: bool = False


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


@dataclass(slots=True, eq=False)
class LaneJob:
    """What a sync has to do on the disk: `run` is called in a thread and touches nothing but the disk."""

    filesystem: Filesystem
    directory: Path
    handles: list[int]
    sizes: list[tuple[Segment, int]]
    through: int
    names_changed: bool
    unlinks: list[Path]
    rewrite: tuple[Path, Path, bytes] | None = None
    recycle: list[tuple[Path, Path, int]] = field(default_factory=list)
    spares: list[tuple[Path, int]] = field(default_factory=list)
    rewritten: int = 0
    leaving: list[Segment] = field(default_factory=list)
    error: OSError | None = None
    spare_error: OSError | None = None

    def run(self) -> None:
        """Sync, then remove what nothing refers to any more."""
        disk = self.filesystem
        try:
            for handle in self.handles:
                disk.sync(handle)
            if self.rewrite is not None:
                self._write_anew(*self.rewrite)
            if self.names_changed or self.rewrite is not None:
                disk.sync_directory(self.directory)
        except OSError as exc:
            self.error = exc
            return
        for path in self.unlinks:
            with contextlib.suppress(OSError):  # It stays, and is known for what it is at the next start.
                disk.unlink(path)
        try:
            for old, new, size in self.recycle:
                self._recycle(old, new, size)
            for path, size in self.spares:
                self._spare(path, size)
        except OSError as exc:
            self.spare_error = exc

    def _write_anew(self, temporary: Path, path: Path, data: bytes) -> None:
        disk = self.filesystem
        disk.unlink(temporary)
        handle = disk.create(temporary)
        try:
            disk.write(handle, 0, data)
            disk.sync(handle)
        except OSError:
            disk.unlink(temporary)
            raise
        finally:
            disk.close(handle)
        disk.rename(temporary, path)

    def _recycle(self, old: Path, new: Path, size: int) -> None:
        """An acknowledged segment becomes room for another: its blocks are not given back to a full disk."""
        disk = self.filesystem
        handle = disk.open(old)
        try:
            disk.write(handle, 0, bytes(size))
            disk.sync(handle)
        finally:
            disk.close(handle)
        disk.rename(old, new)

    def _spare(self, path: Path, size: int) -> None:
        disk = self.filesystem
        handle = disk.create(path)
        try:
            disk.allocate(handle, size)
            disk.sync(handle)
        except OSError:
            disk.unlink(path)
            raise
        finally:
            disk.close(handle)


class Lane:
    """One stream. `note` makes the note that a segment begins with."""

    def __init__(self, stream: Stream, place: Place, limits: Limits, note: Callable[["Lane"], bytes]) -> None:
        self.stream = stream
        self.place = place
        self.limits = limits
        self.counters = LaneCounters()
        self.base = 0
        self.gaps: list[Record] = []
        self.segments: list[Segment] = []
        self.tail: deque[_Kept] = deque()
        self.last = 0
        self.total = 0
        self.durable = 0
        self.acked = 0
        self.acked_digest = NO_DIGEST
        self.sent_through = 0
        self.dropped: dict[int, int] = {}
        self.uncertain: list[tuple[int, int]] = []
        self.failing = False
        self.error: OSError | None = None
        self.note_due = False
        self.spares = 0
        self._note = note
        self._active: Segment | None = None
        self._dirty: list[Segment] = []
        self._names_changed = False
        self._leaving: list[Segment] = []
        self._leaving_now: list[Segment] = []  # With the sync that runs.
        self._tail_bytes = 0
        self._busy = False
        self._rewriting = False
        self._grown = False
        self._handles_done: list[int] = []
        self._known: OrderedDict[int, Schema] = OrderedDict()
        self._decoded: tuple[Segment | None, int, list[Record]] = (None, 0, [])

    # ------------------------------------------------------------ how it stands

    @property
    def first(self) -> int:
        """The first number that is held, as data or in a gap."""
        if self.gaps:
            return self.gaps[0].first
        for segment in self.segments:
            if segment.last >= segment.first:
                return max(1, segment.first)
        return self.tail[0].record.first if self.tail else self.last + 1

    @property
    def sendable(self) -> int:
        """What may be sent: what is durable; everything, while nothing can be made durable."""
        return self.last if self.failing else self.durable

    @property
    def disk_bytes(self) -> int:
        """Bytes of its segments."""
        return sum(one.room for one in self.segments)

    def _sync_now(self) -> None:
        """Whoever appends faster than anybody syncs waits for the disk himself: memory is bounded."""
        job = self.begin_sync()
        if job is not None:
            job.run()
            self.end_sync(job)

    @property
    def waiting_bytes(self) -> int:
        """Bytes of segments that hold something unacknowledged, and of what no file has."""
        held = sum(one.size for one in self.segments if one.last > self.acked)
        return held + sum(len(kept.frame) for kept in self.tail if not kept.written)

    @property
    def unsynced(self) -> bool:
        """Whether something waits for a sync."""
        return self.durable < self.last or self.note_due or self.failing

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
        if held.gap is GapReason.OVERFLOW and not self._may_have_been_sent(seq):
            return None
        return held.digest

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
        if self.tail and self.tail[0].record.first <= seq + 1:
            place = bisect.bisect_right(self.tail, seq, key=lambda kept: kept.record.last)
            record = self.tail[place].record
            return record if record.last <= self.sendable else None
        return self._from_segments(seq)

    def _from_segments(self, seq: int) -> Record | None:
        place = bisect.bisect_right(self.segments, seq + 1, key=lambda segment: segment.first) - 1
        for segment in self.segments[max(0, place) :]:
            if segment.last <= seq:
                continue
            records = self._read(segment)
            found = bisect.bisect_right(records, seq, key=lambda record: record.last)
            if found < len(records):
                return records[found]
        return self.tail[0].record if self.tail else None

    def _read(self, segment: Segment) -> list[Record]:
        """The records of a segment; the last one read is remembered."""
        kept, last, records = self._decoded
        if kept is segment and last == segment.last:
            return records
        records = self._records_of(segment, self.found(segment))
        self._decoded = (segment, segment.last, records)
        return records

    def found(self, segment: Segment) -> Found:
        """Read a segment's file; one that cannot be read is as one in which everything is damaged."""
        try:
            data = self.place.filesystem.read(segment.path, SEGMENT_READ_BYTES_MAX)
        except OSError as exc:
            log.warning("a segment cannot be read", extra=fields(path=segment.path, reason=exc))
            data = b""
        return examine(data[: segment.size], self.place.seed)

    def records_of(self, segment: Segment) -> list[Record]:
        """The records of a segment."""
        return self._records_of(segment, self.found(segment))

    def _records_of(self, segment: Segment, found: Found) -> list[Record]:
        for schema in found.schemas.values():
            self._remember(schema)
        self._borrow(segment, {one for frame in found.numbered for one in frame.schema_ids})
        place = self.segments.index(segment) if segment in self.segments else -1
        after = self.total
        if 0 <= place < len(self.segments) - 1:
            after = self.segments[place + 1].samples_before
        elif self.tail and self.tail[0].record.first > segment.last:
            first = self.tail[0]
            after = first.total - (first.record.samples if first.record.gap is None else 0)
        return read_records(found, segment, self.base, after, self._known)

    def _borrow(self, segment: Segment, wanted: set[int]) -> None:
        """A damaged dictionary is in the segments beside it as well, more often than not."""
        here = self.segments.index(segment) if segment in self.segments else 0
        beside = [
            *self.segments[here + 1 : here + 1 + BORROW_FROM],
            *self.segments[max(0, here - BORROW_FROM) : here],
        ]
        for other in beside:
            if wanted <= self._known.keys():
                return
            for schema in self.found(other).schemas.values():
                self._remember(schema)

    def _remember(self, schema: Schema) -> None:
        self._known[schema.schema_id] = schema
        self._known.move_to_end(schema.schema_id)
        while len(self._known) > SCHEMAS_KEPT:
            self._known.popitem(last=False)

    # ------------------------------------------------------------ records in

    def append(self, draft: Draft) -> int:
        """Keep a record. A critical one that cannot be written is refused (SpoolFull), and leaves no trace."""
        seq = self.last + 1
        content = number(seq, draft.body)
        assert len(content) <= RECORD_BYTES_MAX, "the batcher splits what is larger"
        times = (draft.first_boottime_ms, draft.last_boottime_ms)
        record = Record(seq, seq, content, digest_of(content), draft.samples, *times, draft.schemas)
        ids = tuple(schema.schema_id for schema in draft.schemas)
        total = self.total + draft.samples
        frame = Frame(Kind.DATA, seq + self.base, total, draft.samples, *times, ids, draft.body)
        self._keep(_Kept(record, encode_frame(frame, self.place.seed), total))
        return seq

    def notice(self, body: GapBody) -> int:
        """Keep a gap that lost no record."""
        seq = self.last + 1
        self._keep(self._gap_kept(gap_record(seq, seq, body), self.total))
        return seq

    def _gap_kept(self, gap: Record, total: int) -> _Kept:
        first, last = gap.first + self.base, gap.last + self.base
        body = GapBody(_reason(gap), gap.samples, gap.first_boottime_ms, gap.last_boottime_ms, gap.parts)
        payload = encode_gap(first, last, body, notice=gap.notice)
        lost = 0 if gap.notice else gap.samples
        frame = Frame(Kind.GAP, first, total, min(lost, 2**32 - 1), 0, 0, (), payload)
        return _Kept(gap, encode_frame(frame, self.place.seed), total)

    def _keep(self, kept: _Kept) -> None:
        critical = self.stream is Stream.CRIT
        if critical and self.waiting_bytes + len(kept.frame) > self.limits.bytes_max:
            self.counters.refused += 1
            raise SpoolFull(
                f"{self.waiting_bytes} bytes of critical records wait already; the collector is away"
            )
        # Behind records that no file has, this one has to wait for the file that they get.
        if not self.failing and not (self.tail and not self.tail[-1].written):
            try:
                self._write(kept)
            except OSError as exc:
                self.counters.write_failures += 1
                if critical:
                    self.counters.refused += 1
                    raise SpoolFull(f"the disk takes no critical record: {exc.strerror or exc}") from exc
                self._fail(exc)
        self.tail.append(kept)
        self._tail_bytes += len(kept.record.content)
        self.last, self.total = kept.record.last, kept.total
        self.counters.appended_records += 1
        self.counters.appended_bytes += len(kept.frame)
        self._shrink_tail()
        if self.failing and not self._rewriting:
            self._shrink_ring()
        if self._grown:
            self._keep_the_bound()
        if self._tail_bytes > UNSYNCED_BYTES_MAX and not self._busy and not self.failing:
            self._sync_now()

    def _write(self, kept: _Kept) -> None:
        """Write a record behind the others. Raises OSError when there is no room to be made."""
        while True:
            try:
                self._write_once(kept)
                return
            except OSError as exc:
                self._abandon()
                if exc.errno not in FULL or not self._make_room():
                    raise

    def _write_once(self, kept: _Kept) -> None:
        segment = self._active
        fresh = [
            schema
            for schema in kept.record.schemas
            if segment is None or segment.dictionaries is None or schema.schema_id not in segment.dictionaries
        ]
        extra = b"".join(dictionary_frames(schema, self.place.seed) for schema in fresh)
        size = len(extra) + len(kept.frame)
        if segment is not None and self._is_full(segment, size):
            self._active = segment = None
            fresh = list(kept.record.schemas)
            extra = b"".join(dictionary_frames(schema, self.place.seed) for schema in fresh)
        if segment is None:
            segment = self._begin(kept.record.first, len(extra) + len(kept.frame))
        data = b"".join(
            (self._beginning(segment), self._note_frame() if self.note_due else b"", extra, kept.frame)
        )
        self.place.filesystem.write(segment.handle, segment.size, data)
        self._wrote(segment, len(data))
        self.note_due = False
        assert segment.dictionaries is not None
        for schema in fresh:
            segment.dictionaries.add(schema.schema_id)
            self._remember(schema)
        segment.dictionary_bytes += len(extra)
        segment.last = kept.record.last
        kept.written = True

    def _is_full(self, segment: Segment, more: int) -> bool:
        # Where dictionaries are large a segment may be larger, so that they stay a small part of it.
        limit = max(self.limits.segment_bytes, 4 * segment.dictionary_bytes)
        if self.limits.reserve:
            limit = segment.room  # Its room is what was reserved.
        return segment.size + more > limit and segment.last >= segment.first

    def _wrote(self, segment: Segment, size: int) -> None:
        segment.size += size
        segment.room = max(segment.room, segment.size)
        if segment not in self._dirty:
            self._dirty.append(segment)

    def _beginning(self, segment: Segment) -> bytes:
        """The header and the note, where nothing is written yet."""
        if segment.size:
            return b""
        wall_ms, boottime_ms = self.place.now_ms()
        header = Header(
            int(self.stream),
            self.place.store_id,
            self.place.agent_id,
            segment.first + self.base,
            segment.samples_before,
            wall_ms,
            boottime_ms,
            self.place.boot_id,
        )
        segment.boottime_ms = boottime_ms
        self.note_due = True
        return encode_header(header)

    def _note_frame(self) -> bytes:
        frame = Frame(Kind.CHECKPOINT, 0, 0, 0, 0, 0, (), self._note(self))
        return encode_frame(frame, self.place.seed)

    def _begin(self, first: int, size: int) -> Segment:
        """A file for the records from `first` on. Raises OSError."""
        disk = self.place.filesystem
        path = self._free_name(first)
        room = 0
        if self.limits.reserve:
            room = max(self.limits.segment_bytes, size + HEADER_BYTES + 4 * KIB)
            handle, room = self._reserved(path, room)
        else:
            handle = disk.create(path)
        self._names_changed = True
        segment = Segment(path, first, first - 1, 0, room, self.total, 0, this_boot=True, handle=handle)
        segment.dictionaries = set()
        self._active = segment
        self.segments.append(segment)
        self._grown = True
        return segment

    def _free_name(self, first: int, *, anew: bool = False) -> Path:
        """A name that no file has. What is written anew has a higher generation than what it replaces."""
        taken = {one.path.name for one in (*self.segments, *self._leaving, *self._dirty)}
        generation = 0
        if anew:
            generation = 1 + max((found[1] for name in taken if (found := parse_name(name))), default=0)
        while (name := segment_name(first + self.base, generation)) in taken:
            generation += 1
        return self.place.directory / name

    def _reserved(self, path: Path, room: int) -> tuple[int, int]:
        """A file whose room is on the disk already: a spare one, or else one made now."""
        disk = self.place.filesystem
        usual = self.limits.segment_bytes
        if room <= usual and self.spares:
            spare = self.place.directory / SPARE.format(self.spares - 1)
            self.spares -= 1
            disk.rename(spare, path)
            return disk.open(path), usual
        handle = disk.create(path)
        try:
            disk.allocate(handle, room)
        except OSError:
            disk.close(handle)
            disk.unlink(path)
            raise
        return handle, room

    def _abandon(self) -> None:
        """Write nothing more to the active segment."""
        segment, self._active = self._active, None
        if segment is not None and segment.last < segment.first:
            # Nothing in it counts: away with it, so that its name and its room are free.
            self.segments.remove(segment)
            if segment in self._dirty:
                self._dirty.remove(segment)
            self._give_back(segment)

    def _give_back(self, segment: Segment) -> None:
        self._close(segment)
        with contextlib.suppress(OSError):
            self.place.filesystem.unlink(segment.path)

    def _close(self, segment: Segment) -> None:
        if segment.handle and self._busy:
            self._handles_done.append(segment.handle)  # The thread may be syncing it.
        elif segment.handle:
            self.place.filesystem.close(segment.handle)
        segment.handle = 0

    def _make_room(self) -> bool:
        """On a full disk: give the oldest away. False when there is nothing to give."""
        if self._leaving:
            self._give_back(self._leaving.pop(0))
            return True
        if self.stream is Stream.CRIT:
            retained = next(
                (one for one in self.segments if one.last <= self.acked and one is not self._active), None
            )
            if retained is None:
                return False
            self.segments.remove(retained)
            self._give_back(retained)
            return True
        if len(self.segments) <= 1:
            return False  # The newest records are worth more in one file than nowhere.
        self._drop_oldest()
        if self._leaving:
            self._give_back(self._leaving.pop())
        return True

    # ------------------------------------------------------------ what has no room

    def _keep_the_bound(self) -> None:
        """The oldest segments go while there is too much; asked whenever a segment began."""
        self._grown = False
        if self.stream is Stream.CRIT:
            return
        # The segment that has just begun will be full some day.
        held = sum(one.room for one in self.segments[:-1]) + self.limits.segment_bytes
        while len(self.segments) > 1 and (held > self.limits.bytes_max or len(self.segments) > SEGMENTS_MAX):
            held -= self.segments[0].room
            self._drop_oldest()
        # They leave after the next sync, when the note about them is durable; too many do not wait for it.
        room = self.limits.bytes_max + self.limits.segment_bytes
        while (leaving := [*self._leaving_now, *self._leaving]) and held + sum(
            one.room for one in leaving
        ) > room:
            self._give_back((self._leaving_now or self._leaving).pop(0))

    def _drop_oldest(self) -> None:
        """The oldest segment leaves; what the collector lacks of it becomes gaps."""
        segment = self.segments[0]
        records = list(self._read(segment)) if segment.last > self.acked else []
        self.segments.pop(0)
        if segment is self._active:
            self._active = None
        if segment in self._dirty:
            self._dirty.remove(segment)
        self._drop([record for record in records if record.last > self.acked])
        while self.tail and self.tail[0].record.last <= segment.last:
            self._tail_bytes -= len(self.tail.popleft().record.content)
        self._close(segment)
        self._leaving.append(segment)
        self.note_due = True

    def _drop(self, records: list[Record]) -> None:
        """Gaps in the place of records: one for each row of records, told so that a collector that holds the
        first of them can say what is missing beyond."""
        row: list[Record] = []
        for record in records:
            if record.gap is None:
                row.append(record)
                continue
            self._drop_row(row)
            row = []
            self._put_gap(record)
        self._drop_row(row)

    def _drop_row(self, row: list[Record]) -> None:
        if row:
            self._put_gap(self._overflow(row))

    def _overflow(self, row: list[Record]) -> Record:
        """Count records as lost; the gap in their place."""
        sent = [record for record in row if record.last <= self.sent_through]
        for record in sent[: DROPPED_MAX - len(self.dropped)]:
            self.dropped[record.last] = record.digest
        samples = sum(record.samples for record in row)
        self.counters.dropped_records += len(row)
        self.counters.dropped_samples += samples
        parts: tuple[GapPart, ...] = ()
        for place, record in enumerate(sent):
            parts = joined(parts, place, [GapPart(1, record.samples)], divisible=True)
        if len(row) > len(sent):
            rest = GapPart(len(row) - len(sent), samples - sum(record.samples for record in sent))
            parts = joined(parts, len(sent), [rest], divisible=True, alike=False)
        times = (row[0].first_boottime_ms, row[-1].last_boottime_ms)
        body = GapBody(GapReason.OVERFLOW, samples, *times, parts)
        return gap_record(row[0].first, row[-1].last, body)

    def _put_gap(self, gap: Record) -> None:
        """Put a gap behind the others, merged with its neighbour when the reason is the same."""
        if self.gaps and self.gaps[-1].last + 1 == gap.first:
            before = self.gaps[-1]
            if (before.gap is gap.gap and not gap.notice) or len(self.gaps) >= GAPS_HELD_MAX:
                self.gaps.pop()
                gap = merged(
                    before,
                    gap,
                    divisible=before.last <= self.sent_through,
                    alike=gap.first <= self.sent_through,
                )
        self.gaps.append(gap)

    def _fail(self, error: OSError) -> None:
        if not self.failing:
            log.error(
                "the spool's disk takes nothing; records stay in memory",
                extra=fields(stream=self.stream.name.lower(), reason=error.strerror or error),
            )
        self.failing = True
        self.error = error

    def _shrink_tail(self) -> None:
        """Forget records that can be read from the disk."""
        while self._tail_bytes > TAIL_BYTES_MAX and self.tail and self.tail[0].record.last <= self.durable:
            self._tail_bytes -= len(self.tail.popleft().record.content)

    def _shrink_ring(self) -> None:
        """Of what no file has, the oldest becomes a gap when it is too much."""
        waiting = sum(len(kept.frame) for kept in self.tail if not kept.written)
        if waiting <= RING_BYTES_MAX or self.stream is Stream.CRIT:
            return
        kept = list(self.tail)
        place = next(index for index, one in enumerate(kept) if not one.written)
        while waiting > RING_BYTES_MAX // 2 and place + 1 < len(kept) - 1:
            one, two = kept[place], kept[place + 1]
            gap = merged(
                self._lost(one.record),
                self._lost(two.record),
                divisible=one.record.last <= self.sent_through,
                alike=two.record.first <= self.sent_through,
            )
            joined = self._gap_kept(gap, two.total)
            waiting += len(joined.frame) - len(one.frame) - len(two.frame)
            kept[place : place + 2] = [joined]
        self.tail = deque(kept)
        self._tail_bytes = sum(len(one.record.content) for one in kept)

    def _lost(self, record: Record) -> Record:
        return record if record.gap is not None else self._overflow([record])

    # ------------------------------------------------------------ making it durable

    def begin_sync(self) -> LaneJob | None:
        """What a sync has to do now; None when there is nothing. `end_sync` has to follow."""
        assert not self._busy, "one sync at a time"
        unwritten = [kept for kept in self.tail if not kept.written]
        if self.note_due and not unwritten:
            self._write_note()
        rewrite, rewritten = None, 0
        if unwritten:
            rewrite, rewritten = self._anew(unwritten), unwritten[-1].record.last
        through = max((kept.record.last for kept in self.tail if kept.written), default=self.durable)
        ready = [] if self.note_due else self._leaving
        recycle, unlinks = self._recycled(ready)
        spares = self._wanted_spares(len(recycle))
        if not (self._dirty or self._names_changed or rewrite or ready or spares):
            return None
        if ready:
            self._leaving, self._leaving_now = [], list(ready)
        self._busy, self._rewriting = True, rewrite is not None
        job = LaneJob(
            self.place.filesystem,
            self.place.directory,
            [segment.handle for segment in self._dirty],
            [(segment, segment.size) for segment in self._dirty],
            through,
            self._names_changed,
            unlinks,
            rewrite,
            recycle,
            spares,
            rewritten,
            ready,
        )
        self._names_changed = False
        return job

    def end_sync(self, job: LaneJob) -> bool:
        """Take note of what a sync did. True when everything written before it is durable."""
        self._busy = self._rewriting = False
        self._leaving_now = []
        for handle in self._handles_done:
            self.place.filesystem.close(handle)
        self._handles_done.clear()
        self.spares += (
            len(job.recycle) + len(job.spares) if job.spare_error is None and job.error is None else 0
        )
        if job.error is not None:
            self._sync_failed(job)
            return False
        self.counters.syncs += 1
        for segment, size in job.sizes:
            if segment.size == size and segment in self._dirty:
                self._dirty.remove(segment)
                if segment is not self._active:
                    self._close(segment)
        self._is_durable(job.through)
        if job.rewrite is not None:
            self._rewritten(job)
        if self.failing and all(kept.written for kept in self.tail):
            log.info("the spool's disk takes records again", extra=fields(stream=self.stream.name.lower()))
            self.failing = False
            self.error = None
        return True

    def _is_durable(self, through: int) -> None:
        self.durable = max(self.durable, through)
        for kept in self.tail:
            if kept.record.last > self.durable:
                break
            kept.frame = b""
        self._shrink_tail()

    def _sync_failed(self, job: LaneJob) -> None:
        """Nothing that was not durable can be trusted to be in these files: it is written anew."""
        assert job.error is not None
        self.counters.sync_failures += 1
        self._names_changed = self._names_changed or job.names_changed
        self._leaving = job.leaving + self._leaving
        self._fail(job.error)
        self._active = None
        self.note_due = True
        for segment in self._dirty:
            self._close(segment)
            if segment.last > self.durable:
                segment.last = max(segment.first - 1, self.durable)
        for segment in [one for one in self._dirty if one.last < one.first]:
            self.segments.remove(segment)
            self._leaving.append(segment)
        self._dirty.clear()
        for kept in self.tail:
            if kept.record.last > self.durable:
                kept.written = False
        if job.error.errno in FULL:
            self._make_room()

    def _anew(self, unwritten: list[_Kept]) -> tuple[Path, Path, bytes]:
        """A whole segment with what no file has."""
        first = unwritten[0]
        path = self._free_name(first.record.first, anew=True)
        wall_ms, boottime_ms = self.place.now_ms()
        before = first.total - first.record.samples if not first.record.notice else first.total
        header = Header(
            int(self.stream),
            self.place.store_id,
            self.place.agent_id,
            first.record.first + self.base,
            max(0, before),
            wall_ms,
            boottime_ms,
            self.place.boot_id,
        )
        schemas = {schema.schema_id: schema for kept in unwritten for schema in kept.record.schemas}
        pieces = [encode_header(header), self._note_frame()]
        pieces += [dictionary_frames(schema, self.place.seed) for schema in schemas.values()]
        pieces += [kept.frame for kept in unwritten]
        return path.with_suffix(".tmp"), path, b"".join(pieces)

    def _rewritten(self, job: LaneJob) -> None:
        assert job.rewrite is not None
        _, path, data = job.rewrite
        anew = [kept for kept in self.tail if not kept.written and kept.record.last <= job.rewritten]
        for kept in anew:
            kept.written = True
        if not anew:
            # Acknowledged or dropped in the meantime; the file has nothing that is needed.
            self._leaving.append(Segment(path, 1, 0, len(data), len(data), 0, 0, this_boot=True))
            self.note_due = True
            return
        before = anew[0].total - (0 if anew[0].record.notice else anew[0].record.samples)
        segment = Segment(
            path,
            anew[0].record.first,
            job.rewritten,
            len(data),
            len(data),
            max(0, before),
            self.place.now_ms()[1],
            this_boot=True,
        )
        place = bisect.bisect_right(self.segments, segment.first, key=lambda one: one.first)
        self.segments.insert(place, segment)
        self._grown = True
        self._is_durable(job.rewritten)

    def _write_note(self) -> None:
        """The note alone, behind the records there are. A disk that refuses it costs exactness only."""
        try:
            segment = self._active
            if segment is None:
                segment = self._begin(self.last + 1, 0)
            beginning = self._beginning(segment)
            data = beginning + self._note_frame()
            self.place.filesystem.write(segment.handle, segment.size, data)
            self._wrote(segment, len(data))
            self.note_due = False
        except OSError:
            self.counters.write_failures += 1
            self._abandon()

    # ------------------------------------------------------------ the reserve

    def _recycled(self, leaving: list[Segment]) -> tuple[list[tuple[Path, Path, int]], list[Path]]:
        """Which leaving segments become spare files, and which go."""
        recycle: list[tuple[Path, Path, int]] = []
        unlinks: list[Path] = []
        for segment in leaving:
            usual = segment.room == self.limits.segment_bytes
            if self.limits.reserve and usual and self._spares_short(len(recycle)) > 0:
                name = SPARE.format(self.spares + len(recycle))
                recycle.append((segment.path, self.place.directory / name, segment.room))
            else:
                unlinks.append(segment.path)
        return recycle, unlinks

    def _spares_short(self, coming: int) -> int:
        in_use = sum(one.last > self.acked or one is self._active for one in self.segments)
        return self.limits.reserve - self.spares - coming - in_use

    def _wanted_spares(self, coming: int) -> list[tuple[Path, int]]:
        """One at a time: the reserve is made beside the work."""
        if self._spares_short(coming) <= 0 or self.failing:
            return []
        name = SPARE.format(self.spares + coming)
        return [(self.place.directory / name, self.limits.segment_bytes)]

    @property
    def reserve_short(self) -> int:
        """Spare files that are still missing."""
        return max(0, self._spares_short(0)) if self.limits.reserve else 0

    # ------------------------------------------------------------ what the protocol orders

    def release(self, through: int, digest: int) -> None:
        """Everything up to `through` is the collector's."""
        self.acked, self.acked_digest = through, digest
        while self.gaps and self.gaps[0].last <= through:
            self.gaps.pop(0)
        for seq in [seq for seq in self.dropped if seq <= through]:
            del self.dropped[seq]
        self.durable = max(self.durable, min(through, self.last))
        for kept in self.tail:
            if kept.record.last > through:
                break
            kept.written = True  # No file needs it any more.
        self._shrink_tail()
        self.retire()

    def retire(self) -> None:
        """Let go of acknowledged segments; critical ones are retained for a while, for a collector that has to be
        restored."""
        uptime_ms = self.place.now_ms()[1]
        acked = [one for one in self.segments if one.last <= self.acked and one is not self._active]
        retained = sum(one.room for one in acked)
        for segment in acked:  # The oldest first: what is missing is always what lies before the rest.
            # A segment of an earlier boot is at least as old as this one; wall clocks are not asked.
            age_ms = uptime_ms - (segment.boottime_ms if segment.this_boot else 0)
            if retained <= self.limits.retained_bytes and age_ms <= self.limits.retained_ms:
                return
            retained -= segment.room
            self.segments.remove(segment)
            if segment in self._dirty:
                self._dirty.remove(segment)
            self._close(segment)
            self._leaving.append(segment)
            self.note_due = True

    def rewind(self, through: int, digest: int) -> None:
        """The collector holds less than it acknowledged."""
        self.acked, self.acked_digest = through, digest
        self.note_due = True

    def put_first(self, first: int, last: int, reason: GapReason) -> None:
        """What a rewound collector lacks is not here any more."""
        assert last + 1 == self.first, "a gap leaves no hole before what is held"
        gap = gap_record(first, last, GapBody(reason))
        if self.gaps and self.gaps[0].gap is reason:
            gap = merged(gap, self.gaps.pop(0), divisible=True)
        self.gaps.insert(0, gap)
        self.note_due = True

    def fork(self) -> None:
        """Number what is retained and not acknowledged from 1."""
        shift = self.acked
        self.retire()
        self.base += shift
        self.gaps = [moved for gap in self.gaps if (moved := _moved_gap(gap, shift)) is not None]
        for segment in (*self.segments, *self._leaving):
            segment.first -= shift
            segment.last -= shift
        moved_tail: deque[_Kept] = deque()
        for kept in self.tail:
            record = kept.record
            if record.last <= shift:
                continue
            if record.gap is not None:
                moved = _moved_gap(record, shift)
                assert moved is not None
            else:
                content = number(record.first - shift, record.content[len(number(record.first, b"")) :])
                moved = replace(
                    record,
                    first=record.first - shift,
                    last=record.last - shift,
                    content=content,
                    digest=digest_of(content),
                )
            moved_tail.append(_Kept(moved, kept.frame, kept.total, kept.written))
        self.tail = moved_tail
        self._tail_bytes = sum(len(kept.record.content) for kept in moved_tail)
        self._decoded = (None, 0, [])
        self.last -= shift
        self.durable = max(0, self.durable - shift)
        self.acked, self.acked_digest, self.sent_through = 0, NO_DIGEST, 0
        self.dropped.clear()
        self.uncertain = [(first - shift, last - shift) for first, last in self.uncertain if last > shift]
        self.note_due = True

    # ------------------------------------------------------------ opening

    def adopt_tail(self, records: list[Record], totals: list[int]) -> None:
        """Records of a segment that could not be synced at the start: they go to a new one."""
        for record, total in zip(records, totals, strict=True):
            if record.gap is not None:
                kept = self._gap_kept(record, total)
            else:
                ids = tuple(schema.schema_id for schema in record.schemas)
                body = record.content[len(number(record.first, b"")) :]
                times = (record.first_boottime_ms, record.last_boottime_ms)
                frame = Frame(Kind.DATA, record.first + self.base, total, record.samples, *times, ids, body)
                kept = _Kept(record, encode_frame(frame, self.place.seed), total)
            self.tail.append(kept)
            self._tail_bytes += len(record.content)

    def go_on_with(self, segment: Segment, found: Found) -> None:
        """Write on in the newest segment of the process before."""
        segment.dictionaries = set(found.schemas)
        self._active = segment

    def leave(self, segment: Segment) -> None:
        """A segment that nothing needs."""
        self._leaving.append(segment)
        self.note_due = True

    def gap_notes(self) -> tuple[GapNote, ...]:
        """The gaps, for a note."""
        return tuple(
            GapNote(
                gap.first + self.base,
                gap.last + self.base,
                _reason(gap),
                gap.samples,
                gap.first_boottime_ms,
                gap.last_boottime_ms,
                gap.parts,
            )
            for gap in self.gaps
        )

    def close(self) -> None:
        """Give every handle back. What is not synced by now is not durable."""
        for segment in (*self.segments, *self._leaving, *self._dirty):
            self._close(segment)
        self._active = None


def _reason(gap: Record) -> GapReason:
    assert gap.gap is not None
    return gap.gap


def _moved_gap(gap: Record, shift: int) -> Record | None:
    """A gap with other numbers, without what lies before them; None when nothing is left."""
    if gap.last <= shift:
        return None
    held = max(0, shift + 1 - gap.first)
    samples, parts = gap.samples, gap.parts
    if held:
        samples, parts = samples_beyond(parts, samples, held) or 0, ()
    body = GapBody(_reason(gap), samples, gap.first_boottime_ms, gap.last_boottime_ms, parts)
    return gap_record(gap.first + held - shift, gap.last - shift, body)
