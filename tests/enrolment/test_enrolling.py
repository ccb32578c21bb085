"""A host that holds a token becomes an agent: the whole way, over real gRPC."""

import asyncio
import json
import signal
import socket
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from watchbill.clock import ManualClock, SystemClock
from watchbill.errors import Refused, Unreachable, Unreadable
from watchbill.identity import (
    Endpoint,
    EnrolmentToken,
    IdentityFile,
    IdentityRefused,
    RefusalReason,
    parse_agent_uri,
    parse_token,
)
from watchbill.tls import Handshake, diagnose, served_chain
from watchbill_agent.enroll import AwaitsApproval, Enrolled, EnrolRequest, enroll, seal
from watchbill_agent.enroll_child import Step, enrol
from watchbill_collector.enrolment import EnrolmentOrder
from watchbill_collector.pki.peer import read_peer

Ask = Callable[..., EnrolRequest]

HOSTS_BEHIND_ONE_ADDRESS = 400


async def _enroll(request: EnrolRequest) -> Enrolled | AwaitsApproval:
    """As the agent's command does, in its own child process."""
    return await asyncio.to_thread(enroll, request)


async def _enrol(request: EnrolRequest, clock: Any = None) -> dict[str, Any]:
    """The same without the child, which is quicker."""
    return await asyncio.to_thread(enrol, request, clock or SystemClock())


async def _refused(request: EnrolRequest, clock: Any = None) -> IdentityRefused:
    with pytest.raises(IdentityRefused) as caught:
        await _enrol(request, clock)
    return caught.value


async def test_a_token_makes_an_agent_with_what_the_operator_bound(
    site: Any, ask: Ask, tmp_path: Path
) -> None:
    token = await site.token(names=("web01",), labels={"rack": "b12", "job": "web"})
    answer = await _enroll(ask(token, tmp_path / "agent", "some-other-hostname"))
    assert isinstance(answer, Enrolled)
    identity = answer.identity
    assert (identity.instance, identity.site, identity.labels) == (
        "web01",
        "main",
        {"rack": "b12", "job": "web"},
    )
    assert identity.stream_endpoint == f"127.0.0.1:{site.stream_port}"
    peer = read_peer(identity.chain_pem, "main", SystemClock().wall_ms())
    assert peer.agent_id == identity.agent_id
    assert 6.9 < (peer.not_after_ms - SystemClock().wall_ms()) / 86_400_000 <= 7.001
    host = site.hosts.admit(identity.chain_pem).host
    assert (host.instance, host.labels, host.job) == ("web01", {"rack": "b12", "job": "web"}, "web")
    assert (tmp_path / "agent" / "identity.json").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "agent" / "enrolling.json").exists()


async def test_the_same_token_again_on_an_enrolled_host_is_fine_and_another_is_not(
    site: Any, ask: Ask, tmp_path: Path
) -> None:
    token = await site.token(names=("web01",))
    first = await _enroll(ask(token, tmp_path))
    again = await _enroll(ask(token, tmp_path))
    assert isinstance(first, Enrolled)
    assert isinstance(again, Enrolled)
    assert again.already
    assert again.identity == first.identity
    assert again.fingerprint == first.fingerprint
    with pytest.raises(Refused, match="watchbill-agent seal"):
        await _enroll(ask(await site.token(names=("web02",)), tmp_path))
    assert seal(tmp_path)
    assert not seal(tmp_path)
    assert isinstance(await _enroll(ask(await site.token(names=("web02",)), tmp_path)), Enrolled)


async def test_the_pasted_command_is_one_line_without_a_secret_in_any_argument(site: Any) -> None:
    issued = await site.enrolment.tokens.create(EnrolmentOrder(names=("a", "b")), actor="t")
    for one in issued:
        assert one.command == f"printf %s '{one.token}' | sudo watchbill-agent enroll --token-file -"
        assert one.token not in repr(one)
    assert len({one.token for one in issued}) == 2


