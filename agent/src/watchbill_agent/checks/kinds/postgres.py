"""Connects to PostgreSQL and asks it how it is: time to connect and to answer, connections used, replication, and SQL
of one's own that returns numbers.

Everything runs in one transaction that cannot write, and that the server itself ends at the deadline. A role in
pg_monitor sees all; another one sees less and is told so by smaller numbers. Series are postgres_exporter's where it
has them.

Reasons: `refused`, `auth`, `too-many-connections`, `not-ready` (starting up or shutting down), `connect-failed`,
`timeout`, `query-failed`, `over-warn`, `over-fail`; `credential`, `tls-files` and `not-installed` where nothing can be
found out.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from watchbill.config import Wrong, option
from watchbill.files import UnreadableFile, read_bounded
from watchbill_agent.checks.apart import READER
from watchbill_agent.checks.check import About, Failed, Outcome, Probe, Samples, Verdict
from watchbill_agent.checks.database import (
    FAIL_DEFAULT,
    WARN_DEFAULT,
    Phases,
    in_time,
    load,
    own_end,
    words_of,
)
from watchbill_agent.checks.own_sql import QUERIES_MAX, ROWS_MAX, Query, put_rows, text_of
from watchbill_agent.checks.secret import secret_of, secret_wanted
from watchbill_agent.checks.thresholds import LIMITS_MAX, Thresholds, limits_wrong

if TYPE_CHECKING:
    from psycopg import AsyncConnection

APPLICATION: Final = "watchbill"
STANDBYS_MAX: Final = 50
CA_BYTES_MAX: Final = 4 * 1024 * 1024
_COPY: Final = re.compile(r"/proc/self/fd/\d+", re.ASCII)
STATES: Final = (
    "active",
    "idle",
    "idle in transaction",
    "idle in transaction (aborted)",
    "fastpath function call",
    "disabled",
    "unknown",
)
"""Of client connections; those of others are `unknown` to who is not in pg_monitor."""
NUMBERS: Final = (
    "connect_seconds",
    "query_seconds",
    "connections",
    "connections_max",
    "connections_used_ratio",
    "replication_lag_seconds",
    "replication_lag_bytes",
    "standbys",
    "is_replica",
)
_FACTS: Final = """
SELECT pg_is_in_recovery(), current_setting('max_connections')::int,
       current_setting('superuser_reserved_connections')::int,
       CASE WHEN NOT pg_is_in_recovery() THEN 0
            WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
            ELSE extract(epoch FROM now() - pg_last_xact_replay_timestamp()) END::float8"""
_ACTIVITY: Final = """
SELECT coalesce(state, 'unknown'), count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' GROUP BY 1"""
_STANDBYS: Final = """
SELECT application_name, coalesce(state, 'unknown'),
       pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::float8, extract(epoch FROM replay_lag)::float8
FROM pg_stat_replication ORDER BY application_name LIMIT %s"""
_BEHIND: Final = (
    ("replication_lag_bytes", "pg_stat_replication_pg_wal_lsn_diff", "Bytes that a standby is behind."),
    ("replication_lag_seconds", "pg_stat_replication_replay_lag_seconds", "Seconds that it is, by its word."),
)
_SAID: Final = (
    ("too-many-connections", ("too many clients", "too many connections", "connection slots are reserved")),
    ("auth", ("authentication failed", "no pg_hba.conf entry", "no password supplied", "does not exist")),
    ("auth", ("not permitted to log in",)),
    ("not-ready", ("starting up", "shutting down", "not yet accepting", "in recovery mode")),
    ("refused", ("connection refused", "no such file or directory")),
)  # fmt: skip
"""By what a server says before anybody is let in; it gives no code then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where the server is, as whom, and what is too much."""

    host: str = option("/var/run/postgresql", help="A name, an address, or the directory of its socket.")
    port: int = option(5432, at_least=1, at_most=65_535, help="Its port.")
    database: str = option("postgres", help="Which database.")
    user: str = option("", help="The role; empty for that of the agent's user.")
    password_file: str = option(
        "", check=secret_wanted, help="Where the password is.", example='"credential:pg"'
    )
    sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = option(
        "prefer", help="As libpq has it."
    )
    ca_file: Path | None = option(None, help="What its certificate is verified against.")
    replication: bool = option(True, help="Also ask about standbys, and how far a standby is behind.")
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
        if self.ca_file is not None and self.sslmode not in ("verify-ca", "verify-full"):
            return (Wrong("sslmode", f'"{self.sslmode}"', '"verify-full" or "verify-ca" with ca_file'),)
        return ()


