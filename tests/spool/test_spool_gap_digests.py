"""Gaps carry the digest of what they replace: a collector whose newest record is a gap knows a spool that goes on from
one that was rolled back behind it.
"""

from pathlib import Path

from watchbill.clock import ManualClock
from watchbill.codec import decode_gap
from watchbill.protocol.client import Client, Fork, Release
from watchbill.protocol.frames import NO_DIGEST, GapReason, Settings, Stream, StreamMark, Welcome
from watchbill.protocol.server import Verdict, Watermark
from watchbill_agent.spool import DiskSpool, Draft, Record, SimulatedFilesystem, Sizes

BULK = Stream.BULK
ROOT = Path("/spool")
BODY = bytes(5_000)


def opened(disk: SimulatedFilesystem, boot: bytes = b"b" * 16) -> DiskSpool:
    sizes = Sizes(64 * 1024, 64 * 1024)
    return DiskSpool(ROOT, b"a" * 16, sizes=sizes, filesystem=disk, clock=ManualClock(), boot_id=boot)


def append(spool: DiskSpool, name: int) -> None:
    spool.append(BULK, Draft(b"\x12\x00" + name.to_bytes(2) + BODY, 3, 1, 2))


def held(spool: DiskSpool, seq: int = 0) -> list[Record]:
    assert spool.sync()
    found = []
    while (record := spool.held_after(BULK, seq)) is not None:
        found.append(record)
        seq = record.last
    return found


def deliver(spool: DiskSpool, mark: Watermark, through: int) -> StreamMark:
    """Everything up to a number reaches the collector and is committed there; no acknowledgement comes back."""
    for record in held(spool):
        if record.first <= through:
            spool.sent(BULK, record.last)
            gap = record.gap is not None
            told = decode_gap(record.content)[2].digest if gap else NO_DIGEST
            verdict = mark.offer(record.first, record.last, b"" if gap else record.content, told)
            assert verdict in (Verdict.ACCEPT, Verdict.DUPLICATE)
    mark.commit(mark.pending())
    assert mark.committed == through
    return mark.mark()


def answers(spool: DiskSpool, mark: StreamMark) -> list[type]:
    """What a Hello of this spool leads to."""
    assert spool.sync()
    client = Client(spool)
    client.hello()
    return [type(order) for order in client.receive(Welcome(7, 0, (mark,), Settings()), 0)][-1:]


def test_a_spool_that_was_rolled_back_behind_a_notice_is_known_by_it() -> None:
    disk = SimulatedFilesystem()
    spool = opened(disk)
    append(spool, 1)
    assert spool.sync()
    snapshot = disk.snapshot()
    append(spool, 2)
    spool.notice(GapReason.RESTART, 0, 9)
    mark = deliver(spool, Watermark(spool.spool_id, BULK), 3)
    assert answers(spool, mark) == [Release], "this spool goes on"
    again = opened(snapshot)
    for name in range(10, 14):
        append(again, name)
    assert answers(again, mark) == [Fork], "records 2 and 3 of this one were never delivered"
    same = StreamMark(BULK, 3, NO_DIGEST)
    assert answers(again, same) == [Release], "without a digest nobody can tell: as an older collector has it"


def test_a_spool_that_was_rolled_back_behind_dropped_records_is_known_by_their_gap() -> None:
    disk = SimulatedFilesystem()
    spool = opened(disk)
    append(spool, 1)
    assert spool.sync()
    snapshot = disk.snapshot()
    for name in range(2, 40):
        append(spool, name)
    gap = held(spool)[0]
    assert gap.gap is GapReason.OVERFLOW
    mark = deliver(spool, Watermark(spool.spool_id, BULK), gap.last)
    assert mark.digest != NO_DIGEST
    assert answers(spool, mark) == [Release]
    again = opened(snapshot)
    for name in range(100, 140):
        append(again, name)
    assert answers(again, mark) == [Fork]


def test_a_gap_that_grew_since_it_was_delivered_is_no_rollback() -> None:
    disk = SimulatedFilesystem()
    spool = opened(disk)
    for name in range(40):
        append(spool, name)
    gap = held(spool)[0]
    mark = deliver(spool, Watermark(spool.spool_id, BULK), gap.last)
    for name in range(40, 60):
        append(spool, name)
    grown = held(spool)[0]
    assert (grown.gap, grown.last > gap.last) == (GapReason.OVERFLOW, True)
    assert grown.digest != gap.digest
    assert answers(spool, mark) == [Release]
    disk.killed()
    again = opened(disk)
    assert held(again)[0].digest == grown.digest, "what a gap carries outlives the process"
    assert answers(again, mark) == [Release]


def test_a_notice_is_the_same_after_the_next_boot() -> None:
    disk = SimulatedFilesystem()
    spool = opened(disk)
    append(spool, 1)
    spool.notice(GapReason.SUSPENDED, 5, 9)
    mark = deliver(spool, Watermark(spool.spool_id, BULK), 2)
    disk.killed()
    again = opened(disk, boot=b"c" * 16)
    assert answers(again, mark) == [Release]
    for name in range(2, 60):
        append(again, name)
    assert held(again)[0].gap is GapReason.OVERFLOW, "the notice is part of it now"
    assert answers(again, mark) == [Release]
