"""The stream to the collector's port 7443: gRPC over mutual TLS 1.3. The one module of the agent that imports
grpc.

Messages pass as bytes: the spool's records are serialized already. Every connection has a channel of its own,
which is closed with it, so nothing of gRPC's own reconnecting and backing off is in play; when to try again
is the sender's business.

Where this host's clock cannot judge certificates, the collector's signed time does: `relay` and `true_time`.

gRPC says of every failed handshake only that the connection closed. So after one that failed before the first
answer, `tls.diagnose` opens the same connection plainly and puts a name to it.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable

import grpc
import grpc.aio

from watchbill.clock import Clock
from watchbill.errors import WatchbillError
from watchbill.identity import AgentIdentity, parse_endpoint
from watchbill.limits import KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS, MESSAGE_BYTES_MAX
from watchbill.tls import Diagnosis, Handshake, channel_credentials, channel_options, diagnose
from watchbill_agent.transports import LinkDown, LinkRefused
from watchbill_agent.transports.relay import Relay, context_of, learn_time, relay_options
from watchbill_agent.true_time import TrueTime

METHOD = "/watchbill.v1.Link/Stream"
CONNECT_TIMEOUT_S = 20.0
DIAGNOSE_TIMEOUT_S = 5.0

FINAL = frozenset({Handshake.WRONG_CA, Handshake.WRONG_NAME, Handshake.CERTIFICATE_REFUSED})
"""Handshake failures that only a person can mend. An expired certificate is not one: renewing it is our own
work."""


_STREAM_OPTIONS = (
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.enable_retries", 0),
)


class GrpcLink:
    """One stream on one channel."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        call: "grpc.aio.StreamStreamCall[bytes, bytes]",
        named: Callable[[], Awaitable[LinkDown | LinkRefused]],
        relay: Relay | None = None,
    ) -> None:
        self._channel = channel
        self._relay = relay
        self._call = call
        self._named = named
        self._heard = False
        self._closed = False

    async def send(self, message: bytes) -> None:
        """Write one message; waits for flow control. Raises LinkDown."""
        try:
            await self._call.write(message)
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError) as exc:
            raise await self._broken(exc) from exc

    async def receive(self) -> bytes | None:
        """Read one message; None when the collector closed. Raises LinkDown, LinkRefused."""
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as exc:
            raise await self._broken(exc) from exc
        if message is grpc.aio.EOF:
            return None
        assert isinstance(message, bytes)
        self._heard = True
        return message

    async def _broken(self, exc: Exception) -> LinkDown | LinkRefused:
        if isinstance(exc, grpc.aio.AioRpcError):
            code, details = exc.code(), exc.details()
        else:
            # A write after the stream ended says only that; the status says why.
            code, details = await self._call.code(), await self._call.details()
        if code is grpc.StatusCode.UNAVAILABLE and not self._heard:
            # With TLS 1.3 a client learns that its certificate was refused only after its own handshake is
            # done.
            return await self._named()
        return mapped(code, details or "")

    async def close(self) -> None:
        """Close the stream and its channel."""
        if self._closed:
            return
        self._closed = True
        if not self._call.done():
            self._call.cancel()
        await self._channel.close(None)
        if self._relay is not None:
            await self._relay.close()


