"""Where queries run: two threads of their own, a bounded queue, a deadline, and an end when the client goes
away.

A query computes for seconds and the event loop serves a thousand agents, so no query ever runs on the loop;
and two threads, so that a dashboard of thirty panels takes turns instead of the machine. What waits too long
or finds the queue full gets a clear answer at once; rules have threads of their own, never stand in this
queue, and go first (`promql.precedence`): while an evaluation runs, queries sleep wherever they ask their budget.

1. `run` takes a place in the queue, or raises Busy.
2. It waits for a thread, for the deadline, or for the client's disconnection, whichever comes first.
3. The work asks its Budget, which knows the deadline and the cancellation. The answer to the client does not
   wait for work that forgets to ask: at the deadline it is told, and the thread comes free when the work
   ends.
"""

import asyncio
import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from watchbill.errors import Busy
from watchbill_collector.promql.budget import SAMPLES_MAX, Budget
from watchbill_collector.promql.errors import Cancelled, TimedOut
from watchbill_collector.promql.precedence import Precedence
from watchbill_collector.promql.querymemory import QueryMemory

T = TypeVar("T")

THREADS = 2
WAITING_MAX = 128
"""Queries that wait for a thread. A page of thirty panels, four times."""

NICENESS = 10
"""Of the query threads, on Linux, where threads have their own."""
TIMEOUT_S = 60.0
"""How long one query may take, its time in the queue included. `timeout` in a request can only shorten it."""


class QueryPool:
    """Runs blocking queries for the loop. `close` waits for nobody: what runs is cancelled."""

    def __init__(
        self,
        threads: int = THREADS,
        waiting_max: int = WAITING_MAX,
        timeout_s: float = TIMEOUT_S,
        samples_max: int = SAMPLES_MAX,
        precedence: Precedence | None = None,
        memory: QueryMemory | None = None,
    ) -> None:
        """`precedence` is what queries give way to; `memory` what they have together."""
        self.timeout_s = timeout_s
        self.samples_max = samples_max
        self.refused = 0
        self.timed_out = 0
        self.cancelled = 0
        self._threads = threads
        self._give_way = None if precedence is None else precedence.give_way
        self._places_max = threads + waiting_max
        self._places = 0
        self._closed = False
        self.memory = memory or QueryMemory()
        self._executor = ThreadPoolExecutor(threads, "query", initializer=_stand_back)

    @property
    def places(self) -> int:
        """Queries that run or wait now."""
        return self._places

    async def run(
        self,
        work: Callable[[Budget], T],
        timeout_s: float | None = None,
        gone: Callable[[], Awaitable[None]] | None = None,
    ) -> T:
        """The result of `work`, computed in a query thread.

        `timeout_s` shortens the pool's own deadline; `gone` returns when nobody wants the answer any more.
        Raises what `work` raises, and Busy, TimedOut and Cancelled.
        """
        if self._places >= self._places_max or self._closed:
            self.refused += 1
            raise Busy(f"{self._places} queries are running or waiting already", retry_after_s=1.0)
        limit_s = self.timeout_s if timeout_s is None else min(self.timeout_s, timeout_s)
        wanted = _Wanted()
        deadline_s = time.monotonic() + limit_s

        def made() -> Budget:
            return Budget(
                self.samples_max, deadline_s, time.monotonic, wanted.cancelled, self._give_way, self.memory
            )

        self._places += 1
        future = asyncio.get_running_loop().run_in_executor(self._executor, _started, work, made, wanted)
        future.add_done_callback(self._leave)
        watch = asyncio.ensure_future(gone()) if gone is not None else None
        try:
            waited_for: set[asyncio.Future[Any]] = {future} if watch is None else {future, watch}
            await asyncio.wait(
                waited_for,
                timeout=max(0.0, limit_s),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if future.done():
                return future.result()
            if watch is not None and watch.done():
                self.cancelled += 1
                raise Cancelled("query was canceled: the client went away")
            self.timed_out += 1
            raise TimedOut(
                "query timed out in expression evaluation"
                if wanted.started
                else "query timed out in query queue"
            )
        finally:
            # Whatever ended the wait, the task's own cancellation included: the thread must not go on for
            # nobody.
            wanted.no_longer = True
            future.cancel()
            if watch is not None:
                watch.cancel()

    def close(self) -> None:
        """Take no more work and cancel what waits."""
        self._closed = True
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _leave(self, future: "asyncio.Future[T]") -> None:
        self._places -= 1
        if not future.cancelled():
            future.exception()  # Fetched, so that an abandoned query's error is not reported as forgotten.


class _Wanted:
    """Whether anybody still waits for a query; written by the loop, read by the thread."""

    __slots__ = ("no_longer", "started")

    def __init__(self) -> None:
        self.no_longer = False
        self.started = False

    def cancelled(self) -> bool:
        return self.no_longer


def _started(work: Callable[[Budget], T], made: Callable[[], Budget], wanted: _Wanted) -> T:
    wanted.started = True
    budget = made()
    try:
        budget.check()
        return work(budget)
    except BaseException as error:
        _let_go(error)
        raise
    finally:
        budget.close()


def _let_go(error: BaseException | None) -> None:
    """Empty the frames that an error holds. Who waits for the query refers to the error and the error to him, so they
    stay until the collector of cycles comes by; without this, 200 MB of a query's samples stay with them."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _stand_back() -> None:
    """Let the system run every other thread first; who holds the interpreter it cannot know (`promql.precedence`)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
