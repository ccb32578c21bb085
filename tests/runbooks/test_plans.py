"""A plan shows every step on every host with its exact argv, and what stands in the way; nothing is guessed."""

from datetime import UTC, datetime

import pytest

from watchbill.actions.definition import Value as ArgumentValue
from watchbill_collector.runbooks.expression import UNKNOWN, Known
from watchbill_collector.runbooks.fleet import Fleet
from watchbill_collector.runbooks.model import Act, Call, Runbook, Target
from watchbill_collector.runbooks.outputs import HostResult, step_value
from watchbill_collector.runbooks.parameters import judge_parameters
from watchbill_collector.runbooks.planning import Planned, plan
from watchbill_collector.runbooks.reading import read_runbook
from watchbill_collector.runbooks.resolving import call_parameters, protected_effects, resolve, waves

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def _book(steps: str, *, top: str = "", name: str = "r") -> Runbook:
    parameters = "{h: {type: host, default: web1}, n: {type: int, default: '5'}}"
    text = f"runbook: {name}\n{top}\nparams: {parameters}\nsteps:\n{steps}"
    runbook, problems = read_runbook("r.yaml", text.encode())
    assert runbook is not None, problems
    return runbook


def _plan(book: Runbook, fleet: Fleet, *, drill: bool = False, **seen: Known) -> Planned:
    return plan(book, judge_parameters(book, {}, NOW, drill=drill), fleet, drill=drill, seen=seen)


def _on(host: str, out: Known, *, ok: bool = True) -> Known:
    return step_value({host: HostResult(out=out, ok=ok)})


LOOKED: dict[str, Known] = {
    "look": _on("db2", {"role": "standby", "unreplayed": 10, "rewindable": True}),
    "seen_s": _on("db2", {"up": False}),
    "seen_w": _on("app1", {"up": False}),
}


def test_the_failover_is_planned_with_exact_argv_and_who_has_to_agree(
    examples: dict[str, Runbook], fleet: Fleet
) -> None:
    found = _plan(examples["pg-failover"], fleet)
    assert found.problems == ()
    assert found.lock == "pg/db1"
    assert found.hosts == ("db2", "mgmt1", "proxy1", "proxy2")
    rows = {(row.step, row.kind, row.host): row for row in found.rows}
    fence = rows["fence", "do", "mgmt1"]
    assert fence.argv == ("/usr/lib/actions/fence.off", "db1")
    assert (fence.effect, fence.approvals, fence.role, fence.agent) == ("once", 2, "dba", "agent-mgmt1")
    assert rows["fence", "undo", "mgmt1"].argv == ("/usr/lib/actions/fence.on", "db1")
    assert rows["promote", "do", "db2"].commit
    assert [row.host for row in found.rows if row.step == "repoint"] == ["proxy1", "proxy2"]
    # Only what stands before the first effect is looked at.
    assert [(row.step, row.host) for row in found.looks] == [
        ("look", "db2"),
        ("seen_s", "db2"),
        ("seen_w", "app1"),
    ]
    assert rows["fit", "check", ""].verdict == "unknown"
    assert rows["writable", "check", ""].verdict == ""
    covered = [(one.step, one.host, one.action) for one in found.covered["consent"]]
    assert covered == [
        ("fence", "mgmt1", "fence.off"),
        ("fence", "mgmt1", "fence.on"),
        ("promote", "db2", "pg.promote"),
    ]


def test_what_was_looked_at_decides_the_checks_before_the_first_effect(
    examples: dict[str, Runbook], fleet: Fleet
) -> None:
    book = examples["pg-failover"]
    good = _plan(book, fleet, **LOOKED)
    verdicts = {row.step: row.verdict for row in good.rows if row.kind == "check"}
    assert verdicts == {"fit": "ok", "really_down": "ok", "proven_off": "", "writable": ""}
    assert good.problems == ()
    alive = _plan(book, fleet, **LOOKED | {"seen_w": _on("app1", {"up": True})})
    assert alive.problems == ("really_down: not seen_s.out.up and not seen_w.out.up is false",)
    failed = _plan(book, fleet, **LOOKED | {"look": _on("db2", None, ok=False)})
    assert "look: pg.status fails on db2" in failed.problems
    assert {row.step: row.verdict for row in failed.rows}["fit"] == "unknown"


