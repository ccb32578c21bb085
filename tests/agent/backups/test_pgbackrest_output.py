"""What pgBackRest prints is read in every version, and nothing that it could print is taken for what it is not."""

import copy
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from watchbill.backups.definition import Definition
from watchbill.backups.record import Level, Outcome
from watchbill_agent.backups.adapter import Check, Job, Observation, Reason
from watchbill_agent.backups.adapters import pgbackrest
from watchbill_agent.backups.adapters.pgbackrest import Options, PgBackRest
from watchbill_agent.backups.printed.pgbackrest import STATUS_MIXED, read_backup_run, read_info, read_verify

from .fake_tool import Printed, commands, fake_tool

VERSION = b"pgBackRest 2.56.0\n"
FULL = "20260101-010000F"
DIFF = f"{FULL}_20260102-010000D"


def backup(label: str, day: int, start: str, stop: str, **more: Any) -> dict[str, Any]:
    """One as 2.50 and later print it: with block incremental, `repository.size` is left out."""
    return {
        "annotation": {"why": "nightly"},
        "archive": {"start": start, "stop": stop},
        "backrest": {"format": 5, "version": "2.56.0"},
        "database": {"id": 1, "repo-key": 1},
        "error": False,
        "info": {
            "delta": 100,
            "repository": {"delta": 10, "delta-map": 5, "size-map": 7},
            "size": 1000,
        },
        "label": label,
        "lsn": {"start": f"0/{int(start[16:], 16):X}000028", "stop": f"0/{int(stop[16:], 16):X}000100"},
        "prior": None,
        "reference": None,
        "timestamp": {"start": 86400 * day, "stop": 86400 * day + 60},
        "type": "full",
        **more,
    }


def wal(number: int) -> str:
    return f"0000000100000000{number:08X}"


INFO: list[dict[str, Any]] = [
    {
        "archive": [{"database": {"id": 1, "repo-key": 1}, "id": "17-1", "max": wal(7), "min": wal(2)}],
        "backup": [backup(FULL, 1, wal(2), wal(3)), backup(DIFF, 2, wal(4), wal(5), reference=[FULL])],
        "cipher": "none",
        "db": [{"id": 1, "repo-key": 1, "system-id": 7000000000000000001, "version": "17"}],
        "name": "demo",
        "repo": [{"cipher": "none", "key": 1, "status": {"code": 0, "message": "ok"}}],
        "status": {
            "code": 0,
            "lock": {
                "backup": {
                    "held": True,
                    "repo": [{"key": 1, "size": 3, "size-cplt": 1}],
                    "size": 3,
                    "size-cplt": 1,
                },
                "restore": {"held": False},
            },
            "message": "ok",
        },
    }
]


def listing(*numbers: int, suffix: str = ".zst") -> bytes:
    files = {
        f"{wal(number)}-{number:040x}{suffix}": {"type": "file", "size": 9, "time": 86400 * number}
        for number in numbers
    }
    notes = {f"{wal(2)}.00000028.backup": {"type": "file", "size": 9, "time": 1}, ".": {"type": "path"}}
    return json.dumps(files | notes).encode()


DIRECTORIES = b'{".":{"type":"path"},"0000000100000000":{"type":"path"}}'


def look(
    place: Path, info: bytes, log: bytes, directories: bytes = DIRECTORIES, version: bytes = VERSION
) -> Observation:
    program = fake_tool(
        place,
        "pgbackrest",
        {"*version": version, "*info*json": info, "*archive/demo/*/*": log, "*archive/demo/*": directories},
    )
    job = Job(name="db", definition=Definition(name="db", tool="pgbackrest"))
    return PgBackRest(Options(stanza="demo", program=program), job, commands(place)).observe(0)


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    document = copy.deepcopy(INFO)
    change(document[0])
    return json.dumps(document).encode()


def test_a_newer_version_with_what_it_adds_and_leaves_out_is_read(tmp_path: Path) -> None:
    seen = look(tmp_path, json.dumps(INFO).encode(), listing(2, 3, 4, 5, 6, 7))
    assert (seen.outcome, seen.reason, seen.errors) == (Outcome.OK, "", ())
    assert seen.running
    assert (seen.tool_version, seen.bytes_source, seen.bytes_stored) == ("2.56.0", 1000, None)
    assert (seen.log_from, seen.log_to, seen.point_ms) == (wal(4), wal(7), 7 * 86_400_000)
    assert [snapshot.time_ms for snapshot in seen.snapshots] == [86_460_000, 2 * 86_400_000 + 60_000]
    assert seen.repo_id == "7000000000000000001"


