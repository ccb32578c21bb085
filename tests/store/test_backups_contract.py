"""Backups in the control state: the same on SQLite and PostgreSQL, also for what strangers send."""

import dataclasses
import zlib
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from watchbill.backups.definition import Copy, Definition
from watchbill.backups.record import (
    BACKUP_DEFINED,
    BACKUP_JOBS,
    BACKUP_RECORD,
    NUMBER_MAX,
    Kind,
    Outcome,
    Record,
    Snapshots,
    Source,
)
from watchbill.backups.schedule import Schedule
from watchbill.clock import ManualClock
from watchbill.errors import StorageError
from watchbill.protocol.frames import Stream
from watchbill_collector.ingest.ports import CritEvent, Mark
from watchbill_collector.ingest.session import RecordRefused
from watchbill_collector.services.backup_intake import NAMES_PER_HOST_MAX, BackupDoor
from watchbill_collector.services.registry import StoreCritSink
from watchbill_collector.store import Store, backup_notes, backups
from watchbill_collector.store import hosts as host_rows
from watchbill_collector.store.backup_notes import ChangeRow, ExemptionRow, PauseRow, ReviewRow
from watchbill_collector.store.hosts import Host, HostState
from watchbill_collector.store.schema import BACKUP_RECORDS

AGENTS = ("c83d89b0-e8c7-4a9f-b76b-15dd26a9c425", "0f9b5a52-3a3c-4a5b-8a53-8d0a90b1c9f2")
HOST = AGENTS[0]
NIGHTLY = Definition(
    name="nightly",
    tool="restic",
    schedule=Schedule(cron="15 2 * * *", zone="Europe/Berlin"),
    rpo_s=93_600.0,
    copies=(Copy(name="nas"), Copy(name="cloud", location="offsite", immutable=True)),
)


def record(number: int, job: str = "nightly", **more: Any) -> Record:
    made = Record(
        record_id=f"{number:032x}",
        job=job,
        kind=Kind.RUN,
        source=Source.WRAP,
        outcome=Outcome.OK,
        observed_ms=number * 1000,
        run_id=f"{number:032x}",
    )
    return msgspec.structs.replace(made, **more)


@pytest.fixture
def kept(store: Store) -> Store:
    """A store with two hosts."""
    for agent_id in AGENTS:
        host = Host(
            agent_id=agent_id,
            site="main",
            instance=agent_id[:8],
            state=HostState.ACTIVE,
            labels={},
            ephemeral=False,
            public_key=b"k",
            envelope_key=b"",
            hostname="h",
            agent_version="0",
            address="::1",
            enrolled_ms=1,
            changed_ms=1,
        )
        store.write_blocking(lambda c, host=host: host_rows.add_host(c, host))
    return store


def add(store: Store, *records: Record, agent_id: str = HOST, received_ms: int = 5) -> list[bool]:
    return store.write_blocking(
        lambda c: [backups.add_record(c, "main", agent_id, one, received_ms, -7) for one in records]
    )


def places(store: Store) -> list[int]:
    return [
        int(row.record.record_id, 16) for row in store.read(lambda c: backups.records_after(c, "main", 0, 99))
    ]


# ---------------------------------------------------------------- records


def test_a_record_is_kept_once_of_each_host_and_in_the_order_of_its_arrival(kept: Store) -> None:
    assert add(kept, record(2), record(1), record(2)) == [True, True, False]
    assert add(kept, record(2), agent_id=AGENTS[1]) == [True]
    found = kept.read(lambda c: backups.records_after(c, "main", 0, 99))
    assert [(row.agent_id, row.record) for row in found] == [
        (HOST, record(2)),
        (HOST, record(1)),
        (AGENTS[1], record(2)),
    ]
    assert {(row.received_ms, row.shift_ms) for row in found} == {(5, -7)}
    rest = kept.read(lambda c: backups.records_after(c, "main", found[0].place, 1))
    assert [row.place for row in rest] == [found[1].place]
    assert kept.read(lambda c: backups.records_after(c, "elsewhere", 0, 9)) == []


