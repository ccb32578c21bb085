"""What a million samples cost: received over mutual TLS, committed, judged by twenty rules and stored.

Ours is the real `watchbill-collector run` with a thousand real connections; every host runs the product's own
batcher, spool, sender and transport. The peers get the same hosts, values and rules: Debian's Prometheus scraping a
thousand targets and by remote write, and VictoriaMetrics by remote write with vmalert beside it. All costs are CPU
seconds of the measured processes, threads included, on a CPU of their own; wall time says nothing here.
"""

import shutil
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.agents import Agents, Plan
from benchmarks.collector import Collector, write_identities
from benchmarks.fleet import SERIES_PER_HOST, Fleet
from benchmarks.peers import RemoteWrite, Targets, directory_bytes, missing
from benchmarks.processes import Measured, free_ports, running, wait_for
from benchmarks.report import Report

HOSTS = 1_000
INTERVAL_S = 15.0
RULES = Path(__file__).with_name("rules20.yml")
STORED_HOSTS = 20
STORED_HOURS = 24
PROMETHEUS = """\
global: {{ scrape_interval: 15s, evaluation_interval: 15s }}
rule_files: ["{rules}"]
scrape_configs:
{scrape}
"""


@dataclass(frozen=True, slots=True)
class Spans:
    """How long to warm up and to measure, in seconds."""

    warm_s: float
    measure_s: float


def run(*, quick: bool) -> Report:
    """Ours at both cadences, the bytes on disk, then the peers."""
    hosts = 100 if quick else HOSTS
    spans = Spans(35, 30) if quick else Spans(60, 120)
    report = Report(f"ingest: {hosts} hosts x {SERIES_PER_HOST} series, 20 rules every 15 s")
    with tempfile.TemporaryDirectory(prefix="wb-ingest-") as scratch:
        work = Path(scratch)
        peers = _peers(work, hosts, spans, report)
        ours = _ours(work / "slow", hosts, INTERVAL_S, 1, spans, report)
        for name, figures in peers.items():
            what = f"CPU-s per million samples, 15 s, 1 tick a message, beside {name}"
            report.add(what, ours.cpu_s_per_million, "CPU-s/M", figures.cpu_s_per_million, name)
            report.add(f"RSS per host, 15 s, beside {name}", ours.rss_kb, "kB", figures.rss_kb, name)
        if not peers:
            report.add("CPU-s per million samples, 15 s, 1 tick a message", ours.cpu_s_per_million, "CPU-s/M")
            report.add("RSS per connected agent, 15 s", ours.rss_kb, "kB")
        fast = _ours(work / "fast", hosts, 1.0, 10, Spans(spans.warm_s, spans.measure_s * 2 / 3), report)
        report.add("CPU-s per million samples, 1 s, 10 ticks a message", fast.cpu_s_per_million, "CPU-s/M")
        report.add("RSS per connected agent, 1 s, 10 ticks a message", fast.rss_kb, "kB")
        stored = _stored(work / "stored", report, hours=2 if quick else STORED_HOURS)
        report.add("bytes per sample after merge, everything counted (simulated time)", stored, "B/sample")
    return report


@dataclass(frozen=True, slots=True)
class Figures:
    """What one system needed. `rss_kb` is its memory with all hosts less its memory when idle, per host: the median
    while it was measured, for it comes and goes with every burst."""

    cpu_s_per_million: float
    rss_kb: float


# ---------------------------------------------------------------- ours


