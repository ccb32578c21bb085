"""What the store promises, the same on SQLite and PostgreSQL."""

import threading
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import watchbill_collector.store
from watchbill.clock import ManualClock
from watchbill.errors import Refused, StorageError
from watchbill_collector.store import Store, audit, new
from watchbill_collector.store.audit import Entry
from watchbill_collector.store.database import locate, writer_engine
from watchbill_collector.store.migrate import migrate_by_steps
from watchbill_collector.store.schema import AUDIT, FACTS, HOSTS, METADATA, REVISION

HOST = {
    "site": "main",
    "state": "active",
    "labels": "{}",
    "ephemeral": False,
    "public_key": b"",
    "envelope_key": b"",
    "hostname": "h",
    "agent_version": "0",
    "address": "",
    "enrolled_ms": 1,
    "changed_ms": 1,
    "reason": "",
}
ENTRY = Entry(actor="a", action="test", target="o")


def _add(connection: sa.Connection) -> None:
    audit.append(connection, "main", ManualClock(), ENTRY)


def _count(connection: sa.Connection) -> int:
    return connection.execute(sa.select(sa.func.count()).select_from(AUDIT)).scalar_one()


def test_what_was_written_is_there_after_opening_again(place: Any) -> None:
    first = place.open()
    first.write_blocking(_add)
    first.close()
    assert place.open().read(_count) == 1


def test_a_write_that_raises_leaves_nothing(store: Store) -> None:
    def work(connection: sa.Connection) -> None:
        _add(connection)
        raise Refused("no")

    with pytest.raises(Refused):
        store.write_blocking(work)
    assert store.read(_count) == 0


def test_writes_are_done_in_order_and_memory_changes_only_after_the_commit(store: Store) -> None:
    seen: list[tuple[int, int]] = []

    def remember(number: int) -> None:
        seen.append((number, store.read(_count)))

    def work(connection: sa.Connection) -> int:
        _add(connection)
        return _count(connection)

    futures = [store.submit(work, remember) for _ in range(20)]
    assert [one.result(10) for one in futures] == list(range(1, 21))
    assert seen == [(n, n) for n in range(1, 21)]


def test_writes_from_many_threads_all_arrive(store: Store) -> None:
    def write_ten() -> None:
        for _ in range(10):
            store.write_blocking(_add)

    threads = [threading.Thread(target=write_ten) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.read(_count) == 80


async def test_a_write_is_awaited_without_holding_up_the_loop(store: Store) -> None:
    await store.write(_add)
    assert store.read(_count) == 1


def test_readers_cannot_write(store: Store) -> None:
    with pytest.raises(StorageError):
        store.read(_add)


def test_rows_of_the_audit_can_only_be_added(store: Store) -> None:
    store.write_blocking(_add)
    with pytest.raises(StorageError, match="append-only"):
        store.write_blocking(lambda c: c.execute(AUDIT.update().values(actor="b")))
    with pytest.raises(StorageError, match="append-only"):
        store.write_blocking(lambda c: c.execute(AUDIT.delete()))
    assert store.read(_count) == 1


def test_two_live_hosts_cannot_have_one_name_and_a_dead_one_frees_it(store: Store) -> None:
    def add(agent_id: str, state: str) -> None:
        values = HOST | {"agent_id": agent_id, "state": state, "instance": "Web", "instance_key": "web"}
        store.write_blocking(lambda c: c.execute(HOSTS.insert().values(**values)))

    add("a", "active")
    add("b", "retired")
    add("c", "revoked")
    with pytest.raises(StorageError):
        add("d", "pending")


def test_a_second_collector_on_the_same_store_is_refused(place: Any) -> None:
    first = place.open()
    with pytest.raises(Refused, match="two of us must not share"):
        place.open()
    first.close()
    place.open()


def test_a_store_belongs_to_one_site(place: Any) -> None:
    place.open().close()
    with pytest.raises(Refused, match='belongs to site "main"'):
        place.open("other")


def test_a_newer_schema_is_refused(place: Any) -> None:
    first = place.open()
    first.write_blocking(lambda c: c.execute(sa.text("UPDATE alembic_version SET version_num = '9999'")))
    first.close()
    with pytest.raises(StorageError, match="newer Watchbill"):
        place.open()


def test_a_store_with_our_tables_and_no_version_is_refused(place: Any) -> None:
    first = place.open()
    first.write_blocking(lambda c: c.execute(sa.text("DROP TABLE alembic_version")))
    first.close()
    with pytest.raises(StorageError, match="no version"):
        place.open()


def test_the_migrations_make_exactly_the_tables_the_code_uses(store: Store) -> None:
    def differences(connection: sa.Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, METADATA))

    assert store.read(differences) == []
    assert (
        store.read(lambda c: c.execute(sa.text("SELECT version_num FROM alembic_version")).scalar())
        == REVISION
    )


def test_a_new_sqlite_store_is_what_all_migrations_together_make(tmp_path: Path) -> None:
    """When this fails, a migration is new: run scripts/new_store.py."""
    stepped = locate(tmp_path / "stepped")
    (tmp_path / "stepped").mkdir()
    migrate_by_steps(stepped)
    assert stepped.file is not None
    assert new.written(stepped.file) == new.FILE.read_text()
    with writer_engine(stepped).connect() as connection:
        rows = {
            name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar()
            for name, table in METADATA.tables.items()
        }
    assert not any(rows.values()), "what a migration writes into an empty store would be missing"
    Store.open(tmp_path / "made", "main").close()
    assert new.written(tmp_path / "made" / "control.db") == new.FILE.read_text()


def test_every_row_of_every_table_says_its_site() -> None:
    assert [table.name for table in METADATA.sorted_tables if "site" not in table.c] == []


def test_an_empty_database_is_migrated_when_it_is_opened(empty_place: Any) -> None:
    store = empty_place.open()
    assert store.read(lambda c: c.execute(sa.select(FACTS.c.value)).scalar()) == "main"


def test_a_migration_that_breaks_off_leaves_nothing_and_the_next_one_succeeds(empty_place: Any) -> None:
    empty_place.directory.mkdir()
    configuration = alembic.config.Config()
    scripts = Path(watchbill_collector.store.__file__).parent / "migrations"
    configuration.set_main_option("script_location", str(scripts))
    engine = writer_engine(empty_place.database, exclusive=False)

    class KilledError(Exception):
        pass

    def break_off() -> None:
        with engine.begin() as connection:
            configuration.attributes["connection"] = connection
            alembic.command.upgrade(configuration, "head")
            raise KilledError

    with pytest.raises(KilledError):
        break_off()
    with engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == []
    engine.dispose()
    migrate_by_steps(empty_place.database)
    assert empty_place.open().read(_count) == 0


def test_a_closed_store_takes_no_work(store: Store) -> None:
    store.close()
    with pytest.raises(StorageError, match="closed"):
        store.submit(_count)


def test_errors_carry_no_parameters(store: Store) -> None:
    secret = "s" * 50
    wrong = HOST | {"agent_id": "a", "instance": secret, "instance_key": None}
    with pytest.raises(StorageError, match="instance_key") as caught:
        store.write_blocking(lambda c: c.execute(HOSTS.insert().values(**wrong)))
    assert secret not in str(caught.value)
