"""A storm: one dependency fails, and 50,000 alerts of what stands behind it fire in the same evaluation.

Ours is a process with the real parts from the head to the webhook: 20 rules over 2,500 hosts, alerts' state and
outbox on disk, services that depend on one that fails. Time begins when the samples come to the head that hold the
condition: the evaluation is part of it. Beside it Debian's Alertmanager gets the same alerts over its API, all of which
carry the label to group by, since it knows no dependencies; somebody else has evaluated them. Both post to the same
web server, which counts the alerts that a notice speaks of: one that came before all were posted does not count, and
then Alertmanager is started again with a longer group_wait.
"""

import asyncio
import http.client
import http.server
import json
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers import missing
from benchmarks.processes import SERVER_CPU, free_ports, running, wait_for
from benchmarks.report import Report

ALERTS, RULES = 50_000, 20
ALERTS_QUICK = 5_000
SECONDS_MAX, MEGABYTES_MAX = 10.0, 500.0
PATIENCE_S = 120.0
POST_ALERTS = 1_000
STEADY = 5
"""Evaluations while all alerts fire; the middle one is shown."""
PEER_WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Values of group_wait, the shortest first; that whose first notice speaks of all alerts is shown."""
QUIET_S = 5.0
"""How long nothing more may come before the notices are counted."""


class Receiver:
    """A web server that notes when each notice came and how many alerts it speaks of."""

    def __init__(self) -> None:
        notes: list[tuple[float, int, str]] = []
        self.notes = notes

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                count = len(body["alerts"]) + int(body.get("truncatedAlerts", 0))
                notes.append((time.monotonic(), count, str(body["status"])))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def wait(self, alerts: int, status: str = "firing") -> float:
        """When a notice came that speaks of all, and says so of them."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for at, count, said in list(self.notes):
                if count >= alerts and said == status:
                    return at
            time.sleep(0.01)
        raise RuntimeError(f"no notice about {alerts} alerts came; there were {self.notes}")

    def close(self) -> None:
        """End."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def _receiving() -> Iterator[Receiver]:
    receiver = Receiver()
    try:
        yield receiver
    finally:
        receiver.close()


def run(*, quick: bool) -> Report:
    """Time to the one notice, memory, and how many notices there were."""
    alerts = ALERTS_QUICK if quick else ALERTS
    report = Report(f"storm: {alerts:,} alerts behind one dependency fire at once")
    with tempfile.TemporaryDirectory(prefix="wb-storm-") as scratch:
        ours = _ours(alerts, Path(scratch))
        allowed = "what is allowed"
        report.add("from the condition to the webhook", ours["notice_s"], "s", SECONDS_MAX, allowed)
        report.add("of it the evaluation", ours["evaluation_s"], "s")
        report.add("most memory", ours["peak_mb"], "MB", MEGABYTES_MAX, allowed)
        report.add("of it before the storm", ours["before_mb"], "MB")
        report.add("notices", ours["notices"], "", 1, allowed)
        report.add("alerts the notice speaks of", ours["spoken_of"], "", alerts, "all")
        report.add("an evaluation while all of them fire", ours["steady_s"] * 1000, "ms")
        report.add("the evaluation at which all end", ours["end_evaluation_s"], "s")
        report.add("from the end of the condition to the webhook", ours["end_s"], "s")
        lacking = missing("prometheus-alertmanager")
        if lacking:
            report.notes.append(f"nothing beside it: {lacking}")
            return report
        peer = _peer(alerts, Path(scratch))
        name = "Alertmanager"
        report.add("to the notice about all alerts", ours["notice_s"], "s", peer["notice_s"], name)
        report.add(
            "without the evaluation", ours["notice_s"] - ours["evaluation_s"], "s", peer["notice_s"], name
        )
        report.add("CPU, evaluation included", ours["cpu_s"], "s", peer["cpu_s"], name)
        report.add(
            "CPU, evaluation left out", ours["cpu_s"] - ours["evaluation_cpu_s"], "s", peer["cpu_s"], name
        )
        report.add("most memory, head and engine included", ours["peak_mb"], "MB", peer["peak_mb"], name)
        report.add("alerts in its first notice", ours["spoken_of"], "", peer["spoken_of"], name)
        report.notes.append(
            f"Alertmanager's group_wait is {peer['wait_s']:g} s and part of its time: with less, its first notice "
            f"does not speak of all alerts, which take {peer['posted_s']:.1f} s to post. It judges no rules and holds "
            "no samples; ours does both in the same process."
        )
    return report


def _ours(alerts: int, scratch: Path) -> dict[str, float]:
    with _receiving() as receiver:
        home = scratch / "ours"
        home.mkdir()
        argv = [sys.executable, "-m", "benchmarks.storm", str(home), str(receiver.port), str(alerts)]
        log = scratch / "ours.log"
        with running(argv, log, cpu=SERVER_CPU) as process:
            code = process.process.wait(PATIENCE_S)
            if code:
                raise RuntimeError(f"the storm's process ended with {code}: {log.read_text()[-2000:]}")
        said: dict[str, float] = json.loads((home / "said.json").read_text())
        firing = [count for _, count, status in receiver.notes if status == "firing"]
        return {
            **said,
            "notice_s": receiver.wait(alerts) - said["began_s"],
            "end_s": receiver.wait(alerts, "resolved") - said["end_began_s"],
            "notices": float(len(firing)),
            "spoken_of": float(firing[0]),
        }


def _peer(alerts: int, scratch: Path) -> dict[str, float]:
    for wait_s in PEER_WAITS_S:
        found = _peer_waiting(alerts, scratch / f"peer{wait_s:g}", wait_s)
        if found["spoken_of"] >= alerts:
            return found
    raise RuntimeError(f"no group_wait up to {PEER_WAITS_S[-1]:g} s gave one notice about {alerts} alerts")


def _peer_waiting(alerts: int, scratch: Path, wait_s: float) -> dict[str, float]:
    scratch.mkdir()
    with _receiving() as receiver:
        (port,) = free_ports(1)
        config = scratch / "alertmanager.yml"
        config.write_text(
            f"route: {{receiver: hook, group_by: [service], group_wait: {wait_s:g}s, group_interval: 5m}}\n"
            "receivers:\n- name: hook\n  webhook_configs:\n"
            f"  - {{url: 'http://127.0.0.1:{receiver.port}/', max_alerts: 100, send_resolved: true}}\n"
        )
        argv = ["prometheus-alertmanager", f"--config.file={config}", f"--storage.path={scratch / 'am'}"]
        argv += [f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]
        log = scratch / "alertmanager.log"
        with running(argv, log, cpu=SERVER_CPU) as process:
            wait_for(f"http://127.0.0.1:{port}/-/ready", process, log)
            bodies = list(_bodies(alerts))
            before, began = process.usage(), time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", port)
            for body in bodies:
                connection.request("POST", "/api/v2/alerts", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    raise RuntimeError(f"Alertmanager answered {answer.status}")
            posted_s = time.monotonic() - began
            time.sleep(wait_s + QUIET_S)
            if not receiver.notes:
                raise RuntimeError("Alertmanager sent nothing")
            came, count, _ = receiver.notes[0]
            return {
                "notice_s": came - began,
                "posted_s": posted_s,
                "wait_s": wait_s,
                "cpu_s": process.usage().since(before),
                "peak_mb": _most_mb(process.pid),
                "spoken_of": float(count),
            }


def _most_mb(pid: int) -> float:
    """The most memory that a process had resident, ever."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def _bodies(alerts: int) -> Iterator[bytes]:
    def one(number: int) -> dict[str, Any]:
        rule, host = number % RULES, number // RULES
        labels = {
            "alertname": f"Rule{rule}",
            "instance": f"web{host}",
            "service": "db",
            "severity": "critical",
        }
        return {"labels": labels, "annotations": {"summary": f"rule {rule} on web{host}"}}

    for start in range(0, alerts, POST_ALERTS):
        yield json.dumps([one(number) for number in range(start, min(start + POST_ALERTS, alerts))]).encode()


