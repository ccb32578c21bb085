"""Thresholds on a real machine: real CPU load makes an alert fire and resolve; rules are reloaded."""

import os
import re
import signal
from pathlib import Path

import pytest

import watchbill_collector

pytestmark = pytest.mark.timeout(120)

BUSY = """\
groups:
  - name: acceptance
    interval: 1s
    rules:
      - alert: NiceCpuIsBusy
        expr: sum by (instance) (rate(node_cpu_seconds_total{mode="nice"}[6s])) > 0.02
        for: 3s
        labels: {severity: minor}
        annotations: {summary: "nice work on {{ $labels.instance }}: {{ printf \\"%.2f\\" $value }} CPUs"}
"""
SECOND = """\
groups:
  - name: second
    rules:
      - {alert: AlwaysTrue, expr: "vector(1) > 0"}
"""
BROKEN = """\
groups:
  - name: broken
    rules:
      - alert: NoSuchFunction
        expr: rote(node_load1[5m]) > 1
"""


@pytest.fixture(scope="module")
def collector(shared_house):
    made = shared_house.collector("[rules]\nstock = false\n", launch=False)
    (made.etc / "rules.d" / "busy.yml").write_text(BUSY)
    made.launch()
    return made


@pytest.fixture(scope="module")
def agent(shared_house, collector, load):
    return shared_house.agent(collector, "web1", f'interval = "1s"\nprocfs = "{load.procfs}"\n')


def states(collector):
    """The alert's states by the operator's command."""
    done = collector.cli("alerts", "--all", "--json")
    assert done.code == 0, done
    return [alert["state"] for alert in done.json["alerts"] if alert["name"] == "NiceCpuIsBusy"]


def test_a_fresh_collector_has_no_alert_of_an_idle_rule(collector, agent):
    assert states(collector) == []


def test_cpu_load_goes_pending_firing_resolved(collector, agent, load, until):
    load.begin()
    until(lambda: states(collector) == ["pending"], "pending")
    until(lambda: states(collector) == ["firing"], "firing")
    (alert,) = collector.cli("alerts", "--json").json["alerts"]
    assert alert["labels"] == {"alertname": "NiceCpuIsBusy", "instance": "web1", "severity": "minor"}
    assert re.fullmatch(r"nice work on web1: [01]\.[0-9]{2} CPUs", alert["annotations"]["summary"])
    assert alert["value"] > 0.02
    assert collector.cli("alerts", "--exit-code").code == 1
    assert [value for _, value in collector.query('ALERTS{alertname="NiceCpuIsBusy"}')] == [1.0]
    load.end()
    until(lambda: states(collector) == ["resolved"], "resolved")
    assert collector.cli("alerts", "--json").json["alerts"] == []
    until(
        lambda: (
            {
                labels["alertstate"]
                for labels, _ in collector.query('count_over_time(ALERTS{alertname="NiceCpuIsBusy"}[2m])')
            }
            == {"pending", "firing"}
        ),
        "both states are in history",
    )


def test_hosts_and_queries_are_json_that_programs_can_read(collector, agent, until):
    (host,) = collector.cli("hosts", "--json").json["hosts"]
    assert (host["name"], host["state"], host["interval_s"]) == ("web1", "up", 1.0)
    assert host["series"] > 200
    asked = 'rate(node_cpu_seconds_total{mode="idle"}[1m])'
    answer = until(
        lambda: (done := collector.cli("query", asked, "--json").json)["data"]["result"] and done, "a rate"
    )
    assert answer["status"] == "success"
    cpus = {row["metric"]["cpu"] for row in answer["data"]["result"]}
    assert len(cpus) == os.cpu_count()
    assert all(0 <= float(row["value"][1]) <= 1.1 for row in answer["data"]["result"])
    over = collector.cli("query", "node_load1", "--range", "1m", "--step", "1s", "--json").json
    assert len(over["data"]["result"][0]["values"]) >= 2
    top = collector.cli("top", "--json").json["hosts"]
    assert [row["host"] for row in top] == ["web1"]
    wrong = collector.cli("query", "rate(node_load1)", "--json")
    assert wrong.code == 2
    assert "parse error" in wrong.err


