"""A storm: one dependency fails, and 50,000 alerts of what stands behind it fire in the same evaluation.

Ours is a process with the real parts from the head to the webhook: 20 rules over 2,500 hosts, alerts' state and
outbox on disk, services that depend on one that fails. Beside it Debian's Alertmanager gets the same alerts over
its API, all of which carry the label to group by, since it knows no dependencies. Both post to the same web server.
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
PEER_WAIT_S = 1.0
QUIET_S = 5.0
"""How long nothing more may come before the notices are counted."""


class Receiver:
    """A web server that notes when each notice came and how many alerts it speaks of."""

    def __init__(self) -> None:
        notes: list[tuple[float, int]] = []
        self.notes = notes

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                notes.append((time.monotonic(), len(body["alerts"]) + int(body.get("truncatedAlerts", 0))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def wait(self, alerts: int) -> float:
        """When a notice came that speaks of all."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for at, count in list(self.notes):
                if count >= alerts:
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
        report.add(
            "from the evaluation's end to the webhook", ours["notice_s"], "s", SECONDS_MAX, "what is allowed"
        )
        report.add("the evaluation itself", ours["evaluation_s"], "s")
        report.add("most memory", ours["peak_mb"], "MB", MEGABYTES_MAX, "what is allowed")
        report.add("memory before the storm", ours["before_mb"], "MB")
        report.add("notices", ours["notices"], "", 1, "what is allowed")
        lacking = missing("prometheus-alertmanager")
        if lacking:
            report.notes.append(f"nothing beside it: {lacking}")
            return report
        peer = _peer(alerts, Path(scratch))
        report.add(
            "same, first alert posted to notice", ours["notice_s"], "s", peer["notice_s"], "Alertmanager"
        )
        report.add("same, memory after", ours["peak_mb"], "MB", peer["rss_mb"], "Alertmanager")
        report.add("same, notices", ours["notices"], "", peer["notices"], "Alertmanager")
        report.notes.append(
            f"Alertmanager's group_wait is {PEER_WAIT_S:g} s and part of its time: with 0 s its first notice has "
            "the first alerts alone. Its memory holds no rules, no head and no engine; ours holds all of them."
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
        said = json.loads((home / "said.json").read_text())
        came = receiver.wait(alerts)
        return {
            "notice_s": came - said["evaluated_s"],
            "evaluation_s": said["evaluation_s"],
            "peak_mb": said["peak_mb"],
            "before_mb": said["before_mb"],
            "notices": float(len(receiver.notes)),
        }


def _peer(alerts: int, scratch: Path) -> dict[str, float]:
    with _receiving() as receiver:
        (port,) = free_ports(1)
        config = scratch / "alertmanager.yml"
        config.write_text(
            f"route: {{receiver: hook, group_by: [service], group_wait: {PEER_WAIT_S:g}s, group_interval: 5m}}\n"
            "receivers:\n- name: hook\n  webhook_configs:\n"
            f"  - {{url: 'http://127.0.0.1:{receiver.port}/', max_alerts: 100, send_resolved: true}}\n"
        )
        argv = ["prometheus-alertmanager", f"--config.file={config}", f"--storage.path={scratch / 'am'}"]
        argv += [f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]
        log = scratch / "alertmanager.log"
        with running(argv, log, cpu=SERVER_CPU) as process:
            wait_for(f"http://127.0.0.1:{port}/-/ready", process, log)
            bodies = list(_bodies(alerts))
            began = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", port)
            for body in bodies:
                connection.request("POST", "/api/v2/alerts", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    raise RuntimeError(f"Alertmanager answered {answer.status}")
            came = max(time.monotonic(), _last(receiver))
            time.sleep(QUIET_S)
            return {
                "notice_s": max(came, _last(receiver)) - began,
                "rss_mb": process.usage().rss_bytes / 1e6,
                "notices": float(len(receiver.notes)),
            }


def _last(receiver: Receiver) -> float:
    return max((at for at, _ in receiver.notes), default=0.0)


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
    send(0.0, now_ms)
    await asyncio.to_thread(book.evaluate_due, now_ms + 100)
    send(1.0, now_ms + 1_000)
    before_mb = _peak_mb()
    began = time.monotonic()
    await asyncio.to_thread(book.evaluate_due, now_ms + 1_100)
    evaluated = time.monotonic()
    dispatcher.wake()
    while not any(outcome == "delivered" for _, outcome in outbox.counters.outcomes):
        await asyncio.sleep(0.01)
        if task.done():
            task.result()
    await asyncio.sleep(QUIET_S)
    said = {
        "evaluated_s": evaluated,
        "evaluation_s": evaluated - began,
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
