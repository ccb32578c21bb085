"""The processes of this host, walked in a thread of its own and shared by all checks that look at one moment.

A walk reads `stat` of every process, about 10 us each. What a process was started with is read once and kept for a
minute. Reading that takes a lock of the process's memory: where it sleeps on a mount that is gone, the reader sleeps as
well. So nothing is read in the event loop; a thread that does not come back is left behind, and the process that it
read is not asked again.
"""

import asyncio
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from watchbill_agent.checks.check import Failed, Verdict

T = TypeVar("T")

PROCESSES_MAX: Final = 200_000
"""More are refused: they would take two seconds."""
STAT_BYTES_MAX: Final = 4096
CMDLINE_BYTES_MAX: Final = 64 * 1024
SHARED_AGE_S_MAX: Final = 1.0
"""How old a walk may be that another check made."""
FACTS_AGE_S_MAX: Final = 60.0
LEFT_MAX: Final = 4
"""Threads that did not come back; beyond it nothing is asked."""
EARLY_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Process:
    """One process in a walk. `fields` are those of stat behind the name."""

    pid: int
    comm: str
    fields: tuple[bytes, ...]

    @property
    def key(self) -> tuple[int, int]:
        """What names it: numbers are used again."""
        return self.pid, int(self.fields[19])

    @property
    def state(self) -> str:
        """A letter."""
        return self.fields[0].decode("ascii", "replace")


@dataclass(slots=True)
class Facts:
    """What a process was started with, and as whom. `exe` is "" where this user may not know it."""

    cmdline: tuple[str, ...]
    exe: str
    uid: int
    read_at_s: float


class Walk:
    """One walk, and what can be asked about its processes. Used in the table's thread alone."""

    def __init__(self, procfs: Path, facts: dict[tuple[int, int], Facts], skipped: set[int]) -> None:
        self.procfs = procfs
        self.at_s = time.monotonic()
        self._facts = facts
        self._skipped = skipped
        self.reading = 0
        """The process that is being asked just now."""
        self.processes = tuple(self._walk())
        self.boot_s, self.tick_hz, self.page_bytes = (
            _boot_s(procfs),
            os.sysconf("SC_CLK_TCK"),
            os.sysconf("SC_PAGE_SIZE"),
        )

    def _walk(self) -> Iterator[Process]:
        with os.scandir(self.procfs) as entries:
            pids = [entry.name for entry in entries if entry.name.isdigit()]
        if len(pids) > PROCESSES_MAX:
            detail = f"got {len(pids)} processes, wanted at most {PROCESSES_MAX}"
            raise Failed("too-many-processes", detail, verdict=Verdict.UNKNOWN)
        for pid in pids:
            data = read_file(f"{self.procfs}/{pid}/stat", STAT_BYTES_MAX)
            process = parse(pid, data) if data is not None else None
            if process is not None:
                yield process

    def facts(self, process: Process) -> Facts:
        """What it was started with."""
        known = self._facts.get(process.key)
        if known is not None and self.at_s - known.read_at_s < FACTS_AGE_S_MAX:
            return known
        if process.pid in self._skipped:
            return known or Facts((), "", -1, self.at_s)
        self.reading = process.pid
        place = self.procfs / str(process.pid)
        words = (read_file(f"{place}/cmdline", CMDLINE_BYTES_MAX) or b"").rstrip(b"\0").split(b"\0")
        try:
            exe = str((place / "exe").readlink()).removesuffix(" (deleted)")
        except OSError:
            exe = ""
        try:
            uid = place.stat().st_uid
        except OSError:
            uid = -1
        self.reading = 0
        found = Facts(tuple(word.decode("utf-8", "replace") for word in words), exe, uid, self.at_s)
        self._facts[process.key] = found
        return found


def parse(pid: str, data: bytes) -> Process | None:
    """None for what is no stat. A name may hold anything, `) R` too: the last parenthesis ends it."""
    head, _, rest = data.rpartition(b")")
    fields = tuple(rest.split())
    if (
        len(fields) < 22
        or not pid.isdigit()
        or not all(map(bytes.isdigit, fields[7:9] + fields[17:18] + fields[19:21]))
    ):
        return None
    return Process(int(pid), head.partition(b"(")[2].decode("utf-8", "replace"), fields)


