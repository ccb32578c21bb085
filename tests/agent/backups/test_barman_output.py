"""What barman prints is read in every version, and nothing that it could print is taken for what it is not."""

import copy
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from watchbill.backups.definition import Definition
from watchbill.backups.record import Level, Outcome
from watchbill_agent.backups.adapter import Check, Job, Reason
from watchbill_agent.backups.adapters import barman
from watchbill_agent.backups.adapters.barman import Barman, Options, read_backup_run, stored

from .fake_tool import Printed, commands, fake_tool

LIST: dict[str, Any] = {
    "demo": [
        {
            "backup_id": "20260102T010000",
            "backup_type": "incremental",
            "end_time": "Fri Jan  2 01:10:00 2026",
            "end_time_timestamp": "1767316200",
            "retention_status": "VALID",
            "size_bytes": 99,
            "status": "DONE",
            "wal_size_bytes": 0,
        },
        {"backup_id": "20260101T010000", "end_time_timestamp": 1767229800, "status": "DONE"},
    ]
}
"""Of a version after 3.10, and one of those that print numbers as numbers."""

NEW_SHOW: dict[str, Any] = {
    "demo": {
        "backup_id": "20260102T010000",
        "backup_type": "incremental",
        "base_backup_information": {
            "backup_method": "postgres",
            "backup_size_bytes": 70,
            "backup_size_with_wals_bytes": 90,
            "begin_lsn": "0/4000028",
            "begin_time_iso": "2026-01-02T01:00:00+00:00",
            "begin_wal": "000000010000000000000004",
            "end_lsn": "0/5000060",
            "end_wal": "000000010000000000000005",
            "timeline": 1,
        },
        "cluster_size_bytes": 1000,
        "status": "DONE",
        "system_id": "7000000000000000001",
    }
}
OLD_SHOW = {
    "demo": {
        "base_backup_information": {
            "begin_lsn": "0/2000028",
            "begin_wal": "000000010000000000000002",
            "disk_usage_bytes": 800,
            "disk_usage_with_wals_bytes": 900,
            "end_wal": "000000010000000000000003",
        },
        "status": "DONE",
    }
}
CHECKS = {
    "demo": {
        "postgresql": {"hint": "", "status": "OK"},
        "wal_maximum_age": {"hint": "2 days", "status": "FAILED"},
    }
}


@pytest.fixture
def wals(tmp_path: Path) -> Path:
    """Segments 2 to 7 as barman keeps them."""
    place = tmp_path / "wals" / "0000000100000000"
    place.mkdir(parents=True)
    for number in range(2, 8):
        file = place / f"00000001000000000000000{number}"
        file.write_bytes(b"x")
        os.utime(file, (1767400000 + number, 1767400000 + number))
    return place


def adapter(place: Path, wals: Path | None = None, **answers: Printed | bytes) -> Barman:
    named = "\n".join(str(path) for path in sorted(wals.iterdir())) if wals else ""
    fixed: dict[str, Printed | bytes] = {
        "*--version*": b"3.13.0 Barman by EnterpriseDB (www.enterprisedb.com)\n",
        "*list-backups*": answers.get("listed", json.dumps(LIST).encode()),
        "*show-backup*20260102*": answers.get("shown", json.dumps(NEW_SHOW).encode()),
        "*show-backup*": json.dumps(OLD_SHOW).encode(),
        "*list-files*": answers.get("files", f"{named}\n/srv/x.00000028.backup\nnoise\n".encode()),
        "*check*": answers.get("checked", b'{"demo":{}}'),
        "*verify-backup*": answers.get("verified", b"backup successfully verified\n"),
    }
    job = Job(name="db", definition=Definition(name="db", tool="barman"))
    return Barman(Options(server="demo", program=fake_tool(place, "barman", fixed)), job, commands(place))


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    document = copy.deepcopy(LIST)
    change(document)
    return json.dumps(document).encode()


def test_a_newer_version_is_read(tmp_path: Path, wals: Path) -> None:
    seen = adapter(tmp_path, wals).observe(0)
    assert (seen.outcome, seen.reason) == (Outcome.OK, "")
    assert [snapshot.time_ms for snapshot in seen.snapshots] == [1767316200000, 1767229800000]
    assert (seen.bytes_source, seen.bytes_stored, seen.repo_id) == (1000, 90, "7000000000000000001")
    assert (seen.log_from[-2:], seen.log_to[-2:], seen.point_ms) == ("04", "07", 1767400007000)


