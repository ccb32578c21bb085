"""Files that are not what was written: every byte of a small spool changed or cut off, and files that do not belong.

Only what is damaged is lost, it is counted exactly where that can be known, and the spool always opens.
"""

import itertools
import os
from pathlib import Path

import pytest

from watchbill.clock import ManualClock
from watchbill.codec import FamilyRun, MetricKind, encode_schema, number
from watchbill.errors import Refused
from watchbill.protocol.frames import GapReason, Stream
from watchbill_agent.spool import DiskSpool, Draft, Record, SimulatedFilesystem, Sizes, tools
from watchbill_agent.spool.format import (
    FRAME_BYTES,
    HEADER_BYTES,
    Header,
    bad_stretches,
    decode_header,
    encode_header,
    seed_of,
)
from watchbill_agent.spool.segment import examine, parse_name, segment_name

BULK, CRIT = Stream.BULK, Stream.CRIT
ROOT = Path("/spool")
AGENT = b"a" * 16
SIZES = Sizes(64 * 1024, 64 * 1024)
SCHEMA = encode_schema([FamilyRun("up", MetricKind.GAUGE, "", ((),))])
RECORDS = 5


def body(index: int) -> bytes:
    return b"\x12\x04" + index.to_bytes(4)


def opened(disk: SimulatedFilesystem, agent_id: bytes = AGENT) -> DiskSpool:
    return DiskSpool(ROOT, agent_id, sizes=SIZES, filesystem=disk, clock=ManualClock(), boot_id=b"b" * 16)


def small_spool() -> SimulatedFilesystem:
    """Five records in two segments."""
    disk = SimulatedFilesystem()
    spool = opened(disk)
    for index in range(3):
        spool.append(BULK, Draft(body(index), 10 + index, 1000 * index + 1, 1000 * index + 2, (SCHEMA,)))
    assert spool.sync()
    lane = spool._lanes[BULK]
    lane.files.active = None  # As if it were full.
    for index in range(3, RECORDS):
        spool.append(BULK, Draft(body(index), 10 + index, 1000 * index + 1, 1000 * index + 2, (SCHEMA,)))
    assert spool.sync()
    disk.killed()
    return disk


def held(spool: DiskSpool) -> list[Record]:
    found: list[Record] = []
    seq = spool.state(BULK).acked
    while (record := spool.held_after(BULK, seq)) is not None:
        assert record.first <= seq + 1
        found.append(record)
        seq = record.last
    return found


def judge(spool: DiskSpool, lost_max: int, *, exact: bool = True) -> list[int]:
    """Compare with what was written; the numbers that are lost."""
    lost: list[int] = []
    for record in held(spool):
        if record.gap is None:
            assert record.content == number(record.first, body(record.first - 1))
            assert record.samples == 9 + record.first
            assert [one.frames for one in record.schemas] == [SCHEMA.frames]
            continue
        numbers = [seq for seq in range(record.first, record.last + 1) if seq <= RECORDS]
        lost += numbers
        assert record.gap is GapReason.CORRUPT
        if exact and record.samples:
            assert record.samples == sum(9 + seq for seq in numbers), "counted wrongly"
    assert len(lost) <= lost_max, f"{lost} are lost"
    return lost


def segments(disk: SimulatedFilesystem) -> list[Path]:
    return sorted(path for path in disk._names if path.parent.name == "bulk")


@pytest.mark.parametrize("which", [0, 1])
def test_a_changed_byte_anywhere_costs_one_record_at_most(which: int) -> None:
    path = segments(small_spool())[which]
    size = len(small_spool().read(path, 1 << 20))
    seen: set[tuple[int, ...]] = set()
    for offset in range(size):
        disk = small_spool()
        before = disk.read(path, 1 << 20)[offset]
        disk.damage(path, offset, before ^ (1 << (offset % 8)))
        data = disk.read(path, 1 << 20)
        seed = seed_of(data[8:24]) if decode_header(data) else None
        if seed is not None:
            assert bad_stretches(data, seed) == examine(data, seed).bad, "a check finds what a reader does"
        spool = opened(disk)
        lost = judge(spool, lost_max=1)
        seen.add(tuple(lost))
        # What comes next is numbered behind everything that was ever there.
        assert spool.append(BULK, Draft(body(9), 1, 1, 1, (SCHEMA,))) == RECORDS + 1
        assert spool.sync()
        disk.killed()
        again = opened(disk)
        assert [record.last for record in held(again)][-1] == RECORDS + 1
    numbers = range(1, 4) if which == 0 else range(4, 6)
    assert seen == {(), *((seq,) for seq in numbers)}, "each of its records was hit"


