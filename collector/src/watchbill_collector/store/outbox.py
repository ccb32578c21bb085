"""The outbox as rows: what every thread of notices was told, and the notices that wait for their channel.

A thread's state and the notice that follows from it are written in one transaction, and so are the end of a
notice and what its thread is told from then. So after a crash at any moment every row fits every other.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from watchbill_collector.store.schema import NOTICE_THREADS, NOTICES

QUEUED: Final = "queued"
KEPT_MS: Final = 7 * 86_400_000
"""How long a notice that ended can still be read."""
KEPT_MAX: Final = 10_000
"""Ended notices kept at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadRow:
    """A thread of notices; `state` is what it was told, packed."""

    thread_key: str
    channel: str
    changed_ms: int
    state: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeRow:
    """A notice; `outcome` is queued, or how it ended. `attempts` counts those begun."""

    notice_key: str
    channel: str
    thread_key: str
    kind: str
    outcome: str
    attempts: int
    created_ms: int
    changed_ms: int
    detail: str
    body: bytes


@dataclass(frozen=True, slots=True)
class OutboxChange:
    """What is written in one transaction."""

    threads: Sequence[ThreadRow] = ()
    threads_gone: Sequence[str] = ()
    notices: Sequence[NoticeRow] = ()
    """New ones, and those that changed: a notice is known by its key."""


def all_threads(connection: sa.Connection, site: str) -> list[ThreadRow]:
    """Every thread."""
    columns = (NOTICE_THREADS.c[name] for name in ThreadRow.__slots__)
    rows = connection.execute(sa.select(*columns).where(NOTICE_THREADS.c.site == site))
    return [ThreadRow(**row) for row in rows.mappings()]


def queued_notices(connection: sa.Connection, site: str) -> list[NoticeRow]:
    """What waits, in the order of queueing."""
    where = (NOTICES.c.site == site) & (NOTICES.c.outcome == QUEUED)
    return _notices(connection, sa.select(*_columns()).where(where).order_by(NOTICES.c.seq))


def recent_notices(connection: sa.Connection, site: str, limit: int) -> list[NoticeRow]:
    """The newest notices, newest first, however they ended."""
    query = sa.select(*_columns()).where(NOTICES.c.site == site).order_by(NOTICES.c.seq.desc())
    return _notices(connection, query.limit(limit))


def notices_of_threads(
    connection: sa.Connection, site: str, threads: Sequence[str], since_ms: int, limit: int
) -> list[NoticeRow]:
    """The newest notices of some threads that were made since then, newest first."""
    where = (NOTICES.c.site == site) & NOTICES.c.thread_key.in_(threads) & (NOTICES.c.created_ms >= since_ms)
    return _notices(
        connection, sa.select(*_columns()).where(where).order_by(NOTICES.c.seq.desc()).limit(limit)
    )


def notices_since(connection: sa.Connection, site: str, since_ms: int, limit: int) -> list[NoticeRow]:
    """The first notices that were made since then, in their order."""
    where = (NOTICES.c.site == site) & (NOTICES.c.created_ms >= since_ms)
    return _notices(connection, sa.select(*_columns()).where(where).order_by(NOTICES.c.seq).limit(limit))


def write(connection: sa.Connection, site: str, change: OutboxChange) -> None:
    """Make it so. Portable: what is there is updated, else it is new."""
    for thread in change.threads:
        values = {"channel": thread.channel, "changed_ms": thread.changed_ms, "state": thread.state}
        where = NOTICE_THREADS.c.thread_key == thread.thread_key
        if not connection.execute(NOTICE_THREADS.update().where(where).values(**values)).rowcount:
            new = NOTICE_THREADS.insert().values(thread_key=thread.thread_key, site=site, **values)
            connection.execute(new)
    for key in change.threads_gone:
        connection.execute(NOTICE_THREADS.delete().where(NOTICE_THREADS.c.thread_key == key))
    for notice in change.notices:
        moved = {
            "outcome": notice.outcome,
            "attempts": notice.attempts,
            "changed_ms": notice.changed_ms,
            "detail": notice.detail,
        }
        where = NOTICES.c.notice_key == notice.notice_key
        if not connection.execute(NOTICES.update().where(where).values(**moved)).rowcount:
            connection.execute(NOTICES.insert().values(site=site, **_values(notice)))


def prune(connection: sa.Connection, site: str, now_ms: int) -> int:
    """Remove ended notices that are old, or too many; how many."""
    ended = (NOTICES.c.site == site) & (NOTICES.c.outcome != QUEUED)
    gone = connection.execute(NOTICES.delete().where(ended, NOTICES.c.changed_ms < now_ms - KEPT_MS)).rowcount
    newest = sa.select(NOTICES.c.seq).where(ended).order_by(NOTICES.c.seq.desc()).offset(KEPT_MAX).limit(1)
    edge = connection.execute(newest).scalar()
    if edge is not None:
        gone += connection.execute(NOTICES.delete().where(ended, NOTICES.c.seq <= edge)).rowcount
    return gone


def _columns() -> "Iterable[sa.Column[object]]":
    return [NOTICES.c[name] for name in NoticeRow.__slots__]


def _notices(connection: sa.Connection, query: sa.Executable) -> list[NoticeRow]:
    return [NoticeRow(**row) for row in connection.execute(query).mappings()]


def _values(notice: NoticeRow) -> dict[str, object]:
    return {name: getattr(notice, name) for name in NoticeRow.__slots__}
