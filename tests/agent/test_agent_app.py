"""The agent's parts together in one process, on a clock that is moved by hand."""

import asyncio
import json
import os
from collections.abc import Coroutine

import pytest

from watchbill.clock import ManualClock
from watchbill.config import Homes
from watchbill.daemon import Progress
from watchbill.errors import Refused, UsageError
from watchbill.protocol.frames import GapReason, Stream
from watchbill.v1 import link_pb2 as pb
from watchbill_agent.app import Agent, phase_of
from watchbill_agent.config import load_config
from watchbill_agent.events import Events
from watchbill_agent.report import gaps_lines, status_lines
from watchbill_agent.runner.boot import boot_id
from watchbill_agent.spool import DiskSpool, MemoryKeeper


class SleepyClock(ManualClock):
    """A manual clock whose machine can be suspended."""

    slept_ms = 0

    def monotonic_s(self) -> float:
        return (self.boottime_ms() - self.slept_ms) / 1000

    def suspend(self, seconds: float) -> None:
        self.advance(seconds)
        self.slept_ms += round(seconds * 1000)


@pytest.fixture
async def agent(tmp_path, collector, enrol):
    made = []

    def make(toml: str) -> Agent:
        (tmp_path / "etc").mkdir(exist_ok=True)
        (tmp_path / "etc/agent.toml").write_text(toml)
        enrol(tmp_path, collector)
        homes = Homes.resolve("agent", tmp_path)
        made.append(Agent(homes, load_config(homes, {}), clock=SleepyClock()))
        return made[0]

    yield make
    for one in made:
        one.sampling.close()
        one.spool.close()
        one._lock.release()


def run(agent: Agent, ticks: int) -> None:
    """Move the clock from tick to tick: where the grid lies depends on the agent's random id."""
    for _ in range(ticks):
        agent.clock.advance(agent.sampling._scheduler.wait_s())
        agent.sampling.tick()
    if isinstance(agent.spool, DiskSpool):
        assert agent.spool.sync()


async def test_what_does_not_fit_the_queue_goes_oldest_first_and_is_counted(agent):
    one = agent('interval = "10s"\n[spool]\nbytes = "512KiB"\n')
    run(one, 600)
    facts = one.spool.facts()
    assert facts.bytes <= facts.bytes_max
    assert facts.dropped_records > 100
    assert facts.dropped_records + facts.records >= facts.appended_records
    document = one.gaps()
    (gap,) = document["gaps"]
    assert (gap["reason"], gap["from_seq"], gap["records"]) == ("overflow", 1, facts.dropped_records)
    assert gap["samples"] == facts.dropped_samples
    assert any("overflow" in line for line in gaps_lines(document))


async def test_a_suspend_leaves_one_notice_and_no_burst(agent):
    one = agent('interval = "10s"\n')
    run(one, 6)
    before = one.spool.facts().appended_records
    one.clock.suspend(6 * 3600)
    run(one, 1)
    assert one.spool.facts().appended_records - before == 2, "the notice and one reading"
    (gap,) = one.gaps()["gaps"]
    assert (gap["reason"], gap["records"]) == ("suspended", 0)
    assert gap["last_ms"] - gap["first_ms"] == 6 * 3_600_000
    assert one.facts().suspended_s == 6 * 3600


@pytest.mark.parametrize("step_ms", [-315_360_000_000, 3_600_000])
async def test_a_step_of_the_wall_clock_loses_and_repeats_nothing(agent, step_ms):
    one = agent('interval = "10s"\n')
    run(one, 6)
    before = one.spool.facts().appended_records
    one.clock.set_wall_ms(one.clock.wall_ms() + step_ms)
    run(one, 6)
    assert one.spool.facts().appended_records - before == 6
    assert one.gaps()["gaps"] == []


async def test_self_metrics_say_what_the_documents_say(agent):
    one = agent('interval = "10s"\n')
    run(one, 3)
    reading = one.sampling.selfstats.sample()
    values = {series.name: value for series, value in zip(reading.layout.series, reading.values, strict=True)}
    assert values["watchbill_agent_series"] == one.sampling.batcher.series
    assert values["watchbill_agent_queue_records"] == one.spool.facts().records
    assert values["watchbill_agent_connected"] == 0
    assert values["watchbill_agent_certificate_expiry_seconds"] > one.clock.wall_ms() / 1000
    assert values["watchbill_agent_resident_memory_bytes"] > 1 << 20
    text = "\n".join(status_lines(one.status()))
    assert "not enrolled" in text  # The link has not been started.
    assert f"{one.sampling.batcher.series} series every 10 s" in text


async def test_a_disk_that_takes_no_spool_is_a_reason_to_say_so_and_not_to_stop(agent, tmp_path):
    (tmp_path / "in the way").write_text("a file")
    one = agent(f'interval = "10s"\n[spool]\ndir = "{tmp_path}/in the way"\n')
    run(one, 2)
    assert one.spool.facts().records == 2
    document = one.status()
    assert (document["queue"]["kind"], document["queue"]["durable"]) == ("memory", False)
    assert "in the way" in document["queue"]["error"]
    assert any(line.startswith("spool") and "in the way" in line for line in status_lines(document))


