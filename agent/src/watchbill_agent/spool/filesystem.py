"""The disk as an argument: what a spool asks of it, and the real one.

`SimulatedFilesystem` is the twin that forgets what was not synced. Every operation either does all it was asked
or raises OSError; whoever gets an error from a file never touches that file again.
"""

import contextlib
import os
import stat
from pathlib import Path
from typing import Protocol

from watchbill.files import PRIVATE_FILE, make_directory, sync_directory


class Filesystem(Protocol):
    """What a spool asks of a disk. A handle is a number that `create` or `open` gave."""

    def make_directory(self, path: Path) -> None:
        """Make it and what is missing above it, durable."""

    def files(self, directory: Path) -> list[tuple[str, int]]:
        """Names and sizes of the regular files in a directory; none when there is no directory."""

    def strangers(self, directory: Path) -> list[str]:
        """Names of everything there that is neither a regular file nor a directory."""

    def create(self, path: Path) -> int:
        """A new file, which must not exist."""

    def open(self, path: Path) -> int:
        """An existing regular file, for writing."""

    def write(self, handle: int, offset: int, data: bytes) -> None:
        """Write all of `data` at `offset`. After an error some of it may be there."""

    def read(self, path: Path, bytes_max: int) -> bytes:
        """The beginning of a file, at most so many bytes."""

    def allocate(self, handle: int, size: int) -> None:
        """Give the file `size` bytes on the disk, zeros where nothing was written."""

    def sync(self, handle: int) -> None:
        """Make what was written durable, with the file's size."""

    def sync_directory(self, path: Path) -> None:
        """Make names created, renamed or removed there durable."""

    def close(self, handle: int) -> None:
        """Give the handle back."""

    def rename(self, old: Path, new: Path) -> None:
        """Give a file another name; one that had it is gone."""

    def unlink(self, path: Path) -> None:
        """Remove a name; no error when it is gone already."""


class SystemFilesystem:
    """The disk of this machine."""

    def make_directory(self, path: Path) -> None:
        """Make it for its owner alone."""
        make_directory(path)

    def files(self, directory: Path) -> list[tuple[str, int]]:
        """Regular files only; a link is none."""
        try:
            with os.scandir(directory) as entries:
                return [
                    (entry.name, entry.stat(follow_symlinks=False).st_size)
                    for entry in entries
                    if entry.is_file(follow_symlinks=False)
                ]
        except FileNotFoundError:
            return []

    def strangers(self, directory: Path) -> list[str]:
        """Links, FIFOs, devices, sockets, and directories under a name that ought to be a file's."""
        try:
            with os.scandir(directory) as entries:
                return [entry.name for entry in entries if not entry.is_file(follow_symlinks=False)]
        except FileNotFoundError:
            return []

    def create(self, path: Path) -> int:
        """O_EXCL: never somebody else's file."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(path, flags, PRIVATE_FILE)

    def open(self, path: Path) -> int:
        """O_NONBLOCK: a FIFO in the place of a file must not block."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)

    def write(self, handle: int, offset: int, data: bytes) -> None:
        """Goes on after a short write, so that the reason for it becomes an error."""
        view = memoryview(data)
        while view:
            written = os.pwrite(handle, view, offset)
            view = view[written:]
            offset += written

    def read(self, path: Path, bytes_max: int) -> bytes:
        """One regular file, never more than the bound."""
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                return b""
            wanted = min(found.st_size, bytes_max)
            data = os.pread(handle, wanted, 0)
            while len(data) < wanted and (piece := os.pread(handle, wanted - len(data), len(data))):
                data += piece
            return data
        finally:
            os.close(handle)

    def allocate(self, handle: int, size: int) -> None:
        """Real blocks: a full disk cannot take them back."""
        os.posix_fallocate(handle, 0, size)

    def sync(self, handle: int) -> None:
        """fdatasync, which includes the size."""
        os.fdatasync(handle)

    def sync_directory(self, path: Path) -> None:
        """fsync of the directory."""
        sync_directory(path)

    def close(self, handle: int) -> None:
        """An error of close tells nothing that sync did not."""
        with contextlib.suppress(OSError):
            os.close(handle)

    def rename(self, old: Path, new: Path) -> None:
        """Atomic."""
        old.replace(new)

    def unlink(self, path: Path) -> None:
        """Needs no space."""
        path.unlink(missing_ok=True)
