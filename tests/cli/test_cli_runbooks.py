"""`watchbill runbooks|run|runs|approve|deny|automation`: what would be done, what is done, who agrees; the codes."""

import dataclasses
import io
import json
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from watchbill.actions import grants
from watchbill.actions.grants import Manifest, ProtectedEffect, open_vote, read_manifest
from watchbill.actions.roster import Person, Roster
from watchbill.clock import SystemClock
from watchbill_collector.api.ports import Caller, Grant, Role, at
from watchbill_collector.api.runbook_port import Finding
from watchbill_collector.api.runbook_twin import RunbooksTwin, TwinBook, TwinStep, blank
from watchbill_collector.cli.approval_key import create, load
from watchbill_collector.cli.approving import gate_lines
from watchbill_collector.cli.errors import Unreachable
from watchbill_collector.cli.following import follow
from watchbill_collector.cli.program import run
from watchbill_collector.cli.runbook_text import folded, journal_rows, plan_lines
from watchbill_collector.cli.screen import Screen

HOSTILE = "evil\x1b[31m\u202e"
RESTART = TwinStep(
    id="restart",
    host="web1",
    action="svc.restart",
    argv=("/bin/systemctl", "restart", "two words", HOSTILE),
    output=f"done {HOSTILE}\n",
)
GATE = TwinStep(id="consent", kind="approve", role="dba", needed=2)
PROMOTE = TwinStep(
    id="promote",
    host="web1",
    action="pg.promote",
    argv=("/usr/bin/pg_ctl", "promote"),
    effect="once",
    role="dba",
    needed=2,
    protected=True,
    commit=True,
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files with the keys of three."""
    place = tmp_path_factory.mktemp("keys")
    for name in ("rita", "ben", "cleo"):
        create(name, place / name)
    return {name: place / name for name in ("rita", "ben", "cleo")}


@pytest.fixture
def people(served: Any, keys: dict[str, Path]) -> Iterator[Any]:
    """Fresh runbooks at the served collector, and a roster with the keys."""
    twins, clock = served.twins, SystemClock()
    made = twins.runbooks
    before = dict(twins.users.tokens)
    for name, role in (("rita", Role.OPERATOR), ("ben", Role.APPROVER), ("cleo", Role.APPROVER)):
        twins.users.tokens[name] = Caller(name, (Grant(role),), user_id=name)
    twins.users.tokens["rita"] = Caller("rita", (Grant(Role.OPERATOR), Grant(Role.APPROVER)), user_id="rita")
    now_ms = clock.wall_ms()
    made.roster = Roster(
        site="main",
        serial=1,
        issued_ms=now_ms,
        expires_ms=now_ms + 10**9,
        people=tuple(Person(name=name, key=load(path).public, roles=("dba",)) for name, path in keys.items()),
    )
    put(made, "restart", RESTART, parameters={"unit": "nginx"})
    put(made, "broken", dataclasses.replace(RESTART, ends=("failed",)))
    put(made, "guarded", dataclasses.replace(GATE, needed=1), RESTART)
    put(made, "promote", GATE, PROMOTE, parameters={"primary": "db1"}, confirm="primary", lock="pg/db1")
    put(made, "new", RESTART, accepted="")
    yield made
    twins.users.tokens.clear()
    twins.users.tokens.update(before)
    made._books.clear()
    made._runs.clear()
    made._paused = None


def put(
    made: RunbooksTwin, name: str, *steps: TwinStep, accepted: str = "ben", view: Any = None, **more: Any
) -> None:
    shown = {"about": f"About {HOSTILE}", "accepted_by": accepted} | (view or {})
    made.put(
        TwinBook(
            text=f"runbook: {name}\n# {HOSTILE}\n",
            author="ann",
            steps=steps,
            view=blank(name, **shown),
            **more,
        )
    )


@dataclasses.dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def as_(
    ask: Any,
    people: Any,
    keys: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Any:
    """The command as somebody with his key types it, in this process: `as_("ben", "approve", ...)`."""

    def typed_by(who: str, *arguments: str) -> Done:
        ask.token = who
        for name, value in ask.environment.items():
            monkeypatch.setenv(name, value)
        place = ask.home / ".config" / "watchbill"
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        (place / "approval.key").write_bytes(keys[who].read_bytes())
        (place / "approval.key").chmod(0o600)
        monkeypatch.setattr("sys.stdin", io.StringIO())
        capsys.readouterr()
        code = run(arguments)
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    return typed_by


def test_runbooks_are_listed_with_what_stands_in_their_way(as_: Any, people: Any) -> None:
    now = at(SystemClock().wall_ms())
    view = {
        "ready": False,
        "not_ready": (f"no disk {HOSTILE}",),
        "drill_due": now - timedelta(days=1),
        "rto_s": 900.0,
        "recovery_p90_s": 250.0,
    }
    put(people, "sick", RESTART, view=view)
    listed = as_("rita", "runbooks")
    assert listed.code == 0
    (row,) = [line for line in listed.out.splitlines() if line.startswith("sick  ")]
    assert re.search(r"not ready +ben +never, overdue +15m +4m10s", row)
    assert "sick is not ready: no disk evil\\x1b[31m\\u202e" in listed.out
    assert "\x1b" not in listed.out
    assert (
        as_("rita", "runbooks", "--json").json["runbooks"]
        == as_("rita", "runbook", "list", "--json").json["runbooks"]
    )


def test_a_runbook_shows_its_text_and_what_it_still_needs(as_: Any) -> None:
    shown = as_("rita", "runbooks", "show", "new")
    assert "by nobody: it runs as a drill alone. watchbill runbooks accept new" in shown.out
    assert shown.out.endswith("runbook: new\n# evil\\x1b[31m\\u202e\n")
    missing = as_("rita", "runbooks", "show", "nothing")
    assert (missing.code, missing.err.splitlines()[0]) == (
        1,
        "watchbill: there is no runbook 'nothing': watchbill runbooks lists them",
    )


def test_a_file_is_judged_with_places_and_a_loaded_one_by_its_name(
    as_: Any, people: Any, tmp_path: Path
) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("steps: []\n")
    bad = as_("rita", "runbooks", "lint", str(file))
    assert (bad.code, bad.out) == (2, "")
    assert bad.err == f"{file}:1: runbook: got nothing, wanted the runbook's name\n"
    file.write_text("runbook: x\n")
    assert as_("rita", "runbooks", "lint", str(file)).out == f"{file}: good.\n"
    finding = Finding(file="restart.yaml", line=3, where="steps", severity="warning", message="is slow")
    put(people, "restart", RESTART, view={"findings": (finding,)})
    loaded = as_("rita", "runbooks", "lint", "restart")
    assert (loaded.code, loaded.err) == (0, "restart.yaml:3: warning: steps: is slow\n")


def test_a_plan_shows_where_each_argument_ends_and_the_point_of_no_return(as_: Any) -> None:
    plan = as_("rita", "runbooks", "plan", "restart", "unit=a=b c")
    assert plan.code == 0
    assert "/bin/systemctl restart 'two words' 'evil\\x1b[31m\\u202e'" in plan.out
    assert "unit='a=b c'" in plan.out
    promote = as_("rita", "runbooks", "plan", "promote").out
    assert "consent (2 of dba)" in promote
    assert "POINT OF NO RETURN" in promote
    new = as_("rita", "runbooks", "plan", "new")
    assert new.code == 1
    assert "It cannot be run:\n  - nobody has accepted this text: watchbill runbooks accept new" in new.out


def test_a_text_is_accepted_by_who_has_read_it(as_: Any, people: Any) -> None:
    other = as_("ben", "runbooks", "accept", "new", "--digest", "0" * 64)
    assert (other.code, "another text by now" in other.err) == (6, True)
    accepted = as_("ben", "runbooks", "accept", "new")
    assert accepted.code == 0
    assert "new may be run: ben accepted" in accepted.out
    assert "# evil\\x1b[31m\\u202e" in accepted.out, "what is accepted was shown"


def test_a_run_that_succeeds_ends_with_0_and_is_listed(as_: Any) -> None:
    done = as_("rita", "run", "restart", "unit=sshd", "--reason", "it hangs")
    assert (done.code, done.err) == (0, "")
    assert done.out == "Run r00001 of restart has begun.\nIt is succeeded\nRecovery took 0s.\n"
    listed = as_("rita", "runs").out.splitlines()
    assert re.match(r"r00001 +restart +succeeded +\d\d:\d\d +rita +0s +- +it hangs", listed[1])
    assert as_("rita", "runs", "--open").out == "No run is open.\n"
    shown = as_("rita", "runs", "show", "r00001", "--output").out
    assert "unit=sshd" in shown
    assert "| done evil\\x1b[31m\\u202e" in shown
    rows = as_("rita", "runs", "log", "r00001", "--json").json["rows"]
    assert [row["kind"] for row in rows] == ["created", "intent", "result", "state"]
    assert "created" in as_("rita", "runs", "log", "r00001").out


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("run", "restart"), 2, "a run has a reason"),
        (("run", "restart", "unit", "--reason", "x"), 2, "wanted name=value"),
        (("run", "restart", "unit=a", "unit=b", "--reason", "x"), 2, "twice"),
        (("run", "restart", "disk=a", "--reason", "x"), 6, "there is no parameter 'disk'"),
        (("run", "new", "--reason", "x"), 6, "watchbill runbooks accept new"),
        (("run", "nothing", "--reason", "x"), 1, "there is no runbook"),
        (("run", "promote", "--reason", "x"), 2, "--confirm db1"),
        (("run", "promote", "--reason", "x", "--confirm", "db2"), 2, "wanted 'db1'"),
        (("run", "restart", "--reason", "x", "--confirm", "db2"), 2, "asks for nothing"),
        (("runs", "retry", "r00001"), 2, "runs retry ID --reason TEXT"),
        (("runs", "show", "r00001"), 1, "there is no run"),
        (("runs", "follow", "r00001"), 1, "there is no run"),
        (("approve", "r00001"), 1, "there is no run"),
        (("automation", "pause"), 2, "--reason TEXT"),
        (("automation", "resume", "--reason", "x"), 6, "not paused"),
        (("runbooks", "lint", "/nonexistent.yaml"), 2, "no such file"),
    ],
)
def test_what_cannot_be_done_says_why_and_what_to_type(
    as_: Any, people: Any, arguments: tuple[str, ...], code: int, told: str
) -> None:
    done = as_("rita", *arguments)
    assert (done.code, done.out) == (code, ""), done.err
    assert told in done.err
    assert people._runs == {}


def test_a_held_run_ends_with_3_and_goes_on_as_a_person_says(as_: Any) -> None:
    held = as_("rita", "run", "broken", "--reason", "x")
    assert held.code == 3
    assert "watchbill runs retry|skip|mark-done r00001 --reason TEXT" in held.out
    refused = as_("rita", "runs", "skip", "r00001", "elsewhere", "--reason", "x")
    assert (refused.code, "held at restart" in refused.err) == (6, True)
    again = as_("rita", "runs", "retry", "r00001", "--reason", "looked")
    assert (again.code, "It is succeeded" in again.out) == (0, True)
    assert as_("rita", "run", "broken", "--reason", "x", "--wait", "--json").json["state"] == "held"
    assert as_("rita", "runs", "abort", "r00002", "--reason", "x", "--json").json["state"] == "cancelled"
    assert as_("rita", "runs", "follow", "r00002").code == 1


def test_two_people_sign_what_they_are_shown_and_the_run_goes_on(as_: Any, people: Any) -> None:
    waits = as_("rita", "run", "promote", "--reason", "db1 is gone", "--confirm", "db1")
    assert (waits.code, waits.err) == (4, "")
    assert "To agree: watchbill approve r00001 consent    (not by rita)" in waits.out
    own = as_("rita", "approve", "r00001", "--yes")
    assert (own.code, "asked for this run himself" in own.err) == (6, True)
    asked = as_("ben", "approve", "r00001", "consent")
    assert (asked.code, "nobody is here to say yes" in asked.err) == (2, True)
    assert people._runs["r00001"].signed == {}
    first = as_("ben", "approve", "r00001", "consent", "--yes", "--comment", "I looked")
    assert first.code == 0
    assert "pg.promote on web1 (id-of-web1)" in first.out
    assert 'primary = "db1"' in first.out
    assert "db1 is gone" in first.out
    assert "Your vote counts: 1 of 2 of dba have agreed" in first.out
    (signed,) = people._runs["r00001"].signed["consent"]
    vote, person = open_vote(people.roster, signed)
    manifest = people._runs["r00001"].view.steps[0].manifest.encode()
    assert (person.name, vote.comment, vote.manifest) == ("ben", "I looked", grants.digest(manifest))
    assert vote.expires_ms == read_manifest(manifest).expires_ms
    second = as_("cleo", "approve", "r00001", "--yes", "--json")
    assert second.json["state"] == "succeeded"
    assert "pg.promote on web1" in second.err, "what was signed is shown beside the document"
    late = as_("ben", "approve", "r00001", "consent", "--yes")
    assert (late.code, "is not open" in late.err) == (1, True)


def test_one_no_holds_the_run(as_: Any) -> None:
    as_("rita", "run", "promote", "--reason", "x", "--confirm", "db1")
    no = as_("ben", "deny", "r00001", "--yes", "--comment", "not tonight")
    assert (no.code, "The run is held: consent: ben said no" in no.out) == (0, True)
    assert "ben said no" in as_("rita", "runs", "show", "r00001").out


def test_what_the_collector_shows_is_what_is_signed_or_nothing(as_: Any, people: Any) -> None:
    as_("rita", "run", "promote", "--reason", "x", "--confirm", "db1")
    kept = people._runs["r00001"]
    honest = kept.view
    gate = honest.steps[0]
    lies = (
        {"manifest_digest": "0" * 64},
        {"manifest": gate.manifest.replace('"run":"r00001"', '"run":"r00009"')},
        {"manifest": gate.manifest.replace("web1", "web2")},
        {"manifest": gate.manifest.replace(",", ", ", 1)},
        {"manifest": "{}"},
        {"manifest": "\ud800"},
    )
    for lie in lies:
        told = dataclasses.replace(gate, **lie)
        kept.view = dataclasses.replace(honest, steps=(told, *honest.steps[1:]))
        done = as_("ben", "approve", "r00001", "--yes")
        assert done.code != 0, lie
        assert kept.signed == {}, lie
    kept.view = honest


def test_without_a_key_hosts_count_nothing_and_the_collector_alone_takes_a_login(
    as_: Any, people: Any
) -> None:
    as_("rita", "run", "promote", "--reason", "x", "--confirm", "db1")
    keyless = as_("ben", "approve", "r00001", "--yes", "--login")
    assert (keyless.code, "watchbill roster key" in keyless.err) == (2, True)
    as_("rita", "run", "guarded", "--reason", "x")
    done = as_("ben", "approve", "r00002", "--login", "--yes")
    assert done.code == 0
    assert "the collector alone looks at it" in done.out
    assert people._runs["r00002"].view.state == "succeeded"


def test_who_waits_sees_each_step_and_ends_with_the_code_of_the_run(as_: Any, ask: Any) -> None:
    as_("rita", "run", "guarded", "--reason", "x")
    following = subprocess.Popen(
        [str(Path(sys.executable).with_name("watchbill")), "runs", "follow", "r00001"],
        env=ask.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert following.stdout is not None
        first = following.stdout.readline()
        assert re.match(r"\d\d:\d\d:\d\d  consent +waiting +0 of 1 of dba have agreed", first)
        as_("ben", "approve", "r00001", "--login", "--yes")
        rest, _ = following.communicate(timeout=30)
    finally:
        following.kill()
        following.wait()
    assert following.returncode == 0
    assert re.search(r"restart +ok +on web1", rest)
    assert "the run is succeeded" in rest


def test_a_collector_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch, people: Any) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    answers: list[Any] = [Unreachable("gone"), Unreachable("gone"), {"state": "succeeded"}]

    class Away:
        def get(self, path: str) -> Any:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return {"id": "r1", **answer}

    notes: list[str] = []

    class Here:
        client = Away()

        def note(self, text: str) -> None:
            notes.append(text)

    begun = {"id": "r1", "state": "running", "exit_code": 0}
    assert follow(Here(), begun, told=False)["state"] == "succeeded"  # type: ignore[arg-type]
    assert notes == [
        "the collector does not answer; the hosts go on with what they have begun",
        "the collector is back",
    ]


def test_automation_is_paused_with_a_name_and_a_reason(as_: Any) -> None:
    assert as_("rita", "automation").out == "Automation is on.\n"
    paused = as_("rita", "automation", "pause", "--reason", f"moving {HOSTILE}")
    assert re.match(r"Paused by rita since \d\d:\d\d, \d+s ago: moving evil\\x1b", paused.out)
    assert as_("rita", "automation", "status", "--json").json["paused"] is True
    assert as_("rita", "automation", "resume", "--reason", "moved").out == "Automation is on.\n"


def test_drills_say_what_is_due_and_what_they_have_shown(as_: Any, people: Any) -> None:
    assert as_("rita", "drills").out.startswith("No runbook says how often")
    assert as_("rita", "drills", "report").out == "No drill was held, and none is planned.\n"
    now = at(SystemClock().wall_ms())
    planned = {"drill_every_s": 30 * 86_400.0, "rto_s": 900.0}
    put(people, "old", RESTART, view=planned | {"drill_due": now - timedelta(days=2)})
    put(people, "young", RESTART, view=planned | {"drill_due": now + timedelta(days=2), "last_drill": now})
    due = as_("rita", "drills", "due").out.splitlines()
    assert re.match(r"old +30d +never, overdue +2d ago", due[1])
    assert due[2].startswith("young")
    assert due[3] == "To hold it: watchbill run old --drill --reason TEXT"
    assert as_("rita", "run", "old", "--drill", "--reason", "it is due").code == 0
    as_("rita", "run", "restart", "--reason", "no drill")
    report = as_("rita", "drill", "report").out.splitlines()
    assert re.match(r"old +1 +1 +never, overdue +0s +- +15m +yes", report[1])
    assert re.match(r"young +0 +0 +ended, 0s ago +- +- +15m +unknown", report[2])
    assert [line.split()[1] for line in report[5:]] == ["old"], "what was no drill is not told"
    document = as_("rita", "drills", "report", "--json").json
    assert [(one["name"], one["met"]) for one in document["runbooks"]] == [("old", True), ("young", None)]
    assert as_("rita", "drills", "report", "--since", "0s", "--json").json["drills"] == []


def typed(arguments: list[str], environment: dict[str, str], answer: bytes) -> tuple[int, str]:
    """A command at a real terminal, to whose first question that is typed."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(arguments[0], arguments, environment)  # The child: nothing of this process runs on in it.
    seen, answered = b"", False
    try:
        while True:
            ready, _, _ = select.select([terminal], [], [], 30)
            assert ready, seen
            try:
                part = os.read(terminal, 65_536)
            except OSError:
                break
            if not part:
                break
            seen += part
            if not answered and seen.rstrip().endswith((b"start it:", b"[y/N]:")):
                os.write(terminal, answer)
                answered = True
    finally:
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
    return os.waitstatus_to_exitcode(status), seen.decode()


def test_at_a_terminal_it_shows_the_plan_and_wants_the_target_typed(as_: Any, ask: Any, people: Any) -> None:
    as_("rita", "automation")
    command = [str(Path(sys.executable).with_name("watchbill")), "run", "promote", "--reason", "x"]
    environment = ask.environment | {"TERM": "xterm", "NO_COLOR": "1"}
    code, seen = typed(command, environment, b"yes\n")
    assert (code, people._runs) == (2, {})
    assert "Type db1 to start it" in seen
    assert seen.index("/usr/bin/pg_ctl promote") < seen.index("Type db1")
    assert "\x1b[" not in seen
    code, seen = typed(command, environment, b"db1\n")
    assert (code, len(people._runs)) == (4, 1)


def test_what_many_hosts_would_do_alike_is_said_once() -> None:
    plan = _plan_of_many()
    lines = list(plan_lines(Screen(io.StringIO(), False), plan, None))
    assert sum("/bin/true" in line for line in lines) == 1
    assert any("and 28 more" in line for line in lines)


def _plan_of_many() -> dict[str, Any]:
    row = {
        "step": "all", "kind": "do", "action": "a.b", "effect": "repeat", "argv": ["/bin/true"], "run_as": "root",
        "approvals": 0, "role": "", "commit": False, "verdict": "", "detail": "", "seen": "",
    }  # fmt: skip
    steps = [row | {"host": f"web{number}"} for number in range(40)]
    return {
        "runbook": "x", "digest": "0" * 64, "drill": False, "parameters": {}, "confirm": "", "lock": "",
        "steps": steps, "problems": [],
    }  # fmt: skip


def test_a_line_breaks_between_its_parts_alone() -> None:
    assert list(folded(["aaa", "bbb", "ccc"], "", 2, 8)) == ["aaa bbb", "  ccc"]
    assert list(folded(["a" * 20, "b"], "x ", 4, 8)) == ["x " + "a" * 20, "    b"]


def test_what_is_agreed_to_names_every_host_and_says_alike_things_once() -> None:
    def effect(host: str, **arguments: str) -> ProtectedEffect:
        return ProtectedEffect(
            step="go",
            agent=f"id-{host}",
            host=host,
            action="a.b",
            action_digest="0" * 64,
            arguments=arguments,
        )

    manifest = Manifest(
        site="main", run="r1", runbook="x", runbook_digest="1" * 64, gate="consent", requester="rita",
        reason=f"why {HOSTILE}", drill=False, opened_ms=0, expires_ms=2**42,
        effects=(*(effect(f"web{number}", unit="nginx") for number in range(30)), effect("web30", unit="other")),
    )  # fmt: skip
    shown = "\n".join(gate_lines(Screen(io.StringIO(), False), manifest, manifest.content()))
    assert "31 protected actions on 31 hosts" in shown
    assert all(f"web{number} (id-web{number})" in shown for number in range(31))
    assert shown.count('unit = "nginx"') == 1
    assert grants.digest(manifest.content()) in shown
    assert "evil\\x1b[31m\\u202e" in shown


def test_what_came_of_a_command_is_told_with_the_step_and_the_host_that_its_intent_names() -> None:
    def row(n: int, kind: str, step: str = "", host: str = "", **detail: object) -> dict[str, Any]:
        return {
            "n": n, "at": "2026-11-21T12:00:00Z", "kind": kind, "step": step, "host": host, "actor": "",
            "detail": detail,
        }  # fmt: skip

    rows = [
        row(1, "intent", "go", "web1", key="k1", digest="0" * 64, attempt=1),
        row(2, "result", key="k1", exit_code=0, signed="QUJD"),
        row(3, "result", key="k2"),
    ]
    told = list(journal_rows(rows))
    assert told[1][2:] == ("result", "go", "web1", "-", "exit_code=0")
    assert told[2][2:] == ("result", "-", "-", "-", "-")
