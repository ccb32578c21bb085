"""How soon a collector that was killed answers again, with a day of a thousand hosts behind it.

The day is committed through the history's own API with simulated time that ends now, and merged as it would have
been, but for the last two hours: the kill comes just before a merge, when most has to be read back. The filling
process kills itself with SIGKILL, so that nothing is closed, folded or synced that a crash would not have. The
values of a hundred hosts stand for ten each: every host has series, lists, blocks and raw rows of its own, and each
of these is compressed alone, so what lies on the disk is as large as it would be with a thousand different ones.
"""

import multiprocessing
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.collector import Collector
from benchmarks.fleet import SERIES_PER_HOST, Fleet
from benchmarks.processes import directory_bytes
from benchmarks.report import Report

HOSTS = 1_000
HOURS = 24
INTERVAL_S = 15.0
ALLOWED_S = 3.0
STARTS = 3
RULES = Path(__file__).with_name("rules20.yml")
DIFFERENT_HOSTS = 100
BATCH_TICKS = 60
"""Ticks of one host committed together, until the last hours, which come tick by tick."""
BATCH_HOSTS = 250
UNMERGED_MS = 3_600_000
LIVE_TICKS = 40
"""So many ticks at the end come as they do from agents: one of every host in a commit."""
JUDGED_S = 120.0
HOUR_S = 3600


def run(*, quick: bool) -> Report:
    """kill -9, start, the first answers, and when rules judge again."""
    hosts, hours = (100, 3) if quick else (HOSTS, HOURS)
    report = Report(f"restart: {hosts} hosts x {SERIES_PER_HOST} series x {hours} h of history")
    with tempfile.TemporaryDirectory(prefix="wb-restart-") as scratch:
        collector = prepare(Path(scratch) / "home", hosts, hours, report)
        measure(collector, hosts, hours, report)
    return report


def prepare(home: Path, hosts: int, hours: int, report: Report) -> Collector:
    """A collector's home with that much history in it, as a kill -9 leaves it."""
    collector = Collector(home, RULES, stock=True)
    collector.register(Fleet(hosts).names)
    began = time.monotonic()
    filling = multiprocessing.get_context("spawn").Process(
        target=_fill, args=(collector.state / "history", hosts, hours)
    )
    filling.start()
    filling.join()
    assert filling.exitcode == -signal.SIGKILL, f"filling ended with {filling.exitcode}"
    history = collector.state / "history"
    size = directory_bytes(history) - sum(file.stat().st_size for file in history.glob("*ballast*"))
    samples = hosts * SERIES_PER_HOST * hours * HOUR_S / INTERVAL_S
    report.notes.append(
        f"{samples / 1e9:.2f} thousand million samples, {size / 1e9:.2f} GB on disk, made with simulated time in "
        f"{time.monotonic() - began:.0f} s; the last two hours are not merged"
    )
    return collector


def measure(collector: Collector, hosts: int, hours: int, report: Report) -> None:
    """Start, ask, kill, some times over; the worst of each goes into the report."""
    worst: dict[str, float] = {}

    def note(what: str, seconds: float) -> None:
        worst[what] = max(worst.get(what, 0.0), seconds)

    for _ in range(STARTS):
        began = time.monotonic()
        process = collector.start(cpu=None)
        try:
            note("kill -9 to ready", time.monotonic() - began)
            answer = _asked(collector, "query", query="count(last_over_time(node_load1[30m]))")
            note("kill -9 to the first query answered", time.monotonic() - began)
            assert answer["result"][0]["value"][1] == str(hosts), answer
            for what, query, seconds, step in (
                ("one series, all of the history", 'node_load1{instance="host-00007"}', hours * HOUR_S, 300),
                ("a rate of every host's, the last hour", "sum(rate(node_forks_total[5m]))", HOUR_S, 15),
            ):
                asked = time.monotonic()
                now_s = time.time()
                answer = _asked(
                    collector,
                    "query_range",
                    query=query,
                    start=f"{now_s - seconds}",
                    end=f"{now_s}",
                    step=f"{step}",
                )
                assert answer["result"], (what, answer)
                note(f"query_range right after: {what}", time.monotonic() - asked)
            _judged(collector)
            note("kill -9 to all rules judged", time.monotonic() - began)
            note("memory", process.usage().rss_bytes / 1e6)
        finally:
            process.kill()
            collector.process = None
    memory_mb = worst.pop("memory")
    for what, took_s in worst.items():
        limit = (ALLOWED_S, "what is allowed") if "first query" in what else (None, "")
        report.add(f"{what}, worst of {STARTS}", took_s, "s", *limit)
    report.add("RSS when rules judge again", memory_mb, "MB")


def _asked(collector: Collector, what: str, **parameters: str) -> Any:
    return collector.get(f"/api/v1/{what}", **parameters)


def _judged(collector: Collector) -> None:
    """Wait until every rule group has been evaluated."""
    until = time.monotonic() + JUDGED_S
    while True:
        groups = collector.get("/api/v1/rules")["groups"]
        if groups and all(not group["lastEvaluation"].startswith("0001") for group in groups):
            return
        assert time.monotonic() < until, f"rules do not judge {JUDGED_S:.0f} s after the start"
        time.sleep(0.1)


def _fill(directory: Path, hosts: int, hours: int) -> None:
    """In a process of its own, which does not survive it."""
    from watchbill.clock import ManualClock
    from watchbill_collector.history import History
    from watchbill_collector.series import SeriesTable, Ticks

    fleet = Fleet(min(hosts, DIFFERENT_HOSTS))
    names = [f"host-{number:05d}" for number in range(hosts)]
    end_ms = time.time_ns() // 1_000_000 // 1000 * 1000
    ticks = int(hours * HOUR_S / INTERVAL_S)
    clock = ManualClock(wall_ms=end_ms - int(ticks * INTERVAL_S) * 1000)
    table = SeriesTable()
    history = History.open(directory, table, clock)
    keys = [table.key(one.name, dict(one.labels)) for one in fleet.series]
    ids = [table.series(table.source({"instance": name, "job": "node"}), keys) for name in names]

    def commit(times: list[int], values: list[Any], together: int) -> None:
        stamps, rows = np.array(times, np.int64), np.array(values)
        for begin in range(0, hosts, together):
            some = range(begin, min(begin + together, hosts))
            history.commit(
                [Ticks(ids[host], stamps, rows[:, host % fleet.hosts].copy()) for host in some], [], []
            )
        times.clear()
        values.clear()

    times: list[int] = []
    values: list[Any] = []
    for tick in range(ticks):
        clock.advance(INTERVAL_S)
        times.append(clock.wall_ms())
        values.append(fleet.advance(INTERVAL_S).copy())
        if tick >= ticks - LIVE_TICKS:
            commit(times, values, hosts)
        elif len(times) == BATCH_TICKS or tick == ticks - LIVE_TICKS - 1:
            commit(times, values, BATCH_HOSTS)
        if not times:
            while history.merge(min(clock.wall_ms(), end_ms - UNMERGED_MS)):
                pass
    os.kill(os.getpid(), signal.SIGKILL)