def test_the_newest_backup_that_has_its_log_counts(tmp_path: Path, wals: Path) -> None:
    (wals / "000000010000000000000005").write_bytes(b"")
    seen = adapter(tmp_path, wals).observe(0)
    assert (seen.outcome, seen.reason) == (Outcome.PARTIAL, barman.WAL_MISSING)
    assert (seen.log_from[-2:], seen.log_to[-2:]) == ("02", "04"), "a segment of no bytes is none"
    assert (seen.bytes_source, seen.bytes_stored) == (800, 900)
    proof = adapter(tmp_path, wals).verify(Check(level=Level.STRUCTURE), 0)
    assert (proof.outcome, proof.tool_version) == (Outcome.FAILED, "3.13.0")
    assert proof.proof is not None
    assert proof.proof.bad == 1


def test_parts_share_the_backups(tmp_path: Path, wals: Path) -> None:
    for part in (1, 2, 3):
        found = adapter(tmp_path, wals).verify(Check(level=Level.DATA, part=part, parts=3), 0)
        assert found.outcome is Outcome.OK
        assert found.proof is not None
        assert found.proof.fraction == 1 / 3


def test_a_manifest_that_is_missing_proves_nothing(tmp_path: Path, wals: Path) -> None:
    said = (
        "ERROR: verify backup failure on directory '/srv/base/1/data'\n"
        'ERROR: pg_verifybackup: error: could not open file "/srv/1/data/backup_manifest": No such file or directory\n'
    )
    found = adapter(tmp_path, wals, verified=Printed(err=said.encode(), code=1)).verify(
        Check(level=Level.DATA), 0
    )
    assert (found.outcome, found.proof, found.reason) == (Outcome.UNKNOWN, None, barman.NO_MANIFEST)


@pytest.mark.parametrize("status", ["STARTED", "EMPTY", "SYNCING"])
def test_the_newest_that_is_not_done_is_running(tmp_path: Path, wals: Path, status: str) -> None:
    newest = {"backup_id": "20260103T010000", "status": status}
    seen = adapter(
        tmp_path, wals, listed=changed(lambda document: document["demo"].insert(0, newest))
    ).observe(0)
    assert (seen.outcome, seen.running, len(seen.snapshots)) == (Outcome.OK, True, 2)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("FAILED", barman.BACKUP_FAILED),
        ("WAITING_FOR_WALS", barman.WAITING_FOR_WAL),
        ("NEW_WORD", barman.BACKUP_FAILED),
    ],
)
def test_one_that_failed_counts_until_a_later_one_is_done(
    tmp_path: Path, wals: Path, status: str, reason: str
) -> None:
    failed = {"backup_id": "20260103T010000", "status": status}
    seen = adapter(
        tmp_path, wals, listed=changed(lambda document: document["demo"].insert(0, failed))
    ).observe(0)
    assert (seen.outcome, seen.reason) == (Outcome.PARTIAL, reason)
    failed["backup_id"] = "20260101T120000"
    seen = adapter(tmp_path, wals, listed=changed(lambda document: document["demo"].append(failed))).observe(
        0
    )
    assert seen.outcome is Outcome.OK


def test_a_first_backup_that_waits_is_no_point_and_no_failure(tmp_path: Path) -> None:
    listed = json.dumps({"demo": [{"backup_id": "20260103T010000", "status": "WAITING_FOR_WALS"}]}).encode()
    seen = adapter(tmp_path, listed=listed).observe(0)
    assert (seen.outcome, seen.snapshots, seen.point_ms) == (Outcome.PARTIAL, (), 0)
    listed = json.dumps({"demo": [{"backup_id": "20260103T010000", "status": "FAILED"}]}).encode()
    assert adapter(tmp_path, listed=listed).observe(0).outcome is Outcome.FAILED


def test_what_barman_check_finds_is_told_though_it_ends_with_1(tmp_path: Path, wals: Path) -> None:
    seen = adapter(tmp_path, wals, checked=Printed(json.dumps(CHECKS).encode(), code=1)).observe(0)
    assert (seen.outcome, seen.reason) == (Outcome.PARTIAL, barman.CHECK_FAILED)
    assert seen.errors == ("barman check: wal maximum age: 2 days",)


