"""Backups that are files: which is the newest good one, and what each kind of bad one is called."""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from watchbill.backups.definition import Definition
from watchbill.backups.record import TEXT_CHARACTERS_MAX, Level, Outcome
from watchbill.config import Table
from watchbill.errors import ConfigError
from watchbill_agent.backups.adapter import Check, Job, Observation, Reason, Verification
from watchbill_agent.backups.adapters import files as files_adapter
from watchbill_agent.backups.adapters.files import Files, Options
from watchbill_agent.backups.archive import BadFile, look_inside, read_checksum
from watchbill_agent.backups.command import HostCommands

NOW_MS = 1_900_000_000_000
HOUR_MS = 3_600_000
TEXT = b"The quick brown fox jumps over the lazy dog. " * 2000


def job(**options: Any) -> Files:
    definition = Definition(name="dump", tool="files", observed=True, observe_every_s=3600)
    made = Table(options).read(Options)
    return Files(made, Job(name="dump", definition=definition), HostCommands(Path("/"), 60))


def put(path: Path, content: bytes = b"data", age_ms: int = HOUR_MS) -> Path:
    path.write_bytes(content)
    at_s = (NOW_MS - age_ms) / 1000
    os.utime(path, (at_s, at_s))
    return path


def look(tmp_path: Path, **options: Any) -> Observation:
    return job(paths=[f"{tmp_path}/*"], **options).observe(NOW_MS)


def verify(
    tmp_path: Path, level: Level = Level.DATA, part: int = 1, parts: int = 1, **options: Any
) -> Verification:
    return job(paths=[f"{tmp_path}/*"], **options).verify(Check(level=level, part=part, parts=parts), NOW_MS)


# ---------------------------------------------------------------- a look


def test_the_newest_file_is_the_newest_point(tmp_path: Path) -> None:
    put(tmp_path / "old.sql", b"12345", 3 * HOUR_MS)
    put(tmp_path / "new.sql", b"123", HOUR_MS)
    seen = look(tmp_path)
    assert (seen.outcome, seen.reason, seen.errors) == (Outcome.OK, "", ())
    assert (seen.point_ms, seen.bytes_stored, seen.running) == (NOW_MS - HOUR_MS, 3, False)
    assert [(Path(each.id).name, NOW_MS - each.time_ms) for each in seen.snapshots] == [
        ("old.sql", 3 * HOUR_MS),
        ("new.sql", HOUR_MS),
    ]


def test_the_data_is_older_than_the_file_by_as_long_as_the_dump_takes(tmp_path: Path) -> None:
    put(tmp_path / "a")
    assert look(tmp_path, lag="10m").point_ms == NOW_MS - HOUR_MS - 600_000


def test_an_empty_directory_holds_no_backup_and_a_missing_one_is_unknown(tmp_path: Path) -> None:
    assert (look(tmp_path).outcome, look(tmp_path).reason) == (Outcome.OK, Reason.NO_SNAPSHOTS)
    gone = look(tmp_path / "gone")
    assert (gone.outcome, gone.reason) == (Outcome.UNKNOWN, Reason.REPOSITORY_MISSING)
    named = job(paths=[f"{tmp_path}/gone/latest.sql"]).observe(NOW_MS)
    assert named.reason == Reason.REPOSITORY_MISSING
    assert str(tmp_path / "gone") in named.errors[0]


def test_a_dump_of_no_bytes_is_no_backup_and_the_one_before_it_counts(tmp_path: Path) -> None:
    put(tmp_path / "1.sql", b"data", 2 * HOUR_MS)
    put(tmp_path / "2.sql", b"")
    seen = look(tmp_path)
    assert (seen.outcome, seen.reason, seen.point_ms) == (Outcome.PARTIAL, "file-empty", NOW_MS - 2 * HOUR_MS)
    assert "2.sql: it has no bytes" in seen.errors[0]


def test_when_no_file_is_good_nothing_can_be_restored(tmp_path: Path) -> None:
    put(tmp_path / "1.sql", b"")
    seen = look(tmp_path)
    assert (seen.outcome, seen.point_ms, seen.bytes_stored) == (Outcome.FAILED, 0, None)


def test_what_is_still_being_written_does_not_count_yet(tmp_path: Path) -> None:
    put(tmp_path / "1.sql")
    put(tmp_path / "2.sql", b"half", 1000)
    put(tmp_path / "3.sql.tmp")
    put(tmp_path / ".hidden")
    seen = look(tmp_path)
    assert (seen.running, seen.point_ms, len(seen.snapshots)) == (True, NOW_MS - HOUR_MS, 2)


