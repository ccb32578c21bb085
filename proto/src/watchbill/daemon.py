"""How both daemons run: one event loop, one task group, named tasks, signals that only ask.

    def main() -> int:
        return daemon.run(work, drain_s=10)

    async def work(house: Daemon) -> None:
        house.spawn("sampling", sample_for_ever(...))
        house.on_reload(reload)
        house.ready("watching")
        await house.stopping.wait()        # SIGTERM or SIGINT
        ...                                # drain; at most drain_s, then everything is cancelled
                                           # returning ends the process; what was spawned is cancelled

SIGTERM and SIGINT ask for a stop; a second one ends the drain. SIGHUP asks for a reload; while one runs,
further ones become one more. A task that fails ends the daemon loudly: the service manager starts it again,
and the spool keeps the data. The watchdog is pinged only while every watched loop makes progress, so a wedged
loop in a living process is noticed.

`house.ask_restart()` stops in order and begins anew in the same process, with the same arguments: who started
the daemon need not be asked, and its process id stays.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from enum import IntEnum
from typing import NoReturn

from watchbill.clock import Clock, SystemClock
from watchbill.errors import ConfigError, Refused, Unreachable, UsageError, WatchbillError
from watchbill.logs import fields
from watchbill.sdnotify import Notifier

log = logging.getLogger(__name__)

WATCHDOG_CHECK_S_MAX = 10.0
"""How often progress is looked at where nobody watches: a wedged loop is logged either way."""


REASON_LINES_MAX = 20
"""Problems of a refused reload that are logged; `check-config` prints all."""


class Exit(IntEnum):
    """Exit codes of every program of the house."""

    OK = 0
    FAILED = 1
    USAGE = 2
    HELD = 3
    WAITING = 4
    UNREACHABLE = 5
    REFUSED = 6


def exit_code(error: BaseException) -> Exit:
    """The code that says what kind of failure it was."""
    if isinstance(error, BaseExceptionGroup):
        codes = {exit_code(inner) for inner in error.exceptions}
        return codes.pop() if len(codes) == 1 else Exit.FAILED
    if isinstance(error, (ConfigError, UsageError)):
        return Exit.USAGE
    if isinstance(error, Unreachable):
        return Exit.UNREACHABLE
    return Exit.REFUSED if isinstance(error, Refused) else Exit.FAILED


class Stamp:
    """One loop's sign of life: call `made` whenever a turn ended."""

    __slots__ = ("_clock", "_last_s", "name", "stale_after_s")

    def __init__(self, name: str, stale_after_s: float, clock: Clock) -> None:
        self.name = name
        self.stale_after_s = stale_after_s
        self._clock = clock
        self._last_s = clock.monotonic_s()

    def made(self) -> None:
        """A turn ended."""
        self._last_s = self._clock.monotonic_s()

    def silent_s(self) -> float:
        """Seconds since the last turn."""
        return self._clock.monotonic_s() - self._last_s


