"""Somebody is disabled: nothing of his opens or agrees to anything any more, and what is short now is said at once."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from watchbill.actions.definition import Action, Effect, Needs
from watchbill.actions.outcomes import Inventory
from watchbill.actions.roster import DAY_MS, Person, Roster, sign_roster
from watchbill.clock import ManualClock
from watchbill.errors import Refused, StorageError
from watchbill_collector.runbookfiles import usable_runbooks
from watchbill_collector.services.staffing import Staffing
from watchbill_collector.services.userdesk import answer
from watchbill_collector.store import Store, inventories, rosters, runs, votes
from watchbill_collector.store import audit as audit_rows
from watchbill_collector.store import hosts as host_rows
from watchbill_collector.store.hosts import Host, HostState
from watchbill_collector.store.rosters import RosterRow
from watchbill_collector.store.runs import RunSummary
from watchbill_collector.usercommand import print_leaving
from watchbill_collector.users import Users

SITE, SAFE = "main", b"\x01" * 32
PEOPLE = (("anna", ("dba",), ()), ("Boris", ("dba", "ops"), ("team=db",)), ("carla", ("dba",), ("team=web",)))
RUNBOOK = """
runbook: pg-failover
about: x
params: {standby: {type: host}}
steps:
  - {id: consent, approve: dba, count: 2}
  - {id: promote, do: pg.promote, on: "{{standby}}", commit: true}
"""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a site in it: making one takes longer than these tests."""
    place = tmp_path_factory.mktemp("made")
    with Store.open(place, SITE) as store:
        make_site(store, ManualClock())
    return place / "control.db"


@pytest.fixture
def store(tmp_path: Path, made: Path) -> Iterator[Store]:
    (tmp_path / "var").mkdir()
    shutil.copy(made, tmp_path / "var")
    with Store.open(tmp_path / "var", SITE) as opened:
        yield opened


@pytest.fixture
def users(store: Store, clock: ManualClock) -> Users:
    return Users(store, clock)


@pytest.fixture
def staffing(store: Store, clock: ManualClock, tmp_path: Path) -> Staffing:
    place = tmp_path / "etc" / "runbooks.d"
    place.mkdir(parents=True)
    (place / "a.yaml").write_text(RUNBOOK)
    (place / "b.yaml").write_text("runbook: other\nabout: x\nsteps:\n  - {id: c, approve: net, count: 1}\n")
    (place / "broken.yaml").write_text("runbook: [")
    return Staffing(store, clock, lambda: usable_runbooks(tmp_path / "etc"))


def make_site(store: Store, clock: ManualClock) -> None:
    """Two hosts with a protected action, a roster, and two runs, of which one has ended; all three have voted."""
    now_ms = clock.wall_ms()
    people = tuple(
        Person(name=name, key=bytes([number]) * 32, roles=roles, scopes=scopes)
        for number, (name, roles, scopes) in enumerate(PEOPLE, 10)
    )
    roster = Roster(site=SITE, serial=7, issued_ms=now_ms, expires_ms=now_ms + 90 * DAY_MS, people=people)
    promote = Action(name="pg.promote", argv=("/bin/true",), effect=Effect.ONCE, needs=Needs(2, "dba"))
    look = Action(name="look", argv=("/bin/true",), effect=Effect.READ)

    def work(connection: sa.Connection) -> None:
        rosters.put(connection, SITE, RosterRow(7, "ops", now_ms, sign_roster(SAFE, roster)))
        for number, (name, team) in enumerate((("db1", "db"), ("web1", "web"))):
            agent = f"{number:08d}-0000-4000-8000-000000000000"
            host_rows.add_host(connection, host(agent, name, team))
            inventories.put(connection, SITE, agent, inventory(look, promote), now_ms)
        for run_id, state in (("open", "waiting"), ("over", "succeeded")):
            runs.save_summary(connection, SITE, summary(run_id, state))
            for person in ("anna", "boris"):
                votes.add(connection, SITE, vote(run_id, person))

    store.write_blocking(work)


def host(agent: str, name: str, team: str) -> Host:
    return Host(
        agent_id=agent,
        site=SITE,
        instance=name,
        state=HostState.ACTIVE,
        labels={"team": team},
        ephemeral=False,
        public_key=b"",
        envelope_key=b"",
        hostname=name,
        agent_version="",
        address="",
        enrolled_ms=1,
        changed_ms=1,
    )


def inventory(*actions: Action) -> Inventory:
    return Inventory(
        version="v", runner=True, ledger="l", epoch=1, roster_serial=7, roster_keys=("k",), actions=actions
    )


def summary(run_id: str, state: str) -> RunSummary:
    return RunSummary(
        run_id=run_id,
        runbook="pg-failover",
        digest="0" * 64,
        state=state,
        state_detail="",
        drill=False,
        requester="dora",
        reason="",
        trigger="",
        parameters={},
        lock_name="",
        hosts=(),
        created_ms=1,
        started_ms=1,
        ended_ms=0 if state == "waiting" else 2,
        recovered_ms=0,
        changed_ms=1,
        rows_written=1,
    )


