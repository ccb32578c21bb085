"""Beside a real node_exporter: the same names, types and labels of this machine, the same values of a frozen
one.

Debian 12 has 1.5. What 1.12 changed since is listed here, each with the release that did; all else must be
equal.
"""

import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from watchbill_agent.exposition import render
from watchbill_agent.samplers import HostPaths, Round, build, discover
from watchbill_agent.samplers.stat import Options as StatOptions

pytestmark = pytest.mark.real("prometheus-node-exporter")

OURS = ("listening", "logins", "reboot", "updates", "users", "watched_files")
READERS = [name for name in discover() if name not in OURS]

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]

# Families that 1.5 has and 1.12 has not: 1.9 gave meminfo a fixed list.
GONE = re.compile(
    r"node_memory_(Balloon|FileHugePages|FilePmdMapped|Hugetlb|KReclaimable|SecPageTables|Unaccepted|GPU\w+)_bytes"
)
# Families that 1.12 has and 1.5 has not.
NEW = {
    "node_filesystem_mount_info",  # 1.9
    "node_pressure_irq_stalled_seconds_total",  # 1.9
    "node_cpu_online",  # 1.9
    "node_netstat_TcpExt_TCPOFOQueue",  # 1.8
    "node_netstat_TcpExt_TCPRcvQDrop",  # 1.9
}
MOUNT_POINTS = "^/(dev|proc|run/credentials/.+|sys|var/lib/docker/.+|var/lib/containers/storage/.+)($|/)"
# Debian's own defaults leave out more; these are what upstream has.
UPSTREAM = [
    "--collector.filesystem.mount-points-exclude=" + MOUNT_POINTS,
    "--collector.netdev.device-exclude=^$",
    r"--collector.diskstats.device-exclude=^(z?ram|loop|fd|(h|s|v|xv)d[a-z]|nvme\d+n\d+p)\d+$",  # 1.8: z?
]


@contextmanager
def node_exporter(*arguments: str) -> Iterator[str]:
    """Its address, while it runs."""
    program = shutil.which("prometheus-node-exporter")
    assert program is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    wanted = [f"--collector.{name}" for name in READERS]
    process = subprocess.Popen(
        [
            program,
            f"--web.listen-address={address}",
            "--collector.disable-defaults",
            *wanted,
            *UPSTREAM,
            *arguments,
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        yield address
    finally:
        process.kill()
        process.wait()


def scraped(address: str) -> str:
    deadline = time.monotonic() + 20
    pause = threading.Event()
    while True:
        try:
            with urllib.request.urlopen(f"http://{address}/metrics") as response:
                return str(response.read().decode())
        except OSError:
            assert time.monotonic() < deadline, "node_exporter did not start"
            pause.wait(0.05)


def parsed(text: str) -> tuple[dict[str, str], Values]:
    types: dict[str, str] = {}
    values: Values = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            types[name] = kind
        elif not line.startswith("#"):
            series, value = line.rsplit(" ", 1)
            pairs = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', series)
            key = (series.partition("{")[0], frozenset((name, text) for name, text in pairs if text))
            assert key not in values, f"{key} stands there twice"
            values[key] = float(value)
    ours = {name: kind for name, kind in types.items() if name.startswith("node_") and "exporter" not in name}
    return ours, {key: value for key, value in values.items() if key[0] in ours}


def without_new_labels(values: Values) -> Values:
    """1.8 gave filesystems device_error, 1.9 gave node_disk_info rotational."""
    new = {"device_error", "rotational"}
    return {
        (name, frozenset(pair for pair in pairs if pair[0] not in new)): value
        for (name, pairs), value in values.items()
        if name not in NEW
    }


def moving(key: tuple[str, frozenset[tuple[str, str]]]) -> bool:
    """Whether it may come or go between two readings: states of tasks, and what other tests mount."""
    name, labels = key
    mounted = [value for label, value in labels if label == "mountpoint" and value.startswith("/tmp/")]
    return name.startswith(("node_processes_state", "node_processes_threads_state")) or bool(mounted)


@pytest.mark.usefixtures("mounts_of_nobody_else")
def test_this_machine_has_the_same_names_types_and_labels():
    host = HostPaths()
    with node_exporter() as address:
        their_types, theirs = parsed(scraped(address))
        our_types, ours = parsed(render(Round(build(host, READERS)).run()))
    host.close()
    assert {name for name in their_types.keys() - our_types.keys() if not GONE.fullmatch(name)} == set()
    assert our_types.keys() - their_types.keys() <= NEW
    assert {name: kind for name, kind in our_types.items() if name not in NEW} == {
        name: kind for name, kind in their_types.items() if not GONE.fullmatch(name)
    }
    assert {key for key in without_new_labels(ours) if not moving(key)} == {
        key for key in theirs if not GONE.fullmatch(key[0]) and not moving(key)
    }


# The frozen host holds on purpose what 1.5 cannot read (a process name with a newline) or reads otherwise.
OTHERWISE = re.compile(
    r"node_processes_|node_filesystem_|node_time_|node_scrape_|node_uname_info|node_boot_time|node_network_receive_nohandler"
)


def test_a_frozen_host_has_the_same_values(tree: Path, host: HostPaths):
    table = tree / "proc/diskstats"
    table.write_text("".join(line for line in table.read_text().splitlines(True) if "a disk 2" not in line))
    with node_exporter(
        f"--path.procfs={tree / 'proc'}",
        f"--path.sysfs={tree / 'sys'}",
        f"--path.udev.data={tree / 'udev'}",
        "--no-collector.netdev.netlink",
        "--collector.stat.softirq",
    ) as address:
        _, theirs = parsed(scraped(address))
    _, ours = parsed(render(Round(build(host, READERS, {"stat": StatOptions(softirq=True)})).run()))
    compared = {key: value for key, value in without_new_labels(ours).items() if not OTHERWISE.match(key[0])}
    assert len(compared) > 280
    assert compared == {
        key: pytest.approx(value, rel=1e-12)
        for key, value in theirs.items()
        if not OTHERWISE.match(key[0]) and not GONE.fullmatch(key[0])
    }
