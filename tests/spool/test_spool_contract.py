"""What the sender may expect of any spool: the same for the one in memory and the one on disk."""

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from watchbill.clock import ManualClock
from watchbill.codec import FamilyRun, MetricKind, Schema, encode_schema, number
from watchbill.limits import KIB, RECORD_BYTES_MAX
from watchbill.protocol.accounting import samples_beyond
from watchbill.protocol.client import Fork, MarkLost, Release, Rewind
from watchbill.protocol.frames import GapReason, RetiredSpool, Stream, digest_of
from watchbill.v1 import link_pb2 as pb
from watchbill_agent.spool import (
    DiskSpool,
    Draft,
    MemorySpool,
    Record,
    SimulatedFilesystem,
    Sizes,
    SpoolFull,
    SystemFilesystem,
)

BULK, CRIT = Stream.BULK, Stream.CRIT
BYTES_MAX = 2 * RECORD_BYTES_MAX
LARGE = 30 * KIB
AnySpool = MemorySpool | DiskSpool


@pytest.fixture(params=["memory", "disk", "simulated disk"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], AnySpool]]:
    made: list[AnySpool] = []

    def new() -> AnySpool:
        spool: AnySpool
        if request.param == "memory":
            spool = MemorySpool(BYTES_MAX)
        else:
            disk = SystemFilesystem() if request.param == "disk" else SimulatedFilesystem()
            spool = DiskSpool(
                tmp_path / "spool",
                b"a" * 16,
                sizes=Sizes(BYTES_MAX, 256 * KIB),
                filesystem=disk,
                clock=ManualClock(),
            )
        made.append(spool)
        return spool

    yield new
    for spool in made:
        spool.close()


def settled(spool: AnySpool) -> AnySpool:
    if isinstance(spool, DiskSpool):
        assert spool.sync()
    return spool


def draft(at_ms: int = 1000, size: int = 10, samples: int = 3) -> Draft:
    return Draft(bytes(size), samples, at_ms, at_ms + 10)


def held(spool: AnySpool, stream: Stream = BULK, seq: int = 0) -> list[Record]:
    found: list[Record] = []
    while (record := settled(spool).held_after(stream, seq)) is not None:
        found.append(record)
        seq = record.last
    return found


def test_numbers_are_contiguous_from_one_in_each_stream(make: Callable[[], AnySpool]) -> None:
    spool = make()
    assert [spool.append(BULK, draft()) for _ in range(3)] == [1, 2, 3]
    assert spool.append(CRIT, draft()) == 1
    state = settled(spool).state(BULK)
    assert (state.first_retained, state.last_durable, state.acked) == (1, 3, 0)


def test_a_record_is_its_body_with_the_number_before_it(make: Callable[[], AnySpool]) -> None:
    spool = make()
    body = pb.Record(event=pb.Event(kind="x")).SerializeToString()
    for _ in range(300):
        seq = spool.append(BULK, Draft(body, 1, 1, 1))
    record = settled(spool).held_after(BULK, seq - 1)
    assert record is not None
    parsed = pb.Record.FromString(record.content)
    assert (parsed.seq, parsed.event.kind) == (300, "x")
    assert record.digest == digest_of(record.content) == spool.digest(BULK, 300)


def test_the_oldest_records_make_room_and_one_gap_counts_them(make: Callable[[], AnySpool]) -> None:
    spool = make()
    for index in range(40):
        spool.append(BULK, draft(1000 * (index + 1), LARGE, samples=3 + index % 2))
    gap, *rest = held(spool)
    assert gap.gap is GapReason.OVERFLOW
    assert (gap.first, gap.last) == (1, rest[0].first - 1)
    assert len(rest) == 40 - gap.last
    parsed = pb.Record.FromString(gap.content).gap
    assert parsed.count == gap.last
    assert parsed.samples == sum(3 + index % 2 for index in range(gap.last))
    assert (parsed.first_boottime_ms, parsed.last_boottime_ms) == (1000, 1000 * gap.last + 10)
    facts = spool.facts()
    assert (facts.dropped_records, facts.dropped_samples) == (gap.last, parsed.samples)
    assert facts.bytes <= BYTES_MAX


def test_a_gap_over_records_on_their_way_tells_what_is_lost_beyond_each(make: Callable[[], AnySpool]) -> None:
    spool = make()
    for index in range(4):
        spool.append(BULK, draft(1000 * (index + 1), LARGE, samples=300 + index))
    digests = [settled(spool).digest(BULK, seq) for seq in range(1, 5)]
    spool.sent(BULK, 4)
    for index in range(4, 60):
        spool.append(BULK, draft(1000 * (index + 1), LARGE, samples=300 + index))
    gap = held(spool)[0]
    assert gap.last > 4
    lost = [300 + index for index in range(gap.last)]
    assert [samples_beyond(gap.parts, gap.samples, seq) for seq in range(5)] == [
        sum(lost[seq:]) for seq in range(5)
    ]
    assert [spool.digest(BULK, seq) for seq in range(1, 5)] == digests, "the collector may have them"
    assert spool.digest(BULK, 5) is None, "nobody can have it"


def test_critical_records_are_refused_and_never_dropped(make: Callable[[], AnySpool]) -> None:
    spool = make()
    kept = 0
    while kept < 1000 and _takes(spool):
        kept += 1
    assert 4 <= kept < 1000
    records = held(spool, CRIT)
    assert len(records) == kept == spool.last(CRIT)
    assert all(record.gap is None for record in records)
    spool.append(BULK, draft())
    spool.obey(Release(CRIT, kept, records[-1].digest))
    assert spool.append(CRIT, draft(size=LARGE)) == kept + 1