def test_a_file_from_the_future_is_told_and_is_no_fresh_backup(tmp_path: Path) -> None:
    put(tmp_path / "1.sql", age_ms=2 * HOUR_MS)
    put(tmp_path / "2.sql", age_ms=-HOUR_MS)
    seen = look(tmp_path)
    assert (seen.outcome, seen.reason, seen.point_ms) == (
        Outcome.PARTIAL,
        "file-in-future",
        NOW_MS - 2 * HOUR_MS,
    )
    assert "3600 s in the future" in seen.errors[0]
    assert seen.snapshots[-1].time_ms == NOW_MS + HOUR_MS


def test_a_link_to_the_newest_a_pipe_and_a_directory_are_no_more_backups(tmp_path: Path) -> None:
    put(tmp_path / "1.sql")
    (tmp_path / "0-latest").symlink_to(tmp_path / "1.sql")
    (tmp_path / "dead").symlink_to(tmp_path / "nothing")
    (tmp_path / "dir").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert [Path(each.id).name for each in look(tmp_path).snapshots] == ["1.sql"]


def test_wild_cards_stand_for_directories_too(tmp_path: Path) -> None:
    for host in ("db1", "db2"):
        (tmp_path / host).mkdir()
        put(tmp_path / host / "a.sql")
    put(tmp_path / "readme")
    seen = job(paths=[f"{tmp_path}/db?/*.sql"]).observe(NOW_MS)
    assert len(seen.snapshots) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_directory_that_may_not_be_read_is_unknown_and_says_how(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o000)
    seen = look(tmp_path / "closed")
    assert (seen.outcome, seen.reason) == (Outcome.UNKNOWN, Reason.NEEDS_RUNNER)


def test_a_closed_directory_is_told_apart_from_one_without_backups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(files_adapter.os, "scandir", refuse)
    seen = look(tmp_path)
    assert (seen.outcome, seen.reason) == (Outcome.UNKNOWN, Reason.NEEDS_RUNNER)
    assert "give it a group" in seen.errors[0]


def test_a_share_whose_server_is_gone_is_unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise OSError(116, "Stale file handle", path)

    monkeypatch.setattr(files_adapter.os, "scandir", refuse)
    seen = look(tmp_path)
    assert (seen.outcome, seen.reason) == (Outcome.UNKNOWN, Reason.REPOSITORY_UNREACHABLE)


def test_a_name_that_is_no_text_or_too_long_still_has_an_id(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d" * 100] * 3)
    deep.mkdir(parents=True)
    put(deep / "a.sql")
    put(deep / "b.sql")
    Path(os.fsdecode(os.fsencode(deep) + b"/\xff.sql")).write_bytes(b"x")
    seen = job(paths=[f"{deep}/*"]).observe(NOW_MS)
    ids = {each.id for each in seen.snapshots}
    assert len(ids) == 3
    assert all(len(each) <= TEXT_CHARACTERS_MAX and each.encode() for each in ids)


def test_more_files_than_are_listed_are_counted_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_adapter, "SNAPSHOTS_MAX", 5)
    for number in range(7):
        put(tmp_path / f"{number}.sql")
    seen = look(tmp_path)
    assert (seen.outcome, seen.reason, len(seen.snapshots)) == (Outcome.PARTIAL, "files-too-many", 5)
    assert seen.errors[0].startswith("2 more files")


@pytest.mark.parametrize(
    "paths", [[], ["relative/*"], ["/srv/**/x"], ["/srv/"]]
)  # fmt: skip
def test_paths_that_cannot_be_are_refused(paths: list[str]) -> None:
    with pytest.raises(ConfigError):
        Table({"paths": paths}).read(Options)


# ---------------------------------------------------------------- formats


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", os.urandom(50_000))
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("a")
        info.size = len(TEXT)
        archive.addfile(info, io.BytesIO(TEXT))
    return buffer.getvalue()


def database(tmp_path: Path) -> bytes:
    connection = sqlite3.connect(tmp_path / "db")
    connection.execute("CREATE TABLE t (x)")
    connection.executemany("INSERT INTO t VALUES (?)", [(os.urandom(100),) for _ in range(500)])
    connection.commit()
    connection.close()
    content = (tmp_path / "db").read_bytes()
    (tmp_path / "db").unlink()
    return content


