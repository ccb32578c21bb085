"""The mount table, and which of its mounts can make a process hang."""

import math
import re
import select
from collections.abc import Sequence
from dataclasses import dataclass

from watchbill_agent.hostpaths import HostPaths
from watchbill_agent.reading import SamplerFailed
from watchbill_agent.words import shown

_LOCAL = """
    bcachefs btrfs erofs exfat ext2 ext3 ext4 f2fs hfs hfsplus iso9660 jffs2 jfs minix msdos nilfs2 ntfs3
    reiserfs romfs squashfs sysv ubifs udf ufs vfat xfs zonefs binfmt_misc bpf cgroup cgroup2 configfs cpuset
    debugfs devpts devtmpfs hugetlbfs mqueue nsfs proc pstore ramfs resctrl rpc_pipefs securityfs selinuxfs
    sysfs tmpfs tracefs
"""
LOCAL_TYPES = frozenset(_LOCAL.split())
"""Filesystems whose statfs answers out of memory, with no network, no daemon and no suspended pool to wait
for.

Everything else may hang: network filesystems, FUSE, zfs, overlays over them, autofs, efivarfs (it asks the
firmware), and whatever is not known here.
"""
_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the mount table.

    `id` is the kernel's number of the mount. `point` is where it is mounted, as bytes for the kernel.
    `device` is its source as the table spells it. `read_only` is what the options of mount or superblock say.
    """

    id: int
    major: str
    minor: str
    point: bytes
    type: str
    device: str
    read_only: bool


class MountTable:
    """The mount table of process 1, or our own where that one is hidden, read again only when it may have
    changed.

    The kernel writes the table anew for each reader (25 us for ten mounts), but tells whoever polls when a
    mount came or went. It does not tell of a filesystem that became read-only, so the table is read every
    LOOK_AGAIN_S anyway.
    """

    LOOK_AGAIN_S = 10.0

    def __init__(self, host: HostPaths) -> None:
        self._clock = host.clock
        self._files = [host.hot_proc("1/mountinfo"), host.hot_proc("self/mountinfo")]
        self._poll: select.poll | None = None
        self._read_at_s = -math.inf
        self._data = b""
        self._mounts: list[Mount] = []

    def mounts(self) -> list[Mount]:
        """The mounts; the same list object as long as the table says the same. Raises SamplerFailed."""
        now_s = self._clock.monotonic_s()
        if self._poll is not None and now_s - self._read_at_s < self.LOOK_AGAIN_S and not self._poll.poll(0):
            return self._mounts
        self._read_at_s = -math.inf  # Should this fail, the next tick reads again.
        data = self._read()
        if data != self._data:
            self._mounts = parse_mountinfo(data)
            self._data = data
        self._read_at_s = now_s
        return self._mounts

    def _read(self) -> bytes:
        file = self._files[0]
        before = file.fileno()
        try:
            data = file.read()
        except SamplerFailed:
            # hidepid hides process 1; and in a container it may be of another namespace altogether.
            if len(self._files) == 1:
                self._poll = None
                raise
            del self._files[0]
            return self._read()
        if self._poll is None or file.fileno() != before:
            self._poll = select.poll()
            self._poll.register(file.fileno(), select.POLLPRI)
        return data


def parse_mountinfo(data: bytes) -> list[Mount]:
    """The mounts of /proc/PID/mountinfo, see proc(5); raises SamplerFailed naming the line that is wrong.

    A line is `36 35 98:0 /root /point rw,noatime master:1 - ext3 /dev/root rw,errors=continue`: the number of
    words before the dash varies. Space, tab, newline and backslash are written in octal.
    """
    mounts = []
    # Not splitlines(): a mount point may hold a carriage return, which the kernel does not escape.
    for line_number, line in enumerate(data.removesuffix(b"\n").split(b"\n"), 1):
        before, dash, after = line.partition(b" - ")
        head = before.split(b" ")
        tail = after.split(b" ")
        if not dash or len(head) < 6 or len(tail) < 3 or not head[0].isdigit():
            raise SamplerFailed("mountinfo", f"line {line_number}: wanted a mount, got {shown(line)}")
        major, colon, minor = head[2].partition(b":")
        if not (colon and major.isdigit() and minor.isdigit()):
            raise SamplerFailed(
                "mountinfo", f"line {line_number}: wanted a device number, got {shown(head[2])}"
            )
        # ext4 says emergency_ro after errors=remount-ro since Linux 6.15; 6.12 to 6.14 say nothing at all.
        options = head[5].split(b",") + tail[-1].split(b",")
        mounts.append(
            Mount(
                int(head[0]),
                major.decode("ascii"),
                minor.decode("ascii"),
                unescape(head[4]),
                tail[0].decode("utf-8", "replace"),
                tail[1].decode("utf-8", "replace"),
                b"ro" in options or b"emergency_ro" in options,
            )
        )
    return mounts


def unescape(word: bytes) -> bytes:
    r"""`\040` is a space, and so on for every byte that the kernel writes in octal."""
    if b"\\" not in word:
        return word
    return _ESCAPE.sub(lambda match: bytes((int(match[1], 8) & 0xFF,)), word)


def can_hang(mounts: Sequence[Mount]) -> set[int]:
    """The ids of mounts that can make statvfs hang: of a foreign type, or reached through one that is.

    A foreign root would make everything foreign; then only the types count, since this process stands on it
    too.
    """
    foreign = {mount.point for mount in mounts if mount.type not in LOCAL_TYPES and mount.point != b"/"}
    return {mount.id for mount in mounts if mount.type not in LOCAL_TYPES or through(mount.point, foreign)}


def through(point: bytes, foreign: set[bytes]) -> bool:
    """Whether a directory above `point` is one of `foreign`; a walk up, so that 10,000 mounts stay cheap."""
    at = point.rfind(b"/")
    while at > 0:
        point = point[:at]
        if point in foreign:
            return True
        at = point.rfind(b"/")
    return False
