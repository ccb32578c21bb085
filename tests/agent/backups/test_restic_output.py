"""What restic prints, in all its versions and out of its mind, is read or called unreadable; nothing is guessed."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from watchbill.backups.definition import Definition
from watchbill.backups.record import Level, Outcome
from watchbill_agent.backups.adapter import Check, Job, Observation
from watchbill_agent.backups.adapters.restic import Options, Restic
from watchbill_agent.backups.command import HostCommands
from watchbill_agent.backups.printed.restic import (
    Lock,
    read_backup,
    read_environment,
    read_snapshots,
    read_version,
    why_failed,
    words,
)
from watchbill_agent.backups.tool_answers import time_ms

NOW_MS = 1_795_953_600_000
"""2026-11-29T12:00:00Z."""


def line(**values: Any) -> bytes:
    return json.dumps(values).encode() + b"\n"


def snapshot(number: int, **more: Any) -> dict[str, Any]:
    """As 0.17 and newer print it; older ones leave `summary` and `program_version` out."""
    return {
        "time": f"2026-11-{number % 28 + 1:02d}T02:15:00.123456789+01:00",
        "tree": "0f" * 32,
        "paths": ["/srv"],
        "hostname": "web1",
        "username": "root",
        "uid": 0,
        "gid": 0,
        "excludes": None,
        "tags": ["job=files"],
        "program_version": "restic 0.18.1",
        "summary": {
            "backup_start": "2026-11-01T00:00:00Z",
            "total_files_processed": 7,
            "total_bytes_processed": 99,
        },
        "id": f"{number:064x}",
        "short_id": f"{number:08x}",
        **more,
    }


SUMMARY = {
    "message_type": "summary",
    "files_new": 2,
    "data_added": 301_047,
    "data_added_packed": 250_000,
    "total_files_processed": 2,
    "total_bytes_processed": 300_002,
    "total_duration": 0.3,
    "snapshot_id": "b3ef5e20" * 8,
}


def saying(tmp_path: Path, *, version: str = "0.18.1", **answers: bytes) -> Restic:
    """A restic that prints this and nothing else, started as the real one is."""
    for name, answer in answers.items():
        (tmp_path / name).write_bytes(answer)
    program = tmp_path / "restic"
    program.write_text(
        f"#!/bin/sh\n"
        f'[ "$1" = version ] && echo "restic {version} compiled with go1.24 on linux/amd64" && exit 0\n'
        f'[ -f "{tmp_path}/$1-fails" ] && cat "{tmp_path}/$1-fails" >&2 && exit 1\n'
        f'exec cat "{tmp_path}/$1"\n'
    )
    program.chmod(0o755)
    (tmp_path / "password").write_text("x")
    options = Options(
        repository="/r",
        password_file=tmp_path / "password",
        host="web1",
        program=str(program),
        restore_dir=tmp_path,
    )
    job = Job(name="files", definition=Definition(name="files", tool="restic"))
    return Restic(options, job, HostCommands(tmp_path, 30))


def observe(tmp_path: Path, snapshots: bytes, **more: Any) -> Observation:
    answers = {"cat": b'{"version":2,"id":"abc"}', "list": b"", "snapshots": snapshots}
    return saying(tmp_path, **{**answers, **more}).observe(NOW_MS)


# ---------------------------------------------------------------- snapshots


def test_ten_thousand_snapshots_of_a_newer_restic_are_read_with_the_size_they_know(tmp_path: Path) -> None:
    seen = observe(tmp_path, json.dumps([snapshot(number) for number in range(10_000)]).encode())
    assert (seen.outcome, len(seen.snapshots), seen.tool_version) == (Outcome.OK, 10_000, "0.18.1")
    assert (seen.bytes_source, seen.files, seen.repo_id) == (99, 7, "abc")


@pytest.mark.parametrize("nothing", [b"null", b"[]", b"[]\n"])
def test_no_snapshots_are_none_in_every_version(tmp_path: Path, nothing: bytes) -> None:
    assert read_snapshots(nothing) == []
    assert observe(tmp_path, nothing).reason == "no-snapshots"


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"not JSON at all",
        json.dumps([snapshot(1), snapshot(2)]).encode()[:-200],
        b'{"message_type":"exit_error"}',
        json.dumps([snapshot(1, id=7)]).encode(),
        json.dumps([snapshot(1, id="--password-command=reboot")]).encode(),
        json.dumps([snapshot(1, time="yesterday")]).encode(),
        json.dumps([snapshot(1, tags="one")]).encode(),
        json.dumps([{"time": "2026-01-01T00:00:00Z"}]).encode(),
        b'[{"id": "\xff\xfe", "time": "2026-01-01T00:00:00Z"}]',
        b"[" * 100_000,
    ],
)
def test_half_a_document_and_one_of_other_types_are_called_unreadable(
    tmp_path: Path, document: bytes
) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_snapshots(document)
    seen = observe(tmp_path, document)
    assert (seen.outcome, seen.reason, seen.snapshots) == (Outcome.UNKNOWN, "output-unreadable", ())
    assert "restic 0.18.1 printed" in seen.errors[0]


def test_snapshots_of_other_hosts_do_not_count_even_where_restic_did_not_leave_them_out(
    tmp_path: Path,
) -> None:
    seen = observe(tmp_path, json.dumps([snapshot(1), snapshot(2, hostname="db1")]).encode())
    assert [each.id for each in seen.snapshots] == [f"{1:064x}"]
    others = observe(tmp_path, json.dumps([snapshot(2, hostname="db1")]).encode())
    assert (others.outcome, others.reason, others.snapshots) == (Outcome.OK, "repository-foreign", ())
    assert "db1" in others.errors[0]


@pytest.mark.parametrize(
    ("text", "wanted_ms"),
    [
        ("2026-11-29T12:00:00Z", NOW_MS),
        ("2026-11-29T13:00:00.123456789+01:00", NOW_MS + 123),
        ("2026-11-29T12:00:00", NOW_MS),
        ("0001-01-01T00:00:00Z", 1),
    ],
)
def test_times_are_read_with_their_zone(text: str, wanted_ms: int) -> None:
    assert time_ms(text) == wanted_ms


def test_a_lock_is_stale_by_restics_own_rule() -> None:
    mine = {"hostname": os.uname().nodename, "time": "2026-11-29T11:50:00Z"}
    assert Lock(**mine, pid=os.getpid()).alive(NOW_MS)
    assert not Lock(**mine, pid=2**22 + 1).alive(NOW_MS)
    assert Lock(hostname="elsewhere", time="2026-11-29T11:50:00Z", pid=2**22 + 1).alive(NOW_MS)
    assert not Lock(hostname="elsewhere", time="2026-11-29T11:20:00Z", pid=1).alive(NOW_MS)


# ---------------------------------------------------------------- proofs


def test_a_restore_that_ends_well_with_files_missing_is_no_proof(tmp_path: Path) -> None:
    answers = {"list": b"", "snapshots": json.dumps([snapshot(1)]).encode(), "stats": b'{"total_size":5}'}
    adapter = saying(tmp_path, **answers, restore=b"restoring")
    verified = adapter.verify(Check(level=Level.RESTORE), NOW_MS)
    assert (verified.outcome, verified.reason) == (Outcome.FAILED, "restore-differs")
    assert "0 files of 0 bytes came back, wanted 5 bytes" in verified.errors
    assert not list(tmp_path.glob("watchbill-restore*"))


def test_damage_that_is_seen_while_somebody_writes_proves_nothing(tmp_path: Path) -> None:
    lock = line(time="2026-11-29T11:59:00Z", hostname="elsewhere", pid=1, exclusive=False)
    adapter = saying(tmp_path, list=b"ab" * 32 + b"\n", cat=lock)
    (tmp_path / "check-fails").write_text("pack ab: does not exist\nFatal: repository contains errors\n")
    verified = adapter.verify(Check(level=Level.STRUCTURE), NOW_MS)
    assert (verified.outcome, verified.reason, verified.proof) == (Outcome.UNKNOWN, "repository-busy", None)
    (tmp_path / "list").write_bytes(b"")
    verified = adapter.verify(Check(level=Level.STRUCTURE), NOW_MS)
    assert (verified.outcome, verified.reason) == (Outcome.FAILED, "repository-damaged")
    assert verified.proof is not None
    assert (verified.proof.ok, verified.proof.bad) == (False, 1)


def test_a_check_that_ends_well_without_a_word_is_not_believed(tmp_path: Path) -> None:
    for said, outcome in ((b"", Outcome.UNKNOWN), (b"load indexes\n\nno errors were found\n", Outcome.OK)):
        adapter = saying(tmp_path, list=b"", check=said)
        assert adapter.verify(Check(level=Level.STRUCTURE), NOW_MS).outcome is outcome


# ---------------------------------------------------------------- why it failed


@pytest.mark.parametrize(
    ("exit_code", "stderr", "reason"),
    [
        (10, b"", "repository-missing"),
        (11, b"", "repository-locked"),
        (12, b"", "password-wrong"),
        (1, b"Fatal: wrong password or no key found", "password-wrong"),
        (
            1,
            b"Fatal: unable to open config file: stat /r/config: no such file or directory",
            "repository-missing",
        ),
        (
            1,
            b"unable to create lock in backend: repository is already locked by PID 1 on x",
            "repository-locked",
        ),
        (
            1,
            b'Head "http://u:***@h/config": dial tcp 127.0.0.1:9: connect: connection refused',
            "repository-unreachable",
        ),
        (
            1,
            b"Fatal: unable to open config file: unexpected HTTP response (503): 503 Service Unavailable",
            None,
        ),
        (1, b"Fatal: config or key ab is damaged: ciphertext verification failed", "repository-damaged"),
        (
            1,
            b"load <index/ab>: invalid data returned\nFatal: LoadIndex returned errors",
            "repository-damaged",
        ),
        (1, b"Fatal: config or key 0ab503 is damaged: ciphertext verification failed", "repository-damaged"),
        (1, b"open /r/config: permission denied", "needs-runner"),
        (
            1,
            line(message_type="exit_error", code=1, message="Fatal: wrong password or no key found"),
            "password-wrong",
        ),
        (2, b"panic: runtime error", "tool-failed"),
        (99, b"", "tool-failed"),
    ],
)
def test_why_it_failed_is_read_from_codes_and_texts_of_all_versions(
    exit_code: int, stderr: bytes, reason: str | None
) -> None:
    assert why_failed(exit_code, stderr) == (reason or "repository-unreachable")


def test_a_password_in_an_address_is_not_passed_on() -> None:
    assert words(b"Fatal: rest:https://me:hunter2@host/ gave up") == ["Fatal: rest:https://***@host/ gave up"]


# ---------------------------------------------------------------- runs


def test_a_run_of_every_version_tells_what_it_did() -> None:
    facts = read_backup(0, line(message_type="status", percent_done=1) + line(**SUMMARY), b"")
    assert (facts.outcome, facts.snapshot_id) == (Outcome.OK, SUMMARY["snapshot_id"])
    assert (facts.bytes_source, facts.bytes_added, facts.bytes_stored) == (300_002, 301_047, 250_000)
    assert (facts.files, facts.files_failed) == (2, 0)


def test_a_check_in_the_same_script_is_not_taken_for_the_backup() -> None:
    check = line(message_type="summary", num_errors=0, broken_packs=None, suggest_prune=False)
    facts = read_backup(0, line(**SUMMARY) + b'[{"tags":null,"keep":[]}]\n' + check, b"")
    assert (facts.outcome, facts.snapshot_id, facts.files) == (Outcome.OK, SUMMARY["snapshot_id"], 2)


def test_a_run_that_printed_text_tells_its_snapshot() -> None:
    text = b"Files: 1 new\nprocessed 3 files, 494 B in 0:00\nsnapshot e1f007b5 saved\n"
    facts = read_backup(0, text, b"")
    assert (facts.outcome, facts.snapshot_id, facts.files_failed) == (Outcome.OK, "e1f007b5", None)


@pytest.mark.parametrize(
    "error",
    [
        {
            "error": {"Op": "open", "Path": "/srv/closed", "Err": 13},
            "during": "archival",
            "item": "/srv/closed",
        },
        {
            "error": {"message": "open /srv/closed: permission denied"},
            "during": "archival",
            "item": "/srv/closed",
        },
        {"error": {}, "during": "archival", "item": "/srv/closed"},
        {"error": "open /srv/closed: permission denied", "item": "/srv/closed"},
    ],
)
def test_a_file_that_was_not_read_is_named_in_every_version(error: dict[str, Any]) -> None:
    summary = line(message_type="summary", snapshot_id="ab", total_files_processed=1)
    facts = read_backup(3, summary, line(message_type="error", **error) + b"Warning: at least one file")
    assert (facts.outcome, facts.reason, facts.files_failed) == (Outcome.PARTIAL, "source-unreadable", 1)
    assert any("/srv/closed" in said for said in facts.errors)


@pytest.mark.parametrize("exit_code", [0, 3])
def test_a_source_that_was_skipped_is_partial_whatever_the_code(exit_code: int) -> None:
    facts = read_backup(exit_code, line(**SUMMARY), b"/mnt/nas does not exist, skipping\n")
    assert (facts.outcome, facts.reason) == (Outcome.PARTIAL, "source-missing")
    assert facts.errors == ("/mnt/nas does not exist, skipping",)


@pytest.mark.parametrize(
    ("exit_code", "stdout", "outcome", "reason"),
    [
        (0, line(message_type="status", percent_done=1), Outcome.UNKNOWN, "output-unreadable"),
        (0, line(message_type="status") + line(**SUMMARY)[:60], Outcome.UNKNOWN, "output-unreadable"),
        (0, line(**{**SUMMARY, "dry_run": True}), Outcome.FAILED, "dry-run"),
        (0, line(**{key: value for key, value in SUMMARY.items() if key != "snapshot_id"}), Outcome.OK, ""),
        (130, b"", Outcome.FAILED, "interrupted"),
        (12, b"", Outcome.FAILED, "password-wrong"),
        (0, b"\xff\xfe\x00{{{\n", Outcome.OK, ""),
        (0, line(**{**SUMMARY, "total_bytes_processed": "many", "snapshot_id": 7}), Outcome.OK, ""),
    ],
)
def test_what_a_run_lacks_is_not_made_up(
    exit_code: int, stdout: bytes, outcome: Outcome, reason: str
) -> None:
    facts = read_backup(exit_code, stdout, b"")
    assert (facts.outcome, facts.reason) == (outcome, reason)
    assert facts.bytes_source in (None, 300_002)


# ---------------------------------------------------------------- the rest


@pytest.mark.parametrize(
    ("output", "version"),
    [
        (b"restic 0.14.0 compiled with go1.19.8", "0.14.0"),
        (b"restic 0.19.0-dev (compiled manually)", "0.19.0-dev"),
    ],
)
def test_versions_are_read(output: bytes, version: str) -> None:
    assert read_version(output) == version
    assert read_version(b"rustic 0.7") == ""


def test_a_restic_that_hangs_is_ended_and_called_so(tmp_path: Path) -> None:
    adapter = saying(tmp_path)
    (tmp_path / "restic").write_text("#!/bin/sh\nexec sleep 60\n")
    adapter._commands = HostCommands(tmp_path, 0.3)
    seen = adapter.observe(NOW_MS)
    assert (seen.outcome, seen.reason) == (Outcome.UNKNOWN, "timed-out")


def test_an_environment_file_is_read_as_systemd_reads_it() -> None:
    text = b'# mine\nAWS_ACCESS_KEY_ID=abc\nexport B2_ACCOUNT_KEY="d e f"\nnonsense\n1X=2\nEMPTY=\n'
    assert read_environment(text) == {"AWS_ACCESS_KEY_ID": "abc", "B2_ACCOUNT_KEY": "d e f", "EMPTY": ""}


@pytest.mark.parametrize(
    "options",
    [{}, {"repository": "/r"}, {"repository": "/r", "password_file": Path("/p"), "password_command": "echo"}],
)
def test_one_address_and_one_password_are_asked_for(options: dict[str, Any]) -> None:
    assert list(Options(**options).check())
    assert not list(Options(repository="/r", password_file=Path("/p")).check())
