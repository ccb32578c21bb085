"""The restic adapter against the real restic: of repositories that are whole, damaged, locked, or somebody else's."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from watchbill.backups.definition import Definition
from watchbill.backups.record import Level, Outcome, read_record
from watchbill_agent.backups.adapter import Check, Finished, Job, RunFacts
from watchbill_agent.backups.adapters.restic import Options, Restic
from watchbill_agent.backups.command import HostCommands

pytestmark = pytest.mark.real("restic", "setpriv")

PASSWORD = "tr0ub4dor"
WHOLE_S = 60
NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
DAY_MS = 86_400_000
SOME_BYTES = 300_000


@dataclass
class House:
    """A repository, what it is made of, and how to ask for it."""

    place: Path
    repository: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def source(self) -> Path:
        return self.place / "source"

    @property
    def password(self) -> Path:
        return self.place / "password"

    def restic(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        argv = ("restic", "-r", str(self.repository), "--password-file", str(self.password), "--no-cache")
        return subprocess.run(
            (*argv, *arguments), capture_output=True, check=check, timeout=60, cwd=self.place
        )

    def start(self, *arguments: str, **more: Any) -> "subprocess.Popen[bytes]":
        argv = ("restic", "-r", str(self.repository), "--password-file", str(self.password), "--no-cache")
        return subprocess.Popen((*argv, *arguments), **more)

    def adapter(self, commands: HostCommands | None = None, **options: Any) -> Restic:
        options = {
            "repository": str(self.repository),
            "password_file": self.password,
            "sizes": "none",
            **options,
        }
        job = Job(name="files", definition=Definition(name="files", tool="restic"))
        return Restic(Options(**options), job, commands or HostCommands(self.place, WHOLE_S))

    def contents(self) -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.stat().st_mtime_ns, path.stat().st_size)
            for path in sorted(self.repository.rglob("*"))
        }

    def locks(self) -> list[Path]:
        """Without what is only being written."""
        return [path for path in (self.repository / "locks").iterdir() if len(path.name) == 64]

    def packs(self) -> list[Path]:
        """The smallest first: the trees', then the data's."""
        return sorted((self.repository / "data").glob("*/*"), key=lambda path: path.stat().st_size)


@pytest.fixture(scope="module")
def whole() -> Iterator[House]:
    """Two snapshots of this host. Not to be changed: damage is done to a copy."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    house = House(place, place / "repository")
    house.password.write_text(PASSWORD)
    house.source.mkdir()
    (house.source / "small").write_text("small")
    (house.source / "big").write_bytes(os.urandom(SOME_BYTES))
    house.restic("init")
    house.restic("backup", "source")
    (house.source / "more").write_text("more")
    house.restic("backup", "--tag", "job=files", "source")
    yield house
    shutil.rmtree(place)


@pytest.fixture
def house(whole: House) -> Iterator[House]:
    """A copy that may be damaged."""
    copy = Path(tempfile.mkdtemp(dir=whole.place))
    shutil.copytree(whole.repository, copy / "repository")
    yield House(whole.place, copy / "repository")
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


def flip(path: Path) -> None:
    """One byte in the middle."""
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def wait_for(what: Callable[[], Any]) -> None:
    until_s = time.monotonic() + 30
    while not what():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def read_run(house: House, finished: subprocess.CompletedProcess[bytes]) -> RunFacts:
    return house.adapter().read_run(finished.returncode, finished.stdout, finished.stderr)


# ---------------------------------------------------------------- what is whole


