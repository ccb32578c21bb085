"""What a kill, a full or failing disk, a damaged or foreign file do to the history: named, bounded,
survived.
"""

import dataclasses
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from watchbill.clock import ManualClock
from watchbill.errors import StorageError
from watchbill.protocol.frames import GapReason
from watchbill_collector.history import History, HistoryOptions, StorageFull, Tier, tiers
from watchbill_collector.history import days as days_module
from watchbill_collector.series import SeriesTable

from .killed import NAMES, START, few_statements, merge_all, opened, story

HOUR_MS = 3_600_000

STRIDE = int(os.environ.get("WATCHBILL_KILL_STRIDE", "7"))
"""Write points from one kill to the next: WATCHBILL_KILL_STRIDE=1 takes every one of them, in minutes. Most of them are
steps of merges that repeat; by chance each run begins elsewhere, so that runs together take all."""

Open = Callable[..., "Fleet"]  # type: ignore[name-defined]  # noqa: F821  # The fixture's class.


class Killed:
    """The program `killed.py`, which tells the story again and again, and dies in it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.history.killed"],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, directory: Path, at: int) -> tuple[list[str], bool]:
        """What the one that was killed before its n-th statement or removal said, and whether it came to the end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([at, str(directory)]), file=self._process.stdin, flush=True)
        said, code = json.loads(self._process.stdout.readline())
        assert code in (0, -signal.SIGKILL)
        return said, code == 0

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture
def killed() -> Iterator[Killed]:
    made = Killed()
    yield made
    made.close()


@pytest.mark.timeout(600)
def test_a_kill_at_every_write_point_loses_nothing_that_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: Killed
) -> None:
    few_statements(monkeypatch.setattr)
    whole = opened(tmp_path / "whole", ManualClock(wall_ms=START))
    by_commit: list[dict[object, float]] = [{}]
    story(whole, lambda what: by_commit.append(dict(whole.recorded)) if what.startswith("commit") else None)

    finished = False
    at = 1 + random.SystemRandom().randrange(STRIDE)
    print(f"every {STRIDE}th write point from {at}")
    while not finished:
        directory = tmp_path / f"killed-{at}"
        said, finished = killed(directory, at)
        commits = sum(line.startswith("commit") for line in said)
        fleet = opened(directory, ManualClock(wall_ms=START + 2 * HOUR_MS, boottime_ms=20_000_000))
        found = fleet.found()
        # A commit that was under way is there as a whole or not at all.
        assert found in (by_commit[commits], by_commit[min(commits + 1, 10)]), (at, said)
        seqs = {mark.agent_id: mark.seq for mark in fleet.history.marks()}
        there = by_commit.index(found)
        assert seqs == ({"a": there, "b": there} if there else {}), (at, said)
        merge_all(fleet.history, fleet.clock)
        assert fleet.found() == found
        steps = fleet.history.select_tier(fleet.table.select([]), 0, START * 2, Tier.HOUR, 10**6)
        assert steps.count.sum() == len(found)
        assert not fleet.history.status().problems
        fleet.history.close()
        shutil.rmtree(directory)
        at += STRIDE
    assert at > 150


