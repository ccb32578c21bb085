"""CPU time: the seconds that each CPU spent in each mode, and what throttled or isolated it."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import gt
from pathlib import Path

from watchbill_agent.hostpaths import HotFile, read_text
from watchbill_agent.samplers import (
    Family,
    HostPaths,
    Layout,
    MetricType,
    Missing,
    Reading,
    Sampler,
    SamplerFailed,
    Series,
    labels,
)
from watchbill_agent.words import number, shown

_SECONDS = Family("node_cpu_seconds_total", MetricType.COUNTER, "Seconds that the CPU spent in this mode.")
_GUEST = Family(
    "node_cpu_guest_seconds_total",
    MetricType.COUNTER,
    "Seconds that the CPU spent running guests; they are in the user and nice modes too.",
)
_CORE_THROTTLES = Family(
    "node_cpu_core_throttles_total", MetricType.COUNTER, "Times that heat slowed this core."
)
_PACKAGE_THROTTLES = Family(
    "node_cpu_package_throttles_total", MetricType.COUNTER, "Times that heat slowed this package."
)
_ISOLATED = Family("node_cpu_isolated", MetricType.GAUGE, "1 for a CPU kept from the scheduler (isolcpus).")
_ONLINE = Family("node_cpu_online", MetricType.GAUGE, "1 if the CPU is online, 0 if not.")

_MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_GUEST_MODES = ("user", "nice")
_COLUMNS = len(_MODES) + len(_GUEST_MODES)
_COLUMNS_MIN = 4
"""Linux 2.4 had user, nice, system, idle; what a kernel does not have reads 0."""
_IDLE = _MODES.index("idle")
_HZ = 100
"""USER_HZ: /proc/stat counts hundredths on every architecture that is left."""
_JUMP_BACK = 3 * _HZ
"""Idle falling by more means that the CPU went and came back; by less, that the kernel's sums are a little
off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`guest` reports node_cpu_guest_seconds_total."""

    guest: bool = True


class Cpu(Sampler):
    """Reads the CPU lines of /proc/stat, and under /sys/devices/system/cpu what does not stand there."""

    name = "cpu"
    default_on = True
    interval_s = None
    options_type = Options

    def __init__(self, options: Options, host: HostPaths) -> None:
        self._guest = options.guest
        self._read = host.shared_proc("stat")
        self._extras = Extras(host)
        self._cpus: list[bytes] = []
        self._columns: list[list[int]] = []
        self._layout: Layout | None = None

    def sample(self) -> Reading:
        """Ten values for each CPU, then what /sys adds."""
        cpus, rows = parse(self._read())
        if cpus != self._cpus:
            self._extras.look()
            self._layout = None
        extras = self._extras.values()
        if extras is None:  # Something under /sys came or went.
            self._extras.look()
            self._layout = None
            extras = self._extras.values() or []
        if self._layout is None:
            self._layout = self._make_layout(cpus)
            self._columns = keep_rising(self._cpus, self._columns, cpus, rows)
            self._cpus = cpus
        elif any(any(map(gt, old, new)) for old, new in zip(self._columns, rows, strict=True)):
            self._columns = keep_rising(self._cpus, self._columns, cpus, rows)
        else:
            self._columns = rows
        shown_columns = _COLUMNS if self._guest else len(_MODES)
        values = [ticks / _HZ for row in self._columns for ticks in row[:shown_columns]]
        return Reading(self._layout, values + extras)

    def _make_layout(self, cpus: Sequence[bytes]) -> Layout:
        families = [_SECONDS, _GUEST] if self._guest else [_SECONDS]
        series: list[Series] = []
        for cpu in cpus:
            number_text = cpu.removeprefix(b"cpu").decode("ascii")
            series += [Series(_SECONDS.name, labels(cpu=number_text, mode=mode)) for mode in _MODES]
            if self._guest:
                series += [Series(_GUEST.name, labels(cpu=number_text, mode=mode)) for mode in _GUEST_MODES]
        return Layout([*families, *self._extras.families], series + self._extras.series)


def parse(data: bytes) -> tuple[list[bytes], list[list[int]]]:
    """The CPUs that are online, and for each its ten columns in hundredths of a second.

    The lines are `cpu` with the sums, then `cpu0`, `cpu1` and so on without those that are offline, then
    `intr`.
    """
    end = data.find(b"\nintr ")
    lines = data[: end if end >= 0 else len(data)].split(b"\n")
    cpus: list[bytes] = []
    rows: list[list[int]] = []
    for line in lines:
        words = line.split()
        if not words or not words[0].startswith(b"cpu") or words[0] == b"cpu":
            continue
        try:
            row = list(map(int, words[1 : 1 + _COLUMNS]))
        except ValueError:
            row = []
        if len(row) < _COLUMNS_MIN or not words[0][3:].isdigit():
            raise SamplerFailed("stat", f"wanted a CPU's times, got {shown(line)}")
        if len(row) < _COLUMNS:
            row += [0] * (_COLUMNS - len(row))
        cpus.append(words[0])
        rows.append(row)
    if not cpus:
        raise SamplerFailed("stat", "has no CPUs")
    if len(set(cpus)) < len(cpus):
        raise SamplerFailed("stat", "names a CPU twice")
    return cpus, rows


def keep_rising(
    old_cpus: Sequence[bytes], old: Sequence[list[int]], cpus: Sequence[bytes], rows: Sequence[list[int]]
) -> list[list[int]]:
    """The new times, none below its old one: the kernel's idle and iowait slip back by a few hundredths.

    A CPU whose idle fell by more than three seconds was unplugged and is back: it starts anew.
    """
    before = dict(zip(old_cpus, old, strict=True))
    risen = []
    for cpu, row in zip(cpus, rows, strict=True):
        last = before.get(cpu)
        if last is None or last[_IDLE] - row[_IDLE] >= _JUMP_BACK:
            risen.append(row)
        else:
            risen.append(list(map(max, last, row)))
    return risen


class Extras:
    """What /sys says about CPUs: heat throttling where the processor counts it, isolation, and who is
    online."""

    def __init__(self, host: HostPaths) -> None:
        self._host = host
        self._tree = host.sys / "devices/system/cpu"
        self._throttles: list[HotFile] = []
        self._online: HotFile | None = None
        self._cpus: list[int] = []
        self._isolated = 0
        self.families: list[Family] = []
        self.series: list[Series] = []

    def look(self) -> None:
        """Find out what there is."""
        for file in self._throttles + ([self._online] if self._online else []):
            self._host.forget(file)
        self._throttles, self._online = [], None
        self.families, self.series = [], []
        self._cpus = sorted(
            int(path.name[3:]) for path in self._tree.glob("cpu[0-9]*") if path.name[3:].isdigit()
        )
        self._look_at_throttles()
        self._look_at_isolated()
        # As node_exporter has it: nothing where the first CPU cannot be taken offline.
        if self._cpus and (self._tree / f"cpu{self._cpus[0]}/online").exists():
            self._online = self._host.hot(self._tree / "online", whole=True)
            self._add(_ONLINE, [labels(cpu=str(cpu)) for cpu in self._cpus])

    def _look_at_throttles(self) -> None:
        cores: dict[tuple[str, str], Path] = {}
        packages: dict[str, Path] = {}
        for cpu in self._cpus:
            directory = self._tree / f"cpu{cpu}"
            try:
                package = read_text(directory / "topology/physical_package_id")
                core = read_text(directory / "topology/core_id")
            except SamplerFailed:
                continue
            core_count = directory / "thermal_throttle/core_throttle_count"
            package_count = directory / "thermal_throttle/package_throttle_count"
            if (package, core) not in cores and core_count.exists():
                cores[package, core] = core_count
            if package not in packages and package_count.exists():
                packages[package] = package_count
        self._throttles = [self._host.hot(path, whole=True) for path in (*cores.values(), *packages.values())]
        self._add(_CORE_THROTTLES, [labels(package=package, core=core) for package, core in cores])
        self._add(_PACKAGE_THROTTLES, [labels(package=package) for package in packages])

    def _look_at_isolated(self) -> None:
        try:
            isolated = parse_list(read_text(self._tree / "isolated"))
        except SamplerFailed:
            isolated = []
        self._isolated = len(isolated)
        self._add(_ISOLATED, [labels(cpu=str(cpu)) for cpu in isolated])

    def _add(self, family: Family, label_sets: list[tuple[tuple[str, str], ...]]) -> None:
        if label_sets:
            self.families.append(family)
            self.series += [Series(family.name, one) for one in label_sets]

    def values(self) -> list[float] | None:
        """One value for each of `series`, or None when a file that was there is gone."""
        try:
            values: list[float] = [
                number(file.read().strip(), str(file.path), "line 1") for file in self._throttles
            ]
            values += [1.0] * self._isolated
            if self._online is not None:
                online = set(parse_list(self._online.read().decode("ascii", "replace").strip()))
                values += [1.0 if cpu in online else 0.0 for cpu in self._cpus]
        except Missing:
            return None
        return values


def parse_list(text: str) -> list[int]:
    """`0-2,5` is 0, 1, 2 and 5; nothing is an empty list."""
    cpus: list[int] = []
    try:
        for part in filter(None, text.split(",")):
            first, _, last = part.partition("-")
            cpus += range(int(first), int(last or first) + 1)
    except ValueError:
        raise SamplerFailed("devices/system/cpu", f"wanted a list of CPUs, got {text[:40]!r}") from None
    return cpus
