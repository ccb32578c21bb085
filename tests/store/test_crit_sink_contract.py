"""Where critical events become durable: the sink in memory, on SQLite and on PostgreSQL keep the same promises."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from watchbill.clock import ManualClock
from watchbill.errors import StorageError
from watchbill.protocol.frames import Stream
from watchbill_collector.ingest.ports import CritEvent, CritSink, Mark, MemoryCritSink
from watchbill_collector.services import check_intake
from watchbill_collector.services.registry import StoreCritSink
from watchbill_collector.store import Store, checks, crit
from watchbill_collector.store import hosts as host_rows
from watchbill_collector.store.hosts import Host, HostState
from watchbill_collector.store.schema import CRIT_RECORDS

AGENTS = ("c83d89b0-e8c7-4a9f-b76b-15dd26a9c425", "0f9b5a52-3a3c-4a5b-8a53-8d0a90b1c9f2")
OLD, NEW = b"a" * 16, b"b" * 16
Kept = Callable[[], list[tuple[str, int, bytes]]]


def host(agent_id: str) -> Host:
    return Host(
        agent_id=agent_id,
        site="main",
        instance=agent_id[:8],
        state=HostState.ACTIVE,
        labels={},
        ephemeral=False,
        public_key=b"k",
        envelope_key=b"",
        hostname="h",
        agent_version="0",
        address="::1",
        enrolled_ms=1,
        changed_ms=1,
    )


def event(seq: int, name: int | None = None, kind: str = "k") -> CritEvent:
    return CritEvent(seq, (seq if name is None else name).to_bytes(16), kind, 1, 2, b"{}")


def changed(seq: int, check: str, before: str, after: str, reason: str = "") -> CritEvent:
    """A check's change, as it comes through the door a second after the one before."""
    told = {"check": check, "app": "shop", "kind": "http", "from": before, "to": after, "reason": reason}
    payload = json.dumps(told | {"essential": True, "detail": f"about {reason}"}).encode()
    content = check_intake.read(AGENTS[0], "check.changed", b"", payload)
    return CritEvent(
        seq, seq.to_bytes(16), "check.changed", 1, seq * 1_000, payload, shift_ms=5, content=content
    )


def mark(spool_id: bytes, seq: int, agent_id: str = AGENTS[0]) -> Mark:
    return Mark(agent_id, spool_id, int(Stream.CRIT), seq, 2**64 - seq)


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def sink(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[CritSink, Kept]]:
    """The sink, and what it has kept: agent, number, event."""
    if request.param == "memory":
        memory = MemoryCritSink()
        yield memory, lambda: [(agent, one.seq, one.event_id) for agent, one in memory.events]
        return
    url = request.getfixturevalue("migrated_postgresql") if request.param == "postgresql" else ""
    store = Store.open(tmp_path, "main", url)
    for agent_id in AGENTS:
        store.write_blocking(lambda c, agent_id=agent_id: host_rows.add_host(c, host(agent_id)))
    table = CRIT_RECORDS.c
    query = sa.select(table.agent_id, table.seq, table.event_id)

    def kept() -> list[tuple[str, int, bytes]]:
        return [tuple(row) for row in store.read(lambda c: c.execute(query).all())]  # type: ignore[misc]

    yield StoreCritSink(store, ManualClock()), kept
    store.close()


def test_an_event_is_kept_once_however_often_it_comes(sink: tuple[CritSink, Kept]) -> None:
    crit_sink, kept = sink
    for _ in range(2):
        crit_sink.commit([mark(OLD, 2)], {(AGENTS[0], OLD): [event(1), event(2)]})
    crit_sink.commit([mark(NEW, 5)], {(AGENTS[0], NEW): [event(5, name=2)]})
    assert sorted(kept()) == [(AGENTS[0], 1, (1).to_bytes(16)), (AGENTS[0], 2, (2).to_bytes(16))]


def test_two_spools_of_one_agent_in_one_transaction_keep_their_numbers_apart(
    sink: tuple[CritSink, Kept],
) -> None:
    crit_sink, kept = sink
    events = {(AGENTS[0], OLD): [event(1, name=1)], (AGENTS[0], NEW): [event(1, name=2), event(2, name=3)]}
    crit_sink.commit([mark(OLD, 1), mark(NEW, 2)], events)
    assert sorted(number for _, number, _ in kept()) == [1, 1, 2]


def test_two_agents_may_have_events_of_the_same_name(sink: tuple[CritSink, Kept]) -> None:
    crit_sink, kept = sink
    both = {(agent, OLD): [event(1)] for agent in AGENTS}
    crit_sink.commit([mark(OLD, 1, agent) for agent in AGENTS], both)
    assert sorted(agent for agent, _, _ in kept()) == sorted(AGENTS)


