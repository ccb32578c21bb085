"""What the tests of channels share: notices, real receivers on loopback, certificates, secrets on disk."""

import asyncio
import datetime
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from email import message_from_bytes, policy
from email.message import EmailMessage
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from watchbill.clock import ManualClock
from watchbill.config import Table, load
from watchbill_collector.config import CollectorConfig
from watchbill_collector.notifiers.channel import Channel, Surroundings
from watchbill_collector.notifiers.configured import build_all
from watchbill_collector.notifiers.notice import Notice, NoticeAlert, NoticeKind

NOW_MS = 1_795_000_000_000
DEADLINE_S = 20.0


async def until(condition: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + DEADLINE_S
    while not condition():
        assert loop.time() < deadline_s, "it did not come to be"
        await asyncio.sleep(0.01)


def alert(number: int = 1, **changes: Any) -> NoticeAlert:
    labels = {
        "alertname": "DiskFull",
        "instance": f"web{number}",
        "mountpoint": "/var",
        "severity": "critical",
    }
    made = NoticeAlert(
        fingerprint=f"{number:016x}",
        labels=labels,
        annotations={
            "summary": f"/var on web{number} is 97 % full",
            "description": "It will be full in 40 minutes.",
            "runbook_url": "https://runbooks.example/disk",
        },
        status="firing",
        starts_ms=NOW_MS - 300_000,
        ends_ms=None,
        value=97.25,
        generator_url="http://collector.example:7480/graph?g0.expr=up",
        service="shop",
        owner="team-web",
    )
    return replace(made, **changes)


def notice(*alerts: NoticeAlert, **changes: Any) -> Notice:
    alerts = alerts or (alert(),)
    made = Notice(
        key="7f3a",
        group_key="ops/DiskFull",
        channel="under-test",
        route="1",
        kind=NoticeKind.FIRING,
        severity="critical",
        group_labels={"alertname": "DiskFull"},
        common_labels={"alertname": "DiskFull", "severity": "critical"},
        common_annotations={},
        alerts=alerts,
        alerts_left_out=0,
        created_ms=NOW_MS,
        external_url="https://collector.example:7480",
    )
    return replace(made, **changes)


def resolved(*alerts: NoticeAlert, **changes: Any) -> Notice:
    ended = [replace(one, status="resolved", ends_ms=NOW_MS) for one in alerts or (alert(),)]
    return notice(*ended, kind=NoticeKind.RESOLVED, **{"key": "7f3b"} | changes)


HOSTILE = (
    "<script>alert(1)</script> <!channel> [click](http://evil.example) @channel **b** `x` "
    "\r\nBcc: victim@example.org\r\n\r\nbody \x00\x1b[31m\u202egnp.exe\u2028next \ud800 <img src=http://evil.example/i.png>"
)


def hostile_notice() -> Notice:
    labels = {"alertname": HOSTILE, "instance": HOSTILE, "severity": "critical", "x": HOSTILE}
    annotations = {"summary": HOSTILE, "description": HOSTILE, "runbook_url": 'https://e.example/"onclick="x'}
    one = alert(
        labels=labels, annotations=annotations, service=HOSTILE, owner=HOSTILE, generator_url="javascript:x"
    )
    return notice(
        one, group_labels=labels, common_labels=labels, common_annotations=annotations, remark=HOSTILE
    )


# ---------------------------------------------------------------- certificates


@dataclass(frozen=True)
class Certificates:
    ca: Path
    chain: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain, self.key)
        return context


