"""Sessions over real TLS: who may come in, who is sent away, and what ends a session."""

import asyncio
import datetime
import random
import socket
import ssl
import time
from typing import Any

import grpc
import grpc.aio
import pytest

from watchbill.clock import SystemClock
from watchbill.codec import (
    BlockValues,
    FamilyRun,
    MetricKind,
    encode_batch,
    encode_beat,
    encode_bye,
    encode_schema,
    encode_ticks,
    number,
    pack,
)
from watchbill.errors import StorageError
from watchbill.protocol.frames import Ack, Busy, End, EndReason, GapReason, Stream, Welcome
from watchbill_agent.sender import About, Sender
from watchbill_agent.spool import Draft, MemorySpool
from watchbill_agent.transports import LinkDown, LinkRefused
from watchbill_agent.transports.over_grpc import GrpcTransport
from watchbill_collector.ingest import commit
from watchbill_collector.ingest.ports import Host, Standing
from watchbill_collector.ingest.settings import IngestOptions
from watchbill_collector.series import is_stale

Site = Any
PATIENCE_S = 20.0
LOAD = encode_schema([FamilyRun("node_load1", MetricKind.GAUGE, "", ((),))])


async def until(condition: Any) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_s, "the condition did not come true in time"
        await asyncio.sleep(0.005)


class Agent:
    """A real spool and sender for one host of a site."""

    def __init__(
        self, site: Site, agent_id: str, run_id: bytes = b"r" * 16, spool: MemorySpool | None = None
    ) -> None:
        self.clock = SystemClock()
        self.spool = spool if spool is not None else MemorySpool()
        self.about = About("0.1.0", run_id, "boot", interval_ms=1000)
        self.identity = site.identity(agent_id)
        transport = GrpcTransport(lambda: self.identity, self.clock)
        self.sender = Sender(transport, self.spool, lambda: self.about, self.clock, random.Random(1))
        self.task: asyncio.Task[None] | None = None

    def start(self) -> "Agent":
        self.task = asyncio.create_task(self.sender.run())
        return self

    def tick(self, value: float) -> None:
        now_ms = self.clock.boottime_ms()
        block = BlockValues(LOAD, [now_ms], self.clock.wall_ms(), pack([value]))
        self.spool.append(Stream.BULK, Draft(encode_ticks([block]), 1, now_ms, now_ms, (LOAD,)))
        self.sender.wake()

    def acked(self) -> int:
        return self.spool.state(Stream.BULK).acked


async def test_samples_of_a_real_agent_arrive_with_their_labels_and_are_acknowledged(site: Site) -> None:
    agent = Agent(site, site.enrol("web01", team="ops")).start()
    agent.tick(1.5)
    await until(lambda: agent.acked() == 1)
    assert [value for _, value in site.samples("node_load1")] == [1.5]
    ((at_ms, _),) = site.samples("node_load1")
    assert abs(at_ms - time.time() * 1000) < 60_000
    assert site.head, "what is committed goes to the head"
    assert agent.sender.facts.instance == "web01"
    assert await agent.sender.stop("test", 5)


async def test_a_stop_delivers_what_is_left_and_ends_the_series(site: Site) -> None:
    agent = Agent(site, site.enrol("web01")).start()
    agent.tick(1)
    await until(lambda: agent.acked() == 1)
    for value in range(2, 20):
        agent.tick(value)
    assert await agent.sender.stop("maintenance", 5)
    assert agent.acked() == 19
    await site.ingest.commits.flush()
    stale = [ticks for ticks in site.sink.ticks if is_stale(ticks.values).all()]
    ended = {site.table.labels(int(series))["__name__"] for ticks in stale for series in ticks.series}
    assert ended == {"node_load1", "up"}
    assert site.admission.expected() == []


