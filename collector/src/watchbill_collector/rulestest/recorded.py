"""What rules make, put where the rules after them look."""

from collections.abc import Sequence

from watchbill_collector.promql.memory import MemoryStorage
from watchbill_collector.series import SeriesTable, Ticks, is_stale


def keep(made: Sequence[Ticks], table: SeriesTable, storage: MemoryStorage) -> None:
    """Add the samples that a rule made, and the ends of series, to a storage."""
    for ticks in made:
        stale = is_stale(ticks.values)
        for column, series in enumerate(ticks.series.tolist()):
            labels = table.labels(series)
            for row, time_ms in enumerate(ticks.times_ms.tolist()):
                if stale[row, column]:
                    storage.add_stale(labels, time_ms)
                else:
                    storage.add(labels, [(time_ms, float(ticks.values[row, column]))])
