"""Bytes a day on the wire and to flash of a host with 300 series at the edge profile, everything counted.

A real host at the edge profile's proportions (ten ticks a message, compressed, a beat with the newest values of what
the stock rules read after every tick) with sixty of its minutes in one: it samples every second and values move as in
a minute. Between it and the broker stands a proxy that counts what passes in both directions, TLS and MQTT included.
For TCP and IP, 52 bytes are added for every piece that was read, and as many for its acknowledgement: more than a
kernel sends. The day has 1,440 ticks.

Its spool lies on a file system of its own (`flash`), which is written out after every message: in real time, minutes
lie between two of them. The few small files that an agent writes besides are measured and counted at their most: an
hour's audit head, a day's newest time, a certificate.
"""

import contextlib
import socket
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.agents import Agents, Plan
from benchmarks.collector import Collector, write_identities
from benchmarks.flash import Flash
from benchmarks.fleet import SERIES_PER_HOST, Fleet
from benchmarks.report import Report
from watchbill.files import write_atomic

TICKS_A_DAY = 1_440
TICKS_A_MESSAGE = 10
HEADERS_BYTES = 52
"""IPv4 and TCP with timestamps."""
WANTED_BYTES = 5_000_000
WANTED_FLASH_BYTES = 50_000_000
SMALL_FILES_A_DAY = 24 + 1 + 1
SMALL_FILE_BYTES = 12_288
"""64 audit heads, or an identity, take less."""
SMALL_FILES_TRIED = 10


class Counting:
    """A TCP proxy that counts bytes and pieces."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.bytes = {"up": 0, "down": 0}
        self.pieces = {"up": 0, "down": 0}
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            near, _ = self._server.accept()
            threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        """One connection, until both ways are over: a socket is closed when nobody reads from it any more."""
        with near, socket.create_connection(("127.0.0.1", self._to_port)) as far:
            down = threading.Thread(target=self._pump, args=("down", far, near), daemon=True)
            down.start()
            self._pump("up", near, far)
            down.join()

    def _pump(self, way: str, source: socket.socket, sink: socket.socket) -> None:
        """One way, until its sender has no more to say, or the connection breaks."""
        try:
            while data := source.recv(1_460):
                self.bytes[way] += len(data)
                self.pieces[way] += 1
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    @property
    def total(self) -> int:
        """With headers, and an acknowledgement for every piece."""
        return sum(self.bytes.values()) + 2 * HEADERS_BYTES * sum(self.pieces.values())


def run(*, quick: bool) -> Report:
    """One host, some hundred ticks."""
    ticks = 60 if quick else 300
    report = Report(f"edge: one host x {SERIES_PER_HOST} series, a tick a minute (one a second here)")
    with tempfile.TemporaryDirectory(prefix="wb-edge-", dir="/tmp") as scratch:
        home = Path(scratch)
        collector = Collector(home, None, stock=True, mqtt=True)
        (home / "etc" / "collector.d").mkdir()
        (home / "etc" / "collector.d" / "edge.toml").write_text('[rules]\ninterval = "1s"\n')
        write_identities(home / "identities", collector.register(Fleet(1).names))
        collector.start()
        wire, flash = Counting(collector.mqtt_port), Flash(home)
        plan = Plan(
            str(home / "identities"),
            str(home / "sent.npy"),
            1.0,
            TICKS_A_MESSAGE,
            mqtt_port=wire.port,
            edge=True,
            step_s=60.0,
            spool=str(flash.place),
        )
        agents = Agents(plan, home / "agents.log")
        flash.pid = agents.process.pid
        try:
            agents.ask("play")
            time.sleep(25)  # The first reading comes within 15 s, its dictionary goes once.
            flash.settle()
            before, first, connected = agents.ask("facts"), wire.total, wire.total
            written = flash.written_bytes
            up, down = wire.bytes["up"], wire.bytes["down"]
            for _ in range(ticks // TICKS_A_MESSAGE):
                time.sleep(TICKS_A_MESSAGE)
                flash.settle()
            after, last = agents.ask("facts"), wire.total
            spool_bytes = flash.written_bytes - written
            played = after["ticks"] - before["ticks"]
            a_day = (last - first) / played * TICKS_A_DAY
            report.add("bytes a day, all in", a_day, "B", WANTED_BYTES, "wanted at most")
            payload = (wire.bytes["up"] - up + wire.bytes["down"] - down) / played * TICKS_A_DAY
            report.add("of them TLS, MQTT, envelopes and content", payload, "B")
            report.add("of them up", (wire.bytes["up"] - up) / played * TICKS_A_DAY, "B")
            report.add("once, connecting and the dictionary, all in", float(connected), "B")
            plain = SERIES_PER_HOST * 8.0 * TICKS_A_DAY
            report.add("the numbers alone, uncompressed", plain, "B")
            a_file = _small_file(flash)
            flash_a_day = spool_bytes / played * TICKS_A_DAY + SMALL_FILES_A_DAY * a_file
            report.add("bytes a day to flash, all in", flash_a_day, "B", WANTED_FLASH_BYTES, "wanted at most")
            report.add("of them the spool", spool_bytes / played * TICKS_A_DAY, "B")
            report.notes.append(f"flash: {flash.how}; a small file replaced costs {a_file:.0f} B")
            report.notes.append(
                f"{played} ticks, {after['beats'] - before['beats']} beats, "
                f"{after['messages'] - before['messages']} messages, {after['refused']} refused"
            )
        finally:
            agents.close()
            flash.close()
            collector.stop()
    return report


def _small_file(flash: Flash) -> float:
    """What replacing a small file costs: written, synced, renamed, its directory synced."""
    before = flash.written_bytes
    for _ in range(SMALL_FILES_TRIED):
        write_atomic(flash.place / "small.json", bytes(SMALL_FILE_BYTES))
        flash.settle()
    return (flash.written_bytes - before) / SMALL_FILES_TRIED or float(SMALL_FILE_BYTES)
