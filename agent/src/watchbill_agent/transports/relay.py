"""TLS of our own in front of gRPC, for a host whose clock cannot judge certificates.

gRPC judges dates by the system's clock and cannot be told another. So where that clock failed, gRPC speaks without TLS
to a unix socket of this process, in a directory that only its user can enter, and here the connection to the collector
begins: mutual TLS 1.3 as ever, the same authorities, the same names; only the dates are judged by the time that the
collector signed. Other hosts never get here: a relayed byte is copied twice more.
"""

import asyncio
import contextlib
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio

from watchbill.errors import Refused, Unreachable, WatchbillError
from watchbill.identity import AgentIdentity, Endpoint, parse_endpoint
from watchbill.signed_time import ANSWER_S_MAX, TimeRefused, new_nonce
from watchbill.tls import (
    Diagnosis,
    Handshake,
    channel_credentials,
    channel_options,
    connect,
    diagnosed,
    load_chain,
    server_only_credentials,
)
from watchbill.tls_dates import Validity, leave_dates, presented
from watchbill.v1 import link_pb2 as pb
from watchbill.v1 import link_pb2_grpc
from watchbill_agent.true_time import TrueTime

CONNECT_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 1.0
PIECE_BYTES = 64 * 1024
SOCKET_NAME = "grpc"

Judge = Callable[[Sequence[Validity]], None]
Options = Sequence[tuple[str, str | int]]


def context_of(trust_pem: bytes, chain_pem: bytes = b"", key_pem: bytes = b"") -> ssl.SSLContext:
    """As gRPC's own TLS, but for the dates. Raises ssl.SSLError for what cannot be loaded."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    context.load_verify_locations(cadata=trust_pem.decode("ascii"))
    if chain_pem:
        load_chain(context, chain_pem, key_pem)
    return leave_dates(context)


class Relay:
    """One unix socket and the connections through it. `failure` says why the last that failed did."""

    def __init__(self, endpoint: Endpoint, context: ssl.SSLContext, judge: Judge, proxy: str = "") -> None:
        self._endpoint = endpoint
        self._context = context
        self._judge = judge
        self._proxy = proxy
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.failure: Diagnosis | None = None

    async def start(self) -> str:
        """Listen; returns what gRPC calls the place."""
        self._directory = tempfile.TemporaryDirectory(prefix="watchbill-")  # Mode 0700.
        path = Path(self._directory.name) / SOCKET_NAME
        self._server = await asyncio.start_unix_server(self._accept, path)
        return f"unix:{path}"

    async def close(self) -> None:
        """End every connection. May be called twice."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer), name="relay")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far: asyncio.StreamWriter | None = None
        try:
            far_reader, far = await self._dial()
            ways = [
                asyncio.create_task(_pump(reader, far), name="relay up"),
                asyncio.create_task(_pump(far_reader, writer), name="relay down"),
            ]
            try:
                done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
            for way in done:
                await way
        except TimeRefused as exc:
            self.failure = Diagnosis(Handshake.SERVER_EXPIRED, f"{self._endpoint}: {exc}")
        except (OSError, Unreachable, Refused) as exc:
            self.failure = diagnosed(self._endpoint, exc)
        finally:
            await _closed(*(end for end in (writer, far) if end is not None))

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The connection to the collector, judged."""
        plain = await asyncio.to_thread(connect, self._endpoint, self._proxy, CONNECT_TIMEOUT_S)
        try:
            plain.setblocking(False)
            reader, writer = await asyncio.open_connection(
                sock=plain,
                ssl=self._context,
                server_hostname=self._endpoint.host,
                ssl_handshake_timeout=CONNECT_TIMEOUT_S,
            )
        except BaseException:
            plain.close()
            raise
        try:
            self._judge(presented(writer.get_extra_info("ssl_object")))
        except BaseException:
            await _closed(writer)
            raise
        return reader, writer


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(PIECE_BYTES):
        writer.write(piece)
        await writer.drain()


async def _closed(*ends: asyncio.StreamWriter) -> None:
    """Close some ends, in order if that can be had soon, and at once when this is cancelled."""
    for end in ends:
        end.close()
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await asyncio.gather(*(end.wait_closed() for end in ends), return_exceptions=True)
    except TimeoutError:
        pass
    finally:
        for end in ends:
            # What Python 3.11.2 says of one that is closed already.
            with contextlib.suppress(AttributeError):
                end.transport.abort()


def relay_options(endpoint: Endpoint) -> list[tuple[str, str | int]]:
    """Channel arguments of gRPC to a relay; the proxy is the relay's business."""
    return [*channel_options(), ("grpc.default_authority", str(endpoint))]


