"""What a process writes to flash: whole blocks, file system and journal included.

As root, a file system of its own on a loop device, whose counter of written sectors has everything: data, inodes,
directories, journal. `settle` writes out what the kernel would have written by itself in minutes. Elsewhere there is
only what the kernel says of the process (`/proc/PID/io`), which knows no journal.
"""

import os
import subprocess
from pathlib import Path

IMAGE_BYTES = 512 << 20
SECTOR_BYTES = 512


class Flash:
    """A directory to write to, and how much was written."""

    def __init__(self, scratch: Path) -> None:
        self.place = scratch / "flash"
        self.place.mkdir()
        self._image = scratch / "flash.img"
        self._device = self._mounted()
        self.pid = 0
        """Whose writing counts where there is no device of its own."""

    def _mounted(self) -> str:
        if os.geteuid() != 0:
            return ""
        with self._image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        for command in (
            ["mkfs.ext4", "-q", "-F", str(self._image)],
            ["mount", "-o", "loop,lazytime", str(self._image), str(self.place)],
        ):
            done = subprocess.run(command, capture_output=True, check=False)
            if done.returncode != 0:
                return ""
        # mkfs leaves inode tables to a thread of the kernel; they are not the agent's.
        found = subprocess.run(
            ["findmnt", "-n", "-o", "SOURCE", str(self.place)], capture_output=True, check=True, text=True
        )
        return Path(found.stdout.strip()).name

    @property
    def how(self) -> str:
        """How it is measured, for the notes."""
        if self._device:
            return "sectors written to a loop device with ext4, journal included, written out after every message"
        return "write_bytes of /proc/PID/io: neither journal nor directories; run it as root for those"

    def settle(self) -> None:
        """Write out everything that waits."""
        if self._device:
            subprocess.run(["sync", "-f", str(self.place)], check=True)

    @property
    def written_bytes(self) -> int:
        """Since it was made."""
        if self._device:
            fields = Path(f"/sys/block/{self._device}/stat").read_text().split()
            return int(fields[6]) * SECTOR_BYTES
        lines = Path(f"/proc/{self.pid}/io").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("write_bytes")))

    def close(self) -> None:
        """Unmount."""
        if self._device:
            subprocess.run(["umount", str(self.place)], check=False)
