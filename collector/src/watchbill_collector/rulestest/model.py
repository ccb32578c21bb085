"""What a unit-test file says, read and checked; and what was found wrong when it was judged.

All times are milliseconds since the start of the test, which is the epoch unless the group says otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from watchbill_collector.rules import Source
from watchbill_collector.rulestest.notation import Value

INTERVAL_MS_DEFAULT = 60_000
"""How often rules are evaluated in a file that does not say, as with promtool."""


@dataclass(frozen=True, slots=True)
class InputSeries:
    """One series and its values, one interval apart."""

    labels: Mapping[str, str]
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class WantedAlert:
    """A firing alert that a test expects; `alertname` is among the labels."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class AlertTest:
    """Exactly these alerts of one name fire at one time."""

    line: int
    time_ms: int
    name: str
    wanted: tuple[WantedAlert, ...]


@dataclass(frozen=True, slots=True)
class WantedSample:
    """A sample that a test expects."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class ExprTest:
    """An expression gives exactly these samples at one time."""

    line: int
    time_ms: int
    expr: str
    wanted: tuple[WantedSample, ...]


@dataclass(frozen=True, slots=True)
class TestGroup:
    """One entry of `tests`: some series, and what is expected of the rules over them."""

    __test__ = False  # Not a test of ours, whatever pytest thinks of the name.

    line: int
    name: str
    interval_ms: int
    start_ms: int = 0
    series: tuple[InputSeries, ...] = ()
    alerts: tuple[AlertTest, ...] = ()
    exprs: tuple[ExprTest, ...] = ()
    external_labels: Mapping[str, str] = field(default_factory=dict)
    external_url: str = ""

    @property
    def end_ms(self) -> int:
        """The time of the last expectation: nothing is evaluated after it."""
        times = [alert.time_ms for alert in self.alerts] + [expr.time_ms for expr in self.exprs]
        return max(times, default=0)


@dataclass(frozen=True, slots=True)
class TestFile:
    """A unit-test file, with the rule files it names."""

    __test__ = False

    file: str
    interval_ms: int
    order: tuple[str, ...]
    fuzzy: bool
    rules: tuple[Source, ...]
    groups: tuple[TestGroup, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """One expectation that was not met.

    `what` names the alert or the expression, `time_ms` when; `missing` was expected and not there, `surplus` was
    there and not expected, each as text. `why` is set instead where it could not be judged at all.
    """

    file: str
    line: int
    group: str
    what: str
    time_ms: int
    why: str = ""
    missing: tuple[str, ...] = ()
    surplus: tuple[str, ...] = ()
