"""Every route there is, asked by every role, for what is its own and what is another team's.

The routes are taken from the table: one that is added without saying what it needs and what it does for callers with
a scope fails here, and so does one that lets a role in which the matrix does not.
"""

import dataclasses
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

import watchbill_collector.api
from watchbill_collector.api.ports import Alert, Caller, EnrolmentOrder, Gap, Grant, Role, Rule, RuleGroup
from watchbill_collector.api.routes import ROLES, Need, Route, Within
from watchbill_collector.api.table import ROUTES

BASE = "/api/watchbill/v1"
THEN = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
EVERY = [(route, method) for route in ROUTES for method in route.methods]
FINITE = [(route, method) for route, method in EVERY if not route.path.endswith("/events")]
NOT_BUILT = "Not built yet"

MATRIX = {
    Need.READ: {"viewer", "operator", "approver", "author", "admin", "auditor"},
    Need.KNOWN: {"viewer", "operator", "approver", "author", "admin", "auditor"},
    Need.OPERATE: {"operator", "approver", "admin"},
    Need.RUN: {"operator", "approver"},
    Need.APPROVE: {"approver"},
    Need.AUTHOR: {"author"},
    Need.AUDIT: {"operator", "approver", "author", "admin", "auditor"},
    Need.AUDITOR: {"admin", "auditor"},
    Need.ADMIN: {"admin"},
}


def filled(path: str, name: str = "web1") -> str:
    return re.sub(r"\{\w+(:\w+)?\}", name, path)


def token(served, role: Role, scope: str = "") -> dict[str, str]:
    text = f"token-{role.value}-{scope}"
    served.twins.users.tokens[text] = Caller(
        f"{role.value}-{scope or 'all'}", (Grant(role, scope),), user_id=text
    )
    return {"Authorization": f"Bearer {text}"}


async def ask(served, route: Route, method: str, headers: dict[str, str], name: str = "web1"):
    return await served.client.request(method, filled(route.path, name), headers=headers)


def test_every_route_says_what_it_does_for_callers_with_a_scope():
    assert [route.path for route in ROUTES if route.within is None] == []


def test_the_matrix_is_the_one_that_was_decided():
    decided = {need: {role.value for role in ROLES[need]} for need in MATRIX}
    assert decided == MATRIX
    assert set(Need) == {*MATRIX, Need.NOTHING}


@pytest.mark.parametrize("role", list(Role))
async def test_a_role_gets_in_where_the_matrix_says_so_and_nowhere_else(serve, role):
    served = await serve()
    headers = token(served, role)
    for route, method in FINITE:
        if route.need is Need.NOTHING:
            continue
        answer = await ask(served, route, method, headers)
        refused = answer.status_code == 403
        assert refused == (role.value not in MATRIX[route.need]), f"{role} {method} {route.path}"
        if refused:
            assert role.value in answer.json()["error"], "the refusal names who was refused"


@pytest.mark.parametrize("role", list(Role))
async def test_a_scope_that_takes_in_nothing_changes_nothing_and_shows_nothing(serve, role):
    served = await serve()
    served.twins.rules.active.append(alert("b"))
    headers = token(served, role, 'team="a"')
    for route, method in FINITE:
        if route.need is Need.NOTHING:
            continue
        answer = await ask(served, route, method, headers)
        where = f"{role} {method} {route.path} -> {answer.status_code}"
        if role.value not in MATRIX[route.need] or route.within is Within.WHOLE:
            assert answer.status_code == 403, where
        elif route.within is Within.OBJECT:
            assert answer.status_code in (400, 404), where
        if route.within is not Within.NO_HOSTS and not route.path.endswith("/audit"):
            # The path held a name; what the answer repeats of it is all that may be there.
            said = answer.text.replace(filled(route.path), "").replace("'web1'", "")
            assert not re.search(r"web[12]|id-[12]|rack", said), where
    assert served.twins.hosts.journal == []