def test_a_start_reads_records_job_by_job_as_they_arrived_and_none_that_come_meanwhile(kept: Store) -> None:
    add(kept, record(5, "weekly"), record(4), record(3, "weekly"), record(2))
    add(kept, record(9), agent_id=AGENTS[1])
    place_max = kept.read(lambda c: backups.last_place(c, "main"))
    add(kept, record(6), record(7, "weekly"))
    found: list[backups.RecordRow] = []
    for _ in range(3):
        after = found[-1] if found else None
        found += kept.read(lambda c, after=after: backups.records_by_job(c, "main", after, place_max, 2))
    told = [(row.agent_id, row.record.job, int(row.record.record_id, 16)) for row in found]
    assert sorted(told, key=lambda one: one[:2]) == told
    assert [number for _, _, number in told if number != 9] == [4, 2, 5, 3]
    assert (AGENTS[1], "nightly", 9) in told
    assert kept.read(lambda c: backups.last_place(c, "elsewhere")) == 0


def test_a_record_that_an_older_store_compressed_otherwise_is_read(kept: Store) -> None:
    add(kept, record(1))
    row = kept.read(lambda c: dict(c.execute(BACKUP_RECORDS.select()).mappings().one()))
    row |= {"place": row["place"] + 1, "record_id": f"{2:032x}", "body": zlib.compress(record(2).to_json())}
    kept.write_blocking(lambda c: c.execute(BACKUP_RECORDS.insert(), row))
    found = kept.read(lambda c: backups.records_after(c, "main", 0, 99))
    assert [one.record for one in found] == [record(1), record(2)]


def test_a_record_that_is_kept_is_never_changed(kept: Store) -> None:
    add(kept, record(1))
    with pytest.raises(StorageError, match="never changed"):
        kept.write_blocking(lambda c: c.execute(BACKUP_RECORDS.update().values(outcome="ok")))


def test_records_of_a_job_are_found_newest_first_and_before_a_time(kept: Store) -> None:
    add(kept, *(record(number) for number in (1, 2, 3)), record(4, job="other"))
    newest = kept.read(lambda c: backups.records_of(c, "main", HOST, "nightly", 2))
    assert [row.record for row in newest] == [record(3), record(2)]
    before = kept.read(lambda c: backups.records_of(c, "main", HOST, "nightly", 9, 2000 - 7))
    assert [row.record for row in before] == [record(1)], "by the host's clock as it was corrected"


@pytest.mark.parametrize(
    "more",
    [
        {"errors": ("\x00\ud7ff\u202e",), "tail": "\x00\x1b[31m" * 1000, "reason": "'); DROP TABLE hosts;--"},
        {
            "observed_ms": NUMBER_MAX,
            "point_ms": NUMBER_MAX,
            "bytes_source": NUMBER_MAX,
            "exit_code": -(2**70),
        },
        {"job": "ü" * 64, "copy": "日" * 256, "snapshot_id": "\x00" * 256},
        {"snapshots": Snapshots(count=1000, parts=1, listed=(("f" * 64, NUMBER_MAX),) * 1000)},
    ],
    ids=["texts", "numbers", "names", "lists"],
)
def test_what_a_stranger_may_send_can_be_kept(kept: Store, more: dict[str, Any]) -> None:
    hostile = record(1, **more)
    door = BackupDoor()
    taken = door.read(HOST, BACKUP_RECORD, bytes.fromhex(hostile.record_id), hostile.to_json())
    assert isinstance(taken, Record)
    add(kept, taken)
    (row,) = kept.read(lambda c: backups.records_of(c, "main", HOST, hostile.job, 9))
    assert row.record == taken


# ---------------------------------------------------------------- jobs


