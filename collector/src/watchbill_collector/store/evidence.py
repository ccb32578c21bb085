"""What an archive of evidence is made of, read from the store: the audit's rows of runs, and rosters as they were."""

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from watchbill_collector.store import audit
from watchbill_collector.store.audit import Row
from watchbill_collector.store.checkpoints import Checkpoint, between
from watchbill_collector.store.schema import AUDIT, ROSTERS

ROSTERS_MAX: Final = 100


def first_since(connection: sa.Connection, site: str, from_ms: int) -> int:
    """The audit's first row that is not older; 0 for none."""
    query = sa.select(sa.func.min(AUDIT.c.seq)).where(AUDIT.c.site == site, AUDIT.c.at_ms >= from_ms)
    return connection.execute(query).scalar() or 0


def rows_between(connection: sa.Connection, first: int, last: int) -> list[Row]:
    """A piece of the chain, both ends in it, whoever it is about."""
    return audit.rows_from(connection, first - 1, last - first + 1)


def covering(connection: sa.Connection, seq: int) -> Checkpoint | None:
    """The first checkpoint at a row or behind it."""
    return next(iter(between(connection, seq - 1)), None)


def rosters(
    connection: sa.Connection, site: str, from_ms: int, until_ms: int
) -> Sequence[tuple[int, str, int, bytes]]:
    """Serial, author, when, and what was signed: those published in a time, and the one in force at its beginning."""
    table = ROSTERS.c
    columns = sa.select(table.serial, table.author, table.published_ms, table.signed).where(
        table.site == site
    )
    before = columns.where(table.published_ms < from_ms).order_by(table.serial.desc()).limit(1)
    within = (
        columns.where(table.published_ms.between(from_ms, until_ms)).order_by(table.serial).limit(ROSTERS_MAX)
    )
    found = [*connection.execute(before), *connection.execute(within)]
    return [(row.serial, row.author, row.published_ms, bytes(row.signed)) for row in found]
