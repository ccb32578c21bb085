"""A real Redis and a replica of it, over TCP, TLS and a socket."""

import asyncio
import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from watchbill.errors import ConfigError
from watchbill_agent.checks.check import About, Failed, Outcome, Verdict
from watchbill_agent.checks.config import Trees, read_checks
from watchbill_agent.checks.kinds.redis import Options, Redis

PASSWORD = "correct-horse"
START_S = 20.0

pytestmark = pytest.mark.real("redis-server", "openssl")


@dataclass
class Server:
    place: Path
    port: int
    process: "subprocess.Popen[bytes]"

    @property
    def socket(self) -> Path:
        return self.place / "socket"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def start(place: Path, *settings: str) -> Server:
    said: dict[str, Any] = {"cwd": place, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if os.geteuid() == 0:
        user = pwd.getpwnam("redis")
        said |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        shutil.chown(place, "redis", "redis")
    port = free_port()
    argv = [
        "redis-server",
        "--port",
        str(port),
        "--unixsocket",
        "socket",
        "--unixsocketperm",
        "777",
        "--dir",
        str(place),
    ]
    argv += ["--save", "", "--requirepass", PASSWORD, "--maxclients", "40", "--bind", "127.0.0.1", *settings]
    process = subprocess.Popen(argv, start_new_session=True, **said)
    until_s = time.monotonic() + START_S
    while not (place / "socket").exists():
        assert time.monotonic() < until_s, "it did not start"
        time.sleep(0.02)
    return Server(place, port, process)


def stop(server: Server) -> None:
    server.process.terminate()
    server.process.wait(20)
    shutil.rmtree(server.place, ignore_errors=True)


def place_for_server() -> Path:
    place = Path(tempfile.mkdtemp())
    place.chmod(0o711)
    return place


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    place = place_for_server()
    made = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    where = f"-keyout {place}/key -out {place}/cert -addext subjectAltName=IP:127.0.0.1"
    subprocess.run((*made.split(), *where.split()), check=True, capture_output=True, timeout=30)
    for name in ("key", "cert"):
        (place / name).chmod(0o644)
    tls = free_port()
    settings = (
        f"--tls-port {tls} --tls-cert-file {place}/cert --tls-key-file {place}/key --tls-auth-clients no"
    )
    found = start(
        place,
        *settings.split(),
        "--tls-ca-cert-file",
        f"{place}/cert",
        "--maxmemory",
        "64mb",
        "--repl-diskless-sync-delay",
        "0",
    )
    (place / "tls-port").write_text(str(tls))
    yield found
    stop(found)


@pytest.fixture
def password(tmp_path: Path) -> str:
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    path.chmod(0o600)
    return str(path)


def check(server: Server, **said: Any) -> Redis:
    return Redis(Options(**{"port": server.port, **said}), About("x", 30, 5))


def numbers(outcome: Outcome | Failed) -> dict[tuple[str, ...], float]:
    pairs = zip(outcome.samples.series, outcome.samples.values, strict=True)
    return {(one.name, *dict(one.labels).values()): value for one, value in pairs}


async def test_it_says_how_it_is_over_every_way(server: Server, password: str) -> None:
    tls = int((server.place / "tls-port").read_text())
    ways: list[dict[str, Any]] = [
        {},
        {"socket": server.socket},
        {"port": tls, "tls": True, "ca_file": server.place / "cert"},
    ]
    for way in ways:
        outcome = await check(server, password_file=password, **way).look(5)
        assert outcome.verdict is Verdict.OK, outcome
        found = numbers(outcome)
        assert found["redis_up",] == 1
        assert found["redis_connected_clients",] == 1
        assert found["redis_config_maxclients",] == 40
        assert found["redis_memory_max_bytes",] == 64 * 1024**2
        assert 0 < found["redis_memory_used_bytes",] < 64 * 1024**2
        assert found["redis_connected_slaves",] == 0
        assert found["redis_rdb_last_bgsave_status",] == 1
        assert 0 < found["watchbill_check_database_duration_seconds", "query"] < 5


async def test_a_limit_of_ones_own_is_a_warning(server: Server, password: str) -> None:
    outcome = await check(server, password_file=password, warn=["memory_used_ratio > 0.1%"]).look(5)
    assert (outcome.verdict, outcome.reason) == (Verdict.WARNING, "over-warn")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({}, "auth"),
        ({"user": "nobody-here"}, "auth"),
        ({"password_file": ""}, "auth"),
        ({"port": 1}, "refused"),
        ({"socket": Path("/nowhere/socket")}, "refused"),
    ],
)
async def test_who_is_not_let_in_is_told_why_and_no_secret(
    server: Server, tmp_path: Path, said: dict[str, Any], reason: str
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("swordfish-17")
    wrong.chmod(0o600)
    with pytest.raises(Failed) as raised:
        await check(server, **{"password_file": str(wrong), **said}).look(5)
    assert (raised.value.verdict, raised.value.reason) == (Verdict.CRITICAL, reason), raised.value.detail
    assert "swordfish" not in raised.value.detail
    assert numbers(raised.value)["redis_up",] == 0


async def test_a_certificate_that_nobody_vouches_for_is_refused(server: Server, password: str) -> None:
    tls = int((server.place / "tls-port").read_text())
    with pytest.raises(Failed, match="certificate verify failed"):
        await check(server, port=tls, tls=True, password_file=password).look(5)


async def test_clients_fill_up(server: Server, password: str) -> None:
    opened = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(38)]
    try:
        outcome = await check(server, password_file=password).look(5)
        assert (outcome.verdict, outcome.reason) == (Verdict.CRITICAL, "over-fail")
        opened += [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(2)]
        with pytest.raises(Failed, match="max number of clients") as raised:
            await check(server, password_file=password).look(5)
        assert raised.value.reason == "too-many-connections"
    finally:
        for _, writer in opened:
            writer.close()


