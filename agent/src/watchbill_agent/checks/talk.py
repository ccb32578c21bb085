"""Talking over a connection in lines: what was said and is not looked at yet, all of it bounded.

A server may say LINE_BYTES_MAX without a newline and ANSWER_BYTES_MAX between two things that we say. Beyond, the
verdict is `answer-too-long`.
"""

from typing import Final

from watchbill_agent.checks.check import Failed
from watchbill_agent.checks.connection import Connection
from watchbill_agent.checks.probing import shown
from watchbill_agent.checks.regex import Regex

LINE_BYTES_MAX: Final = 8 * 1024
PROMPT_BYTES_MAX: Final = 1024
"""Of a line without its end that may match: it is looked at again with each byte that comes."""
ANSWER_BYTES_MAX: Final = 64 * 1024


class Talk:
    """One side of a conversation."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._heard = b""
        self._left = ANSWER_BYTES_MAX
        self._last = b""

    async def say(self, said: bytes) -> None:
        """What comes next is the answer to it."""
        self._left = ANSWER_BYTES_MAX
        await self._connection.write(said)

    async def line(self) -> bytes:
        """The next line without its end. Raises Failed."""
        while b"\n" not in self._heard:
            if len(self._heard) > LINE_BYTES_MAX:
                raise self._too_long()
            await self._hear()
        line, _, self._heard = self._heard.partition(b"\n")
        self._last = line = line.removesuffix(b"\r")
        return line

    async def exactly(self, count: int) -> bytes:
        """So many bytes. Raises Failed."""
        while len(self._heard) < count:
            await self._hear()
        found, self._heard = self._heard[:count], self._heard[count:]
        return found

    async def find(self, wanted: Regex) -> None:
        """Until a line matches, or the beginning of one: prompts have no end. Raises Failed."""
        while True:
            while b"\n" in self._heard:
                if wanted.found_in(await self.line()):
                    return
            end = wanted.end_in(self._heard) if 0 < len(self._heard) <= PROMPT_BYTES_MAX else -1
            if end >= 0:
                self._heard = self._heard[end:]
                return
            if len(self._heard) > LINE_BYTES_MAX:
                raise self._too_long()
            try:
                await self._hear()
            except Failed as exc:
                if exc.reason != "closed" or not (self._last or self._heard):
                    raise
                detail = f"got {shown(self._heard or self._last)} at last, wanted {shown(wanted.text)}"
                raise Failed("answer-unexpected", detail) from exc

    def nothing_left(self) -> None:
        """Whoever said more before TLS begins may be somebody in between. Raises Failed."""
        if self._heard:
            raise Failed("protocol", f"{self._connection.where}: says {shown(self._heard)} before TLS begins")

    async def _hear(self) -> None:
        data = await self._connection.read(LINE_BYTES_MAX)
        if not data:
            raise Failed(
                "closed", f"{self._connection.where}: closed, got {shown(self._heard or self._last)}"
            )
        self._left -= len(data)
        if self._left < 0:
            raise self._too_long()
        self._heard += data

    def _too_long(self) -> Failed:
        return Failed("answer-too-long", f"{self._connection.where}: got {shown(self._heard)} and more")
