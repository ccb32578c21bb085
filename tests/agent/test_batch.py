"""Readings into dictionaries and blocks, with a decoder that reads them back as a collector would."""

import struct

import pytest

from watchbill.codec import BlockValues, decode_runs, encode_ticks
from watchbill.limits import RECORD_BYTES_MAX, SERIES_PER_AGENT_MAX
from watchbill.v1 import link_pb2 as pb
from watchbill_agent.batch import BLOCK_BYTES_MAX, Batcher
from watchbill_agent.reading import Family, Layout, MetricType, Reading, Series, labels

STALE = 0x7FF0000000000002
BASE = 10_000


def layout(*names: str, metric: str = "m") -> Layout:
    family = Family(metric, MetricType.GAUGE, "A metric.")
    return Layout([family], [Series(metric, labels(x=name)) for name in names])


def readings(of: Layout, *values: float) -> list[Reading]:
    return [Reading(of, list(values))]


def read_back(blocks: tuple[BlockValues, ...]) -> list[tuple[int, str, float | str]]:
    """(time, series, value) as a collector would decode them; stale markers as "stale"."""
    out: list[tuple[int, str, float | str]] = []
    record = pb.Record.FromString(encode_ticks(blocks))
    for block, sent in zip(record.ticks.blocks, blocks, strict=True):
        names = []
        for frame in sent.schema.frames:
            dictionary = pb.Up.FromString(frame).dictionary
            assert dictionary.schema_id == block.schema_id
            for run in decode_runs(dictionary):
                names += [",".join([run.name, *(value for _, value in own)]) for own in run.series]
        times = [block.first_boottime_ms]
        for step in block.steps_ms:
            times.append(times[-1] + step)
        bits = struct.unpack(f"<{len(block.values) // 8}Q", block.values)
        values = struct.unpack(f"<{len(bits)}d", block.values)
        for index, (one, value) in enumerate(zip(bits, values, strict=True)):
            at = times[index // len(names)]
            out.append((at, names[index % len(names)], "stale" if one == STALE else value))
    return out


def taken(batcher: Batcher) -> list[tuple[int, str, float | str]]:
    return [sample for message in batcher.take() for sample in read_back(message.blocks)]


def test_ticks_of_one_layout_share_one_dictionary_and_one_block():
    batcher, one = Batcher(), layout("a", "b")
    for tick in range(3):
        batcher.add(BASE, readings(one, tick, -tick), 1000 + tick, 5000 + tick)
    (message,) = batcher.take()
    assert len(message.blocks) == 1
    assert message.blocks[0].wall_ms == 5000
    assert (message.samples, message.first_boottime_ms, message.last_boottime_ms) == (6, 1000, 1002)
    assert read_back(message.blocks) == [
        (1000, "m,a", 0), (1000, "m,b", 0), (1001, "m,a", 1), (1001, "m,b", -1),
        (1002, "m,a", 2), (1002, "m,b", -2),
    ]  # fmt: skip
    assert batcher.dictionaries == 1
    assert batcher.take() == []


def test_what_vanished_ends_with_one_stale_marker_under_the_old_dictionary():
    batcher, both, one = Batcher(), layout("a", "b"), layout("b")
    batcher.add(BASE, readings(both, 1, 2), 1000, 0)
    batcher.add(BASE, readings(one, 3), 2000, 0)
    batcher.add(BASE, readings(one, 4), 3000, 0)
    (message,) = batcher.take()
    assert read_back(message.blocks) == [
        (1000, "m,a", 1), (1000, "m,b", 2), (2000, "m,a", "stale"), (2000, "m,b", 3), (3000, "m,b", 4),
    ]  # fmt: skip
    assert len(message.blocks) == 2


def test_what_appears_is_there_from_its_first_tick():
    batcher, one, both = Batcher(), layout("b"), layout("a", "b")
    batcher.add(BASE, readings(one, 1), 1000, 0)
    batcher.add(BASE, readings(both, 2, 3), 2000, 0)
    assert taken(batcher) == [(1000, "m,b", 1), (2000, "m,a", 2), (2000, "m,b", 3)]


def test_appearing_and_vanishing_at_once_writes_no_series_twice_at_one_time():
    batcher = Batcher()
    batcher.add(BASE, readings(layout("a", "b"), 1, 2), 1000, 0)
    batcher.add(BASE, readings(layout("b", "c"), 3, 4), 2000, 0)
    samples = taken(batcher)
    assert samples == [
        (1000, "m,a", 1), (1000, "m,b", 2), (2000, "m,a", "stale"), (2000, "m,b", 3), (2000, "m,c", 4),
    ]  # fmt: skip


def test_a_sampler_that_fails_now_and_then_costs_no_new_dictionaries():
    batcher, steady, shaky = Batcher(), layout("a", metric="steady"), layout("b", metric="shaky")
    for tick in range(20):
        now = [Reading(steady, [1.0])] + ([] if tick % 2 else [Reading(shaky, [2.0])])
        batcher.add(BASE, now, 1000 + tick, 0)
    samples = taken(batcher)
    assert [value for _, name, value in samples if name == "shaky,b"] == [2, "stale"] * 10
    assert len([1 for _, name, _ in samples if name == "steady,a"]) == 20
    assert batcher.dictionaries == 2


def test_the_same_series_have_the_same_id_again_and_elsewhere():
    first, second = Batcher(), Batcher()
    for batcher in (first, second):
        batcher.add(BASE, readings(layout("a"), 1), 1, 0)
    ids = [batcher.take()[0].blocks[0].schema.schema_id for batcher in (first, second)]
    assert ids[0] == ids[1] != 0


def test_a_group_that_ends_marks_everything_stale():
    batcher, one = Batcher(), layout("a", "b")
    batcher.add(BASE, readings(one, 1, 2), 1000, 0)
    batcher.end(BASE, 2000, 0)
    batcher.end(BASE, 3000, 0)
    assert taken(batcher)[2:] == [(2000, "m,a", "stale"), (2000, "m,b", "stale")]
    assert batcher.series == 0


def test_groups_of_other_intervals_travel_in_the_same_message():
    batcher = Batcher()
    batcher.add(60_000, readings(layout("s"), 9), 999, 0)
    batcher.add(BASE, readings(layout("a"), 1), 1000, 0)
    (message,) = batcher.take()
    assert sorted(read_back(message.blocks)) == [(999, "m,s", 9), (1000, "m,a", 1)]
    assert (message.first_boottime_ms, message.last_boottime_ms) == (999, 1000)


def test_special_values_keep_their_bits():
    batcher = Batcher()
    values = [float("inf"), float("-inf"), float("nan"), -0.0, 5e-324, 2**64 - 1, 2.0**53 + 2]
    batcher.add(BASE, readings(layout(*"abcdefg"), *values), 1, 0)
    sent = batcher.take()[0].blocks[0].values
    assert sent == struct.pack("<7d", *values)


def test_series_beyond_the_cap_are_refused_and_counted():
    batcher = Batcher()
    big = layout(*(f"{n}" for n in range(SERIES_PER_AGENT_MAX + 500)))
    batcher.add(60_000, readings(layout("first", metric="slow"), 1), 1, 0)
    batcher.add(BASE, [Reading(big, [float(n) for n in range(SERIES_PER_AGENT_MAX + 500)])], 1, 0)
    assert batcher.series == SERIES_PER_AGENT_MAX
    assert batcher.refused == {"too many": 501}
    messages = batcher.take()
    assert all(len(encode_ticks(message.blocks)) <= RECORD_BYTES_MAX - 16 for message in messages)
    assert sum(message.samples for message in messages) == SERIES_PER_AGENT_MAX


def test_a_full_agent_that_shrinks_and_grows_still_fits_its_records():
    batcher = Batcher()
    for tick in range(6):
        names = [f"{tick % 2}-{n}" for n in range(SERIES_PER_AGENT_MAX)]
        batcher.add(BASE, [Reading(layout(*names), [1.0] * len(names))], tick, 0)
        assert batcher.full
    messages = batcher.take()
    assert all(len(encode_ticks(message.blocks)) <= RECORD_BYTES_MAX - 16 for message in messages)
    assert sum(message.samples for message in messages) == 11 * SERIES_PER_AGENT_MAX


@pytest.mark.parametrize(
    ("series", "reason"),
    [
        (Series("m", (("x", "v" * 1025),)), "label value too long"),
        (Series("m", (("x" * 129, "v"),)), "name too long"),
        (Series("m" * 257), "name too long"),
        (Series("m", tuple((f"x{n:02}", "v") for n in range(33))), "too many labels"),
        (Series("m", (("x", "\udcff"),)), "not UTF-8"),
        (Series("m", (("x", "fine"),)), "duplicate"),
    ],
)
def test_a_series_that_no_collector_takes_is_left_out_and_the_others_keep_their_values(series, reason):
    batcher = Batcher()
    fine = Series("m", (("x", "fine"),))
    last = Series("m", (("x", "last"),))
    families = [Family("m", MetricType.GAUGE, ""), Family("m" * 257, MetricType.GAUGE, "")]
    batcher.add(BASE, [Reading(Layout(families, [fine, series, last]), [1.0, 2.0, 3.0])], 1, 0)
    assert taken(batcher) == [(1, "m,fine", 1), (1, "m,last", 3)]
    assert batcher.refused == {reason: 1}


def test_long_labels_cannot_outgrow_a_dictionary():
    batcher = Batcher()
    fat = layout(*(f"{n:05}" + "v" * 1000 for n in range(10_000)))
    batcher.add(BASE, [Reading(fat, [0.0] * 10_000)], 1, 0)
    assert 4_000 < batcher.series < 10_000
    assert batcher.refused == {"dictionary full": 10_000 - batcher.series}


def test_a_reading_that_does_not_fit_its_layout_is_dropped_and_counted():
    batcher = Batcher()
    batcher.add(BASE, [Reading(layout("a", "b"), [1.0]), *readings(layout("c"), 2)], 1, 0)
    assert taken(batcher) == [(1, "m,c", 2)]
    assert batcher.broken_readings == 1


def test_many_ticks_are_cut_into_records_that_fit():
    batcher = Batcher()
    wide = layout(*(f"{n}" for n in range(1_000)))
    for tick in range(100):
        batcher.add(BASE, [Reading(wide, [float(tick)] * 1_000)], tick, 0)
    messages = batcher.take()
    assert len(messages) > 1
    assert sum(message.samples for message in messages) == 100_000
    assert all(sum(len(block.values) for block in message.blocks) <= BLOCK_BYTES_MAX for message in messages)


def test_two_ticks_of_one_millisecond_are_set_apart():
    batcher, one = Batcher(), layout("a")
    batcher.add(BASE, readings(one, 1), 1000, 0)
    batcher.add(BASE, readings(one, 2), 1000, 0)
    assert taken(batcher) == [(1000, "m,a", 1), (1001, "m,a", 2)]


def test_the_newest_values_of_chosen_metrics_make_a_beat():
    batcher = Batcher()
    assert batcher.values(frozenset({"m"})) is None
    assert batcher.boottime_ms() == 0
    batcher.add(60_000, readings(layout("s", metric="slow"), 9), 900, 0)
    batcher.add(
        BASE, [*readings(layout("a", "b"), 1, 2), *readings(layout("z", metric="other"), 5)], 1000, 77
    )
    batcher.take()
    block = batcher.values(frozenset({"m", "slow", "none"}))
    assert block is not None
    assert block.wall_ms == 77
    assert sorted(read_back((block,))) == [(1000, "m,a", 1), (1000, "m,b", 2), (1000, "slow,s", 9)]
    assert batcher.values(frozenset({"nothing"})) is None
    again = batcher.values(frozenset({"m", "slow", "none"}))
    assert again is not None
    assert again.schema.schema_id == block.schema.schema_id
    assert batcher.boottime_ms() == 1000
