"""Updates that wait, and how many of them are about security, as this host's package manager sees them.

It is asked at most once an hour, at the lowest priority, without the network and without its lock: `apt-get` by a
simulation, `dnf` from what it has cached. Names are those of node_exporter's textfile scripts.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from watchbill_agent.errand import Errand
from watchbill_agent.samplers import (
    Family,
    HostPaths,
    Layout,
    MetricType,
    NothingHere,
    Reading,
    Sampler,
    SamplerFailed,
    Series,
    labels,
)

EVERY_S = 3_600.0
AGAIN_S = 600.0
"""After an attempt that failed."""
DEADLINE_S = 300.0
OUTPUT_BYTES_MAX = 8 * 1024 * 1024
ORIGINS_MAX = 50
"""Different origins; the rest is counted together, as `other`."""
LABEL_CHARACTERS_MAX = 200

_APT = Family("apt_upgrades_pending", MetricType.GAUGE, "Packages that apt would upgrade, by origin.")
_DNF = Family("yum_upgrades_pending", MetricType.GAUGE, "Packages that dnf would upgrade, by repository.")
_ALL = Family("watchbill_updates_pending", MetricType.GAUGE, "Packages with an update.")
_SECURITY = Family("watchbill_updates_security_pending", MetricType.GAUGE, "Of these, those about security.")
_LISTS = Family(
    "apt_package_cache_timestamp_seconds",
    MetricType.GAUGE,
    "When apt last fetched its lists: what it knows is as old.",
)
_READ = Family(
    "watchbill_updates_read_timestamp_seconds", MetricType.GAUGE, "When the package manager was asked."
)
_REBOOT = Family("node_reboot_required", MetricType.GAUGE, "1 if the system asks for a restart.")

_INST = re.compile(rb"^Inst (?P<package>\S+) (?:\[[^\]]*\] )?\((?P<new>[^)]*)\)", re.MULTILINE)
_DNF_LINE = re.compile(
    rb"^(?P<package>[^\s.]\S*)\.(?P<arch>[a-z0-9_]+)\s+(?P<version>\S+)\s+(?P<repo>\S+)\s*$", re.MULTILINE
)
_ADVISORY = re.compile(rb"^\S+\s+(?:\S+/)?[Ss]ec\.?\S*\s+(?P<package>\S+)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`every_s`: how often the package manager is asked, an hour at least."""

    every_s: float = EVERY_S


@dataclass(frozen=True, slots=True)
class Pending:
    """What waits. `by` is by the labels of the family."""

    family: Family
    by: Mapping[tuple[tuple[str, str], ...], int]
    updates: int
    security: int


