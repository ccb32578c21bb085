"""A runbook from its file to the host: by the commands an operator types, with two who agree, and whoever dies."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from .house import OURS, PROGRAMS, Daemon, until

pytestmark = pytest.mark.timeout(240)

ACTIONS = """\
[[action]]
name = "app.look"
argv = ["/bin/cat", "/proc/sys/kernel/ostype"]
effect = "read"
[[action]]
name = "app.count"
argv = ["{count}", "{counter}", "{{{{seconds}}}}"]
args.seconds = {{ type = "int", min = 0, max = 60, default = 0 }}
effect = "once"
timeout = "60s"
[[action]]
name = "app.again"
argv = ["{count}", "{counter}", "0"]
effect = "repeat"
[[action]]
name = "app.promote"
argv = ["{count}", "{counter}", "0"]
effect = "once"
needs = {{ approvals = 2, role = "dba" }}
"""
COUNT = """\
#!/bin/sh
echo begun >> "$1"
sleep "$2"
echo ended >> "$1"
"""
PLAIN = """\
runbook: touch
about: Count once
params: {where: {type: host, default: web1}, seconds: {type: int, default: 0}}
lock: "app/{{where}}"
steps:
  - {id: look, do: app.look, on: "{{where}}"}
  - {id: linux, check: 'look.out == "Linux"'}
  - {id: ask, approve: ops, count: 1}
  - {id: count, do: app.count, on: "{{where}}", with: {seconds: "{{seconds}}"}, commit: true}
"""
PROTECTED = """\
runbook: promote
params: {where: {type: host, default: web1}}
steps:
  - {id: consent, approve: dba, count: 2, timeout: 15m}
  - {id: promote, do: app.promote, on: "{{where}}", commit: true}
"""
MENDING = """\
runbook: mend
params: {where: {type: host}}
lock: "app/{{where}}"
limits: {hosts: 1, cooldown: 1h, breaker: 1}
trigger: {alert: AppDown, agree: "2 of [collector, where]", mode: auto}
steps:
  - {id: look, do: app.look, on: "{{where}}"}
  - {id: linux, check: 'look.out == "Linux"'}
  - {id: again, do: app.again, on: "{{where}}"}
"""
RULE = """\
groups:
  - name: app
    interval: 1s
    rules:
      - alert: AppDown
        expr: up{instance="web1"} == 1
