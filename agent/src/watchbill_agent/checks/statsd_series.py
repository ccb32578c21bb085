"""Series that statsd clients make by speaking: lines in, numbers out, as cheap for each line as Python can be.

A line is taken apart no further than its name, value and the rest; (name, rest) finds the list that its value is put
into. Only now and then (`fold`) are those values read, added up and sorted into buckets, all of one series at once,
where Python's own loops do it. What was never seen goes the long way round once, through `statsd_text`.

Bounds, each counted in `dropped` by reason when it is hit: numbers that are emitted (`series_max`: a counter, gauge or
set is one, a timer or histogram one for each bucket and two more), what one line may hold, distinct values of sets.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from watchbill_agent.checks.check import Samples
from watchbill_agent.checks.statsd_text import (
    COUNTER,
    GARBAGE,
    GAUGE,
    SET,
    TIMER,
    About,
    Event,
    Garbage,
    ServiceCheck,
    about,
    event,
    metric_name,
    number,
    service_check,
)
from watchbill_agent.reading import Family, MetricType, Series

PLACES_MAX: Final = 16_384
"""Pairs of name and rest that are known; beyond it all are forgotten, and known again when they are seen."""
FOLD_BYTES: Final = 512 * 1024
"""Lines taken between two times of adding up: about 2 ms of it, less than the kernel's buffer holds."""
SET_VALUES_MAX: Final = 200_000
"""Distinct values of all sets of one interval together."""
TIMESTAMP_AGE_S_MAX: Final = 300
"""A value that says it is older is no news; a younger one counts as of now."""
EXAMPLE_BYTES_MAX: Final = 60
DROPPED: Final = (*GARBAGE, "conflict", "series-max", "set-values-max", "events-max")
"""Reasons for which a line is not taken, in the order they are emitted."""
MS_PER_S: Final = 1000.0

