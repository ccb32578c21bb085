"""One site, and three ways to its collector: in memory, gRPC, and MQTT through a real mosquitto.

Behind each is the product's own ingest. The two networks go through a proxy that a test can stop or cut.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

import watchbill_collector  # noqa: F401 - Sets gRPC's environment before gRPC reads it.
from watchbill.clock import SystemClock
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
from watchbill.envelope import Sealer
from watchbill.identity import AgentIdentity, AgentUri
from watchbill.mqtt import Broker, Connection
from watchbill.protocol.frames import Ack, Down, Hello, Stream, StreamState
from watchbill.topics import Topics
from watchbill_agent.transports import Link, Transport
from watchbill_agent.transports.in_memory import FarEnd, InMemoryTransport
from watchbill_agent.transports.over_grpc import GrpcTransport
from watchbill_agent.transports.over_mqtt import MqttOptions, MqttTransport
from watchbill_collector.ingest.grpc_server import GrpcServer
from watchbill_collector.ingest.ingest import Ingest
from watchbill_collector.ingest.mqtt_server import MqttPort
from watchbill_collector.ingest.ports import Host, MemoryAdmission, MemoryCritSink, MemorySink
from watchbill_collector.ingest.settings import IngestOptions
from watchbill_collector.pki import Authority
from watchbill_collector.pki.authority import private_pem, public_der
from watchbill_collector.series import SeriesTable

SITE = "main"
PATIENCE_S = 60.0
DAY_S = 86_400.0
COLLECTOR_SEED = b"\7" * 32
GIB = 1 << 30


async def until(condition: Callable[[], object], what: str = "the condition") -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_s, f"{what} did not come true in time"
        await asyncio.sleep(0.005)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


# ---------------------------------------------------------------- keys


class Keys:
    """The site's authority, the server's certificate, and a key for every agent."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        now_ms = round(time.time() * 1000)
        self.authority = Authority.create(directory, SITE, now_ms)
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = self.authority.issue_server(["localhost", "127.0.0.1"], key.public_key(), now_ms, DAY_S)
        self.server_key, self.server_chain = private_pem(key), leaf.public_bytes(Encoding.PEM)
        (directory / "server.key").write_bytes(self.server_key)
        (directory / "server.pem").write_bytes(self.server_chain)

    def identity(self, agent_id: str, port: int, life_s: float = DAY_S) -> AgentIdentity:
        from cryptography import x509

        key, now_ms = ec.generate_private_key(ec.SECP256R1()), round(time.time() * 1000)
        issued = self.authority.issue_agent(
            AgentUri(SITE, agent_id), public_der(key.public_key()), now_ms, life_s
        )
        return AgentIdentity(
            agent_id=agent_id,
            instance="x",
            site=SITE,
            labels={},
            key_pem=private_pem(key),
            chain_pem=x509.load_der_x509_certificate(issued.der).public_bytes(Encoding.PEM),
            trust_pem=self.authority.pem,
            not_before_ms=issued.not_before_ms,
            not_after_ms=issued.not_after_ms,
            stream_endpoint=f"127.0.0.1:{port}",
            enrol_endpoint=f"127.0.0.1:{port}",
            envelope_seed=uuid.UUID(agent_id).bytes * 2,
            collector_envelope_key=Sealer(COLLECTOR_SEED).public_key,
            command_key=b"",
            token_id="",
            enrolled_ms=0,
        )


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


