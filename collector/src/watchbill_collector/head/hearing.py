"""Which senders the head has heard, until when, and since when without a gap: what a verdict can rest on.

A window of a rule is worth what was heard of the host through all of it. A series that is young is no sign of that (an
error counter is made at the first error); a host that is young, or was silent for a while, is. So this is kept per
sender, from the times of its ticks, and not per series.

`look` is called before each evaluation, under the head's lock, after `fold`. It asks the clocks for their newest tick,
all at once; only a sender that was silent for longer than it may be is looked at more closely: what came late, and in
order, has filled the gap.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from watchbill_collector.head.head import Head
from watchbill_collector.head.pool import Ints, Mask
from watchbill_collector.head.rings import LOOKBACK_MS
from watchbill_collector.labels import METRIC_NAME
from watchbill_collector.series import Matcher, MatchOp, SeriesIds

if TYPE_CHECKING:
    from watchbill_collector.head.clock import Clock

UP = "up"
UP_MATCHERS = (Matcher(METRIC_NAME, MatchOp.EQUAL, UP),)
TICKS_MISSED_MAX = 3
GRACE_MS = 15_000
"""Three ticks missed, and at least this long: the same patience as `up` has."""
GAPS_MAX = 16
"""Gaps that are remembered of one sender; the oldest goes."""
INTERVAL_MS_MAX = 600_000
INTERVAL_MS_UNKNOWN = 60_000
"""The pace that a sender may have before it has ticked a few times."""
TICKS_TO_KNOW = 4
TICKS_FOR_PACE = 16
_LONG_AGO = -(1 << 62)
_NOBODY = -1


@dataclass(frozen=True, slots=True)
class Heard:
    """What is known of one sender. `up` is None where nothing says whether it is up: it announced its end, or never
    had an agent. `gaps` are stretches without a tick, longer than it may be silent, oldest first."""

    labels: dict[str, str]
    since_ms: int
    last_ms: int
    interval_ms: int
    up: bool | None
    gaps: tuple[tuple[int, int], ...]

    @property
    def patience_ms(self) -> int:
        """How long it may be silent."""
        return TICKS_MISSED_MAX * self.interval_ms + GRACE_MS

    def silent_ms(self, now_ms: int) -> int:
        """For how long it has been silent, 0 while that is not too long."""
        silent = now_ms - self.last_ms
        return silent if silent > self.patience_ms else 0

    def missing_ms(self, now_ms: int, window_ms: int) -> int:
        """How much of the window `(now - window, now]` was not heard, what has been silent until now left out."""
        begins = now_ms - window_ms
        missing = max(0, min(self.since_ms, now_ms) - begins)
        for start, end in self.gaps:
            missing += max(0, min(end, now_ms) - max(start, begins, self.since_ms))
        return missing


class Hearing:
    """All senders, each with a number. `numbers` and `heard` may be asked from any thread, and answer as of the
    latest `look`."""

    def __init__(self, head: Head) -> None:
        self.at_ms = 0
        self.blind: Mask = np.empty(0, np.bool_)
        """Senders that are, or should be, up, and whose data is not of now: by number."""
        self._missing: dict[int, Ints] = {}
        self._head = head
        self._version = -1
        self._clocks: list[Clock] = []
        self._slot_of: dict[Clock, int] = {}
        self._slot_of_clock: Ints = np.empty(0, np.int64)
        self._slots: dict[int, int] = {}
        self._labels: list[dict[str, str]] = []
        self._by_instance: dict[str, tuple[int, ...]] = {}
        self._since: Ints = np.empty(0, np.int64)
        self._last: Ints = np.empty(0, np.int64)
        self._interval: Ints = np.empty(0, np.int64)
        self._up: Ints = np.empty(0, np.int64)
        self._young: set[int] = set()
        self._gaps: dict[int, tuple[tuple[int, int], ...]] = {}
        self._up_ids: SeriesIds | None = None
        self._up_known = -1
        self._up_slots: Ints = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._labels)

    def look(self, now_ms: int, *, anew: bool = False) -> None:
        """Take note of what has come. With `anew` the windows have been filled with what was before."""
        head = self._head
        if head.rings.version != self._version or anew:
            self._version = head.rings.version
            self._meet(anew=anew)
        for slot in list(self._young):
            self._study(slot)
        if len(self._clocks):
            newest = np.fromiter((clock.last_ms for clock in self._clocks), np.int64, len(self._clocks))
            before = self._last.copy()
            np.maximum.at(self._last, self._slot_of_clock, newest)
            patience = TICKS_MISSED_MAX * self._interval + GRACE_MS
            for slot in np.flatnonzero((before > _LONG_AGO) & (self._last - before > patience)).tolist():
                self._note_gaps(slot, int(before[slot]))
        self._ask_up(now_ms)
        self.at_ms = now_ms
        self._missing = {}
        used = len(self._labels)
        patience = TICKS_MISSED_MAX * self._interval[:used] + GRACE_MS
        self.blind = (self._up[:used] >= 0) & (now_ms - self._last[:used] > patience)

    def missing(self, window_ms: int) -> Ints:
        """`Heard.missing_ms` for every sender, by number, as of the latest `look`."""
        known = self._missing.get(window_ms)
        if known is None:
            begins = self.at_ms - window_ms
            since = np.minimum(self._since[: len(self._labels)], self.at_ms)
            known = np.maximum(0, since - begins)
            for slot, gaps in self._gaps.items():
                if gaps[-1][1] > begins:
                    known[slot] = self._heard(slot).missing_ms(self.at_ms, window_ms)
            self._missing[window_ms] = known
        return known

    def one_tick_ms(self) -> Ints:
        """What may be missing of a window of each sender because its next tick is not due yet: its pace. Nothing while
        that is unknown: a guess would call the windows of a new host covered."""
        pace = self._interval[: len(self._labels)].copy()
        pace[list(self._young)] = 0
        return pace

    def last_ms(self) -> Ints:
        """When each sender was heard last, by number; far in the past for one that never was."""
        return self._last[: len(self._labels)]

    def there(self, at_ms: int, silent_ms: int) -> Ints:
        """The senders that were there at a moment: known before it, and then silent for no longer than they may be, or
        than `silent_ms` if that is more."""
        used = len(self._labels)
        patience = np.maximum(TICKS_MISSED_MAX * self._interval[:used] + GRACE_MS, silent_ms)
        there: Ints = np.flatnonzero((self._since[:used] <= at_ms) & (self._last[:used] > at_ms - patience))
        return there

    def numbers(self, labels: "tuple[tuple[str, str], ...]") -> list[int]:
        """The senders that series with these labels can come from: those of its `instance`, if they do not
        contradict each other."""
        wanted = dict(labels)
        slots = self._by_instance.get(wanted.get("instance", ""), ())
        return [slot for slot in slots if _agree(self._labels[slot], wanted)]

    def numbers_of(self, ids: SeriesIds) -> Ints:
        """The senders of some series."""
        sources = np.unique(self._head.table.sources_of(ids)).tolist()
        return np.array([self._slots[source] for source in sources if source in self._slots], np.int64)

    def heard(self, number: int) -> Heard:
        """What is known of one sender."""
        return self._heard(number)

    def all(self) -> list[Heard]:
        """Every sender."""
        return [self._heard(slot) for slot in range(len(self._labels))]

    # Below: under the head's lock.

    def _heard(self, slot: int) -> Heard:
        up = int(self._up[slot])
        return Heard(
            self._labels[slot],
            int(self._since[slot]),
            int(self._last[slot]),
            int(self._interval[slot]),
            None if up < 0 else bool(up),
            self._gaps.get(slot, ()),
        )

    def _meet(self, *, anew: bool) -> None:
        """Find out whose clocks there are."""
        known, self._slot_of = self._slot_of, {}
        for clock in self._head.rings.clocks():
            slot = known.get(clock)
            self._slot_of[clock] = self._slot_of_new(clock) if slot is None else slot
        self._clocks = [clock for clock, slot in self._slot_of.items() if slot != _NOBODY]
        self._slot_of_clock = np.array([self._slot_of[clock] for clock in self._clocks], np.int64)
        if anew:
            self._young.update(range(len(self._labels)))

    def _slot_of_new(self, clock: "Clock") -> int:
        table = self._head.table
        series = clock.parts[0].pool.series[clock.parts[0].rows[:2]]
        sources = np.unique(table.sources_of(series)).tolist()
        # What the collector says of many hosts in one tick is nobody's sign of life; nor is `up`.
        if len(sources) != 1 or not sources[0] or table.labels(int(series[0])).get(METRIC_NAME) == UP:
            return _NOBODY
        slot = self._slots.get(sources[0])
        if slot is None:
            slot = self._add(sources[0])
            self._young.add(slot)
        return slot

    def _add(self, source: int) -> int:
        slot = self._slots[source] = len(self._labels)
        labels = dict(self._head.table.source_labels(source))
        self._labels.append(labels)
        instance = labels.get("instance", "")
        self._by_instance[instance] = (*self._by_instance.get(instance, ()), slot)
        if slot >= len(self._since):
            size = max(64, 2 * slot)
            self._since = _extended(self._since, size, 1 << 62)
            self._last = _extended(self._last, size, _LONG_AGO)
            self._interval = _extended(self._interval, size, INTERVAL_MS_UNKNOWN)
            self._up = _extended(self._up, size, -1)
        return slot

    def _study(self, slot: int) -> None:
        """Learn from the rings what was before now, and the pace."""
        times = self._times(slot, _LONG_AGO)
        if len(times) < TICKS_TO_KNOW:
            if len(times):
                self._since[slot] = min(int(self._since[slot]), int(times[0]))
            return
        self._young.discard(slot)
        self._learn_pace(slot, times)
        self._since[slot] = min(int(self._since[slot]), int(times[0]) - int(self._interval[slot]))
        self._remember(slot, times)

    def _learn_pace(self, slot: int, times: Ints) -> None:
        pace = int(np.median(np.diff(times[-TICKS_FOR_PACE:])))
        self._interval[slot] = min(pace, INTERVAL_MS_MAX)

    def _note_gaps(self, slot: int, since_ms: int) -> None:
        every = self._times(slot, _LONG_AGO)
        if len(every) >= TICKS_TO_KNOW:
            self._learn_pace(slot, every)
        times = np.concatenate((np.array([since_ms]), every[every > since_ms]))
        self._remember(slot, times)

    def _remember(self, slot: int, times: Ints) -> None:
        steps = np.diff(times)
        patience = TICKS_MISSED_MAX * int(self._interval[slot]) + GRACE_MS
        found = {(int(times[at]), int(times[at + 1])) for at in np.flatnonzero(steps > patience).tolist()}
        if found:
            self._gaps[slot] = tuple(sorted(found.union(self._gaps.get(slot, ()))))[-GAPS_MAX:]

    def _times(self, slot: int, since_ms: int) -> Ints:
        """All times that the rings have of a sender from `since_ms` on."""
        found = [np.empty(0, np.int64)]
        for at in np.flatnonzero(self._slot_of_clock == slot).tolist():
            for part in self._clocks[at].parts:
                _, times = part.pool.ticks_of(part.column)
                found.append(times[times >= since_ms])
        return np.unique(np.concatenate(found))

    def _ask_up(self, now_ms: int) -> None:
        selection = self._head.select(UP_MATCHERS)
        if selection.ids is not self._up_ids or self._up_known != len(self._labels):
            self._up_ids, self._up_known = selection.ids, len(self._labels)
            sources = self._head.table.sources_of(selection.ids).tolist()
            self._up_slots = np.array([self._slots.get(source, -1) for source in sources], np.int64)
        up = np.full(len(self._up), -1, np.int64)
        newest = selection.newest(now_ms, LOOKBACK_MS)
        known = newest.present & (self._up_slots >= 0)
        up[self._up_slots[known]] = newest.values[known] > 0
        self._up = up


def _agree(one: dict[str, str], other: dict[str, str]) -> bool:
    return all(other.get(name, text) == text for name, text in one.items())


def _extended(array: Ints, size: int, fill: int) -> Ints:
    wider = np.full(size, fill, np.int64)
    wider[: len(array)] = array
    return wider
