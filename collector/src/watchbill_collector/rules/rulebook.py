"""The rules that are loaded, and their state: load and check files, evaluate what is due, answer what stands.

    book = Rulebook(around, head, write=..., on_change=..., state=FileAlertState(path), past=history,
    monotonic=...) problems = book.reload(sources)         # swaps as a whole, or refuses as a whole
    book.resume(now_ms)                     # once, at the start: alerts of the former life, windows from
    history book.evaluate_due(now_ms)               # by the rules' thread (`thread.py`) book.groups(),
    book.alerts()            # from any thread

Alerts are held (`alerts.Hold`) while nothing certain can be said of them; `certainty.py` decides when that is.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from watchbill.errors import Problem, StorageError
from watchbill_collector.head import UP_MATCHERS, Filled, Head, Past, Watch, refill
from watchbill_collector.labels import METRIC_NAME
from watchbill_collector.matching import Matcher
from watchbill_collector.rules.alerts import Alert, AlertState, Hold, nothing_held, resumed
from watchbill_collector.rules.certainty import SETTLE_MS, Certainty
from watchbill_collector.rules.changes import ActiveAlert, AlertChange
from watchbill_collector.rules.common import Shared, shared_nodes
from watchbill_collector.rules.files import Source, load
from watchbill_collector.rules.groups import GroupRun, RuleChange
from watchbill_collector.rules.head_storage import HeadStorage
from watchbill_collector.rules.model import INTERVAL_MS_DEFAULT, AlertingRule, RuleSet
from watchbill_collector.rules.needs import metric_names, watches
from watchbill_collector.rules.run import AlertingRun, RuleRun, Surroundings
from watchbill_collector.rules.state import AlertStateStore, MemoryAlertState, Saved, rule_key
from watchbill_collector.series import Ticks

T = TypeVar("T")

OUTAGE_MS_MAX = 3_600_000
"""After a longer time without evaluations pending alerts begin anew, as in Prometheus."""
SAVE_EVERY_MS_MIN = 1_000
"""State is not saved more often than this while alerts keep changing."""
SAVE_EVERY_MS_MAX = 60_000
"""State with alerts in it is saved this often though nothing changes, to say until when they were judged."""


@dataclass(slots=True)
class RuleStats:
    """Counters since the start, for the collector's own metrics."""

    evaluations: int = 0
    missed: int = 0
    last_duration_s: float = 0.0
    duration_s_sum: float = 0.0
    failures: int = 0
    changes: int = 0
    samples_written: int = 0
    saves: int = 0
    save_failures: int = 0
    reloads: int = 0
    reloads_refused: int = 0
    refill_failures: int = 0
    held: int = 0
    warming: int = 0


def _nobody(_: Sequence[AlertChange]) -> None:
    """Nobody listens."""


def _nowhere(_: list[Ticks]) -> None:
    """Nothing is kept."""


