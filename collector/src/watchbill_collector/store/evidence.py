"""What an archive of evidence is made of, read from the store: the audit's rows of runs, and rosters as they were."""

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from watchbill_collector.store import audit
from watchbill_collector.store.audit import Row
from watchbill_collector.store.checkpoints import Checkpoint, between
from watchbill_collector.store.schema import AUDIT, ROSTERS

RUN_ROWS_MAX: Final = 50_000
"""Rows of the audit about the runs of one archive; more are refused by who asks."""
ROSTERS_MAX: Final = 100


def rows_about(connection: sa.Connection, site: str, run_id: str, from_ms: int) -> list[Row]:
    """The audit's rows that tell of a run, in order; none is older than `from_ms`, the run's own beginning."""
    named = AUDIT.c.detail.contains(f'"run":"{run_id}"', autoescape=True)
    query = (
        sa.select(AUDIT.c.seq)
        .where(AUDIT.c.site == site, AUDIT.c.at_ms >= from_ms, sa.or_(AUDIT.c.target == run_id, named))
        .order_by(AUDIT.c.seq)
        .limit(RUN_ROWS_MAX)
    )
    found: list[Row] = []
    for number in connection.execute(query).scalars():
        found += audit.rows_from(connection, number - 1, 1)
    return found


def rows_between(connection: sa.Connection, first: int, last: int) -> list[Row]:
    """A piece of the chain, both ends in it."""
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