_NUMERIC: Final = b"0123456789.+-eE:"
_SECONDS: Final = ("_milliseconds", "_msec", "_ms")
_HELP: Final = {
    COUNTER: "Counted by statsd clients.",
    GAUGE: "Set by statsd clients.",
    SET: "Distinct values that statsd clients named since the last report.",
    TIMER: "Seconds, as timed by statsd clients.",
}
_HELP_OTHER: Final = "Observed by statsd clients."
_SERVICE_CHECK: Final = Family(
    "watchbill_statsd_service_check",
    MetricType.GAUGE,
    "A service check of a statsd client: 0 ok, 1 warning, 2 critical, 3 unknown.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How series are made. Bounds of timers are in seconds."""

    prefix: str = ""
    series_max: int
    expire_s: float
    timer_buckets: tuple[float, ...]
    histogram_buckets: tuple[float, ...]
    containers: bool = False
    events_per_minute: int = 60


@dataclass(slots=True)
class _One:
    """One series of one type. `pending` holds values not yet read, by what each counts for."""

    kind: bytes
    rows: tuple[Series, ...]
    seen_s: float
    bounds: tuple[float, ...] = ()
    pending: dict[float, list[bytes]] = field(default_factory=dict)
    value: float = 0.0
    counts: list[float] = field(default_factory=list)
    members: set[int] = field(default_factory=set)


class Intake:
    """Everything that was said. `clock` gives monotonic and UTC seconds."""

    def __init__(self, rules: Rules, monotonic_s: Callable[[], float], wall_s: Callable[[], float]) -> None:
        self._rules = rules
        self._monotonic_s = monotonic_s
        self._wall_s = wall_s
        self._places: dict[tuple[bytes, bytes], Callable[[bytes], object]] = {}
        self._series: dict[tuple[str, bytes, tuple[tuple[str, str], ...]], _One] = {}
        self._families: dict[str, Family] = {}
        self._owners: dict[str, bytes] = {}
        """Which type has a name, or a name that a histogram would emit."""
        self._layout: list[Series] | None = None
        self._refused = False
        self._unfolded = 0
        self.emitted = 0
        """Numbers that all series together emit."""
        self.lines = 0
        self.dropped: dict[str, int] = dict.fromkeys(DROPPED, 0)
        self.expired = 0
        self.example = ""
        """The newest line that was not taken, cut and escaped."""
        self.events: list[Event] = []
        self.service_checks: list[ServiceCheck] = []
        """Those whose status is another than before. Whoever reports takes both."""
        self.events_seen = 0
        self.service_checks_seen = 0
        self._minute = 0
        self._told = 0

    # ------------------------------------------------------------ lines

    def feed(self, datagrams: Sequence[bytes]) -> None:
        """Take these; each holds one line or several."""
        text = b"\n".join(datagrams)
        lines = text.split(b"\n")
        places = self._places
        strange = 0
        for line in lines:
            name, _, rest = line.partition(b":")
            value, _, tail = rest.partition(b"|")
            try:
                places[name, tail](value)
            except KeyError:
                if line:
                    self._take(line, name, value, tail)
                else:
                    strange += 1
        self.lines += len(lines) - strange
        self._unfolded += len(text)
        if self._unfolded >= FOLD_BYTES:
            self.fold()

    def _take(self, line: bytes, name: bytes, value: bytes, tail: bytes) -> None:
        """One whose place is not known: an event, a service check, a new series, or garbage."""
        try:
            if line.startswith(b"_e{"):
                said = event(line)
                self.events_seen += 1
                if self._may_tell():
                    self.events.append(said)
            elif line.startswith(b"_sc|"):
                self._service_check(service_check(line))
            else:
                self._metric(name, value, tail)
        except Garbage as exc:
            self._drop(exc.reason, line)

    def _metric(self, name: bytes, value: bytes, tail: bytes) -> None:
        if not value or not tail:
            raise Garbage("syntax", "NAME:VALUE|TYPE")
        said = about(tail)
        one = self._find(metric_name(name), said)
        put = one.pending.setdefault(1.0 if said.type == GAUGE else said.scale, []).append
        if said.at_s is not None:
            if abs(self._wall_s() - said.at_s) > TIMESTAMP_AGE_S_MAX:
                raise Garbage("timestamp", f"a time at most {TIMESTAMP_AGE_S_MAX} s from now")
        else:
            if len(self._places) >= PLACES_MAX:
                self._places.clear()
            self._places[name, tail] = put
        put(value)

    def _service_check(self, said: ServiceCheck) -> None:
        self.service_checks_seen += 1
        tags = dict(said.tags)
        tags["service"] = said.name[:200]
        if said.host:
            tags.setdefault("host", said.host)
        known = len(self._series)
        one = self._one(_SERVICE_CHECK.name, GAUGE, tuple(sorted(tags.items())), _SERVICE_CHECK)
        fresh = len(self._series) != known
        if (one.value != said.status or (fresh and said.status)) and self._may_tell():
            self.service_checks.append(said)
        one.value, one.seen_s = float(said.status), self._monotonic_s()

    def _may_tell(self) -> bool:
        """Whether one more may go into the timeline this minute."""
        minute = int(self._monotonic_s() // 60)
        if minute != self._minute:
            self._minute, self._told = minute, 0
        self._told += 1
        if self._told > self._rules.events_per_minute:
            self.dropped["events-max"] += 1
            return False
        return True

    def _drop(self, reason: str, line: bytes) -> None:
        self.dropped[reason] += 1
        self.example = ascii(line[:EXAMPLE_BYTES_MAX])[1:]

    # ------------------------------------------------------------ series

    def _find(self, name: str, said: About) -> _One:
        name = self._rules.prefix + name
        if said.type == COUNTER:
            name = name if name.endswith("_total") else f"{name}_total"
        elif said.type == TIMER:
            for ending in _SECONDS:
                name = name.removesuffix(ending)
            name = name if name.endswith("_seconds") else f"{name}_seconds"
        tags = said.tags
        if self._rules.containers and said.container:
            tags = tuple(sorted({**dict(tags), "container_id": said.container}.items()))
        kind = said.type if said.type in (COUNTER, GAUGE, SET, TIMER) else b"h"
        return self._one(name, kind, tags, None)

    def _one(self, name: str, kind: bytes, tags: tuple[tuple[str, str], ...], family: Family | None) -> _One:
        key = (name, kind, tags)
        one = self._series.get(key)
        if one is not None:
            return one
        names = _names(name, kind)
        if any(self._owners.get(other, kind) != kind for other in names) or (
            self._owners.get(name, kind) != kind
        ):
            raise Garbage("conflict", "one type for one name")
        one = self._make(name, kind, tags)
        if self.emitted + len(one.rows) > self._rules.series_max:
            self._refused = True
            raise Garbage("series-max", f"at most {self._rules.series_max} series")
        for other in {name, *names}:
            self._owners[other] = kind
        for other in names:
            self._families.setdefault(other, family or _family(other, kind))
        self._series[key] = one
        self.emitted += len(one.rows)
        self._layout = None
        return one

    def _make(self, name: str, kind: bytes, tags: tuple[tuple[str, str], ...]) -> _One:
        now_s = self._monotonic_s()
        if kind in (COUNTER, GAUGE, SET):
            return _One(kind, (Series(name, tags),), now_s)
        bounds = self._rules.timer_buckets if kind == TIMER else self._rules.histogram_buckets
        rows = [
            Series(f"{name}_bucket", tuple(sorted((*tags, ("le", shown)))))
            for shown in (*(f"{bound:g}" for bound in bounds), "+Inf")
        ]
        rows += [Series(f"{name}_sum", tags), Series(f"{name}_count", tags)]
        # Timers say milliseconds; their bounds are compared with what they say.
        inner = tuple(bound * MS_PER_S for bound in bounds) if kind == TIMER else bounds
        return _One(kind, tuple(rows), now_s, inner, counts=[0.0] * (len(bounds) + 1))

    # ------------------------------------------------------------ adding up

    def fold(self) -> None:
        """Read the values that wait."""
        self._unfolded = 0
        now_s = self._monotonic_s()
        for one in self._series.values():
            for scale, waiting in one.pending.items():
                if waiting:
                    one.seen_s = now_s
                    self._fold(one, scale, waiting)
                    waiting.clear()

    def _fold(self, one: _One, scale: float, waiting: list[bytes]) -> None:
        if one.kind == SET:
            self._members(one, waiting)
            return
        values, signed = self._values(waiting)
        if one.kind == COUNTER:
            if signed is not None:
                values = self._not_negative(values)
            # fsum: a million tenths are exactly a hundred thousand.
            self._add(one, math.fsum(values) * scale)
        elif one.kind == GAUGE:
            _set_gauge(one, values, signed)
        else:
            values.sort()
            before = 0
            for number_, bound in enumerate(one.bounds):
                upto = bisect_right(values, bound)
                one.counts[number_] += (upto - before) * scale
                before = upto
            one.counts[-1] += (len(values) - before) * scale
            self._add(one, math.fsum(values) * scale)

    def _add(self, one: _One, more: float) -> None:
        if math.isfinite(one.value + more):
            one.value += more

    def _not_negative(self, values: list[float]) -> list[float]:
        """What only grows cannot be counted down."""
        kept = [value for value in values if value >= 0]
        if len(kept) < len(values):
            self.dropped["value"] += len(values) - len(kept)
            self.example = "a counter below 0"
        return kept

    def _values(self, waiting: list[bytes]) -> tuple[list[float], list[bool] | None]:
        """All of them as numbers, and which of them are signed, if any is. Packed ones are taken apart."""
        joined = b":".join(waiting)
        signs = b"+" in joined or b"-" in joined
        if not joined.translate(None, _NUMERIC):
            try:
                texts = joined.split(b":")
                values = [*map(float, texts)]
                if math.isfinite(math.fsum(values)):
                    return values, [text[0] in b"+-" for text in texts] if signs else None
            except (ValueError, OverflowError):
                pass  # Somebody's value is none: all of them are looked at one by one.
        values, signed = [], []
        for waits in waiting:
            for text in waits.split(b":"):
                try:
                    values.append(number(text))
                    signed.append(text[0] in b"+-")
                except Garbage as exc:
                    self._drop(exc.reason, waits)
        return _bounded(values), signed

    def _members(self, one: _One, waiting: list[bytes]) -> None:
        room = SET_VALUES_MAX - sum(len(other.members) for other in self._series.values())
        fresh = set(map(hash, waiting)) - one.members
        if len(fresh) > room:
            self.dropped["set-values-max"] += len(fresh) - max(room, 0)
            fresh = set(list(fresh)[: max(room, 0)])
        one.members |= fresh

    # ------------------------------------------------------------ out

    def report(self, samples: Samples) -> None:
        """Put every number behind those in `samples`; sets begin anew."""
        self.fold()
        self._expire()
        values: list[float] = []
        for one in self._series.values():
            if one.kind in (COUNTER, GAUGE):
                values.append(one.value)
            elif one.kind == SET:
                values.append(float(len(one.members)))
                one.members.clear()
            else:
                total = 0.0
                for count in one.counts:
                    total += count
                    values.append(total)
                values += (one.value / MS_PER_S if one.kind == TIMER else one.value, total)
        if self._layout is None:
            self._layout = [row for one in self._series.values() for row in one.rows]
        samples.families.update(self._families)
        samples.series += self._layout
        samples.values += values

    def _expire(self) -> None:
        """End gauges and sets that nobody spoke of for long. What counts is kept, since a counter that ends and comes
        back begins at 0, until there is no room for others."""
        before_s = self._monotonic_s() - self._rules.expire_s
        gone = [
            key
            for key, one in self._series.items()
            if one.seen_s < before_s and (one.kind in (GAUGE, SET) or self._refused)
        ]
        for key in gone:
            self.emitted -= len(self._series.pop(key).rows)
        self.expired += len(gone)
        if gone:
            self._layout = None
            left = {name: kind for name, kind, _ in self._series}
            kept = {other: kind for name, kind in left.items() for other in (name, *_names(name, kind))}
            self._owners = kept
            self._families = {name: family for name, family in self._families.items() if name in kept}
            self._places.clear()
        self._refused = False


def _names(name: str, kind: bytes) -> tuple[str, ...]:
    """Of the families that a series emits."""
    if kind in (COUNTER, GAUGE, SET):
        return (name,)
    return f"{name}_bucket", f"{name}_sum", f"{name}_count"


def _family(name: str, kind: bytes) -> Family:
    type_ = MetricType.GAUGE if kind in (GAUGE, SET) else MetricType.COUNTER
    return Family(name, type_, _HELP.get(kind, _HELP_OTHER))


def _set_gauge(one: _One, values: Sequence[float], signed: Sequence[bool] | None) -> None:
    """The last value counts; one with a sign is added to what there was."""
    if signed is None:
        one.value = values[-1] if values else one.value
        return
    for value, delta in zip(values, signed, strict=True):
        moved = one.value + value if delta else value
        if math.isfinite(moved):
            one.value = moved


def _bounded(values: Iterable[float]) -> list[float]:
    """Without those that would make the sum of all infinite."""
    return [value for value in values if abs(value) < 1e300]
