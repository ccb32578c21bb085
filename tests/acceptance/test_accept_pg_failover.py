"""The shipped failover between two real PostgreSQL clusters: two sign, the old primary is cut off, the other writes."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from .house import PROGRAMS, Daemon, until
from .postgres_pair import BIN, EXAMPLES, Pair, pair
from .test_accept_runbooks import Town

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(not (BIN / "postgres").exists(), reason="PostgreSQL 15 is not installed"),
]

MORE = """\
[[channel]]
name = "oncall"
kind = "exec"
argv = ["/bin/true"]
"""
RULES = """\
groups:
  - name: pg
    rules:
      - {alert: pg_down, expr: "pg_up == 0", labels: {severity: critical}}
"""
BOOKS = ("pg-failover", "pg-rejoin", "patch-waves")
HOSTS = {"db1": {}, "db2": {}, "mgmt1": {"role": "pg-proxy"}}
MOVED = {
    "drill-db1": "db2",
    "drill-db2": "db1",
    "drill-mgmt": "mgmt1",
    "default: app1": "default: mgmt1",
    "default: web1": "default: mgmt1",
    'role="web"': 'instance=~"db.*"',
    "hold: 5m": "hold: 1s",
    "wave: 25%": "wave: 1",
}
"""What a site changes in the shipped file: its hosts. A rehearsal here goes the other way round."""


class Site(Town):
    """A town with two clusters."""

    def __init__(self, house: Any, collector: Any, clusters: Pair) -> None:
        super().__init__(house, collector)
        self.clusters = clusters
        self.key = house.root / "roster.key"

    def move_in(self) -> None:
        done = self.cli("olga", "roster", "key", "--roster", str(self.key))
        assert done.code == 0, done.out + done.err
        runners = []
        for name, labels in HOSTS.items():
            agent = self.house.home(name)
            token = self.collector.issue(name, labels=labels)["token"]
            assert agent.command("enroll", "--token-file", "-", given=token).code == 0
            (agent.etc / "actions.d").mkdir()
            (agent.etc / "actions.d" / "postgresql.toml").write_text(self.clusters.actions(name))
            (agent.etc / "actions.d" / "patch.toml").write_text(self.patching(name))
            (agent.etc / "roster.pub").write_text(done.out)
            (agent.etc / "roster.pub").chmod(0o644)
            runners.append(Daemon(self.house, "watchbill-runner", agent.home))
            self.house.start(runners[-1], [str(PROGRAMS / "watchbill-runner"), "--home", str(agent.home)])
            agent.start()
        for name in HOSTS:
            self.house.until_up(self.collector, name)
            until(lambda name=name: self.allows(name, "pg.promote"), f"{name} says what it allows")
        self.sign_roster("olga", "anna", "boris")

    def patching(self, name: str) -> str:
        """The shipped action, with a script in the place of what would update this machine."""
        script = self.clusters.place / f"patch-{name}"
        log = self.clusters.place / "patched"
        # With an argument it is asked for a plan.
        script.write_text(
            f"#!/bin/sh\n[ $# = 0 ] || exit 0\necho {name} begins >> {log}\nsleep 0.5\necho {name} ends >> {log}\n"
        )
        script.chmod(0o755)
        text = (EXAMPLES / "actions" / "patch.toml").read_text()
        return text.replace("/usr/bin/unattended-upgrade", str(script))

    def sign_roster(self, *people: str) -> None:
        lines = ['site = "main"']
        for name in people:
            done = self.cli(name, "roster", "key", "--name", name)
            assert done.code == 0, done.out + done.err
            lines += ["[[person]]", *done.out.splitlines(), 'roles = ["dba", "ops"]']
        file = self.house.root / "people.toml"
        file.write_text("\n".join(lines) + "\n")
        assert self.cli("olga", "roster", "sign", str(file), "--key", str(self.key)).code == 0
        assert self.collector.cli("roster", "publish", f"{file}.signed").code == 0
        until(lambda: self.collector.cli("roster", "behind").code == 0, "the hosts have the roster")

    def run_of(self, name: str, target: str = "") -> tuple[int, str]:
        typed = ["--confirm", target] if target else []
        done = self.cli("olga", "run", name, "--reason", "test", *typed, "--json")
        assert done.out, done
        return done.code, done.json["id"]

    def shown(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.cli("olga", "runs", "show", run_id, "--json").json
        return found


def moved(name: str) -> str:
    text = (EXAMPLES / "runbooks" / f"{name}.yaml").read_text()
    for old, new in MOVED.items():
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def site(shared_house: Any) -> Iterator[Site]:
    with pair() as clusters:
        collector = shared_house.collector(MORE, launch=False)
        (collector.etc / "rules.d" / "pg.yml").write_text(RULES)
        made = Site(shared_house, collector, clusters)
        for name in BOOKS:
            made.book(name, moved(name))
        collector.launch()
        for name, role in (("olga", "operator"), ("anna", "approver"), ("boris", "approver")):
            made.person(name, role)
        made.move_in()
        for name in BOOKS:
            made.accepted(name, "anna")
        yield made


def test_the_shipped_failover_is_sound_and_its_plan_changes_nothing(site: Site) -> None:
    done = site.cli("olga", "runbooks", "lint", "pg-failover")
    assert done.code == 0, done.out + done.err
    done = site.cli("olga", "runbooks", "plan", "pg-failover", "--json")
    assert done.code in (0, 1), done
    argv = [(one["step"], one["host"], one["argv"][2:]) for one in done.json["steps"]]
    assert ("fence", "mgmt1", ["off", "db1"]) in argv
    assert ("promote", "db2", ["promote"]) in argv
    assert site.clusters.sql("db2", "SELECT pg_is_in_recovery()") == "t"
    assert site.clusters.alive("db1")


def test_updates_go_to_one_host_and_after_a_persons_word_to_the_others_wave_by_wave(site: Site) -> None:
    log = site.clusters.place / "patched"
    _, run_id = site.run_of("patch-waves", "mgmt1")
    until(
        lambda: site.shown(run_id)["state"] == "waiting" and "go waits" in str(site.shown(run_id)), "the gate"
    )
    assert log.read_text().splitlines() == ["mgmt1 begins", "mgmt1 ends"]
    assert site.cli("anna", "approve", run_id, "go", "--login", "--yes").code in (0, 4)
    done = site.cli("olga", "runs", "follow", run_id)
    assert done.code == 0, done.out + done.err
    waves = log.read_text().splitlines()[2:]
    assert sorted(waves) == ["db1 begins", "db1 ends", "db2 begins", "db2 ends"]
    assert [one.split()[1] for one in waves] == ["begins", "ends", "begins", "ends"], "one after the other"


def test_nothing_is_fenced_or_promoted_while_the_primary_lives_though_two_have_signed(site: Site) -> None:
    clusters = site.clusters
    done = site.cli("olga", "run", "pg-failover", "--reason", "test", "--confirm", "db2")
    assert (done.code, "really_down" in done.err) == (6, True), done
    clusters.kill("db1")
    code, run_id = site.run_of("pg-failover", "db2")
    assert code == 4
    # It comes back while people think about it: what they were asked is not so any more.
    clusters.start("db1")
    for name in ("anna", "boris"):
        assert site.cli(name, "approve", run_id, "consent", "--yes").code in (0, 3, 4)
    done = site.cli("olga", "runs", "follow", run_id)
    assert done.code == 3, done
    shown = site.shown(run_id)
    assert "does not hold any more" in json.dumps(shown), shown
    assert clusters.alive("db1")
    assert not list((clusters.place / "marks").iterdir())
    assert clusters.sql("db2", "SELECT pg_is_in_recovery()") == "t"
    assert site.cli("olga", "runs", "abort", run_id, "--reason", "it lives").code in (0, 1)


def test_two_sign_and_the_old_primary_is_cut_off_before_the_standby_writes(site: Site) -> None:
    clusters = site.clusters
    clusters.sql("db1", "CREATE TABLE kept AS SELECT 42 AS it")
    until(lambda: clusters.sql("db2", "SELECT to_regclass('kept')") == "kept", "the standby has it")
    clusters.kill("db1")
    code, run_id = site.run_of("pg-failover", "db2")
    assert code == 4
    assert "1 of 2 of dba" in site.cli("anna", "approve", run_id, "consent", "--yes").out
    assert site.shown(run_id)["state"] == "waiting"
    assert not list((clusters.place / "marks").iterdir()), "one of two"
    done = site.cli("boris", "approve", run_id, "consent", "--yes")
    assert done.code in (0, 4), done
    done = site.cli("olga", "runs", "follow", run_id)
    assert done.code == 0, done.out + done.err
    clusters.sql("db2", "INSERT INTO kept VALUES (43)")
    assert clusters.sql("db2", "SELECT sum(it) FROM kept") == "85"
    assert json.loads((clusters.place / "marks" / "db1").read_text())["run"] == run_id
    assert "db2" in (clusters.place / "primary.ini").read_text()
    _refused_then_rejoined(site, run_id)


def _refused_then_rejoined(site: Site, failover: str) -> None:
    clusters = site.clusters
    start = "runbook: pg-start\nsteps:\n  - {id: start, do: pg.start, on: db1, on_fail: stop, commit: true}\n"
    site.book("pg-start", start)
    site.accepted("pg-start", "anna")
    _, run_id = site.run_of("pg-start")
    assert site.cli("olga", "runs", "follow", run_id).code == 1
    assert f"fenced in run {failover}" in json.dumps(site.shown(run_id))
    assert not clusters.alive("db1")
    _, run_id = site.run_of("pg-rejoin", "db1")
    done = site.cli("olga", "runs", "follow", run_id)
    assert done.code == 0, done.out + done.err
    assert clusters.sql("db1", "SELECT pg_is_in_recovery()") == "t"
    until(
        lambda: clusters.sql("db1", "SELECT sum(it) FROM kept") == "85", "it has what was written meanwhile"
    )
