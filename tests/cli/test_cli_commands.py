"""Every command against a served collector: tables for people, JSON for programs, exit codes."""

import dataclasses
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from watchbill_collector.api.health import CheckStanding, HostEvent
from watchbill_collector.api.ports import Alert, Gap, QueryAnswer, Rule, RuleGroup
from watchbill_collector.cli.program import ALIASES, COMMANDS, LATER
from watchbill_collector.cli.query import TOP

PROGRAM = Path(sys.executable).with_name("watchbill")

THEN = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def test_hosts_as_a_table(ask):
    done = ask("hosts")
    assert done.code == 0
    head, evil, web = done.out.splitlines()
    assert head.split() == [
        "HOST",
        "STATE",
        "FOR",
        "SEEN",
        "AGENT",
        "EVERY",
        "SERIES",
        "SKEW",
        "GAPS",
        "CERTIFICATE",
    ]
    assert web.split()[:2] == ["web1", "up"]
    assert "\x1b" not in done.out
    assert "\u202e" not in done.out
    assert r"evil\x1b[31m\u202e" in evil


def test_hosts_as_json_with_and_without_the_plural(ask):
    plural, singular = ask("hosts", "--json"), ask("host", "list", "--json")
    assert plural.json.keys() == singular.json.keys() == {"hosts"}
    assert [host["name"] for host in plural.json["hosts"]][1] == "web1"
    assert plural.out.isascii()


def test_outdated_hosts(ask):
    assert [host["agent_id"] for host in ask("hosts", "--outdated", "--json").json["hosts"]] == ["id-2"]


def test_a_host_is_shown_with_its_applications_and_checks_and_its_events_on_request(ask, served):
    hostile = "no\x1b[31m answer"
    served.twins.health.of_hosts["id-1"] = [
        CheckStanding("front", "shop", "http", True, "critical", THEN, "refused", hostile),
        CheckStanding("stock", "shop", "exec", False, "ok"),
    ]
    told = {"check": "front", "from": "ok", "to": "critical", "reason": "refused", "detail": hostile}
    login = {"user": "root", "from": "192.0.2.1", "why": hostile}
    served.twins.health.told["id-1"] = [
        HostEvent(THEN, THEN, kind, detail)
        for kind, detail in (("check.changed", told), ("security.login", login))
    ]
    shown = ask("hosts", "show", "web1")
    assert re.search(r"^shop +down +\d\w+ +front, stock$", shown.out, re.MULTILINE)
    front = r"^front +http +shop +critical +\d\w+ +refused: no\\x1b\[31m answer$"
    assert re.search(front, shown.out, re.MULTILINE)
    assert re.search(r"^stock +exec +shop \(not essential\) +ok +- +-$", shown.out, re.MULTILINE)
    events = ask("hosts", "show", "web1", "--events")
    assert (
        "2026-11-21 12:00:00  check.changed   front is critical (was ok): refused: no\\x1b[31m answer"
        in events.out
    )
    assert 'security.login  user=root from=192.0.2.1 why="no\\u001b[31m answer"' in events.out
    assert "\x1b" not in shown.out + events.out
    assert ask("hosts", "show", "web1", "--events", "--limit", "1", "--json").json["more"] == "1"
    assert (
        "try: watchbill hosts show web1 --events"
        in ask("hosts", "show", "web1", "--events", "--limit", "1").out
    )


def test_one_host(ask):
    done = ask("hosts", "show", "web1")
    assert re.search(r"^state +up for ", done.out, re.MULTILINE)
    assert ask("hosts", "--json", "show", "web1").json["host"]["agent_id"] == "id-1"


def test_a_host_that_is_not_there(ask):
    done = ask("hosts", "show", "nobody")
    assert (done.code, done.out) == (1, "")
    assert done.err == "watchbill: there is no host nobody\ntry: watchbill --help\n"


def test_a_host_with_a_name_that_is_no_path(ask):
    assert ask("hosts", "show", "../../metrics").code == 1
    assert ask("hosts", "show", "a b/c?d#e%00").code in (1, 2)
    assert ask("hosts", "show", "").code == 2


@pytest.mark.parametrize("verb", ["retire", "revoke", "approve", "forget"])
def test_changing_needs_a_token(ask, verb):
    done = ask("hosts", verb, "web1")
    assert done.code == 6
    assert f"try: watchbill login {ask.url}" in done.err


