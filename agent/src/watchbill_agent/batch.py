"""Readings into messages: a series dictionary once, then bare numbers. Pure: no clock, no I/O.

Readings of one interval form a group, and so do checks of one pace. As long as a group's layouts are the very same
objects, a tick costs the packing of its numbers. When a layout changed, the dictionary is built anew; its id comes
from its content, so a series that comes and goes brings back an id that is known already.

What vanished ends with one stale marker:

- only vanished: the last tick under the old dictionary has the marker in their place, then it shrinks;
- only appeared: the new dictionary starts with this tick;
- both: a small dictionary of the vanished alone carries the markers, the new one starts with this tick.

Series that no collector would take (too many, too long, not UTF-8, twice the same) are left out and counted.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from watchbill.codec import BlockValues, FamilyRun, MetricKind, Schema, encode_schema, pack
from watchbill.limits import (
    BLOCKS_PER_RECORD_MAX,
    DICTIONARY_BYTES_MAX,
    HELP_BYTES_MAX,
    LABEL_NAME_BYTES_MAX,
    LABEL_VALUE_BYTES_MAX,
    LABELS_MAX,
    METRIC_NAME_BYTES_MAX,
    RECORD_BYTES_MAX,
    SERIES_PER_AGENT_MAX,
    TICKS_PER_BLOCK_MAX,
)
from watchbill_agent.reading import Family, Layout, MetricType, Reading, Series

GroupKey = int | str
"""What is sampled together: an interval in ms, or the name of a group of checks."""

STALE = struct.pack("<Q", 0x7FF0000000000002)
"""Prometheus' stale marker. Kept as bytes: as a float, arithmetic could turn it into another NaN."""

VALUE_BYTES = 8
BLOCK_OVERHEAD_BYTES = 64
"""What a block has beside its values, steps not counted."""
STEP_BYTES = 5
BLOCK_BYTES_MAX = RECORD_BYTES_MAX - 1024
"""A block with its times; the rest of a record is its own framing."""
DICTIONARY_BUDGET_BYTES = DICTIONARY_BYTES_MAX * 3 // 4
FRAMES_KEPT = 16
"""Dictionaries of layouts seen lately: a sampler that fails now and then does not cost one each time."""

KINDS = {
    MetricType.COUNTER: MetricKind.COUNTER,
    MetricType.GAUGE: MetricKind.GAUGE,
    MetricType.UNTYPED: MetricKind.UNTYPED,
}

