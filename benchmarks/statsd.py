"""statsd: datagrams of one metric each to our listener and to collectd's, at the same pace, in the same run.

What each took is what was sent less what the kernel dropped at its socket, as the kernel says it; what it cost is the
CPU of the process, so "a CPU second" is what one core would take if it did nothing else.
"""

import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.processes import LOAD_CPU, Measured, running
from benchmarks.report import Report

RATES = (1_000, 20_000, 100_000)
FLAT_OUT = 0
NAMES = 20
WANTED = 100_000.0
SETTLED_S = 1.0
COLLECTD = shutil.which("collectd") or "/usr/sbin/collectd"
PEER = "collectd"
_CONFIG = """
BaseDir "{place}"
PIDFile "{place}/pid"
TypesDB "/usr/share/collectd/types.db"
Interval 10
LoadPlugin statsd
<Plugin statsd>
  Host "127.0.0.1"
  Port "{port}"
  TimerPercentile 95.0
</Plugin>
"""


def run(*, quick: bool) -> Report:
    """One row for each pace and figure."""
    report = Report("statsd: datagrams of one metric: counters, gauges, timers")
    seconds = 2.0 if quick else 10.0
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        peer = Path(COLLECTD).exists()
        if not peer:
            report.notes.append("collectd is not here: apt-get install collectd-core")
        for rate in (*RATES, FLAT_OUT):
            ours = _measure(place, _serve_argv(), rate, seconds)
            theirs = _measure(place, _collectd_argv(place), rate, seconds) if peer else None
            _rows(report, rate, ours, theirs)
    report.notes.append(
        f"names: {NAMES} of each type; {seconds:g} s at each pace; what the sender is late with comes in a burst"
    )
    report.notes.append(f"wanted: {WANTED:,.0f} datagrams a CPU second without loss, or the loss counted")
    return report


class _Figures:
    def __init__(self, sent: int, lost: int, cpu_s: float, seconds: float) -> None:
        self.taken_per_cpu_s = (sent - lost) / cpu_s
        self.cpu_us = cpu_s / max(1, sent - lost) * 1e6
        self.lost_percent = 100 * lost / sent
        self.rate = sent / seconds


def _rows(report: Report, rate: int, ours: _Figures, theirs: _Figures | None) -> None:
    pace = f"{rate:,}/s" if rate else "flat out"
    report.add(f"{pace}: sent", ours.rate, "1/s", theirs and theirs.rate, PEER)
    report.add(
        f"{pace}: taken a CPU second",
        ours.taken_per_cpu_s,
        "1/s",
        theirs and theirs.taken_per_cpu_s,
        PEER,
    )
    report.add(f"{pace}: CPU a datagram", ours.cpu_us, "us", theirs and theirs.cpu_us, PEER)
    report.add(f"{pace}: lost", ours.lost_percent, "%", theirs and theirs.lost_percent, PEER)


def _measure(place: Path, argv: "tuple[int, Sequence[str]]", rate: int, seconds: float) -> _Figures:
    port, command = argv
    with running(command, place / "log") as server:
        _wait_bound(port, server)
        time.sleep(SETTLED_S)
        before = server.usage()
        sender = ["taskset", "-c", str(LOAD_CPU), sys.executable, "-m", "benchmarks.statsd"]
        done = subprocess.run(
            [*sender, "send", str(port), str(rate), str(seconds)], capture_output=True, check=True
        )
        sent, took_s = int(done.stdout.split()[0]), float(done.stdout.split()[1])
        time.sleep(SETTLED_S)
        cpu_s = server.usage().since(before)
        return _Figures(sent, _drops(port), cpu_s, took_s)


def _serve_argv() -> "tuple[int, Sequence[str]]":
    port = _free_port()
    return port, [sys.executable, "-m", "benchmarks.statsd", "serve", str(port)]


def _collectd_argv(place: Path) -> "tuple[int, Sequence[str]]":
    port = _free_port()
    file = place / "collectd.conf"
    file.write_text(_CONFIG.format(place=place, port=port))
    return port, [COLLECTD, "-f", "-C", str(file)]


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _socket_lines(port: int) -> Iterator[list[str]]:
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        parts = line.split()
        if int(parts[1].rpartition(":")[2], 16) == port:
            yield parts


def _drops(port: int) -> int:
    return sum(int(parts[12]) for parts in _socket_lines(port))


def _wait_bound(port: int, server: Measured) -> None:
    until_s = time.monotonic() + 20
    while not list(_socket_lines(port)):
        if server.process.poll() is not None or time.monotonic() > until_s:
            raise RuntimeError("the listener did not begin to listen")
        time.sleep(0.05)


# ---------------------------------------------------------------- the processes


def serve(port: int) -> None:
    """Our listener as the agent runs it, reporting to nobody."""
    from watchbill.config import Address
    from watchbill_agent.checks.check import About
    from watchbill_agent.checks.kinds.statsd import Options, Statsd
    from watchbill_agent.checks.wire import Answer, frame, result_of

    check = Statsd(Options(listen=Address("127.0.0.1", port)), About("bench", 10.0, 10.0))
    check.run(lambda outcome: frame(Answer(result_of(outcome), None)) and None)


def send(port: int, rate: int, seconds: float) -> None:
    """Send at this pace, or as fast as it goes, and print how many and in how long."""
    lines = [
        f"app.{kind}.{number}:{random.randrange(1, 5_000)}|{kind}".encode()
        for kind in ("c", "g", "ms")
        for number in range(NAMES)
        for _ in range(10)
    ]
    random.shuffle(lines)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.connect(("127.0.0.1", port))
        say = out.send
        began, sent = time.monotonic(), 0
        while (now := time.monotonic() - began) < seconds:
            due = int(now * rate) if rate else sent + len(lines)
            for number in range(sent, due):
                say(lines[number % len(lines)])
            sent = max(sent, due)
            if rate:
                time.sleep(0.001)
        print(sent, time.monotonic() - began)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        send(int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
