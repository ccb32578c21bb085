"""How complete an hour is: from which readings, for whom, from when."""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from watchbill.codec import FamilyRun, MetricKind, encode_schema
from watchbill.errors import StorageError
from watchbill.protocol.frames import GapReason, Stream
from watchbill_collector.history.values import GapRow
from watchbill_collector.ingest.completeness import (
    ARRIVAL_MS,
    LAG_MS_MAX,
    NAME,
    SLOT_MS,
    WINDOW_MS,
    Completeness,
    Coverage,
    covered,
)
from watchbill_collector.ingest.counters import REFUSAL_KEYS_MAX, IngestCounters
from watchbill_collector.series import SeriesTable, Ticks, is_stale

T0 = 1_700_000_000_000
HOUR_S = 3600


def times(*at_s: float) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    return np.array([T0 + round(1000 * second) for second in at_s], np.int64)


def host(interval_ms: int = 1000, ticks: int = 1, since_s: float = 0.0) -> Coverage:
    coverage = Coverage(T0, T0 + round(since_s * 1000))
    coverage.expects(interval_ms, ticks)
    return coverage


def at(second: float) -> int:
    return T0 + round(second * 1000)


def lag_s(interval_ms: int, ticks: int) -> float:
    return (1.5 * interval_ms * ticks + ARRIVAL_MS) / 1000


@pytest.mark.parametrize(("interval_ms", "ticks"), [(1000, 1), (1000, 10), (10_000, 1), (60_000, 10)])
def test_a_host_whose_messages_all_come_is_complete_at_every_moment(interval_ms: int, ticks: int) -> None:
    coverage = host(interval_ms, ticks, since_s=60)
    step_s = interval_ms / 1000
    for message in range(int(2 * HOUR_S / step_s / ticks)):
        sent_s = (message + 1) * ticks * step_s + 0.37
        if sent_s > 60 + lag_s(interval_ms, ticks) + 1:
            assert coverage.ratio(at(sent_s)) == 1.0, sent_s
        coverage.mark(times(*(sent_s - step_s * back for back in reversed(range(ticks)))))


def test_one_reading_that_is_missing_leaves_a_hole_alone_or_within_a_message() -> None:
    alone, together = host(), host(ticks=10)
    for second in range(600):
        if second != 300:
            alone.mark(times(second + 0.3))
    for first in range(0, 600, 10):
        together.mark(times(*(first + back + 0.3 for back in range(10) if first + back != 300)))
    for coverage in (alone, together):
        ratio = coverage.ratio(at(600))
        assert ratio is not None
        assert 0.997 < ratio < 1.0


def test_a_little_jitter_is_no_hole() -> None:
    rng, coverage = random.Random(7), host()
    for second in range(1, 300):
        coverage.mark(times(second + 0.99 + rng.uniform(-0.2, 0.2)))
    assert coverage.ratio(at(300)) is not None
    assert host().ratio(at(300)) == 0.0
    coverage.since_ms = at(2)
    assert coverage.ratio(at(300)) == 1.0


def test_what_a_backlog_brings_fills_the_time_that_it_is_from() -> None:
    coverage = host()
    for second in [*range(100), *range(200, 300)]:
        coverage.mark(times(second))
    half = coverage.ratio(at(300))
    assert half is not None
    assert 0.63 < half < 0.67
    for first in range(90, 210, 10):
        coverage.mark(times(*range(first, first + 10)))
    assert coverage.ratio(at(300)) == 1.0


def test_the_hour_moves_and_a_long_absence_costs_no_memory() -> None:
    coverage = host(10_000)
    for second in range(0, HOUR_S, 10):
        coverage.mark(times(second))
    later_s = 40 * 86_400
    for second in range(later_s, later_s + 600, 10):
        coverage.mark(times(second))
    coverage._write()
    assert coverage._bits.bit_length() <= 4 * (WINDOW_MS + LAG_MS_MAX) // SLOT_MS
    ratio = coverage.ratio(at(later_s + 600))
    assert ratio is not None
    assert abs(ratio - 600 / HOUR_S) < 0.01


def test_it_is_too_early_to_say_until_a_message_could_be_here() -> None:
    coverage = host(10_000, since_s=0)
    assert coverage.ratio(at(lag_s(10_000, 1) - 1)) is None
    assert coverage.ratio(at(lag_s(10_000, 1) + 1)) == 0.0
    assert Coverage(T0).ratio(at(5000)) is None, "history was not read yet"


