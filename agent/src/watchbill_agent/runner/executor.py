"""The supervisor's process: `python -m watchbill_agent.runner.executor [--home DIR] KEY`. Its command line holds
nothing but the key: what to run stands in the key's room.

1. Take the room's lock. Whoever finds it free later knows that nobody is at work.
2. Look whether the ledger accepted this key and says nothing further: else somebody was here before, and we end.
3. Look at executable, user and secrets. What is wrong with them ends the command, and nothing was begun.
4. Write `started`, durable. From here on it may have begun.
5. Begin it, see it to its end.
6. Write the event and then `finished`, each durable.

`--reading` instead of a key takes a task on standard input and prints how it ended: for what the agent may have read.
"""

import argparse
import base64
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from watchbill.actions.outcomes import DETAIL_CHARACTERS_MAX, Finished, Outcome
from watchbill.clock import Clock, SystemClock
from watchbill.homes import Homes
from watchbill_agent.runner import tree
from watchbill_agent.runner.boot import boot_id
from watchbill_agent.runner.capture import Capture, told
from watchbill_agent.runner.cells import Disk, SystemDisk
from watchbill_agent.runner.child import CannotBegin
from watchbill_agent.runner.job import Job, read_task
from watchbill_agent.runner.ledger import Ledger, Progress
from watchbill_agent.runner.rooms import Rooms
from watchbill_agent.runner.supervising import Ended, Supervisor, prepare
from watchbill_agent.runner.trusted import NotTrusted

LOCK_S: Final = 5.0
"""The runner holds a lock for a moment when it looks; longer, and somebody is at work."""
LOCK_AGAIN_S: Final = 0.02
TASK_BYTES_MAX: Final = 1024 * 1024
DONE, NOTHING_TO_DO, OCCUPIED = 0, 3, 4


@dataclass(slots=True)
class Place:
    """What stands on the disk."""

    ledger: Ledger
    rooms: Rooms


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, or one reading."""
    parser = argparse.ArgumentParser(prog="watchbill-runner-executor", add_help=False)
    parser.add_argument("--home", type=Path)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--reading", action="store_true")
    what.add_argument("key", nargs="?")
    arguments = parser.parse_args(argv)
    homes = Homes.resolve("runner", arguments.home, {})
    if arguments.reading:
        return read(homes.etc)
    return execute(homes, arguments.key, SystemDisk(), SystemClock())


def execute(homes: Homes, key: str, disk: Disk, clock: Clock) -> int:
    """Run the command of a key, unless somebody does or did."""
    os.chdir("/")
    supervisor = Supervisor()
    rooms = Rooms.open(disk, homes.var)
    room = next((room for room, job in rooms.jobs().items() if job.key == key), None)
    if room is None:
        return NOTHING_TO_DO
    if not _lock(rooms, room):
        return OCCUPIED
    # Opened under the lock, so that it says what whoever had the lock before has written.
    ledger = Ledger.join(disk, homes.var)
    job, entry = rooms.job(room), ledger.find(key)
    if job is None or job.key != key or entry is None or entry.reason or ledger.progress(entry) is not None:
        return NOTHING_TO_DO
    started = Progress(
        key=key, boot=boot_id(), pid=os.getpid(), born=tree.born(os.getpid()), started_ms=clock.wall_ms()
    )
    try:
        ready = prepare(job.task, homes.etc, job.marks())
        ledger.advance(entry, started)
        ended = supervisor.run(ready)
    except (CannotBegin, NotTrusted) as exc:
        ended = Ended(Outcome.FAILED, _nothing(), _nothing(), detail=str(exc))
    finish(Place(ledger, rooms), room, job, started, ended, clock.wall_ms())
    return DONE


def finish(place: Place, room: int, job: Job, started: Progress, ended: Ended, now_ms: int) -> None:
    """Write how it ended: the event first, then that there is one. For who holds the room's lock."""
    entry = place.ledger.find(job.key)
    assert entry is not None, "a room belongs to a decision"
    finished = finished_event(job, started, ended, now_ms)
    place.rooms.keep_result(room, job.key, finished.to_json())
    place.ledger.advance(
        entry,
        Progress(
            key=job.key,
            boot=started.boot,
            pid=started.pid,
            born=started.born,
            started_ms=started.started_ms,
            outcome=ended.outcome.value,
            ended_ms=now_ms,
            exit_code=ended.exit_code,
            signal=ended.signal,
            output_bytes=finished.output_bytes,
            output_digest=finished.output_digest,
        ),
    )


def finished_event(job: Job, started: Progress, ended: Ended, now_ms: int) -> Finished:
    """As it will be told."""
    output, errors, whole = told(ended.output, ended.errors, job.task.output_max)
    return Finished(
        key=job.key,
        run=job.run,
        step=job.step,
        ledger=job.ledger,
        outcome=ended.outcome,
        started_ms=started.started_ms,
        ended_ms=now_ms,
        exit_code=ended.exit_code,
        signal=ended.signal,
        output=output,
        errors=errors,
        whole=whole,
        output_bytes=ended.output.bytes + ended.errors.bytes,
        output_digest=ended.output.digest,
        detail=ended.detail[:DETAIL_CHARACTERS_MAX],
    )


def nothing_known(detail: str) -> Ended:
    """It may have begun, and whoever saw to it is gone."""
    return Ended(Outcome.INTERRUPTED, _nothing(), _nothing(), detail=detail)


def not_begun(detail: str) -> Ended:
    """Nothing was run, and that is certain."""
    return Ended(Outcome.FAILED, _nothing(), _nothing(), detail=detail)


def _nothing() -> Capture:
    return Capture(0)


def read(etc: Path) -> int:
    """A task from standard input to its end; the answer is one JSON document on standard output."""
    supervisor = Supervisor()
    task = read_task(sys.stdin.buffer.read(TASK_BYTES_MAX))
    try:
        ended = supervisor.run(prepare(task, etc))
    except (CannotBegin, NotTrusted) as exc:
        ended = not_begun(str(exc))
    answer = {
        "outcome": ended.outcome.value,
        "exit_code": ended.exit_code,
        "signal": ended.signal,
        "output": base64.b64encode(bytes(ended.output.kept)).decode(),
        "errors": bytes(ended.errors.kept[-DETAIL_CHARACTERS_MAX:]).decode("utf-8", "replace"),
        "whole": ended.output.whole,
        "output_bytes": ended.output.bytes,
        "detail": ended.detail[:DETAIL_CHARACTERS_MAX],
    }
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    return DONE


def _lock(rooms: Rooms, room: int) -> bool:
    until_s = time.monotonic() + LOCK_S
    while not rooms.lock(room):
        if time.monotonic() >= until_s:
            return False
        time.sleep(LOCK_AGAIN_S)
    return True


if __name__ == "__main__":
    sys.exit(main())
