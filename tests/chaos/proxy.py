"""A network between an agent and its collector that can be cut, or swallow everything."""

import contextlib
import socket
import threading
from typing import Final

CHUNK_BYTES: Final = 64 * 1024
POLL_S: Final = 0.1


class Wire:
    """Forwards TCP from a port of its own to `target`. `swallow` takes bytes and passes none on; `cut` resets all
    connections."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._swallowing = threading.Event()
        self._ending = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(POLL_S)
        self.port: int = self._listener.getsockname()[1]
        self._spawn(self._accept)

    def swallow(self, *, on: bool) -> None:
        """Whether nothing gets through while connections stay open, as when a cable is pulled."""
        if on:
            self._swallowing.set()
        else:
            self._swallowing.clear()
            self.cut()

    def cut(self) -> None:
        """Reset every connection."""
        sockets, self._sockets = self._sockets, []
        for one in sockets:
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self) -> None:
        """End it."""
        self._ending.set()
        self.cut()
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def _spawn(self, *call: object) -> None:
        work, *arguments = call
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ending.is_set():
            try:
                near, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target), 5)
            except OSError:
                near.close()
                continue
            for one in (near, far):
                one.settimeout(POLL_S)
            self._sockets += [near, far]
            self._spawn(self._pass, near, far)
            self._spawn(self._pass, far, near)

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        while not self._ending.is_set():
            try:
                data = source.recv(CHUNK_BYTES)
            except TimeoutError:
                continue
            except OSError:
                break
            if not data:
                break
            if self._swallowing.is_set():
                continue
            try:
                sink.sendall(data)
            except OSError:
                break
        for one in (source, sink):
            one.close()
