"""How complete a host's data is: `watchbill_host_completeness_ratio`, the share of the last hour that committed
readings cover, at their own true time.

A reading covers the time since the one before it, at most REACH of the host's intervals: one that is missing leaves a
hole, one that is late does not. What a backlog brings later fills the time that it is from. Announced absences are not
covered either: what is not there is not there, whoever said so.

Time is kept in slots of half a second as the bits of one integer (1.4 kB). Readings that follow each other only make a
run longer, which becomes bits when it ends or is asked for, so that a message costs two comparisons.

The hour ends a little before now, by what a message of this host may take: with ten ticks a message the newest ten
intervals cannot be here yet, and are no hole. A host that came later than an hour ago counts from then.
"""

from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from watchbill_collector.ingest.liveness import stale_values
from watchbill_collector.series import SeriesIds, SeriesTable, Ticks

NAME: Final = "watchbill_host_completeness_ratio"
HELP: Final = "Share of the last hour that committed readings of this host cover, at their own time."

SLOT_MS: Final = 500
WINDOW_MS: Final = 3_600_000
REACH: Final = 1.5
"""Intervals that a reading covers at most, back from its time."""
INTERVAL_MS_MAX: Final = 3_600_000
"""Longer intervals count as this: what a host says of itself is not believed without end."""
ARRIVAL_MS: Final = 10_000
"""What a message may take to be committed."""
LAG_MS_MAX: Final = 1_800_000
"""How far before now the hour ends at most: ten ticks of a minute, and half as much again, twice."""

_WINDOW_SLOTS: Final = WINDOW_MS // SLOT_MS
_KEPT_SLOTS: Final = (WINDOW_MS + LAG_MS_MAX) // SLOT_MS
_SLOTS_MAX: Final = 2 * _KEPT_SLOTS
"""Slots beyond which the past is cut off while marking; the hour is cut every time it is read."""

Times = npt.NDArray[np.int64]


