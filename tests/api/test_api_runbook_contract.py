"""The facts of `runbook_contract.py`, of every runbook service there is."""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from watchbill.actions.definition import Action, Effect, Needs
from watchbill.actions.roster import Roster
from watchbill.actions.signing import public_key
from watchbill.clock import ManualClock, SystemClock
from watchbill_collector.api.runbook_twin import RunbooksTwin, TwinBook, TwinStep, blank
from watchbill_collector.hosts import HostRegistry
from watchbill_collector.runbooks.books import Source
from watchbill_collector.services.run_house import RunHouse
from watchbill_collector.services.run_twin import FleetTwin, HostTwin, Ran
from watchbill_collector.store import Store
from watchbill_collector.store.hosts import Host, HostState, add_host
from watchbill_collector.store.inventories import InventoryRow
from watchbill_collector.store.runbooks import TextRow, see_text

NAME = "watchbill_runbook_contract"
MEMORY = Path("/dev/shm")


def _contract() -> Any:
    """The list: test folders are no packages, so it cannot be imported by name."""
    if NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(NAME, Path(__file__).with_name("runbook_contract.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[NAME] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[NAME])
    return sys.modules[NAME]


contract = _contract()


class Bound:
    generation = 0

    def bound(self, instance: str) -> dict[str, str] | None:
        return {"web1": {"team": "a"}, "db1": {"team": "b"}}.get(instance)

    def hosts(self) -> list[tuple[str, dict[str, str]]]:
        return [("web1", {"team": "a"}), ("db1", {"team": "b"})]


def books() -> list[TwinBook]:
    restart = TwinStep(id="restart", host="web1", action="svc.restart", argv=("/bin/systemctl", "restart"))
    steps = {
        "restart": (restart,),
        "broken": (TwinStep(id="restart", host="web1", action="svc.restart", ends=("failed",)),),
        "guarded": (TwinStep(id="consent", kind="approve", role="ops", needed=1), restart),
        "promote": (
            TwinStep(id="consent", kind="approve", role="dba", needed=2),
            TwinStep(
                id="promote",
                host="db1",
                action="pg.promote",
                argv=("/usr/bin/pg_ctl", "promote"),
                effect="once",
                protected=True,
                commit=True,
            ),
        ),
    }
    return [
        TwinBook(
            text=f"runbook: {name}\n",
            author="ann",
            steps=those,
            view=blank(name),
            lock="pg/db1" if name == "promote" else "",
        )
        for name, those in steps.items()
    ]


@contextlib.asynccontextmanager
async def twin(_: Path) -> AsyncIterator[Any]:
    """The service in memory."""
    clock = SystemClock()
    made = RunbooksTwin(clock, Bound())
    made.roster = roster(clock.wall_ms())
    for book in books():
        made.put(book)
    published: list[Any] = []
    made.publish = lambda _kind, document: published.append(document)

    async def settle() -> None:
        pass

    async def change_text(name: str) -> None:
        (book,) = [one for one in books() if one.view.name == name]
        made.put(TwinBook(text=book.text + "# changed\n", author="ann", steps=book.steps, view=book.view))

    def done(host: str) -> int:
        return sum(
            attempt.outcome == "ok"
            for run in made._runs.values()
            for step in run.view.steps
            for attempt in step.attempts
            if attempt.host == host
        )

    yield contract.Stage(made, settle, change_text, done, clock.wall_ms, published)


def roster(now_ms: int) -> Roster:
    return Roster(
        site="main", serial=1, issued_ms=now_ms, expires_ms=now_ms + 86_400_000, people=contract.PEOPLE
    )


# ---------------------------------------------------------------- the real one

TEXTS = {
    "restart": "steps: [{id: restart, do: svc.restart, on: web1}]\ndrill: {every: 30d}\n",
    "broken": "steps: [{id: restart, do: svc.flaky, on: web1}]\n",
    "guarded": "steps:\n- {id: consent, approve: ops}\n- {id: restart, do: svc.restart, on: web1}\n",
    "promote": (
        "lock: pg/db1\nsteps:\n- {id: consent, approve: dba, count: 2}\n"
        "- {id: promote, do: pg.promote, on: db1}\n"
    ),
}
SEED = b"\x07" * 32


@contextlib.asynccontextmanager
async def desk(directory: Path) -> AsyncIterator[Any]:
    """The collector's own, over a store and hosts in memory that judge orders as runners do."""
    clock = ManualClock()
    store = Store.open(directory, "main")
    fleet = FleetTwin()
    people = roster(clock.wall_ms())
    for number, name in enumerate(("web1", "db1"), 1):
        host = HostTwin(
            f"0000000{number}-0000-4000-8000-000000000000",
            name,
            "main",
            public_key(SEED),
            clock,
            labels=Bound().bound(name),
        )
        host.roster = people
        fleet.add(host)
        store.write_blocking(lambda c, host=host: add_host(c, enrolled(host)))  # type: ignore[misc]
    web1, db1 = fleet.hosts.values()
    published: list[Any] = []
    house = RunHouse(
        store,
        clock,
        HostRegistry(store, clock),
        Bound(),
        SEED,
        fleet,
        connected=lambda agent: fleet.hosts[agent].connected,
        roster=lambda: people,
        publish=lambda _kind, document: published.append(document),
    )

    def flaky(_: Any) -> Ran:
        tries = [
            len(attempts)
            for live in house.runs.open()
            for step in live.run.steps.values()
            for attempts in step.attempts.values()
            if live.run.created.runbook == "broken"
        ]
        return Ran(exit_code=1 if tries == [1] else 0)

    web1.allow(allowed("svc.restart", Effect.REPEAT))
    web1.allow(allowed("svc.flaky", Effect.REPEAT), flaky)
    db1.allow(allowed("pg.promote", Effect.ONCE, Needs(approvals=2, role="dba")))
    texts = {name: f"runbook: {name}\n{text}" for name, text in TEXTS.items()}
    house.inventories.take([InventoryRow(agent, 1, host.inventory()) for agent, host in fleet.hosts.items()])

    async def load() -> None:
        # Texts of files have no author; these were handed in by one.
        for name, text in texts.items():
            digest = hashlib.sha256(text.encode()).hexdigest()
            row = TextRow(digest=digest, name=name, author="ann", seen_ms=1, content=text)
            store.write_blocking(lambda c, row=row: see_text(c, "main", row))  # type: ignore[misc]
        await house.shelf.load([Source(f"{name}.yaml", text.encode()) for name, text in texts.items()])

    async def settle() -> None:
        clock.advance(0.001)  # What begins later is newer.
        while True:
            await house.runs.turn()
            found = fleet.take()
            for agent, event in found:
                house.runs.told(agent, [event])
            if not found:
                return

    async def change_text(name: str) -> None:
        texts[name] += "# changed\n"
        await load()

    def done(name: str) -> int:
        (host,) = [one for one in fleet.hosts.values() if one.name == name]
        return sum(host.ran.values())

    await load()
    await house.begin()
    yield contract.Stage(house.desk, settle, change_text, done, clock.wall_ms, published)
    store.close()


def enrolled(host: HostTwin) -> Host:
    return Host(
        agent_id=host.agent,
        site="main",
        instance=host.name,
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


def allowed(name: str, effect: Effect, needs: Needs | None = None) -> Action:
    return Action(name=name, argv=("/bin/true",), effect=effect, needs=needs or Needs())


STAGES = {"twin": twin, "desk": desk}


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("state")
    Store.open(directory, "main").close()
    return directory / "control.db"


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory, where there is one: what a crash leaves is asked elsewhere."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="wb-desk-", dir=MEMORY) as directory:
        yield Path(directory)


@pytest.mark.parametrize("fact", contract.FACTS, ids=lambda fact: fact.__name__)
@pytest.mark.parametrize("which", list(STAGES))
async def test_a_runbook_service_keeps_the_contract(
    which: str, fact: Any, migrated: Path, quick_path: Path
) -> None:
    shutil.copy(migrated, quick_path)
    async with STAGES[which](quick_path) as stage:
        await fact(stage)


def test_no_fact_is_left_out() -> None:
    assert len(contract.FACTS) == 19
