"""Two hosts at the ends of cables that are pulled, or lead nowhere, again and again: one speaks to the collector, one
to its broker. Then every reading and every critical event of both is accounted for.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from .account import account
from .cable import Cable
from .critical import balance

pytestmark = [pytest.mark.timeout(600), pytest.mark.real("ip", "nsenter", "mosquitto")]

ANYWHERE: Final = "0.0.0.0"
CONFIG: Final = """\
[rules]
stock = false
[mqtt]
broker = "embedded"
listen = "{anywhere}:{mqtt}"
enroll_listen = "127.0.0.1:{hosts}"
"""
RESTARTS: Final = 3
"""In every so manieth round the agent is killed and started behind the cut."""


@pytest.fixture
def cables(house: Any) -> Iterator[list[Cable]]:
    made: list[Cable] = []
    try:
        made += [Cable()]
        made += [Cable()]
        yield made
    finally:
        for process in reversed(house.processes):
            process.kill()
        for cable in made:
            cable.close()


def reachable(house: Any, cables: list[Cable], mqtt: int, hosts: int) -> Any:
    """A collector that hosts reach over their cables, too."""
    collector = house.collector(CONFIG.format(anywhere=ANYWHERE, mqtt=mqtt, hosts=hosts), launch=False)
    path: Path = collector.etc / "collector.toml"
    names = ", ".join(f'"{cable.here}"' for cable in cables)
    text = path.read_text().replace('address = "127.0.0.1"\n', f'address = "127.0.0.1"\nnames = [{names}]\n')
    stream = collector.ports["stream"]
    path.write_text(text.replace(f"127.0.0.1:{stream}", f"{ANYWHERE}:{stream}"))
    collector.launch()
    return collector


def run(agent: Any, cable: Cable) -> None:
    """Start the agent at the far end."""
    program = Path(agent.house.environment["PATH"].split(":")[0]) / "watchbill-agent"
    agent.house.start(agent, cable.argv([str(program), "run", "--home", str(agent.home)]))


def caught_up(collector: Any, name: str, since_s: float) -> bool:
    return any(at > since_s for at, _ in collector.raw(f'node_time_seconds{{instance="{name}"}}', 60))


def test_cables_that_are_pulled_again_and_again_cost_nothing(
    house: Any,
    until: Any,
    free_ports: Callable[[int], list[int]],
    chance: Random,
    rounds: int,
    cables: list[Cable],
) -> None:
    mqtt, hosts = free_ports(2)
    collector = reachable(house, cables, mqtt, hosts)
    stream = f"{cables[0].here}:{collector.ports['stream']}"
    web = house.enrolled(collector, "web1", f'interval = "1s"\ncollector = "{stream}"\n')
    edge = house.home("edge1", f'interval = "1s"\nmqtt = "mqtts://{cables[1].here}:{mqtt}"\n')
    token = collector.issue("edge1", mqtt=True)["token"]
    done = edge.command("enroll", "--token-file", "-", given=token)
    assert done.code == 0, done
    ends = list(zip((web, edge), cables, strict=True))
    for agent, cable in ends:
        run(agent, cable)
    for agent, _ in ends:
        house.until_up(collector, agent.name)
    for turn in range(rounds):
        time.sleep(chance.uniform(0.2, 1.0))
        for _, cable in ends:
            chance.choice([cable.pull, cable.lead_nowhere])()
        time.sleep(chance.uniform(0.5, 2.5))
        for agent, cable in ends:
            if turn % RESTARTS == 1:
                agent.kill()
                run(agent, cable)
            cable.mend()
    now_s = time.time()
    starts = 1 + sum(turn % RESTARTS == 1 for turn in range(rounds))
    for agent, _ in ends:
        until(lambda agent=agent: caught_up(collector, agent.name, now_s), f"{agent.name} has caught up", 120)
        found = account(collector, agent.name)
        assert found.unexplained == [], found
        assert found.reasons <= {"restart"}, found.rows
        assert [event.kind for event in balance(collector, agent, until)] == ["agent.started"] * starts
