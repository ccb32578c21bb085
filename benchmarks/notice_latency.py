"""From the verdict to the webhook: how long after an evaluation the notice about what fired arrives.

A process with the real parts behind the head: rules over 1,000 hosts, alerts' state and outbox on disk (each attempt is
written down before it is made), the webhook channel. One host after the other begins to fire; each is a group of its
own and critical, so nothing waits on purpose. Time begins when the evaluation is over and ends when the receiver, in
another process, has read the whole request.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import Report
from benchmarks.storm import Receiver

HOSTS, RULES = 1_000, 20
NOTICES, NOTICES_QUICK = 200, 20
MILLISECONDS_MAX = 500.0
PATIENCE_S = 300.0


def run(*, quick: bool) -> Report:
    """The middle, the 99th percentile and the worst of many."""
    count = NOTICES_QUICK if quick else NOTICES
    report = Report(f"notice_latency: {count} notices, {RULES} rules over {HOSTS:,} hosts")
    receiver = Receiver()
    try:
        with tempfile.TemporaryDirectory(prefix="wb-notice-") as scratch:
            argv = [
                sys.executable,
                "-m",
                "benchmarks.notice_latency",
                scratch,
                str(receiver.port),
                str(count),
            ]
            subprocess.run(argv, check=True, timeout=PATIENCE_S)
            judged = json.loads((Path(scratch) / "judged.json").read_text())
    finally:
        receiver.close()
    arrived = [at for at, _, status in receiver.notes if status == "firing"]
    assert len(arrived) == len(judged), (len(arrived), len(judged))
    took_ms = sorted((there - verdict) * 1000 for there, verdict in zip(arrived, judged, strict=True))
    allowed = "what is allowed"
    report.add(
        "from the verdict to the webhook, median", took_ms[count // 2], "ms", MILLISECONDS_MAX, allowed
    )
    at_99 = took_ms[min(count - 1, count * 99 // 100)]
    report.add("from the verdict to the webhook, 99 of 100", at_99, "ms", MILLISECONDS_MAX, allowed)
    report.add("from the verdict to the webhook, worst", took_ms[-1], "ms", MILLISECONDS_MAX, allowed)
    return report


async def _notices(home: Path, port: int, count: int) -> None:
    import numpy as np

    from watchbill import __version__
    from watchbill.clock import SystemClock
    from watchbill.config import Table
    from watchbill_collector.dispatch.dispatcher import Dispatcher, Setup
    from watchbill_collector.dispatch.matchers import Match
    from watchbill_collector.dispatch.outbox import DELIVERED, Outbox, StoreRows
    from watchbill_collector.dispatch.plan import Planner
    from watchbill_collector.dispatch.routing import Route, Routing
    from watchbill_collector.dispatch.silencebook import SilenceBook
    from watchbill_collector.dispatch.snapshot import Snapshot
    from watchbill_collector.head import Head
    from watchbill_collector.notifiers.channel import Surroundings as Around
    from watchbill_collector.notifiers.channel_set import ChannelSet
    from watchbill_collector.notifiers.configured import build_all
    from watchbill_collector.promql.engine import Engine
    from watchbill_collector.rules import FileAlertState, Rulebook, Source, Surroundings
    from watchbill_collector.series import SeriesTable, Ticks
    from watchbill_collector.store import Store

    clock, table = SystemClock(), SeriesTable()
    head = Head(table)
    around = Surroundings(table, Engine(), {}, "http://collector")
    book = Rulebook(around, head, state=FileAlertState(home / "alerts.json"), monotonic=time.monotonic)
    rules = "".join(
        f"  - alert: Rule{number}\n    expr: value_{number} > 0\n    labels: {{severity: critical}}\n"
        f"    annotations: {{summary: 'rule {number} on {{{{ $labels.instance }}}}'}}\n"
        for number in range(RULES)
    )
    now_ms = clock.wall_ms() // 1000 * 1000
    text = f"groups:\n- name: latency\n  interval: 1s\n  rules:\n{rules}"
    problems = book.reload([Source("latency.yml", text.encode())], now_ms)
    assert not problems, problems
    ids = []
    for host in range(HOSTS):
        source = table.source({"instance": f"web{host}", "job": "node"})
        ids.append(table.series(source, [table.key(f"value_{number}", {}) for number in range(RULES)]))
    rows = np.zeros((HOSTS, RULES))

    store = Store.open(home / "state", "main")
    outbox = Outbox(StoreRows(store))
    hook = Table({"name": "hook", "kind": "webhook", "url": f"http://127.0.0.1:{port}/"})
    channels = ChannelSet(build_all([hook], Around(__version__, clock)))
    snapshot = Snapshot(book, "http://collector")
    dispatcher = Dispatcher(outbox, SilenceBook(store, clock), clock, channels.send, stamp=channels.stamp)
    routing = Routing((Route("all", Match(), ("hook",), group_by=("instance",)),))
    await dispatcher.configure(Setup(routing, frozenset({"hook"}), Planner(snapshot.describe)))
    dispatcher.begin(snapshot, lambda: book.keep(clock.wall_ms()))
    task = asyncio.create_task(dispatcher.run())
    judged: list[float] = []
    for number in range(-2, count):
        if number >= 0:
            rows[number, number % RULES] = 1.0
        at_ms = now_ms + (number + 2) * 1_000
        head.append([Ticks(each, np.array([at_ms]), rows[[host]]) for host, each in enumerate(ids)])
        await asyncio.to_thread(book.evaluate_due, at_ms + 100)
        if number >= 0:
            judged.append(time.monotonic())
        dispatcher.wake()
        while outbox.counters.outcomes.get(("hook", DELIVERED), 0) < len(judged):
            await asyncio.sleep(0.002)
            if task.done():
                task.result()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await channels.close()
    store.close()
    (home / "judged.json").write_text(json.dumps(judged))


if __name__ == "__main__":
    asyncio.run(_notices(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
