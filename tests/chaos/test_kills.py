"""kill -9 of everything, again and again, under load; then every reading is accounted for."""

import os
import signal
import time
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from .account import account
from .critical import balance

pytestmark = pytest.mark.timeout(600)

QUIET = "[rules]\nstock = false\n"
HOSTS = ("web1", "web2", "web3")


def _caught_up(collector: Any, name: str, since_s: float) -> bool:
    """Whether history has a reading of this host that was taken after `since_s`."""
    return any(at > since_s for at, _ in collector.raw(f'node_time_seconds{{instance="{name}"}}', 60))


def _settled(collector: Any, names: tuple[str, ...], until: Any) -> None:
    """Everybody is up again and has delivered what it held."""
    now_s = time.time()
    for name in names:
        until(lambda name=name: collector.host(name)["state"] == "up", f"{name} is up", 90)
        until(lambda name=name: _caught_up(collector, name, now_s), f"{name} has caught up", 60)


def test_a_collector_killed_again_and_again_loses_nothing(
    house: Any, until: Any, chance: Random, rounds: int
) -> None:
    collector = house.collector(QUIET)
    for name in HOSTS:
        house.agent(collector, name)
    for _ in range(rounds):
        time.sleep(chance.uniform(0.2, 2.5))
        collector.kill()
        time.sleep(chance.uniform(0, 1))
        collector.launch()
    _settled(collector, HOSTS, until)
    for name in HOSTS:
        found = account(collector, name)
        assert found.holes == [], "what was taken while no collector ran came later"
        assert found.rows == []


def test_an_agent_killed_again_and_again_leaves_no_hole_without_a_row(
    house: Any, until: Any, chance: Random, rounds: int
) -> None:
    collector = house.collector(QUIET)
    agent = house.agent(collector, "web1")
    for _ in range(rounds):
        time.sleep(chance.uniform(0.3, 3.0))
        agent.kill()
        agent.start()
    _settled(collector, ("web1",), until)
    found = account(collector, "web1")
    assert found.unexplained == [], found
    assert found.reasons <= {"restart", "tail-unknown"}, found.rows
    assert len(found.times) > 1
    assert {event.kind for event in balance(collector, agent, until)} == {"agent.started"}


@pytest.mark.real("mosquitto")
def test_a_broker_killed_again_and_again_loses_nothing(
    house: Any, until: Any, free_ports: Callable[[int], list[int]], chance: Random, rounds: int
) -> None:
    collector = house.collector(launch=False)
    agents, hosts = free_ports(2)
    with open(collector.etc / "collector.toml", "a") as file:
        file.write(f'[mqtt]\nbroker = "embedded"\nlisten = "127.0.0.1:{agents}"\n')
        file.write(f'enroll_listen = "127.0.0.1:{hosts}"\n')
    collector.launch()
    agent = house.home("edge1")
    done = agent.command("enroll", "--token-file", "-", given=collector.issue("edge1", mqtt=True)["token"])
    assert done.code == 0, done
    agent.start()
    house.until_up(collector, "edge1")
    pid_file = collector.state / "broker" / "mosquitto.pid"
    for _ in range(rounds):
        time.sleep(chance.uniform(0.2, 2.5))
        pid = until(lambda: int(pid_file.read_text() or 0), "the broker has said who it is")
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: int(pid_file.read_text() or pid) != pid, "the broker is started again")
    _settled(collector, ("edge1",), until)
    found = account(collector, "edge1")
    assert found.holes == []
    assert found.rows == []


def test_everything_killed_in_any_order_is_accounted_for(
    house: Any, until: Any, chance: Random, rounds: int
) -> None:
    collector = house.collector(QUIET)
    agents = [house.agent(collector, name) for name in HOSTS[:2]]
    for _ in range(2 * rounds):
        time.sleep(chance.uniform(0.1, 2.0))
        victim = chance.choice([collector, *agents])
        victim.kill()
        time.sleep(chance.uniform(0, 1))
        victim.start()
    until(collector.ready, "the collector is ready")
    _settled(collector, HOSTS[:2], until)
    for name in HOSTS[:2]:
        found = account(collector, name)
        assert found.unexplained == [], (name, found)
    for agent in agents:
        balance(collector, agent, until)
