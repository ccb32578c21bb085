"""`/metrics` as node_exporter serves it, for whoever scrapes this host beside or instead of the collector.

A few lines of HTTP and no more: GET and HEAD, one request a connection, everything bounded. Each scrape reads
the host anew, as node_exporter does, but at most once a second whoever asks how often.
"""

import asyncio
import logging
from collections.abc import Callable

from watchbill.clock import Clock
from watchbill.config import Address
from watchbill.errors import StorageError
from watchbill.logs import fields

log = logging.getLogger(__name__)

REQUEST_BYTES_MAX = 8 * 1024
REQUEST_TIMEOUT_S = 10.0
CONNECTIONS_MAX = 16
FRESH_S = 1.0
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_INDEX = b"Watchbill agent. The metrics are at /metrics.\n"


class MetricsPage:
    """Serves what `render` makes."""

    def __init__(self, address: Address, render: Callable[[], bytes], clock: Clock) -> None:
        self.address = address
        self._render = render
        self._clock = clock
        self._open = 0
        self._server: asyncio.Server | None = None
        self._made: tuple[float, bytes] | None = None
        self.refused = 0
        """Connections closed at once because too many were open."""

    async def start(self) -> None:
        """Listen. Raises StorageError when the address cannot be had."""
        try:
            self._server = await asyncio.start_server(
                self._serve, self.address.host, self.address.port, limit=REQUEST_BYTES_MAX
            )
        except OSError as exc:
            raise StorageError(f"prometheus.listen: {self.address} cannot be had: {exc}") from exc

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._server is not None, "asked after start"
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= CONNECTIONS_MAX:
            self.refused += 1
            writer.close()
            return
        self._open += 1
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                await self._answer(reader, writer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as exc:
            log.debug("scrape not answered", extra=fields(reason=type(exc).__name__))
        finally:
            self._open -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, _, rest = head.split(b"\r\n", 1)[0].partition(b" ")
        target, _, version = rest.partition(b" ")
        path = target.split(b"?", 1)[0]
        if not version.startswith(b"HTTP/1."):
            status, body = "400 Bad Request", b"not HTTP\n"
        elif method not in (b"GET", b"HEAD"):
            status, body = "405 Method Not Allowed", b"only GET\n"
        elif path == b"/metrics":
            status, body = "200 OK", self._metrics()
        elif path == b"/":
            status, body = "200 OK", _INDEX
        else:
            status, body = "404 Not Found", b"the metrics are at /metrics\n"
        lines = (
            f"HTTP/1.1 {status}",
            f"Content-Type: {CONTENT_TYPE}",
            f"Content-Length: {len(body)}",
            "X-Content-Type-Options: nosniff",
            "Connection: close",
        )
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if method == b"HEAD" else body))
        await writer.drain()

    def _metrics(self) -> bytes:
        now_s = self._clock.monotonic_s()
        if self._made is None or now_s - self._made[0] >= FRESH_S:
            self._made = now_s, self._render()
        return self._made[1]
