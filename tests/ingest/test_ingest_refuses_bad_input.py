"""What a broken or hostile agent sends over a real stream: refused, counted under its name, and nobody else
pays."""

import asyncio
import struct
import time
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from watchbill.codec import (
    BlockValues,
    FamilyRun,
    GapBody,
    MetricKind,
    encode_batch,
    encode_beat,
    encode_gap,
    encode_schema,
    encode_ticks,
    number,
    pack,
)
from watchbill.errors import StorageError
from watchbill.limits import (
    DECOMPRESSED_BYTES_MAX,
    GAP_PARTS_MAX,
    MESSAGE_BYTES_MAX,
    SERIES_PER_AGENT_MAX,
)
from watchbill.protocol.accounting import GapPart
from watchbill.protocol.frames import (
    Ack,
    Busy,
    End,
    EndReason,
    GapReason,
    Nack,
    Refusal,
    Stream,
    StreamState,
)
from watchbill.v1 import link_pb2 as pb
from watchbill_collector.ingest import commit
from watchbill_collector.series import STALE_BITS

Site = Any  # The fixture's class lives in conftest, which cannot be imported.
PATIENCE_S = 20.0


async def until(condition: Callable[[], object]) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_s, "the condition did not come true in time"
        await asyncio.sleep(0.005)


def gauge(*labels: tuple[tuple[str, str], ...], name: str = "node_load1") -> FamilyRun:
    return FamilyRun(name, MetricKind.GAUGE, "", labels or ((),))


LOAD = encode_schema([gauge()])


async def ended(agent: Any, reason: EndReason) -> None:
    end = await agent.hear_kind(End)
    assert end.reason is reason
    assert end.detail
    with pytest.raises(grpc.aio.AioRpcError):
        await agent.hear()


@pytest.mark.parametrize(
    "message",
    [b"\xff" * 40, b"\x1a\x05abc", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x1b" * 9999],
    ids=["random", "truncated", "overlong varint", "groups without end"],
)
async def test_what_is_no_message_ends_the_session_and_is_counted_under_the_sender(
    site: Site, message: bytes
) -> None:
    good, bad = await site.linked("good"), await site.linked("bad")
    await bad.send(message)
    await ended(bad, EndReason.PROTOCOL)
    assert site.refusals() == {("bad", "malformed"): 1}
    await good.send(LOAD.frames[0])
    await good.ticks(1, LOAD, [1.0])
    await good.acked(1)


async def test_a_message_larger_than_the_limit_ends_its_stream_alone(site: Site) -> None:
    good, bad, worse = [await site.linked(name) for name in ("good", "bad", "worse")]
    await bad.send(bytes(MESSAGE_BYTES_MAX + 1))
    await ended(bad, EndReason.PROTOCOL)
    assert site.refusals() == {("bad", "oversized"): 1}
    await worse.send(bytes(DECOMPRESSED_BYTES_MAX + 1))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await worse.hear()
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await until(lambda: site.ingest.counters.cuts)
    assert site.ingest.counters.cuts == {"worse": 1}
    await good.send(LOAD.frames[0])
    await good.ticks(1, LOAD, [1.0])
    await good.acked(1)


async def test_a_session_begins_with_one_hello(site: Site) -> None:
    agent = site.connect(site.enrol("web01"))
    await agent.send(encode_beat(1, 1))
    await ended(agent, EndReason.PROTOCOL)
    again = await site.linked("web02")
    await again.hello()
    assert sorted(reason for _, reason in site.refusals()) == ["no_hello", "second_hello"]


async def test_a_replayed_batch_is_stored_once_and_acknowledged_again(site: Site) -> None:
    agent = await site.linked()
    await agent.send(LOAD.frames[0])
    at_ms = agent.clock.boottime_ms()
    await agent.ticks(1, LOAD, [5.0], at_ms)
    await agent.acked(1)
    await agent.ticks(1, LOAD, [5.0], at_ms)
    ack = await agent.hear_kind(Ack)
    assert [(mark.stream, mark.committed) for mark in ack.marks] == [(Stream.BULK, 1)]
    assert [value for _, value in site.samples("node_load1")] == [5.0]
    assert site.ingest.counters.duplicates == 1


async def test_a_record_before_its_turn_is_asked_for_again(site: Site) -> None:
    agent = await site.linked()
    await agent.send(LOAD.frames[0])
    await agent.ticks(2, LOAD, [2.0])
    assert await agent.hear_kind(Nack) == Nack(Stream.BULK, 1)
    await agent.ticks(1, LOAD, [1.0])
    await agent.ticks(2, LOAD, [2.0])
    await agent.acked(2)
    assert [value for _, value in site.samples("node_load1")] == [1.0, 2.0]


DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("shift_ms", "reason"),
    [(120_000, "future"), (2**62, "future"), (-16 * DAY_MS, "too_old"), (-(2**62), "too_old")],
)
async def test_a_tick_out_of_its_time_becomes_a_gap_and_the_stream_goes_on(
    site: Site, shift_ms: int, reason: str
) -> None:
    agent = await site.linked()
    await agent.send(LOAD.frames[0])
    await agent.ticks(1, LOAD, [1.0], agent.clock.boottime_ms() + shift_ms)
    assert (await agent.hear_kind(Refusal)).reason == reason
    await agent.ticks(2, LOAD, [2.0])
    await agent.acked(2)
    assert site.refusals() == {("web01", reason): 1}
    (gap,) = site.sink.gaps
    assert (gap.from_seq, gap.to_seq, gap.count, gap.samples) == (1, 1, 1, 1)
    assert gap.reason is GapReason.REFUSED
    assert [value for _, value in site.samples("node_load1")] == [2.0]