async def test_neither_the_store_nor_the_events_hold_a_secret(site: Any, ask: Ask, tmp_path: Path) -> None:
    text = await site.token(names=("web01",))
    secret = parse_token(text).secret
    await _enrol(ask(text, tmp_path / "a"))
    files = [path for path in site.state.glob("control.db*") if path.suffix != ".lock"]
    assert files
    for path in files:
        content = path.read_bytes()
        assert secret not in content
        assert secret.hex().encode() not in content
        assert text.encode() not in content


async def test_a_token_opens_for_one_key_only(site: Any, ask: Ask, tmp_path: Path) -> None:
    token = await site.token(names=("web01",))
    await _enrol(ask(token, tmp_path / "a"))
    refused = await _refused(ask(token, tmp_path / "b"))
    assert refused.reason is RefusalReason.USED_UP
    assert "watchbill enroll create" in str(refused)


async def test_two_at_the_same_moment_cannot_share_a_single_use(site: Any, ask: Ask, tmp_path: Path) -> None:
    token = await site.token(match="web*", uses=3)
    requests = [ask(token, tmp_path / str(n), f"web{n}") for n in range(8)]
    answers = await asyncio.gather(*(_enrol(one) for one in requests), return_exceptions=True)
    reasons = Counter(one.reason.value if isinstance(one, IdentityRefused) else "ok" for one in answers)
    assert reasons == {"ok": 3, "used-up": 5}
    assert site.enrolment.tokens.list()[0].state == "used"


async def test_a_pattern_takes_the_hosts_that_fit_and_no_others(site: Any, ask: Ask, tmp_path: Path) -> None:
    token = await site.token(match="Web-*", uses=5)
    await _enrol(ask(token, tmp_path / "a", "web-1"))
    refused = await _refused(ask(token, tmp_path / "b", "db-1"))
    assert refused.reason is RefusalReason.OTHER_HOST
    hostile = await _refused(ask(token, tmp_path / "c", "web-<script>"))
    assert hostile.reason is RefusalReason.OTHER_HOST
    assert site.enrolment.tokens.list()[0].enrolment.uses == 1


async def test_a_host_configured_to_be_another_is_refused(site: Any, ask: Ask, tmp_path: Path) -> None:
    token = await site.token(names=("web01",))
    refused = await _refused(ask(token, tmp_path, "web01", instance="web02"))
    assert refused.reason is RefusalReason.OTHER_HOST
    assert "web01" in str(refused)
    assert "web02" in str(refused)
    await _enrol(ask(token, tmp_path, "whatever", instance="WEB01"))


async def test_expired_withdrawn_and_foreign_networks_are_told_apart(
    make_site: Any, ask: Ask, tmp_path: Path
) -> None:
    clock = ManualClock(SystemClock().wall_ms())
    site = await make_site(clock)
    old = await site.token(names=("old",), ttl_s=60)
    clock.advance(61)
    assert (await _refused(ask(old, tmp_path / "a"), clock)).reason is RefusalReason.EXPIRED
    gone = await site.token(names=("gone",))
    await site.enrolment.tokens.withdraw(parse_token(gone).token_id, actor="t")
    assert (await _refused(ask(gone, tmp_path / "b"), clock)).reason is RefusalReason.WITHDRAWN
    elsewhere = await site.token(names=("far",), cidr="192.0.2.0/24")
    refused = await _refused(ask(elsewhere, tmp_path / "c"), clock)
    assert refused.reason is RefusalReason.ADDRESS
    assert "127.0.0.1" in str(refused)
    here = await site.token(names=("near",), cidr="127.0.0.0/8")
    await _enrol(ask(here, tmp_path / "d"), clock)


async def test_five_wrong_secrets_kill_a_token_and_ten_thousand_write_next_to_nothing(
    make_site: Any, ask: Ask, tmp_path: Path
) -> None:
    site = await make_site(ManualClock(SystemClock().wall_ms()))
    text = await site.token(names=("web01",))
    token = parse_token(text)
    from watchbill_collector.enrolment.desk import Application

    def application(secret: bytes) -> Application:
        return Application(
            token_id=token.token_id,
            token_secret=secret,
            csr=b"",
            envelope_key=bytes(32),
            envelope_proof=bytes(64),
            hostname="h",
            instance="",
            agent_version="0",
        )

    reasons: Counter[str] = Counter()
    for n in range(10_000):
        try:
            await site.enrolment.desk.enrol(application(n.to_bytes(20)), "198.51.100.7")
        except IdentityRefused as refused:
            reasons[refused.reason.value] += 1
    assert reasons == {"unknown-token": 5, "rate-limited": 9_995}
    assert site.enrolment.tokens.list()[0].state == "dead"
    assert len([one for one in site.events() if one.verb == "host.enrol"]) == 5
    assert (await _refused(ask(text, tmp_path), site.clock)).reason is RefusalReason.DEAD


