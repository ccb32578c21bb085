"""Runs a backup tool so that it can do no harm by hanging, printing for ever, or leaving children behind.

1. No shell: a list of arguments, and an environment by list, with `LC_ALL=C` and `TZ=UTC`, since tools print times
   without a zone and words in the reader's language.
2. A session and process group of its own: no terminal that it could ask for a password on, and everything it started
   can be ended together. At the deadline the group has TERM_GRACE_S to remove its locks, then it is killed.
3. Output has a bound. Who prints more on stdout is ended; of stderr the end is kept.
4. It does not outlive who started it.
"""

import contextlib
import ctypes
import os
import platform
import resource
import selectors
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from watchbill.clock import Clock, SystemClock
from watchbill_agent.backups.adapter import STDOUT_BYTES_MAX, Finished

STDERR_BYTES_MAX: Final = 256 * 1024
"""The newest is kept: a tool's last words say why it gave up."""
READ_BYTES: Final = 64 * 1024
TERM_GRACE_S: Final = 5.0
KILLED_S_MAX: Final = 5.0
"""A killed process is gone by then, or sleeps in the kernel and is left to init."""
LINGER_S: Final = 2.0
"""How long output is waited for after the command ended: what it left behind may hold its pipes for ever."""
NICE: Final = 10
OOM_SCORE_ADJUST: Final = 500
"""Where memory runs out, a look at a backup goes before the agent does."""
PATH_DEFAULT: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PASSED: Final = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR")
"""What a tool has of our own environment; all else it has by its options."""

_PR_SET_PDEATHSIG: Final = 1
_IOPRIO_WHO_PROCESS: Final = 1
_IOPRIO_IDLE: Final = 3 << 13
_IOPRIO_SET: Final = {
    "x86_64": 251,
    "aarch64": 30,
    "riscv64": 30,
    "armv7l": 314,
    "i686": 289,
    "ppc64le": 273,
    "s390x": 282,
}
"""The number of the system call; the C library has no name for it."""


class HostCommands:
    """Starts tools on this host. All of them together have `whole_s` from now on. `scratch` is where they start, and
    the home of those whose user has none."""

    def __init__(self, scratch: Path, whole_s: float, clock: Clock | None = None) -> None:
        self._scratch = scratch
        self._clock = clock or SystemClock()
        self._until_s = self._clock.monotonic_s() + whole_s

    def left_s(self) -> float:
        """What is left of the whole; may be less than nothing."""
        return self._until_s - self._clock.monotonic_s()

    def run(
        self,
        argv: Sequence[str],
        *,
        deadline_s: float | None = None,
        env: Mapping[str, str] | None = None,
        stdout_bytes_max: int = STDOUT_BYTES_MAX,
        input: bytes | None = None,  # noqa: A002 - As subprocess calls it.
        cwd: Path | None = None,
    ) -> Finished:
        """Run it to its end, its deadline, or the end of the whole look."""
        assert argv, "a command has a name"
        left_s = self.left_s() if deadline_s is None else min(deadline_s, self.left_s())
        if left_s <= 0:
            return Finished(timed_out=True)
        environment = self._environment(env or {})
        program = shutil.which(argv[0], path=environment["PATH"])
        if program is None:
            return Finished(missing=True, stderr=_why_missing(argv[0]).encode())
        try:
            process = subprocess.Popen(
                list(argv),
                executable=program,
                stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                cwd=cwd or self._scratch,
                start_new_session=True,
                # Nothing else runs in this process that a fork could find half done.
                preexec_fn=_before_exec(os.getpid()),  # noqa: PLW1509
            )
        except (OSError, subprocess.SubprocessError) as exc:
            return Finished(missing=True, stderr=f"{argv[0]} cannot be started: {exc}".encode())
        with process:
            return _Running(process, self._clock, left_s, stdout_bytes_max).finish(input or b"")

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        passed = {name: os.environ[name] for name in PASSED if os.environ.get(name)}
        base = {"PATH": PATH_DEFAULT, "HOME": str(self._scratch)}
        return {**base, **passed, **more, "LC_ALL": "C", "TZ": "UTC"}


def _why_missing(program: str) -> str:
    if "/" in program and os.path.lexists(program):
        return f"{program} is there, and this user may not execute it"
    return f"{program} is not installed here" + ("" if "/" in program else ", or not in PATH")


