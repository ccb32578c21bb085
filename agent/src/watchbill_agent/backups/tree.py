"""Walks a tree of files and reads of them, within bounds: time, bytes, no other filesystem, nothing but plain files.

Used for the source of a backup and for what was restored of it. A directory's names are sorted, so that a walk with the
same seed draws the same sample. What hangs (a dead network filesystem) hangs the process; whoever starts it has a
deadline.
"""

import fnmatch
import hashlib
import heapq
import os
import random
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from watchbill_agent.backups.manifest import (
    LARGEST_MAX,
    PIECE_BYTES,
    PIECES,
    READ_BYTES_MAX,
    SAMPLE_MAX,
    WHOLE_BYTES_MAX,
    Counts,
    Piece,
    Sampled,
)

FILES_MAX: Final = 20_000_000
LOOK_AT_CLOCK_EVERY: Final = 256
"""Entries."""
DIRECTORY_ENTRIES_MAX: Final = 2_000_000
MARGIN_NS: Final = 2_000_000_000
"""Clocks of filesystems are coarse, and not the one that a run's beginning was read from."""
_READ_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class File:
    """A plain file that did not move."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int


class Walk:
    """Counts what is under `roots` until `until_s` on the monotonic clock, and draws a sample with `seed`. Files that
    changed at `since_ms` or later are moving; 0: none are."""

    def __init__(
        self, roots: Sequence[str], excluded: Sequence[str], seed: str, since_ms: int, until_s: float
    ) -> None:
        self._roots = roots
        self._excluded = excluded
        self._random = random.Random(seed)  # noqa: S311 - A sample; its seed is written beside it.
        self._since_ns = since_ms * 1_000_000 - MARGIN_NS if since_ms else 2**63
        self._until_s = until_s
        self._entries = 0
        self._steady = 0
        self._drawn: list[File] = []
        self._largest: list[tuple[int, str, File]] = []
        self._seen = {"files": 0, "bytes": 0, "directories": 0, "links": 0, "others": 0}
        self._odd = {"moving": 0, "unreadable": 0, "mounts": 0}
        self._whole = True

    def run(self) -> None:
        """Walk."""
        for root in self._roots:
            self._walk(root)

    @property
    def counts(self) -> Counts:
        """What was seen."""
        return Counts(**self._seen, **self._odd, whole=self._whole)

    @property
    def sample(self) -> list[File]:
        """By name."""
        chosen = {file.path: file for file in self._drawn}
        chosen.update((path, file) for _, path, file in self._largest)
        return [chosen[path] for path in sorted(chosen)]

    def _walk(self, root: str) -> None:
        try:
            facts = os.lstat(root)
        except OSError:
            self._odd["unreadable"] += 1
            return
        if not stat.S_ISDIR(facts.st_mode):
            self._look(root, facts)
            return
        waiting = [root]
        while waiting and self._whole:
            directory = waiting.pop()
            self._seen["directories"] += 1
            for path in self._entries_of(directory):
                found = self._directory_at(path, facts.st_dev)
                if found:
                    waiting.append(path)

    def _entries_of(self, directory: str) -> Iterator[str]:
        try:
            names = sorted(os.listdir(directory))  # noqa: PTH208 - Millions of them; paths would cost a minute.
        except OSError:
            self._odd["unreadable"] += 1
            return
        for name in names[:DIRECTORY_ENTRIES_MAX]:
            self._entries += 1
            late = self._entries % LOOK_AT_CLOCK_EVERY == 0 and time.monotonic() > self._until_s
            if late or self._seen["files"] >= FILES_MAX:
                self._whole = False
                return
            path = f"{directory.rstrip('/')}/{name}"
            if not any(fnmatch.fnmatchcase(path, pattern) for pattern in self._excluded):
                yield path

    def _directory_at(self, path: str, device: int) -> bool:
        """Whether it is one to go into; anything else is looked at."""
        try:
            facts = os.lstat(path)
        except OSError:
            self._odd["unreadable"] += 1
            return False
        if stat.S_ISDIR(facts.st_mode):
            self._odd["mounts"] += facts.st_dev != device
            return facts.st_dev == device
        self._look(path, facts)
        return False

    def _look(self, path: str, facts: os.stat_result) -> None:
        if not stat.S_ISREG(facts.st_mode):
            self._seen["links" if stat.S_ISLNK(facts.st_mode) else "others"] += 1
            return
        self._seen["files"] += 1
        self._seen["bytes"] += facts.st_size
        if max(facts.st_mtime_ns, facts.st_ctime_ns) >= self._since_ns:
            self._odd["moving"] += 1
            return
        self._draw(File(path, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns))

    def _draw(self, file: File) -> None:
        """Every file is in the sample with the same chance, however many there will be."""
        self._steady += 1
        if len(self._drawn) < SAMPLE_MAX:
            self._drawn.append(file)
        elif (place := self._random.randrange(self._steady)) < SAMPLE_MAX:
            self._drawn[place] = file
        entry = (file.size, file.path, file)
        if len(self._largest) < LARGEST_MAX:
            heapq.heappush(self._largest, entry)
        elif file.size > self._largest[0][0]:
            heapq.heapreplace(self._largest, entry)


class Reader:
    """Hashes files until `until_s`, and READ_BYTES_MAX in all."""

    def __init__(self, until_s: float) -> None:
        self._until_s = until_s
        self.left_bytes = READ_BYTES_MAX

    @property
    def spent(self) -> bool:
        """Whether nothing more is read."""
        return self.left_bytes <= 0 or time.monotonic() > self._until_s

    def hash(self, file: File, seed: str) -> Sampled | None:
        """The file as it is; None when it cannot be read, or is not what it was."""
        spans = _spans(file.size, random.Random(os.fsencode(f"{seed}{file.path}")))  # noqa: S311 - As above.
        try:
            descriptor = os.open(
                file.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
            )
        except OSError:
            return None
        try:
            if _moved(descriptor, file):
                return None
            pieces = tuple(Piece(*span, self._sha256(descriptor, *span)) for span in spans)
            return None if _moved(descriptor, file) else Sampled(file.path, file.size, pieces)
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def differs(self, path: str, sampled: Sampled) -> str:
        """What is different in the file at `path`; "" when nothing is. Raises OSError."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                return "it is no plain file"
            if facts.st_size != sampled.size:
                return f"it has {facts.st_size} bytes, and had {sampled.size}"
            for piece in sampled.pieces:
                if self._sha256(descriptor, piece.offset, piece.length) != piece.sha256:
                    return f"its content is another one between byte {piece.offset} and {piece.offset + piece.length}"
        finally:
            os.close(descriptor)
        return ""

    def _sha256(self, descriptor: int, offset: int, length: int) -> str:
        sha256, end = hashlib.sha256(), offset + length
        while offset < end:
            data = os.pread(descriptor, min(_READ_BYTES, end - offset), offset)
            if not data:
                break
            sha256.update(data)
            offset += len(data)
        self.left_bytes -= length
        return sha256.hexdigest()


def _spans(size: int, drawn: random.Random) -> list[tuple[int, int]]:
    """What of a file is hashed: all, or pieces of it, the first and the last bytes among them."""
    if size <= WHOLE_BYTES_MAX:
        return [(0, size)]
    last = size - PIECE_BYTES
    offsets = {0, last, *(drawn.randrange(last) for _ in range(PIECES - 2))}
    return [(offset, PIECE_BYTES) for offset in sorted(offsets)]


def _moved(descriptor: int, file: File) -> bool:
    facts = os.fstat(descriptor)
    return not stat.S_ISREG(facts.st_mode) or (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns) != (
        file.size,
        file.mtime_ns,
        file.ctime_ns,
    )
