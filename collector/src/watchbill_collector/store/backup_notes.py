"""What people say of backups, and how words changed, as rows: pauses, reviews, exemptions, changes.

A pause and an exemption take the place of the one before; reviews and changes are only added.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from watchbill_collector.store.schema import (
    BACKUP_CHANGES,
    BACKUP_EXEMPTIONS,
    BACKUP_PAUSES,
    BACKUP_REVIEWS,
)

CHANGES_KEPT_MS: Final = 400 * 86_400_000
CHANGES_PER_JOB_MAX: Final = 1_000
"""Changes kept of one job; the oldest go."""
SURPLUS_MAX: Final = 5_000
"""Changes that are removed at once."""
EXEMPTIONS_MAX: Final = 5_000
"""Exemptions that stand at the same time; the next is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseRow:
    """A job that is not judged until then."""

    agent_id: str
    job: str
    until_ms: int
    author: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewRow:
    """Somebody looked at a job, whose word was `word` then."""

    agent_id: str
    job: str
    at_ms: int
    author: str
    word: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRow:
    """A job's word became another. `before` is empty for its first."""

    agent_id: str
    job: str
    at_ms: int
    before: str
    after: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExemptionRow:
    """A host or a service that needs no backup until then. `owner` answers for that."""

    exemption_id: str
    kind: str
    name: str
    owner: str
    reason: str
    author: str
    created_ms: int
    expires_ms: int


# ---------------------------------------------------------------- pauses


def set_pause(connection: sa.Connection, site: str, row: PauseRow) -> None:
    """Pause a job, anew if it is paused already."""
    end_pause(connection, row.agent_id, row.job)
    connection.execute(BACKUP_PAUSES.insert().values(site=site, **_values(row)))


def end_pause(connection: sa.Connection, agent_id: str, job: str) -> bool:
    """Judge it again; False when it was not paused."""
    where = (BACKUP_PAUSES.c.agent_id == agent_id) & (BACKUP_PAUSES.c.job == job)
    return bool(connection.execute(BACKUP_PAUSES.delete().where(where)).rowcount)


def pauses(connection: sa.Connection, site: str) -> list[PauseRow]:
    """Every pause, also those that are over."""
    return [PauseRow(**row) for row in _all(connection, BACKUP_PAUSES, PauseRow, site)]


# ---------------------------------------------------------------- reviews and changes


def add_review(connection: sa.Connection, site: str, row: ReviewRow) -> None:
    """Note a review."""
    connection.execute(BACKUP_REVIEWS.insert().values(site=site, **_values(row)))


def reviews(connection: sa.Connection, site: str, agent_id: str, job: str, limit: int) -> list[ReviewRow]:
    """Of one job, the newest first."""
    rows = _newest(connection, BACKUP_REVIEWS, ReviewRow, site, agent_id, job, limit)
    return [ReviewRow(**row) for row in rows]


def last_reviews(connection: sa.Connection, site: str) -> list[ReviewRow]:
    """The newest of every job that has one."""
    return [ReviewRow(**row) for row in _last(connection, BACKUP_REVIEWS, ReviewRow, site)]


def add_changes(connection: sa.Connection, site: str, rows: Sequence[ChangeRow]) -> None:
    """Note that words changed."""
    if rows:
        connection.execute(BACKUP_CHANGES.insert(), [{"site": site, **_values(row)} for row in rows])


def changes(connection: sa.Connection, site: str, agent_id: str, job: str, limit: int) -> list[ChangeRow]:
    """Of one job, the newest first."""
    rows = _newest(connection, BACKUP_CHANGES, ChangeRow, site, agent_id, job, limit)
    return [ChangeRow(**row) for row in rows]


def last_changes(connection: sa.Connection, site: str) -> list[ChangeRow]:
    """The newest of every job: the word that was told last."""
    return [ChangeRow(**row) for row in _last(connection, BACKUP_CHANGES, ChangeRow, site)]


