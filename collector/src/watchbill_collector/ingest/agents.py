"""What the collector remembers of an agent between its sessions, while the process lives.

Deliveries (`ledger`), the labels its series carry, the series it has, how much of its quotas is left, and
which clock offset its boots have. A few kilobytes each; a session comes and goes on top of it.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from watchbill.limits import (
    BYTES_BURST,
    BYTES_PER_SECOND_SUSTAINED,
    CLOCK_AGREES_MS,
    DICTIONARIES_PER_SESSION_MAX,
    HELLOS_PER_AGENT_BURST,
    HELLOS_PER_MINUTE_MAX,
    NEW_SERIES_PER_MINUTE_MAX,
    SERIES_PER_AGENT_MAX,
)
from watchbill.protocol.server import Ledger
from watchbill_collector.ingest.dictionaries import HostSeries, Keys
from watchbill_collector.series import NO_SOURCE, SeriesIds

if TYPE_CHECKING:
    from watchbill_collector.ingest.completeness import Coverage
    from watchbill_collector.ingest.session import Session

BOOT_CHARACTERS_MAX = 64
BOOTS_KEPT = 4
"""Boots whose clock offset is kept: the present one, and those that a backlog may still speak of."""

NEW_SERIES_GRACE_S = 60.0
"""New series are not counted this long after a host's first dictionary: the rest of its first ones is on its
way."""

KNOWN_KEYS_MAX = 2 * SERIES_PER_AGENT_MAX
"""Keys remembered as not new; when there are more, only those in use are kept."""


class Bucket:
    """A token bucket: `rate` a second, at most `burst` saved up. May go below zero; then wait."""

    __slots__ = ("_at_s", "_burst", "_level", "_rate")

    def __init__(self, rate: float, burst: float, now_s: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._at_s = now_s

    def level(self, now_s: float) -> float:
        """What is there now."""
        self._level = min(self._burst, self._level + (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        return self._level

    def take(self, amount: float, now_s: float) -> float:
        """Take it, also below zero; what is left."""
        self._level = self.level(now_s) - amount
        return self._level

    def wait_s(self, now_s: float) -> float:
        """Seconds until it is above zero again."""
        return max(0.0, -self.level(now_s) / self._rate)


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """What is known of an agent now, for people. `up` is None before the first contact and after a goodbye.

    Times are UTC ms, 0 where there is none: `since_ms` when `up` changed last, `heard_ms` its last message.
    `transport` is how its last session came: "grpc" or "mqtt", empty before the first. `lost_ms` is when its last
    session broke or was ended without a goodbye, 0 while there is one.
    """

    connected: bool
    up: bool | None
    since_ms: int
    heard_ms: int
    agent_version: str
    interval_ms: int
    series: int
    skew_s: float
    last_tick_ms: int
    transport: str
    lost_ms: int


class Agent:
    """One agent, by its identity."""

    __slots__ = (
        "_first_dictionary_s",
        "_known",
        "_new_series",
        "_offsets",
        "_series",
        "agent_id",
        "agent_version",
        "bytes",
        "clock_ms",
        "connections",
        "coverage",
        "events_boot",
        "hellos",
        "instance",
        "interval_ms",
        "job",
        "labels",
        "last_tick_ms",
        "ledger",
        "lost_ms",
        "ours_ms",
        "run_id",
        "session",
        "source",
        "source_names",
        "transport",
    )

    def __init__(self, agent_id: str, now_s: float) -> None:
        self.agent_id = agent_id
        self.instance = ""
        self.job = ""
        self.labels: Mapping[str, str] = {}
        self.lost_ms = 0
        self.coverage: Coverage | None = None
        self.events_boot = ""
        """The boot that critical events are of, as the agent said when it started; empty while nobody heard it."""
        self.agent_version = ""
        self.interval_ms = 0
        self.transport = ""
        self.ledger = Ledger(agent_id)
        self.session: Session | None = None
        self.connections = 0
        self.run_id = b""
        self.source = NO_SOURCE
        self.source_names: frozenset[str] = frozenset()
        self.bytes = Bucket(BYTES_PER_SECOND_SUSTAINED, BYTES_BURST, now_s)
        self.hellos = Bucket(HELLOS_PER_MINUTE_MAX / 60, HELLOS_PER_AGENT_BURST, now_s)
        self.last_tick_ms = 0
        self.clock_ms = 0
        """The host's wall clock minus its CLOCK_BOOTTIME, as its newest message had it."""
        self.ours_ms = 0
        """The collector's wall clock minus the host's CLOCK_BOOTTIME."""
        self._series: OrderedDict[bytes, HostSeries] = OrderedDict()
        self._known: Keys = np.zeros(0, np.int32)
        self._new_series = Bucket(NEW_SERIES_PER_MINUTE_MAX / 60, NEW_SERIES_PER_MINUTE_MAX, now_s)
        self._first_dictionary_s: float | None = None
        self._offsets: OrderedDict[str, int] = OrderedDict()

    # ------------------------------------------------------------ identity

    def relabel(self, source: int, names: frozenset[str]) -> list[SeriesIds]:
        """Its series carry the labels of `source` from now on. Returns the series that end with it."""
        if source == self.source:
            return []
        ended = self.series_in_use()
        self.source = source
        self.source_names = names
        self._series.clear()
        self._known = np.zeros(0, np.int32)
        self._first_dictionary_s = None
        return ended

    # ------------------------------------------------------------ series

    def series_of(self, digest: bytes) -> HostSeries | None:
        """Its series for a dictionary that it has sent before, in this session or an earlier one."""
        found = self._series.get(digest)
        if found is not None:
            self._series.move_to_end(digest)
        return found

    def keep_series(self, digest: bytes, series: HostSeries) -> None:
        """Remember the series of a dictionary; the least recently sent one goes."""
        self._series[digest] = series
        if len(self._series) > DICTIONARIES_PER_SESSION_MAX:
            self._series.popitem(last=False)
        self._known = np.union1d(self._known, series.keys)
        if len(self._known) > KNOWN_KEYS_MAX:
            self._known = np.unique(np.concatenate([kept.keys for kept in self._series.values()]))

    def series_in_use(self) -> list[SeriesIds]:
        """The series of all its dictionaries that are remembered."""
        return [series.ids for series in self._series.values()]

    def allowance(
        self, keys: Keys, now_s: float
    ) -> tuple[npt.NDArray[np.bool_] | None, list[tuple[str, int]]]:
        """Which of these keys it may have (None: all of them), and what is refused: reason and count.

        The first dictionaries only count against the number of series; later ones also against new ones a
        minute.
        """
        if self._first_dictionary_s is None:
            self._first_dictionary_s = now_s
        new = ~np.isin(keys, self._known)
        refused: list[tuple[str, int]] = []
        allowed: npt.NDArray[np.bool_] | None = None
        room = SERIES_PER_AGENT_MAX - self.series_count()
        wanted = int(new.sum())
        if wanted > room:
            allowed = ~new | (np.cumsum(new) <= max(0, room))
            refused.append(("series_quota", wanted - max(0, room)))
            new &= allowed
            wanted = int(new.sum())
        if now_s - self._first_dictionary_s > NEW_SERIES_GRACE_S and wanted:
            level = int(self._new_series.level(now_s))
            if wanted > level:
                rated = ~new | (np.cumsum(new) <= max(0, level))
                allowed = rated if allowed is None else allowed & rated
                refused.append(("new_series_rate", wanted - max(0, level)))
                wanted = max(0, level)
            self._new_series.take(wanted, now_s)
        return allowed, refused

    def series_count(self) -> int:
        """How many series it has, over all its dictionaries that are remembered."""
        if not self._series:
            return 0
        return len(np.unique(np.concatenate([kept.keys for kept in self._series.values()])))

    # ------------------------------------------------------------ time

    def offset(self, boot_id: str, wall_ms: int, boottime_ms: int, now_ms: int) -> int:
        """UTC minus CLOCK_BOOTTIME in ms for this session.

        The host's wall clock is believed when it agrees with ours within CLOCK_AGREES_MS; else ours is. A
        boot keeps its offset over sessions as long as the new one agrees with it: then a record that comes
        again has the same times.
        """
        self.tell_clock(wall_ms, boottime_ms, now_ms)
        utc_ms = wall_ms if abs(wall_ms - now_ms) <= CLOCK_AGREES_MS else now_ms
        offset = utc_ms - boottime_ms
        kept = self._offsets.get(boot_id)
        if kept is not None and abs(kept - offset) <= CLOCK_AGREES_MS:
            offset = kept
        self._offsets[boot_id] = offset
        self._offsets.move_to_end(boot_id)
        while len(self._offsets) > BOOTS_KEPT:
            self._offsets.popitem(last=False)
        return offset

    def tell_clock(self, wall_ms: int, boottime_ms: int, now_ms: int) -> None:
        """What the host's clocks show now."""
        self.clock_ms, self.ours_ms = wall_ms - boottime_ms, now_ms - boottime_ms

    @property
    def skew_s(self) -> float:
        """How far the host's wall clock is ahead of the collector's. Readings bring the host's two clocks, so
        that a date that is set in the middle of a session shows with the next of them."""
        return (self.clock_ms - self.ours_ms) / 1000

    def time_by_wall(self, wall_ms: int, booted_ms: int) -> int:
        """When a reading of a boot that this process never saw was taken, by the host's wall clock: corrected by what
        is known of it now, unless that would put it behind `booted_ms`, the beginning of the present boot. Then the
        clock was set in between, or begins anew with every boot, and is taken as it was.
        """
        corrected_ms = wall_ms - round(self.skew_s * 1000)
        return corrected_ms if corrected_ms <= booted_ms else wall_ms

    def shift(self, boottime_ms: int, wall_ms: int, session: tuple[str, int], now_ms: int) -> int:
        """What to add to times by the wall clock that an event was kept under, in ms; 0 where that clock agrees.
        `session` names the present boot, and when it began.

        An event says both clocks of its moment. What was kept under the clock as it is now is as wrong as that is.
        Within the present boot the clock that nobody sets tells, whatever the wall clock showed; in an earlier one too,
        if this process saw it. Else the wall clock is taken for as wrong as it is now.
        """
        boot_id, booted_ms = session
        by_wall_ms, by_boot_ms = wall_ms - round(self.skew_s * 1000), boottime_ms + booted_ms
        if abs(wall_ms - boottime_ms - self.clock_ms) <= CLOCK_AGREES_MS:
            true_ms = by_wall_ms
        elif self.events_boot and self.events_boot != boot_id:
            offset_ms = self.offset_of_boot(self.events_boot)
            true_ms = by_wall_ms if offset_ms is None else boottime_ms + offset_ms
        elif self.events_boot or (booted_ms < by_wall_ms and by_boot_ms <= now_ms + CLOCK_AGREES_MS):
            true_ms = by_boot_ms
        else:  # Nobody knows its boot. It lies before this one, or would lie in the future.
            true_ms = by_wall_ms
        shift_ms = true_ms - wall_ms
        return shift_ms if abs(shift_ms) > CLOCK_AGREES_MS else 0

    def offset_of_boot(self, boot_id: str) -> int | None:
        """The offset of an earlier boot, when this process saw it."""
        return self._offsets.get(boot_id)


def stale_groups(groups: Sequence[SeriesIds]) -> list[SeriesIds]:
    """Several groups of series as one array without repetitions, none when there are none."""
    if not groups:
        return []
    return [np.unique(np.concatenate(groups))]


class _Started(msgspec.Struct):
    boot: str = ""


def boot_of(payload: bytes) -> str:
    """The boot that an agent says it started in; empty where it does not."""
    try:
        boot = msgspec.json.decode(payload, type=_Started).boot
    except (msgspec.DecodeError, ValueError):
        return ""
    return boot if len(boot) <= BOOT_CHARACTERS_MAX else ""
