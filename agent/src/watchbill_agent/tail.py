"""Follows log files from one look to the next: every complete line once, whatever rotates them.

    tail = Tail(["/var/log/nginx/*access.log"])
    tail.recall(memory)                 # where an earlier process stopped
    tail.find()                         # what there is now, what was renamed, copied, truncated, removed
    while (chunk := tail.read()):       # complete lines
        ...count chunk.data...
        tail.advance(chunk)             # only now they are taken
    tail.settle()                       # fingerprints of the new places, the backlog

How a file is known again:

1. By device and inode, wherever its name went: a renamed file is read to its end. It is followed for an hour after its
   last write, since its writer keeps it open until it is told; one that the patterns match is followed as long as it is
   there.
2. By the first KiB and by the KiB before the place: an inode that was used again, and a file that was truncated and has
   grown beyond the place since, look different there.
3. A file that was truncated leaves its place to a copy beside it (`copytruncate`): a file whose name begins with the
   same and which has both fingerprints. While the original still has them, the copy is nobody's.
4. When a name was given to another file more than once between two looks, files beside it are read that were written
   since the last one.
5. What was known to be unread and is gone is counted as lost. Compressed files are not followed: what they hold was
   read before, or is counted as lost.

A line without its end waits for it. NUL bytes, which truncating leaves before a writer's next line, are taken out. A
line longer than LINE_BYTES_MAX is skipped and counted. Nothing here depends on times in the lines.
"""

import errno
import glob
import hashlib
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

CHUNK_BYTES: Final = 256 * 1024
LINE_BYTES_MAX: Final = 64 * 1024
FINGERPRINT_BYTES: Final = 1024
FILES_MAX: Final = 128
"""Followed at once; the rest of what a pattern matches is left out, by name, and counted."""
PATH_CHARACTERS_MAX: Final = 512
"""Of a followed file: the places have to fit what a check may remember."""
DIRECTORY_ENTRIES_MAX: Final = 10_000
"""Looked through for a renamed or copied file."""
RENAMED_KEPT_S: Final = 3_600.0
COARSE_MS: Final = 1_000
"""By which a file's time may lie before the moment at which it was written: kernels and servers count coarsely."""
COMPRESSED: Final = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".Z", ".zip")


@dataclass(slots=True)
class Place:
    """How far one file was read. `head` is the digest of the first `head_bytes`, `tail` of what is right before `at`.
    `skipping`: the rest of a line that was too long is skipped. `size` is the last one seen."""

    path: str
    device: int
    inode: int
    at: int = 0
    head: str = ""
    head_bytes: int = 0
    tail: str = ""
    size: int = 0
    skipping: bool = False
    renamed: bool = False
    moved: bool = True
    """Whether the fingerprints have to be taken anew."""

    @property
    def identity(self) -> tuple[int, int]:
        """Whatever it is called."""
        return self.device, self.inode


@dataclass(frozen=True, slots=True)
class Chunk:
    """Complete lines of one file, the last with its newline too, without NULs and carriage returns."""

    place: Place
    data: bytes
    end: int
    oversized: int


@dataclass(slots=True)
class Counts:
    """Since the first look, over restarts."""

    bytes: int = 0
    oversized: int = 0
    """Lines that were longer than LINE_BYTES_MAX."""
    truncations: int = 0
    rotations: int = 0
    lost_bytes: int = 0
    """Known to be unread when their file went."""


