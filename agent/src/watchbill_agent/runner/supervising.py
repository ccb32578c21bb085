"""Running one task to its end: what it prints is taken, it is ended in time, and nothing of it is left behind.

    begin -> exits          -> what it left running: SIGTERM -> grace -> SIGKILL
          -> time is up     -> SIGTERM to all of it -> grace -> SIGKILL, again and again until none is left
          -> cancelled      -> the same
          -> shut down      -> the same, and it is told as interrupted: whoever stops us stops the host

A task ends with its process: a daemon that it forked away ends too. What has to stay is a unit of systemd's, which the
task asks for.
"""

import contextlib
import fcntl
import os
import select
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from watchbill.actions.outcomes import Outcome
from watchbill_agent.runner import child, tree
from watchbill_agent.runner.bounds import LEFT_S
from watchbill_agent.runner.capture import Capture
from watchbill_agent.runner.job import Task
from watchbill_agent.runner.trusted import Executable, open_executable

READ_BYTES: Final = 256 * 1024
PIPE_BYTES: Final = 1024 * 1024
KILL_AGAIN_S: Final = 0.05
"""Between two rounds of SIGKILL: whoever forks meanwhile is caught by the next."""
CANCEL: Final = signal.SIGUSR1
STOPS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LONGEST_WAIT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a task ended."""

    outcome: Outcome
    output: Capture
    errors: Capture
    exit_code: int | None = None
    signal: int | None = None
    detail: str = ""


@dataclass(slots=True)
class Ready:
    """A task of which everything was looked at before anything is begun."""

    task: Task
    executable: Executable
    user: child.User
    secrets: dict[str, bytes]
    marks: Mapping[str, str]


def prepare(task: Task, etc: Path, marks: Mapping[str, str] | None = None) -> Ready:
    """Look at everything that a task needs. `marks` tell it what it belongs to. Raises CannotBegin, NotTrusted."""
    user = child.find_user(task.run_as)
    secrets = child.read_secrets(task.secrets, etc, task.owner)
    return Ready(task, open_executable(task.argv[0], task.owner, task.sha256), user, secrets, marks or {})


class Supervisor:
    """Of one task, in a process of its own without threads. From the moment it is made, a signal is a wish that is
    remembered."""

    def __init__(self) -> None:
        self._wishes: list[int] = []
        self._woken, self._waking = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        tree.become_subreaper()
        for number in (CANCEL, *STOPS):
            signal.signal(number, self._wish)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waking, warn_on_full_buffer=False)

    def _wish(self, number: int, _: object) -> None:
        self._wishes.append(number)

    def run(self, ready: Ready) -> Ended:
        """Begin it, and see it to its end. Raises CannotBegin when nothing was run."""
        task = ready.task
        hidden = list(ready.secrets.values())
        output, errors = Capture(task.output_max, hidden), Capture(task.output_max, hidden)
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        err_read, err_write = os.pipe2(os.O_CLOEXEC)
        variables = child.environment(ready.user, ready.secrets, ready.marks)
        try:
            pid = child.begin(task, ready.executable, ready.user, variables, out_write, err_write)
        finally:
            os.close(out_write)
            os.close(err_write)
            ready.executable.close()
        streams = {out_read: output, err_read: errors}
        for handle in streams:
            os.set_blocking(handle, False)
            with contextlib.suppress(OSError):  # Only faster: a user may have used up what pipes may hold.
                fcntl.fcntl(handle, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return self._see_to_the_end(task, pid, streams, output, errors)

    def _see_to_the_end(
        self, task: Task, pid: int, streams: dict[int, Capture], output: Capture, errors: Capture
    ) -> Ended:
        status: int | None = None
        why: Outcome | None = None
        left = 0
        deadline_s = time.monotonic() + task.timeout_s
        kill_at_s = give_up_at_s = float("inf")
        while True:
            self._take(streams)
            status, alone = _reap(pid, status)
            if alone:
                break
            now_s = time.monotonic()
            stop = self._asked() or (Outcome.TIMEOUT if now_s >= deadline_s else None)
            if (stop or status is not None) and kill_at_s == float("inf"):
                # Its own process has ended, or has to: whatever else it began ends with it.
                why = stop if status is None else None
                tree.signal_all(signal.SIGTERM)
                kill_at_s = now_s + task.kill_grace_s
                give_up_at_s = kill_at_s + LEFT_S
            if now_s >= kill_at_s:
                left = tree.signal_all(signal.SIGKILL)
                kill_at_s = now_s + KILL_AGAIN_S
            if now_s >= give_up_at_s:
                break
            self._wait(
                streams, min(deadline_s if kill_at_s == float("inf") else kill_at_s, now_s + LONGEST_WAIT_S)
            )
        while self._take(streams) and alone:
            pass  # Nobody writes any more: what is in the pipes is all.
        output.end()
        errors.end()
        return _ended(
            why, status, output, errors, f"{left} of its processes could not be ended" if not alone else ""
        )

    def _asked(self) -> Outcome | None:
        if not self._wishes:
            return None
        return Outcome.CANCELLED if self._wishes[0] == CANCEL else Outcome.INTERRUPTED

    def _wait(self, streams: dict[int, Capture], until_s: float) -> None:
        handles = [*streams, self._woken]
        select.select(handles, [], [], max(0.0, until_s - time.monotonic()))
        with contextlib.suppress(BlockingIOError):
            os.read(self._woken, 4096)

    def _take(self, streams: dict[int, Capture]) -> bool:
        """What there is to read, one piece of each stream: one that never ends must not keep us from the clock.
        Whether there was anything."""
        found = False
        for handle, capture in list(streams.items()):
            try:
                piece = os.read(handle, READ_BYTES)
            except BlockingIOError:
                continue
            found = True
            if piece:
                capture.add(piece)
            else:
                del streams[handle]
                os.close(handle)
        return found


def _reap(pid: int, status: int | None) -> tuple[int | None, bool]:
    """The status of the task's own process, when it has ended; and whether none at all is left."""
    while True:
        try:
            found, how = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status, True
        if found == 0:
            return status, False
        if found == pid:
            status = how


def _ended(why: Outcome | None, status: int | None, output: Capture, errors: Capture, detail: str) -> Ended:
    code = os.waitstatus_to_exitcode(status) if status is not None else None
    died = -code if code is not None and code < 0 else None
    outcome = why or (Outcome.OK if code == 0 else Outcome.FAILED)
    return Ended(outcome, output, errors, None if died else code, died, detail)
