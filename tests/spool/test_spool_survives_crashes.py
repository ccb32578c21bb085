"""The disk spool, ended at every single operation on the disk: by a kill, by a power cut, by an error, by a full
disk. After each it is opened again and compared with what its owner was promised.

- What was durable, and is not acknowledged, is there: as itself, or dropped and counted.
- A critical record whose producer was told ok is there as itself.
- Nothing is there that was not appended under that number.
- Every number is there once, in order, as data or in a gap, and an overflow's samples are exact or unknown.
"""

import errno
import itertools
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from watchbill.clock import ManualClock
from watchbill.codec import number
from watchbill.protocol.client import Fork, MarkLost, Release, Rewind
from watchbill.protocol.frames import GapReason, RetiredSpool, Stream
from watchbill_agent.spool import DiskSpool, Draft, Record, SimulatedFilesystem, Sizes, SpoolFull

BULK, CRIT = Stream.BULK, Stream.CRIT
ROOT = Path("/spool")
AGENT = bytes(range(16))
SIZES = Sizes(bytes_max=64 * 1024, crit_bytes=64 * 1024)
SEEDS = int(os.environ.get("WATCHBILL_SEEDS", "1"))
"""Power cuts tried at each operation; each loses other things."""
BODY_BYTES = 5_000
"""Three records fill a segment of the smallest size."""


class Ended(Exception):
    """Raised by the disk."""


