"""Writing records to a stream's files. Every segment can be read alone:

    header | note | dictionaries of the first record | record | dictionaries it lacks | record | ...

The note tells what the segments themselves cannot (`note`). It is written again, in front of the next record,
whenever it is due.
"""

from collections.abc import Callable

from watchbill.codec import Schema
from watchbill_agent.spool.format import Frame, Kind, encode_frame, encode_header
from watchbill_agent.spool.lane_job import Rewrite
from watchbill_agent.spool.segment import Segment, dictionary_frames
from watchbill_agent.spool.segment_files import SegmentFiles
from watchbill_agent.spool.tail import Kept


class SegmentWriter:
    """Writes to the newest of `files`. `note` makes the note, `remember` is told of every dictionary written."""

    def __init__(
        self, files: SegmentFiles, note: Callable[[], bytes], remember: Callable[[Schema], None]
    ) -> None:
        self._files = files
        self._note = note
        self._remember = remember

    def write(self, kept: Kept, samples_before: int) -> None:
        """Write a record behind the others. Raises OSError."""
        files = self._files
        segment = files.active
        fresh = _lacking(segment, kept)
        extra = self._dictionaries(fresh)
        if segment is not None and files.is_full(segment, len(extra) + len(kept.frame)):
            files.active = segment = None
            fresh = list(kept.record.schemas)
            extra = self._dictionaries(fresh)
        if segment is None:
            segment = files.begin(kept.record.first, samples_before, len(extra) + len(kept.frame))
        beginning = self._beginning(segment)
        note = self._note_frame() if files.note_due else b""
        files.write(segment, b"".join((beginning, note, extra, kept.frame)))
        files.note_due = False
        assert segment.dictionaries is not None
        for schema in fresh:
            segment.dictionaries.add(schema.schema_id)
            self._remember(schema)
        segment.dictionary_bytes += len(extra)
        segment.last = kept.record.last
        kept.written = True

    def write_note(self, last: int, total: int) -> None:
        """The note alone, behind the records there are, which end with number `last`. Raises OSError."""
        files = self._files
        segment = files.active
        if segment is None:
            segment = files.begin(last + 1, total, 0)
        beginning = self._beginning(segment)
        files.write(segment, beginning + self._note_frame())
        files.note_due = False

    def anew(self, unwritten: list[Kept]) -> Rewrite:
        """A whole segment with what no file has."""
        files, first = self._files, unwritten[0]
        path = files.free_name(first.record.first, anew=True)
        before = max(0, first.total_before)
        header = files.place.header(files.stream, first.record.first + files.base, before)
        schemas = {schema.schema_id: schema for kept in unwritten for schema in kept.record.schemas}
        pieces = [encode_header(header), self._note_frame(), self._dictionaries(list(schemas.values()))]
        pieces += [kept.frame for kept in unwritten]
        return Rewrite(path, b"".join(pieces), unwritten[-1].record.last)

    def _beginning(self, segment: Segment) -> bytes:
        """The header, where nothing is written yet; a note follows it."""
        if segment.size:
            return b""
        files = self._files
        header = files.place.header(files.stream, segment.first + files.base, segment.samples_before)
        segment.boottime_ms = header.boottime_ms
        files.note_due = True
        return encode_header(header)

    def _note_frame(self) -> bytes:
        frame = Frame(Kind.CHECKPOINT, 0, 0, 0, 0, 0, (), self._note())
        return encode_frame(frame, self._files.place.seed)

    def _dictionaries(self, schemas: list[Schema]) -> bytes:
        return b"".join(dictionary_frames(schema, self._files.place.seed) for schema in schemas)


def _lacking(segment: Segment | None, kept: Kept) -> list[Schema]:
    """The record's dictionaries that the segment does not have."""
    if segment is None or segment.dictionaries is None:
        return list(kept.record.schemas)
    return [schema for schema in kept.record.schemas if schema.schema_id not in segment.dictionaries]
