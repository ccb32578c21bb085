"""Unit-test files: what is wrong with a file is told with its line; what is judged is judged as promtool does."""
# ruff: noqa: E501  # Tables read best with a line for each case.

from pathlib import Path
from typing import Any

import pytest

from watchbill_collector.promql.errors import Cancelled, TimedOut
from watchbill_collector.rules import Source
from watchbill_collector.rulestest import Limits, beside, given, judge_file, judge_source

RULES = """\
groups:
- name: first
  rules:
  - { record: "job:up:sum", expr: sum by (job) (up) }
- name: second
  rules:
  - alert: Down
    expr: up == 0
    for: 2m
    labels: { severity: page, team: '{{ $labels.job }}-team' }
    annotations: { summary: '{{ $labels.instance }} at {{ $externalURL }} in {{ $externalLabels.site }}' }
  - alert: Kept
    expr: up == 0
    keep_firing_for: 2m
"""
SERIES = "input_series: [{ series: 'up{job=\"node\",instance=\"a\"}', values: '1 0x4 1x10' }]"


def judged(text: str, rules: str = RULES, limits: Limits | None = None) -> Any:
    files = given({"rules.yml": [("rules.yml", rules)]})
    return judge_source(Source("t.yml", text.encode()), files, limits)


def group(*lines: str, head: str = "rule_files: [rules.yml]\n") -> str:
    return head + "tests:\n- interval: 1m\n" + "".join(f"  {line}\n" for line in (SERIES, *lines))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tests: [", 'got while parsing a flow node'),
        ("test: []", 't.yml:1: got the unknown key "test", wanted "tests"?'),
        ("tests: 1", 't.yml:1: tests: got "1", wanted a list'),
        ("tests: [{intervall: 1m}]", 't.yml:1: tests[0]: got the unknown key "intervall", wanted "interval"?'),
        ("tests: [{interval: 1x}]", 't.yml:1: tests[0].interval: got "1x", wanted a duration'),
        ("fuzzy_compare: maybe", 't.yml:1: fuzzy_compare: got "maybe", wanted true or false'),
        ("group_eval_order: [a, b, a]", 't.yml:1: group_eval_order[2]: got the group "a" again, wanted each group once'),
        ("tests:\n- input_series:\n  - {series: 'up{', values: '1'}", 't.yml:3: tests[0].input_series[0].series: got "up{"'),
        ("tests:\n- name: n\n  input_series:\n  - series: up\n    values: 1 2 x", 't.yml:5: tests[0] (n).input_series[0].values: got "x" in the values'),
        ("tests: [{alert_rule_test: [{eval_time: 1m}]}]", "t.yml:1: tests[0].alert_rule_test[0].alertname: got nothing, wanted the name of an alert"),
        ("tests: [{promql_expr_test: [{expr: up, exp_samples: [{value: a}]}]}]", 'exp_samples[0].value: got "a", wanted a number'),
        ("tests: [{promql_expr_test: [{expr: up, exp_samples: [{histogram: '{{schema:1}}'}]}]}]", "got a native histogram, wanted a value"),
        ("tests: [{promql_expr_test: [{expr: up, exp_samples: [{labels: 'a=~b'}]}]}]", 'exp_samples[0].labels: got "a=~b"'),
        ("tests: [{start_timestamp: yesterday}]", 'start_timestamp: got "yesterday", wanted RFC 3339 or unix seconds'),
        ("rule_files: [rules.yml]\ntests: []\ntests: []", "t.yml:3: tests: got the same key again, wanted each key once"),
        ("a: &a [*a]", "t.yml:1:"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line(text: str, told: str) -> None:
    done = judged(text)
    assert not done.passed
    assert told in "\n".join(map(str, done.problems))


def test_all_mistakes_are_told_at_once() -> None:
    done = judged("fuzzy_compare: x\nevaluation_interval: y\ntests: [{interval: z}]")
    assert [problem.line for problem in done.problems] == [1, 2, 3]


def test_a_mistake_in_a_rule_file_is_told_from_the_rule_file() -> None:
    done = judged(group(), rules="groups:\n- name: g\n  rules:\n  - alert: A\n    expr: up ==\n")
    assert [(each.file, each.line) for each in done.problems] == [("rules.yml", 5)]
    assert not done.failures


def test_a_pattern_that_matches_nothing_is_a_warning() -> None:
    done = judged("rule_files: [other.yml]\ntests: []")
    assert done.passed
    assert done.warnings == ('t.yml:1: no rule file matches "other.yml"',)


PASSES = [
    # The expectation of an alert that does not fire: nothing, or no key at all.
    "alert_rule_test: [{ eval_time: 2m, alertname: Down }]",
    "alert_rule_test: [{ eval_time: 2m, alertname: Nobody, exp_alerts: [] }]",
    # Down from 1m on, fires after two more; the test between two evaluations looks at the earlier one.
    "alert_rule_test: [{ eval_time: 2m59s, alertname: Down, exp_alerts: [] }]",
    (
        "alert_rule_test: [{ eval_time: 3m, alertname: Down, exp_alerts: [{ exp_labels: { severity: page, job: node,"
        " instance: a, team: node-team }, exp_annotations: { summary: 'a at http://w in b1' } }] }]"
    ),
    "alert_rule_test: [{ eval_time: 7m59s, alertname: Kept, exp_alerts: [{ exp_labels: { job: node, instance: a } }] }]",
    "alert_rule_test: [{ eval_time: 8m, alertname: Kept }]",
    # Recorded series and ALERTS are there for expressions.
    "promql_expr_test: [{ expr: 'job:up:sum', eval_time: 1m, exp_samples: [{ labels: 'job:up:sum{job=\"node\"}', value: 0 }] }]",
    (
        "promql_expr_test: [{ expr: 'ALERTS{alertname=\"Down\"}', eval_time: 1m, exp_samples: [{ labels: "
        '\'ALERTS{alertname="Down",alertstate="pending",job="node",instance="a",severity="page",team="node-team"}\', value: 1 }] }]'
    ),
    "promql_expr_test: [{ expr: 'count(ALERTS) or vector(0)', eval_time: 8m, exp_samples: [{ value: 0 }] }]",
    "promql_expr_test: [{ expr: timestamp(up), eval_time: 90s, exp_samples: [{ value: 60, labels: '{job=\"node\",instance=\"a\"}' }] }]",
    "promql_expr_test: [{ expr: 1 + 1, eval_time: 0, exp_samples: [{ value: 2 }] }]",
    "promql_expr_test: [{ expr: nothing, eval_time: 0 }]",
]  # fmt: skip
EXTERNAL = ("external_url: http://w", "external_labels: { site: b1 }")


@pytest.mark.parametrize("line", PASSES)
def test_an_expectation_that_is_met_passes(line: str) -> None:
    done = judged(group(line, *EXTERNAL))
    assert done.problems == ()
    assert done.failures == ()
    assert done.expectations == 1


FAILS = [
    ("alert_rule_test: [{ eval_time: 3m, alertname: Down }]", (), 1),
    ("alert_rule_test: [{ eval_time: 2m, alertname: Down, exp_alerts: [{}] }]", ('{alertname="Down"} annotations []',), 0),
    ("alert_rule_test: [{ eval_time: 3m, alertname: Down, exp_alerts: [{ exp_labels: { severity: page } }] }]", ('{alertname="Down", severity="page"} annotations []',), 1),
    ("promql_expr_test: [{ expr: up, eval_time: 0, exp_samples: [{ labels: 'up{job=\"node\",instance=\"a\"}', value: 2 }] }]", ('up{instance="a", job="node"} 2',), 1),
    ("promql_expr_test: [{ expr: up, eval_time: 0, exp_samples: [] }]", (), 1),
    ("promql_expr_test: [{ expr: up, eval_time: 0, exp_samples: [{ value: 1 }] }]", ("{} 1",), 1),
]  # fmt: skip


@pytest.mark.parametrize(("line", "missing", "surplus"), FAILS)
def test_an_expectation_that_is_not_met_says_what_differs(
    line: str, missing: tuple[str, ...], surplus: int
) -> None:
    done = judged(group(line, *EXTERNAL))
    (failure,) = done.failures
    assert failure.missing == missing
    assert len(failure.surplus) == surplus
    assert failure.line == 5


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("promql_expr_test: [{ expr: 'up + on(x) up', eval_time: 0 }]", ""),
        ("promql_expr_test: [{ expr: 'up[5m]', eval_time: 0 }]", "not a vector or scalar"),
        ("promql_expr_test: [{ expr: 'up ==', eval_time: 0 }]", "parse error"),
        ("promql_expr_test: [{ expr: 'vector(NaN)', eval_time: 0, exp_samples: [{ value: .nan }] }]", "NaN equals nothing"),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_fails_and_says_why(line: str, why: str) -> None:
    done = judged(group(line))
    if why:
        assert why in done.failures[0].why
    else:
        assert done.failures


def test_a_rule_that_cannot_be_evaluated_ends_its_test() -> None:
    rules = "groups:\n- name: g\n  rules:\n  - { record: r, expr: 'up * ignoring(i) up' }\n"
    two = "input_series: [{ series: 'up{i=\"1\"}', values: 1x5 }, { series: 'up{i=\"2\"}', values: 1x5 }]"
    test = "promql_expr_test: [{ expr: up, eval_time: 3m }]"
    (failure,) = judged(f"rule_files: [rules.yml]\ntests:\n- {two}\n  {test}\n", rules).failures
    assert (failure.what, failure.time_ms) == ("rule r", 0)
    assert "many-to-many" in failure.why or "duplicate" in failure.why


def test_groups_run_in_the_order_given() -> None:
    rules = """\
groups:
- { name: late, rules: [{ record: b, expr: a + 1 }] }
- { name: early, rules: [{ record: a, expr: vector(time()) }] }
"""
    text = "rule_files: [rules.yml]\n{}tests:\n- promql_expr_test: [{{ expr: b, eval_time: 1m, exp_samples: [{{ labels: b, value: {} }}] }}]\n"
    assert judged(text.format("", 1), rules).passed  # a of a minute ago
    assert judged(text.format("group_eval_order: [early, late]\n", 61), rules).passed


def test_fuzzy_compare_forgives_the_last_digit_alone() -> None:
    text = "{}tests:\n- promql_expr_test: [{{ expr: vector(0.1) + 0.2, eval_time: 0, exp_samples: [{{ value: {} }}] }}]\n"
    assert not judged(text.format("", 0.3)).passed
    assert judged(text.format("fuzzy_compare: true\n", 0.3)).passed
    assert not judged(text.format("fuzzy_compare: true\n", 0.3000001)).passed


def test_a_test_may_begin_at_another_time() -> None:
    text = (
        "tests:\n- start_timestamp: '2026-01-01T00:00:00Z'\n  input_series: [{ series: x, values: 5 6 }]\n"
        "  promql_expr_test: [{ expr: 'time() + 0 * x', eval_time: 1m, exp_samples: [{ value: 1767225660 }] }]\n"
    )
    assert judged(text).passed
    assert judged(text.replace("'2026-01-01T00:00:00Z'", "1767225600")).passed


def test_the_short_form_is_tested_like_any_rule() -> None:
    rules = "thresholds:\n- { name: Full, metric: disk, above: 90, clear: 80, for: 2m, severity: major }\n"
    text = """\
rule_files: [rules.yml]
tests:
- input_series: [{ series: 'disk{m="a"}', values: '50 95x3 85x3 75x3' }]
  alert_rule_test:
  - { eval_time: 2m, alertname: Full }
  - { eval_time: 3m, alertname: Full, exp_alerts: [{ exp_labels: { m: a, severity: major }, exp_annotations: { summary: 'Full, 95 (above 90, clears at 80)' } }] }
  - { eval_time: 8m, alertname: Full, exp_alerts: [{ exp_labels: { m: a, severity: major }, exp_annotations: { summary: 'Full, 85 (above 90, clears at 80)' } }] }
  - { eval_time: 9m, alertname: Full }
"""
    done = judged(text, rules)
    assert done.problems == ()
    assert done.failures == ()


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (Limits(evaluations_max=10), "more than 10 evaluations"),
        (Limits(samples_max=10), "more than 10 samples"),
    ],
)
def test_what_costs_too_much_is_refused(limits: Limits, told: str) -> None:
    done = judged(group("promql_expr_test: [{ expr: up, eval_time: 10d }]"), limits=limits)
    assert told in done.failures[0].why


