"""Runbooks and runs over HTTP: who may do what, what is refused at the border, and what is told."""

import base64
import dataclasses
import json
from typing import Any

import pytest

from watchbill.actions import grants
from watchbill.actions.grants import Vote, sign_vote
from watchbill.actions.roster import Person, Roster
from watchbill.actions.signing import public_key
from watchbill.clock import SystemClock
from watchbill_collector.api.ports import Caller, Grant, Role
from watchbill_collector.api.runbook_port import RunState, exit_code
from watchbill_collector.api.runbook_twin import TwinBook, TwinStep, blank

BASE = "/api/watchbill/v1"
SEED = b"\x07" * 32
RESTART = TwinStep(id="restart", host="web1", action="svc.restart", argv=("/bin/true",))
GATE = TwinStep(id="consent", kind="approve", role="dba", needed=1)


def put(served: Any, name: str, *steps: TwinStep, accepted: bool = True, **more: Any) -> None:
    book = TwinBook(
        text=f"runbook: {name}\n",
        author="ann",
        steps=steps or (RESTART,),
        view=blank(name, accepted_by="ben" if accepted else ""),
        **more,
    )
    served.twins.runbooks.put(book)


def as_(served: Any, name: str, *grants_: Grant) -> dict[str, str]:
    served.twins.users.tokens[name] = Caller(name, grants_, user_id=name)
    return {"Authorization": f"Bearer {name}"}


@pytest.fixture
async def desk(serve: Any) -> Any:
    served = await serve()
    served.rita = as_(served, "rita", Grant(Role.OPERATOR))
    served.ben = as_(served, "ben", Grant(Role.APPROVER))
    return served


async def begun(served: Any, name: str = "restart", **more: Any) -> Any:
    order = {"runbook": name, "reason": "a test"} | more
    return await served.client.post(f"{BASE}/runs", headers=served.rita, json=order)


async def test_a_run_goes_from_the_plan_to_its_journal(desk: Any) -> None:
    put(desk, "restart", parameters={"unit": "nginx"})
    client, rita = desk.client, desk.rita
    plan = (await client.post(f"{BASE}/runbooks/restart/plan", headers=rita, json={})).json()
    assert (plan["parameters"], plan["steps"][0]["argv"], plan["problems"]) == (
        {"unit": "nginx"},
        ["/bin/true"],
        [],
    )
    answer = await begun(desk, parameters={"unit": "sshd"})
    assert answer.status_code == 201
    run = answer.json()
    assert (run["state"], run["exit_code"], run["parameters"]) == ("succeeded", 0, {"unit": "sshd"})
    shown = (await client.get(f"{BASE}/runs/{run['id']}", headers=desk.viewer)).json()
    assert shown == run
    listed = (await client.get(f"{BASE}/runs?runbook=restart", headers=desk.viewer)).json()
    assert [(one["id"], one["steps"]) for one in listed["runs"]] == [(run["id"], [])]
    assert (await client.get(f"{BASE}/runs?open=1", headers=desk.viewer)).json()["runs"] == []
    rows = (await client.get(f"{BASE}/runs/{run['id']}/journal?after=1", headers=desk.viewer)).json()["rows"]
    assert [row["kind"] for row in rows] == ["intent", "result", "state"]


async def test_a_runbook_comes_with_its_text_and_is_accepted_by_its_digest(desk: Any) -> None:
    put(desk, "restart", accepted=False)
    detail = (await desk.client.get(f"{BASE}/runbooks/restart", headers=desk.viewer)).json()
    assert (detail["text"], detail["runbook"]["accepted_by"]) == ("runbook: restart\n", "")
    refused = await begun(desk)
    assert refused.status_code == 409
    assert "watchbill runbooks accept restart" in refused.json()["error"]
    order = {"digest": detail["runbook"]["digest"]}
    accepted = await desk.client.post(f"{BASE}/runbooks/restart/accept", headers=desk.ben, json=order)
    assert accepted.json()["accepted_by"] == "ben"
    assert (await begun(desk)).status_code == 201


