"""The way to the collector through an MQTT broker. Nothing of grpc is imported with it.

Every message goes in an envelope that this host signs, and only what the collector signed for this host and this link
is taken. What the broker confirms means nothing but that it has the message: records are freed by the collector's
acknowledgement alone. A refused publish or subscription ends the link with the broker's words.

Opening a link: connect, subscribe to our own `down`, knock, and wait for the collector's challenge.
"""

import asyncio
import contextlib
import os
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from watchbill.clock import Clock
from watchbill.envelope import (
    PAYLOAD_BYTES_MAX,
    PUBLIC_KEY_BYTES,
    Counter,
    Envelope,
    EnvelopeRefused,
    Kind,
    Opener,
    Reason,
    Sealer,
    collector_uri,
)
from watchbill.errors import Unreadable, WatchbillError
from watchbill.identity import AgentIdentity
from watchbill.mqtt import Broker, BrokerDown, BrokerRefused, Connection, Will
from watchbill.signed_time import ANSWER_S_MAX, TimeRefused
from watchbill.tls import Handshake, load_chain
from watchbill.tls_dates import Validity, is_about_dates, leave_dates
from watchbill.topics import PREFIX_DEFAULT, Lane, Topics, lane_of
from watchbill_agent.budget import CONNECT_BYTES, PUBLISH_BYTES, RECEIVED_BYTES, Budget
from watchbill_agent.transports import LinkDown, LinkRefused
from watchbill_agent.true_time import TrueTime

CLOCK_SUSPECT: Final = Handshake.CLOCK_SUSPECT.value
SERVER_EXPIRED: Final = Handshake.SERVER_EXPIRED.value
CHALLENGE_TIMEOUT_S: Final = ANSWER_S_MAX
STALL_S: Final = 60.0
"""A broker that confirms nothing for this long is given up."""
INBOX_MESSAGES_MAX: Final = 256
"""Of the collector, not yet read; then the link ends: nobody reads it any more."""
RENEWAL_TIMEOUT_S: Final = 30.0
REASONS_MAX: Final = 32

Lost = BrokerDown | BrokerRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttOptions:
    """How to reach the broker. Without `user` this host's certificate says who it is; `ca_pem` are the authorities to
    believe: None, those that enrolment gave; empty, those of this system. `compress` trades time for bytes.
    """

    host: str
    port: int
    prefix: str = PREFIX_DEFAULT
    ca_pem: bytes | None = None
    user: str = ""
    password: str = field(default="", repr=False)
    proxy: str = ""
    compress: bool = False


@dataclass(slots=True)
class WireCount:
    """What went over the wire through all links: publishes, their bytes, and what came and was refused, by reason."""

    connections: int = 0
    messages: int = 0
    bytes: int = 0
    received_bytes: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    budget: Budget | None = None

    def sent(self, size: int) -> None:
        """A publish of so many bytes went out."""
        self.messages += 1
        self.bytes += size
        if self.budget is not None:
            self.budget.spend(size + PUBLISH_BYTES)

    def connecting(self) -> None:
        """A connection is opened, or tried."""
        self.connections += 1
        if self.budget is not None:
            self.budget.spend(CONNECT_BYTES)

    def received(self, size: int) -> None:
        """A message of so many bytes came."""
        self.received_bytes += size
        if self.budget is not None:
            self.budget.spend(size + RECEIVED_BYTES)

    def refuse(self, reason: str) -> None:
        """Count what came and was not taken."""
        if reason in self.refused or len(self.refused) < REASONS_MAX:
            self.refused[reason] = self.refused.get(reason, 0) + 1


