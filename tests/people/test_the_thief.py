"""A thief has the collector: its keys, its store, its configuration, its clock. What people protect stays shut.

He plays against the runner itself, with its own files, ledger and signatures: `db2` allows `pg.promote` to who shows
the word of two of the role dba, and its root has put the safe's key into `roster.pub`. Orders that the thief signs are
the collector's orders; nothing about them is forged. Each scene ends with nothing run and with an event that says what
was tried: the agent keeps those, and no collector can make them unsaid.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from watchbill.actions.bounds import ROSTER_DAYS_MAX
from watchbill.actions.enrolled import Enrolled, write_enrolled
from watchbill.actions.files import load_allowed
from watchbill.actions.grants import Manifest, ProtectedEffect, Vote, digest, sign_vote
from watchbill.actions.order import Address, Command, Order, Purpose, Refusal, RosterCopy, sign_order
from watchbill.actions.outcomes import (
    COMMAND_ACCEPTED,
    COMMAND_REFUSED,
    Accepted,
    Refused,
    read_accepted,
    read_refused,
)
from watchbill.actions.roster import DAY_MS, Person, Roster, sign_roster
from watchbill.actions.signing import Domain, public_key, sign
from watchbill.clock import ManualClock
from watchbill.homes import Homes
from watchbill_agent.runner.core import Runner

COLLECTOR, SAFE, ANNA, BORIS, THIEF, THIEFS_SAFE = (bytes([number]) * 32 for number in range(1, 7))
SITE, AGENT, HOST = "main", "agent-2", "db2"
HOUR_MS: Final = 3_600_000


class Nobody:
    """A launcher whose supervisors never begin: what was accepted is counted, and changes nothing here."""

    def start(self, key: str, task: Any) -> None:
        pass

    def reading(self, name: str, task: Any) -> list[str]:
        return ["/bin/false"]

    def reap(self) -> None:
        pass


class Victim:
    """The host, as its root has made it."""

    def __init__(self, root: Path, uid: int) -> None:
        self.clock = ManualClock()
        self.homes = Homes.resolve("runner", root, {})
        self._uid = uid
        actions = self.homes.etc / "actions.d"
        actions.mkdir(parents=True)
        (actions / "pg.toml").write_text(
            '[[action]]\nname = "pg.promote"\nargv = ["/bin/true", "{{port}}"]\neffect = "once"\n'
            'args.port = { type = "int", min = 1024, max = 65535, default = 5432 }\n'
            'needs = { approvals = 2, role = "dba" }\nparallel = 8\ncooldown = "30m"\n'
            '[[action]]\nname = "pg.fence"\nargv = ["/bin/true"]\neffect = "once"\n'
            'needs = { approvals = 2, role = "dba" }\nparallel = 32\n'
        )
        enrolled = Enrolled(
            site=SITE,
            agent_id=AGENT,
            instance=HOST,
            command_key=public_key(COLLECTOR),
            labels={"team": "db"},
        )
        write_enrolled(self.homes.etc, enrolled)
        self.trust(SAFE)
        self.allowed = load_allowed(self.homes.etc, uid)
        self.runner = self.started()

    def trust(self, *safes: bytes) -> None:
        """What root writes into roster.pub."""
        path = self.homes.etc / "roster.pub"
        path.write_text("".join(f"ed25519 {public_key(one).hex()}\n" for one in safes))
        path.chmod(0o644)

    def started(self) -> Runner:
        return Runner(self.homes, self._uid, self.clock, Nobody(), slots=128)


class Thief:
    """Whoever owns the collector. He numbers, dates and signs orders as he likes."""

    def __init__(self, victim: Victim) -> None:
        self.victim = victim
        self.counter = 0
        self.said: list[Accepted | Refused] = []

    def order(self, order: Order) -> list[Accepted | Refused]:
        """Send an order, signed by the command key; what the host has to say."""
        self.counter += 1
        now_ms = self.victim.clock.wall_ms()
        address = Address(
            site=SITE,
            agent=AGENT,
            epoch=1,
            counter=self.counter,
            issued_ms=now_ms,
            not_after_ms=now_ms + 60_000,
        )
        answer = self.victim.runner.order(sign_order(COLLECTOR, address, order))
        read: dict[str, Any] = {COMMAND_ACCEPTED: read_accepted, COMMAND_REFUSED: read_refused}
        found = [read[event.kind](event.payload) for event in answer.events]
        waiting = {event.id for event in self.victim.runner.waiting()}
        assert {event.id for event in answer.events} <= waiting, "kept until the agent has it on its disk"
        self.said += found
        return found

    def command(self, **changes: Any) -> Command:
        """Promote db2. Each is a run of its own."""
        command = Command(
            run=f"run-{len(self.said)}-{self.counter}",
            runbook="pg-failover",
            runbook_digest="ab" * 32,
            step="promote",
            attempt=1,
            purpose=Purpose.STEP,
            host=HOST,
            action="pg.promote",
            action_digest=self.victim.allowed.actions["pg.promote"].digest(),
            arguments={"port": 5432},
        )
        return replace(command, **changes)

    def is_refused(self, order: Order) -> Refused:
        """The one refusal that an order brings; nothing runs."""
        before = self.victim.runner.running
        (found,) = self.order(order)
        assert isinstance(found, Refused), found
        assert self.victim.runner.running == before
        return found


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Victim]:
    made = Victim(tmp_path, tmp_path.stat().st_uid)
    yield made
    made.runner.close()


@pytest.fixture
def thief(victim: Victim) -> Thief:
    return Thief(victim)


# ---------------------------------------------------------------- what people sign


def person(name: str, seed: bytes, **more: Any) -> Person:
    return Person(name=name, key=public_key(seed), roles=("dba",), **more)


def roster(victim: Victim, *people: Person, serial: int = 1, **more: Any) -> Roster:
    now_ms = victim.clock.wall_ms()
    found = Roster(
        site=SITE,
        serial=serial,
        issued_ms=now_ms,
        expires_ms=now_ms + ROSTER_DAYS_MAX * DAY_MS,
        people=people or (person("anna", ANNA), person("boris", BORIS)),
    )
    return replace(found, **more)


def manifest_of(
    victim: Victim, command: Command, requester: str = "carla", times: int = 1, **changes: Any
) -> bytes:
    """What people are shown."""
    now_ms = victim.clock.wall_ms()
    effect = ProtectedEffect(
        step=command.step,
        agent=AGENT,
        host=command.host,
        action=command.action,
        action_digest=command.action_digest,
        arguments=dict(command.arguments),
        times=times,
    )
    made = Manifest(
        site=SITE,
        run=command.run,
        runbook=command.runbook,
        runbook_digest=command.runbook_digest,
        gate="consent",
        requester=requester,
        reason="the primary is gone",
        drill=False,
        opened_ms=now_ms,
        expires_ms=now_ms + HOUR_MS,
        effects=(effect,),
    )
    return replace(made, **changes).content()


def vote(victim: Victim, manifest: bytes, run: str, name: str, seed: bytes, *, yes: bool = True) -> bytes:
    now_ms = victim.clock.wall_ms()
    return sign_vote(
        seed,
        Vote(
            manifest=digest(manifest),
            site=SITE,
            run=run,
            gate="consent",
            person=name,
            approve=yes,
            signed_ms=now_ms,
            expires_ms=now_ms + HOUR_MS,
        ),
    )


def agreed(
    victim: Victim, command: Command, *people: tuple[str, bytes], requester: str = "carla", **more: Any
) -> Command:
    """A command with what these people have signed."""
    manifest = manifest_of(victim, command, requester, **more)
    votes = tuple(vote(victim, manifest, command.run, name, seed) for name, seed in people)
    return replace(command, manifest=manifest, votes=votes)


BOTH = (("anna", ANNA), ("boris", BORIS))


# ---------------------------------------------------------------- the story


def test_what_two_people_have_signed_runs(victim: Victim, thief: Thief) -> None:
    """Else the rest of this story would prove nothing."""
    thief.order(RosterCopy(sign_roster(SAFE, roster(victim))))
    (found,) = thief.order(agreed(victim, thief.command(), *BOTH))
    assert isinstance(found, Accepted)
    assert found.approvers == ("anna", "boris")


def test_he_enrols_approvers_of_his_own_and_publishes_a_roster(victim: Victim, thief: Thief) -> None:
    thief.order(RosterCopy(sign_roster(SAFE, roster(victim))))
    own = roster(victim, person("anna", THIEF), person("boris", THIEFS_SAFE), serial=99)
    for seed in (THIEFS_SAFE, COLLECTOR):
        found = thief.is_refused(RosterCopy(sign_roster(seed, own)))
        assert found.reason is Refusal.ROSTER
        assert "signed by none of the 1 keys that are installed here" in found.detail
    # A signature over other bytes of the safe's, and one of another kind, are none.
    signed = sign_roster(SAFE, roster(victim))
    for forged in (
        signed[:64] + sign_roster(THIEFS_SAFE, own)[64:],
        sign(Domain.VOTE, SAFE, own.document()),
    ):
        assert thief.is_refused(RosterCopy(forged)).reason is Refusal.ROSTER
    votes = (("anna", THIEF), ("boris", THIEFS_SAFE))
    found = thief.is_refused(agreed(victim, thief.command(), *votes))
    assert found.reason is Refusal.APPROVALS
    assert "0 of 2 of dba have agreed" in found.detail
    assert victim.runner.inventory()[0].roster_serial == 1, "the true one is still the one that is believed"


def test_on_a_host_that_has_no_roster_pub_he_can_do_nothing_at_all(victim: Victim, thief: Thief) -> None:
    (victim.homes.etc / "roster.pub").unlink()
    own = sign_roster(THIEFS_SAFE, roster(victim, person("anna", THIEF), person("boris", THIEFS_SAFE)))
    assert "no key of a roster is installed here" in thief.is_refused(RosterCopy(own)).detail
    found = thief.is_refused(agreed(victim, thief.command(), ("anna", THIEF), ("boris", THIEFS_SAFE)))
    assert found.reason is Refusal.ROSTER


def test_he_plays_an_older_roster_back_on_which_a_friend_still_was(victim: Victim, thief: Thief) -> None:
    old = sign_roster(SAFE, roster(victim, person("anna", ANNA), person("friend", THIEF), serial=3))
    thief.order(RosterCopy(old))
    thief.order(RosterCopy(sign_roster(SAFE, roster(victim, serial=4))))
    found = thief.is_refused(RosterCopy(old))
    assert (found.reason, "older than 4" in found.detail) == (Refusal.ROSTER, True)
    with_friend = (("anna", ANNA), ("friend", THIEF))
    found = thief.is_refused(agreed(victim, thief.command(), *with_friend))
    assert "'friend' is not on the roster" in found.detail
    # Nor does a restart help, nor that he puts the file itself back, should he come so far.
    victim.runner.close()
    (victim.homes.var / "roster.signed").write_bytes(old)
    victim.runner = victim.started()
    found = thief.is_refused(agreed(victim, thief.command(), *with_friend))
    assert (found.reason, "older than 4" in found.detail) == (Refusal.ROSTER, True)


def test_one_person_is_not_two(victim: Victim, thief: Thief) -> None:
    thief.order(RosterCopy(sign_roster(SAFE, roster(victim))))
    twice = agreed(victim, thief.command(), ("anna", ANNA), ("anna", ANNA))
    assert "1 of 2 of dba have agreed" in thief.is_refused(twice).detail
    other_name = agreed(victim, thief.command(), ("anna", ANNA), ("boris", ANNA))
    assert "the signature does not hold" in thief.is_refused(other_name).detail
    # Even the safe cannot make it so: a roster with one key under two names is none.
    document = roster(victim, person("anna", ANNA), serial=2).document()
    document["people"] += [{**document["people"][0], "name": "anna2"}]
    found = thief.is_refused(RosterCopy(sign(Domain.ROSTER, SAFE, document)))
    assert "twice" in found.detail


def test_who_asked_for_it_does_not_agree_to_it(victim: Victim, thief: Thief) -> None:
    thief.order(RosterCopy(sign_roster(SAFE, roster(victim))))
    found = thief.is_refused(agreed(victim, thief.command(), *BOTH, requester="anna"))
    assert "anna: asked for it himself" in found.detail
    # The name of who asked is in what was signed: to change it afterwards voids both votes.
    command = agreed(victim, thief.command(), *BOTH, requester="anna")
    changed = replace(command, manifest=manifest_of(victim, command, requester="carla"))
    assert "agreed to something else" in thief.is_refused(changed).detail


CHANGES: Final[tuple[dict[str, Any], ...]] = (
    {"arguments": {"port": 6000}},
    {"step": "another"},
    {"runbook_digest": "cd" * 32},
    {"runbook": "another"},
    {"run": "the-next-one"},
)


def test_he_uses_what_was_agreed_to_for_something_else(victim: Victim, thief: Thief) -> None:
    thief.order(RosterCopy(sign_roster(SAFE, roster(victim))))
    for change in CHANGES:
        command = agreed(victim, thief.command(), *BOTH)
        assert thief.is_refused(replace(command, **change)).reason is Refusal.APPROVALS, change
        # Nor with a manifest that fits and votes that do not.
        other = replace(command, **change, attempt=2)
        other = replace(other, manifest=manifest_of(victim, other))
        assert "agreed to something else" in thief.is_refused(other).detail, change


def fence(victim: Victim, thief: Thief) -> Command:
    """An action that does not rest: nothing but what people agreed to bounds it."""
    found = victim.allowed.actions["pg.fence"]
    return thief.command(action="pg.fence", action_digest=found.digest(), arguments={})


def test_he_numbers_attempts_as_he_likes_and_begins_no_more_than_people_agreed_to(
    victim: Victim, thief: Thief
) -> None:
    """The host counts by what was agreed to and what it does; numbers of attempts are the thief's to draw."""
    thief.order(RosterCopy(sign_roster(SAFE, roster(victim))))
    command = agreed(victim, fence(victim, thief), *BOTH, times=2)
    thief.order(command)
    (again,) = thief.order(command)
    assert isinstance(again, Accepted), "the answer of the first time"
    (second,) = thief.order(replace(command, attempt=900))
    assert isinstance(second, Accepted), "people agreed to one retry"
    for change in ({"attempt": 2}, {"attempt": 3, "purpose": Purpose.UNDO}, {"attempt": 4, "lock": "x"}):
        found = thief.is_refused(replace(command, **change))
        assert (found.reason, "begun 2 of the 2 times" in found.detail) == (Refusal.SPENT, True)
    # Not after a restart either, nor once what ran is over and forgotten by the agent.
    victim.clock.advance(600)
    victim.runner.look()
    victim.runner.confirm([event.id for event in victim.runner.waiting()])
    victim.runner.close()
    victim.runner = victim.started()
    assert thief.is_refused(replace(command, attempt=5)).reason is Refusal.SPENT
    # To write a larger number into what was signed voids it.
    more = replace(command, attempt=6, manifest=manifest_of(victim, command, times=9))
    assert "agreed to something else" in thief.is_refused(more).detail
    # When people sign again, it may begin again, as often as they say then.
    victim.clock.advance(1)
    anew = agreed(victim, replace(command, attempt=7), *BOTH)
    (found_anew,) = thief.order(anew)
    assert isinstance(found_anew, Accepted)
    assert thief.is_refused(replace(anew, attempt=8)).reason is Refusal.SPENT


