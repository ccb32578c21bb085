"""Dispatchers as processes that can be killed: for each line `["STATE", "ALERTS", "URL"]` on standard input a child
that says "ready PID" when it works, and "ended" when it was. Importing takes longer than most of them live.

A dispatcher keeps its outbox in the directory STATE, sends by the webhook at URL, and takes for alerts what the file
ALERTS says, which stands for the rules: they remember across a kill what fires and what has ended.
"""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from watchbill.clock import SystemClock
from watchbill.config import Table
from watchbill_collector.dispatch.dispatcher import Dispatcher, Setup
from watchbill_collector.dispatch.given import GivenAlerts
from watchbill_collector.dispatch.matchers import read_match
from watchbill_collector.dispatch.outbox import Outbox, StoreRows
from watchbill_collector.dispatch.plan import Planner
from watchbill_collector.dispatch.routing import Route, Routing
from watchbill_collector.dispatch.silencebook import SilenceBook
from watchbill_collector.dispatch.values import Standing
from watchbill_collector.notifiers.channel import Surroundings
from watchbill_collector.notifiers.channel_set import ChannelSet
from watchbill_collector.notifiers.channels.webhook import Options, Webhook
from watchbill_collector.store import Store


class Impatient:
    """No waits between attempts."""

    def uniform(self, a: float, b: float, /) -> float:
        return a


class AlertsOfFile(GivenAlerts):
    """What the file says, looked at anew each time."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._text = ""

    def read(self) -> tuple[Sequence[Standing], bool]:
        text = self._path.read_text()
        if text != self._text:
            self._text = text
            for row in json.loads(text):
                alert = self.fire(row["fired_ms"], **row["labels"])
                if row["resolved_ms"]:
                    self.resolve(alert, row["resolved_ms"])
        return super().read()


async def work(state: Path, alerts: Path, url: str) -> None:
    clock = SystemClock()
    with Store.open(state, "main") as store:
        silences = SilenceBook(store, clock)
        silences.load()
        outbox = Outbox(StoreRows(store))
        outbox.load()
        options = Table({"name": "ops", "kind": "webhook", "url": url, "timeout": "5s"}).read(Options)
        channels = ChannelSet({"ops": Webhook(options, Surroundings("0", clock))})
        dispatcher = Dispatcher(outbox, silences, clock, channels.send, jitter=Impatient())
        given = AlertsOfFile(alerts)
        route = Route("all", read_match(""), ("ops",), group_by=("alertname",), wait_ms=0, interval_ms=1)
        setup = Setup(Routing((route,)), frozenset({"ops"}), Planner(given.describe))
        await dispatcher.configure(setup)
        dispatcher.begin(given)
        print("ready", os.getpid(), flush=True)
        await dispatcher.run()


if __name__ == "__main__":
    for line in sys.stdin:
        state, alerts, url = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(work(Path(state), Path(alerts), url))
            finally:
                os._exit(1)
        os.waitpid(child, 0)
        print("ended", flush=True)
