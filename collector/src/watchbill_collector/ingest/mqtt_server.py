"""The collector at an MQTT broker: one client for all agents of the site.

It subscribes to what agents publish to, hands every message to its agent's `Mailbox`, which verifies it and feeds the
same sessions that gRPC feeds, and publishes signed answers on the agents' own `down` topics. The broker is not
trusted with anything but delivering: whose topic it says a message came on decides only whose key has to fit.

When the connection breaks, all links break with it; the agents notice by a refused or unanswered message and begin
anew. Connecting again has the usual backoff.
"""

import asyncio
import hashlib
import hmac
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from watchbill.backoff import Backoff
from watchbill.clock import Clock
from watchbill.envelope import Envelope, Kind, Opener, Sealer, collector_uri
from watchbill.errors import Unreadable
from watchbill.identity import AgentUri
from watchbill.logs import fields
from watchbill.mqtt import Broker, BrokerDown, BrokerRefused, Connection, Failure
from watchbill.topics import Lane, Topics
from watchbill_collector.ingest.gather import Gather
from watchbill_collector.ingest.ingest import Ingest
from watchbill_collector.ingest.mqtt_link import Mailbox, MqttLink
from watchbill_collector.ingest.session import Session

log = logging.getLogger("watchbill.mqtt")

ACK_INTERVAL_MS: Final = 30_000
"""Over MQTT an acknowledgement is also the only sign that the way back works: an agent that hears none for three of
these begins anew. A collector that is away is noticed at once, by the broker's answer; an acknowledgement of every
message cost 0.2 ms each."""
GATHER_S: Final = 0.1
"""Messages are judged together for so long, five times what gRPC's are: a broker hands them on one by one, so that
those of one point of the send grid come further apart. They are in the head in time: agents send what rules read
half a second before the rules look."""
CHALLENGE_S: Final = 60
"""How long a challenge is good: this long, at most twice."""
WINDOW: Final = 100
"""Publishes under way to the broker, all agents together, if it takes so many."""
BACKOFF_CAP_S: Final = 30.0
UNANSWERED_MAX: Final = 256
"""Renewals that are being decided at one time; the next is not answered, and asked again."""

Renewal = Callable[[str, bytes], Awaitable[bytes]]
"""Answers an agent's request for its next certificate: its id and the request, both verified to be its own."""
Asked = Callable[[str, bytes], None]
"""Takes what a host asks that is no agent yet: the request's name and the sealed question."""


@dataclass(slots=True)
class MqttFacts:
    """How the connection to the broker is, and what was counted. `reason` and `detail` say why there is none."""

    connected: bool = False
    reason: str = "starting"
    detail: str = ""
    connections: int = 0
    received: int = 0
    sent: int = 0
    not_sent: int = 0
    lost: int = 0


