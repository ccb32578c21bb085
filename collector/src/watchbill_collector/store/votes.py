"""Votes on gates, as they were handed in: who said what of which run, for whoever has to find a person's words."""

from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from watchbill_collector.store.runs import is_open
from watchbill_collector.store.schema import RUN_VOTES, RUNS

VOIDED_AT_ONCE: Final = 10_000
"""Of one person. A database takes no more places in one question; the runs themselves void what is beyond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteRow:
    """One vote. `signed` is empty for who was logged in at the page; `voided_ms` 0 while it holds."""

    run_id: str
    step: str
    manifest_digest: str
    person: str
    approve: bool
    at_ms: int
    comment: str
    signed: bytes
    voided_ms: int = 0
    voided_why: str = ""


def add(connection: sa.Connection, site: str, vote: VoteRow) -> None:
    """Keep one, in the transaction of the journal's row."""
    values: dict[str, object] = {name: getattr(vote, name) for name in VoteRow.__slots__}
    values["approve"] = int(vote.approve)
    connection.execute(RUN_VOTES.insert().values(site=site, **values))


def of_person(connection: sa.Connection, site: str, person: str) -> list[VoteRow]:
    """Everything that somebody said and that holds, the newest first."""
    table = RUN_VOTES.c
    query = sa.select(*(table[name] for name in VoteRow.__slots__)).where(
        table.site == site, table.person == person, table.voided_ms == 0
    )
    rows = connection.execute(query.order_by(table.place.desc())).mappings()
    return [
        VoteRow(**{**row, "approve": bool(row["approve"]), "signed": bytes(row["signed"])}) for row in rows
    ]


def void_in_open_runs(connection: sa.Connection, site: str, person: str, why: str, now_ms: int) -> list[str]:
    """What somebody said in runs that are open does not hold any more; the runs. Names of users are the same in
    capitals and small letters."""
    found = [row for row in _in_open_runs(connection, site, person) if not row.voided_ms]
    if found:
        places = [row.place for row in found]
        where = RUN_VOTES.c.place.in_(places[:VOIDED_AT_ONCE])
        connection.execute(RUN_VOTES.update().where(where).values(voided_ms=now_ms, voided_why=why))
    return sorted({row.run_id for row in found})


def voided_in_open_runs(connection: sa.Connection, site: str, person: str) -> list[str]:
    """The open runs in which something that somebody said is void."""
    return sorted({row.run_id for row in _in_open_runs(connection, site, person) if row.voided_ms})


def _in_open_runs(connection: sa.Connection, site: str, person: str) -> list[Any]:
    table = RUN_VOTES.c
    query = sa.select(table.place, table.run_id, table.person, table.voided_ms)
    query = query.join(RUNS, RUNS.c.run_id == table.run_id).where(table.site == site, is_open())
    return [row for row in connection.execute(query) if row.person.lower() == person.lower()]
