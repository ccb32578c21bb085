"""The demo as its users run it: real collector, real agent, and nothing left behind."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = Path(sys.executable).with_name("watchbill")
DEADLINE_S = 90.0

pytestmark = pytest.mark.timeout(240)


class Place:
    """The directories of one test. Their names are short: those of sockets have 107 bytes at most."""

    def __init__(self, root: Path) -> None:
        self.root, self.tmp, self.run = root, root / "t", root / "r"
        for directory in (self.tmp, self.run):
            directory.mkdir(mode=0o700)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(root),
            "TMPDIR": str(self.tmp),
            "XDG_RUNTIME_DIR": str(self.run),
            "LANG": "C.UTF-8",
        }
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [PROGRAM, "demo", "--no-browser", *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [PROGRAM, *arguments], env=self.environment, capture_output=True, text=True, timeout=60
        )

    def processes(self) -> list[str]:
        """Whatever runs with a path of ours on its command line."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes()
                if entry.name.isdigit() and os.fsencode(self.root) in line:
                    found.append(line.replace(b"\0", b" ").decode())
        return found

    def until_nothing_is_left(self) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while self.processes() or list(self.tmp.iterdir()) or list(self.run.iterdir()):
            assert time.monotonic() < deadline, (
                self.processes(),
                list(self.tmp.iterdir()),
                list(self.run.iterdir()),
            )
            time.sleep(0.05)


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place(Path(tempfile.mkdtemp(prefix="d")))
    yield made
    for process in made.started:
        process.kill()
        process.communicate()
    made.until_nothing_is_left()
    shutil.rmtree(made.root)


def first_document(process: "subprocess.Popen[str]") -> dict[str, object]:
    line = process.stdout.readline()
    if not line:
        process.wait(DEADLINE_S)
        pytest.fail(process.stderr.read())
    return json.loads(line)


def test_a_demo_shows_this_host_up_and_leaves_nothing_behind(place):
    process = place.start("--for", "1", "--port", str(free_port()))
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    name = socket.gethostname()
    _, state, series, *_ = next(line for line in out.splitlines() if line.strip().startswith(name)).split()
    assert state == "up"
    assert int(series) > 200
    assert "http://127.0.0.1:" in out
    assert out.count("/login?code=") == 1
    assert "watchbill enroll create --name" in out
    assert "demo-config  OK" in out
    (look,) = (line.split()[0] for line in out.splitlines() if line.endswith("watchbill hosts"))
    assert shutil.which(look, path=place.environment["PATH"]), "what it says can be typed"
    assert place.processes() == []
    assert list(place.tmp.iterdir()) == []
    assert list(place.run.iterdir()) == []


@pytest.mark.real("promtool")
def test_a_running_demo_is_what_every_command_finds(place):
    process = place.start("--json")
    said = first_document(process)
    assert said["state"] == "up"
    hosts = json.loads(place.command("hosts", "--json").stdout)["hosts"]
    assert [(host["name"], host["state"]) for host in hosts] == [(said["host"], "up")]
    assert hosts[0]["series"] == pytest.approx(said["series"], abs=50)
    up = place.command("query", "up", "--json")
    assert json.loads(up.stdout)["data"]["result"][0]["value"][1] == "1"
    assert place.command("alerts", "--json").returncode == 0
    assert (said["backup"], said["word"]) == ("demo-config", "OK")
    shown = json.loads(place.command("backups", "show", "demo-config", "--json").stdout)
    assert (shown["backup"]["host"], shown["backup"]["word"]) == (said["host"], "OK")
    assert [(run["outcome"], run["source"]) for run in shown["runs"]] == [("ok", "wrap")]
    (archive,) = (Path(str(said["home"])) / "backups").iterdir()
    with tarfile.open(archive) as opened:
        assert "etc/agent.toml" in opened.getnames()
    assert place.command("backups", "--exit-code").returncode == 0
    assert place.command("backups", "--uncovered", "--exit-code").returncode == 0
    assert said["runbook"] == "look-around"
    done = place.command("run", "look-around", "--reason", "a first look", "--wait", "--json")
    assert (done.returncode, json.loads(done.stdout)["state"]) == (0, "succeeded"), done
    assert place.command("enroll", "create", "--name", "other1").stdout.count("\n") == 1
    groups = json.loads(place.command("rules", "list", "--json").stdout)["groups"]
    assert "DemoCpuBusy" in [rule["name"] for group in groups for rule in group["rules"]]
    assert place.command("doctor").returncode in (0, 1)
    asked = subprocess.run(
        ["promtool", "query", "instant", said["url"], "up"], capture_output=True, text=True, timeout=30
    )
    assert f'instance="{said["host"]}"' in asked.stdout
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    assert place.processes() == []
    assert list(place.tmp.iterdir()) == []
    assert list(place.run.iterdir()) == []


def test_a_demo_that_is_killed_is_cleaned_up_after(place):
    process = place.start("--json")
    first_document(process)
    assert len(place.processes()) >= 2
    process.kill()
    process.wait()
    place.until_nothing_is_left()


def test_a_demo_that_is_ended_while_it_starts_leaves_nothing(place):
    process = place.start()
    deadline = time.monotonic() + DEADLINE_S
    while not any("watchbill-collector" in line for line in place.processes()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=DEADLINE_S)
    place.until_nothing_is_left()


def test_ctrl_c_that_is_held_down_is_one(place):
    process = place.start()
    deadline = time.monotonic() + DEADLINE_S
    while not any("watchbill-collector" in line for line in place.processes()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        assert time.monotonic() < deadline
    _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert said.endswith("Ended; nothing is left behind.\n"), said
    assert "Traceback" not in said
    place.until_nothing_is_left()


def test_a_named_home_is_kept_and_used_again(place):
    home = place.root / "h"
    said = []
    for _ in range(2):
        process = place.start("--json", "--for", "1", "--home", str(home))
        said.append(first_document(process))
        process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0
    assert said[0]["host"] == said[1]["host"]
    assert (home / "var" / "collector").is_dir()
    identity = json.loads((home / "var/agent/identity.json").read_text())
    assert identity


def test_a_child_that_fails_is_quoted(place):
    home = place.root / "h"
    (home / "etc/collector.d").mkdir(parents=True)
    (home / "etc/collector.d/wrong.toml").write_text("colour = 5\n")
    done = place.command("demo", "--no-browser", "--home", str(home))
    assert (done.returncode, done.stdout) == (1, "")
    assert "watchbill-collector init failed" in done.stderr
    assert "wrong.toml:1: colour" in done.stderr


def test_a_home_with_somebody_elses_configuration_is_left_alone(place):
    home = place.root / "h"
    (home / "etc").mkdir(parents=True)
    (home / "etc/collector.toml").write_text('site = "real"\n')
    done = place.command("demo", "--no-browser", "--home", str(home))
    assert done.returncode == 2
    assert "was not written by a demo" in done.stderr
    assert (home / "etc/collector.toml").read_text() == 'site = "real"\n'


def test_a_taken_port_is_refused_when_it_was_asked_for(place):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = place.command("demo", "--no-browser", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert "is taken" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("try: watchbill demo")


def test_without_the_agent_it_names_the_line_to_type(place):
    collector = place.root / "bin"
    collector.mkdir()
    (collector / "watchbill-collector").symlink_to(PROGRAM.with_name("watchbill-collector"))
    program = (
        "import sys; sys.executable = '/nowhere/python'\n"
        "from watchbill_collector.cli.program import run\n"
        "sys.exit(run(['demo', '--no-browser']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=place.environment | {"PATH": str(collector)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.endswith("try: pip install 'watchbill-collector[demo]'\n")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