"""


class Town:
    """A collector with people, and hosts with runners."""

    def __init__(self, house: Any, collector: Any) -> None:
        self.house, self.collector = house, collector
        self.tokens: dict[str, Path] = {}
        self.counter = house.root / "counter"
        self.count = house.root / "count"
        self.count.write_text(COUNT)
        self.count.chmod(0o755)

    def person(self, name: str, role: str) -> None:
        body = {"name": name, "grants": [{"role": role, "scope": ""}]}
        assert self.collector.ask("POST", f"{OURS}/users", json.dumps(body).encode()).status in (200, 201)
        made = self.collector.ask("POST", f"{OURS}/users/{name}/tokens", b'{"name": "t"}').json
        home = self.house.root / f"home-{name}"
        home.mkdir(mode=0o700)
        self.tokens[name] = home / "token"
        self.tokens[name].write_text(made["token"] + "\n")
        self.tokens[name].chmod(0o600)

    def cli(self, name: str, *arguments: str, given: str = "") -> Any:
        where = {
            "WATCHBILL_URL": self.collector.url,
            "WATCHBILL_TOKEN_FILE": str(self.tokens[name]),
            "HOME": str(self.tokens[name].parent),
        }
        return self.house.run([str(PROGRAMS / "watchbill"), *arguments], given=given, extra=where)

    def host(self, name: str) -> tuple[Any, Daemon]:
        """A host with an agent and a runner, both running."""
        agent = self.house.enrolled(self.collector, name)
        files = agent.etc / "actions.d"
        files.mkdir()
        (files / "app.toml").write_text(ACTIONS.format(count=self.count, counter=self.counter))
        runner = Daemon(self.house, "watchbill-runner", agent.home)
        self.start_runner(runner)
        agent.start()
        self.house.until_up(self.collector, name)
        return agent, runner

    def start_runner(self, runner: Daemon) -> None:
        self.house.start(runner, [str(PROGRAMS / "watchbill-runner"), "--home", str(runner.home)])
        until(lambda: (runner.home / "run" / "runner" / "runner.sock").exists(), "the runner listens")

    def book(self, name: str, text: str) -> None:
        directory = self.collector.etc / "runbooks.d"
        directory.mkdir(exist_ok=True)
        (directory / f"{name}.yaml").write_text(text)
        if self.collector.process is not None:
            self.collector.running.signal(signal.SIGHUP)

    def allows(self, host: str, action: str) -> bool:
        text = f"runbook: x\nsteps:\n  - {{id: a, do: {action}, on: {host}}}\n"
        answer = self.collector.ask("POST", f"{OURS}/runbooks/lint", json.dumps({"text": text}).encode())
        return not any(
            "allow" in one["message"] or "not said" in one["message"] for one in answer.json["findings"]
        )

    def accepted(self, name: str, by: str) -> None:
        until(lambda: self.cli(by, "runbooks", "show", name).code == 0, f"{name} is read")
        done = self.cli(by, "runbooks", "accept", name, "--yes")
        assert done.code == 0, done

    def counted(self) -> list[str]:
        return self.counter.read_text().split() if self.counter.exists() else []


@pytest.fixture
def town(house: Any) -> Town:
    collector = house.collector(launch=False)
    made = Town(house, collector)
    made.book("touch", PLAIN)
    made.book("promote", PROTECTED)
    collector.launch()
    for name, role in (("olga", "operator"), ("anna", "approver"), ("boris", "approver")):
        made.person(name, role)
    return made


def test_a_run_goes_from_its_plan_to_the_host_and_is_done_once(town: Town) -> None:
    town.host("web1")
    until(lambda: town.allows("web1", "app.count"), "web1 says what it allows")
    done = town.cli("olga", "run", "touch", "--reason", "test", "--confirm", "web1")
    assert done.code == 6, done
    assert "accept" in done.err, "nobody has accepted it"
    town.accepted("touch", "anna")
    plan = town.cli("olga", "runbooks", "plan", "touch", "seconds=1", "--json")
    assert plan.code == 0, plan
    argv = {one["step"]: one["argv"] for one in plan.json["steps"]}
    assert argv["count"] == [str(town.count), str(town.counter), "1"]
    assert town.counted() == [], "a plan changes nothing"
    done = town.cli("olga", "run", "touch", "seconds=1", "--reason", "test", "--confirm", "web1", "--json")
    assert done.code in (0, 4), done
    run_id = done.json["id"]
    until(
        lambda: town.cli("olga", "runs", "show", run_id, "--json").json["exit_code"] == 4,
        "it waits for approval",
    )
    assert town.cli("olga", "approve", run_id, "ask", "--login", "--yes").code == 6, (
        "who asked does not agree"
    )
    done = town.cli("anna", "approve", run_id, "ask", "--login", "--yes")
    assert done.code in (0, 4), done
    done = town.cli("olga", "runs", "follow", run_id)
    assert done.code == 0, done
    assert town.counted() == ["begun", "ended"]
    verdict = town.collector.cli("audit", "verify")
    assert verdict.code == 0, verdict


def roster(town: Town, agent: Any, *people: str) -> None:
    """Everybody has a key, the roster is signed by an offline key, and the host has its public half."""
    safe = town.house.root / "safe"
    safe.mkdir(mode=0o700)
    key = safe / "roster.key"
    done = town.cli("olga", "roster", "key", "--roster", str(key))
    assert done.code == 0, done
    (agent.etc / "roster.pub").write_text(done.out)
    (agent.etc / "roster.pub").chmod(0o644)
    lines = ['site = "main"']
    for name in people:
        done = town.cli(name, "roster", "key", "--name", name)
        assert done.code == 0, done
        lines += ["[[person]]", *done.out.splitlines(), 'roles = ["dba"]']
    file = safe / "people.toml"
    file.write_text("\n".join(lines) + "\n")
    done = town.cli("olga", "roster", "sign", str(file), "--key", str(key))
    assert done.code == 0, done
    done = town.collector.cli("roster", "publish", f"{file}.signed")
    assert done.code == 0, done
    until(lambda: town.collector.cli("roster", "behind").code == 0, "the host has the roster")


def disabled(town: Town, name: str) -> Any:
    """Let somebody out on the collector's machine; what is said to be short then."""
    home = str(town.collector.home)
    done = town.house.run(
        [str(PROGRAMS / "watchbill-collector"), "--home", home, "user", "disable", name, "--json"]
    )
    assert done.code == 0, done
    return done.json["leaving"]


