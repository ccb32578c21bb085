"""What is spoken on the runner's socket: a length of four bytes, big-endian, and canonical JSON; one answer a request.

    {"do": "order", "order": base64}            -> {"events": [...], "changed": bool, "running": n}
    {"do": "act", "bundle": base64, ...}        -> as for an order; for root alone (acting.py)
    {"do": "acted", "key": hex}                 -> {"events": [...], "running": n}, which stay to be fetched
    {"do": "events", "wait_ms": n}              -> {"events": [...], "more": bool, "running": n}
    {"do": "confirm", "ids": [hex, ...]}        -> {"running": n, "waiting": n}
    {"do": "inventory", "part": n}              -> {"version": ..., "parts": n, "payload": base64}
    {"do": "observe", "name": ...}              -> {"piece": base64} as often as it takes, then {"outcome": ..., ...}
    {"do": "status"}                            -> {...}

An event is {"id": hex, "kind": ..., "payload": base64}. What cannot be answered is {"error": text}.
"""

import asyncio
import base64
import struct
from collections.abc import Mapping
from typing import Any, Final

from watchbill.actions.canonical import canonical, read_canonical
from watchbill.errors import ProtocolError, Unreadable
from watchbill_agent.runner.bounds import FRAME_BYTES_MAX, FRAME_S
from watchbill_agent.runner.event import Event

LENGTH: Final = struct.Struct(">I")
SOCKET_NAME: Final = "runner.sock"
PIECE_BYTES: Final = 192 * 1024
"""Of what was read, in one frame."""
EVENTS_BYTES_MAX: Final = 384 * 1024
"""Of events in one answer, as they stand there; the rest is for the next."""


async def read_frame(reader: asyncio.StreamReader, idle_s: float | None) -> dict[str, Any] | None:
    """One document; None when the peer is done. `idle_s` may pass before its first byte.

    Raises TimeoutError, ProtocolError, OSError.
    """
    async with asyncio.timeout(idle_s):
        first = await reader.read(1)
    if not first:
        return None
    try:
        async with asyncio.timeout(FRAME_S):
            (length,) = LENGTH.unpack(first + await reader.readexactly(LENGTH.size - 1))
            if length > FRAME_BYTES_MAX:
                raise ProtocolError(f"a frame of {length} bytes, wanted at most {FRAME_BYTES_MAX}")
            return read_canonical(await reader.readexactly(length), FRAME_BYTES_MAX)
    except asyncio.IncompleteReadError as exc:
        raise ProtocolError("the connection ended within a frame") from exc
    except Unreadable as exc:
        raise ProtocolError(str(exc)) from exc


async def write_frame(writer: asyncio.StreamWriter, document: Mapping[str, Any]) -> None:
    """Send one, and wait until the peer takes it. Raises TimeoutError, OSError."""
    content = canonical(document)
    assert len(content) <= FRAME_BYTES_MAX, "whoever answers keeps to the bound"
    writer.write(LENGTH.pack(len(content)) + content)
    async with asyncio.timeout(FRAME_S):
        await writer.drain()


def shown(event: Event) -> dict[str, str]:
    """An event, for an answer."""
    return {
        "id": event.id.hex(),
        "kind": event.kind,
        "payload": base64.b64encode(event.payload).decode("ascii"),
    }


def read_event(found: Mapping[str, Any]) -> Event:
    """An event from an answer. Raises ProtocolError."""
    try:
        event = Event(str(found["kind"]), base64.b64decode(found["payload"], validate=True))
    except (KeyError, ValueError, TypeError) as exc:
        raise ProtocolError(f"an event: {exc!r}") from exc
    if event.id.hex() != found.get("id"):
        raise ProtocolError("an event under another name than its own")
    return event


def that_fit(events: list[Event]) -> tuple[list[dict[str, str]], bool]:
    """As many events as one answer holds, and whether that is not all."""
    found: list[dict[str, str]] = []
    size = 0
    for event in events:
        one = shown(event)
        size += len(canonical(one))
        if found and size > EVENTS_BYTES_MAX:
            return found, True
        found.append(one)
    return found, False
