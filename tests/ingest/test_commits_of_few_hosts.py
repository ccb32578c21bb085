"""When commits begin: soon for hosts that are few, in large groups when many send."""

import asyncio
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio

from watchbill.protocol.frames import Stream
from watchbill.protocol.server import Watermark
from watchbill_collector.ingest import commit
from watchbill_collector.ingest.agents import Agent
from watchbill_collector.ingest.commit import EARLY_MAX, FEW, GroupCommit
from watchbill_collector.ingest.counters import IngestCounters
from watchbill_collector.ingest.ports import MemorySink
from watchbill_collector.series import Ticks

AN_HOUR_S = 3600.0
PATIENCE_S = 20.0


@pytest_asyncio.fixture
async def commits(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GroupCommit]:
    """Under load they are an hour apart: whoever had to wait for one would wait for ever."""
    monkeypatch.setattr(commit, "EVERY_S", AN_HOUR_S)
    made = GroupCommit(MemorySink(), IngestCounters())
    yield made
    await made.close()


def send(commits: GroupCommit, hosts: int) -> list[Watermark]:
    """A record of each of so many hosts."""
    watermarks = []
    for number in range(hosts):
        agent = Agent(f"agent-{number}", 0.0)
        watermark = agent.ledger.watermark(b"s" * 16, Stream.BULK)
        watermark.offer(1, 1, b"record")
        commits.add(Ticks(np.array([number], np.uint32), np.array([1]), np.array([[1.0]])), 10)
        commits.touch(watermark, agent)
        watermarks.append(watermark)
    return watermarks


async def committed(watermarks: list[Watermark]) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while not all(watermark.committed for watermark in watermarks):
        assert time.monotonic() < give_up_s, "nothing was committed"
        await asyncio.sleep(0.002)


def next_in_s(commits: GroupCommit) -> float:
    assert commits._timer is not None
    return commits._timer.when() - asyncio.get_running_loop().time()


async def test_what_follows_the_commit_of_a_few_hosts_does_not_wait(commits: GroupCommit) -> None:
    # A host that begins: its `up`, then its first record.
    for _ in range(EARLY_MAX):
        await committed(send(commits, 1))


async def test_one_host_that_sends_without_a_pause_gets_no_more_commits_than_many(
    commits: GroupCommit,
) -> None:
    for _ in range(EARLY_MAX):
        await committed(send(commits, 1))
    send(commits, 1)
    assert next_in_s(commits) > AN_HOUR_S / 2


async def test_after_the_commit_of_many_hosts_the_next_waits_for_its_time(commits: GroupCommit) -> None:
    await committed(send(commits, FEW + 1))
    send(commits, 1)
    assert next_in_s(commits) > AN_HOUR_S / 2
