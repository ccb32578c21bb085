"""A machine that returns to a snapshot: its spool forks, says so, and every reading is accounted for."""

import shutil
import time
from typing import Any

import pytest

from .account import account
from .critical import kept, stored

pytestmark = pytest.mark.timeout(300)


def test_a_machine_that_returns_to_a_snapshot_forks_its_spool_and_says_so(house: Any, until: Any) -> None:
    collector = house.collector("[rules]\nstock = false\n")
    agent = house.agent(collector, "web1")
    until(lambda: len(account(collector, "web1").times) > 2, "some history")
    agent.kill()
    snapshot = house.root / "snapshot"
    shutil.copytree(agent.state, snapshot)
    agent.start()
    before = len(account(collector, "web1").times)
    until(lambda: len(account(collector, "web1").times) > before + 3, "readings that the snapshot never had")
    until(lambda: len(stored(collector, agent.agent_id)) == 2, "both starts are told")
    agent.kill()
    lost = set(kept(agent.state / "spool"))
    shutil.rmtree(agent.state)
    shutil.copytree(snapshot, agent.state)
    agent.start()
    now_s = time.time()
    selector = 'node_time_seconds{instance="web1"}'
    until(lambda: any(at > now_s for at, _ in collector.raw(selector, 60)), "it goes on", 60)
    found = account(collector, "web1")
    assert found.unexplained == [], found
    assert found.reasons <= {"restart", "spool-retired", "tail-unknown"}, found.rows
    until(
        lambda: not set(kept(agent.state / "spool")) - set(stored(collector, agent.agent_id)), "all is told"
    )
    kinds = [event.kind for event in stored(collector, agent.agent_id)]
    assert kinds.count("spool.forked") == 1, kinds
    assert lost <= set(stored(collector, agent.agent_id)), "what the machine forgot is not forgotten"
    assert collector.metric("watchbill_collector_events_total", kind="spool.forked") == 1
    agent.kill()
    agent.start()
    until(lambda: len(stored(collector, agent.agent_id)) > len(kinds), "the next start")
    assert [event.kind for event in stored(collector, agent.agent_id)].count("spool.forked") == 1, "said once"
