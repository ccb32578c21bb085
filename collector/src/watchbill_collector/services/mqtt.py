"""MQTT as the collector runs it: the broker (its own child, or yours), the port, renewals, and hosts that ask.

Whoever can reach the enrolment port of the broker may ask, so asking is bounded: questions a second, questions being
decided, bytes of one. Only a question that holds a token's secret changes anything; wrong ones count against their
token, and against one limit for all that come this way, since a broker does not say from where.
"""

import asyncio
import logging
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from watchbill.clock import Clock
from watchbill.daemon import Daemon
from watchbill.door import Doorkeeper, MqttDoor
from watchbill.errors import Busy, StorageError, Unreadable
from watchbill.files import read_bounded
from watchbill.identity import IdentityRefused, RefusalReason
from watchbill.logs import fields
from watchbill.mqtt import Broker, BrokerRefused
from watchbill.topics import MqttUrl, Topics, parse_mqtt_url
from watchbill.v1 import link_pb2 as pb
from watchbill_collector.config import EMBEDDED, Mqtt
from watchbill_collector.enrolment import Enrolment
from watchbill_collector.enrolment.handlers import EnrolmentService, refusal, renewed
from watchbill_collector.enrolment.renewals import Renewal
from watchbill_collector.hosts import Admission, ChangeKind, HostChange, HostRegistry, HostState
from watchbill_collector.ingest.agents import Bucket
from watchbill_collector.ingest.ingest import Ingest
from watchbill_collector.ingest.mosquitto import BrokerPlan, EmbeddedBroker
from watchbill_collector.ingest.mqtt_server import MqttPort

if TYPE_CHECKING:
    from watchbill_collector.init import Pki

log = logging.getLogger("watchbill.mqtt")

BROKER_DIRECTORY: Final = "broker"
SECRET_BYTES_MAX: Final = 4_096
AUTHORITY_BYTES_MAX: Final = 1 << 20
ADDRESS: Final = "mqtt"
"""What stands in books where otherwise a host's address does."""
QUESTIONS_PER_SECOND: Final = 20.0
QUESTIONS_BURST: Final = 200.0
DECIDING_MAX: Final = 32
RULES_AFTER_S: Final = 0.5
"""How long after a change of hosts the broker's rules follow: a host that is shut out hears why first."""


@dataclass(slots=True)
class DoorFacts:
    """What became of questions."""

    asked: int = 0
    unreadable: int = 0
    over_rate: int = 0


@dataclass(frozen=True, slots=True)
class Parts:
    """What MQTT needs of the rest of the collector. `host_name` is this machine's, as agents reach it."""

    config: Mqtt
    site: str
    host_name: str
    state: Path
    agents_max: int
    pki: "Pki"
    ingest: Ingest
    registry: HostRegistry
    enrolment: Enrolment
    stream_endpoint: str
    enrol_endpoint: str
    clock: Clock = field(repr=False)