BAD_SERIES = [
    ("label_value_empty", gauge((("a", ""),))),
    ("label_value_length", gauge((("a", "x" * 1025),))),
    ("label_value_length", gauge((("a", "\N{SNOWMAN}" * 400),))),
    ("label_name", gauge((("1a", "x"),))),
    ("label_name", gauge((("__address__", "x"),))),
    ("label_name", gauge((("a\n", "x"),))),
    ("label_order", gauge((("b", "x"), ("a", "x")))),
    ("label_order", gauge((("a", "x"), ("a", "y")))),
    ("label_count", gauge(tuple((f"l{i:03}", "x") for i in range(33)))),
    ("metric_name", gauge(name="node-load")),
    ("metric_name", gauge(name="")),
    ("metric_name", gauge(name="m" * 257)),
    ("reserved_name", gauge(name="up")),
    ("duplicate_series", FamilyRun("node_load5", MetricKind.GAUGE, "", ((), ()))),
]


@pytest.mark.parametrize(
    ("reason", "bad"), BAD_SERIES, ids=lambda value: value if isinstance(value, str) else ""
)
async def test_a_bad_series_is_refused_alone(site: Site, reason: str, bad: FamilyRun) -> None:
    agent = await site.linked()
    schema = encode_schema([gauge(), bad, gauge(name="node_load15")])
    for frame in schema.frames:
        await agent.send(frame)
    refusal = await agent.hear_kind(Refusal)
    assert (refusal.reason, refusal.count) == (reason, 1)
    await agent.ticks(1, schema, [1.0] + [2.0] * len(bad.series) + [3.0])
    await agent.acked(1)
    assert [value for _, value in site.samples("node_load1")] == [1.0]
    assert [value for _, value in site.samples("node_load15")] == [3.0]
    assert site.refusals() == {("web01", reason): 1}


