"""What would fail in the night is found when the runbook is written: every finding with its line."""
# Tables read best with a line for each case.

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from watchbill.actions.definition import Action, Argument, Effect, Kind
from watchbill_collector.daemon import main
from watchbill_collector.runbooks.findings import FINDINGS_MAX
from watchbill_collector.runbooks.fleet import Fleet, KnownHost
from watchbill_collector.runbooks.lint import Around, judge_text, lint
from watchbill_collector.runbooks.model import Runbook
from watchbill_collector.runbooks.reading import read_runbook

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "runbooks"
DESIGNED = Path(__file__).parent / "designed"
GATE = "- {id: agreed, approve: dba, count: 2}"
FENCE = "do: fence.off, on: mgmt1, undo: {do: fence.on, on: mgmt1, with: {node: db1}}"


def _text(steps: str, top: str = "") -> str:
    body = "\n".join("  " + line for line in steps.split("\n"))
    return f"runbook: r\nparams: {{h: {{type: host, default: web1}}, other: {{type: host}}}}\n{top}\nsteps:\n{body}\n"


def _found(steps: str, around: Around, top: str = "") -> list[str]:
    runbook, findings = judge_text("r.yaml", _text(steps, top).encode(), around)
    assert runbook is not None, findings
    return [str(one) for one in findings]


def test_the_shipped_runbooks_are_clean_with_the_hosts_they_are_for(
    examples: dict[str, Runbook], fleet: Fleet
) -> None:
    examples = {name: examples[name] for name in ("app-restart", "files-restore", "pg-failover")}
    around = Around(
        fleet=fleet,
        books=examples,
        alerts={"pg_down", "app_unhealthy"},
        backups={"files-nightly"},
        channels={"oncall"},
        roles={"dba", "ops"},
    )
    for runbook in examples.values():
        assert lint(runbook, around) == []


def test_the_failover_as_designed_would_turn_real_proxies_in_a_drill(fleet: Fleet) -> None:
    path = DESIGNED / "pg-failover.yaml"
    _, findings = judge_text("pg-failover.yaml", path.read_bytes(), Around(fleet=fleet))
    (finding,) = findings
    place = "pg-failover.yaml:54: warning: repoint.on: in a drill: "
    assert str(finding) == place + 'a drill would change every host of {role="pg-proxy"}; wanted drill: skip'


