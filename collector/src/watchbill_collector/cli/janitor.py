"""Cleans up after a demo that was killed and could not do it itself.

A program of its own, on the standard library alone: it holds the reading end of a pipe whose other end the
demo holds. The demo writes a line `process PID START` for each process it starts, and `done` when it has
cleaned up. When the pipe ends without that, the demo is gone: its processes are asked to end, then made to,
and its files are removed.

    python janitor.py DEMO_PID DEMO_FILE HOME     (HOME may be empty: nothing to remove)

The demo file is removed if it is that demo's: a user may have several.

A process is the one meant only if it started when the demo said (field 22 of /proc/PID/stat): numbers are
used again.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

GRACE_S = 10.0
POLL_S = 0.1


def start_of(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty when it is gone or only waits to be collected."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode("ascii")


def main() -> None:
    """Wait for the pipe to end, then clean up if nobody has."""
    demo_pid, demo_file, home = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)  # Whoever ends the demo's group must not end its cleaning first.
    processes: list[tuple[int, str]] = []
    for line in sys.stdin:
        words = line.split()
        if words == ["done"]:
            return
        if len(words) == 3 and words[0] == "process" and words[1].isdigit():
            processes.append((int(words[1]), words[2]))
    end(processes)
    if home:
        shutil.rmtree(home, ignore_errors=True)
    forget(demo_file, demo_pid)


def forget(demo_file: Path, demo_pid: int) -> None:
    """Remove the file of that demo, and the directory that was made for it."""
    with contextlib.suppress(OSError, ValueError):
        document = json.loads(demo_file.read_bytes())
        if isinstance(document, dict) and document.get("pid") == demo_pid:
            demo_file.unlink()
            if demo_file.parent.name == f"watchbill-{os.getuid()}":
                demo_file.parent.rmdir()


def end(processes: list[tuple[int, str]]) -> None:
    """End processes: the last started first, politely, then not."""
    for wanted, patience_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
        deadline_s = time.monotonic() + patience_s
        for pid, start in reversed(processes):
            if start_of(pid) == start:
                with contextlib.suppress(OSError):
                    os.kill(pid, wanted)
        while any(start_of(pid) == start for pid, start in processes):
            if time.monotonic() > deadline_s:
                break
            time.sleep(POLL_S)


if __name__ == "__main__":
    main()
