"""The audit covers runs, votes, refusals and what was done without the collector; whoever edits it is contradicted."""

import dataclasses
import sqlite3
from collections.abc import Sequence
from typing import Any

import pytest

from tests.evidence.conftest import Site
from watchbill.actions.order import Refusal
from watchbill.actions.outcomes import (
    COMMAND_BREAKGLASS,
    COMMAND_REFUSED,
    Accepted,
    Breakglass,
    Refused,
)
from watchbill.errors import StorageError
from watchbill_collector.audit import Audit, Head, Row, Witnesses
from watchbill_collector.hosts import HostRegistry
from watchbill_collector.ingest.ports import CritEvent
from watchbill_collector.services.auditing import AuditKeeper
from watchbill_collector.services.run_intake import Committed, RunDoor
from watchbill_collector.store import Store, commands, crit, runs
from watchbill_collector.store import audit as audit_rows
from watchbill_collector.store.audit import genesis

BEGUN = Accepted(
    key="k" * 64, run="r7", step="act", ledger="l", boot="b", at_ms=5, approvers=("anna", "boris")
)
GLASS = Breakglass(
    accepted=BEGUN, bundle="b1", runbook="promote", action="db.promote", attempt=1, uid=0, reason="it burnt"
)
NO = Refused(key="", run="", step="", reason=Refusal.SIGNATURE, detail="the signature does not hold", at_ms=6)


def told(site: Site, *events: Breakglass | Refused) -> Committed:
    """Events of a host, committed as they are when they come."""
    store, committed = site.house.store, Committed()
    door = RunDoor(store, site.house.clock)
    agent = site.house.named("db1").agent
    found = []
    for number, event in enumerate(events, 900):
        kind = COMMAND_BREAKGLASS if isinstance(event, Breakglass) else COMMAND_REFUSED
        event_id = number.to_bytes(16)
        content = door.read(agent, kind, event_id, event.to_json())
        found.append(CritEvent(number, event_id, kind, 1, 1, event.to_json(), 0, content))

    def work(connection: Any) -> None:
        records = [
            crit.CritRecord(
                seq=one.seq,
                event_id=one.event_id,
                kind=one.kind,
                boottime_ms=one.boottime_ms,
                wall_ms=one.wall_ms,
                payload=one.payload,
            )
            for one in found
        ]
        mark = crit.CritMark(agent, b"spool", found[-1].seq, 0)
        crit.commit(connection, "main", mark, records, site.house.clock.wall_ms())
        door.write(connection, agent, found, site.house.clock.wall_ms(), committed)

    store.write_blocking(work)
    return committed


def rows(store: Store) -> list[Row]:
    return store.read(lambda c: audit_rows.rows_from(c, 0, 1_000))


async def covered(site: Site) -> list[Row]:
    await site.promote()
    told(site, GLASS, NO)
    site.audit.sign()
    return rows(site.house.store)


async def test_runs_votes_refusals_and_broken_glass_have_rows_in_one_chain(site: Site) -> None:
    found = await covered(site)
    actions = [row.action for row in found]
    assert [actions.count(one) for one in ("run.start", "run.vote", "run.end")] == [1, 2, 1]
    assert [(row.outcome, row.actor) for row in found if row.action == COMMAND_REFUSED] == [
        ("refused", "host")
    ]
    (glass,) = [row for row in found if row.action == COMMAND_BREAKGLASS]
    for said in ('"reason":"it burnt"', '"uid":0', '"approvers":["anna","boris"]', '"run":"r7"'):
        assert said in glass.detail
    assert site.audit.check().whole


async def test_what_was_done_without_us_is_told_to_its_run_as_accepted_also_after_a_restart(
    site: Site,
) -> None:
    committed = told(site, GLASS)
    agent = site.house.named("db1").agent
    assert committed.told == [(agent, BEGUN)]
    assert committed.glass == [(agent, GLASS)]
    back = site.house.store.read(lambda c: list(commands.since(c, "main", 0)))
    assert (agent, BEGUN) in back


