"""An hour that a link was down: how soon it is delivered, and what live values wait for it meanwhile.

Real collector, real link, four hosts that make 1,200 series at 1 Hz together. Their spools hold an hour when they
connect. While it drains, a value crosses its threshold; the time to the alert shows whether live values stand behind
the old ones in a queue.
"""

import tempfile
import time
from pathlib import Path

from benchmarks.agents import Agents, Plan
from benchmarks.collector import Collector, write_identities
from benchmarks.fleet import SERIES_PER_HOST, Fleet
from benchmarks.report import Report

HOSTS = 4
BACKLOG_S = 3600
EVALUATION_S = 5.0
RULE = f"""\
groups:
  - name: backlog
    interval: {EVALUATION_S:g}s
    rules:
      - {{ alert: Crossed, expr: 'node_load1 > 1000' }}
"""
HIGH = 5000.0
ALLOWED_S = 60.0
PATIENCE_S = 300.0
POLL_S = 0.1


def run(*, quick: bool) -> Report:
    """Until every spool's hour is acknowledged, and until the alert of a value that crossed at the beginning."""
    seconds = BACKLOG_S // 10 if quick else BACKLOG_S
    series = HOSTS * SERIES_PER_HOST
    report = Report(f"backlog: {seconds} s of {series:,} series at 1 Hz, delivered while live values go on")
    with tempfile.TemporaryDirectory(prefix="wb-backlog-") as scratch:
        rules = Path(scratch) / "rules.yml"
        rules.write_text(RULE)
        home = Path(scratch) / "home"
        fleet = Fleet(HOSTS)
        place = next(number for number, one in enumerate(fleet.series) if one.name == "node_load1")
        collector = Collector(home, rules)
        write_identities(home / "identities", collector.register(fleet.names))
        process = collector.start()
        before = process.usage()
        agents = None
        try:
            began_s = time.monotonic()
            plan = Plan(
                str(home / "identities"), str(home / "sent.npy"), 1.0, 1, backlog_s=seconds, load=False
            )
            agents = Agents(plan, home / "agents.log")
            connected_s = time.monotonic()
            behind = agents.ask("mark")["behind"]
            agents.ask("play")
            agents.ask("set", host=0, place=place, value=HIGH)
            crossed_s = time.monotonic()
            fired_s = drained_s = 0.0
            while not (fired_s and drained_s):
                now_s = time.monotonic()
                assert now_s - began_s < PATIENCE_S, agents.ask("facts")
                if not drained_s and agents.ask("facts")["behind"] == 0:
                    drained_s = now_s
                if not fired_s and collector.firing():
                    fired_s = now_s
                time.sleep(POLL_S)
            used_s = process.usage().since(before)
            report.add(
                "all acknowledged, after connecting",
                drained_s - connected_s,
                "s",
                ALLOWED_S,
                "what is allowed",
            )
            allowed_s = 2 * 1.0 + EVALUATION_S + 1.0
            report.add(
                "a live value crosses -> firing, meanwhile",
                fired_s - crossed_s,
                "s",
                allowed_s,
                "what is allowed",
            )
            million = seconds * series / 1e6
            report.add("CPU of the collector", used_s / million, "CPU-s/M")
            report.notes.append(f"{behind} of {HOSTS} hosts were behind when all were connected")
            found = collector.get(
                "/api/v1/query", query=f"min(count_over_time(node_load1[{seconds + 600}s]))"
            )
            report.notes.append(
                f"fewest readings of a host in history afterwards: {found['result'][0]['value'][1]}"
            )
        finally:
            if agents is not None:
                agents.close()
            collector.stop()
    return report
