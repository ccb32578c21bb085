"""What a check's command leaves behind that went out of its process group: found by a mark, killed, reaped.

1. This process is a subreaper: who forks twice to get away becomes its child.
2. Each run of a command has a mark in its environment, which its children have too.
3. After the run, whichever of our children bears the mark is killed, and what that leaves becomes our child in turn.
4. A child that ended by itself shows no environment any more. It is reaped when it is of the run's session, else when
   nobody else has reaped it for a while.

5. A process that was killed could not end its commands: the next one does, by the number of a process that is gone in
   their mark.

Out of reach is what empties its environment and forks twice besides; with systemd it ends with the agent.
"""

import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Container
from pathlib import Path
from typing import Final

from watchbill_agent.runner.tree import become_subreaper

MARK: Final = "WATCHBILL_CHECK_RUN"
STRAYS_MAX: Final = 4_096
"""Children that one sweep looks at; the others are left to the next."""
ZOMBIE_S: Final = 10.0
"""Whoever started a process reaps it sooner than that."""
CHILDREN_BYTES: Final = 64 * 1024
_ENVIRON_BYTES: Final = 256 * 1024
_TASKS: Final = "/proc/self/task"

_numbers = itertools.count(1)
_zombies: dict[int, float] = {}
"""Ended children that nobody has reaped, and when they were seen first."""
_adopting = False


def new_mark() -> str:
    """Of one run, unique on this host while it lasts. From the first on, strays come to this process."""
    global _adopting
    if not _adopting:
        with contextlib.suppress(OSError):  # A kernel without: strays go to init, as ever.
            become_subreaper()
        threading.Thread(target=end_abandoned, name="abandoned commands", daemon=True).start()
        _adopting = True
    return f"{os.getpid()}-{next(_numbers)}"


class Strays:
    """Of one run of a command, whose first process was `leader`."""

    def __init__(self, mark: str, leader: int) -> None:
        self._wanted = f"{MARK}={mark}\0".encode()
        self._sessions = {leader}
        self._killed: set[int] = set()

    def sweep(self, ours: Container[int]) -> int:
        """Kill and reap them; how many there were. After none there are none, since the children of each become ours
        when it is killed. `ours` are processes that this one started itself."""
        found = 0
        seen = children()
        for pid in seen[:STRAYS_MAX]:
            if pid in ours:
                continue
            state, session = _state(pid)
            if state == b"Z":
                if session in self._sessions or pid in self._killed or _is_nobodys(pid):
                    _reap(pid)
            elif session in self._sessions or _bears(pid, self._wanted):
                found += 1
                self._sessions.add(session)
                self._killed.add(pid)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
                    _reap(pid)
        for pid in _zombies.keys() - set(seen):
            del _zombies[pid]
        return found


def end_abandoned() -> int:
    """Kill what is left of commands whose starter is gone; how many. In a thread: reading an environment may take its
    time."""
    killed = 0
    with os.scandir("/proc") as entries:
        pids = [int(entry.name) for entry in entries if entry.name.isdigit()]
    for pid in pids:
        try:
            environment = _read(f"/proc/{pid}/environ", _ENVIRON_BYTES)
        except OSError:
            continue
        _, found, rest = environment.partition(f"{MARK}=".encode())
        starter = rest.partition(b"-")[0]
        # Asked again, since a starter may have begun while the others were listed.
        if found and starter.isdigit() and not Path(f"/proc/{int(starter)}").exists():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
                killed += 1
    return killed


def children() -> list[int]:
    """The children of this process, in whichever thread they were born. Empty where the kernel does not tell."""
    found: list[int] = []
    try:
        with os.scandir(_TASKS) as threads:
            for thread in threads:
                found += map(int, _read(f"{thread.path}/children", CHILDREN_BYTES).split())
    except OSError:
        return found  # A thread that has just ended, or a kernel that does not tell.
    return found


def _bears(pid: int, wanted: bytes) -> bool:
    try:
        return wanted in _read(f"/proc/{pid}/environ", _ENVIRON_BYTES)
    except OSError:
        return False


def _is_nobodys(pid: int) -> bool:
    now_s = time.monotonic()
    return now_s - _zombies.setdefault(pid, now_s) > ZOMBIE_S


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _state(pid: int) -> tuple[bytes, int]:
    """State and session. A name may hold anything: its last parenthesis ends it."""
    try:
        words = _read(f"/proc/{pid}/stat", 4096).rpartition(b")")[2].split()
        return words[0], int(words[3])
    except (OSError, IndexError, ValueError):
        return b"", 0


def _read(path: str, size: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, size)
    finally:
        os.close(descriptor)
