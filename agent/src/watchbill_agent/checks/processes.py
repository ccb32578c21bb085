"""Processes that checks start: a session of their own, an end with who started them, and an end that is sure.

Whatever they start themselves is of their process group, and ends with it.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import IO, Final

from watchbill_agent.runner import tree

KILLED_S_MAX: Final = 2.0
"""A killed process is gone by then, or sleeps in the kernel and is left to init."""


def die_with_parent() -> None:
    """This process ends when the one that started it does. Where the kernel has no such thing, the end of standard
    input says it."""
    parent = os.getppid()
    with contextlib.suppress(OSError, AttributeError):
        tree.die_with_parent()
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def argv_of(module: str, *arguments: str) -> list[str]:
    """A process of this very Python that imports from nowhere else."""
    return [sys.executable, "-I", "-m", module, *arguments]


async def start(argv: Sequence[str], stderr: IO[bytes] | int | None = None) -> asyncio.subprocess.Process:
    """With pipes at both ends. Raises OSError."""
    return await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=subprocess.DEVNULL if stderr is None else stderr,
        start_new_session=True,
        limit=1 << 20,
    )


async def end(process: asyncio.subprocess.Process) -> bool:
    """Kill it and all of its group; whether it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(KILLED_S_MAX):
            await process.wait()
            return True
    return False
