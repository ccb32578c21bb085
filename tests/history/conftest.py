"""A small fleet whose readings are known, to put into a history and to look for there."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from watchbill.clock import ManualClock
from watchbill_collector.history import History, HistoryOptions, Mark, MetricHistory
from watchbill_collector.series import SeriesIds, SeriesTable, Ticks

HOUR_MS = 3_600_000
START_MS = 472_207 * HOUR_MS  # 07:00 of 14 November 2023.
EVERYTHING = (0, START_MS * 2, 10**9)


@dataclass
class Fleet:
    """Hosts that report, and a plain record of what they reported: (labels, time) -> value, first one
    wins.
    """

    table: SeriesTable
    history: MetricHistory
    clock: ManualClock
    recorded: dict[tuple[tuple[tuple[str, str], ...], int], float] = field(default_factory=dict)
    marks: dict[str, int] = field(default_factory=dict)

    def ids(self, host: str, names: list[str]) -> SeriesIds:
        """Series of a host."""
        source = self.table.source({"instance": host, "job": "node"})
        return self.table.series(source, [self.table.key_for_source(source, name, {}) for name in names])

    def ticks(self, host: str, names: list[str], times: list[int], base: float = 0.0) -> Ticks:
        """Readings that can be told apart; not recorded yet."""
        ids = self.ids(host, names)
        values = np.array([[base + t % 100_000 + 0.5 * i for i in range(len(names))] for t in times])
        return Ticks(ids, np.array(times, np.int64), values.reshape(len(times), len(names)))

    def record(self, ticks: Ticks) -> None:
        """Remember readings as stored."""
        for column, labels in enumerate(self.table.frame(ticks.series).dicts()):
            key = tuple(sorted(labels.items()))
            for row, time in enumerate(ticks.times_ms.tolist()):
                self.recorded.setdefault((key, time), float(ticks.values[row, column]))

    def commit(self, *all_ticks: Ticks, marks: dict[str, int] | None = None) -> None:
        """Commit and remember."""
        self.history.commit(list(all_ticks), [mark(agent, seq) for agent, seq in (marks or {}).items()], [])
        for ticks in all_ticks:
            self.record(ticks)
        self.marks.update(marks or {})

    def found(self) -> dict[tuple[tuple[tuple[str, str], ...], int], float]:
        """Everything that the history has."""
        return everything(self.history, self.table)


def mark(agent: str, seq: int) -> Mark:
    """A watermark whose digest follows from its number."""
    return Mark(agent, b"spool-of-16-byte", 2, seq, (2**64 - 1) ^ seq)


def everything(
    history: MetricHistory, table: SeriesTable
) -> dict[tuple[tuple[tuple[str, str], ...], int], float]:
    """All readings, by labels and time; no reading may come twice."""
    history.know(*EVERYTHING[:2])
    ids = table.select([])
    samples = history.select(ids, *EVERYTHING)
    assert not samples.damaged
    found: dict[tuple[tuple[tuple[str, str], ...], int], float] = {}
    offsets = samples.offsets.tolist()
    for labels, begin, end in zip(table.frame(ids).dicts(), offsets, offsets[1:], strict=False):
        key = tuple(sorted(labels.items()))
        for time, value in zip(
            samples.times[begin:end].tolist(), samples.values[begin:end].tolist(), strict=True
        ):
            assert (key, time) not in found
            found[key, time] = value
    return found


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(wall_ms=START_MS, boottime_ms=10_000_000)


@pytest.fixture
def options() -> HistoryOptions:
    return HistoryOptions(ballast_bytes=0, free_share_min=0.0)


@pytest.fixture
def open_history(
    tmp_path: Path, clock: ManualClock, options: HistoryOptions
) -> Iterator[Callable[..., Fleet]]:
    """Open the same directory again and again; whatever is open at the end is closed."""
    opened: list[History] = []

    def again(changed: HistoryOptions | None = None, place: str = "history") -> Fleet:
        table = SeriesTable()
        history = History.open(tmp_path / place, table, clock, changed or options)
        opened.append(history)
        return Fleet(table, history, clock)

    yield again
    for history in opened:
        history.close()
