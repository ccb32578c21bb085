"""Which file readings are in: those of slow lists once, and files of version 1, which had them twice."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard

from watchbill.clock import ManualClock
from watchbill_collector.history import History, StorageBroken, Tier
from watchbill_collector.history.days import VERSION
from watchbill_collector.history.gather import Singles
from watchbill_collector.history.recent import Recent
from watchbill_collector.series import Ticks

GOLDEN = Path(__file__).parent / "golden"
HOUR_MS = 3_600_000
START = 472_207 * HOUR_MS  # The same as the fleet's, and the golden files'.
DAY = "2023-11-14.db"

Open = Callable[..., "Fleet"]  # type: ignore[name-defined]  # noqa: F821  # The fixture's class.


@pytest.fixture
def old_files(tmp_path: Path) -> Path:
    """A history of version 1: an hour of one slow list and one fast one, merged."""
    place = tmp_path / "history"
    for tier in ("raw", "1m", "1h"):
        (place / tier).mkdir(parents=True)
        packed = (GOLDEN / f"day-v1-{tier}.db.zst").read_bytes()
        (place / tier / DAY).write_bytes(zstandard.ZstdDecompressor().decompress(packed))
    return place


def kinds(path: Path) -> list[tuple[int, int]]:
    with sqlite3.connect(path) as connection:
        found = connection.execute("SELECT hour, kind FROM blocks ORDER BY hour, kind").fetchall()
    connection.close()
    return found


def check_the_golden_hour(fleet: "Fleet") -> None:  # type: ignore[name-defined]  # noqa: F821
    history: History = fleet.history
    history.know(0, START * 2)
    slow, fast = fleet.ids("a", ["load", "temp"]), fleet.ids("b", ["load"])
    found = history.select(slow, START, START + HOUR_MS, 10**6)
    times = START + 60_000 * np.arange(1, 61)
    assert found.times.tolist() == [*times, *times]
    assert found.values.tolist() == [*(times % 100_000), *(times % 7_000 / 4)]
    found = history.select(fast, START, START + HOUR_MS, 10**6)
    times = START + 5_000 * np.arange(1, 721)
    assert found.times.tolist() == times.tolist()
    assert found.values.tolist() == (times % 9_000 / 8).tolist()
    ids = np.concatenate([slow, fast])
    for tier, steps in ((Tier.MINUTE, 60), (Tier.HOUR, 1)):
        made = history.select_tier(ids, START, START + HOUR_MS, tier, 10**6)
        assert np.diff(made.offsets).tolist() == [steps] * 3
        assert made.count.sum() == 60 + 60 + 720


def test_files_of_version_1_are_read(open_history: Open, old_files: Path) -> None:
    check_the_golden_hour(open_history())
    assert kinds(old_files / "raw" / DAY) == [(472_207, 0)] * 2


def test_a_file_of_version_1_that_is_written_becomes_the_present_version(
    open_history: Open, old_files: Path, clock: ManualClock
) -> None:
    fleet = open_history()
    fleet.history.know(0, START * 2)
    clock.advance(3600)
    late = fleet.ids("a", ["load", "temp"])
    fleet.history.commit([Ticks(late, np.array([START + 61_500]), np.array([[1.5, 2.5]]))], [], [])
    fleet.history.commit([Ticks(late, np.array([START + 4_000_000]), np.array([[3.5, 4.5]]))], [], [])
    for _ in range(3):
        clock.advance(4000)
        while fleet.history.merge(clock.wall_ms()):
            pass
    assert fleet.history.status().minis == 0
    fleet.history.close()
    # The slow list's readings have left the raw file; the fast one's are where they were.
    assert kinds(old_files / "raw" / DAY) == [(472_207, 0)]
    assert kinds(old_files / "1m" / DAY) == [(472_207, 0), (472_207, 1), (472_208, 0)]
    for tier in ("raw", "1m", "1h"):
        with sqlite3.connect(old_files / tier / DAY) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
        connection.close()
    again = open_history()
    again.history.know(0, START * 2)
    found = again.history.select(again.ids("a", ["temp"]), START, START + 2 * HOUR_MS, 10**6)
    assert len(found.times) == 62
    assert found.values[[1, 61]].tolist() == [2.5, 4.5]
    assert len(again.history.select(again.ids("b", ["load"]), START, START + HOUR_MS, 10**6).times) == 720


def test_readings_of_a_slow_list_are_stored_once_and_of_a_fast_one_with_statistics(
    open_history: Open, tmp_path: Path
) -> None:
    fleet = open_history()
    slow, fast = fleet.ids("a", ["load"]), fleet.ids("b", ["load"])
    for begin in range(START, START + HOUR_MS, 600_000):
        for ids, step in ((slow, 15_000), (fast, 1_000)):
            times = np.arange(begin + step, begin + 600_001, step)
            fleet.history.commit([Ticks(ids, times, times[:, None] % 977 / 4)], [], [])
        fleet.clock.advance(600)
    fleet.clock.advance(900)
    while fleet.history.merge(fleet.clock.wall_ms()):
        pass
    place = tmp_path / "history"
    assert kinds(place / "raw" / DAY) == [(472_207, 0)]
    assert kinds(place / "1m" / DAY) == [(472_207, 0), (472_207, 1)]
    assert kinds(place / "1h" / DAY) == [(472_207, 1)] * 2
    for ids, number in ((slow, 240), (fast, 3600)):
        found = fleet.history.select(ids, START, START + HOUR_MS, 10**6)
        assert found.values.tolist() == (found.times % 977 / 4).tolist()
        assert len(found.times) == number
        steps = fleet.history.select_tier(ids, START, START + HOUR_MS, Tier.MINUTE, 10**6)
        assert steps.count.tolist() == [number / 60] * 60


def test_what_was_read_lately_changes_no_answer(open_history: Open) -> None:
    fleet = open_history()
    ids = fleet.ids("a", ["load", "temp"])

    def commit(times: list[int], value: float) -> None:
        values = np.full((len(times), 2), value)
        fleet.history.commit([Ticks(ids, START + np.array(times), values)], [], [])
        fleet.clock.advance(400)
        while fleet.history.merge(fleet.clock.wall_ms()):
            pass

    commit([1_000, 2_000], 1.0)
    commit([2_000, 3_000], 2.0)
    assert fleet.history.status().minis == 2
    for column in (ids[:1], ids[1:], ids):
        # The second mini-block is known, then the first is asked for too: it was committed first.
        assert fleet.history.select(column, START + 2_500, START + 9_000, 99).values.tolist() == [2.0] * len(
            column
        )
        for _ in range(2):
            found = fleet.history.select(column, START, START + 9_000, 99)
            assert found.times.tolist() == [START + 1_000, START + 2_000, START + 3_000] * len(column)
            assert found.values.tolist() == [1.0, 1.0, 2.0] * len(column)


def test_what_is_kept_of_mini_blocks_is_bounded() -> None:
    recent = Recent(bytes_max=10_000)
    singles = Singles(20, 0, START, 15_000, b"", [(1, 0, bytes(8), bytes(19))])
    for mini in range(100):
        recent.put(mini, (3,), singles)
        recent.get(0, (3,))
    assert recent.bytes <= 10_000
    assert recent.get(0, (3,)) is singles
    assert recent.get(1, (3,)) is None
    assert recent.get(99, (4,)) is None
    assert len(recent) == 10_000 // (500 + 219)


@pytest.mark.parametrize("lot", [0, 1, 2, 3, 42, 75, 108, 121])
def test_flipped_bits_in_any_file_are_named_and_never_give_a_wrong_value(
    open_history: Open, tmp_path: Path, lot: int
) -> None:
    fleet = open_history()
    names = [f"m{number}" for number in range(60)]
    slow, fast = fleet.ids("a", names), fleet.ids("b", names)
    random = np.random.default_rng(lot)
    sent: dict[tuple[int, int], float] = {}
    for begin in range(START, START + 2 * HOUR_MS, 600_000):
        for ids, step in ((slow, 15_000), (fast, 5_000)):
            times = np.arange(begin + step, begin + 600_001, step)
            values = np.round(random.random((len(times), 60)) * 1000, 2)
            fleet.history.commit([Ticks(ids, times, values)], [], [])
            for column, number in enumerate(ids.tolist()):
                sent.update(
                    zip([(number, t) for t in times.tolist()], values[:, column].tolist(), strict=True)
                )
        fleet.clock.advance(600)
        while fleet.history.merge(fleet.clock.wall_ms()):
            pass
    fleet.history.close()
    place = tmp_path / "history"
    for path in (place / "raw" / DAY, place / "1m" / DAY, place / "tail.db"):
        content = bytearray(path.read_bytes())
        for at in random.integers(8192, len(content), 1 + lot).tolist():
            content[at] ^= 1 << int(random.integers(8))
        path.write_bytes(content)
    again = open_history()
    again.history.know(0, START * 2)
    number = 0
    everything = np.concatenate([again.ids("a", names), again.ids("b", names)])
    of_old = dict(zip(everything.tolist(), np.concatenate([slow, fast]).tolist(), strict=True))
    # One series at a time, and all together: two ways through the files.
    one_by_one = [again.history.select(everything[i : i + 1], 0, START * 2, 10**7) for i in range(120)]
    together = again.history.select(everything, 0, START * 2, 10**7)
    for i, single in enumerate(one_by_one):
        for time, value in zip(single.times.tolist(), single.values.tolist(), strict=True):
            assert sent[of_old[int(everything[i])], time] == value
        number += len(single.times)
    rows = np.repeat(everything, np.diff(together.offsets))
    for series, time, value in zip(
        rows.tolist(), together.times.tolist(), together.values.tolist(), strict=True
    ):
        assert sent[of_old[series], time] == value
    assert number >= len(together.times)  # Of a damaged block some frames may still be good.
    if number < len(sent):
        assert again.history.status().problems or again.history.gaps()
    for tier in Tier:
        again.history.select_tier(everything, 0, START * 2, tier, 10**7)
    # And what can be merged is merged, if need be after a start that rebuilds a damaged tail.
    for _ in range(4):
        again.clock.advance(8000)
        try:
            while again.history.merge(again.clock.wall_ms()):
                pass
        except StorageBroken:
            again.history.close()
            again = open_history()
            assert list((place / "quarantine").iterdir())
    assert again.history.status().minis == 0
    assert not (place / "rebuild-tail").exists()
    again.history.know(0, START * 2)
    everything = np.concatenate([again.ids("a", names), again.ids("b", names)])
    of_old = dict(zip(everything.tolist(), np.concatenate([slow, fast]).tolist(), strict=True))
    merged = again.history.select(everything, 0, START * 2, 10**7)
    rows = np.repeat(everything, np.diff(merged.offsets))
    for series, time, value in zip(rows.tolist(), merged.times.tolist(), merged.values.tolist(), strict=True):
        assert sent[of_old[series], time] == value