def test_the_list_says_which_jobs_there_are_and_a_definition_is_found_by_its_digest(kept: Store) -> None:
    def tell(now_ms: int, **digests: str) -> None:
        kept.write_blocking(lambda c: backups.list_jobs(c, "main", HOST, digests, now_ms))

    def jobs() -> dict[str, tuple[str, int, int]]:
        found = kept.read(lambda c: backups.jobs(c, "main"))
        return {row.job: (row.digest, row.defined_ms, row.gone_ms) for row in found}

    digest = NIGHTLY.digest()
    tell(1, nightly=digest, weekly="w")
    assert jobs() == {"nightly": (digest, 1, 0), "weekly": ("w", 1, 0)}
    assert kept.read(lambda c: backups.definitions(c, "main")) == {}, "they have not come yet"
    kept.write_blocking(lambda c: backups.define(c, "main", HOST, NIGHTLY, digest, 2))
    assert kept.read(lambda c: backups.definitions(c, "main")) == {(HOST, "nightly"): NIGHTLY}
    tell(3, weekly="w")
    assert jobs()["nightly"] == (digest, 1, 3)
    tell(4, weekly="w2", nightly=digest)
    assert jobs() == {"nightly": (digest, 4, 0), "weekly": ("w2", 1, 0)}, "one that comes back is as new"


def test_a_definition_is_each_hosts_own_whatever_digest_it_claims(kept: Store) -> None:
    forged = dataclasses.replace(NIGHTLY, rpo_s=0.0)
    for agent_id, definition in ((AGENTS[1], forged), (HOST, NIGHTLY)):
        kept.write_blocking(
            lambda c, a=agent_id, d=definition: backups.define(c, "main", a, d, NIGHTLY.digest(), 1)
        )
    assert kept.read(lambda c: backups.definitions(c, "main", HOST)) == {(HOST, "nightly"): NIGHTLY}


def test_of_many_versions_the_newest_are_kept_and_the_one_in_force(
    kept: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backups, "VERSIONS_PER_JOB_MAX", 2)
    versions = [dataclasses.replace(NIGHTLY, rpo_s=float(number)) for number in range(5)]
    for at_ms, version in enumerate([*versions, versions[0]]):
        kept.write_blocking(
            lambda c, v=version, at_ms=at_ms: backups.define(c, "main", HOST, v, v.digest(), at_ms)
        )
    assert kept.read(lambda c: backups.definitions(c, "main")) == {(HOST, "nightly"): versions[0]}
    count = sa.text("SELECT count(*) FROM backup_definitions")
    assert kept.read(lambda c: c.execute(count).scalar_one()) == 2


def test_through_when_hosts_are_known_is_kept(kept: Store) -> None:
    for known in ({HOST: 5}, {HOST: 7, AGENTS[1]: 6}):
        kept.write_blocking(lambda c, known=known: backups.save_through(c, "main", known))
    assert kept.read(lambda c: backups.through(c, "main")) == {HOST: 7, AGENTS[1]: 6}


# ---------------------------------------------------------------- what may go


def test_old_and_surplus_records_go_and_what_a_run_said_before_its_newest_word(
    kept: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backups, "RECORDS_PER_JOB_MAX", 3)
    now_ms = backups.RECORDS_KEPT_MS + 10
    add(kept, record(1, job="old"), received_ms=9)
    proof = record(2, kind=Kind.VERIFY)
    add(kept, proof, *(record(number) for number in (3, 4, 5, 6)), received_ms=now_ms)
    long_run, ended_run = "a" * 32, "b" * 32
    going_on = [
        record(10 + number, job="long", outcome=Outcome.RUNNING, run_id=run)
        for number, run in enumerate([long_run, long_run, ended_run, ended_run])
    ]
    add(
        kept,
        *going_on,
        record(14, job="long", run_id=ended_run),
        received_ms=now_ms - backups.PROGRESS_KEPT_MS - 1,
    )
    monkeypatch.setattr(backups, "RECORDS_PER_JOB_MAX", 4)
    add(kept, record(7), received_ms=now_ms)
    found = kept.read(lambda c: backups.surplus(c, "main", now_ms))
    kept.write_blocking(lambda c: backups.remove(c, found))
    assert places(kept) == [2, 4, 5, 6, 11, 14, 7], "a proof is not pushed out by runs"


