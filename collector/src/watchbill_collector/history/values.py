"""The values that history takes and gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from watchbill.errors import StorageError, WatchbillError
from watchbill.protocol.frames import NOTICES, GapReason, Stream
from watchbill_collector.labels import Indices
from watchbill_collector.series import SeriesIds, Ticks, Times, Values

MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000
TIME_MS_MAX = 253_402_300_799_999
"""The end of the year 9999. Readings before 1970 or after this have no day file; they are counted and
dropped.
"""


class TooManySamples(WatchbillError):
    """A query wants more samples than it may."""

    def __init__(self, samples_max: int) -> None:
        super().__init__(
            f"the query needs more than {samples_max} samples: narrow its labels or its time range"
        )
        self.samples_max = samples_max


class StorageFull(StorageError):
    """History does not write until there is room again; what is stored stays readable."""


class StorageBroken(StorageError):
    """The disk failed a write or a sync. What is on it now is unknown until the process starts again."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a spool's stream is committed. `digest` is the first 8 bytes of the last record's SHA-256."""

    agent_id: str
    spool_id: bytes
    stream: int
    seq: int
    digest: int


@dataclass(frozen=True, slots=True)
class GapRow:
    """Records that will never come, and why. Times are UTC ms, 0 where unknown."""

    agent_id: str
    spool_id: bytes
    stream: int
    from_seq: int
    to_seq: int
    count: int
    samples: int
    first_ms: int
    last_ms: int
    reason: GapReason
    recorded_ms: int

    @property
    def samples_known(self) -> int | None:
        """How many samples are missing with it; None when nobody knows.

        Unknown are the end of a spool that came to no orderly end, damaged history, and gaps that an agent could not
        tell more of. A notice has lost none, and critical records have none.
        """
        if self.samples or self.reason in NOTICES or self.stream == Stream.CRIT:
            return self.samples
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Ragged readings: those of series i are `times[offsets[i]:offsets[i+1]]` and `values` likewise.

    Times ascend strictly within a series. `damaged` names what could not be read and is missing here.
    """

    times: Times
    values: Values
    offsets: Indices
    damaged: tuple[str, ...] = ()


class Tier(Enum):
    """A coarser copy of history: the length of its steps in ms."""

    MINUTE = MINUTE_MS
    HOUR = HOUR_MS

    @property
    def label(self) -> str:
        """Its name in files and in answers."""
        return "1m" if self is Tier.MINUTE else "1h"


@dataclass(frozen=True, slots=True, eq=False)
class TierSamples:
    """Ragged statistics of steps, offsets as in Samples. `times` is the end of each step, UTC ms.

    A step (t - length, t] has the smallest, largest, sum, number and last of its values, and by how much a
    counter grew in it, resets taken into account; the growth from the last value before the step counts.
    `increase` is NaN for what is known to be a gauge.
    """

    tier: Tier
    times: Times
    minimum: Values
    maximum: Values
    total: Values
    count: Values
    last: Values
    increase: Values
    offsets: Indices
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HistoryOptions:
    """What an operator may set. Zero for a retention keeps that tier for ever."""

    raw_ms: int = 15 * DAY_MS
    minute_ms: int = 90 * DAY_MS
    hour_ms: int = 731 * DAY_MS
    size_bytes_max: int | None = None
    """All day files together; the oldest raw ones go first."""
    free_share_min: float = 0.10
    """Below this share of free disk nothing is written."""
    ballast_bytes: int = 64 << 20
    """A file to give up when the disk is full, so that tidying has room to work."""


@dataclass(slots=True)
class HistoryCounters:
    """What history did since it was opened; read by the collector's own metrics."""

    commits: int = 0
    samples: int = 0
    samples_out_of_range: int = 0
    bytes_raw: int = 0
    minis: int = 0
    blocks: int = 0
    merges: int = 0
    late_merges: int = 0
    damaged_parts: int = 0
    refused_full: int = 0
    files_removed: int = 0
    files_quarantined: int = 0
    retention_held: int = 0
    commit_seconds: float = 0.0
    merge_seconds: float = 0.0


class MetricHistory(Protocol):
    """What the collector asks of a history, wherever it is kept. The contract suite holds for every one."""

    def commit(self, ticks: Sequence[Ticks], marks: Sequence[Mark], gaps: Sequence[GapRow]) -> None:
        """Make all of it durable, together, or raise StorageError with nothing of it kept."""

    def marks(self) -> list[Mark]:
        """Every stream's watermark as committed."""

    def gaps(self, agent_id: str | None = None, limit: int = 1000) -> list[GapRow]:
        """Gap rows, newest first."""

    def know(self, start_ms: int, end_ms: int) -> None:
        """Make sure that the series table knows every series with readings in (start, end]."""

    def select(self, ids: SeriesIds, start_ms: int, end_ms: int, samples_max: int) -> Samples:
        """Readings in (start, end]. Raises TooManySamples."""

    def select_tier(
        self, ids: SeriesIds, start_ms: int, end_ms: int, tier: Tier, samples_max: int
    ) -> TierSamples:
        """Statistics of the steps that end in (start, end]. Raises TooManySamples."""

    def retain(self, now_ms: int) -> list[str]:
        """Let go of what is too old; the names of what went."""

    def close(self) -> None:
        """Stop; everything committed is on disk already."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Readings of one list of series: `values[tick, series]`, times ascending strictly.

    `present` is None where every series has every tick.
    """

    ids: SeriesIds
    times: Times
    values: Values
    present: npt.NDArray[np.bool_] | None = None