def mapped(code: grpc.StatusCode, details: str) -> LinkDown | LinkRefused:
    """A gRPC status in our words."""
    words = f"{details[:300]} ({code.name.lower().replace('_', ' ')})"
    if code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED):
        return LinkRefused("refused", words)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return LinkRefused("no-collector", f"no Watchbill collector answers there: {words}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return LinkDown("timeout", words)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return LinkDown("busy", words)
    return LinkDown("unreachable" if code is grpc.StatusCode.UNAVAILABLE else "broken", words)


class GrpcTransport:
    """Opens streams to the collector with the identity that `identity()` returns at that moment, so that a
    renewed certificate is used from the next connection on.

    `endpoint` overrides the address in the identity; `proxy` is as in agent.toml: "", "env" or its address. With
    `time`, a clock that fails at the dates of certificates is not the end.
    """

    def __init__(
        self,
        identity: Callable[[], AgentIdentity],
        clock: Clock,
        *,
        endpoint: str = "",
        proxy: str = "",
        time: TrueTime | None = None,
    ) -> None:
        self._identity = identity
        self._clock = clock if time is None else time
        self._time = time
        self._endpoint = endpoint
        self._proxy = proxy

    async def open(self) -> GrpcLink:
        """Connect and shake hands. Raises LinkDown, LinkRefused, both with the reason by name."""
        identity = self._identity()
        target = self._endpoint or identity.stream_endpoint
        time = self._time
        if time is not None and time.bypass:
            return await self._open_by_signed_time(identity, target, time)
        try:
            return await self._open(identity, target)
        except LinkDown as exc:
            if time is None or exc.reason != Handshake.CLOCK_SUSPECT:
                raise
            time.suspect()
            return await self._open_by_signed_time(identity, target, time)

    async def _open(self, identity: AgentIdentity, target: str) -> GrpcLink:
        channel = grpc.aio.secure_channel(
            str(parse_endpoint(target)),
            channel_credentials(identity),
            options=[*channel_options(self._proxy), *_STREAM_OPTIONS],
        )
        try:
            await self._ready(channel)
        except (TimeoutError, ConnectionError):
            await channel.close(None)
            raise await self._named(identity, target) from None
        except BaseException:
            await channel.close(None)
            raise
        return GrpcLink(
            channel, channel.stream_stream(METHOD)(), functools.partial(self._named, identity, target)
        )

    async def _open_by_signed_time(self, identity: AgentIdentity, target: str, time: TrueTime) -> GrpcLink:
        """The same, with dates judged by the collector's signed time, which is asked for first."""
        endpoint = parse_endpoint(target)
        if not time.fresh:
            try:
                await learn_time(time, identity, target, self._proxy)
            except WatchbillError as exc:
                words = f"this host's clock cannot judge certificates, and the collector's time was not had: {exc}"
                raise LinkDown(Handshake.CLOCK_SUSPECT.value, words) from exc
        context = context_of(identity.trust_pem, identity.chain_pem, identity.key_pem)
        relay = Relay(endpoint, context, time.judge, self._proxy)
        place = await relay.start()
        channel = grpc.aio.insecure_channel(place, options=[*relay_options(endpoint), *_STREAM_OPTIONS])

        async def named() -> LinkDown | LinkRefused:
            found = relay.failure or Diagnosis(Handshake.UNREACHABLE, f"{target} did not answer in time")
            return self._failure(identity, found, target)

        try:
            await self._ready(channel)
        except (TimeoutError, ConnectionError):
            await channel.close(None)
            await relay.close()
            raise await named() from None
        except BaseException:
            await channel.close(None)
            await relay.close()
            raise
        return GrpcLink(channel, channel.stream_stream(METHOD)(), named, relay)

    @staticmethod
    async def _ready(channel: grpc.aio.Channel) -> None:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            state = channel.get_state(try_to_connect=True)
            while state is not grpc.ChannelConnectivity.READY:
                await channel.wait_for_state_change(state)
                state = channel.get_state()
                if state in (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN):
                    raise ConnectionError

    async def _named(self, identity: AgentIdentity, target: str) -> LinkDown | LinkRefused:
        """Why no connection came about."""
        diagnosis = await asyncio.to_thread(
            diagnose,
            parse_endpoint(target),
            identity.trust_pem,
            identity.chain_pem,
            identity.key_pem,
            self._proxy,
            DIAGNOSE_TIMEOUT_S,
        )
        return self._failure(identity, diagnosis, target)

    def _failure(self, identity: AgentIdentity, diagnosis: Diagnosis, target: str) -> LinkDown | LinkRefused:
        if (
            diagnosis.outcome is Handshake.CERTIFICATE_REFUSED
            and identity.not_after_ms < self._clock.wall_ms()
        ):
            # gRPC's server closes without saying why.
            return LinkDown(Handshake.CERTIFICATE_EXPIRED.value, "this host's certificate has expired")
        return failure(diagnosis, target)


def failure(diagnosis: Diagnosis, target: str) -> LinkDown | LinkRefused:
    """A diagnosis as the error to raise."""
    if diagnosis.outcome is Handshake.OK:
        # It works now: what failed a moment ago was the network, or the collector starting.
        return LinkDown("unreachable", f"{target} did not answer in time; it answers now")
    if diagnosis.outcome in FINAL:
        return LinkRefused(diagnosis.outcome.value, diagnosis.text)
    return LinkDown(diagnosis.outcome.value, diagnosis.text)
