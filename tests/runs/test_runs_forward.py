"""A run goes through its steps: what is written, in which order, and what comes of it."""

import json
from datetime import UTC, datetime

from tests.runs.conftest import House, action
from watchbill.actions.definition import Argument, Kind
from watchbill_collector.runbooks.expression import UNKNOWN, Value
from watchbill_collector.services.run_twin import Ran

TWO_STEPS = """
runbook: two
about: look, then act
steps:
  - id: look
    do: db.look
    on: db1
  - id: fit
    check: look.out.role == "standby"
  - id: act
    do: db.act
    on: db1
    clock: stop
"""


def a_database(house: House, role: str = "standby") -> None:
    host = house.host("db1")
    host.allow(*action("db.look", "read", lambda _: Ran(output=json.dumps({"role": role}))))
    host.allow(*action("db.act", "repeat"))


async def test_intents_are_written_before_commands_and_results_before_the_next_step(house: House) -> None:
    a_database(house)
    house.runbook(TWO_STEPS)
    run_id = await house.begin("two")
    await house.settle()
    assert house.state(run_id) == "succeeded"
    assert house.kinds(run_id) == [
        "created",
        "state",
        "step_began",
        "intent",
        "sent",
        "accepted",
        "result",
        "step_ended",
        "step_began",
        "verdict",
        "step_ended",
        "step_began",
        "intent",
        "sent",
        "accepted",
        "result",
        "step_ended",
        "recovered",
        "state",
    ]
    assert house.named("db1").ran == {"db.look": 1, "db.act": 1}
    assert house.summary(run_id).recovered_ms


async def test_a_check_that_is_false_holds_the_run_and_nothing_behind_it_is_done(house: House) -> None:
    a_database(house, "primary")
    house.runbook(TWO_STEPS)
    run_id = await house.begin("two")
    await house.settle()
    assert house.state(run_id) == "held"
    assert 'fit: look.out.role == "standby" is false' in house.run(run_id).detail
    assert house.named("db1").ran == {"db.look": 1}
    await house.say(run_id, "mark-done")
    assert house.state(run_id) == "succeeded"
    assert house.named("db1").ran["db.act"] == 1


async def test_missing_data_is_unknown_and_satisfies_no_check(house: House) -> None:
    a_database(house)
    house.named("db1").allow(*action("db.look", "read", lambda _: Ran(output="no json")))
    house.runbook(TWO_STEPS)
    run_id = await house.begin("two")
    await house.settle()
    assert (house.state(run_id), "is unknown" in house.run(run_id).detail) == ("held", True)


async def test_retry_makes_a_new_attempt_with_a_new_key_after_its_delay(house: House) -> None:
    answers = iter([1, 1, 0])
    house.host("db1").allow(*action("db.act", "once", lambda _: Ran(next(answers))))
    house.runbook(
        "runbook: r\nabout: x\nsteps:\n  - {id: act, do: db.act, on: db1, retry: {times: 2, delay: 5s}, commit: true}\n"
    )
    run_id = await house.begin("r")
    await house.settle()
    assert house.state(run_id) == "waiting"
    await house.pass_s(4)
    assert house.named("db1").ran["db.act"] == 1
    await house.pass_s(7)
    assert house.state(run_id) == "succeeded"
    keys = {row.document()["key"] for row in house.journal(run_id) if row.kind == "intent"}
    assert len(keys) == 3


async def test_on_fail_stop_ends_and_continue_notes(house: House) -> None:
    host = house.host("db1")
    host.allow(*action("bad", "repeat", lambda _: Ran(1)))
    host.allow(*action("good", "repeat"))
    house.runbook(
        """
runbook: r
about: x
on_fail: stop
steps:
  - {id: a, do: bad, on: db1, on_fail: continue}
  - {id: b, do: good, on: db1}
  - {id: c, do: bad, on: db1}
  - {id: d, do: good, on: db1}
"""
    )
    run_id = await house.begin("r")
    await house.settle()
    assert house.state(run_id) == "failed"
    assert "c: bad on db1: failed, exit code 1" in house.summary(run_id).state_detail
    assert host.ran == {"bad": 2, "good": 1}