def _ours(home: Path, hosts: int, interval_s: float, ticks: int, spans: Spans, report: Report) -> Figures:
    collector = Collector(home, RULES)
    write_identities(home / "identities", collector.register(Fleet(hosts).names))
    process = collector.start()
    agents = None
    try:
        time.sleep(2)
        idle = process.usage()
        plan = Plan(str(home / "identities"), str(home / "sent.npy"), interval_s, ticks)
        agents = Agents(plan, home / "agents.log")
        agents.ask("play")
        time.sleep(spans.warm_s)
        begun, before = process.usage(), collector.metrics()
        fired: set[tuple[str, str]] = set()
        rss: list[int] = []
        until = time.monotonic() + spans.measure_s
        while time.monotonic() < until:
            time.sleep(1)
            rss.append(process.usage().rss_bytes - idle.rss_bytes)
            if len(rss) % 30 == 0:
                fired |= collector.firing()
        ended, after = process.usage(), collector.metrics()
        still = collector.firing()
        fired |= still
        name = "watchbill_collector_ingest_samples_total"
        samples = after[name] - before[name]
        cadence = f"{interval_s:g} s, {ticks} tick(s) a message"
        report.notes.append(
            f"{cadence}: {samples:,.0f} samples in {spans.measure_s:.0f} s; {len(fired)} alerts fired, "
            f"{len(fired - still)} of them were over at the end; at most {max(rss) / hosts / 1000:.0f} kB a host"
        )
        report.notes.append(f"{cadence}: {_read_back(collector, plan)}")
        return Figures(ended.since(begun) / samples * 1e6, float(np.median(rss)) / hosts / 1000)
    finally:
        if agents is not None:
            agents.close()
        collector.stop()


def _read_back(collector: Collector, plan: Plan) -> str:
    """Some hosts' series as the API gives them, beside what was sent: the fleet of the same seed again."""
    names = Fleet(3, plan.seed).names
    query = urllib.parse.urlencode(
        {"query": f'count_over_time(node_load1{{instance=~"{"|".join(names)}"}}[1h])'}
    )
    with urllib.request.urlopen(f"{collector.url}/api/v1/query?{query}", timeout=60) as answer:
        found = answer.read().count(b'"value"')
    return f"{found} of {len(names)} sampled hosts read back through the API"


def _stored(directory: Path, report: Report, hours: int) -> float:
    """A day of some hosts through the history itself, with time simulated; every bit compared, every file counted."""
    from watchbill.clock import ManualClock
    from watchbill_collector.history import History
    from watchbill_collector.series import SeriesTable, Ticks

    fleet = Fleet(STORED_HOSTS)
    clock = ManualClock(wall_ms=1_700_006_400_000)  # A full hour.
    table = SeriesTable()
    history = History.open(directory, table, clock)
    ids = []
    for name in fleet.names:
        source = table.source({"instance": name, "job": "node"})
        ids.append(table.series(source, [table.key(one.name, dict(one.labels)) for one in fleet.series]))
    start_ms, kept = clock.wall_ms(), []
    ticks = hours * 3600 // int(INTERVAL_S)
    for tick in range(ticks):
        clock.advance(INTERVAL_S)
        now_ms = np.array([clock.wall_ms()], np.int64)
        values = fleet.advance(INTERVAL_S)
        history.commit(
            [Ticks(ids[host], now_ms, values[host : host + 1].copy()) for host in range(STORED_HOSTS)], [], []
        )
        kept.append(values[0].copy())
        if tick % 40 == 39:
            while history.merge(clock.wall_ms()):
                pass
    for _ in range(30):
        clock.advance(600)
        while history.merge(clock.wall_ms()):
            pass
    found = history.select(ids[0], start_ms, clock.wall_ms(), 10**9)
    wanted = np.array(kept).T
    same = len(found.values) == wanted.size and bool(
        (found.values.view(np.uint64) == np.ascontiguousarray(wanted).reshape(-1).view(np.uint64)).all()
    )
    assert same, "what was read back is not what was committed"
    history.close()
    total = directory_bytes(directory) - sum(f.stat().st_size for f in directory.glob("*ballast*"))
    samples = ticks * STORED_HOSTS * SERIES_PER_HOST
    report.notes.append(
        f"bytes: {STORED_HOSTS} hosts x {hours} h at 15 s in simulated time; readings, 1 m and 1 h tiers, tail and "
        "index are all counted; every bit of one host read back equal"
    )
    return total / samples


# ---------------------------------------------------------------- the peers


def _peers(work: Path, hosts: int, spans: Spans, report: Report) -> dict[str, Figures]:
    found: dict[str, Figures] = {}
    lacking = missing("prometheus", "victoria-metrics", "vmalert")
    if lacking:
        report.notes.append(f"peers not on this machine: {lacking}")
    if shutil.which("prometheus"):
        found["Prometheus 2.42, scraping"] = _scraped(work, hosts, spans)
        found["Prometheus 2.42, remote write"] = _written(work, hosts, spans, prometheus=True)
    if shutil.which("victoria-metrics"):
        found["VictoriaMetrics 1.79 and vmalert"] = _written(work, hosts, spans, prometheus=False)
    report.notes.append("the peers are Debian 12's packages, older than their projects' newest releases")
    return found


