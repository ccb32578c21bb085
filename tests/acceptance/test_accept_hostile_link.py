"""A host that was enrolled and sends what no agent would: every wrong thing is refused and counted under its
name, and costs nobody else a sample.

The hostile side speaks gRPC itself, with a real identity; a real agent runs beside it all the time.
"""

import asyncio
import itertools
import os
import random
import struct
import time

import grpc
import grpc.aio
import pytest

from watchbill.codec import (
    BlockValues,
    FamilyRun,
    MetricKind,
    decode_down,
    encode_batch,
    encode_beat,
    encode_bye,
    encode_hello,
    encode_schema,
    encode_ticks,
    number,
    pack,
)
from watchbill.identity import IdentityFile
from watchbill.limits import BATCH_RECORDS_MAX, MESSAGE_BYTES_MAX, SERIES_PER_AGENT_MAX
from watchbill.protocol.frames import (
    Ack,
    End,
    EndReason,
    Hello,
    Nack,
    Refusal,
    Stream,
    StreamState,
    Welcome,
)
from watchbill.tls import channel_credentials, channel_options
from watchbill.v1 import link_pb2 as pb

pytestmark = pytest.mark.timeout(120)

ANSWER_S = 20.0
STALE = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]
MIB = 1 << 20


class Speaker:
    """One connection that says whatever it is told to."""

    def __init__(self, agent):
        self.identity = IdentityFile(agent.state).load()
        self.name = agent.name
        self.spool_id = os.urandom(16)
        self.seq = 0

    async def __aenter__(self):
        self.channel = grpc.aio.secure_channel(
            self.identity.stream_endpoint,
            channel_credentials(self.identity),
            options=[*channel_options(), ("grpc.max_send_message_length", -1)],
        )
        self.call = self.channel.stream_stream("/watchbill.v1.Link/Stream")()
        return self

    async def __aexit__(self, *_):
        self.call.cancel()
        await self.channel.close()

    async def say(self, message):
        await self.call.write(message)

    async def hear(self, kind):
        """The next frame of that kind; None when the collector closed first."""
        async with asyncio.timeout(ANSWER_S):
            while True:
                try:
                    message = await self.call.read()
                except grpc.aio.AioRpcError:
                    return None
                if message is grpc.aio.EOF:
                    return None
                frame = decode_down(message)
                if isinstance(frame, kind):
                    return frame

    async def status(self):
        """The status the call ended with."""
        async with asyncio.timeout(ANSWER_S):
            return await self.call.code()

    async def greet(self, **changes):
        fields = {
            "agent_version": "0.1.0",
            "spool_id": self.spool_id,
            "run_id": os.urandom(16),
            "boot_id": "hostile",
            "streams": (StreamState(Stream.CRIT), StreamState(Stream.BULK)),
            "wall_ms": time.time_ns() // 1_000_000,
            "boottime_ms": time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000,
            "interval_ms": 1000,
        }
        await self.say(encode_hello(Hello(**{**fields, **changes})))
        welcome = await self.hear((Welcome, End))
        assert isinstance(welcome, Welcome), welcome
        return welcome

    async def dictionary(self, *series, name="hostile_metric"):
        """Send a dictionary of these label sets; its schema."""
        schema = encode_schema([FamilyRun(name, MetricKind.GAUGE, "Hostile.", tuple(series))])
        for frame in schema.frames:
            await self.say(frame)
        return schema

    def record(self, schema, values, *, at_ms=None, seq=None, ahead_ms=0):
        """A record with one tick."""
        self.seq = self.seq + 1 if seq is None else seq
        at_ms = boottime_ms() if at_ms is None else at_ms
        block = BlockValues(schema, (at_ms,), time.time_ns() // 1_000_000 + ahead_ms, pack(values))
        return number(self.seq, encode_ticks([block]))

    async def send(self, *records):
        await self.say(encode_batch(Stream.BULK, records))

    async def acknowledged(self, seq):
        """Say goodbye, and wait until that record is acknowledged: else an answer may come a minute later."""
        await self.say(encode_bye("done"))
        while True:
            ack = await self.hear(Ack)
            assert ack is not None, "closed"
            if any(mark.stream is Stream.BULK and mark.committed >= seq for mark in ack.marks):
                return


def boottime_ms():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


@pytest.fixture(scope="module")
def collector(shared_house):
    return shared_house.collector("[rules]\nstock = false\n")


@pytest.fixture(scope="module")
def honest(shared_house, collector):
    return shared_house.agent(collector, "honest")


@pytest.fixture
def hostile(shared_house, collector, honest, request):
    """An enrolled host of its own for each test, so that quotas and counts are its own."""
    name = request.node.name.removeprefix("test_")[:40].strip("_").replace("_", "-").partition("[")[0]
    taken = sum(host["name"].startswith(name) for host in collector.get("/hosts")["hosts"])
    return shared_house.enrolled(collector, f"{name}-{taken}")


@pytest.fixture(autouse=True)
def the_honest_agent_loses_nothing(collector, honest, until):
    """After every test: the agent beside it went on, in one session, and nothing of it is missing."""
    selector = 'node_load1{instance="honest"}'
    yield
    newest = collector.raw(selector, 600)[-1][0] if collector.raw(selector, 600) else 0
    found = until(
        lambda: (found := collector.raw(selector, 600)) and found[-1][0] > newest and found, "it goes on"
    )
    assert max((b[0] - a[0] for a, b in itertools.pairwise(found)), default=0) < 3.0
    assert collector.losses("honest") == []
    assert collector.refusals("honest") == {}
    assert collector.host("honest")["state"] == "up"


def stored(collector, hostile):
    """The newest values. Who said goodbye has no present ones, as soon as the collector has heard it."""
    return collector.query(f'last_over_time(hostile_metric{{instance="{hostile.name}"}}[5m])')


async def test_bytes_that_are_no_message_end_the_session(collector, hostile):
    for garbage in (b"\xff" * 100, os.urandom(4096), b"\x12\xff\xff\xff\xff\x0f"):
        async with Speaker(hostile) as speaker:
            await speaker.greet()
            await speaker.say(garbage)
            assert await speaker.hear(End) is not None
            assert await speaker.status() is grpc.StatusCode.FAILED_PRECONDITION
    assert collector.refusals(hostile.name)["malformed"] == 3


async def test_a_session_begins_with_one_hello(collector, hostile):
    async with Speaker(hostile) as speaker:
        await speaker.say(encode_beat(1, 1))
        assert (await speaker.hear(End)).reason is EndReason.PROTOCOL
    async with Speaker(hostile) as speaker:
        await speaker.greet()
        await speaker.say(encode_hello(hello_of(speaker)))
        assert (await speaker.hear(End)).reason is EndReason.PROTOCOL
    async with Speaker(hostile) as speaker:
        await speaker.say(encode_hello(hello_of(speaker, spool_id=b"short")))
        assert (await speaker.hear(End)).reason is EndReason.PROTOCOL
    async with Speaker(hostile) as speaker:
        await speaker.say(encode_hello(hello_of(speaker, protocol=99)))
        assert (await speaker.hear(End)).reason is EndReason.VERSION
    refusals = collector.refusals(hostile.name) | collector.refusals(hostile.agent_id)
    assert {"no_hello", "second_hello", "protocol", "version"} <= set(refusals), refusals


def hello_of(speaker, **changes):
    fields = {
        "agent_version": "0.1.0",
        "spool_id": speaker.spool_id,
        "run_id": os.urandom(16),
        "boot_id": "hostile",
        "streams": (StreamState(Stream.BULK),),
        "wall_ms": time.time_ns() // 1_000_000,
        "boottime_ms": boottime_ms(),
    }
    return Hello(**{**fields, **changes})


async def test_a_message_one_byte_too_long_is_refused_and_counted(collector, hostile):
    async with Speaker(hostile) as speaker:
        await speaker.greet()
        await speaker.say(b"\x00" * (MESSAGE_BYTES_MAX + 1))
        assert (await speaker.hear(End)).reason is EndReason.PROTOCOL
    assert collector.refusals(hostile.name) == {"oversized": 1}


async def test_ten_times_the_series_quota_gets_the_quota_and_costs_bounded_memory(collector, hostile):
    before = collector.running.resident_bytes()
    wanted = 10 * SERIES_PER_AGENT_MAX
    async with Speaker(hostile) as speaker:
        await speaker.greet()
        series = [(("n", str(n)),) for n in range(wanted)]
        await speaker.dictionary(*series)
        refusal = await speaker.hear(Refusal)
        assert refusal.reason == "series_quota"
    host = collector.host(hostile.name)
    assert host["series"] <= SERIES_PER_AGENT_MAX
    assert collector.refusals(hostile.name)["series_quota"] == wanted - SERIES_PER_AGENT_MAX
    assert collector.running.resident_bytes() - before < 150 * MIB


async def test_label_values_that_break_a_rule_are_refused_one_by_one(collector, hostile):
    html = "<script>alert(1)</script>"
    async with Speaker(hostile) as speaker:
        await speaker.greet()
        good = (("html", html),)
        bad = [
            (("long", "x" * 1025),),
            (("empty", ""),),
            (("__reserved", "x"),),
            (("9", "x"),),
            (("b", "x"), ("a", "y")),
            tuple((f"l{n:02}", "x") for n in range(33)),
        ]
        schema = await speaker.dictionary(good, *bad, good)
        await speaker.send(speaker.record(schema, range(len(bad) + 2)))
        other = await speaker.dictionary((), name="up")
        await speaker.send(speaker.record(other, [1.0]))
        await speaker.acknowledged(2)
    refusals = collector.refusals(hostile.name)
    assert refusals == {
        "label_value_length": 1,
        "label_value_empty": 1,
        "label_name": 2,
        "label_order": 1,
        "label_count": 1,
        "duplicate_series": 1,
        "reserved_name": 1,
    }
    ((labels, value),) = stored(collector, hostile)
    assert (labels["html"], value) == (html, 0.0)
    answer = collector.ask("GET", f"/api/v1/series?match[]=hostile_metric%7Binstance=%22{hostile.name}%22%7D")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_label_that_is_not_utf_8_costs_its_series_and_one_of_a_megabyte_the_session(
    collector, hostile
):
    async with Speaker(hostile) as speaker:
        await speaker.greet()
        run = FamilyRun("hostile_metric", MetricKind.GAUGE, "", ((("a", "XXXX"),), (("a", "good"),)))
        schema = encode_schema([run])
        await speaker.say(schema.frames[0].replace(b"XXXX", b"\xff\xfe\xfd\xfc"))
        assert (await speaker.hear(Refusal)).reason == "not_utf8"
        await speaker.send(speaker.record(schema, [1.0, 2.0]))
        await speaker.acknowledged(1)
    ((labels, value),) = stored(collector, hostile)
    assert (labels["a"], value) == ("good", 2.0)
    assert collector.refusals(hostile.name) == {"not_utf8": 1}
    async with Speaker(hostile) as speaker:
        await speaker.greet()
        family = pb.Family(name=b"m", series=[pb.LabelSet(pairs=[b"a", b"x" * MIB])])
        dictionary = pb.Dictionary(schema_id=1, parts=1, families=[family])
        await speaker.say(pb.Up(dictionary=dictionary).SerializeToString())
        assert (await speaker.hear(End)).reason is EndReason.PROTOCOL
    assert collector.refusals(hostile.name) == {"not_utf8": 1, "oversized": 1}


async def test_nan_infinities_and_stale_markers_are_kept_as_they_are(collector, hostile, until):
    async with Speaker(hostile) as speaker:
        await speaker.greet()
        kinds = ("inf", "minus", "nan", "stale")
        schema = await speaker.dictionary(*((("kind", kind),) for kind in kinds))
        await speaker.send(speaker.record(schema, [float("inf"), float("-inf"), float("nan"), STALE]))
        await speaker.acknowledged(1)
    found = {labels["kind"]: value for labels, value in stored(collector, hostile)}
    assert set(found) == {"inf", "minus", "nan"}, "a stale marker ends its series"
    assert (found["inf"], found["minus"]) == (float("inf"), float("-inf"))
    assert found["nan"] != found["nan"]
    assert collector.refusals(hostile.name) == {}


async def test_the_future_and_the_far_past_are_refused_with_a_gap_row(collector, hostile):
    async with Speaker(hostile) as speaker:
        await speaker.greet()
        schema = await speaker.dictionary((("a", "b"),))
        hour, day = 3_600_000, 86_400_000
        await speaker.send(
            speaker.record(schema, [1.0], at_ms=boottime_ms() + hour),
            speaker.record(schema, [2.0], at_ms=boottime_ms() - 16 * day),
            speaker.record(schema, [3.0], at_ms=boottime_ms() - hour),
            speaker.record(schema, [4.0], at_ms=2**62),
            speaker.record(schema, [5.0], at_ms=-(2**62)),
            speaker.record(schema, [6.0]),
        )
        await speaker.acknowledged(6)
    assert collector.refusals(hostile.name) == {"future": 2, "too_old": 2}
    rows = collector.gaps(hostile.name)
    assert {(row["reason"], row["from_seq"], row["count"], row["samples"]) for row in rows} == {
        ("refused", seq, 1, 1) for seq in (1, 2, 4, 5)
    }
    kept = collector.raw(f'hostile_metric{{instance="{hostile.name}"}}', 7200)
    assert [value for _, value in kept] == [3.0, 6.0]


@pytest.mark.parametrize("off_s", [-7200, 7200, 40 * 365 * 86_400])
async def test_a_host_whose_clock_is_off_is_kept_at_the_collectors_time_and_its_skew_told(
    collector, hostile, off_s
):
    async with Speaker(hostile) as speaker:
        await speaker.greet(wall_ms=time.time_ns() // 1_000_000 + off_s * 1000)
        schema = await speaker.dictionary((("a", "b"),))
        await speaker.send(speaker.record(schema, [1.0], ahead_ms=off_s * 1000))
        assert await speaker.hear(Ack) is not None
        skew = collector.metric("watchbill_collector_agent_clock_skew_seconds", agent=hostile.name)
        assert abs(skew - off_s) < 5
        await speaker.say(encode_bye("done"))
        await speaker.hear(End)
    ((at, _),) = collector.raw(f'hostile_metric{{instance="{hostile.name}"}}', 600)
    assert abs(at - time.time()) < 10
    assert collector.refusals(hostile.name) == {}


async def test_a_date_that_is_set_while_a_host_is_linked_shows_with_its_next_reading(collector, hostile):
    async with Speaker(hostile) as speaker:
        await speaker.greet()
        schema = await speaker.dictionary((("a", "b"),))
        await speaker.send(
            speaker.record(schema, [1.0]),
            speaker.record(schema, [2.0], at_ms=boottime_ms() + 1, ahead_ms=3_600_000),
        )
        assert await speaker.hear(Ack) is not None
        skew = collector.metric("watchbill_collector_agent_clock_skew_seconds", agent=hostile.name)
    assert abs(skew - 3600) < 5


async def test_records_that_come_twice_count_once_and_a_hole_is_asked_for(collector, hostile):
    duplicates = collector.metric("watchbill_collector_ingest_duplicates_total")
    async with Speaker(hostile) as speaker:
        await speaker.greet()
        schema = await speaker.dictionary((("a", "b"),))
        captured = [speaker.record(schema, [float(n)]) for n in range(1, 6)]
        await speaker.send(*captured)
        assert await speaker.hear(Ack) is not None
        await speaker.send(*captured)
        await speaker.send(speaker.record(schema, [9.0], seq=9))
        nack = await speaker.hear(Nack)
        assert (nack.stream, nack.expected) == (Stream.BULK, 6)
    async with Speaker(hostile) as again:
        again.spool_id = speaker.spool_id
        await again.greet(
            streams=(StreamState(Stream.BULK, first_retained=1, last_durable=5),), run_id=os.urandom(16)
        )
        await again.dictionary((("a", "b"),))
        await again.send(*captured)
        again.seq = 5
        await again.send(again.record(schema, [6.0]))
        await again.acknowledged(6)
    assert collector.metric("watchbill_collector_ingest_duplicates_total") - duplicates == 10
    kept = collector.raw(f'hostile_metric{{instance="{hostile.name}"}}', 600)
    assert len(kept) == len({at for at, _ in kept})
    assert kept[-1][1] == 6.0


async def test_records_whose_content_cannot_be_are_refused_alone(collector, hostile):
    async with Speaker(hostile) as speaker:
        await speaker.greet()
        schema = await speaker.dictionary((("a", "1"),), (("a", "2"),))
        unknown = encode_schema([FamilyRun("never_sent", MetricKind.GAUGE, "", ((),))])
        wrong_size = pb.Record(seq=2)
        wrong_size.ticks.blocks.add(
            schema_id=schema.schema_id, first_boottime_ms=boottime_ms(), values=pack([1.0])
        )
        same_time = pb.Record(seq=3)
        same_time.ticks.blocks.add(
            schema_id=schema.schema_id, first_boottime_ms=boottime_ms(), steps_ms=[0], values=pack([1.0] * 4)
        )
        await speaker.send(
            speaker.record(unknown, [1.0]),
            wrong_size.SerializeToString(),
            same_time.SerializeToString(),
            pb.Record(seq=4).SerializeToString(),
            speaker.record(schema, [7.0, 8.0], seq=5),
        )
        await speaker.acknowledged(5)
    assert collector.refusals(hostile.name) == {
        "unknown_schema": 1,
        "block_size": 1,
        "times": 1,
        "record_kind": 1,
    }
    assert sorted(value for _, value in stored(collector, hostile)) == [7.0, 8.0]
    assert {row["reason"] for row in collector.gaps(hostile.name)} == {"refused"}


async def test_ticks_that_go_back_in_time_break_no_query(collector, hostile):
    async with Speaker(hostile) as speaker:
        await speaker.greet()
        schema = await speaker.dictionary((("a", "b"),))
        now = boottime_ms()
        offsets = [-1000, -5000, -3000, -3000, -9000, 0]
        records = [speaker.record(schema, [float(n)], at_ms=now + at) for n, at in enumerate(offsets)]
        await speaker.send(*records)
        await speaker.acknowledged(len(offsets))
    kept = collector.raw(f'hostile_metric{{instance="{hostile.name}"}}', 600)
    times = [at for at, _ in kept]
    assert times == sorted(set(times))
    assert kept[-1][1] == 5.0
    assert collector.value(f'count_over_time(hostile_metric{{instance="{hostile.name}"}}[5m])') == len(kept)


async def test_too_many_records_in_a_batch_and_impossible_numbers_end_the_session(collector, hostile):
    for records in (
        [number(seq, b"") for seq in range(1, BATCH_RECORDS_MAX + 2)],
        [number(0, b"")],
        [pb.Record(seq=2**63).SerializeToString()],
        [pb.Record(seq=1, gap=pb.Gap(to_seq=2**63 - 1, count=2**63 - 1, reason=1)).SerializeToString()],
    ):
        async with Speaker(hostile) as speaker:
            await speaker.greet()
            await speaker.send(*records)
            assert (await speaker.hear(End)).reason is EndReason.PROTOCOL, len(records)
    assert collector.refusals(hostile.name)["record"] == 4


async def test_no_mutation_of_what_an_agent_sends_stops_the_collector(collector, hostile):
    rng = random.Random(20)
    speaker = Speaker(hostile)
    schema = encode_schema(
        [FamilyRun("hostile_metric", MetricKind.GAUGE, "h", tuple((("a", str(n)),) for n in range(5)))]
    )
    messages = [
        encode_hello(hello_of(speaker)),
        *schema.frames,
        encode_batch(Stream.BULK, [speaker.record(schema, [1.0] * 5) for _ in range(3)]),
        encode_bye("gone"),
    ]
    for _ in range(60):
        async with Speaker(hostile) as one:
            for place, message in enumerate(messages):
                mutated = bytearray(message)
                if place or rng.random() < 0.2:
                    for _ in range(rng.randint(0, 3)):
                        mutated[rng.randrange(len(mutated))] = rng.randrange(256)
                try:
                    await one.say(bytes(mutated))
                except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
                    break
    assert collector.ask("GET", "/readyz").status == 200
    assert collector.query(f'count({{instance="{hostile.name}"}})') is not None


async def test_a_host_that_connects_too_often_is_refused_and_the_log_is_not_flooded(collector, hostile):
    lines = collector.said.count("\n")
    for _ in range(100):
        async with Speaker(hostile) as speaker:
            await speaker.say(b"\xff" * 50)
            await speaker.hear(End)
    async with Speaker(hostile) as one:
        await one.greet()
        # A second connection may be open for a moment, when it takes over from the first; a third may not.
        async with Speaker(hostile) as two, Speaker(hostile) as three:
            ends = [asyncio.create_task(speaker.status()) for speaker in (two, three)]
            (end, *others), _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            assert not others
            assert end.result() is grpc.StatusCode.PERMISSION_DENIED
            for task in ends:
                task.cancel()
    refusals = collector.refusals(hostile.name) | collector.refusals(hostile.agent_id)
    assert (refusals["malformed"], refusals["connections"]) == (100, 1), refusals
    assert collector.said.count("\n") - lines < 20


def test_the_collector_never_said_more_than_a_person_can_read(collector):
    assert "Traceback" not in collector.said
    assert collector.said.count("\n") < 100
