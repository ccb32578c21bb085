"""`promql --json-lines`: a real process on pipes."""

import io
import json
import subprocess
import sys

import pytest

from watchbill_collector.promql.jsonlines import Session, serve

LOAD = {"op": "load", "series": [{"labels": {"__name__": "m"}, "points": [[0, "1.5"], [60_000, "stale"]]}]}


def test_a_process_answers_each_line_with_one_and_survives_bad_ones() -> None:
    lines = [
        json.dumps({"op": "reset"}),
        json.dumps(LOAD),
        json.dumps({"op": "instant", "expr": "m", "time_ms": 1000}),
        "this is not JSON",
        "[1, 2]",
        "[" * 100_000,
        json.dumps({"op": "instant", "expr": "m +", "time_ms": 0}),
        json.dumps({"op": "range", "expr": "m", "start_ms": 0, "end_ms": 120_000, "step_ms": 30_000}),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "watchbill_collector.promql"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["status"] for answer in answers] == [*["success"] * 3, *["error"] * 4, "success"]
    assert answers[2]["data"]["result"] == [{"metric": {"__name__": "m"}, "value": [1, "1.5"]}]
    assert "not JSON" in answers[3]["error"]
    assert answers[6]["errorType"] == "bad_data"
    assert answers[7]["data"]["result"][0]["values"] == [[0, "1.5"], [30, "1.5"]]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({}, "unknown op None"),
        ({"op": "drop"}, "unknown op 'drop'"),
        ({"op": "instant", "time_ms": 0}, "'expr' has to be a str"),
        ({"op": "instant", "expr": "m"}, "'time_ms' has to be whole milliseconds"),
        ({"op": "instant", "expr": "m", "time_ms": True}, "'time_ms' has to be whole milliseconds"),
        ({"op": "instant", "expr": "m", "time_ms": 2**60}, "'time_ms' has to be whole milliseconds"),
        ({"op": "range", "expr": "m", "start_ms": 0, "end_ms": 1}, "'step_ms'"),
        ({"op": "load", "series": {}}, "'series' has to be a list"),
        ({"op": "load", "series": [1]}, "a series is an object"),
        ({"op": "load", "series": [{"labels": {"a": 1}, "points": []}]}, "label values are strings"),
        ({"op": "load", "series": [{"labels": {}, "points": [[1]]}]}, "a point is"),
        ({"op": "load", "series": [{"labels": {}, "points": [[1, "x"]]}]}, "not a number"),
        ({"op": "load", "series": [{"labels": {}, "points": [["x", "1"]]}]}, "whole milliseconds"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(request_: dict, error: str) -> None:
    answer = Session().request(request_)
    assert answer["status"] == "error"
    assert error in answer["error"]


def test_a_load_with_one_bad_point_loads_nothing() -> None:
    session = Session()
    broken = {"labels": {"__name__": "n"}, "points": [[0, "oops"]]}
    assert session.request({"op": "load", "series": [*LOAD["series"], broken]})["status"] == "error"
    answer = session.request({"op": "instant", "expr": "m", "time_ms": 0})
    assert answer["data"]["result"] == []


def test_a_reset_forgets_everything() -> None:
    out = io.StringIO()
    requests = [LOAD, {"op": "reset"}, {"op": "instant", "expr": "m", "time_ms": 0}]
    serve(io.StringIO("\n\n".join(map(json.dumps, requests)) + "\n"), out)
    assert json.loads(out.getvalue().splitlines()[-1])["data"]["result"] == []
