"""Port 7443: gRPC over mutual TLS 1.3. Moves bytes between streams and sessions; judges nothing but the
certificate.

One long-lived coroutine per stream reads and hands each message over; answers are written by a task that
exists only while there is something to write. gRPC verifies the certificate against the collector's authority
before anything here runs; who it is stands in its one URI.

Ending a stream from this side: the end is written and the call aborted by a task of its own; the reader's
pending read then ends. Cancelling the reader instead would leave the client hanging for seconds.

A failed handshake never gets here: gRPC refuses it alone, and its log is off (`watchbill.grpc_environment`).
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import grpc
import grpc.aio

from watchbill.clock import Clock
from watchbill.errors import Permanent, Unreadable
from watchbill.grpc_environment import tls_1_2_is_off
from watchbill.identity import parse_agent_uri
from watchbill.limits import DECOMPRESSED_BYTES_MAX, KEEPALIVE_MS, KIB, MESSAGE_BYTES_MAX
from watchbill.protocol.frames import EndReason
from watchbill_collector.ingest.gather import Gather, Inlet
from watchbill_collector.ingest.ingest import Ingest
from watchbill_collector.listening import cannot_listen

SERVICE = "watchbill.v1.Link"
URI_PROPERTY = "peer_uri"

READ_CHUNK_BYTES_MAX = 8 * KIB
OUTBOX_MESSAGES_MAX = 256
"""Messages waiting for one agent that does not read; then it is cut off."""
THROTTLE_MAX_S = 30.0

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"


class GrpcOutlet:
    """The way back of one stream."""

    __slots__ = ("_clerk", "_closing", "_context", "_outbox")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._outbox: deque[bytes] = deque()
        self._clerk: asyncio.Task[None] | None = None
        self._closing: EndReason | None = None

    def send(self, message: bytes, within_s: int = 0) -> None:  # noqa: ARG002 - Nobody keeps it on the way.
        """Send a message after those before it."""
        if self._closing is not None:
            return
        self._outbox.append(message)
        if len(self._outbox) > OUTBOX_MESSAGES_MAX:
            self._outbox.clear()
            self._closing = EndReason.BUSY
        self._wake()

    def end(self, message: bytes, reason: EndReason) -> None:
        """Send a last message and close."""
        if self._closing is not None:
            return
        self._outbox.append(message)
        self._closing = reason
        self._wake()

    def _wake(self) -> None:
        if self._clerk is None or self._clerk.done():
            self._clerk = asyncio.ensure_future(self._write())

    async def _write(self) -> None:
        """Write what waits, then close if that was asked for. Ends without a word when the stream is gone."""
        with contextlib.suppress(
            grpc.aio.AbortError, grpc.aio.BaseError, grpc.RpcError, asyncio.InvalidStateError
        ):
            while self._outbox:
                await self._context.write(self._outbox.popleft())
            if self._closing is not None:
                await self._context.abort(
                    status_of(self._closing), self._closing.name.lower().replace("_", " ")
                )

    async def drained(self) -> None:
        """Wait until nothing is being written."""
        if self._clerk is not None:
            await asyncio.wait({self._clerk})


def status_of(reason: EndReason) -> grpc.StatusCode:
    """The gRPC status that goes with an end; the End message before it says more."""
    if reason in (EndReason.REVOKED, EndReason.UNKNOWN_AGENT, EndReason.DUPLICATE_IDENTITY):
        return grpc.StatusCode.PERMISSION_DENIED
    if reason is EndReason.BUSY:
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    if reason is EndReason.SHUTDOWN:
        return grpc.StatusCode.UNAVAILABLE
    return grpc.StatusCode.FAILED_PRECONDITION


class GrpcServer:
    """The server of port 7443. `credentials` must demand a client certificate; `site` is the collector's own.

    `methods` are further methods of the service, by name (`Renew`).
    """

    def __init__(
        self,
        ingest: Ingest,
        credentials: grpc.ServerCredentials,
        clock: Clock,
        *,
        site: str,
        sessions_max: int,
        methods: Mapping[str, "grpc.RpcMethodHandler[Any, Any]"] | None = None,
    ) -> None:
        if not tls_1_2_is_off():
            raise Permanent("gRPC was imported before its environment was set, and would take TLS 1.2")
        self._ingest = ingest
        self._clock = clock
        self._site = site
        self._gather = Gather(clock.monotonic_s, ingest.commits.begin)
        self._server = grpc.aio.server(
            options=[
                ("grpc.http2.bdp_probe", 0),
                # Else a connection keeps a read buffer as large as its largest message.
                ("grpc.experimental.tcp_read_chunk_size", READ_CHUNK_BYTES_MAX // 2),
                ("grpc.experimental.tcp_min_read_chunk_size", READ_CHUNK_BYTES_MAX // 8),
                ("grpc.experimental.tcp_max_read_chunk_size", READ_CHUNK_BYTES_MAX),
                ("grpc.so_reuseport", 0),  # A second collector on the port must be told, not share it.
                # gRPC ends a stream with a longer message without telling us whose it was: so it lets more
                # through than is allowed, and the session refuses and counts it. Not more than this, because so
                # much a sender can make us hold (tried: of a message announced longer not a byte is kept).
                ("grpc.max_receive_message_length", DECOMPRESSED_BYTES_MAX),
                ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
                ("grpc.max_concurrent_streams", 8),
                ("grpc.max_metadata_size", 8 * 1024),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
                ("grpc.keepalive_permit_without_calls", 0),
                ("grpc.server_handshake_timeout_ms", 10_000),
            ],
            maximum_concurrent_rpcs=sessions_max + sessions_max // 10 + 16,
        )
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "Stream": grpc.stream_stream_rpc_method_handler(self._stream),
            **(methods or {}),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self._credentials = credentials
        self.port = 0

    async def start(self, address: str) -> int:
        """Listen on `host:port`; port 0 takes any. Returns the port. Raises Permanent when it cannot be
        had."""
        try:
            self.port = self._server.add_secure_port(address, self._credentials)
        except RuntimeError as exc:
            raise Permanent(cannot_listen("the agents' address", address, "[grpc] listen")) from exc
        await self._server.start()
        return self.port

    async def stop(self, grace_s: float = 2.0) -> None:
        """Take no new streams and end what is left. Close the ingest first: it says goodbye to its
        sessions."""
        await self._server.stop(grace_s)

    def _agent_id(self, context: Context) -> str | None:
        """Whose certificate this is; None for one that is no agent's of this site."""
        found = list(context.auth_context().get(URI_PROPERTY, ()))
        if len(found) != 1:
            return None
        try:
            uri = parse_agent_uri(found[0].decode("ascii"))
        except (Unreadable, UnicodeDecodeError):
            return None
        return uri.agent_id if uri.site == self._site else None

    async def _stream(self, _: Any, context: Context) -> None:
        agent_id = self._agent_id(context)
        if agent_id is None:
            self._ingest.counters.refused("", "certificate")
            await context.abort(
                grpc.StatusCode.UNAUTHENTICATED, "this certificate names no agent of this site"
            )
        outlet = GrpcOutlet(context)
        session = self._ingest.connect(agent_id, outlet)
        if session is None:
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED, "this host is not known here, or connects too often"
            )
        read: Callable[[], Awaitable[object]] = context.read
        inlet = Inlet(session.receive)
        gather = self._gather
        end_of_stream = grpc.aio.EOF
        try:
            while True:
                message = await read()
                if message is end_of_stream:
                    break
                assert isinstance(message, bytes)
                gather.add(inlet, message)
                if session.pulse is None:
                    gather.hand_over()  # A Hello is answered at once.
                throttle_s = inlet.throttle()
                if throttle_s > 0:
                    await asyncio.sleep(min(throttle_s, THROTTLE_MAX_S))
        except (grpc.aio.BaseError, grpc.RpcError):
            pass  # The connection broke, or this side ended it: either way there is nothing left to read.
        finally:
            gather.hand_over()
            if not session.ended and session.bye is None and session.pulse is not None:
                # gRPC cancels this and says to nobody why: the connection broke, the agent was killed, or it
                # announced a message beyond DECOMPRESSED_BYTES_MAX, of which gRPC then reads nothing.
                self._ingest.counters.cut(session.agent.instance or session.agent.agent_id)
            self._ingest.gone(session)
        await outlet.drained()