def test_a_whole_repository_is_read(whole: House) -> None:
    before = whole.contents()
    noting = Noting(whole.place, WHOLE_S)
    seen = whole.adapter(noting, sizes="stored").observe(now_ms())
    assert (seen.outcome, seen.reason, seen.errors) == (Outcome.OK, "", ())
    assert len(seen.snapshots) == 2
    assert seen.snapshots[0].time_ms < seen.snapshots[1].time_ms <= now_ms()
    assert seen.snapshots[1].time_ms > now_ms() - DAY_MS
    assert seen.bytes_source == SOME_BYTES + len("small") + len("more")
    assert seen.bytes_stored is not None
    assert SOME_BYTES < seen.bytes_stored < 2 * SOME_BYTES
    assert (seen.running, seen.repo_locked) == (False, False)
    assert len(seen.repo_id) == 64
    assert seen.tool_version.startswith("0.")
    assert whole.contents() == before
    assert noting.asked[0] == ("restic", "version")
    assert all("--no-lock" in argv for argv in noting.asked[1:])
    assert str(whole.repository) not in str(noting.asked)
    assert PASSWORD not in str(noting.asked) + noting.environment


def test_only_the_snapshots_of_this_job_count(whole: House) -> None:
    for options, count in (
        ({"host": "*", "tags": ("job=files",), "paths": (str(whole.source),)}, 1),
        ({"host": "web1"}, 0),
    ):
        seen = whole.adapter(**options).observe(now_ms())
        assert (seen.outcome, len(seen.snapshots)) == (Outcome.OK, count)
        assert seen.reason == ("" if count else "repository-foreign")
        assert count or socket.gethostname() in seen.errors[0]


def test_an_empty_repository_is_read_and_holds_nothing(house: House) -> None:
    shutil.rmtree(house.repository)
    house.restic("init")
    seen = house.adapter().observe(now_ms())
    assert (seen.outcome, seen.reason, seen.snapshots) == (Outcome.OK, "no-snapshots", ())


def test_a_snapshot_that_was_forgotten_is_no_longer_told_of(house: House) -> None:
    first, second = sorted(
        (house.repository / "snapshots").iterdir(), key=lambda path: path.stat().st_mtime_ns
    )
    house.restic("forget", first.name)
    assert [each.id for each in house.adapter().observe(now_ms()).snapshots] == [second.name]


def test_a_snapshot_of_the_future_is_told_of(house: House) -> None:
    house.restic("backup", "--time", "2099-01-01 00:00:00", "source")
    seen = house.adapter().observe(now_ms())
    assert (seen.outcome, seen.reason) == (Outcome.OK, "clock-ahead")
    assert seen.snapshots[-1].time_ms > now_ms() + 365 * DAY_MS
    assert "2099" in seen.errors[0]


# ---------------------------------------------------------------- what cannot be read


def _no_password(house: House) -> dict[str, Any]:
    other = house.repository.parent / "other-password"
    other.write_text("something else")
    return {"password_file": other}


def _no_rights(house: House) -> dict[str, Any]:
    """The real restic, as a user who may not read the repository."""
    house.repository.chmod(0o700)
    program = house.repository.parent / "restic-as-nobody"
    program.write_text(f'#!/bin/sh\nexec {" ".join(NOBODY)} restic "$@"\n')
    program.chmod(0o755)
    return {"program": str(program), "password_command": f"echo {PASSWORD}", "password_file": None}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (_no_password, "password-wrong"),
        (lambda house: {"password_file": house.place / "nowhere"}, "password-missing"),
        (lambda house: {"repository": str(house.place / "nowhere")}, "repository-missing"),
        (lambda house: {"repository": "rest:http://me:hunter2@127.0.0.1:9/"}, "repository-unreachable"),
        (lambda house: {"program": "restic-that-is-not"}, "tool-missing"),
        (_no_rights, "needs-runner"),
    ],
)
def test_why_it_cannot_be_read_is_one_word(
    house: House, options: Callable[[House], dict[str, Any]], reason: str
) -> None:
    if reason == "needs-runner" and os.geteuid() != 0:
        pytest.skip("only root can give up rights")
    seen = house.adapter(**options(house)).observe(now_ms())
    assert (seen.outcome, seen.reason) == (Outcome.UNKNOWN, reason)
    assert seen.errors
    assert "hunter2" not in "".join(seen.errors)


