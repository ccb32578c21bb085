"""A host whose clock is years off: the collector's signed time lets it in, and nobody else's does.

The site lives in another time here and the host in this one, which is the same to both. Where a server asks for the
host's certificate gRPC judges that by this machine's clock, so those ports are tried with real processes elsewhere.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from watchbill.clock import ManualClock, SystemClock
from watchbill.errors import Unreachable
from watchbill.identity import AgentIdentity, IdentityFile, IdentityRefused, RefusalReason
from watchbill.signed_time import NONCE_BYTES
from watchbill.v1 import link_pb2 as pb
from watchbill.v1 import link_pb2_grpc
from watchbill_agent.enroll import EnrolRequest
from watchbill_agent.enroll_child import enrol
from watchbill_agent.renew import renew
from watchbill_agent.transports import LinkDown, LinkRefused
from watchbill_agent.transports.over_grpc import GrpcTransport
from watchbill_agent.transports.relay import context_of, fetch_time, learn_time
from watchbill_agent.true_time import TrueTime
from watchbill_collector.pki import Authority
from watchbill_collector.pki.authority import private_pem

Ask = Callable[..., EnrolRequest]
DAY_S = 86_400
TEN_YEARS_MS = 3_652 * DAY_S * 1000
SPRING_MS = round(datetime(2025, 3, 1, tzinfo=UTC).timestamp() * 1000)
"""Certificates of then have ended, and this program was there."""

slow = pytest.mark.parametrize(
    "wall_ms", [SystemClock().wall_ms() + TEN_YEARS_MS, SPRING_MS], ids=["slow", "fast"]
)


async def enrolled(site: Any, ask: Ask, place: Path) -> AgentIdentity:
    token = await site.token(names=("pump-7",))
    await asyncio.to_thread(enrol, ask(token, place, "pump-7"), SystemClock())
    identity = IdentityFile(place).load()
    assert identity is not None
    return identity


@pytest.fixture
async def future(make_site: Any) -> Any:
    """A site for which this host is ten years slow."""
    return await make_site(ManualClock(SystemClock().wall_ms() + TEN_YEARS_MS))


def suspicious(identity: AgentIdentity, place: Path | None = None) -> TrueTime:
    time = TrueTime(place, SystemClock(), identity.not_before_ms)
    time.suspect()
    return time


@slow
async def test_it_is_enrolled_and_renewed_by_the_collectors_time(
    make_site: Any, ask: Ask, tmp_path: Path, wall_ms: int
) -> None:
    site = await make_site(ManualClock(wall_ms))
    identity = await enrolled(site, ask, tmp_path)
    assert abs(identity.enrolled_ms - wall_ms) < 60_000
    assert site.enrolment.office.outcomes["time", "ok"] >= 1
    site.clock.advance(8 * DAY_S)
    time = suspicious(identity, tmp_path)
    # The streams' port does not take an expired certificate, whoever's clock is asked; the other port tells.
    await learn_time(time, identity, identity.stream_endpoint)
    assert abs(time.wall_ms() - site.clock.wall_ms()) < 60_000
    renewed = await renew(tmp_path, time)
    assert renewed.renewals == 1
    assert site.enrolment.office.outcomes["recover", "ok"] == 1


async def test_an_hour_off_is_enough_to_spoil_a_proof_and_is_put_right(
    make_site: Any, ask: Ask, tmp_path: Path
) -> None:
    site = await make_site(ManualClock(SystemClock().wall_ms() + 3_600_000))
    identity = await enrolled(site, ask, tmp_path)
    site.clock.advance(8 * DAY_S)
    there = ManualClock(site.clock.wall_ms() - 3_600_000, SystemClock().boottime_ms())
    time = TrueTime(tmp_path, there, identity.not_before_ms)
    assert (await renew(tmp_path, time)).renewals == 1
    assert (site.enrolment.office.outcomes["recover", "clock-suspect"], time.asked) == (1, 1)


async def test_nobody_who_is_not_the_tokens_authority_tells_the_time_of_an_enrolment(
    future: Any, make_site: Any, ask: Ask, tmp_path: Path
) -> None:
    other = await make_site(ManualClock(SystemClock().wall_ms() + TEN_YEARS_MS))
    token = await future.token(names=("pump-7",))

    async def lie(request: pb.TimeRequest) -> pb.TimeReply:
        return pb.TimeReply(
            **{
                name: getattr(other.enrolment.desk.tell_time(request.nonce), name)
                for name in ("wall_ms", "signature", "key", "key_signature")
            },
            site="main",
        )

    key = ec.generate_private_key(ec.SECP256R1())
    authority = Authority.load(future.state / "pki")
    now_ms = future.clock.wall_ms()
    leaf = authority.issue_server(["127.0.0.1"], key.public_key(), now_ms, DAY_S)
    await future.server.stop()
    async with serving(authority, key, leaf, lie, future.enrol_port):
        with pytest.raises(IdentityRefused) as caught:
            await asyncio.to_thread(enrol, ask(token, tmp_path, "pump-7", patience_s=1.0), SystemClock())
        assert caught.value.reason is RefusalReason.WRONG_CA
    assert IdentityFile(tmp_path).load() is None


async def test_where_no_time_is_told_the_clock_is_named_and_nothing_is_sent(
    future: Any, ask: Ask, tmp_path: Path
) -> None:
    async def silent(request: pb.TimeRequest) -> pb.TimeReply:
        raise RuntimeError("no time is told")  # What gRPC answers for us then is no reply.

    token = await future.token(names=("pump-7",))
    authority, key = Authority.load(future.state / "pki"), ec.generate_private_key(ec.SECP256R1())
    leaf = authority.issue_server(["127.0.0.1"], key.public_key(), future.clock.wall_ms(), DAY_S)
    await future.server.stop()
    async with serving(authority, key, leaf, silent, future.enrol_port) as (service, _):
        with pytest.raises(IdentityRefused, match="set the clock") as caught:
            await asyncio.to_thread(enrol, ask(token, tmp_path, "pump-7"), SystemClock())
        assert (caught.value.reason, service.asked) == (RefusalReason.CLOCK_SUSPECT, [])


async def test_a_question_that_is_none_is_refused(future: Any, ask: Ask, tmp_path: Path) -> None:
    identity = await enrolled(future, ask, tmp_path)
    context = context_of(identity.trust_pem)
    for size in (0, NONCE_BYTES - 1, NONCE_BYTES + 1):
        with pytest.raises(Unreachable, match="random bytes"):
            await fetch_time(identity.enrol_endpoint, context, bytes(size))
    assert future.enrolment.office.outcomes["time", "malformed"] == 3


# ---------------------------------------------------------------- somebody in between


class Between(link_pb2_grpc.LinkServicer):
    """A server that answers `Time` as it likes, and notes what else it is asked."""

    def __init__(self, tells: Callable[[pb.TimeRequest], Any]) -> None:
        self._tells = tells
        self.asked: list[str] = []

    async def Time(self, request: pb.TimeRequest, context: Any) -> pb.TimeReply:  # noqa: N802
        return await self._tells(request)

    async def Enroll(self, request: pb.EnrollRequest, context: Any) -> pb.EnrollReply:  # noqa: N802
        self.asked.append("Enroll")
        return pb.EnrollReply()

    async def Stream(self, request_iterator: Any, context: Any) -> AsyncIterator[pb.Down]:  # noqa: N802
        self.asked.append("Stream")
        yield pb.Down()


@asynccontextmanager
async def serving(authority: Authority, key: Any, leaf: Any, tells: Any, port: int = 0) -> AsyncIterator[Any]:
    """A server with a certificate that it should not have any more, or never had."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    service = Between(tells)
    link_pb2_grpc.add_LinkServicer_to_server(service, server)
    chain = leaf.public_bytes(Encoding.PEM) + authority.pem
    port = server.add_secure_port(
        f"127.0.0.1:{port}", grpc.ssl_server_credentials([(private_pem(key), chain)])
    )
    await server.start()
    try:
        yield service, f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def true_answer(site: Any, request: pb.TimeRequest) -> pb.TimeReply:
    """What the collector itself says, carried by somebody else."""
    identity = site.identity
    reply, _ = await fetch_time(identity.enrol_endpoint, context_of(identity.trust_pem), request.nonce)
    return reply


