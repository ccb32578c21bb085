"""Runs the commands of checks, many at a time in one event loop, so that none can do harm by hanging, printing for
ever, or leaving children behind.

    started -> exits     -> what is left of its group is killed -> strays are killed -> reaped
            -> deadline  -> SIGTERM to the group -> TERM_GRACE_S -> SIGKILL -> the same

1. No shell: a list of arguments and an environment by list. A session and process group of its own, no input.
2. The first bytes of its output are kept; the rest goes from the pipe to nowhere without being copied, and is counted.
   Who floods is read a few times in a while only, and ended when it does not stop: a gigabyte costs next to nothing.
3. Its first process stays unreaped until its group was killed, so that the group's number is nobody else's.
4. Ending it goes on by itself: whoever asked is not kept waiting, but for the next run of the same command.
5. The C library's fast way to start a program stops this process until the program has begun. Where its filesystem may
   never answer, it is started the slow way, by a thread that may be left waiting.
"""

import asyncio
import contextlib
import fcntl
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from watchbill_agent.checks import strays
from watchbill_agent.checks.mounted import far_mount

STDERR_BYTES_MAX: Final = 4 * 1024
"""The beginning of it."""
READ_BYTES: Final = 64 * 1024
FLOOD_BYTES: Final = 1024 * 1024
"""What a pipe may hold, and what is dropped at once."""
FLOOD_EVERY_S: Final = 0.005
DROPPED_BYTES_MAX: Final = 64 * FLOOD_BYTES
"""Who prints more than this is ended: nobody reads it, and dropping a gigabyte takes half a second of a core."""
TERM_GRACE_S: Final = 2.0
LINGER_S: Final = 0.2
"""How long output is waited for after the command ended: what it left behind may hold its pipes for ever."""
POLLED_S: Final = 0.01
POLLED_S_MAX: Final = 1.0
HURRIED_LOOKS: Final = 20
"""How often it is looked, when this process itself ends, whether what was killed is gone."""
EARLY_S: Final = 0.1
"""So much before its deadline a run is given up, to say itself what came out of it."""
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FIXED: Final = {"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": "/"}
"""All that a command has of us: plugins print numbers in the C locale."""

_started: set[int] = set()
"""First processes of commands that are not reaped yet."""


class CannotStart(Exception):
    """Nothing was run, and why."""


class StillThere(Exception):
    """An earlier run of the same command cannot be ended, or its program does not come from its filesystem."""


@dataclass(frozen=True, slots=True)
class Ran:
    """How it went. `exit_code` and `signal`: what ended it; both are None when we ended it."""

    exit_code: int | None
    signal: int | None
    stdout: bytes
    stderr: bytes
    dropped_bytes: int
    timed_out: bool
    flooded: bool
    """It was ended for what it printed."""
    cpu_s: float
    """Of it and of those of its children that it waited for; 0 when we ended it."""


class Command:
    """One command, run again and again, never twice at once."""

    def __init__(self, argv: Sequence[str], output_bytes_max: int, cwd: str = "/") -> None:
        self._argv = argv
        self._output_bytes_max = output_bytes_max
        self._cwd = cwd
        self._ending: asyncio.Task[None] | None = None
        self._starting: asyncio.Future[_Started] | None = None

    async def run(self, env: Mapping[str, str], within_s: float) -> Ran:
        """Run it to its end or its deadline. Raises CannotStart, StillThere."""
        within_s -= min(EARLY_S, within_s / 10)
        loop = asyncio.get_running_loop()
        until_s = loop.time() + within_s
        if self._ending is not None:
            await asyncio.wait((self._ending,), timeout=within_s)
            if not self._ending.done():
                raise StillThere
            self._ending = None
        process, mark = await self._start(env, until_s)
        running = _Running(process, mark, self._output_bytes_max)
        try:
            await running.attend(until_s)
        finally:
            self._ending = running.see_off()
        return running.ran()

    async def _start(self, env: Mapping[str, str], until_s: float) -> "_Started":
        if self._starting is None:
            mark = strays.new_mark()
            env = {**FIXED, **env, strays.MARK: mark}
            if not any(far_mount(place) for place in (self._argv[0], self._cwd)):
                return _start(self._argv, env, self._cwd), mark
            self._starting = _in_thread(self._argv, env, self._cwd, mark)
        loop = asyncio.get_running_loop()
        await asyncio.wait((self._starting,), timeout=until_s - loop.time())
        if not self._starting.done():
            raise StillThere
        # Perhaps it was waited for since an earlier look.
        starting, self._starting = self._starting, None
        return starting.result()

    async def close(self) -> None:
        """End what is still there, now."""
        if self._ending is not None:
            self._ending.cancel()
            await asyncio.wait((self._ending,))


