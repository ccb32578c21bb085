"""The spool in memory: numbers, bounds, gaps, and what it does when the protocol orders it."""

import itertools

import pytest

from watchbill.codec import GapBody, encode_gap, number
from watchbill.limits import GAPS_HELD_MAX, KIB, RECORD_BYTES_MAX
from watchbill.protocol.accounting import GapPart, samples_beyond
from watchbill.protocol.client import Fork, MarkLost, Release, Rewind
from watchbill.protocol.frames import NO_DIGEST, GapReason, RetiredSpool, Stream, digest_of
from watchbill.v1 import link_pb2 as pb
from watchbill_agent.spool import CRIT_BYTES_MAX, RECORD_OVERHEAD_BYTES, Draft, MemorySpool, Record, SpoolFull

BULK, CRIT = Stream.BULK, Stream.CRIT
BYTES_MAX = 2 * RECORD_BYTES_MAX
LARGE = 100 * KIB


def draft(at_ms: int = 1000, size: int = 10, samples: int = 3) -> Draft:
    return Draft(bytes(size), samples, at_ms, at_ms + 10)


def full_spool(records: int) -> MemorySpool:
    spool = MemorySpool(BYTES_MAX)
    for index in range(records):
        spool.append(BULK, draft(1000 * (index + 1), LARGE))
    return spool


def held(spool: MemorySpool, stream: Stream = BULK) -> list[Record]:
    found: list[Record] = []
    seq = 0
    while (record := spool.held_after(stream, seq)) is not None:
        found.append(record)
        seq = record.last
    return found


def test_numbers_are_contiguous_from_one_in_each_stream() -> None:
    spool = MemorySpool()
    assert [spool.append(BULK, draft()) for _ in range(3)] == [1, 2, 3]
    assert spool.append(CRIT, draft()) == 1
    state = spool.state(BULK)
    assert (state.first_retained, state.last_durable, state.acked) == (1, 3, 0)


def test_an_empty_stream_retains_from_the_next_number_on() -> None:
    spool = MemorySpool()
    assert spool.state(BULK).first_retained == 1
    spool.append(BULK, draft())
    spool.obey(Release(BULK, 1, 99))
    state = spool.state(BULK)
    assert (state.first_retained, state.last_durable, state.acked, state.acked_digest) == (2, 1, 1, 99)


def test_a_record_is_its_body_with_the_number_before_it() -> None:
    spool = MemorySpool()
    body = pb.Record(event=pb.Event(kind="x")).SerializeToString()
    for _ in range(300):
        seq = spool.append(BULK, Draft(body, 1, 1, 1))
    record = spool.held_after(BULK, seq - 1)
    assert record is not None
    parsed = pb.Record.FromString(record.content)
    assert (parsed.seq, parsed.event.kind) == (300, "x")
    assert record.digest == digest_of(record.content) == spool.digest(BULK, 300)


def test_the_oldest_records_make_room_and_one_gap_counts_them() -> None:
    spool = full_spool(9)
    gap, *rest = held(spool)
    assert gap.gap is GapReason.OVERFLOW
    assert (gap.first, gap.last) == (1, rest[0].first - 1)
    parsed = pb.Record.FromString(gap.content).gap
    assert parsed.count == gap.last
    assert parsed.samples == 3 * gap.last
    assert (parsed.first_boottime_ms, parsed.last_boottime_ms) == (1000, 1000 * gap.last + 10)
    facts = spool.facts()
    assert facts.dropped_records == gap.last
    assert facts.dropped_samples == 3 * gap.last
    assert facts.bytes <= BYTES_MAX


def test_a_gap_over_records_on_their_way_tells_what_is_lost_beyond_each() -> None:
    spool = MemorySpool(BYTES_MAX)
    for index in range(4):
        spool.append(BULK, draft(1000 * (index + 1), LARGE, samples=300 + index))
    spool.sent(BULK, 4)
    for index in range(4, 20):
        spool.append(BULK, draft(1000 * (index + 1), LARGE, samples=300 + index))
    gap = held(spool)[0]
    assert gap.last > 4
    lost = [300 + index for index in range(gap.last)]
    assert [samples_beyond(gap.parts, gap.samples, seq) for seq in range(5)] == [
        sum(lost[seq:]) for seq in range(5)
    ]
    assert len(gap.parts) == 5, "what never left the host needs no parts of its own"
    spool.sent(BULK, gap.last)
    for index in range(20, 24):
        spool.append(BULK, draft(1000 * (index + 1), LARGE, samples=300 + index))
    longer = held(spool)[0]
    lost = [300 + index for index in range(longer.last)]
    assert samples_beyond(longer.parts, longer.samples, gap.last) == sum(lost[gap.last :])


def test_a_gap_of_which_a_part_is_unknown_is_unknown() -> None:
    spool = MemorySpool(BYTES_MAX)
    for _ in range(4):
        spool.append(BULK, draft())
    spool.obey(Release(BULK, 3, 33))
    for _ in range(3):
        spool.obey(Rewind(BULK, 0, 0))
    spool.obey(MarkLost(BULK, 2, 3, GapReason.COLLECTOR_REWIND))
    spool.obey(MarkLost(BULK, 1, 1, GapReason.COLLECTOR_REWIND))
    assert [(gap.first, gap.last, gap.samples, gap.unknown) for gap in held(spool)[:1]] == [(1, 3, 0, True)]


