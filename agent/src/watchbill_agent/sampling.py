"""From the clock to messages: runs the samplers that are due and hands what they read, batched, to a
callable.

A change of configuration is prepared first, and only when everything in it can be used is it adopted:
`prepare` may raise, `adopt` cannot. Samplers whose options did not change are kept, with their descriptors
and their children.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from watchbill.clock import Clock
from watchbill_agent.batch import Batcher, Message
from watchbill_agent.config import AgentConfig, chosen_samplers
from watchbill_agent.happenings import Happenings
from watchbill_agent.hostpaths import HostPaths
from watchbill_agent.reading import Reading
from watchbill_agent.samplers import Round, Sampler, SamplerState, discover
from watchbill_agent.scheduler import Punctuality, Scheduler, Slept, Tick

if TYPE_CHECKING:
    from watchbill_agent.checks.service import Checks
    from watchbill_agent.selfstats import SelfStats


@dataclass(slots=True)
class Prepared:
    """What to sample, how often, and from which trees: ready to run."""

    base_ms: int
    ticks_per_message: int
    host: HostPaths
    rounds: dict[int, Round]
    samplers: dict[str, tuple[Any, Sampler]] = field(default_factory=dict)

    def close_others(self, kept: "Prepared | None") -> None:
        """End the samplers that `kept` does not use."""
        names = set() if kept is None else {id(sampler) for _, sampler in kept.samplers.values()}
        for _, sampler in self.samplers.values():
            if id(sampler) not in names:
                sampler.close()
        if kept is None or kept.host is not self.host:
            self.host.close()


def prepare(config: AgentConfig, clock: Clock, before: Prepared | None = None) -> Prepared:
    """Make the samplers of a configuration. Raises ConfigError or UsageError, `before` untouched."""
    host = _host(config, clock, before)
    kept = before.samplers if before is not None and host is before.host else {}
    samplers: dict[str, tuple[Any, Sampler]] = {}
    kinds = discover()
    for name, options in chosen_samplers(config.samplers, config.prometheus.textfile).items():
        old = kept.get(name)
        same = old is not None and old[0] == options
        samplers[name] = old if old is not None and same else (options, kinds[name](options, host))
    by_interval: dict[int, list[Sampler]] = {config.interval_ms: []}
    for _, sampler in samplers.values():
        interval_ms = max(config.interval_ms, round((sampler.interval_s or 0) * 1000))
        by_interval.setdefault(interval_ms, []).append(sampler)
    rounds = {interval_ms: Round(row, clock) for interval_ms, row in by_interval.items()}
    return Prepared(config.interval_ms, config.ticks, host, rounds, samplers)


def _host(config: AgentConfig, clock: Clock, before: Prepared | None) -> HostPaths:
    paths = (config.procfs, config.sysfs, config.rootfs)
    if before is not None and (before.host.proc, before.host.sys, before.host.root) == paths:
        return before.host
    return HostPaths(*paths, clock=clock)


class Sampling:
    """The sampling loop of one agent. `deliver` is given every message when it is complete."""

    def __init__(
        self,
        prepared: Prepared,
        clock: Clock,
        phase: float,
        deliver: Callable[[Message], None],
        slept: Callable[[Slept], None],
    ) -> None:
        self._clock = clock
        self._phase = phase
        self._deliver = deliver
        self._slept = slept
        self._changed = asyncio.Event()
        self._ticks_waiting = 0
        self._delivered = False
        self._newest: dict[int, list[Reading]] = {}
        self.punctuality = Punctuality()
        self.batcher = Batcher()
        self.prepared = prepared
        self.selfstats: SelfStats | None = None
        self.happenings = Happenings(clock)
        self.checks: Checks | None = None
        """What the host's checks found is batched with each tick, when it is due."""
        self.tick_duration_s = 0.0
        self.suspended_s = 0.0
        self._scheduler = self._make_scheduler()

    def _make_scheduler(self) -> Scheduler:
        prepared = self.prepared
        return Scheduler(prepared.base_ms, prepared.rounds, self._phase, self._clock, self.punctuality)

    @property
    def wait_s_max(self) -> float:
        """The longest time between two turns, while nothing is wrong."""
        return min(self.prepared.base_ms / 1000, 60.0) * 1.5

    def states(self) -> list[SamplerState]:
        """How each sampler fares, by name."""
        rounds = self.prepared.rounds.values()
        return sorted((s for one in rounds for s in one.states.values()), key=lambda state: state.name)

    async def turn(self) -> None:
        """Wait for the next tick and do it, or return when the configuration changed."""
        await self._wait(self._scheduler.wait_s())
        self.tick()

    def tick(self) -> None:
        """Do what is due now."""
        slept = self._scheduler.slept()
        if slept is not None:
            if slept.suspended:
                self.suspended_s += (slept.to_ms - slept.from_ms) / 1000
            self._slept(slept)
        began_s = self._clock.monotonic_s()
        for tick in self._scheduler.due():
            if tick.fresh or tick.interval_ms not in self._newest:
                self._newest[tick.interval_ms] = self._read(tick.interval_ms)
            self.batcher.add(tick.interval_ms, self._newest[tick.interval_ms], tick.boottime_ms, tick.wall_ms)
            self._ticks_waiting += tick.interval_ms == self.prepared.base_ms
            if tick.interval_ms == self.prepared.base_ms and self.checks is not None:
                self._add_checks(self.checks, tick)
        # The first reading waits for no others: the host is up from the moment it is seen.
        enough = self._ticks_waiting >= self.prepared.ticks_per_message or not self._delivered
        if (enough and self._ticks_waiting) or self.batcher.full:
            self.flush()
        self.tick_duration_s = self._clock.monotonic_s() - began_s

    def _add_checks(self, checks: "Checks", tick: Tick) -> None:
        for one in checks.emissions(tick.boottime_ms):
            if one.readings:
                self.batcher.add(one.group, one.readings, tick.boottime_ms, tick.wall_ms)
            else:
                self.batcher.end(one.group, tick.boottime_ms, tick.wall_ms)

    def _read(self, interval_ms: int) -> list[Reading]:
        one = self.prepared.rounds[interval_ms]
        readings = one.run()
        self.happenings.add(one.take_happenings())
        if interval_ms == self.prepared.base_ms and self.selfstats is not None:
            readings.append(self.selfstats.sample())
        return readings

    def read_anew(self) -> list[Reading]:
        """Every sampler now, for whoever scrapes; the dear ones as last read. Nothing of it is batched."""
        base_ms = self.prepared.base_ms
        slower = [readings for interval_ms, readings in self._newest.items() if interval_ms != base_ms]
        checks = () if self.checks is None else self.checks.newest()
        return [*self._read(base_ms), *(reading for readings in slower for reading in readings), *checks]

    def flush(self) -> None:
        """Hand over what has been collected."""
        self._ticks_waiting = 0
        for message in self.batcher.take():
            self._delivered = True
            self._deliver(message)

    def adopt(self, prepared: Prepared) -> None:
        """Go on with another set of samplers; what is sampled no more ends with stale markers."""
        before, self.prepared = self.prepared, prepared
        boottime_ms, wall_ms = self._clock.boottime_ms(), self._clock.wall_ms()
        for interval_ms in before.rounds.keys() - prepared.rounds.keys():
            self.batcher.end(interval_ms, boottime_ms, wall_ms)
        self._newest.clear()
        self._scheduler = self._make_scheduler()
        before.close_others(prepared)
        self._changed.set()

    async def _wait(self, seconds: float) -> None:
        """Until then, or until the configuration changed."""
        self._changed.clear()
        timer = asyncio.get_running_loop().call_later(seconds, self._changed.set)
        try:
            await self._changed.wait()
        finally:
            timer.cancel()

    def close(self) -> None:
        """End every sampler."""
        self.prepared.close_others(None)
        if self.selfstats is not None:
            self.selfstats.close()
