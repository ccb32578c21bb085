"""How often something protected may begin: as people agreed to it, counted by hosts and here; more is asked anew."""

import pytest

from tests.runs.conftest import SEED, SITE, House, action
from watchbill.actions.definition import Needs
from watchbill.actions.grants import Manifest, read_manifest
from watchbill.actions.order import Address, Command, Purpose, sign_order
from watchbill.actions.signing import public_key
from watchbill.errors import Refused
from watchbill_collector.runbooks.run.commands import command_of
from watchbill_collector.runbooks.run.words import Phase
from watchbill_collector.services.run_twin import HostTwin, Ran
from watchbill_collector.services.run_views import run_view
from watchbill_collector.store import audit
from watchbill_collector.store.audit import Filter

NEEDS = Needs(2, "dba")
HOSTS = ("db1", "db2", "db3")
FENCE = """
runbook: fence
about: x
steps:
  - {id: consent, approve: dba, count: 2, timeout: 15m}
  - {id: fence, do: fence, on: {select: 'team="db"', wave: 3}, commit: true, retry: {times: 1, delay: 5s}}
"""
MOVE = """
runbook: move
about: x
on_fail: undo
steps:
  - {id: consent, approve: dba, count: 2, timeout: 15m}
  - {id: move, do: move, on: db1, undo: {do: back, on: db1}}
  - {id: check, do: plain, on: db1}
"""


def hosts_of(house: House, effect: str, program: dict[str, list[int]], **more: object) -> list[HostTwin]:
    """Hosts whose action ends with these exit codes, one after the other, then well."""
    made = []
    for name in HOSTS:
        codes = iter(program.get(name, []))
        host = house.host(name, {"team": "db"})
        host.allow(*action("fence", effect, lambda _, codes=codes: Ran(next(codes, 0)), needs=NEEDS, **more))
        made.append(host)
    house.staff()
    house.runbook(FENCE)
    return made


def manifest(house: House, run_id: str) -> Manifest:
    gate = house.run(run_id).step("consent").gate
    assert gate is not None
    return read_manifest(gate.opened.manifest.encode())


async def asked(house: House, name: str) -> str:
    run_id = await house.begin(name)
    await house.settle()
    return run_id


async def test_what_is_agreed_to_says_how_often_and_retries_by_themselves_are_in_it(house: House) -> None:
    db1, *_ = hosts_of(house, "once", {"db1": [1]})
    run_id = await asked(house, "fence")
    assert {one.times for one in manifest(house, run_id).effects} == {2}
    await house.agree(run_id, "consent", "anna", "boris")
    await house.pass_s(6)
    assert (house.state(run_id), db1.ran["fence"]) == ("succeeded", 2)


async def test_a_retry_of_a_person_that_needs_more_asks_people_again_and_for_that_alone(house: House) -> None:
    db1, db2, db3 = hosts_of(house, "once", {"db1": [1, 1, 1]})
    run_id = await asked(house, "fence")
    first = manifest(house, run_id)
    await house.agree(run_id, "consent", "anna", "boris")
    await house.pass_s(6)
    assert house.state(run_id) == "held"
    await house.say(run_id, "retry")
    assert house.state(run_id) == "waiting"
    again = manifest(house, run_id)
    assert [(one.host, one.times) for one in again.effects] == [("db1", 2)], "what went well is over"
    assert again.content() != first.content()
    assert db1.ran["fence"] == 2, "nothing begins before they agree"
    await house.agree(run_id, "consent", "boris", "carla")
    await house.pass_s(6)
    assert house.state(run_id) == "succeeded"
    assert [one.ran["fence"] for one in (db1, db2, db3)] == [4, 1, 1]


async def test_a_retry_within_what_was_agreed_to_asks_nobody(house: House) -> None:
    db1, *_ = hosts_of(house, "once", {}, timeout_s=60)
    db1.at_once = False
    run_id = await asked(house, "fence")
    await house.agree(run_id, "consent", "anna", "boris")
    db1.reboot()
    db1.at_once = True
    await house.settle()
    assert "it has no probe" in house.run(run_id).detail
    await house.say(run_id, "retry")
    assert (house.state(run_id), db1.ran["fence"]) == ("succeeded", 2)


async def test_it_holds_after_a_restart_between_the_asking_and_the_answer(house: House) -> None:
    db1, *_ = hosts_of(house, "once", {"db1": [1, 1]})
    run_id = await asked(house, "fence")
    await house.agree(run_id, "consent", "anna", "boris")
    await house.pass_s(6)
    await house.say(run_id, "retry")
    house.kill()
    await house.start()
    await house.settle()
    assert house.state(run_id) == "waiting"
    await house.agree(run_id, "consent", "anna", "boris")
    assert (house.state(run_id), db1.ran["fence"]) == ("succeeded", 3)


