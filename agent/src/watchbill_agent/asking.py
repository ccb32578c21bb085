"""Asks the collector through a broker, as a host that has no (valid) certificate: see `watchbill.door`."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from watchbill.door import MqttDoor, Question, parse_door
from watchbill.errors import Refused, Unreachable, Unreadable
from watchbill.identity import AgentIdentity, IdentityRefused, RefusalReason
from watchbill.mqtt import Broker, Connection
from watchbill.signed_time import new_nonce
from watchbill.tls_dates import Validity
from watchbill.topics import MQTTS
from watchbill_agent.transports.over_mqtt import MqttOptions, tls_context
from watchbill_agent.true_time import TrueTime

if TYPE_CHECKING:
    from watchbill.v1 import link_pb2 as pb

ANSWER_TIMEOUT_S = 30.0


async def ask(
    door: MqttDoor, message: "pb.Ask", options: MqttOptions, time: TrueTime | None = None
) -> "pb.Answer":
    """One question, one answer; dates are judged by `time` where the system's clock failed at them. Raises BrokerDown,
    BrokerRefused, Unreachable when nobody answers, TimeRefused.
    """
    judge = time.judge_early if time is not None and time.bypass else None
    return await _ask(door, message, options, judge)


async def learn_at_door(time: TrueTime, identity: AgentIdentity, options: MqttOptions) -> None:
    """Ask the broker's enrolment port for the collector's time. Raises TimeRefused, Unreachable, BrokerRefused; Refused
    where this host was not enrolled through a broker.
    """
    from watchbill.v1 import link_pb2 as pb

    if not identity.enrol_endpoint.startswith(MQTTS):
        raise Refused("this host was enrolled without a broker; its enrolment port is not asked over MQTT")
    door = parse_door(identity.enrol_endpoint)
    ca_pem = identity.trust_pem if options.ca_pem is None else options.ca_pem
    at_door = replace(options, host=door.url.host, port=door.url.port, ca_pem=ca_pem)
    nonce, asked_at_ms = new_nonce(), time.boottime_ms()
    answer = await _ask(door, pb.Ask(time=pb.TimeRequest(nonce=nonce)), at_door, time.judge_early)
    if not answer.HasField("time"):
        raise refused(answer.no)
    time.told(identity, nonce, answer.time.wall_ms, answer.time.signature, asked_at_ms)


async def ask_time(
    door: MqttDoor, nonce: bytes, options: MqttOptions, time: TrueTime
) -> "tuple[pb.TimeReply, list[Validity]]":
    """The collector's time, for a host that is not enrolled yet: the answer is sealed by the key that its token names.
    Also the dates that the broker presented. Raises as `ask`.
    """
    from watchbill.v1 import link_pb2 as pb

    dates: list[Validity] = []

    def noted(chain: list[Validity]) -> None:
        time.judge_early(chain)
        dates.extend(chain)

    answer = await _ask(door, pb.Ask(time=pb.TimeRequest(nonce=nonce)), options, noted)
    if not answer.HasField("time"):
        raise refused(answer.no)
    return answer.time, dates


async def _ask(
    door: MqttDoor,
    message: "pb.Ask",
    options: MqttOptions,
    noted: "Callable[[list[Validity]], None] | None",
) -> "pb.Answer":
    from google.protobuf.message import DecodeError

    from watchbill.v1 import link_pb2 as pb

    question = Question(door)
    answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def received(_: str, payload: bytes, retained: bool) -> None:
        try:
            answer = question.open(payload)
        except Unreadable:
            return  # Not the collector's: whoever else may publish there is not heard.
        if not retained and not answered.done():
            answered.set_result(answer)

    broker = Broker(
        host=options.host,
        port=options.port,
        tls=lambda: tls_context(None, options, noted),
        user=options.user,
        password=options.password,
        proxy=options.proxy,
    )
    connection = Connection(broker, question.request, received)
    ends: tuple[asyncio.Future[Any], ...] = (answered, connection.lost)
    try:
        await connection.open()
        await connection.subscribe([door.topics.answer(question.request)])
        connection.publish(door.topics.ask(question.request), question.seal(message.SerializeToString()))
        await asyncio.wait(ends, timeout=ANSWER_TIMEOUT_S, return_when="FIRST_COMPLETED")
        if answered.done():
            return pb.Answer.FromString(answered.result())
        if connection.lost.done():
            raise connection.lost.result()
        raise Unreachable(f"at the broker {door.url.endpoint} no collector of site {door.site} answered")
    except DecodeError as exc:
        raise Unreachable("the collector's answer cannot be read; is it newer than this agent?") from exc
    finally:
        await connection.close()


def refused(no: "pb.No") -> IdentityRefused | Unreachable:
    """A refusal, as over gRPC."""
    try:
        reason = RefusalReason(no.reason)
    except ValueError:
        return Unreachable(no.message[:300])
    return IdentityRefused(reason, no.message[:300], no.retry_after_ms / 1000 if no.retry_after_ms else None)
