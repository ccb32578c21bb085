"""Collectors that are forked, not started: `forked.py` is a process that has imported the collector and done nothing.

Importing it takes most of a start, and the tests start hundreds. For each line of standard input, `{"argv": [...],
"env": {...}, "files": [IN, OUT, ERR]}`, it forks a child that becomes the command, as the console script would be, and
answers with its `{"pid": N}`; when a child has ended it says `{"ended": N, "code": C}`. It has one thread, as whoever
forks should.

`Forks` is the side of the tests, and `Forked` has what they use of a `subprocess.Popen`. WATCHBILL_TESTS_EXEC=1 starts
every collector anew; those of a demo, of systemd, and in another environment always are.
"""

import atexit
import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

_PR_SET_PDEATHSIG: Final = 1
_LIBC = ctypes.CDLL(None)
PIECE_BYTES: Final = 64 * 1024


class Forked:
    """A child of the process that forks."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = threading.Event()

    def ended(self, code: int) -> None:
        """It is gone."""
        self.returncode = code
        self._ended.set()

    def poll(self) -> int | None:
        """Its code, None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its code, when it has ended."""
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired(f"forked {self.pid}", timeout or 0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """As `Popen` does it: nothing happens to what has ended."""
        with contextlib.suppress(ProcessLookupError):  # It may have ended, and nobody has said so yet.
            if self.returncode is None:
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)


class Forks:
    """The process that forks, started when the first child is wanted."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._children: dict[int, Forked] = {}
        self._begun = threading.Semaphore(0)
        self._newest: Forked | None = None

    def __call__(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        out: Path,
        err: Path,
        given: str = os.devnull,
    ) -> Forked:
        """A new child, with these files."""
        if self._process is None:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        files = [given, str(out), str(err)]
        order = {"argv": list(argv), "env": dict(environment), "files": files}
        print(json.dumps(order), file=self._process.stdin, flush=True)
        assert self._begun.acquire(timeout=60), "nothing was forked"
        assert self._newest is not None
        return self._newest

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # A test run that is killed must not leave it behind.
            preexec_fn=lambda: _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
        )
        atexit.register(self._process.kill)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if "pid" in said:
                self._newest = self._children[said["pid"]] = Forked(said["pid"])
                self._begun.release()
            else:
                self._children.pop(said["ended"]).ended(said["code"])


# ---------------------------------------------------------------- the process that forks


def _import_all() -> None:
    # More than one thread must not be there when it forks.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    from watchbill.grpc_environment import set_grpc_environment

    set_grpc_environment()
    import importlib
    import pkgutil

    from watchbill_collector import parts

    names = [f"{parts.__name__}.{module.name}" for module in pkgutil.iter_modules(parts.__path__)]
    for name in ("watchbill_collector.daemon", "watchbill_collector.app", *names):
        importlib.import_module(name)
    assert len(list(Path("/proc/self/task").iterdir())) == 1


def _become(order: dict[str, Any]) -> int:
    """The daemon, in the child."""
    os.setsid()
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    given, out, err = order["files"]
    os.dup2(os.open(given, os.O_RDONLY), 0)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644), number)
    os.closerange(3, 1024)
    kept = {name: value for name, value in os.environ.items() if name.startswith("GRPC_")}
    os.environ.clear()
    os.environ.update(order["env"] | kept)
    sys.argv = order["argv"]
    from watchbill_collector.daemon import main

    return main()


def serve() -> None:
    """Fork what is asked for, and say what has ended, until nobody asks any more."""
    _import_all()
    waking, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken)
    orders = b""
    while True:
        ready, _, _ = select.select([0, waking], [], [])
        if waking in ready:
            os.read(waking, PIECE_BYTES)
            _tell_ended()
        if 0 not in ready:
            continue
        piece = os.read(0, PIECE_BYTES)
        if not piece:
            return
        *whole, orders = (orders + piece).split(b"\n")
        for order in whole:
            _fork(json.loads(order))


def _fork(order: dict[str, Any]) -> None:
    child = os.fork()
    if child == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        sys.exit(_become(order))
    _say({"pid": child})


def _tell_ended() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        _say({"ended": pid, "code": os.waitstatus_to_exitcode(status)})


def _say(what: dict[str, int]) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    serve()