async def test_label_values_of_a_megabyte_never_reach_the_table(site: Site) -> None:
    agent = await site.linked()
    labels = pb.LabelSet(pairs=[b"a", b"x" * 500_000])
    family = pb.Family(name=b"m", series=[labels, pb.LabelSet()])
    await agent.send(
        pb.Up(dictionary=pb.Dictionary(schema_id=1, parts=1, families=[family])).SerializeToString()
    )
    refusal = await agent.hear_kind(Refusal)
    assert refusal.reason == "label_value_length"
    assert len(refusal.detail) < 600


async def test_html_in_a_label_is_text_like_any_other(site: Site) -> None:
    agent = await site.linked()
    text = "<script>alert(1)</script>'; DROP TABLE--{{7*7}}\x1b[31m\0\u202e"
    schema = encode_schema([gauge((("a", text),))])
    await agent.send(schema.frames[0])
    await agent.ticks(1, schema, [1.0])
    await agent.acked(1)
    (ticks,) = [t for t in site.sink.ticks if site.table.labels(int(t.series[0]))["__name__"] == "node_load1"]
    assert site.table.labels(int(ticks.series[0]))["a"] == text


@pytest.mark.parametrize(
    "raw",
    [b"\xff\xfe\xff\xfe", b"\xc0\xaf..", b"\xed\xa0\x80.", b"caf\xe9", b"\xf5\x80\x80\x80"],
    ids=["bytes", "overlong", "surrogate", "latin-1", "beyond unicode"],
)
@pytest.mark.parametrize(
    "bad",
    [gauge((("a", "QQQQ"),)), gauge((("QQQQ", "x"),)), gauge(name="QQQQ")],
    ids=["value", "name", "metric"],
)
async def test_a_series_whose_text_is_not_utf8_is_refused_alone(
    site: Site, bad: FamilyRun, raw: bytes
) -> None:
    good, neighbour = await site.linked("web01"), await site.linked("web02")
    schema = encode_schema([gauge(), bad, gauge(name="node_load15")])
    await good.send(schema.frames[0].replace(b"QQQQ", raw))
    refusal = await good.hear_kind(Refusal)
    assert (refusal.reason, refusal.count) == ("not_utf8", 1)
    assert refusal.detail.isascii()
    assert "\\udc" in refusal.detail, "the series is named, its bad bytes escaped"
    await good.ticks(1, schema, [1.0, 2.0, 3.0])
    await good.acked(1)
    assert [value for _, value in site.samples("node_load1")] == [1.0]
    assert [value for _, value in site.samples("node_load15")] == [3.0]
    assert site.refusals() == {("web01", "not_utf8"): 1}
    await neighbour.send(LOAD.frames[0])
    await neighbour.ticks(1, LOAD, [1.0])
    await neighbour.acked(1)


async def test_help_that_is_not_utf8_costs_no_series(site: Site) -> None:
    agent = await site.linked()
    schema = encode_schema([FamilyRun("node_load1", MetricKind.GAUGE, "QQQQ", ((),))])
    await agent.send(schema.frames[0].replace(b"QQQQ", b"\xff\xfe\xff\xfe"))
    await agent.ticks(1, schema, [1.0])
    await agent.acked(1)
    assert site.table.metadata["node_load1"] == ("gauge", "\N{REPLACEMENT CHARACTER}" * 4)
    assert site.refusals() == {}


async def test_every_float_is_stored_bit_by_bit(site: Site) -> None:
    bits = [
        STALE_BITS,
        0x7FF8000000000000,
        0x7FF0000000000000,
        0xFFF0000000000000,
        1 << 63,
        1,
        0x7FEFFFFFFFFFFFFF,
    ]
    schema = encode_schema(
        [FamilyRun("m", MetricKind.GAUGE, "", tuple((("n", str(i)),) for i in range(len(bits))))]
    )
    agent = await site.linked()
    await agent.send(schema.frames[0])
    await agent.ticks(1, schema, struct.pack(f"<{len(bits)}Q", *bits))
    await agent.acked(1)
    (ticks,) = [t for t in site.sink.ticks if len(t.series) == len(bits)]
    assert np.ascontiguousarray(ticks.values).view(np.uint64).tolist() == [bits]


