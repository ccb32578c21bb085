"""What the adapter says of a real barman server, whole and damaged in the ways that barman calls ok."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from watchbill.backups.record import Level, Outcome
from watchbill_agent.backups.adapter import Check, Observation, Reason, Verification
from watchbill_agent.backups.adapters import barman
from watchbill_agent.backups.adapters.barman import Barman, Options

from .cluster import SERVER, Cluster, closed, commands, flipped, gone, job, replaced

pytestmark = pytest.mark.real("barman", "setpriv")

DATA = Check(level=Level.DATA)


@dataclass
class Catalogue:
    """One backup that is done, with log after it; what receives the log runs as `receiver`. A look asks `check`
    only where a test says so: each question is a start of barman."""

    cluster: Cluster
    receiver: int
    printed: str = ""
    seen: Observation | None = None

    def adapter(self, whole_s: float = 60.0, **given: object) -> Barman:
        program = str(self.cluster.bin / "barman")
        fixed: dict[str, object] = {"server": SERVER, "config": self.cluster.barman_conf, "program": program}
        fixed["run_check"] = False
        return Barman(Options(**fixed | given), job("barman"), commands(self.cluster.place, whole_s))  # type: ignore[arg-type]

    def observe(self, **given: object) -> Observation:
        return self.adapter(**given).observe(0)

    def verify(self, check: Check) -> Verification:
        return self.adapter().verify(check, 0)

    @property
    def place(self) -> Path:
        return self.cluster.place / "barman" / SERVER

    def log(self) -> list[Path]:
        """The segments that barman keeps, the oldest first."""
        return sorted(path for path in self.place.glob("wals/*/*") if re.fullmatch("[0-9A-F]{24}", path.name))

    def take_log(self) -> None:
        """End a segment, and have barman keep all that came so far: only what another one has begun after."""
        write = "select pg_logical_emit_message(true, 'test', 'one')"
        ended = self.cluster.sql(write, "select pg_walfile_name(pg_switch_wal())", write).split()[1]
        streaming = self.place / "streaming"
        _until(lambda: (streaming / ended).exists() and any(streaming.glob("*.partial")))
        self.cluster.barman("archive-wal", SERVER)


ATTEMPTS = 10
"""Interruptions that may come too late, on a machine that is quick."""


def _until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end_s, "it did not come to that"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def catalogue(cluster: Cluster) -> Iterator[Catalogue]:
    cluster.sql("alter system set archive_command = 'true'", "select pg_reload_conf()")
    cluster.barman("receive-wal", "--create-slot", SERVER)
    with cluster.running("barman", "-c", cluster.barman_conf, "receive-wal", SERVER) as receiver:
        found = Catalogue(cluster, receiver.pid)
        _until(lambda: any(found.place.glob("streaming/*.partial")))
        empty = found.observe()
        assert (empty.outcome, empty.reason) == (Outcome.FAILED, Reason.NO_SNAPSHOTS)
        found.take_log()
        found.printed = cluster.barman("backup", SERVER).stdout
        cluster.sql("create table t (x int)", "select pg_switch_wal()", "insert into t values (1)")
        cluster.sql("select pg_switch_wal()", "insert into t values (2)")
        found.take_log()
        cluster.barman("check-backup", SERVER, "latest")
        found.seen = found.observe(run_check=True)
        yield found


def test_a_whole_catalogue_is_read(catalogue: Catalogue) -> None:
    seen = catalogue.seen
    assert seen is not None
    assert (seen.outcome, seen.reason, seen.errors) == (Outcome.OK, "", ())
    assert len(seen.snapshots) == 1
    assert seen.bytes_source is not None
    assert seen.bytes_source > 20_000_000
    newest = catalogue.log()[-1]
    assert seen.log_to == newest.name
    assert seen.point_ms == int(newest.stat().st_mtime * 1000) > seen.snapshots[0].time_ms
    assert abs(seen.point_ms / 1000 - time.time()) < 300
    facts = catalogue.adapter().read_run(0, catalogue.printed.encode(), b"")
    assert (facts.outcome, facts.snapshot_id) == (Outcome.OK, seen.snapshots[0].id)
    assert seen.log_from == catalogue.log()[0].name
    assert facts.log_to in [path.name for path in catalogue.log()]


def test_needed_log_that_is_gone_is_found_where_barman_says_ok(catalogue: Catalogue) -> None:
    file = catalogue.log()[0]
    with gone(file):
        assert catalogue.cluster.barman("check", "--nagios", SERVER).stdout.startswith("BARMAN OK")
        seen = catalogue.observe()
    assert (seen.outcome, seen.reason, seen.point_ms) == (Outcome.FAILED, barman.WAL_MISSING, 0)
    assert file.name in seen.errors[0]
    assert len(seen.snapshots) == 1, "it is there, and cannot be restored"


def test_a_gap_after_the_backup_and_what_barmans_own_check_finds_are_told(catalogue: Catalogue) -> None:
    log, conf = catalogue.log(), catalogue.cluster.barman_conf
    more = conf.read_bytes().replace(b"minimum_redundancy = 1", b"minimum_redundancy = 9")
    with gone(log[-2]), replaced(conf, more):
        seen = catalogue.observe(run_check=True)
    assert (seen.outcome, seen.reason) == (Outcome.PARTIAL, barman.WAL_GAP)
    assert seen.log_to == log[-3].name
    assert log[-2].name in seen.errors[0]
    assert "minimum redundancy" in seen.errors[1]


def test_a_damaged_file_is_found_by_reading_it(catalogue: Catalogue) -> None:
    whole = catalogue.verify(DATA)
    assert (whole.outcome, whole.tool_version) == (Outcome.OK, "3.4.0")
    files = sorted(catalogue.place.glob("base/*/data/base/*/*"))
    file = next(path for path in files if path.name.isdigit() and path.stat().st_size > 8192)
    with replaced(file, flipped(file.read_bytes())):
        found = catalogue.verify(DATA)
    assert (found.outcome, found.reason) == (Outcome.FAILED, Reason.REPOSITORY_DAMAGED)
    assert any(file.name in error for error in found.errors)


def test_a_backup_that_waits_for_log_is_partial_until_it_has_it(catalogue: Catalogue) -> None:
    cluster, before = catalogue.cluster, catalogue.seen
    os.killpg(catalogue.receiver, signal.SIGSTOP)
    try:
        done = cluster.barman("backup", SERVER, check=False)
        seen = catalogue.observe()
    finally:
        os.killpg(catalogue.receiver, signal.SIGCONT)
    facts = catalogue.adapter().read_run(done.returncode, done.stdout.encode(), done.stderr.encode())
    assert (facts.outcome, facts.reason) == (Outcome.PARTIAL, barman.WAITING_FOR_WAL)
    assert (seen.outcome, seen.reason) == (Outcome.PARTIAL, barman.WAITING_FOR_WAL)
    assert before is not None
    assert seen.snapshots == before.snapshots, "it is none yet"
    catalogue.take_log()
    cluster.barman("check-backup", SERVER, "latest")
    after = catalogue.observe()
    assert (after.outcome, len(after.snapshots)) == (Outcome.OK, 2)


def test_a_backup_that_was_interrupted_is_told(catalogue: Catalogue) -> None:
    cluster = catalogue.cluster
    for _ in range(ATTEMPTS):
        before = {path.name for path in catalogue.place.glob("base/*")}
        with cluster.running("barman", "-c", cluster.barman_conf, "backup", SERVER) as backup:
            _until(lambda: {path.name for path in catalogue.place.glob("base/*")} > before)  # noqa: B023
            os.killpg(backup.pid, signal.SIGINT)
            backup.wait(timeout=30)
        if backup.returncode:  # Else it had been made before the signal came.
            break
    seen = catalogue.observe()
    assert (seen.outcome, seen.reason, seen.running) == (Outcome.PARTIAL, barman.BACKUP_FAILED, False)


def test_what_the_agent_may_not_ask_is_unknown_and_says_what_is_needed(catalogue: Catalogue) -> None:
    cluster = catalogue.cluster
    if os.geteuid() == 0:
        drop = 'exec setpriv --reuid=65534 --regid=65534 --clear-groups /usr/bin/barman "$@"'
        seen = catalogue.observe(program=cluster.program("stranger", drop))
        assert seen.reason == Reason.NEEDS_RUNNER, "it is not barman's user"
    for place in (cluster.barman_conf, cluster.place / "barman-locks"):
        with closed(place):
            seen = catalogue.observe()
        assert (seen.outcome, seen.reason) == (Outcome.UNKNOWN, Reason.NEEDS_RUNNER)
        assert "observe the job where it may" in seen.errors[0]


def test_a_server_that_barman_does_not_know_is_told(catalogue: Catalogue) -> None:
    seen = catalogue.observe(server="nobody")
    assert (seen.outcome, seen.reason) == (Outcome.UNKNOWN, barman.SERVER_UNKNOWN)


def test_a_tool_that_is_missing_or_hangs_is_unknown(catalogue: Catalogue) -> None:
    assert catalogue.observe(program="no-such-barman").reason == Reason.TOOL_MISSING
    slow = catalogue.cluster.program("slow", "exec sleep 60")
    seen = catalogue.adapter(whole_s=0.3, program=slow).observe(0)
    assert (seen.outcome, seen.reason) == (Outcome.UNKNOWN, Reason.TIMED_OUT)
