"""One rule at work: evaluate, decide, and say which samples to write.

What a rule makes is written as ticks of the collector's own series: the values of a recording, `ALERTS` and
`ALERTS_FOR_STATE` of alerts; and a stale marker for each series that the evaluation before had made and
this one has not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from watchbill_collector.labels import METRIC_NAME, STRINGS, LabelFrame
from watchbill_collector.promql.budget import Budget
from watchbill_collector.promql.engine import Engine, InstantVector, Result
from watchbill_collector.promql.errors import ExecutionFailed, PromqlError
from watchbill_collector.promql.plan import Plan
from watchbill_collector.promql.shared import SharedValues
from watchbill_collector.promql.storage import Storage
from watchbill_collector.rules.alerts import (
    Alert,
    AlertState,
    Change,
    Hold,
    Labels,
    Terms,
    Verdict,
    decide,
)
from watchbill_collector.rules.certainty import Warming
from watchbill_collector.rules.model import AlertingRule, RecordingRule
from watchbill_collector.rules.rows import Rows
from watchbill_collector.rules.template import Template
from watchbill_collector.rules.template_answers import Answers, Asked, remembered
from watchbill_collector.rules.template_queries import Ask
from watchbill_collector.series import STALE, SeriesIds, SeriesTable, Ticks

ALERTS_PER_RULE_MAX = 50_000
"""Label sets that one alerting rule may give; more is a mistake in its expression, and an error of the
rule."""
RULE_TIME_S_MAX = 5.0
"""Time that the expression of one rule may take; then the rule has failed this time, and the others go on."""
NUMBERS_MAX = 4 * ALERTS_PER_RULE_MAX
"""Label sets that are remembered for one rule; then all but those of its present alerts are forgotten."""

ALERT_NAME = "alertname"
ALERT_STATE = "alertstate"
ALERTS = "ALERTS"
ALERTS_FOR_STATE = "ALERTS_FOR_STATE"

_NO_SERIES: SeriesIds = np.zeros(0, np.uint32)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is the same for all rules. `external_labels` and `external_url` are for templates, `monotonic`
    for the time that queries may take, `shared` for what rules have in common at one moment."""

    table: SeriesTable
    engine: Engine
    external_labels: Mapping[str, str] = field(default_factory=dict)
    external_url: str = ""
    monotonic: Callable[[], float] | None = None
    shared: SharedValues = field(default_factory=SharedValues)

    def ask(self, plan: Plan, query_ms: int, storage: Storage) -> Result:
        """What the expression of a rule answers, within what one rule may use. Raises PromqlError."""
        clock = self.monotonic
        budget = Budget() if clock is None else Budget(deadline_s=clock() + RULE_TIME_S_MAX, monotonic=clock)
        return self.engine.instant(plan, query_ms, storage, budget, shared=self.shared)


@dataclass(slots=True)
class Health:
    """How a rule's latest evaluation went, in the words of Prometheus' HTTP API."""

    health: str = "unknown"
    last_error: str = ""
    evaluated_ms: int = 0
    took_s: float = 0.0
    evaluations: int = 0
    failures: int = 0
    samples: int = 0
    held: int = 0
    warming: Warming | None = None


class _Written:
    """The series that a rule wrote the last time, to end those that are gone."""

    def __init__(self) -> None:
        self.series: SeriesIds = _NO_SERIES

    def ticks(
        self, series: SeriesIds, values: "np.ndarray[tuple[int], np.dtype[np.float64]]", now_ms: int
    ) -> list[Ticks]:
        """The samples, and stale markers for what was written before and is not now."""
        made: list[Ticks] = []
        at = np.array([now_ms])
        if series is not self.series and not np.array_equal(series, self.series):
            gone = np.setdiff1d(self.series, series)
            if len(gone):
                made.append(Ticks(gone, at, np.full((1, len(gone)), STALE)))
            self.series = series
        # The same array object while nothing changes: the head knows a dictionary by it.
        if len(self.series):
            made.append(Ticks(self.series, at, values[None, :]))
        return made


