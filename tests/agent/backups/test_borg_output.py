"""What borg prints, in all its versions and out of its mind, is read or called unreadable; nothing is guessed."""

import json
import os
import socket
import uuid
from pathlib import Path
from typing import Any

import pytest

from watchbill.backups.definition import Definition
from watchbill.backups.record import Level, Outcome
from watchbill_agent.backups.adapter import Check, Job, Observation
from watchbill_agent.backups.adapters.borg import Borg, Options
from watchbill_agent.backups.command import HostCommands
from watchbill_agent.backups.printed.borg import (
    Holder,
    expected,
    is_remote,
    read_create,
    read_holders,
    read_listing,
    read_version,
    why_failed,
    words,
)
from watchbill_agent.backups.tool_answers import time_ms

NOW_MS = 1_795_953_600_000
"""2026-11-29T12:00:00Z."""
REPOSITORY = {"id": "ab" * 32, "last_modified": "2026-11-29T11:00:00.000000", "location": "/r"}


def line(**values: Any) -> bytes:
    return json.dumps(values).encode() + b"\n"


def log(message: str, msgid: str | None, levelname: str = "ERROR") -> bytes:
    return line(
        type="log_message", time=1.0, message=message, levelname=levelname, name="borg.x", msgid=msgid
    )


def listing(*archives: dict[str, Any]) -> bytes:
    return json.dumps(
        {"archives": archives, "encryption": {"mode": "none"}, "repository": REPOSITORY}
    ).encode()


def archive(name: str, start: str = "2026-11-29T02:15:00.000000", **more: Any) -> dict[str, Any]:
    """As 1.2 prints it."""
    return {
        "archive": name,
        "barchive": name,
        "id": name.encode().hex(),
        "name": name,
        "start": start,
        **more,
    }


def archive_of_2(name: str, time: str = "2026-11-29T03:15:00.761172+01:00") -> dict[str, Any]:
    """As 2.0 prints it: names need not be unique, and times have their zone."""
    return {
        "archive": name,
        "id": name.encode().hex(),
        "name": name,
        "time": time,
        "tags": [],
        "hostname": "web1",
    }


def saying(tmp_path: Path, *, version: str = "1.4.5", archives: str = "*", **answers: bytes) -> Borg:
    """A borg that prints this and nothing else, started as the real one is; what it was asked is in `asked`."""
    for name, answer in answers.items():
        (tmp_path / name.replace("_", "-")).write_bytes(answer)
    program = tmp_path / "borg"
    program.write_text(
        f"#!/bin/sh\n"
        f'echo "$@" >>"{tmp_path}/asked"\n'
        f'[ "$1" = --version ] && echo "borg {version}" && exit 0\n'
        f'for word; do [ -f "{tmp_path}/$word" ] && exec cat "{tmp_path}/$word"; done\n'
        f"exit 0\n"
    )
    program.chmod(0o755)
    job = Job(name="files", definition=Definition(name="files", tool="borg"))
    options = Options(repository="/r", program=str(program), restore_dir=tmp_path, archives=archives)
    return Borg(options, job, HostCommands(tmp_path, 30))


def observe(tmp_path: Path, document: bytes, **more: Any) -> Observation:
    return saying(tmp_path, list=document, **more).observe(NOW_MS)


# ---------------------------------------------------------------- archives


def test_ten_thousand_archives_are_read(tmp_path: Path) -> None:
    seen = observe(tmp_path, listing(*(archive(f"files-{number}") for number in range(10_000))))
    assert (seen.outcome, len(seen.snapshots), seen.tool_version) == (Outcome.OK, 10_000, "1.4.5")
    assert (seen.repo_id, seen.repo_locked) == (REPOSITORY["id"], False)


def test_archives_of_others_do_not_count(tmp_path: Path) -> None:
    adapter = saying(tmp_path, archives="web1-*", list=listing(archive("web1-1"), archive("db1-1")))
    assert [bytes.fromhex(each.id) for each in adapter.observe(NOW_MS).snapshots] == [b"web1-1"]
    others = saying(tmp_path, archives="web2-*").observe(NOW_MS)
    assert (others.outcome, others.reason, others.snapshots) == (Outcome.OK, "repository-foreign", ())
    assert "db1-1" in others.errors[0]


