"""What a store does when its file or its disk is not what it should be, and the crit stream's promises."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from watchbill.clock import ManualClock
from watchbill.errors import Busy, ConfigError, Refused, StorageError
from watchbill_collector.store import Store, crit, events
from watchbill_collector.store import hosts as host_rows
from watchbill_collector.store.database import locate
from watchbill_collector.store.hosts import Host, HostState
from watchbill_collector.store.schema import AUDIT, CRIT_RECORDS


@pytest.fixture
def directory(tmp_path: Path, sqlite_template: Path) -> Path:
    """A state directory with a SQLite store in it."""
    (tmp_path / "control.db").write_bytes(sqlite_template.read_bytes())
    return tmp_path


def _event(text: str) -> events.Event:
    return events.Event(verb="test", target=text, actor="test")


def _append(store: Store, text: str) -> None:
    store.write_blocking(lambda c: events.append(c, "main", ManualClock(), _event(text)))


def _count(store: Store) -> int:
    return store.read(lambda c: c.execute(sa.select(sa.func.count()).select_from(AUDIT)).scalar_one())


# ---------------------------------------------------------------- SQLite's file


@pytest.mark.parametrize("damage", ["garbage", "truncated", "flipped", "directory", "text"])
def test_a_damaged_file_is_named_and_not_used(directory: Path, damage: str) -> None:
    file = directory / "control.db"
    content = bytearray(file.read_bytes())
    if damage == "garbage":
        file.write_bytes(os.urandom(8192))
    elif damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        for place in range(4096, len(content), 512):
            content[place] ^= 0xFF
        file.write_bytes(content)
    elif damage == "directory":
        file.unlink()
        file.mkdir()
    else:
        file.write_text("hello\n" * 1000)
    with pytest.raises(StorageError, match=r"control\.db"):
        Store.open(directory, "main")


def test_a_failed_opening_lets_the_next_one_in(directory: Path) -> None:
    good = (directory / "control.db").read_bytes()
    (directory / "control.db").write_bytes(b"x" * 8192)
    with pytest.raises(StorageError):
        Store.open(directory, "main")
    (directory / "control.db").write_bytes(good)
    Store.open(directory, "main").close()


def test_a_file_that_another_program_writes_is_waited_for_and_then_named(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watchbill_collector.store.database.BUSY_TIMEOUT_MS", 50)
    with Store.open(directory, "main") as store:
        other = sqlite3.connect(directory / "control.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="locked"):
            _append(store, "a")
        other.execute("ROLLBACK")
        other.close()
        _append(store, "b")
        assert _count(store) == 1


def test_a_full_disk_refuses_writes_and_loses_nothing_that_was_there(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the reserve were used up: none is set aside, and what an earlier opening set aside is given back.
    monkeypatch.setattr("watchbill_collector.store.set_aside", lambda _: True)
    bare = sqlite3.connect(directory / "control.db")
    bare.execute("VACUUM")
    bare.close()
    with Store.open(directory, "main") as store:
        _append(store, "before")
        pages = store.write_blocking(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar_one())
        store.write_blocking(lambda c: c.exec_driver_sql(f"PRAGMA max_page_count = {pages}").scalar_one())
        said = []
        for _ in range(300):
            try:
                _append(store, "x" * 300)
            except StorageError as exc:
                said.append(str(exc))
        kept = _count(store)
        assert said
        assert all("full" in text for text in said)
        assert kept == 1 + 300 - len(said), "what was not refused is there"
        store.write_blocking(lambda c: c.exec_driver_sql("PRAGMA max_page_count = 1000000").scalar_one())
        _append(store, "after")
        assert _count(store) == kept + 1


KILL = """
import os, signal, sys
from pathlib import Path
from watchbill.clock import ManualClock
from watchbill_collector.store import Store, events
store = Store.open(Path(sys.argv[1]), "main")
for number in range(1000):
    event = events.Event(verb="test", target=str(number), actor="test")
    store.write_blocking(lambda c: events.append(c, "main", ManualClock(), event))
    print(number, flush=True)
    if number == 40:
        def work(connection):
            events.append(connection, "main", ManualClock(), event)
            os.kill(os.getpid(), signal.SIGKILL)
        store.submit(work)
