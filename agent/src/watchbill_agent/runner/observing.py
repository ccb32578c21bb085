"""What the agent may have read with more rights than its own: fixed commands of observe.d, asked for by name.

Each is run like an action, by a supervisor with its own limits; nothing of it is remembered, since it changes nothing.
"""

import asyncio
import base64
import contextlib
import json
import logging
import os
from dataclasses import dataclass
from typing import Any, Final

from watchbill.actions.files import Observe, load_allowed
from watchbill.errors import Busy, Refused, Transient
from watchbill.homes import Homes
from watchbill.logs import fields
from watchbill_agent.runner import bounds
from watchbill_agent.runner.job import Task, task_content
from watchbill_agent.runner.launching import MARGIN_S, Launcher

log = logging.getLogger(__name__)

AGAIN_S: Final = 5.0
ANSWER_SPARE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Read:
    """What a reading gave. `whole`: all of it is here."""

    output: bytes
    errors: str
    whole: bool
    outcome: str
    exit_code: int | None
    detail: str


class Observing:
    """Runs readings, a few at a time."""

    def __init__(self, homes: Homes, owner: int, launcher: Launcher) -> None:
        self._homes = homes
        self._owner = owner
        self._launcher = launcher
        self._going: set[str] = set()
        self.done = 0
        self.refused = 0

    @property
    def going(self) -> int:
        """Readings that go on."""
        return len(self._going)

    async def read(self, name: str) -> Read:
        """One reading. Raises Refused when root allows none of that name, Busy, Transient."""
        allowed = load_allowed(self._homes.etc, self._owner)
        observe = allowed.observes.get(name)
        if observe is None:
            self.refused += 1
            why = next((fault for fault in allowed.faults if name in fault), "there is no such file entry")
            raise Refused(f"nothing called {name!a} may be read here (observe.d): {why}")
        if name in self._going or len(self._going) >= bounds.OBSERVES_MAX:
            self.refused += 1
            raise Busy(f"{len(self._going)} readings go on, among them {name}", AGAIN_S)
        self._going.add(name)
        try:
            found = await self._run(name, _task(observe, self._owner))
        finally:
            self._going.discard(name)
        self.done += 1
        return found

    async def _run(self, name: str, task: Task) -> Read:
        unit = f"{name}-{os.urandom(4).hex()}"
        limit = task.output_max * 4 // 3 + ANSWER_SPARE_BYTES
        process = await asyncio.create_subprocess_exec(
            *self._launcher.reading(unit, task),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd="/",
            env={},
            start_new_session=True,
            limit=limit,
        )
        assert process.stdin is not None, "it was asked for"
        assert process.stdout is not None, "it was asked for"
        try:
            async with asyncio.timeout(task.timeout_s + task.kill_grace_s + bounds.LEFT_S + MARGIN_S):
                process.stdin.write(task_content(task))
                process.stdin.close()
                answer = await process.stdout.read(limit)
                while piece := await process.stdout.read(limit - len(answer)):
                    answer += piece
                await process.wait()
        finally:
            if process.returncode is None:
                # Its supervisor ends what it runs, and then itself.
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
        return _read(name, answer)


def _task(observe: Observe, owner: int) -> Task:
    return Task(
        argv=tuple(observe.argv),
        run_as=observe.run_as,
        owner=owner,
        timeout_s=int(observe.timeout),
        kill_grace_s=5,
        output_max=int(observe.output_max),
    )


def _read(name: str, answer: bytes) -> Read:
    try:
        found: dict[str, Any] = json.loads(answer)
        read = Read(
            output=base64.b64decode(found["output"]),
            errors=str(found["errors"]),
            whole=found["whole"] is True,
            outcome=str(found["outcome"]),
            exit_code=found["exit_code"],
            detail=str(found["detail"]),
        )
    except (ValueError, KeyError, TypeError) as exc:
        raise Transient(f"the supervisor of the reading {name} did not answer: {exc!r}") from exc
    if read.detail:
        log.warning("a reading went wrong", extra=fields(name=name, reason=read.detail))
    return read
