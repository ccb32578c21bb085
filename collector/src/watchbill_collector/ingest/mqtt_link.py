"""The links of one agent over MQTT: verifies, keeps the order, and feeds its session as a stream would.

A broker may repeat, delay, reorder and lose. What is behind here, `Session`, expects whole messages in order, or the
end. So every envelope is verified first; a number that came already is refused; one that comes early waits a moment
for those before it; and when one does not come at all, the link ends, and the agent says Hello again and sends from
its spool what is not acknowledged.
"""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from watchbill.envelope import Counter, Envelope, EnvelopeRefused, Kind, Opener, Reason
from watchbill.limits import (
    CREDIT_BYTES_DEFAULT,
    HELLOS_PER_AGENT_BURST,
    HELLOS_PER_MINUTE_MAX,
    MESSAGE_BYTES_MAX,
)
from watchbill.protocol.frames import EndReason
from watchbill.topics import Lane, lane_of
from watchbill_collector.ingest.agents import Bucket
from watchbill_collector.ingest.gather import Inlet

if TYPE_CHECKING:
    from watchbill_collector.ingest.mqtt_server import MqttPort
    from watchbill_collector.ingest.session import Session

EARLY_MESSAGES_MAX: Final = 64
"""Messages that wait for one before them; then the link ends."""
EARLY_WAIT_S: Final = 2.0
SLOWED_BYTES_MAX: Final = CREDIT_BYTES_DEFAULT + MESSAGE_BYTES_MAX
"""What may wait of an agent that sends faster than its quota: what its credit lets it have under way. Then its session
ends, and it is told when to come again."""
THROTTLE_MAX_S: Final = 30.0
REFUSED_PER_SECOND: Final = 20.0
REFUSED_BURST: Final = 200.0
"""Envelopes refused on one agent's topics; beyond it nothing on them is looked at: verifying costs as taking does."""
GONE_AGAIN_S: Final = 1.0
"""How often an agent is told that its link is gone."""

_ON_HELLO: Final = frozenset({Kind.KNOCK, Kind.FRAME, Kind.CLOSED, Kind.WILL, Kind.RENEW})


