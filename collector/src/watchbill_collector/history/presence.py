"""Which series have readings in a time range, roughly: for lists of labels and series, which Prometheus too bounds
by its blocks and not by samples.

The answer errs on the side of naming a series: what is merged counts by the hour, in coarser tiers by the day,
and what waits to be merged by the mini-block.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from watchbill_collector.history.catalogue import Catalogue
from watchbill_collector.history.database import storing
from watchbill_collector.history.days import DayFile, Days, day_of, hour_of
from watchbill_collector.history.lists import MIXED
from watchbill_collector.history.values import DAY_MS, TIME_MS_MAX
from watchbill_collector.history.waiting import Waiting
from watchbill_collector.series import SeriesIds, SeriesTable

Present = npt.NDArray[np.bool_]
"""By series number."""


def present(
    table: SeriesTable,
    by_hour: Iterable[Days],
    by_day: Days,
    begins_ms: int,
    waiting: tuple[Waiting, Catalogue],
    start_ms: int,
    end_ms: int,
) -> Present:
    """The series with readings in (start, end]. `by_hour` has blocks of an hour and begins at `begins_ms`; what is
    older is looked for in `by_day`, which has longer ones.
    """
    first = hour_of(min(max(start_ms + 1, 1), TIME_MS_MAX))
    last = hour_of(min(max(end_ms, 1), TIME_MS_MAX))
    found: list[SeriesIds] = []
    for days in by_hour:
        for file in days.files(day_of(first), day_of(last)):
            lists = file.catalogue.lists.copy()
            found += [lists[number].ids for number in _lists(file, first, last) if number in lists]
    for file in by_day.files(day_of(first), min(day_of(last), begins_ms // DAY_MS - 1)):
        found += [each.ids for each in list(file.catalogue.lists.values())]
    found += _waiting(table, *waiting, (first, last), (start_ms, end_ms))
    answer = np.zeros(len(table), np.bool_)  # Last: whatever was found is in the table by now.
    for ids in found:
        answer[ids] = True
    return answer


def _lists(file: DayFile, first: int, last: int) -> list[int]:
    """The lists that have blocks in some hours."""
    query = "SELECT DISTINCT list FROM blocks WHERE hour BETWEEN ? AND ?"
    with storing(str(file.path)), file.readers.connection() as connection:
        if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            return []  # Whoever made it was killed before it said anything.
        return [number for (number,) in connection.execute(query, (first, last))]


def _waiting(
    table: SeriesTable,
    waiting: Waiting,
    catalogue: Catalogue,
    hours: tuple[int, int],
    span_ms: tuple[int, int],
) -> list[SeriesIds]:
    """What is not merged yet."""
    everybody = np.arange(len(table), dtype=np.uint32)
    owners = {*np.unique(table.sources_of(everybody)).tolist(), MIXED}
    pieces, minis = waiting.snapshot(owners, *hours)
    start_ms, end_ms = span_ms
    found = [piece.ids for piece in pieces if piece.times[0] <= end_ms and piece.times[-1] > start_ms]
    lists = catalogue.lists.copy()
    numbers = {row.list_id for row in minis if row.first_ms <= end_ms and row.last_ms > start_ms}
    return found + [lists[number].ids for number in numbers if number in lists]