async def test_an_own_object_is_answered_and_a_foreign_one_does_not_exist(serve):
    served = await serve()
    bind(served, "id-1", team="a")
    bind(served, "id-2", team="b")
    headers = token(served, Role.ADMIN, 'team="a"')
    for route, method in FINITE:
        if route.within is not Within.OBJECT or "/hosts/" not in route.path:
            continue
        body = b'{"to": "other"}' if route.path.endswith("/rename") else b""
        foreign = await served.client.request(
            method, filled(route.path, "web2"), headers=headers, content=body
        )
        missing = await served.client.request(
            method, filled(route.path, "nobody"), headers=headers, content=body
        )
        assert foreign.status_code == missing.status_code == 404, route.path
        assert foreign.text.replace("web2", "nobody") == missing.text, "nothing tells one from the other"
    assert served.twins.hosts.journal == []
    own = await served.client.post(f"{BASE}/hosts/web1/retire", headers=headers)
    assert own.status_code == 200
    shown = await served.client.get(f"{BASE}/hosts", headers=headers)
    assert [host["name"] for host in shown.json()["hosts"]] == ["web1"]


async def test_who_sees_a_host_and_may_not_change_it_is_refused_by_name(serve):
    served = await serve()
    bind(served, "id-2", team="b")
    both = Caller("two", (Grant(Role.VIEWER), Grant(Role.ADMIN, 'team="a"')), user_id="two")
    served.twins.users.tokens["two"] = both
    headers = {"Authorization": "Bearer two"}
    assert (await served.client.get(f"{BASE}/hosts/web2", headers=headers)).status_code == 200
    refused = await served.client.post(f"{BASE}/hosts/web2/retire", headers=headers)
    assert refused.status_code == 403
    assert 'team="a"' in refused.json()["error"]
    assert served.twins.audit.entries[-1].action == "hosts.retire"
    assert served.twins.audit.entries[-1].outcome == "refused"


def bind(served, agent_id: str, **labels: str) -> None:
    hosts = served.twins.hosts._hosts
    hosts[agent_id] = dataclasses.replace(hosts[agent_id], labels=labels)


def alert(team: str, **labels: str) -> Alert:
    own = {"alertname": "A", "team": team, **labels}
    return Alert("A", "firing", THEN, THEN, 1.0, own, {})


