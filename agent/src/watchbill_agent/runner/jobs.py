"""Jobs in their rooms: what goes on is looked after, its end is written down, and kept until it was fetched.

Whether a supervisor lives, the lock of its room says; how far its command came, the ledger. What nobody sees to any
more has ended, and nobody knows how. A room is left once what was told of it is safe elsewhere.
"""

import contextlib
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from watchbill.actions import outcomes
from watchbill.clock import Clock
from watchbill.logs import fields
from watchbill_agent.runner import bounds, tree
from watchbill_agent.runner.event import Event
from watchbill_agent.runner.executor import Place, finish, not_begun, nothing_known
from watchbill_agent.runner.job import Job
from watchbill_agent.runner.ledger import Entry, Ledger, Progress
from watchbill_agent.runner.retold import from_ledger
from watchbill_agent.runner.rooms import Rooms
from watchbill_agent.runner.supervising import CANCEL, Ended
from watchbill_agent.runner.telling import Notes

log = logging.getLogger(__name__)

GONE: Final = "its supervisor is gone, and nobody saw how it ended"
NEVER_SEEN: Final = "it was accepted, and nothing says that it began"


@dataclass(slots=True)
class Store:
    """The runner's files, open."""

    ledger: Ledger
    rooms: Rooms
    notes: Notes

    def close(self) -> None:
        """Give them back."""
        self.ledger.close()
        self.rooms.close()
        self.notes.close()


@dataclass(slots=True)
class Running:
    """A job whose end is not written down. `asked_s`: since when a supervisor is expected."""

    job: Job
    asked_s: float
    cancel: bool = False


@dataclass(slots=True)
class Finished:
    """A job whose end waits to be fetched, as it will be told."""

    job: Job
    result: Event


