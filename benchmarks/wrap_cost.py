"""What `backup wrap` adds to a command: time from its start to the command's, and after it; CPU of its own.

Half of its work is done while the command runs (`sleep 1`), so that time is measured around one that ends at once, too.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Report

ADDED_MS = 80.0
ROUNDS = 15
PROGRAM = Path(sys.executable).with_name("watchbill-agent")
WHAT = (("true", 0.0), ("sleep 1", 1.0))


def measure(report: Report, allowed: str) -> None:
    """Add the rows."""
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        (home / "var/agent").mkdir(parents=True)
        (home / "etc/backups.d").mkdir(parents=True)
        (home / "etc/backups.d/nightly.toml").write_text('[[backup]]\nname = "nightly"\ntool = "wrap"\n')
        for command, waits_s in WHAT:
            words = command.split()
            wrapped = [str(PROGRAM), "--home", place, "backup", "wrap", "nightly", "--", *words]
            bare_ms, bare_cpu_ms = _least(words)
            ours_ms, cpu_ms = _least(wrapped)
            report.add(f"wrap: time added to `{command}`", ours_ms - bare_ms, "ms", ADDED_MS, allowed)
            report.add(f"wrap: CPU added to `{command}`", cpu_ms - bare_cpu_ms, "ms", ADDED_MS, allowed)
            assert ours_ms >= waits_s * 1000
    report.add("bare interpreter, to compare: CPU", _least([sys.executable, "-c", "pass"])[1], "ms")
    report.notes.append(f"wrap: least of {ROUNDS} runs, without an agent: both records are files")


def _least(argv: Sequence[str]) -> tuple[float, float]:
    """Wall time and CPU of the run that took least of each, in ms."""
    walls, cpus = [], []
    for _ in range(ROUNDS):
        before, began_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, env=dict(os.environ))
        walls.append(time.monotonic() - began_s)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(walls) * 1000, min(cpus) * 1000
