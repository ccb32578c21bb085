"""Where warnings point to, as Prometheus counts: lines and bytes from 1, of the argument that is meant."""

import pytest

from watchbill_collector.promql import ast
from watchbill_collector.promql.engine import Engine, Result
from watchbill_collector.promql.memory import MemoryStorage
from watchbill_collector.promql.parse import parse


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("rate(foo[5m])", [("1:1", "1:6")]),
        ("  quantile by (a, by) ( 0.5,\n\tfoo )", [("1:3", "1:25", "2:2")]),
        ("sum(foo) without (x)", [("1:1", "1:5")]),
        ("abs((( foo)))", [("1:1", "1:8")]),
        ("abs((foo) + (bar))", [("1:1", "1:5")]),
        ("time() - max(rate(foo[5m] @ end()))", [("1:1",), ("1:10", "1:14"), ("1:14", "1:19")]),
        ("sum by (sum) (sum) + on(x) group_left(y) abs(bar)", [("1:1", "1:15"), ("1:42", "1:46")]),
        ("# rate(x)\nlabel_join(foo, 'a)(', \",\", 'b')", [("2:1", "2:12", "2:17", "2:24", "2:29")]),
        ('foo{\u00e4="\u00f6"} or rate(foo[5m])'.replace("\u00e4", "a"), [("1:16", "1:21")]),
    ],
)
def test_calls_and_arguments_are_found_in_the_text(text: str, places: list[tuple[str, ...]]) -> None:
    assert [call.at for call in _calls(parse(text))] == places


def _calls(expr: ast.Expr) -> list[ast.Call | ast.Aggregate]:
    if isinstance(expr, ast.Call):
        return [expr, *(call for arg in expr.args for call in _calls(arg))]
    if isinstance(expr, ast.Aggregate):
        return [expr, *([] if expr.param is None else _calls(expr.param)), *_calls(expr.expr)]
    if isinstance(expr, ast.Binary):
        return _calls(expr.lhs) + _calls(expr.rhs)
    return _calls(expr.expr) if isinstance(expr, ast.Paren | ast.Negation | ast.Subquery) else []


def _answer(text: str, start_ms: int = 0, steps: int = 1) -> Result:
    storage = MemoryStorage()
    for bound, counts in {"1": (5, 5), "2": (4, 3), "8": (7, 2), "+Inf": (9, 9), "x": (1, 1)}.items():
        labels = {"__name__": 'h"_bucket', "le": bound}
        storage.add(
            labels, [(start_ms + number * 60_000, float(count)) for number, count in enumerate(counts)]
        )
    engine = Engine()
    if steps == 1:
        return engine.instant(text, start_ms, storage)
    return engine.range(text, start_ms, start_ms + (steps - 1) * 60_000, 60_000, storage)


def test_a_warning_ends_with_its_place() -> None:
    found = _answer('1 + quantile(2, {__name__=~"h.*"})').warnings
    assert found == ("PromQL warning: quantile value should be between 0 and 1, got 2 (1:14)",)
    found = _answer("histogram_quantile(1e6,\n {__name__=~'h.*'})").warnings
    assert found == (
        "PromQL warning: quantile value should be between 0 and 1, got 1e+06 (1:20)",
        (
            'PromQL warning: bucket label "le" is missing or has a malformed value of "x"'
            ' for metric name "h\\"_bucket" (2:2)'
        ),
    )
    found = _answer("sort({__name__=~'h.*'} @ 0) or sort({__name__=~'h.*'})", steps=2).warnings
    assert found == (
        "PromQL warning: sort is ineffective for range queries since results are always ordered by labels (1:32)",
    )


def test_what_a_histogram_needed_is_told_with_how_much_and_when() -> None:
    fixed = (
        "PromQL info: input to histogram_quantile needed to be fixed for monotonicity (see "
        "https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile)"
        ' for metric name "h\\"_bucket", from buckets 2 to '
    )
    noon = 1_700_049_600_000
    expression = "histogram_quantile(0.5, {le=~'[^x]+'})"
    assert _answer(expression, noon).infos == (
        f"{fixed}2, with a max diff of 1, over 1 samples from 2023-11-15T12:00:00Z to 2023-11-15T12:00:00Z (1:25)",
    )
    assert _answer(expression, noon, steps=2).infos == (
        f"{fixed}8, with a max diff of 3, over 2 samples from 2023-11-15T12:00:00Z to 2023-11-15T12:01:00Z (1:25)",
    )
    assert _answer("histogram_quantile(-1, {le=~'[^x]+'})", noon).infos == ()
