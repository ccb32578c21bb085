"""The next certificate: with the present one, with one that has expired, and not at all."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from watchbill.clock import ManualClock, SystemClock
from watchbill.errors import Refused, Unreachable
from watchbill.identity import AgentIdentity, IdentityFile, IdentityRefused, RefusalReason
from watchbill.tls import channel_credentials, channel_options
from watchbill.v1 import link_pb2 as pb
from watchbill.v1 import link_pb2_grpc
from watchbill_agent import identity_keys
from watchbill_agent.enroll import EnrolRequest
from watchbill_agent.enroll_child import enrol
from watchbill_agent.renew import Renewer, renew
from watchbill_collector.enrolment.renewals import RENEWALS_PER_LIFE_MAX, Renewal, renewal_message
from watchbill_collector.pki import Lifetimes

Ask = Callable[..., EnrolRequest]
DAY_S = 86_400


def _now() -> ManualClock:
    return ManualClock(SystemClock().wall_ms())


async def _agent(site: Any, ask: Ask, place: Path, name: str = "web01") -> AgentIdentity:
    token = await site.token(names=(name,))
    await asyncio.to_thread(enrol, ask(token, place, name), site.clock)
    identity = IdentityFile(place).load()
    assert identity is not None
    return identity


async def _refused(place: Path, clock: Any) -> IdentityRefused:
    with pytest.raises(IdentityRefused) as caught:
        await renew(place, clock)
    return caught.value


async def test_every_second_renewal_changes_the_key_and_old_and_new_are_valid_together(
    site: Any, ask: Ask, tmp_path: Path
) -> None:
    identities = [await _agent(site, ask, tmp_path)]
    identities += [await renew(tmp_path, site.clock) for _ in range(4)]
    keys = [one.key_pem for one in identities]
    assert keys[0] == keys[1] != keys[2] == keys[3] != keys[4]
    assert len({one.chain_pem for one in identities}) == 5
    assert {site.hosts.admit(one.chain_pem).host.agent_id for one in identities} == {identities[0].agent_id}
    assert IdentityFile(tmp_path).load() == identities[-1]


async def test_a_renewal_does_not_disturb_the_session(site: Any, ask: Ask, tmp_path: Path) -> None:
    identity = await _agent(site, ask, tmp_path)
    async with grpc.aio.secure_channel(
        identity.stream_endpoint, channel_credentials(identity), channel_options()
    ) as channel:
        stream = link_pb2_grpc.LinkStub(channel).Stream()
        await stream.write(pb.Up())
        assert await stream.read() != grpc.aio.EOF
        await renew(tmp_path, site.clock)
        await renew(tmp_path, site.clock)
        await stream.write(pb.Up())
        assert await stream.read() != grpc.aio.EOF
        stream.cancel()


async def test_a_revocation_ends_a_session_that_is_open(site: Any, ask: Ask, tmp_path: Path) -> None:
    identity = await _agent(site, ask, tmp_path)
    told: list[Any] = []
    site.hosts.subscribe(told.append)
    async with grpc.aio.secure_channel(
        identity.stream_endpoint, channel_credentials(identity), channel_options()
    ) as channel:
        stream = link_pb2_grpc.LinkStub(channel).Stream()
        await stream.write(pb.Up())
        assert await stream.read() != grpc.aio.EOF
        await site.hosts.revoke(identity.agent_id, actor="ann", reason="stolen")
        assert [(one.kind.value, one.after.state.value) for one in told] == [("revoked", "revoked")]
        await stream.write(pb.Up())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.details() == "revoked"


async def test_the_moment_of_renewal_is_spread_over_a_fifth_of_the_life(
    site: Any, ask: Ask, tmp_path: Path
) -> None:
    identity = await _agent(site, ask, tmp_path)
    shares = []
    for _ in range(8):
        life = identity.not_after_ms - identity.not_before_ms
        shares.append((identity.renewal_due_ms() - identity.not_before_ms) / life)
        identity = await renew(tmp_path, site.clock)
    assert all(0.4 <= share <= 0.6 for share in shares)
    assert len(set(shares)) == len(shares)


async def test_a_certificate_that_really_ends_within_seconds_is_renewed_by_its_key(
    make_site: Any, ask: Ask, tmp_path: Path
) -> None:
    site = await make_site(SystemClock(), Lifetimes(agent_s=1.0))
    identity = await _agent(site, ask, tmp_path)
    async with asyncio.timeout(10):
        while SystemClock().wall_ms() <= identity.not_after_ms:  # noqa: ASYNC110 - Nobody tells when time has passed.
            await asyncio.sleep(0.05)
    # gRPC shows a client only that the handshake failed; the renewal finds the other port by itself.
    async with grpc.aio.secure_channel(
        identity.stream_endpoint, channel_credentials(identity), channel_options()
    ) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await link_pb2_grpc.LinkStub(channel).Renew(pb.RenewRequest(), timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert site.hosts.standing(identity.agent_id) is RefusalReason.EXPIRED
    renewed = await renew(tmp_path, SystemClock())
    assert renewed.not_after_ms > SystemClock().wall_ms()
    assert site.hosts.standing(identity.agent_id) is None
    assert site.enrolment.office.outcomes["recover", "ok"] == 1


async def test_a_collector_whose_clock_says_expired_still_renews(
    make_site: Any, ask: Ask, tmp_path: Path
) -> None:
    site = await make_site(_now())
    identity = await _agent(site, ask, tmp_path)
    site.clock.advance(20 * DAY_S)
    renewed = await renew(tmp_path, site.clock)
    assert renewed.agent_id == identity.agent_id
    assert site.hosts.admit(renewed.chain_pem).host.agent_id == identity.agent_id


@pytest.mark.parametrize(("days", "renewed"), [(36, True), (38, False)])
async def test_thirty_days_after_its_end_a_certificate_is_worth_nothing(
    make_site: Any, ask: Ask, tmp_path: Path, days: int, renewed: bool
) -> None:
    site = await make_site(_now(), Lifetimes(server_s=400 * DAY_S))
    await _agent(site, ask, tmp_path)
    site.clock.advance(days * DAY_S)
    if renewed:
        assert (await renew(tmp_path, site.clock)).renewals == 1
    else:
        assert (await _refused(tmp_path, site.clock)).reason is RefusalReason.TOO_LONG_EXPIRED


async def test_renewal_of_expired_certificates_can_be_switched_off(
    make_site: Any, ask: Ask, tmp_path: Path
) -> None:
    site = await make_site(_now(), Lifetimes(expired_grace_s=0))
    await _agent(site, ask, tmp_path)
    site.clock.advance(8 * DAY_S)
    assert (await _refused(tmp_path, site.clock)).reason is RefusalReason.TOO_LONG_EXPIRED


@pytest.mark.parametrize(
    ("end", "reason"), [("revoke", RefusalReason.REVOKED), ("retire", RefusalReason.RETIRED)]
)
async def test_who_was_shut_out_does_not_renew_on_either_port(
    make_site: Any, ask: Ask, tmp_path: Path, end: str, reason: RefusalReason
) -> None:
    site = await make_site(_now())
    identity = await _agent(site, ask, tmp_path)
    await getattr(site.hosts, end)(identity.agent_id, actor="ann")
    assert (await _refused(tmp_path, site.clock)).reason is reason
    site.clock.advance(8 * DAY_S)
    assert (await _refused(tmp_path, site.clock)).reason is reason


async def test_a_wrong_clock_cannot_prove_anything_and_is_told_how_wrong_it_is(
    make_site: Any, ask: Ask, tmp_path: Path
) -> None:
    site = await make_site(_now())
    await _agent(site, ask, tmp_path)
    site.clock.advance(8 * DAY_S)
    ahead = ManualClock(site.clock.wall_ms() + 3_600_000)
    refused = await _refused(tmp_path, ahead)
    assert refused.reason is RefusalReason.CLOCK_SUSPECT
    assert "3600 s fast" in str(refused)


async def test_a_replayed_or_forged_proof_earns_nothing(make_site: Any, ask: Ask, tmp_path: Path) -> None:
    site = await make_site(_now())
    identity = await _agent(site, ask, tmp_path / "a")
    other = await _agent(site, ask, tmp_path / "b", "web02")
    site.clock.advance(8 * DAY_S)
    key = identity_keys.read_key(identity.key_pem)
    csr = identity_keys.signing_request(key)
    wall_ms = site.clock.wall_ms()
    message = renewal_message(identity.agent_id, hashlib.sha256(csr).digest(), wall_ms)
    proof = identity_keys.sign(key, message)
    recover = site.enrolment.renewals.recover
    first = await recover(Renewal(identity.agent_id, csr, wall_ms, proof), "192.0.2.1")
    replayed = await recover(Renewal(identity.agent_id, csr, wall_ms, proof), "192.0.2.1")
    assert replayed.certificate == first.certificate, (
        "a replay is given what the owner of the key has already"
    )
    thief = identity_keys.signing_request(identity_keys.new_key())
    for asked in (
        Renewal(identity.agent_id, thief, wall_ms, proof),
        Renewal(other.agent_id, csr, wall_ms, proof),
        Renewal(identity.agent_id, csr, wall_ms + 1, proof),
        Renewal(identity.agent_id, csr, wall_ms, b""),
        Renewal("nobody", csr, wall_ms, proof),
        Renewal(identity.agent_id, csr, 2**63 - 1, proof),
    ):
        with pytest.raises(IdentityRefused) as caught:
            await recover(asked, "192.0.2.9")
        assert caught.value.reason in {RefusalReason.UNKNOWN_AGENT, RefusalReason.RATE_LIMITED}
    site.clock.advance(600)
    with pytest.raises(IdentityRefused) as caught:
        await recover(Renewal(identity.agent_id, csr, wall_ms, proof), "192.0.2.1")
    assert caught.value.reason is RefusalReason.CLOCK_SUSPECT


async def test_a_host_cannot_renew_for_another(site: Any, ask: Ask, tmp_path: Path) -> None:
    identity = await _agent(site, ask, tmp_path / "a")
    other = await _agent(site, ask, tmp_path / "b", "web02")
    csr = identity_keys.signing_request(identity_keys.new_key())
    async with grpc.aio.secure_channel(
        identity.stream_endpoint, channel_credentials(identity), channel_options()
    ) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await link_pb2_grpc.LinkStub(channel).Renew(pb.RenewRequest(agent_id=other.agent_id, csr=csr))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        # Nor for another's key.
        theirs = identity_keys.signing_request(identity_keys.read_key(other.key_pem))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await link_pb2_grpc.LinkStub(channel).Renew(pb.RenewRequest(csr=theirs))
        assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    newest = site.events()[:2]
    assert [one.outcome for one in newest] == ["refused", "refused"]
    assert [json.loads(one.detail)["reason"] for one in newest] == ["key-taken", "certificate"]


async def test_an_agent_that_renews_all_the_time_is_stopped(site: Any, ask: Ask, tmp_path: Path) -> None:
    identity = await _agent(site, ask, tmp_path)
    admitted = site.hosts.admit(identity.chain_pem)
    key = identity_keys.read_key(identity.key_pem)

    async def once() -> None:
        await site.enrolment.renewals.renew(admitted, Renewal("", identity_keys.signing_request(key)), "")

    for _ in range(RENEWALS_PER_LIFE_MAX - 1):
        await once()
    with pytest.raises(IdentityRefused) as caught:
        await once()
    assert caught.value.reason is RefusalReason.RATE_LIMITED
    assert caught.value.retry_after_s


async def test_a_renewal_without_a_collector_leaves_the_identity_alone(
    make_site: Any, ask: Ask, tmp_path: Path
) -> None:
    site = await make_site()
    await _agent(site, ask, tmp_path)
    before = (tmp_path / "identity.json").read_bytes()
    await site.server.stop()
    await site.mutual.stop(0)
    with pytest.raises(Unreachable):
        await renew(tmp_path, site.clock)
    assert (tmp_path / "identity.json").read_bytes() == before
    with pytest.raises(Refused):
        await renew(tmp_path / "nowhere", site.clock)


async def test_the_loop_renews_in_time_and_says_so(make_site: Any, ask: Ask, tmp_path: Path) -> None:
    site = await make_site(SystemClock(), Lifetimes(agent_s=4.0))
    identity = await _agent(site, ask, tmp_path)
    renewed: asyncio.Queue[AgentIdentity] = asyncio.Queue()
    # A life of four seconds begins five minutes back, so its middle is past: due at once.
    renewer = Renewer(tmp_path, site.clock, renewed.put_nowait)
    assert renewer.wait_s(identity) == 0
    task = asyncio.create_task(renewer.run(identity))
    try:
        first = await asyncio.wait_for(renewed.get(), 20)
        assert first.renewals == 1
        await site.hosts.revoke(identity.agent_id, actor="ann")
        await asyncio.wait_for(task, 20)
        assert isinstance(renewer.last_error, IdentityRefused)
    finally:
        task.cancel()
