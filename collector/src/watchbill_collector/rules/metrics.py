"""What rules and head say of themselves, for the collector's `/metrics`."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from watchbill_collector.head import Head
from watchbill_collector.rules.alerts import AlertState
from watchbill_collector.rules.rulebook import Rulebook

PREFIX = "watchbill_collector_"

_RULE_COUNTERS = {
    "evaluations": "Evaluations of rule groups.",
    "missed": "Moments at which a group should have been evaluated and was not.",
    "failures": "Evaluations of single rules that failed.",
    "changes": "Alerts that entered a state.",
    "samples_written": "Samples written by rules.",
    "saves": "Times the alerts' state was saved.",
    "save_failures": "Times the alerts' state could not be saved.",
    "reloads": "Reloads of rule files.",
    "reloads_refused": "Reloads refused because the files were wrong.",
    "refill_failures": "Times windows could not be filled from history.",
}
_HEAD_COUNTERS = {
    "ticks": "Ticks written into the windows of rules.",
    "refused_late": "Ticks older than what the windows have; history has them.",
    "refused_future": "Ticks from the future; history has them.",
    "dropped_staged": "Messages that were not folded in time; history has them.",
    "rewound": "Messages that replaced single ticks which beats had brought.",
    "deepened": "Rings moved to deeper ones because a sender is faster than was thought.",
    "windows_cut": "Times a ring could not be deepened because of the memory bound.",
    "expired_series": "Series that no window reaches any more.",
}


class RuleMetrics:
    """A collector for a prometheus_client registry."""

    def __init__(self, book: Rulebook, head: Head) -> None:
        self._book = book
        self._head = head

    def collect(self) -> Iterable[Metric]:
        """All metrics as they are now."""
        stats = self._book.stats
        for name, text in _RULE_COUNTERS.items():
            yield CounterMetricFamily(f"{PREFIX}rules_{name}", text, float(getattr(stats, name)))
        seconds = "Time spent evaluating rule groups."
        yield CounterMetricFamily(f"{PREFIX}rules_evaluation_seconds", seconds, stats.duration_s_sum)
        last = "How long the latest evaluation of all groups that were due took."
        yield GaugeMetricFamily(f"{PREFIX}rules_last_evaluation_seconds", last, stats.last_duration_s)
        warming = "Rules whose windows are not covered yet for every host that they read."
        yield GaugeMetricFamily(f"{PREFIX}rules_warming", warming, stats.warming)
        held = "Alerts that could not be judged at the latest evaluation: too little is known, or nothing of now."
        yield GaugeMetricFamily(f"{PREFIX}alerts_held", held, stats.held)
        yield self._alerts()
        for name, text in _HEAD_COUNTERS.items():
            yield CounterMetricFamily(f"{PREFIX}head_{name}", text, float(getattr(self._head.stats, name)))
        yield GaugeMetricFamily(
            f"{PREFIX}head_bytes", "Memory of the windows of rules.", self._head.bytes_used
        )
        yield GaugeMetricFamily(f"{PREFIX}head_series", "Series in them.", self._head.series_kept)
        waiting = "Messages that wait to be written into them."
        yield GaugeMetricFamily(f"{PREFIX}head_staged_bytes", waiting, self._head.staged_bytes)

    def _alerts(self) -> Metric:
        family = GaugeMetricFamily(f"{PREFIX}alerts", "Alerts by their state.", labels=("state",))
        counts = self._book.count_alerts()
        for state in (AlertState.PENDING, AlertState.FIRING):
            family.add_metric((state.value,), float(counts.get(state, 0)))
        return family
