"""Pressure: the time that tasks lost waiting for CPU, memory, disks and interrupts."""

import errno
from dataclasses import dataclass

from watchbill_agent.samplers import (
    Family,
    HostPaths,
    Layout,
    MetricType,
    Missing,
    NothingHere,
    Reading,
    Sampler,
    SamplerFailed,
    Series,
)
from watchbill_agent.words import shown

_MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of one file: `some` is any task waiting, `full` is all of them at once."""

    resource: str
    word: bytes
    family: Family


def _line(resource: str, word: bytes, name: str, text: str) -> _Line:
    return _Line(resource, word, Family(f"node_pressure_{name}_seconds_total", MetricType.COUNTER, text))


# The full line of cpu and a some line of irq mean nothing for a whole machine, as node_exporter has it.
_LINES = (
    _line("cpu", b"some", "cpu_waiting", "Seconds in which some task waited for a CPU."),
    _line("io", b"some", "io_waiting", "Seconds in which some task waited for I/O."),
    _line("io", b"full", "io_stalled", "Seconds in which every task that was not idle waited for I/O."),
    _line("memory", b"some", "memory_waiting", "Seconds in which some task waited for memory."),
    _line(
        "memory",
        b"full",
        "memory_stalled",
        "Seconds in which every task that was not idle waited for memory.",
    ),
    _line(
        "irq", b"full", "irq_stalled", "Seconds in which every task that was not idle waited for interrupts."
    ),
)
_RESOURCES = ("cpu", "io", "memory", "irq")
_DISABLED = "the kernel was started with psi=0; start it with psi=1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Nothing to set."""


class Pressure(Sampler):
    """Reads /proc/pressure/cpu, io, memory, and irq where the kernel has it (6.1 and later, by
    configuration)."""

    name = "pressure"
    default_on = True
    interval_s = None
    options_type = Options

    def __init__(self, _options: Options, host: HostPaths) -> None:
        self._files = {name: host.hot_proc(f"pressure/{name}", whole=True) for name in _RESOURCES}
        self._layouts: dict[tuple[str, ...], Layout] = {}
        self._absent: set[str] = set()
        self._ticks = 0

    def sample(self) -> Reading:
        """Up to six totals."""
        # A file that is not there is looked for again now and then only: open() costs more than the others'
        # reads.
        self._ticks += 1
        if self._ticks % 60 == 0:
            self._absent.clear()
        values: list[float] = []
        present: list[str] = []
        for resource in _RESOURCES:
            if resource in self._absent:
                continue
            try:
                values += parse(resource, self._files[resource].read())
            except Missing:
                self._absent.add(resource)
            except SamplerFailed as exc:
                if isinstance(exc.__cause__, OSError) and exc.__cause__.errno == errno.EOPNOTSUPP:
                    raise NothingHere(exc.what, _DISABLED) from exc
                raise
            else:
                present.append(resource)
        if not present:
            raise NothingHere("pressure", "the kernel keeps no pressure information (Linux 4.20, CONFIG_PSI)")
        return Reading(self._layout(tuple(present)), values)

    def _layout(self, present: tuple[str, ...]) -> Layout:
        if present not in self._layouts:
            families = [line.family for line in _LINES if line.resource in present]
            self._layouts[present] = Layout(families, [Series(family.name) for family in families])
        return self._layouts[present]


_WORDS = {resource: [line.word for line in _LINES if line.resource == resource] for resource in _RESOURCES}


def parse(resource: str, data: bytes) -> list[float]:
    """The totals in seconds of the lines that count for this resource, in the order of `_LINES`.

    A line is `some avg10=0.00 avg60=0.00 avg300=0.00 total=123`, the total in microseconds.
    """
    totals: dict[bytes, int] = {}
    for line in data.splitlines():
        word, _, rest = line.partition(b" ")
        try:
            totals[word] = int(rest[rest.index(b"total=") + 6 :])
        except ValueError:
            raise SamplerFailed(f"pressure/{resource}", f"wanted a total, got {shown(line)}") from None
    try:
        return [totals[word] / _MICROSECONDS for word in _WORDS[resource]]
    except KeyError as exc:
        raise SamplerFailed(f"pressure/{resource}", f"has no line {exc.args[0].decode()}") from None
