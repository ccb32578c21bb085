"""Files that scripts write: read as node_exporter reads them, judged one by one, and never waited for."""

import os
import shutil
import socket
import subprocess
import time
import urllib.request

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from watchbill.clock import ManualClock
from watchbill.errors import UsageError
from watchbill_agent.config import AgentConfig, PrometheusConfig, chosen_samplers
from watchbill_agent.samplers import HostPaths, MetricType
from watchbill_agent.samplers import textfile as module
from watchbill_agent.samplers.textfile import PERIOD_S, Options, Textfile, parse

WAIT_S = 20.0


class Place:
    """A directory, and a sampler whose clock the test moves."""

    def __init__(self, path):
        self.path = path / "textfiles"
        self.path.mkdir()
        self.clock = ManualClock()
        self.sampler = Textfile(Options(directory=str(self.path)), HostPaths(clock=self.clock))

    def write(self, name, text, mtime_s=1_700_000_000):
        file = self.path / name
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        os.utime(file, (mtime_s, mtime_s))

    def read(self):
        """After the next look of the child."""
        self.clock.advance(PERIOD_S)
        until = time.monotonic() + WAIT_S
        while True:
            reading = self.sampler.sample()
            if self.sampler._errand is None:
                break
            assert time.monotonic() < until, "waited in vain"
            time.sleep(0.005)
        self.reading = reading
        pairs = zip(reading.layout.series, reading.values, strict=True)
        return {one.name + "".join(f" {k}={v}" for k, v in one.labels): value for one, value in pairs}


@pytest.fixture
def place(tmp_path):
    made = Place(tmp_path)
    yield made
    made.sampler.close()


GOOD = (
    '# HELP backup_size_bytes Size.\n# TYPE backup_size_bytes gauge\nbackup_size_bytes{job="a",set="x"} 5\n'
)


def test_files_become_series_with_their_age(place):
    place.write("a.prom", GOOD)
    place.write("b.prom", "# TYPE took_seconds histogram\ntook_seconds_bucket{le=\"+Inf\"} 1\n"
                "took_seconds_sum 2\ntook_seconds_count 1\nplain 3\n", 1_700_000_100.5)  # fmt: skip
    place.write("c.txt", "not read")
    assert place.read() == {
        "node_textfile_scrape_error": 0,
        "backup_size_bytes exported_job=a set=x": 5,
        f"node_textfile_mtime_seconds file={place.path}/a.prom": 1_700_000_000,
        "took_seconds_bucket le=+Inf": 1,
        "took_seconds_sum": 2,
        "took_seconds_count": 1,
        "plain": 3,
        f"node_textfile_mtime_seconds file={place.path}/b.prom": 1_700_000_100.5,
    }
    families = {family.name: family for family in place.reading.layout.families}
    assert families["took_seconds_bucket"].type is MetricType.COUNTER
    assert families["plain"].type is MetricType.UNTYPED
    assert families["backup_size_bytes"].help == "Size."
    before = place.reading.layout
    place.write("a.prom", GOOD.replace(" 5", " 6"))
    assert place.read()["backup_size_bytes exported_job=a set=x"] == 6
    assert place.reading.layout is before
    (place.path / "b.prom").unlink()
    assert "plain" not in place.read()


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("x.prom", "a one\n", 'x.prom: line 1: got "one", wanted a value, a number in column 3'),
        ("x.prom", b"\xff\n", "x.prom: line 1: got byte 0xff, wanted UTF-8"),
        ("x.prom", "a 1\nb 2 1700000000000\n", "x.prom: line 2: got a timestamp, wanted none"),
        ("x.prom", "a 1\na 2\n", "x.prom: 1 samples of series that it has already"),
        (
            "x.prom",
            'backup_size_bytes{job="a",set="x"} 1\n',
            "x.prom: backup_size_bytes is in a.prom already",
        ),
        (
            "x.prom",
            "node_textfile_scrape_error 1\n",
            "x.prom: node_textfile_scrape_error is told by the agent itself",
        ),
        ("x.prom", 'a{b="' + "c" * 1_025 + '"} 1\n', "x.prom: a: a label is longer than 1024 bytes"),
        ("x.prom", "".join(f"a{n} 1\n" for n in range(4_001)), "x.prom: more than 4000 series"),
        ("x.prom", "a 1\n" * 300_000, "x.prom: file too large"),
    ],
)
def test_a_file_that_is_wrong_is_left_out_whole_and_named(place, name, text, fault):
    place.write("a.prom", GOOD)
    place.write(name, text)
    found = place.read()
    assert found.pop("node_textfile_scrape_error") == 1
    assert len(found) == 2, found
    assert fault in place.sampler.notice
    (place.path / name).unlink()
    assert place.read()["node_textfile_scrape_error"] == 0
    assert place.sampler.notice == ""


