"""Parsing, printing, and the refusal of what we do not evaluate."""

import subprocess
import sys
import threading

import pytest

from watchbill_collector.promql import ast
from watchbill_collector.promql.errors import BadQuery, ExecutionFailed, NotSupported, PromqlError
from watchbill_collector.promql.lexer import EXPRESSION_CHARS_MAX, NESTING_MAX, OPERATORS_MAX
from watchbill_collector.promql.parse import parse
from watchbill_collector.promql.plan import Plans, plan
from watchbill_collector.promql.pretty import format_query
from watchbill_collector.promql.text import duration_text, float_text


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("foo", "foo"),
        ('foo{b="1",a!="2"}', 'foo{a!="2",b="1"}'),
        ('{__name__="foo",a=~"b"}', '{__name__="foo",a=~"b"}'),
        ("{'a.b', 'c d'='e'}", '{"c d"="e",__name__="a.b"}'),
        ("foo @ -5", "foo @ -5.000"),
        ("foo @ 1.5 offset 1.5", "foo @ 1.500 offset 1s500ms"),
        ("foo @ start() offset - 5m", "foo @ start() offset -5m"),
        ("foo[1_000] @ 5m", "foo[16m40s] @ 300.000"),
        ("max_over_time(rate(foo[5m])[1h:1.5] @ end())", "max_over_time(rate(foo[5m])[1h:1s500ms] @ end())"),
        ("foo[1d:]", "foo[1d:]"),
        ("sum(foo) by (a,b,)", "sum by (a, b) (foo)"),
        ("sum without () (foo)", "sum without () (foo)"),
        ("topk(5, offset) by (offset)", "topk by (offset) (5, offset)"),
        ("a + ignoring(x) group_left(y, z) b", "a + ignoring (x) group_left (y, z) b"),
        ("a > bool on() b", "a > bool on () b"),
        ("a and on(x) b unless c", "a and on (x) b unless c"),
        ("-foo ^ 2", "-foo ^ 2"),
        ("1_000 + 0x1F * .5", "1000 + 31 * 0.5"),
        ("1e300 * 1e-7", f"1{'0' * 300} * 0.0000001"),
        (r'"a\xc3\xa9\n\""', '"a\u00e9\\n\\""'),
        ("`raw\\n`", '"raw\\\\n"'),
        ("(((foo)))", "(((foo)))"),
        ("foo # what follows is a comment offset 5", "foo"),
    ],
)
def test_an_expression_is_printed_as_prometheus_prints_it(text: str, printed: str) -> None:
    assert str(parse(text)) == printed
    assert str(parse(printed)) == printed


@pytest.mark.parametrize(
    ("text", "feature"),
    [
        ("foo anchored", "'anchored'"),
        ("rate(foo[5m] smoothed)", "'smoothed'"),
        ("foo + fill(0) bar", "'fill'"),
        ("foo + on(a) fill_left(0) bar", "'fill'"),
        ("rate(foo[5m + 1m])", "duration expression"),
        ("rate(foo[step()])", "duration expression"),
        ("rate(foo[(5m)])", "duration expression"),
        ("rate(foo[(1m+2m)*2])", "duration expression"),
        ("foo offset (5m)", "duration expression"),
        ("foo offset -(5m)", "duration expression"),
        ("foo </ 1", "'</'"),
        ('foo{a="b" or c="d"}', "'or' between label matchers"),
        ("limitk(1, foo)", "'limitk'"),
        ("limit_ratio(0.5, foo)", "'limit_ratio'"),
        ("info(foo)", "info()"),
        ("histogram_count(foo)", "histogram_count()"),
        ("histogram_avg(foo)", "native histograms"),
        ('histogram_quantiles(foo, "q", 0.5)', "histogram_quantiles()"),
        ("start() + 1", "start()"),
        ("max_of(1, 2)", "max_of()"),
    ],
)
def test_what_is_not_evaluated_is_refused_by_its_name(text: str, feature: str) -> None:
    with pytest.raises(NotSupported, match="not supported") as refusal:
        plan(text)
    assert feature in str(refusal.value)
    assert refusal.value.kind == "bad_data"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing",
        "foo{",
        "foo bar",
        "{}",
        '{a=""}',
        "rate(foo)",
        "rate(5)",
        "sum(1)",
        "nope(foo)",
        "holt_winters(foo[5m], 0.1, 0.1)",
        "1 == 2",
        "1 and 2",
        "foo[5m] + 1",
        "foo[0s]",
        "foo[abc]",
        "foo[1e20]",
        "foo offset 1e30",
        "foo @ NaN",
        "foo @ -Inf",
        "foo @ 1e300",
        'foo{a=~"("}',
        r'foo{a=~"(?=x)"}',
        "foo and on(a) group_left() bar",
        "x" * (EXPRESSION_CHARS_MAX + 1),
        "(" * (NESTING_MAX + 1),
        "1" + "+1" * (OPERATORS_MAX + 1),
        "-" * 60_000 + "1",
        "abs(" * 30_000,
    ],
)
def test_a_bad_expression_is_a_bad_query(text: str) -> None:
    with pytest.raises(BadQuery):
        plan(text)


