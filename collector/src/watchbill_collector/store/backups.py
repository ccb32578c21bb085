"""Backups as rows: the jobs that hosts have, every version of their definitions, the records of what they did, and
through when each host is known.

A record is written in the transaction of the critical event that it came in, once by its id, and never changed.
`place` is the order in which records arrived: whoever follows asks for what came after the last one he has.

`surplus` names what may go: records that are old or too many of one kind and job, and what a run said while it went
on, once it said something later. What a job was proved by is not pushed out by how often somebody looked at it.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import sqlalchemy as sa
import zstandard

from watchbill.backups.definition import Definition
from watchbill.backups.record import Outcome, Record
from watchbill_collector.store.schema import (
    BACKUP_DEFINITIONS,
    BACKUP_HOSTS,
    BACKUP_JOBS,
    BACKUP_PAUSES,
    BACKUP_RECORDS,
)

VERSIONS_PER_JOB_MAX: Final = 100
"""Definitions kept of one job; the oldest goes, which is not the one in force."""
RECORDS_KEPT_MS: Final = 400 * 86_400_000
"""A year, and the month in which somebody asks about it."""
RECORDS_PER_JOB_MAX: Final = 10_000
"""Of one kind; the oldest go."""
PROGRESS_KEPT_MS: Final = 2 * 86_400_000
"""How long it is known minute by minute that a run went on."""
SURPLUS_MAX: Final = 5_000
"""Records that are removed at once: the writer has others waiting."""
BODY_BYTES_MAX: Final = 1024 * 1024
"""Of a record's JSON: the event that carries one has 64 KiB."""
_COMPRESSION: Final = 1
_ZLIB: Final = 0x78
"""With this began the records of stores before 0.1.0; zstd's begin otherwise."""

_read_record = msgspec.json.Decoder(Record).decode
_read_definition = msgspec.json.Decoder(Definition).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """One job of a host. Its definition is the host's of this digest; without a digest it is one that the host never
    listed, and told of all the same. `gone_ms` is 0 while its host has it.
    """

    agent_id: str
    job: str
    digest: str
    defined_ms: int
    changed_ms: int
    gone_ms: int = 0


class RecordRow(msgspec.Struct, frozen=True, gc=False):
    """A record as it arrived. `shift_ms` is what is added to the times in it, which are its host's. A struct made by
    position, as records are: a million of them are read back at a start."""

    place: int
    agent_id: str
    received_ms: int
    shift_ms: int
    record: Record


# ---------------------------------------------------------------- jobs and their definitions


def list_jobs(
    connection: sa.Connection, site: str, agent_id: str, digests: Mapping[str, str], now_ms: int
) -> None:
    """These are all the jobs that a host has now, with the digests of their definitions; others are gone."""
    known = {row.job: row for row in jobs(connection, site, agent_id)}
    for job, digest in digests.items():
        _set_job(connection, site, known.get(job), agent_id, job, digest, now_ms)
    for job, row in known.items():
        if job not in digests and not row.gone_ms and row.digest:
            connection.execute(
                BACKUP_JOBS.update().where(_is_job(BACKUP_JOBS, agent_id, job)).values(gone_ms=now_ms)
            )


def meet_job(connection: sa.Connection, site: str, agent_id: str, job: str, now_ms: int) -> bool:
    """Something was told of a job; one that its host never listed is known by that alone: then True."""
    where = _is_job(BACKUP_JOBS, agent_id, job)
    if connection.execute(sa.select(sa.literal(1)).where(where)).first() is not None:
        return False
    _set_job(connection, site, None, agent_id, job, "", now_ms)
    return True


def define(
    connection: sa.Connection, site: str, agent_id: str, definition: Definition, digest: str, now_ms: int
) -> None:
    """Keep a version of a job's definition; it is in force from now on."""
    table = BACKUP_DEFINITIONS
    where = (table.c.agent_id == agent_id) & (table.c.digest == digest)
    if connection.execute(sa.select(sa.literal(1)).where(where)).first() is None:
        row = {
            "agent_id": agent_id,
            "digest": digest,
            "site": site,
            "job": definition.name,
            "received_ms": now_ms,
            "document": definition.to_json().decode(),
        }
        connection.execute(table.insert(), row)
    known = next(iter(jobs(connection, site, agent_id, definition.name)), None)
    _set_job(connection, site, known, agent_id, definition.name, digest, now_ms)
    _forget_versions(connection, agent_id, definition.name, digest)


def _set_job(
    connection: sa.Connection,
    site: str,
    known: JobRow | None,
    agent_id: str,
    job: str,
    digest: str,
    now_ms: int,
) -> None:
    if known is None:
        row = {"agent_id": agent_id, "job": job, "site": site, "digest": digest}
        moments = {"defined_ms": now_ms, "changed_ms": now_ms, "gone_ms": 0}
        connection.execute(BACKUP_JOBS.insert(), {**row, **moments})
    elif known.digest != digest or known.gone_ms:
        # One that comes back is as new: nobody expected anything of it while it was gone.
        defined_ms = now_ms if known.gone_ms else known.defined_ms
        changed = {"digest": digest, "defined_ms": defined_ms, "changed_ms": now_ms, "gone_ms": 0}
        connection.execute(BACKUP_JOBS.update().where(_is_job(BACKUP_JOBS, agent_id, job)).values(changed))


