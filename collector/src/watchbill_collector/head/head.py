"""The head: the newest samples of the series that rules read, laid out for judging all hosts at once.

What is kept is decided by the rules: each selector in them says how far back it looks (`Watch`), and a
series that no selector wants costs a byte mask and nothing else. A kept series has a row in a ring as deep
as its longest window needs at the pace that it comes in (`Pool`); series that are read together share a
clock (`Clock`).

The way of a tick. `append` only puts the message on a list: the ingest side pays well under a microsecond
for it, and never waits for an evaluation. `fold`, called by whoever reads (the evaluation thread), writes
all that has gathered, in a few array operations for all hosts together (`Batch`). Nothing is read that has
not been folded.

What is refused, and counted: ticks that are older than what their clock has (history has them), ticks from
the future, and, beyond `STAGED_BYTES_MAX`, the oldest messages that nobody has folded yet. A message that
repeats the newest ticks and fills what lay between them (ticks that come in tens, after beats have brought
single ones) replaces them.

Where rows are, and how they move, is the business of `Rings`.
"""

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from watchbill_collector.head.batch import Batch
from watchbill_collector.head.clock import Binding, Clock, Share
from watchbill_collector.head.fleet import Layout
from watchbill_collector.head.pool import HOLE_BITS, Ints
from watchbill_collector.head.reading import Selection
from watchbill_collector.head.rings import (
    DEPTHS,
    LOOKBACK_MS,
    NOT_KEPT,
    SLACK_MS,
    Rings,
    extended,
)
from watchbill_collector.series import Matcher, SeriesIds, SeriesTable, Ticks, is_stale

FUTURE_MS_MAX = 60_000
"""Ticks stamped further ahead of the collector's clock than this are for history only."""
BYTES_MAX_DEFAULT = 4 << 30
"""Rings are not deepened beyond this; windows that are cut short for it are counted."""
STAGED_BYTES_MAX = 256 << 20
"""Messages waiting for `fold`: about ten minutes of a thousand hosts at 15 s."""
EXPIRE_EVERY_MS = 60_000
ROUNDS_MAX = 64
"""So many messages of one clock are written together with those of others in one `fold`; what is beyond goes the long
way, one by one."""

_UNBOUND = Binding(np.empty(0, np.uint32), np.empty(0, np.int64))


@dataclass(frozen=True, slots=True)
class Watch:
    """A selector that rules read, and the time before the evaluation from which it needs samples.

    `window_ms` is 0 where the newest sample will do, the range of a range selector, and more by what
    `offset` says.
    """

    matchers: tuple[Matcher, ...]
    window_ms: int


@dataclass(frozen=True, slots=True, eq=False)
class _End:
    series: SeriesIds
    time_ms: int


_Rounds = list[dict[int, list[Ticks]]]
"""The n-th message of every clock, by how many ticks it has."""


