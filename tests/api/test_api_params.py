"""Times, durations, limits and forms, as Prometheus reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchbill_collector.api.params import (
    FIELDS_MAX,
    TIME_MS_MAX,
    limit_field,
    parse_duration_ms,
    parse_time,
    quoted,
    read_fields,
    steps_between,
)
from watchbill_collector.promql.errors import BadQuery


@pytest.mark.parametrize(
    ("text", "time_ms"),
    [
        ("0", 0),
        ("1700000000", 1_700_000_000_000),
        ("1700000000.781", 1_700_000_000_781),
        ("1.7e9", 1_700_000_000_000),
        ("-1.5", -1_500),
        (".5", 500),
        ("+1", 1_000),
        ("1970-01-01T00:00:01Z", 1_000),
        ("1970-01-01T00:00:01.5Z", 1_500),
        ("1970-01-01T00:00:01.123456789Z", 1_123),
        ("1970-01-01T02:00:00+02:00", 0),
        ("1969-12-31T19:00:00-05:00", 0),
        ("1969-12-31T23:59:59.5Z", -500),
        ("9999-12-31T23:59:59Z", 253_402_300_799_000),
        ("-292273086-05-16T16:47:06Z", -TIME_MS_MAX),
        ("+292309607-05-16T07:12:55.999999999Z", TIME_MS_MAX),
    ],
)
def test_times_in_both_spellings(text, time_ms):
    assert parse_time(text) == time_ms


@pytest.mark.parametrize(
    "text",
    [
        "", " 1", "1 ", "1_000", "0x10", "nan", "inf", "-Inf", "1e400", "1e300", "now", "\uff11",
        "2026-11-21", "2026-11-21 12:00:00Z", "2026-11-21T12:00:00", "2026-13-21T12:00:00Z",
        "2026-11-21T24:00:00Z", "2026-11-21T12:00:60Z", "2026-11-21T12:00:00+99:99", "0000-01-01T00:00:00Z",
        "2026-11-21t12:00:00z", "2026-11-21T12:00:00Z\n",
    ],
)  # fmt: skip
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="to a valid timestamp"):
        parse_time(text)


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [
        ("15", 15_000),
        ("0.25", 250),
        ("15s", 15_000),
        ("1h30m", 5_400_000),
        ("1y1w1d1h1m1s1ms", 32_230_861_001 - 0),
        ("500ms", 500),
        ("0s", 0),
        ("-5", -5_000),
    ],
)
def test_durations_in_both_spellings(text, duration_ms):
    if text.startswith("1y"):
        duration_ms = (((365 + 7 + 1) * 24 + 1) * 60 + 1) * 60_000 + 1_001
    assert parse_duration_ms(text) == duration_ms


@pytest.mark.parametrize(
    "text", ["", "s", "1m1h", "5 s", "-5s", "1x", "1.5h", "1e300", "9" * 400 + "s", "1h\n"]
)
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="to a valid duration"):
        parse_duration_ms(text)


@given(st.text(max_size=40))
def test_no_text_breaks_the_readers(text):
    for read in (parse_time, parse_duration_ms):
        try:
            assert isinstance(read(text), int)
        except ValueError as exc:
            said = str(exc)
            assert len(said) < 2_000


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_no_form_breaks_the_reader(query, form):
    try:
        fields = read_fields(query, form)
    except BadQuery:
        return
    assert all(isinstance(fields.one(name), str) for name in fields.values)


@given(st.text())
def test_what_is_quoted_is_one_short_printable_line(text):
    shown = quoted(text)
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) <= 10 * 120 + 2


def test_too_many_fields_are_one_refusal():
    with pytest.raises(BadQuery, match="error parsing form values"):
        read_fields(b"a&" * (FIELDS_MAX + 1))


@pytest.mark.parametrize("text", ["-1", "1.5", "x", "1" * 30, "1 "])
def test_limits_are_whole_and_not_negative(text):
    with pytest.raises(BadQuery, match='invalid parameter "limit"'):
        limit_field(read_fields(b"limit=" + text.encode()))


def test_steps_are_counted_with_both_ends():
    assert steps_between(0, 60_000, 15_000) == 5
    assert steps_between(0, 0, 1) == 1
    assert steps_between(0, 11_000_000, 1_000) == 11_001
