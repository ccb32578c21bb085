"""Runs a command as if nobody stood between it and whoever started us.

- Its standard input, environment, directory and further descriptors are ours, unchanged. What it prints passes through
  a pipe, or a pseudo-terminal where our own output is a terminal, and is kept as it passes; as fast as it is read, as
  without us. Who stops reading us stops reading it.
- Without a terminal it has a process group of its own, and signals that we get go to that group. With a terminal it
  stays in our group, so that Ctrl-C and Ctrl-Z reach it as they would; those are not passed on a second time.
- A signal that was ignored when we started is ignored by it. When we are killed by one that cannot be passed on, it
  goes on, until it prints something: nobody reads that any more.
"""

import contextlib
import errno
import os
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    import resource

READ_BYTES: Final = 64 * 1024
LINGER_S: Final = 2.0
"""How long output is waited for after the command ended: what it left behind may hold its pipes for ever."""
NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126
DESCRIPTOR_MAX: Final = 255
"""Of a descriptor that is asked for by number."""
STDOUT, STDERR, COUNT = 1, 2, 3

_TO_THE_GROUP: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
_TO_THE_COMMAND: Final = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGCONT)
_FROM_THE_TERMINAL: Final = (signal.SIGINT, signal.SIGQUIT)
"""With a terminal the command got them, too."""
_NOT_OURS: Final = (signal.SIGPIPE, signal.SIGXFSZ)
"""Python ignores them; a command that is written in anything else ends by them."""


class CannotStart(Exception):
    """The command did not begin; `code` is what a shell would end with."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Ended(NamedTuple):
    """How it ended: by itself with a code, or by a signal."""

    exit_code: int | None
    signal: int | None
    usage: "resource.struct_rusage"


class Last:
    """The last bytes of what is printed; any thread may add."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._pieces: deque[bytes] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self.cut = False
        """Whether there was more."""

    def add(self, data: bytes) -> None:
        """Printed now."""
        with self._lock:
            self._pieces.append(data)
            self._bytes += len(data)
            while self._bytes - len(self._pieces[0]) >= self._bytes_max:
                self._bytes -= len(self._pieces.popleft())
                self.cut = True

    def content(self) -> bytes:
        """What is kept."""
        with self._lock:
            whole = b"".join(self._pieces)
        self.cut = self.cut or len(whole) > self._bytes_max
        return whole[-self._bytes_max :]