def test_a_repository_whose_config_is_damaged_cannot_be_restored(house: House) -> None:
    flip(house.repository / "config")
    seen = house.adapter().observe(now_ms())
    assert (seen.outcome, seen.reason) == (Outcome.FAILED, "repository-damaged")


def test_a_damaged_snapshot_which_restic_passes_over_is_told_of(house: House) -> None:
    damaged = next((house.repository / "snapshots").iterdir())
    flip(damaged)
    assert house.restic("snapshots", "--json", "--no-lock").returncode == 0
    seen = house.adapter().observe(now_ms())
    assert (seen.outcome, seen.reason) == (Outcome.PARTIAL, "snapshots-unreadable")
    assert len(seen.snapshots) == 1
    assert damaged.name[:8] in seen.errors[0]


def test_a_newest_snapshot_whose_tree_is_damaged_is_told_of(house: House) -> None:
    for pack in house.packs()[:-1]:
        flip(pack)
    seen = house.adapter(sizes="source").observe(now_ms())
    assert (seen.outcome, seen.reason, len(seen.snapshots)) == (Outcome.PARTIAL, "snapshot-unreadable", 2)


# ---------------------------------------------------------------- locks


def test_a_running_backup_is_seen_and_kept_out_of_nothing(house: House) -> None:
    reading = house.start("backup", "--stdin", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        wait_for(house.locks)
        seen = house.adapter().observe(now_ms())
        assert (seen.outcome, seen.reason) == (Outcome.OK, "")
        assert (seen.running, seen.repo_locked, len(seen.snapshots)) == (True, True, 2)
        verified = house.adapter().verify(Check(level=Level.STRUCTURE), now_ms())
        assert verified.outcome is Outcome.OK
        assert len(house.locks()) == 1
    finally:
        reading.communicate(b"done")
    assert reading.returncode == 0
    assert len(house.adapter().observe(now_ms()).snapshots) == 3


def test_a_lock_that_a_killed_restic_left_is_told_of(house: House) -> None:
    reading = house.start("backup", "--stdin", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    wait_for(house.locks)
    reading.send_signal(signal.SIGKILL)
    reading.communicate()
    assert house.restic("check", check=False).returncode in (1, 11)
    seen = house.adapter().observe(now_ms())
    assert (seen.outcome, seen.reason) == (Outcome.PARTIAL, "lock-stale")
    assert (seen.running, seen.repo_locked, len(seen.snapshots)) == (False, True, 2)
    assert "restic unlock" in seen.errors[0]
    assert f"process {reading.pid}" in seen.errors[1]
    assert house.adapter().verify(Check(level=Level.STRUCTURE), now_ms()).outcome is Outcome.OK


def test_nothing_is_verified_while_somebody_has_it_for_himself(house: House) -> None:
    alone = house.start("check", "--read-data", "--limit-download", "10", stdout=subprocess.DEVNULL)
    try:
        wait_for(house.locks)
        verified = house.adapter().verify(Check(level=Level.DATA), now_ms())
        assert (verified.outcome, verified.reason, verified.proof) == (
            Outcome.UNKNOWN,
            "repository-locked",
            None,
        )
        seen = house.adapter().observe(now_ms())
        assert (seen.outcome, seen.running, seen.repo_locked) == (Outcome.OK, False, True)
    finally:
        alone.kill()
        alone.wait()


# ---------------------------------------------------------------- proofs


def test_a_whole_repository_passes_every_verification_and_stays_as_it_is(
    whole: House, tmp_path: Path
) -> None:
    before = whole.contents()
    asked_for_json = whole.restic("check", "--no-lock", "--json").stdout
    assert b"no errors were found" in asked_for_json, "text all the same, so text is read"
    adapter = whole.adapter(restore_dir=tmp_path)
    for level in Level:
        verified = adapter.verify(Check(level=level), now_ms())
        assert (verified.outcome, verified.reason, verified.errors) == (Outcome.OK, "", ())
        assert verified.proof is not None
        assert (verified.proof.level, verified.proof.ok, verified.proof.fraction) == (level, True, 1.0)
    assert whole.contents() == before
    assert not list(tmp_path.iterdir())


def test_flipped_bits_are_found_by_reading_the_data_and_by_nothing_less(house: House, tmp_path: Path) -> None:
    flip(house.packs()[-1])
    adapter = house.adapter(restore_dir=tmp_path)
    assert adapter.observe(now_ms()).outcome is Outcome.OK
    assert adapter.verify(Check(level=Level.STRUCTURE), now_ms()).outcome is Outcome.OK
    for level in (Level.DATA, Level.RESTORE):
        verified = adapter.verify(Check(level=level), now_ms())
        assert (verified.outcome, verified.reason) == (Outcome.FAILED, "repository-damaged")
        assert verified.proof is not None
        assert not verified.proof.ok
        assert verified.proof.bad >= 1
        assert verified.errors
    assert not list(tmp_path.iterdir())


def test_of_all_parts_of_the_data_one_finds_the_damage(house: House) -> None:
    pack = house.packs()[-1]
    flip(pack)
    adapter = house.adapter()
    outcomes = [
        adapter.verify(Check(level=Level.DATA, part=part, parts=3), now_ms()).outcome for part in (1, 2, 3)
    ]
    bad = int(pack.name[:2], 16) % 3
    assert outcomes == [Outcome.FAILED if part == bad else Outcome.OK for part in range(3)]


def test_a_pack_that_is_lost_is_found_by_the_structure(house: House) -> None:
    house.packs()[-1].unlink()
    verified = house.adapter().verify(Check(level=Level.STRUCTURE), now_ms())
    assert (verified.outcome, verified.reason) == (Outcome.FAILED, "repository-damaged")


# ---------------------------------------------------------------- runs


def test_a_run_tells_its_snapshot_and_sizes(house: House) -> None:
    facts = read_run(house, house.restic("backup", "--json", "source"))
    assert (facts.outcome, facts.reason) == (Outcome.OK, "")
    assert (facts.files, facts.files_failed) == (3, 0)
    assert facts.bytes_source == SOME_BYTES + len("small") + len("more")
    assert house.adapter().observe(now_ms()).snapshots[-1].id.startswith(facts.snapshot_id)


def test_a_source_that_is_not_there_makes_a_run_partial_though_restic_calls_it_a_success(
    house: House,
) -> None:
    for json_or_text in (("--json",), ()):
        finished = house.restic("backup", *json_or_text, "source", "unmounted", check=False)
        assert finished.returncode in (0, 3)
        facts = read_run(house, finished)
        assert (facts.outcome, facts.reason) == (Outcome.PARTIAL, "source-missing")
        assert "unmounted" in facts.errors[0]
        assert facts.snapshot_id


def test_a_run_whose_sources_are_all_missing_failed(house: House) -> None:
    facts = read_run(house, house.restic("backup", "--json", "unmounted", check=False))
    assert (facts.outcome, facts.reason) == (Outcome.FAILED, "source-missing")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up rights")
def test_a_file_that_cannot_be_read_makes_a_run_partial(house: House) -> None:
    place = house.repository.parent
    place.chmod(0o755)
    secret = place / "source"
    secret.mkdir()
    (secret / "open").write_text("open")
    (secret / "closed").write_text("closed")
    (secret / "closed").chmod(0o600)
    env = {
        "RESTIC_REPOSITORY": str(place / "theirs"),
        "RESTIC_PASSWORD_COMMAND": "echo x",
        "PATH": os.environ["PATH"],
    }
    place.chmod(0o777)
    run = {"capture_output": True, "timeout": 60, "env": env, "cwd": place}
    subprocess.run((*NOBODY, "restic", "init", "--no-cache"), check=True, **run)
    finished = subprocess.run(
        (*NOBODY, "restic", "backup", "--json", "--no-cache", "source"), check=False, **run
    )
    assert finished.returncode == 3
    facts = read_run(house, finished)
    assert (facts.outcome, facts.reason, facts.files_failed) == (Outcome.PARTIAL, "source-unreadable", 1)
    assert "closed" in facts.errors[0]
    assert facts.snapshot_id


def test_a_wrapped_run_passes_unchanged_and_its_record_says_what_restic_left_out(
    house: House, tmp_path: Path
) -> None:
    (tmp_path / "var/agent").mkdir(parents=True)
    (tmp_path / "etc/backups.d").mkdir(parents=True)
    (tmp_path / "etc/backups.d/files.toml").write_text(
        f'[[backup]]\nname = "nightly"\ntool = "restic"\n[backup.restic]\n'
        f'repository = "{house.repository}"\npassword_file = "{house.password}"\n'
    )
    wrap = (sys.executable, "-m", "watchbill_agent", "backup", "wrap", "nightly", "--")
    restic = ("restic", "-r", str(house.repository), "--password-file", str(house.password), "--no-cache")
    finished = subprocess.run(
        (*wrap, *restic, "backup", "--json", "source", "unmounted"),
        capture_output=True,
        timeout=60,
        cwd=house.place,
        env={**os.environ, "WATCHBILL_HOME": str(tmp_path)},
        check=False,
    )
    assert finished.returncode in (0, 3)
    assert b'"message_type":"summary"' in finished.stdout
    written = (tmp_path / "var/agent/backups/incoming").glob("[0-9]*.json")
    told = next(record for record in map(read_record, map(Path.read_bytes, written)) if record.finished_ms)
    assert (told.job, told.outcome, told.reason, told.exit_code) == (
        "nightly",
        Outcome.PARTIAL,
        "source-missing",
        finished.returncode,
    )
    assert told.files == 3
    assert told.snapshot_id
    assert told.snapshot_id.encode() in finished.stdout
    assert "unmounted" in told.errors[0]


def test_a_run_that_failed_says_why(house: House) -> None:
    shutil.rmtree(house.repository)
    facts = read_run(house, house.restic("backup", "--json", "source", check=False))
    assert (facts.outcome, facts.reason) == (Outcome.FAILED, "repository-missing")


@pytest.mark.parametrize(
    ("what", "codes", "reason"),
    [("lock", (1, 11), "repository-locked"), ("password", (1, 12), "password-wrong")],
)
def test_a_run_that_is_refused_says_why_by_its_text_where_its_code_says_nothing(
    house: House, what: str, codes: tuple[int, int], reason: str
) -> None:
    alone = None
    if what == "lock":
        alone = house.start("check", "--read-data", "--limit-download", "10", stdout=subprocess.DEVNULL)
        wait_for(house.locks)
    else:
        house = replace(house, place=house.repository.parent)
        house.password.write_text("something else")
    try:
        finished = house.restic("backup", "--json", str(house.repository / "config"), check=False)
    finally:
        if alone is not None:
            alone.kill()
            alone.wait()
    assert finished.returncode in codes
    facts = read_run(house, finished)
    assert (facts.outcome, facts.reason, facts.snapshot_id) == (Outcome.FAILED, reason, "")
    assert facts.errors


def test_a_run_that_was_interrupted_failed(house: House) -> None:
    reading = house.start(
        "backup", "--json", "--stdin", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=-1
    )
    wait_for(house.locks)
    reading.send_signal(signal.SIGINT)
    out, err = reading.communicate()
    facts = house.adapter().read_run(reading.returncode, out, err)
    assert (facts.outcome, facts.reason) == (Outcome.FAILED, "interrupted")


# ---------------------------------------------------------------- how it asks


def test_an_address_and_credentials_may_be_in_files(whole: House, tmp_path: Path) -> None:
    (tmp_path / "repository").write_text(str(whole.repository))
    (tmp_path / "environment").write_text(
        '# theirs\nexport AWS_PROFILE="backup"\nRESTIC_REPOSITORY=/nowhere\n'
    )
    seen = whole.adapter(
        repository="", repository_file=tmp_path / "repository", environment_file=tmp_path / "environment"
    ).observe(now_ms())
    assert seen.outcome is Outcome.OK, seen.errors
