"""Faults of disk and time: what is not committed is not acknowledged, and what is lost is counted to the tick.

A host's wall clock cannot be set on a machine that others use, so a clock that is off is spoken of by a host of
our own making (see the tests of the hostile link) and stepped with a clock that can be (see the ingest's tests).
"""

import contextlib
import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)

DISK_MIB = 192
TICKS_S = 10
SPOOL = f'interval = "{1000 // TICKS_S}ms"\n[spool]\nbytes = "512KiB"\n'


@pytest.fixture
def small_disk(house) -> Iterator[Path]:
    """A filesystem of its own for the collector's state."""
    place = house.root / "c" / "var"
    place.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=0700", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no filesystem can be mounted here: {done.stderr.decode().strip()}")
    yield place
    for process in reversed(house.processes):
        if process.running:
            process.kill()
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture(scope="module", autouse=True)
def long_away(shared_house, until):
    """A collector that was killed when the tests of this file begin; the last one starts it again."""
    collector = shared_house.collector("[rules]\nstock = false\n")
    agent = shared_house.agent(collector, "web1", SPOOL)
    until(lambda: len(load(collector)) >= TICKS_S, "some history")
    collector.kill()
    return collector, agent


def load(collector):
    return collector.raw('node_load1{instance="web1"}', 600)


def fill(place):
    """Take all that is left."""
    ballast = place / "somebody-elses-file"
    with open(ballast, "wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 65_536)
            file.flush()
    return ballast


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_costs_no_acknowledged_record_and_heals_when_there_is_room(house, small_disk, until):
    house._template = None  # Its state is to be made on that disk.
    collector = house.collector("[rules]\nstock = false\n")
    agent = house.agent(collector, "web1")
    until(lambda: len(load(collector)) >= 3, "some history")
    file = fill(small_disk)
    until(lambda: "commits fail" in collector.said, "the collector says so")
    acked = agent.status()["queue"]["acked"]
    until(lambda: agent.status()["queue"]["records"] >= 5, "the agent keeps what is not acknowledged")
    assert agent.status()["queue"]["acked"] - acked <= 5
    kept = load(collector)
    assert len(kept) >= 3, "what was committed can be read"
    assert any(finding["state"] == "fail" for finding in collector.get("/status")["findings"])
    assert collector.said.count("commits fail") == 1, "once, not every time"
    file.unlink()
    found = until(lambda: len(found := load(collector)) > len(kept) + 8 and found, "it goes on", 60)
    assert set(kept) <= set(found)
    assert max(later[0] - earlier[0] for earlier, later in itertools.pairwise(found)) < 2.0
    assert collector.losses("web1") == []
    assert agent.status()["queue"]["dropped_records"] == 0
    assert "Traceback" not in collector.said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a time namespace")
@pytest.mark.real("unshare")
def test_a_host_that_booted_long_before_us_has_its_samples_at_the_right_time(house, until):
    collector = house.collector("[rules]\nstock = false\n")
    agent = house.enrolled(collector, "web1")
    command = ["unshare", "--time", "--fork", "--kill-child", "--boottime", "8640000", "true"]
    if house.run(command).code:
        pytest.skip("this kernel has no time namespaces")
    argv = [*command[:-1], "watchbill-agent", "run", "--home", str(agent.home)]
    house.start(agent, argv)
    house.until_up(collector, "web1")
    found = until(lambda: len(found := load(collector)) >= 3 and found, "samples")
    now_s = collector.value("time()")
    assert all(abs(at - now_s) < 30 for at, _ in found)
    assert collector.losses("web1") == []


def test_samples_and_gaps_add_up_to_the_ticks_that_were_taken(long_away, until):
    collector, agent = long_away
    until(
        lambda: agent.status()["queue"]["dropped_records"] >= TICKS_S, "the queue is full, the oldest go", 90
    )
    assert "overflow" in agent.command("gaps", "--json").out
    collector.launch()
    before = len(load(collector))
    # After so long away the next attempt may be a minute off: waits are jittered, and bounded.
    until(lambda: len(load(collector)) > before + 2 * TICKS_S, "the backlog arrives", 120)
    assert collector.value("up") == 1.0
    assert agent.stop() == 0
    ended = json.loads(agent.command("spool", "inspect", "--json").out)["streams"]["bulk"]
    rows = collector.gaps("web1")
    # Ten readings a second: a busy machine may hold the agent up, which has a number and costs no record.
    held_up = [row for row in rows if row["reason"] == "stalled"]
    overflows = [row for row in rows if row not in held_up]
    assert {row["reason"] for row in overflows} == {"overflow"}
    assert sum(row["count"] for row in overflows) >= TICKS_S
    assert all(row["count"] == 0 for row in held_up)
    assert held_up or all(row["count"] == numbers(row) for row in overflows)
    # Every number that a record ever had is a sample in history or lies in a gap row.
    assert len(load(collector)) + sum(map(numbers, rows)) == ended["last"]
    for row in rows:
        inside = [at for at, _ in load(collector) if row["first"] < iso(at) < row["last"]]
        assert len(inside) <= row["to_seq"] - row["from_seq"], "a row spans only what is missing"


def numbers(row):
    """How many record numbers a gap row covers."""
    return row["to_seq"] - row["from_seq"] + 1


def iso(at):
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
