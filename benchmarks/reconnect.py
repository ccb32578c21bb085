"""A thousand agents come back at once: how soon all they kept is acknowledged, and what that costs the collector.

Real collector, real mutual TLS, the product's own senders with their own backoff. The collector is killed, stays away,
and starts again. Agents spread their return at random, so the time is mostly waiting that they choose; the CPU is what
the storm costs. It is shown beside what the same collector needs for the same time when nothing happens.
"""

import tempfile
import time
from pathlib import Path

from benchmarks.agents import Agents, Plan
from benchmarks.collector import Collector, write_identities
from benchmarks.fleet import SERIES_PER_HOST, Fleet
from benchmarks.processes import Measured
from benchmarks.report import Report

HOSTS = 1_000
INTERVAL_S = 15.0
AWAY_S = 30.0
CALM_S = 45.0
PATIENCE_S = 240.0
POLL_S = 0.5


def run(*, quick: bool) -> Report:
    """kill -9, away for half a minute, back: until everybody is connected and nothing is unacknowledged."""
    hosts = 100 if quick else HOSTS
    report = Report(f"reconnect: {hosts} agents x {SERIES_PER_HOST} series come back after {AWAY_S:.0f} s")
    with tempfile.TemporaryDirectory(prefix="wb-reconnect-") as scratch:
        home = Path(scratch) / "home"
        collector = Collector(home, None)
        write_identities(home / "identities", collector.register(Fleet(hosts).names))
        process = collector.start()
        agents = None
        try:
            plan = Plan(str(home / "identities"), str(home / "sent.npy"), INTERVAL_S, 1)
            agents = Agents(plan, home / "agents.log")
            agents.ask("play")
            _settled(agents, hosts)
            calm_s = _cpu_over(process, CALM_S)
            process.kill()
            time.sleep(AWAY_S)
            waiting = agents.ask("mark")["unacknowledged"]
            process = collector.start()
            began_s, before = time.monotonic(), process.usage()
            connected_s, acknowledged_s = _returned(agents, hosts, began_s)
            after = process.usage()
            storm_s = after.since(before)
            report.add("all connected, after the collector was ready", connected_s, "s")
            report.add("all acknowledged, after the collector was ready", acknowledged_s, "s")
            calm_share = calm_s * acknowledged_s / CALM_S
            report.add("CPU of the collector until then", storm_s, "CPU-s", calm_share, "the same time, calm")
            report.add("CPU of the collector a returning agent", (storm_s - calm_share) / hosts * 1000, "ms")
            report.add("RSS of the collector then", after.rss_bytes / 1e6, "MB")
            report.notes.append(f"{waiting:,} records waited when it came back")
        finally:
            if agents is not None:
                agents.close()
            collector.stop()
    return report


def _settled(agents: Agents, hosts: int) -> None:
    """Wait until everybody is connected and has been acknowledged something."""
    until_s = time.monotonic() + PATIENCE_S
    while agents.ask("facts")["connected"] < hosts or agents.ask("facts")["received"] < hosts:
        assert time.monotonic() < until_s, (
            f"not all agents settled in {PATIENCE_S:.0f} s: {agents.ask('facts')}"
        )
        time.sleep(POLL_S)


def _cpu_over(process: Measured, seconds: float) -> float:
    before = process.usage()
    time.sleep(seconds)
    return process.usage().since(before)


def _returned(agents: Agents, hosts: int, began_s: float) -> tuple[float, float]:
    """Seconds until all are connected, and until all that waited at the return is acknowledged."""
    connected_s = None
    while True:
        facts = agents.ask("facts")
        now_s = time.monotonic() - began_s
        if connected_s is None and facts["connected"] == hosts:
            connected_s = now_s
        if connected_s is not None and facts["behind"] == 0:
            return connected_s, now_s
        assert now_s < PATIENCE_S, f"not all agents are back in {PATIENCE_S:.0f} s: {facts}"
        time.sleep(POLL_S)
