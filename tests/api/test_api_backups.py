"""Backups over HTTP: what is listed and in which order, whose they are, who signs for what, and what has none."""

import dataclasses
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from watchbill.backups.definition import Definition
from watchbill.backups.record import Kind, Level, Outcome, Proof, Record, Snapshots, Source, new_id
from watchbill.clock import ManualClock
from watchbill.errors import Refused
from watchbill_collector.api.backup_list import WantedJobs, listed
from watchbill_collector.api.backup_port import (
    WORDS,
    BackupChange,
    BackupEntry,
    BackupHistory,
    BackupJob,
    backup_id,
    entry_of,
    event_of,
)
from watchbill_collector.api.backup_report import BackupRpo, BackupSpan
from watchbill_collector.api.backup_twin import BackupsTwin
from watchbill_collector.api.events import subject_of
from watchbill_collector.api.ports import Caller, Grant, NoSuch, Role
from watchbill_collector.api.services import ServiceHost, ServiceStatus

BASE = "/api/watchbill/v1/backups"
THEN = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
BY = Caller("anna", (Grant(Role.OPERATOR),))


def job(name: str, host: str = "web1", word: str = "OK", severity: str = "", **more: Any) -> BackupJob:
    agent_id = {"web1": "id-1", "web2": "id-2"}.get(host, host)
    given: dict[str, Any] = {
        "id": backup_id(agent_id, name),
        "name": name,
        "host": host,
        "agent_id": agent_id,
        "labels": {},
        "service": "",
        "tool": "files",
        "word": word,
        "level": "ok",
        "severity": severity,
        "why": "",
        "advice": "",
    }
    return BackupJob(**(given | more))


def entry(minute: int, kind: str = "run", outcome: str = "ok", **more: Any) -> BackupEntry:
    at = THEN + timedelta(minutes=minute)
    return BackupEntry(
        id=f"{minute:032x}", kind=kind, source="wrap", outcome=outcome, at=at, received=at, **more
    )


def history(name: str, *entries: BackupEntry) -> BackupHistory:
    definition = Definition(name=name, tool="files")
    return BackupHistory(
        definition=definition,
        digest=definition.digest(),
        defined=THEN,
        due=None,
        entries=entries,
        truncated=False,
    )


def put(served: Any, *jobs: BackupJob, entries: tuple[BackupEntry, ...] = ()) -> None:
    for one in jobs:
        served.twins.backups.put(one, history(one.name, *entries))


def token(served: Any, role: Role, scope: str = "") -> dict[str, str]:
    text = f"token-{role.value}-{scope}"
    name = f"{role.value}-{'all' if not scope else 'some'}"
    served.twins.users.tokens[text] = Caller(name, (Grant(role, scope),), user_id=text)
    return {"Authorization": f"Bearer {text}"}


# ---------------------------------------------------------------- the list


def test_the_worst_comes_first_and_what_is_paused_or_gone_last() -> None:
    wanted = [
        ("MISSED", "critical"),
        ("FAILED", "critical"),
        ("STALE", "minor"),
        ("UNKNOWN", ""),
        ("PARTIAL", "minor"),
        ("LATE", ""),
        ("RUNNING", ""),
        ("NEW", ""),
        ("OK", ""),
        ("PAUSED", "critical"),
        ("RETIRED", "critical"),
    ]
    jobs = [job(f"{at}", word=word, severity=severity) for at, (word, severity) in enumerate(wanted)]
    found = listed(reversed(jobs), WantedJobs(), limit=100)
    assert [(one.word, one.severity) for one in found.backups] == wanted
    assert list(found.words) == [word for word in WORDS if word in dict(wanted)]


