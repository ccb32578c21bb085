"""Every route of a running collector, asked by every role with a scope, while another team's host is full of things to
find: names, labels, alerts, a rule's error, a service, silences, gaps, tokens, notices, events.

What is foreign carries MARK. A request that names it must be answered like one that names what never was.
"""

import http.client
import json
import re
import threading
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from watchbill_collector.api.routes import ROLES, Need, Within
from watchbill_collector.api.table import ROUTES

pytestmark = pytest.mark.timeout(240)

OURS = "/api/watchbill/v1"
MARK = "zzforeign"
NEVER = "zznowhere"
WHO = "WHO"
"""Stands for the foreign host's name, and for one that never was."""
ROLE_NAMES = ("viewer", "operator", "approver", "author", "admin", "auditor")
RULES = """\
groups:
  - name: all
    interval: 1s
    rules:
      - record: each:load
        expr: node_load1
      - record: all:load
        expr: sum(node_load1)
      - record: team:load
        expr: sum by (team) (node_load1)
      - alert: Loaded
        expr: node_load1 >= 0
        labels: {severity: critical}
        annotations: {summary: 'load of {{ $labels.instance }} in {{ $labels.rack }}'}
      - alert: Broken
        expr: 'node_load1 * on (job) up{job="node"} > 0'
"""
CONFIG = """
[rules]
stock = false
[[channel]]
name = "nobody"
kind = "exec"
argv = ["/bin/false"]
"""
SERVICES = f"""
[[service]]
name = "{MARK}-shop"
hosts = 'instance="{MARK}1"'
owner = "{MARK}-owner"
[[service]]
name = "shop"
hosts = 'instance="own1"'
"""


BOOK = f"""
runbook: {MARK}-book
about: {MARK} about
steps:
  - {{id: consent, approve: {MARK}-role, timeout: 1h}}
"""


class Ask(NamedTuple):
    """A request. What is in `path` after `?` is quoted when it is sent."""

    method: str
    path: str
    body: Any = None


def query(*expressions: str) -> list[Ask]:
    return [Ask("GET", f"/api/v1/query?query={quote(one)}") for one in expressions]


def both(path: str) -> list[Ask]:
    return [Ask("GET", path), Ask("POST", path.partition("?")[0])]