class RecordingRun:
    """A recording rule at work."""

    def __init__(self, rule: RecordingRule, around: Surroundings) -> None:
        self.rule = rule
        self.health = Health()
        self._around = around
        self._labels = dict(rule.labels)
        self._rows: Rows[int] = Rows(self._series)
        self._written = _Written()

    def _series(self, given: Mapping[str, str]) -> int:
        labels = {**given, **self._labels, METRIC_NAME: self.rule.name}
        return self._around.table.series_of({name: text for name, text in labels.items() if text})

    def evaluate(self, query_ms: int, now_ms: int, storage: Storage, limit: int, hold: Hold) -> list[Ticks]:  # noqa: ARG002
        """The samples to write at `now_ms`. Raises PromqlError."""
        result = self._around.ask(self.rule.plan, query_ms, storage)
        vector = result.vector()
        self.health.samples = result.samples
        ids = np.array(self._rows.of(vector.labels), np.uint32)
        if len(np.unique(ids)) < len(ids):
            raise ExecutionFailed("vector contains metrics with the same labelset after applying rule labels")
        if limit and len(ids) > limit:
            raise ExecutionFailed(f"exceeded limit of {limit} with {len(ids)} series")
        return self._written.ticks(ids, vector.values, now_ms)

    @property
    def series(self) -> int:
        """Samples that the latest evaluation recorded."""
        return len(self._written.series)

    def end(self, now_ms: int) -> list[Ticks]:
        """End what was written: the rule is gone."""
        return self._written.ticks(_NO_SERIES, np.zeros(0), now_ms)


