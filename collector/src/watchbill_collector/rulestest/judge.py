"""Judging a unit-test file: series in, rules evaluated step by step as promtool does, expectations compared.

1. Time begins at the start of the group and goes on by `evaluation_interval`, whatever the intervals of rule groups
   are, up to the last expectation. Before each step the samples that are not later than it are loaded.
2. Rule groups run in the order of `group_eval_order`; those it does not name come first.
3. Alerts expected between two steps are compared after the earlier one.
4. Expressions are evaluated at the end, at their own times, over everything that was loaded and recorded.
"""

import math
from collections.abc import Mapping, Sequence

from watchbill.errors import Problem
from watchbill_collector.labels import METRIC_NAME
from watchbill_collector.matching import Matcher
from watchbill_collector.promql.budget import Budget
from watchbill_collector.promql.engine import Engine, Options
from watchbill_collector.promql.errors import Cancelled, PromqlError, TimedOut
from watchbill_collector.promql.memory import MemoryStorage
from watchbill_collector.promql.storage import Hints, SeriesSet
from watchbill_collector.promql.text import float_text, label_text, quoted
from watchbill_collector.rules.alerts import AlertState, nothing_held
from watchbill_collector.rules.files import load
from watchbill_collector.rules.model import Group, RuleSet
from watchbill_collector.rules.run import AlertingRun, RuleRun, Surroundings, run_of
from watchbill_collector.rulestest.bounds import Limits, Spent, TooCostly
from watchbill_collector.rulestest.model import (
    AlertTest,
    ExprTest,
    Failure,
    InputSeries,
    TestFile,
    TestGroup,
)
from watchbill_collector.rulestest.notation import Gap
from watchbill_collector.rulestest.recorded import keep
from watchbill_collector.series import SeriesTable

FAILURES_MAX = 1_000
"""Failures that are told; what comes after is counted in the last."""
SHOWN_MAX = 20
"""Series of one kind in one failure."""


def judge(tests: TestFile, limits: Limits | None = None) -> tuple[list[Failure], list[Problem]]:
    """What was not as expected; or, with nothing judged, what is wrong in the rule files.

    Raises what the limits' `check` raises.
    """
    rules, problems = load(tests.rules)
    if problems:
        return [], problems
    spent = Spent(limits or Limits())
    failures: list[Failure] = []
    for group in tests.groups:
        try:
            failures += _Trial(tests, group, rules, spent).failures()
        except TooCostly as error:
            failures.append(Failure(tests.file, group.line, group.name, "the test", 0, str(error)))
            break
        if len(failures) > FAILURES_MAX:
            left = len(failures) - FAILURES_MAX
            why = f"{left} or more failures are not shown"
            del failures[FAILURES_MAX:]
            failures.append(Failure(tests.file, group.line, group.name, "further tests", 0, why))
            break
    return failures, []


class _Watched:
    """A storage that asks the limits whenever it is read."""

    def __init__(self, storage: MemoryStorage, spent: Spent) -> None:
        self._storage = storage
        self._spent = spent

    def select(
        self, matchers: tuple[Matcher, ...], start_ms: int, end_ms: int, budget: Budget, hints: Hints
    ) -> SeriesSet:
        """As `Storage.select`."""
        self._spent.evaluate(0)
        return self._storage.select(matchers, start_ms, end_ms, budget, hints)


