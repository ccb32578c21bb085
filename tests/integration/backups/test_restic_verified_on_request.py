"""A host is asked to verify: its own child asks the real restic, and what it finds is a record under the request."""

import asyncio
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from watchbill.backups.record import BACKUP_RECORD, Level, Outcome, Record, read_record
from watchbill.backups.requests import BACKUP_ANSWERED
from watchbill.clock import SystemClock
from watchbill.protocol.frames import VerifyBackup
from watchbill_agent.backups.present import load_jobs
from watchbill_agent.backups.requests import Requests
from watchbill_agent.backups.service import Backups
from watchbill_agent.events import Events
from watchbill_agent.spool import MemoryKeeper, MemorySpool, Receipt

pytestmark = pytest.mark.real("restic")

JOB = """\
[[backup]]
name = "files"
tool = "restic"
observe_every = "1d"
verify = { structure = "7d" }
[backup.restic]
repository = "REPOSITORY"
password_file = "PASSWORD"
sizes = "none"
"""


class Kept(Events):
    """The door for events, which says when one came."""

    def __init__(self, clock: SystemClock) -> None:
        super().__init__(MemoryKeeper(MemorySpool()), clock)
        self.all: list[tuple[str, dict[str, Any]]] = []
        self.came = asyncio.Event()

    async def keep(self, kind: str, payload: Mapping[str, object], event_id: bytes | None = None) -> Receipt:
        receipt = await super().keep(kind, payload, event_id)
        self.all.append((kind, dict(payload)))
        self.came.set()
        return receipt

    async def record_of(self, request: VerifyBackup) -> Record:
        async with asyncio.timeout(60):
            while True:
                self.came.clear()
                records = [
                    read_record(json.dumps(said).encode()) for kind, said in self.all if kind == BACKUP_RECORD
                ]
                found = [one for one in records if one.run_id == request.request_id.hex()]
                if found:
                    return found[0]
                await self.came.wait()


def made(tmp_path: Path) -> Path:
    """A repository of one snapshot, and a job of it."""
    repository, password, source = tmp_path / "repository", tmp_path / "password", tmp_path / "source"
    password.write_text("tr0ub4dor")
    source.mkdir()
    (source / "some").write_bytes(os.urandom(100_000))
    for words in (("init",), ("backup", str(source))):
        argv = ("restic", "-r", str(repository), "--password-file", str(password), "--no-cache", *words)
        subprocess.run(argv, check=True, capture_output=True, timeout=60)
    (tmp_path / "etc" / "backups.d").mkdir(parents=True)
    document = JOB.replace("REPOSITORY", str(repository)).replace("PASSWORD", str(password))
    (tmp_path / "etc" / "backups.d" / "files.toml").write_text(document)
    return repository


async def test_what_a_real_repository_is_found_to_be_is_told_under_the_request(tmp_path: Path) -> None:
    repository = made(tmp_path)
    clock = SystemClock()
    events = Kept(clock)
    # Nothing is due by itself while this goes on: looks begin later, and a plan verifies after a look.
    backups = Backups(
        load_jobs(tmp_path / "etc"), tmp_path / "var", "a", events, clock, uniform=lambda _, most: most
    )
    requests = Requests(events, clock, backups.judge)
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(backups.run()), group.create_task(requests.run())]
        whole = VerifyBackup(b"1" * 16, "files", "structure")
        requests.take(whole)
        record = await events.record_of(whole)
        assert (record.outcome, record.source, record.tool) == (Outcome.OK, "repo", "restic")
        assert record.verify is not None
        assert (record.verify.level, record.verify.ok) == (Level.STRUCTURE, True)
        max((repository / "data").glob("*/*"), key=lambda path: path.stat().st_size).unlink()
        damaged, undeclared = VerifyBackup(b"2" * 16, "files"), VerifyBackup(b"3" * 16, "files", "data")
        requests.take(damaged)
        record = await events.record_of(damaged)
        assert (record.outcome, record.reason) == (Outcome.FAILED, "repository-damaged")
        assert record.verify is not None
        assert not record.verify.ok
        requests.take(undeclared)
        while len(answers := [said for kind, said in events.all if kind == BACKUP_ANSWERED]) < 3:
            events.came.clear()
            await asyncio.wait_for(events.came.wait(), 30)
        assert [one.get("reason", one["answer"]) for one in answers] == ["begun", "begun", "not-declared"]
        for task in running:
            task.cancel()
