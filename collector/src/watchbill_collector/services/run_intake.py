"""What hosts say of commands and actions: judged at the door, and kept in the transaction that commits it.

Results are kept as the critical events they came in; `services/runs.py` writes them into the journals of their runs
afterwards, and reads back what it missed. Inventories replace each other: the newest whole one of a host is kept. One
that comes in parts is joined here; a host that was interrupted sends all parts again.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import sqlalchemy as sa

from watchbill.actions import bounds
from watchbill.actions.outcomes import (
    ACTIONS_INVENTORY,
    COMMAND_ACCEPTED,
    COMMAND_BREAKGLASS,
    COMMAND_FINISHED,
    COMMAND_REFUSED,
    COMMAND_STATES,
    Accepted,
    Breakglass,
    Finished,
    Inventory,
    Refused,
    States,
    read_accepted,
    read_breakglass,
    read_finished,
    read_inventory,
    read_refused,
    read_states,
)
from watchbill.clock import Clock
from watchbill.errors import Unreadable
from watchbill_collector.ingest.ports import CritEvent
from watchbill_collector.ingest.session import RecordRefused
from watchbill_collector.store import Store, audit, inventories
from watchbill_collector.store.audit import Entry
from watchbill_collector.store.inventories import InventoryRow

COMMAND_KINDS: Final = frozenset(
    {
        COMMAND_ACCEPTED,
        COMMAND_BREAKGLASS,
        COMMAND_FINISHED,
        COMMAND_REFUSED,
        COMMAND_STATES,
        ACTIONS_INVENTORY,
    }
)
UNREADABLE: Final = "command_event"
"""Why something is refused that is no event of a command."""
HOST: Final = "host"
"""The actor of what a host tells of itself."""
PARTS_MAX: Final = 64
"""Of one inventory."""
TOO_LARGE: Final = "inventory"
"""Why an inventory is refused that says more than one may."""

Told = Accepted | Finished | Refused | States
_READ: Final[Mapping[str, Callable[[bytes], Told | Breakglass | Inventory]]] = {
    COMMAND_ACCEPTED: read_accepted,
    COMMAND_BREAKGLASS: read_breakglass,
    COMMAND_FINISHED: read_finished,
    COMMAND_REFUSED: read_refused,
    COMMAND_STATES: read_states,
    ACTIONS_INVENTORY: read_inventory,
}


@dataclass(slots=True)
class Committed:
    """What one transaction kept: what hosts said of commands, in order, and whole inventories."""

    told: list[tuple[str, Told]] = field(default_factory=list)
    inventories: list[InventoryRow] = field(default_factory=list)
    glass: list[tuple[str, Breakglass]] = field(default_factory=list)
    """What root of hosts did without us."""


def read_command_event(kind: str, payload: bytes) -> Told | Breakglass | Inventory:
    """An event of one of COMMAND_KINDS. Raises Unreadable."""
    found = _READ[kind](payload)
    if isinstance(found, Inventory) and not 0 <= found.part < found.parts <= PARTS_MAX:
        raise Unreadable(f"{kind}: part {found.part} of {found.parts}, wanted at most {PARTS_MAX}")
    return found


class RunDoor:
    """Reads what comes, in the loop's thread, and keeps what means something, in the committing thread.

    What a host refused, and what was done there without us, goes into the audit in the transaction that keeps it.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._site = store.site
        self._clock = clock
        self._parts: dict[str, dict[int, Inventory]] = {}
        """Of the newest inventory of each host. The committing thread's alone."""
        self.refused = 0

    def read(
        self, _agent_id: str, kind: str, _event_id: bytes, payload: bytes
    ) -> Told | Breakglass | Inventory | None:
        """`Ingest.read_event`. Raises RecordRefused."""
        if kind not in COMMAND_KINDS:
            return None
        try:
            return read_command_event(kind, payload)
        except Unreadable as exc:
            self.refused += 1
            raise RecordRefused(UNREADABLE, str(exc)) from exc

    def write(
        self,
        connection: sa.Connection,
        agent_id: str,
        events: Sequence[CritEvent],
        now_ms: int,
        committed: Committed,
    ) -> None:
        """What new events of a host mean; into `committed` what is to be told after the commit."""
        for event in events:
            match event.content:
                case Inventory() as part:
                    whole = self._join(agent_id, part)
                    if whole is not None:
                        inventories.put(connection, self._site, agent_id, whole, now_ms)
                        committed.inventories.append(InventoryRow(agent_id, now_ms, whole))
                case Breakglass() as glass:
                    self._record(connection, _broken(agent_id, glass))
                    committed.told.append((agent_id, glass.accepted))
                    committed.glass.append((agent_id, glass))
                case Accepted() | Finished() | Refused() | States() as told:
                    if isinstance(told, Refused):
                        self._record(connection, _refused(agent_id, told))
                    committed.told.append((agent_id, told))
                case _:
                    pass

    def _record(self, connection: sa.Connection, entry: Entry) -> None:
        audit.append(connection, self._site, self._clock, entry)

    def _join(self, agent_id: str, part: Inventory) -> Inventory | None:
        """The whole inventory, once its last part is here."""
        parts = self._parts.setdefault(agent_id, {})
        if parts and next(iter(parts.values())).version != part.version:
            parts.clear()
        parts[part.part] = part
        if len(parts) < part.parts:
            return None
        # They stay until there is another version: should this transaction fail, only the last part comes again.
        actions = tuple(action for number in sorted(parts) for action in parts[number].actions)
        faults = tuple(fault for number in sorted(parts) for fault in parts[number].faults)
        if len(actions) > bounds.ACTIONS_MAX:
            self.refused += 1
            return None
        return replace(part, part=0, parts=1, actions=actions, faults=faults)


def _broken(agent_id: str, glass: Breakglass) -> Entry:
    """When it happened is the host's word (`at_ms`); when it was told is the row's own time."""
    accepted = glass.accepted
    detail = {
        "run": accepted.run,
        "step": accepted.step,
        "key": accepted.key,
        "runbook": glass.runbook,
        "bundle": glass.bundle,
        "action": glass.action,
        "attempt": glass.attempt,
        "uid": glass.uid,
        "reason": glass.reason,
        "approvers": list(accepted.approvers),
        "at_ms": accepted.at_ms,
    }
    return Entry(actor=HOST, action=COMMAND_BREAKGLASS, target=agent_id, detail=detail)


def _refused(agent_id: str, told: Refused) -> Entry:
    detail = {
        "run": told.run,
        "step": told.step,
        "key": told.key,
        "reason": told.reason.value,
        "detail": told.detail,
        "at_ms": told.at_ms,
    }
    return Entry(
        actor=HOST, action=COMMAND_REFUSED, target=agent_id, outcome=audit.Outcome.REFUSED, detail=detail
    )


class Inventories:
    """The newest whole inventory of each host, in memory. On the loop."""

    def __init__(self, store: Store) -> None:
        self.rows: dict[str, InventoryRow] = store.read(
            lambda connection: inventories.all_of(connection, store.site)
        )
        self.generation = 0

    def take(self, rows: Sequence[InventoryRow]) -> None:
        """These are committed."""
        for row in rows:
            self.rows[row.agent_id] = row
        self.generation += bool(rows)

    def forget(self, agent_id: str) -> None:
        """The host is gone."""
        with contextlib.suppress(KeyError):
            del self.rows[agent_id]
            self.generation += 1

    def ledger(self, agent_id: str) -> str:
        """Its ledger, as it last said; "" before it said any."""
        row = self.rows.get(agent_id)
        return "" if row is None else row.inventory.ledger
