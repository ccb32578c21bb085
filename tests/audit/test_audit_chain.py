"""The chain of the audit: what a change of its rows looks like, on real rows and on both databases."""

import dataclasses
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from watchbill.clock import ManualClock
from watchbill.errors import Refused, StorageError
from watchbill_collector.audit import Audit, ChainCheck, Entry, Head, Origin, Row, Witnesses, on_behalf
from watchbill_collector.audit.changes import DIFF_BYTES_MAX, changes
from watchbill_collector.store import Store
from watchbill_collector.store import audit as rows
from watchbill_collector.store.audit import genesis, row_hash
from watchbill_collector.store.migrate import migrate


def chain(count: int) -> list[Row]:
    made: list[Row] = []
    before = genesis("main")
    for seq in range(1, count + 1):
        row = Row(
            seq=seq, site="main", at_ms=seq, boottime_ms=seq, actor="a", source="", action="x", target=str(seq),
            outcome="done", request="", detail="{}", prev_hash=before, hash=b"",
        )  # fmt: skip
        before = row_hash(row)
        made.append(dataclasses.replace(row, hash=before))
    return made


def found(rows_: list[Row]) -> list[tuple[str, int, int]]:
    check = ChainCheck("main")
    check.read(rows_)
    return [(one.fault.value, one.seq, one.to) for one in check.verdict().findings]


def edited(row: Row, *, mend: bool = False) -> Row:
    row = dataclasses.replace(row, target="evil")
    return dataclasses.replace(row, hash=row_hash(row)) if mend else row


def at(row: Row, seq: int) -> Row:
    return dataclasses.replace(row, seq=seq)


GOOD = chain(20)
Tamper = Callable[[list[Row]], list[Row]]


@pytest.mark.parametrize(
    ("tamper", "faults"),
    [
        (lambda c: c, []),
        (lambda c: [edited(r) if r.seq == 7 else r for r in c], [("edited", 7, 7)]),
        (lambda c: [edited(r) if r.seq in (1, 20) else r for r in c], [("edited", 1, 1), ("edited", 20, 20)]),
        (lambda c: [edited(r, mend=True) if r.seq == 7 else r for r in c], [("replaced", 7, 7)]),
        (lambda c: [r for r in c if r.seq not in (7, 8)], [("removed", 7, 8)]),
        (lambda c: c[1:], [("removed", 1, 1)]),
        (lambda c: c[:7] + [at(r, r.seq - 1) for r in c[8:]], [("removed", 8, 8)]),
        (lambda c: [*c[:6], at(c[7], 7), at(c[6], 8), *c[8:]], [("reordered", 7, 7), ("reordered", 8, 8)]),
        (
            lambda c: [*c[:6], at(c[10], 7), *c[7:10], at(c[6], 11), *c[11:]],
            [("reordered", 7, 7), ("reordered", 11, 11)],
        ),
        (lambda c: [*c[:7], edited(at(c[3], 8)), *(at(r, r.seq + 1) for r in c[7:])], [("inserted", 8, 8)]),
        (lambda c: c[:10], []),  # A tail that was cut off: only a witness knows.
    ],
)
def test_what_was_done_to_rows_is_named(tamper: Tamper, faults: list[tuple[str, int, int]]) -> None:
    assert found(tamper(GOOD)) == faults


@pytest.mark.parametrize(
    "name",
    [field.name for field in dataclasses.fields(Row) if field.name not in ("seq", "prev_hash", "hash")],
)
def test_every_field_is_covered(name: str) -> None:
    row = GOOD[4]
    value = getattr(row, name)
    other = dataclasses.replace(row, **{name: value + 1 if isinstance(value, int) else value + "x"})
    assert found([*GOOD[:4], other, *GOOD[5:]]) == [("edited", 5, 5)]


# ---------------------------------------------------------------- in a store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path, "main") as made:
        yield made


def test_rows_are_chained_and_the_head_is_the_newest_committed_one(store: Store) -> None:
    audit = Audit(store, ManualClock())
    assert audit.head() is None
    for number in range(5):
        audit.record(None, "ops", "host.retire", f"web{number}", "done", {"reason": "old"})
    verdict = audit.check()
    assert verdict.whole
    assert audit.head() == Head(5, verdict.hash)
    assert [row.seq for row in audit.after(0, 10)] == [1, 2, 3, 4, 5]