class Challenges:
    """Sessions to offer, made from a secret of this process: nothing is kept for those who only knock."""

    def __init__(self) -> None:
        self._secret = os.urandom(32)

    @staticmethod
    def slot(now_s: float) -> int:
        """The minute it is."""
        return int(now_s // CHALLENGE_S)

    def make(self, agent_id: str, link: int, now_s: float) -> int:
        """The session for a link that knocks now."""
        return self._of(agent_id, link, self.slot(now_s))

    def holds(self, agent_id: str, link: int, number: int, now_s: float) -> bool:
        """Whether this was offered to this link not long ago."""
        slot = self.slot(now_s)
        return number in (self._of(agent_id, link, slot), self._of(agent_id, link, slot - 1))

    def _of(self, agent_id: str, link: int, slot: int) -> int:
        said = f"{agent_id} {link} {slot}".encode()
        return int.from_bytes(hmac.digest(self._secret, said, hashlib.sha256)[:8], "big") or 1


class MqttPort:
    """The collector's side of MQTT. `run` it as a task, `stop` it after the ingest was closed.

    `key_of` answers the key of an agent that may speak, None for everybody else.
    """

    def __init__(
        self,
        ingest: Ingest,
        topics: Topics,
        seed: bytes,
        key_of: Callable[[str], bytes | None],
        broker: Callable[[], Broker],
        clock: Clock,
        *,
        renewal: Renewal | None = None,
        asked: Asked | None = None,
    ) -> None:
        self.ingest = ingest
        self.topics = topics
        self.challenges = Challenges()
        self.facts = MqttFacts()
        self._sealer = Sealer(seed)
        self._uri = collector_uri(topics.site)
        self._key_of = key_of
        self._broker = broker
        self._clock = clock
        self._renewal = renewal
        self._asked = asked
        self._gather = Gather(clock.monotonic_s, ingest.commits.begin, GATHER_S)
        self._mailboxes: dict[str, Mailbox] = {}
        self._connection: Connection | None = None
        self._stopping = False
        self._backoff = Backoff(cap_s=BACKOFF_CAP_S)
        self._tasks: set[asyncio.Task[None]] = set()
        self.handed_over = ingest.commits.begin
        self.now_s = clock.monotonic_s
        # Distinct for every site and prefix: a broker lets in one client of a name.
        self.client_id = f"watchbill-{topics.site}-{hashlib.sha256(topics.root.encode()).hexdigest()[:8]}"

    # ------------------------------------------------------------ life

    async def run(self) -> None:
        """Stay connected until `stop`."""
        while True:
            began_s = self.now_s()
            try:
                await self._serve()
            except (BrokerDown, BrokerRefused) as exc:
                if self._stopping:
                    return
                self._away(exc)
            lasted_s = self.now_s() - began_s
            await asyncio.sleep(self._backoff.ended_s(lasted_s))

    async def _serve(self) -> None:
        """One connection, to its end. Raises what ended it."""
        broker = await asyncio.to_thread(self._broker)
        connection = Connection(broker, self.client_id, self._receive, window=WINDOW, denied=self._denied)
        try:
            await connection.open()
            filters = self.topics.filters()
            await connection.subscribe([*filters, self.topics.ask_filter()] if self._asked else filters)
            self._connection = connection
            self.facts.connected, self.facts.reason, self.facts.detail = True, "", ""
            self.facts.connections += 1
            log.info("connected to the broker", extra=fields(broker=str(broker), topics=self.topics.root))
            raise await asyncio.shield(connection.lost)
        finally:
            self._connection = None
            self.facts.connected = False
            self._cut_all()
            await connection.close()

    def _away(self, why: Failure) -> None:
        if self.facts.reason != why.reason:
            log.warning("no connection to the broker (%s): %s", why.reason, why)
        self.facts.reason, self.facts.detail = why.reason, str(why)

    def _cut_all(self) -> None:
        self._gather.hand_over()
        for mailbox in list(self._mailboxes.values()):
            for link in list(mailbox.links.values()):
                mailbox.cut(link)

    async def stop(self) -> None:
        """Send what waits and close. The ingest has said goodbye to its sessions."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        if self._connection is not None:
            await self._connection.close()

    def forget(self, agent_id: str) -> None:
        """An agent may not speak any more; its session was ended."""
        self._mailboxes.pop(agent_id, None)

    # ------------------------------------------------------------ what comes

    def _receive(self, topic: str, payload: bytes, retained: bool) -> None:
        self.facts.received += 1
        try:
            agent_id, lane = self.topics.read(topic)
        except Unreadable:
            self._other(topic, payload, retained)
            return
        if retained:
            # Nothing of ours is ever retained: somebody wants it to be heard again and again.
            self.refused(agent_id, "mqtt_retained")
            return
        mailbox = self._mailboxes.get(agent_id) or self._mailbox(agent_id)
        if mailbox is None:
            self.ingest.counters.refused(agent_id, "unknown_agent")
            return
        self._gather.add(mailbox.inlets[lane], payload)
        if lane is Lane.HELLO:
            self._gather.hand_over()

    def _other(self, topic: str, payload: bytes, retained: bool) -> None:
        request = self.topics.read_ask(topic)
        if request is None or retained or self._asked is None:
            self.ingest.counters.refused("", "mqtt_topic" if request is None else "mqtt_retained")
        else:
            self._asked(request, payload)

    def _mailbox(self, agent_id: str) -> Mailbox | None:
        key = self._key_of(agent_id)
        if key is None:
            return None
        sender = str(AgentUri(self.topics.site, agent_id))
        mailbox = Mailbox(self, agent_id, Opener(key, sender=sender, audience=self._uri), self.now_s())
        self._mailboxes[agent_id] = mailbox
        return mailbox

    def connect(self, agent_id: str, link: MqttLink) -> Session | None:
        """A session for a link that was proved."""
        return self.ingest.connect(agent_id, link, transport="mqtt", ack_interval_ms=ACK_INTERVAL_MS)

    def refused(self, agent_id: str, reason: str) -> None:
        """Count what came on an agent's topics and was refused, under its name where it is known."""
        self.ingest.counters.refused(self.ingest.name_of(agent_id), reason)

    # ------------------------------------------------------------ what goes

    def say(
        self,
        agent_id: str,
        kind: Kind,
        link: int,
        session: int,
        counter: int,
        payload: bytes = b"",
        within_s: int = 0,
    ) -> None:
        """Send an envelope to an agent. Without a connection it is lost, as the link is."""
        connection = self._connection
        if connection is None:
            self.facts.not_sent += 1
            return
        audience = str(AgentUri(self.topics.site, agent_id))
        envelope = Envelope(kind, self._uri, audience, link, session, counter, self._clock.wall_ms(), payload)
        try:
            connection.publish(self.topics.of(agent_id, Lane.DOWN), self._sealer.seal(envelope), within_s)
        except (BrokerDown, BrokerRefused):
            self.facts.not_sent += 1
        else:
            self.facts.sent += 1

    def publish(self, topic: str, payload: bytes) -> None:
        """Send what is no envelope: an answer to a host that is no agent yet."""
        if self._connection is not None:
            try:
                self._connection.publish(topic, payload)
            except (BrokerDown, BrokerRefused):
                self.facts.not_sent += 1

    def _denied(self, topic: str, why: Failure) -> None:
        """The broker did not deliver to an agent: it is gone, or may not hear us. Its links are over."""
        self.facts.not_sent += 1
        agent_id = topic.removesuffix(f"/{Lane.DOWN.value}").rpartition("/")[2]
        mailbox = self._mailboxes.get(agent_id)
        if mailbox is None:
            return
        if why.reason == "broker-denied":
            self.refused(agent_id, "mqtt_denied")
        for link in list(mailbox.links.values()):
            mailbox.cut(link)

    # ------------------------------------------------------------ renewal

    def renew(self, agent_id: str, link: MqttLink, request: bytes) -> None:
        """An agent asks for its next certificate; answered when it is decided."""
        if self._renewal is None or len(self._tasks) >= UNANSWERED_MAX:
            self.refused(agent_id, "renewal_not_taken")
            return
        task = asyncio.create_task(self._renew(self._renewal, agent_id, link, request), name="renewal")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _renew(self, renewal: Renewal, agent_id: str, link: MqttLink, request: bytes) -> None:
        link.answer(await renewal(agent_id, request))
