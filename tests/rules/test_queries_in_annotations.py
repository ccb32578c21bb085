"""`query` in annotations: answered while the rule is judged, read as promtool fills it in, bounded."""

# ruff: noqa: E501  # A template is one line.

import itertools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from watchbill_collector.promql.engine import Engine
from watchbill_collector.promql.memory import MemoryStorage
from watchbill_collector.rules import Source, Surroundings, check
from watchbill_collector.rules.alerts import nothing_held
from watchbill_collector.rules.files import load
from watchbill_collector.rules.model import AlertingRule, RuleSet
from watchbill_collector.rules.run import AlertingRun
from watchbill_collector.rules.template_queries import ASKED_MAX, ROWS_MAX
from watchbill_collector.series import SeriesTable

SERIES = {
    'load{instance="b",job="web"}': 4.0,
    'load{instance="a",job="web"}': 2.5,
    'load{instance="c",job="db"}': 9.0,
    'info{instance="b",owner="ann"}': 1.0,
    'info{instance="c",owner="bob"}': 1.0,
    'info{instance="c",owner="cid"}': 0.0,
}
TEMPLATES = [
    '{{ with query "sum(load)" }}{{ . | first | value }}{{ end }}',
    "{{ query `count(load)` | first | value | humanize }}",
    '{{ range query "sort_desc(load)" }}{{ .Labels.instance }}={{ .Value }} {{ end }}',
    '{{ range $i, $s := query "sort(load)" }}{{ $i }}:{{ $s.Labels.instance }} {{ label "job" $s }};{{ end }}',
    "{{ range query `load` | sortByLabel `instance` }}{{ .Labels.instance }}{{ else }}none{{ end }}",
    '{{ with printf "info{instance=%q}" $labels.instance | query }}{{ . | sortByLabel "owner" | first | label "owner" }}{{ else }}nobody{{ end }}',
    '{{ with query (printf "info{instance=\'%s\'} == 1" $labels.instance) }}{{ (first .).Labels.owner }}{{ end }}',
    '{{ len (query "load") }} {{ len (query "nothing") }} {{ if query "nothing" }}y{{ else }}n{{ end }}',
    '{{ (index (query "sort(load)") 1).Value }} {{ query "2 * 21" | first | value }}',
    '{{ with $x := query "load{job=`db`}" }}{{ ($x | first).Value }}{{ end }}',
    '{{ range query "topk(2, load)" }}{{ if eq .Labels.job "db" }}{{ continue }}{{ end }}{{ .Labels.instance }}{{ end }}',
    '{{ $v := $value }}{{ range query (printf "sort(load > %f)" $value) }}{{ .Value }} > {{ $v }} {{ end }}',
    "{{ toTime 1700000000.5 }} {{ (toTime 1700000000).Format `Mon 02 Jan 2006 15:04:05` }} {{ (toTime 0).Unix }}",
    '{{ (1e9 | toTime).Year }}-{{ (toTime $value).Format "2006-01-02T15:04:05Z07:00" }} {{ $t := toTime 1e9 }}{{ $t.Format "3:04PM" }}',
    '{{ query "nothing" | first | value }}',
    '{{ range query "label_replace(load, `x`, `$1`, `instance`, `(.*)`)" | sortByLabel "x" }}{{ .Labels.x }}{{ end }}',
]  # fmt: skip


def _text(templates: dict[str, str], expr: str = "load") -> str:
    rules = [{"alert": name, "expr": expr, "annotations": {"text": text}} for name, text in templates.items()]
    return json.dumps({"groups": [{"name": "g", "rules": rules}]})


def _rules(text: str) -> list[AlertingRule]:
    rules, problems = load([Source("t.yml", text.encode())], RuleSet())
    assert not problems, [str(problem) for problem in problems]
    return [rule for rule in rules.rules if isinstance(rule, AlertingRule)]


def _storage(series: dict[str, float]) -> MemoryStorage:
    storage = MemoryStorage()
    for text, value in series.items():
        name, _, inner = text.partition("{")
        pairs = (pair.split("=", 1) for pair in inner.rstrip("}").split(","))
        storage.add({"__name__": name} | {key: value.strip('"') for key, value in pairs}, [(60_000, value)])
    return storage


def _filled(rule: AlertingRule, storage: MemoryStorage, **around: Any) -> list[dict[str, Any]]:
    run = AlertingRun(rule, Surroundings(SeriesTable(), Engine(), **around))
    run.evaluate(60_000, 60_000, storage, 0, nothing_held)
    return [
        {"labels": dict(alert.labels), "text": run.annotations(alert, value, 60_000)["text"]}
        for alert, value in run.saved()
    ]