def test_odd_entries_hang_nothing(place):
    place.write("a.prom", GOOD)
    os.mkfifo(place.path / "pipe.prom")
    (place.path / "directory.prom").mkdir()
    (place.path / "gone.prom").symlink_to(place.path / "nothing")
    found = place.read()
    assert found["backup_size_bytes exported_job=a set=x"] == 5
    assert found["node_textfile_scrape_error"] == 1
    assert "gone.prom: no such file or directory" in place.sampler.notice


def test_a_directory_that_is_not_there_is_an_error_and_none_at_all_is_not(place, tmp_path):
    shutil.rmtree(place.path)
    assert place.read() == {"node_textfile_scrape_error": 1}
    assert "no such file or directory" in place.sampler.notice
    none = Textfile(Options(), HostPaths())
    assert list(none.sample().values) == [0.0]
    with pytest.raises(UsageError, match="absolute"):
        Textfile(Options(directory="textfiles"), HostPaths())


def test_a_directory_that_hangs_is_told_and_nobody_waits_for_it(place, tmp_path, monkeypatch):
    place.write("a.prom", GOOD)
    assert place.read()["node_textfile_scrape_error"] == 0
    sleeper = tmp_path / "sleeper.py"
    sleeper.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(module, "_PROGRAM", sleeper)
    place.clock.advance(PERIOD_S)
    began_s = time.monotonic()
    assert len(place.sampler.sample().values) == 3  # The child is sent; what is known stands.
    place.clock.advance(module.DEADLINE_S)
    until = time.monotonic() + WAIT_S
    while place.sampler._errand is not None and time.monotonic() < until:
        reading = place.sampler.sample()
    assert time.monotonic() - began_s < WAIT_S
    assert list(reading.values) == [1.0]
    assert place.sampler.notice == f"{place.path}: does not answer"


def test_the_page_for_prometheus_may_name_the_directory(tmp_path):
    config = AgentConfig(prometheus=PrometheusConfig(textfile=tmp_path))
    chosen = chosen_samplers(config.samplers, config.prometheus.textfile)
    assert chosen["textfile"] == Options(directory=str(tmp_path))


@given(st.binary(max_size=80) | st.binary(max_size=40).map(lambda data: b"dir 0\nfile 1 2 3\n" + data))
def test_whatever_a_child_says_it_is_read_or_refused(said):
    try:
        parse(said)
    except ValueError:
        return


@pytest.mark.real("prometheus-node-exporter")
def test_node_exporter_says_the_same_of_the_same_files(place, tmp_path):
    place.write("a.prom", GOOD.replace("job=", "task="))
    place.write("b.prom", "broken\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        ["prometheus-node-exporter", "--collector.disable-defaults", "--collector.textfile", "--log.level=error",
         f"--collector.textfile.directory={place.path}", f"--web.listen-address=127.0.0.1:{port}"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until = time.monotonic() + WAIT_S
        while True:
            try:
                page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
                break
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.02)
    finally:
        process.terminate()
        process.wait(10)
    wanted = {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(page)
        for one in family.samples
        if one.name.startswith(("backup_", "node_textfile_"))
    }
    place.read()
    pairs = zip(place.reading.layout.series, place.reading.values, strict=True)
    assert {(one.name, one.labels): value for one, value in pairs} == wanted