class Passing:
    """One command. `kept` is given what it prints, by its descriptor, in threads of its own; COUNT is what it writes on
    descriptor `count`, where one is asked for."""

    def __init__(
        self,
        argv: Sequence[str],
        environment: Mapping[bytes, bytes],
        kept: Callable[[int, bytes], None],
        count: int = 0,
    ) -> None:
        self._argv = argv
        self._environment = environment
        self._kept = kept
        self._count = count
        self._threads: list[threading.Thread] = []
        self._terminals: list[int] = []
        self._own_group = not _has_terminal()
        self._pid = 0
        self._woken = self._listen()

    def _listen(self) -> int:
        """From now on signals wake us instead of ending us; returns what they are read from."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, *_TO_THE_GROUP, *_TO_THE_COMMAND):
            if number is signal.SIGCHLD or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _noted)
        return reading

    def start(self) -> None:
        """Begin. Raises CannotStart."""
        actions: list[tuple[int, int, int]] = []
        sources: list[tuple[int, int, int]] = []
        given: list[int] = []
        for descriptor in (STDOUT, STDERR):
            reading, writing = self._way_out(descriptor)
            sources.append((descriptor, reading, descriptor))
            given.append(writing)
            actions.append((os.POSIX_SPAWN_DUP2, writing, descriptor))
        if self._count:
            reading, writing = os.pipe()
            sources.append((COUNT, reading, -1))
            high = _above(writing, DESCRIPTOR_MAX)
            given.append(high)
            actions.append((os.POSIX_SPAWN_DUP2, high, self._count))
        try:
            self._pid = self._spawn(actions)
        finally:
            for writing in given:
                os.close(writing)
        for which, reading, target in sources:
            thread = threading.Thread(target=self._relay, args=(which, reading, target), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _spawn(self, actions: Sequence[tuple[int, int, int]]) -> int:
        spawn = partial(
            os.posix_spawnp,
            self._argv[0],
            list(self._argv),
            self._environment,
            file_actions=actions,
            setsigdef=_NOT_OURS,
        )
        try:
            return spawn(setpgroup=0) if self._own_group else spawn()
        except FileNotFoundError as exc:
            raise CannotStart(NOT_FOUND, f"{self._argv[0]}: not found") from exc
        except (OSError, ValueError) as exc:
            reason = (exc.strerror or str(exc)).lower() if isinstance(exc, OSError) else str(exc)
            raise CannotStart(NOT_EXECUTABLE, f"{self._argv[0]}: {reason}") from exc

    def _way_out(self, descriptor: int) -> tuple[int, int]:
        """What to read, and what the command is given."""
        if os.isatty(descriptor):
            with contextlib.suppress(OSError):
                return self._terminal(descriptor)
        return os.pipe()

    def _terminal(self, descriptor: int) -> tuple[int, int]:
        """A terminal like ours, which changes nothing of what is printed: ours does."""
        import termios

        reading, writing = os.openpty()
        try:
            attributes = termios.tcgetattr(descriptor)
            attributes[1] &= ~termios.OPOST
            termios.tcsetattr(writing, termios.TCSANOW, attributes)
            termios.tcsetwinsize(writing, termios.tcgetwinsize(descriptor))
        except termios.error as exc:
            os.close(reading)
            os.close(writing)
            raise OSError(errno.ENOTTY, str(exc)) from exc
        self._terminals.append(reading)
        return reading, writing

    def _relay(self, which: int, source: int, target: int) -> None:
        open_ = True
        while open_ and (data := _read(source)):
            open_ = target < 0 or _write(target, data)
            self._kept(which, data)
        os.close(source)  # Who prints on finds that nobody reads, as it would without us.

    # ------------------------------------------------------------ while it runs

    def wait(self, every_s: float, turn: Callable[[], None]) -> Ended:
        """Until it ended; `turn` is called every so often."""
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        next_s = time.monotonic() + every_s
        while True:
            pid, status, usage = os.wait4(self._pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                self._drain()
                return Ended(code if code >= 0 else None, -code if code < 0 else None, usage)
            if poll.poll(max(0.0, next_s - time.monotonic()) * 1000):
                self._pass_on()
            if time.monotonic() >= next_s:
                next_s += every_s
                turn()

    def _pass_on(self) -> None:
        try:
            numbers = set(os.read(self._woken, READ_BYTES))
        except BlockingIOError:
            return
        for number in sorted(numbers):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if number == signal.SIGWINCH:
                    self._resize()
                if number in _TO_THE_GROUP and self._own_group:
                    os.killpg(self._pid, number)
                elif number in _TO_THE_COMMAND or (
                    number in _TO_THE_GROUP and number not in _FROM_THE_TERMINAL
                ):
                    os.kill(self._pid, number)

    def _resize(self) -> None:
        import termios

        for descriptor in (STDOUT, STDERR):
            if os.isatty(descriptor):
                for terminal in self._terminals:
                    with contextlib.suppress(termios.error):
                        termios.tcsetwinsize(terminal, termios.tcgetwinsize(descriptor))
                return

    def _drain(self) -> None:
        until_s = time.monotonic() + LINGER_S
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))


def end_like(ended: Ended) -> int:
    """The exit code to end with; when a signal ended the command, that ends us, too."""
    if ended.signal is None:
        assert ended.exit_code is not None
        return ended.exit_code
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # One core is enough.
    if ended.signal not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(ended.signal, signal.SIG_DFL)
    os.kill(os.getpid(), ended.signal)
    return 128 + ended.signal


def environment_at_start() -> dict[bytes, bytes]:
    """What we were started with: this process has set variables of its own since."""
    try:
        with open("/proc/self/environ", "rb") as file:
            content = file.read()
    except OSError:
        return dict(os.environb)
    pairs = (entry.partition(b"=") for entry in content.split(b"\0") if b"=" in entry)
    return {name: value for name, _, value in pairs}


def _noted(number: int, frame: object) -> None:
    """The number is in the pipe."""


def _has_terminal() -> bool:
    """Whether a terminal controls us."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _above(descriptor: int, least: int) -> int:
    """The same, under a number that nobody asks for."""
    import fcntl

    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, least + 1)
    os.close(descriptor)
    return high


def _read(source: int) -> bytes:
    try:
        return os.read(source, READ_BYTES)
    except OSError:
        return b""  # A terminal says so that nobody has its other end.


def _write(target: int, data: bytes) -> bool:
    """All of it, or what the target takes; False when nobody reads it any more. A full disk under a log is no reason to
    end the command: it would hardly notice by itself."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(target, view) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(target, select.POLLOUT)
            poll.poll()
        except BrokenPipeError:
            return False
        except OSError:
            return True
    return True
