"""What a host had delivered before the collector began is read back from history."""

from pathlib import Path

import numpy as np

from watchbill.clock import ManualClock
from watchbill_collector.history import History, HistoryOptions
from watchbill_collector.history.values import Mark
from watchbill_collector.hosts import HostRegistry
from watchbill_collector.ingest.ingest import Ingest
from watchbill_collector.ingest.ports import Host, MemoryAdmission
from watchbill_collector.series import SeriesTable, Ticks
from watchbill_collector.services.completeness import WITNESS, recall
from watchbill_collector.store import Store
from watchbill_collector.store import hosts as rows
from watchbill_collector.store.hosts import HostState, Presence

NAMES = {"web01": "c83d89b0-e8c7-4a9f-b76b-15dd26a9c425", "web02": "c83d89b0-e8c7-4a9f-b76b-15dd26a9c426"}
HOUR_MS = 3_600_000


def enrolled(name: str, at_ms: int) -> rows.Host:
    return rows.Host(
        agent_id=NAMES[name],
        site="main",
        instance=name,
        state=HostState.ACTIVE,
        labels={},
        ephemeral=False,
        public_key=b"k",
        envelope_key=b"e",
        hostname=name,
        agent_version="0",
        address="",
        enrolled_ms=at_ms,
        changed_ms=at_ms,
    )


async def test_a_hole_before_the_start_is_still_there_and_who_has_no_past_counts_from_now(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    now_ms = clock.wall_ms()
    store = Store.open(tmp_path / "state", "main")
    labels = {name: {"instance": name, "job": "node"} for name in NAMES}
    for name, agent_id in NAMES.items():
        host, presence = enrolled(name, now_ms - 2 * HOUR_MS), Presence(labels[name])
        store.write_blocking(lambda c, host=host: rows.add_host(c, host))
        store.write_blocking(
            lambda c, key=agent_id, presence=presence: rows.put_present(c, "main", key, presence, 1)
        )
    table = SeriesTable()
    history = History.open(tmp_path / "history", table, clock, HistoryOptions())
    series = table.series(table.source(labels["web01"]), [table.key(WITNESS, {})])
    times = np.arange(now_ms - HOUR_MS - 120_000, now_ms, 10_000)
    times = times[(times < now_ms - 40 * 60_000) | (times > now_ms - 25 * 60_000)]
    history.commit([Ticks(series, times, np.ones((len(times), 1)))], [], [])
    admission = MemoryAdmission([Host(agent_id, name) for name, agent_id in NAMES.items()])
    ingest = Ingest(table, history, admission, clock)
    ingest.restore([Mark(agent_id, b"s" * 16, 2, 7, 0) for agent_id in NAMES.values()])
    hosts = ingest.unread()
    assert all(coverage.ratio(now_ms) is None for coverage in hosts.values())

    await recall(history, table, HostRegistry(store, clock), ingest, now_ms)

    ratio = hosts[NAMES["web01"]].ratio(now_ms)
    assert ratio is not None
    assert abs(ratio - 0.75) < 0.01
    assert hosts[NAMES["web02"]].since_ms == now_ms
    assert ingest.unread() == {}
    await ingest.close()
    history.close()
    store.close()
