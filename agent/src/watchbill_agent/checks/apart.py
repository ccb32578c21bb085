"""Reads the files that checks name apart from the event loop: on a mount whose server is gone, reading one never ends,
and neither would the looks of all other checks.

1. Each is read in a thread. There are THREADS_MAX; who finds none waits for one until its own deadline.
2. Of one file, or of all that lie on one mount that is not of this machine, one reading goes on at a time: a mount
   that hangs takes one thread.
3. A reading that does not end in time is given up: the check is UNKNOWN. Until it has ended, nobody begins another
   one there, but is told so at once.
4. Threads are daemons: one that hangs delays no end of the process.

A link from this machine's disk to such a mount is not seen through, so there each file takes a thread of its own. When
all are taken, checks that need a file are UNKNOWN, and only those.
"""

import asyncio
import queue
import threading
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from watchbill_agent.checks.check import Failed, Verdict
from watchbill_agent.checks.mounted import far_mount

THREADS_MAX: Final = 8
"""That read at the same time. The unit has 64 tasks in all."""
IDLE_S: Final = 60.0
"""After which a thread that has nothing to do ends."""
EARLY_S: Final = 0.1
"""So much before its deadline a look gives up a file, to say so itself."""

HUNG_AFTER_S: Final = 0.1
"""A reading that has lasted less is not given up: a look that had hardly any time left says nothing of the file."""

T = TypeVar("T")


class Threads:
    """Daemons that do what may never end, at most `threads_max` of one name. What they are given raises nothing."""

    def __init__(self, name: str, threads_max: int) -> None:
        self._name, self._max = name, threads_max
        self._line: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._unfinished = 0
        """In line or in a thread: as many threads as that are wanted."""

    def begin(self, work: Callable[[], None]) -> None:
        """Have it done as soon as there is a thread for it."""
        with self._lock:
            self._line.put(work)
            self._unfinished += 1
            if self._threads < min(self._unfinished, self._max):
                self._threads += 1
                threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                work = self._line.get(timeout=IDLE_S)
            except queue.Empty:
                with self._lock:
                    if self._line.empty():
                        self._threads -= 1
                        return
                continue
            work()
            del work  # What it holds is not kept until the next one comes.
            with self._lock:
                self._unfinished -= 1


class _Place:
    """A file, or a mount, where one reading goes on at a time."""

    __slots__ = ("__weakref__", "free", "given_up", "reading")

    def __init__(self) -> None:
        self.free = asyncio.Lock()
        self.reading: _Reading | None = None
        self.given_up = False
        """Whether the reading that goes on did not end in time."""


class _Reading:
    __slots__ = ("answer", "began_s", "loop", "names", "place", "work")

    def __init__(self, place: _Place, names: str, work: Callable[[], Any]) -> None:
        self.place, self.names, self.work = place, names, work
        self.loop = asyncio.get_running_loop()
        self.began_s = self.loop.time()
        self.answer: asyncio.Future[Any] = self.loop.create_future()


class Reader:
    """Reads files for one process."""

    def __init__(self) -> None:
        self._threads = Threads("reader", THREADS_MAX)
        self._places: weakref.WeakValueDictionary[
            tuple[asyncio.AbstractEventLoop, tuple[str, ...]], _Place
        ] = weakref.WeakValueDictionary()
        self.hung = 0
        """Readings that were given up and have not ended yet."""
        self.unanswered = 0
        """Since the start: readings that were given up, or not begun because of one that was."""

    async def read(self, paths: tuple[Path, ...], work: Callable[[], T], reason: str, until_s: float) -> T:
        """What `work` makes of these files, in a thread, until this time of the loop's clock. Raises what it raises,
        and Failed (UNKNOWN, `reason`) where they do not answer."""
        loop = asyncio.get_running_loop()
        names = ", ".join(map(str, paths))
        place = self._place(loop, paths)
        if place.given_up and place.reading is not None:
            raise self._unread(reason, f"{names}: an earlier reading of {place.reading.names} has not ended")
        if self.hung >= THREADS_MAX:
            raise self._unread(reason, f"{names}: not read while {self.hung} readings of files do not end")
        seen = place.reading
        left_s = until_s - loop.time()
        within_s = left_s - min(EARLY_S, left_s / 10)
        try:
            async with asyncio.timeout(within_s):
                await place.free.acquire()
                reading = seen = place.reading = _Reading(place, names, work)
                self._threads.begin(partial(self._work, reading))
                found: T = await reading.answer
                return found
        except TimeoutError:
            if place.reading is seen:  # It is the same that went on all the time.
                self._give_up(place)
            raise self._unread(reason, f"{names}: got no end of reading it within {within_s:.3g} s") from None

    def _place(self, loop: asyncio.AbstractEventLoop, paths: tuple[Path, ...]) -> _Place:
        names = tuple(sorted({far_mount(str(path)) or str(path) for path in paths}))
        return self._places.setdefault((loop, names), _Place())

    def _give_up(self, place: _Place) -> None:
        reading = place.reading
        if reading is None or place.given_up or reading.loop.time() < reading.began_s + HUNG_AFTER_S:
            return
        place.given_up = True
        self.hung += 1

    def _unread(self, reason: str, detail: str) -> Failed:
        self.unanswered += 1
        return Failed(reason, detail, verdict=Verdict.UNKNOWN)

    def _work(self, reading: _Reading) -> None:
        """In a thread."""
        found = error = None
        if not reading.answer.done():  # Otherwise nobody waits for it any more.
            try:
                found = reading.work()
            except BaseException as exc:  # noqa: BLE001 - It is raised where it was asked for.
                error = exc
        try:
            reading.loop.call_soon_threadsafe(self._ended, reading, found, error)
        except RuntimeError:  # The loop is closed.
            self.hung -= reading.place.given_up

    def _ended(self, reading: _Reading, found: object, error: BaseException | None) -> None:
        place = reading.place
        self.hung -= place.given_up
        place.reading, place.given_up = None, False
        place.free.release()
        if reading.answer.done():
            return
        if error is not None:
            reading.answer.set_exception(error)
        else:
            reading.answer.set_result(found)


READER: Final = Reader()
"""Of this process: its bound on threads holds for all checks together."""
