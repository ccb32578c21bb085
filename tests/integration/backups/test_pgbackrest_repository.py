"""What the adapter says of a real pgBackRest repository, whole and damaged in the ways that pgBackRest calls ok."""

import os
import shutil
import signal
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from watchbill.backups.record import Level, Outcome
from watchbill_agent.backups.adapter import Check, Finished, Observation, Reason, Verification
from watchbill_agent.backups.adapters import pgbackrest
from watchbill_agent.backups.adapters.pgbackrest import Options, PgBackRest
from watchbill_agent.backups.command import HostCommands

from .cluster import POSTGRESQL_BIN, STANZA, Cluster, closed, commands, flipped, gone, job, replaced

pytestmark = pytest.mark.real("pgbackrest", "check_pgbackrest", "setpriv")

STRUCTURE = Check(level=Level.STRUCTURE)
DATA = Check(level=Level.DATA)
ARCHIVE = f"repo/archive/{STANZA}/15-1"


EXAMPLES = Path(__file__).parents[3] / "docs" / "examples" / "observe"


class Noting(HostCommands):
    """Remembers what it is asked for; runs it with what this place needs besides."""

    more: tuple[str, ...] = ()

    def __init__(self, scratch: Path, whole_s: float) -> None:
        super().__init__(scratch, whole_s)
        self.asked: list[tuple[str, ...]] = []

    def run(self, argv: Sequence[str], **given: Any) -> Finished:
        self.asked.append(tuple(argv))
        return super().run((argv[0], *self.more, *argv[1:]), **given)


@dataclass
class Repository:
    """A full backup and a differential one, with log after them."""

    cluster: Cluster
    log_of_backup: str

    def options(self, **given: object) -> Options:
        program = str(self.cluster.bin / "pgbackrest")
        return Options(
            **{"stanza": STANZA, "config": self.cluster.pgbackrest_conf, "program": program, **given}
        )  # type: ignore[arg-type]

    def adapter(self, whole_s: float = 60.0, **given: object) -> PgBackRest:
        return PgBackRest(self.options(**given), job("pgbackrest"), commands(self.cluster.place, whole_s))

    def observe(self, **given: object) -> Observation:
        return self.adapter(**given).observe(0)

    def verify(self, check: Check) -> Verification:
        return self.adapter().verify(check, 0)

    def segment(self, name: str) -> Path:
        """The file of a segment in the archive."""
        return next((self.cluster.place / ARCHIVE).glob(f"*/{name}-*"))

    def path(self, name: str) -> Path:
        return self.cluster.place / name


@pytest.fixture(scope="module")
def repository(cluster: Cluster) -> Repository:
    cluster.pgbackrest("stanza-create")
    fresh = Repository(cluster, "")
    empty = fresh.observe()
    assert (empty.outcome, empty.reason) == (Outcome.FAILED, Reason.NO_SNAPSHOTS)
    cluster.pgbackrest("--type=full", "backup")
    cluster.sql("create table t as select generate_series(1, 20000) x", "select pg_switch_wal()")
    printed = cluster.pgbackrest("--type=diff", "--log-level-console=info", "backup").stdout
    facts = fresh.adapter().read_run(0, printed.encode(), b"")
    cluster.sql("insert into t select generate_series(1, 40000)", "select pg_switch_wal()")
    archived = "select last_archived_wal >= pg_walfile_name(pg_current_wal_lsn() - 1) from pg_stat_archiver"
    _until(lambda: cluster.sql(archived) == "t")
    seen = fresh.observe()
    assert facts.outcome is Outcome.OK
    assert facts.snapshot_id == seen.snapshots[-1].id
    assert facts.files
    assert facts.tool_version == seen.tool_version
    return Repository(cluster, facts.log_from)


def _until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end_s, "it did not come to that"
        time.sleep(0.05)


def test_a_whole_repository_is_read(repository: Repository) -> None:
    seen = repository.observe()
    assert (seen.outcome, seen.reason, seen.errors) == (Outcome.OK, "", ())
    assert len(seen.snapshots) == 2
    assert seen.tool_version == "2.45"
    assert seen.bytes_source is not None
    assert seen.bytes_source > 20_000_000
    assert seen.bytes_stored is not None
    assert 0 < seen.bytes_stored < seen.bytes_source
    assert not seen.running
    system_id = repository.cluster.sql("select system_identifier from pg_control_system()")
    assert seen.repo_id == system_id