async def test_somebody_who_fails_all_the_time_costs_his_neighbours_nothing(
    site: Any, ask: Ask, tmp_path: Path
) -> None:
    good = await site.token(match="web-*", uses=20)
    bad = parse_token(good)
    wrong = EnrolmentToken("aaaaaaaaaaaa", bytes(20), bad.ca_sha256, bad.endpoint).encode()
    reasons = [(await _refused(ask(wrong, tmp_path / "bad"))).reason for _ in range(7)]
    assert reasons[-1] is RefusalReason.RATE_LIMITED
    last = await _refused(ask(wrong, tmp_path / "bad"))
    assert last.retry_after_s is not None
    assert 0 < last.retry_after_s <= 60
    await _enrol(ask(good, tmp_path / "good", "web-1"))


async def test_four_hundred_hosts_enrol_from_behind_one_address(site: Any, ask: Ask, tmp_path: Path) -> None:
    token = await site.token(match="web-*", uses=HOSTS_BEHIND_ONE_ADDRESS)
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(50) as pool:
        jobs = [
            loop.run_in_executor(
                pool, enrol, ask(token, tmp_path / str(n), f"web-{n}", patience_s=60.0), SystemClock()
            )
            for n in range(HOSTS_BEHIND_ONE_ADDRESS)
        ]
        answers = await asyncio.gather(*jobs)
    assert all(answer["outcome"] == "enrolled" for answer in answers)
    assert site.hosts.live_count() == HOSTS_BEHIND_ONE_ADDRESS
    assert site.enrolment.office.outcomes == {("enrol", "ok"): HOSTS_BEHIND_ONE_ADDRESS}


# ---------------------------------------------------------------- names


async def test_a_taken_name_is_refused_and_replace_takes_it_over(site: Any, ask: Ask, tmp_path: Path) -> None:
    spare = await site.token(names=("web01",), labels={"rack": "other"})
    await _enrol(ask(await site.token(names=("web01",), labels={"rack": "b12"}), tmp_path / "a"))
    assert (await _refused(ask(spare, tmp_path / "b"))).reason is RefusalReason.NAME_TAKEN
    old = IdentityFile(tmp_path / "a").load()
    assert old is not None
    changes: list[Any] = []
    site.hosts.subscribe(changes.append)
    await _enrol(ask(await site.token(names=("WEB01",), replace=True), tmp_path / "c"))
    new = IdentityFile(tmp_path / "c").load()
    assert new is not None
    assert (new.instance, new.labels) == ("web01", {"rack": "b12"}), "its series go on"
    assert new.agent_id != old.agent_id
    assert [(one.kind.value, one.after.agent_id) for one in changes] == [
        ("replaced", old.agent_id),
        ("enrolled", new.agent_id),
    ]
    assert changes[0].successor.agent_id == new.agent_id
    with pytest.raises(IdentityRefused) as caught:
        site.hosts.admit(old.chain_pem)
    assert caught.value.reason is RefusalReason.RETIRED


async def test_a_copied_key_is_noticed_when_the_copy_enrols(site: Any, ask: Ask, tmp_path: Path) -> None:
    first = await site.token(names=("web01",))
    second = await site.token(names=("web02",))
    (tmp_path / "a").mkdir()
    await _enrol(ask(first, tmp_path / "a"))
    identity = json.loads((tmp_path / "a" / "identity.json").read_bytes())
    from watchbill_agent import identity_keys

    key = identity_keys.read_key(IdentityFile(tmp_path / "a").load().key_pem)  # type: ignore[union-attr]
    import base64

    draft = {
        "token_id": parse_token(second).token_id,
        "key_pem": identity["key_pem"],
        "envelope_seed": identity["envelope_seed"],
        "csr": base64.b64encode(identity_keys.signing_request(key)).decode(),
    }
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "enrolling.json").write_text(json.dumps(draft))
    assert (await _refused(ask(second, tmp_path / "b"))).reason is RefusalReason.KEY_TAKEN