async def test_a_replica_that_does_not_hear_its_master_fails(server: Server, password: str) -> None:
    replica = start(
        place_for_server(), "--replicaof", "127.0.0.1", str(server.port), "--masterauth", PASSWORD
    )
    try:
        async with asyncio.timeout(20):
            while (  # noqa: ASYNC110 - A server sets no event.
                outcome := await check(replica, password_file=password).look(5)
            ).reason == "master-link-down":
                await asyncio.sleep(0.05)
        assert outcome.verdict is Verdict.OK
        assert numbers(outcome)["redis_master_link_up",] == 1
        assert numbers(await check(server, password_file=password).look(5))["redis_connected_slaves",] == 1
    finally:
        stop(replica)
    orphan = start(place_for_server(), "--replicaof", "127.0.0.1", "1")
    try:
        outcome = await check(orphan, password_file=password).look(5)
        assert (outcome.verdict, outcome.reason) == (Verdict.CRITICAL, "master-link-down")
        assert outcome.detail == "got the link to 127.0.0.1:1 down, wanted up"
    finally:
        stop(orphan)


async def test_a_server_that_says_nothing_is_not_waited_for() -> None:
    writers: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    async with silent:
        looking = Redis(Options(port=silent.sockets[0].getsockname()[1]), About("x", 30, 5))
        with pytest.raises(Failed, match="got no answer within") as raised:
            await looking.look(0.2)
        await asyncio.sleep(0)
        for writer in writers:
            writer.close()
            await writer.wait_closed()
    assert raised.value.reason == "timeout"


@pytest.mark.parametrize(
    ("said", "reason", "detail"),
    [
        (
            b"HTTP/1.1 400 Bad Request\r\n",
            "not-redis",
            "PING: got 'HTTP/1.1 400 Bad Request', wanted an answer",
        ),
        (
            b"$99999999999\r\n",
            "not-redis",
            "PING: got an answer of 99999999999 bytes, wanted at most 1048576",
        ),
        (b"$" + b"9" * 9_000 + b"\r\n", "not-redis", "PING: got '$9999"),
        (b"x" * 100_000, "not-redis", "PING: got a line of more than 16384 bytes"),
        (b"$5\r\nab", "connect-failed", "PING: it hung up in the middle of an answer"),
        (b"", "connect-failed", "PING: it hung up"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "loading", "PING: LOADING Redis is loading"),
        (b"+PONG\r\n$20\r\n\xff\r\nmaxclients:nan\r\n\r\n\r\n", "", "0 clients, 0 bytes"),
    ],
)
async def test_whatever_answers_there_is_told_and_bounded(said: bytes, reason: str, detail: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(said)
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        looking = Redis(Options(port=server.sockets[0].getsockname()[1]), About("x", 30, 5))
        try:
            outcome = await looking.look(5)
        except Failed as exc:
            outcome = exc.outcome()
    assert (outcome.reason, outcome.detail[: len(detail)]) == (reason, detail)


@pytest.mark.parametrize(
    ("line", "key", "wanted"),
    [
        ('ca_file = "/a"', "tls", "true with ca_file"),
        ('warn = ["clients > 5"]', "warn", "one of its numbers: connect_seconds"),
        ('password = "x"', "password", "a known key (did you mean password_file?)"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, line: str, key: str, wanted: str) -> None:
    (tmp_path / "checks.toml").write_text(f'[[check]]\nname = "x"\nkind = "redis"\n{line}\n')
    with pytest.raises(ConfigError) as raised:
        read_checks(Trees(tmp_path))
    (problem,) = raised.value.problems
    assert problem.key == f"check[0].{key}"
    assert wanted in problem.wanted
