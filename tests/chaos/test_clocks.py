"""Dates that are set by an hour and by ten years, forth and back, under the agent and under the collector. Then every
reading is accounted for.

The date of a machine that others use cannot be set. libfaketime shifts what the C library says of it to one process,
so that TLS believes it too; time since the boot goes on as it does.
"""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final
from urllib.parse import urlencode

import pytest

from .account import HOLE, INTERVAL_S, account
from .critical import balance

HOUR_S: Final = 3600
TEN_YEARS_S: Final = 3652 * 24 * HOUR_S
JUMPS_S: Final = (HOUR_S, -HOUR_S, TEN_YEARS_S, -TEN_YEARS_S)
LIBRARIES: Final = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
QUIET: Final = "[rules]\nstock = false\n"

pytestmark = [pytest.mark.timeout(600), pytest.mark.real("faketime")]

SetDate = Callable[[int], None]


@pytest.fixture
def dated(house: Any) -> Callable[[Any], SetDate]:
    """Let what is started from now on live in another time: answers what sets it, in seconds ahead."""

    def shift(daemon: Any) -> SetDate:
        path = house.root / f"{daemon.program}-date"
        path.write_text("+0")
        house.environment |= {
            "LD_PRELOAD": str(LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(path),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
            "NO_FAKE_STAT": "1",
        }

        def set_date(ahead_s: int) -> None:
            new = path.with_suffix(".new")
            new.write_text(f"{ahead_s:+d}")
            new.replace(path)

        return set_date

    return shift


def readings(collector: Any) -> list[tuple[float, float]]:
    """Every reading of the host: when it was taken by the collector's date, and by the host's own."""
    selector = f'node_time_seconds{{instance="web1"}}[{4 * HOUR_S}s]'
    found = []
    for ahead_s in (-TEN_YEARS_S, 0, TEN_YEARS_S):
        query = urlencode({"query": selector, "time": f"{time.time() + ahead_s + 2 * HOUR_S:.3f}"})
        answer = collector.ask("GET", f"/api/v1/query?{query}")
        assert answer.status == 200, answer
        rows = answer.json["data"]["result"]
        found += [(float(at), float(value)) for row in rows for at, value in row["values"]]
    return found


def test_a_host_whose_date_is_set_loses_nothing(
    house: Any, until: Any, chance: Random, rounds: int, dated: Callable[[Any], SetDate]
) -> None:
    collector = house.collector(QUIET)
    agent = house.enrolled(collector, "web1")
    set_date = dated(agent)
    agent.start()
    house.until_up(collector, "web1")
    jumps = [jump for _ in range(0, rounds, len(JUMPS_S)) for jump in chance.sample(JUMPS_S, len(JUMPS_S))]
    for turn, jump_s in enumerate(jumps[: max(rounds, 3)]):
        set_date(jump_s)
        time.sleep(chance.uniform(1.2, 2.5))
        if turn % len(JUMPS_S) == 1:
            agent.kill()
            agent.start()
    seen = {round((value - at) / HOUR_S) for at, value in readings(collector)}
    assert len(seen) > 1, "the date was set"
    set_date(0)
    now_s = time.time()
    until(lambda: any(at > now_s for at, _ in readings(collector)), "it has caught up", 120)
    found = account(collector, "web1", dated=True)
    assert found.unexplained == [], found
    assert found.reasons <= {"restart"}, found.rows
    balance(collector, agent, until)


def test_a_collector_whose_date_is_set_loses_nothing(
    house: Any, until: Any, chance: Random, rounds: int, dated: Callable[[Any], SetDate]
) -> None:
    collector = house.collector(QUIET, launch=False)
    ordinary = dict(house.environment)
    set_date = dated(collector)
    collector.launch()
    house.environment = ordinary
    agent = house.agent(collector, "web1")
    jumps = [chance.choice(JUMPS_S[2:]), *(chance.choice(JUMPS_S) for _ in range(3, rounds))]
    for jump_s in [*jumps, 0]:
        begun = collector.said.count(" ready stream=")
        set_date(jump_s)
        until(lambda begun=begun: collector.said.count(" ready stream=") > begun, "it begins anew", 60)
        time.sleep(chance.uniform(0.2, 1))
    until(collector.ready, "it is ready again", 60)
    now_s = time.time()
    until(lambda: any(clock > now_s for _, clock in readings(collector)), "the host has caught up", 120)
    clocks = sorted(clock for _, clock in readings(collector))
    assert [
        b - a for a, b in itertools.pairwise(clocks) if not INTERVAL_S / 4 < b - a < HOLE * INTERVAL_S
    ] == []
    assert collector.losses("web1") == []
    balance(collector, agent, until)
