"""Watchbill's own API: hosts, enrolments, gaps, alerts, rules, status, the description of it all."""

import dataclasses
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from watchbill_collector.api.doctor import judge
from watchbill_collector.api.health import CheckStanding, HostEvent
from watchbill_collector.api.ours import LATER
from watchbill_collector.api.ports import Alert, Gap
from watchbill_collector.api.status_port import CertificateStatus, DiskStatus, PortStatus, StoreStatus
from watchbill_collector.api.table import ROUTES

THEN = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
BASE = "/api/watchbill/v1"


def gap(host: str, agent_id: str, recorded: datetime) -> Gap:
    return Gap(host, agent_id, "bulk", 5, 9, 5, 1500, THEN, THEN, "overflow", recorded)


async def test_hosts_are_listed_with_all_that_is_known(serve):
    served = await serve()
    document = (await served.client.get(f"{BASE}/hosts", headers=served.viewer)).json()
    assert [(one["name"], one["state"]) for one in document["hosts"]] == [("web1", "up"), ("web2", "down")]
    assert document["hosts"][0] == {
        "name": "web1",
        "agent_id": "id-1",
        "site": "main",
        "state": "up",
        "since": "2026-11-21T12:00:00Z",
        "last_seen": "2026-11-21T12:00:00Z",
        "agent_version": "0.1.0",
        "interval_s": 10.0,
        "series": 300,
        "clock_skew_s": 0.25,
        "labels": {"rack": "b12"},
        "gaps": {"ranges": 0, "records": 0, "samples": 0, "last": None, "unknown": 0},
        "certificate_expires": "2026-11-21T12:00:00Z",
        "outdated": False,
        "transport": "",
        "absence": None,
        "certificate_lifetime_s": None,
        "expired_grace_s": None,
        "apps": [],
    }


async def test_a_host_is_shown_with_its_alerts_and_gaps_by_name_or_id(serve):
    served = await serve()
    labels = {"alertname": "Down", "instance": "web2"}
    served.twins.rules.active.append(Alert("Down", "firing", THEN, THEN, 0.0, labels, {}))
    served.twins.gaps.rows.append(gap("web2", "id-2", THEN))
    by_name = await served.client.get(f"{BASE}/hosts/web2", headers=served.viewer)
    by_id = await served.client.get(f"{BASE}/hosts/id-2", headers=served.viewer)
    assert by_name.json() == by_id.json()
    assert by_name.json()["alerts"][0]["name"] == "Down"
    assert by_name.json()["gaps"][0]["samples"] == 1500
    missing = await served.client.get(f"{BASE}/hosts/nobody", headers=served.viewer)
    assert (missing.status_code, missing.json()["errorType"]) == (404, "not_found")


async def test_a_host_is_shown_with_its_checks_and_what_it_told(serve):
    served = await serve()
    health = served.twins.health
    health.of_hosts["id-1"] = [
        CheckStanding("front", "shop", "http", True, "critical", THEN, "refused", "no answer")
    ]
    health.told["id-1"] = [HostEvent(THEN, THEN, "check.changed", {"check": str(n)}) for n in range(5)]
    get = lambda path, who=served.viewer: served.client.get(f"{BASE}/hosts/{path}", headers=who)  # noqa: E731
    (check,) = (await get("web1")).json()["checks"]
    assert check == {
        "name": "front", "app": "shop", "kind": "http", "essential": True, "verdict": "critical",
        "since": "2026-11-21T12:00:00Z", "reason": "refused", "detail": "no answer",
    }  # fmt: skip
    page = (await get("web1/events?limit=2")).json()
    assert [one["detail"]["check"] for one in page["events"]] == ["0", "1"]
    rest = (await get(f"id-1/events?before={page['more']}")).json()
    assert ([one["detail"]["check"] for one in rest["events"]], rest["more"]) == (["2", "3", "4"], "")
    assert (await get("web1/events?before=yesterday")).status_code == 400
    assert (await get("web1/events?limit=no")).status_code == 400
    assert (await get("nobody/events")).status_code == 404
    hidden = await get("web1/events", served.scoped)
    assert (hidden.status_code, "front" in hidden.text) == (404, False)


async def test_hosts_are_renamed_retired_revoked_and_forgotten(serve):
    served = await serve()
    post = lambda path, **body: served.client.post(f"{BASE}/hosts/{path}", json=body, headers=served.admin)  # noqa: E731
    assert (await post("web1/rename", to="www1")).json()["name"] == "www1"
    taken = await post("web2/rename", to="www1")
    assert (taken.status_code, taken.json()["errorType"]) == (409, "refused")
    assert (await post("web2/revoke", reason="stolen")).json()["state"] == "revoked"
    assert (await served.client.delete(f"{BASE}/hosts/www1", headers=served.admin)).status_code == 409
    assert (await post("www1/retire")).json()["state"] == "retired"
    assert (await served.client.delete(f"{BASE}/hosts/www1", headers=served.admin)).json() == {}
    assert served.twins.hosts.journal == [
        ("rename", "www1", "ops"),
        ("revoke", "stolen", "ops"),
        ("retire", "ops"),
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"to": 5}',
        b'{"to": ""}',
        b'{"to": "a\\nb"}',
        b'{"to": "\\u202e"}',
        b'{"to": "' + b"a" * 5000 + b'"}',
        b"\xff",
        b'{"to":' * 50_000,
        b"[" * 100_000,
        b'{"to": "\\ud800"}',
    ],
)
async def test_a_bad_body_is_refused_in_words(serve, content):
    served = await serve()
    answer = await served.client.post(f"{BASE}/hosts/web1/rename", content=content, headers=served.admin)
    assert answer.status_code == 400
    assert answer.json()["errorType"] == "bad_data"
    assert served.twins.hosts.journal == []


