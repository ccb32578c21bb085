"""The next certificate, before the present one ends.

At 40 % to 60 % of a certificate's life the agent asks for the next, with the present one, on the streams'
port; the session goes on meanwhile, and the new identity serves the next connection. A host that was away
until its certificate had expired proves its key on the enrolment port instead. Every second renewal makes
a new key.

A child makes the request, this process carries it to the collector, the child checks the answer and
replaces `identity.json`: whoever reads that file finds the old identity or the new one.
"""

import asyncio
import base64
import json
import logging
import random
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from watchbill.clock import Clock
from watchbill.errors import Refused, Unreachable, WatchbillError
from watchbill.identity import AgentIdentity, IdentityFile, IdentityRefused, RefusalReason
from watchbill.topics import MQTTS
from watchbill_agent.enroll import read_answer, refusal
from watchbill_agent.transports import LinkRefused
from watchbill_agent.true_time import TrueTime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import grpc.aio

    from watchbill.v1 import link_pb2 as pb

log = logging.getLogger(__name__)

CALL_TIMEOUT_S: Final = 30.0
CHILD_TIMEOUT_S: Final = 30.0
RETRY_SHARE: Final = 1 / 50
"""After a failure the next attempt comes within this share of the certificate's life: about 3 h of 7 d."""
RETRY_MIN_S: Final = 1.0
RELOOK_S: Final = 60.0
"""How often the time is looked at while nothing is due: a clock may turn out to be wrong, or be set."""
LINE_BYTES_MAX: Final = 1 << 20

Renewed = Callable[[AgentIdentity], None]
Through = Callable[[bytes], Awaitable[bytes]]
"""Carries a request over the session through a broker, and brings the answer. Raises LinkDown, LinkRefused."""


async def renew(
    state_directory: Path,
    clock: Clock,
    proxy: str = "",
    stream_endpoint: str = "",
    through: Through | None = None,
) -> AgentIdentity:
    """Renew now; returns the new identity, which is on the disk. Whether the present certificate has expired is judged
    by `clock`, and when the streams' port does not take it, the other is tried. A `TrueTime` judges the dates of
    servers too, and asks the collector when it turns out that this host's clock is wrong.

    Raises IdentityRefused with the reason, Unreachable, Refused when this host is not enrolled,
    StorageError.
    """
    file = IdentityFile(state_directory)
    identity = file.load()
    if identity is None:
        raise Refused("this host is not enrolled: watchbill-agent enroll --token-file F")
    if through is not None:
        try:
            return await _renew(file, identity, clock, proxy, "", through)
        except Unreachable:
            # Without a session there is only the door, and that only for who is late.
            if clock.wall_ms() < identity.not_after_ms:
                raise
    elif clock.wall_ms() < identity.not_after_ms:
        try:
            return await _renew(file, identity, clock, proxy, stream_endpoint or identity.stream_endpoint)
        except Unreachable:
            # A collector that takes the certificate for expired closes the handshake like one that is not
            # there.
            if clock.wall_ms() < identity.renewal_due_ms():
                raise
    try:
        return await _renew(file, identity, clock, proxy, "")
    except IdentityRefused as exc:
        # A proof has to be of this moment. A clock that TLS took for right may be an hour off.
        if exc.reason is not RefusalReason.CLOCK_SUSPECT or not isinstance(clock, TrueTime) or clock.bypass:
            raise
    await _learn(clock, identity, proxy, stream_endpoint or identity.stream_endpoint)
    return await _renew(file, identity, clock, proxy, "")


async def _learn(time: TrueTime, identity: AgentIdentity, proxy: str, stream_endpoint: str) -> None:
    """Ask for the collector's time at the port that renews. Raises TimeRefused, Unreachable, Refused."""
    time.suspect()
    if identity.enrol_endpoint.startswith(MQTTS):
        from watchbill_agent.asking import learn_at_door
        from watchbill_agent.transports.over_mqtt import MqttOptions

        await learn_at_door(
            time, identity, MqttOptions(host="", port=0, ca_pem=identity.trust_pem, proxy=proxy)
        )
        return
    from watchbill_agent.transports.relay import learn_time

    await learn_time(time, identity, stream_endpoint, proxy)