def make_certificates(directory: Path, *, ended: bool = False) -> Certificates:
    directory.mkdir()
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    ca = (
        x509.CertificateBuilder(ca_name, ca_name, ca_key.public_key(), x509.random_serial_number())
        .not_valid_before(now - 90 * day)
        .not_valid_after(now + 90 * day)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")])
    leaf = (
        x509.CertificateBuilder(ca_name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - 60 * day)
        .not_valid_after(now - day if ended else now + day)
        .add_extension(names, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    files = Certificates(directory / "ca.pem", directory / "chain.pem", directory / "key.pem")
    files.ca.write_bytes(ca.public_bytes(pem))
    files.chain.write_bytes(leaf.public_bytes(pem))
    files.key.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path / "tls")


@pytest.fixture
def ended_certificates(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path / "tls-ended", ended=True)


# ---------------------------------------------------------------- an HTTP receiver


@dataclass(frozen=True)
class Received:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


Behaviour = Callable[[asyncio.StreamWriter, Received], Awaitable[None]]


def answers(status: int, body: bytes = b"", **headers: str) -> Behaviour:
    async def behave(writer: asyncio.StreamWriter, _: Received) -> None:
        extra = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
        writer.write(head.encode() + body)

    return behave


async def hangs(_: asyncio.StreamWriter, __: Received) -> None:
    await asyncio.Event().wait()


async def hangs_up(writer: asyncio.StreamWriter, _: Received) -> None:
    writer.close()


def breaks_off(status: int) -> Behaviour:
    async def behave(writer: asyncio.StreamWriter, _: Received) -> None:
        writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: 100\r\n\r\nhalf".encode())
        await writer.drain()
        writer.close()

    return behave


@dataclass
class Flood:
    """Writes for as long as somebody reads, up to a gigabyte."""

    sent: int = 0
    status: int = 200

    async def __call__(self, writer: asyncio.StreamWriter, _: Received) -> None:
        piece = b"x" * (1 << 20)
        writer.write(f"HTTP/1.1 {self.status} X\r\ncontent-length: {1 << 30}\r\n\r\n".encode())
        while self.sent < 1 << 30:
            writer.write(piece)
            await writer.drain()
            self.sent += len(piece)


@dataclass
class Receiver:
    """An HTTP server that does what each test says, and remembers what it got."""

    url: str = ""
    behaviour: Behaviour = field(default_factory=lambda: answers(200))
    received: list[Received] = field(default_factory=list)
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _ = head[0].split(" ")
                pairs = (line.split(": ", 1) for line in head[1:] if line)
                headers = {name.lower(): value for name, value in pairs}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                request = Received(method, path, headers, body)
                self.received.append(request)
                await self.behaviour(writer, request)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            return
        finally:
            writer.close()


Open = Callable[..., Awaitable[Receiver]]


@pytest.fixture
async def open_receiver() -> AsyncIterator[Open]:
    servers: list[asyncio.Server] = []
    tasks: set[asyncio.Task[None]] = set()

    async def open_(context: ssl.SSLContext | None = None) -> Receiver:
        receiver = Receiver()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            await receiver.serve(reader, writer)
            tasks.discard(task)

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        servers.append(server)
        scheme = "http" if context is None else "https"
        receiver.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return receiver

    yield open_
    for server in servers:
        server.close()
    for task in list(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def receiver(open_receiver: Open) -> Receiver:
    return await open_receiver()


# ---------------------------------------------------------------- an SMTP server


@dataclass
class MailServer:
    port: int
    directory: Path

    def mails(self) -> list[EmailMessage]:
        files = sorted(self.directory.glob("*.eml"), key=lambda file: int(file.stem))
        return [message_from_bytes(file.read_bytes(), policy=policy.default) for file in files]  # type: ignore[misc]


@pytest.fixture
def mail_server(tmp_path: Path) -> Iterator[Callable[..., MailServer]]:
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> MailServer:
        directory = tmp_path / f"mail{len(running)}"
        directory.mkdir()
        script = Path(__file__).with_name("mail_server.py")
        process = subprocess.Popen(
            ["/usr/bin/python3", str(script), str(directory), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        assert process.stdout is not None
        return MailServer(int(process.stdout.readline()), directory)

    yield start
    for process in running:
        with process:
            process.kill()


# ---------------------------------------------------------------- channels from configuration


@dataclass
class Builder:
    """Channels as collector.toml makes them; all are closed at the end."""

    directory: Path
    clock: ManualClock = field(default_factory=lambda: ManualClock(NOW_MS))
    made: list[Channel] = field(default_factory=list)

    def secret(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o600)
        return path

    def __call__(self, kind: str, lines: str = "", name: str = "under-test") -> Channel:
        file = self.directory / "collector.toml"
        file.write_text(f'[[channel]]\nname = "{name}"\nkind = "{kind}"\n{lines}\n')
        tables: list[Table] = load(CollectorConfig, file).channel
        (channel,) = build_all(tables, Surroundings("0.1.0", self.clock)).values()
        self.made.append(channel)
        return channel


@pytest.fixture
async def channel(tmp_path: Path) -> AsyncIterator[Builder]:
    builder = Builder(tmp_path)
    yield builder
    for made in builder.made:
        await made.close()


@pytest.fixture
def a() -> Any:
    """The makers of this file, which tests cannot import."""

    class Makers:
        pass

    for name, thing in list(globals().items()):
        if not name.startswith("__"):
            setattr(Makers, name, staticmethod(thing) if callable(thing) else thing)
    return Makers