def test_a_host_is_renamed_and_back(admin):
    done = admin("hosts", "rename", "web1", "www1")
    assert (done.code, done.out) == (0, "web1 is now www1.\n")
    assert admin("hosts", "rename", "www1", "web1", "--json").json["name"] == "web1"


def test_a_host_that_is_live_is_not_forgotten(admin):
    done = admin("hosts", "forget", "web1")
    assert done.code == 6
    assert "retire it first" in done.err


def test_an_instant_query(ask):
    done = ask("query", "up")
    assert done.out.splitlines()[1].split() == ['up{instance="web1",', 'job="node"}', "1"]
    document = ask("query", "up", "--json").json
    assert document["status"] == "success"
    assert document["data"]["result"][0]["metric"]["instance"] == "web1"
    assert ask("query", "1+1").out == "2\n"


def test_a_range_query_has_a_sparkline(ask, served):
    values = ",".join(f'[{at},"{at % 10}"]' for at in range(100))
    matrix = QueryAnswer("matrix", f'[{{"metric":{{"a":"b"}},"values":[{values}]}}]'.encode())
    served.twins.query.answers["saw"] = lambda _: matrix
    done = ask("query", "saw", "--range", "1h", "--step", "15s")
    name, points, low, mean, high, last, bars = done.out.splitlines()[1].split()
    assert (name, points, low, mean, high, last) == ('{a="b"}', "100", "0", "4.5", "9", "9")
    assert len(bars) == 40
    asked = served.twins.query.asked[-1]
    assert (asked[3] - asked[2], asked[4]) == (3_600_000, 15_000)


def test_a_query_that_is_wrong_is_told_so(ask):
    done = ask("query", "sum(")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith('watchbill: invalid parameter "query": parse error')


