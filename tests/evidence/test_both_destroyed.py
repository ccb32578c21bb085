"""The primary and the collector are destroyed together: the runbook is finished from its bundle, the collector comes
back from an older backup with a raised epoch, and the same run ends as if nothing had happened, with no step run twice.
"""

import base64
import os
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.agent.runner.conftest import Host, ended
from tests.evidence.conftest import make_house, migrated, quick_path
from tests.evidence.test_bundles import bundles
from tests.runs.conftest import PEOPLE, SEED, SITE, House
from tests.runs.test_runbook_desk import ADA, BOB, Desk, accepted, desk, tell
from watchbill.actions import outcomes
from watchbill.actions.bundle import Bundle, open_bundle
from watchbill.actions.enrolled import Enrolled, write_enrolled
from watchbill.actions.files import load_allowed
from watchbill.actions.grants import Vote, digest, sign_vote
from watchbill.actions.order import Refusal, RosterCopy
from watchbill.actions.roster import Roster, sign_roster
from watchbill.actions.signing import public_key
from watchbill_agent.runner.acting import Act
from watchbill_collector.hosts import HostRegistry
from watchbill_collector.runbooks.run.rows import Voted
from watchbill_collector.services.run_house import RunHouse
from watchbill_collector.services.run_intake import Committed
from watchbill_collector.services.run_twin import HostTwin
from watchbill_collector.services.scoping import RegistryBindings
from watchbill_collector.store import Store, automation
from watchbill_collector.store.audit import Entry

__all__ = ["desk", "make_house", "migrated", "quick_path"]

SAFE = bytes([11]) * 32
FAILOVER = """
runbook: failover
about: db1 is gone, db2 takes over
params: {standby: {type: host, default: db2}}
lock: "pg/{{standby}}"
steps:
  - {id: prepare, do: prepare, on: "{{standby}}"}
  - {id: consent, approve: dba, count: 2, timeout: 15m}
  - {id: promote, do: promote, on: "{{standby}}", commit: true}
  - {id: announce, do: announce, on: "{{standby}}"}
"""


class RealHost(HostTwin):
    """db2 with the runner that hosts have: orders go in, and what it tells is fetched once what runs has ended."""

    def __init__(self, twin: HostTwin, root: Path, house: House) -> None:
        super().__init__(twin.agent, twin.name, SITE, public_key(SEED), house.clock, labels=twin.labels)
        self.host = Host(root)
        self.host.clock = house.clock
        enrolled = Enrolled(
            site=SITE, agent_id=twin.agent, instance="db2", command_key=public_key(SEED), labels=twin.labels
        )
        write_enrolled(self.host.homes.etc, enrolled)
        (self.host.homes.etc / "roster.pub").write_text(f"ed25519 {public_key(SAFE).hex()} the safe\n")
        self.counter = root / "count"
        for name, more in (
            ("prepare", ""),
            ("promote", 'needs = { approvals = 2, role = "dba" }'),
            ("announce", ""),
        ):
            script = self.host.script(f"{name}.py", f"open({str(self.counter)!r}, 'a').write('{name} ')\n")
            self.host.action(name, [str(script)], "once", more)
        self.actions = dict(load_allowed(self.host.homes.etc, os.geteuid()).actions)
        self.runner = self.host.runner()
        self.ledger = self.runner.inventory()[0].ledger
        self.glass: list[outcomes.Breakglass] = []

    def take(self, body: bytes) -> None:
        """An order arrives."""
        self.runner.order(body)
        self.fetch()

    def fetch(self) -> None:
        """What the agent would hand on."""
        while self.runner.running:
            ended(self.runner)
            time.sleep(0.01)
        for event in self.runner.waiting():
            match event.kind:
                case outcomes.COMMAND_ACCEPTED:
                    self.told.append(outcomes.read_accepted(event.payload))
                case outcomes.COMMAND_FINISHED:
                    self.told.append(outcomes.read_finished(event.payload))
                case outcomes.COMMAND_REFUSED:
                    self.told.append(outcomes.read_refused(event.payload))
                case outcomes.COMMAND_STATES:
                    self.told.append(outcomes.read_states(event.payload))
                case _:
                    self.glass.append(outcomes.read_breakglass(event.payload))
        self.runner.confirm([event.id for event in self.runner.waiting()])


def voted(manifest: bytes, run: str, gate: str, house: House) -> list[bytes]:
    now_ms = house.clock.wall_ms()
    return [
        sign_vote(
            PEOPLE[name],
            Vote(
                manifest=digest(manifest),
                site=SITE,
                run=run,
                gate=gate,
                person=name,
                approve=True,
                signed_ms=now_ms,
                expires_ms=now_ms + 3_600_000,
            ),
        )
        for name in ("anna", "boris")
    ]


async def agree(found: Desk, run_id: str) -> None:
    live = found.runs.runs.get(run_id)
    assert live is not None
    gate = live.run.step("consent").gate
    assert gate is not None
    opened = gate.opened
    rows = [
        Voted(
            step="consent",
            person=name,
            approve=True,
            digest=opened.digest,
            signed=base64.b64encode(one).decode(),
        )
        for name, one in zip(
            ("anna", "boris"), voted(opened.manifest.encode(), run_id, "consent", found.house), strict=True
        )
    ]
    await found.runs.runs.add(live, lambda: rows, Entry(actor="anna", action="run.vote", target=run_id))