def read_file(path: str, size: int) -> bytes | None:
    """None when it is gone, or not for us. Of a FIFO nothing: waiting for its writer would be for ever."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None
    try:
        return os.read(descriptor, size)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _boot_s(procfs: Path) -> float:
    """When this host started, in seconds since 1970."""
    for line in (read_file(f"{procfs}/stat", 1024 * 1024) or b"").splitlines():
        if line.startswith(b"btime "):
            return float(line.split()[1])
    return 0.0


class ProcessTable:
    """Of one /proc. Asked from the event loop, it answers from its thread."""

    def __init__(self, procfs: Path) -> None:
        self._procfs = procfs
        self._facts: dict[tuple[int, int], Facts] = {}
        self._skipped: set[int] = set()
        self._left = 0
        self._worker: _Worker | None = None

    async def ask(self, question: Callable[[Walk], T], within_s: float) -> T:
        """What `question` answers about a walk that is fresh. Raises Failed, and what the question raises."""
        if self._left >= LEFT_MAX:
            detail = f"{self._left} readings of {self._procfs} do not end"
            raise Failed("stuck", detail, verdict=Verdict.UNKNOWN)
        worker = self._worker
        if worker is not None and not worker.here():
            worker.leave(lambda: None)  # Of a loop that has ended.
            worker = None
        if worker is None:
            worker = self._worker = _Worker(self._procfs, self._facts, self._skipped)
        try:
            async with asyncio.timeout(within_s - min(EARLY_S, within_s / 10)):
                return await worker.ask(question)
        except TimeoutError:
            pid = worker.reading
            if worker is self._worker:
                self._leave(worker, pid)
            what = f"reading {self._procfs}/{pid}" if pid else f"a walk through {self._procfs}"
            raise Failed("stuck", f"{what} does not end", verdict=Verdict.UNKNOWN) from None

    def _leave(self, worker: "_Worker", pid: int) -> None:
        """It ends when it wakes."""
        self._worker = None
        self._left += 1
        self._skipped.add(pid)
        self._facts = dict(self._facts)  # The thread may still write into its own.

        def came_back() -> None:
            self._left -= 1
            self._skipped.discard(pid)

        worker.leave(came_back)


class _Worker:
    def __init__(self, procfs: Path, facts: dict[tuple[int, int], Facts], skipped: set[int]) -> None:
        self._loop = asyncio.get_running_loop()
        self._procfs, self._facts, self._skipped = procfs, facts, skipped
        self._questions: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._walk: Walk | None = None
        self._came_back: Callable[[], None] | None = None
        threading.Thread(target=self._run, name=f"processes of {procfs}", daemon=True).start()

    def here(self) -> bool:
        """Whether it answers the loop that runs."""
        return self._loop is asyncio.get_running_loop()

    @property
    def reading(self) -> int:
        """The process that is being asked just now, 0 for none."""
        return self._walk.reading if self._walk is not None else 0

    async def ask(self, question: Callable[[Walk], T]) -> T:
        """Have it answered in the thread."""
        answer: asyncio.Future[T] = self._loop.create_future()

        def put(result: T | None, error: BaseException | None) -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)  # type: ignore[arg-type]

        def work() -> None:
            result = error = None
            try:
                result = question(self._fresh())
            except BaseException as exc:  # noqa: BLE001 - It is raised where it was asked for.
                error = exc
            self._loop.call_soon_threadsafe(put, result, error)

        self._questions.put(work)
        return await answer

    def leave(self, came_back: Callable[[], None]) -> None:
        """End when what is asked has been answered, and say so."""
        self._came_back = came_back
        self._questions.put(None)

    def _fresh(self) -> Walk:
        if self._walk is None or time.monotonic() - self._walk.at_s > SHARED_AGE_S_MAX:
            self._walk = None
            self._walk = Walk(self._procfs, self._facts, self._skipped)
            there = {process.key for process in self._walk.processes}
            for key in self._facts.keys() - there:
                del self._facts[key]
        return self._walk

    def _run(self) -> None:
        try:
            while (work := self._questions.get()) is not None:
                work()
            if self._came_back is not None:
                self._loop.call_soon_threadsafe(self._came_back)
        except RuntimeError:
            return  # The loop is closed: nobody waits.


_tables: dict[Path, ProcessTable] = {}


def table_of(procfs: Path) -> ProcessTable:
    """The one table of this /proc in this process."""
    return _tables.setdefault(procfs, ProcessTable(procfs))