UNDONE = """
runbook: r
about: x
on_fail: undo
steps:
  - {id: a, do: up, on: db1, with: {node: a}, undo: {do: down, on: db1, with: {node: a}}}
  - {id: b, do: up, on: db1, with: {node: b}, undo: {do: down, on: db1, with: {node: b}}}
  - {id: c, do: bad, on: db1}
"""


async def test_undo_goes_back_in_reverse_with_keys_of_its_own(house: House) -> None:
    host = house.host("db1")
    order: list[str] = []

    def noted(word: str) -> None:
        host.allow(*action(word, "repeat", lambda given: (order.append(f"{word} {given['node']}"), Ran())[1]))

    noted("up")
    noted("down")
    host.allow(*action("bad", "repeat", lambda _: Ran(1)))
    house.runbook(UNDONE)
    run_id = await house.begin("r")
    await house.settle()
    assert house.state(run_id) == "undone"
    assert order == ["up a", "up b", "down b", "down a"]
    assert max(host.keys.values()) == 1


async def test_a_failed_undo_holds_and_after_a_commit_nothing_is_undone_by_itself(house: House) -> None:
    host = house.host("db1")
    host.allow(*action("up", "repeat"))
    answers = iter([1, 0, 0])
    host.allow(*action("down", "repeat", lambda _: Ran(next(answers))))
    host.allow(*action("bad", "repeat", lambda _: Ran(1)))
    house.runbook(UNDONE)
    run_id = await house.begin("r")
    await house.settle()
    assert house.state(run_id) == "held"
    assert house.run(run_id).detail.startswith("b: not undone")
    await house.say(run_id, "retry")
    assert house.state(run_id) == "undone"

    house.runbook(
        UNDONE.replace("runbook: r", "runbook: s").replace("id: b, do: up", "id: b, commit: true, do: up")
    )
    run_id = await house.begin("s")
    await house.settle()
    assert house.state(run_id) == "held"
    assert "past the commit" in house.run(run_id).detail
    assert host.ran["down"] == 3
    await house.say(run_id, "abort")
    assert house.state(run_id) == "cancelled"


async def test_steps_of_a_group_begin_together_and_all_have_to_be_well(house: House) -> None:
    for name in ("db1", "db2"):
        host = house.host(name, at_once=False)
        host.allow(*action("look", "read"))
    house.runbook(
        "runbook: r\nabout: x\nsteps:\n  - id: both\n    parallel:\n"
        "      - {id: a, do: look, on: db1}\n      - {id: b, do: look, on: db2}\n"
    )
    run_id = await house.begin("r")
    await house.settle()
    assert len(house.named("db1").running()) == len(house.named("db2").running()) == 1
    house.named("db1").finish(house.named("db1").running()[0])
    await house.settle()
    assert house.state(run_id) == "running"
    house.named("db2").finish(house.named("db2").running()[0], Ran(1))
    await house.settle()
    assert (house.state(run_id), house.run(run_id).held_step) == ("held", "b")


async def test_waves_go_on_until_one_host_too_many_failed(house: House) -> None:
    for number in range(8):
        host = house.host(f"web{number}", {"role": "web"})
        bad = number in {1, 5}
        host.allow(*action("patch", "repeat", lambda _, bad=bad: Ran(int(bad))))
    text = (
        "runbook: NAME\nabout: x\nsteps:\n"
        "  - {id: patch, do: patch, on: {select: 'role=\"web\"', wave: 25%, max_failures: MOST}}\n"
    )
    house.runbook(text.replace("NAME", "one").replace("MOST", "1"))
    run_id = await house.begin("one")
    await house.settle()
    assert house.state(run_id) == "held"
    ran = [house.named(f"web{number}").ran["patch"] for number in range(8)]
    assert ran == [1, 1, 1, 1, 1, 1, 0, 0]
    await house.say(run_id, "abort")
    house.runbook(text.replace("NAME", "two").replace("MOST", "2"))
    run_id = await house.begin("two")
    await house.settle()
    assert house.state(run_id) == "succeeded"
    assert "2 of 8 hosts failed" in house.journal(run_id)[-3].document()["detail"]


