"""The spool on disk: what was appended survives the agent, and what was synced survives the machine.

`docs/spool-format.md` describes the files, `lane` what happens when they fail. This module opens a directory and
puts the two streams together: they share one name (`spool_id`) and one fork.

Opening reads the headers of all segments and the newest segment of each stream whole, nothing else: appends can
begin at once, however much is held. `verify` looks at the rest a segment at a time, beside the work.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from watchbill.clock import Clock, SystemClock
from watchbill.codec import GapBody
from watchbill.errors import StorageError
from watchbill.files import Lock
from watchbill.limits import KIB, MIB, RETIRED_SPOOLS_KEPT, SPOOL_DISK_BYTES_DEFAULT
from watchbill.logs import fields
from watchbill.protocol.client import Fork, MarkLost, Release, Rewind
from watchbill.protocol.frames import (
    NO_DIGEST,
    SPOOL_ID_BYTES,
    GapReason,
    RetiredSpool,
    Stream,
    StreamState,
)
from watchbill_agent.spool.filesystem import Filesystem, SystemFilesystem
from watchbill_agent.spool.format import BOOT_ID_BYTES, STORE_ID_BYTES, bad_stretches, seed_of
from watchbill_agent.spool.lane import Lane
from watchbill_agent.spool.lane_job import LaneJob
from watchbill_agent.spool.note import Note, decode_note, encode_note
from watchbill_agent.spool.place import Limits, Place
from watchbill_agent.spool.records import Draft, Record, SpoolFacts, gap_record, merged
from watchbill_agent.spool.segment import (
    UNKNOWN,
    Found,
    Segment,
    numbers_used,
    samples_between,
    total_after,
)
from watchbill_agent.spool.store import (
    QUARANTINE,
    STREAM_DIRECTORIES,
    Contents,
    SegmentFile,
    find,
    quarantine_bytes,
)

log = logging.getLogger("watchbill.spool")

LOCK_NAME = "spool.lock"
CRIT_BYTES_DEFAULT = 4 * MIB
BULK_SEGMENT_BYTES = 1 * MIB
CRIT_SEGMENT_BYTES = 256 * KIB
SEGMENT_BYTES_MIN = 16 * KIB
SEGMENTS_WANTED = 8
"""A small spool has smaller segments: what is dropped at a time stays a small part of it."""
CRIT_RETAINED_MS = 72 * 3_600_000
CRIT_RETAINED_TIMES = 4
"""Acknowledged critical records may take so many times the reserve, when the disk has room."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much a spool may take of the disk."""

    bytes_max: int = SPOOL_DISK_BYTES_DEFAULT
    crit_bytes: int = CRIT_BYTES_DEFAULT

    def limits(self, stream: Stream) -> Limits:
        """The limits of one stream."""
        if stream is Stream.BULK:
            segment = max(SEGMENT_BYTES_MIN, min(BULK_SEGMENT_BYTES, self.bytes_max // SEGMENTS_WANTED))
            return Limits(self.bytes_max, segment)
        segment = max(SEGMENT_BYTES_MIN, min(CRIT_SEGMENT_BYTES, self.crit_bytes // SEGMENTS_WANTED))
        reserve = max(2, self.crit_bytes // segment)
        return Limits(
            self.crit_bytes, segment, reserve, CRIT_RETAINED_TIMES * self.crit_bytes, CRIT_RETAINED_MS
        )


@dataclass(slots=True)
class _Opened:
    """A stream as it was found."""

    lane: Lane
    note: Note | None = None
    newest: Found | None = None


class DiskSpool:
    """A spool in `directory`, of one agent; `agent_id` are the 16 bytes of its id.

    One process at a time: a lock is held until `close`. Raises Refused when another one has it, StorageError
    when the directory cannot be made.
    """

    def __init__(
        self,
        directory: Path,
        agent_id: bytes,
        *,
        sizes: Sizes | None = None,
        filesystem: Filesystem | None = None,
        clock: Clock | None = None,
        boot_id: bytes = bytes(BOOT_ID_BYTES),
        retired: Sequence[RetiredSpool] = (),
        new_id: Callable[[], bytes] = lambda: os.urandom(SPOOL_ID_BYTES),
    ) -> None:
        self.directory = directory
        self._disk = filesystem or SystemFilesystem()
        self._clock = clock or SystemClock()
        self._boot_id = boot_id
        self._new_id = new_id
        self._sizes = sizes or Sizes()
        for name in STREAM_DIRECTORIES.values():
            self._disk.make_directory(directory / name)
        self._lock = Lock(directory / LOCK_NAME) if filesystem is None else None
        try:
            self._open(agent_id, tuple(retired))
        except OSError as exc:
            self.close()
            raise StorageError(f"{directory}: the spool cannot be read: {exc.strerror or exc}") from exc
        except BaseException:
            self.close()
            raise

    # ------------------------------------------------------------ opening

    def _open(self, agent_id: bytes, retired: tuple[RetiredSpool, ...]) -> None:
        contents = find(self._disk, self.directory, agent_id)
        store_id = contents.store_id or os.urandom(STORE_ID_BYTES)
        self.quarantined = contents.quarantined
        self._lanes: dict[Stream, Lane] = {}
        opened = {stream: self._found(stream, store_id, agent_id, contents) for stream in Stream}
        notes = [one.note for one in opened.values() if one.note is not None]
        known = max(notes, key=lambda note: note.epoch, default=None)
        self._epoch = 0 if known is None else known.epoch
        self._spool_id = self._new_id() if known is None else known.spool_id
        self._retired = self._without_own((known.retired if known is not None else ()), retired)
        for stream, one in opened.items():
            base = 0 if known is None else known.bases.get(stream, 0)
            self._settle(one, base)
        if known is None:
            # The name must be durable before anybody is told of it.
            self._lanes[Stream.BULK].files.note_due = True
        self.held_before = any(lane.last for lane in self._lanes.values())
        """Whether an earlier process left something, so that this one goes on with its numbers."""
        newest = opened[Stream.BULK].newest
        shift_ms = self._lanes[Stream.BULK].segments[-1].shift_ms if newest is not None else 0
        frames = [one.last_boottime_ms for one in newest.numbered if one.last_boottime_ms] if newest else []
        self.newest_ms = frames[-1] + shift_ms if frames else 0
        """When the newest record of an earlier process was sampled, in this boot's time; 0 where unknown."""

    def _without_own(
        self, noted: tuple[RetiredSpool, ...], told: tuple[RetiredSpool, ...]
    ) -> tuple[RetiredSpool, ...]:
        every = dict.fromkeys((*noted, *told))
        return tuple(one for one in every if one.spool_id != self._spool_id)[-RETIRED_SPOOLS_KEPT:]

    def _found(self, stream: Stream, store_id: bytes, agent_id: bytes, contents: Contents) -> _Opened:
        """Segments with the numbers of the files; the newest is read whole."""
        place = Place(
            self._disk,
            self.directory / STREAM_DIRECTORIES[stream],
            store_id,
            agent_id,
            self._boot_id,
            seed_of(store_id),
            lambda: (self._clock.wall_ms(), self._clock.boottime_ms()),
        )
        lane = self._lanes[stream] = Lane(stream, place, self._sizes.limits(stream), self._note)
        lane.files.reserve.spares = contents.spares if stream is Stream.CRIT else 0
        opened = _Opened(lane)
        files = contents.files[stream]
        for index, file in enumerate(files):
            beyond = files[index + 1].first if index + 1 < len(files) else None
            self._add(opened, file, beyond)
        for segment in reversed(lane.segments):
            if opened.note is not None:
                break
            newest = opened.newest if segment is lane.segments[-1] else None
            found = newest or lane.reader.found(segment)
            notes = [note for payload in found.notes if (note := decode_note(payload)) is not None]
            if notes:
                opened.note = self._in_this_boot(notes[-1], segment.shift_ms)
        return opened

    def _in_this_boot(self, note: Note, shift_ms: int) -> Note:
        def moved(time_ms: int) -> int:
            return time_ms + shift_ms if time_ms else 0

        gaps = tuple(
            replace(
                gap,
                first_boottime_ms=moved(gap.first_boottime_ms),
                last_boottime_ms=moved(gap.last_boottime_ms),
            )
            for gap in note.gaps
        )
        return replace(note, gaps=gaps)

    def _add(self, opened: _Opened, file: SegmentFile, beyond: int | None) -> None:
        """Add one file as a segment; `beyond` is where the next one begins."""
        lane, header = opened.lane, file.header
        segment = Segment(
            file.path, file.first, file.first - 1, file.size, file.size, UNKNOWN, 0, this_boot=False
        )
        if header is not None:
            segment.samples_before = header.samples_before
            segment.boottime_ms = header.boottime_ms
            segment.this_boot = header.boot_id == self._boot_id
            if not segment.this_boot:
                offset_ms = self._clock.wall_ms() - self._clock.boottime_ms()
                segment.shift_ms = header.wall_ms - header.boottime_ms - offset_ms
        if beyond is not None and header is not None:
            segment.last = beyond - 1
        else:
            found = lane.reader.found(segment)
            if header is None and found.numbered and found.numbered[0].first == file.first:
                segment.samples_before = found.numbered[0].total - found.numbered[0].samples
            segment.last = numbers_used(found, file.first - 1) if beyond is None else beyond - 1
            if beyond is None:
                opened.newest = found
                lane.total = total_after(found, segment.samples_before)
        if segment.last < segment.first and beyond is not None:
            lane.files.leave(segment)  # Another generation has its numbers.
        else:
            lane.segments.append(segment)

    def _settle(self, opened: _Opened, base: int) -> None:
        """Give a lane its numbers on the wire, and what its last note says."""
        lane, note = opened.lane, opened.note
        lane.files.renumber(base)
        lane.last = lane.segments[-1].last if lane.segments else 0
        durable = 0
        if note is not None:
            lane.acked = max(0, note.acked - base)
            lane.acked_digest = note.acked_digest if lane.acked else NO_DIGEST
            lane.dropped = {seq - base: digest for seq, digest in (note.dropped or {}).items() if seq > base}
            durable = note.durable - base
            self._settle_gaps(lane, note)
        elif lane.segments and lane.segments[0].first > 1:
            self._cover(lane, 1, lane.segments[0].first - 1, max(0, lane.segments[0].samples_before))
        if lane.acked > lane.last:
            # Numbers up to there are the collector's, whatever became of the files.
            if lane.segments:
                lane.segments[-1].last = lane.acked
            lane.last = lane.acked
            opened.newest = None
        lane.sent_through = lane.last
        self._sync_unsynced(lane, durable)
        self._continue(opened)

    def _settle_gaps(self, lane: Lane, note: Note) -> None:
        base = lane.base
        for gap in note.gaps:
            if gap.last <= base:
                continue
            times = (gap.first_boottime_ms, gap.last_boottime_ms)
            digest = lane.dropped.get(gap.last - base, NO_DIGEST)
            body = GapBody(gap.reason, gap.samples, *times, gap.parts, digest)
            first = gap.first - base
            if first < 1:
                first, body = 1, GapBody(gap.reason, 0, *times, (), digest)
            if gap.last - base > lane.acked:
                lane.gaps.append(gap_record(first, gap.last - base, body))
        through = note.through - base
        while len(lane.segments) > 1 and lane.segments[0].last <= through:
            lane.files.leave(lane.segments.pop(0))
        if not lane.segments:
            return
        covered = max(lane.acked, through, lane.gaps[-1].last if lane.gaps else 0)
        oldest = lane.segments[0]
        if oldest.first > covered + 1:
            samples = samples_between(note.total, oldest.samples_before) if covered == through else 0
            self._cover(lane, covered + 1, oldest.first - 1, samples, note.durable - base)

    def _cover(self, lane: Lane, first: int, last: int, samples: int, durable: int = 0) -> None:
        """Numbers before the oldest segment of which no note says anything: bulk was dropped on a full disk, most
        likely; critical records leave only when they are acknowledged. If the collector has them, it says so."""
        reason = GapReason.OVERFLOW
        if lane.stream is Stream.CRIT:
            # What was not durable went with the power, and its producer was not told that it was kept.
            reason = GapReason.COLLECTOR_REWIND if last <= durable else GapReason.CORRUPT
        gap = gap_record(first, last, GapBody(reason, max(0, samples)))
        if lane.gaps and lane.gaps[-1].gap is reason and lane.gaps[-1].last + 1 == first:
            gap = merged(lane.gaps.pop(), gap, divisible=True)
        lane.gaps.append(gap)
        lane.uncertain.append((first, last))

    def _sync_unsynced(self, lane: Lane, durable: int) -> None:
        """What the process before wrote and did not sync is as good as everything else, once it is synced."""
        lane.durable = lane.last
        for index, segment in enumerate(lane.segments):
            if segment.last <= durable and segment is not lane.segments[-1]:
                continue
            try:
                handle = self._disk.open(segment.path)
                segment.handle = handle
                self._disk.sync(handle)
                if segment is lane.segments[-1]:
                    self._disk.sync_directory(lane.place.directory)
                if segment is not lane.segments[-1]:
                    self._disk.close(handle)
                    segment.handle = 0
            except OSError as exc:
                log.error("a segment could not be synced", extra=fields(path=segment.path, reason=exc))
                self._take_back(lane, index)
                return

    def _take_back(self, lane: Lane, place: int) -> None:
        """Segments from `place` on are read into memory, to be written anew."""
        for segment in lane.segments[place:]:
            records = lane.reader.records_of(segment, lane.total)
            totals: list[int] = []
            total = max(0, segment.samples_before)
            for record in records:
                total += 0 if record.notice else record.samples
                totals.append(total)
            lane.adopt_tail(records, totals)
            lane.durable = min(lane.durable, segment.first - 1)
        for segment in lane.segments[place:]:
            if segment.handle:
                self._disk.close(segment.handle)
                segment.handle = 0
            lane.files.leave(segment)
        del lane.segments[place:]
        lane.failing = True

    def _continue(self, opened: _Opened) -> None:
        """Write on in the newest segment when it is whole and of this boot."""
        lane, found = opened.lane, opened.newest
        if not lane.segments or lane.failing:
            return
        newest = lane.segments[-1]
        whole = found is not None and not found.bad and newest.this_boot and newest.handle
        if whole and found is not None and found.end < lane.limits.segment_bytes:
            newest.size = found.end
            lane.go_on_with(newest, found)
        elif newest.handle:
            self._disk.close(newest.handle)
            newest.handle = 0
        if found is not None and found.bad:
            lane.counters.damaged += len(found.bad)

    # ------------------------------------------------------------ what the protocol reads

    @property
    def spool_id(self) -> bytes:
        """16 random bytes; a fork changes them."""
        return self._spool_id

    @property
    def retired(self) -> tuple[RetiredSpool, ...]:
        """Spools used before this one."""
        return self._retired

    def state(self, stream: Stream) -> StreamState:
        """Where the stream stands; what is not synced does not count."""
        return self._lanes[stream].state()

    def digest(self, stream: Stream, seq: int) -> int | None:
        """The digest of a record that is held or was sent and dropped; None for others."""
        return self._lanes[stream].digest(seq)

    def held_after(self, stream: Stream, seq: int) -> Record | None:
        """The first thing held that reaches beyond `seq`, of what is durable."""
        return self._lanes[stream].after(seq)

    # ------------------------------------------------------------ what the agent does

    def append(self, stream: Stream, draft: Draft) -> int:
        """Write a record and return its number. Raises SpoolFull (critical records only).

        A critical record is safe when `sync` has succeeded after it.
        """
        return self._lanes[stream].append(draft)

    def notice(self, reason: GapReason, first_boottime_ms: int, last_boottime_ms: int) -> int:
        """Say that nothing ran in that time."""
        return self._lanes[Stream.BULK].notice(reason, first_boottime_ms, last_boottime_ms)

    def sent(self, stream: Stream, through: int) -> None:
        """Remember how far records have left the host."""
        lane = self._lanes[stream]
        lane.sent_through = max(lane.sent_through, through)

    def obey(self, order: Release | Rewind | MarkLost | Fork) -> None:
        """Do what the protocol decided. A fork has to be synced before the new name is used."""
        if isinstance(order, Fork):
            self._retired = (*self._retired, *order.retired)[-RETIRED_SPOOLS_KEPT:]
            self._spool_id = self._new_id()
            self._epoch += 1
            for lane in self._lanes.values():
                lane.fork()
            return
        lane = self._lanes[order.stream]
        if isinstance(order, Release):
            lane.release(order.through, order.digest)
        elif isinstance(order, Rewind):
            lane.rewind(order.through, order.digest)
        else:
            lane.put_first(order.first, order.last, order.reason)

    def farewell(self) -> tuple[RetiredSpool, ...]:
        """What the next process should report as retired: this spool is not, it goes on."""
        return self._retired

    def _note(self, lane: Lane) -> bytes:
        first = lane.segments[0] if lane.segments else None
        kept = next((one for one in lane.tail if not one.written), None)
        if first is not None and first.size:
            through, total = first.first - 1, first.samples_before
        elif kept is not None:
            through, total = kept.record.first - 1, kept.total_before
        else:
            through, total = lane.last, lane.total
        base = lane.base
        return encode_note(
            Note(
                epoch=self._epoch,
                spool_id=self._spool_id,
                bases={stream: one.base for stream, one in self._lanes.items()},
                retired=self._retired,
                acked=lane.acked + base,
                acked_digest=lane.acked_digest,
                through=through + base,
                total=total,
                durable=lane.durable + base,
                gaps=lane.gap_notes(),
                dropped={seq + base: digest for seq, digest in lane.digests()},
            )
        )

    # ------------------------------------------------------------ making it durable

    def last(self, stream: Stream) -> int:
        """The number given out last, durable or not."""
        return self._lanes[stream].last

    def is_durable(self, stream: Stream, seq: int) -> bool:
        """Whether this record survives a power cut."""
        return self._lanes[stream].durable >= seq

    @property
    def failing(self) -> bool:
        """Whether records are kept in memory because the disk takes none."""
        return any(lane.failing for lane in self._lanes.values())

    def unsynced(self, stream: Stream | None = None) -> bool:
        """Whether something waits for a sync."""
        lanes = self._lanes.values() if stream is None else (self._lanes[stream],)
        return any(lane.unsynced for lane in lanes)

    def begin_sync(self) -> list[tuple[Stream, LaneJob]]:
        """What a thread has to do (`LaneJob.run`) for everything appended so far to be durable; then `end_sync`."""
        jobs = [(stream, lane.begin_sync()) for stream, lane in self._lanes.items()]
        return [(stream, job) for stream, job in jobs if job is not None]

    def end_sync(self, jobs: Sequence[tuple[Stream, LaneJob]]) -> bool:
        """The jobs are done. True when all of them succeeded; else `begin_sync` has new ones, which may."""
        done = [self._lanes[stream].end_sync(job) for stream, job in jobs]  # Every one of them.
        return all(done)

    def sync(self, attempts: int = 3) -> bool:
        """All of it at once, for those without a thread. True when everything is durable."""
        for _ in range(attempts):
            jobs = self.begin_sync()
            for _, job in jobs:
                job.run()
            if self.end_sync(jobs) and not self.unsynced():
                return True
        return not self.unsynced()

    # ------------------------------------------------------------ looking at it

    def segments(self) -> list[tuple[Stream, Path, int]]:
        """Every segment that is complete: its stream, its path and its size, for `check_segment`."""
        return [
            (stream, one.path, one.size)
            for stream, lane in self._lanes.items()
            for one in lane.segments
            if not one.handle
        ]

    def check_segment(self, stream: Stream, path: Path) -> int:
        """Read one segment and say how many bad stretches it has; a copy of them goes to quarantine. Touches
        nothing but the disk: a thread may call it."""
        place = self._lanes[stream].place
        try:
            data = self._disk.read(path, 16 * MIB)
        except OSError:
            return 0  # It left in the meantime.
        found = bad_stretches(data, place.seed)
        for bad in found:
            name = f"{STREAM_DIRECTORIES[stream]}-{path.stem}-{bad.offset}.bad"
            quarantine_bytes(self._disk, self.directory, name, data[bad.offset : bad.offset + bad.size])
        return len(found)

    def damage_found(self, stream: Stream, count: int) -> None:
        """What `check_segment` found."""
        self._lanes[stream].counters.damaged += count

    def facts(self) -> SpoolFacts:
        """How full it is; bytes and records of both streams."""
        lanes = self._lanes.values()
        bulk, crit = self._lanes[Stream.BULK], self._lanes[Stream.CRIT]
        waiting = bulk.after(bulk.acked)
        return SpoolFacts(
            records=sum(_waiting(lane) for lane in lanes),
            bytes=bulk.disk_bytes + crit.waiting_bytes,
            bytes_max=self._sizes.bytes_max,
            oldest_boottime_ms=None if waiting is None else waiting.first_boottime_ms or None,
            dropped_records=bulk.counters.dropped_records,
            dropped_samples=bulk.counters.dropped_samples,
            appended_records=sum(lane.counters.appended_records for lane in lanes),
            acked=bulk.acked,
            kind="disk",
            durable=not any(lane.failing for lane in lanes),
            segments=sum(len(lane.segments) for lane in lanes),
            syncs=sum(lane.counters.syncs for lane in lanes),
            sync_failures=sum(lane.counters.sync_failures for lane in lanes),
            write_failures=sum(lane.counters.write_failures for lane in lanes),
            written_bytes=sum(lane.counters.appended_bytes for lane in lanes),
            refused_records=crit.counters.refused,
            damaged=sum(lane.counters.damaged for lane in lanes),
            quarantined=self.quarantined,
            reserve_short=crit.reserve_short,
            error=next((str(lane.error) for lane in lanes if lane.error is not None), ""),
        )

    @property
    def reserve_short(self) -> int:
        """Files of the reserve for critical records that are still to be made, one with each sync."""
        return self._lanes[Stream.CRIT].reserve_short

    def tend(self) -> None:
        """Now and then: let go of what is retained too long."""
        for lane in self._lanes.values():
            lane.retire()

    def close(self) -> None:
        """Give the files and the lock back, without syncing."""
        for lane in getattr(self, "_lanes", {}).values():
            lane.close()
        if self._lock is not None:
            self._lock.release()


def _waiting(lane: Lane) -> int:
    """Records that wait for the collector's acknowledgement, what is lost already not counted."""
    return max(0, lane.last - max(lane.acked, lane.gaps[-1].last if lane.gaps else 0))


def quarantined_files(disk: Filesystem, directory: Path) -> Iterator[tuple[str, int]]:
    """What was set aside."""
    yield from sorted(disk.files(directory / QUARANTINE))