@pytest.mark.parametrize("suffix", ["", ".gz", ".lz4", ".zst", ".bz2"])
def test_log_is_found_however_it_is_compressed(tmp_path: Path, suffix: str) -> None:
    assert look(tmp_path, json.dumps(INFO).encode(), listing(2, 3, 4, 5, suffix=suffix)).outcome is Outcome.OK


def test_the_fallback_is_the_newest_backup_that_has_its_log(tmp_path: Path) -> None:
    seen = look(tmp_path, json.dumps(INFO).encode(), listing(2, 3, 5))
    assert (seen.outcome, seen.reason) == (Outcome.PARTIAL, pgbackrest.WAL_MISSING)
    assert seen.point_ms == 3 * 86_400_000, "where the log after the older one ends"
    assert wal(4) in seen.errors[0]


def test_a_partial_segment_is_no_segment(tmp_path: Path) -> None:
    log = listing(2, 3, 4).replace(
        b"}", f'}},"{wal(5)}.partial-{0:040x}.gz":{{"type":"file","time":1}}'.encode(), 1
    )
    assert look(tmp_path, json.dumps(INFO).encode(), log).outcome is Outcome.PARTIAL


def test_only_a_file_is_a_segment(tmp_path: Path) -> None:
    log = listing(2, 3, 4, 5).replace(b'"type": "file"', b'"type": "path"')
    seen = look(tmp_path, json.dumps(INFO).encode(), log)
    assert (seen.outcome, seen.reason) == (Outcome.FAILED, pgbackrest.WAL_MISSING)


def test_log_that_was_stored_by_a_slow_clock_makes_no_backup_older(tmp_path: Path) -> None:
    log = re.sub(rb'"time": \d+', b'"time": 1', listing(2, 3, 4, 5))
    seen = look(tmp_path, json.dumps(INFO).encode(), log)
    assert (seen.outcome, seen.point_ms) == (Outcome.OK, (2 * 86_400 + 60) * 1000), (
        "the end of the backup itself"
    )


def test_an_offline_backup_needs_no_log(tmp_path: Path) -> None:
    info = changed(
        lambda stanza: stanza.update(
            backup=[backup(FULL, 1, wal(2), wal(3)) | {"archive": {"start": None, "stop": None}}]
        )
    )
    seen = look(tmp_path, info, listing())
    assert (seen.outcome, seen.point_ms) == (Outcome.OK, 86_460_000)


def test_a_backup_with_pages_that_were_bad_in_the_database_is_partial(tmp_path: Path) -> None:
    seen = look(tmp_path, changed(lambda stanza: stanza["backup"][1].update(error=True)), listing(2, 3, 4, 5))
    assert (seen.outcome, seen.reason) == (Outcome.PARTIAL, pgbackrest.PAGE_CHECKSUMS)
    assert seen.point_ms == 5 * 86_400_000, "it can be restored"


def test_a_backup_without_the_one_that_it_builds_on_is_lost(tmp_path: Path) -> None:
    seen = look(tmp_path, changed(lambda stanza: stanza["backup"].pop(0)), listing(2, 3, 4, 5))
    assert (seen.outcome, seen.reason, seen.point_ms) == (Outcome.FAILED, pgbackrest.CHAIN_BROKEN, 0)


def test_of_two_repositories_one_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    def second(stanza: dict[str, Any]) -> None:
        message = "[PathOpenError] unable to list file info for path '/r2': [13] Permission denied"
        stanza["repo"].append({"cipher": "none", "key": 2, "status": {"code": 99, "message": message}})
        stanza["status"]["code"] = STATUS_MIXED

    seen = look(tmp_path, changed(second), listing(2, 3, 4, 5))
    assert (seen.outcome, seen.reason) == (Outcome.PARTIAL, pgbackrest.COPY_UNREADABLE)
    assert "repo2" in seen.errors[0]
    assert seen.point_ms


