"""Where the kept series are: their rows in pools, their clocks, and where the values of each dictionary go.

A series that rules read has a row in a pool as deep as its longest window needs at the pace that it comes in. Rings
that turn out too short, because a sender comes faster than was thought, are moved to deeper pools before anything is
lost. A changed dictionary goes on with the rows of the series that it shares with the one before.

All of it is for `Head`, under its lock.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from watchbill_collector.head.clock import BINDINGS_PER_CLOCK_MAX, Binding, Clock, Part, Piece, Share
from watchbill_collector.head.fleet import Layout
from watchbill_collector.head.pool import Ints, Pool, depth_for
from watchbill_collector.series import SeriesIds

LOOKBACK_MS = 300_000
"""How long a sample stands for its series, as in Prometheus."""
SLACK_MS = 15_000
"""How much further back than a window rings reach: data may be a little newer than the time that is judged."""
INTERVAL_MS_GUESS = 15_000
"""The pace that a clock is thought to have before it has ticked twice."""
# fmt: off
DEPTHS = (
    8, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024, 1280, 1536,
    2048, 2560, 3072, 3840, 5120, 6144, 8192, 10240, 12288, 16384, 22528,
)
# fmt: on
"""Slots that rings come in. The last holds 6 h at 1 s."""
IGNORED_MAX = 65_536
"""Dictionaries without any kept series that are remembered as such."""
NOT_KEPT = -1
"""The need of a series that no window wants."""


@dataclass(slots=True)
class HeadStats:
    """Counters since the start, for the collector's own metrics."""

    ticks: int = 0
    refused_late: int = 0
    refused_future: int = 0
    dropped_staged: int = 0
    rewound: int = 0
    deepened: int = 0
    windows_cut: int = 0
    expired_series: int = 0


