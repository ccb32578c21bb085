"""What hosts said about commands, read back from the critical events that they were committed with.

A result is on the disk before its run knows of it. Whoever died in between, or had no room for it, finds it here.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import sqlalchemy as sa

from watchbill.actions.outcomes import (
    COMMAND_ACCEPTED,
    COMMAND_BREAKGLASS,
    COMMAND_FINISHED,
    COMMAND_REFUSED,
    Accepted,
    Finished,
    Refused,
    read_accepted,
    read_finished,
    read_refused,
)
from watchbill.errors import Unreadable
from watchbill_collector.store.schema import CRIT_RECORDS

KINDS: Final = (COMMAND_ACCEPTED, COMMAND_BREAKGLASS, COMMAND_FINISHED, COMMAND_REFUSED)
_READ: Final[Mapping[str, Callable[[bytes], Accepted | Finished | Refused]]] = {
    COMMAND_ACCEPTED: read_accepted,
    COMMAND_BREAKGLASS: read_accepted,
    COMMAND_FINISHED: read_finished,
    COMMAND_REFUSED: read_refused,
}


def since(
    connection: sa.Connection, site: str, received_ms: int
) -> Iterator[tuple[str, Accepted | Finished | Refused]]:
    """What hosts said from that moment on, in the order in which it came. What cannot be read was refused at the door
    and is left out."""
    table = CRIT_RECORDS.c
    query = (
        sa.select(table.agent_id, table.kind, table.payload)
        .where(table.site == site, table.kind.in_(KINDS), table.received_ms >= received_ms)
        .order_by(table.received_ms, table.agent_id, table.seq)
    )
    for row in connection.execute(query):
        try:
            found = _READ[row.kind](bytes(row.payload))
        except Unreadable:
            continue
        yield row.agent_id, found