def tls_context(
    identity: AgentIdentity | None,
    options: MqttOptions,
    noted: Callable[[list[Validity]], None] | None = None,
) -> ssl.SSLContext:
    """What a connection to the broker is secured with; with `noted`, the dates of its certificates go there and are not
    judged. Raises Unreadable for authorities that are none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if noted is not None:
        leave_dates(context, noted)
    # Brokers of others may have no 1.3 yet; what they carry is signed besides.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    trust = options.ca_pem
    if trust is None and identity is not None:
        trust = identity.trust_pem
    if trust:
        try:
            context.load_verify_locations(cadata=trust.decode("ascii"))
        except (ssl.SSLError, ValueError) as exc:
            raise Unreadable(f"the authorities of the broker cannot be read: {exc}") from exc
    else:
        context.load_default_certs()
    if identity is not None and not options.user:
        load_chain(context, identity.chain_pem, identity.key_pem)
    return context


class MqttTransport:
    """Opens links with what `identity()` and `options()` return at that moment."""

    def __init__(
        self,
        identity: Callable[[], AgentIdentity],
        options: Callable[[], MqttOptions],
        clock: Clock,
        count: WireCount | None = None,
        time: TrueTime | None = None,
    ) -> None:
        """With `time`, a clock that fails at the dates of the broker's certificate is not the end."""
        self._identity = identity
        self._options = options
        self._clock = clock
        self._time = time
        self.count = count or WireCount()
        self.link: MqttLink | None = None
        """The newest link; renewals go over it."""

    async def open(self) -> "MqttLink":
        """Connect, subscribe, knock, be challenged. Raises LinkDown, LinkRefused, both with the reason by name."""
        identity = self._identity()
        if len(identity.collector_envelope_key) != PUBLIC_KEY_BYTES:
            raise LinkRefused("identity", "this host's identity has no key of the collector; enrol it again")
        try:
            options = self._options()
        except WatchbillError as exc:
            raise LinkRefused("configuration", str(exc)) from exc
        time = self._time
        if time is not None and time.bypass:
            return await self._begin(identity, options, time)
        try:
            return await self._begin(identity, options, None)
        except LinkDown as exc:
            if time is None or exc.reason != CLOCK_SUSPECT:
                raise
            time.suspect()
        return await self._begin(identity, options, time)

    async def _begin(
        self, identity: AgentIdentity, options: MqttOptions, time: TrueTime | None
    ) -> "MqttLink":
        """One attempt; with `time`, by the time that the collector's challenge tells."""
        self.count.connecting()
        link = MqttLink(identity, options, self._clock, self.count, time)
        try:
            await link.begin()
        except (BrokerDown, BrokerRefused) as exc:
            await link.close()
            raise await self._why_not(exc, identity, options, time) from exc
        except BaseException:
            await link.close()
            raise
        self.link = link
        return link

    async def _why_not(
        self, error: Lost, identity: AgentIdentity, options: MqttOptions, time: TrueTime | None
    ) -> LinkDown | LinkRefused:
        if is_about_dates(error.__cause__):
            return LinkDown(
                CLOCK_SUSPECT, f"by this host's clock the broker's certificate is not valid: {error}"
            )
        if time is not None and not time.known:
            # The broker may take our certificate for expired; its enrolment port asks for none, and knows the time.
            from watchbill_agent.asking import learn_at_door

            with contextlib.suppress(WatchbillError):
                await learn_at_door(time, identity, options)
        now_ms = (self._clock if self._time is None else self._time).wall_ms()
        if not options.user and identity.not_after_ms < now_ms:
            # The broker's TLS says no more than that the connection broke.
            return LinkDown("certificate-expired", "this host's certificate has expired")
        return mapped(error)

    async def renew(self, request: bytes) -> bytes:
        """Ask for the next certificate over the session there is. Raises LinkDown, LinkRefused."""
        if self.link is None:
            raise LinkDown("closed", "there is no link to ask for a certificate over")
        return await self.link.renew(request)


def mapped(error: Lost) -> LinkDown | LinkRefused:
    """What a broker said, as the link's error."""
    kind = LinkRefused if isinstance(error, BrokerRefused) else LinkDown
    return kind(error.reason, str(error))