def test_what_a_host_protects_runs_when_two_have_signed_for_it(town: Town) -> None:
    agent, _ = town.host("web1")
    until(lambda: town.allows("web1", "app.promote"), "web1 says what it allows")
    town.person("carla", "approver")
    roster(town, agent, "olga", "anna", "boris", "carla")
    town.accepted("promote", "anna")
    done = town.cli("olga", "run", "promote", "--reason", "test", "--confirm", "web1", "--json")
    assert done.code == 4, done
    run_id = done.json["id"]
    assert town.cli("carla", "approve", run_id, "consent", "--yes").code in (0, 4)
    leaving = disabled(town, "carla")
    assert leaving["runs"] == [run_id], "what she has signed is void"
    assert [(one["host"], one["left"], one["short"]) for one in leaving["hosts"]] == [("web1", 3, False)]
    assert (
        "carla is disabled on the collector and still on the roster" in town.cli("olga", "roster", "show").out
    )
    assert town.cli("anna", "approve", run_id, "consent", "--yes").code in (0, 4)
    done = town.cli("anna", "approve", run_id, "consent", "--yes")
    assert "1 of 2 of dba" in done.out, "one person is one vote"
    assert town.cli("olga", "runs", "show", run_id, "--json").json["state"] == "waiting"
    assert town.counted() == []
    done = town.cli("boris", "approve", run_id, "consent", "--yes")
    assert done.code == 0, done
    assert town.cli("olga", "runs", "follow", run_id).code == 0
    assert town.counted() == ["begun", "ended"]


def test_whoever_is_killed_meanwhile_it_ends_the_same_and_once(town: Town) -> None:
    agent, runner = town.host("web1")
    until(lambda: town.allows("web1", "app.count"), "web1 says what it allows")
    town.accepted("touch", "anna")
    done = town.cli("olga", "run", "touch", "seconds=8", "--reason", "test", "--confirm", "web1", "--json")
    run_id = done.json["id"]
    assert town.cli("anna", "approve", run_id, "ask", "--login", "--yes").code in (0, 4)
    until(lambda: town.counted() == ["begun"], "it has begun")
    town.collector.kill()
    agent.kill()
    # The runner alone: what it started is not of its group, and has to live on.
    os.kill(runner.running.pid, signal.SIGKILL)
    time.sleep(0.5)
    town.start_runner(runner)
    agent.start()
    town.collector.launch()
    done = town.cli("olga", "runs", "follow", run_id)
    assert done.code == 0, done
    assert town.counted() == ["begun", "ended"]
    assert town.collector.cli("audit", "verify").code == 0


def test_an_alert_starts_its_runbook_once_when_the_host_agrees(town: Town) -> None:
    town.book("mend", MENDING)
    town.host("web1")
    until(lambda: town.allows("web1", "app.again"), "web1 says what it allows")
    town.accepted("mend", "anna")
    rules = town.collector.etc / "rules.d"
    rules.mkdir(exist_ok=True)
    (rules / "app.yml").write_text(RULE)
    town.collector.running.signal(signal.SIGHUP)

    def runs() -> list[dict[str, Any]]:
        return town.cli("olga", "runs", "--json").json["runs"]  # type: ignore[no-any-return]

    until(lambda: [one["state"] for one in runs()] == ["succeeded"], "the alert has started it")
    (run,) = runs()
    assert (run["requester"], run["parameters"]) == ("", {"where": "web1"})
    assert run["trigger"].startswith("alert AppDown ")
    assert "AppDown fires for web1; collector agrees; web1 agrees" in run["reason"]
    assert town.counted() == ["begun", "ended"]
    # Another collector of the same state sees that it was done.
    town.collector.kill()
    town.collector.launch()
    question = (
        f"{OURS.replace('watchbill/', '')}/query?query=watchbill_runbook_accepted%7Brunbook%3D%22mend%22%7D"
    )
    until(
        lambda: (
            [one["value"][1] for one in town.collector.ask("GET", question).json["data"]["result"]] == ["1"]
        ),
        "it is said how runbooks stand",
    )
    assert len(runs()) == 1
    assert town.counted() == ["begun", "ended"]
