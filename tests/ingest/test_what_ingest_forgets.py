"""What is remembered of deliveries stays bounded: closed spools, forgotten hosts, and one host's many sessions."""

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from watchbill.codec import FamilyRun, MetricKind, encode_schema
from watchbill.limits import HELLOS_PER_AGENT_BURST
from watchbill.protocol.frames import (
    End,
    EndReason,
    Hello,
    RetiredSpool,
    Stream,
    StreamMark,
    StreamState,
    Welcome,
)
from watchbill.protocol.server import CLOSED_SPOOLS_KEPT, SPOOL_CLOSED, Ledger, fault_of, greet
from watchbill_collector.ingest.ingest import Ingest
from watchbill_collector.ingest.ports import Host, Mark, MemoryAdmission, MemorySink, Standing
from watchbill_collector.series import SeriesTable

Site = Any  # The fixture's class lives in conftest, which cannot be imported.
LOAD = encode_schema([FamilyRun("node_load1", MetricKind.GAUGE, "", ((),))])
PATIENCE_S = 20.0
STREAMS = (StreamState(Stream.CRIT), StreamState(Stream.BULK))


async def until(condition: Callable[[], object]) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_s, "the condition did not come true in time"
        await asyncio.sleep(0.005)


def spool(number: int) -> bytes:
    return number.to_bytes(16)


def said_hello(ledger: Ledger, number: int, retired: tuple[RetiredSpool, ...] = ()) -> None:
    """A process with the spool of that number comes, delivers one record, and its predecessor is closed."""
    hello = Hello("1", spool(number), b"r" * 16, "boot", STREAMS, 0, 0, retired)
    for watermark in greet(ledger, hello, number * 1000).touched:
        watermark.commit(watermark.pending())
    bulk = ledger.watermark(spool(number), Stream.BULK)
    bulk.offer(1, 1, b"record")
    bulk.commit(bulk.pending())


def closed_spools(ledger: Ledger) -> set[bytes]:
    return {watermark.spool_id for watermark in ledger.watermarks() if watermark.closed}


def test_of_an_agents_closed_spools_the_newest_are_kept() -> None:
    ledger = Ledger("agent")
    gone: list[StreamMark] = []
    for number in range(1, 201):
        said_hello(ledger, number)
        gone += [watermark.mark() for watermark in ledger.forget_closed({spool(number)})]
    assert closed_spools(ledger) == {spool(number) for number in range(200 - CLOSED_SPOOLS_KEPT, 200)}
    assert {mark.committed for mark in gone} == {SPOOL_CLOSED}
    assert len(gone) == 2 * (200 - 1 - CLOSED_SPOOLS_KEPT)


def test_the_order_in_which_spools_were_closed_outlives_the_process() -> None:
    ledger = Ledger("agent")
    for number in range(1, 101):
        said_hello(ledger, number)
    again = Ledger("agent")
    for watermark in sorted(ledger.watermarks(), key=lambda one: one.spool_id[::-1]):
        again.restore(watermark.spool_id, watermark.mark())
    again.forget_closed({spool(100)})
    assert closed_spools(again) == {spool(number) for number in range(100 - CLOSED_SPOOLS_KEPT, 100)}


def test_a_spool_that_its_agent_still_names_is_never_forgotten() -> None:
    ledger = Ledger("agent")
    first = RetiredSpool(spool(1), Stream.BULK, 1)
    for number in range(1, 101):
        said_hello(ledger, number, (first,) if number > 1 else ())
        ledger.forget_closed({spool(number), spool(1)})
    assert spool(1) in closed_spools(ledger)
    hello = Hello("1", spool(101), b"r" * 16, "boot", STREAMS, 0, 0, (first,))
    assert spool(1) not in [closed.spool_id for closed in greet(ledger, hello).closed], "it is told once"


async def ingest_of(*hosts: Host) -> Ingest:
    from watchbill.clock import SystemClock

    return Ingest(SeriesTable(), MemorySink(), MemoryAdmission(hosts), SystemClock())


async def test_delivered_is_known_from_the_last_life_and_by_agent_alone() -> None:
    ingest = await ingest_of(Host("a", "web1"), Host("b", "web2"), Host("c", "web3"))
    ingest.restore([Mark("a", spool(1), 2, 7, 9), Mark("b", spool(2), 1, 0, 0)])
    assert [ingest.delivered(agent_id) for agent_id in "abc"] == [True, False, False]
    await ingest.close()


async def test_of_a_forgotten_host_nothing_is_remembered() -> None:
    ingest = await ingest_of(
        Host("a", "web1", standing=Standing.FORGOTTEN), Host("b", "web2", standing=Standing.RETIRED)
    )
    marks = [Mark("a", spool(1), 2, 7, 9), Mark("a", spool(1), 1, 3, 9), Mark("b", spool(2), 2, 5, 5)]
    ingest.restore(marks)
    assert ingest.take_surplus() == marks[:2]
    assert ingest.take_surplus() == []
    ingest.forget("b")
    assert ingest.take_surplus() == marks[2:]
    assert not ingest.delivered("b")
    assert ingest.counters.marks_forgotten == 3
    await ingest.close()


async def test_spools_that_were_closed_long_ago_are_given_up_at_a_hello(site: Site) -> None:
    agent_id = site.enrol("web01")
    closed = [Mark(agent_id, spool(number), 2, SPOOL_CLOSED, number) for number in range(1, 100)]
    site.ingest.restore(closed)
    agent = site.connect(agent_id)
    await agent.hello()
    surplus = site.ingest.take_surplus()
    assert sorted(mark.digest for mark in surplus) == list(range(1, 100 - CLOSED_SPOOLS_KEPT))
    await agent.send(LOAD.frames[0])
    await agent.ticks(1, LOAD, [1.0])
    await agent.acked(1)


async def test_one_host_cannot_use_up_the_sessions_that_all_may_begin(site: Site) -> None:
    greedy, answers = site.enrol("greedy"), []
    for _ in range(HELLOS_PER_AGENT_BURST + 5):
        agent = site.connect(greedy)
        answers.append(await agent.hello(run_id=b"r" * 16))
        await agent.close()
        await until(lambda: not site.ingest.agent(greedy).connections)
    assert all(isinstance(answer, Welcome) for answer in answers[:HELLOS_PER_AGENT_BURST])
    last = answers[-1]
    assert isinstance(last, End)
    assert last.reason is EndReason.BUSY
    assert last.retry_after_ms >= 60_000
    assert site.refusals()["greedy", "busy"] >= 4
    await site.linked("modest")


@pytest.mark.parametrize("held", [SPOOL_CLOSED, 2**62])
def test_an_agent_that_comes_back_with_a_closed_spool_is_welcome_after_its_fork(held: int) -> None:
    from watchbill.protocol.client import Client, Fork
    from watchbill.protocol.frames import Settings
    from watchbill_agent.spool import Draft, MemorySpool

    log = MemorySpool(new_id=lambda: os.urandom(16))
    log.append(Stream.BULK, Draft(b"\x12\x00", 1, 1, 1))
    client = Client(log)
    client.hello()
    (order,) = client.receive(Welcome(7, 0, (StreamMark(Stream.BULK, held, 1),), Settings()), 0)
    assert isinstance(order, Fork)
    log.obey(order)
    again = Hello("1", log.spool_id, b"r" * 16, "boot", client.hello(), 0, 0, log.retired)
    assert fault_of(again) is None
