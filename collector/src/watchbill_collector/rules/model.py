"""Rules as they were written: what a rule file says, checked and parsed, nothing of their state."""

from dataclasses import dataclass, field
from enum import Enum

from watchbill_collector.head import Watch
from watchbill_collector.promql.plan import Made, Plan
from watchbill_collector.rules.template import Template
from watchbill_collector.rules.template_queries import read_by

INTERVAL_MS_DEFAULT = 15_000
"""How often a group is evaluated that does not say."""


class RuleKind(Enum):
    """What a rule makes, in the words of Prometheus' HTTP API."""

    ALERTING = "alerting"
    RECORDING = "recording"


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands."""

    file: str
    line: int


@dataclass(frozen=True, slots=True, eq=False)
class AlertingRule:
    """One alert: every label set that `plan` gives is an alert, firing after `for_ms`."""

    name: str
    expr: str
    plan: Plan
    for_ms: int
    keep_firing_for_ms: int
    labels: tuple[tuple[str, Template], ...]
    annotations: tuple[tuple[str, Template], ...]
    place: Place
    judges_absence: bool
    short: str = ""
    """The short form that it was compiled from, in words; empty where PromQL stands in the file."""
    asks_absence: bool = False
    kind = RuleKind.ALERTING

    @property
    def asked(self) -> tuple[Watch, ...]:
        """What the queries of its annotations read."""
        shapes = dict.fromkeys(shape for _, template in self.annotations for shape in template.asked)
        return tuple(watch for shape in shapes for watch in read_by(shape))

    @property
    def identity(self) -> tuple[object, ...]:
        """What has to be the same for its alerts to live on through a reload, as in Prometheus: name and
        labels; and the expression, without which an alert would be somebody else's."""
        return (self.name, self.expr, tuple((name, template.text) for name, template in self.labels))


@dataclass(frozen=True, slots=True, eq=False)
class RecordingRule:
    """One new series for every label set that `plan` gives."""

    name: str
    expr: str
    plan: Plan
    labels: tuple[tuple[str, str], ...]
    place: Place
    judges_absence: bool
    kind = RuleKind.RECORDING

    @property
    def identity(self) -> tuple[object, ...]:
        """As an alerting rule's."""
        return (self.name, self.expr, self.labels)


Rule = AlertingRule | RecordingRule


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Rules that are evaluated together, one after the other, so that later ones see what earlier ones
    record."""

    name: str
    file: str
    interval_ms: int
    query_offset_ms: int
    limit: int
    rules: tuple[Rule, ...]
    place: Place

    @property
    def key(self) -> tuple[str, str]:
        """Unique among loaded groups."""
        return (self.file, self.name)


@dataclass(frozen=True, slots=True, eq=False)
class RuleSet:
    """Everything that was loaded, files in the order given."""

    groups: tuple[Group, ...] = field(default=())
    made: Made = field(default_factory=dict)
    """The nodes of all their expressions, for those that are loaded after them."""

    @property
    def rules(self) -> list[Rule]:
        """All rules of all groups."""
        return [rule for group in self.groups for rule in group.rules]