_Started = tuple["subprocess.Popen[bytes]", str]
"""A process, and the mark that it has."""


def _start(
    argv: Sequence[str], env: Mapping[str, str], cwd: str, *, slowly: bool = False
) -> "subprocess.Popen[bytes]":
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            cwd=cwd,
            start_new_session=True,
            # Whatever it is, with it only the thread that starts it waits until the program has begun.
            preexec_fn=_nothing if slowly else None,  # noqa: PLW1509
        )
    except (OSError, ValueError) as exc:
        raise CannotStart(exc.strerror or str(exc) if isinstance(exc, OSError) else str(exc)) from exc
    _started.add(process.pid)
    return process


def _nothing() -> None:
    return None


def _in_thread(
    argv: Sequence[str], env: Mapping[str, str], cwd: str, mark: str
) -> "asyncio.Future[_Started]":
    loop = asyncio.get_running_loop()
    started: asyncio.Future[_Started] = loop.create_future()

    def put(process: "subprocess.Popen[bytes] | None", error: CannotStart | None) -> None:
        if error is not None:
            started.set_exception(error)
        elif process is not None:
            started.set_result((process, mark))

    def work() -> None:
        process = error = None
        try:
            process = _start(argv, env, cwd, slowly=True)
        except CannotStart as exc:
            error = exc
        try:
            loop.call_soon_threadsafe(put, process, error)
        except RuntimeError:  # Nobody is there any more who could see it off.
            if process is not None:
                os.killpg(process.pid, signal.SIGKILL)

    threading.Thread(target=work, name=f"start of {argv[0]}", daemon=True).start()
    return started