class Rulebook:
    """All loaded rules and their alerts."""

    def __init__(
        self,
        around: Surroundings,
        head: Head,
        *,
        write: Callable[[list[Ticks]], None] = _nowhere,
        on_change: Callable[[Sequence[AlertChange]], None] = _nobody,
        state: AlertStateStore | None = None,
        past: Past | None = None,
        also: Sequence[Watch] = (),
        monotonic: Callable[[], float],
    ) -> None:
        """`also` is what others read of the head, whatever rules are loaded."""
        self.stats = RuleStats()
        self.rules = RuleSet()
        self._around = replace(around, monotonic=monotonic)
        self._head = head
        self._storage = HeadStorage(head)
        self._write = write
        self._on_change = on_change
        self._state = state or MemoryAlertState()
        self._past = past
        self._also = tuple(also)
        self._newest_ms = 0
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._runs: tuple[GroupRun, ...] = ()
        self._shared: Shared = frozenset()
        self._certainty = Certainty(head)
        self._unsaved = False
        self._save_failing = False
        self._untold: list[RuleChange] = []
        self._saved_ms = 0
        self._former: Saved | None = None

    # Loading.

    def reload(
        self, sources: Sequence[Source], now_ms: int, interval_ms: int = INTERVAL_MS_DEFAULT
    ) -> list[Problem]:
        """Use these files instead of what is loaded. With any mistake nothing changes, and all are returned.

        `interval_ms` is how often groups without an interval of their own are judged. Rules that are the same
        keep their alerts. The series of rules that are gone end.
        """
        with self._lock:
            rules, problems = load(sources, self.rules, interval_ms)
            if problems:
                self.stats.reloads_refused += 1
                return problems
            former = {(run.group.name, rule.rule.identity): rule for run in self._runs for rule in run.runs}
            before = {run.group.key: run for run in self._runs}
            runs = []
            for group in rules.groups:
                run = GroupRun(group, self._around)
                if group.key in before:
                    run.evaluated_ms = before[group.key].evaluated_ms
                for each in run.runs:
                    old = former.pop((group.name, each.rule.identity), None)
                    if isinstance(each, AlertingRun) and isinstance(old, AlertingRun):
                        each.inherit(old)
                runs.append(run)
            self.rules, self._runs = rules, tuple(runs)
            self._shared = shared_nodes(rules)
            self._watch(now_ms)
            self._certainty.rules_loaded(rules.rules)
            for gone in former.values():
                self._put(gone.end(now_ms), now_ms)
            self.stats.reloads += 1
            self._unsaved = True
            return []

    def _watch(self, now_ms: int) -> None:
        """Tell the head what to keep, and fill it with what was before."""
        wanted = [watch for rule in self.rules.rules for watch in watches(rule.plan.expr)]
        for rule in self.rules.rules:
            wanted += rule.asked if isinstance(rule, AlertingRule) else ()
        wanted += [Watch(UP_MATCHERS, 0), *self._also]
        with self._head.lock:
            self._head.fold(now_ms)
            known = {watch.matchers: watch.window_ms for watch in self._head.watches}
            self._head.watch(wanted)
            if self._past is not None and any(
                known.get(watch.matchers, -1) < watch.window_ms for watch in wanted
            ):
                self._note(refill(self._head, self._past, now_ms), known, now_ms)

    def _note(self, filled: Filled, known: Mapping[tuple[Matcher, ...], int], now_ms: int) -> None:
        """Hold the rules whose windows could not be filled."""
        self._newest_ms = max(self._newest_ms, filled.newest_ms)
        if not filled.failed:
            return
        self.stats.refill_failures += 1
        for rule in self.rules.rules:
            lacking = [
                watch for watch in watches(rule.plan.expr) if known.get(watch.matchers, -1) < watch.window_ms
            ]
            if lacking:
                self._certainty.not_filled(rule, now_ms + max(watch.window_ms for watch in lacking))

    def resume(self, now_ms: int) -> None:
        """Take up the alerts of the former life; once, after the first `reload`."""
        with self._lock:
            saved = self._state.load()
            if saved is not None and saved.at_ms > now_ms:
                # The clock was set back: what is pending must not wait until it is as late again.
                saved = saved.moved(now_ms - saved.at_ms)
            self._former = saved
            if saved is None:
                return
            # The newest sample in history tells when the former life ended, to within an interval.
            ended_ms = max(saved.at_ms, min(self._newest_ms, now_ms))
            self._certainty.restarted(now_ms, ended_ms)
            down_ms = max(0, now_ms - ended_ms)
            for key, run in self._keyed():
                alerts = saved.alerts.get(key, ())
                if down_ms > OUTAGE_MS_MAX:
                    alerts = tuple(pair for pair in alerts if pair[0].state is not AlertState.PENDING)
                run.restore(tuple((resumed(alert, down_ms), value) for alert, value in alerts))
            self._remember(now_ms)

    def _remember(self, now_ms: int) -> None:
        """Show the alerts that were taken up in ALERTS, for the head alone, just before the next evaluation: a rule
        with a clear value asks there whether its alert fires already."""
        for run in self._runs:
            for rule in run.runs:
                if isinstance(rule, AlertingRun):
                    self._head.append(rule.remember(run.slot_ms(now_ms) - 1))
        self._head.fold(now_ms)

    # Evaluating.

    def evaluate_due(self, now_ms: int) -> int:
        """Evaluate every group whose moment has come; answers when the next one comes.

        Raises StorageError only from `write`; state that cannot be saved is counted and tried again.
        """
        with self._lock:
            due = [run for run in self._runs if run.due(now_ms)]
            changes: list[RuleChange] = []
            if due:
                began = self._monotonic()
                with self._head.lock:
                    self._head.fold(now_ms)
                    self._certainty.look(now_ms)
                    self._around.shared.begin(self._shared)
                    for run in due:
                        changes += run.evaluate(
                            now_ms,
                            self._storage,
                            self._holds(run.slot_ms(now_ms) - run.group.query_offset_ms),
                            lambda ticks: self._put(ticks, now_ms),
                            self._monotonic,
                        )
                    self._around.shared.end()
                    self._note_warming(due)
                self.stats.changes += len(changes)
                self._count(due, self._monotonic() - began)
                self._unsaved = self._unsaved or bool(changes)
                self._untold += changes
            if due or self._untold:
                self._save(now_ms)
            upcoming = min((run.next_ms(now_ms) for run in self._runs), default=now_ms + 1_000)
            told = self._durable()
            if self._untold:
                upcoming = min(upcoming, self._saved_ms + SAVE_EVERY_MS_MIN)
        self._tell(told)
        return upcoming

    def _durable(self) -> list[RuleChange]:
        """The changes that may be told now: those that a kill cannot take back, because they are saved. While
        nothing can be saved they are told all the same: a full disk must silence nobody.
        """
        if self._unsaved and not self._save_failing:
            return []
        told, self._untold = self._untold, []
        return told

    def _tell(self, changes: Sequence[RuleChange]) -> None:
        """Tell what changed, all of it at once. Outside the lock: who listens may ask."""
        if changes:
            fill = self._told
            self._on_change([AlertChange(change, fill) for change in changes])

    def _count(self, due: Sequence[GroupRun], took_s: float) -> None:
        stats = self.stats
        stats.evaluations += len(due)
        stats.last_duration_s = took_s
        stats.duration_s_sum += took_s
        stats.missed = sum(run.missed for run in self._runs)
        stats.failures = sum(rule.health.failures for run in self._runs for rule in run.runs)
        stats.held = sum(rule.health.held for run in self._runs for rule in run.runs)
        stats.warming = sum(rule.health.warming is not None for run in self._runs for rule in run.runs)

    def _note_warming(self, due: Sequence[GroupRun]) -> None:
        for run in due:
            for rule in run.runs:
                rule.health.warming = self._certainty.warming(rule.rule)

    def _put(self, ticks: list[Ticks], now_ms: int) -> None:
        """What a rule made: visible to the next rule at once, and durable with the next commit."""
        if not ticks:
            return
        self.stats.samples_written += sum(tick.values.size for tick in ticks)
        self._head.append(ticks)
        self._head.fold(now_ms)
        self._write(ticks)

    def _holds(self, judged_ms: int) -> Callable[[RuleRun], Hold]:
        def hold(run: RuleRun) -> Hold:
            return self._certainty.hold(run.rule, judged_ms) if isinstance(run, AlertingRun) else nothing_held

        return hold

    # State.

    def _keyed(self) -> list[tuple[str, AlertingRun]]:
        seen: dict[tuple[str, tuple[object, ...]], int] = {}
        keyed = []
        for run in self._runs:
            for rule in run.runs:
                if isinstance(rule, AlertingRun):
                    identity = rule.rule.identity
                    number = seen[run.group.name, identity] = seen.get((run.group.name, identity), -1) + 1
                    keyed.append((rule_key(run.group.name, identity, number), rule))
        return keyed

    def _save(self, now_ms: int, *, at_once: bool = False) -> None:
        age_ms = now_ms - self._saved_ms
        old = age_ms >= SAVE_EVERY_MS_MAX and any(rule.verdict.alerts for _, rule in self._keyed())
        lately = 0 <= age_ms < SAVE_EVERY_MS_MIN  # A clock that was set back must not stop the saving.
        if not (at_once or old or (self._unsaved and not lately)):
            return
        saved = Saved(now_ms, {key: rule.saved() for key, rule in self._keyed() if rule.verdict.alerts})
        try:
            self._state.save(saved)
        except StorageError:
            self.stats.save_failures += 1
            self._save_failing = True
            return
        self._save_failing = False
        self.stats.saves += 1
        self._unsaved, self._saved_ms = False, now_ms

    def close(self, now_ms: int) -> None:
        """Save what stands: the process ends."""
        with self._lock:
            self._unsaved = True
            self._save(now_ms, at_once=True)
            told = self._durable()
        self._tell(told)

    def keep(self, now_ms: int) -> bool:
        """Save now what is not saved yet, before anybody is told of it; whether everything is."""
        with self._lock:
            if self._unsaved:
                self._save(now_ms, at_once=True)
            saved, told = not self._unsaved, self._durable()
        self._tell(told)
        return saved

    # Answers.

    def between(self, look: Callable[[], T]) -> T:
        """What `look` answers between two evaluations: all rules as of one moment. Waits for one that runs."""
        with self._lock:
            return look()

    def shown(self, group: str, run: AlertingRun, alert: Alert) -> ActiveAlert:
        """One alert of a rule, annotations filled in."""
        return self._shown(group, run, alert, run.value_of(alert))

    def groups(self) -> tuple[GroupRun, ...]:
        """The groups in the order loaded, with their rules' health and alerts."""
        return self._runs

    def alerts(self, *, resolved: bool = False) -> list[ActiveAlert]:
        """What is pending and firing, and with `resolved` what has been of late."""
        return [
            self._shown(run.group.name, rule, alert, value)
            for run in self._runs
            for rule in run.runs
            if isinstance(rule, AlertingRun)
            for alert, value in rule.saved()
            if resolved or alert.state is not AlertState.RESOLVED
        ]

    def count_alerts(self) -> dict[AlertState, int]:
        """How many alerts there are in each state."""
        counts: dict[AlertState, int] = {}
        for run in self._runs:
            for rule in run.runs:
                if isinstance(rule, AlertingRun):
                    for alert in rule.verdict.alerts.values():
                        counts[alert.state] = counts.get(alert.state, 0) + 1
        return counts

    def alerts_of(self, group: str, run: AlertingRun) -> list[ActiveAlert]:
        """The pending and firing alerts of one rule."""
        return [
            self._shown(group, run, alert, value)
            for alert, value in run.saved()
            if alert.state is not AlertState.RESOLVED
        ]

    def metric_names(self) -> list[str]:
        """The metric names that are read here: what a beat has to carry while batches are late."""
        asking = [rule.asked for rule in self.rules.rules if isinstance(rule, AlertingRule)]
        asked = {
            matcher.value
            for watches_of in (*asking, self._also)
            for watch in watches_of
            for matcher in watch.matchers
            if matcher.name == METRIC_NAME
        }
        return sorted(asked.union(*(metric_names(rule.plan.expr) for rule in self.rules.rules)))

    def _told(self, change: RuleChange) -> ActiveAlert:
        return self._shown(change.group, change.run, change.change.alert, change.value)

    def _shown(self, group: str, run: AlertingRun, alert: Alert, value: float) -> ActiveAlert:
        remark = self._certainty.remark(run.rule, alert.labels)
        return ActiveAlert(
            run.rule.name,
            group,
            dict(alert.labels),
            run.annotations(alert, value, run.health.evaluated_ms, remark),
            alert.state,
            alert.active_ms,
            value,
            alert.fired_ms,
            alert.resolved_ms,
            remark,
        )


__all__ = ["SETTLE_MS", "ActiveAlert", "AlertChange", "RuleStats", "Rulebook"]
