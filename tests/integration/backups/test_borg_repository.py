"""The borg adapter against the real borg: what it says of repositories that are whole, damaged, locked, of others."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from watchbill.backups.definition import Definition
from watchbill.backups.record import Level, Outcome
from watchbill_agent.backups.adapter import Check, Finished, Job
from watchbill_agent.backups.adapters.borg import Borg, Options
from watchbill_agent.backups.command import HostCommands

pytestmark = pytest.mark.real("borg", "setpriv")

PASSPHRASE = "tr0ub4dor"
WHOLE_S = 60
NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
HOUR_MS = 3_600_000
SOME_BYTES = 300_000
TOKYO_H = 9


@dataclass
class House:
    """A repository, what it is made of, and how to ask for it."""

    place: Path
    repository: Path
    passphrase: Path

    def borg(self, *arguments: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ("borg", *arguments),
            env=self.env(**env),
            capture_output=True,
            check=check,
            timeout=60,
            cwd=self.place,
        )

    def env(self, **more: str) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "BORG_REPO": str(self.repository),
            "BORG_PASSCOMMAND": f"cat {self.passphrase}",
            "BORG_BASE_DIR": str(self.place / "theirs"),
            "TZ": "Asia/Tokyo",
            **more,
        }

    def adapter(self, commands: HostCommands | None = None, **options: Any) -> Borg:
        options = {"repository": str(self.repository), "passphrase_file": self.passphrase, **options}
        scratch = self.place / "scratch"
        job = Job(name="files", definition=Definition(name="files", tool="borg"), scratch=scratch)
        return Borg(Options(**options), job, commands or HostCommands(scratch, WHOLE_S))

    def contents(self) -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.stat().st_mtime_ns, path.stat().st_ino)
            for path in sorted(self.repository.rglob("*"))
        }


@pytest.fixture(scope="module")
def whole() -> Iterator[House]:
    """Two archives, made by somebody in Tokyo. Not to be changed: damage is done to a copy."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    (place / "scratch").mkdir()
    (place / "source").mkdir()
    (place / "source" / "big").write_bytes(os.urandom(SOME_BYTES))
    (place / "source" / "small").write_text("small")
    (place / "passphrase").write_text(PASSPHRASE)
    house = House(place, place / "repository", place / "passphrase")
    house.borg("init", "-e", "repokey-blake2")
    house.borg("create", "--timestamp", "2026-01-01T00:00:00", "::db-1", "source/small")
    house.borg("create", "::files-1", "source")
    yield house
    shutil.rmtree(place)


@pytest.fixture
def house(whole: House) -> Iterator[House]:
    """A copy that may be damaged, in its own place: borg remembers where a repository was."""
    copy = Path(tempfile.mkdtemp())
    copy.chmod(0o755)
    shutil.copytree(whole.repository, copy / "repository")
    (copy / "scratch").mkdir()
    shutil.copytree(whole.place / "source", copy / "source")
    yield House(copy, copy / "repository", whole.passphrase)
    shutil.rmtree(copy)


