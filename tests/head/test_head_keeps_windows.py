"""What the head keeps, refuses, gives up and gets back."""

import threading
from collections.abc import Sequence

import numpy as np
import pytest

from watchbill.errors import StorageError
from watchbill_collector.head import Head, Watch, fleet, refill
from watchbill_collector.head import head as module
from watchbill_collector.head.hearing import Hearing
from watchbill_collector.promql.budget import Budget
from watchbill_collector.promql.storage import Hints
from watchbill_collector.rules.head_storage import HeadStorage
from watchbill_collector.series import STALE, Matcher, MatchOp, SeriesIds, SeriesTable, Ticks

T0 = 1_700_000_000_000


def _named(name: str) -> tuple[Matcher, ...]:
    return (Matcher("__name__", MatchOp.EQUAL, name),)


LATEST, RANGED = _named("latest"), _named("ranged")
WATCHES = (Watch(LATEST, 0), Watch(RANGED, 300_000))


class Sender:
    """One host with a dictionary."""

    def __init__(
        self, table: SeriesTable, instance: str = "a", names: Sequence[str] = ("latest", "ranged", "unread")
    ) -> None:
        self.ids = table.series(table.source({"instance": instance}), [table.key(name, {}) for name in names])

    def ticks(self, times: Sequence[int], values: Sequence[float]) -> Ticks:
        matrix = np.repeat(np.array(values, np.float64)[:, None], len(self.ids), axis=1)
        return Ticks(self.ids, T0 + np.array(times) * 1000, matrix)


