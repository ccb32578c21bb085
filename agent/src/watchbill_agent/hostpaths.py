"""Where the host's /proc, /sys and root are, and the files that are read at every tick.

A hot file is opened once and read with pread from then on: opening a /proc file costs more than reading a
small one. A descriptor that stops working (an interface went, a module was unloaded) is opened anew.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path

from watchbill.clock import Clock, SystemClock
from watchbill_agent.reading import Missing, SamplerFailed

FILE_BYTES_MAX = 32 * 1024 * 1024
"""A larger file is refused: the mount table of a host with 10,000 mounts has 2 MB."""
CHUNK_BYTES_MIN = 4 * 1024
CHUNK_BYTES_MAX = 1024 * 1024
"""What one read asks for: doubled while a file turns out larger, never more, since sysctl allocates all of
it."""
TEXT_BYTES_MAX = 64 * 1024
SHARED_AGE_S_MAX = 0.05
"""How old what another sampler read may be; the samplers of one round follow each other within a
millisecond."""


class HotFile:
    """A file of text lines that is read at every tick through one descriptor that stays open.

    `whole` is for files that the kernel hands out in one piece (seq_file's single_open, sysctl, sysfs): the
    read that looks for more is saved. The others come a page at a time, and there only an empty read is the
    end. `may_be_empty` is for lists that can hold nothing.
    """

    __slots__ = ("_chunk", "_fd", "_may_be_empty", "_whole", "path")

    def __init__(self, path: Path, *, whole: bool = False, may_be_empty: bool = False) -> None:
        self.path = path
        self._fd = -1
        self._whole = whole
        self._may_be_empty = may_be_empty
        self._chunk = CHUNK_BYTES_MIN

    def read(self) -> bytes:
        """The whole file as it is now, ending with a newline.

        Raises Missing when it does not exist, SamplerFailed when it cannot be read, is empty, or ends in the
        middle of a line: half a number is worse than none.
        """
        try:
            data = os.pread(self._fd, self._chunk, 0) if self._fd >= 0 else self._open_and_read()
            if not self._whole or len(data) >= self._chunk:
                data = self._with_rest(data)
        except OSError:
            self.close()  # The descriptor has gone stale; a new one says what is wrong.
            data = self._read_anew()
        if data[-1:] != b"\n" and (data or not self._may_be_empty):
            self.close()
            why = "is truncated: its last line has no end" if data else "is empty"
            raise SamplerFailed(str(self.path), why)
        return data

    def _open_and_read(self) -> bytes:
        self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        return os.pread(self._fd, self._chunk, 0)

    def _read_anew(self) -> bytes:
        try:
            return self._with_rest(self._open_and_read())
        except OSError as exc:
            self.close()
            raise unreadable(self.path, exc) from exc

    def _with_rest(self, first: bytes) -> bytes:
        parts = [first]
        size = len(first)
        while more := os.pread(self._fd, self._chunk, size):
            parts.append(more)
            size += len(more)
            if size > FILE_BYTES_MAX:
                self.close()
                raise SamplerFailed(str(self.path), f"is larger than {FILE_BYTES_MAX} bytes")
            if size >= self._chunk:
                self._chunk = min(2 * self._chunk, CHUNK_BYTES_MAX)
        return b"".join(parts) if len(parts) > 1 else first

    def fileno(self) -> int:
        """The open descriptor, -1 before the first read and after a failed one."""
        return self._fd

    def close(self) -> None:
        """Give the descriptor back; the next read opens a new one."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class SharedFile:
    """A hot file that several samplers read in one round: the second is handed what the first has read.

    /proc/stat costs the kernel a walk over every CPU and every interrupt, and two samplers want it.
    """

    def __init__(self, file: HotFile, clock: Clock) -> None:
        self._file = file
        self._clock = clock
        self._data = b""
        self._read_at_s = -1.0
        self._generation = 0

    def reader(self) -> Callable[[], bytes]:
        """A sampler's own way to read: never the same reading twice, another's if it is fresh."""
        seen = 0

        def read() -> bytes:
            nonlocal seen
            now_s = self._clock.monotonic_s()
            if seen == self._generation or now_s - self._read_at_s > SHARED_AGE_S_MAX:
                self._data = self._file.read()
                self._read_at_s = now_s
                self._generation += 1
            seen = self._generation
            return self._data

        return read


class HostPaths:
    """The trees that samplers read, the hot files in them, and the clock.

    `proc`, `sys` and `root` are /proc, /sys and /, or what --procfs, --sysfs and --rootfs say; `udev` is
    where udev keeps its database. One instance is shared by all samplers of a process and used by one thread.
    """

    def __init__(
        self,
        proc: Path = Path("/proc"),
        sys: Path = Path("/sys"),
        root: Path = Path("/"),
        *,
        udev: Path = Path("/run/udev/data"),
        clock: Clock | None = None,
    ) -> None:
        self.proc = proc
        self.sys = sys
        self.root = root.absolute()  # Child processes that ask about it stand elsewhere.
        self.udev = udev
        self.clock: Clock = clock or SystemClock()
        self._hot: list[HotFile] = []
        self._shared: dict[Path, SharedFile] = {}

    def hot_proc(self, name: str, *, whole: bool = False) -> HotFile:
        """A file under /proc that is read at every tick."""
        return self.hot(self.proc / name, whole=whole)

    def hot_sys(self, name: str) -> HotFile:
        """An attribute under /sys that is read at every tick."""
        return self.hot(self.sys / name, whole=True)

    def hot(self, path: Path, *, whole: bool = False, may_be_empty: bool = False) -> HotFile:
        """Any file that is read at every tick."""
        file = HotFile(path, whole=whole, may_be_empty=may_be_empty)
        self._hot.append(file)
        return file

    def forget(self, file: HotFile) -> None:
        """Close a hot file that is not wanted any more: its device is gone."""
        file.close()
        self._hot.remove(file)

    def shared_proc(self, name: str) -> Callable[[], bytes]:
        """A reader of a file under /proc that other samplers read too."""
        path = self.proc / name
        if path not in self._shared:
            self._shared[path] = SharedFile(self.hot_proc(name, whole=True), self.clock)
        return self._shared[path].reader()

    def close(self) -> None:
        """Give every descriptor back."""
        for file in self._hot:
            file.close()


def read_text(path: Path) -> str:
    """A small file that is read rarely, stripped; foreign bytes become U+FFFD.

    Raises Missing when it does not exist, SamplerFailed when it cannot be read or is larger than a text file
    of the kernel's or udev's ever is.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            data = os.read(descriptor, TEXT_BYTES_MAX)
            if len(data) == TEXT_BYTES_MAX:
                raise SamplerFailed(str(path), f"is larger than {TEXT_BYTES_MAX} bytes")
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise unreadable(path, exc) from exc
    return data.decode("utf-8", "replace").strip()


def unreadable(path: Path | str, exc: OSError) -> SamplerFailed:
    """The system's refusal in our words: a missing file is Missing, everything else SamplerFailed."""
    if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENODEV):
        return Missing(str(path), "does not exist")
    return SamplerFailed(str(path), (exc.strerror or str(exc)).lower())
