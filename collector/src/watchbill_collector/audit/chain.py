"""Checks a chain of audit rows: pure, row after row, in the order of their numbers.

What may have been done to rows, and how it shows:

- *edited*: the row does not have the hash that its content has. Whoever edits and mends the hash as well is found at
  the next row, which names another hash as the one before: then the row is *replaced*.
- *removed*: numbers are missing.
- *reordered*: the row has the hash that its content would have at another number: it was written there.
- *inserted*: the row fits no place, and the rows behind it are the right ones, moved by one.

A tail that was cut off, or written anew whole with all its hashes, is in itself a right chain. Only somebody who
remembers the old one can tell: see `witnesses`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from watchbill_collector.store.audit import Row, genesis, row_hash

FINDINGS_MAX: Final = 1_000
"""Findings kept; more are counted."""
REACH: Final = 64
"""How many numbers away a row's own place is looked for."""


class Fault(StrEnum):
    """What was done to a row."""

    EDITED = "edited"
    REPLACED = "replaced"
    REMOVED = "removed"
    REORDERED = "reordered"
    INSERTED = "inserted"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `seq` is the number it stands at, `to` the last one of a range (else the same).
    `detail` is a sentence.
    """

    fault: Fault
    seq: int
    to: int
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the check says: `rows` were read, the last is `seq` with `hash`."""

    rows: int
    seq: int
    hash: bytes
    findings: tuple[Finding, ...]
    findings_left_out: int

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


class ChainCheck:
    """One reading of a chain."""

    def __init__(self, site: str) -> None:
        self._rows = 0
        self._hash = genesis(site)
        self._before = self._hash  # The hash before the row read last.
        self._shift = 0  # By how many places rows stand behind where they were written.
        self._unplaced: Row | None = (
            None  # A row that fits nowhere: edited, or inserted if the next one says so.
        )
        self._self_right = True  # Whether the row read last has its own hash.
        self._away = 0  # How far up the row read last stands, when it was found to be reordered.
        self._findings: list[Finding] = []
        self._left_out = 0
        self.read_to = 0
        """The number of the row read last."""

    def read(self, rows: Sequence[Row]) -> None:
        """Take the next rows, ascending by number."""
        for row in rows:
            self._one(row)

    def verdict(self) -> Verdict:
        """What was found, after the last row."""
        self._settle()
        return Verdict(self._rows, self.read_to, self._hash, tuple(self._findings), self._left_out)

    def _one(self, row: Row) -> None:
        self._rows += 1
        if row.seq != self.read_to + 1:
            first, last = self.read_to + 1, row.seq - 1
            self._settle()
            what = f"row {first} is" if first == last else f"rows {first} to {last} are"
            self._find(Fault.REMOVED, first, last, f"{what} missing")
            self._take(row, row_hash(row, seq=row.seq - self._shift) == row.hash)
            if not self._self_right:
                self._find(Fault.EDITED, row.seq, row.seq, self._about(row, "was changed"))
            return
        right = row_hash(row, seq=row.seq - self._shift) == row.hash
        if right and row.prev_hash == self._hash:
            self._settle()
            self._take(row, True)
            return
        if right:
            # Its own content is as it was written: what stands before it is not.
            if self._unplaced is None and self._self_right and self.read_to:
                at = self.read_to
                self._find(Fault.REPLACED, at, at, f"row {at} was changed and its hash with it")
            self._settle()
            self._take(row, True)
            return
        self._misfit(row)

    def _misfit(self, row: Row) -> None:
        """A row whose content has not the hash it has, where it stands."""
        if (self._unplaced is not None or self._self_right) and self.read_to and self._stands_behind(row):
            at = self.read_to
            said = (
                f"row {at} was put in"
                if self._unplaced is None
                else self._about(self._unplaced, "was put in")
            )
            self._find(Fault.INSERTED, at, at, said)
            self._unplaced = None
            self._shift += 1
            self._take(row, True)
            return
        self._settle()
        written = self._written_at(row)
        away = 0 if written is None else written - (row.seq - self._shift)
        if away > 0 and away == self._away and row.prev_hash == self._hash:
            # The second in a row that stands too far up by the same distance, and they belong together.
            self._findings.pop()
            at = row.seq - 1
            self._find(Fault.REMOVED, at, at, f"{away} rows that stood before row {at} are missing")
            self._shift -= away
            self._away = 0
            self._take(row, True)
            return
        self._away = away
        if written is not None:
            self._find(Fault.REORDERED, row.seq, row.seq, self._about(row, f"was written as row {written}"))
            self._take(row, True)
            self._self_right = False
            return
        self._unplaced = row
        self._take(row, False)

    def _stands_behind(self, row: Row) -> bool:
        """Whether this row was written one place further up, right behind the row before the unplaced one."""
        return row.prev_hash == self._before and row_hash(row, seq=row.seq - self._shift - 1) == row.hash

    def _written_at(self, row: Row) -> int | None:
        """The number that the row was written under, if it is near."""
        here = row.seq - self._shift
        for away in range(1, REACH + 1):
            for seq in (here - away, here + away):
                if seq > 0 and row_hash(row, seq=seq) == row.hash:
                    return seq
        return None

    def _settle(self) -> None:
        """Nothing said that the unplaced row was put in: then it was changed."""
        if self._unplaced is not None:
            row, self._unplaced = self._unplaced, None
            self._find(Fault.EDITED, row.seq, row.seq, self._about(row, "was changed"))

    def _take(self, row: Row, self_right: bool) -> None:
        self._before = self._hash
        self._hash = row.hash
        self._self_right = self_right
        self.read_to = row.seq

    def _find(self, fault: Fault, seq: int, to: int, detail: str) -> None:
        if len(self._findings) < FINDINGS_MAX:
            self._findings.append(Finding(fault, seq, to, detail))
        else:
            self._left_out += 1

    @staticmethod
    def _about(row: Row, what: str) -> str:
        return f"row {row.seq} {what}; it says: {row.actor} {row.action} {row.target} {row.outcome}"
