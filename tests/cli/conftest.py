"""The `watchbill` command as a real process, against the HTTP side over in-memory twins in a thread."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from watchbill.clock import SystemClock
from watchbill_collector.api import HttpOptions, build
from watchbill_collector.api.application import create_application
from watchbill_collector.api.health import AppStanding
from watchbill_collector.api.ports import Caller, GapSummary, Grant, Host, HostState, Role, at
from watchbill_collector.api.server import HttpServer
from watchbill_collector.api.twins import Twins

PROGRAM = Path(sys.executable).with_name("watchbill")
THEN = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


@dataclass
class Collector:
    """A served set of twins."""

    url: str
    twins: Twins


@dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Shell:
    """Runs the command with a home of its own."""

    home: Path
    url: str = ""
    token: str = ""
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.home / "run"),
            "LANG": "C.UTF-8",
        }
        if self.url:
            environment["WATCHBILL_URL"] = self.url
        if self.token:
            path = self.home / "token"
            path.write_text(self.token + "\n")
            environment["WATCHBILL_TOKEN_FILE"] = str(path)
        return environment | self.extra

    def __call__(self, *arguments: str, given: str = "", timeout: float = 60.0) -> Done:
        done = subprocess.run(
            [str(PROGRAM), *arguments],
            input=given,
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=timeout,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A shell that knows no collector."""
    (tmp_path / "run").mkdir(mode=0o700)
    return Shell(tmp_path)


@pytest.fixture(scope="module")
def served() -> Iterator[Collector]:
    started: list[Collector] = []
    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        now = at(SystemClock().wall_ms())
        twins = Twins.make(
            SystemClock(),
            {"admin-token": Caller("ops", (Grant(Role.ADMIN),), user_id="u1")},
            [
                _host("web1", "id-1", HostState.UP, now),
                _host("evil\x1b[31m\u202e", "id-2", HostState.DOWN, now),
            ],
        )
        house = build(
            twins.services(), HttpOptions("0.1.0", anonymous_read=True), CollectorRegistry(), "run1"
        )
        server = HttpServer(create_application(house), house, "127.0.0.1", 0)
        await server.start()
        started.append(Collector(f"http://127.0.0.1:{server.port}", twins))
        ready.set()
        await asyncio.to_thread(stop.wait)
        await server.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="collector")
    thread.start()
    assert ready.wait(30)
    yield started[0]
    stop.set()
    thread.join(30)


def _host(name: str, agent_id: str, state: HostState, now: datetime) -> Host:
    return Host(
        name=name,
        agent_id=agent_id,
        site="main",
        state=state,
        since=THEN,
        last_seen=now,
        agent_version="0.0.9" if agent_id == "id-2" else "0.1.0",
        interval_s=10.0,
        series=300,
        clock_skew_s=0.25,
        labels={"rack": "b12"},
        gaps=GapSummary(2, 10, 3000, THEN),
        certificate_expires=now,
        apps=(AppStanding("shop", "down", THEN, ("front", "stock")),) if agent_id == "id-1" else (),
        outdated=agent_id == "id-2",
    )


@pytest.fixture
def ask(shell: Shell, served: Collector) -> Shell:
    """A shell that knows the served collector, without a token."""
    shell.url = served.url
    return shell


@pytest.fixture
def admin(ask: Shell) -> Shell:
    """The same with the administrator's token."""
    ask.token = "admin-token"
    return ask