def test_a_page_says_what_it_leaves_out_and_words_count_all() -> None:
    jobs = [job(f"j{at:03}", word="STALE" if at % 2 else "OK", service="shop") for at in range(10)]
    page = listed(jobs, WantedJobs(words=frozenset({"OK"})), limit=2, offset=1)
    assert [one.name for one in page.backups] == ["j002", "j004"]
    assert (page.total, page.truncated, page.words) == (5, True, {"STALE": 5, "OK": 5})


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["nightly", "hourly", "nightly"]),
        ("?word=stale,missed", ["nightly"]),
        ("?word=OK&word=NEW", ["hourly", "nightly"]),
        ("?host=web2", ["nightly"]),
        ("?service=shop", ["hourly"]),
        ("?job=nightly&limit=1", ["nightly"]),
        ("?words=shop+FILES", ["hourly"]),
        ("?words=nothing", []),
        ("?limit=1&offset=2", ["nightly"]),
    ],
)
async def test_what_is_asked_for_is_what_is_listed(serve: Any, query: str, names: list[str]) -> None:
    served = await serve()
    put(
        served,
        job("nightly", word="STALE", severity="critical"),
        job("hourly", service="shop"),
        job("nightly", "web2"),
    )
    answer = await served.client.get(f"{BASE}{query}", headers=served.viewer)
    assert [one["name"] for one in answer.json()["backups"]] == names, answer.text


@pytest.mark.parametrize("query", ["?word=FINE", "?offset=-1", "?offset=x", "?limit=-1"])
async def test_what_cannot_be_asked_is_refused(serve: Any, query: str) -> None:
    served = await serve()
    assert (await served.client.get(f"{BASE}{query}", headers=served.viewer)).status_code == 400


# ---------------------------------------------------------------- one of them


async def test_a_backup_is_found_by_its_id_by_host_and_name_or_by_a_name_that_is_its_alone(
    serve: Any,
) -> None:
    served = await serve()
    put(served, job("nightly"), job("nightly", "web2"), job("hourly"), job("a/b", "web2"))
    for name, wanted in (
        (backup_id("id-2", "nightly"), ("web2", "nightly")),
        ("web1/nightly", ("web1", "nightly")),
        ("web1%2Fnightly", ("web1", "nightly")),
        ("hourly", ("web1", "hourly")),
        ("a/b", ("web2", "a/b")),
    ):
        answer = await served.client.get(f"{BASE}/{name}", headers=served.viewer)
        found = answer.json()["backup"]
        assert (found["host"], found["name"]) == wanted
    both = await served.client.get(f"{BASE}/nightly", headers=served.viewer)
    assert both.status_code == 400
    assert "'nightly' is 2 backups: say which, web1/nightly (" in both.json()["error"]
    none = await served.client.get(f"{BASE}/weekly", headers=served.viewer)
    assert (none.status_code, none.json()["error"]) == (
        404,
        "there is no backup 'weekly': watchbill backups lists them",
    )


async def test_no_host_can_put_its_job_in_the_place_of_another(serve: Any) -> None:
    served = await serve()
    meant = job("nightly")
    put(served, meant, job(meant.id, "web2"), job("web1/nightly", "web2"))
    by_id = await served.client.get(f"{BASE}/{meant.id}", headers=served.viewer)
    assert by_id.json()["backup"]["host"] == "web1"
    assert (await served.client.get(f"{BASE}/web1/nightly", headers=served.viewer)).status_code == 400


async def test_a_job_of_a_host_that_is_gone_is_meant_where_there_is_no_other(serve: Any) -> None:
    served = await serve()
    put(served, job("nightly", "old", "RETIRED"), job("nightly"))
    answer = await served.client.get(f"{BASE}/nightly", headers=served.viewer)
    assert answer.json()["backup"]["host"] == "web1"


async def test_the_newest_runs_come_first_and_older_ones_on_request(serve: Any) -> None:
    served = await serve()
    entries = tuple(entry(at, "run" if at % 2 else "observe") for at in range(6))
    put(served, job("nightly"), entries=entries)
    whole = (await served.client.get(f"{BASE}/nightly", headers=served.viewer)).json()
    assert [one["id"][-1] for one in whole["history"]["entries"]] == list("543210")
    assert [one["id"][-1] for one in whole["runs"]] == list("531")
    part = await served.client.get(
        f"{BASE}/nightly", params={"limit": 2, "before": "2026-11-21T12:04:00Z"}, headers=served.viewer
    )
    assert [one["id"][-1] for one in part.json()["history"]["entries"]] == list("32")
    assert part.json()["history"]["truncated"] is True
    bad = await served.client.get(f"{BASE}/nightly?before=noon", headers=served.viewer)
    assert bad.status_code == 400


# ---------------------------------------------------------------- over a time


