"""Filesystems: size, free space, inodes and read-only of each mount; one that hangs holds up nothing."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from watchbill_agent.mounts import Mount, MountTable, can_hang
from watchbill_agent.names import NameFilter
from watchbill_agent.prober import TIMEOUT, Failure, Prober, Space
from watchbill_agent.samplers import (
    Family,
    HostPaths,
    Layout,
    MetricType,
    Reading,
    Sampler,
    Series,
    labels,
)

MOUNTS_MAX = 2000
"""Mounts that are reported; eight series each make 16,000 of the 20,000 that a host may send."""
NOTICE_MOUNTS_MAX = 3


def _family(name: str, text: str) -> Family:
    return Family(f"node_filesystem_{name}", MetricType.GAUGE, text)


_ERROR = _family("device_error", "1 if the filesystem could not be asked, 0 if it answered.")
_READ_ONLY = _family("readonly", "1 if nothing can be written to the filesystem.")
_SPACE = (
    _family("size_bytes", "Bytes of the filesystem."),
    _family("free_bytes", "Bytes that are free."),
    _family("avail_bytes", "Bytes that are free for users other than root."),
    _family("files", "Inodes of the filesystem."),
    _family("files_free", "Inodes that are free."),
)
_INFO = _family("mount_info", "What is mounted where.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Regular expressions over mount points and filesystem types; an include, where set, decides alone.

    `mount_timeout_s` is when a filesystem that does not answer counts as hung; `wait_s` is how long one
    reading waits for those that can hang, local ones are never waited for.
    """

    mount_points_exclude: str = (
        r"^/(dev|proc|run/credentials/.+|sys|var/lib/docker/.+|var/lib/containers/storage/.+)($|/)"
    )
    mount_points_include: str = ""
    fs_types_exclude: str = (
        r"^(autofs|binfmt_misc|bpf|cgroup2?|configfs|debugfs|devpts|devtmpfs|fusectl|hugetlbfs|iso9660|mqueue|nsfs"
        r"|overlay|proc|procfs|pstore|rpc_pipefs|securityfs|selinuxfs|squashfs|erofs|sysfs|tracefs)$"
    )
    fs_types_include: str = ""
    mount_timeout_s: float = 5.0
    wait_s: float = 0.05


@dataclass(frozen=True, slots=True)
class _Place:
    """A mount that is reported: how it is called, and what to ask the kernel about."""

    mount: Mount
    label: str
    path: bytes
    can_hang: bool


class Filesystem(Sampler):
    """Reads /proc/1/mountinfo and asks statvfs about each mount, through a child where it can hang."""

    name = "filesystem"
    default_on = True
    interval_s = None
    options_type = Options

    def __init__(self, options: Options, host: HostPaths) -> None:
        self._points = NameFilter.of(
            "filesystem", options, include="mount_points_include", exclude="mount_points_exclude"
        )
        self._types = NameFilter.of(
            "filesystem", options, include="fs_types_include", exclude="fs_types_exclude"
        )
        self._root = os.fsencode(host.root)
        self._table = MountTable(host)
        self._prober = Prober(host.clock, options.mount_timeout_s)
        self._wait_s = options.wait_s
        self._mounts: list[Mount] | None = None
        self._places: list[_Place] = []
        self._foreign: dict[int, bytes] = {}
        self._left_out = 0
        self._faults: list[str | None] | None = None
        self._layout = Layout((), ())

    def sample(self) -> Reading:
        """Eight values for each mount that answers, two for one that does not, none for one not asked yet."""
        mounts = self._table.mounts()
        if mounts is not self._mounts:
            self._places, self._left_out = self._choose(mounts)
            self._foreign = {place.mount.id: place.path for place in self._places if place.can_hang}
            self._mounts, self._faults = mounts, None
        asking = self._foreign or self._prober.children
        answers = self._prober.probe(self._foreign, self._wait_s) if asking else {}
        values: list[float] = []
        faults: list[str | None] = []
        for place in self._places:
            answer = answers.get(place.mount.id) if place.can_hang else ask(place.path)
            fault = _WAITING if answer is None else answer.why if isinstance(answer, Failure) else None
            faults.append(fault)
            if isinstance(answer, Space):
                values += _values(place.mount, answer)
            elif answer is not None:
                values += (1.0, 1.0 if place.mount.read_only else 0.0)
        if faults != self._faults:
            self._layout = _layout(self._places, faults)
            self.notice = _notice(self._places, faults, self._left_out)
            self._faults = faults
            self.unfinished = _WAITING in faults
        return Reading(self._layout, values)

    def close(self) -> None:
        """End the children that ask, without waiting for them."""
        self._prober.close()

    def _choose(self, mounts: Sequence[Mount]) -> tuple[list[_Place], int]:
        """The mounts to report, each device, point and type once, and how many there were too many."""
        hang = can_hang(mounts)
        places: dict[tuple[str, bytes, str], _Place] = {}
        left_out = 0
        for mount in mounts:
            if not self._types.keeps(mount.type):
                continue
            point = strip_root(mount.point, self._root)
            label = point.decode("utf-8", "replace")
            if not self._points.keeps(label):
                continue
            key = (mount.device, point, mount.type)
            if key not in places and len(places) == MOUNTS_MAX:
                left_out += 1
                continue
            path = point if self._root == b"/" else self._root + point
            places[key] = _Place(
                mount, label, path, mount.id in hang
            )  # The last of several is the one on top.
        return list(places.values()), left_out