@pytest.mark.parametrize(
    ("path", "order"),
    [
        ("/runs", {"runbook": "restart", "reason": "  "}),
        ("/runs", {"runbook": "restart", "reason": "x" * 2_001}),
        ("/runs", {"runbook": "restart"}),
        ("/runs", {"runbook": "restart", "reason": "x", "parameters": {"unit": "a\nb"}}),
        ("/runs", {"runbook": "restart", "reason": "x", "parameters": {"unit": 7}}),
        ("/runs", {"runbook": "restart", "reason": "x", "parameters": {f"p{at}": "" for at in range(65)}}),
        ("/runs/r00001/explode", {"reason": "x"}),
        ("/runs/r00001/retry", {"step": "restart"}),
        ("/runs/r00001/vote", {"step": "consent", "vote": "not base64!"}),
        ("/runs/r00001/vote", {"step": "consent", "vote": ""}),
        ("/runs/r00001/vote", {"step": "consent", "vote": base64.b64encode(b"x" * 4_096).decode()}),
        ("/runs/r00001/approve", {"step": "consent", "comment": "x" * 501}),
        ("/runs/r00001/approve", {"approve": True}),
        ("/automation/pause", {"reason": ""}),
        ("/runbooks/restart/breaker", {}),
        ("/runbooks/lint", {}),
    ],
)
async def test_what_cannot_be_asked_is_refused(desk: Any, path: str, order: dict[str, Any]) -> None:
    put(desk, "restart")
    await begun(desk)
    both = as_(desk, "both", Grant(Role.OPERATOR), Grant(Role.APPROVER))
    answer = await desk.client.post(f"{BASE}{path}", headers=both, json=order)
    assert answer.status_code == 400, answer.text
    assert len((await desk.client.get(f"{BASE}/runs", headers=both)).json()["runs"]) == 1


async def test_a_name_that_none_can_have_is_not_found_and_cut(desk: Any) -> None:
    for path in (f"/runbooks/{'x' * 300}", f"/runs/{'x' * 300}", "/runs/%1b%5b31m", "/runbooks/%e2%80%ae"):
        answer = await desk.client.get(f"{BASE}{path}", headers=desk.rita)
        assert answer.status_code == 404
        assert len(answer.text) < 300
        assert answer.text.isascii()


async def test_a_signed_vote_is_counted_and_the_same_bytes_come_to_the_service(desk: Any) -> None:
    put(desk, "promote", GATE, TwinStep(id="promote", host="web1", action="pg.promote", protected=True))
    now_ms = SystemClock().wall_ms()
    ben = Person(name="ben", key=public_key(SEED), roles=("dba",))
    desk.twins.runbooks.roster = Roster(
        site="main", serial=1, issued_ms=now_ms, expires_ms=now_ms + 10**8, people=(ben,)
    )
    run = (await begun(desk, "promote")).json()
    assert (run["state"], run["exit_code"]) == ("waiting", 4)
    gate = run["steps"][0]
    manifest = gate["manifest"].encode()
    assert grants.digest(manifest) == gate["manifest_digest"]
    vote = Vote(
        manifest=grants.digest(manifest),
        site="main",
        run=run["id"],
        gate="consent",
        person="ben",
        approve=True,
        signed_ms=now_ms,
        expires_ms=now_ms + 10**6,
    )
    order = {"step": "consent", "vote": base64.b64encode(sign_vote(SEED, vote)).decode()}
    path = f"{BASE}/runs/{run['id']}"
    plain = await desk.client.post(f"{path}/approve", headers=desk.ben, json={"step": "consent"})
    assert plain.status_code == 409
    assert f"watchbill approve {run['id']} consent" in plain.json()["error"]
    answer = await desk.client.post(f"{path}/vote", headers=desk.ben, json=order)
    assert answer.json()["state"] == "succeeded", answer.text


async def test_who_approves_in_a_browser_shows_his_token_again(desk: Any) -> None:
    put(desk, "guarded", GATE, RESTART)
    run = (await begun(desk, "guarded")).json()
    session = await desk.twins.users.begin(desk.twins.users.tokens["ben"], "")
    port = desk.server.port
    desk.client.cookies.set(f"watchbill-{port}", session.cookie)
    headers = {"X-Watchbill-CSRF": session.csrf, "Origin": f"http://127.0.0.1:{port}"}
    path = f"{BASE}/runs/{run['id']}/approve"
    for token, status in (("", 400), ("nobodys", 403), ("rita", 403), ("ben", 200)):
        order = {"step": "consent", "comment": "fine", "token": token}
        answer = await desk.client.post(path, headers=headers, json=order)
        assert answer.status_code == status, answer.text
    assert answer.json()["state"] == "succeeded"
    said = json.dumps([str(row.detail) + row.target for row in desk.twins.audit.entries])
    assert "nobodys" not in said, "what was shown is no part of the audit"


