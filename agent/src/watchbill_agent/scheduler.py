"""When to sample: ticks on a grid of the boot clock, each host's grid shifted by its own phase.

The boot clock goes on while a machine sleeps and never jumps when somebody sets the date, so neither a clock
step nor a suspend makes a burst: what was slept through is counted as missed and the grid goes on. Samplers
with an interval of their own form groups; a group slower than a minute is read at its own pace and *emitted*
every minute again, so that queries that look back five minutes find it.

Nothing here waits or reads: whoever drives it sleeps for `wait_s` and asks `due`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from watchbill.clock import Clock

EMIT_MS_MAX = 60_000
"""Series sampled more slowly are emitted at this pace."""
ON_TIME_MS = 2
"""A tick not later than this carries the grid's own time: even steps pack and align better."""
SUSPEND_MS_MIN = 1_000
"""The boot clock running ahead of the monotonic one by less is rounding."""
STALLS_TOLD_AT_ONCE = 20
STALL_TOLD_EVERY_MS = 60_000
"""A host that starves misses readings all the time: so many stalls are told one by one, then one a minute, which spans
all that came meanwhile."""


@dataclass(frozen=True, slots=True)
class Tick:
    """One group's turn. `fresh`: read anew; otherwise emit the last values again. Times in ms."""

    interval_ms: int
    boottime_ms: int
    wall_ms: int
    fresh: bool


@dataclass(frozen=True, slots=True)
class Slept:
    """Nothing was read between two boot times, in ms: the machine was `suspended`, or this process stood still."""

    from_ms: int
    to_ms: int
    suspended: bool


@dataclass(slots=True)
class Punctuality:
    """How well the grid was kept, for self-metrics."""

    ticks: int = 0
    missed: int = 0
    lateness_s: float = 0.0
    """Of the last tick."""
    lateness_s_max: float = 0.0
    """Since the last time somebody took it."""

    def take_max_s(self) -> float:
        """The worst lateness since the last call."""
        worst, self.lateness_s_max = self.lateness_s_max, 0.0
        return worst


@dataclass(slots=True)
class _Group:
    interval_ms: int
    emit_due_ms: int
    read_due_ms: int
    on_grid: bool = False
    """Whether the first tick, which waits for no grid, is over."""

    @property
    def emit_ms(self) -> int:
        return min(self.interval_ms, EMIT_MS_MAX)


class Scheduler:
    """The ticks of one agent. `phase` is in [0, 1): the host's share of the base interval.

    All groups are due at once at the start: the first reading does not wait for the grid.
    """

    def __init__(
        self,
        base_ms: int,
        intervals_ms: Iterable[int],
        phase: float,
        clock: Clock,
        punctuality: Punctuality | None = None,
    ) -> None:
        assert base_ms > 0
        assert 0 <= phase < 1
        self.base_ms = base_ms
        self.punctuality = punctuality if punctuality is not None else Punctuality()
        self._clock = clock
        self._phase_ms = int(phase * base_ms)
        now_ms = clock.boottime_ms()
        slower = sorted({interval for interval in intervals_ms if interval > base_ms}, reverse=True)
        # The base group last: whoever sends after its tick sends what the slower ones read, too.
        self._groups = [_Group(interval, now_ms, now_ms) for interval in (*slower, base_ms)]
        self._ahead_ms = self._boot_ahead_ms()
        self._last_ms = now_ms
        self._stall: Slept | None = None
        self._tellings = float(STALLS_TOLD_AT_ONCE)
        self._refilled_ms = now_ms

    def _boot_ahead_ms(self) -> float:
        return self._clock.boottime_ms() - self._clock.monotonic_s() * 1000

    def wait_s(self) -> float:
        """Seconds until the next tick; 0 when one is due."""
        due_ms = min(group.emit_due_ms for group in self._groups)
        return max(0, due_ms - self._clock.boottime_ms()) / 1000

    def slept(self) -> Slept | None:
        """Whether readings are missing since the last call: asked before `due`."""
        ahead_ms, now_ms = self._boot_ahead_ms(), self._clock.boottime_ms()
        slept_ms = round(ahead_ms - self._ahead_ms)
        self._ahead_ms = ahead_ms
        before_ms, self._last_ms = self._last_ms, now_ms
        if slept_ms >= SUSPEND_MS_MIN:
            return Slept(max(before_ms, now_ms - slept_ms), now_ms, suspended=True)
        base = self._groups[-1]
        if base.on_grid and now_ms - base.emit_due_ms >= base.emit_ms:
            from_ms = base.emit_due_ms if self._stall is None else self._stall.from_ms
            self._stall = Slept(from_ms, now_ms, suspended=False)
        return self._told_stall(now_ms) if self._stall is not None else None

    def _told_stall(self, now_ms: int) -> Slept | None:
        """The stall that waits to be told, when it may be."""
        grown = (now_ms - self._refilled_ms) / STALL_TOLD_EVERY_MS
        self._tellings, self._refilled_ms = min(self._tellings + grown, STALLS_TOLD_AT_ONCE), now_ms
        if self._tellings < 1:
            return None
        self._tellings -= 1
        stall, self._stall = self._stall, None
        return stall

    def due(self) -> list[Tick]:
        """The turns that are due now, the base group's last; each group at most once, however late."""
        now_ms, wall_ms = self._clock.boottime_ms(), self._clock.wall_ms()
        return [self._turn(group, now_ms, wall_ms) for group in self._groups if group.emit_due_ms <= now_ms]

    def _turn(self, group: _Group, now_ms: int, wall_ms: int) -> Tick:
        due_ms = group.emit_due_ms
        late_ms = now_ms - due_ms
        stamp_ms = due_ms if late_ms <= ON_TIME_MS else now_ms
        # Due but for the rounding of two grids: a group of 90 s is read at the minute that follows.
        fresh = group.read_due_ms <= now_ms
        if fresh:
            group.read_due_ms = self._after(now_ms, group.interval_ms, first=not group.on_grid)
        group.emit_due_ms = self._after(now_ms, group.emit_ms, first=not group.on_grid)
        if group.interval_ms == self.base_ms:
            skipped = (group.emit_due_ms - due_ms) // group.emit_ms - 1
            self._count(late_ms, skipped if group.on_grid else 0)
        group.on_grid = True
        return Tick(group.interval_ms, stamp_ms, wall_ms - (now_ms - stamp_ms), fresh)

    def _after(self, now_ms: int, step_ms: int, *, first: bool) -> int:
        """The next point of the grid that is not too close: the first tick is nowhere on it, and two readings
        in quick succession, the first of them late, would make a rate of noise.
        """
        earliest_ms = now_ms + (step_ms // 2 if first else step_ms // 10) + 1
        return earliest_ms + (self._phase_ms - earliest_ms) % step_ms

    def _count(self, late_ms: int, missed: int) -> None:
        self.punctuality.ticks += 1
        self.punctuality.missed += missed
        self.punctuality.lateness_s = late_ms / 1000
        self.punctuality.lateness_s_max = max(self.punctuality.lateness_s_max, late_ms / 1000)
