"""Runs one program and ends everything that came of it: a script that `channels/exec.py` starts.

    python -I -S supervisor.py LIFE REPORT PROGRAM [ARGUMENT...]

A program that forks away and begins a session of its own leaves its group and its parent, and no kill of either
finds it. So this process declares itself the one to whom orphans below it fall (PR_SET_CHILD_SUBREAPER), and whatever
the program did, all of it stays below here. Standard library alone, so that it starts in a few milliseconds.

Everything is ended

- when the program has ended, and what it left has had LINGER_S to say its last words;
- when LIFE, a pipe, is at its end: the caller wants no more, or is dead. So nothing outlives a killed collector.

On REPORT, another pipe, stands one line: `exit CODE`, `signal NUMBER`, `ended` (on demand) or `errno NUMBER` (it could
not be started), and behind it the number of processes that could not be ended. That can only be those of another user,
which somebody let the program become.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import time

PR_SET_CHILD_SUBREAPER = 36
LINGER_S = 0.5
LOOK_MS = 20
ROUNDS_MAX = 50
ROUND_S = 0.02
"""What is below is killed in rounds, because it may fork meanwhile: a second in all."""


def main(arguments: list[str]) -> int:
    """Run it."""
    life, report, argv = int(arguments[0]), int(arguments[1]), arguments[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        return say(report, f"errno {ctypes.get_errno()}", 0)
    os.set_inheritable(life, False)
    os.set_inheritable(report, False)
    try:
        program = os.posix_spawn(argv[0], argv, os.environ, setsid=True)
    except OSError as exc:
        return say(report, f"errno {exc.errno}", 0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    word = watch(program, life)
    return say(report, word, end_all())


def watch(program: int, life: int) -> str:
    """Wait for the program, then a moment for what it left behind; what became of it."""
    poll = select.poll()
    poll.register(life, select.POLLIN)
    try:
        handle = os.pidfd_open(program)
        poll.register(handle, select.POLLIN)
    except OSError:  # A sandbox that does not know the call: look now and then.
        handle = -1
    while True:
        ended, status = os.waitpid(program, os.WNOHANG)
        if ended:
            break
        if life in {number for number, _ in poll.poll(None if handle >= 0 else LOOK_MS)}:
            return "ended"
    if handle >= 0:
        poll.unregister(handle)
    word = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
    until = time.monotonic() + LINGER_S
    while reap() and time.monotonic() < until and not poll.poll(10):
        pass
    return word


def reap() -> bool:
    """Take note of those that have ended; whether any is left."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return True
        except ChildProcessError:
            return False


def end_all() -> int:
    """Kill everything below us; how many could not be ended."""
    for _ in range(ROUNDS_MAX):
        if not reap():
            return 0
        for pid in below():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(ROUND_S)
    return len(below()) if reap() else 0


def below() -> list[int]:
    """Every process that descends from us. One that is born meanwhile is found in the next round."""
    parents = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib costs half of this script's start.
        if name.isdecimal():
            with (
                contextlib.suppress(OSError, ValueError, IndexError),
                open(f"/proc/{name}/stat", "rb") as file,
            ):
                parents[int(name)] = int(file.read(4096).rpartition(b")")[2].split()[1])
    found = [os.getpid()]
    for one in found:
        found += [pid for pid, parent in parents.items() if parent == one]
    return found[1:]


def say(report: int, word: str, left: int) -> int:
    """The one line. The caller may be dead."""
    with contextlib.suppress(OSError):
        os.write(report, f"{word} {left}\n".encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
