"""Many messages written at once: the part of appending that costs nothing a message.

Messages are gathered as references. Writing puts the values of all of them into one flat array, works out
for each kept value its place there and its cell in the ring, and moves everything with one indexed copy a
pool: some 20 numpy calls for a thousand hosts instead of ten for each.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain, repeat

import numpy as np

from watchbill_collector.head.clock import Part, Piece, Share
from watchbill_collector.head.pool import HOLE_BITS, Floats, Ints, Pool

_HOLE = np.uint64(HOLE_BITS)


@dataclass(slots=True)
class _Message:
    """k ticks for one clock: the first has number `tick`; their values begin at `start` of the flat array."""

    share: Share
    tick: int
    times_ms: list[int]
    start: int


@dataclass(slots=True)
class Batch:
    """Messages that wait to be written. Each clock has its ticks in order, none twice."""

    messages: list[_Message] = field(default_factory=list)
    values: list[Floats] = field(default_factory=list)
    size: int = 0
    trusted: bool = False  # What comes from the house itself may have holes in it.

    def add(self, share: Share, times_ms: list[int], values: Floats) -> None:
        """Number the ticks and gather them."""
        clock = share.clock
        self.messages.append(_Message(share, clock.count, times_ms, self.size))
        self.values.append(values.reshape(-1))
        self.size += values.size
        if not clock.count:
            clock.first_ms = times_ms[0]
        clock.count += len(times_ms)
        clock.pending += len(times_ms)
        clock.last_ms = times_ms[-1]

    def by_pool(self) -> "ByPool":
        """What goes to each pool, as the pieces are now."""
        pools: ByPool = {}
        for message in self.messages:
            for piece in message.share.pieces:
                pairs = pools.get(piece.part.pool)
                if pairs is None:
                    pairs = pools[piece.part.pool] = []
                pairs.append((piece, message))
        return pools

    def too_short(self, pools: "ByPool") -> list[Part]:
        """Parts whose ring would lose a tick that a window still needs."""
        found: list[Part] = []
        for pool, pieces in pools.items():
            columns = np.array([piece.part.column for piece, _ in pieces])
            behind = np.array([message.tick + len(message.times_ms) for _, message in pieces])
            last = np.array([message.times_ms[-1] for _, message in pieces])
            first = np.array([message.times_ms[0] for _, message in pieces])
            oldest = behind - pool.depth  # The number of the oldest tick afterwards.
            full = oldest > pool.base[columns]
            if not full.any():
                continue
            known = oldest < pool.count[columns]
            time = np.where(known, pool.times[columns, oldest % pool.depth], first)
            for index in np.flatnonzero(full & (time > last - pool.need_ms[columns])).tolist():
                if pieces[index][0].part not in found:
                    found.append(pieces[index][0].part)
        return found

    def write(self, pools: "ByPool") -> None:
        """Write everything that was gathered, and be empty."""
        flat = self.values[0] if len(self.values) == 1 else np.concatenate(self.values)
        forged = flat.view(np.uint64) == _HOLE
        if not self.trusted and forged.any():
            flat = np.where(forged, np.nan, flat)
        for pool, pieces in pools.items():
            _write_pool(pool, pieces, flat)
        for message in self.messages:
            message.share.clock.pending = 0
        self.messages, self.values, self.size = [], [], 0


ByPool = dict[Pool, list[tuple[Piece, _Message]]]


def _write_pool(pool: Pool, pieces: list[tuple[Piece, _Message]], flat: Floats) -> None:
    ticks_each = [len(message.times_ms) for _, message in pieces]
    columns = np.array([piece.part.column for piece, _ in pieces])
    width = np.array([message.share.width for _, message in pieces])
    tick = np.array([message.tick for _, message in pieces])
    start = np.array([message.start for _, message in pieces])
    keeps: Iterable[Ints] = [piece.keep for piece, _ in pieces]
    rows: Iterable[Ints] = [piece.rows for piece, _ in pieces]
    missing: list[Ints] = [piece.missing for piece, _ in pieces]
    begins: tuple[Ints, Ints] | None = None
    if max(ticks_each) == 1:
        times = np.array([message.times_ms[0] for _, message in pieces])
    else:
        # Only what the ring can hold; what is written over at once would also confuse the notes on resets.
        kept = [min(ticks, pool.depth - 1) for ticks in ticks_each]
        times = np.array(
            [time for (_, message), k in zip(pieces, kept, strict=True) for time in message.times_ms[-k:]]
        )
        first = np.array([ticks - k for ticks, k in zip(ticks_each, kept, strict=True)])
        number = _counting(kept)
        begins = columns[first > 0], (tick + first)[first > 0]
        keeps = chain.from_iterable(repeat(keep, k) for keep, k in zip(keeps, kept, strict=True))
        rows = chain.from_iterable(repeat(row, k) for row, k in zip(rows, kept, strict=True))
        missing = list(chain.from_iterable(repeat(row, k) for row, k in zip(missing, kept, strict=True)))
        offset = np.repeat(first, kept) + number
        columns, width = np.repeat(columns, kept), np.repeat(width, kept)
        tick, start = np.repeat(tick, kept) + offset, np.repeat(start, kept) + offset * width
    keep_list = list(keeps)
    lengths = [len(keep) for keep in keep_list]
    source = np.concatenate(keep_list)
    source += np.repeat(start, lengths)
    pool.write(columns, tick, times, np.concatenate(list(rows)), np.repeat(tick, lengths), flat.take(source))
    if begins is not None:
        # What was left out is not there: its slot still holds what was before, as a rule no time at all.
        np.maximum.at(pool.base, *begins)
    gaps = [len(row) for row in missing]
    if any(gaps):
        pool.set_holes(np.concatenate(missing), np.repeat(tick, gaps))


def _counting(lengths: list[int]) -> Ints:
    """0, 1, .. for each length, one after the other."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