def test_a_drill_is_planned_with_its_own_hosts_steps_and_cleanup(
    examples: dict[str, Runbook], fleet: Fleet
) -> None:
    found = _plan(examples["pg-failover"], fleet, drill=True)
    assert found.problems == ()
    assert found.hosts == ("drill-db2", "drill-mgmt")
    assert "repoint" not in {row.step for row in found.rows}
    cleanup = found.rows[-1]
    assert (cleanup.step, cleanup.kind, cleanup.host) == ("cleanup-1", "cleanup", "drill-db1")


def test_values_that_are_not_known_yet_are_shown_in_their_places(
    examples: dict[str, Runbook], fleet: Fleet
) -> None:
    book = examples["files-restore"]
    found = _plan(book, fleet)
    rows = {(row.step, row.kind): row for row in found.rows}
    restore = rows["restore", "do"]
    assert restore.argv == ("/usr/lib/actions/restic.restore", "{{pick.out.id}}", "/srv/restore/files")
    assert restore.arguments is None
    assert found.problems == ()
    assert rows["pick", "do"].arguments == {"job": "files-nightly", "before": "2026-03-01T12:00:00Z"}
    known = _plan(book, fleet, pick=_on("spare1", {"id": "abcdef0123", "age": 1, "verified_age": 1}))
    rows = {(row.step, row.kind): row for row in known.rows}
    assert rows["restore", "do"].argv[1] == "abcdef0123"
    assert rows["fresh", "check"].verdict == "unknown", "nobody here knows how the backup stands"
    hostile = _plan(book, fleet, pick=_on("spare1", {"id": "--help", "age": 1, "verified_age": 1}))
    assert any('no "-" at its beginning' in problem for problem in hostile.problems)


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        ("- {do: app.look, on: wbe1}", "there is no host 'wbe1'; web1?"),
        ("- {do: app.lok, on: web1}", "web1 does not allow app.lok; app.look?"),
        ("- {do: app.look, on: new1}", "new1 has not said which actions it allows"),
        ("- {do: app.look, on: web1, with: {x: a}}", "x: app.look has no such argument"),
        ("- {do: svc.restart, on: web1}", "unit: svc.restart needs it"),
        ("- {do: svc.restart, on: web1, with: {unit: a/b}}", "unit: got 'a/b', wanted letters"),
        ("- {do: svc.restart, on: web1, with: {unit: '{{n}}'}}", "unit: got 5, wanted text"),
        ("- {do: app.size, on: web1, with: {bytes: '5'}}", "bytes: got '5', wanted a whole number"),
        ("- {do: app.size, on: web1, with: {bytes: '{{n / 2}}'}}", "bytes: got 2.5, wanted a whole number"),
        ("- {do: app.look, on: {select: 'role=\"none\"'}}", "takes in no host"),
        (
            "- {do: app.look, on: web1, undo: {do: app.drian, on: web1}}",
            "does not allow app.drian; app.drain?",
        ),
        ("- {call: nobody}", "there is no runbook nobody"),
    ],
)
def test_what_cannot_be_done_is_a_problem_that_names_the_step(steps: str, problem: str, fleet: Fleet) -> None:
    (found,) = _plan(_book(f"  {steps}"), fleet).problems
    assert found.startswith("step-1: ")
    assert problem in found


@pytest.mark.parametrize(
    ("written", "value"),
    [("16MiB", 16 * 2**20), ("'{{n * 2}}'", 10), ("'{{n * 1.2}}'", 6), ("'{{ 3KiB }}'", 3072)],
)
def test_arguments_become_what_their_action_wants(written: str, value: ArgumentValue, fleet: Fleet) -> None:
    found = _plan(_book(f"  - {{do: app.size, on: web1, with: {{bytes: {written}, n: 7}}}}"), fleet)
    assert found.rows[0].arguments == {"bytes": value, "n": 7}


def test_more_hosts_than_the_limit_are_a_problem(fleet: Fleet) -> None:
    book = _book("  - {do: app.drain, on: {select: 'role=\"web\"'}}", top="limits: {hosts: 2}")
    assert _plan(book, fleet).problems == ("changes 3 hosts, its limit is 2: web1, web2, web3",)


