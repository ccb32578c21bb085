"""Gaps before what is held: how records that were dropped become one, and how gaps are joined and renumbered.

A gap tells its samples exactly, and in parts where a collector may already hold the first of its records: then
it can say what is missing beyond those.
"""

from collections.abc import Iterable, Sequence

from watchbill.codec import GapBody
from watchbill.limits import GAPS_HELD_MAX
from watchbill.protocol.accounting import GapPart, joined, samples_beyond
from watchbill.protocol.frames import GapReason
from watchbill_agent.spool.note import GapNote
from watchbill_agent.spool.records import Record, gap_record, merged


def reason_of(gap: Record) -> GapReason:
    """Why it is a gap."""
    assert gap.gap is not None
    return gap.gap


def overflow(row: Sequence[Record], sent: int) -> Record:
    """One gap in the place of a row of records that are dropped, of which the first `sent` have left the host."""
    samples = sum(record.samples for record in row)
    parts: tuple[GapPart, ...] = ()
    for place, record in enumerate(row[:sent]):
        parts = joined(parts, place, [GapPart(1, record.samples)], divisible=True)
    if len(row) > sent:
        rest = GapPart(len(row) - sent, sum(record.samples for record in row[sent:]))
        parts = joined(parts, sent, [rest], divisible=True, alike=False)
    times = (row[0].first_boottime_ms, row[-1].last_boottime_ms)
    return gap_record(
        row[0].first, row[-1].last, GapBody(GapReason.OVERFLOW, samples, *times, parts, row[-1].digest)
    )


def joined_as_sent(earlier: Record, later: Record, sent_through: int) -> Record:
    """Two neighbouring gaps as one. Of what was sent a collector may hold a part."""
    return merged(earlier, later, divisible=earlier.last <= sent_through, alike=later.first <= sent_through)


def put_behind(gaps: list[Record], gap: Record, sent_through: int) -> None:
    """Put a gap behind the others, merged with its neighbour when the reason is the same or they are too many."""
    if gaps and gaps[-1].last + 1 == gap.first:
        before = gaps[-1]
        if (before.gap is gap.gap and not gap.notice) or len(gaps) >= GAPS_HELD_MAX:
            gaps.pop()
            gap = joined_as_sent(before, gap, sent_through)
    gaps.append(gap)


def put_before(gaps: list[Record], gap: Record) -> None:
    """Put a gap before the others, merged with the first when the reason is the same."""
    if gaps and gaps[0].gap is gap.gap:
        gap = merged(gap, gaps.pop(0), divisible=True)
    gaps.insert(0, gap)


def moved(gap: Record, shift: int) -> Record | None:
    """A gap with other numbers, without what lies before them; None when nothing is left."""
    if gap.last <= shift:
        return None
    held = max(0, shift + 1 - gap.first)
    samples, parts = gap.samples, gap.parts
    if held:
        samples, parts = samples_beyond(parts, samples, held) or 0, ()
    times = (gap.first_boottime_ms, gap.last_boottime_ms)
    body = GapBody(reason_of(gap), samples, *times, parts, gap.digest)
    return gap_record(gap.first + held - shift, gap.last - shift, body)


def notes_of(gaps: Iterable[Record], base: int) -> tuple[GapNote, ...]:
    """The gaps for a note, with the numbers of the files."""
    return tuple(
        GapNote(
            gap.first + base,
            gap.last + base,
            reason_of(gap),
            gap.samples,
            gap.first_boottime_ms,
            gap.last_boottime_ms,
            gap.parts,
        )
        for gap in gaps
    )
