"""What a sync has to do on the disk, in a thread, while the stream goes on.

1. sync every file that was written to;
2. write anew what no file has, under a temporary name, sync it and give it its name;
3. sync the directory, where a name is new;
4. only then remove, or turn into spare files, what nothing refers to any more.

When one of the first three fails nothing of the fourth is done: the lane gets the error and makes another job.
"""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

from watchbill_agent.spool.filesystem import Filesystem
from watchbill_agent.spool.segment import Segment


@dataclass(frozen=True, slots=True, eq=False)
class Rewrite:
    """A whole segment with records that no file has, up to the number `through`."""

    path: Path
    data: bytes
    through: int


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
    rewrite: Rewrite | None = None
    recycle: list[tuple[Path, Path, int]] = field(default_factory=list)
    spares: list[tuple[Path, int]] = field(default_factory=list)
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
                self._write_anew(self.rewrite)
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

    def _write_anew(self, rewrite: Rewrite) -> None:
        disk = self.filesystem
        temporary = rewrite.path.with_suffix(".tmp")
        disk.unlink(temporary)
        handle = disk.create(temporary)
        try:
            disk.write(handle, 0, rewrite.data)
            disk.sync(handle)
        except OSError:
            disk.unlink(temporary)
            raise
        finally:
            disk.close(handle)
        disk.rename(temporary, rewrite.path)

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
