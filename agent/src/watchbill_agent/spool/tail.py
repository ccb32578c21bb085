"""The newest records of a stream, in memory: those that are not durable, to be written anew if a sync fails, and as
many more as make a live session read no file.
"""

import bisect
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from watchbill.codec import GapBody, encode_gap, number
from watchbill.limits import KIB, MIB
from watchbill.protocol.frames import digest_of
from watchbill_agent.spool.format import Frame, Kind, encode_frame
from watchbill_agent.spool.gaps import joined_as_sent, moved, reason_of
from watchbill_agent.spool.records import Record

TAIL_BYTES_MAX = 256 * KIB
"""Records kept in memory although they are durable, so that a live session reads no file."""
RING_BYTES_MAX = 1 * MIB
"""Records kept in memory because the disk takes none; beyond it the oldest go, counted."""
SAMPLES_TOLD_MAX = 2**32 - 1
"""A frame has 32 bits for them; a gap's payload tells the whole number."""


@dataclass(slots=True, eq=False)
class Kept:
    """A record in the tail. `frame` are its bytes on the disk, kept until they are durable; `total` are the stream's
    samples up to it."""

    record: Record
    frame: bytes
    total: int
    written: bool = False

    @property
    def total_before(self) -> int:
        """The stream's samples before it."""
        return self.total - (0 if self.record.notice else self.record.samples)


def kept_data(record: Record, body: bytes, total: int, base: int, seed: int) -> Kept:
    """A record with data; `body` is its content without the number."""
    ids = tuple(schema.schema_id for schema in record.schemas)
    times = (record.first_boottime_ms, record.last_boottime_ms)
    frame = Frame(Kind.DATA, record.first + base, total, record.samples, *times, ids, body)
    return Kept(record, encode_frame(frame, seed), total)


def kept_gap(gap: Record, total: int, base: int, seed: int) -> Kept:
    """A gap that has its place among the records."""
    first, last = gap.first + base, gap.last + base
    times = (gap.first_boottime_ms, gap.last_boottime_ms)
    body = GapBody(reason_of(gap), gap.samples, *times, gap.parts, gap.digest)
    payload = encode_gap(first, last, body, notice=gap.notice)
    lost = 0 if gap.notice else gap.samples
    frame = Frame(Kind.GAP, first, total, min(lost, SAMPLES_TOLD_MAX), 0, 0, (), payload)
    return Kept(gap, encode_frame(frame, seed), total)


def kept_again(record: Record, total: int, base: int, seed: int) -> Kept:
    """A record that was read from a file which cannot be trusted."""
    if record.gap is not None:
        return kept_gap(record, total, base, seed)
    return kept_data(record, _body_of(record), total, base, seed)


class Tail:
    """The records, oldest first. `bytes` counts their contents."""

    def __init__(self) -> None:
        self.bytes = 0
        self._kept: deque[Kept] = deque()

    def __iter__(self) -> Iterator[Kept]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def first(self) -> Kept:
        """The oldest."""
        return self._kept[0]

    def after(self, seq: int) -> Record:
        """The first record that reaches beyond `seq`; there must be one."""
        return self._kept[bisect.bisect_right(self._kept, seq, key=lambda kept: kept.record.last)].record

    def append(self, kept: Kept) -> None:
        """Take the newest record."""
        self._kept.append(kept)
        self.bytes += len(kept.record.content)

    # ------------------------------------------------------------ what no file has

    @property
    def waits(self) -> bool:
        """Whether the newest record is in no file: those behind it wait for the file that it gets."""
        return bool(self._kept) and not self._kept[-1].written

    @property
    def unwritten(self) -> list[Kept]:
        """Records that no file has."""
        return [kept for kept in self._kept if not kept.written]

    @property
    def unwritten_bytes(self) -> int:
        """What they will take of a file."""
        return sum(len(kept.frame) for kept in self._kept if not kept.written)

    def written_through(self, durable: int) -> int:
        """The newest number that a file has; `durable` when there is none here."""
        return max((kept.record.last for kept in self._kept if kept.written), default=durable)

    def distrust(self, durable: int) -> None:
        """A sync failed: what was not durable counts as not written."""
        for kept in self._kept:
            if kept.record.last > durable:
                kept.written = False

    def shrink_ring(self, lost: Callable[[Record], Record], sent_through: int, base: int, seed: int) -> None:
        """Of what no file has, the oldest becomes a gap when it is too much. `lost` counts a record as dropped and
        returns the gap in its place."""
        waiting = self.unwritten_bytes
        if waiting <= RING_BYTES_MAX:
            return
        kept = list(self._kept)
        place = next(index for index, one in enumerate(kept) if not one.written)
        while waiting > RING_BYTES_MAX // 2 and place + 1 < len(kept) - 1:
            one, two = kept[place], kept[place + 1]
            gap = joined_as_sent(lost(one.record), lost(two.record), sent_through)
            joined = kept_gap(gap, two.total, base, seed)
            waiting += len(joined.frame) - len(one.frame) - len(two.frame)
            kept[place : place + 2] = [joined]
        self._replace(kept)

    # ------------------------------------------------------------ what is safe elsewhere

    def is_durable(self, through: int) -> None:
        """The files have everything up to `through` for certain."""
        for kept in self._kept:
            if kept.record.last > through:
                return
            kept.frame = b""

    def is_acknowledged(self, through: int) -> None:
        """The collector has everything up to `through`: no file needs it any more."""
        for kept in self._kept:
            if kept.record.last > through:
                return
            kept.written = True

    def shrink(self, durable: int) -> None:
        """Forget records that can be read from the disk."""
        while self.bytes > TAIL_BYTES_MAX and self._kept and self._kept[0].record.last <= durable:
            self._forget_first()

    def forget(self, through: int) -> None:
        """Forget everything up to `through`."""
        while self._kept and self._kept[0].record.last <= through:
            self._forget_first()

    def _forget_first(self) -> None:
        self.bytes -= len(self._kept.popleft().record.content)

    # ------------------------------------------------------------ a fork

    def renumber(self, shift: int) -> None:
        """Number what lies beyond `shift` from 1; the rest is forgotten."""
        self._replace(
            [
                Kept(_renumbered(kept.record, shift), kept.frame, kept.total, kept.written)
                for kept in self._kept
                if kept.record.last > shift
            ]
        )

    def _replace(self, kept: list[Kept]) -> None:
        self._kept = deque(kept)
        self.bytes = sum(len(one.record.content) for one in kept)


def _body_of(record: Record) -> bytes:
    return record.content[len(number(record.first, b"")) :]


def _renumbered(record: Record, shift: int) -> Record:
    if record.gap is not None:
        gap = moved(record, shift)
        assert gap is not None, "it reaches beyond the shift"
        return gap
    content = number(record.first - shift, _body_of(record))
    return replace(
        record,
        first=record.first - shift,
        last=record.last - shift,
        content=content,
        digest=digest_of(content),
    )