def test_strings_that_can_never_work_are_refused_when_planned() -> None:
    for text in (
        'label_replace(foo, "x", "$1", "y", "(")',
        r'label_replace(foo, "\xff", "$1", "y", "(.*)")',
        r'label_join(foo, "x", ",", "\xff")',
    ):
        with pytest.raises(ExecutionFailed, match="invalid"):
            plan(text)


def test_the_parser_never_prints_and_never_ends_the_process() -> None:
    program = """
import sys
from watchbill_collector.promql.errors import PromqlError
from watchbill_collector.promql.plan import plan
for text in ("foo @ -5", "foo[1e20]", "(" * 30000, "1" + "^1" * 30000, 'foo{a=~"("}', "\\x00", "\\ud800"):
    try:
        plan(text)
    except PromqlError as error:
        sys.stdout.write("refused\\n")
    else:
        sys.stdout.write("fine\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
    assert done.stdout.split() == ["fine", *["refused"] * 6]


def test_the_deepest_expression_allowed_fits_a_small_stack() -> None:
    failures: list[PromqlError] = []

    def work() -> None:
        for text in ("a" + "+a" * 140, "(" * NESTING_MAX + "a" + ")" * NESTING_MAX, "-" * 140 + "a"):
            try:
                plan(text)
            except PromqlError as error:
                failures.append(error)

    before = threading.stack_size(512 * 1024)
    try:
        thread = threading.Thread(target=work, name="small-stack")
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert failures == []


def test_every_node_knows_what_it_evaluates_to() -> None:
    kinds = {
        text: parse(text).kind for text in ("1", '"a"', "a", "a[5m]", "a[5m:]", "1 + 2", "a + 1", "time()")
    }
    assert kinds == {
        "1": ast.Kind.SCALAR,
        '"a"': ast.Kind.STRING,
        "a": ast.Kind.VECTOR,
        "a[5m]": ast.Kind.MATRIX,
        "a[5m:]": ast.Kind.MATRIX,
        "1 + 2": ast.Kind.SCALAR,
        "a + 1": ast.Kind.VECTOR,
        "time()": ast.Kind.SCALAR,
    }


def test_a_short_query_stays_on_one_line_and_a_long_one_is_split() -> None:
    assert format_query("sum(rate(foo[5m]))by(a)") == "sum by (a) (rate(foo[5m]))"
    long = (
        'sum by (instance) (rate(node_cpu_seconds_total{mode="idle",instance=~"web.*"}[5m])) / on(instance) '
        "clamp_min(count by (instance) (node_cpu_seconds_total), 1)"
    )
    assert format_query(long) == (
        '  sum by (instance) (rate(node_cpu_seconds_total{instance=~"web.*",mode="idle"}[5m]))\n'
        "/ on (instance)\n"
        "  clamp_min(count by (instance) (node_cpu_seconds_total), 1)"
    )


def test_plans_are_made_once_and_the_least_used_goes() -> None:
    plans = Plans(maximum=2)
    first = plans.plan("a")
    plans.plan("b")
    assert plans.plan("a") is first
    plans.plan("c")
    assert plans.plan("a") is first
    assert len(plans) == 2
    with pytest.raises(PromqlError):
        plans.plan("a +")
    assert len(plans) == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (-0.0, "-0"),
        (0.1, "0.1"),
        (1e16, "10000000000000000"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (1.5e22, "1.5e+22"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (1e-6, "0.000001"),
        (9.99e-7, "9.99e-07"),
        (1e-7, "1e-07"),
        (-1.25e-10, "-1.25e-10"),
        (5e-324, "5e-324"),
        (1e-100, "1e-100"),
        (0.30000000000000004, "0.30000000000000004"),
        (float("inf"), "+Inf"),
        (float("-inf"), "-Inf"),
        (float("nan"), "NaN"),
    ],
)
def test_a_float_is_written_as_prometheus_writes_it(value: float, text: str) -> None:
    assert float_text(value) == text
    assert float_text(value, plain=True).replace("e", "") == float_text(value, plain=True)
    if value == value:
        assert float(float_text(value)) == value
        assert float(float_text(value, plain=True)) == value


@pytest.mark.parametrize(
    ("duration_ms", "text"),
    [
        (0, "0s"),
        (1, "1ms"),
        (90_000, "1m30s"),
        (-5_400_000, "-1h30m"),
        (604_800_000, "1w"),
        (604_801_000, "7d1s"),
        (31_536_000_000, "1y"),
        (86_400_500, "1d500ms"),
    ],
)
def test_a_duration_is_written_as_prometheus_writes_it(duration_ms: int, text: str) -> None:
    assert duration_text(duration_ms) == text
