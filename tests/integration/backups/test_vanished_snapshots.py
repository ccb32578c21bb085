"""What leaves a real repository before retention allows it is an alarm, from the tool all the way to the word."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from watchbill.backups.definition import Definition, Retention
from watchbill_agent.backups.adapter import Adapter, Job
from watchbill_agent.backups.adapters.borg import Borg
from watchbill_agent.backups.adapters.borg import Options as BorgOptions
from watchbill_agent.backups.adapters.restic import Options as ResticOptions
from watchbill_agent.backups.adapters.restic import Restic
from watchbill_agent.backups.command import HostCommands
from watchbill_agent.backups.looks import Looked, ids_digest, observed
from watchbill_collector.backups import BackupBook, JobKey, Word

pytestmark = pytest.mark.real("restic", "borg")

KEY = JobKey("agent", "files")
Made = tuple[Adapter, Callable[..., None], tuple[str, ...]]


def _restic(place: Path, definition: Definition) -> Made:
    repository, password = str(place / "repository"), place / "password"
    password.write_text("x")

    def restic(*words: str) -> None:
        argv = ("restic", "-r", repository, "--password-file", password, "--no-cache", *words)
        subprocess.run(argv, check=True, capture_output=True, timeout=60, cwd=place)

    restic("init")
    for number in range(3):
        restic("backup", "--tag", f"t{number}", "source")
    options = ResticOptions(repository=repository, password_file=password, sizes="none")
    job = Job(name="files", definition=definition)
    return (
        Restic(options, job, HostCommands(place, 60.0)),
        restic,
        ("forget", "--tag", "t1", "--keep-tag", "none"),
    )


def _borg(place: Path, definition: Definition) -> Made:
    env = {"PATH": os.environ["PATH"], "BORG_REPO": str(place / "repository"), "BORG_BASE_DIR": str(place)}

    def borg(*words: str) -> None:
        subprocess.run(("borg", *words), check=True, capture_output=True, timeout=60, cwd=place, env=env)

    borg("init", "-e", "none")
    for number in range(3):
        borg("create", f"::a{number}", "source")
    options = BorgOptions(repository=env["BORG_REPO"], unencrypted=True)
    job = Job(name="files", definition=definition, scratch=place / "scratch")
    (place / "scratch").mkdir()
    return Borg(options, job, HostCommands(place / "scratch", 60.0)), borg, ("delete", "::a1")


@pytest.mark.parametrize("make", [_restic, _borg])
def test_what_is_removed_behind_its_back_is_suspect_and_named(
    tmp_path: Path, make: Callable[[Path, Definition], Any]
) -> None:
    (tmp_path / "source").write_text("data")
    retention = Retention(keep_s=30 * 86_400.0, min_copies=2)
    definition = Definition(
        name="files", tool="restic", retention=retention, observed=True, observe_every_s=3600.0
    )
    adapter, tool, removal = make(tmp_path, definition)
    book = BackupBook()
    book.define(KEY, definition, 1)

    def look() -> tuple[Word, str]:
        now_ms = time.time_ns() // 1_000_000
        seen = adapter.observe(now_ms)
        for record in observed(
            Looked(job="files", tool=adapter.name, began_ms=now_ms, ended_ms=now_ms), seen
        ):
            book.record(KEY, record, now_ms, 0)
        book.watermark(KEY.agent_id, now_ms)
        book.look(now_ms)
        state = book.state(KEY)
        assert state is not None
        return state.word, state.why

    look()
    word, _ = look()
    assert word is Word.OK
    before = adapter.observe(0).snapshots
    tool(*removal)
    after = adapter.observe(0).snapshots
    (gone,) = {one.id for one in before} - {one.id for one in after}
    assert ids_digest(before) != ids_digest(after)
    word, why = look()
    assert word is Word.SUSPECT
    assert gone in why
    assert "1 vanished" in why