async def test_within_waits_and_hold_has_to_stay_true(house: House) -> None:
    class Moving:
        value: Value = UNKNOWN

        def metric(self, host: str, name: str) -> Value:
            return self.value

        def alert(self, name: str, host: str) -> Value:
            return UNKNOWN

        def backup(self, job: str) -> Value:
            return UNKNOWN

        def host(self, name: str) -> Value:
            return UNKNOWN

    facts = Moving()
    house.facts = facts
    house.host("db1")
    house.runbook(
        "runbook: r\nabout: x\non_fail: stop\nsteps:\n"
        '  - {id: c, check: \'metric("db1", "up") == 1\', within: 60s, hold: 10s}\n'
    )
    run_id = await house.begin("r")
    await house.settle()
    assert house.state(run_id) == "waiting"
    facts.value = 1
    await house.pass_s(8)
    facts.value = 0
    await house.pass_s(4)
    facts.value = 1
    await house.pass_s(9)
    assert house.state(run_id) == "waiting"
    await house.pass_s(3)
    assert house.state(run_id) == "succeeded"
    facts.value = UNKNOWN
    run_id = await house.begin("r")
    await house.settle()
    await house.pass_s(61)
    assert house.state(run_id) == "failed"


async def test_a_called_runbook_runs_in_its_callers_place_and_a_message_never_fails_a_run(
    house: House,
) -> None:
    house.host("db1").allow(*action("up", "repeat", lambda given: Ran(output=json.dumps(given["node"]))))
    house.runbook(
        "runbook: child\nabout: x\nparams: {what: {type: name}}\nsteps:\n"
        "  - {id: up, do: up, on: db1, with: {node: '{{what}}'}}\n"
    )
    house.runbook(
        "runbook: r\nabout: x\nparams: {p: {type: name, default: q}}\nsteps:\n"
        "  - {id: sub, call: child, with: {what: '{{p}}'}}\n  - {id: tell, notify: ops}\n"
    )
    run_id = await house.begin("r", p="z")
    await house.settle()
    assert house.state(run_id) == "succeeded"
    intent = next(row.document() for row in house.journal(run_id) if row.kind == "intent")
    assert (intent["step"], intent["arguments"]) == ("sub/up", {"node": "z"})
    assert [channel for channel, _ in house.told] == ["ops"]


async def test_a_called_runbook_is_rehearsed_with_what_its_own_drill_says_and_now_is_when_the_run_began(
    house: House,
) -> None:
    house.host("db1").allow(
        *action(
            "up",
            "repeat",
            argv=("/bin/true", "{{node}}", "{{at}}"),
            arguments=(
                Argument(name="node", kind=Kind.NAME),
                Argument(name="at", kind=Kind.STRING, match=r"\d{4}-[0-9T:-]*Z"),
            ),
        )
    )
    house.runbook(
        "runbook: child\nabout: x\nparams: {what: {type: name, default: real}, at: {type: time, default: now}}\n"
        "drill: {every: 30d, params: {what: spare}}\n"
        "steps:\n  - {id: up, do: up, on: db1, with: {node: '{{what}}', at: '{{at}}'}}\n"
    )
    house.runbook("runbook: r\nabout: x\nsteps:\n  - {id: sub, call: child}\n")
    for drill, wanted in ((False, "real"), (True, "spare")):
        began = datetime.fromtimestamp(house.clock.wall_ms() / 1000, UTC)
        run_id = await house.begin("r", drill)
        house.clock.advance(30)
        await house.settle()
        assert house.state(run_id) == "succeeded", house.summary(run_id).state_detail
        intent = next(row.document() for row in house.journal(run_id) if row.kind == "intent")
        assert intent["arguments"] == {"node": wanted, "at": began.strftime("%Y-%m-%dT%H:%M:%SZ")}


