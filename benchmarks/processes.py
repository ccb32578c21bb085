"""Processes under measurement: started on one CPU, ended by id, their cost read from the kernel."""

import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
SERVER_CPU = max(os.sched_getaffinity(0))
LOAD_CPU = min(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process (all its threads) has used so far."""

    cpu_s: float
    rss_bytes: int

    def since(self, earlier: "Usage") -> float:
        """CPU seconds between two readings."""
        return self.cpu_s - earlier.cpu_s


class Measured:
    """A running process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def usage(self) -> Usage:
        """CPU of the process and of its children that have ended, in nanosecond steps where the kernel has them."""
        root = Path("/proc") / str(self.process.pid)
        cpu_s = 0.0
        for task in (root / "task").iterdir():
            cpu_s += int((task / "schedstat").read_text().split()[0]) / 1e9
        fields = (root / "stat").read_text().rpartition(")")[2].split()
        cpu_s += (int(fields[13]) + int(fields[14])) / TICKS_PER_SECOND
        resident = next(
            line for line in (root / "smaps_rollup").read_text().splitlines() if line.startswith("Rss:")
        )
        return Usage(cpu_s, int(resident.split()[1]) * 1024)

    def kill(self) -> None:
        """kill -9, as a power cut would."""
        self.process.kill()
        self.process.wait()


@contextmanager
def running(
    argv: Sequence[str], log: Path, cpu: int | None = SERVER_CPU, env: Mapping[str, str] | None = None
) -> Iterator[Measured]:
    """A process on `cpu`, its output in `log`; asked to end, then made to, when the block ends."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            preexec_fn=None if cpu is None else lambda: os.sched_setaffinity(0, {cpu}),
        )
    try:
        yield Measured(process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(url: str, process: Measured, log: Path, seconds: float = 60) -> float:
    """Wait until `url` answers 200; how long that took. Fails with the log's end when the process ends first."""
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        if process.process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return time.monotonic() - start
        except OSError:
            time.sleep(0.02)
    tail = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"{url} did not answer; the process said:\n{tail}")