def test_many_small_records_keep_the_bound_too() -> None:
    spool = MemorySpool(BYTES_MAX)
    for _ in range(5_000):
        spool.append(BULK, draft(size=1))
    assert spool.facts().bytes <= BYTES_MAX
    assert spool.facts().records <= BYTES_MAX // RECORD_OVERHEAD_BYTES
    assert spool.state(BULK).first_retained == 1, "the gap stands for the dropped ones"


def test_critical_records_are_refused_and_never_dropped() -> None:
    spool = MemorySpool()
    for _ in range(CRIT_BYTES_MAX // (LARGE + RECORD_OVERHEAD_BYTES + 8)):
        spool.append(CRIT, draft(size=LARGE))
    with pytest.raises(SpoolFull):
        spool.append(CRIT, draft(size=LARGE))
    assert all(record.gap is None for record in held(spool, CRIT))
    spool.append(BULK, draft())


def test_a_notice_stands_between_records_and_loses_none() -> None:
    spool = MemorySpool()
    spool.append(BULK, draft())
    assert spool.notice(GapReason.SUSPENDED, 100, 200) == 2
    parsed = pb.Record.FromString(held(spool)[1].content)
    assert (parsed.seq, parsed.gap.to_seq, parsed.gap.count) == (2, 2, 0)
    assert spool.append(BULK, draft()) == 3


def test_a_notice_survives_an_overflow_beside_the_gap() -> None:
    spool = MemorySpool(BYTES_MAX)
    spool.notice(GapReason.RESTART, 0, 5)
    for _ in range(8):
        spool.append(BULK, draft(size=LARGE))
    assert [record.gap for record in held(spool)[:2]] == [GapReason.RESTART, GapReason.OVERFLOW]


def test_the_number_of_gaps_is_bounded() -> None:
    spool = MemorySpool(BYTES_MAX)
    for _ in range(3 * GAPS_HELD_MAX):
        spool.notice(GapReason.SUSPENDED, 1, 2)
        for _ in range(6):
            spool.append(BULK, draft(size=LARGE))
    everything = held(spool)
    assert sum(record.gap is not None for record in everything) <= GAPS_HELD_MAX + 8
    assert everything[0].first == 1
    for before, after in itertools.pairwise(everything):
        assert after.first == before.last + 1


def test_a_dropped_record_keeps_its_digest_while_it_may_have_been_delivered() -> None:
    spool = full_spool(3)
    digests = [spool.digest(BULK, seq) for seq in (1, 2, 3)]
    spool.sent(BULK, 2)
    for _ in range(8):
        spool.append(BULK, draft(size=LARGE))
    assert [spool.digest(BULK, seq) for seq in (1, 2)] == digests[:2]
    assert spool.digest(BULK, 3) is None, "never sent: nobody can hold it"
    spool.obey(Release(BULK, 2, digests[1] or 0))
    assert spool.digest(BULK, 1) in (None, NO_DIGEST)


def test_what_a_rewound_collector_lacks_and_is_gone_here_becomes_a_gap() -> None:
    spool = MemorySpool()
    for _ in range(4):
        spool.append(BULK, draft())
    spool.obey(Release(BULK, 3, 33))
    spool.obey(Rewind(BULK, 1, 11))
    spool.obey(MarkLost(BULK, 2, 3, GapReason.COLLECTOR_REWIND))
    assert [(record.first, record.last, record.gap) for record in held(spool)] == [
        (2, 3, GapReason.COLLECTOR_REWIND),
        (4, 4, None),
    ]
    assert spool.state(BULK).acked == 1
    spool.obey(Rewind(BULK, 0, 0))
    spool.obey(MarkLost(BULK, 1, 1, GapReason.COLLECTOR_REWIND))
    assert [(record.first, record.last) for record in held(spool)] == [(1, 3), (4, 4)]


def test_a_fork_moves_what_is_held_to_a_new_spool_numbered_from_one() -> None:
    spool = MemorySpool()
    for index in range(4):
        spool.append(BULK, Draft(b"\x12\x00" + bytes([index]), 1, 1, 1))
    spool.obey(Release(BULK, 2, 22))
    before = spool.spool_id
    spool.obey(Fork((RetiredSpool(before, BULK, 9),)))
    assert spool.spool_id != before
    assert spool.retired == (RetiredSpool(before, BULK, 9),)
    assert [record.content for record in held(spool)] == [
        number(1, b"\x12\x00\x02"),
        number(2, b"\x12\x00\x03"),
    ]
    assert spool.state(BULK).acked == 0
    assert spool.append(BULK, draft()) == 3


def test_a_fork_keeps_gaps_and_their_counts() -> None:
    spool = full_spool(9)
    gap = held(spool)[0]
    spool.obey(Release(BULK, 0, 0))
    spool.obey(Fork(()))
    moved = held(spool)[0]
    assert moved.gap is GapReason.OVERFLOW
    assert (moved.first, moved.last) == (1, gap.last)
    assert moved.content == encode_gap(
        1,
        gap.last,
        GapBody(
            GapReason.OVERFLOW,
            gap.samples,
            1000,
            gap.last_boottime_ms,
            (GapPart(gap.last, gap.samples),),
            gap.digest,
        ),
    )


def test_farewell_names_what_was_not_delivered() -> None:
    spool = MemorySpool(retired=(RetiredSpool(b"o" * 16, BULK, 7),))
    spool.append(BULK, draft())
    spool.append(BULK, draft())
    spool.obey(Release(BULK, 1, 1))
    assert spool.farewell() == (RetiredSpool(b"o" * 16, BULK, 7), RetiredSpool(spool.spool_id, BULK, 2))