@asynccontextmanager
async def between(site: Any, tells: Any, *, ended_days: float = 1.0) -> AsyncIterator[Any]:
    """Somebody in the path with a server's key of this authority whose certificate ended so long ago; less than 0: it
    is good.
    """
    authority, key = Authority.load(site.state / "pki"), ec.generate_private_key(ec.SECP256R1())
    issued_ms = site.clock.wall_ms() - round((ended_days + 30) * DAY_S * 1000)
    leaf = authority.issue_server(["127.0.0.1"], key.public_key(), issued_ms, 30 * DAY_S)
    async with serving(authority, key, leaf, tells) as (service, endpoint):
        yield service, replace(site.identity, stream_endpoint=endpoint, enrol_endpoint=endpoint)


async def why_not(identity: AgentIdentity, time: TrueTime) -> LinkDown | LinkRefused:
    transport = GrpcTransport(lambda: identity, SystemClock(), time=time)
    with pytest.raises((LinkDown, LinkRefused)) as caught:
        await transport.open()
    return caught.value


@pytest.fixture
async def attacked(future: Any, ask: Ask, tmp_path: Path) -> Any:
    """The slow site, with a host that is enrolled."""
    future.identity = await enrolled(future, ask, tmp_path / "box")
    return future


async def test_a_servers_certificate_that_has_ended_is_found_out_by_the_time_it_carries_itself(
    attacked: Any,
) -> None:
    async with between(attacked, lambda request: true_answer(attacked, request)) as (service, identity):
        time = suspicious(identity)
        down = await why_not(identity, time)
        assert (down.reason, time.known) == ("server-expired", True)
        assert "has ended" in str(down)
        assert not service.asked, "nothing but the time was asked"


