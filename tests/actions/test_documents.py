"""Commands, rosters and votes: what is signed comes back as it was, and nothing else passes for it."""

import json
from dataclasses import replace
from typing import Any

import pytest

from watchbill.actions.canonical import canonical, read_canonical
from watchbill.actions.definition import Action, Argument, Effect, Kind, Needs, read_action
from watchbill.actions.grants import (
    ApprovalsMissing,
    Manifest,
    ProtectedEffect,
    Vote,
    check_command,
    digest,
    grant_id,
    read_manifest,
    sign_vote,
)
from watchbill.actions.order import Address, Command, Purpose, open_order, sign_order
from watchbill.actions.roster import Person, Roster, RosterRefused, open_roster, sign_roster
from watchbill.actions.signing import SignatureRefused, key_id, public_key
from watchbill.errors import Unreadable

COLLECTOR, SAFE, ANNA, BORIS = (bytes([n]) * 32 for n in (1, 2, 3, 4))
NOW = 1_800_000_000_000
PROMOTE = Action(
    name="pg.promote",
    argv=("/usr/bin/psql", "-p", "{{port}}"),
    effect=Effect.ONCE,
    arguments=(Argument(name="port", kind=Kind.INT, least=1024, most=65535, default=5432),),
    needs=Needs(2, "dba"),
)
COMMAND = Command(
    run="r1",
    runbook="pg-failover",
    runbook_digest="ab" * 32,
    step="promote",
    attempt=1,
    purpose=Purpose.STEP,
    host="db2",
    action="pg.promote",
    action_digest=PROMOTE.digest(),
    arguments={"port": 5432},
)
ADDRESS = Address(site="main", agent="agent-2", epoch=3, counter=17, issued_ms=NOW, not_after_ms=NOW + 60_000)
ROSTER = Roster(
    site="main",
    serial=4,
    issued_ms=NOW,
    expires_ms=NOW + 86_400_000,
    people=(
        Person(name="anna", key=public_key(ANNA), roles=("dba",)),
        Person(name="boris", key=public_key(BORIS), roles=("dba", "ops"), scopes=("team=db",)),
    ),
)
EFFECT = ProtectedEffect(
    step="promote",
    agent="agent-2",
    host="db2",
    action="pg.promote",
    action_digest=PROMOTE.digest(),
    arguments={"port": 5432},
)
MANIFEST = Manifest(
    site="main",
    run="r1",
    runbook="pg-failover",
    runbook_digest="ab" * 32,
    gate="consent",
    requester="carla",
    reason="db1 is gone",
    drill=False,
    opened_ms=NOW,
    expires_ms=NOW + 900_000,
    effects=(EFFECT,),
)


def vote(seed: bytes, person: str, **changes: object) -> bytes:
    said = Vote(
        manifest=digest(MANIFEST.content()),
        site="main",
        run="r1",
        gate="consent",
        person=person,
        approve=True,
        signed_ms=NOW,
        expires_ms=NOW + 600_000,
    )
    return sign_vote(seed, replace(said, **changes))  # type: ignore[arg-type]


def agreed(command: Command, **labels: str) -> frozenset[str]:
    return check_command(command, "agent-2", "main", PROMOTE.needs, ROSTER, labels, NOW + 1000).approvers


BOTH = replace(COMMAND, manifest=MANIFEST.content(), votes=(vote(ANNA, "anna"), vote(BORIS, "boris")))


def test_an_order_comes_back_as_it_was_signed() -> None:
    signed = sign_order(COLLECTOR, ADDRESS, BOTH)
    assert open_order(public_key(COLLECTOR), signed) == (ADDRESS, BOTH)
    with pytest.raises(SignatureRefused):
        open_order(public_key(SAFE), signed)


@pytest.mark.parametrize("at", [0, 63, 64, 90, -1])
def test_a_changed_byte_is_refused(at: int) -> None:
    signed = bytearray(sign_order(COLLECTOR, ADDRESS, COMMAND))
    signed[at] ^= 1
    with pytest.raises(SignatureRefused):
        open_order(public_key(COLLECTOR), bytes(signed))


def test_the_same_attempt_has_one_key_and_a_retry_another() -> None:
    assert COMMAND.key("main", "a") == BOTH.key("main", "a")
    assert COMMAND.key("main", "a") != COMMAND.key("main", "b")
    assert COMMAND.key("main", "a") != replace(COMMAND, attempt=2).key("main", "a")


def test_two_of_the_role_who_did_not_ask_are_enough() -> None:
    assert agreed(BOTH, team="db") == {"anna", "boris"}


