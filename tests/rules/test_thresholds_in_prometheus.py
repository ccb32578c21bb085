"""What a threshold compiles to means the same to Prometheus: its rules are run by promtool, clear value and all."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from watchbill_collector.rules import Source
from watchbill_collector.rules.files import load
from watchbill_collector.rules.model import AlertingRule

THRESHOLDS = """
thresholds:
- name: High
  metric: x
  above: 5
  clear: 3
  for: 30s
  severity: major
  overrides:
  - {host: b, above: 8, clear: 7}
  - {match: 'role="r",site="s"', off: true}
- {name: Low, expr: 10 - x, below: 2, clear: 6, where: 'instance!="b"'}
"""
VALUES = {"a": [4, 6, 6, 6, 4, 4, 9, 9, 4, 3, 4, 4], "b": [6, 9, 9, 9, 8, 6, 9, 6, 6, 6, 6, 6]}


@pytest.mark.real("promtool")
def test_promtool_sees_the_same_alerts(house: Any, tmp_path: Path) -> None:
    rules, problems = load([Source("t.yml", THRESHOLDS.encode())])
    assert not problems
    compiled = [
        {
            "alert": rule.name,
            "expr": rule.expr,
            "for": f"{rule.for_ms // 1000}s",
            "labels": {name: template.text for name, template in rule.labels},
        }
        for rule in rules.rules
        if isinstance(rule, AlertingRule)
    ]
    group = {"name": "thresholds", "interval": "15s", "rules": compiled}
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [group]}))
    it = house()
    it.load(THRESHOLDS)
    seen = []
    for step in range(len(VALUES["a"])):
        it.hosts = {host: {("x", ()): float(values[step])} for host, values in VALUES.items()}
        it.run(1)
        seen.append(
            {
                (alert.rule, alert.labels["instance"])
                for alert in it.book.alerts()
                if alert.state.value == "firing"
            }
        )
    assert {name for each in seen for name, _ in each} == {"High", "Low"}
    checks = [
        {
            "eval_time": f"{15 * step}s",
            "alertname": name,
            "exp_alerts": [
                {
                    "exp_labels": {"instance": host, "job": "node"}
                    | ({"severity": "major"} if name == "High" else {})
                }
                for rule, host in sorted(firing)
                if rule == name
            ],
        }
        for step, firing in enumerate(seen)
        for name in ("High", "Low")
    ]
    test = {
        "interval": "15s",
        "input_series": [
            {"series": f'x{{instance="{host}",job="node"}}', "values": " ".join(map(str, values))}
            for host, values in VALUES.items()
        ],
        "alert_rule_test": checks,
    }
    document = {"rule_files": ["rules.yml"], "evaluation_interval": "15s", "tests": [test]}
    (tmp_path / "test.yml").write_text(json.dumps(document))
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