def vote(run_id: str, person: str) -> votes.VoteRow:
    return votes.VoteRow(
        run_id=run_id,
        step="consent",
        manifest_digest="0" * 64,
        person=person,
        approve=True,
        at_ms=1,
        comment="",
        signed=b"x",
    )


async def add(users: Users, name: str, role: str = "approver") -> str:
    request = {"do": "add", "name": name, "grants": [{"role": role, "scope": ""}]}
    token: str = (await answer(users, request, "local:test"))["token"]
    return token


async def disable(users: Users, staffing: Staffing, name: str) -> dict[str, Any]:
    return await answer(users, {"do": "disable", "name": name}, "local:test", staffing)


async def test_his_token_and_session_end_and_his_words_in_open_runs_are_void(
    users: Users, store: Store, staffing: Staffing
) -> None:
    token = await add(users, "Boris")
    opened = await users.begin_session(users.verify_bearer(token), "")
    users.verify_session(opened.cookie, "")
    said = await disable(users, staffing, "BORIS")
    with pytest.raises(Refused):
        users.verify_bearer(token)
    with pytest.raises(Refused):
        users.verify_session(opened.cookie, "")
    assert said["leaving"]["runs"] == ["open"]
    assert {row.run_id for row in store.read(lambda c: votes.of_person(c, SITE, "boris"))} == {"over"}
    assert {row.run_id for row in store.read(lambda c: votes.of_person(c, SITE, "anna"))} == {"open", "over"}
    newest = store.read(lambda c: audit_rows.rows_from(c, 0, 100))[-1]
    assert (newest.action, newest.actor) == ("user.disable", "local:test")
    assert json.loads(newest.detail)["votes_void_in"] == ["open"]
    again = Users(store, ManualClock())
    with pytest.raises(Refused):
        again.verify_bearer(token)
    assert again.disabled_names() == {"boris"}


async def test_what_he_could_approve_and_what_is_short_without_him_is_told(
    users: Users, staffing: Staffing
) -> None:
    await add(users, "Boris")
    leaving = (await disable(users, staffing, "Boris"))["leaving"]
    assert leaving["roster"] == 7
    # Only on hosts of his team; anna is left there, carla approves elsewhere.
    action = {"host": "db1", "action": "pg.promote", "role": "dba", "needed": 2, "left": 1, "short": True}
    assert leaving["hosts"] == [action]
    assert leaving["runbooks"] == [
        {
            "runbook": "pg-failover",
            "where": "promote: pg.promote on db1",
            "role": "dba",
            "needed": 2,
            "left": 1,
            "short": True,
        }
    ]


async def test_others_who_are_out_already_are_not_among_those_who_are_left(
    users: Users, staffing: Staffing
) -> None:
    for name in ("anna", "carla"):
        await add(users, name)
    leaving = (await disable(users, staffing, "carla"))["leaving"]
    assert [(one["host"], one["left"]) for one in leaving["hosts"]] == [("web1", 1)]
    leaving = (await disable(users, staffing, "anna"))["leaving"]
    assert [(one["host"], one["left"]) for one in leaving["hosts"]] == [("db1", 1), ("web1", 0)]
    assert [(one["runbook"], one["left"]) for one in leaving["runbooks"]] == [("pg-failover", 0)]


async def test_who_is_on_no_roster_leaves_nothing_short(users: Users, staffing: Staffing) -> None:
    await add(users, "dora")
    leaving = (await disable(users, staffing, "dora"))["leaving"]
    assert leaving == {"name": "dora", "roster": 0, "runs": [], "hosts": [], "runbooks": []}


async def test_he_is_out_also_when_it_cannot_be_told_what_is_short(
    users: Users, staffing: Staffing, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await add(users, "Boris")

    def broken(*_: Any) -> Any:
        raise StorageError("the disk is gone")

    monkeypatch.setattr(staffing, "leaving", broken)
    said = await disable(users, staffing, "Boris")
    assert (said["leaving"], said["leaving_unknown"]) == (None, "the disk is gone")
    with pytest.raises(Refused):
        users.verify_bearer(token)


async def test_the_command_says_it_in_words(users: Users, staffing: Staffing, capsys: Any) -> None:
    await add(users, "Boris")
    print_leaving((await disable(users, staffing, "boris"))["leaving"], "")
    out = capsys.readouterr().out
    assert "his votes are void in open" in out
    assert "STILL ON THE ROSTER 7" in out
    assert "watchbill roster sign" in out
    assert "db1: pg.promote needs 2 of dba, 1 left, TOO FEW" in out
    print_leaving(None, "the disk is gone")
    assert "cannot be told: the disk is gone" in capsys.readouterr().out
