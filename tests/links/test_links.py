"""What every link does, whatever it is made of: in memory, gRPC, MQTT. What passes this carries Watchbill."""

import asyncio
import contextlib
import random

import pytest

from watchbill.codec import BlockValues, encode_beat, encode_bye, encode_ticks, pack
from watchbill.limits import MESSAGE_BYTES_MAX, ORDER_BYTES_MAX
from watchbill.protocol.frames import (
    ORDER,
    VERIFY,
    Ack,
    End,
    EndReason,
    GapReason,
    Request,
    RunnerOrder,
    Stream,
    VerifyBackup,
    Welcome,
)
from watchbill_agent.sender import About, Sender
from watchbill_agent.spool import Draft, MemorySpool
from watchbill_agent.transports import LinkDown, LinkRefused
from watchbill_collector.ingest.ports import Reach

from .conftest import PATIENCE_S, Bench, RawAgent, schema_of, until

pytestmark = pytest.mark.asyncio


async def ended(agent: RawAgent) -> None:
    """The link ends, by whichever word its kind has for it."""
    with contextlib.suppress(LinkDown, LinkRefused):
        while await agent.hear() is not None:
            pass


def padded(message: bytes, size: int) -> bytes:
    """The same message with a field that nobody knows, to be `size` bytes long."""
    for header in (5, 6):  # A tag of two bytes, and a length of three or four.
        fill = size - len(message) - header
        length = bytearray()
        rest = fill
        while rest > 0x7F:
            length.append(rest & 0x7F | 0x80)
            rest >>= 7
        length.append(rest)
        if len(length) == header - 2:
            made = message + b"\xc2\x3e" + bytes(length) + bytes(fill)
            assert len(made) == size
            return made
    raise AssertionError("no such length")


async def test_a_hello_is_welcomed(bench: Bench) -> None:
    agent = await bench.opened(bench.enrol("web01"))
    welcome = await agent.hello()
    assert isinstance(welcome, Welcome)
    assert welcome.instance == "web01"
    facts = bench.ingest.facts(agent.agent_id)
    assert facts is not None
    assert facts.connected
    if bench.kind != "memory":
        assert facts.transport == bench.kind


async def test_a_host_that_beats_seldom_says_so_and_is_given_the_time(bench: Bench) -> None:
    seldom, greedy, usual = [await bench.opened(bench.enrol(name)) for name in ("seldom", "greedy", "usual")]
    told = []
    for agent, asked_ms in ((seldom, 30_000), (greedy, 10_000_000), (usual, 0)):
        welcome = await agent.hello(beat_interval_ms=asked_ms)
        assert isinstance(welcome, Welcome)
        told.append(welcome.settings.beat_interval_ms)
    assert told == [30_000, 60_000, 10_000]
    pulse = bench.ingest.liveness.pulse(seldom.agent_id)
    assert pulse is not None
    assert pulse.grace_s == 90


async def test_what_is_sent_is_committed_in_order_and_acknowledged(bench: Bench) -> None:
    agent, schema = await bench.linked(), schema_of("m")
    await agent.dictionary(schema)
    for seq in range(1, 101):
        await agent.link.send(agent.batch(seq, schema, float(seq)))
    await agent.acked(100)
    assert bench.samples("m") == [float(seq) for seq in range(1, 101)]
    assert bench.ingest.counters.holes == bench.ingest.counters.duplicates == 0


async def test_a_message_as_large_as_may_be_passes(bench: Bench) -> None:
    agent, schema = await bench.linked(), schema_of("m", 300)
    await agent.dictionary(schema)
    message = agent.batch(1, schema, *map(float, range(3_000)), ticks=10)
    await agent.link.send(padded(message, MESSAGE_BYTES_MAX))
    await agent.acked(1)
    assert len(bench.samples("m")) == 3_000


