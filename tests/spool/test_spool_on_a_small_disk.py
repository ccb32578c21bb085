"""The spool on a real disk of a few MiB that others fill up."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from watchbill.protocol.client import Release
from watchbill.protocol.frames import GapReason, Stream
from watchbill_agent.spool import DiskSpool, Draft, Record, Sizes, SpoolFull

MIB = 1 << 20
AGENT = b"a" * 16
BODY = b"\x12\x00" + os.urandom(20_000)
IN_CI = os.environ.get("CI") == "true"


@pytest.fixture(params=[2, 8])
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={request.param}m", "none", str(place)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)
    if done.returncode:
        reason = f"no disk can be mounted here: {done.stderr.strip()}"
        pytest.fail(reason) if IN_CI else pytest.skip(reason)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True, timeout=20)


def fill(place: Path) -> Path:
    ballast = place / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (65_536, 4_096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue  # Full, for pieces of this size.
    return ballast


def held(spool: DiskSpool, stream: Stream) -> list[Record]:
    found: list[Record] = []
    seq = spool.state(stream).acked
    while (record := spool.held_after(stream, seq)) is not None:
        assert record.first <= seq + 1
        found.append(record)
        seq = record.last
    assert seq == spool.last(stream)
    return found


def opened(place: Path) -> DiskSpool:
    return DiskSpool(place / "spool", AGENT, sizes=Sizes(64 * MIB, 512 * 1024))


def add(spool: DiskSpool, count: int) -> None:
    for _ in range(count):
        number = spool.last(Stream.BULK) + 1
        spool.append(Stream.BULK, Draft(BODY, 100 + number % 7, 1000 * number, 1000 * number + 1))


def test_a_disk_that_fills_up_costs_the_oldest_readings_and_they_are_counted(small_disk: Path) -> None:
    spool = opened(small_disk)
    try:
        add(spool, 20)
        assert spool.sync()
        while spool.reserve_short:
            spool.sync()
        ballast = fill(small_disk)
        add(spool, 200)
        spool.sync()
        records = held(spool, Stream.BULK)
        kept = [record for record in records if record.gap is None]
        gaps = [record for record in records if record.gap is not None]
        assert {gap.gap for gap in gaps} <= {GapReason.OVERFLOW}
        lost = [seq for gap in gaps for seq in range(gap.first, gap.last + 1)]
        assert len(kept) + len(lost) == 220
        assert sum(gap.samples for gap in gaps) == sum(100 + seq % 7 for seq in lost)
        facts = spool.facts()
        assert (facts.dropped_records, facts.dropped_samples) == (
            len(lost),
            sum(100 + seq % 7 for seq in lost),
        )

        # Critical records have their room, and are kept although nothing else can be written.
        for _ in range(10):
            spool.append(Stream.CRIT, Draft(BODY, 0, 1, 1))
            spool.sync()
        assert len(held(spool, Stream.CRIT)) == 10
        with pytest.raises(SpoolFull):  # noqa: PT012 - Some of them fit.
            for _ in range(100):
                spool.append(Stream.CRIT, Draft(BODY, 0, 1, 1))
        spool.sync()
        critical = [record.content for record in held(spool, Stream.CRIT)]

        # The agent is killed, and the next one has all that was on the disk.
        spool.close()
        spool = opened(small_disk)
        assert [record.content for record in held(spool, Stream.CRIT)] == critical

        # There is room again: everything is as before.
        ballast.unlink()
        before = spool.last(Stream.BULK)
        add(spool, 10)
        assert spool.sync()
        assert spool.facts().durable
        assert spool.last(Stream.BULK) == before + 10
        spool.obey(Release(Stream.CRIT, spool.last(Stream.CRIT), 1))
        spool.append(Stream.CRIT, Draft(BODY, 0, 1, 1))
        assert spool.sync()
        held(spool, Stream.BULK)
    finally:
        spool.close()
