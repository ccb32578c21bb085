"""Asks a child about backups, from the daemon: with a deadline, a bound on what it answers, and an end.

1. The child is asked to end at its deadline, so that it ends the tools it started; after ENDS_S it is killed.
2. A child that cannot be killed, since it sleeps in the kernel on a mount that is gone, is left behind. Whoever asked
   is told, and asks nothing more of that repository while the child is there.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from watchbill.errors import ConfigError, Problem, StorageError
from watchbill.limits import EVENT_BYTES_MAX
from watchbill_agent.backups.config import JobConfig
from watchbill_agent.backups.present import DIRECTORY

ARGV: Final = (sys.executable, "-I", "-m", "watchbill_agent.backups.child")
JOBS_S_MAX: Final = 30.0
"""Reading the files takes a third of a second."""
MORE_S: Final = 20.0
"""Beyond what the tools may take, for the child itself."""
ENDS_S: Final = 15.0
"""Longer than the child gives its tools to tidy up."""
KILLED_S: Final = 5.0
STOP_S: Final = 3.0
"""For a look that is going on when the daemon stops."""
ANSWER_BYTES_MAX: Final = 24 * EVENT_BYTES_MAX
"""One look is at most as many records as a list of snapshots has parts."""
STDERR_BYTES_MAX: Final = 64 * 1024
STDERR_SHOWN: Final = 500
DONE: Final = b'{"done":true}'


@dataclass(frozen=True, slots=True)
class Answer:
    """Lines of JSON. `fault` says why there are none, or not all; `left` is a child that would not end."""

    lines: tuple[bytes, ...] = ()
    fault: str = ""
    timed_out: bool = False
    left: "asyncio.subprocess.Process | None" = None


async def ask(question: dict[str, Any], within_s: float, argv: Sequence[str] = ARGV) -> Answer:
    """Ask one question. Raises nothing for what a child does."""
    content = msgspec.json.encode({**question, "parent": os.getpid(), "within_s": within_s})
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as exc:
        return Answer(fault=f"no process for it: {(exc.strerror or str(exc)).lower()}")
    try:
        async with asyncio.timeout(within_s + MORE_S):
            out, err = await _converse(process, content)
            await process.wait()
    except TimeoutError:
        ended = await _end(process)
        return Answer(fault="it did not end in time", timed_out=True, left=None if ended else process)
    except asyncio.CancelledError:
        # The daemon stops, and does not wait for long: what is left ends when the daemon does.
        await _end(process, STOP_S)
        raise
    return _read(out, err, process.returncode)


async def _converse(process: asyncio.subprocess.Process, content: bytes) -> tuple[bytes, bytes]:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    with contextlib.suppress(ConnectionError):
        process.stdin.write(content)
        await process.stdin.drain()
    process.stdin.close()
    return await asyncio.gather(
        _take(process.stdout, ANSWER_BYTES_MAX), _take(process.stderr, STDERR_BYTES_MAX)
    )


async def _take(reader: asyncio.StreamReader, bytes_max: int) -> bytes:
    """All of it is read, so that nobody waits for us; so much is kept."""
    kept = b""
    while data := await reader.read(64 * 1024):
        kept += data[: bytes_max - len(kept)]
    return kept


async def _end(process: asyncio.subprocess.Process, ends_s: float = ENDS_S) -> bool:
    """Whether it is gone."""
    for stop, wait_s in ((process.terminate, ends_s), (process.kill, KILLED_S)):
        with contextlib.suppress(ProcessLookupError):
            stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await process.wait()
                return True
    return False


def _read(out: bytes, err: bytes, code: int | None) -> Answer:
    lines = out.splitlines()
    if lines and lines[-1] == DONE:
        return Answer(tuple(lines[:-1]))
    words = [line for line in err.decode("utf-8", "replace").splitlines() if line.strip()]
    said = f": {words[-1].strip()[:STDERR_SHOWN]}" if words else ""
    ended = "was killed" if code is not None and code < 0 else f"ended with {code}"
    return Answer(fault=f"the child {ended}{said}")


def ask_here(question: dict[str, Any], within_s: float) -> Answer:
    """The same without an event loop: this process waits."""
    content = msgspec.json.encode({**question, "within_s": within_s})
    try:
        done = subprocess.run(
            list(ARGV), input=content, capture_output=True, timeout=within_s + MORE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Answer(fault="it did not end in time", timed_out=True)
    except OSError as exc:
        return Answer(fault=f"no process for it: {(exc.strerror or str(exc)).lower()}")
    return _read(done.stdout, done.stderr, done.returncode)


# ---------------------------------------------------------------- the configuration


def read_jobs_apart(etc: Path) -> tuple[JobConfig, ...]:
    """Every job of this host, read by a child: this process imports no adapter. Blocks for as long as that takes.

    Raises ConfigError with every problem, StorageError when the child does not answer.
    """
    answer = ask_here({"do": "jobs", "etc": str(etc)}, JOBS_S_MAX)
    if answer.fault:
        raise StorageError(f"{etc / DIRECTORY} cannot be read: {answer.fault}")
    found = msgspec.json.decode(answer.lines[0], type=_Jobs)
    if found.problems:
        raise ConfigError(list(found.problems))
    return found.jobs


class _Jobs(msgspec.Struct):
    jobs: tuple[JobConfig, ...] = ()
    problems: tuple[Problem, ...] = ()
