"""What one evaluation of rules costs: 20 and 200 rules over 1,000 and 10,000 hosts, beside Prometheus on the same data.

Both hold six minutes of a fleet's series, one tick every 15 s. Ours is the CPU of the evaluating thread, in a process
of its own, each evaluation over a tick that is new (taking it in is another benchmark's figure). Prometheus' is the CPU
of its process over several evaluations while nothing comes in, less what it uses without rules; both begin when it
has had time to be done with what was loaded. The first evaluation of ours, which works out labels and groups, is
shown apart.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.fleet import Fleet
from benchmarks.peers import RemoteWrite, missing
from benchmarks.processes import Measured, free_ports, running, wait_for
from benchmarks.report import Report

RULES = Path(__file__).with_name("rules20.yml")
STEP_S = 15
TICKS = 24
"""Six minutes: the longest window of the rules is five."""
EVALUATIONS = 20
PEER_INTERVAL_S = 10
"""Long enough that two hundred rules over a thousand hosts do not keep it busy all the time: it would skip some."""
PEER_SETTLE_S = 20.0
PEER_SECONDS = 60.0
PEER_HOSTS_MAX = 2_000
"""Prometheus is not measured over more hosts than this: ten thousand need more memory than this benchmark may take."""
CASES = ((20, 1_000), (200, 1_000), (20, 10_000), (200, 10_000))
QUICK = ((20, 100), (200, 100))
ALLOWED = 0.1


def run(*, quick: bool) -> Report:
    """Every case; `quick` with a hundred hosts."""
    report = Report("rules: CPU of one evaluation")
    lacking = missing("prometheus")
    for rules, hosts in QUICK if quick else CASES:
        ours = _ours(rules, hosts)
        peer = None
        if not lacking and hosts <= PEER_HOSTS_MAX:
            peer = _prometheus(rules, hosts, PEER_SECONDS / 3 if quick else PEER_SECONDS)
        what = f"{rules} rules, {hosts:,} hosts"
        report.add(what, ours["steady_ms"], "ms CPU", peer, "Prometheus 2.42" if peer is not None else "")
        report.add(f"{what}: the first time", ours["first_ms"], "ms CPU")
        report.add(f"{what}: a host's memory in the head", ours["bytes_a_host"] / 1000, "kB")
    report.notes.append(f"{RULES.name}; 200 rules are the same ten times with other limits")
    report.notes.append(f"wanted: at most {ALLOWED:g} of Prometheus for 20 rules over 1,000 hosts")
    if lacking:
        report.notes.append(f"not on this machine: {lacking}")
    elif not quick:
        report.notes.append(f"Prometheus is measured up to {PEER_HOSTS_MAX:,} hosts")
    return report


def rules_text(count: int, interval_s: int) -> str:
    """So many rules: those of the file again and again, each time with limits a little higher, so that no expression
    is the same."""
    lines = RULES.read_text().splitlines()
    begins = next(number for number, line in enumerate(lines) if line.strip().startswith("- {"))
    written = [line for line in lines[begins:] if line.strip()]
    made = []
    for number in range(count):
        line = written[number % len(written)]
        again = number // len(written)
        made.append(line.replace("', for", f" + {again}', for", 1) if again else line)
    head = [line.replace("interval: 15s", f"interval: {interval_s}s") for line in lines[:begins]]
    return "\n".join([*head, *made]) + "\n"


# ---------------------------------------------------------------- ours


def _ours(rules: int, hosts: int) -> dict[str, float]:
    """In a process of its own: memory and caches begin at nothing."""
    argv = [sys.executable, "-m", "benchmarks.rules", str(rules), str(hosts)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _judge(rules: int, hosts: int) -> dict[str, float]:
    import numpy as np

    from watchbill_collector.head import Head
    from watchbill_collector.promql.engine import Engine
    from watchbill_collector.rules import Rulebook, Source, Surroundings
    from watchbill_collector.series import SeriesTable, Ticks

    table = SeriesTable()
    head = Head(table)
    book = Rulebook(Surroundings(table, Engine(), {}, ""), head, monotonic=time.monotonic)
    now_ms = 1_700_000_010_000
    problems = book.reload([Source("rules.yml", rules_text(rules, STEP_S).encode())], now_ms)
    if problems:
        raise RuntimeError("; ".join(map(str, problems)))
    fleet = Fleet(hosts)
    ids, up = [], []
    for name in fleet.names:
        source = table.source({"instance": name, "job": "node"})
        ids.append(table.series(source, [table.key(one.name, dict(one.labels)) for one in fleet.series]))
        up.append(table.series(source, [table.key("up", {})]))
    alive, ones = np.concatenate(up), np.ones((1, hosts))
    spent = []
    for number in range(TICKS + EVALUATIONS):
        now_ms += STEP_S * 1000
        values, at = fleet.advance(STEP_S), np.array([now_ms - 100])
        head.append([Ticks(series, at, values[host][None, :]) for host, series in enumerate(ids)])
        head.append([Ticks(alive, at, ones)])
        with head.lock:
            head.fold(now_ms)
        if number >= TICKS - 1:
            begun = time.thread_time()
            book.evaluate_due(now_ms)
            spent.append(1000 * (time.thread_time() - begun))
    assert book.stats.failures == 0, "a rule failed"
    return {
        "first_ms": spent[0],
        "steady_ms": float(np.median(spent[1:])),
        "bytes_a_host": head.bytes_used / hosts,
    }


# ---------------------------------------------------------------- Prometheus


def _prometheus(rules: int, hosts: int, seconds: float) -> float:
    """Milliseconds of CPU for one evaluation."""
    with tempfile.TemporaryDirectory(prefix="wb-rules-") as scratch:
        work = Path(scratch)
        with_rules = _cpu_a_second(work / "with", rules, hosts, seconds)
        without = _cpu_a_second(work / "without", 0, hosts, seconds)
    return max(0.0, with_rules - without) * PEER_INTERVAL_S * 1000


def _cpu_a_second(work: Path, rules: int, hosts: int, seconds: float) -> float:
    work.mkdir()
    (work / "rules.yml").write_text(rules_text(rules, PEER_INTERVAL_S) if rules else "groups: []\n")
    (work / "prometheus.yml").write_text("rule_files: [rules.yml]\n")
    (port,) = free_ports(1)
    argv = [
        "prometheus",
        f"--config.file={work / 'prometheus.yml'}",
        f"--storage.tsdb.path={work / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--web.enable-remote-write-receiver",
        "--log.level=error",
    ]
    url = f"http://127.0.0.1:{port}"
    with running(argv, work / "log") as process:
        wait_for(f"{url}/-/ready", process, work / "log")
        _load(hosts, f"{url}/api/v1/write")
        time.sleep(PEER_SETTLE_S)
        return _measured(process, seconds)


def _load(hosts: int, url: str) -> None:
    """The same six minutes, ending in the middle of what is measured."""
    fleet = Fleet(hosts)
    write = RemoteWrite(fleet, url)
    now_ms = time.time_ns() // 1_000_000 + round(1000 * (PEER_SETTLE_S + PEER_SECONDS / 2))
    for tick in range(TICKS):
        write.send(fleet.advance(STEP_S), now_ms - STEP_S * 1000 * (TICKS - 1 - tick))


def _measured(process: Measured, seconds: float) -> float:
    before, begun = process.usage(), time.monotonic()
    time.sleep(seconds)
    return process.usage().since(before) / (time.monotonic() - begun)


if __name__ == "__main__":
    print(json.dumps(_judge(int(sys.argv[1]), int(sys.argv[2]))))