class MqttService:
    """Broker, port and door. `start`, then `stop` after the ingest was closed."""

    def __init__(self, parts: Parts) -> None:
        """Raises Permanent when the broker cannot be made."""
        config, self._parts = parts.config, parts
        seed = bytes(parts.pki.keys.envelope)
        self.topics = Topics(parts.site, config.topic_prefix)
        self.embedded: EmbeddedBroker | None = None
        if config.broker == EMBEDDED:
            self.embedded = EmbeddedBroker(self._plan(parts))
        self._door = Doorkeeper(seed)
        self._questions = Bucket(QUESTIONS_PER_SECOND, QUESTIONS_BURST, parts.clock.monotonic_s())
        self._deciding: set[asyncio.Task[None]] = set()
        self._rules_due = asyncio.Event()
        self.facts = DoorFacts()
        self._service = EnrolmentService(
            parts.enrolment.desk,
            parts.enrolment.renewals,
            parts.site,
            parts.stream_endpoint,
            enrol_endpoint=parts.enrol_endpoint,
            mqtt_url=str(self._url(config.listen.port)),
        )
        parts.enrolment.tokens.mqtt_door = MqttDoor(
            self._url(config.enroll_listen.port), parts.site, self._door.public_key
        ).encode()
        self.port = MqttPort(
            parts.ingest,
            self.topics,
            seed,
            self._key_of,
            self._broker,
            parts.clock,
            renewal=self._renew,
            asked=self._asked,
        )

    def _plan(self, parts: Parts) -> BrokerPlan:
        config = parts.config
        return BrokerPlan(
            parts.state / BROKER_DIRECTORY,
            (config.listen.host, config.listen.port),
            (config.enroll_listen.host, config.enroll_listen.port),
            self.topics,
            parts.pki.authority_file,
            parts.pki.server.path,
            parts.agents_max,
        )

    def _url(self, embedded_port: int) -> MqttUrl:
        """Where hosts find the broker."""
        config = self._parts.config
        if config.broker == EMBEDDED and not config.agents_url:
            return MqttUrl(self._parts.host_name, embedded_port, config.topic_prefix)
        found = parse_mqtt_url(config.agents_url or config.broker)
        assert found is not None, "judged with the configuration"
        return MqttUrl(found.host, found.port, config.topic_prefix)

    def _broker(self) -> Broker:
        """How the collector reaches it. In a thread; secrets are read anew for every connection."""
        if self.embedded is not None:
            return self.embedded.address
        config = self._parts.config
        url = parse_mqtt_url(config.broker)
        assert url is not None, "judged with the configuration"
        password = ""
        try:
            if config.password_file is not None:
                password = read_bounded(config.password_file, SECRET_BYTES_MAX).decode().strip()
            context = _tls_context(config)
        except (OSError, Unreadable, ssl.SSLError, ValueError) as exc:
            raise BrokerRefused("configuration", f"what [mqtt] names cannot be used: {exc}") from exc
        return Broker(host=url.host, port=url.port, tls=lambda: context, user=config.user, password=password)

    def _key_of(self, agent_id: str) -> bytes | None:
        """A host that is shut out is heard as far as its Hello, to be told why."""
        host = self._parts.registry.get(agent_id)
        if host is None or host.state is HostState.FORGOTTEN or len(host.envelope_key) != 32:
            return None
        return host.envelope_key

    # ------------------------------------------------------------ life

    async def start(self, house: Daemon) -> None:
        """Raises Permanent when the embedded broker does not come up."""
        if self.embedded is not None:
            await self._write_rules(self.embedded)
            house.spawn("broker", self.embedded.run())
            await self.embedded.ready()
            house.spawn("broker's rules", self._keep_rules(self.embedded))
        house.spawn("mqtt", self.port.run())

    async def stop(self) -> None:
        """Close the connection, end the broker."""
        for task in self._deciding:
            task.cancel()
        await self.port.stop()
        if self.embedded is not None:
            await self.embedded.stop()

    def host_changed(self, change: HostChange) -> None:
        """Rules follow; a forgotten host's voice is not known any more. In the event loop."""
        if change.kind is ChangeKind.FORGOTTEN:
            self.port.forget(change.after.agent_id)
        self._rules_due.set()

    def certificate_renewed(self) -> None:
        """The broker reads the server's certificate anew."""
        if self.embedded is not None:
            self.embedded.reload()

    async def _keep_rules(self, broker: EmbeddedBroker) -> None:
        while True:
            await self._rules_due.wait()
            await asyncio.sleep(RULES_AFTER_S)
            self._rules_due.clear()
            await self._write_rules(broker)

    async def _write_rules(self, broker: EmbeddedBroker) -> None:
        try:
            await asyncio.to_thread(broker.shut_out, self._parts.registry.shut_out())
        except StorageError as exc:
            log.error("the broker's rules could not be written", extra=fields(why=exc))

    # ------------------------------------------------------------ renewal

    async def _renew(self, agent_id: str, payload: bytes) -> bytes:
        """The next certificate of an agent that asks over its session."""
        try:
            asked = pb.RenewRequest.FromString(payload)
            return pb.Answer(renewed=await self._next(agent_id, asked)).SerializeToString()
        except DecodeError:
            refused = IdentityRefused(RefusalReason.MALFORMED, "no request for a certificate")
            return _no(refused)
        except (IdentityRefused, Busy, StorageError) as exc:
            return _no(exc)

    async def _next(self, agent_id: str, asked: pb.RenewRequest) -> pb.RenewReply:
        parts = self._parts
        host = parts.registry.get(agent_id)
        until_ms = parts.registry.valid_until_ms(agent_id) or 0
        if host is None:
            raise IdentityRefused(
                RefusalReason.UNKNOWN_AGENT, "no host was enrolled here under that identity"
            )
        if parts.clock.wall_ms() >= until_ms:
            parts.enrolment.renewals.check_grace(host, until_ms)
        answer = await parts.enrolment.renewals.renew(
            Admission(host, "", until_ms), Renewal(asked.agent_id, asked.csr), ADDRESS
        )
        return renewed(answer, parts.enrolment.desk.trust_bundle)

    # ------------------------------------------------------------ hosts that ask

    def _asked(self, request: str, data: bytes) -> None:
        self.facts.asked += 1
        now_s = self._parts.clock.monotonic_s()
        if self._questions.level(now_s) < 1 or len(self._deciding) >= DECIDING_MAX:
            self.facts.over_rate += 1
            return
        self._questions.take(1, now_s)
        task = asyncio.create_task(self._decide(request, data), name="enrolment")
        self._deciding.add(task)
        task.add_done_callback(self._deciding.discard)

    async def _decide(self, request: str, data: bytes) -> None:
        try:
            question = self._door.open(request, data)
            ask = pb.Ask.FromString(question.message)
        except (Unreadable, DecodeError):
            # Whoever sealed it to another key could not read an answer either.
            self.facts.unreadable += 1
            return
        self.port.publish(self.topics.answer(request), question.answer(await self._answer(ask)))

    async def _answer(self, ask: pb.Ask) -> bytes:
        try:
            if ask.HasField("enroll"):
                return pb.Answer(enrolled=await self._service.enroll(ask.enroll, ADDRESS)).SerializeToString()
            if ask.HasField("renew"):
                return pb.Answer(renewed=await self._service.recover(ask.renew, ADDRESS)).SerializeToString()
            if ask.HasField("time"):
                return pb.Answer(time=self._service.tell_time(ask.time)).SerializeToString()
            raise IdentityRefused(RefusalReason.MALFORMED, "a question that is not known here")
        except (IdentityRefused, Busy, StorageError) as exc:
            return _no(exc)

    # ------------------------------------------------------------ metrics

    def collect(self) -> Iterable[Metric]:
        """For a prometheus_client registry."""
        port = self.port.facts
        yield GaugeMetricFamily(
            "watchbill_collector_mqtt_connected",
            "Whether there is a connection to the broker.",
            port.connected,
        )
        for name, text, value in (
            ("connections", "Connections to the broker.", port.connections),
            ("received", "Messages that the broker delivered.", port.received),
            ("sent", "Messages published.", port.sent),
            ("not_sent", "Messages that could not be published, or that reached nobody.", port.not_sent),
            ("links_lost", "Links that began anew because the broker lost a message.", port.lost),
            ("questions", "Questions of hosts that are no agents yet.", self.facts.asked),
            (
                "questions_unreadable",
                "Questions that were not sealed to this collector.",
                self.facts.unreadable,
            ),
            ("questions_over_rate", "Questions that were dropped: too many at once.", self.facts.over_rate),
            ("broker_starts", "Starts of the embedded broker.", self.embedded.starts if self.embedded else 0),
        ):
            family = CounterMetricFamily(f"watchbill_collector_mqtt_{name}", text)
            family.add_metric((), float(value))
            yield family


def _tls_context(config: Mqtt) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if config.ca:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(
            cadata=read_bounded(Path(config.ca), AUTHORITY_BYTES_MAX).decode("ascii")
        )
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if config.certificate is not None and config.key is not None:
        context.load_cert_chain(config.certificate, config.key)
    return context


def _no(error: IdentityRefused | Busy | StorageError) -> bytes:
    reason, message, retry_after_s = refusal(error)
    no = pb.No(reason=reason, message=message, retry_after_ms=round((retry_after_s or 0) * 1000))
    return pb.Answer(no=no).SerializeToString()