def rpo(kept: float = 0.99) -> BackupRpo:
    return BackupRpo(
        rpo_s=93_600.0,
        objective=0.999,
        since=THEN,
        until=THEN + timedelta(days=30),
        unknown_s=0.0,
        kept=kept,
        over_s=25_920.0,
        times=1,
        spans=(BackupSpan(THEN, THEN + timedelta(hours=7)),),
        worst_s=120_000.0,
        budget_s=2_592.0,
        left_s=-23_328.0,
    )


async def test_a_report_comes_by_host_and_name_in_pages(serve: Any) -> None:
    served = await serve()
    put(served, job("b"), job("a", "web2"), job("c", service="shop"))
    served.twins.backups.put(job("a"), history("a"), rpo())
    whole = (await served.client.get(f"{BASE}/report", headers=served.viewer)).json()
    assert [(row["host"], row["name"]) for row in whole["rows"]] == [
        ("web1", "a"),
        ("web1", "b"),
        ("web1", "c"),
        ("web2", "a"),
    ]
    assert (whole["total"], whole["truncated"], whole["objective"]) == (4, False, 0.999)
    assert whole["rows"][0]["rpo"]["left_s"] == -23_328.0
    assert whole["rows"][1]["rpo"] is None
    page = await served.client.get(f"{BASE}/report?limit=2&offset=1", headers=served.viewer)
    assert [row["name"] for row in page.json()["rows"]] == ["b", "c"]
    assert (page.json()["total"], page.json()["truncated"]) == (4, True)
    for query, names in (("host=web2", ["a"]), ("service=shop", ["c"]), ("job=b", ["b"]), ("job=z", [])):
        part = await served.client.get(f"{BASE}/report?{query}", headers=served.viewer)
        assert [row["name"] for row in part.json()["rows"]] == names, query


@pytest.mark.parametrize(
    "query",
    ["objective=1", "objective=0", "objective=most", "since=noon", "since=0", "until=1&since=2", "offset=-1"],
)
async def test_a_report_that_cannot_be_is_refused(serve: Any, query: str) -> None:
    served = await serve()
    answer = await served.client.get(f"{BASE}/report?{query}", headers=served.viewer)
    assert answer.status_code == 400, answer.text


async def test_one_backup_says_how_its_rpo_was_kept(serve: Any) -> None:
    served = await serve()
    served.twins.backups.put(job("a"), history("a"), rpo())
    found = (await served.client.get(f"{BASE}/a", headers=served.viewer)).json()
    assert (found["rpo"]["kept"], found["rpo"]["spans"][0]["began"]) == (0.99, "2026-11-21T12:00:00Z")


# ---------------------------------------------------------------- what somebody does about it


async def test_a_review_is_signed_with_the_word_of_its_time_and_audited(serve: Any) -> None:
    served = await serve()
    put(served, job("nightly", word="SUSPECT"))
    headers = token(served, Role.OPERATOR)
    answer = await served.client.post(f"{BASE}/nightly/review", json={"note": " seen \n"}, headers=headers)
    assert (answer.status_code, answer.json()["word"], answer.json()["note"]) == (201, "SUSPECT", "seen")
    assert answer.json()["by"] == "operator-all"
    kept = (await served.client.get(f"{BASE}/nightly", headers=served.viewer)).json()
    assert [one["note"] for one in kept["history"]["reviews"]] == ["seen"]
    assert kept["backup"]["reviewed"]["by"] == "operator-all"
    row = served.twins.audit.entries[-1]
    assert (row.actor, row.action, row.target, row.outcome) == (
        "operator-all",
        "backups.review",
        "nightly",
        "done",
    )


async def test_a_pause_is_made_and_ended(serve: Any) -> None:
    served = await serve()
    put(served, job("nightly", word="STALE"))
    headers = token(served, Role.OPERATOR)
    order = {"duration_s": 3600, "reason": "moving"}
    made = (await served.client.post(f"{BASE}/nightly/pause", json=order, headers=headers)).json()
    assert (made["word"], made["paused"]["by"], made["paused"]["reason"]) == (
        "PAUSED",
        "operator-all",
        "moving",
    )
    ended = (await served.client.delete(f"{BASE}/nightly/pause", headers=headers)).json()
    assert (ended["word"], ended["paused"]) == ("STALE", None)
    again = await served.client.delete(f"{BASE}/nightly/pause", headers=headers)
    assert again.status_code == 409
    assert [(row.action, row.outcome) for row in served.twins.audit.entries] == [
        ("backups.pause", "done"),
        ("backups.pause.delete", "done"),
        ("backups.pause.delete", "refused"),
    ]