@pytest.mark.parametrize(
    "arguments",
    [
        ["query"],
        ["query", "up", "--step", "15s"],
        ["query", "up", "--range", "soon"],
        ["query", "up", "--range", "0s"],
        ["query", "up", "--time", "noon", "--range", "1h"],
        ["query", "up", "--nonsense"],
        ["hosts", "show"],
        ["hosts", "frobnicate"],
        ["frobnicate"],
        ["enroll", "create"],
        ["enroll", "create", "--name", "a", "--match", "b"],
        ["enroll", "create", "--name", "a", "--uses", "5"],
        ["enroll", "create", "--name", "a", "--labels", "nonsense"],
        ["enroll", "create", "--from", "/nonexistent"],
        ["enroll", "create", "--match", "a*", "--uses", "0"],
        ["gaps", "--limit", "0"],
        ["login"],
        ["demo", "--port", "0"],
        ["demo", "--for", "-1"],
        ["completion", "csh"],
        ["hosts", "--url", "ftp://x"],
        ["hosts", "--url", "http://user@x"],
        ["hosts", "--url", "http://x:port"],
        ["hosts", "--token-file", "/nonexistent"],
        ["rules", "check", "/nonexistent"],
        *([name, "anything", "--at=all"] for name in LATER),
        ["rules", "test", "x"],
    ],
)
def test_what_cannot_be_meant_is_usage(ask, arguments):
    done = ask(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("watchbill: ")


def test_a_typing_mistake_is_answered_with_what_is_near(ask):
    assert "Did you mean `watchbill hosts`?" in ask("hostss").err


def test_an_unbuilt_command_says_so(ask):
    assert (
        ask("incidents", "show").err
        == "watchbill: `watchbill incidents` is not built yet\ntry: watchbill --help\n"
    )


def test_every_alias_leads_somewhere():
    assert set(ALIASES.values()) <= {*COMMANDS, *LATER}


@pytest.fixture
def alerts(served):
    rules = served.twins.rules
    now = datetime.now(UTC)
    one = Alert(
        "HighLoad", "firing", now - timedelta(hours=3), now, 12.5,
        {"alertname": "HighLoad", "instance": "web1", "severity": "minor"},
        {"summary": "load\x1b]0;x\x07 is high"},
    )  # fmt: skip
    rules.active[:] = [dataclasses.replace(one, name="Soon", state="pending"), one]
    rules.past[:] = [dataclasses.replace(one, name="Gone", state="resolved", resolved_at=now)]
    yield rules
    rules.active.clear()
    rules.past.clear()
    served.twins.status.present = dataclasses.replace(served.twins.status.present, rules_failing=0)


def test_alerts_as_a_table_and_as_json(ask, alerts):
    done = ask("alerts")
    lines = [line.split()[:3] for line in done.out.splitlines()]
    assert lines == [["ALERT", "STATE", "FOR"], ["HighLoad", "firing", "3h"], ["Soon", "pending", "3h"]]
    assert "\x1b" not in done.out
    states = [(one["name"], one["state"]) for one in ask("alerts", "--all", "--json").json["alerts"]]
    assert states == [("HighLoad", "firing"), ("Soon", "pending"), ("Gone", "resolved")]
    assert ask("alerts", "--json").json["alerts"][0]["value"] == 12.5


@pytest.mark.parametrize(
    ("severity", "code", "word"),
    [("critical", 2, "CRITICAL"), ("page", 2, "CRITICAL"), ("major", 2, "CRITICAL"), ("minor", 1, "WARNING"),
     ("warning", 1, "WARNING"), ("", 1, "WARNING"), ("info", 0, "OK")],
)  # fmt: skip
def test_alerts_as_a_nagios_plugin(ask, alerts, severity, code, word):
    alerts.active[:] = [dataclasses.replace(alerts.active[1], labels={"severity": severity})]
    done = ask("alerts", "--exit-code")
    assert done.code == code
    assert done.out.startswith(f"{word}: ")


def test_rules_that_do_not_run_are_never_ok(ask, alerts, served):
    alerts.active.clear()
    assert ask("alerts", "--exit-code").code == 0
    served.twins.status.present = dataclasses.replace(served.twins.status.present, rules_failing=1)
    done = ask("alerts", "--exit-code")
    assert (done.code, done.out.split(":")[0]) == (3, "UNKNOWN")


def test_a_collector_that_cannot_be_reached(shell):
    shell.url = "http://127.0.0.1:9"
    done = shell("hosts")
    assert done.code == 5
    assert done.err.splitlines()[0] == "watchbill: http://127.0.0.1:9 cannot be reached: connection refused"
    assert "try: watchbill demo" in done.err
    unknown = shell("alerts", "--exit-code")
    assert (unknown.code, unknown.out.split(":")[0]) == (3, "UNKNOWN")


def test_tokens_are_made_listed_and_revoked(admin, tmp_path):
    one = admin("enroll", "create", "--name", "db1", "--ttl", "30d", "--labels", "role=db,site_x=b")
    assert one.code == 0
    (line,) = one.out.splitlines()
    assert "watchbill-agent enroll --token-file -" in line
    assert "db1" in one.err
    names = tmp_path / "names.txt"
    names.write_text("a\n\n# comment\nb # why\na\n")
    assert len(admin("enroll", "create", "--from", str(names)).out.splitlines()) == 2
    piped = admin("enroll", "create", "--from", "-", "--json", given="x\ny\nz\n")
    assert len(piped.json["issued"]) == 3
    many = admin("enroll", "create", "--match", "web-*", "--uses", "50", "--json").json["issued"]
    assert (many[0]["enrolment"]["match"], many[0]["enrolment"]["uses"]) == ("web-*", 50)
    rows = admin("enroll", "list", "--json").json["enrolments"]
    assert rows[-1]["labels"] == {"role": "db", "site_x": "b"}
    assert admin("enroll", "revoke", rows[0]["id"]).code == 0
    assert admin("enroll", "revoke", "nosuch").code == 1
    assert "withdrawn" in admin("enroll", "list").out


def test_a_token_says_how_long_certificates_last(admin):
    plain = admin("enroll", "create", "--name", "web01", "--json").json["issued"][0]["enrolment"]
    assert (plain["certificate_lifetime_s"], plain["expired_grace_s"]) == (None, None)
    order = ("--certificate-lifetime", "90d", "--expired-grace", "52w")
    box = admin("enroll", "create", "--name", "pump-7", *order, "--json").json["issued"][0]["enrolment"]
    assert (box["certificate_lifetime_s"], box["expired_grace_s"]) == (90 * 86_400, 364 * 86_400)
    assert "for 90d, late by 364d" in admin("enroll", "list").out
    wrong = admin("enroll", "create", "--name", "x", "--certificate-lifetime", "long")
    assert (wrong.code, "got 'long'" in wrong.err) == (2, True)


def test_gaps(ask, served):
    served.twins.gaps.rows[:] = [
        Gap("web1", "id-1", "bulk", 1, 5, 5, 1500, THEN, THEN, "overflow", datetime.now(UTC))
    ]
    assert "overflow" in ask("gaps").out
    assert ask("gaps", "web1", "--since", "1h", "--json").json["gaps"][0]["count"] == 5
    assert ask("gaps", "nobody").code == 1


def test_top(ask, served):
    for _, expression in TOP.values():
        served.twins.query.answers[expression] = lambda _: QueryAnswer("vector", b"[]")
    for name, value in (("load", 2.5), ("mem", 70.0)):
        answer = QueryAnswer("vector", f'[{{"metric":{{"instance":"web1"}},"value":[1,"{value}"]}}]'.encode())
        served.twins.query.answers[TOP[name][1]] = lambda _, answer=answer: answer
    assert ask("top").out.splitlines()[1].split() == ["web1", "-", "70.0", "2.5", "-"]
    assert ask("top", "--json").json == {
        "hosts": [{"host": "web1", "cpu": None, "mem": 70.0, "load": 2.5, "disk": None}]
    }


def test_rules_are_listed_and_checked(admin, served, tmp_path):
    rule = Rule("alerting", "High", "up >\n 1", {}, "err", "it broke", 0.0, THEN, "inactive")
    served.twins.rules.rule_groups[:] = [RuleGroup("g", "f.yml", 15.0, (rule,), 0.0, THEN)]
    done = admin("rules", "list")
    assert "up > 1" in done.out
    assert "High: it broke" in done.out
    assert admin("rules").out == done.out
    assert admin("rules", "list", "--failing", "--json").json["groups"][0]["rules"][0]["name"] == "High"
    good, bad = tmp_path / "good.yml", tmp_path / "bad.yml"
    good.write_text("groups: []\n")
    bad.write_text("nothing\n")
    assert admin("rules", "check", str(good)).code == 0
    wrong = admin("rules", "check", str(bad))
    assert (wrong.code, wrong.out) == (2, "")
    assert wrong.err == f"{bad}:1: bad.yml: no groups\n"


def test_whoever_has_read_enough_makes_no_failure(ask, served):
    rule = Rule("alerting", "High", "up > 1", {}, "ok", "", 0.0, THEN, "inactive")
    served.twins.rules.rule_groups[:] = [RuleGroup("g", "f.yml", 15.0, (rule,) * 2_000, 0.0, THEN)]
    for command in (["rules", "list"], ["rules", "list", "--json"], ["hosts"]):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            [PROGRAM, *command], env=ask.environment, stdout=writing, stderr=subprocess.PIPE, timeout=60
        )
        os.close(writing)
        assert (done.returncode, done.stderr) == (0, b""), command


