"""`watchbill backups`: what stands where, why, what to do about it, and Nagios' word for it."""

import csv
import io
import re
from dataclasses import replace
from datetime import timedelta

import pytest

from watchbill.backups.definition import Copy, Definition
from watchbill.backups.record import Level, Proof
from watchbill.backups.schedule import Schedule
from watchbill.clock import SystemClock
from watchbill_collector.api.backup_port import (
    BackupChange,
    BackupEntry,
    BackupFacet,
    BackupHistory,
    BackupJob,
    backup_id,
)
from watchbill_collector.api.backup_report import BackupRpo, BackupSpan
from watchbill_collector.api.ports import at
from watchbill_collector.cli import backup_report
from watchbill_collector.cli.backups import _nagios

HOSTILE = "evil\x1b[31m\u202e"


def put(served, name, host="web1", word="OK", severity="", **more):
    """A backup with two runs and a proof, half an hour ago."""
    now = at(SystemClock().wall_ms())
    agent_id = "id-1" if host == "web1" else "id-2"
    entries = tuple(
        BackupEntry(
            id=f"{number:032x}",
            kind=kind,
            source="wrap",
            outcome=outcome,
            at=now - timedelta(minutes=30 * number),
            received=now,
            started=now - timedelta(minutes=30 * number + 10),
            duration_s=600.0,
            exit_code=code,
            bytes_source=5 << 30,
            errors=errors,
            verify=proof,
        )
        for number, kind, outcome, code, errors, proof in (
            (1, "run", "ok", 0, (), None),
            (2, "run", "failed", 3, (HOSTILE, "more"), None),
            (3, "verify", "ok", None, (), Proof(level=Level.DATA, ok=True, fraction=0.25)),
        )
    )
    definition = Definition(
        name=name,
        tool="restic",
        schedule=Schedule(cron="15 2 * * *", zone="Europe/Berlin"),
        copies=(Copy(name="nas", location="rack-a", immutable=True),),
    )
    made = BackupJob(
        id=backup_id(agent_id, name),
        name=name,
        host=host,
        agent_id=agent_id,
        labels={},
        service="shop",
        tool="restic",
        word=word,
        level="ok",
        severity=severity,
        why="The newest good copy is too old.",
        advice=f"Look at {HOSTILE}",
        facets=(BackupFacet("fresh", "bad", "over-rpo", "older than 26h"),),
        since=now - timedelta(hours=2),
        point=now - timedelta(hours=30),
        rpo_s=26 * 3600.0,
        last_run=entries[0],
        size_bytes=5 << 30,
        **more,
    )
    change = BackupChange(made.id, name, host, now - timedelta(minutes=45), "OK", word, "it got old")
    history = BackupHistory(
        definition=definition,
        digest=definition.digest(),
        defined=now,
        due=now + timedelta(hours=3),
        entries=entries,
        truncated=True,
        changes=(change,),
    )
    rpo = BackupRpo(
        rpo_s=26 * 3600.0,
        objective=0.999,
        since=now - timedelta(days=30),
        until=now,
        unknown_s=0.0,
        kept=0.99999,
        over_s=26.0,
        times=1,
        spans=(BackupSpan(now - timedelta(seconds=26), now),),
        worst_s=93_626.0,
        budget_s=2_592.0,
        left_s=2_566.0,
    )
    served.twins.backups.put(made, history, rpo)
    return made.id


@pytest.fixture
def backups(served):
    """No backups but those of one test."""
    served.twins.backups._jobs.clear()
    served.twins.backups._exemptions.clear()
    return served


def test_without_any_backup_it_says_what_to_look_at(ask, backups):
    done = ask("backups")
    assert (done.code, done.out) == (
        0,
        "No host has told of a backup yet. try: watchbill backups --uncovered\n",
    )
    assert ask("backup", "--json").json == {"backups": [], "total": 0, "truncated": False, "words": {}}
    assert ask("backups", "--exit-code").out == "OK: no backups\n"


def test_backups_as_a_table_and_as_one_document(ask, backups):
    put(backups, "hourly")
    put(backups, "nightly", "evil\x1b[31m\u202e", "STALE", "critical")
    done = ask("backups")
    head, first, second = done.out.splitlines()
    assert re.split(r"  +", head)[:5] == ["BACKUP", "HOST", "WORD", "FOR", "RESTORABLE TO"]
    assert first.startswith(r"nightly  evil\x1b[31m\u202e  STALE  ")
    assert second.startswith("hourly")
    assert "(1d6h)" in first
    assert re.search(r"ok in 10m, 3\dm\w* ago  5\.0 GiB", first)
    assert "\x1b" not in done.out
    assert "\u202e" not in done.out
    document = ask("backups", "--json", "--word", "stale").json
    assert ([one["name"] for one in document["backups"]], document["words"]) == (
        ["nightly"],
        {"STALE": 1, "OK": 1},
    )
    assert "and 1 more" in ask("backups", "--limit", "1").out
    assert ask("backups", "--word", "FINE").code == 2


