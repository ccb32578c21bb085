"""Both ends are killed again and again: what `backup report` promised to keep of a backup is there once."""

import sqlite3
import threading
import time
from contextlib import closing
from random import Random
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(600)

KILLS = 3
"""Of each end: each costs its start, which is most of the test."""
QUIET = "[rules]\nstock = false\n"


def _stored(collector: Any) -> list[str]:
    """The runs that the collector has, once for each record of them."""
    path = collector.state / "control.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:
        return [run for (run,) in connection.execute("SELECT run_id FROM backup_records ORDER BY place")]


class Reporter:
    """Reports runs one after the other until it is stopped; `promised` are those whose report ended with 0."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._report)
        self.promised: list[str] = []
        self.refused: list[str] = []
        self._thread.start()

    def _report(self) -> None:
        while not self._end.is_set():
            run = f"{len(self.promised) + len(self.refused):032x}"
            done = self._agent.command("backup", "report", "nightly", "--outcome", "ok", "--run", run)
            (self.promised if done.code == 0 else self.refused).append(run)

    def stop(self) -> None:
        self._end.set()
        self._thread.join()


def test_no_record_is_lost_or_doubled_though_both_ends_are_killed(
    house: Any, until: Any, chance: Random
) -> None:
    collector = house.collector(QUIET)
    agent = house.agent(collector, "web1")
    reporter = Reporter(agent)
    try:
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.1, 1.0))
            collector.kill()
            time.sleep(chance.uniform(0.0, 0.5))
            agent.kill()
            agent.start()
            collector.launch()
    finally:
        reporter.stop()
    assert len(reporter.promised) > KILLS
    until(
        lambda: set(_stored(collector)) >= set(reporter.promised),
        "everything that was promised is there",
        120,
    )
    found = _stored(collector)
    assert sorted(found) == sorted(set(found)), "each once"
    assert set(found) <= {*reporter.promised, *reporter.refused}
    (job,) = until(lambda: collector.get("/backups")["backups"], "the job is shown")
    assert job["word"] == "OK"
    history = collector.get("/backups/nightly?limit=1000")["history"]
    assert {entry["run_id"] for entry in history["entries"]} == set(found)
