"""A real MariaDB and a replica of it: what they say, what queries of one's own say, and what goes wrong."""

import contextlib
import gc
import os
import platform
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from watchbill.errors import ConfigError
from watchbill_agent.checks.check import About, Failed, Outcome, Verdict
from watchbill_agent.checks.config import Trees, read_checks
from watchbill_agent.checks.kinds.mysql import Mysql, Options
from watchbill_agent.checks.own_sql import Query

PASSWORD = "correct horse"
START_S = 30.0
NO_SYNC = Path(f"/usr/lib/{platform.machine()}-linux-gnu/libeatmydata.so")
SMALL = ("--innodb-log-file-size=4M", "--innodb-buffer-pool-size=8M")
"""With both, an installation takes two seconds instead of five."""

pytestmark = pytest.mark.real("mariadbd", "mariadb-install-db", "mariadb")


@dataclass
class Server:
    place: Path
    port: int
    number: int
    template: Path | None = None
    """A directory of data as it was installed."""
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def socket(self) -> Path:
        return self.place / "socket"

    def sql(self, *statements: str) -> None:
        argv = ("mariadb", "--no-defaults", "-S", str(self.socket), "-u", "root", "-e", "; ".join(statements))
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        quiet = subprocess.DEVNULL
        variables = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": str(self.place), "LC_ALL": "C"}
        if NO_SYNC.exists():
            variables["LD_PRELOAD"] = str(NO_SYNC)
        said: dict[str, Any] = {"cwd": self.place, "env": variables, "stdout": quiet, "stderr": quiet}
        if os.geteuid() == 0:
            user = pwd.getpwnam("mysql")
            said |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            shutil.chown(self.place, "mysql", "mysql")
        data = f"--datadir={self.place}/data"
        if self.template is None:
            install = (
                "mariadb-install-db",
                "--no-defaults",
                data,
                "--auth-root-authentication-method=normal",
            )
            subprocess.run(
                (*install, "--skip-test-db", "--skip-name-resolve", *SMALL), check=True, timeout=60, **said
            )
            subprocess.run(("cp", "-a", self.place / "data", self.place / "template"), check=True, timeout=60)
        else:
            subprocess.run(("cp", "-a", self.template, self.place / "data"), check=True, timeout=60)
        argv = ["mariadbd", "--no-defaults", data, f"--socket={self.socket}", f"--port={self.port}"]
        argv += [
            "--bind-address=127.0.0.1",
            "--max-connections=20",
            f"--server-id={self.number}",
            "--log-bin",
        ]
        argv += ["--innodb-flush-log-at-trx-commit=0", "--skip-name-resolve", *SMALL]
        self.process = subprocess.Popen(argv, start_new_session=True, **said)
        until_s = time.monotonic() + START_S
        ping = ("mariadb-admin", "--no-defaults", "-S", str(self.socket), "-u", "root", "ping")
        while subprocess.run(ping, capture_output=True, timeout=10, check=False).returncode:
            assert time.monotonic() < until_s, "it did not start"
            time.sleep(0.05)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def running(number: int, template: Path | None = None) -> Iterator[Server]:
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    found = Server(place, free_port(), number, template)
    try:
        found.start()
        yield found
    finally:
        found.stop()
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(1) as found:
        found.sql(
            f"CREATE USER watch IDENTIFIED BY '{PASSWORD}'",
            "GRANT SLAVE MONITOR ON *.* TO watch",
            "CREATE USER copy IDENTIFIED BY 'copy'",
            "GRANT REPLICATION SLAVE ON *.* TO copy",
            "CREATE DATABASE shop",
            "GRANT ALL ON shop.* TO watch",
            "CREATE TABLE shop.orders (shop varchar(9), age int, price decimal(9,2), made datetime)",
            "INSERT INTO shop.orders VALUES ('a', 90, 1.5, now()), ('a', 30, 2, now()), ('b', 120, 3, now())",
        )
        yield found


