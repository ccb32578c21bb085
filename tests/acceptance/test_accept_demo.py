"""The demo, as somebody types it: it shows this host up, and whatever happens to it, nothing stays behind."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

DEADLINE_S = 60.0

pytestmark = pytest.mark.timeout(180)


class Desk:
    """A user with a temporary and a runtime directory of his own, who starts demos."""

    def __init__(self, house):
        self.root = house.root
        self.tmp = house.root / "t"
        self.run = house.root / "r"
        self.tmp.mkdir()
        self.environment = {**house.environment, "TMPDIR": str(self.tmp)}
        self.started = []

    def demo(self, *arguments):
        process = subprocess.Popen(
            ["watchbill", "demo", "--no-browser", *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def shown(self, *arguments):
        """A demo that is up: its process and what it printed as JSON."""
        process = self.demo("--json", *arguments)
        line = process.stdout.readline()
        assert line, process.communicate()
        return process, json.loads(line)

    def command(self, *arguments):
        return subprocess.run(
            ["watchbill", *arguments], env=self.environment, capture_output=True, text=True, timeout=60
        )

    def left(self):
        """Processes with a path of ours on their command line, and files where a demo puts them."""
        found = [str(path) for place in (self.tmp, self.run) for path in place.iterdir()]
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes()
                if entry.name.isdigit() and os.fsencode(self.root) in line:
                    found.append(line.replace(b"\0", b" ").decode())
        return found


@pytest.fixture
def desk(house) -> Iterator[Desk]:
    made = Desk(house)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def nothing_left(desk, until):
    until(lambda: not desk.left(), f"nothing is left of {desk.left()}", DEADLINE_S)


def test_kill_9_while_it_starts_leaves_nothing(desk, until):
    process = desk.demo()
    until(lambda: any("watchbill-collector" in line for line in desk.left()), "the collector starts")
    process.kill()
    process.wait()
    nothing_left(desk, until)


@pytest.mark.parametrize("program", ["watchbill-collector", "watchbill-agent"])
def test_a_daemon_killed_in_a_demo_is_back_with_its_history(desk, until, program):
    process, said = desk.shown()

    def values():
        done = desk.command("query", "count_over_time(node_load1[10m])", "--json")
        rows = json.loads(done.stdout)["data"]["result"] if done.returncode == 0 else []
        return float(rows[0]["value"][1]) if rows else 0.0

    before = until(lambda: (found := values()) >= 3 and found, "some history")
    (pid,) = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and f"/{program} run --home {said['home']} " in _cmdline(entry)
    ]
    os.kill(pid, signal.SIGKILL)
    until(lambda: values() > before + 3, "it was started again, and history goes on")
    (host,) = json.loads(desk.command("hosts", "--json").stdout)["hosts"]
    assert host["state"] == "up"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    assert f"{program} run was killed (SIGKILL)" in err
    assert "was started again" in err
    assert desk.left() == []


def test_a_second_demo_takes_another_port_and_leaves_the_first_alone(desk, until):
    first, one = desk.shown()
    second, two = desk.shown()
    assert one["url"] != two["url"]
    found = json.loads(desk.command("doctor", "--json").stdout)["findings"]
    assert any(one["url"] in finding["what"] for finding in found)
    second.send_signal(signal.SIGINT)
    _, err = second.communicate(timeout=DEADLINE_S)
    assert second.returncode == 0, err
    assert f"Another demo of yours runs at {one['url']}" in err
    up = json.loads(desk.command("query", "up", "--json").stdout)["data"]["result"]
    assert [row["value"][1] for row in up] == ["1"]
    assert Path(one["home"]).is_dir()
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=DEADLINE_S)
    nothing_left(desk, until)


def _cmdline(entry):
    try:
        return (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
