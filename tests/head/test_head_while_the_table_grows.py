"""Sessions give the table new series at any moment, also between a fold and a reading."""

from collections.abc import Sequence

import numpy as np

from watchbill_collector.head import Head, Watch
from watchbill_collector.series import Matcher, MatchOp, SeriesIds, SeriesTable, Ticks

T0 = 1_700_000_000_000
HOSTS = 2_000
"""More than the head makes room for ahead."""
LOAD = (Matcher("__name__", MatchOp.EQUAL, "load"),)


class GrowingTable(SeriesTable):
    """A table that another thread adds to just before it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.upcoming = 0

    def select(self, matchers: Sequence[Matcher]) -> SeriesIds:
        for number in range(self.upcoming):
            self.series(self.source({"instance": f"new-{number}"}), [self.key("load", {})])
        self.upcoming = 0
        return super().select(matchers)


def _table() -> tuple[GrowingTable, Ticks]:
    table = GrowingTable()
    ids = table.series(table.source({"instance": "first"}), [table.key("load", {})])
    return table, Ticks(ids, np.array([T0], np.int64), np.array([[0.5]]))


def _values(head: Head) -> list[float]:
    newest = head.select(LOAD).newest(T0 + 1_000, 300_000)
    return newest.values[newest.present].tolist()


def test_a_reading_is_not_disturbed_by_series_that_came_after_the_fold() -> None:
    table, tick = _table()
    head = Head(table, [Watch(LOAD, 0)])
    head.append([tick])
    head.fold(T0 + 1_000)
    table.upcoming = HOSTS
    assert _values(head) == [0.5]
    assert len(head.select(LOAD)) == HOSTS + 1


def test_a_fold_is_not_disturbed_by_series_that_come_meanwhile() -> None:
    table, tick = _table()
    table.upcoming = HOSTS
    head = Head(table, [Watch(LOAD, 0)])
    head.append([tick])
    head.fold(T0 + 1_000)
    assert _values(head) == [0.5]
    late = table.series(table.source({"instance": "new-1999"}), [table.key("load", {})])
    head.append([Ticks(late, np.array([T0 + 500], np.int64), np.array([[1.5]]))])
    head.fold(T0 + 1_000)
    assert sorted(_values(head)) == [0.5, 1.5]