def test_borg_2_is_asked_in_its_own_words_and_its_times_have_a_zone(tmp_path: Path) -> None:
    adapter = saying(
        tmp_path, version="2.0.0b23", repo_list=listing(archive_of_2("files"), archive_of_2("files"))
    )
    seen = adapter.observe(NOW_MS)
    assert (seen.outcome, len(seen.snapshots), seen.repo_locked) == (Outcome.OK, 2, None)
    assert seen.snapshots[0].time_ms == time_ms("2026-11-29T02:15:00.761172Z")
    verified = adapter.verify(Check(level=Level.DATA), NOW_MS)
    assert verified.outcome is Outcome.OK
    asked = (tmp_path / "asked").read_text()
    assert "--bypass-lock" not in asked
    assert f"extract --dry-run aid:{b'files'.hex()}" in asked


def test_borg_1_is_told_to_take_no_lock(tmp_path: Path) -> None:
    adapter = saying(tmp_path, list=listing(archive("files-1")))
    adapter.verify(Check(level=Level.DATA), NOW_MS)
    first, *others = (tmp_path / "asked").read_text().splitlines()
    assert first == "--version"
    assert others
    assert all("--bypass-lock" in asked for asked in others)
    assert not any("check" in asked for asked in others)


def test_every_archive_is_in_one_part_and_stays_in_it_while_others_come_and_go(tmp_path: Path) -> None:
    names = [f"files-{number}" for number in range(12)]
    every = {name: part for part in (1, 2, 3) for name in read_in(tmp_path, names, part)}
    later = {name: part for part in (1, 2, 3) for name in read_in(tmp_path, names[5:], part)}
    assert sorted(every) == sorted(names)
    assert later == {name: every[name] for name in names[5:]}
    assert len(set(every.values())) == 3


def read_in(tmp_path: Path, names: list[str], part: int) -> list[str]:
    """The archives that are read for this part of three."""
    (tmp_path / "asked").unlink(missing_ok=True)
    adapter = saying(tmp_path, list=listing(*map(archive, names)))
    adapter.verify(Check(level=Level.DATA, part=part, parts=3), NOW_MS)
    asked = (tmp_path / "asked").read_text().splitlines()
    return [line.rpartition("::")[2] for line in asked if "extract" in line]


def test_archives_of_runs_that_were_interrupted_do_not_count(tmp_path: Path) -> None:
    names = ("files-1", "files-2.checkpoint", "files-2.checkpoint.1", "files.checkpoint-of-mine")
    seen = observe(tmp_path, listing(*map(archive, names)))
    assert {bytes.fromhex(each.id).decode() for each in seen.snapshots} == {
        "files-1",
        "files.checkpoint-of-mine",
    }


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"files-1   Sun, 2026-11-29 02:15:00",
        listing(archive("files-1"))[:-80],
        b'{"archives": []}',
        listing({"id": "ab", "name": "files-1"}),
        listing(archive("files-1", start="Mon, 2017-02-27 21:21:52")),
        listing(archive("files-1", id=7)),
        listing(archive("files-1", id="--repair")),
        b"[" * 100_000,
    ],
)
def test_half_a_document_and_one_of_other_types_are_called_unreadable(
    tmp_path: Path, document: bytes
) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_listing(document)
    seen = observe(tmp_path, document)
    assert (seen.outcome, seen.reason, seen.snapshots) == (Outcome.UNKNOWN, "output-unreadable", ())
    assert "borg 1.4.5 printed" in seen.errors[0]


def test_a_borg_that_prints_no_json_is_too_old(tmp_path: Path) -> None:
    seen = observe(tmp_path, b"", version="1.0.13")
    assert (seen.outcome, seen.reason) == (Outcome.UNKNOWN, "tool-too-old")


@pytest.mark.parametrize(
    ("output", "version"),
    [
        (b"borg 1.2.4\n", "1.2.4"),
        (b"borg2 2.0.0b23\n", "2.0.0b23"),
        (b"bash: borg", ""),
        (b"warning\nborg 1.4.5", "1.4.5"),
    ],
)
def test_versions_are_read(output: bytes, version: str) -> None:
    assert read_version(output) == version


# ---------------------------------------------------------------- locks


def test_who_has_a_lock_is_read_from_its_files() -> None:
    roster = b'{"exclusive": [["vm@328", 17, 0]], "shared": [["web1.example@9", 4, 1], ["odd"], 7]}'
    assert set(read_holders(roster, ["vm@328.17-0", "nonsense", "a.b@5.99-7f"])) == {
        Holder(host_id="vm@328", process=17, exclusive=True),
        Holder(host_id="web1.example@9", process=4, exclusive=False),
        Holder(host_id="a.b@5", process=99, exclusive=True),
    }
    assert read_holders(b'{"exclusive": [["vm', []) == read_holders(b"[]", []) == read_holders(b"", []) == []