async def test_every_kind_of_row_that_is_edited_with_sqlite3_is_named(site: Site) -> None:
    found = await covered(site)
    wanted = {row.action: row.seq for row in found if row.action.startswith(("run.", "command."))}
    assert len(wanted) == 5
    site.house.store.close()
    other = sqlite3.connect(site.house.directory / "control.db")
    other.execute("DROP TRIGGER audit_no_update")
    for seq in wanted.values():
        other.execute(
            "UPDATE audit SET detail = replace(detail, '\"run\"', '\"ruin\"') WHERE seq = ?", (seq,)
        )
    other.commit()
    other.close()
    with Store.open(site.house.directory, "main") as store:
        findings = Audit(store, site.house.clock, site.key).check().findings
    assert [(one.fault.value, one.seq) for one in findings] == [
        ("edited", seq) for seq in sorted(wanted.values())
    ]


async def test_a_history_written_anew_with_the_collectors_own_key_is_contradicted_by_a_host(
    site: Site,
) -> None:
    found = await covered(site)
    agent = site.house.named("db1").agent
    site.house.store.close()
    first = _write_anew(site, found)
    with Store.open(site.house.directory, "main") as store:
        clock = site.house.clock
        audit = Audit(store, clock, site.key)
        audit.sign()
        assert audit.check().whole, "by itself it is a right chain, rightly signed"
        keeper = AuditKeeper(store, clock, audit, Witnesses(audit.hashes), HostRegistry(store, clock))
        assert (await keeper.verify([agent])).witnesses[0].verdict == "silent"
        keeper.heard(agent, [Head(row.seq, row.hash) for row in found])
        verdict = await keeper.verify([agent])
    assert (verdict.ok, verdict.witnesses[0].verdict, verdict.witnesses[0].disputed) == (
        False,
        "disagrees",
        first,
    )


def _write_anew(site: Site, found: Sequence[Row]) -> int:
    """The thief, who has the key: a refusal never was. The first row that is another one."""
    first = next(row.seq for row in found if row.action == COMMAND_REFUSED)
    other = sqlite3.connect(site.house.directory / "control.db")
    for trigger in [
        name for (name,) in other.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
    ]:
        if trigger.startswith("audit"):
            other.execute(f"DROP TRIGGER {trigger}")
    other.execute("DELETE FROM audit_checkpoints")
    before = genesis("main")
    for row in found:
        if row.seq == first:
            row = dataclasses.replace(row, action="host.show", outcome="done", detail="{}")
        made = audit_rows.row_hash(row, prev_hash=before)
        other.execute(
            "UPDATE audit SET action = ?, outcome = ?, detail = ?, prev_hash = ?, hash = ? WHERE seq = ?",
            (row.action, row.outcome, row.detail, before, made, row.seq),
        )
        before = made
    other.commit()
    other.close()
    return first


async def test_nothing_privileged_is_done_while_the_audit_cannot_be_written(site: Site) -> None:
    house = site.house
    waiting = await house.begin("promote")
    await house.settle()
    gone = sqlite3.connect(house.directory / "control.db")
    gone.execute("CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no room'); END")
    gone.commit()
    with pytest.raises(StorageError):
        await house.begin("promote", requester="eve")
    for verb in ("abort", "abort"):
        with pytest.raises(StorageError):
            await house.say(waiting, verb)
        await house.settle()  # What it had decided never happened: it is folded from its rows again.
    with pytest.raises(StorageError):
        await house.add(waiting)
    await house.settle()
    listed = house.store.read(lambda c: runs.summaries(c, "main"))
    assert [(one.run_id, one.state, one.requester) for one in listed] == [(waiting, "waiting", "ada")]
    assert house.named("db1").ran == {"db.look": 1}, "only what was under way before"
    with pytest.raises(StorageError):
        told(site, GLASS)  # It stays at its host, which sends it again.
    gone.execute("DROP TRIGGER full")
    gone.commit()
    gone.close()
    await house.say(waiting, "abort")
    assert house.state(waiting) == "cancelled"
    assert site.audit.check().whole