class Rings:
    """See the module. `need`, `pool_of` and `row_of` are by series: how far back it is wanted in ms, the number of its
    pool in `pools`, and its row there; below 0 where there is none."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.stats = HeadStats()
        self.need: Ints = np.empty(0, np.int64)
        self.pool_of: npt.NDArray[np.int16] = np.empty(0, np.int16)
        self.row_of: Ints = np.empty(0, np.int64)
        self.pools: list[Pool] = []
        self.bindings: dict[int, Binding] = {}
        self.version = 0
        """Grows whenever rows come, go or move."""
        self._by_depth: dict[int, Pool] = {}
        self._clock_of: dict[tuple[int, int], Clock] = {}
        self._ignored: deque[int] = deque()
        self._layout: Layout | None = None

    def reach(self, series: int) -> None:
        """Room for so many series."""
        if series > len(self.need):
            size = max(1024, series + series // 4)
            self.need = extended(self.need, size, NOT_KEPT)
            self.pool_of = extended(self.pool_of, size, -1)
            self.row_of = extended(self.row_of, size, -1)

    def bind(self, series: SeriesIds, kept: Ints, interval_ms: int | None) -> Binding:
        """Say where the values of a dictionary go, of which `kept` are wanted; `interval_ms` is its pace, if known."""
        wanted = series[kept]
        clocks = self.clocks_of(wanted)
        clock = clocks[0] if clocks else Clock()
        self._give_rows(clock, wanted, interval_ms or clock.interval_ms() or INTERVAL_MS_GUESS)
        binding = Binding(series, kept, [Share(each, len(series)) for each in clocks or [clock]])
        self.bindings[id(series)] = binding
        for share in binding.shares:
            if len(share.clock.bindings) == BINDINGS_PER_CLOCK_MAX:
                self.forget(share.clock.bindings[0])
            share.clock.bindings.append(binding)
        # Only the first clock can have got new rows.
        for each in clock.bindings:
            self._refresh(each)
        return binding

    def forget(self, binding: Binding) -> None:
        """The next message with this dictionary is bound anew."""
        self._layout = None
        binding.number = -1
        self.bindings.pop(id(binding.series), None)
        for share in binding.shares:
            if binding in share.clock.bindings:
                share.clock.bindings.remove(binding)

    def ignore(self, binding: Binding) -> None:
        """Remember a dictionary of which nothing is kept."""
        self.bindings[id(binding.series)] = binding
        self._ignored.append(id(binding.series))
        if len(self._ignored) > IGNORED_MAX:
            del self.bindings[self._ignored.popleft()]

    def needs_changed(self) -> None:
        """Free what no window needs any more; every dictionary is bound anew."""
        for clock in self.clocks():
            for part in list(clock.parts):
                needs = self.need[part.pool.series[part.rows]]
                self.need_of(part, int(needs.max(initial=0)))
                self.free(clock, part, needs < 0)
        for binding in list(self.bindings.values()):
            self.forget(binding)
        self._ignored.clear()

    def drop(self, series: SeriesIds) -> None:
        """Free the rows of some series: they are filled anew."""
        for clock in self.clocks_of(series):
            for part in list(clock.parts):
                self.free(clock, part, np.isin(part.pool.series[part.rows], series))
            for binding in list(clock.bindings):
                self.forget(binding)

    def deepen(self, part: Part) -> None:
        """Move rows to rings that hold their windows at the pace that the clock really has.

        Each goes as deep as its own window wants: at a pace that was guessed, windows of different lengths may have
        come to share a ring.
        """
        pool = part.pool
        clock = self._clock_of[pool.depth, part.column]
        numbers, times = pool.ticks_of(part.column)
        first, first_ms = (int(numbers[0]), int(times[0])) if len(numbers) else (0, clock.first_ms)
        interval = max(1, (clock.last_ms - first_ms) // max(1, clock.count - 1 - first))
        next_depth = next((depth for depth in DEPTHS if depth > pool.depth), pool.depth)
        needs = np.unique(self.need[pool.series[part.rows]]).tolist()
        for need in reversed(needs):
            deeper = depth_for(need + SLACK_MS, interval, DEPTHS)
            if deeper <= pool.depth:
                if need != needs[-1]:
                    break
                deeper = next_depth
            which = self.need[pool.series[part.rows]] == need
            if deeper == pool.depth or self.bytes_used + 8 * deeper * int(which.sum()) > self.bytes_max:
                self.stats.windows_cut += 1
                return
            self._move(clock, part, which, self._pool(deeper), need)
        if len(part.rows):
            part.need_ms = int(self.need[pool.series[part.rows]].max())
            pool.need_ms[part.column] = part.need_ms + SLACK_MS
        self.stats.deepened += 1
        for binding in clock.bindings:
            self._refresh(binding)

    def expire(self, now_ms: int) -> None:
        """Free what no window can reach any more."""
        for pool in self.pools:
            rows = pool.unreachable(now_ms, LOOKBACK_MS + SLACK_MS)
            for column in np.unique(pool.column[rows]).tolist():
                clock = self._clock_of[pool.depth, column]
                part = clock.part_in(pool)
                assert part is not None
                gone = np.isin(part.rows, rows)
                self.stats.expired_series += int(gone.sum())
                self.free(clock, part, gone)
                # A series may come back: then its dictionary is bound anew, and it gets a row again.
                for binding in list(clock.bindings):
                    self.forget(binding)

    def free(
        self, clock: Clock, part: Part, which: npt.NDArray[np.bool_], *, keep_series: bool = False
    ) -> None:
        """Give back some rows of a part, and the part with its last one."""
        if not which.any():
            return
        rows = part.rows[which]
        if not keep_series:
            series = part.pool.series[rows]
            self.pool_of[series] = -1
            self.row_of[series] = -1
        part.pool.free_rows(rows)
        part.rows = part.rows[~which]
        self.version += 1
        if not len(part.rows):
            part.pool.free_column(part.column)
            del self._clock_of[part.pool.depth, part.column]
            clock.parts.remove(part)

    def need_of(self, part: Part, need_ms: int) -> None:
        """A window of this part reaches so far back."""
        part.need_ms = max(part.need_ms, need_ms)
        part.pool.need_ms[part.column] = part.need_ms + SLACK_MS

    def clocks_of(self, wanted: SeriesIds) -> list[Clock]:
        """The clocks that these series have already, that of the most first."""
        owners: dict[int, tuple[int, Clock]] = {}
        for pool, rows in self.places(wanted):
            columns, counts = np.unique(pool.column[rows], return_counts=True)
            for column, count in zip(columns.tolist(), counts.tolist(), strict=True):
                clock = self._clock_of[pool.depth, column]
                owners[id(clock)] = (owners.get(id(clock), (0, clock))[0] + count, clock)
        return [clock for _, clock in sorted(owners.values(), key=lambda owner: -owner[0])]

    def clocks(self) -> list[Clock]:
        """All clocks there are."""
        return list({id(clock): clock for clock in self._clock_of.values()}.values())

    def places(self, series: SeriesIds) -> list[tuple[Pool, Ints]]:
        """The rows of some series, by pool; of those that have one."""
        pools = self.pool_of[series]
        return [
            (self.pools[number], self.row_of[series[pools == number]])
            for number in np.unique(pools).tolist()
            if number >= 0
        ]

    def lay_out(self) -> Layout:
        """Where the values of every usual sender go, as things are."""
        if self._layout is None:
            self._layout = Layout(list(self.bindings.values()))
        return self._layout

    # Figures.

    @property
    def bytes_used(self) -> int:
        """Memory of the rings and what belongs to them."""
        return sum(pool.bytes_used for pool in self.pools) + 10 * len(self.pool_of)

    @property
    def rows_live(self) -> int:
        """Series that have a row."""
        return sum(pool.rows_live for pool in self.pools)

    # Rows.

    def _give_rows(self, clock: Clock, wanted: SeriesIds, interval_ms: int) -> None:
        fresh = np.unique(wanted[self.pool_of[wanted] < 0])
        if not len(fresh):
            return
        needs = self.need[fresh]
        for need in np.unique(needs).tolist():
            pool = self._pool(depth_for(need + SLACK_MS, interval_ms, DEPTHS))
            part = self._part(clock, pool)
            series = fresh[needs == need]
            rows = pool.add_rows(series, part.column)
            part.rows = np.concatenate([part.rows, rows])
            self.need_of(part, need)
            self.pool_of[series] = self.pools.index(pool)
            self.row_of[series] = rows
        self.version += 1

    def _pool(self, depth: int) -> Pool:
        pool = self._by_depth.get(depth)
        if pool is None:
            pool = self._by_depth[depth] = Pool(depth)
            self.pools.append(pool)
        return pool

    def _part(self, clock: Clock, pool: Pool) -> Part:
        part = clock.part_in(pool)
        if part is None:
            part = Part(pool, pool.add_column(clock.count), np.empty(0, np.int64), 0)
            clock.parts.append(part)
            self._clock_of[pool.depth, part.column] = clock
        return part

    def _refresh(self, binding: Binding) -> None:
        """Work out the pieces again after rows have come, gone or moved."""
        self._layout = None
        binding.number = -1
        wanted = binding.series[binding.kept]
        pools, rows = self.pool_of[wanted], self.row_of[wanted]
        for share in binding.shares:
            share.pieces = []
            for part in share.clock.parts:
                mine = np.flatnonzero(pools == self.pools.index(part.pool))
                mine = mine[part.pool.column[rows[mine]] == part.column]
                missing = np.empty(0, np.int64)
                if len(mine) < len(part.rows):
                    missing = np.setdiff1d(part.rows, rows[mine])
                share.pieces.append(Piece(part, binding.kept[mine], rows[mine], missing))
            share.complete = not any(len(piece.missing) for piece in share.pieces)

    def _move(
        self, clock: Clock, part: Part, which: npt.NDArray[np.bool_], target: Pool, need_ms: int
    ) -> None:
        """Move some rows of a part, with what they hold."""
        pool = part.pool
        moved = clock.part_in(target)
        if moved is None:
            # The ticks of the batch have numbers already and are not in any ring yet.
            moved = Part(target, target.add_column(int(pool.count[part.column])), np.empty(0, np.int64), 0)
            clock.parts.append(moved)
            self._clock_of[target.depth, moved.column] = clock
        rows = target.copy_rows(pool, part.rows[which], moved.column)
        moved.rows = np.concatenate([moved.rows, rows])
        self.need_of(moved, need_ms)
        series = target.series[rows]
        self.pool_of[series] = self.pools.index(target)
        self.row_of[series] = rows
        self.free(clock, part, which, keep_series=True)


def extended(array: npt.NDArray, size: int, fill: int) -> npt.NDArray:  # type: ignore[type-arg]  # Any integer type.
    """A longer copy with `fill` behind what was there."""
    wider = np.full(size, fill, array.dtype)
    wider[: len(array)] = array
    return wider
