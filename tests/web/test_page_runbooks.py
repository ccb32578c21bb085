"""Runbooks and runs on the page: what could run and why not, who agrees, what a person decides; with names that mean
harm, over the twins."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from prometheus_client import CollectorRegistry

from watchbill.clock import SystemClock
from watchbill_collector.api import HttpOptions, build
from watchbill_collector.api.application import create_application
from watchbill_collector.api.page import load_page
from watchbill_collector.api.ports import Caller, Grant, Role, at
from watchbill_collector.api.runbook_port import Finding
from watchbill_collector.api.runbook_twin import TwinBook, TwinStep, blank
from watchbill_collector.api.server import HttpServer
from watchbill_collector.api.twins import Twins

pytestmark = [pytest.mark.timeout(180), pytest.mark.real("chromium")]

MARKUP = '"><svg onload=alert(1)><b>bold</b>'
NAME = '"><svg onload=alert(1)><b>bold'
TURNED = "abc\u202egnp.exe\u200b"
HOSTILE = MARKUP + TURNED + "x" * 300
NOW = at(SystemClock().wall_ms())
RITA = Caller("operator", (Grant(Role.OPERATOR),), user_id="operator")


@dataclass
class Served:
    """Twins behind a real server with the real page."""

    url: str
    twins: Twins
    runs: dict[str, str]


def put(
    twins: Twins, name: str, *steps: TwinStep, parameters: dict[str, str] | None = None, **view: Any
) -> None:
    shown = blank(name, **({"accepted_by": "ann", "accepted": NOW} | view))
    twins.runbooks.put(
        TwinBook(
            text=f"runbook: {name}\nabout: {MARKUP}\n",
            author="ann",
            steps=steps,
            view=shown,
            parameters=dict(parameters or {}),
        )
    )


def do(name: str, **more: Any) -> TwinStep:
    return TwinStep(
        id=name, **({"host": "web1", "action": "svc.restart", "argv": ("/bin/true", "a b")} | more)
    )


async def fill(twins: Twins) -> dict[str, str]:
    """One runbook that is not ready, one that means harm, and runs at a gate, at hosts' gate, and held."""
    put(
        twins,
        "pg-failover",
        do("look", effect="read"),
        TwinStep(id="consent", kind="approve", role="dba", needed=2),
        do("promote", protected=True, action="pg.promote"),
        parameters={"primary": "db1"},
        about="The primary is lost",
        ready=False,
        not_ready=("db2 lags by 31 MiB",),
        rto_s=900.0,
        recovery_p90_s=1_000.0,
        last_drill=NOW - timedelta(days=40),
        last_drill_state="failed",
        drill_due=NOW - timedelta(days=10),
        accepted_by="",
    )
    put(twins, "guarded", TwinStep(id="consent", kind="approve", role="ops", needed=1), do("go"), ready=True)
    put(twins, "broken", do("go", ends=("failed",), output="line\n" * 50 + "the end\n"), rto_s=0.001)
    bad = Finding(file=MARKUP, line=3, where=TURNED, severity="error", message=HOSTILE)
    put(
        twins,
        NAME,
        do(HOSTILE, host=HOSTILE, argv=(HOSTILE, HOSTILE), ends=("failed",), output=HOSTILE),
        parameters={TURNED: HOSTILE},
        about=HOSTILE,
        not_ready=(HOSTILE,),
        trigger=HOSTILE,
        findings=(bad,),
    )
    started = {}
    for name in ("guarded", "broken", NAME):
        started[name] = (await twins.runbooks.start(name, {}, f"why {HOSTILE}", False, "", RITA)).id
    started["pg-failover"] = (await twins.runbooks.start("pg-failover", {}, "rehearsal", True, "", RITA)).id
    return started


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    started: list[Served] = []
    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        tokens = {
            f"token-of-{role.value}": Caller(role.value, (Grant(role),), user_id=role.value)
            for role in (Role.OPERATOR, Role.APPROVER, Role.VIEWER)
        }
        twins = Twins.make(SystemClock(), tokens)
        runs = await fill(twins)
        house = build(twins.services(), HttpOptions("0.1.0", page=load_page()), CollectorRegistry(), "run1")
        twins.runbooks.publish = house.bus.publish
        server = HttpServer(create_application(house), house, "127.0.0.1", 0)
        await server.start()
        started.append(Served(f"http://127.0.0.1:{server.port}", twins, runs))
        ready.set()
        await asyncio.to_thread(stop.wait)
        await server.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="collector")
    thread.start()
    assert ready.wait(30)
    yield started[0]
    stop.set()
    thread.join(30)


def login(
    served: Served, visit: Any, role: str, path: str = "/#/runbooks", **options: Any
) -> tuple[Any, Any]:
    """A visit there by somebody with that role."""
    one = visit(served, **({"viewport": {"width": 1400, "height": 1000}} | options))
    page = one.open(path)
    page.get_by_label("One-time code or token").fill(f"token-of-{role}")
    page.get_by_role("button", name="Log in").click()
    page.locator("main h1").get_by_text("Who is there").wait_for(state="detached")
    return one, page


def test_the_list_says_what_could_not_run_and_why(served: Served, visit: Any) -> None:
    one, page = login(served, visit, "viewer")
    row = page.locator("table.runbooks tbody tr", has_text="pg-failover")
    row.wait_for()
    text = row.inner_text()
    for wanted in (
        "not ready",
        "db2 lags by 31 MiB",
        "nobody",
        "failed 40 d ago",
        "overdue",
        "16m40s of 15m",
    ):
        assert wanted in text, wanted
    assert page.get_by_role("button", name="Pause automation").count() == 0, "a viewer changes nothing"
    row.get_by_role("link").click()
    drawer = page.locator("aside.drawer")
    drawer.get_by_text("watchbill runbooks accept pg-failover").wait_for()
    assert "runbook: pg-failover" in drawer.locator("pre").inner_text()
    page.keyboard.press("Escape")
    drawer.wait_for(state="detached")
    assert [text for text in one.complaints if "401" not in text] == []


