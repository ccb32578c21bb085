"""Applications and checks of a host on the page: what is not well first, with why and since when."""

import asyncio
import dataclasses
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from watchbill.clock import SystemClock
from watchbill_collector.api import HttpOptions, build
from watchbill_collector.api.application import create_application
from watchbill_collector.api.health import AppStanding, CheckStanding
from watchbill_collector.api.page import load_page
from watchbill_collector.api.ports import GapSummary, Host, HostState, at
from watchbill_collector.api.server import HttpServer
from watchbill_collector.api.twins import BindingsTwin, Twins
from watchbill_collector.servicebook import Belonging, Service, ServiceBook
from watchbill_collector.services.served import ServedService

pytestmark = [pytest.mark.timeout(120), pytest.mark.real("chromium")]

HOSTILE = '"><svg onload=alert(1)>abc\u202egnp.exe\u200b' + "x" * 200
NOW = at(SystemClock().wall_ms())
SHOP = AppStanding("shop", "down", NOW - timedelta(hours=4), ("shop-front", "shop-stock"))
MAIL = AppStanding("mail", "healthy", NOW - timedelta(days=3), ("smtp",))
CHECKS = [
    CheckStanding("dns", "", "dns", True, "ok", NOW - timedelta(hours=5)),
    CheckStanding(
        "shop-front", "shop", "http", True, "critical", SHOP.since, "refused", "got no connection, wanted 200"
    ),
    CheckStanding(
        "shop-stock", "shop", "exec", False, "warning", NOW - timedelta(minutes=50), "warning", HOSTILE
    ),
    CheckStanding("smtp", "mail", "tcp", True, "ok", MAIL.since),
]


@dataclass
class Served:
    """Twins behind a real server with the real page."""

    url: str


def host(name: str, agent_id: str, apps: tuple[AppStanding, ...] = ()) -> Host:
    return Host(
        name=name,
        agent_id=agent_id,
        site="main",
        state=HostState.UP,
        since=NOW - timedelta(days=9),
        last_seen=NOW,
        agent_version="0.1.0",
        interval_s=10.0,
        series=300,
        clock_skew_s=0.1,
        labels={},
        gaps=GapSummary(),
        certificate_expires=NOW,
        apps=apps,
    )


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    started: list[Served] = []
    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        hosts = [host("web1", "id-1", (SHOP, MAIL)), host("bare", "id-2")]
        twins = Twins.make(SystemClock(), {}, hosts)
        twins.health.of_hosts["id-1"] = CHECKS
        book = ServiceBook.of_services([Service(name="mailing", checks=["smtp", "shop-stock"])])
        services = ServedService(
            Belonging(lambda: book, BindingsTwin(twins.hosts)), twins.hosts, twins.rules, lambda *_: None
        )
        options = HttpOptions("0.1.0", anonymous_read=True, page=load_page())
        house = build(
            dataclasses.replace(twins.services(), services=services), options, CollectorRegistry(), "run1"
        )
        server = HttpServer(create_application(house), house, "127.0.0.1", 0)
        await server.start()
        started.append(Served(f"http://127.0.0.1:{server.port}"))
        ready.set()
        await asyncio.to_thread(stop.wait)
        await server.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="collector")
    thread.start()
    assert ready.wait(30)
    yield started[0]
    stop.set()
    thread.join(30)


def real(complaints: list[str]) -> list[str]:
    """Without those of charts and meters, which the twin has no answer for."""
    return [text for text in complaints if "/api/v1/query" not in text]


@pytest.mark.parametrize("width", [1280, 390])
def test_a_host_shows_its_applications_and_its_checks_the_worst_first(
    served: Served, visit: Any, width: int
) -> None:
    one = visit(served, viewport={"width": width, "height": 900})
    page = one.open("/#/host/web1")
    chips = page.locator("section", has=page.get_by_role("heading", name="Applications")).locator(".chips li")
    chips.first.wait_for()
    assert chips.all_inner_texts() == ["shop down for 4 h", "mail healthy for 3 d"]
    rows = page.locator("table.checks tbody tr")
    assert [row.split()[0] for row in rows.all_inner_texts()] == ["shop-front", "shop-stock", "dns", "smtp"]
    assert "refused: got no connection, wanted 200" in rows.first.inner_text()
    assert "not essential" in rows.nth(1).inner_text()
    assert "U+202E" in rows.nth(1).inner_text()
    assert one.fits()
    page.goto(served.url + "/#/host/bare")
    page.get_by_role("heading", name="bare").wait_for()
    assert page.locator("table.checks").count() == 0
    assert real(one.complaints) == []


def test_the_fleet_names_the_applications_that_are_not_healthy(served: Served, visit: Any) -> None:
    one = visit(served)
    page = one.open("/#/hosts")
    cell = (
        page.locator("tbody tr", has=page.get_by_role("link", name="web1", exact=True)).locator("td").nth(1)
    )
    cell.get_by_text("shop").wait_for()
    assert "mail" not in cell.inner_text()
    assert page.locator("tbody tr td.first").all_inner_texts() == ["web1", "bare"]
    assert real(one.complaints) == []


def test_a_service_shows_the_applications_that_belong_to_it_the_worst_first(
    served: Served, visit: Any
) -> None:
    one = visit(served)
    page = one.open("/#/services/mailing")
    chips = page.locator("section", has=page.get_by_role("heading", name="Applications")).locator(".chips li")
    chips.first.wait_for()
    assert chips.all_inner_texts() == ["shop on web1 down", "mail on web1 healthy"]
    page.locator(".title .standing.major").wait_for()
    assert real(one.complaints) == []