def trim_changes(connection: sa.Connection, site: str, now_ms: int) -> int:
    """Let go of changes that are old or too many, but of none that is its job's newest; how many went."""
    table = BACKUP_CHANGES.c
    number = sa.func.row_number().over(partition_by=(table.agent_id, table.job), order_by=table.place.desc())
    numbered = (
        sa.select(table.place, table.at_ms, number.label("number")).where(table.site == site).subquery()
    )
    old = numbered.c.at_ms < now_ms - CHANGES_KEPT_MS
    beyond = (
        sa.select(numbered.c.place)
        .where((old & (numbered.c.number > 1)) | (numbered.c.number > CHANGES_PER_JOB_MAX))
        .limit(SURPLUS_MAX)
    )
    return connection.execute(BACKUP_CHANGES.delete().where(table.place.in_(beyond))).rowcount


# ---------------------------------------------------------------- exemptions


def set_exemption(connection: sa.Connection, site: str, row: ExemptionRow) -> bool:
    """Exempt a host or a service, in place of the exemption it had. False: there are EXEMPTIONS_MAX."""
    table = BACKUP_EXEMPTIONS.c
    expired = table.expires_ms <= row.created_ms
    same = (table.kind == row.kind) & (table.name == row.name)
    connection.execute(BACKUP_EXEMPTIONS.delete().where(table.site == site, expired | same))
    count = sa.select(sa.func.count()).select_from(BACKUP_EXEMPTIONS).where(table.site == site)
    if connection.execute(count).scalar_one() >= EXEMPTIONS_MAX:
        return False
    connection.execute(BACKUP_EXEMPTIONS.insert().values(site=site, **_values(row)))
    return True


def end_exemption(connection: sa.Connection, site: str, exemption_id: str) -> ExemptionRow | None:
    """Take an exemption back; None when there is none."""
    table = BACKUP_EXEMPTIONS.c
    where = (table.site == site) & (table.exemption_id == exemption_id)
    columns = (table[name] for name in ExemptionRow.__slots__)
    found = connection.execute(sa.select(*columns).where(where)).mappings().first()
    if found is None:
        return None
    connection.execute(BACKUP_EXEMPTIONS.delete().where(where))
    return ExemptionRow(**found)


def exemptions(connection: sa.Connection, site: str, now_ms: int) -> list[ExemptionRow]:
    """Those that have not expired, the next to expire first."""
    rows = [ExemptionRow(**row) for row in _all(connection, BACKUP_EXEMPTIONS, ExemptionRow, site)]
    return sorted((row for row in rows if row.expires_ms > now_ms), key=lambda row: row.expires_ms)


# ---------------------------------------------------------------- helpers


def _values(row: Any) -> dict[str, object]:
    return {name: getattr(row, name) for name in type(row).__slots__}


def _all(connection: sa.Connection, table: sa.Table, kind: Any, site: str) -> Sequence[sa.RowMapping]:
    columns = (table.c[name] for name in kind.__slots__)
    return connection.execute(sa.select(*columns).where(table.c.site == site)).mappings().all()


def _newest(
    connection: sa.Connection, table: sa.Table, kind: Any, site: str, agent_id: str, job: str, limit: int
) -> Sequence[sa.RowMapping]:
    columns = (table.c[name] for name in kind.__slots__)
    where = (table.c.site == site) & (table.c.agent_id == agent_id) & (table.c.job == job)
    query = sa.select(*columns).where(where).order_by(table.c.place.desc()).limit(limit)
    return connection.execute(query).mappings().all()


def _last(connection: sa.Connection, table: sa.Table, kind: Any, site: str) -> Sequence[sa.RowMapping]:
    newest = sa.select(sa.func.max(table.c.place)).where(table.c.site == site)
    newest = newest.group_by(table.c.agent_id, table.c.job)
    columns = (table.c[name] for name in kind.__slots__)
    return connection.execute(sa.select(*columns).where(table.c.place.in_(newest))).mappings().all()