def test_a_list_of_no_backups_beside_an_exception_is_not_believed(tmp_path: Path) -> None:
    """What it prints where it may not take its lock: a list that is empty."""
    text = (
        b'{"_EXCEPTION": ["/var/lib/barman/.demo-xlogdb.lock\\nSee log file for more details."], "demo": []}'
    )
    seen = adapter(tmp_path, listed=Printed(text, code=1)).observe(0)
    assert (seen.outcome, seen.reason) == (Outcome.UNKNOWN, Reason.NEEDS_RUNNER)


HOSTILE: Mapping[str, bytes] = {
    "nothing": b"",
    "half a document": json.dumps(LIST).encode()[:60],
    "not json": b"demo 20260102T010000 - Fri Jan  2 01:10:00 2026",
    "a list": b"[]",
    "another server's": b'{"other": []}',
    "no utf-8": b'{"demo": "\xff"}',
    "deep": b'{"demo":' + b"[" * 200_000,
    "an id that is a path": changed(lambda document: document["demo"][0].update(backup_id="../../x")),
    "a time that is none": changed(
        lambda document: document["demo"][0].update(end_time_timestamp="yesterday")
    ),
    "a time after all time": changed(lambda document: document["demo"][0].update(end_time_timestamp=10**30)),
    "no time": changed(lambda document: document["demo"][0].pop("end_time_timestamp")),
    "no status": changed(lambda document: document["demo"][0].pop("status")),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_document_that_is_not_what_barman_prints_is_unknown(tmp_path: Path, wals: Path, what: str) -> None:
    seen = adapter(tmp_path, wals, listed=HOSTILE[what]).observe(0)
    assert (seen.outcome, seen.reason, seen.snapshots) == (Outcome.UNKNOWN, Reason.OUTPUT_UNREADABLE, ())
    assert seen.errors


@pytest.mark.parametrize(
    "text", [b"", b'{"demo":{}}', b'{"demo":{"base_backup_information":{"begin_wal":3}}}']
)
def test_a_backup_that_cannot_be_read_is_unknown(tmp_path: Path, wals: Path, text: bytes) -> None:
    assert adapter(tmp_path, wals, shown=text).observe(0).reason == Reason.OUTPUT_UNREADABLE


def test_a_backup_whose_log_is_no_range_is_lost(tmp_path: Path, wals: Path) -> None:
    shown = copy.deepcopy(NEW_SHOW)
    shown["demo"]["base_backup_information"]["end_wal"] = "FFFFFFFFFFFFFFFFFFFFFFFF"
    seen = adapter(tmp_path, wals, shown=json.dumps(shown).encode()).observe(0)
    assert (seen.outcome, seen.reason) == (Outcome.PARTIAL, barman.WAL_MISSING)


def test_log_that_may_not_be_looked_at_is_unknown_and_not_missing(tmp_path: Path, wals: Path) -> None:
    paths = {path.name: path for path in wals.iterdir()}
    wals.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:
            tmp_path.chmod(0o755)
            os.seteuid(65534)
        with pytest.raises(PermissionError):
            stored(paths)
    finally:
        os.seteuid(user)
        wals.chmod(0o755)


@pytest.mark.parametrize("name", ["all", "", "-c", "a b", "x/../y"])
def test_a_name_that_is_no_servers_is_refused(name: str) -> None:
    assert barman._no_server(name) is not None


def test_runs_are_read_from_what_they_printed() -> None:
    text = (
        "Starting backup using postgres method for server demo in /srv/barman/demo/base/20260103T010000\n"
        "Backup start at LSN: 0/7045630 (000000010000000000000007, 00045630)\n"
        "Backup end at LSN: 0/9000060 (000000010000000000000009, 00000060)\n"
    )
    facts = read_backup_run(0, text)
    assert (facts.outcome, facts.snapshot_id) == (Outcome.OK, "20260103T010000")
    assert (facts.log_from[-2:], facts.log_to[-2:]) == ("07", "09")
    failed = read_backup_run(1, "ERROR: Impossible to start the backup. Check the log for more details\n")
    assert failed.outcome is Outcome.FAILED
    assert failed.errors
