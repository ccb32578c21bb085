"""The HTTP side over in-memory twins, served by the real server on an ephemeral port."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

import httpx2
import pytest
from prometheus_client import CollectorRegistry

from watchbill.clock import SystemClock
from watchbill_collector.api import HttpOptions, build
from watchbill_collector.api.application import create_application
from watchbill_collector.api.house import House
from watchbill_collector.api.page import page_file
from watchbill_collector.api.ports import Caller, GapSummary, Grant, Host, HostState, Role
from watchbill_collector.api.server import HttpServer, Patience
from watchbill_collector.api.twins import Twins

ADMIN, VIEWER, SCOPED = "token-of-admin", "token-of-viewer", "token-of-scoped"
THEN = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def host(name: str, agent_id: str, state: HostState = HostState.UP) -> Host:
    return Host(
        name=name,
        agent_id=agent_id,
        site="main",
        state=state,
        since=THEN,
        last_seen=THEN,
        agent_version="0.1.0",
        interval_s=10.0,
        series=300,
        clock_skew_s=0.25,
        labels={"rack": "b12"},
        gaps=GapSummary(),
        certificate_expires=THEN,
    )


@dataclass
class Served:
    server: HttpServer
    house: House
    twins: Twins
    client: httpx2.AsyncClient

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    admin: ClassVar = {"Authorization": f"Bearer {ADMIN}"}
    viewer: ClassVar = {"Authorization": f"Bearer {VIEWER}"}
    scoped: ClassVar = {"Authorization": f"Bearer {SCOPED}"}

    async def query(self, expression: str, **fields: str) -> httpx2.Response:
        return await self.client.get(
            "/api/v1/query", params={"query": expression} | fields, headers=self.admin
        )

    async def raw(self, sent: bytes, seconds: float = 10.0) -> bytes:
        """Send bytes as they are, and read until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        try:
            writer.write(sent)
            return await asyncio.wait_for(reader.read(), seconds)
        except ConnectionError:
            return b""  # Closed while we were still sending: the end of what we sent was never read.
        finally:
            writer.close()

    async def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while not condition():
            assert asyncio.get_running_loop().time() < deadline, "it did not come to be"
            await asyncio.sleep(0.005)

    def refused(self, reason: str) -> float:
        return self.house.counters.refused.labels(reason)._value.get()


Serve = Callable[..., Awaitable[Served]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    started: list[Served] = []

    async def start(
        *,
        anonymous_read: bool = False,
        patience: Patience | None = None,
        timeout_s: float = 20.0,
        routes: Any = None,
        parts: Callable[[Twins], dict[str, Any]] = lambda _: {},
        **options: Any,
    ) -> Served:
        """`parts` are real services in the place of twins, by name."""
        twins = Twins.make(
            SystemClock(),
            {
                ADMIN: Caller("ops", (Grant(Role.ADMIN),), user_id="u1"),
                VIEWER: Caller("vi", (Grant(Role.VIEWER),), user_id="u2"),
                SCOPED: Caller("team-a", (Grant(Role.VIEWER, 'team="a"'),), user_id="u3"),
            },
            [host("web1", "id-1"), host("web2", "id-2", HostState.DOWN)],
        )
        page = {"/": page_file(b"<!doctype html><title>Watchbill</title>", "text/html; charset=utf-8")}
        page |= {"/page.js": page_file(b"export {};" * 1000, "text/javascript; charset=utf-8")}
        house = build(
            dataclasses.replace(twins.services(), **parts(twins)),
            HttpOptions("0.1.0", anonymous_read=anonymous_read, page=page, **options),
            CollectorRegistry(),
            "run1",
            timeout_s=timeout_s,
        )
        app = create_application(house) if routes is None else create_application(house, routes)
        server = HttpServer(app, house, "127.0.0.1", 0, patience=patience)
        await server.start()
        client = httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{server.port}",
            timeout=30.0,
            trust_env=False,
            limits=httpx2.Limits(max_connections=None),
        )
        served = Served(server, house, twins, client)
        started.append(served)
        return served

    yield start
    for served in started:
        await served.client.aclose()
        await served.server.stop()
