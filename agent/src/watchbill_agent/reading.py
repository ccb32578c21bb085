"""What sampling yields: named series, their families, and one list of values beside them.

A `Layout` says which series a reading has, in the order of its values. It is made once and returned again,
the very same object, as long as nothing appeared or vanished; whoever batches readings compares layouts with
`is`. So a steady tick costs a list of numbers and nothing else.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from watchbill.errors import Transient


class MetricType(Enum):
    """What a family's numbers mean, in Prometheus' words."""

    COUNTER = "counter"
    GAUGE = "gauge"
    UNTYPED = "untyped"


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: its name, type and one line of help. The unit is in the name, always a base unit."""

    name: str
    type: MetricType
    help: str


@dataclass(frozen=True, slots=True)
class Series:
    """One series of a family. `labels` is sorted by name and holds no empty value."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()


class Layout:
    """The families and the series of a reading, series in value order. Compared by identity."""

    __slots__ = ("families", "series")

    def __init__(self, families: Iterable[Family], series: Iterable[Series]) -> None:
        self.families = tuple(families)
        self.series = tuple(series)
        names = {family.name for family in self.families}
        assert all(one.name in names for one in self.series), "every series belongs to a family of its layout"


class Reading(NamedTuple):
    """One reading: `values[i]` belongs to `layout.series[i]`."""

    layout: Layout
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happened once and belongs into the host's timeline: a critical event. `kind` is as
    `watchbill.events` wants it, `payload` is JSON without secrets."""

    kind: str
    payload: Mapping[str, object]


class SamplerFailed(Transient):
    """A sampler could not read: `what` (file, mount, call) and `why`, in words for the operator."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")
        self.what = what
        self.why = why


class Missing(SamplerFailed):
    """A file that does not exist; the sampler knows whether that is a fault."""


class NothingHere(SamplerFailed):
    """This kernel or machine has none of it: no fault, and no series either."""


def labels(**pairs: str) -> tuple[tuple[str, str], ...]:
    """Labels in the order that `Series` wants: sorted by name, empty values left out."""
    return tuple(sorted((name, value) for name, value in pairs.items() if value))
