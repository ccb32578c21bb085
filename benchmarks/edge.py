"""Bytes a day on the wire of a host with 300 series at the edge profile, everything counted.

A real host at the edge profile's proportions (ten ticks a message, compressed, a beat with the newest values of what
the stock rules read after every tick) with sixty of its minutes in one: it samples every second and values move as in
a minute. Between it and the broker stands a proxy that counts what passes in both directions, TLS and MQTT included.
For TCP and IP, 52 bytes are added for every piece that was read, and as many for its acknowledgement: more than a
kernel sends. The day has 1,440 ticks.
"""

import socket
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.agents import Agents, Plan
from benchmarks.collector import Collector, write_identities
from benchmarks.fleet import SERIES_PER_HOST, Fleet
from benchmarks.report import Report

TICKS_A_DAY = 1_440
HEADERS_BYTES = 52
"""IPv4 and TCP with timestamps."""
WANTED_BYTES = 5_000_000


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
            far = socket.create_connection(("127.0.0.1", self._to_port))
            for way, source, sink in (("up", near, far), ("down", far, near)):
                threading.Thread(target=self._pump, args=(way, source, sink), daemon=True).start()

    def _pump(self, way: str, source: socket.socket, sink: socket.socket) -> None:
        while data := source.recv(1_460):
            self.bytes[way] += len(data)
            self.pieces[way] += 1
            sink.sendall(data)
        sink.close()

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
        wire = Counting(collector.mqtt_port)
        plan = Plan(
            str(home / "identities"),
            str(home / "sent.npy"),
            1.0,
            10,
            mqtt_port=wire.port,
            edge=True,
            step_s=60.0,
        )
        agents = Agents(plan, home / "agents.log")
        try:
            agents.ask("play")
            time.sleep(25)  # The first reading comes within 15 s, its dictionary goes once.
            before, first, connected = agents.ask("facts"), wire.total, wire.total
            up, down = wire.bytes["up"], wire.bytes["down"]
            time.sleep(ticks)
            after, last = agents.ask("facts"), wire.total
            played = after["ticks"] - before["ticks"]
            a_day = (last - first) / played * TICKS_A_DAY
            report.add("bytes a day, all in", a_day, "B", WANTED_BYTES, "wanted at most")
            payload = (wire.bytes["up"] - up + wire.bytes["down"] - down) / played * TICKS_A_DAY
            report.add("of them TLS, MQTT, envelopes and content", payload, "B")
            report.add("of them up", (wire.bytes["up"] - up) / played * TICKS_A_DAY, "B")
            report.add("once, connecting and the dictionary, all in", float(connected), "B")
            plain = SERIES_PER_HOST * 8.0 * TICKS_A_DAY
            report.add("the numbers alone, uncompressed", plain, "B")
            report.notes.append(
                f"{played} ticks, {after['beats'] - before['beats']} beats, "
                f"{after['messages'] - before['messages']} messages, {after['refused']} refused"
            )
        finally:
            agents.close()
            collector.stop()
    return report