@dataclass
class Owner:
    """Works with a spool, and remembers what was promised."""

    disk: SimulatedFilesystem
    appended: dict[tuple[bytes, Stream, int], tuple[bytes, int]] = field(default_factory=dict)
    promised: set[tuple[bytes, Stream, int]] = field(default_factory=set)
    given_up: set[tuple[bytes, Stream, int]] = field(default_factory=set)
    """What a rewound collector asked for and was gone."""
    released: dict[tuple[bytes, Stream], int] = field(default_factory=dict)
    """How far the collector is. A spool that forgot it says a gap there, and is told better by the collector."""
    count: int = 0

    def open(self) -> None:
        ids = itertools.count(1 + 1000 * self.count)
        self.spool = DiskSpool(
            ROOT,
            AGENT,
            sizes=SIZES,
            filesystem=self.disk,
            clock=ManualClock(),
            boot_id=b"b" * 16,
            new_id=lambda: next(ids).to_bytes(16),
        )

    def append(self, stream: Stream, size: int = BODY_BYTES) -> None:
        self.count += 1
        body = b"\x12\x00" + self.count.to_bytes(4) * (size // 4)
        samples = 1 + self.count % 3
        seq = self.spool._lanes[stream].last + 1
        # Noted before: the machine may end after the record was written and before anybody was told.
        self.appended[self.spool.spool_id, stream, seq] = (number(seq, body), samples)
        try:
            done = self.spool.append(stream, Draft(body, samples, 1000 * self.count, 1000 * self.count))
        except SpoolFull:
            del self.appended[self.spool.spool_id, stream, seq]
            return
        assert done == seq

    def sync(self) -> None:
        if self.spool.sync():
            for stream in Stream:
                data = [record.first for record in self.held(stream) if record.gap is None]
                self.promised |= {(self.spool.spool_id, stream, seq) for seq in data}

    def release(self, stream: Stream, behind: int) -> None:
        state = self.spool.state(stream)
        through = state.last_durable - behind
        if through > state.acked:
            self.spool.sent(stream, through)
            self.released[self.spool.spool_id, stream] = through
            self.spool.obey(Release(stream, through, 7))

    def rewind(self, stream: Stream, by: int) -> None:
        state = self.spool.state(stream)
        through = max(0, state.acked - by)
        self.released[self.spool.spool_id, stream] = through
        self.spool.obey(Rewind(stream, through, 5))
        first = self.spool.state(stream).first_retained
        if through < first - 1:
            self.given_up |= {(self.spool.spool_id, stream, seq) for seq in range(through + 1, first)}
            self.spool.obey(MarkLost(stream, through + 1, first - 1, GapReason.COLLECTOR_REWIND))

    def fork(self) -> None:
        before, shifts = self.spool.spool_id, {s: self.spool.state(s).acked for s in Stream}
        self.spool.obey(Fork((RetiredSpool(before, BULK, 9),)))
        for (spool_id, stream, seq), (content, samples) in list(self.appended.items()):
            moved = seq - shifts[stream]
            if spool_id == before and moved > 0:
                body = content[len(number(seq, b"")) :]
                self.appended[self.spool.spool_id, stream, moved] = (number(moved, body), samples)
                if (before, stream, seq) in self.promised:
                    self.promised.add((self.spool.spool_id, stream, moved))
        self.sync()

    def held(self, stream: Stream) -> Iterator[Record]:
        seq = self.spool.state(stream).acked
        while (record := self.spool.held_after(stream, seq)) is not None:
            assert record.first <= seq + 1, f"{stream}: a hole before {record.first}"
            assert record.last > seq
            yield record
            seq = record.last
        assert seq == self.spool.state(stream).last_durable, f"{stream}: nothing holds {seq + 1}"

    def check(self) -> None:
        spool_id = self.spool.spool_id
        for stream in Stream:
            acked = self.spool.state(stream).acked
            there: dict[int, Record] = {}
            for record in self.held(stream):
                for seq in range(max(acked + 1, record.first), record.last + 1):
                    there[seq] = record
                if record.gap is None:
                    known = self.appended.get((spool_id, stream, record.first))
                    assert known is not None, f"{stream} {record.first} was invented"
                    assert record.content == known[0], f"{stream} {record.first} has another content"
                    assert record.samples == known[1]
                elif record.gap is GapReason.OVERFLOW and record.samples:
                    lost = [
                        self.appended[spool_id, stream, s][1] for s in range(record.first, record.last + 1)
                    ]
                    assert record.samples == sum(lost), f"{record.first}..{record.last} counted wrongly"
            for key in self.promised:
                if key[:2] != (spool_id, stream) or key[2] <= acked:
                    continue
                assert key[2] in there, f"{stream} {key[2]} was durable and is gone without a word"
                record = there[key[2]]
                ours = key[2] > self.released.get(key[:2], 0)
                if record.gap is not None and ours and key not in self.given_up:
                    assert record.gap is GapReason.OVERFLOW, (key, record)
                    assert stream is BULK, f"critical record {key[2]} became a gap"


Workload = Callable[[Owner], None]


def a_quiet_day(owner: Owner) -> None:
    for _ in range(4):
        for _ in range(2):
            owner.append(BULK)
        owner.sync()
        owner.release(BULK, behind=1)
    owner.append(CRIT, 300)
    owner.sync()
    owner.append(BULK)


def a_long_outage(owner: Owner) -> None:
    for index in range(36):
        owner.append(BULK)
        if index % 4 == 0:
            owner.sync()
        if index == 9:
            owner.release(BULK, behind=3)
    owner.sync()


def critical_days(owner: Owner) -> None:
    for index in range(14):
        owner.append(CRIT, 3_000)
        owner.sync()
        if index % 5 == 4:
            owner.release(CRIT, behind=2)
    owner.append(BULK)
    owner.sync()


def a_restored_collector(owner: Owner) -> None:
    for _ in range(8):
        owner.append(BULK)
        owner.append(CRIT, 500)
    owner.sync()
    owner.release(BULK, behind=1)
    owner.release(CRIT, behind=1)
    owner.append(BULK)
    owner.sync()
    owner.rewind(BULK, by=7)
    owner.rewind(CRIT, by=4)
    owner.append(BULK)
    owner.sync()


def a_rolled_back_machine(owner: Owner) -> None:
    for _ in range(7):
        owner.append(BULK)
    owner.append(CRIT, 500)
    owner.sync()
    owner.release(BULK, behind=3)
    owner.fork()
    for _ in range(3):
        owner.append(BULK)
    owner.append(CRIT, 500)
    owner.sync()


WORKLOADS = [a_quiet_day, a_long_outage, critical_days, a_restored_collector, a_rolled_back_machine]


def operations(workload: Workload) -> int:
    """How many operations on the disk a workload has."""
    owner = Owner(SimulatedFilesystem())
    count = 0

    def before(_operation: str, _path: Path) -> None:
        nonlocal count
        count += 1

    owner.disk.before = before
    owner.open()
    workload(owner)
    owner.check()
    return count


def run(workload: Workload, fault: Callable[[int, str], None]) -> Owner:
    """The workload on a disk that calls `fault` with the number and the name of each operation."""
    owner = Owner(SimulatedFilesystem())
    count = 0

    def before(operation: str, _path: Path) -> None:
        nonlocal count
        count += 1
        fault(count, operation)

    owner.disk.before = before
    try:
        owner.open()
        workload(owner)
    except Ended:
        pass
    return owner


def reopened(owner: Owner) -> None:
    """After the end: open, compare, go on working, open again, compare."""
    owner.disk.before = lambda *_: None
    owner.open()
    owner.check()
    # Numbers that were never durable are free; what stood under them is forgotten.
    for key in [k for k in owner.appended if k[0] == owner.spool.spool_id]:
        if key[2] > owner.spool.state(key[1]).last_durable:
            del owner.appended[key]
    for _ in range(3):
        owner.append(BULK)
    owner.append(CRIT, 300)
    owner.sync()
    owner.check()
    owner.disk.killed()
    owner.open()
    owner.check()


@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_kill_at_any_operation_loses_nothing_that_was_written(workload: Workload) -> None:
    for end in range(1, operations(workload) + 1):

        def fault(count: int, _operation: str, end: int = end) -> None:
            if count == end:
                raise Ended

        owner = run(workload, fault)
        owner.disk.killed()
        reopened(owner)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_power_cut_at_any_operation_loses_nothing_that_was_durable(workload: Workload) -> None:
    for end in range(1, operations(workload) + 1):
        for seed in range(SEEDS):

            def fault(count: int, _operation: str, end: int = end) -> None:
                if count == end:
                    raise Ended

            owner = run(workload, fault)
            owner.disk.power_cut(random.Random(1000 * end + seed))
            try:
                reopened(owner)
            except AssertionError as exc:
                raise AssertionError(f"operation {end}, seed {seed}: {exc}") from exc


class NamesLost(random.Random):
    """A power cut that loses every name and every byte that was not synced, and nothing else."""

    def random(self) -> float:
        return 0.0


def test_what_was_written_to_a_spare_file_that_lost_its_new_name_is_no_record_of_the_next() -> None:
    owner = Owner(SimulatedFilesystem())
    owner.open()
    for _ in range(4):
        owner.sync()  # The reserve is made.
    owner.disk.sync_directory(ROOT / "crit")

    def before(operation: str, path: Path) -> None:
        if operation == "sync_directory" and path.name == "crit":
            raise Ended

    owner.disk.before = before
    for size in (100, 300, 300):
        owner.append(CRIT, size)
    with pytest.raises(Ended):
        owner.sync()  # The records are on the disk, in a file that is called a spare one.
    owner.disk.power_cut(NamesLost())
    owner.disk.before = lambda *_: None
    owner.open()
    assert owner.spool.last(CRIT) == 0, "none of it was promised"
    owner.appended.clear()
    owner.append(CRIT, 100)
    owner.sync()
    owner.disk.killed()
    owner.open()
    assert owner.spool.last(CRIT) == 1
    owner.check()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("workload", WORKLOADS)
def test_an_error_of_any_operation_loses_nothing_that_was_promised(workload: Workload, code: int) -> None:
    for end in range(4, operations(workload) + 1):

        def fault(count: int, _operation: str, end: int = end) -> None:
            if count == end:
                raise OSError(code, os.strerror(code))

        owner = run(workload, fault)
        owner.disk.before = lambda *_: None
        try:
            owner.check()
            owner.sync()
            assert owner.spool.facts().durable, "the disk is well again"
            owner.check()
            owner.disk.power_cut(random.Random(end))
            reopened(owner)
        except AssertionError as exc:
            raise AssertionError(f"operation {end}: {exc}") from exc


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_disk_that_fails_from_some_moment_on_costs_nothing_that_was_durable(
    workload: Workload, code: int
) -> None:
    growing = (
        {"create", "write", "allocate", "sync", "rename"}
        if code == errno.EIO
        else {"create", "write", "allocate"}
    )
    for end in range(4, operations(workload) + 1, 3):

        def fault(count: int, operation: str, end: int = end) -> None:
            if count >= end and operation in growing:
                raise OSError(code, os.strerror(code))

        owner = run(workload, fault)
        try:
            owner.check()
            owner.disk.before = lambda *_: None
            owner.disk.killed()
            reopened(owner)
        except AssertionError as exc:
            raise AssertionError(f"operation {end}: {exc}") from exc
