"""What is known of one job: its records, folded in the order they arrived, into what judging needs and no more.

Everything here has a bound, whatever a host sends. The same record twice changes nothing; records of runs may come in
any order, days late; of two observations the one of the later moment holds.

A record's times are the host's. They are corrected by what is known of its clock, and none may be later than the
record's arrival: a time of the future is marked as such and proves nothing.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from copy import copy as shallow
from typing import Final

import msgspec

from watchbill.backups.definition import COPIES_MAX, SIZE_WINDOW_MAX, Copy
from watchbill.backups.record import Kind, Level, Outcome, Record
from watchbill_collector.backups.ledger import Ledger
from watchbill_collector.backups.runs import FUTURE_MS, Run, joined, run_of

RUNS_KEPT: Final = 10
"""Newest runs that are kept whole; of older ones the sizes, and the newest good one."""
SIZES_KEPT: Final = 2 * SIZE_WINDOW_MAX
COPIES_KEPT: Final = COPIES_MAX + 1
"""One more than a job may define: the repository of a job that defines none has no name. Records of others are left out
and counted."""
PROOFS_KEPT: Final = 400
"""Of a copy and level: a whole made of parts is recognised up to so many of them. The oldest go."""


_RUN: Final = Kind.RUN
_OK: Final = Outcome.OK
"""Looked up once: a member of an enumeration takes as long to find as the rest of a line here."""


Told = tuple[Record, int, int]
"""A record, when it arrived, and what is added to its host's times. Bare: nine million of them are made at a start, and
a tuple with names takes as long to make as all else that is done to a record."""


class Seen(msgspec.Struct, frozen=True, gc=False):
    """A repository that could be read, from `began_ms` to `at_ms`. `point_ms`: the newest point that can be restored,
    by its word; `made_ms`: when its newest snapshot was made, which logs that are stored since make the point newer
    than. `locked_since_ms`, `running_since_ms`: every look since then found it locked, or a backup going on; 0 when
    this one did not."""

    at_ms: int
    began_ms: int
    outcome: Outcome
    point_ms: int
    made_ms: int
    future_ms: int
    running: bool
    bytes_source: int | None
    bytes_stored: int | None
    reason: str
    error: str
    locked_since_ms: int
    repo_id: str
    running_since_ms: int = 0

    @property
    def size(self) -> int | None:
        """Of the newest point, in bytes."""
        return self.bytes_stored if self.bytes_source is None else self.bytes_source


class Unread(msgspec.Struct, frozen=True, gc=False):
    """A repository that could not be read, and why."""

    at_ms: int
    reason: str
    error: str


class Proven(msgspec.Struct, frozen=True, gc=False, order=True):
    """What one verification found of a copy. `point_ms` is 0 when it does not say which point it looked at."""

    at_ms: int
    record_id: str
    ok: bool
    fraction: float
    point_ms: int
    bad: int
    error: str


class Sizes:
    """Sizes of good points, oldest first. Pairs in one array: ninety days of a daily job are 1.4 kB."""

    __slots__ = ("_pairs",)

    def __init__(self) -> None:
        self._pairs = array("q")

    def add(self, at_ms: int, size: int) -> None:
        """One more, or the same once more."""
        pairs = self._pairs
        if not pairs or at_ms > pairs[-2]:
            pairs.append(at_ms)
            pairs.append(size)
        else:
            stamps = pairs[::2]
            place = bisect_right(stamps, at_ms)
            if place and stamps[place - 1] == at_ms:
                pairs[2 * place - 1] = size
                return
            pairs[2 * place : 2 * place] = array("q", (at_ms, size))
        if len(pairs) > 2 * SIZES_KEPT:
            del pairs[:2]

    def add_newer(self, pairs: Sequence[int]) -> None:
        """Many more, moment and size by turns, each newer than the one before."""
        if self._pairs and pairs[0] <= self._pairs[-2]:
            for place in range(0, len(pairs), 2):
                self.add(pairs[place], pairs[place + 1])
            return
        self._pairs.extend(pairs)
        if len(self._pairs) > 2 * SIZES_KEPT:
            del self._pairs[: -2 * SIZES_KEPT]

    def newest(self, count: int) -> list[int]:
        """The newest of them, oldest first."""
        return (
            self._pairs[1 - 2 * count :: 2].tolist() if 0 < count < len(self) else self._pairs[1::2].tolist()
        )

    def __len__(self) -> int:
        return len(self._pairs) // 2


class CopySeen:
    """What is known of one copy."""

    __slots__ = ("ledger", "proofs", "seen", "sizes", "unproven", "unread")

    def __init__(self) -> None:
        self.seen: Seen | None = None
        self.unread: Unread | None = None
        self.ledger: Ledger | None = None
        self.sizes: Sizes | None = None
        self.proofs: dict[Level, list[Proven]] = {}
        self.unproven: Unread | None = None

    @property
    def seen_ms(self) -> int:
        """When it was read last; 0 for never."""
        return self.seen.at_ms if self.seen is not None else 0

    @property
    def unreadable(self) -> Unread | None:
        """Why it cannot be read now; None when it can, or was never looked at."""
        if self.unread is None or (self.seen is not None and self.seen.at_ms >= self.unread.at_ms):
            return None
        return self.unread


class Evidence:
    """Of one job. `runs` are the newest, in the order they began; `good_before` is the newest good one of those that
    are not kept. `late` counts records that came after what they tell of was not kept any more, `strange` those of
    copies beyond the bound. `size_max`: no good run was larger."""

    __slots__ = (
        "_evicted_ms",
        "_ids",
        "copies",
        "good_before",
        "late",
        "records",
        "runs",
        "size_max",
        "sizes",
        "strange",
    )

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.good_before: Run | None = None
        self.sizes: Sizes | None = None
        self.copies: dict[str, CopySeen] = {}
        self.records = 0
        self.late = 0
        self.strange = 0
        self.size_max = 0
        self._ids: list[str] = []
        self._evicted_ms = 0

    def add(self, record: Record, received_ms: int, shift_ms: int) -> None:
        """Fold a record in. `shift_ms` is what is added to the host's times."""
        self.records += 1
        if record.kind is _RUN:
            self._run(run_of(record, received_ms, shift_ms))
        else:
            self._look(record, received_ms, shift_ms)

    def add_all(self, told: Iterable[Told]) -> None:
        """Fold in many, in the order they arrived; the same as one by one, in a third of the time.

        Runs that came one after the other, as nearly all do, are taken together: no `Run` is made of one that ten
        newer ones follow. What is told of a look or a proof has nothing to do with runs, so it does not part them.
        """
        plain: list[Told] = []
        newest_ms, ids = self._newest_ms, set(self._ids)
        for one in told:
            record, received_ms, shift_ms = one
            self.records += 1
            if record.kind is not _RUN:
                self._look(record, received_ms, shift_ms)
                continue
            started_ms, limit_ms = record.started_ms, received_ms - shift_ms
            run_id = record.run_id or record.record_id
            if (
                started_ms + shift_ms > newest_ms
                and 0 < started_ms <= limit_ms
                and record.observed_ms <= limit_ms
                and record.finished_ms <= limit_ms
                and record.point_ms <= limit_ms
                and run_id not in ids
            ):
                newest_ms = started_ms + shift_ms
                ids.add(run_id)
                plain.append(one)
            else:
                self._take(plain)
                self._run(run_of(record, received_ms, shift_ms))
                plain, newest_ms, ids = [], self._newest_ms, set(self._ids)
        self._take(plain)

    def about(self, copies: Sequence[Copy]) -> "Evidence":
        """The same without the copies that the job does not have any more: nothing new will be heard of them."""
        held = self.copies
        if not held or (not copies and len(held) == 1 and "" in held):
            return self
        named = {copy.name for copy in copies}
        newest_ms = max((held[name].seen_ms for name in named & held.keys()), default=0)
        left = {
            name: copy
            for name, copy in held.items()
            if name in named or (not name and (not copy.seen_ms or not newest_ms))
        }
        if len(left) == len(held):
            return self
        other = shallow(self)
        other.copies = left
        return other

    def good_sizes(self, count: int) -> list[int]:
        """The newest sizes of good runs, oldest first."""
        kept = [
            size
            for run in self.runs
            if run.outcome is _OK
            and (size := run.bytes_stored if run.bytes_source is None else run.bytes_source) is not None
        ]
        if len(kept) >= count or self.sizes is None:
            return kept[-count:]
        return self.sizes.newest(count - len(kept)) + kept

    @property
    def _newest_ms(self) -> int:
        """What begins later is newer than all that is known."""
        return max(self.runs[-1].began_ms if self.runs else 0, self._evicted_ms, 0)

    def _take(self, plain: Sequence[Told]) -> None:
        """Runs that each began later than all before, with nothing in them that is later than its arrival."""
        beyond = max(len(self.runs) + len(plain) - RUNS_KEPT, 0)
        gone, self.runs = self.runs[:beyond], self.runs[beyond:]
        for run in gone:
            self._evict(run)
        beyond -= len(gone)
        self._pass(plain[:beyond])
        kept = [run_of(*one) for one in plain[beyond:]]
        for run in kept:
            self._weigh(run)
        self.runs += kept
        self._ids = [run.run_id for run in self.runs]

    def _pass(self, plain: Sequence[Told]) -> None:
        """What is kept of runs that are not kept, without making any of them."""
        good: Told | None = None
        good_ms = self.good_before.point_ms if self.good_before is not None else _BEFORE_ALL_MS
        pairs: list[int] = []
        for one in plain:
            record, _, shift_ms = one
            if record.outcome is not _OK:
                continue
            began_ms = record.started_ms + shift_ms
            size = record.bytes_source
            if size is None:
                size = record.bytes_stored
            if size is not None:
                pairs.append(began_ms)
                pairs.append(size)
            point_ms = (record.point_ms + shift_ms if record.point_ms > 0 else 0) or began_ms
            if point_ms >= good_ms:
                good, good_ms = one, point_ms
        if plain:
            self._evicted_ms = plain[-1][0].started_ms + plain[-1][2]
        if good is not None:
            self.good_before = run_of(*good)
        if pairs:
            if self.sizes is None:
                self.sizes = Sizes()
            self.sizes.add_newer(pairs)
            self.size_max = max(self.size_max, *pairs[1::2])

    def _run(self, run: Run) -> None:
        runs, ids = self.runs, self._ids
        if run.run_id in ids:
            place = ids.index(run.run_id)
            run = joined(runs.pop(place), run)
            del ids[place]
        elif run.began_ms <= self._evicted_ms:
            self.late += 1
            return
        self._weigh(run)
        if not runs or run.began_ms > runs[-1].began_ms:
            runs.append(run)
            ids.append(run.run_id)
        else:
            place = bisect_right(runs, _order(run), key=_order)
            runs.insert(place, run)
            ids.insert(place, run.run_id)
        if len(runs) > RUNS_KEPT:
            del ids[0]
            self._evict(runs.pop(0))

    def _weigh(self, run: Run) -> None:
        size = run.bytes_stored if run.bytes_source is None else run.bytes_source
        if size is not None and size > self.size_max and run.outcome is _OK:
            self.size_max = size

    def _evict(self, run: Run) -> None:
        self._evicted_ms = run.began_ms
        if run.outcome is not _OK:
            return
        size = run.bytes_stored if run.bytes_source is None else run.bytes_source
        if size is not None:
            if self.sizes is None:
                self.sizes = Sizes()
            self.sizes.add(run.began_ms, size)
        if not run.ahead and (self.good_before is None or run.point_ms >= self.good_before.point_ms):
            self.good_before = run

    def _look(self, record: Record, received_ms: int, shift_ms: int) -> None:
        if record.kind is Kind.OBSERVE:
            self._observe(record, received_ms, shift_ms)
        else:
            self._prove(record, received_ms, shift_ms)

    def _copy(self, name: str) -> CopySeen | None:
        copy = self.copies.get(name)
        if copy is None:
            if len(self.copies) >= COPIES_KEPT:
                self.strange += 1
                return None
            copy = self.copies[name] = CopySeen()
        return copy

    def _observe(self, record: Record, received_ms: int, shift_ms: int) -> None:
        copy = self._copy(record.copy)
        if copy is None:
            return
        at_ms = min(record.observed_ms + shift_ms, received_ms)
        error = record.errors[0] if record.errors else ""
        if record.outcome is Outcome.UNKNOWN:
            if copy.unread is None or at_ms >= copy.unread.at_ms:
                copy.unread = Unread(at_ms, record.reason, error)
            return
        before = copy.seen
        if before is not None and at_ms < before.at_ms:
            self.late += 1
            return
        if record.snapshots is not None:
            if copy.ledger is None:
                copy.ledger = Ledger()
            replaced = (
                before is not None and bool(before.repo_id) and record.repo_id not in ("", before.repo_id)
            )
            copy.ledger.seen_at(at_ms, record.snapshots, shift_ms, replaced=replaced)
        point_ms = record.point_ms + shift_ms if record.point_ms > 0 else 0
        future_ms = point_ms if point_ms > at_ms + FUTURE_MS else 0
        made_ms = 0 if future_ms else min(point_ms, at_ms)
        if copy.ledger is not None and record.snapshots is not None:
            newest_ms = copy.ledger.newest_ms
            made_ms = (
                min(newest_ms, at_ms) if not copy.ledger.future_ms else copy.ledger.newest_not_after(at_ms)
            )
        seen = Seen(
            at_ms=at_ms,
            began_ms=min(record.started_ms + shift_ms, at_ms) if record.started_ms > 0 else at_ms,
            outcome=record.outcome,
            point_ms=0 if future_ms else min(point_ms, at_ms),
            made_ms=made_ms,
            future_ms=future_ms,
            running=record.outcome is Outcome.RUNNING,
            bytes_source=record.bytes_source,
            bytes_stored=record.bytes_stored,
            reason=record.reason,
            error=error,
            locked_since_ms=(before.locked_since_ms if before else 0) or at_ms if record.repo_locked else 0,
            repo_id=record.repo_id or (before.repo_id if before else ""),
            running_since_ms=((before.running_since_ms if before else 0) or at_ms)
            if record.outcome is Outcome.RUNNING
            else 0,
        )
        copy.seen = seen
        if made_ms and seen.size is not None and seen.outcome is not Outcome.FAILED:
            if copy.sizes is None:
                copy.sizes = Sizes()
            copy.sizes.add(made_ms, seen.size)

    def _prove(self, record: Record, received_ms: int, shift_ms: int) -> None:
        copy = self._copy(record.copy)
        if copy is None:
            return
        at_ms = min((record.finished_ms or record.observed_ms) + shift_ms, received_ms)
        error = record.errors[0] if record.errors else record.reason
        proof = record.verify
        if proof is None and (record.kind is not Kind.RESTORE or record.outcome in _NO_WORD):
            if record.outcome is not Outcome.RUNNING and (
                copy.unproven is None or at_ms >= copy.unproven.at_ms
            ):
                copy.unproven = Unread(at_ms, record.reason, error)
            return
        point_ms = min(record.point_ms + shift_ms, at_ms) if record.point_ms > 0 else 0
        level = proof.level if proof is not None else Level.RESTORE
        proven = Proven(
            at_ms,
            record.record_id,
            record.outcome is Outcome.OK and (proof is None or proof.ok),
            1.0 if proof is None else min(max(proof.fraction, 0.0), 1.0),
            point_ms,
            0 if proof is None else proof.bad,
            error,
        )
        proofs = copy.proofs.setdefault(level, [])
        place = bisect_right(proofs, proven)
        if place and proofs[place - 1].record_id == proven.record_id:
            return
        proofs.insert(place, proven)
        if len(proofs) > PROOFS_KEPT:
            del proofs[0]


_BEFORE_ALL_MS: Final = -(1 << 62)
_NO_WORD: Final = (Outcome.UNKNOWN, Outcome.RUNNING)


def _order(run: Run) -> tuple[int, str]:
    return run.began_ms, run.run_id
