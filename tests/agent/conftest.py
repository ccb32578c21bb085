"""A collector small enough to see through, on a real port with real certificates, and real agent processes.

It speaks the protocol as far as the agent's daemon needs: it welcomes, keeps what it is sent, and
acknowledges at once. The true collector is tested where it lives.
"""

import asyncio
import itertools
import json
import os
import struct
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

import watchbill_agent  # noqa: F401 - Sets what gRPC reads once, before anybody imports it.
from watchbill.codec import decode_hello, decode_runs, encode_down
from watchbill.identity import AgentIdentity, AgentUri, IdentityFile
from watchbill.protocol.frames import (
    Ack,
    End,
    EndReason,
    Settings,
    Stream,
    StreamMark,
    VerifyBackup,
    Welcome,
    digest_of,
)
from watchbill.v1 import link_pb2 as pb

SITE = "test"
STALE_BITS = 0x7FF0000000000002
DEADLINE_S = 30.0
DAY_MS = 86_400_000


class Collector:
    """Listens on 127.0.0.1; `heard` has every Up message in order."""

    def __init__(self, directory: Path) -> None:
        from watchbill_collector.pki import Authority, Lifetimes, ServerCertificate

        self.authority = Authority.create(directory, SITE, _now_ms())
        self._certificate = ServerCertificate(directory, self.authority, Lifetimes())
        self._certificate.refresh(["127.0.0.1", "localhost"], _now_ms())
        self._server = None
        self.port = 0
        self.heard: list[pb.Up] = []
        self.hellos: list[object] = []
        self.admission = End(EndReason.SHUTDOWN, "this host may come in")
        self.sessions = 0
        self.asks: list[VerifyBackup] = []
        """What every session is asked for first."""
        self.marks: dict[tuple[bytes, int], StreamMark] = {}
        self.acknowledging = True
        self._news = asyncio.Condition()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        import grpc

        self._server = grpc.aio.server()
        handler = grpc.stream_stream_rpc_method_handler(self._stream)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("watchbill.v1.Link", {"Stream": handler}),)
        )
        self.port = self._server.add_secure_port(
            f"127.0.0.1:{self.port}", self._certificate.credentials(mutual=True)
        )
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    async def _stream(self, requests, context):
        spool_id = b""
        async for message in requests:
            up = pb.Up.FromString(message)
            async with self._news:
                self.heard.append(up)
                self._news.notify_all()
            kind = up.WhichOneof("message")
            if kind == "hello":
                self.sessions += 1
                hello = decode_hello(up.hello)
                self.hellos.append(hello)
                spool_id = hello.spool_id
                marks = tuple(m for (spool, _), m in self.marks.items() if spool == spool_id)
                name = hello.instance or "unnamed"
                yield encode_down(
                    Welcome(self.sessions, _now_ms(), marks, Settings(credit_bytes=1 << 20), instance=name)
                )
                for request in self.asks:
                    yield encode_down(request)
            elif kind == "batch" and self.acknowledging:
                last = pb.Record.FromString(up.batch.records[-1])
                stream = Stream(up.batch.stream)
                mark = StreamMark(stream, last.gap.to_seq or last.seq, _digest(up.batch.records[-1]))
                self.marks[spool_id, up.batch.stream] = mark
                yield encode_down(Ack((mark,), 1 << 20))
            elif kind == "bye":
                if not spool_id:  # A goodbye without a Hello asks whether this host may come in.
                    yield encode_down(self.admission)
                return

    async def until(self, condition) -> None:
        """Wait until `condition(self)` holds."""
        async with asyncio.timeout(DEADLINE_S), self._news:
            await self._news.wait_for(lambda: condition(self))

    def samples(self) -> list[tuple[int, str, dict[str, str], float | None]]:
        """Everything received: (boot time, name, labels, value); None for a stale marker."""
        names: dict[int, list[tuple[str, dict[str, str]]]] = {}
        out = []
        for up in self.heard:
            if up.WhichOneof("message") == "dictionary":
                row = names.setdefault(up.dictionary.schema_id, [])
                if up.dictionary.part == 0:
                    row.clear()
                row += [(run.name, dict(one)) for run in decode_runs(up.dictionary) for one in run.series]
            for data in up.batch.records:
                for block in pb.Record.FromString(data).ticks.blocks:
                    out += _samples(block, names[block.schema_id])
        return out

    def names(self) -> set[str]:
        return {name for _, name, _, _ in self.samples()}

    def records(self, stream: Stream = Stream.BULK) -> list[pb.Record]:
        batches = [up.batch for up in self.heard if up.batch.stream == stream]
        return [pb.Record.FromString(data) for batch in batches for data in batch.records]


