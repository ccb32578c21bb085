"""The head against plain lists of samples, on random data: gaps, resets, stale markers, churn, times off
any grid."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from watchbill_collector.head import Head, Watch
from watchbill_collector.promql.budget import Budget
from watchbill_collector.promql.memory import MemoryStorage
from watchbill_collector.promql.storage import Hints, SeriesSet
from watchbill_collector.promql.windows import Ints, Mask, Windows
from watchbill_collector.rules.head_storage import HeadStorage
from watchbill_collector.series import STALE, Matcher, MatchOp, SeriesIds, SeriesTable, Ticks

EXAMPLES = int(os.environ.get("WATCHBILL_HEAD_EXAMPLES", "15"))
"""Histories of up to an hour, others in each run."""
START_MS = 1_700_000_000_000
LOOKBACK_MS = 300_000
RANGES_MS = (30_000, 120_000, 300_000)

LATEST = (Matcher("__name__", MatchOp.EQUAL, "latest"),)
RANGED = (Matcher("__name__", MatchOp.EQUAL, "ranged"),)
WATCHES = (Watch(LATEST, 0), Watch(RANGED, 300_000))


@dataclass
class Host:
    """A sender whose dictionary changes now and then."""

    source: int
    table: SeriesTable
    interval_ms: int
    rng: np.random.Generator
    next_ms: int = 0
    last_ms: int = 0
    names: list[tuple[str, str]] = field(default_factory=list)
    ids: SeriesIds | None = None
    values: dict[tuple[str, str], float] = field(default_factory=dict)

    def change(self) -> None:
        every = [(name, f"d{n}") for name in ("latest", "ranged", "unread") for n in range(4)]
        self.names = [each for each in every if self.rng.random() < 0.7] or every
        keys = [self.table.key(name, {"device": device}) for name, device in self.names]
        self.ids = self.table.series(self.source, keys)

    def reading(self) -> list[float]:
        for name in self.names:
            kind = self.rng.random()
            before = self.values.get(name, 0.0)
            if kind < 0.85:
                before += self.rng.integers(0, 100)
            elif kind < 0.93:
                before = float(self.rng.integers(0, 5))
            elif kind < 0.95:
                before = math.nan if self.rng.random() < 0.5 else math.inf
            self.values[name] = before if math.isfinite(before) else 0.0
            if kind > 0.98:
                before = float(STALE)
        return [float(STALE) if self.rng.random() < 0.02 else self.values[name] for name in self.names]


def _run(seed: int, hosts: int, steps: int) -> None:
    rng = np.random.default_rng(seed)
    table, memory = SeriesTable(), MemoryStorage()
    head = Head(table, WATCHES)
    fleet = [
        Host(table.source({"instance": f"h{n}"}), table, int(rng.choice([1_000, 5_000, 15_000, 60_000])), rng)
        for n in range(hosts)
    ]
    for host in fleet:
        host.next_ms = START_MS + int(rng.integers(0, host.interval_ms))
    now = START_MS
    for _ in range(steps):
        now += int(rng.integers(1_000, 45_000))
        for host in fleet:
            _advance(host, now, rng, head, memory)
        if rng.random() < 0.7:
            head.fold(now)
            _compare(head, memory, now, rng)


def _advance(host: Host, now: int, rng: np.random.Generator, head: Head, memory: MemoryStorage) -> None:
    if rng.random() < 0.03:  # The host is silent for a while, and may be announced as gone.
        if host.ids is not None and rng.random() < 0.5:
            when = host.last_ms + 1
            head.end(host.ids, when)
            for series in host.ids.tolist():
                memory.add_stale(host.table.labels(series), when)
        host.next_ms = now + int(rng.integers(2, 400_000))
        return
    times: list[int] = []
    while host.next_ms <= now:
        times.append(host.next_ms)
        host.next_ms += host.interval_ms + int(rng.integers(-200, 200))
        if rng.random() < 0.05:
            host.next_ms += host.interval_ms
    if not times:
        return
    host.last_ms = times[-1]
    gone: list[tuple[str, str]] = []
    if host.ids is None or rng.random() < 0.1:
        before = host.names
        host.change()
        gone = [name for name in before if name not in host.names]
    assert host.ids is not None
    while times:
        k = int(rng.integers(1, 11))
        part, times = times[:k], times[k:]
        rows = [host.reading() for _ in part]
        if gone:
            # What vanished ends with a stale marker at the first tick of the new dictionary,
            # in a message of its own.
            ends = host.table.series(
                host.source, [host.table.key(name, {"device": device}) for name, device in gone]
            )
            stale = Ticks(ends, np.array(part[:1]), np.full((1, len(ends)), STALE))
            order = [stale] if rng.random() < 0.5 else []
            head.append(order)
            _append(host, host.ids, part, rows, head, memory)
            if not order:
                head.append([stale])
            for series in ends.tolist():
                memory.add_stale(host.table.labels(series), part[0])
            gone = []
        else:
            _append(host, host.ids, part, rows, head, memory)


def _append(
    host: Host,
    ids: SeriesIds,
    times: Sequence[int],
    rows: list[list[float]],
    head: Head,
    memory: MemoryStorage,
) -> None:
    values = np.array(rows)
    # Plain lists may lose the bits of a stale marker.
    stale = np.isnan(values) & (values.view(np.uint64) != np.array(math.nan).view(np.uint64))
    values[stale] = STALE
    head.append([Ticks(ids, np.array(times), values)])
    for column, series in enumerate(ids.tolist()):
        bits = values[:, column].copy().view(np.uint64).tolist()
        memory.add_bits(host.table.labels(series), list(zip(times, bits, strict=True)))


def _compare(head: Head, memory: MemoryStorage, now: int, rng: np.random.Generator) -> None:
    storage = HeadStorage(head)
    with head.lock:
        for matchers, ranges in ((LATEST, ()), (RANGED, RANGES_MS)):
            ours = storage.select(matchers, now - LOOKBACK_MS, now, Budget(), Hints())
            theirs = memory.select(matchers, now - 2 * LOOKBACK_MS, now, Budget(), Hints())
            _same_instant(ours, theirs, now)
            for range_ms in ranges:
                _same_windows(ours, theirs, now, range_ms)


def _rows(found: SeriesSet) -> dict[tuple[tuple[str, str], ...], int]:
    return {tuple(sorted(labels.items())): row for row, labels in enumerate(found.labels.dicts())}


def _same_instant(ours: SeriesSet, theirs: SeriesSet, now: int) -> None:
    at = np.array([now])
    our_values, our_present = ours.instant(at, LOOKBACK_MS)
    their_values, their_present = theirs.instant(at, LOOKBACK_MS)
    our_times, their_times = ours.instant_times(at, LOOKBACK_MS), theirs.instant_times(at, LOOKBACK_MS)
    our_rows = _rows(ours)
    seen = set()
    for labels, row in _rows(theirs).items():
        mine = our_rows.get(labels)
        seen.add(mine)
        if not their_present[row, 0]:
            assert mine is None or not our_present[mine, 0], labels
            continue
        assert mine is not None
        assert our_present[mine, 0], labels
        np.testing.assert_equal(our_values[mine, 0], their_values[row, 0])
        assert our_times[mine, 0] == their_times[row, 0]
    assert not any(our_present[row, 0] for row in range(len(ours)) if row not in seen)


def _same_windows(ours: SeriesSet, theirs: SeriesSet, now: int, range_ms: int) -> None:
    at = np.array([now])
    mine, other = ours.windows(at, range_ms), theirs.windows(at, range_ms)
    our_rows = _rows(ours)
    pairs = [(our_rows[labels], row) for labels, row in _rows(theirs).items() if labels in our_rows]
    if not pairs:
        return
    us, them = np.array(pairs).T
    counts = other.count()[them, 0]
    np.testing.assert_array_equal(mine.count()[us, 0], counts)
    some = counts > 0
    for ask in ("drops", "sum", "mean", "minimum", "maximum", "resets", "changes"):
        left, right = getattr(mine, ask)()[us, 0][some], getattr(other, ask)()[them, 0][some]
        np.testing.assert_allclose(left, right, rtol=1e-12, err_msg=ask)
    for left, right in zip(mine.edges(), other.edges(), strict=True):
        np.testing.assert_array_equal(left[us, 0][some], right[them, 0][some])
    two = counts > 1
    for left, right in zip(mine.last_two(), other.last_two(), strict=True):
        np.testing.assert_array_equal(left[us, 0][two], right[them, 0][two])
    _same_lines(mine, other, us, them, now, counts > 2)
    spans, wanted = mine.spans(), other.spans()
    for us_row, them_row in pairs:
        a, b = int(spans.lo[us_row, 0]), int(spans.hi[us_row, 0])
        c, d = int(wanted.lo[them_row, 0]), int(wanted.hi[them_row, 0])
        np.testing.assert_array_equal(spans.times[a:b], wanted.times[c:d])
        np.testing.assert_array_equal(spans.values[a:b], wanted.values[c:d])


def _same_lines(mine: Windows, other: Windows, us: Ints, them: Ints, now: int, some: Mask) -> None:
    """Slopes are differences of sums: equal to within what the sums may differ by."""
    left, right = mine.line(np.full((mine.rows, 1), now)), other.line(np.full((other.rows, 1), now))
    for ours, theirs in zip(left, right, strict=True):
        np.testing.assert_allclose(ours[us, 0][some], theirs[them, 0][some], rtol=1e-7, atol=1e-6)


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(5, 60))
@settings(max_examples=EXAMPLES, deadline=None)
def test_the_head_answers_as_plain_samples_do(seed: int, hosts: int, steps: int) -> None:
    _run(seed, hosts, steps)
