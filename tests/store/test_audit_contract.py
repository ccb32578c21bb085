"""The audit's chain and the users: the same on SQLite and PostgreSQL."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from watchbill.clock import ManualClock
from watchbill.errors import Refused, StorageError, UsageError
from watchbill_collector.audit import Audit, Head
from watchbill_collector.store import Store
from watchbill_collector.store import audit as rows
from watchbill_collector.users import Grant, Role, Users

WRITERS = 8
EACH = 25


def test_rows_that_many_threads_append_at_once_are_one_chain(store: Store) -> None:
    audit = Audit(store, ManualClock())

    def write(writer: int) -> None:
        for number in range(EACH):
            audit.record(None, f"w{writer}", "a.b", str(number), "done", {"ü": "\x00\ud800", "n": number})

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write, range(WRITERS)))
    verdict = audit.check()
    assert verdict.whole
    assert (verdict.rows, audit.head()) == (WRITERS * EACH, Head(WRITERS * EACH, verdict.hash))
    for writer in range(WRITERS):
        own = audit.newest(rows.Filter(actor=f"w{writer}"), 100)
        assert [int(row.target) for row in own] == list(reversed(range(EACH)))


def test_a_second_writer_with_the_same_number_fails_whole(store: Store) -> None:
    audit = Audit(store, ManualClock())
    audit.record(None, "ops", "a.b", "1", "done")

    def collide(connection: sa.Connection) -> None:
        connection.info[rows.HEAD_INFO] = None  # As somebody who has not heard of the newest row.
        audit.record(connection, "ops", "a.b", "2", "done")
        connection.execute(sa.text("INSERT INTO audit SELECT * FROM audit"))

    with pytest.raises(StorageError):
        store.write_blocking(collide)
    audit.record(None, "ops", "a.b", "3", "done")
    assert [row.target for row in audit.after(0, 10)] == ["1", "3"]
    assert audit.check().whole


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit SET actor = 'x' WHERE seq = 2",
        "DELETE FROM audit WHERE seq = 2",
        "UPDATE audit SET seq = 9 WHERE seq = 3",
    ],
)
def test_the_database_refuses_to_change_a_row(store: Store, change: str) -> None:
    audit = Audit(store, ManualClock())
    for number in range(3):
        audit.record(None, "ops", "a.b", str(number), "done")
    with pytest.raises(StorageError, match="append-only"):
        store.write_blocking(lambda c: c.execute(sa.text(change)))
    assert audit.check().whole


def test_emptying_the_table_is_refused_in_the_words_of_each_database(store: Store) -> None:
    words = "DELETE FROM audit" if store.database.url.get_backend_name() == "sqlite" else "TRUNCATE audit"
    Audit(store, ManualClock()).record(None, "ops", "a.b", "1", "done")
    with pytest.raises(StorageError, match="append-only"):
        store.write_blocking(lambda c: c.execute(sa.text(words)))


def test_what_somebody_changed_after_removing_the_triggers_is_named(store: Store) -> None:
    audit = Audit(store, ManualClock())
    for number in range(6):
        audit.record(None, "ops", "a.b", str(number), "done")

    def work(connection: sa.Connection) -> None:
        if store.database.url.get_backend_name() == "sqlite":
            for word in ("update", "delete"):
                connection.execute(sa.text(f"DROP TRIGGER audit_no_{word}"))
        else:
            connection.execute(sa.text("DROP TRIGGER audit_no_change ON audit"))
        connection.execute(sa.text("UPDATE audit SET target = 'evil' WHERE seq = 3"))
        connection.execute(sa.text("DELETE FROM audit WHERE seq = 5"))

    store.write_blocking(work)
    found = [(one.fault.value, one.seq) for one in audit.check().findings]
    assert found == [("edited", 3), ("removed", 5)]


def test_rows_are_found_by_what_they_say_and_wildcards_are_letters(store: Store) -> None:
    clock = ManualClock()
    audit = Audit(store, clock)
    for action in ("host.retire", "host.revoke", "hostile.x", "ho%t.y", "host"):
        audit.record(None, "ops", action, "web1", "refused" if action == "host" else "done")
        clock.advance(1)

    def found(**wanted: object) -> list[str]:
        return [row.action for row in audit.newest(rows.Filter(**wanted), 10)]  # type: ignore[arg-type]

    assert found(action="host") == ["host", "host.revoke", "host.retire"]
    assert found(action="ho%t") == ["ho%t.y"]
    assert found(action="ho_t") == []
    assert found(outcome="refused") == ["host"]
    assert found(before=3) == ["host.revoke", "host.retire"]
    assert found(actor="' OR 1=1 --") == []


async def test_users_are_kept_with_their_grants_and_every_change_is_in_the_chain(store: Store) -> None:
    clock = ManualClock()
    users = Users(store, clock)
    await users.add("root", [Grant(Role.ADMIN)], actor="test")
    ann = await users.add("Änn", [Grant(Role.OPERATOR, 'team="a"')], actor="root")
    with pytest.raises((Refused, UsageError)):
        await users.add("änn", [Grant(Role.VIEWER)], actor="root")
    made = await asyncio.gather(*(users.new_token(ann.user_id, actor="root") for _ in range(5)))
    again = Users(store, clock)
    assert {again.verify_bearer(token).name for token in made} == {"Änn"}
    await again.disable(ann.user_id, actor="root")
    for token in made:
        with pytest.raises(Refused):
            Users(store, clock).verify_bearer(token)
    audit = Audit(store, clock)
    assert audit.check().whole
    actions = [row.action for row in audit.after(0, 100)]
    assert actions.count("token.add") == 5
    assert (actions[0], actions[-1]) == ("user.add", "user.disable")
    assert not any(token.rpartition(".")[2] in row.detail for token in made for row in audit.after(0, 100))
