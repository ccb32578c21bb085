"""The whole of a frozen host, compared with a file that was checked by hand."""

import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from watchbill_agent.exposition import render
from watchbill_agent.samplers import HostPaths, Round, build, discover
from watchbill_agent.samplers.stat import Options as StatOptions

# The others follow logs or send children on errands (test_sampler_security), or ask the kernel itself.
READERS = [name for name in discover() if name not in ("logins", "updates", "watched_files", "timex")]
GOLDEN = Path(__file__).parent / "fixtures" / "golden.prom"

# What the disk under the test's temporary directory says, and how long it took, differs from run to run.
_VARYING = re.compile(
    r"^(node_filesystem_(?:size_bytes|free_bytes|avail_bytes|files|files_free)\{.*\}"
    r"|node_scrape_collector_duration_seconds\{.*\}) \S+$",
    re.MULTILINE,
)


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def rendered(host: HostPaths) -> str:
    names = READERS
    sampling = Round(build(host, names, {"stat": StatOptions(softirq=True)}))
    text = render(sampling.run())
    assert [state.reason for state in sampling.states.values() if state.reason] == []
    sampling.close()
    return _VARYING.sub(r"\1 VARIES", text)


def test_a_frozen_host_reads_as_the_golden_file_says(host, utc):
    assert rendered(host) == GOLDEN.read_text()


def test_a_second_tick_reads_the_same_with_the_same_layouts(host, utc):
    sampling = Round(build(host, READERS))
    first, second = sampling.run(), sampling.run()
    sampling.close()
    assert [reading.layout for reading in first] == [reading.layout for reading in second]
    assert steady(first) == steady(second)


def steady(readings):
    """What a frozen host cannot change: not the disk under it, nor how long reading took."""
    varying = ("node_filesystem_", "node_scrape_")
    return [
        list(reading.values) for reading in readings if not reading.layout.series[0].name.startswith(varying)
    ]


@pytest.mark.real("promtool")
def test_promtool_reads_what_is_rendered(host):
    text = render(Round(build(host, READERS)).run())
    promtool = shutil.which("promtool")
    assert promtool is not None
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text.encode(), capture_output=True, check=False
    )
    complaints = {line.split(" ", 1)[1] for line in done.stderr.decode().splitlines()}
    # What node_exporter's own names earn.
    assert complaints <= {
        "metric names should be written in 'snake_case' not 'camelCase'",
        'non-counter metrics should not have "_total" suffix',
    }
    assert done.returncode in (0, 3)
