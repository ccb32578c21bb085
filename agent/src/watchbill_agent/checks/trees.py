"""Where a host is read."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Trees:
    """The agent's configuration directory, and the trees that its configuration names."""

    etc: Path
    procfs: Path = Path("/proc")
    sysfs: Path = Path("/sys")
    rootfs: Path = Path("/")
