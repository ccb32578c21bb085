"""What hosts say they can do: the newest whole inventory of each."""

import zlib
from dataclasses import dataclass, replace
from typing import Final

import sqlalchemy as sa

from watchbill.actions.outcomes import Inventory, read_inventory
from watchbill_collector.store.schema import ACTION_INVENTORIES

_COMPRESSION: Final = 1


@dataclass(frozen=True, slots=True)
class InventoryRow:
    """An inventory with all its parts, and when it came."""

    agent_id: str
    received_ms: int
    inventory: Inventory


def put(connection: sa.Connection, site: str, agent_id: str, inventory: Inventory, now_ms: int) -> None:
    """Keep a whole inventory in place of the one before."""
    whole = replace(inventory, part=0, parts=1)
    table = ACTION_INVENTORIES
    connection.execute(table.delete().where(table.c.agent_id == agent_id))
    # In pieces of one action each: the document of a whole inventory is longer than what a host may send at once.
    parts = [replace(whole, actions=())] + [
        replace(whole, actions=(one,), faults=()) for one in whole.actions
    ]
    body = zlib.compress(b"\n".join(part.to_json() for part in parts), _COMPRESSION)
    row = {"agent_id": agent_id, "site": site, "version": whole.version, "received_ms": now_ms, "body": body}
    connection.execute(table.insert().values(**row))


def all_of(connection: sa.Connection, site: str) -> dict[str, InventoryRow]:
    """Every host's, by agent id."""
    table = ACTION_INVENTORIES
    rows = connection.execute(sa.select(table).where(table.c.site == site))
    return {row.agent_id: InventoryRow(row.agent_id, row.received_ms, _read(bytes(row.body))) for row in rows}


def remove(connection: sa.Connection, agent_id: str) -> None:
    """A host is forgotten."""
    connection.execute(ACTION_INVENTORIES.delete().where(ACTION_INVENTORIES.c.agent_id == agent_id))


def _read(body: bytes) -> Inventory:
    first, *others = (read_inventory(line) for line in zlib.decompress(body).split(b"\n"))
    return replace(first, actions=tuple(action for one in others for action in one.actions))
