"""A real mount that never answers: its own series say so, and nothing else waits for it."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from watchbill.clock import SystemClock
from watchbill_agent.samplers import HostPaths, Reading, Round, build
from watchbill_agent.samplers.filesystem import Options

TIMEOUT_S = 0.4
PACE = threading.Event()
"""Never set: waiting for it is a tick's pause, so that a condition with a deadline does not burn a core."""


class Watched:
    """The filesystem sampler over the real mount table, with a short patience."""

    def __init__(self, point: Path) -> None:
        self.point = str(point)
        self.host = HostPaths(clock=SystemClock())
        options = Options(mount_timeout_s=TIMEOUT_S, mount_points_include=f"^(/|{point})$")
        self.round = Round(build(self.host, ["filesystem", "loadavg"], {"filesystem": options}))
        (self.sampler, _) = self.round.samplers

    def mine(self, readings: list[Reading]) -> dict[str, tuple[dict[str, str], float]]:
        found = {}
        for reading in readings:
            for series, value in zip(reading.layout.series, reading.values, strict=True):
                labels = dict(series.labels)
                if labels.get("mountpoint") == self.point:
                    found[series.name] = (labels, float(value))
        return found

    def until(self, wanted: Callable[[dict[str, tuple[dict[str, str], float]]], bool]) -> list[Reading]:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            readings = self.round.run()
            if wanted(self.mine(readings)):
                return readings
            PACE.wait(0.01)
        pytest.fail(f"never came: {self.mine(readings)}")

    def children(self) -> list[int]:
        return [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and _parent(entry) == os.getpid() and _is_child(entry)
        ]

    def close(self) -> None:
        self.round.close()
        self.host.close()


def _parent(entry: Path) -> int:
    try:
        return int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def _is_child(entry: Path) -> bool:
    try:
        return b"statvfs_child.py" in (entry / "cmdline").read_bytes()
    except OSError:
        return False


@pytest.fixture
def watched(fuse_mount):
    sampler = Watched(fuse_mount.point)
    yield sampler
    sampler.close()


def hung(mine: dict[str, tuple[dict[str, str], float]]) -> bool:
    return "node_filesystem_device_error" in mine and mine["node_filesystem_device_error"][1] == 1


def answers(mine: dict[str, tuple[dict[str, str], float]]) -> bool:
    return "node_filesystem_size_bytes" in mine


def test_a_mount_that_never_answers_has_a_device_error_and_no_sizes(watched):
    mine = watched.mine(watched.until(hung))
    assert mine.keys() == {"node_filesystem_device_error", "node_filesystem_readonly"}
    assert mine["node_filesystem_device_error"][0]["device_error"] == "mountpoint timeout"
    assert watched.point in watched.sampler.notice
    assert watched.round.states["filesystem"].notice == watched.sampler.notice


def test_a_hung_mount_leaves_everything_else_on_time(watched):
    readings = watched.until(hung)
    others = {series.name for reading in readings for series in reading.layout.series}
    assert {"node_load1", "node_filesystem_size_bytes"} <= others
    (success,) = [reading for reading in readings if "node_scrape" in reading.layout.series[0].name]
    assert list(success.values[2:]) == [1.0, 1.0]


def test_a_hung_mount_holds_one_child_however_long_it_hangs(watched):
    watched.until(hung)
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(200):
        watched.round.run()
    assert len(watched.children()) == 1
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def test_the_layout_stays_the_same_object_while_a_mount_hangs(watched):
    readings = watched.until(hung)
    assert watched.round.run()[0].layout is readings[0].layout


def test_a_mount_that_answers_again_has_sizes_again(watched, fuse_mount):
    watched.until(hung)
    fuse_mount.answer()
    mine = watched.mine(watched.until(answers))
    assert mine["node_filesystem_device_error"][1] == 0
    assert mine["node_filesystem_size_bytes"][1] == 1000 * 4096
    assert mine["node_filesystem_free_bytes"][1] == 600 * 4096
    assert mine["node_filesystem_avail_bytes"][1] == 500 * 4096
    assert mine["node_filesystem_files"][1] == 77
    assert mine["node_filesystem_files_free"][1] == 33
    assert watched.sampler.notice == ""
    assert len(watched.children()) == 1


def test_a_mount_that_goes_silent_keeps_its_last_answer_until_the_timeout(watched, fuse_mount):
    fuse_mount.answer()
    watched.until(answers)
    fuse_mount.hang()
    since = time.monotonic()
    while answers(watched.mine(watched.round.run())):
        assert time.monotonic() < since + 20
        PACE.wait(0.01)
    assert time.monotonic() - since >= TIMEOUT_S
    assert hung(watched.mine(watched.round.run()))


def test_a_hung_mount_that_is_unmounted_vanishes_with_its_child(watched, fuse_mount):
    watched.until(hung)
    fuse_mount.unmount()
    watched.until(lambda mine: not mine)
    deadline = time.monotonic() + 20
    while watched.children() and time.monotonic() < deadline:
        watched.round.run()
        PACE.wait(0.01)
    assert watched.children() == []


def test_closing_ends_the_child_of_a_hung_mount_and_waits_for_nothing(watched):
    watched.until(hung)
    (child,) = watched.children()
    watched.close()
    deadline = time.monotonic() + 20
    while _parent(Path(f"/proc/{child}")) and _is_child(Path(f"/proc/{child}")):
        assert time.monotonic() < deadline, "the child was not killed"
        PACE.wait(0.01)


def test_one_reading_waits_for_a_mount_only_until_it_counts_as_hung(fuse_mount):
    done = subprocess.run(
        [sys.executable, "-m", "watchbill_agent", "sample", "--collector", "filesystem"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    (error,) = (line for line in done.stdout.splitlines() if "device_error{" in line and "fuse.never" in line)
    assert 'device_error="mountpoint timeout"' in error
    assert error.endswith(" 1")
    assert done.stderr == f"watchbill-agent: sampler filesystem: no answer from {str(fuse_mount.point)!r}\n"