class Progress:
    """Which loops there are, and which of them stand still."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stamps: dict[str, Stamp] = {}

    def watch(self, name: str, stale_after_s: float) -> Stamp:
        """Expect a turn of loop `name` at least every `stale_after_s`; replaces an older one by that name."""
        stamp = self._stamps[name] = Stamp(name, stale_after_s, self._clock)
        return stamp

    def forget(self, name: str) -> None:
        """The loop ended on purpose."""
        self._stamps.pop(name, None)

    def wedged(self) -> list[str]:
        """The loops that made no progress for longer than they may."""
        return [name for name, stamp in self._stamps.items() if stamp.silent_s() > stamp.stale_after_s]

    def silent_s(self) -> dict[str, float]:
        """Seconds since the last turn, by loop."""
        return {name: stamp.silent_s() for name, stamp in self._stamps.items()}


class Daemon:
    """What the work of a daemon may ask of the process it runs in."""

    def __init__(self, group: asyncio.TaskGroup, notifier: Notifier, clock: Clock, drain_s: float) -> None:
        self.notifier = notifier
        self.clock = clock
        self.progress = Progress(clock)
        self.stopping = asyncio.Event()
        """Set when a stop was asked for: take no new work, drain, acknowledge, close."""
        self.drain_s = drain_s
        self.reload_error = ""
        """Why the last reload was refused; empty when it was not."""
        self.reloads = 0
        self.reloads_refused = 0
        self.again = False
        """Whether to begin anew after the stop."""
        self._group = group
        self._tasks: set[asyncio.Task[object]] = set()
        self._reload: Callable[[], Awaitable[None]] | None = None
        self._reload_asked = asyncio.Event()
        self._stop_hurry = asyncio.Event()
        self._is_ready = False

    def spawn(self, name: str, work: Coroutine[object, object, object]) -> "asyncio.Task[object]":
        """Start a task of the daemon; if it raises, the daemon ends. Cancelled when the work returns."""
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def on_reload(self, reload: Callable[[], Awaitable[None]]) -> None:
        """What SIGHUP does: it swaps the configuration as a whole, or raises and changes nothing."""
        self._reload = reload

    def ready(self, status: str = "") -> None:
        """Everything that can be checked has been, and work has begun."""
        self._is_ready = True
        self.notifier.ready(status)

    def ask_stop(self) -> None:
        """As a signal does; asked again, the drain is cut short."""
        if self.again:
            self.again = False  # Somebody wants it to end after all.
        elif self.stopping.is_set():
            self._stop_hurry.set()
            return
        self.notifier.stopping("draining")
        self.stopping.set()

    def ask_restart(self) -> None:
        """Drain, stop, and begin anew. A stop that was asked for stays one."""
        if not self.stopping.is_set():
            self.again = True
            self.notifier.reloading()
            self.stopping.set()

    def ask_reload(self) -> None:
        """As SIGHUP does."""
        self._reload_asked.set()

    async def reload_for_ever(self) -> None:
        """The task that runs reloads, one at a time."""
        while True:
            await self._reload_asked.wait()
            self._reload_asked.clear()
            if self._reload is not None and not self.stopping.is_set():
                await self._reload_once(self._reload)

    async def _reload_once(self, reload: Callable[[], Awaitable[None]]) -> None:
        self.notifier.reloading()
        self.reloads += 1
        try:
            await reload()
        except WatchbillError as exc:
            self._refused(str(exc))
        except Exception as exc:  # Whatever goes wrong in a reload, the daemon goes on as it was.
            self._refused(f"{type(exc).__name__}: {exc}")
            log.error("this should not happen in a reload", exc_info=exc)
        else:
            self.reload_error = ""
            log.info("configuration reloaded")
            self.notifier.ready("configuration reloaded")

    def _refused(self, reason: str) -> None:
        self.reloads_refused += 1
        self.reload_error = reason
        log.error("reload refused, the old configuration stays")
        for line in reason.splitlines()[:REASON_LINES_MAX]:
            log.error("configuration: %s", line)
        self.notifier.ready("reload refused; the old configuration stays")

    async def watch_for_ever(self) -> None:
        """The task that pings the watchdog while every watched loop makes progress."""
        watchdog_s = self.notifier.watchdog_s
        every_s = min(watchdog_s / 3, WATCHDOG_CHECK_S_MAX) if watchdog_s else WATCHDOG_CHECK_S_MAX
        known: list[str] = []
        while True:
            known = self.check_progress(known)
            await asyncio.sleep(every_s)

    def check_progress(self, known: list[str]) -> list[str]:
        """Ping if nothing is wedged; otherwise say once what is. `known` is the last answer."""
        wedged = self.progress.wedged()
        if not wedged:
            self.notifier.watchdog()
        elif wedged != known:
            log.error("no progress, the watchdog is not answered", extra=fields(loops=",".join(wedged)))
        return wedged

    async def cut_short(self, work: "asyncio.Task[None]") -> None:
        """The task that ends a drain that takes too long."""
        await self.stopping.wait()
        try:
            async with asyncio.timeout(self.drain_s):
                await self._stop_hurry.wait()
            log.warning("asked to stop again: the drain is cut short")
        except TimeoutError:
            log.warning("the drain took too long and is cut short", extra=fields(drain_s=self.drain_s))
        work.cancel()

    def cancel_all(self) -> None:
        """End what was spawned."""
        for task in list(self._tasks):
            task.cancel()


def run(
    work: Callable[[Daemon], Coroutine[object, object, None]],
    *,
    drain_s: float = 10.0,
    notifier: Notifier | None = None,
    clock: Clock | None = None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> int:
    """Run `work` until it returns, a stop was drained, or something failed; returns the exit code.

    `loop_factory` makes the event loop, asyncio's own without it.
    """
    # Until the loop listens, a reload must not kill us.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            again = runner.run(_supervise(work, drain_s, notifier or Notifier(), clock or SystemClock()))
    except BaseExceptionGroup as group:
        _log_failures(group)
        return exit_code(group)
    if again:
        begin_anew()
    return Exit.OK


def begin_anew() -> NoReturn:
    """Become what was started once: same program, same arguments, same process. Ends this one's memory."""
    logging.shutdown()
    signal.signal(
        signal.SIGHUP, signal.SIG_IGN
    )  # Holds beyond the next line: a reload must not kill us there.
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - There is no shell to start.


async def _supervise(
    work: Callable[[Daemon], Coroutine[object, object, None]],
    drain_s: float,
    notifier: Notifier,
    clock: Clock,
) -> bool:
    """Whether to begin anew."""
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        daemon = Daemon(group, notifier, clock, drain_s)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, daemon.ask_stop)
        loop.add_signal_handler(signal.SIGHUP, daemon.ask_reload)
        main = group.create_task(work(daemon), name="main")
        # Not awaited here: when one fails the group cancels the others, when main ends we do.
        main.add_done_callback(lambda _: daemon.cancel_all())
        daemon.spawn("reload", daemon.reload_for_ever())
        daemon.spawn("watchdog", daemon.watch_for_ever())
        daemon.spawn("drain deadline", daemon.cut_short(main))
    return daemon.again


def _log_failures(group: BaseExceptionGroup[BaseException]) -> None:
    """One line for what we raise on purpose, the whole story for what we do not understand."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            _log_failures(error)
        elif isinstance(error, WatchbillError):
            for line in str(error).splitlines():
                log.error("stopped: %s", line)
        else:
            log.error("stopped by %s", type(error).__name__, exc_info=error)