@pytest.fixture
def password(tmp_path: Path) -> str:
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    path.chmod(0o600)
    return str(path)


def check(server: Server, password: str, **said: Any) -> Mysql:
    options = {"socket": server.socket, "user": "watch", "password_file": password, **said}
    return Mysql(Options(**options), About("x", 30, 10))


def numbers(outcome: Outcome | Failed) -> dict[tuple[str, ...], float]:
    pairs = zip(outcome.samples.series, outcome.samples.values, strict=True)
    return {(one.name, *dict(one.labels).values()): value for one, value in pairs}


def look_or_not(server: Server, password: str) -> Outcome | None:
    """None where nobody is let in: a replica has its users from the primary."""
    try:
        return check(server, password).look(10)
    except Failed:
        return None


@pytest.mark.parametrize("over_tcp", [False, True])
def test_it_says_how_it_is(server: Server, password: str, over_tcp: bool) -> None:
    where = {"host": "127.0.0.1", "port": server.port} if over_tcp else {}
    outcome = check(server, password, **where).look(10)
    assert outcome.verdict is Verdict.OK
    assert outcome.detail.startswith("1 of 20 connections, query 0.0")
    found = numbers(outcome)
    assert found["mysql_up",] == 1
    assert found["mysql_global_status_threads_connected",] == 1
    assert found["mysql_global_variables_max_connections",] == 20
    assert found["mysql_global_variables_read_only",] == 0
    assert found["mysql_global_status_uptime",] >= 0
    assert 0 < found["watchbill_check_database_duration_seconds", "connect"] < 10


def test_queries_of_ones_own_become_series_and_numbers(server: Server, password: str) -> None:
    sql = "SELECT shop, count(*) AS waiting, max(age) AS oldest, sum(price) AS sum FROM orders GROUP BY shop"
    many = (
        "WITH RECURSIVE n AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM n WHERE n < 900) SELECT 'k', n FROM n"
    )
    queries = [
        Query(name="made", sql="SELECT max(made), now(), unix_timestamp() AS unix FROM orders"),
        Query(name="shop", sql=sql),
        Query(name="orders", sql="SELECT count(*) FROM orders"),
        Query(name="many", sql=many),
    ]
    outcome = check(server, password, database="shop", query=queries, fail=["orders > 2"]).look(10)
    assert (outcome.verdict, outcome.detail) == (Verdict.CRITICAL, "orders: got 3, wanted not orders > 2")
    found = numbers(outcome)
    assert found["made_now__",] == pytest.approx(found["made_unix",], abs=2), (
        "whatever the zone of the server"
    )
    assert found["shop_waiting", "a"] == 2
    assert found["shop_oldest", "b"] == 120
    assert found["shop_sum", "a"] == 3.5
    assert found["watchbill_check_query_dropped", "many"] == 100


@pytest.mark.parametrize(
    ("sql", "reason", "said"),
    [
        ("SELECT nothing", "query-failed", r"query q: Unknown column 'nothing' in .* \(1054\)"),
        (
            "DELETE FROM orders",
            "query-failed",
            "query q: Cannot execute statement in a READ ONLY transaction",
        ),
        ("DROP TABLE orders", "query-failed", "query q: Cannot execute statement in a READ ONLY transaction"),
        ("SELECT 1; DROP TABLE orders", "query-failed", "query q: You have an error in your SQL syntax"),
        ("SELECT sleep(60)", "timeout", "query q: "),
    ],
)
def test_a_query_that_fails_says_which_and_changes_nothing(
    server: Server, password: str, sql: str, reason: str, said: str
) -> None:
    looking = check(server, password, database="shop", query=[Query(name="q", sql=sql)])
    with pytest.raises(Failed, match=said) as raised:
        looking.look(0.6 if "sleep" in sql else 10)
    assert (raised.value.verdict, raised.value.reason) == (Verdict.CRITICAL, reason)
    counting = [Query(name="n", sql="SELECT count(*) FROM orders")]
    assert (
        check(server, password, database="shop", query=counting, warn=["n != 3"]).look(10).verdict
        is Verdict.OK
    )


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({}, "auth"),
        ({"user": "nobody-here"}, "auth"),
        ({"host": "127.0.0.1", "port": 1}, "refused"),
        ({"socket": Path("/nowhere/socket")}, "refused"),
        ({"ssl_mode": "required"}, "connect-failed"),
    ],
)
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning"
)  # The library leaves a socket to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_who_is_not_let_in_is_told_why_and_no_secret(
    server: Server, tmp_path: Path, said: dict[str, Any], reason: str
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("swordfish-17")
    wrong.chmod(0o600)
    with pytest.raises(Failed) as raised:
        check(server, str(wrong), **said).look(10)
    gc.collect()
    assert (raised.value.verdict, raised.value.reason) == (Verdict.CRITICAL, reason), raised.value.detail
    assert "swordfish" not in raised.value.detail
    assert raised.value.__cause__ is None
    assert numbers(raised.value)["mysql_up",] == 0


