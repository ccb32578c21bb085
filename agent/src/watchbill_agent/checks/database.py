"""What checks of databases have in common: phases, a bound on their time, and errors that name no secret."""

import asyncio
import contextlib
import importlib
import sys
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

from watchbill_agent.checks.check import DETAIL_CHARACTERS_MAX, Failed, Samples, Verdict

EARLY_S: Final = 0.1
"""So much before the deadline a look is given up."""
FAREWELL_S: Final = 1.0
"""How long a library may take to tell a server that nobody waits for its query any more."""
PHASES: Final = ("connect", "query")
DURATION: Final = "watchbill_check_database_duration_seconds"
HIDDEN: Final = "***"
WARN_DEFAULT: Final = ("query_seconds > 500ms", "connections_used_ratio > 80%")
FAIL_DEFAULT: Final = ("connections_used_ratio > 95%",)

_farewells: set[asyncio.Task[None]] = set()


class Phases:
    """How long each took; those that were not reached took no time."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What happens inside is of this phase. Of several times the longest counts."""
        began_s = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = max(self.seconds[name], time.monotonic() - began_s)

    def put(self, found: Samples) -> None:
        """As series."""
        for name, seconds in self.seconds.items():
            found.gauge(
                DURATION, "Seconds that connecting, and the slowest query, took.", seconds, phase=name
            )


def own_end(within_s: float) -> float:
    """When a look that begins now ends itself, by the loop's clock."""
    return asyncio.get_running_loop().time() + within_s - min(EARLY_S, within_s / 10)


async def in_time(work: Coroutine[Any, Any, None], until_s: float) -> bool:
    """Do it; whether it was done by then. Otherwise it is called off, and what it needs for that nobody waits for."""
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait((task,), timeout=until_s - asyncio.get_running_loop().time())
    except asyncio.CancelledError:
        _call_off(task)
        raise
    if not done:
        _call_off(task)
        return False
    await task
    return True


def _call_off(task: "asyncio.Future[None]") -> None:
    async def farewell() -> None:
        """A second time for who takes its time."""
        for _ in range(2):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait((task,), timeout=FAREWELL_S)
            if task.done():
                break
        if task.done() and not task.cancelled():
            task.exception()

    task.cancel()
    saying = asyncio.get_running_loop().create_task(farewell(), name="end of a query")
    _farewells.add(saying)
    saying.add_done_callback(_farewells.discard)


async def load(library: str) -> ModuleType:
    """Import it in a thread: it takes 150 ms, in which no other check would be looked at. Raises Failed."""
    if library in sys.modules:
        return sys.modules[library]
    try:
        return await asyncio.to_thread(importlib.import_module, library)
    except ImportError as exc:
        raise missing(library.partition(".")[0]) from exc


def words_of(error: BaseException, secret: str) -> str:
    """What an error says, on one line, without the secret."""
    said = " ".join(str(error).split()) or type(error).__name__
    if secret:
        said = said.replace(secret, HIDDEN)
    return said[:DETAIL_CHARACTERS_MAX]


def missing(library: str) -> Failed:
    """A library that is not there."""
    detail = f"{library} is missing: install watchbill-agent[databases]"
    return Failed("not-installed", detail, verdict=Verdict.UNKNOWN)
