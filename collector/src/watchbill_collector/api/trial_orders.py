"""What may be asked of trials of rules, and what they need of the collector."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from watchbill_collector.api.ports import NoSuch
from watchbill_collector.promql.budget import Budget
from watchbill_collector.scopes import View


@dataclass(frozen=True, slots=True)
class NamedText:
    """A file: what it is called in messages, and what it says."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class TestOrder:
    """A unit-test file, and the rule files that it names: by each pattern of `rule_files`, what matches it."""

    __test__ = False

    text: str
    name: str = "tests.yml"
    rule_files: Mapping[str, Sequence[NamedText]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BacktestOrder:
    """A rule file, or a single expression, to be tried on the newest `since_s` seconds.

    `for_s` and `keep_firing_for_s` belong to an expression. Without `step_s` rules are judged as often as
    their group says, or more coarsely over a long time.
    """

    text: str = ""
    name: str = "rules.yml"
    expr: str = ""
    for_s: float = 0.0
    keep_firing_for_s: float = 0.0
    since_s: float = 7 * 86_400.0
    step_s: float | None = None


class TrialsService(Protocol):
    """What trials need of the collector. Blocks; called in a query thread."""

    def backtest(self, order: BacktestOrder, budget: Budget, view: View) -> dict[str, Any]:
        """Try rules on what somebody sees of the history; raises ConfigError, UsageError and PromqlError."""


class NoTrials:
    """The twin: there is no history to try rules on."""

    def backtest(self, order: BacktestOrder, budget: Budget, view: View) -> dict[str, Any]:  # noqa: ARG002
        """Refused."""
        raise NoSuch("this collector has no history to try rules on")