def test_a_row_is_there_exactly_when_its_change_is(store: Store) -> None:
    audit = Audit(store, ManualClock())

    def work(connection: sa.Connection) -> None:
        audit.record(connection, "ops", "a", "b", "done")
        raise Refused("no")

    with pytest.raises(Refused):
        store.write_blocking(work)
    assert audit.head() is None
    audit.record(None, "ops", "a", "b", "done")
    assert audit.check().rows == 1
    assert audit.check().whole, "the head of what was rolled back is forgotten"


def test_two_rows_of_one_transaction_follow_each_other(store: Store) -> None:
    audit = Audit(store, ManualClock())

    def work(connection: sa.Connection) -> None:
        audit.record(connection, "ops", "a", "1", "done")
        audit.record(connection, "ops", "a", "2", "done")

    store.write_blocking(work)
    assert audit.check().whole
    head = audit.head()
    assert head is not None
    assert head.seq == 2


def test_a_row_carries_the_request_on_whose_behalf_it_was_written(store: Store) -> None:
    audit = Audit(store, ManualClock())
    with on_behalf(Origin("192.0.2.1", "abc")) as asked:
        audit.record(None, "ops", "a", "b", "done")
    assert asked.rows == 1
    audit.record(None, "ops", "a", "b", "done")
    first, second = audit.after(0, 10)
    assert (first.source, first.request) == ("192.0.2.1", "abc")
    assert (second.source, second.request) == ("", "")


def test_long_and_hostile_details_are_kept_short(store: Store) -> None:
    audit = Audit(store, ManualClock())
    audit.record(None, "a\nb", "x" * 500, "\x1b[31m" + "y" * 5000, "refused", {"long": "z" * 1_000_000})
    (row,) = audit.after(0, 10)
    assert row.actor == "a?b"
    assert row.target.isprintable()
    assert len(row.detail) < 200
    assert audit.check().whole


def test_an_edited_row_is_named_after_the_trigger_was_removed(tmp_path: Path) -> None:
    with Store.open(tmp_path, "main") as store:
        audit = Audit(store, ManualClock())
        for number in range(9):
            audit.record(None, "ops", "host.retire", f"web{number}", "done")
        with pytest.raises(StorageError, match="append-only"):
            store.write_blocking(lambda c: c.execute(sa.text("UPDATE audit SET actor = 'x' WHERE seq = 4")))
        with pytest.raises(StorageError, match="append-only"):
            store.write_blocking(lambda c: c.execute(sa.text("DELETE FROM audit WHERE seq = 4")))
    other = sqlite3.connect(tmp_path / "control.db")
    other.execute("DROP TRIGGER audit_no_update")
    other.execute("UPDATE audit SET actor = 'nobody' WHERE seq = 4")
    other.commit()
    other.close()
    with Store.open(tmp_path, "main") as store:
        (finding,) = Audit(store, ManualClock()).check().findings
    assert (finding.fault.value, finding.seq) == ("edited", 4)
    assert "nobody" in finding.detail


