"""Runs of systemd units: what systemctl prints becomes records, each beginning and end once."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from watchbill.backups.record import Outcome, Record, Source, record_fault
from watchbill.clock import ManualClock
from watchbill_agent.backups import units
from watchbill_agent.backups.units import UnitJob, UnitRun, UnitWatch, read_shown, record_of, run_of, show

INVOCATION = "5f0c3d5d8f4f4b0e9a5c1d2e3f405162"
BEGAN = "Sun 2026-11-29 02:15:00 UTC"
BEGAN_MS = 1_795_918_500_000
ENDED = "Sun 2026-11-29 02:20:07 UTC"
ENDED_MS = BEGAN_MS + 307_000
DONE = {
    "Id": "backup.service",
    "LoadState": "loaded",
    "ActiveState": "inactive",
    "SubState": "dead",
    "Result": "success",
    "InvocationID": INVOCATION,
    "InactiveExitTimestamp": BEGAN,
    "ActiveEnterTimestamp": "",
    "InactiveEnterTimestamp": ENDED,
    "ExecMainCode": "1",
    "ExecMainStatus": "0",
}


@pytest.mark.parametrize(
    ("shown", "run"),
    [
        ({}, UnitRun(INVOCATION, BEGAN_MS, ENDED_MS, "success", 0, None)),
        (
            {"ActiveState": "failed", "SubState": "failed", "Result": "exit-code", "ExecMainStatus": "3"},
            UnitRun(INVOCATION, BEGAN_MS, ENDED_MS, "exit-code", 3, None),
        ),
        (
            {"ActiveState": "failed", "Result": "timeout", "ExecMainCode": "2", "ExecMainStatus": "15"},
            UnitRun(INVOCATION, BEGAN_MS, ENDED_MS, "timeout", None, 15),
        ),
        (
            {"ActiveState": "failed", "Result": "core-dump", "ExecMainCode": "3", "ExecMainStatus": "11"},
            UnitRun(INVOCATION, BEGAN_MS, ENDED_MS, "core-dump", None, 11),
        ),
        (
            {
                "ActiveState": "activating",
                "SubState": "start",
                "InactiveEnterTimestamp": "Sat 2026-11-28 02:20:07 UTC",
            },
            UnitRun(INVOCATION, BEGAN_MS, 0, "", None, None),
        ),
        (
            {
                "ActiveState": "active",
                "SubState": "exited",
                "ActiveEnterTimestamp": ENDED,
                "InactiveEnterTimestamp": "",
            },
            UnitRun(INVOCATION, BEGAN_MS, ENDED_MS, "success", 0, None),
        ),
        (
            {"ActiveState": "active", "SubState": "running", "ActiveEnterTimestamp": BEGAN},
            UnitRun(INVOCATION, BEGAN_MS, 0, "", None, None),
        ),
        (
            {"InactiveExitTimestamp": "@1795918500"},
            UnitRun(INVOCATION, BEGAN_MS, ENDED_MS, "success", 0, None),
        ),
        ({"InactiveExitTimestamp": ""}, None),
        ({"InactiveExitTimestamp": "n/a"}, None),
        ({"InactiveExitTimestamp": "So 2026-11-29 02:15:00 CET"}, None),
        ({"InactiveEnterTimestamp": "Sat 2026-11-28 02:20:07 UTC"}, None),
        (
            {"ExecMainCode": "[not set]", "ExecMainStatus": ""},
            UnitRun(INVOCATION, BEGAN_MS, ENDED_MS, "success", None, None),
        ),
    ],
)
def test_the_last_run_of_a_service_is_what_systemd_says(shown: dict[str, str], run: UnitRun | None) -> None:
    assert run_of("backup.service", {**DONE, **shown}) == run


def test_a_run_without_an_invocation_is_known_by_when_it_began() -> None:
    first = run_of("backup.service", {**DONE, "InvocationID": ""})
    again = run_of("backup.service", {**DONE, "InvocationID": ""})
    other = run_of("backup.service", {**DONE, "InvocationID": "", "InactiveExitTimestamp": "@1795918501"})
    assert first is not None
    assert again is not None
    assert other is not None
    assert first.run_id == again.run_id != other.run_id


def test_an_end_is_one_record_whoever_tells_it() -> None:
    job = UnitJob("nightly", "restic", "backup.timer")
    run = run_of("backup.service", {**DONE, "ActiveState": "failed", "Result": "oom-kill"})
    assert run is not None
    one, again = record_of(job, run, 5_000), record_of(job, run, 9_000)
    assert one.record_id == again.record_id
    assert (one.outcome, one.source, one.reason) == (Outcome.FAILED, Source.UNIT, "unit-oom-kill")
    assert (one.started_ms, one.point_ms, one.finished_ms) == (BEGAN_MS, BEGAN_MS, ENDED_MS)
    assert record_fault(one) == ""
    strange = record_of(job, UnitRun("x" * 32, 1, 2, "A B\x1b", 1, None), 3)
    assert strange.reason == "unit-failed"


def printed(*blocks: dict[str, str]) -> str:
    return "\n".join("".join(f"{name}={value}\n" for name, value in block.items()) for block in blocks)


def test_blocks_of_units_are_told_apart() -> None:
    found = read_shown(printed({"Id": "a", "Result": "x=y"}, {"Id": "b"}))
    assert found == [{"Id": "a", "Result": "x=y"}, {"Id": "b"}]
    assert read_shown("garbage\n\n\n") == []


class Systemd:
    """Answers as `systemctl show` does."""

    def __init__(self) -> None:
        self.services: dict[str, dict[str, str]] = {"backup.service": DONE}
        self.timers = {"nightly.timer": "backup.service"}
        self.down = ""

    async def show(self, properties: Sequence[str], names: Sequence[str]) -> str:
        if self.down:
            raise OSError(self.down)
        if tuple(properties) == ("Id", "Unit"):
            return printed(*({"Id": name, "Unit": self.timers.get(name, "")} for name in names))
        missing = {"Id": "?", "LoadState": "not-found", "ActiveState": "inactive"}
        return printed(*(self.services.get(name, missing) for name in names))


class Desk:
    def __init__(self) -> None:
        self.systemd = Systemd()
        self.kept: list[Record] = []
        self.full = False
        self.watch = UnitWatch(self.keep, ManualClock(), self.systemd.show)

    async def keep(self, record: Record) -> bool:
        if not self.full:
            self.kept.append(record)
        return not self.full

    @property
    def outcomes(self) -> list[str]:
        return [record.outcome.value for record in self.kept]


async def test_each_end_is_told_once_and_a_run_that_goes_on_at_every_look() -> None:
    desk = Desk()
    desk.watch.adopt(
        [UnitJob("nightly", "restic", "nightly.timer"), UnitJob("other", "wrap", "none.service")]
    )
    for _ in range(3):
        await desk.watch.look()
    assert desk.outcomes == ["ok"]
    going = {"ActiveState": "activating", "SubState": "start", "InvocationID": "a" * 32}
    desk.systemd.services["backup.service"] = {**DONE, **going, "InactiveExitTimestamp": ENDED}
    for _ in range(2):
        await desk.watch.look()
    assert desk.outcomes == ["ok", "running", "running"]
    assert len({record.record_id for record in desk.kept}) == 3
    assert {record.run_id for record in desk.kept[1:]} == {"a" * 32}


async def test_an_end_that_could_not_be_kept_is_told_at_the_next_look() -> None:
    desk = Desk()
    desk.watch.adopt([UnitJob("nightly", "restic", "backup.service")])
    desk.full = True
    await desk.watch.look()
    desk.full = False
    await desk.watch.look()
    assert desk.outcomes == ["ok"]


async def test_trouble_is_logged_when_it_begins_and_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    desk = Desk()
    desk.watch.adopt([UnitJob("nightly", "restic", "backup.service"), UnitJob("x", "wrap", "gone.timer")])
    for down in ("no bus", "no bus", ""):
        desk.systemd.down = down
        await desk.watch.look()
    assert caplog.text.count("runs of a unit cannot be read") == 2, "no bus, and a unit that is not there"
    assert caplog.text.count("can be read again") == 1
    assert desk.outcomes == ["ok"]


async def test_who_prints_less_than_was_asked_for_is_not_believed() -> None:
    desk = Desk()

    async def half(properties: Sequence[str], names: Sequence[str]) -> str:
        return printed(DONE)

    watch = UnitWatch(desk.keep, ManualClock(), half)
    watch.adopt([UnitJob("a", "wrap", "a.service"), UnitJob("b", "wrap", "b.service")])
    await watch.look()
    assert desk.kept == []


def program(place: Path, script: str) -> str:
    path = place / "systemctl"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


async def test_systemctl_is_asked_without_a_shell_in_its_own_language_and_with_a_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "SYSTEMCTL", program(tmp_path, 'echo "Args=$*"; echo "Env=$LC_ALL $TZ"'))
    shown = read_shown(await show(("Id", "Unit"), ("a b.service", "$(x).timer")))[0]
    assert shown["Args"] == "show --no-pager --property=Id,Unit -- a b.service $(x).timer"
    assert shown["Env"] == "C UTC"
    monkeypatch.setattr(units, "SYSTEMCTL", program(tmp_path, "echo no bus >&2; exit 1"))
    with pytest.raises(OSError, match="no bus"):
        await show(("Id",), ("a.service",))
    monkeypatch.setattr(units, "SYSTEMCTL", program(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 60"))
    monkeypatch.setattr(units, "SHOW_S", 0.5)
    with pytest.raises(TimeoutError):
        await show(("Id",), ("a.service",))
    await asyncio.sleep(0)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
