"""After a gate, a hold, a wait or a resumption, what was looked at is looked at again before the first effect."""

import json

import pytest

from tests.runs.conftest import House, action
from watchbill.errors import Refused
from watchbill_collector.runbooks.run.rows import Voted
from watchbill_collector.services.run_twin import Ran

GATED = """
runbook: r
about: x
steps:
  - {id: look, do: look, on: db1}
  - {id: down, check: not look.out.up}
  - {id: consent, approve: ops, count: COUNT, timeout: 15m}
  - {id: act, do: act, on: db1, commit: true}
  - {id: after, do: look, on: db1}
  - {id: more, do: act, on: db1, commit: true}
"""


class Primary:
    """Whether it is up, as the look sees it."""

    up = False


def prepared(house: House, count: int = 1) -> Primary:
    primary = Primary()
    host = house.host("db1")
    host.allow(*action("look", "read", lambda _: Ran(output=json.dumps({"up": primary.up}))))
    host.allow(*action("act", "once"))
    house.runbook(GATED.replace("COUNT", str(count)))
    return primary


async def agree(house: House, run_id: str, *people: str, yes: bool = True) -> None:
    for person in people:
        gate = house.run(run_id).step("consent").gate
        assert gate is not None
        await house.add(run_id, Voted(step="consent", person=person, approve=yes, digest=gate.opened.digest))


async def test_what_held_before_the_gate_is_looked_at_again_behind_it(house: House) -> None:
    prepared(house)
    run_id = await house.begin("r")
    await house.settle()
    assert (house.state(run_id), house.named("db1").ran["look"]) == ("waiting", 1)
    await agree(house, run_id, "bob")
    assert house.state(run_id) == "succeeded"
    # Once before the gate, once behind it, and the step of its own between the effects, after which nothing waited.
    assert house.named("db1").ran == {"look": 3, "act": 2}
    kinds = house.kinds(run_id)
    assert kinds.count("refresh") == 1
    assert kinds.index("gate_closed") < kinds.index("refresh") < kinds.index("refreshed")


async def test_a_premise_that_does_not_hold_any_more_stops_there(house: House) -> None:
    primary = prepared(house)
    run_id = await house.begin("r")
    await house.settle()
    primary.up = True
    await agree(house, run_id, "bob")
    assert (house.state(run_id), house.run(run_id).held_step) == ("held", "down")
    assert house.named("db1").ran["act"] == 0
    # It is down again, and somebody says so: it is looked at anew, not believed.
    primary.up = False
    await house.say(run_id, "retry")
    assert house.state(run_id) == "succeeded"
    assert house.named("db1").ran["act"] == 2


async def test_a_resumption_makes_premises_old(house: House) -> None:
    prepared(house)
    house.named("db1").at_once = False
    run_id = await house.begin("r")
    await house.settle()
    house.named("db1").finish(house.named("db1").running()[0])
    await house.settle()
    await agree(house, run_id, "bob")
    house.kill()
    await house.start()
    house.named("db1").at_once = True
    for key in house.named("db1").running():
        house.named("db1").finish(key)
    await house.settle()
    assert house.state(run_id) == "succeeded"
    assert house.named("db1").ran["act"] == 2


async def test_a_gate_takes_different_people_and_not_who_asked_and_one_no_closes_it(house: House) -> None:
    prepared(house, count=2)
    run_id = await house.begin("r", requester="ada")
    await house.settle()
    await agree(house, run_id, "ada", "bob", "bob")
    assert house.state(run_id) == "waiting"
    await agree(house, run_id, "eve")
    assert house.state(run_id) == "succeeded"
    run_id = await house.begin("r")
    await house.settle()
    await agree(house, run_id, "bob")
    await agree(house, run_id, "eve", yes=False)
    assert (house.state(run_id), "eve said no" in house.run(run_id).detail) == ("held", True)
    await house.say(run_id, "retry")
    assert house.state(run_id) == "waiting"
    await agree(house, run_id, "bob", "eve")
    assert house.state(run_id) == "succeeded"


async def test_a_gate_nobody_passes_in_time_fails_and_cannot_be_skipped(house: House) -> None:
    prepared(house)
    run_id = await house.begin("r")
    await house.settle()
    await house.pass_s(15 * 60 + 1)
    assert house.state(run_id) == "held"
    assert "0 of 1 of ops agreed in time" in house.run(run_id).detail
    for verb in ("skip", "mark-done"):
        with pytest.raises(Refused, match="is a gate"):
            await house.say(run_id, verb)
    assert house.named("db1").ran["act"] == 0


async def test_votes_for_another_manifest_do_not_count(house: House) -> None:
    prepared(house)
    run_id = await house.begin("r")
    await house.settle()
    await house.add(run_id, Voted(step="consent", person="bob", approve=True, digest="0" * 64))
    assert house.state(run_id) == "waiting"
