"""The ledger: which commands this host has seen, how far each came, and the marks that only go up.

    cell 0          who it is: an id drawn when it was made, and when that was
    cells 8, 16     the marks, written in turn: highest epoch, its highest counter, highest roster serial
    from cell 24    two cells a command: what was decided (accepted or refused), and how far it came

1. What was decided is durable before anything follows from it. A key that was decided on is never decided on again.
2. How far a command came is written by its supervisor alone: `started`, durable, before the process is begun, then
   `finished` over it. A torn cell is one that had begun. Only who holds the command's lock may write it in its stead.
3. A command with an effect is remembered for LEDGER_DAYS, others as long as they may come again. Beyond SLOTS of
   those nothing is taken: forgetting one could run it twice.
4. A ledger that is lost is another ledger, with another id, and the collector knows that this one cannot tell. What was
   ordered before it was made is refused: the counters that would show a repetition are gone with the old one.
5. A decision that cannot be read any more makes it another ledger too, which keeps what can be read.
6. A decision on something protected holds the name of what people agreed to (`grants.Grant.id`), and is kept as long as
   that lasts: how often it began is how many such decisions there are. So it is counted before it is begun, in the very
   write that decides, and what was counted and perhaps never begun has begun. A ledger knows since when it counts
   (`counts_ms`); of what was agreed to before, it cannot tell.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from watchbill.actions.bounds import AGREED_DAYS_MAX, CLOCK_AHEAD_MS_MAX, DAY_MS, LEDGER_DAYS
from watchbill.errors import StorageError
from watchbill.files import make_directory
from watchbill_agent.runner import bounds
from watchbill_agent.runner.cells import Cells, Damaged, Disk

FILE: Final = "ledger"
CELL_BYTES: Final = 512
"""What a disk writes whole or not at all."""
MARKS: Final = (8, 16)
FIRST: Final = 24
"""Cells between them lie on pages of their own: one that is torn takes no other along."""
VERSION: Final = 2
"""Since it counts by agreements. A ledger of version 1 is read, and counts from then on."""
SET_ASIDE: Final = ".damaged"


class Class(StrEnum):
    """For how long a command is remembered."""

    EFFECT = "effect"
    LOOK = "look"
    REFUSED = "refused"


KEPT_MS: Final = {
    Class.EFFECT: LEDGER_DAYS * DAY_MS,
    Class.LOOK: bounds.LOOK_KEPT_MS,
    Class.REFUSED: bounds.REFUSAL_KEPT_MS,
}


@dataclass(frozen=True, slots=True)
class Marks:
    """What only goes up, so that nothing old is believed."""

    epoch: int = 0
    counter: int = 0
    roster: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One decision. `action` is "" where none was run; `reason` is the word of a refusal; `boottime_ms` counts with
    `boot` alone; `until_ms` is when it may be forgotten; `grant` is what people agreed to, "" where nobody had to.
    `slot` is its place."""

    key: str
    class_: Class
    action: str
    at_ms: int
    boot: str
    boottime_ms: int
    until_ms: int
    reason: str = ""
    grant: str = ""
    slot: int = -1

    def content(self) -> bytes:
        """For the cell."""
        agreed = {"g": self.grant} if self.grant else {}
        return _json(
            agreed
            | {
                "k": self.key,
                "c": self.class_.value,
                "a": self.action,
                "t": self.at_ms,
                "b": self.boot,
                "m": self.boottime_ms,
                "u": self.until_ms,
                "r": self.reason,
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an accepted command came. `outcome` is "" while it runs; `pid` with `born` name its supervisor."""

    key: str
    boot: str
    pid: int
    born: int
    started_ms: int
    outcome: str = ""
    ended_ms: int = 0
    exit_code: int | None = None
    signal: int | None = None
    output_bytes: int = 0
    output_digest: str = ""

    def content(self) -> bytes:
        """For the cell."""
        return _json(
            {
                "k": self.key,
                "b": self.boot,
                "p": self.pid,
                "s": self.born,
                "t": self.started_ms,
                "o": self.outcome,
                "e": self.ended_ms,
                "x": self.exit_code,
                "g": self.signal,
                "n": self.output_bytes,
                "d": self.output_digest,
            }
        )


TORN: Final = "torn"
"""In place of a progress that cannot be read: it had begun."""


class LedgerFull(StorageError):
    """Nothing that it holds may be forgotten."""


class Ledger:
    """An open ledger. Raises OSError where the disk fails; then nothing was decided."""

    def __init__(self, cells: Cells, now_ms: int, *, mend: bool = True) -> None:
        self._cells = cells
        self.slots = (cells.count - FIRST) // 2
        self._damaged: list[int] = []
        found = cells.read_all()
        who = _read(found[0])
        if who is None:
            raise Damaged(f"{cells.path}: it does not say who it is")
        self.id, self.made_ms = str(who["id"]), int(who["at"])
        self.counts_ms = int(who.get("counts", now_ms))
        if who["slots"] != self.slots:
            raise Damaged(f"{cells.path}: a part of it is missing")
        self._mark_number, self.marks = self._newest_marks(found)
        self._entries: dict[str, Entry] = {}
        self._free: list[int] = []
        for slot in range(self.slots):
            self._load(slot, found[FIRST + 2 * slot])
        self._free.reverse()
        if self._damaged and mend:
            self._another(now_ms)
        if mend:
            self._mend_times(now_ms)
        if mend and "counts" not in who:
            self._write_who()
            self._cells.sync()

    @staticmethod
    def join(disk: Disk, directory: Path) -> "Ledger":
        """For a supervisor: the ledger as it is, which the runner alone makes and mends. Raises OSError, Damaged."""
        path = directory / FILE
        size = path.stat().st_size
        return Ledger(Cells(disk, path, CELL_BYTES, size // CELL_BYTES), 0, mend=False)

    @staticmethod
    def open(disk: Disk, directory: Path, now_ms: int, slots: int = bounds.SLOTS) -> "Ledger":
        """The ledger of a directory; a new one where there is none, or none that can be read. Raises OSError."""
        path = directory / FILE
        count = FIRST + 2 * slots
        try:
            held = path.stat().st_size // CELL_BYTES
            if held < FIRST + 2:
                raise Damaged(f"{path}: {held} cells")
            return Ledger(Cells(disk, path, CELL_BYTES, held), now_ms)
        except FileNotFoundError:
            make_directory(directory)
        except Damaged:
            path.replace(path.with_name(path.name + SET_ASIDE))
        new = path.with_name(path.name + ".new")
        new.unlink(missing_ok=True)
        Cells.make(new, CELL_BYTES, count)
        cells = Cells(disk, new, CELL_BYTES, count)
        cells.write(0, _who(os.urandom(16).hex(), now_ms, now_ms, slots))
        cells.write(MARKS[0], _json({"n": 1, "e": 0, "c": 0, "r": 0}))
        cells.sync()
        cells.close()
        new.replace(path)
        return Ledger(Cells(disk, path, CELL_BYTES, count), now_ms)

    def close(self) -> None:
        """Give the file back."""
        self._cells.close()

    # ------------------------------------------------------------ what is known

    def find(self, key: str) -> Entry | None:
        """What was decided on a key."""
        return self._entries.get(key)

    def progress(self, entry: Entry) -> Progress | str | None:
        """How far it came, as the disk says now: None when nothing says that it began, TORN."""
        try:
            found = _read(self._cells.read(FIRST + 2 * entry.slot + 1))
        except Damaged:
            return TORN
        if found is None or found["k"] != entry.key:
            return None
        return Progress(
            key=entry.key,
            boot=found["b"],
            pid=found["p"],
            born=found["s"],
            started_ms=found["t"],
            outcome=found["o"],
            ended_ms=found["e"],
            exit_code=found["x"],
            signal=found["g"],
            output_bytes=found["n"],
            output_digest=found["d"],
        )

    def runs_of(self, action: str) -> Iterator[Entry]:
        """What was accepted of an action."""
        return (entry for entry in self._entries.values() if entry.action == action)

    def begun(self, grant: str) -> int:
        """How often what people agreed to has begun, or may have."""
        return sum(entry.grant == grant for entry in self._entries.values())

    @property
    def damaged(self) -> int:
        """Decisions that could not be read when it was opened."""
        return len(self._damaged)

    @property
    def held(self) -> int:
        """Commands that it remembers."""
        return len(self._entries)

    # ------------------------------------------------------------ what is written

    def decide(self, entry: Entry, marks: Marks) -> Entry:
        """Write down a decision together with the marks of its order, durable when this returns.

        Raises LedgerFull, OSError.
        """
        assert entry.key not in self._entries, "a key is decided on once"
        slot = self._place(entry.at_ms)
        entry = replace(entry, slot=slot)
        self._cells.write(FIRST + 2 * slot, entry.content(), b"")
        self._write_marks(marks)
        self._cells.sync()
        self._entries[entry.key] = entry
        self.marks = marks
        return entry

    def raise_marks(self, marks: Marks) -> None:
        """Write down marks alone, durable when this returns. Raises OSError."""
        if marks != self.marks:
            self._write_marks(marks)
            self._cells.sync()
            self.marks = marks

    def advance(self, entry: Entry, progress: Progress) -> None:
        """How far a command came, durable when this returns; for who holds its lock. Raises OSError."""
        self._cells.write(FIRST + 2 * entry.slot + 1, progress.content())
        self._cells.sync()

    def _write_marks(self, marks: Marks) -> None:
        if marks == self.marks:
            return
        self._mark_number += 1
        content = {"n": self._mark_number, "e": marks.epoch, "c": marks.counter, "r": marks.roster}
        self._cells.write(MARKS[self._mark_number % 2], _json(content))

    def _place(self, now_ms: int) -> int:
        if self._free:
            return self._free.pop()
        oldest = min(self._entries.values(), key=lambda one: one.until_ms)
        if oldest.until_ms > now_ms:
            raise LedgerFull(
                f"the ledger remembers {len(self._entries)} commands, of which none may be forgotten yet"
            )
        del self._entries[oldest.key]
        return oldest.slot

    # ------------------------------------------------------------ reading it

    def _newest_marks(self, found: list[bytes | Damaged | None]) -> tuple[int, Marks]:
        """The newer of two. One may be torn: it was being written, and whoever wrote it had told nobody yet."""
        read = [one for place in MARKS if (one := _read_or_none(found[place])) is not None]
        if not read:
            raise Damaged(f"{self._cells.path}: both marks are damaged")
        newest = max(read, key=lambda one: int(one["n"]))
        return int(newest["n"]), Marks(int(newest["e"]), int(newest["c"]), int(newest["r"]))

    def _load(self, slot: int, cell: bytes | Damaged | None) -> None:
        try:
            found = _read(cell)
        except Damaged:
            self._damaged.append(slot)
            self._free.append(slot)
            return
        if found is None:
            self._free.append(slot)
            return
        self._entries[found["k"]] = Entry(
            key=found["k"],
            class_=Class(found["c"]),
            action=found["a"],
            at_ms=found["t"],
            boot=found["b"],
            boottime_ms=found["m"],
            until_ms=found["u"],
            reason=found["r"],
            grant=found.get("g", ""),
            slot=slot,
        )

    def _mend_times(self, now_ms: int) -> None:
        """What was written by a clock that was ahead counts from now on: else nothing would be taken before that time
        came, and nothing forgotten."""
        ahead = [entry for entry in self._entries.values() if entry.at_ms > now_ms + CLOCK_AHEAD_MS_MAX]
        for entry in ahead:
            kept_ms = max(entry.until_ms - entry.at_ms, AGREED_DAYS_MAX * DAY_MS if entry.grant else 0)
            mended = replace(entry, at_ms=now_ms, until_ms=now_ms + kept_ms)
            self._cells.write(FIRST + 2 * entry.slot, mended.content())
            self._entries[entry.key] = mended
        if max(self.made_ms, self.counts_ms) > now_ms + CLOCK_AHEAD_MS_MAX:
            self.made_ms, self.counts_ms = min(self.made_ms, now_ms), min(self.counts_ms, now_ms)
            self._write_who()
        elif not ahead:
            return
        self._cells.sync()

    def _another(self, now_ms: int) -> None:
        """What it held it may not know any more: from now on it is another ledger."""
        self.id, self.made_ms, self.counts_ms = os.urandom(16).hex(), now_ms, now_ms
        for slot in self._damaged:
            self._cells.write(FIRST + 2 * slot, b"", b"")
        self._write_who()
        self._cells.sync()

    def _write_who(self) -> None:
        self._cells.write(0, _who(self.id, self.made_ms, self.counts_ms, self.slots))


def _who(id_: str, at_ms: int, counts_ms: int, slots: int) -> bytes:
    return _json({"v": VERSION, "id": id_, "at": at_ms, "counts": counts_ms, "slots": slots})


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _read(cell: bytes | Damaged | None) -> dict[str, Any] | None:
    if isinstance(cell, Damaged):
        raise cell
    return None if cell is None else json.loads(cell)


def _read_or_none(cell: bytes | Damaged | None) -> dict[str, Any] | None:
    return None if isinstance(cell, Damaged) else _read(cell)
