"""scrape: one endpoint of 10,000 series, asked once a second by our check and by Prometheus, in the same run.

Ours is what the child of checks does: ask, read, relabel, put on the check's labels and pack for the daemon. Prometheus
parses and appends to its head. Each runs on the same CPU, one after the other; the endpoint has the other one. "New
names" is the same with a tenth of the series coming and going at each scrape.
"""

import asyncio
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.processes import Measured, free_ports, running
from benchmarks.report import Report

SERIES = 10_000
FAMILIES = 100
PAGES = 8
SETTLED_S = 3.0
PEER = "Prometheus"
_CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
- job_name: bench
  static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def run(*, quick: bool) -> Report:
    """CPU a scrape and memory, with steady names and with new ones."""
    report = Report(f"scrape of an endpoint of {SERIES:,} series, once a second")
    seconds = 5.0 if quick else 30.0
    for what, churning in (("steady names", False), ("a tenth of the names new", True)):
        with tempfile.TemporaryDirectory() as directory, _endpoint(churning) as (port, asked):
            place = Path(directory)
            ours = _measure(place, _ours(port), "watchbill", asked, seconds)
            peer = None
            if shutil.which("prometheus"):
                peer = _measure(place, _prometheus(place, port), "Prometheus", asked, seconds)
            report.add(f"{what}: CPU a scrape", ours[0] * 1e3, "ms", peer and peer[0] * 1e3, PEER)
            report.add(f"{what}: RSS", ours[1] / 2**20, "MiB", peer and peer[1] / 2**20, PEER)
    report.notes.append(
        f"{seconds:g} s each after {SETTLED_S:g} s; both ask for OpenMetrics and gzip, and get plain text"
    )
    report.notes.append(
        "Prometheus also keeps what it reads; ours goes on to the agent's batch, which is not in here"
    )
    return report


def _measure(
    place: Path, argv: Sequence[str], agent: str, asked: "Counter[str]", seconds: float
) -> tuple[float, int]:
    with running(argv, place / "log") as process:
        _until_asked(process, agent, asked, place / "log")
        time.sleep(SETTLED_S)
        before, times = process.usage(), asked[agent]
        time.sleep(seconds)
        after = process.usage()
        return after.since(before) / max(1, asked[agent] - times), after.rss_bytes


def _until_asked(process: Measured, agent: str, asked: "Counter[str]", log: Path) -> None:
    until_s = time.monotonic() + 30
    while not asked[agent]:
        if process.process.poll() is not None or time.monotonic() > until_s:
            raise RuntimeError(f"{agent} asked for nothing:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)


def _ours(port: int) -> Sequence[str]:
    return [sys.executable, "-m", "benchmarks.checks_scrape", str(port)]


def _prometheus(place: Path, port: int) -> Sequence[str]:
    file = place / "prometheus.yml"
    file.write_text(_CONFIG.format(port=port))
    (listen,) = free_ports(1)
    return [
        "prometheus",
        f"--config.file={file}",
        f"--storage.tsdb.path={place / 'data'}",
        f"--web.listen-address=127.0.0.1:{listen}",
        "--log.level=error",
    ]


def _page(number: int, churning: bool) -> bytes:
    lines = []
    for family in range(FAMILIES):
        name = f"app_requests_{family}_total"
        lines.append(f"# HELP {name} Requests of the application.\n# TYPE {name} counter\n")
        for series in range(SERIES // FAMILIES):
            path = f"/a/{series}" if series % 10 or not churning else f"/a/{series}/{number}"
            lines.append(
                f'{name}{{method="GET",path="{path}",code="200"}} {number * 1_000 + series * family}\n'
            )
    return "".join(lines).encode()


@contextmanager
def _endpoint(churning: bool) -> "Iterator[tuple[int, Counter[str]]]":
    pages = [_page(number, churning) for number in range(PAGES)]
    asked: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            agent = self.headers.get("User-Agent", "").partition("/")[0]
            body = pages[asked[agent] % PAGES]
            asked[agent] += 1
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - Its name.
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


# ---------------------------------------------------------------- our process


async def scrape_for_ever(port: int) -> None:
    """As the child of checks does it."""
    from watchbill_agent.checks import wire
    from watchbill_agent.checks.check import About, Verdict
    from watchbill_agent.checks.config import Spec
    from watchbill_agent.checks.kinds.scrape import Options, Scrape
    from watchbill_agent.checks.publishing import Labelled, published

    check = Scrape(Options(url=f"http://127.0.0.1:{port}/metrics"), About("bench", 1.0, 1.0))
    spec = Spec("bench", "scrape", 1.0, 1.0, 0, 1.0, "", True, (), (), check, {})
    labelled, names = Labelled(), None
    due_s = time.monotonic()
    while True:
        outcome = await check.look(5.0)
        assert outcome.verdict is Verdict.OK, outcome.detail
        samples, _ = published(spec, outcome, 0.0, labelled)
        if (samples.families, samples.series) != names:
            names = (samples.families, samples.series)
            wire.frame(wire.table_of(samples))
        wire.pack(samples.values)
        due_s = max(due_s + 1.0, time.monotonic())
        await asyncio.sleep(due_s - time.monotonic())


if __name__ == "__main__":
    asyncio.run(scrape_for_ever(int(sys.argv[1])))