def test_readings_at_once_cover_what_they_cover_one_by_one() -> None:
    rng = random.Random(1)
    for _ in range(50):
        seconds = sorted(rng.sample(range(3000), rng.randrange(1, 300)))
        one_by_one = host()
        one_by_one._origin = T0 // SLOT_MS - 10
        for second in seconds:
            one_by_one.mark(times(second))
        one_by_one._write()
        origin, bits = covered(times(*seconds), 1500)
        assert bits << (origin - one_by_one._origin) == one_by_one._bits


def test_what_history_has_counts_and_tells_the_interval_until_the_host_says_it() -> None:
    coverage = Coverage(at(3000))
    coverage.fill(times(*range(0, 1500, 60), *range(1500, 3000, 60)), at(0))
    assert coverage.ratio(at(3030)) == 1.0
    coverage.expects(60_000, 1)
    coverage.mark(times(3000))
    coverage.mark(times(3060))
    assert coverage.ratio(at(3100)) == 1.0
    nothing = Coverage(at(3000))
    nothing.fill(times(), at(0))
    assert nothing.ratio(at(3030)) == 0.0


def test_all_hosts_are_said_in_one_array_under_their_own_labels_and_end_with_a_stale_marker() -> None:
    table, said = SeriesTable(), list[Ticks]()
    completeness = Completeness(table, said.extend)
    ups = [
        int(table.series(table.source({"instance": name}), [table.key("up", {})])[0]) for name in ("a", "b")
    ]
    hosts = list(zip(ups, (host(), host()), strict=True))
    hosts[0][1].mark(times(*range(100)))
    completeness.say(at(100), hosts)
    completeness.say(at(115), hosts)
    assert said[0].series is said[1].series
    labels = [table.labels(int(series)) for series in said[0].series]
    assert labels == [{"__name__": NAME, "instance": name} for name in ("a", "b")]
    assert said[0].values.tolist() == [[1.0, 0.0]]
    completeness.say(at(130), hosts[:1])
    ended = [ticks for ticks in said if is_stale(ticks.values).all()]
    assert [table.labels(int(series))["instance"] for ticks in ended for series in ticks.series] == ["b"]


async def test_only_what_is_committed_covers(site: Any) -> None:
    agent = await site.linked("web01")
    coverage = site.ingest.agent(agent.agent_id).coverage
    schema = encode_schema([FamilyRun("m", MetricKind.GAUGE, "", ((),))])
    for frame in schema.frames:
        await agent.send(frame)
    site.sink.fail = StorageError("the disk is full")
    await agent.ticks(1, schema, [1.0])
    await until(lambda: site.ingest.counters.commit_failures)
    now_ms = site.clock.wall_ms()
    coverage.since_ms = now_ms - 60_000
    assert coverage.ratio(now_ms + 20_000) == 0.0
    site.sink.fail = None
    site.ingest.commits._try_again()
    await agent.ticks(1, schema, [1.0])
    await agent.acked(1)
    assert coverage.ratio(now_ms + 20_000) > 0.0


async def until(condition: Callable[[], object]) -> None:
    give_up_s = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < give_up_s, "the condition did not come true in time"
        await asyncio.sleep(0.005)


def gap(reason: GapReason, count: int, samples: int) -> GapRow:
    return GapRow("a", b"s" * 16, Stream.BULK, 1, count, count, samples, 0, 0, reason, 0)


def test_gaps_are_counted_by_host_and_reason_within_a_bound() -> None:
    counters = IngestCounters()
    counters.gap("web01", gap(GapReason.OVERFLOW, 5, 1500))
    counters.gap("web01", gap(GapReason.OVERFLOW, 1, 300))
    counters.gap("web01", gap(GapReason.TAIL_UNKNOWN, 0, 0))
    counters.gap("web01", gap(GapReason.RESTART, 0, 0))
    found = {
        (sample.name, sample.labels["reason"]): sample.value
        for family in counters.collect()
        for sample in family.samples
        if sample.name.startswith("watchbill_collector_gap_")
    }
    assert found["watchbill_collector_gap_records_total", "overflow"] == 6
    assert found["watchbill_collector_gap_samples_total", "overflow"] == 1800
    assert found["watchbill_collector_gap_unknown_total", "overflow"] == 0
    assert found["watchbill_collector_gap_unknown_total", "tail_unknown"] == 1
    assert found["watchbill_collector_gap_unknown_total", "restart"] == 0
    for index in range(REFUSAL_KEYS_MAX + 10):
        counters.gap(f"h{index}", gap(GapReason.OVERFLOW, 1, 1))
    assert len(counters.gap_counts) <= REFUSAL_KEYS_MAX + 1
    assert counters.gap_counts["", "overflow"][0] >= 10
