"""A rule tried on what has been: when it would have been pending and firing, how often, for how long.

The expression is evaluated over the collector's own history, a stretch of time after the other so that memory is
bounded, on the grid on which it would have been judged. Labels are made as the rule makes them; `for` and
`keep_firing_for` are counted as rules count them (`episodes.py`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from watchbill_collector.labels import METRIC_NAME
from watchbill_collector.promql.budget import Budget
from watchbill_collector.promql.engine import LOOKBACK_MS, Engine, Matrix
from watchbill_collector.promql.errors import PromqlError, TooMany
from watchbill_collector.promql.storage import Storage
from watchbill_collector.rules.alerts import Labels
from watchbill_collector.rules.model import AlertingRule, Group, RecordingRule, RuleSet
from watchbill_collector.rules.needs import metric_names
from watchbill_collector.rules.run import ALERT_NAME
from watchbill_collector.rulestest.bounds import TooCostly
from watchbill_collector.rulestest.episodes import Episodes, Firing, Stretch, episodes
from watchbill_collector.rulestest.replay import Replay, reads_itself

STEPS_MAX = 100_000
"""Moments at which one rule may be judged: 17 days every 15 s."""
STEPS_WANTED = 11_000
"""Without a step, a longer time is judged more coarsely than every interval of the group."""
CHUNK_STEPS = 480
"""Steps evaluated at once."""
SERIES_MAX = 20_000
"""Alerts that one rule may give over all the time."""
SHOWN_MAX = 200
"""Alerts of one rule that are told, those with the most firings first."""
FIRINGS_SHOWN_MAX = 100
"""Firings of one alert that are told, the newest."""
SHORT_MS = 300_000
"""A firing that is over sooner than this was gone before anybody could look."""
FLAP_MS = 600_000
"""An alert that fires again sooner than this after its end flaps."""
KEEP_TRIED_MS = (300_000, 900_000, 3_600_000)
"""Values of keep_firing_for that are tried on what flaps."""


@dataclass(frozen=True, slots=True)
class TriedSeries:
    """One alert over the time. `longest_ms` and `firing_ms` count what still fires up to the end."""

    labels: Mapping[str, str]
    pending_ms: int
    firing_ms: int
    longest_ms: int
    notices: int
    flaps: int
    firings: tuple[Firing, ...]


@dataclass(frozen=True, slots=True)
class Tried:
    """One rule over the time.

    `notices` counts how often an alert would have fired; `short` those over within five minutes, `flaps` those that
    came back within ten. `alerts` is how many label sets were ever given, `series` the most telling of them. `kept`
    says how many notices other values of keep_firing_for (ms) would have left. `error` is set where it could not be
    evaluated.
    """

    rule: str
    group: str
    expr: str
    for_ms: int
    keep_firing_for_ms: int
    step_ms: int
    alerts: int = 0
    notices: int = 0
    firing_ms: int = 0
    longest_ms: int = 0
    short: int = 0
    flaps: int = 0
    still_firing: int = 0
    kept: Mapping[int, int] = field(default_factory=dict)
    series: tuple[TriedSeries, ...] = ()
    notes: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class Backtest:
    """The alerting rules of some files, tried from `start_ms` to `end_ms`."""

    start_ms: int
    end_ms: int
    rules: tuple[Tried, ...]


def backtest(
    rules: RuleSet,
    engine: Engine,
    storage: Storage,
    start_ms: int,
    end_ms: int,
    budget: Budget,
    step_ms: int | None = None,
) -> Backtest:
    """Try every alerting rule; raises TooCostly, TimedOut and Cancelled. One budget is for all of them."""
    tried: list[Tried] = []
    for group in rules.groups:
        recorded = {rule.name for rule in group.rules if isinstance(rule, RecordingRule)}
        for rule in group.rules:
            if isinstance(rule, AlertingRule):
                trial = _Trial(group, rule, start_ms, end_ms, step_ms)
                tried.append(
                    trial.run(engine, storage, budget, sorted(recorded & metric_names(rule.plan.expr)))
                )
    return Backtest(start_ms, end_ms, tuple(tried))


class _Trial:
    """One rule being tried."""

    def __init__(
        self, group: Group, rule: AlertingRule, start_ms: int, end_ms: int, step_ms: int | None
    ) -> None:
        self._group = group
        self._rule = rule
        self._start_ms = start_ms
        self._step_ms = step_ms or _step_ms(end_ms - start_ms, group.interval_ms)
        self._end_ms = end_ms - end_ms % self._step_ms
        # What began before is judged from its beginning, so that an alert that fired already is known to.
        before_ms = start_ms - rule.for_ms - rule.keep_firing_for_ms
        self._first_ms = before_ms - before_ms % self._step_ms
        self._stretches: dict[Labels, list[Stretch]] = {}
        steps = (self._end_ms - self._first_ms) // self._step_ms + 1
        if steps > STEPS_MAX:
            raise TooCostly(
                f"{rule.name} would be judged {steps:,} times, at most {STEPS_MAX:,}: a shorter time, or a longer step"
            )

    def run(self, engine: Engine, storage: Storage, budget: Budget, recorded: list[str]) -> Tried:
        """Evaluate, and judge."""
        notes: dict[str, None] = {}
        if self._step_ms != self._group.interval_ms:
            shown = (
                f"judged every {self._step_ms // 1000} s, the group every {self._group.interval_ms // 1000} s"
            )
            notes[shown] = None
        for name in recorded:
            notes[f"{name} is read as it was recorded: nothing is there for the time before its rule"] = None
        try:
            if reads_itself(self._rule):
                self._replay(Replay(self._group, self._rule, engine, storage, budget))
            else:
                self._evaluate(engine, storage, budget, notes)
        except TooMany as error:
            return self._told([], tuple(notes), f"{error}: a shorter time, or a longer step")
        except PromqlError as error:
            if error.kind in ("timeout", "canceled"):
                raise
            return self._told([], tuple(notes), str(error))
        found = [
            (labels, stretches, self._episodes(stretches, self._rule.keep_firing_for_ms))
            for labels, stretches in self._stretches.items()
        ]
        return self._told(found, tuple(notes), "")

    def _evaluate(self, engine: Engine, storage: Storage, budget: Budget, notes: dict[str, None]) -> None:
        for first_ms, last_ms in self._chunks():
            query = self._group.query_offset_ms
            result = engine.range(
                self._rule.plan, first_ms - query, last_ms - query, self._step_ms, storage, budget
            )
            for note in (*result.warnings, *result.infos):
                notes[note] = None
            assert isinstance(result.data, Matrix)
            self._take(result.data, query)

    def _replay(self, replay: Replay) -> None:
        for stretch in self._chunks():
            for now_ms, given in replay.steps(stretch, self._step_ms):
                for labels in given:
                    self._add(labels, [(now_ms, now_ms)])

    def _chunks(self) -> Iterator[Stretch]:
        width_ms = (CHUNK_STEPS - 1) * self._step_ms
        for first_ms in range(self._first_ms, self._end_ms + 1, CHUNK_STEPS * self._step_ms):
            yield first_ms, min(first_ms + width_ms, self._end_ms)

    # From samples to stretches.

    def _take(self, matrix: Matrix, offset_ms: int) -> None:
        templates = [template for _, template in self._rule.labels]
        by_value = any("alue" in template.text for template in templates if not template.constant)
        for row, given in enumerate(matrix.labels.dicts()):
            lo, hi = int(matrix.offsets[row]), int(matrix.offsets[row + 1])
            times, values = matrix.times_ms[lo:hi] + offset_ms, matrix.values[lo:hi]
            if by_value:
                for time, value in zip(times.tolist(), values.tolist(), strict=True):
                    self._add(self._labels(given, value), [(time, time)])
                continue
            breaks = np.flatnonzero(np.diff(times) > self._step_ms)
            firsts = times[np.concatenate(([0], breaks + 1))].tolist()
            lasts = times[np.concatenate((breaks, [len(times) - 1]))].tolist()
            self._add(self._labels(given, 0.0), list(zip(firsts, lasts, strict=True)))

    def _add(self, labels: Labels, stretches: list[Stretch]) -> None:
        known = self._stretches.get(labels)
        if known is None:
            if len(self._stretches) >= SERIES_MAX:
                raise TooMany(f"more than {SERIES_MAX:,} alerts")
            self._stretches[labels] = stretches
            return
        for first_ms, last_ms in stretches:
            if first_ms <= known[-1][1] + self._step_ms:
                known[-1] = known[-1][0], max(last_ms, known[-1][1])
            else:
                known.append((first_ms, last_ms))

    def _labels(self, given: Mapping[str, str], value: float) -> Labels:
        labels = {name: text for name, text in given.items() if name != METRIC_NAME}
        for name, template in self._rule.labels:
            labels[name] = template.expand(given, value, external_labels={}, external_url="", now_s=0.0)
        labels[ALERT_NAME] = self._rule.name
        return tuple(sorted((name, text) for name, text in labels.items() if text))

    # From stretches to an answer.

    def _episodes(self, stretches: list[Stretch], keep_ms: int) -> Episodes:
        made = episodes(stretches, self._rule.for_ms, keep_ms, self._step_ms, self._end_ms)
        return Episodes(
            made.pending_ms,
            tuple(each for each in made.firings if (each.to_ms or self._end_ms) > self._start_ms),
        )

    def _told(
        self, found: list[tuple[Labels, list[Stretch], Episodes]], notes: tuple[str, ...], error: str
    ) -> Tried:
        series = [self._series(labels, made) for labels, _, made in found]
        series.sort(
            key=lambda each: (-each.notices, -each.firing_ms, -each.pending_ms, tuple(each.labels.items()))
        )
        firings = [firing for _, _, made in found for firing in made.firings]
        flaps = sum(each.flaps for each in series)
        kept: dict[int, int] = {}
        if flaps:
            for keep_ms in KEEP_TRIED_MS:
                if keep_ms > self._rule.keep_firing_for_ms:
                    kept[keep_ms] = sum(
                        len(self._episodes(stretches, keep_ms).firings) for _, stretches, _ in found
                    )
        return Tried(
            self._rule.name,
            self._group.name,
            self._rule.expr,
            self._rule.for_ms,
            self._rule.keep_firing_for_ms,
            self._step_ms,
            len(series),
            len(firings),
            sum(each.firing_ms for each in series),
            max((each.longest_ms for each in series), default=0),
            sum(each.to_ms is not None and each.to_ms - each.from_ms < SHORT_MS for each in firings),
            flaps,
            sum(each.to_ms is None for each in firings),
            kept,
            tuple(series[:SHOWN_MAX]),
            notes,
            error,
        )

    def _series(self, labels: Labels, made: Episodes) -> TriedSeries:
        lengths = [(each.to_ms or self._end_ms) - max(each.from_ms, self._start_ms) for each in made.firings]
        flaps = sum(
            after.from_ms - before.to_ms < FLAP_MS
            for before, after in zip(made.firings, made.firings[1:], strict=False)
            if before.to_ms is not None
        )
        return TriedSeries(
            dict(labels),
            made.pending_ms,
            sum(lengths),
            max(lengths, default=0),
            len(made.firings),
            flaps,
            made.firings[-FIRINGS_SHOWN_MAX:],
        )


def _step_ms(span_ms: int, interval_ms: int) -> int:
    """The group's interval, or so many of them that a long time is judged in a bearable number of steps: but none so
    wide that samples between two of them are seen by neither."""
    times = min(-(-span_ms // (interval_ms * STEPS_WANTED)), LOOKBACK_MS // interval_ms)
    return interval_ms * max(1, times)