assert SERIES_PER_AGENT_MAX * VALUE_BYTES + STEP_BYTES + BLOCK_OVERHEAD_BYTES <= BLOCK_BYTES_MAX


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """Blocks that travel as one record. Times are CLOCK_BOOTTIME in ms of the first and the last tick."""

    blocks: tuple[BlockValues, ...]
    samples: int
    first_boottime_ms: int
    last_boottime_ms: int


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A dictionary for a row of layouts. `keep` has the positions that made it into it, None when all did;
    `schema` is None when none did. `refused` counts the others by reason.
    """

    schema: Schema | None
    series: tuple[Series, ...]
    families: dict[str, Family]
    keep: tuple[int, ...] | None
    refused: dict[str, int]


NOTHING = Frame(None, (), {}, None, {})


@dataclass(slots=True, eq=False)
class _Group:
    """Series that are sampled together: the open block, and the newest tick whether it was sent or not."""

    layouts: tuple[Layout, ...] = ()
    frame: Frame = NOTHING
    times_ms: list[int] = field(default_factory=list)
    wall_ms: int = 0
    values: bytearray = field(default_factory=bytearray)
    newest: bytes = b""
    newest_ms: int = 0
    newest_wall_ms: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _BeatPlan:
    """Which values of which group a beat carries, for as long as neither the names nor the frames change."""

    names: frozenset[str]
    frames: tuple[Frame, ...]
    schema: Schema | None
    places: tuple[tuple[int, ...], ...]


class Batcher:
    """Collects the ticks of all groups until somebody takes them as messages."""

    def __init__(self, series_max: int = SERIES_PER_AGENT_MAX) -> None:
        self._series_max = series_max
        self._groups: dict[GroupKey, _Group] = {}
        self._closed: list[BlockValues] = []
        self._pending_bytes = 0
        self._frames: dict[tuple[Layout, ...], Frame] = {}
        self._beat_plan: _BeatPlan | None = None
        self.broken_readings = 0
        """Readings whose values did not fit their layout: a sampler's mistake."""
        self.dictionaries = 0
        """Dictionaries built."""

    # ------------------------------------------------------------ how it stands

    @property
    def series(self) -> int:
        """Series that are sampled now."""
        return sum(len(group.frame.series) for group in self._groups.values())

    @property
    def refused(self) -> dict[str, int]:
        """Series that are left out now, by reason."""
        total: dict[str, int] = {}
        for group in self._groups.values():
            for reason, count in group.frame.refused.items():
                total[reason] = total.get(reason, 0) + count
        return total

    @property
    def full(self) -> bool:
        """Whether about as much waits as one record holds."""
        return self._pending_bytes >= BLOCK_BYTES_MAX // 2

    # ------------------------------------------------------------ ticks in, messages out

    def add(self, key: GroupKey, readings: Sequence[Reading], boottime_ms: int, wall_ms: int) -> None:
        """Take one tick of a group."""
        readings = self._sound(readings)
        layouts = tuple(reading.layout for reading in readings)
        group = self._groups.setdefault(key, _Group())
        # A reload may sample twice within a millisecond, and two values of one time would contradict.
        boottime_ms = max(boottime_ms, group.newest_ms + 1)
        if _same(group.layouts, layouts):
            self._write(group, _packed(group.frame, readings), boottime_ms, wall_ms)
        else:
            self._change(key, group, readings, boottime_ms, wall_ms)

    def end(self, key: GroupKey, boottime_ms: int, wall_ms: int) -> None:
        """The group is sampled no more: every series of it ends with a stale marker."""
        if key in self._groups:
            self.add(key, (), boottime_ms, wall_ms)
            self._close(self._groups.pop(key))

    def take(self) -> list[Message]:
        """Everything collected so far, in messages that each fit a record."""
        for group in self._groups.values():
            self._close(group)
        blocks, self._closed, self._pending_bytes = self._closed, [], 0
        return list(_messages(blocks))

    def _sound(self, readings: Sequence[Reading]) -> Sequence[Reading]:
        sound = [reading for reading in readings if len(reading.values) == len(reading.layout.series)]
        self.broken_readings += len(readings) - len(sound)
        return sound

    def _change(
        self, key: GroupKey, group: _Group, readings: Sequence[Reading], boottime_ms: int, wall_ms: int
    ) -> None:
        """A tick whose layouts are not those of the tick before."""
        layouts = tuple(reading.layout for reading in readings)
        old, new = group.frame, self._frame(layouts, self._room(key))
        tick = _packed(new, readings)
        now = set(new.series)
        vanished = [series for series in old.series if series not in now]
        appeared = len(new.series) > len(old.series) - len(vanished)
        if vanished and not appeared:
            values = dict(zip(new.series, _pieces(tick), strict=True))
            last = b"".join(values.get(series, STALE) for series in old.series)
            self._write(group, last, boottime_ms, wall_ms)
            self._close(group)
            group.newest = tick
        else:
            self._close(group)
            if vanished:
                self._mark_stale(vanished, old.families, boottime_ms, wall_ms)
        group.layouts, group.frame = layouts, new
        if appeared or not vanished:
            self._write(group, tick, boottime_ms, wall_ms)

    def _room(self, key: GroupKey) -> int:
        """How many series the group may have beside all others."""
        others = [group for other, group in self._groups.items() if other != key]
        return self._series_max - sum(len(group.frame.series) for group in others)

    def _mark_stale(
        self, vanished: Sequence[Series], families: dict[str, Family], boottime_ms: int, wall_ms: int
    ) -> None:
        schema = encode_schema(_runs(vanished, families))
        self.dictionaries += 1
        self._closed.append(BlockValues(schema, (boottime_ms,), wall_ms, STALE * len(vanished)))
        self._pending_bytes += len(STALE) * len(vanished) + BLOCK_OVERHEAD_BYTES

    def _write(self, group: _Group, tick: bytes, boottime_ms: int, wall_ms: int) -> None:
        group.newest, group.newest_ms, group.newest_wall_ms = tick, boottime_ms, wall_ms
        if not tick:
            return
        size = len(group.values) + len(tick) + STEP_BYTES * (len(group.times_ms) + 1) + BLOCK_OVERHEAD_BYTES
        if size > BLOCK_BYTES_MAX or len(group.times_ms) == TICKS_PER_BLOCK_MAX:
            self._close(group)
        if not group.times_ms:
            group.wall_ms = wall_ms
        group.times_ms.append(boottime_ms)
        group.values += tick
        self._pending_bytes += len(tick) + STEP_BYTES

    def _close(self, group: _Group) -> None:
        """End the open block."""
        if group.times_ms:
            assert group.frame.schema is not None, "values come from series"
            times = tuple(group.times_ms)
            self._closed.append(BlockValues(group.frame.schema, times, group.wall_ms, bytes(group.values)))
        group.times_ms = []
        group.values = bytearray()

    def _frame(self, layouts: tuple[Layout, ...], room: int) -> Frame:
        frame = self._frames.get(layouts)
        if frame is None or len(frame.series) > room:
            frame = build_frame(layouts, room)
            self.dictionaries += 1
            if len(self._frames) >= FRAMES_KEPT:
                del self._frames[next(iter(self._frames))]
            self._frames[layouts] = frame
        return frame

    # ------------------------------------------------------------ the newest tick, for beats

    def boottime_ms(self) -> int:
        """When the newest tick was taken; 0 before the first."""
        return max((group.newest_ms for group in self._groups.values()), default=0)

    def values(self, metrics: frozenset[str]) -> BlockValues | None:
        """The newest values of these metrics as a block of one tick; None when there are none of them."""
        groups = [group for group in self._groups.values() if group.newest]
        plan = self._plan(metrics, groups)
        if plan.schema is None:
            return None
        values = b"".join(
            group.newest[VALUE_BYTES * place : VALUE_BYTES * (place + 1)]
            for group, places in zip(groups, plan.places, strict=True)
            for place in places
        )
        newest = max(groups, key=lambda group: group.newest_ms)
        return BlockValues(plan.schema, (newest.newest_ms,), newest.newest_wall_ms, values)

    def _plan(self, metrics: frozenset[str], groups: Sequence[_Group]) -> _BeatPlan:
        frames = tuple(group.frame for group in groups)
        plan = self._beat_plan
        if plan is None or plan.names != metrics or not _same(plan.frames, frames):
            plan = self._beat_plan = _beat_plan(metrics, frames)
        return plan