class Updates(Sampler):
    """Asks `apt-get` or `dnf`, whichever there is."""

    name = "updates"
    default_on = False
    interval_s = 60.0
    options_type = Options

    def __init__(self, options: Options, host: HostPaths) -> None:
        self._every_s = max(EVERY_S, options.every_s)
        self._clock = host.clock
        self._root = host.root
        self._steps: list[tuple[list[str], Callable[[bytes, int], None]]] = []
        self._errand: Errand | None = None
        self._said = b""
        self._due_s = 0.0
        self._pending: Pending | None = None
        self._reboot: int | None = None
        self._read_s = 0.0
        self._layout = Layout((), ())
        self._values: list[float] = []
        self._why = ""

    def sample(self) -> Reading:
        """What was found last; nothing before the first answer."""
        if self._errand is not None:
            self._said += self._errand.take()
            if len(self._said) > OUTPUT_BYTES_MAX:
                self._errand.kill()
            if self._errand.ended:
                self._answered()
        elif self._clock.monotonic_s() >= self._due_s:
            self._begin()
        if self._why:
            raise SamplerFailed("the package manager", self._why)
        self.unfinished = self._errand is not None and self._pending is None
        return Reading(self._layout, self._values)

    # ------------------------------------------------------------ asking

    def _begin(self) -> None:
        self._steps = self._plan()
        self._due_s = self._clock.monotonic_s() + self._every_s
        self._ask()

    def _plan(self) -> list[tuple[list[str], Callable[[bytes, int], None]]]:
        import shutil  # With its compressors half a megabyte, which only who asks has to have.

        if str(self._root) != "/":
            raise NothingHere("updates", "a package manager knows the system that it runs on alone")
        if shutil.which("apt-get"):
            # Kernels come as new packages, which `upgrade` leaves out.
            argv = ["apt-get", "--simulate", "--quiet=2", "-o", "Debug::NoLocking=true", "dist-upgrade"]
            return [(argv, self._apt)]
        if shutil.which("dnf"):
            offline = ["dnf", "--quiet", "--cacheonly"]
            return [
                ([*offline, "check-update"], self._dnf),
                ([*offline, "updateinfo", "list", "--security"], self._dnf_security),
                (["needs-restarting", "-r"], self._dnf_reboot),
            ]
        raise NothingHere("updates", "there is neither apt-get nor dnf")

    def _ask(self) -> None:
        argv, _ = self._steps[0]
        self._said = b""
        try:
            self._errand = Errand(
                argv, self._clock, DEADLINE_S, {"APT_LISTCHANGES_FRONTEND": "none"}, nice=True
            )
        except OSError as exc:
            self._failed(f"{argv[0]}: {(exc.strerror or str(exc)).lower()}")

    def _answered(self) -> None:
        assert self._errand is not None
        errand, self._errand = self._errand, None
        argv, took = self._steps.pop(0)
        late, code = errand.timed_out, errand.code
        errand.close()
        if late or code is None or len(self._said) > OUTPUT_BYTES_MAX:
            why = f"gave no answer within {DEADLINE_S:g} s" if late else "said too much"
            self._failed(f"{argv[0]} {why}")
            return
        try:
            took(self._said, code)
        except SamplerFailed as exc:
            self._failed(str(exc))
            return
        if self._steps:
            self._ask()
            return
        self._why = ""
        self._read_s = self._clock.wall_ms() // 1000
        self._learn()

    def _failed(self, why: str) -> None:
        self._why = why
        self._steps = []
        self._due_s = self._clock.monotonic_s() + AGAIN_S

    def _apt(self, said: bytes, code: int) -> None:
        if code != 0:
            raise SamplerFailed("apt-get", f"ended with {code}")
        self._pending = parse_apt(said)

    def _dnf(self, said: bytes, code: int) -> None:
        if code not in (0, 100):
            raise SamplerFailed("dnf check-update", f"ended with {code}")
        self._pending = parse_dnf(said)

    def _dnf_security(self, said: bytes, code: int) -> None:
        assert self._pending is not None
        if code == 0:
            packages = {match["package"] for match in _ADVISORY.finditer(said)}
            self._pending = Pending(_DNF, self._pending.by, self._pending.updates, len(packages))

    def _dnf_reboot(self, _said: bytes, code: int) -> None:
        self._reboot = code if code in (0, 1) else None

    # ------------------------------------------------------------ saying

    def _learn(self) -> None:
        pending = self._pending
        assert pending is not None
        families = [pending.family, _ALL, _SECURITY, _READ]
        series = [Series(pending.family.name, pairs) for pairs in pending.by]
        series += [Series(family.name) for family in families[1:]]
        if self._lists_s() is not None:
            families.append(_LISTS)
            series.append(Series(_LISTS.name))
        if self._reboot is not None:
            families.append(_REBOOT)
            series.append(Series(_REBOOT.name))
        if tuple(series) != self._layout.series:
            self._layout = Layout(families, series)
        self._values = [float(count) for count in pending.by.values()]
        self._values += [float(pending.updates), float(pending.security), float(self._read_s)]
        lists_s = self._lists_s()
        self._values += [lists_s] if lists_s is not None else []
        self._values += [float(self._reboot)] if self._reboot is not None else []

    def _lists_s(self) -> float | None:
        if self._pending is None or self._pending.family is not _APT:
            return None
        for name in ("var/lib/apt/periodic/update-success-stamp", "var/lib/apt/lists"):
            try:
                return float(int((self._root / name).stat().st_mtime))
            except OSError:
                continue
        return None

    def close(self) -> None:
        """End the child."""
        if self._errand is not None:
            self._errand.close()
            self._errand = None


def parse_apt(said: bytes) -> Pending:
    """Of a simulation: `Inst openssl [3.0.1] (3.0.2 Debian:12.1/stable, Debian-Security:12/security [amd64])`."""
    counts: Counter[tuple[str, str]] = Counter()
    updates = security = 0
    for match in _INST.finditer(said):
        _, _, rest = match["new"].decode("utf-8", "replace").partition(" ")
        origins, _, arch = rest.partition("[")
        origin = origins.strip().partition(",")[0] or "unknown"
        arch = arch.partition("]")[0] or "unknown"
        updates += 1
        security += "security" in origins.lower()
        counts[origin[:LABEL_CHARACTERS_MAX], arch[:LABEL_CHARACTERS_MAX]] += 1
    return Pending(
        _APT,
        _bounded({labels(origin=o, arch=a): n for (o, a), n in sorted(counts.items())}),
        updates,
        security,
    )


def parse_dnf(said: bytes) -> Pending:
    """Of `check-update`: `openssl.x86_64   1:3.0.7-2.el9   baseos`; what is obsolete comes after its headline."""
    listed = said.partition(b"Obsoleting Packages")[0]
    counts = Counter(
        match["repo"].decode("utf-8", "replace")[:LABEL_CHARACTERS_MAX]
        for match in _DNF_LINE.finditer(listed)
    )
    return Pending(
        _DNF, _bounded({labels(origin=o): n for o, n in sorted(counts.items())}), counts.total(), 0
    )


def _bounded(by: Mapping[tuple[tuple[str, str], ...], int]) -> Mapping[tuple[tuple[str, str], ...], int]:
    if len(by) <= ORIGINS_MAX:
        return by
    kept = dict(list(by.items())[: ORIGINS_MAX - 1])
    return {**kept, labels(origin="other"): sum(by.values()) - sum(kept.values())}