@pytest.mark.parametrize("asked", range(8))
@pytest.mark.parametrize("error", [TimedOut, Cancelled])
def test_a_test_ends_wherever_its_time_is_up(asked: int, error: type[Exception]) -> None:
    left = asked

    def check() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise error("enough")

    with pytest.raises(error):
        judged(group("promql_expr_test: [{ expr: up, eval_time: 1m }]"), limits=Limits(check=check))


def test_rule_files_are_found_beside_the_test_file(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "a.yml").write_text(
        "groups:\n- { name: a, rules: [{ record: a, expr: vector(1) }] }\n"
    )
    (tmp_path / "rules" / "b.yml").write_text(
        "groups:\n- { name: b, rules: [{ record: b, expr: vector(2) }] }\n"
    )
    test = tmp_path / "t.yml"
    test.write_text(
        f"rule_files: [rules/*.yml, {tmp_path}/rules/a.yml]\n"
        "tests:\n- promql_expr_test: [{ expr: a + b, eval_time: 0, exp_samples: [{ value: 3 }] }]\n"
    )
    done = judge_file(test)
    assert done.problems == ()
    assert done.passed
    found, problems = beside(tmp_path)("**x")
    assert (found, len(problems)) in (([], 0), ([], 1))


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = judge_file(tmp_path / "no.yml")
    assert not done.passed
    assert done.problems