def test_connections_fill_up(server: Server, password: str) -> None:
    import pymysql

    with contextlib.ExitStack() as stack:

        def connect() -> None:
            stack.callback(
                pymysql.connect(
                    unix_socket=str(server.socket), user="watch", password=PASSWORD, ssl_disabled=True
                ).close
            )

        for _ in range(16):
            connect()
        outcome = check(server, password).look(10)
        assert (outcome.verdict, outcome.reason) == (Verdict.WARNING, "over-warn")
        for _ in range(4):
            connect()
        with pytest.raises(Failed, match="Too many connections") as raised:
            check(server, password).look(10)
    assert raised.value.reason == "too-many-connections"


def test_a_server_that_says_nothing_is_not_waited_for(server: Server, password: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:

        def hold() -> None:
            with silent.accept()[0] as held:
                held.recv(1)

        holding = threading.Thread(target=hold)
        holding.start()
        looking = check(server, password, host="127.0.0.1", port=silent.getsockname()[1])
        with pytest.raises(Failed, match="connecting: ") as raised:
            looking.look(0.3)
        holding.join(10)
    assert raised.value.reason == "timeout"


def test_a_replica_says_how_far_it_is_behind_and_that_it_stopped(server: Server, password: str) -> None:
    with running(2, server.place / "template") as replica:
        where = (
            f"master_host='127.0.0.1', master_port={server.port}, master_user='copy', master_password='copy'"
        )
        replica.sql(f"CHANGE MASTER TO {where}, master_use_gtid=no", "START SLAVE")
        until_s = time.monotonic() + START_S
        while (outcome := look_or_not(replica, password)) is None or outcome.verdict is not Verdict.OK:
            assert time.monotonic() < until_s
            time.sleep(0.05)
        assert numbers(outcome)["mysql_slave_status_seconds_behind_master",] >= 0
        assert numbers(outcome)["mysql_slave_status_slave_io_running",] == 1
        replica.sql("STOP SLAVE SQL_THREAD")
        outcome = check(replica, password).look(10)
        assert (outcome.verdict, outcome.reason) == (Verdict.CRITICAL, "replication-stopped")
        assert outcome.detail == "got IO Yes and SQL No, wanted Yes"
        assert check(replica, password, replication=False).look(10).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("line", "key", "wanted"),
    [
        ('password_file = "secret"', "password_file", "an absolute path"),
        ('ca_file = "/a"', "ssl_mode", '"verify" with ca_file'),
        ('warn = ["connection > 5"]', "warn", "one of its numbers: connect_seconds"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, line: str, key: str, wanted: str) -> None:
    (tmp_path / "checks.toml").write_text(f'[[check]]\nname = "x"\nkind = "mysql"\n{line}\n')
    with pytest.raises(ConfigError) as raised:
        read_checks(Trees(tmp_path))
    (problem,) = raised.value.problems
    assert problem.key == f"check[0].{key}"
    assert wanted in problem.wanted
