"""Processes under measurement: started on one CPU, ended by id, their cost read from the kernel."""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SERVER_CPU = max(os.sched_getaffinity(0))
LOAD_CPU = min(os.sched_getaffinity(0))
POLL_S = 0.01
STOP_S = 30.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process (all its threads, also those that have ended) has used so far."""

    cpu_s: float
    rss_bytes: int

    def since(self, earlier: "Usage") -> float:
        """CPU seconds between two readings."""
        return self.cpu_s - earlier.cpu_s


class Measured:
    """A running process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def usage(self) -> Usage:
        """CPU of the process in nanoseconds, from its own CPU clock, and its resident memory."""
        clock = ~self.pid << 3 | 2  # What clock_getcpuclockid(3) makes of a process id.
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        resident = next(line for line in rollup.splitlines() if line.startswith("Rss:"))
        return Usage(time.clock_gettime(clock), int(resident.split()[1]) * 1024)

    def threads(self) -> dict[str, tuple[float, int]]:
        """By name of thread: CPU seconds, and how often it went to sleep and was woken."""
        found: dict[str, tuple[float, int]] = {}
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            try:
                name = (task / "comm").read_text().strip()
                cpu_s = int((task / "schedstat").read_text().split()[0]) / 1e9
                status = (task / "status").read_text()
            except OSError:
                continue  # It ended while we looked.
            switches = int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])
            before = found.get(name, (0.0, 0))
            found[name] = (before[0] + cpu_s, before[1] + switches)
        return found

    def kill(self) -> None:
        """kill -9, as a power cut would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Ask it to end, then make it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()


def start(
    argv: Sequence[str], log: Path, cpu: int | None = SERVER_CPU, env: Mapping[str, str] | None = None
) -> Measured:
    """A process on `cpu`, its output in `log`. Whoever starts it ends it."""
    pinned = argv if cpu is None else ["taskset", "-c", str(cpu), *argv]
    with log.open("ab") as out:
        process = subprocess.Popen(
            list(pinned),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
        )
    return Measured(process)


@contextmanager
def running(
    argv: Sequence[str], log: Path, cpu: int | None = SERVER_CPU, env: Mapping[str, str] | None = None
) -> Iterator[Measured]:
    """A process on `cpu`, its output in `log`; asked to end, then made to, when the block ends."""
    measured = start(argv, log, cpu, env)
    try:
        yield measured
    finally:
        measured.stop()


def wait_for(url: str, process: Measured, log: Path, seconds: float = 60) -> float:
    """Wait until `url` answers 200; how long that took. Fails with the log's end when the process ends first."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if process.process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return time.monotonic() - began
        except OSError:
            pass
        time.sleep(POLL_S)
    tail = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"{url} did not answer; the process said:\n{tail}")


def free_ports(count: int) -> list[int]:
    """Ports that are free now, all different."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def directory_bytes(path: Path) -> int:
    """All files below."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