def _window(head: Head, now_s: int, range_s: int = 300) -> list[tuple[int, float]]:
    found = HeadStorage(head).select(RANGED, 0, 0, Budget(), Hints())
    spans = found.windows(np.array([T0 + now_s * 1000]), range_s * 1000).spans()
    lo, hi = int(spans.lo[0, 0]), int(spans.hi[0, 0])
    return [
        (int(time - T0) // 1000, float(value))
        for time, value in zip(spans.times[lo:hi], spans.values[lo:hi], strict=True)
    ]


def _latest(head: Head, now_s: int) -> list[float]:
    newest = head.select(LATEST).newest(T0 + now_s * 1000, 300_000)
    return newest.values[newest.present].tolist()


def _head() -> tuple[SeriesTable, Head, Sender]:
    table = SeriesTable()
    return table, Head(table, WATCHES), Sender(table)


def test_only_what_rules_read_is_kept() -> None:
    _, head, sender = _head()
    head.append([sender.ticks([0, 15], [1, 2])])
    head.fold(T0 + 15_000)
    assert head.series_kept == 2
    assert _latest(head, 15) == [2]
    assert _window(head, 15) == [(0, 1), (15, 2)]


def test_ticks_out_of_order_are_refused_and_counted() -> None:
    _, head, sender = _head()
    head.append([sender.ticks([0, 30], [1, 3]), sender.ticks([15], [2]), sender.ticks([20, 45], [9, 4])])
    head.fold(T0 + 60_000)
    assert _window(head, 60) == [(0, 1), (30, 3), (45, 4)]
    assert head.stats.refused_late == 2


def test_ticks_from_the_future_are_refused_and_counted() -> None:
    _, head, sender = _head()
    head.append([sender.ticks([0], [1]), sender.ticks([3600], [2]), sender.ticks([15], [3])])
    head.fold(T0 + 15_000)
    assert _window(head, 15) == [(0, 1), (15, 3)]
    assert head.stats.refused_future == 1


def test_ten_ticks_fill_what_lay_between_beats() -> None:
    table, head, sender = _head()
    beat = Sender(table, "a", ("ranged", "latest"))
    for start in range(0, 40, 10):
        head.append([beat.ticks([start + 9], [start + 9])])
        head.fold(T0 + (start + 9) * 1000)
        head.append([sender.ticks(range(start, start + 10), range(start, start + 10))])
        head.fold(T0 + (start + 10) * 1000)
    assert _window(head, 40) == [(second, second) for second in range(40)]
    assert head.stats.refused_late == 0


def test_many_messages_of_each_clock_in_one_fold_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROUNDS_MAX", 3)
    monkeypatch.setattr(fleet, "TOGETHER_VALUES", 4)
    table, head, sender = _head()
    other = Sender(table, "b")
    head.append([sender.ticks([0], [0]), other.ticks([0], [0])])
    head.fold(T0)
    for second in range(1, 25, 4):
        head.append(
            [one.ticks(range(second, second + 4), range(second, second + 4)) for one in (sender, other)]
        )
    head.append([sender.ticks([25], [25])])
    head.fold(T0 + 26_000)
    assert _window(head, 26) == [(at, at) for at in range(26)]
    assert sorted(_latest(head, 26)) == [24, 25]
    assert head.stats.refused_late == 0


def test_a_beat_alone_carries_the_windows_while_batches_are_late() -> None:
    table, head, sender = _head()
    beat = Sender(table, "a", ("ranged", "latest"))
    head.append([sender.ticks([0], [0])])
    head.append([beat.ticks([second], [second]) for second in range(10, 60, 10)])
    head.append([sender.ticks([5, 15, 25], [5, 15, 25])])
    head.fold(T0 + 60_000)
    assert _window(head, 60) == [(second, second) for second in range(0, 60, 10)]
    assert head.stats.refused_late == 3


def test_a_beat_over_two_clocks_feeds_both() -> None:
    table = SeriesTable()
    head = Head(table, WATCHES)
    fast, slow = Sender(table, "a", ("ranged",)), Sender(table, "a", ("latest",))
    beat = Sender(table, "a", ("latest", "ranged"))
    head.append([fast.ticks([0, 15], [1, 2]), slow.ticks([7], [5]), beat.ticks([30], [3])])
    head.fold(T0 + 30_000)
    assert _window(head, 30) == [(0, 1), (15, 2), (30, 3)]
    assert _latest(head, 30) == [3]
    assert _latest(head, 29) == [5]


def test_a_fast_sender_gets_deeper_rings_before_anything_is_lost() -> None:
    _, head, sender = _head()
    for second in range(700):
        head.append([sender.ticks([second], [second])])
        head.fold(T0 + second * 1000)
        assert len(_window(head, second)) == min(300, second + 1)
    assert head.stats.deepened == 2
    assert head.stats.windows_cut == 0


def test_rings_are_not_deepened_beyond_their_bound() -> None:
    table = SeriesTable()
    head = Head(table, WATCHES, bytes_max=13_000)
    sender = Sender(table)
    for second in range(400):
        head.append([sender.ticks([second], [second])])
        head.fold(T0 + second * 1000)
    assert head.stats.windows_cut > 0
    assert head.bytes_used < 13_000
    assert _latest(head, 399) == [399]


def test_a_stale_marker_ends_a_series_and_a_sample_begins_it_again() -> None:
    _, head, sender = _head()
    head.append([sender.ticks([0], [1]), sender.ticks([15], [float(STALE)])])
    values = np.full((1, 3), STALE)
    head.append([Ticks(sender.ids, np.array([T0 + 30_000]), values)])
    head.fold(T0 + 30_000)
    assert _latest(head, 30) == []
    head.append([sender.ticks([45], [4])])
    head.fold(T0 + 45_000)
    assert _latest(head, 45) == [4]
    head.end(sender.ids, T0 + 46_000)
    head.fold(T0 + 60_000)
    assert _latest(head, 45) == [4]
    assert _latest(head, 60) == []
    assert _window(head, 60)[-1] == (45, 4)


def test_what_nobody_can_reach_any_more_is_freed() -> None:
    table, head, sender = _head()
    other = Sender(table, "b")
    head.append([sender.ticks([0], [1]), other.ticks([0], [1])])
    head.fold(T0)
    for second in range(15, 1500, 15):
        head.append([other.ticks([second], [second])])
        head.fold(T0 + second * 1000)
    assert head.series_kept == 2
    assert head.stats.expired_series == 2
    head.append([sender.ticks([1500], [7])])
    head.fold(T0 + 1_500_000)
    assert sorted(_latest(head, 1500)) == [7, 1485]


def test_churn_leaves_nothing_behind() -> None:
    table = SeriesTable()
    head = Head(table, WATCHES)
    used = []
    for round_number in range(60):
        keys = [
            table.key("latest", {}),
            table.key("ranged", {}),
            table.key("ranged", {"veth": str(round_number)}),
        ]
        ids = table.series(table.source({"instance": "a"}), keys)
        for step in range(8):
            second = (round_number * 8 + step) * 15
            head.append([Ticks(ids, np.array([T0 + second * 1000]), np.full((1, 3), float(second)))])
            head.fold(T0 + second * 1000)
        head.end(ids[2:], T0 + second * 1000 + 15_000)
        used.append(head.bytes_used - 10 * len(head.rings.pool_of))
    assert max(used[30:]) <= 1.5 * used[20]
    assert len(head.rings.bindings) <= 4
    newest = head.select(RANGED).newest(T0 + second * 1000, 300_000)
    assert int(newest.present.sum()) == 2, "the stable series and the newest: those that vanished have ended"


def test_forged_holes_are_plain_not_a_number() -> None:
    _, head, sender = _head()
    values = np.full((1, 3), np.array([0x7FF0000000000003], np.uint64).view(np.float64)[0])
    head.append([Ticks(sender.ids, np.array([T0]), values)])
    head.fold(T0)
    newest = head.select(LATEST).newest(T0, 300_000)
    assert newest.present.all()
    assert np.isnan(newest.values).all()


def test_messages_that_nobody_folds_are_dropped_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STAGED_BYTES_MAX", 24 * 10)
    _, head, sender = _head()
    for second in range(0, 300, 15):
        head.append([sender.ticks([second], [second])])
    assert head.stats.dropped_staged == 10
    head.fold(T0 + 300_000)
    assert _window(head, 300)[0] == (150, 150)


class Book:
    """A history in lists."""

    def __init__(self, table: SeriesTable) -> None:
        self.table = table
        self.kept: dict[int, list[tuple[int, float]]] = {}
        self.broken = False

    def keep(self, ticks: Ticks) -> None:
        for column, series in enumerate(ticks.series.tolist()):
            pairs = zip(ticks.times_ms.tolist(), ticks.values[:, column].tolist(), strict=True)
            self.kept.setdefault(series, []).extend(pairs)

    def know(self, start_ms: int, end_ms: int) -> None:
        if self.broken:
            raise StorageError("the disk is gone")

    def select(self, ids: SeriesIds, start_ms: int, end_ms: int, samples_max: int) -> "Book.Found":
        rows = [
            [pair for pair in self.kept.get(series, []) if start_ms < pair[0] <= end_ms]
            for series in ids.tolist()
        ]
        return Book.Found(rows)

    class Found:
        def __init__(self, rows: list[list[tuple[int, float]]]) -> None:
            flat = [pair for row in rows for pair in row]
            self.times = np.array([time for time, _ in flat], np.int64)
            self.values = np.array([value for _, value in flat])
            self.offsets = np.cumsum([0, *map(len, rows)])


def test_after_a_restart_the_windows_come_back_from_history() -> None:
    table = SeriesTable()
    book = Book(table)
    sender, other = Sender(table), Sender(table, "b", ("ranged", "latest"))
    for second in range(0, 600, 15):
        book.keep(sender.ticks([second], [second]))
        if second % 45 == 0:
            book.keep(Ticks(other.ids[:1], np.array([T0 + second * 1000]), np.array([[1.0]])))
        book.keep(Ticks(other.ids[1:], np.array([T0 + second * 1000]), np.array([[2.0]])))
    head = Head(table, WATCHES)
    head.append([sender.ticks([600], [600])])
    filled = refill(head, book, T0 + 599_000)
    assert filled.series == 4
    assert filled.newest_ms == T0 + 585_000
    head.fold(T0 + 600_000)
    rows = HeadStorage(head).select(RANGED, 0, 0, Budget(), Hints())
    counts = rows.windows(np.array([T0 + 600_000]), 300_000).count()[:, 0].tolist()
    assert counts == [20, 7]
    assert _window(head, 600) == [(second, second) for second in range(315, 601, 15)]
    assert sorted(_latest(head, 600)) == [2, 600]
    head.append([other.ticks([615], [3])])
    head.fold(T0 + 615_000)
    assert sorted(_latest(head, 615)) == [3, 600]


def test_history_that_is_longer_than_a_ring_makes_no_gap_in_what_was_heard() -> None:
    table = SeriesTable()
    book, sender = Book(table), Sender(table)
    for second in range(0, 300, 10):
        book.keep(sender.ticks([second], [second]))
    head = Head(table, [Watch(RANGED, 20_000)])
    refill(head, book, T0 + 299_000)
    hearing = Hearing(head)
    hearing.look(T0 + 299_000, anew=True)
    for second in (310, 320, 330):
        head.append([sender.ticks([second], [second])])
        head.fold(T0 + second * 1000)
        hearing.look(T0 + second * 1000)
    (heard,) = hearing.all()
    assert heard.gaps == ()
    assert heard.missing_ms(T0 + 330_000, 20_000) == 0
    assert _window(head, 330, 60) == [(second, second) for second in (280, 290, 310, 320, 330)]


def test_new_rules_get_the_windows_of_what_was_not_kept() -> None:
    table, head, sender = _head()
    book = Book(table)
    for second in range(0, 900, 15):
        book.keep(sender.ticks([second], [second]))
        head.append([sender.ticks([second], [second])])
        head.fold(T0 + second * 1000)
    head.watch([Watch(RANGED, 600_000), Watch(_named("unread"), 60_000)])
    assert head.series_kept == 1
    refill(head, book, T0 + 885_000)
    head.append([sender.ticks([900], [900])])
    head.fold(T0 + 900_000)
    assert [time for time, _ in _window(head, 900, 600)] == list(range(315, 901, 15))
    assert head.select(_named("unread")).newest(T0 + 900_000, 300_000).values.tolist() == [900]


def test_rules_that_look_less_far_keep_what_is_there() -> None:
    _, head, sender = _head()
    for second in range(0, 300, 15):
        head.append([sender.ticks([second], [second])])
    head.fold(T0 + 300_000)
    head.watch([Watch(RANGED, 120_000), Watch(LATEST, 0)])
    assert _window(head, 300, 120)[0] == (195, 195)
    assert head.lacking() == []


def test_a_history_that_cannot_be_read_is_said() -> None:
    table, head, sender = _head()
    book = Book(table)
    book.broken = True
    filled = refill(head, book, T0)
    assert filled.failed == "the disk is gone"
    head.append([sender.ticks([0], [1])])
    head.fold(T0)
    assert _latest(head, 0) == [1]


def test_two_threads_that_fold_at_a_time_refuse_nothing_as_late() -> None:
    _, head, sender = _head()
    head.append([sender.ticks([1], [1.0])])
    other = threading.Thread(target=head.fold, args=(T0 + 2_000,))
    with head.lock:
        other.start()
        # Time enough to come as far as it can: what it has taken by now it would write after what follows.
        other.join(0.1)
        head.append([sender.ticks([2], [2.0])])
        head.fold(T0 + 2_000)
    other.join()
    assert _window(head, 2) == [(1, 1.0), (2, 2.0)]
    assert head.stats.refused_late == 0
