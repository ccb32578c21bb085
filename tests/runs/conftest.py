"""A collector's runs over hosts in memory: a real store, a clock moved by hand, and everything can be killed."""

import base64
import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa

from watchbill.actions.definition import Action, Argument, Effect, Kind, Needs
from watchbill.actions.grants import Vote, sign_vote
from watchbill.actions.outcomes import (
    COMMAND_ACCEPTED,
    COMMAND_FINISHED,
    COMMAND_REFUSED,
    Accepted,
    Finished,
    Inventory,
    Refused,
)
from watchbill.actions.roster import Person, Roster
from watchbill.actions.signing import public_key
from watchbill.clock import ManualClock
from watchbill_collector.runbooks.expression import Facts
from watchbill_collector.runbooks.expressions import NO_FACTS
from watchbill_collector.runbooks.fleet import Fleet, KnownHost
from watchbill_collector.runbooks.model import Runbook
from watchbill_collector.runbooks.reading import read_runbook
from watchbill_collector.runbooks.run.progress import Run
from watchbill_collector.runbooks.run.rows import Created, Row, Voted
from watchbill_collector.runbooks.run.verbs import obey
from watchbill_collector.runbooks.run.words import RunVerb
from watchbill_collector.runbooks.run.world import World
from watchbill_collector.services.run_book import RunBook, called_by
from watchbill_collector.services.run_orders import OrderDesk
from watchbill_collector.services.run_twin import FleetTwin, HostTwin, Program, Told
from watchbill_collector.services.runs import Runs
from watchbill_collector.store import Store, crit, hosts, runbooks
from watchbill_collector.store import runs as run_rows
from watchbill_collector.store.audit import Entry
from watchbill_collector.store.hosts import Host, HostState
from watchbill_collector.store.runs import JournalRow, RunSummary
from watchbill_collector.store.schema import CRIT_RECORDS

SITE = "main"
MEMORY = Path("/dev/shm")
SEED = b"\x07" * 32
PEOPLE = {name: bytes([number]) * 32 for number, name in enumerate(("anna", "boris", "carla"), 20)}
KINDS = {Accepted: COMMAND_ACCEPTED, Finished: COMMAND_FINISHED, Refused: COMMAND_REFUSED}


class Killed(BaseException):
    """The collector was killed here. Nothing may catch it."""


@dataclass
class House:
    """One site. What outlives a kill of the collector is here; `runs` does not."""

    directory: Path
    clock: ManualClock
    fleet: FleetTwin = field(default_factory=FleetTwin)
    facts: Facts = NO_FACTS
    roster: Roster | None = None
    disabled: frozenset[str] = frozenset()
    paused: str = ""
    told: list[tuple[str, str]] = field(default_factory=list)
    published: list[RunSummary] = field(default_factory=list)
    in_force: dict[str, Runbook] = field(default_factory=dict)
    store: Store = field(init=False)
    runs: Runs = field(init=False)
    writing: Callable[[], None] = field(default=lambda: None)
    written: Callable[[int], None] = field(default=lambda _: None)
    mix: Callable[[list[tuple[str, Told]]], list[tuple[str, Told]]] = field(default=lambda told: told)
    """Another order of what hosts say, or some of it twice."""
    _agents: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _seq: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    async def start(self) -> None:
        """A collector begins, and goes on with what it finds."""
        if not hasattr(self, "store"):
            self.store = Store.open(self.directory, SITE)
        orders = OrderDesk(self.store, self.clock, SITE, SEED, self.fleet)
        self.runs = Runs(
            self.store,
            self.clock,
            RunBook(self.store),
            orders,
            world=self.world,
            tell=lambda run, channel, text: self.told.append((channel, text)),
            publish=self.published.append,
        )
        self.runs.writing = lambda: self.writing()
        self.runs.written = lambda count: self.written(count)
        for one in self.in_force.values():
            self.runs.book.know(one)
        await self.runs.load()
        await self.runs.resume()

    def another(self) -> "House":
        """Another site's hosts over the same store: making a store takes longer than most tests."""
        found = House(self.directory, ManualClock())
        found.store, found._seq, found._agents = self.store, self._seq, self._agents
        left = [one.run_id for one in self.store.read(lambda c: run_rows.summaries(c, SITE))]
        self.store.write_blocking(lambda c: run_rows.remove(c, left))
        self.store.write_blocking(lambda c: c.execute(CRIT_RECORDS.delete()))
        return found

    def kill(self) -> None:
        """What was in memory is gone; what was committed is not."""
        del self.runs

    def world(self) -> World:
        """As an app would put it together."""
        known = {
            host.name: KnownHost(name=host.name, agent=host.agent, labels=host.labels, actions=host.actions)
            for host in self.fleet.hosts.values()
        }
        hosts_of = self.fleet.hosts
        return World(
            site=SITE,
            fleet=Fleet(known),
            facts=self.facts,
            connected=lambda agent: hosts_of[agent].connected,
            ledger=lambda agent: hosts_of[agent].ledger,
            labels={host.agent: host.labels for host in hosts_of.values()},
            roster=self.roster,
            disabled=self.disabled,
            paused=self.paused,
        )

    # ------------------------------------------------------------ hosts

    def host(self, name: str, labels: Mapping[str, str] | None = None, *, at_once: bool = True) -> HostTwin:
        """A host more, enrolled."""
        number = next(self._agents)
        agent = f"{number:08d}-0000-4000-8000-000000000000"
        return self.fleet.add(
            HostTwin(agent, name, SITE, public_key(SEED), self.clock, labels=labels, at_once=at_once)
        )

    def named(self, name: str) -> HostTwin:
        """A host by its name."""
        return next(host for host in self.fleet.hosts.values() if host.name == name)

    def enrol(self) -> None:
        """Write hosts down: what they say is kept under their names."""
        known = {row.agent_id for row in self.store.read(lambda c: hosts.all_hosts(c, SITE))}
        for host in self.fleet.hosts.values():
            if host.agent not in known:
                row = Host(
                    agent_id=host.agent,
                    site=SITE,
                    instance=host.agent,  # Unique in a store, which several sites use one after the other.
                    state=HostState.ACTIVE,
                    labels=host.labels,
                    ephemeral=False,
                    public_key=b"",
                    envelope_key=b"",
                    hostname=host.name,
                    agent_version="",
                    address="",
                    enrolled_ms=1,
                    changed_ms=1,
                )
                self.store.write_blocking(lambda c, row=row: hosts.add_host(c, row))  # type: ignore[misc]

    # ------------------------------------------------------------ runs

    def runbook(self, text: str) -> Runbook:
        """A runbook comes into force."""
        content = text.encode()
        found, problems = read_runbook("test.yaml", content)
        assert found is not None, problems
        row = runbooks.TextRow(
            digest=found.digest, name=found.name, author="", seen_ms=1, content=content.decode()
        )
        self.store.write_blocking(lambda c: runbooks.see_text(c, SITE, row))
        self.in_force[found.name] = found
        self.runs.book.know(found)
        return found

    async def begin(
        self, name: str, drill: bool = False, requester: str = "ada", proposed_ms: int = 0, **given: str
    ) -> str:
        """A run begins; its id."""
        runbook = self.in_force[name]
        called = called_by(runbook, self.in_force)
        flow = self.runs.book.flow(runbook.digest, called, drill)
        assert flow is not None
        created = Created(
            runbook=name,
            digest=runbook.digest,
            parameters=given,
            requester=requester,
            reason="a test",
            drill=drill,
            lock=runbook.lock.text if runbook.lock is not None else "",
            called=called,
            proposed=bool(proposed_ms),
            expires_ms=proposed_ms,
        )
        entry = Entry(actor=requester, action="run.start", target=name)
        live = await self.runs.create([created], flow, entry)
        return live.run.run_id

    async def pump(self) -> bool:
        """What hosts say is committed, then handed on; whether there was anything."""
        found = self.mix(self.fleet.take())
        for agent, event in found:
            if type(event) in KINDS:
                self._commit(agent, event)
        for agent, event in found:
            if not isinstance(event, Inventory):
                self.runs.told(agent, [event])
        return bool(found)

    def _commit(self, agent: str, event: "Accepted | Finished | Refused | object") -> None:
        assert isinstance(event, (Accepted, Finished, Refused))
        seq = next(self._seq)
        record = crit.CritRecord(
            seq=seq,
            event_id=seq.to_bytes(16),
            kind=KINDS[type(event)],
            boottime_ms=1,
            wall_ms=1,
            payload=event.to_json(),
        )
        mark = crit.CritMark(agent, b"spool", seq, 0)
        now_ms = self.clock.wall_ms()
        self.store.write_blocking(lambda c: crit.commit(c, SITE, mark, [record], now_ms))

    async def settle(self) -> None:
        """Until nobody has anything to say."""
        self.enrol()
        while True:
            await self.runs.turn()
            if not await self.pump():
                return

    async def pass_s(self, seconds: float) -> None:
        """Time goes by, looked at as often as something may be due."""
        end_ms = self.clock.wall_ms() + round(seconds * 1000)
        while self.clock.wall_ms() < end_ms:
            moments = [live.wake_ms for live in self.runs.open() if live.wake_ms is not None]
            next_ms = min([end_ms, *(max(one, self.clock.wall_ms() + 1) for one in moments)])
            self.clock.advance((next_ms - self.clock.wall_ms()) / 1000)
            await self.settle()

    async def say(self, run_id: str, verb: str, step: str = "", person: str = "ada") -> None:
        """A person does something."""
        live = self.runs.get(run_id)
        assert live is not None, "the run has ended"
        entry = Entry(actor=person, action=f"run.{verb}", target=run_id)
        await self.runs.add(
            live, lambda: obey(live.run, live.flow, RunVerb(verb), step, person, "because"), entry
        )
        await self.settle()

    async def add(self, run_id: str, *rows: Row) -> None:
        """Rows that somebody else makes, as votes."""
        live = self.runs.get(run_id)
        assert live is not None, "the run has ended"
        await self.runs.add(live, lambda: rows, Entry(actor="ada", action="run.vote", target=run_id))
        await self.settle()

    def staff(self, role: str = "dba") -> None:
        """A roster with everybody of PEOPLE, which every host has."""
        now_ms = self.clock.wall_ms()
        people = tuple(
            Person(name=name, key=public_key(seed), roles=(role,)) for name, seed in PEOPLE.items()
        )
        self.roster = Roster(
            site=SITE, serial=1, issued_ms=now_ms, expires_ms=now_ms + 86_400_000, people=people
        )
        for host in self.fleet.hosts.values():
            host.roster = self.roster

    async def agree(self, run_id: str, gate: str, *people: str) -> None:
        """They sign what the gate asks."""
        for person in people:
            progress = self.run(run_id).step(gate).gate
            assert progress is not None, "the gate is not open"
            opened, now_ms = progress.opened, self.clock.wall_ms()
            vote = Vote(
                manifest=opened.digest,
                site=SITE,
                run=run_id,
                gate=gate,
                person=person,
                approve=True,
                signed_ms=now_ms,
                expires_ms=now_ms + 3_600_000,
            )
            signed = base64.b64encode(sign_vote(PEOPLE[person], vote)).decode()
            row = Voted(step=gate, person=person, approve=True, digest=opened.digest, signed=signed)
            await self.add(run_id, row)

    def run(self, run_id: str) -> Run:
        """As it is in memory."""
        live = self.runs.get(run_id)
        assert live is not None, "the run has ended"
        return live.run

    def summary(self, run_id: str) -> RunSummary:
        """As it is in the store."""
        found = self.store.read(lambda c: run_rows.summary(c, run_id))
        assert found is not None
        return found

    def state(self, run_id: str) -> str:
        """Its state as lists show it."""
        return self.summary(run_id).state

    def journal(self, run_id: str) -> list[JournalRow]:
        """Its rows, whole and unbroken."""
        rows = self.store.read(lambda c: run_rows.journal(c, run_id))
        assert run_rows.fault(SITE, run_id, rows) == ""
        return rows

    def kinds(self, run_id: str) -> list[str]:
        """What its rows are."""
        return [row.kind for row in self.journal(run_id)]


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that is migrated."""
    directory = tmp_path_factory.mktemp("state")
    Store.open(directory, SITE).close()
    return directory / "control.db"


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory, where there is one: these tests kill the collector, not the machine."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="wb-runs-", dir=MEMORY) as directory:
        yield Path(directory)


@pytest.fixture
def make_house(migrated: Path, quick_path: Path) -> Iterator[Callable[[], House]]:
    """Sites, as many as are wanted."""
    made: list[House] = []

    def make() -> House:
        directory = quick_path / str(len(made))
        directory.mkdir()
        shutil.copy(migrated, directory)
        made.append(House(directory, ManualClock()))
        return made[-1]

    yield make
    for house in made:
        if hasattr(house, "store"):
            house.store.close()


@pytest.fixture(scope="session")
def ground(migrated: Path) -> Iterator[House]:
    """A store for all tests that need none of their own: opening one takes longer than most of them."""
    with contextlib.ExitStack() as stack:
        directory = migrated.parent
        if os.access(MEMORY, os.W_OK):
            place = stack.enter_context(tempfile.TemporaryDirectory(prefix="wb-runs-", dir=MEMORY))
            directory = Path(place)
            shutil.copy(migrated, directory)
        found = House(directory, ManualClock())
        found.store = stack.enter_context(Store.open(directory, SITE))
        yield found


@pytest.fixture
def store_house(ground: House) -> House:
    """One site, and no collector yet."""
    return ground.another()


@pytest.fixture
async def house(store_house: House) -> House:
    """One site with its collector."""
    await store_house.start()
    return store_house


# ---------------------------------------------------------------- actions


def action(
    name: str, effect: str, program: Program | None = None, **more: object
) -> tuple[Action, Program | None]:
    """An action with one optional argument, and its program."""
    arguments = (Argument(name="node", kind=Kind.NAME, default="x"),)
    values: dict[str, object] = {
        "name": name,
        "argv": ("/bin/true", "{{node}}"),
        "effect": Effect(effect),
        "arguments": arguments,
        "output": "json",
    }
    return Action(**(values | more)), program  # type: ignore[arg-type]


NOBODY = Needs()


def sql_nothing(_: sa.Connection) -> None:
    """Work that does nothing."""
