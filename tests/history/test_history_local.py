"""The history on disk: mini-blocks, merges, late readings, tiers, retention and opening again."""

import contextlib
import dataclasses
import itertools
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from watchbill.clock import ManualClock
from watchbill_collector.history import History, HistoryOptions, Tier, commits, local, tiers
from watchbill_collector.series import SeriesTable, Ticks

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
START = 472_207 * HOUR_MS  # The same as the fleet's.
NAMES = ["load", "temp", "bytes"]

Open = Callable[..., "Fleet"]  # type: ignore[name-defined]  # noqa: F821  # The fixture's class.


def merge_all(history: History, clock: ManualClock) -> None:
    while history.merge(clock.wall_ms()):
        pass


def an_hour(fleet: "Fleet", host: str = "a", begin: int = START, step: int = 60_000) -> None:  # type: ignore[name-defined]  # noqa: F821
    """60 readings, ten to a commit, the clock moving along."""
    for part in range(begin + step, begin + HOUR_MS + 1, 10 * step):
        fleet.commit(fleet.ticks(host, NAMES, list(range(part, part + 10 * step, step))))
        fleet.clock.advance(10 * step / 1000)


def test_an_hour_that_is_over_goes_to_day_files_and_leaves_the_tail(open_history: Open) -> None:
    fleet = open_history()
    history = fleet.history
    for host in ("a", "b"):
        an_hour(fleet, host, begin=fleet.clock.wall_ms() // HOUR_MS * HOUR_MS)
    fleet.clock.advance(600)
    merge_all(history, fleet.clock)
    status = history.status()
    assert (status.minis, status.pending_bytes, status.day_files, status.state) == (0, 0, 2, "ok")
    assert history.counters.blocks == 2
    assert fleet.found() == fleet.recorded


def test_readings_are_found_at_every_stage_of_their_way(open_history: Open) -> None:
    fleet = open_history()
    for _ in range(5):
        an_hour(fleet, begin=fleet.clock.wall_ms() // HOUR_MS * HOUR_MS)
        assert fleet.found() == fleet.recorded
        merge_all(fleet.history, fleet.clock)
        assert fleet.found() == fleet.recorded
    fleet.history.close()
    again = open_history()
    assert again.found() == fleet.recorded
    assert again.table.labels(0)["instance"] == "a"


def test_a_midnight_reading_belongs_to_the_day_that_ends(open_history: Open, tmp_path: Path) -> None:
    fleet = open_history()
    midnight = START // DAY_MS * DAY_MS
    fleet.commit(fleet.ticks("a", NAMES, [midnight, midnight + 1]))
    fleet.clock.advance(4000)
    merge_all(fleet.history, fleet.clock)
    assert sorted(path.name for path in (tmp_path / "history" / "1m").glob("*.db")) == [
        "2023-11-13.db",
        "2023-11-14.db",
    ]
    assert fleet.found() == fleet.recorded
    ids = fleet.ids("a", NAMES)
    assert fleet.history.select(ids, midnight - 1, midnight, 99).times.tolist() == [midnight] * 3


def test_late_readings_join_their_hour_and_the_first_stays(open_history: Open) -> None:
    fleet = open_history()
    an_hour(fleet)
    fleet.clock.advance(600)
    merge_all(fleet.history, fleet.clock)
    late = fleet.ticks("a", [*NAMES, "new"], list(range(START + 30_000, START + HOUR_MS, 60_000)), base=0.25)
    twice = fleet.ticks("a", NAMES, [START + 60_000, START + 90_000], base=9e6)
    fleet.commit(late)
    fleet.commit(twice)
    assert fleet.found() == fleet.recorded
    fleet.clock.advance(900)
    merge_all(fleet.history, fleet.clock)
    fleet.clock.advance(900)
    merge_all(fleet.history, fleet.clock)
    assert fleet.history.counters.late_merges == 1
    assert fleet.history.status().minis == 0
    assert fleet.found() == fleet.recorded
    made = fleet.history.select_tier(fleet.ids("a", ["load"]), START, START + HOUR_MS, Tier.HOUR, 99)
    assert made.count.tolist() == [120.0]


def test_steps_agree_before_and_after_the_merge(open_history: Open) -> None:
    fleet = open_history()
    ids = fleet.ids("a", ["fast", "slow"])
    fleet.table.describe("slow", "gauge", "")
    random = np.random.default_rng(2)
    times = START + np.arange(1, 3 * 3600 + 1) * 1000
    values = np.stack(
        [np.cumsum(random.integers(0, 5, len(times))), random.integers(0, 9, len(times)) / 4], 1
    )
    for begin in range(0, len(times), 600):
        fleet.history.commit([Ticks(ids, times[begin : begin + 600], values[begin : begin + 600])], [], [])
        fleet.clock.advance(600)
    span = (START, START + 3 * HOUR_MS)
    before = {tier: fleet.history.select_tier(ids, *span, tier, 10**6) for tier in Tier}
    fleet.clock.advance(600)
    merge_all(fleet.history, fleet.clock)
    assert fleet.history.counters.blocks == 3
    for tier, was in before.items():
        now = fleet.history.select_tier(ids, *span, tier, 10**6)
        for name in ("times", "minimum", "maximum", "total", "count", "last", "offsets"):
            np.testing.assert_allclose(getattr(now, name), getattr(was, name), err_msg=name)
        middle = now.offsets[1]
        np.testing.assert_allclose(now.increase[:middle], was.increase[:middle])
        assert now.increase[:middle].sum() == values[-1, 0] - values[0, 0]
        assert np.isnan(now.increase[middle:]).all()


@pytest.mark.parametrize("fast", [True, False])
def test_a_late_reading_counts_in_every_tier_at_once(
    open_history: Open, monkeypatch: pytest.MonkeyPatch, *, fast: bool
) -> None:
    if fast:
        monkeypatch.setattr(tiers, "READINGS_PER_STEP_MAX", 0)
    fleet = open_history()
    ids = fleet.ids("a", NAMES)
    first = START + 15_000 * np.arange(1, 481)
    for begin in range(0, 480, 20):
        times = first[begin : begin + 20]
        fleet.history.commit([Ticks(ids, times, np.full((20, 3), 5.0))], [], [])
        fleet.clock.advance(300)
    fleet.clock.advance(600)
    merge_all(fleet.history, fleet.clock)
    assert fleet.history.status().minis == 0
    late = first[:100] + 1000
    values = np.where(np.arange(300).reshape(100, 3) == 1, -7.0, 9.0)
    values[4] = 5.0
    fleet.history.commit([Ticks(ids, late, values)], [], [])
    fleet.history.commit([Ticks(ids, first[:3], np.full((3, 3), 99.0))], [], [])  # These are known already.
    span = (START, START + 2 * HOUR_MS)
    asked = [(fleet.history.select_tier(ids, *span, tier, 10**6), tier) for tier in Tier]
    for _ in range(2):
        fleet.clock.advance(4000)
        merge_all(fleet.history, fleet.clock)
    assert fleet.history.counters.late_merges == 1
    for before, tier in asked:
        after = fleet.history.select_tier(ids, *span, tier, 10**6)
        assert not before.damaged
        assert before.count.sum() == 580 * 3
        for name in ("times", "offsets", "minimum", "maximum", "total", "count", "last"):
            assert getattr(before, name).tolist() == getattr(after, name).tolist(), (tier, name)
        assert before.minimum.min() == -7.0
    assert asked[1][0].count[:2].tolist() == [340.0, 240.0]


def test_late_readings_whose_fellows_are_gone_are_added_up_and_the_answer_says_so(
    open_history: Open, options: HistoryOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiers, "READINGS_PER_STEP_MAX", 0)
    fleet = open_history(dataclasses.replace(options, raw_ms=2 * DAY_MS))
    while fleet.clock.wall_ms() < START + 6 * DAY_MS:
        an_hour(fleet, begin=fleet.clock.wall_ms() // HOUR_MS * HOUR_MS, step=360_000)
        merge_all(fleet.history, fleet.clock)
        fleet.history.retain(fleet.clock.wall_ms())
    ids = fleet.ids("a", NAMES)
    fleet.history.commit([Ticks(ids, np.array([START + 1000]), np.array([[-3.0] * 3]))], [], [])
    found = fleet.history.select_tier(ids, START, START + HOUR_MS, Tier.HOUR, 99)
    assert (found.count.tolist(), found.minimum.tolist()) == ([11.0] * 3, [-3.0] * 3)
    assert any("added up" in what for what in found.damaged)
    for _ in range(2):
        fleet.clock.advance(4000)
        merge_all(fleet.history, fleet.clock)
    assert any("readings were gone" in what for what in fleet.history.status().problems)


def test_a_day_of_hour_steps_is_tidied_into_one_block(open_history: Open, tmp_path: Path) -> None:
    fleet = open_history()
    while fleet.clock.wall_ms() < START + 42 * HOUR_MS:
        an_hour(fleet, begin=fleet.clock.wall_ms() // HOUR_MS * HOUR_MS, step=360_000)
        fleet.clock.advance(0)
    ids = fleet.ids("a", ["load"])
    span = (START, START + 42 * HOUR_MS)
    was = fleet.history.select_tier(ids, *span, Tier.HOUR, 10**6)
    merge_all(fleet.history, fleet.clock)
    now = fleet.history.select_tier(ids, *span, Tier.HOUR, 10**6)
    assert now.times.tolist() == was.times.tolist() == [START + HOUR_MS * (1 + i) for i in range(42)]
    assert now.maximum.tolist() == was.maximum.tolist()
    (first, *_) = fleet.history._tiers[Tier.HOUR].every()
    rows = list(first.blocks(list(first.catalogue.lists), 0, 10**9))
    assert len(rows) == 1


def test_hosts_that_stopped_do_not_hold_the_tail(open_history: Open) -> None:
    fleet = open_history()
    fleet.commit(fleet.ticks("gone", NAMES, [START + 1]))
    for number in range(200):
        fleet.commit(fleet.ticks("here", NAMES, [START + 15_000 * (number + 1)]))
        fleet.clock.advance(15)
    oldest = fleet.history._tail.connection.execute("SELECT min(id) FROM raw").fetchone()[0]
    assert oldest > 150
    assert fleet.found() == fleet.recorded


def test_marks_outlive_the_rows_that_brought_them(open_history: Open) -> None:
    fleet = open_history()
    for number in range(100):
        fleet.commit(fleet.ticks("a", NAMES, [START + 15_000 * (number + 1)]), marks={"a": number, "b": 7})
        fleet.clock.advance(15)
    fleet.history.close()
    again = open_history()
    assert {mark.agent_id: (mark.seq, mark.digest) for mark in again.history.marks()} == {
        "a": (99, (2**64 - 1) ^ 99),
        "b": (7, (2**64 - 1) ^ 7),
    }
    (gone,) = [mark for mark in again.history.marks() if mark.agent_id == "b"]
    again.history.remove_marks([gone])
    again.history.close()
    assert [mark.agent_id for mark in open_history().history.marks()] == ["a"]


def test_a_large_commit_is_several_rows_of_one_transaction(
    open_history: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "ROW_BYTES", 140)  # Two hosts' readings, of 72 bytes each.
    fleet = open_history()
    fleet.commit(
        *[fleet.ticks(host, NAMES, [START, START + 1, START + 2]) for host in "abcde"], marks={"a": 7}
    )
    fleet.commit(marks={"b": 3})
    fleet.history.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "history" / "tail.db")) as tail:
        assert tail.execute("SELECT count(*) FROM raw").fetchone() == (4,)
    again = open_history()
    assert again.found() == fleet.recorded
    assert {(each.agent_id, each.seq) for each in again.history.marks()} == {("a", 7), ("b", 3)}


def test_times_that_no_day_can_hold_are_counted_and_left_out(open_history: Open) -> None:
    fleet = open_history()
    ids = fleet.ids("a", NAMES)
    times = np.array([-1, 0, START, 2**62, 2**63 - 1])
    fleet.history.commit([Ticks(ids, times, np.ones((5, 3)))], [], [])
    assert fleet.history.counters.samples_out_of_range == 12
    assert fleet.history.select(ids, 0, 2**63 - 1, 99).times.tolist() == [START] * 3


def test_readings_of_any_year_are_kept_where_they_belong(open_history: Open) -> None:
    fleet = open_history()
    for time in (1, HOUR_MS, 2**31 * 1000, 253_402_300_799_999):
        fleet.commit(fleet.ticks("a", NAMES, [time]))
    fleet.clock.set_wall_ms(253_402_300_799_999 + DAY_MS)
    fleet.clock.advance(600)
    merge_all(fleet.history, fleet.clock)
    assert fleet.history.status().minis == 0
    assert fleet.history.select(fleet.ids("a", ["load"]), 0, 2**63 - 1, 99).times.tolist() == [
        1,
        HOUR_MS,
        2**31 * 1000,
        253_402_300_799_999,
    ]


@pytest.mark.parametrize("fast", [True, False])
def test_old_days_go_when_they_are_old_and_tiers_stay(
    open_history: Open, options: HistoryOptions, monkeypatch: pytest.MonkeyPatch, *, fast: bool
) -> None:
    if fast:
        monkeypatch.setattr(tiers, "READINGS_PER_STEP_MAX", 0)
    short = dataclasses.replace(options, raw_ms=2 * DAY_MS, minute_ms=4 * DAY_MS)
    fleet = open_history(short)
    gone: list[str] = []
    while fleet.clock.wall_ms() < START + 8 * DAY_MS:
        an_hour(fleet, begin=fleet.clock.wall_ms() // HOUR_MS * HOUR_MS, step=360_000)
        merge_all(fleet.history, fleet.clock)
        gone += fleet.history.retain(fleet.clock.wall_ms())
    history = fleet.history
    # Today's, a whole one, and the one that is half in reach. Slow lists have their readings elsewhere.
    assert len(history._raw.days) == (3 if fast else 0)
    assert len(history._tiers[Tier.MINUTE].days) == 5
    assert len(history._tiers[Tier.HOUR].days) == 9
    assert history.counters.files_removed == len(gone) == (6 if fast else 0) + 4
    assert all(not Path(name).exists() for name in gone)
    ids = fleet.ids("a", ["load"])
    assert len(history.select(ids, START, START + DAY_MS, 10**6).times) == 0
    begins = history.oldest_ms()
    assert begins == (START // DAY_MS + 6) * DAY_MS
    for kept in (history, None):  # The same after a start.
        if kept is None:
            history.close()
            history = open_history(short).history
            history.know(0, START * 2)
            ids = history._table.select([])[:1]
        assert history.oldest_ms() == begins
        assert min(history.select(ids, 0, START * 2, 10**6).times) > begins
        assert history.oldest_ms(Tier.MINUTE) == (START // DAY_MS + 4) * DAY_MS
        found = history.select_tier(ids, 0, begins, Tier.MINUTE, 10**6)
        assert len(found.times) == 480
        assert found.count.sum() == 480
    assert len(history.select_tier(ids, START, START + DAY_MS, Tier.HOUR, 10**6).times) == 24


def test_a_jumped_clock_deletes_nothing(open_history: Open) -> None:
    fleet = open_history()
    an_hour(fleet)
    fleet.clock.advance(600)
    merge_all(fleet.history, fleet.clock)
    fleet.clock.set_wall_ms(fleet.clock.wall_ms() + 3650 * DAY_MS)
    fleet.commit(fleet.ticks("jumped", NAMES, [fleet.clock.wall_ms()]))
    for _ in range(600):
        assert fleet.history.retain(fleet.clock.wall_ms()) == []
        fleet.clock.advance(60)
    assert fleet.history.status().retention_doubted
    fleet.history.close()
    again = open_history()  # A restart does not make it forget its doubts.
    assert again.history.retain(fleet.clock.wall_ms()) == []
    assert again.history.status().retention_doubted
    assert again.found() == fleet.recorded


def test_the_size_cap_lets_the_oldest_readings_go_first(open_history: Open, options: HistoryOptions) -> None:
    fleet = open_history(dataclasses.replace(options, size_bytes_max=800_000))
    while fleet.clock.wall_ms() < START + 6 * DAY_MS:
        an_hour(fleet, begin=fleet.clock.wall_ms() // HOUR_MS * HOUR_MS, step=360_000)
        merge_all(fleet.history, fleet.clock)
    fleet.history.retain(fleet.clock.wall_ms())
    assert fleet.history.status().day_bytes <= 800_000
    assert len(fleet.history._raw.days) < len(fleet.history._tiers[Tier.HOUR].days)


def test_old_label_tables_are_read_when_they_are_asked_for(open_history: Open, tmp_path: Path) -> None:
    fleet = open_history()
    an_hour(fleet)
    fleet.clock.advance(600)
    merge_all(fleet.history, fleet.clock)
    fleet.history.close()
    for path in (tmp_path / "history").glob("tail.db*"):
        path.unlink()  # A day file needs nothing beside itself.
    fleet.clock.advance(5 * 86_400)
    again = open_history()
    assert len(again.table) == 0
    again.history.know(START, START + HOUR_MS)
    assert len(again.table) == 3
    assert again.found() == fleet.recorded


def test_memory_of_old_days_is_given_back_and_read_again(open_history: Open) -> None:
    fleet = open_history()
    an_hour(fleet)
    fleet.clock.advance(600)
    merge_all(fleet.history, fleet.clock)
    fleet.clock.advance(5 * 86_400)
    fleet.commit(fleet.ticks("b", NAMES, [fleet.clock.wall_ms()]))
    for _ in range(3):
        fleet.clock.advance(3601)
        fleet.history.retain(fleet.clock.wall_ms())
    (old, *_) = fleet.history._tiers[Tier.MINUTE].every()
    assert not old.catalogue.lists
    assert fleet.found() == fleet.recorded


def test_files_are_private(open_history: Open, tmp_path: Path) -> None:
    fleet = open_history()
    an_hour(fleet)
    fleet.clock.advance(600)
    merge_all(fleet.history, fleet.clock)
    files = [path for path in (tmp_path / "history").rglob("*") if path.is_file()]
    assert len(files) > 4
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_the_tail_does_not_grow_without_bound(open_history: Open) -> None:
    fleet = open_history()
    names = [f"m{i}" for i in range(100)]
    sizes = []
    for _ in range(6):
        begin = fleet.clock.wall_ms() // HOUR_MS * HOUR_MS
        for number in range(120):
            fleet.commit(fleet.ticks("a", names, [begin + 30_000 * (number + 1)], base=number * 0.37))
            fleet.clock.advance(30)
        merge_all(fleet.history, fleet.clock)
        sizes.append(fleet.history._tail.path.stat().st_size)
    assert max(sizes[2:]) <= 2 * sizes[1]


def test_queries_see_everything_while_it_is_written_and_merged(open_history: Open) -> None:
    fleet = open_history()
    history, table = fleet.history, fleet.table
    ids = np.sort(np.concatenate([fleet.ids(host, NAMES) for host in "abc"]))
    committed = threading.Event()
    done = threading.Event()
    counts: list[int] = []
    wrong: list[str] = []

    def read() -> None:
        least = 0
        while not done.is_set():
            wanted = counts[-1] if counts else 0
            found = history.select(ids, 0, START * 2, 10**9)
            number = len(found.times)
            if number < max(wanted, least) or found.damaged:
                wrong.append(f"{number} of at least {max(wanted, least)}, {found.damaged}")
            least = number

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(600):
        batch = [fleet.ticks(host, NAMES, [START + 30_000 * (number + 1)]) for host in "abc"]
        history.commit(batch, [], [])
        counts.append((number + 1) * 9)
        committed.set()
        fleet.clock.advance(30)
        if number % 40 == 39:
            merge_all(history, fleet.clock)
        if number == 300:  # Late readings with another list.
            history.commit([fleet.ticks("a", ["load", "late"], [START + 5])], [], [])
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert len(history.select(ids, 0, START * 2, 10**9).times) == 600 * 9 + 1
    assert history.counters.blocks >= 9
    assert len(table) == 10


RUNS = itertools.count()
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(-4, 1)),  # A commit.
        st.sampled_from([1.0, 60.0, 400.0, 3600.0, 20_000.0]),  # A wait.
        st.sampled_from(["merge", "reopen", "retain"]),
    ),
    max_size=40,
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    print_blob=True,
)
@given(steps=STEPS)
def test_any_order_of_things_keeps_every_reading(
    open_history: Open, clock: ManualClock, steps: list[tuple[str, int, int] | float | str]
) -> None:
    clock.set_wall_ms(START)
    place = f"run-{next(RUNS)}"
    fleet = open_history(place=place)
    lists = [NAMES, NAMES[:2], [*NAMES, "extra"], ["other"]]
    for number, step in enumerate(steps):
        if isinstance(step, tuple):
            host, which, hours = step
            begin = clock.wall_ms() + hours * 1_800_000
            times = [begin + 1000 * i for i in range(1, 4)]
            fleet.commit(fleet.ticks(host, lists[which], times, base=number * 1e6), marks={host: number})
        elif isinstance(step, float):
            clock.advance(step)
        elif step == "merge":
            merge_all(fleet.history, clock)
        elif step == "retain":
            assert fleet.history.retain(clock.wall_ms()) == []
        else:
            fleet.history.close()
            again = open_history(place=place)
            again.recorded, again.marks = fleet.recorded, fleet.marks
            fleet = again
    assert fleet.found() == fleet.recorded
    assert {mark.agent_id: mark.seq for mark in fleet.history.marks()} == fleet.marks
    fleet.history.close()


def test_labels_in_the_tail_go_when_nothing_needs_them(
    open_history: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "TAIL_LISTS_IDLE_MAX", 10)
    fleet = open_history()
    for number in range(60):  # A host whose list changes all the time.
        fleet.commit(fleet.ticks("a", [*NAMES, f"c{number}"], [fleet.clock.wall_ms() + 1]))
        fleet.clock.advance(400)
        merge_all(fleet.history, fleet.clock)
    fleet.clock.advance(7200)
    merge_all(fleet.history, fleet.clock)
    for _ in range(3):
        fleet.commit(fleet.ticks("a", NAMES, [fleet.clock.wall_ms() + 1]))
        fleet.clock.advance(3700)
        fleet.history.retain(fleet.clock.wall_ms())
    count = "SELECT (SELECT count(*) FROM lists), (SELECT count(*) FROM sets)"
    lists, sets = fleet.history._tail.connection.execute(count).fetchone()
    assert lists <= 10
    assert sets <= 14
    assert fleet.found() == fleet.recorded
    fleet.history.close()
    assert open_history().found() == fleet.recorded


def test_a_second_process_is_refused_by_name(open_history: Open, tmp_path: Path, clock: ManualClock) -> None:
    open_history()
    from watchbill.errors import Refused

    with pytest.raises(Refused, match="process"):
        History.open(tmp_path / "history", SeriesTable(), clock)
