"""Load average: tasks that run, or wait for a CPU or a disk, over 1, 5 and 15 minutes."""

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
)
from watchbill_agent.words import shown

_FAMILIES = (
    Family("node_load1", MetricType.GAUGE, "Load average over 1 minute."),
    Family("node_load5", MetricType.GAUGE, "Load average over 5 minutes."),
    Family("node_load15", MetricType.GAUGE, "Load average over 15 minutes."),
)
_LAYOUT = Layout(_FAMILIES, [Series(family.name) for family in _FAMILIES])


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Nothing to set."""


class Loadavg(Sampler):
    """Reads /proc/loadavg."""

    name = "loadavg"
    default_on = True
    interval_s = None
    options_type = Options

    def __init__(self, _options: Options, host: HostPaths) -> None:
        self._file = host.hot_proc("loadavg", whole=True)

    def sample(self) -> Reading:
        """Three averages."""
        return Reading(_LAYOUT, parse(self._file.read()))


def parse(data: bytes) -> list[float]:
    """The three averages, which the kernel writes first; running tasks and the last pid follow."""
    words = data.split()
    try:
        return [float(words[0]), float(words[1]), float(words[2])]
    except (ValueError, IndexError):
        raise SamplerFailed("loadavg", f"wanted three averages, got {shown(data)}") from None
