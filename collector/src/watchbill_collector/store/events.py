"""What happened to identities and access, for those who tell it by verb and reason: rows of the audit.

`watchbill_collector.store.audit` holds the chain; this keeps the short way in for what has one reason to be refused
for, and the short way to look.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa

from watchbill.clock import Clock
from watchbill_collector.store import audit
from watchbill_collector.store.audit import Entry, Filter, Outcome

OK: Final = "ok"


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
    done = event.outcome == OK
    audit.append(
        connection,
        site,
        clock,
        Entry(
            actor=event.actor,
            action=event.verb,
            target=event.target,
            outcome=Outcome.DONE if done else Outcome.REFUSED,
            source=event.source,
            detail=event.detail if done else {**event.detail, "reason": event.outcome},
        ),
    )


def recent(connection: sa.Connection, site: str, limit: int = 100) -> Sequence[EventRow]:
    """The newest `limit` events, newest first."""
    return [
        EventRow(row.seq, row.at_ms, row.action, row.target, row.actor, row.source, row.outcome, row.detail)
        for row in audit.rows_newest(connection, site, Filter(), limit)
    ]
