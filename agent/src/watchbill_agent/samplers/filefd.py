"""File handles: how many the kernel has given out, and how many it will."""

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
from watchbill_agent.words import number, shown

_FAMILIES = (
    Family("node_filefd_allocated", MetricType.GAUGE, "File handles given out."),
    Family("node_filefd_maximum", MetricType.GAUGE, "File handles that the kernel will give out."),
)
_LAYOUT = Layout(_FAMILIES, [Series(family.name) for family in _FAMILIES])


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Nothing to set."""


class Filefd(Sampler):
    """Reads /proc/sys/fs/file-nr."""

    name = "filefd"
    default_on = True
    interval_s = None
    options_type = Options

    def __init__(self, _options: Options, host: HostPaths) -> None:
        self._file = host.hot_proc("sys/fs/file-nr", whole=True)

    def sample(self) -> Reading:
        """Two numbers."""
        return Reading(_LAYOUT, parse(self._file.read()))


def parse(data: bytes) -> list[float]:
    """Allocated and maximum. The number between them is always 0 since Linux 2.6."""
    words = data.split()
    if len(words) != 3:
        raise SamplerFailed("sys/fs/file-nr", f"wanted three numbers, got {shown(data)}")
    return [number(words[at], "sys/fs/file-nr", "line 1") for at in (0, 2)]