_WAITING = "waiting"


def ask(path: bytes) -> Space | Failure:
    """What statvfs says of a mount that cannot hang."""
    try:
        found = os.statvfs(path)
    except OSError as exc:
        return Failure((exc.strerror or str(exc)).lower())
    return Space(
        found.f_frsize,
        found.f_blocks,
        found.f_bfree,
        found.f_bavail,
        found.f_files,
        found.f_ffree,
        bool(found.f_flag & os.ST_RDONLY),
    )


def strip_root(point: bytes, root: bytes) -> bytes:
    """A mount point as the host sees it: without what --rootfs says."""
    if root == b"/" or not (point == root or point.startswith(root + b"/")):
        return point
    return point[len(root) :] or b"/"


def _values(mount: Mount, space: Space) -> tuple[float, ...]:
    size = space.block_bytes
    return (
        0.0,
        1.0 if mount.read_only or space.read_only else 0.0,
        space.blocks * size,
        space.blocks_free * size,
        space.blocks_available * size,
        space.files,
        space.files_free,
        1.0,
    )


def _layout(places: Sequence[_Place], faults: Sequence[str | None]) -> Layout:
    series: list[Series] = []
    for place, fault in zip(places, faults, strict=True):
        if fault == _WAITING:
            continue
        mount = place.mount
        pairs = labels(
            device=mount.device, fstype=mount.type, mountpoint=place.label, device_error=fault or ""
        )
        series += [Series(family.name, pairs) for family in (_ERROR, _READ_ONLY)]
        if fault is None:
            series += [Series(family.name, pairs) for family in _SPACE]
            info = labels(device=mount.device, major=mount.major, minor=mount.minor, mountpoint=place.label)
            series.append(Series(_INFO.name, info))
    return Layout((_ERROR, _READ_ONLY, *_SPACE, _INFO), series)


def _notice(places: Sequence[_Place], faults: Sequence[str | None], left_out: int) -> str:
    hung = [place.label for place, fault in zip(places, faults, strict=True) if fault == TIMEOUT.why]
    parts = []
    if hung:
        named = ", ".join(repr(label) for label in hung[:NOTICE_MOUNTS_MAX])
        more = len(hung) - NOTICE_MOUNTS_MAX
        parts.append(f"no answer from {named}" + (f" and {more} more" if more > 0 else ""))
    if left_out:
        parts.append(f"{left_out} mounts beyond the first {MOUNTS_MAX} are left out")
    return "; ".join(parts)
