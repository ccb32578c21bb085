"""The units as systemd itself reads them, without one that runs."""

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from watchbill.config import ByteSize
from watchbill_collector.config import CollectorConfig

ROOT = Path(__file__).parents[2]
UNITS = ("watchbill-agent", "watchbill-collector")
SLEEP = "watchbill-agent-sleep"
RUNNER = "watchbill-runner"
EXPOSURE_MAX = 20
"""Tenths: 2.0."""

pytestmark = pytest.mark.real("systemd-analyze")


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(params=UNITS)
def unit(request, tmp_path):
    return copied(request.param, tmp_path)


@pytest.fixture(params=(*UNITS, SLEEP, RUNNER))
def any_unit(request, tmp_path):
    return copied(request.param, tmp_path)


def copied(name: str, tmp_path: Path) -> Path:
    """A copy that starts the programs of the environment the tests run in."""
    source = ROOT / "systemd" / f"{name}.service"
    copy = tmp_path / source.name
    if name == RUNNER:
        shutil.copy(ROOT / "systemd" / f"{name}.socket", tmp_path)
    programs = Path(sys.executable).parent
    copy.write_text(source.read_text().replace("/opt/watchbill/bin", str(programs)))
    return copy


def settings(unit: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not key.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def test_a_unit_has_no_mistake(any_unit):
    done = run("systemd-analyze", "verify", "--recursive-errors=no", str(any_unit))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_misspelled_setting_would_be_noticed(any_unit):
    any_unit.write_text(any_unit.read_text().replace("ProtectClock=", "ProtectClok="))
    assert run("systemd-analyze", "verify", "--recursive-errors=no", str(any_unit)).returncode != 0


def test_a_unit_is_hardened(any_unit):
    done = run("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX}", str(any_unit))
    assert done.returncode == 0, done.stdout


def test_a_hardening_left_out_would_be_noticed(any_unit):
    kept = [line for line in any_unit.read_text().splitlines() if "ProtectSystem" not in line]
    kept = [line for line in kept if "NoNewPrivileges" not in line and "SystemCallFilter" not in line]
    any_unit.write_text("\n".join(kept) + "\n")
    done = run("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX}", str(any_unit))
    assert done.returncode != 0


def test_a_unit_speaks_to_systemd_as_the_daemons_do(unit):
    found = settings(unit)
    assert found["Type"] == ["notify"]
    assert found["ExecReload"] == ["+/usr/bin/systemctl kill --kill-whom=main --signal=HUP %n"]
    assert found["WatchdogSec"] == ["60"]
    # A configuration error or a missing identity is not mended by trying again.
    assert found["RestartPreventExitStatus"] == ["2"]
    assert float(found["TimeoutStopSec"][0]) > 2 * 10, "the drain fits into the stop, with room"


def test_a_stop_says_why_and_a_sleep_before_it_begins():
    assert settings(ROOT / "systemd/watchbill-agent.service")["ExecStop"] == [
        "-/opt/watchbill/bin/watchbill-agent leaving --unit=%n"
    ]
    found = settings(ROOT / "systemd" / f"{SLEEP}.service")
    assert found["ExecStart"] == ["-/opt/watchbill/bin/watchbill-agent leaving --reason suspend"]
    assert (found["Before"], found["WantedBy"]) == (["sleep.target"], ["sleep.target"])
    assert found["User"] == ["watchbill-agent"], "who may ask the agent's socket"


def test_directories_are_the_ones_the_daemons_use(unit):
    from watchbill.config import Homes

    daemon = unit.stem.removeprefix("watchbill-")
    homes = Homes.resolve(daemon, env={})
    found = settings(unit)
    assert Path("/var/lib") / found["StateDirectory"][0] == homes.var
    assert Path("/run") / found["RuntimeDirectory"][0] == homes.run
    assert Path("/etc") / found["ConfigurationDirectory"][0] == homes.etc
    assert found["StateDirectoryMode"] == ["0700"]


def test_the_runner_is_started_by_its_socket_and_keeps_its_ledger():
    from watchbill.config import Homes
    from watchbill_agent.runner.frames import SOCKET_NAME
    from watchbill_agent.runner.service import AGENT_USER

    homes = Homes.resolve("runner", env={})
    door, found = (
        settings(ROOT / "systemd" / f"{RUNNER}.socket"),
        settings(ROOT / "systemd" / f"{RUNNER}.service"),
    )
    assert door["ListenStream"] == [str(homes.run / SOCKET_NAME)]
    assert (door["SocketUser"], door["SocketGroup"], door["SocketMode"]) == (["root"], [AGENT_USER], ["0660"])
    assert Path("/var/lib") / found["StateDirectory"][0] == homes.var
    assert "RuntimeDirectory" not in found, "the socket would be removed with the runner"
    assert "User" not in found
    assert (found["PrivateNetwork"], found["RestrictAddressFamilies"]) == (["yes"], ["AF_UNIX"])
    assert found["CapabilityBoundingSet"] == [""]


def test_the_unit_that_a_command_is_run_in_has_no_mistake(tmp_path):
    from watchbill_agent.runner.job import Task
    from watchbill_agent.runner.launching import UnitLauncher

    asked = []

    def record(argv, **_):
        asked.append(argv)
        return subprocess.CompletedProcess(argv, 0, b"", b"")

    task = Task(
        argv=("/bin/true",),
        run_as="root",
        owner=0,
        timeout_s=60,
        kill_grace_s=5,
        output_max=1,
        secrets={"A": "credential:token"},
    )
    UnitLauncher(Path("/etc/watchbill"), record).start("ab" * 32, task)
    said = [one.removeprefix("--property=") for one in asked[0] if one.startswith("--property=")]
    command = asked[0][asked[0].index("--") + 1 :]
    unit = tmp_path / "watchbill-cmd-test.service"

    def verified(*more):
        lines = [
            "[Unit]",
            "Description=A command",
            "[Service]",
            *said,
            *more,
            f"ExecStart={' '.join(command)}",
        ]
        unit.write_text("\n".join(lines) + "\n")
        done = run("systemd-analyze", "verify", "--recursive-errors=no", str(unit))
        return done.returncode, done.stderr

    assert len(said) > 5
    assert verified() == (0, "")
    assert verified("OOMPolice=continue")[0] != 0, "a misspelled one would be noticed"


def test_the_daemons_are_users_of_their_own_that_sysusers_makes(tmp_path):
    done = run(
        "systemd-sysusers", "--dry-run", f"--root={tmp_path}", str(ROOT / "systemd/watchbill.sysusers")
    )
    assert done.returncode == 0, done.stderr
    for name in UNITS:
        assert f"Creating user '{name}'" in done.stderr + done.stdout
        assert settings(ROOT / "systemd" / f"{name}.service")["User"] == [name]


def test_tmpfiles_makes_the_parents_and_keeps_credentials_apart(tmp_path):
    done = run("systemd-tmpfiles", "--create", f"--root={tmp_path}", str(ROOT / "systemd/watchbill.tmpfiles"))
    assert "watchbill.tmpfiles:" not in done.stderr, done.stderr
    for name in UNITS:
        credential = settings(ROOT / "systemd" / f"{name}.service")["LoadCredential"][0].partition(":")[2]
        assert (tmp_path / credential.lstrip("/")).is_dir()
        assert (tmp_path / credential.lstrip("/")).stat().st_mode & 0o777 == 0o700
    for name in ("actions.d", "rules.d", "services.d"):
        assert (tmp_path / "etc/watchbill" / name).stat().st_mode & 0o022 == 0


def test_the_collector_may_hold_more_than_its_queries_alone_may():
    allowed = settings(ROOT / "systemd" / "watchbill-collector.service")["MemoryMax"][-1]
    assert ByteSize.from_config(f"{allowed}iB") > 2 * CollectorConfig().query.memory


def test_units_parse_as_plain_ini_for_other_tools():
    for name in (*UNITS, SLEEP):
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        parser.read(ROOT / "systemd" / f"{name}.service")
        assert set(parser.sections()) == {"Unit", "Service", "Install"}