class _Stream:
    """One of its pipes: the beginning is kept, the rest counted."""

    def __init__(self, descriptor: int, bytes_max: int) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self.kept = bytearray()
        self.dropped = 0
        self._max = bytes_max
        self.flooded = False

    def take(self) -> bool:
        """What there is to read, up to a bound; whether there may be more some time."""
        room = self._max - len(self.kept)
        try:
            if self.flooded:
                return self._drop()
            data = os.read(self.descriptor, READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.kept += data[:room]
        self.dropped += max(0, len(data) - room)
        if self.dropped:
            self.flooded = True
            with contextlib.suppress(OSError):  # Only cheaper: a user may have used up what pipes may hold.
                fcntl.fcntl(self.descriptor, fcntl.F_SETPIPE_SZ, FLOOD_BYTES)
        return bool(data)

    def _drop(self) -> bool:
        dropped = os.splice(self.descriptor, _nowhere(), FLOOD_BYTES, flags=_SPLICE_NONBLOCK)
        self.dropped += dropped
        return bool(dropped)

    def rest(self) -> None:
        """What is in the pipe now, and no more: its writers are gone, or are not waited for."""
        for _ in range(FLOOD_BYTES // READ_BYTES):
            before = len(self.kept) + self.dropped
            if not self.take() or len(self.kept) + self.dropped == before:
                return


_SPLICE_NONBLOCK: Final = 0x02
_null = -1


def _nowhere() -> int:
    global _null  # One for the process, opened when the first floods.
    if _null < 0:
        _null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    return _null


class _Running:
    """A run of a command."""

    def __init__(self, process: "subprocess.Popen[bytes]", mark: str, bytes_max: int) -> None:
        assert process.stdout is not None, "it was asked for"
        assert process.stderr is not None, "it was asked for"
        self._process = process
        self._pid = process.pid
        self._strays = strays.Strays(mark, process.pid)
        self._out = _Stream(process.stdout.fileno(), bytes_max)
        self._err = _Stream(process.stderr.fileno(), STDERR_BYTES_MAX)
        self._loop = asyncio.get_running_loop()
        self._ended = os.pidfd_open(process.pid)
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._open = {self._out, self._err}
        self._timer: asyncio.TimerHandle | None = None
        self._has_ended = self._in_time = False
        self._status: int | None = None
        self._cpu_s = 0.0

    async def attend(self, until_s: float) -> None:
        """Take what it prints, until it has ended or the time is up."""
        self._loop.add_reader(self._ended, self._on_end)
        for stream in self._open:
            self._loop.add_reader(stream.descriptor, self._on_output, stream)
        timer = self._loop.call_at(until_s, self._finish)
        try:
            await self._done
        finally:
            timer.cancel()
            self._stop_reading()

    def ran(self) -> Ran:
        """How it went, after it was seen off."""
        code = None if self._status is None else os.waitstatus_to_exitcode(self._status)
        return Ran(
            exit_code=code if code is not None and code >= 0 else None,
            signal=-code if code is not None and code < 0 else None,
            stdout=bytes(self._out.kept),
            stderr=bytes(self._err.kept),
            dropped_bytes=self._out.dropped,
            timed_out=not self._in_time and not self._flooded(),
            flooded=self._flooded(),
            cpu_s=self._cpu_s,
        )

    # ------------------------------------------------------------ while it runs

    def _on_output(self, stream: _Stream) -> None:
        if not stream.take():
            self._loop.remove_reader(stream.descriptor)
            self._open.discard(stream)
            self._finish_when_all()
        elif self._flooded():
            self._finish()
        elif stream.flooded:
            self._loop.remove_reader(stream.descriptor)
            if not self._done.done():
                self._loop.call_later(FLOOD_EVERY_S, self._on_flood, stream)

    def _on_flood(self, stream: _Stream) -> None:
        if not self._done.done():
            self._loop.add_reader(stream.descriptor, self._on_output, stream)

    def _on_end(self) -> None:
        self._loop.remove_reader(self._ended)
        self._has_ended = True
        self._finish_when_all()
        if not self._done.done():
            self._timer = self._loop.call_later(LINGER_S, self._finish)

    def _finish_when_all(self) -> None:
        if self._has_ended and not self._open:
            self._finish()

    def _finish(self) -> None:
        if not self._done.done():
            self._in_time = self._has_ended and not self._flooded()
            self._done.set_result(None)

    def _flooded(self) -> bool:
        return self._out.dropped + self._err.dropped > DROPPED_BYTES_MAX

    def _stop_reading(self) -> None:
        if not self._done.done():
            self._done.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._ended)
        for stream in self._open:
            self._loop.remove_reader(stream.descriptor)
            stream.rest()

    # ------------------------------------------------------------ its end

    def see_off(self) -> asyncio.Task[None] | None:
        """End it and all that it started: at once where that is enough, else by a task that is handed back."""
        if self._has_ended or _is_readable(self._ended):
            self._signal(signal.SIGKILL)
            if self._reaped() and not self._swept():
                return None
        else:
            self._signal(signal.SIGTERM)
        ending = self._loop.create_task(self._end(), name=f"end of {self._pid}")
        ending.add_done_callback(self._end_now)
        return ending

    async def _end(self) -> None:
        if self._ended >= 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TERM_GRACE_S):
                    await self._wait_for_end()
        await self._kill_again()

    async def _wait_for_end(self) -> None:
        ended = asyncio.Event()
        self._loop.add_reader(self._ended, ended.set)
        try:
            await ended.wait()
        finally:
            self._loop.remove_reader(self._ended)

    async def _kill_again(self) -> None:
        """Until nothing is left: what sleeps in the kernel ends when it wakes."""
        pause_s = POLLED_S
        while True:
            self._signal(signal.SIGKILL)
            if self._reaped() and not self._swept():
                return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, POLLED_S_MAX)

    def _end_now(self, ending: asyncio.Task[None]) -> None:
        """Where ending it was called off, perhaps before it began: whoever runs us ends, and there is no grace."""
        if not ending.cancelled():
            return
        for _ in range(HURRIED_LOOKS):
            self._signal(signal.SIGKILL)
            if self._reaped() and not self._swept():
                return
            time.sleep(POLLED_S)

    def _signal(self, number: signal.Signals) -> None:
        """The whole group, while its number is its own."""
        if self._ended >= 0:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, number)

    def _reaped(self) -> bool:
        """Whether its first process is gone."""
        if self._ended < 0:
            return True
        try:
            pid, status, usage = os.wait4(self._pid, os.WNOHANG)
        except ChildProcessError:  # Somebody else has asked for any child at all.
            pid, status, usage = self._pid, 0, None
        if pid != self._pid:
            return False
        os.close(self._ended)
        self._ended = -1
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()  # Not before: a shell that is told to end says so, and what it does then would be cut off.
        _started.discard(self._pid)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        if self._in_time and usage is not None:
            self._status = status
            self._cpu_s = usage.ru_utime + usage.ru_stime
        return True

    def _swept(self) -> int:
        return self._strays.sweep(_started)


def _is_readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