class Mosquitto:
    """A real broker that a test started; `lines` are its configuration, the listener's last."""

    def __init__(self, directory: Path, *lines: str) -> None:
        self.directory = directory
        self.port = free_port()
        self._lines = lines
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        config = self.directory / f"mosquitto-{self.port}.conf"
        user = "user root\n" if os.geteuid() == 0 else ""
        config.write_text(
            f"{user}persistence false\nper_listener_settings true\nlistener {self.port} 127.0.0.1\n"
            + "\n".join(self._lines)
        )
        log = open(self.directory / f"mosquitto-{self.port}.log", "ab")  # noqa: SIM115
        with log:
            self._process = subprocess.Popen(
                ["/usr/sbin/mosquitto", "-c", str(config)], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        give_up_s = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self._process.poll() is None, "mosquitto did not start"
            assert time.monotonic() < give_up_s, "mosquitto did not listen in time"
            time.sleep(0.01)

    def signal(self, number_: int) -> None:
        assert self._process is not None
        self._process.send_signal(number_)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def tls_lines(keys: Keys) -> list[str]:
    directory = keys.directory
    return [
        f"cafile {directory}/ca.pem",
        f"certfile {directory}/server.pem",
        f"keyfile {directory}/server.key",
    ]


@pytest.fixture(scope="session")
def mosquitto(keys: Keys) -> Iterator[Mosquitto]:
    """One broker for all: open to everybody, for hostile clients too."""
    broker = Mosquitto(keys.directory, *tls_lines(keys), "allow_anonymous true")
    yield broker
    broker.kill()


# ---------------------------------------------------------------- the network


class Proxy:
    """Forwards TCP; `hold` stops forwarding, `cut` breaks what is open."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=65_536)
        self.port = self._server.sockets[0].getsockname()[1]

    def hold(self) -> None:
        self._flowing.clear()

    def flow(self) -> None:
        self._flowing.set()

    def cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to_port)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, far_writer}
        self._writers |= both
        pumps = [self._pump(reader, far_writer), self._pump(far_reader, writer)]
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*pumps, return_exceptions=True)
        self._writers -= both

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()

    async def stop(self) -> None:
        self.flow()
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


# ---------------------------------------------------------------- the ways


class Bench(ABC):
    """Ingest, one way to it, and hosts. `transport` makes an agent's end."""

    kind = ""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.clock = SystemClock()
        self.table = SeriesTable()
        self.sink = MemorySink()
        self.admission = MemoryAdmission()
        self.ingest = Ingest(
            self.table,
            self.sink,
            self.admission,
            self.clock,
            crit=MemoryCritSink(),
            options=IngestOptions(ack_records=1),
        )
        self.agent_keys: dict[str, bytes] = {}
        self.links: list[Link] = []

    def enrol(self, instance: str) -> str:
        agent_id = str(uuid.uuid4())
        self.admission.hosts[agent_id] = Host(agent_id, instance)
        self.agent_keys[agent_id] = Sealer(uuid.UUID(agent_id).bytes * 2).public_key
        return agent_id

    async def start(self) -> None:
        self.ingest.start()

    async def stop(self) -> None:
        for link in self.links:
            await link.close()
        await self.ingest.close()

    @abstractmethod
    def transport(self, agent_id: str) -> Transport:
        """One agent's way in."""

    @abstractmethod
    def hold(self) -> None:
        """Nothing gets through any more, and nothing breaks."""

    @abstractmethod
    def flow(self) -> None:
        """Everything gets through again."""

    @abstractmethod
    def cut(self) -> None:
        """Every connection breaks without a word."""

    async def linked(self, instance: str = "web01") -> "RawAgent":
        agent = await self.opened(self.enrol(instance))
        await agent.hello()
        return agent

    async def opened(self, agent_id: str) -> "RawAgent":
        link = await self.transport(agent_id).open()
        self.links.append(link)
        return RawAgent(agent_id, link)

    def samples(self, name: str) -> list[float]:
        found = []
        for ticks in self.sink.ticks:
            for column, series in enumerate(ticks.series.tolist()):
                if self.table.labels(series)["__name__"] == name:
                    found += ticks.values[:, column].tolist()
        return found

    def refusals(self, reason: str) -> int:
        return self.ingest.counters.refused_in_all(reason)


class MemoryBench(Bench):
    kind = "memory"

    def __init__(self, keys: Keys) -> None:
        super().__init__(keys)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._transports: list[InMemoryTransport] = []

    def transport(self, agent_id: str) -> Transport:
        async def serve(far: FarEnd) -> None:
            outlet = _FarOutlet(far)
            session = self.ingest.connect(agent_id, outlet)
            if session is None:
                far.refuse("refused", "this host is not known here, or connects too often")
                return
            while True:
                await self._flowing.wait()
                message = await far.read()
                if message is None:
                    break
                session.receive(message, self.clock.monotonic_s())
                self.ingest.commits.begin()
            self.ingest.gone(session)

        made = InMemoryTransport(serve)
        self._transports.append(made)
        return made

    def hold(self) -> None:
        self._flowing.clear()

    def flow(self) -> None:
        self._flowing.set()

    def cut(self) -> None:
        for transport in self._transports:
            for far in transport.links:
                far.cut()

    async def stop(self) -> None:
        await super().stop()
        for transport in self._transports:
            await transport.close()


class _FarOutlet:
    def __init__(self, far: FarEnd) -> None:
        self._far = far

    def send(self, message: bytes, within_s: int = 0) -> None:
        self._far.down.put_nowait(message)

    def end(self, message: bytes, reason: Any) -> None:
        self.send(message)
        self._far.close()


class GrpcBench(Bench):
    kind = "grpc"

    async def start(self) -> None:
        await super().start()
        keys = self.keys
        credentials = grpc.ssl_server_credentials(
            [(keys.server_key, keys.server_chain)], keys.authority.pem, True
        )
        self.server = GrpcServer(self.ingest, credentials, self.clock, site=SITE, sessions_max=50)
        self.proxy = Proxy(await self.server.start("127.0.0.1:0"))
        await self.proxy.start()

    async def stop(self) -> None:
        await super().stop()
        await self.server.stop(0)
        await self.proxy.stop()

    def transport(self, agent_id: str) -> Transport:
        identity = self.keys.identity(agent_id, self.proxy.port)
        return GrpcTransport(lambda: identity, self.clock)

    def hold(self) -> None:
        self.proxy.hold()

    def flow(self) -> None:
        self.proxy.flow()

    def cut(self) -> None:
        self.proxy.cut()


class MqttBench(Bench):
    kind = "mqtt"

    def __init__(self, keys: Keys, mosquitto: Mosquitto, prefix: str = "watchbill/1") -> None:
        super().__init__(keys)
        self.mosquitto = mosquitto
        self.topics = Topics(SITE, prefix)
        self.port = MqttPort(
            self.ingest, self.topics, COLLECTOR_SEED, self.agent_keys.get, self.broker, self.clock
        )
        self.strangers: list[Connection] = []

    def broker(self) -> Broker:
        import ssl

        def tls() -> ssl.SSLContext:
            return ssl.create_default_context(cadata=self.keys.authority.pem.decode())

        return Broker(host="127.0.0.1", port=self.mosquitto.port, tls=tls)

    async def start(self) -> None:
        await super().start()
        self.proxy = Proxy(self.mosquitto.port)
        await self.proxy.start()
        self.running = asyncio.create_task(self.port.run())
        await until(lambda: self.port.facts.connected, "the collector's connection")

    async def stop(self) -> None:
        await super().stop()
        for stranger in self.strangers:
            await stranger.close()
        await self.port.stop()
        self.running.cancel()
        await asyncio.wait({self.running})
        await self.proxy.stop()

    def options(self, **changes: Any) -> MqttOptions:
        known: dict[str, Any] = {"host": "127.0.0.1", "port": self.proxy.port, "prefix": self.topics.prefix}
        return MqttOptions(**(known | changes))

    def transport(self, agent_id: str, **changes: Any) -> MqttTransport:
        identity = self.keys.identity(agent_id, 7443)
        options = self.options(**changes)
        return MqttTransport(lambda: identity, lambda: options, self.clock)

    async def stranger(self, name: str = "stranger") -> "Connection":
        """Somebody whom the broker lets do everything."""
        heard: list[tuple[str, bytes]] = []
        connection = Connection(
            self.broker(),
            name,
            lambda topic, payload, _: heard.append((topic, payload)),
            denied=lambda *_: None,
        )
        connection.heard = heard  # type: ignore[attr-defined]
        await connection.open()
        self.strangers.append(connection)
        return connection

    def hold(self) -> None:
        self.proxy.hold()

    def flow(self) -> None:
        self.proxy.flow()

    def cut(self) -> None:
        self.proxy.cut()


@pytest_asyncio.fixture(params=["memory", "grpc", pytest.param("mqtt", marks=pytest.mark.real("mosquitto"))])
async def bench(request: pytest.FixtureRequest, keys: Keys) -> AsyncIterator[Bench]:
    """Each way in turn."""
    made: Bench
    if request.param == "memory":
        made = MemoryBench(keys)
    elif request.param == "grpc":
        made = GrpcBench(keys)
    else:
        made = MqttBench(keys, request.getfixturevalue("mosquitto"))
    await made.start()
    yield made
    await made.stop()


@pytest_asyncio.fixture
async def mqtt(keys: Keys, mosquitto: Mosquitto) -> AsyncIterator[MqttBench]:
    made = MqttBench(keys, mosquitto)
    await made.start()
    yield made
    await made.stop()


# ---------------------------------------------------------------- what agents say


def schema_of(name: str, series: int = 1) -> Schema:
    labels = tuple((("n", str(i)),) for i in range(series)) if series > 1 else ((),)
    return encode_schema([FamilyRun(name, MetricKind.GAUGE, "", labels)])


class RawAgent:
    """An agent that says exactly what a test wants."""

    def __init__(self, agent_id: str, link: Link) -> None:
        self.agent_id = agent_id
        self.link = link
        self.clock = SystemClock()
        self.spool_id, self.run_id = os.urandom(16), os.urandom(16)

    async def hear(self) -> Down | None:
        async with asyncio.timeout(PATIENCE_S):
            message = await self.link.receive()
        return None if message is None else decode_down(message)

    async def hear_kind(self, *kinds: type) -> Any:
        while True:
            frame = await self.hear()
            assert frame is not None, "the collector closed"
            if isinstance(frame, kinds):
                return frame

    async def hello(self, **changes: Any) -> Down | None:
        known: dict[str, Any] = {
            "agent_version": "0.1.0",
            "spool_id": self.spool_id,
            "run_id": self.run_id,
            "boot_id": "boot",
            "streams": (StreamState(Stream.CRIT), StreamState(Stream.BULK)),
            "wall_ms": self.clock.wall_ms(),
            "boottime_ms": self.clock.boottime_ms(),
        }
        await self.link.send(encode_hello(Hello(**(known | changes))))
        return await self.hear()

    async def dictionary(self, schema: Schema) -> None:
        for frame in schema.frames:
            await self.link.send(frame)

    def batch(self, seq: int, schema: Schema, *values: float, ticks: int = 1) -> bytes:
        now_ms = self.clock.boottime_ms()
        times = [now_ms - 1000 * (ticks - 1 - i) for i in range(ticks)]
        body = encode_ticks([BlockValues(schema, times, self.clock.wall_ms(), pack(values))])
        return encode_batch(Stream.BULK, [number(seq, body)])

    async def acked(self, seq: int) -> None:
        while True:
            ack = await self.hear_kind(Ack)
            if any(mark.committed >= seq for mark in ack.marks if mark.stream is Stream.BULK):
                return