ASKED: dict[str, list[Ask]] = {
    "/api/v1/query": query(
        "up",
        '{__name__=~".+"}',
        f'up{{instance="{WHO}1"}}',
        f'absent(up{{instance="{WHO}1"}})',
        f'absent_over_time(up{{instance="{WHO}1"}}[5m])',
        "count(up)",
        "topk(10, node_load1)",
        "ALERTS",
        "ALERTS_FOR_STATE",
        "each:load",
        "all:load",
        "team:load",
        "node_load1 offset 1s",
        "node_load1[1m]",
        f'max_over_time(node_load1{{instance=~"{WHO}.*"}}[1m:1s])',
        'label_replace(up, "instance", "$1", "rack", "(.*)")',
        'label_join(up, "all", ",", "instance", "rack", "team")',
        'up * on (job) group_left (rack) node_uname_info{rack!=""}',
        "up * on (job) up",
        "node_uname_info",
        "count_values('v', node_uname_info)",
        "watchbill_collector_refusals_total",
        "watchbill_agent_build_info",
        'sort_by_label(up, "instance")',
        "info(up)",
        f"up{{instance='{WHO}1'",
    ),
    "/api/v1/query_range": [
        Ask("GET", "/api/v1/query_range?query=up&start=NOW-60&end=NOW&step=5"),
        Ask("GET", f"/api/v1/query_range?query={quote('{instance=~`.*`}')}&start=NOW-30&end=NOW&step=10"),
        Ask("GET", "/api/v1/query_range?query=up*on(job)up&start=NOW-60&end=NOW&step=5"),
    ],
    "/api/v1/series": [
        Ask("GET", f"/api/v1/series?match[]={quote('{__name__=~`.+`}')}"),
        Ask("GET", f"/api/v1/series?match[]={quote(f'{{instance=`{WHO}1`}}')}"),
        Ask("GET", "/api/v1/series?match[]=up&start=NOW-60&end=NOW"),
    ],
    "/api/v1/labels": [
        Ask("GET", "/api/v1/labels"),
        Ask("GET", f"/api/v1/labels?match[]={quote(f'{{instance=`{WHO}1`}}')}"),
    ],
    "/api/v1/label/{name}/values": [
        *(
            Ask("GET", f"/api/v1/label/{name}/values")
            for name in ("instance", "rack", "team", "nodename", "__name__")
        ),
        Ask("GET", f"/api/v1/label/instance/values?match[]={quote(f'up{{instance=`{WHO}1`}}')}"),
        Ask("GET", "/api/v1/label/rack/values?start=NOW-60&end=NOW"),
    ],
    "/api/v1/metadata": [Ask("GET", "/api/v1/metadata")],
    "/api/v1/format_query": both("/api/v1/format_query?query=up"),
    "/api/v1/query_exemplars": both("/api/v1/query_exemplars?query=up"),
    "/api/v1/rules": [Ask("GET", "/api/v1/rules"), Ask("GET", "/api/v1/rules?type=alert&rule_name[]=Broken")],
    "/api/v1/alerts": [Ask("GET", "/api/v1/alerts")],
    "/api/v1/status/buildinfo": [Ask("GET", "/api/v1/status/buildinfo")],
    f"{OURS}/channels": [Ask("GET", f"{OURS}/channels")],
    f"{OURS}/channels/{{name}}/test": [Ask("POST", f"{OURS}/channels/{WHO}/test")],
    f"{OURS}/services": [Ask("GET", f"{OURS}/services")],
    f"{OURS}/services/{{name}}": [Ask("GET", f"{OURS}/services/{WHO}-shop")],
    f"{OURS}/rules/test": [Ask("POST", f"{OURS}/rules/test", {"text": "tests: []", "rules": {}})],
    f"{OURS}/rules/backtest": [
        Ask("POST", f"{OURS}/rules/backtest", {"text": RULES, "since_s": 60}),
        Ask("POST", f"{OURS}/rules/backtest", {"expr": "node_load1 >= 0", "since_s": 60}),
    ],
    f"{OURS}/silences": [
        Ask("GET", f"{OURS}/silences"),
        Ask("GET", f"{OURS}/silences?expired=1"),
        Ask("POST", f"{OURS}/silences", {"matchers": 'alertname=~".+"', "duration_s": 600, "reason": "x"}),
    ],
    f"{OURS}/silences/match": [
        Ask("POST", f"{OURS}/silences/match", {"matchers": f'instance="{WHO}1"'}),
        Ask("POST", f"{OURS}/silences/match", {"matchers": 'alertname=~".+"'}),
    ],
    f"{OURS}/silences/{{id}}": [Ask("DELETE", f"{OURS}/silences/SILENCE_")],
    f"{OURS}/dispatch": [Ask("GET", f"{OURS}/dispatch")],
    f"{OURS}/alerts": [
        Ask("GET", f"{OURS}/alerts?resolved=1"),
        Ask("GET", f"{OURS}/alerts?host={WHO}1"),
        Ask("GET", f"{OURS}/alerts?service={WHO}-shop"),
        Ask("GET", f"{OURS}/alerts?words={WHO}1"),
        Ask("GET", f"{OURS}/alerts?limit=1&offset=1"),
    ],
    f"{OURS}/alerts/{{fingerprint}}": [Ask("GET", f"{OURS}/alerts/ALERT_")],
    f"{OURS}/hosts": [Ask("GET", f"{OURS}/hosts")],
    f"{OURS}/hosts/{{name:path}}": [
        Ask("GET", f"{OURS}/hosts/{WHO}1"),
        Ask("GET", f"{OURS}/hosts/AGENT_"),
        Ask("DELETE", f"{OURS}/hosts/{WHO}1"),
    ],
    f"{OURS}/hosts/{{name:path}}/events": [
        Ask("GET", f"{OURS}/hosts/{WHO}1/events"),
        Ask("GET", f"{OURS}/hosts/AGENT_/events?limit=3"),
    ],
    f"{OURS}/hosts/{{name:path}}/rename": [Ask("POST", f"{OURS}/hosts/{WHO}1/rename", {"to": "mine"})],
    f"{OURS}/hosts/{{name:path}}/retire": [Ask("POST", f"{OURS}/hosts/{WHO}1/retire")],
    f"{OURS}/hosts/{{name:path}}/revoke": [Ask("POST", f"{OURS}/hosts/{WHO}1/revoke", {"reason": "mine"})],
    f"{OURS}/hosts/{{name:path}}/approve": [Ask("POST", f"{OURS}/hosts/{WHO}1/approve")],
    f"{OURS}/enrolments": [
        Ask("GET", f"{OURS}/enrolments"),
        Ask("POST", f"{OURS}/enrolments", {"names": [f"{WHO}1"], "labels": {"team": "a"}, "replace": True}),
    ],
    f"{OURS}/enrolments/{{name}}": [Ask("DELETE", f"{OURS}/enrolments/ENROLMENT_")],
    f"{OURS}/gaps": [Ask("GET", f"{OURS}/gaps"), Ask("GET", f"{OURS}/gaps?host={WHO}1")],
    f"{OURS}/backups": [
        Ask("GET", f"{OURS}/backups"),
        Ask("GET", f"{OURS}/backups?host={WHO}1"),
        Ask("GET", f"{OURS}/backups?words={WHO}"),
    ],
    f"{OURS}/backups/report": [
        Ask("GET", f"{OURS}/backups/report"),
        Ask("GET", f"{OURS}/backups/report?host={WHO}1&since=1000&until=2000"),
    ],
    f"{OURS}/backups/evidence": [Ask("GET", f"{OURS}/backups/evidence?since=1000&until=2000")],
    f"{OURS}/backups/uncovered": [Ask("GET", f"{OURS}/backups/uncovered")],
    f"{OURS}/backups/exemptions": [
        Ask("GET", f"{OURS}/backups/exemptions"),
        Ask(
            "POST",
            f"{OURS}/backups/exemptions",
            {"kind": "host", "name": f"{WHO}1", "owner": "me", "reason": "none", "duration_s": 600},
        ),
    ],
    f"{OURS}/backups/exemptions/{{name}}": [Ask("DELETE", f"{OURS}/backups/exemptions/EXEMPTION_")],
    f"{OURS}/backups/{{name:path}}": [
        Ask("GET", f"{OURS}/backups/{WHO}-job"),
        Ask("GET", f"{OURS}/backups/BACKUP_"),
    ],
    f"{OURS}/backups/{{name:path}}/review": [
        Ask("POST", f"{OURS}/backups/{WHO}-job/review", {"note": "looked"}),
        Ask("POST", f"{OURS}/backups/BACKUP_/review", {"note": "looked"}),
    ],
    f"{OURS}/backups/{{name:path}}/verify": [
        Ask("POST", f"{OURS}/backups/{WHO}-job/verify", {}),
        Ask("POST", f"{OURS}/backups/BACKUP_/verify", {"level": "data"}),
    ],
    f"{OURS}/drills": [Ask("GET", f"{OURS}/drills")],
    f"{OURS}/runbooks": [Ask("GET", f"{OURS}/runbooks")],
    f"{OURS}/runbooks/lint": [
        Ask("POST", f"{OURS}/runbooks/lint", {"text": f"runbook: x\nsteps: [{{do: a, on: {WHO}1}}]\n"})
    ],
    f"{OURS}/runbooks/{{name}}": [Ask("GET", f"{OURS}/runbooks/{WHO}-book")],
    f"{OURS}/runbooks/{{name}}/plan": [Ask("POST", f"{OURS}/runbooks/{WHO}-book/plan", {})],
    f"{OURS}/runbooks/{{name}}/export": [
        Ask("POST", f"{OURS}/runbooks/{WHO}-book/export", {"parameters": {}})
    ],
    f"{OURS}/runbooks/{{name}}/accept": [
        Ask("POST", f"{OURS}/runbooks/{WHO}-book/accept", {"digest": "0" * 64})
    ],
    f"{OURS}/runbooks/{{name}}/breaker": [
        Ask("POST", f"{OURS}/runbooks/{WHO}-book/breaker", {"reason": "mine"})
    ],
    f"{OURS}/runs": [
        Ask("GET", f"{OURS}/runs"),
        Ask("GET", f"{OURS}/runs?runbook={WHO}-book"),
        Ask("POST", f"{OURS}/runs", {"runbook": f"{WHO}-book", "reason": "mine"}),
    ],
    f"{OURS}/roster": [Ask("GET", f"{OURS}/roster"), Ask("POST", f"{OURS}/roster", {"signed": "QUFB" * 30})],
    f"{OURS}/roster/behind": [Ask("GET", f"{OURS}/roster/behind")],
    f"{OURS}/runs/{{name}}": [Ask("GET", f"{OURS}/runs/RUN_")],
    f"{OURS}/runs/{{name}}/journal": [Ask("GET", f"{OURS}/runs/RUN_/journal")],
    f"{OURS}/runs/{{name}}/evidence": [Ask("GET", f"{OURS}/runs/RUN_/evidence")],
    f"{OURS}/evidence": [Ask("GET", f"{OURS}/evidence")],
    f"{OURS}/evidence/key": [Ask("GET", f"{OURS}/evidence/key")],
    f"{OURS}/runs/{{name}}/vote": [
        Ask("POST", f"{OURS}/runs/RUN_/vote", {"step": "consent", "vote": "QUFB" * 30})
    ],
    f"{OURS}/runs/{{name}}/approve": [Ask("POST", f"{OURS}/runs/RUN_/approve", {"step": "consent"})],
    f"{OURS}/runs/{{name}}/{{verb}}": [Ask("POST", f"{OURS}/runs/RUN_/abort", {"reason": "mine"})],
    f"{OURS}/automation": [Ask("GET", f"{OURS}/automation")],
    f"{OURS}/automation/pause": [Ask("POST", f"{OURS}/automation/pause", {"reason": "mine"})],
    f"{OURS}/automation/resume": [Ask("POST", f"{OURS}/automation/resume", {"reason": "mine"})],
    f"{OURS}/backups/{{name:path}}/pause": [
        Ask("POST", f"{OURS}/backups/BACKUP_/pause", {"duration_s": 600, "reason": "mine"}),
        Ask("DELETE", f"{OURS}/backups/BACKUP_/pause"),
    ],
    f"{OURS}/rules/check": [Ask("POST", f"{OURS}/rules/check", {"text": RULES})],
    f"{OURS}/status": [Ask("GET", f"{OURS}/status")],
    f"{OURS}/events": [],  # Followed beside all the others.
    f"{OURS}/me": [Ask("GET", f"{OURS}/me")],
    f"{OURS}/logins": [Ask("POST", f"{OURS}/logins")],
    f"{OURS}/openapi.json": [Ask("GET", f"{OURS}/openapi.json")],
    f"{OURS}/audit": [
        Ask("GET", f"{OURS}/audit?limit=10000"),
        Ask("GET", f"{OURS}/audit?actor=admin"),
        Ask("GET", f"{OURS}/audit?target={WHO}1"),
    ],
    f"{OURS}/audit/export": [Ask("GET", f"{OURS}/audit/export")],
    f"{OURS}/audit/verify": [
        Ask("GET", f"{OURS}/audit/verify"),
        Ask("GET", f"{OURS}/audit/verify?witness={WHO}1"),
    ],
    f"{OURS}/users": [Ask("GET", f"{OURS}/users"), Ask("POST", f"{OURS}/users", {"name": "x", "grants": []})],
    f"{OURS}/users/{{name}}/grant": [Ask("POST", f"{OURS}/users/{WHO}/grant", {"grants": []})],
    f"{OURS}/users/{{name}}/disable": [Ask("POST", f"{OURS}/users/{WHO}/disable")],
    f"{OURS}/users/{{name}}/enable": [Ask("POST", f"{OURS}/users/{WHO}/enable")],
    f"{OURS}/users/{{name}}/tokens": [Ask("POST", f"{OURS}/users/{WHO}/tokens", {"name": "x"})],
    f"{OURS}/users/{{name}}/tokens/{{token}}": [Ask("DELETE", f"{OURS}/users/{WHO}/tokens/x")],
    "/login": [Ask("GET", "/login?code=x"), Ask("POST", "/login", {"token": "x"})],
    "/logout": [],  # Of a session; a token has none.
    "/healthz": [Ask("GET", "/healthz")],
    "/readyz": [Ask("GET", "/readyz")],
    "/metrics": [Ask("GET", "/metrics")],
    "/": [Ask("GET", "/")],
    "/{file:path}": [Ask("GET", f"/{WHO}")],
} | {
    f"{OURS}/{thing}{rest}": [Ask("GET", f"{OURS}/{thing}{rest and '/x'}")]
    for thing in ("incidents",)
    for rest in ("", "/{rest:path}")
}