class Tail:
    """The files that match some patterns. Opens nothing but while it looks."""

    def __init__(self, patterns: Sequence[str], *, from_start: bool = False) -> None:
        self._patterns = tuple(patterns)
        self._from_start = from_start
        self._known: dict[tuple[int, int], Place] = {}
        self._first = True
        self._looked_ms = 0
        self._turned: set[str] = set()
        """Names that other files have now."""
        self._queue: list[Place] = []
        self._fd = -1
        self._open: Place | None = None
        self.counts = Counts()
        self.backlog_bytes = 0
        self.left_out = 0
        self.unreadable: dict[str, str] = {}
        """Path to the system's reason, of the last look."""

    @property
    def files(self) -> int:
        """Followed now."""
        return len(self._known)

    # ------------------------------------------------------------ memory

    def memory(self) -> Mapping[str, Any]:
        """Places and counts."""
        places = [
            [
                *(one.path, one.device, one.inode, one.at, one.head, one.head_bytes, one.tail, one.size),
                *(int(one.skipping), int(one.renamed)),
            ]
            for one in self._known.values()
        ]
        counts = self.counts
        numbers = [counts.bytes, counts.oversized, counts.truncations, counts.rotations, counts.lost_bytes]
        return {"places": places, "counts": numbers, "looked_ms": self._looked_ms}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on where `memory` was. Raises ValueError, TypeError or KeyError for what is none, nothing changed."""
        counts = Counts(*(int(number) for number in memory["counts"]))
        places = []
        for path, device, inode, at, head, head_bytes, tail, size, skipping, renamed in memory["places"]:
            place = Place(str(path), int(device), int(inode), int(at), str(head), int(head_bytes), str(tail))
            place.size, place.skipping, place.renamed = int(size), bool(skipping), bool(renamed)
            place.moved = False
            places.append(place)
        self._known = {place.identity: place for place in places[:FILES_MAX]}
        self.counts = counts
        self._looked_ms = int(memory["looked_ms"])
        self._first = False

    # ------------------------------------------------------------ finding

    def find(self) -> None:
        """See what there is and settle which places are still good."""
        self.unreadable = {}
        self._turned.clear()
        matched = self._matched()
        directories: dict[str, dict[tuple[int, int], str]] = {}
        for place in list(self._known.values()):
            self._follow(place, matched, directories)
        for path in self._turned:
            self._meet_between(path)
        for identity, (path, found) in matched.items():
            if identity not in self._known:
                self._meet(path, found)
        self._looked_ms = time.time_ns() // 1_000_000
        # What could not be opened at all is met as it stands when it can be.
        self._first = self._first and not self._known and bool(self.unreadable)
        # What was renamed is older than what took its name, and is read before it.
        self._queue = sorted(
            self._known.values(), key=lambda place: (not place.renamed, place.path), reverse=True
        )

    def _matched(self) -> dict[tuple[int, int], tuple[str, os.stat_result]]:
        matched: dict[tuple[int, int], tuple[str, os.stat_result]] = {}
        self.left_out = 0
        paths = sorted({path for pattern in self._patterns for path in glob.glob(pattern)})  # noqa: PTH207 - Of absolute patterns.
        for path in paths:
            if path.endswith(COMPRESSED):
                continue
            try:
                found = Path(path).stat()
            except OSError as exc:
                if exc.errno != errno.ENOENT:
                    self._cannot(path, exc)
                continue
            if not stat.S_ISREG(found.st_mode):
                continue
            identity = found.st_dev, found.st_ino
            room = len(matched) < FILES_MAX and len(path) <= PATH_CHARACTERS_MAX
            if room:
                matched.setdefault(identity, (path, found))
            else:
                self.left_out += 1
        return matched

    def _follow(
        self,
        place: Place,
        matched: Mapping[tuple[int, int], tuple[str, os.stat_result]],
        directories: dict[str, dict[tuple[int, int], str]],
    ) -> None:
        """One known file: the same, renamed, truncated, or gone."""
        there = matched.get(place.identity)
        if there is None:
            there = _stat(_names_in(str(Path(place.path).parent), directories).get(place.identity, ""))
        if there is None:
            self._missing(place)
            return
        path, found = there
        name = Path(place.path).name
        if path != place.path:
            if not place.renamed:
                self._turned.add(place.path)
            place.renamed = True
            place.path = path
            self.counts.rotations += 1
        known_size, place.size = place.size, found.st_size
        try:
            same = self._same(place, path, found.st_size)
        except OSError as exc:
            self._cannot(path, exc)
            return
        if not same:
            self._truncated(place, name, known_size)
        elif place.identity not in matched and place.at >= place.size and _idle_s(found) > RENAMED_KEPT_S:
            del self._known[place.identity]

    def _same(self, place: Place, path: str, size: int) -> bool:
        """Whether what was read is still what stands there."""
        if size < place.at or size < place.head_bytes:
            return False
        with _opened(path) as fd:
            return _fits(place, fd)

    def _truncated(self, place: Place, name: str, known_size: int) -> None:
        """Its place goes to the copy, if there is one, and it is read from its start."""
        self.counts.truncations += 1
        copy = self._copy_of(place, name)
        if copy is not None:
            self._known[copy.identity] = copy
            self.counts.rotations += 1
        else:
            self.counts.lost_bytes += max(0, known_size - place.at)
        place.at, place.head, place.head_bytes, place.tail = 0, "", 0, ""
        place.skipping, place.renamed, place.moved = False, False, True

    def _copy_of(self, place: Place, name: str) -> Place | None:
        if not place.head_bytes or len(self._known) >= 2 * FILES_MAX:
            return None
        for identity, path in _names_in(str(Path(place.path).parent), {}).items():
            beside = Path(path).name.startswith(name) and not path.endswith(COMPRESSED)
            if not beside or identity in self._known:
                continue
            try:
                with _opened(path) as fd:
                    size = os.fstat(fd).st_size
                    if size >= max(place.at, place.head_bytes) and _fits(place, fd):
                        copy = Place(
                            path, *identity, place.at, place.head, place.head_bytes, place.tail, size
                        )
                        copy.skipping, copy.renamed = place.skipping, True
                        return copy
            except OSError:
                continue
        return None

    def _missing(self, place: Place) -> None:
        """No file has its identity. What has its name and its content is the same one: devices are numbered anew at a
        start, and editors write files anew."""
        del self._known[place.identity]
        there = _stat(place.path)
        if there is not None and place.head_bytes:
            try:
                if self._same(place, place.path, there[1].st_size):
                    place.device, place.inode, place.size = there[1].st_dev, there[1].st_ino, there[1].st_size
                    self._known.setdefault(place.identity, place)
                    return
            except OSError as exc:
                self._cannot(place.path, exc)
        if not place.renamed:
            self._turned.add(place.path)
        self.counts.lost_bytes += max(0, place.size - place.at)

    def _meet_between(self, path: str) -> None:
        """Files that had this name between two looks and have another one already: those beside it, written since."""
        names = _names_in(str(Path(path).parent), {})
        for identity, other in names.items():
            if identity in self._known or other == path or not other.startswith(path):
                continue
            there = _stat(other)
            if there is not None and there[1].st_mtime_ns // 1_000_000 >= self._looked_ms - COARSE_MS:
                self._meet(other, there[1])
                if identity in self._known:
                    self._known[identity].renamed = True

    def _meet(self, path: str, found: os.stat_result) -> None:
        """A file that was not there at the last look."""
        if len(self._known) >= FILES_MAX:
            self.left_out += 1
            return
        place = Place(path, found.st_dev, found.st_ino, size=found.st_size)
        try:
            with _opened(path) as fd:
                if self._first and not self._from_start:
                    place.at, place.skipping = _end_of_lines(fd, found.st_size)
                elif self._is_copy(path, fd, found.st_size):
                    return
        except OSError as exc:
            self._cannot(path, exc)
            return
        self._known[place.identity] = place

    def _is_copy(self, path: str, fd: int, size: int) -> bool:
        """Whether it is a copy of a file that is followed and still there as it was."""
        for place in self._known.values():
            if not place.head_bytes or not path.startswith(place.path):
                continue
            if size >= max(place.at, place.head_bytes) and _fits(place, fd):
                return True
        return False

    def _cannot(self, path: str, exc: OSError) -> None:
        self.unreadable[path] = (exc.strerror or str(exc)).lower()

    # ------------------------------------------------------------ reading

    def read(self) -> Chunk | None:
        """The next complete lines, or None when all files are read to their ends. Until `advance` the same ones come
        again."""
        while self._queue:
            place = self._queue[-1]
            try:
                chunk = self._next(place)
            except OSError as exc:
                self._cannot(place.path, exc)
                chunk = None
            if chunk is not None:
                return chunk
            self._shut()
            self._queue.pop()
        return None

    def _next(self, place: Place) -> Chunk | None:
        if self._open is not place:
            self._shut()
            self._fd = _open(place.path)
            self._open = place
            if (found := os.fstat(self._fd)) and (found.st_dev, found.st_ino) != place.identity:
                return None  # Renamed just now; the next look knows.
        while True:
            data = os.pread(self._fd, CHUNK_BYTES, place.at)
            if data[:1] == b"\0":
                after = _after_nuls(self._fd, place.at)
                if after is None:
                    return None
                self._move(place, after)
                continue
            if place.skipping:
                if not data:
                    return None
                end = data.find(b"\n") + 1
                place.skipping = end == 0
                self._move(place, place.at + (end or len(data)))
                continue
            end = data.rfind(b"\n") + 1
            if end:
                lines, oversized = _lines(data[:end])
                return Chunk(place, lines, place.at + end, oversized)
            if len(data) <= LINE_BYTES_MAX:
                return None
            self.counts.oversized += 1
            place.skipping = True

    def _move(self, place: Place, at: int) -> None:
        self.counts.bytes += at - place.at
        place.at = at
        place.moved = True

    def advance(self, chunk: Chunk) -> None:
        """Take a chunk: it was counted."""
        self._move(chunk.place, chunk.end)
        self.counts.oversized += chunk.oversized

    def settle(self) -> None:
        """Note how the files look at their new places, and how much is unread."""
        self._shut()
        self._queue = []
        self.backlog_bytes = 0
        for place in self._known.values():
            try:
                if place.moved or place.head_bytes < FINGERPRINT_BYTES:
                    with _opened(place.path) as fd:
                        found = os.fstat(fd)
                        if (found.st_dev, found.st_ino) == place.identity:
                            _fingerprint(place, fd, found.st_size)
                            place.size = max(place.at, found.st_size)
            except OSError as exc:
                self._cannot(place.path, exc)
            self.backlog_bytes += max(0, place.size - place.at)

    def _shut(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._open = -1, None


class _opened:  # noqa: N801 - Read as a verb.
    """A descriptor for as long as the block."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> int:
        self._fd = _open(self._path)
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _open(path: str) -> int:
    # A name that became a FIFO must not hold us up.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "is no regular file")
    return fd


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _fits(place: Place, fd: int) -> bool:
    """Whether a file looks at its head and right before the place as the one that was read."""
    if place.head_bytes and _digest(os.pread(fd, place.head_bytes, 0)) != place.head:
        return False
    if not place.tail:
        return True
    start = max(0, place.at - FINGERPRINT_BYTES)
    return _digest(os.pread(fd, place.at - start, start)) == place.tail