@pytest.mark.parametrize(
    ("path", "order"),
    [
        ("/nightly/review", {}),
        ("/nightly/review", {"note": " \n"}),
        ("/nightly/review", {"note": "x" * 2_001}),
        ("/nightly/verify", {"level": "everything"}),
        ("/nightly/pause", {"duration_s": 0, "reason": "x"}),
        ("/nightly/pause", {"duration_s": 90 * 86_400 + 1, "reason": "x"}),
        ("/nightly/pause", {"duration_s": 60, "reason": ""}),
        ("/exemptions", {"kind": "town", "name": "web1", "owner": "o", "reason": "r", "duration_s": 60}),
        ("/exemptions", {"kind": "host", "name": "web1", "owner": "", "reason": "r", "duration_s": 60}),
        ("/exemptions", {"kind": "host", "name": "web1", "owner": "o", "reason": "r", "duration_s": 1e9}),
    ],
)
async def test_an_order_that_cannot_be_is_refused_and_changes_nothing(
    serve: Any, path: str, order: dict[str, Any]
) -> None:
    served = await serve()
    put(served, job("nightly"))
    answer = await served.client.post(f"{BASE}{path}", json=order, headers=served.admin)
    assert answer.status_code == 400, answer.text
    assert served.twins.backups.journal == []


async def test_an_operator_has_a_host_verify_and_a_viewer_does_not(serve: Any) -> None:
    served = await serve()
    put(served, job("nightly"), job("gone", word="RETIRED"))
    twin = served.twins.backups
    twin.says = {"answer": "refused", "reason": "too-soon", "why": "again in 5 minutes"}
    path, order = f"{BASE}/nightly/verify", {"level": "data"}
    for role, status in ((Role.VIEWER, 403), (Role.AUDITOR, 403), (Role.AUTHOR, 403), (Role.OPERATOR, 200)):
        answer = await served.client.post(path, json=order, headers=token(served, role))
        assert answer.status_code == status, role
    made = answer.json()
    assert (made["name"], made["host"], made["level"], made["by"]) == (
        "nightly",
        "web1",
        "data",
        "operator-all",
    )
    assert (made["answer"], made["reason"], made["why"]) == ("refused", "too-soon", "again in 5 minutes")
    assert [what for what, _, _ in twin.journal] == ["verify"]
    shown = (await served.client.get(f"{BASE}/nightly", headers=served.viewer)).json()
    assert [one["id"] for one in shown["history"]["asked"]] == [made["id"]]
    twin.away = {"web1"}
    answer = await served.client.post(path, json={}, headers=served.admin)
    assert (answer.status_code, answer.json()["errorType"]) == (503, "unavailable")
    assert "does not wait for it" in answer.json()["error"]
    gone = await served.client.post(f"{BASE}/gone/verify", json={}, headers=served.admin)
    assert gone.status_code == 409


# ---------------------------------------------------------------- whose they are


def bound(served: Any) -> None:
    """web1 is of team a, web2 of team b."""
    hosts = served.twins.hosts._hosts
    for agent_id, team in (("id-1", "a"), ("id-2", "b")):
        hosts[agent_id] = dataclasses.replace(hosts[agent_id], labels={"team": team})


async def test_somebody_with_a_scope_sees_and_changes_his_own_alone(serve: Any) -> None:
    served = await serve()
    bound(served)
    put(served, job("mine", labels={"team": "a"}), job("theirs", "web2", labels={"team": "b"}))
    headers = token(served, Role.OPERATOR, 'team="a"')
    answer = (await served.client.get(BASE, headers=headers)).json()
    assert ([one["name"] for one in answer["backups"]], answer["words"]) == (["mine"], {"OK": 1})
    report = (await served.client.get(f"{BASE}/report", headers=headers)).json()
    assert ([one["name"] for one in report["rows"]], report["total"]) == (["mine"], 1)
    review = {"note": "seen"}
    assert (await served.client.post(f"{BASE}/mine/review", json=review, headers=headers)).status_code == 201
    foreign = await served.client.post(f"{BASE}/theirs/review", json=review, headers=headers)
    missing = await served.client.post(f"{BASE}/nobody/review", json=review, headers=headers)
    assert foreign.status_code == missing.status_code == 404
    assert foreign.text.replace("theirs", "nobody") == missing.text
    assert [what for what, _, _ in served.twins.backups.journal] == ["review"]