VOLATILE = re.compile(
    r'"(took_s|expires|code|id|created|starts|ends|evaluationTime|lastEvaluation|value)":("[^"]*"|[0-9.e+-]+)'
)


def test_every_route_is_asked_here() -> None:
    assert sorted({route.path for route in ROUTES}) == sorted(ASKED), (
        "a route is missing from the table above"
    )


@pytest.fixture(scope="module")
def town(shared_house: Any, until: Any) -> dict[str, Any]:
    """A collector with a host of team a, and a foreign one."""
    collector = shared_house.collector(CONFIG, launch=False)
    (collector.etc / "rules.d" / "all.yml").write_text(RULES)
    (collector.etc / "services.d").mkdir()
    (collector.etc / "services.d" / "all.toml").write_text(SERVICES)
    (collector.etc / "runbooks.d").mkdir()
    (collector.etc / "runbooks.d" / f"{MARK}-book.yaml").write_text(BOOK)
    collector.launch()
    agents = []
    for name, labels in (("own1", {"team": "a"}), (f"{MARK}1", {"team": "b", "rack": f"{MARK}-rack"})):
        agent = shared_house.home(name)
        token = collector.issue(name, labels=labels)["token"]
        assert agent.command("enroll", "--token-file", "-", given=token).code == 0
        agent.start()
        agents.append(agent)
    until(
        lambda: {one["labels"]["instance"] for one in collector.alerts("Loaded")} == {"own1", f"{MARK}1"},
        "both fire",
    )
    agents[1].kill()
    agents[1].start()
    until(lambda: collector.gaps(f"{MARK}1"), "the foreign host has a gap", 60)
    order = {
        "matchers": f'instance="{MARK}1",alertname="None"',
        "duration_s": 3600,
        "reason": f"{MARK} reason",
    }
    silence = collector.ask("POST", f"{OURS}/silences", json.dumps(order).encode()).json["silence"]["id"]
    enrolment = collector.issue(f"{MARK}2", labels={"team": "b"})["enrolment"]["id"]
    done = agents[1].command(
        "backup", "report", f"{MARK}-job", "--outcome", "failed", "--error", f"{MARK} error"
    )
    assert done.code == 0
    until(lambda: collector.get("/backups")["backups"], "the foreign backup is known")
    (backup,) = collector.get("/backups")["backups"]
    order = {
        "kind": "host",
        "name": f"{MARK}1",
        "owner": f"{MARK}-owner",
        "reason": f"{MARK} reason",
        "duration_s": 600,
    }
    exemption = collector.ask("POST", f"{OURS}/backups/exemptions", json.dumps(order).encode()).json
    (alert,) = [one for one in collector.alerts("Loaded") if one["labels"]["instance"] == f"{MARK}1"]
    until(
        lambda: "instance" in json.dumps(rule(collector, "Broken")["lastError"]), "a rule's error names hosts"
    )
    names = {
        "SILENCE_": silence,
        "ENROLMENT_": enrolment,
        "ALERT_": alert["fingerprint"],
        "AGENT_": agents[1].agent_id,
        "BACKUP_": backup["id"],
        "EXEMPTION_": exemption["id"],
        "RUN_": begun(collector),
    }
    tokens = {}
    for role in ROLE_NAMES:
        body = {"name": f"the-{role}", "grants": [{"role": role, "scope": "team=a"}]}
        assert collector.ask("POST", f"{OURS}/users", json.dumps(body).encode()).status in (200, 201)
        made = collector.ask("POST", f"{OURS}/users/the-{role}/tokens", b'{"name": "t"}').json
        tokens[role] = made["token"]
    return {"collector": collector, "names": names, "tokens": tokens}


