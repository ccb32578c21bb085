"""Rosters, as they were published; the newest is carried to the hosts, the older ones explain what was approved."""

import hashlib
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from watchbill_collector.store.schema import ROSTERS

ROSTERS_KEPT: Final = 1_000
"""Older ones go: at one a week that is twenty years."""


@dataclass(frozen=True, slots=True)
class RosterRow:
    """One version."""

    serial: int
    author: str
    published_ms: int
    signed: bytes


def newest(connection: sa.Connection, site: str) -> RosterRow | None:
    """The one with the highest serial."""
    table = ROSTERS.c
    query = sa.select(table.serial, table.author, table.published_ms, table.signed)
    row = connection.execute(query.where(table.site == site).order_by(table.serial.desc()).limit(1)).first()
    return None if row is None else RosterRow(row.serial, row.author, row.published_ms, bytes(row.signed))


def put(connection: sa.Connection, site: str, row: RosterRow) -> bool:
    """Keep a newer one. False when the newest is as new, and nothing was changed."""
    before = newest(connection, site)
    if before is not None and before.serial >= row.serial:
        return False
    values = {
        "serial": row.serial,
        "site": site,
        "digest": hashlib.sha256(row.signed).hexdigest(),
        "author": row.author,
        "published_ms": row.published_ms,
        "signed": row.signed,
    }
    connection.execute(ROSTERS.insert().values(**values))
    table = ROSTERS.c
    kept = sa.select(table.serial).where(table.site == site).order_by(table.serial.desc()).limit(ROSTERS_KEPT)
    oldest = min(connection.execute(kept).scalars())
    connection.execute(ROSTERS.delete().where(table.site == site, table.serial < oldest))
    return True