async def test_an_identity_that_others_can_read_stops_the_start(agent, tmp_path):
    one = agent('interval = "10s"\n')
    one._lock.release()
    (tmp_path / "var/agent/identity.json").chmod(0o644)
    with pytest.raises(Exception, match="chmod 600"):
        Agent(one.homes, one.config)


async def test_a_failed_start_leaves_the_lock_to_the_next(tmp_path):
    homes = Homes.resolve("agent", tmp_path)
    for _ in range(2):
        with pytest.raises(UsageError, match="not enrolled"):
            Agent(homes, load_config(homes, {}))


async def test_a_home_has_one_agent(agent):
    one = agent('interval = "10s"\n')
    with pytest.raises(Refused, match=f"held by process {os.getpid()}"):
        Agent(one.homes, one.config)


def test_hosts_sample_at_different_times_and_the_same_one_at_the_same():
    assert 0 <= phase_of(None) < 1
    assert phase_of(None) == phase_of(None)


def test_a_kernel_without_a_boot_id_gets_one_made_up(tmp_path):
    assert len(boot_id(tmp_path / "none")) == 32
    assert boot_id() == boot_id()


@pytest.mark.parametrize("kind", ["disk", "memory"])
async def test_a_run_that_ended_in_order_is_continued_with_a_notice(agent, kind):
    from watchbill_agent import lastrun

    one = agent(f'interval = "10s"\n[spool]\nkind = "{kind}"\n')
    run(one, 3)
    ended_ms = one.sampling.batcher.boottime_ms()
    lastrun.save(one.homes.var, lastrun.LastRun(one.boot_id, ended_ms, one.spool.farewell()))
    one.sampling.close()
    one.spool.close()
    one._lock.release()
    clock = SleepyClock()
    clock.advance(3600)
    two = Agent(one.homes, one.config, clock=clock)
    try:
        last = one.spool.last(Stream.BULK)
        if isinstance(two.spool, DiskSpool):
            assert two.spool.sync()
            assert two.spool.spool_id == one.spool.spool_id, "what waited on disk still waits"
            held = two.spool.held_after(Stream.BULK, last)
        else:
            held = two.spool.held_after(Stream.BULK, 0)
        assert held is not None
        assert held.gap is GapReason.RESTART
        assert (held.first_boottime_ms, held.last_boottime_ms) == (ended_ms, clock.boottime_ms())
        assert [r.last_seq for r in two.spool.retired] == ([] if kind == "disk" else [last])
    finally:
        two.sampling.close()
        two.spool.close()
        two._lock.release()


class House:
    """What the app needs of its daemon to sample: tasks, and a stamp."""

    progress: Progress

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[object]] = []
        self.turned = asyncio.Event()

    def spawn(self, name: str, work: Coroutine[object, object, object]) -> asyncio.Task[object]:
        self.tasks.append(asyncio.create_task(work, name=name))
        return self.tasks[-1]

    def made(self) -> None:
        self.turned.set()


async def test_after_a_reload_the_sampling_loop_still_counts_as_alive(agent):
    one = agent('[spool]\nkind = "memory"\n')
    one._house = house = House()
    house.progress = Progress(one.clock)
    one._turns = house.progress.watch("sampling", 60.0)
    one.events = Events(MemoryKeeper(one.spool), one.clock)
    await one.backups.start(house, one.events, lambda: 0)
    await one.reload()
    one.clock.advance(61)
    assert house.progress.wedged() == ["sampling"]
    one._turns.made()  # As its loop does.
    assert house.progress.wedged() == []


async def test_what_a_sampler_saw_happen_is_kept_in_the_hosts_timeline(agent, tmp_path):
    passwd = tmp_path / "root/etc/passwd"
    passwd.parent.mkdir(parents=True)
    passwd.write_text("root:x:0:0:root:/root:/bin/bash\n")
    one = agent(f'interval = "10s"\nrootfs = "{tmp_path / "root"}"\n[spool]\nkind = "memory"\n')
    one.events = Events(MemoryKeeper(one.spool), one.clock)
    run(one, 7)
    passwd.write_text("root:x:0:0:root:/root:/bin/bash\neve:x:0:0::/:/bin/sh\n")
    run(one, 7)
    house = House()
    loop = house.spawn("sampling", one._sample_for_ever(house, house))
    await asyncio.sleep(0)
    one.sampling._changed.set()  # As if the time of the next reading had come.
    await house.turned.wait()
    await asyncio.gather(*house.tasks[1:])
    loop.cancel()
    events = [pb.Record.FromString(one.spool.held_after(Stream.CRIT, seq).content).event for seq in range(1)]
    assert [(event.kind, json.loads(event.payload)["user"]) for event in events] == [("security.user", "eve")]
    facts = one.facts()
    assert (facts.happenings, facts.happenings_dropped) == (1, 0)
