"""A collector's ingest behind a real TLS port on loopback, certificates made for the test, and a raw
agent."""

import asyncio
import contextlib
import datetime
import ipaddress
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import watchbill_collector  # noqa: F401 - Sets gRPC's environment before gRPC reads it.
from watchbill.clock import Clock, SystemClock
from watchbill.codec import (
    BlockValues,
    FamilyRun,
    MetricKind,
    Schema,
    decode_down,
    encode_batch,
    encode_hello,
    encode_schema,
    encode_ticks,
    number,
    pack,
)
from watchbill.identity import AgentIdentity
from watchbill.protocol.frames import Ack, Down, Hello, Stream, StreamState
from watchbill_collector.ingest.grpc_server import GrpcServer
from watchbill_collector.ingest.ingest import Ingest
from watchbill_collector.ingest.ports import Host, MemoryAdmission, MemoryCritSink, MemorySink
from watchbill_collector.ingest.settings import IngestOptions
from watchbill_collector.series import SeriesTable

SITE = "main"
PATIENCE_S = 60.0
DAY = datetime.timedelta(days=1)


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, at most PATIENCE_S."""
    give_up_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_s, "the condition did not come true in time"
        await asyncio.sleep(0.005)


class Authority:
    """A certificate authority of the test."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.pem = self._sign(self.name, self.key, [], DAY, authority=True).public_bytes(
            serialization.Encoding.PEM
        )

    def _sign(
        self,
        subject: x509.Name,
        key: Any,
        names: list[x509.GeneralName],
        life: datetime.timedelta,
        *,
        authority: bool,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 3 * DAY)
            .not_valid_after(now + life)
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, names: list[x509.GeneralName], life: datetime.timedelta = DAY) -> tuple[bytes, bytes]:
        """Key and certificate, PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
        certificate = self._sign(subject, key, names, life, authority=False)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return private, certificate.public_bytes(serialization.Encoding.PEM)

    def server(self) -> tuple[bytes, bytes]:
        return self.issue([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])

    def agent(self, agent_id: str, site: str = SITE, life: datetime.timedelta = DAY) -> tuple[bytes, bytes]:
        return self.issue(
            [x509.UniformResourceIdentifier(f"spiffe://watchbill/{site}/agent/{agent_id}")], life
        )


def schema_of(*names: str, **series: int) -> Schema:
    """A dictionary of gauges, one series each, and of counters with so many series."""
    runs = [FamilyRun(name, MetricKind.GAUGE, "", ((),)) for name in names]
    runs += [
        FamilyRun(name, MetricKind.COUNTER, "", tuple((("n", str(i)),) for i in range(count)))
        for name, count in series.items()
    ]
    return encode_schema(runs)


@dataclass
class RawAgent:
    """An agent that says exactly what a test wants, over a real stream."""

    agent_id: str
    channel: grpc.aio.Channel
    call: Any
    spool_id: bytes = field(default_factory=lambda: os.urandom(16))
    run_id: bytes = field(default_factory=lambda: os.urandom(16))
    clock: Clock = field(default_factory=SystemClock)

    async def send(self, message: bytes) -> None:
        await self.call.write(message)

    async def hear(self) -> Down | None:
        """The next frame; None at the end of the stream. Raises AioRpcError when it was aborted."""
        async with asyncio.timeout(PATIENCE_S):
            message = await self.call.read()
        if message is grpc.aio.EOF:
            return None
        return decode_down(message)

    async def hear_kind(self, kind: type) -> Any:
        """The next frame of a kind; others are passed over."""
        while True:
            frame = await self.hear()
            assert frame is not None
            if isinstance(frame, kind):
                return frame

    async def hello(self, **changes: Any) -> Any:
        known: dict[str, Any] = {
            "agent_version": "0.1.0",
            "spool_id": self.spool_id,
            "run_id": self.run_id,
            "boot_id": "boot",
            "streams": (StreamState(Stream.CRIT), StreamState(Stream.BULK)),
            "wall_ms": self.clock.wall_ms(),
            "boottime_ms": self.clock.boottime_ms(),
        }
        await self.send(encode_hello(Hello(**(known | changes))))
        return await self.hear()

    async def ticks(
        self, seq: int, schema: Schema, values: list[float] | bytes, at_ms: int | None = None
    ) -> None:
        packed = values if isinstance(values, bytes) else pack(values)
        at_ms = self.clock.boottime_ms() if at_ms is None else at_ms
        body = encode_ticks([BlockValues(schema, [at_ms], self.clock.wall_ms(), packed)])
        await self.send(encode_batch(Stream.BULK, [number(seq, body)]))

    async def acked(self, seq: int) -> None:
        """Wait until this number is acknowledged."""
        while True:
            ack = await self.hear_kind(Ack)
            if any(mark.committed >= seq for mark in ack.marks if mark.stream is Stream.BULK):
                return

    async def close(self) -> None:
        self.call.cancel()
        await self.channel.close(None)


class Site:
    """Ingest and its port, and as many raw agents as a test wants."""

    def __init__(self, authority: Authority, clock: Clock, options: IngestOptions) -> None:
        self.authority = authority
        self.clock = clock
        self.table = SeriesTable()
        self.sink = MemorySink()
        self.crit = MemoryCritSink()
        self.admission = MemoryAdmission()
        self.head: list[Any] = []
        self.ingest = Ingest(
            self.table,
            self.sink,
            self.admission,
            clock,
            crit=self.crit,
            appended=self.head.extend,
            options=options,
        )
        credentials = grpc.ssl_server_credentials([authority.server()], authority.pem, True)
        self.server = GrpcServer(self.ingest, credentials, clock, site=SITE, sessions_max=50)
        self.agents: list[RawAgent] = []

    async def start(self) -> None:
        self.ingest.start()
        await self.server.start("127.0.0.1:0")

    async def stop(self) -> None:
        for agent in self.agents:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await agent.close()
        await self.ingest.close()
        await self.server.stop(0)

    def enrol(self, instance: str, **labels: str) -> str:
        agent_id = str(uuid.uuid4())
        self.admission.hosts[agent_id] = Host(agent_id, instance, labels)
        return agent_id

    def connect(self, agent_id: str, credentials: tuple[bytes, bytes] | None = None) -> RawAgent:
        key, chain = credentials or self.authority.agent(agent_id)
        channel = grpc.aio.secure_channel(
            f"127.0.0.1:{self.server.port}",
            grpc.ssl_channel_credentials(self.authority.pem, key, chain),
            options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)],
        )
        agent = RawAgent(agent_id, channel, channel.stream_stream("/watchbill.v1.Link/Stream")())
        self.agents.append(agent)
        return agent

    async def linked(self, instance: str = "web01") -> RawAgent:
        """A new host with a session."""
        agent = self.connect(self.enrol(instance))
        await agent.hello()
        return agent

    def identity(self, agent_id: str, life: datetime.timedelta = DAY, **changes: Any) -> AgentIdentity:
        key, chain = self.authority.agent(agent_id, life=life)
        endpoint = f"127.0.0.1:{self.server.port}"
        known: dict[str, Any] = {
            "agent_id": agent_id,
            "instance": "x",
            "site": SITE,
            "labels": {},
            "key_pem": key,
            "chain_pem": chain,
            "trust_pem": self.authority.pem,
            "not_before_ms": 0,
            "not_after_ms": round((time.time() + life.total_seconds()) * 1000),
            "stream_endpoint": endpoint,
            "enrol_endpoint": endpoint,
            "envelope_seed": bytes(32),
            "collector_envelope_key": b"",
            "command_key": b"",
            "token_id": "",
            "enrolled_ms": 0,
        }
        return AgentIdentity(**(known | changes))

    def samples(self, name: str) -> list[tuple[int, float]]:
        """Everything committed for series of this name, as (UTC ms, value)."""
        found = []
        for ticks in self.sink.ticks:
            for column, series in enumerate(ticks.series.tolist()):
                if self.table.labels(series)["__name__"] == name:
                    found += zip(ticks.times_ms.tolist(), ticks.values[:, column].tolist(), strict=True)
        return found

    def refusals(self) -> dict[tuple[str, str], int]:
        return self.ingest.counters.refusals


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def ingest_options() -> IngestOptions:
    """Every message is acknowledged; tests of the saving-up override it."""
    return IngestOptions(ack_records=1)


@pytest_asyncio.fixture
async def site(authority: Authority, ingest_options: IngestOptions) -> AsyncIterator[Site]:
    site = Site(authority, SystemClock(), ingest_options)
    await site.start()
    yield site
    await site.stop()
