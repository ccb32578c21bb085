"""Spare files: room on the disk that critical records find when a full disk takes nothing else.

A spare is a file of a segment's size whose blocks are allocated. A new segment takes one by renaming it; an
acknowledged segment becomes one again. The lane's sync makes what is missing, one file at a time.
"""

from pathlib import Path

from watchbill_agent.spool.place import Limits, Place
from watchbill_agent.spool.segment import Segment

SPARE = "spare-{}.free"


class Reserve:
    """The spare files of one stream, `spares` of them, numbered from 0. A stream without a reserve has none."""

    def __init__(self, place: Place, limits: Limits) -> None:
        self.spares = 0
        self._place = place
        self._limits = limits

    def short(self, in_use: int, coming: int = 0) -> int:
        """Spare files that are missing. Segments `in_use` have their room already; `coming` are being made."""
        return self._limits.reserve - self.spares - coming - in_use

    def take(self, path: Path, room: int) -> tuple[int, int]:
        """A file whose room is on the disk already, a spare one or else one made now: its handle and its room.
        Raises OSError."""
        disk = self._place.filesystem
        usual = self._limits.segment_bytes
        if room <= usual and self.spares:
            spare = self._path(self.spares - 1)
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

    def recycled(
        self, leaving: list[Segment], in_use: int
    ) -> tuple[list[tuple[Path, Path, int]], list[Path]]:
        """Which leaving segments become spare files, and which go."""
        recycle: list[tuple[Path, Path, int]] = []
        unlinks: list[Path] = []
        for segment in leaving:
            usual = segment.room == self._limits.segment_bytes
            if self._limits.reserve and usual and self.short(in_use, len(recycle)) > 0:
                recycle.append((segment.path, self._path(self.spares + len(recycle)), segment.room))
            else:
                unlinks.append(segment.path)
        return recycle, unlinks

    def wanted(self, in_use: int, coming: int) -> list[tuple[Path, int]]:
        """One at a time: the reserve is made beside the work."""
        if self.short(in_use, coming) <= 0:
            return []
        return [(self._path(self.spares + coming), self._limits.segment_bytes)]

    def _path(self, place: int) -> Path:
        return self._place.directory / SPARE.format(place)
