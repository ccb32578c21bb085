"""Whether the system asks to be started anew, as after an update of its kernel."""

from dataclasses import dataclass

from watchbill_agent.samplers import (
    Family,
    HostPaths,
    Layout,
    MetricType,
    NothingHere,
    Reading,
    Sampler,
    Series,
)

_FAMILY = Family("node_reboot_required", MetricType.GAUGE, "1 if the system asks for a restart.")
_LAYOUT = Layout([_FAMILY], [Series(_FAMILY.name)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Nothing to set."""


class Reboot(Sampler):
    """Looks for /run/reboot-required, which Debian's and Ubuntu's packages leave. Where `dnf` rules, the sampler
    `updates` asks it."""

    name = "reboot"
    default_on = True
    interval_s = 60.0
    options_type = Options

    def __init__(self, _options: Options, host: HostPaths) -> None:
        self._root = host.root

    def sample(self) -> Reading:
        """0 or 1."""
        if not self._root.is_dir():
            raise NothingHere(str(self._root), "there is no such directory")
        return Reading(_LAYOUT, [float((self._root / "run/reboot-required").exists())])