def test_more_archive_than_one_look_lists_claims_no_more_than_was_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgbackrest, "DIRECTORIES_MAX", 1)
    seen = look(tmp_path, json.dumps(INFO).encode(), listing(2, 3, 4, 5, 6))
    assert (seen.outcome, seen.reason) == (Outcome.UNKNOWN, pgbackrest.ARCHIVE_TOO_LARGE)
    monkeypatch.setattr(pgbackrest, "DIRECTORIES_MAX", 2)
    assert look(tmp_path, json.dumps(INFO).encode(), listing(2, 3, 4, 5, 6)).outcome is Outcome.OK


HOSTILE: Mapping[str, bytes] = {
    "nothing": b"",
    "half a document": json.dumps(INFO).encode()[:400],
    "not json": b"stanza: demo\n    status: ok\n",
    "an object": b"{}",
    "another stanza's": json.dumps(INFO).replace('"demo"', '"other"').encode(),
    "no utf-8": b'[{"name":"demo\xff\xfe"}]',
    "deep": b"[" * 200_000,
    "a label that is a path": changed(lambda stanza: stanza["backup"][0].update(label="../../etc/passwd")),
    "a label with a newline": changed(lambda stanza: stanza["backup"][0].update(label=f"{FULL}\nok")),
    "a time before all time": changed(lambda stanza: stanza["backup"][0]["timestamp"].update(stop=-5)),
    "a time after all time": changed(lambda stanza: stanza["backup"][0]["timestamp"].update(stop=10**30)),
    "no time": changed(lambda stanza: stanza["backup"][0].pop("timestamp")),
    "a text for a number": changed(lambda stanza: stanza["status"].update(code="0")),
    "an archive that is a path": changed(lambda stanza: stanza["archive"][0].update(id="../x")),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_document_that_is_not_what_info_prints_is_unknown(tmp_path: Path, what: str) -> None:
    seen = look(tmp_path, HOSTILE[what], listing(2, 3, 4, 5))
    assert (seen.outcome, seen.reason) == (Outcome.UNKNOWN, Reason.OUTPUT_UNREADABLE)
    assert seen.errors
    assert not seen.snapshots


@pytest.mark.parametrize("log", [b"", b"[]", b'{"x":', b'{"x":3}', b"\xff"])
def test_a_listing_that_is_none_is_unknown_and_not_missing_log(tmp_path: Path, log: bytes) -> None:
    assert look(tmp_path, json.dumps(INFO).encode(), log).reason == Reason.OUTPUT_UNREADABLE
    assert look(tmp_path, json.dumps(INFO).encode(), listing(2), log).reason == Reason.OUTPUT_UNREADABLE


def test_a_range_of_log_that_no_backup_has_is_not_walked(tmp_path: Path) -> None:
    info = changed(lambda stanza: stanza["backup"][1]["archive"].update(stop="FFFFFFFFFFFFFFFF000000FF"))
    seen = look(tmp_path, info, listing(2, 3, 4, 5))
    assert (seen.outcome, seen.reason) == (Outcome.PARTIAL, pgbackrest.WAL_MISSING)


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (b"pgBackRest 2.20\n", Reason.TOOL_TOO_OLD),
        (b"restic 0.14.0\n", Reason.OUTPUT_UNREADABLE),
        (b"", Reason.OUTPUT_UNREADABLE),
    ],
)
def test_a_version_that_is_too_old_or_none_is_told(tmp_path: Path, version: bytes, reason: str) -> None:
    seen = look(tmp_path, json.dumps(INFO).encode(), listing(2, 3, 4, 5), version=version)
    assert (seen.outcome, seen.reason) == (Outcome.UNKNOWN, reason)


def test_ten_thousand_backups_are_read(tmp_path: Path) -> None:
    many = [
        backup(
            f"2026{1 + i // 2800:02}{1 + i // 100 % 28:02}-{i % 24:02}{i % 60:02}{i % 60:02}F",
            1 + i,
            wal(2),
            wal(3),
        )
        for i in range(10_000)
    ]
    seen = look(tmp_path, changed(lambda stanza: stanza.update(backup=many)), listing(2, 3))
    assert seen.outcome is Outcome.OK
    assert len(seen.snapshots) == 10_000
    assert len(json.dumps(many)) < 32 * 1024 * 1024


@pytest.mark.parametrize("text", ["", "demo", "stanza: demo\n", "status:ok"])
def test_a_verification_without_a_report_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="no report"):
        read_verify(text, "")


