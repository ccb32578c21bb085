"""What a rule compares with what: the value and the limits that a chart draws, and the value for one host."""

import pytest

from watchbill_collector.promql.parse import parse
from watchbill_collector.rules.compared import Limit, compared, constant, narrowed

CLEARS = 'a > 90 or a > 85 and ignoring (alertname, alertstate) ALERTS{alertname="X",alertstate="firing"}'


@pytest.mark.parametrize(
    ("text", "value", "limits"),
    [
        ("a > 90", "a", [Limit(">", 90.0)]),
        ("90 < a", "a", [Limit(">", 90.0)]),
        ("(a / b * 100) >= -(5 * 2)", "a / b * 100", [Limit(">=", -10.0)]),
        ("a < 10 or a > 90", "a", [Limit("<", 10.0), Limit(">", 90.0)]),
        (CLEARS, "a", [Limit(">", 90.0), Limit(">", 85.0, clears=True)]),
        ("(a < 5 and b == 0)", "a", [Limit("<", 5.0)]),
        ("a > 1 unless b > 2", "a", [Limit(">", 1.0)]),
        ("a > 1 or b > 2", "a", [Limit(">", 1.0)]),
        ("absent(up)", "absent(up)", []),
        ("a and b", "a", []),
        ("a > bool 1", "a > bool 1", []),
        ("a != 1", "a", [Limit("!=", 1.0)]),
        (" or ".join(f"a == {number}" for number in range(7)), "a", []),
    ],
)
def test_a_rule_is_taken_apart_into_its_value_and_its_limits(text, value, limits):
    found = compared(parse(text))
    assert str(found.value) == value
    assert list(found.limits) == limits
    assert found.against is None


def test_two_vectors_are_drawn_against_each_other():
    found = compared(parse("node_memory_a > on (instance) (limit_b * 2)"))
    assert str(found.value) == "node_memory_a"
    assert str(found.against) == "limit_b * 2"
    assert found.limits == ()


def test_a_constant_is_worked_out_and_nothing_else_is_one():
    assert constant(parse("2 * (3 - 1) / 4")) == 1.0
    assert constant(parse("1 / 0")) is None
    assert constant(parse("time()")) is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a", 'a{instance="h"}'),
        ('a{instance="h"}', 'a{instance="h"}'),
        ("rate(a[5m]) / b", 'rate(a{instance="h"}[5m]) / b{instance="h"}'),
        ("sum by (instance) (a)", 'sum by (instance) (a{instance="h"})'),
        ("sum without (cpu) (a)", 'sum without (cpu) (a{instance="h"})'),
        ("max_over_time(a[5m:1m])", 'max_over_time(a{instance="h"}[5m:1m])'),
        ("a / on (instance) b", 'a{instance="h"} / on (instance) b{instance="h"}'),
        ("a / ignoring (cpu) b", 'a{instance="h"} / ignoring (cpu) b{instance="h"}'),
        ("-a", '-a{instance="h"}'),
    ],
)
def test_a_value_is_narrowed_to_one_host(text, wanted):
    assert str(narrowed(parse(text), "instance", "h")) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "sum(a)",
        "count by (job) (up)",
        "sum without (instance) (a)",
        "a / on () group_left () count(up)",
        "a / ignoring (instance) b",
        "a / scalar(b)",
        "absent(a)",
        'label_replace(a, "instance", "$1", "node", "(.*)")',
        'count_values by (instance) ("v", a)',
        "topk(3, a)",
    ],
)
def test_what_would_be_another_number_for_one_host_is_left_as_it_is(text):
    assert narrowed(parse(text), "instance", "h") is None


def test_a_hosts_name_cannot_break_out_of_its_matcher():
    evil = 'x"} or up{a="\\'
    made = narrowed(parse("a"), "instance", evil)
    assert made is not None
    assert parse(str(made)) == made
