"""The sender over the in-memory transport: what goes over the wire, and when it goes nowhere."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from watchbill.clock import SystemClock
from watchbill.codec import (
    BlockValues,
    FamilyRun,
    MetricKind,
    Schema,
    encode_down,
    encode_schema,
    encode_ticks,
    pack,
)
from watchbill.leaving import Farewell
from watchbill.protocol.client import Fork
from watchbill.protocol.frames import (
    Ack,
    Busy,
    End,
    EndReason,
    Refusal,
    Settings,
    Stream,
    StreamMark,
    Welcome,
)
from watchbill.protocol.timing import HOLD_SHARE, CollectorTime, Pacer
from watchbill.v1 import link_pb2 as pb
from watchbill_agent.batch import Batcher
from watchbill_agent.reading import Family, Layout, MetricType, Reading, Series
from watchbill_agent.sender import About, Sender
from watchbill_agent.spool import DiskSpool, Draft, MemorySpool, SimulatedFilesystem
from watchbill_agent.transports import LinkDown
from watchbill_agent.transports.in_memory import FarEnd, InMemoryTransport

BULK = Stream.BULK
PATIENCE_S = 20.0
SETTINGS = Settings(credit_bytes=1 << 20, beat_interval_ms=10_000)


def schema(name: str) -> Schema:
    return encode_schema([FamilyRun(name, MetricKind.GAUGE, "", ((),))])


LAYOUT = Layout([Family("m", MetricType.GAUGE, "")], [Series("m", ())])
LOAD, MEMORY = schema("node_load1"), schema("node_memory_MemFree_bytes")


async def until(condition: Callable[[], object]) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_s, "the condition did not come true in time"
        await asyncio.sleep(0.002)


class Collector:
    """Scripted: welcomes, keeps everything it hears, and acknowledges when told to."""

    def __init__(self) -> None:
        self.heard: list[pb.Up] = []
        self.far: list[FarEnd] = []
        self.acknowledge = True
        self.settings = SETTINGS
        self.committed = 0
        self.answer: Callable[[FarEnd], Awaitable[None]] | None = None

    async def serve(self, far: FarEnd) -> None:
        self.far.append(far)
        while (message := await far.read()) is not None:
            up = pb.Up.FromString(message)
            self.heard.append(up)
            kind = up.WhichOneof("message")
            if kind == "hello":
                if self.answer is not None:
                    await self.answer(far)
                    return
                marks = (StreamMark(BULK, 0),)
                await far.write(
                    encode_down(Welcome(7, round(time.time() * 1000), marks, self.settings, instance="w"))
                )
            elif kind == "batch" and self.acknowledge:
                self.committed = pb.Record.FromString(up.batch.records[-1]).seq
                await self.ack(far)
            elif kind == "bye":
                far.close()

    async def ack(self, far: FarEnd) -> None:
        await far.write(encode_down(Ack((StreamMark(BULK, self.committed),), 1 << 20)))

    def kinds(self) -> list[str | None]:
        return [up.WhichOneof("message") for up in self.heard]


class House:
    """A sender, its spool, and the collector at the other end."""

    def __init__(self) -> None:
        self.collector = Collector()
        self.transport = InMemoryTransport(self.collector.serve)
        self.spool = MemorySpool()
        self.clock = SystemClock()
        about = About("0.1.0", b"r" * 16, "boot", interval_ms=1000)
        self.sender = Sender(self.transport, self.spool, lambda: about, self.clock, random.Random(1))
        self.task = asyncio.create_task(self.sender.run())

    def tick(self, *schemas: Schema) -> None:
        now_ms = self.clock.boottime_ms()
        chosen = schemas or (LOAD,)
        body = encode_ticks([BlockValues(one, [now_ms], 0, pack([1.0])) for one in chosen])
        self.spool.append(BULK, Draft(body, len(chosen), now_ms, now_ms, chosen))
        self.sender.wake()

    def acked(self) -> int:
        return self.spool.state(BULK).acked


@pytest_asyncio.fixture
async def house() -> AsyncIterator[House]:
    house = House()
    yield house
    await house.sender.stop("test", 0.5)
    await house.transport.close()


async def test_a_dictionary_goes_once_a_session_before_the_first_record_that_needs_it(house: House) -> None:
    house.tick()
    await until(lambda: house.acked() == 1)
    house.tick()
    house.tick(LOAD, MEMORY)
    await until(lambda: house.acked() == 3)
    assert [kind for kind in house.collector.kinds() if kind == "dictionary"] == ["dictionary"] * 2
    assert house.collector.kinds()[:3] == ["hello", "dictionary", "batch"]
    house.transport.links[-1].cut()
    await until(lambda: not house.sender.facts.connected)
    assert house.sender.facts.reason == "cut"


async def test_what_was_not_acknowledged_goes_again_in_the_next_session(house: House) -> None:
    house.collector.acknowledge = False
    house.tick()
    await until(lambda: "batch" in house.collector.kinds())
    house.transport.links[-1].cut()
    house.collector.acknowledge = True
    await until(lambda: house.acked() == 1)
    assert house.collector.kinds().count("batch") == 2
    assert house.sender.facts.sessions == 2


async def test_a_collector_that_is_away_loses_nothing(house: House) -> None:
    house.transport.down = LinkDown("unreachable", "nobody answers")
    for link in house.transport.links:
        link.cut()
    house.tick()
    await until(lambda: house.sender.facts.reason == "unreachable")
    house.transport.down = None
    await until(lambda: house.acked() == 1)


async def test_a_stop_sends_what_is_left_says_goodbye_and_waits_for_the_acknowledgement(house: House) -> None:
    await until(lambda: house.sender.facts.connected)
    for _ in range(5):
        house.tick()
    assert await house.sender.stop("upgrade", 5)
    assert house.collector.kinds()[-1] == "bye"
    assert house.collector.heard[-1].bye.reason == "upgrade"
    assert house.task.done()


async def test_before_a_sleep_it_delivers_says_so_and_stays_away_until_it_comes_back(house: House) -> None:
    await until(lambda: house.sender.facts.connected)
    house.tick()
    assert await house.sender.leave(Farewell("suspend", 7000), 5, 60)
    bye = house.collector.heard[-1].bye
    assert (bye.reason, bye.back_within_ms, house.acked()) == ("suspend", 7000, 1)
    house.tick()
    await asyncio.sleep(0.05)
    assert (house.sender.facts.sessions, house.sender.facts.reason) == (1, "suspend")
    house.sender.come_back()
    await until(lambda: house.acked() == 2)
    assert house.sender.facts.sessions == 2


async def test_who_said_it_sleeps_and_does_not_comes_back_by_itself(house: House) -> None:
    await until(lambda: house.sender.facts.connected)
    assert await house.sender.leave(Farewell("suspend"), 5, 0.01)
    await until(lambda: house.sender.facts.sessions == 2)
    house.tick()
    await until(lambda: house.acked() == 1)


async def test_a_goodbye_that_nobody_answers_holds_nothing_up_and_is_taken_back(house: House) -> None:
    house.collector.acknowledge = False
    house.tick()
    await until(lambda: "batch" in house.collector.kinds())
    link = house.transport.links[-1]

    async def deaf(message: bytes) -> None:
        """Takes everything, and it gets nowhere."""

    link.send = deaf  # type: ignore[method-assign]
    assert not await house.sender.leave(Farewell("suspend"), 0.05, 60)
    house.collector.acknowledge = True
    house.sender.come_back()
    await until(lambda: house.acked() == 1)
    assert house.sender.facts.sessions == 2


async def test_without_a_link_nothing_is_said_before_a_sleep(house: House) -> None:
    house.transport.down = LinkDown("unreachable", "nobody answers")
    for link in house.transport.links:
        link.cut()
    await until(lambda: house.sender.facts.reason == "unreachable")
    assert not await house.sender.leave(Farewell("suspend"), 5, 60)
    house.transport.down = None
    await until(lambda: house.sender.facts.connected)


async def test_a_stop_without_a_link_ends_at_once(house: House) -> None:
    house.transport.down = LinkDown("unreachable", "nobody answers")
    house.tick()
    await until(lambda: house.sender.facts.connected)
    house.transport.links[-1].cut()
    await until(lambda: house.sender.facts.reason == "unreachable")
    house.tick()
    assert not await house.sender.stop("test", 60)


async def test_a_disk_that_hangs_holds_up_no_beat(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("watchbill_agent.outgoing.SYNC_PATIENCE_S", 0.05)
    house.collector.settings = Settings(beat_interval_ms=50)
    disk = DiskSpool(Path("/spool"), b"a" * 16, filesystem=SimulatedFilesystem())

    async def hang() -> bool:
        await asyncio.Event().wait()
        return True

    about = About("0.1.0", b"r" * 16, "boot", interval_ms=10)
    transport = InMemoryTransport(house.collector.serve)
    sender = Sender(transport, disk, lambda: about, house.clock, random.Random(1), sync=hang)
    task = asyncio.create_task(sender.run())
    await until(lambda: sender.facts.connected)
    disk.append(BULK, Draft(encode_ticks([BlockValues(LOAD, [1], 0, pack([1.0]))]), 1, 1, 1, (LOAD,)))
    sender.wake()
    sent = sender.facts.beats_sent
    await until(lambda: sender.facts.beats_sent >= sent + 3)
    assert sender.facts.records_sent == 0, "what is not durable is not sent"
    task.cancel()
    await asyncio.wait({task})
    await transport.close()


async def test_busy_is_honoured_and_then_everything_unacknowledged_goes_again(house: House) -> None:
    house.collector.acknowledge = False
    house.tick()
    await until(lambda: house.sender.facts.records_sent == 1)
    await house.collector.far[-1].write(encode_down(Busy(500)))
    await until(lambda: house.sender.facts.busy == 1)
    house.collector.acknowledge = True  # Not before: a beat would be answered with an acknowledgement.
    await until(lambda: house.acked() == 1)
    await until(lambda: house.sender.facts.records_sent_again == 1)


async def test_a_refusal_is_counted_by_its_reason(house: House) -> None:
    await until(lambda: house.collector.far)
    await until(lambda: house.sender.facts.connected)
    await house.collector.far[-1].write(encode_down(Refusal("series_quota", 17, "too many")))
    await until(lambda: house.sender.facts.refused == {"series_quota": 17})


@pytest.mark.parametrize("reason", [EndReason.REVOKED, EndReason.DUPLICATE_IDENTITY, EndReason.SHUTDOWN])
async def test_an_end_instead_of_a_welcome_is_kept_as_the_reason(house: House, reason: EndReason) -> None:
    async def answer(far: FarEnd) -> None:
        await far.write(encode_down(End(reason, "because", 60_000)))

    house.collector.answer = answer
    await until(lambda: house.sender.facts.detail == "because")
    assert house.sender.facts.reason == reason.name.lower().replace("_", "-")
    assert not house.sender.facts.connected


async def test_what_is_no_message_ends_the_session_and_not_the_agent(house: House) -> None:
    await until(lambda: house.sender.facts.connected)
    await house.collector.far[-1].write(b"\xff\xff\xff")
    await until(lambda: house.sender.facts.reason == "protocol" or house.sender.facts.sessions == 2)
    assert not house.task.done()


# ---------------------------------------------------------------- when messages leave


def pacer(**changes: int) -> Pacer:
    settings = Settings(beat_interval_ms=10_000, send_grid_ms=250, beat_metrics=("m",))
    known = {name: getattr(settings, name) for name in Settings.__slots__}
    return Pacer(
        CollectorTime(1_000_100, 50.0), Settings(**(known | changes)), last_sent_s=50, last_records_s=50
    )


def test_records_leave_at_multiples_of_the_grid_in_the_collectors_time() -> None:
    assert pacer().grid_in(50.0) == pytest.approx(0.15)
    assert pacer().grid_in(50.1) == pytest.approx(0.05)
    assert pacer(send_grid_ms=0).grid_in(50.0) == 0
    assert pacer(send_grid_ms=3_600_000).grid_in(50.0) <= 5


def test_a_beat_is_due_when_nothing_else_was_sent_for_the_interval() -> None:
    one = pacer()
    assert one.beat_in(55) == 5
    one.last_sent_s = 57
    assert one.beat_in(60) == 7
    assert pacer(beat_interval_ms=60_000).beat_in(50) == 10, "never more seldom than every ten seconds"


def test_a_beat_makes_way_for_records_that_are_expected_soon_after() -> None:
    one = pacer()
    one.records_every_s = 15
    assert one.beat_in(60) == pytest.approx(5.5)
    one.records_every_s = 30
    assert one.beat_in(60) == 0
    one.records_every_s = 5
    assert one.beat_in(60) == 0


def test_a_beat_with_values_leaves_shortly_before_the_rules_look() -> None:
    one = pacer(evaluation_period_ms=15_000, evaluation_phase_ms=2_000)
    in_s = one.evaluation_in(50.0)
    assert in_s is not None
    assert (one.time.ms(50.0 + in_s) + 500) % 15_000 == pytest.approx(2_000)
    assert pacer().evaluation_in(50.0) is None


def test_a_record_waits_for_a_look_that_is_near_and_the_beat_with_it() -> None:
    one = pacer(evaluation_period_ms=15_000, send_grid_ms=0)
    looks_s = one.evaluation_in(50.0)
    assert looks_s is not None
    one.records_every_s = looks_s / HOLD_SHARE - 0.1
    assert not one.hold(50.0), "nothing is collected meanwhile"
    one.collects = True
    assert not one.hold(50.0), "too far"
    one.records_every_s = looks_s / HOLD_SHARE + 0.1
    assert one.hold(50.0)
    assert one.held_until_s == pytest.approx(50.0 + looks_s + 0.25)
    one.last_sent_s = one.last_records_s = one.held_until_s - 12
    one.records_every_s = 1
    assert one.beat_in(one.held_until_s - 1) == pytest.approx(1)
    assert not pacer().hold(50.0), "no rules, no look"


async def test_a_full_record_and_what_is_collected_leave_in_one_message_before_a_near_look(
    house: House,
) -> None:
    def flush() -> None:
        house.tick()
        flushed.append(house.spool.last(BULK))

    flushed: list[int] = []
    house.collector.settings = Settings(
        credit_bytes=1 << 20, beat_metrics=("m",), evaluation_period_ms=400, beat_interval_ms=10_000
    )
    about = About("0", b"r" * 16, "boot", interval_ms=100, ticks_per_message=10)
    batcher = Batcher()
    sender = Sender(
        house.transport,
        house.spool,
        lambda: about,
        house.clock,
        random.Random(1),
        newest=batcher,
        flush=flush,
    )
    await house.sender.stop("test", 0.5)
    house.collector.heard.clear()
    house.sender = sender
    house.task = asyncio.create_task(sender.run())
    await until(lambda: sender.facts.connected)
    house.tick()
    await until(lambda: house.acked() == 1)
    assert not flushed, "the first record of a session waits for nothing"
    for _ in range(3):
        batcher.add(100, [Reading(LAYOUT, [1.0])], house.clock.boottime_ms(), house.clock.wall_ms())
        house.tick()
        full = house.spool.last(BULK)
        await until(lambda full=full: house.acked() > full)
        assert flushed[-1] == full + 1
    batches = [up.batch for up in house.collector.heard if up.HasField("batch")]
    assert [len(batch.records) for batch in batches] == [1, 2, 2, 2]
    assert not any(up.beat.HasField("block") for up in house.collector.heard)


def test_the_collectors_time_follows_the_quickest_message_and_forgets_it_slowly() -> None:
    time_ = CollectorTime(1_000, 0.0)
    late = time_.heard(1_900, 1.0)
    assert late.ms(1.0) == pytest.approx(2_000, abs=0.2)
    early = late.heard(3_050, 2.0)
    assert early.ms(2.0) == 3_050
    hour = early.heard(0, 3_602.0)
    assert hour.ms(3_602.0) == pytest.approx(3_603_050 - 360)


async def test_a_fork_is_told_before_the_spool_goes_by_its_new_name() -> None:
    collector = Collector()
    transport = InMemoryTransport(collector.serve)
    spool = MemorySpool()
    first = spool.spool_id
    told: list[tuple[bytes, Fork, int]] = []

    async def forked(before: bytes, fork: Fork) -> None:
        told.append((before, fork, len(collector.heard)))

    async def holds_more(far: FarEnd) -> None:
        collector.answer = None
        await far.write(encode_down(Welcome(7, 0, (StreamMark(BULK, 9, 5),), SETTINGS)))
        await collector.serve(far)

    collector.answer = holds_more
    about = About("0.1.0", b"r" * 16, "boot", interval_ms=1000)
    sender = Sender(transport, spool, lambda: about, SystemClock(), random.Random(1), forked=forked)
    task = asyncio.create_task(sender.run())
    await until(lambda: sender.facts.connected)
    hellos = [up.hello.spool_id for up in collector.heard if up.WhichOneof("message") == "hello"]
    assert hellos == [first, spool.spool_id]
    ((before, fork, heard),) = told
    assert (before, heard) == (first, 1), "told after the first Hello and before the second"
    assert {one.stream: one.last_seq for one in fork.retired}[BULK] == 9
    await sender.stop("test", 0.5)
    await task
    await transport.close()
