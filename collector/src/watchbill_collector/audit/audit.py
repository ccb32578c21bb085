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
from watchbill_collector.audit.chain import KEY_ACTION, ChainCheck, Mark, Verdict
from watchbill_collector.audit.signatures import SignatureCheck
from watchbill_collector.store import Store, checkpoints
from watchbill_collector.store import audit as rows
from watchbill_collector.store.audit import Entry, Filter, Head, Outcome, Row
from watchbill_collector.store.checkpoints import Checkpoint, Signer

CHECK_ROWS_AT_ONCE: Final = 2_000
MOVED_ROWS_MAX: Final = 1_000
"""By how many places rows may stand too far up, because others were taken out, and still be known by their marks."""
SYSTEM: Final = "system"
"""The actor of what nobody in particular asked for: a signal, a timer."""


class Audit:
    """The audit of a store. With a `signer` its checkpoints are signed, by every write from then on."""

    def __init__(self, store: Store, clock: Clock, signer: Signer | None = None) -> None:
        self._store = store
        self._clock = clock
        self._signer = signer
        if signer is not None:
            store.sign_with(signer)
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
        """Read the chain and its checkpoints from the beginning and say what is wrong with them."""
        head, signed = self._store.audit_head, self._store.audit_signed
        check = ChainCheck(self._store.site)
        signatures = SignatureCheck(self._store.site, self._signer.public if self._signer else b"")
        if head is not None:
            check.expect([Mark(head.seq, head.hash)])
        while True:
            found = self.after(check.read_to, CHECK_ROWS_AT_ONCE)
            self._read_checkpoints(signatures, check, found[-1].seq if found else None)
            if not found:
                break
            check.read(found)
        if self._signer is None:
            return check.verdict()
        return check.verdict().and_also(signatures.findings(signed), signatures.count)

    def _read_checkpoints(self, signatures: SignatureCheck, check: ChainCheck, until: int | None) -> None:
        """Those of the rows up to `until`, and some more because rows may have been moved; None: all that are left."""
        until = None if until is None else until + MOVED_ROWS_MAX
        while self._signer is not None:
            after = signatures.read_to
            read = self._store.read(lambda c, after=after: checkpoints.between(c, after, until))  # type: ignore[misc]
            if not read:
                return
            check.expect([Mark(one.seq, one.hash, one.at_ms) for one in signatures.read(read)])

    # ------------------------------------------------------------ checkpoints

    @property
    def unsigned(self) -> int:
        """Rows behind the newest checkpoint."""
        head, signed = self._store.audit_head, self._store.audit_signed
        return max(0, (head.seq if head is not None else 0) - (signed.seq if signed is not None else 0))

    def sign(self) -> Checkpoint | None:
        """Put a checkpoint under the newest row, if it has none; the new one. Blocks. Raises StorageError, Busy."""
        head, signed = self._store.audit_head, self._store.audit_signed
        if self._signer is None or head is None or (signed is not None and signed.seq >= head.seq):
            return None
        return self._store.write_blocking(lambda own: rows.sign(own, self._store.site, self._clock))

    def begin_signing(self) -> Checkpoint | None:
        """Before anything else is recorded: look whether the newest checkpoint fits its row, record the key where
        another signed before, and sign what nobody has signed yet. Gives the checkpoint that does not fit, if so.
        Blocks. Raises StorageError, Busy.
        """
        if self._signer is None:
            return None
        signed = self._store.audit_signed
        wrong = signed is not None and self.hashes([signed.seq]).get(signed.seq) != signed.hash
        if signed is None or signed.key != self._signer.public:
            before = signed.key.hex() if signed is not None else ""
            detail = {"public": self._signer.public.hex(), "public_before": before}
            self.record(None, SYSTEM, KEY_ACTION, "audit", detail=detail)
        self.sign()
        return signed if wrong else None


def _entry(actor: str, action: str, target: str, outcome: str, detail: Mapping[str, object] | None) -> Entry:
    return Entry(actor=actor, action=action, target=target, outcome=Outcome(outcome), detail=detail or {})
