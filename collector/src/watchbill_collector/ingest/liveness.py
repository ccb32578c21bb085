"""`up`: 1 for a host that is heard and fresh, 0 after it was silent for three beats (and at least 15 s),
nothing before the first contact and after an announced stop. A host that said when it would be back and is
not is 0 from then on.

All hosts' samples are made together every EMIT_EVERY_S, and one at once when a host changes. After a restart
of the collector, hosts that were there before get the time that an agent may stay away between two tries, or three of
their own beats where that is longer, and then are 0: a host that went away with the collector must not be forgotten.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from watchbill.backoff import return_cap_s
from watchbill_collector.series import STALE_BITS, SeriesIds, SeriesTable, Ticks

EMIT_EVERY_S = 15.0
BEATS_MISSED_MAX = 3
GRACE_MIN_S = 15.0

UP = "up"


def grace_s(beat_interval_ms: int) -> float:
    """How long a host with this beat interval may be silent."""
    return max(GRACE_MIN_S, BEATS_MISSED_MAX * beat_interval_ms / 1000)


def return_grace_s(spread_s: float, beat_interval_ms: int = 0) -> float:
    """How long a collector that starts waits for a host that was told this spread: it has tried by then, and had the
    time to connect. Behind a broker it does not see the collector go: it may be a beat before it hears of it."""
    return max(return_cap_s(spread_s) + GRACE_MIN_S, grace_s(beat_interval_ms))


@dataclass(slots=True)
class Pulse:
    """One host: when it was heard last, how long it may be silent, and what was said of it last."""

    series: SeriesIds
    heard_s: float
    grace_s: float
    up: bool | None = None
    since_ms: int = 0


@dataclass(frozen=True, slots=True)
class _Promise:
    """A host that is to be back: its series, and from when it is missed, by the wall and not before monotonic."""

    series: SeriesIds
    back_by_ms: int
    not_before_s: float


class Liveness:
    """Who is up. `emit` takes the samples that are made."""

    def __init__(self, table: SeriesTable, emit: Callable[[list[Ticks]], None]) -> None:
        self._table = table
        self._emit = emit
        self._pulses: dict[str, Pulse] = {}
        self._promises: dict[str, _Promise] = {}
        self._series: SeriesIds | None = None
        self._next_s = 0.0

    def __len__(self) -> int:
        return len(self._pulses)

    def pulse(self, agent_id: str) -> Pulse | None:
        """The pulse of a host; None when nothing is said of it."""
        return self._pulses.get(agent_id)

    def count_up(self) -> int:
        """Hosts that are up."""
        return sum(1 for pulse in self._pulses.values() if pulse.up)

    def expect(self, hosts: Iterable[tuple[str, Mapping[str, str], float]], now_s: float) -> None:
        """Hosts that were there before this process began: agent id, the labels of their series, and how many seconds
        they have to come before they are down."""
        for agent_id, labels, wait_s in hosts:
            if agent_id not in self._pulses:
                self._pulses[agent_id] = Pulse(self._of(labels), now_s, wait_s)
        self._series = None

    def promised(
        self, agent_id: str, labels: Mapping[str, str], back_by_ms: int, not_before_s: float = 0.0
    ) -> None:
        """A host that said goodbye means to be back by then: later than that it is down."""
        self._promises[agent_id] = _Promise(self._of(labels), back_by_ms, not_before_s)

    def begin(
        self, agent_id: str, labels: Mapping[str, str], beat_interval_ms: int, now_s: float, now_ms: int
    ) -> Pulse:
        """A session of a host began: it is up. The pulse is told of every message by setting `heard_s`."""
        series = self._of(labels)
        self._promises.pop(agent_id, None)
        pulse = self._pulses.get(agent_id)
        if pulse is not None and pulse.series[0] != series[0]:
            self.end(agent_id, now_ms)
            pulse = None
        if pulse is None:
            pulse = self._pulses[agent_id] = Pulse(series, now_s, 0.0)
            self._series = None
        pulse.heard_s = now_s
        pulse.grace_s = grace_s(beat_interval_ms)
        self._say(pulse, up=True, now_ms=now_ms)
        return pulse

    def end(self, agent_id: str, now_ms: int) -> None:
        """Nothing more is said of a host: it announced its stop, or was taken out of service."""
        self._promises.pop(agent_id, None)
        pulse = self._pulses.pop(agent_id, None)
        if pulse is None:
            return
        self._series = None
        if pulse.up is not None:
            self._emit([_ticks(pulse.series, now_ms, stale_values(1))])

    def shown(self) -> list[tuple[str, int]]:
        """The hosts that have an `up` now, and its series."""
        return [(key, int(pulse.series[0])) for key, pulse in self._pulses.items() if pulse.up is not None]

    def look(self, now_s: float, now_ms: int) -> bool:
        """Notice who fell silent, was heard again or did not come back, and make everybody's sample when it is
        time: then True."""
        self._miss(now_s, now_ms)
        for pulse in self._pulses.values():
            fresh = now_s - pulse.heard_s <= pulse.grace_s
            if fresh is not pulse.up and not (fresh and pulse.up is None):
                self._say(pulse, up=fresh, now_ms=now_ms)
        if now_s >= self._next_s:
            self._next_s = max(self._next_s + EMIT_EVERY_S, now_s + EMIT_EVERY_S / 2)
            self._say_all(now_ms)
            return True
        return False

    def _miss(self, now_s: float, now_ms: int) -> None:
        """Who should have been back by now is down."""
        missed = [
            agent_id
            for agent_id, promise in self._promises.items()
            if now_ms >= promise.back_by_ms and now_s >= promise.not_before_s
        ]
        for agent_id in missed:
            promise = self._promises.pop(agent_id)
            self._pulses[agent_id] = Pulse(promise.series, now_s - 1.0, 0.0)

    def _say(self, pulse: Pulse, *, up: bool, now_ms: int) -> None:
        if pulse.up is up:
            return
        if pulse.up is None:
            self._series = None
        pulse.up = up
        pulse.since_ms = now_ms
        self._emit([_ticks(pulse.series, now_ms, np.array([[1.0 if up else 0.0]]))])

    def _say_all(self, now_ms: int) -> None:
        known = [pulse for pulse in self._pulses.values() if pulse.up is not None]
        if not known:
            return
        if self._series is None:
            self._series = np.concatenate([pulse.series for pulse in known])
        values = np.array([[1.0 if pulse.up else 0.0 for pulse in known]])
        self._emit([_ticks(self._series, now_ms, values)])

    def _of(self, labels: Mapping[str, str]) -> SeriesIds:
        return self._table.series(self._table.source(labels), [self._table.key(UP, {})])


def stale_values(series: int) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    """One tick of stale markers. Made from bits: arithmetic would turn them into ordinary NaNs."""
    return np.full((1, series), STALE_BITS, np.uint64).view(np.float64)


def _ticks(
    series: SeriesIds, now_ms: int, values: "np.ndarray[tuple[int, int], np.dtype[np.float64]]"
) -> Ticks:
    return Ticks(series, np.array([now_ms], np.int64), values)