async def test_without_the_token_against_forgery_a_session_changes_nothing(desk: Any) -> None:
    put(desk, "restart")
    session = await desk.twins.users.begin(desk.twins.users.tokens["rita"], "")
    port = desk.server.port
    desk.client.cookies.set(f"watchbill-{port}", session.cookie)
    order = {"runbook": "restart", "reason": "x"}
    for headers in ({"Origin": f"http://127.0.0.1:{port}"}, {"Origin": "http://evil.example"}):
        answer = await desk.client.post(f"{BASE}/runs", headers=headers, json=order)
        assert answer.status_code == 403
    assert await desk.twins.runbooks.runs(Caller("rita", (Grant(Role.VIEWER),)), False, False, "", 9) == []


async def test_a_scope_decides_what_is_there(desk: Any) -> None:
    put(desk, "restart")
    put(desk, "other", TwinStep(id="x", host="web2", action="a"))
    run = (await begun(desk, "other")).json()
    hosts = desk.twins.hosts._hosts
    hosts["id-1"] = dataclasses.replace(hosts["id-1"], labels={"team": "a"})
    mine = as_(desk, "al", Grant(Role.OPERATOR, 'team="a"'))
    client = desk.client
    listed = (await client.get(f"{BASE}/runbooks", headers=mine)).json()["runbooks"]
    assert [one["name"] for one in listed] == ["restart"]
    assert (await client.get(f"{BASE}/runs", headers=mine)).json()["runs"] == []
    foreign = await client.get(f"{BASE}/runs/{run['id']}", headers=mine)
    never = await client.get(f"{BASE}/runs/rnever", headers=mine)
    assert foreign.status_code == never.status_code == 404
    assert foreign.text.replace(run["id"], "rnever") == never.text
    begun_ = await client.post(f"{BASE}/runs", headers=mine, json={"runbook": "restart", "reason": "x"})
    assert begun_.status_code == 201
    paused = await client.post(f"{BASE}/automation/pause", headers=mine, json={"reason": "x"})
    assert paused.status_code == 403, "the pause is everybody's"


async def test_automation_says_who_paused_it_and_why(desk: Any) -> None:
    client = desk.client
    assert (await client.get(f"{BASE}/automation", headers=desk.viewer)).json() == {
        "paused": False,
        "by": "",
        "reason": "",
        "since": None,
    }
    paused = await client.post(f"{BASE}/automation/pause", headers=desk.rita, json={"reason": "moving"})
    assert (paused.json()["paused"], paused.json()["by"], paused.json()["reason"]) == (True, "rita", "moving")
    resumed = await client.post(f"{BASE}/automation/resume", headers=desk.rita, json={"reason": "moved"})
    assert resumed.json()["paused"] is False


async def test_what_changes_is_told_and_is_in_the_audit(desk: Any) -> None:
    put(desk, "restart")
    desk.twins.runbooks.publish = desk.house.bus.publish
    follower = desk.house.bus.follow()
    run = (await begun(desk)).json()
    (event,) = follower.queue
    assert event.kind == "run"
    assert json.loads(event.data) == {
        "id": run["id"],
        "runbook": "restart",
        "state": "succeeded",
        "detail": "",
    }
    assert event.subject is None, "who sees a part of the hosts alone is not told of what they may not see"
    last = desk.twins.audit.entries[-1]
    assert (last.actor, last.action, last.outcome) == ("rita", "runs", "done")


def test_each_state_has_the_code_that_a_script_gets() -> None:
    assert {state.value: exit_code(state) for state in RunState} == {
        "proposed": 4,
        "queued": 0,
        "running": 0,
        "waiting": 0,
        "held": 3,
        "undoing": 0,
        "cancelling": 0,
        "succeeded": 0,
        "failed": 1,
        "undone": 1,
        "cancelled": 1,
        "expired": 1,
    }
    assert exit_code(RunState.WAITING, for_approval=True) == 4
