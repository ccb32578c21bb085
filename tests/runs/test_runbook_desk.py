"""Runbooks and runs as people have them: accepted, planned, started, agreed to, changed - each in his scope."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.runs.conftest import SEED, SITE, House, action
from watchbill.actions.definition import Needs
from watchbill.actions.grants import Vote, sign_vote
from watchbill.actions.outcomes import Inventory
from watchbill.actions.roster import Person, Roster
from watchbill.actions.signing import public_key
from watchbill.errors import Refused
from watchbill_collector.api.ports import Caller, Grant, NoSuch, Role
from watchbill_collector.api.runbook_port import RunState, RunVerb
from watchbill_collector.hosts import HostRegistry
from watchbill_collector.runbooks.books import Source
from watchbill_collector.services.run_house import RunHouse
from watchbill_collector.services.run_intake import Committed
from watchbill_collector.services.run_twin import HostTwin, Ran
from watchbill_collector.services.scoping import RegistryBindings
from watchbill_collector.store import audit, automation, hosts, inventories, runbooks
from watchbill_collector.store import runs as run_rows
from watchbill_collector.store import votes as vote_rows
from watchbill_collector.store.audit import Filter
from watchbill_collector.store.hosts import Host, HostState
from watchbill_collector.store.inventories import InventoryRow

BOTH = (Grant(Role.OPERATOR), Grant(Role.APPROVER))
ADA, BOB, EVE = (Caller(name, BOTH) for name in ("ada", "bob", "eve"))
ANYBODY = Caller("vera", (Grant(Role.VIEWER),))
OTHER_TEAM = Caller("otto", (Grant(Role.OPERATOR, "team=web"), Grant(Role.APPROVER, "team=web")))

FAILOVER = """
runbook: failover
about: promote the standby
params: {standby: {type: host, default: db2}}
lock: "pg/{{standby}}"
limits: {hosts: 2, cooldown: 1h, max: "1 per 1d", breaker: 1}
steps:
  - {id: look, do: look, on: "{{standby}}"}
  - {id: fit, check: look.out.role == "standby"}
  - {id: consent, approve: dba, timeout: 15m}
  - {id: promote, do: promote, on: "{{standby}}", commit: true}
confirm: standby
"""


@dataclass
class Desk:
    """A collector's runbooks, with hosts in memory."""

    house: House
    runs: RunHouse
    roster: list[Roster]

    async def settle(self) -> None:
        """Until nobody has anything to say."""
        while True:
            await self.runs.runs.turn()
            found = self.house.fleet.take()
            if not found:
                return
            for agent, event in found:
                assert not isinstance(event, Inventory)
                self.runs.runs.told(agent, [event])

    async def load(self, *texts: str) -> None:
        """These are the files."""
        await self.runs.shelf.load(
            [Source(f"{number}.yaml", text.encode()) for number, text in enumerate(texts)]
        )

    def digest(self, name: str = "failover") -> str:
        """Of the text in force."""
        return self.runs.shelf.books[name].digest

    def audited(self) -> list[str]:
        """Who did what, in order."""
        rows = self.house.store.read(lambda c: audit.rows_newest(c, SITE, Filter(), 100))
        return [f"{row.actor} {row.action}" for row in reversed(rows)]


