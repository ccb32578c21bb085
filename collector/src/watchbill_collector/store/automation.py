"""What holds for all runs and has to survive the collector: the epoch, how far orders were counted, pauses, breakers.

epoch          a number that grows when the collector is restored or replaced; hosts refuse a lower one
counter        orders were counted up to here; the next collector of this store begins above
pause          no trigger starts anything, and no run begins a step with an effect
breaker/NAME   since when the failures of a runbook are counted
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from watchbill_collector.store.schema import AUTOMATION
from watchbill_collector.store.text import canonical_json

EPOCH: Final = "epoch"
COUNTER: Final = "counter"
PAUSE: Final = "pause"
BREAKER: Final = "breaker/"
COUNTER_STEP: Final = 1_000
"""Orders that are counted in memory between two writes; so many numbers are skipped by a crash at most."""
FIRST_EPOCH: Final = 1


@dataclass(frozen=True, slots=True)
class Kept:
    """A value, who put it there, and when."""

    value: Mapping[str, Any]
    person: str
    changed_ms: int


def get(connection: sa.Connection, name: str) -> Kept | None:
    """A value, if there is one."""
    row = connection.execute(sa.select(AUTOMATION).where(AUTOMATION.c.name == name)).first()
    return None if row is None else Kept(json.loads(row.value), row.person, row.changed_ms)


def begin_with(connection: sa.Connection, site: str, prefix: str) -> dict[str, Kept]:
    """All values whose names begin so, by what follows."""
    table = AUTOMATION.c
    query = sa.select(AUTOMATION).where(table.site == site, table.name.startswith(prefix, autoescape=True))
    return {
        row.name.removeprefix(prefix): Kept(json.loads(row.value), row.person, row.changed_ms)
        for row in connection.execute(query)
    }


def put(
    connection: sa.Connection, site: str, name: str, value: Mapping[str, object], person: str, now_ms: int
) -> None:
    """Remember a value, in place of the one before."""
    remove(connection, name)
    row = {"name": name, "site": site, "value": canonical_json(value), "person": person, "changed_ms": now_ms}
    connection.execute(AUTOMATION.insert().values(**row))


def remove(connection: sa.Connection, name: str) -> None:
    """Forget a value."""
    connection.execute(AUTOMATION.delete().where(AUTOMATION.c.name == name))


def epoch(connection: sa.Connection) -> int:
    """The epoch of this collector."""
    found = get(connection, EPOCH)
    return FIRST_EPOCH if found is None else int(found.value["epoch"])


def raise_epoch(connection: sa.Connection, site: str, least: int, person: str, now_ms: int) -> int:
    """A higher epoch, at least `least`: from now on hosts that heard it obey no collector with the one before."""
    raised = max(epoch(connection) + 1, least)
    put(connection, site, EPOCH, {"epoch": raised}, person, now_ms)
    return raised


def take_counters(connection: sa.Connection, site: str, now_ms: int) -> int:
    """The first of COUNTER_STEP numbers that were never given out."""
    found = get(connection, COUNTER)
    first = 1 if found is None else int(found.value["below"])
    put(connection, site, COUNTER, {"below": first + COUNTER_STEP}, "", now_ms)
    return first