class Coverage:
    """One host: which slots are covered. Before `since` is known nothing is said."""

    __slots__ = (
        "_bits",
        "_interval_ms",
        "_lag_ms",
        "_origin",
        "_reach_ms",
        "_run_begin",
        "_run_end",
        "_told",
        "since_ms",
    )

    def __init__(self, now_ms: int, since_ms: int | None = None) -> None:
        """`since_ms` is from when the host counts; None: to be told by `fill`."""
        self.since_ms = since_ms
        self._origin = now_ms // SLOT_MS - _KEPT_SLOTS
        self._bits = 0
        self._run_begin = self._run_end = 0
        self._told = False
        self._interval_ms = self._reach_ms = self._lag_ms = 0
        self._expects(10_000, 1)

    def expects(self, interval_ms: int, ticks_per_message: int) -> None:
        """How often the host reads, and how many readings travel together, as it says itself."""
        self._told = True
        self._expects(interval_ms, ticks_per_message)

    def _expects(self, interval_ms: int, ticks_per_message: int) -> None:
        self._interval_ms = min(max(interval_ms, 1), INTERVAL_MS_MAX)
        self._reach_ms = round(REACH * self._interval_ms)
        self._lag_ms = min(self._reach_ms * max(ticks_per_message, 1) + ARRIVAL_MS, LAG_MS_MAX)

    def mark(self, times_ms: Times) -> None:
        """Readings of these times, ascending, were committed."""
        steps = len(times_ms) - 1
        first_ms = times_ms.item(0)
        last_ms = times_ms.item(steps)
        if not steps or last_ms - first_ms < (steps + 0.5) * self._interval_ms:
            self._mark(first_ms, last_ms)
        else:  # One is missing among them.
            for time_ms in times_ms.tolist():
                self._mark(time_ms, time_ms)

    def _mark(self, first_ms: int, last_ms: int) -> None:
        begin = -((self._reach_ms - first_ms) // SLOT_MS)
        end = last_ms // SLOT_MS + 1
        if self._run_begin <= begin <= self._run_end:
            if end > self._run_end:
                self._run_end = end
        else:
            self._write()
            self._run_begin, self._run_end = begin, end

    def _write(self) -> None:
        """The run becomes bits."""
        begin, end = max(self._run_begin, self._origin), self._run_end
        if end <= begin:
            return
        if end - self._origin > _SLOTS_MAX:
            self._cut(end - _KEPT_SLOTS)
            begin = max(begin, self._origin)
        self._bits |= ((1 << (end - begin)) - 1) << (begin - self._origin)

    def _cut(self, origin: int) -> None:
        if origin > self._origin:
            self._bits >>= origin - self._origin
            self._origin = origin

    def fill(self, times_ms: Times, since_ms: int) -> None:
        """What history has of the time before this process, ascending, and from when the host counts."""
        self.since_ms = since_ms
        if not self._told and len(times_ms) > 1:
            self._expects(int(np.median(np.diff(times_ms))), 1)
        origin, bits = covered(times_ms, self._reach_ms)
        if origin < self._origin:
            bits >>= self._origin - origin
            origin = self._origin
        self._bits |= bits << (origin - self._origin)

    def ratio(self, now_ms: int) -> float | None:
        """The share of the hour; None while it is too early to say."""
        end = (now_ms - self._lag_ms) // SLOT_MS
        self._write()
        self._cut(now_ms // SLOT_MS - _KEPT_SLOTS)
        if self.since_ms is None:
            return None
        begin = max(end - _WINDOW_SLOTS, -(-self.since_ms // SLOT_MS), self._origin)
        if begin >= end:
            return None
        hour = (self._bits >> (begin - self._origin)) & ((1 << (end - begin)) - 1)
        return hour.bit_count() / (end - begin)


def covered(times_ms: Times, reach_ms: int) -> tuple[int, int]:
    """Many readings at once: the slot of the lowest bit, and the bits."""
    if not len(times_ms):
        return 0, 0
    begins = -((reach_ms - times_ms) // SLOT_MS)
    ends = times_ms // SLOT_MS + 1
    origin = int(begins[0])
    edges = np.zeros(int(ends[-1]) - origin + 1, np.int32)
    np.add.at(edges, begins - origin, 1)
    np.add.at(edges, ends - origin, -1)
    bits = np.packbits(np.cumsum(edges[:-1]) > 0, bitorder="little")
    return origin, int.from_bytes(bits.tobytes(), "little")


class Completeness:
    """Says all hosts' ratios, in one array; a host of which nothing is said any more gets a stale marker."""

    def __init__(self, table: SeriesTable, emit: Callable[[list[Ticks]], None]) -> None:
        self._table = table
        self._emit = emit
        self._of_up: dict[int, int] = {}
        self._said: SeriesIds = np.zeros(0, np.uint32)
        table.describe(NAME, "gauge", HELP)

    def say(self, now_ms: int, hosts: Iterable[tuple[int, Coverage]]) -> None:
        """The hosts by the number of their `up`, of those for which there is one."""
        ratios = {up: ratio for up, coverage in hosts if (ratio := coverage.ratio(now_ms)) is not None}
        self._of_up = {up: self._of_up.get(up) or self._series(up) for up in ratios}
        series = np.fromiter(self._of_up.values(), np.uint32, len(ratios))
        ended = np.setdiff1d(self._said, series)
        if not np.array_equal(series, self._said):
            self._said = series
        times = np.array([now_ms], np.int64)
        if len(ended):
            self._emit([Ticks(ended, times, stale_values(len(ended)))])
        if len(series):
            self._emit([Ticks(self._said, times, np.array([list(ratios.values())]))])

    def _series(self, up: int) -> int:
        source = int(self._table.sources_of(np.array([up], np.uint32))[0])
        return int(self._table.series(source, [self._table.key(NAME, {})])[0])
