"""Rooms: what commands need while they run and until their result is fetched. Each has a place for its job, one for its
result, and a lock that its supervisor holds as long as it lives.

The lock is the one proof that somebody is at work: a number of a process may be another's by now. Who holds it, and
nobody else, writes how far the command came.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from watchbill.errors import Unreadable
from watchbill.files import PRIVATE_FILE, make_directory
from watchbill_agent.runner import bounds
from watchbill_agent.runner.cells import Cells, Damaged, Disk
from watchbill_agent.runner.job import Job, read_job

JOBS: Final = "jobs"
RESULTS: Final = "results"
LOCKS: Final = "locks"
KEY_BYTES: Final = 64


class Rooms:
    """The rooms of a directory. Raises OSError where the disk fails."""

    def __init__(self, jobs: Cells, results: Cells, locks: int) -> None:
        self._jobs = jobs
        self._results = results
        self._locks = locks
        self.count = jobs.count

    @staticmethod
    def open(disk: Disk, directory: Path, count: int = bounds.ROOMS) -> "Rooms":
        """What is there, made where it is missing or of another size: with it goes what nobody could read."""
        make_directory(directory)
        jobs = opened(disk, directory / JOBS, bounds.JOB_BYTES, count)
        results = opened(disk, directory / RESULTS, bounds.RESULT_BYTES, count)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return Rooms(jobs, results, os.open(directory / LOCKS, flags, PRIVATE_FILE))

    def close(self) -> None:
        """Give the files back, and with them every lock."""
        self._jobs.close()
        self._results.close()
        os.close(self._locks)

    def jobs(self) -> dict[int, Job]:
        """What stands in the rooms. One that was being written when the power went was not accepted."""
        found: dict[int, Job] = {}
        for room, cell in enumerate(self._jobs.read_all()):
            if isinstance(cell, bytes):
                with contextlib.suppress(Unreadable):
                    found[room] = read_job(cell)
        return found

    def job(self, room: int) -> Job | None:
        """What stands in one."""
        try:
            cell = self._jobs.read(room)
            return None if cell is None else read_job(cell)
        except Unreadable:
            return None

    def settle(self, room: int, job: Job) -> None:
        """Write down a job, durable when this returns."""
        self._jobs.write(room, job.content())
        self._jobs.sync()

    def leave(self, room: int) -> None:
        """Empty one. Not synced: what comes back after a crash is told again, under the same name."""
        self._jobs.write(room, b"")

    def keep_result(self, room: int, key: str, event: bytes) -> None:
        """How it ended, as it will be told; durable when this returns."""
        self._results.write(room, key.encode("ascii") + event)
        self._results.sync()

    def result(self, room: int, key: str) -> bytes | None:
        """How it ended, None when nothing says so."""
        try:
            cell = self._results.read(room)
        except Damaged:
            return None
        return cell[KEY_BYTES:] if cell is not None and cell[:KEY_BYTES] == key.encode("ascii") else None

    def lock(self, room: int) -> bool:
        """Take a room's lock, unless somebody has it. It ends with this process; no child has it."""
        try:
            fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, room)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def unlock(self, room: int) -> None:
        """Let the next one."""
        fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, room)

    @contextlib.contextmanager
    def locked(self, room: int) -> Iterator[bool]:
        """Whether nobody has it, and then it is ours meanwhile."""
        free = self.lock(room)
        try:
            yield free
        finally:
            if free:
                self.unlock(room)


def opened(disk: Disk, path: Path, size: int, count: int) -> Cells:
    """A file of cells, made where it is missing or of another size. Raises OSError."""
    try:
        return Cells(disk, path, size, count)
    except FileNotFoundError:
        pass
    except Damaged:
        path.unlink()
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    Cells.make(new, size, count)
    new.replace(path)
    return Cells(disk, path, size, count)
