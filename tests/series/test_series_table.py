"""The series table: identities, selectors with PromQL's meaning of a missing label, and label frames."""

import re
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchbill_collector.labels import STRINGS, LabelFrame
from watchbill_collector.series import (
    NO_SOURCE,
    STALE,
    STALE_BITS,
    InvalidRegex,
    Matcher,
    MatchOp,
    SeriesTable,
    is_stale,
)


def m(name: str, op: str, value: str) -> Matcher:
    return Matcher(name, MatchOp(op), value)


def small() -> SeriesTable:
    table = SeriesTable()
    for host in ("web1", "web2", "db1"):
        source = table.source({"instance": host, "job": "node"} | ({"role": "db"} if host == "db1" else {}))
        keys = [table.key_for_source(source, "cpu", {"mode": mode}) for mode in ("idle", "user")]
        table.series(source, [*keys, table.key_for_source(source, "load", {})])
    table.series_of({"__name__": "ALERTS", "instance": "web1", "alertname": "Hot"})
    table.series_of({"__name__": "total"})
    return table


def test_the_same_labels_have_the_same_numbers() -> None:
    table = SeriesTable()
    one = table.source({"instance": "a", "job": "node"})
    assert one == table.source({"job": "node", "instance": "a", "rack": ""}) != NO_SOURCE
    key = table.key("up", {"mode": "x"})
    assert key == table.key("up", {"mode": "x", "gone": ""})
    assert table.series(one, [key]).tolist() == table.series(one, [key]).tolist() == [0]
    assert table.labels(0) == {"__name__": "up", "instance": "a", "job": "node", "mode": "x"}


def test_series_keep_the_order_of_the_keys_asked_for_and_repeats() -> None:
    table = SeriesTable()
    source = table.source({"instance": "a"})
    keys = [table.key(f"m{i}", {}) for i in range(5)]
    first = table.series(source, [keys[3], keys[1], keys[3]])
    assert first[0] == first[2] != first[1]
    every = table.series(source, keys)
    assert every[[3, 1]].tolist() == first[:2].tolist()
    assert len(set(every.tolist())) == len(table) == 5
    assert len(table.series(source, [])) == 0


def test_the_empty_source_holds_what_the_collector_makes() -> None:
    table = small()
    hot = table.series_of({"__name__": "ALERTS", "alertname": "Hot", "instance": "web1"})
    assert table.sources_of(np.array([hot], np.uint32)).tolist() == [NO_SOURCE]
    frame = LabelFrame.of(
        [{"__name__": "ALERTS", "alertname": "Hot", "instance": "web1"}, {"__name__": "new"}]
    )
    assert table.series_of_frame(frame).tolist() == [hot, len(table) - 1]


_LABELS = st.dictionaries(st.sampled_from(["__name__", "a", "b", "c"]), st.sampled_from(["", "x", "y"]))


@given(st.lists(_LABELS, max_size=12), st.lists(_LABELS, max_size=12))
def test_many_series_at_once_are_the_series_one_by_one(
    before: list[dict[str, str]], rows: list[dict[str, str]]
) -> None:
    """Whatever is there already, twice in the frame, or without any label."""
    table = SeriesTable()
    for labels in before:
        table.series_of(labels)
    ids = table.series_of_frame(LabelFrame.of(rows)).tolist()
    assert ids == [table.series_of(labels) for labels in rows]
    assert [table.labels(one) for one in ids] == [
        {name: text for name, text in sorted(labels.items()) if text} for labels in rows
    ]
    again = table.series_of_frame(LabelFrame.of([*rows, *before])).tolist()
    assert again == [table.series_of(labels) for labels in [*rows, *before]]


