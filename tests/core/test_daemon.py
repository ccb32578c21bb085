"""Daemons: signals that ask, drains with a deadline, reloads that swap or refuse, an honest watchdog."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from watchbill.clock import ManualClock
from watchbill.daemon import Daemon, Exit, exit_code
from watchbill.errors import Busy, ConfigError, Refused, Unreachable
from watchbill.sdnotify import Notifier


class Manager:
    """The service manager's end of the notification socket."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.settimeout(20)

    def wait_for(self, text: str) -> list[str]:
        """Every message up to the one that contains `text`."""
        messages = []
        while not messages or text not in messages[-1]:
            messages.append(self._socket.recv(4096).decode())
        return messages

    def drain(self) -> None:
        """Read what has arrived."""
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(4096)
        self._socket.settimeout(20)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path):
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


@pytest.fixture
def start(manager):
    started = []

    def start(body: str, drain_s: float = 20.0, **env: str) -> subprocess.Popen[str]:
        script = (
            "import asyncio, sys, time\n"
            "from watchbill import daemon, logs\n"
            "from watchbill.errors import *\n"
            "logs.setup()\n" + textwrap.dedent(body) + f"\nsys.exit(daemon.run(work, drain_s={drain_s}))\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "NOTIFY_SOCKET": manager.address, **env},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_stop_is_asked_for_and_drained(start, manager):
    process = start(
        """
        async def work(house):
            house.spawn("for ever", asyncio.Event().wait())
            house.ready("at work")
            await house.stopping.wait()
            print("draining")
        """
    )
    manager.wait_for("READY=1\nSTATUS=at work")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "draining\n"), err
    manager.wait_for("STOPPING=1")


BEGINS_ANEW = """
    import os, pathlib
    lives = pathlib.Path(os.environ["LIVES"])
    async def work(house):
        life = lives.read_text().count("\\n") + 1
        with lives.open("a") as file:
            file.write(f"{os.getpid()} {sys.orig_argv[1:]}\\n")
        house.ready(f"life {life}")
        if life == 1:
            house.ask_restart()
        await house.stopping.wait()
"""


def test_a_daemon_that_begins_anew_is_the_same_process_with_the_same_arguments(start, manager, tmp_path):
    (lives := tmp_path / "lives").touch()
    process = start(BEGINS_ANEW, LIVES=str(lives))
    said = manager.wait_for("STATUS=life 2")
    assert any("RELOADING=1" in message for message in said), "the manager does not take it for an end"
    assert not any("STOPPING" in message for message in said)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    first, second = lives.read_text().splitlines()
    assert first == second
    assert first.split()[0] == str(process.pid)


def test_a_stop_that_is_asked_for_meanwhile_stays_one(manager):
    async def scenario():
        async with asyncio.TaskGroup() as group:
            house = Daemon(group, Notifier({"NOTIFY_SOCKET": manager.address}), ManualClock(), 1)
            house.ask_restart()
            assert house.again
            house.ask_stop()
            assert (house.again, house.stopping.is_set()) == (False, True)
            house.ask_restart()
            assert not house.again

    asyncio.run(scenario())
    manager.wait_for("STOPPING=1")


@pytest.mark.parametrize(("again", "said"), [(False, "took too long"), (True, "asked to stop again")])
def test_a_drain_that_hangs_is_cut_short(start, manager, again, said):
    process = start(
        """
        async def work(house):
            house.ready()
            await house.stopping.wait()
            house.notifier.status("hanging")
            await asyncio.Event().wait()
        """,
        drain_s=60 if again else 0.05,
    )
    manager.wait_for("READY=1")
    process.send_signal(signal.SIGINT)
    if again:
        manager.wait_for("hanging")
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert said in err


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        ("ConfigError([Problem('f.toml', 3, 'k', '1', '2')])", 2, "f.toml:3: k: got 1, wanted 2"),
        ("Unreachable('nobody there')", 5, "stopped: nobody there"),
        ("Refused('revoked')", 6, "stopped: revoked"),
        ("StorageError('disk')", 1, "stopped: disk"),
        ("KeyError('bug')", 1, "Traceback"),
    ],
)
def test_a_failed_task_ends_the_daemon_with_its_code(start, raised, code, said):
    process = start(
        f"""
        async def fails():
            raise {raised}
        async def work(house):
            house.spawn("failing", fails())
            await asyncio.Event().wait()
        """
    )
    _, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert said in err
    assert ("Traceback" in err) == (said == "Traceback")


