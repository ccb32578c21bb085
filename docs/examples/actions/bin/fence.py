#!/usr/bin/python3 -I
"""fence.py CONFIG off|on|state|clear NODE: cut a database off and prove it; for actions.d, as root.

1. The mark first, durable: whoever starts the node from now on is refused (pg.py start; on a host also a drop-in with
   ConditionPathExists=!/var/lib/watchbill-fenced/NODE for the service).
2. Every process that works in the data directory is killed, until a whole look finds none.
3. `state` looks anew; it says "off" only with the mark in place and nothing at work.

`on` takes back what `off` of the same run did; `clear` takes the mark from a cluster that would come up as a standby.
Prints one JSON document. This ends processes of this machine: it stands for a power switch, an API, a fenced network.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any, NoReturn

KILL_S = 20.0
KILL_AGAIN_S = 0.1
START_S = 60
NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def fail(message: str, code: int = 1) -> NoReturn:
    """End here."""
    print(message, file=sys.stderr)
    raise SystemExit(code)


class Node:
    """What the configuration lets be cut off."""

    def __init__(self, config: dict[str, Any], name: str) -> None:
        found = config["fence"]["nodes"].get(name)
        if not NODE.fullmatch(name) or found is None:
            fail(f"{name!a} is none of the nodes that can be fenced from here", 2)
        self.name, self.data = name, Path(found["data"])
        self.launch = [str(one) for one in found.get("start", [])]
        self.mark = Path(config["fence"]["marks"]) / name

    def at_work(self) -> list[int]:
        """Processes whose directory is the data directory: every one of a PostgreSQL server goes there, and stays. It
        runs as the directory's owner or not at all, so nobody else's need to be looked at."""
        where = self.data.stat()
        found = []
        for place in Path("/proc").iterdir():
            if not place.name.isdigit():
                continue
            try:
                status = (place / "status").read_text()
                if f"\nUid:\t{where.st_uid}\t" not in status or "\nState:\tZ" in status:
                    continue
                here = (place / "cwd").stat()
            except (FileNotFoundError, ProcessLookupError):
                continue
            except PermissionError:
                fail(
                    f"process {place.name} is of {self.data}'s owner and cannot be looked at: nothing is proved"
                )
            if (here.st_dev, here.st_ino) == (where.st_dev, where.st_ino):
                found.append(int(place.name))
        return found

    def marked(self) -> dict[str, Any] | None:
        """What the mark says; None without one."""
        try:
            found: dict[str, Any] = json.loads(self.mark.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            return {"run": "", "at": 0}
        return found


def off(node: Node) -> dict[str, Any]:
    """The mark, then the end of everything."""
    if node.marked() is None:
        write_mark(node)
    until_s = time.monotonic() + KILL_S
    killed = set()
    while left := node.at_work():
        if time.monotonic() > until_s:
            fail(f"still at work: {left}")
        for pid in left:
            killed.add(pid)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(KILL_AGAIN_S)
    return {**state(node), "killed": len(killed)}


def write_mark(node: Node) -> None:
    """Whole or not at all, and on the disk before anything is killed."""
    node.mark.parent.mkdir(mode=0o755, exist_ok=True)
    fresh = node.mark.with_name(f".{node.name}.{os.getpid()}")
    with open(fresh, "w") as file:
        json.dump({"run": os.environ.get("WATCHBILL_RUN", ""), "at": int(time.time())}, file)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(node.mark)
    directory = os.open(node.mark.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def state(node: Node) -> dict[str, Any]:
    """As it is now."""
    work, mark = node.at_work(), node.marked()
    power = "off" if mark is not None and not work else "on"
    return {"node": node.name, "power": power, "processes": len(work), "fenced_in": mark and mark.get("run")}


def on(node: Node) -> dict[str, Any]:
    """Only what this very run took: somebody else's fence is somebody else's to take down."""
    mark = node.marked()
    run = os.environ.get("WATCHBILL_RUN", "")
    if mark is not None:
        if not run or mark.get("run") != run:
            fail(f"{node.name} was fenced in run {mark.get('run')}, not in this one")
        node.mark.unlink()
    if node.launch and not node.at_work():
        done = subprocess.run(node.launch, capture_output=True, text=True, timeout=START_S, check=False)
        if done.returncode:
            fail(f"{node.launch[0]}: {done.stderr.strip()}")
    return state(node)


def clear(node: Node) -> dict[str, Any]:
    """Of a standby alone: as a primary it would be the second one."""
    if not (node.data / "standby.signal").exists():
        fail(f"{node.name} would come up as a primary: rejoin or rebuild it first")
    node.mark.unlink(missing_ok=True)
    return state(node)


WORDS = {"off": off, "on": on, "state": state, "clear": clear}


def main(arguments: list[str]) -> int:
    """See the module."""
    if len(arguments) != 3 or arguments[1] not in WORDS:
        fail(__doc__ or "", 2)
    try:
        with open(arguments[0], "rb") as file:
            node = Node(tomllib.load(file), arguments[2])
    except (OSError, ValueError, KeyError) as exc:
        fail(f"{arguments[0]}: {exc}", 2)
    print(json.dumps(WORDS[arguments[1]](node)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
