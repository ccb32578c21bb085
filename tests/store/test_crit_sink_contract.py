"""Where critical events become durable: the sink in memory, on SQLite and on PostgreSQL keep the same promises."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from watchbill.clock import ManualClock
from watchbill.errors import StorageError
from watchbill.protocol.frames import Stream
from watchbill_collector.ingest.ports import CritEvent, CritSink, Mark, MemoryCritSink
from watchbill_collector.services.registry import StoreCritSink
from watchbill_collector.store import Store, crit
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
