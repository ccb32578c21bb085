"""Kernel totals: interrupts, context switches, forks, tasks running and blocked, and the time of boot."""

from dataclasses import dataclass

from watchbill_agent.samplers import (
    Family,
    HostPaths,
    Layout,
    MetricType,
    Reading,
    Sampler,
    SamplerFailed,
    Series,
    labels,
)
from watchbill_agent.words import number

_FAMILIES = {
    b"intr": Family("node_intr_total", MetricType.COUNTER, "Interrupts serviced."),
    b"ctxt": Family("node_context_switches_total", MetricType.COUNTER, "Context switches."),
    b"processes": Family("node_forks_total", MetricType.COUNTER, "Tasks created."),
    b"btime": Family(
        "node_boot_time_seconds", MetricType.GAUGE, "When the machine booted, seconds since 1970."
    ),
    b"procs_running": Family("node_procs_running", MetricType.GAUGE, "Tasks that can run."),
    b"procs_blocked": Family("node_procs_blocked", MetricType.GAUGE, "Tasks that wait for I/O."),
}
_LINES = [(name.decode(), b"\n" + name + b" ") for name in _FAMILIES]
_SOFTIRQS = Family("node_softirqs_total", MetricType.COUNTER, "Soft interrupts serviced.")
_VECTORS = ("hi", "timer", "net_tx", "net_rx", "block", "block_iopoll", "tasklet", "sched", "hrtimer", "rcu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`softirq` adds node_softirqs_total for each vector."""

    softirq: bool = False


class Stat(Sampler):
    """Reads /proc/stat below its lines about CPUs."""

    name = "stat"
    default_on = True
    interval_s = None
    options_type = Options

    def __init__(self, options: Options, host: HostPaths) -> None:
        self._softirq = options.softirq
        self._read = host.shared_proc("stat")
        self._layout = layout(options.softirq)

    def sample(self) -> Reading:
        """The totals."""
        return Reading(self._layout, parse(self._read(), softirq=self._softirq))


def layout(softirq: bool) -> Layout:
    """The six totals, and the ten vectors where they are wanted."""
    series = [Series(family.name) for family in _FAMILIES.values()]
    if not softirq:
        return Layout(_FAMILIES.values(), series)
    vectors = [Series(_SOFTIRQS.name, labels(vector=vector)) for vector in _VECTORS]
    return Layout([*_FAMILIES.values(), _SOFTIRQS], series + vectors)


def parse(data: bytes, *, softirq: bool = False) -> list[float]:
    """The totals in layout order, from lines of a name and numbers; intr's goes on for long."""
    values: list[float] = []
    for name, line in _LINES:
        start = data.find(line)
        # 20 digits hold 2^64; the interrupt line of a large machine has 50 kB and only its total counts.
        words = data[start + len(line) : start + len(line) + 21].split(None, 1) if start >= 0 else []
        try:
            values.append(int(words[0]))
        except (IndexError, ValueError):
            raise SamplerFailed("stat", f"has no line {name} with a number") from None
    if softirq:
        values += parse_softirqs(data)
    return values


def parse_softirqs(data: bytes) -> list[int]:
    """The ten vectors of the softirq line; its first number is their sum."""
    start = data.find(b"\nsoftirq ")
    if start < 0:
        raise SamplerFailed("stat", "has no line softirq")
    words = data[start + 1 :].partition(b"\n")[0].split()[2:]
    if len(words) < len(_VECTORS):
        raise SamplerFailed(
            "stat", f"softirq: wanted {len(_VECTORS)} numbers after the sum, got {len(words)}"
        )
    return [number(word, "stat", "softirq") for word in words[: len(_VECTORS)]]