@pytest.mark.parametrize(
    ("command", "labels", "why"),
    [
        (BOTH, {"team": "web"}, "boris: this host is outside his scope"),
        (replace(BOTH, votes=BOTH.votes[:1]), {"team": "db"}, "1 of 2 of dba"),
        (replace(BOTH, votes=(BOTH.votes[0], BOTH.votes[0])), {"team": "db"}, "1 of 2 of dba"),
        (replace(BOTH, arguments={"port": 5433}), {"team": "db"}, "does not name this step"),
        (replace(BOTH, run="r2"), {"team": "db"}, "another run"),
        (replace(BOTH, manifest=b""), {"team": "db"}, "2 of dba have to agree"),
        (
            replace(BOTH, votes=(BOTH.votes[0], vote(BORIS, "boris", approve=False))),
            {"team": "db"},
            "boris said no",
        ),
        (replace(BOTH, votes=(BOTH.votes[0], vote(ANNA, "boris"))), {"team": "db"}, "signature"),
        (
            replace(BOTH, votes=(BOTH.votes[0], vote(BORIS, "boris", manifest="00" * 32))),
            {"team": "db"},
            "something else",
        ),
        (replace(BOTH, votes=(BOTH.votes[0], vote(BORIS, "boris", expires_ms=NOW))), {"team": "db"}, "ended"),
    ],
)
def test_less_than_was_asked_for_is_not_enough(command: Command, labels: dict[str, str], why: str) -> None:
    with pytest.raises(ApprovalsMissing, match=why):
        agreed(command, **labels)


def test_what_was_agreed_to_says_how_often_and_what_did_not_say_is_once() -> None:
    many = replace(MANIFEST, effects=(replace(EFFECT, times=3),), asked=7)
    assert read_manifest(many.content()) == many
    old = replace(many, version=1)
    assert b"times" not in old.content()
    found = read_manifest(old.content())
    assert (found.version, found.effects[0].times, found.content()) == (1, 1, old.content()), "the same bytes"
    # Named twice, as an undo by the same action is: as often as both say.
    assert replace(many, effects=(*many.effects, EFFECT)).times(EFFECT) == 4
    assert many.times(replace(EFFECT, step="other")) is None
    assert len({grant_id(one.content(), EFFECT) for one in (many, old, replace(many, asked=8))}) == 3
    assert grant_id(many.content(), EFFECT) == grant_id(many.content(), replace(EFFECT, times=9))


@pytest.mark.parametrize(
    "change",
    [{"v": 3}, {"v": 0}, {"asked": "x"}, {"times": 129}, {"times": -1}, {"times": True}, {"times": 1.5}],
)
def test_a_manifest_that_says_it_otherwise_is_none(change: dict[str, Any]) -> None:
    document = json.loads(MANIFEST.content())
    for name, value in change.items():
        (document["effects"][0] if name == "times" else document)[name] = value
    with pytest.raises(Unreadable):
        read_manifest(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


def test_who_asked_does_not_count() -> None:
    asked = replace(MANIFEST, requester="anna").content()
    votes = tuple(
        vote(seed, name, manifest=digest(asked)) for seed, name in ((ANNA, "anna"), (BORIS, "boris"))
    )
    with pytest.raises(ApprovalsMissing, match="anna: asked for it himself"):
        agreed(replace(BOTH, manifest=asked, votes=votes), team="db")


def test_a_roster_is_taken_from_installed_keys_alone() -> None:
    keys = {key_id(public_key(SAFE)): public_key(SAFE)}
    assert open_roster(keys, sign_roster(SAFE, ROSTER)) == ROSTER
    for refused in (sign_roster(COLLECTOR, ROSTER), b"", b"x" * 70):
        with pytest.raises(RosterRefused):
            open_roster(keys, refused)
    with pytest.raises(RosterRefused, match=r"roster\.pub"):
        open_roster({}, sign_roster(SAFE, ROSTER))


def test_one_key_with_two_names_is_no_roster() -> None:
    twin = replace(ROSTER.people[0], name="anna2")
    with pytest.raises(Unreadable, match="twice"):
        sign_roster(SAFE, replace(ROSTER, people=(*ROSTER.people, twin)))


def test_an_action_is_told_and_read_back_with_the_same_digest() -> None:
    assert read_action(PROMOTE.document()).digest() == PROMOTE.digest()
    assert PROMOTE.command_line(PROMOTE.bind({})) == ("/usr/bin/psql", "-p", "5432")


@pytest.mark.parametrize(
    "content", [b'{"a":1,"a":1}', b'{ "a":1}', b'{"b":1,"a":2}', b'{"a":1.5}', b"[]", b'{"a":NaN}']
)
def test_a_second_spelling_is_no_document(content: bytes) -> None:
    with pytest.raises(Unreadable):
        read_canonical(content)
    assert read_canonical(canonical({"b": ["ä", 1], "a": None})) == {"a": None, "b": ["ä", 1]}