@dataclass(slots=True)
class _Found:
    """What a look has found so far."""

    samples: Samples = field(default_factory=Samples)
    phases: Phases = field(default_factory=Phases)
    numbers: dict[str, float] = field(default_factory=dict)
    connected: bool = False
    at: str = "connecting"
    """What is being done."""


class Postgres(Probe):
    """Asks a PostgreSQL server."""

    kind = "postgres"
    options_type = Options
    interval_s = 30.0
    timeout_s = 10.0

    def __init__(self, options: Options, about: About) -> None:
        super().__init__(options, about)
        names = None if options.query else NUMBERS
        self._thresholds = Thresholds("postgres", options, names)

    async def look(self, within_s: float) -> Outcome:
        """Connect, ask, hang up."""
        await load("psycopg")
        import psycopg

        options: Options = self.options
        until_s = own_end(within_s)
        password = await secret_of(options.password_file, until_s) if options.password_file else ""
        authorities = None
        if options.ca_file is not None:
            reading = partial(_authorities, options.ca_file)
            authorities = await READER.read((options.ca_file,), reading, "tls-files", until_s)
        found = _Found()
        try:
            in_good_time = await in_time(self._ask(found, password, authorities, within_s), until_s)
        except psycopg.Error as exc:
            said = _COPY.sub(str(options.ca_file), words_of(exc, password))
            reason = _reason(said) if not found.connected else "query-failed"
            if exc.sqlstate == "57014":  # It was cancelled, by the timeout that we set.
                reason = "timeout"
            raise self._failed(found, reason, f"{found.at}: {said}") from None
        if not in_good_time:
            raise self._failed(found, "timeout", f"{found.at}: got no answer within {within_s:g} s")
        samples = self._samples(found, up=True)
        n = found.numbers
        detail = (
            f"{n['connections']:g} of {n['connections_max']:g} connections, query {n['query_seconds']:.3f} s"
        )
        return self._thresholds.judge(found.numbers, samples, detail)

    def _failed(self, found: _Found, reason: str, detail: str) -> Failed:
        return Failed(reason, detail, verdict=Verdict.CRITICAL, samples=self._samples(found, up=False))

    def _samples(self, found: _Found, *, up: bool) -> Samples:
        found.phases.put(found.samples)
        found.samples.gauge("pg_up", "Whether it answered.", float(up))
        return found.samples

    # ------------------------------------------------------------ asking

    async def _ask(self, found: _Found, password: str, authorities: bytes | None, within_s: float) -> None:
        import psycopg

        with _copied(self.options.ca_file, authorities) as ca_file, found.phases.phase("connect"):
            connection = await psycopg.AsyncConnection.connect(
                **self._where(password, ca_file),
                connect_timeout=max(2, round(within_s) + 1),
                prepare_threshold=None,
            )
        found.connected = True
        try:
            await connection.set_read_only(True)
            await self._ask_all(connection, found, within_s)
        finally:
            await connection.close()
        numbers = found.numbers
        numbers["connect_seconds"] = found.phases.seconds["connect"]
        numbers["query_seconds"] = found.phases.seconds["query"]

    def _where(self, password: str, ca_file: str) -> dict[str, Any]:
        options: Options = self.options
        said = {
            "host": options.host,
            "port": str(options.port),
            "dbname": options.database,
            "user": options.user,
            "password": password,
            "sslmode": options.sslmode,
            "sslrootcert": ca_file,
            "application_name": APPLICATION,
        }
        return {name: value for name, value in said.items() if value}

    async def _ask_all(self, connection: "AsyncConnection[Any]", found: _Found, within_s: float) -> None:
        found.at = "SELECT 1"
        limit_ms = str(max(1, round(within_s * 1000)))
        await connection.execute("SELECT set_config('statement_timeout', %s, true)", (limit_ms,))
        with found.phases.phase("query"):
            await (await connection.execute("SELECT 1")).fetchone()
        found.at = "asking for its state"
        replica = await self._ask_facts(connection, found)
        if self.options.replication and not replica:
            await self._ask_standbys(connection, found)
        for query in self.options.query:
            found.at = f"query {query.name}"
            with found.phases.phase("query"):
                # A cursor of the server's: one statement that reads, and never more rows than are wanted.
                async with connection.cursor(name="watchbill") as cursor:
                    await cursor.execute(query.sql)
                    rows = await cursor.fetchmany(ROWS_MAX + 1)
                    columns = [column.name for column in cursor.description or ()]
            found.numbers.update(put_rows(query, columns, rows, found.samples))
        found.at = "hanging up"

    async def _ask_facts(self, connection: "AsyncConnection[Any]", found: _Found) -> bool:
        row = await (await connection.execute(_FACTS)).fetchone()
        assert row is not None, "it selects constants"
        replica, most, reserved, lag_s = row
        counts = dict.fromkeys(STATES, 0)
        async for state, count in await connection.execute(_ACTIVITY):
            said = text_of(state)
            counts[said if said in counts else "unknown"] += count
        samples, used = found.samples, sum(counts.values())
        for state, count in counts.items():
            samples.gauge("pg_stat_activity_count", "Client connections in this state.", count, state=state)
        samples.gauge("pg_settings_max_connections", "Connections that there can be.", most)
        name = "pg_settings_superuser_reserved_connections"
        samples.gauge(name, "Those of them that only superusers have.", reserved)
        samples.gauge("pg_replication_is_replica", "Whether it is a standby.", float(replica))
        found.numbers |= {"connections": used, "connections_max": most, "is_replica": float(replica)}
        found.numbers["connections_used_ratio"] = used / max(1, most - reserved)
        if replica and lag_s is not None:
            samples.gauge("pg_replication_lag_seconds", "How far this standby is behind.", lag_s)
            found.numbers["replication_lag_seconds"] = lag_s
        return bool(replica)

    async def _ask_standbys(self, connection: "AsyncConnection[Any]", found: _Found) -> None:
        rows = [row async for row in await connection.execute(_STANDBYS, (STANDBYS_MAX,))]
        worst: dict[str, float] = {"standbys": len(rows)}
        seen: set[tuple[str, str]] = set()
        for said_name, said_state, behind_bytes, behind_s in rows:
            name, state = text_of(said_name), text_of(said_state)
            if (name, state) in seen:
                continue
            seen.add((name, state))
            for (number, series, help_), value in zip(_BEHIND, (behind_bytes, behind_s), strict=True):
                if value is not None:
                    found.samples.gauge(series, help_, value, application_name=name, state=state)
                    worst[number] = max(worst.get(number, 0.0), value)
        found.samples.gauge("watchbill_check_pg_standbys", "Standbys that are connected.", len(rows))
        found.numbers.update(worst)


def _authorities(file: Path) -> bytes | None:
    """None for what cannot be read: libpq says why; blocks."""
    try:
        return read_bounded(file, CA_BYTES_MAX)
    except UnreadableFile:
        return None


@contextlib.contextmanager
def _copied(file: Path | None, content: bytes | None) -> Iterator[str]:
    """The name of a copy in memory: libpq reads the file when it connects, in the event loop."""
    if content is None:
        yield str(file or "")
        return
    with open(os.memfd_create("authorities"), "wb") as copy:
        copy.write(content)
        copy.flush()
        yield f"/proc/self/fd/{copy.fileno()}"


def _reason(said: str) -> str:
    lower = said.lower()
    for reason, words in _SAID:
        if any(word in lower for word in words):
            return reason
    return "timeout" if "timeout expired" in lower else "connect-failed"
