"""One alert with its rule and its chart, as the page asks for it."""

from datetime import UTC, datetime

from watchbill_collector.api.ports import Alert, Rule, RuleGroup

THEN = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
BASE = "/api/watchbill/v1"
PRINT = "0123456789abcdef"
LABELS = {"alertname": "High", "instance": "web1", "severity": "major"}
ALERT = Alert("High", "firing", THEN, THEN, 95.0, LABELS, {"summary": "s"}, fingerprint=PRINT)
RULE = Rule(
    "alerting", "High", "a > 90", {"severity": "major"}, "ok", "", 0.1, THEN, "firing", alerts=(ALERT,)
)
GROUP = RuleGroup("g", "f.yml", 15.0, (RULE,), 0.2, THEN)


async def test_an_alert_comes_with_its_rule_and_what_to_draw(serve):
    served = await serve()
    served.twins.rules.active.append(ALERT)
    served.twins.rules.rule_groups.append(GROUP)
    answer = await served.client.get(f"{BASE}/alerts/{PRINT}", headers=served.viewer)
    assert answer.status_code == 200
    document = answer.json()
    assert document["alert"]["labels"] == LABELS
    assert (document["group"], document["file"], document["interval_s"]) == ("g", "f.yml", 15.0)
    assert document["rule"]["query"] == "a > 90"
    assert document["rule"]["alerts"] == []
    assert document["chart"] == {
        "value": "a",
        "for_host": 'a{instance="web1"}',
        "against": "",
        "against_for_host": "",
        "limits": [{"op": ">", "value": 90.0, "clears": False}],
    }


async def test_an_alert_that_ended_and_lost_its_rule_is_shown_without(serve):
    served = await serve()
    served.twins.rules.past.append(ALERT)
    document = (await served.client.get(f"{BASE}/alerts/{PRINT}", headers=served.viewer)).json()
    assert document["alert"]["fingerprint"] == PRINT
    assert document["rule"] is None
    assert document["chart"] is None


async def test_an_alert_that_is_not_there_is_not_found(serve):
    served = await serve()
    served.twins.rules.active.append(Alert("A", "firing", THEN, THEN, 1.0, {"alertname": "A"}, {}))
    for wanted in (PRINT, "0" * 400, "%00", "x"):
        answer = await served.client.get(f"{BASE}/alerts/{wanted}", headers=served.viewer)
        assert answer.status_code == 404, wanted