def _fingerprint(place: Place, fd: int, size: int) -> None:
    head = os.pread(fd, FINGERPRINT_BYTES, 0).rstrip(b"\0")  # A place that is kept free will be written.
    place.moved = False
    if size < place.at or (place.head_bytes and _digest(head[: place.head_bytes]) != place.head):
        # Truncated since it was read: what is known of its head finds the copy, what is before the place is gone.
        place.tail = ""
        return
    place.head, place.head_bytes = _digest(head), len(head)
    start = max(0, place.at - FINGERPRINT_BYTES)
    place.tail = _digest(os.pread(fd, place.at - start, start)) if place.at else ""


def _lines(data: bytes) -> tuple[bytes, int]:
    """Without what is in no line: NULs, carriage returns, lines that are too long; and how many those were."""
    at, good, oversized = 0, [], 0
    while at < len(data):
        end = data.rfind(b"\n", at, at + LINE_BYTES_MAX + 1) + 1
        if end:
            good.append(data[at:end])
        else:
            end = data.index(b"\n", at) + 1
            oversized += 1
        at = end
    data = b"".join(good)
    if b"\0" in data:
        data = data.replace(b"\0", b"")
    return data.replace(b"\r\n", b"\n") if b"\r" in data else data, oversized


def _stat(path: str) -> tuple[str, os.stat_result] | None:
    try:
        found = Path(path).stat() if path else None
    except OSError:
        return None
    return None if found is None or not stat.S_ISREG(found.st_mode) else (path, found)