def test_a_file_that_ends_early_anywhere_costs_what_it_ended_before() -> None:
    path = segments(small_spool())[1]
    size = len(small_spool().read(path, 1 << 20))
    for end in range(size):
        disk = small_spool()
        disk.cut(path, end)
        spool = opened(disk)
        records = [record.first for record in held(spool) if record.gap is None]
        assert records == list(range(1, len(records) + 1))
        assert len(records) >= 3
        seq = spool.append(BULK, Draft(body(9), 1, 1, 1, (SCHEMA,)))
        assert seq == len(records) + 1, "half a record was never promised: its number is free"
        assert spool.sync()
        assert [record.last for record in held(spool)][-1] == seq


def test_a_segment_in_the_middle_that_ends_early_or_vanished_is_counted() -> None:
    path = segments(small_spool())[0]
    size = len(small_spool().read(path, 1 << 20))
    for end in (0, 1, HEADER_BYTES, size - 1, size // 2, None):
        disk = small_spool()
        if end is None:
            disk.unlink(path)
        else:
            disk.cut(path, end)
        spool = opened(disk)
        gone = held(spool)[0 if end in (0, 1, HEADER_BYTES, None) else -3]
        records = [record.first for record in held(spool) if record.gap is None]
        assert records[-2:] == [4, 5]
        assert gone.gap in (GapReason.CORRUPT, GapReason.OVERFLOW)
        assert gone.last == 3
        assert gone.samples == sum(9 + seq for seq in range(gone.first, 4))


def test_two_changed_bytes_cost_two_records_and_both_are_counted() -> None:
    path = segments(small_spool())[0]
    data = small_spool().read(path, 1 << 20)
    places = [data.rfind(body(index)) for index in range(3)]
    for one, two in itertools.combinations(places, 2):
        disk = small_spool()
        disk.damage(path, one, 99)
        disk.damage(path, two, 99)
        assert len(judge(opened(disk), lost_max=2)) == 2


def test_records_of_another_agent_are_set_aside_and_never_sent() -> None:
    disk = small_spool()
    spool = opened(disk, b"z" * 16)
    assert held(spool) == []
    assert spool.quarantined == 2
    assert spool.state(BULK).last_durable == 0
    assert len(disk.files(ROOT / "quarantine")) == 2
    spool.append(BULK, Draft(body(0), 10, 1, 2, (SCHEMA,)))
    assert spool.sync()
    assert len(held(spool)) == 1


def test_segments_copied_from_another_store_are_set_aside_and_ours_stay() -> None:
    ours, theirs = small_spool(), small_spool()
    for path in segments(theirs):
        first, _ = parse_name(path.name) or (0, 0)
        copied = path.with_name(segment_name(first + 100))
        ours.put(copied, theirs.read(path, 1 << 20))
    spool = opened(ours)
    assert judge(spool, lost_max=0) == []
    assert spool.quarantined == 2
    assert spool.last(BULK) == RECORDS


def test_a_record_copied_from_another_store_is_no_record() -> None:
    ours, theirs = small_spool(), small_spool()
    path = segments(ours)[1]
    mine, other = ours.read(path, 1 << 20), theirs.read(path, 1 << 20)
    at = mine.rfind(body(4)) - FRAME_BYTES - 8
    ours.put(path, mine[:at] + other[at:])
    spool = opened(ours)
    assert judge(spool, lost_max=1) == [5]


def test_a_segment_of_a_newer_version_is_left_to_newer_programs() -> None:
    disk = small_spool()
    newer = bytearray(encode_header(Header(2, b"s" * 16, AGENT, 9, 0, 1, 1, bytes(16))))
    newer[4] = 2
    import zlib

    newer[92:96] = zlib.crc32(bytes(newer[:92])).to_bytes(4, "little")
    disk.put(ROOT / "bulk" / segment_name(9), bytes(newer) + b"what is in it, nobody here knows")
    spool = opened(disk)
    assert judge(spool, lost_max=0) == []
    assert spool.quarantined == 1


@pytest.mark.parametrize("content", [b"", b"\0" * 300, b"WBSP", os.urandom(500)])
def test_rubbish_under_a_segments_name_stops_nothing(content: bytes) -> None:
    disk = small_spool()
    disk.put(ROOT / "bulk" / segment_name(6), content)
    disk.put(ROOT / "bulk" / "00000000000000000xyz.seg", content)
    disk.put(ROOT / "bulk" / "notes.txt", content)
    spool = opened(disk)
    assert judge(spool, lost_max=0) == []
    assert spool.append(BULK, Draft(body(9), 1, 1, 1)) == RECORDS + 1
    assert spool.sync()
    assert (ROOT / "bulk" / "notes.txt") in disk._names, "what is not called a segment is not ours to touch"


def test_links_and_directories_in_the_place_of_files_are_set_aside(tmp_path: Path) -> None:
    spool = DiskSpool(tmp_path, AGENT, sizes=SIZES)
    spool.append(BULK, Draft(body(0), 10, 1, 2, (SCHEMA,)))
    assert spool.sync()
    spool.close()
    (tmp_path / "secret").write_text("not ours")
    (tmp_path / "bulk" / segment_name(50)).symlink_to(tmp_path / "secret")
    (tmp_path / "bulk" / segment_name(60)).mkdir()
    os.mkfifo(tmp_path / "crit" / segment_name(70))
    again = DiskSpool(tmp_path, AGENT, sizes=SIZES)
    try:
        assert again.quarantined == 3
        assert [record.first for record in held(again)] == [1]
        assert (tmp_path / "secret").read_text() == "not ours"
    finally:
        again.close()


def test_a_directory_has_one_spool_at_a_time(tmp_path: Path) -> None:
    spool = DiskSpool(tmp_path, AGENT, sizes=SIZES)
    with pytest.raises(Refused, match="is held by process"):
        DiskSpool(tmp_path, AGENT, sizes=SIZES)
    with pytest.raises(Refused):
        tools.repair(tmp_path, dry_run=True)
    spool.close()
    DiskSpool(tmp_path, AGENT, sizes=SIZES).close()


def test_what_is_set_aside_is_bounded() -> None:
    from watchbill_agent.spool.store import QUARANTINE_BYTES_MAX

    disk = small_spool()
    for index in range(20):
        disk.put(ROOT / "bulk" / segment_name(100 + index), os.urandom(1 << 20))
    opened(disk)
    assert disk.used(ROOT / "quarantine") <= QUARANTINE_BYTES_MAX


def test_a_damaged_end_before_records_in_memory_costs_its_own_samples_alone() -> None:
    """The disk fails after five records, the fifth is damaged, and what came after them overflowed in memory."""
    disk = small_spool()
    spool = opened(disk)
    path = segments(disk)[-1]
    data = disk.read(path, 1 << 20)
    disk.damage(path, len(data) - 1, data[-1] ^ 1)

    def refuse(operation: str, _path: Path) -> None:
        if operation in ("write", "create", "sync", "rename"):
            raise OSError(5, "Input/output error")

    disk.before = refuse
    large = bytes(100_000)
    for index in range(RECORDS, RECORDS + 20):
        spool.append(BULK, Draft(b"\x12\x00" + large, 100 + index, 1, 2, (SCHEMA,)))
    disk.before = lambda *_: None
    found = held(spool)
    reasons = [(record.gap, record.first, record.last, record.samples) for record in found if record.gap]
    assert reasons[0] == (GapReason.CORRUPT, RECORDS, RECORDS, 9 + RECORDS)
    overflow = found[RECORDS]
    assert (overflow.gap, overflow.first) == (GapReason.OVERFLOW, RECORDS + 1)
    lost = sum(99 + seq for seq in range(overflow.first, overflow.last + 1))
    assert overflow.samples == lost
    total = sum(9 + seq for seq in range(1, RECORDS + 1)) + sum(100 + i for i in range(RECORDS, RECORDS + 20))
    assert sum(record.samples for record in found) == total, "every sample is told of once"