def begun(collector: Any) -> str:
    """A run that waits at its gate, of who sees everything: what touches no host of a team is no team's."""
    body = {"name": "whole", "grants": [{"role": "approver", "scope": ""}]}
    assert collector.ask("POST", f"{OURS}/users", json.dumps(body).encode()).status in (200, 201)
    token = collector.ask("POST", f"{OURS}/users/whole/tokens", b'{"name": "t"}').json["token"]
    (book,) = collector.get("/runbooks")["runbooks"]
    accept = json.dumps({"digest": book["digest"]}).encode()
    assert collector.ask("POST", f"{OURS}/runbooks/{MARK}-book/accept", accept, token=token).status == 200
    start = json.dumps({"runbook": f"{MARK}-book", "reason": f"{MARK} reason"}).encode()
    run: str = collector.ask("POST", f"{OURS}/runs", start, token=token).json["id"]
    return run


def rule(collector: Any, name: str) -> Any:
    groups = collector.ask("GET", "/api/v1/rules").json["data"]["groups"]
    return next(one for group in groups for one in group["rules"] if one["name"] == name)


def sent(town: dict[str, Any], ask: Ask, who: str, token: str, names: dict[str, str]) -> tuple[int, str]:
    import time

    path, body = (
        ask.path.replace(WHO, who),
        "" if ask.body is None else json.dumps(ask.body).replace(WHO, who),
    )
    for name, text in names.items():
        path = path.replace(name, text)
    path = re.sub(r"NOW(-\d+)?", lambda match: str(int(time.time()) + int(match[1] or 0)), path)
    answer = town["collector"].ask(ask.method, path, body.encode() or None, token=token)
    text = answer.content.decode("utf-8", "replace") + json.dumps(dict(answer.headers))
    return answer.status, text