POSTGRES = (
    b"--\n-- PostgreSQL database dump\n--\n" + TEXT + b"--\n-- PostgreSQL database dump complete\n--\n\n"
)
MYSQL = b"-- MariaDB dump 10.19\n" + TEXT + b"-- Dump completed on 2030-03-17\n"

CONTENTS: dict[str, Callable[[Path], bytes]] = {
    "a.sql.gz": lambda _: gzip.compress(os.urandom(50_000)),
    "a.bz2": lambda _: bz2.compress(os.urandom(50_000)),
    "a.xz": lambda _: lzma.compress(os.urandom(50_000)),
    "a.zip": lambda _: zipped(),
    "a.tar": lambda _: tarred(),
    "a.sqlite": database,
    "postgres.sql": lambda _: POSTGRES,
    "mysql.sql": lambda _: MYSQL,
    "unknown.bin": lambda _: TEXT,
}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_whole_file_of_each_format_is_good_and_reads_through(tmp_path: Path, name: str) -> None:
    put(tmp_path / name, CONTENTS[name](tmp_path))
    assert look(tmp_path).outcome is Outcome.OK
    for level in (Level.STRUCTURE, Level.DATA):
        found = verify(tmp_path, level)
        assert found.outcome is Outcome.OK, found
        assert found.proof is not None
        assert (found.proof.level, found.proof.ok, found.proof.bad) == (level, True, 0)


@pytest.mark.parametrize("name", ["a.xz", "a.zip", "a.tar", "postgres.sql", "mysql.sql"])
def test_a_file_that_was_cut_off_is_seen_at_a_look(tmp_path: Path, name: str) -> None:
    put(tmp_path / name, CONTENTS[name](tmp_path)[:-2000])
    seen = look(tmp_path)
    assert (seen.outcome, seen.reason) == (Outcome.FAILED, "file-bad")
    assert "it is cut off" in seen.errors[0]


@pytest.mark.parametrize("name", ["a.sql.gz", "a.bz2", "a.sqlite"])
def test_a_file_that_was_cut_off_is_seen_at_the_latest_when_it_is_read(tmp_path: Path, name: str) -> None:
    put(tmp_path / name, CONTENTS[name](tmp_path)[:-9000])
    found = verify(tmp_path)
    assert (found.outcome, found.reason) == (Outcome.FAILED, "file-bad")
    assert found.proof is not None
    assert (found.proof.ok, found.proof.bad) == (False, 1)


@pytest.mark.parametrize("name", ["a.sql.gz", "a.bz2", "a.xz", "a.zip"])
def test_one_flipped_bit_is_found_by_reading_all(tmp_path: Path, name: str) -> None:
    content = bytearray(CONTENTS[name](tmp_path))
    content[len(content) // 2] ^= 1
    put(tmp_path / name, bytes(content))
    assert look(tmp_path).outcome is Outcome.OK
    assert verify(tmp_path).outcome is Outcome.FAILED


@pytest.mark.parametrize("name", ["a.gz", "a.bz2", "a.xz", "a.zip", "a.tar", "a.zst"])
def test_an_error_message_in_place_of_an_archive_is_no_backup(tmp_path: Path, name: str) -> None:
    put(tmp_path / name, b"pg_dump: error: connection to server failed\n" * 50)
    seen = look(tmp_path)
    assert (seen.outcome, seen.reason) == (Outcome.FAILED, "file-bad")


def test_the_format_that_a_job_names_is_demanded(tmp_path: Path) -> None:
    put(tmp_path / "dump", TEXT)
    assert look(tmp_path).outcome is Outcome.OK
    assert look(tmp_path, kind="pg_dump").outcome is Outcome.FAILED
    put(tmp_path / "x.gz", b"encrypted")
    assert look(tmp_path, kind="any").outcome is Outcome.OK


def test_a_file_that_may_not_be_read_is_unknown_unless_age_and_size_are_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "a.gz", b"x")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("watchbill_agent.backups.archive.open", refuse, raising=False)
    seen = look(tmp_path)
    assert (seen.outcome, seen.reason) == (Outcome.UNKNOWN, Reason.NEEDS_RUNNER)
    assert 'kind = "any"' in seen.errors[0]
    assert look(tmp_path, kind="any").outcome is Outcome.OK
    assert verify(tmp_path, kind="any").reason == Reason.NEEDS_RUNNER


