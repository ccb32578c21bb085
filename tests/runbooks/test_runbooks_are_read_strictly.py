"""Every mistake in a runbook is found, all at once, with its line and what would be right."""
# Tables read best with a line for each case.

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchbill_collector.runbooks.expressions import show
from watchbill_collector.runbooks.model import (
    STEPS_MAX,
    Act,
    Call,
    Check,
    Gate,
    Limits,
    Notify,
    OnFail,
    Parallel,
    ParameterKind,
    Runbook,
)
from watchbill_collector.runbooks.reading import FILE_BYTES_MAX, read_runbook

DESIGNED = Path(__file__).parent / "designed"
HEAD = "runbook: r\nparams:\n  h: {type: host}\nsteps:\n"
LOOK = "  - {id: look, do: app.look, on: web1}\n"


def _read(text: str) -> Runbook:
    runbook, problems = read_runbook("r.yaml", text.encode())
    assert runbook is not None, problems
    return runbook


def _problems(text: str | bytes) -> list[str]:
    runbook, problems = read_runbook("r.yaml", text if isinstance(text, bytes) else text.encode())
    assert (runbook is None) == bool(problems)
    return [str(problem) for problem in problems]


def test_the_runbooks_of_the_design_are_read_as_they_are() -> None:
    read = {}
    for path in sorted(DESIGNED.glob("*.yaml")):
        runbook, problems = read_runbook(path.name, path.read_bytes())
        assert problems == []
        assert runbook is not None
        assert runbook.digest == hashlib.sha256(path.read_bytes()).hexdigest()
        read[runbook.name] = runbook
    assert sorted(read) == ["app-restart", "files-restore", "pg-failover"]

    failover = read["pg-failover"]
    assert [step.id for step in failover.walk()] == [
        "look",
        "fit",
        "step-3",
        "seen_s",
        "seen_w",
        "really_down",
        "consent",
        "fence",
        "fenced",
        "proven_off",
        "promote",
        "role",
        "writable",
        "repoint",
        "tell",
    ]
    assert failover.trigger is not None
    assert (failover.trigger.alert, failover.trigger.for_s, failover.trigger.auto) == ("pg_down", 60, False)
    assert failover.trigger.agree_least == 2
    assert [one.text for one in failover.trigger.agree] == ["collector", "{{standby}}", "{{witness}}"]
    assert failover.limits == Limits(hosts=4, cooldown_s=21_600, max_runs=1, max_within_s=86_400, breaker=1)
    assert (failover.rto_s, failover.rpo_s, failover.confirm) == (600, 60, "standby")
    promote, repoint = failover.step("promote"), failover.step("repoint")
    assert promote is not None
    assert promote.commit
    assert repoint is not None
    assert repoint.clock_stop
    assert isinstance(repoint.what, Act)
    assert (repoint.what.on.select, repoint.what.on.wave_share) == ('role="pg-proxy"', 0.5)
    consent = failover.step("consent")
    assert consent is not None
    assert consent.what == Gate(role="dba", count=2)
    assert consent.timeout_s == 900

    restore = read["files-restore"]
    assert restore.on_fail is OnFail.UNDO
    assert restore.drill is not None
    assert restore.drill.clock_stop == "right_bytes"
    assert [act.action for act in restore.drill.cleanup] == ["fs.remove_tree"]
    fits = restore.step("fits")
    assert fits is not None
    assert isinstance(fits.what, Check)
    assert show(fits.what.condition) == "room.out.free > pick.out.bytes * 1.1"

    restart = read["app-restart"]
    assert restart.trigger is not None
    assert restart.trigger.auto
    assert restart.lock is not None
    assert restart.lock.text == "app/{{host}}/{{app}}"
    assert restart.confirm == ""


