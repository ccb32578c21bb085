"""Series notation: what each word expands to, and what is refused."""

import math

import pytest

from watchbill_collector.rulestest.notation import BadNotation, Gap, parse_series, parse_values

NO, END = Gap.NOTHING, Gap.STALE
VALUES: dict[str, list[object]] = {
    "": [],
    "1 -2 +3 .5 4. 1e3 -1E-2": [1, -2, 3, 0.5, 4, 1000, -0.01],
    "Inf -Inf": [math.inf, -math.inf],
    "1x3": [1, 1, 1, 1],
    "7x0": [7],
    "1+2x3": [1, 3, 5, 7],
    "10-1x2 5": [10, 9, 8, 5],
    "-1-1x2": [-1, -2, -3],
    "_ 1 _x3 2": [NO, 1, NO, NO, NO, 2],
    "_x0": [],
    "1 stale 2": [1, END, 2],
    "0x10": [0] * 11,
    "1+0.1x3": [1, 1.1, 1.2000000000000002, 1.3000000000000003],
    "  1\n\t2  ": [1, 2],
}


@pytest.mark.parametrize("text", VALUES)
def test_values_expand(text: str) -> None:
    assert parse_values(text) == VALUES[text]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("stalex3", '"stalex3"'),
        ("1+1 x3", '"1+1"'),
        ("1+2x-3", '"1+2x-3"'),
        ("1_000", '"1_000"'),
        ("0x1F", '"0x1F"'),
        ("a+bx3", '"a+bx3"'),
        ("1,2", '"1,2"'),
        ("{{schema:1 sum:2}}", "native histograms are not supported"),
        ("1x999999999999999999999", "more than 2,000,000 values"),
        ("1x1500000 1x1500000", "more than 2,000,000 values"),
        ("_x5000000", "more than 2,000,000 values"),
    ],
)
def test_what_is_no_value_is_refused_by_name(text: str, told: str) -> None:
    with pytest.raises(BadNotation) as caught:
        parse_values(text)
    assert told in str(caught.value)


def test_not_a_number_is_a_value() -> None:
    (value,) = parse_values("NaN")
    assert isinstance(value, float)
    assert math.isnan(value)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("up", {"__name__": "up"}),
        ("", {}),
        (" {} ", {}),
        ("up{}", {"__name__": "up"}),
        ("""up{job="node", instance='a:1',}""", {"__name__": "up", "job": "node", "instance": "a:1"}),
        ('{__name__="up",a="b"}', {"__name__": "up", "a": "b"}),
        ('{a="b"}', {"a": "b"}),
        ("job:x:rate5m", {"__name__": "job:x:rate5m"}),
        ("sum", {"__name__": "sum"}),
        ('by{on="1"}', {"__name__": "by", "on": "1"}),
        ('up{a="",b="c"}', {"__name__": "up", "b": "c"}),
        (r'up{path="C:\\x\n\"q\""}', {"__name__": "up", "path": 'C:\\x\n"q"'}),
    ],
)
def test_a_series_is_read(text: str, labels: dict[str, str]) -> None:
    assert parse_series(text) == labels


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('up{a=~"b"}', "=~"),
        ('up{a!="b"}', "!="),
        ('up{a="b",a="c"}', "twice"),
        ('up{__name__="x"}', "twice"),
        ("up[5m]", "not a series"),
        ("up offset 5m", "not a series"),
        ("up + up", "not a series"),
        ("up{", "parse error"),
        ("1", "not a series"),
    ],
)
def test_what_is_no_series_is_refused(text: str, told: str) -> None:
    with pytest.raises(BadNotation) as caught:
        parse_series(text)
    assert told in str(caught.value)
