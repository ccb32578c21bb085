"""The door for critical events: what a producer is told, and what no collector would take."""

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from watchbill.clock import ManualClock
from watchbill.errors import UsageError
from watchbill.limits import EVENT_BYTES_MAX
from watchbill.protocol.frames import Stream
from watchbill.v1 import link_pb2 as pb
from watchbill_agent.events import Events
from watchbill_agent.spool import DiskSpool, Keeper, MemoryKeeper, MemorySpool, SimulatedFilesystem, Sizes

CRIT = Stream.CRIT


@pytest.fixture
def disk() -> SimulatedFilesystem:
    return SimulatedFilesystem()


@pytest.fixture
async def on_disk(disk: SimulatedFilesystem) -> AsyncIterator[tuple[Events, DiskSpool]]:
    spool = DiskSpool(Path("/spool"), b"a" * 16, sizes=Sizes(256 * 1024, 64 * 1024), filesystem=disk)
    keeper = Keeper(spool, ManualClock())
    yield Events(keeper, ManualClock()), spool
    await keeper.close(5)


def event_of(spool: DiskSpool | MemorySpool, seq: int) -> pb.Event:
    record = spool.held_after(CRIT, seq - 1)
    assert record is not None
    return pb.Record.FromString(record.content).event


async def test_an_event_is_on_the_disk_when_its_producer_is_told_so(
    on_disk: tuple[Events, DiskSpool], disk: SimulatedFilesystem
) -> None:
    events, _ = on_disk
    receipt = await events.keep("backup.ended", {"ok": True, "bytes": 7})
    assert (receipt.durable, receipt.why) == (True, "")
    disk.power_cut(random.Random(1))
    again = DiskSpool(Path("/spool"), b"a" * 16, sizes=Sizes(256 * 1024, 64 * 1024), filesystem=disk)
    event = event_of(again, receipt.seq)
    assert (event.kind, json.loads(event.payload)) == ("backup.ended", {"ok": True, "bytes": 7})
    assert len(event.event_id) == 16
    assert event.wall_ms == ManualClock().wall_ms()


async def test_an_event_in_memory_is_kept_and_its_producer_is_told_that_it_may_be_lost() -> None:
    spool = MemorySpool()
    woken: list[bool] = []
    events = Events(MemoryKeeper(spool), ManualClock(), lambda: woken.append(True))
    receipt = await events.keep("backup.ended", {}, event_id=b"e" * 16)
    assert not receipt.durable
    assert "not durable" in receipt.why
    assert event_of(spool, receipt.seq).event_id == b"e" * 16
    assert woken == [True]


@pytest.mark.parametrize("kind", ["", "x" * 65, "Backup", "a\x00b", "a b", ".a", "ä"])
async def test_a_kind_that_no_collector_takes_is_refused_here(kind: str) -> None:
    spool = MemorySpool()
    with pytest.raises(UsageError, match="wanted 1 to 64"):
        await Events(MemoryKeeper(spool), ManualClock()).keep(kind, {})
    assert spool.last(CRIT) == 0


async def test_an_event_that_is_too_large_is_refused_here() -> None:
    spool = MemorySpool()
    with pytest.raises(UsageError, match="at most 65536"):
        await Events(MemoryKeeper(spool), ManualClock()).keep("k", {"x": "y" * EVENT_BYTES_MAX})
    assert spool.last(CRIT) == 0


async def test_an_event_of_its_own_that_the_disk_refuses_does_not_stop_the_agent(
    on_disk: tuple[Events, DiskSpool], disk: SimulatedFilesystem, caplog: pytest.LogCaptureFixture
) -> None:
    events, spool = on_disk

    def refuse(operation: str, path: Path) -> None:
        if operation in ("write", "create", "rename") and path.parent.name == "crit":
            raise OSError(28, "No space left on device")

    disk.before = refuse
    await events.tell("agent.started", {})
    assert "an event could not be kept" in caplog.text
    assert spool.facts().refused_records == 1
