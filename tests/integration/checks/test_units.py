"""Units of a real systemd: a user's, with a bus of its own, in namespaces in which it seems to run the host."""

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from watchbill.config import Duration
from watchbill_agent.checks.check import About, Failed, Outcome, Verdict
from watchbill_agent.checks.kinds.unit import Options, Unit
from watchbill_agent.checks.systemd_bus import escaped

SYSTEMD = "/usr/lib/systemd/systemd"
START_S = 20.0
START = """
mkdir -p /run/systemd && mount -t tmpfs none /run/systemd && mkdir /run/systemd/system
umount -R /sys/fs/cgroup 2>/dev/null; mount -t cgroup2 none /sys/fs/cgroup || exit 1
dbus-daemon --session --address="unix:path=$XDG_RUNTIME_DIR/bus" --nofork --nopidfile & bus=$!
trap 'kill $bus $manager; wait' TERM
"$0" --user --log-target=null & manager=$!
wait $manager; kill $bus
"""
UNITS = {
    "well.service": "[Service]\nExecStart=sleep 1007\n",
    "broken.service": "[Service]\nExecStart=sh -c 'exit 3'\n",
    "again.service": "[Service]\nExecStart=sh -c 'exit 4'\nRestart=always\nRestartSec=1h\n",
    "slow.service": "[Service]\nType=oneshot\nExecStart=sleep 1008\n",
    "done.service": "[Service]\nType=oneshot\nExecStart=true\n",
    "once.service": "[Service]\nType=oneshot\nExecStart=sh -c 'exit 5'\n",
    "good.timer": "[Timer]\nOnActiveSec=0\nOnUnitActiveSec=1h\nAccuracySec=1ms\nUnit=done.service\n",
    "bad.timer": "[Timer]\nOnActiveSec=0\nOnCalendar=2030-01-01\nAccuracySec=1ms\nUnit=once.service\n",
    "idle.timer": "[Timer]\nOnCalendar=2030-01-01\nUnit=done.service\n",
}
STARTED = (*(name for name in UNITS if name not in ("once.service", "done.service")),)

pytestmark = [
    pytest.mark.real("systemctl", "dbus-daemon", "unshare", SYSTEMD),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give systemd namespaces of its own"),
]


@dataclass
class Manager:
    runtime: Path

    @property
    def bus(self) -> Path:
        return self.runtime / "bus"

    def control(self, *argv: str) -> None:
        variables = {"XDG_RUNTIME_DIR": str(self.runtime), "PATH": "/usr/bin:/bin"}
        subprocess.run(
            ("systemctl", "--user", *argv), env=variables, timeout=30, check=False, capture_output=True
        )


