"""A host with a runner: its files, the collector's keys, and the core in this process with real supervisors."""

import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from watchbill.actions import outcomes
from watchbill.actions.enrolled import Enrolled, write_enrolled
from watchbill.actions.files import load_allowed
from watchbill.actions.grants import Manifest, ProtectedEffect, Vote, digest, sign_vote
from watchbill.actions.order import Address, Command, Order, Purpose, sign_order
from watchbill.actions.roster import Person, Roster, sign_roster
from watchbill.actions.signing import public_key
from watchbill.clock import Clock, SystemClock
from watchbill.homes import Homes
from watchbill_agent.runner.core import Runner
from watchbill_agent.runner.event import Event
from watchbill_agent.runner.launching import SessionLauncher

COLLECTOR, SAFE, ANNA, BORIS = (bytes([n]) * 32 for n in (1, 2, 3, 4))
SITE, AGENT, INSTANCE = "main", "agent-2", "db2"
ENDS_S = 20.0
READERS: dict[str, Callable[[bytes], Any]] = {
    outcomes.COMMAND_ACCEPTED: outcomes.read_accepted,
    outcomes.COMMAND_FINISHED: outcomes.read_finished,
    outcomes.COMMAND_REFUSED: outcomes.read_refused,
    outcomes.COMMAND_STATES: outcomes.read_states,
}


class Nobody:
    """A launcher whose supervisors never begin."""

    def start(self, key: str, task: Any) -> None:
        pass

    def reading(self, name: str, task: Any) -> list[str]:
        return ["/bin/false"]

    def reap(self) -> None:
        pass


class Host:
    """One host under a directory."""

    def __init__(self, root: Path) -> None:
        root.mkdir(mode=0o700, exist_ok=True)
        self.root = root
        self.homes = Homes.resolve("runner", root, {})
        self.clock: Clock = SystemClock()
        self.counter = 0
        self.epoch = 1
        self.made: list[Runner] = []
        for name in ("actions.d", "observe.d"):
            (self.homes.etc / name).mkdir(parents=True, exist_ok=True)
        write_enrolled(
            self.homes.etc,
            Enrolled(
                site=SITE,
                agent_id=AGENT,
                instance=INSTANCE,
                command_key=public_key(COLLECTOR),
                labels={"team": "db"},
            ),
        )

    def script(self, name: str, body: str) -> Path:
        """A program of this host."""
        path = self.root / name
        path.write_text(f"#!{os.path.realpath(sys.executable)}\n{body}")
        path.chmod(0o755)
        return path

    def allow(self, text: str, name: str = "a.toml") -> None:
        """What root allows."""
        (self.homes.etc / "actions.d" / name).write_text(text)

    def action(self, name: str, argv: list[str], effect: str = "once", more: str = "") -> None:
        listed = ", ".join(f"'''{one}'''" for one in argv)
        self.allow(
            f'[[action]]\nname = "{name}"\nargv = [{listed}]\neffect = "{effect}"\n{more}\n', f"{name}.toml"
        )

    def runner(self, **options: Any) -> Runner:
        options.setdefault("launcher", SessionLauncher(self.root))
        options.setdefault("slots", 128)
        made = Runner(self.homes, os.geteuid(), options.pop("clock", self.clock), **options)
        self.made.append(made)
        return made

    def command(self, action: str, **changes: Any) -> Command:
        allowed = load_allowed(self.homes.etc, os.geteuid())
        found = allowed.actions.get(action)
        command = Command(
            run="r1",
            runbook="book",
            runbook_digest="ab" * 32,
            step="step",
            attempt=1,
            purpose=Purpose.STEP,
            host=INSTANCE,
            action=action,
            action_digest="" if found is None else found.digest(),
            arguments={},
        )
        return replace(command, **changes)

    def signed(self, order: Order, seed: bytes = COLLECTOR, **changes: Any) -> bytes:
        self.counter += 1
        now_ms = self.clock.wall_ms()
        address = Address(
            site=SITE,
            agent=AGENT,
            epoch=self.epoch,
            counter=self.counter,
            issued_ms=now_ms,
            not_after_ms=now_ms + 60_000,
        )
        return sign_order(seed, replace(address, **changes), order)

    def key(self, command: Command) -> str:
        return command.key(SITE, AGENT)

    def install_roster_key(self) -> None:
        path = self.homes.etc / "roster.pub"
        path.write_text(f"ed25519 {public_key(SAFE).hex()} the safe\n")
        path.chmod(0o644)

    def roster(self, serial: int = 1, **changes: Any) -> bytes:
        now_ms = self.clock.wall_ms()
        roster = Roster(
            site=SITE,
            serial=serial,
            issued_ms=now_ms,
            expires_ms=now_ms + 86_400_000,
            people=(
                Person(name="anna", key=public_key(ANNA), roles=("dba",)),
                Person(name="boris", key=public_key(BORIS), roles=("dba",)),
            ),
        )
        return sign_roster(SAFE, replace(roster, **changes))

    def agreed(self, command: Command, *people: str, times: int = 1, **changes: Any) -> Command:
        """A command with a manifest and votes."""
        now_ms = self.clock.wall_ms()
        manifest = Manifest(
            site=SITE,
            run=command.run,
            runbook=command.runbook,
            runbook_digest=command.runbook_digest,
            gate="consent",
            requester="carla",
            reason="test",
            drill=False,
            opened_ms=now_ms,
            expires_ms=now_ms + 600_000,
            effects=(
                ProtectedEffect(
                    step=command.step,
                    agent=AGENT,
                    host=command.host,
                    action=command.action,
                    action_digest=command.action_digest,
                    arguments=dict(command.arguments),
                    times=times,
                ),
            ),
        )
        manifest = replace(manifest, **changes)
        votes = tuple(
            sign_vote(
                {"anna": ANNA, "boris": BORIS}[person],
                Vote(
                    manifest=digest(manifest.content()),
                    site=SITE,
                    run=command.run,
                    gate="consent",
                    person=person,
                    approve=True,
                    signed_ms=now_ms,
                    expires_ms=now_ms + 600_000,
                ),
            )
            for person in people
        )
        return replace(command, manifest=manifest.content(), votes=votes)


def said(events: list[Event]) -> list[Any]:
    """Events as what they say."""
    return [READERS[event.kind](event.payload) for event in events]


def ended(runner: Runner, key: str = "") -> outcomes.Finished:
    """Wait for the end of a command."""
    until_s = time.monotonic() + ENDS_S
    while time.monotonic() < until_s:
        runner.look()
        for event in runner.waiting():
            if event.kind == outcomes.COMMAND_FINISHED:
                found = outcomes.read_finished(event.payload)
                if key in ("", found.key):
                    return found
        time.sleep(0.01)
    raise AssertionError(f"it did not end: {said(runner.waiting())}")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    assert not tmp_path.stat().st_mode & stat.S_IWOTH
    made = Host(tmp_path / "h")
    yield made
    for runner in made.made:
        runner.close()