"""


def test_what_was_answered_is_there_after_a_kill_and_what_was_not_is_whole_or_absent(directory: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILL, str(directory)], capture_output=True, timeout=60, check=False
    )
    answered = [int(line) for line in killed.stdout.split()]
    assert answered[-1] == 40
    with Store.open(directory, "main") as store:
        found = {row.target for row in store.read(lambda c: events.recent(c, "main", 1000))}
    assert found == {str(number) for number in answered}


def test_every_sqlite_commit_is_synced(directory: Path) -> None:
    with Store.open(directory, "main") as store:
        settings = [
            store.write_blocking(lambda c, name=name: c.exec_driver_sql(f"PRAGMA {name}").scalar_one())  # type: ignore[misc]
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert settings == ["wal", 2, 1]


def test_too_many_waiting_writes_are_refused_as_busy(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    monkeypatch.setattr("watchbill_collector.store.WRITES_QUEUED_MAX", 2)
    gate, begun = threading.Event(), threading.Event()

    def slow(_: sa.Connection) -> None:
        begun.set()
        gate.wait(10)

    with Store.open(directory, "main") as store:
        futures = [store.submit(slow)]
        assert begun.wait(10)
        futures += [store.submit(slow), store.submit(slow)]
        with pytest.raises(Busy):
            store.submit(slow)
        gate.set()
        for future in futures:
            future.result(10)


# ---------------------------------------------------------------- PostgreSQL's address


@pytest.mark.parametrize("url", ["mysql://x/y", "x", "sqlite:///x", "postgresql", "://"])
def test_other_databases_are_refused_by_name(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match=r"store\.url"):
        locate(tmp_path, url)


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    database = locate(tmp_path, "postgresql://me@127.0.0.1:1/x", "hunter2")
    assert database.url.password == "hunter2"
    assert "hunter2" not in database.shown
    with pytest.raises(StorageError) as caught:
        Store.open(tmp_path, "main", "postgresql://me@127.0.0.1:1/x", "hunter2")
    assert "hunter2" not in str(caught.value)


def test_a_connection_that_was_cut_is_made_again(migrated_postgresql: str, tmp_path: Path) -> None:
    import psycopg

    with Store.open(tmp_path, "main", migrated_postgresql) as store:
        _append(store, "a")
        with psycopg.connect(migrated_postgresql, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        _append(store, "b")
        assert _count(store) == 2
        # The lock came back with the connection.
        with pytest.raises(Refused, match="two of us"):
            Store.open(tmp_path, "main", migrated_postgresql)


# ---------------------------------------------------------------- the crit stream, on both


AGENT = "c83d89b0-e8c7-4a9f-b76b-15dd26a9c425"


def _host() -> Host:
    return Host(
        agent_id=AGENT,
        site="main",
        instance="Web01",
        state=HostState.ACTIVE,
        labels={"rack": "b<12>'; DROP TABLE hosts"},
        ephemeral=False,
        public_key=b"\x00\xff",
        envelope_key=b"",
        hostname="h",
        agent_version="0",
        address="::1",
        enrolled_ms=1,
        changed_ms=2**41,
    )


def _record(seq: int, event: int | None = None) -> crit.CritRecord:
    event_id = (seq if event is None else event).to_bytes(16)
    return crit.CritRecord(seq=seq, event_id=event_id, kind="k", boottime_ms=1, wall_ms=2, payload=b"{}")


def test_a_host_comes_back_as_it_was_written(store: Store) -> None:
    store.write_blocking(lambda c: host_rows.add_host(c, _host()))
    assert store.read(lambda c: host_rows.all_hosts(c, "main")) == [_host()]
    assert store.read(lambda c: host_rows.all_hosts(c, "other")) == []


def test_crit_records_are_kept_once_however_often_they_come(store: Store) -> None:
    store.write_blocking(lambda c: host_rows.add_host(c, _host()))

    def commit(spool: bytes, seq: int, *records: crit.CritRecord, digest: int = 2**64 - 1) -> list[int]:
        mark = crit.CritMark(AGENT, spool, seq, digest)
        return store.write_blocking(lambda c: crit.commit(c, "main", mark, records, 5))

    def kept() -> Any:
        return store.read(
            lambda c: c.execute(sa.select(CRIT_RECORDS.c.seq).order_by(CRIT_RECORDS.c.seq)).scalars().all()
        )

    assert commit(b"a" * 16, 2, _record(1), _record(2)) == [1, 2]
    assert commit(b"a" * 16, 2, _record(1), _record(2)) == []
    assert commit(b"a" * 16, 3, _record(2), _record(3)) == [3]
    assert kept() == [1, 2, 3]
    assert commit(b"b" * 16, 9, _record(9, event=3)) == [], "the same event after a fork of the spool"
    marks = store.read(lambda c: crit.marks(c, "main"))
    assert {(mark.spool_id[:1], mark.seq, mark.digest) for mark in marks} == {
        (b"a", 3, 2**64 - 1),
        (b"b", 9, 2**64 - 1),
    }
    commit(b"a" * 16, 1, digest=1)
    assert (
        max(mark.seq for mark in store.read(lambda c: crit.marks(c, "main")) if mark.spool_id[:1] == b"a")
        == 3
    )


def test_crit_records_and_their_mark_are_written_together_or_not_at_all(store: Store) -> None:
    store.write_blocking(lambda c: host_rows.add_host(c, _host()))

    def work(connection: sa.Connection) -> None:
        crit.commit(connection, "main", crit.CritMark(AGENT, b"a" * 16, 1, 0), [_record(1)], 5)
        raise Refused("crash")

    with pytest.raises(Refused):
        store.write_blocking(work)
    assert store.read(lambda c: crit.marks(c, "main")) == []
    assert store.read(lambda c: c.execute(sa.select(CRIT_RECORDS)).all()) == []


def test_hostile_text_is_stored_short_and_on_one_line(store: Store) -> None:
    hostile = "a\nb\x00c\x1b[31m" + "x" * 10_000
    event = events.Event(
        verb="v", target=hostile, actor=hostile, source=hostile, detail={"said": "\x00\ud800"}
    )
    store.write_blocking(lambda c: events.append(c, "main", ManualClock(), event))
    (row,) = store.read(lambda c: events.recent(c, "main"))
    assert len(row.target) <= 300
    assert row.target.startswith("a?b?c?[31m")
    assert row.target.isprintable()
