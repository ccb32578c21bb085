"""A made-up fleet: hosts whose 300 series move as a node's do, reproducibly, a tick of all hosts at once.

The mix follows what an agent sends: CPU, disk, network, vmstat and netstat counters, memory in pages, filesystems
that fill slowly, loads with two decimals, pressure with microseconds; about half of the series change at a tick.
Some hosts get into trouble for some time and out of it again, so that rules fire and resolve.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

SERIES_PER_HOST = 300
TROUBLE_HOSTS = 0.02
"""Share of the hosts that get into trouble in each round."""
CALM_S = 60
TROUBLE_S = 75
"""So long everybody is well, then some are not; then again."""

CPUS = 4
MODES = ("idle", "user", "system", "iowait", "irq", "nice", "softirq", "steal")
DISKS = ("sda", "sdb", "nvme0n1")
DISK_FIELDS = (
    "reads_completed_total", "reads_merged_total", "read_bytes_total", "read_time_seconds_total",
    "writes_completed_total", "writes_merged_total", "written_bytes_total", "write_time_seconds_total",
    "io_now", "io_time_seconds_total", "io_time_weighted_seconds_total",
    "discards_completed_total", "discards_merged_total", "discarded_sectors_total", "discard_time_seconds_total",
    "flush_requests_total", "flush_requests_time_seconds_total",
)  # fmt: skip
NICS = ("eth0", "eth1", "lo")
NIC_FIELDS = (
    "bytes", "packets", "errs", "drop", "fifo", "frame", "compressed", "multicast",
)  # fmt: skip
MOUNTS = (("/", "ext4"), ("/var", "xfs"), ("/boot", "ext4"), ("/run", "tmpfs"))
MOUNT_FIELDS = ("size_bytes", "free_bytes", "avail_bytes", "files", "files_free", "readonly", "device_error")
MEMORY_FIELDS = (
    "MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SwapCached", "Active", "Inactive",
    "Active_anon", "Inactive_anon", "Active_file", "Inactive_file", "Unevictable", "Mlocked", "SwapTotal", "SwapFree",
    "Dirty", "Writeback", "AnonPages", "Mapped", "Shmem", "KReclaimable", "Slab", "SReclaimable", "SUnreclaim",
    "KernelStack", "PageTables", "NFS_Unstable", "Bounce", "WritebackTmp", "CommitLimit", "Committed_AS",
    "VmallocTotal", "VmallocUsed", "VmallocChunk", "Percpu", "HardwareCorrupted", "AnonHugePages", "ShmemHugePages",
    "HugePages_Total", "HugePages_Free", "HugePages_Rsvd", "HugePages_Surp", "Hugepagesize", "Hugetlb",
    "DirectMap4k", "DirectMap2M", "DirectMap1G",
)  # fmt: skip
MEMORY_STILL = frozenset((
    "MemTotal", "SwapTotal", "SwapFree", "SwapCached", "Unevictable", "Mlocked", "NFS_Unstable", "Bounce",
    "WritebackTmp", "CommitLimit", "VmallocTotal", "VmallocChunk", "HardwareCorrupted", "HugePages_Total",
    "HugePages_Free", "HugePages_Rsvd", "HugePages_Surp", "Hugepagesize", "Hugetlb", "DirectMap1G", "ShmemHugePages",
))  # fmt: skip
PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Series:
    """One series of a host, without the labels that name the host."""

    name: str
    labels: tuple[tuple[str, str], ...]
    counter: bool


class Fleet:
    """`hosts` hosts; `values[host, series]` now, moved on by `advance`."""

    def __init__(self, hosts: int, seed: int = 1) -> None:
        self.hosts = hosts
        self.now_s = 0.0
        self._random = np.random.default_rng(seed)
        self.series: list[Series] = []
        self._start: list[Matrix] = []
        self._rate: list[float] = []
        self._quantum: list[float] = []
        self._changes: list[float] = []
        self._kind: list[str] = []
        self._describe()
        self._finish()

    @property
    def names(self) -> list[str]:
        """The hosts' instance labels."""
        return [f"host-{number:05d}" for number in range(self.hosts)]

    def _add(
        self,
        name: str,
        labels: dict[str, str],
        kind: str,
        start: float,
        rate: float,
        quantum: float,
        changes: float,
    ) -> None:
        """`kind`: counter (grows by about `rate` a second), walk (moves by about `rate` a tick), still."""
        self.series.append(Series(name, tuple(sorted(labels.items())), kind == "counter"))
        spread = self._random.uniform(0.5, 1.5, self.hosts)
        self._start.append(
            np.round(start * spread / quantum) * quantum if kind != "still" else np.full(self.hosts, start)
        )
        self._rate.append(rate)
        self._quantum.append(quantum)
        self._changes.append(changes if kind != "still" else 0.0)
        self._kind.append(kind)

    def _describe(self) -> None:
        for cpu in range(CPUS):
            for mode in MODES:
                rate = {"idle": 0.8, "user": 0.12, "system": 0.05, "iowait": 0.01, "softirq": 0.004}.get(
                    mode, 0.0
                )
                labels = {"cpu": str(cpu), "mode": mode}
                self._add(
                    "node_cpu_seconds_total",
                    labels,
                    "counter",
                    1e5 * (rate + 1e-4),
                    rate,
                    0.01,
                    1.0 if rate > 0.02 else 0.6,
                )
        for name in MEMORY_FIELDS:
            still = name in MEMORY_STILL
            start = 16 * 2**30 if name.endswith("Total") and not name.startswith("Huge") else 2**30
            self._add(
                f"node_memory_{name}_bytes",
                {},
                "still" if still else "walk",
                start,
                200 * PAGE_BYTES,
                PAGE_BYTES,
                0.95,
            )
        for disk in DISKS:
            for field in DISK_FIELDS:
                quiet = field.startswith("discard")
                quantum, rate = (
                    (0.001, 0.05)
                    if "seconds" in field
                    else (4096.0, 2e5)
                    if "bytes" in field
                    else (1.0, 20.0)
                )
                kind = "walk" if field == "io_now" else "counter"
                changes = 0.0 if quiet else 0.2 if "merged" in field or "flush" in field else 0.9
                self._add(
                    f"node_disk_{field}",
                    {"device": disk},
                    kind,
                    1e6 * quantum,
                    rate if kind == "counter" else 1.0,
                    quantum,
                    changes,
                )
        for nic in NICS:
            for way in ("receive", "transmit"):
                for field in NIC_FIELDS:
                    busy = field in ("bytes", "packets")
                    rate = 5e4 if field == "bytes" else 60.0
                    self._add(
                        f"node_network_{way}_{field}_total",
                        {"device": nic},
                        "counter" if busy else "still",
                        1e9 if busy else 0.0,
                        rate,
                        1.0,
                        1.0,
                    )
        for mount, kind in MOUNTS:
            for field in MOUNT_FIELDS:
                labels = {"device": f"/dev{mount}", "fstype": kind, "mountpoint": mount}
                moving = field in ("free_bytes", "avail_bytes", "files_free") and mount in ("/", "/var")
                start = {"size_bytes": 100 * 2**30, "free_bytes": 60 * 2**30, "avail_bytes": 55 * 2**30}.get(
                    field, 0.0
                )
                start = 6e6 if field.startswith("files") else start
                quantum = PAGE_BYTES if "bytes" in field else 1.0
                self._add(
                    f"node_filesystem_{field}",
                    labels,
                    "walk" if moving else "still",
                    start,
                    50 * quantum,
                    quantum,
                    0.4,
                )
        for name in ("load1", "load5", "load15"):
            self._add(f"node_{name}", {}, "walk", 1.0, 0.05, 0.01, 0.8)
        for what in ("cpu_waiting", "io_stalled", "io_waiting", "memory_stalled", "memory_waiting"):
            self._add(
                f"node_pressure_{what}_seconds_total",
                {},
                "counter",
                100.0,
                0.02,
                1e-6,
                0.8 if "cpu" in what else 0.4,
            )
        self._add("node_time_seconds", {}, "counter", 1.7e9, 1.0, 1e-3, 1.0)
        self._add("node_boot_time_seconds", {}, "still", 1.69e9, 0.0, 1.0, 0.0)
        self._add("node_context_switches_total", {}, "counter", 1e9, 2000.0, 1.0, 1.0)
        self._add("node_intr_total", {}, "counter", 1e9, 1000.0, 1.0, 1.0)
        self._add("node_forks_total", {}, "counter", 1e6, 2.0, 1.0, 0.9)
        self._add("node_procs_running", {}, "walk", 2.0, 1.0, 1.0, 0.6)
        self._add("node_filefd_allocated", {}, "walk", 2000.0, 10.0, 1.0, 0.5)
        self._add("node_filefd_maximum", {}, "still", 9.2e18, 0.0, 1.0, 0.0)
        number = 0
        while len(self.series) < SERIES_PER_HOST:
            busy = number % 8 != 0
            self._add(
                f"node_netstat_Ext_Field{number}",
                {},
                "counter" if busy else "still",
                1e5 if busy else 0.0,
                5.0,
                1.0,
                0.95,
            )
            number += 1

    def _finish(self) -> None:
        assert len(self.series) == SERIES_PER_HOST
        self.values: Matrix = np.ascontiguousarray(np.array(self._start).T)
        self._is_counter = np.array([kind == "counter" for kind in self._kind])
        self._rates = np.array(self._rate)
        self._quanta = np.array(self._quantum)
        self._change = np.array(self._changes)
        index = {(series.name, series.labels): place for place, series in enumerate(self.series)}
        self._idle = [
            index["node_cpu_seconds_total", (("cpu", str(cpu)), ("mode", "idle"))] for cpu in range(CPUS)
        ]
        self._user = [
            index["node_cpu_seconds_total", (("cpu", str(cpu)), ("mode", "user"))] for cpu in range(CPUS)
        ]
        self._load1 = index["node_load1", ()]

    def troubled(self) -> npt.NDArray[np.int64]:
        """Which hosts are in trouble now: another share of the fleet in every round."""
        turn, phase = divmod(int(self.now_s), CALM_S + TROUBLE_S)
        if phase < CALM_S:
            return np.zeros(0, np.int64)
        count = max(1, int(self.hosts * TROUBLE_HOSTS))
        return (np.arange(count) + turn * count) % self.hosts

    def advance(self, seconds: float) -> Matrix:
        """Let `seconds` pass for all hosts; the new values (the same array, changed in place)."""
        self.now_s += seconds
        shape = self.values.shape
        moved = self._random.random(shape) < self._change
        noise = self._random.uniform(0.2, 1.8, shape)
        sign = np.where(self._is_counter, 1.0, np.where(self._random.random(shape) < 0.5, -1.0, 1.0))
        step = np.where(self._is_counter, self._rates * seconds, self._rates)
        quanta = np.round(noise * step * sign / self._quanta)
        units = np.round(self.values / self._quanta) + np.where(moved, quanta, 0.0)
        new = np.round(np.where(moved, units * self._quanta, self.values), 6)
        still_positive = np.where(self._is_counter, new, np.abs(new))
        hosts = self.troubled()
        for idle, user in zip(self._idle, self._user, strict=True):
            still_positive[hosts, idle] = np.round(self.values[hosts, idle] + 0.02 * seconds, 2)
            still_positive[hosts, user] = np.round(self.values[hosts, user] + 0.95 * seconds, 2)
        self.values[:] = still_positive
        self.values[hosts, self._load1] = 40.0
        return self.values
