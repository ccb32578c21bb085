"""Redis' protocol, as far as a look needs it: commands of words, and answers of one line or one text.

The library for it takes 129 ms and 9 MiB to import, and reads an answer of any size: a server that sends for ever would
fill the process of all checks. Here a line and a text have a bound.
"""

import asyncio
import re
import ssl
from pathlib import Path
from typing import Final

LINE_BYTES_MAX: Final = 16 * 1024
TEXT_BYTES_MAX: Final = 1024 * 1024
"""INFO of a server with many modules and databases has 20 KB."""
SHOWN_CHARACTERS_MAX: Final = 60
_LENGTH = re.compile(rb"-?\d{1,18}")
_NUMBER = re.compile(r"-?\d{1,20}(?:\.\d{1,20})?", re.ASCII)


class NotRedis(Exception):
    """What answers there does not speak as Redis does."""


class SaidNo(Exception):
    """The server's own words for what it does not do."""


class Resp:
    """One connection. Raises OSError, EOFError, NotRedis, SaidNo."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, host: str, port: int, secured: ssl.SSLContext | None = None) -> "Resp":
        """Over TCP, or TLS."""
        opened = await asyncio.open_connection(host, port, ssl=secured, limit=LINE_BYTES_MAX)
        return cls(*opened)

    @classmethod
    async def connect_here(cls, path: Path) -> "Resp":
        """Over a socket of this host."""
        return cls(*await asyncio.open_unix_connection(path, limit=LINE_BYTES_MAX))

    async def ask(self, *words: str) -> str:
        """One command, and its answer as text; "" for none."""
        encoded = [word.encode() for word in words]
        self._writer.write(
            b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(one), one) for one in encoded)
        )
        return await self._answer()

    def close(self) -> None:
        """At once: nothing is on its way."""
        self._writer.transport.abort()

    async def _answer(self) -> str:
        line = await self._line()
        kind, said = line[:1], line[1:]
        if kind == b"-":
            raise SaidNo(said.decode("utf-8", "replace"))
        if kind in (b"+", b":"):
            return said.decode("utf-8", "replace")
        if kind != b"$" or not _LENGTH.fullmatch(said):
            shown = ascii(line[:SHOWN_CHARACTERS_MAX].decode("latin-1"))
            raise NotRedis(f"got {shown}, wanted an answer of Redis")
        length = int(said)
        if length < 0:
            return ""
        if length > TEXT_BYTES_MAX:
            raise NotRedis(f"got an answer of {length} bytes, wanted at most {TEXT_BYTES_MAX}")
        try:
            content = await self._reader.readexactly(length + 2)
        except asyncio.IncompleteReadError as exc:
            raise EOFError("it hung up in the middle of an answer") from exc
        return content[:-2].decode("utf-8", "replace")

    async def _line(self) -> bytes:
        try:
            return (await self._reader.readuntil(b"\r\n"))[:-2]
        except asyncio.IncompleteReadError as exc:
            raise EOFError("it hung up" if not exc.partial else "it hung up in the middle of a line") from exc
        except asyncio.LimitOverrunError as exc:
            raise NotRedis(
                f"got a line of more than {LINE_BYTES_MAX} bytes, wanted an answer of Redis"
            ) from exc


def read_info(text: str) -> dict[str, str | float]:
    """What INFO says: numbers where they are some."""
    found: dict[str, str | float] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if not colon or name.startswith("#"):
            continue
        number = _NUMBER.fullmatch(value) and (float(value) if "." in value else int(value))
        found[name] = value if number is None else number
    return found