class Jobs:
    """See the module. `store` is handed in each time: it is opened anew when the disk failed under it."""

    def __init__(self, clock: Clock, boot: str) -> None:
        self._clock = clock
        self._boot = boot
        self._going: dict[int, Running] = {}
        self._finished: dict[int, Finished] = {}
        self._accepted_told: set[int] = set()
        self._result_told: set[int] = set()

    def adopt(self, store: Store) -> None:
        """What another runner left behind, by its key; nothing else is known any more."""
        self._going.clear()
        self._finished.clear()
        self._accepted_told.clear()
        self._result_told.clear()
        for room, job in store.rooms.jobs().items():
            entry = store.ledger.find(job.key)
            if entry is None or entry.reason:
                store.rooms.leave(room)  # Written down before the decision, which was never made.
            else:
                self.put(room, job)

    def put(self, room: int, job: Job) -> None:
        """It was decided on: from now on it is looked after."""
        self._going[room] = Running(job, self._clock.monotonic_s())

    def never_began(self, store: Store, room: int, why: str) -> list[Event]:
        """Nobody could be asked to begin it; its end, when that is there."""
        self._end(store, room, self._going[room], not_begun(why))
        return [self._finished[room].result] if room in self._finished else []

    def cancel(self, key: str) -> bool:
        """Whether something goes on under this key; it is ended at the next look."""
        for running in self._going.values():
            if running.job.key == key:
                running.cancel = True
                return True
        return False

    # ------------------------------------------------------------ rooms

    @property
    def running(self) -> Mapping[int, Job]:
        """What goes on, by its room."""
        return {room: one.job for room, one in self._going.items()}

    def empty(self, store: Store) -> int:
        """How many rooms are empty."""
        return sum(
            1 for room in range(store.rooms.count) if room not in self._going and room not in self._finished
        )

    def empty_room(self, store: Store) -> int:
        """One of them."""
        taken = self._going.keys() | self._finished.keys()
        return next(room for room in range(store.rooms.count) if room not in taken)

    # ------------------------------------------------------------ what is told

    def waiting(self) -> list[Event]:
        """Events that were not confirmed, those of one command in their order."""
        return [event for _, event in self._waiting_in_rooms()]

    def waiting_of(self, key: str) -> list[Event]:
        """Those of one command."""
        return [event for room, event in self._waiting_in_rooms() if self._key_in(room) == key]

    def confirm(self, ids: Iterable[bytes], store: Store | None) -> None:
        """These are safe elsewhere."""
        by_id = {event.id: (room, event) for room, event in self._waiting_in_rooms()}
        for event_id in ids:
            if event_id in by_id:
                room, event = by_id[event_id]
                accepted = event.kind != outcomes.COMMAND_FINISHED
                (self._accepted_told if accepted else self._result_told).add(room)
        if store is not None:
            self._leave_rooms(store)

    def _key_in(self, room: int) -> str:
        found = self._going.get(room) or self._finished.get(room)
        return "" if found is None else found.job.key

    def _waiting_in_rooms(self) -> list[tuple[int, Event]]:
        found: list[tuple[int, Event]] = []
        jobs = {room: one.job for room, one in self._going.items()}
        jobs |= {room: one.job for room, one in self._finished.items()}
        for room, job in sorted(jobs.items(), key=lambda each: each[1].at_ms):
            if room not in self._accepted_told:
                found.append((room, job.begun()))
            if room in self._finished and room not in self._result_told:
                found.append((room, self._finished[room].result))
        return found

    def _leave_rooms(self, store: Store) -> None:
        for room in list(self._finished):
            if room in self._accepted_told and room in self._result_told:
                with contextlib.suppress(OSError):
                    store.rooms.leave(room)
                del self._finished[room]
                self._accepted_told.discard(room)
                self._result_told.discard(room)

    # ------------------------------------------------------------ looking after what runs

    def look(self, store: Store) -> None:
        """See what has ended, and what nobody sees to any more. Raises OSError."""
        for room, running in list(self._going.items()):
            self._look_at(store, room, running)

    def _look_at(self, store: Store, room: int, running: Running) -> None:
        job = running.job
        entry = store.ledger.find(job.key)
        assert entry is not None, "a room belongs to a decision"
        progress = store.ledger.progress(entry)
        if isinstance(progress, Progress) and progress.outcome:
            self._close(store, room, running, progress)
            return
        if running.cancel and isinstance(progress, Progress) and tree.born(progress.pid) == progress.born:
            running.cancel = False
            with contextlib.suppress(ProcessLookupError):
                os.kill(progress.pid, CANCEL)
        waits = progress is None and job.boot == self._boot
        if waits and self._clock.monotonic_s() - running.asked_s < bounds.START_S:
            return
        with store.rooms.locked(room) as free:
            if not free:
                return
            # Nobody can be at work now; but somebody may have ended between our two looks.
            progress = store.ledger.progress(entry)
            if not (isinstance(progress, Progress) and progress.outcome):
                self._end(
                    store, room, running, nothing_known(NEVER_SEEN if progress is None else GONE), locked=True
                )
                return
        self._close(store, room, running, progress)

    def _end(self, store: Store, room: int, running: Running, ended: Ended, *, locked: bool = False) -> None:
        """Write an end for a command that has no supervisor."""
        job = running.job
        if not locked:
            with store.rooms.locked(room) as free:
                if free:
                    self._end(store, room, running, ended, locked=True)
            return
        entry = store.ledger.find(job.key)
        assert entry is not None, "a room belongs to a decision"
        progress = store.ledger.progress(entry)
        kept = store.rooms.result(room, job.key)
        started = progress if isinstance(progress, Progress) else _never_started(job)
        if kept is not None:
            # Its supervisor wrote the result and died before it could say that there is one.
            found = outcomes.read_finished(kept)
            self._write_progress(store, entry, started, found)
        else:
            finish(Place(store.ledger, store.rooms), room, job, started, ended, self._clock.wall_ms())
        written = store.ledger.progress(entry)
        assert isinstance(written, Progress), "it was just written"
        self._close(store, room, running, written)

    def _write_progress(
        self, store: Store, entry: Entry, started: Progress, found: outcomes.Finished
    ) -> None:
        store.ledger.advance(
            entry,
            Progress(
                key=entry.key,
                boot=started.boot,
                pid=started.pid,
                born=started.born,
                started_ms=found.started_ms,
                outcome=found.outcome.value,
                ended_ms=found.ended_ms,
                exit_code=found.exit_code,
                signal=found.signal,
                output_bytes=found.output_bytes,
                output_digest=found.output_digest,
            ),
        )

    def _close(self, store: Store, room: int, running: Running, progress: Progress) -> None:
        """What ran has ended: its result waits to be fetched."""
        job = running.job
        payload = store.rooms.result(room, job.key)
        if payload is None:
            # Its cell is damaged: what the ledger has of it is told.
            why = "what it printed is damaged"
            payload = from_ledger(job.key, job.run, job.step, job.ledger, progress, why).to_json()
        del self._going[room]
        self._finished[room] = Finished(job, Event(outcomes.COMMAND_FINISHED, payload))
        log.info("ended", extra=fields(action=job.action, outcome=progress.outcome, key=job.key))


def _never_started(job: Job) -> Progress:
    return Progress(key=job.key, boot=job.boot, pid=0, born=0, started_ms=job.at_ms)