async def test_who_sees_a_backup_and_may_not_change_it_is_refused_by_name(serve: Any) -> None:
    served = await serve()
    bound(served)
    put(served, job("mine", labels={"team": "a"}), job("theirs", "web2", labels={"team": "b"}))
    both = Caller("two", (Grant(Role.VIEWER), Grant(Role.OPERATOR, 'team="a"')), user_id="two")
    served.twins.users.tokens["two"] = both
    headers = {"Authorization": "Bearer two"}
    shown = {
        name: (await served.client.get(f"{BASE}/{name}", headers=headers)).json()["yours"]
        for name in ("mine", "theirs")
    }
    assert shown == {"mine": True, "theirs": False}
    for method, path in (("POST", "review"), ("POST", "verify"), ("POST", "pause"), ("DELETE", "pause")):
        order = {"note": "x", "duration_s": 60, "reason": "x", "level": "data"}
        answer = await served.client.request(method, f"{BASE}/theirs/{path}", json=order, headers=headers)
        assert answer.status_code == 403, path
        assert 'team="a"' in answer.json()["error"]
        assert served.twins.audit.entries[-1].outcome == "refused"
    assert served.twins.backups.journal == []


# ---------------------------------------------------------------- what has none


class ServicesFixed:
    """Two services: the shop on both hosts, mail on web2."""

    def __init__(self, *backups: str) -> None:
        self._backups = backups

    async def services(self, view: Any) -> list[ServiceStatus]:
        teams = {"web1": "a", "web2": "b"}
        found = []
        for name, hosts, owner, named in (
            ("shop", ("web1", "web2"), "anna", self._backups),
            ("mail", ("web2",), "", ()),
        ):
            mine = [ServiceHost(host, "up") for host in hosts if view.host(host, {"team": teams[host]})]
            if mine or view.whole:
                found.append(ServiceStatus(name, owner, "ok", mine, 1, 0, {}, (), (), (), "", backups=named))
        return found

    async def alerts_of(self, name: str, view: Any) -> list[Any]:
        return []


async def test_hosts_and_services_without_a_backup_are_told_until_somebody_answers_for_them(
    serve: Any,
) -> None:
    served = await serve(parts=lambda _: {"services": ServicesFixed("nightly", "weekly")})
    bound(served)
    put(served, job("nightly", service="mail"), job("old", "web2", "RETIRED", service="shop"))
    bare = (await served.client.get(f"{BASE}/uncovered", headers=served.viewer)).json()
    assert [one["name"] for one in bare["hosts"]] == ["web2"]
    assert bare["hosts"][0]["services"] == ["shop", "mail"]
    assert [(one["name"], one["missing"]) for one in bare["services"]] == [("shop", ["weekly"])]
    assert (bare["hosts_total"], bare["services_total"], bare["exempt"]) == (2, 2, 0)
    for kind, name in (("host", "web2"), ("service", "shop")):
        order = {"kind": kind, "name": name, "owner": "anna", "reason": "scratch", "duration_s": 60}
        made = await served.client.post(f"{BASE}/exemptions", json=order, headers=served.admin)
        assert made.status_code == 201, made.text
    bare = (await served.client.get(f"{BASE}/uncovered", headers=served.viewer)).json()
    assert (bare["hosts"], bare["services"], bare["exempt"]) == ([], [], 2)
    (first, _) = (await served.client.get(f"{BASE}/exemptions", headers=served.viewer)).json()["exemptions"]
    assert (first["kind"], first["name"], first["owner"], first["by"]) == ("host", "web2", "anna", "ops")
    gone = await served.client.delete(f"{BASE}/exemptions/{first['id']}", headers=served.admin)
    assert gone.status_code == 200
    again = await served.client.delete(f"{BASE}/exemptions/{first['id']}", headers=served.admin)
    assert again.status_code == 404
    bare = (await served.client.get(f"{BASE}/uncovered", headers=served.viewer)).json()
    assert [one["name"] for one in bare["hosts"]] == ["web2"]


