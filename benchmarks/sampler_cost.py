"""What an agent costs the host it is a guest on, beside node_exporter scraped as often."""

import shutil
import tempfile
import time
import urllib.request
from pathlib import Path

from benchmarks.collector import Collector
from benchmarks.processes import free_ports, running, wait_for
from benchmarks.report import Report
from watchbill_collector.cli.children import find_program

NAME = "bench"


def run(*, quick: bool) -> Report:
    """CPU a second and memory of both, a reading a second."""
    seconds = 10 if quick else 60
    report = Report("sampler_cost: one host, a reading a second")
    ours = _agent(seconds)
    peer = _node_exporter(seconds) if shutil.which("prometheus-node-exporter") else (None, None)
    report.add(
        "CPU, agent with TLS and delivery",
        ours[0],
        "ms/s",
        peer[0],
        "node_exporter 1.5, all default collectors",
    )
    report.add("RSS", ours[1], "MiB", peer[1], "node_exporter 1.5")
    report.add(
        "start of the process to the first sample acknowledged", ours[2], "ms", 600.0, "what is allowed"
    )
    report.notes.append(
        "the agent samples, encrypts, delivers and keeps what is not acknowledged; the exporter renders text"
    )
    return report


def _agent(seconds: float) -> tuple[float, float, float]:
    program = find_program("watchbill-agent")
    assert program is not None, "scripts/setup installs it"
    with tempfile.TemporaryDirectory(prefix="wb-cost-") as scratch:
        home = Path(scratch) / "home"
        collector = Collector(home, None)
        (identity,) = collector.register([NAME])
        collector.start(cpu=None)
        try:
            from watchbill.identity import IdentityFile

            state = home / "var" / "agent"
            state.mkdir(mode=0o700, parents=True)
            IdentityFile(state).save(identity)
            (home / "etc" / "agent.toml").write_text('interval = "1s"\n')
            log = home / "agent.log"
            first_ms = []
            for _ in range(3):
                begun = time.monotonic()
                with running([program, "run", "--home", str(home)], log, cpu=None) as process:
                    while not _acknowledged(home):
                        assert time.monotonic() - begun < 30, log.read_text()[-1000:]
                    first_ms.append((time.monotonic() - begun) * 1000)
            with running([program, "run", "--home", str(home)], log, cpu=None) as process:
                time.sleep(5)
                before = process.usage()
                time.sleep(seconds)
                after = process.usage()
            return after.since(before) / seconds * 1000, after.rss_bytes / 2**20, sorted(first_ms)[1]
        finally:
            collector.stop()


def _acknowledged(home: Path) -> bool:
    """Asked through the agent's own socket: starting its `status` command would cost more than what is measured."""
    from watchbill.errors import WatchbillError
    from watchbill_agent.status import SOCKET_NAME, ask

    try:
        return int(ask(home / "run" / "agent" / SOCKET_NAME, "status")["queue"]["acked"]) > 0
    except (WatchbillError, OSError):
        return False


def _node_exporter(seconds: float) -> tuple[float, float]:
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}/metrics"
    with tempfile.TemporaryDirectory(prefix="wb-cost-") as scratch:
        log = Path(scratch) / "log"
        argv = ["prometheus-node-exporter", f"--web.listen-address=127.0.0.1:{port}"]
        with running(argv, log, cpu=None) as process:
            wait_for(url, process, log)
            start, before = time.monotonic(), process.usage()
            for second in range(int(seconds)):
                time.sleep(max(0.0, start + second - time.monotonic()))
                urllib.request.urlopen(url, timeout=10).read()
            after = process.usage()
    return after.since(before) / seconds * 1000, after.rss_bytes / 2**20