def test_two_threads_that_meet_new_texts_never_get_one_code() -> None:
    found: list[dict[str, int]] = []

    def meet(number: int) -> None:
        texts = [f"thread {number} text {each}" for each in range(2_000)] + [
            f"both {each}" for each in range(2_000)
        ]
        found.append({text: STRINGS.code(text) for text in texts})

    threads = [threading.Thread(target=meet, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    codes = {text: code for each in found for text, code in each.items()}
    assert len(set(codes.values())) == len(codes) == 4 * 2_000 + 2_000
    assert all(STRINGS.text(code) == text for each in found for text, code in each.items())


def test_a_label_of_the_source_wins_and_the_keys_is_exported() -> None:
    table = SeriesTable()
    source = table.source({"instance": "a", "exported_job": "x", "job": "node"})
    key = table.key_for_source(
        source, "up", {"job": "own", "exported_instance": "e", "instance": "i", "z": "1"}
    )
    assert table.key_labels(key) == {
        "__name__": "up",
        "exported_exported_instance": "i",
        "exported_exported_job": "own",
        "exported_instance": "e",
        "z": "1",
    }


@pytest.mark.parametrize(
    ("matchers", "count"),
    [
        ([m("__name__", "=", "cpu")], 6),
        ([m("__name__", "=", "cpu"), m("mode", "=", "idle")], 3),
        ([m("instance", "=~", "web.")], 7),
        ([m("instance", "=~", "web")], 0),
        ([m("instance", "=~", "web1|db1")], 7),
        ([m("instance", "=~", "(web1|db1)"), m("__name__", "=", "load")], 2),
        ([m("role", "=", "")], 8),
        ([m("role", "!=", "")], 3),
        ([m("role", "!=", "db")], 8),
        ([m("role", "=~", "")], 8),
        ([m("role", "=~", "db|")], 11),
        ([m("role", "=~", ".*")], 11),
        ([m("role", "=~", ".+")], 3),
        ([m("role", "!~", ".+")], 8),
        ([m("role", "!~", "d.*")], 8),
        ([m("never_seen", "=", "")], 11),
        ([m("never_seen", "!=", "x")], 11),
        ([m("never_seen", "=", "x")], 0),
        ([m("instance", "=", "")], 1),
        ([m("alertname", "=", ""), m("instance", "=", "web1")], 3),
        ([], 11),
    ],
)
def test_selectors_treat_a_missing_label_as_an_empty_one(matchers: list[Matcher], count: int) -> None:
    table = small()
    found = table.select(matchers)
    assert len(found) == count
    assert found.tolist() == sorted(found.tolist())


def test_a_selection_is_the_same_object_until_something_that_matches_is_added() -> None:
    table = small()
    matchers = [m("__name__", "=", "cpu")]
    before, generation = table.select(matchers), table.generation
    assert table.select(matchers) is before
    assert table.frame(before) is table.frame(before)
    table.series_of({"__name__": "other"})
    assert table.generation > generation
    assert table.select(matchers) is before
    table.series_of({"__name__": "cpu"})
    after = table.select(matchers)
    assert after.tolist() == [*before.tolist(), len(table) - 1]
    with pytest.raises(ValueError, match="read-only"):
        after[0] = 1


@pytest.mark.parametrize("pattern", ["a(", "a**", "[z-a]", r"\8", "a*\ud800", "(?<=x)y"])
def test_an_invalid_regex_is_refused_by_name(pattern: str) -> None:
    with pytest.raises(InvalidRegex, match="invalid regular expression") as caught:
        SeriesTable().select([m("instance", "=~", pattern)])
    assert caught.value.pattern == pattern


def test_a_dot_matches_a_newline_and_other_scripts() -> None:
    matcher = m("x", "=~", "a.b")
    assert matcher.matches("a\nb")
    assert matcher.matches("aüb")
    assert not matcher.matches("a\nb\n")


def test_a_hostile_regex_stays_linear() -> None:
    assert not m("x", "=~", "(a*)*b").matches("a" * 100_000)


def test_frames_name_labels_in_order_and_hold_zero_where_there_is_none() -> None:
    table = small()
    ids = table.select([])
    frame = table.frame(ids)
    assert list(frame.names) == sorted(frame.names)
    assert frame.dicts() == [table.labels(series) for series in ids.tolist()]
    assert table.frame(np.array([4, 4, 0], np.uint32)).dicts() == [table.labels(i) for i in (4, 4, 0)]
    assert len(table.frame(np.zeros(0, np.uint32))) == 0


def test_a_name_may_be_a_source_label_here_and_a_key_label_there() -> None:
    table = SeriesTable()
    with_rack = table.source({"instance": "a", "rack": "r1"})
    without = table.source({"instance": "b"})
    table.series(with_rack, [table.key_for_source(with_rack, "temp", {"rack": "own"})])
    table.series(without, [table.key_for_source(without, "temp", {"rack": "own"})])
    assert table.select([m("rack", "=", "r1")]).tolist() == [0]
    assert table.select([m("rack", "=", "own")]).tolist() == [1]
    assert table.select([m("rack", "=~", "r.|o.*")]).tolist() == [0, 1]
    assert table.label_values("rack") == ["own", "r1"]
    assert table.frame(table.select([])).dicts() == [table.labels(0), table.labels(1)]


def test_label_names_and_values_are_sorted_and_may_be_narrowed() -> None:
    table = small()
    assert table.label_names() == ["__name__", "alertname", "instance", "job", "mode", "role"]
    assert table.label_names(table.select([m("__name__", "=", "total")])) == ["__name__"]
    assert table.label_values("instance") == ["db1", "web1", "web2"]
    assert table.label_values("mode", table.select([m("role", "=", "db")])) == ["idle", "user"]
    assert table.label_values("nothing") == []


def test_stale_markers_are_told_from_other_nans() -> None:
    values = np.array([1.0, np.nan, 0.0])
    values[2:] = np.array([STALE_BITS], np.uint64).view(np.float64)
    assert is_stale(values).tolist() == [False, False, True]
    assert np.array([STALE]).view(np.uint64)[0] == STALE_BITS


def test_readers_see_whole_series_while_others_are_added() -> None:
    table = SeriesTable()
    wrong: list[object] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            ids = table.select([m("__name__", "=~", "m.*")])
            if any("instance" not in labels for labels in table.frame(ids).dicts()):
                wrong.append(ids)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for host in range(300):
        source = table.source({"instance": f"h{host}"})
        table.series(source, [table.key(f"m{i}", {"n": str(host % 7)}) for i in range(10)])
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert len(table.select([m("__name__", "=~", "m.*")])) == 3000


LABELS = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.sampled_from(["", "x", "y", "xy"]), max_size=3)
PATTERNS = ["", "x", "x|y", "x.*", ".*", ".+", "(x|xy)", "[xy]", "x?y?"]


@given(
    st.lists(st.tuples(LABELS, st.sampled_from(["m", "n"]), LABELS), max_size=12),
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c", "__name__"]),
            st.sampled_from(list(MatchOp)),
            st.sampled_from(PATTERNS),
        ),
        max_size=3,
    ),
    st.integers(0, 12),
)
def test_selectors_agree_with_a_plain_search(
    made: list[tuple[dict[str, str], str, dict[str, str]]],
    wanted: list[tuple[str, MatchOp, str]],
    asked_first: int,
) -> None:
    def plain(labels: dict[str, str], name: str, op: MatchOp, value: str) -> bool:
        text = labels.get(name, "")
        if op in (MatchOp.EQUAL, MatchOp.NOT_EQUAL):
            return (text == value) == (op is MatchOp.EQUAL)
        return (re.fullmatch(value, text) is not None) == (op is MatchOp.REGEX)

    table = SeriesTable()
    matchers = [Matcher(*each) for each in wanted]
    for position, (of_source, name, of_key) in enumerate(made):
        if position == asked_first:
            table.select(matchers)
        source = table.source(of_source)
        table.series(source, [table.key_for_source(source, name, of_key)])
    rows = [table.labels(series) for series in range(len(table))]
    assert table.select(matchers).tolist() == [
        series for series, labels in enumerate(rows) if all(plain(labels, *each) for each in wanted)
    ]


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz"), max_size=3), max_size=20))
def test_groups_number_equal_rows(rows: list[dict[str, str]]) -> None:
    frame = LabelFrame.of(rows)
    group, distinct = frame.groups()
    assert distinct.take(group).dicts() == frame.dicts()
    assert len(distinct) == len({tuple(sorted(row.items())) for row in rows})


def test_codes_are_for_the_life_of_the_process() -> None:
    code = STRINGS.code("something never removed")
    assert STRINGS.text(code) == "something never removed"
    assert STRINGS.find("something never removed") == code
    assert STRINGS.find("something never seen") is None