def test_doctor(ask, served):
    assert ask("doctor").code == 0
    document = ask("doctor", "--json").json
    assert {finding["check"] for finding in document["findings"]} >= {"reach", "version", "commit", "rules"}
    served.twins.status.present = dataclasses.replace(served.twins.status.present, commit_oldest_s=99.0)
    done = ask("doctor")
    served.twins.status.present = dataclasses.replace(served.twins.status.present, commit_oldest_s=0.0)
    assert done.code == 1
    assert "try: the disk" in done.out


# ---------------------------------------------------------------- which collector, and as whom


def test_login_remembers_the_collector_and_its_token(shell, served):
    done = shell("login", served.url, given="admin-token\n")
    assert done.code == 0, done.err
    path = shell.home / ".config/watchbill/login.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert "admin-token" not in done.out + done.err
    assert shell("enroll", "list").code == 0
    code = shell("login", "--browser", "--json").json
    assert code["url"].startswith(f"{served.url}/login?code=")
    path.chmod(0o644)
    open_to_all = shell("hosts")
    assert open_to_all.code == 2
    assert f"try: chmod 600 {path}" in open_to_all.err


def test_a_wrong_token_is_refused_and_not_remembered(shell, served):
    done = shell("login", served.url, given="wrong\n")
    assert done.code == 6
    assert not (shell.home / ".config/watchbill/login.json").exists()


