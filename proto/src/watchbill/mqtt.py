"""One connection to an MQTT broker, as both daemons use it. The one module that imports aiomqtt.

MQTT 5 alone, QoS 1, nothing retained, clean start with no session kept at the broker: what has to be kept, we keep.
Everything the broker says no to is an error with words: aiomqtt loses the reason code of a PUBACK, so a publish that
an access rule refused looks delivered; here the subclass `_Client` reads it (private names: aiomqtt is pinned to 2.5).
Messages are handed over where they arrive, without a queue in between: while they are taken, nothing more is read, and
the broker has at most `RECEIVE_MAX` under way.

A connection serves once. When to connect again is the owner's business.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiomqtt
import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from watchbill.envelope import ENVELOPE_BYTES_MAX
from watchbill.errors import Refused, Unreachable
from watchbill.identity import Endpoint
from watchbill.tls import connect

CONNECT_TIMEOUT_S: Final = 20.0
ANSWER_TIMEOUT_S: Final = 10.0
"""For a CONNACK or a SUBACK."""
CLOSE_TIMEOUT_S: Final = 2.0
KEEPALIVE_S: Final = 90
"""A connection on which nothing happens is asked for a sign of life after this long."""
WINDOW: Final = 20
"""Publishes under way to the broker; mosquitto's own default for the other direction."""
WAITING_MAX: Final = 4_096
"""Publishes under way and waiting; beyond it publishing fails: the broker takes nothing."""
RECEIVE_MAX: Final = 200
"""Messages that the broker may have under way to us."""
READ_BYTES: Final = 64 * 1024
PACKET_BYTES_MAX: Final = ENVELOPE_BYTES_MAX + 1024

NO_SUBSCRIBERS: Final = 0x10
_FAILED: Final = 0x80

_log = logging.getLogger("watchbill.mqtt")


class BrokerDown(Unreachable):
    """No connection to the broker, or it broke, or the broker cannot take a message now; later may help."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class BrokerRefused(Refused):
    """The broker does not want us, or we do not trust it; only a person can help."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


Failure = BrokerDown | BrokerRefused
Received = Callable[[str, bytes, bool], None]
"""Takes a message: its topic (empty when that is not UTF-8), its payload, whether it was retained."""


