"""The edge profile's cadence: messages leave when they are full, and beats carry each reading's values once."""

import asyncio
import random
import time
from collections.abc import Callable

import pytest

from watchbill.clock import SystemClock
from watchbill.codec import encode_down
from watchbill.config import Homes
from watchbill.limits import BEAT_INTERVAL_MS_SLOWEST
from watchbill.protocol.frames import Settings, Stream, StreamMark, Welcome
from watchbill.protocol.timing import CollectorTime, Pacer
from watchbill.v1 import link_pb2 as pb
from watchbill_agent.batch import Batcher
from watchbill_agent.config import load_config
from watchbill_agent.reading import Family, Layout, MetricType, Reading, Series
from watchbill_agent.sender import About, Sender
from watchbill_agent.spool import MemorySpool
from watchbill_agent.transports.in_memory import FarEnd, InMemoryTransport

LAYOUT = Layout([Family("m", MetricType.GAUGE, "")], [Series("m", ())])


async def until(condition: Callable[[], object]) -> None:
    give_up_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up_s, "the condition did not come true in time"
        await asyncio.sleep(0.005)


@pytest.mark.asyncio
async def test_every_reading_goes_once_in_a_beat_and_its_message_is_not_cut_short() -> None:
    heard: list[pb.Up] = []
    settings = Settings(
        credit_bytes=1 << 20, beat_metrics=("m",), evaluation_period_ms=100, beat_interval_ms=10_000
    )

    async def serve(far: FarEnd) -> None:
        while (message := await far.read()) is not None:
            heard.append(pb.Up.FromString(message))
            if heard[-1].HasField("hello"):
                now_ms = round(time.time() * 1000)
                await far.write(encode_down(Welcome(7, now_ms, (StreamMark(Stream.BULK, 0),), settings)))

    clock, batcher, flushed = SystemClock(), Batcher(), 0

    def flush() -> None:
        nonlocal flushed
        flushed += 1

    transport = InMemoryTransport(serve)
    about = About("0", b"r" * 16, "boot", beat_interval_ms=60_000, keeps_messages=True)
    sender = Sender(
        transport, MemorySpool(), lambda: about, clock, random.Random(1), newest=batcher, flush=flush
    )
    task = asyncio.create_task(sender.run())
    await until(lambda: sender.facts.connected)
    assert heard[0].hello.beat_interval_ms == 60_000
    for value in range(3):
        batcher.add(1_000, [Reading(LAYOUT, [float(value)])], clock.boottime_ms(), clock.wall_ms())
        sender.wake()
        await until(lambda value=value: len([up for up in heard if up.beat.HasField("block")]) == value + 1)
        await asyncio.sleep(0.3)  # Three evaluations more, for which there is nothing new.
    assert len([up for up in heard if up.HasField("beat")]) == 3
    assert not any(up.HasField("batch") for up in heard)
    assert flushed == 0
    task.cancel()
    await asyncio.wait({task})
    await transport.close()


def test_beats_may_be_as_seldom_as_the_agent_said() -> None:
    asked = Settings(beat_interval_ms=60_000)
    assert Pacer(CollectorTime(0, 0.0), asked).beat_in(0.0) == 10
    assert Pacer(CollectorTime(0, 0.0), asked, beat_interval_ms_max=60_000).beat_in(0.0) == 60


@pytest.mark.parametrize(
    ("text", "interval_ms", "ticks", "beat_ms", "budget"),
    [
        ("", 10_000, 1, 0, None),
        ('profile = "edge"\n', 60_000, 10, 60_000, 5_000_000),
        ('profile = "edge"\ninterval = "5m"\n', 300_000, 10, BEAT_INTERVAL_MS_SLOWEST, 5_000_000),
        (
            'profile = "edge"\nticks_per_message = 2\n[mqtt]\nbytes_per_day = "2MB"\n',
            60_000,
            2,
            60_000,
            2_000_000,
        ),
        ('mqtt = "mqtts://b"\n', 10_000, 1, 0, None),
    ],
)
def test_what_the_profile_means(
    tmp_path, text: str, interval_ms: int, ticks: int, beat_ms: int, budget: int | None
) -> None:
    homes = Homes.resolve("agent", tmp_path)
    homes.etc.mkdir(parents=True)
    (homes.etc / "agent.toml").write_text(text)
    config = load_config(homes, {})
    found = (config.interval_ms, config.ticks, config.beat_interval_ms, config.bytes_per_day)
    assert found == (interval_ms, ticks, beat_ms, budget)
