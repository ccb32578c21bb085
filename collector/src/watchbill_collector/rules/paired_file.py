"""A file that is replaced as a whole, also where the disk is full.

Replacing a file usually takes room for the new one beside the old. Here two files take turns: what is to be kept is
written over the spare, which has its blocks already, and then the two change names. Both are longer than what they
hold; the rest is filled with spaces, so the content has to be of a kind that may end in them, as JSON.

1. write over the spare, sync it: a crash here costs the spare only;
2. the old file gets a second name, the spare takes its first one: at every moment the name leads to one of them, whole;
3. the old file's second name becomes the spare's.

What is larger than ever before needs room once. On file systems that copy on write (btrfs, zfs) it promises nothing.
"""

import contextlib
import os
from io import FileIO
from pathlib import Path

from watchbill.errors import StorageError
from watchbill.files import PRIVATE_FILE, sync_directory

ROOM_BYTES = 64 * 1024
"""The least that a file has, and the step by which it grows."""
SLACK = 1.25
"""How much longer than its content a file becomes when it has to grow."""


class PairedFile:
    """One file and its spare, by the name of the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._spare = path.with_name(f"{path.name}.spare")
        self._old = path.with_name(f"{path.name}.old")

    def replace(self, content: bytes) -> None:
        """Keep this instead of what was kept; durable when this returns. Raises StorageError."""
        try:
            self._end_exchange()
            room = _write_over(self._spare, content)
            with contextlib.suppress(FileNotFoundError):
                os.link(self._path, self._old, follow_symlinks=False)
            self._spare.replace(self._path)
            self._end_exchange()
            sync_directory(self._path.parent)
        except OSError as exc:
            raise StorageError(f"{self._path}: could not be written: {exc.strerror or exc}") from exc
        # Without room for a spare the next one is tried as the first was.
        with contextlib.suppress(OSError):
            _grow(self._spare, room)

    def _end_exchange(self) -> None:
        """The old file becomes the spare; what a crash between the two names left, too."""
        if self._spare.exists():
            self._old.unlink(missing_ok=True)
        elif self._old.exists():
            self._old.replace(self._spare)


def _write_over(path: Path, content: bytes) -> int:
    """Write a file's content and fill it up; durable. Returns its length."""
    with _opened(path) as file:
        room = os.fstat(file.fileno()).st_size
        if room < len(content):
            room = _room_for(len(content))
        _write(file, content)
        _fill(file, room - len(content))
        os.fsync(file.fileno())
    return room


def _grow(path: Path, room: int) -> None:
    """Make sure of a file's length."""
    with _opened(path) as file:
        length = file.seek(0, os.SEEK_END)
        if length < room:
            _fill(file, room - length)
            os.fsync(file.fileno())


def _opened(path: Path) -> FileIO:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, PRIVATE_FILE)
    os.fchmod(descriptor, PRIVATE_FILE)  # The umask may have taken bits away.
    return FileIO(descriptor, "r+")


def _fill(file: FileIO, size: int) -> None:
    _write(file, b" " * size)


def _write(file: FileIO, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]


def _room_for(size: int) -> int:
    """A whole number of steps."""
    return -(-int(size * SLACK) // ROOM_BYTES) * ROOM_BYTES
