"""Silences as rows. What has long ended is removed when a new one is added."""

from dataclasses import dataclass

import sqlalchemy as sa

from watchbill_collector.store.schema import SILENCES

KEPT_MS = 30 * 86_400_000
"""How long a silence that ended can still be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SilenceRow:
    """One silence; `matchers` is a selector as text, `expired_by` empty unless somebody ended it early. `scope` holds
    the scopes it keeps to, one a line; empty: it keeps to none.
    """

    silence_id: str
    matchers: str
    reason: str
    author: str
    created_ms: int
    starts_ms: int
    ends_ms: int
    expired_by: str = ""
    scope: str = ""


def all_silences(connection: sa.Connection, site: str) -> list[SilenceRow]:
    """Every silence, oldest first."""
    columns = (SILENCES.c[name] for name in SilenceRow.__slots__)
    query = sa.select(*columns).where(SILENCES.c.site == site)
    rows = connection.execute(query.order_by(SILENCES.c.created_ms, SILENCES.c.silence_id))
    return [SilenceRow(**row) for row in rows.mappings()]


def add_silence(connection: sa.Connection, site: str, row: SilenceRow) -> None:
    """A new silence."""
    old = (SILENCES.c.site == site) & (SILENCES.c.ends_ms < row.created_ms - KEPT_MS)
    connection.execute(SILENCES.delete().where(old))
    values = {name: getattr(row, name) for name in SilenceRow.__slots__}
    connection.execute(SILENCES.insert().values(site=site, **values))


def expire_silence(connection: sa.Connection, silence_id: str, ends_ms: int, by: str) -> bool:
    """End a silence now; False when it has ended already, or somebody was quicker."""
    where = (SILENCES.c.silence_id == silence_id) & (SILENCES.c.ends_ms > ends_ms)
    done = connection.execute(SILENCES.update().where(where).values(ends_ms=ends_ms, expired_by=by))
    return done.rowcount == 1