def test_what_was_signed_before_manifests_said_how_often_begins_once(victim: Victim, thief: Thief) -> None:
    thief.order(RosterCopy(sign_roster(SAFE, roster(victim))))
    command = agreed(victim, fence(victim, thief), *BOTH, times=9, version=1)
    assert b"times" not in command.manifest
    (found,) = thief.order(command)
    assert isinstance(found, Accepted)
    assert thief.is_refused(replace(command, attempt=2)).reason is Refusal.SPENT


def test_he_brings_about_that_the_ledger_is_lost_and_what_was_agreed_to_before_is_worth_nothing(
    victim: Victim, thief: Thief
) -> None:
    thief.order(RosterCopy(sign_roster(SAFE, roster(victim))))
    command = agreed(victim, fence(victim, thief), *BOTH)
    thief.order(command)
    victim.runner.close()
    (victim.homes.var / "ledger").unlink()
    victim.clock.advance(1)
    victim.runner = victim.started()
    found = thief.is_refused(replace(command, attempt=2))
    assert (found.reason, "cannot know whether it has begun" in found.detail) == (Refusal.SPENT, True)
    (anew,) = thief.order(agreed(victim, replace(command, attempt=3), *BOTH))
    assert isinstance(anew, Accepted)


def test_nobody_agrees_to_anything_for_longer_than_hosts_remember(victim: Victim, thief: Thief) -> None:
    thief.order(RosterCopy(sign_roster(SAFE, roster(victim))))
    ends_ms = victim.clock.wall_ms() + 91 * DAY_MS
    found = thief.is_refused(agreed(victim, fence(victim, thief), *BOTH, expires_ms=ends_ms))
    assert "for more than 90 days" in found.detail


