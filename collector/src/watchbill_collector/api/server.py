"""The HTTP server inside the collector's loop: uvicorn, with bounds on what a connection may do.

uvicorn (0.54) waits for ever for a client that sends nothing, or a byte a minute, and for one that never
reads its answer; the protocol class here ends those. It handles signals unless it is kept from it, and it
logs a line for each malformed request, which would let anybody fill the log.

Stopping, in order: streams are told and end at once, no new connections, requests in flight get SHUTDOWN_S,
then connections are cut.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from watchbill.errors import Permanent, StorageError, UsageError
from watchbill_collector.api.counters import HttpCounters
from watchbill_collector.api.house import House
from watchbill_collector.api.limits import (
    BODY_TIMEOUT_S,
    CONNECTIONS_MAX,
    HEAD_BYTES_MAX,
    HEAD_TIMEOUT_S,
    KEEP_ALIVE_S,
    SHUTDOWN_S,
    STALL_TIMEOUT_S,
)
from watchbill_collector.listening import cannot_listen

BACKLOG = 256


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a connection may take, in seconds, and how many there may be."""

    head_s: float = HEAD_TIMEOUT_S
    body_s: float = BODY_TIMEOUT_S
    stall_s: float = STALL_TIMEOUT_S
    connections_max: int = CONNECTIONS_MAX


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files for serving TLS."""

    certificate: Path
    key: Path


def _protocol(patience: Patience, counters: HttpCounters) -> type[H11Protocol]:
    """uvicorn makes its protocol from a class, so the bounds travel in one."""

    class BoundedProtocol(H11Protocol):
        """A connection whose peer has to get on with it."""

        _timer: asyncio.TimerHandle | None = None
        _timer_for: str = ""
        _stall: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            counters.connections.set(len(self.connections))
            if len(self.connections) > patience.connections_max:
                self._cut("connections")
                return
            self._wait_for("head")

        def connection_lost(self, exc: Exception | None) -> None:
            self._wait_for("")
            if self._stall is not None:
                self._stall.cancel()
            super().connection_lost(exc)
            counters.connections.set(len(self.connections))

        def handle_events(self) -> None:
            super().handle_events()
            self._look()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._look()

        def _look(self) -> None:
            """What the peer owes us now, by the state of its side of the conversation."""
            state = str(self.conn.their_state)
            if state == "SEND_BODY":
                self._wait_for("body")
            elif state == "IDLE" and self.conn.trailing_data[0]:
                self._wait_for("head")
            else:
                self._wait_for("")

        def _wait_for(self, what: str) -> None:
            if what == self._timer_for:
                return
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._timer_for = what
            if what:
                seconds = patience.head_s if what == "head" else patience.body_s
                self._timer = self.loop.call_later(seconds, self._cut, f"slow_{what}")

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._stall is None:
                self._stall = self.loop.call_later(patience.stall_s, self._cut, "stalled")

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._stall is not None:
                self._stall.cancel()
                self._stall = None

        def send_400_response(self, msg: str) -> None:
            counters.refused.labels("malformed").inc()
            with contextlib.suppress(Exception):
                # Answering needs our side of the conversation to be open, which after half an answer it is
                # not.
                super().send_400_response(msg)
                # The head may have been good and its handler be on its way: it must not answer, too.
                if self.cycle is not None:
                    self.cycle.disconnected = True
                    self.cycle.message_event.set()
                return
            self.transport.abort()

        def _cut(self, reason: str) -> None:
            counters.refused.labels(reason).inc()
            if self.transport is not None and not self.transport.is_closing():
                self.transport.abort()

    return BoundedProtocol


TICK_S = 1.0
"""How often uvicorn renews the Date header. Left to itself it wakes the loop ten times a second, which was 3 % of a
collector with a thousand hosts."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the daemon has its own. `leave` ends it."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """Begin to shut down."""
        self.should_exit = True
        self._leaving.set()

    async def main_loop(self) -> None:
        """Until `leave`, or until uvicorn has its own reasons."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), TICK_S)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


class HttpServer:
    """Serves an application on one address. `start` returns when it accepts, `stop` when nothing of it is
    left.
    """

    def __init__(
        self,
        app: ASGIApp,
        house: House,
        host: str,
        port: int,
        tls: TlsFiles | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._house = house
        self._host = host
        self._port = port
        self._task: asyncio.Task[None] | None = None
        self._socket: socket.socket | None = None
        # Its lines about malformed requests are counted instead; a failed handler is logged by the
        # application.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        config = uvicorn.Config(
            app,
            http=_protocol(patience or Patience(), house.counters),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            interface="asgi3",
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=SHUTDOWN_S,
            h11_max_incomplete_event_size=HEAD_BYTES_MAX,
            backlog=BACKLOG,
            ssl_context_factory=None if tls is None else lambda _config, _default: tls_context(tls),
        )
        self._server = _Server(config)

    @property
    def port(self) -> int:
        """The port in use; after `start` never 0."""
        return self._port

    async def start(self) -> None:
        """Bind and accept. Raises Permanent when the address is taken, UsageError when the TLS files are no good."""
        self._server.config.load()  # Reads the certificate while nothing is open yet.
        self._socket = _bound(self._host, self._port)
        self._port = self._socket.getsockname()[1]
        self._task = asyncio.create_task(self._server.serve([self._socket]), name="http")
        while not self._server.started:
            if self._task.done():
                await self._task
                raise StorageError("the HTTP server ended before it began")
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """End streams, then requests, then connections."""
        self._house.stopping.set()
        if self._task is None:
            return
        await asyncio.sleep(0)  # Streams wake up and write their last line before connections are looked at.
        self._server.leave()
        for connection in list(self._server.server_state.connections):
            flow = getattr(connection, "flow", None)
            transport = getattr(connection, "transport", None)
            if flow is not None and transport is not None and flow.write_paused:
                transport.abort()  # It does not read; waiting would not change that.
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        for connection in list(self._server.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()
        self._house.pool.close()


def tls_context(files: TlsFiles) -> ssl.SSLContext:
    """TLS 1.2 and newer, as browsers of any age that still gets updates speak. Raises UsageError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.certificate, files.key)
    except (OSError, ssl.SSLError) as exc:
        raise UsageError(f"{files.certificate}, {files.key}: cannot be used for TLS: {exc}") from exc
    return context


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only where the protocol is named; with it every answer takes 40
    # ms.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError as exc:
        sock.close()
        raise Permanent(cannot_listen("the HTTP address", f"{host}:{port}", "[http] listen")) from exc
    sock.setblocking(False)
    return sock