class MqttLink:
    """One link: the session's `Outlet` on one side, numbered envelopes on the other."""

    __slots__ = (
        "_beat",
        "_down",
        "_early",
        "_hello",
        "_mailbox",
        "_slowed",
        "_slowed_bytes",
        "_timer",
        "_up",
        "link",
        "number",
        "session",
        "slow_until_s",
    )

    def __init__(self, mailbox: "Mailbox", link: int, number: int) -> None:
        self._mailbox = mailbox
        self.link = link
        self.number = number
        self.session: Session | None = None
        self.slow_until_s = 0.0
        self._hello, self._up, self._beat, self._down = Counter(), Counter(), Counter(), Counter()
        self._early: dict[int, bytes] = {}
        self._slowed: deque[bytes] = deque()
        self._slowed_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------ what comes

    def take(self, lane: Lane, envelope: Envelope, now_s: float) -> None:
        """A frame of this link. Raises EnvelopeRefused."""
        if lane is Lane.UP:
            self._in_order(envelope, now_s)
        else:
            self.count(lane, envelope)
            self._deliver(envelope.payload, now_s)

    def count(self, lane: Lane, envelope: Envelope) -> None:
        """Its number goes on. Raises EnvelopeRefused."""
        (self._hello if lane is Lane.HELLO else self._beat).take(envelope.counter)

    def _in_order(self, envelope: Envelope, now_s: float) -> None:
        counter = envelope.counter
        if counter != self._up.last + 1:
            if counter <= self._up.last or counter in self._early:
                raise EnvelopeRefused(Reason.REPLAYED, f"message {counter} came already")
            self._wait_for_earlier(counter, envelope.payload)
            return
        self._up.take(counter)
        self._deliver(envelope.payload, now_s)
        while (payload := self._early.pop(self._up.last + 1, None)) is not None:
            self._up.last += 1
            self._deliver(payload, now_s)
        if not self._early:
            self._stop_timer()

    def _wait_for_earlier(self, counter: int, payload: bytes) -> None:
        self._early[counter] = payload
        if len(self._early) > EARLY_MESSAGES_MAX:
            self._lost()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(EARLY_WAIT_S, self._lost)

    def _lost(self) -> None:
        """A message was lost on the way: begin anew, the spool has it."""
        self._timer = None
        if self._early and self.session is not None:
            self._mailbox.port.facts.lost += 1
            self.session.end(EndReason.SHUTDOWN, "messages were lost at the broker; connect again", 0.0)

    def _deliver(self, payload: bytes, now_s: float) -> None:
        """Hand a message to the session, unless its agent has to be slowed down."""
        session = self.session
        if session is None or session.ended:
            return
        if self._slowed or now_s < self.slow_until_s:
            self._slowed.append(payload)
            self._slowed_bytes += len(payload)
            if self._slowed_bytes > SLOWED_BYTES_MAX:
                session.end(
                    EndReason.BUSY, "this host sends faster than it may", max(1.0, self.slow_until_s - now_s)
                )
            return
        throttle_s = min(session.receive(payload, now_s), THROTTLE_MAX_S)
        if throttle_s > 0:
            self.slow_until_s = now_s + throttle_s
            asyncio.get_running_loop().call_later(throttle_s, self._go_on)

    def _go_on(self) -> None:
        now_s = self._mailbox.port.now_s()
        self.slow_until_s = 0.0
        waiting, self._slowed, self._slowed_bytes = self._slowed, deque(), 0
        while waiting:
            self._deliver(waiting.popleft(), now_s)
        self._mailbox.port.handed_over()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ------------------------------------------------------------ what goes

    def send(self, message: bytes, within_s: int = 0) -> None:
        """Send a message to the agent; a broker that cannot hand it on `within_s` drops it."""
        self._mailbox.say(Kind.FRAME, self, self._down.next(), message, within_s)

    def end(self, message: bytes, reason: EndReason) -> None:
        """Send a last message and close."""
        self.send(message)
        self.close(reason.name.lower().replace("_", " "))

    def close(self, why: str) -> None:
        """This link is over."""
        self._mailbox.say(Kind.CLOSED, self, self._down.next(), why.encode())
        self.drop()

    def answer(self, payload: bytes) -> None:
        """The answer to a renewal."""
        self._mailbox.say(Kind.RENEWED, self, self._down.next(), payload)

    def drop(self) -> None:
        """Forget the link; nothing more is taken or sent."""
        self._stop_timer()
        self._early.clear()
        self._slowed.clear()
        self._mailbox.links.pop(self.link, None)


