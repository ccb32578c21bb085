"""Bring a store to this version's schema: `python -m watchbill_collector.store.migrate`, a child of the
daemon.

alembic costs 44 MB of memory that a daemon would never give back, so it runs in a process of its own. The
URL comes on standard input, because it may hold a password.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from watchbill.errors import StorageError
from watchbill_collector.store import new
from watchbill_collector.store.database import Database, mapped_errors, writer_engine
from watchbill_collector.store.schema import METADATA, REVISION

TIMEOUT_S: Final = 600
REQUEST_BYTES_MAX: Final = 64 * 1024
VERSION_TABLE: Final = "alembic_version"


def found_revision(connection: sa.Connection) -> str | None:
    """The schema a database has: None when it is empty. Raises StorageError when its tables are not ours."""
    tables = set(sa.inspect(connection).get_table_names())
    if VERSION_TABLE not in tables:
        strangers = tables & METADATA.tables.keys()
        if strangers:
            raise StorageError(
                f"the store has tables of ours ({', '.join(sorted(strangers))}) but no version"
            )
        return None
    version = sa.table(VERSION_TABLE, sa.column("version_num", sa.String))
    return connection.execute(sa.select(version.c.version_num)).scalar()


def migrate(database: Database) -> None:
    """Upgrade in a child process, and refuse a schema that a newer version made; what is new is made as it is. Raises
    StorageError.
    """
    engine = writer_engine(database, exclusive=False)
    try:
        with mapped_errors(database, "read the schema version"), engine.connect() as connection:
            found = found_revision(connection)
            fresh = found is None and database.file is not None and new.is_empty(connection)
        if fresh:
            with mapped_errors(database, "make it"), engine.begin() as connection:
                new.make(connection)
            return
    finally:
        engine.dispose()
    if found == REVISION:
        return
    if found is not None and found > REVISION:
        raise StorageError(
            f"{database.shown} has schema {found}, this version knows up to {REVISION}: "
            "a newer Watchbill wrote it; install that version, or restore a backup from before"
        )
    migrate_by_steps(database)


def migrate_by_steps(database: Database) -> None:
    """Every migration that is missing, one after the other, in a child process. Raises StorageError."""
    request = {
        "url": database.url.render_as_string(hide_password=False),
        "file": str(database.file) if database.file else None,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-m", "watchbill_collector.store.migrate"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise StorageError(
            f"{database.shown}: migration took more than {TIMEOUT_S} s and was stopped"
        ) from exc
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise StorageError(f"{database.shown}: migration failed: {said[-1] if said else done.returncode}")


def main() -> int:
    """The child: read the request, upgrade to the newest revision, say nothing when it went well."""
    request = json.loads(sys.stdin.read(REQUEST_BYTES_MAX))
    database = Database(sa.make_url(request["url"]), Path(request["file"]) if request["file"] else None)
    import alembic.command
    import alembic.config

    configuration = alembic.config.Config()
    configuration.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    engine = writer_engine(database, exclusive=False)
    try:
        # One transaction for the whole way: it is all there or nothing of it is.
        with mapped_errors(database, "migrate"), engine.begin() as connection:
            configuration.attributes["connection"] = connection
            alembic.command.upgrade(configuration, "head")
    except StorageError as exc:
        print(exc, file=sys.stderr)
        return 1
    finally:
        engine.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main())
