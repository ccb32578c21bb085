"""What hosts say of their backups: judged at the door, and written in the transaction that commits it.

At the door: an event that cannot be read, or one job more than a host may have, is refused there under that host's
name, before anything of it is kept. A host speaks of its own jobs alone: whose they are is said by its certificate.

In the transaction: the event, what it means for the tables of backups, and the watermark of its stream are written
together or not at all. So whoever kills us between two steps finds each record once, or finds the agent sending it
again.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

import msgspec
import sqlalchemy as sa

from watchbill.backups.bounds import LEVEL_CHARACTERS_MAX, TEXT_CHARACTERS_MAX
from watchbill.backups.definition import (
    DIGEST_CHARACTERS,
    JOB_NAME_CHARACTERS_MAX,
    JOBS_MAX,
    Definition,
    read_definition,
)
from watchbill.backups.record import BACKUP_DEFINED, BACKUP_JOBS, BACKUP_RECORD, Record, read_record
from watchbill.backups.requests import (
    BACKUP_ANSWERED,
    BEGUN,
    REASON_CHARACTERS_MAX,
    REFUSED,
    WHY_CHARACTERS_MAX,
)
from watchbill.errors import Unreadable
from watchbill_collector.ingest.ports import CritEvent
from watchbill_collector.ingest.session import RecordRefused
from watchbill_collector.services.backup_requests import Answered
from watchbill_collector.store import backups as rows
from watchbill_collector.store.text import harmless

BACKUP_KINDS: Final = frozenset({BACKUP_JOBS, BACKUP_DEFINED, BACKUP_RECORD, BACKUP_ANSWERED})
NAMES_PER_HOST_MAX: Final = 2 * JOBS_MAX
"""Jobs that a host may have had, those that are gone included; the next is refused."""
UNREADABLE: Final = "backup_event"
"""Why something is refused that is no event of a backup."""
TOO_MANY: Final = "backup_jobs"
"""Why one job more is refused."""


@dataclass(frozen=True, slots=True)
class JobsTold:
    """All jobs of a host: the digests of their definitions by their names."""

    digests: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Defined:
    """A version of a definition, by the digest that its host gives it."""

    definition: Definition
    digest: str


BackupEvent: TypeAlias = JobsTold | Defined | Record | Answered


class _Jobs(msgspec.Struct):
    jobs: dict[str, str]


class _Defined(msgspec.Struct):
    definition: msgspec.Raw
    digest: str


class _Answered(msgspec.Struct):
    request: str
    job: str
    answer: str
    level: str = ""
    copy: str = ""
    reason: str = ""
    why: str = ""


def read_backup_event(kind: str, event_id: bytes, payload: bytes) -> BackupEvent:
    """An event of one of BACKUP_KINDS. Raises Unreadable."""
    if kind == BACKUP_RECORD:
        record = read_record(payload)
        if record.record_id != event_id.hex():
            raise Unreadable("a backup's record: its id is not its event's")
        return record
    try:
        if kind == BACKUP_ANSWERED:
            return _judged_answer(event_id, msgspec.json.decode(payload, type=_Answered))
        if kind == BACKUP_JOBS:
            return _judged_list(msgspec.json.decode(payload, type=_Jobs).jobs)
        told = msgspec.json.decode(payload, type=_Defined)
    except (msgspec.DecodeError, ValueError) as exc:
        raise Unreadable(f"{kind}: {exc}") from exc
    _judge_digest(told.digest)
    return Defined(read_definition(bytes(told.definition)), told.digest)


def _judged_list(digests: Mapping[str, str]) -> JobsTold:
    if len(digests) > JOBS_MAX:
        raise Unreadable(f"{BACKUP_JOBS}: {len(digests)} jobs, at most {JOBS_MAX} of a host")
    for job, digest in digests.items():
        if not 0 < len(job) <= JOB_NAME_CHARACTERS_MAX or not job.isprintable():
            raise Unreadable(f"{BACKUP_JOBS}: a name of 1 to {JOB_NAME_CHARACTERS_MAX} characters is wanted")
        _judge_digest(digest)
    return JobsTold(digests)


def _judged_answer(event_id: bytes, told: _Answered) -> Answered:
    if told.request != event_id.hex():
        raise Unreadable(f"{BACKUP_ANSWERED}: its request is not its event's id")
    if not 0 < len(told.job) <= JOB_NAME_CHARACTERS_MAX or told.answer not in (BEGUN, REFUSED):
        raise Unreadable(f"{BACKUP_ANSWERED}: a job's name and an answer, {BEGUN} or {REFUSED}, are wanted")
    return Answered(
        told.request,
        told.job,
        told.answer,
        harmless(told.level, LEVEL_CHARACTERS_MAX),
        harmless(told.copy, TEXT_CHARACTERS_MAX),
        harmless(told.reason, REASON_CHARACTERS_MAX),
        harmless(told.why, WHY_CHARACTERS_MAX),
    )


def _judge_digest(digest: str) -> None:
    if not 0 < len(digest) <= DIGEST_CHARACTERS or not digest.isascii() or not digest.isalnum():
        raise Unreadable(f"a backup's digest: 1 to {DIGEST_CHARACTERS} letters and digits are wanted")


class BackupDoor:
    """Reads what comes, in the loop's thread, and knows which names each host has used. `answered` is told at once what
    a host answers to a request, for whoever waits: it is the host's word, whether its event is committed yet or not."""

    def __init__(
        self,
        jobs: Iterable[rows.JobRow] = (),
        answered: Callable[[str, Answered], None] = lambda *_: None,
    ) -> None:
        self._answered = answered
        self._names: dict[str, set[str]] = {}
        for row in jobs:
            self._names.setdefault(row.agent_id, set()).add(row.job)

    def read(self, agent_id: str, kind: str, event_id: bytes, payload: bytes) -> BackupEvent | None:
        """`Ingest.read_event`. Raises RecordRefused."""
        if kind not in BACKUP_KINDS:
            return None
        try:
            found = read_backup_event(kind, event_id, payload)
        except Unreadable as exc:
            raise RecordRefused(UNREADABLE, str(exc)) from exc
        if isinstance(found, Answered):
            self._answered(agent_id, found)
        else:
            self._admit(agent_id, _names_of(found))
        return found

    def forget(self, agent_id: str, jobs: Iterable[str] | None = None) -> None:
        """Of a host nothing is kept any more, or nothing of these jobs."""
        if jobs is None:
            self._names.pop(agent_id, None)
        else:
            self._names.get(agent_id, set()).difference_update(jobs)

    def _admit(self, agent_id: str, names: Iterable[str]) -> None:
        known = self._names.setdefault(agent_id, set())
        new = set(names) - known
        if len(known) + len(new) > NAMES_PER_HOST_MAX:
            raise RecordRefused(
                TOO_MANY, f"a host may have had {NAMES_PER_HOST_MAX} backups, those that are gone included"
            )
        known |= new


def _names_of(event: JobsTold | Defined | Record) -> Iterable[str]:
    match event:
        case JobsTold():
            return event.digests
        case Defined():
            return (event.definition.name,)
        case _:
            return (event.job,)


class Written(Enum):
    """What came of new events of a host."""

    NOTHING = 0
    RECORDS = 1
    JOBS = 2
    """Records, and its jobs are others now."""


def write(
    connection: sa.Connection, site: str, agent_id: str, events: Sequence[CritEvent], now_ms: int
) -> Written:
    """What new events of a host mean for its backups. In the transaction that keeps the events."""
    found = Written.NOTHING
    for event in events:
        content = event.content
        changed = True
        match content:
            case JobsTold():
                rows.list_jobs(connection, site, agent_id, content.digests, now_ms)
            case Defined():
                rows.define(connection, site, agent_id, content.definition, content.digest, now_ms)
            case Record():
                changed = rows.meet_job(connection, site, agent_id, content.job, now_ms)
                rows.add_record(connection, site, agent_id, content, now_ms, event.shift_ms)
            case _:
                continue
        if changed or found is Written.NOTHING:
            found = Written.JOBS if changed else Written.RECORDS
    return found