def _scraped(work: Path, hosts: int, spans: Spans) -> Figures:
    fleet = Fleet(hosts)
    targets = Targets(fleet)
    (port,) = free_ports(1)
    scrape = "\n".join(
        f"- {{ job_name: n{number}, metrics_path: /host/{number}, static_configs: [{{ targets: "
        f'["127.0.0.1:{targets.port}"], labels: {{ instance: "{name}", job: node }} }}] }}'
        for number, name in enumerate(fleet.names)
    )
    config = work / "scraped.yml"
    config.write_text(PROMETHEUS.format(rules=RULES, scrape=scrape))
    argv = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={work / 'scraped'}"]
    argv.append(f"--web.listen-address=127.0.0.1:{port}")
    with running(argv, work / "scraped.log") as process:
        wait_for(f"http://127.0.0.1:{port}/-/ready", process, work / "scraped.log")
        try:
            return _measured([process], hosts, spans, lambda _: targets.show(fleet.advance(INTERVAL_S)))
        finally:
            targets.close()


def _written(work: Path, hosts: int, spans: Spans, *, prometheus: bool) -> Figures:
    fleet = Fleet(hosts)
    port, other = free_ports(2)
    log = work / "written.log"
    if prometheus:
        config = work / "written.yml"
        config.write_text(PROMETHEUS.format(rules=RULES, scrape="  []"))
        argv = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={work / 'written'}"]
        argv += [f"--web.listen-address=127.0.0.1:{port}", "--web.enable-remote-write-receiver"]
        ready = f"http://127.0.0.1:{port}/-/ready"
    else:
        argv = ["victoria-metrics", f"-storageDataPath={work / 'vm'}", f"-httpListenAddr=127.0.0.1:{port}"]
        ready = f"http://127.0.0.1:{port}/health"
    writer = RemoteWrite(fleet, f"http://127.0.0.1:{port}/api/v1/write")
    with running(argv, log) as process:
        wait_for(ready, process, log)
        tick: Callable[[int], None] = lambda now_ms: writer.send(fleet.advance(INTERVAL_S), now_ms)  # noqa: E731
        if prometheus:
            return _measured([process], hosts, spans, tick)
        address = f"http://127.0.0.1:{port}"
        alerts = ["vmalert", f"-rule={RULES}", f"-datasource.url={address}", f"-remoteWrite.url={address}"]
        alerts += ["-notifier.url=http://127.0.0.1:9", f"-httpListenAddr=127.0.0.1:{other}"]
        with running(alerts, work / "vmalert.log") as judge:
            wait_for(f"http://127.0.0.1:{other}/health", judge, work / "vmalert.log")
            return _measured([process, judge], hosts, spans, tick)


def _measured(processes: list[Measured], hosts: int, spans: Spans, tick: Callable[[int], None]) -> Figures:
    time.sleep(2)
    idle = [process.usage() for process in processes]
    start = time.monotonic()
    begun, ticks, samples = idle, 0, 0
    measuring = False
    rss: list[int] = []
    while time.monotonic() - start < spans.warm_s + spans.measure_s:
        if not measuring and time.monotonic() - start >= spans.warm_s:
            measuring, begun, samples = True, [process.usage() for process in processes], 0
            rss = []
        tick(time.time_ns() // 1_000_000)
        ticks += 1
        samples += hosts * SERIES_PER_HOST
        time.sleep(max(0.0, start + ticks * INTERVAL_S - time.monotonic()))
        rss.append(sum(process.usage().rss_bytes for process in processes))
    ended = [process.usage() for process in processes]
    cpu_s = sum(after.since(before) for after, before in zip(ended, begun, strict=True))
    above = float(np.median(rss)) - sum(process.rss_bytes for process in idle)
    return Figures(cpu_s / samples * 1e6, above / hosts / 1000)
