"""Which filesystem a path is on, told by the mount table alone: asking the filesystem itself may never end."""

import os
from typing import Final

from watchbill_agent.hostpaths import HostPaths
from watchbill_agent.mounts import LOCAL_TYPES, MountTable
from watchbill_agent.reading import SamplerFailed

NEAR: Final = LOCAL_TYPES | {"overlay", "zfs"}
"""Filesystems of this machine. Others may wait for a network, or for a process."""

_table: MountTable | None = None


def far_mount(path: str) -> str:
    """Where the filesystem is mounted that this is on, when it may wait for somebody; "" on one of this machine. Links
    are not followed: that would ask it."""
    global _table  # One for the process.
    if _table is None:
        _table = MountTable(HostPaths())
    try:
        mounts = _table.mounts()
    except SamplerFailed:
        return ""
    within = os.fsencode(path) + b"/"
    above = [
        (len(point), at, mount.type, point)
        for at, mount in enumerate(mounts)
        if within.startswith((point := mount.point.rstrip(b"/")) + b"/")
    ]
    if not above:
        return ""
    _, _, kind, point = max(above)
    return "" if kind in NEAR else os.fsdecode(point) or "/"