@pytest.mark.real("promtool")
def test_promtool_asks_a_collector_as_it_asks_prometheus(house, collector, until):
    refused = house.run(["promtool", "query", "instant", collector.url, "up"])
    assert refused.code != 0, "this one answers nobody in particular"
    reader = house.collector("[rules]\nstock = false\n", anonymous=True)
    house.agent(reader, "web1")
    asked = ["promtool", "query"]
    done = house.run([*asked, "instant", reader.url, "up"])
    assert 'up{instance="web1", job="node"} => 1' in done.out, done
    until(lambda: len(reader.raw("node_load1", 60)) >= 2, "samples")
    done = house.run([*asked, "range", "--step=1s", reader.url, "node_load1"])
    assert 'node_load1{instance="web1", job="node"}' in done.out, done
    done = house.run([*asked, "series", '--match=node_load1{job="node"}', reader.url])
    assert 'instance="web1"' in done.out, done
    done = house.run([*asked, "labels", reader.url, "instance"])
    assert "web1" in done.out.split(), done


def test_the_collectors_doctor_asks_each_port_and_no_proxy(house, collector):
    proxy = {"http_proxy": "http://127.0.0.1:9"}
    done = collector.command("doctor", "--json", extra=proxy)
    states = {finding["check"]: finding["state"] for finding in done.json["findings"]}
    assert {
        name: states[name] for name in ("config", "authority", "agents", "enrolment", "http")
    } == dict.fromkeys(("config", "authority", "agents", "enrolment", "http"), "ok"), done
    assert done.code == 0
    stopped = house.collector(launch=False).command("doctor", extra=proxy)
    assert stopped.code == 1
    assert stopped.out.count("does not answer: Connection refused") == 3, stopped.out


@pytest.mark.real("promtool")
def test_promtool_takes_every_file_of_the_stock_pack(shared_house):
    files = sorted((Path(watchbill_collector.__file__).parent / "rules" / "stock").glob("*.yml"))
    assert len(files) >= 5
    done = shared_house.run(["promtool", "check", "rules", *map(str, files)])
    assert done.code == 0, done


def test_sighup_loads_a_new_file_and_refuses_a_broken_one_as_a_whole(collector, agent, until):
    def loaded():
        groups = collector.ask("GET", "/api/v1/rules").json["data"]["groups"]
        return {rule["name"] for group in groups for rule in group["rules"]}

    rules = collector.etc / "rules.d"
    before = loaded()
    (rules / "second.yml").write_text(SECOND)
    collector.running.signal(signal.SIGHUP)
    until(lambda: loaded() == before | {"AlwaysTrue"}, "the new rule is loaded")
    (rules / "broken.yml").write_text(BROKEN)
    (rules / "second.yml").unlink()
    collector.running.signal(signal.SIGHUP)
    until(lambda: "reload refused" in collector.said, "the reload is refused")
    line = next(line for line in collector.said.splitlines() if "broken.yml" in line)
    assert f"{rules / 'broken.yml'}:5" in line
    assert "NoSuchFunction" in line
    assert "rote" in line
    assert loaded() == before | {"AlwaysTrue"}
    (rules / "broken.yml").unlink()
    collector.running.signal(signal.SIGHUP)
    until(lambda: loaded() == before, "the mended configuration is loaded")


def test_sighup_refuses_what_needs_a_restart_by_name(collector, agent, until):
    file = collector.etc / "collector.toml"
    text = file.read_text()
    file.write_text('site = "other"\n' + text)
    collector.running.signal(signal.SIGHUP)
    until(lambda: "site: got a new value, wanted no change while it runs" in collector.said, "it is refused")
    file.write_text(text)
    assert collector.ask("GET", "/readyz").status == 200
