"""The processes of a demo: started so that they cannot outlive it, ended in order, their last words kept."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from watchbill_collector.cli import janitor
from watchbill_collector.cli.errors import CommandFailed

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a process gets when its parent dies."""

_LIBC = ctypes.CDLL(None)  # Loaded here, because between fork and exec as little as possible should happen.

RESTART_AFTER_S = 3.0
"""How long a killed program stays away, so that somebody can start it by hand instead."""
RESTARTS_MAX = 50
REFUSED = 6
"""The exit code of a program that another one of its kind keeps out of its home."""

LAST_LINES = 15
LINE_CHARACTERS_MAX = 300


def find_program(name: str) -> str | None:
    """A program of ours: beside this interpreter first, then on the PATH."""
    beside = Path(sys.executable).parent / name
    if os.access(beside, os.X_OK):
        return str(beside)
    return shutil.which(name)


def typed(name: str) -> str:
    """What a person types to run a program of ours: its name where the shell finds this very one."""
    program = find_program(name)
    found = shutil.which(name)
    if program is None or (found is not None and Path(found).samefile(program)):
        return name
    from shlex import quote

    return quote(program)


@dataclass(slots=True)
class Child:
    """One running program and its log."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path
    start: str
    argv: tuple[str, ...]
    killed_at_s: float = 0.0
    restarts: int = 0

    def check(self) -> None:
        """Raises CommandFailed when it has ended, with its last words."""
        code = self.process.poll()
        if code is not None:
            raise CommandFailed(f"{self.name} ended by itself ({ending(code)}):\n{last_words(self.log)}")

    def stop(self, patience_s: float) -> None:
        """Ask it to end, then make it."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(patience_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Children:
    """Starts programs, and tells a janitor about them, who ends them if we are killed.

    `home` is removed by the janitor if it is ours to remove, None keeps it; so is `demo_file` if it is ours.
    """

    def __init__(self, home: Path | None, demo_file: Path) -> None:
        self._children: list[Child] = []
        self._janitor = subprocess.Popen(
            [sys.executable, "-I", "-S", janitor.__file__, str(os.getpid()), str(demo_file), str(home or "")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )

    def start(self, name: str, argv: Sequence[str], log: Path) -> Child:
        """Start a program with its output in `log`."""
        with open(log, "ab") as output:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment(),
                # Not our terminal's Ctrl-C, which would end both at once and out of order.
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - One thread, and nothing of it runs Python's locks.
            )
        child = Child(name, process, log, janitor.start_of(process.pid), tuple(argv))
        self._children.append(child)
        self._tell(f"process {process.pid} {child.start or 0}")
        return child

    def mend(self, now_s: float, runs_again: Callable[[Child], bool]) -> list[str]:
        """What a service manager does: start again what was killed. Returns what there is to say of it.

        `runs_again` tells whether somebody has started the program by hand meanwhile: then it is left to him.
        Raises CommandFailed for a program that ended for a reason of its own.
        """
        said: list[str] = []
        for child in list(self._children):
            code = child.process.poll()
            if code is None:
                continue
            if code == REFUSED and child.restarts:
                self._children.remove(child)
                said.append(f"{child.name} runs already; it is yours now")
            elif code >= 0 or child.restarts >= RESTARTS_MAX:
                child.check()
            elif not child.killed_at_s:
                child.killed_at_s = now_s
                said.append(f"{child.name} was killed ({ending(code)})")
            elif now_s - child.killed_at_s >= RESTART_AFTER_S:
                self._children.remove(child)
                if runs_again(child):
                    said.append(f"{child.name} runs again; it is yours now")
                else:
                    self.start(child.name, child.argv, child.log).restarts = child.restarts + 1
                    said.append(f"{child.name} was started again, as systemd would")
        return said

    def run_once(
        self, name: str, argv: Sequence[str], log: Path, given: str = "", timeout_s: float = 60.0
    ) -> None:
        """Run a program to its end. Raises CommandFailed with its last words.

        The janitor is told of it, too: an `init` that outlived us would write into the home that is removed.
        """
        with open(log, "ab") as output:
            try:
                process = subprocess.Popen(
                    list(argv),
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    env=environment(),
                    start_new_session=True,
                    preexec_fn=_die_with_parent,  # noqa: PLW1509 - As above.
                )
            except OSError as exc:
                raise CommandFailed(f"{name} cannot be started: {exc.strerror}") from exc
        self._tell(f"process {process.pid} {janitor.start_of(process.pid) or 0}")
        try:
            process.communicate(given.encode("ascii"), timeout_s)
        except subprocess.TimeoutExpired as exc:
            raise CommandFailed(f"{name} did not end within {timeout_s:.0f} s:\n{last_words(log)}") from exc
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if process.returncode != 0:
            raise CommandFailed(f"{name} failed ({ending(process.returncode)}):\n{last_words(log)}")

    def check(self) -> None:
        """Raises CommandFailed when one has ended by itself."""
        for child in self._children:
            child.check()

    def last_words(self) -> str:
        """What each said last."""
        return "\n".join(f"{child.name}:\n{last_words(child.log)}" for child in self._children)

    def stop(self, patience_s: float = 15.0) -> None:
        """End all, the last started first."""
        for child in reversed(self._children):
            child.stop(patience_s)

    def done(self) -> None:
        """Everything has been cleaned up: the janitor may go."""
        self._tell("done")
        if self._janitor.stdin is not None:
            self._janitor.stdin.close()
        self._janitor.wait()

    def _tell(self, line: str) -> None:
        assert self._janitor.stdin is not None
        try:
            self._janitor.stdin.write(line.encode("ascii") + b"\n")
            self._janitor.stdin.flush()
        except BrokenPipeError:
            return  # Somebody ended the janitor; we still clean up ourselves.


def environment() -> dict[str, str]:
    """Ours, without what would point the daemons elsewhere: the demo says where everything is."""
    return {name: value for name, value in os.environ.items() if not name.startswith("WATCHBILL_")}


def ending(code: int) -> str:
    """An exit status for people."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def last_words(log: Path) -> str:
    """The last lines of a log, harmless."""
    from watchbill_collector.cli.screen import clean

    try:
        lines = log.read_text("utf-8", "replace").splitlines()[-LAST_LINES:]
    except OSError:
        lines = []
    return "\n".join(f"  {clean(line, LINE_CHARACTERS_MAX)}" for line in lines) or "  (it said nothing)"


def _die_with_parent() -> None:
    """Between fork and exec: end when the demo does, however it ends."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