# ---------------------------------------------------------------- approval


async def test_with_approval_the_host_waits_until_a_person_compared_fingerprints(
    site: Any, ask: Ask, tmp_path: Path
) -> None:
    token = await site.token(names=("web01",), approve=True)
    waits = await _enroll(ask(token, tmp_path))
    assert isinstance(waits, AwaitsApproval)
    (host,) = site.hosts.hosts()
    assert host.state.value == "pending"
    from watchbill.identity import fingerprint

    assert fingerprint(host.public_key) == waits.fingerprint, "both ends show the same"
    assert isinstance(await _enroll(ask(token, tmp_path)), AwaitsApproval)
    await site.hosts.approve(host.agent_id, actor="ann")
    enrolled = await _enroll(ask(token, tmp_path))
    assert isinstance(enrolled, Enrolled)
    assert enrolled.identity.agent_id == host.agent_id
    assert site.enrolment.tokens.list()[0].enrolment.uses == 1


async def test_a_host_that_was_not_approved_is_told_so(site: Any, ask: Ask, tmp_path: Path) -> None:
    token = await site.token(names=("web01",), approve=True)
    await _enrol(ask(token, tmp_path))
    await site.hosts.revoke(site.hosts.find("web01").agent_id, actor="ann", reason="not ours")
    assert (await _refused(ask(token, tmp_path))).reason is RefusalReason.DENIED


# ---------------------------------------------------------------- kill -9


KILL_AT = """
import json, os, signal, sys
from watchbill.clock import SystemClock
from watchbill_agent.enroll import EnrolRequest
from watchbill_agent.enroll_child import enrol
step = sys.argv[1]
def progress(reached):
    if reached == step:
        os.kill(os.getpid(), signal.SIGKILL)
enrol(EnrolRequest(**json.loads(sys.stdin.read())), SystemClock(), progress)
"""


@pytest.mark.parametrize("step", list(Step))
async def test_an_enrolment_killed_after_any_step_is_mended_by_the_same_command(
    site: Any, ask: Ask, tmp_path: Path, step: Step
) -> None:
    token = await site.token(names=("web01",))
    request = ask(token, tmp_path / "agent")
    killed = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", KILL_AT, step.value],
        input=json.dumps(asdict(request)).encode(),
        capture_output=True,
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    answer = await _enroll(request)
    assert isinstance(answer, Enrolled)
    assert answer.already == (step in {Step.SAVED, Step.DONE})
    assert sorted(path.name for path in (tmp_path / "agent").iterdir()) == ["enrolling.lock", "identity.json"]
    (host,) = site.hosts.hosts()
    assert host.agent_id == answer.identity.agent_id
    assert site.enrolment.tokens.list()[0].enrolment.uses == 1


async def test_a_repeated_answer_is_the_same_also_after_the_collector_was_restarted(
    site: Any, ask: Ask, tmp_path: Path
) -> None:
    token = await site.token(names=("web01",))
    await _enrol(ask(token, tmp_path))
    identity = (tmp_path / "identity.json").read_bytes()
    draft = json.loads(identity)
    first = IdentityFile(tmp_path).load()
    assert first is not None
    await site.stop()
    await site.start()
    # As if killed before the identity was written: the draft is what an earlier run left.
    (tmp_path / "identity.json").unlink()
    import base64

    from watchbill_agent import identity_keys

    (tmp_path / "enrolling.json").write_text(
        json.dumps(
            {
                "token_id": draft["token_id"],
                "key_pem": draft["key_pem"],
                "envelope_seed": draft["envelope_seed"],
                "csr": base64.b64encode(
                    identity_keys.signing_request(identity_keys.read_key(first.key_pem))
                ).decode(),
            }
        )
    )
    await _enrol(ask(token, tmp_path))
    second = IdentityFile(tmp_path).load()
    assert second is not None
    assert (second.agent_id, second.chain_pem) == (first.agent_id, first.chain_pem)


