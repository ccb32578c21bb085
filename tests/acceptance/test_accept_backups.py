"""What is reported of a backup arrives once, whoever was down."""

from typing import Any

import pytest

pytestmark = pytest.mark.timeout(240)


def report(agent: Any, outcome: str, *more: str) -> None:
    done = agent.command("backup", "report", "nightly", "--outcome", outcome, *more)
    assert done.code == 0, done.err


def entries(collector: Any) -> list[dict[str, Any]]:
    """What the collector has of the job; nothing while it does not know it."""
    if not collector.get("/backups")["backups"]:
        return []
    return list(collector.get("/backups/nightly")["history"]["entries"])


def test_what_is_reported_while_the_collector_or_the_agent_is_down_arrives_once(
    house: Any, until: Any
) -> None:
    collector = house.collector("[rules]\nstock = false\n")
    agent = house.agent(collector, "web1")
    collector.kill()
    report(agent, "ok", "--run", "first")
    agent.kill()
    report(agent, "failed", "--run", "second", "--error", "disk full")
    agent.start()
    collector.launch()
    found = until(lambda: len(entries(collector)) == 2 and entries(collector), "both are there")
    assert {entry["outcome"] for entry in found} == {"ok", "failed"}
    (job,) = collector.get("/backups")["backups"]
    assert (job["host"], job["name"], job["word"]) == ("web1", "nightly", "FAILED")
    collector.kill()
    collector.launch()
    assert until(lambda: entries(collector), "they are read back") == found
    until(lambda: collector.get("/backups")["backups"][0]["word"] == "FAILED", "and judged the same")
