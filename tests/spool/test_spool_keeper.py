"""The keeper: who appends waits for no disk, who asked to be sure waits for his own record and no longer."""

import asyncio
import threading
from pathlib import Path

import pytest

from watchbill.clock import SystemClock
from watchbill.protocol.frames import Stream
from watchbill_agent.spool import (
    CRIT_BYTES_MAX,
    DiskSpool,
    Draft,
    Keeper,
    MemoryKeeper,
    MemorySpool,
    Receipt,
    SimulatedFilesystem,
    Sizes,
    SpoolFull,
)

BULK, CRIT = Stream.BULK, Stream.CRIT
SIZES = Sizes(256 * 1024, 64 * 1024)


class SlowDisk(SimulatedFilesystem):
    """A disk whose syncs wait until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.go.set()
        self.waiting = threading.Event()
        self.threads: set[str] = set()

    def sync(self, handle: int) -> None:
        self.threads.add(threading.current_thread().name)
        self.waiting.set()
        assert self.go.wait(20)
        super().sync(handle)


@pytest.fixture
def disk() -> SlowDisk:
    return SlowDisk()


@pytest.fixture
def spool(disk: SlowDisk) -> DiskSpool:
    return DiskSpool(Path("/spool"), b"a" * 16, sizes=SIZES, filesystem=disk)


def draft() -> Draft:
    return Draft(b"\x12\x00" + bytes(100), 1, 1, 1)


async def test_appends_do_not_wait_for_a_disk_that_syncs_slowly(disk: SlowDisk, spool: DiskSpool) -> None:
    keeper = Keeper(spool, SystemClock())
    disk.go.clear()
    spool.append(BULK, draft())
    first = asyncio.create_task(keeper.sync())
    await asyncio.to_thread(disk.waiting.wait, 10)
    for _ in range(50):
        spool.append(BULK, draft())
    assert spool.state(BULK).last_durable == 0, "nothing is claimed before it is so"
    assert not first.done()
    disk.go.set()
    assert await first
    assert spool.state(BULK).last_durable == 1, "what came later is not covered by a sync that ran already"
    assert await keeper.sync()
    assert spool.state(BULK).last_durable == 51
    assert disk.threads == {"watchbill-spool"}
    await keeper.close(5)


async def test_many_producers_share_a_sync(disk: SlowDisk, spool: DiskSpool) -> None:
    keeper = Keeper(spool, SystemClock())
    while spool.reserve_short:
        await keeper.sync()
    disk.go.clear()
    disk.waiting.clear()
    spool.append(CRIT, draft())
    running = asyncio.create_task(keeper.sync())
    await asyncio.to_thread(disk.waiting.wait, 10)
    syncs = disk.syncs

    async def produce() -> int:
        seq = spool.append(CRIT, draft())
        assert await keeper.sync()
        assert spool.state(CRIT).last_durable >= seq
        return seq

    producers = [asyncio.create_task(produce()) for _ in range(20)]
    await asyncio.sleep(0)
    disk.go.set()
    assert await running
    assert sorted(await asyncio.gather(*producers)) == list(range(2, 22))
    assert disk.syncs - syncs <= 4, "one sync for all who came while another ran"
    await keeper.close(5)


async def test_a_critical_record_is_kept_or_its_producer_is_told(disk: SlowDisk, spool: DiskSpool) -> None:
    keeper = Keeper(spool, SystemClock())
    assert await keeper.keep(draft()) == Receipt(1, durable=True)
    assert spool.is_durable(CRIT, 1)

    def refuse(operation: str, path: Path) -> None:
        if operation in ("sync", "create") and path.parent.name == "crit":
            raise OSError(5, "Input/output error")

    disk.before = refuse
    with pytest.raises(SpoolFull, match="Input/output error"):
        await keeper.keep(draft())
    disk.before = lambda *_: None
    assert (await keeper.keep(draft())).seq == 3, "what was refused may still arrive, and keeps its number"
    assert spool.is_durable(CRIT, 2)
    await keeper.close(5)


async def test_a_producer_on_a_spool_in_memory_is_told_that_it_is_not_durable() -> None:
    spool = MemorySpool()
    keeper = MemoryKeeper(spool)
    receipt = await keeper.keep(draft())
    assert (receipt.seq, receipt.durable) == (1, False)
    assert receipt.why.startswith("not durable: the spool is in memory")
    spool.trouble = "/var: no space left"
    assert "/var: no space left" in (await keeper.keep(draft())).why
    large = Draft(b"\x12\x00" + bytes(200_000), 0, 1, 1)
    while spool.facts().bytes + 200_000 < CRIT_BYTES_MAX - 1_000:
        await keeper.keep(large)
    with pytest.raises(SpoolFull):
        await keeper.keep(large)


async def test_a_cancelled_waiter_leaves_the_spool_in_order(disk: SlowDisk, spool: DiskSpool) -> None:
    keeper = Keeper(spool, SystemClock())
    disk.go.clear()
    spool.append(BULK, draft())
    waiting = asyncio.create_task(keeper.sync())
    await asyncio.to_thread(disk.waiting.wait, 10)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    disk.go.set()
    spool.append(BULK, draft())
    assert await keeper.sync()
    assert spool.state(BULK).last_durable == 2
    await keeper.close(5)


async def test_a_disk_that_hangs_does_not_keep_the_agent_from_ending(
    disk: SlowDisk, spool: DiskSpool
) -> None:
    keeper = Keeper(spool, SystemClock())
    disk.go.clear()
    spool.append(BULK, draft())
    await keeper.close(0.05)
    disk.go.set()


async def test_the_reserve_is_made_and_old_segments_are_read(tmp_path: Path) -> None:
    first = DiskSpool(tmp_path, b"a" * 16, sizes=SIZES)
    for _ in range(40):
        first.append(BULK, Draft(b"\x12\x00" + bytes(5_000), 1, 1, 1))
    assert first.sync()
    first.close()
    damaged = sorted((tmp_path / "bulk").glob("*.seg"))[1]
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    spool = DiskSpool(tmp_path, b"a" * 16, sizes=SIZES)
    keeper = Keeper(spool, SystemClock())
    turned = asyncio.Event()
    loop = asyncio.create_task(keeper.run(turned.set))
    async with asyncio.timeout(20):
        while spool.reserve_short or not keeper.check_seconds:  # noqa: ASYNC110 - Two things to wait for.
            await asyncio.sleep(0.01)
    assert turned.is_set()
    loop.cancel()
    await keeper.close(5)
    assert keeper.checked_segments >= 3
    facts = spool.facts()
    assert (facts.damaged, facts.reserve_short) == (1, 0)
    assert len(list((tmp_path / "quarantine").iterdir())) == 1, "the bad bytes are kept to be looked at"
    assert len(list((tmp_path / "crit").glob("spare-*"))) == SIZES.limits(CRIT).reserve


def test_who_appends_faster_than_anybody_syncs_waits_for_the_disk(disk: SlowDisk) -> None:
    from watchbill_agent.spool.lane import UNSYNCED_BYTES_MAX

    spool = DiskSpool(Path("/other"), b"a" * 16, sizes=Sizes(64 << 20), filesystem=disk)
    body = b"\x12\x00" + bytes(100_000)
    for _ in range(2 * UNSYNCED_BYTES_MAX // len(body)):
        spool.append(BULK, Draft(body, 1, 1, 1))
        unsynced = spool.last(BULK) - spool.state(BULK).last_durable
        assert unsynced * len(body) <= UNSYNCED_BYTES_MAX + len(body)
    assert spool.state(BULK).last_durable > 0