async def test_ten_times_the_series_quota_costs_the_surplus_alone(site: Site) -> None:
    agent, neighbour = await site.linked("greedy"), await site.linked("modest")
    wanted = 10 * SERIES_PER_AGENT_MAX
    schema = encode_schema(
        [FamilyRun("m", MetricKind.GAUGE, "", tuple((("n", str(i)),) for i in range(wanted)))]
    )
    for frame in schema.frames:
        await agent.send(frame)
    refusal = await agent.hear_kind(Refusal)
    assert (refusal.reason, refusal.count) == ("series_quota", wanted - SERIES_PER_AGENT_MAX)
    small = encode_schema([FamilyRun("other", MetricKind.GAUGE, "", ((),))])
    await agent.send(small.frames[0])
    assert (await agent.hear_kind(Refusal)).reason == "series_quota"
    assert len(site.table) <= SERIES_PER_AGENT_MAX + 2  # And both hosts' `up`.
    await neighbour.send(LOAD.frames[0])
    await neighbour.ticks(1, LOAD, [1.0])
    await neighbour.acked(1)


@pytest.mark.parametrize(
    ("reason", "block"),
    [
        ("unknown_schema", pb.Block(schema_id=77, first_boottime_ms=1000, values=b"\0" * 8)),
        ("block_size", pb.Block(schema_id=LOAD.schema_id, values=b"\0" * 7)),
        ("block_size", pb.Block(schema_id=LOAD.schema_id, values=b"\0" * 16)),
        ("block_size", pb.Block(schema_id=LOAD.schema_id)),
        ("times", pb.Block(schema_id=LOAD.schema_id, steps_ms=[0], values=b"\0" * 16)),
        ("ticks", pb.Block(schema_id=LOAD.schema_id, steps_ms=[1] * 600, values=b"\0" * 8 * 601)),
    ],
)
async def test_a_block_that_does_not_fit_its_dictionary_becomes_a_gap(
    site: Site, reason: str, block: pb.Block
) -> None:
    agent = await site.linked()
    await agent.send(LOAD.frames[0])
    block.first_boottime_ms = agent.clock.boottime_ms() - 1000
    record = pb.Record(seq=1, ticks=pb.Ticks(blocks=[block])).SerializeToString()
    await agent.send(encode_batch(Stream.BULK, [record]))
    assert (await agent.hear_kind(Refusal)).reason == reason
    await agent.acked(1)
    assert [gap.reason for gap in site.sink.gaps] == [GapReason.REFUSED]
    assert site.samples("node_load1") == []


@pytest.mark.parametrize(
    "record",
    [
        pb.Record(seq=0, ticks=pb.Ticks()),
        pb.Record(seq=2**64 - 1, ticks=pb.Ticks()),
        pb.Record(seq=1, gap=pb.Gap(to_seq=0, count=1)),
        pb.Record(seq=1, gap=pb.Gap(to_seq=5, count=4)),
        pb.Record(seq=1, gap=pb.Gap(to_seq=2**63, count=2**63)),
    ],
)
async def test_numbers_that_cannot_be_end_the_session(site: Site, record: pb.Record) -> None:
    agent = await site.linked()
    await agent.send(encode_batch(Stream.BULK, [record.SerializeToString()]))
    await ended(agent, EndReason.PROTOCOL)
    assert site.refusals() == {("web01", "record"): 1}


async def test_a_gap_record_is_stored_with_its_reason_and_count(site: Site) -> None:
    agent = await site.linked()
    gap = encode_gap(1, 5, GapBody(GapReason.OVERFLOW, 1500, 1000, 2000))
    await agent.send(encode_batch(Stream.BULK, [gap]))
    await agent.acked(5)
    (row,) = site.sink.gaps
    assert (row.from_seq, row.to_seq, row.count, row.samples, row.reason) == (
        1,
        5,
        5,
        1500,
        GapReason.OVERFLOW,
    )
    assert row.last_ms - row.first_ms == 1000


