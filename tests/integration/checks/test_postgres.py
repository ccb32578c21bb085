"""A real PostgreSQL and a standby of it: what they say, what queries of one's own say, and what goes wrong.

Their databases have no encoding (SQL_ASCII), so that text comes as bytes.
"""

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
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
from watchbill_agent.checks.kinds.postgres import Options, Postgres
from watchbill_agent.checks.own_sql import Query

from .asked import Authority

BIN = Path("/usr/lib/postgresql/15/bin")
PASSWORD = "correct horse"
START_S = 30.0

pytestmark = pytest.mark.real(str(BIN / "postgres"))


@dataclass
class Server:
    place: Path
    port: int
    primary: "Server | None" = None
    process: "subprocess.Popen[bytes] | None" = None

    def run(self, *argv: str) -> str:
        done = subprocess.run(
            (str(BIN / argv[0]), *argv[1:]),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **self._as(),
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _as(self) -> dict[str, Any]:
        said: dict[str, Any] = {
            "cwd": self.place,
            "env": {"LC_ALL": "C", "PATH": "/usr/bin:/bin", "HOME": str(self.place)},
        }
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            said |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        return said

    def sql(self, *statements: str) -> None:
        commands = [part for one in statements for part in ("-c", one)]
        self.run(
            "psql",
            "-h",
            str(self.place),
            "-p",
            str(self.port),
            "-U",
            "postgres",
            "-qAt",
            *commands,
            "postgres",
        )

    def start(self) -> None:
        if os.geteuid() == 0:
            shutil.chown(self.place, "postgres", "postgres")
        data = str(self.place / "data")
        if self.primary is None:
            self.run("initdb", "-D", data, "-A", "trust", "-U", "postgres", "-N")
            hba = (
                "local all all trust\nlocal replication all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
            )
            (self.place / "data/pg_hba.conf").write_text(hba)
        else:
            self.run(
                "pg_basebackup",
                "-D",
                data,
                "-R",
                "-h",
                str(self.primary.place),
                "-p",
                str(self.primary.port),
                "-U",
                "postgres",
                "-c",
                "fast",
                "-N",
            )
        settings = {
            "unix_socket_directories": self.place,
            "port": self.port,
            "fsync": "off",
            "max_connections": 13,
            "superuser_reserved_connections": 3,
            "listen_addresses": "127.0.0.1",
            "cluster_name": "standby",
        }
        with (self.place / "data/postgresql.auto.conf").open("a") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(
            (str(BIN / "postgres"), "-D", data),
            stdout=quiet,
            stderr=quiet,
            start_new_session=True,
            **self._as(),
        )
        until_s = time.monotonic() + START_S
        ready = (str(BIN / "pg_isready"), "-q", "-h", str(self.place), "-p", str(self.port))
        while subprocess.run(ready, timeout=10, check=False).returncode:
            assert time.monotonic() < until_s, "it did not start"
            time.sleep(0.05)

    def stop(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGQUIT)
            self.process.wait(30)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    place = Path(tempfile.mkdtemp())
    found = Server(place, free_port())
    try:
        found.start()
        found.sql(
            f"CREATE ROLE watch LOGIN PASSWORD '{PASSWORD}' IN ROLE pg_monitor",
            "CREATE TABLE orders (shop text, age interval, price numeric)",
            "INSERT INTO orders VALUES ('a', '90 s', 1.5), ('a', '30 s', 2), ('b', '2 m', 3)",
            "GRANT ALL ON orders TO watch",
        )
        yield found
    finally:
        found.stop()
        shutil.rmtree(place)


@pytest.fixture(scope="module")
def standby(server: Server) -> Iterator[Server]:
    place = Path(tempfile.mkdtemp())
    found = Server(place, free_port(), server)
    try:
        found.start()
        yield found
    finally:
        found.stop()
        shutil.rmtree(place)


@pytest.fixture
def authority(server: Server, tmp_path: Path) -> Iterator[Authority]:
    """Whose certificate the server has, as long as the test runs."""
    made = Authority(tmp_path)
    pair = made.issue()
    for source, name in ((pair.chain, "server.crt"), (pair.key, "server.key")):
        copy = server.place / "data" / name
        shutil.copy(source, copy)
        copy.chmod(0o600)
        if os.geteuid() == 0:
            shutil.chown(copy, "postgres", "postgres")
    server.sql("ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()")
    yield made
    server.sql("ALTER SYSTEM RESET ssl", "SELECT pg_reload_conf()")


@pytest.fixture
def password(tmp_path: Path) -> str:
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    path.chmod(0o600)
    return str(path)


def check(server: Server, **said: Any) -> Postgres:
    options = {"host": str(server.place), "port": server.port, "user": "watch", **said}
    return Postgres(Options(**options), About("x", 30, 10))


def numbers(outcome: Outcome | Failed) -> dict[tuple[str, ...], float]:
    pairs = zip(outcome.samples.series, outcome.samples.values, strict=True)
    return {(one.name, *dict(one.labels).values()): value for one, value in pairs}


async def test_it_says_how_it_is(server: Server, password: str) -> None:
    outcome = await check(server, host="127.0.0.1", password_file=password).look(10)
    assert outcome.verdict is Verdict.OK
    assert outcome.detail.startswith("1 of 13 connections, query 0.0")
    found = numbers(outcome)
    assert found["pg_up",] == 1
    assert found["pg_stat_activity_count", "active"] == 1
    assert found["pg_stat_activity_count", "idle in transaction"] == 0
    assert found["pg_settings_max_connections",] == 13
    assert found["pg_settings_superuser_reserved_connections",] == 3
    assert found["pg_replication_is_replica",] == 0
    assert 0 < found["watchbill_check_database_duration_seconds", "connect"] < 10
    assert 0 < found["watchbill_check_database_duration_seconds", "query"] < 10


async def test_a_certificate_is_verified_by_ca_file_and_by_nothing_else(
    server: Server, password: str, authority: Authority, tmp_path: Path
) -> None:
    async def look(ca_file: Path) -> str:
        """What went wrong, or nothing."""
        said = {"password_file": password, "sslmode": "verify-full", "ca_file": ca_file}
        try:
            return (await check(server, host="localhost", **said).look(10)).reason
        except Failed as exc:
            return f"{exc.reason}: {exc.detail}"

    async with asyncio.timeout(START_S):
        while "does not support SSL" in (said := await look(authority.file)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # It has not read its configuration yet.
    assert said == ""
    assert "certificate verify failed" in await look(Authority(tmp_path, "Another").file)
    (tmp_path / "odd").write_text("no certificate")
    assert f'could not read root certificate file "{tmp_path}/odd"' in await look(tmp_path / "odd")
    assert f'root certificate file "{tmp_path}/none" does not exist' in await look(tmp_path / "none")


async def test_a_pool_that_fills_up_is_a_warning_then_a_failure_and_then_nobody_gets_in(
    server: Server,
) -> None:
    import psycopg

    where = f"host={server.place} port={server.port} user=watch dbname=postgres"
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(8):
            await stack.enter_async_context(await psycopg.AsyncConnection.connect(where))
        outcome = await check(server).look(10)
        assert (outcome.verdict, outcome.reason) == (Verdict.WARNING, "over-warn")
        assert outcome.detail == "connections_used_ratio: got 0.9, wanted not connections_used_ratio > 80%"
        await stack.enter_async_context(await psycopg.AsyncConnection.connect(where))
        outcome = await check(server).look(10)
        assert (outcome.verdict, outcome.reason) == (Verdict.CRITICAL, "over-fail")
        await stack.enter_async_context(await psycopg.AsyncConnection.connect(where))
        with pytest.raises(Failed, match="connection slots are reserved") as raised:
            await check(server).look(10)
    assert raised.value.reason == "too-many-connections"
    assert numbers(raised.value)["pg_up",] == 0


async def test_queries_of_ones_own_become_series_and_numbers(server: Server) -> None:
    sql = "SELECT shop, count(*) AS waiting, max(age) AS oldest_seconds, sum(price) FROM orders GROUP BY 1"
    queries = [Query(name="shop", sql=sql), Query(name="orders", sql="SELECT count(*), 'x' AS check FROM orders"),
               Query(name="many", sql="SELECT generate_series(1, 1000000) AS n, 'same' AS k")]  # fmt: skip
    looking = check(server, query=queries, fail=["orders > 2"])
    outcome = await looking.look(10)
    assert (outcome.verdict, outcome.detail) == (Verdict.CRITICAL, "orders: got 3, wanted not orders > 2")
    found = numbers(outcome)
    assert found["shop_waiting", "a"] == 2
    assert found["shop_oldest_seconds", "b"] == 120
    assert found["shop_sum", "a"] == 3.5
    assert found["orders", "x"] == 3
    assert found["watchbill_check_query_dropped", "many"] == 100, "99 the same, and one more than is read"


@pytest.mark.parametrize(
    ("sql", "reason", "said"),
    [
        ("SELECT nothing", "query-failed", 'query q: column "nothing" does not exist'),
        ("DELETE FROM orders RETURNING 1", "query-failed", "query q: syntax error"),
        ("WITH d AS (DELETE FROM orders RETURNING 1) SELECT * FROM d", "query-failed", "query q: "),
        ("SELECT 1; DROP TABLE orders", "query-failed", "query q: cannot insert multiple commands"),
        ("SELECT pg_sleep(60)", "timeout", "query q: "),
    ],
)
async def test_a_query_that_fails_says_which_and_changes_nothing(
    server: Server, sql: str, reason: str, said: str
) -> None:
    with pytest.raises(Failed, match=said) as raised:
        await check(server, query=[Query(name="q", sql=sql)]).look(1.0 if "sleep" in sql else 10)
    assert (raised.value.verdict, raised.value.reason) == (Verdict.CRITICAL, reason)
    count = await check(
        server, query=[Query(name="n", sql="SELECT count(*) FROM orders")], warn=["n != 3"]
    ).look(10)
    assert count.verdict is Verdict.OK


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"user": "watch"}, "auth"),
        ({"user": "nobody-here", "host": ""}, "auth"),
        ({"database": "nothing", "host": ""}, "auth"),
        ({"port": 1}, "refused"),
        ({"host": "/nowhere"}, "refused"),
    ],
)
async def test_who_is_not_let_in_is_told_why_and_no_secret(
    server: Server, tmp_path: Path, said: dict[str, Any], reason: str
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("swordfish-17")
    wrong.chmod(0o600)
    where = {"host": "127.0.0.1", "password_file": str(wrong), **said}
    if where["host"] == "":
        where["host"] = str(server.place)
    with pytest.raises(Failed) as raised:
        await check(server, **where).look(10)
    assert (raised.value.verdict, raised.value.reason) == (Verdict.CRITICAL, reason)
    assert "swordfish" not in raised.value.detail
    assert raised.value.__cause__ is None
    assert numbers(raised.value)["pg_up",] == 0


async def test_a_server_that_says_nothing_is_not_waited_for() -> None:
    writers: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    async with silent:
        looking = Postgres(
            Options(host="127.0.0.1", port=silent.sockets[0].getsockname()[1]), About("x", 30, 10)
        )
        with pytest.raises(Failed, match="connecting: got no answer within") as raised:
            await looking.look(0.2)
        for writer in writers:
            writer.close()
            await writer.wait_closed()
    assert raised.value.reason == "timeout"


async def test_a_standby_says_how_far_it_is_behind_and_its_primary_too(
    server: Server, standby: Server
) -> None:
    found = numbers(await check(standby, fail=["is_replica == 0"]).look(10))
    assert found["pg_replication_is_replica",] == 1
    assert found["pg_replication_lag_seconds",] >= 0
    async with asyncio.timeout(20):
        while True:
            outcome = await check(server, fail=["standbys < 1"]).look(10)
            if ("pg_stat_replication_pg_wal_lsn_diff", "standby", "streaming") in numbers(outcome):
                break
            await asyncio.sleep(0.1)
    assert outcome.verdict is Verdict.OK
    assert numbers(outcome)["watchbill_check_pg_standbys",] == 1


@pytest.mark.parametrize(
    ("line", "key", "wanted"),
    [
        ('password_file = "secret"', "password_file", "an absolute path"),
        ('ca_file = "/a"', "sslmode", '"verify-full" or "verify-ca" with ca_file'),
        ('warn = ["connection > 5"]', "warn", "one of its numbers: connect_seconds"),
        ('[[check.query]]\nname = "pg_x"\nsql = "SELECT 1"', "query[0].name", "no name of ours"),
        ('[[check.query]]\nname = "x"\nsql = " "', "query[0].sql", "a statement"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, line: str, key: str, wanted: str) -> None:
    (tmp_path / "checks.toml").write_text(f'[[check]]\nname = "x"\nkind = "postgres"\n{line}\n')
    with pytest.raises(ConfigError) as raised:
        read_checks(Trees(tmp_path))
    (problem,) = raised.value.problems
    assert problem.key == f"check[0].{key}"
    assert wanted in problem.wanted
