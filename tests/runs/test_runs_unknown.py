"""Nobody knows what became of a command: every row of the table of who dies when."""

import json

import pytest

from tests.runs.conftest import House, action
from watchbill.actions.order import Command, open_order
from watchbill.actions.outcomes import Outcome
from watchbill.actions.signing import public_key
from watchbill_collector.services.run_twin import Ran
from watchbill_collector.store.automation import COUNTER_STEP

from .conftest import SEED

ONE = "runbook: r\nabout: x\nsteps:\n  - {id: a, do: act, on: db1, commit: true}\n"
PROBED = {"probe": "look", "done_when": "out.done == true"}


def is_command(body: bytes) -> bool:
    """Whether a body is a command, not a question."""
    return isinstance(open_order(public_key(SEED), body)[1], Command)


async def test_what_was_lost_on_its_way_is_sent_again_under_the_same_key(house: House) -> None:
    host = house.host("db1")
    host.allow(*action("act", "once"))
    house.runbook(ONE)
    lost: list[bytes] = []
    house.fleet.lose = lambda _, body: is_command(body) and not lost and not lost.append(body)
    run_id = await house.begin("r")
    await house.settle()
    assert (house.state(run_id), host.ran["act"], len(lost)) == ("succeeded", 1, 1)
    assert house.kinds(run_id).count("intent") == 1
    assert house.kinds(run_id).count("sent") == 2


async def test_a_host_that_is_away_is_waited_for_and_nothing_was_sent_when_the_time_is_up(
    house: House,
) -> None:
    host = house.host("db1")
    host.allow(*action("act", "once"))
    host.connected = False
    house.runbook(ONE)
    run_id = await house.begin("r")
    await house.settle()
    assert (house.state(run_id), house.run(run_id).detail) == ("waiting", "db1 is away")
    await house.pass_s(60)
    host.connected = True
    house.runs.connected(host.agent)
    await house.settle()
    assert house.state(run_id) == "succeeded"
    host.connected = False
    run_id = await house.begin("r")
    await house.settle()
    await house.pass_s(121)
    assert house.state(run_id) == "held"
    assert "lapsed: not sent" in house.run(run_id).detail
    assert "unknown" not in house.kinds(run_id)
    assert host.ran["act"] == 1


async def test_what_was_sent_and_never_answered_is_unknown_and_no_time_makes_it_not_run(house: House) -> None:
    host = house.host("db1", at_once=False)
    host.allow(*action("act", "once"))
    house.runbook(ONE)
    house.fleet.lose = lambda *_: True
    run_id = await house.begin("r")
    await house.settle()
    host.connected = False
    await house.pass_s(300)
    assert house.state(run_id) == "held"
    assert "unknown" in house.kinds(run_id)
    house.fleet.lose = lambda *_: False
    host.connected = True
    await house.say(run_id, "retry")
    assert host.ran["act"] == 1


@pytest.mark.parametrize(("happened", "runs"), [(True, 1), (False, 2)])
async def test_after_a_reboot_a_probe_says_whether_an_action_happened(
    house: House, happened: bool, runs: int
) -> None:
    host = house.host("db1", at_once=False)
    host.allow(*action("act", "once", None, **PROBED))
    host.allow(*action("look", "read", lambda _: Ran(output=json.dumps({"done": happened}))))
    house.runbook(ONE)
    run_id = await house.begin("r")
    await house.settle()
    host.at_once = True
    host.reboot()
    await house.settle()
    assert house.state(run_id) == "succeeded"
    assert host.ran == {"act": runs, "look": 1}
    assert house.kinds(run_id).count("probed") == 1


@pytest.mark.parametrize("output", ['{"done": "perhaps"}', "no json", "{}"])
async def test_a_probe_that_does_not_tell_holds_the_run(house: House, output: str) -> None:
    host = house.host("db1", at_once=False)
    host.allow(*action("act", "once", None, **PROBED))
    host.allow(*action("look", "read", lambda _: Ran(output=output)))
    house.runbook(ONE)
    run_id = await house.begin("r")
    await house.settle()
    host.at_once = True
    host.reboot()
    await house.settle()
    assert house.state(run_id) == "held"
    assert host.ran["act"] == 1
    await house.say(run_id, "mark-done")
    assert house.state(run_id) == "succeeded"


async def test_once_without_a_probe_is_held_and_repeat_is_tried_again(house: House) -> None:
    host = house.host("db1", at_once=False)
    host.allow(*action("act", "once"))
    house.runbook(ONE)
    run_id = await house.begin("r")
    await house.settle()
    host.reboot()
    await house.settle()
    assert house.state(run_id) == "held"
    assert "it has no probe" in house.run(run_id).detail
    await house.say(run_id, "abort")
    assert "unknown: act on db1" in house.summary(run_id).state_detail
    host.allow(*action("act", "repeat"))
    run_id = await house.begin("r")
    await house.settle()
    host.reboot()
    host.at_once = True
    await house.settle()
    assert (house.state(run_id), host.ran["act"]) == ("succeeded", 3)


