"""Rehearsals that ended, for longer than their runs are kept: when they were due, how they went, how long it took."""

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from watchbill_collector.store.schema import DRILLS, RUNBOOK_TEXTS

DRILLS_PER_RUNBOOK_MAX: Final = 500
"""Of one runbook; the oldest go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillRow:
    """One drill. `due_ms` is 0 when nobody had waited for it, `recovery_ms` None when its clock never stopped."""

    run_id: str
    runbook: str
    digest: str
    due_ms: int
    started_ms: int
    ended_ms: int
    state: str
    recovery_ms: int | None
    detail: str


def add(connection: sa.Connection, site: str, row: DrillRow) -> bool:
    """Keep one; False when it is known."""
    table = DRILLS
    if connection.execute(sa.select(sa.literal(1)).where(table.c.run_id == row.run_id)).first() is not None:
        return False
    connection.execute(
        table.insert().values(site=site, **{name: getattr(row, name) for name in DrillRow.__slots__})
    )
    surplus = (
        sa.select(table.c.run_id)
        .where(table.c.site == site, table.c.runbook == row.runbook)
        .order_by(table.c.started_ms.desc(), table.c.run_id.desc())
        .offset(DRILLS_PER_RUNBOOK_MAX)
    )
    gone = connection.execute(surplus.limit(DRILLS_PER_RUNBOOK_MAX)).scalars().all()
    if gone:
        connection.execute(table.delete().where(table.c.run_id.in_(gone)))
    return True


def all_of(connection: sa.Connection, site: str) -> dict[str, list[DrillRow]]:
    """Every drill by its runbook, the newest first."""
    table = DRILLS.c
    query = sa.select(*(table[name] for name in DrillRow.__slots__)).where(table.site == site)
    found: dict[str, list[DrillRow]] = {}
    for row in connection.execute(query.order_by(table.started_ms.desc(), table.run_id.desc())).mappings():
        found.setdefault(row["runbook"], []).append(DrillRow(**row))
    return found


def first_seen(connection: sa.Connection, site: str) -> dict[str, int]:
    """When the first text of each runbook was seen, of those that are kept."""
    table = RUNBOOK_TEXTS.c
    query = sa.select(table.name, sa.func.min(table.seen_ms)).where(table.site == site).group_by(table.name)
    return {name: int(seen_ms) for name, seen_ms in connection.execute(query)}