def test_a_token_goes_to_its_own_collector_alone(shell, served):
    assert shell("login", served.url, given="admin-token\n").code == 0
    other = served.url.replace("127.0.0.1", "localhost")
    assert shell("enroll", "list", "--url", other).code == 6
    assert shell("enroll", "list", "--url", served.url + "/").code == 0


def test_a_running_demo_is_found_and_a_dead_one_is_not(shell, served):
    path = shell.home / "run/watchbill-demo.json"
    document = {"url": served.url, "token": "admin-token", "pid": os.getpid()}
    path.write_text(json.dumps(document))
    path.chmod(0o600)
    assert shell("enroll", "list").code == 0
    path.write_text(json.dumps(document | {"pid": 2**22 + 1}))
    assert shell("hosts", timeout=10).code in (0, 5)  # Whatever answers on the default port of this machine.
    assert "127.0.0.1:7480" in shell("doctor").err + shell("doctor").out


# ---------------------------------------------------------------- the program itself


def test_help_and_version(shell):
    done = shell("--help")
    assert done.code == 0
    for name, (_, about) in COMMANDS.items():
        assert re.search(rf"^  {name} ", done.out, re.MULTILINE)
        assert about.split()[0] in done.out
    assert shell("--version").out == "watchbill 0.1.0\n"
    assert shell().code == 2


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_explains_itself(shell, name):
    done = shell(name, "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Usage: watchbill {name}")


def test_help_imports_no_command_and_nothing_of_the_daemon(shell):
    program = (
        "import sys; sys.argv = ['watchbill', '--help']\n"
        "from watchbill_collector.cli.program import run\n"
        "run(['--help'])\n"
        "print(sorted(m for m in sys.modules if m.startswith('watchbill_collector') or m in"
        " ('rich', 'httpx2', 'grpc', 'numpy', 'msgspec', 'sqlalchemy', 'starlette', 'ssl', 'asyncio')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(
        [
            "watchbill_collector",
            "watchbill_collector.cli",
            "watchbill_collector.cli.errors",
            "watchbill_collector.cli.program",
            "watchbill_collector.cli.said",
        ]
    )


@pytest.mark.parametrize("name", sorted({module for module, _ in COMMANDS.values()}))
def test_no_command_imports_the_daemon(name):
    program = (
        f"import sys, watchbill_collector.cli.{name}\n"
        "print([m for m in sys.modules if m.startswith(('watchbill_collector.', 'watchbill_agent'))"
        " and not m.startswith('watchbill_collector.cli')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_reader_that_has_enough_is_no_error(ask):
    done = subprocess.run(
        ["/bin/sh", "-c", '"$0" hosts --json | true; "$0" query up | head -n 1', str(PROGRAM)],
        env=ask.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("SERIES")


def test_a_closed_output_is_no_traceback(ask):
    done = subprocess.run(
        ["/bin/sh", "-c", '"$0" hosts >&-', str(PROGRAM)],
        env=ask.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr


def test_an_argument_of_any_size_and_content_is_data(ask):
    for text in ("$(touch x); `id` %n%s {{7*7}}", "x" * 100_000, "up\n\n", "\u202eup"):
        done = ask("query", text)
        assert done.code == 2
        assert len(done.err) < 5_000


def test_another_locale_does_not_break_tables(ask):
    ask.extra = {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = ask("query", "up", "--range", "1h")
    assert done.code == 0, done.err


def test_completion_lists_commands(shell):
    assert shell("completion", "bash").out == 'eval "$(_WATCHBILL_COMPLETE=bash_source watchbill)"\n'
    shell.extra = {"_WATCHBILL_COMPLETE": "bash_complete", "COMP_WORDS": "watchbill ho", "COMP_CWORD": "1"}
    assert shell().out.strip() == "plain,hosts"


@pytest.fixture
def older() -> Iterator[str]:
    """Something that answers everything with a document that has nothing of what is looked for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, name="older")
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    "command", [("hosts",), ("alerts", "--json"), ("gaps",), ("query", "up"), ("rules", "list")]
)
def test_a_collector_of_another_version_is_no_traceback(shell, older, command):
    done = shell(*command, "--url", older)
    assert (done.code, done.out) == (1, "")
    assert "is the collector of another version?" in done.err