async def test_an_unknown_outcome_on_one_host_of_many_stops_what_has_not_begun_and_keeps_what_went_well(
    house: House,
) -> None:
    """One host dies in the middle of its part; the others of its wave end as they end, the next wave does not begin."""
    house.clock.advance(1)
    made = hosts_of(house, "once", {})
    house.runbook(FENCE.replace("wave: 3", "wave: 2").replace(", retry: {times: 1, delay: 5s}", ""))
    db1, db2, _ = made
    db1.at_once = db2.at_once = False
    run_id = await asked(house, "fence")
    await house.agree(run_id, "consent", "anna", "boris")
    db1.reboot()
    await house.settle()
    assert house.state(run_id) == "running", "the other of its wave is at work"
    db2.finish(db2.running()[0])
    await house.settle()
    assert house.state(run_id) == "held"
    assert "whether fence ran on db1 is unknown" in house.run(run_id).detail
    view = run_view(house.run(run_id), house.runs.get(run_id).flow, house.world(), 0)  # type: ignore[union-attr]
    assert next(one.state for one in view.steps if one.id == "fence") == "unknown"
    assert [one.ran["fence"] for one in made] == [1, 1, 0]
    with pytest.raises(Refused, match="is a gate"):
        await house.say(run_id, "skip", "consent")
    # It may have begun: a person's retry is once more than was agreed to, on that host; the third may still begin.
    db1.at_once = True
    await house.say(run_id, "retry")
    assert house.state(run_id) == "waiting"
    assert sorted((one.host, one.times) for one in manifest(house, run_id).effects) == [
        ("db1", 1),
        ("db3", 1),
    ]
    await house.agree(run_id, "consent", "anna", "carla")
    assert house.state(run_id) == "succeeded"
    assert [one.ran["fence"] for one in made] == [2, 1, 1]


# ---------------------------------------------------------------- undo


def movable(house: House, back: list[int]) -> HostTwin:
    host = house.host("db1", {"team": "db"})
    codes = iter(back)
    host.allow(*action("move", "once", needs=NEEDS))
    host.allow(*action("back", "once", lambda _: Ran(next(codes, 0)), needs=NEEDS))
    host.allow(*action("plain", "repeat", lambda _: Ran(1)))
    house.staff()
    house.runbook(MOVE)
    return host


async def test_a_protected_undo_is_agreed_to_with_its_step_and_needs_nobody_more(house: House) -> None:
    host = movable(house, [])
    run_id = await asked(house, "move")
    named = [(one.action, one.times) for one in manifest(house, run_id).effects]
    assert named == [("move", 1), ("back", 1)]
    await house.agree(run_id, "consent", "anna", "boris")
    assert house.state(run_id) == "undone"
    assert host.ran == {"move": 1, "back": 1, "plain": 1}


async def test_an_undo_that_failed_is_tried_again_once_people_agree_to_it_again(house: House) -> None:
    host = movable(house, [1, 1])
    run_id = await asked(house, "move")
    await house.agree(run_id, "consent", "anna", "boris")
    assert house.state(run_id) == "held"
    assert "not undone: back on db1: failed" in house.run(run_id).detail
    await house.say(run_id, "retry")
    assert house.state(run_id) == "undoing"
    assert "2 of dba to agree" in house.summary(run_id).state_detail
    assert [(one.action, one.times) for one in manifest(house, run_id).effects] == [("back", 1)], (
        "what is behind it is not allowed once more"
    )
    assert host.ran["back"] == 1
    house.kill()
    await house.start()
    await house.settle()
    await house.agree(run_id, "consent", "anna", "boris")
    assert (house.state(run_id), host.ran["back"]) == ("held", 2)
    await house.say(run_id, "retry")
    await house.agree(run_id, "consent", "boris", "carla")
    assert (house.state(run_id), host.ran) == ("undone", {"move": 1, "back": 3, "plain": 1})


async def test_an_undo_that_nobody_agrees_to_again_stays_held_and_can_be_asked_once_more(
    house: House,
) -> None:
    host = movable(house, [1])
    run_id = await asked(house, "move")
    await house.agree(run_id, "consent", "anna", "boris")
    await house.say(run_id, "retry")
    await house.pass_s(16 * 60)
    assert house.state(run_id) == "held"
    assert "0 of 2 of dba agreed in time" in house.run(run_id).detail
    await house.say(run_id, "retry", "move")
    await house.agree(run_id, "consent", "anna", "boris")
    assert (house.state(run_id), host.ran["back"]) == ("undone", 2)


