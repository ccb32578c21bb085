"""Files that must survive a crash, and files that must not be trusted.

Writing: the new content goes to a temporary file in the same directory, is synced, takes the old name by
rename, and the directory is synced; so a reader sees the old content or the new, never a mixture, also after
a power cut. Reading: only regular files, never more than the caller allows; a FIFO or a device in place of a
file must not block or flood a daemon. Everything written here is readable by its owner alone unless the
caller says otherwise.
"""

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from watchbill.errors import Refused, StorageError, Unreadable

PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700

LOCK_BYTES_MAX = 32
"""A lock file holds one process number."""


class UnreadableFile(Unreadable):
    """A file that cannot be read as what it should be. `got` and `wanted` are halves of a sentence for
    people.
    """

    def __init__(self, path: Path, got: str, wanted: str) -> None:
        super().__init__(f"{path}: got {got}, wanted {wanted}")
        self.path = path
        self.got = got
        self.wanted = wanted


class FileMissing(UnreadableFile):
    """There is nothing under that name."""


def read_bounded(path: Path, bytes_max: int) -> bytes:
    """The content of a regular file of at most `bytes_max` bytes.

    Raises FileMissing or UnreadableFile; never blocks on a FIFO, never reads more than one byte over the
    bound.
    """
    try:
        # O_NONBLOCK: opening a FIFO without a writer would wait for ever; on regular files it does nothing.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise FileMissing(path, "no such file", "a readable file") from exc
    except OSError as exc:
        raise UnreadableFile(path, _reason(exc), "a readable file") from exc
    except ValueError as exc:  # A NUL in the name.
        raise UnreadableFile(path, "a name with a NUL byte", "a readable file") from exc
    try:
        return _read_open(path, descriptor, bytes_max)
    finally:
        os.close(descriptor)


def _read_open(path: Path, descriptor: int, bytes_max: int) -> bytes:
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        raise UnreadableFile(path, _kind_name(kind), "a regular file")
    content = bytearray()
    while len(content) <= bytes_max:
        try:
            piece = os.read(descriptor, bytes_max + 1 - len(content))
        except OSError as exc:
            raise UnreadableFile(path, _reason(exc), "a readable file") from exc
        if not piece:
            return bytes(content)
        content += piece
    raise UnreadableFile(path, f"more than {bytes_max} bytes", f"at most {bytes_max} bytes")


def write_atomic(path: Path, content: bytes, mode: int = PRIVATE_FILE) -> None:
    """Replace `path` by `content`, all or nothing, durable when this returns. Raises StorageError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _write_new(temporary, content, mode)
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as exc:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise StorageError(f"{path}: could not be written: {_reason(exc)}") from exc


def _write_new(path: Path, content: bytes, mode: int) -> None:
    path.unlink(missing_ok=True)  # Left behind by a crash of a process with our number.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        os.fchmod(descriptor, mode)  # The umask may have taken bits away.
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make names created, renamed or removed in `path` durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path, mode: int = PRIVATE_DIRECTORY) -> None:
    """Make `path` and what is missing above it, durable; an existing directory is left as it is.

    Raises StorageError.
    """
    missing = []
    place = path
    while not place.exists():
        missing.append(place)
        place = place.parent
    try:
        for directory in reversed(missing):
            directory.mkdir(mode=mode, exist_ok=True)
            sync_directory(directory.parent)
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as exc:
        raise StorageError(f"{path}: directory could not be made: {_reason(exc)}") from exc


class Lock:
    """One process at a time in a directory: an advisory lock on `path`, gone with the process that holds it.

    Raises Refused when another process has it, and names that process; StorageError when the file cannot be
    made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(
                path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE_FILE
            )
        except OSError as exc:
            raise StorageError(f"{path}: lock could not be made: {_reason(exc)}") from exc
        try:
            self._take()
        except BaseException:
            os.close(self._descriptor)
            raise

    def _take(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            holder = os.pread(self._descriptor, LOCK_BYTES_MAX, 0).decode("ascii", "replace").strip()
            name = f"process {holder}" if holder.isdigit() else "another process"
            raise Refused(f"{self.path} is held by {name}: two of us must not share one directory") from exc
        # Only a hint for people: the lock is what counts, so a full disk may refuse the note and not the
        # lock.
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)
        except OSError:
            pass

    def release(self) -> None:
        """Let the next one in. The file stays: removing it would let two processes lock two files of one
        name.
        """
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _reason(error: OSError) -> str:
    """The system's words without the path, which the caller names once."""
    return (error.strerror or str(error)).lower()


def _kind_name(mode: int) -> str:
    for test, name in (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
    ):
        if test(mode):
            return name
    return "something that is no file"