async def test_tokens_are_made_in_three_forms_listed_and_withdrawn(serve):
    served = await serve()
    post = lambda **order: served.client.post(f"{BASE}/enrolments", json=order, headers=served.admin)  # noqa: E731
    made = await post(names=["a", "b"], labels={"role": "web"}, cidr="10.0.0.0/8", ttl_s=60)
    assert made.status_code == 201
    issued = made.json()["issued"]
    assert [one["enrolment"]["name"] for one in issued] == ["a", "b"]
    assert all(one["token"] in one["command"] for one in issued)
    assert issued[0]["enrolment"]["labels"] == {"role": "web"}
    many = (await post(match="web-*", uses=50)).json()["issued"]
    assert [(one["enrolment"]["match"], one["enrolment"]["uses"]) for one in many] == [("web-*", 50)]
    listed = (await served.client.get(f"{BASE}/enrolments", headers=served.admin)).json()["enrolments"]
    assert len(listed) == 3
    assert "token" not in listed[0]
    gone = await served.client.delete(f"{BASE}/enrolments/{listed[0]['id']}", headers=served.admin)
    assert gone.json()["state"] == "withdrawn"
    assert (await served.client.delete(f"{BASE}/enrolments/none", headers=served.admin)).status_code == 404


@pytest.mark.parametrize(
    "order",
    [
        {},
        {"names": [], "match": ""},
        {"names": ["a"], "match": "b*"},
        {"names": "a"},
        {"names": ["a"], "ttl_s": -1},
        {"names": ["a"], "ttl_s": 1e300},
        {"match": "a*", "uses": 0},
        {"match": "a*", "uses": 10**30},
        {"names": ["x"] * 10_001},
        {"names": ["a"], "labels": {"a": 1}},
    ],
)
async def test_an_order_that_contradicts_itself_is_refused(serve, order):
    served = await serve()
    answer = await served.client.post(f"{BASE}/enrolments", json=order, headers=served.admin)
    assert answer.status_code == 400
    assert await served.twins.enrolments.enrolments() == []


async def test_gaps_by_host_and_time_and_never_more_than_asked(serve):
    served = await serve()
    served.twins.gaps.rows += [gap("web1", "id-1", THEN + timedelta(hours=hour)) for hour in range(5)]
    served.twins.gaps.rows.append(gap("web2", "id-2", THEN))
    get = lambda **fields: served.client.get(f"{BASE}/gaps", params=fields, headers=served.viewer)  # noqa: E731
    assert len((await get()).json()["gaps"]) == 6
    assert len((await get(host="web1")).json()["gaps"]) == 5
    assert len((await get(host="id-2")).json()["gaps"]) == 1
    assert len((await get(since="2026-11-21T15:00:00Z")).json()["gaps"]) == 2
    cut = (await get(limit="2")).json()
    assert (len(cut["gaps"]), cut["truncated"]) == (2, True)
    assert (await get(host="nobody")).status_code == 404
    assert (await get(since="-1e14")).status_code == 400
    assert (await get(since="-253402300799")).status_code == 200


async def test_resolved_alerts_come_when_asked_for(serve):
    served = await serve()
    active = Alert("A", "pending", THEN, THEN, 1.5, {"alertname": "A"}, {"summary": "s"})
    served.twins.rules.active.append(active)
    gone = dataclasses.replace(active, state="resolved", resolved_at=THEN + timedelta(minutes=1))
    served.twins.rules.past.append(gone)
    (one,) = (await served.client.get(f"{BASE}/alerts", headers=served.viewer)).json()["alerts"]
    expected = {
        "name": "A",
        "state": "pending",
        "since": "2026-11-21T12:00:00Z",
        "active_at": "2026-11-21T12:00:00Z",
        "value": 1.5,
        "labels": {"alertname": "A"},
        "annotations": {"summary": "s"},
        "resolved_at": None,
    }
    assert {key: one[key] for key in expected} == expected
    both = (await served.client.get(f"{BASE}/alerts?resolved=1", headers=served.viewer)).json()["alerts"]
    assert [alert["state"] for alert in both] == ["pending", "resolved"]


async def test_a_rule_file_is_judged(serve):
    served = await serve()
    post = lambda text: served.client.post(  # noqa: E731
        f"{BASE}/rules/check", json={"text": text, "name": "x.yml"}, headers=served.viewer
    )
    assert (await post("groups: []")).json()["problems"] == []
    assert (await post("nothing")).json()["problems"] == [
        {"line": 1, "rule": "", "message": "x.yml: no groups"}
    ]


