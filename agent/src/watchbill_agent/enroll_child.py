"""The child that enrols: `python -m watchbill_agent.enroll_child`, a JSON request on standard input, a
JSON answer.

Steps, each safe to be killed after; running again with the same token goes on from there:

1. `begun`      the lock is ours; an identity made by this token means we are done. 2. `drafted`    keys
are made and on the disk (`enrolling.json`, 0600), before anybody hears of them. 3. `pinned`     the server
presented the authority that the token names, and a certificate by it for its address. 4. `answered`   the
collector committed the host and its certificate; asked again by the same key it says the same. 5. `saved`
`identity.json` is on the disk, whole. 6. `done`       the draft is gone.

Nothing secret leaves the host before step 3. There is no trust on first use.
"""

import asyncio
import hashlib
import json
import os
import random
import sys
import time as system_time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import nacl.signing

from watchbill.clock import Clock, SystemClock
from watchbill.errors import Refused, Unreachable, Unreadable, WatchbillError
from watchbill.files import FileMissing, Lock, make_directory, read_bounded, sync_directory, write_atomic
from watchbill.identity import (
    AgentIdentity,
    AgentUri,
    Endpoint,
    EnrolmentToken,
    IdentityFile,
    IdentityRefused,
    RefusalReason,
    fingerprint,
    parse_endpoint,
    parse_token,
)
from watchbill.signed_time import check_time, key_message, new_nonce
from watchbill.tls import channel_options, served_chain, server_only_credentials
from watchbill.tls_dates import Validity, is_about_dates
from watchbill.topics import MQTTS
from watchbill_agent import identity_keys
from watchbill_agent.config import SYSTEM_AUTHORITIES
from watchbill_agent.enroll import DRAFT_FILE, EnrolRequest, describe_error, refusal
from watchbill_agent.true_time import TrueTime

if TYPE_CHECKING:
    from watchbill.v1 import link_pb2 as pb

LOCK_FILE: Final = "enrolling.lock"
DRAFT_BYTES_MAX: Final = 64 * 1024
REQUEST_BYTES_MAX: Final = 64 * 1024
SECRET_BYTES_MAX: Final = 4_096
CALL_TIMEOUT_S: Final = 30.0
RETRY_FIRST_S: Final = 0.5
RETRY_MOST_S: Final = 10.0