class Head:
    """The windows that rules read. `append` and `end` from any thread; all else under `lock`."""

    def __init__(
        self, table: SeriesTable, watches: Iterable[Watch] = (), bytes_max: int = BYTES_MAX_DEFAULT
    ) -> None:
        self.table = table
        self.rings = Rings(bytes_max)
        self.stats = self.rings.stats
        self.lock = threading.RLock()
        self._staged: deque[Ticks | _End] = deque()
        self._staged_bytes = 0
        self._staging = threading.Lock()
        self._watches: dict[tuple[Matcher, ...], int] = {}
        self._selections: dict[tuple[Matcher, ...], Selection] = {}
        self._seen: dict[tuple[Matcher, ...], SeriesIds] = {}
        self._seen_generation = -1
        self._outgrown: SeriesIds = np.empty(0, np.uint32)
        self._expired_ms = 0
        self._batch = Batch()
        self._folds = 0
        self.watch(watches)

    # Taking in.

    def append(self, ticks: Sequence[Ticks]) -> None:
        """Take ticks that history has committed. Does no work but to keep the references."""
        size = sum(tick.values.nbytes for tick in ticks)
        with self._staging:
            self._staged.extend(ticks)
            self._staged_bytes += size
            while self._staged_bytes > STAGED_BYTES_MAX:
                oldest = self._staged.popleft()
                if isinstance(oldest, Ticks):
                    self._staged_bytes -= oldest.values.nbytes
                    self.stats.dropped_staged += 1

    def end(self, series: SeriesIds, time_ms: int) -> None:
        """These series have ended: a host went, or part of a dictionary. A later sample begins them again."""
        with self._staging:
            self._staged.append(_End(series, time_ms))

    @property
    def staged_bytes(self) -> int:
        """What waits for `fold`."""
        return self._staged_bytes

    def fold(self, now_ms: int) -> None:
        """Write everything that was appended."""
        with self.lock:
            # Two that fold at a time write in the order that they took, or the later ticks would come first.
            with self._staging:
                staged, self._staged, self._staged_bytes = self._staged, deque(), 0
            self._learn()
            self.rings.lay_out()
            rounds: _Rounds = []
            unusual: list[Ticks] = []
            self._folds += 1
            for item in staged:
                if isinstance(item, Ticks):
                    self._sort_out(item, rounds, unusual)
                else:
                    self._place_all(rounds, unusual, now_ms)
                    self._end(item.series, item.time_ms)
                    rounds, unusual = [], []
                    self._folds += 1
            self._place_all(rounds, unusual, now_ms)
            if now_ms - self._expired_ms >= EXPIRE_EVERY_MS:
                self._expired_ms = now_ms
                self.rings.expire(now_ms)

    def _sort_out(self, item: Ticks, rounds: _Rounds, unusual: list[Ticks]) -> None:
        """The n-th message for a clock goes into the n-th round, where many are written together. Behind an unusual
        one all others of its clock go the long way too: they keep their order."""
        binding = self.rings.bindings.get(id(item.series))
        if binding is not None and binding.number >= 0:
            clock = binding.shares[0].clock
            turn = clock.turn + 1 if clock.seen_in == self._folds else 0
            if turn < ROUNDS_MAX:
                clock.seen_in, clock.turn = self._folds, turn
                if turn == len(rounds):
                    rounds.append({})
                usual, ticks = rounds[turn], len(item.times_ms)
                same = usual.get(ticks)
                if same is None:
                    usual[ticks] = [item]
                else:
                    same.append(item)
                return
        elif binding is not None:
            for share in binding.shares:
                share.clock.seen_in, share.clock.turn = self._folds, ROUNDS_MAX
        else:
            for clock in self.rings.clocks_of(item.series[item.series < len(self.rings.pool_of)]):
                clock.seen_in, clock.turn = self._folds, ROUNDS_MAX
        unusual.append(item)

    def _place_all(self, rounds: _Rounds, unusual: list[Ticks], now_ms: int) -> None:
        for usual in rounds:
            late: list[Ticks] = []
            layout = self.rings.lay_out()
            for ticks, messages in usual.items():
                if ticks:
                    late += self._place_usual(layout, messages, now_ms)
            for item in late:
                self._place(item, now_ms)
            self._flush()
        for item in unusual:
            self._place(item, now_ms)
        self._flush()

    def _place_usual(self, layout: Layout, messages: list[Ticks], now_ms: int) -> list[Ticks]:
        """Write messages with as many ticks each; those that do not simply follow come back."""
        senders = np.array([binding.number for binding in self._bound(messages)])
        clocks = [layout.clocks[sender] for sender in senders.tolist()]
        times = np.concatenate([message.times_ms for message in messages]).reshape(len(messages), -1)
        last = np.array([clock.last_ms for clock in clocks])
        # What was usual when it was sorted out may have been bound anew since.
        plain = (senders >= 0) & (times[:, 0] > last) & (times[:, -1] <= now_ms + FUTURE_MS_MAX)
        if times.shape[1] > 1:
            plain &= (times[:, 1:] > times[:, :-1]).all(axis=1)
            self._take_back(layout, senders, times, last, plain)
        others: list[Ticks] = []
        if not plain.all():
            others = [messages[at] for at in np.flatnonzero(~plain).tolist()]
            keep = np.flatnonzero(plain)
            messages, clocks = [messages[at] for at in keep.tolist()], [clocks[at] for at in keep.tolist()]
            senders, times = senders[keep], times[keep]
        if not messages:
            return others
        count = np.array([clock.count for clock in clocks])
        short = layout.too_short(senders, count, times)
        if short:
            # Rings move: these messages go the long way, once.
            return [*others, *messages]
        layout.write(messages, senders, count, times)
        ticks = times.shape[1]
        for clock, time in zip(clocks, times[:, -1].tolist(), strict=True):
            if not clock.count:
                clock.first_ms = time
            clock.count += ticks
            clock.last_ms = time
        self.stats.ticks += ticks * len(messages)
        return others

    def _take_back(
        self, layout: Layout, senders: Ints, times: Ints, last: Ints, plain: npt.NDArray[np.bool_]
    ) -> None:
        """Where beats have brought a tick before its message came, give way to the message: then it follows plainly."""
        repeats = ~plain & (senders >= 0) & (times[:, 0] <= last) & (last <= times[:, -1])
        repeats &= (times[:, 1:] > times[:, :-1]).all(axis=1)
        if not repeats.any():
            return
        self._flush()
        for at in np.flatnonzero(repeats).tolist():
            plain[at] = self._rewind(layout.clocks[senders[at]], times[at].tolist())

    def _bound(self, messages: list[Ticks]) -> list[Binding]:
        bindings = self.rings.bindings
        return [bindings.get(id(message.series), _UNBOUND) for message in messages]

    def _place(self, item: Ticks, now_ms: int) -> None:
        """Any message, the long way."""
        binding = self.rings.bindings.get(id(item.series)) or self._bind(item)
        if binding is None or not binding.shares:
            return
        times = item.times_ms.tolist()
        if not times:
            return
        if times[-1] > now_ms + FUTURE_MS_MAX:
            self.stats.refused_future += len(times)
            return
        self.stats.ticks += len(times)
        for share in binding.shares:
            clock = share.clock
            if times[0] <= clock.last_ms:
                self._place_late(share, times, item.values)
                continue
            if clock.pending and clock.pending + len(times) >= DEPTHS[0]:
                self._flush()
            self._batch.add(share, times, item.values)

    # What rules read.

    def watch(self, watches: Iterable[Watch]) -> None:
        """Keep what these selectors need from now on, and nothing else. Windows that are here already stay;
        what `lacking` says then is for `refill` to bring."""
        wanted: dict[tuple[Matcher, ...], int] = {}
        for watch in watches:
            wanted[watch.matchers] = max(wanted.get(watch.matchers, -1), watch.window_ms)
        with self.lock:
            if wanted == self._watches:
                return
            self._watches = wanted
            before = self.rings.need
            self.rings.need = np.full(len(before), NOT_KEPT, np.int64)
            self._seen, self._seen_generation = {}, -1
            self._learn()
            self.rings.needs_changed()
            grown = self.rings.need > extended(before, len(self.rings.need), NOT_KEPT)
            self._outgrown = np.flatnonzero(grown & (self.rings.pool_of >= 0)).astype(np.uint32)
            self._selections = {
                matchers: found for matchers, found in self._selections.items() if matchers in wanted
            }

    @property
    def longest_ms(self) -> int:
        """How far back the longest window reaches."""
        return max(LOOKBACK_MS, SLACK_MS + max(self._watches.values(), default=0))

    def lacking(self) -> list[tuple[int, SeriesIds]]:
        """How far back, and for which series, the rings do not hold what the selectors want. Under the
        lock."""
        self._learn()
        ids = np.flatnonzero((self.rings.need >= 0) & (self.rings.pool_of < 0)).astype(np.uint32)
        ids = np.union1d(ids, self._outgrown[self.rings.pool_of[self._outgrown] >= 0]).astype(np.uint32)
        needs = self.rings.need[ids]
        return [
            (max(int(need) + SLACK_MS, LOOKBACK_MS), ids[needs == need]) for need in np.unique(needs).tolist()
        ]

    def restore(self, blocks: Sequence[Ticks]) -> None:
        """Take samples from history, oldest first, for series that `lacking` named. Under the lock."""
        bound: list[tuple[Binding, Ticks]] = []
        for block in blocks:
            self.rings.drop(block.series)
            binding = self._bind(block, restoring=True)
            if binding is not None:
                bound.append((binding, block))
        for binding, block in bound:
            for share in binding.shares:
                self._batch.add(share, block.times_ms.tolist(), block.values)
        self._batch.trusted = True
        self._flush()
        self._batch.trusted = False
        for binding, _ in bound:
            self.rings.forget(binding)

    def instances_since(self, since_ms: int) -> frozenset[str]:
        """The `instance` of every host that has ticked after `since_ms`. Under the lock."""
        first = [
            int(clock.parts[0].pool.series[clock.parts[0].rows[0]])
            for clock in self.rings.clocks()
            if clock.last_ms > since_ms and clock.parts
        ]
        sources = np.unique(self.table.sources_of(np.array(first, np.uint32)))
        return frozenset(
            self.table.source_labels(source).get("instance", "") for source in sources.tolist() if source
        )

    @property
    def watches(self) -> tuple[Watch, ...]:
        """The selectors that are kept."""
        return tuple(Watch(matchers, window) for matchers, window in self._watches.items())

    def select(self, matchers: tuple[Matcher, ...]) -> Selection:
        """The series of one selector, for reading. The same object, and label frame, while nothing
        changes."""
        ids = self._chosen(matchers)
        known = self._selections.get(matchers)
        if known is None or known.ids is not ids:
            known = Selection(ids, self.table.frame(ids))
            self._selections[matchers] = known
        if known.version != self.rings.version:
            known.place(self.rings.pools, self.rings.pool_of, self.rings.row_of, self.rings.version)
        return known

    # Figures.

    @property
    def bytes_used(self) -> int:
        """Memory of the rings and what belongs to them."""
        return self.rings.bytes_used

    @property
    def series_kept(self) -> int:
        """Series that have a row."""
        return self.rings.rows_live

    # Below: under the lock.

    def _learn(self) -> None:
        """Find out which of the table's new series the selectors want."""
        generation = self.table.generation
        if generation == self._seen_generation:
            return
        self._seen_generation = generation
        self.rings.reach(generation)
        for matchers, window in self._watches.items():
            ids = self._chosen(matchers)
            seen = self._seen.get(matchers)
            if seen is not ids:
                fresh = ids if seen is None else ids[len(seen) :]
                self.rings.need[fresh] = np.maximum(self.rings.need[fresh], window)
                self._seen[matchers] = ids

    def _chosen(self, matchers: tuple[Matcher, ...]) -> SeriesIds:
        """The series of a selector now. Other threads add to the table at any moment, so there may be some that
        nobody has learnt of."""
        ids = self.table.select(matchers)
        if len(ids):
            self.rings.reach(int(ids[-1]) + 1)
        return ids

    def _flush(self) -> None:
        batch = self._batch
        if not batch.messages:
            return
        pools = batch.by_pool()
        short = batch.too_short(pools)
        for part in short:
            self.rings.deepen(part)
        batch.write(batch.by_pool() if short else pools)

    def _bind(self, ticks: Ticks, *, restoring: bool = False) -> Binding | None:
        """Where the values of a new array of series go; None if the message only ends series."""
        series = ticks.series
        if int(series.max(initial=0)) >= len(self.rings.need):
            self._seen_generation = -1
            self._learn()
        kept = np.flatnonzero(self.rings.need[series] >= 0)
        if not len(kept):
            self.rings.ignore(Binding(series, kept))
            return None
        if not restoring and is_stale(ticks.values).all():
            self._flush()
            self._end(series, int(ticks.times_ms[-1]))
            return None
        self._flush()
        return self.rings.bind(series, kept, _interval(ticks))

    def _place_late(self, share: Share, times: list[int], values: npt.NDArray[np.float64]) -> None:
        """A message that does not simply follow: repeat what it repeats, take what is new, refuse the
        rest."""
        self._flush()
        clock = share.clock
        if share.complete and times[-1] >= clock.last_ms and self._rewind(clock, times):
            keep = 0
        else:
            keep = next((at for at, time in enumerate(times) if time > clock.last_ms), len(times))
            if keep and times[keep - 1] == clock.last_ms:
                self._fill(share, values[keep - 1])
                self.stats.refused_late += keep - 1
            else:
                self.stats.refused_late += keep
        if keep < len(times):
            self._batch.add(share, times[keep:], values[keep:])

    def _rewind(self, clock: Clock, times: list[int]) -> bool:
        """Forget the newest ticks of a clock if these have them all; whether they do."""
        if not clock.parts:
            return False
        deepest = max(clock.parts, key=lambda part: part.pool.depth)
        known = deepest.pool.times_since(deepest.column, times[0])
        if not known or not set(known) <= set(times):
            return False
        number = clock.count - len(known)
        for part in clock.parts:
            part.pool.rewind(part.column, number)
        clock.count = number
        clock.last_ms = times[0] - 1
        self.stats.rewound += 1
        return True

    def _fill(self, share: Share, values: npt.NDArray[np.float64]) -> None:
        """More values for the newest tick, where it has holes; the first value of a moment stands."""
        tick = share.clock.count - 1
        for piece in share.pieces:
            pool = piece.part.pool
            cells = pool.values[piece.rows, tick % pool.depth].view(np.uint64)
            empty = cells == np.uint64(HOLE_BITS)
            rows = piece.rows[empty]
            pool.set_cells(rows, np.full(len(rows), tick), values[piece.keep[empty]])

    def _end(self, series: SeriesIds, time_ms: int) -> None:
        for pool, rows in self.rings.places(series[series < len(self.rings.pool_of)]):
            here = pool.newest_ms(rows) <= time_ms
            self.stats.refused_late += int((~here).sum())
            if here.any():
                pool.end(rows[here], time_ms)


def _interval(ticks: Ticks) -> int | None:
    times = ticks.times_ms
    return int(times[-1] - times[0]) // (len(times) - 1) if len(times) > 1 else None