def test_what_was_agreed_to_is_had_again_only_within_its_time_and_the_rest_of_the_action(
    victim: Victim, thief: Thief
) -> None:
    """What people let begin more than once still rests between, and ends with their agreement."""
    thief.order(RosterCopy(sign_roster(SAFE, roster(victim))))
    command = agreed(victim, thief.command(), *BOTH, times=2)
    thief.order(command)
    assert victim.runner.running == 1
    found = thief.is_refused(replace(command, attempt=2))
    assert (found.reason, "pg.promote rests for another" in found.detail) == (Refusal.COOLDOWN, True)
    victim.clock.advance(HOUR_MS / 1000)
    victim.runner.look()
    found = thief.is_refused(replace(command, attempt=3))
    assert (found.reason, "the agreement has ended" in found.detail) == (Refusal.APPROVALS, True)


def test_somebody_agrees_for_hosts_that_are_not_his(victim: Victim, thief: Thief) -> None:
    people = person("anna", ANNA), person("boris", BORIS, scopes=("team=web", "team=db,site=b1"))
    thief.order(RosterCopy(sign_roster(SAFE, roster(victim, *people))))
    found = thief.is_refused(agreed(victim, thief.command(), *BOTH))
    assert "boris: this host is outside his scope" in found.detail


def test_a_role_that_was_not_given_and_a_person_whose_time_is_over_do_not_count(
    victim: Victim, thief: Thief
) -> None:
    ends_ms = victim.clock.wall_ms() + HOUR_MS
    people = replace(person("anna", ANNA), roles=("ops",)), person("boris", BORIS, expires_ms=ends_ms)
    thief.order(RosterCopy(sign_roster(SAFE, roster(victim, *people))))
    victim.clock.advance(HOUR_MS / 1000)
    found = thief.is_refused(agreed(victim, thief.command(), *BOTH))
    assert "anna: has the roles ops, wanted dba" in found.detail
    assert "boris: may not approve any more" in found.detail