def echo_removed(text: str, ask: Ask, who: str) -> str:
    """What an answer says but for the words that were asked with."""
    asked = {ask.path.replace(WHO, who)} | set(
        re.findall(
            rf"{who}[\w.*-]*", ask.path.replace(WHO, who) + json.dumps(ask.body or "").replace(WHO, who)
        )
    )
    for word in sorted(asked, key=len, reverse=True):
        text = text.replace(word, "")
    return text


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_no_route_tells_of_another_teams_things(town: dict[str, Any], role: str) -> None:
    token = town["tokens"][role]
    nothing = {
        "SILENCE_": "000000000000",
        "ENROLMENT_": "000000000000",
        "ALERT_": "0" * 16,
        "BACKUP_": "1" * 16,
        "EXEMPTION_": "2" * 12,
        "RUN_": "3" * 16,
        "AGENT_": "0" * 8 + town["names"]["AGENT_"][8:],
    }
    for route in ROUTES:
        for ask in ASKED[route.path]:
            if ask.method not in route.methods:
                continue
            where = f"{role}: {ask}"
            status, text = sent(town, ask, MARK, token, town["names"])
            if route.path == f"{OURS}/audit":  # His own rows repeat what he asked for.
                rows = json.loads(text[: text.rindex('{"date"')])["rows"] if status == 200 else []
                assert {row["actor"] for row in rows} <= {f"the-{role}"}, where
            else:
                assert MARK not in echo_removed(text, ask, MARK), where
            assert status < 500, where
            if route.need is not Need.NOTHING and role not in {one.value for one in ROLES[route.need]}:
                assert status == 403, where
            if route.within is Within.WHOLE:
                assert status == 403, where
            if status == 403:
                continue
            never, other = sent(town, ask, NEVER, token, nothing)
            named = WHO in ask.path or any(name in ask.path for name in nothing)
            if route.within is Within.OBJECT:
                assert status in (400, 404), where
            if named and route.path != f"{OURS}/audit":
                assert (status, plain(text, MARK, town["names"])) == (never, plain(other, NEVER, nothing)), (
                    where
                )


