"""The usual message, for all hosts at once: the next ticks of a sender that sends what it sent before.

A `Layout` lays the pieces of all senders one after the other in flat arrays, a set a pool; it is made when
dictionaries have changed, not for every tick. Writing the ticks of a thousand hosts is then a few array
operations: which places of all values, which cells of the ring, one indexed copy. What is not usual (late,
repeated, incomplete, several clocks) goes the long way, message by message (`batch.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from watchbill_collector.head.clock import Binding, Part
from watchbill_collector.head.pool import Floats, Ints, Pool
from watchbill_collector.series import Ticks

TOGETHER_VALUES = 1 << 18
"""About so many values are written in one go: with all of a fleet's at once, most of the time went into fresh pages."""


@dataclass(frozen=True, slots=True, eq=False)
class _PoolLayout:
    """All pieces in one pool: that of sender s is `keep[begin[s]:begin[s] + length[s]]`, and `rows`
    likewise."""

    pool: Pool
    column: Ints
    begin: Ints
    length: Ints
    keep: Ints
    rows: Ints
    parts: list[Part | None]


class Layout:
    """Where the values of every usual sender go. `binding.number` is the sender's number in it."""

    def __init__(self, bindings: Sequence[Binding]) -> None:
        usual = [binding for binding in bindings if len(binding.shares) == 1 and binding.shares[0].complete]
        for binding in bindings:
            binding.number = -1
        for number, binding in enumerate(usual):
            binding.number = number
        self.clocks = [binding.shares[0].clock for binding in usual]
        self.width = np.array([len(binding.series) for binding in usual], np.int64)
        self._everybody = np.arange(len(usual))
        pools: dict[Pool, list[tuple[int, Part, Ints, Ints]]] = {}
        for number, binding in enumerate(usual):
            for piece in binding.shares[0].pieces:
                pools.setdefault(piece.part.pool, []).append((number, piece.part, piece.keep, piece.rows))
        self._pools = [_pool_layout(pool, pieces, len(usual)) for pool, pieces in pools.items()]

    def too_short(self, senders: Ints, count: Ints, times_ms: Ints) -> list[Part]:
        """Parts whose ring would lose a tick that a window still needs; `times_ms[sender, tick]`."""
        found: list[Part] = []
        ticks = times_ms.shape[1]
        for layout in self._pools:
            pool = layout.pool
            here = np.flatnonzero(layout.column[senders] >= 0)
            columns = layout.column[senders[here]]
            oldest = count[here] + ticks - pool.depth
            full = oldest > pool.base[columns]
            if not full.any():
                continue
            known = oldest < pool.count[columns]
            time = np.where(known, pool.times[columns, oldest % pool.depth], times_ms[here, 0])
            short = full & (time > times_ms[here, -1] - pool.need_ms[columns])
            found += [
                part
                for each in np.flatnonzero(short)
                if (part := layout.parts[senders[here[each]]]) is not None
            ]
        return found

    def write(self, messages: Sequence[Ticks], senders: Ints, count: Ints, times_ms: Ints) -> None:
        """Write one message of each sender, all with as many ticks; `count` is the number of each one's
        first."""
        begin = size = 0
        for at, message in enumerate(messages):
            size += message.values.size
            if size >= TOGETHER_VALUES or at + 1 == len(messages):
                part = slice(begin, at + 1)
                self._write(messages[part], senders[part], count[part], times_ms[part])
                begin, size = at + 1, 0

    def _write(self, messages: Sequence[Ticks], senders: Ints, count: Ints, times_ms: Ints) -> None:
        flat = np.concatenate([message.values.reshape(-1) for message in messages])
        ticks = times_ms.shape[1]
        sizes = self.width[senders] * ticks
        start = np.cumsum(sizes) - sizes
        if len(senders) == len(self._everybody):
            order = np.empty(len(senders), np.int64)
            order[senders] = np.arange(len(senders))
            senders, start, count, times_ms = self._everybody, start[order], count[order], times_ms[order]
        for layout in self._pools:
            self._write_pool(layout, senders, start, count, times_ms, flat)

    def _write_pool(
        self, layout: _PoolLayout, senders: Ints, start: Ints, count: Ints, times_ms: Ints, flat: Floats
    ) -> None:
        length = layout.length[senders]
        if senders is self._everybody:
            keep, rows = layout.keep, layout.rows
        else:
            total = int(length.sum())
            place = np.repeat(layout.begin[senders] - (np.cumsum(length) - length), length) + np.arange(total)
            keep, rows = layout.keep.take(place), layout.rows.take(place)
        here = layout.column[senders] >= 0
        # Only what the ring can hold; what is written over at once would also confuse the notes on resets.
        skipped = max(0, times_ms.shape[1] - layout.pool.depth + 1)
        sender = np.repeat(np.arange(len(senders)), length)
        source = keep + start.take(sender)
        if times_ms.shape[1] > 1:
            # A series' ticks one after the other: they are neighbours in the ring.
            offset = np.arange(skipped, times_ms.shape[1]) * self.width[senders][:, None]
            source = source[:, None] + offset[sender]
        values = flat.take(source).reshape(len(rows), times_ms.shape[1] - skipped)
        layout.pool.write_times(layout.column[senders][here], count[here] + skipped, times_ms[here, skipped:])
        layout.pool.write_rows(rows, sender, count + skipped, values)


def _pool_layout(pool: Pool, pieces: list[tuple[int, Part, Ints, Ints]], senders: int) -> _PoolLayout:
    column, length = np.full(senders, -1, np.int64), np.zeros(senders, np.int64)
    parts: list[Part | None] = [None] * senders
    numbers = [number for number, _, _, _ in pieces]
    column[numbers] = [part.column for _, part, _, _ in pieces]
    length[numbers] = [len(keep) for _, _, keep, _ in pieces]
    for number, part, _, _ in pieces:
        parts[number] = part
    keep = np.concatenate([keep for _, _, keep, _ in pieces])
    rows = np.concatenate([rows for _, _, _, rows in pieces])
    return _PoolLayout(pool, column, np.cumsum(length) - length, length, keep, rows, parts)
