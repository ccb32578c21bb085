"""Order to event over a real link, with a real agent and a real runner, which are killed on the way."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from watchbill.actions import outcomes
from watchbill.actions.order import Ask
from watchbill.protocol.frames import ORDER, RunnerOrder, Stream

from .conftest import ENDS_S, READERS, Host

PROGRAM = Path(sys.executable).parent / "watchbill-runner"


def appears(path: Path) -> None:
    until_s = time.monotonic() + ENDS_S
    while not path.exists():
        assert time.monotonic() < until_s
        time.sleep(0.02)


@pytest.fixture
def runners(host: Host) -> Iterator[Callable[[], "subprocess.Popen[bytes]"]]:
    made: list[subprocess.Popen[bytes]] = []

    def start() -> "subprocess.Popen[bytes]":
        process = subprocess.Popen([PROGRAM, "--home", str(host.root)], stderr=subprocess.DEVNULL)
        made.append(process)
        appears(host.homes.run / "runner.sock")
        return process

    yield start
    for process in made:
        process.kill()
        process.wait()


async def test_runner_and_agent_are_killed_while_it_runs_and_the_end_is_heard_once(
    host: Host, runners: Any, collector: Any, agents: Any, enrol: Any
) -> None:
    counter, go = host.root / "counter", host.root / "go"
    tool = host.script(
        "tool",
        f"import os, time\nopen({str(counter)!r}, 'a').write('ran ')\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.02)\nprint('done')",
    )
    host.action("svc", [str(tool)], "once")
    enrol(host.root, collector)
    command = host.command("svc")
    runner = runners()
    collector.asks = [RunnerOrder(host.signed(command), 60_000)]
    agent = agents(host.root, 'interval = "1s"\n')

    def told(kind: str) -> dict[bytes, Any]:
        """By name: the collector takes each once."""
        events = [record.event for record in collector.records(Stream.CRIT)]
        return {bytes(one.event_id): READERS[kind](one.payload) for one in events if one.kind == kind}

    await collector.until(lambda _: told(outcomes.COMMAND_ACCEPTED))
    assert ORDER in collector.hellos[-1].takes
    await asyncio.to_thread(appears, counter)
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    agent.process.send_signal(signal.SIGKILL)
    agent.process.wait()
    (host.homes.run / "runner.sock").unlink()
    # The collector knows of nothing: it asks, and sends the same command again.
    asked = Ask("q", (host.key(command),))
    collector.asks = [RunnerOrder(host.signed(order), 60_000) for order in (asked, command)]
    runners()
    agents(host.root, 'interval = "1s"\n')
    await collector.until(lambda _: told(outcomes.COMMAND_STATES))
    (states,) = told(outcomes.COMMAND_STATES).values()
    assert isinstance(states.states[host.key(command)], outcomes.State)
    go.touch()
    await collector.until(lambda _: told(outcomes.COMMAND_FINISHED))
    (finished,) = told(outcomes.COMMAND_FINISHED).values()
    assert (finished.outcome, finished.output) == (outcomes.Outcome.OK, "done\n")
    assert len(told(outcomes.COMMAND_ACCEPTED)) == 1
    assert counter.read_text() == "ran "