def plain(text: str, who: str, names: dict[str, str]) -> str:
    """What is the same for a thing that is hidden and for one that never was."""
    body = text[: text.rindex('{"')] if text.endswith("}") else text
    for word in (who, *names.values()):
        body = body.replace(word, "it")
    return re.sub(r'"value":\[[0-9.]+', '"value":[T', VOLATILE.sub("", body))


def test_the_foreign_things_are_still_there_and_everybody_else_finds_them(town: dict[str, Any]) -> None:
    collector = town["collector"]
    for path in (
        "/api/v1/query?query=up",
        "/api/v1/query?query=ALERTS",
        f"/api/v1/series?match[]={quote('up')}",
        "/api/v1/label/rack/values",
        "/api/v1/rules",
        "/api/v1/alerts",
        f"{OURS}/hosts",
        f"{OURS}/hosts/{MARK}1",
        f"{OURS}/alerts",
        f"{OURS}/alerts/{town['names']['ALERT_']}",
        f"{OURS}/services",
        f"{OURS}/silences",
        f"{OURS}/gaps",
        f"{OURS}/enrolments",
        f"{OURS}/audit?limit=10000",
        f"{OURS}/runbooks",
        f"{OURS}/runbooks/{MARK}-book",
        f"{OURS}/runs",
        f"{OURS}/runs/{town['names']['RUN_']}",
        f"{OURS}/runs/{town['names']['RUN_']}/journal",
    ):
        answer = collector.ask("GET", path)
        assert answer.status == 200, path
        assert MARK in answer.content.decode(), path
    assert collector.host(f"{MARK}1")["state"] in ("up", "down")
    assert collector.get("/silences")["silences"][-1]["state"] == "active"
    assert collector.get(f"/runs/{town['names']['RUN_']}")["state"] == "waiting"
    (alert,) = [one for one in collector.alerts("Loaded") if one["labels"]["instance"] == f"{MARK}1"]
    assert alert["silences"] == [], "whatever team a silenced, it was its own"


