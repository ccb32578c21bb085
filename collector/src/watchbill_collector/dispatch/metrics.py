"""How dispatch does, as metrics of the collector."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from watchbill.clock import Clock
from watchbill_collector.dispatch.dispatcher import Dispatcher
from watchbill_collector.dispatch.outbox import OUTCOMES
from watchbill_collector.dispatch.watchdog import WatchdogPing

_PREFIX = "watchbill_collector"


class DispatchMetrics:
    """Registered once."""

    def __init__(self, dispatcher: Dispatcher, watchdog: WatchdogPing | None, clock: Clock) -> None:
        self._dispatcher = dispatcher
        self._watchdog = watchdog
        self._clock = clock

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are given when they are collected."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """For a prometheus_client registry."""
        outbox, stats = self._dispatcher.outbox, self._dispatcher.stats
        notices = CounterMetricFamily(
            f"{_PREFIX}_notices", "Notices that ended, by how.", labels=("channel", "outcome")
        )
        # From zero on: the first notice that is lost has to be an increase.
        seen = {(one.name, outcome): 0 for one in self._dispatcher.health() for outcome in OUTCOMES}
        for (channel, outcome), count in sorted((seen | outbox.counters.outcomes).items()):
            notices.add_metric((channel, outcome), float(count))
        yield notices
        yield from self._channels()
        for name, about, value in (
            ("notice_attempts", "Attempts to send a notice.", outbox.counters.attempts),
            ("outbox_write_failures", "Writes of the outbox that failed.", outbox.counters.write_failures),
            ("outbox_unreadable", "Rows of the outbox that made no sense.", outbox.counters.unreadable),
            ("notice_threads_abandoned", "Threads given up with an end owed.", outbox.counters.abandoned),
            ("notice_groups_merged", "Alerts told together for want of threads.", stats.grouped_together),
            ("dispatch_plans", "Plans made.", stats.plans),
            ("dispatch_alerts_unsaved", "Attempts before alerts could be saved.", stats.kept_failed),
        ):
            yield CounterMetricFamily(f"{_PREFIX}_{name}", about, float(value))
        yield GaugeMetricFamily(
            f"{_PREFIX}_dispatch_plan_seconds", "How long the newest plan took.", stats.plan_s
        )
        yield GaugeMetricFamily(
            f"{_PREFIX}_notice_threads", "Threads of notices.", float(len(outbox.threads))
        )
        yield GaugeMetricFamily(
            f"{_PREFIX}_alerts_hushed",
            "Firing alerts that tell nobody anew.",
            float(len(self._dispatcher.hushed)),
        )
        if self._watchdog is not None:
            pings = CounterMetricFamily(
                f"{_PREFIX}_watchdog_pings", "Pings to the outside watchdog.", labels=("outcome",)
            )
            for outcome, count in sorted(self._watchdog.outcomes.items()):
                pings.add_metric((outcome,), float(count))
            yield pings

    def _channels(self) -> Iterable[Metric]:
        now_ms = self._clock.wall_ms()
        queued = GaugeMetricFamily(f"{_PREFIX}_notices_queued", "Notices that wait.", labels=("channel",))
        oldest = GaugeMetricFamily(
            f"{_PREFIX}_notices_oldest_seconds",
            "How long the oldest of them has waited.",
            labels=("channel",),
        )
        failing = GaugeMetricFamily(
            f"{_PREFIX}_channel_failing_seconds",
            "How long a channel has failed, 0 while it works.",
            labels=("channel",),
        )
        for one in self._dispatcher.health():
            queued.add_metric((one.name,), float(one.queued))
            oldest.add_metric(
                (one.name,), max(0.0, (now_ms - one.oldest_ms) / 1000) if one.oldest_ms else 0.0
            )
            since = one.failing_since_ms
            failing.add_metric((one.name,), max(0.0, (now_ms - since) / 1000) if since else 0.0)
        yield queued
        yield oldest
        yield failing
