"""Those who are turned away are recorded, but cannot fill the disk.

The first refusal of a kind is a row of its own; what follows from the same sender in the same way is counted, and
told by one row every SUMMARY_S. Rows cost tokens of a bucket: ROWS_BURST at once, then one every ROW_EVERY_S, whoever
it is that knocks. When the bucket is empty, and when more senders knock than are remembered, refusals are added up
under `(others)`. So all strangers together make at most 3,024 rows a day, and none goes uncounted.

Known users have a bucket each, so that a stranger's noise does not hide what a colleague tried.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from watchbill.clock import Clock
from watchbill_collector.limiter import group
from watchbill_collector.store.audit import Entry, Outcome

SUMMARY_S: Final = 600.0
"""How often what was only counted becomes a row."""
KINDS_MAX: Final = 256
"""Senders and ways of being refused remembered between two summaries."""
ROWS_BURST: Final = 60.0
ROW_EVERY_S: Final = 30.0
SUMMARY_ROWS_MAX: Final = 20
"""Rows of one summary; the rest is in `(others)`."""
BUCKETS_MAX: Final = 1_024
OTHERS: Final = "(others)"
STRANGER: Final = "anonymous"


@dataclass(frozen=True, slots=True)
class Turned:
    """One request that was turned away. `actor` is empty for a stranger, whose source is what tells him apart."""

    actor: str
    source: str
    action: str
    target: str
    reason: str


@dataclass(slots=True)
class _Count:
    count: int
    first: Turned


@dataclass(slots=True)
class _Bucket:
    level: float
    at_s: float

    def take(self, now_s: float) -> bool:
        self.level = min(ROWS_BURST, self.level + (now_s - self.at_s) / ROW_EVERY_S)
        self.at_s = now_s
        if self.level < 1:
            return False
        self.level -= 1
        return True


class Refusals:
    """Decides which refusals become rows. Not for several threads at once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counts: OrderedDict[tuple[str, str, str], _Count] = OrderedDict()
        self._seen: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._others = 0
        self._summed_s = clock.monotonic_s()
        self.counted = 0
        """Refusals in all, since the start."""

    def note(self, turned: Turned) -> Entry | None:
        """A refusal: the row to write for it now, if it is to have one of its own."""
        self.counted += 1
        now_s = self._clock.monotonic_s()
        who = turned.actor or group(turned.source)
        key = (who, turned.action, turned.reason)
        known = self._seen.get(key)
        if (known is None or now_s - known >= SUMMARY_S) and self._bucket(turned.actor, now_s).take(now_s):
            self._seen[key] = now_s
            self._seen.move_to_end(key)
            if len(self._seen) > KINDS_MAX:
                self._seen.popitem(last=False)
            return _entry(turned, {"reason": turned.reason})
        self._count(key, turned)
        return None

    def summary(self) -> Sequence[Entry]:
        """What was only counted, as rows, when it is time; to be asked now and then."""
        now_s = self._clock.monotonic_s()
        if now_s - self._summed_s < SUMMARY_S or not (self._counts or self._others):
            return ()
        return self.rest()

    def rest(self) -> Sequence[Entry]:
        """As `summary`, now: before the end."""
        self._summed_s = now_s = self._clock.monotonic_s()
        made: list[Entry] = []
        most = sorted(self._counts.values(), key=lambda one: -one.count)
        self._counts.clear()
        for one in most:
            if len(made) < SUMMARY_ROWS_MAX and self._bucket(one.first.actor, now_s).take(now_s):
                made.append(_entry(one.first, {"reason": one.first.reason, "times_more": one.count}))
            else:
                self._others += one.count
        if self._others and self._bucket(OTHERS, now_s).take(now_s):
            refused = Turned("", "", "access", OTHERS, "")
            made.append(_entry(refused, {"times_more": self._others}))
            self._others = 0
        return made

    def _count(self, key: tuple[str, str, str], turned: Turned) -> None:
        found = self._counts.get(key)
        if found is not None:
            found.count += 1
        elif len(self._counts) < KINDS_MAX:
            self._counts[key] = _Count(1, turned)
        else:
            self._others += 1

    def _bucket(self, actor: str, now_s: float) -> _Bucket:
        found = self._buckets.get(actor)
        if found is None:
            found = self._buckets[actor] = _Bucket(ROWS_BURST, now_s)
            if len(self._buckets) > BUCKETS_MAX:
                self._buckets.popitem(last=False)
        return found


def _entry(turned: Turned, detail: dict[str, object]) -> Entry:
    return Entry(
        actor=turned.actor or STRANGER,
        action=turned.action,
        target=turned.target,
        outcome=Outcome.REFUSED,
        source=turned.source,
        detail=detail,
    )
