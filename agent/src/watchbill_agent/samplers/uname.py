"""The system's name: kernel, release, machine, host name and NIS domain, as labels."""

import os
from dataclasses import dataclass

from watchbill_agent.hostpaths import read_text
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

_FAMILY = Family("node_uname_info", MetricType.GAUGE, "The system's name and version, as uname gives them.")
_LOOK_AGAIN_S = 60.0
"""The domain name, which uname(2) keeps from Python, can change while the machine runs, and hardly ever
does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Nothing to set."""


class Uname(Sampler):
    """Reads /proc/sys/kernel, where the domain name is; uname(2) says what is missing there."""

    name = "uname"
    default_on = True
    interval_s = None
    options_type = Options

    def __init__(self, _options: Options, host: HostPaths) -> None:
        self._kernel = host.proc / "sys/kernel"
        self._monotonic_s = host.clock.monotonic_s
        self._uname: os.uname_result | None = None
        self._looked_at_s = 0.0
        self._layout = Layout((), ())

    def sample(self) -> Reading:
        """A 1 with six labels."""
        now_s = self._monotonic_s()
        uname = os.uname()
        if uname != self._uname or now_s - self._looked_at_s >= _LOOK_AGAIN_S:
            series = Series(_FAMILY.name, self._look(uname))
            if (series,) != self._layout.series:
                self._layout = Layout([_FAMILY], [series])
            self._uname = uname
            self._looked_at_s = now_s
        return Reading(self._layout, [1.0])

    def _look(self, uname: os.uname_result) -> tuple[tuple[str, str], ...]:
        return labels(
            sysname=self._read("ostype", uname.sysname),
            release=self._read("osrelease", uname.release),
            version=self._read("version", uname.version),
            machine=self._read("arch", uname.machine),  # Since Linux 6.1.
            nodename=self._read("hostname", uname.nodename),
            domainname=self._read("domainname", "(none)"),
        )

    def _read(self, name: str, otherwise: str) -> str:
        try:
            return read_text(self._kernel / name)
        except SamplerFailed:
            return otherwise
