"""Runbooks as rows: every text that was seen, who accepted it, and whether it could have been run when it was looked.

A text is known by its digest. The file in force is on the disk; these are what runs were pinned to.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from watchbill_collector.store.schema import RUNBOOK_ACCEPTANCES, RUNBOOK_PREFLIGHTS, RUNBOOK_TEXTS, RUNS

TEXTS_PER_RUNBOOK_MAX: Final = 200
"""Of one name; the oldest that no run has followed and nobody has accepted go."""
PREFLIGHTS_PER_RUNBOOK_MAX: Final = 500
"""Of one name; the oldest go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRow:
    """A runbook's text. `author` is who wrote it, "" when nobody can tell: a file on the collector."""

    digest: str
    name: str
    author: str
    seen_ms: int
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptanceRow:
    """Somebody said that this text may be run."""

    digest: str
    name: str
    person: str
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightRow:
    """A look whether it could be run. `problems` are why not."""

    name: str
    digest: str
    at_ms: int
    ready: bool
    problems: Sequence[str]


def see_text(connection: sa.Connection, site: str, text: TextRow) -> bool:
    """Keep a text; False when it is known."""
    table = RUNBOOK_TEXTS
    if connection.execute(sa.select(sa.literal(1)).where(table.c.digest == text.digest)).first() is not None:
        return False
    values = {name: getattr(text, name) for name in TextRow.__slots__}
    connection.execute(table.insert().values(site=site, **values))
    followed = sa.exists().where(RUNS.c.digest == table.c.digest)
    accepted = sa.exists().where(RUNBOOK_ACCEPTANCES.c.digest == table.c.digest)
    surplus = (
        sa.select(table.c.digest)
        .where(table.c.site == site, table.c.name == text.name, table.c.digest != text.digest)
        .where(~followed, ~accepted)
        .order_by(table.c.seen_ms.desc(), table.c.digest)
        .offset(TEXTS_PER_RUNBOOK_MAX - 1)
    )
    for digest in connection.execute(surplus.limit(TEXTS_PER_RUNBOOK_MAX)).scalars().all():
        connection.execute(table.delete().where(table.c.digest == digest))
    return True


def text(connection: sa.Connection, digest: str) -> TextRow | None:
    """One text."""
    return next(iter(texts(connection, (digest,))), None)


def texts(connection: sa.Connection, digests: Iterable[str]) -> list[TextRow]:
    """Several."""
    query = sa.select(*(RUNBOOK_TEXTS.c[name] for name in TextRow.__slots__))
    rows = connection.execute(query.where(RUNBOOK_TEXTS.c.digest.in_(list(digests)))).mappings()
    return [TextRow(**row) for row in rows]


def accept(connection: sa.Connection, site: str, row: AcceptanceRow) -> bool:
    """Somebody accepts a text; False when he had."""
    table = RUNBOOK_ACCEPTANCES
    where = (table.c.digest == row.digest) & (table.c.person == row.person)
    if connection.execute(sa.select(sa.literal(1)).where(where)).first() is not None:
        return False
    values = {name: getattr(row, name) for name in AcceptanceRow.__slots__}
    connection.execute(table.insert().values(site=site, **values))
    return True


def acceptances(connection: sa.Connection, site: str) -> dict[str, list[AcceptanceRow]]:
    """Who accepted which digest, in order."""
    table = RUNBOOK_ACCEPTANCES.c
    query = sa.select(*(table[name] for name in AcceptanceRow.__slots__)).where(table.site == site)
    found: dict[str, list[AcceptanceRow]] = {}
    for row in connection.execute(query.order_by(table.at_ms, table.person)).mappings():
        found.setdefault(row["digest"], []).append(AcceptanceRow(**row))
    return found


def add_preflight(connection: sa.Connection, site: str, row: PreflightRow) -> None:
    """Note a look."""
    table = RUNBOOK_PREFLIGHTS
    connection.execute(
        table.insert().values(
            site=site,
            name=row.name,
            digest=row.digest,
            at_ms=row.at_ms,
            ready=int(row.ready),
            detail=json.dumps(list(row.problems), separators=(",", ":")),
        )
    )
    surplus = (
        sa.select(table.c.place)
        .where(table.c.site == site, table.c.name == row.name)
        .order_by(table.c.place.desc())
        .offset(PREFLIGHTS_PER_RUNBOOK_MAX)
        .limit(PREFLIGHTS_PER_RUNBOOK_MAX)
    )
    places = connection.execute(surplus).scalars().all()
    connection.execute(table.delete().where(table.c.place.in_(places)))


def last_preflights(connection: sa.Connection, site: str) -> dict[str, PreflightRow]:
    """The newest look at each runbook, by name."""
    table = RUNBOOK_PREFLIGHTS.c
    newest = sa.select(sa.func.max(table.place)).where(table.site == site).group_by(table.name)
    rows = connection.execute(sa.select(RUNBOOK_PREFLIGHTS).where(table.place.in_(newest)))
    return {
        row.name: PreflightRow(
            name=row.name,
            digest=row.digest,
            at_ms=row.at_ms,
            ready=bool(row.ready),
            problems=tuple(json.loads(row.detail)),
        )
        for row in rows
    }