def test_a_step_whose_condition_is_false_is_left_out_and_says_so(fleet: Fleet) -> None:
    found = _plan(_book("  - {do: app.drain, on: web1, when: n > 10}"), fleet)
    assert [(row.argv, row.detail) for row in found.rows] == [((), "left out: n > 10 is false")]
    assert found.hosts == ()


def test_a_called_runbook_is_planned_within_the_plan(fleet: Fleet) -> None:
    child = _book("  - {id: go, do: app.size, on: '{{h}}', with: {bytes: '{{n}}'}}", name="child")
    parent = _book("  - {id: first, call: child, with: {h: web2, n: '{{n + 1}}'}}")
    found = plan(parent, judge_parameters(parent, {}), fleet, books={"child": child})
    assert [(row.step, row.host, row.argv[1:]) for row in found.rows] == [
        ("first", "", ()),
        ("first/go", "web2", ("6", "3")),
    ]
    assert call_parameters(Call("child", {}), child, {}).values == {"h": "web1", "n": 5}


def test_a_called_runbook_calls_no_other(fleet: Fleet) -> None:
    parent = _book("  - {id: first, call: child}")
    child = _book("  - {id: second, call: r}", name="child")
    found = plan(parent, judge_parameters(parent, {}), fleet, books={"child": child, "r": parent})
    assert found.problems == ("first/second: a runbook that is called calls r",)
    own = _book("  - {id: first, call: r}")
    found = plan(own, judge_parameters(own, {}), fleet, books={"r": own})
    assert found.problems == ("first: a runbook that is called calls r",)


def test_hosts_are_gone_through_in_waves() -> None:
    hosts = ["a", "b", "c", "d", "e"]
    assert waves(Target(wave_share=0.5), hosts) == (("a", "b"), ("c", "d"), ("e",))
    assert waves(Target(wave_share=0.01), hosts)[0] == ("a",)
    assert waves(Target(), hosts) == (tuple(hosts),)
    assert [len(wave) for wave in waves(Target(wave_hosts=3), hosts)] == [3, 2]
    assert waves(Target(), []) == ()


def test_a_host_that_is_named_twice_is_meant_once(fleet: Fleet) -> None:
    (step,) = _book("  - {do: app.look, on: [web1, '{{h}}', web2]}").steps
    assert isinstance(step.what, Act)
    found = resolve(step.what, {"h": "web1"}, fleet)
    assert [one.host.name for one in found.bound] == ["web1", "web2"]


def test_a_gate_does_not_open_over_arguments_that_nobody_knows(
    examples: dict[str, Runbook], fleet: Fleet
) -> None:
    book = examples["pg-failover"]
    scope = dict(judge_parameters(book, {}).values)
    whole = protected_effects(book, "consent", scope, fleet)
    assert (len(whole.effects), whole.problems) == (3, ())
    lost = protected_effects(book, "consent", {**scope, "primary": UNKNOWN}, fleet)
    assert [problem.split(":")[0] for problem in lost.problems] == ["fence on mgmt1", "fence on mgmt1"]
    assert lost.unknown == lost.problems
    renamed = protected_effects(book, "consent", scope, fleet, prefix="child/")
    assert {one.step for one in renamed.effects} == {"child/fence", "child/promote"}


def test_parameters_are_judged_by_name(examples: dict[str, Runbook]) -> None:
    book = examples["app-restart"]
    judged = judge_parameters(book, {"host": "web1", "ap": "x"})
    assert judged.problems == {
        "ap": "app-restart has no such parameter, wanted app?",
        "app": "not given, wanted letters, digits and . _ @ : + -",
    }
    hostile = judge_parameters(book, {"host": "web1\n", "app": "{{7*7}}"})
    assert set(hostile.problems) == {"host", "app"}
    assert "no {{...}}" in hostile.problems["app"]
    sizes = judge_parameters(examples["pg-failover"], {"max_lag": "1KiB"}, drill=True)
    assert sizes.values["max_lag"] == 1024
    assert sizes.texts["max_lag"] == "1KiB"
    assert sizes.values["primary"] == "drill-db1"