def _names_in(directory: str, known: dict[str, dict[tuple[int, int], str]]) -> Mapping[tuple[int, int], str]:
    """The files of a directory by identity; looked through once."""
    if directory not in known:
        known[directory] = {}
        try:
            with os.scandir(directory or ".") as entries:
                known[directory] = dict(_identities(entries))
        except OSError:
            return known[directory]
    return known[directory]


def _identities(entries: Iterator["os.DirEntry[str]"]) -> Iterator[tuple[tuple[int, int], str]]:
    for number, entry in enumerate(entries):
        if number >= DIRECTORY_ENTRIES_MAX:
            return
        try:
            if entry.is_file(follow_symlinks=False) and not entry.name.endswith(COMPRESSED):
                found = entry.stat(follow_symlinks=False)
                yield (found.st_dev, found.st_ino), entry.path
        except OSError:
            continue


def _end_of_lines(fd: int, size: int) -> tuple[int, bool]:
    """Where a file is read from that was there before anybody followed it: after its last complete line. True: in the
    middle of one that is too long."""
    start = max(0, size - LINE_BYTES_MAX)
    at = os.pread(fd, size - start, start).rfind(b"\n") + 1
    if at or start == 0:
        return start + at, False
    return size, True


def _after_nuls(fd: int, at: int) -> int | None:
    """Where the NULs end; None when nothing comes after them yet: a writer may fill them in."""
    while True:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return None
        data = os.pread(fd, CHUNK_BYTES, at)
        rest = data.lstrip(b"\0")
        if rest:
            return at + len(data) - len(rest)
        if not data:
            return None
        at += len(data)


def _idle_s(found: os.stat_result) -> float:
    return time.time() - found.st_mtime