def _forget_versions(connection: sa.Connection, agent_id: str, job: str, digest: str) -> None:
    table = BACKUP_DEFINITIONS.c
    others = (
        sa.select(table.digest)
        .where(table.agent_id == agent_id, table.job == job, table.digest != digest)
        .order_by(table.received_ms.desc(), table.digest)
        .offset(VERSIONS_PER_JOB_MAX - 1)
        .limit(SURPLUS_MAX)
    )
    for old in connection.execute(others).scalars().all():
        where = (table.agent_id == agent_id) & (table.digest == old)
        connection.execute(BACKUP_DEFINITIONS.delete().where(where))


def jobs(
    connection: sa.Connection, site: str, agent_id: str | None = None, job: str | None = None
) -> list[JobRow]:
    """All jobs, those of a host, or one, also those that are gone."""
    table = BACKUP_JOBS.c
    query = sa.select(*(table[name] for name in JobRow.__slots__)).where(table.site == site)
    if agent_id is not None:
        query = query.where(table.agent_id == agent_id)
    if job is not None:
        query = query.where(table.job == job)
    rows = connection.execute(query.order_by(table.agent_id, table.job)).mappings()
    return [JobRow(**row) for row in rows]


def definitions(
    connection: sa.Connection, site: str, agent_id: str | None = None
) -> dict[tuple[str, str], Definition]:
    """The definitions in force, of all hosts or of one, by host and job. A job whose definition has not come yet has
    none.
    """
    table, of = BACKUP_DEFINITIONS.c, BACKUP_JOBS.c
    matches = (of.agent_id == table.agent_id) & (of.digest == table.digest) & (of.job == table.job)
    query = sa.select(table.agent_id, table.job, table.document).where(table.site == site, matches)
    if agent_id is not None:
        query = query.where(table.agent_id == agent_id)
    return {(row.agent_id, row.job): _read_definition(row.document) for row in connection.execute(query)}


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a job's definition, and when it came."""

    agent_id: str
    digest: str
    received_ms: int
    definition: Definition


def versions(connection: sa.Connection, site: str) -> list[Version]:
    """Every version that is kept of every job, in the order in which they came."""
    table = BACKUP_DEFINITIONS.c
    query = sa.select(table.agent_id, table.digest, table.received_ms, table.document)
    rows = connection.execute(query.where(table.site == site).order_by(table.received_ms, table.digest))
    return [
        Version(row.agent_id, row.digest, row.received_ms, _read_definition(row.document)) for row in rows
    ]


def digests_of(
    connection: sa.Connection, site: str, agent_id: str, job: str, since_ms: int, until_ms: int
) -> list[str]:
    """The versions of a job's definition that came in a time, in that order."""
    table = BACKUP_DEFINITIONS.c
    query = sa.select(table.digest).where(table.site == site, _is_job(BACKUP_DEFINITIONS, agent_id, job))
    query = query.where(table.received_ms >= since_ms, table.received_ms <= until_ms)
    return list(connection.execute(query.order_by(table.received_ms, table.digest)).scalars())


# ---------------------------------------------------------------- records


def add_record(
    connection: sa.Connection, site: str, agent_id: str, record: Record, received_ms: int, shift_ms: int
) -> bool:
    """Keep a record; False when it is here already."""
    table = BACKUP_RECORDS.c
    known = sa.select(sa.literal(1)).where(table.agent_id == agent_id, table.record_id == record.record_id)
    if connection.execute(known).first() is not None:
        return False
    row = {
        "site": site,
        "agent_id": agent_id,
        "record_id": record.record_id,
        "job": record.job,
        "kind": record.kind.value,
        "outcome": record.outcome.value,
        "copy": record.copy,
        "run_id": record.run_id,
        "observed_ms": record.observed_ms,
        "shift_ms": shift_ms,
        "received_ms": received_ms,
        "body": zstandard.ZstdCompressor(level=_COMPRESSION).compress(record.to_json()),
    }
    connection.execute(BACKUP_RECORDS.insert(), row)
    return True


def records_after(connection: sa.Connection, site: str, place: int, limit: int) -> list[RecordRow]:
    """What arrived after a place, in that order."""
    table = BACKUP_RECORDS.c
    return _read(connection, _records(site).where(table.place > place).order_by(table.place).limit(limit))


def last_place(connection: sa.Connection, site: str) -> int:
    """Of the record that arrived last; 0 when there is none."""
    table = BACKUP_RECORDS.c
    return int(
        connection.execute(sa.select(sa.func.max(table.place)).where(table.site == site)).scalar() or 0
    )


def records_by_job(
    connection: sa.Connection, site: str, after: RecordRow | None, place_max: int, limit: int
) -> list[RecordRow]:
    """All that had arrived through a place, one job after the other, of each in the order it arrived. `after` is the
    last one that is known already.
    """
    table = BACKUP_RECORDS.c
    order = (table.agent_id, table.job, table.place)
    query = _records(site).where(table.place <= place_max).order_by(*order).limit(limit)
    if after is not None:
        query = query.where(sa.tuple_(*order) > sa.tuple_(after.agent_id, after.record.job, after.place))
    return _read(connection, query)


