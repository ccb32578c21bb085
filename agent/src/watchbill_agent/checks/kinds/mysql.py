"""Connects to MySQL or MariaDB and asks it how it is: time to connect and to answer, connections used, replication, and
SQL of one's own that returns numbers.

Queries run in a session that cannot write, with a bound on their time and their rows that the server keeps. Series are
mysqld_exporter's where it has them.

Reasons: `refused`, `auth`, `no-database`, `too-many-connections`, `not-ready`, `connect-failed`, `lost`, `timeout`,
`query-failed`, `replication-stopped`, `over-warn`, `over-fail`; `credential` and `not-installed` where nothing can be
found out.
"""

import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from watchbill.config import Wrong, option
from watchbill_agent.checks.check import About, Failed, Outcome, Samples, Task, Verdict
from watchbill_agent.checks.database import EARLY_S, FAIL_DEFAULT, WARN_DEFAULT, Phases, missing, words_of
from watchbill_agent.checks.own_sql import QUERIES_MAX, ROWS_MAX, Query, number, put_rows
from watchbill_agent.checks.secret import read_secret, secret_wanted
from watchbill_agent.checks.thresholds import LIMITS_MAX, Thresholds, limits_wrong

if TYPE_CHECKING:
    from pymysql.connections import Connection

CHANNELS_MAX: Final = 50
NUMBERS: Final = (
    "connect_seconds",
    "query_seconds",
    "connections",
    "connections_max",
    "connections_used_ratio",
    "threads_running",
    "replication_lag_seconds",
    "uptime_seconds",
)
_STATUS: Final = ("Threads_connected", "Threads_running", "Uptime", "Slow_queries", "Aborted_connects")
_VARIABLES: Final = ("max_connections", "read_only")
_REPLICA: Final = ("SHOW REPLICA STATUS", "SHOW SLAVE STATUS")
"""The newer words first; what is not understood is tried in the older ones."""
_NOT_UNDERSTOOD: Final = 1064
_NOT_ALLOWED: Final = 1227
_REASONS: Final = {
    1040: "too-many-connections",
    1203: "too-many-connections",
    1226: "too-many-connections",
    1044: "auth",
    1045: "auth",
    1130: "auth",
    1698: "auth",
    1049: "no-database",
    1053: "not-ready",
    1969: "timeout",
    3024: "timeout",
    2006: "lost",
    2013: "lost",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where the server is, as whom, and what is too much."""

    host: str = option("", help="A name or an address; empty for the socket.")
    port: int = option(3306, at_least=1, at_most=65_535, help="Its port.")
    socket: Path = option(Path("/run/mysqld/mysqld.sock"), help="Its socket, where no host is said.")
    database: str = option("", help="Which database; none, if empty.")
    user: str = option("watchbill", help="The user.")
    password_file: str = option(
        "", check=secret_wanted, help="Where the password is.", example='"credential:mysql"'
    )
    ssl_mode: Literal["disabled", "preferred", "required", "verify"] = option(
        "preferred",
        help="Whether the connection is encrypted, and the server's certificate and name verified.",
    )
    ca_file: Path | None = option(None, help="What its certificate is verified against.")
    replication: bool = option(True, help="Also ask whether it replicates, and how far it is behind.")
    query: list[Query] = option([], length_max=QUERIES_MAX, help="SQL of your own that returns numbers.")
    warn: list[str] = option(
        list(WARN_DEFAULT),
        length_max=LIMITS_MAX,
        check=limits_wrong,
        help=f"Limits on {', '.join(NUMBERS)}, and on what queries return.",
    )
    fail: list[str] = option(
        list(FAIL_DEFAULT), length_max=LIMITS_MAX, check=limits_wrong, help="Limits that are far too much."
    )

    def check(self) -> tuple[Wrong, ...]:
        """A certificate is verified by something."""
        if self.ca_file is not None and self.ssl_mode != "verify":
            return (Wrong("ssl_mode", f'"{self.ssl_mode}"', '"verify" with ca_file'),)
        return ()


@dataclass(slots=True)
class _Found:
    """What a look has found so far."""

    samples: Samples = field(default_factory=Samples)
    phases: Phases = field(default_factory=Phases)
    numbers: dict[str, float] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    """Channels that do not replicate."""
    connected: bool = False
    at: str = "connecting"
    """What is being done."""


class Mysql(Task):
    """Asks a MySQL or MariaDB server."""

    kind = "mysql"
    options_type = Options
    interval_s = 30.0
    timeout_s = 10.0

    def __init__(self, options: Options, about: About) -> None:
        super().__init__(options, about)
        self._thresholds = Thresholds("mysql", options, None if options.query else NUMBERS)

    def look(self, within_s: float) -> Outcome:
        """Connect, ask, hang up."""
        try:
            import pymysql
        except ImportError as exc:
            raise missing("pymysql") from exc
        options: Options = self.options
        password = read_secret(options.password_file) if options.password_file else ""
        found = _Found()
        try:
            self._ask(found, password, time.monotonic() + within_s - min(EARLY_S, within_s / 10))
        except (pymysql.err.Error, OSError) as exc:
            reason = _reason(exc, found)
            detail = f"{found.at}: {words_of(_Said(exc), password)}"
            raise Failed(reason, detail, samples=self._samples(found, up=False)) from None
        samples, n = self._samples(found, up=True), found.numbers
        if found.stopped:
            return Outcome(Verdict.CRITICAL, "replication-stopped", "; ".join(found.stopped), samples)
        detail = (
            f"{n['connections']:g} of {n['connections_max']:g} connections, query {n['query_seconds']:.3f} s"
        )
        return self._thresholds.judge(n, samples, detail)

    def _samples(self, found: _Found, *, up: bool) -> Samples:
        found.phases.put(found.samples)
        found.samples.gauge("mysql_up", "Whether it answered.", float(up))
        return found.samples

    # ------------------------------------------------------------ asking

    def _ask(self, found: _Found, password: str, until_s: float) -> None:
        import pymysql

        with found.phases.phase("connect"):
            connection = pymysql.connect(**self._where(password, max(0.1, until_s - time.monotonic())))
        found.connected = True
        try:
            self._ask_all(connection, found, until_s)
        finally:
            connection.close()
        found.numbers["connect_seconds"] = found.phases.seconds["connect"]
        found.numbers["query_seconds"] = found.phases.seconds["query"]

    def _where(self, password: str, within_s: float) -> dict[str, Any]:
        options: Options = self.options
        said: dict[str, Any] = {
            "user": options.user,
            "password": password,
            "database": options.database or None,
            "connect_timeout": within_s,
            "read_timeout": within_s,
            "write_timeout": within_s,
            "charset": "utf8mb4",
            "autocommit": False,
            "program_name": "watchbill",
        }
        said |= (
            {"host": options.host, "port": options.port}
            if options.host
            else {"unix_socket": str(options.socket)}
        )
        if options.ssl_mode == "disabled" or (options.ssl_mode == "preferred" and not options.host):
            # Nobody listens in on a socket of this host, and making ready for TLS takes 20 ms of CPU.
            said["ssl_disabled"] = True
        elif options.ssl_mode == "verify":
            said["ssl"] = ssl.create_default_context(cafile=options.ca_file)
        elif options.ssl_mode == "required":
            said["ssl"] = context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return said

    def _ask_all(self, connection: "Connection[Any]", found: _Found, until_s: float) -> None:
        found.at = "SELECT 1"
        with found.phases.phase("query"):
            _rows(connection, "SELECT 1")
        found.at = "asking for its state"
        self._ask_facts(connection, found)
        if self.options.replication:
            self._ask_replication(connection, found)
        if not self.options.query:
            return
        within_s = max(0.1, until_s - time.monotonic())
        maria = "mariadb" in str(connection.get_server_info()).lower()
        limit = (
            f"max_statement_time = {within_s:.3f}"
            if maria
            else f"max_execution_time = {round(within_s * 1000)}"
        )
        _rows(connection, f"SET SESSION {limit}, sql_select_limit = {ROWS_MAX + 1}, time_zone = '+00:00'")
        # Of the session, not of one transaction: a DROP TABLE ends that, and what comes after could write again.
        _rows(connection, "SET SESSION TRANSACTION READ ONLY")
        for query in self.options.query:
            found.at = f"query {query.name}"
            with found.phases.phase("query"):
                columns, rows = _rows(connection, query.sql)
                connection.rollback()
            found.numbers.update(put_rows(query, columns, rows, found.samples))
        found.at = "hanging up"

    def _ask_facts(self, connection: "Connection[Any]", found: _Found) -> None:
        asked = {
            "global_status": ("SHOW GLOBAL STATUS", _STATUS),
            "global_variables": ("SHOW GLOBAL VARIABLES", _VARIABLES),
        }
        said: dict[str, float] = {}
        for series, (statement, names) in asked.items():
            _, rows = _rows(connection, f"{statement} WHERE Variable_name IN %s", (names,))
            given = {str(row[0]).lower(): str(row[1]) for row in rows}
            for name in names:
                value = _value(given.get(name.lower(), ""))
                if value is not None:
                    found.samples.gauge(
                        f"mysql_{series}_{name.lower()}", f"{name}, as the server says.", value
                    )
                    said[name] = value
        found.numbers |= {
            "connections": said.get("Threads_connected", 0),
            "connections_max": said["max_connections"],
        }
        found.numbers["connections_used_ratio"] = said.get("Threads_connected", 0) / max(
            1, said["max_connections"]
        )
        found.numbers["threads_running"] = said.get("Threads_running", 0)
        found.numbers["uptime_seconds"] = said.get("Uptime", 0)

    def _ask_replication(self, connection: "Connection[Any]", found: _Found) -> None:
        columns, rows = _replica_status(connection)
        worst: float | None = None
        for row in rows[:CHANNELS_MAX]:
            said = dict(zip(columns, row, strict=True))
            channel = str(said.get("Channel_Name") or said.get("Connection_name") or "")
            lag_s = _first(said, "Seconds_Behind_Source", "Seconds_Behind_Master")
            running = {
                "slave_io_running": _first(said, "Replica_IO_Running", "Slave_IO_Running"),
                "slave_sql_running": _first(said, "Replica_SQL_Running", "Slave_SQL_Running"),
            }
            for name, value in running.items():
                series = f"mysql_slave_status_{name}"
                found.samples.gauge(series, "Whether it runs.", float(value == "Yes"), channel_name=channel)
            behind_s = number(lag_s)
            if behind_s is not None:
                series = "mysql_slave_status_seconds_behind_master"
                found.samples.gauge(series, "How far it is behind.", behind_s, channel_name=channel)
                worst = max(worst or 0.0, behind_s)
            if any(value != "Yes" for value in running.values()):
                error = str(said.get("Last_SQL_Error") or said.get("Last_IO_Error") or "")
                words = (
                    f"got IO {running['slave_io_running']} and SQL {running['slave_sql_running']}, wanted Yes"
                )
                found.stopped.append(" ".join(filter(None, (channel, words, f"({error})" if error else ""))))
        if worst is not None:
            found.numbers["replication_lag_seconds"] = worst


def _rows(
    connection: "Connection[Any]", sql: str, values: tuple[object, ...] | None = None
) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    """Names of columns, and rows: no more than `sql_select_limit` lets through, where that is set."""
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return [str(column[0]) for column in cursor.description or ()], list(cursor.fetchall())


def _replica_status(connection: "Connection[Any]") -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    """Nothing where it is no replica, or this user may not know."""
    from pymysql.err import MySQLError

    for statement in _REPLICA:
        try:
            return _rows(connection, statement)
        except MySQLError as exc:
            code = exc.args[0] if exc.args else 0
            if code == _NOT_ALLOWED:
                break
            if code != _NOT_UNDERSTOOD:
                raise
    return (), ()


def _first(said: Mapping[str, object], *names: str) -> object:
    return next((said[name] for name in names if name in said), None)


def _value(text: str) -> float | None:
    if text in ("ON", "OFF"):
        return float(text == "ON")
    try:
        return float(text)
    except ValueError:
        return None


class _Said(Exception):
    """What a server says, without the number around it."""

    def __init__(self, error: BaseException) -> None:
        code, *words = error.args or ("",)
        super().__init__(f"{words[0]} ({code})" if words and isinstance(code, int) else str(error))


def _reason(error: BaseException, found: _Found) -> str:
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    said = str(error).lower()
    if "timed out" in said:
        return "timeout"
    if code in _REASONS:
        return _REASONS[code]
    if found.connected:
        return "query-failed"
    refused = "refused" in said or "no such file" in said
    return "refused" if refused else "connect-failed"