@pytest.fixture(params=["raw", "1m"])
def place_of_readings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which file the readings go to: that of fast lists, or that of slow ones."""
    if request.param == "raw":
        monkeypatch.setattr(tiers, "READINGS_PER_STEP_MAX", 0)
    return str(request.param)


def filled(open_history: Open) -> "Fleet":  # type: ignore[name-defined]  # noqa: F821
    """Two hours of two hosts in day files, and something that waits."""
    fleet = open_history()
    for number in range(1, 14):
        begin = START + 600_000 * number
        fleet.commit(
            *(fleet.ticks(host, NAMES, [begin - 300_000, begin], base=number * 1e6) for host in "ab"),
            marks={"a": number},
        )
        fleet.clock.advance(600)
        merge_all(fleet.history, fleet.clock)
    return fleet


def test_garbage_in_the_tail_is_quarantined_and_a_gap_row_says_so(open_history: Open, tmp_path: Path) -> None:
    fleet = filled(open_history)
    fleet.history.close()
    tail = tmp_path / "history" / "tail.db"
    tail.write_bytes(b"this is no database" * 1000)
    again = open_history()
    assert (tmp_path / "history" / "quarantine" / "tail.db.0").read_bytes().startswith(b"this is no")
    (gap,) = again.history.gaps()
    assert (gap.agent_id, gap.reason) == ("", GapReason.CORRUPT)
    assert again.history.marks() == []
    found = again.found()
    assert found
    assert found.items() <= fleet.recorded.items()
    assert again.history.counters.files_quarantined == 1
    again.commit(again.ticks("a", NAMES, [fleet.clock.wall_ms()]), marks={"a": 1})
    assert len(again.found()) == len(found) + 2


def test_a_tail_with_bad_pages_gives_back_what_can_be_read(open_history: Open, tmp_path: Path) -> None:
    survivors = 0
    for lot in range(12):
        place = f"lot-{lot}"
        fleet = open_history(place=place)
        for number in range(1, 40):
            fleet.commit(fleet.ticks("a", NAMES, [START + 15_000 * number]), marks={"a": number})
            fleet.clock.advance(15)
        fleet.history.close()
        path = tmp_path / place / "tail.db"
        content = bytearray(path.read_bytes())
        page = 4096 * (lot % (len(content) // 4096))
        content[page : page + 512] = os.urandom(512)
        path.write_bytes(content)
        again = open_history(place=place)  # Starting is never blocked.
        samples = again.history.select(again.table.select([]), 0, START * 2, 10**6)
        survivors += len(samples.times) > 0
        found = set(samples.times.tolist())
        lost = {time for _, time in fleet.recorded} - found
        assert not lost or again.history.gaps() or again.history.status().problems
        assert found <= {time for _, time in fleet.recorded}
        again.history.close()
    assert survivors >= 4


@pytest.mark.parametrize("lot", range(6))
def test_a_garbled_day_file_is_named_and_the_rest_is_served(
    open_history: Open, tmp_path: Path, lot: int, place_of_readings: str
) -> None:
    fleet = filled(open_history)
    fleet.history.close()
    path = tmp_path / "history" / place_of_readings / "2023-11-14.db"
    random = np.random.default_rng(lot)
    content = bytearray(path.read_bytes())
    for at in random.integers(4096, len(content), 40).tolist():
        content[at] ^= 1 << int(random.integers(8))
    path.write_bytes(content)
    again = open_history()
    again.history.know(0, START * 2)
    ids = again.table.select([])
    samples = again.history.select(ids, 0, START * 2, 10**9)
    offsets = samples.offsets.tolist()
    for labels, begin, end in zip(again.table.frame(ids).dicts(), offsets, offsets[1:], strict=False):
        key = tuple(sorted(labels.items()))
        for at in range(begin, end):
            # Never a wrong value: damage costs readings, and says so.
            assert fleet.recorded[key, int(samples.times[at])] == samples.values[at]
    if len(samples.times) < len(fleet.recorded):
        named = [*samples.damaged, *again.history.status().problems]
        assert any("2023-11-14.db" in what for what in named)
    # Writing goes on, if need be into a further part.
    again.commit(again.ticks("c", NAMES, [START + 5]))
    again.clock.advance(900)
    merge_all(again.history, again.clock)
    assert len(again.history.select(again.ids("c", NAMES), 0, START * 2, 99).times) == 2


def test_a_truncated_day_file_is_named_and_its_day_goes_on_in_another_part(
    open_history: Open, tmp_path: Path, place_of_readings: str
) -> None:
    fleet = filled(open_history)
    fleet.history.close()
    path = tmp_path / "history" / place_of_readings / "2023-11-14.db"
    path.write_bytes(path.read_bytes()[:5000])
    again = open_history()
    ids = again.ids("a", NAMES)
    samples = again.history.select(ids, 0, START * 2, 10**6)
    assert any("2023-11-14.db" in what for what in samples.damaged)
    assert len(samples.times) > 0  # What waited in the tail.
    again.clock.advance(3600)
    merge_all(again.history, again.clock)
    assert (tmp_path / "history" / place_of_readings / "2023-11-14.1.db").exists()
    again.history.close()
    third = open_history()
    third.history.know(0, START * 2)
    assert len(third.history.select(third.ids("a", NAMES), 0, START * 2, 10**6).times) == len(samples.times)


def test_a_newer_day_file_is_left_alone_and_named(
    open_history: Open, tmp_path: Path, place_of_readings: str
) -> None:
    fleet = filled(open_history)
    fleet.history.close()
    path = tmp_path / "history" / place_of_readings / "2023-11-14.db"
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version={days_module.VERSION + 1}")
    connection.close()
    before = path.read_bytes()
    again = open_history()
    samples = again.history.select(again.ids("a", NAMES), 0, START * 2, 10**6)
    assert any("newer version" in what for what in samples.damaged)
    again.clock.advance(3600)
    merge_all(again.history, again.clock)
    assert path.read_bytes() == before
    assert (tmp_path / "history" / place_of_readings / "2023-11-14.1.db").exists()


def test_a_newer_tail_is_refused(open_history: Open, tmp_path: Path, clock: ManualClock) -> None:
    open_history().history.close()
    path = tmp_path / "history" / "tail.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(StorageError, match="newer version"):
        History.open(tmp_path / "history", SeriesTable(), clock)
    assert not (tmp_path / "history" / "quarantine").exists()


@pytest.mark.parametrize("what", ["directory", "fifo", "foreign"])
def test_strange_things_in_place_of_a_day_file_are_named(
    open_history: Open, tmp_path: Path, what: str
) -> None:
    fleet = filled(open_history)
    fleet.history.close()
    path = tmp_path / "history" / "raw" / "2023-11-13.db"
    if what == "directory":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    else:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE blocks (x)")
        connection.close()
    (tmp_path / "history" / "raw" / "2023-99-99.db").write_text("not a date")
    (tmp_path / "history" / "raw" / "notes.txt").write_text("not ours")
    again = open_history()
    assert again.history.select(again.ids("a", NAMES), 0, START * 2, 10**6).times.size
    assert again.history.status().problems


def test_a_directory_that_cannot_be_written_is_a_storage_error(tmp_path: Path, clock: ManualClock) -> None:
    if os.geteuid() == 0:
        place = Path("/proc/watchbill-history")  # Root may write anywhere but there.
    else:
        place = tmp_path / "closed"
        place.mkdir(mode=0o500)
    with pytest.raises(StorageError):
        History.open(place, SeriesTable(), clock)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("needs to mount a small tmpfs, which takes root")
    made = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {made.stderr.decode().strip()}")
    yield place
    # Lazily: whatever happened in the test, the machine is left as it was.
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_refuses_commits_and_loses_nothing_acknowledged(
    small_disk: Path, clock: ManualClock, open_history: Open
) -> None:
    fleet = open_history(place="disk/history")
    history = fleet.history
    names = [f"m{i}" for i in range(200)]
    random = np.random.default_rng(1)
    refused = 0
    for number in range(1, 4000):
        ticks = fleet.ticks("a", names, [START + 15_000 * number])
        ticks = dataclasses.replace(ticks, values=random.random((1, 200)))
        try:
            history.commit([ticks], [], [])
        except StorageFull:
            refused += 1
            if refused == 3:
                break
        else:
            fleet.record(ticks)
        clock.advance(15)
    assert refused == 3
    assert history.status().state == "full"
    assert history.counters.refused_full >= 1
    assert fleet.found() == fleet.recorded  # Reading goes on.
    history.close()
    assert open_history(place="disk/history").found() == fleet.recorded


def test_a_disk_that_is_full_in_the_middle_of_a_merge_costs_nothing(
    small_disk: Path, clock: ManualClock, open_history: Open
) -> None:
    fleet = open_history(place="disk/history")
    names = [f"m{i}" for i in range(100)]
    random = np.random.default_rng(3)
    for begin in range(START, START + HOUR_MS, 300_000):
        for host, step in (("slow", 15_000), ("fast", 5_000)):
            times = list(range(begin + step, begin + 300_001, step))
            ticks = fleet.ticks(host, names, times)
            ticks = dataclasses.replace(ticks, values=np.round(random.random((len(times), 100)) * 100, 2))
            fleet.history.commit([ticks], [], [])
            fleet.record(ticks)
        clock.advance(300)
    clock.advance(700)
    filler = small_disk / "filler"
    refused = 0
    # From no room at all to just enough, so that the disk fills up at many places of the merge.
    for room in range(0, 1_200_000, 80_000):
        free = shutil.disk_usage(small_disk).free
        with filler.open("wb") as out:
            out.write(bytes(max(free - room, 0) // 4096 * 4096))
        clock.advance(2)
        try:
            merge_all(fleet.history, clock)
        except StorageFull:
            refused += 1
        filler.unlink()
        assert fleet.found() == fleet.recorded, room
    assert refused >= 2
    clock.advance(2)
    merge_all(fleet.history, clock)
    assert fleet.history.status().minis == 0
    assert fleet.history.status().state == "ok"
    assert not fleet.history.status().problems
    assert fleet.found() == fleet.recorded
    fleet.history.close()
    again = open_history(place="disk/history")
    assert again.found() == fleet.recorded
    steps = again.history.select_tier(again.table.select([]), 0, START * 2, Tier.HOUR, 10**6)
    assert steps.count.sum() == len(fleet.recorded)


def test_readings_are_refused_before_the_disk_is_full(open_history: Open, options: HistoryOptions) -> None:
    fleet = open_history(dataclasses.replace(options, free_share_min=1.01))
    with pytest.raises(StorageFull, match="free"):
        fleet.commit(fleet.ticks("a", NAMES, [START]))
    assert fleet.history.counters.refused_full == 1
    assert fleet.history.status().state == "full"


def test_room_that_comes_back_is_used(open_history: Open, options: HistoryOptions) -> None:
    fleet = open_history(dataclasses.replace(options, free_share_min=1.01))
    with pytest.raises(StorageFull):
        fleet.commit(fleet.ticks("a", NAMES, [START]))
    fleet.history._disk._free_share_min = 0.0  # As if files had been removed.
    fleet.clock.advance(2)
    fleet.commit(fleet.ticks("a", NAMES, [START]))
    assert fleet.history.status().state == "ok"


def test_the_ballast_is_set_aside_and_given_up(
    open_history: Open, options: HistoryOptions, tmp_path: Path
) -> None:
    fleet = open_history(dataclasses.replace(options, ballast_bytes=1 << 20))
    ballast = tmp_path / "history" / "ballast"
    assert ballast.stat().st_size == 1 << 20
    fleet.history._disk.drop_ballast()
    assert not ballast.exists()
    fleet.history.retain(fleet.clock.wall_ms())
    assert ballast.exists()


@pytest.mark.real("strace")
@pytest.mark.parametrize(("call", "when"), [("fdatasync", 30), ("pwrite64", 120)])
def test_a_failing_disk_stops_the_taking_and_acknowledges_nothing(
    tmp_path: Path, call: str, when: int
) -> None:
    program = f"""