def test_the_newest_point_is_the_end_of_the_log_after_the_newest_backup(repository: Repository) -> None:
    seen = repository.observe()
    newest = max(repository.segment("*").parent.glob("*-*.gz"))
    assert seen.log_to == newest.name[:24]
    assert seen.point_ms == int(newest.stat().st_mtime) * 1000
    assert seen.point_ms >= max(snapshot.time_ms for snapshot in seen.snapshots)
    assert abs(seen.point_ms / 1000 - time.time()) < 300


def test_the_runner_is_asked_for_what_is_the_same_each_time_and_that_says_as_much(
    repository: Repository,
) -> None:
    """By the commands of the shipped example, and by no other but for the version, which is no secret."""
    shipped = [one["argv"] for one in tomllib.loads((EXAMPLES / "pgbackrest.toml").read_text())["observe"]]
    own = repository.options()
    here = {
        "/usr/bin/pgbackrest": own.program,
        "--stanza=shop": f"--stanza={STANZA}",
        "archive/shop": f"archive/{STANZA}",
    }
    wanted = {tuple(here.get(word, word) for word in argv) for argv in shipped}

    def look() -> tuple[Observation, Verification]:
        noting = Noting(repository.cluster.place, 60.0)
        options = repository.options(runner=True, config=None)
        adapter = PgBackRest(options, job("pgbackrest"), noting)
        noting.more = (f"--config={own.config}",)
        found = adapter.observe(0), adapter.verify(DATA, 0)
        assert {argv for argv in noting.asked if argv[-1] != "version"} == wanted
        return found

    whole, proof = look()
    assert whole == repository.observe()
    assert proof.outcome is Outcome.OK
    with gone(repository.segment(repository.log_of_backup)):
        seen, proof = look()
        assert seen == repository.observe()
    assert (seen.reason, proof.outcome) == (pgbackrest.WAL_MISSING, Outcome.FAILED)


def test_needed_log_that_is_gone_is_found_where_pgbackrest_says_ok(repository: Repository) -> None:
    cluster = repository.cluster
    with gone(repository.segment(repository.log_of_backup)):
        assert "status: ok" in cluster.pgbackrest("info").stdout
        report = cluster.pgbackrest("verify", "--output=text", "--verbose").stdout
        assert "status: ok" in report
        seen = repository.observe()
        proof = repository.verify(STRUCTURE)
    assert (seen.outcome, seen.reason) == (Outcome.PARTIAL, pgbackrest.WAL_MISSING)
    assert repository.log_of_backup in seen.errors[0]
    assert len(seen.snapshots) == 2, "it is there, and cannot be restored"
    assert proof.outcome is Outcome.FAILED
    assert proof.proof is not None
    assert (proof.proof.ok, proof.proof.bad) == (False, 1)


def test_log_without_which_nothing_can_be_restored_is_a_failure(repository: Repository) -> None:
    files = list((repository.path(ARCHIVE)).glob("*/*-*.gz"))
    with gone(*files):
        seen = repository.observe()
        data = repository.verify(DATA)
    assert (seen.outcome, seen.reason, seen.point_ms) == (Outcome.FAILED, pgbackrest.WAL_MISSING, 0)
    assert data.proof is not None
    assert not data.proof.ok


def test_what_the_adapter_calls_lost_does_not_start_and_what_it_calls_good_does(
    repository: Repository,
) -> None:
    """The drill that proves the check: pgBackRest restores both with exit code 0."""
    cluster, label = repository.cluster, repository.observe().snapshots[-1].id
    target = cluster.place / "restored"

    def starts() -> bool:
        cluster.run("rm", "-rf", target)
        cluster.pgbackrest(f"--set={label}", f"--pg1-path={target}", "--archive-mode=off", "restore")
        options = f"-c port={5433} -c unix_socket_directories={cluster.place}"
        ctl = POSTGRESQL_BIN / "pg_ctl"
        started = cluster.run(
            ctl,
            "-D",
            target,
            "-w",
            "-t",
            "30",
            "-l",
            cluster.place / "drill",
            "-o",
            options,
            "start",
            check=False,
        )
        cluster.run(ctl, "-D", target, "-m", "immediate", "-w", "stop", check=False)
        return started.returncode == 0

    with gone(repository.segment(repository.log_of_backup)):
        assert repository.observe().outcome is Outcome.PARTIAL
        assert not starts()
    assert repository.observe().outcome is Outcome.OK
    assert starts()


