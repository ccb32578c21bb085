"""Samplers read the host. One file here is one sampler: a docstring whose first paragraph is the help text, a
frozen `Options`, a pure parser and one class.

    sampler = cls(cls.options_type(), host)     # node_exporter's defaults; opens nothing yet
    reading = sampler.sample()                  # raises SamplerFailed or NothingHere

`discover` finds them by presence; `Round` runs them, times each, and keeps one that fails from hurting
another.
"""

import importlib
import logging
import pkgutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from watchbill.clock import Clock, SystemClock
from watchbill.errors import UsageError
from watchbill_agent.hostpaths import HostPaths
from watchbill_agent.reading import (
    Family,
    Happening,
    Layout,
    MetricType,
    Missing,
    NothingHere,
    Reading,
    SamplerFailed,
    Series,
    labels,
)

__all__ = [
    "Family",
    "Happening",
    "HostPaths",
    "Layout",
    "MetricType",
    "Missing",
    "NothingHere",
    "Reading",
    "Round",
    "Sampler",
    "SamplerFailed",
    "SamplerState",
    "Series",
    "build",
    "discover",
    "labels",
    "run_all",
]

log = logging.getLogger(__name__)

REASON_CHARS_MAX = 300


class Sampler(ABC):
    """One noun of the host, read again and again.

    `name` is the file, the key in the configuration and the `collector` label. `interval_s` is None for every
    tick, or the least seconds between two readings of a sampler that is dear. `options_type` is its frozen
    Options. `notice` says what the last reading left out and why, in words for `doctor`; empty when nothing.
    `unfinished`: the last reading did not wait for everything, and one soon after may hold more. `happenings` are
    what the last reading saw happen, for the host's timeline; whoever runs the sampler takes them.
    """

    name: ClassVar[str]
    default_on: ClassVar[bool]
    interval_s: ClassVar[float | None]
    options_type: ClassVar[type[Any]]
    notice: str = ""
    unfinished: bool = False
    happenings: Sequence[Happening] = ()

    @abstractmethod
    def __init__(self, options: Any, host: HostPaths) -> None: ...

    @abstractmethod
    def sample(self) -> Reading:
        """Read once. Raises SamplerFailed, or NothingHere where the host has none of it."""

    def close(self) -> None:  # noqa: B027 - most samplers have nothing to end.
        """End what the sampler started."""

    @classmethod
    def help(cls) -> str:
        """The first paragraph of its file's docstring."""
        return " ".join((sys.modules[cls.__module__].__doc__ or "").partition("\n\n")[0].split())


def discover() -> dict[str, type[Sampler]]:
    """Every sampler of the package by name, sorted."""
    found: dict[str, type[Sampler]] = {}
    for module_info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        for thing in vars(module).values():
            if isinstance(thing, type) and issubclass(thing, Sampler) and thing.__module__ == module.__name__:
                found[thing.name] = thing
    return dict(sorted(found.items()))


def build(
    host: HostPaths, names: Iterable[str] | None = None, options: Mapping[str, Any] | None = None
) -> list[Sampler]:
    """Samplers ready to run: those of `names`, or all that are on by default. `options` is by sampler name.

    Raises UsageError for a name that no sampler has, and for an option that cannot be.
    """
    kinds = discover()
    chosen = [name for name, kind in kinds.items() if kind.default_on] if names is None else list(names)
    unknown = [name for name in (*chosen, *(options or {})) if name not in kinds]
    if unknown:
        raise UsageError(f"no sampler is called {', '.join(unknown)}; there are {', '.join(kinds)}")
    given = options or {}
    return [kinds[name](given.get(name) or kinds[name].options_type(), host) for name in chosen]


@dataclass(slots=True)
class SamplerState:
    """How one sampler fares, for `status` and `doctor`.

    `reason` is empty while it works; `absent` means that this machine has none of it, which is no failure and
    is not counted in `failures`. `failing_since_ms` is UTC, 0 while it works. `notice` is what it left out.
    """

    name: str
    runs: int = 0
    failures: int = 0
    reason: str = ""
    absent: bool = False
    failing_since_ms: int = 0
    duration_s: float = 0.0
    notice: str = ""