# The process that is measured.


async def _storm(home: Path, port: int, alerts: int) -> None:
    import numpy as np

    from watchbill import __version__
    from watchbill.clock import SystemClock
    from watchbill.config import Table
    from watchbill_collector.dispatch.dispatcher import Dispatcher, Setup
    from watchbill_collector.dispatch.matchers import Match
    from watchbill_collector.dispatch.outbox import Outbox, StoreRows
    from watchbill_collector.dispatch.plan import Planner
    from watchbill_collector.dispatch.routing import Route, Routing
    from watchbill_collector.dispatch.silencebook import SilenceBook
    from watchbill_collector.dispatch.snapshot import Snapshot
    from watchbill_collector.dispatch.values import Service
    from watchbill_collector.head import Head
    from watchbill_collector.notifiers.channel import Surroundings as Around
    from watchbill_collector.notifiers.channel_set import ChannelSet
    from watchbill_collector.notifiers.configured import build_all
    from watchbill_collector.promql.engine import Engine
    from watchbill_collector.rules import FileAlertState, Rulebook, Source, Surroundings
    from watchbill_collector.series import SeriesTable, Ticks
    from watchbill_collector.store import Store

    clock, hosts = SystemClock(), alerts // RULES
    table = SeriesTable()
    head = Head(table)
    book = Rulebook(
        Surroundings(table, Engine(), {}, "http://collector"),
        head,
        state=FileAlertState(home / "alerts.json"),
        monotonic=time.monotonic,
    )
    rules = "".join(
        f"  - alert: Rule{number}\n    expr: storm_{number} > 0\n    labels: {{severity: critical}}\n"
        f"    annotations: {{summary: 'rule {number} on {{{{ $labels.instance }}}}'}}\n"
        for number in range(RULES)
    )
    now_ms = clock.wall_ms() // 1000 * 1000
    text = f"groups:\n- name: storm\n  interval: 1s\n  rules:\n{rules}"
    problems = book.reload([Source("storm.yml", text.encode())], now_ms)
    assert not problems, problems
    ids = []
    for host in range(hosts):
        source = table.source({"instance": f"web{host}", "job": "node", "role": "db" if host == 0 else "web"})
        keys = [table.key(f"storm_{number}", {}) for number in range(RULES)]
        ids.append(table.series(source, keys))

    def send(value: float, at_ms: int) -> None:
        row = np.full((1, RULES), value)
        head.append([Ticks(each, np.array([at_ms]), row) for each in ids])

    database, web = Service("db", "dba"), Service("web", "shop", ("db",))
    by_name = {"db": database, "web": web}
    store = Store.open(home / "state", "main")
    outbox = Outbox(StoreRows(store))
    channels = ChannelSet(
        build_all(
            [Table({"name": "hook", "kind": "webhook", "url": f"http://127.0.0.1:{port}/"})],
            Around(__version__, clock),
        )
    )
    snapshot = Snapshot(book, "http://collector")
    dispatcher = Dispatcher(outbox, SilenceBook(store, clock), clock, channels.send)
    planner = Planner(
        snapshot.describe,
        service_of=lambda labels: by_name.get(labels.get("role", "")),
        service=by_name.get,
    )
    routing = Routing((Route("all", Match(), ("hook",)),))
    await dispatcher.configure(Setup(routing, frozenset({"hook"}), planner))
    dispatcher.begin(snapshot, lambda: book.keep(clock.wall_ms()))
    task = asyncio.create_task(dispatcher.run())
    told = outbox.counters.outcomes

    async def delivered(notices: int) -> None:
        while sum(count for (_, outcome), count in told.items() if outcome == "delivered") < notices:
            await asyncio.sleep(0.01)
            if task.done():
                task.result()

    async def judged(value: float, second: int) -> tuple[float, float, float]:
        """Send, and judge: when it began, and the seconds and CPU seconds of the evaluation."""
        at_ms = now_ms + second * 1_000
        began = time.monotonic()
        send(value, at_ms)
        started, cpu = time.monotonic(), time.process_time()
        await asyncio.to_thread(book.evaluate_due, at_ms + 100)
        took = time.monotonic() - started, time.process_time() - cpu
        dispatcher.wake()
        return began, *took

    for second in range(2):
        await judged(0.0, second)
    before_mb, cpu = _peak_mb(), time.process_time()
    began, evaluation_s, evaluation_cpu_s = await judged(1.0, 2)
    await delivered(1)
    cpu_s = time.process_time() - cpu
    await asyncio.sleep(QUIET_S)
    steady = [(await judged(1.0, second))[1] for second in range(3, 3 + STEADY)]
    await asyncio.sleep(QUIET_S)
    end_began, end_evaluation_s, _ = await judged(0.0, 3 + STEADY)
    await delivered(2)
    said = {
        "began_s": began,
        "evaluation_s": evaluation_s,
        "evaluation_cpu_s": evaluation_cpu_s,
        "cpu_s": cpu_s,
        "steady_s": sorted(steady)[STEADY // 2],
        "end_began_s": end_began,
        "end_evaluation_s": end_evaluation_s,
        "peak_mb": _peak_mb(),
        "before_mb": before_mb,
    }
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await channels.close()
    store.close()
    (home / "said.json").write_text(json.dumps(said))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    asyncio.run(_storm(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
