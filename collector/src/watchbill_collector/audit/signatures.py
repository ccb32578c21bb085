"""Checks the checkpoints of the audit among themselves: pure. What they say of the rows is held against those by
`chain`.

What may have been done to them, and how it shows:

- one was *forged*, or changed: its signature does not hold.
- one was taken out: the next one names another as the one before it.
- all from some row on were taken out: this process knows of one that is not there; else rows that nobody signed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from watchbill_collector.audit.faults import Fault, Finding
from watchbill_collector.pki.keys import signature_is_right
from watchbill_collector.store.checkpoints import NONE_BEFORE, Checkpoint, message_of

KEY_SHOWN_CHARACTERS: Final = 16


@dataclass(slots=True)
class _Foreign:
    """Checkpoints in a row that are signed with the same key, which is not ours."""

    key: bytes
    first: int
    last: int
    count: int = 1


class SignatureCheck:
    """One reading of all checkpoints, in their order. `public` is the collector's key."""

    def __init__(self, site: str, public: bytes) -> None:
        self._site = site
        self._public = public
        self._mark = NONE_BEFORE
        self._foreign: _Foreign | None = None
        self._findings: list[Finding] = []
        self._newest: Checkpoint | None = None
        self.count = 0
        self.read_to = 0
        """The row of the checkpoint read last."""

    def read(self, checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
        """Take the next ones; those of them that can be believed."""
        believed = []
        for one in checkpoints:
            if self._one(one):
                believed.append(one)
            self._mark, self.read_to, self._newest = one.mark, one.seq, one
            self.count += 1
        return believed

    def findings(self, expected: Checkpoint | None = None) -> list[Finding]:
        """What was found after the last one. `expected` is known to have been written."""
        self._settle()
        newest = self._newest
        gone = expected is not None and (
            newest is None
            or newest.seq < expected.seq
            or (newest.seq == expected.seq and newest.signature != expected.signature)
        )
        if gone and expected is not None:
            words = f"the checkpoint of row {expected.seq}, which this collector has written, is gone"
            self._findings.append(Finding(Fault.FORGED, expected.seq, expected.seq, words))
        return self._findings

    def _one(self, one: Checkpoint) -> bool:
        if one.key != self._public:
            self._meet(one)
            return False
        self._settle()
        if one.site != self._site or not signature_is_right(one.key, one.signature, message_of(one)):
            words = f"the checkpoint of row {one.seq} was changed, or made by somebody else: its signature is wrong"
            self._findings.append(Finding(Fault.FORGED, one.seq, one.seq, words))
            return False
        if one.before != self._mark:
            words = f"a checkpoint between rows {self.read_to} and {one.seq} was taken out or exchanged"
            self._findings.append(Finding(Fault.FORGED, self.read_to, one.seq, words))
        return True

    def _meet(self, one: Checkpoint) -> None:
        if self._foreign is not None and self._foreign.key == one.key:
            self._foreign.last, self._foreign.count = one.seq, self._foreign.count + 1
            return
        self._settle()
        self._foreign = _Foreign(one.key, one.seq, one.seq)

    def _settle(self) -> None:
        """One finding for all that another key has signed."""
        if self._foreign is None:
            return
        met, self._foreign = self._foreign, None
        what = "a checkpoint" if met.count == 1 else f"{met.count} checkpoints"
        shown = met.key.hex()[:KEY_SHOWN_CHARACTERS]
        words = f"{what} of rows {met.first} to {met.last}: signed with the key {shown}, which is not the collector's"
        self._findings.append(Finding(Fault.FORGED, met.first, met.last, words))