def test_a_gap_after_the_newest_backup_ends_what_can_be_restored(repository: Repository) -> None:
    whole = repository.observe()
    numbers = sorted(path.name[:24] for path in repository.path(ARCHIVE).glob("*/*-*.gz"))
    lost = numbers[-2]
    with gone(repository.segment(lost)):
        seen = repository.observe()
    assert (seen.outcome, seen.reason) == (Outcome.PARTIAL, pgbackrest.WAL_GAP)
    assert lost in seen.errors[0]
    assert seen.log_to == numbers[-3]
    assert seen.point_ms <= whole.point_ms


def test_log_that_is_there_twice_is_told_as_the_fault_that_it_is(repository: Repository) -> None:
    segment = repository.segment(repository.log_of_backup)
    twin = segment.with_name(f"{segment.name[:24]}-{'a' * 40}.gz")
    shutil.copy(segment, twin)
    try:
        refused = repository.cluster.pgbackrest(
            "archive-get", segment.name[:24], f"{repository.path('x')}", check=False
        )
        seen = repository.observe()
    finally:
        twin.unlink()
    assert refused.returncode == 45
    assert (seen.outcome, seen.reason) == (Outcome.PARTIAL, pgbackrest.WAL_DUPLICATE)


def test_a_damaged_file_is_found_by_reading_everything_though_verify_ends_with_0(
    repository: Repository,
) -> None:
    assert repository.verify(DATA).outcome is Outcome.OK
    file = next(repository.path(f"repo/backup/{STANZA}").glob("*F/pg_data/global/pg_control.gz"))
    with replaced(file, flipped(file.read_bytes())):
        assert repository.cluster.pgbackrest("verify").stdout == "", "exit code 0, and nothing said"
        told = repository.cluster.pgbackrest("verify", "--log-level-console=info").stdout
        assert "status: error" in told, "at that level alone, and with exit code 0"
        found = repository.verify(DATA)
        structure = repository.verify(STRUCTURE)
    assert (found.outcome, found.reason) == (Outcome.FAILED, Reason.REPOSITORY_DAMAGED)
    assert found.proof is not None
    assert found.proof.bad >= 1
    assert any("pg_control" in error for error in found.errors)
    assert structure.outcome is Outcome.OK, "its bytes were not read"


@pytest.mark.parametrize(
    ("stanza", "repo", "reason"),
    [("nobodys", None, pgbackrest.STANZA_MISSING), (STANZA, "not-mounted", pgbackrest.STANZA_MISSING)],
)
def test_a_stanza_or_a_repository_that_is_not_there_is_no_ok(
    repository: Repository, stanza: str, repo: str | None, reason: str
) -> None:
    """pgBackRest ends with 0, and says the same of both."""
    config = repository.cluster.pgbackrest_conf
    if repo:
        text = config.read_text().replace("/repo\n", f"/{repo}\n").encode()
        with replaced(config, text):
            seen = repository.observe(stanza=stanza)
    else:
        seen = repository.observe(stanza=stanza)
    assert (seen.outcome, seen.reason) == (Outcome.FAILED, reason)
    assert "mounted" in seen.errors[0]


def test_a_catalogue_that_cannot_be_read_is_damage(repository: Repository) -> None:
    directory = repository.path(f"repo/backup/{STANZA}")
    with (
        replaced(directory / "backup.info", b"half a line"),
        replaced(directory / "backup.info.copy", b"half a line"),
    ):
        seen = repository.observe()
    assert (seen.outcome, seen.reason) == (Outcome.FAILED, Reason.REPOSITORY_DAMAGED)
    with gone(directory / "backup.info", directory / "backup.info.copy"):
        seen = repository.observe()
    assert (seen.outcome, seen.reason) == (Outcome.FAILED, Reason.REPOSITORY_DAMAGED)