def _beat_plan(metrics: frozenset[str], frames: tuple[Frame, ...]) -> _BeatPlan:
    places = tuple(
        tuple(place for place, series in enumerate(frame.series) if series.name in metrics)
        for frame in frames
    )
    series = [frame.series[place] for frame, chosen in zip(frames, places, strict=True) for place in chosen]
    families = {name: family for frame in frames for name, family in frame.families.items()}
    return _BeatPlan(metrics, frames, encode_schema(_runs(series, families)) if series else None, places)


def _same(old: Sequence[object], new: Sequence[object]) -> bool:
    """Whether both hold the very same objects in the same order."""
    return len(old) == len(new) and all(a is b for a, b in zip(old, new, strict=True))


def _packed(frame: Frame, readings: Sequence[Reading]) -> bytes:
    values = [value for reading in readings for value in reading.values]
    if frame.keep is not None:
        values = [values[place] for place in frame.keep]
    return pack(values)


def _pieces(tick: bytes) -> Iterable[bytes]:
    return (tick[place : place + VALUE_BYTES] for place in range(0, len(tick), VALUE_BYTES))


def build_frame(layouts: Sequence[Layout], room: int) -> Frame:
    """The dictionary of these layouts, of at most `room` series."""
    families = {family.name: family for layout in layouts for family in layout.families}
    every = [series for layout in layouts for series in layout.series]
    refused: dict[str, int] = {}
    kept: list[int] = []
    seen: set[Series] = set()
    size = sum(len(name) + min(len(family.help), HELP_BYTES_MAX) + 16 for name, family in families.items())
    for place, series in enumerate(every):
        reason = _refusal(series)
        cost = 0 if reason else _bytes(series)
        if series in seen:
            reason = "duplicate"
        elif not reason and len(kept) >= room:
            reason = "too many"
        elif not reason and size + cost > DICTIONARY_BUDGET_BYTES:
            reason = "dictionary full"
        if reason:
            refused[reason] = refused.get(reason, 0) + 1
            continue
        size += cost
        seen.add(series)
        kept.append(place)
    chosen = tuple(every[place] for place in kept)
    schema = encode_schema(_runs(chosen, families)) if chosen else None
    keep = None if len(kept) == len(every) else tuple(kept)
    return Frame(schema, chosen, families, keep, refused)


