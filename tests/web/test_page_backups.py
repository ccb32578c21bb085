"""Backups on the page: words, why, what to do, what happened, who signs; over the twins, with names that mean harm."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from watchbill.backups.definition import Copy, Definition
from watchbill.backups.record import Level, Proof
from watchbill.backups.schedule import Schedule
from watchbill.clock import SystemClock
from watchbill_collector.api import HttpOptions, build
from watchbill_collector.api.application import create_application
from watchbill_collector.api.backup_port import (
    WORDS,
    BackupChange,
    BackupEntry,
    BackupFacet,
    BackupHistory,
    BackupJob,
    backup_id,
)
from watchbill_collector.api.backup_report import BackupRpo
from watchbill_collector.api.page import load_page
from watchbill_collector.api.ports import Caller, GapSummary, Grant, Host, HostState, Role, at
from watchbill_collector.api.server import HttpServer
from watchbill_collector.api.twins import Twins

pytestmark = [pytest.mark.timeout(180), pytest.mark.real("chromium")]

MARKUP = '"><svg onload=alert(1)><b>bold</b>'
TURNED = "abc\u202egnp.exe\u200b"
LONG = "x" * 300
HOSTILE = MARKUP + TURNED + LONG
NOW = at(SystemClock().wall_ms())


@dataclass
class Served:
    """Twins behind a real server with the real page."""

    url: str
    twins: Twins


def run(number: int, outcome: str = "ok", **more: Any) -> BackupEntry:
    """The night's run so many nights ago."""
    end = NOW - timedelta(hours=24 * number - 20)
    given: dict[str, Any] = {
        "id": f"{number:032x}",
        "kind": "run",
        "source": "wrap",
        "outcome": outcome,
        "at": end,
        "received": end,
        "started": end - timedelta(minutes=12),
        "finished": end,
        "duration_s": 720.0,
        "exit_code": 0 if outcome == "ok" else 3,
        "bytes_source": 10 << 30,
        "bytes_stored": 200 << 20,
        "files": 120_000,
    }
    return BackupEntry(**(given | more))


def job(name: str, word: str, entries: tuple[BackupEntry, ...] = (), **more: Any) -> tuple[Any, Any]:
    """A job of web1, and its history."""
    given: dict[str, Any] = {
        "id": backup_id("id-1", name),
        "name": name,
        "host": "web1",
        "agent_id": "id-1",
        "labels": {},
        "service": "shop",
        "tool": "restic",
        "word": word,
        "level": "ok",
        "severity": "",
        "why": "",
        "advice": "",
        "since": NOW - timedelta(hours=3),
        "point": NOW - timedelta(hours=20),
        "rpo_s": 26 * 3600.0,
        "last_run": entries[0] if entries else None,
        "snapshots": 30,
        "size_bytes": 12 << 30,
    }
    definition = Definition(
        name=name,
        tool="restic",
        schedule=Schedule(cron="15 2 * * *", zone="Europe/Berlin"),
        copies=(Copy(name="nas", location="rack-a"), Copy(name="cloud", location="offsite", immutable=True)),
    )
    history = BackupHistory(
        definition=definition,
        digest=definition.digest(),
        defined=NOW - timedelta(days=90),
        due=NOW + timedelta(hours=4),
        entries=entries,
        truncated=False,
        changes=(
            BackupChange(
                given["id"], name, "web1", NOW - timedelta(hours=3), "OK", word, "the point got too old"
            ),
        ),
    )
    return BackupJob(**(given | more)), history