# ---------------------------------------------------------------- whom a host trusts


async def test_a_server_of_another_authority_gets_nothing(make_site: Any, ask: Ask, tmp_path: Path) -> None:
    site, other = await make_site(), await make_site()
    token = parse_token(await site.token(names=("web01",)))
    misled = EnrolmentToken(token.token_id, token.secret, token.ca_sha256, f"127.0.0.1:{other.enrol_port}")
    refused = await _refused(ask(misled.encode(), tmp_path))
    assert refused.reason is RefusalReason.WRONG_CA
    assert other.enrolment.office.outcomes == {}


async def test_an_agents_certificate_cannot_serve(site: Any, ask: Ask, tmp_path: Path) -> None:
    await _enrol(ask(await site.token(names=("web01",)), tmp_path / "thief"))
    stolen = IdentityFile(tmp_path / "thief").load()
    assert stolen is not None
    (tmp_path / "both.pem").write_bytes(stolen.key_pem + stolen.chain_pem + stolen.trust_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "both.pem")
    token = parse_token(await site.token(names=("web02",)))
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        misled = EnrolmentToken(token.token_id, token.secret, token.ca_sha256, f"127.0.0.1:{port}")
        refused = await _refused(ask(misled.encode(), tmp_path / "victim"))
    assert refused.reason is RefusalReason.WRONG_CA


@pytest.mark.parametrize("years", [-1, 1])
async def test_a_clock_a_year_off_is_put_right_before_anything_is_sent(
    site: Any, ask: Ask, tmp_path: Path, years: int
) -> None:
    token = await site.token(names=("web01",))
    wrong = ManualClock(SystemClock().wall_ms() + years * 365 * 86_400_000)
    await asyncio.to_thread(enrol, ask(token, tmp_path), wrong)
    assert site.enrolment.office.outcomes == {("time", "ok"): 1, ("enrol", "ok"): 1}
    identity = IdentityFile(tmp_path).load()
    assert identity is not None
    assert abs(identity.enrolled_ms - SystemClock().wall_ms()) < 60_000