import sys, json
import numpy as np
from pathlib import Path
from watchbill.clock import ManualClock
from watchbill.errors import StorageError
from watchbill_collector.history import History, HistoryOptions, StorageBroken
from watchbill_collector.series import SeriesTable, Ticks
table = SeriesTable()
clock = ManualClock({START})
options = HistoryOptions(ballast_bytes=0, free_share_min=0)
history = History.open(Path({str(tmp_path / "h")!r}), table, clock, options)
ids = np.array([table.series_of({{"__name__": "m"}})], np.uint32)
acknowledged, outcome = [], []
for number in range(1, 60):
    try:
        history.commit([Ticks(ids, np.array([{START} + number]), np.array([[1.0 * number]]))], [], [])
        acknowledged.append(number)
    except StorageBroken:
        outcome.append("broken")
    except StorageError as exc:
        outcome.append(str(exc))
    clock.advance(1)
print(json.dumps([acknowledged, outcome]))
"""
    inject = f"inject={call}:error=EIO:when={when}+"
    made = subprocess.run(
        [
            *["strace", "-f", "-qq", "-o"],
            str(tmp_path / "trace"),
            "-e",
            inject,
            sys.executable,
            "-c",
            program,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert made.returncode == 0, made.stderr
    acknowledged, outcome = json.loads(made.stdout)
    assert 0 < len(acknowledged) < 59
    assert outcome
    assert outcome[-1] == "broken"
    table = SeriesTable()
    history = History.open(
        tmp_path / "h", table, ManualClock(START), HistoryOptions(ballast_bytes=0, free_share_min=0)
    )
    samples = history.select(table.select([]), 0, START * 2, 999)
    assert set(acknowledged) <= {time - START for time in samples.times.tolist()}
    history.close()