@pytest.fixture
async def desk(make_house: Callable[[], House]) -> Desk:
    from watchbill_collector.store import Store

    house = make_house()
    house.store = Store.open(house.directory, SITE)
    db2 = house.host("db2", {"team": "db"})
    db2.allow(*action("look", "read", lambda _: Ran(output=json.dumps({"role": "standby"}))))
    db2.allow(*action("promote", "once"))
    house.host("web1", {"team": "web"}).allow(*action("look", "read"))
    for host in house.fleet.hosts.values():
        row = Host(
            agent_id=host.agent,
            site=SITE,
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
        house.store.write_blocking(lambda c, row=row: hosts.add_host(c, row))  # type: ignore[misc]
        tell(house, host)
    registry = HostRegistry(house.store, house.clock)
    rosters: list[Roster] = []
    made = RunHouse(
        house.store,
        house.clock,
        registry,
        RegistryBindings(registry),
        SEED,
        house.fleet,
        connected=lambda agent: house.fleet.hosts[agent].connected,
        roster=lambda: rosters[-1] if rosters else None,
        tell=lambda run, channel, text: house.told.append((channel, text)),
    )
    await made.begin()
    found = Desk(house, made, rosters)
    await found.load(FAILOVER)
    return found


def tell(house: House, host: HostTwin) -> InventoryRow:
    """A host says what it allows."""
    house.store.write_blocking(lambda c: inventories.put(c, SITE, host.agent, host.inventory(), 1))
    return InventoryRow(host.agent, 1, host.inventory())


async def accepted(desk: Desk) -> None:
    await desk.runs.desk.accept("failover", desk.digest(), BOB)


async def started(desk: Desk, caller: Caller = ADA) -> str:
    view = await desk.runs.desk.start("failover", {}, "the primary is gone", False, "db2", caller)
    await desk.settle()
    return view.id


async def test_a_text_nobody_accepted_is_not_run_and_another_letter_is_another_text(desk: Desk) -> None:
    with pytest.raises(Refused, match="nobody has accepted this text of failover"):
        await started(desk)
    with pytest.raises(Refused, match="another text by now"):
        await desk.runs.desk.accept("failover", "0" * 64, BOB)
    await accepted(desk)
    view, text = await desk.runs.desk.runbook("failover", ANYBODY)
    assert (view.accepted_by, text) == ("bob", FAILOVER)
    await desk.load(FAILOVER + "# a comment\n")
    with pytest.raises(Refused, match="nobody has accepted"):
        await started(desk)
    assert desk.audited() == ["system runbook.changed", "bob runbook.accept", "system runbook.changed"]


async def test_who_wrote_a_text_does_not_accept_it(desk: Desk) -> None:
    text = FAILOVER.replace("promote the standby", "by bob")
    source = Source("mine.yaml", text.encode())
    from watchbill_collector.runbooks.books import read_books

    book = read_books([source])["failover"]
    row = runbooks.TextRow(digest=book.digest, name="failover", author="bob", seen_ms=1, content=text)
    desk.house.store.write_blocking(lambda c: runbooks.see_text(c, SITE, row))
    await desk.runs.shelf.load([source])
    with pytest.raises(Refused, match="bob wrote this text"):
        await desk.runs.desk.accept("failover", book.digest, BOB)
    assert (await desk.runs.desk.accept("failover", book.digest, EVE)).accepted_by == "eve"


async def test_a_run_goes_from_its_start_over_a_gate_to_its_end(desk: Desk) -> None:
    await accepted(desk)
    with pytest.raises(Refused, match="this needs 'db2' to be typed, got ''"):
        await desk.runs.desk.start("failover", {}, "x", False, "", ADA)
    run_id = await started(desk)
    view = await desk.runs.desk.run(run_id, ADA)
    assert (view.state, view.exit_code, view.lock) == (RunState.WAITING, 4, "pg/db2")
    gate = view.steps[2]
    assert (gate.state, gate.role, gate.needed, gate.verified_on_host) == ("waiting", "dba", 1, False)
    with pytest.raises(Refused, match="ada asked for it himself"):
        await desk.runs.desk.approve(run_id, "consent", True, "", ADA)
    await desk.runs.desk.approve(run_id, "consent", True, "go", BOB)
    await desk.settle()
    view = await desk.runs.desk.run(run_id, ADA)
    assert (view.state, view.exit_code) == (RunState.SUCCEEDED, 0)
    assert [(step.id, step.state) for step in view.steps] == [
        ("look", "ok"),
        ("fit", "ok"),
        ("consent", "ok"),
        ("promote", "ok"),
    ]
    assert [(vote.person, vote.counted, vote.comment) for vote in view.steps[2].votes] == [
        ("bob", True, "go")
    ]
    (attempt,) = view.steps[3].attempts
    assert (attempt.outcome, attempt.argv) == ("ok", ("/bin/true", "x"))
    assert desk.audited()[2:] == ["ada run.start", "bob run.vote", "system run.end"]
    # The audit holds the run to its journal.
    last = desk.house.store.read(lambda c: audit.rows_newest(c, SITE, Filter(), 1))[0]
    rows = desk.house.store.read(lambda c: run_rows.journal(c, run_id))
    assert json.loads(last.detail)["journal_hash"] == rows[-1].hash.hex()
    (row,) = desk.house.store.read(lambda c: vote_rows.of_person(c, SITE, "bob"))
    assert (row.run_id, row.approve) == (run_id, True)
    journal = await desk.runs.desk.journal(run_id, 3, ADA)
    assert (journal[0].n, journal[0].kind, journal[0].step, journal[0].host) == (4, "intent", "look", "db2")


async def test_scopes_and_roles_decide_who_sees_and_changes_what(desk: Desk) -> None:
    await accepted(desk)
    run_id = await started(desk)
    assert await desk.runs.desk.runbooks(OTHER_TEAM) == []
    for call in (
        desk.runs.desk.runbook("failover", OTHER_TEAM),
        desk.runs.desk.run(run_id, OTHER_TEAM),
        desk.runs.desk.journal(run_id, 0, OTHER_TEAM),
        desk.runs.desk.change(run_id, RunVerb.ABORT, "", "x", OTHER_TEAM),
        desk.runs.desk.approve(run_id, "consent", True, "", OTHER_TEAM),
    ):
        with pytest.raises(NoSuch):
            await call
    assert await desk.runs.desk.runs(OTHER_TEAM, False, False, "", 10) == []
    assert [one.id for one in await desk.runs.desk.runs(ANYBODY, True, False, "failover", 10)] == [run_id]
    for call in (
        desk.runs.desk.change(run_id, RunVerb.ABORT, "", "x", ANYBODY),
        desk.runs.desk.start("failover", {}, "x", False, "db2", ANYBODY),
        desk.runs.desk.accept("failover", desk.digest(), ANYBODY),
    ):
        with pytest.raises(Refused):
            await call


async def test_a_plan_looks_live_shows_exact_argv_and_changes_nothing(desk: Desk) -> None:
    look = desk.runs.desk.plan("failover", {}, False, ADA)
    import asyncio

    task = asyncio.ensure_future(look)
    while not task.done():
        await asyncio.sleep(0)
        await desk.settle()
    plan = task.result()
    assert [(step.step, step.verdict) for step in plan.steps] == [
        ("look", "ok"),
        ("fit", "ok"),
        ("consent", ""),
        ("promote", ""),
    ]
    assert plan.steps[3].argv == ("/bin/true", "x")
    assert plan.problems == ["nobody has accepted this text of failover: watchbill runbooks accept failover"]
    assert (plan.confirm, plan.lock) == ("db2", "pg/db2")
    assert desk.house.named("db2").ran == {"look": 1}
    assert desk.runs.runs.count == 0


async def test_a_gate_that_hosts_verify_takes_signatures_alone_and_counts_them_as_hosts_do(
    desk: Desk,
) -> None:
    db2 = desk.house.named("db2")
    seeds = {name: bytes([number]) * 32 for number, name in enumerate(("ada", "bob", "eve", "otto"), 1)}
    roster = Roster(
        site=SITE,
        serial=1,
        issued_ms=desk.house.clock.wall_ms(),
        expires_ms=desk.house.clock.wall_ms() + 86_400_000,
        people=tuple(
            Person(
                name=name,
                key=public_key(seed),
                roles=("dba",) if name != "otto" else ("ops",),
                scopes=("team=web",) if name == "eve" else (),
            )
            for name, seed in seeds.items()
        ),
    )
    db2.allow(*action("promote", "once", None, needs=Needs(1, "dba")))
    desk.runs.told(Committed(inventories=[tell(desk.house, db2)]))
    db2.roster = roster
    await accepted(desk)
    run_id = await started(desk)
    gate = (await desk.runs.desk.run(run_id, ADA)).steps[2]
    assert gate.verified_on_host

    def signed(name: str, digest: str = gate.manifest_digest) -> bytes:
        now_ms = desk.house.clock.wall_ms()
        vote = Vote(
            manifest=digest,
            site=SITE,
            run=run_id,
            gate="consent",
            person=name,
            approve=True,
            signed_ms=now_ms,
            expires_ms=now_ms + 600_000,
        )
        return sign_vote(seeds[name], vote)

    with pytest.raises(Refused, match="hosts look at this gate themselves"):
        await desk.runs.desk.approve(run_id, "consent", True, "", BOB)
    with pytest.raises(Refused, match="no roster"):
        await desk.runs.desk.vote(run_id, "consent", signed("bob"), BOB)
    desk.roster.append(roster)
    for name, why in (("ada", "asked for it himself"), ("eve", "outside his scope"), ("otto", "wanted dba")):
        with pytest.raises(Refused, match=why):
            await desk.runs.desk.vote(run_id, "consent", signed(name), BOB)
    with pytest.raises(Refused, match="something else"):
        await desk.runs.desk.vote(run_id, "consent", signed("bob", "0" * 64), BOB)
    await desk.runs.desk.vote(run_id, "consent", signed("bob"), EVE)
    await desk.settle()
    view = await desk.runs.desk.run(run_id, ADA)
    assert view.state is RunState.SUCCEEDED, view.state_detail
    assert db2.ran["promote"] == 1


async def test_a_pause_outlives_the_collector_and_keeps_runs_from_beginning(desk: Desk) -> None:
    await accepted(desk)
    await desk.runs.desk.pause("an upgrade", BOB)
    with pytest.raises(Refused, match="automation is paused by bob: an upgrade"):
        await started(desk)
    assert desk.house.store.read(lambda c: automation.get(c, automation.PAUSE)) is not None
    paused = await desk.runs.desk.paused()
    assert paused is not None
    assert paused[:2] == ("bob", "an upgrade")
    await desk.runs.desk.resume("done", BOB)
    assert await started(desk)


async def test_triggers_propose_when_limits_say_so_and_people_are_only_told(desk: Desk) -> None:
    await accepted(desk)
    run_id = await started(desk)
    await desk.runs.desk.change(run_id, RunVerb.ABORT, "", "enough", ADA)
    await desk.settle()
    second = await started(desk)
    notes = desk.runs.runs.get(second)
    assert notes is not None
    assert any("the last run ended" in note for note in notes.run.created.notes)
    await desk.runs.desk.change(second, RunVerb.ABORT, "", "enough", ADA)
    await desk.settle()
    third, why = await desk.runs.desk.propose("failover", {}, "pg_down", "alert pg_down", auto=True)
    assert "limits.max is 1" in why
    view = await desk.runs.desk.run(third, ADA)
    assert (view.state, view.exit_code, view.trigger) == (RunState.PROPOSED, 4, "alert pg_down")
    await desk.runs.desk.change(third, RunVerb.START, "", "yes", EVE)
    await desk.settle()
    view = await desk.runs.desk.run(third, ADA)
    assert (view.state, view.requester) == (RunState.WAITING, "eve")


async def test_a_breaker_opens_after_a_run_that_did_not_end_well_and_a_person_closes_it(desk: Desk) -> None:
    await accepted(desk)
    run_id = await started(desk)
    with pytest.raises(Refused, match="is not open"):
        await desk.runs.desk.reset_breaker("failover", "x", BOB)
    await desk.runs.desk.approve(run_id, "consent", False, "no", BOB)
    await desk.settle()
    assert (await desk.runs.desk.run(run_id, ADA)).state is RunState.HELD
    assert (await desk.runs.desk.runbook("failover", ADA))[0].breaker_open
    desk.house.clock.advance(1)
    assert not (await desk.runs.desk.reset_breaker("failover", "looked at", BOB)).breaker_open


async def test_a_file_that_cannot_be_read_is_listed_with_what_is_wrong_and_not_run(
    desk: Desk, tmp_path: Path
) -> None:
    await desk.load("runbook: broken\nsteps: []\n", FAILOVER)
    views = {view.name: view for view in await desk.runs.desk.runbooks(ADA)}
    assert set(views) == {"0", "failover"} or set(views) == {"broken", "failover"}
    broken = next(view for name, view in views.items() if name != "failover")
    assert broken.findings
    with pytest.raises(Refused, match="cannot be read"):
        await desk.runs.desk.start(broken.name, {}, "x", False, "", ADA)
    with pytest.raises(Refused, match="standby"):
        await desk.runs.desk.start("failover", {"standby": "-rf"}, "x", False, "-rf", ADA)


async def test_a_preflight_is_kept_and_says_why_a_runbook_is_not_ready(desk: Desk) -> None:
    import asyncio

    await accepted(desk)
    desk.house.named("db2").connected = False
    row = await desk.runs.desk.preflight("failover")
    assert row is not None
    assert not row.ready
    desk.house.named("db2").connected = True
    task = asyncio.ensure_future(desk.runs.desk.preflight("failover"))
    while not task.done():
        await asyncio.sleep(0)
        await desk.settle()
    view = (await desk.runs.desk.runbook("failover", ADA))[0]
    assert (view.ready, list(view.not_ready)) == (True, [])