def records_of(
    connection: sa.Connection,
    site: str,
    agent_id: str,
    job: str,
    limit: int,
    before_ms: int | None = None,
    *,
    received_from_ms: int | None = None,
) -> list[RecordRow]:
    """Of one job, the newest first; only what was observed before a time and arrived since another, where they are
    given. Of what a run said only the newest.
    """
    table = BACKUP_RECORDS.c
    query = _records(site).where(_is_job(BACKUP_RECORDS, agent_id, job), ~_passed())
    if before_ms is not None:
        query = query.where(table.observed_ms + table.shift_ms < before_ms)
    if received_from_ms is not None:
        query = query.where(table.received_ms >= received_from_ms)
    return _read(connection, query.order_by(table.place.desc()).limit(limit))


def _records(site: str) -> "sa.Select[Any]":
    table = BACKUP_RECORDS.c
    columns = (table.place, table.agent_id, table.received_ms, table.shift_ms, table.body)
    return sa.select(*columns).where(table.site == site)


def _read(connection: sa.Connection, query: "sa.Select[Any]") -> list[RecordRow]:
    """All at once and by position: one by one and by name it takes as long again as reading what is in them."""
    expand = zstandard.ZstdDecompressor().decompress
    return [
        RecordRow(
            place,
            agent_id,
            received_ms,
            shift_ms,
            _read_record(zlib.decompress(body) if body[0] == _ZLIB else expand(body, BODY_BYTES_MAX)),
        )
        for place, agent_id, received_ms, shift_ms, body in connection.execute(query).fetchall()
    ]


# ---------------------------------------------------------------- through when hosts are known


def save_through(connection: sa.Connection, site: str, through_ms: Mapping[str, int]) -> None:
    """Through when everything that these hosts had to say is here."""
    table = BACKUP_HOSTS
    for agent_id, at_ms in through_ms.items():
        where = table.c.agent_id == agent_id
        moved = connection.execute(table.update().where(where).values(through_ms=at_ms))
        if not moved.rowcount:
            connection.execute(table.insert().values(agent_id=agent_id, site=site, through_ms=at_ms))


def through(connection: sa.Connection, site: str) -> dict[str, int]:
    """The same, read back, by host."""
    rows = connection.execute(sa.select(BACKUP_HOSTS).where(BACKUP_HOSTS.c.site == site))
    return {row.agent_id: row.through_ms for row in rows}


# ---------------------------------------------------------------- what may go


def surplus(connection: sa.Connection, site: str, now_ms: int) -> list[int]:
    """The places of records that nobody needs any more, SURPLUS_MAX at most."""
    table = BACKUP_RECORDS.c
    old = sa.select(table.place).where(table.site == site, table.received_ms < now_ms - RECORDS_KEPT_MS)
    number = sa.func.row_number().over(
        partition_by=(table.agent_id, table.job, table.kind), order_by=table.place.desc()
    )
    numbered = sa.select(table.place, number.label("number")).where(table.site == site).subquery()
    beyond = sa.select(numbered.c.place).where(numbered.c.number > RECORDS_PER_JOB_MAX)
    progress = sa.select(table.place).where(
        table.site == site, table.received_ms < now_ms - PROGRESS_KEPT_MS, _passed()
    )
    found: dict[int, None] = {}
    for query in (old, beyond, progress):
        found.update(dict.fromkeys(connection.execute(query.limit(SURPLUS_MAX)).scalars()))
    return list(found)[:SURPLUS_MAX]


def remove(connection: sa.Connection, places: Sequence[int]) -> None:
    """Let go of records by their places, and of jobs that are gone and left none."""
    table = BACKUP_RECORDS.c
    connection.execute(BACKUP_RECORDS.delete().where(table.place.in_(places)))
    jobs_of = BACKUP_JOBS.c
    left = sa.exists().where(table.agent_id == jobs_of.agent_id, table.job == jobs_of.job)
    empty = sa.select(jobs_of.agent_id, jobs_of.job).where(jobs_of.gone_ms > 0, ~left)
    for agent_id, job in connection.execute(empty).all():
        for each in (BACKUP_JOBS, BACKUP_PAUSES, BACKUP_DEFINITIONS):
            connection.execute(each.delete().where(_is_job(each, agent_id, job)))


def _is_job(table: sa.Table, agent_id: str, job: str) -> "sa.ColumnElement[bool]":
    return (table.c.agent_id == agent_id) & (table.c.job == job)


def _passed() -> "sa.ColumnElement[bool]":
    """A run said that it goes on, and something later since."""
    table, later = BACKUP_RECORDS.c, BACKUP_RECORDS.alias("later").c
    same_run = (later.agent_id == table.agent_id) & (later.job == table.job) & (later.run_id == table.run_id)
    goes_on = (table.outcome == Outcome.RUNNING.value) & (table.run_id != "")
    return goes_on & sa.exists().where(same_run, later.place > table.place)