def fill(twins: Twins) -> None:
    """One of each word, and two whose host means harm."""
    nights = tuple(
        run(number, outcome)
        for number, outcome in enumerate(
            ["failed", "failed", "ok", "partial", "ok", "ok", "ok", "failed", "ok", "ok", "ok", "ok"], start=1
        )
    )
    proof = run(
        2,
        id="f" * 32,
        kind="verify",
        verify=Proof(level=Level.DATA, ok=True, fraction=0.25),
        duration_s=None,
        exit_code=None,
    )
    facets = (
        BackupFacet("run", "bad", "last-run-failed", "The last two runs failed."),
        BackupFacet(
            "fresh", "bad", "over-rpo", "The newest good point is from Friday 02:27; wanted within 26h."
        ),
        BackupFacet("size", "ok", "", "12.0 GiB, as usual."),
        BackupFacet("verify", "warn", "proof-due", "Data was last proven 31 days ago, wanted within 30d."),
        BackupFacet("copies", "ok", "", "2 of 2."),
        BackupFacet("ledger", "unknown", "first-observation", "Nothing to compare with yet."),
    )
    twins.backups.put(
        *job(
            "files-nightly",
            "STALE",
            (*nights, proof),
            severity="critical",
            why="The newest copy that can be restored is 2 days old, wanted within 26h.",
            advice="Read what the last run printed, then run it by hand on web1.",
            point=NOW - timedelta(hours=52),
            verified_point=NOW - timedelta(days=31),
            facets=facets,
        ),
        rpo=BackupRpo(
            rpo_s=93_600.0,
            objective=0.999,
            since=NOW - timedelta(days=30),
            until=NOW,
            unknown_s=0.0,
            kept=0.96389,
            over_s=93_600.0,
            times=1,
            spans=(),
            worst_s=187_200.0,
            budget_s=2_592.0,
            left_s=-90_000.0,
        ),
    )
    for word in WORDS:
        if word != "STALE":
            twins.backups.put(*job(f"job-{word.lower()}", word, nights[2:]))
    bad = run(
        1,
        "failed",
        reason=HOSTILE,
        errors=(HOSTILE, HOSTILE),
        tail=f"{HOSTILE}\n{HOSTILE}",
        copy=HOSTILE[:200],
    )
    for name in (MARKUP, TURNED):
        made, history = job(
            name,
            "FAILED",
            (bad,),
            service=HOSTILE,
            tool=HOSTILE,
            why=HOSTILE,
            advice=HOSTILE,
            severity="minor",
            facets=(BackupFacet("run", "bad", HOSTILE, HOSTILE),),
        )
        twins.backups.put(made, history)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    started: list[Served] = []
    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        tokens = {
            f"token-of-{role.value}": Caller(role.value, (Grant(role),), user_id=role.value)
            for role in (Role.OPERATOR, Role.VIEWER)
        }
        hosts = [host("web1", "id-1"), host("bare" + TURNED, "id-2")]
        twins = Twins.make(SystemClock(), tokens, hosts)
        fill(twins)
        house = build(twins.services(), HttpOptions("0.1.0", page=load_page()), CollectorRegistry(), "run1")
        server = HttpServer(create_application(house), house, "127.0.0.1", 0)
        await server.start()
        started.append(Served(f"http://127.0.0.1:{server.port}", twins))
        ready.set()
        await asyncio.to_thread(stop.wait)
        await server.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="collector")
    thread.start()
    assert ready.wait(30)
    yield started[0]
    stop.set()
    thread.join(30)


def host(name: str, agent_id: str) -> Host:
    return Host(
        name=name,
        agent_id=agent_id,
        site="main",
        state=HostState.UP,
        since=NOW,
        last_seen=NOW,
        agent_version="0.1.0",
        interval_s=10.0,
        series=300,
        clock_skew_s=0.0,
        labels={},
        gaps=GapSummary(),
        certificate_expires=NOW,
    )


def login(served: Served, visit: Any, role: str = "operator", **options: Any) -> tuple[Any, Any]:
    """A visit to the backups by somebody with that role."""
    one = visit(served, **options)
    page = one.open("/#/backups")
    page.get_by_label("One-time code or token").fill(f"token-of-{role}")
    page.get_by_role("button", name="Log in").click()
    # The twin knows `up` alone: the numbers of the other views are refused, and this one asks for none.
    page.locator("table.backups").wait_for()
    return one, page


def drawer(page: Any, name: str) -> Any:
    page.locator("table.backups").get_by_role("link", name=name).click()
    shown = page.locator("aside.drawer")
    shown.get_by_role("heading", level=2).wait_for()
    return shown


def test_the_list_says_the_worst_first_and_counts_each_word(served: Served, visit: Any) -> None:
    one, page = login(served, visit, viewport={"width": 1500, "height": 1000})
    rows = page.locator("table.backups tbody tr")
    first = rows.first.inner_text()
    assert "files-nightly" in first
    assert "STALE" in first
    assert "2 d old of 1d2h" in first
    assert "RETIRED" in rows.last.inner_text()
    page.get_by_role("button", name="FAILED 3").click()
    page.get_by_text("files-nightly").wait_for(state="detached")
    assert rows.count() == 3
    page.get_by_role("button", name="FAILED 3").click()
    page.get_by_label("Filter backups").fill("wanted within")
    page.get_by_text("job-ok").wait_for(state="detached")
    assert rows.count() == 1
    assert [text for text in one.complaints if "401" not in text] == []


def test_the_drawer_says_why_what_to_do_and_what_happened(served: Served, visit: Any) -> None:
    _, page = login(served, visit, viewport={"width": 1500, "height": 1000})
    shown = drawer(page, "files-nightly")
    text = shown.inner_text()
    for wanted in (
        "2 days old, wanted within 26h",
        "run it by hand on web1",
        "The last two runs failed.",
        "15 2 * * * (Europe/Berlin)",
        "cloud offsite immutable",
        "12.0 GiB in 30 snapshots",
        "data holds (25 % looked at)",
        "was OK: the point got too old",
        "code 3; 10.0 GiB read; 120000 files",
        "96.389 % of 30 days wanted 99.9 %: budget overspent by 1d1h",
    ):
        assert wanted in text, wanted
    assert shown.locator(".strip li").count() == 12
    assert shown.locator(".strip li.failed").count() == 3
    assert shown.locator(".strip li").last.get_attribute("class") == "failed", "the newest stands last"
    page.keyboard.press("Escape")
    shown.wait_for(state="detached")
    page.goto(f"{served.url}/#/backups/{backup_id('id-1', 'job-ok')}")
    page.locator("aside.drawer").get_by_text("job-ok").wait_for()
    page.goto(f"{served.url}/#/backups/0000000000000000")
    page.locator("aside.drawer").get_by_text("there is no backup").wait_for()