class Round:
    """Runs samplers that share an interval, one after the other. Blocks as long as they do."""

    def __init__(self, samplers: Sequence[Sampler], clock: Clock | None = None) -> None:
        self.samplers = tuple(samplers)
        self.states = {sampler.name: SamplerState(sampler.name) for sampler in self.samplers}
        assert len(self.states) == len(self.samplers), "each sampler runs once in a round"
        self._clock = clock or SystemClock()
        self._happenings: list[Happening] = []
        self._layout = _scrape_layout(list(self.states))

    def run(self) -> list[Reading]:
        """One reading of each sampler that could read, then the round's own: duration and success of each."""
        readings: list[Reading] = []
        durations: list[float] = []
        successes: list[float] = []
        monotonic_s = self._clock.monotonic_s
        start_s = monotonic_s()
        for sampler, state in zip(self.samplers, self.states.values(), strict=True):
            state.runs += 1
            try:
                readings.append(sampler.sample())
                successes.append(1.0)
            except Exception as exc:  # noqa: BLE001 - a sampler's mistake must not cost the others their tick.
                self._failed(state, exc)
                successes.append(0.0)
            else:
                if state.reason:
                    self._recovered(state)
                if sampler.notice != state.notice:
                    self._noticed(state, sampler.notice)
                if sampler.happenings:
                    self._happenings += sampler.happenings
                    sampler.happenings = ()
            end_s = monotonic_s()
            # Whole microseconds: what is finer is noise, and noise is what history cannot compress.
            state.duration_s = round(end_s - start_s, 6)
            durations.append(state.duration_s)
            start_s = end_s
        readings.append(Reading(self._layout, durations + successes))
        return readings

    def take_happenings(self) -> list[Happening]:
        """What the samplers saw happen since it was last asked for."""
        taken, self._happenings = self._happenings, []
        return taken

    def _failed(self, state: SamplerState, exc: Exception) -> None:
        absent = isinstance(exc, NothingHere)
        known = isinstance(exc, SamplerFailed)
        reason = (str(exc) if known else f"{type(exc).__name__}: {exc}")[:REASON_CHARS_MAX]
        state.failures += not absent
        if not state.reason:
            state.failing_since_ms = self._clock.wall_ms()
        if not state.reason or absent != state.absent:
            if absent:
                log.info("sampler %s has nothing to read here: %s", state.name, reason)
            else:
                log.warning("sampler %s fails: %s", state.name, reason)
        state.reason = reason
        state.absent = absent

    def _recovered(self, state: SamplerState) -> None:
        after_s = (self._clock.wall_ms() - state.failing_since_ms) / 1000
        log.info("sampler %s reads again after %.0f s", state.name, after_s)
        state.reason = ""
        state.absent = False
        state.failing_since_ms = 0

    def _noticed(self, state: SamplerState, notice: str) -> None:
        if notice:
            log.warning("sampler %s: %s", state.name, notice)
        else:
            log.info("sampler %s reads everything again", state.name)
        state.notice = notice

    def close(self) -> None:
        """End what the samplers started."""
        for sampler in self.samplers:
            sampler.close()


def run_all(samplers: Sequence[Sampler]) -> list[Reading]:
    """One round of its own, as `sample` prints it."""
    return Round(samplers).run()


def _scrape_layout(names: Sequence[str]) -> Layout:
    duration = Family(
        "node_scrape_collector_duration_seconds", MetricType.GAUGE, "Seconds that reading this took."
    )
    success = Family("node_scrape_collector_success", MetricType.GAUGE, "1 if this could be read, 0 if not.")
    return Layout(
        (duration, success),
        [Series(family.name, labels(collector=name)) for family in (duration, success) for name in names],
    )
