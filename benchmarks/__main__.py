"""Run benchmarks beside the peers: `python -m benchmarks [NAME...]`, or `scripts/bench`.

Each prints a table and writes benchmarks/results/NAME.json. Without a name all run but the hour-long ones.
"""

import argparse
import importlib
import json
import signal
import sys
from pathlib import Path

from benchmarks.report import Report, machine

HERE = Path(__file__).parent
NAMES = (
    "ingest",
    "alert_latency",
    "sampler_cost",
    "restart",
    "rules",
    "storm",
    "notice_latency",
    "mqtt",
    "edge",
    "reconnect",
    "backlog",
    "spool",
    "backups",
    "runs",
    "statsd",
    "checks_scrape",
    "checks",
    "logs",
)


def main() -> int:
    """Run what was asked for; 0 when every one of them ran."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {', '.join(NAMES)}")
    parser.add_argument(
        "--quick", action="store_true", help="short runs: the shape of the table, not its figures"
    )
    chosen = parser.parse_args()
    # Asked to end: as by Ctrl-C, so that what was started ends and what was written for it is removed.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    unknown = sorted(set(chosen.names) - set(NAMES))
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    for name in chosen.names or NAMES:
        report: Report = importlib.import_module(f"benchmarks.{name}").run(quick=chosen.quick)
        print(report.table(), flush=True)
        results = HERE / "results"
        results.mkdir(exist_ok=True)
        document = {"name": name, "machine": machine(), "rows": report.as_rows(), "notes": report.notes}
        (results / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
