"""One connection to this host's runner: requests and answers, of which `runner/frames.py` says how they look."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from watchbill.errors import ProtocolError, Refused, Unreachable
from watchbill_agent.question import short_address
from watchbill_agent.runner.bounds import FRAME_BYTES_MAX, WAIT_S_MAX
from watchbill_agent.runner.event import Event
from watchbill_agent.runner.frames import SOCKET_NAME, read_event, read_frame, write_frame

ANSWER_S: Final = 30.0
"""A runner that takes longer hangs; what it was asked is asked again."""
READING_S_MAX: Final = 3600.0 + 120.0
READING_BYTES_MAX: Final = 16 * 1024 * 1024


class NoRunner(Unreachable):
    """Nobody listens: nothing was handed over."""


@dataclass(frozen=True, slots=True)
class Told:
    """Events, whether there are more, how many commands run, and whether the inventory is another one now."""

    events: tuple[Event, ...]
    more: bool
    running: int
    changed: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """One part of an inventory."""

    version: str
    part: int
    parts: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Reading:
    """What the runner read for us. `whole`: all of it is here; `outcome` is a word of `actions.outcomes.Outcome`."""

    output: bytes
    outcome: str
    exit_code: int | None
    errors: str
    whole: bool
    detail: str


def runner_socket(run: Path) -> Path:
    """Where the runner listens, beside the agent's own directory of sockets."""
    return run.parent / "runner" / SOCKET_NAME


class Door:
    """An open connection. Raises NoRunner when nobody listens, Unreachable when it breaks or takes too long."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        """Connect."""
        try:
            with short_address(self._path) as address:
                self._reader, self._writer = await asyncio.open_unix_connection(
                    address, limit=FRAME_BYTES_MAX
                )
        except OSError as exc:
            raise NoRunner(
                f"{self._path}: no runner listens there ({(exc.strerror or str(exc)).lower()})"
            ) from exc
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hang up."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def order(self, signed: bytes) -> Told:
        """Hand an order over: what it caused at once."""
        return _told(await self._ask(ANSWER_S, do="order", order=base64.b64encode(signed).decode("ascii")))

    async def act(self, request: dict[str, Any]) -> Told:
        """Have a step of a bundle begun; see `runner/acting.py`. Raises Refused for who is not root."""
        return _told(await self._ask(ANSWER_S, do="act", **request))

    async def acted(self, key: str) -> Told:
        """What is known of one that was begun so."""
        return _told(await self._ask(ANSWER_S, do="acted", key=key))

    async def events(self, wait_s: float) -> Told:
        """What waits to be told, waited for at most so long."""
        wait_s = min(wait_s, WAIT_S_MAX)
        return _told(await self._ask(wait_s + ANSWER_S, do="events", wait_ms=int(wait_s * 1000)))

    async def confirm(self, ids: list[bytes]) -> None:
        """These are safe."""
        await self._ask(ANSWER_S, do="confirm", ids=[one.hex() for one in ids])

    async def inventory(self) -> AsyncIterator[Part]:
        """Every part. Raises Unreachable when it changes meanwhile."""
        number = parts = 0
        version = ""
        while number == 0 or number < parts:
            found = await self._ask(ANSWER_S, do="inventory", part=number)
            try:
                part = Part(
                    str(found["version"]),
                    int(found["part"]),
                    int(found["parts"]),
                    base64.b64decode(found["payload"], validate=True),
                )
            except (KeyError, ValueError, TypeError) as exc:
                raise Unreachable(f"the runner's inventory: {exc!r}") from exc
            if number and part.version != version:
                raise Unreachable("the inventory changed while it was told")
            version, parts = part.version, part.parts
            yield part
            number += 1

    async def observe(self, name: str) -> Reading:
        """Have something read by its name in observe.d. Raises Refused, with why not."""
        output = bytearray()
        answer = await self._ask(READING_S_MAX, do="observe", name=name)
        while "piece" in answer:
            output += base64.b64decode(answer["piece"])
            if len(output) > READING_BYTES_MAX:
                raise Unreachable(f"the reading {name} is longer than {READING_BYTES_MAX} bytes")
            answer = await self._read(ANSWER_S)
        try:
            return Reading(
                output=bytes(output),
                outcome=str(answer["outcome"]),
                exit_code=answer["exit_code"],
                errors=str(answer["errors"]),
                whole=answer["whole"] is True,
                detail=str(answer["detail"]),
            )
        except KeyError as exc:
            raise Unreachable(f"the reading {name}: an answer without {exc}") from exc

    async def _ask(self, answer_s: float, **request: Any) -> dict[str, Any]:
        try:
            await write_frame(self._writer, request)
        except (OSError, TimeoutError) as exc:
            raise Unreachable(f"the runner does not listen: {exc!r}") from exc
        return await self._read(answer_s)

    async def _read(self, answer_s: float) -> dict[str, Any]:
        try:
            answer = await read_frame(self._reader, answer_s)
        except (OSError, TimeoutError, ProtocolError) as exc:
            raise Unreachable(f"the runner does not answer: {exc!r}") from exc
        if answer is None:
            raise Unreachable("the runner hung up")
        if "error" in answer:
            raise Refused(str(answer["error"]))
        return answer


def _told(answer: dict[str, Any]) -> Told:
    try:
        return Told(
            events=tuple(read_event(one) for one in answer["events"]),
            more=answer.get("more") is True,
            running=int(answer["running"]),
            changed=answer.get("changed") is True,
        )
    except (KeyError, ValueError, TypeError, ProtocolError) as exc:
        raise Unreachable(f"the runner's answer: {exc!r}") from exc