async def test_a_larger_one_ends_the_link_of_its_sender_alone(bench: Bench) -> None:
    large, other, schema = await bench.linked("large"), await bench.linked("other"), schema_of("m")
    message = padded(large.batch(1, schema, 1.0), MESSAGE_BYTES_MAX + 1)
    with contextlib.suppress(LinkDown, LinkRefused):
        await large.link.send(message)
        await ended(large)
    await large.link.close()
    await other.dictionary(schema)
    await other.link.send(other.batch(1, schema, 5.0))
    await other.acked(1)
    assert bench.samples("m") == [5.0]


async def test_what_is_no_message_ends_the_link_with_a_word(bench: Bench) -> None:
    agent = await bench.linked()
    await agent.link.send(b"\xff\xff\xff")
    end = await agent.hear_kind(End)
    assert end.reason is EndReason.PROTOCOL
    assert bench.refusals("malformed") == 1
    await ended(agent)
    await until(lambda: bench.ingest.sessions == 0)


async def test_the_collector_closes_with_a_word(bench: Bench) -> None:
    agent = await bench.linked()
    await agent.link.send(encode_bye("shutdown"))
    end = await agent.hear_kind(End)
    assert end.detail == "goodbye"
    await ended(agent)
    assert bench.ingest.sessions == 0


async def test_a_goodbye_is_kept_with_its_reason_and_a_cut_is_not_announced(bench: Bench) -> None:
    agent = await bench.linked()
    await agent.link.send(encode_bye("reboot", 60_000))
    await agent.hear_kind(End)
    await ended(agent)
    kept = bench.admission.leavings[agent.agent_id]
    assert (kept.reason, kept.back_by_ms - kept.left_ms) == ("reboot", 60_000)
    assert abs(kept.left_ms - bench.clock.wall_ms()) < 60_000
    again = await bench.opened(agent.agent_id)
    again.spool_id = agent.spool_id
    assert isinstance(await again.hello(), Welcome)
    assert bench.admission.leavings == {}
    await until(lambda: bench.sink.gaps, "the notice of the reboot")
    [row] = bench.sink.gaps
    assert (row.reason, row.count, row.first_ms, row.samples_known) == (GapReason.REBOOT, 0, kept.left_ms, 0)
    assert row.last_ms >= row.first_ms
    other = await bench.linked("web02")
    bench.cut()
    await until(lambda: bench.ingest.sessions == 0, "the end of the session")
    assert other.agent_id not in bench.admission.leavings
    facts = bench.ingest.facts(other.agent_id)
    assert facts is not None
    assert facts.lost_ms > 0


async def test_a_collector_that_stops_says_so(bench: Bench) -> None:
    agent = await bench.linked()
    await bench.ingest.close()
    assert (await agent.hear_kind(End)).reason is EndReason.SHUTDOWN
    await ended(agent)


async def test_the_agent_closes_and_the_collector_notices(bench: Bench) -> None:
    agent = await bench.linked()
    await agent.link.close()
    await agent.link.close()
    await until(lambda: bench.ingest.sessions == 0, "the end of the session")


async def test_a_cut_ends_the_link_at_both_ends_and_a_new_one_goes_on(bench: Bench) -> None:
    agent, schema = await bench.linked(), schema_of("m")
    await agent.dictionary(schema)
    await agent.link.send(agent.batch(1, schema, 1.0))
    await agent.acked(1)
    bench.cut()
    with pytest.raises(LinkDown):
        await agent.hear()
    await until(lambda: bench.ingest.sessions == 0, "the end of the session")
    again = await bench.opened(agent.agent_id)
    again.spool_id, again.run_id = agent.spool_id, agent.run_id
    welcome = await again.hello()
    assert isinstance(welcome, Welcome)
    assert {mark.stream: mark.committed for mark in welcome.marks}[Stream.BULK] == 1


async def test_a_host_that_is_not_known_is_refused_visibly(bench: Bench) -> None:
    agent_id = bench.enrol("web01")
    del bench.admission.hosts[agent_id]
    with pytest.raises(LinkRefused, match="not known here") as caught:
        await (await bench.opened(agent_id)).hello()
    assert caught.value.reason == "refused"
    assert bench.refusals("unknown_agent") == 1


