"""A record's way from a command to the collector, with a real agent that is up, down, killed, or on a full disk."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from watchbill.backups.record import BACKUP_RECORD, Outcome, Source, read_record
from watchbill.codec import decode_hello
from watchbill.protocol.frames import Stream

FAST = 'interval = "1s"\n'
IN_MEMORY = FAST + '[spool]\nkind = "memory"\n'
IN_CI = os.environ.get("CI") == "true"
MIB = 1 << 20


def reported(collector: Any) -> list[Any]:
    return [r.event for r in collector.records(Stream.CRIT) if r.event.kind == BACKUP_RECORD]


def waiting(home: Path) -> list[str]:
    place = home / "var/agent/backups/incoming"
    return sorted(one.name for one in place.iterdir()) if place.is_dir() else []


def report(cli: Any, home: Path, *more: str) -> dict[str, str]:
    done = cli(home, "backup", "report", "nightly", "--outcome", "ok", "--json", *more)
    assert done.returncode == 0, done.stderr
    assert "no [[backup]] in backups.d is called nightly" in done.stderr
    answer: dict[str, str] = json.loads(done.stdout)
    return answer


async def test_a_running_agent_keeps_a_report_and_the_collector_gets_it(
    tmp_path: Path, collector: Any, agents: Any, enrol: Any, cli: Any
) -> None:
    enrol(tmp_path / "a", collector)
    agents(tmp_path / "a", FAST)
    await collector.until(lambda c: c.hellos)
    answer = report(cli, tmp_path / "a", "--started", "1700000000", "--bytes", "7", "--tool-version", "é✓")
    assert answer["kept"] == "agent"
    await collector.until(reported)
    event = reported(collector)[0]
    record = read_record(event.payload)
    assert event.event_id.hex() == record.record_id == answer["record"]
    assert (record.job, record.outcome, record.source) == ("nightly", Outcome.OK, Source.REPORT)
    assert (record.started_ms, record.point_ms, record.bytes_source) == (1_700_000_000_000,) * 2 + (7,)
    assert record.tool_version == "é✓"
    assert not waiting(tmp_path / "a")


async def test_what_is_reported_while_no_agent_runs_is_in_its_spool_before_it_says_hello(
    tmp_path: Path, collector: Any, agents: Any, enrol: Any, cli: Any
) -> None:
    home = tmp_path / "a"
    enrol(home, collector)
    agent = agents(home, FAST)
    await collector.until(lambda c: c.hellos)
    agent.process.kill()
    await agent.ended()
    answers = [report(cli, home) for _ in range(3)]
    assert {answer["kept"] for answer in answers} == {"file"}
    assert len(waiting(home)) == 3
    (home / "var/agent/backups/incoming/notes.txt").write_text("whose is this?")
    agent = agents(home, FAST)
    await collector.until(lambda c: len(c.hellos) >= 2)
    hello = next(up for up in collector.heard[::-1] if up.WhichOneof("message") == "hello")
    crit = next(one for one in decode_hello(hello.hello).streams if one.stream is Stream.CRIT)
    assert crit.last_durable >= 4, "a start and three records"
    await collector.until(lambda c: len(reported(c)) >= 3)
    assert {event.event_id.hex() for event in reported(collector)} == {one["record"] for one in answers}
    assert not waiting(home)
    assert (home / "var/agent/backups/refused/notes.txt").read_text() == "whose is this?"
    await agent.until_log("a file is no record of a backup")


async def test_with_a_spool_in_memory_a_record_stays_a_file_until_the_collector_has_it(
    tmp_path: Path, collector: Any, agents: Any, enrol: Any, cli: Any
) -> None:
    home = tmp_path / "a"
    enrol(home, collector)
    collector.acknowledging = False
    agent = agents(home, IN_MEMORY)
    await collector.until(lambda c: c.hellos)
    answer = report(cli, home)
    assert answer["kept"] == "file"
    assert len(waiting(home)) == 1
    await collector.until(reported)
    agent.process.kill()
    await agent.ended()
    collector.acknowledging = True
    agents(home, IN_MEMORY)
    await collector.until(lambda c: len(reported(c)) >= 2)
    assert {event.event_id.hex() for event in reported(collector)} == {answer["record"]}


async def test_the_agent_asks_systemd_for_the_runs_of_a_jobs_unit(
    tmp_path: Path, collector: Any, agents: Any, enrol: Any
) -> None:
    home = tmp_path / "a"
    enrol(home, collector)
    (home / "etc/backups.d").mkdir(parents=True)
    job = '[[backup]]\nname = "nightly"\ntool = "wrap"\nunit = "no-such-watchbill-test.timer"\n'
    (home / "etc/backups.d/a.toml").write_text(job)
    agent = agents(home, FAST)
    await agent.until_log("runs of a unit cannot be read")  # No systemd, or no such unit.
    assert await agent.stop() == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(place)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)
    if done.returncode:
        reason = f"no disk can be mounted here: {done.stderr.strip()}"
        pytest.fail(reason) if IN_CI else pytest.skip(reason)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True, timeout=20)


async def test_on_a_full_disk_a_running_agent_keeps_it_and_without_one_the_reporter_is_told(
    small_disk: Path, collector: Any, agents: Any, enrol: Any, cli: Any, status: Any
) -> None:
    home = small_disk / "a"
    enrol(home, collector)
    agent = agents(home, FAST + '[spool]\ncrit_bytes = "256KiB"\n')
    await collector.until(lambda c: c.hellos)
    while status(home)["queue"]["reserve_missing_files"]:
        pass
    ballast = small_disk / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (65_536, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    assert report(cli, home)["kept"] == "agent"
    await collector.until(reported)
    agent.process.kill()
    await agent.ended()
    done = cli(home, "backup", "report", "nightly", "--outcome", "ok")
    assert done.returncode == 1
    assert "is NOT kept" in done.stderr
    assert "no space left" in done.stderr
    ballast.unlink()
    assert report(cli, home)["kept"] == "file"
    assert len(waiting(home)) == 1, "nothing half written is left"