async def test_alerts_gaps_and_enrolments_are_those_of_the_scope(serve):
    served = await serve()
    bind(served, "id-1", team="a")
    bind(served, "id-2", team="b")
    # A host says of itself what it likes: only what it was bound to counts.
    served.twins.rules.active += [
        alert("a", instance="web1"),
        alert("a", instance="web2", kind="foreign"),
        alert("b", instance="web1", kind="own"),
        alert("a", instance="gone"),
        alert("a", kind="sum"),
        alert("b", kind="sum-b"),
    ]
    served.twins.rules.past.append(dataclasses.replace(alert("b"), state="resolved"))
    gap = Gap("web1", "id-1", "bulk", 1, 2, 2, 3, None, None, "overflow", THEN)
    served.twins.gaps.rows += [gap, dataclasses.replace(gap, host="web2", agent_id="id-2")]
    served.twins.gaps.rows.append(dataclasses.replace(gap, host="(collector)", agent_id=""))
    by = Caller("ops")
    for team in ("a", "b"):
        await served.twins.enrolments.create(EnrolmentOrder(names=("n",), labels={"team": team}), by)
    headers = token(served, Role.ADMIN, "team=a")
    for path, key in ((f"{BASE}/alerts?resolved=1", "alerts"), ("/api/v1/alerts", "alerts")):
        found = (await served.client.get(path, headers=headers)).json()
        kinds = [one["labels"].get("kind") for one in (found.get("data") or found)[key]]
        assert kinds == [None, "own", "sum"], path
    gaps = (await served.client.get(f"{BASE}/gaps", headers=headers)).json()["gaps"]
    assert [one["host"] for one in gaps] == ["web1"]
    assert (await served.client.get(f"{BASE}/gaps?host=web2", headers=headers)).status_code == 404
    (mine,) = (await served.client.get(f"{BASE}/enrolments", headers=headers)).json()["enrolments"]
    assert mine["labels"] == {"team": "a"}
    (_, theirs) = served.twins.enrolments._enrolments
    assert (await served.client.delete(f"{BASE}/enrolments/{theirs}", headers=headers)).status_code == 404
    assert (await served.client.delete(f"{BASE}/enrolments/{mine['id']}", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("order", "allowed"),
    [
        ({"names": ["new"], "labels": {"team": "a"}}, True),
        ({"match": "web-*", "uses": 5, "labels": {"team": "a", "rack": "1"}}, True),
        ({"names": ["new"]}, False),
        ({"names": ["new"], "labels": {"team": "b"}}, False),
        ({"names": ["web2"], "labels": {"team": "a"}, "replace": True}, False),
        ({"match": "web*", "labels": {"team": "a"}, "replace": True}, False),
        ({"names": ["web1"], "labels": {"team": "a"}, "replace": True}, True),
    ],
)
async def test_who_has_a_scope_lets_hosts_into_it_alone(serve, order, allowed):
    served = await serve()
    bind(served, "id-1", team="a")
    bind(served, "id-2", team="b")
    headers = token(served, Role.ADMIN, 'team="a"')
    answer = await served.client.post(f"{BASE}/enrolments", headers=headers, json=order)
    assert answer.status_code == (201 if allowed else 403), answer.text


async def test_a_rule_of_everybody_shows_nothing_of_others(serve):
    served = await serve()
    rule = Rule("alerting", "R", "up == 0", {}, "err", 'many-to-many: {instance="web2"}', 0.0, None, "firing")
    rule = dataclasses.replace(rule, alerts=(alert("b", instance="web2"),))
    served.twins.rules.rule_groups.append(RuleGroup("g", "f", 15.0, (rule,), 0.0, None))
    headers = token(served, Role.VIEWER, 'team="a"')
    answer = await served.client.get("/api/v1/rules", headers=headers)
    (shown,) = answer.json()["data"]["groups"][0]["rules"]
    assert (shown["state"], shown["alerts"]) == ("inactive", [])
    assert "web2" not in answer.text


async def test_queries_are_asked_within_the_callers_view(serve):
    served = await serve()
    headers = token(served, Role.VIEWER, "team=a")
    for path in (
        "query?query=up",
        "query_range?query=up&start=0&end=1&step=1",
        "series?match[]=up",
        "labels",
        "label/instance/values",
        "metadata",
    ):
        answer = await served.client.get(f"/api/v1/{path}", headers=headers)
        assert "web1" not in answer.text, path
    assert {view.text for view in served.twins.query.views} == {'{team="a"}'}


def test_no_handler_asks_the_query_engine_past_the_view():
    folder = Path(watchbill_collector.api.__file__).parent
    past = [file.name for file in folder.glob("*.py") if "services.query." in file.read_text()]
    assert past == ["routes.py"]


# ---------------------------------------------------------------- what the audit says of it


async def test_a_refusal_and_a_change_that_records_nothing_itself_are_recorded(serve):
    served = await serve()
    await served.client.post(f"{BASE}/hosts/web1/retire", headers=served.viewer)
    done = await served.client.post(f"{BASE}/hosts/web1/retire", headers=served.admin)
    rows = [(row.actor, row.action, row.target, row.outcome) for row in served.twins.audit.entries]
    assert rows == [("vi", "hosts.retire", "web1", "refused"), ("ops", "hosts.retire", "web1", "done")]
    last = served.twins.audit.entries[-1]
    assert last.request == done.headers["x-request-id"]
    assert last.source == "127.0.0.1"


async def test_strangers_are_recorded_without_what_they_showed(serve):
    served = await serve()
    wrong = {"Authorization": "Bearer secret-that-somebody-mistyped"}
    await served.client.get(f"{BASE}/hosts", headers=wrong)
    await served.client.get(f"{BASE}/hosts")
    assert [(row.actor, row.action, row.detail["reason"]) for row in served.twins.audit.entries] == [
        ("anonymous", "access", "token"),
        ("anonymous", "access", "nobody"),
    ]
    assert "secret-that" not in repr(served.twins.audit.entries)


async def test_nothing_is_changed_while_the_audit_cannot_be_written(serve):
    served = await serve()
    served.twins.audit.fail = "disk full"
    answer = await served.client.post(f"{BASE}/hosts/web1/retire", headers=served.admin)
    assert answer.status_code == 500
    assert served.twins.hosts.journal == []
    assert (await served.client.get(f"{BASE}/hosts", headers=served.admin)).status_code == 200


async def test_reading_the_audit_goes_by_role_and_who_is_neither_admin_nor_auditor_reads_his_own(serve):
    served = await serve()
    served.twins.audit._keep("operator-all", "", "a", "b", "done", {})
    served.twins.audit._keep("somebody", "", "a", "b", "done", {})
    own = await served.client.get(f"{BASE}/audit", headers=token(served, Role.OPERATOR))
    assert {row["actor"] for row in own.json()["rows"]} == {"operator-all"}
    of_other = await served.client.get(f"{BASE}/audit?actor=somebody", headers=token(served, Role.OPERATOR))
    assert of_other.json()["rows"] == []
    every = await served.client.get(f"{BASE}/audit", headers=token(served, Role.AUDITOR))
    assert {row["actor"] for row in every.json()["rows"]} == {"operator-all", "somebody"}
    scoped = await served.client.get(f"{BASE}/audit", headers=token(served, Role.AUDITOR, "team=a"))
    assert scoped.json()["rows"] == []


# ---------------------------------------------------------------- events


async def follow(served, headers, lines: list[str]) -> None:
    async with served.client.stream("GET", f"{BASE}/events", headers=headers) as answer:
        async for line in answer.aiter_lines():
            lines.append(line)  # noqa: PERF401 - Others look at it meanwhile.


async def test_events_are_those_of_the_scope_and_end_when_access_changes(serve):
    import asyncio

    served = await serve()
    bind(served, "id-1", team="a")
    bind(served, "id-2", team="b")
    headers = token(served, Role.VIEWER, "team=a")
    lines: list[str] = []
    following = asyncio.ensure_future(follow(served, headers, lines))
    await served.until(lambda: served.house.bus.followers == 1)
    served.house.bus.publish("host", {"host": "web2", "change": "retired"})
    served.house.bus.publish("alert", {"alert": "B", "labels": {"instance": "web2", "team": "a"}})
    served.house.bus.publish("other", {"what": "web2"})
    served.house.bus.publish("alert", {"alert": "A", "labels": {"instance": "web1"}})
    await served.until(lambda: any('"A"' in line for line in lines))
    assert not any("web2" in line for line in lines)
    # Revoked: with the next event, or at once when somebody pokes; nothing more is sent.
    served.twins.users.tokens.pop(headers["Authorization"].removeprefix("Bearer "))
    served.house.bus.poke()
    await asyncio.wait_for(following, 10)
    assert served.house.bus.followers == 0


async def test_a_stream_whose_token_was_revoked_ends_before_the_next_event(serve):
    import asyncio

    served = await serve()
    headers = token(served, Role.VIEWER)
    lines: list[str] = []
    following = asyncio.ensure_future(follow(served, headers, lines))
    await served.until(lambda: served.house.bus.followers == 1)
    served.twins.users.tokens.pop(headers["Authorization"].removeprefix("Bearer "))
    served.house.bus.publish("host", {"host": "web1", "change": "retired"})
    await asyncio.wait_for(following, 10)
    assert not any("web1" in line for line in lines)