@pytest.mark.parametrize(
    ("steps", "line", "says"),
    [
        # Hosts and actions.
        ("- {do: app.lok, on: web1}", 5, ["error: step-1.do", "web1 does not allow app.lok; app.look?"]),
        ("- {do: app.look, on: wbe1}", 5, ["error", "there is no host 'wbe1'; web1?"]),
        ("- {do: app.look, on: new1}", 5, ["error", "new1 has not said"]),
        ("- {do: app.lok, on: '{{other}}'}", 5, ["error", "no host allows app.lok; app.look?"]),
        (
            "- {do: svc.restart, on: '{{other}}', undo: {do: app.look, on: web1}}",
            5,
            ["svc.restart needs unit"],
        ),
        ("- {do: app.look, on: '{{other}}', with: {x: a}}", 5, ["app.look has no argument x"]),
        ("- {do: app.look, on: web1, with: {x: a}}", 5, ["x: app.look has no such argument"]),
        ("- {do: svc.restart, on: web1, with: {unit: '-rf'}}", 5, ['no "-" at its beginning']),
        ("- {do: svc.restart, on: web1, with: {unit: a/../b}}", 5, ["unit: got", "wanted letters"]),
        ("- {do: app.look, on: {select: 'role=\"none\"'}}", 5, ["warning: step-1.on", "takes in no host"]),
        ("- {do: app.look, on: {select: 'role=~\".+\"'}}", 5, ["error", "does not allow app.look"]),
        # Effects.
        (
            "- {do: app.drain, on: web1, undo: {do: app.look, on: web1}}",
            5,
            ["error", "wanted a probe or a gate"],
        ),
        (f"{GATE}\n- {{do: app.drain, on: web1}}", 6, ["warning: step-2", "wanted undo or commit"]),
        (
            f"{GATE}\n- {{do: app.drain, on: web1, on_fail: undo}}",
            6,
            ["error: step-2", "wanted undo or commit"],
        ),
        (
            "- {do: app.size, on: web1, with: {bytes: 1B}, on_fail: undo}",
            5,
            ["error", "wanted undo or commit"],
        ),
        ("- {do: app.look, on: web1, undo: {do: app.look, on: web1}}", 5, ["warning", "only looks"]),
        # Protected actions.
        ("- {do: pg.promote, on: db2}", 5, ["error: step-1.do", "approve: dba with count: 2 before it"]),
        ("- {approve: dba}\n- {do: pg.promote, on: db2}", 6, ["count: 2 before it"]),
        ("- {approve: ops, count: 2}\n- {do: pg.promote, on: db2}", 6, ["approve: dba"]),
        ("- {approve: dba, count: 2, self: true}\n- {do: pg.promote, on: db2}", 6, ["approve: dba"]),
        (f"- {{do: pg.promote, on: db2}}\n{GATE}", 5, ["before it"]),
        (
            f"{GATE}\n- {{id: a, do: pg.role, on: db2}}\n- {{{FENCE}, with: {{node: '{{{{a.out.x}}}}'}}}}",
            7,
            ["error: step-3.with.node", "a is not known yet at the gate agreed"],
        ),
        (
            f"{GATE}\n- {{{FENCE}, with: {{node: '{{{{host(h).name}}}}'}}}}",
            6,
            ["warning: step-2.with.node", "host says may change between"],
        ),
        # Outputs.
        (
            "- {id: a, do: app.diagnose, on: web1, with: {app: x}}\n- {check: a.out.up}",
            6,
            ["error: step-2.check", "a prints text, which has no parts"],
        ),
        ("- {id: a, do: app.look, on: [web1, web2]}\n- {check: a.out.up}", 6, ["wanted a.hosts[NAME].out"]),
        (
            "- {id: a, do: app.look, on: {select: 'role=\"web\"'}}\n- {check: a.rc == 0}",
            6,
            ["a.hosts[NAME].rc"],
        ),
    ],
)
def test_what_hosts_would_refuse_or_nobody_could_undo_is_found(
    steps: str, line: int, says: list[str], fleet: Fleet
) -> None:
    found = _found(steps, Around(fleet=fleet))
    assert found, "nothing was found"
    first = next((one for one in found if all(piece in one for piece in says)), "")
    assert first.startswith(f"r.yaml:{line}: "), found


