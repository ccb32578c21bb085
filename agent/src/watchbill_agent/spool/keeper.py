"""Looks after a spool on disk from the event loop: syncs in a thread of its own, makes the reserve, checks.

Nobody waits for the disk in the event loop but who asked for it: `sync` returns when everything appended before
the call is durable. Callers that come while a sync runs share the next one, so a slow disk syncs as often as it
can and no more.

The thread is a daemon thread: a disk that hangs for ever must not keep the process from ending.
"""

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

from watchbill.clock import Clock
from watchbill.protocol.frames import Stream
from watchbill_agent.spool.disk import DiskSpool
from watchbill_agent.spool.memory import MemorySpool
from watchbill_agent.spool.records import Draft, Receipt, SpoolFull

log = logging.getLogger("watchbill.spool")

SYNC_EVERY_S = 10.0
"""What is not sent is synced this often."""
ATTEMPTS = 3
NOT_DURABLE = "not durable: the spool is in memory, and ends with this process"
THREAD_NAME = "watchbill-spool"

_Result = TypeVar("_Result")


class DiskThread:
    """One thread for everything that waits for the disk."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()

    async def do(self, work: Callable[[], _Result]) -> _Result:
        """Do it there, and wait for it."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[_Result] = loop.create_future()

        def settle(result: _Result | None, error: BaseException | None) -> None:
            if done.cancelled():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]  # Of the type of the work.

        def run() -> None:
            result: _Result | None = None
            failed: BaseException | None = None
            try:
                result = work()
            except BaseException as exc:  # noqa: BLE001 - It is raised where it is waited for.
                failed = exc
            with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
                loop.call_soon_threadsafe(settle, result, failed)

        self._work.put(run)
        return await done

    def stop(self) -> None:
        """End it after what it does now."""
        self._work.put(None)


class Keeper:
    """Keeps one spool durable. `changed` is called when more may be sent than before."""

    def __init__(self, spool: DiskSpool, clock: Clock, changed: Callable[[], None] = lambda: None) -> None:
        self._spool = spool
        self._clock = clock
        self._changed = changed
        self._thread = DiskThread()
        self._running: asyncio.Task[bool] | None = None
        self.checked_segments = 0
        """Segments of earlier processes that were read whole since the start."""
        self.check_seconds = 0.0
        """How long that took, pauses included; 0 until it is done."""

    async def sync(self) -> bool:
        """True when everything appended before this call is durable; False when the disk refuses."""
        if self._running is not None:
            await asyncio.shield(self._running)  # It began before what was appended last.
        if self._running is None:
            self._running = asyncio.create_task(self._sync(), name="spool sync")
        return await asyncio.shield(self._running)

    async def keep(self, draft: Draft) -> Receipt:
        """Keep a critical record; answers once it is on the disk for good. Raises SpoolFull when it is not: its
        producer must not believe that it was kept, though it may still arrive."""
        seq = self._spool.append(Stream.CRIT, draft)
        await self.sync()
        if not self._spool.is_durable(Stream.CRIT, seq):
            raise SpoolFull(f"the disk does not sync: {self._spool.facts().error or 'it gave no reason'}")
        return Receipt(seq, durable=True)

    async def _sync(self) -> bool:
        spool = self._spool
        try:
            for _ in range(ATTEMPTS):
                jobs = spool.begin_sync()
                if jobs:
                    await self._thread.do(lambda jobs=jobs: [job.run() for _, job in jobs])  # type: ignore[misc]
                if spool.end_sync(jobs) and not spool.failing:
                    return True
            return False
        finally:
            self._running = None

    async def run(self, made: Callable[[], None] = lambda: None) -> None:
        """Sync every now and then, for ever; `made` is told of every turn."""
        checking = asyncio.create_task(self._check(), name="spool check")
        try:
            while True:
                self._spool.tend()
                before = self._spool.reserve_short
                if self._spool.unsynced() or before:
                    await self.sync()
                    self._changed()
                made()
                if not 0 < self._spool.reserve_short < before:  # The reserve is made file by file, at once.
                    await asyncio.sleep(SYNC_EVERY_S)
        finally:
            checking.cancel()

    async def _check(self) -> None:
        """Read every segment that was there at the start, with pauses as long as the work."""
        began_s = self._clock.monotonic_s()
        for stream, path, _ in self._spool.segments():
            turn_s = self._clock.monotonic_s()
            count = await self._thread.do(lambda s=stream, p=path: self._spool.check_segment(s, p))  # type: ignore[misc]
            self._spool.damage_found(stream, count)
            self.checked_segments += 1
            await asyncio.sleep(self._clock.monotonic_s() - turn_s)
        self.check_seconds = self._clock.monotonic_s() - began_s

    async def close(self, timeout_s: float) -> None:
        """A last sync, as far as the disk allows within that time; then the spool is closed."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.sync()
        except TimeoutError:
            log.warning("the disk did not sync in time; what was written last may be lost if the power goes")
        self._thread.stop()
        self._spool.close()


class MemoryKeeper:
    """The same for a spool in memory. Nothing waits for a disk, and whoever keeps something critical is told that
    it may be lost."""

    def __init__(self, spool: MemorySpool) -> None:
        self._spool = spool

    async def sync(self) -> bool:
        """A spool in memory is as durable as it will ever be."""
        return True

    async def keep(self, draft: Draft) -> Receipt:
        """Keep a critical record for as long as this process lives. Raises SpoolFull."""
        seq = self._spool.append(Stream.CRIT, draft)
        trouble = self._spool.trouble
        return Receipt(seq, durable=False, why=f"{NOT_DURABLE} ({trouble})" if trouble else NOT_DURABLE)