@dataclass(slots=True)
class _Running:
    """A command that was started. Its leader stays unburied until its group has been ended, so that its number is
    nobody else's."""

    process: "subprocess.Popen[bytes]"
    clock: Clock
    left_s: float
    stdout_bytes_max: int
    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)
    timed_out: bool = False
    truncated: bool = False

    def finish(self, content: bytes) -> Finished:
        """Feed it, read it, and see that its group is gone."""
        ended = os.pidfd_open(self.process.pid)
        try:
            self._attend(ended, content)
        finally:
            # Also when we are told to end in the middle of it.
            self._end_group(ended)
            os.close(ended)
        code = self.process.returncode
        return Finished(
            exit_code=code if code is not None and code >= 0 else None,
            signal=-code if code is not None and code < 0 else None,
            stdout=bytes(self.out),
            stderr=bytes(self.err),
            timed_out=self.timed_out,
            truncated=self.truncated,
        )

    def _attend(self, ended: int, content: bytes) -> None:
        until_s = self.clock.monotonic_s() + self.left_s
        with selectors.DefaultSelector() as selector:
            selector.register(ended, selectors.EVENT_READ, None)
            for pipe, take in ((self.process.stdout, self._take_out), (self.process.stderr, self._take_err)):
                assert pipe is not None
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, selectors.EVENT_READ, take)
            if self.process.stdin is not None:
                os.set_blocking(self.process.stdin.fileno(), False)
                selector.register(self.process.stdin, selectors.EVENT_WRITE, _Feed(content))
            running = True
            while selector.get_map() and not self.truncated:
                wait_s = until_s - self.clock.monotonic_s()
                if wait_s <= 0:
                    self.timed_out = running
                    return
                for key, _ in selector.select(wait_s):
                    if key.data is None:
                        running = False
                        selector.unregister(key.fileobj)
                        until_s = min(until_s, self.clock.monotonic_s() + LINGER_S)
                    elif not key.data(key.fileobj):
                        selector.unregister(key.fileobj)

    def _take_out(self, pipe: IO[bytes]) -> bool:
        """Whether there may be more."""
        data = _read(pipe)
        self.out += data[: self.stdout_bytes_max - len(self.out)]
        if len(self.out) >= self.stdout_bytes_max and data:
            self.truncated = True
        return bool(data)

    def _take_err(self, pipe: IO[bytes]) -> bool:
        data = _read(pipe)
        self.err += data
        if len(self.err) > 2 * STDERR_BYTES_MAX or not data:
            del self.err[:-STDERR_BYTES_MAX]
        return bool(data)

    def _end_group(self, ended: int) -> None:
        """TERM, a while to tidy up, KILL; bury the leader. Whoever left the group has left it."""
        group = self.process.pid
        if not _has_ended(ended, 0):
            _signal_group(group, signal.SIGTERM)
            _has_ended(ended, TERM_GRACE_S)
        _signal_group(group, signal.SIGKILL)
        if _has_ended(ended, KILLED_S_MAX):
            self.process.wait()
        else:
            # Else Popen would wait for what cannot be waited for.
            self.process.returncode = -signal.SIGKILL
            self.timed_out = True


class _Feed:
    """What is written to a command's standard input, piece by piece; whoever does not want it need not read it."""

    def __init__(self, content: bytes) -> None:
        self._rest = memoryview(content)

    def __call__(self, pipe: IO[bytes]) -> bool:
        """Whether there is more to write."""
        try:
            written = os.write(pipe.fileno(), self._rest[:READ_BYTES])
        except BlockingIOError:
            return True
        except OSError:
            written = len(self._rest)
        self._rest = self._rest[written:]
        if not self._rest:
            with contextlib.suppress(OSError):
                pipe.close()
        return bool(self._rest)


def _read(pipe: IO[bytes]) -> bytes:
    try:
        return os.read(pipe.fileno(), READ_BYTES)
    except OSError:
        return b""


def _has_ended(ended: int, wait_s: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(ended, selectors.EVENT_READ)
        return bool(selector.select(wait_s))


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _before_exec(parent: int) -> Callable[[], None]:
    """What the tool's process does before it becomes the tool."""
    libc = ctypes.CDLL(None)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(127)  # Its parent died before this was set.
        # The bound of memory is our own process's: a tool written in Go asks for far more addresses than memory.
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        os.umask(0o077)

    return prepare


def quiet_down() -> None:
    """Make this process and all that it starts give way to everything else on the host. What a host refuses of it is
    left out: it is a courtesy."""
    with contextlib.suppress(OSError):
        os.nice(NICE)
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None).syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_IDLE)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE_ADJUST), "ascii")


def die_with(parent: int) -> None:
    """End when `parent` does, however it does. Raises SystemExit when it is gone already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise SystemExit(1)


def bound_memory(bytes_max: int) -> None:
    """Of this process alone: what it starts has the bound that it had before."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = bytes_max if hard == resource.RLIM_INFINITY else min(bytes_max, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