# ---------------------------------------------------------------- others who order


def stolen(
    house: House, run_id: str, attempt: int, epoch: int = 9, counter: int = 0
) -> tuple[HostTwin, bytes]:
    """An order for what was agreed to, with the collector's own key and another attempt's number."""
    live = house.runs.get(run_id)
    assert live is not None
    newest = live.run.step("fence").newest("db1")
    assert newest is not None
    true = command_of(live.run, live.flow, newest)
    forged = Command(**{name: getattr(true, name) for name in true.__slots__} | {"attempt": attempt})
    now_ms = house.clock.wall_ms()
    host = house.named("db1")
    address = Address(
        site=SITE,
        agent=host.agent,
        epoch=epoch,
        counter=counter or 10**6 + attempt,
        issued_ms=now_ms,
        not_after_ms=now_ms + 9_000,
    )
    assert (forged.purpose, public_key(SEED)) == (Purpose.STEP, host._command_key)
    return host, sign_order(SEED, address, forged)


async def test_what_somebody_else_had_begun_within_what_was_agreed_to_is_told_loudly(house: House) -> None:
    """Before the run's own command left: the host cannot know whose it is, the collector does."""
    db1, *_ = hosts_of(house, "once", {})
    run_id = await asked(house, "fence")
    db1.connected = False
    await house.agree(run_id, "consent", "anna", "boris")
    host, order = stolen(house, run_id, 90, epoch=1, counter=1)
    host.take(order)
    db1.connected = True
    house.runs.connected(db1.agent)
    await house.settle()
    live = house.runs.get(run_id)
    assert live is None, "its own command was the second of two that people agreed to"
    assert db1.ran["fence"] == 2
    (row,) = [one.document() for one in house.journal(run_id) if one.kind == "unasked"]
    assert (row["reason"], row["agent"]) == ("accepted", db1.agent)
    rows = house.store.read(lambda c: audit.rows_newest(c, SITE, Filter(), 100))
    told = [one for one in rows if one.action == "command.unasked"]
    assert [(one.actor, one.target) for one in told] == [("host", db1.agent)]


@pytest.mark.parametrize("how", ["somebody else used it up", "its ledger is lost"])
async def test_what_a_host_says_is_spent_is_asked_again_by_a_retry_of_the_step(
    house: House, how: str
) -> None:
    house.runbook(FENCE)
    db1, *_ = hosts_of(house, "once", {})
    run_id = await asked(house, "fence")
    db1.connected = False
    await house.agree(run_id, "consent", "anna", "boris")
    live = house.runs.get(run_id)
    assert live is not None
    if how == "its ledger is lost":
        house.clock.advance(0.001)
        db1.reinstall()
    else:
        for attempt in (90, 91):
            host, order = stolen(house, run_id, attempt, epoch=1, counter=attempt - 89)
            host.take(order)
        assert db1.ran["fence"] == 2
        db1.told.clear()
    db1.connected = True
    house.runs.connected(db1.agent)
    await house.pass_s(20)
    assert house.state(run_id) == "held"
    assert "spent" in house.run(run_id).detail
    assert house.kinds(run_id).count("refused") == 1, "it is not asked for again and again"
    ran = db1.ran["fence"]
    await house.say(run_id, "retry")
    assert [one.host for one in manifest(house, run_id).effects] == ["db1"]
    await house.agree(run_id, "consent", "anna", "boris")
    assert (house.state(run_id), db1.ran["fence"]) == ("succeeded", ran + 1)


async def test_what_somebody_else_orders_in_a_runs_name_is_refused_and_seen_in_the_run(house: House) -> None:
    db1, db2, _ = hosts_of(house, "once", {"db1": [1, 1]})
    db2.at_once = False
    run_id = await asked(house, "fence")
    await house.agree(run_id, "consent", "anna", "boris")
    await house.pass_s(6)
    assert db1.ran["fence"] == 2
    for attempt in (90, 91, 90):
        host, order = stolen(house, run_id, attempt)
        host.take(order)
    await house.settle()
    assert db1.ran["fence"] == 2
    assert house.kinds(run_id).count("unasked") == 2
    live = house.runs.get(run_id)
    assert live is not None
    view = run_view(live.run, live.flow, house.world(), 0)
    told = [one for step in view.steps for one in step.attempts if one.purpose == "unasked"]
    assert [(one.host, one.outcome) for one in told] == [("db1", "refused")] * 2
    assert all("spent: it has begun 2 times; this collector did not order it" in one.detail for one in told)
    house.kill()
    await house.start()
    assert len(house.run(run_id).unasked) == 2
    assert house.run(run_id).phase is Phase.FORWARD