class MqttLink:
    """One link: one connection to the broker, one session with the collector."""

    def __init__(
        self,
        identity: AgentIdentity,
        options: MqttOptions,
        clock: Clock,
        count: WireCount,
        time: TrueTime | None = None,
    ) -> None:
        """With `time`, the dates of the broker's certificates are judged by what the collector's challenge tells."""
        self._options = options
        self._clock = clock
        self._count = count
        self._time = time
        self._dates: list[Validity] = []
        self._told_ms = 0
        self._agent_id = identity.agent_id
        self._topics = Topics(identity.site, options.prefix)
        self._names = (str(identity.uri), collector_uri(identity.site))
        self._sealer = Sealer(identity.envelope_seed)
        self._opener = Opener(identity.collector_envelope_key, sender=self._names[1], audience=self._names[0])
        self._link = int.from_bytes(os.urandom(8), "big")
        self._session = 0
        self._counters = {lane: Counter() for lane in Lane}
        self._inbox: deque[bytes] = deque()
        self._heard = asyncio.Event()
        self._answer: asyncio.Future[bytes] | None = None
        self._welcomed = False
        self._over: LinkDown | LinkRefused | None = None
        self._ended = False
        self._connection = Connection(
            Broker(
                host=options.host,
                port=options.port,
                tls=lambda: tls_context(identity, options, None if time is None else self._note_dates),
                user=options.user,
                password=options.password,
                proxy=options.proxy,
            ),
            identity.agent_id,
            self._receive,
            will=Will(self._topics.of(identity.agent_id, Lane.HELLO), self._sealed(Kind.WILL, 0)),
        )

    # ------------------------------------------------------------ opening

    async def begin(self) -> None:
        """Until the collector has challenged us. Raises BrokerDown, BrokerRefused, LinkDown, LinkRefused."""
        await self._connection.open()
        self._connection.lost.add_done_callback(lambda _: self._heard.set())
        await self._connection.subscribe([self._topics.of(self._agent_id, Lane.DOWN)])
        knocked_at_ms = self._clock.boottime_ms()
        self._publish(Lane.HELLO, Kind.KNOCK)
        try:
            async with asyncio.timeout(CHALLENGE_TIMEOUT_S):
                while not self._session:
                    self._look()
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            raise LinkDown(
                "no-collector", f"at the broker no collector of site {self._topics.site} answers this host"
            ) from None
        if self._time is not None:
            self._judge_dates(self._time, knocked_at_ms)

    def _note_dates(self, chain: list[Validity]) -> None:
        """In the thread that connects, before user and password are sent."""
        assert self._time is not None, "else TLS judges them"
        self._time.judge_early(chain)
        self._dates = chain

    def _judge_dates(self, time: TrueTime, knocked_at_ms: int) -> None:
        """The challenge is signed, names the number that this link was given at random, and says when it was written:
        that is the collector's signed time. Nothing was said to the broker yet that others may not read.
        """
        try:
            time.learn(self._told_ms, knocked_at_ms)
            time.judge(self._dates)
        except TimeRefused as exc:
            reason = SERVER_EXPIRED if exc.reason == "certificate" else CLOCK_SUSPECT
            raise LinkDown(reason, f"the broker {self._options.host}:{self._options.port}: {exc}") from exc

    def _look(self) -> None:
        """Raises what ended the link."""
        if self._over is not None:
            raise self._over
        if self._connection.lost.done():
            raise mapped(self._connection.lost.result())

    # ------------------------------------------------------------ what goes

    async def send(self, message: bytes) -> None:
        """Publish one Up message; waits while the broker has as many as it takes. Raises LinkDown, LinkRefused."""
        if len(message) > PAYLOAD_BYTES_MAX:
            raise LinkDown("oversized", f"a message of {len(message)} bytes, more than {PAYLOAD_BYTES_MAX}")
        self._look()
        try:
            async with asyncio.timeout(STALL_S):
                await self._connection.room()
            self._publish(lane_of(message), Kind.FRAME, message)
        except TimeoutError:
            raise LinkDown("timeout", f"the broker confirmed nothing for {STALL_S:.0f} s") from None
        except (BrokerDown, BrokerRefused) as exc:
            raise mapped(exc) from exc

    def _publish(self, lane: Lane, kind: Kind, payload: bytes = b"") -> None:
        sealed = self._sealed(kind, self._counters[lane].next(), payload)
        self._connection.publish(self._topics.of(self._agent_id, lane), sealed)
        self._count.sent(len(sealed))

    def _sealed(self, kind: Kind, counter: int, payload: bytes = b"") -> bytes:
        envelope = Envelope(
            kind, *self._names, self._link, self._session, counter, self._clock.wall_ms(), payload
        )
        return self._sealer.seal(envelope, compress=self._options.compress)

    async def renew(self, request: bytes) -> bytes:
        """Ask for the next certificate, over the session. Returns the collector's answer. Raises LinkDown."""
        self._look()
        self._answer = asyncio.get_running_loop().create_future()
        try:
            self._publish(Lane.HELLO, Kind.RENEW, request)
            async with asyncio.timeout(RENEWAL_TIMEOUT_S):
                return await self._answer
        except TimeoutError:
            raise LinkDown("timeout", "the collector did not answer the renewal") from None
        except (BrokerDown, BrokerRefused) as exc:
            raise mapped(exc) from exc
        finally:
            self._answer = None

    # ------------------------------------------------------------ what comes

    def _receive(self, _: str, payload: bytes, retained: bool) -> None:
        self._count.received(len(payload))
        if retained:
            self._count.refuse("mqtt_retained")
            return
        try:
            self._take(self._opener.open(payload))
        except EnvelopeRefused as exc:
            self._count.refuse(exc.reason)

    def _take(self, envelope: Envelope) -> None:
        if envelope.link != self._link:
            raise EnvelopeRefused(Reason.SESSION, "of another link")
        if envelope.kind is Kind.CHALLENGE:
            if self._session or not envelope.session:
                raise EnvelopeRefused(Reason.SESSION, "challenged a second time")
            self._session = envelope.session
            self._told_ms = envelope.created_ms
        elif envelope.session != self._session or not self._session:
            raise EnvelopeRefused(Reason.SESSION, "of another session")
        elif envelope.kind is Kind.GONE:
            self._over = LinkDown("closed", "the collector does not know this link any more")
        else:
            self._counters[Lane.DOWN].take(envelope.counter)
            self._frame(envelope)
        self._heard.set()

    def _frame(self, envelope: Envelope) -> None:
        if envelope.kind is Kind.FRAME:
            self._welcomed = True
            if len(self._inbox) >= INBOX_MESSAGES_MAX:
                self._count.refuse("inbox")
                self._over = LinkDown("overflow", f"{INBOX_MESSAGES_MAX} messages of the collector wait")
                return
            self._inbox.append(envelope.payload)
        elif envelope.kind is Kind.CLOSED:
            if not self._welcomed:
                self._over = LinkRefused("refused", envelope.payload.decode("utf-8", "replace")[:300])
            self._ended = True
        elif envelope.kind is Kind.RENEWED and self._answer is not None:
            if not self._answer.done():
                self._answer.set_result(envelope.payload)
        else:
            raise EnvelopeRefused(Reason.KIND, f"a {envelope.kind.name.lower()} from the collector")

    async def receive(self) -> bytes | None:
        """The next Down message; None when the collector closed. Raises LinkDown, LinkRefused."""
        while not self._inbox:
            if self._over is None and self._ended:
                return None
            self._look()
            self._heard.clear()
            await self._heard.wait()
        return self._inbox.popleft()

    # ------------------------------------------------------------ closing

    async def close(self) -> None:
        """Say that the link is over, and disconnect in order: the broker then keeps our Will to itself."""
        if self._session and not self._ended and not self._connection.lost.done():
            with contextlib.suppress(BrokerDown, BrokerRefused):  # It is over either way.
                self._publish(Lane.HELLO, Kind.CLOSED)
        await self._connection.close()
