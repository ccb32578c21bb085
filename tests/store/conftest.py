"""A store of each kind: SQLite in a directory, and a real PostgreSQL started for the session."""

import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from watchbill_collector.store import Store
from watchbill_collector.store.database import Database, locate

POSTGRESQL_BIN = Path("/usr/lib/postgresql/15/bin")
SERVER_USER = "postgres"
IN_CI = os.environ.get("CI") == "true"


def _run(*argv: str | Path) -> None:
    # PostgreSQL refuses to run as root; ordinary users run it as themselves.
    user = SERVER_USER if os.geteuid() == 0 else None
    subprocess.run(argv, check=True, capture_output=True, timeout=60, user=user, cwd="/")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL's maintenance database, without its last part."""
    if not (POSTGRESQL_BIN / "initdb").exists():
        reason = "needs postgresql-15, which is not on this machine (scripts/test installs it as root)"
        if IN_CI:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    place = Path(tempfile.mkdtemp(prefix="watchbill-pg-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(place, SERVER_USER, SERVER_USER)
        data = place / "data"
        _run(POSTGRESQL_BIN / "initdb", "-D", data, "-A", "trust", "-U", "watchbill", "--no-sync")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        options = f"-k {place} -p {port} -c listen_addresses=127.0.0.1 -c fsync=off"
        _run(
            POSTGRESQL_BIN / "pg_ctl",
            "-D",
            data,
            "-w",
            "-t",
            "30",
            "-l",
            place / "log",
            "-o",
            options,
            "start",
        )
        try:
            yield f"postgresql://watchbill@127.0.0.1:{port}"
        finally:
            _run(POSTGRESQL_BIN / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _make_database(postgresql: str, name: str, template: str = "template0") -> str:
    with psycopg.connect(f"{postgresql}/postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    return f"{postgresql}/{name}"


@pytest.fixture(scope="session")
def postgresql_template(postgresql: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a database that is migrated: copying it is quicker than migrating each test's own."""
    Store.open(tmp_path_factory.mktemp("state"), "main", _make_database(postgresql, "migrated")).close()
    return "migrated"


@pytest.fixture
def empty_postgresql(postgresql: str) -> Iterator[str]:
    """The URL of an empty database."""
    yield from _database(postgresql, "template0")


@pytest.fixture
def migrated_postgresql(postgresql: str, postgresql_template: str) -> Iterator[str]:
    """The URL of a database with our tables."""
    yield from _database(postgresql, postgresql_template)


def _database(postgresql: str, template: str) -> Iterator[str]:
    name = f"t{uuid.uuid4().hex}"
    yield _make_database(postgresql, name, template)
    with psycopg.connect(f"{postgresql}/postgres", autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file."""
    directory = tmp_path_factory.mktemp("state")
    Store.open(directory, "main").close()
    return directory / "control.db"


@dataclass
class Place:
    """Where a test's store is: the arguments of `Store.open`. `open` opens it, as often as it is called."""

    directory: Path
    url: str
    opened: list[Store] = field(default_factory=list)

    def open(self, site: str = "main") -> Store:
        self.opened.append(Store.open(self.directory, site, self.url))
        return self.opened[-1]

    @property
    def database(self) -> Database:
        return locate(self.directory, self.url)

    def close(self) -> None:
        for store in self.opened:
            store.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A migrated store of each kind; whatever is still open at the end is closed."""
    url = ""
    if request.param == "postgresql":
        url = request.getfixturevalue("migrated_postgresql")
    else:
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path)
    found = Place(tmp_path, url)
    yield found
    found.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """The place of a store that has not been made."""
    url = request.getfixturevalue("empty_postgresql") if request.param == "postgresql" else ""
    found = Place(tmp_path / "state", url)
    yield found
    found.close()


@pytest.fixture
def store(place: Place) -> Store:
    return place.open()