async def test_when_leaves_a_step_out_and_an_unknown_when_holds(house: House) -> None:
    house.host("db1").allow(*action("up", "repeat", lambda _: Ran(output='{"n": 1}')))
    house.runbook(
        "runbook: r\nabout: x\nsteps:\n  - {id: a, do: up, on: db1}\n"
        "  - {id: b, do: up, on: db1, when: a.out.n == 2}\n  - {id: c, do: up, on: db1, when: a.out.m == 2}\n"
    )
    run_id = await house.begin("r")
    await house.settle()
    assert (house.state(run_id), house.run(run_id).held_step) == ("held", "c")
    assert house.named("db1").ran["up"] == 1
    await house.say(run_id, "skip")
    assert house.state(run_id) == "succeeded"


async def test_who_waits_for_a_lock_comes_in_the_order_of_asking_and_a_held_run_keeps_it(
    house: House,
) -> None:
    house.host("db1", at_once=False).allow(*action("up", "repeat"))
    house.runbook("runbook: r\nabout: x\nlock: db1\nsteps:\n  - {id: a, do: up, on: db1}\n")
    ids = []
    for _ in range(3):
        ids.append(await house.begin("r"))
        house.clock.advance(0.01)
    await house.settle()
    assert [house.state(one) for one in ids] == ["running", "queued", "queued"]
    house.named("db1").finish(house.named("db1").running()[0], Ran(1))
    await house.settle()
    assert [house.state(one) for one in ids] == ["held", "queued", "queued"]
    house.kill()
    await house.start()
    await house.settle()
    assert [house.state(one) for one in ids] == ["held", "queued", "queued"]
    await house.say(ids[0], "abort")
    assert [house.state(one) for one in ids] == ["cancelled", "running", "queued"]
    house.named("db1").finish(house.named("db1").running()[0])
    await house.settle()
    assert [house.state(one) for one in ids] == ["cancelled", "succeeded", "running"]


async def test_nothing_with_an_effect_begins_while_automation_is_paused(house: House) -> None:
    a_database(house)
    house.runbook(TWO_STEPS)
    house.paused = "by bob: an upgrade"
    run_id = await house.begin("two")
    await house.settle()
    assert house.state(run_id) == "waiting"
    assert "paused" in house.run(run_id).detail
    assert house.named("db1").ran == {"db.look": 1}
    house.paused = ""
    house.runs.changed()
    await house.settle()
    assert house.state(run_id) == "succeeded"
    # It had waited, so it looked again.
    assert house.named("db1").ran == {"db.look": 2, "db.act": 1}


async def test_what_is_proposed_waits_for_a_person_and_expires(house: House) -> None:
    a_database(house)
    house.runbook(TWO_STEPS)
    now_ms = house.clock.wall_ms()
    first = await house.begin("two", requester="", proposed_ms=now_ms + 60_000)
    second = await house.begin("two", requester="", proposed_ms=now_ms + 60_000)
    await house.settle()
    await house.say(first, "start", person="bob")
    await house.pass_s(61)
    assert (house.state(first), house.state(second)) == ("succeeded", "expired")
    assert house.summary(first).requester == "bob"


async def test_a_drill_leaves_out_what_it_should_and_is_cleaned_up_after_however_it_ends(
    house: House,
) -> None:
    host = house.host("db1")
    for name in ("up", "real", "clean"):
        host.allow(*action(name, "repeat"))
    host.allow(*action("bad", "repeat", lambda _: Ran(1)))
    house.runbook(
        """
runbook: r
about: x
on_fail: stop
steps:
  - {id: a, do: up, on: db1}
  - {id: b, do: real, on: db1, drill: skip}
  - {id: c, do: bad, on: db1}
drill:
  every: 30d
  clock: {stop: a}
  cleanup: [{do: clean, on: db1}]
"""
    )
    run_id = await house.begin("r", drill=True)
    await house.settle()
    assert house.state(run_id) == "failed"
    assert host.ran == {"up": 1, "bad": 1, "clean": 1}
    assert house.summary(run_id).recovered_ms
    host.at_once = False
    run_id = await house.begin("r", drill=True)
    await house.settle()
    await house.say(run_id, "abort")
    host.at_once = True
    for key in host.running():
        host.finish(key)
    await house.settle()
    assert house.state(run_id) == "cancelled"
    assert host.ran["clean"] == 2