def test_only_a_process_of_this_host_can_be_known_to_be_gone() -> None:
    here = f"{socket.gethostname().partition('.')[0]}.example@{uuid.getnode()}"
    assert Holder(host_id=here, process=os.getpid(), exclusive=True).alive()
    assert not Holder(host_id=here, process=2**22 + 1, exclusive=True).alive()
    assert Holder(host_id="elsewhere@1", process=2**22 + 1, exclusive=True).alive()


# ---------------------------------------------------------------- why it failed


@pytest.mark.parametrize(
    ("exit_code", "stderr", "reason"),
    [
        (2, log("Repository /r does not exist.", "Repository.DoesNotExist"), "repository-missing"),
        (13, b"", "repository-missing"),
        (
            2,
            log("Failed to create/acquire the lock /r/lock.exclusive (timeout).", "LockTimeout"),
            "repository-locked",
        ),
        (73, b"", "repository-locked"),
        (2, b"Failed to create/acquire the lock /r/lock.exclusive (timeout).", "repository-locked"),
        (52, b"", "password-wrong"),
        (
            2,
            b"Enter passphrase for key /r: " + log("no passphrase", "NoPassphraseFailure"),
            "password-missing",
        ),
        (
            2,
            log("Cache, or information ... is newer than repository", "Cache.RepositoryReplay"),
            "repository-replaced",
        ),
        (64, b"", "repository-replaced"),
        (2, log("Warning", "Cache.RepositoryAccessAborted"), "access-refused"),
        (2, log("Data integrity error: x", "IntegrityError"), "repository-damaged"),
        (23, b"", "repository-damaged"),
        (2, log("PermissionError: [Errno 13] Permission denied: '/r/config'", None), "needs-runner"),
        (
            2,
            log("Remote: ssh: connect to host x port 22: Connection refused", None, "WARNING"),
            "repository-unreachable",
        ),
        (2, b"borg: error: unrecognized arguments: --bypass-lock", "tool-too-old"),
        (2, b"Traceback", "tool-failed"),
        (None, b"", "tool-failed"),
    ],
)
def test_why_it_failed_is_read_from_names_codes_and_texts(
    exit_code: int | None, stderr: bytes, reason: str
) -> None:
    assert why_failed(exit_code, stderr) == reason


def test_progress_is_no_word_to_a_person() -> None:
    said = words(line(type="progress_message", message="Saving") + log("one\ntwo", None) + b"plain\n")
    assert said == ["one", "two", "plain"]


def test_of_a_traceback_the_error_is_told() -> None:
    text = (
        'Traceback (most recent call last):\n  File "archiver.py", line 1, in run\n    func(args)\n    ^^^^\n'
        "borg.helpers.IntegrityError: Data integrity error: Chunk 89a1\n\nPlatform: Linux vm\nBorg: 2.0.0b23\nPID: 1\n"
    )
    assert words(log(text, None)) == ["borg.helpers.IntegrityError: Data integrity error: Chunk 89a1"]
    assert why_failed(2, log(text, None)) == "repository-damaged"
    assert words(log("Traceback (most recent call last):\n  File x\nKeyError", None)) == ["KeyError"]


BROKEN_PIPE = log("Local Exception", "Exception") + log(
    'Traceback (most recent call last):\n  File "remote.py", line 417, in write\n    written = os.write(fd, to_send)\n'
    "BrokenPipeError: [Errno 32] Broken pipe\n\nPlatform: Linux vm\nBorg: 1.2.4\nPID: 1\n",
    None,
)
"""Of 1.2.4, when ssh ended before borg had written a word to it."""


def test_a_remote_repository_whose_ssh_ended_at_once_is_out_of_reach() -> None:
    assert why_failed(2, BROKEN_PIPE, remote=True) == "repository-unreachable"
    assert why_failed(2, BROKEN_PIPE) == "tool-failed"
    denied = log("Remote: Permission denied (publickey).", None) + BROKEN_PIPE
    assert why_failed(2, denied, remote=True) == "needs-runner"
    assert read_create(2, b"", BROKEN_PIPE, remote=True).reason == "repository-unreachable"


@pytest.mark.parametrize(
    ("repository", "remote"),
    [
        ("ssh://me@host/r", True),
        ("ssh://me@host:23/./r", True),
        ("me@host:r", True),
        ("host:/r", True),
        ("/r", False),
        ("file:///r", False),
        ("/r:old", False),
        ("r", False),
        ("./r:old", False),
    ],
)
def test_whether_a_repository_is_remote_is_seen_by_its_address(repository: str, remote: bool) -> None:
    assert is_remote(repository) is remote


# ---------------------------------------------------------------- runs


