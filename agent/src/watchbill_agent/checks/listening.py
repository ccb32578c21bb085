"""Looks after the process of a check that listens: started, watched, and started again with growing waits."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from watchbill_agent.checks import processes, wire
from watchbill_agent.checks.check import Outcome, Verdict
from watchbill_agent.checks.config import Spec

AGAIN_S_MIN: Final = 1.0
AGAIN_S_MAX: Final = 60.0
SILENT_INTERVALS: Final = 3
"""A listener that reported nothing for so many intervals hangs."""
ARGV: Final = tuple(processes.argv_of("watchbill_agent.checks.answering", "listen"))


class Listening:
    """`report` is given what the listener says, and what became of it."""

    def __init__(
        self,
        spec: Spec,
        question: wire.Question,
        report: Callable[[Outcome], Awaitable[None]],
        argv: Sequence[str] = ARGV,
    ) -> None:
        self._question = question
        self._report = report
        self._argv = argv
        self._silent_s = spec.interval_s * SILENT_INTERVALS + spec.timeout_s

    async def run(self) -> None:
        """For ever."""
        wait_s = AGAIN_S_MIN
        while True:
            heard = await self._once()
            wait_s = AGAIN_S_MIN if heard else min(wait_s * 2, AGAIN_S_MAX)
            await asyncio.sleep(wait_s)

    async def _once(self) -> bool:
        """One life of the process; whether it was well at any time."""
        try:
            process = await processes.start(self._argv)
        except OSError as exc:
            await self._report(_unknown("no-process", (exc.strerror or str(exc)).lower()))
            return False
        well = False
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(wire.frame(self._question))
            while True:
                async with asyncio.timeout(self._silent_s):
                    answer = await wire.receive(process.stdout, wire.ANSWERS)
                outcome = wire.outcome_of(answer.result)
                well = well or outcome.verdict is Verdict.OK
                await self._report(outcome)
        except TimeoutError:
            await self._report(_unknown("silent", f"it has said nothing for {self._silent_s:g} s"))
        except (EOFError, ConnectionError, ValueError):
            if well:
                await self._report(_unknown("check-failed", "the process that listened has ended"))
        finally:
            with contextlib.suppress(Exception):
                await processes.end(process)
        return well


def _unknown(reason: str, detail: str) -> Outcome:
    return Outcome(Verdict.UNKNOWN, reason, detail)