def test_a_job_that_is_gone_goes_with_its_last_record(kept: Store) -> None:
    kept.write_blocking(lambda c: backups.define(c, "main", HOST, NIGHTLY, NIGHTLY.digest(), 1))
    pause = PauseRow(agent_id=HOST, job="nightly", until_ms=9, author="ann", reason="move")
    kept.write_blocking(lambda c: backup_notes.set_pause(c, "main", pause))
    add(kept, record(1))
    kept.write_blocking(lambda c: backups.list_jobs(c, "main", HOST, {}, 2))
    kept.write_blocking(lambda c: backups.remove(c, []))
    assert kept.read(lambda c: backups.jobs(c, "main")) != []
    found = kept.read(lambda c: backups.surplus(c, "main", backups.RECORDS_KEPT_MS + 6))
    kept.write_blocking(lambda c: backups.remove(c, found))
    for table in ("backup_jobs", "backup_definitions", "backup_pauses", "backup_records"):
        count = sa.text(f"SELECT count(*) FROM {table}")
        assert kept.read(lambda c, count=count: c.execute(count).scalar_one()) == 0, table


# ---------------------------------------------------------------- what people say


def test_pauses_reviews_and_changes_are_found_as_they_were_written(kept: Store) -> None:
    def pause(until_ms: int) -> PauseRow:
        return PauseRow(agent_id=HOST, job="nightly", until_ms=until_ms, author="änn", reason="\x1b so")

    def review(at_ms: int, agent_id: str = HOST) -> ReviewRow:
        return ReviewRow(agent_id=agent_id, job="nightly", at_ms=at_ms, author="ann", word="OK", note="n")

    def change(at_ms: int, after: str) -> ChangeRow:
        return ChangeRow(agent_id=HOST, job="nightly", at_ms=at_ms, before="OK", after=after, why="w")

    def work(c: sa.Connection) -> None:
        for until_ms in (5, 6):
            backup_notes.set_pause(c, "main", pause(until_ms))
        for at_ms in (1, 2):
            backup_notes.add_review(c, "main", review(at_ms))
        backup_notes.add_review(c, "main", review(1, AGENTS[1]))
        backup_notes.add_changes(c, "main", [change(1, "LATE"), change(1, "MISSED")])
        backup_notes.add_changes(c, "main", [])

    kept.write_blocking(work)
    assert kept.read(lambda c: backup_notes.pauses(c, "main")) == [pause(6)]
    assert kept.read(lambda c: backup_notes.reviews(c, "main", HOST, "nightly", 9)) == [review(2), review(1)]
    last = kept.read(lambda c: backup_notes.last_reviews(c, "main"))
    assert sorted(last, key=lambda row: row.agent_id) == [review(1, AGENTS[1]), review(2)]
    assert kept.read(lambda c: backup_notes.changes(c, "main", HOST, "nightly", 1)) == [change(1, "MISSED")]
    later_ms = backup_notes.CHANGES_KEPT_MS + 2
    assert kept.write_blocking(lambda c: backup_notes.trim_changes(c, "main", later_ms)) == 1
    assert kept.read(lambda c: backup_notes.last_changes(c, "main")) == [change(1, "MISSED")], (
        "it is the newest"
    )
    assert kept.write_blocking(lambda c: backup_notes.end_pause(c, HOST, "nightly"))
    assert not kept.write_blocking(lambda c: backup_notes.end_pause(c, HOST, "nightly"))


def test_an_exemption_takes_the_place_of_the_one_before_and_expires(
    kept: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup_notes, "EXEMPTIONS_MAX", 2)

    def row(number: int, name: str = "web01", created_ms: int = 1, expires_ms: int = 10) -> ExemptionRow:
        return ExemptionRow(
            exemption_id=f"e{number}",
            kind="host",
            name=name,
            owner="ops",
            reason="stateless",
            author="ann",
            created_ms=created_ms,
            expires_ms=expires_ms,
        )

    def exempt(made: ExemptionRow) -> bool:
        return kept.write_blocking(lambda c: backup_notes.set_exemption(c, "main", made))

    for number, name, expires_ms in ((1, "web01", 10), (2, "web01", 20), (3, "web02", 15)):
        assert exempt(row(number, name, expires_ms=expires_ms))
    found = kept.read(lambda c: backup_notes.exemptions(c, "main", 12))
    assert found == [row(3, "web02", expires_ms=15), row(2, expires_ms=20)]
    assert not exempt(row(4, "web03"))
    assert exempt(row(5, "web03", created_ms=16, expires_ms=30)), "what expired gives room"
    assert kept.write_blocking(lambda c: backup_notes.end_exemption(c, "main", "e2")) == row(2, expires_ms=20)
    assert kept.write_blocking(lambda c: backup_notes.end_exemption(c, "main", "e2")) is None


