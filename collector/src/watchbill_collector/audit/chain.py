"""Checks a chain of audit rows: pure, row after row, in the order of their numbers.

What may have been done to rows, and how it shows:

- *edited*: the row does not have the hash that its content has. Whoever edits and mends the hash as well is found at
  the next row, which names another hash as the one before: then the row is *replaced*.
- *removed*: numbers are missing.
- *reordered*: the row has the hash that its content would have at another number: it was written there.
- *inserted*: the row fits no place, and the rows behind it are the right ones, moved by one.

A tail that was cut off, or written anew whole with all its hashes, is in itself a right chain. Marks tell: rows that
the collector signed (`store.checkpoints`), and the row that it wrote last.

- *cut*: a mark lies behind the last row.
- *rewritten*: the chain does not hold the row of a mark, and nothing else says why.
- *unsigned*: more rows behind the last checkpoint than there can be.

Who has the collector's key as well can make all that anew; then only those who remember the old chain can tell: see
`witnesses`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from watchbill_collector.audit.faults import Fault, Finding
from watchbill_collector.store.audit import Row, genesis, row_hash
from watchbill_collector.store.checkpoints import ROWS_UNSIGNED_MAX

KEY_ACTION: Final = "audit.key"
"""The row that says with which key checkpoints are signed from here on."""
FINDINGS_MAX: Final = 1_000
"""Findings kept; more are counted."""
REACH: Final = 64
"""How many numbers away a row's own place is looked for."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A row as it is known to have been. `at_ms` is when it was signed; None: this process wrote it."""

    seq: int
    hash: bytes
    at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the check says: `rows` were read, the last is `seq` with `hash`. `checkpoints` were read, and the newest
    that fits is under row `signed_seq`.
    """

    rows: int
    seq: int
    hash: bytes
    findings: tuple[Finding, ...]
    findings_left_out: int
    checkpoints: int = 0
    signed_seq: int = 0

    def and_also(self, findings: Sequence[Finding], checkpoints: int) -> "Verdict":
        """The same with what was found out about the checkpoints themselves."""
        more = (*self.findings, *findings)
        return replace(
            self,
            findings=more[:FINDINGS_MAX],
            findings_left_out=self.findings_left_out + max(0, len(more) - FINDINGS_MAX),
            checkpoints=checkpoints,
        )

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
        self._marks: dict[bytes, Mark] = {}
        self._signed_to = 0  # The newest checkpoint whose row is here.
        self._to_be_signed = False  # From some row on, all are signed sooner or later.
        self.read_to = 0
        """The number of the row read last."""

    def expect(self, marks: Sequence[Mark]) -> None:
        """Rows that have to be there, told before they are read, or after the last."""
        for mark in marks:
            self._marks[mark.hash] = mark

    def read(self, rows: Sequence[Row]) -> None:
        """Take the next rows, ascending by number."""
        for row in rows:
            self._one(row)
            self._to_be_signed = self._to_be_signed or row.action == KEY_ACTION

    def verdict(self) -> Verdict:
        """What was found, after the last row."""
        self._settle()
        self._judge_marks()
        return Verdict(
            self._rows,
            self.read_to,
            self._hash,
            tuple(self._findings),
            self._left_out,
            signed_seq=self._signed_to,
        )

    def _judge_marks(self) -> None:
        """The marks whose rows were not met: what this means."""
        missed = sorted(self._marks.values(), key=lambda mark: mark.seq)
        cut = [mark for mark in missed if mark.seq > self.read_to]
        gone = [mark for mark in missed if mark.seq <= self.read_to and not self._explained(mark)]
        if gone:
            first, last = self._signed_to + 1, gone[-1].seq
            if gone[0].seq < first:  # Rows behind it are as they were signed: it alone was made anew.
                first = gone[0].seq
            words = f"rows {first} to {last} were written anew: row {gone[0].seq} is not the one that {_of(gone[0])}"
            self._find(Fault.REWRITTEN, first, last, words)
        if cut:
            first, last = self.read_to + 1, cut[-1].seq
            what = f"row {first} is" if first == last else f"rows {first} to {last} are"
            self._find(
                Fault.CUT,
                first,
                last,
                f"{what} missing at the end: there was a row {last} that {_of(cut[-1])}",
            )
        known = max([self._signed_to, *(mark.seq for mark in missed if mark.at_ms is not None)])
        if self._to_be_signed and self.read_to - known > ROWS_UNSIGNED_MAX:
            words = f"rows {known + 1} to {self.read_to} are not signed: checkpoints were taken out"
            self._find(Fault.UNSIGNED, known + 1, self.read_to, words)

    def _explained(self, mark: Mark) -> bool:
        """Whether a finding says already what became of the row of a mark."""
        places = (mark.seq, mark.seq + self._shift)
        return any(one.seq <= place <= one.to for one in self._findings for place in places)

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
        mark = self._marks.pop(row.hash, None)
        if mark is not None and mark.at_ms is not None:
            self._signed_to = max(self._signed_to, mark.seq)

    def _find(self, fault: Fault, seq: int, to: int, detail: str) -> None:
        if len(self._findings) < FINDINGS_MAX:
            self._findings.append(Finding(fault, seq, to, detail))
        else:
            self._left_out += 1

    @staticmethod
    def _about(row: Row, what: str) -> str:
        return f"row {row.seq} {what}; it says: {row.actor} {row.action} {row.target} {row.outcome}"


def _of(mark: Mark) -> str:
    if mark.at_ms is None:
        return "this collector wrote"
    return f"was signed at {datetime.fromtimestamp(mark.at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
