"""What starts a runbook: an alert, for so long, seen by enough, with nothing in the way; else a person is asked."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from watchbill_collector.runbooks.expression import Known
from watchbill_collector.runbooks.expressions import NO_FACTS
from watchbill_collector.runbooks.fleet import Fleet
from watchbill_collector.runbooks.lint import judge_text
from watchbill_collector.runbooks.model import Runbook, Trigger
from watchbill_collector.runbooks.outputs import HostResult, step_value
from watchbill_collector.runbooks.parameters import judge_parameters
from watchbill_collector.runbooks.planning import plan
from watchbill_collector.runbooks.reading import read_runbook
from watchbill_collector.runbooks.triggers import (
    FRESH_MS,
    SCHEDULE_LATE_MS,
    Earlier,
    Firing,
    Nothing,
    Propose,
    Start,
    Wait,
    decide,
    due,
    schedule_moment,
)
from watchbill_collector.runbooks.views import Opinion, View, collector_view, host_views

FIRED = 1_000_000
ALERT = Firing(
    name="pg_down",
    fingerprint="0123456789abcdef",
    labels={"alertname": "pg_down", "instance": "db1"},
    fired_ms=FIRED,
    judged_ms=FIRED + 60_000,
    every_ms=15_000,
)
AUTO = Trigger(alert="pg_down", for_s=60, auto=True)
QUORUM = replace(AUTO, agree_least=2)
AGREED = [View("collector", Opinion.AGREES), View("db2", Opinion.AGREES)]
UP, DOWN = {"up": True}, {"up": False}
FIT: Known = {"role": "standby", "unreplayed": 10, "rewindable": True}


def _on(host: str, out: Known, *, ok: bool = True) -> Known:
    return step_value({host: HostResult(out=out, ok=ok)})


def _views(book: Runbook, fleet: Fleet, seen: Mapping[str, Known], **given: str) -> dict[str, View]:
    judged = judge_parameters(book, given, datetime(2026, 3, 1, tzinfo=UTC))
    planned = plan(book, judged, fleet, seen=seen)
    return {one.name: one for one in host_views(book, judged.values, planned, seen, NO_FACTS)}


# ---------------------------------------------------------------- what becomes of an alert


def test_an_alert_waits_for_its_time_and_then_its_moment_has_come() -> None:
    assert due(AUTO, ALERT, (), {}, FIRED + 59_999) == Wait(FIRED + 60_000)
    assert due(AUTO, ALERT, (), {}, FIRED + 60_000) is None
    assert decide(AUTO, ALERT, (), (), FIRED + 60_000) == Start()


@pytest.mark.parametrize(
    ("earlier", "started"),
    [
        # Of this very alert: over or not, it starts no second one while it goes on.
        (Earlier(run_id="r1", mark=ALERT.mark, ended_ms=FIRED + 1, parameters={"a": "b"}), False),
        (Earlier(run_id="r1", mark=ALERT.mark, ended_ms=0, parameters={"a": "b"}), False),
        # Of an earlier time that it fired.
        (Earlier(run_id="r1", mark=ALERT.mark, ended_ms=FIRED, parameters={}), True),
        # A person ran the same while it fired.
        (Earlier(run_id="r1", mark="", ended_ms=0, parameters={}), False),
        (Earlier(run_id="r1", mark="", ended_ms=FIRED + 1, parameters={}), False),
        # Or before, or with other parameters.
        (Earlier(run_id="r1", mark="", ended_ms=FIRED - 1, parameters={}), True),
        (Earlier(run_id="r1", mark="", ended_ms=0, parameters={"a": "b"}), True),
    ],
)
def test_one_run_is_made_for_each_alert(earlier: Earlier, started: bool) -> None:
    found = due(AUTO, ALERT, (earlier,), {}, FIRED + 60_000)
    assert found is None if started else isinstance(found, Nothing)


def test_a_time_that_is_another_in_each_run_tells_no_two_runs_apart() -> None:
    earlier = Earlier(run_id="r1", mark="", ended_ms=0, parameters={"h": "a", "t": "2026-01-01T00:00:00Z"})
    for parameters, again in (({"h": "a"}, False), ({"h": "b"}, True), ({}, True)):
        found = due(AUTO, ALERT, (earlier,), parameters, FIRED + 60_000, frozenset({"t"}))
        assert (found is None) is again


@pytest.mark.parametrize(
    ("trigger", "alert", "views", "hushed", "why"),
    [
        (replace(AUTO, auto=False), ALERT, (), (), "its trigger proposes"),
        (AUTO, replace(ALERT, incomplete="db1 is late"), (), (), "its data is incomplete: db1 is late"),
        (AUTO, ALERT, (), ("db1 is in maintenance",), "db1 is in maintenance"),
        (AUTO, replace(ALERT, judged_ms=FIRED - 60_000), (), (), "the alert was last judged 120 s ago"),
        (QUORUM, ALERT, AGREED[:1], (), "1 of 1 views agree, wanted 2: "),
        (
            QUORUM,
            ALERT,
            [AGREED[0], View("db2", Opinion.UNSURE, "it is away")],
            (),
            "1 of 2 views agree, wanted 2: db2 is unsure: it is away",
        ),
        # One name has one voice.
        (QUORUM, ALERT, [AGREED[1], AGREED[1]], (), "1 of 2 views agree, wanted 2: "),
    ],
)
def test_what_is_not_satisfied_makes_a_proposal(
    trigger: Trigger, alert: Firing, views: list[View], hushed: tuple[str, ...], why: str
) -> None:
    assert decide(trigger, alert, views, hushed, FIRED + 60_000) == Propose((why,))


def test_a_quorum_starts_it_although_a_view_is_silent_but_not_when_one_contradicts() -> None:
    silent = [*AGREED, View("app1", Opinion.UNSURE, "away")]
    assert decide(QUORUM, ALERT, silent, (), FIRED + 60_000) == Start()
    against = [*AGREED, View("app1", Opinion.CONTRADICTS, "not seen_w.out.up is false")]
    found = decide(QUORUM, ALERT, against, (), FIRED + 60_000)
    assert isinstance(found, Propose)
    assert "app1 contradicts: not seen_w.out.up is false" in found.why[0]


def test_an_alert_that_nobody_judges_any_more_starts_nothing() -> None:
    at_ms = ALERT.judged_ms + ALERT.every_ms + FRESH_MS
    assert decide(AUTO, ALERT, (), (), at_ms) == Start()
    assert isinstance(decide(AUTO, ALERT, (), (), at_ms + 1), Propose)


# ---------------------------------------------------------------- what views say


def test_hosts_say_what_the_runbook_asks_of_them(examples: dict[str, Runbook], fleet: Fleet) -> None:
    book = examples["pg-failover"]
    found = _views(
        book, fleet, {"look": _on("db2", FIT), "seen_s": _on("db2", DOWN), "seen_w": _on("app1", UP)}
    )
    assert found["db2"] == View("db2", Opinion.AGREES)
    assert found["app1"] == View("app1", Opinion.CONTRADICTS, "not seen_w.out.up is false")


@pytest.mark.parametrize(
    "seen",
    [
        {},
        {"seen_w": _on("app1", None)},
        {"seen_w": _on("app1", {"other": 1})},
        {"seen_w": _on("app1", "up", ok=False)},
    ],
)
def test_a_host_that_does_not_answer_is_unsure(
    examples: dict[str, Runbook], fleet: Fleet, seen: dict[str, Known]
) -> None:
    found = _views(examples["pg-failover"], fleet, {"look": _on("db2", FIT), **seen})
    assert found["app1"] == View("app1", Opinion.UNSURE, "not seen_w.out.up is unknown")


def test_a_host_agrees_only_when_all_that_is_asked_of_it_is_true(
    examples: dict[str, Runbook], fleet: Fleet
) -> None:
    seen: dict[str, Known] = {"look": _on("db2", FIT), "seen_w": _on("app1", DOWN)}
    found = _views(examples["pg-failover"], fleet, seen)
    assert found["db2"].opinion is Opinion.UNSURE, "it has not said whether it reaches the primary"
    assert found["app1"].opinion is Opinion.AGREES


def test_two_names_for_one_host_have_one_voice(examples: dict[str, Runbook], fleet: Fleet) -> None:
    seen = {"look": _on("db2", FIT), "seen_s": _on("db2", DOWN), "seen_w": _on("db2", DOWN)}
    assert list(_views(examples["pg-failover"], fleet, seen, witness="db2")) == ["db2"]


def test_a_host_that_is_asked_nothing_never_agrees_and_facts_about_it_count() -> None:
    text = """
