"""PostgreSQL's write-ahead log as an archive holds it: segments, their numbers, and which of them are missing. Pure.

A segment's name is 24 hexadecimal digits: timeline, log file, segment in it. How many segments a log file has depends
on the cluster (`--wal-segsize`, 256 of 16 MiB unless said otherwise), and no archive says it: it is read from where a
backup began, which is known as a segment and as a position.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

MIB: Final = 1024 * 1024
LOG_FILE_BYTES: Final = 1 << 32
SEGMENT_BYTES_USUAL: Final = 16 * MIB
SEGMENT_BYTES_POSSIBLE: Final = tuple(MIB << power for power in range(11))
"""1 MiB to 1 GiB: what initdb takes."""
SPAN_SEGMENTS_MAX: Final = 65_536
"""Segments that one backup may need; 1 TiB of the usual ones. More is no range that a backup has."""

_NAME = re.compile(r"[0-9A-F]{24}", re.ASCII)
_POSITION = re.compile(r"([0-9A-F]{1,8})/([0-9A-F]{1,8})", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """One file of the log: `number` counts over log files."""

    timeline: int
    number: int


@dataclass(frozen=True, slots=True)
class Numbering:
    """How segments are named in a cluster whose segments have this size."""

    segment_bytes: int = SEGMENT_BYTES_USUAL

    @property
    def _per_file(self) -> int:
        return LOG_FILE_BYTES // self.segment_bytes

    def read(self, name: str) -> Segment | None:
        """The segment of this name; None if it is none, or cannot be one in this cluster."""
        if not _NAME.fullmatch(name):
            return None
        timeline, file, index = int(name[:8], 16), int(name[8:16], 16), int(name[16:], 16)
        if index >= self._per_file or not timeline:
            return None
        return Segment(timeline, file * self._per_file + index)

    def name(self, segment: Segment) -> str:
        """As PostgreSQL calls it."""
        file, index = divmod(segment.number, self._per_file)
        return f"{segment.timeline:08X}{file:08X}{index:08X}"

    def directory(self, segment: Segment) -> str:
        """Where archives keep it: the first 16 digits of its name."""
        return self.name(segment)[:16]


def numbering_of(beginnings: Iterable[tuple[str, str]]) -> Numbering:
    """From where backups began, as a segment's name and a position in the log like `0/3000028`. The usual one when
    they leave a choice."""
    possible = list(SEGMENT_BYTES_POSSIBLE)
    for name, position in beginnings:
        found = _POSITION.fullmatch(position)
        if not found or not _NAME.fullmatch(name):
            continue
        offset, index = int(found[2], 16), int(name[16:], 16)
        fitting = [size for size in possible if offset // size == index]
        possible = fitting or possible
    usual = SEGMENT_BYTES_USUAL in possible
    return Numbering(SEGMENT_BYTES_USUAL if usual else possible[0])


def span(start: Segment, stop: Segment) -> list[Segment] | None:
    """All from start to stop; None where that is no range that a backup has. Where a timeline ended in between, only
    both ends are known."""
    count = stop.number - start.number + 1
    if not 0 < count <= SPAN_SEGMENTS_MAX or stop.timeline < start.timeline:
        return None
    if stop.timeline != start.timeline:
        return [start, stop]
    return [Segment(start.timeline, start.number + step) for step in range(count)]


def follow(begin: Segment, timelines: Iterable[int], has: Callable[[Segment], bool]) -> Segment:
    """The last segment that recovery from `begin` comes to without a gap. Of the `timelines` that the archive has it
    takes the newest that goes on from where it is, as PostgreSQL does."""
    newest_first = sorted({*timelines, begin.timeline}, reverse=True)
    at = begin
    while True:
        ahead = (Segment(line, at.number + 1) for line in newest_first if line >= at.timeline)
        following = next((segment for segment in ahead if has(segment)), None)
        if following is None:
            return at
        at = following


@dataclass(frozen=True, slots=True)
class Stored:
    """A segment in an archive: when it came there, and how often it is there. Twice is a fault, too: which of the two
    is the right one, nobody can say."""

    stored_ms: int
    times: int = 1


_NOWHERE: Final = Stored(0, 0)


@dataclass
class Shelf:
    """The log of one cluster in one archive, listed directory by directory as it is asked for.

    `directories` names those that are there (16 hexadecimal digits each), `listing` gives what is in one by the names
    of the segments. What they raise when the archive cannot be read passes through.
    """

    numbering: Numbering
    directories: Callable[[], frozenset[str]]
    listing: Callable[[str], Mapping[str, Stored]]
    _listed: dict[str, Mapping[str, Stored]] = field(default_factory=dict)
    _directories: frozenset[str] | None = None

    def _all(self) -> frozenset[str]:
        if self._directories is None:
            self._directories = self.directories()
        return self._directories

    def _in(self, directory: str) -> Mapping[str, Stored]:
        if directory not in self._all():
            return {}
        if directory not in self._listed:
            self._listed[directory] = self.listing(directory)
        return self._listed[directory]

    def find(self, segment: Segment) -> Stored:
        """What the archive has of a segment; `times` is 0 when it is not there."""
        return self._in(self.numbering.directory(segment)).get(self.numbering.name(segment), _NOWHERE)

    def whole(self, segment: Segment) -> bool:
        """Whether it is there once."""
        return self.find(segment).times == 1

    def timelines(self) -> frozenset[int]:
        """All that have log."""
        return frozenset(int(directory[:8], 16) for directory in self._all())

    def newest(self, timeline: int) -> Segment | None:
        """The last segment of this timeline or one after it, with or without gaps before it."""
        directories = [name for name in self._all() if int(name[:8], 16) >= timeline]
        for directory in sorted(directories, key=lambda name: (name[8:], name[:8]), reverse=True):
            segments = [found for name in self._in(directory) if (found := self.numbering.read(name))]
            if segments:
                return max(segments, key=lambda segment: segment.number)
        return None


def in_words(segments: list[Segment], numbering: Numbering) -> str:
    """Missing segments for a person: the first and the last of them, and how many there are."""
    first, last = numbering.name(segments[0]), numbering.name(segments[-1])
    return first if len(segments) == 1 else f"{first} to {last} ({len(segments)} of them)"