def created(**stats: Any) -> bytes:
    document = {"archive": {"id": "e2" * 32, "name": "files", "stats": stats}, "repository": REPOSITORY}
    return json.dumps(document, indent=4).encode()


def test_a_run_of_1_2_tells_all_its_sizes_and_one_of_2_what_it_knows() -> None:
    facts = read_create(0, created(original_size=30, compressed_size=20, deduplicated_size=10, nfiles=2), b"")
    assert (facts.outcome, facts.snapshot_id, facts.files, facts.files_failed) == (
        Outcome.OK,
        "e2" * 32,
        2,
        0,
    )
    assert (facts.bytes_source, facts.bytes_stored, facts.bytes_added) == (30, 20, 10)
    second = read_create(0, created(original_size=30, nfiles=2, files_stats={"A": 2}, store_stats={}), b"")
    assert (second.outcome, second.bytes_source, second.bytes_stored, second.bytes_added) == (
        Outcome.OK,
        30,
        None,
        None,
    )


def test_a_run_that_printed_text_tells_its_archive() -> None:
    text = b"Archive name: files\nArchive fingerprint: " + b"e2" * 32 + b"\nNumber of files: 488237\n"
    facts = read_create(0, b"", text)
    assert (facts.outcome, facts.snapshot_id, facts.files) == (Outcome.OK, "e2" * 32, 488_237)


@pytest.mark.parametrize("exit_code", [1, 100, 107])
@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        (b"/mnt/nas: [Errno 2] No such file or directory: '/mnt/nas'", "source-missing"),
        (log("/mnt/nas: stat: gone", "BackupFileNotFoundError", "WARNING"), "source-missing"),
        (log("/srv/x: open: [Errno 13] Permission denied: 'x'", None, "WARNING"), "source-unreadable"),
        (log("/srv/x: open: closed", "BackupPermissionError", "WARNING"), "source-unreadable"),
        (b"/srv/x: file changed while we backed it up", "source-changed"),
        (b"something else", "warnings"),
    ],
)
def test_a_warning_is_partial_whatever_its_number(exit_code: int, stderr: bytes, reason: str) -> None:
    facts = read_create(exit_code, created(nfiles=1), stderr)
    assert (facts.outcome, facts.reason) == (Outcome.PARTIAL, reason)
    assert facts.errors
    assert facts.snapshot_id


@pytest.mark.parametrize(
    ("exit_code", "stdout", "outcome", "reason"),
    [
        (0, created(nfiles=1)[:-30], Outcome.UNKNOWN, "output-unreadable"),
        (0, b'{"dry_run": true, "stats": {}}', Outcome.FAILED, "dry-run"),
        (0, b"", Outcome.OK, ""),
        (3, b"", Outcome.FAILED, "interrupted"),
        (130, b"", Outcome.FAILED, "interrupted"),
        (2, b"", Outcome.FAILED, "tool-failed"),
        (0, b'{"archive": 7}', Outcome.OK, ""),
        (0, created(original_size="many", nfiles=-1), Outcome.OK, ""),
    ],
)
def test_what_a_run_lacks_is_not_made_up(
    exit_code: int, stdout: bytes, outcome: Outcome, reason: str
) -> None:
    facts = read_create(exit_code, stdout, b"")
    assert (facts.outcome, facts.reason) == (outcome, reason)
    assert (facts.bytes_source, facts.bytes_stored) == (None, None)


# ---------------------------------------------------------------- restores


def test_a_restore_that_brings_less_back_than_was_listed_is_no_proof(tmp_path: Path) -> None:
    adapter = saying(tmp_path, list=listing(archive("files-1")))
    (tmp_path / "{type} {size}{NL}").write_bytes(b"d 0\n- 5\n")
    program = tmp_path / "borg"
    program.write_text(program.read_text().replace("for word;", 'for word in "$5" "$3";'))
    verified = adapter.verify(Check(level=Level.RESTORE), NOW_MS)
    assert (verified.outcome, verified.reason) == (Outcome.FAILED, "restore-differs")
    assert "0 files of 0 bytes came back, wanted 1 of 5 bytes" in verified.errors
    assert not list(tmp_path.glob("watchbill-restore-*"))


def test_a_further_name_of_a_file_is_not_expected() -> None:
    assert expected(b"d 0\n- 5\nl 3\nh 5\n- 7\n") == (2, 12)


def test_at_most_one_passphrase_is_asked_for() -> None:
    assert list(Options(repository="/r", passphrase_file=Path("/p"), passcommand="echo").check())
    assert not list(Options(repository="/r", passphrase_file=Path("/p")).check())
