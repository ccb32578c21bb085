"""How many samples are missing with the records of a gap, also when only the end of the gap is missing.

A spool that is full drops its oldest records, among them such as are on their way: the collector may hold some
of those already, and for it the gap begins later than the agent says. So a gap tells its samples in parts.
Wherever a collector can stand inside a gap, namely behind a record or a gap that was sent, there is an end of a
part, or a row of records of equal size.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from watchbill.limits import GAP_PARTS_MAX


@dataclass(frozen=True, slots=True)
class GapPart:
    """Consecutive records of a gap with `samples` together: equal shares each, or nobody can hold only some of
    them."""

    records: int
    samples: int


def joined(
    earlier: Sequence[GapPart],
    records: int,
    later: Iterable[GapPart],
    *,
    divisible: bool,
    alike: bool = True,
) -> tuple[GapPart, ...]:
    """The parts of two neighbouring gaps, the first over so many `records`; `divisible` when a collector may hold
    the first and not the second, `alike` when it may hold some of the second too.

    Where it may not, the second stays a part of its own, even when its shares are equal: what follows may be
    added to it with other shares, and then nobody could be told apart who holds all of the first.

    Beyond GAP_PARTS_MAX the rest is left out: a collector that stands there says that it does not know.
    """
    parts = list(earlier)
    if sum(part.records for part in parts) != records:
        return tuple(parts)  # Its end is left out already, and what follows has no place.
    for place, part in enumerate(later):
        if place == 0 and parts and (not divisible or (alike and _equal(parts[-1], part))):
            last = parts.pop()
            part = GapPart(last.records + part.records, last.samples + part.samples)  # noqa: PLW2901
        parts.append(part)
    return tuple(parts[:GAP_PARTS_MAX])


def _equal(one: GapPart, other: GapPart) -> bool:
    """Whether the records of both have as many samples each."""
    return one.samples * other.records == other.samples * one.records


def samples_beyond(parts: Iterable[GapPart], samples: int, held: int) -> int | None:
    """Of a gap with `samples` in all, those beyond its first `held` records; None when it cannot be told."""
    if held == 0:
        return samples or None
    before = 0
    for part in parts:
        if held < part.records:
            share, rest = divmod(part.samples * held, part.records)
            if rest:
                return None
            before += share
            held = 0
        else:
            before += part.samples
            held -= part.records
        if held == 0:
            return samples - before if samples > before else None
    return None
