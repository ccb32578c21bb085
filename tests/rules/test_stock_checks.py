"""One cause raises one alert: the stock pack's CheckFailing, and what checks say they are behind."""
# ruff: noqa: E501  # Tables read best with a line for each case.

import re
from typing import Any

import numpy as np
import pytest

from watchbill_collector.rules.stock import stock_files
from watchbill_collector.series import Ticks

Key = tuple[str, tuple[tuple[str, str], ...]]
STEP_S = 30
SOON_S = 1_700_000_010.0 + 2 * 86_400
"""Two days after the house's beginning."""
FIRES = 5
"""Steps after which what began with the first fires: two minutes."""


def key(name: str, /, **labels: str) -> Key:
    return name, tuple(sorted(labels.items()))


def check(name: str, success: float | None, *behind: str, kind: str = "http") -> dict[Key, float]:
    """The series of a check; `behind` as checks.d spells it: "db", "db1/db", "db1/"; without success it is unknown."""
    found = {
        key("watchbill_check_info", check=name, kind=kind, essential="true"): 1.0,
        key("watchbill_check_status", check=name): 3.0 if success is None else 2.0 * (1 - success),
    }
    if success is not None:
        found[key("probe_success", check=name)] = success
    for one in behind:
        host, _, on_check = one.rpartition("/")
        ends = {label: text for label, text in (("on_check", on_check), ("on_instance", host)) if text}
        found[key("watchbill_check_behind", check=name, **ends)] = 1.0
    return found


def host(*checks: dict[Key, float], up: float = 1.0) -> dict[Key, float]:
    found = {key("up"): up}
    for one in checks:
        found |= one
    return found


@pytest.fixture
def it(house: Any) -> Any:
    return _loaded(house)


def _loaded(house: Any) -> Any:
    it = house(step_ms=STEP_S * 1000)
    assert it.book.reload([stock_files()["checks"], stock_files()["host"]], it.now_ms) == []
    return it


def raised(it: Any) -> set[str]:
    assert [
        run.rule.name for group in it.book.groups() for run in group.runs if run.health.health == "err"
    ] == []
    return {
        f"{alert.labels['instance']}/{alert.labels.get('check', '')}"
        for alert in it.book.alerts()
        if alert.state.value == "firing" and alert.rule in ("CheckFailing", "HostSilent", "HeartbeatMissed")
    }


def ending(name: str, status: int) -> dict[Key, float]:
    """A server whose certificate ends within two days, and what it answers."""
    ends = {key("probe_ssl_earliest_cert_expiry", check=name): SOON_S}
    return ends | {key("probe_http_status_code", check=name): float(status)}


DB = check("db", 0)
CASES: dict[str, tuple[dict[str, dict[Key, float]], set[str]]] = {
    "nothing to do with each other": (
        {"a": host(DB, check("web", 0))},
        {"a/db", "a/web"},
    ),
    "behind a check of the same host": (
        {"a": host(DB, check("web", 0, "db")), "b": host(check("db", 1), check("web", 0, "db"))},
        {"a/db", "b/web"},
    ),
    "behind a check of another host": (
        {"a": host(DB), "b": host(check("db", 1), check("web", 0, "a/db"))},
        {"a/db"},
    ),
    "behind a host": (
        {"a": host(up=0), "b": host(check("web", 0, "a/"))},
        {"a/"},
    ),
    "behind a check of a host that is down": (
        {"a": host(up=0), "b": host(check("web", 0, "a/db"))},
        {"a/"},
    ),
    "all of a chain fail": (
        {"a": host(DB, check("app", 0, "db")), "b": host(check("web", 0, "a/app"), check("page", 0, "web"), check("shop", 0, "page"))},
        {"a/db"},
    ),
    "one between is well": (
        {"a": host(DB, check("app", 1, "db")), "b": host(check("web", 0, "a/app"))},
        {"a/db"},
    ),
    "one between is unknown": (
        {"a": host(DB, check("app", None, "db")), "b": host(check("web", 0, "a/app"))},
        {"a/db"},
    ),
    "a chain that begins with a host": (
        {"a": host(up=0), "b": host(check("app", 0, "a/db"), check("web", 0, "app"))},
        {"a/"},
    ),
    "behind what is unknown": (
        {"a": host(check("db", None), check("web", 0, "db"))},
        {"a/web"},
    ),
    "behind what only warns": (
        {"a": host(check("db", 1), {key("watchbill_check_status", check="db"): 1.0}, check("web", 0, "db"))},
        {"a/web"},
    ),
    "behind what nobody knows": (
        {"a": host(check("web", 0, "db", "nowhere/db", "nowhere/"))},
        {"a/web"},
    ),
    "one of several is down": (
        {"a": host(DB, check("cache", 1), check("web", 0, "cache", "db"))},
        {"a/db"},
    ),
    "behind itself": (
        {"a": host(check("web", 0, "web", "a/web"), check("page", 0, "web"))},
        {"a/web"},
    ),
    "in a circle, where none is excused": (
        {"a": host(check("x", 0, "y"), check("y", 0, "z"), check("z", 0, "x"))},
        {"a/x", "a/y", "a/z"},
    ),
    "in a circle that has a cause": (
        {"a": host(DB, check("x", 0, "y"), check("y", 0, "x", "db"))},
        {"a/db"},
    ),
    "behind its own host, which is up": (
        {"a": host(check("web", 0, "a/"))},
        {"a/web"},
    ),
    "further behind than is followed": (
        {"a": host(DB, *(check(f"c{n}", 0, f"c{n - 1}" if n else "db") for n in range(6)))},
        {"a/db", "a/c4", "a/c5"},
    ),
    # A certificate that ends soon has a rule of its own, which is worse.
    "only the certificate is at fault": (
        {"a": host(check("web", 0), ending("web", 200)), "b": host(check("web", 0, "a/db"), ending("web", 200))},
        set(),
    ),
    "the certificate of what fails otherwise ends soon": (
        {"a": host(check("web", 0), ending("web", 500))},
        {"a/web"},
    ),
    "the certificate of a check of TLS alone": (
        {"a": host(check("web", 0, kind="tls"), {key("probe_ssl_earliest_cert_expiry", check="web"): SOON_S})},
        set(),
    ),
    "a heartbeat is told in its own words, once": (
        {"a": host(check("nightly", 0, kind="heartbeat"), DB, check("hourly", 0, "db", kind="heartbeat"))},
        {"a/nightly", "a/db"},
    ),
}  # fmt: skip


