"""After kill -9 an alert ends when its host is back, not after the time in which all hosts may come back."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(240)

RULES = """\
groups:
  - name: acceptance
    interval: 1s
    rules:
      - alert: LoadIsHigh
        expr: avg by (instance) (max_over_time(node_load1[6s])) > 500
        labels: {severity: critical}
      - alert: SomeLoadIsHigh
        expr: max(node_load1) > 500
"""
BACK_S = 90.0
"""The agent's way back to a collector that was away for a moment, and six seconds of the window."""


class Load:
    """A /proc of the machine's, but for the load, which is ours to say."""

    def __init__(self, root: Path) -> None:
        root.mkdir()
        for entry in Path("/proc").iterdir():
            if entry.name != "loadavg" and not entry.name.isdigit():
                (root / entry.name).symlink_to(entry)
        self.root = root
        self._file = root / "loadavg"

    def be(self, load: float) -> None:
        """Say so. In place: the agent keeps the file open."""
        with self._file.open("r+" if self._file.exists() else "w") as file:
            file.write(f"{load:.2f} {load:.2f} {load:.2f} 1/500 12345\n")
            file.truncate()


def test_the_end_comes_with_the_host(house: Any, until: Any) -> None:
    collector = house.collector("[rules]\nstock = false\n", launch=False)
    (collector.etc / "rules.d" / "load.yml").write_text(RULES)
    collector.launch()
    load = Load(house.root / "proc")
    load.be(999.0)
    house.agent(collector, "web1", f'interval = "1s"\nprocfs = "{load.root}"\n')

    def states() -> list[str]:
        return [
            alert["state"] for name in ("LoadIsHigh", "SomeLoadIsHigh") for alert in collector.alerts(name)
        ]

    until(lambda: states() == ["firing", "firing"], "both fire")
    kept = collector.state / "alerts.json"
    until(lambda: kept.exists() and kept.read_text().count('"firing"') == 2, "a kill cannot take it back")
    os.kill(collector.running.pid, signal.SIGKILL)
    collector.running.kill()
    load.be(1.0)
    collector.launch()
    until(lambda: states() == ["resolved", "resolved"], "both have ended", BACK_S)
