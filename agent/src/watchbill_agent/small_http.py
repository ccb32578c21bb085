"""A few lines of HTTP and no more, for what this host serves: one request a connection, everything bounded.

What is served is a function from a request to an answer. `metrics_page` and `pings` are the two that there are.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from watchbill.config import Address
from watchbill.errors import StorageError
from watchbill.logs import fields

log = logging.getLogger(__name__)

HEAD_BYTES_MAX: Final = 8 * 1024
BODY_BYTES_MAX: Final = 64 * 1024
"""Of a longer body the beginning is taken; the rest is read and left out."""
BODY_BYTES_READ_MAX: Final = 1024 * 1024
REQUEST_TIMEOUT_S: Final = 10.0
CONNECTIONS_MAX: Final = 16
TEXT: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked. Names of headers are in lower case; `query` is what stands behind the question mark."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said to it: `status` as it stands on the first line, such as "200 OK"."""

    status: str
    body: bytes
    content_type: str = TEXT
    headers: tuple[tuple[str, str], ...] = ()
    """More of them."""


class SmallServer:
    """Listens at `address`, of which the key `option` of the configuration is told when it cannot be had."""

    def __init__(
        self,
        address: Address,
        option: str,
        respond: Callable[[Request], Awaitable[Answer]],
        methods: tuple[str, ...] = ("GET", "HEAD"),
    ) -> None:
        self.address = address
        self._option = option
        self._respond = respond
        self._methods = methods
        self._open = 0
        self._server: asyncio.Server | None = None
        self.refused = 0
        """Connections closed at once because too many were open."""

    async def start(self) -> None:
        """Listen. Raises StorageError when the address cannot be had."""
        try:
            self._server = await asyncio.start_server(
                self._serve, self.address.host, self.address.port, limit=HEAD_BYTES_MAX
            )
        except OSError as exc:
            raise StorageError(f"{self._option}: {self.address} cannot be had: {exc}") from exc

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
            log.debug("a request was not answered", extra=fields(reason=type(exc).__name__))
        finally:
            self._open -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("utf-8", "replace")
        first, *lines = head.rstrip("\r\n").split("\r\n")
        method, _, rest = first.partition(" ")
        target, _, version = rest.partition(" ")
        if not version.startswith("HTTP/1."):
            answer = Answer("400 Bad Request", b"not HTTP\n")
        elif method not in self._methods:
            answer = Answer("405 Method Not Allowed", f"only {' and '.join(self._methods)}\n".encode())
        else:
            headers = {name.strip().lower(): value.strip() for name, _, value in _pairs(lines)}
            path, _, query = target.partition("?")
            body = await self._body(reader, headers)
            answer = await self._respond(Request(method, path, query, headers, body))
        shown = (
            f"HTTP/1.1 {answer.status}",
            f"Content-Type: {answer.content_type}",
            f"Content-Length: {len(answer.body)}",
            *(f"{name}: {value}" for name, value in answer.headers),
            "X-Content-Type-Options: nosniff",
            "Connection: close",
        )
        writer.write("\r\n".join(shown).encode() + b"\r\n\r\n" + (b"" if method == "HEAD" else answer.body))
        await writer.drain()

    async def _body(self, reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
        """What was posted, as far as it is taken."""
        text = headers.get("content-length", "0")
        length = (
            int(text)
            if text.isascii() and text.isdigit() and len(text) <= len(str(BODY_BYTES_READ_MAX))
            else 0
        )
        taken = await reader.readexactly(min(length, BODY_BYTES_MAX))
        rest = min(length, BODY_BYTES_READ_MAX) - len(taken)
        while rest > 0 and (more := await reader.read(min(rest, HEAD_BYTES_MAX))):
            rest -= len(more)
        return taken


def _pairs(lines: list[str]) -> list[tuple[str, str, str]]:
    return [line.partition(":") for line in lines if ":" in line]
