"""Debian's promtool comes to the same verdict on the same files, on good ones and on bad ones.

Where the two may differ is left out here and said in docs/rules-testing.md: promtool 2.42 has the range semantics of
Prometheus 2, where a sample exactly at the beginning of a window counts.
"""
# ruff: noqa: E501  # Tables read best with a line for each case.

import subprocess
from pathlib import Path

import pytest

from watchbill_collector.rulestest import judge_file

pytestmark = pytest.mark.real("promtool")

RULES = """\
groups:
- name: g
  rules:
  - { record: "job:req:rate1m", expr: "sum by (job) (rate(req_total[90s]))" }
  - alert: Down
    expr: up == 0
    for: 2m
    labels: { severity: page, who: '{{ $labels.job | toUpper }}' }
    annotations: { summary: '{{ $labels.instance }} is {{ $value }}' }
  - alert: Slow
    expr: avg by (job) (latency) > 0.3
    annotations: { text: '{{ printf "%.1f" $value }} s, {{ humanizePercentage $value }}' }
  - { alert: Gone, expr: absent(up) }
"""
HEAD = "rule_files: [rules.yml]\nevaluation_interval: 30s\n"
INPUT = """\
  interval: 1m
  input_series:
  - { series: 'up{job="node",instance="a"}', values: '1 0x4 1x5' }
  - { series: 'up{job="node",instance="b"}', values: '1x3 stale _x3 1' }
  - { series: 'req_total{job="web"}', values: '0+30x5 10+30x5' }
  - { series: 'latency{job="web"}', values: '0.1 0.2 0.4 0.5' }
"""
DOWN = "{ exp_labels: { severity: page, who: NODE, job: node, instance: a }, exp_annotations: { summary: a is 0 } }"
ALERTS = {
    "fires after for": f"{{ eval_time: 3m, alertname: Down, exp_alerts: [{DOWN}] }}",
    "is looked at where the evaluation before was": f"{{ eval_time: 3m29s, alertname: Down, exp_alerts: [{DOWN}] }}",
    "is pending before": "{ eval_time: 2m59s, alertname: Down, exp_alerts: [] }",
    "pending is not firing": f"{{ eval_time: 2m59s, alertname: Down, exp_alerts: [{DOWN}] }}",
    "is over": "{ eval_time: 5m, alertname: Down }",
    "is not over": "{ eval_time: 4m30s, alertname: Down }",
    "without annotations": "{ eval_time: 3m, alertname: Down, exp_alerts: [{ exp_labels: { severity: page, who: NODE, job: node, instance: a } }] }",
    "with a wrong label": f"{{ eval_time: 3m, alertname: Down, exp_alerts: [{DOWN.replace('page', 'major')}] }}",
    "twice where there is one": f"{{ eval_time: 3m, alertname: Down, exp_alerts: [{DOWN}, {DOWN}] }}",
    "with numbers in words": "{ eval_time: 2m, alertname: Slow, exp_alerts: [{ exp_labels: { job: web }, exp_annotations: { text: '0.4 s, 40%' } }] }",
    "with other numbers": "{ eval_time: 3m, alertname: Slow, exp_alerts: [{ exp_labels: { job: web }, exp_annotations: { text: '0.4 s, 40%' } }] }",
    "that nobody defines": "{ eval_time: 3m, alertname: Nobody, exp_alerts: [] }",
    "that nobody defines and fires": "{ eval_time: 3m, alertname: Nobody, exp_alerts: [{}] }",
    "of absence": "{ eval_time: 30m, alertname: Gone, exp_alerts: [{}] }",
    "of absence too early": "{ eval_time: 10m, alertname: Gone, exp_alerts: [{}] }",
    "without a name": "{ eval_time: 3m, exp_alerts: [] }",
    "with an unknown key": "{ eval_time: 3m, alertname: Down, exp_alert: [] }",
    "at a time that is none": "{ eval_time: soon, alertname: Down }",
}
EXPRS = {
    "a sample": '{ expr: \'up{instance="a"}\', eval_time: 0, exp_samples: [{ labels: \'up{job="node",instance="a"}\', value: 1 }] }',
    "another value": '{ expr: \'up{instance="a"}\', eval_time: 0, exp_samples: [{ labels: \'up{job="node",instance="a"}\', value: 2 }] }',
    "in single quotes": "{ expr: 'count(up)', eval_time: 0, exp_samples: [{ labels: '{}', value: 2 }] }",
    "ended by a stale marker": "{ expr: 'up{instance=\"b\"}', eval_time: 4m, exp_samples: [] }",
    "back again": "{ expr: 'count(up)', eval_time: 8m, exp_samples: [{ value: 2 }] }",
    "too old": "{ expr: latency, eval_time: 8m1s, exp_samples: [] }",
    "not too old": "{ expr: latency, eval_time: 7m59s, exp_samples: [{ labels: 'latency{job=\"web\"}', value: 0.5 }] }",
    "recorded": "{ expr: 'job:req:rate1m', eval_time: 3m10s, exp_samples: [{ labels: 'job:req:rate1m{job=\"web\"}', value: 0.5 }] }",
    "a counter that was reset": "{ expr: 'increase(req_total[5m30s]) > bool 0', eval_time: 8m, exp_samples: [{ labels: '{job=\"web\"}', value: 1 }] }",
    "alerts as series": '{ expr: \'count by (alertname, alertstate) (ALERTS)\', eval_time: 2m, exp_samples: [{ labels: \'{alertname="Down",alertstate="pending"}\', value: 1 }, { labels: \'{alertname="Slow",alertstate="firing"}\', value: 1 }] }',
    "when an alert began": '{ expr: \'ALERTS_FOR_STATE{alertname="Down"}\', eval_time: 3m, exp_samples: [{ labels: \'ALERTS_FOR_STATE{alertname="Down",job="node",instance="a",severity="page",who="NODE"}\', value: 60 }] }',
    "a scalar": "{ expr: '2 * 21', eval_time: 1m, exp_samples: [{ value: 42 }] }",
    "the last digit": "{ expr: 'vector(0.1) + 0.2', eval_time: 0, exp_samples: [{ value: 0.3 }] }",
    "infinity": "{ expr: 'vector(1) / 0', eval_time: 0, exp_samples: [{ value: .inf }] }",
    "not a number": "{ expr: 'vector(0) / 0', eval_time: 0, exp_samples: [{ value: .nan }] }",
    "a range": "{ expr: 'up[5m]', eval_time: 0 }",
    "text": "{ expr: '\"a\"', eval_time: 0 }",
    "no expression": "{ expr: 'up ==', eval_time: 0 }",
    "labels with a matcher": "{ expr: up, eval_time: 0, exp_samples: [{ labels: 'up{job=~\"node\"}', value: 1 }] }",
    "many to many": "{ expr: 'up * on (job) up', eval_time: 0 }",
    "a subquery": "{ expr: 'max_over_time(sum(up)[3m:])', eval_time: 5m, exp_samples: [{ value: 2 }] }",
    "looking ahead sees only what was loaded": "{ expr: 'latency offset -1m', eval_time: 2m, exp_samples: [] }",
}
FILES = {
    "empty": "",
    "no tests": "rule_files: [rules.yml]\n",
    "an unknown key": "rule_file: [rules.yml]\n",
    "no such rule file": "rule_files: [no.yml]\ntests: []\n",
    "no such rule file, and a test": "rule_files: [no.yml]\ntests: [{ promql_expr_test: [{ expr: '1', eval_time: 0, exp_samples: [{ value: 1 }] }] }]\n",
    "a broken rule file": "rule_files: [broken.yml]\ntests: [{ promql_expr_test: [{ expr: '1', eval_time: 0, exp_samples: [{ value: 1 }] }] }]\n",
    "a pattern": "rule_files: ['r*.yml']\ntests: [{ promql_expr_test: [{ expr: 'count(ALERTS)', eval_time: 0, exp_samples: [{ value: 1 }] }] }]\n",
    "a group twice": "group_eval_order: [a, a]\ntests: []\n",
    "bad values": "tests: [{ input_series: [{ series: up, values: '1 x' }] }]\n",
    "a bad series": "tests: [{ input_series: [{ series: 'up{', values: '1' }] }]\n",
    "values as a number": "tests: [{ input_series: [{ series: up, values: 1 }], promql_expr_test: [{ expr: up, eval_time: 0, exp_samples: [{ labels: up, value: 1 }] }] }]\n",
    "no YAML": "tests: [\n",
    "a key twice": "tests: []\ntests: []\n",
}


