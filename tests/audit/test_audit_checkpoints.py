"""Signed checkpoints: what somebody can do who writes to the database and has not the collector's key."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from watchbill.clock import ManualClock
from watchbill.errors import Refused, StorageError
from watchbill_collector.audit import Audit
from watchbill_collector.pki import AuditKey
from watchbill_collector.store import Store
from watchbill_collector.store import audit as rows
from watchbill_collector.store.audit import genesis, row_hash
from watchbill_collector.store.checkpoints import ROWS_UNSIGNED_MAX, Checkpoint, between, message_of, newest
from watchbill_collector.store.schema import AUDIT, AUDIT_CHECKPOINTS

ROWS = 350
INSERTED = """INSERT INTO audit SELECT 200, site, at_ms, boottime_ms, 'evil', source, action, target, outcome,
 request, detail, prev_hash, hash FROM audit WHERE seq = 5"""


def key(directory: Path, name: str) -> AuditKey:
    (directory / name).mkdir(exist_ok=True)
    return AuditKey.open(directory / name)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with signed rows, and without the triggers: whoever can change rows can take them away."""
    directory = tmp_path_factory.mktemp("signed")
    with Store.open(directory, "main") as store:
        audit = Audit(store, ManualClock(), key(directory, "key"))
        assert audit.begin_signing() is None

        def work(connection: sa.Connection) -> None:
            for number in range(ROWS - 1):
                audit.record(connection, "ops", "host.retire", f"web{number}")
            for table in ("audit", "audit_checkpoints"):
                for word in ("update", "delete"):
                    connection.execute(sa.text(f"DROP TRIGGER {table}_no_{word}"))

        store.write_blocking(work)
        audit.sign()
        assert [one.seq for one in store.read(lambda c: between(c, 0))] == [1, 101, 201, 301, 350]
    return directory


@dataclasses.dataclass
class Place:
    directory: Path
    store: Store

    def audit(self, name: str = "key") -> Audit:
        return Audit(self.store, ManualClock(), key(self.directory, name))

    def sql(self, *statements: str) -> None:
        self.store.write_blocking(lambda c: [c.execute(sa.text(one)) for one in statements] and None)

    def reopen(self) -> None:
        self.store.close()
        self.store = Store.open(self.directory, "main")

    def found(self, name: str = "key") -> list[tuple[str, int, int]]:
        return [(one.fault.value, one.seq, one.to) for one in self.audit(name).check().findings]


@pytest.fixture
def place(template: Path, tmp_path: Path) -> Iterator[Place]:
    (tmp_path / "control.db").write_bytes((template / "control.db").read_bytes())
    (tmp_path / "key").mkdir()
    (tmp_path / "key" / "audit.key").write_bytes((template / "key" / "audit.key").read_bytes())
    (tmp_path / "key" / "audit.key").chmod(0o600)
    made = Place(tmp_path, Store.open(tmp_path, "main"))
    yield made
    made.store.close()


def test_what_was_signed_and_not_touched_is_whole(place: Place) -> None:
    verdict = place.audit().check()
    assert verdict.whole
    assert (verdict.rows, verdict.checkpoints, verdict.signed_seq) == (ROWS, 5, ROWS)


def rewrite(store: Store, first: int, last: int | None = None) -> None:
    """Make rows from `first` on anew, with hashes that fit."""

    def work(connection: sa.Connection) -> None:
        found = rows.rows_from(connection, first - 1, 10_000)
        before = found[0].prev_hash if first > 1 else genesis("main")
        for row in found:
            new = dataclasses.replace(row, actor="nobody", prev_hash=before, hash=b"")
            before = row_hash(new)
            values = {"actor": "nobody", "prev_hash": new.prev_hash, "hash": before}
            connection.execute(AUDIT.update().where(AUDIT.c.seq == row.seq).values(**values))
        if last is not None:
            connection.execute(AUDIT.delete().where(AUDIT.c.seq > last))

    store.write_blocking(work)


@pytest.mark.parametrize(
    ("tamper", "faults"),
    [
        (["UPDATE audit SET actor = 'x' WHERE seq = 101"], [("edited", 101, 101)]),
        (["DELETE FROM audit WHERE seq = 150"], [("removed", 150, 150)]),
        (["DELETE FROM audit WHERE seq BETWEEN 90 AND 210"], [("removed", 90, 210)]),
        (["DELETE FROM audit WHERE seq > 320"], [("cut", 321, 350)]),
        (["DELETE FROM audit WHERE seq > 280"], [("cut", 281, 350)]),
        (
            [
                "UPDATE audit SET seq = -seq - 1 WHERE seq >= 200",
                "UPDATE audit SET seq = -seq WHERE seq < 0",
                INSERTED,
            ],
            [("inserted", 200, 200)],
        ),
        (["DELETE FROM audit_checkpoints WHERE seq = 201"], [("forged", 101, 301)]),
        (["DELETE FROM audit_checkpoints WHERE seq = 1"], [("forged", 0, 101)]),
        (
            ["DELETE FROM audit_checkpoints WHERE seq = 350"],
            [],
        ),  # Rows that nobody has signed yet look so, too.
        (["DELETE FROM audit_checkpoints WHERE seq > 200"], [("unsigned", 102, 350)]),
        (["DELETE FROM audit_checkpoints"], [("unsigned", 1, 350)]),
        (
            ["UPDATE audit_checkpoints SET at_ms = 5 WHERE seq = 301"],
            [("forged", 301, 301)],
        ),
    ],
)
def test_what_was_done_to_signed_rows_is_named(
    place: Place, tamper: list[str], faults: list[tuple[str, int, int]]
) -> None:
    place.sql(*tamper)
    place.reopen()
    assert place.found() == faults


