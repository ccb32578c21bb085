"""How long from a value that crosses its threshold on a host to the alert in the collector's API.

Real collector, real link; the value is set on one host among a few, at a random moment, several times. What may
pass at most: one sampling interval, one evaluation interval, the rule's `for`, and a second.
"""

import random
import tempfile
import time
from pathlib import Path

from benchmarks.agents import Agents, Plan
from benchmarks.collector import Collector, write_identities
from benchmarks.fleet import Fleet
from benchmarks.report import Report

HOSTS = 5
EVALUATION_S = 5.0
RULE = f"""\
groups:
  - name: latency
    interval: {EVALUATION_S:g}s
    rules:
      - {{ alert: Crossed, expr: 'node_load1 > 1000' }}
"""
CASES = ((1.0, 1), (15.0, 1), (1.0, 10))
HIGH, LOW = 5000.0, 1.0
PATIENCE_S = 60.0


def run(*, quick: bool) -> Report:
    """Worst and median of some repetitions, at each cadence."""
    report = Report(
        f"alert_latency: a value crosses -> firing in the API; evaluated every {EVALUATION_S:g} s, no `for`"
    )
    for interval_s, ticks in CASES:
        seconds = sorted(_case(interval_s, ticks, 2 if quick else 8))
        cadence = f"{interval_s:g} s, {ticks} tick(s) a message"
        allowed = interval_s + EVALUATION_S + 1.0
        report.add(f"{cadence}: worst of {len(seconds)}", seconds[-1], "s", allowed, "what is allowed")
        report.add(f"{cadence}: median", seconds[len(seconds) // 2], "s", allowed, "what is allowed")
    return report


def _case(interval_s: float, ticks: int, repetitions: int) -> list[float]:
    chance = random.Random(1)
    found = []
    with tempfile.TemporaryDirectory(prefix="wb-latency-") as scratch:
        home = Path(scratch) / "home"
        rules = Path(scratch) / "rules.yml"
        rules.write_text(RULE)
        fleet = Fleet(HOSTS)
        place = next(number for number, one in enumerate(fleet.series) if one.name == "node_load1")
        collector = Collector(home, rules)
        write_identities(home / "identities", collector.register(fleet.names))
        collector.start(cpu=None)
        agents = None
        try:
            plan = Plan(str(home / "identities"), str(home / "sent.npy"), interval_s, ticks, load=False)
            agents = Agents(plan, home / "agents.log", cpu=None)
            agents.ask("play")
            time.sleep(2 * interval_s + 2 * EVALUATION_S)
            for _ in range(repetitions):
                time.sleep(chance.uniform(0, EVALUATION_S))
                agents.ask("set", host=0, place=place, value=HIGH)
                found.append(_until(collector, there=True))
                agents.ask("set", host=0, place=place, value=LOW)
                _until(collector, there=False)
        finally:
            if agents is not None:
                agents.close()
            collector.stop()
    return found


def _until(collector: Collector, *, there: bool) -> float:
    start = time.monotonic()
    while bool(collector.firing()) is not there:
        if time.monotonic() - start > PATIENCE_S:
            raise RuntimeError(
                f"after {PATIENCE_S:.0f} s the alert is {'not there' if there else 'still there'}"
            )
        time.sleep(0.02)
    return time.monotonic() - start
