"""Looks that may block, each in a process that can be killed: a few processes for all of them.

1. A process answers one question at a time. At the deadline it is killed, with all that it started.
2. What did not end in time last time is looked at by at most PATIENT processes: however many targets hang, those that
   answer are not kept waiting.
3. A process that cannot be killed, since it sleeps in the kernel on a mount that is gone, is left behind; what it
   looked at is not looked at again while it is there.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from watchbill_agent.checks import processes, wire
from watchbill_agent.checks.check import Outcome, Verdict

WORKERS_MAX: Final = 6
PATIENT: Final = 2
"""Beside those, for what hung."""
LEFT_MAX: Final = 16
"""Processes that could not be killed; beyond it nothing that hung is looked at."""
STARTS_S_MAX: Final = 20.0
"""Importing takes a fifth of a second; a host that starves needs longer."""
ARGV: Final = tuple(processes.argv_of("watchbill_agent.checks.answering", "look"))


@dataclass(slots=True)
class WorkerCounts:
    """Since the start."""

    started: int = 0
    killed: int = 0
    left: int = 0
    """Processes that could not be killed and are still there."""


class Workers:
    """The processes, started when they are needed."""

    def __init__(self, argv: Sequence[str] = ARGV) -> None:
        self._argv = argv
        self._idle: list[asyncio.subprocess.Process] = []
        self._busy: set[asyncio.subprocess.Process] = set()
        self._ready = asyncio.Semaphore(WORKERS_MAX)
        self._patient = asyncio.Semaphore(PATIENT)
        self._hung: set[str] = set()
        self._left: dict[str, asyncio.subprocess.Process] = {}
        self.counts = WorkerCounts()

    async def look(self, question: wire.Question) -> wire.Answer:
        """Ask it, and wait for the answer no longer than it may take. Raises TimeoutError."""
        if self._is_left(question.name):
            return _unknown(question, "stuck", "an earlier look sleeps in the kernel and cannot be ended")
        slots = self._patient if question.name in self._hung else self._ready
        async with slots:
            try:
                answer = await self._asked(question)
            except TimeoutError:
                self._hung.add(question.name)
                raise
            self._hung.discard(question.name)
            return answer

    async def _asked(self, question: wire.Question) -> wire.Answer:
        try:
            process = await self._process()
        except OSError as exc:
            return _unknown(
                question, "no-process", f"no process for it: {(exc.strerror or str(exc)).lower()}"
            )
        assert process.stdin is not None
        assert process.stdout is not None
        self._busy.add(process)
        whole = False
        try:
            async with asyncio.timeout(question.within_s):
                process.stdin.write(wire.frame(question))
                await process.stdin.drain()
                answer = await wire.receive(process.stdout, wire.ANSWERS)
            whole = True
        except (EOFError, ConnectionError):
            return _unknown(question, "check-failed", "the process that looked has ended")
        finally:
            self._busy.discard(process)
            if whole:
                self._idle.append(process)
            else:
                await self._end(process, question.name)
        return answer

    async def _process(self) -> asyncio.subprocess.Process:
        while self._idle:
            process = self._idle.pop()
            if process.returncode is None:
                return process
        self.counts.started += 1
        process = await processes.start(self._argv)
        assert process.stdout is not None
        try:
            async with asyncio.timeout(STARTS_S_MAX):
                await process.stdout.readexactly(len(wire.READY))
        except (TimeoutError, asyncio.IncompleteReadError) as exc:
            await processes.end(process)
            raise OSError(f"it did not start within {STARTS_S_MAX:g} s") from exc
        return process

    async def _end(self, process: asyncio.subprocess.Process, name: str) -> None:
        if process.returncode is None:
            self.counts.killed += 1
        if not await processes.end(process) and len(self._left) < LEFT_MAX:
            self._left[name] = process
            self.counts.left = len(self._left)

    def _is_left(self, name: str) -> bool:
        process = self._left.get(name)
        if process is not None and process.returncode is not None:
            del self._left[name]
            self.counts.left = len(self._left)
            process = None
        return process is not None or (name in self._hung and len(self._left) >= LEFT_MAX)

    async def close(self) -> None:
        """End all of them."""
        every = [*self._idle, *self._busy]
        self._idle.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(processes.KILLED_S_MAX):
                await asyncio.gather(*(processes.end(process) for process in every))


def _unknown(question: wire.Question, reason: str, detail: str) -> wire.Answer:
    memory: Mapping[str, Any] | None = question.memory
    outcome = Outcome(Verdict.UNKNOWN, reason, detail)
    return wire.Answer(wire.result_of(outcome), None if memory is None else dict(memory))
