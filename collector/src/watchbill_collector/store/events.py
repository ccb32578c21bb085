"""What happened to identities and access: enrolments, refusals, revocations, logins. Rows are only ever
added.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa

from watchbill.clock import Clock
from watchbill_collector.store.schema import EVENTS
from watchbill_collector.store.text import canonical_json, harmless

OK: Final = "ok"
EVENTS_READ_MAX: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing somebody did or tried. `actor` is who, `source` the address it came from, `target` what it
    was done to, `outcome` "ok" or the reason it was refused for.
    """

    verb: str
    target: str
    actor: str
    source: str = ""
    outcome: str = OK
    detail: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event as recorded: `seq` is its place, the order of which is what counts, not the time."""

    seq: int
    at_ms: int
    verb: str
    target: str
    actor: str
    source: str
    outcome: str
    detail: str


def append(connection: sa.Connection, site: str, clock: Clock, event: Event) -> None:
    """Record `event` in the transaction of what it tells about."""
    connection.execute(
        EVENTS.insert().values(
            site=site,
            at_ms=clock.wall_ms(),
            boottime_ms=clock.boottime_ms(),
            actor=harmless(event.actor, 128),
            source=harmless(event.source, 64),
            verb=event.verb,
            object=harmless(event.target, 300),
            outcome=event.outcome,
            detail=canonical_json(event.detail),
        )
    )


def recent(connection: sa.Connection, site: str, limit: int = 100) -> Sequence[EventRow]:
    """The newest `limit` events, newest first."""
    query = sa.select(EVENTS).where(EVENTS.c.site == site).order_by(EVENTS.c.seq.desc())
    return [
        EventRow(
            seq=row["seq"],
            at_ms=row["at_ms"],
            verb=row["verb"],
            target=row["object"],
            actor=row["actor"],
            source=row["source"],
            outcome=row["outcome"],
            detail=row["detail"],
        )
        for row in connection.execute(query.limit(min(limit, EVENTS_READ_MAX))).mappings()
    ]
