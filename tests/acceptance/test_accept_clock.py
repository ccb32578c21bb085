"""The collector's date is set while it runs: rules go on being judged, and nothing that fires is forgotten.

The date of a machine that others use cannot be set, so the daemon runs in an interpreter whose two functions of
wall time add what a file says; everything else is the daemon as it is.
"""

import json
import sys

import pytest

pytestmark = pytest.mark.timeout(180)

HOUR_S = 3600
OFF_DATE = """
import pathlib, sys, time
ahead_s = pathlib.Path(sys.argv.pop(1))
def set_ahead(real, second):
    return lambda: real() + int(ahead_s.read_text()) * second
time.time_ns, time.time = set_ahead(time.time_ns, 10**9), set_ahead(time.time, 1)
from watchbill_collector.daemon import main
sys.exit(main())
"""
RULES = """
groups:
  - name: steps
    interval: 1s
    rules:
      - {alert: Standing, expr: node_load1 >= 0}
      - {alert: Coming, expr: node_load1 >= 0, for: 15m}
"""


def ready(collector):
    try:
        return collector.ask("GET", "/readyz").status == 200
    except OSError:
        return False


def firing(collector):
    return [alert for alert in collector.alerts("Standing") if alert["state"] == "firing"]


def newest_s(collector):
    """How old the newest reading of the host is, by the collector's own date."""
    return collector.value("time() - timestamp(node_load1)")


@pytest.mark.parametrize("hours", [1, -1])
def test_a_date_that_is_set_ends_no_alert_and_stops_no_rule(house, until, hours):
    collector = house.collector("[rules]\nstock = false\n", launch=False)
    (collector.etc / "rules.d" / "steps.yml").write_text(RULES)
    ahead_s = house.root / "ahead_s"
    ahead_s.write_text("0")
    argv = [sys.executable, "-c", OFF_DATE, str(ahead_s), "run", "--home", str(collector.home)]
    house.start(collector, argv)
    until(lambda: ready(collector), "it is ready")
    house.agent(collector, "web1")
    began = until(lambda: firing(collector), "an alert")
    pid = collector.running.pid
    ahead_s.write_text(str(hours * HOUR_S))
    until(lambda: "the clock was set: the collector begins anew" in collector.said, "it is noticed")
    until(lambda: ready(collector), "it is ready again")
    assert collector.running.running
    assert collector.running.pid == pid
    until(lambda: (age_s := newest_s(collector)) is not None and -5 < age_s < 5, "readings of the new date")
    (still,) = until(lambda: firing(collector), "the alert is there again")
    assert still["labels"] == began[0]["labels"]
    rules = collector.ask("GET", "/api/v1/rules").json["data"]["groups"][0]
    until(
        lambda: (
            collector.ask("GET", "/api/v1/rules").json["data"]["groups"][0]["lastEvaluation"]
            > rules["lastEvaluation"]
        ),
        "rules are judged by the new date",
    )
    saved = json.loads((collector.state / "alerts.json").read_bytes())
    states = [(alert[2], alert[3][0]) for rule in saved["rules"].values() for alert in rule]
    assert [state for state, _ in states].count("resolved") == 0, "nothing has ended"
    assert all(active_ms <= saved["at_ms"] for _, active_ms in states), (
        "and nothing waits for an hour to pass"
    )
    assert collector.losses("web1") == []
