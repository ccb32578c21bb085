"""The agent's answers to the person on its host: a Unix socket that says how things are, as one JSON
document.

One line asks ("status" or "gaps"), one document answers, then the connection closes. An order is a line with more
than one word ("leaving reboot 900000"); what it answers may take a moment. Only the agent's user, its group and root
may connect. Asking never disturbs the agent: connections, line length and time are bounded. Who asks is `question.py`.
"""

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from watchbill.errors import StorageError, UsageError
from watchbill.files import make_directory
from watchbill.logs import fields
from watchbill_agent.question import ASK_TIMEOUT_S, QUESTION_BYTES_MAX, short_address

log = logging.getLogger(__name__)

SOCKET_MODE = 0o660
DIRECTORY_MODE = 0o750
CONNECTIONS_MAX = 8
SHOWN_CHARACTERS_MAX = 80
"""Of a question that is none, in the answer."""

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
        question = (await reader.readline()).strip().decode("utf-8", "replace")
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
            return {"error": f"got {question[:SHOWN_CHARACTERS_MAX]!r}, wanted one of: {known}"}
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
        with short_address(path) as address:
            listening.bind(address)
        path.chmod(SOCKET_MODE)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening
