"""A service is as well as the worst of what is known of it, and nobody is told of what he may not see."""

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from watchbill.clock import SystemClock
from watchbill_collector.api.health import AppStanding
from watchbill_collector.api.ports import Alert, GapSummary, Host, HostState
from watchbill_collector.api.services import ServiceApp
from watchbill_collector.api.twins import BindingsTwin, HostsTwin, RulesTwin
from watchbill_collector.scopes import EVERYTHING, View
from watchbill_collector.servicebook import Belonging, read_services
from watchbill_collector.services.served import ServedService

THEN = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
FILE = """\
service = [
  { name = "shop", owner = "team-web", hosts = 'role="web"', depends = ["db"] },
  { name = "db", owner = "team-db", hosts = 'role="db"', depends = ["net"] },
  { name = "net", hosts = 'role="router"' },
  { name = "mail", checks = ["smtp"] },
]
"""


def host(name: str, role: str, state: HostState) -> Host:
    return Host(
        name=name,
        agent_id=f"id-{name}",
        site="main",
        state=state,
        since=THEN,
        last_seen=THEN,
        agent_version="0.1.0",
        interval_s=10.0,
        series=300,
        clock_skew_s=0.0,
        labels={"role": role},
        gaps=GapSummary(),
        certificate_expires=THEN,
    )


def alert(state: str = "firing", **labels: str) -> Alert:
    return Alert("A", state, THEN, THEN, 1.0, labels, {})


def served(
    folder: Path, hosts: list[Host], alerts: list[Alert], rpo: Callable[[str, View], Any] = lambda *_: None
) -> ServedService:
    (folder / "services.toml").write_text(FILE)
    book = read_services(folder)
    fleet, rules = HostsTwin(SystemClock(), hosts), RulesTwin()
    rules.active = alerts
    return ServedService(Belonging(lambda: book, BindingsTwin(fleet)), fleet, rules, rpo)


async def stand(it: ServedService, view: View = EVERYTHING) -> dict[str, Any]:
    return {each.name: each for each in await it.services(view)}


UP, DOWN, UNKNOWN, STOPPED = HostState.UP, HostState.DOWN, HostState.UNKNOWN, HostState.STOPPED


@pytest.mark.parametrize(
    ("states", "alerts", "expected"),
    [
        ([UP, UP], [], "ok"),
        ([UP, STOPPED], [], "ok"),
        ([UP, DOWN], [], "major"),
        ([DOWN, DOWN], [], "critical"),
        ([UP, UNKNOWN], [], "unknown"),
        ([UP, HostState.RETIRED], [], "ok"),
        ([HostState.RETIRED], [], "unknown"),
        ([], [], "unknown"),
        ([UP], [alert(instance="w0", severity="minor")], "minor"),
        ([UP], [alert(instance="w0", severity="warning")], "minor"),
        ([UP], [alert(instance="w0")], "minor"),
        ([UP], [alert(instance="w0", severity="info")], "ok"),
        ([UP], [alert(instance="w0", severity="page")], "critical"),
        ([UP], [alert("pending", instance="w0", severity="critical")], "ok"),
        ([UP, UNKNOWN], [alert(instance="w0", severity="minor")], "unknown"),
        ([UP, UNKNOWN], [alert(instance="w0", severity="major")], "major"),
        # A host that is somebody else's, though its alert says otherwise.
        ([UP], [alert(instance="x", role="web", severity="critical")], "ok"),
    ],
)
async def test_the_worst_that_is_known_counts(
    tmp_path: Path, states: list[HostState], alerts: list[Alert], expected: str
) -> None:
    hosts = [host(f"w{number}", "web", state) for number, state in enumerate(states)] + [
        host("x", "none", UP)
    ]
    assert (await stand(served(tmp_path, hosts, alerts)))["shop"].state == expected


@pytest.mark.parametrize(
    ("state", "apps", "expected", "shown"),
    [
        (UP, [AppStanding("shop", "healthy", THEN)], "ok", ["shop"]),
        (UP, [AppStanding("shop", "degraded", None)], "minor", ["shop"]),
        (UP, [AppStanding("shop", "down", None)], "major", ["shop"]),
        (UP, [AppStanding("shop", "unknown", None)], "unknown", ["shop"]),
        (UP, [AppStanding("other", "down", None, ("front",))], "ok", []),
        (STOPPED, [AppStanding("shop", "unknown", None)], "ok", []),
    ],
)
async def test_a_service_is_no_better_than_its_applications(
    tmp_path: Path, state: HostState, apps: list[AppStanding], expected: str, shown: list[str]
) -> None:
    one = dataclasses.replace(host("w0", "web", state), apps=apps)
    shop = (await stand(served(tmp_path, [one], [])))["shop"]
    assert (shop.state, [each.name for each in shop.apps]) == (expected, shown)


async def test_a_service_that_names_checks_has_the_applications_of_those(tmp_path: Path) -> None:
    apps = [
        AppStanding("post", "down", THEN, ("imap", "smtp")),
        AppStanding("shop", "down", None, ("front",)),
    ]
    it = served(tmp_path, [dataclasses.replace(host("w0", "web", UP), apps=apps)], [])
    assert list((await stand(it))["mail"].apps) == [ServiceApp("w0", "post", "down", THEN)]
    assert (await stand(it))["mail"].state == "major"


async def test_what_depends_on_a_failing_service_is_told(tmp_path: Path) -> None:
    hosts = [host("w", "web", UP), host("d", "db", UP), host("r", "router", DOWN)]
    it = served(tmp_path, hosts, [alert(check="smtp", severity="major")])
    found = await stand(it)
    assert {name: each.state for name, each in found.items()} == {
        "shop": "ok",
        "db": "ok",
        "net": "critical",
        "mail": "major",
    }
    assert found["shop"].failing_dependencies == ["net"]
    assert found["db"].failing_dependencies == ["net"]
    assert found["net"].dependants == ["db", "shop"]
    assert (found["net"].hosts_up, found["net"].hosts_down) == (0, 1)
    assert found["mail"].firing == {"critical": 0, "major": 1, "minor": 0, "info": 0}
    assert [each.labels for each in await it.alerts_of("mail", EVERYTHING)] == [
        {"check": "smtp", "severity": "major"}
    ]


async def test_who_sees_a_part_sees_the_services_of_that_part(tmp_path: Path) -> None:
    hosts = [host("w", "web", UP), host("d", "db", DOWN), host("r", "router", UP)]
    it = served(
        tmp_path, hosts, [alert(instance="d", severity="critical"), alert(instance="w", severity="minor")]
    )
    view = View.of(['role="web"'])
    found = await stand(it, view)
    assert list(found) == ["shop"]
    assert (found["shop"].state, found["shop"].depends, found["shop"].failing_dependencies) == (
        "minor",
        [],
        [],
    )
    assert await it.alerts_of("db", view) == []


async def test_each_service_has_how_its_rpo_was_kept_as_the_caller_may_see_it(tmp_path: Path) -> None:
    asked: list[tuple[str, View]] = []
    it = served(tmp_path, [host("w0", "web", UP)], [], lambda *about: asked.append(about))
    found = await stand(it, EVERYTHING)
    assert asked == [(name, EVERYTHING) for name in found]
    assert {one.rpo for one in found.values()} == {None}