async def _renew(
    file: IdentityFile,
    identity: AgentIdentity,
    clock: Clock,
    proxy: str,
    stream_endpoint: str,
    through: Through | None = None,
) -> AgentIdentity:
    """With the present certificate at `stream_endpoint`, or over the session `through` which goes; without either,
    proved by its key.
    """
    wall_ms = clock.wall_ms()
    time = clock if isinstance(clock, TrueTime) else None
    begin = {
        "identity": str(file.path),
        "new_key": identity.renewals % 2 == 1,
        "wall_ms": None if stream_endpoint or through is not None else wall_ms,
    }
    async with _child() as ask:
        made = await ask(begin)
        if through is not None:
            reply = await _call_through(identity, made, through)
        elif not stream_endpoint and identity.enrol_endpoint.startswith(MQTTS):
            reply = await _call_at_door(identity, made, wall_ms, proxy, time)
        else:
            reply = await _call(identity, made, wall_ms, proxy, stream_endpoint, time)
        await ask(_answered(reply))
    renewed = file.load()
    assert renewed is not None, "the child has just written it"
    return renewed


async def _call_through(identity: AgentIdentity, made: dict[str, Any], through: Through) -> "pb.RenewReply":
    """Over the session that this host has through a broker; its signature says who asks."""
    from watchbill.v1 import link_pb2 as pb

    request = pb.RenewRequest(agent_id=identity.agent_id, csr=base64.b64decode(made["csr"]))
    try:
        answer = pb.Answer.FromString(await through(request.SerializeToString()))
    except LinkRefused as exc:
        raise Unreachable(str(exc)) from exc
    return _renewed(answer)


async def _call_at_door(
    identity: AgentIdentity, made: dict[str, Any], wall_ms: int, proxy: str, time: TrueTime | None
) -> "pb.RenewReply":
    """Through the broker's enrolment port, proved by the key of the certificate that has expired."""
    from watchbill.door import parse_door
    from watchbill.v1 import link_pb2 as pb
    from watchbill_agent.asking import ask
    from watchbill_agent.transports.over_mqtt import MqttOptions

    door = parse_door(identity.enrol_endpoint)
    request = pb.RenewRequest(
        agent_id=identity.agent_id,
        csr=base64.b64decode(made["csr"]),
        wall_ms=wall_ms,
        proof=base64.b64decode(made["proof"]),
    )
    options = MqttOptions(host=door.url.host, port=door.url.port, ca_pem=identity.trust_pem, proxy=proxy)
    return _renewed(await ask(door, pb.Ask(renew=request), options, time))


def _renewed(answer: "pb.Answer") -> "pb.RenewReply":
    from watchbill_agent.asking import refused

    if not answer.HasField("renewed"):
        raise refused(answer.no)
    return answer.renewed


def _answered(reply: "pb.RenewReply") -> dict[str, Any]:
    """As the child reads it."""
    return {
        "chain": [base64.b64encode(one).decode() for one in reply.certificate_chain],
        "trust": [base64.b64encode(one).decode() for one in reply.trust_bundle],
    }