@pytest.mark.parametrize("width", [400, 1500])
def test_what_a_host_calls_its_backups_does_no_harm(served: Served, visit: Any, width: int) -> None:
    one, page = login(served, visit, viewport={"width": width, "height": 900})
    for name in ("", MARKUP, TURNED):
        page.goto(f"{served.url}/#/backups" + (f"/{backup_id('id-1', name)}" if name else ""))
        if name:
            page.locator("aside.drawer").get_by_role("heading", name="What the last run printed").wait_for()
        page.get_by_text("Without a backup (1)").wait_for(state="attached")
        assert one.fits(), name
        assert page.locator("main svg, main img, main script, main b, main i").count() == 0, name
        shown = page.locator("main").inner_text()
        assert "\u202e" not in shown
        assert "\u200b" not in shown
        if width == 1500 or name == TURNED:
            assert "‹U+202E›gnp.exe" in shown  # noqa: RUF001 - The page's own marks.
    assert "dialog" not in one.complaints


def test_a_host_shows_its_backups_the_worst_first(served: Served, visit: Any) -> None:
    one, page = login(served, visit, viewport={"width": 400, "height": 900})
    page.goto(f"{served.url}/#/host/web1")
    chips = page.locator("section", has=page.get_by_role("heading", name="Backups")).locator(".chips li")
    chips.first.wait_for()
    assert "files-nightly" in chips.first.inner_text()
    assert "RETIRED" in chips.last.inner_text()
    assert "\u202e" not in page.locator("main").inner_text()
    assert one.fits()
    chips.first.get_by_role("link").click()
    page.locator("aside.drawer").get_by_text("run it by hand on web1").wait_for()


def test_an_operator_signs_pauses_and_exempts(served: Served, visit: Any) -> None:
    _, page = login(served, visit, viewport={"width": 1500, "height": 1000})
    shown = drawer(page, "job-suspect")
    shown.get_by_role("button", name="Review").click()
    assert shown.get_by_role("button", name="Sign").is_disabled(), "a note is missing"
    shown.get_by_label("What you found").fill("<b>moved</b> by hand")
    shown.get_by_role("button", name="Sign").click()
    shown.locator(".timeline").get_by_text("<b>moved</b> by hand").wait_for()
    assert "by operator: <b>moved</b> by hand" in shown.inner_text()
    served.twins.backups.says = {"answer": "refused", "reason": "too-soon", "why": f"later {TURNED}"}
    shown.get_by_role("button", name="Verify now").click()
    shown.get_by_role("status").get_by_text("web1 does not verify it: later").wait_for()
    shown.locator(".timeline").get_by_text("operator: verify; too-soon: later").wait_for()
    assert "\u202e" not in shown.inner_text()
    shown.get_by_role("button", name="Pause").click()
    shown.get_by_label("Pause for").fill("nonsense")
    shown.get_by_text("a duration such as").wait_for()
    shown.get_by_label("Pause for").fill("2d")
    shown.get_by_label("Why").fill("the disk is being moved")
    shown.get_by_role("button", name="Pause").click()
    shown.get_by_text("by operator: the disk is being moved").wait_for()
    page.locator("table.backups tr.chosen .word.PAUSED").wait_for()
    shown.get_by_role("button", name="Resume").click()
    shown.get_by_role("button", name="Pause").wait_for()
    assert "SUSPECT" in shown.inner_text()
    page.get_by_role("button", name="Without a backup (1)").click()
    page.get_by_role("button", name="It needs none").click()
    page.get_by_label("Owner").fill("anna")
    page.locator("form.exempt").get_by_label("Why").fill("scratch")
    page.get_by_role("button", name="Exempt").click()
    page.get_by_text("Without a backup (0)").wait_for()
    assert [what for what, _, _ in served.twins.backups.journal] == [
        "review",
        "verify",
        "pause",
        "resume",
        "exempt",
    ]


def test_a_viewer_is_offered_nothing_to_change(served: Served, visit: Any) -> None:
    _, page = login(served, visit, "viewer", viewport={"width": 1500, "height": 1000})
    shown = drawer(page, "files-nightly")
    shown.get_by_role("heading", name="What happened").wait_for()
    assert shown.get_by_role("button", name="Review").count() == 0
    assert shown.get_by_role("button", name="Verify now").count() == 0
    assert shown.get_by_role("button", name="Pause").count() == 0