def test_what_an_older_version_recorded_is_moved_into_the_chain(tmp_path: Path) -> None:
    from watchbill_collector.store.database import locate

    Store.open(tmp_path, "main").close()
    file = sqlite3.connect(tmp_path / "control.db")
    # As version 0001 left it.
    file.executescript(
        "DROP TABLE audit; DROP TABLE audit_checkpoints; DROP TABLE silences;"
        "DROP TABLE notice_threads; DROP TABLE notices;"
        "ALTER TABLE bearer_tokens DROP COLUMN name; ALTER TABLE bearer_tokens DROP COLUMN used_ms;"
        "ALTER TABLE presence DROP COLUMN left_reason; ALTER TABLE presence DROP COLUMN back_by_ms;"
        "ALTER TABLE hosts DROP COLUMN certificate_lifetime_ms; ALTER TABLE hosts DROP COLUMN expired_grace_ms;"
        "ALTER TABLE enrolments DROP COLUMN certificate_lifetime_ms;"
        "ALTER TABLE enrolments DROP COLUMN expired_grace_ms;"
        "ALTER TABLE presence DROP COLUMN beat_interval_ms; DROP TRIGGER crit_records_no_update;"
        "DROP TABLE backup_definitions; DROP TABLE backup_jobs; DROP TABLE backup_records; DROP TABLE backup_hosts;"
        "DROP TABLE backup_changes; DROP TABLE backup_pauses; DROP TABLE backup_reviews; DROP TABLE backup_exemptions;"
        "DROP TABLE run_journal; DROP TABLE runs; DROP TABLE run_votes; DROP TABLE drills; DROP TABLE runbook_texts;"
        "DROP TABLE runbook_acceptances; DROP TABLE runbook_preflights; DROP TABLE action_inventories;"
        "DROP TABLE rosters; DROP TABLE roster_heard; DROP TABLE automation; DROP TABLE check_changes;"
        "CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, site TEXT, at_ms INT, boottime_ms INT,"
        " actor TEXT, source TEXT, verb TEXT, object TEXT, outcome TEXT, detail TEXT, prev_hash BLOB, hash BLOB);"
        "INSERT INTO events VALUES (3,'main',1,1,'init','','user.add','admin','ok','{}',NULL,NULL);"
        "INSERT INTO events VALUES (8,'main',2,2,'host','192.0.2.1','host.enrol','w','expired','{\"a\":1}',NULL,NULL);"
        "UPDATE alembic_version SET version_num = '0001';"
    )
    file.close()
    migrate(locate(tmp_path))
    with Store.open(tmp_path, "main") as store:
        audit = Audit(store, ManualClock())
        first, second = audit.after(0, 10)
        assert (first.seq, first.action, first.outcome) == (1, "user.add", "done")
        assert (second.seq, second.outcome, second.detail) == (2, "refused", '{"a":1,"reason":"expired"}')
        audit.record(None, "ops", "a", "b", "done")
        assert audit.check().whole


# ---------------------------------------------------------------- witnesses


def test_a_witness_agrees_while_the_chain_holds_what_it_was_told_and_never_again_after_it_did_not() -> None:
    told = {seq: row.hash for seq, row in enumerate(GOOD, 1)}
    stored = dict(told)
    witnesses = Witnesses(lambda numbers: {seq: stored[seq] for seq in numbers if seq in stored})
    assert witnesses.judge("a", 1) is None
    assert witnesses.hear("a", [Head(5, told[5]), Head(20, told[20])])
    first = witnesses.judge("a", 1)
    assert first is not None
    assert (first.agreed, first.seq) == (True, 20)
    del stored[20]  # Rolled back.
    second = witnesses.judge("a", 2)
    assert second is not None
    assert (second.agreed, second.disputed) == (False, Head(20, told[20]))
    stored[20] = told[20]
    third = witnesses.judge("a", 3)
    assert third is not None
    assert not third.agreed
    assert witnesses.disagreeing == 1


@pytest.mark.parametrize(
    "head", [Head(0, bytes(32)), Head(2**63, bytes(32)), Head(1, b"short"), Head(1, bytes(33))]
)
def test_a_head_that_cannot_be_is_counted_and_not_heard(head: Head) -> None:
    witnesses = Witnesses(lambda _: {})
    assert not witnesses.hear("a", [head])
    assert witnesses.malformed == 1


# ---------------------------------------------------------------- what a reload changed


def test_a_reload_is_told_as_a_difference() -> None:
    before = {"a.yml": "one\ntwo\n", "gone.yml": "x\n", "same.yml": "s\n"}
    after = {"a.yml": "one\n2\n", "new.yml": "y\n", "same.yml": "s\n"}
    told = {one.file: one for one in changes(before, after)}
    assert {name: one.what for name, one in told.items()} == {
        "a.yml": "changed",
        "gone.yml": "removed",
        "new.yml": "added",
    }
    assert "-two\n+2\n" in str(told["a.yml"].detail["diff"])
    (big,) = changes({}, {"big": "line\n" * 15_000})
    assert len(str(big.detail["diff"])) <= DIFF_BYTES_MAX
    assert big.detail["diff_left_out_characters"]


def test_an_entry_says_what_its_fields_mean() -> None:
    entry = Entry(actor="ops", action="host.retire", target="web1")
    assert entry.outcome == "done"
    assert rows.content_hash(bytes(32), {"a": 1}) == rows.content_hash(bytes(32), {"a": 1})