@pytest.mark.parametrize(
    ("steps", "top", "says"),
    [
        (
            "- {do: x.y, on: web1}",
            "trigger: {alert: a, mode: auto}",
            ["auto needs limits", "hosts, cooldown or max, breaker"],
        ),
        (
            "- {do: x.y, on: web1}",
            "trigger: {alert: a, mode: auto}\nlimits: {hosts: 1, cooldown: 5m}",
            ["auto needs limits; wanted limits with breaker"],
        ),
        ("- {do: x.y, on: web1}", "trigger: {schedule: '0 3 * * *'}", ["nobody gives other"]),
        ("- {do: x.y, on: '{{h}}', commit: true}", "", ["warning", "there is no drill"]),
        ("- {do: x.y, on: '{{h}}', commit: true}", "drill: {every: 7d}", ["error", "commit on {{h}}"]),
        ("- {do: x.y, on: web1, commit: true}", "drill: {params: {h: web2}}", ["error", "commit on web1"]),
        (
            "- {do: x.y, on: '{{h}}', commit: true}",
            "drill: {params: {h: web1}}",
            ["error", "commit on {{h}}"],
        ),
        (
            "- {do: x.y, on: {select: 'a=\"b\"'}, commit: true}",
            "drill: {every: 7d}",
            ["error", 'commit on {a="b"}'],
        ),
        ("- {do: x.y, on: web1, commit: true, undo: {do: x.z, on: web1}}", "", ["warning", "commit or undo"]),
        ("- {id: a, check: 'true', drill: skip}", "drill: {clock: {stop: a}}", ["a is left out in drills"]),
        (
            "- {id: a, do: x.y, on: web1, drill: skip}\n- {check: a.ok}",
            "drill: {every: 7d}",
            ["left out in a drill"],
        ),
        ("- {id: a, do: x.y, on: web1, drill: only}\n- {check: a.ok}", "", ["left out but in drills"]),
        ("- {call: r}", "", ["a runbook calls itself"]),
    ],
)
def test_what_the_file_alone_tells_is_found_without_a_collector(
    steps: str, top: str, says: list[str]
) -> None:
    found = _found(steps, Around(), top)
    assert any(all(piece in one for piece in says) for one in found), found


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ("- {call: nobody}", "there is no runbook nobody"),
        ("- {call: deep}", "deep calls another"),
        ("- {call: child, with: {n: '1', x: a}}", "child has no parameter x"),
        ("- {call: child, with: {n: soon}}", "wanted a whole number"),
        ("- {call: child}", "child needs n"),
        ("- {notify: nowhere}", "there is no channel nowhere"),
        ("- {check: 'backup(\"lost\").age < 1d'}", "there is no backup lost"),
        ("- {check: 'not alert(\"lost\", h)'}", "there is no alert lost"),
        ("- {approve: nurse}", "nobody on the roster has the role nurse"),
    ],
)
def test_what_is_not_there_is_found_when_it_is_known(steps: str, says: str) -> None:
    books = {}
    for text in (
        "runbook: child\nparams: {n: {type: int}}\nsteps: [{check: 'true'}]",
        "runbook: deep\nsteps: [{call: child}]",
    ):
        book, problems = read_runbook("b.yaml", text.encode())
        assert book is not None, problems
        books[book.name] = book
    around = Around(books=books, alerts={"a"}, backups={"b"}, channels={"ops"}, roles={"dba"})
    (found,) = _found(steps, around)
    assert says in found
    assert _found(steps, Around()) == []


@pytest.mark.parametrize(
    ("check", "says"),
    [
        ('host(h).app["shop"].healthy', ""),
        ('host("db1").app.post.state == "down"', ""),
        ('host(other).app["post"].healthy', ""),
        ("host(other).app[other].healthy", ""),
        ('host("nobody").app["sohp"].healthy', ""),
        ('host(h).app["sohp"].healthy', "web1 has told of no application sohp; shop?"),
        ('not host(h).app["post"].healthy', "web1 has told of no application post"),
        ('host(other).app["pots"].healthy', "no host has an application pots; post?"),
        ('host(h).app["shop"].helthy', "nobody says helthy of an application; wanted healthy or state"),
    ],
)
def test_an_application_that_no_host_has_told_of_is_odd(check: str, says: str) -> None:
    apps = {"web1": frozenset({"shop"}), "db1": frozenset({"post"})}
    found = _found(f"- check: '{check}'", Around(apps=apps))
    assert [one.split(": ", 3)[-1] for one in found] == ([says] if says else [])
    assert all(": warning: " in one for one in found)
    assert _found(f"- check: '{check}'", Around()) == []


def _fleet(**actions: Mapping[str, Action]) -> Fleet:
    return Fleet(
        {
            name: KnownHost(name=name, agent=name, labels={"a": "b"}, actions=one)
            for name, one in actions.items()
        }
    )


def _action(name: str, **more: Any) -> Action:
    return Action(**{"name": name, "argv": ("/bin/true",), "effect": Effect.READ, **more})


def test_an_action_that_differs_between_hosts_and_a_selector_of_all_are_odd() -> None:
    fleet = _fleet(w={"x.y": _action("x.y")}, v={"x.y": _action("x.y", timeout_s=5)})
    found = _found("- {do: x.y, on: {select: 'a=\"b\"'}}", Around(fleet=fleet))
    assert len(found) == 2
    assert any("takes in all 2 hosts" in one for one in found)
    assert any("x.y is 2 different actions on 2 hosts" in one for one in found)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"probe": "x.p", "done_when": "out ="}, "done_when of x.y: 1:5"),
        ({"probe": "x.p", "done_when": "output.ok"}, "says output; wanted out"),
        ({"probe": "x.p"}, "has probe and no done_when"),
        ({"done_when": "out.ok"}, "has done_when and no probe"),
        ({"probe": "x.q", "done_when": "out.ok"}, "w does not allow x.q, the probe of x.y"),
        ({"probe": "x.w", "done_when": "out.ok"}, "has as no read action x.w"),
    ],
)
def test_a_probe_has_to_be_one(more: dict[str, str], says: str) -> None:
    once = _action("x.y", effect=Effect.ONCE, **more)
    actions = {"x.y": once, "x.p": _action("x.p"), "x.w": _action("x.w", effect=Effect.REPEAT)}
    found = _found(f"{GATE}\n- {{do: x.y, on: w, undo: {{do: x.p, on: w}}}}", Around(fleet=_fleet(w=actions)))
    assert any(says in one and "error" in one for one in found), found