@pytest.fixture(scope="module")
def manager() -> Iterator[Manager]:
    place = Path(tempfile.mkdtemp())
    runtime, units = place / "run", place / "home/.config/systemd/user"
    runtime.mkdir(0o700)
    units.mkdir(parents=True)
    for name, text in UNITS.items():
        (units / name).write_text(text)
    (units / "off.service").symlink_to("/dev/null")
    variables = {
        "XDG_RUNTIME_DIR": str(runtime),
        "HOME": str(place / "home"),
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    }
    variables["DBUS_SESSION_BUS_ADDRESS"] = f"unix:path={runtime}/bus"
    process = subprocess.Popen(
        ("unshare", "-m", "-C", "sh", "-c", START, SYSTEMD),
        env=variables,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        found = Manager(runtime)
        until_s = time.monotonic() + START_S
        while not (runtime / "systemd/private").exists() or not found.bus.exists():
            assert time.monotonic() < until_s, "systemd did not start"
            time.sleep(0.05)
        found.control("start", "--no-block", *STARTED)
        yield found
        found.control("stop", *STARTED)
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(place, ignore_errors=True)


async def look(manager: Manager, unit: str, **said: Any) -> Outcome:
    check = Unit(Options(unit=unit, bus=manager.bus, **said), About("x", 15, 5))
    try:
        return await check.look(5)
    finally:
        await check.close()


async def settled(manager: Manager, unit: str, reason: str, **said: Any) -> Outcome:
    """Once it is as it is to be: systemd starts units side by side."""
    async with asyncio.timeout(15):
        while (outcome := await look(manager, unit, **said)).reason != reason:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return outcome


def numbers(outcome: Outcome) -> dict[tuple[str, ...], float]:
    pairs = zip(outcome.samples.series, outcome.samples.values, strict=True)
    return {
        (one.name, *(value for name, value in one.labels if name == "state")): value for one, value in pairs
    }


async def test_a_service_that_runs_is_well(manager: Manager) -> None:
    outcome = await settled(manager, "well", "")
    assert (outcome.verdict, outcome.detail) == (Verdict.OK, "well.service: active (running)")
    found = numbers(outcome)
    assert found["node_systemd_unit_state", "active"] == 1
    assert found["node_systemd_unit_state", "failed"] == 0
    assert found["node_systemd_service_restart_total",] == 0
    assert abs(found["node_systemd_unit_start_time_seconds",] - time.time()) < 120
    over = await look(manager, "well.service", sub_states=["exited"])
    assert (over.reason, over.detail) == ("sub-state", "well.service: got running, wanted exited")
    assert (await look(manager, "well", warn=["active_seconds < 1h"])).verdict is Verdict.WARNING


@pytest.mark.parametrize(
    ("unit", "verdict", "reason", "detail"),
    [
        ("broken", 2, "failed", "broken.service: got failed (exit-code, status 3), wanted active"),
        ("again", 2, "restarting", "again.service: it ended (exit-code, status 4) and is started again, wanted active"),
        ("slow", 1, "activating", "slow.service: got activating (start), wanted active"),
        ("done", 2, "inactive", "done.service: got inactive (dead), wanted active"),
        ("nothing", 2, "not-found", "nothing.service: systemd knows no such unit"),
        ("off", 2, "masked", "off.service: it is masked, and cannot be started"),
        ("bad.timer", 2, "run-failed", "bad.timer: the last run of once.service failed (exit-code, status 5)"),
    ],
)  # fmt: skip
async def test_what_is_not_well_says_how(
    manager: Manager, unit: str, verdict: int, reason: str, detail: str
) -> None:
    outcome = await settled(manager, unit, reason)
    assert (outcome.verdict, outcome.detail) == (verdict, detail)


async def test_a_timer_says_when_it_ran_and_when_it_is_due(manager: Manager) -> None:
    outcome = await settled(manager, "good.timer", "")
    found = numbers(outcome)
    now_s = time.time()
    assert abs(found["node_systemd_timer_last_trigger_seconds",] - now_s) < 120
    assert abs(found["watchbill_check_unit_next_run_timestamp_seconds",] - now_s - 3600) < 120
    assert found["watchbill_check_unit_result_success",] == 1
    idle = numbers(await settled(manager, "idle.timer", ""))
    assert idle["node_systemd_timer_last_trigger_seconds",] == 0
    assert abs(idle["watchbill_check_unit_next_run_timestamp_seconds",] - 1_893_456_000) < 90_000


async def test_a_timer_that_did_not_run_for_too_long_is_overdue(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = await look(manager, "good.timer", run_within=Duration(3600))
    assert outcome.verdict is Verdict.OK
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 7200)
    for unit in ("good.timer", "idle.timer"):
        check = Unit(Options(unit=unit, bus=manager.bus, run_within=Duration(3600)), About("x", 15, 5))
        outcome = await check.look(5)
        await check.close()
        assert outcome.reason == "overdue", unit
        assert outcome.detail.endswith("ago, wanted one within 1h")


async def test_checks_share_a_connection_and_open_it_anew(manager: Manager) -> None:
    checks = [
        Unit(Options(unit=unit, bus=manager.bus), About("x", 15, 5))
        for unit in ("well", "slow", "good.timer")
    ]
    await asyncio.gather(*(check.look(5) for check in checks))
    (bus,) = {check._bus for check in checks}
    assert bus is not None
    await bus.close()
    assert (await checks[0].look(5)).verdict is Verdict.OK
    for check in checks:
        await check.close()


async def test_where_nothing_can_be_found_out_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="not run by systemd") as raised:
        await Unit(Options(unit="a"), About("x", 15, 5, rootfs=tmp_path)).look(5)
    assert (raised.value.verdict, raised.value.reason) == (Verdict.UNKNOWN, "no-systemd")
    check = Unit(Options(unit="a", bus=tmp_path / "bus"), About("x", 15, 5))
    with pytest.raises(Failed, match="no such file or directory") as raised:
        await check.look(5)
    await check.close()
    assert (raised.value.verdict, raised.value.reason) == (Verdict.UNKNOWN, "bus")


async def test_a_bus_that_says_nothing_is_not_waited_for(tmp_path: Path) -> None:
    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_unix_server(lambda _, writer: writers.append(writer), tmp_path / "bus")
    async with server:
        check = Unit(Options(unit="a", bus=tmp_path / "bus"), About("x", 15, 5))
        with pytest.raises(Failed, match="did not answer") as raised:
            await check.look(0.1)
        await check.close()
        for writer in writers:
            writer.close()
            await writer.wait_closed()
    assert (raised.value.verdict, raised.value.reason) == (Verdict.UNKNOWN, "bus-silent")


def test_a_name_is_escaped_as_systemd_does() -> None:
    assert escaped("a-b@1.service") == "a_2db_401_2eservice"
    assert escaped("0.timer") == "_30_2etimer"