def same(folder: Path, text: str) -> None:
    (folder / "rules.yml").write_text(RULES)
    (folder / "broken.yml").write_text(RULES.replace("up == 0", "up =="))
    (folder / "t.yml").write_text(text)
    done = subprocess.run(
        ["promtool", "test", "rules", str(folder / "t.yml")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    ours = judge_file(folder / "t.yml")
    assert ours.passed == (done.returncode == 0), (done.stdout, done.stderr, ours.problems, ours.failures)


@pytest.mark.parametrize("name", ALERTS)
def test_on_an_alert(tmp_path: Path, name: str) -> None:
    same(tmp_path, f"{HEAD}tests:\n- name: it\n{INPUT}  alert_rule_test: [{ALERTS[name]}]\n")


@pytest.mark.parametrize("name", EXPRS)
def test_on_an_expression(tmp_path: Path, name: str) -> None:
    same(tmp_path, f"{HEAD}tests:\n- name: it\n{INPUT}  promql_expr_test: [{EXPRS[name]}]\n")


@pytest.mark.parametrize("name", FILES)
def test_on_a_file(tmp_path: Path, name: str) -> None:
    same(tmp_path, FILES[name])


def test_the_tables_have_both_kinds(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(RULES)
    for kind, table in (("alert_rule_test", ALERTS), ("promql_expr_test", EXPRS)):
        verdicts = []
        for expected in table.values():
            (tmp_path / "t.yml").write_text(f"{HEAD}tests:\n- name: it\n{INPUT}  {kind}: [{expected}]\n")
            verdicts.append(judge_file(tmp_path / "t.yml").passed)
        assert min(verdicts.count(True), verdicts.count(False)) >= len(table) // 3