def _in(case: int, hosts: dict[str, dict[Key, float]]) -> dict[str, dict[Key, float]]:
    """The hosts of a case under names of its own, so that all cases fit into one house."""

    def renamed(one: Key) -> Key:
        return one[0], tuple(
            (name, f"{case}{text}" if name == "on_instance" else text) for name, text in one[1]
        )

    return {f"{case}{name}": {renamed(one): value for one, value in of.items()} for name, of in hosts.items()}


@pytest.fixture(scope="module")
def cases(house: Any) -> list[set[str]]:
    """What is raised of all hosts of all cases: a step before the first could fire, and then."""
    it = _loaded(house)
    for number, (hosts, _) in enumerate(CASES.values()):
        it.hosts |= _in(number, hosts)
    found = []
    for steps in (FIRES - 1, 1):
        it.run(steps)
        found.append(raised(it))
    return found


@pytest.mark.parametrize("case", CASES)
def test_one_cause_raises_one_alert(cases: list[set[str]], case: str) -> None:
    number = list(CASES).index(case)
    before, then = ({one for one in names if re.match(f"{number}[a-z]", one)} for names in cases)
    # A host and a missed heartbeat are told sooner.
    assert {one for one in before if not one.endswith(("/", "/nightly"))} == set()
    assert then == {f"{number}{one}" for one in CASES[case][1]}


def test_a_check_that_stays_down_when_its_cause_is_gone_raises_its_own_alert_after_its_own_time(
    it: Any,
) -> None:
    it.hosts = {"a": host(DB, check("web", 0, "db"))}
    it.run(FIRES + 5)
    assert raised(it) == {"a/db"}
    it.hosts = {"a": host(check("db", 1), check("web", 0, "db"))}
    it.run(FIRES - 1)
    assert raised(it) == set()
    it.run(1)
    assert raised(it) == {"a/web"}


def test_what_is_seen_before_its_cause_is_seen_is_not_told(it: Any) -> None:
    it.hosts = {"a": host(check("db", 1), check("web", 0, "db"))}
    it.run(FIRES - 1)
    it.hosts = {"a": host(DB, check("web", 0, "db"))}
    it.run(FIRES)
    assert raised(it) == {"a/db"}
    told = [change for change in it.changes if change.alert.state.value == "firing"]
    assert [change.alert.labels["check"] for change in told] == ["db"]


def test_an_alert_of_a_host_that_falls_silent_is_held_whatever_its_check_is_behind(it: Any) -> None:
    def say_up(it: Any, a: float = 1.0) -> None:
        """As the collector says it: one tick for all hosts."""
        each = [it.table.source({"instance": name, "job": "node"}) for name in ("a", "b")]
        ids = [it.table.series(source, [it.table.key("up", {})]) for source in each]
        it.head.append([Ticks(np.concatenate(ids), np.array([it.now_ms - 50]), np.array([[a, 1.0]]))])

    it.hosts = {"a": check("web", 0) | check("page", 0, "b/db"), "b": check("db", 1)}
    it.run(FIRES, say_up)
    assert raised(it) == {"a/web", "a/page"}
    del it.hosts["a"]
    # By now what it said last is too old to count.
    it.run(15, lambda it: say_up(it, 0.0))
    assert raised(it) == {"a/web", "a/page", "a/"}