async def test_a_new_ledger_cannot_know_and_nothing_is_repeated_before_the_first_could_not_begin(
    house: House,
) -> None:
    host = house.host("db1", at_once=False)
    host.allow(*action("act", "once", None, **PROBED))
    host.allow(*action("look", "read", lambda _: Ran(output='{"done": false}')))
    house.runbook(ONE)
    run_id = await house.begin("r")
    await house.settle()
    assert host.ran["act"] == 1
    host.reinstall()
    host.at_once = True
    house.runs.connected(host.agent)
    await house.settle()
    assert house.state(run_id) == "waiting"
    assert "could still begin" in house.run(run_id).detail
    assert host.ran["act"] == 1
    await house.pass_s(200)
    assert house.state(run_id) == "succeeded"
    assert max(host.keys.values()) == 1


async def test_a_result_that_comes_late_settles_what_was_unknown(house: House) -> None:
    host = house.host("db1", at_once=False)
    host.allow(*action("act", "once"))
    house.runbook(ONE)
    run_id = await house.begin("r")
    await house.settle()
    host.connected = False
    host.finish(host.running()[0])
    await house.pass_s(20 * 60)
    assert house.state(run_id) == "held"
    host.connected = True
    await house.settle()
    attempt = house.run(run_id).step("a").newest("db1")
    assert attempt is not None
    assert attempt.outcome == Outcome.OK
    await house.say(run_id, "retry")
    assert (house.state(run_id), host.ran["act"]) == ("succeeded", 1)


async def test_who_restarts_reads_back_what_hosts_said_meanwhile_and_asks_for_the_rest(house: House) -> None:
    first, second = house.host("db1", at_once=False), house.host("db2", at_once=False)
    for host in (first, second):
        host.allow(*action("act", "once"))
    house.runbook(
        "runbook: r\nabout: x\nsteps:\n  - id: both\n    parallel:\n"
        "      - {id: a, do: act, on: db1, commit: true}\n      - {id: b, do: act, on: db2, commit: true}\n"
    )
    run_id = await house.begin("r")
    await house.settle()
    first.finish(first.running()[0])
    # Committed, and nobody had the time to hand it on.
    for agent, event in house.fleet.take():
        house._commit(agent, event)
    house.kill()
    await house.start()
    asked = house.runs.counters.asked
    await house.settle()
    assert house.runs.counters.asked > asked
    second.finish(second.running()[0])
    await house.settle()
    assert house.state(run_id) == "succeeded"
    assert (first.ran["act"], second.ran["act"]) == (1, 1)


async def test_counters_are_never_repeated_by_a_restart(house: House) -> None:
    host = house.host("db1")
    host.allow(*action("act", "repeat"))
    house.runbook(ONE)
    seen: list[int] = []
    house.fleet.lose = lambda _, body: bool(seen.append(open_order(public_key(SEED), body)[0].counter))
    for _ in range(3):
        await house.begin("r")
        await house.settle()
        house.kill()
        await house.start()
    assert seen == sorted(set(seen))
    assert seen[-1] >= 2 * COUNTER_STEP


async def test_a_cut_off_once_action_is_not_tried_again_by_itself(house: House) -> None:
    host = house.host("db1", at_once=False)
    host.allow(*action("act", "once"))
    house.runbook(
        "runbook: r\nabout: x\nsteps:\n"
        "  - {id: a, do: act, on: db1, commit: true, timeout: 30s, retry: {times: 3, delay: 1s}}\n"
    )
    run_id = await house.begin("r")
    await house.settle()
    await house.pass_s(31)
    assert house.state(run_id) == "held"
    assert "cancelled" in house.run(run_id).detail
    assert host.ran["act"] == 1


async def test_a_second_copy_that_a_new_ledger_refuses_is_no_proof_that_the_first_never_ran(
    house: House,
) -> None:
    host = house.host("db1", at_once=False)
    host.allow(*action("act", "once"))
    house.runbook(ONE)
    copies: list[bytes] = []
    house.fleet.lose = lambda _, body: is_command(body) and bool(copies.append(body))
    run_id = await house.begin("r")
    await house.runs.turn()
    assert host.ran["act"] == 1
    host.told.clear()  # With the host went what it had to say.
    house.clock.advance(1)
    host.reinstall()
    house.fleet.send(host.agent, copies[0], 1_000)
    await house.settle()
    assert (house.state(run_id), host.ran["act"]) == ("held", 1)
    assert "refuses it as an old one" in house.run(run_id).detail
