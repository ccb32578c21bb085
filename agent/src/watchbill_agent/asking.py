"""Asks the collector through a broker, as a host that has no (valid) certificate: see `watchbill.door`."""

import asyncio
from typing import TYPE_CHECKING, Any

from watchbill.door import MqttDoor, Question
from watchbill.errors import Unreachable, Unreadable
from watchbill.identity import IdentityRefused, RefusalReason
from watchbill.mqtt import Broker, Connection
from watchbill_agent.transports.over_mqtt import MqttOptions, tls_context

if TYPE_CHECKING:
    from watchbill.v1 import link_pb2 as pb

ANSWER_TIMEOUT_S = 30.0


async def ask(door: MqttDoor, message: "pb.Ask", options: MqttOptions) -> "pb.Answer":
    """One question, one answer. Raises BrokerDown, BrokerRefused, Unreachable when nobody answers."""
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
        tls=lambda: tls_context(None, options),
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
