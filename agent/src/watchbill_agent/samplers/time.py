"""Time: what the host believes it is, its zone, and the clock it counts with."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from watchbill_agent.samplers import (
    Family,
    HostPaths,
    Layout,
    MetricType,
    Missing,
    Reading,
    Sampler,
    Series,
    labels,
)

if TYPE_CHECKING:
    from watchbill_agent.hostpaths import HotFile

_NOW = Family("node_time_seconds", MetricType.GAUGE, "The host's wall time, seconds since 1970.")
_ZONE = Family("node_time_zone_offset_seconds", MetricType.GAUGE, "Seconds east of UTC of the host's zone.")
_AVAILABLE = Family("node_time_clocksource_available_info", MetricType.GAUGE, "A clock the kernel could use.")
_CURRENT = Family("node_time_clocksource_current_info", MetricType.GAUGE, "The clock the kernel uses.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Nothing to set."""


class Time(Sampler):
    """Asks the clock, and reads /sys/devices/system/clocksource."""

    name = "time"
    default_on = True
    interval_s = None
    options_type = Options

    def __init__(self, _options: Options, host: HostPaths) -> None:
        self._clock = host.clock
        directory = host.sys / "devices/system/clocksource"
        self._sources: list[tuple[str, HotFile, HotFile]] = [
            (
                path.name.removeprefix("clocksource"),
                host.hot(path / "available_clocksource", whole=True),
                host.hot(path / "current_clocksource", whole=True),
            )
            for path in sorted(directory.glob("clocksource[0-9]*"))
        ]
        self._known: object = None
        self._layout = Layout((), ())

    def sample(self) -> Reading:
        """The time and the zone's offset; the clock sources are labels."""
        now_s = self._clock.wall_ms() / 1000
        local = time.localtime(now_s)
        sources: list[tuple[str, bytes, bytes]] = []
        for device, available, current in self._sources:
            try:
                sources.append((device, available.read(), current.read()))
            except Missing:
                continue
        if (local.tm_zone, sources) != self._known:
            self._known = (local.tm_zone, sources)
            self._layout = layout(local.tm_zone, sources)
        infos = len(self._layout.series) - 2
        return Reading(self._layout, [now_s, local.tm_gmtoff, *(1.0,) * infos])


def layout(zone: str, sources: Sequence[tuple[str, bytes, bytes]]) -> Layout:
    """Time, zone, then for each device the clocks it could use and the one it uses."""
    available = []
    current = []
    for device, could, does in sources:
        words = dict.fromkeys(could.decode("ascii", "replace").split())
        available += [Series(_AVAILABLE.name, labels(clocksource=word, device=device)) for word in words]
        word = does.decode("ascii", "replace").strip()
        current.append(Series(_CURRENT.name, labels(clocksource=word, device=device)))
    families = [_NOW, _ZONE, *([_AVAILABLE] if available else []), *([_CURRENT] if current else [])]
    return Layout(
        families, [Series(_NOW.name), Series(_ZONE.name, labels(time_zone=zone)), *available, *current]
    )