async def _call(
    identity: AgentIdentity,
    made: dict[str, Any],
    wall_ms: int,
    proxy: str,
    stream_endpoint: str,
    time: TrueTime | None,
) -> "pb.RenewReply":
    import grpc.aio

    from watchbill.v1 import link_pb2 as pb
    from watchbill.v1 import link_pb2_grpc
    from watchbill_agent.transports.relay import channel_to

    request = pb.RenewRequest(agent_id=identity.agent_id, csr=base64.b64decode(made["csr"]))
    endpoint = stream_endpoint or identity.enrol_endpoint
    if not stream_endpoint:
        request.wall_ms = wall_ms
        request.proof = base64.b64decode(made["proof"])
    async with channel_to(endpoint, identity, proxy, time, certificate=bool(stream_endpoint)) as channel:
        try:
            reply: pb.RenewReply = await link_pb2_grpc.LinkStub(channel).Renew(
                request, timeout=CALL_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as exc:
            raise refusal(exc.code().name, exc.details() or "", _pairs(exc), endpoint) from exc
    return reply


def _pairs(error: "grpc.aio.AioRpcError") -> Iterator[tuple[str, str | bytes]]:
    yield from error.trailing_metadata() or ()


# ---------------------------------------------------------------- the child

Ask = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


@asynccontextmanager
async def _child() -> "AsyncIterator[Ask]":
    """A child that answers one line of JSON to each line of JSON; it does not outlive the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-m",
        "watchbill_agent.renew_child",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_BYTES_MAX,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    writer, reader = process.stdin, process.stdout

    async def ask(question: dict[str, Any]) -> dict[str, Any]:
        writer.write(json.dumps(question).encode() + b"\n")
        try:
            await writer.drain()
            line = await asyncio.wait_for(reader.readline(), CHILD_TIMEOUT_S)
        except (ConnectionError, TimeoutError) as exc:
            raise Unreachable(f"the child that renews did not answer: {type(exc).__name__}") from exc
        return read_answer(line, process.returncode or 0)

    try:
        yield ask
    finally:
        writer.close()
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


# ---------------------------------------------------------------- the loop


class Renewer:
    """Keeps an agent's certificate fresh. `now_ms` is the time by the collector's clock as well as the
    agent knows it; `renewed` is told of each new identity, on the event loop.
    """

    def __init__(
        self,
        state_directory: Path,
        clock: Clock,
        renewed: Renewed,
        *,
        proxy: str = "",
        stream_endpoint: str = "",
        now_ms: Callable[[], int] | None = None,
        through: Through | None = None,
    ) -> None:
        self._through = through
        self._state_directory = state_directory
        self._clock = clock
        self._renewed = renewed
        self._proxy = proxy
        self._stream_endpoint = stream_endpoint
        self._now_ms = now_ms or clock.wall_ms
        self.failures = 0
        """Attempts that failed since the last success."""
        self.last_error: WatchbillError | None = None

    async def run(self, identity: AgentIdentity) -> None:
        """Renew for ever; ends when the collector says that this host may not any more. Cancel to stop."""
        while True:
            await self._until_due(identity)
            try:
                identity = await renew(
                    self._state_directory, self._clock, self._proxy, self._stream_endpoint, self._through
                )
            except WatchbillError as exc:
                self._failed(exc)
                if isinstance(exc, IdentityRefused) and exc.reason in _FINAL:
                    return
            else:
                self._succeeded(identity)

    async def _until_due(self, identity: AgentIdentity) -> None:
        wait_s = self.wait_s(identity)
        while wait_s > RELOOK_S:
            await asyncio.sleep(RELOOK_S)
            wait_s = wait_s - RELOOK_S if self.failures else self.wait_s(identity)
        await asyncio.sleep(wait_s)

    def wait_s(self, identity: AgentIdentity) -> float:
        """Seconds until the next attempt is due: the certificate's own moment, or after a failure sooner."""
        due_s = max(0.0, (identity.renewal_due_ms() - self._now_ms()) / 1000)
        if not self.failures:
            return due_s
        life_s = (identity.not_after_ms - identity.not_before_ms) / 1000
        return max(due_s, RETRY_MIN_S) + random.uniform(0, life_s * RETRY_SHARE)  # noqa: S311

    def _failed(self, error: WatchbillError) -> None:
        self.failures += 1
        self.last_error = error
        if self.failures == 1:
            log.warning("certificate not renewed: %s", error)

    def _succeeded(self, identity: AgentIdentity) -> None:
        if self.failures:
            log.warning("certificate renewed after %d failures", self.failures)
        self.failures = 0
        self.last_error = None
        self._renewed(identity)


_FINAL: Final = {
    RefusalReason.REVOKED,
    RefusalReason.RETIRED,
    RefusalReason.TOO_LONG_EXPIRED,
}
