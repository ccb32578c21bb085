"""The files of one stream: which there are, which is written to, what is not synced yet, and which are leaving.

    segments   every file that counts, oldest first; `active` is the one that is written to, the newest
    dirty      those with bytes that no sync has covered
    leaving    files that nothing needs any more. They go with a sync after the one that made the note about it
               durable: a note must never speak of less than the files have.

A handle that a sync in another thread may be using is closed when that sync has ended.
"""

import bisect
import contextlib
from pathlib import Path

from watchbill.limits import KIB
from watchbill.protocol.frames import Stream
from watchbill_agent.spool.format import HEADER_BYTES
from watchbill_agent.spool.lane_job import LaneJob, Rewrite
from watchbill_agent.spool.place import Limits, Place
from watchbill_agent.spool.reserve import Reserve
from watchbill_agent.spool.segment import Segment, parse_name, segment_name
from watchbill_agent.spool.tail import Kept

SEGMENTS_MAX = 4_096
"""Files of one stream; beyond it the oldest goes as if the bytes were used up."""
NOTE_ROOM_BYTES = 4 * KIB
"""What a reserved segment has beside its first record: the note."""


class SegmentFiles:
    """`base` is what the numbers in the files are ahead of those on the wire. `grown` when a segment began and the
    bound was not looked at since, `note_due` when something changed that only a note tells."""

    def __init__(self, stream: Stream, place: Place, limits: Limits) -> None:
        self.stream = stream
        self.place = place
        self.limits = limits
        self.base = 0
        self.reserve = Reserve(place, limits)
        self.segments: list[Segment] = []
        self.active: Segment | None = None
        self.dirty: list[Segment] = []
        self.leaving: list[Segment] = []
        self.names_changed = False
        self.note_due = False
        self.grown = False
        self.busy = False
        """A job is under way."""
        self._leaving_now: list[Segment] = []  # With the sync that runs.
        self._handles_done: list[int] = []

    # ------------------------------------------------------------ a segment's life

    def begin(self, first: int, samples_before: int, size: int) -> Segment:
        """A file for the records from `first` on, the first of which takes `size` bytes. Raises OSError."""
        path = self.free_name(first)
        room = 0
        if self.limits.reserve:
            room = max(self.limits.segment_bytes, size + HEADER_BYTES + NOTE_ROOM_BYTES)
            handle, room = self.reserve.take(path, room)
        else:
            handle = self.place.filesystem.create(path)
        self.names_changed = True
        segment = Segment(path, first, first - 1, 0, room, samples_before, 0, this_boot=True, handle=handle)
        segment.dictionaries = set()
        self.active = segment
        self.segments.append(segment)
        self.grown = True
        return segment

    def free_name(self, first: int, *, anew: bool = False) -> Path:
        """A name that no file has. What is written anew has a higher generation than what it replaces."""
        taken = {one.path.name for one in (*self.segments, *self.leaving, *self.dirty)}
        generation = 0
        if anew:
            generation = 1 + max((found[1] for name in taken if (found := parse_name(name))), default=0)
        while (name := segment_name(first + self.base, generation)) in taken:
            generation += 1
        return self.place.directory / name

    def is_full(self, segment: Segment, more: int) -> bool:
        """Whether `more` bytes go to another segment."""
        # Where dictionaries are large a segment may be larger, so that they stay a small part of it.
        limit = max(self.limits.segment_bytes, 4 * segment.dictionary_bytes)
        if self.limits.reserve:
            limit = segment.room  # Its room is what was reserved.
        return segment.size + more > limit and segment.last >= segment.first

    def write(self, segment: Segment, data: bytes) -> None:
        """Write behind what it has. Raises OSError."""
        self.place.filesystem.write(segment.handle, segment.size, data)
        segment.size += len(data)
        segment.room = max(segment.room, segment.size)
        if segment not in self.dirty:
            self.dirty.append(segment)

    def abandon(self) -> None:
        """Write nothing more to the active segment."""
        segment, self.active = self.active, None
        if segment is not None and segment.last < segment.first:
            # Nothing in it counts: away with it, so that its name and its room are free.
            self.segments.remove(segment)
            if segment in self.dirty:
                self.dirty.remove(segment)
            self.give_back(segment)

    def let_go(self, segment: Segment) -> None:
        """It leaves, once the note that tells of it is durable."""
        self.segments.remove(segment)
        if segment is self.active:
            self.active = None
        if segment in self.dirty:
            self.dirty.remove(segment)
        self.close(segment)
        self.leave(segment)

    def leave(self, segment: Segment) -> None:
        """Let go of a file that is none of the segments."""
        self.leaving.append(segment)
        self.note_due = True

    def give_back(self, segment: Segment) -> None:
        """Remove the file at once."""
        self.close(segment)
        with contextlib.suppress(OSError):
            self.place.filesystem.unlink(segment.path)

    def close(self, segment: Segment) -> None:
        """Give its handle back."""
        if segment.handle and self.busy:
            self._handles_done.append(segment.handle)  # The thread may be syncing it.
        elif segment.handle:
            self.place.filesystem.close(segment.handle)
        segment.handle = 0

    def close_all(self) -> None:
        """Give every handle back."""
        for segment in (*self.segments, *self.leaving, *self.dirty):
            self.close(segment)
        self.active = None

    def renumber(self, shift: int) -> None:
        """The numbers on the wire become smaller by `shift`, those in the files stay."""
        self.base += shift
        for segment in (*self.segments, *self.leaving):
            segment.first -= shift
            segment.last -= shift

    # ------------------------------------------------------------ the bound

    @property
    def over_the_bound(self) -> bool:
        """Whether the oldest segment has to go."""
        return len(self.segments) > 1 and (
            self._room_held > self.limits.bytes_max or len(self.segments) > SEGMENTS_MAX
        )

    def hurry_the_leaving(self) -> None:
        """Files leave after the next sync, when the note about them is durable; too many do not wait for it."""
        room = self.limits.bytes_max + self.limits.segment_bytes - self._room_held
        while (leaving := [*self._leaving_now, *self.leaving]) and sum(one.room for one in leaving) > room:
            self.give_back((self._leaving_now or self.leaving).pop(0))

    @property
    def _room_held(self) -> int:
        # The segment that has just begun will be full some day.
        return sum(one.room for one in self.segments[:-1]) + self.limits.segment_bytes

    def retire(self, acked: int) -> None:
        """Let go of acknowledged segments; critical ones are retained for a while, for a collector that has to be
        restored."""
        uptime_ms = self.place.now_ms()[1]
        done = self._acknowledged(acked)
        retained = sum(one.room for one in done)
        for segment in done:  # The oldest first: what is missing is always what lies before the rest.
            # A segment of an earlier boot is at least as old as this one; wall clocks are not asked.
            age_ms = uptime_ms - (segment.boottime_ms if segment.this_boot else 0)
            if retained <= self.limits.retained_bytes and age_ms <= self.limits.retained_ms:
                return
            retained -= segment.room
            self.let_go(segment)

    def give_retained(self, acked: int) -> bool:
        """Remove the oldest segment that is retained only. False when there is none."""
        retained = next(iter(self._acknowledged(acked)), None)
        if retained is None:
            return False
        self.segments.remove(retained)
        self.give_back(retained)
        return True

    def _acknowledged(self, acked: int) -> list[Segment]:
        return [one for one in self.segments if one.last <= acked and one is not self.active]

    def reserve_short(self, acked: int) -> int:
        """Spare files that are still missing."""
        return max(0, self.reserve.short(self._in_use(acked))) if self.limits.reserve else 0

    def _in_use(self, acked: int) -> int:
        return sum(one.last > acked or one is self.active for one in self.segments)

    # ------------------------------------------------------------ a sync

    def begin_job(self, through: int, rewrite: Rewrite | None, acked: int, *, spares: bool) -> LaneJob | None:
        """What a sync has to do for everything written to be durable, `through` the newest number of it; None when
        there is nothing. `end_job` has to follow."""
        ready = [] if self.note_due else self.leaving
        in_use = self._in_use(acked)
        recycle, unlinks = self.reserve.recycled(ready, in_use)
        wanted = self.reserve.wanted(in_use, len(recycle)) if spares else []
        if not (self.dirty or self.names_changed or rewrite or ready or wanted):
            return None
        if ready:
            self.leaving, self._leaving_now = [], list(ready)
        self.busy = True
        job = LaneJob(
            self.place.filesystem,
            self.place.directory,
            handles=[segment.handle for segment in self.dirty],
            sizes=[(segment, segment.size) for segment in self.dirty],
            through=through,
            names_changed=self.names_changed,
            unlinks=unlinks,
            rewrite=rewrite,
            recycle=recycle,
            spares=wanted,
            leaving=ready,
        )
        self.names_changed = False
        return job

    def end_job(self, job: LaneJob) -> None:
        """The thread is done with the files, whatever came of it."""
        self.busy = False
        self._leaving_now = []
        for handle in self._handles_done:
            self.place.filesystem.close(handle)
        self._handles_done.clear()
        if job.error is None and job.spare_error is None:
            self.reserve.spares += len(job.recycle) + len(job.spares)

    def synced(self, job: LaneJob) -> None:
        """The job succeeded: what was not written to since is clean."""
        for segment, size in job.sizes:
            if segment.size == size and segment in self.dirty:
                self.dirty.remove(segment)
                if segment is not self.active:
                    self.close(segment)

    def distrust(self, job: LaneJob, durable: int) -> None:
        """The job failed: nothing beyond `durable` can be trusted to be in these files."""
        self.names_changed = self.names_changed or job.names_changed
        self.leaving = job.leaving + self.leaving
        self.active = None
        self.note_due = True
        for segment in self.dirty:
            self.close(segment)
            if segment.last > durable:
                segment.last = max(segment.first - 1, durable)
        for segment in [one for one in self.dirty if one.last < one.first]:
            self.segments.remove(segment)
            self.leaving.append(segment)
        self.dirty.clear()

    def add_rewritten(self, rewrite: Rewrite, anew: list[Kept]) -> None:
        """Take the segment that a job wrote; `anew` are the records of it that are still wanted."""
        size = len(rewrite.data)
        if not anew:
            # Acknowledged or dropped in the meantime; the file has nothing that is needed.
            self.leave(Segment(rewrite.path, 1, 0, size, size, 0, 0, this_boot=True))
            return
        segment = Segment(
            rewrite.path,
            anew[0].record.first,
            rewrite.through,
            size,
            size,
            max(0, anew[0].total_before),
            self.place.now_ms()[1],
            this_boot=True,
        )
        place = bisect.bisect_right(self.segments, segment.first, key=lambda one: one.first)
        self.segments.insert(place, segment)
        self.grown = True