def test_every_kind_of_step_and_every_key_is_read() -> None:
    runbook = _read(
        """
runbook: all-of-it
about: Everything that can be said
params:
  site: {type: enum, enum: [a, b], default: a, about: Which one}
  n: {type: int, min: -5, max: 10, default: "7"}
  wait: {type: duration, max: 1h, default: 90s}
  tag: {type: string, match: "v[0-9]+", default: v1}
  since: {type: time, default: "2026-03-01T12:00:00+01:00"}
trigger: {schedule: "0 3 * * sun", zone: Europe/Vienna, mode: auto}
limits: {max: 2 per 1h30m}
confirm: site
on_fail: stop
steps:
  - id: look
    do: app.look
    on: [web1, web2]
    timeout: 90s
    retry: {times: 2}
  - do: app.drain
    on: {select: 'role="web",site=~"a|b"', wave: 3, max_failures: 2}
    with: {count: 5, tag: "{{tag}}"}
    when: look.hosts.web1.ok and n > 1
    undo: {do: app.fill, on: web1}
    on_fail: undo
  - check: look.ok
    within: 5m
    hold: 30s
    drill: only
  - {approve: ops, count: 3, self: true}
  - {notify: oncall, text: "{{site}}: {{look.ok}}"}
  - {call: other-book, with: {host: web1}}
  - parallel:
      - {check: look.ok}
      - {id: again, do: app.look, on: web1, clock: stop}
"""
    )
    assert [one.kind for one in runbook.parameters] == [
        ParameterKind.ENUM,
        ParameterKind.INT,
        ParameterKind.DURATION,
        ParameterKind.STRING,
        ParameterKind.TIME,
    ]
    kinds = [type(step.what) for step in runbook.walk()]
    assert kinds == [Act, Act, Check, Gate, Notify, Call, Parallel, Check, Act]
    ids = [step.id for step in runbook.walk()]
    assert ids == ["look", *[f"step-{n}" for n in range(2, 8)], "step-7-1", "again"]
    look, drain, check, gate, *_ = runbook.steps
    assert (look.timeout_s, look.retry_times, look.retry_delay_s) == (90, 2, 5)
    assert isinstance(drain.what, Act)
    assert (drain.what.on.wave_hosts, drain.what.on.max_failures) == (3, 2)
    assert drain.what.arguments["count"].text == "5"
    assert drain.undo is not None
    assert drain.undo.action == "app.fill"
    assert (check.drill, check.on_fail, runbook.on_fail) == ("only", None, OnFail.STOP)
    assert gate.what == Gate(role="ops", count=3, own_vote=True)
    assert runbook.confirm == "site"
    assert runbook.trigger is not None
    assert (runbook.trigger.schedule, runbook.trigger.zone) == ("0 3 * * sun", "Europe/Vienna")