class Noting(HostCommands):
    """Runs what it is given, and remembers it."""

    asked: tuple[tuple[str, ...], ...] = ()
    environment: str = ""

    def run(self, argv: Any, **more: Any) -> Finished:
        self.asked += (tuple(argv),)
        self.environment += "".join((more.get("env") or {}).values())
        return super().run(argv, **more)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def wait_for(what: Callable[[], Any]) -> None:
    until_s = time.monotonic() + 30
    while not what():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def flip(path: Path) -> None:
    """One byte in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


# ---------------------------------------------------------------- what is whole


def test_a_whole_repository_is_read_without_a_trace_and_in_utc(
    whole: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    before = whole.contents()
    noting = Noting(whole.place / "scratch", WHOLE_S)
    seen = whole.adapter(noting).observe(now_ms())
    assert (seen.outcome, seen.reason, seen.errors) == (Outcome.OK, "", ())
    assert len(seen.snapshots) == 2
    assert now_ms() - HOUR_MS < seen.snapshots[-1].time_ms <= now_ms()
    assert (seen.running, seen.repo_locked, len(seen.repo_id)) == (False, False, 64)
    assert seen.tool_version.startswith("1.")
    assert whole.contents() == before
    assert [argv[1:3] for argv in noting.asked] == [("--version",), ("--log-json", "--bypass-lock")]
    assert PASSPHRASE not in str(noting.asked) + noting.environment


def test_what_borg_itself_prints_is_the_time_of_whoever_asks_without_a_zone(whole: House) -> None:
    said = whole.borg("list", "--last", "1", "--json").stdout
    start = datetime.fromisoformat(said.split(b'"start": "')[1].split(b'"')[0].decode())
    if start.tzinfo is None:  # Before 2.0.
        read_as_utc_ms = (start - datetime(1970, 1, 1)).total_seconds() * 1000
        assert now_ms() + (TOKYO_H - 1) * HOUR_MS < read_as_utc_ms < now_ms() + (TOKYO_H + 1) * HOUR_MS


def test_an_archive_chosen_by_its_name_is_measured_where_that_is_asked_for(whole: House) -> None:
    adapter = whole.adapter(archives="files-*", sizes=True)
    seen = adapter.observe(now_ms())
    assert (len(seen.snapshots), seen.files, seen.bytes_source) == (1, 2, SOME_BYTES + len("small"))
    assert seen.bytes_stored is not None
    assert seen.bytes_stored > SOME_BYTES


def test_an_archive_that_was_deleted_is_no_longer_told_of_and_one_of_the_future_is(house: House) -> None:
    house.borg("delete", "::db-1", BORG_RELOCATED_REPO_ACCESS_IS_OK="yes")
    house.borg("create", "--timestamp", "2099-01-01T00:00:00", "::files-2", "source/small")
    seen = house.adapter().observe(now_ms())
    assert (seen.outcome, seen.reason, len(seen.snapshots)) == (Outcome.OK, "clock-ahead", 2)
    assert "files-2" in seen.errors[0]


def test_an_empty_repository_without_encryption_is_read_only_where_that_is_meant(house: House) -> None:
    shutil.rmtree(house.repository)
    house.borg("init", "-e", "none")
    refused = house.adapter().observe(now_ms())
    assert (refused.outcome, refused.reason) == (Outcome.UNKNOWN, "access-refused")
    seen = house.adapter(unencrypted=True).observe(now_ms())
    assert (seen.outcome, seen.reason, seen.snapshots) == (Outcome.OK, "no-snapshots", ())


# ---------------------------------------------------------------- what cannot be read


def _wrong_passphrase(house: House) -> dict[str, Any]:
    other = house.place / "other"
    other.write_text("something else")
    return {"passphrase_file": other}


def _no_rights(house: House) -> dict[str, Any]:
    """The real borg, as a user who may not read the repository."""
    house.repository.chmod(0o700)
    (house.place / "scratch").chmod(0o777)
    program = house.place / "borg-as-nobody"
    program.write_text(f'#!/bin/sh\nexec {" ".join(NOBODY)} borg "$@"\n')
    program.chmod(0o755)
    return {"program": str(program), "passcommand": f"echo {PASSPHRASE}", "passphrase_file": None}


def _empty_directory(house: House) -> dict[str, Any]:
    (house.place / "unmounted").mkdir()
    return {"repository": str(house.place / "unmounted")}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (_wrong_passphrase, "password-wrong"),
        (_empty_directory, "repository-missing"),
        (lambda house: {"repository": str(house.place / "nowhere")}, "repository-missing"),
        (lambda house: {"repository": "ssh://me@127.0.0.1:9/x", "rsh": "false"}, "repository-unreachable"),
        (lambda house: {"program": "borg-that-is-not"}, "tool-missing"),
        (_no_rights, "needs-runner"),
    ],
)
def test_why_it_cannot_be_read_is_one_word(
    house: House, options: Callable[[House], dict[str, Any]], reason: str
) -> None:
    if reason == "needs-runner" and os.geteuid() != 0:
        pytest.skip("only root can give up rights")
    seen = house.adapter(**options(house)).observe(now_ms())
    assert (seen.outcome, seen.reason) == (Outcome.UNKNOWN, reason), seen.errors
    assert seen.errors


def test_a_repository_whose_manifest_is_damaged_cannot_be_restored(house: House) -> None:
    segments = [path for path in house.repository.glob("data/*/*") if path.stat().st_size > 100]
    flip(max(segments, key=lambda path: int(path.name)))
    seen = house.adapter().observe(now_ms())
    assert (seen.outcome, seen.reason) == (Outcome.FAILED, "repository-damaged"), seen.errors


# ---------------------------------------------------------------- locks


def test_a_running_backup_is_seen_through_its_lock_and_what_it_leaves_when_killed_is_no_backup(
    house: House,
) -> None:
    env = house.env(BORG_RELOCATED_REPO_ACCESS_IS_OK="yes")
    argv = ("borg", "create", "--checkpoint-interval", "1", "::files-2", "-")
    running = subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=-1)
    assert running.stdin is not None
    try:
        wait_for((house.repository / "lock.exclusive").exists)
        waits = house.borg("--lock-wait", "0", "list", check=False)
        assert waits.returncode in (2, 73)
        segments = len(list(house.repository.glob("data/*/*")))
        while len(list(house.repository.glob("data/*/*"))) < segments + 3:
            running.stdin.write(os.urandom(4_000_000))
            time.sleep(0.2)
        seen = house.adapter().observe(now_ms())
        assert (seen.outcome, seen.running, seen.repo_locked) == (Outcome.OK, True, True)
        assert len(seen.snapshots) == 2
    finally:
        running.send_signal(signal.SIGKILL)
        running.communicate()
    left = house.borg("--bypass-lock", "list", "--consider-checkpoints", "--short").stdout
    assert b"files-2.checkpoint" in left
    seen = house.adapter().observe(now_ms())
    assert (seen.outcome, seen.reason, seen.running) == (Outcome.OK, "lock-stale", False)
    assert (seen.repo_locked, len(seen.snapshots)) == (True, 2)
    assert f"process {running.pid}" in seen.errors[1]


# ---------------------------------------------------------------- proofs


def test_a_whole_repository_passes_every_verification_and_stays_as_it_is(
    whole: House, tmp_path: Path
) -> None:
    before = whole.contents()
    adapter = whole.adapter(archives="files-*", restore_dir=tmp_path)
    for check in (
        Check(level=Level.STRUCTURE),
        Check(level=Level.DATA),
        Check(level=Level.RESTORE),
    ):
        verified = adapter.verify(check, now_ms())
        assert (verified.outcome, verified.reason, verified.errors) == (Outcome.OK, "", ())
        assert verified.proof is not None
        assert (verified.proof.level, verified.proof.ok, verified.proof.fraction) == (
            check.level,
            True,
            check.fraction,
        )
    assert whole.contents() == before
    assert not list(tmp_path.iterdir())


def test_borgs_own_check_writes_into_the_repository_though_it_is_told_to_take_no_lock(house: House) -> None:
    """Why it is not what verifies here. A version that no longer does may be verified with it."""
    before = house.contents()
    house.borg("--bypass-lock", "check", BORG_RELOCATED_REPO_ACCESS_IS_OK="yes")
    changed = {Path(path).name for path, facts in house.contents().items() if before.get(path) != facts}
    assert {"config", "nonce"} <= changed


def test_flipped_bits_are_found_by_reading_the_data_and_by_nothing_less(house: House, tmp_path: Path) -> None:
    flip(max(house.repository.glob("data/*/*"), key=lambda path: path.stat().st_size))
    adapter = house.adapter(archives="files-*", restore_dir=tmp_path)
    assert adapter.verify(Check(level=Level.STRUCTURE), now_ms()).outcome is Outcome.OK
    for check in (Check(level=Level.DATA), Check(level=Level.RESTORE)):
        verified = adapter.verify(check, now_ms())
        assert (verified.outcome, verified.reason) == (Outcome.FAILED, "repository-damaged"), verified.errors
        assert verified.proof is not None
        assert not verified.proof.ok
        assert verified.errors
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- runs


def test_a_run_tells_its_archive_and_sizes(house: House) -> None:
    finished = house.borg("create", "--json", "::files-2", "source", BORG_RELOCATED_REPO_ACCESS_IS_OK="yes")
    facts = house.adapter().read_run(finished.returncode, finished.stdout, finished.stderr)
    assert (facts.outcome, facts.reason, facts.files, facts.files_failed) == (Outcome.OK, "", 2, 0)
    assert facts.bytes_source is not None
    assert facts.bytes_source >= SOME_BYTES
    assert len(facts.snapshot_id) == 64


def test_a_source_that_is_not_there_makes_a_run_partial(house: House) -> None:
    finished = house.borg(
        "--log-json",
        "create",
        "--json",
        "::files-2",
        "source",
        "unmounted",
        check=False,
        BORG_RELOCATED_REPO_ACCESS_IS_OK="yes",
    )
    assert finished.returncode in (1, 107)
    facts = house.adapter().read_run(finished.returncode, finished.stdout, finished.stderr)
    assert (facts.outcome, facts.reason, facts.files_failed) == (Outcome.PARTIAL, "source-missing", 1)
    assert "unmounted" in facts.errors[0]
    assert facts.snapshot_id


def test_a_run_that_failed_says_why(house: House) -> None:
    shutil.rmtree(house.repository)
    finished = house.borg("create", "::files-2", "source", check=False)
    assert finished.returncode in (2, 13)
    named = house.borg("--log-json", "create", "::files-2", "source", check=False)
    assert b'"msgid": "Repository.DoesNotExist"' in named.stderr, "by this name it is known whatever its code"
    facts = house.adapter().read_run(finished.returncode, finished.stdout, finished.stderr)
    assert (facts.outcome, facts.reason) == (Outcome.FAILED, "repository-missing")
