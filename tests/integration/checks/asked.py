"""Checks as files say them, asked directly; servers in this process; certificates of every sort."""

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from watchbill.config.convert import Table
from watchbill_agent.checks import kinds
from watchbill_agent.checks.check import About, Check, Outcome, Probe
from watchbill_agent.checks.config import make

LONG_S = 30.0
"""For looks that end by themselves."""
DAY = datetime.timedelta(days=1)

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def check(kind: str, **values: Any) -> Probe:
    """A check of these keys."""
    found = kinds.find(kind)
    assert found is not None
    made = make(found, Table(values), About("tried", 60, LONG_S))
    assert isinstance(made, Check), made
    assert isinstance(made, Probe)
    return made


async def ask(kind: str, within_s: float = LONG_S, **values: Any) -> Outcome:
    """One look, of which nothing may be left open, and which ends when it has to."""
    looking = check(kind, **values)
    async with asyncio.timeout(within_s + LONG_S):
        return await looking.look(within_s)


def series(outcome: Outcome) -> dict[str, float]:
    """Values by name, with the phase behind it where there is one."""
    found = {}
    for one, value in zip(outcome.samples.series, outcome.samples.values, strict=True):
        phase = dict(one.labels).get("phase", "")
        found[f"{one.name}:{phase}" if phase else one.name] = value
    return found


def labels_of(outcome: Outcome, name: str) -> dict[str, str]:
    """Of the one series of this name."""
    (found,) = (one for one in outcome.samples.series if one.name == name)
    return dict(found.labels)


async def nothing_left(before: int) -> None:
    """As many descriptors as before, as soon as this process's own server has closed its ends."""
    for _ in range(200):
        if descriptors() <= before:
            return
        await asyncio.sleep(0.01)
    assert descriptors() <= before


def descriptors() -> int:
    """Open in this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


@asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server of this process on a port of its own; its connections end with it."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            if not server.is_serving():
                return
            await handler(reader, writer)
        except (OSError, ssl.SSLError, asyncio.CancelledError, asyncio.IncompleteReadError):
            pass
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls, limit=1 << 20)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        await asyncio.sleep(0.005)  # Who connected and went may not be accepted yet.
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@dataclass(frozen=True)
class Pair:
    """A certificate with its chain, and its key."""

    chain: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """Of a server with it."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(self.chain, self.key)
        return made


class Authority:
    """One that signs whatever a test wants."""

    def __init__(self, place: Path, name: str = "Test Root") -> None:
        self._place = place
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        self._certificate = (
            self._builder(self._name, self._key, now - 400 * DAY, now + 400 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file = place / f"{name.replace(' ', '-')}.pem"
        self.file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        start: datetime.datetime,
        end: datetime.datetime,
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
        )

    def issue(self, name: str = "localhost", *, days: float = 90, begins: float = -100) -> Pair:
        """A certificate for this name and 127.0.0.1, valid from `begins` to `days` from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names: list[x509.GeneralName] = [x509.DNSName(name)]
        if name == "localhost":
            names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        certificate = (
            self._builder(subject, key, now + begins * DAY, now + days * DAY)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        chain, secret = (self._place / f"{certificate.serial_number:x}.{kind}" for kind in ("pem", "key"))
        chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        secret.chmod(0o600)
        return Pair(chain, secret)

    def itself(self) -> Pair:
        """Its own certificate, as a server of careless people presents it."""
        key = self._place / "root.key"
        key.write_bytes(
            self._key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return Pair(self.file, key)
