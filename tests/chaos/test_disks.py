"""A spool on a disk of eight megabytes that somebody else fills, while the collector is away."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .account import account

pytestmark = [pytest.mark.timeout(300), pytest.mark.real("mount")]

DISK_BYTES = 8 << 20
JUNK_BYTES = 64 * 1024


@pytest.fixture
def small_disk(house: Any) -> Iterator[Path]:
    """A file system of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a file system")
    place = house.root / "disk"
    place.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "tmpfs", str(place)], check=True
    )
    yield place
    for process in house.processes:
        process.kill()
    subprocess.run(["umount", str(place)], check=True)


def _fill(place: Path) -> Path:
    """Take every byte that is left."""
    junk = place / "junk"
    with open(junk, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(JUNK_BYTES))
    with open(junk, "ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))
    return junk


def test_a_full_disk_under_the_spool_costs_what_is_counted_and_stops_nothing(
    house: Any, until: Any, small_disk: Path
) -> None:
    collector = house.collector("[rules]\nstock = false\n")
    agent = house.agent(
        collector, "web1", f'interval = "1s"\n[spool]\ndir = "{small_disk}/spool"\nbytes = "6MiB"\n'
    )
    until(lambda: len(account(collector, "web1").times) > 3, "some history")
    collector.kill()
    time.sleep(2)
    junk = _fill(small_disk)
    time.sleep(3)
    assert agent.running.running, agent.said
    assert agent.status(), "it still answers"
    junk.unlink()
    time.sleep(2)
    collector.launch()
    now_s = time.time()
    until(
        lambda: any(at > now_s for at, _ in collector.raw('node_time_seconds{instance="web1"}', 60)),
        "it has caught up",
        90,
    )
    found = account(collector, "web1")
    assert found.unexplained == [], found
    assert found.reasons <= {"overflow"}, found.rows
    assert all(row["samples"] for row in found.rows), "every row tells how many samples"