def test_a_reload_swaps_or_refuses_and_the_daemon_goes_on(start, manager):
    process = start(
        """
        wrong = ConfigError([Problem("a.toml", 1, "x", "1", "2")])
        outcomes = [None, wrong, OSError(24, "no descriptors"), None]
        async def reload():
            outcome = outcomes.pop(0)
            if outcome:
                raise outcome
        async def work(house):
            house.on_reload(reload)
            house.ready("at work")
            await house.stopping.wait()
            print(house.reloads, house.reloads_refused, repr(house.reload_error))
        """
    )
    manager.wait_for("at work")
    for said in ("configuration reloaded", "reload refused", "reload refused", "configuration reloaded"):
        process.send_signal(signal.SIGHUP)
        messages = manager.wait_for(said)
        assert messages[-2].startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert messages[-1].startswith("READY=1\nSTATUS=")
    process.terminate()
    out, err = process.communicate(timeout=20)
    assert out == "4 2 ''\n"
    assert "configuration: a.toml:1: x: got 1, wanted 2" in err


def test_a_wedged_loop_stops_the_watchdog_and_is_named(start, manager):
    process = start(
        """
        async def work(house):
            stamp = house.progress.watch("sampling", 0.05)
            async def beat():
                for _ in range(20):
                    stamp.made()
                    await asyncio.sleep(0.01)
            house.spawn("sampling", beat())
            house.ready("at work")
            await house.stopping.wait()
        """,
        WATCHDOG_USEC="60000",
    )
    manager.wait_for("WATCHDOG=1")
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "no progress, the watchdog is not answered loops=sampling" in line
    manager.drain()
    process.terminate()
    assert manager.wait_for("STOPPING=1") == ["STOPPING=1\nSTATUS=draining"]
    process.communicate(timeout=20)


async def test_the_watchdog_is_pinged_only_while_every_loop_turns(manager):
    clock = ManualClock()
    async with asyncio.TaskGroup() as group:
        daemon = Daemon(group, Notifier({"NOTIFY_SOCKET": manager.address}), clock, 1)
        sampling = daemon.progress.watch("sampling", 30)
        sending = daemon.progress.watch("sending", 60)
        assert daemon.check_progress([]) == []
        assert manager.wait_for("WATCHDOG=1") == ["WATCHDOG=1"]
        clock.advance(31)
        sending.made()
        assert daemon.check_progress([]) == ["sampling"]
        sampling.made()
        assert daemon.check_progress(["sampling"]) == []
        assert manager.wait_for("WATCHDOG=1") == ["WATCHDOG=1"]
        clock.advance(61)
        assert daemon.progress.wedged() == ["sampling", "sending"]
        daemon.progress.forget("sampling")
        assert daemon.progress.wedged() == ["sending"]


def test_exit_codes_say_what_kind_of_failure_it_was():
    table = [
        (ConfigError([]), 2),
        (Unreachable("x"), 5),
        (Busy("x", 1), 1),
        (Refused("x"), 6),
        (ValueError(), 1),
        (BaseExceptionGroup("", [Refused("x"), Refused("y")]), 6),
        (BaseExceptionGroup("", [Refused("x"), ValueError()]), Exit.FAILED),
    ]
    for error, code in table:
        assert exit_code(error) == code