@pytest.mark.parametrize(
    ("step", "line", "says"),
    [
        # Kinds and keys.
        ("- {id: a}", 5, ["a:", "no kind of step", "exactly one of do, check"]),
        ("- {do: x.y, check: 'true', on: w}", 5, ["do and check", "exactly one of"]),
        ("- {do: x.y, on: w, wen: 'true'}", 5, ['"wen"', '"when"?']),
        ("- {check: 'true', on: w}", 5, ['"on" on a check', "it on a do"]),
        ("- {approve: dba, retry: {times: 1}}", 5, ['"retry" on a approve', "it on a do"]),
        ("- {notify: ops, timeout: 5m}", 5, ['"timeout" on a notify']),
        ("- {do: x.y, do: x.z, on: w}", 5, ["the same key again"]),
        ("- text", 5, ['"text"', "a mapping"]),
        ("- {do: x.y}", 5, ["no host", '"on"']),
        ("- {do: X Y, on: w}", 5, ['"X Y"', "the name of an action"]),
        ("- {do: x.y, on: w, commit: maybe}", 5, ["commit", '"maybe"', "one of false, true"]),
        ("- {do: x.y, on: w, drill: ski}", 5, ['"ski"', '"skip"?']),
        ("- {do: x.y, on: w, on_fail: halt}", 5, ["on_fail", '"halt"', "one of hold, undo, stop, continue"]),
        ("- {do: x.y, on: w, clock: start}", 5, ['"start"', "one of stop"]),
        ("- {do: x.y, on: w, id: my-step}", 5, ['"my-step"', "a letter, then letters, digits and _"]),
        ("- {do: x.y, on: w, id: not}", 5, ['"not"', "no word of expressions"]),
        ("- {do: x.y, on: w, id: h}", 5, ["the name of a parameter", "another id"]),
        # Durations, counts, waves.
        ("- {do: x.y, on: w, timeout: 5}", 5, ["timeout", '"5"', 'a duration such as "30s"']),
        ("- {do: x.y, on: w, timeout: 2y}", 5, ['"2y"', "at most 366d"]),
        ("- {do: x.y, on: w, retry: {times: 0}}", 5, ["retry.times", '"0"', "from 1 to 100"]),
        ("- {do: x.y, on: w, retry: {delay: 5s}}", 5, ["no times"]),
        ("- {approve: dba, count: 9}", 5, ["count", '"9"', "from 1 to 8"]),
        ("- {approve: ''}", 5, ["approve", "a role"]),
        ("- {do: x.y, on: {select: 'a=\"b\"', wave: 0%}}", 5, ["wave", '"0%"', '"25%"']),
        ("- {do: x.y, on: {select: 'a=\"b\"', wave: 150%}}", 5, ['"150%"']),
        ("- {do: x.y, on: {select: 'tag:web'}}", 5, ["select", "PromQL matchers"]),
        ("- {do: x.y, on: {select: 'a!=\"b\"'}}", 5, ["at least one that demands something"]),
        ("- {do: x.y, on: {select: 'a=~\"(\"'}}", 5, ["RE2"]),
        ("- {do: x.y, on: {select: 'a=\"{{h}}\"'}}", 5, ["{{...}} in a selector"]),
        ("- {do: x.y, on: {wave: 5%}}", 5, ["no selector"]),
        ("- {do: x.y, on: []}", 5, ["0 hosts"]),
        ("- {do: x.y, on: '../etc'}", 5, ['"../etc"', "the name of a host"]),
        # Expressions and references.
        ("- {check: 'a = 1'}", 5, ["check", "at character 3", '"=="']),
        ("- {check: 'later.ok'}", 5, ['"later"', "a parameter or the id of an earlier step"]),
        ("- {check: 'hh == 1'}", 5, ['"hh"', "h?"]),
        (
            "- {check: 'look.ok'}\n  - {id: look, do: x.y, on: w}",
            5,
            ['"look"', "over by then; look is in line 6"],
        ),
        ("- {id: a, do: x.y, on: '{{a.out}}'}", 5, ['"a"', "over by then"]),
        ("- {id: a, do: x.y, on: w}\n  - {check: a}", 6, ['"a" as a whole', "a.out or a.ok"]),
        ("- {id: a, do: x.y, on: w}\n  - {check: a.output}", 6, ['"a.output"', "a.out or a.ok"]),
        ("- {id: a, approve: dba}\n  - {check: a.out.x}", 6, ['"a.out"', "wanted a.ok"]),
        ("- {id: a, do: x.y, on: w}\n  - {id: a, do: x.y, on: w}", 6, ['"a" again', "than in line 5"]),
        ("- {do: x.y, on: w, with: {a: 'x-{{h}}'}}", 5, ["with.a", "the whole value"]),
        ("- {do: x.y, on: w, with: {A-b: c}}", 5, ["with", '"A-b"', "the name of an argument"]),
        ("- {do: x.y, on: {{h}}}", 5, ["{{...}} without quotes", "quotes around it"]),
        ("- {do: x.y, on: w, with: {a: [1]}}", 5, ["with.a", "a list", "text"]),
        ("- {do: x.y, on: w, undo: {do: x.z, on: w, when: 'true'}}", 5, ["undo", '"when"']),
        ("- {do: x.y, on: w, undo: {on: w}}", 5, ["undo", "no action"]),
        # Groups.
        ("- parallel: []", 5, ["no steps"]),
        ("- parallel: [{parallel: []}]", 5, ["parallel in a parallel group"]),
        ("- parallel: [{approve: dba}]", 5, ["approve in a parallel group", "do, check, notify"]),
        (
            "- parallel: [{id: a, do: x.y, on: w}, {check: a.ok}]",
            5,
            ['"a"', "over by then"],
        ),
    ],
)
def test_a_mistake_in_a_step_is_told_with_its_line(step: str, line: int, says: list[str]) -> None:
    problems = _problems(HEAD + "  " + step + "\n")
    first = problems[0]
    assert first.startswith(f"r.yaml:{line}: ")
    for piece in says:
        assert piece in first


