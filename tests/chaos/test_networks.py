"""A network that stalls, swallows and cuts; processes that stand still. Then every reading is accounted for."""

import signal
import time
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from .account import account
from .proxy import Wire

pytestmark = pytest.mark.timeout(600)

QUIET = "[rules]\nstock = false\n"


@pytest.fixture
def wired(house: Any) -> Iterator[tuple[Any, Any, Wire]]:
    """A collector, and an agent that reaches it through a wire."""
    collector = house.collector(QUIET)
    wire = Wire(collector.ports["stream"])
    agent = house.agent(collector, "web1", f'interval = "1s"\ncollector = "127.0.0.1:{wire.port}"\n')
    yield collector, agent, wire
    wire.close()


def _has_newer(collector: Any, since_s: float) -> bool:
    return any(at > since_s for at, _ in collector.raw('node_time_seconds{instance="web1"}', 60))


def test_connections_cut_again_and_again_lose_nothing(
    wired: tuple[Any, Any, Wire], until: Any, chance: Random, rounds: int
) -> None:
    collector, _, wire = wired
    for _ in range(3 * rounds):
        time.sleep(chance.uniform(0.05, 1.5))
        wire.cut()
    now_s = time.time()
    until(lambda: _has_newer(collector, now_s), "it has caught up", 90)
    found = account(collector, "web1")
    assert found.holes == []
    assert found.rows == []


def test_a_partition_delays_and_loses_nothing(wired: tuple[Any, Any, Wire], until: Any) -> None:
    collector, _, wire = wired
    until(lambda: len(account(collector, "web1").times) > 3, "some history")
    wire.swallow(on=True)
    time.sleep(8)
    wire.swallow(on=False)
    now_s = time.time()
    until(lambda: _has_newer(collector, now_s), "it has caught up", 120)
    found = account(collector, "web1")
    assert found.holes == []
    assert found.rows == []


def test_a_collector_that_stands_still_costs_nothing(wired: tuple[Any, Any, Wire], until: Any) -> None:
    collector, _, _ = wired
    collector.running.signal(signal.SIGSTOP)
    time.sleep(8)
    collector.running.signal(signal.SIGCONT)
    now_s = time.time()
    until(lambda: _has_newer(collector, now_s), "it has caught up", 120)
    found = account(collector, "web1")
    assert found.holes == []
    assert found.rows == []


def test_an_agent_that_stood_still_says_so(wired: tuple[Any, Any, Wire], until: Any) -> None:
    collector, agent, _ = wired
    agent.running.signal(signal.SIGSTOP)
    time.sleep(8)
    agent.running.signal(signal.SIGCONT)
    now_s = time.time()
    until(lambda: _has_newer(collector, now_s), "it goes on", 120)
    found = account(collector, "web1")
    assert found.holes, "nothing can be read by who does not run"
    assert found.unexplained == [], found
