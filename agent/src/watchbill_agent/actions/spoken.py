"""Asking this host's runner without an event loop: for short commands, and for looks in a child."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from watchbill.actions.canonical import canonical, read_canonical
from watchbill.errors import Unreadable
from watchbill_agent.question import short_address
from watchbill_agent.runner.bounds import FRAME_BYTES_MAX
from watchbill_agent.runner.frames import LENGTH


@contextlib.contextmanager
def connected(path: Path, timeout_s: float) -> Iterator[socket.socket]:
    """A connection, on which nothing is waited for longer than that. Raises OSError."""
    with socket.socket(socket.AF_UNIX) as connection, short_address(path) as address:
        connection.settimeout(timeout_s)
        connection.connect(address)
        yield connection


def ask(connection: socket.socket, **request: Any) -> dict[str, Any]:
    """One request, and its first answer. Raises OSError, Unreadable."""
    content = canonical(request)
    connection.sendall(LENGTH.pack(len(content)) + content)
    return answer(connection)


def answer(connection: socket.socket) -> dict[str, Any]:
    """A further answer. Raises OSError, Unreadable."""
    (length,) = LENGTH.unpack(_exactly(connection, LENGTH.size))
    if length > FRAME_BYTES_MAX:
        raise Unreadable(f"a frame of {length} bytes, wanted at most {FRAME_BYTES_MAX}")
    return read_canonical(_exactly(connection, length), FRAME_BYTES_MAX)


def _exactly(connection: socket.socket, length: int) -> bytes:
    found = bytearray()
    while len(found) < length:
        piece = connection.recv(length - len(found))
        if not piece:
            raise Unreadable("the runner hung up")
        found += piece
    return bytes(found)
