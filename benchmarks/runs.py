"""What running runbooks costs: steps, a thousand hosts in waves, ten thousand open runs, an alert's way to a command.

The engine, its store and its orders are the collector's own; hosts are in memory and judge every order's signature as
real ones do, and what they say is committed before it is handed on, as ingest does. What the hosts cost is taken off.
CPU seconds of the process, since other things run on the machine. Beside each stands the least that a journal can cost:
a bare SQLite file, WAL and synchronous=FULL as ours, that gets as many rows of the same content in as many
transactions, and decides, signs and hashes nothing.
"""

import asyncio
import itertools
import json
import sqlite3
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.report import Report
from watchbill.actions.definition import Action, Argument, Effect, Kind
from watchbill.actions.outcomes import COMMAND_ACCEPTED, COMMAND_FINISHED, Accepted, Finished
from watchbill.actions.signing import public_key
from watchbill.clock import SystemClock
from watchbill_collector.api.ports import Caller, Grant, Role
from watchbill_collector.hosts import HostRegistry
from watchbill_collector.runbooks.books import Source
from watchbill_collector.runbooks.fleet import Fleet, KnownHost
from watchbill_collector.runbooks.model import Runbook
from watchbill_collector.runbooks.reading import read_runbook
from watchbill_collector.runbooks.run.fold import begin
from watchbill_collector.runbooks.run.rows import Created, body_of, kind_of
from watchbill_collector.runbooks.run.world import World
from watchbill_collector.runbooks.triggers import Firing
from watchbill_collector.services.run_book import RunBook
from watchbill_collector.services.run_house import RunHouse
from watchbill_collector.services.run_orders import OrderDesk
from watchbill_collector.services.run_summaries import summary_of
from watchbill_collector.services.run_triggers import Triggers
from watchbill_collector.services.run_twin import FleetTwin, HostTwin, Told
from watchbill_collector.services.runs import Runs
from watchbill_collector.services.scoping import RegistryBindings
from watchbill_collector.services.trigger_sight import Seen
from watchbill_collector.store import Store, crit, hosts, inventories, runbooks
from watchbill_collector.store import runs as run_rows
from watchbill_collector.store.audit import Entry
from watchbill_collector.store.hosts import Host, HostState
from watchbill_collector.store.inventories import InventoryRow
from watchbill_collector.store.runs import NewRow

SITE = "main"
SEED = b"\x07" * 32
BARE = "bare SQLite journal"
ALLOWED = "what is allowed"
ALERT_S = 1.0
"""From an alert whose `for` is over to the first command."""
STEPS = 100
"""Of the run that does one after the other, and of all runs at a time together a multiple."""
AT_A_TIME = 50
HOSTS, WAVE = 1_000, 100
OPEN = 10_000
ALERTS = 15
WRITTEN_AT_ONCE = 500
KINDS = {Accepted: COMMAND_ACCEPTED, Finished: COMMAND_FINISHED}
GATE = """
runbook: gate
about: waits for people
params: {host: {type: host}}
lock: "x/{{host}}"
steps:
  - {id: look, do: look, on: "{{host}}"}
  - {id: consent, approve: dba, count: 2, timeout: 30d}
  - {id: act, do: act, on: "{{host}}", commit: true}
"""
ALERT = """
runbook: restart
about: starts it again
params: {host: {type: host}}
limits: {hosts: 1, cooldown: 1s, max: "1000 per 1h"}
trigger: {alert: AppDown, for: 0s, mode: auto}
steps:
  - {id: again, do: act, on: "{{host}}"}
"""