@pytest.mark.parametrize(
    ("top", "says"),
    [
        ("lok: x", ['"lok"', '"lock"?']),
        ("lock: 'a/{{x}}'", ["lock", '"x"', "a parameter"]),
        ("lock: 'a/{{look.ok}}'", ["lock", "over by then"]),
        ("limits: {max: 3 a day}", ["limits.max", '"3 per 1d"']),
        ("limits: {hosts: -1}", ["limits.hosts", '"-1"']),
        ("limits: {hots: 1}", ['"hots"', '"hosts"?']),
        ("trigger: {for: 5m}", ["neither alert nor schedule"]),
        ("trigger: {alert: a, schedule: '* * * * *'}", ["both alert and schedule"]),
        ("trigger: {alert: a, mode: automatic}", ["trigger.mode", "propose or auto"]),
        ("trigger: {alert: a, agree: '3 of [collector, h]'}", ["3 of 2", "1 to 2"]),
        ("trigger: {alert: a, agree: '2 of collector'}", ["agree", "such as"]),
        ("trigger: {alert: a, agree: '1 of [h, h]'}", ["agree", "each once"]),
        ("trigger: {schedule: 'often'}", ["schedule", "a cron line"]),
        ("trigger: {schedule: '* * * * *', zone: Mars/Base}", ["zone", "a time zone"]),
        ("trigger: {alert: a, zone: UTC}", ["zone", "without a schedule"]),
        ("objectives: {rto: soon}", ["objectives.rto", '"soon"']),
        ("drill: {params: {x: 1}}", ["drill.params", '"x"', "h"]),
        ("drill: {params: {h: 'a b'}}", ["drill.params.h", "the name of a host"]),
        ("drill: {params: {h: '{{h}}'}}", ["drill.params.h", "no {{...}}"]),
        ("drill: {clock: {stop: lok}}", ["drill.clock.stop", '"look"?']),
        ("drill: {cleanup: [{do: x.y}]}", ["drill.cleanup[1]", "no host"]),
        ("drill: {cleanup: [{do: x.y, on: '{{nobody}}'}]}", ["drill.cleanup[1].on", '"nobody"']),
        ("confirm: g", ["confirm", '"g"']),
        ("on_fail: retry", ["on_fail", '"retry"']),
    ],
)
def test_a_mistake_at_the_top_is_told(top: str, says: list[str]) -> None:
    text = f"runbook: r\nparams:\n  h: {{type: host}}\n{top}\nsteps:\n" + LOOK
    problems = _problems(text)
    assert problems[0].startswith("r.yaml:4: ")
    for piece in says:
        assert piece in problems[0]


@pytest.mark.parametrize(
    ("parameter", "says"),
    [
        ("{}", ["type", "one of host"]),
        ("{type: hots}", ['"host"?']),
        ("{type: enum}", ["no choices"]),
        ("{type: host, enum: [a]}", ["choices for a host"]),
        ("{type: enum, enum: [a, a]}", ["each once"]),
        ("{type: string, match: '('}", ["match", "RE2"]),
        ("{type: int, match: x}", ["min and max"]),
        ("{type: int, min: one}", ["min", "a whole number"]),
        ("{type: host, max: 5}", ["match for texts"]),
        ("{type: int, default: 5m}", ["default", "a whole number"]),
        ("{type: int, max: 5, default: 6}", ["at most 5"]),
        ("{type: size, default: 5}", ["a size with its unit"]),
        ("{type: size, min: 1KiB, default: 5B}", ["at least 1KiB"]),
        ("{type: duration, default: soon}", ["a duration with its unit"]),
        ("{type: path, default: a/../b}", ['a path without ".."']),
        ("{type: host, default: -rf}", ['no "-" at its beginning']),
        ("{type: host, default: w\u0435b}", ["printable ASCII"]),
        ('{type: string, default: "a\\nb"}', ["printable ASCII"]),
        ("{type: time, default: yesterday}", ['or "now"']),
        ("{type: time, default: '2026-01-01T00:00:00'}", ['or "now"']),
        ("{type: string, default: '{{h}}'}", ["no {{...}}"]),
        ("{type: string, match: v.*, default: w}", ["to match v.*"]),
        ("{type: enum, enum: [a, b], default: c}", ["one of a, b"]),
    ],
)
def test_a_mistake_in_a_parameter_is_told(parameter: str, says: list[str]) -> None:
    problems = _problems(f"runbook: r\nparams:\n  p: {parameter}\nsteps:\n" + LOOK)
    assert problems[0].startswith("r.yaml:3: params.p.")
    for piece in says:
        assert piece in problems[0]