def by_hand(made: Bundle, signed: bytes, step: str, house: House) -> Act:
    """What root of db2 types."""
    protected = any(one.approvals for one in made.of(step))
    manifest = made.manifest(step, "do", "", {}).content()
    votes = voted(manifest, made.run, step, house) if protected else []
    return Act(
        bundle=signed,
        step=step,
        kind="do",
        run="",
        attempt=1,
        values={},
        votes=tuple(votes),
        uid=0,
        reason="db1 and the collector burnt",
    )


async def restored(found: Desk, backup: Path, db2: RealHost) -> Desk:
    """A collector on another machine, from the backup, with the same keys and a raised epoch."""
    house = House(backup.parent, found.house.clock)
    house.store = Store.open(backup.parent, SITE)
    house.store.write_blocking(lambda c: automation.raise_epoch(c, SITE, 2, "ada", house.clock.wall_ms()))
    house.fleet.add(db2)
    registry = HostRegistry(house.store, house.clock)
    made = RunHouse(
        house.store,
        house.clock,
        registry,
        RegistryBindings(registry),
        SEED,
        house.fleet,
        connected=lambda agent: agent in house.fleet.hosts,
        roster=lambda: found.roster[-1],
    )
    await made.begin()
    return Desk(house, made, found.roster)


@pytest.mark.parametrize("sent", [False, True], ids=["nothing was sent", "the last order had left"])
async def test_it_is_finished_from_the_bundle_and_a_collector_from_a_backup_ends_it_as_it_ended(
    desk: Desk,
    tmp_path: Path,
    sent: bool,
) -> None:
    house = desk.house
    house.clock.advance(time.time() - house.clock.wall_ms() / 1000)
    house.staff()
    assert isinstance(house.roster, Roster)
    desk.roster.append(house.roster)
    db2 = RealHost(house.named("db2"), tmp_path / "h", house)
    house.fleet.hosts[db2.agent] = db2
    desk.runs.inventories.take([tell(house, db2)])
    desk.runs.orders.send(db2.agent, RosterCopy(sign_roster(SAFE, house.roster)))
    await desk.load(FAILOVER)
    await accepted(desk)
    run_id = (await desk.runs.desk.start("failover", {}, "db1 is gone", False, "db2", ADA)).id
    await desk.settle()
    view = await bundles(desk).export("failover", {}, run_id, BOB)
    signed = base64.b64decode(view.bundle)
    made = open_bundle(public_key(SEED), signed)
    backup = tmp_path / "restored" / "control.db"
    backup.parent.mkdir()
    with sqlite3.connect(house.directory / "control.db") as store:
        store.execute("VACUUM INTO ?", (str(backup),))
    if sent:
        # People agreed after the backup, the order left, and nobody lived to hear how it ended.
        await agree(desk, run_id)
        await desk.runs.runs.turn()
        db2.told.clear()
    done = "prepare promote " if sent else "prepare "
    assert db2.counter.read_text() == done

    # Nobody is there but root of db2, with the bundle and two votes.
    db2.runner.act(by_hand(made, signed, "prepare", house))
    db2.fetch()
    assert db2.counter.read_text() == done, "the collector that is gone had that done"
    db2.runner.act(by_hand(made, signed, "promote", house))
    db2.fetch()
    assert db2.counter.read_text() == "prepare promote "
    assert [one.accepted.step for one in db2.glass] == ([] if sent else ["promote"])

    house.clock.advance(60)
    again = await restored(desk, backup, db2)
    again.runs._take(
        Committed(
            told=[(db2.agent, one.accepted) for one in db2.glass],
            glass=[(db2.agent, one) for one in db2.glass],
        )
    )
    await again.settle()
    live = again.runs.runs.get(run_id)
    assert live is not None
    assert (live.run.state.value, again.runs.orders.epoch) == ("waiting", 2), (
        "it knows nothing of what came after"
    )
    await agree(again, run_id)
    await again.settle()
    assert again.house.summary(run_id).state == "succeeded"
    assert db2.counter.read_text() == "prepare promote announce "
    # What the host knew was told, and it obeys nobody of before any more: neither collector nor bundle.
    (event,) = db2.runner.act(by_hand(made, signed, "announce", house)).events
    assert event.kind != outcomes.COMMAND_REFUSED, "known already: the stored result"
    (event,) = db2.runner.act(replace(by_hand(made, signed, "announce", house), attempt=2)).events
    assert outcomes.read_refused(event.payload).reason is Refusal.EPOCH
    db2.fetch()
    db2.told.clear()
    desk.runs.orders.send(db2.agent, RosterCopy(sign_roster(SAFE, house.roster)))
    (told,) = db2.told
    assert isinstance(told, outcomes.Refused)
    assert told.reason is Refusal.EPOCH
    db2.runner.close()
    again.house.store.close()