def _samples(block, names):
    times = list(itertools.accumulate(block.steps_ms, initial=block.first_boottime_ms))
    bits = struct.unpack(f"<{len(block.values) // 8}Q", block.values)
    values = struct.unpack(f"<{len(bits)}d", block.values)
    for place, (one, value) in enumerate(zip(bits, values, strict=True)):
        name, labels = names[place % len(names)]
        yield times[place // len(names)], name, labels, None if one == STALE_BITS else value


def _digest(record: bytes) -> int:
    found = pb.Record.FromString(record)
    return found.gap.digest if found.WhichOneof("body") == "gap" else digest_of(record)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def enrolled(
    home: Path, collector: Collector, instance: str = "web01", life_ms: int = 7 * DAY_MS
) -> AgentIdentity:
    """Give `home` an identity, signed by the collector's authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    from watchbill_collector.pki.authority import private_pem, public_der

    uri = AgentUri(SITE, str(uuid.uuid4()))
    key = ec.generate_private_key(ec.SECP256R1())
    now_ms = _now_ms()
    start_ms = now_ms if life_ms > 0 else now_ms + 2 * life_ms
    issued = collector.authority.issue_agent(uri, public_der(key.public_key()), start_ms, abs(life_ms) / 1000)
    leaf = x509.load_der_x509_certificate(issued.der)
    identity = AgentIdentity(
        agent_id=uri.agent_id,
        instance=instance,
        site=SITE,
        labels={"team": "shop"},
        key_pem=private_pem(key),
        chain_pem=leaf.public_bytes(Encoding.PEM),
        trust_pem=collector.authority.pem,
        not_before_ms=issued.not_before_ms,
        not_after_ms=issued.not_after_ms,
        stream_endpoint=collector.endpoint if collector.port else "127.0.0.1:1",
        enrol_endpoint="127.0.0.1:1",
        envelope_seed=bytes(32),
        collector_envelope_key=bytes(32),
        command_key=bytes(32),
        token_id="aaaaaaaaaaaa",
        enrolled_ms=now_ms,
    )
    IdentityFile(home / "var" / "agent").save(identity)
    return identity


class AgentProcess:
    """One `watchbill-agent run` with a home of its own."""

    def __init__(self, home: Path, **env: str) -> None:
        self.home = home
        self.log = home / "agent.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "watchbill_agent", "run", "--home", str(home)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **env},
            )

    def text(self) -> str:
        return self.log.read_text()

    async def until_log(self, text: str, times: int = 1) -> None:
        """Wait until the log has that text so often."""
        async with asyncio.timeout(DEADLINE_S):
            while self.text().count(text) < times:
                assert self.process.poll() is None or text in self.text(), self.text()
                await asyncio.sleep(0.02)

    async def ended(self) -> int:
        return await asyncio.to_thread(self.process.wait, DEADLINE_S)

    async def stop(self) -> int:
        self.process.terminate()
        return await self.ended()


def command(
    home: Path | None, *arguments: str, stdin: str = "", **env: str
) -> subprocess.CompletedProcess[str]:
    """Run `watchbill-agent ARGUMENTS` to its end."""
    where = [] if home is None else ["--home", str(home)]
    return subprocess.run(
        [sys.executable, "-m", "watchbill_agent", *where, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env={**{key: value for key, value in os.environ.items() if key != "WATCHBILL_HOME"}, **env},
    )


@pytest.fixture
async def collector(tmp_path):
    directory = tmp_path / "collector"
    directory.mkdir()
    collector = Collector(directory)
    await collector.start()
    yield collector
    await collector.stop()


@pytest.fixture
def agents(tmp_path):
    """Starts agents: `agents(toml, ...)` writes the configuration; all are ended with the test."""
    started: list[AgentProcess] = []

    def start(home: Path, toml: str | None = None, **env: str) -> AgentProcess:
        (home / "etc").mkdir(parents=True, exist_ok=True)
        if toml is not None:
            (home / "etc" / "agent.toml").write_text(toml)
        agent = AgentProcess(home, **env)
        started.append(agent)
        return agent

    yield start
    for agent in started:
        agent.process.kill()
        agent.process.wait()


@pytest.fixture
def enrol():
    """`enrol(home, collector)` gives a home an identity."""
    return enrolled


@pytest.fixture
def cli():
    """`cli(home, *arguments)` runs the command and gives its result."""
    return command


@pytest.fixture
def status():
    """`status(home)` is what the running agent says."""

    def status(home: Path) -> dict:
        result = command(home, "status", "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    return status
