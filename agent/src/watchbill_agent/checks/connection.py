"""A connection of a probe: TCP or a Unix socket, with TLS from the start or from somewhere in the middle.

Sockets are used directly, and OpenSSL reads from them itself: asyncio's streams and its TLS over memory cost twice the
CPU for one request, and lose the certificates of a handshake that failed. Every error of the network becomes Failed
with one of the reasons `refused`, `reset`, `closed`, `unreachable`, `timeout`, `failed`, or UNKNOWN with
`not-permitted` or `no-descriptors`.
"""

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, Final, Self, TypeVar

from watchbill_agent.checks.addresses import Place
from watchbill_agent.checks.check import Failed, Verdict

T = TypeVar("T")

READ_BYTES: Final = 64 * 1024
TURN_BYTES: Final = 256 * 1024
"""Read without waiting, after which others have their turn."""

_OURS: Final = {
    errno.EACCES: "not-permitted",
    errno.EPERM: "not-permitted",
    errno.EMFILE: "no-descriptors",
    errno.ENFILE: "no-descriptors",
    errno.ENOBUFS: "no-descriptors",
    errno.EADDRNOTAVAIL: "no-descriptors",
    errno.EAFNOSUPPORT: "not-permitted",
}
_THEIRS: Final = {
    errno.ECONNREFUSED: "refused",
    errno.ENOENT: "refused",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.ECONNABORTED: "reset",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTDOWN: "unreachable",
    errno.ENETDOWN: "unreachable",
    errno.ETIMEDOUT: "timeout",
}


def failure(error: OSError, doing: str) -> Failed:
    """What an error of the network means for a verdict."""
    words = (error.strerror or str(error) or type(error).__name__).lower()
    number = error.errno or 0
    if number in _OURS:
        return Failed(_OURS[number], f"{doing}: {words}", verdict=Verdict.UNKNOWN)
    return Failed(_THEIRS.get(number, "failed"), f"{doing}: {words}")


class Connection:
    """Opened by `open`; whoever opened it closes it."""

    __slots__ = ("_loop", "_socket", "_turn_bytes", "place", "where")

    def __init__(self, made: socket.socket, where: str, place: Place | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = made
        self._turn_bytes = 0
        self.where = where
        self.place = place

    @classmethod
    async def open(cls, places: list[Place], port: int, until_s: float) -> Self:
        """To the first address that takes it; each has its share of the time until `until_s` of the loop's clock.
        Raises Failed of the last."""
        failed = Failed("name-unknown")
        for number, place in enumerate(places, 1):
            where = f"[{place.host}]:{port}" if place.protocol == 6 else f"{place.host}:{port}"
            last = number == len(places)
            connecting = cls._connected(place.family, place.at(port), where, place)
            try:
                if last:  # It has whatever time there is: its timeout is that of the look.
                    return await connecting
                share_s = (until_s - asyncio.get_running_loop().time()) / (len(places) - number + 1)
                return await _within(connecting, share_s)
            except Failed as exc:
                failed = exc
            except TimeoutError:
                if last:
                    raise
                failed = Failed("timeout", f"{where}: no answer")
        raise failed

    @classmethod
    async def open_unix(cls, path: str) -> Self:
        """To a Unix socket. Raises Failed."""
        return await cls._connected(socket.AF_UNIX, path, path, None)

    @classmethod
    async def _connected(cls, family: int, address: Any, where: str, place: Place | None) -> Self:
        try:
            made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as exc:
            raise failure(exc, where) from exc
        try:
            if place is not None:
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            number = made.connect_ex(address)
            if number in (errno.EINPROGRESS, errno.EAGAIN):
                await writable(made)
                number = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                raise failure(OSError(number, os.strerror(number)), where)
            return cls(made, where, place)
        except BaseException:
            made.close()
            raise

    async def write(self, data: bytes) -> None:
        """All of it. Raises Failed."""
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                await writable(self._socket)
            except ssl.SSLWantReadError:
                await readable(self._socket)
            except OSError as exc:
                raise self._failed(exc) from exc

    async def read(self, bytes_max: int = READ_BYTES) -> bytes:
        """Something, or b"" at the end. Raises Failed."""
        if self._turn_bytes > TURN_BYTES:
            self._turn_bytes = 0
            await asyncio.sleep(0)
        while True:
            try:
                data = self._socket.recv(bytes_max)
            except (BlockingIOError, ssl.SSLWantReadError):
                self._turn_bytes = 0
                await readable(self._socket)
            except ssl.SSLWantWriteError:
                await writable(self._socket)
            except OSError as exc:
                raise self._failed(exc) from exc
            else:
                self._turn_bytes += len(data)
                return data

    async def start_tls(self, context: ssl.SSLContext, name: str | None) -> ssl.SSLSocket:
        """TLS from here on. Raises ssl.SSLError, after which `secured` still tells what was presented; Failed for
        what is no matter of TLS."""
        try:
            secured = context.wrap_socket(self._socket, server_hostname=name, do_handshake_on_connect=False)
        except ssl.SSLError:
            raise
        except OSError as exc:
            raise self._failed(exc) from exc
        self._socket = secured
        while True:
            try:
                secured.do_handshake()
            except ssl.SSLWantReadError:
                await readable(secured)
            except ssl.SSLWantWriteError:
                await writable(secured)
            except ssl.SSLError:
                raise
            except OSError as exc:
                raise self._failed(exc) from exc
            else:
                return secured

    @property
    def secured(self) -> ssl.SSLSocket | None:
        """Its TLS, also when the handshake failed."""
        return self._socket if isinstance(self._socket, ssl.SSLSocket) else None

    def close(self) -> None:
        """Gives it back; whatever was not sent is not."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def _failed(self, error: OSError) -> Failed:
        if isinstance(error, ssl.SSLError):
            return Failed("tls-failed", f"{self.where}: {reason_of(error)}")
        return failure(error, self.where)


async def _within(connecting: Coroutine[Any, Any, T], share_s: float) -> T:
    async with asyncio.timeout(max(0.0, share_s)):
        return await connecting


def reason_of(error: ssl.SSLError) -> str:
    """OpenSSL's own words, without where in the source they were said."""
    return (error.reason or error.strerror or str(error)).lower().replace("_", " ")


async def readable(one: socket.socket) -> None:
    """Wait until there is something to read."""
    loop = asyncio.get_running_loop()
    await _wait(loop, one.fileno(), loop.add_reader, loop.remove_reader)


async def writable(one: socket.socket) -> None:
    """Wait until something may be sent, or a connection is there."""
    loop = asyncio.get_running_loop()
    await _wait(loop, one.fileno(), loop.add_writer, loop.remove_writer)


async def _wait(
    loop: asyncio.AbstractEventLoop,
    descriptor: int,
    add: Callable[..., object],
    remove: Callable[[int], object],
) -> None:
    ready: asyncio.Future[None] = loop.create_future()
    add(descriptor, _ready, ready)
    try:
        await ready
    finally:
        # Before anybody closes it: the loop must not wait for a number that is somebody else's by then.
        remove(descriptor)


def _ready(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)