@pytest.mark.parametrize("what", ["repo/backup", "repo/archive", "pgbackrest.conf"])
def test_what_the_agent_may_not_read_is_unknown_and_says_what_is_needed(
    repository: Repository, what: str
) -> None:
    with closed(repository.path(what)):
        seen = repository.observe()
    assert (seen.outcome, seen.reason) == (Outcome.UNKNOWN, Reason.NEEDS_RUNNER)
    assert "let it read" in seen.errors[0]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("repo1-host=127.0.0.1\ncmd-ssh={bin}/ssh\n", Reason.REPOSITORY_UNREACHABLE),
        ("repo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=wrong\n", Reason.PASSWORD_WRONG),
        ("no-such-option=1\nrepo1-path=relative\n", Reason.TOOL_FAILED),
    ],
)
def test_a_repository_that_cannot_be_opened_is_unknown(
    repository: Repository, lines: str, reason: str
) -> None:
    cluster, config = repository.cluster, repository.cluster.pgbackrest_conf
    cluster.program("ssh", "echo 'ssh: connect to host 127.0.0.1 port 22: Connection refused' >&2; exit 255")
    more = lines.replace("{bin}", str(cluster.bin))
    with replaced(config, config.read_bytes().replace(b"[global]\n", f"[global]\n{more}".encode())):
        seen = repository.observe()
    assert (seen.outcome, seen.reason) == (Outcome.UNKNOWN, reason)
    assert seen.errors


def test_a_running_backup_is_seen_and_looking_takes_no_lock(repository: Repository) -> None:
    cluster = repository.cluster
    before = {path.name for path in repository.path(f"repo/backup/{STANZA}").iterdir()}
    config = f"--config={cluster.pgbackrest_conf}"
    with cluster.running("pgbackrest", config, f"--stanza={STANZA}", "--type=full", "backup") as backup:
        _until(lambda: repository.observe().running)
        os.killpg(backup.pid, signal.SIGSTOP)
        seen = repository.observe()
        refused = cluster.pgbackrest("backup", check=False)
        os.killpg(backup.pid, signal.SIGKILL)
    facts = repository.adapter().read_run(
        refused.returncode, refused.stdout.encode(), refused.stderr.encode()
    )
    assert (seen.outcome, seen.running) == (Outcome.OK, True)
    assert (facts.outcome, facts.reason) == (Outcome.FAILED, Reason.REPOSITORY_LOCKED)
    after = repository.observe()
    assert not after.running, "a lock ends with its process"
    assert after.snapshots == seen.snapshots, "what was not finished is no backup"
    for path in repository.path(f"repo/backup/{STANZA}").iterdir():
        if path.name not in before:
            shutil.rmtree(path)


def test_a_tool_that_is_missing_or_hangs_is_unknown(repository: Repository) -> None:
    seen = repository.observe(program="no-such-pgbackrest")
    assert (seen.outcome, seen.reason) == (Outcome.UNKNOWN, Reason.TOOL_MISSING)
    slow = repository.cluster.program("slow", "exec sleep 60")
    seen = repository.adapter(whole_s=0.3, program=slow).observe(0)
    assert (seen.outcome, seen.reason) == (Outcome.UNKNOWN, Reason.TIMED_OUT)


def test_check_pgbackrest_agrees_where_it_has_an_opinion(repository: Repository) -> None:
    """Its service `archives` looks for missing log, too, but takes the note of a backup (`....backup`) for the segment
    with which the backup begins."""
    cluster = repository.cluster
    argv = (
        f"--stanza={STANZA}",
        f"--config={cluster.pgbackrest_conf}",
        "--service=archives",
        "--wal-segsize=1MB",
    )

    def its_verdict() -> bool:
        return cluster.run("check_pgbackrest", *argv, check=False).returncode == 0

    def our_verdict() -> bool:
        return repository.observe().outcome is Outcome.OK

    assert its_verdict()
    assert our_verdict()
    archived = sorted(path.name[:24] for path in repository.path(ARCHIVE).glob("*/*-*.gz"))
    with gone(repository.segment(archived[-2])):
        assert not its_verdict()
        assert not our_verdict()
    with gone(repository.segment(repository.log_of_backup)):
        assert not our_verdict()
