"""What was told last of each check of each host: its verdict since when, and the words for it.

One row a check, replaced by what comes; of a host as many as CHECKS_PER_HOST_MAX, the one told of longest ago goes.
"""

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from watchbill_collector.store.schema import CHECK_CHANGES

CHECKS_PER_HOST_MAX: Final = 2_000
"""Twice what an agent runs at a time: those that are gone from its configuration stay until their place is wanted."""
NAME_CHARACTERS_MAX: Final = 64
WORD_CHARACTERS_MAX: Final = 16
REASON_CHARACTERS_MAX: Final = 64
DETAIL_CHARACTERS_MAX: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckChange:
    """What a host told of one of its checks. `check_name` went from `before` (empty: it was never told of) to `after`
    at `since_ms`; `at_ms` is when it was told of last, which may be later with another reason."""

    check_name: str
    app: str
    kind: str
    before: str
    after: str
    reason: str
    detail: str
    since_ms: int
    at_ms: int


_FIELDS: Final = tuple(CheckChange.__slots__)


def put(connection: sa.Connection, site: str, agent_id: str, change: CheckChange) -> CheckChange:
    """Keep what was told now in place of what was before; what is kept. With the same verdict as before, that has stood
    since it began."""
    table = CHECK_CHANGES
    where = (table.c.agent_id == agent_id) & (table.c.check_name == change.check_name)
    row = connection.execute(sa.select(*(table.c[name] for name in _FIELDS)).where(where)).mappings().first()
    values = {name: getattr(change, name) for name in _FIELDS}
    if row is None:
        connection.execute(table.insert().values(agent_id=agent_id, site=site, **values))
        _keep_to_bound(connection, agent_id)
        return change
    if row["after"] == change.after:
        values |= {"before": row["before"], "since_ms": row["since_ms"]}
    connection.execute(table.update().where(where).values(**values))
    return CheckChange(**values)


def all_of(connection: sa.Connection, site: str) -> dict[str, dict[str, CheckChange]]:
    """Every host's, by agent id and check."""
    table = CHECK_CHANGES
    found: dict[str, dict[str, CheckChange]] = {}
    for row in connection.execute(sa.select(table).where(table.c.site == site)).mappings():
        change = CheckChange(**{name: row[name] for name in _FIELDS})
        found.setdefault(row["agent_id"], {})[change.check_name] = change
    return found


def remove(connection: sa.Connection, agent_id: str) -> None:
    """A host is gone."""
    connection.execute(CHECK_CHANGES.delete().where(CHECK_CHANGES.c.agent_id == agent_id))


def _keep_to_bound(connection: sa.Connection, agent_id: str) -> None:
    table = CHECK_CHANGES
    newest = (
        sa.select(table.c.check_name)
        .where(table.c.agent_id == agent_id)
        .order_by(table.c.at_ms.desc(), table.c.check_name)
        .limit(CHECKS_PER_HOST_MAX)
    )
    surplus = (table.c.agent_id == agent_id) & table.c.check_name.not_in(newest)
    count = sa.select(sa.func.count()).where(table.c.agent_id == agent_id)
    if connection.execute(count).scalar_one() > CHECKS_PER_HOST_MAX:
        connection.execute(table.delete().where(surplus))
