"""Boxes whose clock says 1970, or ten years too much: real agents over gRPC and through a broker.

The date of a machine that others use cannot be set. libfaketime shifts what the C library says of it to one process, so
that every TLS library in it believes it; time since the boot goes on as it does. Version 0.9.10 cannot sleep until a
moment of CLOCK_MONOTONIC, as Python does, so sleeping is waiting for nothing here.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

pytestmark = [pytest.mark.real("faketime", "mosquitto"), pytest.mark.timeout(240)]

LIBRARIES: Final = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
YEAR_S: Final = 365 * 86_400
DATES: Final = {"1970": "@1970-01-01 00:00:20", "ten-years-fast": "+10y"}
EDGE: Final = 'profile = "edge"\ninterval = "1s"\nticks_per_message = 2\n'
PLAIN: Final = 'interval = "1s"\n'


INTERPRETER: Final = """#!{python} -I
import runpy, select, sys, time
time.sleep = lambda seconds: select.select([], [], [], seconds) and None
sys.executable = {own!r}
words = [word for word in sys.argv[1:] if word != "-I"]
assert words[0] == "-m"
sys.argv = words[1:]
runpy.run_module(words[1], run_name="__main__", alter_sys=True)
"""


def interpreter(house: Any) -> str:
    """A Python whose children are like it."""
    path = house.root / "python"
    if not path.exists():
        path.write_text(INTERPRETER.format(python=sys.executable, own=str(path)))
        path.chmod(0o755)
    return str(path)


def command(agent: Any, date: str, *words: str, given: str = "") -> Any:
    argv = [interpreter(agent.house), "-m", "watchbill_agent", *words, "--home", str(agent.home)]
    return agent.house.run(argv, given=given, extra=dated(date))


def dated(date: str) -> dict[str, str]:
    """The environment of a process that lives then."""
    return {
        "LD_PRELOAD": str(LIBRARIES[0]),
        "FAKETIME": DATES[date],
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
        "TZ": "UTC",
    }


@pytest.fixture(scope="module")
def site(template: Path, house_type: Any, free_ports: Any) -> Iterator[Any]:
    """A collector with a broker of its own, whose certificates last a minute."""
    house = house_type(template)
    collector = house.collector(launch=False)
    agents, hosts = free_ports(2)
    with open(collector.etc / "collector.toml", "a") as file:
        file.write(f'[mqtt]\nbroker = "embedded"\nlisten = "127.0.0.1:{agents}"\n')
        file.write(f'enroll_listen = "127.0.0.1:{hosts}"\n[certificates]\nlifetime = "1m"\n')
    collector.launch()
    yield collector
    house.close()


def identity(agent: Any) -> dict[str, Any]:
    return dict(json.loads((agent.state / "identity.json").read_text()))


def start(agent: Any, date: str) -> None:
    words = [f"{key}={value}" for key, value in dated(date).items()]
    argv = [interpreter(agent.house), "-m", "watchbill_agent", "run", "--home", str(agent.home)]
    agent.house.start(agent, ["env", *words, *argv])


def enrolled(site: Any, name: str, date: str, *, mqtt: bool) -> Any:
    agent = site.house.home(name, EDGE if mqtt else PLAIN)
    token = site.issue(name, mqtt=mqtt)["token"]
    done = command(agent, date, "enroll", "--token-file", "-", given=token)
    assert done.code == 0, done
    assert abs(identity(agent)["enrolled_ms"] / 1000 - time.time()) < 60
    return agent


@pytest.fixture(scope="module")
def away(site: Any) -> dict[str, Any]:
    """Boxes that are switched off until their certificates have ended."""
    return {date: enrolled(site, f"away-{date}", date, mqtt=date == "1970") for date in DATES}


@pytest.mark.parametrize("date", DATES)
@pytest.mark.parametrize("way", ["grpc", "mqtt"])
def test_a_box_with_a_wrong_clock_reports_at_the_true_time(
    site: Any, until: Callable[..., Any], away: Any, way: str, date: str
) -> None:
    name = f"{way}-{date}"
    agent = enrolled(site, name, date, mqtt=way == "mqtt")
    start(agent, date)
    site.house.until_up(site, name)
    host = site.host(name)
    assert host["transport"] == way
    off_s = host["clock_skew_s"]
    assert off_s < -50 * YEAR_S if date == "1970" else off_s > 9 * YEAR_S
    load = f'node_load1{{instance="{name}"}}'
    age_s = until(lambda: site.value(f"time() - timestamp({load})"), "readings at the true time")
    assert abs(age_s) < 30
    told = site.value(f'node_time_seconds{{instance="{name}"}}')
    assert abs(told - time.time() - off_s) < 60, "what the host's clock says is kept as it is"
    until(lambda: identity(agent)["renewals"] >= 1, "a renewal over the session", 60)
    newest_ms = json.loads((agent.state / "newest-time.json").read_text())["newest_ms"]
    assert abs(newest_ms / 1000 - time.time()) < 120
    findings = {one["check"]: one for one in command(agent, date, "doctor", "--json").json["findings"]}
    assert findings["clock"]["verdict"] == "warning"
    assert findings["certificate"]["text"].startswith("valid for another 0.0 h"), "by the collector's time"
    assert agent.said.count("the collector's signed time is used") == 1
    assert agent.stop() == 0
    until(lambda: site.host(name)["state"] == "stopped", "the goodbye")
    assert not site.losses(name)


@pytest.mark.parametrize("date", DATES)
def test_a_box_with_a_wrong_clock_whose_certificate_has_ended_renews_it(
    site: Any, until: Callable[..., Any], away: Any, date: str
) -> None:
    agent = away[date]
    end_s = identity(agent)["not_after_ms"] / 1000
    while time.time() < end_s + 2:
        time.sleep(0.5)
    start(agent, date)
    until(lambda: identity(agent)["renewals"] >= 1, "a renewal by the key", 60)
    until(lambda: site.host(agent.name)["state"] == "up", "it is up", 60)