OVERFLOWED = GapBody(
    GapReason.OVERFLOW, 1500, 1000, 2000, (GapPart(2, 400), GapPart(1, 500), GapPart(2, 600))
)


@pytest.mark.parametrize(
    ("held", "samples"), [(1, 1300), (2, 1100), (3, 600), (4, 300)], ids="{} held".format
)
async def test_of_a_gap_that_begins_with_records_that_are_here_only_the_rest_counts(
    site: Site, held: int, samples: int
) -> None:
    agent = await site.linked()
    await agent.send(LOAD.frames[0])
    for seq in range(1, held + 1):
        await agent.ticks(seq, LOAD, [float(seq)])
    await agent.send(encode_batch(Stream.BULK, [encode_gap(1, 5, OVERFLOWED)]))
    await agent.acked(5)
    (row,) = site.sink.gaps
    assert (row.from_seq, row.to_seq, row.count, row.samples) == (held + 1, 5, 5 - held, samples)


@pytest.mark.parametrize(
    "gap",
    [
        GapBody(GapReason.OVERFLOW, 1500),
        GapBody(GapReason.OVERFLOW, 1500, parts=(GapPart(3, 500),)),
        GapBody(GapReason.OVERFLOW, 1500, parts=(GapPart(1, 1501), GapPart(4, 1))),
        GapBody(GapReason.OVERFLOW, 1500, parts=(GapPart(0, 9),) * 9),
        GapBody(GapReason.OVERFLOW, 1500, parts=(GapPart(2, 2**63),)),
        GapBody(GapReason.OVERFLOW, 2**63, parts=(GapPart(1, 1),)),
        GapBody(GapReason.OVERFLOW, 1500, parts=(GapPart(1, 1),) * (GAP_PARTS_MAX + 1)),
    ],
)
async def test_where_a_gap_cannot_tell_its_rest_the_samples_are_unknown(site: Site, gap: GapBody) -> None:
    agent = await site.linked()
    await agent.send(LOAD.frames[0])
    await agent.ticks(1, LOAD, [1.0])
    await agent.send(encode_batch(Stream.BULK, [encode_gap(1, 5, gap)]))
    await agent.acked(5)
    (row,) = site.sink.gaps
    assert (row.from_seq, row.to_seq, row.count, row.samples) == (2, 5, 4, 0)


async def test_parts_of_a_dictionary_out_of_order_end_the_session(site: Site) -> None:
    agent = await site.linked()
    await agent.send(pb.Up(dictionary=pb.Dictionary(schema_id=1, part=1, parts=3)).SerializeToString())
    await ended(agent, EndReason.PROTOCOL)


async def test_events_in_the_bulk_stream_and_samples_in_the_crit_stream_are_refused(site: Site) -> None:
    agent = await site.linked()
    await agent.send(LOAD.frames[0])
    event = pb.Record(seq=1, event=pb.Event(event_id=b"e" * 16)).SerializeToString()
    ticks = number(1, encode_ticks([BlockValues(LOAD, [agent.clock.boottime_ms()], 0, pack([1.0]))]))
    await agent.send(encode_batch(Stream.BULK, [event]))
    await agent.send(encode_batch(Stream.CRIT, [ticks]))
    assert [(await agent.hear_kind(Refusal)).reason for _ in range(2)] == ["wrong_stream", "wrong_stream"]


@pytest.mark.parametrize("kind", ["", "x" * 65, "a\x00b", "Backup"])
async def test_an_event_whose_kind_no_database_should_see_is_refused(site: Site, kind: str) -> None:
    agent = await site.linked()
    event = pb.Record(seq=1, event=pb.Event(event_id=b"e" * 16, kind=kind)).SerializeToString()
    await agent.send(encode_batch(Stream.CRIT, [event]))
    assert (await agent.hear_kind(Refusal)).reason == "event"
    assert site.crit.events == []


