"""What expressions evaluate to: matrices of all series by all steps, with a mask of what is there.

A `Grid` is the steps of an evaluation; an instant query is a grid of one. A `Vector` is n label sets,
values[n, s] and present[n, s]. NaN is a legal value and never means absence. Where nothing is present the
value is meaningless.

`drop_name` marks rows whose metric name goes at the end of the query: functions change what a value means,
but labels stay whole until then, as in Prometheus 3 with delayed name removal, so `by (__name__)` and
`label_replace(rate(...), ..., "__name__", ...)` work. Arrays may be views (broadcast or shared): nothing
writes into the arrays of a value that it was given.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from watchbill_collector.labels import LabelFrame
from watchbill_collector.promql.windows import Floats, Ints, Mask


@dataclass(frozen=True, slots=True)
class Grid:
    """`count` steps of `step_ms` from `start_ms` on, UTC milliseconds."""

    start_ms: int
    step_ms: int
    count: int

    @staticmethod
    def instant(time_ms: int) -> "Grid":
        """One step."""
        return Grid(time_ms, 1, 1)

    @staticmethod
    def spanning(start_ms: int, end_ms: int, step_ms: int) -> "Grid":
        """Every step from start to end, both included; none if end is before start."""
        return Grid(start_ms, step_ms, max(0, (end_ms - start_ms) // step_ms + 1))

    @property
    def end_ms(self) -> int:
        """The last step."""
        return self.start_ms + (self.count - 1) * self.step_ms

    def times_ms(self) -> Ints:
        """All steps: int64[s]."""
        return self.start_ms + self.step_ms * np.arange(self.count, dtype=np.int64)

    def first(self) -> "Grid":
        """The first step alone."""
        return replace(self, count=1)


@dataclass(frozen=True, slots=True, eq=False)
class Scalar:
    """One number a step: values[s]."""

    values: Floats


@dataclass(frozen=True, slots=True)
class Text:
    """A string."""

    value: str


@dataclass(frozen=True, slots=True, eq=False)
class Vector:
    """n series at s steps. `ordered` says that the rows' order is meant (sort, topk in an instant query)."""

    labels: LabelFrame
    values: Floats  # (n, s)
    present: Mask  # (n, s)
    drop_name: bool | Mask = False  # for all rows, or (n,)
    ordered: bool = False

    def __post_init__(self) -> None:
        assert self.values.shape == self.present.shape
        assert len(self.labels) == len(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def drop_mask(self) -> Mask:
        """`drop_name` for each row."""
        return np.broadcast_to(np.asarray(self.drop_name, np.bool_), (len(self),))

    def take(self, rows: Ints | Mask) -> "Vector":
        """The chosen rows."""
        drop = self.drop_name if isinstance(self.drop_name, bool) else self.drop_name[rows]
        return Vector(self.labels.take(rows), self.values[rows], self.present[rows], drop, self.ordered)

    @staticmethod
    def empty(steps: int) -> "Vector":
        """No series."""
        return Vector(EMPTY_FRAME, np.zeros((0, steps)), np.zeros((0, steps), np.bool_))


Value = Scalar | Vector | Text

EMPTY_FRAME = LabelFrame.empty()
UNLABELLED = LabelFrame.unlabelled()
"""Shared, so that what is derived from them is derived once."""


@dataclass(slots=True)
class Notes:
    """Annotations of one query, each once, in the order of their appearance."""

    warnings: dict[str, None] = field(default_factory=dict)
    infos: dict[str, None] = field(default_factory=dict)

    def warn(self, text: str, at: str = "") -> None:
        """Something is likely wrong with the result; `at` is where, such as `1:15`."""
        self.warnings[f"PromQL warning: {text}{_at(at)}"] = None

    def inform(self, text: str, at: str = "") -> None:
        """Something may be other than intended."""
        self.infos[f"PromQL info: {text}{_at(at)}"] = None


def _at(at: str) -> str:
    return f" ({at})" if at else ""


def any_present(present: npt.NDArray[np.bool_]) -> Mask:
    """Which rows have a sample at any step: bool[n]."""
    out: Mask = present[:, 0] if present.shape[1] == 1 else np.asarray(present.any(axis=1))
    return out
