"""Who is disabled on the collector agrees to nothing any more, and what he had agreed to does not come back."""

import base64

from tests.runs.conftest import SITE, House, action
from watchbill.actions.definition import Needs
from watchbill.actions.grants import Vote, sign_vote
from watchbill.actions.roster import Person, Roster
from watchbill.actions.signing import public_key
from watchbill_collector.runbooks.run.rows import Voted

SEEDS = {name: bytes([number]) * 32 for number, name in enumerate(("anna", "boris", "carla"), 20)}
PAGE = """
runbook: page
about: x
steps:
  - {id: consent, approve: ops, count: 2, timeout: 15m}
  - {id: act, do: act, on: db1, commit: true}
"""
SIGNED = """
runbook: signed
about: x
steps:
  - {id: consent, approve: dba, count: 2, timeout: 15m}
  - {id: act, do: pg.promote, on: {select: 'team="db"', wave: 1}, commit: true}
"""


def prepared(house: House) -> None:
    host = house.host("db1", {"team": "db"})
    host.allow(*action("act", "once"))
    house.runbook(PAGE)


def protected(house: House) -> None:
    now_ms = house.clock.wall_ms()
    people = tuple(Person(name=name, key=public_key(seed), roles=("dba",)) for name, seed in SEEDS.items())
    house.roster = Roster(
        site=SITE, serial=1, issued_ms=now_ms, expires_ms=now_ms + 86_400_000, people=people
    )
    for name in ("db1", "db2"):
        host = house.host(name, {"team": "db"}, at_once=False)
        host.allow(*action("pg.promote", "once", needs=Needs(2, "dba")))
        host.roster = house.roster
    house.runbook(SIGNED)


async def agree(house: House, run_id: str, *people: str, signed: bool = False) -> None:
    for person in people:
        gate = house.run(run_id).step("consent").gate
        assert gate is not None
        opened = gate.opened
        vote = Vote(
            manifest=opened.digest,
            site=SITE,
            run=run_id,
            gate="consent",
            person=person,
            approve=True,
            signed_ms=house.clock.wall_ms(),
            expires_ms=house.clock.wall_ms() + 3_600_000,
        )
        text = base64.b64encode(sign_vote(SEEDS[person], vote)).decode() if signed else ""
        row = Voted(step="consent", person=person, approve=True, digest=opened.digest, signed=text)
        await house.add(run_id, row)


async def let_out(house: House, *people: str) -> None:
    house.disabled = frozenset(people)
    house.runs.changed()
    await house.settle()


async def test_a_vote_is_void_once_its_person_is_disabled_and_stays_so_when_he_is_let_in_again(
    house: House,
) -> None:
    prepared(house)
    run_id = await house.begin("page")
    await house.settle()
    await agree(house, run_id, "Boris")
    await let_out(house, "boris")
    assert house.kinds(run_id).count("votes_voided") == 1, "names of users are the same in small letters"
    await agree(house, run_id, "anna")
    assert house.state(run_id) == "waiting"
    await let_out(house)
    assert house.state(run_id) == "waiting"
    await agree(house, run_id, "Boris")
    assert house.state(run_id) == "succeeded", "what he says now is said by somebody who may"


async def test_who_is_disabled_says_neither_yes_nor_no(house: House) -> None:
    prepared(house)
    run_id = await house.begin("page")
    await house.settle()
    await let_out(house, "boris")
    opened = house.run(run_id).step("consent").gate
    assert opened is not None
    no = Voted(step="consent", person="boris", approve=False, digest=opened.opened.digest)
    await house.add(run_id, no)
    assert house.state(run_id) == "waiting"
    await agree(house, run_id, "anna", "carla")
    assert house.state(run_id) == "succeeded"


async def test_it_holds_when_the_collector_was_down_meanwhile(house: House) -> None:
    prepared(house)
    run_id = await house.begin("page")
    await house.settle()
    await agree(house, run_id, "boris")
    house.kill()
    house.disabled = frozenset({"boris"})
    await house.start()
    await house.settle()
    await agree(house, run_id, "anna")
    assert house.state(run_id) == "waiting"
    assert "votes_voided" in house.kinds(run_id)


async def test_what_was_agreed_to_is_not_gone_on_with_on_further_hosts(house: House) -> None:
    protected(house)
    run_id = await house.begin("signed")
    await house.settle()
    await agree(house, run_id, "anna", "boris", signed=True)
    first = house.named("db1")
    assert len(first.running()) == 1
    await let_out(house, "boris")
    first.finish(first.running()[0])
    await house.settle()
    assert house.state(run_id) == "held"
    assert "1 of 2 of dba still agree: boris was disabled" in house.run(run_id).detail
    assert house.named("db2").ran["pg.promote"] == 0
    # Others are asked, and what was done is not done again.
    await house.say(run_id, "retry", "consent")
    await agree(house, run_id, "anna", "carla", signed=True)
    second = house.named("db2")
    second.finish(second.running()[0])
    await house.settle()
    assert house.state(run_id) == "succeeded"
    assert (first.ran["pg.promote"], second.ran["pg.promote"]) == (1, 1)


async def test_a_command_that_has_not_left_is_refused_by_its_host_without_his_vote(house: House) -> None:
    protected(house)
    run_id = await house.begin("signed")
    await house.settle()
    house.named("db1").connected = False
    await agree(house, run_id, "anna", "boris", signed=True)
    await let_out(house, "boris")
    house.named("db1").connected = True
    house.runs.connected(house.named("db1").agent)
    await house.settle()
    await house.pass_s(10)
    assert house.state(run_id) == "held"
    assert house.named("db1").ran["pg.promote"] == 0