async def test_critical_records_behind_a_gap_wait_for_the_row_of_the_gap(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "RETRY_AFTER_S", 0.2)
    agent = await site.linked()
    site.sink.fail = StorageError("history is full")
    event = pb.Event(event_id=b"e" * 16, kind="backup")
    gap = encode_gap(1, 2, GapBody(GapReason.COLLECTOR_REWIND))
    records = [gap, pb.Record(seq=3, event=event).SerializeToString()]
    await agent.send(encode_batch(Stream.CRIT, records))
    assert isinstance(await agent.hear_kind(Busy), Busy)
    assert (site.crit.events, site.crit.marks) == ([], {}), "acknowledged, the gap would never be told of"
    site.sink.fail = None
    await until(lambda: not site.ingest.commits.full)
    await agent.send(encode_batch(Stream.CRIT, records))
    assert (await agent.hear_kind(Ack)).marks[0].committed == 3
    assert [(row.from_seq, row.to_seq, row.stream) for row in site.sink.gaps] == [(1, 2, int(Stream.CRIT))]
    assert site.ingest.counters.events == {"backup": 1}


async def test_critical_records_do_not_wait_for_samples_that_cannot_be_stored(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "RETRY_AFTER_S", 0.2)
    agent = await site.linked()
    site.sink.fail = StorageError("history is full")
    await agent.send(LOAD.frames[0])
    event = pb.Event(event_id=b"e" * 16, kind="backup")
    await agent.send(encode_batch(Stream.CRIT, [pb.Record(seq=1, event=event).SerializeToString()]))
    await agent.ticks(1, LOAD, [1.0])
    await agent.hear_kind(Busy)
    await until(lambda: len(site.crit.events) == 1)
    site.sink.fail = None


async def test_a_critical_event_is_committed_and_acknowledged_at_once(site: Site) -> None:
    agent = await site.linked()
    event = pb.Event(event_id=b"e" * 16, kind="backup", payload=b"{}")
    await agent.send(encode_batch(Stream.CRIT, [pb.Record(seq=1, event=event).SerializeToString()]))
    ack = await agent.hear_kind(Ack)
    assert [(mark.stream, mark.committed) for mark in ack.marks] == [(Stream.CRIT, 1)]
    assert [(agent_id, event.kind) for agent_id, event in site.crit.events] == [(agent.agent_id, "backup")]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"protocol": 9}, EndReason.VERSION),
        ({"spool_id": b"x"}, EndReason.PROTOCOL),
        ({"run_id": b""}, EndReason.PROTOCOL),
        ({"streams": (StreamState(Stream.BULK, 1, 2, 3),)}, EndReason.PROTOCOL),
        ({"job": "x" * 2000}, EndReason.PROTOCOL),
    ],
)
async def test_a_hello_that_cannot_be_is_answered_with_the_reason(
    site: Site, changes: dict[str, Any], reason: EndReason
) -> None:
    agent = site.connect(site.enrol("web01"))
    end = await agent.hello(**changes)
    assert isinstance(end, End)
    assert end.reason is reason
    assert site.ingest.counters.sessions_refused == 1


async def test_a_hosts_own_labels_that_cannot_be_are_left_out(site: Site) -> None:
    agent = site.connect(site.enrol("web01", team="ops"))
    await agent.hello(labels={"rack": "b12", "team": "root", "bad-name": "x", "instance": "forged"})
    assert (await agent.hear_kind(Refusal)).reason == "label_name"
    await agent.send(LOAD.frames[0])
    await agent.ticks(1, LOAD, [1.0])
    await agent.acked(1)
    labels = [site.table.labels(int(ticks.series[0])) for ticks in site.sink.ticks]
    assert {
        "__name__": "node_load1",
        "instance": "web01",
        "job": "node",
        "rack": "b12",
        "team": "ops",
    } in labels
