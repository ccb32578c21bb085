"""A story of commits, merges and trims, and the program that dies in it: `python -m tests.history.killed`.

It reads `[n, directory]` a line, lets a child tell the story there that is killed before its n-th statement or
removal, and answers with what the child said and how it ended. It is a process of its own because it forks: the
tests' has threads, of gRPC among others, and a child of such a one may stand still for ever.
"""

import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

from watchbill.clock import ManualClock
from watchbill_collector.history import History, HistoryOptions, local
from watchbill_collector.series import SeriesTable

from .conftest import START_MS as START
from .conftest import Fleet

NAMES = ["load", "temp"]


def few_statements(set_to: Callable[[object, str, object], None]) -> None:
    """All of the story in few statements: small blocks at once, one sender a slice, raw rows trimmed each time."""
    set_to(local, "FLUSH_WAIT_S", 0.0)
    set_to(local, "SLICE_OWNERS", 1)


def opened(directory: Path, clock: ManualClock) -> Fleet:
    """The history there."""
    table = SeriesTable()
    options = HistoryOptions(ballast_bytes=0, free_share_min=0.0)
    return Fleet(table, History.open(directory, table, clock, options), clock)


def merge_all(history: History, clock: ManualClock) -> None:
    while history.merge(clock.wall_ms()):
        pass


def story(fleet: Fleet, said: Callable[[str], None]) -> None:
    """A little of everything; `said` hears what is on disk for certain."""
    clock, history = fleet.clock, fleet.history
    for number in range(1, 11):
        begin = START + 600_000 * number
        batch = [fleet.ticks(host, NAMES, [begin - 300_000, begin], base=number * 1e6) for host in "ab"]
        if number == 3:  # Often for some time: a fast list, until late readings make it a slow one.
            batch.append(fleet.ticks("a", NAMES, [START + 1_000_000 + 1_000 * i for i in range(90)]))
        if number == 8:
            batch.append(fleet.ticks("a", NAMES, [START + 61_000 + 60_000 * i for i in range(59)], base=0.5))
            # And the other way round.
            batch.append(fleet.ticks("b", NAMES, [START + 1_000_000 + 1_000 * i for i in range(90)]))
        if number == 9:  # Late, and with another list.
            batch.append(fleet.ticks("a", [*NAMES, "new"], [START + 60_000, START + 300_000], base=0.25))
        fleet.commit(*batch, marks={"a": number, "b": number})
        said(f"commit {number}")
        clock.advance(600)
        merge_all(history, clock)
        said(f"merge {number}")
    history.retain(clock.wall_ms())
    history.close()


def die_in_it(directory: Path, at: int, said: Callable[[str], None]) -> None:
    """The story, up to a statement or removal."""
    left = at

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    connect = sqlite3.connect

    def traced(*args: object, **kwargs: object) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)  # type: ignore[call-overload]
        connection.set_trace_callback(count)
        return connection  # type: ignore[no-any-return]

    sqlite3.connect = traced  # type: ignore[assignment]
    sys.addaudithook(lambda event, _: count() if event in ("os.remove", "os.rename") else None)
    story(opened(directory, ManualClock(wall_ms=START, boottime_ms=10_000_000)), said)


def run(directory: Path, at: int) -> tuple[list[str], int]:
    """In a child: what it said, and how it ended, below 0 by a signal."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 3
        try:
            die_in_it(
                directory, at, lambda what: print(what, file=os.fdopen(os.dup(writing), "w"), flush=True)
            )
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as lines:
        said = lines.read().splitlines()
    return said, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    few_statements(setattr)
    for line in sys.stdin:
        number, place = json.loads(line)
        print(json.dumps(run(Path(place), number)), flush=True)