async def test_one_that_is_good_by_that_time_is_taken_and_the_stream_begins(attacked: Any) -> None:
    tells = lambda request: true_answer(attacked, request)  # noqa: E731
    async with between(attacked, tells, ended_days=-10) as (service, identity):
        link = await GrpcTransport(lambda: identity, SystemClock(), time=suspicious(identity)).open()
        assert await link.receive() is not None
        await link.close()
        assert service.asked == ["Stream"]


async def test_replayed_forged_late_and_old_times_open_nothing(attacked: Any, tmp_path: Path) -> None:
    recorded: list[pb.TimeReply] = []

    async def replayed(request: pb.TimeRequest) -> pb.TimeReply:
        if not recorded:
            recorded.append(await true_answer(attacked, request))
            return pb.TimeReply()
        return recorded[0]

    async def forged(request: pb.TimeRequest) -> pb.TimeReply:
        reply = await true_answer(attacked, request)
        reply.wall_ms -= 2 * DAY_S * 1000
        return reply

    async def garbage(request: pb.TimeRequest) -> pb.TimeReply:
        return pb.TimeReply(wall_ms=-(2**62), signature=b"x" * 10_000, key=b"", site="\0")

    for lie in (replayed, forged, garbage):
        async with between(attacked, lie) as (service, identity):
            time = suspicious(identity)
            for _ in range(2):
                assert (await why_not(identity, time)).reason == "clock-suspect"
            assert (time.known, service.asked) == (False, [])
            assert sum(time.refused.values()) == 2
    # The collector itself, taken back to when a stolen certificate was good: its key signs, and is not believed.
    before = TrueTime(tmp_path, SystemClock())
    before.saw(attacked.clock.wall_ms())
    before.save()
    attacked.clock.set_wall_ms(attacked.clock.wall_ms() - 2 * DAY_S * 1000)
    async with between(attacked, lambda request: true_answer(attacked, request)) as (service, identity):
        time = suspicious(replace(identity, not_before_ms=0), tmp_path)
        down = await why_not(identity, time)
        assert (down.reason, service.asked, time.refused) == ("clock-suspect", [], {"floor": 1})
        assert "before the newest that this host ever saw" in str(down)


async def test_a_server_of_another_authority_is_not_even_asked(
    attacked: Any, make_site: Any, tmp_path: Path
) -> None:
    other = await make_site(ManualClock(attacked.clock.wall_ms()))
    asked: list[pb.TimeRequest] = []

    async def noting(request: pb.TimeRequest) -> pb.TimeReply:
        asked.append(request)
        return pb.TimeReply()

    other.identity = attacked.identity
    async with between(other, noting, ended_days=-10) as (service, identity):
        down = await why_not(identity, suspicious(identity))
        assert (asked, service.asked) == ([], [])
        assert down.reason in {"clock-suspect", "wrong-ca"}


async def test_a_revoked_host_stays_out_whatever_time_it_is(attacked: Any, tmp_path: Path) -> None:
    identity = attacked.identity
    await attacked.hosts.revoke(identity.agent_id, actor="ann")
    attacked.clock.advance(8 * DAY_S)
    time = suspicious(identity)
    await learn_time(time, identity, identity.stream_endpoint)
    with pytest.raises(IdentityRefused) as caught:
        await renew(tmp_path / "box", time)
    assert caught.value.reason is RefusalReason.REVOKED


def test_tls_without_dates_still_judges_names_and_authorities(tmp_path: Path) -> None:
    context = context_of(Authority.create(tmp_path, "main", SPRING_MS).pem)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
