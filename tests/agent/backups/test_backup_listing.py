"""`backup list` and `backup look`: what a person is told of the jobs of a host."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from watchbill.backups.definition import Definition
from watchbill.backups.record import Kind, Outcome, Record, Snapshots, Source, new_id
from watchbill.backups.schedule import Schedule
from watchbill_agent.backups.config import JobConfig, Target
from watchbill_agent.backups.listing import all_read, lines, listed, look_lines, schedule_words, span, when

NOW_MS = 1_900_000_000_000
JOB = """\
[[backup]]
name = "db"
tool = "files"
schedule = { cron = "15 2 * * *" }
files = { paths = ["PATH/*"] }
[[backup]]
name = "nightly"
tool = "wrap"
"""


def backup(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "watchbill_agent", "backup", *arguments, "--home", str(home)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "etc/backups.d").mkdir(parents=True)
    (tmp_path / "dumps").mkdir()
    (tmp_path / "etc/backups.d/a.toml").write_text(JOB.replace("PATH", str(tmp_path / "dumps")))
    return tmp_path


def test_a_look_now_says_what_is_there_and_leaves_nothing_behind(home: Path) -> None:
    dump = home / "dumps" / "one.sql"
    dump.write_bytes(b"data")
    os.utime(dump, (1_700_000_000, 1_700_000_000))
    done = backup(home, "look", "db")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "db: ok by files",
        "  newest point 2023-11-14 22:13:20Z",
        "  1 snapshot, 2023-11-14 22:13:20Z to 2023-11-14 22:13:20Z",
        "  stored 4 bytes",
    ]
    assert not (home / "var").exists()
    dump.write_bytes(b"")
    os.utime(dump, (1_700_000_000, 1_700_000_000))
    bad = backup(home, "look", "db", "--json")
    assert bad.returncode == 1
    (record,) = json.loads(bad.stdout)["looks"]
    assert (record["outcome"], record["reason"]) == ("failed", "file-empty")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["look", "other"], "got the job 'other', wanted one of: db, nightly"),
        (
            ["look", "nightly"],
            "nightly: got no repository to look at, wanted one of: none: it is known by its runs",
        ),
        (["look", "db", "--copy", "nas"], 'db: got no repository to look at, wanted one of: ""'),
    ],
)
def test_a_look_at_nothing_is_told_what_there_is(home: Path, arguments: list[str], told: str) -> None:
    done = backup(home, *arguments)
    assert done.returncode == 2
    assert told in done.stderr


def test_without_an_agent_the_jobs_are_listed_all_the_same(home: Path) -> None:
    done = backup(home, "list", "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["agent"]) == (0, False)
    assert "no agent answers there" in document["trouble"]
    assert [(job["name"], job["tool"], job["schedule"]) for job in document["jobs"]] == [
        ("db", "files", "15 2 * * * UTC"),
        ("nightly", "wrap", ""),
    ]
    assert document["jobs"][0]["due_ms"] > 0
    (home / "etc/backups.d/a.toml").write_text("[[backup]]\n")
    assert backup(home, "list").returncode == 2


def shown(job: JobConfig, **seen: Any) -> list[str]:
    document = listed([job], Path("/nowhere"), NOW_MS)
    document["trouble"] = ""
    document["jobs"][0]["repositories"] = [seen]
    return list(lines(document, NOW_MS))


def test_what_was_seen_last_stands_under_its_job() -> None:
    job = JobConfig(
        definition=Definition(name="db", tool="restic", schedule=Schedule(every_s=21_600.0), rpo_s=93_600.0)
    )
    seen = {
        "copy": "nas",
        "outcome": "unknown",
        "reason": "needs-runner",
        "point_ms": NOW_MS - 3_600_000,
        "snapshots": 7,
        "observed_ms": NOW_MS - 90_000,
        "errors": ["a \x1b[31mred line", "another"],
    }
    job_line, line = shown(job, **seen)
    assert job_line == "db: restic, every 6h, rpo 1d2h"
    assert line.startswith("  nas: unknown (needs-runner), newest point 2030-03-17 16:46:40Z, 7 snapshots, ")
    assert line.endswith("looked at 1m30s ago: a \\x1b[31mred line")


def test_a_host_without_backups_is_told_how_to_have_some() -> None:
    (_, line) = lines(listed([], Path("/nowhere"), NOW_MS), NOW_MS)
    assert line.startswith("this host has no backups: write backups.d/NAME.toml")


def test_a_look_shows_all_it_found() -> None:
    record = Record(
        record_id=new_id(),
        job="db",
        kind=Kind.OBSERVE,
        source=Source.REPO,
        outcome=Outcome.PARTIAL,
        observed_ms=NOW_MS,
        tool="restic",
        tool_version="0.14.0",
        reason="repository-locked",
        errors=("a stale lock",),
        bytes_source=10,
        repo_locked=True,
        snapshots=Snapshots(count=0),
    )
    assert list(look_lines([record])) == [
        "db: partial (repository-locked) by restic 0.14.0",
        "  source 10 bytes",
        "  it is locked",
        "  a stale lock",
    ]
    assert not all_read([record])


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0s"), (59.6, "1m"), (3661, "1h1m"), (93_600, "1d2h"), (90_061, "1d1h")]
)
def test_a_span_has_its_two_largest_units(seconds: float, words: str) -> None:
    assert span(seconds) == words


def test_a_moment_that_no_calendar_has_is_shown_as_it_is() -> None:
    assert when(10**18) == "1000000000000000000 ms"
    assert schedule_words(JobConfig(definition=Definition(name="a", tool="wrap"), targets=(Target(),))) == ""