def hello_over_tls(
    port: int, version: ssl.TLSVersion, pem: bytes, credentials: tuple[bytes, bytes], path: Any
) -> str:
    """Shake hands with exactly this TLS version and send HTTP/2's first bytes; what came of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=pem.decode())
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    (path / "both.pem").write_bytes(credentials[1] + credentials[0])
    context.load_cert_chain(path / "both.pem")
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            context.wrap_socket(plain) as secured,
        ):
            secured.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
            return "answered" if secured.recv(1) else "closed"
    except (ssl.SSLError, ConnectionError):
        return "refused"


async def test_tls_1_2_is_refused_even_with_a_valid_certificate(site: Site, tmp_path: Any) -> None:
    credentials = site.authority.agent(site.enrol("web01"))
    arguments = (site.server.port, ssl.TLSVersion.TLSv1_2, site.authority.pem, credentials, tmp_path)
    assert await asyncio.to_thread(hello_over_tls, *arguments) == "refused"
    arguments = (site.server.port, ssl.TLSVersion.TLSv1_3, site.authority.pem, credentials, tmp_path)
    assert await asyncio.to_thread(hello_over_tls, *arguments) == "answered"


async def first_answer(transport: GrpcTransport) -> bytes | None:
    """Connect and wait for anything: with TLS 1.3 a client learns only then that its certificate was
    refused."""
    link = await transport.open()
    try:
        return await link.receive()
    finally:
        await link.close()


async def test_failed_handshakes_are_refused_by_name_and_flood_no_log(site: Site, capfd: Any) -> None:
    agent_id = site.enrol("web01")
    foreign = type(site.authority)()
    wrong_ca = site.identity(agent_id, trust_pem=foreign.pem)
    key, chain = foreign.agent(agent_id)
    foreign_leaf = site.identity(agent_id, key_pem=key, chain_pem=chain)
    expired = site.identity(agent_id, life=-datetime.timedelta(hours=1))
    wanted = {
        "wrong-ca": (wrong_ca, LinkRefused),
        "certificate-refused": (foreign_leaf, LinkRefused),
        "certificate-expired": (expired, LinkDown),
    }
    for reason, (identity, error) in wanted.items():
        transport = GrpcTransport(lambda identity=identity: identity, SystemClock())
        with pytest.raises(error) as refused:
            await first_answer(transport)
        assert refused.value.reason == reason
    closed = GrpcTransport(lambda: wrong_ca, SystemClock(), endpoint="127.0.0.1:1")
    with pytest.raises(LinkDown) as nobody:
        await closed.open()
    assert nobody.value.reason == "unreachable"
    assert site.ingest.sessions == 0
    assert capfd.readouterr().err == ""


async def test_a_certificate_of_another_site_or_of_no_agent_is_refused(site: Site) -> None:
    agent_id = site.enrol("web01")
    for credentials in (site.authority.agent(agent_id, "elsewhere"), site.authority.server()):
        stranger = site.connect(agent_id, credentials)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stranger.hear()
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert site.refusals() == {("", "certificate"): 2}


async def test_an_unknown_and_a_revoked_host_are_refused(site: Site) -> None:
    unknown = site.connect("00000000-0000-4000-8000-000000000000")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await unknown.hear()
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    agent_id = site.enrol("web02")
    site.admission.hosts[agent_id] = Host(agent_id, "web02", {}, Standing.REVOKED)
    end = await site.connect(agent_id).hello()
    assert (type(end), end.reason) == (End, EndReason.REVOKED)


@pytest.mark.parametrize(
    ("standing", "reason"),
    [
        (Standing.ACTIVE, EndReason.SHUTDOWN),
        (Standing.PENDING, EndReason.UNKNOWN_AGENT),
        (Standing.RETIRED, EndReason.REVOKED),
        (Standing.REVOKED, EndReason.REVOKED),
        (Standing.FORGOTTEN, EndReason.REVOKED),
    ],
)
async def test_a_goodbye_without_a_hello_asks_whether_a_host_may_come_in(
    site: Site, standing: Standing, reason: EndReason
) -> None:
    running = await site.linked("web02")
    site.admission.hosts[running.agent_id] = Host(running.agent_id, "web02", {}, standing)
    asking = site.connect(running.agent_id)
    await asking.send(encode_bye("doctor"))
    end = await asking.hear_kind(End)
    assert end.reason is reason
    assert site.ingest.connected(running.agent_id), "the session that is there stays"
    assert site.ingest.counters.cuts == {}
    assert sum(site.refusals().values()) == (standing is not Standing.ACTIVE)


async def test_a_revocation_ends_a_live_session_at_once(site: Site) -> None:
    agent = await site.linked()
    site.admission.hosts[agent.agent_id] = Host(agent.agent_id, "web01", {}, Standing.REVOKED)
    site.ingest.revoke(agent.agent_id)
    assert (await agent.hear_kind(End)).reason is EndReason.REVOKED
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await agent.hear()
    assert ended.value.code() is grpc.StatusCode.PERMISSION_DENIED
    await until(lambda: site.ingest.sessions == 0)


async def test_two_processes_with_one_identity_are_noticed_and_the_newer_refused(site: Site) -> None:
    first = await site.linked()
    second = site.connect(first.agent_id)
    end = await second.hello()
    assert (type(end), end.reason) == (End, EndReason.DUPLICATE_IDENTITY)
    assert end.retry_after_ms > 0
    assert site.refusals() == {("web01", "duplicate_identity"): 1}
    await first.send(LOAD.frames[0])
    await first.ticks(1, LOAD, [1.0])
    await first.acked(1)


async def test_a_reconnect_of_the_same_process_takes_its_session_over(site: Site) -> None:
    first = await site.linked()
    again = site.connect(first.agent_id)
    again.run_id, again.spool_id = first.run_id, first.spool_id
    assert isinstance(await again.hello(), Welcome)
    assert (await first.hear_kind(End)).reason is EndReason.SHUTDOWN
    assert site.ingest.sessions == 1


async def test_a_flood_of_connections_of_one_host_is_bounded(site: Site) -> None:
    agent_id = site.enrol("web01")
    for _ in range(2):
        site.connect(agent_id)
    await until(lambda: site.ingest.sessions == 2)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await site.connect(agent_id).hear()
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_restarted_agent_leaves_a_counted_gap_when_it_knows_where_it_ended(site: Site) -> None:
    agent_id = site.enrol("web01")
    agent = Agent(site, agent_id).start()
    agent.tick(1)
    await until(lambda: agent.acked() == 1)
    assert agent.task is not None
    agent.task.cancel()
    await until(lambda: site.ingest.sessions == 0)
    agent.tick(2)
    agent.tick(3)
    spool = MemorySpool(retired=agent.spool.farewell())
    spool.notice(GapReason.RESTART, 0, SystemClock().boottime_ms())
    successor = Agent(site, agent_id, b"s" * 16, spool).start()
    successor.tick(4)
    await until(lambda: successor.acked() == 2)
    retired, restart = site.sink.gaps
    assert (retired.from_seq, retired.to_seq, retired.count) == (2, 3, 2)
    assert retired.reason is GapReason.SPOOL_RETIRED
    assert restart.reason is GapReason.RESTART
    assert restart.count == 0
    assert 0 < restart.first_ms <= restart.last_ms, "the last tick before, the first after"
    await successor.sender.stop("test", 5)


async def test_a_hello_waits_for_what_its_spool_has_on_the_way_to_the_disk(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A spool that was rolled back may else agree with the Welcome, and number anew what is being committed.
    monkeypatch.setattr(commit, "START_WITHIN_S", 0.5)
    agent_id = site.enrol("web01")
    before = site.connect(agent_id)
    await before.hello()
    for frame in LOAD.frames:
        await before.send(frame)
    await before.ticks(1, LOAD, [1.0])
    ledger = site.ingest.agent(agent_id).ledger
    await until(lambda: ledger.unsettled(before.spool_id))
    again = site.connect(agent_id)
    again.spool_id, again.run_id = before.spool_id, before.run_id
    welcome = await again.hello()
    assert [mark.committed for mark in welcome.marks if mark.stream is Stream.BULK] == [1]
    assert not ledger.unsettled(before.spool_id)


async def test_a_collector_that_stops_says_so(site: Site) -> None:
    agent = await site.linked()
    await site.ingest.close()
    assert (await agent.hear_kind(End)).reason is EndReason.SHUTDOWN


async def test_nothing_is_acknowledged_while_commits_fail_and_nothing_is_lost(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "RETRY_AFTER_S", 0.2)
    agent = await site.linked()
    site.sink.fail = StorageError("no space left")
    await agent.send(LOAD.frames[0])
    await agent.ticks(1, LOAD, [1.0])
    assert isinstance(await agent.hear_kind(Busy), Busy)
    assert site.ingest.counters.commit_failures == 1
    assert site.ingest.counters.acks == 0
    site.sink.fail = None
    await until(lambda: not site.ingest.commits.full)
    await agent.ticks(1, LOAD, [1.0])
    await agent.acked(1)
    assert [value for _, value in site.samples("node_load1")] == [1.0]


class TestSavingAcknowledgements:
    @pytest.fixture
    def ingest_options(self) -> IngestOptions:
        return IngestOptions(ack_records=4)

    async def test_the_first_comes_at_once_and_then_one_for_four(self, site: Site) -> None:
        agent = await site.linked()
        await agent.send(LOAD.frames[0])
        for seq in range(1, 6):
            await agent.ticks(seq, LOAD, [float(seq)])
            if seq == 1:
                await agent.acked(1)
        await agent.acked(5)
        assert site.ingest.counters.acks == 2

    async def test_a_backlog_that_comes_in_one_message_is_acknowledged_though_nothing_follows(
        self, site: Site
    ) -> None:
        agent = await site.linked()
        await agent.send(LOAD.frames[0])
        await agent.ticks(1, LOAD, [1.0])
        await agent.acked(1)
        now_ms = agent.clock.boottime_ms()
        bodies = [
            encode_ticks([BlockValues(LOAD, [now_ms + seq], 0, pack([float(seq)]))]) for seq in range(2, 8)
        ]
        records = [number(seq, body) for seq, body in enumerate(bodies, 2)]
        await agent.send(encode_batch(Stream.BULK, records))
        await agent.acked(7)


async def test_a_beat_with_values_goes_to_the_head_and_not_to_history(site: Site) -> None:
    agent = await site.linked()
    await agent.send(LOAD.frames[0])
    now_ms = agent.clock.boottime_ms()
    await agent.send(
        encode_beat(now_ms, agent.clock.wall_ms(), 5, 100, BlockValues(LOAD, [now_ms], 0, pack([7.0])))
    )
    await until(lambda: any(ticks.values[0, 0] == 7.0 for ticks in site.head))
    assert site.samples("node_load1") == []


async def test_equal_dictionaries_of_many_hosts_are_decoded_once(site: Site) -> None:
    for index in range(5):
        agent = await site.linked(f"web{index}")
        await agent.send(LOAD.frames[0])
        await agent.ticks(1, LOAD, [1.0])
        assert isinstance(await agent.hear_kind(Ack), Ack)
    assert site.ingest.dictionaries.decoded == 1
