"""`watchbill-agent sample` prints what Prometheus' own tool takes, whatever the kernel's files say."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.timeout(120), pytest.mark.real("promtool")]

NOBODY = 65534
LINTS = 3
"""promtool's code for names it would have chosen otherwise: node_exporter's own."""
FAMILIES = [
    "node_boot_time_seconds",
    "node_cpu_seconds_total",
    "node_disk_io_time_seconds_total",
    "node_filefd_allocated",
    "node_filesystem_avail_bytes",
    "node_load1",
    "node_memory_MemAvailable_bytes",
    "node_netstat_Tcp_InSegs",
    "node_network_receive_bytes_total",
    "node_procs_running",
    "node_scrape_collector_success",
    "node_sockstat_TCP_alloc",
    "node_time_seconds",
    "node_uname_info",
    "node_vmstat_pgpgin",
]


COPIED = """
    stat meminfo vmstat loadavg diskstats uptime cpuinfo 1/mountinfo self/mountinfo sys/fs/file-nr
    net/dev net/netstat net/snmp net/snmp6 net/sockstat net/sockstat6 pressure/cpu pressure/io pressure/memory
"""


@pytest.fixture
def sample(house):
    def run(*arguments, prefix=()):
        return house.run([*prefix, "watchbill-agent", "sample", *map(str, arguments)])

    return run


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of what the samplers read of this machine's /proc."""
    root = tmp_path_factory.mktemp("proc")
    for name in COPIED.split():
        _copy(Path("/proc") / name, root / name)
    return root


def _copy(source, target):
    try:
        with open(source, "rb") as file:
            content = file.read(1 << 20)
    except OSError:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def judged(text):
    """promtool's verdict: its code and what it says."""
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text.encode(), capture_output=True, timeout=60, check=False
    )
    return done.returncode, (done.stdout + done.stderr).decode()


def accepted(done):
    """Check that a reading parses and that nothing went wrong loudly."""
    code, said = judged(done.out)
    assert code in (0, LINTS), said
    assert "Traceback" not in done.err, done.err


def success(done):
    """The samplers that succeeded, and those that did not."""
    found = {}
    for line in done.out.splitlines():
        if line.startswith("node_scrape_collector_success{"):
            name, _, value = line.partition("} ")
            found[name.split('"')[1]] = value == "1"
    return found


def test_a_reading_of_this_machine_parses_and_is_whole(sample):
    done = sample()
    assert (done.code, done.err) == (0, "")
    accepted(done)
    names = {line.split("{")[0].split()[0] for line in done.out.splitlines() if not line.startswith("#")}
    assert [name for name in FAMILIES if name not in names] == []
    failed = {name for name, good in success(done).items() if not good}
    assert failed <= {"bonding", "conntrack", "mdadm"}, "what a machine may have none of"
    everything = sample("--all")
    accepted(everything)
    assert len(everything.out) > len(done.out)


def test_the_only_lints_are_those_that_node_exporter_has_too(sample):
    code, said = judged(sample().out)
    assert code in (0, LINTS)
    lints = [line for line in said.splitlines() if line.strip()]
    assert all(line.startswith(("node_", "watchbill_")) for line in lints), said
    assert [line for line in lints if line.startswith("watchbill_")] == []
    wrong = [line for line in lints if "no help text" in line or "same name" in line]
    assert wrong == []


def test_a_chosen_sampler_alone_and_one_that_does_not_exist(sample):
    done = sample("--collector", "loadavg")
    accepted(done)
    assert set(success(done)) == {"loadavg"}
    unknown = sample("--collector", "loadaverage")
    assert (unknown.code, unknown.out) == (2, "")
    assert "loadavg" in unknown.err


def test_a_copy_of_proc_reads_as_the_original(sample, tree):
    done = sample("--procfs", tree)
    accepted(done)
    assert done.code == 0, done.err
    assert sum(success(done).values()) >= 10, (success(done), done.err)


@pytest.mark.parametrize("kind", ["missing", "empty", "a_file"])
def test_without_a_proc_each_sampler_says_so_and_the_rest_goes_on(sample, tmp_path, kind):
    place = tmp_path / "proc"
    if kind == "empty":
        place.mkdir()
    elif kind == "a_file":
        place.write_text("not a directory")
    done = sample("--procfs", place, "--sysfs", place, "--rootfs", place)
    accepted(done)
    states = success(done)
    assert states["cpu"] is False
    assert states["uname"] is True
    assert f"sampler cpu: {place}/stat" in done.err or "sampler cpu:" in done.err
    assert done.code == 0


@pytest.mark.parametrize("kind", ["emptied", "halved", "cut_in_a_line", "binary", "huge_line", "directory"])
def test_files_that_are_cut_or_garbage_fail_alone(sample, tree, tmp_path, kind):
    broken = tmp_path / "proc"
    shutil.copytree(tree, broken)
    for name in ("stat", "meminfo", "vmstat", "diskstats", "loadavg", "net/dev", "net/snmp", "pressure/cpu"):
        file = broken / name
        if not file.exists():
            continue
        content = file.read_bytes()
        if kind == "directory":
            file.unlink()
            file.mkdir()
            continue
        file.write_bytes(
            {
                "emptied": b"",
                "halved": content[: len(content) // 2],
                "cut_in_a_line": content[: max(1, len(content) - 7)],
                "binary": bytes(range(256)) * 20,
                "huge_line": b"9" * 2_000_000,
            }[kind]
        )
    done = sample("--procfs", broken)
    accepted(done)
    states = success(done)
    assert states["uname"] is True
    assert states["filefd"] is True, done.err
    if kind in ("emptied", "binary", "huge_line", "directory"):
        assert states["cpu"] is False
        assert "sampler cpu" in done.err
        assert states["meminfo"] is False


@pytest.mark.real("setpriv")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_somebody_without_rights_gets_what_he_may_read(sample, tree, tmp_path):
    prefix = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    if not _readable_by_nobody():
        pytest.skip("nobody cannot read this checkout")
    done = sample(prefix=prefix)
    accepted(done)
    states = success(done)
    assert states["cpu"]
    assert states["meminfo"]
    locked = Path("/tmp") / f"wb-locked-{os.getpid()}"  # pytest's own directories are closed to nobody.
    shutil.copytree(tree, locked)
    try:
        locked.chmod(0o755)
        for name in ("stat", "meminfo"):
            (locked / name).chmod(0o000)
        done = sample("--procfs", locked, prefix=prefix)
        accepted(done)
        assert success(done)["cpu"] is False
        assert "permission denied" in done.err.lower()
        assert success(done)["loadavg"] is True
    finally:
        shutil.rmtree(locked)


def _readable_by_nobody():
    """Whether nobody can get at the programs at all."""
    program = str(Path(sys.executable).with_name("watchbill-agent"))
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", program, "--version"]
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0
