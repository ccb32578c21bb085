"""A site with everything real: store, authority, registry, the enrolment port, a mutual TLS port beside
it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from watchbill.clock import Clock, SystemClock
from watchbill.identity import IdentityRefused
from watchbill.v1 import link_pb2 as pb
from watchbill.v1 import link_pb2_grpc
from watchbill_agent.enroll import EnrolRequest
from watchbill_collector.enrolment import Enrolment, EnrolmentOrder
from watchbill_collector.enrolment.handlers import (
    EnrolmentServer,
    EnrolmentService,
    LiveRenewal,
    peer_certificate,
    refuse,
)
from watchbill_collector.hosts import HostRegistry
from watchbill_collector.init import initialise, open_pki
from watchbill_collector.pki import Lifetimes
from watchbill_collector.store import Store

LOOPBACK = "127.0.0.1"


class _MutualService(link_pb2_grpc.LinkServicer):
    """What stands on 7443 beside the streams: `Renew`, and a stream that goes on as long as the host may."""

    def __init__(self, hosts: HostRegistry, renewal: LiveRenewal) -> None:
        self._hosts = hosts
        self._renewal = renewal

    async def Renew(self, request: pb.RenewRequest, context: Any) -> pb.RenewReply:  # noqa: N802 - The name in link.proto.
        return await self._renewal.renew(request, context)

    async def Stream(self, request_iterator: AsyncIterator[pb.Up], context: Any) -> AsyncIterator[pb.Down]:  # noqa: N802
        try:
            admission = self._hosts.admit(peer_certificate(context))
        except IdentityRefused as exc:
            await refuse(context, exc)
        async for _ in request_iterator:
            standing = self._hosts.standing(admission.host.agent_id)
            if standing is not None:
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, standing.value)
            yield pb.Down(busy=pb.Busy())


@dataclass
class Site:
    """A running site. `stop` and `start` restart it on the same state and ports."""

    state: Path
    clock: Clock
    lifetimes: Lifetimes
    enrol_port: int = 0
    stream_port: int = 0
    store: Store = field(init=False)
    hosts: HostRegistry = field(init=False)
    enrolment: Enrolment = field(init=False)
    server: EnrolmentServer = field(init=False)
    mutual: grpc.aio.Server = field(init=False)

    async def start(self) -> None:
        await asyncio.to_thread(initialise, self.state, "main", [LOOPBACK], self.clock)
        pki = open_pki(self.state, self.lifetimes)
        pki.server.refresh([LOOPBACK], self.clock.wall_ms())
        self.store = Store.open(self.state, "main")
        self.hosts = HostRegistry(self.store, self.clock)
        # The ports have to be known before the tokens that name them.
        self.mutual = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        credentials = pki.server.credentials(mutual=True)
        self.stream_port = self.mutual.add_secure_port(f"{LOOPBACK}:{self.stream_port}", credentials)
        if not self.enrol_port:
            with contextlib.closing(await asyncio.start_server(lambda *_: None, LOOPBACK, 0)) as probe:
                self.enrol_port = probe.sockets[0].getsockname()[1]
        self.enrolment = Enrolment.open(
            self.store,
            self.clock,
            self.hosts,
            pki.authority,
            pki.keys,
            lifetimes=self.lifetimes,
            endpoint=f"{LOOPBACK}:{self.enrol_port}",
        )
        desk, renewals = self.enrolment.desk, self.enrolment.renewals
        service = EnrolmentService(desk, renewals, "main", f"{LOOPBACK}:{self.stream_port}")
        self.server = EnrolmentServer(service, pki.server)
        await self.server.start(f"{LOOPBACK}:{self.enrol_port}")
        live = LiveRenewal(desk, renewals, self.hosts)
        link_pb2_grpc.add_LinkServicer_to_server(_MutualService(self.hosts, live), self.mutual)
        await self.mutual.start()

    async def stop(self) -> None:
        await self.server.stop()
        await self.mutual.stop(0)
        self.store.close()

    async def token(self, **order: Any) -> str:
        """One new token."""
        issued = await self.enrolment.tokens.create(EnrolmentOrder(**order), actor="test")
        return issued[0].token

    def events(self) -> list[Any]:
        from watchbill_collector.store.events import recent

        return list(self.store.read(lambda c: recent(c, "main", 1000)))


def request(token: str, state: Path, hostname: str = "web01", **more: Any) -> EnrolRequest:
    fields: dict[str, Any] = {"agent_version": "0.1.0", "patience_s": 5.0, **more}
    return EnrolRequest(token=token, state_directory=str(state), hostname=hostname, **fields)


MakeSite = Callable[..., Awaitable[Site]]


@pytest.fixture
async def make_site(tmp_path: Path) -> AsyncIterator[MakeSite]:
    made: list[Site] = []

    async def make(clock: Clock | None = None, lifetimes: Lifetimes | None = None) -> Site:
        place = tmp_path / f"site{len(made)}"
        site = Site(place, clock or SystemClock(), lifetimes or Lifetimes())
        await site.start()
        made.append(site)
        return site

    yield make
    for site in made:
        await site.stop()


@pytest.fixture
async def site(make_site: MakeSite) -> Site:
    return await make_site()


@pytest.fixture
def ask() -> Callable[..., EnrolRequest]:
    """Builds the request an agent's `enroll` makes."""
    return request