def test_a_mistake_is_told_without_what_a_terminal_would_obey() -> None:
    escape = "\\e[2J\\u202e"
    for text in (
        f'runbook: "{escape}"\nsteps: []\n',
        f'"{escape}": 1\n"{escape}": 2\nrunbook: r\nsteps: []\n',
        f'runbook: r\nsteps: [{{id: "{escape}"}}, {{do: x.y, on: "{escape}", with: {{"{escape}": 1}}}}]\n',
        f'runbook: r\nparams: {{"{escape}": {{type: host}}}}\nsteps: [{{check: "{escape} = \'{escape}"}}]\n',
    ):
        problems = _problems(text)
        assert problems
        assert all(problem.isprintable() for problem in problems)


def test_all_mistakes_are_told_at_once_from_top_to_end() -> None:
    problems = _problems(
        "runbook: R\nabout: x\nlok: a\nsteps:\n  - {id: a}\n  - {check: 'a ='}\n  - {do: x, on: w, hold: 5s}\n"
    )
    assert [problem.split(":")[1] for problem in problems] == ["1", "3", "5", "6", "7"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "an empty file"),
        (b"steps: []\n", "the runbook's name"),
        (b"runbook: r\n", "a list of steps"),
        (b"[]\n", "a mapping"),
        (b"\xff\xfe", "UTF-8"),
        (b"runbook: r\nrunbook: r\nsteps: [{check: 'true'}]\n", "the same key again"),
        (b"runbook: !!python/object:os.system r\n", "YAML without tags"),
        (b"a: " + b"[" * 100 + b"]" * 100, "levels of nesting"),
        (b"runbook: r\nsteps: &s\n  - {parallel: *s}\n", "alias"),
        (b"runbook: r\n---\nrunbook: q\n", "a second document"),
        (b"# " + b"x" * FILE_BYTES_MAX, "at most"),
    ],
)
def test_what_is_no_runbook_is_told(content: bytes, says: str) -> None:
    assert says in _problems(content)[0]


def test_a_yaml_bomb_costs_little() -> None:
    bomb = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
    problems = _problems("a0: &a0 [x]\n" + bomb + "runbook: r\nsteps: *a8\n")
    assert any("more than" in problem or "steps" in problem for problem in problems)


def test_ten_thousand_steps_are_too_many() -> None:
    problems = _problems(HEAD + "  - {check: 'true'}\n" * 10_000)
    assert problems == [
        f"r.yaml:{5 + STEPS_MAX}: steps: got more than {STEPS_MAX} steps, wanted at most {STEPS_MAX}"
    ]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_runbook_is_read_or_told(data: st.DataObject) -> None:
    text = (DESIGNED / "pg-failover.yaml").read_text()
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text = (
            text[:at]
            + data.draw(st.text("{}[]:-'\"&*!\n #ab%5.", max_size=3))
            + text[at + data.draw(st.integers(0, 5)) :]
        )
    runbook, problems = read_runbook("r.yaml", text.encode())
    assert (runbook is None) == bool(problems)
    assert all(str(problem) for problem in problems)
