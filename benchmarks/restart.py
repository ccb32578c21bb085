"""How soon a collector that was killed answers again, with a day of a thousand hosts behind it.

The day is committed through the history's own API with simulated time that ends now, and merged as it would have been.
"""

import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.collector import Collector
from benchmarks.fleet import SERIES_PER_HOST, Fleet
from benchmarks.report import Report

HOSTS = 1_000
HOURS = 24
INTERVAL_S = 15.0
ALLOWED_S = 3.0


def run(*, quick: bool) -> Report:
    """kill -9, start, the first query's answer."""
    hosts, hours = (100, 3) if quick else (HOSTS, HOURS)
    report = Report(f"restart: {hosts} hosts x {SERIES_PER_HOST} series x {hours} h of history")
    with tempfile.TemporaryDirectory(prefix="wb-restart-") as scratch:
        collector = Collector(Path(scratch) / "home", None, stock=True)
        _fill(collector.state / "history", hosts, hours, report)
        process = collector.start(cpu=None)
        process.kill()
        seconds = []
        for _ in range(3):
            start = time.monotonic()
            process = collector.start(cpu=None)
            answer = collector.get("/api/v1/query", query="count(last_over_time(node_load1[30m]))")
            seconds.append(time.monotonic() - start)
            process.kill()
        assert answer["result"], "the history was not there"
        report.add(
            "kill -9 to the first query answered, worst of 3", max(seconds), "s", ALLOWED_S, "what is allowed"
        )
    return report


def _fill(directory: Path, hosts: int, hours: int, report: Report) -> None:
    from watchbill.clock import ManualClock
    from watchbill_collector.history import History
    from watchbill_collector.series import SeriesTable, Ticks

    fleet = Fleet(hosts)
    clock = ManualClock(wall_ms=time.time_ns() // 1_000_000 - hours * 3_600_000 - 60_000)
    table = SeriesTable()
    history = History.open(directory, table, clock)
    keys = [table.key(one.name, dict(one.labels)) for one in fleet.series]
    ids = [table.series(table.source({"instance": name, "job": "node"}), keys) for name in fleet.names]
    for tick in range(hours * 3600 // int(INTERVAL_S)):
        clock.advance(INTERVAL_S)
        now_ms = np.array([clock.wall_ms()], np.int64)
        values = fleet.advance(INTERVAL_S)
        history.commit(
            [Ticks(ids[host], now_ms, values[host : host + 1].copy()) for host in range(hosts)], [], []
        )
        if tick % 20 == 19:
            while history.merge(clock.wall_ms()):
                pass
    history.close()
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    report.notes.append(f"{size / 1e9:.2f} GB on disk, made with simulated time")