@pytest.mark.parametrize(
    ("jobs", "code", "sentence"),
    [
        ([("OK", ""), ("NEW", ""), ("RUNNING", "")], 0, "OK: 1 OK, 1 NEW, 1 RUNNING"),
        ([("OK", ""), ("LATE", "")], 1, "WARNING: 1 OK, 1 LATE: web1/j1"),
        ([("FAILED", "minor"), ("OK", "")], 1, "WARNING: 1 FAILED, 1 OK: web1/j0"),
        ([("LATE", ""), ("UNKNOWN", "")], 3, "UNKNOWN: 1 LATE, 1 UNKNOWN: web1/j1"),
        ([("UNKNOWN", ""), ("STALE", "critical")], 2, "CRITICAL: 1 UNKNOWN, 1 STALE: web1/j1"),
        (
            [("SUSPECT", "major")] * 11,
            2,
            "CRITICAL: 11 SUSPECT: " + ", ".join(f"web1/j{at}" for at in range(10)) + " and 1 more",
        ),
        ([("PAUSED", "critical"), ("RETIRED", "critical")], 0, "OK: 1 PAUSED, 1 RETIRED"),
    ],
)
def test_nagios_hears_the_worst(jobs, code, sentence):
    shown = [
        {"name": f"j{number}", "host": "web1", "word": word, "severity": severity}
        for number, (word, severity) in enumerate(jobs)
    ]
    words = {word: [each for each, _ in jobs].count(word) for word, _ in jobs}
    assert _nagios({"backups": shown, "words": words, "truncated": False}) == (code, sentence)


def test_nagios_hears_of_what_stands_behind_thousands():
    shown = [{"name": "j", "host": "web1", "word": "FAILED", "severity": "minor"}] * 11
    document = {"backups": shown, "words": {"FAILED": 9_000, "UNKNOWN": 1}, "truncated": True}
    assert _nagios(document) == (3, "UNKNOWN: 9000 FAILED, 1 UNKNOWN")
    document["words"] = {"FAILED": 9_000}
    assert _nagios(document)[1].endswith("web1/j and more")


def test_nagios_gets_a_code_and_a_sentence(ask, backups):
    put(backups, "nightly", word="STALE", severity="critical")
    done = ask("backups", "--exit-code")
    assert (done.code, done.out.splitlines()[0]) == (2, "CRITICAL: 1 STALE: web1/nightly")
    assert ask("backups", "--exit-code", "--json").code == 2


def test_nagios_hears_unknown_when_nobody_answers(shell):
    shell.url = "http://127.0.0.1:1"
    done = shell("backups", "--exit-code")
    assert (done.code, done.out[:8]) == (3, "UNKNOWN:")
    assert shell("backups").code == 5


def test_one_backup_with_why_and_what_to_do_its_runs_and_what_happened(ask, backups):
    job_id = put(backups, "nightly", word="STALE", severity="critical")
    done = ask("backups", "show", "nightly")
    assert done.code == 0
    for wanted in (
        r"^word +STALE for 2h\w*$",
        r"^why +The newest good copy is too old\.$",
        r"^what to do +Look at evil\\x1b\[31m\\u202e$",
        r"^restorable to +.*, 1d6h ago; wanted within 1d2h$",
        r"^schedule +15 2 \* \* \* \(Europe/Berlin\)$",
        r"^copies +nas \(rack-a, immutable\)$",
        r"^fresh +bad +over-rpo +older than 26h$",
        r"^.* failed +10m +5\.0 GiB +- +- +3 +evil\\x1b\[31m\\u202e$",
        r"^.* verify +ok +data of 25 % holds$",
        r"^.* word +OK -> STALE +it got old$",
    ):
        assert re.search(wanted, done.out, re.MULTILINE), wanted
    kinds = re.findall(r"  (run|word|verify)  ", done.out)
    assert kinds == ["run", "word", "run", "verify"], "the newest first"
    assert "\x1b" not in done.out
    assert (
        f"and older ones: watchbill backups show {job_id}"
        in ask("backups", "show", job_id, "--limit", "2").out
    )
    for name in (job_id, "web1/nightly"):
        assert ask("backups", "show", name, "--json").json["backup"]["id"] == job_id
    assert ask("backups", "show", "weekly").code == 1
    put(backups, "nightly", "web2")
    both = ask("backups", "show", "nightly")
    assert both.code == 2
    assert f"web1/nightly ({job_id})" in both.err


