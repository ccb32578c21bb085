"""Whether the disk can be written: the state that decides if a commit is taken.

ok      everything is taken
full    less is free than should be, or SQLite said so: nothing is taken, reading and merging go on; looked at
        again every second
broken  a write or a sync failed: nothing is taken until the process starts again, since nobody can say what
is
        on the disk now
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from watchbill.clock import Clock
from watchbill.errors import StorageError
from watchbill.files import PRIVATE_FILE, sync_directory
from watchbill_collector.history.database import storing
from watchbill_collector.history.values import StorageBroken, StorageFull

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often the free space is looked at, at most."""
BALLAST_ROOM = 4
"""The ballast is set aside when so many times its size is free beyond what should be."""


class Disk:
    """The state, and the ballast file."""

    def __init__(self, directory: Path, clock: Clock, free_share_min: float, ballast_bytes: int) -> None:
        self.state = "ok"
        self.reason = ""
        self._directory = directory
        self._clock = clock
        self._free_share_min = free_share_min
        self._ballast_bytes = ballast_bytes
        self._looked_s = clock.monotonic_s() - LOOK_S
        self._told = False

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Errors in our words, and remembered when they mean that nothing more should be taken."""
        try:
            with storing(str(self._directory)):
                yield
        except StorageFull as exc:
            self._become("full", str(exc))
            self._looked_s = self._clock.monotonic_s()
            raise
        except StorageBroken as exc:
            self._become("broken", str(exc))
            raise

    def require(self, *, room: bool = True) -> None:
        """Raises StorageBroken, or StorageFull when `room` is needed."""
        if self._clock.monotonic_s() - self._looked_s >= LOOK_S:
            self.look()
        if self.state == "broken":
            raise StorageBroken(self.reason)
        if self.state == "full" and room:
            raise StorageFull(self.reason)

    def look(self) -> None:
        """See how much is free."""
        self._looked_s = self._clock.monotonic_s()
        if self.state == "broken":
            return
        try:
            disk = os.statvfs(self._directory)
        except OSError as exc:
            raise StorageError(f"{self._directory}: {exc}") from exc
        free = disk.f_bavail / max(disk.f_blocks, 1)
        if free < self._free_share_min:
            wanted = f"{self._free_share_min:.0%} is wanted"
            self._become("full", f"{self._directory}: {free:.1%} of the disk is free, {wanted}")
        else:
            self.state, self.reason = "ok", ""

    def taken(self) -> None:
        """A commit went through."""
        if self._told:
            self._told = False
            log.warning("history takes readings again: %s", self._directory)

    def _become(self, state: str, reason: str) -> None:
        self.state, self.reason = state, reason
        if not self._told:
            self._told = True
            log.error("history takes nothing more: %s", reason)

    def set_ballast(self) -> None:
        """Set room aside, as long as there is plenty."""
        path, size = self._directory / "ballast", self._ballast_bytes
        if not size or path.exists():
            return
        with contextlib.suppress(OSError):  # No room after all: then there is none to set aside.
            disk = os.statvfs(self._directory)
            if (disk.f_bavail - self._free_share_min * disk.f_blocks) * disk.f_frsize < BALLAST_ROOM * size:
                return
            made = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, PRIVATE_FILE)
            try:
                os.posix_fallocate(made, 0, size)
            finally:
                os.close(made)

    def drop_ballast(self) -> None:
        """Give it up, so that merging has room."""
        with contextlib.suppress(OSError):
            (self._directory / "ballast").unlink(missing_ok=True)
            sync_directory(self._directory)