def _refusal(series: Series) -> str:
    """Why no collector would take this series; empty when it would."""
    if len(series.labels) > LABELS_MAX:
        return "too many labels"
    try:
        long_name = len(series.name.encode()) > METRIC_NAME_BYTES_MAX
        long_label = any(len(name.encode()) > LABEL_NAME_BYTES_MAX for name, _ in series.labels)
        long_value = any(len(value.encode()) > LABEL_VALUE_BYTES_MAX for _, value in series.labels)
    except UnicodeEncodeError:
        return "not UTF-8"
    if long_name or long_label:
        return "name too long"
    return "label value too long" if long_value else ""


def _bytes(series: Series) -> int:
    """What a series takes of a dictionary, nearly."""
    return len(series.name) + 16 + sum(len(name) + len(value.encode()) + 8 for name, value in series.labels)


def _runs(series: Sequence[Series], families: dict[str, Family]) -> list[FamilyRun]:
    """Series in their order, consecutive ones of a metric together."""
    runs: list[FamilyRun] = []
    start = 0
    for place in range(1, len(series) + 1):
        name = series[start].name
        if place < len(series) and series[place].name == name:
            continue
        family = families.get(name)
        kind = KINDS[family.type] if family is not None else MetricKind.UNTYPED
        help_ = family.help if family is not None else ""
        runs.append(FamilyRun(name, kind, help_, tuple(one.labels for one in series[start:place])))
        start = place
    return runs


def _messages(blocks: Sequence[BlockValues]) -> Iterable[Message]:
    """Blocks in order, as many to a message as fit."""
    row: list[BlockValues] = []
    size = 0
    for block in blocks:
        cost = len(block.values) + STEP_BYTES * len(block.boottime_ms) + BLOCK_OVERHEAD_BYTES
        if row and (size + cost > BLOCK_BYTES_MAX or len(row) == BLOCKS_PER_RECORD_MAX):
            yield _message(row)
            row, size = [], 0
        row.append(block)
        size += cost
    if row:
        yield _message(row)


def _message(blocks: Sequence[BlockValues]) -> Message:
    return Message(
        tuple(blocks),
        sum(len(block.values) // VALUE_BYTES for block in blocks),
        min(block.boottime_ms[0] for block in blocks),
        max(block.boottime_ms[-1] for block in blocks),
    )