async def test_a_revoked_host_is_ended_at_once_and_told_why(bench: Bench) -> None:
    agent = await bench.linked()
    bench.ingest.revoke(agent.agent_id)
    assert (await agent.hear_kind(End)).reason is EndReason.REVOKED
    await ended(agent)
    assert bench.ingest.sessions == 0


async def test_two_links_of_one_host_are_one_session(bench: Bench) -> None:
    first = await bench.linked()
    second = await bench.opened(first.agent_id)
    second.spool_id, second.run_id = first.spool_id, first.run_id
    assert isinstance(await second.hello(), Welcome)
    await ended(first)
    await second.link.send(encode_beat(1, 2))
    assert bench.ingest.sessions == 1


async def test_sending_waits_while_nothing_gets_through(bench: Bench) -> None:
    agent, schema = await bench.linked(), schema_of("m")
    await agent.dictionary(schema)
    # Beats carry no number and no quota is exceeded: only what is under way is bounded.
    beat = padded(encode_beat(1, 2), 100_000)
    sent = 0

    async def send_all() -> None:
        nonlocal sent
        for _ in range(600):
            await agent.link.send(beat)
            sent += 1

    bench.hold()
    sending = asyncio.create_task(send_all())
    last = -1
    while sent != last:
        last = sent
        await asyncio.sleep(0.3)
    assert sent < 600, "60 MB were taken that could go nowhere"
    sending.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sending
    bench.flow()


async def test_what_is_broken_off_leaves_nothing_behind(bench: Bench) -> None:
    agent = await bench.linked()
    before = asyncio.all_tasks()
    receiving = asyncio.create_task(agent.link.receive())
    await asyncio.sleep(0.05)
    receiving.cancel()
    await asyncio.wait({receiving})
    if bench.kind != "memory":  # Opening one in memory never waits.
        bench.hold()
        opening = asyncio.create_task(bench.transport(bench.enrol("web02")).open())
        await asyncio.sleep(0.2)
        opening.cancel()
        await asyncio.wait({opening})
        bench.flow()
    await until(lambda: not {task for task in asyncio.all_tasks() - before if "Proxy" not in repr(task)})


async def test_a_spool_is_delivered_whole_through_cuts(bench: Bench) -> None:
    agent_id, schema = bench.enrol("web01"), schema_of("m")
    spool, clock = MemorySpool(), bench.clock
    about = About("0.1.0", b"r" * 16, "boot", interval_ms=1000)
    sender = Sender(bench.transport(agent_id), spool, lambda: about, clock, random.Random(1))
    task = asyncio.create_task(sender.run())
    for value in range(60):
        now_ms = clock.boottime_ms()
        body = encode_ticks([BlockValues(schema, [now_ms], 0, pack([float(value)]))])
        spool.append(Stream.BULK, Draft(body, 1, now_ms, now_ms, (schema,)))
        sender.wake()
        await asyncio.sleep(0.01)
        if value in (20, 40):
            await until(lambda: sender.facts.connected)
            bench.cut()
    await until(lambda: spool.state(Stream.BULK).acked == 60, "everything acknowledged")
    assert bench.samples("m") == [float(value) for value in range(60)]
    assert not bench.sink.gaps
    assert await sender.stop("shutdown", PATIENCE_S)
    await asyncio.wait({task})
    assert task.exception() is None if not task.cancelled() else True
    await until(lambda: bench.ingest.sessions == 0)


async def test_an_acknowledgement_is_the_collectors_word_alone(bench: Bench) -> None:
    agent, schema = await bench.linked(), schema_of("m")
    await agent.dictionary(schema)
    from watchbill.errors import StorageError

    bench.sink.fail = StorageError("the disk is full")
    await agent.link.send(agent.batch(1, schema, 1.0))
    heard = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            while True:
                heard.append(await agent.hear())
    assert not [frame for frame in heard if isinstance(frame, Ack)]
    assert not bench.samples("m")


