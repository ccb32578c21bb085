"""HTTP/1.1 by h11 and HTTP/2 by h2, for one request over one connection; every answer bounded.

What a server may make us read: HEAD_BYTES_MAX of headers, the bytes that the caller allows of a body, in a number of
pieces (a body in chunks of one byte costs a second of CPU for 100 KiB), INFORMATIONAL_MAX answers before the real one,
and over HTTP/2 EVENTS_MAX frames that are no data. Beyond, the verdict says which.
"""

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from watchbill_agent.checks.check import Failed
from watchbill_agent.checks.connection import Connection
from watchbill_agent.checks.probing import Phases, missing, shown

if TYPE_CHECKING:
    import h11

Headers = list[tuple[str, str]]

HEAD_BYTES_MAX: Final = 64 * 1024
INFORMATIONAL_MAX: Final = 10
EVENTS_MAX: Final = 1_000
PIECES_1_MAX: Final = 20_000
"""Chunks over HTTP/1.1: h11 takes 10 us for each."""
PIECES_2_MAX: Final = 5_000
"""Frames with data over HTTP/2: h2 takes 100 us for each."""
TURN_PIECES: Final = 200
"""After which others have their turn."""
FRAMED_BYTES_MAX: Final = 256 * 1024
FRAMED_TIMES_MAX: Final = 8
"""What all may take with heads and frames: that many times the body that is allowed, and FRAMED_BYTES_MAX."""
READ_2_BYTES: Final = 4 * 1024
"""At once over HTTP/2: what is in it is taken apart without a break, 450 frames at worst."""
HTTP_2_STREAM: Final = 1

_BEGIN: Final = b"HTTP/"


@dataclass(slots=True)
class Request:
    """What to ask. Names of headers in lower case; the host is apart."""

    method: str
    scheme: str
    host: str
    path: str
    headers: Headers
    body: bytes
    made: Any = field(default=None, compare=False)
    """The same for h11, once it was asked."""


class Kept:
    """The last request of a check: one that is asked again is not made and judged again (h11 takes 80 us for it)."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: Request | None = None

    def same(self, request: Request) -> Request:
        """The one from before, if it is the same."""
        if self._last != request:
            self._last = request
        assert self._last is not None, "it is this one now"
        return self._last


@dataclass(slots=True)
class Answer:
    """What was said. `body` is empty unless it was to be kept; `body_bytes` is its length all the same."""

    status: int
    version: str
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    body_bytes: int = 0
    pieces: list[bytes] = field(default_factory=list)
    pieces_taken: int = 0

    @property
    def content_length(self) -> int:
        """As the header says; -1 where it says nothing."""
        said = next((value for name, value in self.headers if name == b"content-length"), b"")
        return int(said) if said.isdigit() and len(said) < 19 else -1

    def take(self, piece: bytes, bytes_max: int, pieces_max: int, *, keep: bool) -> None:
        """A piece of the body. Raises Failed."""
        self.body_bytes += len(piece)
        self.pieces_taken += 1
        if self.pieces_taken > pieces_max:
            raise Failed("body-too-long", f"{self.body_bytes} bytes in more than {pieces_max} pieces")
        if self.body_bytes > bytes_max:
            raise Failed("body-too-long", f"more than {bytes_max} bytes")
        if keep:
            self.pieces.append(piece)

    def finish(self) -> "Answer":
        """All came."""
        self.body = b"".join(self.pieces)
        self.pieces.clear()
        return self


async def ask_1(
    connection: Connection, request: Request, bytes_max: int, phases: Phases, *, keep: bool
) -> Answer:
    """Over HTTP/1.1. Raises Failed."""
    try:
        import h11
    except ImportError:
        raise missing("h11") from None
    wire = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)
    phases.begin("processing")
    try:
        said = request.made
        if said is None:
            head = [("host", request.host), *request.headers, ("connection", "close")]
            said = request.made = h11.Request(method=request.method, target=request.path, headers=head)
        sent = wire.send(said) or b""
        if request.body:
            sent += wire.send(h11.Data(data=request.body)) or b""
        sent += wire.send(h11.EndOfMessage()) or b""
    except h11.LocalProtocolError as exc:
        raise Failed("protocol", f"what is to be asked is no HTTP: {exc}") from exc
    with contextlib.suppress(
        Failed
    ):  # It may have answered before it had read everything: that is worth more.
        await connection.write(sent)
    reader = _Reader1(connection, wire, bytes_max, phases)
    answer = await reader.answer()
    try:
        while True:
            event = await reader.next()
            if isinstance(event, h11.Data):
                answer.take(bytes(event.data), bytes_max, PIECES_1_MAX, keep=keep)
                if answer.pieces_taken % TURN_PIECES == 0:
                    await asyncio.sleep(0)
            elif isinstance(event, (h11.EndOfMessage, h11.ConnectionClosed)):
                return answer.finish()
    except Failed as exc:
        if exc.reason == "closed":
            raise Failed("body-incomplete", f"closed after {answer.body_bytes} bytes of the body") from exc
        raise


class _Reader1:
    """Events of an answer over HTTP/1.1."""

    def __init__(
        self, connection: Connection, wire: "h11.Connection", bytes_max: int, phases: Phases
    ) -> None:
        self._connection = connection
        self._wire = wire
        self._phases = phases
        self._left = _framed(bytes_max)
        self._first = True

    async def answer(self) -> Answer:
        """Its status and headers."""
        import h11

        for _ in range(INFORMATIONAL_MAX + 1):
            event = await self.next()
            if isinstance(event, h11.Response):
                version = event.http_version.decode("ascii")
                return Answer(event.status_code, version, list(event.headers))
            if not isinstance(event, h11.InformationalResponse) or event.status_code == 101:
                break
        else:
            raise Failed("protocol", f"more than {INFORMATIONAL_MAX} answers that are none yet")
        raise Failed("protocol", f"{self._connection.where}: got no answer, but {type(event).__name__}")

    async def next(self) -> Any:
        """The next event. Raises Failed."""
        import h11

        try:
            while (event := self._wire.next_event()) is h11.NEED_DATA:
                data = await self._connection.read()
                if self._first:
                    self._first = False
                    self._phases.begin("transfer")
                    if not data:
                        raise Failed("closed", f"{self._connection.where}: closed without an answer")
                    if not data.startswith(_BEGIN[: len(data)]):
                        raise Failed(
                            "protocol", f"{self._connection.where}: got {shown(data)}, wanted HTTP/1.1"
                        )
                self._wire.receive_data(data)
                self._left -= len(data)
                if self._left < 0:
                    raise Failed("body-too-long", f"{self._connection.where}: too much of it is no body")
        except h11.RemoteProtocolError as exc:
            raise self._fault(exc) from exc
        return event

    def _fault(self, error: Exception) -> Failed:
        where = self._connection.where
        if getattr(error, "error_status_hint", 0) == 431:
            return Failed("headers-too-long", f"{where}: more than {HEAD_BYTES_MAX} bytes")
        text = str(error)
        if text.startswith("peer "):
            return Failed("closed", f"{where}: closed in the middle")
        return Failed("protocol", f"{where}: {shown(text)}")


def _framed(bytes_max: int) -> int:
    return FRAMED_TIMES_MAX * bytes_max + FRAMED_BYTES_MAX


async def tunnel(connection: Connection, to: str) -> None:
    """Through a proxy, by CONNECT. Raises Failed."""
    await connection.write(f"CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n".encode("ascii"))
    said = b""
    while b"\r\n\r\n" not in said:
        # Nothing may follow its answer before we say something, so nothing is lost by reading more.
        piece = await connection.read(4096)
        said += piece
        if not piece or len(said) > HEAD_BYTES_MAX:
            raise Failed("proxy-refused", f"{connection.where}: got {shown(said)}, wanted 200")
    line = said.partition(b"\r\n")[0].split(b" ", 2)
    if len(line) < 2 or not line[0].startswith(b"HTTP/1.") or line[1] != b"200":
        raise Failed("proxy-refused", f"{connection.where}: got {shown(b' '.join(line))}, wanted 200")


# ---------------------------------------------------------------- HTTP/2


async def ask_2(
    connection: Connection, request: Request, bytes_max: int, phases: Phases, *, keep: bool
) -> Answer:
    """Over HTTP/2. Raises Failed."""
    try:
        import h2.config
        import h2.connection
        import h2.errors
        import h2.exceptions
    except ImportError:
        raise missing("h2") from None
    wire = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
    phases.begin("processing")
    exchange = _Exchange2(connection, wire, bytes_max, phases, keep=keep)
    try:
        return await exchange.run(request)
    except h2.exceptions.DenialOfServiceError as exc:
        raise Failed("headers-too-long", f"{connection.where}: {shown(str(exc))}") from exc
    except (h2.exceptions.H2Error, ValueError, LookupError) as exc:
        raise Failed("protocol", f"{connection.where}: {type(exc).__name__} {shown(str(exc))}") from exc


class _Exchange2:
    def __init__(
        self, connection: Connection, wire: Any, bytes_max: int, phases: Phases, *, keep: bool
    ) -> None:
        self._connection = connection
        self._wire = wire
        self._bytes_max = bytes_max
        self._phases = phases
        self._keep = keep
        self._answer: Answer | None = None
        self._done = False
        self._events = 0
        self._bytes = 0

    async def run(self, request: Request) -> Answer:
        """Ask, and read the answer."""
        self._wire.initiate_connection()
        head = [
            (":method", request.method),
            (":scheme", request.scheme),
            (":authority", request.host),
            (":path", request.path),
            *request.headers,
        ]
        self._wire.send_headers(HTTP_2_STREAM, head, end_stream=not request.body)
        body = memoryview(request.body)
        await self._flush()
        while not self._done:
            body = self._send(body)
            await self._flush()
            data = await self._connection.read(READ_2_BYTES)
            if not data:
                self._closed()
            if not self._bytes:
                self._phases.begin("transfer")
                if data.startswith(_BEGIN):
                    raise Failed(
                        "protocol", f"{self._connection.where}: got {shown(data[:8])}, wanted HTTP/2"
                    )
            self._bytes += len(data)
            if self._bytes > _framed(self._bytes_max):
                raise Failed("body-too-long", f"{self._connection.where}: too much of it is no body")
            events = self._wire.receive_data(data)
            for event in events:
                self._take(event)
            if len(events) > TURN_PIECES:
                await asyncio.sleep(0)
        assert self._answer is not None, "an answer ends after it began"
        return self._answer.finish()

    def _send(self, body: memoryview) -> memoryview:
        while body:
            window = self._wire.local_flow_control_window(HTTP_2_STREAM)
            size = min(len(body), window, self._wire.max_outbound_frame_size)
            if size <= 0:
                break
            self._wire.send_data(HTTP_2_STREAM, bytes(body[:size]), end_stream=size == len(body))
            body = body[size:]
        return body

    async def _flush(self) -> None:
        if data := self._wire.data_to_send():
            await self._connection.write(data)

    def _closed(self) -> None:
        if self._answer is None:
            raise Failed("closed", f"{self._connection.where}: closed without an answer")
        raise Failed("body-incomplete", f"closed after {self._answer.body_bytes} bytes of the body")

    def _take(self, event: Any) -> None:
        import h2.events

        if isinstance(event, h2.events.DataReceived):
            if self._answer is None:
                raise Failed("protocol", f"{self._connection.where}: data before an answer")
            self._answer.take(event.data, self._bytes_max, PIECES_2_MAX, keep=self._keep)
            self._wire.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if event.data:
                return
        if isinstance(event, h2.events.ResponseReceived):
            headers = list(event.headers)
            status = next((value for name, value in headers if name == b":status"), b"0")
            fields = [(bytes(name), bytes(value)) for name, value in headers if not name.startswith(b":")]
            self._answer = Answer(int(status), "2", fields)
        elif isinstance(event, h2.events.StreamEnded):
            self._done = True
        elif isinstance(event, h2.events.StreamReset):
            code = getattr(event.error_code, "name", event.error_code)
            raise Failed("reset", f"{self._connection.where}: the stream was reset: {code}")
        elif isinstance(event, h2.events.ConnectionTerminated):
            code = getattr(event.error_code, "name", event.error_code)
            if not self._done:
                raise Failed("closed", f"{self._connection.where}: the server says goodbye: {code}")
        self._events += 1
        if self._events > EVENTS_MAX:
            raise Failed(
                "protocol", f"{self._connection.where}: more than {EVENTS_MAX} frames that are no data"
            )
