"""Reading a stream's records back from its files, a segment at a time: for the collector that was away, and for the
gaps that tell of what is dropped.
"""

import bisect
import logging
from collections import OrderedDict

from watchbill.codec import Schema
from watchbill.limits import MIB
from watchbill.logs import fields
from watchbill_agent.spool.records import Record
from watchbill_agent.spool.segment import UNKNOWN, Found, Segment, examine, read_records
from watchbill_agent.spool.segment_files import SegmentFiles
from watchbill_agent.spool.tail import Tail

log = logging.getLogger("watchbill.spool")

SEGMENT_READ_BYTES_MAX = 16 * MIB
"""No segment of ours is larger; of a stranger's file under such a name no more is read."""
SCHEMAS_KEPT = 16
"""Dictionaries kept in memory; beyond it the one used longest ago goes, and is read from a file again."""
BORROW_FROM = 4
"""Segments on each side in which a damaged dictionary is looked for."""


class SegmentReader:
    """Reads `files`; `tail` has what comes behind them. `total` are the stream's samples up to its last number."""

    def __init__(self, files: SegmentFiles, tail: Tail) -> None:
        self._files = files
        self._tail = tail
        self._known: OrderedDict[int, Schema] = OrderedDict()
        self._decoded: tuple[Segment | None, int, list[Record]] = (None, 0, [])

    def after(self, seq: int, total: int) -> Record | None:
        """The first record in the files that reaches beyond `seq`."""
        segments = self._files.segments
        place = bisect.bisect_right(segments, seq + 1, key=lambda segment: segment.first) - 1
        for segment in segments[max(0, place) :]:
            if segment.last <= seq:
                continue
            records = self.read(segment, total)
            found = bisect.bisect_right(records, seq, key=lambda record: record.last)
            if found < len(records):
                return records[found]
        return None

    def read(self, segment: Segment, total: int) -> list[Record]:
        """The records of a segment; the last one read is remembered."""
        kept, last, records = self._decoded
        if kept is segment and last == segment.last:
            return records
        records = self.records_of(segment, total)
        self._decoded = (segment, segment.last, records)
        return records

    def forget(self) -> None:
        """The numbers changed: what was read has other ones now."""
        self._decoded = (None, 0, [])

    def records_of(self, segment: Segment, total: int) -> list[Record]:
        """The records of a segment, from its file."""
        found = self.found(segment)
        for schema in found.schemas.values():
            self.remember(schema)
        self._borrow(segment, {one for frame in found.numbered for one in frame.schema_ids})
        after = self._total_after(segment, total)
        return read_records(found, segment, self._files.base, after, self._known)

    def found(self, segment: Segment) -> Found:
        """Read a segment's file; one that cannot be read is as one in which everything is damaged."""
        place = self._files.place
        try:
            data = place.filesystem.read(segment.path, SEGMENT_READ_BYTES_MAX)
        except OSError as exc:
            log.warning("a segment cannot be read", extra=fields(path=segment.path, reason=exc))
            data = b""
        return examine(data[: segment.size], place.seed)

    def remember(self, schema: Schema) -> None:
        """Keep a dictionary for records whose own is damaged."""
        self._known[schema.schema_id] = schema
        self._known.move_to_end(schema.schema_id)
        while len(self._known) > SCHEMAS_KEPT:
            self._known.popitem(last=False)

    def _total_after(self, segment: Segment, total: int) -> int:
        """The stream's samples up to the segment's last number, as what comes behind it tells them."""
        segments = self._files.segments
        place = segments.index(segment) if segment in segments else -1
        if 0 <= place < len(segments) - 1:
            return segments[place + 1].samples_before
        behind = next((kept for kept in self._tail if kept.record.first > segment.last), None)
        if behind is None:
            return total
        # A gap of which nobody knows the samples has them in its total all the same.
        return UNKNOWN if behind.record.unknown else behind.total_before

    def _borrow(self, segment: Segment, wanted: set[int]) -> None:
        """A damaged dictionary is in the segments beside it as well, more often than not."""
        segments = self._files.segments
        here = segments.index(segment) if segment in segments else 0
        beside = [*segments[here + 1 : here + 1 + BORROW_FROM], *segments[max(0, here - BORROW_FROM) : here]]
        for other in beside:
            if wanted <= self._known.keys():
                return
            for schema in self.found(other).schemas.values():
                self.remember(schema)
