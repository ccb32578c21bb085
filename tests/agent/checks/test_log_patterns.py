"""Patterns count lines, keep numbers, fail in time, and never run for ever."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchbill.config import Duration
from watchbill_agent.checks.check import Samples
from watchbill_agent.checks.log_patterns import RECENT_MAX, Pattern, PatternOptions, Patterns
from watchbill_agent.checks.searching import ABANDONED_PER_LOOK_MAX, Searching, literal_of


def pattern(regex: str, **more) -> Pattern:
    return Pattern(PatternOptions(name="p", regex=regex, **more))


def add(one: Pattern | Patterns, *lines: bytes) -> None:
    with Searching() as searching:
        one.add(b"".join(line + b"\n" for line in lines), searching)


def values(one: Pattern) -> dict[tuple[str, ...], float]:
    samples = Samples()
    one.put(samples)
    return {
        (series.name, *(value for name, value in series.labels if name == "le")): value
        for series, value in zip(samples.series, samples.values, strict=True)
    }


@pytest.mark.parametrize("regex", ["error", "(?i)ERROR", "err(?:or)?", "e.*r$", "^an error", "error|fault"])
def test_lines_are_counted_and_not_matches(regex):
    one = pattern(regex)
    add(one, b"an error error", b"", b"fine", b"an error")
    assert one.matched == 2


@pytest.mark.parametrize(
    ("regex", "literal"),
    [
        ("timed out after (\\d+) ms", b"timed out after "),
        ("a+bcd*e", b"bc"),
        ("x(?:abc)+yz", b"yz"),
        ("abc|d", b""),
        ("(?i)abc", b""),
        ("[abc]def", b"def"),
        ("a\\.bc\\d", b"a.bc"),
        ("^out of memory$", b"out of memory"),
        ("ab{0}c", b"a"),
        ("(abc|d)ef", b"ef"),
        ("é+x", "é".encode()),
    ],
)
def test_a_line_without_the_literal_needs_no_search(regex, literal):
    assert literal_of(regex) == literal


@given(
    st.from_regex(re.compile(r"[ab(.*+?|)^\\]{1,12}"), fullmatch=True),
    st.text(alphabet="ab.", max_size=8),
)
def test_the_literal_is_in_whatever_is_found(regex, text):
    try:
        found = re.search(regex, text)
    except re.error:
        return
    if found is not None:
        assert literal_of(regex).decode() in text


def test_the_last_number_is_a_gauge():
    one = pattern(r"queue=(\S+)", value="gauge")
    add(one, b"queue=3", b"queue=nan", b"queue=1e400", b"queue=4.5", b"queue=x")
    assert values(one)[("log_pattern_value",)] == 4.5


def test_all_numbers_are_a_histogram():
    one = pattern(r"took (\d+)", value="histogram", bounds=[10.0, 20.0])
    add(one, b"took 5", b"took 10", b"took 15", b"took 99")
    found = values(one)
    assert [found[("log_pattern_values_bucket", le)] for le in ("10", "20", "+Inf")] == [2, 3, 4]
    assert found[("log_pattern_values_sum",)] == 129


def test_too_many_lines_within_the_time_fail_and_are_forgotten_after_it():
    one = pattern("bad", fail_if=3, fail_within=Duration(60))
    add(one, b"bad", b"bad")
    assert one.judge(1_000_000) == 0
    add(one, b"bad")
    assert one.judge(1_030_000) == 3
    assert one.judge(1_059_999) == 3
    assert one.judge(1_060_000) == 0


def test_a_clock_that_goes_back_keeps_no_failure_for_ever():
    one = pattern("bad", fail_if=1, fail_within=Duration(60))
    add(one, b"bad")
    assert one.judge(9_000_000) == 1
    assert one.judge(1_000_000) == 0


def test_what_is_remembered_of_looks_is_bounded():
    one = pattern("bad", fail_if=1, fail_within=Duration(86_400))
    for number in range(3 * RECENT_MAX):
        add(one, b"bad")
        one.judge(1_000_000 + number)
    assert len(one.memory()[-1]) == RECENT_MAX
    assert one.judge(1_000_000 + 3 * RECENT_MAX) == 3 * RECENT_MAX


def test_a_pattern_goes_on_where_it_was_and_a_changed_one_begins_anew():
    one = pattern("bad", value="histogram", fail_if=2)
    add(one, b"bad")
    one.judge(1_000)
    again, other = pattern("bad", value="histogram", fail_if=2), pattern("worse")
    for each in (again, other):
        each.recall(one.memory())
    assert (again.matched, other.matched) == (1, 0)
    assert again.memory() == one.memory()


def test_an_expression_that_would_run_for_ever_is_ended_and_rests(monkeypatch):
    monkeypatch.setattr("watchbill_agent.checks.searching.SEARCH_CPU_S_MAX", 0.002)
    one = pattern("(a+)+$")
    add(one, *[b"a" * 60 + b"!"] * (ABANDONED_PER_LOOK_MAX + 5), b"aaa")
    assert one.abandoned == ABANDONED_PER_LOOK_MAX + 6
    add(one, b"aaa")
    assert one.matched == 1, "the next look gives it another chance"
