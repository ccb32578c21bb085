"""A disk in memory that fails as disks do: the supported twin of `SystemFilesystem`.

What was written and not synced may be lost at a power cut, wholly, in part, and in any order; names are lost
from the last one backwards, as a journal loses them. After a sync that failed the bytes are forgotten as the
kernel forgets them: they can be read until the power goes, and no later sync brings them to the disk.

`before` is called with the name of every operation that changes something, so a test can let the n-th one fail
(OSError) or the machine end there (any other exception).
"""

import errno
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

BLOCK_BYTES = 512
"""Files take whole blocks; small, so that small disks fill up one record at a time."""


@dataclass(slots=True, eq=False)
class _File:
    """`data` is what a reader sees, `durable` what the disk has, `writes` what lies between the two."""

    data: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    writes: list[tuple[int, bytes]] = field(default_factory=list)


def _put(target: bytearray, offset: int, data: bytes) -> None:
    if len(target) < offset + len(data):
        target.extend(bytes(offset + len(data) - len(target)))
    target[offset : offset + len(data)] = data


class SimulatedFilesystem:
    """A disk of `capacity` bytes."""

    def __init__(self, capacity: int = 1 << 40) -> None:
        self.capacity = capacity
        self.before: Callable[[str, Path], None] = lambda _operation, _path: None
        self.syncs = 0
        self._names: dict[Path, _File] = {}
        self._durable_names: dict[Path, _File] = {}
        self._journal: list[dict[Path, _File | None]] = []
        # Each entry is one operation: a rename takes one name and gives the other, or does neither.
        self._handles: dict[int, tuple[_File, Path]] = {}
        self._last_handle = 0

    # ------------------------------------------------------------ what a spool asks

    def make_directory(self, path: Path) -> None:
        """Directories are always there."""
        self.before("mkdir", path)

    def files(self, directory: Path) -> list[tuple[str, int]]:
        """In no particular order."""
        return [(path.name, len(file.data)) for path, file in self._names.items() if path.parent == directory]

    def strangers(self, _directory: Path) -> list[str]:
        """There are only files."""
        return []

    def create(self, path: Path) -> int:
        """Takes a block at once."""
        self.before("create", path)
        if path in self._names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        if self.free() < BLOCK_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        file = _File()
        self._name(path, file)
        return self._handle(file, path)

    def open(self, path: Path) -> int:
        """For writing."""
        return self._handle(self._file(path), path)

    def write(self, handle: int, offset: int, data: bytes) -> None:
        """On a full disk the beginning of `data` is written all the same."""
        file, path = self._handles[handle]
        self.before("write", path)
        room = self.free() + _blocks(file) - offset
        taken = data if len(data) <= room or offset + len(data) <= len(file.data) else data[: max(0, room)]
        if taken:
            _put(file.data, offset, taken)
            file.writes.append((offset, taken))
        if len(taken) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def read(self, path: Path, bytes_max: int) -> bytes:
        """What was written, synced or not."""
        return bytes(self._file(path).data[:bytes_max])

    def allocate(self, handle: int, size: int) -> None:
        """Zeros up to `size`."""
        file, path = self._handles[handle]
        self.before("allocate", path)
        if size > len(file.data):
            if size > self.free() + _blocks(file):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            grown = bytes(size - len(file.data))
            file.writes.append((len(file.data), grown))
            file.data.extend(grown)

    def sync(self, handle: int) -> None:
        """All writes of the file become durable."""
        file, path = self._handles[handle]
        try:
            self.before("sync", path)
        except OSError:
            file.writes.clear()  # The kernel marks the pages clean and forgets them.
            raise
        self.syncs += 1
        file.durable = bytearray(file.data) if not file.writes else _written(file)
        file.writes.clear()

    def sync_directory(self, path: Path) -> None:
        """All names of the directory become durable."""
        self.before("sync_directory", path)
        self.syncs += 1
        kept = []
        for entry in self._journal:
            if any(name.parent == path for name in entry):
                self._settle(entry)
            else:
                kept.append(entry)
        self._journal = kept

    def close(self, handle: int) -> None:
        """Nothing is synced by it."""
        self._handles.pop(handle, None)

    def rename(self, old: Path, new: Path) -> None:
        """Atomic, also when the power goes."""
        self.before("rename", old)
        file = self._file(old)
        self._names[new] = file
        del self._names[old]
        self._journal.append({old: None, new: file})

    def unlink(self, path: Path) -> None:
        """Frees the blocks at once."""
        self.before("unlink", path)
        if self._names.pop(path, None) is not None:
            self._journal.append({path: None})

    # ------------------------------------------------------------ what a test asks

    def free(self) -> int:
        """Bytes that are left."""
        return self.capacity - sum(_blocks(file) for file in set(self._names.values()))

    def used(self, directory: Path) -> int:
        """Bytes of the files in a directory."""
        return sum(size for _, size in self.files(directory))

    def damage(self, path: Path, offset: int, value: int) -> None:
        """Change one byte, on the disk and for readers."""
        file = self._file(path)
        file.data[offset] = value
        if offset < len(file.durable):
            file.durable[offset] = value

    def cut(self, path: Path, size: int) -> None:
        """Let a file end early."""
        file = self._file(path)
        del file.data[size:], file.durable[size:]

    def put(self, path: Path, data: bytes) -> None:
        """Let a whole durable file appear."""
        file = _File(bytearray(data), bytearray(data))
        self._names[path] = self._durable_names[path] = file

    def killed(self) -> None:
        """The process ended; the kernel keeps everything that was written."""
        self._handles.clear()

    def power_cut(self, rng: random.Random) -> None:
        """The machine ended. `rng` decides what of the unsynced survives: often nothing, sometimes all of it."""
        self._handles.clear()
        luck = rng.random()
        kept = 0 if luck < 0.3 else len(self._journal) if luck > 0.8 else rng.randint(0, len(self._journal))
        for entry in self._journal[:kept]:
            self._settle(entry)
        self._journal.clear()
        for file in dict.fromkeys([*self._names.values(), *self._durable_names.values()]):
            _lose(file, rng)
        self._names = dict(self._durable_names)

    def snapshot(self) -> "SimulatedFilesystem":
        """The disk as it is, for a machine that will be rolled back to it."""
        copy = SimulatedFilesystem(self.capacity)
        for path, file in self._names.items():
            copy.put(path, bytes(file.data))
        return copy

    # ------------------------------------------------------------ within

    def _file(self, path: Path) -> _File:
        file = self._names.get(path)
        if file is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return file

    def _handle(self, file: _File, path: Path) -> int:
        self._last_handle += 1
        self._handles[self._last_handle] = (file, path)
        return self._last_handle

    def _name(self, path: Path, file: _File) -> None:
        self._names[path] = file
        self._journal.append({path: file})

    def _settle(self, entry: dict[Path, _File | None]) -> None:
        for name, file in entry.items():
            if file is None:
                self._durable_names.pop(name, None)
            else:
                self._durable_names[name] = file


def _blocks(file: _File) -> int:
    return max(1, -(-len(file.data) // BLOCK_BYTES)) * BLOCK_BYTES


def _written(file: _File) -> bytearray:
    durable = bytearray(file.durable)
    for offset, data in file.writes:
        _put(durable, offset, data)
    return durable


def _lose(file: _File, rng: random.Random) -> None:
    """Some unsynced writes reach the disk, some do not, one perhaps by half."""
    luck = rng.random()
    if luck > 0.4:
        for offset, data in file.writes:
            if luck > 0.8 or rng.random() < 0.5:
                cut = rng.randint(0, len(data)) if rng.random() < 0.3 else len(data)
                _put(file.durable, offset, data[:cut])
    file.writes.clear()
    file.data = bytearray(file.durable)
