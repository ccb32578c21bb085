"""The edge profile's budget: what is shed first, and that nothing of it is lost without a number."""

import asyncio
import random
import time
from collections.abc import Callable

import pytest

from watchbill.clock import SystemClock
from watchbill.codec import BlockValues, FamilyRun, MetricKind, encode_down, encode_schema, encode_ticks, pack
from watchbill.limits import RECORD_BYTES_MAX
from watchbill.protocol.frames import Ack, GapReason, Settings, Stream, StreamMark, Welcome
from watchbill.v1 import link_pb2 as pb
from watchbill_agent.budget import BYTES_PER_DAY_MIN, DAY_S, WAIT_S_MAX, Budget
from watchbill_agent.sender import About, Sender
from watchbill_agent.spool import Draft, MemorySpool
from watchbill_agent.transports import Link, LinkDown
from watchbill_agent.transports.in_memory import FarEnd, InMemoryTransport

SERIES = 2_000
SCHEMA = encode_schema([FamilyRun("m", MetricKind.GAUGE, "", tuple((("n", str(i)),) for i in range(SERIES)))])


async def until(condition: Callable[[], object]) -> None:
    give_up_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up_s, "the condition did not come true in time"
        await asyncio.sleep(0.005)


def test_a_budget_grows_evenly_and_saves_a_quarter_of_a_day() -> None:
    budget = Budget(8_640_000, 0.0)  # 100 bytes a second.
    assert budget.level(0.0) == budget.level(DAY_S) == 2_160_000
    budget.spend(2_160_000)
    assert budget.wait_s(DAY_S) == 0
    budget.spend(1_000)
    assert budget.wait_s(DAY_S) == pytest.approx(10)
    assert budget.wait_s(DAY_S + 10) == 0
    assert budget.level(DAY_S + 20) == pytest.approx(1_000)


def test_a_clock_that_goes_back_gives_nothing() -> None:
    budget = Budget(8_640_000, 1_000.0)
    budget.spend(2_160_000)
    assert budget.level(0.0) == 0


def test_values_are_shed_before_records() -> None:
    budget = Budget(8_640_000, 0.0)
    budget.spend(2_000_000)
    assert budget.thrifty(0.0)
    assert budget.wait_s(0.0) == 0


@pytest.mark.asyncio
async def test_a_host_that_finds_no_collector_tries_no_more_than_it_may_pay(monkeypatch) -> None:
    clock = SystemClock()
    budget = Budget(BYTES_PER_DAY_MIN, clock.monotonic_s())
    waits: list[float] = []

    class Away:
        async def open(self) -> Link:
            budget.spend(BYTES_PER_DAY_MIN)
            raise LinkDown("no-collector", "nobody listens")

    async def stay_away(seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(0)

    sender = Sender(
        Away(), MemorySpool(), lambda: About("0", b"r" * 16, "boot"), clock, random.Random(1), budget=budget
    )
    monkeypatch.setattr(sender, "_stay_away", stay_away)
    task = asyncio.create_task(sender.run())
    await until(lambda: len(waits) >= 3)
    task.cancel()
    await asyncio.wait({task})
    assert waits[:3] == [WAIT_S_MAX] * 3


def test_over_any_day_no_more_is_spent_than_the_budget_and_what_was_saved() -> None:
    rng, budget, now_s, spent = random.Random(3), Budget(BYTES_PER_DAY_MIN, 0.0), 0.0, 0
    while now_s < DAY_S:
        now_s += rng.uniform(0, 60)
        if budget.wait_s(now_s) == 0:
            size = rng.randrange(20_000)
            budget.spend(size)
            spent += size
    assert spent <= BYTES_PER_DAY_MIN * 1.25 + 20_000


@pytest.mark.asyncio
async def test_without_budget_records_wait_beats_go_on_and_an_overflow_is_counted() -> None:
    heard: list[pb.Up] = []

    async def serve(far: FarEnd) -> None:
        settings = Settings(credit_bytes=1 << 20, beat_interval_ms=20)
        while (message := await far.read()) is not None:
            up = pb.Up.FromString(message)
            heard.append(up)
            if up.HasField("hello"):
                await far.write(encode_down(Welcome(7, 1, (StreamMark(Stream.BULK, 0),), settings)))
            elif up.HasField("batch"):
                last = pb.Record.FromString(up.batch.records[-1])
                seq = last.gap.to_seq if last.HasField("gap") else last.seq
                await far.write(encode_down(Ack((StreamMark(Stream.BULK, seq),), 1 << 20)))

    clock, spool = SystemClock(), MemorySpool(2 * RECORD_BYTES_MAX)
    budget = Budget(BYTES_PER_DAY_MIN, clock.monotonic_s())
    budget.spend(BYTES_PER_DAY_MIN)
    transport = InMemoryTransport(serve)
    about = About("0", b"r" * 16, "boot")
    sender = Sender(transport, spool, lambda: about, clock, random.Random(1), budget=budget)
    task = asyncio.create_task(sender.run())
    for value in range(60):
        now_ms = clock.boottime_ms()
        body = encode_ticks([BlockValues(SCHEMA, [now_ms], 0, pack([float(value)] * SERIES))])
        spool.append(Stream.BULK, Draft(body, SERIES, now_ms, now_ms, (SCHEMA,)))
        sender.wake()
    await until(lambda: sum(up.HasField("beat") for up in heard) >= 3)
    assert not any(up.HasField("batch") for up in heard)
    assert budget.waits
    budget.spend(-2 * BYTES_PER_DAY_MIN)  # The next day.
    sender.wake()
    await until(lambda: spool.state(Stream.BULK).acked == 60)
    records = [pb.Record.FromString(one) for up in heard for one in up.batch.records]
    gaps = [record.gap for record in records if record.HasField("gap")]
    kept = [record for record in records if record.HasField("ticks")]
    assert sum(gap.count for gap in gaps) + len(kept) == 60
    assert {gap.reason for gap in gaps} == {GapReason.OVERFLOW}
    assert sum(gap.samples for gap in gaps) + len(kept) * SERIES == 60 * SERIES
    task.cancel()
    await asyncio.wait({task})
    await transport.close()