def test_a_gate_that_hosts_look_at_shows_the_command_and_no_button(served: Served, visit: Any) -> None:
    run_id = served.runs["pg-failover"]
    _, page = login(served, visit, "approver", f"/#/runs/{run_id}")
    gate = page.locator(".gate")
    gate.get_by_text(f"watchbill approve {run_id} consent").wait_for()
    assert 'pg.promote on web1 primary="db1"' in gate.inner_text()
    assert gate.get_by_role("button").count() == 0
    assert "drill" in page.locator(".run h1").inner_text()


def test_the_first_screen_names_runs_that_wait_for_somebody(served: Served, visit: Any) -> None:
    _, page = login(served, visit, "viewer", "/#/runbooks")
    page.locator("table.runbooks").wait_for()
    page.goto(f"{served.url}/#/")
    open_runs = page.locator(".openruns")
    open_runs.get_by_text("consent: 2 of dba have to agree").wait_for()
    open_runs.get_by_role("link", name="pg-failover").click()
    page.locator(".gate").wait_for()


def test_an_approver_agrees_in_a_dialog_with_his_token(served: Served, visit: Any) -> None:
    run_id = served.runs["guarded"]
    _, own = login(served, visit, "operator", f"/#/runs/{run_id}")
    own.locator(".gate").get_by_text("You asked for this run").wait_for()
    _, page = login(served, visit, "approver", f"/#/runs/{run_id}")
    page.locator(".gate").get_by_role("button", name="Agree").click()
    dialog = page.get_by_role("dialog")
    agree = dialog.get_by_role("button", name="Agree")
    assert agree.is_disabled(), "the token is missing"
    for _ in range(8):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement === document.body || !!document.activeElement.closest('dialog')"
        )
    dialog.get_by_label("Your token").fill("token-of-operator")
    agree.click()
    dialog.get_by_text("is not that of approver").wait_for()
    dialog.get_by_label("Comment").fill("<b>fine</b>")
    dialog.get_by_label("Your token").fill("token-of-approver")
    agree.click()
    dialog.wait_for(state="detached")
    page.locator(".run h1").get_by_text("succeeded").wait_for()
    page.get_by_text("<b>fine</b>").wait_for()
    # The other browser is told.
    own.locator(".run h1").get_by_text("succeeded").wait_for()


def test_an_operator_decides_with_a_reason_and_it_is_in_the_journal(served: Served, visit: Any) -> None:
    run_id = served.runs["broken"]
    _, page = login(served, visit, "operator", f"/#/runs/{run_id}")
    page.locator(".step.held").wait_for()
    page.locator(".clock.bad").get_by_text("too late").wait_for()
    output = page.locator(".step.held pre.tail")
    assert "the end" in output.inner_text()
    assert output.evaluate("box => box.scrollTop > 0"), "the end of what was printed is what is seen"
    assert "/bin/true 'a b'" in page.locator(".step.held").inner_text()
    page.get_by_role("button", name="skip").click()
    dialog = page.get_by_role("dialog")
    assert dialog.get_by_role("button", name="skip").is_disabled(), "a reason is missing"
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    page.get_by_role("button", name="retry").click()
    dialog.get_by_label("Reason").fill("the disk is back")
    dialog.get_by_role("button", name="retry").click()
    page.locator(".run h1").get_by_text("succeeded").wait_for()
    assert page.locator(".verbs").count() == 0
    page.get_by_role("button", name="Journal").click()
    page.locator(".journal").get_by_text("the disk is back").wait_for()


@pytest.mark.parametrize("width", [390, 1400])
def test_what_hosts_and_files_say_does_no_harm(served: Served, visit: Any, width: int) -> None:
    one, page = login(served, visit, "operator", viewport={"width": width, "height": 900})
    page.locator("table.runbooks").wait_for()
    for path, mark in (
        ("", "table.runs"),
        (f"runbooks/{quote(NAME)}", "aside.drawer pre"),
        (f"runs/{served.runs[NAME]}", ".step pre"),
    ):
        page.goto(f"{served.url}/#/{path or 'runbooks'}")
        page.locator(mark).first.wait_for()
        if path.startswith("runs/"):
            page.get_by_role("button", name="Journal").click()
            page.locator(".journal li").first.wait_for()
        assert one.fits(), path
        assert page.locator("main svg, main img, main script, main b, main i").count() == 0, path
        shown = page.locator("main").inner_text()
        assert "\u202e" not in shown
        assert "\u200b" not in shown
        assert "‹U+202E›gnp.exe" in shown, path  # noqa: RUF001 - The page's own marks.
    assert "dialog" not in one.complaints


def test_automation_is_paused_for_everybody_to_see(served: Served, visit: Any) -> None:
    _, page = login(served, visit, "operator")
    page.get_by_role("button", name="Pause automation").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill(f"moving {MARKUP}")
    dialog.get_by_role("button", name="Pause").click()
    banner = page.locator(".trouble")
    banner.get_by_text(f"moving {MARKUP}").wait_for()
    assert "by operator" in banner.inner_text()
    page.get_by_role("button", name="Resume").click()
    dialog.get_by_label("Reason").fill("moved")
    dialog.get_by_role("button", name="Resume").click()
    banner.wait_for(state="detached")
