"""A rule that reads its own alerts, tried step by step.

A threshold with an exit value of its own looks at `ALERTS` to know whether it fires already. What history has there is
what really happened, under whatever rule was loaded; the trial needs what would have happened. So such a rule is
evaluated one moment after the other by the same code that evaluates it when it is loaded, over samples that are read
from history a stretch at a time, and over the alerts that the trial itself has made.
"""

from collections.abc import Iterator

from watchbill_collector.labels import METRIC_NAME
from watchbill_collector.matching import Matcher, MatchOp
from watchbill_collector.promql import ast
from watchbill_collector.promql.budget import Budget
from watchbill_collector.promql.engine import Engine
from watchbill_collector.promql.memory import MemoryStorage
from watchbill_collector.promql.storage import Hints, SeriesSet, Storage
from watchbill_collector.rules.alerts import AlertState, Labels, nothing_held
from watchbill_collector.rules.model import AlertingRule, Group
from watchbill_collector.rules.needs import every
from watchbill_collector.rules.run import ALERT_NAME, ALERTS, ALERTS_FOR_STATE, AlertingRun, Surroundings
from watchbill_collector.rulestest.recorded import keep
from watchbill_collector.series import SeriesTable

Stretch = tuple[int, int]


def reads_itself(rule: AlertingRule) -> bool:
    """Whether all that the rule reads of alerts are its own."""
    found = [
        part for part in every(rule.plan.expr) if isinstance(part, ast.Selector) and _of_alerts(part.matchers)
    ]
    own = Matcher(ALERT_NAME, MatchOp.EQUAL, rule.name)
    return bool(found) and all(own in part.matchers for part in found)


class Replay:
    """One rule, evaluated step by step."""

    def __init__(
        self, group: Group, rule: AlertingRule, engine: Engine, past: Storage, budget: Budget
    ) -> None:
        self._group = group
        self._table = SeriesTable()
        self._run = AlertingRun(rule, Surroundings(self._table, engine))
        self._own = MemoryStorage()
        self._past = past
        self._budget = budget
        self._read: dict[tuple[Matcher, ...], tuple[int, int, SeriesSet]] = {}
        self._until_ms = 0

    def steps(self, stretch: Stretch, step_ms: int) -> Iterator[tuple[int, list[Labels]]]:
        """Each moment of a stretch, and the alerts that the expression gave there. Raises PromqlError."""
        self._read.clear()
        self._until_ms = stretch[1] - self._group.query_offset_ms
        for now_ms in range(stretch[0], stretch[1] + 1, step_ms):
            self._budget.check()
            query_ms = now_ms - self._group.query_offset_ms
            made = self._run.evaluate(query_ms, now_ms, self, self._group.limit, nothing_held)
            keep(made, self._table, self._own)
            yield (
                now_ms,
                [
                    alert.labels
                    for alert, _ in self._run.saved()
                    if alert.state is not AlertState.RESOLVED and not alert.keep_since_ms
                ],
            )

    def select(
        self, matchers: tuple[Matcher, ...], start_ms: int, end_ms: int, budget: Budget, hints: Hints
    ) -> SeriesSet:
        """As `Storage.select`: alerts from the trial, all else from the past, read once a stretch."""
        if _of_alerts(matchers):
            return self._own.select(matchers, start_ms, end_ms, budget, hints)
        known = self._read.get(matchers)
        if known is None or start_ms < known[0] or end_ms > known[1]:
            until_ms = max(end_ms, self._until_ms)
            found = self._past.select(matchers, start_ms, until_ms, self._budget, hints)
            known = self._read[matchers] = (start_ms, until_ms, found)
        return known[2]


def _of_alerts(matchers: tuple[Matcher, ...]) -> bool:
    return any(
        each.name == METRIC_NAME and each.op is MatchOp.EQUAL and each.value in (ALERTS, ALERTS_FOR_STATE)
        for each in matchers
    )