def test_a_review_is_signed(admin, backups):
    put(backups, "nightly", word="SUSPECT")
    done = admin("backups", "review", "nightly", "--note", "the old ones\nwere moved")
    assert (done.code, done.out) == (
        0,
        "Signed by ops: nightly was SUSPECT. the old ones\\nwere moved\n",
    )
    assert "by ops: the old ones" in admin("backups", "show", "nightly").out
    assert admin("backups", "review", "nightly").code == 2


def test_a_pause_has_an_end_and_a_reason(admin, backups):
    job_id = put(backups, "nightly", word="STALE")
    done = admin("backups", "pause", "nightly", "--for", "2d", "--reason", "moving")
    assert done.out == (
        f"nightly of web1 is paused for 2d.\nTo end it early: watchbill backups resume {job_id}\n"
    )
    assert "paused by ops: moving" in admin("backups").out
    assert admin("backups", "resume", job_id).out == "nightly of web1 is judged again: STALE\n"
    assert admin("backups", "resume", job_id).code == 6
    for without in (["--reason", "x"], ["--for", "2d"], ["--for", "1000d", "--reason", "x"]):
        assert admin("backups", "pause", "nightly", *without).code == 2, without


def test_a_host_is_asked_to_verify_and_says_what_it_does(admin, backups):
    job_id = put(backups, "nightly")
    twin = backups.twins.backups
    twin.says, twin.away, twin.journal = {"answer": "begun", "level": "data", "copy": "nas"}, set(), []
    done = admin("backups", "verify", "nightly", "--level", "data")
    assert (done.code, done.out, done.err) == (
        0,
        "web1 verifies nightly now: data of its copy nas.\nWhat it finds: watchbill backups show web1/nightly\n",
        "",
    )
    assert twin.journal == [("verify", job_id, "ops")]
    assert re.search(r"  asked +begun +ops: verify data", admin("backups", "show", "nightly").out)
    twin.says = {}
    done = admin("backups", "verify", "nightly", "--host", "web1")
    assert done.code == 0
    assert "was asked to verify nightly and has not answered yet" in done.out
    document = admin("backups", "verify", "nightly", "--json").json
    assert (document["found"], document["asked"]["answer"], document["asked"]["host"]) == (None, "", "web1")


def test_why_a_host_is_not_asked_or_does_not_do_it_ends_with_its_own_code(admin, backups):
    put(backups, "nightly")
    put(backups, "nightly", "web2")
    put(backups, "gone", word="RETIRED")
    twin = backups.twins.backups
    twin.says = {"answer": "refused", "reason": "too-soon", "why": f"again in 5 minutes {HOSTILE}"}
    done = admin("backups", "verify", "nightly", "--host", "web1")
    assert (done.code, done.out) == (6, "")
    assert "web1 does not verify nightly: again in 5 minutes" in done.err
    assert "(too-soon)" in done.err
    assert "\x1b" not in done.err
    assert admin("backups", "verify", "web1/nightly", "--wait", "--json").code == 6
    twin.away = {"web2"}
    done = admin("backups", "verify", "nightly", "--host", "web2")
    assert done.code == 5
    assert "web2 is not connected, and a request does not wait for it" in done.err
    assert admin("backups", "verify", "gone").code == 6
    for unusable in (["nightly"], ["nightly", "--level", "all"]):
        assert admin("backups", "verify", *unusable).code == 2, unusable
    assert admin("backups", "verify", "nightly", "--host", "web9").code == 1


@pytest.mark.parametrize(
    ("outcome", "proof", "code", "word"),
    [
        ("ok", Proof(level=Level.DATA, ok=True), 0, "It holds"),
        ("failed", Proof(level=Level.DATA, ok=False, bad=2), 1, "It fails"),
        ("unknown", None, 1, "Nothing was proved"),
    ],
)
def test_who_waits_is_told_what_was_found(admin, backups, monkeypatch, outcome, proof, code, word):
    job_id = put(backups, "nightly")
    twin, now = backups.twins.backups, at(SystemClock().wall_ms())
    twin.says, twin.away = {"answer": "begun", "level": "data"}, set()
    asks, polls = twin.verify, twin.history

    async def verify(*given):
        """What is found is there when it is looked for the second time."""
        made = await asks(*given)
        entry = BackupEntry(
            id="f" * 32,
            kind="verify",
            source="repo",
            outcome=outcome,
            at=now,
            received=now,
            run_id=made.id,
            duration_s=3.0,
            verify=proof,
            reason="" if outcome == "ok" else "repository-damaged",
        )
        looks = []

        async def history(name, limit, before=None):
            looks.append(name)
            found = await polls(name, limit, before)
            return replace(found, entries=(entry, *found.entries)) if len(looks) > 1 else found

        monkeypatch.setattr(twin, "history", history)
        return made

    monkeypatch.setattr(twin, "verify", verify)
    done = admin("backups", "verify", job_id, "--wait")
    assert done.code == code, done.err
    first, second = done.out.splitlines()
    assert first == "web1 verifies nightly now: data."
    assert second.startswith(f"{word} after 3s: ")