@pytest.mark.real("promtool")
def test_promtool_reads_the_same_answers(tmp_path: Path) -> None:
    text = _text({f"A{number}": template for number, template in enumerate(TEMPLATES)})
    storage, tests = _storage(SERIES), []
    for rule in _rules(text):
        filled = _filled(rule, storage)
        assert len(filled) == 3
        if not rule.annotations[0][1].text.startswith('{{ query "nothing"'):
            assert not [one for one in filled if "<error" in one["text"]]
        expected = [
            {
                "exp_labels": {name: value for name, value in one["labels"].items() if name != "alertname"},
                "exp_annotations": {"text": one["text"]},
            }
            for one in filled
        ]
        if not any("<error" in one["text"] for one in filled):  # An error is told in our own words.
            tests.append({"eval_time": "1m", "alertname": rule.name, "exp_alerts": expected})
    inputs = [{"series": name, "values": f"{value} {value}"} for name, value in SERIES.items()]
    test = {"interval": "1m", "input_series": inputs, "alert_rule_test": tests}
    (tmp_path / "rules.yml").write_text(text)
    (tmp_path / "test.yml").write_text(json.dumps({"rule_files": ["rules.yml"], "tests": [test]}))
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ query $labels.q }}", "needs PromQL that stands in the template"),
        ('{{ $q := "up" }}{{ query $q }}', "needs PromQL that stands in the template"),
        ('{{ printf "%s" $labels.name | query }}', "name of a metric is not known|cannot be prepared"),
        ("{{ query `{instance=\"a\"}` }}", "name of a metric is not known"),
        ("{{ query `up[5m]` }}", "a range vector is no answer"),
        ("{{ query `'text'` | first | strvalue }}", "a string is no answer"),
        ("{{ query `up @ 5` }}", "fixed time"),
        ("{{ query `up ==` }}", "parse error"),
        ("{{ query `rate(up[40d])` }}", "31d"),
        ("{{ query }}", "cannot take 0 arguments"),
    ],
)  # fmt: skip
def test_what_cannot_be_foreseen_is_refused_when_loaded(template: str, words: str) -> None:
    (problem,) = check([Source("t.yml", _text({"A": template}).encode())])
    assert any(word in str(problem) for word in words.split("|")), problem


def test_labels_ask_nothing() -> None:
    rules = [{"alert": "A", "expr": "up", "labels": {"x": "{{ query `up` }}"}}]
    text = json.dumps({"groups": [{"name": "g", "rules": rules}]})
    (problem,) = check([Source("t.yml", text.encode())])
    assert "'query' is not supported here, only in annotations" in str(problem)


def test_the_head_keeps_what_annotations_ask_and_a_restart_asks_again(house: Any) -> None:
    template = '{{ with printf "node_uname_info{instance=%q}" $labels.instance | query }}'
    template += "{{ . | first | label `nodename` }}{{ end }}"
    it = house()
    it.load(_text({"A": template}, "node_load1 > 1"))
    key = ("node_uname_info", (("nodename", "n-a"),))
    it.hosts = {"a": {("node_load1", ()): 2.0, key: 1.0}}
    it.run(3)
    (alert,) = it.book.alerts()
    assert alert.annotations["text"] == "n-a"
    assert it.book.metric_names() == ["node_load1", "node_uname_info"]
    # What was answered is remembered after the alert's end, when nobody asks any more.
    it.hosts["a"] = {("node_load1", ()): 0.0, key: 1.0}
    it.run(2)
    (alert,) = it.book.alerts(resolved=True)
    assert (alert.state.value, alert.annotations["text"]) == ("inactive", "n-a")


def test_more_queries_or_samples_than_allowed_are_an_error_in_the_text() -> None:
    many = {f'load{{instance="h{number}",job="x"}}': 1.0 for number in range(ROWS_MAX + 1)}
    storage = _storage(many)
    (rule,) = _rules(
        _text({"A": '{{ printf "load{instance=%q}" $labels.instance | query | first | value }}'})
    )
    texts = [one["text"] for one in _filled(rule, storage)]
    assert texts.count("1") == ASKED_MAX
    assert (
        len([text for text in texts if "more than 100 different queries" in text]) == ROWS_MAX + 1 - ASKED_MAX
    )
    (rule,) = _rules(_text({"A": "{{ query `load` }}"}, "count(load)"))
    (one,) = _filled(rule, storage)
    assert f"{ROWS_MAX + 1} samples, at most {ROWS_MAX} are possible" in one["text"]


def test_queries_that_take_too_long_leave_the_alerts_alone() -> None:
    ticks = itertools.count()
    (rule,) = _rules(_text({"A": "{{ query `load` | first | value }}"}))
    filled = _filled(rule, _storage(SERIES), monotonic=lambda: next(ticks))
    assert len(filled) == 3
    assert all(
        re.search("query timed out|nothing was asked when the alert was judged", one["text"])
        for one in filled
    )
