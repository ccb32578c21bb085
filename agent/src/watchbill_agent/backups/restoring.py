"""Where a verification restores to: a directory of its own below the job's `restore_dir`, with room, and removed again.

What a restore brings back has the modes it had: a directory that nobody may write into, or read. They are opened before
it is counted or removed. What a verification that was killed left is removed by the next one of its job.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SPARE_BYTES: Final = 256 * 1024 * 1024
"""What is left free beside a restore."""
NO_SPACE: Final = "no-space"
NO_RESTORE_DIR: Final = "no-restore-dir"


class NoPlace(Exception):
    """There is nowhere to restore to; `reason` is a word for a Verification."""

    def __init__(self, reason: str, error: str) -> None:
        super().__init__(error)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Restored:
    """Regular files that came back, and their bytes: by name, and with a file of several names counted once."""

    files: int
    bytes: int
    bytes_once: int


@contextmanager
def restore_place(restore_dir: Path | None, job: str, wanted_bytes: int) -> Iterator[Path]:
    """An empty directory for so many bytes. Raises NoPlace."""
    if restore_dir is None:
        raise NoPlace(NO_RESTORE_DIR, "set restore_dir to a directory with room for one backup")
    prefix = f"watchbill-restore-{job}+"  # No name of a job has a plus sign.
    try:
        for left in restore_dir.glob(f"{prefix}*"):
            remove(left)
        free_bytes = shutil.disk_usage(restore_dir).free
        if free_bytes < wanted_bytes + SPARE_BYTES:
            error = f"{restore_dir} has {free_bytes} bytes free, wanted {wanted_bytes + SPARE_BYTES}"
            raise NoPlace(NO_SPACE, error)
        place = Path(tempfile.mkdtemp(prefix=prefix, dir=restore_dir))
    except OSError as exc:
        raise NoPlace(NO_RESTORE_DIR, f"restore_dir {restore_dir}: {exc.strerror}") from exc
    try:
        yield place
    finally:
        remove(place)


def count(place: Path) -> Restored:
    """What is below it now."""
    _open_up(place)
    files = total_bytes = again_bytes = 0
    several: set[tuple[int, int]] = set()
    for path in place.rglob("*"):
        facts = path.lstat()
        if not stat.S_ISREG(facts.st_mode):
            continue
        files += 1
        total_bytes += facts.st_size
        if facts.st_nlink > 1:
            again_bytes += facts.st_size if (facts.st_dev, facts.st_ino) in several else 0
            several.add((facts.st_dev, facts.st_ino))
    return Restored(files, total_bytes, total_bytes - again_bytes)


def remove(place: Path) -> None:
    """As much of it as can be removed."""
    _open_up(place)
    shutil.rmtree(place, ignore_errors=True)


def _open_up(place: Path) -> None:
    """Its directories can be read, entered and written into; what a link leads to is left alone."""
    for directory, below, _ in os.walk(place):
        for name in below:
            path = Path(directory, name)
            if not path.is_symlink():
                with suppress(OSError):
                    path.chmod(0o700)
