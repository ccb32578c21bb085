"""Manifests: what is in one, and what restored files are found out by."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from watchbill.backups.definition import Definition
from watchbill.backups.record import Kind, Level, Outcome, Proof, read_record, record_fault
from watchbill.errors import Permanent, StorageError, Unreadable
from watchbill_agent.backups import manifest_make, tree
from watchbill_agent.backups.adapter import Check, Job
from watchbill_agent.backups.adapters.restic import Options, Restic
from watchbill_agent.backups.command import HostCommands
from watchbill_agent.backups.manifest import (
    KEPT_PER_JOB,
    LARGEST_MAX,
    SAMPLE_MAX,
    WHOLE_BYTES_MAX,
    Kept,
    Manifest,
    Shelf,
    decode,
    digest_of,
)
from watchbill_agent.backups.manifest_check import check, record_of, unlike
from watchbill_agent.backups.manifest_make import made, make

LONG_AGO = 1_600_000_000


def later_ms() -> int:
    """A run that begins after everything was written."""
    return (time.time_ns() + 10 * tree.MARGIN_NS) // 1_000_000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    place = tmp_path / "srv" / "files"
    for number in range(30):
        directory = place / f"d{number % 3}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"f{number}").write_bytes(bytes([number]) * number * 100)
    (place / "link").symlink_to("/etc/passwd")
    os.mkfifo(place / "pipe")
    (place / os.fsdecode(b"\xff\xfe")).write_bytes(b"no text")
    with (place / "large").open("wb") as file:
        file.truncate(WHOLE_BYTES_MAX * 3)
    return place


@pytest.fixture
def restored(tmp_path: Path, source: Path) -> Path:
    at = tmp_path / "restored"
    target = at / str(source).lstrip("/")
    target.parent.mkdir(parents=True)
    subprocess.run(["cp", "-a", str(source), str(target)], check=True, timeout=20)
    return at


def test_a_manifest_counts_everything_and_samples_plain_files_that_did_not_move(source: Path) -> None:
    manifest = make("nightly", [str(source)], ["*/d2/*"], later_ms())
    counts = manifest.counts
    assert (counts.files, counts.links, counts.others, counts.directories) == (22, 1, 1, 4)
    assert (counts.moving, counts.unreadable, counts.whole) == (0, 0, True)
    names = [Path(one.path).name for one in manifest.sample]
    assert len(names) == 22
    assert "link" not in names
    assert "pipe" not in names
    assert not any("/d2/" in one.path for one in manifest.sample)
    assert decode(manifest.encode()) == manifest
    assert digest_of(decode(manifest.encode()).encode()) == digest_of(manifest.encode())


def test_what_changed_since_the_run_began_is_counted_and_not_sampled(source: Path) -> None:
    began_ms = time.time_ns() // 1_000_000
    assert make("nightly", [str(source)], [], began_ms).sample == ()
    manifest = make("nightly", [str(source)], [], began_ms)
    assert manifest.counts.moving == manifest.counts.files == 32


def test_the_sample_is_bounded_and_has_the_largest_files(source: Path) -> None:
    for number in range(500):
        (source / f"n{number}").write_bytes(b"x" * (1 + number % 7))
    for number in range(LARGEST_MAX):
        (source / f"big{number}").write_bytes(b"x" * (100_000 + number))
    manifest = make("nightly", [str(source)], [], later_ms())
    assert SAMPLE_MAX <= len(manifest.sample) <= SAMPLE_MAX + LARGEST_MAX
    names = {Path(one.path).name for one in manifest.sample}
    assert {f"big{number}" for number in range(1, LARGEST_MAX)} | {"large"} <= names
    assert all(sum(piece.length for piece in one.pieces) <= WHOLE_BYTES_MAX for one in manifest.sample)


def test_the_same_seed_draws_the_same_sample(source: Path) -> None:
    for number in range(500):
        (source / f"n{number}").touch()
    samples = []
    for seed in ("a", "a", "b"):
        walk = tree.Walk([str(source)], [], seed, 0, time.monotonic() + 30)
        walk.run()
        samples.append([file.path for file in walk.sample])
    assert samples[0] == samples[1] != samples[2]


def test_time_that_is_up_ends_the_walk_and_is_said(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "LOOK_AT_CLOCK_EVERY", 1)
    monkeypatch.setattr(manifest_make, "WALK_S", -1.0)
    manifest = make("nightly", [str(source)], [], later_ms())
    assert not manifest.counts.whole


def test_bytes_that_may_be_read_are_bounded(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "READ_BYTES_MAX", 5_000)
    manifest = make("nightly", [str(source)], [], later_ms())
    assert 0 < len(manifest.sample) < 32


def test_a_manifest_is_made_in_a_process_of_its_own(source: Path) -> None:
    manifest, content = made("nightly", [str(source)], [], later_ms())
    assert decode(content) == manifest
    assert len(manifest.sample) == 32


def test_a_process_that_hangs_is_ended(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_make, "MAKE_S_MAX", 0.01)
    with pytest.raises(Permanent, match="took more than"):
        made("nightly", [str(source)], [], later_ms())


def test_files_restored_as_they_were_pass(source: Path, restored: Path) -> None:
    manifest = make("nightly", [str(source)], [], later_ms())
    checked = check(manifest, restored)
    assert checked.ok
    assert (checked.compared, checked.bad, checked.missing, checked.files) == (32, 0, 0, 32)
    inside = restored / str(source).lstrip("/")
    assert check(manifest, inside).ok, "the only root restored as a directory"
    assert check(manifest, inside.parent, strip=str(source.parent)).ok


def flipped(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def swapped_for_a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (lambda at: flipped(at / "d1/f10", 500), "its content is another one"),
    "a flipped bit at the end of a large file": (
        lambda at: flipped(at / "large", WHOLE_BYTES_MAX * 3 - 1),
        "its content is another one",
    ),
    "a file cut short": (lambda at: os.truncate(at / "d1/f10", 7), "it has 7 bytes, and had 1000"),
    "a file that is missing": (lambda at: (at / "d1/f10").unlink(), "it is not there"),
    "a directory in place of a file": (
        lambda at: ((at / "d1/f10").unlink(), (at / "d1/f10").mkdir()),
        "it is no plain file",
    ),
    "a link in place of a file": (lambda at: swapped_for_a_link(at / "d1/f10"), "symbolic links"),
    "nothing at all": (lambda at: shutil.rmtree(at / "d0"), "22 files are there, and 32 were at least"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_restore_that_is_not_what_was_there_is_found_out(
    source: Path, restored: Path, damage: tuple[Callable[[Path], object], str]
) -> None:
    manifest = make("nightly", [str(source)], [], later_ms())
    harm, said = damage
    harm(restored / str(source).lstrip("/"))
    checked = check(manifest, restored)
    assert not checked.ok
    assert any(said in error for error in checked.errors), checked.errors
    record = record_of(Kept(Path("x"), "d" * 64, manifest), checked, 1_800_000_000_000)
    assert (record.kind, record.outcome) == (Kind.RESTORE, Outcome.FAILED)
    assert record.verify is not None
    assert (record.verify.level, record.verify.ok) == (Level.RESTORE, False)
    assert record.verify.bad >= 1
    assert record_fault(record) == ""


def test_of_a_partial_restore_what_is_there_is_compared_and_counts_as_that_part(
    source: Path, restored: Path
) -> None:
    manifest = make("nightly", [str(source)], [], later_ms())
    shutil.rmtree(restored / str(source).lstrip("/") / "d0")
    checked = check(manifest, restored, partial=True)
    record = record_of(Kept(Path("x"), "d" * 64, manifest), checked, 1_800_000_000_000)
    assert checked.ok
    assert record.outcome is Outcome.OK
    assert record.verify is not None
    assert record.verify.fraction == round(22 / 32, 6)


def test_an_empty_sample_proves_nothing(tmp_path: Path) -> None:
    manifest = Manifest(job="a", started_ms=1, made_ms=2, seed="s", roots=("/x",))
    record = record_of(Kept(Path("x"), "d", manifest), check(manifest, tmp_path), 3)
    assert (record.outcome, record.reason, record.verify) == (Outcome.UNKNOWN, "manifest-empty", None)


def test_the_newest_manifests_of_a_job_are_kept(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    with pytest.raises(StorageError, match="no manifest of a"):
        shelf.newest("a")
    one = Manifest(job="a", started_ms=0, made_ms=2, seed="s", roots=("/x",))
    for number in range(KEPT_PER_JOB + 3):
        manifest = replace(one, started_ms=1000 + number)
        shelf.put(manifest, manifest.encode())
    assert shelf.newest("a").manifest.started_ms == 1000 + KEPT_PER_JOB + 2
    assert len(list((tmp_path / "backups/manifests/a").iterdir())) == KEPT_PER_JOB


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[" * 20_000,
        b'{"version":2}',
        b'{"version":1,"job":5}',
        b"\xff",
        b'{"version":1,"job":"a"}',
    ],
)
def test_what_is_no_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(Unreadable, match="manifest"):
        decode(content)


@pytest.mark.real("restic")
def test_a_verification_by_restore_compares_with_the_manifest_of_its_run(
    tmp_path: Path, source: Path
) -> None:
    shelf, password, repository = Shelf(tmp_path), tmp_path / "password", tmp_path / "repository"
    password.write_text("secret")
    tool = ("restic", "-q", "-r", str(repository), "--password-file", str(password))
    home = {**os.environ, "HOME": str(tmp_path)}
    time.sleep(tree.MARGIN_NS / 1e9 + 0.1)
    began_ms = time.time_ns() // 1_000_000
    for words in (("init",), ("backup", str(source))):
        subprocess.run([*tool, *words], check=True, timeout=60, env=home, capture_output=True)
    manifest = make("nightly", [str(source)], [], began_ms)
    kept = shelf.put(manifest, manifest.encode())
    job = Job(name="nightly", definition=Definition(name="nightly", tool="restic"), manifests=kept.parent)
    (tmp_path / "room").mkdir()
    options = Options(repository=str(repository), password_file=password, restore_dir=tmp_path / "room")
    adapter = Restic(options, job, HostCommands(tmp_path, 120))
    level = Check(level=Level.RESTORE)
    good = adapter.verify(level, time.time_ns() // 1_000_000)
    assert (good.outcome, good.errors) == (Outcome.OK, ())
    place = next(at for at, one in enumerate(manifest.sample) if one.path.endswith("d1/f10"))
    sample = list(manifest.sample)
    sample[place] = replace(sample[place], pieces=(replace(sample[place].pieces[0], sha256="0" * 64),))
    other = replace(manifest, sample=tuple(sample))
    kept.write_bytes(other.encode())
    bad = adapter.verify(level, time.time_ns() // 1_000_000)
    assert (bad.outcome, bad.reason) == (Outcome.FAILED, "restored-differently")
    assert "d1/f10: its content is another one" in bad.errors[0]
    assert bad.proof == Proof(level=Level.RESTORE, ok=False, bad=1)
    kept.write_bytes(replace(other, made_ms=began_ms).encode())
    assert unlike(kept.parent, tmp_path, began_ms + 5_000) is None, "a manifest of another run"


def test_from_a_wrapped_backup_to_the_proof_of_its_restore(tmp_path: Path, source: Path) -> None:
    home = tmp_path / "home"
    (home / "var/agent").mkdir(parents=True)
    old = {"LC_ALL": "C.UTF-8", **os.environ, "WATCHBILL_HOME": str(home)}
    program = (sys.executable, "-m", "watchbill_agent", "backup")
    for path in [*source.rglob("*"), source]:
        os.utime(path, (LONG_AGO, LONG_AGO), follow_symlinks=False)
    time.sleep(tree.MARGIN_NS / 1e9 + 0.1)  # Change times cannot be set back.
    archive = tmp_path / "backup.tar"
    packed = ("tar", "-C", "/", "-cf", str(archive), str(source).lstrip("/"))
    done = subprocess.run(
        [*program, "wrap", "--manifest", str(source), "nightly", "--", *packed],
        env=old,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == b""
    incoming = home / "var/agent/backups/incoming"
    records = [read_record(path.read_bytes()) for path in incoming.iterdir()]
    ended = next(record for record in records if record.outcome is Outcome.OK)
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-C", str(tmp_path / "out"), "-xf", str(archive)], check=True, timeout=60)
    check_it = [*program, "manifest", "check", "nightly", "--at", str(tmp_path / "out"), "--json"]
    found = subprocess.run(check_it, env=old, capture_output=True, timeout=60, check=True)
    answer = json.loads(found.stdout)
    assert (answer["ok"], answer["compared"], answer["digest"]) == (True, 32, ended.manifest_digest)
    flipped(tmp_path / "out" / str(source).lstrip("/") / "d2/f29", 9)
    found = subprocess.run(check_it, env=old, capture_output=True, timeout=60, check=False)
    assert found.returncode == 1
    assert json.loads(found.stdout)["bad"] == 1
    outcomes = [read_record(path.read_bytes()) for path in incoming.iterdir()]
    assert {(r.outcome, r.point_ms) for r in outcomes if r.kind is Kind.RESTORE} == {
        (Outcome.OK, ended.started_ms),
        (Outcome.FAILED, ended.started_ms),
    }