def test_an_event_that_is_kept_is_never_changed(store: Store) -> None:
    store.write_blocking(lambda c: host_rows.add_host(c, host(AGENTS[0])))
    StoreCritSink(store, ManualClock()).commit([mark(OLD, 1)], {(AGENTS[0], OLD): [event(1)]})
    with pytest.raises(StorageError, match="never changed"):
        store.write_blocking(lambda c: c.execute(CRIT_RECORDS.update().values(payload=b"forged")))


def test_of_agents_own_lives_the_newest_are_kept_and_of_everything_else_all(store: Store) -> None:
    clock = ManualClock()
    for agent_id in AGENTS:
        store.write_blocking(lambda c, agent_id=agent_id: host_rows.add_host(c, host(agent_id)))
    for agent_id in AGENTS:
        kinds = ["agent.started", "agent.stopped", "backup"] * 4
        found = [event(place + 1, kind=kind) for place, kind in enumerate(kinds)]
        StoreCritSink(store, clock).commit([mark(OLD, 12, agent_id)], {(agent_id, OLD): found})
    kinds = ("agent.started", "agent.stopped")
    assert store.write_blocking(lambda c: crit.trim(c, "main", kinds, keep=3)) == 4
    assert store.write_blocking(lambda c: crit.trim(c, "other", kinds, keep=0)) == 0
    left: Any = store.read(lambda c: crit.recent(c, "main", AGENTS[0]))
    assert sorted((one.kind, one.seq) for one in left) == [
        *(("agent.started", seq) for seq in (4, 7, 10)),
        *(("agent.stopped", seq) for seq in (5, 8, 11)),
        *(("backup", seq) for seq in (3, 6, 9, 12)),
    ]


def test_the_newest_word_of_each_check_is_kept_and_a_verdict_stands_since_it_began(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_blocking(lambda c: host_rows.add_host(c, host(AGENTS[0])))
    sink = StoreCritSink(store, ManualClock())
    told: list[tuple[str, str]] = []
    sink.checks_told = lambda changes: told.extend((agent, one.after) for agent, one in changes)
    found = [
        changed(1, "web", "", "ok"),
        changed(2, "web", "ok", "critical", "refused"),
        changed(3, "web", "critical", "critical", "timeout"),
        changed(4, "db", "", "ok"),
    ]
    for _ in range(2):
        sink.commit([mark(OLD, 4)], {(AGENTS[0], OLD): found})
    assert told == [(AGENTS[0], word) for word in ("ok", "critical", "critical", "ok")]
    rows = store.read(lambda c: checks.all_of(c, "main"))[AGENTS[0]]
    web = rows["web"]
    assert (web.before, web.after, web.reason, web.detail) == ("ok", "critical", "timeout", "about timeout")
    assert (web.since_ms, web.at_ms, web.app, web.kind) == (2_005, 3_005, "shop", "http")
    monkeypatch.setattr(checks, "CHECKS_PER_HOST_MAX", 2)
    sink.commit([mark(OLD, 5)], {(AGENTS[0], OLD): [changed(5, "cache", "", "ok")]})
    assert set(store.read(lambda c: checks.all_of(c, "main"))[AGENTS[0]]) == {"db", "cache"}
    store.write_blocking(lambda c: checks.remove(c, AGENTS[0]))
    assert store.read(lambda c: checks.all_of(c, "main")) == {}


def test_a_hosts_timeline_is_read_newest_first_in_parts_and_without_what_is_shown_elsewhere(
    store: Store,
) -> None:
    clock = ManualClock()
    for agent_id in AGENTS:
        store.write_blocking(lambda c, agent_id=agent_id: host_rows.add_host(c, host(agent_id)))
    sink = StoreCritSink(store, clock)
    for seq, kind in enumerate(["agent.started", "backup.record", "security.login", "check.changed"], 1):
        sink.commit([mark(OLD, seq)], {(AGENTS[0], OLD): [event(seq, kind=kind)]})
        clock.advance(seq == 2)
    sink.commit([mark(OLD, 1, AGENTS[1])], {(AGENTS[1], OLD): [event(1)]})

    def read(limit: int, before: tuple[int, int] | None = None) -> list[tuple[int, str]]:
        found = store.read(lambda c: crit.timeline(c, "main", AGENTS[0], ("backup.record",), limit, before))
        return [(received_ms, one.kind) for received_ms, one in found]

    every = read(10)
    assert [kind for _, kind in every] == ["check.changed", "security.login", "agent.started"]
    assert [kind for _, kind in read(1)] == ["check.changed"]
    assert read(10, (every[0][0], 4)) == every[1:]
    assert read(10, (every[2][0], 1)) == []
    assert (
        store.write_blocking(lambda c: crit.trim(c, "main", ("agent.started",), ("security.",), keep=0)) == 2
    )
    assert [kind for _, kind in read(10)] == ["check.changed"]