async def test_an_exemption_is_for_what_there_is_and_for_what_is_ones_own(serve: Any) -> None:
    served = await serve(parts=lambda _: {"services": ServicesFixed()})
    bound(served)
    own = token(served, Role.OPERATOR, 'team="b"')

    async def exempt(kind: str, name: str, headers: dict[str, str]) -> int:
        order = {"kind": kind, "name": name, "owner": "o", "reason": "r", "duration_s": 60}
        answer = await served.client.post(f"{BASE}/exemptions", json=order, headers=headers)
        return int(answer.status_code)

    assert await exempt("host", "nobody", served.admin) == 404
    assert await exempt("service", "nothing", served.admin) == 404
    assert await exempt("host", "web1", own) == 404
    assert await exempt("service", "shop", own) == 403, "the shop is on a host of another team, too"
    assert await exempt("service", "mail", own) == 201
    assert await exempt("host", "web2", own) == 201
    assert await exempt("host", "web1", served.admin) == 201
    mine = (await served.client.get(f"{BASE}/exemptions", headers=own)).json()["exemptions"]
    assert {one["name"] for one in mine} == {"mail", "web2"}
    every = (await served.client.get(f"{BASE}/exemptions", headers=served.admin)).json()["exemptions"]
    (foreign,) = (one["id"] for one in every if one["name"] == "web1")
    answer = await served.client.delete(f"{BASE}/exemptions/{foreign}", headers=own)
    assert answer.status_code == 404
    bare = await served.client.get(f"{BASE}/uncovered", headers=own)
    assert not re.search("web1", bare.text)
    assert bare.json()["hosts_total"] == 1


# ---------------------------------------------------------------- what crosses


def test_a_record_is_shown_by_the_collectors_time_and_without_times_that_no_calendar_has() -> None:
    record = Record(
        record_id=new_id(),
        job="nightly",
        kind=Kind.VERIFY,
        source=Source.REPO,
        outcome=Outcome.OK,
        observed_ms=1_000_000,
        started_ms=400_000,
        finished_ms=900_000,
        point_ms=10**17,
        verify=Proof(level=Level.DATA, ok=True, fraction=0.25),
        snapshots=Snapshots(count=3, oldest_ms=100_000, newest_ms=0),
    )
    shown = entry_of(record, 2_000_000, 60_000)
    assert shown.started == datetime.fromtimestamp(460, UTC)
    assert shown.at == shown.finished == datetime.fromtimestamp(960, UTC)
    assert (shown.duration_s, shown.point, shown.snapshots) == (500.0, None, 3)
    assert (shown.oldest_snapshot, shown.newest_snapshot) == (datetime.fromtimestamp(160, UTC), None)


def test_a_change_of_a_word_is_seen_by_who_sees_its_host() -> None:
    change = BackupChange("0" * 16, "nightly", "web1", THEN, "OK", "STALE", "too old")
    document = event_of(change)
    assert subject_of(document) == {"instance": "web1"}
    assert {"before": "OK", "after": "STALE", "name": "nightly"}.items() <= document.items()


async def test_the_twin_forgets_a_pause_and_an_exemption_when_their_time_is_over() -> None:
    clock = ManualClock()
    twin = BackupsTwin(clock)
    one = job("nightly", word="STALE")
    twin.put(one, history("nightly"))
    await twin.pause(one.id, 60, "moving", BY)
    kept = await twin.exempt("host", "web1", "o", "r", 60, BY)
    newer = await twin.exempt("host", "web1", "o", "again", 60, BY)
    assert [each.id for each in await twin.exemptions()] == [newer.id]
    clock.advance(61)
    assert [each.word for each in await twin.jobs()] == ["STALE"]
    assert await twin.exemptions() == []
    with pytest.raises(NoSuch):
        await twin.withdraw(kept.id, BY)
    with pytest.raises(Refused):
        await twin.resume(one.id, BY)
    with pytest.raises(NoSuch):
        await twin.history("0" * 16, 1)