# ---------------------------------------------------------------- what the collector asks for


async def test_a_request_reaches_its_host_and_nobody_else(bench: Bench) -> None:
    asked, other = await bench.opened(bench.enrol("web01")), await bench.opened(bench.enrol("web02"))
    for agent in (asked, other):
        await agent.hello(takes=(VERIFY, ORDER, "what a newer one knows"))
    requests: list[Request] = [
        VerifyBackup(b"r" * 16, "job ü", "data"),
        RunnerOrder(b"signed", 60_000),
        RunnerOrder(b"\0\xff" * (ORDER_BYTES_MAX // 2), 1),
    ]
    for request in requests:
        assert bench.ingest.ask(asked.agent_id, request) is Reach.ASKED
    assert [await asked.hear_kind(VerifyBackup, RunnerOrder) for _ in requests] == requests
    await other.link.send(encode_bye("shutdown"))
    heard = []
    with contextlib.suppress(LinkDown, LinkRefused):
        while (frame := await other.hear()) is not None:
            heard.append(frame)
    assert [type(frame) for frame in heard] == [End]


async def test_a_host_that_is_away_is_not_asked_later(bench: Bench) -> None:
    agent, request = await bench.opened(bench.enrol("web01")), VerifyBackup(b"r" * 16, "nightly")
    assert bench.ingest.ask(agent.agent_id, request) is Reach.AWAY, "it has not said hello"
    assert bench.ingest.ask("nobody", request) is Reach.AWAY
    await agent.hello(takes=(VERIFY,))
    await agent.link.close()
    await until(lambda: bench.ingest.sessions == 0, "the end of the session")
    assert bench.ingest.ask(agent.agent_id, request) is Reach.AWAY
    again = await bench.opened(agent.agent_id)
    again.spool_id, again.run_id = agent.spool_id, agent.run_id
    await again.hello(takes=(VERIFY,))
    await again.link.send(encode_bye("shutdown"))
    assert isinstance(await again.hear(), End), "nothing was kept for it"
    assert bench.ingest.counters.requests == 0


async def test_a_host_that_does_not_know_the_request_is_not_asked(bench: Bench) -> None:
    agent = await bench.linked()
    assert bench.ingest.ask(agent.agent_id, VerifyBackup(b"r" * 16, "nightly")) is Reach.TOO_OLD
    assert bench.ingest.ask(agent.agent_id, RunnerOrder(b"signed", 60_000)) is Reach.TOO_OLD
    await agent.link.send(encode_bye("shutdown"))
    assert isinstance(await agent.hear(), End)


async def test_an_agent_hands_on_what_it_is_asked_and_goes_on_sending(bench: Bench) -> None:
    agent_id, schema, heard = bench.enrol("web01"), schema_of("m"), list[Request]()
    spool, clock = MemorySpool(), bench.clock
    about = About("0.1.0", b"r" * 16, "boot", interval_ms=1000, takes=(VERIFY,))
    sender = Sender(
        bench.transport(agent_id), spool, lambda: about, clock, random.Random(1), asked=heard.append
    )
    task = asyncio.create_task(sender.run())
    await until(lambda: bench.ingest.connected(agent_id))
    request = VerifyBackup(b"r" * 16, "nightly")
    assert bench.ingest.ask(agent_id, request) is Reach.ASKED
    await until(lambda: heard == [request], "the request")
    now_ms = clock.boottime_ms()
    spool.append(
        Stream.BULK,
        Draft(encode_ticks([BlockValues(schema, [now_ms], 0, pack([1.0]))]), 1, now_ms, now_ms, (schema,)),
    )
    sender.wake()
    await until(lambda: spool.state(Stream.BULK).acked == 1, "what is sent is acknowledged")
    assert await sender.stop("shutdown", PATIENCE_S)
    await asyncio.wait({task})