# ---------------------------------------------------------------- at the door, and into the store


def event(seq: int, kind: str, payload: bytes, event_id: bytes | None = None) -> CritEvent:
    event_id = seq.to_bytes(16) if event_id is None else event_id
    content = BackupDoor().read(HOST, kind, event_id, payload)
    return CritEvent(seq, event_id, kind, 1, 2, payload, -7, content)


def test_events_are_kept_with_what_they_mean_and_the_hosts_are_told_once(kept: Store) -> None:
    told: list[frozenset[str]] = []
    sink = StoreCritSink(kept, ManualClock())
    sink.backups_told = told.append
    defined = b'{"definition":' + NIGHTLY.to_json() + b',"digest":"d1"}'
    events = [
        event(1, BACKUP_JOBS, b'{"jobs":{"nightly":"d1"}}'),
        event(2, BACKUP_DEFINED, defined),
        event(3, BACKUP_RECORD, record(3).to_json()),
    ]
    for spool in (b"a" * 16, b"b" * 16):
        mark = Mark(HOST, spool, int(Stream.CRIT), 3, 1)
        sink.commit([mark], {(HOST, spool): events})
    assert told == [frozenset({HOST})], "the second time nothing was new"
    assert places(kept) == [3]
    assert kept.read(lambda c: backups.definitions(c, "main")) == {(HOST, "nightly"): NIGHTLY}
    sink.commit([Mark(HOST, b"a" * 16, int(Stream.CRIT), 4, 1)], {})
    assert len(told) == 1


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (BACKUP_RECORD, b"{"),
        (BACKUP_RECORD, b"[]"),
        (BACKUP_RECORD, record(2).to_json()),
        (BACKUP_RECORD, record(1, job="a\x00b").to_json()),
        (BACKUP_RECORD, record(1, observed_ms=-1).to_json()),
        (BACKUP_RECORD, record(1, bytes_source=2**63).to_json()),
        (BACKUP_RECORD, record(1).to_json().replace(b'"ok"', b'"fine"')),
        (BACKUP_JOBS, b'{"jobs":["nightly"]}'),
        (BACKUP_JOBS, b'{"jobs":{"":"d"}}'),
        (BACKUP_JOBS, b'{"jobs":{"n":"' + b"d" * 33 + b'"}}'),
        (BACKUP_JOBS, b'{"jobs":{' + b",".join(b'"%d":"d"' % n for n in range(501)) + b"}}"),
        (BACKUP_DEFINED, b'{"definition":{"name":"n"},"digest":"d"}'),
        (BACKUP_DEFINED, b'{"definition":{"name":"n","tool":"t","rpo_s":NaN},"digest":"d"}'),
        (BACKUP_DEFINED, b'{"definition":{"name":"n","tool":"t","rpo_s":1e300},"digest":"d"}'),
        (BACKUP_DEFINED, b'{"definition":{"name":"\\ud800","tool":"t"},"digest":"d"}'),
    ],
)
def test_what_is_no_event_of_a_backup_is_refused_at_the_door(kind: str, payload: bytes) -> None:
    with pytest.raises(RecordRefused) as told:
        BackupDoor().read(HOST, kind, (1).to_bytes(16), payload)
    assert told.value.reason == "backup_event"


def test_a_host_with_a_million_jobs_gets_its_share_and_others_theirs() -> None:
    door = BackupDoor()

    def take(number: int, agent_id: str = HOST) -> None:
        door.read(agent_id, BACKUP_RECORD, number.to_bytes(16), record(number, job=f"j{number}").to_json())

    for number in range(NAMES_PER_HOST_MAX):
        take(number)
    take(0)
    with pytest.raises(RecordRefused) as told:
        take(NAMES_PER_HOST_MAX)
    assert told.value.reason == "backup_jobs"
    take(NAMES_PER_HOST_MAX, AGENTS[1])
    door.forget(HOST, ["j1"])
    take(NAMES_PER_HOST_MAX)
    assert door.read(HOST, "agent.started", bytes(16), b"{}") is None
