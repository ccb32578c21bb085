"""What an agent asks of its runner beside orders: to read what its user may not, where root says so word for word."""

import asyncio
import os
from pathlib import Path

import pytest

from watchbill.backups.record import Outcome
from watchbill.homes import Homes
from watchbill_agent.actions.health import look
from watchbill_agent.backups.adapter import Observation, Reason
from watchbill_agent.backups.child import _with_hint
from watchbill_agent.backups.command import HostCommands
from watchbill_agent.backups.through_runner import ThroughRunner
from watchbill_agent.checks.check import About, Failed, Verdict
from watchbill_agent.checks.kinds.exec import Exec, Options
from watchbill_agent.doctor import _runner

from .conftest import Host
from .test_runner_relay import serving

WHO = "import os, sys\nprint(os.environ.get('TZ', 'runner'), *sys.argv[1:])\nsys.exit(len(sys.argv) - 1)"
"""By its environment a tool knows who runs it: adapters set a zone, the runner does not."""


def through(host: Host, tmp_path: Path) -> ThroughRunner:
    return ThroughRunner(HostCommands(tmp_path, 20.0), host.homes.etc, host.homes.run / "runner.sock")


async def test_a_command_that_stands_in_observe_d_is_the_runners_and_no_other(
    host: Host, tmp_path: Path
) -> None:
    tool = str(host.script("tool", WHO))
    (host.homes.etc / "observe.d" / "a.toml").write_text(
        f'[[observe]]\nname = "info"\nargv = ["{tool}", "info"]\n'
        '[[observe]]\nname = "long"\nargv = ["/usr/bin/head", "-c", "5000", "/dev/zero"]\n'
    )

    def look() -> list[tuple[int | None, bytes]]:
        commands = through(host, tmp_path)
        found = [
            commands.run([tool, "info"]),
            commands.run([tool, "info", "more"]),
            commands.run([tool, "info"], env={"TZ": "UTC"}),
            commands.run([tool, "info"], input=b"x"),
        ]
        long = commands.run(["head", "-c", "5000", "/dev/zero"], stdout_bytes_max=100)
        assert (long.stdout, long.truncated) == (bytes(100), True), "found by its name in PATH as well"
        assert commands.hint() == "", "it is the runner's already"
        return [(one.exit_code, one.stdout) for one in found]

    async with serving(host):
        found = await asyncio.to_thread(look)
    assert found == [(1, b"runner info\n"), (2, b"UTC info more\n"), (1, b"UTC info\n"), (1, b"UTC info\n")]


async def test_a_check_runs_what_root_lets_the_runner_run(host: Host) -> None:
    tool = host.script("plugin", "print('DISK OK | x=5ms;10')\nraise SystemExit(1)")
    (host.homes.etc / "observe.d" / "a.toml").write_text(f'[[observe]]\nname = "disk"\nargv = ["{tool}"]\n')
    about = About("x", 60, 20, etc=host.homes.etc)
    async with serving(host):
        outcome = await Exec(Options(observe="disk"), about).look(20)
        assert (outcome.verdict, outcome.detail) == (Verdict.WARNING, "DISK OK")
        assert outcome.samples.values[0] == 0.005
        with pytest.raises(Failed, match="nothing called 'other' may be read here") as raised:
            await Exec(Options(observe="other"), about).look(20)
    assert (raised.value.verdict, raised.value.reason) == (Verdict.UNKNOWN, "refused")


def test_without_a_runner_it_is_tried_as_ever_and_what_root_would_have_to_say_is_told(
    host: Host, tmp_path: Path
) -> None:
    tool = str(host.script("tool", WHO))
    commands = through(host, tmp_path)
    assert commands.run([tool, "info"]).stdout == b"UTC info\n"
    found = Observation(outcome=Outcome.UNKNOWN, reason=Reason.NEEDS_RUNNER, errors=("may not be read",))
    told = _with_hint(found, commands)
    assert told.errors == (
        f'or let the runner read it: observe.d, argv = ["{tool}", "info"]',
        "may not be read",
    )
    other = Observation(outcome=Outcome.OK)
    assert _with_hint(other, commands) is other
    assert _with_hint(found, HostCommands(tmp_path, 1.0)) is found


async def test_a_runner_that_refuses_leaves_it_to_the_agents_user(host: Host, tmp_path: Path) -> None:
    tool = host.script("tool", WHO)
    (host.homes.etc / "observe.d" / "a.toml").write_text(
        f'[[observe]]\nname = "info"\nargv = ["{tool}", "info"]\n'
    )
    commands = through(host, tmp_path)
    (host.homes.etc / "observe.d" / "a.toml").unlink()
    async with serving(host):
        done = await asyncio.to_thread(commands.run, [str(tool), "info"])
    assert done.stdout == b"UTC info\n"


async def test_a_doctor_says_whether_what_is_allowed_could_be_run(host: Host) -> None:
    homes = Homes.resolve("agent", host.root, {})
    assert look(homes, os.geteuid()) is None, "a host that allows nothing needs no runner"
    host.action("svc", ["/bin/true"], "once")
    found = look(homes, os.geteuid())
    assert found is not None
    assert found.next == "systemctl enable --now watchbill-runner.socket"
    async with serving(host):
        found = await asyncio.to_thread(look, homes, os.geteuid())
    assert found is not None
    assert (found.next, found.text.startswith("1 actions and 0 readings; 0 commands run")) == ("", True)
    host.allow("nonsense", "b.toml")
    found = look(homes, os.geteuid())
    assert found is not None
    assert (found.next, "b.toml" in found.text) == ("watchbill-agent actions check", True)
    (host.homes.etc / "actions.d" / "b.toml").unlink()
    (host.homes.etc / "enrolled.json").unlink()
    found = look(homes, os.geteuid())
    assert found is not None
    assert "enroll" in found.next
    assert [one.check for one in _runner(homes)] == ["runner"]
