"""Files of cells: room that is on the disk before it is needed, so that a full disk takes nothing away.

A cell is CRC-32, length and content, little-endian, in a place of fixed size; zeros are an empty cell. A cell that was
being written when the power went is damaged and known to be. Every byte of the file is written when it is made, so that
writing a cell later needs no room; on a file system that copies on write it may all the same be refused, and then the
runner refuses.

The disk is an argument: what is done to it, and in which order, is what everything else here stands on.
"""

import os
import struct
import zlib
from pathlib import Path
from typing import Final, Protocol

from watchbill.errors import Unreadable
from watchbill.files import PRIVATE_FILE, sync_directory

HEAD: Final = struct.Struct("<II")
MAKING_BYTES: Final = 1024 * 1024


class Damaged(Unreadable):
    """A cell whose content is not what was written."""


class Disk(Protocol):
    """The two things that are done to a file of cells. Each is done whole, or raises OSError."""

    def write(self, handle: int, offset: int, data: bytes) -> None:
        """Write all of `data` at `offset`."""

    def sync(self, handle: int) -> None:
        """Make what was written durable."""


class SystemDisk:
    """The disk of this machine."""

    def write(self, handle: int, offset: int, data: bytes) -> None:
        """Goes on after a short write, so that the reason for it becomes an error."""
        view = memoryview(data)
        while view:
            written = os.pwrite(handle, view, offset)
            view = view[written:]
            offset += written

    def sync(self, handle: int) -> None:
        """Sizes never change, so the content is enough."""
        os.fdatasync(handle)


class Cells:
    """An open file of `count` cells of `size` bytes each. Raises OSError where the disk fails."""

    def __init__(self, disk: Disk, path: Path, size: int, count: int) -> None:
        self.path = path
        self.size = size
        self.count = count
        self._disk = disk
        self._handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        if os.fstat(self._handle).st_size != size * count:
            self.close()
            raise Damaged(f"{path}: got a file of another size, wanted {size * count} bytes")

    @staticmethod
    def make(path: Path, size: int, count: int) -> None:
        """A new file of empty cells, durable when this returns."""
        handle = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE_FILE
        )
        try:
            os.posix_fallocate(handle, 0, size * count)
            left = size * count
            while left:
                left -= os.write(handle, bytes(min(left, MAKING_BYTES)))
            os.fsync(handle)
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(handle)
        sync_directory(path.parent)

    def close(self) -> None:
        """Give the file back."""
        os.close(self._handle)

    def read(self, place: int) -> bytes | None:
        """What a cell holds, None for nothing. Raises Damaged."""
        return self._opened(place, os.pread(self._handle, self.size, place * self.size))

    def read_all(self) -> list[bytes | Damaged | None]:
        """Every cell at once."""
        content = b""
        while len(content) < self.size * self.count and (
            piece := os.pread(self._handle, self.size * self.count - len(content), len(content))
        ):
            content += piece
        found: list[bytes | Damaged | None] = []
        for place in range(self.count):
            try:
                found.append(self._opened(place, content[place * self.size : (place + 1) * self.size]))
            except Damaged as exc:
                found.append(exc)
        return found

    def write(self, place: int, *contents: bytes) -> None:
        """Fill cells from `place` on, not yet durable; an empty content empties its cell."""
        data = b""
        for number, content in enumerate(contents):
            assert len(content) + HEAD.size <= self.size, "whoever writes knows the size of a cell"
            data = data.ljust(number * self.size, b"\0")
            length = struct.pack("<I", len(content))
            data += (
                HEAD.pack(zlib.crc32(content, zlib.crc32(length)) if content else 0, len(content)) + content
            )
        self._disk.write(self._handle, place * self.size, data)

    def sync(self) -> None:
        """Make it durable."""
        self._disk.sync(self._handle)

    def _opened(self, place: int, cell: bytes) -> bytes | None:
        if len(cell) < HEAD.size:
            raise Damaged(f"{self.path}: the file ends before cell {place}")
        checksum, length = HEAD.unpack_from(cell)
        if not checksum and not length:
            return None
        content = cell[HEAD.size : HEAD.size + length]
        if len(content) != length or zlib.crc32(content, zlib.crc32(cell[4:8])) != checksum:
            raise Damaged(f"{self.path}: cell {place} is damaged")
        return content