@pytest.mark.parametrize(
    ("first", "last", "faults"),
    [
        (1, None, [("rewritten", 1, 350)]),
        (160, None, [("rewritten", 102, 350)]),
        (160, 240, [("rewritten", 102, 201), ("cut", 241, 350)]),
        (330, None, [("rewritten", 302, 350)]),
    ],
)
def test_a_history_that_was_written_anew_with_hashes_that_fit_is_named(
    place: Place, first: int, last: int | None, faults: list[tuple[str, int, int]]
) -> None:
    rewrite(place.store, first, last)
    place.reopen()
    assert place.found() == faults


def test_a_tail_that_was_cut_off_with_its_checkpoints_is_found_by_who_wrote_it(place: Place) -> None:
    # This process has the head in memory; after a restart only the fleet's word is left (audit.witnesses).
    place.sql("DELETE FROM audit WHERE seq > 301", "DELETE FROM audit_checkpoints WHERE seq > 301")
    assert place.found() == [("cut", 302, 350), ("forged", 350, 350)]
    place.reopen()
    assert place.found() == []


def test_checkpoints_made_with_another_key_are_told_as_one_thing(place: Place) -> None:
    rewrite(place.store, 1)

    def forge(connection: sa.Connection) -> None:
        before: Checkpoint | None = None
        hashes = rows.hashes_of(connection, [1, 101, 201, 301, 350])
        connection.execute(AUDIT_CHECKPOINTS.delete())
        stranger = key(place.directory, "stranger")
        connection.info[rows.SIGNER_INFO] = stranger
        for seq, hash_ in sorted(hashes.items()):
            connection.info[rows.HEAD_INFO] = rows.Head(seq, hash_)
            connection.info[rows.SIGNED_INFO] = before
            before = rows.sign(connection, "main", ManualClock())
        rows.take_head(connection)

    place.store.write_blocking(forge)
    place.reopen()
    (unsigned, finding) = place.audit().check().findings
    assert (finding.fault.value, finding.seq, finding.to) == ("forged", 1, 350)
    assert "5 checkpoints" in finding.detail
    assert unsigned.fault.value == "unsigned"


def test_a_start_finds_that_the_newest_checkpoint_does_not_fit(place: Place) -> None:
    assert place.audit().begin_signing() is None
    place.sql("DELETE FROM audit WHERE seq > 320")
    place.reopen()
    wrong = place.audit().begin_signing()
    assert wrong is not None
    assert wrong.seq == ROWS


def test_a_new_key_is_recorded_and_signs_from_there(place: Place) -> None:
    audit = place.audit("other")
    assert audit.begin_signing() is None
    (row,) = audit.newest(rows.Filter(action="audit.key"), 1)
    assert row.seq == ROWS + 1
    assert audit.unsigned == 0
    assert place.found("other") == [("forged", 1, 350)], "what was signed before, cannot be believed any more"


def test_of_a_hundred_rows_one_is_signed_and_what_is_rolled_back_is_not(tmp_path: Path) -> None:
    with Store.open(tmp_path, "main") as store:
        audit = Audit(store, ManualClock(), key(tmp_path, "key"))

        def work(connection: sa.Connection) -> None:
            for number in range(ROWS_UNSIGNED_MAX):
                audit.record(connection, "ops", "a.b", str(number))
            raise Refused("no")

        with pytest.raises(Refused):
            store.write_blocking(work)
        assert store.audit_signed is None
        for number in range(ROWS_UNSIGNED_MAX + 1):
            audit.record(None, "ops", "a.b", str(number))
        assert store.audit_signed is not None
        assert store.audit_signed.seq == ROWS_UNSIGNED_MAX
        assert audit.unsigned == 1
        assert audit.sign() is not None
        assert audit.sign() is None, "nothing has come since"
        assert audit.check().whole


@pytest.mark.parametrize("field", ["seq", "site", "at_ms", "hash", "before", "key"])
def test_every_field_of_a_checkpoint_is_signed(place: Place, field: str) -> None:
    one = place.store.read(newest)
    assert one is not None
    value = getattr(one, field)
    other: object = value + 1 if isinstance(value, int) else value[::-1]
    assert message_of(dataclasses.replace(one, **{field: other})) != message_of(one)


def test_the_key_is_the_owners_alone(tmp_path: Path) -> None:
    made = key(tmp_path, "key")
    path = tmp_path / "key" / "audit.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert key(tmp_path, "key").public == made.public
    path.chmod(0o644)
    with pytest.raises(Exception, match="wanted 0600"):
        key(tmp_path, "key")


def test_the_database_refuses_to_change_a_checkpoint(tmp_path: Path) -> None:
    with Store.open(tmp_path, "main") as store:
        audit = Audit(store, ManualClock(), key(tmp_path, "key"))
        audit.begin_signing()
        for change in ("UPDATE audit_checkpoints SET at_ms = 1", "DELETE FROM audit_checkpoints"):
            with pytest.raises(StorageError, match="append-only"):
                store.write_blocking(lambda c, change=change: c.execute(sa.text(change)))
