"""Two hundred agents come back at once: each reading that any of them took is in history, once.

The agents are the product's own batchers, spools and senders in one process, which notes when each took a reading.
"""

import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.agents import Agents, Plan
from benchmarks.collector import Collector, write_identities
from benchmarks.fleet import Fleet

HOSTS = 200
TICKS = 12
"""The first ones are spread over fifteen seconds, of which the collector is away for five and its start."""
BACK_S = 120.0

pytestmark = pytest.mark.timeout(400)


def _counts(collector: Collector) -> dict[str, int]:
    answer: Any = collector.get("/api/v1/query", query="count_over_time(node_load1[10m])")
    return {row["metric"]["instance"]: int(row["value"][1]) for row in answer["result"]}


def test_two_hundred_agents_that_return_at_once_deliver_every_reading_once(tmp_path: Path) -> None:
    collector = Collector(tmp_path / "home", None)
    names = Fleet(HOSTS).names
    write_identities(tmp_path / "identities", collector.register(names))
    process = collector.start(cpu=None)
    agents = None
    try:
        plan = Plan(str(tmp_path / "identities"), str(tmp_path / "sent.npy"), 1.0, 1, ticks=TICKS)
        agents = Agents(plan, tmp_path / "agents.log", cpu=None)
        agents.ask("play")
        time.sleep(5)
        process.kill()
        time.sleep(5)
        process = collector.start(cpu=None)
        began_s = time.monotonic()
        while agents.ask("facts")["connected"] < HOSTS:
            assert time.monotonic() - began_s < BACK_S, agents.ask("facts")
            time.sleep(0.5)
        facts = agents.ask("finish")
        assert facts["unacknowledged"] == 0, facts
        assert facts["refused"] == 0, facts
        taken = (np.load(tmp_path / "sent.npy") > 0).sum(axis=1)
        assert _counts(collector) == dict(zip(names, taken.tolist(), strict=True))
        with urllib.request.urlopen(f"{collector.url}/api/watchbill/v1/gaps", timeout=30) as answer:
            assert json.load(answer)["gaps"] == []
    finally:
        if agents is not None:
            agents.close()
        collector.stop()