def test_he_leaves_out_who_said_no_and_one_yes_is_not_enough(victim: Victim, thief: Thief) -> None:
    thief.order(RosterCopy(sign_roster(SAFE, roster(victim))))
    command = agreed(victim, thief.command(), *BOTH)
    no = vote(victim, command.manifest, command.run, "boris", BORIS, yes=False)
    found = thief.is_refused(replace(command, votes=(*command.votes, no)))
    assert "boris said no" in found.detail
    command = agreed(victim, thief.command(), ("anna", ANNA))
    assert "1 of 2" in thief.is_refused(command).detail


def test_he_waits_until_nobody_signs_a_new_roster(victim: Victim, thief: Thief) -> None:
    thief.order(RosterCopy(sign_roster(SAFE, roster(victim))))
    victim.clock.advance((ROSTER_DAYS_MAX * DAY_MS + 1) / 1000)
    found = thief.is_refused(agreed(victim, thief.command(), *BOTH))
    assert (found.reason, "days old" in found.detail or "has ended" in found.detail) == (Refusal.ROSTER, True)


def test_with_the_safe_itself_lost_root_takes_its_key_out_and_all_it_signed_is_worth_nothing(
    victim: Victim, thief: Thief
) -> None:
    thief.order(RosterCopy(sign_roster(SAFE, roster(victim, person("anna", THIEF), person("boris", BORIS)))))
    new_safe = bytes([9]) * 32
    victim.trust(new_safe)
    found = thief.is_refused(agreed(victim, thief.command(), ("anna", THIEF), ("boris", BORIS)))
    assert found.reason is Refusal.ROSTER
    thief.order(RosterCopy(sign_roster(new_safe, roster(victim, serial=2))))
    (accepted,) = thief.order(agreed(victim, thief.command(), *BOTH))
    assert isinstance(accepted, Accepted)


def test_what_he_tried_is_told_and_outlives_the_runner(victim: Victim, thief: Thief) -> None:
    thief.is_refused(RosterCopy(sign_roster(THIEFS_SAFE, roster(victim, serial=9))))
    thief.is_refused(thief.command())
    before = [event.id for event in victim.runner.waiting()]
    victim.runner.close()
    victim.runner = victim.started()
    assert [event.id for event in victim.runner.waiting()] == before
    told = [read_refused(event.payload) for event in victim.runner.waiting()]
    assert [one.reason for one in told] == [Refusal.ROSTER, Refusal.ROSTER]
    assert victim.runner.counts["accepted"] == 0