runbook: r
params: {w: {type: host, default: app1}}
limits: {hosts: 1, breaker: 1, cooldown: 1h}
trigger: {alert: pg_down, agree: "2 of [collector, w, db9]", mode: auto}
steps:
  - check: metric(w, "pg_up") == 0 and metric("db2", "x") == 1
"""
    book, problems = read_runbook("r.yaml", text.encode())
    assert book is not None, problems

    class Facts:
        def metric(self, host: str, name: str) -> Known:
            return 0 if (host, name) == ("app1", "pg_up") else 7

        alert = backup = host = NO_FACTS.alert  # type: ignore[assignment]

    judged = judge_parameters(book, {})
    planned = plan(book, judged, Fleet({}), Facts())  # type: ignore[arg-type]
    found = host_views(book, judged.values, planned, {}, Facts())  # type: ignore[arg-type]
    assert [(one.name, one.opinion) for one in found] == [
        ("app1", Opinion.AGREES),
        ("db9", Opinion.UNSURE),
    ]
    assert collector_view("").opinion is Opinion.AGREES
    assert collector_view("half of it is missing").opinion is Opinion.UNSURE


@pytest.mark.parametrize(
    ("check", "silent"),
    [
        ("seen.out.up == false", ["db9"]),
        ('metric(w, "pg_up") == 0', ["db9"]),
        ('alert("x", "db9")', ["w"]),
        ("1 == 1", ["w", "db9"]),
    ],
)
def test_a_view_that_is_asked_nothing_is_found_when_the_runbook_is_written(
    check: str, silent: list[str]
) -> None:
    text = f"""
runbook: r
params: {{w: {{type: host, default: app1}}}}
trigger: {{alert: pg_down, agree: "2 of [collector, w, db9]"}}
steps:
  - {{id: seen, do: pg.reach, on: "{{{{w}}}}"}}
  - check: '{check}'
"""
    _, findings = judge_text("r.yaml", text.encode())
    assert [one.message.split(",")[0] for one in findings if one.where == "trigger.agree"] == [
        f"no check asks anything of {name}" for name in silent
    ]


# ---------------------------------------------------------------- the clock


def test_a_schedule_comes_once_and_not_hours_late() -> None:
    nightly = Trigger(schedule="0 3 * * *", zone="Europe/Vienna")
    three = round(datetime(2026, 3, 1, 2, 0, tzinfo=UTC).timestamp() * 1000)
    tomorrow = three + 86_400_000
    assert schedule_moment(nightly, three - 3_600_000, three - 1) == (0, three)
    assert schedule_moment(nightly, three - 3_600_000, three) == (three, tomorrow)
    assert schedule_moment(nightly, three, three + 1000) == (0, tomorrow)
    assert schedule_moment(nightly, three - 1, three + SCHEDULE_LATE_MS) == (0, tomorrow)