def test_who_waits_does_not_wait_for_ever(admin, backups):
    put(backups, "nightly")
    twin = backups.twins.backups
    twin.says, twin.away = {"answer": "begun", "level": "data"}, set()
    done = admin("backups", "verify", "nightly", "--wait", "--within", "1s")
    assert done.code == 1
    assert "web1 has told nothing of what it found within 1s" in done.err


def test_what_has_no_backup_is_told_until_it_is_exempt(admin, backups):
    put(backups, "nightly")
    done = admin("backups", "--uncovered")
    assert done.code == 0
    assert done.out.startswith("1 of 2 hosts and 0 of 0 services have neither a backup nor an exemption.")
    assert r"evil\x1b[31m\u202e" in done.out
    nagios = admin("backups", "--uncovered", "--exit-code")
    assert (nagios.code, nagios.out[:15]) == (1, "WARNING: 1 of 2")
    assert admin("backups", "--uncovered", "--host", "web1").code == 2
    order = ["--owner", "anna", "--reason", "scratch", "--for", "180d"]
    made = admin("backups", "exempt", "host", "id-2", *order)
    assert made.code == 0, made.err
    assert admin("backups", "--uncovered", "--exit-code").code == 0
    (kept,) = admin("backups", "exemptions", "--json").json["exemptions"]
    assert (kept["owner"], kept["by"], kept["reason"]) == ("anna", "ops", "scratch")
    assert "scratch" in admin("backups", "exemptions").out
    assert admin("backups", "unexempt", kept["id"]).code == 0
    assert admin("backups", "unexempt", kept["id"]).code == 1
    assert admin("backups", "exempt", "host", "web1").code == 2


def test_a_report_as_a_table_as_csv_and_as_one_document(admin, backups, monkeypatch):
    for name in ("nightly", "weekly", "hourly"):
        put(backups, name)
    assert admin("backups", "review", "nightly", "--note", "=1+1\x1b[31m").code == 0
    monkeypatch.setattr(backup_report, "PAGE", 2)
    table = admin("backups", "report", "--since", "7d")
    assert table.code == 0
    head, *rows = [re.split(r"  +", line) for line in table.out.splitlines()[1:]]
    nightly = dict(zip(head, next(row for row in rows if row[0] == "nightly"), strict=True))
    assert (nightly["OK"], nightly["FAILED"], nightly["KEPT"], nightly["LEFT"]) == (
        "1",
        "1",
        "99.999 %",
        "42m46s",
    )
    assert [row[0] for row in rows] == ["hourly", "nightly", "weekly"]
    lines = list(csv.DictReader(io.StringIO(admin("backups", "report", "--csv").out)))
    assert [line["name"] for line in lines] == ["hourly", "nightly", "weekly"]
    assert tuple(lines[0]) == backup_report.COLUMNS
    assert (lines[1]["runs_ok"], lines[1]["rpo_kept"], lines[1]["rpo_left_s"]) == ("1", "0.99999", "2566.0")
    assert lines[1]["reviews"].endswith(r"(OK): =1+1\x1b[31m")
    document = admin("backups", "report", "--json", "--objective", "50").json
    assert (len(document["rows"]), document["total"], document["truncated"]) == (3, 3, False)
    assert document["objective"] == 0.5


@pytest.mark.parametrize(
    "wrong",
    [
        ("--csv", "--json"),
        ("--objective", "100"),
        ("--since", "soon"),
        ("--since", "500d"),
    ],
)
def test_a_report_that_cannot_be_ends_with_2(ask, backups, wrong):
    assert ask("backups", "report", *wrong).code == 2


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)"])
def test_no_spreadsheet_runs_what_somebody_wrote(text):
    assert backup_report._cell(text) == f"'{text}"


def test_one_backup_says_how_much_of_its_budget_is_left(ask, backups):
    put(backups, "nightly")
    assert (
        "rpo kept       99.999 % of 30d, beyond it for 26s; budget at 99.9 %: 42m46s left"
        in ask("backups", "show", "nightly").out
    )