@pytest.mark.parametrize("thing", LATER)
async def test_what_is_not_built_yet_says_so(serve, thing):
    served = await serve(anonymous_read=True)
    for there in (thing, f"{thing}/", f"{thing}/a/b"):
        answer = await served.client.get(f"{BASE}/{there}")
        assert answer.status_code == 404
        assert answer.json()["error"] == f"{thing} are not built yet"


# ---------------------------------------------------------------- status and doctor


def test_a_healthy_collector_has_only_good_findings(status):
    assert {finding.state for finding in judge(status)} == {"ok"}


@pytest.mark.parametrize(
    ("change", "check", "state"),
    [
        ({"roster_disabled": ("boris",)}, "roster", "warn"),
        ({"disks": (DiskStatus("/v", 100, 5),)}, "disk", "fail"),
        ({"disks": (DiskStatus("/v", 100, 15),)}, "disk", "warn"),
        ({"disks": (DiskStatus("/v", 0, 0),)}, "disk", "fail"),
        ({"stores": (StoreStatus("history", "/v", False, 0, "No space left"),)}, "store", "fail"),
        ({"certificates": (CertificateStatus("ca", THEN + timedelta(days=2)),)}, "certificate", "fail"),
        ({"certificates": (CertificateStatus("ca", THEN + timedelta(days=9)),)}, "certificate", "warn"),
        ({"commit_oldest_s": 6.0}, "commit", "warn"),
        ({"commit_oldest_s": 60.0}, "commit", "fail"),
        ({"clock_synchronised": False}, "clock", "warn"),
        ({"rules_failing": 2}, "rules", "fail"),
        ({"rules_late_s": 45.0}, "rules", "warn"),
    ],
)
def test_what_is_wrong_is_found_and_has_a_fix(status, change, check, state):
    bad = [finding for finding in judge(dataclasses.replace(status, **change)) if finding.state != "ok"]
    assert [(finding.check, finding.state) for finding in bad] == [(check, state)]
    assert bad[0].fix


@pytest.fixture
def status():
    from watchbill.clock import ManualClock
    from watchbill_collector.api.twins import StatusTwin

    present = StatusTwin(ManualClock()).present
    return dataclasses.replace(
        present,
        now=THEN,
        stores=(StoreStatus("history", "/var/h", True, 5_000_000),),
        disks=(DiskStatus("/var", 100 << 30, 60 << 30),),
        certificates=(CertificateStatus("ca", THEN + timedelta(days=3000)),),
        ports=(PortStatus("http", "127.0.0.1:7480", False),),
    )


async def test_status_carries_facts_and_findings(serve):
    served = await serve()
    document = (await served.client.get(f"{BASE}/status", headers=served.viewer)).json()
    assert document["status"]["version"] == "0.1.0"
    assert {finding["check"] for finding in document["findings"]} >= {"commit", "clock", "rules"}


async def test_readiness_says_what_is_missing(serve):
    served = await serve()
    assert (await served.client.get("/readyz")).text == "ready\n"
    served.twins.status.not_ready = "history is being read"
    answer = await served.client.get("/readyz")
    assert (answer.status_code, answer.text) == (503, "not ready: history is being read\n")
    assert (await served.client.get("/healthz")).text == "ok\n"


async def test_metrics_parse_and_count_routes_not_paths(serve):
    served = await serve()
    for number in range(50):
        await served.client.get(f"/made-up/{number}")
        await served.client.get(f"{BASE}/hosts/made-up-{number}", headers=served.viewer)
    text = (await served.client.get("/metrics", headers=served.viewer)).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    requests = families["watchbill_collector_http_requests"]
    assert {sample.labels["route"] for sample in requests.samples} <= {route.path for route in ROUTES}
    counted = {
        (sample.labels["route"], sample.labels["code"]): sample.value
        for sample in requests.samples
        if sample.name.endswith("_total")
    }
    assert counted["/{file:path}", "404"] == 50
    assert counted[f"{BASE}/hosts/{{name:path}}", "404"] == 50
    assert not [name for name in families if name.endswith("_created")]


# ---------------------------------------------------------------- the description


async def test_every_route_is_described_with_types_that_resolve(serve):
    served = await serve()
    document = (await served.client.get(f"{BASE}/openapi.json", headers=served.viewer)).json()
    assert document["openapi"].startswith("3.1")
    for route in ROUTES:
        path = route.path.replace(":path", "")
        for method in route.methods:
            operation = document["paths"][path][method.lower()]
            assert operation["description"].startswith(route.need.value)
    ids = [one["operationId"] for methods in document["paths"].values() for one in methods.values()]
    assert len(ids) == len(set(ids))
    schemas = document["components"]["schemas"]
    references = set()

    def walk(node):
        if isinstance(node, dict):
            if "$ref" in node:
                references.add(node["$ref"])
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(document)
    assert {reference.rpartition("/")[2] for reference in references} <= set(schemas)
    assert set(schemas["Host"]["properties"]) == {
        *orjson.loads((await served.client.get(f"{BASE}/hosts", headers=served.viewer)).content)["hosts"][0]
    }