async def test_nobody_there_is_no_refusal(ask: Ask, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    token = EnrolmentToken("aaaaaaaaaaaa", bytes(20), bytes(32), f"127.0.0.1:{port}").encode()
    with pytest.raises(Unreachable):
        await _enrol(ask(token, tmp_path))


@pytest.mark.parametrize(
    "token", ["", "x", "wb1.", "wb1.aaaaaaaaaaaa.", "wb1.aaaaaaaaaaaa.!!", "a" * 1_000_000]
)
async def test_what_is_no_token_is_refused_before_anything_happens(
    ask: Ask, tmp_path: Path, token: str
) -> None:
    with pytest.raises(Unreadable):
        await asyncio.to_thread(enrol, ask(token, tmp_path / "state"), SystemClock())
    assert not (tmp_path / "state").exists()


async def test_a_megabyte_on_the_enrolment_port_hurts_nobody(site: Any, ask: Ask, tmp_path: Path) -> None:
    from watchbill.v1 import link_pb2 as pb

    token = parse_token(await site.token(names=("web01",)))
    import grpc.aio

    from watchbill.tls import channel_options, server_only_credentials
    from watchbill.v1 import link_pb2_grpc

    trust = (site.state / "pki" / "ca.pem").read_bytes()
    channel = grpc.aio.secure_channel(token.endpoint, server_only_credentials(trust), channel_options())
    async with channel:
        stub = link_pb2_grpc.LinkStub(channel)
        for request in (
            pb.EnrollRequest(token_secret="x" * 1_000_000),
            pb.EnrollRequest(token_id="x" * 10_000),
            pb.EnrollRequest(hostname="\x00" * 300),
            pb.EnrollRequest(),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Enroll(request, timeout=10)
            assert caught.value.code() in {
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                grpc.StatusCode.INVALID_ARGUMENT,
            }
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Renew(pb.RenewRequest(agent_id="x" * 20_000, csr=b"x" * 5_000), timeout=10)
    await _enrol(ask(await site.token(names=("web02",)), tmp_path))


# ---------------------------------------------------------------- TLS


@pytest.mark.parametrize("port", ["enrol_port", "stream_port"])
async def test_tls_1_2_is_refused(site: Any, ask: Ask, tmp_path: Path, port: str) -> None:
    await _enrol(ask(await site.token(names=("web01",)), tmp_path))
    identity = IdentityFile(tmp_path).load()
    assert identity is not None
    (tmp_path / "client.pem").write_bytes(identity.chain_pem + identity.key_pem)

    def offer(version: ssl.TLSVersion) -> str | None:
        context = ssl.create_default_context(cadata=identity.trust_pem.decode())
        context.load_cert_chain(tmp_path / "client.pem")
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["h2"])
        address = ("127.0.0.1", getattr(site, port))
        with (
            socket.create_connection(address, 10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
        ):
            return secured.version()

    assert await asyncio.to_thread(offer, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    with pytest.raises(ssl.SSLError):
        await asyncio.to_thread(offer, ssl.TLSVersion.TLSv1_2)


async def test_doctor_names_why_a_handshake_fails(make_site: Any, ask: Ask, tmp_path: Path) -> None:
    site, other = await make_site(), await make_site()
    await _enrol(ask(await site.token(names=("web01",)), tmp_path))
    identity = IdentityFile(tmp_path).load()
    assert identity is not None

    def said(port: int, trust: bytes, chain: bytes = b"", key: bytes = b"", host: str = "127.0.0.1") -> Any:
        return diagnose(Endpoint(host, port), trust, chain, key)

    trust, chain, key = identity.trust_pem, identity.chain_pem, identity.key_pem
    ask_ = asyncio.to_thread
    assert (await ask_(said, site.stream_port, trust, chain, key)).outcome is Handshake.OK
    assert (await ask_(said, site.enrol_port, trust)).outcome is Handshake.OK
    assert (await ask_(said, other.stream_port, trust, chain, key)).outcome is Handshake.WRONG_CA
    assert (await ask_(said, site.stream_port, trust)).outcome is Handshake.CERTIFICATE_REFUSED
    assert (
        await ask_(said, site.stream_port, trust, chain, key, "localhost")
    ).outcome is Handshake.WRONG_NAME
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = free.getsockname()[1]
    assert (await ask_(said, closed, trust, chain, key)).outcome is Handshake.UNREACHABLE
    foreign = (other.state / "pki" / "ca.pem").read_bytes()
    assert (await ask_(said, other.stream_port, foreign, chain, key)).outcome is Handshake.CERTIFICATE_REFUSED


async def test_the_certificate_of_a_running_port_is_replaced_without_a_restart(site: Any) -> None:
    from watchbill_collector.init import open_pki

    endpoint = Endpoint("127.0.0.1", site.enrol_port)
    before = await asyncio.to_thread(served_chain, endpoint)
    certificate = site.server._certificate
    assert not certificate.refresh(["127.0.0.1"], site.clock.wall_ms())
    assert certificate.refresh(["127.0.0.1", "new.example"], site.clock.wall_ms())
    after = await asyncio.to_thread(served_chain, endpoint)
    assert before[0] != after[0]
    assert before[1] == after[1]
    assert certificate.refresh(["127.0.0.1", "new.example"], site.clock.wall_ms() + 61 * 86_400_000)
    assert open_pki(site.state, site.lifetimes).authority.der == after[1]


async def test_names_in_certificates_have_one_spelling() -> None:
    uri = "spiffe://watchbill/main/agent/c83d89b0-e8c7-4a9f-b76b-15dd26a9c425"
    assert str(parse_agent_uri(uri)) == uri
    for wrong in (
        uri.upper(),
        uri + "/",
        uri.replace("-", ""),
        uri.replace("main", "../x"),
        uri.replace("watchbill/", "other/"),
        uri.replace("spiffe", "https"),
        uri + "?x",
        "",
    ):
        with pytest.raises(Unreadable):
            parse_agent_uri(wrong)
