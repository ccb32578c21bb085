"""What plugins print: every form of performance data to base units, and nothing that a plugin prints stumbles."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchbill_agent.checks.check import Samples, Verdict
from watchbill_agent.checks.perfdata import Perf, Range, put_perfdata, read_answer, read_perfdata, read_range
from watchbill_agent.checks.plugin_json import NotAnAnswer, read_document

LOW, HIGH = -math.inf, math.inf


@pytest.mark.parametrize(
    ("word", "value", "unit"),
    [
        ("5", 5, ""),
        ("-1.5e2", -150, ""),
        (".5s", 0.5, "seconds"),
        ("7ms", 0.007, "seconds"),
        ("12us", 0.000012, "seconds"),
        ("3ns", 0.000000003, "seconds"),
        ("2m", 120, "seconds"),
        ("1h", 3600, "seconds"),
        ("2d", 172800, "seconds"),
        ("45%", 0.45, "ratio"),
        ("3B", 3, "bytes"),
        ("3KB", 3000, "bytes"),
        ("3kB", 3000, "bytes"),
        ("2MB", 2_000_000, "bytes"),
        ("2MiB", 2 * 1024**2, "bytes"),
        ("1TiB", 1024**4, "bytes"),
        ("5EB", 5e18, "bytes"),
        ("8b", 8, "bits"),
        ("8Mb", 8e6, "bits"),
        ("21C", 21, "C"),
        ("230V", 230, "volts"),
        ("3iB", 3, "iB"),
    ],
)
def test_a_value_comes_in_its_base_unit(word: str, value: float, unit: str) -> None:
    assert read_perfdata(f"x={word}") == ((Perf("x", value, unit),), 0)


@pytest.mark.parametrize(
    ("word", "range_"),
    [
        ("10", Range(0, 10)),
        ("10:", Range(10, HIGH)),
        ("~:10", Range(LOW, 10)),
        (":10", Range(0, 10)),
        ("10:20", Range(10, 20)),
        ("@10:20", Range(10, 20, inside=True)),
        ("-5:-1.5", Range(-5, -1.5)),
        ("", None),
        ("@", None),
        ("20:10", None),
        ("80%", None),
        ("~", None),
        ("1:2:3", None),
    ],
)
def test_a_range_says_when_to_alert(word: str, range_: Range | None) -> None:
    assert read_range(word) == range_


def test_bounds_are_in_the_unit_of_their_value() -> None:
    found, malformed = read_perfdata("t=250ms;500;1000;0;2000 'a ''b'' c'=50%;@10:20;~:90")
    assert malformed == 0
    assert found == (
        Perf("t", 0.25, "seconds", False, Range(0, 0.5), Range(0, 1), 0, 2),
        Perf("a 'b' c", 0.5, "ratio", False, Range(0.1, 0.2, inside=True), Range(LOW, 0.9)),
    )


def test_what_cannot_be_read_is_counted_and_the_rest_is_kept() -> None:
    found, malformed = read_perfdata(
        "ok=1 =2 nothing 0,5=0,5 'open=3 x=1e999 ok=2 y=2;bad;5 z=U n=1;2;3;4;5;6"
    )
    assert [perf.label for perf in found] == ["ok", "y", "z", "n"]
    assert found[1].crit == Range(0, 5)
    assert found[2].value is None
    assert malformed == 8


def test_performance_data_stands_behind_the_first_line_and_behind_the_text() -> None:
    answer = read_answer("DISK OK | a=1 b=2\nlong one\nlong two | c=3\nd=4 \n e=5\n")
    assert (answer.line, answer.more) == ("DISK OK", ("long one", "long two"))
    assert [(perf.label, perf.value) for perf in answer.perfs] == [(x, i) for i, x in enumerate("abcde", 1)]


def test_values_counters_and_bounds_become_series() -> None:
    samples = Samples()
    put_perfdata(samples, read_perfdata("t=5s;10;20:;0 n=7c v=5;@1:2")[0])
    said = {
        (one.name.removeprefix("watchbill_check_perfdata"), *dict(one.labels).values()): value
        for one, value in zip(samples.series, samples.values, strict=True)
    }
    assert said == {
        ("", "t", "seconds"): 5,
        ("_warn_below", "t", "seconds"): 0,
        ("_warn_above", "t", "seconds"): 10,
        ("_crit_below", "t", "seconds"): 20,
        ("_min", "t", "seconds"): 0,
        ("_total", "n"): 7,
        ("", "v"): 5,
        ("_warn_inside_low", "v"): 1,
        ("_warn_inside_high", "v"): 2,
    }


@given(st.text(alphabet="a'=;:@~| \n1e9.,-%U\0é", max_size=200) | st.text(max_size=200))
def test_nothing_that_a_plugin_prints_stumbles(text: str) -> None:
    answer = read_answer(text)
    samples = Samples()
    put_perfdata(samples, answer.perfs)
    assert all(math.isfinite(value) for value in samples.values)
    assert len(set(samples.series)) == len(samples.series)


def test_a_document_names_its_verdict_its_message_and_its_metrics() -> None:
    samples = Samples()
    document = {
        "status": "Warning",
        "message": "3 wait",
        "metrics": {
            "waiting": 3,
            "done_total": [
                {"value": 8, "type": "counter", "labels": {"shop": "a"}},
                {"value": 9, "type": "counter", "labels": {"shop": "b"}},
            ],
            "up": True,
        },
    }
    assert read_document(json.dumps(document), samples) == (Verdict.WARNING, "3 wait", 0)
    assert [(one.name, one.labels) for one in samples.series] == [
        ("waiting", ()),
        ("done_total", (("shop", "a"),)),
        ("done_total", (("shop", "b"),)),
        ("up", ()),
    ]
    assert samples.values == [3, 8, 9, 1]


@pytest.mark.parametrize(
    "metrics",
    [
        {"bad name": 1},
        {"watchbill_x": 1},
        {"probe_success": 1},
        {"x": "1"},
        {"x": None},
        {"x": 10**400},
        {"x": {"value": 1, "type": "summary"}},
        {"x": {"value": 1, "labels": {"check": "other"}}},
        {"x": {"value": 1, "labels": {"a": 1}}},
        {"x": {"value": 1, "help": 5}},
    ],
)
def test_a_metric_that_cannot_be_used_is_counted(metrics: dict[str, object]) -> None:
    samples = Samples()
    assert read_document(json.dumps({"status": 0, "metrics": {**metrics, "y": 1}}), samples)[2] == 1
    assert [one.name for one in samples.series] == ["y"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "OK",
        "[]",
        '{"status": "fine"}',
        '{"status": 4}',
        '{"status": true}',
        '{"metrics": []}',
        '{"message": 1}',
        '{"metrics": {"x": NaN}}',
        "[" * 100_000,
    ],
)
def test_what_is_no_answer_says_why(text: str) -> None:
    with pytest.raises(NotAnAnswer, match=r"got .*|wanted"):
        read_document(text, Samples())