@pytest.mark.parametrize(
    ("report", "bad", "said"),
    [
        ("  archiveId: 15-1, total WAL checked: 5, total valid WAL: 5\n", 0, ""),
        (
            "  archiveId: 15-1, total WAL checked: 6, total valid WAL: 4\n    missing: 0, other: 0\n",
            2,
            "2 of 6",
        ),
        (
            "  backup: X, status: invalid, total files checked: 9, total valid files: 8\n    missing: 1\n",
            1,
            "X is invalid",
        ),
        ("  backup: X, status: manifest missing, total files checked: 0\n", 1, "manifest missing"),
        ("  backup: X, status: in-progress, total files checked: 0\n", 0, ""),
        (
            "  backup: X, status: valid, total files checked: 9\n    checksum invalid: 3, size invalid: 2\n",
            5,
            "",
        ),
    ],
)
def test_what_a_verification_counts_is_bad(report: str, bad: int, said: str) -> None:
    found = read_verify(f"stanza: demo\nstatus: ok\n{report}", "")
    assert found.bad == bad
    assert said in "".join(found.errors)


def test_a_verification_that_says_error_and_no_more_is_bad_too() -> None:
    found = read_verify("stanza: demo\nstatus: error\n", "")
    assert found.bad == 1
    assert found.errors


def test_verify_without_a_report_is_unknown(tmp_path: Path) -> None:
    answers: dict[str, Printed | bytes] = {
        "*version": VERSION,
        "*info*json": json.dumps(INFO).encode(),
        "*archive/demo/*/*": listing(2, 3, 4, 5),
        "*archive/demo/*": DIRECTORIES,
    }
    job = Job(name="db", definition=Definition(name="db", tool="pgbackrest"))
    for answer, reason in (
        (Printed(), Reason.OUTPUT_UNREADABLE),
        (Printed(err=b"ERROR: [031]: invalid option '--verbose'", code=31), Reason.TOOL_TOO_OLD),
        (Printed(err=b"ERROR: [095]: cipher header invalid", code=95), Reason.PASSWORD_WRONG),
    ):
        program = fake_tool(tmp_path, "pgbackrest", answers | {"*verify*": answer})
        adapter = PgBackRest(Options(stanza="demo", program=program), job, commands(tmp_path))
        found = adapter.verify(Check(level=Level.DATA), 0)
        assert (found.outcome, found.proof, found.reason) == (Outcome.UNKNOWN, None, reason)


def test_runs_are_read_from_what_they_logged() -> None:
    log = (
        "P00   INFO: backup command begin 2.45: --stanza=demo\n"
        "P00   INFO: backup start archive = 00000001000000000000000C, lsn = 0/C00028\n"
        "P00   WARN: no prior backup exists, incr backup has been changed to full\n"
        "P00   INFO: backup stop archive = 00000001000000000000000D, lsn = 0/D00100\n"
        f"P00   INFO: new backup label = {FULL}\n"
        "P00   INFO: full backup size = 21.9MB, file total = 964\n"
    )
    facts = read_backup_run(0, log)
    assert (facts.outcome, facts.snapshot_id, facts.files) == (Outcome.OK, FULL, 964)
    assert (facts.log_from[-2:], facts.log_to[-2:], facts.tool_version) == ("0C", "0D", "2.45")
    assert facts.errors == ("no prior backup exists, incr backup has been changed to full",)
    failed = read_backup_run(56, "P00  ERROR: [056]: unable to find primary cluster - cannot proceed\n")
    assert (failed.outcome, failed.errors) == (
        Outcome.FAILED,
        ("[056] unable to find primary cluster - cannot proceed",),
    )
    pages = read_backup_run(0, f"{log}P01   WARN: invalid page checksum found in file base/1/2 at page 3\n")
    assert (pages.outcome, pages.reason) == (Outcome.PARTIAL, pgbackrest.PAGE_CHECKSUMS)


def test_a_run_that_prints_rubbish_is_judged_by_its_exit_code() -> None:
    rubbish = (
        "new backup label = " + "A" * 100_000 + "\x00\x1b[31m ERROR: [999]: " + "\N{PILE OF POO}" * 5_000
    )
    facts = read_backup_run(0, rubbish)
    assert (facts.outcome, facts.snapshot_id) == (Outcome.OK, "")
    assert all(len(error) <= 500 for error in facts.errors)


def test_reading_info_raises_nothing_but_value_errors() -> None:
    for document in HOSTILE.values():
        with pytest.raises(ValueError, match=r".+"):
            read_info(document, "demo")
    assert sys.getrecursionlimit() >= 1000