# ---------------------------------------------------------------- channels of one call


@asynccontextmanager
async def channel_to(
    endpoint: str, identity: AgentIdentity, proxy: str, time: TrueTime | None, *, certificate: bool
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel for one call: with this host's certificate or without; dates are judged by `time` where the system's
    clock failed at them.
    """
    if time is None or not time.bypass:
        credentials = (
            channel_credentials(identity) if certificate else server_only_credentials(identity.trust_pem)
        )
        async with grpc.aio.secure_channel(endpoint, credentials, channel_options(proxy)) as channel:
            yield channel
        return
    own = (identity.chain_pem, identity.key_pem) if certificate else ()
    context = context_of(identity.trust_pem, *own)
    async with relayed(Relay(parse_endpoint(endpoint), context, time.judge, proxy), endpoint) as channel:
        yield channel


@asynccontextmanager
async def relayed(relay: Relay, endpoint: str) -> AsyncIterator[grpc.aio.Channel]:
    """A channel through a relay; both end with the block."""
    target = await relay.start()
    try:
        async with grpc.aio.insecure_channel(target, relay_options(parse_endpoint(endpoint))) as channel:
            yield channel
    finally:
        await relay.close()


# ---------------------------------------------------------------- the time


def believe_dates(_: Sequence[Validity]) -> None:
    """For the question what time it is: its answer is signed, and nothing else is said over that connection."""


async def fetch_time(
    endpoint: str, context: ssl.SSLContext, nonce: bytes, proxy: str = ""
) -> tuple[pb.TimeReply, list[Validity]]:
    """Ask one port of the collector for its time; the answer is not verified yet, nor are the dates that the server
    presented. Raises Unreachable, and Refused for a server of somebody else's.
    """
    dates: list[Validity] = []
    relay = Relay(parse_endpoint(endpoint), context, dates.extend, proxy)
    async with relayed(relay, endpoint) as channel:
        try:
            reply: pb.TimeReply = await link_pb2_grpc.LinkStub(channel).Time(
                pb.TimeRequest(nonce=nonce), timeout=ANSWER_S_MAX
            )
        except grpc.aio.AioRpcError as exc:
            failure = relay.failure
            words = failure.text if failure is not None else f"{endpoint}: {exc.details() or exc.code().name}"
            raise Unreachable(words) from exc
    return reply, dates


async def learn_time(time: TrueTime, identity: AgentIdentity, stream_endpoint: str, proxy: str = "") -> None:
    """Ask the streams' port, and where that takes this host's certificate for expired the enrolment port. Raises
    TimeRefused, Unreachable.
    """
    ways = [(stream_endpoint, context_of(identity.trust_pem, identity.chain_pem, identity.key_pem))]
    if not identity.enrol_endpoint.startswith("mqtts://"):
        ways.append((identity.enrol_endpoint, context_of(identity.trust_pem)))
    failed: WatchbillError | None = None
    for endpoint, context in ways:
        nonce, asked_at_ms = new_nonce(), time.boottime_ms()
        try:
            reply, _ = await fetch_time(endpoint, context, nonce, proxy)
        except Unreachable as exc:
            failed = failed or exc
            continue
        time.told(identity, nonce, reply.wall_ms, reply.signature, asked_at_ms)
        return
    assert failed is not None, "there is at least one way"
    raise failed
