"""The crit stream: events that must never be lost, with the watermark that says how far each spool has
come.

Records and watermark are written in one transaction, so an acknowledged record is there, once. A record
that comes again under another number (an agent whose spool was forked) is told by its event id.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from watchbill_collector.store.schema import CRIT_MARKS, CRIT_RECORDS

LIFE_KEPT: Final = 1_000
"""Events of one kind and host that `trim` leaves, of kinds that are of no use for ever, or are kept elsewhere too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CritRecord:
    """One event of a host; `payload` is the canonical JSON it sent."""

    seq: int
    event_id: bytes
    kind: str
    boottime_ms: int
    wall_ms: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class CritMark:
    """How far a spool's crit stream is committed. `digest` is an unsigned 64-bit number."""

    agent_id: str
    spool_id: bytes
    seq: int
    digest: int


def commit(
    connection: sa.Connection, site: str, mark: CritMark, records: Sequence[CritRecord], now_ms: int
) -> list[int]:
    """Write records and move the mark to `mark.seq`; the numbers of those that were new. What is not above the mark
    is left out.
    """
    where = (CRIT_MARKS.c.agent_id == mark.agent_id) & (CRIT_MARKS.c.spool_id == mark.spool_id)
    before = connection.execute(sa.select(CRIT_MARKS.c.seq).where(where)).scalar()
    new: list[int] = []
    for record in records:
        if (before is None or record.seq > before) and not _known(connection, mark.agent_id, record.event_id):
            connection.execute(CRIT_RECORDS.insert().values(**_values(site, mark, record, now_ms)))
            new.append(record.seq)
    moved = {"seq": mark.seq, "digest": mark.digest.to_bytes(8), "changed_ms": now_ms}
    if before is None:
        key = {"agent_id": mark.agent_id, "spool_id": mark.spool_id, "site": site}
        connection.execute(CRIT_MARKS.insert().values(**key, **moved))
    elif mark.seq > before:
        connection.execute(CRIT_MARKS.update().where(where).values(**moved))
    return new


def recent(
    connection: sa.Connection, site: str, agent_id: str | None = None, limit: int = 1_000
) -> list[CritRecord]:
    """The newest records, of one host or of all, newest first."""
    table = CRIT_RECORDS.c
    query = sa.select(*(table[name] for name in CritRecord.__slots__)).where(table.site == site)
    if agent_id is not None:
        query = query.where(table.agent_id == agent_id)
    query = query.order_by(table.received_ms.desc(), table.spool_id, table.seq.desc()).limit(limit)
    return [CritRecord(**row) for row in connection.execute(query).mappings()]


def timeline(
    connection: sa.Connection,
    site: str,
    agent_id: str,
    without: Collection[str],
    limit: int,
    before: tuple[int, int] | None = None,
) -> list[tuple[int, CritRecord]]:
    """A host's newest events but those of some kinds, newest first, each with when it came; older than `before`, the
    time and number of the oldest one that is known already."""
    table = CRIT_RECORDS.c
    columns = [table[name] for name in CritRecord.__slots__]
    query = sa.select(table.received_ms, *columns).where(
        table.site == site, table.agent_id == agent_id, table.kind.not_in(without)
    )
    if before is not None:
        query = query.where(sa.tuple_(table.received_ms, table.seq) < sa.tuple_(*map(sa.literal, before)))
    query = query.order_by(table.received_ms.desc(), table.seq.desc()).limit(limit)
    return [(row.received_ms, CritRecord(**_record(row))) for row in connection.execute(query)]


def trim(
    connection: sa.Connection,
    site: str,
    kinds: Collection[str],
    families: Sequence[str] = (),
    keep: int = LIFE_KEPT,
) -> int:
    """Remove all but the newest `keep` records of each of these kinds, and of each kind that begins so, of each host;
    how many were removed."""
    table = CRIT_RECORDS.c
    of_these = sa.or_(
        table.kind.in_(kinds), *(table.kind.startswith(one, autoescape=True) for one in families)
    )
    place = sa.func.row_number().over(
        partition_by=(table.agent_id, table.kind), order_by=(table.received_ms.desc(), table.seq.desc())
    )
    ranked = (
        sa.select(table.agent_id, table.spool_id, table.seq, place.label("place"))
        .where(table.site == site, of_these)
        .subquery()
    )
    surplus = sa.select(ranked.c.agent_id, ranked.c.spool_id, ranked.c.seq).where(ranked.c.place > keep)
    key = sa.tuple_(table.agent_id, table.spool_id, table.seq)
    return connection.execute(CRIT_RECORDS.delete().where(key.in_(surplus))).rowcount


def marks(connection: sa.Connection, site: str) -> list[CritMark]:
    """Every watermark."""
    rows = connection.execute(sa.select(CRIT_MARKS).where(CRIT_MARKS.c.site == site))
    return [CritMark(row.agent_id, row.spool_id, row.seq, int.from_bytes(row.digest)) for row in rows]


def remove_marks(connection: sa.Connection, site: str, keys: Sequence[tuple[str, bytes]]) -> None:
    """Forget watermarks, by agent and spool, of spools that will never speak again."""
    for agent_id, spool_id in keys:
        where = (CRIT_MARKS.c.agent_id == agent_id) & (CRIT_MARKS.c.spool_id == spool_id)
        connection.execute(CRIT_MARKS.delete().where(where, CRIT_MARKS.c.site == site))


def _known(connection: sa.Connection, agent_id: str, event_id: bytes) -> bool:
    table = CRIT_RECORDS.c
    query = sa.select(sa.literal(1)).where(table.agent_id == agent_id, table.event_id == event_id)
    return connection.execute(query).first() is not None


def _record(row: "sa.Row[Any]") -> dict[str, Any]:
    return {name: getattr(row, name) for name in CritRecord.__slots__}


def _values(site: str, mark: CritMark, record: CritRecord, now_ms: int) -> dict[str, object]:
    values: dict[str, object] = {name: getattr(record, name) for name in CritRecord.__slots__}
    return values | {
        "agent_id": mark.agent_id,
        "spool_id": mark.spool_id,
        "site": site,
        "received_ms": now_ms,
    }
