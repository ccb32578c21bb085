"""Asks the running agent through its socket: one line, one JSON document.

The other end is `status.py`. Apart from it, because whoever asks is a short command and imports no event loop.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from watchbill.errors import Permanent, Unreachable
from watchbill.limits import EVENT_BYTES_MAX

SOCKET_NAME = "status.sock"
QUESTION_BYTES_MAX = EVENT_BYTES_MAX + 64
"""The longest hands over a critical event."""
ANSWER_BYTES_MAX = 8 * 1024 * 1024
ASK_TIMEOUT_S = 5.0
ADDRESS_BYTES_MAX = 107
"""What a Unix socket's address holds."""


def ask(path: Path, question: str) -> dict[str, object]:
    """Ask the running agent. Raises Unreachable when there is none, Permanent when its answer is none."""
    answer = bytearray()
    try:
        path.stat()  # Where no agent runs, nobody needs to know how it would be spoken with.
        import socket

        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, short_address(path) as address:
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


@contextlib.contextmanager
def short_address(path: Path) -> Iterator[str]:
    """The path, or the same place through an open directory where it is too long for a socket's address."""
    if len(os.fsencode(path)) <= ADDRESS_BYTES_MAX:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
