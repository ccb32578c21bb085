"""The agent's answers to the person on its host: a Unix socket that says how things are, as one JSON
document.

One line asks ("status" or "gaps"), one document answers, then the connection closes. An order is a line with more
than one word ("leaving reboot 900000"); what it answers may take a moment. Only the agent's user,
its group and root may connect. Asking never disturbs the agent: connections, line length and time are
bounded.
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path

from watchbill.errors import Permanent, StorageError, Unreachable, UsageError
from watchbill.files import make_directory
from watchbill.logs import fields

log = logging.getLogger(__name__)

SOCKET_NAME = "status.sock"
SOCKET_MODE = 0o660
DIRECTORY_MODE = 0o750
QUESTION_BYTES_MAX = 64
ANSWER_BYTES_MAX = 8 * 1024 * 1024
ASK_TIMEOUT_S = 5.0
CONNECTIONS_MAX = 8
ADDRESS_BYTES_MAX = 107
"""What a Unix socket's address holds."""

Answers = Mapping[str, Callable[[], object]]
Orders = Mapping[str, Callable[[str], Awaitable[object]]]


class StatusSocket:
    """Serves `answers`: question -> what makes the document; and `orders`, which get the rest of the line and may
    refuse it with UsageError.
    """

    def __init__(self, path: Path, answers: Answers, orders: Orders | None = None) -> None:
        self.path = path
        self._answers = answers
        self._orders = orders or {}
        self._open = 0
        self._server: asyncio.Server | None = None
        self.refused = 0
        """Connections closed at once because too many were open."""

    async def start(self) -> None:
        """Listen. Raises StorageError when the socket cannot be made."""
        make_directory(self.path.parent, DIRECTORY_MODE)
        try:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()  # Left by a process that was killed; ours is the lock.
            listening = _bound(self.path)
            self._server = await asyncio.start_unix_server(
                self._serve, sock=listening, limit=QUESTION_BYTES_MAX
            )
        except OSError as exc:
            raise StorageError(f"{self.path}: status socket could not be made: {exc}") from exc

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= CONNECTIONS_MAX:
            self.refused += 1
            writer.close()
            return
        self._open += 1
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                await self._answer(reader, writer)
        except (TimeoutError, OSError, ValueError) as exc:
            log.debug("status question not answered", extra=fields(reason=exc))
        finally:
            self._open -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A line beyond the limit raises ValueError.
        question = (await reader.readline()).strip().decode("ascii", "replace")
        document = await self._document(question)
        writer.write(json.dumps(document).encode() + b"\n")
        await writer.drain()

    async def _document(self, question: str) -> object:
        make = self._answers.get(question)
        if make is not None:
            return make()
        name, _, rest = question.partition(" ")
        order = self._orders.get(name)
        if order is None:
            known = ", ".join(sorted([*self._answers, *self._orders]))
            return {"error": f"got {question!r}, wanted one of: {known}"}
        try:
            return await order(rest)
        except UsageError as exc:
            return {"error": str(exc)}

    async def stop(self) -> None:
        """Stop listening and remove the socket."""
        if self._server is not None:
            self._server.close()
            self._server = None
        with contextlib.suppress(OSError):
            self.path.unlink()


def _bound(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(path) as address:
            listening.bind(address)
        path.chmod(SOCKET_MODE)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """The path, or the same place through an open directory where it is too long for a socket's address."""
    if len(os.fsencode(path)) <= ADDRESS_BYTES_MAX:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def ask(path: Path, question: str) -> dict[str, object]:
    """Ask the running agent. Raises Unreachable when there is none, Permanent when its answer is none."""
    answer = bytearray()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, _short(path) as address:
            connection.settimeout(ASK_TIMEOUT_S)
            connection.connect(address)
            connection.sendall(question.encode() + b"\n")
            while piece := connection.recv(65_536):
                answer += piece
                if len(answer) > ANSWER_BYTES_MAX:
                    raise Permanent(f"{path}: the answer is larger than {ANSWER_BYTES_MAX} bytes")
    except PermissionError as exc:
        raise Unreachable(f"{path}: only root and the agent's group may ask; try sudo") from exc
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise Unreachable(
            f"{path}: no agent answers there ({reason}); is it running? watchbill-agent doctor says more"
        ) from exc
    try:
        document = json.loads(answer)
    except ValueError as exc:
        raise Permanent(f"{path}: the agent's answer was cut short") from exc
    if not isinstance(document, dict) or "error" in document:
        raise Permanent(f"{path}: {document}")
    return document
