"""A file that is missing, empty, cut, unreadable or nonsense: its sampler says so, the others go on."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from watchbill.clock import ManualClock
from watchbill.errors import UsageError
from watchbill_agent.samplers import (
    HostPaths,
    Reading,
    Round,
    Sampler,
    SamplerFailed,
    Series,
    build,
    discover,
)

# The others follow logs or send children on errands: test_sampler_security.
READERS = [name for name in discover() if name not in ("logins", "updates", "watched_files")]
# Each sampler with the files without which it is nothing.
NEEDED = {
    "bonding": "sys/class/net/eth1/bonding_slave/mii_status",
    "cpu": "proc/stat",
    "diskstats": "proc/diskstats",
    "filefd": "proc/sys/fs/file-nr",
    "filesystem": "proc/1/mountinfo",
    "loadavg": "proc/loadavg",
    "mdadm": "proc/mdstat",
    "meminfo": "proc/meminfo",
    "netdev": "proc/net/dev",
    "netstat": "proc/net/snmp",
    "pressure": "proc/pressure/io",
    "processes": "proc/4242/stat",
    "sockstat": "proc/net/sockstat",
    "stat": "proc/stat",
    "vmstat": "proc/vmstat",
}
SPOILT = {
    "empty": b"",
    "garbage": bytes(range(256)) * 4,
    "words": b"the quick brown fox jumps over the lazy dog\n",
    "zeros": b"\0" * 4096,
    "no numbers": b"cpu0 x y z\nMemTotal: lots kB\n",
    "one line feed": b"\n",
}


def sampled(host: HostPaths, name: str) -> tuple[list[Reading], Round]:
    sampling = Round(build(host, [name]))
    return sampling.run(), sampling


def outcome(sampling: Round, name: str) -> float:
    scrape = sampling.run()[-1]
    at = scrape.layout.series.index(Series("node_scrape_collector_success", (("collector", name),)))
    return scrape.values[at]


@pytest.mark.parametrize("spoilt", SPOILT)
@pytest.mark.parametrize("name", NEEDED)
def test_a_spoilt_file_fails_its_sampler_with_a_reason_and_no_series(tree, host, name, spoilt):
    (tree / NEEDED[name]).write_bytes(SPOILT[spoilt])
    if name == "filesystem":
        (tree / "proc/self").mkdir()
        (tree / "proc/self/mountinfo").write_bytes(SPOILT[spoilt])
    readings, sampling = sampled(host, name)
    assert len(readings) == 1, "only the round's own reading"
    state = sampling.states[name]
    assert state.failures == 1
    assert state.reason
    assert state.reason.isprintable()
    assert "Error" not in state.reason, "a mistake of ours, not of the file"
    assert outcome(sampling, name) == 0.0


@pytest.mark.parametrize("name", sorted(NEEDED.keys() - {"mdadm", "pressure", "sockstat", "processes"}))
def test_a_missing_file_is_a_counted_failure(tree, host, name):
    (tree / NEEDED[name]).unlink()
    _, sampling = sampled(host, name)
    assert sampling.states[name].failures == 1
    assert "does not exist" in sampling.states[name].reason


@pytest.mark.parametrize("name", sorted(NEEDED.keys() - {"processes"}))
def test_a_file_cut_in_the_middle_of_a_line_fails_its_sampler(tree, host, name):
    path = tree / NEEDED[name]
    sampling = Round(build(host, [name]))
    assert len(sampling.run()) == 2
    data = path.read_bytes()
    host.clock.advance(60)
    path.write_bytes(data[: len(data) * 2 // 3].rstrip(b"\n0123456789") + b"1")
    if name == "filesystem":
        (tree / "proc/self").mkdir()
        (tree / "proc/self/mountinfo").write_bytes(path.read_bytes())
    assert len(sampling.run()) == 1
    assert sampling.states[name].failures == 1
    path.write_bytes(data)
    if name == "filesystem":
        (tree / "proc/self/mountinfo").write_bytes(data)
    host.clock.advance(60)
    assert len(sampling.run()) == 2
    assert sampling.states[name].reason == ""


@pytest.mark.parametrize("name", sorted(NEEDED.keys() - {"filesystem", "processes", "cpu", "stat"}))
@pytest.mark.parametrize("seed", range(20))
def test_flipped_bytes_never_raise_anything_but_a_sampler_failure(tree, host, name, seed):
    path = tree / NEEDED[name]
    data = bytearray(path.read_bytes())
    for at in range(seed, len(data) - 1, 37):
        data[at] = (data[at] * 7 + seed * 31 + at) % 256
    path.write_bytes(bytes(data))
    (sampler,) = build(host, [name])
    with contextlib.suppress(SamplerFailed):
        sampler.sample()


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Root reads everything; so the test is somebody else for a while. What it needs of the checkout, which may be
    closed to others, it has read before."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_an_unreadable_file_is_a_counted_failure(tree, host):
    if os.getuid() != 0:
        (tree / "proc/loadavg").chmod(0)
    sampling = Round(build(host, ["loadavg"]))
    with nobody():
        sampling.run()
    assert "permission denied" in sampling.states["loadavg"].reason
    assert sampling.states["loadavg"].failures == 1


def test_an_ordinary_user_reads_everything_of_this_machine():
    host = HostPaths()
    sampling = Round(build(host, READERS))
    with nobody():
        sampling.run()
    assert sampling.states
    assert [state.reason for state in sampling.states.values() if state.reason and not state.absent] == []
    sampling.close()
    host.close()


def test_a_directory_in_place_of_a_file_is_a_counted_failure(tree, host):
    (tree / "proc/loadavg").unlink()
    (tree / "proc/loadavg").mkdir()
    _, sampling = sampled(host, "loadavg")
    assert "is a directory" in sampling.states["loadavg"].reason


def test_a_file_without_end_is_refused_before_it_fills_the_memory(tree, host):
    (tree / "proc/diskstats").unlink()
    (tree / "proc/diskstats").symlink_to("/dev/zero")
    _, sampling = sampled(host, "diskstats")
    assert "is larger than" in sampling.states["diskstats"].reason


def test_a_fifo_that_nobody_writes_does_not_block(tree, host):
    (tree / "proc/loadavg").unlink()
    os.mkfifo(tree / "proc/loadavg")
    _, sampling = sampled(host, "loadavg")
    assert sampling.states["loadavg"].failures == 1


def test_an_empty_host_fails_every_sampler_that_reads_and_none_raises(tmp_path):
    nothing = tmp_path / "nothing"
    host = HostPaths(nothing, nothing, nothing, udev=nothing)
    sampling = Round(build(host, READERS))
    (scrape,) = [
        reading for reading in sampling.run() if reading.layout.series[0].name.startswith("node_scrape")
    ]
    assert len(scrape.values) == 2 * len(READERS)
    working = {name for name, state in sampling.states.items() if not state.reason}
    # No directory is named, and these ask the kernel itself.
    assert working - {"timex"} == {"textfile", "time", "uname"}


def test_one_that_fails_costs_the_others_nothing(tree, host):
    (tree / "proc/meminfo").write_bytes(b"")
    sampling = Round(build(host))
    readings = sampling.run()
    assert len(readings) == len(sampling.samplers)
    assert [name for name, state in sampling.states.items() if state.reason] == ["meminfo"]


class Broken(Sampler):
    """Fails as no sampler should."""

    name = "broken"
    default_on = False
    interval_s = None
    options_type = type(None)

    def __init__(self, options: object, host: HostPaths) -> None: ...

    def sample(self) -> Reading:
        raise ZeroDivisionError("a mistake of ours")


def test_a_samplers_own_mistake_costs_the_others_nothing(host):
    sampling = Round([Broken(None, host), *build(host, ["loadavg"])])
    assert len(sampling.run()) == 2
    assert sampling.states["broken"].reason == "ZeroDivisionError: a mistake of ours"


def test_a_failure_is_logged_once_when_it_begins_and_once_when_it_ends(tree, host, caplog):
    clock = host.clock
    sampling = Round(build(host, ["loadavg"]), clock)
    path = tree / "proc/loadavg"
    good = path.read_bytes()
    with caplog.at_level(logging.INFO):
        path.write_bytes(b"")
        for _ in range(3):
            sampling.run()
            clock.advance(10)
        path.write_bytes(good)
        sampling.run()
        sampling.run()
    assert [record.getMessage() for record in caplog.records] == [
        f"sampler loadavg fails: {path}: is empty",
        "sampler loadavg reads again after 30 s",
    ]
    assert sampling.states["loadavg"].failures == 3
    assert sampling.states["loadavg"].runs == 5


def test_what_this_kernel_does_not_have_is_absent_and_no_failure(tree, host, caplog):
    for name in ("cpu", "io", "memory", "irq"):
        (tree / "proc/pressure" / name).unlink()
    with caplog.at_level(logging.INFO):
        _, sampling = sampled(host, "pressure")
    state = sampling.states["pressure"]
    assert state.absent
    assert state.failures == 0
    assert "CONFIG_PSI" in state.reason
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert outcome(sampling, "pressure") == 0.0


def test_an_unknown_sampler_is_named_with_those_there_are(host):
    with pytest.raises(UsageError, match=r"no sampler is called nonsense; there are .*cpu, .*vmstat"):
        build(host, ["cpu", "nonsense"])


def test_a_bad_expression_is_named_with_its_sampler_and_key(host):
    kind = discover()["netdev"]
    with pytest.raises(UsageError, match=r"sampler netdev: device_exclude: got .*\(unclosed"):
        kind(kind.options_type(device_exclude="(unclosed"), host)


def test_every_sampler_says_what_it_is_for():
    for name, kind in discover().items():
        assert kind.help().endswith("."), name
        assert kind.name == name
        kind.options_type()


def test_what_is_dear_or_needs_rights_is_off_by_default():
    assert [name for name, kind in discover().items() if not kind.default_on] == [
        "logins",
        "processes",
        "updates",
        "watched_files",
    ]


def test_a_round_is_timed_by_the_clock_it_was_given(host):
    clock = ManualClock()

    class Slow(Broken):
        name = "slow"

        def sample(self) -> Reading:
            clock.advance(2.5)
            return build(host, ["loadavg"])[0].sample()

    sampling = Round([Slow(None, host)], clock)
    assert list(sampling.run()[-1].values) == [2.5, 1.0]
    assert sampling.states["slow"].duration_s == 2.5


def test_descriptors_are_constant_and_given_back(tree, host):
    before = len(list(Path("/proc/self/fd").iterdir()))
    sampling = Round(build(host, READERS))
    sampling.run()
    held = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        sampling.run()
        host.clock.advance(61)
    assert len(list(Path("/proc/self/fd").iterdir())) == held
    sampling.close()
    host.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