class Step(StrEnum):
    """Where an enrolment is; see above."""

    BEGUN = "begun"
    DRAFTED = "drafted"
    PINNED = "pinned"
    ANSWERED = "answered"
    SAVED = "saved"
    DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What an enrolment makes before it asks."""

    token_id: str
    key_pem: bytes = field(repr=False)
    envelope_seed: bytes = field(repr=False)
    csr: bytes


Progress = Callable[[Step], None]


def enrol(request: EnrolRequest, clock: Clock, progress: Progress = lambda _: None) -> dict[str, Any]:
    """Do it. The answer as `enroll.enroll` reads it. Raises what `enroll.enroll` says."""
    token = parse_token(request.token)
    state = Path(request.state_directory)
    make_directory(state)
    with Lock(state / LOCK_FILE):
        file = IdentityFile(state)
        identity = file.load()
        if identity is not None:
            return _already(identity, token, state)
        progress(Step.BEGUN)
        draft = _draft(state, token.token_id)
        key = identity_keys.read_key(draft.key_pem)
        shown = fingerprint(identity_keys.public_der(key))
        progress(Step.DRAFTED)
        time = TrueTime(state, clock)
        if token.endpoint.startswith(MQTTS):
            reply = _ask_through_broker(token, draft, request, time, progress)
        else:
            endpoint = parse_endpoint(token.endpoint)
            trust_pem = _pin(token, endpoint, request.proxy, time, _port_tells(endpoint, request.proxy))
            progress(Step.PINNED)
            reply = _ask(token, draft, request, trust_pem, time)
        if reply.pending:
            return {
                "outcome": "pending",
                "instance": reply.instance,
                "fingerprint": shown,
                "retry_after_s": reply.retry_after_ms / 1000,
            }
        progress(Step.ANSWERED)
        file.save(_identity(token, draft, key, reply, time))
        time.save()
        progress(Step.SAVED)
        _drop_draft(state)
        progress(Step.DONE)
        return {"outcome": "enrolled", "fingerprint": shown}


def _already(identity: AgentIdentity, token: EnrolmentToken, state: Path) -> dict[str, Any]:
    if identity.token_id != token.token_id:
        raise Refused(
            f"this host is enrolled already, as {identity.instance}; to enrol it anew: watchbill-agent seal"
        )
    _drop_draft(state)  # Killed between the last two steps.
    key = identity_keys.read_key(identity.key_pem)
    return {"outcome": "already", "fingerprint": fingerprint(identity_keys.public_der(key))}


def _draft(state: Path, token_id: str) -> Draft:
    """The keys of this enrolment: those of the last attempt with the same token, or new ones, on the disk."""
    path = state / DRAFT_FILE
    with suppress(FileMissing):
        try:
            draft = msgspec.json.decode(read_bounded(path, DRAFT_BYTES_MAX), type=Draft)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise Unreadable(f"{path} cannot be read; remove it to begin anew") from exc
        if draft.token_id == token_id:
            return draft
    key = identity_keys.new_key()
    draft = Draft(
        token_id=token_id,
        key_pem=identity_keys.key_pem(key),
        envelope_seed=bytes(nacl.signing.SigningKey.generate()),
        csr=identity_keys.signing_request(key),
    )
    write_atomic(path, msgspec.json.encode(draft))
    return draft


def _drop_draft(state: Path) -> None:
    with suppress(FileNotFoundError):
        (state / DRAFT_FILE).unlink()
        sync_directory(state)


TimeTold = Callable[[bytes, bytes], "tuple[pb.TimeReply, list[Validity]]"]
"""Asks for the time: the authority (PEM) to believe and the question's number -> the answer, not verified."""


def _pin(token: EnrolmentToken, endpoint: Endpoint, proxy: str, time: TrueTime, tells: TimeTold) -> bytes:
    """The authority that the token names, PEM, after the server has presented it and a certificate by it. Where this
    host's clock cannot judge them, the time that the authority vouches for does.
    """
    chain = served_chain(endpoint, proxy)
    authority = identity_keys.pinned_authority(chain[1:], token.ca_sha256)
    trust_pem = identity_keys.certificate_pem(authority)
    try:
        identity_keys.check_server(chain[0], authority, endpoint, time.wall_ms())
    except IdentityRefused as exc:
        if exc.reason is not RefusalReason.CLOCK_SUSPECT:
            raise
        time.suspect()
        nonce, asked_at_ms = new_nonce(), time.boottime_ms()
        try:
            told, _ = tells(trust_pem, nonce)
        except (Unreachable, IdentityRefused):
            raise exc from None  # A collector that tells no time: only setting the clock helps.
        message = key_message(told.site, told.key)
        identity_keys.check_time_key(authority, message, told.key_signature)
        check_time(told.key, told.site, nonce, told.wall_ms, told.signature)
        time.learn(told.wall_ms, asked_at_ms)
        identity_keys.check_server(chain[0], authority, endpoint, time.wall_ms())
    return trust_pem


def _port_tells(endpoint: Endpoint, proxy: str) -> TimeTold:
    """The enrolment port itself is asked."""

    def tells(trust_pem: bytes, nonce: bytes) -> "tuple[pb.TimeReply, list[Validity]]":
        from watchbill_agent.transports.relay import context_of, fetch_time

        return asyncio.run(fetch_time(str(endpoint), context_of(trust_pem), nonce, proxy))

    return tells