def test_an_own_thing_is_found_with_the_same_requests(town: dict[str, Any]) -> None:
    token = town["tokens"]["admin"]
    ask = Ask("GET", f"{OURS}/hosts/own1")
    assert sent(town, ask, MARK, token, {})[0] == 200
    status, text = sent(town, Ask("GET", "/api/v1/query?query=up"), MARK, token, {})
    assert status == 200
    assert "own1" in text
    assert "own1" in sent(town, Ask("GET", f"{OURS}/alerts"), MARK, token, {})[1]
    # A sum over everybody is in no scope; one of the own team is.
    assert '"result":[]' in sent(town, Ask("GET", "/api/v1/query?query=all:load"), MARK, token, {})[1]
    assert '"team":"a"' in sent(town, Ask("GET", "/api/v1/query?query=team:load"), MARK, token, {})[1]


def test_events_of_another_team_do_not_come(town: dict[str, Any], until: Any) -> None:
    collector = town["collector"]
    heard: dict[str, list[bytes]] = {"viewer": [], "": []}
    connections = []

    def follow(token: str, into: list[bytes]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", collector.ports["http"], timeout=60)
        connections.append(connection)
        connection.request("GET", f"{OURS}/events", headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        into.append(b"begun")
        try:
            while line := answer.readline():
                into.append(line)
        except (OSError, ValueError, http.client.HTTPException, AttributeError):
            return

    for role, into in heard.items():
        token = town["tokens"][role] if role else Path(collector.token_file).read_text().strip()
        threading.Thread(target=follow, args=(token, into), daemon=True).start()
    until(lambda: all(heard.values()), "both follow")
    assert (
        collector.ask("POST", f"{OURS}/hosts/{MARK}1/rename", json.dumps({"to": f"{MARK}9"}).encode()).status
        == 200
    )
    assert collector.ask("POST", f"{OURS}/hosts/own1/rename", b'{"to": "own9"}').status == 200
    until(lambda: any(b"own9" in line for line in heard["viewer"]), "the own one is told")
    assert any(MARK.encode() in line for line in heard[""]), "who sees everything hears of it"
    assert not any(MARK.encode() in line for line in heard["viewer"])
    for connection in connections:
        connection.close()
