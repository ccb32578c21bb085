"""Services and trials of rules over HTTP."""

from typing import Any

import pytest

BASE = "/api/watchbill/v1"
RULES = "groups:\n- { name: g, rules: [{ alert: Down, expr: up == 0 }] }\n"
TESTS = """\
rule_files: [r.yml]
tests:
- input_series: [{ series: 'up{instance="a"}', values: '0' }]
  alert_rule_test: [{ eval_time: 0, alertname: Down, exp_alerts: [{ exp_labels: { instance: %s } }] }]
"""


def order(host: str, **more: Any) -> dict[str, Any]:
    return {
        "name": "t.yml",
        "text": TESTS % host,
        "rule_files": {"r.yml": [{"name": "r.yml", "text": RULES}]},
    } | more


async def test_no_services_are_an_empty_list(serve: Any) -> None:
    it = await serve()
    answer = await it.client.get(f"{BASE}/services", headers=it.viewer)
    assert (answer.status_code, answer.json()) == (200, {"services": []})
    answer = await it.client.get(f"{BASE}/services/shop", headers=it.viewer)
    assert answer.status_code == 404
    assert "watchbill services lists them" in answer.json()["error"]


async def test_a_unit_test_is_judged(serve: Any) -> None:
    it = await serve()
    passed = (await it.client.post(f"{BASE}/rules/test", json=order("a"), headers=it.viewer)).json()
    assert (passed["passed"], passed["expectations"], passed["failures"]) == (True, 1, [])
    failed = (await it.client.post(f"{BASE}/rules/test", json=order("b"), headers=it.viewer)).json()
    (failure,) = failed["failures"]
    assert failure["missing"] == ['{alertname="Down", instance="b"} annotations []']
    assert failure["text"].startswith("t.yml:4: alert Down at 0s\n    missing: ")
    broken = (
        await it.client.post(f"{BASE}/rules/test", json=order("a", text="test: []"), headers=it.viewer)
    ).json()
    assert broken["problems"][0]["line"] == 1


async def test_a_test_that_takes_too_long_ends_at_the_deadline(serve: Any) -> None:
    it = await serve(timeout_s=0.05)
    text = "rule_files: [r.yml]\ntests: [{ promql_expr_test: [{ expr: up, eval_time: 900d }] }]\n"
    answer = await it.client.post(f"{BASE}/rules/test", json=order("a", text=text), headers=it.viewer)
    assert answer.status_code == 503, answer.text
    assert answer.json()["errorType"] == "timeout"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "either `text`"),
        ({"text": RULES, "expr": "up"}, "either `text`"),
        ({"expr": "up", "since_s": 0}, "since_s"),
        ({"expr": "up", "step_s": 0.1}, "step_s"),
        ({"expr": "up", "for_s": -1}, "for_s"),
        ({"expr": 5}, "the body is not what this takes"),
    ],
)
async def test_a_backtest_that_makes_no_sense_is_refused(serve: Any, body: dict[str, Any], told: str) -> None:
    it = await serve()
    answer = await it.client.post(f"{BASE}/rules/backtest", json=body, headers=it.viewer)
    assert answer.status_code == 400
    assert told in answer.json()["error"]


async def test_trials_need_somebody(serve: Any) -> None:
    it = await serve(anonymous_read=True)
    for path in ("test", "backtest"):
        assert (await it.client.post(f"{BASE}/rules/{path}", json=order("a"))).status_code == 401
