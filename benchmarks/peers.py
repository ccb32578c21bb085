"""The peers on the same data: Debian's Prometheus and VictoriaMetrics, scraped and written to."""

import asyncio
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import cramjam

from benchmarks.fleet import Fleet, Matrix
from benchmarks.processes import Measured, Usage, running, wait_for

JOB = "node"


def missing(*tools: str) -> str:
    """Which of the tools are not on this machine."""
    return ", ".join(tool for tool in tools if shutil.which(tool) is None)


class Targets:
    """An HTTP server with one path a host: what a thousand node_exporters would answer."""

    def __init__(self, fleet: Fleet) -> None:
        self._heads = [
            "{}{{{}}} ".format(series.name, ",".join(f'{name}="{value}"' for name, value in series.labels))
            for series in fleet.series
        ]
        self._values = fleet.values.copy()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self.port = 0
        self._thread = threading.Thread(target=self._run, name="targets", daemon=True)
        self._thread.start()
        self._ready.wait(10)

    def show(self, values: Matrix) -> None:
        """From now on, these values."""
        self._values = values.copy()

    def close(self) -> None:
        """Stop answering."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._answer, "127.0.0.1", 0, backlog=2048)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                host = int(request.split(b" ", 2)[1].rsplit(b"/", 1)[1])
                values = self._values[host].tolist()
                body = "".join(
                    f"{head}{value!r}\n" for head, value in zip(self._heads, values, strict=True)
                ).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n"
                    b"Content-Length: %d\r\n\r\n" % len(body)
                )
                writer.write(body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            # Cancelled at the end, where nobody waits for this task.
            writer.close()


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


class RemoteWrite:
    """Remote write 1.0: the labels of all series encoded once, the samples each time."""

    def __init__(self, fleet: Fleet, url: str, hosts_per_request: int = 33) -> None:
        self._url = url
        self._chunk = hosts_per_request
        self._labels = [
            [
                b"".join(
                    _field(1, _field(1, name.encode()) + _field(2, value.encode()))
                    for name, value in sorted(
                        [("__name__", series.name), ("instance", host), ("job", JOB), *series.labels]
                    )
                )
                for series in fleet.series
            ]
            for host in fleet.names
        ]
        self._up = [
            b"".join(
                _field(1, _field(1, name.encode()) + _field(2, value.encode()))
                for name, value in (("__name__", "up"), ("instance", host), ("job", JOB))
            )
            for host in fleet.names
        ]

    def send(self, values: Matrix, time_ms: int) -> None:
        """One tick of all hosts, some hosts a request."""
        import struct

        stamp = b"\x10" + _varint(time_ms)
        pack = struct.Struct("<d").pack
        for first in range(0, len(self._labels), self._chunk):
            out = []
            for host in range(first, min(first + self._chunk, len(self._labels))):
                for labels, value in zip(self._labels[host], values[host].tolist(), strict=True):
                    out.append(_field(1, labels + _field(2, b"\x09" + pack(value) + stamp)))
                out.append(_field(1, self._up[host] + _field(2, b"\x09" + pack(1.0) + stamp)))
            body = bytes(cramjam.snappy.compress_raw(b"".join(out)))
            request = urllib.request.Request(
                self._url,
                data=body,
                headers={
                    "Content-Encoding": "snappy",
                    "Content-Type": "application/x-protobuf",
                    "X-Prometheus-Remote-Write-Version": "0.1.0",
                },
            )
            urllib.request.urlopen(request, timeout=60).read()


class Pace:
    """Calls `tick` every `interval_s` for `ticks` times, on a steady grid."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s

    def run(self, ticks: int, tick: Callable[[], None]) -> None:
        """Late ticks are not made up for faster than they can be done."""
        start = time.monotonic()
        for number in range(ticks):
            time.sleep(max(0.0, start + number * self._interval_s - time.monotonic()))
            tick()


def directory_bytes(path: Path) -> int:
    """All files below."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


__all__ = [
    "JOB",
    "Measured",
    "Pace",
    "RemoteWrite",
    "Targets",
    "Usage",
    "directory_bytes",
    "missing",
    "running",
    "wait_for",
]