class Mailbox:
    """Everything that comes on one agent's topics."""

    __slots__ = (
        "_gone_s",
        "_knocks",
        "_opened",
        "_opener",
        "_refused",
        "agent_id",
        "inlets",
        "links",
        "port",
    )

    def __init__(self, port: "MqttPort", agent_id: str, opener: Opener, now_s: float) -> None:
        self.port = port
        self.agent_id = agent_id
        self.links: dict[int, MqttLink] = {}
        self.inlets = {
            Lane.HELLO: Inlet(self._receiver(Lane.HELLO)),
            Lane.UP: Inlet(self._receiver(Lane.UP)),
            Lane.BEAT: Inlet(self._receiver(Lane.BEAT)),
        }
        self._opener = opener
        self._knocks = Bucket(HELLOS_PER_MINUTE_MAX / 60, HELLOS_PER_AGENT_BURST, now_s)
        self._refused = Bucket(REFUSED_PER_SECOND, REFUSED_BURST, now_s)
        self._gone_s = float("-inf")
        self._opened: dict[int, int] = {}

    def _receiver(self, lane: Lane) -> "_Receiver":
        return _Receiver(self, lane)

    def receive(self, lane: Lane, data: bytes, now_s: float) -> None:
        """A message came on one of the agent's topics."""
        if self._refused.level(now_s) < 1:
            self.port.refused(self.agent_id, "envelope_flood")
            return
        try:
            envelope = self._opener.open(data)
            if lane is Lane.HELLO:
                self._hello(envelope, now_s)
            elif envelope.kind is Kind.FRAME and lane_of(envelope.payload) is lane:
                self._link_of(envelope, now_s).take(lane, envelope, now_s)
            else:
                raise EnvelopeRefused(Reason.KIND, f"a {envelope.kind.name.lower()} does not go there")
        except EnvelopeRefused as exc:
            self._refused.take(1, now_s)
            self.port.refused(self.agent_id, exc.reason)

    def _link_of(self, envelope: Envelope, now_s: float) -> MqttLink:
        """The link that an envelope names. Raises EnvelopeRefused; the agent is told that it is gone."""
        link = self.links.get(envelope.link)
        if link is not None and link.number == envelope.session:
            return link
        if now_s - self._gone_s >= GONE_AGAIN_S:
            self._gone_s = now_s
            self.port.say(self.agent_id, Kind.GONE, envelope.link, envelope.session, 0)
        raise EnvelopeRefused(Reason.SESSION, "of a link that is not open here")

    def _hello(self, envelope: Envelope, now_s: float) -> None:
        kind = envelope.kind
        if kind not in _ON_HELLO or (kind is Kind.FRAME and lane_of(envelope.payload) is not Lane.HELLO):
            raise EnvelopeRefused(Reason.KIND, f"a {kind.name.lower()} does not go there")
        if kind is Kind.KNOCK:
            self._knock(envelope, now_s)
        elif kind is Kind.FRAME and envelope.link not in self.links:
            self._open(envelope, now_s)
        elif kind is Kind.WILL:
            self._broken(envelope)
        elif kind is Kind.CLOSED and envelope.link not in self.links:
            pass  # Both ends closed at the same moment; there is nothing left to close.
        else:
            link = self._link_of(envelope, now_s)
            if kind is Kind.FRAME:
                link.take(Lane.HELLO, envelope, now_s)
                return
            link.count(Lane.HELLO, envelope)
            if kind is Kind.RENEW:
                self.port.renew(self.agent_id, link, envelope.payload)
            elif link.session is not None:
                self.port.ingest.gone(link.session)
                link.drop()

    def _knock(self, envelope: Envelope, now_s: float) -> None:
        if self._knocks.level(now_s) < 1:
            self.port.refused(self.agent_id, "knock_rate")
            return
        self._knocks.take(1, now_s)
        number = self.port.challenges.make(self.agent_id, envelope.link, now_s)
        self.port.say(self.agent_id, Kind.CHALLENGE, envelope.link, number, 0)

    def _open(self, envelope: Envelope, now_s: float) -> None:
        """The first frame of a link: it has to name the session of a fresh challenge, and each opens once."""
        challenges = self.port.challenges
        if not challenges.holds(self.agent_id, envelope.link, envelope.session, now_s):
            raise EnvelopeRefused(Reason.SESSION, "a Hello of a session that was never offered, or long ago")
        if envelope.link in self._opened:
            raise EnvelopeRefused(Reason.REPLAYED, "a Hello that opened a link already")
        slot = challenges.slot(now_s)
        self._opened = {link: at for link, at in self._opened.items() if at >= slot - 1}
        self._opened[envelope.link] = slot
        link = MqttLink(self, envelope.link, envelope.session)
        self.links[envelope.link] = link
        link.session = self.port.connect(self.agent_id, link)
        if link.session is None:
            link.close("this host is not known here, or connects too often")
            return
        link.take(Lane.HELLO, envelope, now_s)

    def _broken(self, envelope: Envelope) -> None:
        link = self.links.get(envelope.link)
        if link is not None:
            self.cut(link)

    def cut(self, link: MqttLink) -> None:
        """A link broke without a word from the agent."""
        session = link.session
        link.drop()
        if session is not None and not session.ended:
            self.port.ingest.counters.cut(session.agent.instance or self.agent_id)
            self.port.ingest.gone(session)

    def say(self, kind: Kind, link: MqttLink, counter: int, payload: bytes, within_s: int = 0) -> None:
        """Send an envelope of a link."""
        self.port.say(self.agent_id, kind, link.link, link.number, counter, payload, within_s)


class _Receiver:
    """A lane of a mailbox, as an inlet calls it."""

    __slots__ = ("_lane", "_mailbox")

    def __init__(self, mailbox: Mailbox, lane: Lane) -> None:
        self._mailbox = mailbox
        self._lane = lane

    def __call__(self, data: bytes, now_s: float) -> float:
        self._mailbox.receive(self._lane, data, now_s)
        return 0.0
