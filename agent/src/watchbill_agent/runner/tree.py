"""The processes that a supervisor has to answer for: its children, theirs, and those whose parents are gone.

It is their subreaper: whoever forks twice to get away becomes its child. What goes on is found in /proc.
"""

import contextlib
import ctypes
import os
import signal
from pathlib import Path
from typing import Final

PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38


def become_subreaper() -> None:
    """Orphans below this process come to it. Raises OSError."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def give_up_privileges() -> None:
    """Nothing that this process or its children run gives them rights that they do not have. Raises OSError."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def die_with_parent() -> None:
    """SIGKILL when the parent dies. Forgotten when the user changes, so it comes after that. Raises OSError."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), *(ctypes.c_ulong(0),) * 3) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def born(pid: int) -> int:
    """When a process began, in ticks since boot: with its number it names it. 0 when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


def below(pid: int) -> list[int]:
    """All processes below one."""
    children: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            # The name of a process may hold anything, brackets too: the last one ends it.
            parent = int((place / "stat").read_bytes().rpartition(b")")[2].split()[1])
            children.setdefault(parent, []).append(int(place.name))
    found, todo = [], [pid]
    while todo:
        for child in children.get(todo.pop(), ()):
            found.append(child)
            todo.append(child)
    return found


def signal_all(number: int) -> int:
    """Send a signal to every process below this one; how many there were."""
    found = below(os.getpid())
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    return len(found)