def test_a_notice_stands_between_records_and_loses_none(make: Callable[[], AnySpool]) -> None:
    spool = make()
    spool.append(BULK, draft())
    assert spool.notice(GapReason.SUSPENDED, 100, 200) == 2
    assert spool.append(BULK, draft()) == 3
    parsed = pb.Record.FromString(held(spool)[1].content)
    assert (parsed.seq, parsed.gap.to_seq, parsed.gap.count) == (2, 2, 0)
    assert (parsed.gap.first_boottime_ms, parsed.gap.last_boottime_ms) == (100, 200)


def test_what_a_rewound_collector_lacks_and_is_gone_here_becomes_a_gap(make: Callable[[], AnySpool]) -> None:
    spool = make()
    for _ in range(60):
        spool.append(BULK, draft(size=LARGE))
        settled(spool)
        spool.obey(Release(BULK, spool.last(BULK), 33))
    spool.append(BULK, draft())
    first = settled(spool).state(BULK).first_retained
    assert first > 2
    spool.obey(Rewind(BULK, 1, 11))
    spool.obey(MarkLost(BULK, 2, first - 1, GapReason.COLLECTOR_REWIND))
    gap, *rest = held(spool, seq=1)
    assert (gap.first, gap.last, gap.gap) == (2, first - 1, GapReason.COLLECTOR_REWIND)
    assert [record.first for record in rest] == list(range(first, 62))
    assert (spool.state(BULK).acked, spool.state(BULK).first_retained) == (1, 2)


def test_a_fork_moves_what_is_held_to_a_new_spool_numbered_from_one(make: Callable[[], AnySpool]) -> None:
    spool = make()
    for index in range(4):
        spool.append(BULK, Draft(b"\x12\x00" + bytes([index]), 1, 1, 1))
    settled(spool)
    spool.obey(Release(BULK, 2, 22))
    before = spool.spool_id
    spool.obey(Fork((RetiredSpool(before, BULK, 9),)))
    settled(spool)
    assert spool.spool_id != before
    assert spool.retired == (RetiredSpool(before, BULK, 9),)
    wanted = [number(1, b"\x12\x00\x02"), number(2, b"\x12\x00\x03")]
    assert [record.content for record in held(spool)] == wanted
    assert [spool.digest(BULK, seq) for seq in (1, 2)] == [digest_of(one) for one in wanted]
    assert spool.state(BULK).acked == 0
    assert spool.append(BULK, draft()) == 3


def test_a_record_brings_the_dictionaries_it_was_made_with(make: Callable[[], AnySpool]) -> None:
    spool = make()
    schemas = [_schema(f"metric_{index}", 5) for index in range(3)]
    for index in range(40):
        used = (schemas[index % 3], schemas[0]) if index % 3 else (schemas[0],)
        spool.append(BULK, Draft(bytes(LARGE), 1, 1, 1, used))
    for record in held(spool)[1:]:
        index = record.first - 1
        wanted = (schemas[index % 3], schemas[0]) if index % 3 else (schemas[0],)
        assert [one.schema_id for one in record.schemas] == [one.schema_id for one in wanted]
        assert [one.frames for one in record.schemas] == [one.frames for one in wanted]


def test_a_large_dictionary_is_kept_whole(make: Callable[[], AnySpool]) -> None:
    rng = random.Random(1)
    names = [tuple(sorted({(f"l{rng.randbytes(40).hex()}", rng.randbytes(60).hex())})) for _ in range(6_000)]
    schema = encode_schema([FamilyRun("many", MetricKind.GAUGE, "help", tuple(names))])
    assert sum(map(len, schema.frames)) > 1_000_000
    spool = make()
    for _ in range(3):
        spool.append(BULK, Draft(bytes(LARGE), 1, 1, 1, (schema,)))
    records = held(spool)
    assert [record.schemas[0].frames for record in records if record.gap is None][-1] == schema.frames


def _takes(spool: AnySpool) -> bool:
    try:
        spool.append(CRIT, draft(size=LARGE))
    except SpoolFull:
        return False
    return True


def _schema(name: str, series: int) -> Schema:
    labels = tuple((("number", str(index)),) for index in range(series))
    return encode_schema([FamilyRun(name, MetricKind.GAUGE, "", labels)])


def test_every_number_is_held_whatever_is_done(make: Callable[[], AnySpool]) -> None:
    rng = random.Random(7)
    spool = make()
    for _ in range(300):
        luck = rng.random()
        if luck < 0.7:
            spool.append(BULK, draft(size=rng.choice([10, LARGE, 3 * LARGE])))
        elif luck < 0.8:
            spool.notice(GapReason.SUSPENDED, 1, 2)
        elif luck < 0.9:
            settled(spool)
        else:
            state = settled(spool).state(BULK)
            through = rng.randint(state.acked, state.last_durable)
            spool.sent(BULK, state.last_durable)
            if through > state.acked:
                spool.obey(Release(BULK, through, 1))
        acked = settled(spool).state(BULK).acked
        everything = held(spool, seq=acked)
        assert not everything or everything[0].first <= acked + 1
        for before, after in itertools.pairwise(everything):
            assert after.first == before.last + 1
        assert (everything[-1].last if everything else acked) == spool.last(BULK)