def _ask(
    token: EnrolmentToken, draft: Draft, request: EnrolRequest, trust_pem: bytes, time: TrueTime
) -> "pb.EnrollReply":
    asked = _request(token, draft, request)
    patience = Patience(request.patience_s)
    if time.bypass:
        while True:
            try:
                return asyncio.run(_ask_relayed(asked, token, request, trust_pem, time))
            except WatchbillError as exc:
                patience.wait(exc)
    import grpc

    from watchbill.v1 import link_pb2_grpc

    with grpc.secure_channel(
        token.endpoint, server_only_credentials(trust_pem), channel_options(request.proxy)
    ) as channel:
        stub = link_pb2_grpc.LinkStub(channel)
        while True:
            try:
                reply: pb.EnrollReply = stub.Enroll(asked, timeout=CALL_TIMEOUT_S)
            except grpc.RpcError as exc:
                pairs = [(one.key, one.value) for one in exc.trailing_metadata() or ()]
                patience.wait(refusal(exc.code().name, exc.details() or "", pairs, token.endpoint))
            else:
                return reply


async def _ask_relayed(
    asked: "pb.EnrollRequest", token: EnrolmentToken, request: EnrolRequest, trust_pem: bytes, time: TrueTime
) -> "pb.EnrollReply":
    """The same once, over TLS whose dates are judged by the time that was told. Raises IdentityRefused, Unreachable."""
    import grpc.aio

    from watchbill.v1 import link_pb2_grpc
    from watchbill_agent.transports.relay import Relay, context_of, relayed

    relay = Relay(parse_endpoint(token.endpoint), context_of(trust_pem), time.judge, request.proxy)
    async with relayed(relay, token.endpoint) as channel:
        try:
            reply: pb.EnrollReply = await link_pb2_grpc.LinkStub(channel).Enroll(
                asked, timeout=CALL_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as exc:
            if relay.failure is not None:
                raise Unreachable(relay.failure.text) from exc
            pairs = list(exc.trailing_metadata() or ())
            raise refusal(exc.code().name, exc.details() or "", pairs, token.endpoint) from exc
    return reply


def _ask_through_broker(
    token: EnrolmentToken, draft: Draft, request: EnrolRequest, time: TrueTime, progress: "Progress"
) -> "pb.EnrollReply":
    """The same question, sealed, by way of a broker: the one that the collector runs itself, which presents a
    certificate by the pinned authority, or another, of whose authorities agent.toml tells.
    """
    from watchbill.door import parse_door
    from watchbill.mqtt import BrokerRefused
    from watchbill.v1 import link_pb2 as pb
    from watchbill_agent.asking import ask, ask_time, refused
    from watchbill_agent.transports.over_mqtt import MqttOptions

    door = parse_door(token.endpoint)
    ca_pem, password = b"", ""
    if not request.ca:

        def door_tells(trust_pem: bytes, nonce: bytes) -> "tuple[pb.TimeReply, list[Validity]]":
            at = MqttOptions(host=door.url.host, port=door.url.port, ca_pem=trust_pem, proxy=request.proxy)
            return asyncio.run(ask_time(door, nonce, at, time))

        ca_pem = _pin(token, door.url.endpoint, request.proxy, time, door_tells)
    elif request.ca != SYSTEM_AUTHORITIES:
        ca_pem = read_bounded(Path(request.ca), DRAFT_BYTES_MAX)
    if request.password_file:
        password = (
            read_bounded(Path(request.password_file), SECRET_BYTES_MAX).decode("utf-8", "replace").strip()
        )
    progress(Step.PINNED)
    options = MqttOptions(
        host=door.url.host,
        port=door.url.port,
        ca_pem=ca_pem,
        user=request.user,
        password=password,
        proxy=request.proxy,
    )
    message = pb.Ask(enroll=_request(token, draft, request))
    patience = Patience(request.patience_s)
    while True:
        try:
            answer = asyncio.run(ask(door, message, options, time))
        except BrokerRefused as exc:
            if not is_about_dates(exc.__cause__) or time.known:
                raise
            # A broker of others, whose authority the token does not pin; only the collector can have sealed the answer.
            time.suspect()
            nonce, asked_at_ms = new_nonce(), time.boottime_ms()
            told, dates = asyncio.run(ask_time(door, nonce, options, time))
            time.learn(told.wall_ms, asked_at_ms)
            time.judge(dates)
            continue
        except Unreachable as exc:
            patience.wait(exc)
            continue
        if answer.HasField("enrolled"):
            return answer.enrolled
        patience.wait(refused(answer.no))


class Patience:
    """How long to keep trying a busy collector, or one that is not there yet."""

    def __init__(self, seconds: float) -> None:
        self._until_s = system_time.monotonic() + seconds
        self._wait_s = RETRY_FIRST_S

    def wait(self, error: WatchbillError) -> None:
        """Wait before the next attempt; raises `error` when there is none to make."""
        left_s = self._until_s - system_time.monotonic()
        if isinstance(error, IdentityRefused) or left_s <= 0:
            raise error
        # Full jitter: hundreds of hosts may have been told to enrol in the same second.
        system_time.sleep(min(left_s, random.uniform(0, self._wait_s)))  # noqa: S311
        self._wait_s = min(RETRY_MOST_S, self._wait_s * 2)


def _request(token: EnrolmentToken, draft: Draft, request: EnrolRequest) -> "pb.EnrollRequest":
    from watchbill.v1 import link_pb2 as pb

    message = b"watchbill/enroll/v1\0" + token.token_id.encode() + b"\0" + hashlib.sha256(draft.csr).digest()
    signing_key = nacl.signing.SigningKey(draft.envelope_seed)
    return pb.EnrollRequest(
        token_id=token.token_id,
        token_secret=token.secret.hex(),
        csr=draft.csr,
        envelope_key=bytes(signing_key.verify_key),
        envelope_proof=signing_key.sign(message).signature,
        hostname=request.hostname,
        instance=request.instance,
        agent_version=request.agent_version,
    )


def _identity(
    token: EnrolmentToken, draft: Draft, key: identity_keys.Key, reply: "pb.EnrollReply", clock: Clock
) -> AgentIdentity:
    uri = AgentUri(reply.site, reply.agent_id)
    not_before_ms, not_after_ms, chain_pem, trust_pem = identity_keys.check_certificate(
        reply.certificate_chain, reply.trust_bundle, key, uri
    )
    identity_keys.pinned_authority(reply.trust_bundle, token.ca_sha256)
    return AgentIdentity(
        agent_id=reply.agent_id,
        instance=reply.instance,
        site=reply.site,
        labels=dict(reply.labels),
        key_pem=draft.key_pem,
        chain_pem=chain_pem,
        trust_pem=trust_pem,
        not_before_ms=not_before_ms,
        not_after_ms=not_after_ms,
        stream_endpoint=reply.stream_endpoint,
        enrol_endpoint=token.endpoint,
        mqtt_url=reply.mqtt_url if token.endpoint.startswith(MQTTS) else "",
        envelope_seed=draft.envelope_seed,
        collector_envelope_key=reply.collector_envelope_key,
        command_key=reply.command_key,
        token_id=token.token_id,
        enrolled_ms=clock.wall_ms(),
    )


def become_owner(state: Path) -> None:
    """Go on as the user whose state directory it is, when root enrols for the daemon's user.

    The identity then belongs to whom it is for, and root never writes in a directory that somebody else
    controls.
    """
    if os.geteuid() != 0 or not state.is_dir():
        return
    owner = state.stat()
    if owner.st_uid != 0:
        os.setgroups([])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)


def main() -> int:
    """The child: read, enrol, answer."""
    request = EnrolRequest(**json.loads(sys.stdin.buffer.read(REQUEST_BYTES_MAX)))
    try:
        become_owner(Path(request.state_directory))
        answer = enrol(request, SystemClock())
    except WatchbillError as exc:
        answer = describe_error(exc)
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
