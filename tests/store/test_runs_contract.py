"""Runs in the control state: the same on SQLite and PostgreSQL."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from watchbill.actions.definition import Action, Argument, Effect, Kind, Needs
from watchbill.actions.outcomes import Inventory
from watchbill.errors import StorageError
from watchbill_collector.store import Store, automation, inventories, runbooks, runs
from watchbill_collector.store import hosts as host_rows
from watchbill_collector.store.hosts import Host, HostState
from watchbill_collector.store.runbooks import AcceptanceRow, PreflightRow, TextRow
from watchbill_collector.store.runs import JournalHead, NewRow, RunSummary
from watchbill_collector.store.schema import RUN_JOURNAL

RUN = "run-1"
HOST = "c83d89b0-e8c7-4a9f-b76b-15dd26a9c425"


def summary(run_id: str = RUN, state: str = "running", **more: Any) -> RunSummary:
    values: dict[str, Any] = {
        "run_id": run_id,
        "runbook": "failover",
        "digest": "a" * 64,
        "state": state,
        "state_detail": "",
        "drill": False,
        "requester": "ada",
        "reason": "the primary is gone",
        "trigger": "",
        "parameters": {"primary": "db1"},
        "lock_name": "pg/db1",
        "hosts": (HOST,),
        "created_ms": 1_000,
    }
    return RunSummary(**(values | more))


def write(store: Store, run_id: str, rows: Sequence[NewRow], head: JournalHead | None = None) -> JournalHead:
    def work(connection: sa.Connection) -> JournalHead:
        runs.save_summary(connection, "main", summary(run_id))
        start = runs.genesis("main", run_id) if head is None else head
        return runs.append(connection, "main", run_id, start, rows)

    return store.write_blocking(work)


ROWS = [NewRow(1_000, "created", {"name": "übung", "n": 3}), NewRow(1_001, "intent", {"key": "k"})]


def test_a_journal_is_read_back_as_a_chain(store: Store) -> None:
    head = write(store, RUN, ROWS)
    assert head.n == 2
    write(store, RUN, [NewRow(1_002, "result", {"outcome": "ok"})], head)
    found = store.read(lambda c: runs.journal(c, RUN))
    assert [(row.n, row.kind, row.document()) for row in found] == [
        (1, "created", {"name": "übung", "n": 3}),
        (2, "intent", {"key": "k"}),
        (3, "result", {"outcome": "ok"}),
    ]
    assert runs.fault("main", RUN, found) == ""
    assert runs.fault("other", RUN, found) == "row 1 does not follow row 0"
    assert [row.n for row in store.read(lambda c: runs.journal(c, RUN, after=2))] == [3]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"body": '{"key":"other"}'}, "row 2 was changed"),
        ({"at_ms": 7}, "row 2 was changed"),
        ({"kind": "sent"}, "row 2 was changed"),
        ({"prev_hash": bytes(32)}, "row 2 does not follow row 1"),
    ],
)
def test_a_row_that_was_changed_is_named(store: Store, changed: dict[str, Any], said: str) -> None:
    write(store, RUN, ROWS)
    first, second = store.read(lambda c: runs.journal(c, RUN))
    assert runs.fault("main", RUN, [first, dataclasses.replace(second, **changed)]) == said
    assert runs.fault("main", RUN, [second]) == "row 1 is missing"


def test_two_who_append_to_the_same_head_collide_and_one_fails_whole(store: Store) -> None:
    head = write(store, RUN, ROWS)
    write(store, RUN, [NewRow(2, "sent", {})], head)
    with pytest.raises(StorageError):
        write(store, RUN, [NewRow(2, "aborted", {}), NewRow(3, "ended", {})], head)
    assert [row.kind for row in store.read(lambda c: runs.journal(c, RUN))] == ["created", "intent", "sent"]


def test_rows_are_neither_changed_nor_removed_while_their_run_is_there(store: Store) -> None:
    write(store, RUN, ROWS)
    with pytest.raises(StorageError, match="only ever added to"):
        store.write_blocking(lambda c: c.execute(RUN_JOURNAL.update().values(at_ms=0)))
    with pytest.raises(StorageError, match="goes with its run"):
        store.write_blocking(lambda c: c.execute(RUN_JOURNAL.delete()))
    store.write_blocking(lambda c: runs.remove(c, [RUN]))
    assert store.read(lambda c: runs.journal(c, RUN)) == []
    assert store.read(lambda c: runs.summary(c, RUN)) is None


def test_a_summary_is_kept_in_place_of_the_one_before_and_lists_are_the_newest_first(store: Store) -> None:
    for number, state in enumerate(("succeeded", "held", "waiting", "expired")):
        row = summary(f"run-{number}", state, created_ms=number, drill=number == 1)
        store.write_blocking(lambda c, row=row: runs.save_summary(c, "main", row))  # type: ignore[misc]
    ended = summary("run-2", "failed", created_ms=2, ended_ms=9, state_detail="no", rows_written=4)
    store.write_blocking(lambda c: runs.save_summary(c, "main", ended))
    assert store.read(lambda c: runs.summary(c, "run-2")) == ended
    assert [one.run_id for one in store.read(lambda c: runs.summaries(c, "main", limit=3))] == [
        "run-3",
        "run-2",
        "run-1",
    ]
    (held,) = store.read(lambda c: runs.summaries(c, "main", open_only=True))
    assert (held.run_id, held.drill) == ("run-1", True)
    assert store.read(lambda c: runs.summaries(c, "main", runbook="other")) == []


def test_runs_that_ended_go_when_they_are_too_many_or_too_old_and_open_ones_stay(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "RUNS_KEPT_MAX", 2)
    now_ms = runs.RUNS_KEPT_MS + 100
    for number, (state, ended_ms) in enumerate(
        [("succeeded", 99), ("failed", 500), ("undone", 400), ("cancelled", 300), ("held", 0)]
    ):
        row = summary(f"run-{number}", state, ended_ms=ended_ms)
        store.write_blocking(lambda c, row=row: runs.save_summary(c, "main", row))  # type: ignore[misc]
    assert store.read(lambda c: runs.surplus(c, "main", now_ms)) == ["run-0", "run-3"]


def test_texts_are_kept_once_and_the_oldest_that_nobody_needs_go(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runbooks, "TEXTS_PER_RUNBOOK_MAX", 2)

    def see(number: int) -> bool:
        row = TextRow(
            digest=f"d{number}", name="failover", author="", seen_ms=number, content=f"text {number}"
        )
        return store.write_blocking(lambda c: runbooks.see_text(c, "main", row))

    assert see(0)
    assert not see(0)
    acceptance = AcceptanceRow(digest="d0", name="failover", person="ada", at_ms=5)
    assert store.write_blocking(lambda c: runbooks.accept(c, "main", acceptance))
    assert not store.write_blocking(lambda c: runbooks.accept(c, "main", acceptance))
    write(store, RUN, ())
    store.write_blocking(lambda c: runs.save_summary(c, "main", summary(digest="d1")))
    for number in range(1, 6):
        assert see(number)
    digests = {row.digest for row in store.read(lambda c: runbooks.texts(c, [f"d{n}" for n in range(6)]))}
    assert digests == {"d0", "d1", "d4", "d5"}
    assert store.read(lambda c: runbooks.acceptances(c, "main")) == {"d0": [acceptance]}


def test_the_newest_preflight_of_each_runbook_is_what_holds(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runbooks, "PREFLIGHTS_PER_RUNBOOK_MAX", 2)
    rows = [
        PreflightRow(
            name="a", digest="d", at_ms=at_ms, ready=at_ms != 3, problems=("no",) if at_ms == 3 else ()
        )
        for at_ms in range(4)
    ]
    for row in rows:
        store.write_blocking(lambda c, row=row: runbooks.add_preflight(c, "main", row))  # type: ignore[misc]
    assert store.read(lambda c: runbooks.last_preflights(c, "main")) == {"a": rows[3]}


def test_counters_are_never_given_out_twice_and_epochs_only_grow(store: Store) -> None:
    def take() -> int:
        return store.write_blocking(lambda c: automation.take_counters(c, "main", 1))

    assert [take(), take()] == [1, 1 + automation.COUNTER_STEP]
    assert store.read(automation.epoch) == automation.FIRST_EPOCH
    assert store.write_blocking(lambda c: automation.raise_epoch(c, "main", 0, "ada", 1)) == 2
    assert store.write_blocking(lambda c: automation.raise_epoch(c, "main", 9, "ada", 1)) == 9
    assert store.write_blocking(lambda c: automation.raise_epoch(c, "main", 9, "ada", 1)) == 10
    assert store.read(automation.epoch) == 10


def test_what_holds_for_all_runs_is_kept_by_name(store: Store) -> None:
    for name in ("breaker/a", "breaker/b", "breaker%", "pause"):
        store.write_blocking(lambda c, name=name: automation.put(c, "main", name, {"n": name}, "ada", 3))  # type: ignore[misc]
    found = store.read(lambda c: automation.begin_with(c, "main", automation.BREAKER))
    assert {name: (kept.value, kept.person, kept.changed_ms) for name, kept in found.items()} == {
        "a": ({"n": "breaker/a"}, "ada", 3),
        "b": ({"n": "breaker/b"}, "ada", 3),
    }
    store.write_blocking(lambda c: automation.remove(c, automation.PAUSE))
    assert store.read(lambda c: automation.get(c, automation.PAUSE)) is None


def test_an_inventory_is_read_back_whole(store: Store) -> None:
    host = Host(
        agent_id=HOST,
        site="main",
        instance="db1",
        state=HostState.ACTIVE,
        labels={},
        ephemeral=False,
        public_key=b"",
        envelope_key=b"",
        hostname="db1",
        agent_version="",
        address="",
        enrolled_ms=1,
        changed_ms=1,
    )
    promote = Action(
        name="pg.promote",
        argv=("/usr/bin/promote", "{{port}}"),
        effect=Effect.ONCE,
        arguments=(Argument(name="port", kind=Kind.INT, least=1, most=65535, default=5432),),
        probe="pg.role",
        done_when='out.role == "primary"',
        needs=Needs(2, "dba"),
    )
    look = Action(name="pg.role", argv=("/usr/bin/role",), effect=Effect.READ)
    found = Inventory(
        version="v1",
        runner=True,
        ledger="l1",
        epoch=3,
        roster_serial=4,
        roster_keys=("k",),
        actions=(promote, look),
        faults=("x.toml: others may write it",),
    )
    store.write_blocking(lambda c: host_rows.add_host(c, host))
    for inventory in (dataclasses.replace(found, actions=()), found):
        store.write_blocking(lambda c, one=inventory: inventories.put(c, "main", HOST, one, 7))  # type: ignore[misc]
    (row,) = store.read(lambda c: inventories.all_of(c, "main")).values()
    assert (row.agent_id, row.received_ms, row.inventory) == (HOST, 7, found)
    store.write_blocking(lambda c: inventories.remove(c, HOST))
    assert store.read(lambda c: inventories.all_of(c, "main")) == {}
