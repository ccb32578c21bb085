"""What every metric history has to do, wherever it keeps things. A new one is added to `KEEPERS`."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from watchbill.clock import ManualClock
from watchbill.protocol.frames import GapReason
from watchbill_collector.history import (
    GapRow,
    History,
    HistoryOptions,
    Mark,
    MetricHistory,
    Tier,
    TooManySamples,
)
from watchbill_collector.series import STALE, STALE_BITS, SeriesTable, Ticks

START = 1_700_000_000_000


def local(directory: Path, table: SeriesTable, clock: ManualClock) -> MetricHistory:
    return History.open(directory, table, clock, HistoryOptions(ballast_bytes=0, free_share_min=0.0))


KEEPERS: dict[str, Callable[[Path, SeriesTable, ManualClock], MetricHistory]] = {"local": local}


@pytest.fixture(params=KEEPERS)
def keeper(request: pytest.FixtureRequest) -> Callable[[Path, SeriesTable, ManualClock], MetricHistory]:
    return KEEPERS[request.param]


@pytest.fixture
def table() -> SeriesTable:
    return SeriesTable()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def history(
    keeper: Callable[[Path, SeriesTable, ManualClock], MetricHistory],
    tmp_path: Path,
    table: SeriesTable,
    clock: ManualClock,
) -> Iterator[MetricHistory]:
    opened = keeper(tmp_path / "history", table, clock)
    yield opened
    opened.close()


def ticks(table: SeriesTable, host: str, times: list[int], values: list[list[float]]) -> Ticks:
    source = table.source({"instance": host})
    keys = [table.key_for_source(source, f"m{i}", {}) for i in range(len(values[0]))]
    return Ticks(table.series(source, keys), np.array(times, np.int64), np.array(values, np.float64))


def test_what_was_committed_is_selected_open_on_the_left(history: MetricHistory, table: SeriesTable) -> None:
    given = ticks(table, "a", [START, START + 1000, START + 2000], [[1, 10], [2, 20], [3, 30]])
    history.commit([given], [], [])
    found = history.select(given.series, START, START + 2000, 100)
    assert found.offsets.tolist() == [0, 2, 4]
    assert found.times.tolist() == [START + 1000, START + 2000] * 2
    assert found.values.tolist() == [2.0, 3.0, 20.0, 30.0]
    assert len(history.select(given.series, START + 2000, START + 2000, 100).times) == 0
    assert len(history.select(given.series, START + 2000, START, 100).times) == 0


def test_series_are_answered_in_the_order_asked(history: MetricHistory, table: SeriesTable) -> None:
    given = ticks(table, "a", [START], [[1, 2, 3]])
    history.commit([given], [], [])
    found = history.select(given.series[[2, 0]], START - 1, START, 100)
    assert found.values.tolist() == [3.0, 1.0]


def test_series_without_readings_are_answered_empty(history: MetricHistory, table: SeriesTable) -> None:
    given = ticks(table, "a", [START], [[1, 2, 3]])
    found = history.select(given.series, 0, START * 2, 100)
    assert found.offsets.tolist() == [0, 0, 0, 0]
    assert history.select(np.zeros(0, np.uint32), 0, START * 2, 100).offsets.tolist() == [0]


def test_every_bit_of_a_value_is_kept(history: MetricHistory, table: SeriesTable) -> None:
    values = [float("nan"), float("inf"), -0.0, 5e-324, 0.1, float(STALE)]
    given = ticks(table, "a", [START], [values])
    history.commit([given], [], [])
    found = history.select(given.series, START - 1, START, 100)
    assert (found.values.view(np.uint64) == given.values[0].view(np.uint64)).all()
    assert found.values.view(np.uint64)[-1] == STALE_BITS


def test_the_first_reading_of_a_time_stays(history: MetricHistory, table: SeriesTable) -> None:
    first = ticks(table, "a", [START], [[1.0]])
    history.commit([first], [], [])
    history.commit([ticks(table, "a", [START, START + 5], [[7.0], [8.0]])], [], [])
    assert history.select(first.series, 0, START * 2, 100).values.tolist() == [1.0, 8.0]


def test_a_series_named_twice_counts_once(history: MetricHistory, table: SeriesTable) -> None:
    one = ticks(table, "a", [START], [[1.0, 2.0]])
    twice = Ticks(one.series[[0, 1, 0]], one.times_ms, np.array([[1.0, 2.0, 3.0]]))
    history.commit([twice], [], [])
    assert history.select(one.series, 0, START * 2, 100).values.tolist() == [1.0, 2.0]


def test_readings_out_of_order_are_answered_in_order(history: MetricHistory, table: SeriesTable) -> None:
    given = ticks(table, "a", [START + 3000], [[3.0]])
    history.commit([given], [], [])
    history.commit([ticks(table, "a", [START + 1000], [[1.0]])], [], [])
    assert history.select(given.series, 0, START * 2, 100).values.tolist() == [1.0, 3.0]


def test_lists_that_mix_sources_are_found_by_each_series(history: MetricHistory, table: SeriesTable) -> None:
    key = table.key("up", {})
    ids = np.concatenate([table.series(table.source({"instance": host}), [key]) for host in "abc"])
    own = np.array([table.series_of({"__name__": "ALERTS", "n": n}) for n in "xy"], np.uint32)
    mixed = np.concatenate([ids, own])
    history.commit([Ticks(mixed, np.array([START]), np.arange(5.0)[None])], [], [])
    assert history.select(ids[1:2], 0, START * 2, 9).values.tolist() == [1.0]
    assert history.select(own, 0, START * 2, 9).values.tolist() == [3.0, 4.0]


def test_too_many_samples_is_an_error_with_a_name(history: MetricHistory, table: SeriesTable) -> None:
    given = ticks(table, "a", list(range(START, START + 50)), [[1.0, 2.0]] * 50)
    history.commit([given], [], [])
    assert len(history.select(given.series, 0, START * 2, 100).times) == 100
    with pytest.raises(TooManySamples) as caught:
        history.select(given.series, 0, START * 2, 99)
    assert caught.value.samples_max == 99


def test_marks_are_the_last_committed(history: MetricHistory) -> None:
    first, last = Mark("agent", b"s" * 16, 2, 1, 5), Mark("agent", b"s" * 16, 2, 2**63 + 1, 2**64 - 1)
    other = Mark("agent", b"t" * 16, 1, 9, 0)
    history.commit([], [first, other], [])
    history.commit([], [last], [])
    assert sorted(history.marks(), key=lambda mark: mark.stream) == [other, last]


def test_gap_rows_come_back_newest_first(history: MetricHistory) -> None:
    rows = [
        GapRow(agent, b"s" * 16, 2, 2**63, 2**64 - 1, 7, 2100, START, START + 9, reason, START + 10)
        for agent, reason in (("a", GapReason.OVERFLOW), ("b", GapReason.RESTART), ("a", GapReason.CORRUPT))
    ]
    history.commit([], [], rows[:1])
    history.commit([], [], rows[1:])
    assert history.gaps() == rows[::-1]
    assert history.gaps("a") == [rows[2], rows[0]]
    assert history.gaps("a", limit=1) == [rows[2]]
    assert history.gaps("nobody") == []


def test_a_gap_of_the_crit_stream_that_comes_again_has_one_row(history: MetricHistory) -> None:
    def row(stream: int, last: int, recorded_ms: int) -> GapRow:
        return GapRow("a", b"s" * 16, stream, 1, last, last, 0, 0, 0, GapReason.COLLECTOR_REWIND, recorded_ms)

    history.commit([], [], [row(1, 5, START), row(2, 5, START)])
    history.commit([], [], [row(1, 5, START + 1), row(1, 7, START + 1), row(2, 5, START + 1)])
    assert [(gap.stream, gap.to_seq) for gap in history.gaps()] == [(2, 5), (1, 7), (2, 5), (1, 5)]


def test_everything_is_there_after_opening_again(
    keeper: Callable[[Path, SeriesTable, ManualClock], MetricHistory],
    tmp_path: Path,
    clock: ManualClock,
) -> None:
    table = SeriesTable()
    history = keeper(tmp_path / "again", table, clock)
    given = ticks(table, "a", [START, START + 1000], [[1.0, 2.0], [3.0, 4.0]])
    gap = GapRow("a", b"s" * 16, 2, 1, 2, 2, 0, 0, 0, GapReason.RESTART, START)
    history.commit([given], [Mark("a", b"s" * 16, 2, 2, 3)], [gap])
    history.close()
    table = SeriesTable()
    history = keeper(tmp_path / "again", table, clock)
    ids = table.select([])
    assert [table.labels(series) for series in ids.tolist()] == [
        {"__name__": "m0", "instance": "a"},
        {"__name__": "m1", "instance": "a"},
    ]
    assert history.select(ids, 0, START * 2, 100).values.tolist() == [1.0, 3.0, 2.0, 4.0]
    assert history.marks() == [Mark("a", b"s" * 16, 2, 2, 3)]
    assert history.gaps() == [gap]
    history.close()


def test_steps_hold_what_their_readings_say(history: MetricHistory, table: SeriesTable) -> None:
    begin = START - START % 60_000
    times = [begin + 1 + 10_000 * i for i in range(12)]
    given = ticks(table, "a", times, [[float(i)] for i in range(12)])
    history.commit([given], [], [])
    made = history.select_tier(given.series, begin, begin + 120_000, Tier.MINUTE, 100)
    assert made.times.tolist() == [begin + 60_000, begin + 120_000]
    assert made.minimum.tolist() == [0.0, 6.0]
    assert made.maximum.tolist() == [5.0, 11.0]
    assert made.total.tolist() == [15.0, 51.0]
    assert made.count.tolist() == [6.0, 6.0]
    assert made.last.tolist() == [5.0, 11.0]
    assert made.increase.tolist() == [5.0, 6.0]
    assert made.offsets.tolist() == [0, 2]