def test_a_time_that_is_now_by_default_is_judged_as_a_time() -> None:
    """What the default says is a word, and no action takes that."""
    at = Argument(name="at", kind=Kind.STRING, match=r"\d{4}-\d\d-\d\dT[0-9:]{8}Z")
    fleet = _fleet(web1={"x.y": _action("x.y", argv=("/bin/true", "{{at}}"), arguments=(at,))})
    text = _text("- {do: x.y, on: '{{h}}', with: {at: '{{t}}'}}").replace(
        "other: {type: host}", "other: {type: host}, t: {type: time, default: now}"
    )
    _, findings = judge_text("r.yaml", text.encode(), Around(fleet=fleet))
    assert [str(one) for one in findings if "x.y" in str(one) or "got" in str(one)] == []
    wrong = text.replace("default: now", "default: '2026-01-01T00:00:00Z'").replace("{{t}}", "{{h}}")
    _, findings = judge_text("r.yaml", wrong.encode(), Around(fleet=fleet))
    assert any("at" in str(one) for one in findings), "else it proves nothing"


def test_more_changed_hosts_than_the_limit_are_found(fleet: Fleet) -> None:
    steps = "- {do: app.size, on: {select: 'role=\"web\"'}, with: {bytes: 1B}}"
    found = _found(steps, Around(fleet=fleet), "limits: {hosts: 2}")
    assert found == ["r.yaml: error: limits.hosts: changes 3 hosts, its limit is 2"]


def test_a_finding_holds_nothing_that_a_terminal_would_obey(fleet: Fleet) -> None:
    steps = '- {do: app.look, on: {select: "role=\\"\\e[2J\\""}}'
    (found,) = _found(steps, Around(fleet=fleet))
    assert "takes in no host" in found
    assert found.isprintable()


def test_findings_are_bounded() -> None:
    steps = "\n".join(['- {check: \'alert("x", h) or alert("y", h)\'}'] * 150)
    found = _found(steps, Around(alerts=()))
    assert len(found) == FINDINGS_MAX + 1
    assert "100 more findings" in found[-1]


# The command.


def test_the_command_judges_files_offline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shipped = sorted(EXAMPLES.glob("*.yaml"))
    assert main(["runbooks", "lint", *map(str, shipped)]) == 0
    assert capsys.readouterr().out.count(": ok, ") == len(shipped) > 2
    odd = tmp_path / "odd.yaml"
    odd.write_text(_text("- {do: x.y, on: web1}", "trigger: {alert: a, mode: auto}"))
    assert main(["runbooks", "lint", str(odd)]) == 1
    assert capsys.readouterr().out.startswith(f"{odd}:3: error: trigger.mode: mode: auto needs limits")
    bad = tmp_path / "bad.yaml"
    bad.write_text("runbook: r\nsteps: []\n")
    assert main(["runbooks", "lint", str(odd), str(bad)]) == 2
    assert f"{bad}:2: error: steps: got no steps, wanted a list of steps" in capsys.readouterr().out


def test_the_command_answers_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lost = tmp_path / "lost.yaml"
    example = EXAMPLES / "app-restart.yaml"
    assert main(["runbooks", "lint", "--json", str(example), str(lost)]) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert [one["runbook"] for one in told["files"]] == ["app-restart", None]
    assert told["files"][0]["findings"] == []
    (finding,) = told["files"][1]["findings"]
    assert finding["severity"] == "error"
    assert finding["file"] == str(lost)
