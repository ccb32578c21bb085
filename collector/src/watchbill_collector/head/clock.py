"""Who ticks together: clocks, their parts in the pools, and how a sender's arrays map to rows.

One sender's readings share a clock. Its series need windows of different lengths, so a clock has a *part*
in each pool that holds some of them: a column for the times, and the rows. A *binding* says, for one array
of series ids (one dictionary of the sender), which of its values are kept and in which rows; the array
object itself is the key, for a sender keeps it as long as its dictionary stays.
"""

from dataclasses import dataclass, field

from watchbill_collector.head.pool import Ints, Pool
from watchbill_collector.series import SeriesIds

BINDINGS_PER_CLOCK_MAX = 4
"""Dictionaries of one clock that are remembered (ticks and beats alternate); the oldest is bound anew when
it comes."""


@dataclass(slots=True, eq=False)
class Part:
    """A clock's column and rows in one pool."""

    pool: Pool
    column: int
    rows: Ints
    need_ms: int


@dataclass(slots=True, eq=False)
class Clock:
    """`count` ticks so far, the latest at `last_ms`. The same numbers hold in every part."""

    count: int = 0
    last_ms: int = -(1 << 62)
    first_ms: int = 0
    parts: list[Part] = field(default_factory=list)
    bindings: list["Binding"] = field(default_factory=list)
    pending: int = 0  # Ticks of this clock in the batch that is being gathered.
    seen_in: int = -1  # The latest fold in which something came for this clock,
    turn: int = -1  # and how many messages came before the latest of them in it.

    def interval_ms(self) -> int | None:
        """The mean distance of its ticks so far."""
        return (self.last_ms - self.first_ms) // (self.count - 1) if self.count > 1 else None

    def part_in(self, pool: Pool) -> Part | None:
        """Its part in a pool, if it has one."""
        return next((part for part in self.parts if part.pool is pool), None)


@dataclass(slots=True, eq=False)
class Piece:
    """The share of one part in one binding: value `keep[i]` of a tick goes to row `rows[i]`.

    `missing` are rows of the part that the binding has no value for: they get a hole at each tick.
    """

    part: Part
    keep: Ints
    rows: Ints
    missing: Ints


@dataclass(slots=True, eq=False)
class Share:
    """What one dictionary has for one clock: a piece for each of the clock's parts, even if nothing is in it.

    `width` is the number of values in a tick of the dictionary. When a share is `complete`, every row of
    the clock gets a value at each tick.
    """

    clock: Clock
    width: int
    pieces: list[Piece] = field(default_factory=list)
    complete: bool = False


@dataclass(slots=True, eq=False)
class Binding:
    """One array of series ids, and where its values go: one share as a rule, none if nothing of it is kept.

    There are more when a dictionary has series that were read apart before (a beat carries what all
    samplers read).
    """

    series: SeriesIds
    kept: Ints
    shares: list[Share] = field(default_factory=list)
    number: int = -1  # In the layout of the fleet, if this is a usual sender.
