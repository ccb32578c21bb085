"""One database, two kinds: SQLite beside the daemon, or a PostgreSQL somebody runs.

SQLite: WAL, `synchronous=FULL` (a commit that returned is on the disk), every write transaction begun with
BEGIN IMMEDIATE (one that begins reading and then writes would fail at once when another writer was
quicker, and no timeout helps). PostgreSQL: its own defaults are as strict. Both: one writing connection;
nobody else may be the collector of this store while we are, by a lock that dies with the process.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.pool import NullPool, QueuePool

from watchbill.errors import ConfigError, Problem, Refused, StorageError
from watchbill.files import PRIVATE_FILE, Lock, make_directory

DATABASE_FILE: Final = "control.db"
LOCK_FILE: Final = "control.lock"
BUSY_TIMEOUT_MS: Final = 5_000
CONNECT_TIMEOUT_S: Final = 10
READERS_MAX: Final = 4
QUICK_CHECK_BYTES_MAX: Final = 1 << 30
"""A larger SQLite file is not checked at every start: a check reads it whole."""

_ADVISORY_LOCK: Final = 0x57_61_74_63_68  # "Watch"


@dataclass(frozen=True, slots=True)
class Database:
    """Where the control state is: a URL SQLAlchemy understands, and the SQLite file if it is one."""

    url: sa.URL
    file: Path | None

    @property
    def shown(self) -> str:
        """For people: no password."""
        return str(self.file) if self.file else self.url.render_as_string(hide_password=True)


def locate(directory: Path, url: str = "", password: str = "") -> Database:
    """The database of a state directory: SQLite in it, unless `url` names a PostgreSQL. Raises
    ConfigError.
    """
    if not url:
        file = directory / DATABASE_FILE
        return Database(sa.URL.create("sqlite+pysqlite", database=str(file)), file)
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() != "postgresql":
        raise ConfigError(
            [Problem("collector.toml", 0, "store.url", "something else", "postgresql://USER@HOST/DATABASE")]
        )
    parsed = parsed.set(drivername="postgresql+psycopg")
    return Database(parsed.set(password=password) if password else parsed, None)


class Held:
    """The right to be the only collector of a store; `release` gives it back."""

    def __init__(self, database: Database) -> None:
        self._lock: Lock | None = None
        if database.file is not None:
            make_directory(database.file.parent)
            self._lock = Lock(database.file.parent / LOCK_FILE)
            # Made before SQLite would make it, which goes by the umask; its side files take the same mode.
            database.file.touch(PRIVATE_FILE)

    def release(self) -> None:
        """Let the next one in."""
        if self._lock is not None:
            self._lock.release()


def writer_engine(database: Database, exclusive: bool = True) -> sa.Engine:
    """The engine of the one writer. With `exclusive`, a PostgreSQL connection takes the advisory lock
    first.
    """
    engine = sa.create_engine(
        database.url,
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
        pool_pre_ping=database.file is None,
        hide_parameters=True,  # An exception must not carry a hash or a label into a log.
        connect_args=_connect_args(database),
    )
    if database.file is not None:
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_immediate)
    elif exclusive:
        event.listen(engine, "connect", _take_advisory_lock)
    return engine


def reader_engine(database: Database) -> sa.Engine:
    """Connections that cannot write."""
    engine = sa.create_engine(
        database.url,
        poolclass=QueuePool if database.file is None else NullPool,
        hide_parameters=True,
        connect_args=_connect_args(database),
        **(
            {"pool_size": READERS_MAX, "max_overflow": 0, "pool_pre_ping": True}
            if database.file is None
            else {}
        ),
    )
    if database.file is not None:
        event.listen(engine, "connect", _prepare_sqlite_reader)
    else:
        event.listen(engine, "connect", _prepare_postgresql_reader)
    return engine


def _connect_args(database: Database) -> dict[str, Any]:
    if database.file is not None:
        return {"timeout": BUSY_TIMEOUT_MS / 1000}
    return {"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "watchbill-collector"}


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # We begin our transactions ourselves.
    mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal":  # The pragma does not fail; it answers with the mode that stayed.
        raise StorageError(
            f"SQLite cannot use its write-ahead log here (journal mode {mode}): not a local disk?"
        )
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _prepare_sqlite_reader(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA query_only=ON")


def _begin_immediate(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _take_advisory_lock(connection: Any, _record: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", (_ADVISORY_LOCK,))
        taken = cursor.fetchone()[0]
    connection.commit()
    if not taken:
        raise Refused("the PostgreSQL store is held by another collector: two of us must not share one store")


def _prepare_postgresql_reader(connection: Any, _record: object) -> None:
    connection.read_only = True


@contextlib.contextmanager
def mapped_errors(database: Database, attempted: str) -> Iterator[None]:
    """Turn what the driver raises into StorageError: what was attempted, on what, and the driver's own
    first line.
    """
    try:
        yield
    except sa.exc.SQLAlchemyError as exc:
        said = str(exc.orig if isinstance(exc, sa.exc.DBAPIError) and exc.orig is not None else exc)
        raise StorageError(
            f"{database.shown}: could not {attempted}: {said.strip().splitlines()[0]}"
        ) from exc


def check_file(database: Database, writer: sa.Engine) -> None:
    """Ask SQLite whether its file is whole. Raises StorageError. PostgreSQL looks after itself.

    The writer's connection stays open from here on: with the last one that closes SQLite removes its log, and on a full
    disk somebody else takes the room that was set aside in it.
    """
    if database.file is None or not database.file.exists():
        return
    if database.file.stat().st_size > QUICK_CHECK_BYTES_MAX:
        return
    with mapped_errors(database, "check the file"), writer.connect() as connection:
        said = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
    if said != "ok":
        raise StorageError(f"{database.shown} is damaged ({said}): restore it from a backup")
