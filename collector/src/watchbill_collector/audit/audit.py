"""Recording and reading the audit of one store.

What changes the store records in the same transaction: both are there or neither is. What changes something else
records when it is done, and what is refused when it is refused. A row that cannot be written is an error to whoever
acts: what cannot be audited is not done.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import sqlalchemy as sa

from watchbill.clock import Clock
from watchbill.errors import Busy, StorageError
from watchbill_collector.audit.chain import ChainCheck, Verdict
from watchbill_collector.store import Store
from watchbill_collector.store import audit as rows
from watchbill_collector.store.audit import Entry, Filter, Head, Outcome, Row

CHECK_ROWS_AT_ONCE: Final = 2_000
SYSTEM: Final = "system"
"""The actor of what nobody in particular asked for: a signal, a timer."""


class Audit:
    """The audit of a store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.failed = 0
        """Rows that could not be written, since the start."""

    def head(self) -> Head | None:
        """The newest committed row; None before the first. Costs nothing; from any thread."""
        return self._store.audit_head

    def record(
        self,
        connection: sa.Connection | None,
        actor: str,
        action: str,
        target: str,
        outcome: str = Outcome.DONE,
        detail: Mapping[str, object] | None = None,
    ) -> None:
        """Record one thing in the transaction of `connection`, or without one in a transaction of its own, waiting
        for its commit. Raises StorageError, Busy.
        """
        entry = _entry(actor, action, target, outcome, detail)
        if connection is not None:
            rows.append(connection, self._store.site, self._clock, entry)
            return
        try:
            self._store.write_blocking(lambda own: rows.append(own, self._store.site, self._clock, entry))
        except (StorageError, Busy):
            self.failed += 1
            raise

    async def record_async(
        self,
        actor: str,
        action: str,
        target: str,
        outcome: str = Outcome.DONE,
        detail: Mapping[str, object] | None = None,
    ) -> None:
        """As `record` in a transaction of its own, on an event loop."""
        await self.record_all([_entry(actor, action, target, outcome, detail)])

    async def record_all(self, entries: Sequence[Entry]) -> None:
        """Several, in order, in one transaction. Raises StorageError, Busy."""
        if not entries:
            return

        def work(connection: sa.Connection) -> None:
            for entry in entries:
                rows.append(connection, self._store.site, self._clock, entry)

        try:
            await self._store.write(work)
        except (StorageError, Busy):
            self.failed += 1
            raise

    # ------------------------------------------------------------ reading; these block

    def newest(self, wanted: Filter, limit: int) -> list[Row]:
        """Rows that fit, newest first."""
        return self._store.read(lambda c: rows.rows_newest(c, self._store.site, wanted, limit))

    def after(self, seq: int, limit: int) -> list[Row]:
        """Rows in order, for export."""
        return self._store.read(lambda c: rows.rows_from(c, seq, limit))

    def hashes(self, numbers: Sequence[int]) -> dict[int, bytes]:
        """What the chain holds at these numbers."""
        return self._store.read(lambda c: rows.hashes_of(c, numbers))

    def check(self) -> Verdict:
        """Read the chain from its beginning and say what is wrong with it."""
        check = ChainCheck(self._store.site)
        while True:
            found = self.after(check.read_to, CHECK_ROWS_AT_ONCE)
            if not found:
                return check.verdict()
            check.read(found)


def _entry(actor: str, action: str, target: str, outcome: str, detail: Mapping[str, object] | None) -> Entry:
    return Entry(actor=actor, action=action, target=target, outcome=Outcome(outcome), detail=detail or {})
