"""What queries answer becomes series, whatever it is."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from watchbill_agent.checks.check import Samples
from watchbill_agent.checks.own_sql import ROWS_MAX, Query, put_rows

CELL = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.decimals(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.datetimes(),
    st.timedeltas(),
)


def put(
    columns: list[str], *rows: tuple[Any, ...], name: str = "q"
) -> tuple[dict[tuple[Any, ...], float], dict[str, float]]:
    samples = Samples()
    numbers = put_rows(Query(name=name, sql="SELECT"), columns, rows, samples)
    pairs = zip(samples.series, samples.values, strict=True)
    return {(one.name, *one.labels): value for one, value in pairs}, dict(numbers)


def test_times_and_durations_are_seconds_and_text_is_labels() -> None:
    row = (datetime(2026, 1, 1, tzinfo=UTC), timedelta(minutes=2), Decimal("1.5"), "a", b"\xff", None)
    found, numbers = put(["at", "for", "price", "shop", "raw", "nothing"], row)
    labels = (("raw", "\ufffd"), ("shop", "a"))
    assert found["q_at", *labels] == 1_767_225_600
    assert put(["at"], (datetime(2026, 1, 1),))[1] == {"q": 1_767_225_600}, "without a zone, it is UTC"
    assert found["q_for", *labels] == 120
    assert found["q_price", *labels] == 1.5
    assert numbers == {"q_at": 1_767_225_600, "q_for": 120, "q_price": 1.5}
    assert found["watchbill_check_query_dropped", ("query", "q")] == 0


def test_labels_that_say_who_looks_are_the_checks_own() -> None:
    found, _ = put(["n", "check", "__x", "1st col"], (1, "a", "b", "c"))
    assert ("q", ("_1st_col", "c"), ("exported___x", "b"), ("exported_check", "a")) in found


def test_what_is_there_twice_or_too_much_is_counted() -> None:
    found, _ = put(["n"], *((number,) for number in range(ROWS_MAX + 3)))
    assert found["q",] == 0
    assert found["watchbill_check_query_dropped", ("query", "q")] == ROWS_MAX - 1 + 3


@settings(max_examples=40)
@given(st.lists(st.text(max_size=4), max_size=4), st.lists(st.tuples(CELL, CELL, CELL), max_size=4))
def test_no_answer_stumbles(columns: list[str], rows: list[tuple[Any, ...]]) -> None:
    found, _ = put(columns, *rows)
    assert len(found) >= 1
