"""Agents as witnesses of the audit, on the loop: what they are told of it, and what they show of that."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from watchbill.protocol.frames import AuditHead
from watchbill_collector.services.auditing import AuditKeeper
from watchbill_collector.store import Store

if TYPE_CHECKING:
    from watchbill_collector.audit import Head

COMPARED_EVERY_S: Final = 2.0
"""How often what agents showed is compared with the audit."""


class Witnessing:
    """Asked with every acknowledgement, and told of every Hello: both cost nothing here."""

    def __init__(self, store: Store, auditing: AuditKeeper) -> None:
        self._store = store
        self._auditing = auditing
        self._told: tuple[Head | None, AuditHead | None] = (None, None)
        self._shown: dict[str, Sequence[AuditHead]] = {}

    def head(self) -> AuditHead | None:
        """The newest row of the audit, made once for all who are told."""
        head = self._store.audit_head
        if head is not self._told[0]:
            self._told = (head, None if head is None else AuditHead(head.seq, head.hash))
        return self._told[1]

    def shown(self, agent_id: str, heads: Sequence[AuditHead]) -> None:
        """An agent shows what it was told; compared soon, all together, off the loop."""
        self._shown[agent_id] = heads

    async def compare(self) -> None:
        """Compare what was shown since the last time."""
        said, self._shown = self._shown, {}
        if said:
            await asyncio.to_thread(self._auditing.heard_all, said)