class _Trial:
    """One test group being judged."""

    def __init__(self, tests: TestFile, group: TestGroup, rules: RuleSet, spent: Spent) -> None:
        self._tests = tests
        self._group = group
        self._spent = spent
        self._memory = MemoryStorage()
        self._storage = _Watched(self._memory, spent)
        self._engine = Engine(Options(subquery_step_ms=tests.interval_ms))
        self._table = SeriesTable()
        around = Surroundings(self._table, self._engine, group.external_labels, group.external_url)
        order = {name: number for number, name in enumerate(tests.order)}
        groups = sorted(rules.groups, key=lambda each: order.get(each.name, -1))
        self._runs: list[tuple[Group, RuleRun]] = [
            (each, run_of(rule, around)) for each in groups for rule in each.rules
        ]
        self._loaded_ms = group.start_ms - 1

    def failures(self) -> list[Failure]:
        """Run it."""
        group, found = self._group, list[Failure]()
        self._spent.load(sum(len(series.values) for series in group.series))
        end_ms = group.start_ms + group.end_ms
        step_ms = self._tests.interval_ms
        for now_ms in range(group.start_ms, end_ms + 1, step_ms):
            self._load_until(now_ms)
            broken = self._evaluate(now_ms)
            if broken:
                return found + broken
            since_ms = now_ms - group.start_ms
            for alert in group.alerts:
                if since_ms <= alert.time_ms < since_ms + step_ms:
                    found += self._compare_alerts(alert, now_ms)
        for expr in group.exprs:
            found += self._compare_expr(expr)
        return found

    # Time.

    def _load_until(self, now_ms: int) -> None:
        start_ms, every_ms = self._group.start_ms, self._group.interval_ms
        first = (self._loaded_ms - start_ms) // every_ms + 1
        last = (now_ms - start_ms) // every_ms
        for series in self._group.series:
            self._add(series, first, last)
        self._loaded_ms = now_ms

    def _add(self, series: InputSeries, first: int, last: int) -> None:
        start_ms, every_ms = self._group.start_ms, self._group.interval_ms
        samples: list[tuple[int, float]] = []
        for number, value in enumerate(series.values[first : last + 1], first):
            time_ms = start_ms + number * every_ms
            if value is Gap.STALE:
                self._memory.add_stale(series.labels, time_ms)
            elif isinstance(value, float):
                samples.append((time_ms, value))
        if samples:
            self._memory.add(series.labels, samples)

    def _evaluate(self, now_ms: int) -> list[Failure]:
        self._spent.evaluate(len(self._runs))
        broken = []
        for group, run in self._runs:
            try:
                query_ms = now_ms - group.query_offset_ms
                made = run.evaluate(query_ms, now_ms, self._storage, group.limit, nothing_held)
            except (TimedOut, Cancelled):  # Of the limits, and no fault of the rule.
                raise
            except PromqlError as error:
                broken.append(self._broken(f"rule {run.rule.name}", now_ms, str(error), run.rule.place.line))
            else:
                keep(made, self._table, self._memory)
        return broken

    # Expectations.

    def _compare_alerts(self, test: AlertTest, now_ms: int) -> list[Failure]:
        got = [
            _alert_text(dict(alert.labels), run.annotations(alert, value, now_ms))
            for _, run in self._runs
            if isinstance(run, AlertingRun) and run.rule.name == test.name
            for alert, value in run.saved()
            if alert.state is AlertState.FIRING
        ]
        wanted = [_alert_text(alert.labels, alert.annotations) for alert in test.wanted]
        return self._compared(test.line, f"alert {test.name}", test.time_ms, wanted, got)

    def _compare_expr(self, test: ExprTest) -> list[Failure]:
        at_ms = self._group.start_ms + test.time_ms
        what = f"expr {test.expr}"
        try:
            vector = self._engine.instant(test.expr, at_ms, self._storage).vector()
        except (TimedOut, Cancelled):
            raise
        except PromqlError as error:
            return [self._broken(what, at_ms, str(error), test.line)]
        got = sorted((tuple(sorted(labels.items())), value) for labels, value in vector)
        wanted = sorted((tuple(sorted(each.labels.items())), each.value) for each in test.wanted)
        if len(got) == len(wanted) and all(
            mine == theirs and self._same(value, other)
            for (mine, value), (theirs, other) in zip(got, wanted, strict=True)
        ):
            return []
        shown_got = [f"{_series_text(dict(labels))} {float_text(value)}" for labels, value in got]
        shown_wanted = [f"{_series_text(dict(labels))} {float_text(value)}" for labels, value in wanted]
        found = self._compared(test.line, what, test.time_ms, shown_wanted, shown_got)
        if found or any(math.isnan(value) for _, value in wanted):
            return found or [self._broken(what, at_ms, "NaN equals nothing, not even NaN", test.line)]
        return [self._broken(what, at_ms, "a series is there twice", test.line)]

    def _same(self, got: float, wanted: float) -> bool:
        if got == wanted:
            return True
        up, down = math.nextafter(got, math.inf), math.nextafter(got, -math.inf)
        return self._tests.fuzzy and wanted in (up, down)

    def _compared(
        self, line: int, what: str, time_ms: int, wanted: Sequence[str], got: Sequence[str]
    ) -> list[Failure]:
        missing, surplus = _without(wanted, got), _without(got, wanted)
        if not missing and not surplus:
            return []
        return [
            Failure(
                self._tests.file,
                line,
                self._group.name,
                what,
                time_ms,
                missing=_bounded(missing),
                surplus=_bounded(surplus),
            )
        ]

    def _broken(self, what: str, now_ms: int, why: str, line: int) -> Failure:
        since_ms = now_ms - self._group.start_ms
        return Failure(self._tests.file, line, self._group.name, what, since_ms, why)


def _without(these: Sequence[str], those: Sequence[str]) -> list[str]:
    """What is in these and not in those, counted as often as it is there."""
    left = list(those)
    rest = []
    for each in these:
        if each in left:
            left.remove(each)
        else:
            rest.append(each)
    return sorted(rest)


def _bounded(texts: Sequence[str]) -> tuple[str, ...]:
    if len(texts) <= SHOWN_MAX:
        return tuple(texts)
    return (*texts[:SHOWN_MAX], f"and {len(texts) - SHOWN_MAX} more")


def _series_text(labels: Mapping[str, str]) -> str:
    name = labels.get(METRIC_NAME, "")
    pairs = ", ".join(
        f"{label_text(key)}={quoted(text)}" for key, text in sorted(labels.items()) if key != METRIC_NAME
    )
    return f"{name}{{{pairs}}}" if pairs or not name else name


def _alert_text(labels: Mapping[str, str], annotations: Mapping[str, str]) -> str:
    said = ", ".join(f"{name}: {quoted(text)}" for name, text in sorted(annotations.items()))
    return f"{_series_text(labels)} annotations [{said}]"