@dataclass(frozen=True, slots=True)
class Broker:
    """Where a broker is and how it is spoken to. `unix` is a socket's path, in place of host and port; `tls` makes the
    context of a connection, None: the unix socket has none.
    """

    host: str = ""
    port: int = 0
    unix: str = ""
    tls: Callable[[], ssl.SSLContext] | None = field(default=None, repr=False)
    user: str = ""
    password: str = field(default="", repr=False)
    proxy: str = ""

    def __str__(self) -> str:
        return self.unix or str(Endpoint(self.host, self.port))


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes when our connection breaks."""

    topic: str
    payload: bytes


class _Buffered:
    """A socket of which as much is read as there is: the client asks for a packet's head byte by byte, and every
    question was a system call. `pending` tells it that there is more.
    """

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner
        self._data = b""
        self._at = 0

    def recv(self, size: int) -> bytes:
        """As a socket's."""
        if self._at >= len(self._data):
            if size >= READ_BYTES:
                return self._inner.recv(size)
            self._data, self._at = self._inner.recv(READ_BYTES), 0
        piece = self._data[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def pending(self) -> int:
        """Bytes that can be read although the kernel has none."""
        inner = self._inner.pending() if isinstance(self._inner, ssl.SSLSocket) else 0
        return len(self._data) - self._at + inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Client(aiomqtt.Client):
    """aiomqtt's client, with its losses made good; everything goes to the connection that owns it."""

    def __init__(self, owner: "Connection", **options: Any) -> None:
        super().__init__(**options)
        self.owner = owner
        self.cause: BaseException | None = None
        self._client.disable_logger()
        self._client.connect_timeout = CONNECT_TIMEOUT_S

    def _client_connect(self) -> None:
        # In a thread. aiomqtt keeps only the text of what went wrong here.
        try:
            super()._client_connect()
        except BaseException as exc:
            self.cause = exc
            raise

    def _on_connect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.ConnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        self.owner.welcomed(client, reason_code, properties)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.DisconnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        if not self._connected.done():
            # aiomqtt would wait for an answer that cannot come any more.
            self._connected.set_exception(aiomqtt.MqttCodeError(reason_code, "closed without an answer"))
        super()._on_disconnect(client, userdata, flags, reason_code, properties)

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        self.owner.received(topic, bytes(message.payload), message.retain)

    def _on_publish(
        self, client: paho.Client, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        self.owner.confirmed(mid, reason_code)

    @property
    def ended(self) -> "asyncio.Future[None]":
        """Done when the connection is over."""
        return self._disconnected

    def sockets_from(self, make: "Callable[[], _Buffered]") -> None:
        """Where connections come from, in place of what the library does."""
        self._client._create_socket = make  # type: ignore[method-assign]

    def send(self, topic: str, payload: bytes, within_s: int = 0) -> paho.MQTTMessageInfo:
        """Publish without waiting."""
        properties: Any = None
        if within_s:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = within_s
        return self._client.publish(topic, payload, 1, properties=properties)

    def say_goodbye(self) -> None:
        """Send DISCONNECT; the socket is closed once it is written."""
        self._client.disconnect()

    async def cut(self) -> None:
        """Close the socket, whatever waits, and end the task that looks after it."""
        self._client._sock_close()
        if self._misc_task is not None:
            self._misc_task.cancel()
            await asyncio.wait({self._misc_task})


class Connection:
    """One connection: `open`, `subscribe`, `publish`, `close`. When it breaks by itself, `lost` is done with why.

    `received` is called in the event loop for every message; it must not raise. `denied` is called when the broker
    refused a publish that nobody waits for; without it the connection is lost over it.
    """

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        received: Received,
        *,
        will: Will | None = None,
        window: int = WINDOW,
        denied: Callable[[str, Failure], None] | None = None,
    ) -> None:
        self._broker = broker
        self._received = received
        self._denied = denied
        self._pending: dict[int, str] = {}
        self._window = window
        self._moved = asyncio.Event()
        self._closing = False
        self._refusal: Failure | None = None
        self.lost: asyncio.Future[Failure] = asyncio.get_running_loop().create_future()
        self.messages_sent = 0
        self.bytes_sent = 0
        self._client = self._make(client_id, will, window)

    def _make(self, client_id: str, will: Will | None, window: int) -> _Client:
        broker = self._broker
        connecting: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        connecting.SessionExpiryInterval = 0
        connecting.ReceiveMaximum = RECEIVE_MAX
        connecting.MaximumPacketSize = PACKET_BYTES_MAX
        context = broker.tls() if broker.tls is not None else None
        client = _Client(
            self,
            hostname=broker.unix or broker.host,
            port=broker.port or 1,
            identifier=client_id,
            protocol=aiomqtt.ProtocolVersion.V5,
            transport="unix" if broker.unix else "tcp",
            username=broker.user or None,
            password=broker.password or None,
            will=aiomqtt.Will(will.topic, will.payload, qos=1) if will is not None else None,
            clean_start=True,
            keepalive=KEEPALIVE_S,
            timeout=ANSWER_TIMEOUT_S,
            max_inflight_messages=window,
            max_queued_outgoing_messages=WAITING_MAX,
            properties=connecting,
            tls_context=context,
        )
        # Ours knows proxies, has a bound on how long it tries, closes what fails, and reads more than a byte.
        client.sockets_from(lambda: _Buffered(_open_socket(broker, context)))
        return client

    # ------------------------------------------------------------ life

    async def open(self) -> None:
        """Connect. Raises BrokerDown, BrokerRefused, both with the reason by name."""
        entering = asyncio.ensure_future(self._client.__aenter__())
        try:
            await asyncio.shield(entering)
        except aiomqtt.MqttError as exc:
            await self._client.cut()
            raise self._why_not(exc) from self._client.cause
        except BaseException:
            # A thread that connects cannot be stopped: what it brings is closed as soon as it comes.
            entering.add_done_callback(self._close_late)
            raise
        self._client.ended.add_done_callback(self._ended)

    def _close_late(self, entering: "asyncio.Future[Any]") -> None:
        if not entering.cancelled():
            entering.exception()
        cutting = asyncio.ensure_future(self._client.cut())
        _LATE.add(cutting)
        cutting.add_done_callback(_LATE.discard)

    def _why_not(self, error: aiomqtt.MqttError) -> Failure:
        if self._refusal is not None:
            return self._refusal
        cause = self._client.cause
        if isinstance(cause, ssl.SSLCertVerificationError):
            return BrokerRefused(
                "wrong-ca", f"the broker {self._broker} is not trusted: {cause.verify_message}"
            )
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
            words = (cause.reason or str(cause)).lower().replace("_", " ")
            return BrokerDown("tls", f"no TLS with the broker {self._broker}: {words}")
        if isinstance(cause, Refused):
            return BrokerRefused("proxy", str(cause))
        if cause is None and isinstance(error, aiomqtt.MqttCodeError):
            # With TLS 1.3 a client whose certificate is refused learns no more than this.
            words = "closed the connection without an answer; does it take this certificate?"
            return BrokerDown("unreachable", f"the broker {self._broker} {words}")
        if isinstance(cause, TimeoutError):
            return BrokerDown("timeout", f"the broker {self._broker} did not answer in time")
        return BrokerDown("unreachable", f"the broker {self._broker}: {cause or error}")

    async def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe to all of these. Raises BrokerRefused naming the first that is denied, BrokerDown."""
        options = SubscribeOptions(qos=1, noLocal=True, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        try:
            codes = await self._client.subscribe([(one, options) for one in filters])
        except aiomqtt.MqttError as exc:
            if self.lost.done():
                raise self.lost.result() from exc
            raise BrokerDown("timeout", f"the broker did not answer a subscription: {exc}") from exc
        for one, code in zip(filters, codes, strict=True):
            assert isinstance(code, ReasonCode)
            if code.value >= _FAILED:
                raise BrokerRefused(
                    "broker-denied", f"the broker does not let us read {one}: {str(code).lower()}"
                )

    async def close(self) -> None:
        """Let what is under way arrive, say goodbye, close. Never raises; may be called twice."""
        if self._closing:
            return
        self._closing = True
        client = self._client
        if not client.ended.done():
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await self.settled()
                    client.say_goodbye()
                    await asyncio.wait({client.ended})
            except TimeoutError:
                pass
        if not self.lost.done():
            self.lost.set_result(BrokerDown("closed", "the connection was closed"))
        self._moved.set()
        await client.cut()

    def _ended(self, ended: "asyncio.Future[None]") -> None:
        error = None if ended.cancelled() else ended.exception()
        if self.lost.done():
            return
        self._lose(self._why_ended(error))

    def _why_ended(self, error: BaseException | None) -> Failure:
        code = getattr(error, "rc", None)
        if isinstance(code, ReasonCode) and code.value > _FAILED:
            return _refusal(code, "the broker ended the connection")
        return BrokerDown("unreachable", f"the connection to the broker {self._broker} broke")

    def _lose(self, why: Failure) -> None:
        if not self.lost.done():
            self.lost.set_result(why)
        self._pending.clear()
        self._moved.set()

    # ------------------------------------------------------------ publishing

    @property
    def under_way(self) -> int:
        """Publishes that the broker has not confirmed."""
        return len(self._pending)

    def publish(self, topic: str, payload: bytes, within_s: int = 0) -> None:
        """Publish; does not wait. A broker that could not hand it on `within_s` drops it; 0: it tries for ever. Raises
        what `lost` holds, or BrokerDown when too much waits."""
        if self.lost.done():
            raise self.lost.result()
        info = self._client.send(topic, payload, within_s)
        if info.rc == paho.MQTT_ERR_QUEUE_SIZE:
            raise BrokerDown("busy", f"the broker {self._broker} takes nothing: {WAITING_MAX} messages wait")
        if info.rc != paho.MQTT_ERR_SUCCESS:
            raise BrokerDown("unreachable", f"the connection to the broker {self._broker} broke")
        self._pending[info.mid] = topic
        self.messages_sent += 1
        self.bytes_sent += len(topic) + len(payload)

    async def room(self) -> None:
        """Wait until fewer publishes than the window are under way. Raises what `lost` holds."""
        while len(self._pending) >= self._window and not self.lost.done():
            self._moved.clear()
            await self._moved.wait()
        if self.lost.done():
            raise self.lost.result()

    async def settled(self) -> None:
        """Wait until the broker has confirmed everything, or the connection is lost."""
        while self._pending and not self.lost.done():
            self._moved.clear()
            await self._moved.wait()

    # ------------------------------------------------------------ what the client tells

    def received(self, topic: str, payload: bytes, retained: bool) -> None:
        """A message came."""
        if not self.lost.done():
            self._received(topic, payload, retained)

    def welcomed(self, client: paho.Client, code: ReasonCode, properties: Properties | None) -> None:
        """The broker answered the connection."""
        if code.value >= _FAILED:
            self._refusal = _refusal(code, f"the broker {self._broker} refused the connection")
            return
        allowed = getattr(properties, "ReceiveMaximum", None)
        if allowed is not None and allowed < self._window:
            # paho does not look at it, and the broker would end the connection.
            self._window = allowed
            client._max_inflight_messages = allowed

    def confirmed(self, mid: int, code: ReasonCode) -> None:
        """The broker answered a publish."""
        topic = self._pending.pop(mid, None)
        self._moved.set()
        if topic is None or (code.value < _FAILED and code.value != NO_SUBSCRIBERS):
            return
        if code.value == NO_SUBSCRIBERS:
            why: Failure = BrokerDown("no-collector", f"nobody listens at the broker for {topic}")
        else:
            why = _refusal(code, f"the broker refused a message to {topic}")
        if self._denied is not None:
            self._denied(topic, why)
        elif not self._closing:
            self._lose(why)


def _open_socket(broker: Broker, context: ssl.SSLContext | None) -> socket.socket:
    """A connection to the broker, TLS and all. In a thread; raises OSError, Unreachable, Refused."""
    if broker.unix:
        local = socket.socket(socket.AF_UNIX)
        try:
            local.connect(broker.unix)
        except OSError:
            local.close()
            raise
        return local
    plain = connect(Endpoint(broker.host, broker.port), broker.proxy, CONNECT_TIMEOUT_S)
    if context is None:
        return plain
    return context.wrap_socket(plain, server_hostname=broker.host)  # Closed by Python itself when it fails.


_LATE: set["asyncio.Future[None]"] = set()
"""Closings of connections whose opening was broken off."""

_LATER: Final = frozenset({0x83, 0x88, 0x89, 0x8B, 0x8D, 0x93, 0x96, 0x97, 0x98, 0x9C, 0x9F, 0xA0})
"""Reason codes that may be gone the next time: busy, shutting down, quotas, rates."""
_NAMES: Final = {
    0x84: "no-mqtt5",
    0x86: "broker-denied",
    0x87: "broker-denied",
    0x8A: "broker-denied",
    0x8C: "broker-denied",
    0x8E: "taken-over",
    0x95: "oversized",
}


def _refusal(code: ReasonCode, what: str) -> Failure:
    """A reason code in our words."""
    words = f"{what}: {str(code).lower()} (reason {code.value})"
    if code.value in _LATER:
        return BrokerDown("busy", words)
    name = _NAMES.get(code.value, "broker")
    if name == "broker-denied" or name == "no-mqtt5":
        return BrokerRefused(name, words)
    return BrokerDown(name, words)