class AlertingRun:
    """An alerting rule at work. `alerts` are replaced as a whole, so other threads may read them at any
    time."""

    def __init__(self, rule: AlertingRule, around: Surroundings) -> None:
        self.rule = rule
        self.health = Health()
        self.verdict = Verdict({}, {})
        self._around = around
        self._terms = Terms(rule.for_ms, rule.keep_firing_for_ms)
        self._rows: Rows[int] = Rows(self._number)
        self._numbers: dict[Labels, int] = {}
        self._known: dict[int, tuple[Labels, Labels]] = {}
        self._next = 0
        self._ids: dict[AlertState | None, dict[int, int]] = {}
        self._by_value = any("alue" in template.text for _, template in rule.labels if not template.constant)
        self._asks = any(template.asked for _, template in rule.annotations)
        self._answers: dict[int, Answers] = {}
        self._written = _Written()
        self._series: tuple[Verdict | None, SeriesIds, np.ndarray[tuple[int], np.dtype[np.float64]]]
        self._series = (None, _NO_SERIES, np.zeros(0))

    # Evaluating.

    def evaluate(self, query_ms: int, now_ms: int, storage: Storage, limit: int, hold: Hold) -> list[Ticks]:
        """Judge, and give the samples to write at `now_ms`. `changes` are in the verdict. Raises
        PromqlError."""
        result = self._around.ask(self.rule.plan, query_ms, storage)
        self.health.samples = result.samples
        given = self._given(result.vector())
        verdict = decide(
            self.verdict.alerts,
            self.verdict.values,
            given,
            self._known.__getitem__,
            self._terms,
            now_ms,
            hold,
            now_ms - self.health.evaluated_ms if self.health.evaluated_ms else 0,
        )
        active = (
            len(verdict.alerts)
            if not limit
            else sum(alert.state is not AlertState.RESOLVED for alert in verdict.alerts.values())
        )
        if limit and active > limit:
            self.verdict = Verdict({}, {})
            raise ExecutionFailed(f"exceeded limit of {limit} with {active} alerts")
        same = (
            verdict.alerts.keys() == self.verdict.alerts.keys() and not verdict.changes and not verdict.held
        )
        self.verdict = verdict
        self.health.held = verdict.held
        if self._asks:
            self._ask(query_ms, now_ms, storage)
        return self._samples(now_ms, same=same)

    def _ask(self, query_ms: int, now_ms: int, storage: Storage) -> None:
        """Answer what the annotations of the alerts ask, now: they are filled in later, for whoever reads them."""
        asked = Asked(self._around.engine, storage, query_ms, self._around.monotonic)
        answers: dict[int, Answers] = {}
        for key, alert in self.verdict.alerts.items():
            if alert.state is AlertState.RESOLVED or asked.late:
                answers[key] = self._answers.get(key, {})
                continue
            own = answers[key] = {}
            value = self.verdict.values.get(key, float("nan"))
            for _, template in self.rule.annotations:
                if template.asked:
                    self._expand(template, dict(alert.given), value, now_ms, asking=asked.noting(own))
        self._answers = answers

    def _given(self, vector: InstantVector) -> dict[int, float]:
        values = vector.values.tolist()
        if len(values) > ALERTS_PER_RULE_MAX:
            raise ExecutionFailed(f"{len(values)} alerts, at most {ALERTS_PER_RULE_MAX} are possible")
        if len(self._known) > NUMBERS_MAX:
            self._forget()
        if self._by_value:
            rows = [
                self._numbered(self._labels(given, value), given)
                for given, value in zip(vector.labels.dicts(), values, strict=True)
            ]
        else:
            rows = self._rows.of(vector.labels)
        given = dict(zip(rows, values, strict=True))
        if len(given) < len(values):
            raise ExecutionFailed(
                "vector contains metrics with the same labelset after applying alert labels"
            )
        return given

    def _number(self, given: Mapping[str, str]) -> int:
        return self._numbered(self._labels(given, 0.0), given)

    def _numbered(self, labels: Labels, given: Mapping[str, str]) -> int:
        number = self._numbers.get(labels)
        if number is None:
            number = self._numbers[labels] = self._next
            self._next += 1
            self._known[number] = (labels, tuple(sorted(given.items())))
        return number

    def _forget(self) -> None:
        self._known = {number: self._known[number] for number in self.verdict.alerts}
        self._numbers = {labels: number for number, (labels, _) in self._known.items()}
        self._rows = Rows(self._number)
        self._ids = {}

    def _labels(self, given: Mapping[str, str], value: float) -> Labels:
        labels = {name: text for name, text in given.items() if name != METRIC_NAME}
        for name, template in self.rule.labels:
            labels[name] = self._expand(template, given, value)
        labels[ALERT_NAME] = self.rule.name
        return tuple(sorted((name, text) for name, text in labels.items() if text))

    def _expand(
        self,
        template: Template,
        given: Mapping[str, str],
        value: float,
        now_ms: int = 0,
        incomplete: str = "",
        asking: Ask | None = None,
    ) -> str:
        around = self._around
        return template.expand(
            given,
            value,
            external_labels=around.external_labels,
            external_url=around.external_url,
            now_s=now_ms / 1000,
            incomplete=incomplete,
            asking=asking,
        )

    def _samples(self, now_ms: int, *, same: bool) -> list[Ticks]:
        made, series, values = self._series
        if not same or made is None:
            alerts = self.verdict.alerts.items()
            active = [(key, alert) for key, alert in alerts if alert.state is not AlertState.RESOLVED]
            ids = np.empty(2 * len(active), np.uint32)
            states = [alert.state for _, alert in active]
            frames: dict[tuple[int, ...], LabelFrame] = {}
            for state in set(states):
                rows = [row for row, each in enumerate(states) if each is state]
                ids[rows] = self._series_of([active[row] for row in rows], state, frames)
            ids[len(active) :] = self._series_of(active, None, frames)
            series = ids
            values = np.array([1.0] * len(active) + [float(alert.active_ms // 1000) for _, alert in active])
            self._series = (self.verdict, series, values)
        return self._written.ticks(series, values, now_ms)

    def _series_of(
        self,
        alerts: Sequence[tuple[int, Alert]],
        state: AlertState | None,
        frames: dict[tuple[int, ...], LabelFrame],
    ) -> list[int]:
        """The series of alerts in ALERTS under a state, or in ALERTS_FOR_STATE; those that are new together. `frames`
        are the labels of such, as they are the same in both."""
        known = self._ids.setdefault(state, {})
        new = [(key, alert.labels) for key, alert in alerts if key not in known]
        if new:
            own = {ALERT_STATE: state.value} if state is not None else {}
            own[METRIC_NAME] = ALERTS if state is not None else ALERTS_FOR_STATE
            keys = tuple(key for key, _ in new)
            if keys not in frames:
                frames[keys] = _frame([labels for _, labels in new])
            frame = frames[keys]
            for name, text in own.items():
                frame = frame.with_column(name, STRINGS.code(text))
            ids = self._around.table.series_of_frame(frame).tolist()
            known.update(zip(keys, ids, strict=True))
        return [known[key] for key, _ in alerts]

    @property
    def series(self) -> int:
        """Alerts that are pending or firing."""
        return sum(alert.state is not AlertState.RESOLVED for alert in self.verdict.alerts.values())

    def end(self, now_ms: int) -> list[Ticks]:
        """End the series of alerts: the rule is gone."""
        return self._written.ticks(_NO_SERIES, np.zeros(0), now_ms)

    # State.

    def restore(self, alerts: "tuple[tuple[Alert, float], ...]") -> None:
        """Take over alerts of a former life."""
        held: dict[int, Alert] = {}
        values: dict[int, float] = {}
        for alert, value in alerts:
            number = self._numbered(alert.labels, dict(alert.given))
            held[number], values[number] = alert, value
        self.verdict = Verdict(held, values)

    def remember(self, now_ms: int) -> list[Ticks]:
        """The series of the alerts that were taken over: rules that read ALERTS see them at once."""
        return self._samples(now_ms, same=False)

    def inherit(self, former: "AlertingRun") -> None:
        """Go on where the same rule was before a reload, its series included."""
        self.restore(former.saved())
        self._written = former._written  # noqa: SLF001  # The same class.
        self.health = former.health

    def saved(self) -> tuple[tuple[Alert, float], ...]:
        """The alerts and their values, to be kept."""
        verdict = self.verdict
        return tuple((alert, verdict.values.get(key, float("nan"))) for key, alert in verdict.alerts.items())

    def value_of(self, alert: Alert) -> float:
        """The newest value that the expression gave for an alert; NaN if it is forgotten."""
        return self.verdict.values.get(self._numbers.get(alert.labels, -1), float("nan"))

    def annotations(
        self, alert: Alert, value: float, now_ms: int = 0, incomplete: str = ""
    ) -> dict[str, str]:
        """The annotations of an alert, filled in now; `incomplete` says what is missing of its data."""
        given = dict(alert.given)
        asking = (
            remembered(self._answers.get(self._numbers.get(alert.labels, -1), {})) if self._asks else None
        )
        return {
            name: self._expand(template, given, value, now_ms, incomplete, asking)
            for name, template in self.rule.annotations
        }

    def take_changes(self) -> tuple[Change, ...]:
        """What the latest evaluation changed; nothing when asked again."""
        changes = self.verdict.changes
        if changes:
            self.verdict = replace(self.verdict, changes=())
        return changes


RuleRun = AlertingRun | RecordingRun


def _frame(rows: Sequence[Labels]) -> LabelFrame:
    """The labels of alerts, a row each."""
    shapes: dict[tuple[str, ...], list[int]] = {}
    for row, labels in enumerate(rows):
        shapes.setdefault(tuple(name for name, _ in labels), []).append(row)
    names = tuple(sorted({name for shape in shapes for name in shape}))
    codes, code = np.zeros((len(rows), len(names)), np.int32), STRINGS.code
    for shape, which in shapes.items():
        texts = [[code(text) for _, text in rows[row]] for row in which]
        codes[np.ix_(which, [names.index(name) for name in shape])] = texts
    return LabelFrame(names, codes)


def run_of(rule: AlertingRule | RecordingRule, around: Surroundings) -> RuleRun:
    """The rule, ready to work."""
    return AlertingRun(rule, around) if isinstance(rule, AlertingRule) else RecordingRun(rule, around)


def evaluated(
    run: RuleRun,
    query_ms: int,
    now_ms: int,
    storage: Storage,
    limit: int,
    hold: Hold,
    monotonic: Callable[[], float],
) -> list[Ticks]:
    """Evaluate one rule and note how it went; an error changes nothing else."""
    began = monotonic()
    health = run.health
    health.evaluations += 1
    try:
        made = run.evaluate(query_ms, now_ms, storage, limit, hold)
        health.health, health.last_error = "ok", ""
    except PromqlError as error:
        health.health, health.last_error = "err", str(error)
        health.failures += 1
        made = []
    health.evaluated_ms, health.took_s = now_ms, monotonic() - began
    return made


__all__ = ["AlertingRun", "Health", "RecordingRun", "RuleRun", "Surroundings", "evaluated", "run_of"]