def test_looking_into_a_file_that_is_gone_is_no_crash(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="cannot be read"):
        look_inside(str(tmp_path / "gone.gz"), "auto")


# ---------------------------------------------------------------- checksums, tests, parts


@pytest.mark.parametrize(
    "line", ["{hash}  dump.bin\n", "{hash} *dump.bin\n", "SHA256 (dump.bin) = {hash}\n", "{hash}\n", "{HASH}"]
)
def test_a_checksum_beside_a_file_is_compared(tmp_path: Path, line: str) -> None:
    put(tmp_path / "dump.bin", TEXT)
    digest = hashlib.sha256(TEXT).hexdigest()
    beside = put(tmp_path / "dump.bin.sha256", line.format(hash=digest, HASH=digest.upper()).encode())
    assert len(look(tmp_path).snapshots) == 1
    assert verify(tmp_path, checksum="required").outcome is Outcome.OK
    put(beside, line.format(hash="0" * 64, HASH="0" * 64).encode())
    found = verify(tmp_path)
    assert found.outcome is Outcome.FAILED
    assert "wanted 0000000000000000..." in found.errors[0]
    assert verify(tmp_path, checksum="none").outcome is Outcome.OK


def test_of_many_checksums_in_one_file_the_right_one_is_taken() -> None:
    content = f"{'1' * 32}  other\n{'2' * 32}  dump.gz\n".encode()
    assert read_checksum(content, "md5", "dump.gz") == "2" * 32
    with pytest.raises(BadFile, match="holds none"):
        read_checksum(b"not a checksum\n", "sha256", "dump.gz")


def test_a_checksum_that_is_demanded_and_missing_is_told_at_a_look(tmp_path: Path) -> None:
    put(tmp_path / "dump.bin", TEXT)
    seen = look(tmp_path, checksum="required")
    assert (seen.outcome, seen.reason) == (Outcome.FAILED, "checksum-missing")


def test_a_command_of_the_jobs_own_tests_each_file(tmp_path: Path) -> None:
    put(tmp_path / "good", b"fine\n")
    argv = ["/bin/grep", "-q", "fine", "{file}"]
    assert verify(tmp_path, test=argv).outcome is Outcome.OK
    put(tmp_path / "good", b"broken\n")
    found = verify(tmp_path, test=argv)
    assert found.outcome is Outcome.FAILED
    assert "/bin/grep exits 1" in found.errors[0]
    assert verify(tmp_path, test=["/no/such", "{file}"]).reason == Reason.TOOL_MISSING
    with pytest.raises(ConfigError):
        Table({"paths": ["/x"], "test": ["grep", "{file}"]}).read(Options)


def test_in_as_many_parts_as_there_are_all_files_are_read_and_the_newest_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(Files, "_prove_data", lambda _, found: read.append(Path(found.path).name))
    for number in range(40):
        put(tmp_path / f"{number:02}", age_ms=(50 - number) * HOUR_MS)
    counts = []
    for part in range(1, 6):
        before = len(read)
        found = verify(tmp_path, part=part, parts=5)
        assert found.proof is not None
        assert found.proof.fraction == pytest.approx(0.2)
        assert "39" in read[before:]
        counts.append(len(read) - before)
    assert set(read) == {f"{number:02}" for number in range(40)}
    assert max(counts) < 20


def test_a_file_that_is_replaced_while_it_is_read_is_not_called_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "a")

    def replaced(_: Files, found: Any) -> None:
        put(Path(found.path), b"other", 2 * HOUR_MS)
        raise BadFile("file-bad", "half of each")

    monkeypatch.setattr(Files, "_prove_data", replaced)
    assert verify(tmp_path).outcome is Outcome.OK


def test_a_verification_whose_time_is_up_proves_nothing(tmp_path: Path) -> None:
    put(tmp_path / "a", TEXT)
    made = Table({"paths": [f"{tmp_path}/*"]}).read(Options)
    late = Files(
        made, Job(name="d", definition=Definition(name="d", tool="files")), HostCommands(tmp_path, 0)
    )
    found = late.verify(Check(level=Level.DATA), NOW_MS)
    assert (found.outcome, found.reason, found.proof) == (Outcome.UNKNOWN, Reason.TIMED_OUT, None)


def test_nothing_to_verify_is_unknown_not_proved(tmp_path: Path) -> None:
    found = verify(tmp_path)
    assert (found.outcome, found.reason, found.proof) == (Outcome.UNKNOWN, Reason.NO_SNAPSHOTS, None)