def run(*, quick: bool) -> Report:
    """All of it; `quick` with a tenth or less."""
    part = 10 if quick else 1
    report = Report(
        f"runs: {STEPS // part} steps, {HOSTS // part:,} hosts in waves, {OPEN // part:,} open runs"
    )
    for case in (
        lambda town: _steps(town, report, 1, STEPS // part),
        lambda town: _steps(town, report, AT_A_TIME // part, STEPS // 5 // part),
        lambda town: _waves(town, report, HOSTS // part, WAVE // part),
        lambda town: _resume(town, report, OPEN // part),
        lambda town: _alert(town, report, 2 if quick else ALERTS),
    ):
        with tempfile.TemporaryDirectory(prefix="wb-runs-") as place, Town.opened(Path(place)) as town:
            asyncio.run(case(town))
    report.notes.append(
        "CPU seconds of the whole process but the simulated hosts; wall time on an idle disk only"
    )
    report.notes.append(
        f"{BARE}: as many rows and transactions, nothing decided, signed or hashed: a lower bound"
    )
    return report


# ---------------------------------------------------------------- a collector and its hosts


class Link(FleetTwin):
    """The way to hosts in memory; what they cost is told apart, and when something was first carried."""

    spent_s = 0.0
    first_s = 0.0

    def send(self, agent_id: str, body: bytes, ttl_ms: int) -> bool:
        """Carry an order."""
        self.first_s = self.first_s or time.monotonic()
        began = time.thread_time()
        gone = super().send(agent_id, body, ttl_ms)
        self.spent_s += time.thread_time() - began
        return gone


@dataclass
class Town:
    """One site."""

    store: Store
    place: Path
    clock: SystemClock = field(default_factory=SystemClock)
    fleet: Link = field(default_factory=Link)
    runs: Runs = field(init=False)
    commits: list[int] = field(default_factory=list)
    """Rows of each transaction."""
    ingest_s: float = 0.0
    """CPU of committing what hosts say."""
    seq: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @staticmethod
    @contextmanager
    def opened(place: Path) -> Iterator["Town"]:
        """A site in a directory."""
        with Store.open(place, SITE) as store:
            yield Town(store, place)

    def host(self, name: str, role: str = "web") -> HostTwin:
        """One that looks and acts."""
        agent = f"{len(self.fleet.hosts) + 1:08d}-0000-4000-8000-000000000000"
        host = HostTwin(agent, name, SITE, public_key(SEED), self.clock, labels={"role": role})
        for what, effect in (("look", Effect.READ), ("act", Effect.REPEAT)):
            argument = Argument(name="node", kind=Kind.NAME, default="x")
            host.allow(
                Action(name=what, argv=("/bin/true", "{{node}}"), effect=effect, arguments=(argument,))
            )
        row = Host(
            agent_id=agent,
            site=SITE,
            instance=name,
            state=HostState.ACTIVE,
            labels=host.labels,
            ephemeral=False,
            public_key=b"",
            envelope_key=b"",
            hostname=name,
            agent_version="",
            address="",
            enrolled_ms=1,
            changed_ms=1,
        )
        self.store.write_blocking(lambda c: hosts.add_host(c, row))
        self.fleet.add(host)
        return host

    def begin(self) -> None:
        """Its collector."""
        orders = OrderDesk(self.store, self.clock, SITE, SEED, self.fleet)
        known = {
            host.name: KnownHost(name=host.name, agent=host.agent, labels=host.labels, actions=host.actions)
            for host in self.fleet.hosts.values()
        }
        fleet = Fleet(known)
        self.runs = Runs(
            self.store, self.clock, RunBook(self.store), orders, world=lambda: World(site=SITE, fleet=fleet)
        )
        self.runs.written = self.commits.append

    def runbook(self, text: str) -> Runbook:
        """One that is in force."""
        content = text.encode()
        found, problems = read_runbook("bench.yaml", content)
        assert found is not None, problems
        row = runbooks.TextRow(digest=found.digest, name=found.name, author="", seen_ms=1, content=text)
        self.store.write_blocking(lambda c: runbooks.see_text(c, SITE, row))
        self.runs.book.know(found)
        return found

    async def create(self, book: Runbook) -> None:
        """One run more."""
        flow = self.runs.book.flow(book.digest, {}, False)
        assert flow is not None
        await self.runs.create(
            [created(book)], flow, Entry(actor="ada", action="run.start", target=book.name)
        )

    async def settle(self) -> None:
        """Until nobody has anything to say."""
        while True:
            await self.runs.turn()
            found = self.fleet.take()
            if not found:
                return
            began = time.process_time()
            await self.store.write(lambda c, found=found: self._commit(c, found))
            self.ingest_s += time.process_time() - began
            self.commits.append(len(found))
            for agent, event in found:
                self.runs.told(agent, [event])  # type: ignore[list-item] # No inventory is told here.

    def _commit(self, connection: object, found: list[tuple[str, Told]]) -> None:
        by_agent: dict[str, list[crit.CritRecord]] = {}
        for agent, event in found:
            if isinstance(event, (Accepted, Finished)):
                seq = next(self.seq)
                record = crit.CritRecord(
                    seq=seq,
                    event_id=seq.to_bytes(16),
                    kind=KINDS[type(event)],
                    boottime_ms=1,
                    wall_ms=1,
                    payload=event.to_json(),
                )
                by_agent.setdefault(agent, []).append(record)
        now_ms = self.clock.wall_ms()
        for agent, records in by_agent.items():
            mark = crit.CritMark(agent, b"spool", records[-1].seq, 0)
            crit.commit(connection, SITE, mark, records, now_ms)  # type: ignore[arg-type]

    def bodies(self) -> list[str]:
        """What the journals hold."""
        ids = [one.run_id for one in self.store.read(lambda c: run_rows.summaries(c, SITE))]
        found = self.store.read(lambda c: run_rows.journals(c, ids))
        return [row.body for rows in found.values() for row in rows]


def created(book: Runbook, host: str = "") -> Created:
    """The first row of a run."""
    return Created(
        runbook=book.name,
        digest=book.digest,
        parameters={"host": host} if host else {},
        requester="ada",
        reason="a benchmark",
        lock=f"x/{host}" if host else "",
    )


# ---------------------------------------------------------------- what is measured


@dataclass
class Took:
    """CPU without the hosts', and wall time."""

    cpu_s: float
    wall_s: float


async def measured(town: Town, work: Callable[[], object]) -> Took:
    """What some work takes."""
    hosts_s, cpu_s, wall_s = town.fleet.spent_s, time.process_time(), time.monotonic()
    await work()  # type: ignore[misc] # Every piece of work here is awaited.
    took = time.process_time() - cpu_s - (town.fleet.spent_s - hosts_s)
    return Took(took, time.monotonic() - wall_s)


async def _steps(town: Town, report: Report, at_a_time: int, steps: int) -> None:
    """Runs that do one step after the other, each on its host, side by side."""
    names = [f"web{number}" for number in range(at_a_time)]
    for name in names:
        town.host(name)
    town.begin()
    await town.runs.load()
    books = [
        town.runbook(
            f"runbook: chain{number}\nabout: steps\nsteps:\n"
            + "".join(f"  - {{id: s{step}, do: act, on: {name}}}\n" for step in range(steps))
        )
        for number, name in enumerate(names)
    ]

    async def work() -> None:
        for book in books:
            await town.create(book)
        await town.settle()

    took, count = await measured(town, work), at_a_time * steps
    assert sum(host.ran["act"] for host in town.fleet.hosts.values()) == count
    bare = _bare(town)
    what = "one after the other" if at_a_time == 1 else f"{at_a_time} runs at a time"
    report.add(f"steps {what}", count / took.wall_s, "1/s")
    report.add(f"steps {what}: a step", took.cpu_s / count * 1000, "ms CPU", bare.cpu_s / count * 1000, BARE)
    report.add(
        f"steps {what}: of that, what its host says, committed", town.ingest_s / count * 1000, "ms CPU"
    )
    report.add(f"steps {what}: a step", took.wall_s / count * 1000, "ms", bare.wall_s / count * 1000, BARE)


async def _waves(town: Town, report: Report, count: int, wave: int) -> None:
    """One step over many hosts."""
    for number in range(count):
        town.host(f"web{number}")
    town.begin()
    await town.runs.load()
    book = town.runbook(
        f"runbook: waves\nabout: all\nsteps:\n  - {{id: a, do: act, on: {{select: 'role=\"web\"', wave: {wave}}}}}\n"
    )

    async def work() -> None:
        await town.create(book)
        await town.settle()

    took = await measured(town, work)
    assert sum(host.ran["act"] for host in town.fleet.hosts.values()) == count
    bare = _bare(town)
    what = f"{count:,} hosts in waves of {wave}"
    report.add(what, took.cpu_s, "s CPU", bare.cpu_s, BARE)
    report.add(f"{what}: of that, what they say, committed", town.ingest_s, "s CPU")
    report.add(what, took.wall_s, "s", bare.wall_s, BARE)
    report.notes.append(f"{what}: {sum(town.commits):,} rows in {len(town.commits)} transactions")


async def _resume(town: Town, report: Report, count: int) -> None:
    """A collector that begins with many runs at their gates, and goes on with all of them."""
    for number in range(count // 10):
        town.host(f"web{number}")
    town.begin()
    book = town.runbook(GATE)
    rows = await _waiting(town, book, count)

    async def load() -> None:
        assert await town.runs.load() == count
        await town.runs.resume()

    loaded = await measured(town, load)
    gone_on = await measured(town, town.settle)
    assert all(live.run.state.value == "waiting" for live in town.runs.open())
    began = time.process_time()
    with sqlite3.connect(town.place / "control.db") as bare:
        query = "SELECT run_id, n, at_ms, kind, body, hash FROM run_journal ORDER BY run_id, n"
        read = sum(1 for row in bare.execute(query) if json.loads(row[4]))
    read_s = time.process_time() - began
    assert read >= count * rows
    report.add(
        f"{count:,} open runs read back", loaded.cpu_s, "s CPU", read_s, "the same rows read and parsed"
    )
    report.add(f"{count:,} open runs gone on with", gone_on.cpu_s, "s CPU")
    report.add(f"{count:,} open runs, until all go on", loaded.wall_s + gone_on.wall_s, "s")
    report.notes.append(f"open runs have {rows} rows each and wait at a gate of their own")


async def _waiting(town: Town, book: Runbook, count: int) -> int:
    """Runs that went as far as their gate; how many rows each has. The first one really did."""
    flow = town.runs.book.flow(book.digest, {}, False)
    assert flow is not None
    await town.runs.load()
    entry = Entry(actor="ada", action="run.start", target=book.name)
    live = await town.runs.create([created(book, "web0")], flow, entry)
    await town.settle()
    assert live.run.state.value == "waiting", live.run.detail
    first = town.store.read(lambda c: run_rows.journal(c, live.run.run_id))
    for start in range(1, count, WRITTEN_AT_ONCE):
        numbers = range(start, min(count, start + WRITTEN_AT_ONCE))
        town.store.write_blocking(lambda c, numbers=numbers: _copies(c, town, book, first, numbers))
    town.begin()
    town.runs.book.know(book)
    return len(first)


def _copies(
    connection: object,
    town: Town,
    book: Runbook,
    first: list[run_rows.JournalRow],
    numbers: Collection[int],
) -> None:
    """The rows of a run, for others like it: each with a lock of its own."""
    added, summaries = [], []
    for number in numbers:
        run_id, now_ms = f"{number:016x}", town.clock.wall_ms()
        start = created(book, f"web{number % len(town.fleet.hosts)}")
        live = begin(run_id, start, now_ms)
        rows = [NewRow(row.at_ms, row.kind, dict(row.document())) for row in first[1:]]
        added.append(
            (run_id, run_rows.genesis(SITE, run_id), [NewRow(now_ms, kind_of(start), body_of(start)), *rows])
        )
        summaries.append(replace(summary_of(live), state="waiting", rows_written=len(first)))
    run_rows.append_all(connection, SITE, added)  # type: ignore[arg-type]
    run_rows.save_summaries(connection, SITE, summaries, new=True)  # type: ignore[arg-type]


def _bare(town: Town) -> Took:
    """As many rows of the same content in as many transactions, into a file of its own."""
    bodies = itertools.cycle(town.bodies())
    chain = b"\0" * 32
    began_cpu, began = time.process_time(), time.monotonic()
    bare = sqlite3.connect(town.place / "bare.db", isolation_level=None)
    bare.execute("PRAGMA journal_mode=WAL")
    bare.execute("PRAGMA synchronous=FULL")
    bare.execute(
        "CREATE TABLE journal (n INTEGER PRIMARY KEY, at_ms INTEGER, body TEXT, prev BLOB, hash BLOB)"
    )
    number = itertools.count()
    for rows in town.commits:
        bare.execute("BEGIN")
        bare.executemany(
            "INSERT INTO journal VALUES (?, ?, ?, ?, ?)",
            [(next(number), 1, next(bodies), chain, chain) for _ in range(rows)],
        )
        bare.execute("COMMIT")
    bare.close()
    return Took(time.process_time() - began_cpu, time.monotonic() - began)


# ---------------------------------------------------------------- from an alert to a command


class _Stamp:
    def made(self) -> None:
        """Nobody watches."""


async def _alert(town: Town, report: Report, count: int) -> None:
    """Triggers and runs as they live in a collector; the alert is told as the rules tell it."""
    for number in range(count):
        host = town.host(f"web{number}")
        town.store.write_blocking(
            lambda c, host=host: inventories.put(c, SITE, host.agent, host.inventory(), 1)
        )
    registry = HostRegistry(town.store, town.clock)
    house = RunHouse(
        town.store,
        town.clock,
        registry,
        RegistryBindings(registry),
        SEED,
        town.fleet,
        connected=lambda _: True,
    )
    house.inventories.take([InventoryRow(one.agent, 1, one.inventory()) for one in town.fleet.hosts.values()])
    firing: list[Firing] = []
    triggers = Triggers(
        town.store, town.clock, house, alerts=lambda _: Seen(tuple(firing), frozenset({"AppDown"}))
    )
    await house.begin()
    await house.shelf.load([Source("restart.yaml", ALERT.encode())])
    bob = Caller("bob", (Grant(Role.APPROVER),))
    await house.desk.accept("restart", house.shelf.books["restart"].digest, bob)
    house.runs.ready.set()
    tasks = [asyncio.create_task(house.runs.run()), asyncio.create_task(triggers.run(_Stamp()))]  # type: ignore[arg-type]
    took: list[float] = []
    for number in range(count):
        await asyncio.sleep(1.2)  # Its cooldown.
        now_ms, town.fleet.first_s = town.clock.wall_ms(), 0.0
        alert = Firing(
            name="AppDown",
            fingerprint=f"f{number}",
            labels={"instance": f"web{number}"},
            fired_ms=now_ms,
            judged_ms=now_ms,
            every_ms=15_000,
        )
        firing[:] = [alert]
        began = time.monotonic()
        triggers.wake()
        while not town.fleet.first_s:
            await asyncio.sleep(0.001)
            assert time.monotonic() - began < 30, "no command came"
        took.append(town.fleet.first_s - began)
        for agent, event in town.fleet.take():
            house.runs.told(agent, [event])  # type: ignore[list-item]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    took.sort()
    report.add(f"alert to first command: worst of {count}", took[-1], "s", ALERT_S, ALLOWED)
    report.add("alert to first command: median", took[len(took) // 2], "s", ALERT_S, ALLOWED)
